"""Prefect's server as this project runs it: on loopback, for this user's programs and the server's own pages alone.

python -m flows.server --socket FD --starter PID [--temporary]      # flows/serve.py and flows/events.py start it

Every request needs the secret of PREFECT_SERVER_API_AUTH_STRING, which Prefect checks itself; without one nothing
starts. Before that, Guard refuses requests that name another host (a web page whose name was bound to 127.0.0.1 counts
as this server's, for a browser) and requests of other pages. It ends when the process that started it has ended.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import json
import os
import secrets
import signal
import socket
import sys
import threading
import time
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.children import Child, Life, child
from lib.core.errors import AugmentError
from lib.core.files import write_private

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

HOST = "127.0.0.1"
LOCAL_NAMES = (HOST, "localhost", "[::1]")
NOTE = "# Written by `make serve`, which removes it when it stops.\n"
LIFE = "# by "
LOGIN = "/open"  # the page that hands the secret to the UI
GRACE = 5  # seconds for open requests at the end

# Prefect's UI keeps the secret as base64 in the browser's local storage. The page takes it from the part of its address
# behind #, which a browser sends to no server and writes into no log.
LOGIN_PAGE = """<!doctype html>
<meta charset="utf-8">
<title>augment</title>
<p id="text">One moment …</p>
<script>
const password = btoa(decodeURIComponent(location.hash.slice(1)));
fetch("/api/admin/version", {headers: {Authorization: "Basic " + password}}).then(answer => {
  if (!answer.ok) throw new Error(answer.status);
  localStorage.setItem("prefect-password", password);
  location.replace("/");
}).catch(() => {
  document.getElementById("text").textContent =
    "This link does not open this server: take the one that the running `make serve` has printed.";
});
</script>
"""


def new_secret() -> str:
    """For PREFECT_SERVER_API_AUTH_STRING and PREFECT_API_AUTH_STRING; user:password, as for HTTP's basic scheme."""
    return f"augment:{secrets.token_urlsafe(32)}"


def access(url: str, secret: str) -> dict[str, str]:
    """Environment of the server and of everything that may use it; never on a command line, which others see."""
    return {
        "PREFECT_API_URL": url,
        "PREFECT_API_AUTH_STRING": secret,
        "PREFECT_SERVER_API_AUTH_STRING": secret,
        "PREFECT_API_KEY": "",  # a cloud profile's key is not for this server
        **past_proxies(),
    }


def past_proxies() -> dict[str, str]:
    """NO_PROXY with this machine's names added: no proxy reaches a server on loopback."""
    known = [os.environ.get(name, "") for name in ("no_proxy", "NO_PROXY")]
    hosts = [host.strip() for text in known for host in text.split(",")]
    value = ",".join(dict.fromkeys(filter(None, [*hosts, HOST, "localhost", "::1"])))
    return {"NO_PROXY": value, "no_proxy": value}  # some read the one, some the other


def listen(port: int = 0) -> socket.socket:
    """A socket on loopback, for `--socket`; port 0: a free one. Raises AugmentError where another program has it."""
    one = socket.socket()
    one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        one.bind((HOST, port))
    except (OSError, OverflowError) as error:
        one.close()
        if port == 0:
            raise AugmentError(f"no port of {HOST} is free for a server ({error}): end programs that listen") from None
        raise AugmentError(
            f"port {port} is not available ({error}): stop what listens there (another make serve?), or take another "
            f"port: make serve PORT={port + 1 if port < 65535 else 4201}"
        ) from None
    return one


@contextlib.contextmanager
def start_server(name: str, listening: socket.socket, *options: str) -> Iterator[Child]:
    """The server as a child, until the end of the block; this process's environment holds what access() gives."""
    socket_option = ("--socket", str(listening.fileno()))
    starter_option = ("--starter", str(os.getpid()))
    with child(name, "flows.server", *socket_option, *starter_option, *options, keep=[listening.fileno()]) as one:
        listening.close()
        yield one


def healthy(url: str) -> bool:
    """Does the server take requests with this process's secret?"""
    import httpx

    headers = basic(os.environ.get("PREFECT_API_AUTH_STRING"))
    try:
        # Without TLS no certificate is looked at, and to load all authorities' takes forty times as long as to ask.
        verify = url.startswith("https:")
        return httpx.get(f"{url}/admin/version", headers=headers, timeout=30, verify=verify).is_success
    except httpx.HTTPError:
        return False


def basic(secret: str | None) -> dict[str, str]:
    """The header that shows a secret."""
    return {"Authorization": f"Basic {base64.b64encode(secret.encode()).decode()}"} if secret else {}


# How a shell finds a served one


@dataclass(frozen=True)
class Note:
    """What `make serve` left in the checkout's prefect.toml."""

    url: str
    secret: str | None
    server: Life | None  # None: written by hand, or by an earlier version
    ours: bool  # False: a person wrote it


def note_text(url: str, secret: str) -> str:
    """The text of prefect.toml: the settings for every shell in the folder, and the process that wrote them."""
    life = json.dumps(asdict(Life.of(os.getpid())))
    return f"{NOTE}{LIFE}{life}\n[api]\nauth_string = {json.dumps(secret)}\nurl = {json.dumps(url)}\n"


def write_note(path: Path, text: str) -> bool:
    """Write it so that its owner alone can read it; False where that cannot be, or where a file is in the way.

    In the way are a person's file, and that of a running serve on another machine that shares the disk.
    """
    try:
        if path.exists() and not path.read_text("utf-8").startswith(NOTE):
            return False
        former = read_note(path)
        if former and former.server and former.server.is_elsewhere():
            return False
    except OSError:
        return False
    return write_private(path, text.encode())


def read_note(path: Path) -> Note | None:
    """The note in a prefect.toml; None where the file is missing or not readable as one."""
    try:
        text = path.read_text("utf-8")
        api = tomllib.loads(text)["api"]
        url, secret = api["url"], api.get("auth_string")
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    if not isinstance(url, str) or not isinstance(secret, str | None):
        return None
    line = next((line for line in text.splitlines() if line.startswith(LIFE)), LIFE)
    try:
        life = Life.read(json.loads(line.removeprefix(LIFE)))
    except ValueError:
        life = None
    return Note(url, secret, life, text.startswith(NOTE))


# The server's process


class Guard:
    """ASGI: passes on requests to one of this machine's names, from a program or from a page of this server."""

    def __init__(self, app: ASGIApp, port: int, with_ui: bool) -> None:
        self.app, self.with_ui = app, with_ui
        self.hosts = {f"{name}:{port}" for name in LOCAL_NAMES} | (set(LOCAL_NAMES) if port == 80 else set())
        self.origins = {f"http://{host}" for host in self.hosts}
        pages = " ".join(f"{scheme}://{name}:{port}" for scheme in ("http", "ws") for name in (HOST, "localhost"))
        # A page of the UI loads nothing from elsewhere, and stands in no other page's frame. Prefect's would send what
        # one looks at to a service for analytics.
        policy = f"default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob: {pages}; frame-ancestors 'none'"
        self.headers = [(b"content-security-policy", policy.encode()), (b"referrer-policy", b"no-referrer")]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        from starlette.responses import HTMLResponse, PlainTextResponse

        if scope["type"] not in ("http", "websocket"):
            return await self.app(scope, receive, send)
        refusal = self.refusal(scope)
        if scope["type"] == "websocket":
            if refusal:
                return await send({"type": "websocket.close", "code": 1008, "reason": refusal})
            return await self.app(scope, receive, send)

        async def send_with_policy(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *self.headers]
            await send(message)

        if refusal:
            answer: ASGIApp = PlainTextResponse(refusal, 403)
        elif self.with_ui and scope["method"] == "GET" and scope["path"] == LOGIN:
            answer = HTMLResponse(LOGIN_PAGE, headers={"cache-control": "no-store"})
        else:
            answer = self.app
        await answer(scope, receive, send_with_policy)

    def refusal(self, scope: Scope) -> str | None:
        """Why a request does not pass, or None."""
        named = {wanted: [v for k, v in scope["headers"] if k == wanted] for wanted in (b"host", b"origin")}
        hosts = [value.decode("latin-1").lower() for value in named[b"host"]]
        if len(hosts) != 1 or hosts[0] not in self.hosts:
            return f"host {', '.join(hosts) or '(none)'} refused: this server is {', '.join(sorted(self.hosts))}"
        origins = [value.decode("latin-1").lower() for value in named[b"origin"]]
        if not self.origins.issuperset(origins):
            return f"a page of {', '.join(origins)} may not use this server"
        return None


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until SIGTERM, or until the starter has ended."""
    parser = argparse.ArgumentParser(prog="python -m flows.server", description=__doc__)
    parser.add_argument("--socket", type=int, required=True, help="descriptor of a bound socket")
    parser.add_argument("--starter", type=int, required=True, help="process id of the process that started this one")
    parser.add_argument("--temporary", action="store_true", help="for one run: no UI, no schedules")
    options = parser.parse_args(arguments)
    if not os.environ.get("PREFECT_SERVER_API_AUTH_STRING"):
        print("PREFECT_SERVER_API_AUTH_STRING is not set: this server would be open to everybody", file=sys.stderr)
        return 1
    threading.Thread(target=end_with, args=(options.starter,), daemon=True).start()
    run(socket.socket(fileno=options.socket), options.temporary)
    return 0


def end_with(starter: int) -> None:
    """End this process when its starter has ended; it has then another parent."""
    while os.getppid() == starter:
        time.sleep(0.5)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(2 * GRACE)
    os._exit(1)


def run(listening: socket.socket, temporary: bool) -> None:
    """What `prefect server start` runs, or its temporary server, behind the guard."""
    # Before Prefect is imported. Its create_app, called again inside the server, then finds this app.
    os.environ["PREFECT__SERVER_FINAL"] = "1"
    if temporary:
        os.environ.update(PREFECT__SERVER_EPHEMERAL="1", PREFECT_SERVER_UI_ENABLED="false")
        os.environ["PREFECT_SERVER_REGISTER_BLOCKS_ON_START"] = "false"  # for the UI's forms; a part of the start
    import uvicorn
    from prefect.server.api.server import create_app
    from prefect.settings import get_current_settings

    write_in_turn()
    settings = get_current_settings().server
    config = uvicorn.Config(
        Guard(create_app(), listening.getsockname()[1], with_ui=not temporary),
        timeout_keep_alive=settings.api.keepalive_timeout,
        ws_ping_interval=settings.api.websocket_ping_interval,
        ws_ping_timeout=settings.api.websocket_ping_timeout,
        log_level=settings.logging_level.lower(),
        timeout_graceful_shutdown=GRACE,
        lifespan="on",
        proxy_headers=False,
    )
    uvicorn.Server(config).run(sockets=[listening])


def write_in_turn() -> None:
    """Let the server's transactions on SQLite wait for each other at their start, as Prefect's most frequent ones do.

    The others take the lock at their first write. Where one has read before that, and another has written since, SQLite
    refuses it at once ("database is locked", however long the timeout), and under load retries are refused as well.
    """
    from prefect.server.database.configurations import AioSqliteConfiguration

    begin = AioSqliteConfiguration.begin_transaction

    def begin_immediate(self: Any, session: Any, with_for_update: bool = False) -> Any:
        return begin(self, session, with_for_update=True)

    AioSqliteConfiguration.begin_transaction = begin_immediate  # type: ignore[method-assign]


if __name__ == "__main__":
    sys.exit(main())
