"""copy-paste: a real object of the same category, cut from any train picture, scaled to the box. Needs no model.

The free baseline (Ghiasi et al. 2021, arXiv 2012.07177) and the painter of the first run. The donor fills the box
exactly, so the label is exact; plan only offers donors whose size and aspect come close.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from lib.core.registry import MemberSettings
from lib.painting.painters import Paint, PassInput

if TYPE_CHECKING:
    import numpy as np


class CopyPaste:
    """Scales the donor's crop onto the pass's box; beside the donor the canvas stays as it is."""

    VERSION: ClassVar[int] = 1
    EDITS: ClassVar[frozenset[str]] = frozenset({"replace", "insert"})
    MODEL: ClassVar[str | None] = None
    LICENCE: ClassVar[str] = "none needed"
    MAX_BOXES: ClassVar[int | None] = 1
    HAS_DECODER: ClassVar[bool] = False
    READS_PHRASES: ClassVar[bool] = False
    NEEDS_DONOR: ClassVar[bool] = True

    class Settings(MemberSettings):
        flip: bool = Field(True, description="mirror about every second donor")
        tone: float = Field(0.5, ge=0, le=1, description="how far the donor's brightness moves to its new place's")
        max_upscale: float = Field(2.0, gt=0, description="donors that would grow more are not offered")
        max_stretch: float = Field(1.5, ge=1, description="donors whose aspect would change more are not offered")

    def __init__(self, settings: Settings, model: Any = None) -> None:
        self.settings = settings

    batch_size = 1

    def check(self) -> None:
        """Nothing to check."""

    @staticmethod
    def shape(settings: Settings, width: int, height: int) -> tuple[int, int]:
        """The window's own size: nothing is resampled but the donor."""
        return height, width

    @staticmethod
    def fits(settings: Settings, width: float, height: float, donors_wh: np.ndarray) -> np.ndarray:
        """(N,) bool: which of the (N, 2) donor sizes, pixels, may fill a box of width × height pixels."""
        import numpy as np

        grow = np.array([width, height]) / donors_wh
        stretch = grow.max(axis=1) / grow.min(axis=1)
        return (grow.max(axis=1) <= settings.max_upscale) & (stretch <= settings.max_stretch)

    def paint(self, batch: Sequence[PassInput]) -> list[Paint]:
        """Paste each pass's donor. Raises ValueError for a pass without one, or with more than one box."""
        return [Paint(self._paste(item)) for item in batch]

    def _paste(self, item: PassInput) -> np.ndarray:
        import cv2
        import numpy as np

        from lib.core.geometry import to_window

        if item.donor is None:
            raise ValueError("copy-paste got a pass without a donor: plan chooses one per pass")
        if len(item.step.boxes) > 1:
            raise ValueError(f"copy-paste fills one box a pass, and got {len(item.step.boxes)}")
        (x0, y0, x1, y1), donor = item.step.region[0], item.donor
        left, top, right, bottom = to_window(np.array([x0, y0, x1, y1]), item.step.window, item.step.shape).astype(int)
        if item.step.donor is not None and item.step.donor.flip:
            donor = donor[:, ::-1]
        size = (int(right - left), int(bottom - top))
        shrinking = size[0] * size[1] < donor.shape[0] * donor.shape[1]
        scaled = cv2.resize(donor, size, interpolation=cv2.INTER_AREA if shrinking else cv2.INTER_CUBIC)
        result = item.canvas.copy()
        place = result[top:bottom, left:right]
        result[top:bottom, left:right] = self._toned(scaled, place)
        return result

    def _toned(self, donor: np.ndarray, place: np.ndarray) -> np.ndarray:
        """Shift the donor's mean brightness part of the way to that of the place it covers."""
        import numpy as np

        shift = self.settings.tone * (float(place.mean()) - float(donor.mean()))
        return np.clip(np.rint(donor.astype(np.float32) + shift), 0, 255).astype(np.uint8)
