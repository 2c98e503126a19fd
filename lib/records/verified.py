"""Files of a workspace whose bytes were verified: read again only where size or time changed, so that a rerun is fast.

    verified = VerifiedFiles(root)
    if not verified.whole(path, sha256, lambda: file_digest(path) == sha256): ...
    verified.save()
    keep_shown(root / "contact_sheet.jpg", store, key, draw)     # one file: drawn once, and again where it was damaged

A file that rots without a change of size or time is found only with `anew`, which reads every file.
"""

from __future__ import annotations

import stat
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import pyarrow as pa

from lib.core.files import atomic_write, digest, file_digest
from lib.records.manifest import GROUP, former_batches, to_table, write_batches
from lib.records.rows import OK, VerifiedRow
from lib.records.shelf import Shelf
from lib.records.store import Store


class VerifiedFiles:
    """The files that were found whole, noted in <root>/manifests/seen.parquet; memory does not grow with them.

    anew: ignore the notes of earlier runs.
    """

    def __init__(self, root: Path, anew: bool = False) -> None:
        self._root, self._path = f"{root}/", root / "manifests" / "seen.parquet"
        self._before, self._now = Shelf[str](self._path.parent), Shelf[str](self._path.parent)
        self._new = 0  # files that were not noted before
        for rows in () if anew else former_batches(self._path, VerifiedRow, ("key", *_MARKS)):
            marks = map(file_mark, rows.sha256, rows["size"], rows.mtime_ns)
            self._before.put(zip(rows.key, marks, strict=True))

    def whole(self, path: Path, sha256: str, check: Callable[[], bool]) -> bool:
        """Does the file exist with this digest? `check` reads it where size or time differ from the notes.

        A file that was found whole is not looked at again by this object.
        """
        name = str(path).removeprefix(self._root)
        known = self._now.get(name)
        if known is not None and known.partition(" ")[0] == sha256:
            return True
        mark = _mark(path, sha256)
        same = mark is not None and self._before.get(name) == mark
        if not same:
            mark = _mark(path, sha256) if mark is not None and check() else None  # again: it may have been brought
        if mark is None:
            return False
        self._new += not same
        self._now.put([(name, mark)])
        return True

    def save(self) -> None:
        """Note the files that `whole` found since this object was made, and no others."""
        if self._new or len(self._now) != len(self._before):
            write_batches(self._path, self._tables(), VerifiedRow)

    def _tables(self) -> Iterator[pa.Table]:
        marks = self._now.items()
        while some := list(islice(marks, GROUP)):
            yield to_table([_row(name, mark) for name, mark in some], VerifiedRow)


_MARKS = ("sha256", "size", "mtime_ns")


def _row(name: str, mark: str) -> VerifiedRow:
    sha256, size, mtime_ns = mark.split()
    return VerifiedRow(name, OK, "", "", sha256, int(size), int(mtime_ns))


def file_mark(sha256: str, size: int, mtime_ns: int) -> str:
    """What is noted of a file whose bytes were verified: equal marks, equal bytes, as far as size and time tell."""
    return f"{sha256} {size} {mtime_ns}"


def _mark(path: Path, sha256: str) -> str | None:
    try:
        info = path.stat()
    except OSError:
        return None
    return file_mark(sha256, info.st_size, info.st_mtime_ns) if stat.S_ISREG(info.st_mode) else None  # and no folder


def keep_shown(path: Path, store: Store, key: str, draw: Callable[[], bytes]) -> None:
    """Write the bytes that `draw` returns to a path, unless the file drawn for this key is there, undamaged.

    key: SHA-256 of all that the drawing depends on; the store keeps the file's digest by it.
    """
    known = store.get("shown", key)
    if known is not None and path.is_file() and file_digest(path).encode() == known:
        return
    data = draw()
    atomic_write(path, data)
    store.put("shown", key, digest(data).encode())
