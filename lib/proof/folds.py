"""Cross-validation by group: every picture is judged once, by a detector that has seen nothing of its group.

chosen = candidates(images, objects, settings)               # ImageRows in the order of their draw
folds = divide(groups, counts, hashes, settings)
folds[0].train, folds[0].held                                # numbers of pictures
part_of(folds[0], .5)                                        # half of its training pictures, for the learning curve
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import Field

from lib.core.errors import AugmentError
from lib.core.keys import hash_draw
from lib.evaluation.metrics.duplicates import near_hashes
from lib.records.rows import OK
from lib.records.settings import Settings

LEAST = 10  # pictures: below, a fold has none to speak of
Rows = NDArray[np.int64]


class FoldSettings(Settings):
    count: int = Field(4, ge=2, le=20, description="folds: so many detectors are trained for each point")
    curve: int = Field(
        3, ge=2, le=5, description="points of the learning curve: all training pictures of a fold, half, a quarter, …"
    )
    pictures: int = Field(1000, ge=LEAST, description="at most so many pictures take part, drawn by their hashes")
    near: int = Field(
        4,
        ge=-1,
        le=32,
        description="a picture whose perceptual hash differs from a held one's in at most so many of 64 bits is not "
        "learned from in that fold; -1: all are",
    )
    empty: bool = Field(False, description="pictures without a box take part as well")
    fitted: int = Field(
        60, ge=0, description="pictures of those that a detector learned from in which it is tested as well"
    )
    seed: int = Field(0, ge=0, description="of every draw")


@dataclass(frozen=True)
class Fold:
    """Numbers of pictures."""

    train: Rows  # in the order of the draw
    held: Rows
    near: int = 0  # pictures that are in neither, as they are near a held one


def candidates(
    images: pd.DataFrame, objects: pd.DataFrame, settings: FoldSettings, keys: Collection[str] | None = None
) -> pd.DataFrame:
    """The ImageRows that take part: of the training split, or those of `keys`. Raises AugmentError for too few."""
    usable = images[images.status == OK]
    if keys is not None:
        usable = usable[usable.key.isin(list(keys))]
    else:
        usable = usable[usable.split == "train"]
        if not settings.empty:
            usable = usable[usable.key.isin(objects.image_key[objects.status == OK])]
    order = sorted(usable.index, key=lambda i: hash_draw("advice", settings.seed, usable.key[i]))
    found = usable.loc[order[: settings.pictures]]
    check_enough(len(found), len(images), settings)
    return found


def check_enough(count: int, every: int, settings: FoldSettings) -> None:
    """Raises AugmentError for too few pictures. every: pictures of the data set."""
    if count < LEAST:
        what = "readable pictures" if settings.empty else "readable pictures with boxes"
        raise AugmentError(
            f"{count} {what} of the training split, of {every} in all, are too few for advice: at least {LEAST} are "
            "needed, better 60; add labelled pictures"
        )


def groups_of(images: pd.DataFrame) -> list[str]:
    """The group of each picture; a picture without one is its own."""
    return images.group.where(images.group != "", "picture " + images.key).tolist()


def judged_categories(objects: pd.DataFrame, images: pd.DataFrame) -> tuple[list[str], list[str]]:
    """(categories that lie in two groups or more, the others): one in a single group cannot be learned and tested."""
    groups = dict(zip(images.key, groups_of(images), strict=True))
    usable = objects[(objects.status == OK) & ~objects.crowd.astype(bool) & objects.image_key.isin(list(groups))]
    spread = usable.image_key.map(groups).groupby(usable.category).nunique()
    return sorted(spread.index[spread > 1]), sorted(spread.index[spread == 1])


def divide(groups: Sequence[str], counts: Rows, hashes: Sequence[np.uint64], settings: FoldSettings) -> list[Fold]:
    """Whole groups into folds that are alike in classes and sizes.

    groups: of each of N pictures, in the order of their draw; counts: (N, classes) boxes; hashes: (N,). Raises
    AugmentError for fewer groups than folds, or a fold without pictures to learn from.
    """
    names = list(dict.fromkeys(groups))
    if len(names) < settings.count:
        raise AugmentError(
            f"the {len(groups)} pictures are of {len(names)} groups, which cannot be divided into {settings.count} "
            "folds: add pictures of other groups, or lower folds.count"
        )
    of_group = np.array([names.index(one) for one in groups])
    chosen = _assigned(of_group, counts, settings.count)[of_group]
    folds = []
    for k in range(settings.count):
        held, others = np.flatnonzero(chosen == k), np.flatnonzero(chosen != k)
        near = _near(others, held, hashes, settings.near)
        train = others[~np.isin(others, near)]
        if not len(train):
            raise AugmentError(
                f"all {len(others)} pictures outside of fold {k + 1} are near-duplicates of pictures in it: advice "
                "needs different pictures; or set folds.near to -1"
            )
        folds.append(Fold(train, held, len(near)))
    return folds


def _assigned(of_group: Rows, counts: Rows, folds: int) -> Rows:
    """Fold of each group, the rarest classes shared out first (Sechidis et al. 2011, iterative stratification)."""
    groups = int(of_group.max()) + 1
    boxes, sizes = np.zeros((groups, counts.shape[1])), np.bincount(of_group, minlength=groups)
    np.add.at(boxes, of_group, counts)
    chosen = np.full(groups, -1)
    held, pictures = np.zeros((folds, counts.shape[1])), np.zeros(folds)
    rarest_first = np.argsort(counts.sum(0), kind="stable")
    for c in [*rarest_first.tolist(), None]:
        open_ = chosen < 0
        some = np.flatnonzero(open_ if c is None else open_ & (boxes[:, c] > 0))
        largest_first = some[np.argsort(-(sizes if c is None else boxes[:, c])[some], kind="stable")]
        for group in largest_first.tolist():
            fold = min(range(folds), key=lambda k: (0 if c is None else held[k, c], pictures[k]))
            chosen[group] = fold
            held[fold] += boxes[group]
            pictures[fold] += sizes[group]
    for fold in np.flatnonzero(pictures == 0).tolist():  # a class that lies in few groups may have filled the others
        several = np.bincount(chosen, minlength=folds) > 1
        donor = int(np.where(several, pictures, -1).argmax())
        group = next(g for g in np.argsort(sizes, kind="stable").tolist() if chosen[g] == donor)
        chosen[group] = fold
        pictures[fold] += sizes[group]
        pictures[donor] -= sizes[group]
    return chosen


def _near(others: Rows, held: Rows, hashes: Sequence[np.uint64], most: int) -> Rows:
    if most < 0:
        return np.zeros(0, np.int64)
    values = np.array(hashes)
    pairs, _ = near_hashes(values[others], values[held], most)
    return others[np.unique(pairs[:, 0])]


def part_of(fold: Fold, share: float) -> Rows:
    """So much of a fold's training pictures; a smaller share takes some of a larger one's."""
    return fold.train[: max(1, round(share * len(fold.train)))]
