"""Is painting likely to pay, which edit, which classes, how many boxes? Stated rules over what cross-validation found.

advice = advise(findings)
advice.answer, advice.sentence          # "yes", "perhaps" or "no", and why in a sentence
advice.target                           # {"per_category": {"forklift": 500}}

Painting is advised against where little is lacking, where the detector does not yet fit the pictures that it has, where
twice as many real pictures give nothing, where what is lacking is the placing of boxes and more pictures do not surely
help, and where repeat-factor sampling or copy-paste, which are free, give as much as twice the pictures. Where
copy-paste surely gained nothing there is no yes: it is painted too. docs/proof.md states the rules.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from lib.proof.advised_edits import EditAdvice, edits_of
from lib.proof.errors import KINDS, RIGHT
from lib.proof.findings import FEW, ClassFinding, Findings, Free
from lib.proof.results import FEW_TEST, WEAK

HIGH = 75.0  # AP points from which little is lacking that pictures could give
FLAT = 1.0  # AP points: what two trainings differ by that differ in nothing but their seed
SURELY = 3.0  # AP points: a doubling whose interval ends below gives nothing that matters
CLEAR = 2.0  # AP points of a doubling from which painting is likely to pay
UNFITTED = 5.0  # AP points by which pictures learned from are found better, below which more of them do not help
PLACING = 0.6  # share of what can be mended from which the placing of boxes is what is lacking
FEWER_ERRORS = 0.75  # in all as many boxes as would leave so much of the weak classes' error, by their learning curves
MOST = 4.0  # new boxes of a class per real one
FEW_PICTURES = 100  # below, 2 new boxes per real one in all, else 1
EVEN = 5.0  # AP points: classes that differ by less are all weak
LEAST_SLOPE = 0.01  # of a class's learning curve: where none rises, boxes go to the rare and weak ones still

Answer = Literal["yes", "perhaps", "no"]
FREE: dict[Free, str] = {"C": "repeat-factor sampling", "D": "copy-paste (preset insert, not screened)"}


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Reason(_Model):
    speaks: Literal["for", "against", "neither"]
    text: str


class ClassAdvice(_Model):
    name: str
    boxes: int  # real ones
    new_boxes: int
    why: str


class Advice(_Model):
    answer: Answer
    sentence: str
    instead: Free | None = None  # what is free and gives as much
    cautions: list[str]  # what cannot be trusted
    basis: str
    reasons: list[Reason]
    edits: list[EditAdvice]  # that fit best first
    classes: list[ClassAdvice]
    ratio: float  # new boxes per real one, in all

    @property
    def target(self) -> dict[str, dict[str, int]]:
        """As the parameter `target` of a run has it."""
        return {"per_category": {one.name: one.new_boxes for one in self.classes}}


def advise(found: Findings) -> Advice:
    """By the rules of this module's head."""
    free, against = free_arm(found), _against(found)
    clear = _rises(found) and not _pasted_in_vain(found) and not _unfitted(found)
    answer: Answer = "no" if against else "yes" if clear else "perhaps"
    ratio = 2.0 if found.pictures < FEW_PICTURES else 1.0
    classes = _classes(found, ratio)
    reasons = [_headroom(found), _fit(found), _curve(found), *_free_arms(found, free), _kinds(found)]
    return Advice(
        answer=answer,
        sentence=_sentence(found, answer, against, classes),
        instead=free,
        cautions=_cautions(found),
        basis=_basis(found),
        reasons=[one for one in reasons if one is not None],
        edits=edits_of(found),
        classes=classes,
        ratio=ratio,
    )


# --- for and against --------------------------------------------------------------------------------------------------


def free_arm(found: Findings) -> Free | None:
    """The one that gives as much as twice the pictures, as far as can be told; of two the better one. None where the
    detector has hardly learned anything."""
    if found.ap < WEAK:
        return None
    doubling = found.doubling
    noise = (doubling.high - doubling.low) / 2 if doubling.low is not None and doubling.high is not None else 0.0
    enough = max(FLAT, doubling.value - noise)
    able = [arm for arm, gain in found.free.items() if gain.value >= enough and gain.value > 0.5 * doubling.value]
    return max(able, key=lambda arm: found.free[arm].value, default=None)


def _rises(found: Findings) -> bool:
    """Do more real pictures surely help?"""
    return found.doubling.value >= CLEAR and (found.doubling.low or 0) > 0 and found.ap >= WEAK


def _pasted_in_vain(found: Findings) -> bool:
    """Was copy-paste tried, and surely gained nothing?"""
    pasted = found.free.get("D")
    return pasted is not None and pasted.high is not None and pasted.high < FLAT


def _unfitted(found: Findings) -> bool:
    return found.fitted is not None and found.fitted - found.ap < UNFITTED


def _flat(found: Findings) -> bool:
    high = found.doubling.high
    return found.doubling.value < FLAT and high is not None and high < SURELY


def _placing(found: Findings) -> float | None:
    """Share of the placing of boxes in all that mending single kinds of errors would gain; None where that is not what
    is lacking."""
    gains = {kind: max(0.0, one.ap) for kind, one in found.errors.gains.items()}
    total = sum(gains.values())
    share = gains["badly_placed"] / total if total else 0.0
    return share if share >= PLACING and not _rises(found) else None


def _against(found: Findings) -> list[str]:
    """Each reason alone is enough; words that follow "do not paint: "."""
    lines = []
    if found.ap >= HIGH:
        lines.append(
            f"little is lacking: the detector has {found.ap:.1f} AP, and from {HIGH:g} on pictures give little"
        )
    elif _unfitted(found) and not found.quick:
        lines.append(
            f"the detector does not yet fit the pictures that it has ({found.fitted:.1f} AP in them, {found.ap:.1f} in "
            "others): train it for more steps, or take a larger one, before more pictures"
        )
    elif found.ap < WEAK:
        pass  # the others say nothing of a detector that has learned nothing
    elif _flat(found) and not _unfitted(found):
        lines.append(
            f"the learning curve is flat: twice as many real pictures gave {found.doubling}, and painted ones "
            "are worth no more than real ones"
        )
    elif (share := _placing(found)) is not None:
        lines.append(
            f"{100 * share:.0f} % of what can be mended is the placing of boxes, which painted pictures do not teach: "
            "look whether the labels are tight, and train with larger pictures"
        )
    if (free := free_arm(found)) is not None:
        lines.append(
            f"{FREE[free]} is free and gives {found.free[free]}, twice the real pictures "
            f"{found.doubling}: use it instead"
        )
    return lines


def _sentence(found: Findings, answer: Answer, against: Sequence[str], classes: Sequence[ClassAdvice]) -> str:
    look = "A quick look, so a hint: " if found.quick else ""
    if answer == "no":
        return f"{look}Do not paint: {'; and '.join(against)}."
    curve, lacking = f"twice as many real pictures gave {found.doubling}", f"{found.headroom:.1f} points are lacking"
    more = [f"{len(classes) - 3} more"] if len(classes) > 3 else []
    names = _and([*(one.name for one in classes[:3]), *more])
    what = f"paint {sum(one.new_boxes for one in classes)} new boxes, of {names}"
    if answer == "yes":
        because = [curve, lacking, *(["nothing that is free gives as much"] if found.free else [])]
        return f"{look}Yes, painting is likely to pay: {_and(because)}; {what}."
    noise = (found.doubling.low or 0) <= 0
    doubt = "this cannot be told from noise" if noise else "this is little"
    if _rises(found) and _pasted_in_vain(found):
        doubt = (
            f"copy-paste, which shows the same objects again, gave {found.free['D']}: what would have to help is a "
            "painter that makes objects and surfaces of new looks, or further real pictures"
        )
    if _unfitted(found):
        doubt = "so few steps do not show what pictures give"
    if found.ap < WEAK:
        doubt = f"with {found.ap:.1f} AP the detector has hardly learned anything"
    return f"{look}Perhaps: {curve} and {lacking}, but {doubt}; try it on a part of the budget first: {what}."


def _cautions(found: Findings) -> list[str]:
    lines = []
    if found.quick:
        lines.append(f"A quick look: {found.folds} folds, {found.steps} steps a training; run it without --quick")
    few = [f"{one.name} ({one.boxes})" for one in found.classes if one.boxes < FEW]
    if few:
        lines.append(f"Classes with fewer than {FEW} boxes cannot be measured: {', '.join(few)}")
    if found.unjudged:
        lines.append(f"Classes in a single picture or group cannot be measured at all: {', '.join(found.unjudged)}")
    if found.pictures < FEW_TEST:
        lines.append(f"{found.pictures} pictures are few: AP changes by points with every one of them")
    if found.ap < WEAK:
        lines.append(f"The detector has hardly learned anything ({found.ap:.1f} AP): more steps may change all of this")
    if not found.grouped:
        lines.append(
            "No groups are known: where pictures belong together (of one video, say), all of this looks better than it "
            "is; set dataset.group"
        )
    lines.append("One training a fold and point: another seed moves AP by about a point")
    return [*lines, *found.notes]


def _basis(found: Findings) -> str:
    near = f"; {found.near} near-duplicates across folds were not learned from" if found.near else ""
    return (
        f"{found.pictures} pictures in {found.groups} groups with {found.boxes} boxes of {len(found.classes)} classes; "
        f"{found.folds} folds by group, so that each picture is judged by a detector ({found.detector}, {found.steps} "
        f"steps) that has not seen it or its group{near}. Intervals: 95 %, of {found.folds} folds and their groups "
        "resampled"
    )


# --- the findings in words --------------------------------------------------------------------------------------------


def _headroom(found: Findings) -> Reason:
    speaks: Literal["for", "against"] = "against" if found.ap >= HIGH else "for"
    return Reason(
        speaks=speaks,
        text=f"{found.ap:.1f} AP in pictures not seen{found.curve[-1].ap.between}: {found.headroom:.1f} points are "
        f"lacking to 100; painting is advised below {HIGH:g} AP",
    )


def _fit(found: Findings) -> Reason | None:
    if found.fitted is None:
        return None
    return Reason(
        speaks="against" if _unfitted(found) else "for",
        text=f"{found.fitted:.1f} AP in pictures that the detector learned from: "
        + (
            f"less than {UNFITTED:g} points more than in others, so it lacks steps or size rather than pictures"
            if _unfitted(found)
            else f"{found.fitted - found.ap:.1f} points more than in others, which further pictures can close"
        ),
    )


def _curve(found: Findings) -> Reason:
    points = ", ".join(f"{one.ap.value:.1f} AP with {one.pictures:.0f}" for one in found.curve)
    flat, clear = found.doubling.value < FLAT, found.doubling.value >= CLEAR
    return Reason(
        speaks="against" if flat else "for" if clear else "neither",
        text=f"Learning curve, pictures learned from at equal steps: {points}; the last doubling gave "
        f"{found.doubling}. As many painted pictures as real ones can hardly give more",
    )


def _free_arms(found: Findings, chosen: Free | None) -> list[Reason]:
    return [
        Reason(speaks="against" if arm == chosen else "neither", text=f"{_upper(FREE[arm])} gave {gain}")
        for arm, gain in found.free.items()
    ]


def _kinds(found: Findings) -> Reason:
    errors = found.errors
    gains = sorted(errors.gains.items(), key=lambda item: -item[1].ap)
    listed = ", ".join(f"{kind.replace('_', ' ')} {one.ap:.1f}" for kind, one in gains)
    counts = ", ".join(f"{kind.replace('_', ' ')} {errors.counts[kind]}" for kind in KINDS)
    return Reason(
        speaks="neither" if _placing(found) is None else "against",
        text=f"Of {errors.boxes} boxes {errors.counts[RIGHT]} were found rightly, at the score with the best F1; "
        f"errors: {counts}. Mending one kind alone would gain (AP points): {listed or 'not measured'}",
    )


# --- which classes, how many ------------------------------------------------------------------------------------------


def _classes(found: Findings, ratio: float) -> list[ClassAdvice]:
    """In all as many new boxes as take a quarter of the error of the weak classes, those below the mean AP and rare
    ones; each box where it gains most, be the class weak or not."""
    mean = sum(one.ap for one in found.classes) / len(found.classes)
    usual = found.boxes / len(found.classes)
    even = max(one.ap for one in found.classes) - min(one.ap for one in found.classes) < EVEN
    weak = [one for one in found.classes if even or one.ap < mean or (one.boxes < usual / 2 and one.ap < HIGH)]
    total = min(ratio * found.boxes, sum(one.boxes * _growth(one.slope) for one in weak))
    counts = _allocated(found.classes, total)
    most = max(counts)
    return [
        ClassAdvice(name=one.name, boxes=one.boxes, new_boxes=_round(count), why=_why(one, found))
        for one, count in sorted(zip(found.classes, counts, strict=True), key=lambda item: (item[0].ap, item[0].name))
        if count >= min(1.0, most)
    ]


def _allocated(classes: Sequence[ClassFinding], total: float) -> list[float]:
    """New boxes of each class that make the sum of all errors least, at most MOST a real one.

    A class's error e falls as (n / (n + m))^b with m new boxes, so the next one gains e b n^b / (n + m)^(b + 1): equal
    for all classes that get any. The gain at which the total is spent is found by bisection of its logarithm.
    """
    n = np.array([one.boxes for one in classes], np.float64)
    slope = np.maximum([one.slope for one in classes], LEAST_SLOPE)
    error = np.maximum([100 - one.ap for one in classes], 1e-9)
    first = np.log(error * slope / np.maximum(n, 1))  # the first box's gain, its logarithm as of all gains here

    def counts(gain: float) -> NDArray[np.float64]:
        """Of each class as many as leave the next one this gain."""
        size = np.exp(np.clip((first - gain) / (slope + 1), 0, math.log(1 + MOST)))  # (n + m) / n
        return n * (size - 1)

    low, high = float(first.min()) - 10.0 * float(slope.max() + 1), float(first.max())
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if counts(middle).sum() > total else (low, middle)
    return [float(count) for count in counts(high)]


def _growth(slope: float) -> float:
    """New boxes per real one that leave FEWER_ERRORS of the error, at most MOST."""
    if slope <= 0:
        return MOST
    exponent = -math.log(FEWER_ERRORS) / slope
    return min(MOST, math.exp(min(exponent, 10.0)) - 1)


def _round(count: float) -> int:
    """To two digits, at least 1."""
    whole = max(1, round(count))
    step = 10 ** max(0, len(str(whole)) - 2)
    return max(1, round(whole / step) * step)


def _why(one: ClassFinding, found: Findings) -> str:
    parts = [f"{one.ap:.1f} AP", f"{one.boxes} boxes in {one.pictures} pictures", f"{one.missed} missed"]
    if one.taken_for:
        other, count = max(one.taken_for.items(), key=lambda item: item[1])
        parts.append(f"{count} taken for {other}")
    if one.doubling is not None:
        parts.append(f"the last doubling gave {one.doubling}")
    if one.boxes < FEW:
        parts.append("too few to be measured; label more of it first")
    elif one.boxes < found.boxes / len(found.classes) / 2:
        parts.append("rare")
    return ", ".join(parts)


def _upper(text: str) -> str:
    return text[0].upper() + text[1:]


def _and(names: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]])) if names else "none"
