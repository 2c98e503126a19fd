"""Files: written by rename, so that a reader finds all or the former; SHA-256 of bytes and files."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from lib.core.errors import AugmentError

# Error numbers of a path that is not a file: a folder, a circle of links, a file where a folder above it should be.
NO_FILE = frozenset((errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.EEXIST))


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A path beside `path` for a new file, which is renamed onto it at the end, or removed on an error.

    Few calls of the system, as each lets other threads take over. Raises AugmentError where a folder has the name of
    the file, or something else that of a folder above it.
    """
    temporary = unused_path(path.parent, path.suffix[:20])
    try:
        if not path.parent.is_dir():
            path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _in_the_way(path, error) from None
    try:
        yield temporary
        try:
            temporary.replace(path)
        except OSError as error:
            raise _in_the_way(path, error) from None
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def unused_path(folder: Path, suffix: str) -> Path:
    """A path in a folder that nobody has yet, hidden, for a file that does not stay."""
    return folder / f".tmp-{uuid.uuid4().hex}{suffix}"


def _in_the_way(path: Path, error: OSError) -> Exception:
    """The error that names what is to be removed; the same one where nothing is in the way."""
    if error.errno in NO_FILE:
        if path.is_dir() and not path.is_symlink():
            return AugmentError(f"{path} is a folder, and a file is to be written there: remove it")
        for folder in path.parents:
            if os.path.lexists(folder) and not folder.is_dir():
                return AugmentError(f"{folder} is not a folder, and {path.name} is to be written below it: remove it")
    return error


def atomic_write(path: Path, data: bytes, durable: bool = False) -> None:
    """Write bytes so that a reader finds all of them or the former file.

    durable: after a power cut too; for the few files that cannot be made again (milliseconds each).
    """
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        file.write(data)
        if durable:
            to_disk(file)


def to_disk(file: IO[bytes]) -> None:
    """What was written to an open file is on the disk, after a power cut too."""
    file.flush()
    os.fsync(file.fileno())


def write_private(path: Path, data: bytes) -> bool:
    """Write bytes by rename so that their owner alone can read them, mode 0600; False where that cannot be, as on a
    disk that keeps no modes: then what was there stays."""
    try:
        handle, name = tempfile.mkstemp(prefix=".tmp-", dir=path.parent)  # mode 0600
    except OSError:
        return False
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        if Path(name).stat().st_mode & 0o077:
            return False
        Path(name).replace(path)
        return True
    except OSError:
        return False
    finally:
        Path(name).unlink(missing_ok=True)


def files_below(folder: Path, *suffixes: str) -> list[Path]:
    """What lies below a folder, at any depth, with one of these suffixes, in any case; sorted.

    Hidden files, and what is in hidden folders, are left out: an editor's or a system's copies are not data.
    """
    return sorted(each_below(folder, *suffixes))


def each_below(folder: Path, *suffixes: str) -> Iterator[Path]:
    """`files_below` one by one, in no order."""
    folders = [folder]
    while folders:
        gone = contextlib.suppress(FileNotFoundError, NotADirectoryError, PermissionError)
        with gone, os.scandir(folders.pop()) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                path = Path(entry.path)
                if entry.is_dir(follow_symlinks=False):
                    folders.append(path)
                if path.suffix.lower() in suffixes:
                    yield path


def is_hidden(path: Path) -> bool:
    """A path, relative to the folder that was given, of which a part begins with a dot."""
    return any(part.startswith(".") for part in path.parts)


def digest(data: bytes) -> str:
    """SHA-256, hex."""
    return hashlib.sha256(data).hexdigest()


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes, hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
