"""Screening box by box: does each painted box show what its label names? A picture's score decides nothing.

    real = real_boxes([(objects, images)], "train", settings.min_side)
    rules = learn_rules(real, names, settings, judge, load, store)       # the limits, from real boxes
    rows = judge_pictures(rows, outcomes, objects, rules, judge, store)  # ScreenRows, `boxes` filled in

shares.py asks the judge; verdicts.py decides what is kept, ignored and dropped; labels.py what follows for the labels.
Shares are kept in the store, so that other percentiles cost nothing.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from lib.core.errors import AugmentError
from lib.core.geometry import xywh_to_xyxy
from lib.core.images import Load, PictureError, load_rgb
from lib.core.keys import canonical, key_of
from lib.core.vision import Pixels, visible_sides
from lib.judges import Judge
from lib.records.requests import Label, Outcome
from lib.records.rows import OK, REJECTED, ScreenRow
from lib.records.settings import BoxScreenSettings
from lib.records.store import Store
from lib.screening.labels import BoxVerdict, Objects, named
from lib.screening.shares import VERSION, Question, shares_of, shares_of_halves
from lib.screening.verdicts import Thresholds, Verdict, filled_limits, filling, held_to_filling, thresholds, verdicts

MOST = 500  # real boxes of a category that limits are learned from
Advance = Callable[[int], None]


class BoxRules(BaseModel):
    """Limits of painted boxes: small values that can be sent to other processes, all that verdicts depend on."""

    model_config = ConfigDict(frozen=True)

    judge: str  # its identity
    names: tuple[str, ...]  # C names that it chooses from: the data set's categories, then others
    keep: tuple[float, ...]  # as Thresholds, one a name
    drop: tuple[float, ...]
    boxes: tuple[int, ...]
    pooled: tuple[bool, ...]
    percentiles: tuple[float, float]
    known: bool
    min_side: float  # pixels
    context: float
    filled: tuple[float, ...] = ()  # one a name; none: not asked

    @property
    def limits(self) -> Thresholds:
        """As verdicts.py takes them."""
        keep, drop, boxes, pooled = (np.array(v) for v in (self.keep, self.drop, self.boxes, self.pooled))
        filled = np.array(self.filled) if self.filled else None
        return Thresholds(keep, drop, boxes, pooled, self.percentiles, self.known, filled)

    def identity(self) -> dict[str, Any]:
        """What verdicts depend on; part of keys, which are as before there was `filled` where it is not asked."""
        return self.model_dump(mode="json", exclude=set() if self.filled else {"filled"})


# --- real boxes --------------------------------------------------------------------------------------------------


def real_boxes(
    parts: Iterable[tuple[pd.DataFrame, pd.DataFrame]], split: str, min_side: float, most: int = MOST
) -> pd.DataFrame:
    """Boxes of a split to learn limits from: up to `most` of a category, those with the smallest hashes.

    parts: ObjectRows, with the ImageRows of their pictures. No crowds, nothing of pictures that are set aside, nothing
    whose visible side is under `min_side` pixels. Columns: digest, frame, category, x0, y0, x1, y1 (pixels, cut to the
    frame), in the order of the first two and their keys.
    """
    found = pd.DataFrame({name: [] for name in (*_REAL, "key", "hash")})
    for objects, images in parts:
        if len(rows := _real_of(objects, images, split, min_side)):
            rows = pd.concat([found, rows]) if len(found) else rows
            found = rows.sort_values("hash").groupby("category", sort=False).head(most)
    return found.sort_values(["digest", "frame", "key"]).reset_index(drop=True)[list(_REAL)]


_REAL = ("digest", "frame", "category", "x0", "y0", "x1", "y1")


def _real_of(objects: pd.DataFrame, images: pd.DataFrame, split: str, min_side: float) -> pd.DataFrame:
    pictures = images[(images.status == OK) & (images.split == split)]
    pictures = pictures[["key", "digest", "frame", "width", "height"]].rename(columns={"key": "image_key"})
    rows = objects[(objects.status == OK) & ~objects.crowd.astype(bool)].merge(pictures, on="image_key")
    sizes = np.tile(rows[["width", "height"]].to_numpy(np.float64), 2)
    xyxy = np.clip(xywh_to_xyxy(rows[list("xywh")].to_numpy(np.float64)), 0, sizes)
    rows = rows.assign(**dict(zip(("x0", "y0", "x1", "y1"), xyxy.T, strict=True)))
    rows = rows[(xyxy[:, 2:] - xyxy[:, :2]).min(axis=1, initial=np.inf) >= max(min_side, 1)]
    hashes = [hashlib.sha256(f"{d} {k}".encode()).hexdigest() for d, k in zip(rows.digest, rows.key, strict=True)]
    return rows.assign(hash=hashes)[[*_REAL, "key", "hash"]]


def learn_rules(
    real: pd.DataFrame,
    names: Sequence[str],
    settings: BoxScreenSettings,
    judge: Judge,
    load: Load,
    store: Store,
    advance: Advance = lambda n: None,
) -> BoxRules:
    """The limits of `names` (categories; the judge may choose `settings.others` too) by its shares of real boxes.

    real: of `real_boxes`; a picture that cannot be read is left out. Kept in the store where all could be. `advance`
    receives how many boxes are done. Raises AugmentError for fewer than two names in all.
    """
    names = _choices(names, settings)
    if len(names) < 2:
        raise AugmentError(
            f"screen.boxes.judge has nothing to choose from but {', '.join(names) or 'nothing'}: name what else boxes "
            "may show in screen.boxes.others"
        )
    key = _limits_key(real, names, settings, judge.identity)
    known = _known_rules(store, key, names, judge.identity)
    if known is not None:
        advance(len(real))
        return known
    shares, halves, labels, whole = _judge_real(real, names, settings, judge, load, store, advance)
    rules = _rules(shares, halves, labels, names, settings, judge.identity)
    if whole:
        store.put("limits", key, canonical(rules))
    return rules


def rule_keys(
    real: pd.DataFrame, names: Sequence[str], settings: BoxScreenSettings, judge: str
) -> tuple[str, list[str]]:
    """Keys in the store of what `learn_rules` keeps: of the limits, and of the shares of each real picture's boxes.

    judge: its identity.
    """
    names = _choices(names, settings)
    questions = _real_questions(real, names, settings.context)
    keys = [key for question, boxes in questions for key in question.keys(_xyxy(boxes), judge, settings.filled > 0)]
    return _limits_key(real, names, settings, judge), keys


def _choices(names: Sequence[str], settings: BoxScreenSettings) -> list[str]:
    """The names that the judge chooses from."""
    return list(dict.fromkeys([*names, *settings.others]))


def _limits_key(real: pd.DataFrame, names: list[str], settings: BoxScreenSettings, judge: str) -> str:
    fields = settings.model_dump(mode="json", exclude={"judge"} if settings.filled else {"judge", "filled"})
    return key_of("limits", VERSION, fields, judge, names, real.to_numpy().tolist())


def _known_rules(store: Store, key: str, names: Sequence[str], judge: str) -> BoxRules | None:
    try:
        rules = BoxRules.model_validate_json(store.get("limits", key) or b"", strict=True)
    except ValidationError:
        return None
    columns = [rules.keep, rules.drop, rules.boxes, rules.pooled, *([rules.filled] if rules.filled else [])]
    whole = rules.judge == judge and rules.names == tuple(names) and all(len(one) == len(names) for one in columns)
    return rules if whole else None


def _judge_real(
    real: pd.DataFrame,
    names: Sequence[str],
    settings: BoxScreenSettings,
    judge: Judge,
    load: Load,
    store: Store,
    advance: Advance,
) -> tuple[NDArray[np.float64], NDArray[np.float64], list[int], bool]:
    """(N, C) shares of the real boxes in readable pictures, (N, 4, C) of their halves, N numbers of their categories,
    whether all were read. The halves are NaN where they are not asked for."""
    shares, halves = [np.empty((0, len(names)))], [np.empty((0, 4, len(names)))]
    labels, whole = list[int](), True
    for question, boxes in _real_questions(real, names, settings.context):
        _, digest, frame = question.what
        picture = functools.cache(partial(load, digest, frame))
        try:
            own = shares_of(question, _xyxy(boxes), judge, picture, store)
            parts = shares_of_halves(question, _xyxy(boxes), judge, picture, store, settings.filled > 0)
        except PictureError:
            whole = False
        else:
            shares.append(own)
            halves.append(parts)
            labels += [names.index(category) for category in boxes.category]
        advance(len(boxes))
    return np.concatenate(shares), np.concatenate(halves), labels, whole


def _real_questions(
    real: pd.DataFrame, names: Sequence[str], context: float
) -> Iterator[tuple[Question, pd.DataFrame]]:
    """A question a picture of the real boxes, and its rows."""
    for (digest, frame), boxes in real.groupby(["digest", "frame"], sort=False):
        yield Question(["real", digest, frame], names, context), boxes


def _xyxy(boxes: pd.DataFrame) -> NDArray[np.float64]:
    return boxes[["x0", "y0", "x1", "y1"]].to_numpy()


def _rules(
    shares: NDArray[np.float64],
    halves: NDArray[np.float64],
    labels: list[int],
    names: Sequence[str],
    settings: BoxScreenSettings,
    judge: str,
) -> BoxRules:
    filled: tuple[float, ...] = ()
    if settings.filled:
        limits = filled_limits(filling(halves, labels), labels, len(names), settings.filled, settings.least)
        filled = tuple(limits.tolist())
    found = thresholds(shares, np.array(labels, np.int64), settings.keep, settings.drop, settings.least, settings.most)
    columns = {name: getattr(found, name).tolist() for name in ("keep", "drop", "boxes", "pooled")}
    return BoxRules(
        judge=judge,
        names=tuple(names),
        **columns,
        percentiles=found.percentiles,
        known=found.known,
        min_side=settings.min_side,
        context=settings.context,
        filled=filled,
    )


# --- painted boxes -----------------------------------------------------------------------------------------------


def judge_pictures(
    rows: Iterable[ScreenRow],
    outcomes: Mapping[str, Outcome],
    objects: Objects,
    rules: BoxRules,
    judge: Judge,
    store: Store,
    advance: Advance = lambda n: None,
) -> list[ScreenRow]:
    """The rows with a verdict on each label that was painted anew, and is not ignored anyway.

    A picture all of whose painted labels are dropped is set aside, `nothing_recognised`; one that has none stays.
    Rows that are set aside already pass as they are. outcomes: by key, of those that are ok.
    """
    judged = []
    for row in rows:
        judged.append(_judge(row, outcomes[row.key], objects, rules, judge, store) if row.status == OK else row)
        advance(1)
    return judged


def _judge(
    row: ScreenRow, outcome: Outcome, objects: Objects, rules: BoxRules, judge: Judge, store: Store
) -> ScreenRow:
    positions, names, xyxy = _painted(outcome, objects)
    if not positions:
        return row
    try:
        found = _verdicts(row, outcome, names, xyxy, rules, judge, store)
    except PictureError as error:
        return replace(row, status=REJECTED, reason=error.reason, detail=error.detail)
    entries = [str(BoxVerdict(i, v.action, v.reason, v.score)) for i, v in zip(positions, found, strict=True)]
    if all(verdict.action == "drop" for verdict in found):
        detail = f"none of its {len(found)} painted labels: {', '.join(sorted(set(names)))}"
        return replace(row, status=REJECTED, reason="nothing_recognised", detail=detail, boxes=entries)
    return replace(row, boxes=entries)


def painted_keys(
    row: Any, outcome: Outcome, objects: Objects, names: Sequence[str], settings: BoxScreenSettings, judge: str
) -> list[str]:
    """Keys in the store of the shares that `judge_pictures` keeps of a PictureRow; none where it shows no box to the
    judge.

    names: as for `learn_rules`; judge: its identity.
    """
    _, _, xyxy = _painted(outcome, objects)
    shown = _large_enough(visible_sides(xyxy, outcome.width, outcome.height), settings.min_side)
    question = Question(["painted", row.picture, row.sha256], _choices(names, settings), settings.context)
    return question.keys(xyxy[shown], judge, settings.filled > 0) if shown.any() else []


def _painted(outcome: Outcome, objects: Objects) -> tuple[list[int], list[str], NDArray[np.float64]]:
    """Positions in the labels, categories and boxes (N, 4), xyxy pixels, of the labels that are judged."""
    positions = [i for i, label in enumerate(outcome.labels) if _is_new(label)]
    pairs = [named(outcome.labels[i], objects) for i in positions]
    xywh = np.array([box for _, box in pairs], np.float64).reshape(-1, 4)
    return positions, [name for name, _ in pairs], xywh_to_xyxy(xywh)


def _large_enough(sides: NDArray[np.float64], min_side: float) -> NDArray[np.bool_]:
    return sides >= max(min_side, 1)


def _is_new(label: Label) -> bool:
    """Painted anew, and to be learned from: what is ignored already need not be recognised."""
    return label.painted and not label.ignored


def _verdicts(
    row: ScreenRow,
    outcome: Outcome,
    names: Sequence[str],
    xyxy: NDArray[np.float64],
    rules: BoxRules,
    judge: Judge,
    store: Store,
) -> list[Verdict]:
    """One a box; those that are too small are not shown to the judge."""

    def load() -> Pixels:
        data = store.get("picture", row.picture)
        if data is None:
            raise PictureError("picture_lost", f"{row.name} is no longer in the store")
        return load_rgb(data, "stored")

    sides = visible_sides(xyxy, outcome.width, outcome.height)
    enough = _large_enough(sides, rules.min_side)
    shares = np.full((len(xyxy), len(rules.names)), np.nan)
    halves = np.full((len(xyxy), 4, len(rules.names)), np.nan)
    if enough.any():
        question = Question(["painted", row.picture, row.sha256], rules.names, rules.context)
        picture = functools.cache(load)
        shares[enough] = shares_of(question, xyxy[enough], judge, picture, store)
        halves[enough] = shares_of_halves(question, xyxy[enough], judge, picture, store, bool(rules.filled))
    labels, limits = [rules.names.index(name) for name in names], rules.limits
    found = verdicts(shares, labels, limits, sides, rules.min_side)
    return held_to_filling(found, filling(halves, labels), labels, limits)
