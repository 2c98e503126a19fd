"""Sides: the pictures of a path, the labels of each, its source, and what cannot be used."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import lib.datasets.formats.coco_pieces
import lib.evaluation.sides
from lib.core.errors import AugmentError
from lib.evaluation.evaluate import evaluate
from lib.evaluation.matching import sources_of
from lib.evaluation.sides import Entry, Side, read_side


def drawn(path: Path, size: tuple[int, int] = (40, 30), seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def coco_of(path: Path, images: list[Any], boxes: list[dict[str, Any]] | None = None) -> Path:
    """images: records, or names; boxes: annotations, [1, 2, 10, 8] of category 1 by default."""
    path.parent.mkdir(parents=True, exist_ok=True)
    records = [one if isinstance(one, dict) else {"id": i, "file_name": one} for i, one in enumerate(images)]
    document: dict[str, Any] = {"images": records}
    if boxes is not None:
        plain = {"category_id": 1, "bbox": [1, 2, 10, 8]}
        document["annotations"] = [{"id": i, **plain, **box} for i, box in enumerate(boxes)]
        document["categories"] = [{"id": 1, "name": "pallet"}, {"id": 2, "name": "forklift"}]
    path.write_text(json.dumps(document))
    return path


@pytest.fixture
def final(tmp_path: Path) -> Path:
    """A run's final set: an original with two boxes, and a picture made from it, in which the second is new."""
    folder = tmp_path / "final"
    for name in ("a.png", "a_1.png"):
        drawn(folder / "images" / name)
    made = {"id": 8, "file_name": "a_1.png", "source_image_id": 7, "source_file_name": "old/a.png"}
    boxes = [{"image_id": 7}, {"image_id": 7, "category_id": 2, "ignore": 1}]
    boxes += [{"image_id": 8, "iscrowd": 1}, {"image_id": 8, "category_id": 2, "painted": True}, {"image_id": 99}]
    coco_of(folder / "annotations.json", [{"id": 7, "file_name": "a.png"}, made], boxes)
    return folder


def names_of(side: Side) -> list[str]:
    return [entry.name for entry in side.entries]


# Paths


def test_a_folder_gives_its_pictures_sorted_with_subfolders_and_without_hidden_ones(tmp_path: Path):
    for name in ("b/2.JPG", "b/10.jpg", "a.png", ".hidden.png", ".cache/x.png", "notes.txt", "b/._2.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    side = read_side(tmp_path)
    assert names_of(side) == ["a.png", "b/10.jpg", "b/2.JPG"]
    assert [entry.path for entry in side.entries] == [tmp_path / name for name in names_of(side)]
    assert not side.labelled and not side.has_synthetic


def test_a_coco_file_gives_its_pictures_beside_it_or_in_images_in_its_order(tmp_path: Path):
    for name in ("images/0.png", "images/1.png", "sub/0.png"):
        drawn(tmp_path / name)
    side = read_side(coco_of(tmp_path / "coco.json", ["1.png", "sub/0.png", "0.png"]))
    assert [entry.path.relative_to(tmp_path).as_posix() for entry in side.entries] == [
        "images/1.png",
        "sub/0.png",
        "images/0.png",
    ]


def test_a_coco_file_may_lack_annotations_categories_and_ids(tmp_path: Path):
    drawn(tmp_path / "a.png")
    (tmp_path / "coco.json").write_text('{"images": [{"file_name": "a.png", "caption": "a pallet"}]}')
    (entry,) = read_side(tmp_path / "coco.json").entries
    assert (entry.name, entry.fault, entry.labels.caption) == ("a.png", None, "a pallet")
    assert len(entry.labels.boxes) == 0


def test_nothing_to_read_is_said_plainly(tmp_path: Path):
    with pytest.raises(AugmentError, match="no pictures in"):
        read_side(tmp_path)
    with pytest.raises(AugmentError, match="not found: expected a folder of pictures or a COCO file"):
        read_side(tmp_path / "absent")


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "{}", '{"images": 3}', '"images"', "\\ud800", "[" * 100_000])
def test_a_file_that_is_not_coco_is_one_clear_error(text: str, tmp_path: Path):
    (tmp_path / "coco.json").write_text(text)
    with pytest.raises(AugmentError, match=r"coco\.json is not a COCO file.*or give a folder"):
        read_side(tmp_path / "coco.json")


# Labels


def test_boxes_are_corners_with_their_names_and_the_size_that_they_were_drawn_in(tmp_path: Path):
    drawn(tmp_path / "a.png")
    record = {"id": "x", "file_name": "a.png", "width": 40, "height": 30}
    side = read_side(coco_of(tmp_path / "coco.json", [record], [{"image_id": "x", "category_id": 2}]))
    (entry,) = side.entries
    assert entry.labels.boxes.tolist() == [[1, 2, 11, 10]]
    assert (entry.labels.categories, entry.labels.size, side.names) == (("forklift",), (40, 30), ("pallet", "forklift"))


def test_painted_boxes_that_no_source_has_are_counted_as_added(tmp_path: Path):
    drawn(tmp_path / "a.png")
    boxes = [
        {"image_id": 0, "painted": True},
        {"image_id": 0, "painted": True, "ignore": True},
        {"image_id": 0, "painted": True, "source_annotation_id": 0},
        {"image_id": 0},
    ]
    (entry,) = read_side(coco_of(tmp_path / "coco.json", ["a.png"], boxes)).entries
    assert entry.labels.added == 1


def test_boxes_that_cannot_be_used_are_counted_by_reason(tmp_path: Path):
    drawn(tmp_path / "a.png")
    boxes = [{"image_id": 0, "bbox": [1, 2, 0, 8]}, {"image_id": 5}, {"image_id": 0}]
    side = read_side(coco_of(tmp_path / "coco.json", ["a.png"], boxes))
    assert len(side.entries[0].labels.boxes) == 1
    assert side.skipped["box_empty"] == 1 and side.skipped.total() == 2


def test_pictures_without_boxes_can_be_left_out(tmp_path: Path):
    side = read_side(coco_of(tmp_path / "coco.json", ["a.png", "b.png"], [{"image_id": 1}]))
    assert names_of(side.boxed()) == ["b.png"]


def test_labels_of_a_folder_come_from_a_csv(tmp_path: Path):
    drawn(tmp_path / "images" / "a.png")
    row = {"id": 1, "image_id": 3, "category_id": 7, "bbox": [1, 2, 10, 8], "file_name": "a.png"}
    with (tmp_path / "boxes.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(row))
        writer.writeheader()
        writer.writerow(row)
    side = read_side(tmp_path / "images", annotations=tmp_path / "boxes.csv")
    assert side.entries[0].path == tmp_path / "images" / "a.png"
    assert side.entries[0].labels.categories == ("pallet",) and side.file == tmp_path / "boxes.csv"


def test_labels_of_a_folder_come_from_a_format_by_its_name(tmp_path: Path):
    drawn(tmp_path / "a.png")
    (tmp_path / "voc").mkdir()
    (tmp_path / "voc" / "a.xml").write_text(
        "<annotation><filename>a.png</filename><size><width>40</width><height>30</height></size><object>"
        "<name>pallet</name><bndbox><xmin>2</xmin><ymin>3</ymin><xmax>11</xmax><ymax>10</ymax></bndbox></object>"
        "</annotation>"
    )
    (entry,) = read_side(tmp_path, annotations=tmp_path / "voc", format="voc").entries
    assert entry.labels.categories == ("pallet",) and entry.labels.size == (40, 30)


# Originals and synthetic pictures


def test_a_final_folder_holds_both_sides(final: Path):
    real, made, every = (read_side(final, part) for part in ("originals", "synthetic", None))
    assert (names_of(real), names_of(made), names_of(every)) == (["a.png"], ["a_1.png"], ["a.png", "a_1.png"])
    assert real.has_synthetic and made.has_synthetic
    assert made.entries[0].source == ("7", "old/a.png") and real.entries[0].source is None


def test_a_set_that_says_nothing_of_it_is_a_side_as_a_whole(tmp_path: Path):
    coco = coco_of(tmp_path / "coco.json", ["a.png", "b.png"])
    for part in ("originals", "synthetic"):
        assert names_of(read_side(coco, part)) == ["a.png", "b.png"]


def test_new_boxes_of_a_synthetic_picture_are_marked_and_all_of_an_original(final: Path):
    real, made = (read_side(final, part).entries[0].labels for part in ("originals", "synthetic"))
    assert (made.painted.tolist(), real.painted.tolist()) == ([False, True], [True, True])


def test_crowds_and_boxes_marked_so_are_to_be_ignored(final: Path):
    real, made = (read_side(final, part).entries[0].labels for part in ("originals", "synthetic"))
    assert (made.ignore.tolist(), real.ignore.tolist()) == ([True, False], [False, True])


def test_a_box_of_no_picture_is_counted_with_the_originals(final: Path):
    real, made = (read_side(final, part) for part in ("originals", "synthetic"))
    assert (real.skipped.total(), made.skipped.total()) == (1, 0)


@pytest.mark.parametrize("mark", [1, "true", None, False])
def test_nothing_but_true_marks_a_box_as_new(mark: Any, tmp_path: Path):
    made = {"id": 0, "file_name": "a.png", "source_image_id": 7}
    side = read_side(coco_of(tmp_path / "coco.json", [made], [{"image_id": 0, "painted": mark}]), "synthetic")
    assert not side.entries[0].labels.painted.any()


# Large sets


@pytest.mark.parametrize("large", [0, 1 << 30])
@pytest.mark.parametrize("part", ["originals", "synthetic", None])
def test_entries_that_lie_in_a_folder_are_those_of_memory(
    part: Any, large: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Also where the file is read in pieces, and boxes stand in another order than their pictures."""
    monkeypatch.setattr(lib.datasets.formats.coco_pieces, "LARGE", large)
    monkeypatch.setattr(lib.evaluation.sides, "_RECORD", 1)
    new = {"source_image_id": 0, "source_file_name": "0.png", "regions": [[1, 2, 3, 4]], "caption": "new"}
    records = [{"id": i, "file_name": f"{i}.png", "width": 40, "height": 30} for i in range(30)]
    images = [record | (new if record["id"] % 3 == 2 else {}) for record in records]
    boxes = [{"image_id": i * 7 % 31, "painted": i % 2 == 0, "bbox": [i % 9, 1, i % 5, 4]} for i in range(90)]
    coco = coco_of(tmp_path / "coco.json", images, boxes)
    held, laid = read_side(coco, part), read_side(coco, part, folder=tmp_path / "parts")
    assert len(held.entries) and [*map(repr, held.entries)] == [*map(repr, laid.entries)]
    assert (held.names, held.skipped, held.has_synthetic) == (laid.names, laid.skipped, laid.has_synthetic)
    assert held.skipped["box_empty"] and (held.skipped["image_unknown"] > 0) == (part != "synthetic")
    assert not list((tmp_path / "parts").iterdir())


# Sources


def side_of(*entries: tuple[str, str] | str, file: str | None = None, source: tuple[str, str] | None = None) -> Side:
    """Entries by name, or by name and id."""
    pairs = [(one, "") if isinstance(one, str) else one for one in entries]
    return Side(tuple(Entry(Path(n), n, id=i, source=source) for n, i in pairs), Path(file) if file else None)


def test_a_source_in_the_same_file_goes_by_its_id(final: Path):
    assert sources_of(read_side(final, "originals"), read_side(final, "synthetic")) == {0: 0}


def test_a_source_in_another_file_goes_by_the_name_that_is_told():
    made = side_of("x.png", file="made.json", source=("7", "a.png"))
    assert sources_of(side_of(("b.png", "7"), ("a.png", "1"), file="real.json"), made) == {0: 1}
    assert sources_of(side_of("b.png", "a.png"), made) == {0: 1}


def test_a_picture_that_tells_of_no_source_has_that_of_its_own_name():
    real = side_of("a.png", "sub/b.png", "sub/a.png")
    assert sources_of(real, side_of("sub/a.png", "a.png", "c.png")) == {0: 2, 1: 0}


def test_folder_and_suffix_count_for_nothing_where_no_name_is_the_same():
    assert sources_of(side_of("a.png", "sub/b.png"), side_of("b.jpg", "x/a.webp", "sub/b.webp")) == {0: 1, 1: 0, 2: 1}


def test_pictures_of_different_folders_are_not_taken_for_each_other():
    assert sources_of(side_of("train/1.png", "2.png"), side_of("val/1.jpg")) == {}


def test_of_two_that_differ_in_folder_alone_neither_is_guessed():
    assert sources_of(side_of("x/a.png", "y/a.png"), side_of("a.jpg")) == {}


def test_a_picture_that_tells_of_a_source_without_a_name_has_none():
    assert sources_of(side_of("", "b.png"), side_of("a.png", source=("7", ""))) == {}


# What cannot be used


@pytest.mark.parametrize("name", ["../secret.png", "a/../../secret.png", "/etc/secret.png", "C:\\secret.png", "a\0b"])
def test_a_name_that_leads_outside_is_a_fault_with_a_reason(name: str, tmp_path: Path):
    drawn(tmp_path / "secret.png")
    (entry,) = read_side(coco_of(tmp_path / "set" / "coco.json", [name])).entries
    assert entry.fault is not None and entry.fault[0] == "path_outside_root"
    assert entry.path == tmp_path / "set"


def test_nothing_outside_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    drawn(tmp_path / "secret.png")
    coco = coco_of(tmp_path / "set" / "coco.json", ["../secret.png", "a.png", "b.png"])
    for seed, name in enumerate(("a.png", "b.png")):
        drawn(tmp_path / "set" / name, seed=seed)
    opened, read = list[str](), Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: opened.append(path.name) or read(path))
    result = evaluate(coco, tmp_path / "set", metrics=["kid"])
    assert result.n_real == 2 and "secret.png" not in opened
    (row,) = result.unreadable.pictures
    assert (row.picture, row.reason) == ("../secret.png", "path_outside_root")


@pytest.mark.parametrize("record", [{}, {"id": 0, "file_name": 7}, {"id": None, "file_name": "a.png"}, 3])
def test_a_malformed_record_is_a_fault_of_its_own_alone(record: Any, tmp_path: Path):
    records = [record, {"id": 5, "file_name": "b.png"}]
    (tmp_path / "coco.json").write_text(json.dumps({"images": records}))
    first, second = read_side(tmp_path / "coco.json").entries
    assert first.fault is not None and first.fault[0] == "record_malformed" and second.fault is None


def test_a_picture_that_is_not_there_is_told_with_its_name(tmp_path: Path):
    for seed in range(2):
        drawn(tmp_path / f"{seed}.png", seed=seed)
    coco = coco_of(tmp_path / "coco.json", ["0.png", "gone.png", "", "1.png"])
    rows = evaluate(coco, tmp_path, metrics=["kid"]).unreadable.pictures
    assert [row.reason for row in rows] == ["image_missing"] * 2
    assert rows[0].picture == (tmp_path / "gone.png").as_posix()


@pytest.mark.parametrize(
    "regions", ["[[null, 1, 2, 3]]", "[[0, 0, 1e400, 3]]", f"[[0, 0, 1{'0' * 400}, 3]]", "[[1, 2, 3]]", '"all"']
)
def test_regions_that_are_no_numbers_are_none(regions: str, tmp_path: Path):
    coco = coco_of(tmp_path / "coco.json", [{"id": 0, "file_name": "a.png", "regions": "HERE"}], [])
    coco.write_text(coco.read_text().replace('"HERE"', regions))
    assert read_side(coco).entries[0].changed is None
