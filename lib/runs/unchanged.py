"""Is there nothing to do? Then a run needs no server: it goes through its stages in seconds, and nobody watches it.

It is a guess, made before anything is written: where it is wrong the same stages do what is to be done.
"""

from __future__ import annotations

import contextlib
import uuid
from pathlib import Path
from typing import Any

import numpy as np

from lib.core.errors import AugmentError
from lib.datasets.formats import Dataset
from lib.datasets.ingest import stat_pictures
from lib.records import kept
from lib.records.manifest import read_manifest, read_table
from lib.records.rows import OK, ImageRow, ObjectRow
from lib.runs.account import former_account
from lib.runs.parameters import Parameters, Resolved

_OF_BOXES = ("key", "image_key", "category", "x", "y", "w", "h")


def unchanged(parameters: Parameters, settings: Resolved, data: Dataset) -> bool:
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


def _same_data(manifests: Path, settings: Resolved, data: Dataset) -> bool:
    known = read_manifest(manifests / "ingest.parquet", ImageRow, ("key", "status", "path", "size", "mtime_ns"))
    if known.key.tolist() != data.images["key"].to_pylist():
        return False
    objects = read_table(manifests / "objects.parquet", ObjectRow, _OF_BOXES)
    if not objects.equals(data.objects.select(_OF_BOXES).cast(objects.schema)):
        return False
    known = known[known.status == OK]
    now = stat_pictures(settings.dataset.images, known.path, uuid.uuid4().hex)
    return bool((now == known[["size", "mtime_ns"]].to_numpy(np.int64)).all())
