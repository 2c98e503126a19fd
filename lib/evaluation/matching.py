"""Which real picture each generated one was made from.

made_from = sources_of(real, made)                       # {number in made: number in real}
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from hashlib import blake2b
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lib.evaluation.sides import Entry, Side


class Sources(Mapping[int, int]):
    """Number of each generated picture → number of the real one that it was made from, where that is known."""

    def __init__(self, numbers: NDArray[np.int64]) -> None:
        self.numbers = numbers  # of the real ones by those of the generated; -1: not known

    def __getitem__(self, number: int) -> int:
        if not 0 <= number < len(self.numbers) or self.numbers[number] < 0:
            raise KeyError(number)
        return int(self.numbers[number])

    def __iter__(self) -> Iterator[int]:
        return map(int, np.flatnonzero(self.numbers >= 0))

    def __len__(self) -> int:
        return int((self.numbers >= 0).sum())


def sources_of(real: Side, made: Side) -> Sources:
    """The real picture that each generated one was made from, where that is in `real`.

    By the recorded id of its source where both sides are of one file, else by the recorded name, else by the picture's
    name: its path under the folder, then its stem, where exactly one real picture has that stem and the two are not in
    different folders.
    """
    ids, names = hashes_of(text for entry in real.entries for text in (entry.id, entry.name)).reshape(-1, 2).T
    told_ids, told = hashes_of(text for entry in made.entries for text in _told(entry)).reshape(-1, 2).T
    found = _last(names, told)
    if real.file in (made.file, None):
        by_id = _last(ids, told_ids)
        found = np.where(by_id >= 0, by_id, found)
    left = np.flatnonzero(found < 0).tolist()
    if left:
        stems = hashes_of(Path(entry.name).stem for entry in real.entries)
        named = np.flatnonzero((_last(names, names) == np.arange(len(names))) & (names != 0))
        once, counts = np.unique(stems[named], return_counts=True)
        stems[~np.isin(stems, once[counts == 1])] = 0
        stems[~np.isin(np.arange(len(stems)), named)] = 0
        for number in left:
            path = Path(_told(made.entries[number])[1])
            (source,) = _last(stems, hashes_of([path.stem])).tolist()
            if source >= 0 and len({Path(real.entries[source].name).parent, path.parent} - {Path()}) < 2:
                found[number] = source
    return Sources(found)


def _told(entry: Entry) -> tuple[str, str]:
    """Id and name that the picture's source is looked for by."""
    return entry.source or ("", entry.name)


def hashes_of(texts: Iterable[str]) -> NDArray[np.uint64]:
    """(N,) of N texts; 0 of an empty one."""
    digests = (blake2b(text.encode(errors="surrogatepass"), digest_size=8).digest() if text else b"" for text in texts)
    return np.fromiter(map(int.from_bytes, digests), np.uint64)


def _last(hashes: NDArray[np.uint64], wanted: NDArray[np.uint64]) -> NDArray[np.int64]:
    """(M,) where each of M hashes stands last among N; -1 where it does not, or is 0."""
    order = np.argsort(hashes, kind="stable")
    ranks = np.searchsorted(hashes, wanted, side="right", sorter=order) - 1
    at = order[ranks] if len(order) else ranks
    there = (ranks >= 0) & (wanted != 0)
    there[there] = hashes[at[there]] == wanted[there]
    return np.where(there, at, -1)
