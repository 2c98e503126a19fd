"""Files of a workspace whose bytes were verified: read again only where size or time changed, so that a rerun is fast.

    verified = VerifiedFiles(root)
    if not verified.whole(path, sha256, lambda: file_digest(path) == sha256): ...
    verified.save()
    keep_shown(root / "contact_sheet.jpg", store, key, draw)     # one file: drawn once, and again where it was damaged

A file that rots without a change of size or time is found only with `anew`, which reads every file.
"""

from __future__ import annotations

import stat
from collections.abc import Callable
from pathlib import Path

from lib.core.files import atomic_write, digest, file_digest
from lib.records.manifest import former_manifest, write_manifest
from lib.records.rows import OK, VerifiedRow
from lib.records.store import Store

_Mark = tuple[str, int, int]  # sha256, size in bytes, mtime_ns


class VerifiedFiles:
    """The files that were found whole, noted in <root>/manifests/seen.parquet.

    anew: ignore the notes of earlier runs.
    """

    def __init__(self, root: Path, anew: bool = False) -> None:
        self._root, self._path = f"{root}/", root / "manifests" / "seen.parquet"
        rows = None if anew else former_manifest(self._path, VerifiedRow)
        self._before: dict[str, _Mark] = {}
        if rows is not None:
            self._before = dict(zip(rows.key, zip(rows.sha256, rows["size"], rows.mtime_ns, strict=True), strict=True))
        self._now: dict[str, _Mark] = {}

    def whole(self, path: Path, sha256: str, check: Callable[[], bool]) -> bool:
        """Does the file exist with this digest? `check` reads it where size or time differ from the notes.

        A file that was found whole is not looked at again by this object.
        """
        name = str(path).removeprefix(self._root)
        if name in self._now and self._now[name][0] == sha256:
            return True
        mark = _mark(path, sha256)
        if mark is None or not (self._before.get(name) == mark or check()):
            return False
        self._now[name] = mark
        return True

    def save(self) -> None:
        """Note the files that `whole` found since this object was made, and no others."""
        if self._now != self._before:
            rows = [VerifiedRow(name, OK, "", "", *mark) for name, mark in sorted(self._now.items())]
            write_manifest(self._path, rows, VerifiedRow)


def _mark(path: Path, sha256: str) -> _Mark | None:
    try:
        info = path.stat()
    except OSError:
        return None
    return (sha256, info.st_size, info.st_mtime_ns) if stat.S_ISREG(info.st_mode) else None  # and no folder


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
