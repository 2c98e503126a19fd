"""Layouts: which objects a new picture holds, and where. Edits `layout` and `insert` draw from them.

    jittered(box, picture, shift=0.1, scale=0.1)   # a picture's box, moved a little
    sampled(picture, settings, most=8)             # a new layout, drawn from the data set's statistics
    free_place(picture, "cat", 0, taken, settings) # room for one more object

The statistics are the places and mixes of statistics.py, which a LabelledPicture holds.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from pydantic import Field

from lib.core.geometry import IntBox, most_shared
from lib.core.keys import hash_draw
from lib.core.registry import MemberSettings
from lib.planning.edits import Box, LabelledPicture
from lib.records.requests import XYXY


class PlacingSettings(MemberSettings):
    """When a place is free for a new object."""

    max_overlap: float = Field(
        0.1, ge=0, le=1, description="share of a new object, and of any other, that may lie within the other"
    )
    min_side: int = Field(16, ge=1, description="new objects have no shorter side, pixels")
    tries: int = Field(100, ge=1, le=10_000, description="places looked at for each")


def free_place(
    picture: LabelledPicture, category: str, number: int, taken: Sequence[XYXY], settings: PlacingSettings
) -> IntBox | None:
    """Room for new object `number` of a category: xyxy whole pixels in the frame, clear of the boxes taken.

    It has the size and the height in the frame of a random object of the category. The height is kept since in most
    pictures it goes with the size: what is far away is small and high up. Of the tries, in an order that the seed
    decides, the first that has room; None for none.
    """
    places = picture.places[category]
    draws = np.array(
        [hash_draw(picture.draws, "place", picture.digest, category, number, i) for i in range(settings.tries)]
    )
    sizes = places[draws % len(places)] * picture.height
    bottoms, wide, high = np.rint(sizes).astype(np.int64).T
    room = picture.width - wide
    lefts = ((draws >> 31) / 2**32 * (room + 1)).astype(np.int64)
    found = np.stack([lefts, bottoms - high, lefts + wide, bottoms], axis=1)
    fits = (room >= 0) & (found[:, 1] >= 0) & (bottoms <= picture.height)
    fits &= np.minimum(wide, high) >= settings.min_side
    fits &= most_shared(found, np.array(taken).reshape(-1, 4)) <= settings.max_overlap
    if not fits.any():
        return None
    x0, y0, x1, y1 = found[int(fits.argmax())].tolist()
    return x0, y0, x1, y1


def sampled(
    picture: LabelledPicture, settings: PlacingSettings, most: int | None = None
) -> tuple[list[tuple[str, IntBox]], list[str]]:
    """A new layout: (category, xyxy whole pixels) of each object, and "sampled number: reason" of those without room.

    The mix of one random picture, those of more than `most` objects left out, each object at a free place of its
    category. Categories without places do not count. Two empty lists where the picture has no mixes.
    """
    mixes = [names for mix in picture.mixes if (names := [name for name in mix if name in picture.places])]
    mixes = [mix for mix in mixes if most is None or len(mix) <= most]
    if not mixes:
        return [], []
    objects: list[tuple[str, IntBox]] = []
    barred = []
    for number, category in enumerate(mixes[hash_draw(picture.draws, "mix", picture.digest) % len(mixes)]):
        place = free_place(picture, category, number, [box for _, box in objects], settings)
        if place is None:
            barred.append(f"sampled {number}: no_free_place")
        else:
            objects.append((category, place))
    return objects, barred


def jittered(box: Box, picture: LabelledPicture, shift: float, scale: float) -> XYXY:
    """xyxy pixels of a box moved by up to `shift` of its sides and grown or shrunk by up to `scale` of each, about its
    centre; as a whole in the frame."""
    x0, y0, x1, y1 = box.xyxy
    left, right = _jittered_side("x", x0, x1, picture.width, box, picture, shift, scale)
    top, bottom = _jittered_side("y", y0, y1, picture.height, box, picture, shift, scale)
    return left, top, right, bottom


def _jittered_side(
    axis: str, low: float, high: float, frame: int, box: Box, picture: LabelledPicture, shift: float, scale: float
) -> tuple[float, float]:
    moved, grown = (
        2 * hash_draw(picture.draws, "jitter", picture.digest, box.key, axis, what) / 2**63 - 1
        for what in ("shift", "scale")
    )
    length = min((high - low) * (1 + scale * grown), frame)
    start = (low + high - length) / 2 + shift * (high - low) * moved
    start = min(max(start, 0), frame - length)
    return round(start, 4), round(start + length, 4)
