"""A workspace in a bucket and its working copy here: when which of them follows the other. Data sets: bucket_sets.py.

    with held(root):            # across machines: a lease; the copy is brought up to date, and sent at the end
        ...
    here(path, sha256=...)      # the file, brought from the bucket where the copy lacks it, or has other bytes
    send(path)                  # a finished file, on its way while work goes on
    settle(path, ...)           # these files, once all that was sent before has arrived
    push(root)                  # whatever else changed
    attach(root)                # of a worker on any machine: the same calls, with a copy that may be of long ago

All of these do nothing for a path of this machine. An item of the store never changes, so it is read through, and
written through beside the work; everything else is small, and is the same here as there at every part's end. What is
sent is noted beside the copy until it has arrived: a bucket that went away gets it at the next run.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from lib.core.bucket import Bucket
from lib.core.copy_notes import make_folder
from lib.core.errors import AugmentError
from lib.core.files import NO_FILE, atomic_path, file_digest
from lib.core.lease import Lease, leased
from lib.core.places import url_of
from lib.core.working_copy import AT_ONCE, WorkingCopy, copy_name

_copies: dict[Path, WorkingCopy] = {}
_leases: dict[Path, Lease] = {}


# --- files of the working copy -----------------------------------------------------------------------------------


def fetch(path: Path, mark: bool = False, sha256: str = "") -> bool:
    """Bring a file that is not here from its bucket; whether it is here now.

    mark: its time says which version it is; sha256: only with these bytes, else what is here stays. Raises AugmentError
    where the bucket cannot be read.
    """
    url = url_of(path)
    if url is None:
        return False
    bucket = Bucket(url)
    try:
        with atomic_path(path) as temporary:
            about = bucket.info() if mark else None
            bucket.fetch_into("", temporary)
            if sha256 and file_digest(temporary) != sha256:
                raise FileNotFoundError(path)
            if about is not None:
                os.utime(temporary, ns=(about.mark, about.mark))
    except FileNotFoundError:
        return False
    if (copy := _copy_with(path)) is not None:
        copy.note_fetched(path)
    return True


def here(path: Path, mark: bool = False, sha256: str = "") -> Path:
    """The path itself, once its file is here where its bucket has it; with `sha256` once it has these bytes, where the
    bucket has them. mark: as `fetch`."""
    if not sha256 and not path.exists():
        fetch(path, mark)
    if sha256 and url_of(path) is not None:
        brought(path, sha256, mark)
    return path


def brought(path: Path, sha256: str, mark: bool = False) -> bool:
    """Is a file here with these bytes, from its bucket where it was not? mark: as `fetch`."""
    try:
        info = path.stat()
        if _digest(path, info.st_ino, info.st_size, info.st_mtime_ns) == sha256:
            return True
    except OSError as error:
        if error.errno not in NO_FILE:
            raise
    return fetch(path, mark, sha256)


@functools.lru_cache(4096)
def _digest(path: Path, *state: int) -> str:
    """Of a file that is in this state: large manifests are asked for many times."""
    return file_digest(path)


def bring_all(paths: Iterable[Path]) -> None:
    """`here` of many files at once."""
    if missing := [path for path in paths if not path.exists() and url_of(path) is not None]:
        with ThreadPoolExecutor(AT_ONCE) as pool:
            list(pool.map(fetch, missing))


def item(path: Path) -> Path:
    """`here` of an item of the store. One that a worker's copy has of an earlier run is in the bucket from then on."""
    if not path.exists():
        fetch(path)
    elif (copy := _copy_with(path)) is not None:
        copy.vouch(path)
    return path


def exists(path: Path) -> bool:
    """Does the bucket of a path have it? False for a path of this machine."""
    url = url_of(path)
    if url is None:
        return False
    try:
        return Bucket(url).info() is not None
    except FileNotFoundError:
        return False


def send(path: Path) -> None:
    """A finished file on its way to the bucket: an item of the store, or a drawing."""
    if (copy := _copy_with(path)) is not None:
        copy.send(path)


def settle(*paths: Path) -> None:
    """Files in the bucket, in this order, once everything that was sent before is there."""
    if (copy := _copy_with(paths[0])) is not None:
        copy.settle(paths)


def drain(path: Path) -> None:
    """Everything that was sent to the bucket of a path is there."""
    if (copy := _copy_with(path)) is not None:
        copy.drain()


def push(root: Path, whole: bool = False) -> None:
    """All files of a workspace that changed, in the bucket. whole: those of single pictures too."""
    check(root)
    if (copy := _copies.get(root)) is not None:
        copy.push(whole)


def remove(path: Path) -> None:
    """Remove a file, here and, at the next push, in the bucket."""
    path.unlink(missing_ok=True)
    if (copy := _copy_with(path)) is not None:
        copy.forget(path)


def check(root: Path) -> None:
    """Raises AugmentError where another run has taken over the workspace."""
    if (lease := _leases.get(root)) is not None:
        lease.check()


def _copy_with(path: Path) -> WorkingCopy | None:
    if not _copies:
        return None
    return next((_copies[folder] for folder in path.parents if folder in _copies), None)


# --- a workspace as a whole --------------------------------------------------------------------------------------


@contextlib.contextmanager
def held(root: Path, report: Callable[[str], object]) -> Iterator[None]:
    """Hold a workspace across machines, where it lies in a bucket or on a disk that machines share.

    The caller holds it on this machine. report: receives a sentence where this takes time. Raises AugmentError where
    another run holds it, or the bucket cannot be used.
    """
    url = url_of(root)
    if url is None and not on_shared_disk(root):
        yield
        return
    with leased(Bucket(url or f"file://{root}"), copy=copy_name(root) if url else "", report=report) as lease:
        _leases[root] = lease
        try:
            if url is None:
                yield
            else:
                yield from _copied(root, lease)
        finally:
            del _leases[root]


def _copied(root: Path, lease: Lease) -> Iterator[None]:
    copy = _copies[root] = WorkingCopy(root)
    try:
        copy.open(lease.number)
        try:
            yield
        except BaseException:
            with contextlib.suppress(AugmentError, OSError):  # the first error is the one to tell
                push(root, whole=True)
            raise
        push(root, whole=True)
    finally:
        del _copies[root]
        copy.close()


def attach(root: Path) -> bool:
    """Send from now on what this process, a worker of a run elsewhere, makes in a workspace; False where it is no such
    worker, or no bucket's. Raises AugmentError where the working copy cannot be made.

    Its copy may be of long ago: what it reads goes by digest (`here`), or is an item of the store (`item`).
    """
    if url_of(root) is None or root in _leases:
        return False
    if root not in _copies:
        make_folder(root)
        _copies[root] = WorkingCopy(root, worker=True)
    return True


def detach(root: Path) -> None:
    """The end of `attach`, once what was sent has arrived, or cannot."""
    if root in _leases or (copy := _copies.pop(root, None)) is None:
        return
    with contextlib.suppress(AugmentError, OSError):  # a part that reads it has told
        copy.drain()
    copy.close()


def look(root: Path, whole: bool = False) -> None:
    """Bring a workspace's small files up to date, for who only reads them. whole: those of single pictures too.

    Raises AugmentError where the bucket is not there, or may not be read.
    """
    url = url_of(root)
    if url is None or root in _copies:
        return
    make_folder(root)
    copy = WorkingCopy(root, hurry=True)
    try:
        copy.pull(trusted=copy.number() > 0, whole=whole)
    finally:
        copy.close()


_SHARED = ("nfs", "cifs", "smb", "lustre", "gpfs", "beegfs", "ceph", "glusterfs", "afs", "pvfs", "wekafs", "fuse.sshfs")


def on_shared_disk(folder: Path) -> bool:
    """Does a folder lie on a disk that several machines may have, by the kind of its file system?"""
    import psutil

    with contextlib.suppress(OSError):
        disks = {disk.mountpoint: disk.fstype for disk in psutil.disk_partitions(all=True)}
        mount = next((str(one) for one in (folder, *folder.parents) if str(one) in disks), "")
        return disks.get(mount, "").startswith(_SHARED)
    return False
