"""Composites: how the paint returns to the picture. To add one: a file here with a class like `Paste`, and a line.

Where `alpha` is 0 every pixel is the picture's own, bit for bit; tests/test_composites.py holds every member to it.
"""

from __future__ import annotations

from typing import Any, ClassVar, Protocol

import numpy as np

from lib.geometry import IntBox
from lib.registry import Family, MemberSettings
from lib.requests import Pass

COMPOSITES = Family(
    "composite",
    {
        "none": "lib.composites.plain:Whole",
        "paste": "lib.composites.plain:Paste",
        "feather": "lib.composites.feather:Feather",
    },
)


class Composite(Protocol):
    """The contract."""

    VERSION: ClassVar[int]  # raised whenever the same paint would give another picture
    Settings: ClassVar[type[MemberSettings]]

    def __init__(self, settings: Any) -> None: ...

    def margin(self) -> int:
        """Pixels by which the reach may go beyond the region; the window holds them."""
        ...

    def alpha(self, spec: Pass, view: IntBox) -> np.ndarray:
        """float32 (h, w), 0 to 1: the paint's share of each pixel of `view`, the part of the window in the frame."""
        ...


def compose(picture: np.ndarray, paint: np.ndarray, spec: Pass, composite: Composite) -> np.ndarray:
    """Bring paint (h, w, 3) uint8, at the pass's shape, into a picture (H, W, 3) uint8; both RGB. A new array."""
    height, width = picture.shape[:2]
    x0, y0, x1, y1 = view = cut_window(spec.window, width, height)
    scaled = _to_window(paint, spec.window, view)
    share = composite.alpha(spec, view)[..., None]
    result = picture.copy()
    below = result[y0:y1, x0:x1]
    mixed = np.rint(scaled * share + below * (1 - share)).astype(np.uint8)
    result[y0:y1, x0:x1] = np.where(share > 0, mixed, below)
    return result


def cut_window(window: IntBox, width: int, height: int) -> IntBox:
    """The part of a window that lies in the frame, xyxy whole pixels."""
    return max(window[0], 0), max(window[1], 0), min(window[2], width), min(window[3], height)


def _to_window(paint: np.ndarray, window: IntBox, view: IntBox) -> np.ndarray:
    """The paint at the window's size, cut to the view. Untouched where the sizes are equal."""
    import cv2

    wide, high = window[2] - window[0], window[3] - window[1]
    if paint.shape[:2] != (high, wide):
        shrinking = wide * high < paint.shape[0] * paint.shape[1]
        paint = cv2.resize(paint, (wide, high), interpolation=cv2.INTER_AREA if shrinking else cv2.INTER_CUBIC)
    left, top = view[0] - window[0], view[1] - window[1]
    return paint[top : top + view[3] - view[1], left : left + view[2] - view[0]]
