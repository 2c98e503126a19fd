"""Label arithmetic: what annotations say after an edit, as data."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np

from lib.geometry import box_polygon, map_polygons, polygon_area
from lib.requests import Donor, Label, Pass


def polygons_of(record: bytes, height: int, width: int) -> tuple[tuple[float, ...], ...] | None:
    """The mask of a COCO annotation as polygons (x, y, x, y, ... pixels); None where there is none, or a malformed one.

    Run-length masks of either kind are traced along their outlines.
    """
    segmentation = msgspec.json.decode(record).get("segmentation")
    try:
        if isinstance(segmentation, dict):
            return _trace(segmentation, height, width)
        whole = [polygon for polygon in segmentation or () if len(polygon) >= 6 and len(polygon) % 2 == 0]
        return tuple(tuple(float(v) for v in polygon) for polygon in whole) or None
    except (TypeError, ValueError, KeyError):
        return None


def _trace(rle: dict[str, Any], height: int, width: int) -> tuple[tuple[float, ...], ...] | None:
    """Outlines of a run-length mask along its pixels' edges, as COCO's polygons run: each encloses the mask's own area,
    holes apart. Raises ValueError for one that does not fill the picture.

    Not by pycocotools: of runs that are too few it leaves the rest of the mask as the memory was.
    """
    import cv2

    counts = rle["counts"]
    runs = _decompressed(counts) if isinstance(counts, str) else counts
    if list(rle["size"]) != [height, width] or min(runs, default=0) < 0 or sum(runs) != height * width:
        raise ValueError(f"runs of a mask of {rle['size']} pixels do not fill a picture of {height}x{width}")
    mask = np.repeat(np.arange(len(runs)) % 2, runs).astype(np.uint8).reshape((height, width), order="F")
    # OpenCV's outlines run through pixel centres. At twice the size a pixel's outline and its edge are half a small
    # pixel apart on each side, which the rounding to whole pixels takes back.
    double = np.pad(mask, 1).repeat(2, axis=0).repeat(2, axis=1)
    outlines, _ = cv2.findContours(double, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    polygons = (_corners((outline[:, 0].astype(np.int64) + 1) // 2 - 1) for outline in outlines)
    return tuple(p for p in polygons if len(p) >= 6) or None


def _corners(points: np.ndarray) -> tuple[float, ...]:
    """(N, 2) points of a closed line without those in the middle of a straight piece, as x, y, x, y, ..."""
    points = points[(points != np.roll(points, 1, axis=0)).any(axis=1)]
    before, after = points - np.roll(points, 1, axis=0), np.roll(points, -1, axis=0) - points
    turns = before[:, 0] * after[:, 1] != before[:, 1] * after[:, 0]
    return tuple(float(v) for v in points[turns].ravel())


def _decompressed(text: str) -> list[int]:
    """COCO's compressed runs: five bits a character, 0x20 = more follow; from the fourth on, less the one before last.

    As rleFrString of pycocotools (github.com/cocodataset/cocoapi, common/maskApi.c).
    """
    runs: list[int] = []
    value = shift = 0
    for character in text:
        bits = ord(character) - 48
        value |= (bits & 0x1F) << shift
        shift += 5
        if bits & 0x20:
            continue
        if bits & 0x10:
            value -= 1 << shift
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        value = shift = 0
    return runs


def redrawn(annotation: str, bbox: tuple[float, float, float, float], step: Pass) -> Label:
    """The label of an object that `step` paints anew into its box (xywh pixels).

    Its segmentation is the donor's mask, mapped, where there is one, else the box; the area follows.
    """
    mask = donor_mask(step.donor, step) if step.donor else None
    if mask is None:
        return Label(
            source=annotation, edited=True, bbox=bbox, segmentation=(box_polygon(bbox),), area=bbox[2] * bbox[3]
        )
    return Label(source=annotation, edited=True, bbox=bbox, segmentation=mask, area=round(polygon_area(mask), 2))


def donor_mask(donor: Donor, step: Pass) -> tuple[tuple[float, ...], ...] | None:
    """The donor's polygons where the pass puts them, picture pixels; None for a donor without a mask."""
    if donor.polygon is None:
        return None
    polygons = donor.polygon
    if donor.flip:
        mirror = donor.box[0] + donor.box[2]
        polygons = tuple(tuple(mirror - v if i % 2 == 0 else v for i, v in enumerate(p)) for p in polygons)
    mapped = map_polygons(polygons, donor.box, step.region[0])
    x0, y0, x1, y1 = step.region[0]
    low, high = (x0, y0), (x1, y1)
    return tuple(tuple(float(min(max(v, low[i % 2]), high[i % 2])) for i, v in enumerate(p)) for p in mapped)
