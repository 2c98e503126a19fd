"""Layout fidelity: its arithmetic in closed form, which boxes are judged on which side, how the others are counted."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tiny import tiny_clip

from flows import cli
from lib.core.checkpoints import resolve
from lib.core.errors import AugmentError
from lib.evaluation.evaluate import evaluate
from lib.evaluation.fidelity import fidelity, summary
from lib.evaluation.metrics.fidelity import Judged, compare, interval_of, shuffled
from lib.evaluation.results import write_json
from lib.judges.clip import RegionScorer, RegionSettings
from lib.records.settings import Choice

COLOURS = {"red": (220, 20, 20), "green": (20, 200, 20), "blue": (20, 20, 220)}
NAMES = list(COLOURS)


class Eyes:
    """A judge that knows: the category whose colour the middle of a crop has."""

    size, identity = 32, "eyes"

    def __init__(self) -> None:
        self.batches: list[int] = []

    def score(self, crops: Any, names: Any) -> np.ndarray:
        self.batches.append(len(crops))
        middles = np.stack([crop[12:20, 12:20].mean((0, 1)) for crop in crops])
        return -np.abs(middles[:, None] - [COLOURS[name] for name in names]).sum(2).astype(np.float64)


class Made:
    """A final set: pictures of coloured boxes, 200 × 100 pixels, at most four boxes in a row."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "images").mkdir(parents=True)
        categories = [{"id": i + 1, "name": name} for i, name in enumerate(NAMES)]
        self.coco: dict[str, Any] = {"categories": categories, "images": [], "annotations": []}

    def real(self, *labels: str, shown: tuple[str, ...] = (), side: float = 30) -> dict[str, Any]:
        """An original; shown: the colours in its boxes, none: those of the labels. Returns its record."""
        return self._picture(labels, shown or labels, side, {}, lambda i: {"segmentation": [], "iscrowd": 0})

    def synthetic(self, source: dict[str, Any], *shown: str, painted: tuple[int, ...] = (0, 1, 2, 3)) -> dict[str, Any]:
        """A picture with the labels of its source; shown: colours in its boxes; painted: which of them are new."""
        notes = [note for note in self.coco["annotations"] if note["image_id"] == source["id"]]
        labels = [NAMES[note["category_id"] - 1] for note in notes]
        source_fields = {"source_image_id": source["id"], "source_file_name": source["file_name"]}

        def fields(i: int) -> dict[str, Any]:
            kept = {name: notes[i][name] for name in ("segmentation", "iscrowd")}
            return kept | {"source_annotation_id": notes[i]["id"]} | ({"painted": True} if i in painted else {})

        return self._picture(tuple(labels), shown or tuple(labels), notes[0]["bbox"][2], source_fields, fields)

    def _picture(
        self,
        labels: tuple[str, ...],
        shown: tuple[str, ...],
        side: float,
        source_fields: dict[str, Any],
        fields: Callable[[int], dict[str, Any]],
    ) -> dict[str, Any]:
        number = len(self.coco["images"]) + 1
        pixels = np.full((100, 200, 3), 128, np.uint8)
        for i, (label, colour) in enumerate(zip(labels, shown, strict=True)):
            x, y = 5 + 48 * i, 20
            pixels[y : y + int(side), x : x + int(side)] = COLOURS[colour]
            box = {"bbox": [x, y, side, side], "area": side * side, "category_id": NAMES.index(label) + 1}
            note = {"id": 10 * number + i, "image_id": number, **box, **fields(i)}
            self.coco["annotations"].append(note)
        record = {"id": number, "file_name": f"{number}.png", "width": 200, "height": 100, **source_fields}
        Image.fromarray(pixels).save(self.folder / "images" / record["file_name"])
        self.coco["images"].append(record)
        return record

    def write(self) -> Path:
        (self.folder / "annotations.json").write_text(json.dumps(self.coco))
        return self.folder


@pytest.fixture
def made(tmp_path: Path) -> Made:
    return Made(tmp_path / "final")


def judged(rows: list[tuple[int, int, int]], area: float = 500) -> Judged:
    """From (picture, label, predicted)."""
    columns = np.array(rows, np.int64).reshape(-1, 3).T
    return Judged(columns[0], columns[1], columns[2], np.full(len(rows), area))


def random_side(seed: int, pictures: int, right: float) -> Judged:
    """Four boxes a picture of three categories, a share of them recognised."""
    rng = np.random.default_rng(seed)
    label = rng.integers(3, size=4 * pictures)
    predicted = np.where(rng.random(4 * pictures) < right, label, rng.integers(3, size=4 * pictures))
    return Judged(np.repeat(np.arange(pictures), 4), label, predicted, np.full(4 * pictures, 500.0))


# The arithmetic


def test_shuffled_is_the_mean_over_all_permutations_of_the_labels():
    labels, predicted = [0, 0, 1, 2, 1, 0], [0, 1, 1, 2, 2, 0]
    hits = [np.mean(np.array(dealt) == predicted) for dealt in itertools.permutations(labels)]
    side = judged([(0, label, guess) for label, guess in zip(labels, predicted, strict=True)])
    assert shuffled(side, 3) == pytest.approx(np.mean(hits), abs=1e-12)


def test_a_judge_that_is_always_right_gives_one():
    side = judged([(i, i % 3, i % 3) for i in range(9)])
    result = compare(side, side, NAMES)
    assert (result.real, result.generated, result.fidelity) == (1, 1, 1)
    assert result.shuffled == pytest.approx(1 / 3)
    assert result.interval == [1, 1]


def test_exchanged_labels_give_about_nothing():
    real = random_side(0, 400, 0.9)
    side = random_side(1, 400, 0.9)
    exchanged = Judged(side.picture, np.random.default_rng(2).permutation(side.label), side.predicted, side.area)
    result = compare(real, exchanged, NAMES)
    assert result.fidelity == pytest.approx(0, abs=0.08)
    assert result.interval[0] < 0 < result.interval[1]


def test_one_category_for_all_is_no_fidelity_however_often_it_is_right():
    real = judged([(i, i % 2, i % 2) for i in range(10)])
    lazy = judged([(i, 0, 0) for i in range(10)])
    result = compare(real, lazy, NAMES)
    assert result.generated == result.shuffled == 1
    assert result.fidelity is None


def test_fidelity_is_the_formula_and_lies_in_its_interval():
    real, generated = random_side(0, 60, 0.95), random_side(1, 50, 0.6)
    result = compare(real, generated, NAMES)
    top, hits, chance = result.real, result.generated, result.shuffled
    assert result.fidelity == pytest.approx((hits - chance) / (top - chance))
    low, high = result.interval
    assert low < result.fidelity < high
    assert 0.05 < high - low < 0.4


def test_the_interval_is_that_of_resampling_picture_by_picture():
    real, generated = random_side(0, 30, 0.9), random_side(1, 20, 0.6)
    rng, scores = np.random.default_rng(5), []

    def drawn(side: Judged) -> Judged:
        chosen = rng.integers(side.pictures, size=side.pictures)
        boxes = np.concatenate([np.flatnonzero(side.picture == number) for number in chosen])
        return Judged(side.picture[boxes], side.label[boxes], side.predicted[boxes], side.area[boxes])

    for _ in range(1000):
        one, other = drawn(real), drawn(generated)
        chance = shuffled(other, 3)
        scores.append((other.hits.mean() - chance) / (one.hits.mean() - chance))
    np.testing.assert_allclose(interval_of(real, generated, 3), np.percentile(scores, [2.5, 97.5]), atol=0.03)


def test_steps_of_the_resampling_do_not_show(monkeypatch: pytest.MonkeyPatch):
    real, generated = random_side(0, 32, 0.9), random_side(1, 64, 0.6)
    whole = interval_of(real, generated, 3)
    monkeypatch.setattr("lib.evaluation.metrics.fidelity._CELLS", 700)
    np.testing.assert_allclose(interval_of(real, generated, 3), whole, atol=0.03)


def test_equal_seeds_give_equal_intervals():
    real, generated = random_side(0, 30, 0.9), random_side(1, 20, 0.6)
    assert interval_of(real, generated, 3, seed=1) == interval_of(real, generated, 3, seed=1)
    assert interval_of(real, generated, 3, seed=1) != interval_of(real, generated, 3, seed=2)


def test_a_judge_that_cannot_tell_real_boxes_apart_gives_no_fidelity_but_a_note():
    side = judged([(0, 0, 1), (1, 1, 0), (2, 0, 1), (3, 1, 0)])
    result = compare(side, side, NAMES)
    assert result.fidelity is None and result.interval is None
    assert "cannot tell these categories apart" in result.notes[0]


@pytest.mark.parametrize("empty", ["real", "generated"])
def test_an_empty_side_gives_the_precision_of_the_other_and_a_note(empty: str):
    full = judged([(0, 0, 0), (1, 1, 0)])
    sides = {"real": full, "generated": full} | {empty: judged([])}
    result = compare(sides["real"], sides["generated"], NAMES)
    assert getattr(result, empty) is None and result.fidelity is None and getattr(result, f"n_{empty}") == 0
    assert {result.real, result.generated} == {None, 0.5}
    assert f"no {empty} boxes" in result.notes[0]


def test_one_picture_on_a_side_has_no_interval():
    result = compare(judged([(0, 0, 0), (1, 1, 1)]), judged([(0, 0, 0), (0, 1, 1)]), NAMES)
    assert result.fidelity == 1 and result.interval is None
    assert "no interval" in result.notes[0]


def test_a_judge_little_better_than_chance_has_no_interval():
    real = judged([(i, i % 2, i % 2 if i < 11 else 1 - i % 2) for i in range(20)])
    generated = judged([(i, i % 2, i // 2 % 2) for i in range(20)])
    result = compare(real, generated, NAMES)
    assert result.fidelity is not None and result.interval is None
    assert "hardly above shuffled" in result.notes[0]


def test_categories_and_sizes_are_counted_with_their_boxes():
    real = judged([(0, 0, 0), (1, 1, 0), (1, 1, 1)], area=32 * 32 - 1)
    generated = judged([(0, 2, 2), (0, 2, 1)], area=96 * 96)
    result = compare(real, generated, NAMES)
    keys = ("n_generated", "hits_generated", "n_real", "hits_real")
    assert {name: hits.model_dump() for name, hits in result.by_category.items()} == {
        "red": dict(zip(keys, (0, 0, 1, 1), strict=True)),
        "green": dict(zip(keys, (0, 0, 2, 1), strict=True)),
        "blue": dict(zip(keys, (2, 1, 0, 0), strict=True)),
    }
    assert {name: hits.model_dump() for name, hits in result.by_size.items()} == {
        "small": dict(zip(keys, (0, 0, 3, 2), strict=True)),
        "medium": dict(zip(keys, (0, 0, 0, 0), strict=True)),
        "large": dict(zip(keys, (2, 1, 0, 0), strict=True)),
    }


# Final sets


def test_a_final_set_is_judged_on_both_sides(made: Made):
    for _ in range(3):
        source = made.real("red", "green", "blue")
        made.synthetic(source)
    eyes = Eyes()
    result = fidelity(made.write(), eyes)
    assert (result.real, result.generated, result.fidelity) == (1, 1, 1)
    assert (result.n_real, result.n_generated) == (9, 9)
    assert (result.pictures_real, result.pictures_generated) == (3, 3)
    assert eyes.batches == [3] * 6
    assert result.notes == [] and result.skipped == {"real": {}, "generated": {}}


def test_wrongly_painted_boxes_are_misses(made: Made):
    for _ in range(2):
        source = made.real("red", "green", "blue")
        made.synthetic(source, "green", "green", "blue")
    result = fidelity(made.write(), Eyes())
    assert result.real == 1
    assert result.generated == pytest.approx(2 / 3)
    assert result.by_category["red"].hits_generated == 0


def test_only_boxes_that_were_painted_anew_are_judged(made: Made):
    source = made.real("red", "green", "blue")
    made.synthetic(source, "blue", "blue", "blue", painted=(0,))
    result = fidelity(made.write(), Eyes())
    assert (result.n_generated, result.generated) == (1, 0)
    assert result.skipped["generated"] == {"not_painted": 2}


def test_the_mark_alone_says_what_was_painted_whatever_the_masks_are(made: Made):
    made.synthetic(made.real("red", "green", "blue", "red"), painted=(0, 1))
    boxes = made.coco["annotations"][4:]
    boxes[0]["segmentation"] = []
    boxes[1]["painted"] = False
    boxes[2]["segmentation"] = [[5, 5, 9, 5, 9, 9]]
    boxes[3]["painted"] = "true"
    result = fidelity(made.write(), Eyes())
    assert (result.n_generated, result.skipped["generated"]) == (1, {"not_painted": 3})


def test_a_mark_on_an_original_says_nothing(made: Made):
    source = made.real("red", "green")
    made.coco["annotations"][0]["painted"] = True
    made.synthetic(source, painted=(1,))
    result = fidelity(made.write(), Eyes())
    assert (result.n_real, result.n_generated) == (2, 1)


def test_synthetic_pictures_alone_need_no_sources(made: Made):
    made.synthetic(made.real("red", "green"), painted=(0,))
    made.coco["images"], made.coco["annotations"] = made.coco["images"][1:], made.coco["annotations"][2:]
    result = fidelity(made.write(), Eyes())
    assert (result.n_generated, result.n_real, result.skipped["generated"]) == (1, 0, {"not_painted": 1})


# Sets of other makers


def test_a_set_without_synthetic_pictures_gives_its_precision_and_says_so(made: Made):
    made.real("red", "green", shown=("red", "blue"))
    result = fidelity(made.write(), Eyes())
    assert (result.real, result.generated, result.shuffled, result.fidelity) == (0.5, None, None, None)
    assert "all are judged as real" in result.notes[0]
    assert "no generated boxes" in result.notes[1]


def test_two_plain_sets_are_real_and_generated_with_categories_matched_by_name(made: Made, tmp_path: Path):
    other = Made(tmp_path / "other")
    for _ in range(2):
        made.real("red", "green", shown=("red", "red"))
        other.real("red", "green", "blue")
    made.coco["categories"] = made.coco["categories"][:2]
    other.coco["categories"] = [{**c, "id": c["id"] + 7} for c in other.coco["categories"]]
    other.coco["annotations"] = [{**a, "category_id": a["category_id"] + 7} for a in other.coco["annotations"]]
    result = fidelity(made.write(), Eyes(), real=other.write())
    assert (result.generated, result.real) == (0.5, 1)
    assert result.skipped["real"] == {"category_unknown": 2}
    assert "all of the set are judged as generated" in result.notes[0]


def test_a_given_real_set_takes_the_place_of_the_originals(made: Made, tmp_path: Path):
    source = made.real("red", "green")
    made.synthetic(source)
    other = Made(tmp_path / "other")
    for _ in range(3):
        other.real("red", "blue")
    assert fidelity(made.write(), Eyes(), real=other.write()).n_real == 6


# What cannot be judged


def test_crowds_small_and_unusable_boxes_are_counted_by_reason(made: Made):
    made.real("red", "green", "blue", "red")
    tiny = made.real("red", side=7)
    crowd, empty, outside, _ = made.coco["annotations"][:4]
    crowd["iscrowd"] = 1
    empty["bbox"] = [5, 5, 0, 10]
    outside["bbox"] = [500, 5, 20, 20]
    result = fidelity(made.write(), Eyes())
    assert result.skipped["real"] == {"box_empty": 1, "box_outside": 1, "box_too_small": 1, "crowd": 1}
    assert (result.n_real, result.pictures_real) == (1, 1)
    assert fidelity(made.write(), Eyes(), min_side=7).n_real == 2
    assert tiny["file_name"] == "2.png"


def test_a_box_is_as_small_as_its_part_inside_the_picture(made: Made):
    made.real("red", "green")
    made.coco["annotations"][0]["bbox"] = [-25, 20, 30, 30]
    result = fidelity(made.write(), Eyes())
    assert result.skipped["real"] == {"box_too_small": 1}


def test_pictures_that_cannot_be_read_are_listed_and_their_boxes_counted(made: Made):
    for _ in range(4):
        made.real("red", "green")
    folder = made.write()
    (folder / "images" / "1.png").unlink()
    (folder / "images" / "2.png").write_bytes(b"no picture")
    Image.new("RGB", (50, 60)).save(folder / "images" / "3.png")
    steps: list[tuple[int, int]] = []
    result = fidelity(folder, Eyes(), advance=lambda done, total: steps.append((done, total)))
    assert result.skipped["real"] == {"image_broken": 2, "image_missing": 2, "size_mismatch": 2}
    assert [Path(row.picture).name for row in result.unreadable.pictures] == ["1.png", "2.png", "3.png"]
    assert result.n_real == 2
    assert steps == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert "3 unreadable, the first " in summary(result) and "1.png: image_missing" in summary(result)


def test_boxes_of_a_picture_that_was_annotated_as_stored_are_cut_from_it_as_stored(made: Made):
    made.real("red", "green")
    folder = made.write()
    turned = Image.open(folder / "images" / "1.png")
    exif = turned.getexif()
    exif[0x0112] = 6
    turned.save(folder / "images" / "1.png", exif=exif)
    assert fidelity(folder, Eyes()).real == 1


def test_pictures_beside_the_file_are_found_too(made: Made):
    made.real("red", "green")
    folder = made.write()
    (folder / "images" / "1.png").rename(folder / "1.png")
    assert fidelity(folder / "annotations.json", Eyes()).n_real == 2


def test_a_set_without_boxes_is_one_clear_error(made: Made):
    made.real("red")
    made.coco["annotations"] = []
    with pytest.raises(AugmentError, match=r"no box to judge \(set aside: none\)"):
        fidelity(made.write(), Eyes())


def test_fewer_than_two_categories_are_one_clear_error(made: Made):
    made.real("red")
    made.coco["categories"] = made.coco["categories"][:1]
    with pytest.raises(AugmentError, match=r"1 categories \(red\): expected at least 2"):
        fidelity(made.write(), Eyes())


def test_a_folder_without_annotations_and_a_file_that_is_no_coco_are_named(tmp_path: Path):
    with pytest.raises(AugmentError, match=r"annotations\.json not found"):
        fidelity(tmp_path, Eyes())
    (tmp_path / "annotations.json").write_text("{}")
    with pytest.raises(AugmentError, match="is not a COCO file"):
        fidelity(tmp_path, Eyes())


# For a person, and with a CLIP


def test_the_result_is_json_and_its_summary_shows_what_matters(made: Made, tmp_path: Path):
    for _ in range(2):
        source = made.real("red", "green", "blue")
        made.synthetic(source, "green", "green", "blue", painted=(0, 1))
    result = fidelity(made.write(), Eyes())
    write_json(result.document(), tmp_path / "fidelity.json")
    assert json.loads((tmp_path / "fidelity.json").read_text()) == result.document()
    text = summary(result)
    assert "6 real boxes in 2 pictures, 4 generated in 2; judge: eyes" in text
    for part in ("fidelity", "(95 %)", "red", "small", "generated boxes not judged: not_painted 2"):
        assert part in text


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_clip(tmp_path_factory.mktemp("tiny") / "clip")


def test_a_clip_judges_the_same_twice(made: Made, clip: Path):
    for _ in range(2):
        made.synthetic(made.real("red", "green", "blue"))
    results = [fidelity(made.write(), RegionScorer(RegionSettings(), resolve(str(clip), {}))) for _ in range(2)]
    assert results[0] == results[1]
    assert results[0].judge.startswith("clip folder sha256:")
    assert results[0].n_generated == 6


def test_the_evaluation_tells_the_same(made: Made, clip: Path):
    for _ in range(2):
        made.synthetic(made.real("red", "green", "blue"), painted=(0, 2))
    folder, choice = made.write(), Choice(name="regions", model=str(clip))
    judged = evaluate(folder, folder, metrics=[choice])
    alone = fidelity(folder, RegionScorer(RegionSettings(), resolve(str(clip), {})))
    assert {**judged.details["regions"].model_dump(), "unreadable": alone.unreadable.model_dump()} == alone.document()
    assert judged.numbers["regions_real"] == alone.real and len(judged.boxes) == alone.n_generated == 4


def test_a_synthetic_picture_whose_labels_are_all_gone_is_not_judged_by_those_of_its_source(made: Made, clip: Path):
    made.synthetic(made.real("red", "green"))
    bare = made.synthetic(made.real("red", "green"))
    made.coco["annotations"] = [note for note in made.coco["annotations"] if note["image_id"] != bare["id"]]
    folder = made.write()
    judged = evaluate(folder, folder, metrics=[Choice(name="regions", model=str(clip))])
    assert (judged.details["regions"].n_real, judged.details["regions"].n_generated) == (4, 2)


def test_the_command_prints_a_table_and_writes_json(made: Made, clip: Path, tmp_path: Path, capsys: Any):
    made.synthetic(made.real("red", "green", "blue"))
    path = tmp_path / "out" / "fidelity.json"
    assert cli.main(["fidelity", str(made.write()), "--model", str(clip), "--json", str(path)]) == 0
    assert "3 real boxes" in capsys.readouterr().out
    assert json.loads(path.read_text())["n_generated"] == 3


def test_the_command_names_the_missing_mini_model(
    made: Made, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
):
    made.real("red", "green")
    monkeypatch.setattr("lib.core.checkpoints.MINI", tmp_path)
    assert cli.main(["fidelity", str(made.write())]) == 1
    output = capsys.readouterr()
    assert "data/models/mini/clip" in output.err and output.out == "" and output.err.count("\n") == 1
