"""Prefect for a command: imported late, with quiet settings that no data set can change."""

from __future__ import annotations

import atexit
import importlib
import logging
import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, chdir, contextmanager, nullcontext
from pathlib import Path
from typing import Any, NoReturn

from flows import QUIET
from flows.commands import CHECKOUT
from flows.commands.console import ERR, OUT, bars
from lib.core.errors import AugmentError
from lib.core.storage import unwritable

# The command line prints what matters; Prefect's own log goes to the server.
SILENT = {
    **QUIET,
    "PREFECT_LOGGING_LEVEL": "CRITICAL",
    "PREFECT_INTERNAL_LOGGING_LEVEL": "CRITICAL",
    "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
}


def run_flow(flow: str, name: str, values: dict[str, Any]) -> None:
    """The flow of module flows.FLOW to its end, with bars, on the configured server or on a temporary one.

    Raises AugmentError where it does not complete.
    """
    with _terminable():
        if flow == "augment" and _check(values, name) and _no_server():
            _run_alone(values, name)
            return
        prepare_prefect(lambda: importlib.import_module(f"flows.{flow}"))
        module = importlib.import_module(f"flows.{flow}")
        with bars() as watch:
            module.WATCH.watch = watch
            state = getattr(module, flow).with_options(flow_run_name=name)(**values, return_state=True)
    if not state.is_completed():
        raise AugmentError(state.message or f"the run ended {state.name}")


def _settle_home() -> None:
    """Where the user's home cannot be written, as in a container, Prefect's home is a folder of this process."""
    if os.environ.get("PREFECT_HOME"):  # where that cannot be written, an error names it
        return
    usual = Path(os.path.expanduser("~/.prefect"))  # noqa: PTH111  # Path raises where there is no home
    if unwritable(usual) is None:
        return
    folder = tempfile.mkdtemp(prefix="augment-prefect-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    os.environ["PREFECT_HOME"] = folder
    if (usual / "profiles.toml").is_file():
        os.environ.setdefault("PREFECT_PROFILES_PATH", str(usual / "profiles.toml"))


class Terminated(KeyboardInterrupt):
    """SIGTERM came."""


@contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM ends what is begun in the block as SIGINT does: by an exception, so that all is put away."""

    def end(number: int, frame: object) -> NoReturn:
        raise Terminated

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    former = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, former)


def _check(values: dict[str, Any], name: str) -> bool:
    """The preflight, before the seconds that importing and starting Prefect takes: is there nothing to do? Raises
    AugmentError."""
    from lib.runs.parameters import check_parameters
    from lib.runs.preflight import preflight

    return preflight(check_parameters(values), Path("data/runs") / name)


def _no_server() -> bool:
    """Would a run have to start a server of its own?"""
    with trusted_settings():
        from flows.events import none_configured

        return none_configured()


def _run_alone(values: dict[str, Any], name: str) -> None:
    """The journey in this process, without a server, as there is nothing to watch. What the preflight did not see, such
    as a damaged file of the store, is done all the same. Raises AugmentError where it does not complete."""
    logging.getLogger("prefect").setLevel(logging.CRITICAL)
    from flows.python import run_journey
    from lib.runs.parameters import check_parameters

    with bars() as watch:
        run_journey(check_parameters(values), name, watch)


def prepare_prefect(meanwhile: Callable[[], object] = lambda: None) -> None:
    """Quiet settings, and a temporary server where no other answers.

    meanwhile: called while that server starts, which takes 10 s and more; what it raises ends the start.
    """
    with trusted_settings():
        from flows.events import begin_connecting

        wait = begin_connecting()
    logging.getLogger("prefect").setLevel(logging.CRITICAL)
    waiting: AbstractContextManager[Any] = nullcontext() if OUT.quiet else ERR.status("starting …")
    with waiting:
        meanwhile()
        wait()


@contextmanager
def trusted_settings() -> Iterator[None]:
    """Prefect reads its settings in here: from the environment, the user's profile and the checkout.

    It would read them from the working folder too (prefect.toml, pyproject.toml, .env), which may be a data set's: a
    setting there names a server, or a logging configuration that calls any function.
    """
    for name, value in SILENT.items():
        os.environ.setdefault(name, value)
    _settle_home()
    with chdir(CHECKOUT):
        yield
