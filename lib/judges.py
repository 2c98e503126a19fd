"""Judges: who says which of some names a box shows. A classifier trained on them, or a CLIP that is told them.

judge = make_judge(resolve("data/models/pcb/classifier", {}))     # or "mini:clip"
crops = [crop_region(picture, box, judge.size) for box in boxes]  # of lib/regions.py; boxes: xyxy pixels
shares = judge.score(crops, ["open", "short", "background"])      # (N, 3)
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from lib.classifier import KIND, CropClassifier, is_classifier
from lib.errors import AugmentError
from lib.models import ModelRef, local_path, reading
from lib.regions import Pixels, RegionScorer


class Judge(Protocol):
    """What is asked of a model that says what a box shows."""

    @property
    def size(self) -> int:
        """Side of the crops, pixels."""

    @property
    def identity(self) -> str:
        """Which model, for the record."""

    def score(self, crops: Sequence[Pixels], names: Sequence[str]) -> NDArray[np.float64]:
        """(N, len(names)) for uint8 (size, size, 3) RGB crops: the higher, the better a name fits."""
        ...


def make_judge(ref: ModelRef) -> Judge:
    """Who judges boxes with this checkpoint: a classifier that was trained on names, or a CLIP that is told them.

    Its config.json decides; weights are read at the first use. Raises AugmentError where there is none or it is of
    another kind, and ConnectionError where a download failed in a way that may pass.
    """
    with reading(ref):
        config = dict(json.loads((local_path(ref, ("config.json",)) / "config.json").read_bytes()))
    if is_classifier(config):
        return CropClassifier(ref)
    if config.get("model_type") == "clip":
        return RegionScorer(ref)
    raise AugmentError(
        f"model {ref} is no judge of boxes: its config.json says model_type {config.get('model_type')!r}, "
        f"architectures {config.get('architectures')}; a CLIP was expected, or an image classifier of transformers "
        f"(…{KIND})"
    )
