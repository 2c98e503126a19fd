"""Metrics of the pictures made from one source; the formula stands in perceptual.py."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from lib.evaluation.metrics import Base, Kind, Number
from lib.evaluation.metrics.perceptual import NetworkSettings, diversity


class Diversity(Base):
    """LPIPS diversity: how different the variants of one layout look."""

    OF: ClassVar[Kind] = "groups"
    NUMBERS: ClassVar[dict[str, Number]] = {
        "diversity": Number(
            "Mean LPIPS over all pairs of pictures made from one source: 0 is bad, the painter makes one picture; for "
            "whole pictures compare with that of other painters, with as many pictures from each. It cannot tell "
            "variety from noise, and numbers of different networks do not compare.",
            "higher",
        ),
    }

    class Settings(NetworkSettings):
        pass

    @property
    def identity(self) -> str:
        return self.settings.chosen().identity

    def of_group(self, pictures: Sequence[np.ndarray]) -> dict[str, float]:
        sizes = {picture.shape for picture in pictures}
        if len(sizes) > 1:
            listed = ", ".join(sorted(f"{shape[1]}×{shape[0]}" for shape in sizes))
            raise ValueError(f"pictures of {listed} pixels: pictures of one size expected")
        return {"diversity": diversity(self.settings.chosen(), np.stack(pictures))}
