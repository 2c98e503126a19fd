"""Pascal VOC: one XML file a picture, splits in ImageSets/Main where they are. Each file becomes COCO records.

The XML's fields beyond boxes (pose, difficult, truncated, source, ...) stays in the records under its own names.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import msgspec

from lib.core.documents import decode_xml
from lib.core.errors import AugmentError
from lib.core.images import SUFFIXES, inside
from lib.datasets.formats import Dataset
from lib.datasets.formats.coco import read_document
from lib.datasets.formats.tables import (
    images_folder,
    read_text,
    rejected_image,
    rejected_object,
    shown,
    stable_id,
    with_rejected,
)
from lib.records.rows import ImageRow, ObjectRow
from lib.records.settings import DatasetSettings

_SPLITS = ("train", "val", "test")
_SUFFIXES = (*SUFFIXES, *(suffix.upper() for suffix in SUFFIXES))


def read(settings: DatasetSettings) -> Dataset:
    """Read a folder of XML files. Raises AugmentError without any; a broken file is a rejected row instead.

    A box is x = xmin, y = ymin, w = xmax - xmin, h = ymax - ymin; category ids number the sorted names from 1.
    """
    root = images_folder(settings)
    folder = _find(settings.annotations, root)
    splits = _splits(folder.parent / "ImageSets" / "Main")
    if settings.split is None and splits:
        settings = settings.model_copy(update={"split": "official"})
    images, objects, broken = list[dict[str, Any]](), list[dict[str, Any]](), list[ImageRow]()
    for path in sorted(folder.rglob("*.xml")):
        name = path.relative_to(folder).with_suffix("").as_posix()
        try:
            image, annotations = _records(path, name, root)
        except (OSError, ValueError) as error:
            broken.append(_broken(name, f"{shown(path.name)}: {error}"))
            continue
        images.append(image | ({"split": splits.get(name, "unlisted")} if splits else {}))
        objects += annotations
    document, nameless = _document(images, objects)
    return with_rejected(read_document(document, str(folder), settings), broken, nameless)


def _find(given: Path | None, root: Path) -> Path:
    folders = [given, given / "Annotations"] if given is not None else [root, root.parent / "Annotations"]
    for folder in reversed(folders):
        if next(folder.rglob("*.xml"), None) is not None:
            return folder
    raise AugmentError(
        f"no XML files in {folders[0]} or {folders[1]}: set dataset.annotations to the folder of the XMLs"
    )


def _splits(folder: Path) -> dict[str, str]:
    """Name of an XML file, without suffix, to its split."""
    found = {}
    for split in _SPLITS:
        path = folder / f"{split}.txt"
        for line in read_text(path).splitlines() if path.is_file() else []:
            if line.strip():
                found[line.split()[0]] = split
    return found


def _records(path: Path, name: str, root: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """A picture's record and its objects', these with their category's `name` in place of an id.

    Raises ValueError with what is wrong.
    """
    tree = decode_xml(path.read_bytes())
    if tree.tag != "annotation":
        raise ValueError(f"<{tree.tag[:80]}> where <annotation> was expected")
    fields = {child.tag: _value(child) for child in tree if child.tag != "object"}
    size = fields.pop("size", None)
    width, height = (_side(size, side) for side in ("width", "height"))
    file_name = _picture(root, name, str(fields.pop("filename", "") or ""))
    if shown(file_name) != file_name:
        raise ValueError(f"{shown(file_name)}: rename it, its name is not UTF-8")
    image = {"id": stable_id(name), "file_name": file_name, "width": width, "height": height} | _free(fields, "split")
    return image, [_object(element, name, i, image["id"]) for i, element in enumerate(tree.iter("object"))]


def _side(size: Any, side: str) -> int:
    """Pixels; 0 = not known, where the XML has no usable number."""
    value = size.get(side) if isinstance(size, dict) else None
    return int(value) if isinstance(value, int | float) and 0 < value < 2**31 else 0


def _picture(root: Path, name: str, file_name: str) -> str:
    """The picture's name under root: as the XML names it, or else the XML's name with a usual suffix."""
    folder = name.rpartition("/")[0]
    beside = f"{folder}/{file_name}" if folder and file_name else file_name
    for candidate in (beside, file_name, *(name + suffix for suffix in _SUFFIXES)):
        path = inside(root, candidate) if candidate else None
        if path is not None and path.is_file():
            return candidate
    return beside or f"{name}.jpg"


def _object(element: ET.Element, name: str, i: int, image_id: Any) -> dict[str, Any]:
    fields = {child.tag: _value(child) for child in element}
    category, corners = fields.pop("name", None), fields.pop("bndbox", None)
    box = _box(corners)
    record = {"id": stable_id(name, i), "image_id": image_id, "name": category, "bbox": box}
    record |= {"area": box[2] * box[3] if box else None, "iscrowd": 0, "segmentation": []}
    return record | _free(fields, *record, "category_id")


def _free(fields: dict[str, Any], *taken: str) -> dict[str, Any]:
    """Fields under their names, or with "voc_" before where a COCO field has that name."""
    return {
        f"voc_{tag}" if tag in ("id", "width", "height", "file_name", *taken) else tag: v for tag, v in fields.items()
    }


def _box(corners: Any) -> list[float] | None:
    try:
        xmin, ymin, xmax, ymax = (float(corners[side]) for side in ("xmin", "ymin", "xmax", "ymax"))
    except (KeyError, TypeError, ValueError):
        return None
    return [xmin, ymin, xmax - xmin, ymax - ymin]


def _value(element: ET.Element) -> Any:
    """An element as JSON: text, numbers as numbers; children as an object, repeated ones as a list."""
    if len(element) == 0:
        return _scalar((element.text or "").strip())
    value: dict[str, Any] = {}
    for child in element:
        if child.tag not in value:
            value[child.tag] = _value(child)
        elif isinstance(value[child.tag], list):
            value[child.tag].append(_value(child))
        else:
            value[child.tag] = [value[child.tag], _value(child)]
    return value


def _scalar(text: str) -> Any:
    if re.fullmatch(r"-?(0|[1-9]\d{0,15})", text):
        return int(text)
    return float(text) if re.fullmatch(r"-?\d{1,15}\.\d{1,15}", text) else text


def _document(images: list[dict[str, Any]], objects: list[dict[str, Any]]) -> tuple[bytes, list[ObjectRow]]:
    """A COCO document, JSON bytes, and the rows of objects without a name."""
    named = [(str(r["name"]), r) for r in objects if r["name"] not in (None, "")]
    ids = {name: i for i, name in enumerate(sorted({name for name, _ in named}), 1)}
    document = {
        "images": images,
        "annotations": [
            {("category_id" if k == "name" else k): (ids[name] if k == "name" else v) for k, v in r.items()}
            for name, r in named
        ],
        "categories": [{"id": i, "name": name, "supercategory": ""} for name, i in ids.items()],
    }
    return msgspec.json.encode(document), [_nameless(r) for r in objects if r["name"] in (None, "")]


def _nameless(record: dict[str, Any]) -> ObjectRow:
    data = msgspec.json.encode(record)
    return rejected_object(
        str(record["id"]), "record_malformed", "object without a name", str(record["image_id"]), data
    )


def _broken(name: str, detail: str) -> ImageRow:
    key, file_name = stable_id(name), f"{shown(name)}.xml"
    record = msgspec.json.encode({"id": key, "file_name": file_name, "width": 0, "height": 0})
    return rejected_image(str(key), "record_malformed", detail, file_name, record)
