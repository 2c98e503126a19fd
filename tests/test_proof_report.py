"""The result of a proof and its report: everything in it, warnings first, no value dropped, nothing from elsewhere."""

import re
from html.parser import HTMLParser

import numpy as np
import pytest

from lib.core.errors import AugmentError
from lib.evaluation.detectors import Detections
from lib.evaluation.metrics.layout import Truth
from lib.proof.plots import GREEN, GREY, curve_of, differences, ticks_of
from lib.proof.protocol import Opened, Protocol
from lib.proof.report import level_of, proof_page, report_markdown, tables_of, write_proof
from lib.proof.results import ArmAccount, Training, proven, read_proof, table_of, training_of

NAMES = ("crazing", "in<clusion")
LEVELS = {"A": 20.0, "B": 20.1, "C": 21.0, "D": 19.0, "F": 24.0, "T": 26.5, "X": 12.0, "Y": 30.0}
TITLES = {
    "A": "real pictures",
    "B": "real pictures, repeated",
    "C": "real pictures, repeat-factor sampling",
    "D": "with copy-paste",
    "F": "with synthetic pictures, screened",
    "T": "with synthetic pictures, targeted and screened, F's number",
    "X": "with shifted labels: must harm",
    "Y": "with further real pictures in place of synthetic ones: must help",
}


def protocol(**changes):
    values = {
        "detector": "compact",
        "detector_version": 1,
        "detector_settings": {"size": 320},
        "arms": tuple(LEVELS),
        "ratios": (1.0,),
        "seeds": tuple(range(8)),
        "steps": 400,
        "batch": 8,
        "rate": 0.002,
        "augmentation": {"mirror": True},
        "contrasts": ("T > B, C, D", "F > A", "F > D", "T > F", "A > X", "Y > A"),
        "pools": {"real": "a" * 64, "test": "b" * 64},
        "names": NAMES,
        "software": "0.4.0",
    }
    return Protocol.model_validate(values | changes)


def scene(rng, quality):
    """Truth and detections of 12 pictures, every fourth without an object."""
    truth, found = [], []
    for i in range(12):
        n = 0 if i % 4 == 3 else 3
        corners = rng.uniform(0, 200, (n, 2))
        boxes = np.hstack([corners, corners + rng.uniform(20, 80, (n, 2))])
        labels = rng.integers(0, 2, n)
        truth.append(Truth(boxes, labels, np.zeros(n, bool)))
        seen = rng.random(n) < quality
        made = np.vstack([boxes[seen] + rng.normal(0, 4, (int(seen.sum()), 4)), [[300, 300, 330, 330]]])
        found.append(Detections(made, rng.random(len(made)), np.append(labels[seen], 0)))
    return truth, found


def trainings(levels=LEVELS, seeds=8):
    rows = []
    for arm, level in levels.items():
        ratio = 0.0 if arm in "AC" else 1.0
        for seed in range(seeds):
            rng = np.random.default_rng([seed, ord(arm)])
            steps = range(20, 420, 20)
            history = [{"step": float(step), "loss": 8 / step**0.5 + rng.random() * 0.1} for step in steps]
            one = training_of(
                arm, ratio, seed, *scene(rng, level / 35), NAMES, history=history, gains=seed == 0, seconds=300.0 + seed
            )
            value = level + np.random.default_rng(seed).normal(0, 1.5) + rng.normal(0, 0.6)
            rows.append(one.model_copy(update={"value": float(value)}))
    return rows


def accounts(arms=LEVELS):
    made = {"F": {"category_not_seen": 14, "blurred": 5}, "T": {"category_not_seen": 9}}
    return [
        ArmAccount(
            arm=arm,
            ratio=0.0 if arm in "AC" else 1.0,
            title=TITLES[arm],
            real=60,
            synthetic=0 if arm in "ABC" else 60 - sum(made.get(arm, {}).values()),
            refused=made.get(arm, {}),
            painting=1800.0 if arm in "FT" else 0.0,
        )
        for arm in arms
    ]


def proof_of(rows, some=None, **more):
    some = some or protocol()
    note = Opened(digest=some.digest, at="2026-05-01T12:00:00Z", protocol=some)
    pictures = {"real": 60, "test": 300, "extra": 120}
    values = {"pictures": pictures, "left_out": {"near a test picture": 7}, "notes": [], **more}
    return proven("steel", some, note, rows, values.pop("arms", accounts()), **values)


@pytest.fixture(scope="module")
def rows():
    return trainings()


@pytest.fixture(scope="module")
def proof(rows):
    return proof_of(rows)


class Tags(HTMLParser):
    def __init__(self):
        super().__init__()
        self.open, self.links = [], []

    def handle_starttag(self, tag, attrs):
        self.links += [value for name, value in attrs if name in ("src", "href") and value]
        if tag not in ("meta", "br", "th", "tr", "td", "html", "body", "li", "p"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        if self.open and self.open[-1] == tag:
            self.open.pop()


def test_a_page_opens_with_the_headline_and_needs_nothing_from_elsewhere(proof):
    text, tags = proof_page(proof).decode(), Tags()
    tags.feed(text)
    assert tags.open == [] and tags.links == [] and "<script" not in text and "http" not in text
    body = text[text.index("<h1>") :]
    assert proof.headline in body and body.index(proof.headline) < body.index("<svg")
    assert level_of(proof) == "green" and "class='verdict green'" in body
    assert "in&lt;clusion" in body and "in<clusion" not in body
    assert proof.digest in body and "2026-05-01T12:00:00Z" in body


def test_equal_results_give_equal_bytes(rows, proof):
    assert proof_page(proof_of(rows)) == proof_page(proof)


def test_a_proof_comes_back_from_its_file(proof, tmp_path):
    write_proof(tmp_path, proof)
    assert read_proof(tmp_path / "proof.json") == proof
    assert (tmp_path / "report.html").read_bytes() == proof_page(proof)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"title": 3}'])
def test_a_file_that_is_no_proof_is_refused_by_name(tmp_path, text):
    (tmp_path / "proof.json").write_text(text)
    with pytest.raises(AugmentError, match=r"proof\.json"):
        read_proof(tmp_path / "proof.json")


def test_every_seed_of_every_arm_stands_in_the_raw_values(proof):
    raw = next(table for table in tables_of(proof) if table.title.startswith("Raw"))
    assert [len(row) for row in raw.rows] == [9] * 8 and raw.rows[0][1] == f"{proof.trainings[0].value:.2f}"


def test_dots_and_intervals_of_every_contrast_are_drawn(proof):
    text = proof_page(proof).decode()
    assert text.count("<circle") == 6 * 8 + 8 * 8 and text.count("95 % interval ") >= 6
    assert text.count("<polyline") == 8


def test_a_failed_check_is_red_and_first(rows):
    same = {one.seed: one.value for one in rows if one.arm == "A"}
    harmless = [one.model_copy(update={"value": same[one.seed]}) if one.arm == "X" else one for one in rows]
    proof = proof_of(harmless)
    assert level_of(proof) == "red" and proof.headline.startswith(
        "The protocol's own check failed (X not found harmful"
    )
    assert proof.warnings[0].endswith("so the protocol's check failed")
    text = proof_page(proof).decode()
    assert text.index("<ul class=warnings>") < text.index("<svg")


def test_a_diverged_and_a_missing_training_are_named_everywhere(rows):
    lost = [one for one in rows if (one.arm, one.seed) != ("D", 2)]
    lost = [
        Training(arm="F", ratio=1.0, seed=3, diverged=True, why="loss is nan at step 30")
        if (one.arm, one.seed) == ("F", 3)
        else one
        for one in lost
    ]
    proof = proof_of(lost)
    assert "F, seed 3, diverged and is left out: loss is nan at step 30" in proof.warnings
    assert "63 of 64 trainings are finished: run it again to go on" in proof.warnings
    raw = next(table for table in tables_of(proof) if table.title.startswith("Raw"))
    cells = {row[0]: row for row in raw.rows}
    assert cells["F"][4] == "diverged" and cells["D"][3] == "not finished"
    found = next(one for one in proof.comparisons if one.contrast == "F > D")
    assert [(one.arm, one.why) for one in found.missing] == [("F", "diverged"), ("D", "not finished")]
    assert np.isnan(table_of(lost).query("arm == 'F' and seed == 3").value.item())
    account = next(table for table in tables_of(proof) if table.title.startswith("What each arm"))
    assert next(row for row in account.rows if row[0] == "F")[:3] == ["F", "14 category_not_seen, 5 blurred", "3"]


def test_few_seeds_few_pictures_and_a_weak_detector_are_warnings():
    few = trainings({"A": 2.0, "F": 2.5}, seeds=2)
    some = protocol(arms=("A", "F"), contrasts=("F > A",), seeds=(0, 1))
    low = [one.model_copy(update={"value": 2.0 + one.seed}) for one in few]
    proof = proof_of(low, some, arms=accounts("AF"), pictures={"test": 40}, notes=["the painter is new"])
    text = " ".join(proof.warnings)
    assert "2 seeds cannot show anything, however clear it is: at least 5 are needed" in text
    assert "40 test pictures are few" in text and "hardly learns (2.5 AP" in text
    assert proof.warnings[-1] == "the painter is new" and level_of(proof) == "yellow"


def test_a_proof_without_contrasts_or_trainings_is_a_page_too():
    some = protocol(contrasts=())
    page = proof_page(proof_of([], some)).decode()
    assert "0 of 64 trainings are finished" in page and "no finished training" in page


def test_a_result_under_another_protocol_is_refused(rows):
    note = Opened(digest="c" * 64, at="2026-05-01T12:00:00Z", protocol=protocol(steps=1))
    with pytest.raises(AugmentError, match="opened under the protocol"):
        proven("steel", protocol(), note, rows, accounts(), pictures={})


def test_the_document_has_the_tables_of_the_page(proof):
    text = report_markdown(proof)
    assert text.startswith(f"## steel\n\n**{proof.headline}**")
    for table in tables_of(proof):
        assert f"### {table.title}" in text
    for block in re.findall(r"(?:^\|.*\|\n)+", text, re.MULTILINE):
        assert len({line.count("|") for line in block.splitlines()}) == 1


def test_a_category_differs_by_the_seeds_that_both_have(proof):
    table = next(table for table in tables_of(proof) if table.title == "AP by category")
    base = [one.by_category["crazing"] for one in proof.trainings if one.arm == "A"]
    other = [one.by_category["crazing"] for one in proof.trainings if one.arm == "Y"]
    row = dict(zip(table.heads, table.rows[0], strict=True))
    assert row["A"] == f"{np.mean(base):.1f}"
    assert row["Y"] == f"{np.mean(np.subtract(other, base)):+.1f}".replace("-", "−")


def test_gains_per_hour_count_painting_and_one_training(proof):
    cost = next(table for table in tables_of(proof) if table.title == "Cost")
    row = next(row for row in cost.rows if row[0] == "F")
    gain = proof.gain(next(one for one in proof.arms if one.arm == "F"))
    assert row[1:] == ["303.5", "1800", f"{gain / (2103.5 / 3600):+.1f}"]


def test_curves_are_means_over_seeds_in_few_points():
    assert curve_of([[(1, 2.0), (2, 4.0)], [(1, 4.0), (2, 6.0)]]) == [(1, 3.0), (2, 5.0)] and curve_of([]) == []
    assert len(curve_of([[(float(step), 1.0) for step in range(1000)]])) == 60


@pytest.mark.parametrize(("low", "high"), [(0, 0), (-3.2, 17), (0, 0.004), (19.9, 20.1), (-100, 100)])
def test_ticks_are_round_and_hold_the_values(low, high):
    ticks = ticks_of(low, high)
    assert ticks[0] <= low and ticks[-1] >= high and 2 <= len(ticks) <= 11
    assert np.allclose(np.diff(ticks), ticks[1] - ticks[0])


def test_arms_are_named_with_their_ratio_where_there_are_several(rows):
    some = protocol(ratios=(1.0, 2.0))
    proof = proof_of(rows, some)
    table = next(table for table in tables_of(proof) if table.title.startswith("AP by arm"))
    assert [row[0] for row in table.rows[:4]] == ["A", "B@1", "C", "D@1"]


def test_claims_have_no_colour_of_success_where_a_check_failed(rows):
    same = {one.seed: one.value for one in rows if one.arm == "A"}
    harmless = [one.model_copy(update={"value": same[one.seed]}) if one.arm == "X" else one for one in rows]
    claims, checks = differences(proof_of(harmless))
    assert {dot.colour for dot in claims.dots} == {GREY} and GREEN in {dot.colour for dot in checks.dots}
    assert GREEN in {dot.colour for dot in differences(proof_of(rows))[0].dots}
