"""From bulk columns to the two tables of a Dataset: what all readers share. Columns are built whole, not row by row.

A reader whose source is not COCO JSON writes its records as COCO records and lets coco.py read them.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa

from lib.core.documents import decode_text, read_file
from lib.core.errors import AugmentError
from lib.core.geometry import fills_box
from lib.core.images import PictureError, header_size, inside
from lib.datasets.formats import Dataset
from lib.records.manifest import to_table
from lib.records.rows import OK, REJECTED, ImageRow, ObjectRow, Row, arrow_schema
from lib.records.settings import DatasetSettings

Bytes = bytes | msgspec.Raw

MOST_LABELS, MOST_LABELS_BYTES = 100_000, 16_000_000  # lines and bytes of one picture's text file

_NULL = msgspec.Raw(b"null")


class Verdicts:
    """Status, reason and detail of n rows; the first reason stays."""

    def __init__(self, n: int) -> None:
        self._codes = np.zeros(n, np.int16)
        self._words = [""]
        self._details: dict[int, str] = {}

    @property
    def ok(self) -> np.ndarray:
        """(n,) bool: not rejected so far."""
        return self._codes == 0

    def reject(self, rows: np.ndarray, reason: str, detail: Callable[[int], str]) -> None:
        """Reject those of `rows`, an (n,) bool mask, that are still ok; `detail` gets the row number."""
        chosen = np.flatnonzero(rows & self.ok)
        if len(chosen) == 0:
            return
        if reason not in self._words:
            self._words.append(reason)
        self._codes[chosen] = self._words.index(reason)
        self._details.update((i, detail(i)) for i in chosen.tolist())

    def columns(self) -> dict[str, pa.Array]:
        """The columns status, reason and detail."""
        details = [""] * len(self._codes)
        for i, text in self._details.items():
            details[i] = text
        return {
            "status": pa.array([OK, REJECTED]).take(pa.array((~self.ok).astype(np.int8))),
            "reason": pa.array(self._words).take(pa.array(self._codes)),
            "detail": pa.array(details, pa.string()),
        }


def text_column(values: Sequence[Bytes]) -> pa.Array:
    """UTF-8 byte strings as one string column, at most 2 GiB together: one join, no Python string a row."""
    offsets = pa.py_buffer(_offsets(values).astype(np.int32))
    return pa.StringArray.from_buffers(len(values), offsets, pa.py_buffer(b"".join(values)))


def packed_column(values: Sequence[msgspec.Raw], buffer: bytearray) -> pa.Array:
    """Pieces of `buffer`, in their order in it, as a large_binary column that shares its memory.

    They are moved together in place, which costs a fifth of copying them to fresh memory and none of the memory. So
    this comes last: afterwards `values`, and all that pointed into the same stretch, hold other bytes.
    """
    view, start = memoryview(buffer), 0
    if values:
        start = _address(values[0]) - _address(view)
        in_place = 0 <= start < len(view) and view[start : start + len(values[0])] == memoryview(values[0])
        assert in_place, "msgspec.Raw copies: these pieces are not in the buffer, so they cannot be packed in it"
    end = start
    for value in values:
        begin, end = end, end + len(value)
        view[begin:end] = value
    buffers = [None, pa.py_buffer(_offsets(values)), pa.py_buffer(view[start:end])]
    return pa.LargeBinaryArray.from_buffers(pa.large_binary(), len(values), buffers)


def _address(value: Any) -> int:
    return int(np.frombuffer(value, np.uint8).ctypes.data)


def _offsets(values: Sequence[Bytes]) -> np.ndarray:
    offsets = np.zeros(len(values) + 1, np.int64)
    np.cumsum(np.fromiter(map(len, values), np.int64, len(values)), out=offsets[1:])
    return offsets


def unique_keys(ids: pa.Array) -> tuple[pa.Array, np.ndarray]:
    """Ids with "#2", "#3", ... appended where they repeat, and the (n,) bool mask of those."""
    codes = ids.dictionary_encode().indices.to_numpy(zero_copy_only=False)
    highest = np.maximum.accumulate(codes) if len(codes) else codes
    repeated = codes <= np.concatenate([[-1], highest[:-1]])[: len(codes)]  # codes are numbered by first appearance
    if not repeated.any():
        return ids, repeated
    keys, counts = ids.to_pylist(), dict[str, int]()
    for i in np.flatnonzero(repeated).tolist():
        counts[keys[i]] = count = counts.get(keys[i], 1) + 1
        keys[i] = f"{keys[i]}#{count}"
    return pa.array(keys, pa.string()), repeated


def make_table(row_type: type[Row], columns: dict[str, Any]) -> pa.Table:
    """Columns as a table of exactly the row type's schema; a single value stands for a whole column."""
    schema, n = arrow_schema(row_type), len(columns["key"])
    arrays = [columns[f.name] for f in schema]
    full = [pa.repeat(pa.scalar(a, f.type), n) if _single(a) else a for a, f in zip(arrays, schema, strict=True)]
    return pa.table([pa.array(a) if isinstance(a, np.ndarray) else a for a in full], names=schema.names).cast(schema)


def _single(value: Any) -> bool:
    return isinstance(value, str | int | float | bool | bytes)


def rejected_image(key: str, reason: str, detail: str, file_name: str, record: bytes) -> ImageRow:
    """An image row that never got as far as a size."""
    return ImageRow(key, REJECTED, reason, detail, file_name, "", "", "", 0, 0, "", -1, -1, "", record)


def rejected_object(key: str, reason: str, detail: str, image_key: str, record: bytes) -> ObjectRow:
    """An object row that never got as far as a box."""
    return ObjectRow(key, REJECTED, reason, detail, image_key, "", "", 0, 0, 0, 0, False, False, record)


def shown(name: str) -> str:
    """A file's name as text: itself unless it is not UTF-8."""
    return name.encode(errors="surrogateescape").decode(errors="replace")


def misnamed(name: str) -> ImageRow:
    """The row of a file whose name cannot stand in a record."""
    text, key = shown(name), stable_id(name)
    record = msgspec.json.encode({"id": key, "file_name": text, "width": 0, "height": 0})
    detail = f"{text}: rename it, its name is not UTF-8"
    return rejected_image(str(key), "record_malformed", detail, text, record)


def with_rejected(dataset: Dataset, images: Sequence[ImageRow], objects: Sequence[ObjectRow]) -> Dataset:
    """The data set with rows appended that its reader could not turn into records."""
    return Dataset(
        pa.concat_tables([dataset.images, to_table(images, ImageRow)]),
        pa.concat_tables([dataset.objects, to_table(objects, ObjectRow)]),
        dataset.envelope,
    )


def outside(
    x: np.ndarray, y: np.ndarray, w: np.ndarray, h: np.ndarray, width: np.ndarray, height: np.ndarray
) -> np.ndarray:
    """(N,) bool: boxes, xywh pixels, that share nothing with their picture; False where its size is 0, not known."""
    gone = (x >= width) | (y >= height) | (x + w <= 0) | (y + h <= 0)
    return gone & (width > 0) & (height > 0)


def has_shape(segmentations: list[msgspec.Raw], boxes: np.ndarray) -> np.ndarray:
    """(N,) bool: the segmentation, JSON bytes, is an RLE, or polygons that are more than the box, xywh pixels.

    A rectangle has at most 5 points, so more than 9 commas settle it without parsing.
    """
    commas = np.fromiter((bytes(s).count(b",") for s in segmentations), np.int64, len(segmentations))
    shaped = commas > 9
    for i in np.flatnonzero(~shaped).tolist():
        shaped[i] = segmentations[i] != _NULL and _is_shape(segmentations[i], boxes[i])
    return shaped


def _is_shape(segmentation: msgspec.Raw, box: np.ndarray) -> bool:
    try:
        value: Any = msgspec.json.decode(segmentation)
        if isinstance(value, dict):
            return "counts" in value
        polygons = [np.array(p, np.float64).reshape(-1, 2) for p in value or () if len(p) >= 6]
    except (msgspec.MsgspecError, TypeError, ValueError, OverflowError):
        return False
    if len(polygons) != 1:
        return len(polygons) > 1
    x, y, w, h = box
    return not fills_box(polygons[0].ravel().tolist(), (x, y, x + w, y + h))


def field_of(record: bytes, name: str) -> Any:
    """A field of a record, a JSON object; None where it has none, or a number beyond all floats."""
    if f'"{name}"'.encode() not in record:  # most have not: no need to decode them
        return None
    try:
        fields = msgspec.json.decode(record, type=dict[str, msgspec.Raw])
        return msgspec.json.decode(fields[name]) if name in fields else None
    except msgspec.MsgspecError:
        return None


def text_of(record: bytes, name: str) -> str:
    """A text field of a record; "" where it has none."""
    value = field_of(record, name)
    return value if isinstance(value, str) else ""


def marked(records: Iterable[bytes], name: str, exactly: bool = False) -> np.ndarray:
    """(N,) bool: records whose field is true; exactly: only JSON's true counts, not 1 or a text."""
    values = (field_of(record, name) for record in records)
    return np.array([value is True if exactly else bool(value) for value in values], bool)


def stable_id(*parts: object) -> int:
    """A 48-bit id from a hash: adding files to a data set leaves the ids of the others alone."""
    text = "\0".join(map(str, parts))
    return int.from_bytes(hashlib.sha256(text.encode(errors="surrogateescape")).digest()[:6], "big")


def images_folder(settings: DatasetSettings) -> Path:
    """The folder with the pictures; raises AugmentError where it does not exist."""
    if not settings.images.is_dir():
        raise AugmentError(f"images folder {settings.images} not found: set dataset.images to the pictures' folder")
    return settings.images


def picture_size(root: Path, name: str) -> tuple[int, int]:
    """(width, height) from the header, pixels; (0, 0) where it cannot be read, which the picture check explains."""
    path = inside(root, name)
    try:
        return header_size(path) if path is not None else (0, 0)
    except PictureError:
        return 0, 0


OUTSIDE = "lies, or leads by a link, outside of dataset.images and dataset.annotations: copy it into one of them"


def lies_in(path: Path, folders: Iterable[Path]) -> bool:
    """Does a path lie, once its links are followed, in one of these folders, whose links are followed already?"""
    try:
        resolved = path.resolve()
    except (OSError, RuntimeError, ValueError):  # a circle of links, a name that no file has
        return False
    return any(resolved.is_relative_to(folder) for folder in folders)


def read_bytes(path: Path) -> bytearray:
    """The bytes of an annotation file; raises AugmentError where it cannot be read."""
    return read_file(path, "check dataset.annotations")


def read_text(path: Path) -> str:
    """The text of an annotation file, UTF-8 with or without a byte order mark; raises AugmentError."""
    return decode_text(read_bytes(path), path)


def split_lines(text: str) -> list[str]:
    """Lines of a text, stripped. Other characters that end a line in Unicode may stand in a name."""
    return [line.strip() for line in re.split(r"\r\n|\n|\r", text)]


def whole(text: str) -> int:
    """A whole number, which pandas and NumPy may have written as 1.0 or 1e+00; raises ValueError for another text."""
    if text.removeprefix("-").isdigit():
        return int(text)
    number = float(text)
    if not number.is_integer():
        raise ValueError(f"expected a whole number, got {text[:80]!r}")
    return int(number)


def label_lines(path: Path) -> list[tuple[int, str]]:
    """Numbered lines of a picture's label file, stripped, without blank ones. Raises ValueError for a file that is too
    long to be one, AugmentError where it cannot be read.

    A file of other bytes gives lines that are rejected one by one.
    """
    data = read_bytes(path)
    count = data.count(b"\n")
    if len(data) > MOST_LABELS_BYTES or count > MOST_LABELS:
        raise ValueError(f"{path.name} has {count:,} lines, {len(data):,} bytes: expected a picture's labels")
    lines = split_lines(data.decode("utf-8-sig", errors="replace"))
    return [(number, line) for number, line in enumerate(lines, 1) if line]
