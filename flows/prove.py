"""Proof: does a detector gain from the pictures that a run makes? Arms, paired seeds, and "no" as a possible answer.

augment prove pcb                                  # from the command line
prefect deployment run prove/pcb --watch           # after `make serve`
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import prefect.runtime
from prefect import flow
from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed
from prefect.task_runners import ThreadPoolTaskRunner

from flows.augment import journey
from flows.train import train
from lib.core.errors import AugmentError
from lib.proof.arms import POOLS
from lib.proof.augmentation import Augmentation
from lib.proof.job import Schedule
from lib.proof.protocol import open_test, write_protocol
from lib.proof.settings import check_proof
from lib.proof.split import SplitSettings
from lib.records.settings import Choice, DatasetSettings
from tasks.engine import THREADS
from tasks.ingest import ingest_dataset
from tasks.progress import Progress
from tasks.prove import Proof, check_painters, draw_pools, jobs_of, open_proof, protocol_of, write_results
from tasks.run import open_run
from tasks.trainings import add_final_set, train_arms

WATCH = Progress()  # the command line puts its bars here


@flow(name="prove", task_runner=ThreadPoolTaskRunner(max_workers=THREADS), persist_result=False)  # type: ignore[arg-type]
def prove(
    dataset: DatasetSettings,
    split: SplitSettings | None = None,
    detector: str | Choice | None = None,
    schedule: Schedule | None = None,
    augmentation: Augmentation | None = None,
    arms: list[str] | None = None,
    ratios: list[float] | None = None,
    fade: float | None = None,
    seeds: int | None = None,
    models: dict[str, Any] | None = None,
    copy_paste: dict[str, Any] | None = None,
    paint: dict[str, Any] | None = None,
    screen: dict[str, Any] | None = None,
    targeted: dict[str, Any] | None = None,
    contrasts: list[str] | None = None,
    workers: int | None = None,
    trainings: Path | None = None,
    workspace: Path | None = None,
) -> State[None]:
    """Train a detector on the real pictures, on free variations of them, and on what a run paints from them.

    Killed and run again, it goes on: what was painted and trained is kept.

    Args:
        dataset: where pictures and annotations lie, and their format.
        split: which pictures are learned from and which are for the test, by groups.
        detector: what is trained; a name, or a name with its settings.
        schedule: steps, batch and rate, equal for all arms.
        augmentation: done to every training picture of every arm.
        arms: letters; docs/proof.md lists them.
        ratios: synthetic pictures per real one.
        fade: by which share synthetic pictures become rarer over the steps, in every arm that has any.
        seeds: trainings of each arm and ratio.
        models: parameters of the flow `train`, for models that learn from the real training pictures alone.
        copy_paste: parameters of the flow `augment` for the free baseline.
        paint: parameters of the flow `augment` for the synthetic pictures.
        screen: its parameter `screen` for the screened ones.
        targeted: what differs in the run for the targeted ones.
        contrasts: claims that are tested together.
        workers: trainings at once; none: one a core.
        trainings: folder of finished trainings that several proofs share; none: in the workspace.
        workspace: folder of the proof; none: data/runs/NAME of the deployment.
    """
    given = {name: value for name, value in locals().items() if value is not None}
    name = prefect.runtime.deployment.name or (workspace.name if workspace else "prove")
    try:
        with open_proof(check_proof(given), name, WATCH) as run:
            real = draw_pools(run, ingest_dataset(run))
            _train_models(run, real)
            _paint(run, real)
            jobs = jobs_of(run)
            protocol = protocol_of(run)
            write_protocol(run.root, protocol)
            train_arms(run, jobs)
            opened = open_test(run.root, protocol)
            headline = write_results(run, jobs, protocol, opened)
            return Completed(message=headline)
    except AugmentError as error:
        return Failed(message=str(error))


def _train_models(run: Proof, real: DatasetSettings) -> None:
    """Models that paint or judge, from the real training pictures alone."""
    if run.settings.models is None:
        return
    own = {"dataset": real, "workspace": run.root / "training", "output": run.root / "models"}
    state = train.fn(**{**run.settings.models, **own})
    if not state.is_completed():
        raise AugmentError(f"models: {state.message}")


def _paint(run: Proof, real: DatasetSettings) -> None:
    """The pools of synthetic pictures that the arms need."""
    settings, needed = run.settings, run.settings.pools()
    for pool, (folder, given) in settings.pool_runs().items():
        if pool in needed:
            workspace = run.root / "runs" / folder
            parameters = settings.painting(given, real, run.root, workspace=workspace)
            began = time.monotonic()
            with open_run(parameters, f"{run.name}-{pool}", run.progress) as painting:
                check_painters(run, painting)
                state = journey(painting)
            if not state.is_completed() or not painting.account["stages"]["finalise"]["ok"]:
                raise AugmentError(f"no picture for the arms with {POOLS[pool]}: {state.message}")
            took = time.monotonic() - began
            add_final_set(run, pool, workspace, took if painting.account["painted"] else None)
            run.refused[pool] = painting.account["stages"]["screen"]["rejected"]
