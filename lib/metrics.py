"""How far a picture is from its source: pure functions on uint8 (H, W, 3) RGB pictures of one size.

    psnr(source, output, where=~mask)              # dB over chosen pixels
    background_psnr(source, output, boxes_xyxy)    # dB well outside every box
    gdiff(source, output, mask, where="edge")      # how much the gradients changed at the seam

A metric gives one float for one picture, and raises ValueError where it has nothing to compare.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np

from lib.geometry import outer_pixels, rectangles_mask

Part = Literal["edge", "inner", "full"]


def psnr(a: np.ndarray, b: np.ndarray, where: np.ndarray | None = None) -> float:
    """Peak signal-to-noise ratio, 10·log10(255² / MSE): decibels, 0 to inf (equal pixels).

    where: bool (H, W), the pixels compared; none: all. Raises ValueError for sizes that differ and no pixels at all.
    """
    chosen = _chosen(a, b, where)
    error = float(np.mean(np.square(np.subtract(a, b, dtype=np.float64)[chosen])))
    return 10 * math.log10(255**2 / error) if error else math.inf


def background_psnr(source: np.ndarray, output: np.ndarray, boxes_xyxy: np.ndarray, margin: int = 16) -> float:
    """PSNR, decibels, over the pixels at least `margin` pixels outside every box, in rows and columns.

    boxes_xyxy: (N, 4) float pixels; a pixel that a box touches belongs to it. Raises ValueError as `psnr` does, which
    is what boxes that leave no background come to.
    """
    boxes = [outer_pixels(box) for box in np.asarray(boxes_xyxy, dtype=np.float64).reshape(-1, 4).tolist()]
    grown = [(x0 - margin, y0 - margin, x1 + margin, y1 + margin) for x0, y0, x1, y1 in boxes]
    height, width = source.shape[:2]
    return psnr(source, output, ~rectangles_mask(grown, (0, 0, width, height)))


def gdiff(source: np.ndarray, output: np.ndarray, mask: np.ndarray, kernel: int = 5, where: Part = "edge") -> float:
    """Σ|g(output) − g(source)| / Σ g(source), g the gradient's magnitude on grey by 3×3 Sobel: 0 (equal) to inf.

    The seam metric of zero-shot latent inpainting. mask: bool (H, W), True = painted; where: "edge", the band that the
    mask dilated has over the mask eroded, both by a square of `kernel` pixels; "inner", the mask; "full", the picture.
    inf where a flat source got gradients. Raises ValueError for sizes that differ, an unknown `where`, an even kernel
    and a part without pixels (a mask of all or nothing has no edge).
    """
    import cv2

    if where not in ("edge", "inner", "full"):
        raise ValueError(f"where={where!r}: expected edge, inner or full")
    if kernel < 1 or kernel % 2 == 0:
        raise ValueError(f"kernel={kernel}: an odd number of pixels is expected, such as 5")
    part = np.ones(mask.shape, dtype=bool) if where == "full" else mask
    if where == "edge":
        square, painted = np.ones((kernel, kernel), np.uint8), mask.astype(np.uint8)
        part = cv2.dilate(painted, square) != cv2.erode(painted, square)
    chosen = _chosen(source, output, part)
    before, after = _gradient(source)[chosen], _gradient(output)[chosen]
    changed, there = float(np.abs(after - before).sum()), float(before.sum())
    if there == 0:
        return math.inf if changed else 0.0
    return changed / there


def _gradient(picture: np.ndarray) -> np.ndarray:
    """(H, W) float64: the magnitude of the grey picture's gradient, four times grey levels per pixel each way."""
    import cv2

    grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY).astype(np.float64)
    return np.hypot(cv2.Sobel(grey, cv2.CV_64F, 1, 0, ksize=3), cv2.Sobel(grey, cv2.CV_64F, 0, 1, ksize=3))


def _chosen(a: np.ndarray, b: np.ndarray, where: np.ndarray | None) -> np.ndarray:
    """bool (H, W): the pixels compared, all sizes checked."""
    if a.shape != b.shape:
        raise ValueError(f"pictures of one size are expected: got {a.shape} and {b.shape}")
    chosen = np.ones(a.shape[:2], dtype=bool) if where is None else where
    if chosen.shape != a.shape[:2]:
        raise ValueError(f"a mask of the pictures' size {a.shape[:2]} is expected: got {chosen.shape}")
    if not chosen.any():
        raise ValueError("nothing to compare: no pixel is chosen")
    return chosen
