"""VoTT 2 exports: the JSON of a project, the *-asset.json files that it keeps, or its CSV.

    dataset: {images: vott-json-export, format: vott}

Each asset is a picture and each region with a tag a box. VoTT's fields beyond COCO's stay in the records' field `vott`.
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote

import msgspec
from msgspec import Raw

from lib.core.bucket_sets import Beside
from lib.core.documents import MAX_DEPTH, depth_of, shallow
from lib.core.errors import AugmentError
from lib.core.files import files_below, is_hidden
from lib.core.images import SUFFIXES, inside
from lib.datasets.formats import Dataset
from lib.datasets.formats.coco import read_document
from lib.datasets.formats.tables import (
    images_folder,
    misnamed,
    picture_size,
    read_text,
    rejected_image,
    rejected_object,
    shown,
    stable_id,
    with_rejected,
)
from lib.records.rows import ImageRow, ObjectRow
from lib.records.settings import DatasetSettings

_ASSETS, _PROJECT = "-asset.json", ".vott"
_PATTERNS = ("*-export.json", "*-export.csv", f"*{_ASSETS}")
_DEEP = MAX_DEPTH + 8  # levels of a file that are read: enough that lib/datasets/formats/coco finds a record too deep
_COLUMNS = ("image", "xmin", "ymin", "xmax", "ymax", "label")


@dataclass(frozen=True, slots=True)
class _Region:
    id: str  # unique within its asset
    tags: list[str]
    box: list[float] | None  # xywh pixels; None where it has none
    outline: list[float]  # x1, y1, x2, y2, ... of a polygon, else empty
    fields: dict[str, Any]  # as VoTT has them


@dataclass(frozen=True, slots=True)
class _Asset:
    name: str  # of the picture under the images folder, posix
    size: tuple[int, int]  # pixels, (0, 0) = not known
    regions: list[_Region]
    fields: dict[str, Any]  # as VoTT has them, without the regions


def read(settings: DatasetSettings) -> Dataset:
    """Read a VoTT export. Raises AugmentError for a file that is none; a bad asset or region is a rejected row instead.

    dataset.annotations is the export, or a folder with *-export.json, *-export.csv or *-asset.json, the first that is
    there; none: the images folder, or vott-json-export or vott-csv-export in it. A picture is found by its asset's name
    as it stands, or with %20 and the like resolved, or by the last part of its path. Ids are hashes of names, regions'
    ids and tags; category ids number the project's tags in their order, then the others by name, from 1.

    A region with several tags is a box for each, as VoTT's own CSV writes it. One without tags is a rejected object,
    tag_missing; so are the regions of an asset whose picture came before, image_id_duplicate, and a CSV row that came
    before, annotation_id_duplicate. A polygon is a segmentation. A CSV does not list pictures without regions: those of
    the images folder that it does not name are pictures without boxes.
    """
    root = images_folder(settings)
    files = _find(settings.annotations, root)
    project, broken = dict[str, Any](), list[ImageRow]()
    if files[0].suffix.lower() == ".csv":
        assets = _csv_assets(files[0], root, broken)
    else:
        assets = []
        for file in files:
            more, project = _json_assets(file, root, broken, alone=len(files) == 1)
            assets += more
    document, rejected = _document(assets, project)
    return with_rejected(read_document(document, str(files[0]), settings), broken, rejected)


def beside(settings: DatasetSettings) -> Iterator[Beside]:
    """Of a project, its exports and assets, which lie beside it."""
    given = settings.annotations
    if given is not None and given.suffix == _PROJECT:
        yield Beside(given.parent, _PATTERNS)


def _find(given: Path | None, root: Path) -> list[Path]:
    """One export, or all of the *-asset.json files."""
    if given is not None and given.suffix == _PROJECT:  # the project itself, which has the assets' regions beside it
        given = given.parent
    if given is not None and not given.is_dir():
        return [given]
    folders = [given] if given is not None else [root, root / "vott-json-export", root / "vott-csv-export"]
    for folder, pattern in [(folder, pattern) for folder in folders for pattern in _PATTERNS]:
        found = sorted(path for path in folder.glob(pattern) if not is_hidden(Path(path.name)))
        if len(found) > 1 and not pattern.endswith(_ASSETS):
            names = ", ".join(path.name for path in found[:5])
            raise AugmentError(f"{len(found)} exports in {folder} ({names}): set dataset.annotations to one of them")
        if found:
            return found
    raise AugmentError(
        f"no {', '.join(_PATTERNS)} in {' or '.join(map(str, folders))}: set dataset.annotations to VoTT's export"
    )


def _picture(root: Path, *names: str) -> str:
    """The first of the names that is a picture's under root; a trial each as it stands, and unquoted."""
    names = tuple(name for name in names if name)
    tries = [text for name in names for text in (name, unquote(name))]
    for name in [*tries, *map(_last_part, tries)]:
        path = inside(root, name)
        # A name that is too long for a file is none: Path.is_file would raise.
        if path is not None and os.path.isfile(path):  # noqa: PTH113
            return name
    return tries[0] if tries else ""


def _last_part(path: str) -> str:
    return PurePosixPath(path.replace("\\", "/")).name


# --- JSON --------------------------------------------------------------------------------------------------------


def _json_assets(file: Path, root: Path, broken: list[ImageRow], alone: bool) -> tuple[list[_Asset], dict[str, Any]]:
    """A file's assets and the project's other fields. Entries that are not assets go to `broken`, or the whole file
    where it is one of many.

    Raises AugmentError where the only file cannot be used.
    """
    try:
        entries, project = _entries(file)
    except AugmentError as error:
        if alone:
            raise
        broken.append(_broken(file.name, str(error), None))
        return [], {}
    assets = []
    for key, raw in entries.items():
        place = f"{file.name}: $.assets[{key!r}]"
        try:
            entry = msgspec.json.decode(raw)
        except msgspec.DecodeError as error:  # a number beyond all floats, say
            broken.append(_broken(key, f"{place}: {error}", raw))
            continue
        if isinstance(entry, dict) and isinstance(entry.get("asset"), dict):
            assets.append(_asset(entry, root))
        else:
            broken.append(_broken(key, f"{place}: expected an asset and its regions", entry))
    return assets, project


def _entries(file: Path) -> tuple[dict[str, Raw], dict[str, Any]]:
    """Assets by id, and the other keys of the project; raises AugmentError."""
    try:
        return _entries_of(read_text(file).encode(), file)
    except msgspec.DecodeError as error:
        raise AugmentError(f"{file}: {error}: expected the JSON of VoTT 2") from None


def _entries_of(data: bytes, file: Path) -> tuple[dict[str, Raw], dict[str, Any]]:
    if depth_of(data) > _DEEP:
        data = shallow(data, _DEEP)
    raw = msgspec.json.decode(data, type=Raw)
    top = msgspec.json.decode(raw, type=dict[str, Raw]) if _is_object(raw) else {}
    if _is_object(top.get("asset")):
        return {file.name.removesuffix(_ASSETS): raw}, {}
    if _is_object(top.get("assets")):
        project = {key: msgspec.json.decode(value) for key, value in top.items() if key != "assets"}
        return msgspec.json.decode(top["assets"], type=dict[str, Raw]), project
    found = ", ".join(list(top)[:8]) if _is_object(raw) else bytes(raw)[:20].decode(errors="replace")
    raise AugmentError(f"{file}: $.assets is missing (found {found or 'nothing'}): is this a JSON export of VoTT 2?")


def _is_object(raw: Raw | None) -> bool:
    return raw is not None and bytes(raw).startswith(b"{")


def _asset(entry: dict[str, Any], root: Path) -> _Asset:
    asset, regions = entry["asset"], entry.get("regions")
    name = _picture(root, *(str(asset.get(key) or "") for key in ("name", "path")))
    size = asset.get("size")
    width, height = (_side(size, side) for side in ("width", "height"))
    fields = {key: value for key, value in entry.items() if key != "regions"}
    numbered = enumerate(regions if isinstance(regions, list) else [])
    return _Asset(name, (width, height), [_region(region, i) for i, region in numbered], fields)


def _side(size: Any, side: str) -> int:
    """Pixels; 0 = not known, where VoTT gives no usable number."""
    value = size.get(side) if isinstance(size, dict) else None
    return round(value) if isinstance(value, int | float) and 0 < value < 2**31 else 0


def _region(region: Any, i: int) -> _Region:
    fields = region if isinstance(region, dict) else {"region": region}
    tags = fields.get("tags")
    names = [tag for tag in tags if isinstance(tag, str) and tag.strip()] if isinstance(tags, list) else []
    points = _numbers(fields.get("points"), "x", "y")
    outline = points if str(fields.get("type")).upper() == "POLYGON" and len(points) >= 6 else []
    return _Region(str(fields.get("id") or i), names, _box(fields.get("boundingBox"), points), outline, fields)


def _numbers(points: Any, *keys: str) -> list[float]:
    """The values of objects' keys, one after another; empty where one is not a number."""
    try:
        return [float(point[key]) for point in points or () for key in keys]
    except (TypeError, KeyError, ValueError, OverflowError):
        return []


def _box(bounds: Any, points: list[float]) -> list[float] | None:
    """A region's bounding box, or else that of its points, xywh pixels."""
    if bounds is not None:
        return _numbers([bounds], "left", "top", "width", "height") or None
    xs, ys = points[::2], points[1::2]
    return [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)] if points else None


def _broken(key: str, detail: str, entry: Any) -> ImageRow:
    record = {"id": stable_id(key), "file_name": key, "width": 0, "height": 0, "vott": entry}
    return rejected_image(str(record["id"]), "record_malformed", detail, key, msgspec.json.encode(record))


# --- CSV ---------------------------------------------------------------------------------------------------------


def _csv_assets(file: Path, root: Path, broken: list[ImageRow]) -> list[_Asset]:
    """A row is a region with one tag; a picture whose name cannot stand in a record goes to `broken`.

    Raises AugmentError where columns are missing.
    """
    reader = csv.DictReader(io.StringIO(read_text(file)), restval="")
    try:
        rows = list(reader)
    except csv.Error as error:
        raise AugmentError(f"{file} cannot be read as CSV ({error}): expected VoTT's {', '.join(_COLUMNS)}") from None
    names = reader.fieldnames or []
    if missing := [name for name in _COLUMNS if name not in names]:
        raise AugmentError(f"{file} lacks {', '.join(missing)}: found {', '.join(names)}, expected VoTT's CSV export")
    regions: dict[str, list[_Region]] = {}
    found = {name: _picture(root, name) for name in dict.fromkeys(row["image"] for row in rows)}
    for row in rows:
        regions.setdefault(found[row["image"]], []).append(_row_region(row))
    for name in [path.name for path in files_below(root, *SUFFIXES) if path.parent == root]:
        if shown(name) == name:
            regions.setdefault(name, [])
        else:
            broken.append(misnamed(name))
    return [_Asset(name, picture_size(root, name), found, {}) for name, found in regions.items()]


def _row_region(row: dict[str, str]) -> _Region:
    corners = _numbers([row], "xmin", "ymin", "xmax", "ymax")
    box = [corners[0], corners[1], corners[2] - corners[0], corners[3] - corners[1]] if corners else None
    # The row's text: a row that appears twice is one region.
    id = ",".join(row[name] for name in _COLUMNS)
    return _Region(
        id, [row["label"]] if row["label"].strip() else [], box, [], {k or "more": v for k, v in row.items()}
    )


# --- records -----------------------------------------------------------------------------------------------------


def _document(assets: list[_Asset], project: dict[str, Any]) -> tuple[bytes, list[ObjectRow]]:
    """A COCO document, JSON bytes, and the rows of regions that cannot be in it."""
    tags = project.get("tags")
    listed = [tag.get("name") for tag in tags if isinstance(tag, dict)] if isinstance(tags, list) else []
    used = {tag for asset in assets for region in asset.regions for tag in region.tags}
    names = dict.fromkeys([*(name for name in listed if isinstance(name, str) and name), *sorted(used)])
    ids = {name: i for i, name in enumerate(names, 1)}
    images, annotations, rejected = list[dict[str, Any]](), list[dict[str, Any]](), list[ObjectRow]()
    done = set[str]()
    for asset in assets:
        size = dict(zip(("width", "height"), asset.size, strict=True))
        image = {"id": stable_id(asset.name), "file_name": asset.name} | size
        images.append(image | ({"vott": asset.fields} if asset.fields else {}))
        for region in asset.regions:
            if asset.name in done:
                rejected.append(
                    _rejected(asset, region, len(rejected), "image_id_duplicate", "its picture came before")
                )
            elif not region.tags:
                rejected.append(_rejected(asset, region, len(rejected), "tag_missing", "a region without a tag"))
            else:
                annotations += _boxes(asset, region, ids)
        done.add(asset.name)
    categories = [{"id": i, "name": name, "supercategory": ""} for name, i in ids.items()]
    document = {"images": images, "annotations": annotations, "categories": categories}
    return msgspec.json.encode(document | ({"vott": project} if project else {})), rejected


def _boxes(asset: _Asset, region: _Region, ids: dict[str, int]) -> Iterator[dict[str, Any]]:
    """A COCO record for each of a region's tags."""
    area = region.box[2] * region.box[3] if region.box else None
    shape = {"bbox": region.box, "area": area, "segmentation": [region.outline] if region.outline else []}
    for tag in dict.fromkeys(region.tags):
        ids_of_box = {
            "id": stable_id(asset.name, region.id, tag),
            "image_id": stable_id(asset.name),
            "category_id": ids[tag],
        }
        yield ids_of_box | shape | {"iscrowd": 0, "vott": region.fields}


def _rejected(asset: _Asset, region: _Region, number: int, reason: str, detail: str) -> ObjectRow:
    key, image = stable_id(asset.name, region.id, reason, number), stable_id(asset.name)
    record = msgspec.json.encode({"id": key, "image_id": image, "bbox": region.box, "vott": region.fields})
    return rejected_object(str(key), reason, f"{asset.name}, region {region.id}: {detail}", str(image), record)
