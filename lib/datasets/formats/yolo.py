"""YOLO labels: lines of "class cx cy w h" relative to the picture, or "class x1 y1 x2 y2 x3 y3 ..." for an outline.

Where data.yaml has `kpt_shape`, keypoints follow the box. A line with other values after its box, as trackers and
detectors write them, is a rejected row.

Three layouts: darknet (obj.data, obj.names, train.txt), Ultralytics (data.yaml, images/ beside labels/) and a bare
folder of label files with classes.txt. Each becomes a list of `_Item`; another layout is one more such function.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePath, PurePosixPath
from typing import Any, TypeVar

import msgspec

from lib.core.bucket_sets import Beside
from lib.core.documents import read_yaml
from lib.core.errors import AugmentError
from lib.core.files import files_below, is_hidden
from lib.core.images import SUFFIXES, inside
from lib.datasets.formats import Dataset
from lib.datasets.formats.coco import read_document
from lib.datasets.formats.tables import (
    OUTSIDE,
    images_folder,
    label_lines,
    lies_in,
    misnamed,
    picture_size,
    read_text,
    rejected_object,
    shown,
    split_lines,
    stable_id,
    whole,
    with_rejected,
)
from lib.records.rows import ObjectRow
from lib.records.settings import DatasetSettings

_CLASSES = 100_000  # more than any set has
_BEYOND = 0.5  # share of its side by which a point of an outline may lie outside of its picture
_LONGEST = 4096  # bytes of a path

_SWAPPED = ("images", "JPEGImages")  # folders that darknet swaps for labels

_SPLITS = {"train": "train", "valid": "val", "val": "val", "test": "test"}


Pure = TypeVar("Pure", bound=PurePath)


@dataclass(frozen=True, slots=True)
class _Classes:
    names: list[str]
    keypoints: tuple[int, int] | None = None  # how many follow a box, and numbers of each


@dataclass(frozen=True, slots=True)
class _Item:
    name: str  # of the picture under the images folder, posix
    label: Path  # may not exist: a picture without objects
    split: str  # "" where the layout does not state it


def read(settings: DatasetSettings) -> Dataset:
    """Read YOLO labels. Raises AugmentError that names file and place; a bad line is a rejected row instead.

    Category ids are class numbers + 1; ids of pictures and boxes are hashes of their names, stable under additions.
    """
    root = images_folder(settings)
    source, folders = _find(settings.annotations, root), _readable(settings.annotations, root)
    if source != settings.annotations and not lies_in(source, folders):
        raise AugmentError(f"{source} {OUTSIDE}")
    if source.suffix in (".yaml", ".yml"):
        classes, items = _ultralytics(source, root, folders)
    elif source.suffix == ".data":
        classes, items = _darknet(source, root, folders)
    else:
        classes, items = _bare(source, root, folders)
    if settings.split is None and any(item.split for item in items):
        settings = settings.model_copy(update={"split": "official"})
    named = [item for item in items if shown(item.name) == item.name]
    document, rejected = _document(root, classes, named, folders)
    others = [misnamed(item.name) for item in items if shown(item.name) != item.name]
    return with_rejected(read_document(document, str(source), settings), others, rejected)


_TEXTS = ("*.txt", "*.names", "*.data", "*.yaml", "*.yml")


def beside(settings: DatasetSettings) -> Iterator[Beside]:
    """`labels` in place of `images`, and texts beside the file or the folder of annotations: names, lists."""
    root, given = settings.images, settings.annotations
    yield from map(Beside, _labels_of(root))
    if given is None:
        yield Beside(root.parent / "labels")
    yield Beside((given or root).parent, _TEXTS)


_LISTS = ("classes.txt", "train.txt", "val.txt", "test.txt")  # text files that are not a picture's labels


def _find(given: Path | None, root: Path) -> Path:
    """The file, or the folder of labels, that shows which layout this is."""
    folders = [given] if given is not None else [root, root.parent]
    if given is not None and given.is_file():
        return given
    for folder in folders:
        for pattern in ("data.yaml", "data.yml", "obj.data", "*.data", "*.yaml", "*.yml"):
            if found := sorted(path for path in folder.glob(pattern) if not is_hidden(Path(path.name))):
                return found[0]
    for folder in [*(f / "labels" for f in folders), *folders]:
        if any(file.name not in _LISTS and not is_hidden(Path(file.name)) for file in folder.glob("*.txt")):
            return folder
    tried = ", ".join(map(str, folders))
    raise AugmentError(f"no data.yaml, obj.data or label files in {tried}: set dataset.annotations to one of them")


def _readable(given: Path | None, root: Path) -> list[Path]:
    """Folders whose texts are read, links followed: a data set may name others, or have links to them."""
    root = root.absolute()
    named = root.parent if given is None else given if given.is_dir() else given.parent
    # A link that is itself called labels is one of the data set, not of its user.
    shared = {labels: Path(os.path.commonpath([root, labels])) for labels in _labels_of(root)}
    others = [common.resolve() / labels.relative_to(common) for labels, common in shared.items()]
    return [root.resolve(), named.resolve(), *others]


def _labels_of(root: Path) -> list[Path]:
    """Where labels of pictures directly in a folder may lie."""
    return [_label_of(root / "picture", swapped).parent for swapped in (_SWAPPED[:1], _SWAPPED)]


# --- layouts -----------------------------------------------------------------------------------------------------


def _darknet(source: Path, root: Path, folders: list[Path]) -> tuple[_Classes, list[_Item]]:
    pairs = (line.partition("=") for line in split_lines(read_text(source)) if "=" in line)
    values = {key.strip(): value.strip()[:_LONGEST] for key, _, value in pairs}
    if "names" not in values:
        raise AugmentError(f"{source} has no line 'names = ...': found {', '.join(values) or 'nothing'}")
    names = _class_names(_beside(source, values["names"]), folders)
    items = []
    for key, split in _SPLITS.items():
        for line in _lines(_beside(source, values[key]), folders) if key in values else []:
            items.append(_Item(_shortened(root, line), _darknet_label(source, line), split))
    return _Classes(names), items


def _darknet_label(source: Path, line: str) -> Path:
    """Beside the picture or, where nothing lies there, in `labels` in place of `images`, as darknet looks for it."""
    label = _beside(source, str(_text_of(PurePosixPath(line))))
    if os.path.lexists(label):
        return label
    other = _beside(source, str(_label_of(PurePosixPath(line.replace("\\", "/")), _SWAPPED)))
    return other if os.path.lexists(other) else label


def _beside(source: Path, name: str) -> Path:
    """A file that darknet names from its working folder: look beside `source` with ever fewer leading parts."""
    tails = [source.parent.joinpath(*parts) for parts in _tails(name)]
    return next((path for path in tails if os.path.exists(path)), tails[0])  # noqa: PTH110


def _shortened(root: Path, name: str) -> str:
    tails = ["/".join(parts) for parts in _tails(name)]
    return next((t for t in tails if (path := inside(root, t)) is not None and _is_file(path)), tails[-1])


def _is_file(path: Path) -> bool:
    """Path.is_file raises for a name that is too long for a file."""
    return os.path.isfile(path)  # noqa: PTH113


def _tails(name: str) -> list[tuple[str, ...]]:
    parts = tuple(p for p in PurePosixPath(name.replace("\\", "/")).parts if p not in ("/", "..", "."))
    return [parts[i:] for i in range(len(parts))] or [(name,)]


def _ultralytics(source: Path, root: Path, folders: list[Path]) -> tuple[_Classes, list[_Item]]:
    data, texts = read_yaml(source, "check dataset.annotations"), read_yaml(source, as_text=True)
    if not isinstance(data, dict) or not isinstance(data.get("names"), list | dict):
        raise AugmentError(f"{source} has no 'names': expected a list or a mapping of class numbers to names")
    items = []
    for key in ("train", "val", "test"):
        entries = data.get(key) or []
        if not isinstance(entries, str | list):
            raise AugmentError(f"{source}: {key!r} is {entries!r:.80}: expected a folder or a list of them")
        for entry in [entries] if isinstance(entries, str) else entries:
            pictures = _pictures(_entry(source, str(data.get("path") or ""), str(entry)), folders)
            items += [_Item(_relative(picture, root), _label_of(picture), key) for picture in pictures]
    names = texts.get("names", data["names"])  # as they are written: YAML makes True of yes, and 8 of 010
    return _Classes(_names(names, source), _keypoints(data.get("kpt_shape"), source)), items


def _keypoints(shape: Any, source: Path) -> tuple[int, int] | None:
    if shape is None:
        return None
    match shape:
        case [int(count), int(2 | 3 as numbers)] if count >= 1 and count is not True:
            return count, numbers
    raise AugmentError(f"{source}: 'kpt_shape' is {shape!r:.80}: expected the count of keypoints, and 2 or 3")


def _names(names: list[Any] | dict[Any, Any], source: Path) -> list[str]:
    if isinstance(names, list):
        return [str(name) for name in names]
    try:
        numbered = {whole(str(number)): str(name) for number, name in names.items()}
    except (TypeError, ValueError, OverflowError):
        raise AugmentError(
            f"{source}: 'names' has a key that is not a class number: {list(names)[:5]!r:.200}"
        ) from None
    if strange := [number for number in numbered if not 0 <= number < _CLASSES]:
        raise AugmentError(f"{source}: 'names' has class {strange[0]!r:.80}: expected 0 to {_CLASSES - 1:,}")
    return [numbered.get(i, f"class_{i}") for i in range(max(numbered, default=-1) + 1)]


def _entry(source: Path, base: str, entry: str) -> Path:
    # Exports write "../train/images" for a folder that lies beside the file.
    tries = [source.parent / base / entry, source.parent / entry, source.parent / entry.removeprefix("../")]
    if "\\" in base + entry:
        base, below = base.replace("\\", "/"), entry.replace("\\", "/")
        tries += [source.parent / base / below, source.parent / below, source.parent / below.removeprefix("../")]
    for path in tries:
        if os.path.exists(path):  # noqa: PTH110
            return path
    raise AugmentError(f"{source}: {entry!r:.200} not found at {tries[0]} or {tries[1]}: correct the entry or 'path'")


def _pictures(place: Path, folders: list[Path]) -> list[Path]:
    if place.is_dir():
        return files_below(place, *SUFFIXES)
    return [_listed(place.parent, line) for line in _lines(place, folders)]


def _listed(folder: Path, line: str) -> Path:
    """A picture of a list; backslashes are separators unless a file has them in its name."""
    path = folder / line
    return path if "\\" not in line or os.path.lexists(path) else folder / line.replace("\\", "/")


def _label_of(picture: Pure, swapped: tuple[str, ...] = ("images",)) -> Pure:
    """Ultralytics' rule: the last folder called images becomes labels, the suffix .txt."""
    parts = list(picture.parts)
    for i in range(len(parts) - 2, -1, -1):
        if parts[i] in swapped:
            parts[i] = "labels"
            break
    return _text_of(type(picture)(*parts))


def _text_of(picture: Pure) -> Pure:
    """A path with the suffix .txt; itself where it names no file."""
    return picture.with_suffix(".txt") if picture.name else picture


def _relative(picture: Path, root: Path) -> str:
    """A name under root; one that starts with ".." for a picture elsewhere, which the reader then sets aside."""
    return Path(os.path.relpath(picture.absolute(), root.absolute())).as_posix()


def _bare(folder: Path, root: Path, folders: list[Path]) -> tuple[_Classes, list[_Item]]:
    places = [folder / "classes.txt", folder.parent / "classes.txt", root / "classes.txt"]
    classes = next((p for p in places if p.is_file()), None)
    if classes is None:
        raise AugmentError(f"classes.txt not found in {folder} or {folder.parent}: write the class names, one a line")
    items = {path: folder / path.relative_to(root).with_suffix(".txt") for path in files_below(root, *SUFFIXES)}
    labels = {path for path in files_below(folder, ".txt") if path.name != "classes.txt"} - set(items.values())
    found = [_Item(p.relative_to(root).as_posix(), label, "") for p, label in items.items()]
    lost = [_Item(p.relative_to(folder).with_suffix(".jpg").as_posix(), p, "") for p in sorted(labels)]
    return _Classes(_class_names(classes, [*folders, folder.parent.resolve()])), found + lost


def _class_names(path: Path, folders: list[Path]) -> list[str]:
    """A name a line; a blank line counts, since labels have the lines' numbers, and is called by its number."""
    names = _lines(path, folders, blank=True)
    while names and not names[-1]:
        names.pop()
    return [name or f"class_{number}" for number, name in enumerate(names)]


def _lines(path: Path, folders: list[Path], blank: bool = False) -> list[str]:
    if not lies_in(path, folders):
        raise AugmentError(f"{path} {OUTSIDE}")
    lines = [line for line in split_lines(read_text(path)) if line or blank]
    if (longest := max(map(len, lines), default=0)) > _LONGEST:
        raise AugmentError(f"{path} has a line of {longest:,} characters: expected a name a line, {_LONGEST:,} at most")
    return lines


# --- records -----------------------------------------------------------------------------------------------------


def _document(root: Path, classes: _Classes, items: list[_Item], folders: list[Path]) -> tuple[bytes, list[ObjectRow]]:
    """A COCO document, JSON bytes, and the rows of lines that cannot be in it. folders: those of labels."""
    images, annotations, rejected = [], list[dict[str, Any]](), list[ObjectRow]()
    done = set[str]()
    for item in items:
        width, height = picture_size(root, item.name)
        image_id = stable_id(item.name)
        image = {"id": image_id, "file_name": item.name, "width": width, "height": height}
        images.append(image | ({"split": item.split} if item.split else {}))
        if item.name in done:  # listed twice: the second picture becomes a rejected row, its boxes are listed already
            continue
        done.add(item.name)
        try:
            lines = _labels(item.label, folders)
        except (ValueError, AugmentError) as error:  # the latter of a file that cannot be read
            record = {"id": stable_id(item.name, "labels"), "image_id": image_id}
            rejected.append(_bad_line(record, "", str(error), width))
            continue
        for number, line in lines:
            record = {"id": stable_id(item.name, number), "image_id": image_id}
            try:
                annotations.append(record | _annotation(line, width, height, classes.keypoints))
            except ValueError as error:
                rejected.append(_bad_line(record, line, f"{item.label.name}:{number}: {error}", width))
    categories = [{"id": i, "name": name, "supercategory": ""} for i, name in enumerate(classes.names, 1)]
    document = {"images": images, "annotations": annotations, "categories": categories}
    return msgspec.json.encode(document), rejected


def _labels(path: Path, folders: list[Path]) -> list[tuple[int, str]]:
    """None where there is no file; raises as `label_lines`."""
    if not os.path.lexists(path):
        return []
    if not lies_in(path, folders):
        raise ValueError(f"{path.name} {OUTSIDE}")
    return label_lines(path)


def _annotation(line: str, width: int, height: int, keypoints: tuple[int, int] | None) -> dict[str, Any]:
    """The COCO fields of a line; raises ValueError with what is wrong with it."""
    if not width:
        raise ValueError("the picture cannot be read, so the box has no size in pixels")
    first, *rest = line.split()
    numbers = [float(text) for text in rest]
    if not all(map(math.isfinite, numbers)):
        raise ValueError(f"not all finite: {line[:80]!r}")
    fields = {"category_id": whole(first) + 1, "iscrowd": 0}
    after = numbers[4:]
    if len(numbers) == 4 or (keypoints and len(after) == keypoints[0] * keypoints[1]):
        cx, cy, w, h = (n * side for n, side in zip(numbers[:4], (width, height) * 2, strict=True))
        box = {"bbox": [cx - w / 2, cy - h / 2, w, h], "area": w * h, "segmentation": []}
        return fields | box | (_points(after, keypoints[1], width, height) if keypoints and after else {})
    if keypoints:
        count, each = keypoints
        raise ValueError(f"expected a class, a box and {count} keypoints of {each} numbers; got {line[:80]!r}")
    _check_outline(numbers, rest, line)
    return fields | _outline([n * width for n in numbers[::2]], [n * height for n in numbers[1::2]])


def _points(numbers: list[float], each: int, width: int, height: int) -> dict[str, Any]:
    """COCO's keypoints: x, y in pixels and 0 not labelled, 1 hidden, 2 seen, which are YOLO's states too."""
    points = list[float]()
    for x, y, *state in zip(*(numbers[i::each] for i in range(each)), strict=True):
        points += [x * width, y * height, *(state or [2.0 if x or y else 0.0])]
    return {"keypoints": points, "num_keypoints": sum(state > 0 for state in points[2::3])}


def _check_outline(numbers: list[float], texts: list[str], line: str) -> None:
    """Raises ValueError for what is no outline: a box may be followed by a confidence, a track's id, keypoints."""
    if len(numbers) < 6 or len(numbers) % 2:
        raise ValueError(f"expected a class and 4 numbers, or an outline of 3 points or more; got {line[:80]!r}")
    if not all(-_BEYOND <= number <= 1 + _BEYOND for number in numbers):
        raise ValueError(f"an outline's points are shares of the picture, 0 to 1; got {line[:80]!r}")
    if len(numbers) == 6 and texts[-1].isdigit() and _is_box(*numbers[:4]) and 0 <= numbers[4] <= 1:
        raise ValueError(f"this may be three points, or a box with its confidence and a track's id: {line[:80]!r}")


def _is_box(cx: float, cy: float, w: float, h: float) -> bool:
    """Do these lie within their picture as centre and sides?"""
    slack = 1e-3
    inside = (-slack <= c - side / 2 and c + side / 2 <= 1 + slack for c, side in ((cx, w), (cy, h)))
    return min(w, h) > 0 and all(inside)


def _outline(xs: list[float], ys: list[float]) -> dict[str, Any]:
    twice = sum(xs[i - 1] * ys[i] - xs[i] * ys[i - 1] for i in range(len(xs)))  # the shoelace formula
    box = [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)]
    points = [n for point in zip(xs, ys, strict=True) for n in point]
    return {"bbox": box, "area": abs(twice) / 2, "segmentation": [points]}


def _bad_line(record: dict[str, int], line: str, detail: str, width: int) -> ObjectRow:
    reason = "record_malformed" if width else "image_rejected"
    data = msgspec.json.encode(record | {"line": line})
    return rejected_object(str(record["id"]), reason, detail, str(record["image_id"]), data)
