"""The Prefect server that this shell can reach, and word to it that a data set was updated.

augment notify loco                                # with `make serve` running; starts the runs that wait for it

live_api_url() is where the server answers; connect() makes this process use it, or none.
"""

from __future__ import annotations

import os
import tomllib
from pathlib import Path

import httpx
from prefect.client.orchestration import get_client
from prefect.context import refresh_global_settings_context
from prefect.events import Event
from prefect.settings import PREFECT_API_URL, get_current_settings, temporary_settings

from lib.errors import AugmentError

CHECKOUT = Path(__file__).resolve().parent.parent
UPDATED = "dataset.updated"
START_ONE = "start one with make serve"

_PATIENCE = 5.0  # seconds: a loopback server answers in milliseconds, a busy one in seconds


def notify(name: str) -> None:
    """Emit `dataset.updated` for the resource dataset.NAME; returns when the server has it.

    Raises AugmentError where no server answers, or the server refuses the event.
    """
    url = live_api_url()
    if url is None:
        told = _configured()
        where = f"at {told}" if told else "(PREFECT_API_URL is not set)"
        raise AugmentError(f"no Prefect server answers {where}, so no run can be started: {START_ONE}")
    event = Event(event=UPDATED, resource={"prefect.resource.id": f"dataset.{name}"}, payload={"dataset": name})
    # The events client sends in the background and gives up in silence; a plain request tells.
    try:
        with temporary_settings({PREFECT_API_URL: url}), get_client(sync_client=True) as client:
            client.request("POST", "/events", json=[event.model_dump(mode="json")])
    except httpx.HTTPError as error:
        raise AugmentError(f"the server at {url} did not take the event ({error}): {START_ONE}") from None


def live_api_url() -> str | None:
    """API URL of the server that answers: the configured one, else that of `make serve` in this checkout."""
    urls = dict.fromkeys((_configured(), _served()))
    return next((url for url in urls if url and _answers(url)), None)


def connect() -> str | None:
    """Use the server that answers for the rest of this process, or Prefect's temporary one; returns its API URL.

    Call it before a flow starts. The prefect.toml of a `make serve` that was killed is removed. Raises AugmentError
    where a server is configured otherwise and does not answer.
    """
    url = live_api_url()
    if url is None:
        if _served() == _configured():
            (CHECKOUT / "prefect.toml").unlink(missing_ok=True)
        if not os.environ.get("PREFECT_API_URL"):  # an empty one would count as set
            os.environ.pop("PREFECT_API_URL", None)
    else:
        os.environ["PREFECT_API_URL"] = url
    refresh_global_settings_context()
    if url is None and _configured():
        raise AugmentError(
            f"Prefect is set to use {_configured()}, and nothing answers there: {START_ONE}, or unset PREFECT_API_URL "
            "(or your profile's api url) to run on a temporary server"
        )
    return url


def _configured() -> str | None:
    return get_current_settings().api.url or None


def _served() -> str | None:
    """What `make serve` noted, for a shell in another folder: Prefect reads prefect.toml in the working one only."""
    try:
        url = tomllib.loads((CHECKOUT / "prefect.toml").read_text("utf-8"))["api"]["url"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return url if isinstance(url, str) else None


def _answers(url: str) -> bool:
    key = get_current_settings().api.key
    # The key is for the configured server alone.
    headers = {"Authorization": f"Bearer {key.get_secret_value()}"} if key and url == _configured() else {}
    try:
        return httpx.get(f"{url}/health", headers=headers, timeout=_PATIENCE).is_success
    except (httpx.HTTPError, httpx.InvalidURL):
        return False
