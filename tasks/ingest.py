"""ingest: annotations and pictures in; every record and every file accounted for."""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel

from lib.core.errors import AugmentError
from lib.core.files import atomic_write, file_digest
from lib.core.mirror import settle
from lib.core.places import path_of, shown
from lib.datasets.formats import categories_of, store_dataset
from lib.datasets.ingest import changed_sources, check_pictures, settled_objects
from lib.records.manifest import (
    GROUP,
    Ref,
    former_batches,
    former_manifest,
    hashed,
    read_batches,
    read_table,
    read_tables,
    write_batches,
)
from lib.records.outputs import check_sources
from lib.records.rows import CaptionRow, FinalRow, ImageRow, ObjectRow, PictureRow, PlanRow, Row, ScreenRow
from lib.records.settings import DatasetSettings
from tasks.artifacts import show_counts
from tasks.engine import kept, step
from tasks.inputs import Boxes, forget_sources
from tasks.jobs import Job, make_job
from tasks.parts import join_parts, prune_parts, row_places, split_objects, split_parts
from tasks.run import Work
from tasks.stages import Stage, run_jobs

VERSION = 1


_STATE = ("status", "reason", "detail", "path", "digest", "frame", "width", "height", "size", "mtime_ns")
_SETTLED = ("key", "status", "reason", "width", "height")
_PIECE = 8 * GROUP  # objects held at once


class Ingested(BaseModel):
    """What the later stages read."""

    images: Ref
    objects: Boxes
    envelope: Ref

    @property
    def categories(self) -> set[str]:
        """Names of the data set's categories."""
        return set(categories_of(self.envelope.file.read_bytes()))


def ingest_dataset(run: Work) -> Ingested:
    """Read the annotations, check every picture (again only where size or time changed), settle the boxes."""
    forget_sources()
    annotated = read_annotations(run.dataset, str(run.root / "annotated"))
    run.order = read_table(annotated.images.file, ImageRow, ("key",))["key"].combine_chunks()
    last = run.manifest("ingest")
    before = _read_files(last)
    run.progress.start("ingest", len(run.order))
    parts = split_parts(run, "annotated", annotated.images, ImageRow)
    known = Ref(path=shown(last), rows=0, sha256=file_digest(last)).model_dump() if before is not None else None
    doubted = None if run.verify else _doubted(run)
    where = {"known": known, "max_pixels": run.dataset.max_pixels, "doubted": doubted, "when": uuid.uuid4().hex}
    jobs = [make_job(run, "ingest", VERSION, {"images": part}, where=where) for part in parts]
    stage = Stage(check_part, ImageRow, ("images", ImageRow), by="key", valid=lambda part: False)
    checked = [ref for ref, _ in run_jobs(jobs, stage)]
    run.progress.finish("ingest")
    ref = write_batches(last, join_parts(run, checked, ImageRow, row_places(run, checked, ImageRow, "key")), ImageRow)
    boxes = _settle(run, ref, annotated.objects)
    prune_parts(run, "ingest", checked)
    prune_parts(run, "annotated", parts)
    now = _read_files(last)
    reused = 0 if before is None or now is None else int(np.isin(now, before).sum())
    run.count("ingest", ref, painted=ref.rows - reused, reused=reused)
    run.count("objects", boxes, painted=0, reused=0)
    show_counts(run, "ingest")
    return Ingested(images=ref, objects=boxes, envelope=annotated.envelope)


def _settle(run: Work, images: Ref, objects: Ref) -> Boxes:
    """The manifest of objects, and those that are ok in parts, as their pictures lie in parts."""
    narrow = read_table(images.file, ImageRow, _SETTLED).to_pandas()
    tables = read_tables(objects.file, ObjectRow, size=_PIECE)
    ref = write_batches(run.manifest("objects"), settled_objects(narrow, tables), ObjectRow)
    del narrow
    parts = split_objects(run, ref)
    return Boxes(**ref.model_dump(), parts=parts)


def _read_files(manifest: Path) -> np.ndarray | None:
    """(N,) uint64: a hash of path, size and time of each picture that was read; None where no run was before."""
    try:
        tables = read_batches(manifest, ImageRow, ("path", "size", "mtime_ns")) if manifest.is_file() else None
        if tables is None:
            return None
        return np.concatenate([np.zeros(0, np.uint64), *(hashed(rows[rows.mtime_ns >= 0]) for rows in tables)])
    except AugmentError:
        return None


def _doubted(run: Work) -> list[str]:
    """Digests of pictures that a later stage of the last run found changed: their size and time prove nothing."""
    pictures: list[str] = []
    requests: list[str] = []
    for stage, row_type in _FINDERS.items():
        for rows in former_batches(run.manifest(stage), row_type, ("key", "reason")):
            keys = rows.key[rows.reason == "image_changed"].tolist()
            pictures += [key.removeprefix("original:") for key in keys]
            requests += [key.removeprefix("synthetic:") for key in keys]
    if not requests:
        return []

    def of(stage: str, row_type: type[Row], keys: list[str], column: str) -> pd.DataFrame:
        batches = former_batches(run.manifest(stage), row_type, ("key", column))
        none = pd.DataFrame({"key": [], column: []}, dtype=object)
        return pd.concat([none, *(rows[rows.key.isin(set(keys))] for rows in batches)])

    images, plan = of("ingest", ImageRow, pictures, "digest"), of("plan", PlanRow, requests, "request")
    return sorted(changed_sources(images, plan, pictures, requests))


_FINDERS: dict[str, type[Row]] = {
    "caption": CaptionRow,
    "generate": PictureRow,
    "screen": ScreenRow,
    "finalise": FinalRow,
}


@step(name="read annotations")
def read_annotations(dataset: DatasetSettings, folder: str) -> Ingested:
    """Rows of the annotations, and the source's other top-level keys, as files in `folder`."""
    types: dict[str, type[Row]] = {"images": ImageRow, "objects": ObjectRow}

    def write(name: str, tables: Iterable[pa.Table]) -> Ref:
        ref = write_batches(Path(folder) / f"{name}.parquet", tables, types[name])
        if name == "images":
            paths = (path for rows in read_batches(ref.file, ImageRow, ("path",)) for path in rows.path)
            check_sources(Path(folder).parent, dataset.images, paths)
        return ref

    images, objects, envelope = store_dataset(dataset, write)
    file = Path(folder) / "dataset.json"
    atomic_write(file, envelope)
    return Ingested(
        images=images,
        objects=Boxes(**objects.model_dump(), parts=0),
        envelope=Ref(path=shown(file), rows=0, sha256=file_digest(file)),
    )


@step(name="ingest", task_run_name="ingest-{job.label}")
def check_part(job: Job) -> Ref:
    """Check the pictures of one part. Not cached: whether a file changed is known only from the file."""
    doubted, images, known = job.where["doubted"], job.read("images", ImageRow), None
    if doubted is not None:
        known = former_manifest(job.out, ImageRow)  # of the same rows; else whatever rows had these files
        known = _known(images.path, job.where["known"]) if known is None else known
        known = None if known is None else known[~known.digest.isin(doubted)]
    rows = check_pictures(
        images,
        path_of(job.sources),
        job.where["max_pixels"],
        known,
        job.advance,
        when=job.where["when"],
    )
    ref = job.write(rows, ImageRow)
    settle(ref.place)
    return ref


def _known(paths: pd.Series, manifest: dict[str, Any] | None) -> pd.DataFrame | None:
    """The last run's rows of some files."""
    rows = None if manifest is None else _last_run(Ref.model_validate(manifest))
    return None if rows is None else rows.filter(pc.is_in(rows["path"], pa.array(paths, pa.string()))).to_pandas()


@kept(1)
def _last_run(manifest: Ref) -> pa.Table | None:
    """The last run's manifest without records, read once for all parts that need it."""
    try:
        return read_table(manifest.file, ImageRow, _STATE)
    except AugmentError:
        return None
