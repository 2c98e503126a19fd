"""Rows put in order, or dealt out to parts, of more than memory holds: first to files by ranges of places, then range
by range; and rows that wait in a file.

    for places, rows in sorted_rows(tables, places_of, most=len(order), total=1_000_000, folder=folder): ...
    rows = LaidRows(tables, folder)
    rows[4096:4608]                     # a DataFrame

The files are the project's temporary ones: what a killed run leaves of them the next one sweeps.
"""

from __future__ import annotations

import contextlib
import itertools
import tempfile
import weakref
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from lib.core.files import unused_path
from lib.records.manifest import GROUP, grouped

_FILES = 256  # open at once, at most; each range then holds more rows


def sorted_rows(
    tables: Iterable[pa.Table],
    places_of: Callable[[pa.Table], np.ndarray],
    most: int,
    total: int,
    folder: Path,
    size: int = GROUP,
) -> Iterator[tuple[np.ndarray, pa.Table]]:
    """(places, rows) sorted by place, rows of one place in their order; a place's rows come together.

    places_of: (N,) whole numbers, 0 to `most` - 1, of N rows; total: rows, about; size: rows that are held at once,
    about, where places have about as many rows each.
    """
    ranges = min(_FILES, most, -(-total // size))
    if ranges <= 1:
        held = [table for table in tables if len(table)]
        if held:
            yield _sorted(pa.concat_tables(held), np.concatenate([places_of(table) for table in held]))
        return
    width = -(-most // ranges)
    with _Files(folder, ranges) as files:
        for table in _gathered(tables, 4 * size):
            places = places_of(table)
            order = np.argsort(places, kind="stable")
            cuts = np.searchsorted(places[order] // width, np.arange(ranges + 1))
            for number in np.flatnonzero(np.diff(cuts)).tolist():
                chosen = order[cuts[number] : cuts[number + 1]]
                files.add(number, table.take(chosen).append_column(_PLACE, pa.array(places[chosen])))
        for rows in files.read():
            places = rows[_PLACE].to_numpy()
            yield _sorted(rows.drop_columns([_PLACE]), places)


def _gathered(tables: Iterable[pa.Table], rows: int) -> Iterator[pa.Table]:
    """The same rows in tables of so many at least, or of fewer that are large; each column in one piece."""
    held, count, size = list[pa.Table](), 0, 0
    for table in tables:
        held.append(table)
        count, size = count + len(table), size + table.nbytes
        if count >= rows or size >= _HELD:
            yield pa.concat_tables(held).combine_chunks()
            held, count, size = [], 0, 0
    if held:
        yield pa.concat_tables(held).combine_chunks()


_HELD = 2**24  # bytes; dealing them out takes several times as much
_PACKED = pa.ipc.IpcWriteOptions(compression="lz4")


class LaidRows:
    """Rows that wait in a temporary file, which has no name, once the last of them has come: to be gone through, or to
    be read where some are needed."""

    def __init__(self, tables: Iterable[pa.Table], folder: Path) -> None:
        tables, self._count = iter(tables), 0
        first = next(tables, pa.table({}))  # perhaps without rows: it says which columns there are
        file = tempfile.TemporaryFile(prefix=".tmp-", dir=folder)  # noqa: SIM115 - closed with these rows
        weakref.finalize(self, file.close)
        with pa.ipc.new_file(file, first.schema, options=_PACKED) as writer:
            for table in grouped(itertools.chain([first], tables), GROUP):
                writer.write_table(table)
                self._count += len(table)
        self._file = pa.ipc.open_file(file)

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[pa.Table]:
        return (self._piece(number) for number in range(self._file.num_record_batches))

    def __getitem__(self, some: slice) -> pd.DataFrame:
        """They keep their numbers, as those of a DataFrame do."""
        start, stop, _ = some.indices(self._count)
        first, count = start // GROUP, max(stop - start, 0)
        pieces = [self._file.schema.empty_table(), *map(self._piece, range(first, -(-(start + count) // GROUP)))]
        rows = pa.concat_tables(pieces).slice(start - first * GROUP, count).to_pandas()
        return rows.set_index(pd.RangeIndex(start, start + count))

    def _piece(self, number: int) -> pa.Table:
        return pa.Table.from_batches([self._file.get_batch(number)])


_PLACE = "\0place"


def _sorted(rows: pa.Table, places: np.ndarray) -> tuple[np.ndarray, pa.Table]:
    order = np.argsort(places, kind="stable")
    return places[order], rows.take(order)


class _Files:
    """Temporary files of Arrow's stream format; each is removed once it is read."""

    def __init__(self, folder: Path, count: int) -> None:
        self.folder, self.paths = folder, list[Path | None]([None] * count)
        self.writers: dict[int, pa.ipc.RecordBatchStreamWriter] = {}

    def __enter__(self) -> _Files:
        self.folder.mkdir(parents=True, exist_ok=True)
        return self

    def add(self, number: int, rows: pa.Table) -> None:
        if number not in self.writers:
            path = self.paths[number] = unused_path(self.folder, ".arrow")
            self.writers[number] = pa.ipc.new_stream(str(path), rows.schema)
        self.writers[number].write_table(rows)

    def read(self) -> Iterator[pa.Table]:
        """What each file holds, in the order of their numbers."""
        for writer in self.writers.values():
            writer.close()
        for number, path in enumerate(self.paths):
            if path is not None:
                with pa.OSFile(str(path)) as file, pa.ipc.open_stream(file) as stream:
                    rows = stream.read_all()
                path.unlink()
                self.paths[number] = None
                yield rows

    def __exit__(self, *_: object) -> None:
        for writer in self.writers.values():
            with contextlib.suppress(pa.ArrowException, OSError):
                writer.close()
        for path in filter(None, self.paths):
            path.unlink(missing_ok=True)
