"""Readers: every record comes back byte for byte, every fault is a row with a reason or one clear sentence."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from shared import shared

from lib.core.documents import MAX_DEPTH
from lib.core.errors import AugmentError
from lib.datasets.formats import FORMATS, Dataset, categories_of, read_dataset
from lib.datasets.formats.coco import read_document
from lib.datasets.formats.tables import field_of
from lib.records.rows import ImageRow, ObjectRow, arrow_schema
from lib.records.settings import DatasetSettings

HERE = DatasetSettings(images=Path())


def image(id: Any = 1, **fields: Any) -> dict[str, Any]:
    return {"id": id, "file_name": f"{id}.jpg", "width": 100, "height": 80} | fields


def box(id: Any = 1, **fields: Any) -> dict[str, Any]:
    return {"id": id, "image_id": 1, "category_id": 1, "bbox": [10, 10, 20, 20], "area": 400, "iscrowd": 0} | fields


def coco(images: list[Any] | None = None, annotations: list[Any] | None = None, **top: Any) -> dict[str, Any]:
    return {
        "images": [image()] if images is None else images,
        "annotations": [box()] if annotations is None else annotations,
        "categories": [{"id": 1, "name": "cat"}],
    } | top


def read(document: Any, settings: DatasetSettings = HERE) -> tuple[pd.DataFrame, pd.DataFrame]:
    data = document if isinstance(document, bytes) else json.dumps(document).encode()
    dataset = read_document(data, "x.json", settings)
    return tables(dataset)


def tables(dataset: Dataset) -> tuple[pd.DataFrame, pd.DataFrame]:
    assert dataset.images.schema.equals(arrow_schema(ImageRow))
    assert dataset.objects.schema.equals(arrow_schema(ObjectRow))
    return dataset.images.to_pandas(), dataset.objects.to_pandas()


def only(rows: pd.DataFrame) -> Any:
    (row,) = rows.itertuples()
    return row


def error_of(document: Any, settings: DatasetSettings = HERE) -> str:
    with pytest.raises(AugmentError) as caught:
        read(document, settings)
    return str(caught.value)


# --- COCO: round trip --------------------------------------------------------------------------------------------

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
unknown = st.dictionaries(st.text().map(lambda name: "x_" + name), json_values, max_size=3)


@settings(max_examples=60)
@given(
    images=st.lists(unknown, max_size=4),
    annotations=st.lists(unknown, max_size=4),
    top=unknown,
    indent=st.sampled_from([None, 1]),
    ascii_only=st.booleans(),
)
def test_records_come_back_byte_for_byte(
    images: list[Any], annotations: list[Any], top: dict[str, Any], indent: int | None, ascii_only: bool
) -> None:
    def text(value: Any) -> str:
        return json.dumps(value, indent=indent, ensure_ascii=ascii_only)

    try:
        image_texts = [text(image(i) | extra).encode() for i, extra in enumerate(images)]
        object_texts = [text(box(i) | extra).encode() for i, extra in enumerate(annotations)]
        rest = text(top | {"categories": []})[1:].encode()
    except UnicodeEncodeError:  # a lone surrogate cannot be in a file
        return
    data = b'{"images": [%s], "annotations":[ %s ],%s' % (b" ,".join(image_texts), b",\n".join(object_texts), rest)
    dataset = read_document(data, "x.json", HERE)
    assert dataset.images["record"].to_pylist() == image_texts
    assert dataset.objects["record"].to_pylist() == object_texts
    assert json.loads(dataset.envelope) == top | {"images": [], "annotations": [], "categories": []}


def test_the_envelope_keeps_order_and_bytes_of_all_else() -> None:
    data = b'{"info": {"n": 1.50},"annotations": [ ],"new":[1 ,2],"images":[],"categories":[]}'
    expected = b'{"info":{"n": 1.50},"annotations":[],"new":[1 ,2],"images":[],"categories":[]}'
    assert read_document(data, "x.json", HERE).envelope == expected


def test_a_faulty_record_keeps_its_bytes_and_its_neighbours() -> None:
    document = coco(annotations=[box(1), box(2, bbox="?"), 7, box(4, iscrowd="no"), box(5)])
    _, objects = read(document)
    assert [json.loads(r) for r in objects.record] == document["annotations"]
    assert objects.status.tolist() == ["ok", "rejected", "rejected", "rejected", "ok"]


# --- COCO: oddities that are fine --------------------------------------------------------------------------------


def test_a_box_is_read_as_xywh_with_its_category() -> None:
    row = only(read(coco(annotations=[box(bbox=[1.5, 2, 30, 4.25])]))[1])
    assert (row.x, row.y, row.w, row.h) == (1.5, 2, 30, 4.25)
    assert (row.key, row.image_key, row.category_id, row.category, row.status) == ("1", "1", "1", "cat", "ok")


@pytest.mark.parametrize("field", ["area", "iscrowd", "segmentation"])
@pytest.mark.parametrize("value", [None, "missing"])
def test_missing_or_null_fields_are_fine(field: str, value: str | None) -> None:
    record = box(**{field: value})
    if value == "missing":
        del record[field]
    assert only(read(coco(annotations=[record]))[1]).status == "ok"


@pytest.mark.parametrize(
    ("value", "crowd"), [(1, True), (True, True), (1.0, True), (0, False), (False, False), (0.0, False)]
)
def test_iscrowd_may_be_a_number_or_a_boolean(value: Any, crowd: bool) -> None:
    row = only(read(coco(annotations=[box(iscrowd=value)]))[1])
    assert (row.status, row.crowd) == ("ok", crowd)


@pytest.mark.parametrize(
    "size", [{"width": None, "height": 80}, {"width": 0, "height": 0}, {"width": -5, "height": 80}]
)
def test_a_size_that_is_not_known_is_zero(size: dict[str, Any]) -> None:
    row = only(read(coco(images=[image(**size)]))[0])
    assert (row.status, row.width, row.height) == ("ok", 0, size["height"])


def test_a_size_may_be_a_float_or_missing() -> None:
    images, _ = read(coco(images=[image(width=640.0), {"id": 2, "file_name": "b.jpg"}]))
    assert images.width.tolist() == [640, 0] and (images.status == "ok").all()


@pytest.mark.parametrize("id", ["a", "12", 2**31, 2**63, 2**70, 1.5, -1])
def test_ids_of_any_kind_are_kept_as_json_text(id: Any) -> None:
    images, objects = read(coco(images=[image(id)], annotations=[box(id, image_id=id)]))
    assert only(images).key == only(objects).key == only(objects).image_key == json.dumps(id)
    assert only(objects).status == "ok"


def test_a_number_and_its_text_are_two_ids() -> None:
    images, objects = read(
        coco(images=[image(12), image("12")], annotations=[box(1, image_id="12"), box("1", image_id=12)])
    )
    assert images.key.tolist() == ["12", '"12"'] and (images.status == "ok").all()
    assert objects.image_key.tolist() == ['"12"', "12"] and (objects.status == "ok").all()


def test_a_byte_order_mark_is_skipped() -> None:
    assert len(read(b"\xef\xbb\xbf" + json.dumps(coco()).encode())[1]) == 1


def test_an_empty_data_set_has_empty_tables() -> None:
    images, objects = read(coco([], []))
    assert len(images) == len(objects) == 0


def test_a_box_that_overflows_in_part_is_ok() -> None:
    assert only(read(coco(annotations=[box(bbox=[-5, 70, 300, 300])]))[1]).status == "ok"


RECTANGLE = [10, 10, 30, 10, 30, 30, 10, 30]


@pytest.mark.parametrize(
    ("segmentation", "polygon"),
    [
        (None, False),
        ([], False),
        ([[]], False),
        ([RECTANGLE], False),
        ([[*RECTANGLE, 10, 10]], False),
        ([[10.4, 29.6, 30.4, 30, 30, 10.3, 9.8, 10]], False),
        ([[10, 10, 30, 10, 30, 30]], True),
        ([[10, 10, 30, 10, 20, 30, 10, 30]], True),
        ([RECTANGLE, RECTANGLE], True),
        ([list(range(40))], True),
        ({"counts": "abc", "size": [80, 100]}, True),
        ({"counts": [0, 10, 7990], "size": [80, 100]}, True),
        ("?", False),
        ([1, 2], False),
        ([[10**400, 10, 30, 10, 30, 30]], False),
    ],
)
def test_only_what_says_more_than_the_box_is_a_polygon(segmentation: Any, polygon: bool) -> None:
    row = only(read(coco(annotations=[box(segmentation=segmentation)]))[1])
    assert (row.status, row.polygon) == ("ok", polygon)


# --- COCO: records set aside -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "reason", "place"),
    [
        ({"bbox": [1, 2, 3]}, "box_malformed", "$.annotations[0].bbox"),
        ({"bbox": [1, 2, 3, "4"]}, "box_malformed", "$.annotations[0].bbox[3]"),
        ({"bbox": None}, "box_malformed", "$.annotations[0].bbox"),
        ({"bbox": {"x": 1}}, "box_malformed", "$.annotations[0].bbox"),
        ({"bbox": [1, 2, 3, None]}, "box_malformed", "$.annotations[0].bbox[3]"),
        ({"bbox": [1, 2, 3, 0]}, "box_empty", "3×0"),
        ({"bbox": [10, 10, -3, 4]}, "box_empty", "-3×4"),
        ({"bbox": [100, 10, 3, 4]}, "box_outside", "100×80"),
        ({"bbox": [10, -9, 3, 4]}, "box_outside", "100×80"),
        ({"image_id": 2}, "image_unknown", "$.annotations[0].image_id 2"),
        ({"image_id": "1"}, "image_unknown", '"1"'),
        ({"category_id": 9}, "category_unknown", "$.annotations[0].category_id 9"),
        ({"iscrowd": "0"}, "record_malformed", "$.annotations[0].iscrowd"),
        ({"id": None}, "record_malformed", "$.annotations[0].id"),
    ],
)
def test_a_bad_annotation_is_a_row_with_a_reason_and_a_place(fields: dict[str, Any], reason: str, place: str) -> None:
    row = only(read(coco(annotations=[box(**fields)]))[1])
    assert (row.status, row.reason) == ("rejected", reason)
    assert place in row.detail


def test_a_number_beyond_float_is_a_malformed_box() -> None:
    data = json.dumps(coco()).replace("[10, 10", "[1e999, 10").encode()
    assert only(read(data)[1]).reason == "box_malformed"


def test_the_reason_names_the_row() -> None:
    _, objects = read(coco(annotations=[box(i) for i in range(17)] + [{"id": 17, "image_id": 1}]))
    assert "category_id" in objects.detail[17] and "$.annotations[17]" in objects.detail[17]
    assert (objects.key[17], objects.image_key[17], objects.reason[17]) == ("17", "1", "record_malformed")


def test_zero_height_boxes_as_in_train2017_are_set_aside_alone() -> None:
    _, objects = read(coco(annotations=[box(1), box(2, bbox=[5, 5, 9.6, 0.0])]))
    assert objects.reason.tolist() == ["", "box_empty"]


def test_repeated_ids_get_a_number_and_a_reason() -> None:
    images, objects = read(coco(images=[image(), image(), image()], annotations=[box(7), box(7), box(8)]))
    assert images.key.tolist() == ["1", "1#2", "1#3"]
    assert images.reason.tolist() == ["", "image_id_duplicate", "image_id_duplicate"]
    assert objects.key.tolist() == ["7", "7#2", "8"]
    assert objects.reason.tolist() == ["", "annotation_id_duplicate", ""]


@pytest.mark.parametrize("bad", [{"id": 2}, {"file_name": "a.jpg"}, 5, None, image(id=None), image(2, width="wide")])
def test_a_malformed_image_is_a_row_called_by_its_number(bad: Any) -> None:
    images, _ = read(coco(images=[image(), bad]))
    assert (images.key[1], images.status[1], images.reason[1]) == ("#1", "rejected", "record_malformed")
    assert "$.images[1]" in images.detail[1] and json.loads(images.record[1]) == bad


@pytest.mark.parametrize("name", ["../x.jpg", "/etc/x.jpg", "C:\\x.jpg", "a/../../x.jpg"])
def test_a_file_name_that_leaves_the_folder_is_set_aside(name: str) -> None:
    row = only(read(coco(images=[image(file_name=name)]))[0])
    assert (row.reason, row.path, row.file_name) == ("path_outside_root", "", name)


# --- COCO: files refused -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"hello", "byte 0"),
        (b"", "byte 0"),
        (b"[1, 2]", "`$`"),
        (json.dumps(coco()).encode()[:-40], "truncated"),
        (b'{"images": [NaN]}', "byte 12"),
        (b'{"images": [], "annotations": []}', "$.categories is missing"),
        (b'{"info": 1, "annotations": [], "categories": []}', "$.images is missing"),
        (json.dumps(coco() | {"annotations": {"1": box()}}).encode(), "`$.annotations`"),
        (json.dumps(coco() | {"images": {}}).encode(), "`$.images`"),
        (json.dumps(coco() | {"categories": [{"id": 1}]}).encode(), "`$.categories[0]`"),
        (json.dumps(coco() | {"categories": [{"id": 1, "name": n} for n in "ab"]}).encode(), "$.categories[1].id"),
        (json.dumps(coco(images=[image(file_name="\ud800.jpg")])).encode(), "hex escape (byte"),
        (b'{"images": ["\xff\xfe"]}', "byte 13 is not UTF-8"),
    ],
)
def test_a_file_that_is_not_coco_is_refused_in_one_sentence_with_the_place(data: bytes, words: str) -> None:
    message = error_of(data)
    assert message.startswith("x.json: ") and words in message and "\n" not in message


def test_a_truncated_file_is_reported_with_its_length() -> None:
    data = json.dumps(coco()).encode()[:-5]
    assert f"byte {len(data)}" in error_of(data)


def test_missing_files_and_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(AugmentError, match="nowhere"):
        read_dataset(DatasetSettings(images=tmp_path / "nowhere"))
    with pytest.raises(AugmentError, match=r"set dataset\.annotations"):
        read_dataset(DatasetSettings(images=tmp_path))
    with pytest.raises(AugmentError, match=r"no\.json"):
        read_dataset(DatasetSettings(images=tmp_path, annotations=tmp_path / "no.json"))


@pytest.mark.parametrize("folder", ["images", "annotations"])
def test_the_one_json_beside_the_pictures_is_found(tmp_path: Path, folder: str) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / folder).mkdir(exist_ok=True)
    (tmp_path / folder / "a.json").write_text(json.dumps(coco()))
    assert read_dataset(DatasetSettings(images=tmp_path / "images")).images.num_rows == 1
    (tmp_path / folder / "b.json").write_text("{}")
    with pytest.raises(AugmentError, match="2 JSON files"):
        read_dataset(DatasetSettings(images=tmp_path / "images"))


# --- split and group ---------------------------------------------------------------------------------------------


def test_a_split_is_what_the_settings_say_or_train() -> None:
    assert only(read(coco())[0]).split == "train"
    assert only(read(coco(), DatasetSettings(images=Path(), split="val"))[0]).split == "val"


def test_the_official_split_is_the_records_field_or_an_error_that_says_so() -> None:
    official = DatasetSettings(images=Path(), split="official")
    images, _ = read(coco(images=[image(1, split="val"), image(2, split="train")]), official)
    assert images.split.tolist() == ["val", "train"]
    assert "$.images[0] has no field 'split'" in error_of(coco(), official)


def test_a_group_is_a_field_of_the_record_or_its_folder() -> None:
    document = coco(images=[image(1, video=7), image(2, video="a\u00e9"), image(3, file_name="x/y/3.jpg")])
    assert read(document, DatasetSettings(images=Path(), group="video"))[0].group.tolist() == ["7", "a\u00e9", ""]
    assert read(document, DatasetSettings(images=Path(), group="folder"))[0].group.tolist() == ["", "", "x/y"]


# --- LOCO --------------------------------------------------------------------------------------------------------

LOCO_CATEGORIES = [{"id": i, "name": n} for i, n in ((3, "small_load_carrier"), (5, "forklift"), (7, "pallet"))]


def loco_image(id: int, path: str) -> dict[str, Any]:
    return image(id, file_name=path.rpartition("/")[2], path=path)


def read_loco(tmp_path: Path, images: list[Any], **fields: Any) -> tuple[pd.DataFrame, pd.DataFrame]:
    document = coco(images=images, annotations=[box(category_id=5, iscrowd=False)], categories=LOCO_CATEGORIES)
    (tmp_path / "loco.json").write_text(json.dumps(document))
    return tables(
        read_dataset(DatasetSettings(images=tmp_path, annotations=tmp_path / "loco.json", format="loco", **fields))
    )


def test_loco_json_finds_pictures_by_path_or_else_by_name(tmp_path: Path) -> None:
    (tmp_path / "subset-3" / "a").mkdir(parents=True)
    (tmp_path / "subset-3" / "a" / "1,2.jpg").touch()
    (tmp_path / "5.jpg").touch()
    paths = ["/dataset/subset-3/a/1,2.jpg", "/dataset/subset-1/5.jpg", "/dataset/subset-4/no.jpg", "/a/../../no.jpg"]
    images, objects = read_loco(tmp_path, [loco_image(i, p) for i, p in enumerate(paths, 1)])
    assert images.path.tolist() == ["subset-3/a/1,2.jpg", "5.jpg", "subset-4/no.jpg", ""]
    assert images.reason.tolist() == ["", "", "", "path_outside_root"]
    assert (only(objects).category, only(objects).crowd) == ("forklift", False)


def test_loco_json_is_split_by_subset_unless_set(tmp_path: Path) -> None:
    records = [loco_image(i, f"/dataset/subset-{i}/x.jpg") for i in range(1, 6)]
    assert read_loco(tmp_path, records)[0].split.tolist() == ["val", "train", "train", "val", "train"]
    assert set(read_loco(tmp_path, records, split="test")[0].split) == {"test"}


def test_the_forklift_csv_reads_as_49_pictures_and_50_boxes() -> None:
    folder = shared("loco_forklifts", "forklifts")
    dataset = read_dataset(DatasetSettings(images=folder, format="loco"))
    images, objects = tables(dataset)
    assert (len(images), len(objects)) == (49, 50)
    assert (images.status == "ok").all() and (objects.status == "ok").all() and set(images.split) == {"train"}
    assert all((folder / path).is_file() for path in images.path)
    assert set(objects.category) == {"forklift"} and not objects.polygon.any()
    assert [c["id"] for c in json.loads(dataset.envelope)["categories"]] == [3, 5, 7, 10, 11]


def test_the_forklift_csv_keeps_every_column() -> None:
    images, objects = tables(read_dataset(DatasetSettings(images=shared("loco_forklifts", "forklifts"), format="loco")))
    row, picture = json.loads(objects.record[0]), json.loads(images.record[0])
    assert (row["id"], row["bbox"], row["iscrowd"]) == (422291, [570.0, 489.0, 120.0, 145.0], False)
    assert (row["color"], row["metadata"], row["isbbox"]) == ("#cfe61c", {}, True)
    assert picture["path"].startswith("subset-3/") and picture["dataset_id"] == 32


def test_the_forklift_csv_has_an_official_split_by_subset() -> None:
    folder = shared("loco_forklifts", "forklifts")
    images, _ = tables(read_dataset(DatasetSettings(images=folder, format="loco", split="official")))
    subsets = [json.loads(r)["path"][7] for r in images.record]
    assert images.split.tolist() == ["val" if s in "14" else "train" for s in subsets]


def test_a_csv_cell_is_data_and_never_code(tmp_path: Path) -> None:
    text = 'id,image_id,category_id,bbox,file_name\n1,2,5,__import__("os").getcwd(),a.jpg\n'
    (tmp_path / "annotations.csv").write_text(text)
    images, objects = tables(read_dataset(DatasetSettings(images=tmp_path, format="loco")))
    assert (only(objects).reason, only(images).key) == ("box_malformed", "2")
    assert json.loads(only(objects).record)["bbox"] == '__import__("os").getcwd()'


@pytest.mark.parametrize("text", ["", "a,b\n1,2\n", "id\n1,2\n3,4,5\n"])
def test_a_csv_without_the_columns_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "annotations.csv").write_text(text)
    with pytest.raises(AugmentError, match="expected LOCO annotation rows"):
        read_dataset(DatasetSettings(images=tmp_path, format="loco"))


# --- YOLO --------------------------------------------------------------------------------------------------------


def picture(path: Path, width: int = 100, height: int = 50) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (width, height)).save(path)
    return path


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def bare(tmp_path: Path, *lines: str) -> DatasetSettings:
    picture(tmp_path / "images" / "a.png")
    write(tmp_path / "labels" / "a.txt", "\n".join(lines))
    write(tmp_path / "labels" / "classes.txt", "cat\ndog\n")
    return DatasetSettings(images=tmp_path / "images", annotations=tmp_path / "labels", format="yolo")


def test_a_yolo_line_is_relative_to_the_picture(tmp_path: Path) -> None:
    images, objects = tables(read_dataset(bare(tmp_path, "1 0.5 0.5 0.2 0.4")))
    row = only(objects)
    assert (row.x, row.y, row.w, row.h) == pytest.approx((40, 15, 20, 20))
    assert (row.category, row.category_id, row.polygon) == ("dog", "2", False)
    assert (only(images).width, only(images).height, only(images).split) == (100, 50, "train")


def test_a_yolo_outline_is_a_polygon_with_its_box(tmp_path: Path) -> None:
    row = only(tables(read_dataset(bare(tmp_path, "0 0.1 0.2 0.5 0.2 0.5 0.8")))[1])
    assert (row.x, row.y, row.w, row.h) == pytest.approx((10, 10, 40, 30))
    assert row.polygon and json.loads(row.record)["area"] == pytest.approx(600)


def test_a_bad_yolo_line_is_a_row_that_names_file_and_line(tmp_path: Path) -> None:
    lines = ["0 0.5 0.5 0.2 0.4", "", "0 0.5 0.5", "x 1 1 1 1", "0 nan 0 1 1", "0 1 1 1 1 1", "7 0.5 0.5 0.1 0.1"]
    _, objects = tables(read_dataset(bare(tmp_path, *lines)))
    by_reason = objects.groupby("reason").detail.apply(list)
    assert [text.split(": ")[0] for text in by_reason["record_malformed"]] == [
        "a.txt:3",
        "a.txt:4",
        "a.txt:5",
        "a.txt:6",
    ]
    assert (len(by_reason[""]), len(by_reason["category_unknown"])) == (1, 1)


def test_boxes_of_a_missing_yolo_picture_are_rows_too(tmp_path: Path) -> None:
    settings = bare(tmp_path, "0 0.5 0.5 0.2 0.4")
    write(tmp_path / "labels" / "lost.txt", "0 0.5 0.5 0.2 0.4")
    images, objects = tables(read_dataset(settings))
    assert images.file_name.tolist() == ["a.png", "lost.jpg"]
    assert objects.reason.tolist() == ["", "image_rejected"] and objects.image_key[1] == images.key[1]


def test_yolo_ids_do_not_change_when_pictures_are_added(tmp_path: Path) -> None:
    settings = bare(tmp_path, "0 0.5 0.5 0.2 0.4", "1 0.5 0.5 0.2 0.4")
    before = tables(read_dataset(settings))
    picture(tmp_path / "images" / "A.png")
    write(tmp_path / "labels" / "A.txt", "0 0.5 0.5 0.2 0.4")
    after = tables(read_dataset(settings))
    for old, new in zip(before, after, strict=True):
        assert set(old.key) < set(new.key) and all(int(k) < 2**48 for k in new.key)


def test_a_yolo_picture_in_two_lists_is_one_picture_and_a_rejected_row(tmp_path: Path) -> None:
    settings = bare(tmp_path, "0 0.5 0.5 0.2 0.4", "bad")
    write(tmp_path / "a.txt", "images/a.png")
    write(tmp_path / "data.yaml", "train: a.txt\nval: a.txt\nnames: [cat]")
    given = settings.model_copy(update={"annotations": tmp_path / "data.yaml"})
    images, objects = tables(read_dataset(given))
    assert images.reason.tolist() == ["", "image_id_duplicate"] and images.split.tolist() == ["train", "val"]
    assert objects.reason.tolist() == ["", "record_malformed"]


@pytest.mark.parametrize("names", ["[cat, dog]", "{0: cat, 1: dog}"])
def test_ultralytics_swaps_images_for_labels_and_has_splits(tmp_path: Path, names: str) -> None:
    for split in ("train", "val"):
        picture(tmp_path / "images" / split / f"{split}.png")
        write(tmp_path / "labels" / split / f"{split}.txt", "1 0.5 0.5 0.2 0.4")
    write(tmp_path / "data.yaml", f"path: .\ntrain: images/train\nval: images/val\nnames: {names}\n")
    images, objects = tables(read_dataset(DatasetSettings(images=tmp_path / "images", format="yolo")))
    assert images.path.tolist() == ["train/train.png", "val/val.png"]
    assert images.split.tolist() == ["train", "val"] and objects.category.tolist() == ["dog", "dog"]


@pytest.mark.parametrize("folder", ["images", "JPEGImages"])
def test_darknet_swaps_images_for_labels_where_nothing_lies_beside_the_picture(tmp_path: Path, folder: str) -> None:
    for name in ("a", "b"):
        picture(tmp_path / folder / "train" / f"{name}.png")
        write(tmp_path / "labels" / "train" / f"{name}.txt", "1 0.5 0.5 0.2 0.4")
    write(tmp_path / folder / "train" / "b.txt", "0 0.5 0.5 0.2 0.4")
    write(tmp_path / "obj.names", "cat\ndog")
    write(tmp_path / "train.txt", f"/home/me/set/{folder}/train/a.png\n{folder}\\train\\b.png")
    write(tmp_path / "obj.data", "names = obj.names\ntrain = train.txt")
    images, objects = tables(read_dataset(DatasetSettings(images=tmp_path / folder, format="yolo")))
    assert images.path.tolist() == ["train/a.png", "train/b.png"]
    assert objects.category.tolist() == ["dog", "cat"]


def test_yaml_that_is_not_a_data_set_is_refused(tmp_path: Path) -> None:
    for text in ("a: [", "- 1", "train: x", "names: [a]\ntrain: nowhere"):
        write(tmp_path / "data.yaml", text)
        with pytest.raises(AugmentError, match=r"data\.yaml"):
            read_dataset(DatasetSettings(images=tmp_path, format="yolo"))


def test_a_folder_without_labels_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AugmentError, match=r"set dataset\.annotations"):
        read_dataset(DatasetSettings(images=tmp_path, format="yolo"))


# --- VOC ---------------------------------------------------------------------------------------------------------

OBJECT = """<object><name>cat</name><pose>Left</pose><truncated>1</truncated><difficult>0</difficult>
<bndbox><xmin>10.5</xmin><ymin>20</ymin><xmax>30</xmax><ymax>60</ymax></bndbox></object>"""


def voc(tmp_path: Path, *bodies: str) -> DatasetSettings:
    (tmp_path / "images").mkdir(exist_ok=True)
    head = "<filename>{}.jpg</filename><size><width>100</width><height>80</height><depth>3</depth></size>"
    for i, body in enumerate(bodies):
        text = body if body.startswith("<?") else f"<annotation>{head.format(i)}{body}</annotation>"
        write(tmp_path / "Annotations" / f"{i}.xml", text)
    return DatasetSettings(images=tmp_path / "images", annotations=tmp_path / "Annotations", format="voc")


def test_a_voc_box_is_corner_and_difference(tmp_path: Path) -> None:
    images, objects = tables(read_dataset(voc(tmp_path, OBJECT)))
    row = only(objects)
    assert (row.x, row.y, row.w, row.h, row.category) == (10.5, 20, 19.5, 40, "cat")
    assert (only(images).file_name, only(images).width, only(images).height) == ("0.jpg", 100, 80)


def test_what_voc_says_beyond_boxes_survives(tmp_path: Path) -> None:
    images, objects = tables(read_dataset(voc(tmp_path, f"<segmented>0</segmented>{OBJECT}")))
    record = json.loads(only(objects).record)
    assert (record["pose"], record["truncated"], record["difficult"]) == ("Left", 1, 0)
    assert json.loads(only(images).record)["segmented"] == 0


def test_voc_categories_are_sorted_names_from_one(tmp_path: Path) -> None:
    _, objects = tables(read_dataset(voc(tmp_path, OBJECT, OBJECT.replace("cat", "ape"))))
    assert dict(zip(objects.category, objects.category_id, strict=True)) == {"ape": "1", "cat": "2"}


def test_broken_xml_is_a_row_and_the_others_are_read(tmp_path: Path) -> None:
    bomb = '<?xml version="1.0"?><!DOCTYPE a [<!ENTITY b "bbb">]><annotation>&b;</annotation>'
    images, objects = tables(read_dataset(voc(tmp_path, OBJECT, "<?xml version='1.0'?><annotation>", bomb)))
    assert images.status.tolist() == ["ok", "rejected", "rejected"] and len(objects) == 1
    assert set(images.reason[1:]) == {"record_malformed"}
    assert "1.xml" in images.detail[1] and "entities" in images.detail[2]


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("<xmin>10.5</xmin>", "", "box_malformed"),
        ("10.5", "left", "box_malformed"),
        ("10.5", "nan", "box_malformed"),
        ("10.5", "30", "box_empty"),
        ("<name>cat</name>", "", "record_malformed"),
    ],
)
def test_a_bad_voc_object_is_a_row_with_a_reason(tmp_path: Path, old: str, new: str, reason: str) -> None:
    assert only(tables(read_dataset(voc(tmp_path, OBJECT.replace(old, new))))[1]).reason == reason


def test_voc_image_sets_are_the_official_split(tmp_path: Path) -> None:
    settings = voc(tmp_path, OBJECT, OBJECT, OBJECT)
    write(tmp_path / "ImageSets" / "Main" / "train.txt", "0\n")
    write(tmp_path / "ImageSets" / "Main" / "val.txt", "1\n")
    assert read_dataset(settings).images["split"].to_pylist() == ["train", "val", "unlisted"]


# --- texts that a data set names -----------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["link", "device", "pipe"])
def test_a_yolo_label_file_that_leads_elsewhere_or_is_no_file_is_a_row(tmp_path: Path, where: str) -> None:
    settings = bare(tmp_path / "set", "0 0.5 0.5 0.2 0.4")
    write(tmp_path / "secret.txt", "0 0.5 0.5 0.2 0.4")
    label = tmp_path / "set" / "labels" / "a.txt"
    label.unlink()
    if where == "pipe":
        os.mkfifo(label)
    else:
        label.symlink_to("/dev/zero" if where == "device" else tmp_path / "secret.txt")
    row = only(tables(read_dataset(settings))[1])
    assert row.reason == "record_malformed"
    assert ("a pipe" if where == "pipe" else "outside of dataset.images and dataset.annotations") in row.detail


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("data.yaml", "names: [cat]\ntrain: /dev/zero"),
        ("data.yaml", "names: [cat]\ntrain: {}/secret.txt"),
        ("data.yaml", "names: [cat]\ntrain: link.txt"),
        ("obj.data", "names = obj.names\ntrain = link.txt"),
        ("obj.data", "names = link.txt"),
    ],
)
def test_a_yolo_list_that_lies_elsewhere_is_one_sentence(tmp_path: Path, file: str, text: str) -> None:
    settings = bare(tmp_path / "set", "0 0.5 0.5 0.2 0.4")
    write(tmp_path / "secret.txt", "images/a.png")
    write(tmp_path / "set" / "obj.names", "cat")
    (tmp_path / "set" / "link.txt").symlink_to(tmp_path / "secret.txt")
    write(tmp_path / "set" / file, text.format(tmp_path))
    given = settings.model_copy(update={"annotations": tmp_path / "set" / file})
    with pytest.raises(AugmentError, match=r"outside of dataset\.images and dataset\.annotations: copy it"):
        read_dataset(given)


def test_absolute_paths_in_yolo_lists_and_labels_beside_images_are_read(tmp_path: Path) -> None:
    settings = bare(tmp_path, "0 0.5 0.5 0.2 0.4")
    write(tmp_path / "images" / "train.txt", str(tmp_path / "images" / "a.png"))
    write(tmp_path / "cfg" / "data.yaml", f"names: [cat]\ntrain: {tmp_path}/images/train.txt")
    given = settings.model_copy(update={"annotations": tmp_path / "cfg" / "data.yaml"})
    assert only(tables(read_dataset(given))[1]).reason == ""


def test_voc_files_that_lead_elsewhere_are_rows_and_lists_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    settings = voc(tmp_path / "set", OBJECT, OBJECT, OBJECT)
    folder = tmp_path / "set" / "Annotations"
    (folder / "0.xml").replace(tmp_path / "secret.xml")
    (folder / "0.xml").symlink_to(tmp_path / "secret.xml")
    (folder / "1.xml").unlink()
    os.mkfifo(folder / "1.xml")
    images, objects = tables(read_dataset(settings))
    assert sorted(images.status) == ["ok", "rejected", "rejected"] and len(objects) == 1
    assert sum("outside of dataset.images" in text for text in images.detail) == 1
    assert sum("a pipe" in text for text in images.detail) == 1
    write(tmp_path / "secret.txt", "2")
    (tmp_path / "set" / "ImageSets" / "Main").mkdir(parents=True)
    (tmp_path / "set" / "ImageSets" / "Main" / "val.txt").symlink_to(tmp_path / "secret.txt")
    with pytest.raises(AugmentError, match=r"val\.txt lies, or leads by a link, outside of dataset\.images"):
        read_dataset(settings)


# --- all formats -------------------------------------------------------------------------------------------------

NINE = [
    ("coco", "coco_format_v1/instances_default.json"),
    ("coco", "coco_format_v2/instances_v2.json"),
    ("voc", "pascalvoc_format"),
    ("voc", "imagenet_format/Annotations"),
    ("yolo", "yolo_format"),
]


def boxes_of(format: str, annotations: str) -> pd.DataFrame:
    root = shared("voc_nine_formats")
    settings = DatasetSettings(images=root / "images", annotations=root / "gts" / annotations, format=format)
    images, objects = tables(read_dataset(settings))
    assert (images.status == "ok").all() and (objects.status == "ok").all()
    both = objects.merge(images[["key", "path"]], left_on="image_key", right_on="key")
    return both.assign(order=both.x.round()).sort_values(["path", "category", "order", "y"], ignore_index=True)


@pytest.mark.parametrize(("format", "annotations"), NINE[1:])
def test_the_same_boxes_in_another_format_are_the_same_rows(format: str, annotations: str) -> None:
    expected, found = boxes_of(*NINE[0]), boxes_of(format, annotations)
    assert len(found) == 273
    assert found[["path", "category"]].equals(expected[["path", "category"]])
    assert (found[[*"xywh"]] - expected[[*"xywh"]]).abs().to_numpy().max() < 0.01


@pytest.mark.parametrize("format", sorted(FORMATS))
def test_every_format_refuses_an_empty_folder_with_advice(tmp_path: Path, format: str) -> None:
    with pytest.raises(AugmentError, match="annotations"):
        read_dataset(DatasetSettings(images=tmp_path, format=format))


# --- documents that are made to end a run ------------------------------------------------------------------------


def nested(levels: int) -> bytes:
    return b"[" * levels + b"]" * levels


def coco_bytes(**fields: bytes) -> bytes:
    """A COCO document with other JSON in a place: top, image, note or category, each an object's fields."""
    filled = {"top": b'"x": 0', "image": b'"x": 0', "note": b'"x": 0', "category": b'"x": 0'} | fields
    return (
        b'{%(top)s, "images": [{"id": 1, "file_name": "1.jpg", %(image)s}, {"id": 2, "file_name": "2.jpg"}],'
        b'"annotations": [{"id": 1, "image_id": 2, "category_id": 1, "bbox": [1, 1, 5, 5], %(note)s},'
        b'{"id": 2, "image_id": 2, "category_id": 1, "bbox": [1, 1, 5, 5]}],'
        b'"categories": [{"id": 1, "name": "cat", %(category)s}]}'
    ) % {name.encode(): value for name, value in filled.items()}


@pytest.mark.parametrize("levels", [MAX_DEPTH, 600, 900, 1000, 3000, 100_000])
@pytest.mark.parametrize("field", ["segmentation", "attributes", "bbox", "id", "category_id"])
def test_a_record_that_nests_too_deep_is_set_aside_and_the_others_are_read(levels: int, field: str) -> None:
    images, objects = read(coco_bytes(note=b'"%s": %s' % (field.encode(), nested(levels))))
    assert images.status.tolist() == ["ok", "ok"] and objects.status.tolist() == ["rejected", "ok"]
    assert objects.reason[0] == "record_malformed"
    assert objects.detail[0] == f"$.annotations[0] is nested more than {MAX_DEPTH} levels deep"
    assert json.loads(objects.record[0])["image_id"] == 2  # what is not too deep is kept


@pytest.mark.parametrize("levels", [MAX_DEPTH, 900, 100_000])
def test_a_pictures_record_that_nests_too_deep_is_set_aside(levels: int) -> None:
    images, objects = read(coco_bytes(image=b'"exif": ' + nested(levels)))
    assert images.reason.tolist() == ["record_malformed", ""] and len(objects) == 2


def test_a_record_of_many_polygons_is_not_taken_for_a_deep_one() -> None:
    _, objects = read(coco(annotations=[box(segmentation=[[1, 1, 9, 1, 9, 9, 1, 9, 5, 5]] * 500, note="[" * 500)]))
    assert only(objects).status == "ok"


@pytest.mark.parametrize("levels", [MAX_DEPTH + 1, 900, 100_000])
@pytest.mark.parametrize("place", ["top", "category"])
def test_what_else_nests_too_deep_is_reported_with_file_and_place(levels: int, place: str) -> None:
    fault = error_of(coco_bytes(**{place: b'"info": ' + nested(levels)}))
    assert fault.startswith("x.json: $.") and "nested more than 64 levels deep" in fault


@pytest.mark.parametrize("number", [b"1e999", b"-1e999", b"9" * 5000])
@pytest.mark.parametrize("place", ["top", "image", "note", "category"])
def test_a_number_beyond_all_floats_does_no_harm_where_it_is_not_used(number: bytes, place: str) -> None:
    dataset = read_document(coco_bytes(**{place: b'"info": ' + number}), "x.json", HERE)
    assert categories_of(dataset.envelope) == {"cat": b"1"}
    assert (dataset.objects.to_pandas().status == "ok").all()
    assert field_of(dataset.objects["record"][0].as_py(), "info") is None


@pytest.mark.parametrize("number", [b"NaN", b"Infinity"])
@pytest.mark.parametrize("place", ["top", "image", "note", "category"])
def test_what_is_not_a_json_number_is_reported_with_its_byte(number: bytes, place: str) -> None:
    assert f"{number.decode()} at byte" in error_of(coco_bytes(**{place: b'"info": ' + number}))


def test_of_categories_with_one_name_the_first_counts() -> None:
    envelope = b'{"categories": [{"id": 2, "name": "b"}, {"id": 1, "name": "a"}, {"id": 3, "name": "b"}]}'
    assert list(categories_of(envelope).items()) == [("b", b"2"), ("a", b"1")]


@pytest.mark.parametrize("levels", [MAX_DEPTH, 1000, 3000, 100_000])
def test_deep_xml_is_a_row_and_the_others_are_read(tmp_path: Path, levels: int) -> None:
    deep = f"<annotation>{'<a>' * levels}{'</a>' * levels}</annotation>"
    images, objects = tables(read_dataset(voc(tmp_path, OBJECT, deep)))
    assert images.reason.tolist() == ["", "record_malformed"] and len(objects) == 1
    assert images.detail[1] == "1.xml: nested more than 64 levels deep"


def test_the_shared_deep_xml_is_a_row() -> None:
    root = shared("..", "cases", "voc-deep-xml")
    settings = DatasetSettings(images=root / "JPEGImages", annotations=root / "Annotations", format="voc")
    images, _ = tables(read_dataset(settings))
    assert sorted(images.reason) == ["", "record_malformed"]


def test_utf_16_xml_is_read(tmp_path: Path) -> None:
    settings = voc(tmp_path, OBJECT)
    (path,) = tmp_path.rglob("*.xml")
    path.write_bytes(path.read_text("utf-8").encode("utf-16"))
    assert only(tables(read_dataset(settings))[1]).category == "cat"


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("[" * 50_000, "nested more than 64 levels deep"),
        ("names: {2000000000: cat}\ntrain: images", "'names' has class 2000000000: expected 0 to 99,999"),
        ("names: {-1: cat}\ntrain: images", "'names' has class -1"),
        ("names: {.inf: cat}\ntrain: images", "is not a class number"),
        ("names: [cat]\ntrain: 5", "'train' is 5: expected a folder"),
        ("names: [cat]\ntrain: " + "y" * 3000, "not found"),
        ("names: [2001-99-99]", "is not valid YAML"),
    ],
    ids=lambda text: text[:30],
)
def test_a_data_yaml_that_is_made_to_end_a_run_is_one_sentence(tmp_path: Path, text: str, fault: str) -> None:
    write(tmp_path / "data.yaml", text)
    (tmp_path / "images").mkdir()
    with pytest.raises(AugmentError, match=r"data\.yaml") as caught:
        read_dataset(DatasetSettings(images=tmp_path / "images", annotations=tmp_path / "data.yaml", format="yolo"))
    assert fault in str(caught.value) and len(str(caught.value)) < 12_000


@pytest.mark.parametrize("line", ["/", ".", "..", "a\0b.png", "x" * 4000])
@pytest.mark.parametrize("layout", ["darknet", "ultralytics"])
def test_a_list_with_a_name_that_no_picture_has_is_a_row(tmp_path: Path, layout: str, line: str) -> None:
    (tmp_path / "images").mkdir()
    write(tmp_path / "train.txt", line)
    write(tmp_path / "obj.names", "cat")
    write(tmp_path / "data.yaml", "names: [cat]\ntrain: train.txt")
    write(tmp_path / "obj.data", "names = obj.names\ntrain = train.txt")
    file = tmp_path / ("obj.data" if layout == "darknet" else "data.yaml")
    images, _ = tables(read_dataset(DatasetSettings(images=tmp_path / "images", annotations=file, format="yolo")))
    assert len(images) == 1


def test_a_list_with_an_endless_line_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    write(tmp_path / "data.yaml", "names: [cat]\ntrain: train.txt")
    write(tmp_path / "train.txt", "a/" * 500_000)
    with pytest.raises(AugmentError, match=r"train\.txt has a line of 1,000,000 characters"):
        read_dataset(DatasetSettings(images=tmp_path / "images", annotations=tmp_path / "data.yaml", format="yolo"))


@pytest.mark.parametrize("format", ["yolo", "deep-pcb"])
def test_a_label_file_of_a_million_lines_is_one_row(tmp_path: Path, format: str) -> None:
    lines = "1 2 3 4 5\n" * 1_000_000
    picture = tmp_path / ("images/a.png" if format == "yolo" else "images/1/1_test.jpg")
    picture.parent.mkdir(parents=True)
    Image.new("RGB", (20, 10)).save(picture)
    write(tmp_path / ("labels/a.txt" if format == "yolo" else "images/1_not/1.txt"), lines)
    write(tmp_path / "classes.txt", "cat")
    _, objects = tables(read_dataset(DatasetSettings(images=tmp_path / "images", format=format)))
    assert only(objects).reason == "record_malformed" and "1,000,000 lines" in only(objects).detail


@pytest.mark.parametrize("number", ["9" * 4000, "9" * 5000, "1e308"])
@pytest.mark.parametrize("format", ["yolo", "deep-pcb"])
def test_an_enormous_number_in_a_label_is_a_row(tmp_path: Path, format: str, number: str) -> None:
    picture = tmp_path / ("images/a.png" if format == "yolo" else "images/1/1_test.jpg")
    picture.parent.mkdir(parents=True)
    Image.new("RGB", (20, 10)).save(picture)
    lines = "\n".join(" ".join(number if i == k else "1" for i in range(5)) for k in range(5))
    write(tmp_path / ("labels/a.txt" if format == "yolo" else "images/1_not/1.txt"), lines)
    write(tmp_path / "classes.txt", "cat\nape")
    _, objects = tables(read_dataset(DatasetSettings(images=tmp_path / "images", format=format)))
    assert len(objects) == 5 and (objects.status == "rejected").all()


@pytest.mark.parametrize(
    "cell", ["[" * 100_000 + "]" * 100_000, "-" * 100_000 + "1", "1+" * 50_000 + "1", "9" * 4000, "{1, 2}", "1e999"]
)
def test_a_cell_that_is_not_a_json_value_is_a_row_or_stays_text(tmp_path: Path, cell: str) -> None:
    head = "id,image_id,category_id,bbox,segmentation,file_name,width,height\n"
    rows = f'1,1,5,"[1, 1, 5, 5]","{cell}",a.png,20,10\n2,1,5,"{cell}",[],a.png,20,10\n'
    write(tmp_path / "x.csv", head + rows)
    settings = DatasetSettings(images=tmp_path, annotations=tmp_path / "x.csv", format="loco")
    _, objects = tables(read_dataset(settings))
    assert len(objects) == 2 and objects.status[1] == "rejected"


@pytest.mark.parametrize("format", ["yolo", "voc"])
def test_a_file_whose_name_is_not_utf_8_is_a_row(tmp_path: Path, format: str) -> None:
    name = b"\xff.png".decode(errors="surrogateescape")
    picture(tmp_path / "images" / "a.png")
    picture(tmp_path / "images" / name)
    write(tmp_path / "labels" / "a.txt", "0 .5 .5 .1 .1")
    write(tmp_path / "classes.txt", "cat")
    for stem in ("a", name.removesuffix(".png")):
        write(tmp_path / "Annotations" / f"{stem}.xml", "<annotation></annotation>")
    images, _ = tables(read_dataset(DatasetSettings(images=tmp_path / "images", format=format)))
    assert sorted(images.reason) == ["", "record_malformed"]
    assert "rename it, its name is not UTF-8" in images.detail[1]


def test_a_group_that_no_record_has_is_refused_with_the_known_fields_whatever_else_they_hold(tmp_path):
    text = '{"images": [{"id": 1, "file_name": "a.png", "width": 8, "height": 8, "date": 1e999, "note": [1e999]}],'
    text += '"annotations": [], "categories": []}'
    (tmp_path / "a.json").write_text(text)
    settings = DatasetSettings(images=tmp_path, annotations=tmp_path / "a.json", group="bord")
    with pytest.raises(AugmentError, match=r"no picture's record has 'bord'.*date"):
        read_dataset(settings)
