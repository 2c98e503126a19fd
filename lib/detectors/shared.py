"""What the detectors share: names of two vocabularies, and boxes as they came from a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from lib.captioners.template import spoken
from lib.detectors import Detections, DetectorSettings, Pixels
from lib.errors import AugmentError
from lib.geometry import area_xyxy, clip_xyxy
from lib.models import ModelRef

if TYPE_CHECKING:
    import torch


def match_names(names: Sequence[str], known: Mapping[int, str], called: Mapping[str, str]) -> dict[int, int]:
    """{number of a label of the model: number of the name}, for the names that the model knows.

    known: the model's labels by number; called: name → the model's label, where they differ. Case, underscores and
    hyphens do not count. Raises AugmentError where `called` speaks of a label that the model does not have.
    """
    numbers: dict[str, list[int]] = {}
    for number, label in known.items():
        numbers.setdefault(_plain(label), []).append(number)
    strange = sorted(label for label in called.values() if _plain(label) not in numbers)
    if strange:
        raise AugmentError(f"the detector has no label {', '.join(strange)}: it has {_some(list(known.values()))}")
    found: dict[int, int] = {}
    for i, name in enumerate(names):
        for number in numbers.get(_plain(called.get(name, name)), []):
            found.setdefault(number, i)
    return found


def none_known(ref: ModelRef, names: Sequence[str], known: Sequence[str]) -> AugmentError:
    """What to raise where nothing matches."""
    return AugmentError(
        f"model {ref} knows none of {', '.join(names) or '(no names)'}: it has {_some(known)}; say which of them is "
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
    """(N,) numbers of the names for (N,) labels of the model; −1 for those that were not asked for."""
    import torch

    return torch.tensor([matched.get(int(label), -1) for label in labels], dtype=torch.int64)


def check_finite(ref: ModelRef, values: torch.Tensor) -> None:
    """Raises AugmentError for NaN, which passes no threshold: it would look like a picture with nothing in it."""
    if values.isnan().any():
        raise AugmentError(
            f"model {ref} gives numbers that are not finite: its weights are damaged; copy or download it again"
        )


def _plain(name: str) -> str:
    return spoken(name.replace("-", " ")).casefold()


def _some(labels: Sequence[str], most: int = 12) -> str:
    told = sorted(set(labels))
    return ", ".join(told[:most]) + (f" and {len(told) - most} others" if len(told) > most else "")
