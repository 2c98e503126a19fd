"""Measures of pictures, features and boxes. To add one to the evaluation: a class like `Background`, and a line below.

Beneath them are pure functions, each with its paper and formula: distances.py and duplicates.py of features, pixels.py
and perceptual.py of pictures, text.py, layout.py and verdicts.py of boxes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol

import numpy as np

from lib.registry import Family, MemberSettings

METRICS = Family(
    "metric",
    {
        "fid": "lib.metrics.sets:Fid",
        "kid": "lib.metrics.sets:Kid",
        "overlap": "lib.metrics.sets:Overlaps",
        "twins": "lib.metrics.sets:Twins",
        "background": "lib.metrics.pairs:Background",
        "inside": "lib.metrics.pairs:Inside",
        "seam": "lib.metrics.pairs:Seam",
        "whole": "lib.metrics.pairs:Whole",
        "lpips": "lib.metrics.pairs:Perceptual",
    },
)


@dataclass(frozen=True)
class Pair:
    """A picture made from another, with the boxes that were to change."""

    source: np.ndarray  # uint8 (H, W, 3) RGB
    output: np.ndarray  # of the same size
    boxes: np.ndarray  # (N, 4) float64 xyxy pixels; N may be 0


class Metric(Protocol):
    """What all have: the contract, to which tests/test_metrics_family.py holds every registered one."""

    VERSION: ClassVar[int]  # raised whenever the same pictures would get another number
    OF: ClassVar[Literal["sets", "pairs"]]
    ABOUT: ClassVar[dict[str, str]]  # each number that it gives: what is good, what bad, and what it cannot tell
    Settings: ClassVar[type[MemberSettings]]

    def __init__(self, settings: Any) -> None: ...


class SetMetric(Metric, Protocol):
    """Of the features of all pictures of both sides."""

    LEAST: ClassVar[int]  # pictures that it takes on each side

    def of_sets(self, real: np.ndarray, generated: np.ndarray, seed: int) -> dict[str, Any]:
        """Numbers by name, of features (N, D) and (M, D)."""
        ...


class PairMetric(Metric, Protocol):
    """Of one picture beside its source; the set's number is the mean of the pictures' own."""

    def of_pair(self, pair: Pair) -> dict[str, float]:
        """Numbers by name; raises ValueError, a sentence for a person, where there is nothing to compare."""
        ...
