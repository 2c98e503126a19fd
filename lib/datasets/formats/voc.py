"""Pascal VOC: one XML file a picture, splits in ImageSets/Main where they are. Each file becomes COCO records.

The XML's fields beyond boxes (pose, difficult, truncated, source, ...) stays in the records under its own names.
"""

from __future__ import annotations

import contextlib
import os
import re
import xml.etree.ElementTree as ET
from collections import defaultdict
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import msgspec

from lib.core.bucket_sets import Beside
from lib.core.documents import MAX_XML, decode_xml, read_file
from lib.core.errors import AugmentError
from lib.core.files import files_below, is_hidden
from lib.core.images import SUFFIXES, inside
from lib.datasets.formats import Dataset
from lib.datasets.formats.coco import read_document
from lib.datasets.formats.tables import (
    OUTSIDE,
    images_folder,
    lies_in,
    read_text,
    rejected_image,
    rejected_object,
    shown,
    split_lines,
    stable_id,
    with_rejected,
)
from lib.records.rows import ImageRow, ObjectRow
from lib.records.settings import DatasetSettings

_TEXTS = ("name", "filename", "folder", "path")  # never numbers, whatever they look like
# Lists of ImageSets/Main and the split of a name in them; a later one counts more.
_SPLITS = {"trainval": "train", "train": "train", "val": "val", "test": "test"}
_XMLS, _PICTURES, _LISTS = "Annotations", "JPEGImages", "ImageSets/Main"  # folders of VOC's own layout


def read(settings: DatasetSettings) -> Dataset:
    """Read a folder of XML files. Raises AugmentError without any; a broken file is a rejected row instead.

    A box is x = xmin, y = ymin, w = xmax - xmin, h = ymax - ymin; category ids number the sorted names from 1.
    """
    root = images_folder(settings)
    folder = _find(settings.annotations, root)
    files = files_below(folder, ".xml")
    folders = [path.resolve() for path in (root, settings.annotations or root.parent)]
    splits = _splits(folder, [_name(path, folder) for path in files], folders)
    if settings.split is None and splits is not None:
        settings = settings.model_copy(update={"split": "official"})
    find = _Pictures(root)
    images, objects, broken = list[dict[str, Any]](), list[dict[str, Any]](), list[ImageRow]()
    for path in files:
        name = _name(path, folder)
        try:
            image, annotations = _records(_xml(path, folders), name, find)
        except (OSError, ValueError, AugmentError) as error:  # the last of a file that cannot be read
            broken.append(_broken(name, f"{shown(path.name)}: {error}"))
            continue
        images.append(image | ({"split": splits.get(name, "unlisted")} if splits is not None else {}))
        objects += annotations
    document, nameless = _document(images, objects)
    return with_rejected(read_document(document, str(folder), settings), broken, nameless)


def beside(settings: DatasetSettings) -> Iterator[Beside]:
    """Lists of splits beside the folder of the XMLs and, where that is not named, this folder beside the pictures."""
    root, given = settings.images, settings.annotations
    if given is None:
        yield Beside(root.parent / _XMLS)
    yield Beside((given or root).parent / _LISTS)


def _find(given: Path | None, root: Path) -> Path:
    folders = [given, given / _XMLS] if given is not None else [root, root.parent / _XMLS]
    for folder in reversed(folders):
        if any(not is_hidden(path.relative_to(folder)) for path in folder.rglob("*.xml")):
            return folder
    raise AugmentError(
        f"no XML files in {folders[0]} or {folders[1]}: set dataset.annotations to the folder of the XMLs"
    )


def _name(path: Path, folder: Path) -> str:
    return path.relative_to(folder).with_suffix("").as_posix()


def _splits(folder: Path, names: list[str], folders: list[Path]) -> dict[str, str] | None:
    """Name of an XML file, without suffix, to its split; None where there are no lists. folders: as of `_xml`.

    The lists lie in ImageSets/Main beside the folder of the XMLs, or beside folders called Annotations below it.
    """
    below = dict[Path, dict[str, str]]()  # folder of XMLs, relative, to the names below it and their splits
    for inner in {_layout(name)[0] for name in names}:
        beside = (folder / inner).parent
        below[inner] = _listed(beside / _LISTS, [*folders, beside.resolve() / _LISTS])
    if not any(below.values()):
        return None
    found = {}
    for name in names:
        inner, rest = _layout(name)
        if rest in below[inner]:
            found[name] = below[inner][rest]
    return found


def _layout(name: str) -> tuple[Path, str]:
    """VOC2012/Annotations/a → (VOC2012/Annotations, a); a name without such a folder → (., name)."""
    before, marked, rest = f"/{name}".rpartition(f"/{_XMLS}/")
    return (Path(f"{before}/{_XMLS}".lstrip("/")), rest) if marked else (Path(), name)


def _listed(folder: Path, folders: list[Path]) -> dict[str, str]:
    """Split of each name in the lists of a folder; a line may end in a state, 1, 0 or -1, as those of a class do."""
    found, stated = dict[str, str](), dict[str, str]()
    for stem, split in _SPLITS.items():
        path = folder / f"{stem}.txt"
        if path.is_file() and not lies_in(path, folders):
            raise AugmentError(f"{path} {OUTSIDE}")
        for line in split_lines(read_text(path)) if path.is_file() else []:
            found[line] = split
            if name := re.fullmatch(r"(.*\S)\s+(-1|0|1)", line):
                stated[name[1]] = split
    return {**stated, **found}


def _xml(path: Path, folders: list[Path]) -> ET.Element:
    """Raises ValueError or AugmentError for a file that is not to be read. folders: where it must lie, resolved."""
    if not lies_in(path, folders):
        raise ValueError(OUTSIDE)
    return decode_xml(bytes(read_file(path, most=MAX_XML)))


def _records(tree: ET.Element, name: str, find: _Pictures) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """A picture's record and its objects', these with their category's `name` in place of an id.

    Raises ValueError with what is wrong.
    """
    if tree.tag != "annotation":
        raise ValueError(f"<{tree.tag[:80]}> where <annotation> was expected")
    fields = _fields(element for element in tree if element.tag != "object")
    size, given = fields.pop("size", None), fields.pop("filename", "")
    if not isinstance(given, str):
        raise ValueError("expected one <filename>, with a text")
    width, height = (_side(size, side) for side in ("width", "height"))
    file_name = find(name, given)
    if shown(file_name) != file_name:
        raise ValueError(f"{shown(file_name)}: rename it, its name is not UTF-8")
    image = {"id": stable_id(name), "file_name": file_name, "width": width, "height": height} | _free(fields, "split")
    return image, [_object(element, name, i, image["id"]) for i, element in enumerate(tree.iter("object"))]


def _side(size: Any, side: str) -> int:
    """Pixels; 0 = not known, where the XML has no usable number."""
    try:
        value = float(size[side])
    except (KeyError, TypeError, ValueError, OverflowError):
        return 0
    return int(value) if 0 < value < 2**31 else 0


class _Pictures:
    """Finds the pictures below a folder by what XML files call them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._stems = lru_cache(maxsize=None)(self._stems_in)

    def __call__(self, name: str, given: str) -> str:
        """A picture's name under the folder: as the XML file `name` gives it, or else the XML's name with a suffix.

        In VOC's own layout pictures lie in JPEGImages beside Annotations.
        """
        inner, rest = _layout(name)
        pictures = inner.with_name(_PICTURES) if inner != Path() else Path(_PICTURES)
        folders = dict.fromkeys((name.rpartition("/")[0], "", (pictures / rest).parent.as_posix()))
        stem = rest.rpartition("/")[2]
        as_given, as_xml = ([f"{folder}/{text}".lstrip("/") for folder in folders] for text in (given, stem))
        as_given = as_given if given else []
        found = next(filter(self._is_file, as_given), None)
        found = found or next(filter(None, map(self._suffixed, [*as_given, *as_xml])), None)
        return found or next(iter(as_given), f"{name}.jpg")

    def _is_file(self, name: str) -> bool:
        path = inside(self.root, name)
        return path is not None and os.path.isfile(path)  # noqa: PTH113  # Path.is_file raises for a name too long

    def _suffixed(self, name: str) -> str | None:
        """The file of this name with one of SUFFIXES, in any case."""
        folder, slash, stem = name.replace("\\", "/").rpartition("/")
        suffix = self._stems(folder).get(stem)
        return f"{folder}{slash}{stem}{suffix}" if suffix else None

    def _stems_in(self, folder: str) -> dict[str, str]:
        """The files of a folder without their suffix, each with its suffix, the usual ones before others."""
        path = inside(self.root, folder)
        found: dict[str, list[str]] = defaultdict(list)
        with contextlib.suppress(OSError):
            for file in path.iterdir() if path is not None else []:
                if file.suffix.lower() in SUFFIXES:
                    found[file.stem].append(file.suffix)
        return {stem: min(own, key=lambda one: (SUFFIXES.index(one.lower()), one)) for stem, own in found.items()}


def _object(element: ET.Element, name: str, i: int, image_id: Any) -> dict[str, Any]:
    fields = _fields(element)
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
        return (element.text or "").strip() if element.tag in _TEXTS else _scalar((element.text or "").strip())
    return _fields(element)


def _fields(elements: Iterable[ET.Element]) -> dict[str, Any]:
    """Elements by their tags; repeated ones as a list."""
    found: dict[str, list[Any]] = defaultdict(list)
    for element in elements:
        found[element.tag].append(_value(element))
    return {tag: values[0] if len(values) == 1 else values for tag, values in found.items()}


def _scalar(text: str) -> Any:
    """A text; a number where that is written as the text is, so that nothing is lost."""
    if re.fullmatch(r"-?[1-9]\d{0,15}|0", text):
        return int(text)
    return float(text) if re.fullmatch(r"-?\d{1,15}\.\d{1,15}", text) and str(float(text)) == text else text


def _document(images: list[dict[str, Any]], objects: list[dict[str, Any]]) -> tuple[bytes, list[ObjectRow]]:
    """A COCO document, JSON bytes, and the rows of objects without a name."""
    named = [(r["name"], r) for r in objects if _is_name(r["name"])]
    ids = {name: i for i, name in enumerate(sorted({name for name, _ in named}), 1)}
    document = {
        "images": images,
        "annotations": [
            {("category_id" if k == "name" else k): (ids[name] if k == "name" else v) for k, v in r.items()}
            for name, r in named
        ],
        "categories": [{"id": i, "name": name, "supercategory": ""} for name, i in ids.items()],
    }
    return msgspec.json.encode(document), [_nameless(r) for r in objects if not _is_name(r["name"])]


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and value != ""


def _nameless(record: dict[str, Any]) -> ObjectRow:
    data, name = msgspec.json.encode(record), record["name"]
    detail = f"object with {len(name)} names: expected one" if isinstance(name, list) else "object without a name"
    return rejected_object(str(record["id"]), "record_malformed", detail, str(record["image_id"]), data)


def _broken(name: str, detail: str) -> ImageRow:
    key, file_name = stable_id(name), f"{shown(name)}.xml"
    record = msgspec.json.encode({"id": key, "file_name": file_name, "width": 0, "height": 0})
    return rejected_image(str(key), "record_malformed", detail, file_name, record)
