"""Boxes, windows and masks. The format stands in every name; arrays are (..., 4) float64 in pixels unless said.

Whole-pixel boxes are half open: xyxy = (2, 3, 5, 7) covers the pixels 2..4 × 3..6.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

IntBox = tuple[int, int, int, int]


def xywh_to_xyxy(boxes: np.ndarray) -> np.ndarray:
    """(..., 4) left, top, width, height → left, top, right, bottom."""
    boxes = np.asarray(boxes, dtype=np.float64)
    return np.concatenate([boxes[..., :2], boxes[..., :2] + boxes[..., 2:]], axis=-1)


def xyxy_to_xywh(boxes: np.ndarray) -> np.ndarray:
    """(..., 4) left, top, right, bottom → left, top, width, height."""
    boxes = np.asarray(boxes, dtype=np.float64)
    return np.concatenate([boxes[..., :2], boxes[..., 2:] - boxes[..., :2]], axis=-1)


def clip_xyxy(boxes: np.ndarray, width: float, height: float) -> np.ndarray:
    """(..., 4) xyxy cut to the frame [0, width] × [0, height]."""
    return np.clip(np.asarray(boxes, dtype=np.float64), 0, [width, height, width, height])


def area_xyxy(boxes: np.ndarray) -> np.ndarray:
    """(...,) areas, 0 for inverted boxes."""
    boxes = np.asarray(boxes, dtype=np.float64)
    return np.prod(np.clip(boxes[..., 2:] - boxes[..., :2], 0, None), axis=-1)


def covered_xyxy(box: Sequence[float], others: np.ndarray) -> np.ndarray:
    """(N,) share of each of the (N, 4) other boxes that `box` covers, 0 to 1; 0 for empty ones."""
    others = np.asarray(others, dtype=np.float64).reshape(-1, 4)
    corner = np.maximum(others[:, :2], np.asarray(box, dtype=np.float64)[:2])
    opposite = np.minimum(others[:, 2:], np.asarray(box, dtype=np.float64)[2:])
    areas = area_xyxy(others)
    shared = area_xyxy(np.concatenate([corner, opposite], axis=1))
    return np.divide(shared, areas, out=np.zeros_like(areas), where=areas > 0)


def most_covered(boxes: np.ndarray) -> np.ndarray:
    """(N,) the largest share of each of (N, 4) boxes that one of the others covers, 0 to 1."""
    areas = area_xyxy(boxes)
    shares = np.zeros(len(boxes))
    for i in range(len(boxes)):  # row by row: N² boxes at once would be gigabytes for a crowded picture
        shared = covered_xyxy(boxes[i], boxes) * areas
        shared[i] = 0
        shares[i] = shared.max() / areas[i] if areas[i] > 0 else 0
    return shares


def outer_pixels(xyxy: Sequence[float]) -> IntBox:
    """The smallest whole-pixel box that holds a float box."""
    x0, y0, x1, y1 = xyxy
    return math.floor(x0), math.floor(y0), math.ceil(x1), math.ceil(y1)


def window_around(box: IntBox, width: int, height: int, shape: tuple[int, int], context: float, least: int) -> IntBox:
    """A window of the shape's aspect around a whole-pixel box, as far inside the frame as it fits.

    Its longer side is context × the box's (each side against its own), at least `least` pixels where the frame allows.
    Where the frame is too small for the aspect the window reaches beyond it by equal parts; the picture's edge pixels
    are repeated there, so the frame is never squashed.

    Args: box xyxy pixels; width, height of the frame; shape (height, width) of the painter; context >= 1; least >= 1.
    """
    x0, y0, x1, y1 = box
    rows, columns = shape
    scale = max(context * (x1 - x0) / columns, context * (y1 - y0) / rows, least / max(columns, rows))
    whole = max(width / columns, height / rows)  # at this scale the window holds the whole frame
    tight = max((x1 - x0) / columns, (y1 - y0) / rows)
    scale = max(min(scale, whole), tight)
    wide, high = max(x1 - x0, round(columns * scale)), max(y1 - y0, round(rows * scale))
    left = _place((x0 + x1 - wide) // 2, wide, width)
    top = _place((y0 + y1 - high) // 2, high, height)
    return left, top, left + wide, top + high


def _place(start: int, length: int, frame: int) -> int:
    """Shift an interval into [0, frame]; centre it where it is longer than the frame."""
    if length >= frame:
        return -((length - frame) // 2)
    return min(max(start, 0), frame - length)


def to_window(boxes: np.ndarray, window: IntBox, shape: tuple[int, int]) -> np.ndarray:
    """(..., 4) xyxy in picture pixels → xyxy in the painter's pixels. `from_window` is its inverse."""
    offset, scale = _window_map(window, shape)
    return (np.asarray(boxes, dtype=np.float64) - offset) * scale


def from_window(boxes: np.ndarray, window: IntBox, shape: tuple[int, int]) -> np.ndarray:
    """(..., 4) xyxy in the painter's pixels → xyxy in picture pixels."""
    offset, scale = _window_map(window, shape)
    return np.asarray(boxes, dtype=np.float64) / scale + offset


def _window_map(window: IntBox, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    x0, y0, x1, y1 = window
    sx, sy = shape[1] / (x1 - x0), shape[0] / (y1 - y0)
    return np.array([x0, y0, x0, y0], dtype=np.float64), np.array([sx, sy, sx, sy])


def crop_window(picture: np.ndarray, window: IntBox) -> np.ndarray:
    """The (h, w, ...) pixels of a (H, W, ...) picture under a window, edge pixels repeated beyond the frame."""
    height, width = picture.shape[:2]
    x0, y0, x1, y1 = window
    inner = picture[max(y0, 0) : min(y1, height), max(x0, 0) : min(x1, width)]
    pad = ((max(-y0, 0), max(y1 - height, 0)), (max(-x0, 0), max(x1 - width, 0)))
    if not any(map(any, pad)):
        return inner
    return np.pad(inner, (*pad, *([(0, 0)] * (picture.ndim - 2))), mode="edge")


def rectangles_mask(rectangles: Sequence[IntBox], view: IntBox) -> np.ndarray:
    """bool (h, w) of a whole-pixel xyxy view: True inside any of the whole-pixel xyxy rectangles."""
    left, top, right, bottom = view
    mask = np.zeros((bottom - top, right - left), dtype=bool)
    for x0, y0, x1, y1 in rectangles:
        mask[max(y0 - top, 0) : max(y1 - top, 0), max(x0 - left, 0) : max(x1 - left, 0)] = True
    return mask


def polygon_area(polygons: Sequence[Sequence[float]]) -> float:
    """Area, pixels², of simple polygons that do not overlap (shoelace formula)."""
    total = 0.0
    for polygon in polygons:
        x, y = np.asarray(polygon[0::2]), np.asarray(polygon[1::2])
        total += abs(float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1)))) / 2
    return total


def box_polygon(xywh: Sequence[float]) -> tuple[float, ...]:
    """A box as a polygon, clockwise from its left top corner."""
    x, y, w, h = xywh
    return (x, y, x + w, y, x + w, y + h, x, y + h)


def map_polygons(
    polygons: Sequence[Sequence[float]], source: Sequence[float], target: Sequence[float]
) -> tuple[tuple[float, ...], ...]:
    """Polygons carried from box `source` to box `target` (both xyxy), rounded to 1/100 pixel."""
    sx = (target[2] - target[0]) / (source[2] - source[0])
    sy = (target[3] - target[1]) / (source[3] - source[1])
    return tuple(
        tuple(
            round(target[i % 2] + (value - source[i % 2]) * (sy if i % 2 else sx), 2) for i, value in enumerate(polygon)
        )
        for polygon in polygons
    )
