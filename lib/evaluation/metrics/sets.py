"""Metrics of two sets of features, and the floor that FID and KID are read by.

The formulas stand in distances.py and duplicates.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from lib.core.registry import MemberSettings
from lib.evaluation.metrics import Base, Details, Kind, Number, distances
from lib.evaluation.metrics.duplicates import with_near_features

HALVINGS = 10
_SUBSETS = 10  # of one KID in the floor, above 1000 pictures: with ten halvings, the usual 100 in all

Features = NDArray[np.float64]  # (N, D)


class Spread(Details):
    """Of a score over the halvings."""

    mean: float | None  # None, as all numbers below: not finite
    std: float | None  # with n − 1


class Floor(Details):
    """Real against real at m = min(n_generated, n_real // 2) pictures, and generated against real at the same m."""

    m: int
    halvings: int
    fid: Spread  # of m real against m other real pictures
    kid: Spread
    fid_at_m: float | None  # mean of m real against m generated ones, over as many draws
    kid_at_m: float | None

    def beside(self, number: str) -> tuple[float | None, Spread] | None:
        """(at m, real against real) of a number; None where it has no floor."""
        return (getattr(self, f"{number}_at_m"), getattr(self, number)) if hasattr(self, f"{number}_at_m") else None


def floor_of(real: Features, generated: Features, seed: int = 0) -> Floor:
    """The floor of features (N, D) and (M, D), N >= 4 and M >= 2, over ten random halvings of the real ones."""
    m = min(len(generated), len(real) // 2)
    rng = np.random.default_rng(seed)
    floor: list[tuple[float, float]] = []
    at_m: list[tuple[float, float]] = []
    for _ in range(HALVINGS):
        order = rng.permutation(len(real))
        half, other_half = real[order[:m]], real[order[m : 2 * m]]
        drawn = generated[rng.permutation(len(generated))[:m]]
        floor.append(_both(half, other_half, seed))
        at_m.append(_both(half, drawn, seed))
    (fid, kid), (fid_at_m, kid_at_m) = zip(*floor, strict=True), zip(*at_m, strict=True)
    return Floor(
        m=m,
        halvings=HALVINGS,
        fid=_spread(fid),
        kid=_spread(kid),
        fid_at_m=float(np.mean(fid_at_m)),
        kid_at_m=float(np.mean(kid_at_m)),
    )


def _both(x: Features, y: Features, seed: int) -> tuple[float, float]:
    return distances.fid(x, y), distances.kid(x, y, subsets=_SUBSETS, seed=seed)


def _spread(values: Sequence[float]) -> Spread:
    return Spread(mean=float(np.mean(values)), std=float(np.std(values, ddof=1)))


class _OfSets(Base):
    OF: ClassVar[Kind] = "sets"
    LEAST: ClassVar[int] = 2

    @property
    def least(self) -> int:
        return self.LEAST

    @staticmethod
    def warning(pictures: int, dimensions: int) -> str:
        return ""


class Fid(_OfSets):
    NUMBERS: ClassVar[dict[str, Number]] = {
        "fid": Number(
            "How far the two sets' features lie apart as bell curves: near the floor is good, many times it is bad. "
            "It cannot tell quality from diversity, nor anything of single pictures, and is too high for few of them.",
            "lower",
            title="FID",
            floor=True,
            biased=True,
            account=True,
        ),
    }

    def of_sets(self, real: np.ndarray, generated: np.ndarray, seed: int) -> dict[str, Any]:
        return {"fid": distances.fid(real, generated)}

    @staticmethod
    def warning(pictures: int, dimensions: int) -> str:
        return (
            f"{pictures} pictures for {dimensions} feature dimensions: FID is biased upwards; read KID first, and "
            "either only beside its floor at the same number of pictures"
        )


class Kid(_OfSets):
    NUMBERS: ClassVar[dict[str, Number]] = {
        "kid": Number(
            "As FID, without its bias for few pictures, so it stands first there: within the floor's spread is "
            "good. It cannot tell what is wrong, and a number below 0 means no more than 0.",
            "lower",
            title="KID",
            floor=True,
            from_zero=True,
            account=True,
        ),
        "kid_interval": Number(
            "Where KID would lie for other pictures of the same two kinds, 95 times in 100: two runs whose "
            "intervals overlap widely are not told apart. It is too narrow where many variants come from one source.",
            "lower",
            title="KID, 95 %",
        ),
    }

    def of_sets(self, real: np.ndarray, generated: np.ndarray, seed: int) -> dict[str, Any]:
        numbers: dict[str, Any] = {"kid": distances.kid(real, generated, seed=seed)}
        if min(len(real), len(generated)) >= 4:
            numbers["kid_interval"] = list(distances.kid_interval(real, generated, seed=seed))
        return numbers


class Overlaps(_OfSets):
    """precision, recall, density, coverage."""

    LEAST: ClassVar[int] = 4

    class Settings(MemberSettings):
        k: int = Field(3, ge=1, description="neighbours that make the ball around a picture")

    @property
    def least(self) -> int:
        return int(self.settings.k) + 1  # a picture is no neighbour of itself

    NUMBERS: ClassVar[dict[str, Number]] = {
        "precision": Number(
            "Share of generated pictures that lie among real ones: near 1 is good, low means pictures unlike "
            "any real one. It cannot tell whether they are all the same.",
            "higher",
            "share",
        ),
        "recall": Number(
            "Share of real pictures that lie among generated ones: low means that kinds of pictures are missing. "
            "It cannot tell whether the generated ones look real.",
            "higher",
            "share",
        ),
        "density": Number(
            "As precision, counted by how many real pictures are near, so that one odd real picture matters "
            "less; about 1 for equal sets. It may exceed 1 where pictures crowd at typical places.",
            "higher",
        ),
        "coverage": Number(
            "Share of real pictures with a generated one near: near 1 is good. It cannot tell how many there are.",
            "higher",
            "share",
        ),
    }

    def of_sets(self, real: np.ndarray, generated: np.ndarray, seed: int) -> dict[str, Any]:
        return dict(distances.precision_recall(real, generated, k=self.settings.k)._asdict())


class Twins(_OfSets):
    """Near-duplicates among the generated, and of the real, by features less the mean of the real ones: as they come,
    those of unlike pictures may all point into one corner."""

    VERSION: ClassVar[int] = 2

    class Settings(MemberSettings):
        least: float = Field(0.98, gt=0, le=1, description="cosine similarity from which two pictures count as twins")

    NUMBERS: ClassVar[dict[str, Number]] = {
        "twins": Number(
            "Share of generated pictures with a near-twin among the generated: near 0 is good, high means that "
            "the painter repeats itself. Edits of small boxes are twins of each other by nature, if they have one "
            "source.",
            "lower",
            "share",
        ),
        "leaks": Number(
            "Share of generated pictures with a near-twin among the real: high is bad where the real set is kept "
            "for judging, and natural where they are edits of it. Features alone cannot tell a copy from a like scene.",
            "lower",
            "share",
        ),
    }

    def of_sets(self, real: np.ndarray, generated: np.ndarray, seed: int) -> dict[str, Any]:
        mean = real.mean(axis=0)
        made, kept = (_from_mean(features, mean) for features in (generated, real))
        twins, _ = with_near_features(made, least=self.settings.least)
        leaks, _ = with_near_features(made, kept, self.settings.least)
        return {"twins": float(twins.mean()), "leaks": float(leaks.mean())}


def _from_mean(features: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """(N, D + 1): features less the mean, and 1 where nothing is left: such pictures are alike, and like no other."""
    rest = features - mean
    return np.concatenate([rest, ~rest.any(axis=1, keepdims=True)], axis=1)
