"""Outlines: which pixels of a donor's box are the object, so that it can be pasted without what lay around it."""

from __future__ import annotations

from functools import lru_cache

import msgspec
import numpy as np

from lib.core.geometry import IntBox, Polygons, outlines
from lib.core.images import Load, PictureError
from lib.core.keys import key_of
from lib.records.store import Store

VERSION = 1  # raised whenever the same box would get another outline

_SIDE = 128  # pixels at which GrabCut looks at a box; more costs time and finds no better outline
_ROUNDS = 5
_AGREE = 0.8  # intersection over union of two runs that start from different guesses
_REACH = 0.1  # of a box's side: how far the object may stay away from each side of a box that is drawn around it
_FILLS = 0.2, 0.95  # share of the box that an object covers; above, nothing would be gained
_KNOWN = 4096  # outlines that one plan keeps in memory
_CONTRAST = 2.0  # the outline's gradient, as a multiple of the median of the box and its surroundings


def outline_key(digest: str, frame: str, box: IntBox) -> str:
    """Store key of the outline of what a box (xyxy) of a picture shows."""
    return key_of("outline", VERSION, digest, frame, box)


class Outlines:
    """Finds the outline of an object that has no mask, once: what was found, or not, is kept."""

    def __init__(self, load: Load, store: Store) -> None:
        self.load, self.store = load, store
        # Many objects try the same donors, and a dry run writes nothing into the store.
        self._known = lru_cache(_KNOWN)(self._find)

    def __call__(self, digest: str, frame: str, box: IntBox) -> Polygons | None:
        """Polygons (x, y, x, y, … pixels of the picture) around what a box (xyxy) shows; None: not sure."""
        return self._known(digest, frame, box)

    def _find(self, digest: str, frame: str, box: IntBox) -> Polygons | None:
        key = outline_key(digest, frame, box)
        polygons = _decoded(self.store.get("outline", key))
        if polygons is None:
            try:
                picture = self.load(digest, frame)
            except PictureError:  # gone since it was listed: painting says so
                return None
            mask = grab_cut(picture, box)
            pieces = () if mask is None else outlines(mask > 0)
            polygons = tuple(tuple((piece + box[:2]).astype(np.float64).ravel().tolist()) for piece in pieces)
            self.store.put("outline", key, msgspec.json.encode(polygons))
        return polygons or None


def _decoded(data: bytes | None) -> Polygons | None:
    """What the store holds; () where no outline was sure; None for nothing, or for anything else."""
    try:
        return None if data is None else msgspec.json.decode(data, type=Polygons)
    except msgspec.MsgspecError:
        return None


def grab_cut(picture: np.ndarray, box: IntBox) -> np.ndarray | None:
    """float32 (h, w), 0 or 1: the object in a box (xyxy) of a picture (H, W, 3) uint8 RGB; None where it is not sure.

    GrabCut (Rother et al. 2004) by OpenCV, which takes what surrounds the box as background. It is sure where two runs
    from different guesses agree, the object is one piece that reaches the box's four sides, and its outline follows an
    edge of the picture.
    """
    import cv2

    around, inner = _surroundings(box, picture.shape)
    if inner is None:
        return None
    x0, y0, x1, y1 = around
    view = picture[y0:y1, x0:x1]
    scale = min(1.0, _SIDE / max(inner[2] - inner[0], inner[3] - inner[1]))
    size = max(1, round(view.shape[1] * scale)), max(1, round(view.shape[0] * scale))
    small = cv2.resize(view, size, interpolation=cv2.INTER_AREA)
    left, top, right, bottom = (max(round(side * scale), 0) for side in inner)
    place = np.s_[top:bottom, left:right]
    if min(bottom - top, right - left) < 8:
        return None
    first = _segment(small, (left, top, right, bottom), 0)
    second = _segment(small, (left, top, right, bottom), max(1, round(min(bottom - top, right - left) * 0.06)))
    if first is None or second is None:
        return None
    union = (first | second)[place].sum()
    if not union or (first & second)[place].sum() < _AGREE * union:
        return None
    mask = _largest(first)
    if not _plausible(mask[place]) or not _follows_edge(small, mask):
        return None
    whole = cv2.resize(
        mask[place].astype(np.float32), (box[2] - box[0], box[3] - box[1]), interpolation=cv2.INTER_LINEAR
    )
    return (whole > 0.5).astype(np.float32)


def _surroundings(box: IntBox, shape: tuple[int, ...]) -> tuple[IntBox, IntBox | None]:
    """A view a third larger than the box on each side, cut to the picture, and the box in it; None where nothing
    surrounds it on two sides at least."""
    x0, y0, x1, y1 = box
    wide, high = max(4, (x1 - x0) // 3), max(4, (y1 - y0) // 3)
    around = max(x0 - wide, 0), max(y0 - high, 0), min(x1 + wide, shape[1]), min(y1 + high, shape[0])
    touching = [around[0] == x0, around[1] == y0, around[2] == x1, around[3] == y1]
    inner = x0 - around[0], y0 - around[1], x1 - around[0], y1 - around[1]
    return around, None if sum(touching) > 2 else inner


def _segment(view: np.ndarray, box: IntBox, shrink: int) -> np.ndarray | None:
    """bool (H, W): GrabCut's foreground, which starts from the box less `shrink` pixels on each side."""
    import cv2

    x0, y0, x1, y1 = box
    labels = np.full(view.shape[:2], cv2.GC_BGD, np.uint8)
    labels[y0:y1, x0:x1] = cv2.GC_PR_BGD
    labels[y0 + shrink : y1 - shrink, x0 + shrink : x1 - shrink] = cv2.GC_PR_FGD
    cv2.setRNGSeed(0)  # its first guess of the colours is drawn
    models = np.zeros((1, 65), np.float64), np.zeros((1, 65), np.float64)
    try:
        cv2.grabCut(np.ascontiguousarray(view), labels, None, *models, _ROUNDS, cv2.GC_INIT_WITH_MASK)
    except cv2.error:  # all of one colour
        return None
    return (labels == cv2.GC_FGD) | (labels == cv2.GC_PR_FGD)


def _largest(mask: np.ndarray) -> np.ndarray:
    """bool (H, W): the largest connected piece, its holes filled."""
    import cv2

    outlines, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    filled = np.zeros(mask.shape, np.uint8)
    if outlines:
        cv2.drawContours(filled, [max(outlines, key=cv2.contourArea)], -1, 1, cv2.FILLED)
    return filled.astype(bool)


def _plausible(mask: np.ndarray) -> bool:
    """Does an object's mask (h, w) fill its box as objects do, and reach its four sides?"""
    if not _FILLS[0] <= mask.mean() <= _FILLS[1]:
        return False
    for axis, side in ((0, mask.shape[1]), (1, mask.shape[0])):
        where = np.flatnonzero(mask.any(axis=axis))
        if where[0] > _REACH * side or where[-1] < side - 1 - _REACH * side:
            return False
    return True


def _follows_edge(view: np.ndarray, mask: np.ndarray) -> bool:
    """Is the picture's gradient along the mask's outline well above what it is elsewhere?"""
    import cv2

    grey = cv2.GaussianBlur(cv2.cvtColor(view, cv2.COLOR_RGB2GRAY).astype(np.float32), (3, 3), 0)
    gradient = np.hypot(cv2.Sobel(grey, cv2.CV_32F, 1, 0), cv2.Sobel(grey, cv2.CV_32F, 0, 1))
    outline = cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)).astype(bool)
    return bool(np.median(gradient[outline]) >= _CONTRAST * max(float(np.median(gradient[~outline])), 1.0))
