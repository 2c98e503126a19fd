"""The report: one file, everything in it, nothing from elsewhere."""

import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from lib.core.errors import AugmentError
from lib.core.keys import canonical
from lib.evaluation.evaluate import evaluate
from lib.evaluation.report import report_page, write_report
from lib.evaluation.results import Evaluation, read_result, shown, write_json


@pytest.fixture
def result(tmp_path):
    for name in ("sources", "outputs"):
        (tmp_path / name).mkdir()
    for i in range(12):
        pixels = np.random.default_rng(i).integers(60, 180, (6, 8, 3), np.uint8).repeat(8, 0).repeat(8, 1)
        Image.fromarray(pixels).save(tmp_path / "sources" / f"{i}<b>.png")
        pixels[16:32, 16:40] += np.uint8(i)
        Image.fromarray(pixels).save(tmp_path / "outputs" / f"{i}<b>.png")
    metrics = ["fid", "kid", "overlap", "whole"]
    return evaluate(tmp_path / "sources", tmp_path / "outputs", metrics=metrics)


class Tags(HTMLParser):
    def __init__(self):
        super().__init__()
        self.open, self.started, self.links = [], [], []

    def handle_starttag(self, tag, attrs):
        self.started.append(tag)
        self.links += [value for name, value in attrs if name in ("src", "href") and value]
        if tag not in ("meta", "img", "br", "th", "tr", "td", "html", "body", "rect"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        if self.open and self.open[-1] == tag:
            self.open.pop()


def page(path):
    tags = Tags()
    tags.feed(path.read_text())
    return path.read_text(), tags


def test_a_report_is_whole_and_needs_nothing_from_elsewhere(result, tmp_path):
    write_report({"mine": result}, tmp_path / "report.html")
    text, tags = page(tmp_path / "report.html")
    assert tags.open == [] and all(link.startswith("data:image/jpeg;base64,") for link in tags.links)
    assert "http" not in re.sub(r"base64,[^']+", "", text) and "<script" not in text
    assert (
        tags.started.count("img") == 2 * 8 * 3 + 12
    )  # four worst and four best, with their sources, of three numbers; the sheet


def test_every_number_stands_there_with_what_it_says_and_its_floor(result, tmp_path):
    write_report({"mine": result}, tmp_path / "report.html")
    text, _ = page(tmp_path / "report.html")
    for name in result.about:
        assert f"<td class=n>{name}</td>" in text
    assert (
        "real against real" in text
        and shown(result.known["kid"][0], result.numbers["kid"]) in text
        and "biased: few pictures" in text
    )


def test_names_of_files_are_text_and_no_tags(result, tmp_path):
    write_report({"mine <i>": result}, tmp_path / "report.html")
    text, _ = page(tmp_path / "report.html")
    assert "0&lt;b&gt;.png" in text and "<b>" not in text and "mine &lt;i&gt;" in text


def test_a_target_stands_there_with_what_is_missing_and_a_run_without_one_has_the_page_as_before(result):
    one = {"wanted": 9, "accepted": 4, "refused": 2, "seconds_per_box": None, "why": "budget of 3 pictures spent"}
    target = {"ended": "spent", "rounds": 2, "seconds": 7.2, "pictures": {"painted": 3, "accepted": 2}}
    text = report_page({"mine": result}, targets={"mine": {**target, "boxes": {"<pallet>": one}}}).decode()
    assert "mine: target" in text and "&lt;pallet&gt;" in text and "budget of 3 pictures spent" in text
    assert report_page({"mine": result}, targets={}) == report_page({"mine": result})
    assert "mine: target" not in report_page({"mine": result}).decode()


def test_two_runs_stand_side_by_side(result, tmp_path):
    write_json(result.document(), tmp_path / "old.json")
    write_report({"old": read_result(tmp_path / "old.json"), "new": result}, tmp_path / "report.html")
    text, _ = page(tmp_path / "report.html")
    assert "<th>old</th><th>new</th>" in text and text.count("<h3>old: worst</h3>") == 3


@pytest.mark.parametrize("text", ["", "[]", '{"fid": 3}'])
def test_what_is_not_a_result_is_refused_by_name(tmp_path, text):
    (tmp_path / "odd.json").write_text(text)
    with pytest.raises(AugmentError, match=r"odd\.json is not a result of `augment evaluate --json`"):
        read_result(tmp_path / "odd.json")
    with pytest.raises(AugmentError, match="is not a result"):
        read_result(tmp_path / "not there.json")


@pytest.fixture
def judged(tmp_path):
    """Boxes of a judge, tables of a detector, groups of variants."""
    rng = np.random.default_rng(0)
    for i in range(30):
        Image.fromarray(rng.integers(60, 180, (48, 64, 3), np.uint8)).save(tmp_path / f"{i}.png")
    names = {"n_generated": 4, "hits_generated": 3, "n_real": 0, "hits_real": 0}
    scores = {"ap": 0.25, "ap50": 0.5, "ap75": 0.0, "ar": None}
    found = {**scores, "ar_1": None, "ar_10": None, "by_category": {"<cup>": {**scores, "boxes": 1}}}
    found |= {f"{name}_{size}": 0.125 for name in ("ap", "ar") for size in ("small", "medium", "large")}
    found |= dict.fromkeys(("pictures", "boxes", "ignored", "detections"), 1)
    regions = {"by_category": {"<cup>": names}, "by_size": {"small": names}, "notes": [], "skipped": {}}
    regions |= dict.fromkeys(("fidelity", "interval", "real", "generated", "shuffled"))
    regions |= dict.fromkeys(("n_real", "n_generated", "pictures_real", "pictures_generated", "resamples"), 0)
    regions |= {"judge": "eyes", "context": 0.15, "min_side": 8.0, "seed": 0}
    boxes = [
        {"picture": str(tmp_path / f"{i}.png"), "box": [8, 8, 30, 40], "label": "<cup>", "said": "jug", "share": i / 30}
        for i in range(30)
    ]
    return {
        "about": {"fidelity": "Good. Bad.", "diversity": "Good. Bad."},
        "fidelity": 0.5,
        "diversity": 0.2,
        "n_real": 30,
        "n_generated": 30,
        "regions": regions,
        "layout": {"detector": "eyes", "not_known": [], "generated": found, "real": found},
        "pictures": [],
        "boxes": boxes,
        "groups": {"count": 2, "sources": [{"source": "a", "pictures": 3, "diversity": d} for d in (0.1, 0.3)]},
        "failed": [{"picture": "a.png", "reason": "seam: no box"}, {"picture": "b.png", "reason": "seam: no box"}],
        "left_out": {"captions": "none has one"},
        "unreadable": {"count": 0, "pictures": []},
    }


def write(document, path):
    write_report({"mine": Evaluation.parse(document)}, path)


def test_tables_tell_of_categories_and_sizes_and_of_what_there_is_not(judged, tmp_path):
    write(judged, tmp_path / "report.html")
    text, tags = page(tmp_path / "report.html")
    assert tags.open == [] and "<td>&lt;cup&gt;</td><td>0.750 of 4</td><td>no boxes</td>" in text
    assert "<td>small</td><td>0.125</td>" in text and "<td>0.250</td><td>0.500</td><td>–</td>" in text


def test_the_least_and_the_most_recognisable_boxes_are_shown_once(judged, tmp_path):
    write(judged, tmp_path / "report.html")
    text, _ = page(tmp_path / "report.html")
    worst, best = text.split("mine: worst boxes")[1].split("mine: best boxes")
    assert worst.count("seen as jug") == 12 and "seen as jug: 0.000; 0.png" in worst
    assert best.count("seen as jug") == 12 and best.index("29.png") < best.index("18.png")


def test_a_sheet_shows_generated_pictures_and_notes_count_reasons(judged, tmp_path):
    write(judged, tmp_path / "report.html")
    text, _ = page(tmp_path / "report.html")
    assert "mine: 15 of 30 generated pictures" in text
    assert "2 × seam: no box, the first: a.png" in text and "captions left out: none has one" in text


def test_numbers_of_groups_are_spread_out_and_equal_ones_are_no_plot(judged, tmp_path):
    for row in judged["groups"]["sources"]:
        row["diversity"] = 0.2
    write(judged, tmp_path / "report.html")
    assert "<h2>diversity</h2><p>0.2 for all 2</p>" in (tmp_path / "report.html").read_text()


def test_a_box_is_cut_in_the_frame_that_it_was_drawn_in(judged, tmp_path, monkeypatch):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.zeros((20, 200, 3), np.uint8)).save(tmp_path / "long.jpg", exif=exif)
    judged["boxes"] = [{**judged["boxes"][0], "picture": str(tmp_path / "long.jpg"), "box": [170, 2, 190, 18]}]
    for size, cut in (((200, 20), True), ((0, 0), False)):  # in the other frame it lies outside: a row with a reason
        judged["boxes"][0]["size"] = list(size)
        write(judged, tmp_path / "report.html")
        text = (tmp_path / "report.html").read_text()
        assert ("another picture now, without this box" not in text) == cut


def test_a_number_that_is_null_is_left_out(judged, tmp_path):
    judged["groups"]["sources"].append({"source": "c", "pictures": 2, "diversity": None})
    write(judged, tmp_path / "report.html")
    assert (
        "0.2 for all" not in (tmp_path / "report.html").read_text()
        and "<h2>diversity</h2><svg" in page(tmp_path / "report.html")[0]
    )


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"diversity": "<b>"}, "numbers.diversity"),
        ({"n_real": "30"}, "n_real"),
        ({"surprise": 1}, "surprise"),
        ({"numbers": {"kid": 1.0}}, "numbers"),
        ({"about": {"beauty": "Good. Bad."}, "beauty": 1.0}, "explains beauty"),
        ({"about": {"kid": "Good. Bad."}}, "explains kid"),
        ({"regions": {}}, "fidelity"),
        ({"boxes": [{"picture": "a.png"}]}, r"boxes\.0"),
        (
            {"groups": {"count": 1, "sources": [{"source": "a", "pictures": 2, "x": "y"}]}},
            r"groups\.sources\.0",
        ),
    ],
)
def test_a_result_with_a_strange_field_is_refused_by_its_place(judged, tmp_path, change, what):
    write_json(judged | change, tmp_path / "odd.json")
    with pytest.raises(AugmentError, match=rf"odd\.json is not a result of `augment evaluate --json`: .*{what}"):
        read_result(tmp_path / "odd.json")


def test_a_result_is_read_back_as_it_was(judged, result, tmp_path):
    for one in (Evaluation.parse(judged), result):
        write_json(one.document(), tmp_path / "one.json")
        assert read_result(tmp_path / "one.json").document() == one.document()
    assert Evaluation.parse(json.loads(canonical(result.document()))) == result  # its keys in another order


def test_equal_results_give_equal_bytes(judged, tmp_path):
    write(judged, tmp_path / "one.html")
    write(json.loads(canonical(judged)), tmp_path / "two.html")
    assert (tmp_path / "one.html").read_bytes() == (tmp_path / "two.html").read_bytes()


def test_a_name_that_is_no_unicode_is_written_escaped(judged, tmp_path):
    judged["failed"][0]["picture"] = "a\udcff.png"
    write(judged, tmp_path / "report.html")
    assert "a\\udcff.png" in (tmp_path / "report.html").read_text()
