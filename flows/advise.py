"""Advice before painting: is it likely to pay, which edit, which classes, how many? From cross-validation on real ones.

augment advise pictures/                           # a folder, a YAML file, or a deployment; from the command line
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import prefect.runtime
from prefect import flow
from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed
from prefect.task_runners import ThreadPoolTaskRunner

from flows.augment import journey
from lib.core.errors import AugmentError
from lib.proof.advising import check_advice, copy_parameters
from lib.proof.augmentation import Augmentation
from lib.proof.folds import FoldSettings
from lib.proof.job import Schedule
from lib.proof.split import SplitSettings
from lib.records.settings import Choice, DatasetSettings
from tasks.advise import Advising, copy_dataset, draw_folds, jobs_of, open_advice, write_results
from tasks.engine import THREADS, log
from tasks.ingest import ingest_dataset
from tasks.progress import Progress
from tasks.run import open_run
from tasks.trainings import add_final_set, train_arms

WATCH = Progress()  # the command line puts its bars here


@flow(name="advise", task_runner=ThreadPoolTaskRunner(max_workers=THREADS), persist_result=False)  # type: ignore[arg-type]
def advise(
    dataset: DatasetSettings,
    folds: FoldSettings | None = None,
    split: SplitSettings | None = None,
    detector: str | Choice | None = None,
    schedule: Schedule | None = None,
    augmentation: Augmentation | None = None,
    copy_paste: dict[str, Any] | None = None,
    paint: dict[str, Any] | None = None,
    quick: bool = False,
    workers: int | None = None,
    trainings: Path | None = None,
    workspace: Path | None = None,
) -> State[None]:
    """Train a detector on the real pictures by cross-validation, and say whether painting is likely to pay.

    Killed and run again, it goes on: what was trained is kept.

    Args:
        dataset: where pictures and annotations lie, and their format.
        folds: cross-validation and the learning curve.
        split: that of a proof, whose training pictures alone take part then.
        detector: what is trained; a name, or a name with its settings.
        schedule: steps, batch and rate of every training.
        augmentation: done to every training picture.
        copy_paste: parameters of the flow `augment` for the free baseline; {}: it is not tried.
        paint: parameters of the flow `augment` for the advised run.
        quick: a look in minutes.
        workers: trainings at once; none: one a core.
        trainings: folder of finished trainings; none: in the workspace.
        workspace: folder of the advice; none: data/runs/NAME-advice.
    """
    given = {name: value for name, value in locals().items() if value is not None}
    name = prefect.runtime.deployment.name or (workspace.name.removesuffix("-advice") if workspace else "pictures")
    try:
        with open_advice(check_advice(given), name, WATCH) as run:
            draw_folds(run, ingest_dataset(run))
            if run.settings.copy_paste:
                _paste(run)
            train_arms(run, jobs_of(run))
            return Completed(message=write_results(run).sentence)
    except AugmentError as error:
        return Failed(message=str(error))


def _paste(run: Advising) -> None:
    """Copy-paste from each fold's training pictures; where it cannot be made, a note says so and it is left out."""
    for k in range(len(run.folds)):
        workspace = run.root / "runs" / f"fold-{k}"
        try:
            parameters = copy_parameters(run.settings, copy_dataset(run, k), workspace)
            with open_run(parameters, f"{run.name}-copy-{k}", run.progress) as painting:
                state = journey(painting)
            if not state.is_completed():
                raise AugmentError(str(state.message))
            add_final_set(run, f"copy-{k}", workspace, None)
            if not len(run.pools[f"copy-{k}"]):
                raise AugmentError("nothing could be pasted")
        except AugmentError as error:
            log().warning("copy-paste is left out: %s", error)
            run.notes.append(f"Copy-paste (arm D) is left out: {error}")
            for j in range(k + 1):
                run.pools.pop(f"copy-{j}", None)
            return
