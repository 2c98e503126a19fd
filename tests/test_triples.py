"""Triples: pictures with masks and prompts become ordinary rows, and no file of theirs is lost."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image
from pycocotools.coco import COCO

from lib.core.errors import AugmentError
from lib.datasets.finalise import Made, finalise
from lib.datasets.formats import Dataset, read_dataset
from lib.datasets.formats.triples import _annotation
from lib.datasets.ids import Ids
from lib.datasets.ingest import check_pictures, settle_objects
from lib.datasets.write_coco import Sources
from lib.records.manifest import read_manifest, to_table
from lib.records.requests import Rle
from lib.records.rle import decode_rle
from lib.records.rows import CaptionRow, ImageRow, ObjectRow, ReviewRow, arrow_schema
from lib.records.settings import DatasetSettings, FinaliseSettings
from lib.records.store import Store

WIDTH, HEIGHT = 60, 40
HOLE = np.zeros((HEIGHT, WIDTH), bool)
HOLE[10:20, 5:35] = True
HOLE[18:30, 30:40] = True


def picture(path: Path, size: tuple[int, int] = (WIDTH, HEIGHT), orientation: int = 1) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels = np.random.default_rng(len(path.name)).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, exif=exif)


def mask(path: Path, paint: np.ndarray = HOLE, mode: str = "L", **options: Any) -> None:
    grey(path, np.where(paint, 0, 255), mode, **options)


def grey(path: Path, values: np.ndarray, mode: str = "L", **options: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values.astype(np.uint8)).convert(mode).save(path, **options)


def triple(folder: Path, name: str = "a", prompt: str | None = "a red cup", suffix: str = ".jpg") -> None:
    picture(folder / f"{name}{suffix}")
    mask(folder / f"{name}.mask.png")
    if prompt is not None:
        (folder / f"{name}.txt").write_text(prompt)


def dataset(folder: Path, **values: Any) -> Dataset:
    return read_dataset(DatasetSettings(images=folder, format="triples", **values))


def tables(folder: Path, **values: Any) -> tuple[pd.DataFrame, pd.DataFrame]:
    parsed = dataset(folder, **values)
    assert parsed.images.schema.equals(arrow_schema(ImageRow))
    assert parsed.objects.schema.equals(arrow_schema(ObjectRow))
    return parsed.images.to_pandas(), parsed.objects.to_pandas()


def ingested(folder: Path, **values: Any) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The rows of the ingest stage."""
    parsed = dataset(folder, **values)
    images = check_pictures(parsed.images.to_pandas(), folder, values.get("max_pixels", 10**6))
    return images, settle_objects(images, parsed.objects).to_pandas()


def only(rows: pd.DataFrame) -> Any:
    (row,) = rows.itertuples()
    return row


def area_of(row: Any) -> np.ndarray:
    """bool (H, W): what an object row's record says."""
    return decode_rle(Rle.model_validate(json.loads(row.record)["segmentation"]))


def fault(folder: Path, **values: Any) -> Any:
    """The one object row, rejected; the first picture, "a", is ok. Beside them lies a good triple."""
    triple(folder, "z")
    images, objects = ingested(folder, **values)
    assert images.status.tolist() == ["ok", "ok"] and len(objects) == 2
    row = only(objects[objects.image_key == images.key[0]])
    assert row.status == "rejected" and row.detail
    return row


# --- what is read ------------------------------------------------------------------------------------------------


def test_a_triple_is_a_picture_with_its_prompt_and_one_masked_object(tmp_path: Path) -> None:
    triple(tmp_path)
    parsed = dataset(tmp_path)
    images, objects = ingested(tmp_path)
    image, row = only(images), only(objects)
    record = json.loads(image.record)
    assert (image.status, image.file_name, image.path, image.split) == ("ok", "a.jpg", "a.jpg", "train")
    assert (image.width, image.height, image.frame) == (WIDTH, HEIGHT, "upright")
    assert (record["caption"], record["file_name"], str(record["id"])) == ("a red cup", "a.jpg", image.key)
    assert (row.status, row.category, row.category_id, row.crowd, row.polygon) == ("ok", "masked", "1", False, True)
    assert (row.x, row.y, row.w, row.h, row.image_key) == (5, 10, 35, 20, image.key)
    note = json.loads(row.record)
    assert (note["area"], note["iscrowd"], note["bbox"]) == (HOLE.sum(), 0, [5, 10, 35, 20])
    assert note["segmentation"]["size"] == [HEIGHT, WIDTH]
    np.testing.assert_array_equal(area_of(row), HOLE)
    assert json.loads(parsed.envelope)["categories"] == [{"id": 1, "name": "masked", "supercategory": ""}]


@pytest.mark.parametrize(
    ("suffix", "mode", "options"),
    [
        (".png", "L", {}),
        (".png", "1", {}),
        (".png", "P", {}),
        (".png", "RGB", {}),
        (".png", "RGBA", {}),
        (".png", "I;16", {}),
        (".jpg", "L", {"quality": 95}),
        (".jpg", "RGB", {"quality": 95}),
        (".JPEG", "L", {"quality": 95}),
        (".webp", "RGB", {"lossless": True}),
        (".bmp", "L", {}),
    ],
)
def test_a_mask_may_be_in_any_kind_of_file(tmp_path: Path, suffix: str, mode: str, options: dict[str, Any]) -> None:
    picture(tmp_path / "a.jpg")
    path = tmp_path / f"a.mask{suffix}"
    if mode == "I;16":
        Image.fromarray(np.where(HOLE, 0, 65535).astype(np.uint16)).save(path)
    else:
        mask(path, HOLE, mode, **options)
    np.testing.assert_array_equal(area_of(only(tables(tmp_path)[1])), HOLE)


def test_a_bad_jpeg_of_a_mask_still_passes_and_is_about_right(tmp_path: Path) -> None:
    picture(tmp_path / "a.jpg")
    mask(tmp_path / "a.mask.jpg", HOLE, quality=10)
    row = only(tables(tmp_path)[1])
    assert row.status == "ok" and (area_of(row) ^ HOLE).mean() < 0.03


def test_up_to_127_is_painted_and_above_is_kept(tmp_path: Path) -> None:
    picture(tmp_path / "a.png", (256, 40))
    values = np.full((40, 256), 255)
    values[0] = np.arange(256)
    grey(tmp_path / "a.mask.png", values)
    row = only(tables(tmp_path)[1])
    assert (row.x, row.y, row.w, row.h) == (0, 0, 128, 1)


def test_a_black_mask_paints_the_whole_picture(tmp_path: Path) -> None:
    picture(tmp_path / "a.jpg")
    mask(tmp_path / "a.mask.jpg", np.ones_like(HOLE))
    row = only(tables(tmp_path)[1])
    assert (row.status, row.x, row.y, row.w, row.h) == ("ok", 0, 0, WIDTH, HEIGHT) and area_of(row).all()


def test_a_mask_fits_its_picture_as_it_is_shown(tmp_path: Path) -> None:
    picture(tmp_path / "a.jpg", (HEIGHT, WIDTH), orientation=6)
    mask(tmp_path / "a.mask.png")
    images, objects = ingested(tmp_path)
    assert (only(images).status, only(images).frame, only(images).width) == ("ok", "upright", WIDTH)
    assert only(objects).status == "ok"


@pytest.mark.parametrize("name", ["a.b.c", "a picture", "1,2", "mask", "a.mask.b", "Über.größe", "a.txt", "sub.dir/a"])
def test_names_may_have_dots_and_spaces_and_folders(tmp_path: Path, name: str) -> None:
    triple(tmp_path, name)
    images, objects = ingested(tmp_path)
    assert (only(images).file_name, only(images).status, only(objects).status) == (f"{name}.jpg", "ok", "ok")
    assert json.loads(only(images).record)["caption"] == "a red cup"


@pytest.mark.parametrize(
    ("data", "caption"),
    [
        (b"\xef\xbb\xbfa dog\n", "a dog"),
        (b"  a dog\r\nand a cat \r\n\r\n", "a dog\r\nand a cat"),
        ("ein grüner Hund".encode(), "ein grüner Hund"),
        (b'a "dog" \\ {caption}', 'a "dog" \\ {caption}'),
        (b" \n", None),
        (b"", None),
    ],
)
def test_a_prompt_is_its_files_text_without_the_space_around_it(
    tmp_path: Path, data: bytes, caption: str | None
) -> None:
    triple(tmp_path)
    (tmp_path / "a.txt").write_bytes(data)
    images, objects = tables(tmp_path)
    assert json.loads(only(images).record).get("caption") == caption and only(objects).status == "ok"


def test_a_picture_without_a_prompt_has_no_caption(tmp_path: Path) -> None:
    triple(tmp_path, prompt=None)
    assert "caption" not in json.loads(only(tables(tmp_path)[0]).record)


def test_masks_and_prompts_may_lie_in_another_folder(tmp_path: Path) -> None:
    triple(tmp_path / "images" / "x", "a")
    (tmp_path / "masks" / "x").mkdir(parents=True)
    for name in ("a.mask.png", "a.txt"):
        (tmp_path / "images" / "x" / name).rename(tmp_path / "masks" / "x" / name)
    images, objects = ingested(tmp_path / "images", annotations=tmp_path / "masks")
    assert (only(images).file_name, only(images).status, only(objects).status) == ("x/a.jpg", "ok", "ok")
    assert json.loads(only(images).record)["caption"] == "a red cup"


def test_pictures_that_differ_in_their_suffix_share_mask_and_prompt(tmp_path: Path) -> None:
    triple(tmp_path, suffix=".jpg")
    triple(tmp_path, suffix=".png")
    images, objects = ingested(tmp_path)
    assert images.file_name.tolist() == ["a.jpg", "a.png"] and objects.status.tolist() == ["ok", "ok"]
    assert all(json.loads(record)["caption"] == "a red cup" for record in images.record)


def test_ids_do_not_change_when_pictures_are_added(tmp_path: Path) -> None:
    triple(tmp_path, "b")
    before = tables(tmp_path)
    triple(tmp_path, "a")
    for old, new in zip(before, tables(tmp_path), strict=True):
        assert set(old.key) < set(new.key) and all(int(key) < 2**48 for key in new.key)


def test_split_and_group_are_as_for_other_formats(tmp_path: Path) -> None:
    triple(tmp_path, "x/a")
    images, _ = tables(tmp_path, split="val", group="folder")
    assert (only(images).split, only(images).group) == ("val", "x")


# --- faults ------------------------------------------------------------------------------------------------------


def test_a_picture_without_a_mask_stays_and_its_mask_is_missed(tmp_path: Path) -> None:
    picture(tmp_path / "a.jpg")
    row = fault(tmp_path)
    assert row.reason == "mask_missing" and "a.jpg" in row.detail


def test_a_mask_of_another_size_is_reported_with_both_sizes(tmp_path: Path) -> None:
    picture(tmp_path / "a.jpg")
    mask(tmp_path / "a.mask.png", HOLE.T)
    row = fault(tmp_path)
    assert row.reason == "mask_size" and "40×60" in row.detail and "60×40" in row.detail


def test_a_mask_as_stored_does_not_fit_a_turned_picture(tmp_path: Path) -> None:
    picture(tmp_path / "a.jpg", orientation=6)
    mask(tmp_path / "a.mask.png")
    assert fault(tmp_path).reason == "mask_size"


def test_a_white_mask_has_nothing_to_paint(tmp_path: Path) -> None:
    picture(tmp_path / "a.jpg")
    mask(tmp_path / "a.mask.png", np.zeros_like(HOLE))
    assert fault(tmp_path).reason == "mask_empty"


@pytest.mark.parametrize("data", [b"", b"no picture", None])
def test_a_mask_that_cannot_be_read_is_broken(tmp_path: Path, data: bytes | None) -> None:
    picture(tmp_path / "a.jpg")
    mask(tmp_path / "a.mask.png")
    path = tmp_path / "a.mask.png"
    path.write_bytes(path.read_bytes()[:-30] if data is None else data)
    row = fault(tmp_path)
    assert row.reason == "mask_broken" and "a.mask.png" in row.detail


def test_a_mask_that_is_a_folder_or_leads_nowhere_is_missing(tmp_path: Path) -> None:
    picture(tmp_path / "a.jpg")
    (tmp_path / "a.mask.png").mkdir()
    assert fault(tmp_path).reason == "mask_missing"
    (tmp_path / "a.mask.png").rmdir()
    (tmp_path / "a.mask.png").symlink_to(tmp_path / "nowhere.png")
    assert fault(tmp_path).reason == "mask_missing"


@pytest.mark.parametrize(("unsure", "reason"), [(120, ""), (121, "mask_not_binary")])
@pytest.mark.parametrize("value", [64, 128, 191])
def test_more_than_a_twentieth_of_greys_is_not_a_mask(tmp_path: Path, unsure: int, reason: str, value: int) -> None:
    picture(tmp_path / "a.jpg")
    values = np.where(HOLE, 0, 255)
    values[-2:] = 255
    values[-4:].flat[:unsure] = value  # 5 % of 60×40 are 120
    grey(tmp_path / "a.mask.png", values)
    images, objects = ingested(tmp_path)
    assert (only(images).status, only(objects).reason) == ("ok", reason)


@pytest.mark.parametrize("value", [63, 192])
def test_dark_and_light_greys_are_black_and_white(tmp_path: Path, value: int) -> None:
    picture(tmp_path / "a.jpg")
    grey(tmp_path / "a.mask.png", np.where(HOLE, min(value, 63), max(value, 192)))
    np.testing.assert_array_equal(area_of(only(tables(tmp_path)[1])), HOLE)


def test_a_photograph_given_as_a_mask_is_reported(tmp_path: Path) -> None:
    picture(tmp_path / "a.jpg")
    picture(tmp_path / "a.mask.jpg")
    assert fault(tmp_path).reason == "mask_not_binary"


@pytest.mark.parametrize("white", [1, 38])
def test_a_mask_of_class_numbers_does_not_paint_the_whole_picture(tmp_path: Path, white: int) -> None:
    picture(tmp_path / "a.jpg")
    grey(tmp_path / "a.mask.png", np.where(HOLE, 0, white))
    row = fault(tmp_path)
    assert row.reason == "mask_not_binary" and f"brightest pixel is {white}" in row.detail


def test_a_mask_beyond_max_pixels_is_not_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import lib.datasets.formats.triples as triples

    decoded, real = list[str](), triples.load_rgb
    monkeypatch.setattr(triples, "load_rgb", lambda path: decoded.append(path.name) or real(path))
    picture(tmp_path / "a.jpg")
    mask(tmp_path / "a.mask.png", np.kron(HOLE, np.ones((2, 2), bool)))
    row = fault(tmp_path, max_pixels=WIDTH * HEIGHT)
    assert row.reason == "image_too_large" and "120×80" in row.detail and decoded == ["z.mask.png"]


def test_the_mask_of_a_picture_that_cannot_be_read_is_set_aside_with_it(tmp_path: Path) -> None:
    triple(tmp_path, "z")
    mask(tmp_path / "a.mask.png")
    (tmp_path / "a.jpg").write_bytes(b"")
    images, objects = ingested(tmp_path)
    assert images.reason.tolist() == ["image_empty", ""]
    assert objects.set_index("image_key").reason.to_dict() == {images.key[0]: "image_rejected", images.key[1]: ""}


def test_of_two_masks_the_png_counts_and_the_other_is_reported(tmp_path: Path) -> None:
    triple(tmp_path)
    mask(tmp_path / "a.mask.jpg", ~HOLE)
    images, objects = ingested(tmp_path)
    assert only(images).status == "ok" and objects.reason.tolist() == ["", "mask_duplicate"]
    assert "a.mask.jpg" in objects.detail[1] and objects.image_key[1] == images.key[0]
    np.testing.assert_array_equal(area_of(objects.iloc[0]), HOLE)


def test_a_prompt_that_is_not_utf8_is_a_row_that_says_so(tmp_path: Path) -> None:
    triple(tmp_path)
    (tmp_path / "a.txt").write_bytes("grün".encode("latin-1"))
    images, objects = ingested(tmp_path)
    assert "caption" not in json.loads(only(images).record) and only(images).status == "ok"
    assert sorted(objects.reason) == ["", "record_malformed"] and "a.txt is not UTF-8" in objects.detail[1]


def test_masks_and_prompts_without_a_picture_are_rejected_pictures(tmp_path: Path) -> None:
    triple(tmp_path)
    mask(tmp_path / "lost.mask.png")
    (tmp_path / "alone.txt").write_text("a dog")
    images, objects = ingested(tmp_path)
    assert images.set_index("file_name").reason.to_dict() == {
        "a.jpg": "",
        "lost.mask.png": "image_missing",
        "alone.txt": "image_missing",
    }
    assert len(objects) == 1 and images.key.is_unique and images.detail[1:].all()


def test_a_mask_is_never_a_picture(tmp_path: Path) -> None:
    triple(tmp_path)
    mask(tmp_path / "a.mask.mask.png")  # the mask of a mask
    images, objects = ingested(tmp_path)
    assert images.file_name.tolist() == ["a.jpg", "a.mask.mask.png"] and len(objects) == 1
    assert images.reason.tolist() == ["", "image_missing"]


def test_a_name_that_is_not_utf8_is_a_row_too(tmp_path: Path) -> None:
    triple(tmp_path)
    for name in ("a.jpg", "a.mask.png", "a.txt"):
        odd = os.fsencode(tmp_path) + b"/\xff" + name.encode()
        try:
            Path(os.fsdecode(odd)).write_bytes((tmp_path / name).read_bytes())
        except OSError:
            pytest.skip("this file system takes no such names")
    images, objects = ingested(tmp_path)
    assert images.reason.tolist() == ["", *["record_malformed"] * 3] and len(objects) == 1
    assert images.file_name[1] == "\ufffda.jpg" and images.key.is_unique


def test_folders_without_triples_are_refused_with_advice(tmp_path: Path) -> None:
    picture(tmp_path / "images" / "a.jpg")
    (tmp_path / "masks").mkdir()
    for folder in (None, tmp_path / "masks", tmp_path / "nowhere", tmp_path / "images" / "a.jpg"):
        with pytest.raises(AugmentError, match=r"set dataset\..*annotations"):
            dataset(tmp_path / "images", annotations=folder)
    mask(tmp_path / "masks" / "b.mask.png")  # of no picture
    with pytest.raises(AugmentError, match=r"name\.mask\.png"):
        dataset(tmp_path / "images", annotations=tmp_path / "masks")


# --- and comes out again -----------------------------------------------------------------------------------------


@settings(max_examples=60)
@given(arrays(bool, st.tuples(st.integers(1, 40), st.integers(1, 40))).filter(np.any))
def test_a_mask_comes_back_from_its_runs(paint: np.ndarray) -> None:
    note = json.loads(json.dumps(_annotation(paint)))
    back = decode_rle(Rle.model_validate(note["segmentation"]))
    np.testing.assert_array_equal(back, paint)
    x, y, w, h = note["bbox"]
    inside = np.zeros_like(paint)
    inside[y : y + h, x : x + w] = True
    assert note["area"] == paint.sum() and not (paint & ~inside).any()
    assert paint[y].any() and paint[y + h - 1].any() and paint[:, x].any() and paint[:, x + w - 1].any()


def test_the_final_set_loads_in_pycocotools_with_its_masks(tmp_path: Path) -> None:
    source = tmp_path / "source"
    triple(source, "a")
    triple(source, "b", prompt=None)
    picture(source / "c.jpg")
    parsed = dataset(source)
    images = check_pictures(parsed.images.to_pandas(), source, 10**6)
    objects = settle_objects(images, parsed.objects).to_pandas()
    reviewed, final = to_table([], ReviewRow).to_pandas(), tmp_path / "final"
    sources = Sources(images, objects, parsed.envelope, source)
    made, store = Made(reviewed, {}), Store(tmp_path / "store")
    list(finalise(final, sources, made, Ids(tmp_path / "ids.jsonl"), FinaliseSettings(), store, None))
    document = json.loads((final / "annotations.json").read_bytes())
    assert document["images"] == [json.loads(record) for record in images.record]
    assert document["annotations"] == [json.loads(record) for record in objects.record[objects.status == "ok"]]
    coco = COCO(str(final / "annotations.json"))
    assert len(coco.imgs) == 3 and len(coco.anns) == 2
    for note in coco.anns.values():
        np.testing.assert_array_equal(coco.annToMask(note).astype(bool), HOLE)


def test_a_run_says_the_prompts_that_were_given_and_only_a_new_one_again(tmp_path: Path) -> None:
    from flows.augment import augment

    source, workspace = tmp_path / "source", tmp_path / "ws"
    for name in "abc":
        triple(source, name, prompt=f"a cup {name}")
    (source / "c.txt").unlink()

    def run() -> tuple[dict[str, Any], pd.DataFrame]:
        augment.fn(
            dataset={"images": str(source), "format": "triples"},
            caption={"captioner": "given"},
            workspace=workspace,
            evaluate={"extractor": None},
        )
        account = json.loads((workspace / "status.json").read_bytes())
        return account["stages"]["caption"], read_manifest(workspace / "manifests" / "caption.parquet", CaptionRow)

    account, rows = run()
    assert rows.prompt.tolist() == ["a cup a", "a cup b", ""] and account["painted"] == 3
    assert rows.reason.tolist() == ["", "", "caption_missing"]
    assert run()[0]["painted"] == 0
    (source / "c.txt").write_text("a cup at last")
    account, rows = run()
    assert rows.prompt.tolist() == ["a cup a", "a cup b", "a cup at last"] and account["painted"] == 1
    coco = COCO(str(workspace / "final" / "annotations.json"))
    for record in read_manifest(workspace / "manifests" / "objects.parquet", ObjectRow).record:
        assert coco.anns[json.loads(record)["id"]] == json.loads(record)
