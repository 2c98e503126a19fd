"""poisson: the paint's gradients with the picture's colours at the rim (Pérez et al. 2003, Poisson image editing)."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from lib.core.registry import MemberSettings
from lib.painting.composites.plain import Paste

_RIM = 3  # pixels that OpenCV takes off a mask: there the picture's gradients stay
_LEVELS, _NEARLY_ALL, _FAR = 16, 0.9, 8  # of a binary picture: bins of grey, share of two of them, bins between them
_TEXTURE = 6.0  # grey levels: least spread of a rim that can hide a seam
_LIGHT, _SPREAD = 0.25, 0.4  # by so much of its spread the rims may differ in brightness, and in spread


class Poisson(Paste):
    """Exactly the region, by OpenCV's seamlessClone, each connected part of it alone.

    It solves on a part's bounding rectangle. Where the part is not a rectangle the rest is put back, so that outside of
    it every pixel is the picture's; a faint seam may then be left. A part that is too thin to have a middle (under 7
    pixels) would vanish: it is pasted.

    Cloning bends what it joins: on a picture of two grey levels it makes others, and it smears a texture inwards from
    the rim. So a part is pasted too where the picture is binary, and where a texture hides the seam: where the rims on
    both sides of it differ in brightness by little of the picture's own spread there, and are of about the same spread.
    """

    VERSION: ClassVar[int] = 2

    class Settings(MemberSettings):
        mode: Literal["normal", "mixed"] = Field(
            "normal", description="gradients: normal, the paint's; mixed, the stronger of the paint's and the picture's"
        )

    def mix(self, below: np.ndarray, paint: np.ndarray, alpha: np.ndarray) -> np.ndarray:
        import cv2

        if _is_binary(below) and _is_binary(paint):
            return paint
        # seamlessClone ignores a mask's outermost pixels, and its centre then shifts: give it a border everywhere.
        result, source = (cv2.copyMakeBorder(image, 1, 1, 1, 1, cv2.BORDER_REPLICATE) for image in (below, paint))
        count, parts, boxes, _ = cv2.connectedComponentsWithStats(np.pad(alpha > 0, 1).astype(np.uint8))
        for part in range(1, count):
            x, y, w, h = (int(side) for side in boxes[part, :4])
            here = np.s_[y - 1 : y + h + 1, x - 1 : x + w + 1]
            mask = parts[here] == part
            near = np.s_[max(y - _RIM, 0) : y + h + _RIM, max(x - _RIM, 0) : x + w + _RIM]
            if _hides_seam(source[near], result[near], parts[near] == part):
                result[here] = np.where(mask[..., None], source[here], result[here])
                continue
            result[here] = np.where(mask[..., None], self._clone(source[here], result[here], mask), result[here])
        return result[1:-1, 1:-1]

    def _clone(self, paint: np.ndarray, below: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """uint8 (h, w, 3): one part of the region, whose mask leaves a border of one pixel, cloned."""
        import cv2

        white, side = mask.astype(np.uint8) * 255, 2 * _RIM + 1
        if not cv2.erode(white, np.ones((side, side), np.uint8)).any():
            return paint
        centre = mask.shape[1] // 2, mask.shape[0] // 2  # of the mask's bounding rectangle, as OpenCV rounds it
        flag = cv2.NORMAL_CLONE if self.settings.mode == "normal" else cv2.MIXED_CLONE
        cloned: np.ndarray = cv2.seamlessClone(paint, below, white, centre, flag)
        return cloned


def _is_binary(image: np.ndarray) -> bool:
    """Do two grey levels that are far apart hold nearly all pixels (h, w, 3)?"""
    shares = np.bincount(image[..., 1].ravel() // (256 // _LEVELS), minlength=_LEVELS) / max(image[..., 1].size, 1)
    low, high = sorted(np.argsort(shares, kind="stable")[-2:].tolist())
    return bool(shares[low] + shares[high] >= _NEARLY_ALL and high - low >= _FAR and shares[[low, high]].min() > 0)


def _hides_seam(paint: np.ndarray, below: np.ndarray, part: np.ndarray) -> bool:
    """Does the texture along the seam of a part (h, w) of the region hide it? paint, below: uint8 (h, w, 3), with a rim
    of _RIM around the part."""
    import cv2

    side = np.ones((2 * _RIM + 1, 2 * _RIM + 1), np.uint8)
    mask = part.astype(np.uint8)
    outside, inside = (cv2.dilate(mask, side) > mask), (mask > cv2.erode(mask, side))
    if not outside.any() or not inside.any():
        return False
    around, rim = below[outside].mean(axis=1), paint[inside].mean(axis=1)
    spread = float(around.std())
    alike = abs(float(rim.mean()) - float(around.mean())) <= _LIGHT * spread
    return spread >= _TEXTURE and alike and abs(float(rim.std()) - spread) <= _SPREAD * spread
