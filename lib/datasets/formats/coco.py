"""COCO instances JSON, as clean as the original or as wild as people's exports.

Every record is kept byte for byte; beside it the few fields that are needed, as coco_json.py decodes them,
become columns, and each fault a row with its JSON path.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from msgspec import Raw

from lib.core.documents import MAX_DEPTH, deep_rows, shallow
from lib.core.errors import AugmentError
from lib.core.images import inside, plain_path
from lib.datasets.formats import Dataset
from lib.datasets.formats.coco_find import find_json
from lib.datasets.formats.coco_json import (
    NULL,
    Annotation,
    Image,
    category_names,
    decode_annotations,
    decode_images,
    decode_top,
    envelope_of,
    field_names,
    field_texts,
    id_text,
    plain_ids,
    top_level,
)
from lib.datasets.formats.tables import (
    Verdicts,
    has_shape,
    images_folder,
    make_table,
    outside,
    packed_column,
    read_bytes,
    text_column,
    unique_keys,
)
from lib.records.rows import REJECTED, ImageRow, ObjectRow
from lib.records.settings import DatasetSettings

_NO_BOX = (np.nan,) * 4
_RECORD_DEPTH = 2  # levels above a record: the document's object and its list

Locate = Callable[[Raw, str], str]  # (record, file_name) -> name of the picture under the images folder
Split = Callable[[Raw], str]  # record -> split


def read(settings: DatasetSettings) -> Dataset:
    """Read a COCO file. Raises AugmentError that names file and place; a bad record is a rejected row instead."""
    root = images_folder(settings)
    path = settings.annotations or find_json(root)
    return read_document(read_bytes(path), str(path), settings)


def read_document(
    data: bytes | bytearray,
    where: str,
    settings: DatasetSettings,
    locate: Locate | None = None,
    split: Split | None = None,
) -> Dataset:
    """A COCO document, bytes of JSON, as tables.

    where: its name in errors. locate and split: how another format finds a picture and its split in an image record;
    by default `file_name` and `settings.split`.
    """
    buffer = bytearray(data) if isinstance(data, bytes) else data
    with no_garbage_collection():
        try:
            return _read(buffer, where, settings, locate, split)
        except RecursionError:  # nested by the hundreds, as nothing in earnest is
            return _read(bytearray(shallow(buffer, MAX_DEPTH + _RECORD_DEPTH)), where, settings, locate, split)


def _read(
    buffer: bytearray, where: str, settings: DatasetSettings, locate: Locate | None, split: Split | None
) -> Dataset:
    top = top_level(buffer, where)
    envelope, names = envelope_of(top, where), category_names(top["categories"], where)
    image_raws, object_raws = (decode_top(top[n], list[Raw], f"$.{n}", where) for n in ("images", "annotations"))
    images = image_columns(image_raws, top["images"], settings, where, locate, split)
    objects = object_columns(object_raws, top["annotations"], Pictures.of(images), names)
    # Last: what points into the buffer is lost by it.
    images["record"], objects["record"] = packed_column(image_raws, buffer), packed_column(object_raws, buffer)
    return Dataset(
        without_deep(make_table(ImageRow, images), "images"),
        without_deep(make_table(ObjectRow, objects), "annotations"),
        envelope,
    )


@dataclass(frozen=True)
class Pictures:
    """Of all pictures, what annotations are compared with."""

    keys: pa.Array
    width: np.ndarray  # (N,) int64, pixels
    height: np.ndarray

    @classmethod
    def of(cls, columns: dict[str, Any]) -> Pictures:
        return cls(columns["key"], columns["width"], columns["height"])

    @classmethod
    def joined(cls, known: list[Pictures]) -> Pictures:
        none = np.zeros(0, np.int64)
        return cls(
            pa.concat_arrays([pa.array([], pa.string()), *(one.keys for one in known)]),
            np.concatenate([none, *(one.width for one in known)]),
            np.concatenate([none, *(one.height for one in known)]),
        )


def without_deep(rows: pa.Table, name: str, start: int = 0) -> pa.Table:
    """Rows whose record is nested too deep are rejected, and keep of it what is not."""
    (records,) = rows["record"].chunks
    offsets = np.frombuffer(records.buffers()[1], np.int64)[: len(rows) + 1] if len(rows) else np.zeros(1, np.int64)
    found = deep_rows(np.frombuffer(records.buffers()[2] or b"", np.uint8), offsets)
    if not found:
        return rows
    mask = pa.array(_mask(len(rows), found))
    changes = {
        "status": [REJECTED] * len(found),
        "reason": ["record_malformed"] * len(found),
        "detail": [f"$.{name}[{start + i}] is nested more than {MAX_DEPTH} levels deep" for i in found],
        "record": [shallow(records[i].as_py(), MAX_DEPTH) for i in found],
    }
    for column, values in changes.items():
        at, kind = rows.schema.get_field_index(column), rows.schema.field(column)
        rows = rows.set_column(at, kind, pc.replace_with_mask(rows[column], mask, pa.array(values, kind.type)))
    return rows


@contextmanager
def no_garbage_collection() -> Iterator[None]:
    """A million small objects without cycles are made and dropped: looking for cycles among them costs a third."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _id_column(ids: Sequence[Raw | int]) -> pa.Array:
    """Ids as JSON text."""
    if not ids or isinstance(ids[0], Raw):
        return text_column(cast("Sequence[Raw]", ids))
    try:
        return pa.array(ids, pa.int64()).cast(pa.string())
    except OverflowError:
        return pa.array([str(i) for i in ids], pa.string())


def _keys(ids: pa.Array, broken: np.ndarray, start: int) -> tuple[pa.Array, np.ndarray]:
    """Keys of records, and which of them repeat; a record without an id is called by its row number, "#7"."""
    if broken.any():
        numbered = [
            f"#{start + i}" if bad else key for i, (key, bad) in enumerate(zip(ids.to_pylist(), broken, strict=True))
        ]
        ids = pa.array(numbered, pa.string())
    keys, repeated = unique_keys(plain_ids(ids))
    return pc.if_else(pa.array(repeated), keys, ids), repeated  # keys stay as they were written


def _mask(n: int, rows: Sequence[int]) -> np.ndarray:
    mask = np.zeros(n, bool)
    mask[list(rows)] = True
    return mask


# --- pictures ----------------------------------------------------------------------------------------------------


def image_columns(
    raws: list[Raw],
    block: Raw | bytearray,
    settings: DatasetSettings,
    where: str,
    locate: Locate | None,
    split: Split | None,
    start: int = 0,
) -> dict[str, Any]:
    """start: number of the first record in the file."""
    records, faults = decode_images(raws, block, start)
    n = len(records)
    without_id = np.fromiter((r.id == NULL for r in records), bool, n)
    verdicts = Verdicts(n)
    verdicts.reject(
        _mask(n, list(faults)) | without_id, "record_malformed", lambda i: _no_id(faults, "images", i, start)
    )
    readable = verdicts.ok
    keys, repeated = _keys(_id_column([r.id for r in records]), without_id, start)
    verdicts.reject(
        repeated, "image_id_duplicate", lambda i: f"$.images[{start + i}].id {id_text(records[i].id)} came before"
    )
    paths = _paths(raws, records, settings.images, locate, readable)
    verdicts.reject(
        np.fromiter((p is None for p in paths), bool, n),
        "path_outside_root",
        lambda i: f"$.images[{start + i}]: {records[i].file_name!r:.200} leads out of the images folder",
    )
    return {
        "key": keys,
        **verdicts.columns(),
        "file_name": pa.array([r.file_name for r in records], pa.string()),
        "path": pa.array([p or "" for p in paths], pa.string()),
        "split": _splits(raws, readable, settings, where, split),
        "group": _groups(raws, paths, readable, settings),
        "width": _pixels([r.width for r in records]),
        "height": _pixels([r.height for r in records]),
        "frame": "",
        "size": -1,
        "mtime_ns": -1,
        "digest": "",
    }


def _no_id(faults: dict[int, str], name: str, i: int, start: int) -> str:
    return faults.get(i) or f"Expected an id, got `null` - at `$.{name}[{start + i}].id`"


def _paths(
    raws: list[Raw], records: list[Image], root: Path, locate: Locate | None, readable: np.ndarray
) -> list[str | None]:
    """Paths under root, None where a name leaves it; only unusual names are looked up on disk."""
    names = [r.file_name for r in records]
    if locate is not None:
        names = [locate(raw, n) if good else n for raw, n, good in zip(raws, names, readable.tolist(), strict=True)]
    return [name if (plain := plain_path(name)) == name else _unusual(root, name, plain) for name in names]


def _unusual(root: Path, name: str, plain: str | None) -> str | None:
    if plain is None or "\\" not in name:
        return plain
    found = inside(root, name)
    return None if found is None else found.relative_to(root).as_posix()


def _splits(
    raws: list[Raw], readable: np.ndarray, settings: DatasetSettings, where: str, split: Split | None
) -> pa.Array | str:
    if split is not None:
        return pa.array(
            [split(raw) if good else "" for raw, good in zip(raws, readable.tolist(), strict=True)], pa.string()
        )
    if settings.split != "official":
        return settings.split or "train"
    splits = field_texts(raws, "split", readable)
    if missing := [i for i, text in enumerate(splits) if not text and readable[i]]:
        raise AugmentError(
            f"{where}: $.images[{missing[0]}] has no field 'split' ({len(missing)} of {len(raws)} have none): "
            "set dataset.split to a name instead of 'official'"
        )
    return pa.array(splits, pa.string())


def _groups(
    raws: list[Raw], paths: list[str | None], readable: np.ndarray, settings: DatasetSettings
) -> pa.Array | str:
    if settings.group is None:
        return ""
    if settings.group == "folder":
        folders = [str(PurePosixPath(path or "").parent) for path in paths]
        return pa.array(["" if folder == "." else folder for folder in folders], pa.string())
    groups = field_texts(raws, settings.group, readable)
    if groups and not any(groups):
        known = ", ".join(sorted({key for raw in raws[:100] for key in field_names(raw)}))
        raise AugmentError(f"dataset.group: no picture's record has {settings.group!r}: 'folder', or one of {known}")
    return pa.array(groups, pa.string())


def _pixels(values: list[float | None]) -> np.ndarray:
    """Whole pixels; 0, not known, for what is missing, not positive or absurd."""
    numbers = np.array([v or 0 for v in values], np.float64)
    return np.rint(np.where((numbers > 0) & (numbers < 2**31), numbers, 0)).astype(np.int64)


# --- annotations -------------------------------------------------------------------------------------------------


def object_columns(
    raws: list[Raw], block: Raw | bytearray, images: Pictures, names: dict[str, str], start: int = 0
) -> dict[str, Any]:
    """start: number of the first record in the file."""
    records, faults = decode_annotations(raws, block, start)
    n = len(records)
    ids, image_ids, category_ids = (
        _id_column([getattr(r, field) for r in records]) for field in ("id", "image_id", "category_id")
    )
    boxes = np.array([r.bbox or _NO_BOX for r in records], np.float64).reshape(n, 4)
    image_rows = _rows(plain_ids(image_ids), plain_ids(images.keys))
    category_keys = pa.array([*names], pa.string())
    category_rows = _rows(plain_ids(category_ids), plain_ids(category_keys))
    without_id = np.fromiter((r.id == NULL for r in records), bool, n)
    keys, repeated = _keys(ids, without_id, start)
    verdicts = _judge_records(records, faults, without_id, repeated, start)
    verdicts.reject(image_rows < 0, "image_unknown", lambda i: _place(records, i, "image_id", start))
    verdicts.reject(category_rows < 0, "category_unknown", lambda i: _place(records, i, "category_id", start))
    _judge_boxes(verdicts, boxes, faults, images, image_rows, start)
    return {
        "key": keys,
        **verdicts.columns(),
        "image_key": _known(images.keys, image_rows, image_ids),
        "category_id": _known(category_keys, category_rows, category_ids),
        "category": pa.array([*names.values(), ""], pa.string()).take(pa.array(category_rows % (len(names) + 1))),
        **{name: np.nan_to_num(boxes[:, k]) for k, name in enumerate("xywh")},
        "crowd": np.fromiter((bool(r.iscrowd) for r in records), bool, n),
        "polygon": has_shape([r.segmentation for r in records], boxes),
    }


def _judge_records(
    records: list[Annotation], faults: dict[int, str], without_id: np.ndarray, repeated: np.ndarray, start: int
) -> Verdicts:
    verdicts = Verdicts(len(records))
    beyond_box = [i for i, message in faults.items() if f"`$.annotations[{start + i}].bbox" not in message]
    malformed = _mask(len(records), beyond_box) | without_id
    verdicts.reject(malformed, "record_malformed", lambda i: _no_id(faults, "annotations", i, start))
    verdicts.reject(repeated, "annotation_id_duplicate", lambda i: f"{_place(records, i, 'id', start)} came before")
    return verdicts


def _place(records: list[Annotation], i: int, field: str, start: int) -> str:
    return f"$.annotations[{start + i}].{field} {id_text(getattr(records[i], field))}"


def _known(keys: pa.Array, rows: np.ndarray, given: pa.Array) -> pa.Array:
    """The key in each of these rows; what was given where the row is -1."""
    return pc.coalesce(keys.take(pa.array(rows, pa.int64(), mask=rows < 0)), given)


def _rows(values: pa.Array, among: pa.Array) -> np.ndarray:
    """Row number of each value, -1 where it is missing."""
    return pc.fill_null(pc.index_in(values, value_set=among), -1).to_numpy(zero_copy_only=False)


def _judge_boxes(
    verdicts: Verdicts,
    boxes: np.ndarray,
    faults: dict[int, str],
    images: Pictures,
    image_rows: np.ndarray,
    start: int,
) -> None:
    x, y, w, h = boxes.T
    missing = "Expected 4 finite numbers - at `$.annotations[{}].bbox`"
    verdicts.reject(np.isnan(x), "box_malformed", lambda i: faults.get(i) or missing.format(start + i))
    verdicts.reject(
        (w <= 0) | (h <= 0), "box_empty", lambda i: f"$.annotations[{start + i}].bbox is {w[i]:g}×{h[i]:g} pixels"
    )
    sizes = np.stack([images.width, images.height], axis=1)
    width, height = np.concatenate([sizes, [[0, 0]]])[image_rows].T  # -1, no such image, takes the last row
    verdicts.reject(
        outside(x, y, w, h, width, height),
        "box_outside",
        lambda i: f"$.annotations[{start + i}].bbox {boxes[i].tolist()} lies outside {width[i]}×{height[i]} pixels",
    )
