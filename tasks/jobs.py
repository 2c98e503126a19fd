"""Jobs: one stage over one part of the rows. Cached by content, retried where it can help, mapped over parts.

A stage's rows lie in parts, hash buckets of the pictures, so that a new picture touches one part. A job's key is
SHA-256 over the stage, its VERSION, its settings and its inputs' digests; its output is parts/<stage>/<key>.parquet,
and <key>.json beside it, written last, holds its digest and number of rows. Prefect itself keeps no results: it would
trust the serializer that a result's file names, and so run code that somebody wrote into a workspace.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import pyarrow as pa
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.states import Completed
from prefect.tasks import exponential_backoff
from pydantic import BaseModel

from lib.core import mirror
from lib.core.errors import AugmentError
from lib.core.keys import hash_draw, key_of
from lib.core.stopping import check_stop
from lib.core.storage import lasting
from lib.records.kept import note_ref, noted_ref
from lib.records.manifest import Ref, former_manifest, read_manifest, to_table, write_manifest
from lib.records.rows import MAY_PASS, Row, arrow_schema
from lib.records.store import Store
from tasks.artifacts import show_counts
from tasks.engine import Step, step, wait_for
from tasks.models import release_models
from tasks.progress import advance
from tasks.run import Work

# Pictures in a part: 64 are seconds of copy-paste, minutes of diffusion. A large set has larger parts, since each costs
# the orchestrator tens of milliseconds a stage: at 10,000 pictures 64 parts, at 118,000 256.
SMALL_PART, LARGE_PART, PARTS = 64, 512, 64


_PART = re.compile(r"([0-9a-f]{32}|\d{4,}-of-\d{4,})\.(parquet|json)")  # as Job.out and split_parts name them


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

    def write(self, rows: Any, row_type: type[Row]) -> Ref:
        """The job's output."""
        return write_manifest(self.out, rows, row_type)


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
            check_stop()
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


def run_jobs(run: Work, jobs: Sequence[Job], work: Step[[Job], Ref], valid: Callable[[Ref], bool]) -> list[Done]:
    """Run jobs in parallel; an earlier run's output is used while its record and its digest hold, and it is `valid`."""
    known = [_known(job, valid) for job in jobs]
    futures = [work.submit(job.model_copy(update={"known": ref})) for job, ref in zip(jobs, known, strict=True)]
    wait_for(futures)  # all of them, before one may raise: the workspace stays locked while any still writes
    return [(future.result(), ref is None) for future, ref in zip(futures, known, strict=True)]


def _known(job: Job, valid: Callable[[Ref], bool]) -> Ref | None:
    try:
        ref = noted_ref(job.out)
        return ref if ref is not None and valid(ref) else None
    except AugmentError:
        return None


def settled(rows: pd.DataFrame) -> bool:
    """Are all rows final, none rejected for a reason that may have passed by the next run?"""
    return not rows.reason.isin(MAY_PASS).any()


def split_parts(run: Work, stage: str, rows: pd.DataFrame, row_type: type[Row], by: str = "key") -> list[Ref]:
    """Rows as parts by the hash of column `by`: a new row touches one part. No rows, no parts."""
    if rows.empty:
        return []
    wanted = max(min(len(rows) / SMALL_PART, PARTS), len(rows) / LARGE_PART)
    count = 2 ** max(0, math.ceil(math.log2(wanted)))
    bucket = rows[by].map(lambda key: hash_draw("part", key) % count)
    folder = run.root / "parts" / stage
    return [
        write_manifest(folder / f"{number:04d}-of-{count:04d}.parquet", group, row_type)
        for number, group in rows.groupby(bucket.to_numpy(), sort=True)
    ]


def join_parts(run: Work, parts: Sequence[Ref], row_type: type[Row], by: str = "image_key") -> pd.DataFrame:
    """Rows of all parts, in the order of the data set; `by` names the column with the image key."""
    frames = [read_manifest(ref.file, row_type) for ref in parts]
    if not frames:
        return to_table([], row_type).to_pandas()
    rows = pd.concat(frames, ignore_index=True)
    return rows.iloc[rows[by].map(run.order).argsort(kind="stable")].reset_index(drop=True)


class Staged(NamedTuple):
    """A finished stage."""

    manifest: Ref  # all rows, in the order of the data set
    parts: list[Ref]  # the same rows as the next stage takes them


@dataclass(frozen=True)
class Stage:
    """What is particular to a stage: how its rows are made, trusted and counted."""

    work: Step[[Job], Ref]  # makes the rows of one part; its name is the stage's
    row_type: type[Row]
    by: str = "image_key"  # column with the image key
    valid: Callable[[Ref], bool] = lambda part: True  # do the files exist that an earlier run's part names?
    tidy: Callable[[pd.DataFrame], pd.DataFrame] = lambda rows: rows  # what depends on all rows together
    # New rows of a part that was made now; None: those that are missing or different in the last manifest.
    made: Callable[[Ref], int] | None = None
    more: Callable[[pd.DataFrame], dict[str, Any]] = lambda rows: {}  # entries for the account


def run_stage(run: Work, stage: Stage, jobs: Sequence[Job], total: int) -> Staged:
    """Run a stage's jobs, write its manifest, account for its rows, show them. total: items for the progress bar."""
    return close_stage(run, stage, run_part(run, stage, jobs, total))


def run_part(run: Work, stage: Stage, jobs: Sequence[Job], total: int) -> list[Done]:
    """Run some of a stage's jobs: all of them, or those of a round."""
    run.progress.start(stage.work.name, total)
    done = run_jobs(run, jobs, stage.work, stage.valid)
    run.progress.finish(stage.work.name)
    return done


def close_stage(run: Work, stage: Stage, done: Sequence[Done], seconds: float | None = None) -> Staged:
    """Write the manifest of a stage whose jobs are done, account for its rows, show them. seconds: as Work.count."""
    name, row_type = stage.work.name, stage.row_type
    parts = [ref for ref, _ in done]
    rows = stage.tidy(join_parts(run, parts, row_type, stage.by))
    entries, path = stage.more(rows), run.manifest(name)
    fresh = [ref for ref, now in done if now]
    painted = sum(map(stage.made, fresh)) if stage.made else _new_rows(path, rows, row_type, fresh)
    manifest = write_manifest(path, rows, row_type)
    prune_parts(run, name, parts)
    release_models()
    run.count(name, rows, painted=painted, reused=len(rows) - painted, seconds=seconds, **entries)
    show_counts(run, name)
    return Staged(manifest, parts)


def _new_rows(before: Path, rows: pd.DataFrame, row_type: type[Row], fresh: Sequence[Ref]) -> int:
    """Number of rows missing or different in the last manifest; where none is, of those that were made again."""
    again = sum(ref.rows for ref in fresh)
    if not again:
        return again
    # Compared by their text: a new picture makes a whole part run, and about its own rows new. Bytes are left out:
    # they are a plan's requests, whose digest is the key.
    columns = [field.name for field in arrow_schema(row_type) if field.type != pa.large_binary()]
    former = former_manifest(before, row_type, columns)
    if former is None:
        return again
    known = set(former.astype(str).agg("\0".join, axis=1))
    return int((~rows[columns].astype(str).agg("\0".join, axis=1).isin(known)).sum()) or again


def prune_parts(run: Work, stage: str, keep: Sequence[Ref]) -> None:
    """Remove parts of a stage that this run did not use, and their records; folders of such names are left alone."""
    used = {ref.path for ref in keep}
    for path in (run.root / "parts" / stage).glob("*"):
        ours = _PART.fullmatch(path.name) and (path.is_symlink() or not path.is_dir())
        if ours and str(path.with_suffix(".parquet")) not in used:
            mirror.remove(path)
