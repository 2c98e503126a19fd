"""A run's final set as an export format needs it: pictures by split, boxes that a detector can learn from, counts.

data = read_final_set(root / "final", digests, training="train", splits={...})
data = data.fitted(exporter)                # file names and boxes as that format can have them
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

import msgspec
import numpy as np

from lib.core.errors import AugmentError
from lib.core.files import digest
from lib.core.geometry import clip_xyxy, xywh_to_xyxy
from lib.core.images import SUFFIXES, PictureError, glance, header_size, inside, picture_kind
from lib.datasets.export import Exporter
from lib.datasets.formats.coco_json import plain_id
from lib.datasets.names import fitting
from lib.datasets.write_yolo import decoded, one_line

XYWH = tuple[float, float, float, float]  # left, top, width, height, pixels


@dataclass(frozen=True, slots=True)
class Box:
    """An annotation that a detector can learn from, or that it is to ignore."""

    id: str  # as text
    category: int  # position in FinalSet.categories
    xywh: XYWH  # as annotated
    inside: XYWH  # cut to the picture
    ignored: bool  # a crowd, or marked to be ignored
    record: msgspec.Raw  # a JSON object

    def field(self, name: str) -> Any:
        """A field of its record; None where it has none, or one that is beyond all numbers."""
        fields = msgspec.json.decode(self.record, type=dict[str, msgspec.Raw])
        return decoded(fields[name], Any, None) if name in fields else None


@dataclass(frozen=True, slots=True)
class Picture:
    id: str  # as text
    name: str  # of the file in the export: unique, without folders
    file: Path  # in the final set
    sha256: str | None  # expected of the file's bytes; None: not known
    width: int  # pixels, in the frame that its boxes are given in
    height: int
    split: str  # as the final set names it
    source: str | None  # file name of the picture that a synthetic one was made from; None: an original
    record: Mapping[str, msgspec.Raw]
    boxes: tuple[Box, ...]

    @property
    def synthetic(self) -> bool:
        """Was it painted by a run?"""
        return self.source is not None


@dataclass(frozen=True)
class FinalSet:
    splits: Mapping[str, tuple[Picture, ...]]  # by the name in the export: train, val, test, ...
    categories: tuple[str, ...]
    envelope: Mapping[str, msgspec.Raw]  # the COCO file but for images and annotations
    left_out: Mapping[str, int] = field(default_factory=dict)  # reason → number of boxes, or of pictures
    notes: tuple[str, ...] = ()  # what a person must know, a sentence each

    def pictures(self) -> Iterator[tuple[str, Picture]]:
        """(split in the export, picture) of all."""
        for split, pictures in self.splits.items():
            for picture in pictures:
                yield split, picture

    def fitted(self, exporter: type[Exporter]) -> FinalSet:
        """With the file names, splits and boxes that the format can have."""
        left_out = Counter(self.left_out)
        names = _flat_names([picture for _, picture in self.pictures()], exporter.SPACES)
        splits: dict[str, tuple[Picture, ...]] = {}
        for split, pictures in self.splits.items():
            fitted = [replace(picture, name=names[picture.name]) for picture in pictures]
            if not exporter.KEEPS_IGNORED:
                left_out["ignored"] += sum(box.ignored for picture in fitted for box in picture.boxes)
                fitted = [replace(p, boxes=tuple(box for box in p.boxes if not box.ignored)) for p in fitted]
            splits[exporter.ROLES.get(split, split)] = tuple(fitted)
        return replace(self, splits=splits, left_out=+left_out)

    def counts(self) -> dict[str, dict[str, Any]]:
        """By split: pictures, those of them that are synthetic, boxes by category (ignored ones apart)."""
        counts: dict[str, dict[str, Any]] = {}
        for split, pictures in self.splits.items():
            boxes = [box for picture in pictures for box in picture.boxes]
            found = Counter(self.categories[box.category] for box in boxes if not box.ignored)
            counts[split] = {
                "pictures": len(pictures),
                "synthetic": sum(picture.synthetic for picture in pictures),
                "boxes": sum(found.values()),
                "ignored": sum(box.ignored for box in boxes),
                "categories": {name: found[name] for name in dict.fromkeys(self.categories)},
            }
        return counts


# --- reading -----------------------------------------------------------------------------------------------------


class _Category(msgspec.Struct):
    id: msgspec.Raw
    name: str


class _Set(msgspec.Struct):
    images: list[dict[str, msgspec.Raw]]
    annotations: list[msgspec.Raw]
    categories: list[_Category]


_NONE = msgspec.Raw(b"null")


class _Note(msgspec.Struct):
    image_id: msgspec.Raw
    id: msgspec.Raw = _NONE
    category_id: msgspec.Raw = _NONE
    bbox: msgspec.Raw = _NONE
    iscrowd: msgspec.Raw = _NONE
    ignore: msgspec.Raw = _NONE


def read_final_set(
    folder: Path, digests: Mapping[str, str], training: str, splits: Mapping[str, str], otherwise: str
) -> FinalSet:
    """The final set in a folder.

    digests: SHA-256 by file name, as the run wrote it; training: name of the training split; splits: a picture's split
    by the JSON text of its id; otherwise: the split of those that are not listed. Synthetic pictures outside of the
    training split are left out: a validation split is what the data set says it is.

    Raises AugmentError where a file is missing or damaged.
    """
    found, envelope = _decoded(folder / "annotations.json")
    positions = {plain_id(category.id): place for place, category in enumerate(found.categories)}
    by_image: dict[str, list[tuple[_Note, msgspec.Raw]]] = {}
    for raw in found.annotations:
        note = msgspec.json.decode(raw, type=_Note)
        by_image.setdefault(plain_id(note.image_id), []).append((note, raw))
    left_out: Counter[str] = Counter()
    pictures: dict[str, Picture] = {}
    turned = 0
    for record in found.images:
        key, name = record.get("id", _NONE), decoded(record.get("file_name", _NONE), str, "")
        split = splits.get(bytes(key).decode(), otherwise)
        source = _source(record)
        if source is not None and split != training:
            left_out["synthetic_outside_training"] += 1
            continue
        file = inside(folder / "images", name) if name else None
        if file is None:
            listing = folder / "annotations.json"
            raise AugmentError(f"{listing} names the picture {name!r:.200}, which leads elsewhere: run again")
        width, height, misplaced = _frame(file, record)
        boxes = tuple(_boxes(by_image.get(plain_id(key), ()), positions, (width, height), left_out))
        if name in pictures:  # two records of one file: tools look for a picture's labels by its name
            left_out["picture_listed_twice"] += 1
            pictures[name] = replace(pictures[name], boxes=pictures[name].boxes + boxes)
            continue
        turned += misplaced
        sha256 = digests.get(name)
        pictures[name] = Picture(_text(key), name, file, sha256, width, height, split, source, record, boxes)
    names = tuple(one_line(category.name, category.id) for category in found.categories)
    all_pictures = list(pictures.values())
    return FinalSet(
        _by_split(all_pictures, training), names, envelope, +left_out, _notes(training, all_pictures, turned)
    )


def _decoded(file: Path) -> tuple[_Set, dict[str, msgspec.Raw]]:
    try:
        data = file.read_bytes()
        top = msgspec.json.decode(data, type=dict[str, msgspec.Raw])
        envelope = {name: value for name, value in top.items() if name not in ("images", "annotations")}
        return msgspec.json.decode(data, type=_Set), envelope
    except FileNotFoundError:
        raise AugmentError(f"{file} not found: the run has no final set yet; run it to its end first") from None
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise AugmentError(f"{file} is damaged ({error}): run again, which writes it anew") from None


def _source(record: Mapping[str, msgspec.Raw]) -> str | None:
    if not {"source_image_id", "edit", "painter"} <= set(record):
        return None
    return str(decoded(record.get("source_file_name", _NONE), str, ""))


def _frame(file: Path, record: Mapping[str, msgspec.Raw]) -> tuple[int, int, bool]:
    """(width, height) that the boxes are given in, and whether that is not how the picture is shown."""
    try:
        width, height = header_size(file)
        annotated = tuple(decoded(record.get(side, _NONE), float, None) for side in ("width", "height"))
        if annotated != (height, width) or width == height:
            return width, height, False
        info = glance(file, width * height)
    except PictureError as error:
        raise AugmentError(f"{file} cannot be read ({error.detail}): run again, which writes it anew") from None
    stored = (info.stored_width, info.stored_height)
    return *stored, stored != (width, height)


def _boxes(
    records: Sequence[tuple[_Note, msgspec.Raw]],
    positions: Mapping[str, int],
    size: tuple[int, int],
    left_out: Counter[str],
) -> Iterator[Box]:
    for note, raw in records:
        ignored = bool(decoded(note.iscrowd, Any, True) or decoded(note.ignore, Any, True))
        xywh = decoded(note.bbox, XYWH, None)
        if xywh is None:
            left_out["box_malformed"] += 1
            continue
        corners = xywh_to_xyxy(np.array(xywh))
        x0, y0, x1, y1 = clip_xyxy(corners, *size).tolist()
        category = positions.get(plain_id(note.category_id))
        if category is None:
            left_out["category_unknown"] += 1
        elif x1 <= x0 or y1 <= y0:
            left_out["box_without_area"] += 1
        else:
            whole = [x0, y0, x1, y1] == corners.tolist()
            held = xywh if whole else (x0, y0, x1 - x0, y1 - y0)
            yield Box(_text(note.id), category, xywh, held, ignored, raw)


def _text(id: msgspec.Raw) -> str:
    """An id as text: 12 and "12" are "12"."""
    return str(decoded(id, str, bytes(id).decode()))


def _notes(training: str, pictures: list[Picture], turned: int) -> tuple[str, ...]:
    notes = []
    cut = sum(box.inside != box.xywh for picture in pictures for box in picture.boxes)
    if not any(picture.split == training for picture in pictures):
        notes.append(f"no picture is in the training split {training!r}: there is nothing to train on")
    if turned:
        notes.append(
            f"{turned} pictures say that they are to be turned, and their boxes are given for them as stored: tools "
            f"that turn pictures put these boxes in wrong places"
        )
    if cut:
        notes.append(f"{cut} boxes reach beyond their pictures: formats other than COCO and FiftyOne have them cut")
    return tuple(notes)


# --- names -------------------------------------------------------------------------------------------------------


def _by_split(pictures: list[Picture], training: str) -> dict[str, tuple[Picture, ...]]:
    """Pictures by the split's usual name: train, val, test; others keep theirs, as letters, digits and "_"."""
    names: dict[str, str] = {}
    for split in sorted({picture.split for picture in pictures}, key=lambda split: (split != training, split)):
        low = split.lower()
        usual = "val" if low.startswith(("val", "dev")) else "test" if low.startswith("test") else split
        name = "train" if split == training else re.sub(r"\W+", "_", usual).strip("_") or "split"
        while name in names.values():
            name = f"{name}_{digest(split.encode())[:8]}"
        names[split] = name
    order = ["train", "val", "test"]
    ranked = sorted(names, key=lambda split: (order.index(names[split]) if names[split] in order else 3, names[split]))
    return {names[split]: tuple(p for p in pictures if p.split == split) for split in ranked}


def _flat_names(pictures: list[Picture], spaces: bool) -> dict[str, str]:
    """New file name by the former: "a/b.png" becomes "a__b.png", as tools read splits and labels out of folder names.

    None is hidden, none is without a suffix, and no two have the same name but for case or suffix.
    """
    flat = {picture.name: _flat(picture, spaces) for picture in pictures}
    stems = Counter(PurePosixPath(name).stem.casefold() for name in flat.values())
    for picture in pictures:
        name = PurePosixPath(flat[picture.name])
        if stems[name.stem.casefold()] > 1:
            unique = digest(picture.name.encode())[:12]
            name = name.with_name(f"{name.stem}_{unique}{name.suffix}")
        flat[picture.name] = fitting(str(name))
    return flat


def _flat(picture: Picture, spaces: bool) -> str:
    name = "__".join(picture.name.split("/"))
    name = f"_{name[1:]}" if name.startswith(".") else name
    name = name if spaces else re.sub(r"\s", "_", name)
    return name if PurePosixPath(name).suffix.lower() in SUFFIXES else name + picture_kind(picture.file)[1]
