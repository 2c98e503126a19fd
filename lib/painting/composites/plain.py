"""none: the whole window is new. paste: exactly the region is new."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from lib.core.geometry import IntBox
from lib.painting.canvas import region_mask
from lib.painting.composites import Composite
from lib.records.requests import Pass


class Whole(Composite):
    """none: the paint as it came, window and all."""

    VERSION: ClassVar[int] = 1

    def alpha(self, step: Pass, view: IntBox) -> np.ndarray:
        return np.ones((view[3] - view[1], view[2] - view[0]), dtype=np.float32)


class Paste(Composite):
    """paste: the paint inside the region, the picture's pixels elsewhere."""

    VERSION: ClassVar[int] = 1

    def alpha(self, step: Pass, view: IntBox) -> np.ndarray:
        return region_mask(step, view).astype(np.float32)
