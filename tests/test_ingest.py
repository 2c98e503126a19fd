"""Pictures are read once, every row comes out again, and what is wrong with one stays its own affair."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from shared import shared

import lib.datasets.ingest
from lib.datasets.formats import read_dataset
from lib.datasets.formats.coco import read_document
from lib.datasets.ingest import check_pictures, settle_objects
from lib.records.manifest import read_manifest, write_manifest
from lib.records.rows import ImageRow, ObjectRow, arrow_schema
from lib.records.settings import DatasetSettings

LIMIT = 10_000_000
IMAGE_COLUMNS = arrow_schema(ImageRow).names


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the pictures that were opened, in any order."""
    names: list[str] = []
    real = lib.datasets.ingest.inspect

    def spy(path: Path, max_pixels: int) -> Any:
        names.append(path.name)
        return real(path, max_pixels)

    monkeypatch.setattr(lib.datasets.ingest, "inspect", spy)
    return names


def picture(path: Path, width: int = 40, height: int = 30, orientation: int = 1, colour: str = "red") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.new("RGB", (width, height), colour).save(path, exif=exif)


def rows(root: Path, *images: dict[str, Any], boxes: list[list[float]] | None = None) -> Any:
    records = [{"id": i, "file_name": f"{i}.jpg"} | image for i, image in enumerate(images)]
    annotations = [
        {"id": i, "image_id": i % max(len(records), 1), "category_id": 1, "bbox": b} for i, b in enumerate(boxes or [])
    ]
    document = {"images": records, "annotations": annotations, "categories": [{"id": 1, "name": "cat"}]}
    return read_document(json.dumps(document).encode(), "x.json", DatasetSettings(images=root))


def check(root: Path, *images: dict[str, Any], known: pd.DataFrame | None = None, **options: Any) -> pd.DataFrame:
    return check_pictures(rows(root, *images).images.to_pandas(), root, options.pop("limit", LIMIT), known, **options)


def test_a_good_picture_gets_digest_size_time_and_frame(tmp_path: Path) -> None:
    picture(tmp_path / "0.jpg")
    row = check(tmp_path, {"width": 40, "height": 30}).iloc[0]
    info = (tmp_path / "0.jpg").stat()
    assert (row.status, row.frame, row["size"], row.mtime_ns) == ("ok", "upright", info.st_size, info.st_mtime_ns)
    assert len(row.digest) == 64


@pytest.mark.parametrize(
    ("claimed", "frame", "size"),
    [((30, 40), "upright", (30, 40)), ((40, 30), "stored", (40, 30)), ((0, 0), "upright", (30, 40))],
)
def test_the_claimed_size_decides_the_frame_of_a_turned_picture(
    tmp_path: Path, claimed: tuple[int, int], frame: str, size: tuple[int, int]
) -> None:
    picture(tmp_path / "0.jpg", orientation=6)
    row = check(tmp_path, {"width": claimed[0], "height": claimed[1]}).iloc[0]
    assert (row.status, row.frame, (row.width, row.height)) == ("ok", frame, size)


def test_a_size_that_fits_neither_frame_is_set_aside_with_both_sizes(tmp_path: Path) -> None:
    picture(tmp_path / "0.jpg")
    row = check(tmp_path, {"width": 400, "height": 300}).iloc[0]
    assert (row.status, row.reason) == ("rejected", "size_mismatch")
    assert "400×300" in row.detail and "40×30" in row.detail


def test_bad_pictures_are_rows_with_their_reasons(tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "secret.jpg"
    picture(outside)
    picture(root / "0.jpg")
    (root / "1.jpg").write_bytes(b"")
    (root / "2.jpg").write_bytes((root / "0.jpg").read_bytes()[:-200])
    picture(root / "4.jpg", 400, 300)
    (root / "5.jpg").symlink_to(outside)
    found = check(root, {}, {}, {}, {}, {}, {}, {"file_name": "../secret.jpg"}, {"file_name": ""}, limit=2000)
    assert found.reason.tolist() == [
        "",
        "image_empty",
        "image_broken",
        "image_missing",
        "image_too_large",
        "path_outside_root",
        "path_outside_root",
        "image_missing",
    ]
    assert found.detail[1:].all() and found.digest[0] and not found.digest[1:].any()


def test_rows_rejected_before_stay_as_they_are_unread(tmp_path: Path, opened: list[str]) -> None:
    picture(tmp_path / "0.jpg")
    found = check(tmp_path, {}, {"id": 0, "file_name": "0.jpg"}, {"width": "?"})
    assert found.reason.tolist() == ["", "image_id_duplicate", "record_malformed"]
    assert opened == ["0.jpg"] and found["size"].tolist()[1:] == [-1, -1]


def test_one_file_under_two_ids_is_opened_once(tmp_path: Path, opened: list[str]) -> None:
    picture(tmp_path / "0.jpg")
    found = check(tmp_path, {}, {"file_name": "0.jpg"})
    assert found.status.tolist() == ["ok", "ok"] and found.digest[0] == found.digest[1] and opened == ["0.jpg"]


def test_an_unchanged_picture_is_not_opened_again(tmp_path: Path, opened: list[str]) -> None:
    picture(tmp_path / "0.jpg", orientation=6)
    picture(tmp_path / "1.jpg", orientation=6)
    images = ({"width": 40, "height": 30}, {})
    first = check(tmp_path, *images)
    write_manifest(tmp_path / "images.parquet", first, ImageRow)
    opened.clear()
    again = check(tmp_path, *images, known=read_manifest(tmp_path / "images.parquet", ImageRow))
    assert opened == []
    pd.testing.assert_frame_equal(again, first)


def change_bytes(path: Path) -> None:
    picture(path, colour="blue")


def change_time(path: Path) -> None:
    os.utime(path, ns=(1, 1))


def leave(path: Path) -> None:
    pass


@pytest.mark.parametrize(
    ("change", "image", "read"),
    [(change_bytes, {}, 1), (change_time, {}, 1), (leave, {}, 0), (leave, {"width": 30, "height": 40}, 1)],
)
def test_a_changed_file_or_claim_is_read_again(
    tmp_path: Path, opened: list[str], change: Callable[[Path], None], image: dict[str, Any], read: int
) -> None:
    picture(tmp_path / "0.jpg")
    known = check(tmp_path, {})
    change(tmp_path / "0.jpg")
    opened.clear()
    pd.testing.assert_frame_equal(check(tmp_path, image, known=known), check(tmp_path, image))
    assert len(opened) == read + 1


def test_a_picture_set_aside_before_is_tried_again(tmp_path: Path) -> None:
    picture(tmp_path / "0.jpg")
    known = check(tmp_path, {}, limit=10)
    assert known.reason[0] == "image_too_large"
    assert check(tmp_path, {}, known=known).status[0] == "ok"
    assert check(tmp_path, {}, known=check(tmp_path, {}), limit=10).reason[0] == "image_too_large"


def test_progress_adds_up_to_the_rows(tmp_path: Path) -> None:
    for i in range(3):
        picture(tmp_path / f"{i}.jpg")
    known, done = check(tmp_path, {}), list[int]()
    check(tmp_path, {}, {}, {"file_name": "1.jpg"}, {"file_name": "../x"}, known=known, advance=done.append)
    assert sum(done) == 4


def test_no_rows_go_in_and_none_come_out(tmp_path: Path) -> None:
    found = check(tmp_path)
    assert len(found) == 0 and list(found) == IMAGE_COLUMNS
    dataset = rows(tmp_path)
    assert settle_objects(found, dataset.objects).num_rows == 0


def test_checked_rows_fit_the_schema(tmp_path: Path) -> None:
    picture(tmp_path / "0.jpg")
    ref = write_manifest(tmp_path / "m.parquet", check(tmp_path, {}, {}), ImageRow)
    assert ref.rows == 2


def test_boxes_of_a_rejected_picture_are_rejected_with_its_reason(tmp_path: Path) -> None:
    picture(tmp_path / "0.jpg")
    dataset = rows(tmp_path, {}, {}, boxes=[[1, 1, 5, 5], [1, 1, 5, 5], [1, 1, 0, 5], [1, 1, 0, 5]])
    objects = settle_objects(check_pictures(dataset.images.to_pandas(), tmp_path, LIMIT), dataset.objects)
    assert objects.schema.equals(arrow_schema(ObjectRow))
    assert objects["reason"].to_pylist() == ["", "image_rejected", "box_empty", "box_empty"]
    assert "image_missing" in objects["detail"][1].as_py()


def test_boxes_outside_a_size_known_only_now_are_rejected(tmp_path: Path) -> None:
    picture(tmp_path / "0.jpg")
    dataset = rows(tmp_path, {}, boxes=[[1, 1, 5, 5], [40, 1, 5, 5], [35, 25, 50, 50]])
    assert dataset.objects["status"].to_pylist() == ["ok"] * 3
    objects = settle_objects(check_pictures(dataset.images.to_pandas(), tmp_path, LIMIT), dataset.objects)
    assert objects["reason"].to_pylist() == ["", "box_outside", ""]
    assert "40×30" in objects["detail"][1].as_py()


def test_a_box_of_an_unknown_picture_keeps_its_reason(tmp_path: Path) -> None:
    dataset = rows(tmp_path, boxes=[[1, 1, 5, 5]])
    objects = settle_objects(dataset.images.to_pandas(), dataset.objects)
    assert objects["reason"].to_pylist() == ["image_unknown"]


@pytest.mark.parametrize(
    ("format", "images", "annotations", "counts"),
    [
        ("loco", "loco_forklifts/forklifts", "loco_forklifts/forklifts/annotations.csv", (49, 50)),
        ("coco", "voc_nine_formats/images", "voc_nine_formats/gts/coco_format_v1/instances_default.json", (100, 273)),
        ("yolo", "voc_nine_formats/images", "voc_nine_formats/gts/yolo_format", (100, 273)),
        ("voc", "voc_nine_formats/images", "voc_nine_formats/gts/pascalvoc_format", (100, 273)),
    ],
)
def test_real_data_sets_ingest_whole(format: str, images: str, annotations: str, counts: tuple[int, int]) -> None:
    root = shared(*images.split("/"))
    dataset = read_dataset(DatasetSettings(images=root, annotations=shared(*annotations.split("/")), format=format))
    checked = check_pictures(dataset.images.to_pandas(), root, LIMIT)
    objects = settle_objects(checked, dataset.objects)
    assert (checked.status == "ok").all() and (checked.frame == "upright").all()
    assert (len(checked), objects.num_rows) == counts and set(objects["status"].to_pylist()) == {"ok"}
    assert (np.asarray(checked.width) > 0).all()
