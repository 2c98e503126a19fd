"""Layout fidelity: shares of hits of judged boxes, painted and real, as pure functions.

compare(real, generated, names).fidelity          # of Judged boxes

real       share of hits over real boxes: the most that this judge can say
generated  share of hits over painted boxes
shuffled   the same, had the painted boxes exchanged their labels: what chance and frequent categories give
fidelity   (generated − shuffled) / (real − shuffled): 0 = no better than exchanged labels, 1 = as good as real
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lib.evaluation.metrics import Details

RESAMPLES = 1000
SIZES = {"small": 32.0**2, "medium": 96.0**2, "large": np.inf}  # up to, pixels² of the box; COCO's limits

_CELLS = 10_000_000  # of one resampling step: about 80 MB


@dataclass(frozen=True)
class Judged:
    """The judged boxes of one side, N of them in P pictures."""

    picture: NDArray[np.int64]  # (N,) 0 .. P − 1, every number used
    label: NDArray[np.int64]  # (N,) number of its category
    predicted: NDArray[np.int64]  # (N,) number of the category that the judge put first
    area: NDArray[np.float64]  # (N,) of the box, pixels²

    @property
    def hits(self) -> NDArray[np.bool_]:
        """(N,) Was the label ranked first?"""
        hits: NDArray[np.bool_] = self.label == self.predicted
        return hits

    @property
    def pictures(self) -> int:
        return int(self.picture.max()) + 1 if len(self.picture) else 0


class Hits(Details):
    """Boxes of a category or a size, and how many of them are hits."""

    n_generated: int
    hits_generated: int
    n_real: int
    hits_real: int

    def of(self, side: str) -> tuple[int, int]:
        """(hits, boxes) of "generated" or "real"."""
        return (self.hits_real, self.n_real) if side == "real" else (self.hits_generated, self.n_generated)

    def share(self, side: str) -> float | None:
        """Of hits, 0 .. 1; None where there are no boxes."""
        hits, boxes = self.of(side)
        return hits / boxes if boxes else None


class Fidelity(Details):
    """The result of judged boxes."""

    fidelity: float | None  # None, with a note, where real ≤ shuffled or a side is empty
    interval: list[float] | None  # [low, high], 95 %, see `interval_of`
    real: float | None  # shares of hits, None for an empty side
    generated: float | None
    shuffled: float | None
    n_real: int  # boxes
    n_generated: int
    pictures_real: int
    pictures_generated: int
    by_category: dict[str, Hits]
    by_size: dict[str, Hits]
    resamples: int
    notes: list[str]
    real_shuffled: float | None = None  # as shuffled, of the real ones: what chance gives there


def compare(real: Judged, generated: Judged, names: Sequence[str], seed: int = 0) -> Fidelity:
    """Scores of judged boxes; names: of the categories, by number."""
    shares = {"real": _share(real), "generated": _share(generated), "shuffled": shuffled(generated, len(names))}
    score = _ratio(shares["real"], shares["generated"], shares["shuffled"])
    sides = {"generated": generated, "real": real}
    sizes = {name: np.digitize(side.area, list(SIZES.values())[:-1]) for name, side in sides.items()}
    interval = interval_of(real, generated, len(names), seed) if np.isfinite(score) else None
    return Fidelity(
        fidelity=_number(score),
        interval=interval,
        **{name: _number(share) for name, share in shares.items()},
        n_real=len(real.label),
        n_generated=len(generated.label),
        pictures_real=real.pictures,
        pictures_generated=generated.pictures,
        by_category=_by(names, sides, {name: side.label for name, side in sides.items()}),
        by_size=_by(list(SIZES), sides, sizes),
        resamples=RESAMPLES,
        notes=_notes(real, generated, shares, interval),
        real_shuffled=_number(shuffled(real, len(names))),
    )


def shuffled(judged: Judged, categories: int) -> float:
    """Share of hits to expect where the boxes' labels are dealt out anew at random among them: exact, over all
    permutations, Σ over categories of p(label) · p(predicted). NaN for no boxes."""
    n = len(judged.label)
    if n == 0:
        return float("nan")
    labels, predicted = (np.bincount(values, minlength=categories) for values in (judged.label, judged.predicted))
    return float(labels @ predicted) / n**2


def interval_of(real: Judged, generated: Judged, categories: int, seed: int = 0) -> list[float] | None:
    """[low, high] that holds 95 % of fidelity over 1000 resamplings of the pictures of each side with replacement
    (Efron 1979: boxes of one picture are not independent draws, pictures are).

    Resamplings in which real ≤ shuffled have no fidelity and are left out. None where a side has fewer than two
    pictures, or where more than a tenth is left out.
    """
    if min(real.pictures, generated.pictures) < 2:
        return None
    rng = np.random.default_rng(seed)
    (top, _), (hits, chance) = (_resampled(side, categories, rng) for side in (real, generated))
    scores = _ratio(top, hits, chance)
    defined = scores[np.isfinite(scores)]
    if len(defined) < 0.9 * RESAMPLES:
        return None
    return [float(value) for value in np.percentile(defined, [2.5, 97.5])]


def _resampled(judged: Judged, categories: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """(hits, shuffled), (1000,) shares each, over resampled pictures."""
    pictures = judged.pictures
    # Everything is a sum over pictures of these counts: hits, then boxes by label, then boxes by predicted category.
    hits = np.bincount(judged.picture, judged.hits, pictures)[:, None]
    labels, predicted = (
        np.bincount(judged.picture * categories + values, minlength=pictures * categories).reshape(pictures, -1)
        for values in (judged.label, judged.predicted)
    )
    counts = np.concatenate([hits, labels, predicted], axis=1)  # (P, 1 + 2 C) float64
    step = max(1, _CELLS // pictures)
    sums = np.concatenate([_draw(counts, min(step, RESAMPLES - i), rng) for i in range(0, RESAMPLES, step)])
    n = sums[:, 1 : 1 + categories].sum(axis=1)
    chance = (sums[:, 1 : 1 + categories] * sums[:, 1 + categories :]).sum(axis=1) / n**2
    return sums[:, 0] / n, chance


def _draw(counts: np.ndarray, times: int, rng: np.random.Generator) -> np.ndarray:
    """(times, K) sums of the (P, K) rows, P of them drawn with replacement each time."""
    rows = len(counts)
    drawn = rng.integers(rows, size=(times, rows)) + np.arange(times)[:, None] * rows
    weights = np.bincount(drawn.ravel(), minlength=times * rows).reshape(times, rows)
    sums: np.ndarray = weights.astype(np.float64) @ counts
    return sums


def _share(judged: Judged) -> float:
    return float(judged.hits.mean()) if len(judged.label) else float("nan")


def _ratio(real: Any, generated: Any, chance: Any) -> Any:
    """Fidelity, NaN where real ≤ shuffled; of numbers or of arrays."""
    room = np.asarray(real - chance)
    made = np.divide(generated - chance, room, out=np.full(room.shape, np.nan), where=room > 0)
    return made if made.ndim else float(made)


def _number(value: float) -> float | None:
    return value if np.isfinite(value) else None


def _by(groups: Sequence[str], sides: Mapping[str, Judged], members: Mapping[str, np.ndarray]) -> dict[str, Hits]:
    """Boxes and hits of both sides per group; members: (N,) number of each box's group, per side."""
    table: dict[str, dict[str, int]] = {group: {} for group in groups}
    for name, side in sides.items():
        boxes = np.bincount(members[name], minlength=len(groups))
        hits = np.bincount(members[name][side.hits], minlength=len(groups))
        for i, group in enumerate(groups):
            table[group] |= {f"n_{name}": int(boxes[i]), f"hits_{name}": int(hits[i])}
    return {group: Hits(**counts) for group, counts in table.items()}


def _notes(real: Judged, generated: Judged, shares: Mapping[str, float], interval: list[float] | None) -> list[str]:
    empty = [name for name, side in (("real", real), ("generated", generated)) if not len(side.label)]
    if empty:
        return [f"no {empty[0]} boxes were judged, so there is no fidelity: read the precision of what is there"]
    if shares["real"] <= shares["shuffled"]:
        return [
            f"the judge is right about {shares['real']:.3f} of the real boxes, and exchanged labels give "
            f"{shares['shuffled']:.3f}: it cannot tell these categories apart, so there is no fidelity; give another"
        ]
    if min(real.pictures, generated.pictures) < 2:
        return ["fewer than two pictures on a side: no interval"]
    return [] if interval else ["real is hardly above shuffled: no interval, and the fidelity means little"]
