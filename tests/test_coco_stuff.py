"""COCO-Stuff: things and stuff of a picture become one layout of 3 to 8 objects, or a reason why not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from lib.core.errors import AugmentError
from lib.datasets.formats import Dataset, read_dataset
from lib.datasets.write_coco import Sources
from lib.records.rows import ImageRow, ObjectRow, arrow_schema
from lib.records.settings import DatasetSettings

THINGS = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
STUFF = [{"id": 92, "name": "banner"}, {"id": 157, "name": "sky-other"}, {"id": 183, "name": "other"}]
RLE = {"counts": "abc", "size": [100, 100]}


def image(id: Any = 1, **fields: Any) -> dict[str, Any]:
    return {"id": id, "file_name": f"{id}.jpg", "width": 100, "height": 100} | fields


def thing(id: Any = 1, **fields: Any) -> dict[str, Any]:
    return {"id": id, "image_id": 1, "category_id": 1, "bbox": [10, 10, 20, 20], "iscrowd": 0} | fields


def stuff(id: Any = 1001, **fields: Any) -> dict[str, Any]:
    return thing(id, category_id=92, segmentation=RLE) | fields


def write(folder: Path, things: list[Any], stuffs: list[Any], name: str = "x", **changes: Any) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for prefix, records, categories in (("instances", things, THINGS), ("stuff", stuffs, STUFF)):
        document = {"images": [image()], "annotations": records, "categories": categories}
        text = json.dumps(document | changes.get(prefix, {}))
        (folder / f"{prefix}_{name}.json").write_text(text)


def dataset(folder: Path, **values: Any) -> Dataset:
    return read_dataset(DatasetSettings(images=folder, format="coco-stuff", **values))


def read(folder: Path, **values: Any) -> tuple[pd.DataFrame, pd.DataFrame]:
    parsed = dataset(folder, **values)
    assert parsed.images.schema.equals(arrow_schema(ImageRow))
    assert parsed.objects.schema.equals(arrow_schema(ObjectRow))
    return parsed.images.to_pandas(), parsed.objects.to_pandas()


def only(rows: pd.DataFrame) -> Any:
    (row,) = rows.itertuples()
    return row


def test_things_and_stuff_are_one_layout_and_no_byte_changes(tmp_path: Path) -> None:
    things, stuffs = [thing(1), thing(2, category_id=2)], [stuff(1001), stuff(1002, category_id=157)]
    write(tmp_path, things, stuffs)
    images, objects = read(tmp_path)
    assert only(images).status == "ok" and (objects.status == "ok").all()
    assert objects.category.tolist() == ["cat", "dog", "banner", "sky-other"]
    assert objects.polygon.tolist() == [False, False, True, True]
    assert [json.loads(record) for record in objects.record] == things + stuffs
    assert objects.record[0] == json.dumps(things[0]).encode()


def test_the_envelope_has_the_categories_of_both_files_and_every_other_key(tmp_path: Path) -> None:
    both: dict[str, Any] = {
        "instances": {"info": {"n": 1}, "categories": [*THINGS, STUFF[0]]},
        "stuff": {"info": 2, "more": [3]},
    }
    write(tmp_path, [thing()], [stuff()], **both)
    top = json.loads(dataset(tmp_path).envelope)
    assert (top["info"], top["more"], top["images"]) == ({"n": 1}, [3], [])
    assert [category["id"] for category in top["categories"]] == [1, 2, 92, 157, 183]


def test_an_id_with_two_names_is_refused(tmp_path: Path) -> None:
    write(tmp_path, [thing()], [stuff()], stuff={"categories": [*STUFF, {"id": 2, "name": "sky"}]})
    with pytest.raises(AugmentError, match=r"stuff_x\.json: category 2 is 'sky' here and 'dog'"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("things", "stuffs", "reason"),
    [
        (1, 1, "too_few_objects"),
        (2, 1, ""),
        (7, 1, ""),
        (8, 1, "too_many_objects"),
        (1, 8, "too_many_objects"),
        (3, 0, "stuff_missing"),
        (0, 3, ""),
    ],
)
def test_a_picture_is_kept_that_has_3_to_8_objects_and_stuff(
    tmp_path: Path, things: int, stuffs: int, reason: str
) -> None:
    write(tmp_path, [thing(i) for i in range(things)], [stuff(1000 + i) for i in range(stuffs)])
    images, objects = read(tmp_path)
    assert only(images).reason == reason and (objects.status == "ok").all()


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (thing(9, iscrowd=1), "crowd"),
        (thing(9, bbox=[0, 0, 20, 10]), "too_small_for_layout"),
        (thing(9, bbox=[0, 0, 20, 10.1]), ""),
        (stuff(9, bbox=[0, 0, 10, 10]), "too_small_for_layout"),
        (stuff(9, category_id=183), "other_stuff"),
        (stuff(9, category_id=1), "category_unknown"),
        (stuff(9, bbox=[5, 5, 9, 0]), "box_empty"),
        (stuff(1), "annotation_id_duplicate"),
        (stuff(9, image_id=5), "image_unknown"),
    ],
)
def test_what_no_layout_holds_is_left_out_with_a_reason(tmp_path: Path, record: dict[str, Any], reason: str) -> None:
    more = [record] if "segmentation" in record else []
    write(tmp_path, [thing(i) for i in range(1, 8)] + ([] if more else [record]), [stuff(), *more])
    images, objects = read(tmp_path)
    assert sorted(objects.reason) == sorted([""] * 8 + [reason]) and objects.key.is_unique
    assert only(images).reason == ("" if reason else "too_many_objects")


def test_the_final_set_holds_the_layout_alone(tmp_path: Path) -> None:
    small = thing(9, bbox=[0, 0, 2, 2])
    write(tmp_path, [thing(1), thing(2), small], [stuff(), stuff(1002, category_id=183)])
    (objects,) = Sources(*read(tmp_path), b"{}", tmp_path).final_objects()
    assert objects.key.tolist() == ["1", "2", "1001"]


def test_small_objects_do_not_count_and_alone_make_no_layout(tmp_path: Path) -> None:
    write(tmp_path, [thing(i, bbox=[0, 0, 5, 5]) for i in range(9)], [stuff(1000 + i) for i in range(2)])
    assert only(read(tmp_path)[0]).reason == "too_few_objects"


def test_a_picture_that_the_file_of_things_does_not_list_is_set_aside(tmp_path: Path) -> None:
    stuffs = [stuff(1000 + i) for i in range(3)] + [stuff(2000 + i, image_id=2) for i in range(3)]
    write(tmp_path, [], stuffs, stuff={"images": [image(2), image(1)]})
    images, objects = read(tmp_path)
    assert images.key.tolist() == ["1", "2"] and images.reason.tolist() == ["", "things_missing"]
    assert len(objects) == 6


def test_a_size_that_is_not_given_is_that_of_the_picture(tmp_path: Path) -> None:
    from PIL import Image

    Image.new("RGB", (1000, 1000)).save(tmp_path / "1.jpg")
    records = [thing(i) for i in range(1, 4)]
    write(tmp_path, records, [stuff(bbox=[0, 0, 500, 500])], instances={"images": [image(width=None)]})
    assert set(read(tmp_path)[1].reason) == {"too_small_for_layout", ""}


def test_split_and_group_are_those_of_the_first_file(tmp_path: Path) -> None:
    listed = {"images": [image(split="val", video=7)]}
    write(tmp_path, [thing(1), thing(2)], [stuff()], instances=listed)
    row = only(read(tmp_path, split="official", group="video")[0])
    assert (row.status, row.split, row.group) == ("ok", "val", "7")


# --- files -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("given", [None, "annotations", "annotations/instances_b.json", "annotations/stuff_b.json"])
def test_the_pair_is_found_by_folder_or_by_either_file(tmp_path: Path, given: str | None) -> None:
    for name, count in (("a", 1), ("b", 2)):
        write(tmp_path / "annotations", [thing(i) for i in range(count)], [stuff()], name)
    (tmp_path / "b").mkdir()
    _, objects = read(tmp_path / "b", annotations=tmp_path / given if given else None)
    assert len(objects) == 3


def test_several_pairs_of_which_none_is_named_as_the_folder_are_refused(tmp_path: Path) -> None:
    for name in "ab":
        write(tmp_path, [thing()], [stuff()], name)
    with pytest.raises(AugmentError, match=r"2 pairs .*\(a, b\).*set dataset\.annotations"):
        read(tmp_path)


def test_a_file_without_its_partner_is_refused_by_name(tmp_path: Path) -> None:
    write(tmp_path, [thing()], [stuff()])
    (tmp_path / "stuff_x.json").unlink()
    with pytest.raises(AugmentError, match=r"no instances_NAME\.json with its stuff_NAME\.json"):
        read(tmp_path)
    with pytest.raises(AugmentError, match=r"stuff_x\.json cannot be read"):
        read(tmp_path, annotations=tmp_path / "instances_x.json")


def test_a_file_of_another_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AugmentError, match=r"expected instances_NAME\.json or stuff_NAME\.json"):
        read(tmp_path, annotations=tmp_path / "labels.json")
