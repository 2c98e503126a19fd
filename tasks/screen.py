"""screen: pictures that cannot be any good are set aside."""

from __future__ import annotations

from lib.manifest import Ref, read_manifest
from lib.schemas import OK, PictureRow, ScreenRow
from lib.screen import VERSION, mark_duplicates, measure_pictures
from lib.settings import ScreenSettings
from tasks.ingest import Ingested
from tasks.inputs import frames_of, sources_of
from tasks.jobs import Job, Staged, make_job, run_stage, settled, stage_task
from tasks.run import Run


def screen_images(run: Run, ingested: Ingested, pictures: Staged) -> Staged:
    """ScreenRows of the generated pictures; duplicates are told once all parts are known."""
    settings, where = run.settings.screen.model_dump(mode="json"), {"images": ingested.images.model_dump()}
    jobs = [make_job(run, "screen", VERSION, {"pictures": part}, settings, where) for part in pictures.parts]
    tidy = mark_duplicates if run.settings.screen.duplicates else lambda rows: rows
    return run_stage(run, jobs, screen_part, ScreenRow, pictures.manifest.rows, tidy=tidy, there=_settled)


def _settled(part: Ref) -> bool:
    return settled(read_manifest(part.file, ScreenRow, ("reason",)))


@stage_task("screen")
def screen_part(job: Job) -> Ref:
    """Judge the pictures of one part, each alone."""
    images = Ref.model_validate(job.where["images"])
    pictures, load = job.read("pictures", PictureRow), sources_of(images, job.sources)
    settings = ScreenSettings.model_validate(job.settings)
    rows = measure_pictures(pictures[pictures.status == OK], frames_of(images), settings, load, job.store, job.advance)
    return job.write(rows, ScreenRow)
