"""poisson: the paint's gradients with the picture's colours at the rim (Pérez et al. 2003, Poisson image editing)."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from lib.core.registry import MemberSettings
from lib.painting.composites.plain import Paste

_RIM = 3  # pixels that OpenCV takes off a mask: there the picture's gradients stay


class Poisson(Paste):
    """Exactly the region, by OpenCV's seamlessClone, each connected part of it alone.

    It solves on a part's bounding rectangle. Where the part is not a rectangle the rest is put back, so that outside of
    it every pixel is the picture's; a faint seam may then be left. A part that is too thin to have a middle (under 7
    pixels) would vanish: it is pasted.
    """

    VERSION: ClassVar[int] = 1

    class Settings(MemberSettings):
        mode: Literal["normal", "mixed"] = Field(
            "normal", description="gradients: normal, the paint's; mixed, the stronger of the paint's and the picture's"
        )

    def mix(self, below: np.ndarray, paint: np.ndarray, alpha: np.ndarray) -> np.ndarray:
        import cv2

        # seamlessClone ignores a mask's outermost pixels, and its centre then shifts: give it a border everywhere.
        result, source = (cv2.copyMakeBorder(image, 1, 1, 1, 1, cv2.BORDER_REPLICATE) for image in (below, paint))
        count, parts, boxes, _ = cv2.connectedComponentsWithStats(np.pad(alpha > 0, 1).astype(np.uint8))
        for part in range(1, count):
            x, y, w, h = (int(side) for side in boxes[part, :4])
            here = np.s_[y - 1 : y + h + 1, x - 1 : x + w + 1]
            mask = parts[here] == part
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
