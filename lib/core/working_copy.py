"""A workspace's copy on this machine, and what is known of the bucket that it lies in. mirror.py says when to do what.

copy = WorkingCopy(root)
copy.open(number)         # up to date, under a lease's number; what an earlier run could not send is on its way
copy.send(path)           # what is made once: an item of the store, a drawing
copy.push(whole=True)     # what changes, as far as it did
copy.close()
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from lib.core.bucket import Bucket, Found
from lib.core.copy_notes import ABSENT, Notes, make_folder, stat_of
from lib.core.places import url_of

_NOTES = ".remote.sqlite"  # beside the copy's files, so that both go together
_STORE = "store"
_MANY = ("final/images", "drawn")  # a file for every picture
_LAST = ("final/annotations.json", "status.json")  # who finds these finds what they name
AT_ONCE, _WAITING = 16, 256  # requests; files that wait for one


def copy_name(root: Path) -> str:
    """A name of the working copy, the same as long as it exists."""
    make_folder(root)
    notes = Notes(root / _NOTES)
    try:
        return notes.name()
    finally:
        notes.close()


class WorkingCopy:
    """Of one workspace. worker: others change the bucket meanwhile."""

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
