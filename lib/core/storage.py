"""Faults of the storage that do not pass by themselves, as one sentence with what is to be done.

with explained(root): ...       # whatever a library raises on a full disk becomes an AugmentError
lasting(error)                  # True: trying again does not help
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from lib.core.errors import AugmentError

_LITTLE = 1_000_000  # bytes that a disk needs to be of use
_FULL = (errno.ENOSPC, errno.EDQUOT)
_CLOSED = (errno.EROFS, errno.EACCES, errno.EPERM)
# Libraries that write without Python's help raise other errors, whose texts hold the system's message; SQLite
# has other texts.
_MESSAGES = {os.strerror(code).lower(): code for code in (*_FULL, errno.EROFS)}
_MESSAGES |= {"database or disk is full": errno.ENOSPC, "storagefull": errno.ENOSPC, "readonlyfilesystem": errno.EROFS}


def lasting(error: BaseException) -> bool:
    """A disk without room or rights, anywhere in the chain of an error: it stays so until a person mends it."""
    return _found(error) is not None


@contextlib.contextmanager
def explained(root: Path) -> Iterator[None]:
    """A lasting fault of the storage in the block is raised as an AugmentError that names workspace and remedy."""
    try:
        yield
    except AugmentError:
        raise
    except Exception as error:
        sentence = explanation(error, root)
        if sentence is None:
            raise
        raise AugmentError(sentence) from error


def explanation(error: BaseException, root: Path | None = None) -> str | None:
    """A lasting fault in a sentence; None for other errors. root: the workspace that is written to, if any."""
    found = _found(error)
    if found is None:
        return None
    code, files = found
    what = os.strerror(code)
    below = [file for file in files if root is not None and Path(file).is_relative_to(root)]
    inside = root is not None and (bool(below) or not files)
    file = next(iter(below or files), None)
    place = f"workspace {root}" if inside else str(file or "the disk")
    beyond = "" if file is None or inside else f" (for {tempfile.gettempdir()}: TMPDIR)" if _temporary(file) else ""
    if code in _FULL:
        other = ", or set `workspace` to a folder on another disk" if inside else ""
        return f"{place} cannot be written ({what}){beyond}: free some space{other}; run again, it goes on where it was"
    if inside:
        return f"{place} cannot be written ({what}{f', {file}' if file else ''}): set `workspace` to another folder"
    return f"{place} cannot be opened ({what}){beyond}: give this user the right to, or name another place"


def unwritable(folder: Path) -> str | None:
    """Why no file can be made in a folder, which is made where it does not exist; None where one can."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return None
    except OSError as error:
        return error.strerror or str(error)


def without_room(folder: Path, setting: str) -> str | None:
    """A sentence where the disk of a folder is full; None where it has room, or the folder does not exist."""
    try:
        free = shutil.disk_usage(folder).free
    except OSError:
        return None
    if free >= _LITTLE:
        return None
    return f"{folder} has {free:,} bytes left: free some space, or set {setting} to a folder on another disk"


def _temporary(file: str) -> bool:
    return Path(file).is_relative_to(tempfile.gettempdir())


def _found(error: BaseException) -> tuple[int, list[str]] | None:
    """(errno, files that it names, the one written to first) of the first lasting fault in a chain of errors."""
    visited: set[int] = set()
    open_: list[BaseException | None] = [error]
    while open_:
        one = open_.pop()
        if one is None or id(one) in visited:
            continue
        visited.add(id(one))
        if isinstance(one, AugmentError):  # explained already
            continue
        if isinstance(one, OSError) and one.errno is not None:
            if one.errno in (*_FULL, *_CLOSED):
                names = (one.filename2, one.filename)  # of a copy the second is the new file
                return one.errno, [os.fsdecode(name) for name in names if isinstance(name, str | bytes)]
        elif code := next((code for text, code in _MESSAGES.items() if text in str(one).lower()), None):
            return code, []
        open_ += [one.__cause__, one.__context__, *getattr(one, "exceptions", ())]
    return None


def free_space(folder: Path) -> int:
    """Bytes left on the disk of a folder, which need not exist yet."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return shutil.disk_usage(folder).free
