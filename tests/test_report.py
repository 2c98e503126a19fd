"""The report: one file, everything in it, nothing from elsewhere."""

import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from lib.errors import AugmentError
from lib.evaluate import evaluate, write_json
from lib.report import read_result, write_report


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
        self.open, self.seen, self.links = [], [], []

    def handle_starttag(self, tag, attrs):
        self.seen.append(tag)
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
    assert tags.seen.count("img") == 2 * 8 * 2  # four worst and four best, with their sources, of two numbers


def test_every_number_stands_there_with_what_it_says_and_its_floor(result, tmp_path):
    write_report({"mine": result}, tmp_path / "report.html")
    text, _ = page(tmp_path / "report.html")
    for name in result["about"]:
        assert f"<td>{name}</td>" in text
    assert "real against real" in text and f"{result['kid']:.4g}" in text and "biased: few pictures" in text


def test_names_of_files_are_text_and_no_tags(result, tmp_path):
    write_report({"mine <i>": result}, tmp_path / "report.html")
    text, _ = page(tmp_path / "report.html")
    assert "0&lt;b&gt;.png" in text and "<b>" not in text and "mine &lt;i&gt;" in text


def test_two_runs_stand_side_by_side(result, tmp_path):
    write_json(result, tmp_path / "old.json")
    write_report({"old": read_result(tmp_path / "old.json"), "new": result}, tmp_path / "report.html")
    text, _ = page(tmp_path / "report.html")
    assert "<th>old</th><th>new</th>" in text and text.count("<h3>old: worst</h3>") == 2


@pytest.mark.parametrize("text", ["", "[]", '{"fid": 3}'])
def test_what_is_no_result_is_refused_by_name(tmp_path, text):
    (tmp_path / "odd.json").write_text(text)
    with pytest.raises(AugmentError, match=r"odd\.json is no result of `augment evaluate --json`"):
        read_result(tmp_path / "odd.json")
    with pytest.raises(AugmentError, match="no result"):
        read_result(tmp_path / "not there.json")
