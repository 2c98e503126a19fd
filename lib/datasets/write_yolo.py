"""YOLO labels of a COCO file: a text file per picture, and classes.txt."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from lib.core.geometry import clip_xyxy, xywh_to_xyxy
from lib.datasets.coco_file import CocoFile
from lib.datasets.formats.coco_json import plain_id
from lib.datasets.names import CONTROL, label_name
from lib.records.shelf import Shelf


def yolo_files(coco: CocoFile, sizes: Iterable[tuple[str, int, int]], folder: Path) -> Shelf[bytes]:
    """Bytes of the labels and of classes.txt by their path in the final set, for a COCO file of this project.

    A line is a class number, then centre x, centre y, width and height of the box as shares of the picture. Crowds and
    boxes without an area have none.

    Args:
        coco: the file, of which no more is held than some records.
        sizes: JSON text of an image id, width and height in pixels, as ingest measured them; the record's own size
            counts where an id is not among them.
        folder: where all this lies meanwhile.
    """
    categories = coco.value("categories", list[_ListedCategory])
    codes = {plain_id(category.id): code for code, category in enumerate(categories)}
    measured = Shelf[int](folder)
    measured.put((key, width * _HIGH + height) for key, width, height in sizes)
    notes, files = coco.by_picture(folder), Shelf[bytes](folder)
    for image in coco.records("images", _ListedImage):
        known, name = measured.get(bytes(image.id).decode()), label_name(image.file_name)
        size = image.size if known is None else divmod(known, _HIGH)
        text = "".join(_lines(notes.of(image.id), codes, size)).encode()
        files.put([(name, (files.get(name) or b"") + text)])  # one file may be two records
    classes = "".join(f"{one_line(category.name, category.id)}\n" for category in categories)
    files.put([("classes.txt", classes.encode())])
    return files


_HIGH = 2**31  # more pixels than a side has


def _lines(records: Iterable[bytes], codes: Mapping[str, int], size: tuple[int, int]) -> Iterator[str]:
    for note in map(_decode_note, records):
        code = codes.get(plain_id(note.category_id))
        if not note.crowd and code is not None:
            yield _yolo_line(code, note.box, size)


class _ListedImage(msgspec.Struct):
    """The fields of an image record that YOLO labels need; equal ids may be written as 1 and 1.0."""

    id: msgspec.Raw
    file_name: str
    width: msgspec.Raw = msgspec.Raw(b"0")
    height: msgspec.Raw = msgspec.Raw(b"0")

    @property
    def size(self) -> tuple[int, int]:
        return decoded(self.width, int, 0), decoded(self.height, int, 0)


class _ListedNote(msgspec.Struct):
    category_id: msgspec.Raw
    bbox: msgspec.Raw = msgspec.Raw(b"null")
    iscrowd: msgspec.Raw = msgspec.Raw(b"null")

    @property
    def crowd(self) -> bool:
        return bool(decoded(self.iscrowd, Any, True))

    @property
    def box(self) -> tuple[float, float, float, float] | None:
        return decoded(self.bbox, tuple[float, float, float, float], None)


_decode_note = msgspec.json.Decoder(_ListedNote).decode


class _ListedCategory(msgspec.Struct):
    id: msgspec.Raw
    name: str


def decoded(value: msgspec.Raw, kind: Any, otherwise: Any) -> Any:
    """A field of a source's record as `kind`; `otherwise` where it has another type."""
    try:
        return msgspec.json.decode(value, type=kind)
    except (msgspec.MsgspecError, OverflowError, RecursionError):
        return otherwise


def one_line(name: str, id: msgspec.Raw) -> str:
    """A category's name as one line: control characters become a blank, and an empty name is replaced by the id."""
    text = re.sub(rf"[{CONTROL}]+", " ", name).strip()
    return text or f"category {decoded(id, Any, 0)}"


def _yolo_line(code: int, bbox: tuple[float, float, float, float] | None, size: tuple[int, int]) -> str:
    """The line of a box, xywh in pixels of a picture of size (width, height); "" for a box without an area."""
    if bbox is None:
        return ""
    x0, y0, x1, y1 = clip_xyxy(xywh_to_xyxy(np.array(bbox, dtype=np.float64)), *size)
    if x1 <= x0 or y1 <= y0:
        return ""
    values = (x0 + x1) / 2 / size[0], (y0 + y1) / 2 / size[1], (x1 - x0) / size[0], (y1 - y0) / size[1]
    return f"{code} " + " ".join(f"{value:.6f}" for value in values) + "\n"
