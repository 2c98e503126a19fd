"""feather: a Gaussian on the mask, so that the seam fades (S1's copy-and-blur: kernel 13, sigma 10)."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from pydantic import Field, field_validator

from lib.geometry import IntBox, rectangles_mask
from lib.registry import MemberSettings
from lib.requests import Pass


class Feather:
    """The region, enlarged a little so that its rim is covered, blurred."""

    VERSION: ClassVar[int] = 1

    class Settings(MemberSettings):
        kernel: int = Field(13, ge=1, description="side of the Gaussian, pixels, odd")
        sigma: float = Field(10, gt=0, description="standard deviation of the Gaussian, pixels")
        enlarge: int = Field(3, ge=0, description="pixels by which the region grows before it is blurred")

        @field_validator("kernel")
        @classmethod
        def _odd(cls, value: int) -> int:
            if value % 2 == 0:
                raise ValueError("an odd number is expected, such as 13")
            return value

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    def margin(self) -> int:
        return self.settings.enlarge + self.settings.kernel // 2

    def alpha(self, spec: Pass, view: IntBox) -> np.ndarray:
        """The blurred mask; at the frame's border the region counts as going on."""
        import cv2

        grow = self.settings.enlarge
        grown = [(x0 - grow, y0 - grow, x1 + grow, y1 + grow) for x0, y0, x1, y1 in spec.region]
        mask = rectangles_mask(grown, view)
        kernel = (self.settings.kernel, self.settings.kernel)
        alpha = cv2.GaussianBlur(mask.astype(np.float32), kernel, self.settings.sigma, borderType=cv2.BORDER_REPLICATE)
        # Float noise far from the region must not count as reach.
        return np.where(alpha > 1e-4, np.clip(alpha, 0, 1), 0).astype(np.float32)
