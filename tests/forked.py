"""Flows and commands in processes of their own, which a test may kill.

They are forked from one process that has imported what they need, which takes longer than a small run. What a kill
leaves does not depend on how its process began.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from multiprocessing import forkserver
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
from conftest import PATIENCE

TESTS = Path(__file__).resolve().parent
CONTEXT = multiprocessing.get_context("forkserver")
NEEDED = [  # by a run of augment or train; a name that is not there costs time, no more
    *("forked", "flows.augment", "flows.cli", "flows.commands.run", "flows.train", "distributed", "tasks.cluster"),
    *("lib.training.card", "lib.training.clip", "lib.training.stay"),
    *("diffusers.training_utils", "diffusers.models.autoencoders.autoencoder_kl"),
    *("transformers.models.clip.modeling_clip", "transformers.models.clip.processing_clip"),
]


def start_flow(server: str, flow: str, values: dict[str, Any], before: Callable[[], None] | None = None) -> BaseProcess:
    """A process that calls `before`, then flows.FLOW on the session's server; its exit code is 3 where that fails."""
    return _start(server, _run, flow, values, before)


def start_command(server: str, folder: Path, *arguments: str, before: Callable[[], None] | None = None) -> BaseProcess:
    """A process that calls `before`, then `augment ARGUMENTS` in a folder, on the session's server; what it prints to
    stderr is in the folder's `errors`."""
    return _start(server, _command, folder, arguments, before)


def _start(server: str, work: Callable[..., None], *arguments: Any) -> BaseProcess:
    ready(server)
    process = CONTEXT.Process(target=work, args=arguments)
    process.start()
    return process


def ready(server: str) -> None:
    """The process to fork from is there, also for others who fork from Python's one: a cluster of Dask's."""
    with pytest.MonkeyPatch.context() as patch:  # of the process that is forked, which the first call starts
        patch.setenv("PREFECT_API_URL", server)
        patch.setenv("PYTHONPATH", os.pathsep.join([str(TESTS.parent), str(TESTS)]))
        CONTEXT.set_forkserver_preload(NEEDED)
        forkserver.ensure_running()


def _run(flow: str, values: dict[str, Any], before: Callable[[], None] | None) -> None:
    if before:
        before()
    module = importlib.import_module(f"flows.{flow}")
    sys.exit(0 if getattr(module, flow)(**values, return_state=True).is_completed() else 3)


def _command(folder: Path, arguments: Sequence[str], before: Callable[[], None] | None) -> None:
    from flows.cli import main

    os.chdir(folder)
    with Path("errors").open("wb") as errors:
        os.dup2(errors.fileno(), 2)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have started the tests without it
    if before:
        before()
    sys.exit(main(arguments))


def exit_code(process: BaseProcess) -> int | None:
    """When it has ended; minus the number of the signal that ended it."""
    process.join(PATIENCE)
    return process.exitcode


def kill_when(process: BaseProcess, what: Callable[[], object]) -> None:
    """SIGKILL as soon as something holds."""
    deadline = time.monotonic() + PATIENCE
    while process.is_alive() and time.monotonic() < deadline:
        if what():
            process.kill()
            break
        time.sleep(0.0005)
    assert exit_code(process) == -signal.SIGKILL, "it ended before it could be killed"
