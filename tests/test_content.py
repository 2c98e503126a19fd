"""The judge of content, the verdict and its rules, and the boxes that a report counts."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lib.evaluation.boxes import BoxFigures, box_figures
from lib.evaluation.evaluate import evaluate
from lib.evaluation.metrics import Noted
from lib.evaluation.metrics.crops import LENGTH, SIDE, Discriminant, auc, describe
from lib.evaluation.metrics.fidelity import Hits
from lib.evaluation.metrics.own_boxes import Accepted, ContentDetails, JudgedBox, judge_content
from lib.evaluation.metrics.regions import RegionDetails
from lib.evaluation.metrics.sets import Floor, Spread
from lib.evaluation.plots import plots_of
from lib.evaluation.report import report_page
from lib.evaluation.results import Evaluation, FeatureSets, shown, summary
from lib.evaluation.sides import Side, read_side
from lib.evaluation.verdict import Verdict, doubt_of, too_few_pictures, verdict_of
from lib.records.store import Store
from tasks.artifacts import verdict_markdown

DEMO = Path(__file__).parents[1] / "data" / "demo"

# --- descriptions and classifiers ----------------------------------------------------------------------------------


def crop(seed):
    return np.random.default_rng(seed).integers(0, 255, (SIDE, SIDE, 3), np.uint8)


def test_a_description_has_its_length_is_finite_and_the_same_each_time():
    rows = describe(crop(0))
    assert rows.shape == (LENGTH,) and np.isfinite(rows).all() and np.array_equal(rows, describe(crop(0)))
    assert np.isfinite(describe(np.zeros((SIDE, SIDE, 3), np.uint8))).all()


def test_a_blurred_crop_has_less_energy_in_its_finest_octave():
    blurred = np.asarray(Image.fromarray(crop(0)).resize((8, 8)).resize((SIDE, SIDE)))
    assert describe(blurred)[-5] < describe(crop(0))[-5]


def test_what_is_far_apart_is_told_apart_and_what_is_outside_the_axes_is_far():
    random = np.random.default_rng(0)
    labels = np.arange(60) % 3
    rows = random.normal(size=(60, 30)) + 8 * np.eye(30)[labels]
    model = Discriminant.fit(rows, labels, 3)
    squares, outside = model.distances(rows)
    assert (squares.argmin(axis=1) == labels).all() and outside.mean() == pytest.approx(1)
    assert model.distances(rows + 100 * random.normal(size=30))[1].min() > 10


def test_the_area_under_the_curve_counts_ties_as_half():
    positive = np.array([True, True, False, False])
    assert auc(np.array([3.0, 2, 1, 0]), positive) == 1
    assert auc(np.array([0.0, 1, 2, 3]), positive) == 0
    assert auc(np.ones(4), positive) == 0.5


# --- the judge -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def demo():
    return read_side(DEMO, "originals")


def exchanged(side):
    """Each box with the name of another category."""
    names = dict(zip(side.names, [*side.names[1:], side.names[0]], strict=True))
    entries = [
        replace(entry, labels=replace(entry.labels, categories=tuple(names[name] for name in entry.labels.categories)))
        for entry in side.entries
    ]
    return replace(side, entries=tuple(entries), file=Path("exchanged"))


def filled(side, folder):
    """Copies with noise in each box."""
    entries = []
    for number, entry in enumerate(side.entries):
        pixels = np.array(Image.open(entry.path).convert("RGB"))
        for x0, y0, x1, y1 in entry.labels.boxes.round().astype(int).tolist():
            part = pixels[y0:y1, x0:x1]
            part[:] = np.random.default_rng(number).integers(0, 255, part.shape, np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
        entries.append(replace(entry, path=folder / f"{number}.png"))
    return replace(side, entries=tuple(entries), file=Path("filled"))


def halves(side):
    odd, even = (replace(side, entries=side.entries[i::2], file=Path(f"half {i}")) for i in (1, 0))
    return odd, even


def of_content(real, generated, **more):
    return evaluate(real, generated, metrics=["content"], **more)


def test_real_boxes_against_real_ones_are_never_red(demo):
    result = of_content(*halves(demo))
    assert result.verdict.level in ("green", "yellow") and result.numbers["content_ratio"] > 0.8
    assert 0.25 < result.numbers["content_auc"] < 0.7


def test_exchanged_labels_are_red_and_the_verdict_names_the_labels(demo):
    result = of_content(demo, exchanged(demo))
    assert result.verdict.level == "red" and result.numbers["content_ratio"] < 0.2
    assert "look at the labels" in result.verdict.sentence


def test_noise_in_the_boxes_is_red_though_everything_around_is_real(demo, tmp_path):
    result = of_content(demo, filled(demo, tmp_path))
    assert result.verdict.level == "red" and result.numbers["content_auc"] > 0.95
    assert result.numbers["content_sharpness"] > 2
    boxes = result.details["content"].boxes
    assert all(box.source == "" or Path(box.source).is_file() for box in boxes)
    assert np.mean([box.said == "" for box in boxes]) > 0.5  # far from all categories
    assert "refused, unlike any real box" in report_page({"mine": result}).decode()


def test_a_judge_learns_from_more_real_pictures_than_are_compared(demo):
    few, rest = (replace(demo, entries=some) for some in (demo.entries[:3], demo.entries[3:]))
    made = replace(few, file=Path("made"))
    assert of_content(few, made).verdict.level == "unknown"
    known = of_content(few, made, more=rest)
    assert known.details["content"].n_real == len([box for e in demo.entries for box in e.labels.boxes])
    assert known.n_real == 3 and known.labels.categories["boxes"].before > known.labels.categories["boxes"].new


def test_the_same_boxes_get_the_same_judgement_from_the_store(demo, tmp_path):
    cache = Store(tmp_path)
    first = of_content(*halves(demo), cache=cache).document()
    assert of_content(*halves(demo), cache=cache).document() == first


def test_boxes_of_a_rare_category_are_counted_and_not_judged(demo):
    rare = [
        replace(entry, labels=replace(entry.labels, categories=tuple("rare" for _ in entry.labels.categories)))
        for entry in demo.entries[:1]
    ]
    side = replace(demo, entries=(*rare, *demo.entries[1:]))
    details = of_content(side, replace(side, file=Path("made"))).details["content"]
    assert "rare" not in details.names and details.skipped["generated"]["too_few_real_boxes"] >= 1


def test_without_a_box_there_is_no_judgement_and_no_error():
    details = judge_content(Noted([], Counter()), Noted([], Counter()), 0)
    assert details.ratio is None and details.boxes == [] and details.n_painted == 0


# --- the rules -----------------------------------------------------------------------------------------------------


def judged(n=40, **values):
    """A judgement without a fault, but for the values."""
    typical = values.pop("typical", 0.5)
    box = {"picture": "p.png", "source": "", "size": [10, 10], "box": [0.0, 0, 9, 9], "label": "a", "said": "a"}
    boxes = [JudgedBox(**box, typical=typical, accepted=True) for _ in range(n)]
    usual = {"names": ["a", "b"], "n_real": 60, "n_painted": n, "skipped": {}, "boxes": boxes}
    usual |= {"real": 0.9, "expected": 0.9, "painted": 0.88, "shuffled": 0.4, "real_shuffled": 0.4}
    usual |= {"ratio": 0.97, "interval": [0.9, 1.05], "auc": 0.5, "auc_interval": [0.4, 0.6]}
    usual |= {"sharpness": 1.0, "sharpness_interval": [0.9, 1.1]}
    usual["by_category"] = {"a": Accepted(real=60, real_accepted=54, painted=n, painted_accepted=n)}
    return ContentDetails(**usual | values)


def recognised(fidelity, low, high, **values):
    shares = {"generated": 0.5, "real": 0.9, "shuffled": 0.3, "fidelity": fidelity, "interval": [low, high]}
    counts = {"n_real": 60, "n_generated": 40, "pictures_real": 20, "pictures_generated": 20}
    rest = {"by_category": {}, "by_size": {}, "resamples": 1000, "notes": [], "skipped": {}}
    usual = counts | shares | rest | {"judge": "j", "context": 0.1, "min_side": 8.0, "seed": 0}
    return RegionDetails(**usual | values)


def with_kid(extractor, at_m, mean=0.0, std=1.0):
    floor = Floor(
        m=20, halvings=10, fid=Spread(mean=0.0, std=1.0), kid=Spread(mean=mean, std=std), fid_at_m=0.0, kid_at_m=at_m
    )
    return FeatureSets(
        extractor=extractor, floor=floor, biased=False, features=extractor, resize="", dimensions=4, seed=0
    )


def result_of(content=None, regions=None, features=None, **more):
    details = {name: one for name, one in (("content", content), ("regions", regions)) if one is not None}
    numbers = {"kid": 1.0} if features else {}
    return Evaluation(numbers=numbers, about={}, details=details, n_real=60, n_generated=40, features=features, **more)


def test_new_objects_stand_where_nobody_judged_and_the_verdict_says_so():
    figures = {"categories": {}, "sizes": {}, "places": {}}
    some, none = (result_of(judged(), labels=BoxFigures(**figures, added=n)) for n in (7, 0))
    assert verdict_of(some).level == "green"
    assert verdict_of(some).reasons[1] == "nobody judged where its 7 new objects stand: look for some that float"
    assert len(verdict_of(none).reasons) == 1


@pytest.mark.parametrize(
    ("content", "level", "said"),
    [
        (judged(), "green", "of 40 painted boxes 88 % look like what their labels say"),
        (judged(ratio=0.3, interval=[0.2, 0.5], painted=0.3), "red", "of 40 painted boxes 30 %"),
        (judged(ratio=0.3, interval=[0.2, 0.5], painted=0.2), "red", "look at the labels"),
        (judged(typical=0.01), "red", "look like any real box of their kind"),
        (judged(ratio=0.7, interval=[0.5, 0.95]), "unknown", "too few boxes to decide"),
        (judged(real=0.5), "unknown", "hardly apart"),
        (judged(n=9), "unknown", "too few painted boxes, 9"),
        (judged(n=0), "unknown", "no painted box"),
        (judged(n_real=19), "unknown", "too few real boxes to learn from, 19"),
        (judged(ratio=0.8, interval=[0.7, 0.9]), "yellow", "look like what their labels say"),
        (judged(auc=0.9, auc_interval=[0.8, 1.0]), "yellow", "a look of their own"),
        (judged(auc=0.75, auc_interval=[0.5, 0.9]), "green", "look like what their labels say"),
        (judged(sharpness=0.3, sharpness_interval=[0.2, 0.4]), "yellow", "blurred: 0.30"),
        (judged(sharpness=2.0, sharpness_interval=[1.5, 2.5]), "yellow", "noisy or hard-edged"),
        (judged(sharpness=0.7, sharpness_interval=[0.5, 1.0]), "green", "look like what their labels say"),
        (None, "unknown", "no judge looked into the painted boxes"),
    ],
)
def test_each_rule_of_the_judge_made_of_real_boxes_gives_its_level(content, level, said):
    verdict = verdict_of(result_of(content))
    assert verdict.level == level and said in verdict.sentence


@pytest.mark.parametrize(
    ("regions", "level"),
    [
        (recognised(0.9, 0.8, 1.0), "green"),
        (recognised(0.6, 0.5, 0.65), "yellow"),
        (recognised(0.6, 0.3, 0.9), "unknown"),
        (recognised(0.1, 0.0, 0.3), "red"),
    ],
)
def test_a_judge_that_was_given_takes_the_place_of_accepted_boxes(regions, level):
    assert verdict_of(result_of(judged(ratio=0.1, interval=[0.0, 0.2]), regions)).level == level


KINDS = {name: Hits(n_generated=20, hits_generated=18, n_real=30, hits_real=27) for name in "ab"}


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"n_real": 19}, "too few real boxes for the judge that was given, 19 in 20 pictures"),
        ({"n_real": 2, "pictures_real": 1}, "2 in 1 pictures, where a verdict takes 20 in 5"),
        ({"pictures_real": 4}, "60 in 4 pictures"),
        ({"by_category": KINDS, "real_shuffled": 0.75}, "tells categories of real boxes hardly apart (90 % right)"),
    ],
)
def test_a_judge_that_was_given_needs_real_boxes_that_show_what_it_knows(values, said):
    for fidelity in (0.95, 0.1):
        verdict = verdict_of(result_of(judged(), recognised(fidelity, fidelity - 0.05, fidelity + 0.05, **values)))
        assert verdict.level == "unknown" and said in verdict.sentence


def test_a_judge_that_knows_real_boxes_decides_and_one_category_has_nothing_to_exchange():
    for values in ({"by_category": KINDS, "real_shuffled": 0.5}, {"real_shuffled": 0.9}, {"by_category": KINDS}):
        assert verdict_of(result_of(judged(), recognised(0.9, 0.8, 1.0, **values))).level == "green"


def test_pictures_as_a_whole_count_where_the_features_see_more_than_colours():
    far = {name: verdict_of(result_of(judged(), features=with_kid(name, 9.0))) for name in ("mini", "pixels")}
    assert far["mini"].level == "yellow" and "as a whole" in far["mini"].sentence
    assert far["pixels"].level == "green"
    assert verdict_of(result_of(judged(), features=with_kid("mini", -2.2))).level == "green"


def test_pixels_within_the_floor_give_no_verdict_and_never_more_than_unknown():
    verdict = verdict_of(result_of(features=with_kid("pixels", 0.0), left_out={"content": "none has boxes"}))
    assert verdict.level == "unknown" and "none has boxes" in verdict.sentence
    assert "4×4 colours" in doubt_of(result_of(features=with_kid("pixels", 0.0)), "kid")
    assert doubt_of(result_of(judged(n=3)), "content_ratio") == ""  # it has no such number


def test_the_worst_level_decides_and_all_reasons_are_there():
    verdict = verdict_of(result_of(judged(typical=0.01, auc=0.9, auc_interval=[0.8, 1.0])))
    assert verdict.level == "red" and len(verdict.reasons) == 3 and verdict.reasons[0] in verdict.sentence


def test_two_pictures_are_needed_on_each_side():
    assert too_few_pictures(5, 1).level == "unknown" and "5 real and 1 new" in too_few_pictures(5, 1).sentence


# --- where it stands -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def result(demo):
    return of_content(demo, exchanged(demo))


def test_a_result_is_read_back_with_its_verdict_judged_anew(result):
    document = json.loads(json.dumps(result.document()))
    assert document["verdict"]["level"] == "red"
    kept = Evaluation.parse(document | {"verdict": {"level": "green"}})
    assert kept.verdict == result.verdict and kept.labels == result.labels
    older = {name: value for name, value in document.items() if name not in ("verdict", "labels")}
    assert Evaluation.parse(older).verdict.level == "red"


def test_the_summary_and_the_artifact_begin_with_the_verdict(result):
    assert summary(result).splitlines()[0] == f"RED. {result.verdict.sentence}"
    lines = verdict_markdown(result.verdict).splitlines()
    assert lines[0] == f"**RED. {result.verdict.sentence}**" and "| category | before | new" in "\n".join(lines)
    assert sum(line.startswith("| boxes |") for line in lines) == 1


def test_the_page_opens_with_the_verdict_and_shows_counts_plots_and_strips(result):
    page = report_page({"mine": result}).decode()
    assert page.index("RED.") < page.index("<table>") and result.verdict.sentence in page
    assert page.count("class=plot") == 3 and "mine: worst" in page and "mine: best" in page
    assert "refused, more like" in page and "<script" not in page
    assert "overflow-wrap:anywhere" not in page  # names are not broken


def test_a_number_that_cannot_be_trusted_is_grey_and_says_why(demo, tmp_path):
    few = replace(demo, entries=demo.entries[:6])
    page = report_page(
        {"mine": evaluate(few, replace(few, file=Path("x")), metrics=["fid", "kid", "content"])}
    ).decode()
    assert "not to be trusted: made of 4×4 colours" in page and '<td class="n doubt">' in page
    assert "6 new, 6 real pictures" in page


def test_a_kid_below_zero_is_shown_as_zero():
    from lib.evaluation.metrics import numbers_of

    known = {name: number for name, (_, number) in numbers_of().items()}
    assert shown(known["kid"], -2.2) == "≈ 0 (−2.2)" and shown(known["kid"], 2.2) == "2.2"
    assert shown(known["content_ratio"], 0.5) == "0.5"


def test_boxes_are_counted_by_category_size_and_place(demo):
    figures = box_figures([demo], replace(demo, file=Path("made")))
    boxes = sum(len(entry.labels.boxes) for entry in demo.entries)
    assert sum(count.before for count in figures.categories.values()) == boxes
    assert sum(figures.sizes["real"]) == boxes == sum(map(sum, figures.places["painted"]))
    assert box_figures([demo], Side(())) is None
    for plot in plots_of(figures):
        inside = [(m.x >= 0 and m.x + m.width <= plot.width and 0 <= m.y <= plot.height) for m in plot.marks]
        assert inside and all(inside)


def test_the_docs_state_every_limit_of_the_rules():
    from lib.evaluation import verdict

    page = (Path(__file__).parents[1] / "docs" / "evaluation.md").read_text()
    rules = page.partition("# The verdict")[2].partition("\n# ")[0]
    limits = (verdict.BAD, verdict.GOOD, verdict.APART, verdict.SURELY_APART, verdict.BLURRED, verdict.KNOWN)
    for limit in (*limits, verdict.BAD_FIDELITY, verdict.GOOD_FIDELITY):
        assert f"{limit:g}".lstrip("0") in rules, limit
    for limit in (verdict.LEAST_PAINTED, verdict.LEAST_REAL, verdict.NOISY):
        assert f"{limit:g}" in rules, limit
    assert all(f"| {level} |" in rules for level in ("red", "unknown", "yellow", "green"))
    assert Verdict.model_fields
