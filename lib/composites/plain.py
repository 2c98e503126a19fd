"""none: the whole window is new. paste: exactly the region is new."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from lib.geometry import IntBox, rectangles_mask
from lib.registry import MemberSettings
from lib.requests import Pass


class _Plain:
    VERSION: ClassVar[int] = 1

    class Settings(MemberSettings):
        pass

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    def margin(self) -> int:
        return 0


class Whole(_Plain):
    """none: the paint as it came, window and all."""

    def alpha(self, spec: Pass, view: IntBox) -> np.ndarray:
        return np.ones((view[3] - view[1], view[2] - view[0]), dtype=np.float32)


class Paste(_Plain):
    """paste: the paint inside the region, the picture's own pixels elsewhere."""

    def alpha(self, spec: Pass, view: IntBox) -> np.ndarray:
        return rectangles_mask(spec.region, view).astype(np.float32)
