"""Parquet manifests: written last and by rename, so that existence means complete; digests checked on reading.

ref = write_manifest(path, rows, PlanRow)      # rows: DataFrame, pa.Table or list of PlanRow
plan = read_manifest(path, PlanRow)            # DataFrame
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel

from lib.core.errors import AugmentError
from lib.core.files import atomic_path, file_digest
from lib.records.rows import Row, arrow_schema


class Ref(BaseModel):
    """A file, and the rows and bytes that it must hold: the small value that stages hand to each other."""

    path: str
    rows: int
    sha256: str

    @property
    def file(self) -> Path:
        return Path(self.path)

    def intact(self) -> bool:
        """Does the file still exist, with these bytes?"""
        return self.file.is_file() and file_digest(self.file) == self.sha256


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


def write_manifest(path: Path, rows: pd.DataFrame | pa.Table | Sequence[Row], row_type: type[Row]) -> Ref:
    """Write rows as Parquet by rename. Equal rows give equal bytes."""
    table = to_table(rows, row_type)
    with atomic_path(path) as temporary:
        pq.write_table(table, temporary, compression="zstd", compression_level=1, write_page_checksum=True)
        sha256 = file_digest(temporary)
    return Ref(path=str(path), rows=table.num_rows, sha256=sha256)


def read_table(path: Path, row_type: type[Row], columns: Sequence[str] | None = None) -> pa.Table:
    """Read a manifest, or some columns of it.

    Raises AugmentError where the file is missing, is not a Parquet file, is damaged, or has other columns than the
    row type.
    """
    try:
        # One file: pq.read_table would look for a data set of several, which takes as long as to read it.
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            table = file.read(columns=list(columns) if columns else None)
    except FileNotFoundError:
        stage = path.stem
        raise AugmentError(f"{path} not found: stage {stage!r} writes it; run the flow up to there first") from None
    except (pa.ArrowException, OSError, ValueError, LookupError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # a fault of the storage, which may pass
            raise
        raise AugmentError(f"{path} cannot be read as Parquet ({error}): delete it and run again") from None
    expected = arrow_schema(row_type)
    if columns:
        expected = pa.schema([expected.field(name) for name in columns])
    if not table.schema.equals(expected):
        raise AugmentError(
            f"{path} has other columns than {row_type.__name__}:\n  found    {_columns(table.schema)}\n"
            f"  expected {_columns(expected)}\ndelete it and run again"
        )
    return table.cast(expected)  # without the file's metadata for pandas, which pandas would follow


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


def _columns(schema: pa.Schema) -> str:
    """Names and types of the columns, for an error."""
    try:
        return ", ".join(f"{f.name}:{f.type}" for f in schema)
    except UnicodeDecodeError:
        return "names that are not UTF-8"
