"""finalise: the merged COCO set in <workspace>/final."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache
from itertools import groupby, islice
from operator import itemgetter
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel

from lib.datasets.finalise import Made, finalise
from lib.datasets.ids import Ids
from lib.datasets.write_coco import Picture, SourceRows
from lib.records.manifest import (
    GROUP,
    Ref,
    former_batches,
    read_batches,
    read_table,
    read_tables,
    row_marks,
    to_table,
    write_batches,
)
from lib.records.requests import Outcome
from lib.records.rows import OK, FinalRow, ImageRow, ObjectRow, ReviewRow
from lib.records.settings import FinaliseSettings
from lib.records.sorting import sorted_rows
from lib.records.store import Store
from lib.screening.labels import count_verdicts, judged_labels
from tasks.artifacts import show_counts
from tasks.engine import step
from tasks.ingest import Ingested
from tasks.inputs import outcomes_of
from tasks.jobs import may_pass
from tasks.progress import advance
from tasks.run import Run
from tasks.stages import Staged

V = TypeVar("V")


class FinalJob(BaseModel):
    """The parameters of the task `finalise`."""

    workspace: str
    sources: str
    ingested: Ingested
    plan: Ref
    reviewed: Ref
    settings: FinaliseSettings
    out: str
    verify: bool = False


def finalise_dataset(run: Run, ingested: Ingested, plan: Staged, reviewed: Ref) -> Ref:
    """FinalRows; final/annotations.json is written last."""
    before = row_marks(run.manifest("finalise"), FinalRow, _SAME)
    run.progress.start("finalise", ingested.images.rows + reviewed.rows)
    ref = write_final(
        FinalJob(
            workspace=str(run.root),
            sources=str(run.sources.absolute()),
            ingested=ingested,
            plan=plan.manifest,
            reviewed=reviewed,
            settings=run.settings.finalise,
            out=str(run.manifest("finalise")),
            verify=run.verify,
        )
    )
    run.progress.finish("finalise")
    now = row_marks(ref.file, FinalRow, _SAME)
    reused = 0 if before is None or now is None else int(np.isin(now, before).sum())
    batches = read_batches(reviewed.file, ReviewRow, ("status", "boxes"))
    verdicts = count_verdicts(rows[rows.status == OK] for rows in batches)
    run.count("finalise", ref, painted=ref.rows - reused, reused=reused, **verdicts)
    show_counts(run, "finalise")
    return ref


_KNOWN = ("status", "file_name", "sha256", "size", "mtime_ns")
_SAME = ("file_name", "sha256", "mtime_ns")


@step(name="finalise", retries=2, retry_delay_seconds=5, retry_condition_fn=may_pass)
def write_final(job: FinalJob) -> Ref:
    """Write the final set. Not cached: it looks at every file, and writes what is missing or different."""
    root, known, sources = Path(job.workspace), Path(job.out), _Sources(job)
    rows = finalise(
        root / "final",
        sources,
        _Made(job, sources),
        Ids.read(root / "ids.jsonl"),
        job.settings,
        Store(root / "store"),
        former_batches(known, FinalRow, _KNOWN) if known.is_file() else None,
        lambda count: advance(job.workspace, "finalise", count),
        job.verify,
    )
    return write_batches(known, _tables(rows), FinalRow)


def _tables(rows: Iterator[FinalRow]) -> Iterator[pa.Table]:
    while some := list(islice(rows, GROUP)):
        yield to_table(some, FinalRow)


class _Sources(SourceRows):
    """The data set as it lies in its manifests."""

    def __init__(self, job: FinalJob) -> None:
        super().__init__(job.ingested.envelope.file.read_bytes(), Path(job.sources))
        self.images, self.objects = job.ingested.images.file, job.ingested.objects
        self.folder = Path(job.workspace) / "parts"

    def image_rows(self, *columns: str) -> Iterator[pd.DataFrame]:
        return read_batches(self.images, ImageRow, columns)

    def object_rows(self) -> Iterator[pd.DataFrame]:
        return read_batches(self.objects.file, ObjectRow)

    def pictures(self) -> Callable[[str], Picture]:
        rows = (row for some in self.image_rows() for row in some.itertuples(index=False))
        owned = self.in_order("key", "record")

        @_last_kept
        def picture(key: str) -> Picture:
            return next(row for row in rows if row.key == key), dict(owned(key))

        return picture

    def in_order(self, *columns: str) -> Callable[[str], list[tuple[Any, ...]]]:
        """Gives columns of a picture's objects that are ok; pictures are asked for in the order of the data set."""
        keys = read_table(self.images, ImageRow, ("key",))["key"].combine_chunks()
        wanted = (*dict.fromkeys(("status", "image_key", *columns)),)
        tables = read_tables(self.objects.file, ObjectRow, wanted, 8 * GROUP)
        usable = (table.filter(pc.equal(table["status"], OK)) for table in tables)

        def places_of(table: pa.Table) -> np.ndarray:
            return np.asarray(pc.index_in(table["image_key"], value_set=keys), np.int64)

        found = sorted_rows(usable, places_of, len(keys) + 1, self.objects.rows, self.folder, 2 * GROUP)
        rows = (row for places, table in found for row in _rows(places, table.select(columns)))
        positions = (place for place in range(len(keys)))
        groups = groupby(rows, key=itemgetter(0))
        ahead = next(groups, None)

        @_last_kept
        def of(key: str) -> list[tuple[Any, ...]]:
            nonlocal ahead
            place = next(place for place in positions if keys[place].as_py() == key)
            while ahead is not None and ahead[0] < place:
                ahead = next(groups, None)
            return [row[1:] for row in ahead[1]] if ahead is not None and ahead[0] == place else []

        return of


def _rows(places: np.ndarray, table: pa.Table) -> Iterator[tuple[Any, ...]]:
    return zip(places.tolist(), *(column.to_pylist() for column in table.columns), strict=True)


def _last_kept(function: Callable[[str], V]) -> Callable[[str], V]:
    """Keeps the last result: several rows of one picture follow each other."""
    return lru_cache(1)(function)


class _Made(Made):
    """What was painted, as it lies in the manifests of review and plan."""

    def __init__(self, job: FinalJob, sources: _Sources) -> None:
        self.reviewed_file, self.plan, self.sources = job.reviewed.file, job.plan, sources

    def rows(self) -> Iterator[pd.DataFrame]:
        for rows in read_batches(self.reviewed_file, ReviewRow, ("status", "image_key", "name")):
            yield rows[rows.status == OK]

    def outcomes(self) -> Iterator[tuple[Any, Outcome]]:
        keys = read_batches(self.reviewed_file, ReviewRow, ("key", "status"))
        planned = outcomes_of(self.plan, (key for rows in keys for key in rows.key[rows.status == OK]))
        boxes: Callable[[str], list[tuple[Any, ...]]] | None = None
        for rows in read_batches(self.reviewed_file, ReviewRow):
            for row in rows[rows.status == OK].itertuples(index=False):
                _, outcome = next(planned)
                if len(row.boxes):
                    boxes = boxes or self.sources.in_order("key", "category", *"xywh")
                    objects = {key: (category, tuple(xywh)) for key, category, *xywh in boxes(row.image_key)}
                    outcome = judged_labels(outcome, row.boxes, objects)
                yield row, outcome
