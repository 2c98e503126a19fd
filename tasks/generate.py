"""generate: the requests painted, each picture kept in the store by its key."""

from __future__ import annotations

from lib.generate import generate_pictures
from lib.manifest import Ref, read_manifest
from lib.schemas import OK, PictureRow, PlanRow
from lib.store import Store
from tasks.ingest import Ingested
from tasks.inputs import sources_of, use_member
from tasks.jobs import Job, Staged, make_job, run_stage, settled, stage_task
from tasks.run import Run

VERSION = 1


def generate_images(run: Run, ingested: Ingested, plan: Staged) -> Staged:
    """PictureRows of the planned requests."""
    where = {"images": ingested.images.model_dump(), "painter": run.recipe.painter.model_dump(mode="json")}
    jobs = [make_job(run, "generate", VERSION, {"plan": part}, where=where) for part in plan.parts]
    store = run.store
    return run_stage(
        run,
        jobs,
        generate_part,
        PictureRow,
        plan.manifest.rows,
        there=lambda part: _pictures_there(part, store),
        made=_painted,
    )


def _pictures_there(part: Ref, store: Store) -> bool:
    """Are all pictures that a part promises in the store, whole, and was nothing missing that may be there now?"""
    rows = read_manifest(part.file, PictureRow, ("status", "reason", "picture", "size"))
    ok = rows[rows.status == OK]
    return settled(rows) and all(store.size("picture", k) == n for k, n in zip(ok.picture, ok["size"], strict=True))


def _painted(part: Ref) -> int:
    return int((read_manifest(part.file, PictureRow).painted > 0).sum())


@stage_task("generate")
def generate_part(job: Job) -> Ref:
    """Paint the requests of one part."""
    images = Ref.model_validate(job.where["images"])
    plan, load = job.read("plan", PlanRow), sources_of(images, job.sources)
    plan = plan[plan.status == OK]
    with use_member(job.where["painter"]) as painter:
        rows = generate_pictures(plan, painter, load, job.store, job.advance)
    return job.write(rows, PictureRow)
