"""Review: which of the screened pictures go on, and with which boxes, as persons decided.

    review = Review(settings, log, categories, pictures, folder)
    for screened in batches:
        rows = review.rows(screened, labels_of)
    counts = review.counts()
    rows, counts = review_pictures(screened, settings, log, labels_of, categories)      # of all rows at once

The decisions are those of the page of `augment review` (decisions.py), or files that a person picked, by their names.
"""

from __future__ import annotations

import heapq
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lib.core.errors import AugmentError
from lib.core.files import each_below
from lib.core.images import SUFFIXES
from lib.core.keys import key_of
from lib.datasets.formats.tables import read_text
from lib.records.requests import XYXY
from lib.records.rows import REJECTED
from lib.records.settings import ReviewSettings
from lib.records.shelf import Shelf
from lib.screening.decisions import DecisionLog, Reviewed, Submit, share_interval
from lib.screening.labels import Correction, box_id

LabelsOf = Callable[[Sequence[str]], Mapping[str, Sequence[tuple[str, XYXY]]]]
"""Request keys → (category, xywh pixels) of each label of the picture, proposed ones included."""


@dataclass
class ReviewCounts:
    """What a run tells of its review."""

    strange: list[str]  # picked names that fit no picture
    lost_boxes: int = 0  # decisions on boxes that the pictures have no more
    sample: tuple[int, int, int] | None = None  # accepted, checked, of all in the sample

    def entries(self) -> dict[str, Any]:
        """For the account of a run."""
        entries: dict[str, Any] = {}
        if self.strange:
            entries["picked names that fit nothing"] = len(self.strange)
        if self.lost_boxes:
            entries["decisions on boxes that are no more"] = self.lost_boxes
        if self.sample is not None:
            accepted, checked, size = self.sample
            entries |= {"sample": size, "sample checked": checked}
            if checked:
                low, high = share_interval(accepted, checked)
                entries["sample accepted"] = f"{accepted / checked:.1%} (95 % interval {low:.1%} to {high:.1%})"
        return entries


class Review:
    """What persons decided on a run's ScreenRows that are ok, which come some at a time: `rows` of each, then `counts`.

    Names of picked files count without their suffix, so a copy of the drawn or of the plain picture picks the same;
    what is in the picked files is ignored.
    """

    def __init__(
        self,
        settings: ReviewSettings,
        log: DecisionLog,
        categories: Collection[str],
        pictures: Iterable[str],
        folder: Path,
    ) -> None:
        """categories: names that a label may have; pictures: keys of all pictures, which a sample is taken from;
        folder: room for a temporary file, of as many names as were picked.

        Raises AugmentError where `review.path` is missing from the settings, or is not the folder or file that
        `review.pick` needs.
        """
        self.settings, self.log, self.categories = settings, log, categories
        self.undecided = rest_of(settings, log)
        self._sample = sampled(pictures, settings.sample) if settings.pick == "sample" else None
        self._marks, self._lost = Counter[str](), 0
        self._picked: Shelf[int] | None = None  # stem → whether it fits a picture
        if settings.pick in ("folder", "list"):
            check_review(settings)
            self._picked = Shelf[int](folder)
            self._picked.put((stem, False) for stem in _picked(settings))

    def rows(self, screened: pd.DataFrame, labels_of: LabelsOf) -> pd.DataFrame:
        """The ReviewRows of some ScreenRows, in their order. labels_of: is asked for keys among them."""
        rows = screened[["key", "status", "reason", "detail", "image_key", "picture", "sha256", "name", "boxes"]].copy()
        rows[["decision", "by", "at", "note"]] = ""
        if self.settings.pick == "auto":
            return rows
        if self._picked is not None:
            return _picked_rows(rows, self._picked, self.settings)
        states = [self.log.of(picture, sha256) for picture, sha256 in zip(rows.picture, rows.sha256, strict=True)]
        corrections, lost = _corrections(rows, states, labels_of, self.categories)
        self._lost += lost
        rows = _decided(rows, states, self.undecided)
        rows["boxes"] = _column(rows, ([*boxes, *more] for boxes, more in zip(rows.boxes, corrections, strict=True)))
        if self._sample is not None:
            pairs = zip(rows.picture, states, strict=True)
            self._marks.update(state.status or "" for picture, state in pairs if picture in self._sample)
        return rows

    def counts(self) -> ReviewCounts:
        """Of all rows so far."""
        strange = [stem for stem, fits in self._picked.items() if not fits] if self._picked is not None else []
        sample = None
        if self._sample is not None:
            sample = self._marks["keep"], self._marks["keep"] + self._marks["reject"], len(self._sample)
        return ReviewCounts(strange, max(0, self._lost), sample)


def review_pictures(
    screened: pd.DataFrame,
    settings: ReviewSettings,
    log: DecisionLog,
    labels_of: LabelsOf,
    categories: Collection[str],
) -> tuple[pd.DataFrame, ReviewCounts]:
    """ReviewRows of all ScreenRows that are ok, at once; arguments and errors are those of `Review`."""
    review = Review(settings, log, categories, screened.picture, log.path.parent)
    return review.rows(screened, labels_of), review.counts()


def rest_of(settings: ReviewSettings, log: DecisionLog) -> str:
    """What becomes of pictures without a decision: "keep" or "reject"."""
    submitted = log.last(Submit)
    return settings.undecided or (submitted.undecided if submitted else "keep")


def sampled(pictures: Iterable[str], count: int) -> set[str]:
    """The `count` pictures with the smallest hashes: of equal pictures always the same."""
    return set(heapq.nsmallest(count, pictures, key=lambda picture: key_of("review sample", picture)))


def _decided(rows: pd.DataFrame, states: Sequence[Reviewed], undecided: str) -> pd.DataFrame:
    rows["decision"] = _column(rows, (state.status or "" for state in states))
    for name in ("by", "at", "note"):
        rows[name] = _column(rows, (getattr(state, name) for state in states))
    rejected = rows.decision == "reject"
    rows.loc[rejected, ["status", "reason"]] = [REJECTED, "rejected_by_person"]
    rows.loc[rejected, "detail"] = [
        f"by {by}{f': {note}' if note else ''}" for by, note in zip(rows.by[rejected], rows.note[rejected], strict=True)
    ]
    if undecided == "reject":
        left = ~rejected & (rows.decision != "keep")
        rows.loc[left, ["status", "reason", "detail"]] = [REJECTED, "undecided", "nobody kept it"]
    return rows


def _column(rows: pd.DataFrame, values: Iterable[Any]) -> pd.Series:
    """A column of these values, of no other kind where there are none."""
    return pd.Series(list(values), rows.index, object)


def _corrections(
    rows: pd.DataFrame, states: Sequence[Reviewed], labels_of: LabelsOf, categories: Collection[str]
) -> tuple[list[list[str]], int]:
    """Entries of ReviewRow.boxes for each row, and how many decisions on boxes fit none."""
    keys = [key for key, state in zip(rows.key, states, strict=True) if state.boxes or state.shapes]
    labels, lost = labels_of(keys) if keys else {}, 0
    found: list[list[str]] = []
    for key, state in zip(rows.key, states, strict=True):
        own = corrections_of(state, labels[key], categories) if key in labels else []
        # Not lost: a box that was drawn and deleted again.
        deleted = {box for box, mark in state.boxes.items() if mark == "reject" and box.startswith("new-")}
        lost += len((state.boxes.keys() | state.shapes.keys()) - deleted) - len(own)
        found.append([str(one) for one in own])
    return found, lost


def corrections_of(
    state: Reviewed, labels: Sequence[tuple[str, XYXY]], categories: Collection[str]
) -> list[Correction]:
    """What a person did to the labels of a picture; labels: (category, xywh pixels), proposed ones included.

    Left out is what fits no label any more, and a category that the data set does not have.
    """
    positions = {box_id(i, category, xywh): i for i, (category, xywh) in enumerate(labels)}
    found = []
    for box in [*state.shapes, *(box for box in state.boxes if box not in state.shapes)]:
        position, shape, mark = positions.get(box), state.shapes.get(box), state.boxes.get(box)
        if position is None and (shape is None or not box.startswith("new-")):
            continue
        if mark == "reject":
            if position is not None:
                found.append(Correction(position, "drop"))
        elif shape is not None and shape.category not in categories:
            continue
        elif shape is None:
            found.append(Correction(position, "keep"))
        elif position is None:
            found.append(Correction(None, "keep", shape.category, shape.xywh))
        else:
            other = shape.category if shape.category != labels[position][0] else None
            found.append(Correction(position, "keep", other, shape.xywh))
    return found


# --- picked files ------------------------------------------------------------------------------------------------


def _picked_rows(rows: pd.DataFrame, picked: Shelf[int], settings: ReviewSettings) -> pd.DataFrame:
    stems = [_stem(name) for name in rows.name]
    fits = np.array([stem in picked for stem in stems], bool)
    picked.put((stem, True) for stem, fit in zip(stems, fits.tolist(), strict=True) if fit)
    rows.loc[~fits, ["status", "reason"]] = [REJECTED, "not_picked"]
    rows.loc[~fits, "detail"] = f"not in {settings.path}"
    return rows


def check_review(settings: ReviewSettings) -> None:
    """Raises AugmentError where the folder or list to pick from is missing: a slip must not empty the final set."""
    path, kind = settings.path, settings.pick
    if kind not in ("folder", "list"):
        return
    if path is None:
        raise AugmentError(f"review.pick is {kind!r} but review.path is not set: give the {kind}")
    if not (path.is_dir() if kind == "folder" else path.is_file()):
        what, hint = "text file", "write one name a line"
        if kind == "folder":
            what, hint = "folder", "copy what you want from the workspace's drawn/ into one"
        raise AugmentError(f"review.path {path} is not a {what}: {hint}")


def _picked(settings: ReviewSettings) -> Iterator[str]:
    """Stems of the picked names. settings: that `check_review` found good."""
    path = settings.path or Path()
    if settings.pick == "folder":
        return (_stem(file.name) for file in each_below(path, *SUFFIXES))
    lines = (match[0].strip() for match in re.finditer(r"[^\r\n]+", read_text(path)))
    return (_stem(line) for line in lines if line)


def _stem(name: str) -> str:
    """A name without its suffix, where it has a picture's one: names may hold other dots."""
    path = Path(name)
    return path.stem if path.suffix.lower() in SUFFIXES else path.name
