"""generate: the requests painted, each picture kept in the store by its key."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import partial

from lib.core.mirror import bring_all, here
from lib.painting.generate import generate_pictures
from lib.records.manifest import Ref, read_batches, read_manifest
from lib.records.rows import OK, PictureRow, PlanRow
from lib.records.store import Store
from lib.records.verified import VerifiedFiles
from tasks.ingest import Ingested
from tasks.inputs import sources_of
from tasks.jobs import Job, make_job, stage_task
from tasks.models import use_member
from tasks.run import Run
from tasks.stages import Link, Stage, Staged, settled

VERSION = 1


def painting(run: Run, ingested: Ingested, total: int) -> Link:
    """PictureRows of the planned requests, of which there are `total` at most."""

    def job(_: int, made: Sequence[Ref]) -> Job:
        return generate_job(run, ingested, made[0])

    return Link(generate_stage(run), job, total, lambda staged: note_whole(run, staged))


def generate_job(run: Run, ingested: Ingested, plan: Ref) -> Job:
    """The job of a part of the plan."""
    where = {"images": ingested.images.model_dump(), "painter": run.recipe.painter.model_dump(mode="json")}
    return make_job(run, "generate", VERSION, {"plan": plan}, where=where)


def generate_stage(run: Run) -> Stage:
    """The stage, whose jobs are `generate_job`s."""
    store, verified = run.store, run.verified
    return Stage(
        generate_part,
        PictureRow,
        ("plan", PlanRow),
        valid=lambda part: _pictures_whole(part, store, verified),
        made=partial(_painted, before=run.first),
    )


def note_whole(run: Run, staged: Staged) -> None:
    """The pictures of a finished stage are undamaged: they were written or read just now."""
    for rows in read_batches(staged.manifest.file, PictureRow, ("status", "picture", "sha256")):
        rows = rows[rows.status == OK]
        bring_all(run.store.path("picture", key) for key in rows.picture)
        for key, sha256 in zip(rows.picture, rows.sha256, strict=True):
            run.verified.whole(run.store.path("picture", key), sha256, lambda: True)


def _pictures_whole(part: Ref, store: Store, verified: VerifiedFiles) -> bool:
    """Are all pictures of a part in the store, undamaged, and were none rejected for a reason that may have passed?"""
    rows = read_manifest(part.file, PictureRow, ("status", "reason", "picture", "sha256"))
    ok = rows[rows.status == OK]

    def whole(key: str, sha256: str) -> bool:
        def check() -> bool:
            return store.get("picture", key) is not None and store.sha256("picture", key) == sha256

        return verified.whole(here(store.path("picture", key)), sha256, check)

    return settled(rows) and all(whole(key, sha256) for key, sha256 in zip(ok.picture, ok.sha256, strict=True))


def _painted(part: Ref, before: Collection[str]) -> int:
    """Pictures painted in this run; before: request keys of those that were when the parts were sized."""
    rows = read_manifest(part.file, PictureRow, ("key", "painted"))
    return int(((rows.painted > 0) | rows.key.isin(before)).sum())


@stage_task("generate")
def generate_part(job: Job) -> Ref:
    """Paint the requests of one part."""
    images = Ref.model_validate(job.where["images"])
    plan, load = job.read("plan", PlanRow), sources_of(images, job.sources)
    plan = plan[plan.status == OK]
    with use_member(job.where["painter"]) as painter:
        rows = generate_pictures(plan, painter, load, job.store, job.advance)
    return job.write(rows, PictureRow)
