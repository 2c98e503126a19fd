"""screen: pictures that cannot be any good are set aside; on request, what is in each painted box is judged."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from pydantic import BaseModel, TypeAdapter

from lib.core.checkpoints import ModelRef
from lib.records.manifest import Ref, read_manifest
from lib.records.rows import OK, ImageRow, ObjectRow, PictureRow, ScreenRow
from lib.records.settings import BoxScreenSettings, ScreenSettings
from lib.records.store import Store
from lib.screening.boxes import BoxRules, count_verdicts, judge_pictures, learn_rules, real_boxes
from lib.screening.pictures import VERSION, mark_duplicates, measure_pictures
from tasks.engine import log, step
from tasks.ingest import Ingested
from tasks.inputs import boxes_digest, boxes_of, frames_of, judge_for, outcomes_of, sources_of
from tasks.jobs import Job, Stage, Staged, make_job, may_pass, run_stage, settled, stage_task
from tasks.progress import advance, begin
from tasks.run import Run

_MODEL = TypeAdapter(ModelRef)


class LimitsJob(BaseModel):
    """The parameters of the task `limits`."""

    workspace: str
    sources: str
    ingested: Ingested
    split: str
    also: set[str]  # categories that new labels may have, beside those with boxes
    settings: BoxScreenSettings
    model: ModelRef


def learn_limits(run: Run, ingested: Ingested) -> BoxRules | None:
    """The limits that painted boxes have to meet, learned from real ones; None without a judge.

    Before anything is painted, so that a fault of the judge shows at once.
    """
    if run.judge is None or run.settings.screen.boxes is None:
        return None
    rules = judge_real(
        LimitsJob(
            workspace=str(run.root),
            sources=str(run.sources.absolute()),
            ingested=ingested,
            split=run.settings.select.split,
            also={name for _, name in run.recipe.categories},
            settings=run.settings.screen.boxes,
            model=run.judge,
        )
    )
    run.save(judge=rules.judge, limits=rules.limits.by_name(rules.names))
    if not rules.known:
        log().warning(
            "screen.boxes: %d real boxes are too few to learn limits from (screen.boxes.least is %d): all are kept",
            sum(rules.boxes),
            run.settings.screen.boxes.least,
        )
    return rules


@step(name="limits", retries=2, retry_delay_seconds=5, retry_condition_fn=may_pass)
def judge_real(job: LimitsJob) -> BoxRules:
    """Learn the limits. Not cached: the store knows them, and each picture's shares."""
    images, objects = job.ingested.images, job.ingested.objects
    rows = read_manifest(objects.file, ObjectRow, ("key", "status", "image_key", "category", *"xywh", "crowd"))
    pictures = read_manifest(images.file, ImageRow, ("key", "status", "split", "digest", "frame", "width", "height"))
    names = sorted({*rows.category[rows.status == OK], *job.also})
    real = real_boxes(rows, pictures, job.split, job.settings.min_side)
    begin(job.workspace, "limits", len(real))
    return learn_rules(
        real,
        names,
        job.settings,
        judge_for(job.model),
        sources_of(images, job.sources),
        Store(Path(job.workspace) / "store"),
        lambda count: advance(job.workspace, "limits", count),
    )


def screen_images(run: Run, ingested: Ingested, plan: Staged, pictures: Staged, rules: BoxRules | None) -> Staged:
    """ScreenRows of the generated pictures; duplicates are marked once all parts are known."""
    plans = [plan.manifest] * len(pictures.parts)
    jobs = screen_jobs(run, ingested, plans, pictures.parts, rules)
    return run_stage(run, screen_stage(run, rules), jobs, pictures.manifest.rows)


def screen_jobs(
    run: Run, ingested: Ingested, plans: Sequence[Ref], pictures: Sequence[Ref], rules: BoxRules | None
) -> list[Job]:
    """A job for each part of the pictures; plans: PlanRows that hold the requests of each part."""
    where: dict[str, Any] = {"images": ingested.images.model_dump()}
    if rules is not None and run.judge is not None:
        where |= {"objects": ingested.objects.model_dump()}
        where["judge"] = _MODEL.dump_python(run.judge, mode="json")
    return [
        make_job(
            run,
            "screen",
            VERSION,
            {"pictures": part},
            _settings(run, ingested, rules, part),
            where | {"plan": plan.model_dump()},
        )
        for plan, part in zip(plans, pictures, strict=True)
    ]


def screen_stage(
    run: Run, rules: BoxRules | None, tidy: Callable[[pd.DataFrame], pd.DataFrame] = mark_duplicates
) -> Stage:
    """The stage, whose jobs are those of `screen_jobs`. tidy: where duplicates are to be set aside, marks them."""
    more = count_verdicts if rules is not None else lambda rows: {}
    kept = tidy if run.settings.screen.duplicates else lambda rows: rows
    return Stage(screen_part, ScreenRow, tidy=kept, valid=_settled, more=more)


def _settings(run: Run, ingested: Ingested, rules: BoxRules | None, part: Ref) -> dict[str, Any]:
    """What a part's rows depend on; with a judge that is the source's boxes and categories as well."""
    settings: dict[str, Any] = {"pictures": run.settings.screen.model_dump(mode="json", exclude={"boxes"})}
    if rules is None:
        return settings
    keys = read_manifest(part.file, PictureRow, ("image_key",)).image_key
    return settings | {"boxes": rules.model_dump(mode="json"), "objects": boxes_digest(ingested.objects, keys)}


def _settled(part: Ref) -> bool:
    return settled(read_manifest(part.file, ScreenRow, ("reason",)))


@stage_task("screen")
def screen_part(job: Job) -> Ref:
    """Judge the pictures of one part, each alone, and then the boxes in those that pass."""
    images = Ref.model_validate(job.where["images"])
    pictures, load = job.read("pictures", PictureRow), sources_of(images, job.sources)
    pictures, settings = pictures[pictures.status == OK], ScreenSettings.model_validate(job.settings["pictures"])
    if "boxes" not in job.settings:
        return job.write(
            measure_pictures(pictures, frames_of(images), settings, load, job.store, job.advance), ScreenRow
        )
    rows = measure_pictures(pictures, frames_of(images), settings, load, job.store)
    outcomes = outcomes_of(Ref.model_validate(job.where["plan"]), pictures.key)
    boxes, rules = boxes_of(Ref.model_validate(job.where["objects"])), BoxRules.model_validate(job.settings["boxes"])
    judge = judge_for(_MODEL.validate_python(job.where["judge"]))
    return job.write(judge_pictures(rows, outcomes, boxes, rules, judge, job.store, job.advance), ScreenRow)
