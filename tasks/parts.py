"""A stage's rows in parts, hash buckets of the pictures, so that a new picture touches one part.

parts = split_parts(run, "selected", manifest, SelectRow, only_ok=True)
places = row_places(run, parts, PlanRow)
for rows in join_parts(run, parts, PlanRow, places): ...       # in the order of the data set
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lib.core import mirror
from lib.records.manifest import GROUP, Ref, read_batches, read_table, read_tables, write_manifest
from lib.records.parts import part_count, part_name, part_number
from lib.records.rows import OK, ObjectRow, Row
from lib.records.sorting import sorted_rows
from tasks.engine import engine
from tasks.run import Work

_PART = re.compile(r"([0-9a-f]{32}|([0-9a-f]{16}-)?\d{4,}-of-\d{4,})\.(parquet|json)")  # as Job.out and `part_name`


def count_parts(rows: int) -> int:
    """Into how many parts rows are split, so that no worker of the engine is idle."""
    return part_count(rows, engine().parts)


def split_parts(
    run: Work,
    stage: str,
    rows: Ref,
    row_type: type[Row],
    by: str = "key",
    only_ok: bool = False,
    count: int | None = None,
) -> list[Ref]:
    """A manifest's rows as parts by the hash of column `by`: a new row touches one part. No rows, no parts.

    count: of parts; None: `count_parts`.
    """
    total = rows.rows
    if only_ok:
        total = sum(int((some.status == OK).sum()) for some in read_batches(rows.file, Row, ("status",)))
    if not total:
        return []
    tables = read_tables(rows.file, row_type)
    wanted = (table.filter(pc.equal(table["status"], OK)) for table in tables) if only_ok else tables
    return deal(run.root / "parts" / stage, wanted, row_type, total, count or count_parts(total), by)


def deal(
    folder: Path, tables: Iterable[pa.Table], row_type: type[Row], total: int, count: int, by: str = "key"
) -> list[Ref]:
    """Rows, about `total`, dealt out to `count` parts by the hash of column `by`; a part without rows has no file."""

    def part_of(table: pa.Table) -> np.ndarray:
        return np.array([part_number(key, count) for key in table[by].to_pylist()], np.int64)

    return [
        write_manifest(folder / part_name(number, count), part, row_type)
        for places, group in sorted_rows(tables, part_of, count, total, folder)
        for number, part in _cut(places, group)
    ]


def split_objects(run: Work, objects: Ref, least: int = 1) -> int:
    """The ObjectRows that are ok as parts, by the part of their picture among all; returns how many parts there are.

    least: a power of two; as many parts, or more.
    """
    count, folder = max(count_parts(len(run.order)), least), run.root / "parts" / "objects"

    def part_of(table: pa.Table) -> np.ndarray:
        keys = table["image_key"].combine_chunks().dictionary_encode()
        numbers = [part_number(key, count) for key in keys.dictionary.to_pylist()]
        return np.array(numbers, np.int64)[keys.indices.to_numpy()]

    tables = read_tables(objects.file, ObjectRow, size=8 * GROUP)
    usable = (table.filter(pc.equal(table["status"], OK)) for table in tables)  # their pictures are known

    def file(number: int) -> Path:
        return folder / part_name(number, count, objects.sha256)

    run.objects = {
        number: write_manifest(file(number), part, ObjectRow)
        for places, group in sorted_rows(usable, part_of, count, objects.rows, folder, 2 * GROUP)
        for number, part in _cut(places, group)
    }
    for number in set(range(count)) - run.objects.keys():
        run.objects[number] = write_manifest(file(number), [], ObjectRow)
    prune_parts(run, "objects", list(run.objects.values()))
    return count


def _cut(places: np.ndarray, rows: pa.Table) -> Iterator[tuple[int, pa.Table]]:
    """(place, its rows) of rows sorted by place."""
    starts = np.flatnonzero(np.diff(places, prepend=-1))
    for start, end in zip(starts.tolist(), [*starts[1:].tolist(), len(places)], strict=True):
        yield int(places[start]), rows.slice(start, end - start)


def join_parts(run: Work, parts: Sequence[Ref], row_type: type[Row], places: np.ndarray) -> Iterator[pa.Table]:
    """Rows of all parts, in the order of the data set, some at a time. places: of `row_places`."""
    place_of = in_turn(places)
    tables = (table for ref in parts for table in read_tables(ref.file, row_type))
    for _, rows in sorted_rows(tables, place_of, len(run.order) + 1, len(places), run.root / "parts"):
        yield rows


def texts_at(parts: Sequence[Ref], row_type: type[Row], column: str, rows: np.ndarray) -> list[str]:
    """A column of M rows by their numbers, (M,), as the rows of all parts lie there."""
    found, order = np.empty(len(rows), object), np.argsort(rows, kind="stable")
    starts = np.cumsum([0, *(ref.rows for ref in parts)])
    bounds = np.searchsorted(rows[order], starts)
    for ref, start, low, high in zip(parts, starts.tolist(), bounds.tolist(), bounds[1:].tolist(), strict=False):
        if high > low:
            some = order[low:high]
            found[some] = read_table(ref.file, row_type, (column,))[column].take(rows[some] - start).to_pylist()
    return list(found)


def row_places(run: Work, parts: Sequence[Ref], row_type: type[Row], by: str = "image_key") -> np.ndarray:
    """(N,) position of each row's picture in the data set; the rows of all parts, as they lie there. by: the column
    with the image key."""
    keys = [chunk for ref in parts for chunk in read_table(ref.file, row_type, (by,))[by].chunks]
    found = pc.index_in(pa.chunked_array(keys, pa.string()), value_set=run.order)
    return pc.fill_null(found, len(run.order)).to_numpy()


def in_turn(values: np.ndarray) -> Callable[[pa.Table], np.ndarray]:
    """Gives each table that is asked for, one after the other, the values of its rows."""
    start = 0

    def of(table: pa.Table) -> np.ndarray:
        nonlocal start
        start += len(table)
        return values[start - len(table) : start]

    return of


def prune_parts(run: Work, stage: str, keep: Sequence[Ref]) -> None:
    """Remove parts of a stage that this run did not use, and their records; folders of such names are left alone."""
    used = {ref.place for ref in keep}
    for path in (run.root / "parts" / stage).glob("*"):
        ours = _PART.fullmatch(path.name) and (path.is_symlink() or not path.is_dir())
        if ours and path.with_suffix(".parquet") not in used:
            mirror.remove(path)
