"""Boxes, windows and masks. The format stands in every name; arrays are (..., 4) float64 in pixels unless noted.

Whole-pixel boxes are half open: xyxy = (2, 3, 5, 7) covers the pixels 2..4 × 3..6.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

IntBox = tuple[int, int, int, int]
Polygons = tuple[tuple[float, ...], ...]  # each x, y, x, y, ... pixels

# How a judge is shown a box.
CONTEXT = 0.15  # share of the box's longer side that is shown around it
MIN_SIDE = 8  # pixels: in a box with a shorter side nothing can be recognised


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


def most_shared(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """(N,) the largest share, 0 to 1, of each of (N, 4) boxes that lies in one of (M, 4) others, or of one in it."""
    if not len(others):
        return np.zeros(len(boxes))
    low = np.maximum(boxes[:, None, :2], others[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], others[None, :, 2:])
    shared = area_xyxy(np.concatenate([low, high], axis=2))
    smaller = np.minimum(area_xyxy(boxes)[:, None], area_xyxy(others)[None])
    shares: np.ndarray = np.divide(shared, smaller, out=np.zeros_like(shared), where=smaller > 0)
    return shares.max(axis=1)


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


def padded(xyxy: Sequence[float], width: int, height: int, padding: float) -> IntBox:
    """A float box grown by a share of the frame's width and height, half on each side, as whole pixels in the frame.

    Centre and size are cut to whole pixels as the object replacement system does (1920×1280 with YOLO .494337
    .541262 .745955 .684466 and padding .03 gives centre 949, 692 and size 1489×914); the box itself is always held.
    """
    x0, y0, x1, y1 = outer_pixels(xyxy)
    if padding > 0:
        left, top, right, bottom = xyxy
        wide, high = int(right - left + padding * width), int(bottom - top + padding * height)
        from_left, from_top = int((left + right) / 2) - wide // 2, int((top + bottom) / 2) - high // 2
        x0, y0 = min(x0, from_left), min(y0, from_top)
        x1, y1 = max(x1, from_left + wide), max(y1, from_top + high)
    return max(x0, 0), max(y0, 0), min(x1, width), min(y1, height)


def window_around(box: IntBox, width: int, height: int, shape: tuple[int, int], context: float, least: int) -> IntBox:
    """A window of the shape's aspect around a whole-pixel box, as far inside the frame as it fits.

    Its longer side is context × the box's (each side against its own), at least `least` pixels where the frame allows.
    Where the frame is too small for the aspect the window reaches beyond it by equal parts; the picture's edge pixels
    are repeated outside, so the frame is never squashed.

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


def polygons_extent(polygons: Sequence[Sequence[float]]) -> tuple[float, float, float, float]:
    """The smallest xyxy box around polygons; ValueError for none."""
    x, y = np.concatenate([p[0::2] for p in polygons]), np.concatenate([p[1::2] for p in polygons])
    return float(x.min()), float(y.min()), float(x.max()), float(y.max())


def fills_box(polygon: Sequence[float], xyxy: Sequence[float]) -> bool:
    """Whether a polygon is just its box: every point lies within a pixel of a corner, and every corner has a point near
    it. Annotators round boxes, not outlines."""
    x0, y0, x1, y1 = xyxy
    points, corners = np.reshape(polygon, (-1, 2)), np.array([(x0, y0), (x1, y0), (x0, y1), (x1, y1)])
    near = (np.abs(points[:, None] - corners) <= 1).all(axis=2)  # (points, 4)
    return bool(near.any(axis=1).all() and near.any(axis=0).all())


def outlines(mask: np.ndarray) -> list[np.ndarray]:
    """int64 (N, 2) x, y corners of each piece of a (H, W) mask, along its pixels' edges as COCO's polygons run.

    Each encloses the area of the piece and its holes. Pixels that touch at a corner are one piece.
    """
    import cv2

    # OpenCV's outlines run through pixel centres. At twice the size a pixel's outline and its edge are half a small
    # pixel apart on each side, which the rounding to whole pixels takes back.
    double = np.pad(mask.astype(np.uint8), 1).repeat(2, axis=0).repeat(2, axis=1)
    found, _ = cv2.findContours(double, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    return [_corners((line[:, 0].astype(np.int64) + 1) // 2 - 1) for line in found]


def _corners(points: np.ndarray) -> np.ndarray:
    """(N, 2) points of a closed line without those in the middle of a straight piece."""
    points = points[(points != np.roll(points, 1, axis=0)).any(axis=1)]
    before, after = points - np.roll(points, 1, axis=0), np.roll(points, -1, axis=0) - points
    turns = before[:, 0] * after[:, 1] != before[:, 1] * after[:, 0]
    return points[turns]


@dataclass(frozen=True)
class Cells:
    """A shape as cells of a grid whose lines need not be evenly spaced: a box exactly, or the pixels of a mask."""

    xs: np.ndarray  # (W + 1,) float64 ascending, pixels of the picture; whole numbers but for the first and the last
    ys: np.ndarray  # (H + 1,)
    taken: np.ndarray  # (H, W) bool: the cells of the shape

    @classmethod
    def of_box(cls, xywh: Sequence[float], cuts: Sequence[IntBox] = ()) -> Cells:
        """A box; its grid has a line wherever one of the whole-pixel xyxy cuts has an edge in it."""
        x, y, w, h = xywh
        edges = np.array(cuts, dtype=np.float64).reshape(-1, 4)
        xs, ys = _lines(x, x + w, edges[:, 0::2]), _lines(y, y + h, edges[:, 1::2])
        return cls(xs, ys, np.ones((len(ys) - 1, len(xs) - 1), dtype=bool))

    @classmethod
    def of_mask(cls, mask: np.ndarray) -> Cells:
        """The pixels of a (H, W) bool mask of a whole picture; the grid reaches as far as they do."""
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        if not len(rows):
            return cls(np.zeros(1), np.zeros(1), np.zeros((0, 0), dtype=bool))
        top, bottom, left, right = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
        xs, ys = np.arange(left, right + 1, dtype=np.float64), np.arange(top, bottom + 1, dtype=np.float64)
        return cls(xs, ys, mask[top:bottom, left:right])

    @property
    def area(self) -> float:
        """Pixels². Rounded once, so that the order of the sum, which machines choose, does not matter."""
        return math.fsum(np.outer(np.diff(self.ys), np.diff(self.xs))[self.taken].tolist())

    @property
    def extent(self) -> tuple[float, float, float, float]:
        """The smallest xyxy box around the cells; IndexError where none is taken."""
        rows, columns = np.flatnonzero(self.taken.any(axis=1)), np.flatnonzero(self.taken.any(axis=0))
        x0, x1 = self.xs[columns[0]], self.xs[columns[-1] + 1]
        return float(x0), float(self.ys[rows[0]]), float(x1), float(self.ys[rows[-1] + 1])

    def without(self, cuts: Sequence[IntBox]) -> Cells:
        """What the whole-pixel xyxy cuts leave; a box's cells must know them already (`of_box`)."""
        taken = self.taken.copy()
        for x0, y0, x1, y1 in cuts:
            left, right = np.searchsorted(self.xs, np.clip([x0, x1], self.xs[0], self.xs[-1]))
            top, bottom = np.searchsorted(self.ys, np.clip([y0, y1], self.ys[0], self.ys[-1]))
            taken[top:bottom, left:right] = False
        return Cells(self.xs, self.ys, taken)

    def without_mask(self, mask: np.ndarray) -> Cells:
        """What a (H, W) bool mask of the whole picture leaves of a mask's cells (`of_mask`)."""
        rows, columns = self.ys[:-1].astype(np.int64), self.xs[:-1].astype(np.int64)
        return Cells(self.xs, self.ys, self.taken & ~mask[np.ix_(rows, columns)])

    def polygons(self) -> Polygons | None:
        """The outlines of the pieces, in pixels; None where one has a hole, which COCO's polygons cannot express."""
        pieces = outlines(self.taken)
        if polygon_area([piece.ravel().tolist() for piece in pieces]) != self.taken.sum():
            return None
        lines = (np.stack([self.xs[piece[:, 0]], self.ys[piece[:, 1]]], axis=1) for piece in pieces)
        return tuple(tuple(line.ravel().tolist()) for line in lines)

    def pixels(self, size: tuple[int, int]) -> np.ndarray:
        """bool (H, W) of a picture of size (height, width): every pixel that a cell touches."""
        ys, xs = _whole(self.ys, size[0]), _whole(self.xs, size[1])
        mask = np.zeros(size, dtype=bool)
        block = self.taken.repeat(np.diff(ys), axis=0).repeat(np.diff(xs), axis=1)
        mask[ys[0] : ys[-1], xs[0] : xs[-1]] = block
        return mask


def _lines(low: float, high: float, edges: np.ndarray) -> np.ndarray:
    """Grid lines of an interval: its ends and the edges in it, ascending; a single one for an empty one."""
    return np.unique(np.clip([low, high, *edges.ravel()], low, high))  # all of them `high` where that is below `low`


def _whole(lines: np.ndarray, length: int) -> np.ndarray:
    """Grid lines as int64, the first and the last moved outwards, and all of them into [0, length]."""
    outwards = np.concatenate([np.floor(lines[:1]), lines[1:-1], np.ceil(lines[-1:])])
    return np.clip(outwards, 0, length).astype(np.int64)


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
