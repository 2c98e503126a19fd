"""The usual augmentation of a detector's training pictures: its settings, and one picture with its boxes augmented."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from lib.core.geometry import area_xyxy, clip_xyxy
from lib.core.registry import MemberSettings
from lib.proof.pictures import FILL


class Augmentation(MemberSettings):
    """What is done to every training picture of every arm, drawn anew each time."""

    mirror: bool = Field(True, description="left and right exchanged, every second time")
    upside_down: bool = Field(False, description="top and bottom exchanged: where a picture has no above")
    quarter_turns: bool = Field(False, description="turned by 0, 90, 180 or 270 degrees: where it has no above either")
    scale: tuple[float, float] = Field((0.7, 1.4), description="smallest and largest size, 1 = the whole picture")
    brightness: float = Field(0.15, ge=0, le=1, description="largest shift, of the range of grey")
    contrast: float = Field(0.2, ge=0, lt=1, description="largest change of the spread around the mean")


def augmented(
    pixels: NDArray[np.uint8],
    size: NDArray[np.int64],
    boxes: NDArray[np.float64],
    settings: Augmentation,
    rng: np.random.Generator,
) -> tuple[NDArray[np.uint8], NDArray[np.float64], NDArray[np.float64]]:
    """A square picture and its boxes turned, mirrored, scaled and moved, and the share of each box that is left.

    pixels: (S, S, 3), the picture in the upper left `size` (width, height); boxes: (N, 4) xyxy.
    """
    side = pixels.shape[0]
    matrix = _placement(side, (int(size[0]), int(size[1])), settings, rng)
    centres = matrix[:2].copy()  # OpenCV counts from the centre of the first pixel, boxes from its corner
    centres[:, 2] += (matrix[:2, :2].sum(1) - 1) / 2
    moved = cv2.warpAffine(pixels, centres, (side, side), flags=cv2.INTER_LINEAR, borderValue=(FILL, FILL, FILL))
    gain = 1 + rng.uniform(-settings.contrast, settings.contrast)
    shift = 255 * rng.uniform(-settings.brightness, settings.brightness)
    mean = float(moved.mean())
    table = np.clip((np.arange(256) - mean) * gain + mean + shift, 0, 255).astype(np.uint8)
    corners = np.stack([boxes[:, [0, 2]], boxes[:, [1, 3]]], 1)  # (N, 2, 2): x and y of two corners
    turned = matrix[:2, :2] @ corners + matrix[:2, 2:]
    whole = np.concatenate([turned.min(2), turned.max(2)], 1).reshape(-1, 4)
    inside = clip_xyxy(whole, side, side)
    visible = area_xyxy(inside) / np.maximum(area_xyxy(whole), 1e-9)
    found: NDArray[np.uint8] = cv2.LUT(moved, table).astype(np.uint8)
    return found, inside, visible


def _placement(
    side: int, size: tuple[int, int], settings: Augmentation, rng: np.random.Generator
) -> NDArray[np.float64]:
    """(3, 3): from the picture's pixels to those of the square. A larger picture is cut, a smaller one set anywhere."""
    width, height = size
    scale = float(np.exp(rng.uniform(*np.log(settings.scale))))
    turns = int(rng.integers(4)) if settings.quarter_turns else 0
    mirrors = [-1.0 if wanted and rng.random() < 0.5 else 1.0 for wanted in (settings.mirror, settings.upside_down)]
    cosine, sine = [(1, 0), (0, 1), (-1, 0), (0, -1)][turns]
    linear = scale * np.array([[cosine, -sine], [sine, cosine]]) @ np.diag(mirrors)
    reach = np.abs(linear) @ [width, height]  # sides of the placed picture
    room = side - reach
    centre = np.array([rng.uniform(min(0, one), max(0, one)) for one in room]) + reach / 2
    matrix = np.eye(3)
    matrix[:2, :2] = linear
    matrix[:2, 2] = centre - linear @ [width / 2, height / 2]
    return matrix
