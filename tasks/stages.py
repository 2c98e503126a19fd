"""Stages: jobs over all parts of the rows, their manifest and account. Parts of a chain of stages wait for nobody else.

    staged = run_stage(run, stage, jobs, total)                            # one stage
    plan, pictures, screened = run_chain(run, [planning, painting, ...], count)
    run_parts(run, [planning, painting, ...], count, ended)                # a chain without manifests: a round of many

In a chain a part goes on to the next stage as soon as it is done: while a model paints one, others are planned and
screened. What needs all rows (duplicates, the manifest, the account) is done when a stage's last part is.
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa

from lib.core.errors import AugmentError
from lib.core.files import atomic_path
from lib.records.kept import forget_ref, note_ref, noted_ref
from lib.records.manifest import Ref, read_table, row_marks, to_table, write_batches
from lib.records.rows import MAY_PASS, Row, ScreenRow, lost_rows
from lib.screening.pictures import COMPARED, pixel_marks, set_aside_equal
from tasks.artifacts import show_counts
from tasks.engine import Step, WorkerDied, engine, wait_for
from tasks.jobs import Job
from tasks.models import release_models
from tasks.parts import in_turn, join_parts, prune_parts, row_places, texts_at
from tasks.run import Work

Done = tuple[Ref, bool]  # a job's output, and whether it was made in this run
# Called with a stage's number, its outputs in the order of the parts, and seconds since its first part began.
Ended = Callable[[int, list[Done], float], None]
_MODELS = 2  # jobs with a model that are begun before others: one has the model, the next waits for it


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
    # Of the `pixel_marks` of all ScreenRows in the order of the data set: the row that each is equal to, -1 for none.
    equal: Callable[[np.ndarray], np.ndarray] | None = None
    # New rows of a part that was made now; None: those that are missing or different in the last manifest.
    made: Callable[[Ref], int] | None = None
    more: Callable[[Path, Path], dict[str, Any]] = lambda before, now: {}  # of the two manifests, for the account


@dataclass(frozen=True)
class Link:
    """A stage of a chain."""

    stage: Stage
    job: Callable[[int, Sequence[Ref]], Job]  # of a part's number, and of what the stages before made of that part
    total: int = 0  # items for the progress bar, at most
    closed: Callable[[Staged], None] = lambda staged: None  # called once the stage has its manifest


def settled(rows: pd.DataFrame) -> bool:
    """Are all rows final, none rejected for a reason that may have passed by the next run?"""
    return not rows.reason.isin(MAY_PASS).any()


def run_chain(run: Work, links: Sequence[Link], count: int) -> list[Staged]:
    """Run `count` parts through a chain of stages; write the manifest of each, account for its rows, show them."""
    staged: list[Staged] = []

    def ended(number: int, done: list[Done], seconds: float) -> None:
        link = links[number]
        staged.append(close_stage(run, link.stage, done, seconds, release=number == len(links) - 1))
        link.closed(staged[-1])

    run_parts(run, links, count, ended)
    return staged


def run_stage(run: Work, stage: Stage, jobs: Sequence[Job], total: int) -> Staged:
    """Run a stage's jobs, write its manifest, account for its rows, show them. total: items for the progress bar."""
    run.progress.start(stage.work.name, total)
    done = run_jobs(jobs, stage)
    run.progress.finish(stage.work.name)
    return close_stage(run, stage, done)


def run_parts(run: Work, links: Sequence[Link], count: int, ended: Ended) -> None:
    """Run `count` parts through a chain of stages, and leave it to `ended` what becomes of each stage's outputs."""

    def finished(number: int, done: list[Done], seconds: float) -> None:
        run.progress.finish(links[number].stage.work.name)
        ended(number, done, seconds)

    for link in links:
        run.progress.start(link.stage.work.name, link.total)
    _Chain(links, count, finished).run()


def run_jobs(jobs: Sequence[Job], stage: Stage) -> list[Done]:
    """Run jobs in parallel; an earlier run's output is used while its record and its digest hold, and it is `valid`."""
    found: list[Done] = []
    _Chain([Link(stage, lambda number, _: jobs[number])], len(jobs), lambda _, done, __: found.extend(done)).run()
    return found


class _Begun(NamedTuple):
    """A part at a stage that an engine has."""

    link: int
    part: int
    job: Job
    known: Ref | None
    future: Any


class _Chain:
    """Parts on their way through stages.

    What uses a model comes first, as a device is what should not wait: while it has nothing to do, parts are brought
    to it. Of the rest the latest stage comes first, so that what a part's pictures were decoded for is done while they
    are at hand. Threads get no more than they can begin, in this order; the workers of a cluster get all, with a
    priority, the earlier stage first: their pictures may be at hand elsewhere.
    """

    def __init__(self, links: Sequence[Link], count: int, ended: Ended) -> None:
        self.links, self.count, self.ended = links, count, ended
        self.done: list[dict[int, Done]] = [{} for _ in links]
        self.began: dict[int, float] = {}
        # Of each stage the parts that may begin, by whether they use a model.
        self.ready: dict[bool, list[list[tuple[int, Job]]]] = {model: [[] for _ in links] for model in (False, True)}
        self.models = False  # does any?
        self.begun: dict[int, _Begun] = {}  # by the number of their turn
        self.over: SimpleQueue[int] = SimpleQueue()  # turns that have ended
        self.fault: tuple[int, BaseException] | None = None  # the earliest stage that failed

    def run(self) -> None:
        """Until all parts are through. Where one fails no later stage begins; the others of its stage, and of those
        before it, end as they would have; then its error is raised."""
        engine().share()
        try:
            for part in range(self.count):
                self._make_ready(0, part)
            for link in () if self.count else range(len(self.links)):
                self.ended(link, [], 0.0)
            self._begin()
            while self.begun:
                ended = self._end(self.begun.pop(self.over.get()))
                self._begin()
                if ended is not None:
                    self._close(ended)
        except BaseException:
            engine().stop([one.future for one in self.begun.values()])  # the workspace stays locked while any writes
            raise
        if self.fault is not None:
            raise self.fault[1]

    def _make_ready(self, link: int, part: int) -> None:
        job = self.links[link].job(part, [self.done[before][part][0] for before in range(link)])
        self.models = self.models or job.model
        heapq.heappush(self.ready[job.model][link], (part, job))

    def _begin(self) -> None:
        turn = max(self.begun, default=-1) + 1
        while len(self.begun) < engine().room and (one := self._next()) is not None:
            link, part, job = one
            stage = self.links[link].stage
            self.began.setdefault(link, time.monotonic())
            known = _known(job, stage.valid)
            future = _submit(stage, job, known, -link)
            self.begun[turn] = _Begun(link, part, job, known, future)
            engine().when_done(future, lambda turn=turn: self.over.put(turn))  # type: ignore[misc]
            turn += 1

    def _next(self) -> tuple[int, int, Job] | None:
        busy = sum(one.job.model and one.known is None for one in self.begun.values())
        hungry = self.models and busy < _MODELS
        waiting, rest = self._ready(True), self._ready(False)
        for model, links in ((True, waiting), (False, rest)) if busy < _MODELS else ((False, rest), (True, waiting)):
            if links:
                link = links[0] if model or hungry else links[-1]
                return link, *heapq.heappop(self.ready[model][link])
        return None

    def _ready(self, model: bool) -> list[int]:
        """Stages that parts may begin."""
        return [link for link, parts in enumerate(self.ready[model]) if parts and self._goes_on(link)]

    def _goes_on(self, link: int) -> bool:
        return self.fault is None or link <= self.fault[0]

    def _end(self, one: _Begun) -> int | None:
        """Enter what came of a part; returns the number of its stage where it was the last one."""
        link, part, job, known, future = one
        try:
            ref = _made(self.links[link].stage, job, future)
        except Exception as error:
            if self.fault is None or link < self.fault[0]:
                self.fault = link, error
            return None
        self.done[link][part] = ref, known is None
        if link + 1 < len(self.links) and self._goes_on(link + 1):
            self._make_ready(link + 1, part)
        return link if len(self.done[link]) == self.count else None

    def _close(self, link: int) -> None:
        done = [self.done[link][part] for part in range(self.count)]
        self.ended(link, done, time.monotonic() - self.began[link])


def _submit(stage: Stage, job: Job, known: Ref | None = None, priority: int = 0) -> Any:
    given = job.model_copy(update={"known": known})
    return engine().submit(stage.work, [given], model=job.model, here=known is not None, priority=priority)


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
        if ref is not None and valid(ref):
            return ref
    except AugmentError:
        pass
    forget_ref(job.out)
    return None


def close_stage(
    run: Work, stage: Stage, done: Sequence[Done], seconds: float | None = None, release: bool = True
) -> Staged:
    """Write the manifest of a stage whose jobs are done, account for its rows, show them.

    seconds: as Work.count; release: models leave the memory, since no stage that still runs uses them.
    """
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
    pa.default_memory_pool().release_unused()  # what sorting took, which it would keep for later
    prune_parts(run, name, parts)
    if release:
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
    equal = stage.equal(marks_of(parts)[order])
    firsts = np.unique(equal[equal >= 0])
    names = dict(zip(firsts.tolist(), texts_at(parts, stage.row_type, "name", order[firsts]), strict=True))
    equal_of = in_turn(equal)
    for table in tables:
        named = [names.get(place) for place in equal_of(table).tolist()]
        yield to_table(set_aside_equal(table.to_pandas(), named), stage.row_type) if any(named) else table


def marks_of(screened: Sequence[Ref]) -> np.ndarray:
    """`pixel_marks` of the ScreenRows of all parts, as they lie there."""
    marks = (pixel_marks(read_table(ref.file, ScreenRow, COMPARED)) for ref in screened)
    return np.concatenate([np.zeros((0, 2), np.uint64), *marks])


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
