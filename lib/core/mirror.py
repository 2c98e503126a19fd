"""The working copy of a workspace that lies in a bucket; of data sets: bucket_sets.py.

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
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from lib.core.bucket import Bucket, Found
from lib.core.copy_notes import ABSENT, Notes, make_folder, stat_of
from lib.core.errors import AugmentError
from lib.core.files import NO_FILE, atomic_path, file_digest
from lib.core.lease import Lease, leased
from lib.core.places import url_of

_NOTES = ".remote.sqlite"  # beside the copy's files, so that both go together
_STORE = "store"
_MANY = ("final/images", "drawn")  # a file for every picture
_LAST = ("final/annotations.json", "status.json")  # who finds these finds what they name
AT_ONCE, _WAITING = 16, 256  # requests; files that wait for one

_mirrors: dict[Path, Mirror] = {}
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
    if (mirror := _mirror_of(path)) is not None:
        mirror.note_fetched(path)
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
    elif (mirror := _mirror_of(path)) is not None:
        mirror.vouch(path)
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
    if (mirror := _mirror_of(path)) is not None:
        mirror.send(path)


def settle(*paths: Path) -> None:
    """Files in the bucket, in this order, once everything that was sent before is there."""
    if (mirror := _mirror_of(paths[0])) is not None:
        mirror.settle(paths)


def drain(path: Path) -> None:
    """Everything that was sent to the bucket of a path is there."""
    if (mirror := _mirror_of(path)) is not None:
        mirror.drain()


def push(root: Path, whole: bool = False) -> None:
    """All files of a workspace that changed, in the bucket. whole: those of single pictures too."""
    check(root)
    if (mirror := _mirrors.get(root)) is not None:
        mirror.push(whole)


def remove(path: Path) -> None:
    """Remove a file, here and, at the next push, in the bucket."""
    path.unlink(missing_ok=True)
    if (mirror := _mirror_of(path)) is not None:
        mirror.forget(path)


def check(root: Path) -> None:
    """Raises AugmentError where another run has taken over the workspace."""
    if (lease := _leases.get(root)) is not None:
        lease.check()


def _mirror_of(path: Path) -> Mirror | None:
    if not _mirrors:
        return None
    return next((_mirrors[folder] for folder in path.parents if folder in _mirrors), None)


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
    with leased(Bucket(url or f"file://{root}"), copy=_copy_of(root) if url else "", report=report) as lease:
        _leases[root] = lease
        try:
            if url is None:
                yield
            else:
                yield from _mirrored(root, lease)
        finally:
            del _leases[root]


def _mirrored(root: Path, lease: Lease) -> Iterator[None]:
    mirror = _mirrors[root] = Mirror(root)
    try:
        mirror.open(lease.number)
        try:
            yield
        except BaseException:
            with contextlib.suppress(AugmentError, OSError):  # the first error is the one to tell
                push(root, whole=True)
            raise
        push(root, whole=True)
    finally:
        del _mirrors[root]
        mirror.close()


def attach(root: Path) -> bool:
    """Send from now on what this process, a worker of a run elsewhere, makes in a workspace; False where it is no such
    worker, or no bucket's. Raises AugmentError where the working copy cannot be made.

    Its copy may be of long ago: what it reads goes by digest (`here`), or is an item of the store (`item`).
    """
    if url_of(root) is None or root in _leases:
        return False
    if root not in _mirrors:
        make_folder(root)
        _mirrors[root] = Mirror(root, worker=True)
    return True


def detach(root: Path) -> None:
    """The end of `attach`, once what was sent has arrived, or cannot."""
    if root in _leases or (mirror := _mirrors.pop(root, None)) is None:
        return
    with contextlib.suppress(AugmentError, OSError):  # a part that reads it has told
        mirror.drain()
    mirror.close()


def look(root: Path, whole: bool = False) -> None:
    """Bring a workspace's small files up to date, for who only reads them. whole: those of single pictures too.

    Raises AugmentError where the bucket is not there, or may not be read.
    """
    url = url_of(root)
    if url is None or root in _mirrors:
        return
    make_folder(root)
    mirror = Mirror(root, hurry=True)
    try:
        mirror.pull(trusted=mirror.number() > 0, whole=whole)
    finally:
        mirror.close()


def _copy_of(root: Path) -> str:
    """A name of the working copy, the same as long as it exists."""
    make_folder(root)
    notes = Notes(root / _NOTES)
    try:
        return notes.name()
    finally:
        notes.close()


_SHARED = ("nfs", "cifs", "smb", "lustre", "gpfs", "beegfs", "ceph", "glusterfs", "afs", "pvfs", "wekafs", "fuse.sshfs")


def on_shared_disk(folder: Path) -> bool:
    """Does a folder lie on a disk that several machines may have, by the kind of its file system?"""
    import psutil

    with contextlib.suppress(OSError):
        disks = {disk.mountpoint: disk.fstype for disk in psutil.disk_partitions(all=True)}
        mount = next((str(one) for one in (folder, *folder.parents) if str(one) in disks), "")
        return disks.get(mount, "").startswith(_SHARED)
    return False


class Mirror:
    """A workspace's copy, and what is known of the bucket. worker: others change the bucket meanwhile."""

    def __init__(self, root: Path, hurry: bool = False, worker: bool = False) -> None:
        self.root, self.bucket, self.worker = root, Bucket(url_of(root) or "", hurry), worker
        self.notes = Notes(root / _NOTES)
        self._pool = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="bucket")
        self._room = threading.Semaphore(_WAITING)
        self._lock = threading.Lock()
        self._sent: set[Future[None]] = set()
        self._there: set[str] = set()  # a worker's items that the bucket has
        self._pushing = threading.Lock()

    def number(self) -> int:
        """The fencing number under which this copy was last brought up to date; 0: never."""
        return self.notes.number()

    def open(self, number: int) -> None:
        """Bring the copy up to date under a lease, and send what did not arrive in an earlier run."""
        trusted = number == self.number() + 1  # nobody held it in between: what is here is as new as what is there
        self.pull(trusted, whole=not trusted)
        self.notes.hold(number)
        self._send_owed()

    def close(self) -> None:
        """End the requests that are under way."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        self.notes.close()

    # what is made once

    def send(self, path: Path) -> None:
        name = self._name(path)
        if _is_item(name):
            self.notes.owe(name)
        elif not self.worker and self._is_known(name):
            return
        self._room.acquire()
        future = self._pool.submit(self._send, path, name)
        with self._lock:
            self._sent.add(future)
        future.add_done_callback(lambda done: self._room.release())

    def _send(self, path: Path, name: str) -> None:
        if not _is_item(name):
            self._put(name)
            return
        self.bucket.put(name, path)
        self.notes.arrived(name)
        self._note_there(name)

    def vouch(self, path: Path) -> None:
        """Make sure that the bucket has a worker's item, which an earlier run may have left here, and that it is the
        bucket's where that has another: of a machine with other rounding, say."""
        name = self._name(path)
        if not self.worker or name in self._there:
            return
        try:
            found = self.bucket.info(name)
        except FileNotFoundError:
            self.send(path)
        else:
            if found is not None and found.size != stat_of(path)[0]:
                self.bucket.fetch(name, path)
        self._note_there(name)

    def note_fetched(self, path: Path) -> None:
        """A file has just come from the bucket: it need not be sent."""
        name = self._name(path)
        if _is_item(name):
            self._note_there(name)
        else:
            self.notes.note(name, *stat_of(path), 0)

    def _note_there(self, name: str) -> None:
        if self.worker:
            self._there.add(name)

    def _send_owed(self) -> None:
        for name in self.notes.owed():
            if (self.root / name).is_file():
                self.send(self.root / name)
            else:
                self.notes.arrived(name)

    def drain(self) -> None:
        """Wait for what is under way; raises the first error, once all have ended."""
        with self._lock:
            waited, self._sent = self._sent, set()
        errors = [error for future in waited if (error := future.exception()) is not None]
        if errors:
            raise errors[0]

    # what changes

    def settle(self, paths: Iterable[Path]) -> None:
        self.drain()
        for path in paths:
            self._put(self._name(path))

    def push(self, whole: bool) -> None:
        self.drain()
        self._send_owed()  # what a worker that died had not sent yet
        self.drain()
        with self._pushing:
            changed = [name for name in self._names(whole) if not self._is_known(name)]
            last = [name for name in _LAST if name in changed]
            list(self._pool.map(self._put, [name for name in changed if name not in last]))
            for name in last:
                self._put(name)
            for name in self.notes.gone():
                if not (self.root / name).exists():
                    self.bucket.remove(name)
                self.notes.forgotten(name)

    def _put(self, name: str) -> None:
        path = self.root / name
        before = stat_of(path)
        try:
            self.bucket.put(name, path)
        except FileNotFoundError:  # replaced or removed just now: the next push sees what is there then
            if path.exists():
                raise
            return
        self.notes.note(name, *before, 0)

    def forget(self, path: Path) -> None:
        self.notes.forget(self._name(path))

    def pull(self, trusted: bool, whole: bool) -> None:
        """The bucket's files here. trusted: nobody else wrote there since the copy was last held, so that a file that
        was changed here is the newer one; else the bucket's is. whole: files of single pictures too."""
        wanted, there = [], set()
        for found in self._found(whole):
            there.add(found.name)
            size, mtime_ns, mark = self.notes.known(found.name)
            here = stat_of(self.root / found.name)
            same = mark == found.mark if mark else trusted and size == found.size
            if same and here != ABSENT and (trusted or here == (size, mtime_ns)):
                self.notes.note(found.name, size, mtime_ns, found.mark)
            else:
                wanted.append(found)
        if not trusted:
            for name in self._names(whole):
                if name not in there and self.notes.known(name)[:2] == stat_of(self.root / name):
                    (self.root / name).unlink()  # it was in the bucket, and was removed there
        list(self._pool.map(self._take, wanted))

    def _take(self, found: Found) -> None:
        path = self.root / found.name
        with contextlib.suppress(FileNotFoundError):  # removed just now
            self.bucket.fetch(found.name, path)
            self.notes.note(found.name, *stat_of(path), found.mark)

    def _found(self, whole: bool) -> Iterator[Found]:
        for name, file in self.bucket.top():
            if name == _STORE or _ours(name):
                continue
            if file is not None:
                yield file
            elif whole or name not in _MANY:
                for found in self.bucket.list(name):
                    if whole or not found.name.startswith(tuple(f"{many}/" for many in _MANY)):
                        yield found

    def _names(self, whole: bool) -> Iterator[str]:
        """Files of the copy that the bucket is to have, the store's aside."""
        for folder, folders, files in os.walk(self.root):
            below = Path(folder).relative_to(self.root)
            skipped = {_STORE} if below == Path() else set()
            for name in [*folders]:
                if name in skipped or _ours(name) or (not whole and (below / name).as_posix() in _MANY):
                    folders.remove(name)
            yield from ((below / name).as_posix() for name in files if not _ours(name))

    def _name(self, path: Path) -> str:
        return path.relative_to(self.root).as_posix()

    def _is_known(self, name: str) -> bool:
        """Is the file as it was when it was last sent or brought?"""
        return self.notes.known(name)[:2] == stat_of(self.root / name)


def _is_item(name: str) -> bool:
    return name.startswith(f"{_STORE}/")


def _ours(name: str) -> bool:
    """Names that are of this machine alone, or of the lease."""
    return name.startswith((".tmp-", ".remote.", ".lease")) or (name.startswith(".") and name.endswith("lock"))
