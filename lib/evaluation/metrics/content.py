"""Does each painted box look like its category in the real boxes of this very data set? A judge made of these boxes.

Real boxes and crops of background train a classifier (crops.py) by cross-validation: whole pictures are held out, with
everything that was made from them. So real and painted boxes meet judges that never saw their picture, and the real
ones say what such a judge accepts at best. A box is accepted where its own category is the nearest, and it is no
further from it than all but the furthest 5 % of the real ones. Beside it: can real and painted boxes be told apart at
all (AUC), and are the painted ones as sharp?
"""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, TypedDict, cast

import cv2
import msgspec
import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from lib.core.geometry import CONTEXT, MIN_SIDE, clip_xyxy
from lib.core.registry import MemberSettings
from lib.core.vision import crop_region
from lib.evaluation.metrics import Base, Details, Kind, LabelledPicture, Noted, Number, Place, Table
from lib.evaluation.metrics.crops import LENGTH, SIDE, Discriminant, auc, describe
from lib.evaluation.metrics.crops import VERSION as CROPS

FOLDS = 5
LEAST = 5  # real boxes of a category, below which it has no judge
FURTHEST = 95  # percentile of the real boxes' distances
BESIDE = 3  # crops of background of a picture, at most
BACKGROUND = "background"
RESAMPLED = 1000
_SIDES = ("real", "generated")

_LENGTH = -(-2 * LENGTH // 3) * 4  # of a description in base 64
_Base64 = Annotated[str, msgspec.Meta(pattern="^[A-Za-z0-9+/]*=*$", min_length=_LENGTH, max_length=_LENGTH)]


class _Crop(TypedDict):
    box: Annotated[list[float], msgspec.Meta(min_length=4, max_length=4)]  # xyxy pixels
    label: str
    looks: _Base64  # its description, float16
    sharp: float  # logarithm of the mean squared gradient in the box


class _Note(TypedDict):
    crops: list[_Crop]
    beside: list[_Base64]  # descriptions of crops of background
    skipped: dict[str, int]


class JudgedBox(Details):
    """A painted box."""

    picture: str  # path
    source: str  # path of the picture that it was made from; "" = not known
    size: list[int]  # width and height that the box was drawn in; 0: not known
    box: list[float]  # xyxy pixels
    label: str
    said: str  # the nearest category, or background
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


class Content(Base):
    """Painted boxes beside a judge of the data set's own boxes."""

    NOTE: ClassVar[Any] = _Note
    VERSION: ClassVar[int] = 1
    MORE: ClassVar[type[Details] | None] = ContentDetails
    OF: ClassVar[Kind] = "pictures"
    NEEDS: ClassVar[Literal["", "boxes", "captions"]] = "boxes"
    LEARNS: ClassVar[bool] = True
    NUMBERS: ClassVar[dict[str, Number]] = {
        "content_ratio": Number(
            "Painted boxes that a judge of this data set's own boxes accepts, as a share of what it accepts of real ones "
            "that it never saw: over .85 is good, under .6 labels and pictures disagree. It cannot tell fine faults.",
            "higher",
            account=True,
        ),
        "content_interval": Number(
            "Where content_ratio would lie for other pictures of the same kinds, 95 times in 100: wide means that there are "
            "few boxes. It knows nothing of the judge's own faults.",
            "higher",
            brief=False,
        ),
        "content_painted": Number(
            "Share of painted boxes that this judge accepts: near that of real ones is good. It cannot tell how they "
            "differ.",
            "higher",
            "share",
            brief=False,
        ),
        "content_real": Number(
            "Share of real boxes that this judge accepts, each judged without its own picture: the most that it can say. "
            "Read no further where it is low.",
            "higher",
            "share",
            brief=False,
        ),
        "content_shuffled": Number(
            "Share of painted boxes that this judge would accept, had they exchanged their labels. It says nothing of "
            "the pictures; content_painted near it is bad.",
            "lower",
            "share",
            brief=False,
        ),
        "content_auc": Number(
            "How well real and painted boxes are told apart, by a classifier made for it: .5, not at all, is good; over "
            ".7 painted boxes have a look of their own. It cannot tell whether that matters to a detector.",
            "lower",
        ),
        "content_sharpness": Number(
            "Gradient energy in painted boxes as a share of that in real ones of the same categories: .8 to 1.25 is "
            "good, far below is blurred, far above is noise or hard edges. It cannot tell detail from noise.",
            "higher",
        ),
    }

    class Settings(MemberSettings):
        min_side: float = Field(
            MIN_SIDE, ge=0, validate_default=True, description="boxes with a shorter visible side, pixels, do not count"
        )
        context: float = Field(CONTEXT, ge=0, description="share of a box's longer side that is shown around it")

    @property
    def identity(self) -> str:
        return f"crops {CROPS}"

    def of_picture(self, picture: LabelledPicture) -> dict[str, Any]:
        """Its boxes and some background, described; and the boxes that are left out, by reason."""
        labels, (height, width) = picture.labels, picture.pixels.shape[:2]
        xyxy = clip_xyxy(labels.boxes, width, height)
        sides = (xyxy[:, 2:] - xyxy[:, :2]).min(axis=1, initial=np.inf)
        faults = {
            "crowd": labels.ignore,
            "not_painted": ~labels.painted,
            "box_too_small": (sides < self.settings.min_side) | (sides <= 0),
        }
        left, skipped = np.ones(len(xyxy), bool), {}
        for reason, found in faults.items():
            skipped[reason] = int((left & found).sum())
            left &= ~found
        crops = [
            {"box": xyxy[i].tolist(), "label": labels.categories[i], **self._seen(picture.pixels, xyxy[i])}
            for i in np.flatnonzero(left)
        ]
        beside = [self._looks(picture.pixels, box) for box in _free(xyxy, width, height, self.settings.min_side)]
        return {"crops": crops, "beside": beside, "skipped": skipped}

    def _seen(self, pixels: NDArray[np.uint8], box: NDArray[np.float64]) -> dict[str, Any]:
        return {"looks": self._looks(pixels, box), "sharp": round(_sharp(pixels, box), 4)}

    def _looks(self, pixels: NDArray[np.uint8], box: NDArray[np.float64]) -> str:
        rows = describe(crop_region(pixels, box.tolist(), SIDE, self.settings.context))
        return base64.b64encode(rows.astype(np.float16).tobytes()).decode()

    def of_all(self, real: Noted, generated: Noted, names: Sequence[str], seed: int) -> dict[str, Any]:
        """Its defined numbers; all of ContentDetails under "content"."""
        details = judge_content(real, generated, seed)
        numbers = {
            "content_ratio": details.ratio,
            "content_interval": details.interval,
            "content_painted": details.painted,
            "content_real": details.real,
            "content_shuffled": details.shuffled,
            "content_auc": details.auc,
            "content_sharpness": details.sharpness,
        }
        return {name: value for name, value in numbers.items() if value is not None} | {"content": details.model_dump()}

    @staticmethod
    def summary(details: ContentDetails) -> list[str]:
        """The judged boxes, and the shares that were accepted."""
        lines = [f"{details.n_real} real and {details.n_painted} painted boxes judged by this data set's own boxes"]
        if details.interval is not None:
            low, high = details.interval
            lines.append(f"accepted: {details.painted:.3f} of the painted, {details.expected:.3f} of real ones")
            lines.append(f"ratio {details.ratio:.3f}   {low:.3f} to {high:.3f} (95 %)")
        return lines

    @staticmethod
    def tables(details: ContentDetails) -> list[Table]:
        return []  # the report shows them with the labels' counts

    @staticmethod
    def notes(details: ContentDetails) -> list[str]:
        texts = {
            side: ", ".join(f"{reason} {n}" for reason, n in some.items()) for side, some in details.skipped.items()
        }
        return [f"{side} boxes not judged for content: {text}" for side, text in texts.items() if text]


# --- the judge -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Boxes:
    """N boxes of one side and what the judge makes of them."""

    rows: NDArray[np.float64]  # (N, D)
    labels: list[str]
    groups: NDArray[np.int64]  # (N,) pictures that are held out together have one number
    sharp: NDArray[np.float64]
    crops: list[tuple[Place, _Crop]]  # (place, crop)


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
    rows = theirs.rows if len(known) == len(names) else np.concatenate([theirs.rows, beside])
    labels = np.array([known.index(name) for name in theirs.labels] + [len(names)] * (len(rows) - len(theirs.rows)))
    groups = np.concatenate([theirs.groups, of_beside])[: len(rows)]
    asked = ((theirs.rows, theirs.groups), (ours.rows, ours.groups), (beside, of_beside))
    judged = [_judged(rows, labels, fold[groups], some, fold[of_some], known) for some, of_some in asked]
    return _details(theirs, ours, judged, known, fold, seed, empty)


_NOTHING: dict[str, Any] = {
    **dict.fromkeys(("real", "expected", "painted", "shuffled", "real_shuffled", "ratio", "interval")),
    **dict.fromkeys(("auc", "auc_interval", "sharpness", "sharpness_interval")),
    "by_category": {},
    "boxes": [],
}


def _judged(
    rows: NDArray[np.float64],
    labels: NDArray[np.int64],
    folds: NDArray[np.int64],
    some: NDArray[np.float64],
    of_some: NDArray[np.int64],
    known: Sequence[str],
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """(N,) the nearest name of each of some rows, and (N, C) how far it is from each, by judges without its picture."""
    said, far = np.zeros(len(some), np.int64), np.full((len(some), len(known)), np.inf)
    for fold in range(FOLDS):
        at, learned = np.flatnonzero(of_some == fold), folds != fold
        there = np.unique(labels[learned])
        if not len(at) or not len(there):
            continue
        numbers = np.searchsorted(there, labels[learned])
        model = Discriminant.fit(rows[learned], numbers, len(there))
        squares, outside = model.distances(some[at])
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
        typical = _shares_beyond(real_far, far_new[np.arange(len(own_new)), own_new])
        found["boxes"] = [
            JudgedBox(
                picture=place[0],
                source=place[1],
                size=list(place[2]),
                box=crop["box"],
                label=crop["label"],
                said=known[said_new[i]],
                typical=round(float(typical[i]), 4),
                accepted=bool(good_new[i]),
            )
            for i, (place, crop) in enumerate(ours.crops)
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
        at = fold[groups] == number
        if at.any() and len(set(new[~at].tolist())) == 2:
            squares, _ = Discriminant.fit(rows[~at], new[~at].astype(np.int64), 2).distances(rows[at])
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


_Placed = Sequence[tuple[Place, _Note]]


def _placed(side: Noted, prefix: str) -> _Placed:
    """Each note with its place; where none are known, every picture is one by itself."""
    places = side.places or [(f"{prefix} {number}", "", (0, 0)) for number in range(len(side.notes))]
    return [(place, cast(_Note, note)) for place, note in zip(places, side.notes, strict=True)]


def _boxes(side: _Placed, names: Sequence[str], numbers: dict[str, int]) -> _Boxes:
    """The boxes of some names. numbers: of the groups, which grow: a picture goes with the one that it was made from."""
    crops, groups = [], []
    for place, note in side:
        group = numbers.setdefault(place[1] or place[0], len(numbers))
        kept = [crop for crop in note["crops"] if crop["label"] in names]
        crops += [(place, crop) for crop in kept]
        groups += [group] * len(kept)
    rows = [_read(crop["looks"]) for _, crop in crops]
    return _Boxes(
        np.stack(rows) if rows else np.zeros((0, 0)),
        [crop["label"] for _, crop in crops],
        np.array(groups, np.int64),
        np.array([crop["sharp"] for _, crop in crops], np.float64),
        crops,
    )


def _background(real: _Placed, numbers: dict[str, int]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Descriptions of the real pictures' background, and their groups."""
    rows = [
        (_read(text), numbers.setdefault(place[1] or place[0], len(numbers)))
        for place, note in real
        for text in note["beside"]
    ]
    if not rows:
        return np.zeros((0, 0)), np.zeros(0, np.int64)
    return np.stack([row for row, _ in rows]), np.array([group for _, group in rows], np.int64)


def _read(text: str) -> NDArray[np.float64]:
    return np.frombuffer(base64.b64decode(text), np.float16).astype(np.float64)


def _skipped(side: Noted, names: Sequence[str]) -> dict[str, int]:
    total = Counter(side.skipped)
    for note in side.notes:
        total.update(note["skipped"])
        total["too_few_real_boxes"] += sum(crop["label"] not in names for crop in note["crops"])
    return dict(sorted((+total).items()))


# --- pictures --------------------------------------------------------------------------------------------------------


def _sharp(pixels: NDArray[np.uint8], box: NDArray[np.float64]) -> float:
    """Logarithm of the mean squared gradient of the grey levels in a box."""
    height, width = pixels.shape[:2]
    x0, y0, x1, y1 = (round(value) for value in box.tolist())
    part = pixels[min(y0, height - 1) : max(y1, y0 + 1), min(x0, width - 1) : max(x1, x0 + 1)]
    grey = cv2.cvtColor(np.ascontiguousarray(part), cv2.COLOR_RGB2GRAY).astype(np.float32)
    across, down = (cv2.Sobel(grey, cv2.CV_32F, *way, ksize=1) for way in ((1, 0), (0, 1)))
    return float(np.log1p((np.square(across) + np.square(down)).mean()))


def _free(xyxy: NDArray[np.float64], width: int, height: int, least: float) -> list[NDArray[np.float64]]:
    """Boxes of the same sizes where no box is: at most BESIDE, the same for the same boxes."""
    rng, found = np.random.default_rng([width, height, len(xyxy)]), []
    sizes = (xyxy[:, 2:] - xyxy[:, :2])[(xyxy[:, 2:] - xyxy[:, :2]).min(axis=1, initial=np.inf) >= max(least, 1)]
    for _ in range(8 * BESIDE if len(sizes) else 0):
        size = sizes[rng.integers(len(sizes))]
        corner = rng.random(2) * np.maximum([width, height] - size, 0)
        box = np.concatenate([corner, corner + size])
        lap = np.minimum(xyxy[:, 2:], box[2:]) - np.maximum(xyxy[:, :2], box[:2])
        shared = np.clip(lap, 0, None).prod(axis=1) / max(size.prod(), 1e-9)
        if shared.max(initial=0) < 0.1:
            found.append(box)
        if len(found) == BESIDE:
            break
    return found
