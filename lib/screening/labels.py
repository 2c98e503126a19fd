"""What screening found out about a picture's labels, as ScreenRow.boxes holds it, and what becomes of the labels.

    outcome = judged_labels(outcomes[key], row.boxes, objects)      # some ignored, some dropped, some proposed

An entry is a verdict of the judge on a painted label (boxes.py), or a label that a detector proposes (unlabelled.py).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from lib.core.keys import canonical
from lib.records.labels import ignored
from lib.records.requests import XYXY, Label, Outcome
from lib.screening.verdicts import Action

Objects = Mapping[str, tuple[str, tuple[float, float, float, float]]]  # annotation key → (category, xywh pixels)
UNLABELLED = "unlabelled_object"
PROPOSED = "proposed"
_PROPOSAL = "propose:"


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


def named(label: Label, objects: Objects) -> tuple[str, tuple[float, float, float, float]]:
    """Category and box (xywh pixels) of a label; what it leaves out is its source's."""
    category, bbox = objects[label.source] if label.source is not None else ("", None)
    place = label.bbox or bbox
    assert place is not None  # a new object has a box
    return label.category or category, place


def judged_labels(outcome: Outcome, boxes: Sequence[str], objects: Objects) -> Outcome:
    """The outcome with its labels ignored (the box as runs) and marked dropped as ScreenRow.boxes says.

    Every label keeps its place, to which its id belongs; proposed ones, ignored too, come after them. Without entries
    the outcome is returned as it is.
    """
    labels, size = list(outcome.labels), (outcome.height, outcome.width)
    judged, proposed = _split(boxes)
    for verdict in judged:
        label = labels[verdict.position]
        if verdict.action == "drop":
            labels[verdict.position] = label.model_copy(update={"dropped": verdict.reason})
        elif verdict.action == "ignore":
            labels[verdict.position] = ignored(label, named(label, objects)[1], size, verdict.reason)
    for one in proposed:
        labels.append(ignored(Label(source=None, painted=False, category=one.category), one.xywh, size, PROPOSED))
    return outcome.model_copy(update={"labels": tuple(labels)}) if len(boxes) else outcome


def _split(boxes: Iterable[str]) -> tuple[list[BoxVerdict], list[Proposal]]:
    """Entries of ScreenRow.boxes by their kind."""
    texts = list(boxes)
    judged = [BoxVerdict.parse(text) for text in texts if not text.startswith(_PROPOSAL)]
    return judged, [Proposal.parse(text) for text in texts if text.startswith(_PROPOSAL)]


_DONE = {"keep": "kept", "ignore": "ignored", "drop": "dropped"}


def count_verdicts(rows: pd.DataFrame) -> dict[str, int]:
    """Boxes by what becomes of them and why, of ScreenRows or ReviewRows: {"boxes dropped: not_recognised": 3}."""
    judged, proposed = _split(text for boxes in rows.boxes for text in boxes)
    counts = Counter(f"boxes {_DONE[verdict.action]}: {verdict.reason}" for verdict in judged)
    counts.update(f"boxes {PROPOSED}: {UNLABELLED}" for _ in proposed)
    return dict(sorted(counts.items()))
