"""YOLO labels of a COCO file: a text file per picture, and classes.txt."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np

from lib.core.geometry import clip_xyxy, xywh_to_xyxy
from lib.datasets.formats.coco_json import plain_id
from lib.datasets.names import CONTROL, label_name


def yolo_files(coco: bytes, sizes: Mapping[str, tuple[int, int]]) -> dict[str, bytes]:
    """{path in the final set: bytes} of the labels and of classes.txt, for a COCO file of this project.

    A line is a class number, then centre x, centre y, width and height of the box as shares of the picture. Crowds and
    boxes without an area have none.

    Args:
        coco: bytes of the COCO file.
        sizes: (width, height) in pixels by the JSON text of the image id, as ingest measured them; the record's own
            size counts where an id is not among them.
    """
    listing = msgspec.json.decode(coco, type=_Listing)
    codes = {plain_id(category.id): code for code, category in enumerate(listing.categories)}
    by_id = {plain_id(i.id): sizes.get(bytes(i.id).decode()) or i.size for i in listing.images}
    lines: dict[str, list[str]] = {image: [] for image in by_id}
    for note in listing.annotations:
        image, category = plain_id(note.image_id), plain_id(note.category_id)
        if not note.crowd and category in codes:
            lines[image].append(_yolo_line(codes[category], note.box, by_id[image]))
    texts: dict[str, str] = {}
    for i in listing.images:
        name = label_name(i.file_name)
        texts[name] = texts.get(name, "") + "".join(lines[plain_id(i.id)])  # one file may be two records
    files = {name: text.encode() for name, text in texts.items()}
    classes = "".join(f"{one_line(category.name, category.id)}\n" for category in listing.categories).encode()
    return {**files, "classes.txt": classes}


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
    image_id: msgspec.Raw
    category_id: msgspec.Raw
    bbox: msgspec.Raw = msgspec.Raw(b"null")
    iscrowd: msgspec.Raw = msgspec.Raw(b"null")

    @property
    def crowd(self) -> bool:
        return bool(decoded(self.iscrowd, Any, True))

    @property
    def box(self) -> tuple[float, float, float, float] | None:
        return decoded(self.bbox, tuple[float, float, float, float], None)


class _ListedCategory(msgspec.Struct):
    id: msgspec.Raw
    name: str


class _Listing(msgspec.Struct):
    images: list[_ListedImage]
    annotations: list[_ListedNote]
    categories: list[_ListedCategory]


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
