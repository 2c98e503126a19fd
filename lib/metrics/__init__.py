"""Measures of pictures, features and boxes. To add one to the evaluation: a class like `Background`, and a line below.

Beneath them are pure functions, each with its paper and formula: distances.py and duplicates.py of features, pixels.py
and perceptual.py of pictures, text.py of captions, fidelity.py, layout.py and verdicts.py of boxes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol

import numpy as np

from lib.registry import Family, MemberSettings
from lib.sides import Labels

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
        "diversity": "lib.metrics.groups:Diversity",
        "copies": "lib.metrics.pictures:Copies",
        "captions": "lib.metrics.pictures:Captions",
        "regions": "lib.metrics.regions:Regions",
        "layout": "lib.metrics.detected:Layout",
    },
)

Kind = Literal["sets", "pairs", "groups", "pictures"]


@dataclass(frozen=True)
class Pair:
    """A picture made from another, with the boxes that were to change."""

    source: np.ndarray  # uint8 (H, W, 3) RGB
    output: np.ndarray  # of the same size
    boxes: np.ndarray  # (N, 4) float64 xyxy pixels; N may be 0


@dataclass(frozen=True)
class Seen:
    """A picture with what is said of it."""

    pixels: np.ndarray  # uint8 (H, W, 3) RGB, in the frame that its boxes are in
    labels: Labels
    names: tuple[str, ...]  # the categories that a box may be of


@dataclass
class Noted:
    """What was noted of one side's pictures, in their order."""

    notes: list[dict[str, Any]]
    skipped: Counter[str]  # boxes that its reader left out, by reason


class Metric(Protocol):
    """What all have: the contract, to which tests/test_metrics_family.py holds every registered one.

    A member whose Settings have a field `model` is built with that model, pinned, as its second argument.
    """

    VERSION: ClassVar[int]  # raised whenever the same pictures would get another number
    OF: ClassVar[Kind]
    ABOUT: ClassVar[dict[str, str]]  # each number that it gives: what is good, what bad, and what it cannot tell
    NOTE: ClassVar[Any]  # the type of what it says of one item, as JSON: what is kept is read to no other
    Settings: ClassVar[type[MemberSettings]]

    def __init__(self, settings: Any) -> None: ...

    @property
    def identity(self) -> str:
        """Weights that its numbers depend on, where its settings do not tell; "" where there are none."""
        ...


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


class GroupMetric(Metric, Protocol):
    """Of the pictures made from one source; the set's number is the mean of the groups' own."""

    def of_group(self, pictures: Sequence[np.ndarray]) -> dict[str, float]:
        """Numbers by name, of two pictures or more; raises ValueError as of_pair."""
        ...


class PictureMetric(Metric, Protocol):
    """Of every picture of both sides by itself, and then of all that was noted of them."""

    NEEDS: ClassVar[Literal["", "boxes", "captions"]]  # what its pictures must have said of them

    def of_picture(self, seen: Seen) -> dict[str, Any]:
        """What is noted, JSON-safe. Raises ValueError as of_pair.

        Two entries are shown to people: `numbers` {name: number of this picture}, and `boxes`, a list of {"box": xyxy
        pixels, "label": name, "said": name, "share": 0 .. 1}.
        """
        ...

    def of_all(self, real: Noted, generated: Noted, names: Sequence[str], seed: int) -> dict[str, Any]:
        """Numbers by name; under the metric's own name what is more to tell, JSON-safe."""
        ...


class Base:
    """What members share."""

    VERSION: ClassVar[int] = 1
    NOTE: ClassVar[Any] = dict[str, float]

    class Settings(MemberSettings):
        pass

    def __init__(self, settings: Any) -> None:
        self.settings = settings

    @property
    def identity(self) -> str:
        return ""
