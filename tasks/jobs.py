"""Jobs: one stage over one part of the rows. Cached by content, retried where it can help, mapped over parts.

A stage's rows lie in parts, hash buckets of the pictures, so that a new picture touches one part. A job's key is
SHA-256 over the stage, its VERSION, its settings and its inputs' digests; its output is parts/<stage>/<key>.parquet,
and <key>.json beside it, written last, holds its digest and number of rows. Prefect itself keeps no results: it would
trust the serializer that a result's file names, and so run code that somebody wrote into a workspace.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.states import Completed
from prefect.tasks import exponential_backoff
from pydantic import BaseModel

from lib.core.errors import AugmentError
from lib.core.keys import key_of
from lib.core.places import path_of, shown
from lib.core.storage import lasting
from lib.records.kept import note_ref
from lib.records.manifest import (
    Ref,
    read_manifest,
    write_manifest,
)
from lib.records.rows import Row
from lib.records.store import Store
from tasks.engine import Step, step
from tasks.progress import advance, check_run
from tasks.run import Work


class Job(BaseModel):
    """The parameters of a task: paths, digests and small values."""

    stage: str
    key: str  # content key; names the output
    label: str  # for a person
    workspace: str  # this and `sources` in a bucket by URL, as each machine has a working copy of its own
    sources: str  # folder with the source pictures; not part of the key
    inputs: dict[str, Ref]
    settings: dict[str, Any]
    where: dict[str, Any] = {}  # what the work needs but its result does not depend on: model folder, batch size
    known: Ref | None = None  # the output, where an earlier run left it and it can be trusted

    @property
    def root(self) -> Path:
        """The workspace on this machine."""
        return path_of(self.workspace)

    @property
    def out(self) -> Path:
        """The Parquet file with the job's rows."""
        return self.root / "parts" / self.stage / f"{self.key[:32]}.parquet"

    @property
    def store(self) -> Store:
        """The workspace's store of pictures and scores."""
        return Store(self.root / "store")

    @property
    def model(self) -> bool:
        """Does the work run a model: a painter, a captioner, a detector or a judge with a checkpoint?"""
        members = (self.where.get(kind) or {} for kind in ("painter", "captioner", "detector"))
        return "judge" in self.where or any(member.get("model") for member in members)

    def read(self, name: str, row_type: type[Row], columns: Sequence[str] | None = None) -> pd.DataFrame:
        """One of the inputs as a DataFrame."""
        return read_manifest(self.inputs[name].file, row_type, columns)

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
        workspace=shown(run.root),
        sources=shown(run.sources.absolute()),
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
            began = time.monotonic()
            ref = make(job)
            note_ref(ref, time.monotonic() - began)
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
