"""The judge that is made of a data set's own boxes: learned, held out and asked. content.py is its metric.

    details = judge_content(real, generated, seed)      # ContentDetails of the notes of both sides

Whole pictures are held out, with everything that was made from them. So real and painted boxes meet judges that never
saw their picture, and the real ones say what such a judge accepts at best. A box is accepted where its own category is
the nearest, and it is no further from it than all but the furthest 5 % of the real ones.
"""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, TypedDict, cast

import msgspec
import numpy as np
from numpy.typing import NDArray

from lib.evaluation.metrics import Details, Noted, Place
from lib.evaluation.metrics.crops import LENGTH, Discriminant, Rows, auc

FOLDS = 5
LEAST = 5  # real boxes of a category, below which it has no judge
FURTHEST = 95  # percentile of the real boxes' distances
BACKGROUND = "background"
RESAMPLED = 1000
_SIDES = ("real", "generated")

_LENGTH = -(-2 * LENGTH // 3) * 4  # of a description in base 64
Base64 = Annotated[str, msgspec.Meta(pattern="^[A-Za-z0-9+/]*=*$", min_length=_LENGTH, max_length=_LENGTH)]


class Crop(TypedDict):
    box: Annotated[list[float], msgspec.Meta(min_length=4, max_length=4)]  # xyxy pixels
    label: str
    looks: Base64  # its description, float16
    sharp: float  # logarithm of the mean squared gradient in the box


class Note(TypedDict):
    crops: list[Crop]
    beside: list[Base64]  # descriptions of crops of background
    skipped: dict[str, int]


class JudgedBox(Details):
    """A painted box."""

    picture: str  # path
    source: str  # path of the picture that it was made from; "" = not known
    size: list[int]  # width and height that the box was drawn in; 0: not known
    box: list[float]  # xyxy pixels
    label: str
    said: str  # the nearest category, or background; "" where it is far from all
    typical: float  # share of real boxes that are as far from their category or further, 0 .. 1
    accepted: bool


class Accepted(Details):
    """Of a category."""

    real: int  # boxes that were judged
    real_accepted: int
    painted: int
    painted_accepted: int


class ContentDetails(Details):
    n_real: int  # boxes that were judged
    n_painted: int
    names: list[str]  # what the judge chooses from
    real: float | None  # share accepted
    expected: float | None  # the same at the painted boxes' mixture of categories
    painted: float | None
    shuffled: float | None  # had the painted boxes exchanged their labels
    real_shuffled: float | None  # the same of the real ones; of one category, share of background taken for it
    ratio: float | None  # painted / expected
    interval: list[float] | None  # 95 %, of ratio
    auc: float | None  # real against painted boxes
    auc_interval: list[float] | None
    sharpness: float | None  # gradient energy of painted boxes as a share of that of real ones
    sharpness_interval: list[float] | None  # 95 %
    by_category: dict[str, Accepted]
    boxes: list[JudgedBox]
    skipped: dict[str, dict[str, int]]  # boxes that were not judged: {"real", "generated": {reason: boxes}}


# --- the judge -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Boxes:
    """N boxes of one side and what the judge makes of them."""

    rows: Rows  # (N, D)
    labels: list[str]
    groups: NDArray[np.int64]  # (N,) pictures that are held out together have one number
    sharp: NDArray[np.float64]
    places: list[tuple[Place, list[float]]]  # (picture, xyxy pixels)


def judge_content(real: Noted, generated: Noted, seed: int) -> ContentDetails:
    """All of ContentDetails, of the notes of both sides."""
    counts = Counter(crop["label"] for note in real.notes for crop in note["crops"])
    names = sorted(name for name, count in counts.items() if count >= LEAST)
    skipped = {side: _skipped(noted, names) for side, noted in zip(_SIDES, (real, generated), strict=True)}
    numbers: dict[str, int] = {}
    theirs, ours = (_boxes(some, names, numbers) for some in (_placed(real, "real"), _placed(generated, "new")))
    beside, of_beside = _background(_placed(real, "real"), numbers)
    known = [*names, *([BACKGROUND] if len(beside) >= 2 * LEAST and BACKGROUND not in names else [])]
    fold = np.random.default_rng(seed).permutation(max(1, len(numbers))) % FOLDS
    empty = {"names": known, "skipped": skipped, "n_real": len(theirs.labels), "n_painted": len(ours.labels)}
    if not theirs.labels or len(known) == 0 or len(set(theirs.groups.tolist())) < FOLDS:
        return ContentDetails.model_validate(_NOTHING | empty)
    judges = _judges(theirs, (beside, of_beside), names, known, fold)
    asked = ((theirs.rows, theirs.groups), (ours.rows, ours.groups), (beside, of_beside))
    judged = [_judged(judges, some, fold[of_some], len(known)) for some, of_some in asked]
    return _details(theirs, ours, judged, known, fold, seed, empty)


_NOTHING: dict[str, Any] = {
    **dict.fromkeys(("real", "expected", "painted", "shuffled", "real_shuffled", "ratio", "interval")),
    **dict.fromkeys(("auc", "auc_interval", "sharpness", "sharpness_interval")),
    "by_category": {},
    "boxes": [],
}


_Judge = tuple[NDArray[np.int64], Discriminant] | None  # the names that it has learned, by their numbers


def _judges(
    theirs: _Boxes,
    background: tuple[Rows, NDArray[np.int64]],
    names: Sequence[str],
    known: Sequence[str],
    fold: NDArray[np.int64],
) -> list[_Judge]:
    """One a fold, of the real boxes and the background in the other folds; None where there are none."""
    beside, of_beside = background if len(known) > len(names) else (background[0][:0], background[1][:0])
    rows = np.concatenate([theirs.rows, beside]) if len(beside) else theirs.rows
    labels = np.array([known.index(name) for name in theirs.labels] + [len(names)] * len(beside))
    of_rows = fold[np.concatenate([theirs.groups, of_beside])]
    return [_judge(rows, labels, np.flatnonzero(of_rows != number)) for number in range(FOLDS)]


def _judge(rows: Rows, labels: NDArray[np.int64], learned: NDArray[np.int64]) -> _Judge:
    """One that has learned some of the rows."""
    there = np.unique(labels[learned])
    if not len(there):
        return None
    return there, Discriminant.fit(rows, np.searchsorted(there, labels), len(there), learned)


def _judged(
    judges: Sequence[_Judge], some: Rows, of_some: NDArray[np.int64], count: int
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """(N,) the nearest name of each of some rows, and (N, count) how far it is from each, by the judges of its fold."""
    said, far = np.zeros(len(some), np.int64), np.full((len(some), count), np.inf)
    for fold, judge in enumerate(judges):
        at = np.flatnonzero(of_some == fold)
        if not len(at) or judge is None:
            continue
        there, model = judge
        squares, outside = model.distances(some, at)
        said[at] = there[squares.argmin(axis=1)]
        far[np.ix_(at, there)] = squares / len(model.axes) + outside[:, None]
    return said, far


def _details(
    theirs: _Boxes,
    ours: _Boxes,
    judged: Sequence[tuple[NDArray[np.int64], NDArray[np.float64]]],
    known: list[str],
    fold: NDArray[np.int64],
    seed: int,
    counts: dict[str, Any],
) -> ContentDetails:
    (said, far), (said_new, far_new), (said_beside, _) = judged
    own, own_new = ([known.index(name) for name in some.labels] for some in (theirs, ours))
    real_far = far[np.arange(len(own)), own]
    limit = float(np.percentile(real_far[np.isfinite(real_far)], FURTHEST)) if np.isfinite(real_far).any() else 0.0
    good = (said == own) & (real_far <= limit)
    good_new = (said_new == own_new) & (far_new[np.arange(len(own_new)), own_new] <= limit)
    by_category = {
        name: Accepted(
            real=theirs.labels.count(name),
            real_accepted=int(good[np.array(theirs.labels) == name].sum()),
            painted=ours.labels.count(name),
            painted_accepted=int(good_new[np.array(ours.labels, object) == name].sum()),
        )
        for name in known
        if name in theirs.labels
    }
    found = _NOTHING | counts | {"by_category": by_category, "real": float(good.mean())}
    # One category has no other to be exchanged with: what the judge makes of background is chance there.
    alone = len(by_category) == 1 and len(said_beside) > 0
    found["real_shuffled"] = float((said_beside == own[0]).mean()) if alone else _shuffled(own, said, far, limit)
    if ours.labels:
        usual = float(good.mean())
        rates = {name: (one.real_accepted + usual) / (one.real + 1) for name, one in by_category.items()}
        expected = np.array([rates[name] for name in ours.labels])
        found |= {"painted": float(good_new.mean()), "expected": float(expected.mean())}
        found["shuffled"] = _shuffled(own_new, said_new, far_new, limit)
        found |= _ratio(theirs.groups, good, ours.groups, good_new, expected, seed)
        found |= _apart(theirs, ours, fold, seed)
        found |= _sharpness(theirs, ours, seed)
        nearest = far_new[np.arange(len(own_new)), said_new]
        typical = _shares_beyond(real_far, far_new[np.arange(len(own_new)), own_new])
        found["boxes"] = [
            JudgedBox(
                picture=place[0],
                source=place[1],
                size=list(place[2]),
                box=box,
                label=ours.labels[i],
                said=known[said_new[i]] if nearest[i] <= limit else "",
                typical=round(float(typical[i]), 4),
                accepted=bool(good_new[i]),
            )
            for i, (place, box) in enumerate(ours.places)
        ]
    return ContentDetails.model_validate(found)


def _shuffled(own: Sequence[int], said: NDArray[np.int64], far: NDArray[np.float64], limit: float) -> float:
    """Share that would be accepted, had the boxes exchanged their labels: the exact mean over all permutations."""
    share = np.bincount(own, minlength=far.shape[1]) / len(own)
    near = far[np.arange(len(said)), said] <= limit
    return float((share[said] * near).mean())


def _shares_beyond(real: NDArray[np.float64], some: NDArray[np.float64]) -> NDArray[np.float64]:
    ranked = np.sort(real)
    shares: NDArray[np.float64] = 1 - np.searchsorted(ranked, some) / max(1, len(ranked))
    return shares


def _ratio(
    groups: NDArray[np.int64],
    good: NDArray[np.bool_],
    groups_new: NDArray[np.int64],
    good_new: NDArray[np.bool_],
    expected: NDArray[np.float64],
    seed: int,
) -> dict[str, Any]:
    """Accepted as a share of what is expected, with 95 % over resamplings of the pictures of each side."""
    rng = np.random.default_rng(seed)
    real, new = _sums(groups, good), _sums(groups_new, good_new, expected)
    usual = _drawn(real, rng)
    drawn = _drawn(new, rng)
    rate = usual[:, 0] / usual[:, 1] / good.mean() if good.any() else np.ones(RESAMPLED)
    ratios = drawn[:, 0] / np.maximum(drawn[:, 2] * rate, 1e-9)
    low, high = np.percentile(ratios, [2.5, 97.5])
    return {"ratio": float(good_new.sum() / max(expected.sum(), 1e-9)), "interval": [float(low), float(high)]}


def _sums(groups: NDArray[np.int64], *values: Any) -> NDArray[np.float64]:
    """(G, …) sums over each group: of the first value, of ones, of the others."""
    _, at = np.unique(groups, return_inverse=True)
    return np.stack([np.bincount(at, one) for one in (values[0], np.ones(len(at)), *values[1:])], axis=1)


def _drawn(sums: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    """(RESAMPLED, …) sums over as many groups, drawn with replacement."""
    times = rng.multinomial(len(sums), np.full(len(sums), 1 / len(sums)), RESAMPLED)
    return np.asarray(times @ sums, np.float64)


def _apart(theirs: _Boxes, ours: _Boxes, fold: NDArray[np.int64], seed: int) -> dict[str, Any]:
    """AUC of a classifier of real against painted boxes, held out in the same way, with 95 % over the pictures."""
    rows = np.concatenate([theirs.rows, ours.rows])
    new = np.repeat([False, True], [len(theirs.rows), len(ours.rows)])
    groups = np.concatenate([theirs.groups, ours.groups])
    scores = np.full(len(rows), np.nan)
    for number in range(FOLDS):
        at, others = (np.flatnonzero(one) for one in (fold[groups] == number, fold[groups] != number))
        if len(at) and len(set(new[others].tolist())) == 2:
            squares, _ = Discriminant.fit(rows, new.astype(np.int64), 2, others).distances(rows, at)
            scores[at] = squares[:, 0] - squares[:, 1]
    known = np.isfinite(scores)
    if not (known & new).any() or not (known & ~new).any():
        return {}
    scores, new, groups = scores[known], new[known], groups[known]
    rng, found = np.random.default_rng(seed), []
    _, at_group = np.unique(groups, return_inverse=True)
    members = [np.flatnonzero(at_group == number) for number in range(at_group.max() + 1)]
    for _ in range(RESAMPLED // 5):
        some = np.concatenate([members[i] for i in rng.integers(0, len(members), len(members))])
        if new[some].any() and not new[some].all():
            found.append(auc(scores[some], new[some]))
    low, high = np.percentile(found, [2.5, 97.5]) if found else (0.0, 1.0)
    return {"auc": auc(scores, new), "auc_interval": [float(low), float(high)]}


def _sharpness(theirs: _Boxes, ours: _Boxes, seed: int) -> dict[str, Any]:
    """The gradient energy of painted boxes as a share of that of real ones of the same category, by mean logarithms."""
    usual = {name: theirs.sharp[np.array(theirs.labels) == name].mean() for name in set(theirs.labels)}
    apart, new = (some.sharp - np.array([usual[name] for name in some.labels]) for some in (theirs, ours))
    rng, drawn = np.random.default_rng(seed), []
    for groups, values in ((theirs.groups, apart), (ours.groups, new)):
        sums = _drawn(_sums(groups, values), rng)
        drawn.append(sums[:, 0] / np.maximum(sums[:, 1], 1))
    interval = np.exp(np.percentile(drawn[1] - drawn[0], [2.5, 97.5]))
    return {"sharpness": float(np.exp(new.mean())), "sharpness_interval": interval.tolist()}


# --- notes -----------------------------------------------------------------------------------------------------------


_Placed = Iterable[tuple[Place, Note]]


def _placed(side: Noted, prefix: str) -> _Placed:
    """Each note with its place; where none are known, every picture is one by itself."""
    places = side.places or [(f"{prefix} {number}", "", (0, 0)) for number in range(len(side.notes))]
    return ((place, cast(Note, note)) for place, note in zip(places, side.notes, strict=True))


def _boxes(side: _Placed, names: Sequence[str], numbers: dict[str, int]) -> _Boxes:
    """The boxes of some names. numbers: of the groups, which grow: a picture goes with what it was made from."""
    looks, labels, groups, sharp, places = bytearray(), list[str](), list[int](), list[float](), []
    called = {name: name for name in names}  # one object a name, of however many boxes
    for place, note in side:
        group = numbers.setdefault(place[1] or place[0], len(numbers))
        for crop in note["crops"]:
            if crop["label"] in called:
                looks += base64.b64decode(crop["looks"])
                labels.append(called[crop["label"]])
                groups.append(group)
                sharp.append(crop["sharp"])
                places.append((place, crop["box"]))
    return _Boxes(_read(looks, len(labels)), labels, np.array(groups, np.int64), np.array(sharp, np.float64), places)


def _background(real: _Placed, numbers: dict[str, int]) -> tuple[Rows, NDArray[np.int64]]:
    """Descriptions of the real pictures' background, and their groups."""
    looks, groups = bytearray(), list[int]()
    for place, note in real:
        for text in note["beside"]:
            looks += base64.b64decode(text)
            groups.append(numbers.setdefault(place[1] or place[0], len(numbers)))
    return _read(looks, len(groups)), np.array(groups, np.int64)


def _read(looks: bytearray, count: int) -> Rows:
    """(N, D) of N descriptions, one after another."""
    return np.frombuffer(looks, np.float16).reshape(count, -1 if count else 0)


def _skipped(side: Noted, names: Sequence[str]) -> dict[str, int]:
    total = Counter(side.skipped)
    for note in side.notes:
        total.update(note["skipped"])
        total["too_few_real_boxes"] += sum(crop["label"] not in names for crop in note["crops"])
    return dict(sorted((+total).items()))
