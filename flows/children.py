"""Processes that are started here and must not outlive their starter: Prefect's server, its worker, its commands.

with child("worker", "prefect", "worker", "start", "--pool", "augment") as one: ...   # python -m prefect worker …
end_leftovers()                      # those of a life that was killed and could not end them

On Linux the kernel ends a child whose starter was killed; flows/server.py looks after its starter by itself, on every
system. Beside that each child is noted in Prefect's home with its process id and start time, and so is its starter.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

from lib.core.errors import AugmentError

CHECKOUT = Path(__file__).resolve().parent.parent
STARTUP = 900.0  # seconds for server, deployments and worker, on a slow and busy machine
GRACE = 10.0  # seconds that a child has to stop before it is killed
CLOCK = 2.0  # seconds between two readings of one start time: the system's clock may be set in between


@dataclass(frozen=True)
class Life:
    """One process of one machine: its id alone may be another's later."""

    host: str
    pid: int
    started: float  # seconds since 1970

    @classmethod
    def of(cls, pid: int) -> Life:
        """The process of this id; raises psutil.NoSuchProcess where none runs."""
        return cls(socket.gethostname(), pid, psutil.Process(pid).create_time())

    @classmethod
    def read(cls, value: Any) -> Life | None:
        """From JSON's value; None where it is not one."""
        if not isinstance(value, dict) or set(value) != {"host", "pid", "started"}:
            return None
        host, pid, started = value["host"], value["pid"], value["started"]
        if type(host) is str and type(pid) is int and pid > 0 and type(started) in (int, float):
            return cls(host, pid, float(started))
        return None

    def is_elsewhere(self) -> bool:
        """Is it on another machine, which shares a disk with this one?"""
        return self.host != socket.gethostname()

    def process(self) -> psutil.Process | None:
        """The process, where it still runs on this machine."""
        if self.is_elsewhere():
            return None
        try:
            process = psutil.Process(self.pid)
            lives = abs(process.create_time() - self.started) < CLOCK and process.status() != psutil.STATUS_ZOMBIE
        except (psutil.Error, OverflowError):
            return None
        return process if lives else None


def is_running(pid: int) -> bool:
    """Does a process of this id run, or may it?"""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
    except psutil.Error:
        return True


@dataclass
class Child:
    """A part that runs in a separate process group, with its output in a log."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path

    def check(self) -> None:
        """Raises AugmentError where it has ended."""
        code = self.process.poll()
        if code is not None:
            raise AugmentError(f"the {self.name} ended by itself, exit code {code}; {self.last_words()}")

    def last_words(self) -> str:
        """The end of the log, for an error."""
        lines = [line.strip() for line in self.log.read_text("utf-8", "replace").splitlines() if line.strip()]
        return f"its log {self.log} ends: " + (" | ".join(lines[-5:]) or "(empty)")

    def stop(self) -> None:
        """End the whole group: its head first, by SIGTERM, and everybody by SIGKILL after GRACE seconds."""
        self.process.terminate()  # a worker kills its flow runs
        deadline = time.monotonic() + GRACE
        while self._group_lives() and time.monotonic() < deadline:
            time.sleep(0.05)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def _group_lives(self) -> bool:
        self.process.poll()  # an ended child is in its group until it is waited for
        try:
            os.killpg(self.process.pid, 0)
        except ProcessLookupError:
            return False
        return True


@contextlib.contextmanager
def child(name: str, *command: str, keep: Sequence[int] = ()) -> Iterator[Child]:
    """Run `python -m COMMAND` in the checkout until the end of the block.

    keep: file descriptors that it inherits.
    """
    log = logs() / f"{name}.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", *command],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            cwd=CHECKOUT,  # `-m` imports from the working folder first, and a folder of data may hold anything
            pass_fds=keep,
            process_group=0,  # Ctrl-C reaches this process alone, which stops the others in their order
            preexec_fn=_die_with_parent if sys.platform == "linux" else None,
        )
    one = Child(name, process, log)
    try:
        with noted(process.pid):
            yield one
    finally:
        one.stop()


def _die_with_parent() -> None:
    """SIGTERM for this process when the parent is killed and can stop nothing any more (Linux: prctl)."""
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGTERM)


def wait_for(what: str, alive: Sequence[Child], ready: Callable[[], bool]) -> None:
    """Poll until `ready`; raises AugmentError after STARTUP seconds, or where a child of `alive` has ended."""
    deadline = time.monotonic() + STARTUP
    while not ready():
        for one in alive:
            one.check()
        if time.monotonic() > deadline:
            raise AugmentError(f"waited {STARTUP:.0f} s for {what}; " + "; ".join(c.last_words() for c in alive))
        time.sleep(0.1)


def finished(one: Child) -> bool:
    """Has a command ended? Raises AugmentError where it failed."""
    if one.process.poll() not in (None, 0):
        one.check()
    return one.process.returncode == 0


# Leftovers


@contextlib.contextmanager
def noted(pid: int) -> Iterator[None]:
    """A note of a child of this process, for end_leftovers() of a later life."""
    note = _home("augment-children") / f"{socket.gethostname()}-{pid}.json"
    try:
        lives = {"child": asdict(Life.of(pid)), "starter": asdict(Life.of(os.getpid()))}
        note.write_text(json.dumps(lives))
    except psutil.NoSuchProcess:
        pass  # it has ended already, which check() reports
    try:
        yield
    finally:
        note.unlink(missing_ok=True)


def end_leftovers() -> None:
    """End the noted children whose starter is gone. Another process that got the id of one since is left alone."""
    for note in _home("augment-children").glob("*.json"):
        one, starter = _read_note(note)
        if (one and one.is_elsewhere()) or (starter and starter.process()):
            continue
        process = one.process() if one else None
        if process:
            _end(process)
        note.unlink(missing_ok=True)


def _read_note(note: Path) -> tuple[Life | None, Life | None]:
    """(child, its starter), None for one that is not readable."""
    try:
        lives = json.loads(note.read_bytes())
        return Life.read(lives["child"]), Life.read(lives["starter"])
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None, None


def _end(process: psutil.Process) -> None:
    with contextlib.suppress(psutil.Error):
        process.terminate()
        try:
            process.wait(GRACE)
        except psutil.TimeoutExpired:
            process.kill()


def logs() -> Path:
    """Folder of the children's logs."""
    return _home("augment-logs")


def _home(name: str) -> Path:
    """A folder in Prefect's home. Raises AugmentError where it cannot be made."""
    from prefect.settings import get_current_settings

    folder: Path = get_current_settings().home / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            raise PermissionError(f"{folder} is read-only")
    except OSError as error:
        raise AugmentError(
            f"Prefect's home {folder.parent} cannot be written ({error}): set PREFECT_HOME to a folder that can be"
        ) from None
    return folder
