"""plan: everything random decided; requests out."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pandas as pd

from lib.planning.donors import Former, former_donors
from lib.planning.outlines import Outlines
from lib.planning.plan import plan_requests
from lib.planning.recipe import Recipe
from lib.planning.statistics import Statistics
from lib.planning.target import DrawGroup, plan_draws
from lib.records.manifest import Ref, former_manifest, read_batches, read_manifest, row_marks
from lib.records.parts import part_of_name
from lib.records.rows import OK, CaptionRow, PlanRow, SelectRow
from tasks.engine import kept
from tasks.ingest import Ingested
from tasks.inputs import Boxes, sources_of, statistics_of, survey_of, usable_objects
from tasks.jobs import Job, Stage, Staged, make_job, run_stage, stage_task
from tasks.run import Run

VERSION = 4


def plan_pictures(run: Run, ingested: Ingested, selected: Staged, captions: Staged) -> Staged:
    """PlanRows: one for each captioned picture and variant."""
    jobs = plan_jobs(run, ingested, selected, captions, run.settings.variants)
    return run_stage(run, plan_stage(run), jobs, sum(part.rows for part in captions.parts))


def plan_stage(run: Run) -> Stage:
    """The stage, whose jobs are those of `plan_jobs`."""
    return Stage(plan_part, PlanRow, ("selected", SelectRow), more=_changes)


def plan_jobs(
    run: Run, ingested: Ingested, selected: Staged, captions: Staged, draws: int | Sequence[DrawGroup]
) -> list[Job]:
    """A job a part. draws: variants of each picture; or those of a round, and no job for a part that has none."""
    recipe, settings = run.recipe, run.settings
    chosen = {name: getattr(recipe, name).identity() for name in ("edit", "painter", "composite")}
    chosen |= {"seed": settings.seed, "split": settings.select.split}
    split, known = settings.select.split, ingested.categories
    survey = survey_of(ingested.objects, ingested.images, run.root, split, known)
    chosen |= survey.identity(recipe, settings.select.categories)
    where = {"recipe": recipe.model_dump(mode="json")}
    where |= {name: getattr(ingested, name).model_dump() for name in ("images", "objects")}
    # Donors may come from any picture; else a part depends on its own pictures' boxes alone.
    common = {"images": ingested.images, "objects": ingested.objects} if recipe.needs_donors else {}
    return [
        make_job(
            run, "plan", VERSION, {**common, "selected": one, "captions": two}, chosen | _boxes(run, one) | own, where
        )
        for one, two in zip(selected.parts, captions.parts, strict=True)
        if (own := _of_part(one, draws)) is not None
    ]


def _boxes(run: Run, selected: Ref) -> dict[str, Any]:
    """Digests of the objects of a part's pictures: these lie in as many parts, or in more."""
    number, count = part_of_name(selected.file.name)
    return {"objects": [run.objects[part].sha256 for part in sorted(run.objects) if part % count == number]}


def _of_part(selected: Ref, draws: int | Sequence[DrawGroup]) -> dict[str, Any] | None:
    """The draws of the pictures of one part, as a part of its job's key; None for none."""
    if isinstance(draws, int):
        return {"variants": draws}
    keys = set(read_manifest(selected.file, SelectRow, ("key",)).key)
    own = [(group.lacking, {key: one for key, one in group.draws.items() if key in keys}) for group in draws]
    groups = [{"lacking": lacking, "draws": some} for lacking, some in own if some]
    return {"draws": groups} if groups else None


def _changes(former: Path, now: Path) -> dict[str, int]:
    """How the plan differs from the last run's (new pictures, old ones planned otherwise, gone), and barred boxes."""
    barred, whose = 0, ["image_key", "variant"]
    for rows in read_batches(now, PlanRow, ("status", "barred")):
        barred += int(rows.barred[rows.status == OK].map(len).sum())
    places, plans = (row_marks(now, PlanRow, names) for names in (whose, [*whose, "key"]))
    before, plans_before = (row_marks(former, PlanRow, names) for names in (whose, [*whose, "key"]))
    assert places is not None and plans is not None
    if before is None or plans_before is None:
        return {"new": len(places), "changed": 0, "gone": 0, "boxes left alone": barred}
    known = np.isin(places, before)
    return {
        "new": int((~known).sum()),
        "changed": int((known & ~np.isin(plans, plans_before)).sum()),
        "gone": int((~np.isin(before, places)).sum()),
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
    images, boxes = Ref.model_validate(job.where["images"]), Boxes.model_validate(job.where["objects"])
    objects = usable_objects(boxes, selected.key)
    prompts = dict(zip(captions.key, captions.prompt, strict=True))
    seed, draws = job.settings["seed"], job.settings.get("draws")
    if draws is not None:
        selected = selected[selected.key.isin([key for group in draws for key in group["draws"]])]
    former, outlines = None, None
    if recipe.needs_donors:
        former = _former_donors(job, selected.key)
        outlines = Outlines(sources_of(images, job.sources), job.store)
    statistics = _statistics(job, recipe, images, boxes)
    common = objects, prompts, recipe, statistics, seed
    if draws is None:
        rows = plan_requests(selected, *common, job.settings["variants"], former, outlines)
    else:
        groups = [DrawGroup.model_validate(group) for group in draws]
        rows = plan_draws(groups, selected, *common, former, outlines)
    job.advance(len(captions) if draws is None else len(rows))
    return job.write(rows, PlanRow)


def _former_donors(job: Job, image_keys: pd.Series) -> dict[int, Former]:
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


def _statistics(job: Job, recipe: Recipe, images: Ref, boxes: Boxes) -> Statistics:
    """As they were pinned when the job's key was made."""
    settings, root = job.settings, Path(job.workspace)
    return statistics_of(boxes, images, root, settings["split"], settings.get("categories", ()), recipe)
