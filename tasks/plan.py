"""plan: everything random decided; requests out."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pandas as pd

from lib.core.errors import AugmentError
from lib.core.files import file_digest
from lib.core.mirror import here, remove
from lib.core.places import shown
from lib.planning.former import Former, former_donors
from lib.planning.outlines import Outlines
from lib.planning.plan import plan_requests
from lib.planning.recipe import Recipe
from lib.planning.statistics import Statistics
from lib.planning.target import DrawGroup, plan_draws
from lib.records import kept
from lib.records.manifest import Ref, note_of, read_batches, read_manifest, read_tables, row_marks
from lib.records.parts import part_of_name
from lib.records.rows import OK, CaptionRow, PlanRow, SelectRow
from tasks.engine import kept as kept_result
from tasks.ingest import Ingested
from tasks.inputs import Boxes, donors_of, sources_of, statistics_of, survey_of, usable_objects
from tasks.jobs import Job, make_job, stage_task
from tasks.parts import deal
from tasks.run import Run
from tasks.stages import Link, Stage, Staged

VERSION = 4


def planning(run: Run, ingested: Ingested, selected: Staged, captions: Staged) -> Link:
    """PlanRows: one for each captioned picture and variant."""
    stage = plan_stage(run, ingested)
    jobs = plan_jobs(run, ingested, selected, captions, run.settings.variants)
    total = sum(part.rows for part in captions.parts)
    return Link(stage, lambda part, _: jobs[part], total, lambda staged: planned(run, ingested))


def plan_stage(run: Run, ingested: Ingested) -> Stage:
    """The stage, whose jobs are those of `plan_jobs`."""
    return Stage(plan_part, PlanRow, ("selected", SelectRow), more=_changes, valid=_donors_there(run, ingested))


def planned(run: Run, ingested: Ingested) -> None:
    """Note for which objects the plan is good, and remove what helped to make it."""
    kept.write(run.root / "parts" / "plan" / _POOL, _pool(run, ingested))
    for path in (run.root / "parts" / _FORMER).glob("*.parquet"):
        remove(path)


_POOL, _FORMER = "donors.json", "former"


def _pool(run: Run, ingested: Ingested) -> dict[str, str]:
    """Identity of all that may be a donor."""
    split = run.settings.select.split
    return {"objects": ingested.objects.sha256, "images": ingested.images.sha256, "split": split}


def _donors_there(run: Run, ingested: Ingested) -> Callable[[Ref], bool]:
    """Are the objects that a part's requests paste still in the data set, as they were? Then the part stays as it is,
    whatever was added."""
    file, pool = run.root / "parts" / "plan" / _POOL, _pool(run, ingested)
    with contextlib.suppress(AugmentError):
        if not run.recipe.needs_donors or kept.read(file, dict[str, str]) == pool:
            return lambda part: True
    file.unlink(missing_ok=True)  # from here on parts are made of other objects
    split = run.settings.select.split

    def there(part: Ref) -> bool:
        marks = kept.typed(note_of(part.file), list[int])
        return marks is not None and donors_of(ingested.objects, ingested.images, split).has_marks(marks)

    return there


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
    if recipe.needs_donors and (former := run.manifest("plan")).is_file():
        where["former"] = Ref(path=shown(former), rows=0, sha256=file_digest(former)).model_dump()
    return [
        make_job(run, "plan", VERSION, {"selected": one, "captions": two, **_boxes(run, one)}, chosen | own, where)
        for one, two in zip(selected.parts, captions.parts, strict=True)
        if (own := _of_part(one, draws)) is not None
    ]


def _boxes(run: Run, selected: Ref) -> dict[str, Ref]:
    """The objects of a part's pictures: these lie in as many parts, or in more. Its donors, which may be anybody's, are
    `_donors_there`'s."""
    number, count = part_of_name(selected.place.name)
    return {f"objects {part}": run.objects[part] for part in sorted(run.objects) if part % count == number}


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
    marks = statistics.donors.marks_of(row.request for row in rows if row.status == OK) if recipe.needs_donors else None
    return job.write(rows, PlanRow, b"" if marks is None else msgspec.json.encode(marks))


def _former_donors(job: Job, image_keys: pd.Series) -> dict[int, Former]:
    """Those of the last run's plan for these pictures."""
    if "former" not in job.where:
        return {}
    number, count = part_of_name(job.inputs["selected"].place.name)
    parts = _former_parts(Ref.model_validate(job.where["former"]), job.root / "parts" / _FORMER, count)
    with contextlib.suppress(AugmentError, msgspec.MsgspecError):  # of another version: chosen anew
        rows = read_manifest(parts[number], PlanRow, ("image_key", "status", "request")) if number in parts else None
        if rows is not None:
            return former_donors(rows.request[(rows.status == OK) & rows.image_key.isin(set(image_keys))])
    return {}


@kept_result(1)
def _former_parts(plan: Ref, folder: Path, count: int) -> dict[int, Path]:
    """The last run's plan in parts, by their numbers of `count`; they are this machine's alone."""
    with contextlib.suppress(AugmentError):
        total = sum(len(rows) for rows in read_tables(plan.file, PlanRow, ("status",)))
        parts = deal(folder, read_tables(plan.file, PlanRow), PlanRow, total, count, "image_key")
        return {part_of_name(part.place.name)[0]: part.place for part in parts}
    return {}


def _statistics(job: Job, recipe: Recipe, images: Ref, boxes: Boxes) -> Statistics:
    """As they were pinned when the job's key was made."""
    settings, root = job.settings, job.root
    for pinned in {"places", "mixes"} & settings.keys():
        here(root / f"{pinned}.json", sha256=settings[pinned])
    return statistics_of(boxes, images, root, settings["split"], settings.get("categories", ()), recipe)
