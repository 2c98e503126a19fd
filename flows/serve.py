"""Prefect on this machine in one command: server, work pool, deployments, zombie automation and worker.

make serve                                         # or: python -m flows.serve --port 4201
prefect deployment run augment/loco --watch        # in another shell, in the checkout

Everything starts together and stops together, on Ctrl-C, on SIGTERM, or when one part ends by itself. While it runs, a
git-ignored prefect.toml in the checkout, which only its owner can read, holds the server's address and the secret of
this serve, for every shell there. The server listens on loopback only, with SQLite in Prefect's home (PREFECT_HOME, or
the user's usual one). docs/security.md has who may use it.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

from flows import QUIET
from flows.children import child, end_leftovers, finished, is_running, logs, wait_for
from flows.server import HOST, LOGIN, access, healthy, listen, new_secret, note_text, start_server, write_note
from lib.core.errors import AugmentError

CHECKOUT = Path(__file__).resolve().parent.parent
POOL = "augment"
ZOMBIES = "flow runs that fell silent are crashed"
BEAT = "prefect.flow-run.heartbeat"
# A run is dead when its process is. Silence proves little: on a busy machine heartbeats come late.
LOOK = 10.0  # seconds between two looks
SILENCE = 900  # seconds
GONE = "its process has ended without a word"
STOPPED = "make serve was stopped during the run: start it again, it goes on where it was"

SETTINGS = {
    **QUIET,
    "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
    # Prompt: a queued run looks for its turn, and the worker for runs, every few seconds.
    "PREFECT_SERVER_DEPLOYMENTS_CONCURRENCY_SLOT_WAIT_SECONDS": "5",
    "PREFECT_WORKER_QUERY_SECONDS": "2",
    "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",
    "PREFECT_WORKER_WEBSERVER_HOST": HOST,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until SIGINT or SIGTERM; returns the exit code. A fault that a user can mend is one sentence on stderr."""
    parser = argparse.ArgumentParser(prog="python -m flows.serve", description="A local Prefect server with everything")
    parser.add_argument("--port", type=int, default=4200, help="of the server, on loopback; default %(default)s")
    port = parser.parse_args(arguments).port
    try:
        stop_on_signals()
        serve(port)
    except AugmentError as error:
        print(f"serve: {error}", file=sys.stderr)
        return 1
    except Stop:
        print("stopped")
        return 0


class Stop(BaseException):
    """SIGINT or SIGTERM came."""


def stop_on_signals() -> None:
    """Turn the first SIGINT or SIGTERM into Stop; later ones are ignored while everything stops, which has a limit."""

    def stop(number: int, frame: object) -> NoReturn:
        for name in (signal.SIGINT, signal.SIGTERM):
            signal.signal(name, signal.SIG_IGN)
        raise Stop

    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, stop)


def serve(port: int) -> NoReturn:
    """Start everything, print a summary, and wait. Leaves only by Stop or AugmentError, with every child stopped."""
    listening = listen(port)
    outside = [os.environ.get(name) for name in ("PREFECT_API_URL", "PREFECT_API_AUTH_STRING")]
    url, name, secret = f"http://{HOST}:{port}/api", f"{socket.gethostname()}-{port}", new_secret()
    os.environ.update(environment(url, secret))  # for the children, and for Prefect, which is imported after this
    os.chdir(CHECKOUT)
    started = time.monotonic()
    with contextlib.ExitStack() as children:
        end_leftovers()
        server = children.enter_context(start_server("server", listening))
        wait_for("the server's health", [server], lambda: healthy(url))
        prepare_server()
        children.enter_context(settling_runs(url, name))
        worker = children.enter_context(child("worker", "prefect", "worker", "start", "--pool", POOL, "--name", name))
        with child("deploy", "prefect", "--no-prompt", "deploy", "--all") as deploy:
            wait_for("the deployments", [server, worker], lambda: finished(deploy))
        wait_for("the worker", [server, worker], lambda: worker_online(name))
        noted = children.enter_context(note_access(url, secret))
        known = noted and outside[0] in (None, "", url) and not outside[1]  # a shell's environment counts more
        print(summary(url, secret, known, time.monotonic() - started), flush=True)
        gone, looked = frozenset[Any](), time.monotonic()
        while True:
            for one in (server, worker):
                one.check()
            if time.monotonic() - looked > LOOK:
                gone, looked = crash_gone_runs(gone), time.monotonic()
            time.sleep(0.5)


def environment(url: str, secret: str) -> dict[str, str]:
    """What the children need in their environment; they replace the user's settings of the same names."""
    page = url.removesuffix("/api")
    paths = [str(CHECKOUT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {
        **SETTINGS,
        **access(url, secret),
        "PREFECT_SERVER_UI_API_URL": url,  # without it the UI takes port 4200
        "PREFECT_UI_URL": page,
        # Only the pages of the UI may call the API from a browser, not every site that one visits.
        "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": f"{page},{page.replace(HOST, 'localhost')}",
        "PWD": str(CHECKOUT),  # prefect.yaml's pull step goes there
        "PYTHONPATH": os.pathsep.join(paths),  # flows import lib and tasks, installed or not
    }


# The server's content


def prepare_server() -> None:
    """Work pool and zombie automation, made or brought up to date."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import WorkPoolCreate

    with get_client(sync_client=True) as client:
        pool = WorkPoolCreate(name=POOL, type="process", base_job_template=job_template())
        client.create_work_pool(pool, overwrite=True)
        wanted = zombie_automation()
        former = client.read_automations_by_name(ZOMBIES)
        if not former:
            client.create_automation(wanted)
        # An unchanged one is left alone, with its open windows.
        elif content_of(former[0]) != content_of(wanted):
            client.update_automation(former[0].id, wanted)
        watch_leftovers(client)


def watch_leftovers(client: Any) -> None:
    """Open the zombie automation's window for runs of an earlier life: those still alive beat in time."""
    from prefect.events import Event

    resources = [{"prefect.resource.id": f"prefect.flow-run.{run.id}"} for run in unfinished_runs(client)]
    beats = [Event(event=BEAT, resource=resource).model_dump(mode="json") for resource in resources]
    client.request("POST", "/events", json=beats)


def unfinished_runs(client: Any) -> list[Any]:
    """Flow runs of the pool that a worker has taken and that have not ended."""
    from prefect.client.schemas.filters import FlowRunFilter, WorkPoolFilter

    runs: list[Any] = client.read_flow_runs(
        flow_run_filter=FlowRunFilter.model_validate({"state": {"type": {"any_": ["RUNNING", "PENDING"]}}}),
        work_pool_filter=WorkPoolFilter.model_validate({"name": {"any_": [POOL]}}),
    )
    return runs


def crash_gone_runs(before: frozenset[Any]) -> frozenset[Any]:
    """Report runs as crashed whose process has ended without a word, at the second look: the last word may be on its
    way. Workers are of this machine, since the server listens on loopback.

    before: what the last look returned, ids of runs whose process was gone.
    """
    import httpx
    from prefect.client.orchestration import get_client
    from prefect.exceptions import PrefectException
    from prefect.states import Crashed

    try:
        with get_client(sync_client=True) as client:
            gone = frozenset(run.id for run in unfinished_runs(client) if is_gone(run.infrastructure_pid))
            for run in gone & before:
                client.set_flow_run_state(run, Crashed(message=GONE), force=True)
    except (httpx.HTTPError, PrefectException):  # a server that is busy; the next look comes
        return before
    return gone - before


def is_gone(pid: str | None) -> bool:
    """Has a process of this machine ended? No for one that is not known."""
    return bool(pid) and str(pid).isdigit() and not is_running(int(str(pid)))


@contextlib.contextmanager
def settling_runs(url: str, worker: str) -> Iterator[None]:
    """At the end of the block, when the worker is gone with its runs: report to the server that these crashed.

    They are killed with the worker and cannot report it themselves; in the next life other runs of the data set would
    queue behind them until they are looked for.
    """
    import httpx
    from prefect.client.orchestration import get_client
    from prefect.states import Crashed

    try:
        yield
    finally:
        if healthy(url):
            with contextlib.suppress(httpx.HTTPError), get_client(sync_client=True) as client:
                if online_workers(client) <= {worker}:  # another worker's runs are not ours to judge
                    for run in unfinished_runs(client):
                        client.set_flow_run_state(run.id, Crashed(message=STOPPED), force=True)


def content_of(automation: Any) -> dict[str, Any]:
    """The fields of an automation that this project sets, without ids."""
    shown: dict[str, Any] = automation.model_dump(include={"name", "description", "enabled", "trigger", "actions"})
    shown["trigger"].pop("id", None)
    return shown


def job_template() -> dict[str, Any]:
    """The process pool's template: runs start straight in the checkout, and outlive their worker.

    With stream_output, a killed worker takes its flow runs along. An explicit command spares the supervising process
    that Prefect starts otherwise, and its offer to install the project with uv. There are no variables: a request for a
    run names a deployment and its parameters, and no command, environment or folder, each of which could run anything.
    """
    return {
        "job_configuration": {
            "command": f"{sys.executable} -m prefect.engine",
            "working_dir": str(CHECKOUT),
            "stream_output": False,
        },
        "variables": {"type": "object", "properties": {}, "additionalProperties": False},
    }


def zombie_automation() -> Any:
    """A flow run whose heartbeat stops for SILENCE seconds without having ended is crashed.

    Where the process is known, `crash_gone_runs` finds it sooner.
    """
    from prefect.client.schemas.objects import StateType
    from prefect.events import AutomationCore, ChangeFlowRunState, EventTrigger, Posture, ResourceSpecification

    # A run that waits (for a person, for its retry) has no process and no heartbeat, and is not a zombie.
    signs = ("Running", "Completed", "Failed", "Crashed", "Cancelled", "Paused", "Suspended", "AwaitingRetry")
    return AutomationCore(
        name=ZOMBIES,
        description=f"No heartbeat for {SILENCE} s and no end: {GONE}. Start the run again: it goes on.",
        trigger=EventTrigger(
            match=ResourceSpecification({"prefect.resource.id": "prefect.flow-run.*"}),
            for_each={"prefect.resource.id"},
            after={BEAT},
            expect={BEAT, *(f"prefect.flow-run.{sign}" for sign in signs)},
            posture=Posture.Proactive,
            threshold=1,
            within=SILENCE,
        ),
        actions=[ChangeFlowRunState(state=StateType.CRASHED, message=f"no heartbeat for {SILENCE} s: {GONE}")],
    )


def online_workers(client: Any) -> set[str]:
    """Names of the pool's workers that reported in time."""
    from prefect.client.schemas.filters import WorkerFilter

    found = client.read_workers_for_work_pool(POOL, worker_filter=WorkerFilter())
    return {worker.name for worker in found if worker.status == "ONLINE"}


def worker_online(name: str) -> bool:
    """Has the worker reported to the server?"""
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        return name in online_workers(client)


# What a person needs


@contextlib.contextmanager
def note_access(url: str, secret: str) -> Iterator[bool]:
    """prefect.toml in the checkout while the block runs; False where it cannot be, or another's is in its place."""
    note, text = CHECKOUT / "prefect.toml", note_text(url, secret)
    if not write_note(note, text):
        yield False
        return
    try:
        yield True
    finally:
        if note.exists() and note.read_text("utf-8") == text:
            note.unlink()


def summary(url: str, secret: str, noted: bool, seconds: float) -> str:
    """What runs, and what to try."""
    export = f"\n  export PREFECT_API_URL={url}\n  export PREFECT_API_AUTH_STRING={secret}\n"
    return f"""Ready after {seconds:.0f} s.

  UI      {url.removesuffix("/api")}{LOGIN}#{secret}
  logs    {logs()}
{"" if noted else export}
In another shell, in {CHECKOUT}:

  .venv/bin/prefect deployment run augment/demo --watch
  .venv/bin/prefect deployment run train/mini --watch
  .venv/bin/augment notify loco

The address of the UI holds the secret of this serve: who has it can run flows as you.
Ctrl-C stops everything."""


if __name__ == "__main__":
    sys.exit(main())
