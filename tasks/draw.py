"""draw: boxes and labels on every screened picture, and the run's contact sheet."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from lib.core.files import file_digest
from lib.core.keys import key_of
from lib.records.manifest import Ref, former_manifest, read_manifest
from lib.records.outputs import Outputs
from lib.records.rows import OK, DrawRow, ScreenRow
from lib.records.verified import VerifiedFiles, keep_shown
from lib.screening.draw import VERSION, contact_sheet, draw_pictures, drawn_name, sheet_jpeg, spread
from tasks.artifacts import only_shown, show_sheet
from tasks.ingest import Ingested
from tasks.inputs import boxes_digest, boxes_of, judged_outcomes, sources_of
from tasks.jobs import Job, Stage, Staged, make_job, prune_parts, run_stage, split_parts, stage_task
from tasks.run import Run


def draw_images(run: Run, ingested: Ingested, plan: Staged, screened: Staged) -> None:
    """Drawn pictures in <workspace>/drawn, and contact_sheet.jpg beside that folder."""
    rows = read_manifest(screened.manifest.file, ScreenRow)
    rows = rows[rows.status == OK]
    where = {"plan": plan.manifest.model_dump(), "objects": ingested.objects.model_dump()}
    parts = split_parts(run, "screened", rows, ScreenRow, by="image_key")
    jobs = [make_job(run, "draw", VERSION, {"screened": part}, _boxes(ingested, part), where) for part in parts]
    folder, verified = run.root / "drawn", run.verified
    former = former_manifest(run.manifest("draw"), DrawRow, ["name"])
    ours = Outputs(folder, () if former is None else former.name)
    ours.claim(map(drawn_name, rows.name))
    stage = Stage(
        draw_part, DrawRow, ("screened", ScreenRow), valid=lambda part: _drawings_whole(part, folder, verified)
    )
    staged = run_stage(run, stage, jobs, len(rows))
    prune_parts(run, "screened", parts)
    drawn = read_manifest(staged.manifest.file, DrawRow)
    ours.sweep(set(drawn.name))  # of pictures no longer in the run
    drawn = drawn[drawn.status == OK]
    for name, sha256 in zip(drawn.name, drawn.sha256, strict=True):
        verified.whole(folder / name, sha256, lambda: True)  # written or read just now
    verified.save()
    if not rows.empty:
        with only_shown("contact_sheet.jpg"):
            _draw_sheet(run, ingested, plan, spread(rows))
    show_sheet(run)


def _draw_sheet(run: Run, ingested: Ingested, plan: Staged, shown: pd.DataFrame) -> None:
    """The contact sheet of some ScreenRows, drawn where it is missing, damaged, or shows something else."""

    def draw() -> bytes:
        outcomes = judged_outcomes(plan.manifest, shown, ingested.objects)
        load = sources_of(ingested.images, str(run.sources))
        return sheet_jpeg(contact_sheet(shown, outcomes, boxes_of(ingested.objects), load, run.store))

    inputs = [[row.key, row.picture, row.sha256, list(row.boxes)] for row in shown.itertuples(index=False)]
    key = key_of("sheet", VERSION, inputs, boxes_digest(ingested.objects, shown.image_key))
    keep_shown(run.root / "contact_sheet.jpg", run.store, key, draw)


def _boxes(ingested: Ingested, part: Ref) -> dict[str, str]:
    """Digest of the boxes that are drawn: a renamed category or a moved box is drawn again."""
    return {"boxes": boxes_digest(ingested.objects, read_manifest(part.file, ScreenRow, ("image_key",)).image_key)}


def _drawings_whole(part: Ref, folder: Path, verified: VerifiedFiles) -> bool:
    """Do all drawings of a part exist, undamaged?"""
    rows = read_manifest(part.file, DrawRow, ("name", "sha256"))

    def whole(name: str, sha256: str) -> bool:
        path = folder / name
        return verified.whole(path, sha256, lambda: file_digest(path) == sha256)

    return all(whole(name, sha256) for name, sha256 in zip(rows.name, rows.sha256, strict=True))


@stage_task("draw")
def draw_part(job: Job) -> Ref:
    """Draw the pictures of one part."""
    rows = job.read("screened", ScreenRow)
    plan, objects = (Ref.model_validate(job.where[name]) for name in ("plan", "objects"))
    outcomes, folder = judged_outcomes(plan, rows, objects), Path(job.workspace) / "drawn"
    return job.write(draw_pictures(rows, outcomes, boxes_of(objects), job.store, folder, job.advance), DrawRow)
