"""Donors: real objects that copy-paste may cut out of their pictures and put into others."""

from __future__ import annotations

import contextlib
import mmap
import tempfile
from collections import Counter, namedtuple
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa

from lib.core.geometry import IntBox, Polygons, clip_xyxy, most_covered, outer_pixels, xywh_to_xyxy
from lib.core.keys import hash_draw
from lib.planning.former import Former, Identity, former_donors
from lib.planning.outlines import Outlines
from lib.planning.surroundings import Room, Spot, Surroundings
from lib.records.labels import polygons_of
from lib.records.manifest import GROUP
from lib.records.requests import Donor
from lib.records.rows import OK
from lib.records.sorting import laid_down, sorted_rows

Fits = Callable[[np.ndarray], np.ndarray]  # (N, 2) float64 widths and heights, pixels → (N,) bool


@dataclass(frozen=True)
class _Donors:
    """Donors of one category, in the order of their hashes."""

    sizes: np.ndarray  # (N, 2) float64 width, height, pixels
    hashes: np.ndarray  # (N,) uint64, of the annotation and its picture, ascending
    table: pa.Table

    @property
    def rows(self) -> pd.DataFrame:
        """All of them."""
        return self.table.to_pandas()

    @cached_property
    def at(self) -> Callable[[int], Any]:
        """Gives a row by its number, as a named tuple."""
        columns, row = self.table.columns, namedtuple("Row", self.table.column_names)
        return lambda place: row(*(column[place].as_py() for column in columns))

    def places(self, donors: Sequence[Identity], hashes: np.ndarray) -> list[int]:
        """Row numbers of those of some donors that are here. hashes: of `_hashes`."""
        starts, ends = (np.searchsorted(self.hashes, hashes, side) for side in ("left", "right"))
        found = np.flatnonzero(ends > starts).tolist()
        digests, keys = self.table["digest"], self.table["key"]
        return [
            place
            for number in found
            for place in range(int(starts[number]), int(ends[number]))
            if (digests[place].as_py(), keys[place].as_py()) == donors[number]
        ]

    def marks(self, places: Sequence[int]) -> np.ndarray:
        """(N,) uint64: a hash of all that a plan takes of some donors."""
        return _marks(self.table.take(pa.array(places, pa.int64())))

    def all_marks(self) -> Iterator[np.ndarray]:
        """`marks` of all, some at a time."""
        return (_marks(self.table.slice(start, GROUP)) for start in range(0, len(self.table), GROUP))


@dataclass(frozen=True)
class DonorPool:
    """Objects that copy-paste may cut out, by category."""

    categories: Mapping[str, _Donors] = field(default_factory=dict)

    @classmethod
    def of(cls, objects: pd.DataFrame, images: pd.DataFrame, split: str) -> DonorPool:
        """Usable objects of readable pictures of one split; no crowds. Those with a piece of another in their box are
        of use where they have a mask, and are cut out along it.
        """
        usable = _usable(objects, images, split, outside_of([images], split))
        return cls({str(category): _donors(group) for category, group in usable.groupby("category")})

    @classmethod
    def of_parts(
        cls, parts: Iterable[tuple[pd.DataFrame, pd.DataFrame]], split: str, outside: Collection[str], folder: Path
    ) -> DonorPool:
        """The same of more objects than memory should hold: they lie in files without a name in `folder`.

        parts: ObjectRows and ImageRows, of each some pictures with all their objects; outside: of `outside_of`.
        """
        counts = Counter[str]()

        def tables() -> Iterator[pa.Table]:
            for objects, images in parts:
                usable = _usable(objects, images, split, outside)
                counts.update(usable.category)
                if len(usable):
                    yield pa.Table.from_pandas(usable.assign(**{_HASH: _hashes(usable)}), preserve_index=False)

        with laid_down(tables(), folder) as rows:
            total, starts = counts.total(), dict[str, int]()
            for name in sorted(counts):
                starts[name] = sum(counts[known] for known in starts)

            def place_of(table: pa.Table) -> np.ndarray:
                """By category, then hash; hashes are even, so this is about where a row will be."""
                names, share = table["category"].to_pandas(), table[_HASH].to_numpy() / 2.0**64
                first, count = (names.map(numbers).to_numpy(np.int64) for numbers in (starts, counts))
                return first + np.minimum((share * count).astype(np.int64), count - 1)

            ordered = (
                rows.take(np.lexsort((rows[_HASH].to_numpy(), places)))
                for places, rows in sorted_rows(rows, place_of, max(total, 1), total, folder)
            )
            return cls(_filed(ordered, counts, folder))

    def row(self, donor: Identity, category: str) -> Any:
        """The row of a donor; None where the pool does not have it."""
        donors = self.categories.get(category)
        places = [] if donors is None else donors.places([donor], _hashes_of([donor]))
        return donors.at(places[-1]) if donors is not None and places else None

    def marks_of(self, requests: Iterable[bytes]) -> list[int]:
        """Marks of the donors in requests, of PlanRows that are ok: while the pool has them all, nothing has changed of
        what was pasted."""
        identities = list({former.identity for former in former_donors(requests).values()})
        hashes = _hashes_of(identities)
        found = (donors.marks(donors.places(identities, hashes)) for donors in self.categories.values())
        return sorted(mark for marks in found for mark in marks.tolist())

    def has_marks(self, marks: Iterable[int]) -> bool:
        """Are all donors with these marks in the pool?"""
        return bool(np.isin(np.array(list(marks), np.uint64), self._marks).all())

    @cached_property
    def _marks(self) -> np.ndarray:
        """(N,) uint64."""
        found = [marks for donors in self.categories.values() for marks in donors.all_marks()]
        return np.concatenate([np.zeros(0, np.uint64), *found])

    def candidates(self, fits: Fits, category: str, seed: int, target: str) -> Iterator[Any]:
        """Rows of fitting donors in the order of their hashes for this seed, never that of annotation `target`.

        Of a large pool only the next _LOOK donors after the seed's place in the order of hashes are looked at, then the
        next ones: so a choice costs the same for a million donors, and adding one moves few choices.
        """
        if category not in self.categories:
            return
        donors = self.categories[category]
        count, start = len(donors.hashes), int(np.searchsorted(donors.hashes, _mix(np.array([seed], np.uint64))[0]))
        for first in range(0, count, _LOOK):
            places = (start + np.arange(first, min(first + _LOOK, count))) % count
            places = places[fits(donors.sizes[places])]
            order = np.argsort(_mix(donors.hashes[places] ^ np.uint64(seed)))
            yield from (row for row in map(donors.at, places[order].tolist()) if row.key != target)


@dataclass(frozen=True)
class Settled:
    """What a new object is, and where."""

    number: int  # of its room
    donor: Donor
    box: IntBox  # xyxy pixels, which the donor fills


@dataclass(frozen=True)
class Donors:
    """Chooses the donor of each pass, how it is pasted, and in a free place where."""

    pool: DonorPool
    painter: Any  # a PAINTERS member that needs donors
    settings: Any  # the painter's
    former: Mapping[int, Former] = field(default_factory=dict)  # `former_donors` of an earlier plan, by a pass's seed
    outlines: Outlines | None = None  # of objects without a mask; None: these are pasted as boxes
    surroundings: Surroundings | None = None  # None: no pixels are at hand

    def choose(self, box: IntBox, category: str, seed: int, target: str) -> Donor | None:
        """The donor for a box (xyxy, pixels) of about its size and aspect; None where none fits. The donor of an
        earlier plan stays where it still fits.

        Args:
            seed: of the pass.
            target: annotation key of the object that is replaced, which is not its donor.
        """

        def fits(sizes: np.ndarray) -> np.ndarray:
            return np.asarray(self.painter.fits(self.settings, box[2] - box[0], box[3] - box[1], sizes))

        former = self.former.get(seed)
        row = None if former is None else self.pool.row(former.identity, category)
        if row is None or row.key == target or not row.alone or not fits(_sizes_of(row))[0]:
            found = self.pool.candidates(fits, category, seed, target)
            row = next((row for row in found if row.alone), None)
        return None if row is None else self._donor(row, seed, None)

    def settle(self, rooms: Sequence[Room], seed: int, picture: np.ndarray | None = None) -> Settled | None:
        """A new object and its place: in the first room, in their order, for which a donor's surroundings are like
        those of a place, else in the first one where they differ least; None where no donor fits any room.

        Objects with an outline come first. One keeps its aspect, and stands on the ground of such objects. Donor and
        place of an earlier plan stay where they still fit.

        Args:
            seed: of the pass.
            picture: uint8 (H, W, 3); None: no pixels are at hand, and the places that were drawn are taken.
        """
        stays = self._stays(rooms, seed)
        if stays is not None:
            return stays
        found = self._alike(rooms, seed, picture)
        if found is not None:
            return found
        return next(filter(None, (self._drawn(number, room, seed) for number, room in enumerate(rooms))), None)

    def _drawn(self, number: int, room: Room, seed: int, only_cut: bool = False) -> Settled | None:
        """In the place that was drawn, an object with an outline before others. only_cut: none without one."""
        first, outline = None, None
        for row in self._rows(room, seed):
            outline = self._outline(row)
            first = row if outline or first is None else first
            if outline:
                break
        if first is None or (only_cut and not outline):
            return None
        return Settled(number, self._donor(first, seed, outline or None), self._shrunk(room.box, first))

    def _alike(self, rooms: Sequence[Room], seed: int, picture: np.ndarray | None) -> Settled | None:
        """By surroundings; None where no pixels are at hand, or no place was found.

        An object that is cut out brings nothing of its surroundings: the first room keeps it, in its nearest place, so
        that categories which fit few places do not go short. What is pasted with its surroundings goes where they fit.
        """
        if picture is None or self.surroundings is None:
            return None
        found: list[_Found] = []
        for number, room in enumerate(rooms):
            mine: list[_Found] = []
            alike: list[_Found] = []
            for row in islice(self._rows(room, seed), _LOOKED_AT):
                spot = self._spot(row, room, picture, self._flip(seed))
                mine += [] if spot is None else [_Found(spot, number, row)]
                alike += [] if spot is None or spot.differs > _LIKE else [mine[-1]]
                if len(alike) == _ENOUGH:
                    break
            if alike:
                return self._with_outline(alike, seed)
            if any(self._outline(one.row) for one in mine):
                return self._with_outline(mine, seed)
            cut = self._drawn(number, room, seed, only_cut=True)
            if cut is not None:
                return cut
            found = found or mine  # of the first room that has any place
        return self._with_outline(found, seed) if found else None

    def _with_outline(self, found: list[_Found], seed: int) -> Settled:
        """The nearest that has an outline, among the first few; the nearest of all where none has one."""
        found = sorted(found, key=lambda one: one.spot.differs)
        outlined = ((one, outline) for one in found[:_LOOKED_AT] if (outline := self._outline(one.row)))
        one, outline = next(outlined, (found[0], None))
        return Settled(one.number, self._donor(one.row, seed, outline, around=outline is None), one.spot.box)

    def _stays(self, rooms: Sequence[Room], seed: int) -> Settled | None:
        """The object of an earlier plan, where its donor is still there and its place free."""
        former = self.former.get(seed)
        if former is None:
            return None
        for number, room in enumerate(rooms):
            row = self.pool.row(former.identity, room.category)
            if row is not None and room.admits(former.box) and self._fills(row, former.box):
                outline = self._outline(row)
                if row.alone or outline:
                    return Settled(number, self._donor(row, seed, outline, former.around), former.box)
        return None

    def _rows(self, room: Room, seed: int) -> Iterator[Any]:
        """Donors of about the size and aspect of a free place, then those that do not become too small in it."""
        wide, high = room.box[2] - room.box[0], room.box[3] - room.box[1]

        def fits(sizes: np.ndarray) -> np.ndarray:
            return np.asarray(self.painter.fits(self.settings, wide, high, sizes))

        def fits_inside(sizes: np.ndarray) -> np.ndarray:
            return np.asarray(self.painter.within(self.settings, wide, high, sizes).min(axis=1) >= room.least)

        seen = set()
        for way in (fits, fits_inside):
            for row in islice(self.pool.candidates(way, room.category, seed, ""), _OUTLINED):
                if row.key not in seen and (row.alone or self._outline(row)):
                    yield row
                seen.add(row.key)

    def _outline(self, row: Any) -> Polygons | None:
        """The object's mask, or what the picture shows of its outline where it is alone; None for neither."""
        if not self.settings.cut:
            return None
        mask = _polygons(row)
        if mask or not row.alone or self.outlines is None:
            return mask
        return self.outlines(row.digest, row.frame, crop_of(row))

    def _spot(self, row: Any, room: Room, picture: np.ndarray, flip: bool) -> Spot | None:
        """Where a donor would stand: as large as in its own picture, else as the place that was drawn allows."""
        assert self.surroundings is not None
        view = self.surroundings.view(row.digest, row.frame, crop_of(row))
        view = view.mirrored() if view is not None and flip else view
        scale = picture.shape[0] / row.height
        scale = 1.0 if abs(scale - 1) < _SAME else min(scale, self.settings.max_upscale)
        own = [max(1, round(side * scale)) for side in _sizes_of(row)[0].tolist()]
        x0, y0, x1, y1 = self._shrunk(room.box, row)
        for size in ((own[0], own[1]), (x1 - x0, y1 - y0)):
            spot = None if view is None or min(size) < room.least else self.surroundings.spot(picture, view, room, size)
            if spot is not None:
                return spot
        return None

    def _shrunk(self, box: IntBox, row: Any) -> IntBox:
        """A free place made as large as the donor becomes in it, on the same ground."""
        x0, y0, x1, y1 = box
        sizes = self.painter.within(self.settings, x1 - x0, y1 - y0, _sizes_of(row))
        wide, high = (max(1, round(side)) for side in sizes[0].tolist())
        left = x0 + (x1 - x0 - wide) // 2
        return left, y1 - high, left + wide, y1

    def _flip(self, seed: int) -> bool:
        return self.settings.flip and bool(hash_draw("flip", seed) % 2)

    def _fills(self, row: Any, box: IntBox) -> bool:
        """Does a donor fill a box (xyxy) without being stretched?"""
        sides = np.array([box[2] - box[0], box[3] - box[1]])
        return bool((np.abs(self.painter.within(self.settings, *sides, _sizes_of(row))[0] - sides) <= 1).all())

    def _donor(self, row: Any, seed: int, outline: Polygons | None, around: bool = False) -> Donor:
        return Donor(
            annotation=row.key,
            digest=row.digest,
            box=crop_of(row),
            frame=row.frame,
            flip=self._flip(seed),
            polygon=_polygons(row),
            outline=outline,
            around=around,
        )


class _Found(NamedTuple):
    spot: Spot
    number: int  # of the room
    row: Any  # the donor's


def crop_of(row: Any) -> IntBox:
    """The donor's box, xyxy whole pixels in its picture. row: has x, y, w, h, and its picture's width and height."""
    box = clip_xyxy(xywh_to_xyxy(np.array([row.x, row.y, row.w, row.h])), row.width, row.height)
    return outer_pixels(box.tolist())


def _polygons(row: Any) -> Polygons | None:
    return polygons_of(row.record, int(row.height), int(row.width)) if row.polygon else None


# Columns of a donor that a plan depends on.
_TAKEN = [*("key", "digest", "category", "frame", "width", "height"), *"xywh", "polygon", "record", "alone"]

_SIZED = ["x", "y", "w", "h", "width", "height"]

_LOOK = 1024
_OUTLINED = 12  # candidates whose outline is looked for
_LOOKED_AT = 8  # candidates whose surroundings are compared
_ENOUGH = 3  # of them that are like those of a place
_SAME = 0.25  # pictures whose heights differ by less are of one scale
_LIKE = 12.0  # grey levels by which surroundings that are alike differ at most


def outside_of(images: Iterable[pd.DataFrame], split: str) -> set[str]:
    """Groups with pictures of another split, whose other pictures would leak through their donors."""
    return {name for rows in images for name in rows.group[(rows.split != split) & (rows.group != "")].unique()}


def _usable(objects: pd.DataFrame, images: pd.DataFrame, split: str, outside: Collection[str]) -> pd.DataFrame:
    pictures = images[(images.status == OK) & (images.split == split) & ~images.group.isin(outside)]
    pictures = pictures[["key", "digest", "frame", "width", "height"]].rename(columns={"key": "image_key"})
    shown = objects[objects.status == OK]
    overlap = _overlapped(shown)
    shown = shown.assign(alone=overlap <= _MOST_OVERLAP)
    usable = shown[~shown.crowd & (shown.alone | (shown.polygon & (overlap <= _MOST_WITH_MASK)))]
    return usable.merge(pictures, on="image_key")


def _donors(group: pd.DataFrame) -> _Donors:
    hashes = _hashes(group)
    order = np.argsort(hashes, kind="stable")
    rows = group.iloc[order].reset_index(drop=True)
    return _Donors(_sizes(rows), hashes[order], pa.Table.from_pandas(rows, preserve_index=False))


def _filed(tables: Iterable[pa.Table], counts: Mapping[str, int], folder: Path) -> dict[str, _Donors]:
    """Donors, which come by category and hash, in files that are read where they lie."""
    with contextlib.ExitStack() as held:
        files = [held.enter_context(tempfile.TemporaryFile(prefix=".tmp-", dir=folder)) for _ in range(3)]
        with contextlib.ExitStack() as writers:
            writer = None
            for table in tables:
                rows = table.drop_columns([_HASH])
                writer = writer or writers.enter_context(pa.ipc.new_stream(files[0], rows.schema))
                writer.write_table(rows)
                files[1].write(table[_HASH].to_numpy().tobytes())
                files[2].write(_sizes(table.select(_SIZED).to_pandas()).tobytes())
        if writer is None:
            return {}
        stream, hashes, sizes = map(_mapped, files)
        rows, found, start = pa.ipc.open_stream(stream).read_all(), dict[str, _Donors](), 0
        for name in sorted(counts):
            count = counts[name]
            own = np.frombuffer(sizes, np.float64, 2 * count, 16 * start).reshape(count, 2)
            found[name] = _Donors(own, np.frombuffer(hashes, np.uint64, count, 8 * start), rows.slice(start, count))
            start += count
        return found


def _mapped(file: IO[bytes]) -> pa.Buffer:
    """A file's bytes: pages of it that memory is short of are let go, and read again."""
    file.flush()
    return pa.py_buffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


def _hashes(rows: pd.DataFrame) -> np.ndarray:
    """(N,) uint64 of donors."""
    return _hashes_of(zip(rows.digest, rows.key, strict=True))


def _hashes_of(donors: Iterable[Identity]) -> np.ndarray:
    return _mix(np.array([hash_draw("donor", f"{digest} {key}") for digest, key in donors], dtype=np.uint64))


def _marks(rows: pa.Table) -> np.ndarray:
    return np.asarray(pd.util.hash_pandas_object(rows.select(_TAKEN).to_pandas(), index=False), np.uint64)


_HASH = "\0hash"


def _sizes_of(row: Any) -> np.ndarray:
    """(1, 2) of one row."""
    return _inside(np.array([[row.x, row.y, row.w, row.h, row.width, row.height]], np.float64))


def _sizes(rows: pd.DataFrame) -> np.ndarray:
    """(N, 2) width and height, pixels, of what of the donors' boxes lies in their pictures."""
    return _inside(rows[_SIZED].to_numpy(np.float64))


def _inside(numbers: np.ndarray) -> np.ndarray:
    boxes, frame = xywh_to_xyxy(numbers[:, :4]), numbers[:, 4:]
    return np.maximum(np.minimum(boxes[:, 2:], frame) - np.maximum(boxes[:, :2], 0), 1)


# A pasted piece of another object would be an object without a label. A mask has none, but an object that is mostly
# hidden shows too little of itself.
_MOST_OVERLAP = 0.1
_MOST_WITH_MASK = 0.5


def _overlapped(objects: pd.DataFrame) -> np.ndarray:
    """(N,) the largest share of each object's box that another annotated box of its picture covers."""
    boxes = xywh_to_xyxy(objects[["x", "y", "w", "h"]].to_numpy())
    shares = np.zeros(len(objects))
    for places in objects.groupby("image_key", sort=False).indices.values():
        if len(places) > 1:
            shares[places] = most_covered(boxes[places])
    return shares


def _mix(values: np.ndarray) -> np.ndarray:
    """splitmix64's finaliser (Steele et al. 2014): spreads 64-bit values evenly, whole columns at once."""
    with np.errstate(over="ignore"):
        values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return values ^ (values >> np.uint64(31))
