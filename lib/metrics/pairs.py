"""Metrics of a picture beside its source; the formulas stand in pixels.py and perceptual.py."""

from __future__ import annotations

from functools import cached_property
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from lib.geometry import outer_pixels, rectangles_mask
from lib.metrics import Pair, pixels
from lib.registry import MemberSettings


class _OfPairs:
    VERSION: ClassVar[int] = 1
    OF: ClassVar[Literal["sets", "pairs"]] = "pairs"

    class Settings(MemberSettings):
        pass

    def __init__(self, settings: Any) -> None:
        self.settings = settings


def boxed(pair: Pair) -> np.ndarray:
    """bool (H, W): inside any box. Raises ValueError where no box has a pixel of the picture."""
    height, width = pair.source.shape[:2]
    mask = rectangles_mask([outer_pixels(box) for box in pair.boxes.tolist()], (0, 0, width, height))
    if not mask.any():
        raise ValueError("no box in the picture: give --boxes, the annotations of the sources")
    return mask


class Background(_OfPairs):
    """How far the picture is its source, well outside the boxes."""

    class Settings(MemberSettings):
        margin: int = Field(16, ge=0, description="pixels around each box that do not count")

    ABOUT: ClassVar[dict[str, str]] = {
        "background_psnr": "Decibels outside the boxes: untouched pictures have no finite number and are counted "
        "apart, over 40 is hardly seen, 26 is what repainting a whole photograph costs. It cannot tell where it "
        "changed.",
        "untouched": "Share of pictures whose background is their source's own, pixel for pixel: 1 is what pasting "
        "back gives. It cannot tell how good the rest is.",
    }

    def of_pair(self, pair: Pair) -> dict[str, float]:
        told = pixels.background_psnr(pair.source, pair.output, pair.boxes, self.settings.margin)
        return {"untouched": 1.0} if np.isinf(told) else {"background_psnr": told, "untouched": 0.0}


class Inside(_OfPairs):
    """What happened in the boxes, on their own rectangle."""

    ABOUT: ClassVar[dict[str, str]] = {
        "inside_mse": "Squared grey levels by which the boxes changed: 0 means that nothing was painted. It cannot "
        "tell whether the change is any good.",
        "inside_ssim": "Likeness of structure in the boxes to what was there: low where something new stands. It "
        "cannot tell an object from noise.",
    }

    def of_pair(self, pair: Pair) -> dict[str, float]:
        mask = boxed(pair)
        part, before, after = pixels.crop_to(mask, mask, pair.source, pair.output)
        told = {"inside_mse": pixels.mse(before, after, part)}
        if min(part.shape) >= pixels.WINDOW and part[5:-5, 5:-5].any():
            told["inside_ssim"] = pixels.ssim(before, after, part)
        return told


class Seam(_OfPairs):
    """GDiff along the boxes' edges (S1)."""

    ABOUT: ClassVar[dict[str, str]] = {
        f"seam_{part}": f"Change of the gradients {where}, as a share of the source's own: 0 means that they are as "
        "they were, about 1 a new edge or new content. It cannot tell a seam from an object that ends there."
        for part, where in (
            ("edge", "in a band along the boxes' edges"),
            ("inner", "in that band, inside"),
            ("outer", "in that band, outside"),
        )
    }

    def of_pair(self, pair: Pair) -> dict[str, float]:
        mask = boxed(pair)
        parts: tuple[Literal["edge", "inner", "outer"], ...] = ("edge", "inner", "outer")
        told = {f"seam_{part}": pixels.gdiff(pair.source, pair.output, mask, where=part) for part in parts}
        return {name: value for name, value in told.items() if np.isfinite(value)}


class Whole(_OfPairs):
    """The picture as a whole beside its source."""

    ABOUT: ClassVar[dict[str, str]] = {
        "whole_psnr": "Decibels over all pixels: higher is nearer to the source. It rewards doing nothing.",
        "whole_ssim": "Likeness of structure over the whole picture, 1 = the same. It rewards doing nothing.",
    }

    def of_pair(self, pair: Pair) -> dict[str, float]:
        told = {"whole_ssim": pixels.ssim(pair.source, pair.output)}
        psnr = pixels.psnr(pair.source, pair.output)
        return told if np.isinf(psnr) else told | {"whole_psnr": psnr}


class Perceptual(_OfPairs):
    """LPIPS."""

    class Settings(MemberSettings):
        network: Literal["mini", "alex"] = Field("mini", description="whose features; alex needs torchvision's weights")

    ABOUT: ClassVar[dict[str, str]] = {
        "lpips": "Distance as a network sees it: 0 is the same, over .5 another picture. It cannot tell better from "
        "worse, and numbers of different networks do not compare.",
    }

    @cached_property
    def _network(self) -> Any:
        from lib.metrics.perceptual import NETWORKS

        return NETWORKS[self.settings.network]()

    def of_pair(self, pair: Pair) -> dict[str, float]:
        from lib.metrics.perceptual import lpips

        return {"lpips": float(lpips(self._network, pair.source[None], pair.output[None])[0])}
