"""copy-paste: a real object of the same category, cut from any train picture, scaled to the box. Needs no model.

The free baseline (Ghiasi et al. 2021, arXiv 2012.07177) and the painter of the first run. The donor's box fills the
box exactly, so the label is exact; plan only offers donors whose size and aspect come close. In a free place the object
alone is pasted, softly along the outline that plan gives it; over an old object, of which nothing may be left, and
where no outline is sure, the whole box.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from lib.core.keys import hash_draw
from lib.core.registry import MemberSettings
from lib.painting.painters import Paint, PassInput

if TYPE_CHECKING:
    import numpy as np

    from lib.core.geometry import IntBox

_RIM = 0.15  # width of what surrounds a box, as a share of its longer side
_GAMMA = 0.25, 4.0  # a tone moves no further: beyond, noise and banding show


class CopyPaste:
    """Scales the donor onto the pass's box; beside the donor the canvas stays as it is."""

    VERSION: ClassVar[int] = 2
    EDITS: ClassVar[frozenset[str]] = frozenset({"replace", "insert"})
    MODEL: ClassVar[str | None] = None
    LICENCE: ClassVar[str] = "none needed"
    MAX_BOXES: ClassVar[int | None] = 1
    HAS_DECODER: ClassVar[bool] = False
    READS_PHRASES: ClassVar[bool] = False
    NEEDS_DONOR: ClassVar[bool] = True

    class Settings(MemberSettings):
        flip: bool = Field(True, description="mirror about every second donor")
        cut: bool = Field(
            True, description="in free places paste the object alone, along its mask or a sure outline; no: its box"
        )
        tone: float = Field(
            0.5, ge=0, le=1, description="how far the donor's brightness moves to its new place's; black stays black"
        )
        max_upscale: float = Field(2.0, gt=0, description="donors that would grow more are not offered")
        max_stretch: float = Field(1.5, ge=1, description="donors whose aspect would change more are not offered")
        hue: float = Field(
            0, ge=0, le=180, description="largest turn of a donor's hue, degrees: for objects that come in any paint"
        )

        @model_serializer(mode="wrap")
        def _plain(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
            """Without `hue` where it does nothing: results of versions that had no such setting stay."""
            return {name: value for name, value in dump(self).items() if name != "hue" or value}

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

    @staticmethod
    def within(settings: Settings, width: float, height: float, donors_wh: np.ndarray) -> np.ndarray:
        """(N, 2) the largest size, pixels, of each donor in a free place of width × height, its aspect kept."""
        import numpy as np

        grow = np.minimum((np.array([width, height]) / donors_wh).min(axis=1), settings.max_upscale)
        return np.asarray(donors_wh * grow[:, None])

    def paint(self, batch: Sequence[PassInput]) -> list[Paint]:
        """Paste each pass's donor. Raises ValueError for a pass without one, or with more than one box."""
        return [self._paste(item) for item in batch]

    def _paste(self, item: PassInput) -> Paint:
        import cv2
        import numpy as np

        step, donor = item.step, item.step.donor
        if item.donor is None or donor is None:
            raise ValueError("copy-paste got a pass without a donor: plan chooses one per pass")
        if len(step.boxes) > 1:
            raise ValueError(f"copy-paste fills one box a pass, and got {len(step.boxes)}")
        x0, y0, x1, y1 = donor.box
        pixels, mask = item.donor[y0:y1, x0:x1], None
        if donor.outline is not None:
            mask = polygons_mask(donor.outline, donor.box)
        if donor.flip:
            pixels, mask = pixels[:, ::-1], None if mask is None else mask[:, ::-1]
        left, top, right, bottom = _place(step.region[0], step.window, step.shape)
        size = (right - left, bottom - top)
        shrinking = size[0] * size[1] < pixels.shape[0] * pixels.shape[1]
        way = cv2.INTER_AREA if shrinking else cv2.INTER_CUBIC
        scaled = cv2.resize(pixels, size, interpolation=way)
        if self.settings.hue:
            scaled = turned(scaled, self.settings.hue * (hash_draw("hue", step.seed) / 2**62 - 1))
        place = np.s_[top:bottom, left:right]
        alpha = None if mask is None else _soft(mask, size)
        result = item.canvas.copy()
        if donor.around:
            lights = _light_around(item.donor, donor.box), _light_around(result, (left, top, right, bottom))
            result[place] = brightened(scaled, *lights, self.settings.tone)
        else:
            result[place] = toned(scaled, result[place], None if alpha is None else alpha < 0.5, self.settings.tone)
        if alpha is None:
            return Paint(result)
        shares = np.zeros(step.shape, np.uint8)
        shares[place] = np.rint(alpha * 255)
        return Paint(result, alpha=shares)


def _place(region: IntBox, window: IntBox, shape: tuple[int, int]) -> IntBox:
    """The region, xyxy, in the painter's pixels."""
    import numpy as np

    from lib.core.geometry import to_window

    left, top, right, bottom = to_window(np.array(region), window, shape).astype(int).tolist()
    return left, top, right, bottom


def polygons_mask(polygons: tuple[tuple[float, ...], ...], box: IntBox) -> np.ndarray:
    """float32 (h, w), 0 to 1: the share of each pixel of `box` (xyxy) that polygons (x, y, x, y, …, pixels) cover."""
    import cv2
    import numpy as np

    x0, y0, x1, y1 = box
    finer = 4 if max(x1 - x0, y1 - y0) <= 1024 else 1  # drawn so many times larger: OpenCV's own smooth edge spreads
    mask = np.zeros(((y1 - y0) * finer, (x1 - x0) * finer), np.uint8)
    for polygon in polygons:
        corners = (np.reshape(polygon, (-1, 2)) - (x0, y0)) * finer - 0.5  # OpenCV's pixels have their centres at 0
        cv2.fillPoly(mask, [np.rint(corners).astype(np.int32)], 1)
    return cv2.resize(mask.astype(np.float32), (x1 - x0, y1 - y0), interpolation=cv2.INTER_AREA)


def _soft(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """float32 (height, width): a mask (h, w), 0 to 1, at (width, height) = size with a rim of about two pixels."""
    import cv2
    import numpy as np

    from lib.painting.canvas import resized

    scaled = resized(np.ascontiguousarray(mask), size[::-1])
    return np.clip(cv2.GaussianBlur(scaled, (3, 3), 0.8), 0, 1)


def turned(picture: np.ndarray, degrees: float) -> np.ndarray:
    """uint8 (h, w, 3): the hue of every pixel turned, its lightness kept; grey stays grey.

    A rotation about the grey axis in the a-b plane of CIELAB, which also keeps how colourful a pixel is.
    """
    import cv2
    import numpy as np

    lab = cv2.cvtColor(picture.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
    cosine, sine = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    lab[..., 1:] = lab[..., 1:] @ np.array([[cosine, sine], [-sine, cosine]], np.float32)
    return np.rint(255 * np.clip(cv2.cvtColor(lab, cv2.COLOR_LAB2RGB), 0, 1)).astype(np.uint8)


def toned(donor: np.ndarray, place: np.ndarray, around: np.ndarray | None, tone: float) -> np.ndarray:
    """uint8 (h, w, 3): the donor, its brightness moved by the share `tone` towards that of its new place.

    A gamma curve, the same for the three channels, so that black stays black and white white: a shift would turn what
    is both into grey.

    Args:
        donor, place: uint8 (h, w, 3).
        around: bool (h, w), which pixels of the donor are not the object: there both lights are compared; None: on all.
    """
    if around is not None and around.sum() < 16:
        return donor
    old, new = (float(image.mean() if around is None else image[around].mean()) for image in (donor, place))
    return brightened(donor, old, new, tone)


def brightened(donor: np.ndarray, old: float, new: float, tone: float) -> np.ndarray:
    """uint8 (h, w, 3): the donor as `toned` has it, from a brightness `old` towards `new`, grey levels."""
    import numpy as np

    aim = old + tone * (new - old)
    if min(old, aim) < 1 or max(old, aim) > 254:
        return donor
    gamma = float(np.clip(np.log(aim / 255) / np.log(old / 255), *_GAMMA))
    curve = np.rint(255 * (np.arange(256) / 255) ** gamma).astype(np.uint8)
    return np.asarray(curve[donor])


def _light_around(picture: np.ndarray, box: IntBox) -> float:
    """Mean grey level of a rim around a box (xyxy) of a picture (H, W, 3); of the box where it fills the picture."""
    import numpy as np

    x0, y0, x1, y1 = box
    rim = max(3, round(_RIM * max(x1 - x0, y1 - y0)))
    outer = picture[max(y0 - rim, 0) : y1 + rim, max(x0 - rim, 0) : x1 + rim]
    inner = picture[y0:y1, x0:x1]
    count = outer.size - inner.size
    if not count:
        return float(inner.mean())
    return (float(outer.sum(dtype=np.int64)) - float(inner.sum(dtype=np.int64))) / count
