"""finalise: the merged COCO set in <workspace>/final."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel

from lib.datasets.finalise import finalise
from lib.datasets.ids import Ids
from lib.datasets.write_coco import Sources, final_objects
from lib.records.manifest import Ref, former_manifest, read_manifest, write_manifest
from lib.records.rows import OK, FinalRow, ImageRow, ObjectRow, ReviewRow
from lib.records.settings import FinaliseSettings
from lib.records.store import Store
from lib.screening.labels import count_verdicts
from tasks.artifacts import show_counts
from tasks.engine import step
from tasks.ingest import Ingested
from tasks.inputs import judged_outcomes, outcomes_of
from tasks.jobs import Staged, may_pass
from tasks.progress import advance
from tasks.run import Run


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
    before = former_manifest(run.manifest("finalise"), FinalRow)
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
    rows = read_manifest(ref.file, FinalRow)
    same = ["file_name", "sha256", "mtime_ns"]
    reused = 0 if before is None else len(rows.merge(before[same], on=same))
    reviews = read_manifest(reviewed.file, ReviewRow)
    verdicts = count_verdicts([reviews[reviews.status == OK]])
    run.count("finalise", rows, painted=len(rows) - reused, reused=reused, **verdicts)
    show_counts(run, "finalise")
    return ref


@step(name="finalise", retries=2, retry_delay_seconds=5, retry_condition_fn=may_pass)
def write_final(job: FinalJob) -> Ref:
    """Write the final set. Not cached: it looks at every file, and writes what is missing or different."""
    root = Path(job.workspace)
    images, objects = (
        read_manifest(job.ingested.images.file, ImageRow),
        read_manifest(job.ingested.objects.file, ObjectRow),
    )
    reviewed = read_manifest(job.reviewed.file, ReviewRow)
    reviewed = reviewed[reviewed.status == OK]
    requests = judged_outcomes(dict(outcomes_of(job.plan, reviewed.key)), reviewed, job.ingested.objects)
    ids = Ids.read(root / "ids.json").assign(requests, images.key, final_objects(images, objects).key)
    ids.write(root / "ids.json")
    sources = Sources(images, objects, job.ingested.envelope.file.read_bytes(), Path(job.sources))
    rows = finalise(
        root / "final",
        sources,
        reviewed,
        requests,
        ids,
        job.settings,
        Store(root / "store"),
        former_manifest(Path(job.out), FinalRow),
        lambda count: advance(job.workspace, "finalise", count),
        job.verify,
    )
    return write_manifest(Path(job.out), rows, FinalRow)
