"""The Prefect server that this shell can reach, and the event for it that a data set was updated.

augment notify loco                                # with `make serve` running; starts the runs that wait for it

live_api_url() is where a server answers; connect() makes this process use it, or a temporary one.
"""

from __future__ import annotations

import atexit
import contextlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import httpx
from prefect.client.orchestration import get_client
from prefect.context import refresh_global_settings_context
from prefect.events import Event
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, get_current_settings, temporary_settings

from flows.children import end_leftovers, wait_for
from flows.server import HOST, Note, access, basic, healthy, listen, new_secret, past_proxies, read_note, start_server
from lib.core.errors import AugmentError

CHECKOUT = Path(__file__).resolve().parent.parent
UPDATED = "dataset.updated"
START_ONE = "start one with make serve"

_PATIENCE = httpx.Timeout(30.0, connect=5.0)  # seconds: a server answers in milliseconds, on a busy machine in seconds


@dataclass(frozen=True)
class Server:
    """An address where a server may answer, and the credentials for it."""

    url: str
    secret: str | None = None
    key: str | None = None

    @property
    def headers(self) -> dict[str, str]:
        """HTTP headers with the credentials; none without any."""
        return basic(self.secret) or ({"Authorization": f"Bearer {self.key}"} if self.key else {})


def notify(name: str) -> None:
    """Emit `dataset.updated` for the resource dataset.NAME; returns when the server has it.

    Raises AugmentError where no server answers, or the server refuses the event.
    """
    server = _live()
    if server is None:
        configured = _configured()
        where = f"at {configured}" if configured else "(PREFECT_API_URL is not set)"
        raise AugmentError(f"no Prefect server answers {where}, so no run can be started: {START_ONE}")
    event = Event(event=UPDATED, resource={"prefect.resource.id": f"dataset.{name}"}, payload={"dataset": name})
    used = {PREFECT_API_URL: server.url, PREFECT_API_AUTH_STRING: server.secret}
    # The events client sends in the background and gives up in silence; a plain request reports the fault.
    try:
        with temporary_settings(used), get_client(sync_client=True) as client:
            client.request("POST", "/events", json=[event.model_dump(mode="json")])
    except httpx.HTTPError as error:
        raise AugmentError(f"the server at {server.url} did not take the event ({error}): {START_ONE}") from None


def live_api_url() -> str | None:
    """API URL of the server that answers: the configured one, else that of `make serve` in this checkout."""
    server = _live()
    return server.url if server else None


def none_configured() -> bool:
    """Does no server answer, and is none expected to?"""
    return _live() is None and (not _configured() or _is_elsewhere(_note()))


def connect() -> str:
    """Use the server that answers for the rest of this process, or a temporary one; returns its API URL.

    Call it before a flow starts. Raises AugmentError as `begin_connecting` does.
    """
    return begin_connecting()()


def begin_connecting() -> Callable[[], str]:
    """As `connect`, but a temporary server is only started: what is returned waits until it takes requests.

    So its seconds can be used for something else. The prefect.toml of a `make serve` that was killed is removed. Raises
    AugmentError where a server is configured otherwise and does not answer, or refuses this shell.
    """
    server = _live()
    if server:
        os.environ["PREFECT_API_URL"] = server.url
        if server.secret:
            os.environ["PREFECT_API_AUTH_STRING"] = server.secret
        refresh_global_settings_context()
        return partial(str, server.url)
    _forget_served()
    if _configured() and not _is_elsewhere(_note()):
        raise AugmentError(
            f"Prefect is set to use {_configured()}, and nothing answers at it: {START_ONE}, or unset PREFECT_API_URL "
            "(or your profile's api url) to run on a temporary server"
        )
    return start_temporary_server()


def _forget_served() -> None:
    """Remove what a killed `make serve` of this machine left, and an empty setting, which would count as set."""
    note = _note()
    if note and note.ours and not _is_elsewhere(note):
        (CHECKOUT / "prefect.toml").unlink(missing_ok=True)
    for name in ("PREFECT_API_URL", "PREFECT_API_AUTH_STRING"):
        if not os.environ.get(name):
            os.environ.pop(name, None)
    refresh_global_settings_context()


def start_temporary_server() -> Callable[[], str]:
    """A server for this process alone, which ends with it; returns what waits for it, and gives its API URL.

    Both raise AugmentError where it does not start.
    """
    end_leftovers()
    listening = listen()
    url = f"http://{HOST}:{listening.getsockname()[1]}/api"
    os.environ.update(access(url, new_secret()))
    refresh_global_settings_context()
    running = contextlib.ExitStack()
    server = running.enter_context(start_server(f"temporary-server-{os.getpid()}", listening, "--temporary"))
    atexit.register(running.close)

    def wait() -> str:
        wait_for("the temporary server", [server], lambda: healthy(url))
        running.callback(server.log.unlink, missing_ok=True)
        return url

    return wait


def _live() -> Server | None:
    os.environ.update(past_proxies())
    return next((server for server in _candidates() if _answers(server)), None)


def _candidates() -> list[Server]:
    """The configured server, then the served one; the credentials of one are sent to no other."""
    settings, url, note = get_current_settings().api, _configured(), _note()
    found = []
    if url and (note is None or note.url != url):
        secret = settings.auth_string.get_secret_value() if settings.auth_string else None
        key = settings.key.get_secret_value() if settings.key else None
        found.append(Server(url, secret, key))
    if note and not _is_elsewhere(note) and (note.server is None or note.server.process()):
        found.append(Server(note.url, note.secret))
    return found


def _configured() -> str | None:
    return get_current_settings().api.url or None


def _note() -> Note | None:
    """What `make serve` noted, for a shell in another folder: Prefect reads prefect.toml in the working one only."""
    return read_note(CHECKOUT / "prefect.toml")


def _is_elsewhere(note: Note | None) -> bool:
    """Is it of another machine, whose loopback is not this one's?"""
    return bool(note and note.server and note.server.is_elsewhere())


def _answers(server: Server) -> bool:
    """Raises AugmentError where it answers and refuses this shell."""
    try:
        if not httpx.get(f"{server.url}/health", headers=server.headers, timeout=_PATIENCE).is_success:
            return False
        refused = httpx.get(f"{server.url}/admin/version", headers=server.headers, timeout=_PATIENCE).status_code
    except (httpx.HTTPError, httpx.InvalidURL):
        return False
    if refused in (401, 403):
        raise AugmentError(
            f"the server at {server.url} refuses this shell: set PREFECT_API_AUTH_STRING to that server's, or unset "
            "PREFECT_API_URL to use another one"
        )
    return True
