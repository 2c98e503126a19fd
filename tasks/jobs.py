"""Jobs: one stage over one part of the rows. Cached by content, retried where it can help, mapped over parts.

A stage's rows lie in parts, hash buckets of the pictures, so that a new picture touches one part. A job's key is
SHA-256 over the stage, its VERSION, its settings and its inputs' digests; its output is parts/<stage>/<key>.parquet,
and <key>.json beside it, written last, holds its digest and number of rows. Prefect itself keeps no results: it would
trust the serializer that a result's file names, and so run code that somebody wrote into a workspace.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.states import Completed
from prefect.tasks import exponential_backoff
from pydantic import BaseModel

from lib.core import mirror
from lib.core.errors import AugmentError
from lib.core.files import atomic_path
from lib.core.keys import key_of
from lib.core.storage import lasting
from lib.records.kept import note_ref, noted_ref
from lib.records.manifest import (
    Ref,
    read_manifest,
    read_table,
    row_marks,
    to_table,
    write_batches,
    write_manifest,
)
from lib.records.rows import MAY_PASS, Row, lost_rows
from lib.records.store import Store
from lib.screening.pictures import set_aside_equal
from tasks.artifacts import show_counts
from tasks.engine import Step, WorkerDied, engine, step, wait_for
from tasks.models import release_models
from tasks.parts import in_turn, join_parts, prune_parts, row_places
from tasks.progress import advance, check_run
from tasks.run import Work


class Job(BaseModel):
    """The parameters of a task: paths, digests and small values."""

    stage: str
    key: str  # content key; names the output
    label: str  # for a person
    workspace: str
    sources: str  # folder with the source pictures; not part of the key
    inputs: dict[str, Ref]
    settings: dict[str, Any]
    where: dict[str, Any] = {}  # what the work needs but its result does not depend on: model folder, batch size
    known: Ref | None = None  # the output, where an earlier run left it and it can be trusted

    @property
    def out(self) -> Path:
        """The Parquet file with the job's rows."""
        return Path(self.workspace) / "parts" / self.stage / f"{self.key[:32]}.parquet"

    @property
    def store(self) -> Store:
        """The workspace's store of pictures and scores."""
        return Store(Path(self.workspace) / "store")

    @property
    def model(self) -> bool:
        """Does the work run a model: a painter, a captioner, a detector or a judge with a checkpoint?"""
        members = (self.where.get(kind) or {} for kind in ("painter", "captioner", "detector"))
        return "judge" in self.where or any(member.get("model") for member in members)

    def read(self, name: str, row_type: type[Row], columns: Sequence[str] | None = None) -> pd.DataFrame:
        """One of the inputs as a DataFrame."""
        return read_manifest(Path(self.inputs[name].path), row_type, columns)

    def bring(self) -> None:
        """What the work reads of the workspace, from its bucket, on a machine where it is not as the job names it."""
        named = [one for one in self.where.values() if isinstance(one, dict) and {"path", "rows", "sha256"} <= set(one)]
        for ref in [*self.inputs.values(), *map(Ref.model_validate, named)]:
            if not ref.intact():
                mirror.fetch(ref.file)

    def advance(self, count: int) -> None:
        """`count` more items are done."""
        advance(self.workspace, self.stage, count)

    def write(self, rows: Any, row_type: type[Row], note: bytes = b"") -> Ref:
        """The job's output. note: as write_manifest keeps it."""
        return write_manifest(self.out, rows, row_type, note)


def make_job(
    run: Work,
    stage: str,
    version: int,
    inputs: Mapping[str, Ref],
    settings: Mapping[str, Any] | None = None,
    where: Mapping[str, Any] | None = None,
) -> Job:
    """A job with its content key."""
    settings = dict(settings or {})
    digests = {name: ref.sha256 for name, ref in inputs.items()}
    key = key_of(stage, version, settings, digests)
    return Job(
        stage=stage,
        key=key,
        label=key[:8],
        workspace=str(run.root),
        sources=str(run.sources.absolute()),
        inputs=dict(inputs),
        settings=settings,
        where=dict(where or {}),
    )


def may_pass(task: Any, run: Any, state: State[Any]) -> bool:
    """Retry what can pass (memory, storage, a download), not what cannot (bad input, a full disk, a wrong program)."""
    try:
        state.result()
    except AugmentError:
        return False
    except (OSError, MemoryError) as error:
        return not lasting(error)
    except Exception as error:
        return type(error).__name__ == "OutOfMemoryError"  # torch's, without importing torch here
    return False


def stage_task(stage: str) -> Callable[[Callable[[Job], Ref]], Step[[Job], Ref]]:
    """Make a function of a Job a retried task that notes its output; a known output makes the state "Cached"."""

    def decorate(make: Callable[[Job], Ref]) -> Step[[Job], Ref]:
        @functools.wraps(make)
        def work(job: Job) -> Any:
            if job.known is not None:
                return Completed(name="Cached", data=job.known)
            check_run(job.workspace)
            if mirror.attach(Path(job.workspace)):
                job.bring()
            ref = make(job)
            note_ref(ref)
            return ref

        made: Step[[Job], Ref] = step(
            name=stage,
            task_run_name=stage + "-{job.label}",
            cache_policy=NO_CACHE,
            retries=2,
            retry_delay_seconds=exponential_backoff(backoff_factor=5),
            retry_condition_fn=may_pass,
        )(work)
        return made

    return decorate


Done = tuple[Ref, bool]  # the output, and whether it was made in this run


def run_jobs(jobs: Sequence[Job], stage: Stage) -> list[Done]:
    """Run jobs in parallel; an earlier run's output is used while its record and its digest hold, and it is `valid`."""
    known = [_known(job, stage.valid) for job in jobs]
    futures = [_submit(stage, job, ref) for job, ref in zip(jobs, known, strict=True)]
    wait_for(futures)  # all of them, before one may raise: the workspace stays locked while any still writes
    return [(_made(stage, *one), ref is None) for *one, ref in zip(jobs, futures, known, strict=True)]


def _submit(stage: Stage, job: Job, known: Ref | None = None) -> Any:
    given = job.model_copy(update={"known": known})
    return engine().submit(stage.work, [given], model=job.model, here=known is not None)


def _made(stage: Stage, job: Job, future: Any) -> Ref:
    """A job's output. One whose workers died has its turn again, alone: another part may have been what killed them.
    Where they die again its rows are set aside."""
    try:
        return future.result()
    except WorkerDied:
        again = _submit(stage, job)
        wait_for([again])
    try:
        return again.result()
    except WorkerDied as error:
        source, row_type = stage.takes
        rows = lost_rows(job.read(source, row_type), stage.row_type, "worker_died", f"{error}")
        ref = job.write(rows, stage.row_type)
        note_ref(ref)
        return ref


def _known(job: Job, valid: Callable[[Ref], bool]) -> Ref | None:
    try:
        ref = noted_ref(job.out)
        return ref if ref is not None and valid(ref) else None
    except AugmentError:
        return None


def settled(rows: pd.DataFrame) -> bool:
    """Are all rows final, none rejected for a reason that may have passed by the next run?"""
    return not rows.reason.isin(MAY_PASS).any()


class Staged(NamedTuple):
    """A finished stage."""

    manifest: Ref  # all rows, in the order of the data set
    parts: list[Ref]  # the same rows as the next stage takes them


@dataclass(frozen=True)
class Stage:
    """What is particular to a stage: how its rows are made, trusted and counted."""

    work: Step[[Job], Ref]  # makes the rows of one part; its name is the stage's
    row_type: type[Row]
    takes: tuple[str, type[Row]]  # the job's input whose rows become these
    by: str = "image_key"  # column with the image key
    valid: Callable[[Ref], bool] = lambda part: True  # do the files exist that an earlier run's part names?
    # Of ScreenRow columns `compared`, all in the order of the data set: the row that each is equal to, -1 for none.
    equal: Callable[[pa.Table], np.ndarray] | None = None
    compared: Sequence[str] = ("status", "pixels")
    # New rows of a part that was made now; None: those that are missing or different in the last manifest.
    made: Callable[[Ref], int] | None = None
    more: Callable[[Path, Path], dict[str, Any]] = lambda before, now: {}  # of the two manifests, for the account


def run_stage(run: Work, stage: Stage, jobs: Sequence[Job], total: int) -> Staged:
    """Run a stage's jobs, write its manifest, account for its rows, show them. total: items for the progress bar."""
    return close_stage(run, stage, run_part(run, stage, jobs, total))


def run_part(run: Work, stage: Stage, jobs: Sequence[Job], total: int) -> list[Done]:
    """Run some of a stage's jobs: all of them, or those of a round."""
    run.progress.start(stage.work.name, total)
    done = run_jobs(jobs, stage)
    run.progress.finish(stage.work.name)
    return done


def close_stage(run: Work, stage: Stage, done: Sequence[Done], seconds: float | None = None) -> Staged:
    """Write the manifest of a stage whose jobs are done, account for its rows, show them. seconds: as Work.count."""
    name, row_type = stage.work.name, stage.row_type
    parts, path = [ref for ref, _ in done], run.manifest(name)
    fresh = [ref for ref, now in done if now]
    places = row_places(run, parts, row_type, stage.by)
    rows = join_parts(run, parts, row_type, places)
    with atomic_path(path) as new:  # the former manifest stays until the two were compared
        made = write_batches(new, rows if stage.equal is None else _set_aside(stage, parts, places, rows), row_type)
        painted = sum(map(stage.made, fresh)) if stage.made else _new_rows(path, new, row_type, fresh)
        entries = stage.more(path, new)
    manifest = made.model_copy(update={"path": str(path)})
    prune_parts(run, name, parts)
    run.note_loads(engine().everywhere(release_models))
    run.count(name, manifest, painted=painted, reused=manifest.rows - painted, seconds=seconds, **entries)
    show_counts(run, name)
    return Staged(manifest, parts)


def _set_aside(
    stage: Stage, parts: Sequence[Ref], places: np.ndarray, tables: Iterable[pa.Table]
) -> Iterator[pa.Table]:
    """ScreenRows in the order of the data set, of equal pictures the first alone ok. places: of `row_places`."""
    assert stage.equal is not None
    order = np.argsort(places, kind="stable")

    def column(names: Sequence[str]) -> pa.Table:
        return pa.concat_tables([read_table(ref.file, stage.row_type, names) for ref in parts]).take(order)

    equal = stage.equal(column(stage.compared)) if parts else np.zeros(0, np.int64)
    firsts = np.unique(equal[equal >= 0])
    named_first = column(("name",)).take(firsts)["name"].to_pylist() if len(firsts) else []
    names = dict(zip(firsts.tolist(), named_first, strict=True))
    equal_of = in_turn(equal)
    for table in tables:
        named = [names.get(place) for place in equal_of(table).tolist()]
        yield to_table(set_aside_equal(table.to_pandas(), named), stage.row_type) if any(named) else table


def _new_rows(before: Path, now: Path, row_type: type[Row], fresh: Sequence[Ref]) -> int:
    """Number of rows missing or different in the last manifest; where none is, of those that were made again."""
    again = sum(ref.rows for ref in fresh)
    if not again:
        return again
    # Compared row by row: a new picture makes a whole part run, and about its own rows new.
    former, rows = row_marks(before, row_type), row_marks(now, row_type)
    if former is None or rows is None:
        return again
    return int((~np.isin(rows, former)).sum()) or again
