"""What the mini models learn from: square windows of labelled pictures, cut anew at every draw.

    pictures = [TrainingPicture(pixels, "a red forklift in a hall", things), ...]
    window = cut(pictures[3], 128, rng)      # .pixels (128, 128, 3) uint8, .things with boxes in 0 .. 1

Half of the windows are as large as the picture allows, the others stand around one object as an edit's window does.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from lib.core.geometry import area_xyxy, clip_xyxy
from lib.core.vision import Pixels, to_square

Floats = NDArray[np.float64]

# With a smaller visible share of its box in a window, an object can no longer be recognised.
_LEAST_VISIBLE = 0.4


@dataclass(frozen=True)
class Things:
    """Labelled objects of a picture or window, far to near where the data says so."""

    boxes: Floats  # (K, 4) xyxy: pixels of a picture, 0 .. 1 of a window
    categories: tuple[str, ...]
    phrases: tuple[str, ...]  # "a yellow forklift"

    def __len__(self) -> int:
        return len(self.categories)

    def take(self, rows: Sequence[int]) -> Things:
        """Those of `rows`, in that order."""
        return Things(
            self.boxes[list(rows)],
            tuple(self.categories[row] for row in rows),
            tuple(self.phrases[row] for row in rows),
        )


@dataclass(frozen=True)
class TrainingPicture:
    """One picture, small enough to stay in memory."""

    pixels: Pixels
    caption: str
    things: Things


@dataclass(frozen=True)
class Window:
    """A square part of a picture at the models' size, or all of it squeezed."""

    pixels: Pixels  # (size, size, 3)
    caption: str  # of the whole picture
    things: Things  # boxes in 0 .. 1


def shrunk(pixels: Pixels, boxes: Floats, shorter: float) -> tuple[Pixels, Floats]:
    """A picture and its boxes with the shorter side at most `shorter` pixels: more is never looked at."""
    height, width = pixels.shape[:2]
    scale = shorter / min(height, width)
    if scale >= 1:
        return pixels, boxes
    size = max(1, round(width * scale)), max(1, round(height * scale))
    small: Pixels = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA).astype(np.uint8)
    return small, boxes * np.array([size[0] / width, size[1] / height] * 2)


def one_of(pictures: Sequence[TrainingPicture], rng: np.random.Generator) -> TrainingPicture:
    """A picture at random."""
    return pictures[int(rng.integers(len(pictures)))]


def cut(
    picture: TrainingPicture,
    size: int,
    rng: np.random.Generator,
    flips: bool = True,
    zoom: float = 1,
    learn: Collection[str] = (),
) -> Window:
    """A window at size × size pixels. Objects of which little is left in it are not listed.

    zoom: how many times what stands around an object may be enlarged; learn: categories around whose objects windows
    stand, where the picture has some.
    """
    x, y, side = _square(picture, size / zoom, rng, learn)
    window = window_of(picture, x, y, side, side, size)
    return mirrored(window) if flips and rng.random() < 0.5 else window


def whole(picture: TrainingPicture, size: int) -> Window:
    """The largest square in the middle of a picture."""
    height, width = picture.pixels.shape[:2]
    side = min(height, width)
    return window_of(picture, (width - side) // 2, (height - side) // 2, side, side, size)


def squeezed(picture: TrainingPicture, size: int) -> Window:
    """The full frame as a square, its aspect lost: so captioners and extractors see pictures."""
    height, width = picture.pixels.shape[:2]
    return window_of(picture, 0, 0, width, height, size)


def mirrored(window: Window) -> Window:
    """Left and right exchanged."""
    things = window.things
    boxes = things.boxes.copy()
    boxes[:, [0, 2]] = 1 - things.boxes[:, [2, 0]]
    pixels = np.ascontiguousarray(window.pixels[:, ::-1])
    return Window(pixels, window.caption, Things(boxes, things.categories, things.phrases))


def window_of(picture: TrainingPicture, x: int, y: int, width: int, height: int, size: int) -> Window:
    """The part of a picture from x, y on, pixels, that lies inside it, without objects of which little is visible."""
    boxes = picture.things.boxes - [x, y, x, y]
    inside = clip_xyxy(boxes, width, height)
    visible = np.flatnonzero(area_xyxy(inside) >= _LEAST_VISIBLE * area_xyxy(boxes)).tolist()
    share = inside / [width, height, width, height]
    things = Things(share, picture.things.categories, picture.things.phrases).take(visible)
    return Window(to_square(picture.pixels[y : y + height, x : x + width], size), picture.caption, things)


def _square(
    picture: TrainingPicture, closest: float, rng: np.random.Generator, learn: Collection[str]
) -> tuple[int, int, int]:
    """x, y and side of a window, pixels; closest: least side around an object."""
    height, width = picture.pixels.shape[:2]
    most = min(height, width)
    if rng.random() < 0.5 or not len(picture.things):
        return int(rng.integers(width - most + 1)), int(rng.integers(height - most + 1)), most
    boxes = picture.things.boxes
    wanted = [row for row, name in enumerate(picture.things.categories) if name in learn]
    x0, y0, x1, y1 = boxes[wanted[rng.integers(len(wanted))] if wanted else rng.integers(len(boxes))]
    least = min(most, max(closest, 1.3 * max(x1 - x0, y1 - y0)))
    side = int(rng.uniform(least, most + 1))
    side = min(side, most)
    x, y = (
        int(np.clip((low + high - side) / 2 + rng.uniform(-0.2, 0.2) * side, 0, frame - side))
        for low, high, frame in ((x0, x1, width), (y0, y1, height))
    )
    return x, y, side
