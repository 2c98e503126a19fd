"""What a run keeps in each worker of a Dask cluster: where counts go, whether it is to end, whether it can work at all.

The scheduler hands a Seat to every worker that there is, and to those that come later. The worker's own code runs
there, by name; so a worker with another version of it is refused, and one that does not see the run's files.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from distributed import Worker, WorkerPlugin

from lib.core.compute import share_cores
from lib.core.errors import AugmentError
from lib.core.places import CACHE, cache_root
from lib.core.stopping import STOPPED, Stopped, ask_to_stop
from lib.runs.engine_checks import code_digest
from tasks.models import release_models
from tasks.progress import leave_workspace, watch_workspace

_REACHED = 10.0  # seconds that Prefect's server has to answer a worker


@dataclass(frozen=True)
class Probe:
    """What a worker must have in common with the run's process."""

    code: str  # code_digest()
    workspace: str  # as a person gave it
    note: str  # path of a file in it
    text: str  # its content
    source: str  # path of one source picture; "" where there is none
    size: int  # its bytes
    server: str  # URL of Prefect's API; "" outside of a flow
    copies: str  # folder of the working copies of buckets; "" where none is in use

    def fault(self) -> str:
        """Why this process cannot work for the run; empty where it can."""
        host = socket.gethostname()
        if code_digest() != self.code:
            return (
                f"a worker on {host} has another version of this program than the run: install the same on all "
                "machines, and start the workers again"
            )
        if self.copies and str(cache_root()) != self.copies:
            return (
                f"a worker on {host} keeps the working copies of buckets in {cache_root()}, this run in {self.copies}: "
                f"set {CACHE} to the same path on all machines"
            )
        if _text(Path(self.note)) != self.text:
            return (
                f"a worker on {host} does not see the workspace {self.workspace} of this run: it must lie on a disk "
                "that all machines share, under the same path; with one in a bucket all workers must be on the run's "
                "machine"
            )
        if self.source and _size(self.source) != self.size:
            return (
                f"a worker on {host} does not see the picture {self.source} as it is here: dataset.images must lie on "
                "a disk that all machines share, under the same path"
            )
        if self.server and not _reached(self.server):
            return (
                f"a worker on {host} does not reach Prefect's server {self.server}: start one that all machines reach "
                "and set PREFECT_API_URL to it, or run from Python (augment_dataset), which needs none"
            )
        return ""


def _text(path: Path) -> str | None:
    """A file's text; None where it is not here."""
    with contextlib.suppress(OSError, ValueError):
        return path.read_text("utf-8")
    return None


def _size(path: str) -> int:
    with contextlib.suppress(OSError):
        return Path(path).stat().st_size
    return -1


def _reached(server: str) -> bool:
    with contextlib.suppress(httpx.HTTPError):
        return bool(httpx.get(f"{server}/health", timeout=_REACHED, verify=False).status_code)  # any answer
    return False


class Seat(WorkerPlugin):
    """A run's place in one worker; it takes the place of the run's Progress there."""

    def __init__(self, workspace: str, topic: str, probe: Probe, cores: int | None) -> None:
        self.workspace, self.topic, self.probe, self.cores = workspace, topic, probe, cores
        self.name = f"augment-{hashlib.sha256(workspace.encode()).hexdigest()[:16]}"
        self.fault, self.stopped = "", False
        self.worker: Any = None

    def setup(self, worker: Worker) -> None:
        """The worker begins to work for the run."""
        if self.cores is not None:
            share_cores(self.cores)
        self.worker, self.fault = worker, self.probe.fault()
        watch_workspace(self.workspace, self)

    async def teardown(self, worker: Worker) -> None:
        """The run is over: its models go, and what Prefect has not sent yet is sent."""
        leave_workspace(self.workspace, self)
        release_models()
        await asyncio.to_thread(_send_rest)

    def start(self, stage: str, total: int) -> None:
        """Begin a stage of `total` items."""
        self._tell("start", stage, total)

    def advance(self, stage: str, count: int) -> None:
        """`count` more items of a stage are done."""
        self._tell("advance", stage, count)

    def check(self) -> None:
        """Raises Stopped where the run is to end, and AugmentError where this process cannot work for it."""
        if self.stopped:
            raise Stopped(STOPPED)
        if self.fault:
            raise AugmentError(self.fault)

    def _tell(self, what: str, stage: str, count: int) -> None:
        self.worker.log_event(self.topic, [what, stage, int(count)])


def stop_seat(name: str, alone: bool, dask_worker: Worker) -> None:
    """Let a run's work in this worker end at its next picture. alone: nobody else works here: at its next step."""
    seat = dask_worker.plugins.get(name)
    if isinstance(seat, Seat):
        seat.stopped = True
        if alone:
            ask_to_stop()


def faults(name: str, dask_worker: Worker) -> str:
    """As Probe.fault, of a worker that has a seat."""
    seat = dask_worker.plugins[name]
    assert isinstance(seat, Seat)
    return seat.fault


def busy(keys: set[str], dask_worker: Worker) -> bool:
    """Does a thread of this worker still run one of these tasks?"""
    return not keys.isdisjoint(dask_worker.active_threads.values())


def process_name() -> str:
    """Of this process, for the account."""
    return f"{socket.gethostname()}:{os.getpid()}"


def _send_rest() -> None:
    """States and logs of task runs, which Prefect sends from threads of their own."""
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogWorker

    for service in (EventsWorker, APILogWorker):
        with contextlib.suppress(Exception):  # the run's pictures do not depend on it
            service.drain_all(timeout=5)
