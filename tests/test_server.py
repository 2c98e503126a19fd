"""Prefect's server as this project runs it: who gets in, and that it does not outlive its run."""

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import psutil
import pytest
from conftest import PATIENCE, MadeSet

from flows import children
from flows.server import LOGIN, Guard, basic, healthy, past_proxies

pytestmark = pytest.mark.timeout(3 * PATIENCE)  # the first test that needs a server waits for its start

CHECKOUT = Path(__file__).parents[1]

# What `augment run` does before its flow starts, and then the commands that it receives.
PROGRAM = """
import os, sys
from flows.commands import connection
connection.prepare_prefect()
print(os.environ["PREFECT_API_URL"], os.environ["PREFECT_API_AUTH_STRING"], flush=True)
for line in sys.stdin:
    from flows.cli import main
    print("ended", main(line.split()), flush=True)
"""


def starting(folder: Path, program: str = PROGRAM, **environment: str) -> subprocess.Popen[str]:
    """A program in an empty folder, with an empty Prefect home."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    env = {**kept, "PYTHONPATH": str(CHECKOUT), "PREFECT_HOME": str(folder / "home"), **environment}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with (folder / "errors").open("wb") as errors:
        return subprocess.Popen([sys.executable, "-c", program], cwd=folder, env=env, stderr=errors, text=True, **pipes)


def wait_until_gone(process: psutil.Process, seconds: float = PATIENCE) -> bool:
    deadline = time.monotonic() + seconds
    while process.is_running() and process.status() != psutil.STATUS_ZOMBIE and time.monotonic() < deadline:
        time.sleep(0.1)
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


class Run:
    """A process with a temporary server, as in a container: a proxy that answers nothing, a home that nobody writes."""

    def __init__(self, folder: Path, database: Path) -> None:
        self.left = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        (folder / "home" / "augment-children").mkdir(parents=True)
        shutil.copy(database, folder / "home" / "prefect.db")
        note_of(folder / "home" / "augment-children", self.left.pid)
        dead = dict.fromkeys(("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "ALL_PROXY"), "http://127.0.0.1:9")
        self.folder, self.home = folder, folder / "home"
        self.process = starting(folder, NO_PROXY="", no_proxy="", HOME="/proc", **dead)
        self.url, self.secret = self.output().split()

    def output(self) -> str:
        """Its next line."""
        assert self.process.stdout
        return self.process.stdout.readline()

    def command(self, arguments: str) -> str:
        """What it prints of `augment ARGUMENTS`, up to the line with the exit code."""
        assert self.process.stdin
        self.process.stdin.write(f"{arguments}\n")
        self.process.stdin.flush()
        lines = [self.output()]
        while lines[-1] and not lines[-1].startswith("ended"):
            lines.append(self.output())
        return "".join(lines)

    def post(self, path: str, body: object, **headers: str) -> httpx.Response:
        with httpx.Client(trust_env=False, timeout=PATIENCE) as client:
            return client.post(self.url + path, json=body, headers=headers)


@pytest.fixture(scope="module")
def run(tmp_path_factory, prefect_database):
    one = Run(tmp_path_factory.mktemp("temporary"), prefect_database)
    yield one
    for process in (one.process, one.left):
        process.kill()
        process.communicate()


def test_the_temporary_server_takes_its_own_runs_requests_alone(run):
    assert run.post("/flow_runs/filter", {}).status_code == 401
    assert run.post("/flow_runs/filter", {}, **basic(run.secret), Host="rebound.example").status_code == 403
    assert run.post("/flow_runs/filter", {}, **basic(run.secret)).json() == []
    assert httpx.get(run.url.removesuffix("/api") + LOGIN, timeout=PATIENCE).status_code == 404


def test_a_start_ends_what_a_killed_run_has_left(run):
    assert run.left.wait(PATIENCE) == -signal.SIGTERM


BUSY = """
import sqlite3, sys, time
with sqlite3.connect(sys.argv[1], timeout=60, isolation_level=None) as base:
    base.execute("create table if not exists busy (x)")
    while True:
        base.execute("insert into busy values (1)")
        print(flush=True)
        time.sleep(0.001)
"""


def test_no_request_fails_while_another_program_writes_to_the_database(run):
    """Prefect looks a flow up before it writes it: SQLite refuses that where another has written in between."""
    command = [sys.executable, "-c", BUSY, str(run.home / "prefect.db")]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as busy:
        try:
            assert busy.stdout and busy.stdout.readline()
            drain = threading.Thread(target=busy.stdout.read)
            drain.start()
            statuses = [run.post("/flows/", {"name": f"flow {k}"}, **basic(run.secret)).status_code for k in range(20)]
            assert busy.poll() is None
        finally:
            busy.kill()
            drain.join()
    assert statuses == [201] * 20


def test_proxy_localhost_and_readonly_home(run):
    made = MadeSet(run.folder / "made", 3)
    given = {"dataset": made.dataset, "preset": "copy-paste", "limit": 1, "workspace": str(run.folder / "ws")}
    (run.folder / "run.yaml").write_text(json.dumps(given | {"evaluate": {"metrics": []}}))
    output, errors = run.command("run run.yaml"), (run.folder / "errors").read_text()
    assert "Traceback" not in errors and output.endswith("ended 0\n"), output + errors
    assert (run.folder / "ws" / "final" / "annotations.json").is_file()


def test_the_temporary_server_ends_when_its_run_is_killed(run):
    (server,) = [one for one in psutil.Process(run.process.pid).children() if "flows.server" in one.cmdline()]
    assert not any(run.secret in part for part in server.cmdline())
    run.process.send_signal(signal.SIGKILL)
    assert wait_until_gone(server)


SETTINGS = """
from flows.commands import connection
with connection.trusted_settings():
    import prefect
    from prefect.settings import get_current_settings
print(get_current_settings().api.url, get_current_settings().logging.config_path)
"""


BESIDE = {
    "prefect.toml": '[api]\nurl = "http://evil.example/api"\n[logging]\nconfig_path = "evil.yaml"\n',
    ".env": "PREFECT_API_URL=http://evil.example/api\nPREFECT_LOGGING_CONFIG_PATH=evil.yaml\n",
    "pyproject.toml": '[tool.prefect]\napi.url = "http://evil.example/api"\nlogging.config_path = "evil.yaml"\n',
}


def test_prefects_settings_beside_the_data_are_not_read(tmp_path):
    """None of the three files that Prefect looks for."""
    for name, text in BESIDE.items():
        (tmp_path / name).write_text(text)
    with starting(tmp_path, SETTINGS) as run:
        output = run.communicate(timeout=PATIENCE)[0]
    assert run.returncode == 0 and output.strip() and "evil" not in output


def test_without_a_secret_no_server_starts():
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    command = [sys.executable, "-m", "flows.server", "--socket", "0", "--starter", str(os.getpid())]
    done = subprocess.run(command, env=kept, cwd=CHECKOUT, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 1 and "PREFECT_SERVER_API_AUTH_STRING is not set" in done.stderr


# The guard, around an app that answers everything


async def answer_everything(scope, receive, send):
    if scope["type"] == "websocket":
        return await send({"type": "websocket.accept"})
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"in"})


def status(kind: str, headers: list[tuple[bytes, bytes]], port: int = 4200) -> int:
    """HTTP status that a request with these headers gets; a websocket: 101 or 403."""
    sent = []

    async def send(message):
        sent.append(message)

    async def receive():
        return {"type": "http.request", "body": b"", "more_body": False}

    scope = {"type": kind, "method": "POST", "path": "/api/flow_runs/filter", "headers": headers}
    asyncio.run(Guard(answer_everything, port, with_ui=True)(scope, receive, send))
    if kind == "websocket":
        return {"websocket.accept": 101, "websocket.close": 403}[sent[0]["type"]]
    assert {b"content-security-policy"} <= {name for name, _ in sent[0]["headers"]}
    return sent[0]["status"]


@pytest.mark.parametrize("kind", ["http", "websocket"])
@pytest.mark.parametrize("host", ["127.0.0.1:4200", "localhost:4200", "LocalHost:4200", "[::1]:4200"])
def test_a_request_to_this_machines_own_names_passes(kind, host):
    passed = {"http": 200, "websocket": 101}[kind]
    assert status(kind, [(b"host", host.encode())]) == passed
    assert status(kind, [(b"host", host.encode()), (b"origin", f"http://{host}".encode())]) == passed
    assert status(kind, [(b"host", host.removesuffix(":4200").encode())], port=80) == passed


@pytest.mark.parametrize("kind", ["http", "websocket"])
@pytest.mark.parametrize(
    "host",
    [
        *(
            "rebound.example:4200",
            "127.0.0.1",
            "127.0.0.1:80",
            "127.0.0.1.example:4200",
            "127.0.0.2:4200",
            "0.0.0.0:4200",
        ),
        *("localhost.:4200", "a@localhost:4200", "localhost:4200,b", "", None),
        ["localhost:4200", "rebound.example:4200"],
    ],
    ids=str,
)
def test_a_request_to_another_host_is_refused(kind, host):
    hosts = host if isinstance(host, list) else [host]
    assert status(kind, [(b"host", one.encode()) for one in hosts if one is not None]) == 403


@pytest.mark.parametrize("kind", ["http", "websocket"])
@pytest.mark.parametrize(
    "origin",
    ["http://rebound.example:4200", "https://127.0.0.1:4200", "http://127.0.0.1:8000", "http://127.0.0.1", "null", ""],
)
def test_a_page_of_another_origin_is_refused(kind, origin):
    assert status(kind, [(b"host", b"127.0.0.1:4200"), (b"origin", origin.encode())]) == 403


# Proxies


def test_this_machines_own_names_are_added_to_what_passes_proxies(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "intranet.example")
    monkeypatch.setenv("no_proxy", "other.example, localhost")
    names = past_proxies()
    assert names["NO_PROXY"] == names["no_proxy"]
    assert names["NO_PROXY"].split(",") == ["other.example", "localhost", "intranet.example", "127.0.0.1", "::1"]
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    for name, value in names.items():
        monkeypatch.setenv(name, value)
    client = httpx.Client()
    direct = client._transport_for_url(httpx.URL("http://127.0.0.1:4200"))
    assert direct is client._transport_for_url(httpx.URL("http://[::1]:4200"))
    assert direct is not client._transport_for_url(httpx.URL("http://hub.example"))
    client.close()


# Leftovers of a life that was killed


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setattr(children, "_home", lambda name: tmp_path)
    return tmp_path


@pytest.fixture
def left():
    """A process that nobody ends."""
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]) as process:
        yield process
        process.kill()


def note_of(home: Path, pid: int, child: dict[str, object] | None = None, starter: int = 999_999_999) -> Path:
    """A note as children.noted writes it, by a starter that is gone."""
    life = children.asdict(children.Life.of(pid))
    path = home / f"{pid}.json"
    path.write_text(json.dumps({"child": {**life, **(child or {})}, "starter": {**life, "pid": starter}}))
    return path


def test_a_leftover_is_ended_at_the_next_start(home, left):
    note, process = note_of(home, left.pid), psutil.Process(left.pid)
    children.end_leftovers()
    assert wait_until_gone(process) and not note.exists()


def test_another_process_that_got_the_id_of_a_leftover_is_left_alone(home, left):
    note = note_of(home, left.pid, {"started": psutil.Process(left.pid).create_time() - 3600})
    children.end_leftovers()
    assert left.poll() is None and not note.exists()


def test_a_child_whose_starter_lives_is_left_alone(home, left):
    with children.noted(left.pid):
        children.end_leftovers()
        assert left.poll() is None and len(list(home.iterdir())) == 1
    assert list(home.iterdir()) == []


def test_a_child_on_another_machine_that_shares_the_home_is_left_alone(home, left):
    note = note_of(home, left.pid, {"host": "elsewhere"})
    children.end_leftovers()
    assert left.poll() is None and note.exists()


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '{"child": {"pid": -1}, "starter": 7}', "[" * 100_000, '{"child": 1, "starter": 2}']
)
def test_a_note_that_is_none_is_removed_and_nobody_ended(home, text, monkeypatch):
    (home / "1.json").write_text(text)
    monkeypatch.setattr(children, "_end", lambda process: pytest.fail("ended"))
    children.end_leftovers()
    assert list(home.iterdir()) == []


@pytest.mark.parametrize(
    ("url", "verify"), [("http://127.0.0.1:4200/api", False), ("https://server.example/api", True)]
)
def test_the_certificate_of_a_server_with_tls_is_looked_at(monkeypatch, url, verify):
    given = {}
    monkeypatch.setattr(httpx, "get", lambda url, **more: given.update(more) or httpx.Response(200))
    assert healthy(url)
    assert given["verify"] is verify
