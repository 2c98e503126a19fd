"""Processes that train detectors, one training after another: their imports take longer than many a short training.

with trainers(2) as some, some.one() as trainer:  # in as many threads as one likes: two train at once
    with contextlib.closing(trainer.train(job)) as steps:
        for step in steps:  # some times a second; left early, the process ends
            check_stop()
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import subprocess
import sys
import time
from collections.abc import Generator, Iterator
from pathlib import Path

from lib.core.errors import AugmentError
from lib.core.files import atomic_write
from lib.proof.job import ENDED, TrainingJob

_PAUSE = 0.3  # seconds between two looks at a training
_PATIENCE = 10.0  # seconds that a process has to end before it is killed
_CHECKOUT = Path(__file__).resolve().parents[2]  # `-m` imports from the working folder first


class Trainer:
    """One process, which is started at its first training and again where it died; it ends with this one."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    def train(self, job: TrainingJob) -> Generator[int]:
        """Train, and give the number of the last step again and again until it has ended. Left early, it ends.

        Raises AugmentError with what the process said last where it did not end well.
        """
        job.place.parent.mkdir(parents=True, exist_ok=True)
        file, log = job.place.with_suffix(".job.json"), job.place.with_suffix(".log")
        atomic_write(file, job.model_dump_json(indent=1).encode())
        log.write_bytes(b"")
        process = self._started(job, log)
        code: int | None = None
        try:
            assert process.stdin is not None
            with contextlib.suppress(BrokenPipeError):  # it died at once, which is seen below
                process.stdin.write(f"{file.absolute()}\n".encode())
                process.stdin.flush()
            with log.open("rb") as reader:
                step, rest = 0, b""
                while code is None:
                    time.sleep(_PAUSE)
                    died = process.poll()
                    *lines, rest = (rest + reader.read()).split(b"\n")
                    for line in lines:
                        step, code = _read(line, step, code)
                    code = died if code is None else code
                    yield step
        finally:
            if code is None:
                self.end()
        if code:
            last = [line for line in log.read_text(errors="replace").splitlines() if ENDED not in line][-1:]
            raise AugmentError(f"{last[0][:500] if last else f'exit code {code}'}; its log is {log}")
        log.unlink(missing_ok=True)

    def _started(self, job: TrainingJob, log: Path) -> subprocess.Popen[bytes]:
        if self._process is None or self._process.poll() is not None:
            self.end()
            with log.open("ab") as output:
                self._process = subprocess.Popen(
                    [sys.executable, "-m", "lib.proof.job"],
                    stdin=subprocess.PIPE,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    env=os.environ | {"OMP_NUM_THREADS": str(job.threads)},
                    cwd=_CHECKOUT,
                )
        return self._process

    def end(self) -> None:
        """End the process; what it trains goes on from its last checkpoint another time."""
        process, self._process = self._process, None
        if process is None:
            return
        with process:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_PATIENCE)
            process.kill()


def _read(line: bytes, step: int, code: int | None) -> tuple[int, int | None]:
    """The last step and the exit code after a line of a log; lines of libraries change nothing."""
    with contextlib.suppress(ValueError, TypeError, AttributeError):
        report = json.loads(line)
        return int(report.get("step", step)), report.get(ENDED, code)
    return step, code


class Trainers:
    """A number of them, of which each serves one thread at a time."""

    def __init__(self, count: int) -> None:
        self._all = [Trainer() for _ in range(count)]
        self._idle: queue.LifoQueue[Trainer] = queue.LifoQueue()
        for trainer in self._all:
            self._idle.put(trainer)

    @contextlib.contextmanager
    def one(self) -> Iterator[Trainer]:
        """The next that is free."""
        trainer = self._idle.get()
        try:
            yield trainer
        finally:
            self._idle.put(trainer)

    def end(self) -> None:
        """End all processes."""
        for trainer in self._all:
            trainer.end()


@contextlib.contextmanager
def trainers(count: int) -> Iterator[Trainers]:
    """`count` of them until the end of the block."""
    made = Trainers(count)
    try:
        yield made
    finally:
        made.end()
