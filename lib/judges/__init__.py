"""Judges: models that score which of some names a box shows. To add one: a class like `RegionScorer`, and a line below.

judge = make_judge(resolve("data/models/pcb/classifier", {}))                   # or "mini:clip"
shares = score_boxes(judge, picture, boxes, ["open", "short", "background"])    # (N, 3); boxes: xyxy pixels
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from lib.core.checkpoints import ModelRef, local_path, reading
from lib.core.errors import AugmentError
from lib.core.geometry import CONTEXT, clip_xyxy
from lib.core.registry import Family
from lib.core.vision import Pixels, crop_region, visible_sides
from lib.judges.classifier import KIND, is_classifier

JUDGES = Family("judge", {"clip": "lib.judges.clip:RegionScorer", "classifier": "lib.judges.classifier:CropClassifier"})


class Judge(Protocol):
    """The contract. A registered one has `VERSION`, `Settings` and a model too, as lib/core/registry.py says."""

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

    Its config.json decides; weights are read at the first use. Raises AugmentError where it is missing or of
    another kind, and ConnectionError where a download failed in a way that may pass.
    """
    with reading(ref):
        config = dict(json.loads((local_path(ref, ("config.json",)) / "config.json").read_bytes()))
    if is_classifier(config):
        return _build("classifier", ref)
    if config.get("model_type") == "clip":
        return _build("clip", ref)
    raise AugmentError(
        f"model {ref} is not a judge of boxes: its config.json says model_type {config.get('model_type')!r}, "
        f"architectures {config.get('architectures')}; a CLIP was expected, or an image classifier of transformers "
        f"(…{KIND})"
    )


def _build(name: str, ref: ModelRef) -> Judge:
    judge: Judge = JUDGES.build(JUDGES.member(name, {}, ref))
    return judge


def score_boxes(
    judge: Judge, picture: Pixels, boxes: Any, names: Sequence[str], context: float = CONTEXT
) -> NDArray[np.float64]:
    """(N, len(names)) scores of the names for each of (N, 4) boxes of a picture; boxes: xyxy pixels.

    Each is cut to the frame and cropped with `context` of its longer side around it. Rows of NaN for boxes of which the
    frame shows nothing; how small is too small is the caller's question. Raises as the judge does.
    """
    xyxy = np.asarray(boxes, np.float64).reshape(-1, 4)
    height, width = picture.shape[:2]
    shown = visible_sides(xyxy, width, height) > 0
    scores = np.full((len(xyxy), len(names)), np.nan)
    if shown.any():
        inside = clip_xyxy(xyxy[shown], width, height).tolist()
        scores[shown] = judge.score([crop_region(picture, box, judge.size, context) for box in inside], list(names))
    return scores
