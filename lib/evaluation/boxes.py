"""How many boxes there are of each category, how large they are and where they stand: real ones beside new ones."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from lib.evaluation.metrics import Details
from lib.evaluation.sides import Entry, Side

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
    theirs, ours = [entry for side in real for entry in side.entries], generated.entries
    before, new, painted = _named(theirs), _named(ours), _named(ours, painted=True)
    if not before or not new:
        return None
    names = sorted(before | new, key=lambda name: (-before[name], name))
    counts = {name: CategoryCount(before=before[name], new=new[name], painted=painted[name]) for name in names}
    shares = {"real": _shares(theirs), "painted": _shares(ours, painted=True)}
    sizes = {side: np.histogram(np.sqrt(some[:, 2:].prod(axis=1)), EDGES)[0].tolist() for side, some in shares.items()}
    grid = [np.linspace(0, 1, PLACES + 1)] * 2
    places = {
        side: np.histogram2d(some[:, 1], some[:, 0], grid)[0].astype(int).tolist() for side, some in shares.items()
    }
    added = sum(entry.labels.added for entry in ours if entry.fault is None)
    return BoxFigures(categories=counts, sizes=sizes, places=places, added=added)


def _named(entries: Sequence[Entry], painted: bool = False) -> Counter[str]:
    found: Counter[str] = Counter()
    for labels in (entry.labels for entry in entries if entry.fault is None):
        counted = ~labels.ignore & (labels.painted | (not painted))
        found.update(name for name, counts in zip(labels.categories, counted, strict=True) if counts)
    return found


def _shares(entries: Sequence[Entry], painted: bool = False) -> NDArray[np.float64]:
    """(N, 4) centre, width and height of boxes, as shares of the pictures whose size is known, 0 .. 1."""
    found = [np.zeros((0, 4))]
    for labels in (entry.labels for entry in entries if entry.fault is None and min(entry.labels.size) > 0):
        boxes = labels.boxes[~labels.ignore & (labels.painted | (not painted))] / np.tile(labels.size, 2)
        boxes = boxes.clip(0, 1)
        found.append(np.hstack([(boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]]))
    return np.concatenate(found)
