"""A workspace held across machines: one object by its holder, with a heartbeat and a fencing number.

    with leased(Bucket("s3://bucket/run")) as lease:
        lease.check()           # before what others read is written

`.lease/00000007` is the seventh holder's, made by a put that fails where the object is there, so that of two who want
to be the seventh one alone is. Its holder writes it anew every BEAT seconds. Whoever finds it unchanged for SILENCE
seconds of their own clock makes the eighth; no clocks of two machines are ever compared. A holder that was only slow
finds the eighth before it writes, and ends.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator

import msgspec

from lib.core.bucket import Bucket
from lib.core.errors import AugmentError

BEAT, SILENCE = 10.0, 60.0  # seconds between beats; seconds without one after which a holder counts as dead
_FOLDER = ".lease"


class _Note(msgspec.Struct):
    """What a lease says; all of it is for those who read it, and decides nothing but by its change."""

    nonce: str
    where: str  # the holder's machine and process, for a person
    copy: str  # the holder's working copy
    beat: int = 0
    released: bool = False


class Lease:
    """Held. number: the fencing number, above that of every holder before."""

    def __init__(self, bucket: Bucket, number: int, note: _Note) -> None:
        self.bucket, self.number, self._note = bucket, number, note
        self._lost = False
        self._seen = time.monotonic()  # when nobody else was known to hold it
        self._lock = threading.Lock()
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._beats, name="lease", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Raises AugmentError where another holder has taken over; asks the store where the last beat is long ago."""
        if not self._lost and time.monotonic() - self._seen > 2 * BEAT:
            self._look()
        if self._lost:
            raise AugmentError(
                f"{self.bucket.url} was taken over by another run, as nothing was heard of this one for "
                f"{SILENCE:.0f} s: what it paints from here on is not kept; wait for the other, and run again"
            )

    def _look(self) -> None:
        with self._lock:
            now = time.monotonic()
            if max(_numbers(self.bucket), default=0) > self.number:
                self._lost = True
            else:
                self._seen = now

    def _beats(self) -> None:
        while not self._end.wait(BEAT):
            # A store that is away now may be back at the next beat; `check` asks it again before anything is written.
            with contextlib.suppress(AugmentError, OSError):
                self._look()
                if self._lost:
                    return
                self._note.beat += 1
                self.bucket.write(_name(self.number), msgspec.json.encode(self._note))

    def release(self) -> None:
        """Let the next holder in at once."""
        self._end.set()
        self._thread.join()
        if not self._lost:
            self._note.released = True
            with contextlib.suppress(AugmentError, OSError):  # then the next one waits until it is silent
                self.bucket.write(_name(self.number), msgspec.json.encode(self._note))


@contextlib.contextmanager
def leased(bucket: Bucket, copy: str = "", report: Callable[[str], object] = print) -> Iterator[Lease]:
    """Hold what a URL names. copy: a name of the working copy, which this process alone uses: of a former holder with
    the same one it is known that it is dead. report: receives a sentence where there is something to wait for.

    Raises AugmentError where another holder is alive.
    """
    lease = _acquired(bucket, copy, report)
    try:
        yield lease
    finally:
        lease.release()


def alive(bucket: Bucket) -> bool:
    """Does somebody hold it? Takes up to two beats."""
    number = max(_numbers(bucket), default=0)
    note = _read(bucket, number)
    if number == 0 or (note is not None and note.released):
        return False
    return _changes(bucket, number, note, 2.5 * BEAT)


def _acquired(bucket: Bucket, copy: str, report: Callable[[str], object]) -> Lease:
    while True:
        numbers = _numbers(bucket)
        last = max(numbers, default=0)
        former = _read(bucket, last) if last else None
        dead = former is not None and (former.released or (copy != "" and former.copy == copy))
        if last and not dead:
            report(f"{bucket.url} has a holder: looking whether it is alive, for up to {SILENCE:.0f} s")
            if _changes(bucket, last, former, SILENCE):
                where = f" on {former.where}" if former else ""
                raise AugmentError(
                    f"workspace {bucket.url} is in use by another run{where}: wait for it, or set another workspace"
                )
        note = _Note(uuid.uuid4().hex, f"{socket.gethostname()} (process {os.getpid()})", copy)
        mine = last + 1
        with contextlib.suppress(FileExistsError):
            bucket.write(_name(mine), msgspec.json.encode(note), create=True)
            kept = _read(bucket, mine)  # of a store that knows no such check the last one who wrote has it
            if kept is not None and kept.nonce == note.nonce and max(_numbers(bucket)) == mine:
                for number in numbers:
                    if number < last:
                        bucket.remove(_name(number))
                return Lease(bucket, mine, note)


def _changes(bucket: Bucket, number: int, note: _Note | None, seconds: float) -> bool:
    """Does a lease change within so many seconds of this machine's clock?"""
    start, pause = time.monotonic(), BEAT / 5
    while time.monotonic() - start < seconds:
        time.sleep(pause)
        now = _read(bucket, number)
        if now is not None and now.released:
            return False
        if now != note:
            return True
    return False


def _name(number: int) -> str:
    return f"{_FOLDER}/{number:08d}"


def _numbers(bucket: Bucket) -> list[int]:
    names = [found.name.rpartition("/")[2] for found in bucket.list(_FOLDER)]
    return [int(name) for name in names if name.isdecimal()]


def _read(bucket: Bucket, number: int) -> _Note | None:
    """None where it is gone, or half written, as on a disk."""
    try:
        return msgspec.json.decode(bucket.read(_name(number)), type=_Note)
    except (FileNotFoundError, msgspec.MsgspecError, ValueError):
        return None
