"""Requests to the served API by those who may not: without its secret, under another name, from another page.

What must hold: no such request is answered with anything but a refusal, and none has an effect.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import os
import subprocess
import sys
import time
import urllib.parse
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from attacks import CHECKOUT, Attack, Fault, end_group

PROGRAM = """
import os, sys
from flows.server import access, listen, new_secret, start_server
listening, secret = listen(), new_secret()
url = f"http://127.0.0.1:{listening.getsockname()[1]}/api"
os.environ.update(access(url, secret))
with start_server("attacked", listening):
    print(url, secret, flush=True)
    sys.stdin.read()
"""

_FREE = ("/api/health", "/api/ready")  # probes: they reveal nothing


@dataclass(frozen=True)
class Served:
    """The server that is attacked; routes: (method, path) of its API."""

    port: int
    secret: str
    routes: tuple[tuple[str, str], ...] = ()

    def ask(
        self, method: str, path: str, headers: list[tuple[str, str]], body: bytes | None = None
    ) -> tuple[int, bytes]:
        """(status, body) of a request with these headers alone; (0, b"") where the server hangs up."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=100)
        with contextlib.closing(connection):
            try:
                connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
                for name, value in headers:
                    connection.putheader(name, value)
                if body is not None:
                    connection.putheader("Content-Length", str(len(body)))
                connection.endheaders(body)
                answer = connection.getresponse()
                return answer.status, answer.read() if answer.status != 101 else _first_frame(connection)
            except (ConnectionError, http.client.HTTPException):
                return 0, b""

    def friendly(self, method: str, path: str, value: Any = None) -> Any:
        """What a program with the secret is answered."""
        body = None if value is None else json.dumps(value).encode()
        status, data = self.ask(method, path, [*self.own_host, *basic(self.secret)], body)
        if status // 100 != 2:
            raise Fault(f"a program with the secret is refused: {method} {path} {status} {data[:300]!r}")
        return json.loads(data)

    @property
    def own_host(self) -> list[tuple[str, str]]:
        return [("Host", f"127.0.0.1:{self.port}")]


def basic(secret: str) -> list[tuple[str, str]]:
    return [("Authorization", "Basic " + base64.b64encode(secret.encode()).decode())]


def _first_frame(connection: http.client.HTTPConnection) -> bytes:
    """What a websocket sends first; b"" where it is silent."""
    assert connection.sock is not None
    connection.sock.settimeout(2)
    try:
        return connection.sock.recv(1000)
    except (TimeoutError, OSError):
        return b""


@contextmanager
def attacking(folder: Path) -> Iterator[Attack]:
    """Attack n: one request."""
    with _server(folder) as server:
        yield on(server)


def on(server: Served) -> Attack:
    """The attack on a server that runs."""
    return lambda number: request(server, Random(f"served {number}"))


@contextmanager
def _server(folder: Path) -> Iterator[Served]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    path = os.pathsep.join([str(CHECKOUT), os.environ.get("PYTHONPATH", "")])
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM],
        cwd=folder,
        env={**kept, "PREFECT_HOME": str(folder / "home"), "PYTHONPATH": path},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    assert process.stdout is not None and process.stdin is not None
    try:
        with process.stdout, process.stdin:
            url, secret = process.stdout.readline().decode().split()
            server = Served(urllib.parse.urlsplit(url).port or 0, secret)
            for _ in range(600):
                with contextlib.suppress(OSError, Fault):
                    server.friendly("GET", "/api/admin/version")
                    break
                time.sleep(0.2)
            yield Served(server.port, secret, routes(server))
    finally:
        end_group(process)


def routes(server: Served) -> tuple[tuple[str, str], ...]:
    """All that the API can do, as it says itself."""
    paths = server.friendly("GET", "/openapi.json")["paths"]
    found = [(method.upper(), path) for path in paths for method in paths[path]]
    return tuple((method, path if path.startswith("/api/") else f"/api{path}") for method, path in found)


def request(server: Served, random: Random) -> str:
    """How a request ended that has no right to be made; raises Fault."""
    wrong = random.choice(["secret", "host", "origin"])
    headers = [*_hosts(server, random, wrong), *_secrets(server, random, wrong), *_origins(server, random, wrong)]
    kind = random.choice(["flow", "flow", "route", "route", "socket"])
    name, body = f"attacked-{uuid.UUID(int=random.getrandbits(128))}", b""
    if kind == "flow":
        method, path = "POST", _spelled("/api/flows/", server, random)
        body = json.dumps({"name": name}).encode()
    elif kind == "route":
        method, path = random.choice(server.routes)
        for part in [part for part in path.split("/") if part.startswith("{")]:
            path = path.replace(part, random.choice([str(uuid.uuid4()), "name", "health", "..", "x%2fhealth"]))
        path, body = _spelled(path, server, random), random.choice([b"{}", b"[]", b'{"name": "x"}', b""])
    else:
        method, path = "GET", random.choice(["/api/events/in", "/api/events/out", "/api/logs/out"])
        key = base64.b64encode(random.randbytes(16)).decode()
        headers += [("Connection", "Upgrade"), ("Upgrade", "websocket"), ("Sec-WebSocket-Key", key)]
        headers += [("Sec-WebSocket-Version", "13"), *random.choice([[], [("Sec-WebSocket-Protocol", "prefect")]])]
    if method in ("POST", "PUT", "PATCH"):
        type_ = random.choice([None, "application/json", "text/plain", "application/x-www-form-urlencoded", "a/b; c"])
        headers += [("Content-Type", type_)] if type_ else []
    status, answer = server.ask(method, path, headers, body if method != "GET" else None)
    exchange = f"{method} {path} {headers} → {status} {answer[:200]!r}"
    check_answer(server, wrong, method, path, status, answer, exchange)
    if kind == "flow" and server.friendly("POST", "/api/flows/filter", {"flows": {"name": {"any_": [name]}}}):
        raise Fault(f"it had an effect: {exchange}")
    return f"{wrong} refused"


def check_answer(server: Served, wrong: str, method: str, path: str, status: int, answer: bytes, exchange: str) -> None:
    """Raises Fault where it is no refusal."""
    plain = urllib.parse.unquote(path).split("?")[0]
    if status == 101 and wrong == "secret" and answer[:1] not in (b"\x81", b"\x82"):
        return  # a websocket asks for the secret by its first message, and says nothing before
    if 200 <= status < 400 or status == 101:
        static = wrong == "secret" and method in ("GET", "HEAD") and not plain.lower().lstrip("/").startswith("api")
        if not static and not (wrong == "secret" and plain.endswith(_FREE)):
            raise Fault(f"answered: {exchange}")
    if server.secret.encode() in answer:
        raise Fault(f"it reveals the secret: {exchange}")


def _spelled(path: str, server: Served, random: Random) -> str:
    """The path as it is, mostly; or in other words."""
    if random.random() < 0.6:
        return path
    inner = path.removeprefix("/api")
    return random.choice(
        [
            f"/{path}",
            f"/x/..{path}",
            f"/API{inner}",
            f"/%61pi{inner}",
            f"/api/.{inner}",
            f"/api/health/..{inner}",
            f"/api/health/%2e%2e{inner}",
            f"/api;x{inner}",
            f"{path}?health",
            f"{path}#/api/health",
            f"{path.rstrip('/')}%00",
            f"http://127.0.0.1:{server.port}{path}",
        ]
    )


def _hosts(server: Served, random: Random, wrong: str) -> list[tuple[str, str]]:
    """Of this server; or where the host is what is wrong, of another."""
    if wrong != "host":
        return [("Host", random.choice([f"127.0.0.1:{server.port}", f"localhost:{server.port}"]))]
    host, evil = f"127.0.0.1:{server.port}", "rebound.example"
    return random.choice(
        [
            [],
            [("Host", "")],
            [("Host", evil)],
            [("Host", f"{evil}:{server.port}")],
            [("Host", f"127.0.0.1.{evil}:{server.port}")],
            [("Host", f"{host}@{evil}")],
            [("Host", f"{evil}/{host}")],
            [("Host", f"127.0.0.1:{server.port + 1}")],
            [("Host", "127.0.0.1")],
            [("Host", f"0.0.0.0:{server.port}")],
            [("Host", f"[::ffff:127.0.0.1]:{server.port}")],
            [("Host", host), ("Host", evil)],
            [("Host", evil), ("Host", host)],
            [("Host", f"{evil}, {host}")],
            [("Host", evil), ("X-Forwarded-Host", host)],
            [("Host", evil), ("Forwarded", f"host={host}")],
            [("Host", f"localhost.:{server.port}.")],
        ]
    )


def _secrets(server: Served, random: Random, wrong: str) -> list[tuple[str, str]]:
    """The right one; or where that is what is wrong, none that is."""
    if wrong != "secret":
        return basic(server.secret)
    plain = base64.b64encode(server.secret.encode()).decode()
    return random.choice(
        [
            [],
            basic(""),
            basic("augment:"),
            basic(server.secret[:-1]),
            basic(server.secret + "x"),
            basic(server.secret.swapcase()),
            [("Authorization", plain)],
            [("Authorization", f"Bearer {server.secret}")],
            [("Authorization", "Basic")],
            [("Authorization", "Basic !!!")],
            [("Authorization", "Basic " + base64.b64encode("\xff\u0100".encode()).decode())],
            [("Cookie", f"prefect-password={plain}")],
            [("X-Authorization", f"Basic {plain}")],
        ]
    )


def _origins(server: Served, random: Random, wrong: str) -> list[tuple[str, str]]:
    """None, or the server's own page; where that is what is wrong, another page."""
    if wrong != "origin":
        return random.choice([[], [("Origin", f"http://127.0.0.1:{server.port}")]])
    evil = [
        "null",
        "http://elsewhere.example",
        f"http://127.0.0.1:{server.port}.elsewhere.example",
        f"https://127.0.0.1:{server.port}",
        f"http://127.0.0.1:{server.port + 1}",
        "http://localhost",
        "file://",
        "",
    ]
    page = [("Origin", f"http://127.0.0.1:{server.port}")]
    return [*random.choice([[], page]), ("Origin", random.choice(evil)), *random.choice([[], page])]
