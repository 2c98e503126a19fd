"""caption: a sentence per selected picture, made once."""

from __future__ import annotations

from collections.abc import Collection
from functools import partial

from lib.captioning.caption import CaptionForm, caption_pictures
from lib.captioning.captioners import CAPTIONERS
from lib.core.keys import key_of
from lib.records.manifest import Ref, read_manifest
from lib.records.rows import CaptionRow, SelectRow
from tasks.ingest import Ingested
from tasks.inputs import records_of, sources_of
from tasks.jobs import Job, make_job, stage_task
from tasks.models import use_member
from tasks.run import Run
from tasks.stages import Stage, Staged, run_stage, settled

VERSION = 1


def caption_images(run: Run, ingested: Ingested, selected: Staged) -> Staged:
    """CaptionRows of the selected pictures."""
    where = {"images": ingested.images.model_dump(), "captioner": run.captioner.model_dump(mode="json")}
    settings, needs = run.captions.model_dump(mode="json"), CAPTIONERS[run.captioner.name].NEEDS_RECORDS
    jobs = [
        make_job(run, "caption", VERSION, {"selected": part}, settings | _read(ingested, part, needs), where)
        for part in selected.parts
    ]
    total = sum(part.rows for part in selected.parts)
    made = partial(_new, before=run.captioned)
    return run_stage(
        run, Stage(caption_part, CaptionRow, ("selected", SelectRow), by="key", made=made, valid=_settled), jobs, total
    )


def _settled(part: Ref) -> bool:
    return settled(read_manifest(part.file, CaptionRow, ("reason",)))


def _new(part: Ref, before: Collection[str]) -> int:
    """Captions made in this run; before: image keys of those that the limit has made."""
    rows = read_manifest(part.file, CaptionRow)
    return int((~rows.reused | rows.key.isin(before)).sum())


def _read(ingested: Ingested, part: Ref, needs: bool) -> dict[str, str]:
    """What a captioner that needs the records depends on beside the selected rows."""
    if not needs:
        return {}
    records = records_of(ingested.images)
    return {"records": key_of(*(records[key].decode() for key in read_manifest(part.file, SelectRow, ("key",)).key))}


@stage_task("caption")
def caption_part(job: Job) -> Ref:
    """Caption the pictures of one part."""
    form = CaptionForm.model_validate(job.settings)
    images = Ref.model_validate(job.where["images"])
    load = sources_of(images, job.sources)
    with use_member(job.where["captioner"]) as captioner:
        records = records_of(images) if captioner.NEEDS_RECORDS else {}
        rows = caption_pictures(job.read("selected", SelectRow), form, job.store, load, captioner, job.advance, records)
    return job.write(rows, CaptionRow)
