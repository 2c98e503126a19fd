"""How a pass sees its picture, and which pixels it may paint: windows cut, scaled to the painter's shape, masks."""

from __future__ import annotations

import numpy as np

from lib.core.geometry import IntBox, crop_window, rectangles_mask
from lib.records.requests import Pass
from lib.records.rle import decode_rle


def region_mask(step: Pass, view: IntBox) -> np.ndarray:
    """bool (h, w) of a whole-pixel xyxy view of the picture: True where the pass is to paint."""
    mask = rectangles_mask(step.region, view)
    if step.holes:
        mask &= ~rectangles_mask(step.holes, view)
    if step.mask is not None:
        mask &= _cut(decode_rle(step.mask), view)
    return mask


def canvas_of(picture: np.ndarray, step: Pass) -> np.ndarray:
    """uint8 (H, W, 3): a picture (h, w, 3) under the pass's window at the painter's shape, edges repeated beyond it.

    Raises ValueError where the pass's mask is of a picture of another size.
    """
    if step.mask is not None and step.mask.size != picture.shape[:2]:
        raise ValueError(f"the pass's mask is of (height, width) {step.mask.size}, the picture {picture.shape[:2]}")
    return resized(crop_window(picture, step.window), step.shape)


def mask_of(step: Pass) -> np.ndarray:
    """bool (H, W) at the painter's shape: True for each pixel with anything to paint in it."""
    # As floats: of a single pixel under a strong reduction a byte would round to nothing. The sides that shrink first:
    # of a mask that shrinks one way and grows the other OpenCV would skip rows.
    mask = region_mask(step, step.window).astype(np.float32)
    smaller = min(mask.shape[0], step.shape[0]), min(mask.shape[1], step.shape[1])
    return resized(resized(mask, smaller), step.shape) > 0


def cut_window(window: IntBox, width: int, height: int) -> IntBox:
    """The part of a window that lies in the frame, xyxy whole pixels; empty where they do not meet."""
    x0, x1 = (min(max(x, 0), width) for x in window[::2])
    y0, y1 = (min(max(y, 0), height) for y in window[1::2])
    return x0, y0, x1, y1


def resized(pixels: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """(h, w, ...) uint8 or float32 at (height, width) = shape; area averages when it shrinks."""
    import cv2

    if pixels.shape[:2] == shape:
        return np.array(pixels)  # a copy: loaded pictures are read-only
    shrinking = shape[0] * shape[1] < pixels.shape[0] * pixels.shape[1]
    return cv2.resize(pixels, shape[::-1], interpolation=cv2.INTER_AREA if shrinking else cv2.INTER_LINEAR)


def _cut(mask: np.ndarray, view: IntBox) -> np.ndarray:
    """The part of a whole picture's mask under a view, False beyond the frame."""
    x0, y0, x1, y1 = view
    left, top, right, bottom = cut_window(view, mask.shape[1], mask.shape[0])
    result = np.zeros((y1 - y0, x1 - x0), dtype=bool)
    result[top - y0 : bottom - y0, left - x0 : right - x0] = mask[top:bottom, left:right]
    return result
