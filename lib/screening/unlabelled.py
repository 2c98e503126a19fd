"""Objects that no label names: what a detector finds in what was painted, beside the labels.

    rows = find_unlabelled(rows, outcomes, objects, sought, detector, store)     # ScreenRows, some set aside

Painters add what nobody asked for, and a detector that is trained on it learns to take such objects for background.
What was found is kept in the store by the picture, the names and the detector, so that other limits cost nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from lib.core.compute import model_faults
from lib.core.geometry import outer_pixels, rectangles_mask, xyxy_to_xywh
from lib.core.images import PictureError, load_rgb
from lib.core.keys import canonical, key_of
from lib.core.vision import Pixels
from lib.records.kept import typed
from lib.records.requests import Outcome
from lib.records.rows import OK, REJECTED, ScreenRow
from lib.records.store import Store
from lib.screening.labels import UNLABELLED, Objects, Proposal, judged_labels, named

VERSION = 1
_NAMED = 3  # objects that a detail names

Advance = Callable[[int], None]
Found = list[list[float]]  # left, top, right, bottom (pixels), score, number of the name; the surest first


class Detections(Protocol):
    """What a detector gives for a picture, as lib.evaluation.detectors has it."""

    boxes: NDArray[np.float64]  # (N, 4) xyxy pixels
    scores: NDArray[np.float64]  # (N,) 0 .. 1
    labels: NDArray[np.int64]  # (N,) number of the name


class Detector(Protocol):
    """What is needed of one: tasks/ has the family, which stands in a room that this one does not import from."""

    @property
    def identity(self) -> str:
        """Which detector, for the record."""

    def detect(self, pictures: Sequence[Pixels], names: Sequence[str]) -> Sequence[Detections]:
        """Objects of these names in each picture, the surest first."""


class Sought(BaseModel):
    """All that the rows depend on: small values that can be sent to other processes. Limits: UnlabelledSettings."""

    model_config = ConfigDict(frozen=True)

    detector: str  # its identity
    names: tuple[str, ...]
    do: Literal["reject", "propose"]
    score: float
    overlap: float
    inside: float


def find_unlabelled(
    rows: Iterable[ScreenRow],
    outcomes: Mapping[str, Outcome],
    objects: Objects,
    sought: Sought,
    detector: Detector,
    store: Store,
    advance: Advance = lambda n: None,
) -> list[ScreenRow]:
    """The rows, those with such an object set aside as `unlabelled_object`, or with a Proposal each in `boxes`.

    Labels are as the judge of boxes left them: what it dropped names nothing. Rows that are set aside already pass as
    they are. outcomes: by key, of those that are ok.
    """
    searched = []
    for row in rows:
        searched.append(_search(row, outcomes[row.key], objects, sought, detector, store) if row.status == OK else row)
        advance(1)
    return searched


def found_key(row: Any, names: Sequence[str], detector: str) -> str:
    """The key in the store of what a detector found in a picture, of its PictureRow or ScreenRow."""
    return key_of("found", VERSION, row.picture, row.sha256, list(names), detector)


def _search(
    row: ScreenRow, outcome: Outcome, objects: Objects, sought: Sought, detector: Detector, store: Store
) -> ScreenRow:
    try:
        found = _found(row, sought, detector, store)
    except PictureError as error:
        return replace(row, status=REJECTED, reason=error.reason, detail=error.detail)
    proposals = _unlabelled(found, judged_labels(outcome, row.boxes, objects), objects, sought)
    if not proposals:
        return row
    if sought.do == "propose":
        return replace(row, boxes=[*row.boxes, *map(str, proposals)])
    return replace(row, status=REJECTED, reason=UNLABELLED, detail=_detail(proposals))


def _found(row: ScreenRow, sought: Sought, detector: Detector, store: Store) -> Found:
    """What the detector finds in a picture; from the store, else found now, and kept."""
    key = found_key(row, sought.names, sought.detector)
    known = typed(store.get("found", key), Found, lambda found: all(len(one) == 6 for one in found))
    if known is not None:
        return known
    data = store.get("picture", row.picture)
    if data is None:
        raise PictureError("picture_lost", f"{row.name} is no longer in the store")
    picture = load_rgb(data, "stored")
    with model_faults():
        (made,) = detector.detect([picture], sought.names)
    # Rounded, so that the same is read or made.
    found = [
        [*(round(side, 2) for side in box), float(f"{score:.4g}"), float(label)]
        for box, score, label in zip(made.boxes.tolist(), made.scores.tolist(), made.labels.tolist(), strict=True)
    ]
    store.put("found", key, canonical(found))
    return found


def _unlabelled(found: Found, outcome: Outcome, objects: Objects, sought: Sought) -> list[Proposal]:
    """The objects above the score, painted for the most part, on no label and on none that is surer."""
    kept = [label for label in outcome.labels if not label.dropped]
    taken = [(named(label, objects)[1], bool(label.ignored)) for label in kept]
    proposals = []
    for *xyxy, score, number in found:
        if score <= sought.score or not _painted(xyxy, outcome, sought.inside):
            continue
        x, y, w, h = xyxy_to_xywh(np.array(xyxy)).round(2).tolist()
        if _most_on((x, y, w, h), taken) > sought.overlap:
            continue
        taken.append(((x, y, w, h), False))
        proposals.append(Proposal(sought.names[int(number)], (x, y, w, h), score))
    return proposals


def _painted(xyxy: Sequence[float], outcome: Outcome, least: float) -> bool:
    """Does so large a share of a box lie in what was painted?"""
    view = outer_pixels(tuple(xyxy))
    return bool(rectangles_mask(outcome.regions, view).mean() >= least)


def _most_on(xywh: Sequence[float], taken: Sequence[tuple[Sequence[float], bool]]) -> float:
    """The largest IoU of a box with the others, or the share of it in those that are ignored, as COCO counts crowds."""
    from pycocotools import mask

    if not taken:
        return 0.0
    others = np.array([box for box, _ in taken], np.float64)
    ious = mask.iou(np.array([xywh], np.float64), others, [int(crowd) for _, crowd in taken])
    return float(np.max(ious))


def _detail(proposals: Sequence[Proposal]) -> str:
    listed = [
        f"{one.category} ({one.score:.2f}) at {', '.join(f'{side:.0f}' for side in one.xywh)}"
        for one in proposals[:_NAMED]
    ]
    more = [f"{len(proposals) - _NAMED} more"] if len(proposals) > _NAMED else []
    return "; ".join(listed + more)
