"""Keep, ignore or drop a box, by a judge's scores of the same data set's real boxes: screening, box by box.

    limits = thresholds(shares_real, labels_real)            # shares: (N, C), lib.judges.score_boxes
    for verdict in verdicts(shares, labels, limits, sides):  # of painted boxes; sides: pixels
        verdict.action, verdict.reason                       # "drop", "not_recognised"

A fixed limit would mean something else for every judge and category: CLIPs are sure of forklifts and unsure of
stillages. So a box must be as recognisable as all but the worst real boxes of its category. A whole picture's score
takes no part. That checks of boxes help a detector, and those of whole pictures do not, is what the
studies in the field agree on; `ignore` is for what is better neither learned from nor learned to be background.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from lib.core.geometry import MIN_SIDE
from lib.records.settings import BoxScreenSettings

Action = Literal["keep", "ignore", "drop"]
Floats = NDArray[np.float64]

RECOGNISED = "recognised"  # keep: as real boxes are
TOO_SMALL = "too_small_to_judge"  # keep: too few pixels to recognise anything, in real boxes too
TOO_FEW_REAL = "too_few_real_boxes"  # keep: no limits could be learned
DOUBTFUL = "doubtful"  # ignore: less recognisable than real boxes, but not something else either
NOT_FILLED = "not_filled"  # ignore: the object does not fill its box
NOT_RECOGNISED = "not_recognised"  # drop: another name fits better, and its category hardly at all
_DEFAULTS = BoxScreenSettings()
_LEAST_SHARE = 1e-9  # a judge's 0 is not less than this, so that means of logarithms exist


@dataclass(frozen=True)
class Standing:
    """How a box's category ranks among all names; NaN and 0 for a box without finite shares."""

    share: Floats  # (N,) share of its category, 0 .. 1
    rank: NDArray[np.int64]  # (N,) 1 = no name fits better
    margin: Floats  # (N,) share − the best other share, −1 .. 1; the share itself where no other name exists


@dataclass(frozen=True)
class Thresholds:
    """Limits of the share of a box's category, learned from real boxes; C categories."""

    keep: Floats  # (C,) at or above: keep
    drop: Floats  # (C,) below, and not ranked first: drop; never above `keep`
    boxes: NDArray[np.int64]  # (C,) real boxes that they were learned from
    pooled: NDArray[np.bool_]  # (C,) too few of this category, so those of all categories helped
    percentiles: tuple[float, float]  # (keep, drop)
    known: bool  # False: too few real boxes in all; the limits are 0 and hold nothing back
    filled: Floats | None = None  # (C,) limits of `filling`; None: not asked

    def by_name(self, names: Sequence[str]) -> dict[str, Any]:
        """{name: {"keep", "drop", "boxes", "pooled"}} of C names, and "filled" where it is asked, as JSON takes it."""
        columns = ("keep", "drop", "boxes", "pooled", *(["filled"] if self.filled is not None else []))
        rows = zip(names, *(getattr(self, column).tolist() for column in columns), strict=True)
        return {name: dict(zip(columns, values, strict=True)) for name, *values in rows}


@dataclass(frozen=True)
class Verdict:
    """On one box, with the numbers that it rests on; score and margin are None where the box could not be judged."""

    action: Action
    reason: str
    score: float | None  # share of its category
    rank: int  # of its category, 1 = first; 0 where it could not be judged
    margin: float | None
    keep_at: float  # its category's limits
    drop_at: float


def standing(shares: Any, labels: Any) -> Standing:
    """Share, rank and margin of N boxes' categories; shares: (N, C) over all names, labels: (N,) categories 0 .. C − 1.

    Names that fit equally well share the better rank. Raises ValueError for other shapes, or labels beyond the names.
    """
    shares, labels = _checked(shares, labels)
    share = shares[np.arange(len(labels)), labels]
    others = shares.copy()
    others[np.arange(len(labels)), labels] = -np.inf
    rank = np.where(np.isfinite(share), 1 + (others > share[:, None]).sum(axis=1), 0)
    best = others.max(axis=1)
    return Standing(share, rank, share - np.where(np.isneginf(best), 0, best))


def thresholds(
    real_shares: Any,
    labels: Any,
    keep: float = _DEFAULTS.keep,
    drop: float = _DEFAULTS.drop,
    least: int = _DEFAULTS.least,
    most: float = _DEFAULTS.most,
    sides: Any = None,
    min_side: float = MIN_SIDE,
) -> Thresholds:
    """Learn the limits from N real boxes: the `keep`-th and `drop`-th percentile, 0 .. 100, of each category's scores.

    real_shares, labels: as in `standing`; sides, min_side: as in `verdicts`, what is too small is not learned from.
    Percentiles are scores of real boxes (the lower of two neighbours), so that at least 100 − keep percent of the real
    boxes of a category that is not pooled are kept; a percentile of 0 sets no limit. A category with fewer than
    `least` boxes takes the percentile over all categories, or its own where that is lower: a rare category needs no
    more than its real boxes reach. With fewer than `least` in all nothing is limited. No limit is above `most`: a
    judge that is sure of every real box has limits like .997, and .5 would ask for no more than a majority.

    Raises ValueError as `standing`, and for percentiles outside of 0 <= drop <= keep <= 100.
    """
    if not 0 <= drop <= keep <= 100:
        raise ValueError(f"percentiles keep={keep}, drop={drop}: expected 0 <= drop <= keep <= 100")
    shares, labels = _checked(real_shares, labels)
    judged = _judged(shares, sides, min_side)
    scores, labels = standing(shares, labels).share[judged], labels[judged]
    boxes = np.bincount(labels, minlength=shares.shape[1])
    limits = [np.minimum(_limits(scores, labels, boxes, percentile, least), most) for percentile in (keep, drop)]
    return Thresholds(limits[0], limits[1], boxes, boxes < least, (float(keep), float(drop)), len(scores) >= least)


def filling(shares: Any, labels: Any) -> Floats:
    """(N,) how far each of N boxes shows its category on all sides, 0 .. 1: the geometric mean over its halves.

    shares: (N, 4, C) of the left, right, upper and lower half of each; NaN for a box with a half that was not judged.
    Of an object that fills half of its box one half shows the background: that one alone makes the mean small, where
    the whole box is still recognised.
    """
    shares, labels = np.asarray(shares, np.float64), np.asarray(labels, np.int64)
    own = np.take_along_axis(shares, labels[:, None, None], 2)[..., 0]
    found = np.exp(np.log(np.maximum(own, _LEAST_SHARE)).mean(1))
    return np.array([float(f"{value:.6g}") for value in found])  # as shares are kept: equal on every machine


def filled_limits(found: Any, labels: Any, count: int, percentile: float, least: int = _DEFAULTS.least) -> Floats:
    """(C,) the limits of `filling` at a percentile of N real boxes, for `count` categories; as in `thresholds`."""
    found, labels = np.asarray(found, np.float64), np.asarray(labels, np.int64)
    judged = np.isfinite(found)
    found, labels = found[judged], labels[judged]
    return _limits(found, labels, np.bincount(labels, minlength=count), percentile, least)


def held_to_filling(given: Sequence[Verdict], found: Any, labels: Any, limits: Thresholds) -> list[Verdict]:
    """Those that are kept become ignored where their boxes are not filled. found: of `filling`, one a verdict."""
    if limits.filled is None:
        return list(given)
    return [
        replace(one, action="ignore", reason=NOT_FILLED)
        if one.action == "keep" and value < limits.filled[label]
        else one
        for one, value, label in zip(given, np.asarray(found, np.float64), labels, strict=True)
    ]


def verdicts(
    shares: Any, labels: Any, limits: Thresholds, sides: Any = None, min_side: float = MIN_SIDE
) -> list[Verdict]:
    """One verdict for each of N boxes, from its shares alone.

    shares, labels: as in `standing`; a row that is not finite (a box outside of its picture) cannot be judged. sides:
    (N,) shorter side of each box's visible part, pixels, or None = all large enough. Boxes that cannot be judged are
    kept. A higher share of its category never makes a verdict worse. Raises ValueError as `standing`, or where `limits`
    are of another number of categories.
    """
    shares, labels = _checked(shares, labels)
    if shares.shape[1] != len(limits.keep):
        raise ValueError(f"shares of {shares.shape[1]} categories, and limits of {len(limits.keep)}: expected the same")
    where, judged = standing(shares, labels), _judged(shares, sides, min_side)
    return [
        _verdict(float(where.share[i]), int(where.rank[i]), float(where.margin[i]), bool(judged[i]), int(label), limits)
        for i, label in enumerate(labels)
    ]


def _verdict(share: float, rank: int, margin: float, judged: bool, label: int, limits: Thresholds) -> Verdict:
    keep_at, drop_at = float(limits.keep[label]), float(limits.drop[label])
    if not judged:
        return Verdict("keep", TOO_SMALL, None, 0, None, keep_at, drop_at)
    action: Action = "keep" if share >= keep_at else "drop" if share < drop_at and rank > 1 else "ignore"
    reason = {"keep": RECOGNISED, "ignore": DOUBTFUL, "drop": NOT_RECOGNISED}[action]
    return Verdict(action, reason if limits.known else TOO_FEW_REAL, share, rank, margin, keep_at, drop_at)


def _limits(
    scores: Floats, labels: NDArray[np.int64], boxes: NDArray[np.int64], percentile: float, least: int
) -> Floats:
    """(C,) limits at one percentile."""
    if percentile == 0 or len(scores) < least:
        return np.zeros(len(boxes))
    pool = _percentile(scores, percentile)
    each = [_percentile(scores[labels == number], percentile) for number in range(len(boxes))]
    return np.array([one if n >= least else min(one, pool) for one, n in zip(each, boxes, strict=True)])


def _percentile(values: Floats, percentile: float) -> float:
    return float(np.percentile(values, percentile, method="lower")) if len(values) else np.inf


def _judged(shares: Floats, sides: Any, min_side: float) -> NDArray[np.bool_]:
    """(N,) whether a box can be judged."""
    finite: NDArray[np.bool_] = np.asarray(np.isfinite(shares).all(axis=1))
    if sides is None:
        return finite
    pixels: Floats = np.asarray(sides, np.float64)
    if pixels.shape != finite.shape:
        raise ValueError(f"sides of shape {pixels.shape} for {len(shares)} boxes: expected one a box")
    judged: NDArray[np.bool_] = finite & (pixels >= min_side)
    return judged


def _checked(shares: Any, labels: Any) -> tuple[Floats, NDArray[np.int64]]:
    shares, labels = np.asarray(shares, np.float64), np.asarray(labels)
    if shares.ndim != 2 or labels.shape != (len(shares),):
        raise ValueError(f"shares of shape {shares.shape}, labels of {labels.shape}: expected (N, C) and (N,)")
    if len(labels) and (labels.min() < 0 or labels.max() >= shares.shape[1]):
        raise ValueError(f"labels {labels.min()} .. {labels.max()}: expected 0 .. {shares.shape[1] - 1}, by the names")
    return shares, labels.astype(np.int64)
