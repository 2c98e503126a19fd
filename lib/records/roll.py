"""A list of more than memory should hold: its items lie in a temporary file, and only their places in memory.

    found = Roll[Entry](root / "parts")
    found.append(entry)
    found[3]; found[::10]; len(found); list(found)

An item is read again whenever it is asked for, which takes some ten microseconds, and is then another object with the
same content. The file has no name, so that nothing is left of it after a kill.
"""

from __future__ import annotations

import os
import pickle
import tempfile
import weakref
from array import array
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar, overload

T = TypeVar("T")


class Roll(Sequence[T], Generic[T]):
    """Items that can be pickled, in the order in which they were added. folder: where its file lies."""

    def __init__(self, folder: Path, items: Iterable[T] = ()) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._file = tempfile.TemporaryFile(prefix=".tmp-", dir=folder)  # noqa: SIM115  # open for as long as the list
        weakref.finalize(self, self._file.close)
        self._ends = array("q", [0])
        for item in items:
            self.append(item)

    def append(self, item: T) -> None:
        data = pickle.dumps(item, pickle.HIGHEST_PROTOCOL)
        self._file.write(data)
        self._ends.append(self._ends[-1] + len(data))

    def __len__(self) -> int:
        return len(self._ends) - 1

    @overload
    def __getitem__(self, at: int) -> T: ...

    @overload
    def __getitem__(self, at: slice) -> list[T]: ...

    def __getitem__(self, at: int | slice) -> T | list[T]:
        if isinstance(at, slice):
            return [self[i] for i in range(*at.indices(len(self)))]
        number = range(len(self))[at]
        self._file.flush()
        start, end = self._ends[number], self._ends[number + 1]
        item: T = pickle.loads(os.pread(self._file.fileno(), end - start, start))
        return item


def listed(folder: Path | None) -> list[Any] | Roll[Any]:
    """An empty list, in memory where there is no folder for it."""
    return Roll[Any](folder) if folder else []
