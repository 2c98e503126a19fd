"""plan: everything random decided; requests out."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from pathlib import Path

import msgspec
import pandas as pd

from lib.planning.donors import Identity, former_donors
from lib.planning.outlines import Outlines
from lib.planning.plan import plan_requests
from lib.planning.recipe import Recipe
from lib.planning.statistics import Statistics
from lib.records.manifest import Ref, former_manifest
from lib.records.rows import OK, CaptionRow, PlanRow, SelectRow
from tasks.ingest import Ingested
from tasks.inputs import donors_of, kept, sources_of, survey_of, usable_objects
from tasks.jobs import Job, Stage, Staged, make_job, run_stage, stage_task
from tasks.run import Run

VERSION = 3


def plan_pictures(run: Run, ingested: Ingested, selected: Staged, captions: Staged) -> Staged:
    """PlanRows: one for each captioned picture and variant."""
    recipe, settings = run.recipe, run.settings
    chosen = {name: getattr(recipe, name).identity() for name in ("edit", "painter", "composite")}
    chosen |= {"seed": settings.seed, "variants": settings.variants, "split": settings.select.split}
    split, known = settings.select.split, ingested.categories
    survey = survey_of(ingested.objects, ingested.images, run.root, split, known)
    chosen |= survey.identity(recipe, settings.select.categories)
    where = {"recipe": recipe.model_dump(mode="json")}
    common = {"images": ingested.images, "objects": ingested.objects}
    jobs = [
        make_job(run, "plan", VERSION, {**common, "selected": one, "captions": two}, chosen, where)
        for one, two in zip(selected.parts, captions.parts, strict=True)
    ]
    total = sum(part.rows for part in captions.parts)
    return run_stage(run, Stage(plan_part, PlanRow, more=lambda rows: _changes(run, rows)), jobs, total)


def _changes(run: Run, rows: pd.DataFrame) -> dict[str, int]:
    """How the plan differs from the last run's (new pictures, old ones planned otherwise, gone), and barred boxes."""
    path, same = run.manifest("plan"), ["image_key", "variant"]
    barred = int(rows.barred[rows.status == OK].map(len).sum())
    before = former_manifest(path, PlanRow, ["key", *same])
    if before is None:
        return {"new": len(rows), "changed": 0, "gone": 0, "boxes left alone": barred}
    both = before.merge(rows[["key", *same]], on=same, how="outer", suffixes=("_old", ""), indicator=True)
    return {
        "new": int((both["_merge"] == "right_only").sum()),
        "changed": int(((both["_merge"] == "both") & (both.key != both.key_old)).sum()),
        "gone": int((both["_merge"] == "left_only").sum()),
        "boxes left alone": barred,
    }


@stage_task("plan")
def plan_part(job: Job) -> Ref:
    """Plan the pictures of one part."""
    recipe = Recipe.model_validate(job.where["recipe"])
    captions = job.read("captions", CaptionRow)
    captions = captions[captions.status == OK]
    selected = job.read("selected", SelectRow)
    selected = selected[selected.key.isin(captions.key)]
    objects = usable_objects(job.inputs["objects"], selected.key)
    prompts = dict(zip(captions.key, captions.prompt, strict=True))
    seed, variants = job.settings["seed"], job.settings["variants"]
    former, outlines = None, None
    if recipe.needs_donors:
        former = _former_donors(job, selected.key)
        outlines = Outlines(sources_of(job.inputs["images"], job.sources), job.store)
    statistics = _statistics(job, recipe)
    rows = plan_requests(selected, objects, prompts, recipe, statistics, seed, variants, former, outlines)
    job.advance(len(captions))
    return job.write(rows, PlanRow)


def _former_donors(job: Job, image_keys: pd.Series) -> dict[int, Identity]:
    """Those of the last run's plan for these pictures."""
    path = Path(job.workspace) / "manifests" / "plan.parquet"
    if not path.is_file():
        return {}
    state = path.stat()
    requests = _former_requests(str(path), state.st_mtime_ns, state.st_size)
    with contextlib.suppress(msgspec.MsgspecError):  # of another version: chosen anew
        return former_donors(requests[requests.index.isin(image_keys)])
    return {}


@kept(1)
def _former_requests(path: str, mtime: int, size: int) -> pd.Series:
    rows = former_manifest(Path(path), PlanRow, ["image_key", "status", "request"])
    rows = pd.DataFrame({"image_key": [], "status": [], "request": []}) if rows is None else rows
    rows = rows[rows.status == OK]
    return pd.Series(rows.request.to_numpy(object), index=rows.image_key)


def _statistics(job: Job, recipe: Recipe) -> Statistics:
    """As they were pinned when the job's key was made."""
    objects, images, split = job.inputs["objects"], job.inputs["images"], job.settings["split"]
    categories = job.settings.get("categories", ())
    survey = survey_of(objects, images, Path(job.workspace), split, categories, pins=False)
    statistics = survey.statistics(recipe)
    return replace(statistics, donors=donors_of(objects, images, split)) if recipe.needs_donors else statistics
