"""ingest: annotations and pictures in; every record and every file accounted for."""

from __future__ import annotations

import uuid
from pathlib import Path

import pandas as pd
from pydantic import BaseModel

from lib.core.files import atomic_write, file_digest
from lib.datasets.formats import categories_of, read_dataset
from lib.datasets.ingest import changed_sources, check_pictures, settle_objects
from lib.records.manifest import Ref, former_manifest, read_manifest, read_table, write_manifest
from lib.records.outputs import check_sources
from lib.records.rows import CaptionRow, FinalRow, ImageRow, ObjectRow, PictureRow, PlanRow, Row, ScreenRow
from lib.records.settings import DatasetSettings
from tasks.artifacts import show_counts
from tasks.engine import kept, step
from tasks.jobs import Job, join_parts, make_job, prune_parts, split_parts
from tasks.run import Work

VERSION = 1


class Ingested(BaseModel):
    """What the later stages read."""

    images: Ref
    objects: Ref
    envelope: Ref

    @property
    def categories(self) -> set[str]:
        """Names of the data set's categories."""
        return set(categories_of(self.envelope.file.read_bytes()))


def ingest_dataset(run: Work) -> Ingested:
    """Read the annotations, check every picture (again only where size or time changed), settle the boxes."""
    annotated = read_annotations(run.dataset, str(run.root / "annotated"))
    images = read_manifest(annotated.images.file, ImageRow)
    run.order = {key: position for position, key in enumerate(images.key)}
    last = run.manifest("ingest")
    before = former_manifest(last, ImageRow)
    run.progress.start("ingest", len(images))
    parts = split_parts(run, "annotated", images, ImageRow)
    known = {"path": str(last), "sha256": file_digest(last) if before is not None else ""}
    doubted = None if run.verify else _doubted(run, before)
    where = {"known": known, "max_pixels": run.dataset.max_pixels, "doubted": doubted, "when": uuid.uuid4().hex}
    jobs = [make_job(run, "ingest", VERSION, {"images": part}, where=where) for part in parts]
    checked = [future.result() for future in [check_part.submit(job) for job in jobs]]
    run.progress.finish("ingest")
    rows = join_parts(run, checked, ImageRow, by="key")
    settled = settle_objects(rows, read_table(annotated.objects.file, ObjectRow))
    ref = write_manifest(run.manifest("ingest"), rows, ImageRow)
    boxes = write_manifest(run.manifest("objects"), settled, ObjectRow)
    prune_parts(run, "ingest", checked)
    prune_parts(run, "annotated", parts)
    reused = _reused(rows, before)
    run.count("ingest", rows, painted=len(rows) - reused, reused=reused)
    run.count("objects", settled.select(["status", "reason"]).to_pandas(), painted=0, reused=0)
    show_counts(run, "ingest")
    return Ingested(images=ref, objects=boxes, envelope=annotated.envelope)


def _doubted(run: Work, before: pd.DataFrame | None) -> list[str]:
    """Digests of pictures that a later stage of the last run found changed: their size and time prove nothing."""
    pictures: list[str] = []
    requests: list[str] = []
    for stage, row_type in _FINDERS.items():
        rows = former_manifest(run.manifest(stage), row_type, ["key", "reason"])
        if rows is not None:
            keys = rows.key[rows.reason == "image_changed"].tolist()
            pictures += [key.removeprefix("original:") for key in keys]
            requests += [key.removeprefix("synthetic:") for key in keys]
    plan = former_manifest(run.manifest("plan"), PlanRow, ["key", "request"]) if requests else None
    if before is None or plan is None:
        return []
    return sorted(changed_sources(before, plan, pictures, requests))


_FINDERS: dict[str, type[Row]] = {
    "caption": CaptionRow,
    "generate": PictureRow,
    "screen": ScreenRow,
    "finalise": FinalRow,
}


@step(name="read annotations")
def read_annotations(dataset: DatasetSettings, folder: str) -> Ingested:
    """Rows of the annotations, and the source's other top-level keys, as files in `folder`."""
    read = read_dataset(dataset)
    check_sources(Path(folder).parent, dataset.images, read.images["path"].to_pylist())
    envelope = Path(folder) / "dataset.json"
    atomic_write(envelope, read.envelope)
    return Ingested(
        images=write_manifest(Path(folder) / "images.parquet", read.images, ImageRow),
        objects=write_manifest(Path(folder) / "objects.parquet", read.objects, ObjectRow),
        envelope=Ref(path=str(envelope), rows=0, sha256=file_digest(envelope)),
    )


@step(name="ingest", task_run_name="ingest-{job.label}")
def check_part(job: Job) -> Ref:
    """Check the pictures of one part. Not cached: whether a file changed is known only from the file."""
    doubted = job.where["doubted"]
    known = []
    if doubted is not None:
        former = (_last_run(**job.where["known"]), former_manifest(job.out, ImageRow))
        known = [rows[~rows.digest.isin(doubted)] for rows in former if rows is not None]
    rows = check_pictures(
        job.read("images", ImageRow),
        Path(job.sources),
        job.where["max_pixels"],
        pd.concat(known) if known else None,
        job.advance,
        when=job.where["when"],
    )
    return job.write(rows, ImageRow)


@kept(1)
def _last_run(path: str, sha256: str) -> pd.DataFrame | None:
    """The last run's manifest, read once for all parts."""
    return former_manifest(Path(path), ImageRow)


def _reused(rows: pd.DataFrame, before: pd.DataFrame | None) -> int:
    """Rows whose file was not read in this run."""
    if before is None:
        return 0
    same = ["path", "size", "mtime_ns"]
    return len(rows[rows.mtime_ns >= 0].merge(before[before.mtime_ns >= 0][same].drop_duplicates(), on=same))
