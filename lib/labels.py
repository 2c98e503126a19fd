"""Label arithmetic: what annotations say after an edit, as data."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np

from lib.geometry import box_polygon, map_polygons, polygon_area
from lib.requests import Donor, Label, Pass


def polygons_of(record: bytes, height: int, width: int) -> tuple[tuple[float, ...], ...] | None:
    """The mask of a COCO annotation as polygons (x, y, x, y, ... pixels); None where there is none.

    Run-length masks of either kind are traced along their outlines.
    """
    segmentation = msgspec.json.decode(record).get("segmentation")
    if isinstance(segmentation, dict):
        return _trace(segmentation, height, width)
    polygons = tuple(tuple(float(v) for v in polygon) for polygon in segmentation or () if len(polygon) >= 6)
    return polygons or None


def _trace(rle: dict[str, Any], height: int, width: int) -> tuple[tuple[float, ...], ...] | None:
    import cv2
    from pycocotools import mask as coco_mask

    if isinstance(rle.get("counts"), list):
        rle = coco_mask.frPyObjects(rle, height, width)
    outlines, _ = cv2.findContours(coco_mask.decode(rle), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    polygons = tuple(tuple(float(v) for v in outline.ravel()) for outline in outlines if len(outline) >= 3)
    return polygons or None


def redrawn(annotation: str, xyxy: tuple[float, float, float, float], step: Pass) -> Label:
    """The label of an object that `step` paints anew into its box (xyxy pixels).

    Its segmentation is the donor's mask, mapped, where there is one, else the box; the area follows.
    """
    x0, y0, x1, y1 = xyxy
    bbox = (x0, y0, x1 - x0, y1 - y0)
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
    return tuple(tuple(float(np.clip(v, (x0, y0)[i % 2], (x1, y1)[i % 2])) for i, v in enumerate(p)) for p in mapped)
