"""Progress of long work: to the command line, and to the UI as a progress artifact."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.context import FlowRunContext

from lib.core.places import path_of
from lib.core.stopping import check_stop

Watch = Callable[[str, int, int], None]  # (stage, done, total)

_EVERY = 2.0  # seconds between two updates of an artifact: each is a call to the server


@dataclass
class Progress:
    """Counts per stage; `advance` may be called from any thread."""

    watch: Watch = lambda stage, done, total: None
    _done: dict[str, int] = field(default_factory=dict)
    _total: dict[str, int] = field(default_factory=dict)
    _artifact: dict[str, Any] = field(default_factory=dict)
    _shown: dict[str, float] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def start(self, stage: str, total: int) -> None:
        """Begin a stage of `total` items."""
        with self._lock:
            self._done[stage], self._total[stage] = 0, total
            self._artifact.pop(stage, None)  # of an earlier run in this process
            if FlowRunContext.get() and total:
                with contextlib.suppress(Exception):  # a display cannot end a run
                    self._artifact[stage] = create_progress_artifact(0.0, key=f"progress-{stage}", description=stage)
                    self._shown[stage] = time.monotonic()
        self.watch(stage, 0, total)

    def advance(self, stage: str, count: int) -> None:
        """`count` more items of a stage are done."""
        with self._lock:
            self._done[stage] = min(self._done[stage] + count, self._total[stage])
            done, total = self._done[stage], self._total[stage]
            late = time.monotonic() - self._shown.get(stage, 0) > _EVERY
            if stage in self._artifact and (late or done == total):
                self._shown[stage] = time.monotonic()
                with contextlib.suppress(Exception):  # a server that restarts must not end hours of work
                    update_progress_artifact(self._artifact[stage], 100.0 * done / total)
        self.watch(stage, done, total)

    def check(self) -> None:
        """This process works for itself."""

    def finish(self, stage: str) -> None:
        """The stage is complete, whatever was found in the cache."""
        left = self._total[stage] - self._done[stage]
        if left:
            self.advance(stage, left)


class Counts(Protocol):
    """What counts a run's work: Progress, or in another process what sends the counts to it."""

    def start(self, stage: str, total: int) -> None: ...
    def advance(self, stage: str, count: int) -> None: ...
    def check(self) -> None: ...


_CURRENT: dict[Path, Counts] = {}  # by workspace


def watch_workspace(workspace: str, counts: Counts) -> None:
    """Let `advance` find these counts. workspace: its path, or its URL."""
    _CURRENT[path_of(workspace)] = counts


def leave_workspace(workspace: str, counts: Counts) -> None:
    """No longer, unless another run has taken their place."""
    if _CURRENT.get(path_of(workspace)) is counts:
        del _CURRENT[path_of(workspace)]


def check_run(workspace: str) -> None:
    """Raises Stopped where the run is to end, and AugmentError where this process cannot work for it."""
    check_stop()
    if counts := _CURRENT.get(path_of(workspace)):
        counts.check()


def begin(workspace: str, stage: str, total: int) -> None:
    """A stage of this workspace's run that only its work can count: `total` items."""
    if counts := _CURRENT.get(path_of(workspace)):
        counts.start(stage, total)


def advance(workspace: str, stage: str, count: int) -> None:
    """`count` more items of a stage of this workspace's run are done. Raises Stopped where the run is to end."""
    check_run(workspace)
    if counts := _CURRENT.get(path_of(workspace)):
        counts.advance(stage, count)
