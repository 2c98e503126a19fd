"""feather: a Gaussian on the mask, so that the seam fades (CopyAndBlur of zero-shot latent inpainting)."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from pydantic import Field, field_validator

from lib.core.geometry import IntBox
from lib.core.registry import MemberSettings
from lib.painting.canvas import region_mask
from lib.painting.composites import Composite
from lib.records.requests import Pass


class Feather(Composite):
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

    def margin(self) -> int:
        return self.settings.enlarge + self.settings.kernel // 2

    def alpha(self, step: Pass, view: IntBox) -> np.ndarray:
        """The blurred mask; at the frame's border the region counts as going on."""
        import cv2

        side, kernel = 2 * self.settings.enlarge + 1, (self.settings.kernel, self.settings.kernel)
        mask = cv2.dilate(region_mask(step, view).astype(np.float32), np.ones((side, side), np.uint8))
        alpha = cv2.GaussianBlur(mask, kernel, self.settings.sigma, borderType=cv2.BORDER_REPLICATE)
        # Float noise far from the region must not count as reach.
        return np.where(alpha > 1e-4, np.clip(alpha, 0, 1), 0).astype(np.float32)
