"""Ids of synthetic pictures and boxes in the final set: above all of the originals' ids, and the same in every run.

    ids = Ids.read(root / "ids.jsonl")
    ids.clear_of(image_ids, annotation_ids)      # of the originals, as JSON texts
    ids.give(key, labels=3); ids.image(key); ids.annotation(key, 2)
    ids.write()

They lie in a file, a line a request, and while they are used on a shelf: memory does not grow with them.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated

import msgspec
import numpy as np

from lib.core import mirror
from lib.core.errors import AugmentError
from lib.records import kept
from lib.records.shelf import Shelf

_REMEDY = "restore it, or remove it: all synthetic pictures and boxes then get new ids"

_Id = Annotated[int, msgspec.Meta(ge=1)]
_KINDS = ("images", "annotations")


class Given(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """The ids of a request's picture and of its labels; None where an original took one away."""

    key: str
    image: _Id | None
    annotations: list[_Id | None]


class _Former(msgspec.Struct, forbid_unknown_fields=True):
    """ids.json of former versions: request key → id, and "request key:position of the label" → id."""

    images: dict[str, _Id]
    annotations: dict[str, _Id]


class Ids:
    """Ids of synthetic pictures and boxes: assigned once above the maximum, and kept."""

    def __init__(self, path: Path) -> None:
        """None yet. path: where they are kept."""
        self.path, self._changed = path, True
        self._shelf = Shelf[bytes](path.parent)
        self._numbers = {kind: _Numbers() for kind in _KINDS}
        self._following = dict.fromkeys(_KINDS, 1)
        self._last: Given | None = None

    @classmethod
    def read(cls, path: Path) -> Ids:
        """The ids kept in a file; none where the file does not exist yet. Raises AugmentError for a damaged file."""
        ids, former = cls(path), path.with_suffix(".json")
        there = path.exists() or not former.exists()
        ids._shelf.put(ids._read(kept.read_lines(path, Given, _REMEDY) if there else _former(former)))
        for kind, numbers in ids._numbers.items():
            if (twice := numbers.twice()) is not None:
                where = path if there else former
                raise AugmentError(f"{where} is damaged (id {twice} appears twice among its {kind}): {_REMEDY}")
        ids._changed = not path.exists()
        return ids

    def _read(self, records: Iterable[Given]) -> Iterator[tuple[str, bytes]]:
        for given in records:
            self._numbers["images"].add([given.image])
            self._numbers["annotations"].add(given.annotations)
            yield given.key, msgspec.json.encode(given)

    def clear_of(self, image_ids: Iterable[str], annotation_ids: Iterable[str]) -> None:
        """Take away the ids that originals now use; new ones will be above all. JSON texts of the originals' ids."""
        taken = {}
        for kind, originals in zip(_KINDS, (image_ids, annotation_ids), strict=True):
            most, taken[kind] = self._numbers[kind].among(originals)
            self._following[kind] = max(most, self._numbers[kind].most(taken[kind])) + 1
        self._numbers = {}
        if any(taken.values()):
            self._shelf.put([*self._without(taken["images"], taken["annotations"])])

    def _without(self, images: set[int], annotations: set[int]) -> Iterator[tuple[str, bytes]]:
        self._changed = True
        for given in self.records():
            image = None if given.image in images else given.image
            left = [None if one in annotations else one for one in given.annotations]
            if (image, left) != (given.image, given.annotations):
                yield given.key, msgspec.json.encode(Given(given.key, image, left))

    def give(self, key: str, labels: int) -> None:
        """Give a request's picture, and all its labels, their ids."""
        known = self._of(key)
        image = self._next("images") if known.image is None else known.image
        more = [None] * (labels - len(known.annotations))
        notes = [self._next("annotations") if one is None else one for one in [*known.annotations, *more]]
        if (image, notes) != (known.image, known.annotations):
            self._changed = True
            self._last = Given(key, image, [*notes])
            self._shelf.put([(key, msgspec.json.encode(self._last))])

    def image(self, key: str) -> int:
        """The id of a request's picture, which has one."""
        image = self._of(key).image
        assert image is not None, key
        return image

    def annotation(self, key: str, position: int) -> int:
        """The id of a label of a request, which has one."""
        note = self._of(key).annotations[position]
        assert note is not None, (key, position)
        return note

    def _of(self, key: str) -> Given:
        if self._last is None or self._last.key != key:
            record = self._shelf.get(key)
            self._last = Given(key, None, []) if record is None else msgspec.json.decode(record, type=Given)
        return self._last

    def _next(self, kind: str) -> int:
        self._following[kind] += 1
        return self._following[kind] - 1

    def records(self) -> Iterator[Given]:
        """All, sorted by their keys."""
        for _, record in self._shelf.items():
            yield msgspec.json.decode(record, type=Given)

    def write(self) -> None:
        """Write the file atomically, where something is new."""
        if self._changed:
            kept.write_lines(self.path, self.records(), durable=True)
            self._changed = False
        former = self.path.with_suffix(".json")
        if former.exists():
            mirror.remove(former)


def _former(path: Path) -> Iterator[Given]:
    stored = kept.read(path, _Former, _REMEDY) or _Former({}, {})
    notes: dict[str, dict[int, int]] = {key: {} for key in stored.images}
    for name, number in stored.annotations.items():
        key, _, position = name.rpartition(":")
        if not position.isdecimal():
            raise AugmentError(f"{path} is damaged ({name!r} is no label of a request): {_REMEDY}")
        notes.setdefault(key, {})[int(position)] = number
    for key, own in notes.items():
        count = max(own, default=-1) + 1
        yield Given(key, stored.images.get(key), [own.get(position) for position in range(count)])


class _Numbers:
    """Ids that were given, at eight bytes each; those beyond 64 bits, which hardly anybody has, apart."""

    def __init__(self) -> None:
        self.plain, self.large = array("q"), list[int]()

    def add(self, numbers: Iterable[int | None]) -> None:
        for number in numbers:
            if number is not None:
                try:
                    self.plain.append(number)
                except OverflowError:
                    self.large.append(number)

    def twice(self) -> int | None:
        """An id that was given twice."""
        for numbers in (self._sorted(), np.array(sorted(self.large), object)):
            same = numbers[1:][numbers[1:] == numbers[:-1]]
            if len(same):
                return int(same[0])
        return None

    def among(self, texts: Iterable[str]) -> tuple[int, set[int]]:
        """The largest number of some JSON texts, or 0, and those that were given."""
        found = self._sorted()
        least, most, seen, large = int(found[0]) if len(found) else math.inf, 0, array("q"), set(self.large)
        taken = set[int]()
        for text in texts:
            number = _number(text)
            if number is not None:
                most = max(most, number)
                if number in large:
                    taken.add(number)
                elif least <= number <= _INT64:  # few: new ids are above the originals'
                    seen.append(number)
        return most, taken | set(np.intersect1d(np.frombuffer(seen, np.int64), found).tolist())

    def most(self, without: set[int]) -> int:
        """The largest, or 0."""
        found = self._sorted()
        left = found[~np.isin(found, np.array([*without], np.int64))] if without and not self.large else found
        if without and self.large:
            return max((one for one in (*self.plain, *self.large) if one not in without), default=0)
        return max(int(left[-1]) if len(left) else 0, *self.large, 0)

    def _sorted(self) -> np.ndarray:
        return np.sort(np.frombuffer(self.plain, np.int64)) if self.plain else np.zeros(0, np.int64)


_INT64 = 2**63 - 1


def _number(key: str) -> int | None:
    """An id's JSON text as a whole number, rounded up: readers take 7.0 and 7 for the same. None for text."""
    try:
        return int(key)
    except ValueError:
        pass
    try:
        return math.ceil(float(key))
    except (ValueError, OverflowError):
        return None
