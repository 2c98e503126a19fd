"""DeepPCB: defective boards with their boxes, clean ones as pictures without boxes or as places for a layout."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from PIL import Image
from shared import shared

from lib.core.errors import AugmentError
from lib.datasets.formats import read_dataset
from lib.datasets.formats.deep_pcb import CATEGORIES, TEST_GROUPS
from lib.datasets.ingest import check_pictures, settle_objects
from lib.records.rows import ImageRow, ObjectRow, arrow_schema
from lib.records.settings import DatasetSettings


def board(root: Path, group: str, number: int, text: str | None, kinds: tuple[str, ...] = ("test", "temp")) -> None:
    pictures, labels = (root / f"group{group}" / name for name in (group, f"{group}_not"))
    for folder in (pictures, labels):
        folder.mkdir(parents=True, exist_ok=True)
    for kind in kinds:
        Image.new("L", (64, 48)).save(pictures / f"{group}{number:03}_{kind}.jpg")
    if text is not None:
        (labels / f"{group}{number:03}.txt").write_text(text)


def read(folder: Path, format: str = "deep-pcb", **values: Any) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The rows of the ingest stage, headers alone looked at."""
    parsed = read_dataset(DatasetSettings(images=folder, format=format, **values))
    assert parsed.images.schema.equals(arrow_schema(ImageRow))
    assert parsed.objects.schema.equals(arrow_schema(ObjectRow))
    images = check_pictures(parsed.images.to_pandas(), folder, 10**6, decode=False)
    return images, settle_objects(images, parsed.objects).to_pandas()


def only(rows: pd.DataFrame) -> Any:
    (row,) = rows.itertuples()
    return row


@pytest.mark.parametrize("line", ["10 12 30 20 3", "10,12,30,20,3", " 10 12 30 20 3 \n\n"])
def test_a_line_is_a_box_of_the_defective_picture(tmp_path: Path, line: str) -> None:
    board(tmp_path, "12000", 1, line)
    images, objects = read(tmp_path)
    row = only(objects)
    assert (row.x, row.y, row.w, row.h, row.category, row.category_id) == (10, 12, 20, 8, "mousebite", "3")
    assert images.path.tolist() == ["group12000/12000/12000001_test.jpg", "group12000/12000/12000001_temp.jpg"]
    assert row.image_key == images.key[0] and images[["width", "height"]].values.tolist() == [[64, 48]] * 2


def test_a_layout_is_the_partner_s_boxes_on_the_clean_picture(tmp_path: Path) -> None:
    board(tmp_path, "12000", 1, "10 12 30 20 3\n1 2 3 4 6")
    images, objects = read(tmp_path, "deep-pcb-layout")
    assert only(images).path == "group12000/12000/12000001_temp.jpg"
    assert objects.category.tolist() == ["mousebite", "pin-hole"] and set(objects.image_key) == {images.key[0]}
    both = read(tmp_path)[1]
    assert objects[[*"xywh"]].equals(both[[*"xywh"]]) and not set(objects.key) & set(both.key)


@pytest.mark.parametrize("format", ["deep-pcb", "deep-pcb-layout"])
def test_the_split_is_by_group_unless_set_and_the_record_keeps_the_group(tmp_path: Path, format: str) -> None:
    for group in ("12000", *TEST_GROUPS):
        board(tmp_path, group, 1, "1 2 3 4 5")
    for split in (None, "official"):
        images, _ = read(tmp_path, format, split=split, group="group")
        expected = ["test" if group in TEST_GROUPS else "train" for group in images.group]
        assert images.split.tolist() == expected and set(images.group) == {"12000", *TEST_GROUPS}
    assert set(read(tmp_path, format, split="val")[0].split) == {"val"}


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("1 2 3 4", "record_malformed"),
        ("1 2 3 4 5 6", "record_malformed"),
        ("one two 3 4 5", "record_malformed"),
        ("1.5 2 3 4 5", "record_malformed"),
        ("1 2 3 4 0", "category_unknown"),
        ("1 2 3 4 7", "category_unknown"),
        ("3 2 3 4 1", "box_empty"),
        ("3 4 1 2 1", "box_empty"),
        ("64 2 70 4 1", "box_outside"),
        ("60 40 70 60 1", ""),
    ],
)
@pytest.mark.parametrize("format", ["deep-pcb", "deep-pcb-layout"])
def test_a_bad_line_is_a_row_with_a_reason(tmp_path: Path, format: str, line: str, reason: str) -> None:
    board(tmp_path, "12000", 1, f"10 12 30 20 3\n{line}")
    _, objects = read(tmp_path, format)
    assert objects.reason.tolist() == ["", reason]
    if reason == "record_malformed":
        assert objects.detail[1].startswith("12000001.txt:2: ") and json.loads(objects.record[1])["line"] == line


def test_a_label_file_of_other_bytes_is_one_bad_line(tmp_path: Path) -> None:
    board(tmp_path, "12000", 1, "")
    (tmp_path / "group12000/12000_not/12000001.txt").write_bytes(b"\xff\xfe\x00")
    assert only(read(tmp_path)[1]).reason == "record_malformed"


def test_an_empty_label_file_is_a_picture_without_boxes(tmp_path: Path) -> None:
    board(tmp_path, "12000", 1, "")
    images, objects = read(tmp_path)
    assert (images.status == "ok").all() and len(objects) == 0


def test_a_defective_picture_without_labels_is_set_aside_and_never_clean(tmp_path: Path) -> None:
    board(tmp_path, "12000", 1, "1 2 3 4 5")
    board(tmp_path, "12000", 2, None)
    images, _ = read(tmp_path)
    lost = only(images[images.status == "rejected"])
    assert (lost.file_name, lost.reason) == ("group12000/12000/12000002_test.jpg", "label_missing")
    layouts, _ = read(tmp_path, "deep-pcb-layout")
    assert len(layouts) == 2 and (layouts.status == "ok").all()


def test_a_clean_picture_alone_stays_without_boxes(tmp_path: Path) -> None:
    board(tmp_path, "12000", 1, "1 2 3 4 5")
    board(tmp_path, "12000", 2, None, kinds=("temp",))
    for format, pictures in (("deep-pcb", 3), ("deep-pcb-layout", 2)):
        images, objects = read(tmp_path, format)
        assert len(images) == pictures and (images.status == "ok").all() and len(objects) == 1


@pytest.mark.parametrize(("format", "kind"), [("deep-pcb", "temp"), ("deep-pcb-layout", "test")])
def test_labels_of_a_missing_picture_are_rows_too(tmp_path: Path, format: str, kind: str) -> None:
    board(tmp_path, "12000", 1, "1 2 3 4 5", kinds=(kind,))
    images, objects = read(tmp_path, format)
    assert images.reason[0] == "image_missing" and only(objects).reason == "image_rejected"


@pytest.mark.parametrize("inner", ["", "group12000", "group12000/12000"])
def test_images_may_be_the_whole_set_or_a_group_or_its_pictures(tmp_path: Path, inner: str) -> None:
    board(tmp_path, "12000", 1, "1 2 3 4 5")
    images, objects = read(tmp_path / inner, group="group")
    assert len(images) == 2 and only(objects).status == "ok" and set(images.group) == {"12000"}


def test_labels_may_lie_in_another_tree(tmp_path: Path) -> None:
    board(tmp_path / "a", "12000", 1, "1 2 3 4 5")
    (tmp_path / "b/group12000").mkdir(parents=True)
    (tmp_path / "a/group12000/12000_not").rename(tmp_path / "b/group12000/12000_not")
    assert len(read(tmp_path / "a", annotations=tmp_path / "b")[1]) == 1
    with pytest.raises(AugmentError, match=r"set dataset\.images to PCBData"):
        read(tmp_path / "a")


def test_ids_do_not_change_when_boards_are_added(tmp_path: Path) -> None:
    board(tmp_path, "12000", 2, "1 2 3 4 5")
    before = read(tmp_path)
    board(tmp_path, "12000", 1, "1 2 3 4 5")
    for old, new in zip(before, read(tmp_path), strict=True):
        assert set(old.key) < set(new.key)


@pytest.mark.parametrize(("format", "pictures", "empty"), [("deep-pcb", 1909, 955), ("deep-pcb-layout", 955, 1)])
def test_the_954_pairs_read_whole(format: str, pictures: int, empty: int) -> None:
    images, objects = read(shared("deep_pcb", "PCBData"), format, group="group")
    assert (len(images), len(objects)) == (pictures, 5943)
    assert (images.status == "ok").all() and (objects.status == "ok").all()
    assert (~images.key.isin(objects.image_key)).sum() == empty
    assert images.group.nunique() == 9 and (images.groupby("group").split.nunique() == 1).all()
    assert set(objects.category) == set(CATEGORIES.values())
