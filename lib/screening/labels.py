"""What screening found out about a picture's labels, as ScreenRow.boxes holds it, and what becomes of the labels.

    outcome = judged_labels(outcomes[key], row.boxes, objects)      # some ignored, some dropped, some proposed

An entry is a verdict of the judge on a painted label (boxes.py), a label that a detector proposes (unlabelled.py), or
what a person did to a label (review.py), which comes last and is stronger than the others.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import pandas as pd

from lib.core.geometry import box_polygon
from lib.core.keys import canonical, key_of
from lib.records.labels import ignored
from lib.records.requests import XYXY, Label, Outcome
from lib.screening.verdicts import Action

Objects = Mapping[str, tuple[str, tuple[float, float, float, float]]]  # annotation key → (category, xywh pixels)
UNLABELLED = "unlabelled_object"
PROPOSED = "proposed"
REJECTED_BOX = "rejected_by_person"
_PROPOSAL = "propose:"
_PERSON = "person:"


@dataclass(frozen=True)
class BoxVerdict:
    """What becomes of one painted label, as it stands in ScreenRow.boxes: "position:action:reason:score"."""

    position: int  # in the labels of the request
    action: Action
    reason: str
    score: float | None  # share of its category, 0 .. 1; None where it could not be judged

    def __str__(self) -> str:
        score = "" if self.score is None else f"{self.score:.4g}"
        return f"{self.position}:{self.action}:{self.reason}:{score}"

    @classmethod
    def parse(cls, text: str) -> BoxVerdict:
        """Of `str(verdict)`; raises ValueError for another text."""
        position, action, reason, score = text.split(":")
        return cls(int(position), action, reason, float(score) if score else None)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Proposal:
    """An object that no label names, to be reviewed, as it stands in ScreenRow.boxes: "propose:" and JSON."""

    category: str
    xywh: XYXY  # left, top, width, height, pixels
    score: float  # 0 .. 1

    def __str__(self) -> str:
        return _PROPOSAL + canonical([self.category, list(self.xywh), self.score]).decode()

    @classmethod
    def parse(cls, text: str) -> Proposal:
        """Of `str(proposal)`; raises ValueError for another text."""
        category, (x, y, w, h), score = json.loads(text.removeprefix(_PROPOSAL))
        return cls(str(category), (float(x), float(y), float(w), float(h)), float(score))


@dataclass(frozen=True)
class Correction:
    """What a person did to a label, as it stands in ReviewRow.boxes: "person:" and JSON."""

    position: int | None  # in the labels, proposed ones included; None: an object that no label names
    action: Literal["keep", "drop"]  # keep: a detector learns it, whatever the judge said
    category: str | None = None  # None: as it was; given with position None
    xywh: XYXY | None = None  # left, top, width, height, pixels; None: where it was; given with position None

    def __str__(self) -> str:
        xywh = None if self.xywh is None else list(self.xywh)
        return _PERSON + canonical([self.position, self.action, self.category, xywh]).decode()

    @classmethod
    def parse(cls, text: str) -> Correction:
        """Of `str(correction)`; raises ValueError for another text."""
        position, action, category, xywh = json.loads(text.removeprefix(_PERSON))
        return cls(position, action, category, None if xywh is None else tuple(map(float, xywh)))  # type: ignore[arg-type]

    @property
    def what(self) -> str:
        """For counts: "dropped: rejected_by_person"."""
        if self.action == "drop":
            return f"dropped: {REJECTED_BOX}"
        if self.position is None:
            return "added: by_person"
        return "kept: accepted_by_person" if self.xywh is None else "moved: by_person"


def box_id(position: int, category: str, xywh: Sequence[float]) -> str:
    """Identity of a label for decisions on it: of a plan that labels the same picture otherwise it is another."""
    return key_of("box", position, category, [round(float(value), 3) for value in xywh])[:16]


def named(label: Label, objects: Objects) -> tuple[str, tuple[float, float, float, float]]:
    """Category and box (xywh pixels) of a label; what it leaves out is its source's."""
    category, bbox = objects[label.source] if label.source is not None else ("", None)
    place = label.bbox or bbox
    assert place is not None  # a new object has a box
    return label.category or category, place


def judged_labels(outcome: Outcome, boxes: Sequence[str], objects: Objects) -> Outcome:
    """The outcome with its labels ignored (the box as runs) and marked dropped as ScreenRow.boxes says.

    Every label keeps its place, to which its id belongs; proposed ones, ignored too, come after them, and then those
    that a person added. Without entries the outcome is returned as it is.
    """
    labels, size = list(outcome.labels), (outcome.height, outcome.width)
    judged, proposed, corrected = split_entries(boxes)
    for verdict in judged:
        label = labels[verdict.position]
        if verdict.action == "drop":
            labels[verdict.position] = label.model_copy(update={"dropped": verdict.reason})
        elif verdict.action == "ignore":
            labels[verdict.position] = ignored(label, named(label, objects)[1], size, verdict.reason)
    for one in proposed:
        labels.append(ignored(Label(source=None, painted=False, category=one.category), one.xywh, size, PROPOSED))
    planned = [*outcome.labels, *labels[len(outcome.labels) :]]
    for change in corrected:
        if change.position is None:
            labels.append(_placed(Label(source=None, painted=False), change, objects))
        elif change.position < len(planned) and change.action == "drop":
            labels[change.position] = labels[change.position].model_copy(update={"dropped": REJECTED_BOX})
        elif change.position < len(planned):
            labels[change.position] = _placed(planned[change.position], change, objects)
    return outcome.model_copy(update={"labels": tuple(labels)}) if len(boxes) else outcome


def _placed(label: Label, change: Correction, objects: Objects) -> Label:
    """The label as a person accepted it, or put it: a box that was moved has no other outline than itself."""
    own = {} if change.category is None else {"category": change.category}
    if change.xywh is None and not label.ignored:
        return label.model_copy(update=own)
    xywh = change.xywh or named(label, objects)[1]
    shape = {"bbox": xywh, "segmentation": (box_polygon(xywh),), "area": xywh[2] * xywh[3]}
    return label.model_copy(update={**own, **shape, "ignored": "", "visible": None})


def split_entries(boxes: Iterable[str]) -> tuple[list[BoxVerdict], list[Proposal], list[Correction]]:
    """Entries of ScreenRow.boxes or ReviewRow.boxes by their kind."""
    texts = list(boxes)
    judged = [BoxVerdict.parse(text) for text in texts if not text.startswith((_PROPOSAL, _PERSON))]
    proposed = [Proposal.parse(text) for text in texts if text.startswith(_PROPOSAL)]
    return judged, proposed, [Correction.parse(text) for text in texts if text.startswith(_PERSON)]


_DONE = {"keep": "kept", "ignore": "ignored", "drop": "dropped"}


def count_verdicts(batches: Iterable[pd.DataFrame]) -> dict[str, int]:
    """Boxes by what becomes of them and why, of ScreenRows or ReviewRows: {"boxes dropped: not_recognised": 3}."""
    counts: Counter[str] = Counter()
    for boxes in (boxes for rows in batches for boxes in rows.boxes):
        judged, proposed, corrected = split_entries(boxes)
        by_person = {change.position for change in corrected}
        counts.update(
            f"boxes {_DONE[verdict.action]}: {verdict.reason}"
            for verdict in judged
            if verdict.position not in by_person
        )
        counts.update([f"boxes {PROPOSED}: {UNLABELLED}"] * len(proposed))
        counts.update(f"boxes {change.what}" for change in corrected)
    return dict(sorted(counts.items()))
