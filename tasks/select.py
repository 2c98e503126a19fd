"""select: which pictures may be used, which of their boxes; with a limit, so many that come out."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel

from lib.captioning.caption import CaptionForm, caption_pictures
from lib.captioning.captioners import CAPTIONERS
from lib.core.registry import Member
from lib.datasets.select import IMAGE_COLUMNS, OBJECT_COLUMNS, in_order_of_limit, select_batches
from lib.planning.enough import enough, planned
from lib.planning.recipe import Recipe
from lib.planning.target import sources_needed
from lib.records.manifest import GROUP, Ref, read_tables, write_batches
from lib.records.rows import OK, ImageRow, ObjectRow, SelectRow
from lib.records.settings import SelectSettings
from lib.records.sorting import LaidRows
from lib.records.store import ReadOnlyStore, Store
from tasks.engine import step
from tasks.ingest import Ingested
from tasks.inputs import records_of, sources_of, statistics_of, usable_objects
from tasks.jobs import Job, make_job, may_pass, stage_task
from tasks.models import use_member
from tasks.parts import count_parts, prune_parts, split_parts
from tasks.run import Run
from tasks.stages import Stage, Staged, run_stage
from tasks.target import goals_of

VERSION = 1


class LimitJob(BaseModel):
    """The parameters of the task `limit`."""

    workspace: str
    sources: str
    ingested: Ingested
    select: SelectSettings
    seed: int
    variants: int
    limit: int
    recipe: Recipe
    captioner: Member
    captions: CaptionForm


def select_images(run: Run, ingested: Ingested) -> Staged:
    """SelectRows; the parts hold those that are ok."""
    settings = run.settings
    chosen = {"select": settings.select.model_dump(mode="json"), "seed": settings.seed, "limit": _taken(run, ingested)}
    job = make_job(run, "select", VERSION, {"images": ingested.images, "objects": ingested.objects}, chosen)
    staged = run_stage(run, Stage(select_all, SelectRow, ("images", ImageRow), by="key"), [job], ingested.images.rows)
    parts = split_parts(run, "selected", staged.manifest, SelectRow, only_ok=True)
    prune_parts(run, "selected", parts)
    run.spread = count_parts(sum(part.rows for part in parts))
    return Staged(staged.manifest, parts)


def _taken(run: Run, ingested: Ingested) -> int | None:
    """Pictures to take in the order of their hashes; None: all. Where they all come out it is the limit itself."""
    settings = run.settings
    if settings.target is not None:
        return _sources_of_target(run, ingested)
    if settings.limit is None:
        return None
    taken, captioned = find_limit(
        LimitJob(
            workspace=str(run.root),
            sources=str(run.sources.absolute()),
            ingested=ingested,
            select=settings.select,
            seed=settings.seed,
            variants=settings.variants,
            limit=settings.limit,
            recipe=run.recipe,
            captioner=run.captioner,
            captions=run.captions,
        )
    )
    run.captioned.update(captioned)
    return taken


def _sources_of_target(run: Run, ingested: Ingested) -> int:
    """Sources that are enough for the target, in the order of their hashes."""
    settings = run.settings
    candidates = _candidates(ingested.images, ingested.objects, settings.select, settings.seed)
    return sources_needed(candidates, run.recipe, goals_of(run, ingested), settings.limit or 0)


@step(name="limit", retries=2, retry_delay_seconds=5, retry_condition_fn=may_pass)
def find_limit(job: LimitJob) -> tuple[int, list[str]]:
    """How many pictures to take so that `limit` of them have a plan, and the keys of those that got a caption here.

    Not cached: what it takes long for, captions by a model, is in the store.
    """
    images, objects = job.ingested.images, job.ingested.objects
    candidates = _candidates(images, objects, job.select, job.seed)
    if len(candidates) <= job.limit:
        return job.limit, []
    known, root = job.ingested.categories, Path(job.workspace)
    statistics = statistics_of(
        objects, images, root, job.select.split, known, job.recipe, job.select.categories, pins=True
    )
    captioned: list[str] = []

    def come_out(some: pd.DataFrame) -> set[str]:
        prompts, made = _prompts(job, some)
        captioned.extend(made)
        some = some[some.key.isin(prompts.keys())]
        return planned(some, usable_objects(objects, some.key), prompts, job.recipe, statistics, job.seed, job.variants)

    return max(job.limit, enough(candidates, job.limit, come_out)), captioned


def _prompts(job: LimitJob, selected: pd.DataFrame) -> tuple[dict[str, str], list[str]]:
    """Image key → prompt of the pictures that have a caption, and the keys of captions that were made by a model."""
    kept, images = Store(Path(job.workspace) / "store"), job.ingested.images
    store = kept if job.captioner.model else ReadOnlyStore(kept.root)  # what costs nothing its own stage makes
    records = records_of(images) if CAPTIONERS[job.captioner.name].NEEDS_RECORDS else {}
    with use_member(job.captioner.model_dump(mode="json")) as captioner:
        found = caption_pictures(
            selected, job.captions, store, sources_of(images, job.sources), captioner, records=records
        )
    prompts = {row.key: row.prompt for row in found if row.status == OK}
    return prompts, [row.key for row in found if job.captioner.model and row.raw and not row.reused]


@stage_task("select")
def select_all(job: Job) -> Ref:
    """Apply the rules to all pictures, some at a time."""
    settings = SelectSettings.model_validate(job.settings["select"])
    return write_batches(
        job.out,
        _selected(job.inputs["images"], job.inputs["objects"], settings, job.settings["seed"], job.settings["limit"]),
        SelectRow,
    )


def _selected(images: Ref, objects: Ref, settings: SelectSettings, seed: int, limit: int | None) -> Iterator[pa.Table]:
    return select_batches(
        lambda: read_tables(images.file, ImageRow, IMAGE_COLUMNS),
        read_tables(objects.file, ObjectRow, OBJECT_COLUMNS, size=8 * GROUP),
        settings,
        seed,
        limit,
        objects.file.parent,
        objects.rows,
    )


def _candidates(images: Ref, objects: Ref, settings: SelectSettings, seed: int) -> LaidRows:
    """The SelectRows that are ok without a limit, in its order."""
    rows = (table.filter(pc.equal(table["status"], OK)) for table in _selected(images, objects, settings, seed, None))
    return in_order_of_limit(rows, seed, images.rows, objects.file.parent)
