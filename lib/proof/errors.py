"""What kind of error a detector makes, and which pictures it would let pass or refuse.

    errors = errors_of(truth, found, names, threshold=0.3)     # one Truth and one Detections a picture
    errors.counts["missed"], errors.gains["missed"].ap50
    limit = threshold_at(truth_of_validation, found_there)     # never chosen on the test set
    rates(truth, found, limit.score).escapes

Kinds, and what mending one of them would gain, are those of TIDE (Bolya et al. 2020, arXiv 2008.08115, section 2): a
detection is right with an IoU of FOREGROUND or more to a box of its class that no surer one has taken; below BACKGROUND
it shows nothing that is labelled.

    badly_placed            right class, IoU between the two
    wrong_class             another class, IoU ≥ FOREGROUND
    double                  right, but a surer detection has the box
    background              IoU < BACKGROUND to every box
    wrong_class_and_place   another class, IoU between the two
    missed                  a box that no detection found, placed badly or named wrongly
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from lib.core.geometry import area_xyxy, xyxy_to_xywh
from lib.evaluation.detectors import Detections
from lib.evaluation.metrics.layout import Truth, layout_ap

FOREGROUND, BACKGROUND = 0.5, 0.1  # IoU
SMALL, LARGE = 32.0**2, 96.0**2  # pixels²: COCO's small is below, its large beyond
REFUSED = 0.05  # of the pictures without an object: what a threshold may refuse by default

Kind = Literal["missed", "wrong_class", "badly_placed", "wrong_class_and_place", "double", "background"]
KINDS: tuple[Kind, ...] = get_args(Kind)
SIZES = ("small", "medium", "large")
CROWDING = ("near others", "apart")
RIGHT = "right"

Floats = NDArray[np.float64]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Confusion(_Model):
    """Boxes of a category that were taken for another one, at the right place."""

    category: str
    found_as: str
    count: int


class Gain(_Model):
    """AP points, 0 .. 100, that would be won if no error of a kind were made."""

    ap: float
    ap50: float  # TIDE's own


class ErrorKinds(_Model):
    """Counts are {"right": n, "missed": n, ...}: right and missed ones of boxes, the others of detections."""

    threshold: float  # detections below this score do not count
    boxes: int  # labelled, without the ignored ones
    counts: dict[str, int]
    by_category: dict[str, dict[str, int]]  # of the labelled box; of the detection where there is none
    by_size: dict[str, dict[str, int]]
    by_crowding: dict[str, dict[str, int]]  # near others: the box, twice as long on each side, meets another one
    confusions: list[Confusion]  # the frequent ones first
    ap: float | None  # points; None without boxes
    ap50: float | None
    gains: dict[str, Gain]  # by kind, of all detections whatever their score; empty without boxes, or not computed


@dataclass(frozen=True)
class _Event:
    """A detection, right or wrong, or a missed box."""

    kind: str
    truth: int | None  # number of the labelled box that it is about
    found: int | None  # number of the detection


def errors_of(
    truth: Sequence[Truth],
    found: Sequence[Detections],
    names: Sequence[str],
    threshold: float,
    scores: dict[str, Any] | None = None,
    gains: bool = True,
) -> ErrorKinds:
    """Errors of the detections that score `threshold` or more, and the gains of mending them.

    scores: what `layout_ap` gave for these, where it is known. gains: they take six times as long as all else, about a
    second each for 100 pictures with 100 detections. Raises ValueError as `layout_ap`.
    """
    base = scores or layout_ap(truth, found, names)
    table = error_table(truth, found, names, threshold)
    wrong = table[table["kind"] == "wrong_class"].groupby(["category", "found_as"]).size()
    confusions = [Confusion(category=one, found_as=other, count=int(n)) for (one, other), n in wrong.items()]
    return ErrorKinds(
        threshold=threshold,
        boxes=base["boxes"],
        counts=_counted(table),
        by_category={name: _counted(table[table["category"] == name]) for name in names},
        by_size={size: _counted(table[table["size"] == size]) for size in SIZES},
        by_crowding={where: _counted(table[table["crowded"] == (where == CROWDING[0])]) for where in CROWDING},
        confusions=sorted(confusions, key=lambda one: (-one.count, one.category, one.found_as)),
        ap=_points(base["ap"]),
        ap50=_points(base["ap50"]),
        gains=_gains(truth, found, names, base) if gains and base["ap"] is not None else {},
    )


def _points(share: float | None) -> float | None:
    return None if share is None else 100 * share


def _counted(table: pd.DataFrame) -> dict[str, int]:
    counts = table["kind"].value_counts()
    return {kind: int(counts.get(kind, 0)) for kind in (RIGHT, *KINDS)}


def error_table(
    truth: Sequence[Truth], found: Sequence[Detections], names: Sequence[str], threshold: float
) -> pd.DataFrame:
    """A row for each detection that counts and each missed box.

    Columns: picture (its number), kind ("right" or one of KINDS), category (the labelled box's; the detection's where
    there is none), found_as ("" of a missed one), score (NaN of a missed one), size (COCO's, of the same box),
    crowded (bool).
    """
    rows = []
    for picture, (labels, some) in enumerate(zip(truth, found, strict=True)):
        some = _above(some, threshold)
        near, areas = _near(labels.boxes, labels.boxes, own=True), _areas(labels)
        near_found, areas_found = _near(some.boxes, labels.boxes), area_xyxy(some.boxes)
        for event in _events(labels, some):
            k, d = event.truth, event.found
            area = areas_found[d] if k is None else areas[k]
            found_as = "" if d is None else names[some.labels[d]]
            rows.append(
                {
                    "picture": picture,
                    "kind": event.kind,
                    "category": found_as if k is None else names[labels.labels[k]],
                    "found_as": found_as,
                    "score": np.nan if d is None else float(some.scores[d]),
                    "size": SIZES[int(area >= SMALL) + int(area > LARGE)],
                    "crowded": bool(near_found[d] if k is None else near[k]),
                }
            )
    return pd.DataFrame(rows, columns=["picture", "kind", "category", "found_as", "score", "size", "crowded"])


def _above(found: Detections, threshold: float) -> Detections:
    """Those that count, the surest first."""
    order = np.argsort(-found.scores, kind="stable")
    order = order[found.scores[order] >= threshold]
    return Detections(found.boxes[order], found.scores[order], found.labels[order])


def _areas(truth: Truth) -> Floats:
    return area_xyxy(truth.boxes) if truth.area is None else truth.area


def _near(boxes: Floats, others: Floats, own: bool = False) -> NDArray[np.bool_]:
    """(N,): whether a box, twice as long on each side, meets one of (M, 4) others; own: they are the same boxes."""
    half = (boxes[:, 2:] - boxes[:, :2]) / 2
    low, high = boxes[:, None, :2] - half[:, None], boxes[:, None, 2:] + half[:, None]
    meets: NDArray[np.bool_] = np.all((low < others[None, :, 2:]) & (high > others[None, :, :2]), axis=2)
    if own:
        np.fill_diagonal(meets, False)
    return np.asarray(meets.any(axis=1))


# --- kinds ------------------------------------------------------------------------------------------------------------


def overlaps_with(boxes: Floats, truth: Truth) -> Floats:
    """(N, M) IoU; with an ignored box the share of the detection that lies in it, as COCOeval has it for crowds."""
    from pycocotools import mask

    if not len(boxes) or not len(truth.boxes):
        return np.zeros((len(boxes), len(truth.boxes)))
    ignored = truth.ignore.astype(np.uint8).tolist()
    found: Floats = mask.iou(xyxy_to_xywh(boxes), xyxy_to_xywh(truth.boxes), ignored)
    return found


def _events(truth: Truth, found: Detections) -> list[_Event]:
    """Of one picture. found: the surest first. Detections in ignored places are in none."""
    overlaps = overlaps_with(found.boxes, truth)
    same = found.labels[:, None] == truth.labels[None]
    taken, right, set_aside = _matched(overlaps, same, truth.ignore)
    overlaps = np.where(truth.ignore[None], 0.0, overlaps)
    events = [_Event(RIGHT, k, d) for d, k in right.items()]
    for d in range(len(found.boxes)):
        if d not in right and d not in set_aside:
            kind, k = _kind(overlaps[d], same[d], taken)
            events.append(_Event(kind, k, d))
    excused = {event.truth for event in events if event.kind in ("badly_placed", "wrong_class")}
    missed = [k for k in np.flatnonzero(~taken & ~truth.ignore).tolist() if k not in excused]
    return events + [_Event("missed", k, None) for k in missed]


def _matched(
    overlaps: Floats, same: NDArray[np.bool_], ignored: NDArray[np.bool_]
) -> tuple[NDArray[np.bool_], dict[int, int], set[int]]:
    """(taken boxes, {detection: box}, detections in ignored places), as COCOeval matches: the surest choose first."""
    taken = np.zeros(len(ignored), bool)
    right: dict[int, int] = {}
    set_aside: set[int] = set()
    for d in range(len(overlaps)):
        fits = np.where(same[d] & (overlaps[d] >= FOREGROUND), overlaps[d], 0.0)
        free = np.where(taken | ignored, 0.0, fits)
        if free.any():
            right[d] = int(free.argmax())
            taken[right[d]] = True
        elif (fits * ignored).any():
            set_aside.add(d)
    return taken, right, set_aside


def _kind(overlaps: Floats, same: NDArray[np.bool_], taken: NDArray[np.bool_]) -> tuple[str, int | None]:
    """Of a wrong detection, in TIDE's order. overlaps, same, taken: (M,) over the labelled boxes."""

    def best(among: NDArray[np.bool_]) -> tuple[float, int]:
        values = np.where(among, overlaps, 0.0)
        return (float(values.max()), int(values.argmax())) if len(values) else (0.0, -1)

    (own, k), (other, j), (used, i) = best(same), best(~same), best(same & taken)
    if BACKGROUND <= own < FOREGROUND:
        return "badly_placed", k
    if other >= FOREGROUND:
        return "wrong_class", j
    if used >= FOREGROUND:
        return "double", i
    return ("wrong_class_and_place", j) if other >= BACKGROUND else ("background", None)


# --- gains ------------------------------------------------------------------------------------------------------------


def _gains(
    truth: Sequence[Truth], found: Sequence[Detections], names: Sequence[str], base: dict[str, Any]
) -> dict[str, Gain]:
    """Each kind mended by an oracle, alone (TIDE, section 2.3); gains do not add up to what is lacking to 100.

    Where detections of two kinds are about one box, either kind's mending wins it; TIDE's code gives it to the surest.
    """
    ordered = [_above(some, -np.inf) for some in found]
    events = [_events(labels, some) for labels, some in zip(truth, ordered, strict=True)]
    gains: dict[str, Gain] = {}
    for kind in KINDS:
        mended = [_mended(kind, *one) for one in zip(truth, ordered, events, strict=True)]
        better = layout_ap([labels for labels, _ in mended], [some for _, some in mended], names)
        if better["ap"] is None:  # all boxes were missed ones: nothing would be left to find
            better = {"ap": 1.0, "ap50": 1.0}
        gains[kind] = Gain(**{name: 100 * (better[name] - base[name]) for name in ("ap", "ap50")})
    return gains


def _mended(kind: Kind, truth: Truth, found: Detections, events: list[_Event]) -> tuple[Truth, Detections]:
    """Of a free box the surest detection about it becomes right; the others of the kind go, as if never made."""
    if kind == "missed":
        kept = np.setdiff1d(np.arange(len(truth.boxes)), [one.truth for one in events if one.kind == kind])
        return _boxes(truth, kept), found
    free = set(range(len(truth.boxes))) - {one.truth for one in events if one.kind == RIGHT}
    boxes, labels, kept = found.boxes.copy(), found.labels.copy(), np.ones(len(found.boxes), bool)
    for one in sorted((one for one in events if one.kind == kind), key=lambda one: one.found or 0):
        if kind in ("badly_placed", "wrong_class") and one.truth in free:
            free.remove(one.truth)
            if kind == "badly_placed":
                boxes[one.found] = truth.boxes[one.truth]
            else:
                labels[one.found] = truth.labels[one.truth]
        else:
            kept[one.found] = False
    return truth, Detections(boxes[kept], found.scores[kept], labels[kept])


def _boxes(truth: Truth, kept: NDArray[np.int64]) -> Truth:
    area = None if truth.area is None else truth.area[kept]
    return replace(truth, boxes=truth.boxes[kept], labels=truth.labels[kept], ignore=truth.ignore[kept], area=area)


# --- pictures as a whole ----------------------------------------------------------------------------------------------


class Rates(_Model):
    """Whole pictures, as an inspection sorts them. None where there is no such picture."""

    threshold: float
    escapes: float | None  # 0 .. 1: of the pictures with an object, those in which nothing was found
    false_rejects: float | None  # 0 .. 1: of the pictures without one, those in which something was found
    with_objects: int
    without: int


class Threshold(_Model):
    """Detections with this score or more count."""

    score: float
    rule: str  # how it was chosen


def _sorted_out(truth: Sequence[Truth], found: Sequence[Detections]) -> tuple[Floats, Floats]:
    """The surest score (−1: nothing found) of each picture with an object, and of each without any label.

    Pictures with ignored boxes alone are in neither.
    """
    if len(truth) != len(found):
        raise ValueError(f"boxes of {len(truth)} pictures and detections of {len(found)}: expected the same pictures")
    surest = np.array([some.scores.max(initial=-1.0) for some in found], np.float64)
    holds = np.array([(~labels.ignore).any() for labels in truth], bool)
    empty = np.array([not len(labels.ignore) for labels in truth], bool)
    return surest[holds], surest[empty]


def rates(truth: Sequence[Truth], found: Sequence[Detections], threshold: float) -> Rates:
    """Escapes and false rejects, whatever the classes and places of what was found."""
    objects, none = _sorted_out(truth, found)
    return Rates(
        threshold=threshold,
        escapes=float((objects < threshold).mean()) if len(objects) else None,
        false_rejects=float((none >= threshold).mean()) if len(none) else None,
        with_objects=len(objects),
        without=len(none),
    )


def threshold_at(
    truth: Sequence[Truth], found: Sequence[Detections], false_rejects: float | None = REFUSED
) -> Threshold:
    """The lowest score that refuses at most this share of the pictures without an object.

    Where there are none, or false_rejects is None, the score with the best F1 of boxes. To be chosen on other pictures
    than those on which `rates` are stated.
    """
    none = _sorted_out(truth, found)[1]
    if false_rejects is None or not len(none):
        return _best_f1(truth, found)
    allowed = int(np.floor(false_rejects * len(none) + 1e-9))
    rest = np.sort(none)[::-1][allowed:]
    score = max(0.0, float(np.nextafter(rest[0], np.inf))) if len(rest) else 0.0
    rule = f"refuses at most {100 * false_rejects:g} % of {len(none)} pictures without an object"
    return Threshold(score=score, rule=rule)


def _best_f1(truth: Sequence[Truth], found: Sequence[Detections]) -> Threshold:
    """Over all detections, matched by class and an IoU of FOREGROUND."""
    scores, hits, boxes = [np.zeros(0)], [np.zeros(0, bool)], 0
    for labels, some in zip(truth, found, strict=True):
        some = _above(some, -np.inf)
        _, right, set_aside = _matched(
            overlaps_with(some.boxes, labels), some.labels[:, None] == labels.labels[None], labels.ignore
        )
        counted = [d for d in range(len(some.boxes)) if d not in set_aside]
        scores.append(some.scores[counted])
        hits.append(np.array([d in right for d in counted], bool))
        boxes += int((~labels.ignore).sum())
    every, hit = np.concatenate(scores), np.concatenate(hits)
    order = np.argsort(-every, kind="stable")
    every, hit = every[order], hit[order]
    last = np.append(every[1:] != every[:-1], True)[: len(every)]  # a threshold takes all of one score
    f1 = np.where(last, 2 * np.cumsum(hit) / (np.arange(1, len(every) + 1) + max(boxes, 1)), 0.0)
    score = float(every[f1.argmax()]) if f1.any() else 0.5
    rule = "has the best F1 of boxes" if f1.any() else "is the middle, as nothing was found rightly"
    return Threshold(score=score, rule=rule)
