"""Surroundings: where in a picture an object would stand among what it stood among before.

    view = surroundings.view(digest, frame, box)            # a donor's, kept in the store
    spot = surroundings.spot(pixels, view, room, (40, 30))  # the best place for it in a picture, and how much differs

What is compared is a rim around the donor's box and the same rim around each place of the picture: brightness and
colour, spread, fineness of the texture, and pixel by pixel. So a break of a track comes onto a track of the same width
and direction, crazed steel onto crazed steel, and a vehicle onto a floor.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from lib.core.geometry import IntBox, crop_window
from lib.core.images import Load, PictureError, encode_png, kept_rgb
from lib.core.keys import key_of
from lib.painting.canvas import resized
from lib.records.store import Store

VERSION = 1  # raised whenever the same box would get another view

_SIDE = 64  # pixels at which the longer side of a box is compared; more costs time and finds no better place
_RIM = 0.25  # width of the rim, as a share of the box's longer side
_LEAST_RIM = 3  # pixels
_GRAIN = 2.0  # pixels: sigma of a blur
_REACH = 160  # pixels, at that scale, around the drawn place in which better ones are looked for
_SLACK = 1.0  # grey levels by which a place nearer to the drawn one may be worse than the best
_WEIGHTS = 0.5, 1.0, 0.5, 0.5  # of brightness, spread, texture, and the pixels themselves


@dataclass(frozen=True)
class View:
    """A box with the rim around it; beyond its picture's frame the edge pixels are repeated."""

    pixels: np.ndarray  # float32 (h, w, 3), grey levels
    inner: IntBox  # xyxy, the box in it

    def mirrored(self) -> View:
        """Left and right exchanged."""
        (x0, y0, x1, y1), width = self.inner, self.pixels.shape[1]
        return View(np.ascontiguousarray(self.pixels[:, ::-1]), (width - x1, y0, width - x0, y1))


@dataclass(frozen=True)
class Room:
    """Where a new object may stand in a picture."""

    box: IntBox  # xyxy pixels: the place that was drawn for it
    category: str
    least: int  # pixels: its least side
    taken: np.ndarray  # (M, 4) xyxy pixels that it keeps clear of
    most_shared: float  # share of it, or of what is taken, that may lie in the other
    places: np.ndarray  # (N, 3) bottom, width and height of such objects in the data set, pixels of this picture
    height: int  # of the picture, pixels

    def grounds(self, height: int) -> np.ndarray:
        """(N,) bottoms of objects of about that height; of all where there is none."""
        alike = (self.places[:, 2] <= height * _ALIKE) & (height <= self.places[:, 2] * _ALIKE)
        return self.places[alike, 0] if alike.any() else self.places[:, 0]

    def admits(self, box: IntBox) -> bool:
        """May an object stand there that an earlier plan put there?"""
        x0, y0, x1, y1 = box
        size = x1 - x0, y1 - y0
        drawn = self.box
        inside = drawn[0] <= x0 and drawn[1] <= y0 and x1 <= drawn[2] and y1 <= drawn[3]
        return (
            min(size) >= self.least
            and (inside or bool(_on_ground(np.array([y1]), self.grounds(size[1]), self.height)[0]))
            and bool(self.clear(np.array([x0]), np.array([y0]), size)[0, 0])
        )

    def clear(self, lefts: np.ndarray, tops: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        """bool (len(tops), len(lefts)): may a box of size (width, height) stand there?"""
        wide, high = size
        free = np.ones((len(tops), len(lefts)), bool)
        for x0, y0, x1, y1 in self.taken:
            across = np.clip(np.minimum(lefts + wide, x1) - np.maximum(lefts, x0), 0, None)
            down = np.clip(np.minimum(tops + high, y1) - np.maximum(tops, y0), 0, None)
            near = np.ix_(down > 0, across > 0)  # of hundreds of boxes few are
            smaller = min(wide * high, (x1 - x0) * (y1 - y0))
            free[near] &= np.outer(down[down > 0], across[across > 0]) <= self.most_shared * smaller
        return free


_ALIKE = 1.25  # heights of objects that stand on the same ground
_GROUND = 0.03  # of the picture's height: how far from such a ground an object may stand


@dataclass(frozen=True)
class Spot:
    """A place for a donor."""

    box: IntBox  # xyxy pixels
    differs: float  # grey levels, by which its rim differs from the donor's


@dataclass(frozen=True)
class Surroundings:
    """Views of donors, each made once, and the places that fit them."""

    load: Load
    store: Store

    def pixels(self, digest: str, frame: str) -> np.ndarray | None:
        """uint8 (H, W, 3) of a picture; None where it is gone: painting says so."""
        try:
            return self.load(digest, frame)
        except PictureError:
            return None

    def view(self, digest: str, frame: str, box: IntBox) -> View | None:
        """What surrounds a box (xyxy); None where its picture is gone."""
        key, (width, height) = view_key(digest, frame, box), (box[2] - box[0], box[3] - box[1])
        scale = min(1.0, _SIDE / max(width, height))
        size = max(1, round(width * scale)), max(1, round(height * scale))
        rim = max(_LEAST_RIM, round(_RIM * max(size)))
        shape = size[1] + 2 * rim, size[0] + 2 * rim
        pixels = kept_rgb(self.store.get("view", key), shape)
        if pixels is None:
            picture = self.pixels(digest, frame)
            if picture is None:
                return None
            beyond = rim * width / size[0], rim * height / size[1]
            grown = _grown(box, round(beyond[0]), round(beyond[1]))
            pixels = resized(np.ascontiguousarray(crop_window(picture, grown)), shape)
            self.store.put("view", key, encode_png(pixels))
        return View(pixels.astype(np.float32), (rim, rim, rim + size[0], rim + size[1]))

    def spot(self, picture: np.ndarray, view: View, room: Room, size: tuple[int, int]) -> Spot | None:
        """The place of a picture (H, W, 3) uint8 whose rim differs least from a view's, for an object of size (width,
        height) pixels; None where none is free. Of about equal ones it is the nearest to the place that was drawn."""
        view, scale = _at_scale(view, size)
        x0, y0, x1, y1 = _search(room.box, picture.shape, size, scale)
        left, top, right, bottom = view.inner
        wide, high = right - left, bottom - top
        part = resized(np.ascontiguousarray(picture[y0:y1, x0:x1]), (_scaled(y1 - y0, scale), _scaled(x1 - x0, scale)))
        if part.shape[0] < high or part.shape[1] < wide:
            return None
        lefts = np.rint(x0 + np.arange(part.shape[1] - wide + 1) / scale)
        tops = np.rint(y0 + np.arange(part.shape[0] - high + 1) / scale)
        may = _on_ground(tops + size[1], room.grounds(size[1]), room.height)[:, None] & room.clear(lefts, tops, size)
        may &= (lefts + size[0] <= picture.shape[1]) & (tops + size[1] <= picture.shape[0])[:, None]
        if not may.any():
            return None
        around = (top, view.pixels.shape[0] - bottom, left, view.pixels.shape[1] - right)
        differs = np.where(may, _differences(np.pad(part, (around[:2], around[2:], (0, 0)), mode="edge"), view), np.inf)
        good = differs <= differs.min() + _SLACK
        away = np.abs(tops + size[1] - room.box[3])[:, None] + np.abs(lefts + size[0] / 2 - sum(room.box[::2]) / 2)
        row, column = np.unravel_index(np.where(good, away, np.inf).argmin(), away.shape)
        place = int(lefts[column]), int(tops[row])
        return Spot((*place, place[0] + size[0], place[1] + size[1]), float(differs[row, column]))


def view_key(digest: str, frame: str, box: IntBox) -> str:
    """Store key of what surrounds a box (xyxy) of a picture."""
    return key_of("view", VERSION, digest, frame, box)


def _grown(box: IntBox, across: int, down: int) -> IntBox:
    return box[0] - across, box[1] - down, box[2] + across, box[3] + down


def _scaled(length: int, scale: float) -> int:
    return max(1, round(length * scale))


def _at_scale(view: View, size: tuple[int, int]) -> tuple[View, float]:
    """The view and the scale of the picture at which an object of `size` pixels has the size of the view's box; the
    picture is never enlarged."""
    left, top, right, bottom = view.inner
    scale = max(right - left, bottom - top) / max(size)
    if scale <= 1:
        return view, scale
    wide, high = size
    rim = max(_LEAST_RIM, round(left / scale))
    pixels = resized(view.pixels, (high + 2 * rim, wide + 2 * rim))
    return View(pixels, (rim, rim, rim + wide, rim + high)), 1.0


def _search(box: IntBox, shape: tuple[int, ...], size: tuple[int, int], scale: float) -> IntBox:
    """The part of a picture, xyxy, in which places are looked for."""
    height, width = shape[:2]
    middle = (box[0] + box[2]) // 2, (box[1] + box[3]) // 2
    half = round(_REACH / scale) + size[0] // 2, round(_REACH / scale) + size[1] // 2
    return (
        max(middle[0] - half[0], 0),
        max(middle[1] - half[1], 0),
        min(middle[0] + half[0], width),
        min(middle[1] + half[1], height),
    )


def _on_ground(bottoms: np.ndarray, grounds: np.ndarray, height: int) -> np.ndarray:
    """bool (len(bottoms),): near one of the grounds."""
    near = np.abs(bottoms[:, None] - grounds[None]) <= max(1, _GROUND * height)
    return np.asarray(near.any(axis=1))


def _differences(part: np.ndarray, view: View) -> np.ndarray:
    """float32 (h, w), grey levels: how the rim around a view's box differs from that around each place of a picture.

    part: uint8 (H, W, 3) with a rim on each side; its place (0, 0) is the one with the rim at its corner.
    """
    outer = (0, 0, view.pixels.shape[1], view.pixels.shape[0])
    count = outer[2] * outer[3] - (view.inner[2] - view.inner[0]) * (view.inner[3] - view.inner[1])
    grey = bool((part[..., :1] == part).all()) and bool((view.pixels[..., :1] == view.pixels).all())
    channels = 1 if grey else 3
    part, of_view = part[..., :channels].astype(np.float32), view.pixels[..., :channels]
    rim = np.ones(of_view.shape[:2], np.float32)
    rim[view.inner[1] : view.inner[3], view.inner[0] : view.inner[2]] = 0

    def sums(values: np.ndarray) -> np.ndarray:
        return _sums(values, outer) - _sums(values, view.inner, outer)

    light = spread = apart = np.zeros(())
    for channel in range(channels):
        here, there = part[..., channel], of_view[..., channel]
        mean, own = sums(here) / count, float((there * rim).sum()) / count
        varies = np.maximum(sums(here * here) / count - mean**2, 0)
        own_varies = float((np.square(there - own) * rim).sum()) / count
        light = light + (mean - own) ** 2
        spread = spread + (np.sqrt(varies) - own_varies**0.5) ** 2
        apart = apart + _apart(_soft(here), _soft(there), rim, sums)
    fine, own_fine = _fineness(part), _fineness(of_view)
    texture = np.sqrt(np.maximum(sums(fine) / count, 0)) - float((own_fine * rim).sum() / count) ** 0.5
    of_all = [np.sqrt(term / channels) for term in (light, spread)] + [np.abs(texture), np.sqrt(apart / channels)]
    return np.asarray(sum(weight * term for weight, term in zip(_WEIGHTS, of_all, strict=True)))


def _apart(
    here: np.ndarray, there: np.ndarray, rim: np.ndarray, sums: Callable[[np.ndarray], np.ndarray]
) -> np.ndarray:
    """Mean squared difference of rims, pixel by pixel, whatever their brightness. here: (H, W), there, rim: (h, w)."""
    count = float(rim.sum())
    mean, own = sums(here) / count, float((there * rim).sum()) / count
    varies = sums(here * here) / count - mean**2
    own_varies = float((np.square(there - own) * rim).sum()) / count
    crossed = _correlated(here, (there - own) * rim) / count
    return np.asarray(np.maximum(varies + own_varies - 2 * crossed, 0))


def _soft(values: np.ndarray) -> np.ndarray:
    """Without its grain, which is another at every place."""
    import cv2

    return np.asarray(cv2.GaussianBlur(values, (0, 0), _GRAIN))


def _sums(values: np.ndarray, box: IntBox, outer: IntBox | None = None) -> np.ndarray:
    """float64: of values (H, W) the sum over a box (xyxy) at each place at which `outer`, or the box, fits."""
    import cv2

    whole = cv2.integral(values, sdepth=cv2.CV_64F)
    x0, y0, x1, y1 = box
    wide, high = (outer or box)[2], (outer or box)[3]
    down, across = values.shape[0] - high + 1, values.shape[1] - wide + 1
    corner = [whole[y : y + down, x : x + across] for y, x in ((y1, x1), (y0, x1), (y1, x0), (y0, x0))]
    return np.asarray(corner[0] - corner[1] - corner[2] + corner[3])


def _correlated(values: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """float32: of values (H, W) the sum of products with a kernel (h, w) at each place at which it fits."""
    import cv2

    return np.asarray(cv2.matchTemplate(values, np.ascontiguousarray(kernel), cv2.TM_CCORR))


def _fineness(pixels: np.ndarray) -> np.ndarray:
    """float32 (H, W): squared gradient, mean of the channels (H, W, C)."""
    down, across = np.diff(pixels, axis=0, append=pixels[-1:]), np.diff(pixels, axis=1, append=pixels[:, -1:])
    return np.ascontiguousarray((down**2 + across**2).mean(axis=2))
