"""Evaluation: real pictures and generated ones in, numbers and a report out.

prefect deployment run evaluate/loco --watch       # after `make serve`
augment evaluate REAL GENERATED                    # the same numbers, without a server
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import prefect.runtime
from prefect import flow
from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed

from lib.core.errors import AugmentError, checked
from lib.records.outputs import inputs_of
from lib.records.settings import SAMPLE, Choice, CompareSettings
from lib.runs.workspace import locked
from tasks.evaluate import compare_sets
from tasks.progress import Progress

WATCH = Progress()


@flow(name="evaluate", persist_result=False)
def evaluate(
    real: Path,
    generated: Path,
    metrics: list[str | Choice] | None = None,
    extractor: str = "inception",
    boxes: Path | None = None,
    format: str | None = None,
    seed: int = 0,
    limit: int = SAMPLE,
    workspace: Path | None = None,
) -> State[None]:
    """Measure generated pictures beside real ones; what was computed of a picture is not computed again.

    Args:
        real: real pictures: a folder, a COCO file beside them, or a run's final folder.
        generated: generated pictures, in the same ways; both may be one final folder.
        metrics: names, or names with their settings; docs/evaluation.md describes each.
        extractor: features for metrics of sets: inception, mini, pixels.
        boxes: labels of the real pictures, where `real` is a folder of them.
        format: of those annotations; none: loco for a CSV, else coco.
        seed: of the floor's halvings and KID's subsets.
        limit: pictures of a side that are measured, at most: of more a random sample, always the same.
        workspace: folder of the run; none: data/runs/NAME of the deployment.
    """
    given: dict[str, Any] = {name: value for name, value in locals().items() if value is not None}
    name = prefect.runtime.deployment.name or (workspace.name if workspace else "evaluation")
    try:
        settings = checked(CompareSettings, given)
        root = (settings.workspace or Path("data/runs") / name).absolute()
        with locked(root, inputs_of(settings), readable=("final", "drawn")):
            compare_sets(settings, root, WATCH)
    except AugmentError as error:
        return Failed(message=str(error))
    return Completed(message=f"report in {root / 'report'}")
