"""caption: a sentence per selected picture, made once."""

from __future__ import annotations

from lib.captions import CaptionForm, caption_pictures
from lib.manifest import Ref, read_manifest
from lib.schemas import CaptionRow, SelectRow
from tasks.ingest import Ingested
from tasks.inputs import sources_of, use_member
from tasks.jobs import Job, Staged, make_job, run_stage, settled, stage_task
from tasks.run import Run

VERSION = 1


def caption_images(run: Run, ingested: Ingested, selected: Staged) -> Staged:
    """CaptionRows of the selected pictures."""
    where = {"images": ingested.images.model_dump(), "captioner": run.captioner.model_dump(mode="json")}
    settings = run.captions.model_dump(mode="json")
    jobs = [make_job(run, "caption", VERSION, {"selected": part}, settings, where) for part in selected.parts]
    total = sum(part.rows for part in selected.parts)
    return run_stage(run, jobs, caption_part, CaptionRow, total, by="key", made=_new, there=_settled)


def _settled(part: Ref) -> bool:
    return settled(read_manifest(part.file, CaptionRow, ("reason",)))


def _new(part: Ref) -> int:
    return int((~read_manifest(part.file, CaptionRow).reused).sum())


@stage_task("caption")
def caption_part(job: Job) -> Ref:
    """Caption the pictures of one part."""
    form = CaptionForm.model_validate(job.settings)
    load = sources_of(Ref.model_validate(job.where["images"]), job.sources)
    with use_member(job.where["captioner"]) as captioner:
        rows = caption_pictures(job.read("selected", SelectRow), form, job.store, load, captioner, job.advance)
    return job.write(rows, CaptionRow)
