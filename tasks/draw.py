"""draw: boxes and labels on every screened picture, and the run's contact sheet."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

from lib.core.keys import key_of
from lib.core.mirror import bring_all, brought, here
from lib.records.manifest import Ref, former_batches, read_batches, read_manifest
from lib.records.outputs import Outputs
from lib.records.parts import part_of_name
from lib.records.rows import OK, DrawRow, ScreenRow
from lib.records.verified import VerifiedFiles, keep_shown
from lib.screening.draw import VERSION, contact_sheet, draw_pictures, drawn_name, sheet_jpeg, spread_places
from tasks.artifacts import only_shown, show_sheet
from tasks.ingest import Ingested
from tasks.inputs import (
    Boxes,
    Requests,
    boxes_digest,
    boxes_of,
    judged_outcomes,
    outcomes_of,
    requests_by_part,
    sources_of,
)
from tasks.jobs import Job, make_job, stage_task
from tasks.parts import count_parts, prune_parts, split_parts
from tasks.run import Run
from tasks.stages import Stage, Staged, run_stage


def draw_images(run: Run, ingested: Ingested, plan: Staged, screened: Staged) -> None:
    """Drawn pictures in <workspace>/drawn, and contact_sheet.jpg beside that folder."""
    parts = split_parts(run, "screened", screened.manifest, ScreenRow, by="image_key", only_ok=True)
    total = sum(part.rows for part in parts)
    requests = requests_by_part(plan.parts, run.spread, count_parts(total))
    jobs = [
        make_job(run, "draw", VERSION, {"screened": part}, _boxes(ingested, part), _where(ingested, part, requests))
        for part in parts
    ]
    folder, verified = run.root / "drawn", run.verified
    former = former_batches(run.manifest("draw"), DrawRow, ("name",))
    ours = Outputs(folder, (name for rows in former for name in rows.name))
    ours.claim(drawn_name(name) for part in parts for name in read_manifest(part.file, ScreenRow, ("name",)).name)
    stage = Stage(
        draw_part, DrawRow, ("screened", ScreenRow), valid=lambda part: _drawings_whole(part, folder, verified)
    )
    staged = run_stage(run, stage, jobs, total)
    prune_parts(run, "screened", parts)
    # What is no longer in the run goes.
    ours.sweep(name for rows in read_batches(staged.manifest.file, DrawRow, ("name",)) for name in rows.name)
    for drawn in read_batches(staged.manifest.file, DrawRow, ("status", "name", "sha256")):
        drawn = drawn[drawn.status == OK]
        bring_all(folder / name for name in drawn.name)
        for name, sha256 in zip(drawn.name, drawn.sha256, strict=True):
            path = here(folder / name, sha256=sha256)
            verified.whole(path, sha256, lambda: True)  # written, read or brought just now
    verified.save()
    if total:
        with only_shown("contact_sheet.jpg"):
            _draw_sheet(run, ingested, plan, _shown(screened, total))
    show_sheet(run)


def _where(ingested: Ingested, part: Ref, requests: Callable[[int], Requests]) -> dict[str, Any]:
    number, _ = part_of_name(part.place.name)
    return {"plan": requests(number).model_dump(), "objects": ingested.objects.model_dump()}


def _shown(screened: Staged, total: int) -> pd.DataFrame:
    """The ScreenRows that are on the contact sheet, of so many that are ok."""
    places, found, start = spread_places(total), list[pd.DataFrame](), 0
    for rows in read_batches(screened.manifest.file, ScreenRow):
        rows = rows[rows.status == OK]
        found.append(rows.iloc[places[(places >= start) & (places < start + len(rows))] - start])
        start += len(rows)
    return pd.concat(found, ignore_index=True)


def _draw_sheet(run: Run, ingested: Ingested, plan: Staged, shown: pd.DataFrame) -> None:
    """The contact sheet of some ScreenRows, drawn where it is missing, damaged, or shows something else."""

    def draw() -> bytes:
        outcomes = judged_outcomes(dict(outcomes_of(plan.manifest, shown.key)), shown, ingested.objects)
        load, boxes = sources_of(ingested.images, str(run.sources)), boxes_of(ingested.objects, shown.image_key)
        return sheet_jpeg(contact_sheet(shown, outcomes, boxes, load, run.store))

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
        path = here(folder / name)
        return verified.whole(path, sha256, lambda: brought(path, sha256))

    return all(whole(name, sha256) for name, sha256 in zip(rows.name, rows.sha256, strict=True))


@stage_task("draw")
def draw_part(job: Job) -> Ref:
    """Draw the pictures of one part."""
    rows = job.read("screened", ScreenRow)
    plan, objects = Requests.model_validate(job.where["plan"]), Boxes.model_validate(job.where["objects"])
    outcomes, folder = judged_outcomes(plan.outcomes(rows.key), rows, objects), job.root / "drawn"
    boxes = boxes_of(objects, rows.image_key)
    return job.write(draw_pictures(rows, outcomes, boxes, job.store, folder, job.advance), DrawRow)
