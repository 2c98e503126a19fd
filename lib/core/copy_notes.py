"""What a working copy knows of its bucket, beside its files: what is the same, what has yet to arrive, what goes."""

from __future__ import annotations

import sqlite3
import threading
from pathlib import Path

from lib.core.errors import AugmentError
from lib.core.places import CACHE, cache_root

ABSENT = (-1, -1)


def stat_of(path: Path) -> tuple[int, int]:
    """(size, mtime_ns); -1 for a file that is not there."""
    try:
        info = path.stat()
    except (OSError, ValueError):
        return ABSENT
    return info.st_size, info.st_mtime_ns


class Notes:
    """What is known of the bucket, in SQLite: a million files need no memory, and a kill leaves it whole."""

    def __init__(self, path: Path) -> None:
        self._lock = threading.Lock()
        self._base = sqlite3.connect(path, timeout=60, isolation_level=None, check_same_thread=False)
        self._run("pragma synchronous = off")
        self._run("create table if not exists files (name text primary key, size int, mtime_ns int, mark int)")
        self._run("create table if not exists owed (name text primary key)")
        self._run("create table if not exists gone (name text primary key)")
        self._run("create table if not exists copy (name text, number int)")
        self._run("insert into copy select hex(randomblob(16)), 0 where not exists (select 1 from copy)")

    def _run(self, command: str, *values: object) -> list[tuple[object, ...]]:
        with self._lock:
            return self._base.execute(command, values).fetchall()

    def close(self) -> None:
        with self._lock:
            self._base.close()

    def name(self) -> str:
        return str(self._run("select name from copy")[0][0])

    def number(self) -> int:
        return int(str(self._run("select number from copy")[0][0]))

    def hold(self, number: int) -> None:
        self._run("update copy set number = ?", number)

    def known(self, name: str) -> tuple[int, int, int]:
        """(size, mtime_ns) of the file when both were the same, and the bucket's mark, 0 where it was not seen."""
        rows = self._run("select size, mtime_ns, mark from files where name = ?", name)
        size, mtime_ns, mark = rows[0] if rows else (-2, -2, 0)
        return int(str(size)), int(str(mtime_ns)), int(str(mark))

    def note(self, name: str, size: int, mtime_ns: int, mark: int) -> None:
        self._run("insert or replace into files values (?, ?, ?, ?)", name, size, mtime_ns, mark)

    def owe(self, name: str) -> None:
        self._run("insert or ignore into owed values (?)", name)

    def arrived(self, name: str) -> None:
        self._run("delete from owed where name = ?", name)

    def owed(self) -> list[str]:
        return [str(name) for (name,) in self._run("select name from owed")]

    def forget(self, name: str) -> None:
        self._run("insert or ignore into gone values (?)", name)
        self._run("delete from files where name = ?", name)

    def forgotten(self, name: str) -> None:
        self._run("delete from gone where name = ?", name)

    def gone(self) -> list[str]:
        return [str(name) for (name,) in self._run("select name from gone")]


def make_folder(folder: Path) -> None:
    """Make a folder of the working copies; raises AugmentError where that cannot be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise AugmentError(
            f"the working copy of {folder} cannot be made in {cache_root()} "
            f"({error.strerror or error}): set {CACHE} to a folder that can be written"
        ) from None
