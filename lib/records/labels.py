"""Label arithmetic: annotations after an edit, as data."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import msgspec
import numpy as np
from pydantic import Field

from lib.core.geometry import (
    Cells,
    IntBox,
    Polygons,
    box_polygon,
    fills_box,
    map_polygons,
    outer_pixels,
    outlines,
    polygon_area,
    polygons_extent,
    xywh_to_xyxy,
)
from lib.core.registry import MemberSettings
from lib.records.requests import XYXY, Donor, Label, Pass, Rle
from lib.records.rle import encode_rle

_MALFORMED = (TypeError, ValueError, KeyError, OverflowError, msgspec.MsgspecError)


class VisibilitySettings(MemberSettings):
    """What becomes of the labels of objects that something comes in front of."""

    labels: Literal["visible", "full"] = Field(
        "visible",
        description="visible: boxes and masks are cut to what is still seen; full: they stay as annotated, amodal",
    )
    min_visible: float = Field(
        0.3, ge=0, le=1, description="an object of which a smaller share is seen counts as hidden"
    )
    hidden: Literal["ignore", "drop"] = Field(
        "ignore",
        description="hidden objects: ignore: stay, marked iscrowd 1 and ignore 1, so that detectors neither learn nor "
        "are punished there; drop: are taken out",
    )


def new_boxes(labels: Iterable[Label], categories: Mapping[str, str]) -> Counter[str]:
    """How many labels of each category detectors learn a newly painted object from: neither ignored nor dropped.

    categories: annotation key → category, of the labels that name none.
    """
    return Counter(
        label.category or categories.get(label.source or "", "")
        for label in labels
        if label.painted and not label.ignored and not label.dropped
    )


def polygons_of(record: bytes, height: int, width: int) -> Polygons | None:
    """The mask of a COCO annotation as polygons (x, y, x, y, ... pixels); None for no mask, or a malformed one.

    RLE masks, compressed or not, are traced along their outlines.
    """
    try:
        segmentation = msgspec.json.decode(record).get("segmentation")
        if not isinstance(segmentation, dict):
            return _whole_polygons(segmentation)
        pieces = outlines(_filled(segmentation, (height, width)))
        return tuple(tuple(piece.ravel().astype(np.float64).tolist()) for piece in pieces) or None
    except _MALFORMED:
        return None


def annotation_mask(record: bytes | None, size: tuple[int, int]) -> np.ndarray | None:
    """bool (H, W): the mask of a COCO annotation in a picture of size (height, width), polygons or RLE; None without
    a mask. Raises ValueError for one that is malformed, or of a picture of another size."""
    try:
        segmentation = msgspec.json.decode(record or b"{}").get("segmentation")
        if isinstance(segmentation, dict):
            return _filled(segmentation, size)
        polygons = _whole_polygons(segmentation)
    except _MALFORMED as error:
        raise ValueError(f"segmentation: {error}") from None
    if polygons is None and segmentation:
        raise ValueError("segmentation: no polygon of three points or more")
    return None if polygons is None else _drawn(polygons, size)


def _whole_polygons(segmentation: Any) -> Polygons | None:
    """The polygons of a COCO segmentation that enclose something; None for none. Raises msgspec.ValidationError for
    what is not a list of lists of numbers."""
    polygons = msgspec.convert(segmentation or (), Polygons)
    return tuple(polygon for polygon in polygons if len(polygon) >= 6 and len(polygon) % 2 == 0) or None


def _filled(rle: dict[str, Any], size: tuple[int, int]) -> np.ndarray:
    """bool (H, W) of a COCO RLE mask, compressed or not; raises ValueError where it does not fill the picture.

    Not by pycocotools: of runs that are too few it leaves the rest of the mask as the memory was.
    """
    counts = rle["counts"]
    runs = _decompressed(counts) if isinstance(counts, str) else counts
    if list(rle["size"]) != list(size) or min(runs, default=0) < 0 or sum(runs) != size[0] * size[1]:
        raise ValueError(f"runs of a mask of {rle['size']} pixels do not fill a picture of {size[0]}x{size[1]}")
    return np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(size, order="F")


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


def redrawn(annotation: str, bbox: XYXY, step: Pass, category: str | None = None) -> Label:
    """The label of an object that `step` paints anew into its box (xywh pixels).

    Its segmentation is the donor's mask, mapped, where there is one, else the box; the area follows. category: its
    name where it is another than the source's.
    """
    return _painted(annotation, bbox, step, category)


def added(box: IntBox, category: str, donor_step: Pass | None = None) -> Label:
    """The label of an object that the source does not have, in a whole-pixel xyxy box; its shape as in `redrawn`."""
    x0, y0, x1, y1 = box
    return _painted(None, (x0, y0, x1 - x0, y1 - y0), donor_step, category)


def _painted(source: str | None, bbox: XYXY, step: Pass | None, category: str | None) -> Label:
    mask = donor_mask(step.donor, step) if step and step.donor else None
    area = bbox[2] * bbox[3] if mask is None else round(polygon_area(mask), 2)
    shape = mask or (box_polygon(bbox),)
    return Label(source=source, painted=True, bbox=bbox, segmentation=shape, area=area, category=category)


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


def occluded(
    label: Label,
    xywh: Sequence[float],
    record: bytes | None,
    size: tuple[int, int],
    occluders: Sequence[IntBox],
    policy: VisibilitySettings,
    masks: Sequence[np.ndarray] = (),
) -> Label | None:
    """The label of an object after occluders came in front of it; None where it is to be dropped.

    An occluder counts as hiding its whole box, which is the most it can hide, so `visible` is a lower bound.
    All occluders of an object come in one call: a share that the label already has is not composed but replaced.
    Exact for boxes, counted in pixels for masks. What nothing overlaps keeps the very label.

    Args:
        label: as it is without the occluders.
        xywh: the annotation's box, pixels, cut to the frame; counts where label.bbox is None.
        record: the annotation, a COCO JSON object, its mask counts where label.bbox is None; None: it has none.
        size: (height, width) of the picture, pixels.
        occluders: whole-pixel xyxy boxes, in any order; empty ones hide nothing.
        masks: occluders whose outline is known, bool (H, W) of the picture; then boxes are counted in pixels as well.
    """
    bbox = label.bbox or _four(xywh)
    shape = _shape(label, record, bbox, size)
    if isinstance(shape, tuple) and not masks and not _meets(polygons_extent(shape), occluders):
        return label  # before the costly part: most objects of a picture
    mask = _drawn(shape, size) if isinstance(shape, tuple) else shape
    if mask is not None and not mask.any():  # thinner than a pixel
        shape = mask = None
    if masks and mask is None:
        mask = Cells.of_box(bbox).pixels(size)
    whole = Cells.of_box(bbox, occluders) if mask is None else Cells.of_mask(mask)
    left = whole.without(occluders)
    for hiding in masks:
        left = left.without_mask(hiding)
    total, remaining = whole.area, left.area
    if remaining >= total:
        return label
    visible = round(remaining / total, 4)
    if visible < policy.min_visible or (remaining == 0 and policy.labels == "visible"):
        return _hidden(label, bbox, size, visible) if policy.hidden == "ignore" else None
    if policy.labels == "full":
        return label.model_copy(update={"visible": visible})
    corners = left.extent if mask is None else _moved(bbox, whole.extent, left.extent)
    # RLE stays RLE: readers expect them of crowds.
    polygons = None if isinstance(shape, np.ndarray) else left.polygons()
    segmentation = polygons or encode_rle(left.pixels(size))
    changes = {"bbox": _resized(bbox, corners), "segmentation": segmentation, "area": remaining, "visible": visible}
    return label.model_copy(update=changes)


def _shape(label: Label, record: bytes | None, bbox: XYXY, size: tuple[int, int]) -> Polygons | np.ndarray | None:
    """The object's mask: polygons, or bool (H, W) where it comes as RLE; None where it is just its box (xywh), or
    malformed."""
    try:
        segmentation: Any = label.segmentation
        if label.bbox is None:
            segmentation = msgspec.json.decode(record or b"{}").get("segmentation")
        if isinstance(segmentation, Rle):
            segmentation = segmentation.model_dump()
        if isinstance(segmentation, dict):
            return _filled(segmentation, size)
        polygons = _whole_polygons(segmentation)
    except _MALFORMED:
        return None
    return None if polygons and len(polygons) == 1 and _is_box(polygons[0], bbox, size) else polygons


def _is_box(polygon: Sequence[float], xywh: XYXY, size: tuple[int, int]) -> bool:
    """As `fills_box`, for a polygon that may reach beyond a picture of size (height, width)."""
    inside = np.clip(np.reshape(polygon, (-1, 2)), 0, size[::-1])
    return fills_box(inside.ravel().tolist(), xywh_to_xyxy(np.array(xywh)).tolist())


def _drawn(polygons: Polygons, size: tuple[int, int]) -> np.ndarray:
    """bool (H, W): the pixels of polygons, as COCO's tools fill them."""
    from pycocotools import mask as coco

    # An outline costs them memory by its length: what runs far beyond the picture is pulled near.
    far = np.array(size[::-1])
    near = [np.clip(np.reshape(p, (-1, 2)), -far, 2 * far).ravel().tolist() for p in polygons]
    mask: np.ndarray = coco.decode(coco.merge(coco.frPyObjects(near, *size))).astype(bool)
    return mask


def _meets(xyxy: XYXY, boxes: Sequence[IntBox]) -> bool:
    """Whether one of the whole-pixel xyxy boxes has a pixel in common with a float box."""
    x0, y0, x1, y1 = outer_pixels(xyxy)
    return any(box[0] < x1 and x0 < box[2] and box[1] < y1 and y0 < box[3] for box in boxes)


def ignored(label: Label, bbox: XYXY, size: tuple[int, int], reason: str) -> Label:
    """The label of an object that detectors should ignore: its whole box (xywh), as an RLE mask.

    size: (height, width) of the picture, pixels.
    """
    rle = encode_rle(Cells.of_box(bbox).pixels(size))
    changes = {"bbox": bbox, "segmentation": rle, "area": bbox[2] * bbox[3], "ignored": reason}
    return label.model_copy(update=changes)


def _hidden(label: Label, bbox: XYXY, size: tuple[int, int], visible: float) -> Label:
    """The label of an object that is too hidden to learn from."""
    return ignored(label, bbox, size, "occluded").model_copy(update={"visible": visible})


def _moved(xywh: XYXY, before: XYXY, after: XYXY) -> XYXY:
    """xyxy of an annotated box whose mask's tight box (xyxy) was `before` and is `after`.

    A side moves by no more than the mask's does, and not beyond what is left of it: annotators round. Where the box
    holds nothing of what is left, as with a mask of another object, that is the box.
    """
    x, y, w, h = xywh
    old, shift = np.array([x, y, x + w, y + h]), np.subtract(after, before)
    low = np.minimum(old[:2] + shift[:2], np.maximum(after[:2], old[:2]))
    high = np.maximum(old[2:] + shift[2:], np.minimum(after[2:], old[2:]))
    meets = (np.maximum(low, after[:2]) < np.minimum(high, after[2:])).all()
    return _four([*low, *high]) if meets else after


def _resized(xywh: XYXY, xyxy: XYXY) -> XYXY:
    """xywh of the xyxy corners, to the last digit as it was where no side of an axis has moved."""
    x, y, w, h = xywh
    x0, y0, x1, y1 = xyxy
    return x0, y0, w if (x0, x1) == (x, x + w) else x1 - x0, h if (y0, y1) == (y, y + h) else y1 - y0


def _four(values: Sequence[float]) -> XYXY:
    a, b, c, d = map(float, values)
    return a, b, c, d
