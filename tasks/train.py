"""train: labelled pictures in, models out; one task a model, in the order in which they need each other.

    with open_training(check_training(values), name, progress) as run:
        learned = load_pictures(run, ingest_dataset(run))
        for name in run.names:
            train_one(run, learned, name)

A model whose facts say that nothing is left to do is reused; another goes on from its newest checkpoint in
WORKSPACE/checkpoints/NAME.
"""

from __future__ import annotations

import contextlib
import io
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from PIL import Image
from prefect.tasks import exponential_backoff
from pydantic import BaseModel

from lib.core.errors import AugmentError
from lib.core.files import atomic_write
from lib.datasets.terms import terms_of
from lib.records.manifest import Ref, read_manifest
from lib.records.outputs import inputs_of
from lib.records.rows import OK, REJECTED, ImageRow, ObjectRow
from lib.records.settings import TrainSettings
from lib.runs.workspace import locked
from lib.training import MINI, TRAINERS
from lib.training.data import content_digest, training_pictures
from lib.training.train import (
    check_order,
    check_pictures,
    check_places,
    finished_model,
    read_facts,
    settings_of,
    train_model,
)
from lib.training.windows import TrainingPicture
from tasks.artifacts import show_counts, show_training
from tasks.engine import kept, log, step
from tasks.ingest import Ingested
from tasks.jobs import may_pass
from tasks.progress import Progress, advance
from tasks.run import Work, accounted

if TYPE_CHECKING:
    from lib.training.loop import Progress as Report


@dataclass(kw_only=True)
class Training(Work):
    """What the stages of one training share."""

    settings: TrainSettings
    names: list[str]  # of TRAINERS, in the order of training
    output: Path


class Learned(BaseModel):
    """The pictures of a training: small values from which each task has them in memory."""

    images: Ref
    objects: Ref
    sources: str  # folder
    workspace: str
    size: int
    detail: float
    split: str
    digest: str = ""  # of what is learned; "" before it is known


class TrainJob(BaseModel):
    """The parameters of a training task."""

    name: str
    settings: dict[str, Any]
    learned: Learned
    output: str
    start: str | None
    terms: str = ""  # of the pictures


@contextlib.contextmanager
def open_training(settings: TrainSettings, name: str, progress: Progress) -> Iterator[Training]:
    """Check the settings, lock the workspace, save what was resolved.

    Raises AugmentError where a trainer lacks what it needs, `start` holds nothing to begin from, `output` cannot be
    written or has a model of another origin, an input lies in what is written, or another run holds the workspace.
    """
    root = (settings.workspace or Path("data/runs") / name).absolute()
    output = (settings.output or root / "models").absolute()
    names = list(MINI) if settings.models is None else settings.models
    if not names:
        raise AugmentError(f"models: [] names nothing to train: known are {', '.join(TRAINERS)}")
    check_order(names, output)
    _check_start(settings.start, output, names)
    check_places(output, root / "checkpoints", names)
    resolved = settings.model_copy(
        update={
            "models": names,
            "settings": {name: settings_of(settings, name).model_dump(mode="json") for name in names},
            "detail": min(TRAINERS[name].DETAIL for name in names) if settings.detail is None else settings.detail,
            "output": output,
            "workspace": root,
        }
    )
    with locked(root, inputs_of(settings), more=[output / name for name in names], models=TRAINERS):
        _check_output(output)  # before hours of training
        run = Training(
            name=name,
            dataset=settings.dataset,
            root=root,
            progress=progress,
            settings=resolved,
            names=names,
            output=output,
        )
        with accounted(run, resolved):
            yield run


def _check_start(start: Path | None, output: Path, names: list[str]) -> None:
    if start is None:
        return
    if start.resolve() == output.resolve():
        raise AugmentError(f"start and output are one folder, {output}: give the new models another `output`")
    if not any((start / name).is_dir() for name in names):
        raise AugmentError(f"start {start} holds none of {', '.join(names)}: give a folder of trained models")


def _check_output(output: Path) -> None:
    try:
        output.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=output):
            pass
    except OSError as error:
        why = error.strerror or error
        raise AugmentError(f"output {output} cannot be written ({why}): set `output` to another folder") from None


def load_pictures(run: Training, ingested: Ingested) -> Learned:
    """The pictures that models learn from, read once; those left out stand in the account with their reasons."""
    learned = Learned(
        images=ingested.images,
        objects=ingested.objects,
        sources=str(run.sources.absolute()),
        workspace=str(run.root),
        size=run.settings.size,
        detail=run.settings.detail,
        split=run.settings.split,
    )
    usable = read_manifest(ingested.images.file, ImageRow, ("status",))
    run.progress.start("pictures", int((usable.status == OK).sum()))
    digest, count, left_out = read_pictures(learned)
    run.progress.finish("pictures")
    reasons = [""] * count + [reason for reason, n in left_out.items() for _ in range(n)]
    rows = pd.DataFrame({"status": [REJECTED if reason else OK for reason in reasons], "reason": reasons})
    run.count("pictures", rows, painted=0, reused=0)
    show_counts(run, "pictures")
    check_pictures(_pictures_of(learned)[0])
    return learned.model_copy(update={"digest": digest})


def train_one(run: Training, learned: Learned, name: str) -> None:
    """Train a model of TRAINERS into the output folder, or find it finished; its account counts steps and minutes."""
    stage, settings = f"train-{name}", run.settings.settings[name]
    start = str(run.settings.start.absolute()) if run.settings.start else None
    run.progress.start(stage, settings["steps"])
    terms = terms_of(run.dataset)
    job = TrainJob(name=name, settings=settings, learned=learned, output=str(run.output), start=start, terms=terms)
    facts = train_job(job)
    run.progress.finish(stage)
    made = int(facts["made"])
    row = pd.DataFrame({"status": [OK], "reason": [""]})
    more = {"steps": facts["steps"], "minutes": round(facts["seconds"] / 60, 1)}
    run.count(stage, row, painted=made, reused=1 - made, **more)
    show_counts(run, stage)


_RETRIED: dict[str, Any] = {
    "retries": 2,
    "retry_delay_seconds": exponential_backoff(backoff_factor=5),
    "retry_condition_fn": may_pass,
}


@step(name="pictures", **_RETRIED)
def read_pictures(learned: Learned) -> tuple[str, int, dict[str, int]]:
    """(digest of the contents, how many, how many were left out by reason)."""
    pictures, left_out = _pictures_of(learned)
    return content_digest(pictures), len(pictures), left_out


@step(name="train", task_run_name="train-{job.name}", **_RETRIED)
def train_job(job: TrainJob) -> dict[str, Any]:
    """Train one model; its steps, seconds, and whether it was `made` now. Not cached: its facts and checkpoints are."""
    learned, output = job.learned, Path(job.output)
    workspace, start = Path(learned.workspace), Path(job.start) if job.start else None
    settings = TRAINERS.settings(job.name, job.settings)
    facts = finished_model(job.name, settings, learned.size, output, start, learned.digest)
    made = facts is None
    if facts is None:
        watcher = _Watcher(job, workspace / "sheets" / f"{job.name}.png")
        pictures, _ = _pictures_of(learned)
        train_model(
            job.name,
            settings,
            pictures,
            learned.size,
            output,
            workspace / "checkpoints",
            start,
            learned.digest,
            watcher.watch,
            watcher.look,
            job.terms,
            _sources_of(learned),
        )
        facts = read_facts(output / job.name)
        watcher.finish(facts)
    return {"made": made, "steps": facts["steps"], "seconds": facts["seconds"]}


def _pictures_of(learned: Learned) -> tuple[list[TrainingPicture], dict[str, int]]:
    return _pictures(learned.model_copy(update={"digest": ""}).model_dump_json())


def _sources_of(learned: Learned) -> list[str]:
    """Digests of the pictures' files, sorted."""
    images = read_manifest(learned.images.file, ImageRow, ("status", "split", "digest"))
    digests: list[str] = images.digest[(images.status == OK) & (images.split == learned.split)].tolist()
    return sorted(digests)


@kept(1)
def _pictures(text: str) -> tuple[list[TrainingPicture], dict[str, int]]:
    """All pictures in memory, and how many were left out by reason; those that ingest set aside are not among them."""
    learned = Learned.model_validate_json(text)
    images = read_manifest(learned.images.file, ImageRow)
    return training_pictures(
        images[images.status == OK],
        read_manifest(learned.objects.file, ObjectRow),
        Path(learned.sources),
        learned.size,
        learned.split,
        learned.detail,
        lambda count: advance(learned.workspace, "pictures", count),
    )


@dataclass
class _Watcher:
    """Shows a training as it goes: progress, the curve, and a sheet as an artifact and as a file."""

    job: TrainJob
    path: Path  # of the sheet's file
    sheet: Image.Image | None = None
    step: int = 0
    seconds: float = 0.0
    history: list[dict[str, float]] = field(default_factory=list)

    def watch(self, report: Report) -> None:
        """Take a report of the loop: a note goes into the log, a step to the progress and the curve."""
        if report.note:
            log().warning(report.note)
            return
        advance(self.job.learned.workspace, f"train-{self.job.name}", report.step - self.step)
        self.step, self.seconds = report.step, report.seconds
        self.history.append({"step": report.step, **report.values})

    def look(self, sheet: np.ndarray) -> None:
        """A sheet: (H, W, 3) uint8."""
        data = io.BytesIO()
        self.sheet = Image.fromarray(sheet)
        self.sheet.save(data, "PNG")
        with contextlib.suppress(OSError):  # a sheet that cannot be written must not end a training
            atomic_write(self.path, data.getvalue())
        self._show()

    def finish(self, facts: dict[str, Any]) -> None:
        """The last sheet with the whole history, that of earlier runs included."""
        self.step, self.seconds, self.history = facts["steps"], facts["seconds"], facts["history"]
        self._show()

    def _show(self) -> None:
        pace = self.step / self.seconds if self.seconds else 0.0
        settings, last = self.job.settings, self.history[-1] if self.history else {}
        facts = {
            "steps": f"{self.step} of {settings['steps']}",
            "minutes": f"{self.seconds / 60:.1f}",
            "throughput": f"{pace:.2f} steps/s, {pace * settings['batch']:.1f} pictures/s",
            **{name: f"{value:.4g}" for name, value in last.items() if name != "step"},
            "sheet": f"`{self.path}`",
        }
        assert self.sheet is not None
        show_training(self.job.name, self.history, self.sheet, facts)
