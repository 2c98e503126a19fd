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

from lib.core.bucket import Bucket
from lib.core.compute import share_cores
from lib.core.errors import AugmentError
from lib.core.mirror import attach, detach
from lib.core.places import is_url, path_of
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
    note: str  # path of a file in it, or its URL
    text: str  # its content
    source: str  # path of one source picture, "" where there is none; or the URL of their folder
    size: int  # the picture's bytes
    server: str  # URL of Prefect's API; "" outside of a flow

    def fault(self) -> str:
        """Why this process cannot work for the run; empty where it can."""
        host = socket.gethostname()
        if code_digest() != self.code:
            return (
                f"a worker on {host} has another version of this program than the run: install the same on all "
                "machines, and start the workers again"
            )
        try:
            if _text(self.note) != self.text:
                return (
                    f"a worker on {host} does not see the workspace {self.workspace} of this run: it must lie on a "
                    "disk that all machines share, under the same path, or in a bucket that all reach by the same "
                    "endpoint"
                )
            if self.source and not _seen(self.source, self.size):
                what = "pictures" if is_url(self.source) else "picture"
                return (
                    f"a worker on {host} does not see the {what} {self.source} as it is here: dataset.images must lie "
                    "on a disk that all machines share, under the same path, or in a bucket that all reach by the same "
                    "endpoint"
                )
        except AugmentError as error:  # of a bucket: no package, no credentials, no network
            return f"a worker on {host} cannot work for this run: {error}"
        if self.server and not _reached(self.server):
            return (
                f"a worker on {host} does not reach Prefect's server {self.server}: start one that all machines reach "
                "and set PREFECT_API_URL to it, or run from Python (augment_dataset), which needs none"
            )
        return ""


def _text(place: str) -> str | None:
    """A file's text; None where there is no such file. place: its path, or its URL."""
    with contextlib.suppress(OSError, ValueError):
        return (Bucket(place, hurry=True).read("") if is_url(place) else Path(place).read_bytes()).decode()
    return None


def _seen(place: str, size: int) -> bool:
    """Is there such a file of `size` bytes, or a folder with such a URL?"""
    with contextlib.suppress(OSError):
        if is_url(place):
            Bucket(place, hurry=True).info()
            return True
        return Path(place).stat().st_size == size
    return False


def _reached(server: str) -> bool:
    with contextlib.suppress(httpx.HTTPError):
        return bool(httpx.get(f"{server}/health", timeout=_REACHED, verify=False).status_code)  # any answer
    return False


class Seat(WorkerPlugin):
    """A run's place in one worker; it takes the place of the run's Progress there.

    workspace: its path, or its URL: then this machine has a working copy of its own.
    """

    def __init__(self, workspace: str, topic: str, probe: Probe, cores: int | None) -> None:
        self.workspace, self.topic, self.probe, self.cores = workspace, topic, probe, cores
        self.name = f"augment-{hashlib.sha256(workspace.encode()).hexdigest()[:16]}"
        self.fault, self.stopped = "", False
        self.worker: Any = None

    def setup(self, worker: Worker) -> None:
        """The worker begins to work for the run."""
        if self.cores is not None:
            share_cores(self.cores)
        self.worker, self.fault = worker, self.probe.fault() or self._attach()
        watch_workspace(self.workspace, self)

    def _attach(self) -> str:
        try:
            attach(path_of(self.workspace))
        except AugmentError as error:
            return f"a worker on {socket.gethostname()} cannot work for this run: {error}"
        return ""

    async def teardown(self, worker: Worker) -> None:
        """The run is over: its models go, and what has not been sent yet is sent."""
        leave_workspace(self.workspace, self)
        release_models()
        await asyncio.to_thread(detach, path_of(self.workspace))
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
