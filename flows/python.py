"""The journey from Python, without a server: for a notebook or a script.

from flows import augment_dataset

result = augment_dataset(dataset={"images": "pictures", "annotations": "instances.json"}, preset="insert", limit=20)
result.counts                  # rows and reasons by stage
result.rows("plan")            # any stage's rows, a DataFrame
result.sheet                   # source, boxes, result: shown by a notebook
for picture in result.pictures(6): ...
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from flows.augment import journey
from lib.core.errors import AugmentError, unknown
from lib.core.images import load_rgb
from lib.evaluation.verdict import Verdict
from lib.records.manifest import read_manifest
from lib.records.rows import OK, STAGES
from lib.runs.account import read_account
from lib.runs.parameters import Parameters, check_parameters
from tasks.progress import Progress
from tasks.run import open_run


@dataclass(frozen=True)
class Picture:
    """One picture of the final set."""

    path: Path
    pixels: np.ndarray  # uint8 (H, W, 3) RGB
    boxes: pd.DataFrame  # category, x, y, w, h (pixels), painted

    def _repr_png_(self) -> bytes | None:  # what a notebook shows
        return Image.fromarray(self.pixels)._repr_png_()


@dataclass(frozen=True)
class Result:
    """What a run left in its workspace."""

    workspace: Path
    account: dict[str, Any]  # as `augment status --json` prints it

    @property
    def counts(self) -> pd.DataFrame:
        """Rows by stage: all, ok, made now, taken from an earlier run, set aside."""
        stages = self.account["stages"]
        table = {name: [one[key] for key in _COUNTS] + [sum(one["rejected"].values())] for name, one in stages.items()}
        return pd.DataFrame.from_dict(table, orient="index", columns=[*_COUNTS, "set aside"])

    @property
    def verdict(self) -> Verdict | None:
        """Whether one would train on the pictures, and why; None for a run without an evaluation."""
        kept = self.account.get("verdict")
        return None if kept is None else Verdict.model_validate(kept)

    def rows(self, stage: str) -> pd.DataFrame:
        """A stage's rows, each with its status and, where it was set aside, the reason.

        Raises AugmentError for a stage that is not known or did not run.
        """
        if stage not in STAGES:
            raise unknown("stage", stage, STAGES)
        return read_manifest(self.workspace / "manifests" / f"{stage}.parquet", STAGES[stage])

    @property
    def annotations(self) -> dict[str, Any]:
        """The final COCO annotations."""
        found: dict[str, Any] = json.loads((self.workspace / "final" / "annotations.json").read_bytes())
        return found

    @cached_property
    def sheet(self) -> Image.Image:
        """Source, boxes and result of some pictures."""
        return Image.open(self.workspace / "contact_sheet.jpg")

    def pictures(self, count: int | None = None) -> Iterator[Picture]:
        """New pictures of the final set with their boxes, at most `count`."""
        final = self.rows("finalise")
        final = final[(final.status == OK) & final.key.str.startswith("synthetic:")]
        coco = self.annotations
        names = {one["id"]: one["name"] for one in coco["categories"]}
        boxes: dict[Any, list[tuple[Any, ...]]] = {}
        for one in coco["annotations"]:
            row = (names[one["category_id"]], *one["bbox"], bool(one.get("painted")))
            boxes.setdefault(one["image_id"], []).append(row)
        ids = {one["file_name"]: one["id"] for one in coco["images"]}
        for name in final.file_name[:count]:
            path = self.workspace / "final" / "images" / name
            table = pd.DataFrame(boxes.get(ids[name], []), columns=["category", "x", "y", "w", "h", "painted"])
            yield Picture(path, load_rgb(path, "stored"), table)


_COUNTS = ("rows", "ok", "painted", "reused")


def augment_dataset(*, watch: Callable[[str, int, int], None] | None = None, **parameters: Any) -> Result:
    """Run the journey in this process, without Prefect's server; what an earlier run made is used again.

    Args:
        watch: receives (stage, items done, items in all) as the run goes.
        parameters: those of the flow `augment`: dataset, preset, limit, seed, workspace and so on (docs/parameters.md).

    Raises AugmentError, in a sentence, for parameters that cannot be and for a run that cannot go on.
    """
    checked = check_parameters(parameters)
    root = run_journey(checked, checked.workspace.name if checked.workspace else "python", watch)
    return Result(root, read_account(root / "status.json"))


def run_journey(parameters: Parameters, name: str, watch: Callable[[str, int, int], None] | None = None) -> Path:
    """The stages by plain functions, without a flow and a server; returns the workspace. Raises AugmentError."""
    progress = Progress() if watch is None else Progress(watch)
    with open_run(parameters, name, progress) as run:
        state = journey(run)
        root = run.root
    if not state.is_completed():
        raise AugmentError(state.message or f"the run ended {state.name}")
    return root
