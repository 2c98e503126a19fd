"""screen: pictures that cannot be any good are set aside; on request, what is in each painted box is judged, and what
is in the painted parts beside them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, TypeAdapter

from lib.core.checkpoints import ModelRef
from lib.core.errors import AugmentError
from lib.core.mirror import drain
from lib.core.places import path_of, shown
from lib.core.registry import Member
from lib.records.manifest import Ref, read_batches, read_manifest
from lib.records.rows import OK, ObjectRow, PictureRow, ScreenRow
from lib.records.settings import BoxScreenSettings, ScreenSettings
from lib.records.store import Store
from lib.screening.boxes import BoxRules, judge_pictures, learn_rules, real_boxes
from lib.screening.labels import count_verdicts
from lib.screening.pictures import VERSION, equal_before, measure_pictures
from lib.screening.unlabelled import Sought, find_unlabelled
from tasks.engine import log, step
from tasks.ingest import Ingested
from tasks.inputs import Boxes, Requests, boxes_digest, boxes_of, by_picture, frames_of, sources_of, survey_of
from tasks.jobs import Job, make_job, may_pass, stage_task
from tasks.models import judge_for, use_member
from tasks.progress import advance, begin
from tasks.run import Run
from tasks.stages import Link, Stage, settled

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
            workspace=shown(run.root),
            sources=shown(run.sources.absolute()),
            ingested=ingested,
            split=run.settings.select.split,
            also=_paintable(run, ingested),
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


def _paintable(run: Run, ingested: Ingested) -> set[str]:
    """Categories that new labels may have: a pinned place may be of one that no box has any more."""
    split, known = run.settings.select.split, ingested.categories
    survey = survey_of(ingested.objects, ingested.images, run.root, split, known, pins=False)
    return {*(name for _, name in run.recipe.categories), *survey.statistics(run.recipe).places}


def _labelled(objects: Ref) -> set[str]:
    """Categories that have boxes."""
    batches = read_batches(objects.file, ObjectRow, ("status", "category"))
    return {name for rows in batches for name in rows.category[rows.status == OK].unique()}


@step(name="limits", model=True, retries=2, retry_delay_seconds=5, retry_condition_fn=may_pass)
def judge_real(job: LimitsJob) -> BoxRules:
    """Learn the limits. Not cached: the store knows them, and each picture's shares."""
    images, objects = job.ingested.images, job.ingested.objects
    names = sorted(_labelled(objects) | job.also)
    real = real_boxes(by_picture(objects, images), job.split, job.settings.min_side)
    begin(job.workspace, "limits", len(real))
    store = Store(path_of(job.workspace) / "store")
    rules = learn_rules(
        real,
        names,
        job.settings,
        judge_for(job.model),
        sources_of(images, job.sources),
        store,
        lambda count: advance(job.workspace, "limits", count),
    )
    drain(store.root)
    return rules


def sought_of(run: Run, ingested: Ingested) -> Sought | None:
    """What objects without a label are looked for, and by which limits; None without a detector."""
    settings = run.settings.screen.unlabelled
    if run.detector is None or settings is None:
        return None
    own = _labelled(ingested.objects) | _paintable(run, ingested)
    with use_member(run.detector.model_dump(mode="json")) as detector:
        identity = detector.identity
    limits = settings.model_dump(include={"do", "score", "overlap", "inside"})
    return Sought(detector=identity, names=tuple(settings.categories or sorted(own)), **limits)


def check_detector(run: Run, ingested: Ingested) -> None:
    """Raise AugmentError, before anything is painted, where the detector knows none of what it is to look for."""
    sought = sought_of(run, ingested)
    if sought is None or run.detector is None:
        return
    known = names_known(run.detector, list(sought.names))
    if not known:
        raise AugmentError(
            f"screen.unlabelled.detector {run.detector.name!r} knows none of {', '.join(sought.names)}: set "
            "screen.unlabelled.categories to what it knows, or choose another detector or model"
        )
    run.save(detector={"identity": sought.detector, "names": list(sought.names)})
    if len(known) < len(sought.names):
        log().warning("screen.unlabelled: the detector knows %s alone", ", ".join(known))


@step(name="detector", model=True, retries=2, retry_delay_seconds=5, retry_condition_fn=may_pass)
def names_known(detector: Member, names: list[str]) -> list[str]:
    """Those of the names that a detector can find."""
    with use_member(detector.model_dump(mode="json")) as built:
        return [name for name, known in zip(names, built.knows(names), strict=True) if known]


def screening(run: Run, ingested: Ingested, rules: BoxRules | None, total: int) -> Link:
    """ScreenRows of the generated pictures, `total` at most; duplicates are marked once all parts are known."""
    job = screen_jobs(run, ingested, rules)
    return Link(screen_stage(run, rules), lambda _, made: job(made[0], made[1]), total)


def screen_jobs(run: Run, ingested: Ingested, rules: BoxRules | None) -> Callable[[Ref, Ref], Job]:
    """Makes the job of a part, of the PlanRows that hold its requests and of its PictureRows."""
    where: dict[str, Any] = {"images": ingested.images.model_dump(), "objects": ingested.objects.model_dump()}
    sought = sought_of(run, ingested)
    if run.detector is not None:
        where["detector"] = run.detector.model_dump(mode="json")
    if rules is not None and run.judge is not None:
        where["judge"] = _MODEL.dump_python(run.judge, mode="json")

    def job(plan: Ref, pictures: Ref) -> Job:
        settings = _settings(run, ingested, rules, sought, pictures)
        return make_job(run, "screen", VERSION, {"pictures": pictures}, settings, where | {"plan": plan.model_dump()})

    return job


def screen_stage(run: Run, rules: BoxRules | None, equal: Callable[[np.ndarray], np.ndarray] = equal_before) -> Stage:
    """The stage, whose jobs are those of `screen_jobs`. equal: finds duplicates, where these are to be set aside."""
    judged = rules is not None or run.detector is not None
    return Stage(
        screen_part,
        ScreenRow,
        ("pictures", PictureRow),
        equal=equal if run.settings.screen.duplicates else None,
        valid=_settled,
        more=(lambda before, now: count_verdicts(read_batches(now, ScreenRow, ("boxes",)))) if judged else _nothing,
    )


def _nothing(before: Path, now: Path) -> dict[str, Any]:
    return {}


def _settings(run: Run, ingested: Ingested, rules: BoxRules | None, sought: Sought | None, part: Ref) -> dict[str, Any]:
    """What a part's rows depend on; with a judge or a detector that is the source's boxes and categories as well."""
    screen = run.settings.screen.model_dump(mode="json", exclude={"boxes", "unlabelled"})
    settings: dict[str, Any] = {"pictures": screen}
    if rules is not None:
        settings["boxes"] = rules.identity()
    if sought is not None:
        settings["unlabelled"] = sought.model_dump(mode="json")
    if rules is None and sought is None:
        return settings
    keys = read_manifest(part.file, PictureRow, ("image_key",)).image_key
    return settings | {"objects": boxes_digest(ingested.objects, keys)}


def _settled(part: Ref) -> bool:
    return settled(read_manifest(part.file, ScreenRow, ("reason",)))


@stage_task("screen")
def screen_part(job: Job) -> Ref:
    """Judge the pictures of one part, each alone, and then the boxes in those that pass."""
    images = Ref.model_validate(job.where["images"])
    pictures, load = job.read("pictures", PictureRow), sources_of(images, job.sources)
    pictures, settings = pictures[pictures.status == OK], ScreenSettings.model_validate(job.settings["pictures"])
    frames = frames_of(images, pictures.image_key)
    if not {"boxes", "unlabelled"} & job.settings.keys():
        return job.write(measure_pictures(pictures, frames, settings, load, job.store, job.advance), ScreenRow)
    rows = measure_pictures(pictures, frames, settings, load, job.store)
    outcomes = Requests(parts=[Ref.model_validate(job.where["plan"])]).outcomes(pictures.key)
    boxes = boxes_of(Boxes.model_validate(job.where["objects"]), pictures.image_key)
    if "boxes" in job.settings:
        rules, judge = (
            BoxRules.model_validate(job.settings["boxes"]),
            judge_for(_MODEL.validate_python(job.where["judge"])),
        )
        more = job.advance if "unlabelled" not in job.settings else lambda count: None
        rows = judge_pictures(rows, outcomes, boxes, rules, judge, job.store, more)
    if "unlabelled" in job.settings:
        sought = Sought.model_validate(job.settings["unlabelled"])
        with use_member(job.where["detector"]) as detector:
            rows = find_unlabelled(rows, outcomes, boxes, sought, detector, job.store, job.advance)
    return job.write(rows, ScreenRow)
