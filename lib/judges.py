"""Judges: who says which of some names a box shows. To add one: a class like `RegionScorer`, and a line below.

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

from lib.classifier import KIND, is_classifier
from lib.errors import AugmentError
from lib.models import ModelRef, local_path, reading
from lib.regions import Pixels
from lib.registry import Family

JUDGES = Family("judge", {"clip": "lib.regions:RegionScorer", "classifier": "lib.classifier:CropClassifier"})


class Judge(Protocol):
    """The contract. A registered one has `VERSION`, `Settings` and a model too, as lib/registry.py says."""

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
    """The judge of this checkpoint: a classifier that was trained on names, or a CLIP that receives them.

    Its config.json decides; weights are read at the first use. Raises AugmentError where there is none or it is of
    another kind, and ConnectionError where a download failed in a way that may pass.
    """
    with reading(ref):
        config = dict(json.loads((local_path(ref, ("config.json",)) / "config.json").read_bytes()))
    if is_classifier(config):
        return _build("classifier", ref)
    if config.get("model_type") == "clip":
        return _build("clip", ref)
    raise AugmentError(
        f"model {ref} is no judge of boxes: its config.json says model_type {config.get('model_type')!r}, "
        f"architectures {config.get('architectures')}; a CLIP was expected, or an image classifier of transformers "
        f"(…{KIND})"
    )


def _build(name: str, ref: ModelRef) -> Judge:
    judge: Judge = JUDGES.build(JUDGES.member(name, {}, ref))
    return judge
