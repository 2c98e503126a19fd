"""VoTT: assets become pictures, regions boxes, whatever the export is, and no region is lost."""

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
from lib.datasets.ingest import check_pictures, settle_objects
from lib.records.rows import ImageRow, ObjectRow, arrow_schema
from lib.records.settings import DatasetSettings

HEADER = '"image","xmin","ymin","xmax","ymax","label"'


def picture(path: Path, size: tuple[int, int] = (100, 80)) -> None:
    Image.new("RGB", size).save(path)


def region(id: str = "r1", tags: Any = ("cat",), box: Any = (10, 20, 30, 40), **fields: Any) -> dict[str, Any]:
    bounds = dict(zip(("left", "top", "width", "height"), box, strict=True)) if box else None
    return {"id": id, "type": "RECTANGLE", "tags": list(tags), "boundingBox": bounds, "points": []} | fields


def asset(file: str = "a.png", *regions: Any, **fields: Any) -> dict[str, Any]:
    known = {"id": f"id of {file}", "name": file, "path": f"file:C:/x/{file}", "size": {"width": 100, "height": 80}}
    return {"asset": known | fields, "regions": list(regions), "version": "2.1.0"}


def export(folder: Path, *assets: Any, **top: Any) -> None:
    by_id = {f"id{i}": entry for i, entry in enumerate(assets)}
    (folder / "p-export.json").write_text(json.dumps({"name": "p", "tags": [], "assets": by_id} | top))


def table(folder: Path, *rows: str, header: str = HEADER) -> None:
    (folder / "p-export.csv").write_text("\r\n".join([header, *rows]))


def read(folder: Path, **values: Any) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The rows of the ingest stage."""
    parsed = read_dataset(DatasetSettings(images=folder, format="vott", **values))
    assert parsed.images.schema.equals(arrow_schema(ImageRow))
    assert parsed.objects.schema.equals(arrow_schema(ObjectRow))
    images = check_pictures(parsed.images.to_pandas(), folder, 10**6)
    return images, settle_objects(images, parsed.objects).to_pandas()


def only(rows: pd.DataFrame) -> Any:
    (row,) = rows.itertuples()
    return row


# --- JSON --------------------------------------------------------------------------------------------------------


def test_a_region_is_a_box_and_vott_s_own_fields_stay(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    export(tmp_path, asset("a.png", region()), tags=[{"name": "dog", "color": "#1"}, {"name": "cat"}], version="2.1.0")
    images, objects = read(tmp_path)
    row, shown = only(objects), only(images)
    assert (row.x, row.y, row.w, row.h, row.category, row.category_id) == (10, 20, 30, 40, "cat", "2")
    assert (shown.status, shown.width, shown.height, shown.split) == ("ok", 100, 80, "train")
    assert json.loads(row.record)["vott"] == region()
    assert json.loads(shown.record)["vott"] == {key: asset()[key] for key in ("asset", "version")}
    envelope = json.loads(read_dataset(DatasetSettings(images=tmp_path, format="vott")).envelope)
    assert envelope["vott"]["tags"][0]["color"] == "#1" and "assets" not in envelope["vott"]


def test_an_asset_without_regions_is_a_picture_without_boxes(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    export(tmp_path, asset("a.png"), asset("gone.png", region()))
    images, objects = read(tmp_path)
    assert images.reason.tolist() == ["", "image_missing"] and only(objects).reason == "image_rejected"


@pytest.mark.parametrize(
    ("on_disk", "fields"),
    [
        ("a%20b.png", {"name": "a%20b.png"}),
        ("a b.png", {"name": "a%20b.png"}),
        ("a b.png", {"name": None, "path": "file:C:/Users/x/a%20b.png"}),
        ("a b.png", {"name": "", "path": "file:C:\\Users\\x\\a%20b.png"}),
        ("a b.png", {"name": "../x/a b.png"}),
    ],
)
def test_a_picture_is_found_by_its_name_as_it_stands_or_unquoted_or_by_its_path(
    tmp_path: Path, on_disk: str, fields: dict[str, Any]
) -> None:
    picture(tmp_path / on_disk)
    export(tmp_path, asset("x.png", region(), **fields))
    row = only(read(tmp_path)[0])
    assert (row.status, row.path) == ("ok", on_disk)


def test_the_name_as_it_stands_comes_first(tmp_path: Path) -> None:
    picture(tmp_path / "a b.png")
    picture(tmp_path / "a%20b.png")
    export(tmp_path, asset("a%20b.png"))
    assert only(read(tmp_path)[0]).path == "a%20b.png"


def test_a_name_that_leads_out_of_the_folder_is_set_aside(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    picture(tmp_path / "out.png")
    export(tmp_path / "in", asset("../out.png", region()))
    images, objects = read(tmp_path / "in")
    assert (only(images).reason, only(objects).reason) == ("path_outside_root", "image_rejected")


@pytest.mark.parametrize(
    ("name", "reason"),
    [("a" * 300, "image_missing"), ("a/" * 3000 + "b", "image_missing"), ("a\0", "path_outside_root")],
    ids=["long", "deep", "nul"],
)
def test_a_name_that_no_file_can_have_is_set_aside(tmp_path: Path, name: str, reason: str) -> None:
    export(tmp_path, asset(name, region()))
    images, objects = read(tmp_path)
    assert (only(images).reason, only(objects).reason) == (reason, "image_rejected")


@pytest.mark.parametrize("tags", [[], [""], None, [7]])
def test_a_region_without_a_tag_is_a_row_with_a_reason(tmp_path: Path, tags: Any) -> None:
    picture(tmp_path / "a.png")
    export(tmp_path, asset("a.png", region() | {"tags": tags}, region("r2") | {"tags": tags}, region("r3")))
    _, objects = read(tmp_path)
    assert sorted(objects.reason) == ["", "tag_missing", "tag_missing"] and objects.key.is_unique
    assert "a.png, region r1" in objects.detail.tolist()[1]


def test_a_region_with_two_tags_is_a_box_for_each(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    export(tmp_path, asset("a.png", region(tags=["cat", "dog", "cat"])))
    _, objects = read(tmp_path)
    assert objects.category.tolist() == ["cat", "dog"] and (objects.status == "ok").all() and objects.key.is_unique
    assert objects[[*"xywh"]].drop_duplicates().values.tolist() == [[10, 20, 30, 40]]


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"box": (100, 10, 5, 5)}, "box_outside"),
        ({"box": (-10, 70, 30, 40)}, ""),
        ({"box": (10, 10, 0, 5)}, "box_empty"),
        ({"box": None}, "box_malformed"),
        ({"box": (10**400, 10, 5, 5)}, "box_malformed"),
        ({"boundingBox": {"left": 1}}, "box_malformed"),
        ({"boundingBox": {"left": "x", "top": 1, "width": 2, "height": 3}}, "box_malformed"),
        ({"box": None, "points": [{"x": 1, "y": 2}, {"x": 5, "y": 9}]}, ""),
    ],
)
def test_a_box_is_judged_as_in_every_format(tmp_path: Path, fields: dict[str, Any], reason: str) -> None:
    picture(tmp_path / "a.png")
    export(tmp_path, asset("a.png", region(**fields)))
    assert only(read(tmp_path)[1]).reason == reason


def test_a_polygon_is_a_segmentation(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    points = [{"x": 10, "y": 10}, {"x": 30, "y": 12}, {"x": 20, "y": 40}]
    export(tmp_path, asset("a.png", region(box=(10, 10, 20, 30), type="POLYGON", points=points)))
    row = only(read(tmp_path)[1])
    assert row.polygon and json.loads(row.record)["segmentation"] == [[10, 10, 30, 12, 20, 40]]


@pytest.mark.parametrize("entry", [None, 5, [], {"regions": []}, {"asset": "a.png"}])
def test_what_is_not_an_asset_is_a_row_that_names_it(tmp_path: Path, entry: Any) -> None:
    picture(tmp_path / "a.png")
    export(tmp_path, asset("a.png", region()), entry)
    images, _ = read(tmp_path)
    assert images.reason.tolist() == ["", "record_malformed"] and "'id1'" in images.detail[1]


@pytest.mark.parametrize("regions", [None, "?", [None], [7], [{}]])
def test_regions_of_another_kind_do_no_harm(tmp_path: Path, regions: Any) -> None:
    picture(tmp_path / "a.png")
    export(tmp_path, asset("a.png") | {"regions": regions})
    images, objects = read(tmp_path)
    assert only(images).status == "ok" and set(objects.reason) <= {"tag_missing"}


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"assets": 5}', "\x00", pytest.param("[" * 10**5, id="nested")])
def test_a_file_that_is_not_an_export_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "p-export.json").write_text(text)
    with pytest.raises(AugmentError, match=r"p-export\.json.*VoTT 2"):
        read(tmp_path)


def test_two_exports_in_one_folder_are_refused_until_one_is_named(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    export(tmp_path, asset("a.png", region()))
    (tmp_path / "q-export.json").write_bytes((tmp_path / "p-export.json").read_bytes())
    with pytest.raises(AugmentError, match=r"p-export\.json, q-export\.json"):
        read(tmp_path)
    assert len(read(tmp_path, annotations=tmp_path / "q-export.json")[1]) == 1


def test_asset_files_are_read_together_and_a_broken_one_is_a_row(tmp_path: Path) -> None:
    for name in "ab":
        picture(tmp_path / f"{name}.png")
        (tmp_path / f"{name}-asset.json").write_text(json.dumps(asset(f"{name}.png", region())))
    (tmp_path / "c-asset.json").write_text("{")
    (tmp_path / "p.vott").write_text("{}")
    for given in (None, tmp_path, tmp_path / "p.vott"):
        images, objects = read(tmp_path, annotations=given)
        assert images.file_name.tolist() == ["a.png", "b.png", "c-asset.json"] and len(objects) == 2
        assert images.reason.tolist() == ["", "", "record_malformed"]
    assert len(read(tmp_path, annotations=tmp_path / "a-asset.json")[0]) == 1


def test_a_picture_of_two_assets_keeps_the_regions_of_the_first(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    export(tmp_path, asset("a.png", region()), asset("a.png", region()))
    images, objects = read(tmp_path)
    assert images.reason.tolist() == ["", "image_id_duplicate"]
    assert objects.reason.tolist() == ["", "image_id_duplicate"] and objects.key.is_unique


def test_ids_do_not_change_when_assets_are_added(tmp_path: Path) -> None:
    for name in "ab":
        picture(tmp_path / f"{name}.png")
    export(tmp_path, asset("b.png", region("r1"), region("r2")))
    before = read(tmp_path)
    export(tmp_path, asset("a.png", region("r1")), asset("b.png", region("r0"), region("r1"), region("r2")))
    for old, new in zip(before, read(tmp_path), strict=True):
        assert set(old.key) < set(new.key)


@pytest.mark.parametrize("levels", [70, 900, 100_000])
def test_what_nests_too_deep_is_set_aside_with_its_record(tmp_path: Path, levels: int) -> None:
    deep = "[" * levels + "]" * levels
    for name in ("a.png", "b.png", "c.png"):
        picture(tmp_path / name)
    export(tmp_path, asset("a.png", region(z="@")), asset("b.png", region(), z="@"), asset("c.png", region()))
    path = tmp_path / "p-export.json"
    path.write_text(path.read_text().replace('"@"', deep))
    images, objects = read(tmp_path)
    assert dict(zip(images.file_name, images.reason, strict=True)) == {
        "a.png": "",
        "b.png": "record_malformed",
        "c.png": "",
    }
    assert objects.reason.tolist() == ["record_malformed", "image_rejected", ""]


@pytest.mark.parametrize("levels", [70, 900, 100_000])
def test_a_project_that_nests_too_deep_is_one_sentence(tmp_path: Path, levels: int) -> None:
    export(tmp_path, asset("a.png", region()), z="@")
    path = tmp_path / "p-export.json"
    path.write_text(path.read_text().replace('"@"', "[" * levels + "]" * levels))
    with pytest.raises(AugmentError, match=r"p-export\.json: \$\.vott is nested more than 64 levels deep"):
        read(tmp_path)


def test_an_asset_with_a_number_beyond_all_floats_is_set_aside(tmp_path: Path) -> None:
    picture(tmp_path / "b.png")
    export(tmp_path, asset("a.png", region(z="@")), asset("b.png", region()))
    path = tmp_path / "p-export.json"
    path.write_text(path.read_text().replace('"@"', "1e999"))
    images, objects = read(tmp_path)
    broken = images[images.reason == "record_malformed"].iloc[0]
    assert "p-export.json: $.assets['id0']: Number out of range" in broken.detail
    assert len(images) == 2 and objects.status.tolist() == ["ok"]


# --- CSV ---------------------------------------------------------------------------------------------------------


def test_a_csv_row_is_a_box_and_other_pictures_have_none(tmp_path: Path) -> None:
    for name in ("a b.png", "b.png"):
        picture(tmp_path / name)
    table(tmp_path, '"a%20b.png",10.5,20,30.25,40,"cat, small"', '"a%20b.png",1,2,3,4,"ape"')
    images, objects = read(tmp_path)
    assert images.path.tolist() == ["a b.png", "b.png"] and (images.status == "ok").all()
    assert objects[[*"xywh"]].values.tolist() == [[10.5, 20, 19.75, 20], [1, 2, 2, 2]]
    assert objects.category.tolist() == ["cat, small", "ape"] and objects.category_id.tolist() == ["2", "1"]
    assert json.loads(objects.record[0])["vott"]["xmax"] == "30.25"


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("a.png,1,2,3,4,cat", "annotation_id_duplicate"),
        ("a.png,1,2,3,4,", "tag_missing"),
        ("a.png,1,2", "tag_missing"),
        ("a.png,1,2,x,4,cat", "box_malformed"),
        ("a.png,1,2,nan,4,cat", "box_malformed"),
        ("a.png,3,2,1,4,cat", "box_empty"),
        ("a.png,200,2,300,4,cat", "box_outside"),
        ("a.png,1,2,30,4,cat,more,and more", ""),
        ("no.png,1,2,3,4,cat", "image_rejected"),
    ],
)
def test_a_bad_csv_row_is_a_row_with_a_reason(tmp_path: Path, row: str, reason: str) -> None:
    picture(tmp_path / "a.png")
    table(tmp_path, "a.png,1,2,3,4,cat", row)
    _, objects = read(tmp_path)
    assert sorted(objects.reason) == sorted(["", reason]) and objects.key.is_unique


@pytest.mark.parametrize("header", ["", "image,xmin", "a\n1,2,3"])
def test_a_csv_without_the_columns_is_refused(tmp_path: Path, header: str) -> None:
    table(tmp_path, header=header)
    with pytest.raises(AugmentError, match=r"lacks .*VoTT's CSV export"):
        read(tmp_path)


def test_json_and_csv_give_the_same_boxes(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    export(tmp_path, asset("a.png", region(tags=["cat", "dog"])))
    table(tmp_path, "a.png,10,20,40,60,cat", "a.png,10,20,40,60,dog")
    columns = ["category", "category_id", *"xywh"]
    from_json, from_csv = (read(tmp_path, annotations=tmp_path / f"p-export.{kind}")[1] for kind in ("json", "csv"))
    assert from_json[columns].equals(from_csv[columns])


# --- real exports ------------------------------------------------------------------------------------------------

EXPORTS = {
    "json": ("vott_catfaces/json_export/Data/Source_Images/vott-json-export", 5, 6, 0),
    "csv": ("vott_catfaces/csv_export/Data/Source_Images/Training_Images/vott-csv-export", 101, 124, 1),
}


@pytest.mark.parametrize("kind", EXPORTS)
def test_the_cat_faces_read_whole(kind: str) -> None:
    place, pictures, boxes, empty = EXPORTS[kind]
    images, objects = read(shared(*place.split("/")))
    assert (len(images), len(objects)) == (pictures, boxes)
    assert (images.status == "ok").all() and (objects.status == "ok").all()
    assert set(objects.category) == {"Cat_Face"} and images.path.str.contains("%20").any()
    assert (~images.key.isin(objects.image_key)).sum() == empty


def test_an_export_folder_is_found_in_the_images_folder() -> None:
    folder = shared(*EXPORTS["csv"][0].split("/"))
    parsed = read_dataset(DatasetSettings(images=folder, annotations=folder, format="vott"))
    assert len(parsed.objects) == 124
