"""The pool of donors: real objects that copy-paste may cut out of their pictures, in the order of a hash.

pool = DonorPool.of(objects, images, split="train")
next(pool.candidates(fits, "forklift", seed, target))       # the first that fits, for this seed
"""

from __future__ import annotations

import contextlib
import mmap
import tempfile
from collections import Counter, namedtuple
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import IO, Any

import numpy as np
import pandas as pd
import pyarrow as pa

from lib.core.geometry import most_covered, xywh_to_xyxy
from lib.core.keys import hash_draw
from lib.planning.former import Identity, former_donors
from lib.records.manifest import GROUP
from lib.records.rows import OK
from lib.records.sorting import LaidRows, sorted_rows

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

        laid = LaidRows(tables(), folder)
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
            for places, rows in sorted_rows(laid, place_of, max(total, 1), total, folder)
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


# Columns of a donor that a plan depends on.
_TAKEN = [*("key", "digest", "category", "frame", "width", "height"), *"xywh", "polygon", "record", "alone"]

_SIZED = ["x", "y", "w", "h", "width", "height"]

_LOOK = 1024


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


def sizes_of(row: Any) -> np.ndarray:
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
