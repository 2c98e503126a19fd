"""plan: everything random decided; requests out."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from lib.edits import EDITS
from lib.layouts import pinned_mixes, read_mixes
from lib.manifest import Ref, digest, former_manifest
from lib.painters import PAINTERS
from lib.places import pinned_places, read_places, usable_categories
from lib.plan import DonorPool, plan_requests
from lib.recipe import Recipe
from lib.schemas import OK, CaptionRow, PlanRow, SelectRow
from tasks.ingest import Ingested
from tasks.inputs import donors_of, mixes_of_split, places_of_split, usable_objects
from tasks.jobs import Job, Staged, make_job, run_stage, stage_task
from tasks.run import Run

VERSION = 2


def plan_pictures(run: Run, ingested: Ingested, selected: Staged, captions: Staged) -> Staged:
    """PlanRows: one for each captioned picture and variant."""
    recipe, settings = run.recipe, run.settings
    chosen = {name: getattr(recipe, name).identity() for name in ("edit", "painter", "composite")}
    chosen |= {"seed": settings.seed, "variants": settings.variants, "split": settings.select.split}
    where: dict[str, Any] = {"recipe": recipe.model_dump(mode="json")}
    needs, split = EDITS.settings(recipe.edit.name, recipe.edit.settings), settings.select.split
    if needs.needs_places:
        pinned = run.root / "places.json"
        of_others = partial(places_of_split, ingested.objects, ingested.images, split)
        places = pinned_places(pinned, split, of_others)
        names = usable_categories(places, ingested.categories, settings.select.categories)
        chosen |= {"categories": names, "places": digest(pinned.read_bytes()) if pinned.is_file() else ""}
        where["places"] = str(pinned)
    if needs.needs_mixes:
        pinned = run.root / "mixes.json"
        pinned_mixes(pinned, split, partial(mixes_of_split, ingested.objects, ingested.images, split))
        chosen["mixes"], where["mixes"] = digest(pinned.read_bytes()) if pinned.is_file() else "", str(pinned)
    common = {"images": ingested.images, "objects": ingested.objects}
    jobs = [
        make_job(run, "plan", VERSION, {**common, "selected": one, "captions": two}, chosen, where)
        for one, two in zip(selected.parts, captions.parts, strict=True)
    ]
    total = sum(part.rows for part in captions.parts)
    return run_stage(run, jobs, plan_part, PlanRow, total, more=lambda rows: _changes(run, rows))


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
    donors = DonorPool()
    if PAINTERS[recipe.painter.name].NEEDS_DONOR:
        donors = donors_of(job.inputs["objects"], job.inputs["images"], job.settings["split"])
    objects = usable_objects(job.inputs["objects"], selected.key)
    prompts = dict(zip(captions.key, captions.prompt, strict=True))
    places = {}
    if "places" in job.where:
        pinned = read_places(Path(job.where["places"]), job.settings["split"])
        places = {name: pinned[name] for name in job.settings["categories"]}
    mixes = read_mixes(Path(job.where["mixes"]), job.settings["split"]) if "mixes" in job.where else []
    seed, variants = job.settings["seed"], job.settings["variants"]
    rows = plan_requests(selected, objects, prompts, recipe, donors, seed, variants, places, mixes)
    job.advance(len(captions))
    return job.write(rows, PlanRow)
