"""LOCO, the logistics data set: its own JSON, and the CSV of annotation rows that others export from it.

The JSON is COCO whose pictures are found by `path`, not `file_name`. A CSV row is an annotation and its picture in one,
lists written as Python literals; it becomes COCO records that keep every column.
"""

from __future__ import annotations

import ast
import io
import re
from pathlib import Path, PurePosixPath
from typing import Any

import msgspec
import pandas as pd
from msgspec import Raw

from lib.core.errors import AugmentError
from lib.core.images import inside
from lib.datasets.formats import Dataset
from lib.datasets.formats.coco import Locate, read_document
from lib.datasets.formats.tables import images_folder, read_bytes, read_text
from lib.records.settings import DatasetSettings

CATEGORIES = {3: "small_load_carrier", 5: "forklift", 7: "pallet", 10: "stillage", 11: "pallet_truck"}
VALIDATION = ("1", "4")  # subsets

_OF_IMAGE = ("width", "height", "file_name", "path", "dataset_id")
_TEXT = ("file_name", "path", "color")
_NUMBERS = ("id", "image_id", "category_id", "width", "height", "area", "iscrowd")
_NEEDED = ("id", "image_id", "category_id", "bbox", "file_name")


class _Placed(msgspec.Struct):
    path: str = ""


def read(settings: DatasetSettings) -> Dataset:
    """Read a LOCO CSV or JSON; none given: annotations.csv or loco-all-v1.json beside the pictures.

    Raises AugmentError.
    """
    root = images_folder(settings)
    beside = [root / name for name in ("annotations.csv", "loco-all-v1.json")]
    path = settings.annotations or next((p for p in beside if p.is_file()), beside[0])
    is_csv = path.suffix.lower() == ".csv"
    data = csv_document(path) if is_csv else read_bytes(path)
    official = settings.split == "official" or (settings.split is None and not is_csv)
    return read_document(data, str(path), settings, _locator(root), _split_of if official else None)


def csv_document(path: Path) -> bytes:
    """A CSV of annotation rows as a COCO document, JSON bytes. Raises AugmentError where columns are missing."""
    try:
        table = pd.read_csv(io.StringIO(read_text(path)), dtype=str, keep_default_na=False)
    except ValueError as error:  # pandas' errors are all ValueErrors
        raise AugmentError(f"{path} cannot be read as CSV ({error}): expected LOCO annotation rows") from None
    if missing := [name for name in _NEEDED if name not in table]:
        raise AugmentError(
            f"{path} lacks {', '.join(missing)}: found {', '.join(table)}, expected LOCO annotation rows"
        )
    names = [name for name in table if not name.startswith("Unnamed:")]  # pandas wrote its row numbers
    rows = [{name: _cell(name, row[name]) for name in names} for row in table.to_dict("records")]
    images = {(_same(row["image_id"]), row["file_name"], row.get("path")): _image(row) for row in reversed(rows)}
    document = {
        "images": list(reversed(images.values())),
        "annotations": [{k: v for k, v in row.items() if k not in _OF_IMAGE} for row in rows],
        "categories": [{"id": id, "name": name, "supercategory": ""} for id, name in CATEGORIES.items()],
    }
    return msgspec.json.encode(document)


def _same(id: Any) -> str:
    """A text that equal ids share: pandas writes 1.0 for 1 where another row has none."""
    return str(int(id)) if isinstance(id, float) and id.is_integer() else str(id)


def _image(row: dict[str, Any]) -> dict[str, Any]:
    return {"id": row["image_id"], **{name: row[name] for name in _OF_IMAGE if name in row}}


def _cell(name: str, text: str) -> Any:
    """A cell's value: Python literals of what JSON knows, other text as it is."""
    if name in _TEXT:
        return text
    if not text:
        return None
    try:
        value = ast.literal_eval(text)
        if name not in _NUMBERS and type(value) in (int, float) and str(value) != text:
            return text  # a number that would be written otherwise, such as 1.10, may be none
        return value if msgspec.json.encode(value) else text
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError, OverflowError):
        return text


def _locator(root: Path) -> Locate:
    """By `path` (without a leading "/dataset") where that file exists, else by `file_name` where that does."""

    def locate(record: Raw, file_name: str) -> str:
        name = _relative(record) or file_name
        for candidate in (name, file_name):
            found = inside(root, candidate)
            if found is not None and found.is_file():
                return candidate
        return name

    return locate


def _relative(record: Raw) -> str:
    path = _path(record)
    return "/".join(PurePosixPath(path).parts[2:]) if path.startswith("/") else path


def _path(record: Raw) -> str:
    try:
        return msgspec.json.decode(record, type=_Placed).path
    except msgspec.MsgspecError:
        return ""


def _split_of(record: Raw) -> str:
    subset = re.search(r"subset-(\d+)", _path(record))
    return "val" if subset and subset[1] in VALIDATION else "train"
