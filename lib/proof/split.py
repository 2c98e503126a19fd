"""Which pictures a detector learns from, and which it is tested on: whole groups, no near-duplicates across.

split = split_pictures(images, objects, hashes, settings)
split.train, split.extra, split.test        # image keys, in the order in which they were drawn
split.left                                  # why others take no part, by key
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from pydantic import Field

from lib.core.errors import AugmentError, nearest
from lib.core.keys import hash_draw
from lib.evaluation.metrics.duplicates import near_hashes
from lib.records.rows import OK
from lib.records.settings import Settings


class SplitSettings(Settings):
    train: int = Field(60, ge=2, description="real pictures that every arm learns from")
    test: int = Field(120, ge=2, description="pictures that detectors are tested on, of other groups")
    by: Literal["drawn", "official"] = Field(
        "drawn",
        description="drawn: groups are drawn for the test, whatever split the data set names; official: the test "
        "pictures are those of its own val or test split",
    )
    near: int = Field(
        4,
        ge=-1,
        le=32,
        description="training pictures whose perceptual hash differs from a test picture's in at most so many of 64 "
        "bits are left out; -1: none are",
    )
    rare: dict[str, int] = Field(
        default_factory=dict,
        description="category → at most so many of the training pictures hold it (and of every as many further ones): "
        "to try out what helps a rare class",
    )
    empty: bool = Field(False, description="pictures without a box take part as well")
    seed: int = Field(0, ge=0, description="of the draw")


@dataclass(frozen=True)
class Split:
    """Image keys."""

    train: list[str]
    extra: list[str]  # real pictures that may join the training: more of the same groups, or of further ones
    test: list[str]
    left: dict[str, str]  # key → reason, of pictures that take no part


def split_pictures(
    images: pd.DataFrame, objects: pd.DataFrame, hashes: Mapping[str, np.uint64], settings: SplitSettings
) -> Split:
    """images, objects: ImageRow and ObjectRow; hashes: perceptual hash by image key, of usable pictures.

    Every draw is by the hash of a key, so that one more picture moves few others. Raises AugmentError for too few
    pictures, for groups that cannot be divided, and for a category that either side lacks.
    """
    usable = images[(images.status == OK) & images.key.isin(list(hashes))]
    left = {str(row.key): row.reason or "unreadable" for row in images[~images.key.isin(usable.key)].itertuples()}
    if not settings.empty:
        boxed = usable.key.isin(objects.image_key[objects.status == OK])
        left |= dict.fromkeys(usable.key[~boxed], "no_box")
        usable = usable[boxed]
    order = sorted(usable.index, key=lambda i: hash_draw("proof", settings.seed, usable.key[i]))
    usable = usable.loc[order]
    groups = usable.group.where(usable.group != "", "picture " + usable.key)
    held = _official(usable) if settings.by == "official" else _drawn(groups, settings)
    test_groups = set(groups[held])
    test = usable.key[held].tolist()
    rest = usable[~held]
    shared = groups[~held].isin(test_groups)
    left |= dict.fromkeys(rest.key[shared], "group_in_test")
    rest = rest[~shared]
    near = _near(rest.key.tolist(), test, hashes, settings.near)
    left |= dict.fromkeys(near, "near_test_picture")
    pool = [key for key in rest.key if key not in near]
    full = _full(pool, objects, settings)
    left |= dict.fromkeys(full, "rare_category_is_full")
    pool = [key for key in pool if key not in full]
    left |= dict.fromkeys(test[settings.test :], "test_is_full")
    test = test[: settings.test]
    if len(pool) < settings.train or len(test) < 2:
        reasons = ", ".join(f"{reason} {count}" for reason, count in sorted(Counter(left.values()).items()))
        raise AugmentError(
            f"{len(pool)} pictures are left for training and {len(test)} for the test, of {len(images)} "
            f"({reasons or 'none set aside'}): expected at least split.train, {settings.train}, and 2; lower "
            "split.train or split.test, or add pictures"
        )
    split = Split(pool[: settings.train], pool[settings.train :], test, left)
    _check_categories(objects, split)
    return split


def _official(usable: pd.DataFrame) -> pd.Series:
    held = usable.split.str.lower().str.startswith(("val", "test", "dev"))
    if not held.any() or held.all():
        found = ", ".join(sorted(set(usable.split)))
        raise AugmentError(
            f"the data set's splits are {found or 'none'}: split.by: official needs train and val or test"
        )
    return held


def _drawn(groups: pd.Series, settings: SplitSettings) -> pd.Series:
    """Groups in the order of their hashes until the test has its pictures: small ones first where few are needed."""
    sizes = groups.value_counts()
    drawn = sorted(sizes.index, key=lambda group: hash_draw("proof test", settings.seed, group))
    chosen: list[str] = []
    count, spare = 0, len(groups) - settings.train
    for group in drawn:
        if count >= settings.test:
            break
        if count + int(sizes[group]) <= spare:
            chosen.append(group)
            count += int(sizes[group])
    return groups.isin(chosen)


def _near(pool: list[str], test: list[str], hashes: Mapping[str, np.uint64], most: int) -> set[str]:
    """Keys of the pool that are near a test picture."""
    if most < 0 or not pool or not test:
        return set()
    pairs, _ = near_hashes(np.array([hashes[key] for key in pool]), np.array([hashes[key] for key in test]), most)
    return {pool[i] for i in np.unique(pairs[:, 0])}


def _full(pool: list[str], objects: pd.DataFrame, settings: SplitSettings) -> set[str]:
    """Keys of the pool that hold a rare category which enough pictures before them hold."""
    known = set(objects.category)
    for name in settings.rare:
        if name not in known:
            raise AugmentError(f"split.rare: the data set has no category {name!r}{nearest(name, known)}")
    held = {name: set(objects.image_key[(objects.category == name) & (objects.status == OK)]) for name in settings.rare}
    full: set[str] = set()
    counts = dict.fromkeys(settings.rare, 0)
    taken = 0
    for key in pool:
        holds = [name for name in settings.rare if key in held[name]]
        most = 1 + taken // settings.train  # training pictures, then as many further ones, and so on
        if any(counts[name] >= settings.rare[name] * most for name in holds):
            full.add(key)
            continue
        taken += 1
        for name in holds:
            counts[name] += 1
    return full


def _check_categories(objects: pd.DataFrame, split: Split) -> None:
    usable = objects[(objects.status == OK) & ~objects.crowd.astype(bool)]
    by_side = {
        name: set(usable.category[usable.image_key.isin(keys)])
        for name, keys in (("training", split.train), ("test", split.test))
    }
    for name, other in (("training", "test"), ("test", "training")):
        lacking = sorted(by_side[other] - by_side[name])
        if lacking:
            raise AugmentError(
                f"the {name} pictures hold no {', '.join(lacking)}, the {other} pictures do: take more pictures "
                f"(split.train, split.test), or another split.seed"
            )
