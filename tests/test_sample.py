"""Of large sets a random sample is measured, always the same, of sources with all that was made from them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flows import augment_dataset, cli
from lib.evaluation.evaluate import evaluate
from lib.evaluation.report import report_page
from lib.evaluation.results import Evaluation, summary
from lib.evaluation.sample import sampled
from lib.evaluation.sides import Entry, Side, read_side
from lib.runs.tidy import tidy


def sides(count: int, variants: int = 1, unrelated: int = 0) -> tuple[Side, Side]:
    real = Side([Entry(Path(f"{i}.png"), f"{i}.png", id=str(i)) for i in range(count)])
    names = [(f"{i}_{v}.png", (str(i), f"{i}.png")) for v in range(variants) for i in range(count)]
    made = [Entry(Path(name), name, source=source) for name, source in names]
    return real, Side([*made, *(Entry(Path(f"x{i}.png"), f"x{i}.png") for i in range(unrelated))])


def names_of(side: Side) -> list[str]:
    return [entry.name for entry in side.entries]


def test_sets_that_are_small_enough_are_measured_whole():
    real, made = sides(10)
    assert sampled(real, made, 10) == (real, made)


@pytest.mark.parametrize("variants", [1, 3])
def test_a_picture_comes_with_all_that_was_made_from_it(variants: int):
    real, made = sampled(*sides(100, variants), most=30)
    assert len(real.entries) == len(made.entries) == 30
    sources = [entry.source[1] for entry in made.entries if entry.source]
    assert set(sources) <= set(names_of(real)) and {sources.count(name) for name in sources} == {variants}


def test_of_few_generated_pictures_all_are_measured_and_all_their_sources():
    real, made = sides(200)
    few = replace(made, entries=made.entries[:10])
    some, all_of_them = sampled(real, few, 40)
    assert names_of(all_of_them) == names_of(few) and len(some.entries) == 40
    assert set(names_of(some)) > {f"{i}.png" for i in range(10)}


def test_the_order_stays_and_one_more_picture_moves_hardly_any():
    before, after = (sampled(*sides(count, unrelated=50), most=60) for count in (300, 301))
    for one, more in zip(before, after, strict=True):
        numbers = [int(name.strip("x").split(".")[0].split("_")[0]) for name in names_of(one) if name[0] != "x"]
        assert numbers == sorted(numbers)
        assert len(set(names_of(one)) & set(names_of(more))) >= 58


def test_both_ends_of_the_set_are_in_it():
    (real, _) = sampled(*sides(1000), most=100)
    numbers = np.array([int(name.split(".")[0]) for name in names_of(real)])
    assert 300 < numbers.mean() < 700


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "real").mkdir()
    for i in range(12):
        pixels = np.random.default_rng(i).integers(0, 255, (60, 90, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "real" / f"{i}.png")
    return tmp_path / "real"


def test_the_result_says_that_it_is_a_sample_and_of_how_many(folder: Path):
    images = [{"id": i, "file_name": f"{i}.png", "width": 90, "height": 60} for i in range(12)]
    boxes = [{"id": i, "image_id": i, "category_id": 1, "bbox": [9, 6, 8, 8]} for i in range(12)]
    document = {"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "box"}]}
    (folder / "boxes.json").write_text(json.dumps(document))
    labelled = read_side(folder, annotations=folder / "boxes.json")
    result = evaluate(labelled, folder, metrics=["fid", "background"], limit=5)
    assert (result.n_real, result.n_generated, result.sampled_from) == (5, 5, {"real": 12, "generated": 12})
    assert result.pairs is not None and result.pairs.count == 5  # each beside its source
    said = "a random sample: 5 of 12 real, 5 of 12 generated"
    assert said in summary(result) and said.encode() in report_page({"mine": result})
    assert Evaluation.parse(json.loads(json.dumps(result.document()))).sampled_from == result.sampled_from
    pairs = evaluate(labelled, folder, metrics=["background"], limit=5)
    assert said in summary(pairs)


def test_a_whole_set_is_measured_as_without_a_limit(folder: Path):
    whole = evaluate(folder, folder, metrics=["fid"], limit=12)
    assert whole.document() == evaluate(folder, folder, metrics=["fid"]).document() and whole.sampled_from is None


def test_the_command_takes_a_limit(folder: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path):
    asked = ["evaluate", str(folder), str(folder), "--extractor", "pixels", "--metrics", "fid"]
    assert cli.main([*asked, "--cache", str(tmp_path / "cache"), "--limit", "4"]) == 0
    assert "4 of 12 real" in capsys.readouterr().out
    assert cli.main([*asked, "--limit", "1"]) == 1
    assert "--limit 1: expected a number from 2" in capsys.readouterr().err


def test_a_run_measures_a_sample_once_and_tidy_keeps_what_it_read(made_set, tmp_path: Path):
    given = {"dataset": made_set.dataset, "workspace": tmp_path / "ws", "evaluate": {"limit": 3}}
    augment_dataset(**given)
    numbers = json.loads((tmp_path / "ws" / "report" / "metrics.json").read_text())
    assert numbers["n_real"] == numbers["n_generated"] == 3 and numbers["sampled_from"]["real"] > 3
    removed = {group.name: group.removed for group in tidy(tmp_path / "ws", dry_run=True)}
    assert not any(removed.values())
