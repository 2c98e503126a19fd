"""Is there nothing to do? Then a run needs no server: it goes through its stages in seconds, and nobody watches it.

It is a guess, made before anything is written: where it is wrong the same stages do what is to be done.
"""

from __future__ import annotations

import contextlib
import itertools
import uuid
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from lib.core.errors import AugmentError
from lib.datasets.formats import Pieces
from lib.datasets.ingest import stat_pictures
from lib.records import kept
from lib.records.manifest import GROUP, grouped, read_batches, read_tables
from lib.records.rows import OK, ImageRow, ObjectRow
from lib.runs.account import former_account
from lib.runs.parameters import Parameters, Resolved

_OF_BOXES = ("key", "image_key", "category", "x", "y", "w", "h")


def unchanged(parameters: Parameters, settings: Resolved, data: Pieces) -> bool:
    """Did the last run of the workspace end well, with these settings and this data set, all pictures as they are now?

    data: as its annotations describe it. Pictures are compared by size and time. Nothing is read of the store.
    """
    root = settings.workspace.absolute()
    if parameters.verify or former_account(root).get("state") != "completed":
        return False
    if not (root / "final" / "annotations.json").is_file():
        return False
    with contextlib.suppress(AugmentError, OSError, ValueError):
        before = kept.read(root / "settings.json", dict[str, Any]) or {}
        before.pop("engine", None)  # wherever the work was done, it is done
        return before == settings.model_dump(mode="json", exclude={"engine"}) and _same_data(
            root / "manifests", settings, data
        )
    return False


def _same_data(manifests: Path, settings: Resolved, data: Pieces) -> bool:
    images, objects = manifests / "ingest.parquet", manifests / "objects.parquet"
    if not _same_rows(read_tables(images, ImageRow, ("key",)), data.images):
        return False
    if not _same_rows(read_tables(objects, ObjectRow, _OF_BOXES), data.objects):
        return False
    this_time = uuid.uuid4().hex
    for rows in read_batches(images, ImageRow, ("status", "path", "size", "mtime_ns")):
        rows = rows[rows.status == OK]
        now = stat_pictures(settings.dataset.images, rows.path, this_time)
        if (now != rows[["size", "mtime_ns"]].to_numpy(np.int64)).any():
            return False
    return True


def _same_rows(before: Iterable[pa.Table], now: Iterable[pa.Table]) -> bool:
    """Are they the same rows, in the columns of `before`?"""
    pairs = itertools.zip_longest(grouped(before, GROUP), grouped(now, GROUP))
    return all(
        known is not None and seen is not None and known.equals(seen.select(known.column_names).cast(known.schema))
        for known, seen in pairs
    )
