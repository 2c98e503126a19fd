"""What the detectors share: boxes as they came from a model, and the error for names that it does not know."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from lib.core.checkpoints import ModelRef
from lib.core.errors import AugmentError
from lib.core.geometry import area_xyxy, clip_xyxy
from lib.core.words import some_of
from lib.evaluation.detectors import Detections, DetectorSettings, Pixels

if TYPE_CHECKING:
    import torch


def none_known(ref: ModelRef, names: Sequence[str], known: Sequence[str]) -> AugmentError:
    """The error to raise where no name matches a label of the model."""
    return AugmentError(
        f"model {ref} knows none of {', '.join(names) or '(no names)'}: it has {some_of(known)}; say which of them is "
        "meant (`called: {name: label}`), give a model trained on these, or use detector zero-shot"
    )


def tidy(
    picture: Pixels, boxes: torch.Tensor, scores: torch.Tensor, labels: torch.Tensor, settings: DetectorSettings
) -> Detections:
    """From (N, 4) xyxy pixels, (N,) and (N,) as a model gives them: cut to the frame, empty ones and those up to the
    threshold away, the surest `most` first."""
    height, width = picture.shape[:2]
    inside = clip_xyxy(boxes.double().cpu().numpy(), width, height)
    sure: NDArray[np.float64] = scores.double().cpu().numpy()
    order = np.argsort(-sure, kind="stable")
    order = order[(area_xyxy(inside) > 0)[order] & (sure[order] > settings.threshold)][: settings.most]
    return Detections(inside[order], sure[order], labels.cpu().numpy().astype(np.int64)[order])


def numbered(labels: torch.Tensor, matched: Mapping[int, int]) -> torch.Tensor:
    """(N,) numbers of the names for (N,) labels of the model; −1 for labels that match none of them."""
    import torch

    return torch.tensor([matched.get(int(label), -1) for label in labels], dtype=torch.int64)


def check_finite(ref: ModelRef, values: torch.Tensor) -> None:
    """Raises AugmentError for NaN, which passes no threshold: it would look like a picture with nothing in it."""
    if values.isnan().any():
        raise AugmentError(
            f"model {ref} gives numbers that are not finite: its weights are damaged; copy or download it again"
        )
