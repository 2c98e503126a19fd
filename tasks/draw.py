"""draw: boxes and labels on every screened picture, and the run's contact sheet."""

from __future__ import annotations

from pathlib import Path

from lib.draw import VERSION, contact_sheet, draw_pictures, sheet_jpeg, spread
from lib.manifest import Ref, atomic_write, read_manifest
from lib.schemas import OK, DrawRow, ScreenRow
from tasks.artifacts import show_sheet
from tasks.ingest import Ingested
from tasks.inputs import boxes_digest, boxes_of, judged_outcomes, sources_of
from tasks.jobs import Job, Staged, make_job, prune_parts, run_stage, split_parts, stage_task
from tasks.run import Run


def draw_images(run: Run, ingested: Ingested, plan: Staged, screened: Staged) -> None:
    """Drawn pictures in <workspace>/drawn, and contact_sheet.jpg beside that folder."""
    rows = read_manifest(screened.manifest.file, ScreenRow)
    rows = rows[rows.status == OK]
    where = {"plan": plan.manifest.model_dump(), "objects": ingested.objects.model_dump()}
    parts = split_parts(run, "screened", rows, ScreenRow, by="image_key")
    jobs = [make_job(run, "draw", VERSION, {"screened": part}, _boxes(ingested, part), where) for part in parts]
    folder = run.root / "drawn"
    staged = run_stage(run, jobs, draw_part, DrawRow, len(rows), there=lambda part: _drawings_there(part, folder))
    prune_parts(run, "screened", parts)
    _sweep(folder, set(read_manifest(staged.manifest.file, DrawRow).name))
    if not rows.empty and (run.account["stages"]["draw"]["painted"] or not (run.root / "contact_sheet.jpg").is_file()):
        shown, boxes = spread(rows), boxes_of(ingested.objects)
        load = sources_of(ingested.images, str(run.sources))
        sheet = contact_sheet(shown, judged_outcomes(plan.manifest, shown, ingested.objects), boxes, load, run.store)
        atomic_write(run.root / "contact_sheet.jpg", sheet_jpeg(sheet))
    show_sheet(run)


def _boxes(ingested: Ingested, part: Ref) -> dict[str, str]:
    """What is drawn beside the pictures: a renamed category or a moved box is drawn anew."""
    return {"boxes": boxes_digest(ingested.objects, read_manifest(part.file, ScreenRow, ("image_key",)).image_key)}


def _drawings_there(part: Ref, folder: Path) -> bool:
    return all((folder / name).is_file() for name in read_manifest(part.file, DrawRow).name)


def _sweep(folder: Path, wanted: set[str]) -> None:
    """Remove drawings of pictures that are no longer in the run."""
    for path in folder.glob("*.jpg"):
        if path.name not in wanted:
            path.unlink()


@stage_task("draw")
def draw_part(job: Job) -> Ref:
    """Draw the pictures of one part."""
    rows = job.read("screened", ScreenRow)
    plan, objects = (Ref.model_validate(job.where[name]) for name in ("plan", "objects"))
    outcomes, folder = judged_outcomes(plan, rows, objects), Path(job.workspace) / "drawn"
    return job.write(draw_pictures(rows, outcomes, boxes_of(objects), job.store, folder, job.advance), DrawRow)
