"""How many boxes there are of each category, how large they are and where they stand: real ones beside new ones."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from lib.evaluation.metrics import Details
from lib.evaluation.sides import Entry, Labels, Side

EDGES = (0.0, 1 / 64, 1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0)  # of a box's side as a share of its picture's
PLACES = 8  # cells in a row


class CategoryCount(Details):
    before: int  # boxes of real pictures
    new: int  # boxes of generated pictures
    painted: int  # of these


class BoxFigures(Details):
    categories: dict[str, CategoryCount]  # the frequent ones first
    sizes: dict[str, list[int]]  # {"real", "painted": boxes between neighbours of EDGES}
    places: dict[str, list[list[int]]]  # {"real", "painted": boxes by the cell of their centre, from the top left}
    added: int = 0  # painted boxes of objects that their pictures did not have


def box_figures(real: Sequence[Side], generated: Side) -> BoxFigures | None:
    """Of labels alone; None where a side has no boxes. Crowds and ignored boxes do not count."""
    before = _Counts.of(entry for side in real for entry in side.entries)
    new, painted = _Counts.of(generated.entries), _Counts.of(generated.entries, painted=True)
    if not before.named or not new.named:
        return None
    names = sorted(before.named | new.named, key=lambda name: (-before.named[name], name))
    counts = {
        name: CategoryCount(before=before.named[name], new=new.named[name], painted=painted.named[name])
        for name in names
    }
    sides = {"real": before, "painted": painted}
    return BoxFigures(
        categories=counts,
        sizes={side: some.sizes.tolist() for side, some in sides.items()},
        places={side: some.places.tolist() for side, some in sides.items()},
        added=new.added,
    )


@dataclass
class _Counts:
    """Of the boxes of some pictures: how many there are of each category, of each size and in each place."""

    named: Counter[str] = field(default_factory=Counter)
    sizes: NDArray[np.int64] = field(default_factory=lambda: np.zeros(len(EDGES) - 1, np.int64))
    places: NDArray[np.int64] = field(default_factory=lambda: np.zeros((PLACES, PLACES), np.int64))
    added: int = 0

    @classmethod
    def of(cls, entries: Iterable[Entry], painted: bool = False) -> _Counts:
        """painted: count these boxes alone."""
        made, usable = cls(), (entry.labels for entry in entries if entry.fault is None)
        while some := list(islice(usable, _AT_ONCE)):
            made._add(some, painted)
        return made

    def _add(self, some: Sequence[Labels], painted: bool) -> None:
        found = [np.zeros((0, 4))]
        for labels in some:
            counted = ~labels.ignore & (labels.painted | (not painted))
            self.named.update(name for name, counts in zip(labels.categories, counted, strict=True) if counts)
            self.added += labels.added
            if min(labels.size) > 0:
                found.append(_shares(labels.boxes[counted], labels.size))
        shares = np.concatenate(found)
        self.sizes += np.histogram(np.sqrt(shares[:, 2:].prod(axis=1)), EDGES)[0]
        grid = [np.linspace(0, 1, PLACES + 1)] * 2
        self.places += np.histogram2d(shares[:, 1], shares[:, 0], grid)[0].astype(np.int64)


_AT_ONCE = 4096  # pictures


def _shares(boxes: NDArray[np.float64], size: tuple[int, int]) -> NDArray[np.float64]:
    """(N, 4) centre, width and height of boxes, as shares of their picture, 0 .. 1."""
    boxes = (boxes / np.tile(size, 2)).clip(0, 1)
    return np.hstack([(boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]])
