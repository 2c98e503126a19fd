"""A run's final set as an export format needs it: pictures by split, boxes that a detector can learn from, counts.

data = read_final_set(root / "final", digests, training="train", splits, otherwise="train", meanwhile=folder)
data = data.fitted(exporter)                # file names and boxes as that format can have them

Its pictures lie on a shelf, and are read from there one by one whenever they are gone through: a set may be larger than
memory.
"""

from __future__ import annotations

import os
import re
from base64 import b64decode
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

import msgspec
import numpy as np

from lib.core.errors import AugmentError
from lib.core.files import digest
from lib.core.geometry import clip_xyxy, xywh_to_xyxy
from lib.core.images import SUFFIXES, PictureError, glance, header_size, inside, picture_kind
from lib.datasets.coco_file import CocoFile
from lib.datasets.export import Exporter
from lib.datasets.formats.coco_json import plain_id
from lib.datasets.names import fitting, name_hashes, repeated
from lib.datasets.write_yolo import decoded, one_line
from lib.records.shelf import Shelf

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


class Pictures:
    """Those of a split, in the order of the set."""

    def __init__(
        self, shelf: Shelf[bytes], place: str, count: int, fit: Callable[[Picture], Picture] = lambda picture: picture
    ) -> None:
        """place: what their texts on the shelf begin with; fit: changes each as it is read."""
        self._shelf, self._place, self._count, self._fit = shelf, place, count, fit

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Picture]:
        return (self._fit(_unpacked(data)) for data in self._shelf.under(self._place))

    def fitted(self, fit: Callable[[Picture], Picture]) -> Pictures:
        """The same, each changed."""
        return Pictures(self._shelf, self._place, self._count, fit)


@dataclass(frozen=True)
class FinalSet:
    splits: Mapping[str, Pictures]  # by the name in the export: train, val, test, ...
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
        flat = _flat_names((picture for _, picture in self.pictures()), exporter.SPACES)
        if not exporter.KEEPS_IGNORED:
            left_out["ignored"] += sum(box.ignored for _, picture in self.pictures() for box in picture.boxes)

        def fit(picture: Picture) -> Picture:
            kept = tuple(box for box in picture.boxes if exporter.KEEPS_IGNORED or not box.ignored)
            return replace(picture, name=flat(picture), boxes=kept)

        splits = {exporter.ROLES.get(split, split): pictures.fitted(fit) for split, pictures in self.splits.items()}
        return replace(self, splits=splits, left_out=+left_out)

    @cached_property
    def counts(self) -> Mapping[str, Mapping[str, Any]]:
        """By split: pictures, those of them that are synthetic, boxes by category (ignored ones apart)."""
        return {split: self._counts(pictures) for split, pictures in self.splits.items()}

    def _counts(self, pictures: Pictures) -> dict[str, Any]:
        synthetic, ignored, found = 0, 0, Counter[str]()
        for picture in pictures:
            synthetic += picture.synthetic
            ignored += sum(box.ignored for box in picture.boxes)
            found.update(self.categories[box.category] for box in picture.boxes if not box.ignored)
        return {
            "pictures": len(pictures),
            "synthetic": synthetic,
            "boxes": sum(found.values()),
            "ignored": ignored,
            "categories": {name: found[name] for name in dict.fromkeys(self.categories)},
        }


def _packed(picture: Picture) -> bytes:
    return msgspec.json.encode(picture, enc_hook=os.fsencode)


def _unpacked(data: bytes) -> Picture:
    return msgspec.json.decode(data, type=Picture, dec_hook=lambda kind, text: kind(os.fsdecode(b64decode(text))))


# --- reading -----------------------------------------------------------------------------------------------------


class _Category(msgspec.Struct):
    id: msgspec.Raw
    name: str


_NONE = msgspec.Raw(b"null")


class _Note(msgspec.Struct):
    id: msgspec.Raw = _NONE
    category_id: msgspec.Raw = _NONE
    bbox: msgspec.Raw = _NONE
    iscrowd: msgspec.Raw = _NONE
    ignore: msgspec.Raw = _NONE


_decode_note = msgspec.json.Decoder(_Note).decode


def read_final_set(
    folder: Path, digests: Texts, training: str, splits: Texts, otherwise: str, meanwhile: Path
) -> FinalSet:
    """The final set in a folder.

    digests: SHA-256 by file name, as the run wrote it; training: name of the training split; splits: a picture's split
    by the JSON text of its id; otherwise: the split of those that are not listed; meanwhile: folder where the set lies
    as long as it is needed. Synthetic pictures outside of the training split are left out: a validation split is what
    the data set says it is.

    Raises AugmentError where a file is missing or damaged.
    """
    try:
        coco = CocoFile(folder / "annotations.json")
    except FileNotFoundError:
        raise AugmentError(
            f"{folder / 'annotations.json'} not found: the run has no final set yet; run it to its end first"
        ) from None
    categories = coco.value("categories", list[_Category])
    positions = {plain_id(category.id): place for place, category in enumerate(categories)}
    notes = coco.by_picture(meanwhile)
    left_out: Counter[str] = Counter()
    pictures = _Read(meanwhile)
    turned = cut = 0
    for record in coco.records("images", dict[str, msgspec.Raw]):
        key, name = record.get("id", _NONE), decoded(record.get("file_name", _NONE), str, "")
        split = splits.get(bytes(key).decode()) or otherwise
        source = _source(record)
        if source is not None and split != training:
            left_out["synthetic_outside_training"] += 1
            continue
        file = inside(folder / "images", name) if name else None
        if file is None:
            raise AugmentError(f"{coco.path} names the picture {name!r:.200}, which leads elsewhere: run again")
        width, height, misplaced = _frame(file, record)
        boxes = tuple(_boxes(notes.of(key), positions, (width, height), left_out))
        cut += sum(box.inside != box.xywh for box in boxes)
        sha256 = digests.get(name)
        again = pictures.add(Picture(_text(key), name, file, sha256, width, height, split, source, record, boxes))
        left_out["picture_listed_twice"] += again
        turned += misplaced and not again
    names = tuple(one_line(category.name, category.id) for category in categories)
    envelope = {name: value for name, value in coco.top.items() if name not in ("images", "annotations")}
    found = _by_split(pictures.splits(), training)
    return FinalSet(found, names, envelope, +left_out, _notes(training, pictures.splits(), turned, cut))


class Texts(Protocol):
    """Texts by another, wherever they lie."""

    def get(self, text: str, /) -> str | None: ...


class _Read:
    """Pictures by the final set's splits, on a shelf."""

    def __init__(self, folder: Path) -> None:
        self._pictures, self._places = Shelf[bytes](folder), Shelf[str](folder)
        self._counts: Counter[str] = Counter()  # by split, in the order in which they are come upon

    def add(self, picture: Picture) -> bool:
        """Is it one that was added before? Then it gets these boxes, too: tools look for a picture's labels by its
        name."""
        place = self._places.get(picture.name)
        if place is not None:
            former = _unpacked(self._pictures.get(place) or b"")
            self._pictures.put([(place, _packed(replace(former, boxes=former.boxes + picture.boxes)))])
            return True
        number = self._counts[picture.split]
        self._counts[picture.split] += 1
        place = f"{self._prefix(picture.split)}{number:012}"
        self._places.put([(picture.name, place)])
        self._pictures.put([(place, _packed(picture))])
        return False

    def _prefix(self, split: str) -> str:
        return f"{list(self._counts).index(split)}/"

    def splits(self) -> dict[str, Pictures]:
        return {split: Pictures(self._pictures, self._prefix(split), count) for split, count in self._counts.items()}


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
    records: Iterable[bytes],
    positions: Mapping[str, int],
    size: tuple[int, int],
    left_out: Counter[str],
) -> Iterator[Box]:
    for raw in records:
        note = _decode_note(raw)
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
            yield Box(_text(note.id), category, xywh, held, ignored, msgspec.Raw(raw))


def _text(id: msgspec.Raw) -> str:
    """An id as text: 12 and "12" are "12"."""
    return str(decoded(id, str, bytes(id).decode()))


def _notes(training: str, splits: Collection[str], turned: int, cut: int) -> tuple[str, ...]:
    notes = []
    if training not in splits:
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


def _by_split(splits: Mapping[str, Pictures], training: str) -> dict[str, Pictures]:
    """Pictures by the split's usual name: train, val, test; others keep theirs, as letters, digits and "_"."""
    names: dict[str, str] = {}
    for split in sorted(splits, key=lambda split: (split != training, split)):
        low = split.lower()
        usual = "val" if low.startswith(("val", "dev")) else "test" if low.startswith("test") else split
        name = "train" if split == training else re.sub(r"\W+", "_", usual).strip("_") or "split"
        while name in names.values():
            name = f"{name}_{digest(split.encode())[:8]}"
        names[split] = name
    order = ["train", "val", "test"]
    ranked = sorted(names, key=lambda split: (order.index(names[split]) if names[split] in order else 3, names[split]))
    return {names[split]: splits[split] for split in ranked}


def _flat_names(pictures: Iterable[Picture], spaces: bool) -> Callable[[Picture], str]:
    """Gives new file names: "a/b.png" becomes "a__b.png", as tools read splits and labels out of folder names.

    None is hidden, none is without a suffix, and no two have the same name but for case or suffix.
    """
    shared = frozenset(repeated([name_hashes(_stem(_flat(picture, spaces)) for picture in pictures)]).tolist())

    def flat(picture: Picture) -> str:
        name = PurePosixPath(_flat(picture, spaces))
        if shared and int(name_hashes([_stem(str(name))])[0]) in shared:
            name = name.with_name(f"{name.stem}_{digest(picture.name.encode())[:12]}{name.suffix}")
        return fitting(str(name))

    return flat


def _stem(name: str) -> str:
    return PurePosixPath(name).stem.casefold()


def _flat(picture: Picture, spaces: bool) -> str:
    name = "__".join(picture.name.split("/"))
    name = f"_{name[1:]}" if name.startswith(".") else name
    name = name if spaces else re.sub(r"\s", "_", name)
    return name if PurePosixPath(name).suffix.lower() in SUFFIXES else name + picture_kind(picture.file)[1]
