"""Which pictures are measured of sets too large to measure all: a random sample, always the same of the same sets.

real, made = sampled(real, made, most=20_000)

Some measures compare each picture with each, and a few ten thousand tell what a million would.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lib.evaluation.matching import hashes_of, sources_of
from lib.evaluation.sides import Side
from lib.records.roll import listed


def sampled(real: Side, made: Side, most: int, folder: Path | None = None) -> tuple[Side, Side]:
    """At most so many pictures of each side, in their order.

    Chosen by hashes of their names, a generated picture by its source's, so that all that was made from one picture
    comes together; of the real ones those first that something chosen was made from. folder: as of `read_side`.
    """
    if max(len(real.entries), len(made.entries)) <= most:
        return real, made
    sources = sources_of(real, made).numbers
    of_real, of_made = (hashes_of(entry.name for entry in side.entries) for side in (real, made))
    of_made[sources >= 0] = of_real[sources[sources >= 0]]
    chosen = _least(of_made, most)
    origins = np.unique(sources[chosen])
    rank = of_real.copy()
    rank[origins[origins >= 0]] = 0  # first of all
    return _some(real, _least(rank, most), folder), _some(made, chosen, folder)


def _least(hashes: NDArray[np.uint64], most: int) -> NDArray[np.int64]:
    """(most,) numbers of the smallest, in their order."""
    return np.sort(np.argsort(hashes, kind="stable")[:most])


def _some(side: Side, chosen: NDArray[np.int64], folder: Path | None) -> Side:
    entries = listed(folder)
    for number in chosen.tolist():
        entries.append(side.entries[number])
    return replace(side, entries=entries)
