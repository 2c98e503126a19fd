"""What a judge says of boxes: the shares of the names that it chooses from, kept in the store.

    question = Question(["painted", picture, sha256], names, context)
    shares_of(question, xyxy, judge, load, store)          # (N, C); question.keys(...): where they are kept

By the picture, the boxes, the names and the judge, so that a rerun calls the judge only for new boxes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from lib.core.compute import model_faults
from lib.core.keys import canonical, key_of
from lib.core.vision import Pixels
from lib.judges import Judge, score_boxes
from lib.records.kept import typed
from lib.records.store import Store

VERSION = 1  # raised whenever a judge would be asked otherwise


@dataclass(frozen=True)
class Question:
    """The picture and names that a judge scores."""

    what: list[str]
    names: Sequence[str]
    context: float

    def key(self, xyxy: NDArray[np.float64], judge: str) -> str:
        """The key in the store of the shares for (N, 4) boxes, pixels; judge: its identity."""
        return key_of("shares", VERSION, self.what, xyxy.tolist(), judge, list(self.names), self.context)

    def of_halves(self) -> Question:
        """The same, for parts of boxes: without what lies around them."""
        return replace(self, context=0.0)

    def keys(self, xyxy: NDArray[np.float64], judge: str, halves: bool) -> list[str]:
        """Of the boxes, and where it is asked of their halves."""
        return [self.key(xyxy, judge), *([self.of_halves().key(halves_of(xyxy), judge)] if halves else [])]


def shares_of(
    question: Question, xyxy: NDArray[np.float64], judge: Judge, load: Callable[[], Pixels], store: Store
) -> NDArray[np.float64]:
    """(N, C) shares of the names for (N, 4) boxes of one picture, pixels; from the store, else scored now, and kept."""
    key, shape = question.key(xyxy, judge.identity), (len(xyxy), len(question.names))
    known = typed(
        store.get("shares", key), list[list[float]], lambda rows: [len(r) for r in rows] == [shape[1]] * shape[0]
    )
    if known is None:
        with model_faults():
            scores = score_boxes(judge, load(), xyxy, question.names, question.context)
        # Six digits, so that limits do not hang on how boxes happened to be batched; and the same read or made.
        known = [[float(f"{share:.6g}") for share in row] for row in scores.tolist()]
        store.put("shares", key, canonical(known))
    return np.array(known, np.float64).reshape(shape)


def halves_of(xyxy: NDArray[np.float64]) -> NDArray[np.float64]:
    """(4 N, 4): left, right, upper and lower half of each of (N, 4) boxes."""
    x0, y0, x1, y1 = xyxy.T
    x, y = (x0 + x1) / 2, (y0 + y1) / 2
    parts = ((x0, y0, x, y1), (x, y0, x1, y1), (x0, y0, x1, y), (x0, y, x1, y1))
    return np.stack([np.stack(part, 1) for part in parts], 1).reshape(-1, 4)


def shares_of_halves(
    question: Question,
    xyxy: NDArray[np.float64],
    judge: Judge,
    load: Callable[[], Pixels],
    store: Store,
    asked: bool,
) -> NDArray[np.float64]:
    """(N, 4, C) of the halves of (N, 4) boxes, NaN where they are not asked for."""
    shape = (len(xyxy), 4, len(question.names))
    if not asked:
        return np.full(shape, np.nan)
    return shares_of(question.of_halves(), halves_of(xyxy), judge, load, store).reshape(shape)
