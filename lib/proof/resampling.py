"""AP of resampled pictures: detections are matched once, then counted with weights, for intervals by bootstrap.

matched = matched_of(truth, found, classes)
matched.ap(np.ones((1, pictures)))              # (1, classes): AP points, NaN of a class without boxes
draws(folds, groups, 300)                       # (300, pictures): how often each picture comes in a resample
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lib.evaluation.detectors import Detections
from lib.evaluation.metrics.layout import Truth
from lib.proof.errors import overlaps_with

Floats = NDArray[np.float64]
_IOUS = np.linspace(0.5, 0.95, 10)  # COCO's
_RECALLS = np.linspace(0, 1, 101)
_MOST = 100  # detections a picture and class


@dataclass(frozen=True)
class _OfClass:
    """The D detections of a class, the surest first."""

    picture: NDArray[np.int64]  # (D,)
    right: NDArray[np.bool_]  # (IoU, D)
    counted: NDArray[np.bool_]  # (IoU, D): not in an ignored place
    boxes: Floats  # (pictures,)


@dataclass(frozen=True)
class Matched:
    """All detections of a set of pictures beside its boxes."""

    classes: tuple[_OfClass, ...]

    def ap(self, weights: Floats) -> Floats:
        """(W, classes) AP points of each of (W, pictures) weights: how often each picture counts."""
        return np.stack([np.array([_ap(one, row) for row in weights]) for one in self.classes], 1)


def matched_of(truth: Sequence[Truth], found: Sequence[Detections], classes: int) -> Matched:
    """As COCOeval matches: class by class, the surest detections choose first, at most 100 a picture and class."""
    return Matched(tuple(_of_class(truth, found, label) for label in range(classes)))


def _of_class(truth: Sequence[Truth], found: Sequence[Detections], label: int) -> _OfClass:
    pictures, scores = [np.zeros(0, np.int64)], [np.zeros(0)]
    right, counted = [np.zeros((len(_IOUS), 0), bool)], [np.zeros((len(_IOUS), 0), bool)]
    boxes = np.zeros(len(truth))
    for i, (labels, some) in enumerate(zip(truth, found, strict=True)):
        own, mine = labels.labels == label, np.flatnonzero(some.labels == label)
        mine = mine[np.argsort(-some.scores[mine], kind="stable")][:_MOST]
        boxes[i] = (own & ~labels.ignore).sum()
        of_class = Truth(labels.boxes[own], labels.labels[own], labels.ignore[own])
        hit, aside = _matches(overlaps_with(some.boxes[mine], of_class), of_class.ignore)
        pictures.append(np.full(len(mine), i))
        scores.append(some.scores[mine])
        right.append(hit)
        counted.append(~aside)
    order = np.argsort(-np.concatenate(scores), kind="stable")
    return _OfClass(
        np.concatenate(pictures)[order], np.concatenate(right, 1)[:, order], np.concatenate(counted, 1)[:, order], boxes
    )


def _matches(overlaps: Floats, ignored: NDArray[np.bool_]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """(IoU, D) each: detections that found a box; those in an ignored place. overlaps: (D, boxes), the surest first."""
    hit, aside = np.zeros((2, len(_IOUS), len(overlaps)), bool)
    near = np.flatnonzero(overlaps.max(1, initial=0) >= _IOUS[0])
    for t, least in enumerate(_IOUS):
        free = ~ignored
        for d in near:
            fits = overlaps[d] >= least - 1e-10
            if (fits & free).any():
                free[int(np.where(fits & free, overlaps[d], -1).argmax())] = False
                hit[t, d] = True
            else:
                aside[t, d] = bool((fits & ignored).any())
    return hit, aside


def _ap(one: _OfClass, weights: Floats) -> float:
    """Mean over the IoUs of the precision at 101 recalls; NaN without boxes."""
    boxes = float(one.boxes @ weights)
    if boxes <= 0:
        return np.nan
    every = weights[one.picture]
    hits = np.cumsum(one.right * every, 1)
    total = np.cumsum((one.right | one.counted) * every, 1)
    precision = hits / np.maximum(total, 1e-9)
    precision = np.maximum.accumulate(precision[:, ::-1], 1)[:, ::-1]
    found = np.zeros((len(_IOUS), len(_RECALLS)))
    for t, recall in enumerate(hits / boxes):
        at = np.searchsorted(recall, _RECALLS, side="left")
        reached = at < len(recall)
        found[t, reached] = precision[t, at[reached]]
    return float(100 * found.mean())


def draws(folds: Sequence[int], groups: Sequence[str], count: int) -> Floats:
    """(count, pictures): folds drawn with replacement, and of each drawn fold its groups; the same at every call.

    So an interval holds what another training would give, as far as few folds show it, and what other pictures would.
    folds, groups: of each picture.
    """
    rng = np.random.default_rng(0)
    of_picture = np.array([list(dict.fromkeys(groups)).index(one) for one in groups], np.int64)
    members = [np.unique(of_picture[np.array(folds) == fold]) for fold in sorted(set(folds))]
    weights = np.zeros((count, int(of_picture.max(initial=-1)) + 1))
    for row in weights:
        for fold in rng.integers(len(members), size=len(members)):
            np.add.at(row, rng.choice(members[fold], len(members[fold])), 1)
    return weights[:, of_picture]


def interval(values: Floats) -> tuple[float, float] | None:
    """95 % of the finite ones, by percentiles; None below 20 of them."""
    finite = values[np.isfinite(values)]
    if len(finite) < 20:
        return None
    low, high = np.quantile(finite, [0.025, 0.975])
    return float(low), float(high)
