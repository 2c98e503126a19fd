"""Measures of pictures, features and boxes. To add one to the evaluation: a class like `Background`, and a line below.

A metric declares how it is shown: its numbers with direction, unit and text, its tables, notes and lines of a summary.
So the evaluation, the report and the command line show a new one without knowing of it.

Beneath them are pure functions, each with its paper and formula: distances.py and duplicates.py of features, pixels.py
and perceptual.py of pictures, text.py of captions, fidelity.py and layout.py of boxes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Protocol

import numpy as np
from pydantic import BaseModel, ConfigDict

from lib.core.registry import Family, MemberSettings
from lib.evaluation.sides import Labels
from lib.records.roll import Roll

METRICS = Family(
    "metric",
    {
        "fid": "lib.evaluation.metrics.sets:Fid",
        "kid": "lib.evaluation.metrics.sets:Kid",
        "overlap": "lib.evaluation.metrics.sets:Overlaps",
        "twins": "lib.evaluation.metrics.sets:Twins",
        "background": "lib.evaluation.metrics.pairs:Background",
        "inside": "lib.evaluation.metrics.pairs:Inside",
        "seam": "lib.evaluation.metrics.pairs:Seam",
        "whole": "lib.evaluation.metrics.pairs:Whole",
        "lpips": "lib.evaluation.metrics.pairs:Perceptual",
        "diversity": "lib.evaluation.metrics.groups:Diversity",
        "copies": "lib.evaluation.metrics.pictures:Copies",
        "captions": "lib.evaluation.metrics.pictures:Captions",
        "content": "lib.evaluation.metrics.content:Content",
        "regions": "lib.evaluation.metrics.regions:Regions",
        "layout": "lib.evaluation.metrics.layout:Layout",
    },
)

Kind = Literal["sets", "pairs", "groups", "pictures"]
KINDS: Mapping[Kind, str] = {
    "sets": "of the sets",
    "pairs": "of each picture beside its source",
    "groups": "of those made from one source",
    "pictures": "of each picture",
}


def listed() -> str:
    """The metrics' names by kind, in a line for a person."""
    names = {kind: [name for name in METRICS if kind == METRICS[name].OF] for kind in KINDS}
    return "; ".join(f"{KINDS[kind]}: {', '.join(some)}" for kind, some in names.items())


@dataclass(frozen=True)
class Number:
    """One number that a metric gives, as people read it."""

    about: str  # what is good, what is bad, and what it does not show
    better: Literal["higher", "lower"]
    unit: str = ""  # "" = a plain number
    title: str = ""  # in a summary; "" = its name
    brief: bool = True  # it has a line in a summary
    ranked: bool = True  # single pictures are counted and ranked by it
    floor: bool = False  # real pictures are measured against real ones beside it, see sets.py
    biased: bool = False  # too high for few pictures
    from_zero: bool = False  # what is below 0 means no more than 0
    account: bool = False  # it stands in the account of a run


def numbers_of(metrics: Sequence[str] | None = None) -> dict[str, tuple[str, Number]]:
    """Each number's name → (its metric's name, how it is shown), in the family's order. None: all metrics."""
    chosen = [name for name in METRICS if metrics is None or name in metrics]
    return {key: (name, number) for name in chosen for key, number in METRICS[name].NUMBERS.items()}


class Details(BaseModel):
    """Base of a metric's results beside its numbers, and of their parts: frozen, unknown fields are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


@dataclass(frozen=True)
class Table:
    """Of a report."""

    title: str
    heads: Sequence[str]
    rows: Sequence[Sequence[Any]]  # text, numbers, None = nothing to measure


@dataclass(frozen=True)
class Pair:
    """A picture made from another, with the boxes that were to change."""

    source: np.ndarray  # uint8 (H, W, 3) RGB
    output: np.ndarray  # of the same size
    boxes: np.ndarray  # (N, 4) float64 xyxy pixels; N may be 0


@dataclass(frozen=True)
class AnnotatedPicture:
    """A picture with its annotations."""

    pixels: np.ndarray  # uint8 (H, W, 3) RGB, in the frame that its boxes are in
    labels: Labels
    names: tuple[str, ...]  # the categories that a box may be of


Place = tuple[str, str, tuple[int, int]]  # path, path of its source or "", width and height that boxes were drawn in


@dataclass
class Noted:
    """What was noted of one side's pictures, in their order."""

    notes: list[dict[str, Any]] | Roll[dict[str, Any]]
    skipped: Counter[str]  # boxes that its reader left out, by reason
    places: list[Place] | Roll[Place] = field(default_factory=list)  # of the picture of each note


class Metric(Protocol):
    """What all have: the contract, to which tests/test_metrics_family.py holds every registered one.

    A member whose Settings have a field `model` is built with that model, pinned, as its second argument. Where it
    takes other models, Settings have a method `needs`: setting → model, and AugmentError for what cannot be taken.
    """

    VERSION: ClassVar[int]  # raised whenever the same pictures would get another number
    OF: ClassVar[Kind]
    NOTE: ClassVar[Any]  # type of its result for one item, as JSON; cached results are checked against it
    NUMBERS: ClassVar[dict[str, Number]]  # all that it may give, by name; no name belongs to two metrics
    MORE: ClassVar[type[Details] | None]  # type of its results beside the numbers; None: it has none
    Settings: ClassVar[type[MemberSettings]]

    def __init__(self, settings: Any) -> None: ...

    @property
    def identity(self) -> str:
        """Identity of the weights that its numbers depend on; "" where they depend on its settings alone."""
        ...

    # Each takes its Details:

    @staticmethod
    def summary(details: Any) -> list[str]:
        """Lines for a person, below those of the numbers."""
        ...

    @staticmethod
    def tables(details: Any) -> list[Table]:
        """Tables of a report."""
        ...

    @staticmethod
    def notes(details: Any) -> list[str]:
        """Warnings and remarks of a report, a line each."""
        ...


class SetMetric(Metric, Protocol):
    """Of the features of all pictures of both sides."""

    LEAST: ClassVar[int]  # pictures that it takes on each side, at its default settings

    @property
    def least(self) -> int:
        """The same at its own settings."""
        ...

    @staticmethod
    def warning(pictures: int, dimensions: int) -> str:
        """The warning where a side has no more pictures than features have dimensions; "" for none."""
        ...

    def of_sets(self, real: np.ndarray, generated: np.ndarray, seed: int) -> dict[str, Any]:
        """Numbers by name, of features (N, D) and (M, D)."""
        ...


class PairMetric(Metric, Protocol):
    """Of one picture beside its source; the set's number is the mean over the pictures."""

    def of_pair(self, pair: Pair) -> dict[str, float]:
        """Numbers by name; raises ValueError, a sentence for a person, where there is nothing to compare."""
        ...


class GroupMetric(Metric, Protocol):
    """Of the pictures made from one source; the set's number is the mean over the groups."""

    def of_group(self, pictures: Sequence[np.ndarray]) -> dict[str, float]:
        """Numbers by name, of two pictures or more; raises ValueError as of_pair."""
        ...


class PictureMetric(Metric, Protocol):
    """Of every picture of both sides by itself, and then of all that was noted of them."""

    NEEDS: ClassVar[Literal["", "boxes", "captions"]]  # annotations that its pictures must have
    LEARNS: ClassVar[bool]  # it is shown more real pictures than are compared, where there are any

    def of_picture(self, picture: AnnotatedPicture) -> dict[str, Any]:
        """Its note on one picture, JSON-safe. Raises ValueError as of_pair.

        Two entries are shown to people: `numbers` {name: number of this picture}, and `boxes`, a list of {"box": xyxy
        pixels, "label": name, "said": name, "share": 0 .. 1}.
        """
        ...

    def of_all(self, real: Noted, generated: Noted, names: Sequence[str], seed: int) -> dict[str, Any]:
        """Numbers by name; under the metric's name its Details, JSON-safe."""
        ...


class Base:
    """What members share."""

    VERSION: ClassVar[int] = 1
    NOTE: ClassVar[Any] = dict[str, float]
    MORE: ClassVar[type[Details] | None] = None
    LEARNS: ClassVar[bool] = False

    class Settings(MemberSettings):
        pass

    def __init__(self, settings: Any) -> None:
        self.settings = settings

    def accepts(self, note: Any, names: Sequence[str]) -> bool:
        """Can a kept note of type NOTE be of these categories? One that cannot is made again."""
        return True

    @property
    def identity(self) -> str:
        return ""

    @staticmethod
    def summary(details: Any) -> list[str]:
        return []

    @staticmethod
    def tables(details: Any) -> list[Table]:
        return []

    @staticmethod
    def notes(details: Any) -> list[str]:
        return []
