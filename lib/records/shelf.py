"""Texts with a value each, more than memory should hold: in a temporary SQLite file beside what they are about.

    known = Shelf[str](root / "parts")
    known.put((row.file_name, row.sha256) for row in rows)
    known.get("a.png"); "b.png" in known; dict(known.items())

A lookup takes some microseconds; the file has no name, so that nothing is left of it after a kill.
"""

from __future__ import annotations

import os
import sqlite3
import tempfile
import weakref
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Generic, TypeVar

T = TypeVar("T", int, str, bytes, None)

_CACHE = 16 * 1024  # KiB of pages that stay in memory


class Shelf(Generic[T]):
    """A mapping of texts, any that a file name may be, to int, str, bytes or None. folder: where its file lies."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=".tmp-", suffix=".sqlite", dir=folder)
        os.close(handle)
        self._rows = sqlite3.connect(name, isolation_level=None, check_same_thread=False)
        for setting in (
            "journal_mode = OFF",
            "synchronous = OFF",
            "locking_mode = EXCLUSIVE",
            f"cache_size = -{_CACHE}",
        ):
            self._rows.execute(f"PRAGMA {setting}")
        self._rows.execute("BEGIN")  # never committed: nobody else reads it
        self._rows.execute("CREATE TABLE kept (key BLOB PRIMARY KEY, value) WITHOUT ROWID")
        Path(name).unlink()
        weakref.finalize(self, self._rows.close)

    def put(self, pairs: Iterable[tuple[str, T]]) -> None:
        """Enter texts, or give those that are there another value."""
        rows = ((_bytes(text), value) for text, value in pairs)
        self._rows.executemany("INSERT OR REPLACE INTO kept VALUES (?, ?)", rows)

    def get(self, text: str) -> T | None:
        """The value; None for a text that is not here."""
        found = self._row(text)
        return found[0] if found else None

    def __getitem__(self, text: str) -> T:
        """The value. Raises KeyError for a text that is not here."""
        found = self._row(text)
        if found is None:
            raise KeyError(text)
        return found[0]

    def _row(self, text: str) -> tuple[T] | None:
        found: tuple[T] | None = self._rows.execute("SELECT value FROM kept WHERE key = ?", (_bytes(text),)).fetchone()
        return found

    def __contains__(self, text: str) -> bool:
        return self._rows.execute("SELECT 1 FROM kept WHERE key = ?", (_bytes(text),)).fetchone() is not None

    def __len__(self) -> int:
        return int(self._rows.execute("SELECT count(*) FROM kept").fetchone()[0])

    def items(self) -> Iterator[tuple[str, T]]:
        """All, sorted by the text's bytes. What is entered meanwhile may be among them or not."""
        for key, value in self._rows.execute("SELECT key, value FROM kept ORDER BY key"):
            yield _text(key), value

    def under(self, text: str) -> Iterator[T]:
        """The values of all texts that begin with this one, sorted by the texts' bytes."""
        begin = _bytes(text)
        found = self._rows.execute(
            "SELECT value FROM kept WHERE key >= ? AND key < ? ORDER BY key", (begin, begin + b"\xff")
        )
        return (value for (value,) in found)


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")  # a file's name may hold bytes that are no UTF-8


def _text(key: bytes) -> str:
    return key.decode("utf-8", "surrogatepass")
