"""Arms: what a detector learns from. To add one: a line in ARMS; its pictures come from pools of a proof.

    mix = mix_of("F", pools, ratio=1.0, classes=6, seed=0)
    mix.parts                             # (pool, rows, shares at the first step, shares at the last)

All arms train for equal optimiser steps with equal augmentation, and differ in their pictures alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from lib.core.errors import AugmentError
from lib.core.keys import hash_draw
from lib.proof.pictures import Pool

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Part:
    """Pictures of one pool, and how often an epoch shows each."""

    pool: str
    rows: NDArray[np.int64]  # (N,)
    start: Floats  # (N,) at the first step
    end: Floats  # (N,) at the last
    shifted: bool = False  # its boxes are moved off their objects


@dataclass(frozen=True)
class Mix:
    """What one training sees."""

    parts: tuple[Part, ...]
    hold: float = 0.0  # share of the steps before `start` begins to change towards `end`

    @property
    def synthetic(self) -> int:
        """Pictures beside the real ones."""
        return sum(len(part.rows) for part in self.parts[1:])


@dataclass(frozen=True)
class Arm:
    """A way to train."""

    title: str
    needs: tuple[str, ...]  # pools beside "real"
    mix: Callable[[Mapping[str, Pool], float, int, int], Mix]
    graded: bool = True  # has a ratio: synthetic pictures per real one

    def pools(self) -> tuple[str, ...]:
        """All pools it reads."""
        return ("real", *self.needs)


def mix_of(name: str, pools: Mapping[str, Pool], ratio: float, classes: int, seed: int, fade: float = 0.0) -> Mix:
    """The pictures of an arm; raises AugmentError where a pool that it needs is empty.

    ratio: synthetic pictures per real one; classes: number of categories; seed: of what is drawn; fade: by which share
    synthetic pictures have become rarer at the last step, 1 = none is left.
    """
    arm = ARMS[name]
    for pool in arm.pools():
        if not len(pools[pool]):
            raise AugmentError(f"arm {name} ({arm.title}) has no picture of {POOLS[pool]}: leave it out of `arms`")
    mix = arm.mix(pools, ratio, classes, seed)
    if mix.hold:  # it has an order of its own
        return mix
    parts = (part if part.pool in _REAL else replace(part, end=(1 - fade) * part.end) for part in mix.parts)
    return replace(mix, parts=tuple(parts))


def _even(pool: str, rows: NDArray[np.int64], shifted: bool = False) -> Part:
    return Part(pool, rows, np.ones(len(rows)), np.ones(len(rows)), shifted)


def _all(pools: Mapping[str, Pool], pool: str = "real") -> NDArray[np.int64]:
    return np.arange(len(pools[pool]))


def _first(pools: Mapping[str, Pool], pool: str, ratio: float) -> NDArray[np.int64]:
    """Of a pool the pictures for a ratio, drawn by their names: a smaller ratio takes some of a larger one's."""
    names = pools[pool].names
    order = sorted(range(len(names)), key=lambda i: hash_draw("proof arm", str(names[i])))
    return np.sort(np.array(order[: round(ratio * len(pools["real"]))], np.int64))


def _real(pools: Mapping[str, Pool], ratio: float, classes: int, seed: int) -> Mix:
    return Mix((_even("real", _all(pools)),))


def _repeated(pools: Mapping[str, Pool], ratio: float, classes: int, seed: int) -> Mix:
    rows = _all(pools)
    return Mix((Part("real", rows, np.full(len(rows), 1 + ratio), np.full(len(rows), 1 + ratio)),))


def repeat_factors(counts: NDArray[np.int64]) -> Floats:
    """(N,) at least 1: max over a picture's classes of sqrt(t / f), f the share of pictures with the class.

    counts: (N, classes). As Gupta et al. 2019 (LVIS, arXiv 1908.03195, appendix A), with t the share of the class in
    most pictures: their .001 is meant for a thousand classes, and would do nothing here.
    """
    shares = (counts > 0).mean(0)
    factors = np.sqrt(shares.max(initial=0) / np.where(shares > 0, shares, 1))
    return np.maximum(1.0, np.where(counts > 0, factors, 0).max(1, initial=0))


def _repeat_factor(pools: Mapping[str, Pool], ratio: float, classes: int, seed: int) -> Mix:
    shares = repeat_factors(pools["real"].counts(classes))
    return Mix((Part("real", _all(pools), shares, shares),))


def _beside(pool: str, shifted: bool = False) -> Callable[[Mapping[str, Pool], float, int, int], Mix]:
    """Real pictures and `ratio` times as many of a pool."""

    def mix(pools: Mapping[str, Pool], ratio: float, classes: int, seed: int) -> Mix:
        return Mix((_even("real", _all(pools)), _even(pool, _first(pools, pool, ratio), shifted)))

    return mix


def _screened_rows(pools: Mapping[str, Pool], ratio: float) -> NDArray[np.int64]:
    """Of the pictures that E takes those that screening kept."""
    taken = set(pools["all"].names[_first(pools, "all", ratio)].tolist())
    return np.array([i for i, name in enumerate(pools["screened"].names) if str(name) in taken], np.int64)


def _screened(pools: Mapping[str, Pool], ratio: float, classes: int, seed: int) -> Mix:
    return Mix((_even("real", _all(pools)), _even("screened", _screened_rows(pools, ratio))))


def _thinned(pools: Mapping[str, Pool], ratio: float, classes: int, seed: int) -> Mix:
    rows = _first(pools, "all", ratio)
    count = min(len(rows), len(_screened_rows(pools, ratio)))
    drawn = np.random.default_rng([seed, 71]).choice(rows, count, replace=False)
    return Mix((_even("real", _all(pools)), _even("all", np.sort(drawn))))


def _targeted(pools: Mapping[str, Pool], ratio: float, classes: int, seed: int) -> Mix:
    count = len(_screened_rows(pools, ratio)) / len(pools["real"])
    return Mix((_even("real", _all(pools)), _even("targeted", _first(pools, "targeted", count))))


def _curriculum(pools: Mapping[str, Pool], ratio: float, classes: int, seed: int) -> Mix:
    """Half of the steps on the real pictures; then the picked ones and their originals, from all real ones evenly
    towards classes in balance.
    """
    rows = _screened_rows(pools, ratio)
    picked = np.isin(pools["real"].names, pools["screened"].sources[rows])
    counts = np.concatenate([pools["real"].counts(classes), pools["screened"].counts(classes)[rows]])
    balance = repeat_factors(counts) ** 2  # the root undone: every class as often as the most frequent one
    real, n = _all(pools), len(pools["real"])
    end = np.where(picked, balance[:n], 0.0)
    return Mix(
        (Part("real", real, np.ones(n), end), Part("screened", rows, np.zeros(len(rows)), balance[n:])), hold=0.5
    )


_REAL = ("real", "extra")

POOLS = {
    "real": "the real training pictures",
    "copy": "copy-paste",
    "all": "synthetic pictures",
    "screened": "screened synthetic pictures",
    "targeted": "targeted synthetic pictures",
    "extra": "further real pictures",
}

ARMS: dict[str, Arm] = {
    "A": Arm("real pictures", (), _real, graded=False),
    "B": Arm("real pictures, repeated", (), _repeated),
    "C": Arm("real pictures, repeat-factor sampling", (), _repeat_factor, graded=False),
    "D": Arm("with copy-paste", ("copy",), _beside("copy")),
    "E": Arm("with synthetic pictures, all", ("all",), _beside("all")),
    "F": Arm("with synthetic pictures, screened", ("all", "screened"), _screened),
    "G": Arm("with synthetic pictures, thinned at random to F's number", ("all", "screened"), _thinned),
    "T": Arm("with synthetic pictures, targeted and screened, F's number", ("all", "screened", "targeted"), _targeted),
    "S": Arm("real, then screened ones and their originals, towards balance", ("all", "screened"), _curriculum),
    "H": Arm("twice the real pictures", ("extra",), lambda p, ratio, c, s: _beside("extra")(p, 1.0, c, s), False),
    "X": Arm("with shifted labels: must harm", ("copy",), _beside("copy", shifted=True)),
    "Y": Arm("with further real pictures in place of synthetic ones: must help", ("extra",), _beside("extra")),
}


def shifted_boxes(boxes: Floats, size: tuple[int, int], rng: np.random.Generator) -> Floats:
    """(N, 4) xyxy moved by .6 to 1 of their sides in a random direction, kept inside a picture of `size`."""
    sides = boxes[:, 2:] - boxes[:, :2]
    moves = sides * rng.uniform(0.6, 1.0, sides.shape) * rng.choice([-1.0, 1.0], sides.shape)
    low = np.clip(boxes[:, :2] + moves, 0, np.maximum(0, np.array(size, float) - sides))
    return np.concatenate([low, low + sides], 1)
