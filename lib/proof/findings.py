"""What cross-validation found of a detector on real pictures: headroom, learning curve, errors, what is free.

found = findings_of(basis, truth, cells, fitted)
found.doubling.value        # AP points that the last doubling of the pictures gave
found.classes[0].slope      # exponent of the class's learning curve

AP is in points, 0 .. 100, the mean over IoU .5 to .95 and the classes, of all folds' detections taken together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from lib.evaluation.detectors import Detections
from lib.evaluation.metrics.layout import Truth, layout_ap
from lib.proof.errors import ErrorKinds, errors_of, threshold_at
from lib.proof.resampling import draws, interval, matched_of

DRAWS = 200  # resamples for an interval
PRIOR = 100  # boxes: a class with so many counts as much for its slope as all classes together
FEW = 10  # boxes: a class with fewer cannot be measured
SEVERAL = 20  # pictures with several boxes that are needed to say whether classes come together

Floats = NDArray[np.float64]
Free = Literal["C", "D"]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Estimate(_Model):
    """AP points with their 95 % interval, by resampling folds and groups; None: not measured."""

    value: float
    low: float | None = None
    high: float | None = None

    @property
    def between(self) -> str:
        """ " (1.0 to 5.1)", or nothing."""
        return "" if self.low is None or self.high is None else f" ({_number(self.low)} to {_number(self.high)})"

    def __str__(self) -> str:
        """As a difference: "+3.2 AP (1.0 to 5.1)"."""
        return f"{'+' if self.value >= 0 else ''}{_number(self.value)} AP{self.between}"


def _number(value: float) -> str:
    return f"{value:z.1f}".replace("-", "−")


class Point(_Model):
    """Of the learning curve. Means over the folds."""

    share: float  # of a fold's training pictures
    pictures: float
    ap: Estimate


class ClassFinding(_Model):
    name: str
    boxes: int
    pictures: int
    ap: float
    low: float | None = None
    high: float | None = None
    doubling: Estimate | None = None  # AP points gained by the last doubling
    slope: float = 0.0  # its error falls as (boxes) ** −slope; drawn towards that of all classes
    missed: int = 0
    taken_for: dict[str, int] = {}  # other classes, at the right place


class Findings(_Model):
    detector: str
    steps: int
    folds: int
    seconds: float = 0.0  # of all trainings
    pictures: int
    groups: int
    grouped: bool  # the data set says which pictures belong together
    boxes: int
    curve: list[Point]  # the smallest share first
    doubling: Estimate
    slope: float
    fitted: float | None = None  # AP in pictures that the detector learned from
    free: dict[Free, Estimate] = {}  # AP points gained over the real pictures alone
    errors: ErrorKinds
    classes: list[ClassFinding]
    alone: float | None = None  # share of pictures with several boxes whose boxes are of one class; None: too few
    unjudged: list[str] = []  # classes that lie in a single group
    near: int = 0  # pictures that a fold did not learn from, as they are near one that it is tested on; of all folds
    quick: bool = False
    notes: list[str] = []

    @property
    def ap(self) -> float:
        """With all training pictures of a fold."""
        return self.curve[-1].ap.value

    @property
    def headroom(self) -> float:
        return 100 - self.ap


@dataclass(frozen=True, kw_only=True)
class Basis:
    """What was trained and on what; folds and groups of each picture."""

    names: Sequence[str]
    detector: str
    steps: int
    folds: Sequence[int]
    groups: Sequence[str]
    grouped: bool
    seconds: float = 0.0
    unjudged: Sequence[str] = ()
    near: int = 0
    quick: bool = False
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class Cell:
    """What the detectors of one way to train found, in each picture by the one that had not seen it."""

    share: float  # of a fold's training pictures
    pictures: float  # that a detector learned from
    boxes: Floats  # (classes,) that it learned from
    found: Sequence[Detections]


def findings_of(
    basis: Basis,
    truth: Sequence[Truth],
    curve: Sequence[Cell],
    free: Mapping[Free, Cell],
    fitted: tuple[Sequence[Truth], Sequence[Detections]] | None = None,
) -> Findings:
    """curve: the smallest share first, the last is that of all pictures; fitted: of pictures learned from."""
    weights = np.concatenate([np.ones((1, len(truth))), draws(basis.folds, basis.groups, DRAWS)])
    tables = [_ap(truth, cell, len(basis.names), weights) for cell in curve]  # (1 + DRAWS, classes) each
    best, names = curve[-1], list(basis.names)
    threshold = threshold_at(truth, best.found, None).score
    errors = errors_of(truth, best.found, names, threshold)
    points = [
        Point(share=cell.share, pictures=cell.pictures, ap=_estimate(_over_classes(table)))
        for cell, table in zip(curve, tables, strict=True)
    ]
    slope = slope_of([one.pictures for one in points], [100 - one.ap.value for one in points])
    counts = np.stack([np.bincount(one.labels[~one.ignore], minlength=len(names)) for one in truth])
    classes = [_class(k, basis, curve, tables, slope, counts[:, k], errors) for k in range(len(names))]
    gains: dict[Free, Estimate] = {
        arm: _estimate(_over_classes(_ap(truth, cell, len(names), weights)) - _over_classes(tables[-1]))
        for arm, cell in free.items()
    }
    learned = None if fitted is None or not fitted[0] else layout_ap(*fitted, names)["ap"]
    return Findings(
        detector=basis.detector,
        steps=basis.steps,
        folds=len(set(basis.folds)),
        seconds=basis.seconds,
        pictures=len(truth),
        groups=len(set(basis.groups)),
        grouped=basis.grouped,
        boxes=int(counts.sum()),
        curve=points,
        doubling=_estimate(_over_classes(tables[-1]) - _over_classes(tables[-2])),
        slope=slope,
        fitted=None if learned is None else 100 * learned,
        free=gains,
        errors=errors,
        classes=classes,
        alone=_alone(counts),
        unjudged=list(basis.unjudged),
        near=basis.near,
        quick=basis.quick,
        notes=list(basis.notes),
    )


def _alone(counts: NDArray[np.int64]) -> float | None:
    """counts: (pictures, classes) boxes."""
    several = counts[counts.sum(1) > 1]
    return float((np.count_nonzero(several, axis=1) == 1).mean()) if len(several) >= SEVERAL else None


def _ap(truth: Sequence[Truth], cell: Cell, classes: int, weights: Floats) -> Floats:
    return matched_of(truth, cell.found, classes).ap(weights)


def _over_classes(table: Floats) -> Floats:
    """(draws,) mean over the classes that a draw holds."""
    known = np.isfinite(table)
    return np.where(known, table, 0).sum(1) / np.maximum(known.sum(1), 1)


def _estimate(values: Floats) -> Estimate:
    """Of (1 + DRAWS,) values, the first of which is that of the pictures themselves."""
    found = interval(values[1:])
    low, high = found if found else (None, None)
    return Estimate(value=float(values[0]), low=low, high=high)


def slope_of(sizes: Sequence[float], errors: Sequence[float]) -> float:
    """The exponent b, 0 or more, of error ~ size ** −b (Hestness et al. 2017, arXiv 1712.00409), by least squares."""
    x, y = np.array(sizes, np.float64), np.array(errors, np.float64)
    usable = (x > 0) & (y > 0)
    if usable.sum() < 2 or np.ptp(x[usable]) <= 0:
        return 0.0
    coefficient = np.polyfit(np.log(x[usable]), np.log(y[usable]), 1)[0]
    return max(0.0, -float(coefficient))


def _class(
    k: int,
    basis: Basis,
    curve: Sequence[Cell],
    tables: Sequence[Floats],
    slope: float,
    counts: NDArray[np.int64],
    errors: ErrorKinds,
) -> ClassFinding:
    name, boxes = basis.names[k], int(counts.sum())
    values = [float(table[0, k]) for table in tables]
    own = slope_of([float(cell.boxes[k]) for cell in curve], [100 - value for value in values])
    weight = boxes if boxes >= FEW else 0
    found = _estimate(tables[-1][:, k])
    return ClassFinding(
        name=name,
        boxes=boxes,
        pictures=int((counts > 0).sum()),
        ap=found.value,
        low=found.low,
        high=found.high,
        doubling=_estimate(tables[-1][:, k] - tables[-2][:, k]),
        slope=(weight * own + PRIOR * slope) / (weight + PRIOR),
        missed=errors.by_category[name]["missed"],
        taken_for={one.found_as: one.count for one in errors.confusions if one.category == name},
    )
