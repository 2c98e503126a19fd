"""Training: labelled pictures in, small models out, which the journey loads with `models: mini` or by their folder.

augment train mini                                 # from the command line
prefect deployment run train/mini --watch          # after `make serve`
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import prefect.runtime
from prefect import flow
from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed
from prefect.task_runners import ThreadPoolTaskRunner

from lib.core.errors import AugmentError
from lib.records.settings import DatasetSettings
from lib.training.train import check_training
from tasks.engine import THREADS
from tasks.ingest import ingest_dataset
from tasks.progress import Progress
from tasks.train import load_pictures, open_training, train_one

WATCH = Progress()  # the command line puts its bars here


@flow(name="train", task_runner=ThreadPoolTaskRunner(max_workers=THREADS), persist_result=False)  # type: ignore[arg-type]
def train(
    dataset: DatasetSettings,
    models: list[str] | None = None,
    size: int = 128,
    detail: float | None = None,
    split: str = "train",
    settings: dict[str, dict[str, Any]] | None = None,
    start: Path | None = None,
    output: Path | None = None,
    seed: int = 0,
    workspace: Path | None = None,
) -> State[None]:
    """Train models on a labelled data set; killed and run again, it goes on from the newest checkpoint.

    Args:
        dataset: where pictures and annotations lie, and their format.
        models: trainers in their order; none: those of `models: mini`.
        size: side of the square windows that models see, pixels: a multiple of 32, at least 64.
        detail: shorter side to which pictures are shrunk, in multiples of size; 0: they keep all pixels; none: 2, and
            0 where stay or classifier is trained.
        split: the split that is learned from.
        settings: of each trainer, such as {"vae": {"steps": 8000}}; docs/training.md lists them.
        start: folder of earlier models to begin from.
        output: folder for the finished models; none: models in the workspace.
        seed: of weights, batches and noise.
        workspace: folder of the run; none: data/runs/NAME of the deployment.
    """
    given = {name: value for name, value in locals().items() if value is not None}
    name = prefect.runtime.deployment.name or (workspace.name if workspace else "train")
    try:
        with open_training(check_training(given), name, WATCH) as run:
            learned = load_pictures(run, ingest_dataset(run))
            for trainer in run.names:
                train_one(run, learned, trainer)
            return Completed(message=f"{', '.join(run.names)} in {run.output}")
    except AugmentError as error:
        return Failed(message=str(error))
