"""A run: its resolved settings, its locked workspace, its store, its progress, and the account of every row.

    with open_run(parameters, name) as run: ...

Nothing here is a Prefect task; the stages beside this file hand `run` on.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd
import pyarrow as pa
from pydantic import BaseModel

from lib.captioning.caption import CaptionForm, make_caption_form
from lib.captioning.captioners import CAPTIONERS
from lib.core.checkpoints import ModelRef
from lib.core.mirror import push
from lib.core.places import shown
from lib.core.registry import Member
from lib.core.stopping import STOPPED, Stopped, stoppable
from lib.core.storage import explained
from lib.core.words import in_words
from lib.evaluation.evaluate import built
from lib.evaluation.features import extractor_of
from lib.judges import make_judge
from lib.painting.painters import PAINTERS
from lib.planning.recipe import Recipe
from lib.records import kept
from lib.records.manifest import Ref, read_batches
from lib.records.outputs import inputs_of
from lib.records.rows import OK, Row
from lib.records.settings import DatasetSettings
from lib.records.store import Store
from lib.records.verified import VerifiedFiles
from lib.runs.account import former_account, write_account, write_failure
from lib.runs.engine_checks import check_engine
from lib.runs.outcome import STATES, outcome_of
from lib.runs.parameters import Parameters, Resolved, resolve_parameters
from lib.runs.workspace import Pins, captioner_of, detector_of, judge_of, locked, recipe_of
from lib.screening.review import check_review
from tasks.engine import Engine, log, working_on
from tasks.progress import Progress, watch_workspace

W = TypeVar("W", bound="Work")


@dataclass(kw_only=True)
class Work:
    """A workspace that a run holds: its data set, its manifests, the account of its rows."""

    name: str
    dataset: DatasetSettings
    root: Path
    progress: Progress
    verify: bool = False  # read all files again, and compare digests
    order: pa.Array = field(default_factory=lambda: pa.array([], pa.string()))  # image keys as in the data set
    objects: dict[int, Ref] = field(default_factory=dict)  # ObjectRows that are ok, by the part of their picture
    account: dict[str, Any] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)
    clock: float = field(default_factory=time.monotonic)  # when the last stage was counted
    loads: dict[str, Counter[str]] = field(default_factory=dict)  # kind of model → process → times that it was loaded

    @property
    def store(self) -> Store:
        """The workspace's store of pictures and scores."""
        return Store(self.root / "store")

    @cached_property
    def verified(self) -> VerifiedFiles:
        """The pictures in the store, and drawn ones, that are known to be undamaged."""
        return VerifiedFiles(self.root, anew=self.verify)

    @property
    def sources(self) -> Path:
        """Folder with the source pictures."""
        return self.dataset.images

    def manifest(self, stage: str) -> Path:
        """The Parquet file with a stage's rows of the last run."""
        return self.root / "manifests" / f"{stage}.parquet"

    def count(
        self,
        stage: str,
        rows: pd.DataFrame | Iterable[pd.DataFrame] | Ref,
        painted: int,
        reused: int,
        seconds: float | None = None,
        **more: Any,
    ) -> None:
        """Enter a finished stage into the account and save it.

        rows: all, or some at a time. seconds: None: since the last one was entered.
        """
        counts: Counter[str] = Counter()
        if isinstance(rows, Ref):
            pieces: Iterable[pd.DataFrame] = read_batches(rows.file, Row, ("status", "reason"))
        else:
            pieces = [rows] if isinstance(rows, pd.DataFrame) else rows
        for some in pieces:
            counts.update(some.reason.where(some.status != OK, OK))
        total, ok = counts.total(), counts.pop(OK, 0)
        self.account["stages"][stage] = {
            "rows": total,
            "ok": ok,
            "painted": painted,
            "reused": reused,
            "rejected": {str(reason): count for reason, count in sorted(counts.items())},
            **more,
        }
        now = time.monotonic()
        seconds = now - self.clock if seconds is None else seconds
        self.clock = now
        if stage == "generate" and painted:
            self.account["seconds_per_picture"] = round(seconds / painted, 3)
        self.save()
        push(self.root)
        log().info(_story(stage, self.account["stages"][stage], seconds))

    def note_loads(self, found: Mapping[str, Mapping[str, int]]) -> None:
        """Enter models that processes have loaded since the last time: process → kind → times."""
        for process, kinds in found.items():
            for kind, count in kinds.items():
                self.loads.setdefault(kind, Counter())[process] += count
        if self.loads:
            self.account["models"] = {
                kind: {"loads": loads.total(), "processes": len(loads)} for kind, loads in sorted(self.loads.items())
            }

    def save(self, write: Callable[[Path, dict[str, Any]], None] = write_account, **more: Any) -> None:
        """Write the account of this run, with totals: what `augment status` shows."""
        self.account.update(more)
        stages = self.account["stages"]
        generated = stages.get("generate", {})
        rejected: Counter[str] = Counter()
        for stage in stages.values():
            rejected.update(stage["rejected"])
        self.account["painted"] = generated.get("painted", 0)
        self.account["reused"] = generated.get("reused", 0)
        self.account["rejected"] = dict(sorted(rejected.items()))
        with self.lock:
            write(self.root, self.account)


def _story(stage: str, counts: dict[str, Any], seconds: float) -> str:
    """A stage in a line: "plan: 12 of 14 ok, 12 new, 0 reused; set aside: no donor 2; 1.4 s"."""
    parts = [f"{counts['ok']} of {counts['rows']} ok, {counts['painted']} new, {counts['reused']} reused"]
    for title, numbers in (
        ("set aside", counts["rejected"]),
        ("", {name: value for name, value in counts.items() if name not in COMMON and value}),
    ):
        listed = ", ".join(f"{in_words(name)} {value}" for name, value in numbers.items())
        parts += [f"{title}: {listed}" if title else listed] if listed else []
    return f"{stage}: {'; '.join(parts)}; {seconds:.1f} s"


COMMON = ("rows", "ok", "painted", "reused", "rejected")  # counts of every stage


@dataclass(kw_only=True)
class Run(Work):
    """What the stages of the journey share."""

    settings: Resolved
    recipe: Recipe
    captioner: Member
    captions: CaptionForm
    judge: ModelRef | None  # of single boxes
    detector: Member | None = None  # of objects that no label names
    spread: int = 1  # parts that the selected pictures lie in
    captioned: set[str] = field(default_factory=set)  # image keys of captions that were made for the limit
    first: set[str] = field(default_factory=set)  # request keys of pictures that were painted to see what one costs

    def conclude(self) -> dict[str, Any]:
        """Enter what came of the run into its account, and tell it; returns the outcome."""
        limit = self.settings.limit
        asked = None if limit is None else limit * self.settings.variants
        outcome = outcome_of(self.account["stages"], asked, self.account.get("target"))
        self.save(outcome=outcome)
        log().log(logging.WARNING if outcome["state"] in STATES else logging.INFO, outcome["text"])
        return outcome


@contextlib.contextmanager
def accounted(work: W, settings: BaseModel) -> Iterator[W]:
    """Save what was resolved, then the account as the run goes, and how it ended."""
    seconds = former_account(work.root).get("seconds_per_picture")
    known = {"seconds_per_picture": seconds} if isinstance(seconds, float) else {}
    work.account = {"run": work.name, "workspace": shown(work.root), "state": "running", "stages": {}, **known}
    kept.write(work.root / "settings.json", settings.model_dump(mode="json"))
    work.save()
    watch_workspace(str(work.root), work.progress)
    try:
        with explained(work.root), stoppable():
            yield work
    except BaseException as error:
        stopped = isinstance(error, Stopped) or not isinstance(error, Exception)  # the latter by a signal
        text = STOPPED if stopped else f"{error}" or type(error).__name__
        state = {"state": "stopped" if stopped else "failed"}
        work.account |= state | {"error": text.encode(errors="backslashreplace").decode()}  # no Unicode
        work.save(write_failure)
        raise
    work.save(state="waiting" if "waiting" in work.account else "completed")


@contextlib.contextmanager
def open_run(parameters: Parameters, name: str, progress: Progress) -> Iterator[Run]:
    """Resolve the settings, lock the workspace, pin the models, save what was resolved.

    Raises AugmentError where the settings do not go together, an input lies in what the run writes, or another run
    holds the workspace.
    """
    settings = resolve_parameters(parameters, Path("data/runs") / name)
    root = settings.workspace.absolute()
    check_review(settings.review)
    with locked(root, inputs_of(settings)):
        if settings.evaluate.extractor is not None:
            extractor_of(settings.evaluate.extractor).check()  # before hours of painting
            built(settings.evaluate.metrics)
        pins = Pins(root / "models.lock")
        pins.seal()
        captioner, recipe = captioner_of(settings, pins), recipe_of(settings, pins)
        judge = judge_of(settings, pins)
        with contextlib.suppress(ConnectionError):  # the work itself tries the download again
            PAINTERS.check(recipe.painter)
            CAPTIONERS.check(captioner)
            if judge is not None:
                make_judge(judge)
        run = Run(
            name=name,
            dataset=settings.dataset,
            settings=settings,
            root=root,
            recipe=recipe,
            captioner=captioner,
            captions=make_caption_form(settings.caption, captioner),
            judge=judge,
            detector=detector_of(settings, pins),
            progress=progress,
            verify=parameters.verify,
        )
        with accounted(run, settings), _engine_of(run) as engine, working_on(engine):
            yield run


@contextlib.contextmanager
def _engine_of(run: Run) -> Iterator[Engine]:
    """Where the run's work is done. Raises AugmentError for a cluster that cannot work for it."""
    if run.settings.engine.name == "threads":
        yield Engine()
        return
    check_engine(run.settings.engine)
    from tasks.cluster import dask_engine  # an extra

    with dask_engine(run.settings.engine, run.root, run.sources, run.progress) as one:
        yield one
