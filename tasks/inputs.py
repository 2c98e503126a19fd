"""What many jobs of a run read repeatedly: kept per process, by path and digest."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel

from lib.core.errors import AugmentError
from lib.core.files import digest
from lib.core.images import Load, source_loader
from lib.core.mirror import here
from lib.core.places import path_of
from lib.planning.donor_pool import DonorPool, outside_of
from lib.planning.recipe import Recipe
from lib.planning.statistics import Statistics, Survey, rows_drawn_from
from lib.records.manifest import GROUP, Ref, read_batches, read_manifest, read_tables, to_table
from lib.records.parts import part_name, part_number
from lib.records.requests import Outcome, parsed
from lib.records.rows import OK, ImageRow, ObjectRow, PlanRow
from lib.records.sorting import sorted_rows
from lib.screening.labels import judged_labels
from tasks.engine import kept


class Boxes(Ref):
    """The manifest of ObjectRows, and the number of parts in which those that are ok lie by their picture."""

    parts: int

    def part(self, number: int) -> Path:
        """The file of a part; of a bucket it is brought. It has the manifest's digest in its name."""
        return here(self.place.parents[1] / "parts" / "objects" / part_name(number, self.parts, self.sha256))


def sources_of(images: Ref, folder: str) -> Load:
    """A loader of source pictures by digest. folder: theirs, or its URL."""
    return _loader(images, folder)


def forget_sources() -> None:
    """Let go of decoded pictures, which an earlier run of this process may have kept: their files may have changed."""
    _loader.cache_clear()  # type: ignore[attr-defined]


def frames_of(images: Ref, image_keys: pd.Series) -> dict[str, tuple[str, str]]:
    """Image key → (digest, frame) of some pictures: what a loader needs."""
    rows = _pictures(images).rows(image_keys.unique())
    return {key: (digest, frame) for key, digest, frame in rows}


class _Pictures:
    """The pictures of a data set that were read, at some 150 bytes each."""

    def __init__(self, images: Ref) -> None:
        names = ("key", "digest", "frame", "path")
        tables = read_tables(images.file, ImageRow, names)
        self.table = _whole((rows.filter(pc.not_equal(rows["digest"], "")) for rows in tables), names)
        self.places, self.paths = _Places(self.table["key"]), _Column(self.table, "digest", "path")

    def rows(self, keys: Iterable[str]) -> Iterator[tuple[str, str, str]]:
        """(key, digest, frame) of those that were read."""
        for key in keys:
            if (place := self.places.of(key)) is not None:
                yield key, self.table["digest"][place].as_py(), self.table["frame"][place].as_py()


def _whole(tables: Iterable[pa.Table], names: Sequence[str]) -> pa.Table:
    """Columns of ImageRows in one piece."""
    held = [to_table([], ImageRow).select(names), *tables]
    table = pa.concat_tables(held).combine_chunks()
    del held
    pa.default_memory_pool().release_unused()  # several times as much, which it would keep for later
    return table


class _Column(Mapping[str, Any]):
    """The values of a column by the texts of another."""

    def __init__(self, table: pa.Table, by: str, column: str) -> None:
        self.table, self.by, self.column = table, by, column
        self.places = _Places(table[by])

    def __getitem__(self, text: str) -> Any:
        place = self.places.of(text)
        if place is None:
            raise KeyError(text)
        return self.table[self.column][place].as_py()

    def __iter__(self) -> Iterator[str]:
        return iter(self.table[self.by].to_pylist())

    def __len__(self) -> int:
        return len(self.table)


class _Places:
    """Row numbers by a text: of equal texts the last row's."""

    def __init__(self, texts: pa.ChunkedArray) -> None:
        self.texts = texts
        pieces = (texts.slice(start, GROUP) for start in range(0, len(texts), GROUP))  # each text an object meanwhile
        hashes = [_hashes(piece.to_numpy()) for piece in pieces]
        found = np.concatenate([np.zeros(0, np.uint64), *hashes])
        self.order = np.argsort(found, kind="stable").astype(np.int32)
        self.hashes = found[self.order]

    def of(self, text: str) -> int | None:
        wanted = _hashes(np.array([text], object))[0]
        start, end = (int(np.searchsorted(self.hashes, wanted, side)) for side in ("left", "right"))
        return next(
            (place for place in self.order[start:end][::-1].tolist() if self.texts[place].as_py() == text), None
        )


def _hashes(texts: np.ndarray) -> np.ndarray:
    return pd.util.hash_array(texts, categorize=False)  # hardly one is there twice


@kept(2)
def _pictures(images: Ref) -> _Pictures:
    return _Pictures(images)


@kept(2)
def records_of(images: Ref) -> Mapping[str, bytes]:
    """Image key → the picture's record, at its own length and some 30 bytes each."""
    names = ("key", "record")
    return _Column(_whole(read_tables(images.file, ImageRow, names), names), "key", "record")


@kept(2)
def _loader(images: Ref, folder: str) -> Load:
    return source_loader(_pictures(images).paths, path_of(folder))


def usable_objects(objects: Boxes, image_keys: pd.Series) -> pd.DataFrame:
    """The ObjectRows that are ok of some pictures, in the order of these."""
    numbers = {key: part_number(key, objects.parts) for key in image_keys}
    parts = {number: _part(objects, number) for number in sorted(set(numbers.values()))}
    frames = [rows for rows, _ in parts.values()] or [to_table([], ObjectRow).to_pandas()]
    starts = dict(zip(parts, np.cumsum([0, *map(len, frames)]).tolist(), strict=False))
    places = [parts[number][1].get(key, _NONE) + starts[number] for key, number in numbers.items()]
    rows = frames[0] if len(frames) == 1 else pd.concat(frames, ignore_index=True)
    return rows.iloc[np.concatenate([_NONE, *places])]


_NONE = np.zeros(0, np.int64)


@kept(16)
def _part(objects: Boxes, number: int) -> tuple[pd.DataFrame, Mapping[str, Any]]:
    """Objects of a part, and their places by picture."""
    rows = read_manifest(objects.part(number), ObjectRow)
    return rows, rows.groupby("image_key", sort=False).indices


def boxes_digest(objects: Boxes, image_keys: pd.Series) -> str:
    """Digest of the labelled boxes of some source pictures, as they are drawn."""
    rows = usable_objects(objects, image_keys.drop_duplicates())[["key", "category", "x", "y", "w", "h"]]
    return digest(pd.util.hash_pandas_object(rows, index=False).to_numpy().tobytes())


@kept(2)
def donors_of(objects: Boxes, images: Ref, split: str) -> DonorPool:
    """All objects of a split that may be cut out and pasted."""
    outside = outside_of(read_batches(images.file, ImageRow, ("split", "group")), split)
    return DonorPool.of_parts(by_picture(objects, images), split, outside, objects.place.parent)


def by_picture(objects: Boxes, images: Ref) -> Iterator[tuple[pd.DataFrame, pd.DataFrame]]:
    """ObjectRows that are ok and ImageRows, of each some pictures with all their objects."""

    def part_of(table: pa.Table) -> np.ndarray:
        return np.array([part_number(key, objects.parts) for key in table["key"].to_pylist()], np.int64)

    pictures = read_tables(images.file, ImageRow, _OF_PICTURES)
    total = sum(len(table) for table in read_tables(images.file, ImageRow, ("status",)))
    for places, rows in sorted_rows(pictures, part_of, objects.parts, total, objects.place.parent):
        for number in np.unique(places).tolist():
            yield read_manifest(objects.part(number), ObjectRow), rows.filter(places == number).to_pandas()


_OF_PICTURES = ("key", "status", "split", "group", "digest", "frame", "width", "height")


def survey_of(
    objects: Boxes, images: Ref, root: Path, split: str, categories: Collection[str], pins: bool = True
) -> Survey:
    """The statistics of a data set with these categories, pinned in the workspace at `root`; donors: `donors_of`."""

    def rows(_: Collection[str]) -> tuple[pd.DataFrame, pd.DataFrame]:
        return rows_drawn_from(by_picture(objects, images), split)

    return Survey(root, split, categories, rows, pins)


def statistics_of(
    objects: Boxes,
    images: Ref,
    root: Path,
    split: str,
    categories: Collection[str],
    recipe: Recipe,
    wanted: Collection[str] | None = None,
    pins: bool = False,
) -> Statistics:
    """What a plan draws from. categories, pins: as `survey_of`; wanted: as Survey.statistics."""
    statistics = survey_of(objects, images, root, split, categories, pins).statistics(recipe, wanted)
    return replace(statistics, donors=donors_of(objects, images, split)) if recipe.needs_donors else statistics


def boxes_of(objects: Boxes, image_keys: pd.Series) -> dict[str, tuple[str, tuple[float, float, float, float]]]:
    """Annotation key → (category, xywh pixels), of those of some pictures that are ok."""
    rows = usable_objects(objects, image_keys.drop_duplicates())
    boxes = zip(rows.x, rows.y, rows.w, rows.h, strict=True)
    return dict(zip(rows.key, zip(rows.category, boxes, strict=True), strict=True))


class Requests(BaseModel):
    """Parts of a plan, among which the requests of some pictures are."""

    parts: list[Ref]

    def outcomes(self, keys: Iterable[str]) -> dict[str, Outcome]:
        """What requests end in, by key."""
        known = [_requests(part) for part in self.parts]
        return {key: parsed(Outcome, next(some[key] for some in known if key in some)) for key in keys}


@kept(16)
def _requests(part: Ref) -> dict[str, bytes]:
    rows = read_manifest(part.file, PlanRow, ("key", "status", "request"))
    rows = rows[rows.status == OK]
    return dict(zip(rows.key, rows.request, strict=True))


def requests_by_part(plan: Sequence[Ref], planned: int, count: int) -> Callable[[int], Requests]:
    """Gives the parts of a plan that the pictures of part `number`, of `count`, may have their requests in.

    planned: parts that the pictures lay in when they were planned.
    """
    found: dict[int, list[Ref]] = {}
    least = min(planned, count)  # both are powers of two: the pictures of a part are together in fewer parts, too
    for part in plan:
        first = next(read_tables(part.file, PlanRow, ("image_key",), 1), None)
        if first is not None:
            found.setdefault(part_number(first["image_key"][0].as_py(), least), []).append(part)
    return lambda number: Requests(parts=found.get(number % least, []))


def outcomes_of(plan: Ref, keys: Iterable[str]) -> Iterator[tuple[str, Outcome]]:
    """What requests end in, by key, of PlanRows that are ok; keys in the order of the manifest.

    Raises AugmentError for a key that is not there.
    """
    batches = read_tables(plan.file, PlanRow, ("key", "status", "request"))
    rows = (row for table in batches for row in zip(*(column.to_pylist() for column in table.columns), strict=True))
    for wanted in keys:
        request = next((request for key, status, request in rows if key == wanted and status == OK), None)
        if request is None:
            raise AugmentError(f"{plan.file} has no request {wanted}: remove it, and run again")
        yield wanted, parsed(Outcome, request)


def outcomes_in_turn(plan: Ref) -> Callable[[Collection[str]], dict[str, Outcome]]:
    """Gives `outcomes_of` some keys at a time, those of all times in the order of the manifest, which is read once."""
    asked = deque[str]()
    found = outcomes_of(plan, iter(asked.popleft, None))

    def of(keys: Collection[str]) -> dict[str, Outcome]:
        asked.extend(keys)
        return dict(islice(found, len(keys)))

    return of


def judged_outcomes(outcomes: Mapping[str, Outcome], rows: pd.DataFrame, objects: Boxes) -> dict[str, Outcome]:
    """Outcomes of ScreenRows or ReviewRows, their labels as the judge of boxes left them."""
    if not rows.boxes.map(len).any():
        return {key: outcomes[key] for key in rows.key}
    boxes = boxes_of(objects, rows.image_key)
    return {
        key: judged_labels(outcomes[key], verdicts, boxes) for key, verdicts in zip(rows.key, rows.boxes, strict=True)
    }
