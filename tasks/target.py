"""target: painting in rounds, until what was asked for is accepted, or the budget is spent.

    rounds = Rounds(run, ingested, selected, captions, limits)
    while rounds.choose():              # draws for what is lacking: the task `target`
        rounds.paint()                  # they are planned, painted and screened
    plan, screened = rounds.close()     # the manifests, with the rows of all rounds

A round follows from the seed and from the stored results of those before it. Its jobs are those of the stages, over
the parts with a draw, so that a run that was ended goes on where it was. As in any run, a part is painted once it is
planned, and screened once it is painted: a round waits for its slowest part at its end alone. No manifest is written
before the last round.
"""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypedDict

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel

from lib.core.keys import canonical, key_of
from lib.datasets.select import OBJECT_COLUMNS, in_order_of_limit
from lib.planning.plan import plan_requests
from lib.planning.recipe import Recipe
from lib.planning.rounds import Tally
from lib.planning.target import (
    Draws,
    Wanted,
    check_target,
    choose_draws,
    count_boxes,
    paintable,
    steered,
    wanted_boxes,
)
from lib.records.kept import typed
from lib.records.manifest import GROUP, Ref, grouped, read_manifest, read_tables
from lib.records.rows import OK, CaptionRow, ImageRow, ObjectRow, PictureRow, PlanRow, ScreenRow, SelectRow
from lib.screening.accepted import Accepted
from lib.screening.boxes import BoxRules
from lib.screening.pictures import equal_before
from tasks.artifacts import show_target
from tasks.engine import log, step
from tasks.generate import generate_stage, note_whole, painting
from tasks.ingest import Ingested
from tasks.inputs import Requests, boxes_of, statistics_of, usable_objects
from tasks.jobs import may_pass
from tasks.parts import row_places, texts_at
from tasks.plan import plan_jobs, plan_stage, planned
from tasks.run import Run
from tasks.screen import screen_stage, screening
from tasks.stages import Done, Link, Stage, Staged, close_stage, marks_of, run_parts

_STAGES = ("plan", "generate", "screen")  # of a round


def goals_of(run: Run, ingested: Ingested) -> dict[str, int]:
    """Category → painted boxes that the run's target asks for; empty where it asks for pictures, or there is none.

    Raises AugmentError for what no draw can bring.
    """
    target, selected = run.settings.target, run.settings.select.categories
    if target is None:
        return {}
    images = read_tables(ingested.images.file, ImageRow, ("key", "status", "split"))
    objects = read_tables(ingested.objects.file, ObjectRow, OBJECT_COLUMNS, size=8 * GROUP)
    boxes = count_boxes(images, objects, run.settings.select.split)
    check_target(target, run.recipe, boxes, ingested.categories, selected)
    return wanted_boxes(target, boxes, paintable(run.recipe, boxes, selected))


class DrawJob(BaseModel):
    """The parameters of the task `target`."""

    workspace: str
    ingested: Ingested
    selected: Ref
    captions: Ref
    split: str
    categories: list[str] | None  # of `select`
    seed: int
    recipe: Recipe
    wanted: Wanted
    at: int


@step(name="target", retries=2, retry_delay_seconds=5, retry_condition_fn=may_pass)
def find_draws(job: DrawJob) -> Draws:
    """The draws of a round. Not cached: it takes as long as their plan."""
    images, objects = job.ingested.images, job.ingested.objects
    known = job.ingested.categories
    statistics = statistics_of(
        objects, images, Path(job.workspace), job.split, known, job.recipe, job.categories, pins=True
    )

    candidates = in_order_of_limit(_captioned(job), job.seed, job.captions.rows, job.selected.file.parent)
    categories: dict[str, str] = {}  # of the pictures that are looked at

    def look(some: pd.DataFrame, variant: int, lacking: Sequence[str]) -> list[PlanRow]:
        boxes = usable_objects(objects, some.key)
        categories.clear()
        categories.update(zip(boxes.key, boxes.category, strict=True))
        recipe, drawn_from, some = steered(job.recipe, statistics, some, lacking)
        variants = {key: [variant] for key in some.key}
        prompts = dict(zip(some.key, some.prompt, strict=True))
        return plan_requests(some, boxes, prompts, recipe, drawn_from, job.seed, variants)

    return choose_draws(candidates, job.wanted, job.at, look, categories)


def _captioned(job: DrawJob) -> Iterator[pa.Table]:
    """SelectRows of the pictures that have a caption, with its prompt as one more column."""
    selected = (table.filter(pc.equal(table["status"], OK)) for table in read_tables(job.selected.file, SelectRow))
    captions = read_tables(job.captions.file, CaptionRow, ("key", "status", "prompt"))
    for some, of_some in zip(grouped(selected, GROUP), grouped(captions, GROUP), strict=True):  # no row is ever lost
        assert some["key"].equals(of_some["key"])
        yield some.append_column("prompt", of_some["prompt"]).filter(pc.equal(of_some["status"], OK))


class _Spent(TypedDict):
    """Of a round, as the store has it: what its work took when it was done, however often it is looked up again."""

    seconds: float
    done: list[str]  # stages whose seconds are in it: all of them, or none; of former versions some


class Rounds:
    """The rounds of a run."""

    def __init__(
        self, run: Run, ingested: Ingested, selected: Staged, captions: Staged, rules: BoxRules | None
    ) -> None:
        self.run, self.ingested, self.selected, self.captions, self.rules = run, ingested, selected, captions, rules
        self.tally = Tally(goals_of(run, ingested), run.settings.limit, run.settings.budget)
        self.at, self.drawn = 0, Draws(at=0)
        self.done: dict[str, list[Done]] = {stage: [] for stage in _STAGES}  # parts of all rounds
        self.round_of: list[int] = []  # of each screened part
        self.keys: list[str] = []  # of each round's _Spent
        self.clock = Counter[str]()  # seconds of each stage in this run

    def choose(self) -> bool:
        """Find the draws of the next round; False where there is none."""
        while (wanted := self.tally.next()) is not None:
            settings = self.run.settings
            self.drawn = find_draws(
                DrawJob(
                    workspace=str(self.run.root),
                    ingested=self.ingested,
                    selected=self.selected.manifest,
                    captions=self.captions.manifest,
                    split=settings.select.split,
                    categories=settings.select.categories,
                    seed=settings.seed,
                    recipe=self.run.recipe,
                    wanted=wanted,
                    at=self.at,
                )
            )
            self.at = self.drawn.at
            self.tally.exhaust(self.drawn)
            if self.drawn.groups:
                return True
        return False

    def paint(self) -> None:
        """Plan the draws, paint and screen them, and enter what was accepted."""
        run, count = self.run, self.drawn.count
        jobs = plan_jobs(run, self.ingested, self.selected, self.captions, self.drawn.groups)
        links = [
            Link(plan_stage(run, self.ingested), lambda part, _: jobs[part], count),
            painting(run, self.ingested, count),
            screening(run, self.ingested, self.rules, count),
        ]
        with self._timed():
            run_parts(run, links, len(jobs), self._ended)
        self._enter(*([ref for ref, _ in self.done[stage][-len(jobs) :]] for stage in _STAGES))

    def _ended(self, number: int, done: list[Done], seconds: float) -> None:
        """A stage of the round is over for all of its parts."""
        stage = _STAGES[number]
        self.done[stage] += done
        self.clock[stage] += seconds  # type: ignore[assignment]
        if stage == "plan":
            self.keys.append(key_of("round", [ref.sha256 for ref, _ in done]))
        if stage == "screen":
            self.round_of += [self.tally.rounds] * len(done)

    def _enter(self, plans: list[Ref], pictures: list[Ref], screened: list[Ref]) -> None:
        """Count what a round brought, part by part."""
        made, repeated = Accepted(), self._repeated()
        for plan, picture, screen in zip(plans, pictures, screened, strict=True):
            rows = read_manifest(plan.file, PlanRow, ("key", "status"))
            outcomes = Requests(parts=[plan]).outcomes(rows.key[rows.status == OK])
            failed = read_manifest(picture.file, PictureRow, ("key", "status", "reason"))
            failed = failed[failed.status != OK]
            judged = read_manifest(screen.file, ScreenRow, ("key", "reason", "boxes"))
            reasons = dict(zip([*judged.key, *failed.key], [*judged.reason, *failed.reason], strict=True))
            reasons |= dict.fromkeys(repeated & reasons.keys(), "duplicate")
            verdicts = dict(zip(judged.key, judged.boxes, strict=True))
            pictures_of = pd.Series([outcome.image_key for outcome in outcomes.values()], dtype=object)
            made.add(outcomes, reasons, verdicts, boxes_of(self.ingested.objects, pictures_of))
        seconds = self._spent(self.keys[-1])["seconds"]
        self.tally.add(made.painted, made.accepted, made.refused, (made.planned, made.pictures), seconds)
        self.run.save(target=self.tally.document())
        log().info(
            "round %d: %d of %d pictures accepted, %.1f s", self.tally.rounds, made.pictures, made.planned, seconds
        )

    def _repeated(self) -> set[str]:
        """Keys of the pictures, of all rounds, that equal one before them."""
        equal, parts = self._screening().equal, self._screened
        if equal is None:
            return set()
        order = np.argsort(row_places(self.run, parts, ScreenRow), kind="stable")
        repeated = equal(marks_of(parts)[order]) >= 0
        return set(texts_at(parts, ScreenRow, "key", order[repeated]))

    @property
    def _screened(self) -> list[Ref]:
        return [ref for ref, _ in self.done["screen"]]

    def _screening(self) -> Stage:
        return screen_stage(self.run, self.rules, self._equal)

    def _equal(self, marks: np.ndarray) -> np.ndarray:
        """Duplicates of pictures of earlier rounds, and then of earlier ones of the same round."""
        each = zip(self.round_of, self._screened, strict=True)
        rounds = np.array([number for number, part in each for _ in range(part.rows)], np.int64)
        rounds = rounds[np.argsort(row_places(self.run, self._screened, ScreenRow), kind="stable")]
        order = rounds.argsort(kind="stable")
        found, equal = equal_before(marks[order]), np.full(len(marks), -1)
        equal[order[found >= 0]] = order[found[found >= 0]]
        return equal

    def close(self) -> tuple[Staged, Staged]:
        """The manifests of all rounds: plan and screened pictures."""
        run, clock = self.run, self.clock
        plan = close_stage(run, plan_stage(run, self.ingested), self.done["plan"])
        planned(run, self.ingested)
        pictures = close_stage(run, generate_stage(run), self.done["generate"], clock["generate"])
        note_whole(run, pictures)
        screened = close_stage(run, self._screening(), self.done["screen"], clock["screen"])
        run.save(target=self.tally.document() | {"keys": self.keys})
        show_target(run)
        return plan, screened

    def _spent(self, key: str) -> _Spent:
        return typed(self.run.store.get("round", key), _Spent) or {"seconds": 0.0, "done": []}

    @contextlib.contextmanager
    def _timed(self) -> Iterator[None]:
        """Enter the seconds of a round, unless it was done before; those until an interruption too, once all of it is
        planned."""
        began, done = time.monotonic(), False
        try:
            yield
            done = True
        finally:
            if len(self.keys) > self.tally.rounds:
                spent = self._spent(key := self.keys[-1])
                if "screen" not in spent["done"]:
                    seconds = time.monotonic() - began
                    stages = list(_STAGES) if done else spent["done"]
                    found: _Spent = {"seconds": spent["seconds"] + seconds, "done": stages}
                    self.run.store.put("round", key, canonical(found))
