"""Metrics of two sets of features; the formulas stand in distances.py and duplicates.py."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from lib.metrics import Base, Kind, distances
from lib.metrics.duplicates import with_near_features
from lib.registry import MemberSettings


class _OfSets(Base):
    OF: ClassVar[Kind] = "sets"
    LEAST: ClassVar[int] = 2


class Fid(_OfSets):
    ABOUT: ClassVar[dict[str, str]] = {
        "fid": "How far the two sets' features lie apart as bell curves: near the floor is good, many times it is bad. "
        "It cannot tell quality from diversity, nor anything of single pictures, and is too high for few of them."
    }

    def of_sets(self, real: np.ndarray, generated: np.ndarray, seed: int) -> dict[str, Any]:
        return {"fid": distances.fid(real, generated)}


class Kid(_OfSets):
    ABOUT: ClassVar[dict[str, str]] = {
        "kid": "As FID, without its bias for few pictures, so it stands first there: within the floor's spread is "
        "good. It cannot tell what is wrong, and a number below 0 means no more than 0.",
        "kid_interval": "Where KID would lie for other pictures of the same two kinds, 95 times in 100: two runs whose "
        "intervals overlap widely are not told apart. It is too narrow where many variants come from one source.",
    }

    def of_sets(self, real: np.ndarray, generated: np.ndarray, seed: int) -> dict[str, Any]:
        told: dict[str, Any] = {"kid": distances.kid(real, generated, seed=seed)}
        if min(len(real), len(generated)) >= 4:
            told["kid_interval"] = list(distances.kid_interval(real, generated, seed=seed))
        return told


class Overlaps(_OfSets):
    """precision, recall, density, coverage."""

    LEAST: ClassVar[int] = 4

    class Settings(MemberSettings):
        k: int = Field(3, ge=1, description="neighbours that make the ball around a picture")

    ABOUT: ClassVar[dict[str, str]] = {
        "precision": "Share of generated pictures that lie among real ones: near 1 is good, low means pictures unlike "
        "any real one. It cannot tell whether they are all the same.",
        "recall": "Share of real pictures that lie among generated ones: low means that kinds of pictures are missing. "
        "It cannot tell whether the generated ones look real.",
        "density": "As precision, counted by how many real pictures are near, so that one odd real picture matters "
        "less; about 1 for equal sets. It may exceed 1 where pictures crowd at typical places.",
        "coverage": "Share of real pictures with a generated one near: near 1 is good. It cannot tell how many there "
        "are.",
    }

    def of_sets(self, real: np.ndarray, generated: np.ndarray, seed: int) -> dict[str, Any]:
        return dict(distances.precision_recall(real, generated, k=self.settings.k)._asdict())


class Twins(_OfSets):
    """Near-duplicates among the generated, and of the real, by features less the mean of the real ones: as they come,
    those of unlike pictures may all point into one corner."""

    VERSION: ClassVar[int] = 2

    class Settings(MemberSettings):
        least: float = Field(0.98, gt=0, le=1, description="cosine similarity from which two pictures count as twins")

    ABOUT: ClassVar[dict[str, str]] = {
        "twins": "Share of generated pictures with a near-twin among the generated: near 0 is good, high means that "
        "the painter repeats itself. Edits of small boxes are twins of each other by nature, if they have one source.",
        "leaks": "Share of generated pictures with a near-twin among the real: high is bad where the real set is kept "
        "for judging, and natural where they are edits of it. Features alone cannot tell a copy from a like scene.",
    }

    def of_sets(self, real: np.ndarray, generated: np.ndarray, seed: int) -> dict[str, Any]:
        mean = real.mean(axis=0)
        twins, _ = with_near_features(generated - mean, least=self.settings.least)
        leaks, _ = with_near_features(generated - mean, real - mean, self.settings.least)
        return {"twins": float(twins.mean()), "leaks": float(leaks.mean())}
