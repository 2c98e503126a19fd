"""A run: its resolved settings, its locked workspace, its store, its progress, and the account of every row.

    with open_run(parameters, name) as run: ...

Nothing here is a Prefect task; the stages beside this file hand `run` on.
"""

from __future__ import annotations

import contextlib
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd
from pydantic import BaseModel

from lib.captioning.caption import CaptionForm, make_caption_form
from lib.core.checkpoints import ModelRef
from lib.core.registry import Member
from lib.core.stopping import STOPPED, Stopped, stoppable
from lib.core.storage import explained
from lib.evaluation.evaluate import built
from lib.evaluation.features import extractor_of
from lib.painting.painters import PAINTERS
from lib.planning.recipe import Recipe
from lib.records import kept
from lib.records.outputs import inputs_of
from lib.records.rows import OK
from lib.records.settings import DatasetSettings
from lib.records.store import Store
from lib.records.verified import VerifiedFiles
from lib.runs.account import write_account, write_failure
from lib.runs.parameters import Parameters, Resolved, resolve_parameters
from lib.runs.workspace import Pins, captioner_of, judge_of, locked, recipe_of
from lib.screening.review import check_review
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
    order: dict[str, int] = field(default_factory=dict)  # image key → position in the data set
    account: dict[str, Any] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

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

    def count(self, stage: str, rows: pd.DataFrame, painted: int, reused: int, **more: Any) -> None:
        """Enter a finished stage into the account and save it."""
        rejected = rows.reason[rows.status != OK].value_counts().sort_index()
        self.account["stages"][stage] = {
            "rows": len(rows),
            "ok": int((rows.status == OK).sum()),
            "painted": painted,
            "reused": reused,
            "rejected": {str(reason): int(n) for reason, n in rejected.items()},
            **more,
        }
        self.save()

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


@dataclass(kw_only=True)
class Run(Work):
    """What the stages of the journey share."""

    settings: Resolved
    recipe: Recipe
    captioner: Member
    captions: CaptionForm
    judge: ModelRef | None  # of single boxes


@contextlib.contextmanager
def accounted(work: W, settings: BaseModel) -> Iterator[W]:
    """Save what was resolved, then the account as the run goes, and how it ended."""
    work.account = {"run": work.name, "workspace": str(work.root), "state": "running", "stages": {}}
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
    work.save(state="completed")


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
        with contextlib.suppress(ConnectionError):  # the painting itself tries the download again
            PAINTERS.build(recipe.painter).check()
        run = Run(
            name=name,
            dataset=settings.dataset,
            settings=settings,
            root=root,
            recipe=recipe,
            captioner=captioner,
            captions=make_caption_form(settings.caption, captioner),
            judge=judge_of(settings, pins),
            progress=progress,
            verify=parameters.verify,
        )
        with accounted(run, settings):
            yield run
