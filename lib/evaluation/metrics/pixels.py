"""How far a picture is from its source: pure functions on uint8 (H, W, 3) RGB pictures of one size.

    mse(source, output), psnr(source, output)      # over all pixels, or where=mask: over chosen ones
    ssim(source, output, where=~mask)              # structure; a window of 11 × 11 pixels around each chosen one
    background_psnr(source, output, boxes_xyxy)    # dB well outside every box
    gdiff(source, output, mask, where="edge")      # how much the gradients changed at the seam
    psnr(*crop_to(mask, source, output))           # any metric of a region's own rectangle

A metric gives one float for one picture, never NaN, and raises ValueError where it has nothing to compare. A region is
never measured by blackening the rest of both pictures: what is black in both is equal, which flatters every score.
"""

from __future__ import annotations

import math
from typing import Literal, get_args

import numpy as np

from lib.core.geometry import outer_pixels, rectangles_mask

Part = Literal["edge", "inner", "outer", "full"]

WINDOW, SIGMA = 11, 1.5  # of SSIM's Gaussian window: pixels on a side, standard deviation in pixels
LUMINANCE, CONTRAST = (0.01 * 255) ** 2, (0.03 * 255) ** 2  # its constants C1 and C2, of K1 and K2


def mse(a: np.ndarray, b: np.ndarray, where: np.ndarray | None = None) -> float:
    """Mean squared error over pixels and channels: grey levels², 0 (equal pixels) to 255².

    where: bool (H, W), the pixels compared; none: all. Raises ValueError for pictures that are not uint8 (H, W, 3) of
    one size, a mask that is not bool of that size, and no pixels at all.
    """
    chosen = _chosen(a, b, where)
    return float(np.mean(np.square(np.subtract(a, b, dtype=np.float64)[chosen])))


def psnr(a: np.ndarray, b: np.ndarray, where: np.ndarray | None = None) -> float:
    """Peak signal-to-noise ratio, 10·log10(255² / MSE): decibels, 0 to inf (equal pixels).

    where: bool (H, W), the pixels compared; none: all. Raises ValueError as `mse` does.
    """
    error = mse(a, b, where)
    return 10 * math.log10(255**2 / error) if error else math.inf


def ssim(a: np.ndarray, b: np.ndarray, where: np.ndarray | None = None) -> float:
    """Structural similarity, −1 to 1 (equal pictures): the mean over pixels and channels of

    (2 μa μb + C1)(2 σab + C2) / ((μa² + μb² + C1)(σa² + σb² + C2)),

    means, variances and covariance under a Gaussian window of 11 × 11 pixels, sigma 1.5, C1 = (.01·255)² and C2 =
    (.03·255)² (Wang et al. 2004, doi 10.1109/TIP.2003.819861). The value of scikit-image with gaussian_weights=True,
    use_sample_covariance=False and channel_axis=2: each of R, G, B by itself, pixels within 5 of the frame left out,
    as no whole window fits around them.

    where: bool (H, W), the pixels averaged over; their windows see 5 pixels further. None: all. Raises ValueError as
    `mse` does, for pictures smaller than the window, and where all the chosen pixels lie within 5 of the frame.
    """
    chosen = _chosen(a, b, where)
    if min(chosen.shape) < WINDOW:
        raise ValueError(f"a picture of {chosen.shape} pixels: SSIM's window takes at least {WINDOW} each way")
    rim = WINDOW // 2
    inside = np.zeros_like(chosen)
    inside[rim:-rim, rim:-rim] = chosen[rim:-rim, rim:-rim]
    if not inside.any():
        raise ValueError(f"nothing to compare: every chosen pixel lies within {rim} of the frame, no window fits there")
    a, b, inside = crop_to(inside, a, b, inside, margin=rim)  # all that the windows see
    return float(np.mean([_ssim_map(a[..., i], b[..., i])[inside].mean() for i in range(3)]))


def crop_to(mask: np.ndarray, *pictures: np.ndarray, margin: int = 0) -> tuple[np.ndarray, ...]:
    """The (h, w, ...) parts of (H, W, ...) pictures under the mask's bounding rectangle, views in their order.

    mask: bool (H, W). margin: pixels more on each side, as far as the picture reaches. Raises ValueError for a mask
    that is not bool or has no pixels, sizes that differ and a negative margin.
    """
    if margin < 0:
        raise ValueError(f"margin={margin}: a number of pixels from 0 is expected")
    for picture in pictures:
        if picture.shape[:2] != mask.shape:
            raise ValueError(f"pictures of the mask's size {mask.shape} are expected: got {picture.shape}")
    _check_mask(mask)
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    down = slice(max(int(rows[0]) - margin, 0), int(rows[-1]) + 1 + margin)
    across = slice(max(int(columns[0]) - margin, 0), int(columns[-1]) + 1 + margin)
    return tuple(picture[down, across] for picture in pictures)


def background_psnr(source: np.ndarray, output: np.ndarray, boxes_xyxy: np.ndarray, margin: int = 16) -> float:
    """PSNR, decibels, over the pixels at least `margin` pixels outside every box, in rows and columns.

    boxes_xyxy: (N, 4) float pixels; a pixel that a box touches belongs to it. Raises ValueError as `psnr` does, and
    so where boxes leave no background.
    """
    return psnr(source, output, ~widened(boxes_xyxy, source.shape[:2], margin))


def widened(boxes_xyxy: np.ndarray, shape: tuple[int, ...], margin: int = 0) -> np.ndarray:
    """bool (H, W) = shape: within `margin` pixels of a box of (N, 4) float pixels, in rows and columns."""
    boxes = [outer_pixels(box) for box in np.asarray(boxes_xyxy, dtype=np.float64).reshape(-1, 4).tolist()]
    grown = [(x0 - margin, y0 - margin, x1 + margin, y1 + margin) for x0, y0, x1, y1 in boxes]
    height, width = shape
    return rectangles_mask(grown, (0, 0, width, height))


def gdiff(source: np.ndarray, output: np.ndarray, mask: np.ndarray, kernel: int = 5, where: Part = "edge") -> float:
    """Σ|g(output) − g(source)| / Σ g(source), g the gradient's magnitude on grey by 3×3 Sobel: 0 (equal) to inf.

    The seam metric of zero-shot latent inpainting. mask: bool (H, W), True = painted; where: "edge", the band that the
    mask dilated has over the mask eroded, both by a square of `kernel` pixels; "inner" and "outer", the parts of that
    band inside and outside of the mask; "full", the picture. The frame is not an edge. inf where a flat source got
    gradients. Raises ValueError as `mse` does, for an unknown `where`, an even kernel and a part without pixels (a mask
    of all or nothing has no edge).
    """
    if where not in get_args(Part):
        raise ValueError(f"where={where!r}: expected edge, inner, outer or full")
    if kernel < 1 or kernel % 2 == 0:
        raise ValueError(f"kernel={kernel}: an odd number of pixels is expected, such as 5")
    chosen = _chosen(source, output, None) if where == "full" else _band(mask, kernel, where)
    _chosen(source, output, chosen)
    before, after = _gradient(source)[chosen], _gradient(output)[chosen]
    changed, total = float(np.abs(after - before).sum()), float(before.sum())
    if total == 0:
        return math.inf if changed else 0.0
    return changed / total


def _ssim_map(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(H, W) uint8 channels → float64 SSIM around each pixel; not to be read where the window leaves the channel."""
    import cv2

    def mean(values: np.ndarray) -> np.ndarray:
        return np.asarray(cv2.GaussianBlur(values, (WINDOW, WINDOW), SIGMA))

    a, b = a.astype(np.float64), b.astype(np.float64)
    mean_a, mean_b = mean(a), mean(b)
    spread_a, spread_b = mean(a * a) - mean_a**2, mean(b * b) - mean_b**2
    together = mean(a * b) - mean_a * mean_b
    light = (2 * mean_a * mean_b + LUMINANCE) / (mean_a**2 + mean_b**2 + LUMINANCE)
    structure = (2 * together + CONTRAST) / (spread_a + spread_b + CONTRAST)
    return light * structure


def _band(mask: np.ndarray, kernel: int, where: str) -> np.ndarray:
    """bool (H, W): the mask's edge, or its inner or outer part."""
    import cv2

    _check_mask(mask)
    square, painted = np.ones((kernel, kernel), np.uint8), mask.astype(np.uint8)
    outer, inner = cv2.dilate(painted, square) > painted, cv2.erode(painted, square) < painted
    band = {"outer": outer, "inner": inner, "edge": outer | inner}[where]
    if not band.any():
        raise ValueError(
            f"nothing to compare: a mask of {mask.sum()} of {mask.size} pixels has no {where} band at kernel={kernel}"
        )
    return band


def _gradient(picture: np.ndarray) -> np.ndarray:
    """(H, W) float64: the magnitude of the grey picture's gradient, four times grey levels per pixel each way."""
    import cv2

    grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY).astype(np.float64)
    return np.hypot(cv2.Sobel(grey, cv2.CV_64F, 1, 0, ksize=3), cv2.Sobel(grey, cv2.CV_64F, 0, 1, ksize=3))


def _chosen(a: np.ndarray, b: np.ndarray, where: np.ndarray | None) -> np.ndarray:
    """bool (H, W): the pixels compared, all types and sizes checked."""
    for picture in (a, b):
        if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
            raise ValueError(f"uint8 (H, W, 3) pictures are expected: got {picture.dtype} {picture.shape}")
    if a.shape != b.shape:
        raise ValueError(f"pictures of one size are expected: got {a.shape} and {b.shape}")
    chosen = np.ones(a.shape[:2], dtype=bool) if where is None else where
    if chosen.shape != a.shape[:2]:
        raise ValueError(f"a mask of the pictures' size {a.shape[:2]} is expected: got {chosen.shape}")
    _check_mask(chosen)
    return chosen


def _check_mask(mask: np.ndarray) -> None:
    if mask.dtype != bool:  # 0 and 255 would choose the rows 0 and 255
        raise ValueError(f"a bool mask is expected: got {mask.dtype}")
    if not mask.any():
        raise ValueError("nothing to compare: no pixel is chosen")
