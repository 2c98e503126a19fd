"""select: which pictures may be used, which of their boxes."""

from __future__ import annotations

from lib.datasets.select import OBJECT_COLUMNS, select_pictures
from lib.records.manifest import Ref, read_manifest, read_table
from lib.records.rows import OK, ImageRow, ObjectRow, SelectRow
from lib.records.settings import SelectSettings
from tasks.ingest import Ingested
from tasks.jobs import Job, Stage, Staged, make_job, prune_parts, run_stage, split_parts, stage_task
from tasks.run import Run

VERSION = 1


def select_images(run: Run, ingested: Ingested) -> Staged:
    """SelectRows; the parts hold those that are ok."""
    settings = run.settings
    chosen = {"select": settings.select.model_dump(mode="json"), "seed": settings.seed, "limit": settings.limit}
    job = make_job(run, "select", VERSION, {"images": ingested.images, "objects": ingested.objects}, chosen)
    staged = run_stage(run, Stage(select_all, SelectRow, by="key"), [job], ingested.images.rows)
    rows = read_manifest(staged.manifest.file, SelectRow)
    parts = split_parts(run, "selected", rows[rows.status == OK], SelectRow)
    prune_parts(run, "selected", parts)
    return Staged(staged.manifest, parts)


@stage_task("select")
def select_all(job: Job) -> Ref:
    """Apply the rules to all pictures at once."""
    images = read_table(job.inputs["images"].file, ImageRow)
    objects = read_table(job.inputs["objects"].file, ObjectRow, OBJECT_COLUMNS)
    settings = SelectSettings.model_validate(job.settings["select"])
    return job.write(select_pictures(images, objects, settings, job.settings["seed"], job.settings["limit"]), SelectRow)
