"""Inputs that once were read wrongly, one test a folder of the shared cases, and small relatives made here."""

import json
import os
import struct
import subprocess
import sys
import zlib
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image, PngImagePlugin
from shared import shared

from flows.cli import main
from lib.core.errors import AugmentError
from lib.core.files import files_below
from lib.core.images import SUFFIXES, glance, header_size, inspect, load_rgb
from lib.datasets.coco_file import CocoFile
from lib.datasets.formats import read_dataset
from lib.datasets.formats.loco import csv_document
from lib.datasets.formats.tables import whole
from lib.datasets.ingest import check_pictures, settle_objects
from lib.datasets.write_yolo import yolo_files
from lib.evaluation.metrics import METRICS
from lib.records.settings import DatasetSettings

SIZE = (160, 120)  # of the shared pictures
MOST_PIXELS = 10**8


def case(*parts: str) -> Path:
    return shared("..", "cases", *parts)


def ingested(root: Path, format: str, annotations: Path | None = None) -> tuple[pd.DataFrame, pd.DataFrame]:
    """(ImageRows, ObjectRows) once the pictures are known."""
    dataset = read_dataset(DatasetSettings(images=root, annotations=annotations, format=format))
    images = check_pictures(dataset.images.to_pandas(), root, MOST_PIXELS)
    return images, settle_objects(images, dataset.objects).to_pandas()


def boxes(objects: pd.DataFrame) -> list[list[float]]:
    return [[round(float(value), 6) for value in row] for row in objects[list("xywh")].to_numpy()]


def picture(path: Path, size: tuple[int, int] = (40, 20), **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (90, 120, 150)).save(path, **options)
    return path


def text(path: Path, content: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    return path


def yolo(root: Path, lines: str, header: str = "names: [cat, dog]") -> tuple[pd.DataFrame, pd.DataFrame]:
    """One picture of 40 × 20 pixels with these labels, in Ultralytics' layout."""
    picture(root / "images" / "train" / "a.png")
    text(root / "labels" / "train" / "a.txt", lines)
    text(root / "data.yaml", f"train: images/train\n{header}\n")
    return ingested(root, "yolo")


def coco(root: Path, images: list[Any], notes: list[Any], categories: list[Any]) -> tuple[pd.DataFrame, pd.DataFrame]:
    file = text(root / "ann.json", json.dumps({"images": images, "annotations": notes, "categories": categories}))
    return ingested(root, "coco", file)


def voc(root: Path, fields: str, name: str = "a") -> tuple[pd.DataFrame, pd.DataFrame]:
    text(root / "Annotations" / f"{name}.xml", f"<annotation>{fields}</annotation>")
    (root / "JPEGImages").mkdir(exist_ok=True)
    return ingested(root / "JPEGImages", "voc")


BOX = "<bndbox><xmin>4</xmin><ymin>5</ymin><xmax>10</xmax><ymax>15</ymax></bndbox>"
OBJECT = f"<object><name>cat</name>{BOX}</object>"


# --- numbers that pandas and NumPy wrote -----------------------------------------------------------


def test_coco_float_ids():
    images, objects = ingested(case("coco-float-ids", "images"), "coco", case("coco-float-ids", "ann.json"))
    assert objects.status.tolist() == ["ok", "ok"] and objects.category.tolist() == ["cat", "cat"]
    assert objects.image_key.tolist() == images.key.tolist() == ["1", "2"]


@pytest.mark.parametrize("written", [1.0, 1e0, 1])
@pytest.mark.parametrize("field", ["image", "category", "image_id", "category_id"])
def test_an_id_is_the_same_however_its_number_is_written(tmp_path, field, written):
    ids: dict[str, Any] = {"image": 1, "category": 1, "image_id": 1, "category_id": 1, field: written}
    picture(tmp_path / "a.png")
    _, objects = coco(
        tmp_path,
        [{"id": ids["image"], "file_name": "a.png"}],
        [{"id": 1, "image_id": ids["image_id"], "category_id": ids["category_id"], "bbox": [1, 2, 3, 4]}],
        [{"id": ids["category"], "name": "cat"}],
    )
    assert objects.status.tolist() == ["ok"] and objects.category.tolist() == ["cat"]


def test_a_letter_that_is_escaped_in_an_id_is_that_letter(tmp_path):
    picture(tmp_path / "a.png")
    file = text(
        tmp_path / "ann.json",
        '{"images": [{"id": "\\u00e9", "file_name": "a.png"}], "categories": [{"id": 1, "name": "cat"}],'
        ' "annotations": [{"id": 1, "image_id": "é", "category_id": 1, "bbox": [1, 2, 3, 4]}]}',
    )
    assert ingested(tmp_path, "coco", file)[1].status.tolist() == ["ok"]


def test_ids_that_are_equal_numbers_are_one_id_and_their_keys_stay_as_written(tmp_path):
    for name in ("a.png", "b.png"):
        picture(tmp_path / name)
    images, _ = coco(
        tmp_path, [{"id": 1.0, "file_name": "a.png"}, {"id": 1, "file_name": "b.png"}], [], [{"id": 1, "name": "cat"}]
    )
    assert images.reason.tolist() == ["", "image_id_duplicate"] and images.key.tolist() == ["1.0", "1#2"]


def yolo_labels(folder: Path, document: dict[str, Any]) -> dict[str, bytes]:
    (folder / "annotations.json").write_text(json.dumps(document))
    return dict(yolo_files(CocoFile(folder / "annotations.json"), [], folder).items())


def test_equal_ids_meet_in_yolo_labels_too(tmp_path: Path):
    document = {
        "images": [{"id": 1.0, "file_name": "a.png", "width": 10, "height": 10}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 7.0, "bbox": [0, 0, 5, 5]}],
        "categories": [{"id": 7, "name": "cat"}],
    }
    assert yolo_labels(tmp_path, document)["labels/a.txt"].startswith(b"0 0.25")


def test_yolo_decimal_class():
    _, objects = ingested(case("yolo-decimal-class"), "yolo")
    assert objects.category.tolist() == ["dog", "dog"] and objects.status.tolist() == ["ok", "ok"]


@pytest.mark.parametrize("written", ["1", "1.0", "1e0", "1.000000000000000000e+00", "01"])
def test_a_class_is_a_whole_number_however_it_is_written(tmp_path, written):
    _, objects = yolo(tmp_path, f"{written} .5 .5 .5 .5")
    assert objects.category.tolist() == ["dog"]


@pytest.mark.parametrize("written", ["1.5", "nan", "inf", "1e999", "dog", ""])
def test_another_text_is_not_a_whole_number(written):
    with pytest.raises(ValueError):
        whole(written)


def test_deep_pcb_labels_may_have_a_point(tmp_path):
    picture(tmp_path / "PCB" / "1" / "1_test.jpg")
    text(tmp_path / "PCB" / "1_not" / "1.txt", "1.0 2.0 11.0 12.0 3.0\n")
    _, objects = ingested(tmp_path / "PCB", "deep-pcb")
    assert boxes(objects) == [[1, 2, 10, 10]] and objects.category.tolist() == ["mousebite"]


def test_loco_rows_whose_ids_have_a_point_are_of_one_picture(tmp_path):
    picture(tmp_path / "a.png")
    file = text(
        tmp_path / "annotations.csv",
        'id,image_id,category_id,bbox,file_name\n1,1.0,5.0,"[1, 2, 3, 4]",a.png\n2,1,5,"[1, 2, 3, 4]",a.png\n',
    )
    images, objects = ingested(tmp_path, "loco", file)
    assert len(images) == 1 and objects.category.tolist() == ["forklift", "forklift"]


def test_a_voc_size_may_have_a_point(tmp_path):
    picture(tmp_path / "JPEGImages" / "a.png")
    images, _ = voc(tmp_path, f"<size><width>40.0</width><height>20.00</height></size>{OBJECT}")
    assert images.status.tolist() == ["ok"] and (images.width[0], images.height[0]) == (40, 20)


# --- texts that a parser changes -------------------------------------------------------------------


def test_yolo_yaml_scalar_names():
    _, objects = ingested(case("yolo-yaml-scalar-names"), "yolo")
    assert objects.category.tolist() == ["yes", "no", "010", "1.10", "12:30:45"]


@pytest.mark.parametrize(
    "name", ["yes", "off", "010", "0x1F", "1_000", "1.50", "1e3", "2001-02-03", "~", "null", ".inf"]
)
@pytest.mark.parametrize("header", ["names: [{}, dog]", "names:\n  0: {}\n  1: dog"], ids=["list", "mapping"])
def test_a_class_name_is_what_data_yaml_has(tmp_path, name, header):
    _, objects = yolo(tmp_path, "0 .5 .5 .5 .5", header.format(name))
    assert objects.category.tolist() == [name]


def test_voc_decimal_names():
    _, objects = ingested(case("voc-decimal-names", "JPEGImages"), "voc")
    assert objects.category.tolist() == ["1.50", "1.5"]


@pytest.mark.parametrize("name", ["1.50", "-0", "007", "1e3", "True", "2.0"])
def test_a_voc_text_stays_as_it_is_written(tmp_path, name):
    picture(tmp_path / "JPEGImages" / "a.png")
    _, objects = voc(tmp_path, f"<object><name>{name}</name><plate>{name}</plate>{BOX}</object>")
    assert objects.category.tolist() == [name]
    assert str(json.loads(objects.record[0])["plate"]) == name


def test_a_voc_file_name_that_looks_like_a_number_is_found(tmp_path):
    picture(tmp_path / "JPEGImages" / "1.50", format="PNG")
    images, _ = voc(tmp_path, f"<filename>1.50</filename>{OBJECT}")
    assert images.path.tolist() == ["1.50"] and images.status.tolist() == ["ok"]


def test_a_loco_cell_that_is_no_number_of_its_own_stays_text(tmp_path):
    file = text(
        tmp_path / "a.csv",
        'id,image_id,category_id,bbox,file_name,plate,score\n1,1,5,"[1, 2, 3, 4]",a.png,1.10,0.5\n',
    )
    (note,) = json.loads(csv_document(file))["annotations"]
    assert (note["plate"], note["score"], note["bbox"]) == ("1.10", 0.5, [1, 2, 3, 4])


# --- names -----------------------------------------------------------------------------------------


def test_yolo_export_names_with_breaks(tmp_path: Path):
    document = json.loads(case("yolo-export-names-with-breaks", "ann.json").read_bytes())
    files = yolo_labels(tmp_path, document)
    assert files["classes.txt"].decode().split("\n") == ["cat", "fork lift", "category 2", "dog", ""]
    assert [line[0] for line in files["labels/a.txt"].decode().splitlines()] == ["0", "1", "2", "3"]


def test_voc_name_without_suffix():
    images, _ = ingested(case("voc-name-without-suffix", "JPEGImages"), "voc")
    assert images.status.tolist() == ["ok", "ok"] and images.path.tolist() == ["a.tiff", "b.gif"]


@pytest.mark.parametrize("suffix", [*SUFFIXES, ".TIF", ".Bmp", ".JPG"])
@pytest.mark.parametrize("name", ["a", "", "a.b", "other"])
def test_a_voc_picture_is_found_with_any_suffix(tmp_path, suffix, name):
    file = tmp_path / "JPEGImages" / f"{name or 'a'}{suffix}"
    file.parent.mkdir()
    file.write_bytes(b"")
    dataset = voc_dataset(tmp_path, f"<filename>{name}</filename>{OBJECT}")
    assert dataset.images.to_pandas().path.tolist() == [file.name]


def voc_dataset(root: Path, fields: str) -> Any:
    text(root / "Annotations" / "a.xml", f"<annotation>{fields}</annotation>")
    return read_dataset(DatasetSettings(images=root / "JPEGImages", format="voc"))


@pytest.mark.parametrize("name", ["a\u2028b.png", "a\x85b.png", "a b.png", "a\x0cb.png"])
def test_a_list_has_a_name_a_line_whatever_else_ends_a_line_in_unicode(tmp_path, name):
    picture(tmp_path / "images" / name, format="PNG")
    text(tmp_path / "train.txt", f"images/{name}\n")
    text(tmp_path / "data.yaml", "train: train.txt\nnames: [cat]\n")
    images, _ = ingested(tmp_path, "yolo")
    assert images.status.tolist() == ["ok"] and images.path.tolist() == [f"images/{name}"]


def test_a_blank_line_of_classes_counts_as_labels_count_it(tmp_path):
    picture(tmp_path / "a.png")
    text(tmp_path / "a.txt", "2 .5 .5 .5 .5\n1 .5 .5 .2 .2\n")
    text(tmp_path / "classes.txt", "cat\n\ndog\n\n")
    assert ingested(tmp_path, "yolo")[1].category.tolist() == ["dog", "class_1"]


# --- hidden files ----------------------------------------------------------------------------------


def test_hidden_folders_yolo():
    images, objects = ingested(case("hidden-folders-yolo"), "yolo")
    assert images.path.tolist() == ["a.png"] and len(objects) == 1


HIDDEN = ("a/.ipynb_checkpoints/x{}", "._x{}", ".x{}", "__MACOSX/._x{}", "Thumbs.db")


def test_hidden_files_are_not_below_a_folder(tmp_path):
    for name in (*HIDDEN, "a/x{}", "b.PNG"):
        text(tmp_path / name.format(".png"), "")
    assert [path.relative_to(tmp_path).as_posix() for path in files_below(tmp_path, ".png")] == ["a/x.png", "b.PNG"]
    (tmp_path / ".set" / "a.png").parent.mkdir()
    (tmp_path / ".set" / "a.png").touch()
    assert files_below(tmp_path / ".set", ".png") == [tmp_path / ".set" / "a.png"]  # who names it means it


def make_bare(root: Path) -> None:
    picture(root / "a.png")
    text(root / "a.txt", "0 .5 .5 .5 .5")
    text(root / "classes.txt", "cat\n")


def make_ultralytics(root: Path) -> None:
    picture(root / "images" / "a.png")
    text(root / "labels" / "a.txt", "0 .5 .5 .5 .5")
    text(root / "data.yaml", "train: images\nnames: [cat]\n")


def make_voc(root: Path) -> None:
    picture(root / "a.png")
    text(root / "a.xml", f"<annotation><filename>a.png</filename>{OBJECT}</annotation>")


def make_triples(root: Path) -> None:
    picture(root / "a.png")
    Image.fromarray(np.tile(np.array([0, 255], np.uint8), (20, 20))).save(root / "a.mask.png")
    text(root / "a.txt", "a cat")


def make_vott(root: Path) -> None:
    picture(root / "a.png")
    text(root / "x-export.csv", '"image","xmin","ymin","xmax","ymax","label"\n"a.png",1,2,11,12,"cat"\n')


def make_coco(root: Path) -> None:
    picture(root / "a.png")
    note = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4]}
    document = {"images": [{"id": 1, "file_name": "a.png"}], "annotations": [note], "categories": [CATEGORY]}
    text(root / "ann.json", json.dumps(document))


def make_pcb(root: Path) -> None:
    picture(root / "1" / "1_test.jpg")
    text(root / "1_not" / "1.txt", "1 2 11 12 3\n")


CATEGORY = {"id": 1, "name": "cat"}
MAKERS = [
    ("yolo", make_bare),
    ("yolo", make_ultralytics),
    ("voc", make_voc),
    ("triples", make_triples),
    ("vott", make_vott),
    ("coco", make_coco),
    ("deep-pcb", make_pcb),
]


@pytest.mark.parametrize(("format", "make"), MAKERS, ids=[make.__name__ for _, make in MAKERS])
def test_hidden_copies_change_nothing_in_any_reader(tmp_path, format, make):
    make(tmp_path)
    before = ingested(tmp_path, format)
    for path in [path for path in tmp_path.rglob("*") if path.is_file()]:
        for copy in (path.with_name(f"._{path.name}"), path.parent / ".ipynb_checkpoints" / path.name):
            copy.parent.mkdir(exist_ok=True)
            copy.write_bytes(path.read_bytes())
    after = ingested(tmp_path, format)
    for was, now in zip(before, after, strict=True):
        pd.testing.assert_frame_equal(was, now)


# --- more values in a line than a format has -------------------------------------------------------


def test_yolo_pose_kpt_shape():
    _, objects = ingested(case("yolo-pose-kpt-shape"), "yolo")
    assert boxes(objects) == [[48, 24, 64, 72]] and not objects.polygon.any()
    record = json.loads(objects.record[0])
    assert record["keypoints"] == pytest.approx([56, 36, 2, 96, 84, 1]) and record["num_keypoints"] == 2


def test_keypoints_without_a_state_are_seen_unless_they_are_0(tmp_path):
    _, objects = yolo(tmp_path, "0 .5 .5 .5 .5 .25 .5 0 0", "names: [cat]\nkpt_shape: [2, 2]")
    record = json.loads(objects.record[0])
    assert record["keypoints"] == [10, 10, 2, 0, 0, 0] and record["num_keypoints"] == 1


def test_with_keypoints_a_line_of_other_length_is_a_row_with_a_reason(tmp_path):
    _, objects = yolo(tmp_path, "0 .5 .5 .5 .5 .1 .1\n0 .5 .5 .5 .5", "names: [cat]\nkpt_shape: [2, 3]")
    assert sorted(objects.reason) == ["", "record_malformed"]


@pytest.mark.parametrize("shape", ["[2, 4]", "5", "[0, 2]", "[a, b]", "[2]"])
def test_a_kpt_shape_that_is_none_is_one_sentence(tmp_path, shape):
    with pytest.raises(AugmentError, match=r"data\.yaml: 'kpt_shape' is"):
        yolo(tmp_path, "0 .5 .5 .5 .5", f"names: [cat]\nkpt_shape: {shape}")


@pytest.mark.parametrize(
    "more",
    [".9", ".9 7", ".9 1", ".9 0", "17 .9", ".5 .5 2 .4 .4 2", ".5 .5 2 .4 .4 1 .3 .3 0 .2 .2 2"],
    ids=["confidence", "track", "track 1", "track 0", "track first", "pose", "longer pose"],
)
def test_what_follows_a_box_is_never_an_outline(tmp_path, more):
    _, objects = yolo(tmp_path, f"0 .5 .5 .4 .4 {more}")
    assert objects.status.tolist() == ["rejected"] and objects.reason.tolist() == ["record_malformed"]


@pytest.mark.parametrize("line", ["0 .1 .1 .9 .1 .5 .9", "0 0 0 1 0 1 1", "0 -.02 .1 1.01 .1 .5 .9 .2 .8"])
def test_an_outline_is_one(tmp_path, line):
    _, objects = yolo(tmp_path, line)
    assert objects.status.tolist() == ["ok"] and objects.polygon.all()


# --- separators, repeated elements, layouts --------------------------------------------------------


def test_yolo_list_backslashes():
    _, objects = ingested(case("yolo-list-backslashes"), "yolo")
    assert len(objects) == 2 and (objects.status == "ok").all()


def test_windows_separators_in_data_yaml(tmp_path):
    picture(tmp_path / "set" / "images" / "train" / "a.png")
    text(tmp_path / "set" / "labels" / "train" / "a.txt", "0 .5 .5 .5 .5")
    text(tmp_path / "data.yaml", "path: .\\set\ntrain: images\\train\nnames: [cat]\n")
    assert len(ingested(tmp_path, "yolo")[1]) == 1


def test_windows_separators_in_darknet_lists(tmp_path):
    picture(tmp_path / "data" / "obj" / "a.png")
    text(tmp_path / "data" / "obj" / "a.txt", "0 .5 .5 .5 .5")
    text(tmp_path / "data" / "train.txt", "data\\obj\\a.png\r\n")
    text(tmp_path / "data" / "obj.names", "cat\r\n")
    text(tmp_path / "data" / "obj.data", "train = data\\train.txt\r\nnames = data\\obj.names\r\n")
    _, objects = ingested(tmp_path / "data", "yolo")
    assert objects.category.tolist() == ["cat"] and objects.status.tolist() == ["ok"]


@pytest.mark.parametrize("repeated", ["<name>a</name>", BOX, "<pose>x</pose>", "<filename>b.png</filename>"])
def test_a_repeated_element_is_kept_or_a_reason_but_never_the_last_alone(tmp_path, repeated):
    picture(tmp_path / "JPEGImages" / "a.png")
    if "filename" in repeated:
        images, objects = voc(tmp_path, f"<filename>a.png</filename>{repeated}{OBJECT}")
        assert images.reason.tolist() == ["record_malformed"] and objects.empty
        return
    _, objects = voc(tmp_path, OBJECT.replace("</object>", f"<pose>y</pose>{repeated}</object>"))
    (row,) = objects.itertuples()
    reason = {"<name>a</name>": "record_malformed", BOX: "box_malformed"}.get(repeated, "")
    assert row.reason == reason
    assert reason or json.loads(row.record)["pose"] == ["y", "x"]


def test_voc_root():
    images, objects = ingested(case("voc-root"), "voc")
    assert images.status.tolist() == ["ok"] and images.path.tolist() == ["JPEGImages/a.png"]
    assert boxes(objects) == [[5, 6, 35, 44]]


def test_several_years_of_voc_are_one_set_with_their_own_splits(tmp_path):
    for year, split in (("VOC2007", "train"), ("VOC2012", "val")):
        picture(tmp_path / year / "JPEGImages" / "a.png")
        text(tmp_path / year / "Annotations" / "a.xml", f"<annotation><filename>a.png</filename>{OBJECT}</annotation>")
        text(tmp_path / year / "ImageSets" / "Main" / f"{split}.txt", "a\n")
    images, _ = ingested(tmp_path, "voc")
    assert dict(zip(images.path, images.split, strict=True)) == {
        "VOC2007/JPEGImages/a.png": "train",
        "VOC2012/JPEGImages/a.png": "val",
    }


def test_voc_trainval():
    images, _ = ingested(case("voc-trainval", "JPEGImages"), "voc")
    assert dict(zip(images.path, images.split, strict=True)) == {"a.png": "train", "b.png": "test"}


@pytest.mark.parametrize(
    ("lists", "split"),
    [
        ({"trainval": "a", "val": "a"}, "val"),
        ({"trainval": "a"}, "train"),
        ({"train": "a  1", "test": "b -1"}, "train"),
        ({"train": "b"}, "unlisted"),
    ],
)
def test_a_split_is_that_of_the_narrowest_list(tmp_path, lists, split):
    picture(tmp_path / "JPEGImages" / "a.png")
    for name, lines in lists.items():
        text(tmp_path / "ImageSets" / "Main" / f"{name}.txt", f"{lines}\n")
    assert voc(tmp_path, OBJECT)[0].split.tolist() == [split]


def test_a_name_with_blanks_is_found_in_its_list(tmp_path):
    picture(tmp_path / "JPEGImages" / "my picture 1.png")
    text(tmp_path / "ImageSets" / "Main" / "train.txt", "my picture 1\n")
    images, _ = voc(tmp_path, OBJECT, "my picture 1")
    assert images.split.tolist() == ["train"] and images.status.tolist() == ["ok"]


# --- documents -------------------------------------------------------------------------------------


def test_voc_deep_xml():
    images, objects = ingested(case("voc-deep-xml", "JPEGImages"), "voc")
    assert sorted(images.reason) == ["", "record_malformed"] and len(objects) == 1


def test_voc_utf16():
    _, objects = ingested(case("voc-utf16", "JPEGImages"), "voc")
    assert objects.category.tolist() == ["cat"] and objects.status.tolist() == ["ok"]


@pytest.mark.parametrize("format", ["yolo", "deep-pcb"])
@pytest.mark.parametrize("fault", ["folder", "dangling"])
def test_a_label_file_that_cannot_be_read_is_a_row_and_not_the_end(tmp_path, format, fault):
    label = tmp_path / ("labels/a.txt" if format == "yolo" else "images/1_not/1.txt")
    for name in ("a", "b") if format == "yolo" else ("1/1_test", "1/2_test"):
        picture(tmp_path / "images" / f"{name}{'.png' if format == 'yolo' else '.jpg'}")
    text(
        label.with_name("b.txt" if format == "yolo" else "2.txt"), "0 .5 .5 .5 .5" if format == "yolo" else "1 2 3 4 1"
    )
    text(tmp_path / "classes.txt", "cat\n")
    label.mkdir() if fault == "folder" else label.symlink_to("nowhere")
    images, objects = ingested(tmp_path / "images", format)
    assert (images.status == "ok").all() and sorted(objects.reason) == ["", "record_malformed"]


def test_a_name_that_is_not_utf_8_is_a_row_and_not_the_end(tmp_path):
    make_pcb(tmp_path)
    name = b"1/\xff_test.jpg".decode(errors="surrogateescape")
    (tmp_path / name).write_bytes((tmp_path / "1" / "1_test.jpg").read_bytes())
    images, objects = ingested(tmp_path, "deep-pcb")
    assert sorted(images.reason) == ["", "record_malformed"] and len(objects) == 1


# --- pictures --------------------------------------------------------------------------------------


def test_tiff_orientation_yolo():
    _, objects = ingested(case("tiff-orientation-yolo"), "yolo")
    assert boxes(objects) == [[12, 24, 24, 48]] * 2 and (objects.status == "ok").all()


def turned(path: Path, orientation: int) -> np.ndarray:
    """A picture of 40 × 20 stored pixels that says how it is turned; its stored pixels."""
    pixels = np.random.default_rng(1).integers(0, 256, (20, 40, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    options: dict[str, Any] = {".webp": {"lossless": True}, ".avif": {"quality": 100}}.get(path.suffix, {})
    Image.fromarray(pixels).save(path, exif=exif, **options)
    return pixels


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".tif", ".png", ".webp", ".jpg", ".avif", ".mpo"])
def test_a_picture_is_turned_once_in_every_file_type_that_can_say_it(tmp_path, suffix, orientation):
    if suffix == ".avif" and "AVIF" not in Image.SAVE:
        pytest.skip("this Pillow writes no AVIF")
    path = tmp_path / f"a{suffix}"
    pixels = turned(path, orientation)
    upright = (40, 20) if orientation < 5 else (20, 40)
    assert header_size(path) == upright
    for info in (inspect(path, MOST_PIXELS), glance(path, MOST_PIXELS)):
        assert (info.upright_width, info.upright_height) == upright
        assert (info.stored_width, info.stored_height) == (40, 20)
    assert load_rgb(path, "upright").shape[:2] == upright[::-1]
    if suffix in (".tif", ".png", ".webp"):
        np.testing.assert_array_equal(load_rgb(path, "stored"), pixels)


def test_a_tiff_that_was_annotated_as_it_is_stored_is_read_so(tmp_path):
    turned(tmp_path / "a.tif", 6)
    image = {"id": 1, "file_name": "a.tif", "width": 40, "height": 20}
    images, _ = coco(tmp_path, [image], [], [CATEGORY])
    assert images.frame.tolist() == ["stored"] and images.status.tolist() == ["ok"]


def test_png_large_metadata():
    images, _ = ingested(case("png-large-metadata", "images"), "coco", case("png-large-metadata", "ann.json"))
    assert images.status.tolist() == ["ok", "ok"]


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


LARGE = b"x" * (2 * PngImagePlugin.MAX_TEXT_CHUNK)
METADATA = {
    "zTXt": chunk(b"zTXt", b"note\0\0" + zlib.compress(LARGE)),
    "iTXt": chunk(b"iTXt", b"note\0\1\0en\0note\0" + zlib.compress(LARGE)),
    "iCCP": chunk(b"iCCP", b"profile\0\0" + zlib.compress(LARGE)),
    "many": 70 * chunk(b"zTXt", b"note\0\0" + zlib.compress(LARGE[: PngImagePlugin.MAX_TEXT_CHUNK])),
    "not compressed": chunk(b"zTXt", b"note\0\0nothing that zlib knows"),
    "checksum": chunk(b"tEXt", b"note\0text")[:-1] + b"?",
}


@pytest.mark.parametrize("where", ["before", "after"])
@pytest.mark.parametrize("kind", METADATA)
def test_no_metadata_costs_a_png(tmp_path, kind, where):
    file = BytesIO()
    pixels = np.random.default_rng(1).integers(0, 256, (20, 40, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).save(file, "PNG", exif=exif)
    data = file.getvalue()
    at = data.index(b"IDAT") - 4 if where == "before" else data.index(b"IEND") - 4
    path = tmp_path / "a.png"
    path.write_bytes(data[:at] + METADATA[kind] + data[at:])
    assert header_size(path) == (20, 40) and inspect(path, MOST_PIXELS).upright_width == 20
    np.testing.assert_array_equal(load_rgb(path, "stored"), pixels)


def test_triples_mask_in_alpha():
    _, objects = ingested(case("triples-mask-in-alpha"), "triples")
    assert boxes(objects) == [[20, 20, 40, 40]] and objects.status.tolist() == ["ok"]


@pytest.mark.parametrize("colour", [(0, 0, 0), (255, 255, 255), (200, 10, 10)])
@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_a_mask_of_one_colour_is_its_transparency(tmp_path, mode, colour):
    picture(tmp_path / "a.png")
    alpha = np.full((20, 40), 255, np.uint8)
    alpha[5:15, 10:30] = 0
    if mode == "P":
        image = Image.fromarray((alpha == 0).astype(np.uint8), "P")
        image.putpalette([*colour, *colour])
        image.save(tmp_path / "a.mask.png", transparency=b"\xff\0")
    else:
        image = Image.new("RGB", (40, 20), colour).convert(mode)
        image.putalpha(Image.fromarray(alpha))
        image.save(tmp_path / "a.mask.png")
    _, objects = ingested(tmp_path, "triples")
    assert boxes(objects) == [[10, 5, 20, 10]]


@pytest.mark.parametrize(("shift", "reason"), [(0, ""), (10, "mask_not_binary")])
def test_colours_and_transparency_that_differ_are_no_mask(tmp_path, shift, reason):
    picture(tmp_path / "a.png")
    mask = np.full((20, 40, 2), 255, np.uint8)
    mask[:, 10:20, 0] = 0
    mask[:, 10 + shift : 20 + shift, 1] = 0
    Image.fromarray(mask, "LA").save(tmp_path / "a.mask.png")
    _, objects = ingested(tmp_path, "triples")
    assert objects.reason.tolist() == [reason]


# --- evaluation, settings --------------------------------------------------------------------------


def test_twins_of_flat_pictures(tmp_path):
    flat = case("twins-of-flat-pictures", "flat")
    scores = evaluated(flat, flat, tmp_path, "twins,copies")
    assert scores["twins"] == 1 and scores["leaks"] == 1 and scores["copies"] == 1


def evaluated(real: Path, made: Path, folder: Path, metrics: str) -> dict[str, Any]:
    file = folder / "scores.json"
    given = [str(real), str(made), "--extractor", "pixels", "--metrics", metrics]
    assert main(["evaluate", *given, "--json", str(file), "--cache", str(folder / "cache")]) == 0
    found: dict[str, Any] = json.loads(file.read_bytes())
    return found


def test_of_pictures_at_the_mean_those_are_twins_that_are_equal():
    metric = METRICS.build(METRICS.member("twins", {}))
    mean, other = np.zeros((3, 4)), np.eye(4)
    same = metric.of_sets(np.concatenate([other, -other]), mean, 0)
    assert same["twins"] == 1 and same["leaks"] == 0


# --- the environment: proxies and a home that cannot be written stand in test_server.py ---------------

POOR = [
    "setpriv",
    "--bounding-set=-dac_override,-dac_read_search",
    "--inh-caps=-dac_override,-dac_read_search",
]  # root without the right to write everywhere


def as_others(command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
    """A command by somebody who may not write everywhere."""
    if os.geteuid() == 0:
        try:
            subprocess.run([*POOR, "true"], check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError):
            pytest.skip("root, and no setpriv to give up its rights")
        command = [*POOR, *command]
    root = str(Path(__file__).parents[1])
    environment = {**os.environ, "PYTHONPATH": root, **options.pop("env", {})}
    return subprocess.run(command, capture_output=True, text=True, env=environment, **options)


@pytest.fixture
def closed(tmp_path):
    folder = tmp_path / "closed"
    folder.mkdir()
    folder.chmod(0o555)
    yield folder
    folder.chmod(0o755)


@pytest.mark.parametrize("option", ["--report", "--json", "--cache"])
def test_readonly_output(tmp_path, closed, option):
    for name in ("a", "b"):
        picture(tmp_path / "set" / f"{name}.png")
    place = closed if option == "--cache" else closed / "file.html"
    given = [str(tmp_path / "set"), str(tmp_path / "set"), "--extractor", "pixels", "--metrics", "copies"]
    command = [sys.executable, "-m", "flows.cli", "evaluate", *given, option, str(place)]
    done = as_others(command, cwd=tmp_path, env={"XDG_CACHE_HOME": str(tmp_path / "cache")})
    assert done.returncode == 1 and not done.stdout
    assert done.stderr.startswith(f"augment: folder {closed} cannot be written (Permission denied)")
    assert len(done.stderr.splitlines()) == 1


def test_a_cache_that_cannot_be_written_is_gone_without(tmp_path):
    for name in ("a", "b"):
        picture(tmp_path / "set" / f"{name}.png")
    given = [str(tmp_path / "set"), str(tmp_path / "set"), "--extractor", "pixels", "--metrics", "copies"]
    command = [sys.executable, "-m", "flows.cli", "evaluate", *given]
    done = as_others(command, cwd=tmp_path, env={"HOME": "/proc", "XDG_CACHE_HOME": ""})
    assert done.returncode == 0 and "copies" in done.stdout
    assert "/proc/.cache/augment cannot be written" in done.stderr and "--cache" in done.stderr


def test_without_a_free_port_is_one_sentence(monkeypatch):
    import errno
    import socket

    from flows.server import listen

    def none_left(self, address):
        raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))

    monkeypatch.setattr(socket.socket, "bind", none_left)
    with pytest.raises(AugmentError, match=r"no port of 127\.0\.0\.1 is free for a server .*: end"):
        listen()


def test_prefects_home_is_moved_where_the_users_cannot_be_written_and_a_chosen_one_is_left(monkeypatch, tmp_path):
    from flows.commands import connection

    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("PREFECT_HOME", raising=False)
    monkeypatch.setattr(connection.tempfile, "mkdtemp", lambda prefix: str(tmp_path / "moved"))
    connection._settle_home()
    assert "PREFECT_HOME" not in os.environ and (tmp_path / ".prefect").is_dir()
    monkeypatch.setattr(connection, "unwritable", lambda folder: "Read-only file system")
    monkeypatch.setenv("PREFECT_HOME", "/chosen")
    connection._settle_home()
    assert os.environ["PREFECT_HOME"] == "/chosen"
    monkeypatch.delenv("PREFECT_HOME")
    connection._settle_home()
    assert os.environ["PREFECT_HOME"] == str(tmp_path / "moved")
