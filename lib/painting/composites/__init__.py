"""Composites: how the paint returns to the picture. To add one: a file here with a class like `Paste`, and a line.

Where `alpha` is 0 every pixel is the picture's, bit for bit; tests/test_composites.py holds every member to it.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from lib.core.geometry import IntBox
from lib.core.registry import Family, MemberSettings
from lib.painting.canvas import canvas_of, cut_window
from lib.painting.painters import Paint
from lib.records.requests import Pass

COMPOSITES = Family(
    "composite",
    {
        "none": "lib.painting.composites.plain:Whole",
        "paste": "lib.painting.composites.plain:Paste",
        "feather": "lib.painting.composites.feather:Feather",
        "poisson": "lib.painting.composites.poisson:Poisson",
        "reconstruct": "lib.painting.composites.reconstruct:Reconstruct",
    },
)


class Composite:
    """The contract, and what most members have in common."""

    VERSION: ClassVar[int]  # raised whenever the same paint would give another picture
    NEEDS_DECODER: ClassVar[bool] = False  # True: only painters that have a decoder will do
    Settings: ClassVar[type[MemberSettings]] = MemberSettings

    def __init__(self, settings: Any) -> None:
        self.settings = settings

    def margin(self) -> int:
        """Pixels by which the reach may go beyond the region; the window holds them."""
        return 0

    def alpha(self, step: Pass, view: IntBox) -> np.ndarray:
        """float32 (h, w), 0 to 1: the paint's share of each pixel of `view`, the part of the window in the frame."""
        raise NotImplementedError

    def repaint(self, paint: Paint, step: Pass, canvas: np.ndarray) -> np.ndarray:
        """uint8 (H, W, 3): the paint, made to fit the canvas (the picture as the painter saw it)."""
        return paint.image

    def mix(self, below: np.ndarray, paint: np.ndarray, alpha: np.ndarray) -> np.ndarray:
        """uint8 (h, w, 3) of picture, paint (uint8 as well) and the paint's share (h, w), all of the view."""
        return blended(below, paint, alpha)


def blended(below: np.ndarray, paint: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """uint8 (h, w, 3): picture and paint (uint8, h, w, 3), of the paint the share alpha (h, w), 0 to 1."""
    share = alpha[..., None]
    return np.rint(paint * share + below * (1 - share)).astype(np.uint8)


def compose(picture: np.ndarray, paint: Paint, step: Pass, composite: Composite) -> np.ndarray:
    """Bring a paint, at the pass's shape, into a picture (H, W, 3) uint8 RGB. A new array.

    A paint that brings its own shares is blended by them, whatever the composite does with others.
    """
    height, width = picture.shape[:2]
    x0, y0, x1, y1 = view = cut_window(step.window, width, height)
    scaled = _to_window(composite.repaint(paint, step, canvas_of(picture, step)), step.window, view)
    share, mix = composite.alpha(step, view), composite.mix
    if paint.alpha is not None:  # a cut-out: the picture's colours, drawn in at its outline, would make it a ghost
        share = share * (_to_window(paint.alpha, step.window, view).astype(np.float32) / 255)
        mix = blended
    result = picture.copy()
    below = result[y0:y1, x0:x1]
    result[y0:y1, x0:x1] = np.where(share[..., None] > 0, mix(below, scaled, share), below)
    return result


def _to_window(paint: np.ndarray, window: IntBox, view: IntBox) -> np.ndarray:
    """The paint at the window's size, cut to the view. Untouched where the sizes are equal."""
    import cv2

    wide, high = window[2] - window[0], window[3] - window[1]
    if paint.shape[:2] != (high, wide):
        shrinking = wide * high < paint.shape[0] * paint.shape[1]
        paint = cv2.resize(paint, (wide, high), interpolation=cv2.INTER_AREA if shrinking else cv2.INTER_CUBIC)
    left, top = view[0] - window[0], view[1] - window[1]
    return paint[top : top + view[3] - view[1], left : left + view[2] - view[0]]
