"""Select: which pictures may be used, and which of their boxes. Column operations only: a million boxes a second.

Rules apply in the order of `_rules`; a picture's reason is the first that sets it aside. `select_batches` gives the
rows of `select_pictures` some at a time, in some tens of bytes a picture.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lib.core.keys import hash_draw
from lib.records.manifest import to_table
from lib.records.rows import OK, REJECTED, ObjectRow, SelectRow, arrow_schema
from lib.records.settings import SelectSettings
from lib.records.sorting import LaidRows, sorted_rows

IMAGE_COLUMNS = ("key", "status", "file_name", "digest", "frame", "split", "group", "width", "height")
OBJECT_COLUMNS = ("key", "status", "image_key", "category", "x", "y", "w", "h", "crowd")


@dataclass(frozen=True)
class _Columns:
    """Objects as arrays; `image` is the position of their picture, -1 where it is not selectable."""

    keys: pa.ChunkedArray
    image: np.ndarray
    category: np.ndarray  # codes into names
    names: list[str]
    counted: np.ndarray  # bool: counts in max_objects and max_categories
    usable: np.ndarray  # bool: an edit may use it


def select_pictures(
    images: pa.Table, objects: pa.Table, settings: SelectSettings, seed: int, limit: int | None
) -> pa.Table:
    """A SelectRow for every readable picture.

    images: at least IMAGE_COLUMNS of ImageRow; objects: at least OBJECT_COLUMNS of ObjectRow; limit: pictures after
    selection.
    """
    images = images.filter(pc.equal(images["status"], OK))
    late = _Late(settings, seed, limit)
    columns, reasons = _judged(images, objects, settings, _Groups.of([images], settings.split).crossing, late)
    return _table(images, columns, late.entered(reasons))


def select_batches(
    images: Callable[[], Iterable[pa.Table]],
    objects: Iterable[pa.Table],
    settings: SelectSettings,
    seed: int,
    limit: int | None,
    folder: Path,
    boxes: int,
) -> Iterator[pa.Table]:
    """The rows of `select_pictures`, some at a time.

    images: gives the rows each time it is called; folder: room for temporary files; boxes: number of objects, about.
    """

    def readable() -> Iterator[pa.Table]:
        return (table.filter(pc.equal(table["status"], OK)) for table in images())

    groups, late, start = _Groups.of(readable(), settings.split), _Late(settings, seed, limit), 0
    beside = _Beside(objects, groups.keys, folder, boxes)

    def pieces() -> Iterator[pa.Table]:
        for table in readable():
            columns, reasons = _judged(table, beside.next(len(table)), settings, groups.crossing, late)
            yield _table(table, columns, reasons)

    if not late.rules:
        yield from pieces()
        return
    for table in LaidRows(pieces(), folder):
        yield _set_aside(table, late.entered(np.asarray(table["reason"].to_pandas(), object), start))
        start += len(table)


def _set_aside(rows: pa.Table, reasons: np.ndarray) -> pa.Table:
    """SelectRows with these reasons."""
    reason = pa.array(reasons, pa.string())
    columns = {"status": pc.if_else(pc.equal(reason, ""), OK, REJECTED), "reason": reason}
    for name, column in columns.items():
        rows = rows.set_column(rows.schema.get_field_index(name), rows.schema.field(name), column)
    return rows


class _Beside:
    """Objects of pictures that are gone through once, in their order. keys: of all these pictures."""

    def __init__(self, objects: Iterable[pa.Table], keys: pa.Array, folder: Path, total: int) -> None:
        none, self.at = len(keys), 0

        def place_of(table: pa.Table) -> np.ndarray:
            return pc.fill_null(pc.index_in(table["image_key"], value_set=keys), none).to_numpy()

        usable = (table.filter(pc.equal(table["status"], OK)) for table in objects)
        self.sorted = sorted_rows(usable, place_of, none + 1, total, folder)
        self.places, self.rows = np.zeros(0, np.int64), to_table([], ObjectRow).select(OBJECT_COLUMNS)

    def next(self, count: int) -> pa.Table:
        """Those of the next pictures."""
        self.at += count
        while not len(self.places) or self.places[-1] < self.at - 1:
            places, rows = next(self.sorted, (None, None))
            if places is None:
                break
            self.rows = pa.concat_tables([self.rows, rows]) if len(self.places) else rows
            self.places = np.concatenate([self.places, places])
        end = int(np.searchsorted(self.places, self.at))
        found, self.rows, self.places = self.rows.slice(0, end), self.rows.slice(end), self.places[end:]
        return found


def in_order_of_limit(tables: Iterable[pa.Table], seed: int, total: int, folder: Path) -> LaidRows:
    """SelectRows, about `total`, in the order in which `limit` takes them; they lie in a file without a name in
    `folder`."""

    def ranks(table: pa.Table) -> np.ndarray:
        return _ranks(table["key"].to_pylist(), "limit", seed)

    return LaidRows((rows for _, rows in sorted_rows(tables, ranks, 2**64, total, folder)), folder)


def _judged(
    images: pa.Table, objects: pa.Table, settings: SelectSettings, crossing: pa.Array, late: _Late
) -> tuple[_Columns, np.ndarray]:
    """Objects as columns, and the reason of each picture by the rules that look at it alone; `late` notes the rest."""
    columns = _columns(images, objects, settings)
    reasons = np.full(len(images), "", dtype=object)
    for reason, hit in _rules(images, columns, settings, crossing):
        reasons[(reasons == "") & hit] = reason
    late.note(images["key"], columns, reasons)
    return columns, reasons


def _columns(images: pa.Table, objects: pa.Table, settings: SelectSettings) -> _Columns:
    position = pc.index_in(objects["image_key"], value_set=images["key"])
    image = np.asarray(pc.fill_null(position, -1))
    encoded = pc.dictionary_encode(objects["category"]).combine_chunks()
    names = [str(name) for name in encoded.dictionary.to_pylist()]
    category = np.asarray(encoded.indices)
    ok = np.asarray(pc.equal(objects["status"], OK)) & (image >= 0)
    counted = ok & ~np.isin(category, _codes(settings.exempt, names))
    wide, high = np.asarray(objects["w"]), np.asarray(objects["h"])
    frame = (np.asarray(images["width"]) * np.asarray(images["height"])).astype(np.float64)
    share = wide * high / (frame[image] if len(frame) else 1.0)
    usable = ok & ~np.asarray(objects["crowd"]) & (np.minimum(wide, high) >= settings.min_box)
    usable &= (share >= settings.min_box_area) & ((share <= settings.max_box_area) | (settings.max_box_area >= 1))
    if settings.categories is not None:
        usable &= np.isin(category, _codes(settings.categories, names))
    return _Columns(objects["key"], image, category, names, counted, usable)


def _codes(wanted: Sequence[str], names: Sequence[str]) -> list[int]:
    return [code for code, name in enumerate(names) if name in set(wanted)]


def _rules(
    images: pa.Table, columns: _Columns, settings: SelectSettings, crossing: pa.Array
) -> list[tuple[str, np.ndarray]]:
    """(reason, bool per picture), in order of precedence."""
    n = len(images)
    split = np.asarray(pc.equal(images["split"], settings.split))
    leaks = np.asarray(pc.is_in(images["group"], value_set=crossing))
    rules = [("other_split", ~split), ("group_crosses_split", leaks)]
    shorter = np.minimum(np.asarray(images["width"]), np.asarray(images["height"]))
    rules.append(("picture_too_small", shorter < settings.min_picture))
    usable = np.bincount(columns.image[columns.usable], minlength=n) > 0
    if settings.categories is not None:
        rules.append(("category_not_wanted", ~usable))
    counted = columns.image[columns.counted]
    if settings.max_objects is not None:
        rules.append(("too_many_objects", np.bincount(counted, minlength=n) > settings.max_objects))
    if settings.max_categories is not None:
        pairs = np.unique(np.stack([counted, columns.category[columns.counted]]), axis=1)
        rules.append(("too_many_categories", np.bincount(pairs[0], minlength=n) > settings.max_categories))
    if settings.require_objects:
        rules.append(("no_usable_objects", ~usable))
    return rules


@dataclass(frozen=True)
class _Groups:
    """Of all pictures that can be read."""

    keys: pa.Array
    crossing: pa.Array  # groups that also hold pictures of another split: painting those would leak

    @classmethod
    def of(cls, images: Iterable[pa.Table], split: str) -> _Groups:
        none = pa.array([], pa.string())
        keys, inside, outside = [none], none, none
        for table in images:
            keys += table["key"].chunks
            named, ours = pc.not_equal(table["group"], ""), pc.equal(table["split"], split)
            inside = _united(inside, table["group"].filter(pc.and_(named, ours)))
            outside = _united(outside, table["group"].filter(pc.and_not(named, ours)))
        return cls(pa.concat_arrays(keys), inside.filter(pc.is_in(inside, value_set=outside)))


def _united(known: pa.Array, more: pa.ChunkedArray) -> pa.Array:
    return pa.concat_arrays([known, *more.chunks]).unique()


class _Late:
    """The rules that look at all pictures: what they need of each is noted until all are known."""

    def __init__(self, settings: SelectSettings, seed: int, limit: int | None) -> None:
        self.cap, self.seed, self.limit = settings.max_per_category, seed, limit
        self.rules = bool(self.cap) or limit is not None
        self.count, self.codes = 0, dict[str, int]()  # category → number
        none = np.zeros(0, np.int32)
        self.pairs = [np.zeros((2, 0), np.int32)]  # picture, category of an object that may be used
        self.open: list[np.ndarray] = [none]  # pictures that no rule has set aside
        self.capped: list[np.ndarray] = [np.zeros(0, np.uint64)]  # ranks of these pictures, by purpose
        self.limited: list[np.ndarray] = [np.zeros(0, np.uint64)]

    def note(self, keys: pa.ChunkedArray, columns: _Columns, reasons: np.ndarray) -> None:
        """The next pictures, and the reasons of those that are set aside already."""
        if not self.rules:
            return
        open_ = np.flatnonzero(reasons == "")
        self.open.append((open_ + self.count).astype(np.int32))
        texts = keys.take(pa.array(open_)).to_pylist()
        if self.cap:
            use = np.flatnonzero(columns.usable)
            use = use[reasons[columns.image[use]] == ""]
            numbers = np.array([self.codes.setdefault(name, len(self.codes)) for name in columns.names], np.int64)
            pairs = np.stack([columns.image[use] + self.count, numbers[columns.category[use]]]).astype(np.int32)
            self.pairs.append(np.unique(pairs, axis=1))
            self.capped.append(_ranks(texts, "cap", self.seed))
        if self.limit is not None:
            self.limited.append(_ranks(texts, "limit", self.seed))
        self.count += len(reasons)

    def entered(self, reasons: np.ndarray, start: int = 0) -> np.ndarray:
        """Reasons of pictures, of which `start` come before, with those of these rules. All pictures are noted."""
        for reason, places in self._found.items():
            here = places[(places >= start) & (places < start + len(reasons))] - start
            reasons[here] = reason
        return reasons

    @cached_property
    def _found(self) -> dict[str, np.ndarray]:
        """Reason → pictures."""
        open_, found = np.concatenate(self.open), dict[str, np.ndarray]()
        stay = np.ones(len(open_), bool)
        if self.cap:
            ranks = np.zeros(self.count, np.uint64)
            ranks[open_] = np.concatenate(self.capped)
            images, categories = np.concatenate(self.pairs, axis=1)
            found["category_capped"] = _beyond_cap(images, categories, ranks, self.cap)
            stay = ~np.isin(open_, found["category_capped"])
        if self.limit is not None:
            order = np.argsort(np.concatenate(self.limited)[stay], kind="stable")
            found["over_limit"] = open_[stay][order[self.limit :]]
        return found


def _beyond_cap(images: np.ndarray, categories: np.ndarray, ranks: np.ndarray, cap: int) -> np.ndarray:
    """Pictures that are not among at most `cap` of each category: those with rare categories come first, then the
    smaller rank. images, categories: (N,) pairs sorted by picture; ranks: of all pictures."""
    which, starts = np.unique(images, return_index=True)
    if not len(which):
        return which
    rarest = np.minimum.reduceat(np.bincount(categories)[categories], starts)
    ends = [*starts[1:].tolist(), len(images)]
    kept, beyond = np.zeros(int(categories.max()) + 1, np.int64), []
    for number in np.lexsort((ranks[which], rarest)).tolist():
        own = categories[starts[number] : ends[number]]
        if (kept[own] < cap).all():
            kept[own] += 1
        else:
            beyond.append(which[number])
    return np.array(beyond, which.dtype)


def _ranks(keys: Iterable[str], purpose: str, seed: int) -> np.ndarray:
    """(N,) uint64: hashes of pictures' keys, so that one more picture moves no other's rank by chance."""
    return np.array([hash_draw(seed, purpose, key) for key in keys], dtype=np.uint64)


def _table(images: pa.Table, columns: _Columns, reasons: np.ndarray) -> pa.Table:
    n = len(images)
    reason = pa.array(reasons, pa.string())
    status = pc.if_else(pc.equal(reason, ""), OK, REJECTED)
    use = np.flatnonzero(columns.usable)
    use = use[np.argsort(columns.image[use], kind="stable")]
    offsets = np.concatenate([[0], np.cumsum(np.bincount(columns.image[use], minlength=n))]).astype(np.int32)
    return pa.table(
        {
            "key": images["key"],
            "status": status,
            "reason": reason,
            "detail": pa.array([""] * n, pa.string()),
            "file_name": images["file_name"],
            "digest": images["digest"],
            "frame": images["frame"],
            "split": images["split"],
            "width": images["width"],
            "height": images["height"],
            "objects": _lists(offsets, columns.keys, use),
            "labels": _lists(offsets, pa.chunked_array([pa.array(columns.names, pa.string())]), columns.category[use]),
        },
    ).cast(arrow_schema(SelectRow))


def _lists(offsets: np.ndarray, texts: pa.ChunkedArray, positions: np.ndarray) -> pa.ListArray:
    """One list of texts per picture: texts[positions], cut at the offsets."""
    return pa.ListArray.from_arrays(pa.array(offsets), texts.take(pa.array(positions)).combine_chunks())
