"""Metrics of a picture beside its source; the formulas stand in pixels.py and perceptual.py."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from lib.core.registry import MemberSettings
from lib.evaluation.metrics import Base, Kind, Number, Pair, pixels
from lib.evaluation.metrics.perceptual import NetworkSettings, lpips


class _OfPairs(Base):
    OF: ClassVar[Kind] = "pairs"


def boxed(pair: Pair) -> np.ndarray:
    """bool (H, W): inside any box. Raises ValueError where no box has a pixel of the picture."""
    mask = pixels.widened(pair.boxes, pair.source.shape[:2])
    if not mask.any():
        raise ValueError("no box in the picture: give --boxes, the annotations of the sources")
    return mask


class Background(_OfPairs):
    """How far the picture is its source, well outside the boxes."""

    VERSION: ClassVar[int] = 2  # 1 took a picture without a box for background as a whole

    class Settings(MemberSettings):
        margin: int = Field(16, ge=0, description="pixels around each box that do not count")

    NUMBERS: ClassVar[dict[str, Number]] = {
        "background_psnr": Number(
            "Decibels outside the boxes: untouched pictures have no finite number and are counted "
            "apart, over 40 is hardly seen, 26 is what repainting a whole photograph costs. It cannot tell where it "
            "changed.",
            "higher",
            "dB",
        ),
        "background_mse": Number(
            "Squared grey levels outside the boxes: 0 is untouched, 163 is 26 decibels. It cannot tell "
            "where it changed.",
            "lower",
            "grey levels²",
        ),
        "background_ssim": Number(
            "Likeness of structure outside the boxes: 1 is the source's own, under .9 fine structure is "
            "gone. It cannot tell a lost texture from an added one.",
            "higher",
        ),
        "untouched": Number(
            "Share of pictures whose background is their source's own, pixel for pixel: 1 is what pasting "
            "back gives. It cannot tell how good the rest is.",
            "higher",
            "share",
            ranked=False,
            account=True,
        ),
    }

    def of_pair(self, pair: Pair) -> dict[str, float]:
        boxed(pair)
        psnr = pixels.background_psnr(pair.source, pair.output, pair.boxes, self.settings.margin)
        if np.isinf(psnr):
            return {"background_mse": 0.0, "background_ssim": 1.0, "untouched": 1.0}
        outside = ~pixels.widened(pair.boxes, pair.source.shape[:2], self.settings.margin)
        found = {"background_psnr": psnr, "background_mse": pixels.mse(pair.source, pair.output, outside)}
        found |= _ssim("background_ssim", pair.source, pair.output, outside)
        return found | {"untouched": 0.0}


class Inside(_OfPairs):
    """What happened in the boxes, on their own rectangle."""

    NUMBERS: ClassVar[dict[str, Number]] = {
        "inside_mse": Number(
            "Squared grey levels by which the boxes changed: 0 means that nothing was painted. It cannot "
            "tell whether the change is any good.",
            "lower",
            "grey levels²",
        ),
        "inside_psnr": Number(
            "The same as decibels: none where nothing was painted, 10 to 20 where an object is new. It "
            "cannot tell whether the change is any good.",
            "higher",
            "dB",
        ),
        "inside_ssim": Number(
            "Likeness of structure in the boxes to what was there: low where something new stands. It "
            "cannot tell an object from noise.",
            "higher",
        ),
    }

    def of_pair(self, pair: Pair) -> dict[str, float]:
        mask = boxed(pair)
        part, before, after = pixels.crop_to(mask, mask, pair.source, pair.output)
        found = {"inside_mse": pixels.mse(before, after, part)} | _ssim("inside_ssim", before, after, part)
        return found | _psnr("inside_psnr", before, after, part)


class Seam(_OfPairs):
    """GDiff along the boxes' edges, as zero-shot latent inpainting measures its seams."""

    NUMBERS: ClassVar[dict[str, Number]] = {
        f"seam_{part}": Number(
            f"Change of the gradients {where}, as a share of the source's own: 0 means that they are as they were, "
            "about 1 a new edge or new content. It cannot tell a seam from an object that ends there.",
            "lower",
            "share",
        )
        for part, where in (
            ("edge", "in a band along the boxes' edges"),
            ("inner", "in that band, inside"),
            ("outer", "in that band, outside"),
        )
    }

    def of_pair(self, pair: Pair) -> dict[str, float]:
        mask = boxed(pair)
        parts: tuple[Literal["edge", "inner", "outer"], ...] = ("edge", "inner", "outer")
        found = {f"seam_{part}": pixels.gdiff(pair.source, pair.output, mask, where=part) for part in parts}
        return {name: value for name, value in found.items() if np.isfinite(value)}


class Whole(_OfPairs):
    """The picture as a whole beside its source."""

    NUMBERS: ClassVar[dict[str, Number]] = {
        "whole_psnr": Number(
            "Decibels over all pixels: higher is nearer to the source. It rewards doing nothing.",
            "higher",
            "dB",
        ),
        "whole_mse": Number(
            "Squared grey levels over all pixels: 0 is the source. It rewards doing nothing.",
            "lower",
            "grey levels²",
        ),
        "whole_ssim": Number(
            "Likeness of structure over the whole picture, 1 = the same. It rewards doing nothing.",
            "higher",
        ),
    }

    def of_pair(self, pair: Pair) -> dict[str, float]:
        found = {"whole_mse": pixels.mse(pair.source, pair.output)} | _psnr("whole_psnr", pair.source, pair.output)
        return found | _ssim("whole_ssim", pair.source, pair.output)


def _psnr(name: str, before: np.ndarray, after: np.ndarray, where: np.ndarray | None = None) -> dict[str, float]:
    """Nothing where the two are equal: infinity has no mean."""
    psnr = pixels.psnr(before, after, where)
    return {} if np.isinf(psnr) else {name: psnr}


def _ssim(name: str, before: np.ndarray, after: np.ndarray, where: np.ndarray | None = None) -> dict[str, float]:
    """Nothing where no window lies within what counts."""
    high, wide = before.shape[:2]
    if min(high, wide) < pixels.WINDOW or (where is not None and not where[5:-5, 5:-5].any()):
        return {}
    return {name: pixels.ssim(before, after, where)}


class Perceptual(_OfPairs):
    """LPIPS."""

    class Settings(NetworkSettings):
        pass

    NUMBERS: ClassVar[dict[str, Number]] = {
        "lpips": Number(
            "Distance as a network sees it: 0 is the same, over .5 another picture. It cannot tell better from "
            "worse, and numbers of different networks do not compare.",
            "lower",
        ),
    }

    @property
    def identity(self) -> str:
        return self.settings.chosen().identity

    def of_pair(self, pair: Pair) -> dict[str, float]:
        return {"lpips": float(lpips(self.settings.chosen(), pair.source[None], pair.output[None])[0])}
