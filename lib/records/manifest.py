"""Parquet manifests: written last and by rename, so that existence means complete; digests checked on reading.

ref = write_manifest(path, rows, PlanRow)      # rows: DataFrame, pa.Table or list of PlanRow
plan = read_manifest(path, PlanRow)            # DataFrame
ref = write_batches(path, tables, PlanRow)     # the same file, of which no more than a row group is held at once
for rows in read_batches(path, PlanRow, ("key", "status")): ...
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict

from lib.core.errors import AugmentError
from lib.core.files import atomic_path, file_digest
from lib.core.mirror import brought
from lib.core.places import is_url, path_of, shown
from lib.records.rows import Row, arrow_schema

GROUP = 8192  # rows of a row group, and those that are held at once: of plans, the largest, 30 MB or so


class Ref(BaseModel):
    """A file, and the rows and bytes that it must hold: the small value that stages hand to each other."""

    model_config = ConfigDict(frozen=True)

    path: str  # in a bucket its URL: each machine has a working copy of its own
    rows: int
    sha256: str

    @property
    def place(self) -> Path:
        """Where the file lies on this machine, whether it is there or not."""
        return path_of(self.path)

    @property
    def file(self) -> Path:
        """The file; of a bucket once it is here with these bytes. Raises AugmentError where the bucket lacks them."""
        if is_url(self.path) and not self.intact():
            raise AugmentError(
                f"{self.path} is not there, or has other bytes than it was written with: see that no other run writes "
                "into this workspace, and run again"
            )
        return self.place

    def intact(self) -> bool:
        """Does the file still exist, with these bytes? One of a bucket is brought where it does not."""
        if is_url(self.path):
            return brought(self.place, self.sha256)
        return self.place.is_file() and file_digest(self.place) == self.sha256


def to_table(rows: pd.DataFrame | pa.Table | Sequence[Row], row_type: type[Row]) -> pa.Table:
    """Rows in any of the three forms as a table of exactly the row type's schema."""
    schema = arrow_schema(row_type)
    if isinstance(rows, pa.Table):
        return rows.select(schema.names).cast(schema)
    if isinstance(rows, pd.DataFrame):
        table = pa.Table.from_pandas(rows[schema.names], schema=schema, preserve_index=False)
        return table.replace_schema_metadata(None)
    columns = ([getattr(row, name) for row in rows] for name in schema.names)  # astuple would copy every value deeply
    return pa.table([pa.array(c, t.type) for c, t in zip(columns, schema, strict=True)], schema=schema)


def write_manifest(
    path: Path, rows: pd.DataFrame | pa.Table | Sequence[Row], row_type: type[Row], note: bytes = b""
) -> Ref:
    """Write rows as Parquet by rename. Equal rows give equal bytes. note: kept with them, for `note_of`."""
    return write_batches(path, [to_table(rows, row_type)], row_type, note)


def write_batches(path: Path, tables: Iterable[pa.Table], row_type: type[Row], note: bytes = b"") -> Ref:
    """`write_manifest` of rows that come piece by piece: the same bytes, however they are cut."""
    count, schema = 0, arrow_schema(row_type)
    with atomic_path(path) as temporary:
        with pq.ParquetWriter(
            temporary,
            schema.with_metadata({_NOTE: note} if note else None),
            compression="zstd",
            compression_level=1,
            write_page_checksum=True,
        ) as writer:
            for table in grouped(tables, GROUP):
                writer.write_table(to_table(table, row_type), row_group_size=GROUP)
                count += len(table)
            if not count:
                writer.write_table(schema.empty_table(), row_group_size=GROUP)
        sha256 = file_digest(temporary)
    return Ref(path=shown(path), rows=count, sha256=sha256)


_NOTE = b"augment"


def note_of(path: Path) -> bytes:
    """What `write_manifest` kept with the rows; empty where that was nothing, or the file cannot be read."""
    try:
        return (pq.read_schema(path).metadata or {}).get(_NOTE, b"")
    except (pa.ArrowException, OSError):
        return b""


def grouped(tables: Iterable[pa.Table], size: int) -> Iterator[pa.Table]:
    """The same rows in tables of `size` rows, the last perhaps of fewer, each column in one piece."""
    held: list[pa.Table] = []
    count = 0
    for table in tables:
        while count + len(table) >= size:
            yield pa.concat_tables([*held, table.slice(0, size - count)]).combine_chunks()
            table, held, count = table.slice(size - count), [], 0
        if len(table):
            held.append(table)
            count += len(table)
    if held:
        yield pa.concat_tables(held).combine_chunks()


def read_table(path: Path, row_type: type[Row], columns: Sequence[str] | None = None) -> pa.Table:
    """Read a manifest, or some columns of it.

    Raises AugmentError where the file is missing, is not a Parquet file, is damaged, or has other columns than the
    row type.
    """
    # One file: pq.read_table would look for a data set of several, which takes as long as to read it.
    with _readable(path), pq.ParquetFile(path, page_checksum_verification=True) as file:
        table = file.read(columns=list(columns) if columns else None)
    return _typed(path, table, row_type, columns)


def read_tables(
    path: Path, row_type: type[Row], columns: Sequence[str] | None = None, size: int = GROUP
) -> Iterator[pa.Table]:
    """`read_table` in pieces of up to `size` rows, each held alone; with the same errors."""
    with _readable(path):
        file = pq.ParquetFile(path, page_checksum_verification=True, pre_buffer=False)
    with file:
        names = list(columns) if columns else None
        _typed(path, _empty(file.schema_arrow, names), row_type, columns)
        batches = file.iter_batches(size, columns=names, use_threads=False)
        while True:
            with _readable(path):
                batch = next(batches, None)
            if batch is None:
                return
            yield _typed(path, pa.table(batch), row_type, columns)


def read_batches(
    path: Path, row_type: type[Row], columns: Sequence[str] | None = None, size: int = GROUP
) -> Iterator[pd.DataFrame]:
    """`read_tables` as DataFrames."""
    for table in read_tables(path, row_type, columns, size):
        with _readable(path):
            rows = table.to_pandas()
        yield rows


def _empty(schema: pa.Schema, names: list[str] | None) -> pa.Table:
    """No rows of a file's columns, those of these names where some are given."""
    return pa.schema([field for field in schema if names is None or field.name in names]).empty_table()


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Around reading a manifest: one error for whatever is wrong with it."""
    try:
        yield
    except FileNotFoundError:
        stage = path.stem
        raise AugmentError(f"{path} not found: stage {stage!r} writes it; run the flow up to there first") from None
    except (pa.ArrowException, OSError, ValueError, LookupError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # a fault of the storage, which may pass
            raise
        raise AugmentError(f"{path} cannot be read as Parquet ({error}): delete it and run again") from None


def _typed(path: Path, table: pa.Table, row_type: type[Row], columns: Sequence[str] | None) -> pa.Table:
    """A table without its file's metadata for pandas, which pandas would follow; AugmentError for other columns."""
    expected = arrow_schema(row_type)
    if columns:
        expected = pa.schema([expected.field(name) for name in columns])
        table = table.select([name for name in columns if name in table.schema.names])
    if not table.schema.equals(expected):
        raise AugmentError(
            f"{path} has other columns than {row_type.__name__}:\n  found    {_columns(table.schema)}\n"
            f"  expected {_columns(expected)}\ndelete it and run again"
        )
    return table.cast(expected)


def read_manifest(path: Path, row_type: type[Row], columns: Sequence[str] | None = None) -> pd.DataFrame:
    """`read_table` as a DataFrame, with the same errors."""
    table = read_table(path, row_type, columns)
    try:
        return table.to_pandas()
    except (pa.ArrowException, ValueError) as error:  # texts that are not UTF-8
        raise AugmentError(f"{path} is damaged ({error}): delete it and run again") from None


def former_manifest(path: Path, row_type: type[Row], columns: Sequence[str] | None = None) -> pd.DataFrame | None:
    """What an earlier run wrote; None where none did, or one of another version, with other columns."""
    try:
        return read_manifest(path, row_type, columns) if path.is_file() else None
    except AugmentError:
        return None


def former_batches(path: Path, row_type: type[Row], columns: Sequence[str]) -> Iterator[pd.DataFrame]:
    """`former_manifest` some rows at a time; none where there is no such manifest."""
    if path.is_file():
        with contextlib.suppress(AugmentError):
            yield from read_batches(path, row_type, columns)


def row_marks(path: Path, row_type: type[Row], columns: Sequence[str] | None = None) -> np.ndarray | None:
    """(N,) uint64: a hash of each row's columns, by which many rows are compared in little memory; None where no such
    manifest is there. Bytes are left out where no columns are named: they are records, and requests, whose digest is
    the key."""
    fields = [field for field in arrow_schema(row_type) if field.type != pa.large_binary()]
    names = list(columns) if columns else [field.name for field in fields]
    if not path.is_file():
        return None
    try:
        found = [hashed(rows) for rows in read_batches(path, row_type, names)]
    except AugmentError:
        return None
    return np.concatenate([np.zeros(0, np.uint64), *found])


def hashed(rows: pd.DataFrame) -> np.ndarray:
    """(N,) uint64: a hash of each row; lists of texts count as their texts."""
    lists = [name for name in rows if len(rows) and isinstance(rows[name].iloc[0], np.ndarray)]
    plain = rows.assign(**{name: rows[name].map("\0".join) for name in lists})
    return np.asarray(pd.util.hash_pandas_object(plain, index=False), np.uint64)


def _columns(schema: pa.Schema) -> str:
    """Names and types of the columns, for an error."""
    try:
        return ", ".join(f"{f.name}:{f.type}" for f in schema)
    except UnicodeDecodeError:
        return "names that are not UTF-8"
