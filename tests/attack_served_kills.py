"""Runs of a deployment on `make serve`, of which the flow, the worker, the server or all is killed, and started again.

What must hold: as in attack_kills, and no flow run stays running for ever.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any
from unittest import mock

from attack_kills import LEFT, PATIENCE, TOKEN, Killed, check_final, wait_for_none
from attacks import Attack, Fault, files_of
from conftest import MadeSet
from test_serve import Served

_SILENT = 240  # seconds until a flow run without a process is taken for dead, and some

# What is killed: a part of the command line of one process, or of the head of all.
PARTS = {
    "the flow": "prefect.engine",
    "the worker": "worker start",
    "the server": "flows.server",
    "all": "flows.serve ",
}


class Restarted(Served):
    """One that can be started again in its checkout."""

    def restart(self) -> None:
        """As after `make serve`."""
        with self.out.open("ab") as out:
            command = [sys.executable, "-m", "flows.serve", "--port", str(self.port)]
            self.process = subprocess.Popen(command, cwd=self.root, env=self.env, stdout=out, stderr=out)
        self.wait(self.output().count("Ready after") + 1)

    def wait(self, times: int = 1) -> None:
        """Until it has said so often that it is ready."""
        deadline = time.monotonic() + PATIENCE
        while self.output().count("Ready after") < times:
            if time.monotonic() > deadline or self.process.poll() is not None:
                raise Fault(f"make serve does not start: {self.output()[-1500:]}")
            time.sleep(0.2)


@contextmanager
def attacking(folder: Path) -> Iterator[Attack]:
    """Attack n: one kill, and the same run to its end."""
    made = MadeSet(folder / "made", 10, size=(320, 240))
    values: dict[str, Any] = {"dataset": made.dataset, "variants": 2, "painter": "copy-paste"}
    (folder / "own").mkdir()
    one = Killed(folder / "own", values)
    with mock.patch.dict(os.environ, {TOKEN: one.token}):
        served = Restarted(folder)
    try:
        served.wait()
        start(served, one, "--watch")
        one.whole = files_of(one.workspace / "final")
        one.files = sum(len(names) for _, _, names in os.walk(one.workspace))
        yield lambda number: kill_and_finish(served, one, Random(f"served-kills {number}"))
    finally:
        served.process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            served.process.wait(LEFT)
        one.end_all()


def start(served: Restarted, one: Killed, *options: str) -> None:
    """A run of the deployment; raises Fault where it does not complete, if it is watched."""
    given = [f"{name}={json.dumps(value)}" for name, value in (one.values | {"workspace": str(one.workspace)}).items()]
    parameters = [part for text in given for part in ("--param", text)]
    output = served.shell("prefect", "deployment", "run", "augment/coco", *options, *parameters)
    if options and "Completed" not in output:
        raise Fault(f"the run does not complete: {output[-800:]}")


def kill_and_finish(served: Restarted, one: Killed, random: Random) -> str:
    """How it ended; raises Fault."""
    shutil.rmtree(one.workspace, ignore_errors=True)
    part, wanted = random.choice(sorted(PARTS)), random.randrange(1, one.files)
    start(served, one)
    deadline = time.monotonic() + PATIENCE
    while sum(len(names) for _, _, names in os.walk(one.workspace)) < wanted:
        if time.monotonic() > deadline:
            raise Fault(f"a run on make serve does not begin: {served.output()[-800:]}")
        time.sleep(0.002)
    for pid in processes(one, PARTS[part]):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    if part != "the flow":
        with contextlib.suppress(subprocess.TimeoutExpired):
            served.process.wait(LEFT)
        if served.process.poll() is None:
            raise Fault(f"make serve goes on without {part}: {served.output()[-800:]}")
        wait_for_none(one, f"after {part} was killed")
        served.restart()
    start(served, one, "--watch")
    check_final(one, f"{part} killed at {wanted} files")
    deadline = time.monotonic() + _SILENT
    while states := sorted({run["state_type"] for run in served.runs("coco")} - {"COMPLETED", "CRASHED", "FAILED"}):
        if time.monotonic() > deadline:
            raise Fault(f"{part} killed: a flow run stays {', '.join(states)}")
        time.sleep(1)
    return f"{part} killed"


def processes(one: Killed, part: str) -> list[int]:
    """Of those that come of it, the ones with this in their command line."""
    found = []
    for pid in one.alive():
        with contextlib.suppress(OSError):
            line = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
            if re.search(rf"\b{re.escape(part)}", line):
                found.append(pid)
    return found
