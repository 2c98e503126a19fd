"""`make serve`, end to end: in a copy of the checkout, with another Prefect home and port."""

import csv
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import attack_served
import httpx
import pytest
from attacks import Counts, outcome
from conftest import PATIENCE, MadeSet
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings

from flows import children, events, serve
from flows.server import LOGIN, NOTE, basic, listen, note_text
from lib.core.errors import AugmentError

CHECKOUT = Path(__file__).parents[1]
pytestmark = pytest.mark.timeout(3 * PATIENCE)  # the first test also waits for the start


class Served:
    """A running `python -m flows.serve`, and shells beside it that know nothing but their folder."""

    def __init__(self, root: Path, database: Path) -> None:
        self.root, self.port = root / "checkout", free_port()
        self.client = httpx.Client(timeout=PATIENCE)
        (root / "home").mkdir()
        shutil.copy(database, root / "home" / "prefect.db")
        for name in ("flows", "tasks", "lib"):
            shutil.copytree(CHECKOUT / name, self.root / name)
        # Its painter's checkpoint would come from the hub; another run tells metrics.
        quick = "preset: copy-paste\n      evaluate: {extractor: null}"
        deployments = (CHECKOUT / "prefect.yaml").read_text().replace("preset: loco-gligen", quick)
        (self.root / "prefect.yaml").write_text(deployments)
        # Not the settings of this test run; without them a shell finds the server by the folder's prefect.toml alone.
        kept = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
        self.env = {**kept, "PREFECT_HOME": str(root / "home"), "PYTHONWARNINGS": "default"}
        self.url = f"http://127.0.0.1:{self.port}/api"
        self.out = root / "serve.log"
        with self.out.open("wb") as out:
            command = [sys.executable, "-m", "flows.serve", "--port", str(self.port)]
            self.process = subprocess.Popen(command, cwd=self.root, env=self.env, stdout=out, stderr=out)

    def shell(self, *command: str) -> str:
        """Output of `python -m COMMAND` in the checkout; fails where it fails."""
        run = [sys.executable, "-m", *command]
        done = subprocess.run(run, cwd=self.root, env=self.env, capture_output=True, text=True, timeout=PATIENCE)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    def runs(self, deployment: str) -> list[dict[str, Any]]:
        """Flow runs of a deployment, the first first."""
        query = {"deployments": {"name": {"any_": [deployment]}}, "sort": "EXPECTED_START_TIME_ASC"}
        return self.post("/flow_runs/filter", query).raise_for_status().json()

    def post(self, path: str, body: Any) -> httpx.Response:
        """As a program that has read the note."""
        return self.client.post(f"{self.url}{path}", json=body, headers=basic(self.note["auth_string"]))

    @property
    def note(self) -> dict[str, str]:
        return tomllib.loads((self.root / "prefect.toml").read_text())["api"]

    def output(self) -> str:
        return self.out.read_text("utf-8", "replace")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_until(what: Callable[[], Any], seconds: float = PATIENCE) -> Any:
    deadline = time.monotonic() + seconds
    while not (got := what()):
        assert time.monotonic() < deadline, f"waited {seconds} s"
        time.sleep(0.2)
    return got


def children_of(pid: int) -> list[int]:
    """Process ids of the children (Linux; elsewhere none are known)."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = path.read_text().rpartition(")")[2].split()[1]
        except OSError:
            continue
        if parent == str(pid):
            found.append(int(path.parent.name))
    return found


def alive(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.fixture(scope="module")
def served(prefect_database: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    one = Served(tmp_path_factory.mktemp("served"), prefect_database)
    try:
        wait_until(lambda: "Ready after" in one.output() or one.process.poll() is not None)
        assert one.process.poll() is None, one.output()
        yield one
    finally:
        one.client.close()
        one.process.terminate()
        one.process.wait(PATIENCE)


def test_a_run_with_a_data_set_of_its_own_ends_completed(served, tmp_path):
    made = MadeSet(tmp_path / "made", 3)
    dataset = str(made.dataset).replace("'", '"')
    output = served.shell(
        *("prefect", "deployment", "run", "augment/coco", "--watch"),
        *("--param", f"dataset={dataset}", "--param", "painter=copy-paste", "--param", "workspace=data/runs/here"),
    )
    assert "Completed" in output, output
    assert (served.root / "data/runs/here/final/annotations.json").is_file()
    artifacts = served.post("/artifacts/filter", {}).json()
    keys = {artifact["key"] for artifact in artifacts}
    assert {"contact-sheet", "metrics", "rows-generate", "progress-generate"} <= keys


def test_the_deployment_of_the_other_flow_trains_a_model(served):
    made = MadeSet(served.root / "data/raw/few", 3)
    quick = {"classifier": {"steps": 1, "batch": 2, "decay": 0}}  # imports no diffusers
    given = {"dataset": made.dataset, "models": ["classifier"], "size": 64, "settings": quick}
    (deployment,) = served.post("/deployments/filter", {"deployments": {"name": {"any_": ["mini"]}}}).json()
    served.post(f"/deployments/{deployment['id']}/create_flow_run", {"parameters": given}).raise_for_status()
    (ended,) = wait_until(lambda: [r["state_type"] for r in served.runs("mini") if r["end_time"]])
    assert ended == "COMPLETED", served.output()
    assert (served.root / "data/runs/mini/models/classifier/config.json").is_file()


def test_two_notifications_start_two_runs_one_after_the_other(served, monkeypatch):
    made = MadeSet(served.root / "data/raw/made", 2)
    write_loco(made, served.root / "data/raw/loco")
    assert "dataset.loco" in served.shell("flows.cli", "notify", "loco")
    monkeypatch.setattr(events, "CHECKOUT", served.root)
    monkeypatch.setattr(events, "_configured", lambda: None)
    events.notify("loco")
    wait_until(lambda: [r["state_type"] for r in served.runs("loco")] == ["COMPLETED"] * 2)
    first, second = sorted(served.runs("loco"), key=lambda run: run["start_time"])
    assert first["created_by"]["type"] == second["created_by"]["type"] == "AUTOMATION"
    assert first["end_time"] <= second["start_time"]


def test_it_says_where_and_listens_on_loopback_only(served):
    assert f"http://127.0.0.1:{served.port}" in served.output()
    assert "Traceback" not in served.output()
    assert served.note["url"] == served.url
    page = httpx.get(f"http://127.0.0.1:{served.port}/ui-settings", timeout=PATIENCE).json()
    assert page["api_url"] == served.url
    with socket.socket() as other, pytest.raises(OSError):
        other.connect(("127.0.0.2", served.port))


def test_other_web_sites_may_not_call_the_api(served):
    for origin, allowed in ((served.url.removesuffix("/api"), True), ("http://elsewhere.example", False)):
        answer = httpx.get(f"{served.url}/health", headers={"Origin": origin}, timeout=PATIENCE)
        assert (answer.headers.get("access-control-allow-origin") == origin) is allowed
        assert answer.headers.get("access-control-allow-origin") != "*"


def test_a_request_without_the_secret_of_this_serve_is_refused(served):
    text = {"content-type": "text/plain"}  # what a page may send elsewhere without the browser asking first
    for headers in ({}, text, basic("augment:guessed"), {"Authorization": "Bearer guessed"}):
        answer = httpx.post(f"{served.url}/flow_runs/filter", content=b"{}", headers=headers, timeout=PATIENCE)
        assert answer.status_code == 401, headers
    assert served.post("/flow_runs/filter", {}).status_code == 200


@pytest.mark.parametrize("header", ["Host", "Origin"])
def test_a_page_of_another_name_is_refused_with_the_secret_even(served, header):
    bound = f"rebound.example:{served.port}"
    headers = {**basic(served.note["auth_string"]), header: bound if header == "Host" else f"http://{bound}"}
    for method, path in (("POST", "/api/flow_runs/filter"), ("GET", "/api/health"), ("GET", "/"), ("GET", LOGIN)):
        answer = httpx.request(
            method, served.url.removesuffix("/api") + path, json={}, headers=headers, timeout=PATIENCE
        )
        assert answer.status_code == 403 and "rebound.example" in answer.text, path


@pytest.mark.parametrize("path", ["/events/in", "/events/out", "/logs/out", "/work_pools/augment/workers/connect"])
def test_a_websocket_needs_the_secret_and_no_foreign_page(served, path):
    from websockets.exceptions import ConnectionClosed, InvalidStatus
    from websockets.sync.client import connect

    url = served.url.replace("http:", "ws:") + path
    foreign = url.replace("127.0.0.1", "elsewhere.example")
    reached = socket.create_connection(("127.0.0.1", served.port))
    with pytest.raises(InvalidStatus, match="403"), connect(foreign, sock=reached, proxy=None):
        pass
    with pytest.raises(InvalidStatus, match="403"), connect(url, origin="http://elsewhere.example", proxy=None):
        pass
    with pytest.raises((ConnectionClosed, InvalidStatus)), connect(url, proxy=None) as line:
        line.recv(timeout=PATIENCE)
    prefect = {"subprotocols": ["prefect"], "proxy": None}
    with pytest.raises(ConnectionClosed), connect(url, **prefect) as line:
        line.send(json.dumps({"type": "auth", "token": "augment:guessed"}))
        line.recv(timeout=PATIENCE)
    with connect(url, **prefect) as line:
        line.send(json.dumps({"type": "auth", "token": served.note["auth_string"]}))
        assert json.loads(line.recv(timeout=PATIENCE))["type"] == "auth_success"


def test_the_note_with_the_secret_is_its_owners_alone_and_no_command_line_shows_it(served):
    note = served.root / "prefect.toml"
    assert note.stat().st_mode & 0o077 == 0
    assert len(served.note["auth_string"]) > 32
    for pid in [served.process.pid, *children_of(served.process.pid)]:
        line = Path(f"/proc/{pid}/cmdline")
        assert not line.exists() or served.note["auth_string"].encode() not in line.read_bytes()


def test_the_address_that_it_prints_opens_the_ui_without_a_password(served):
    """The page puts the secret where the UI looks for it. It stands behind #, so that no request carries it."""
    printed = re.search(r"UI +(\S+)", served.output())
    assert printed and printed[1] == f"http://127.0.0.1:{served.port}{LOGIN}#{served.note['auth_string']}"
    page = httpx.get(printed[1].partition("#")[0])
    assert page.headers["content-type"].startswith("text/html") and page.headers["cache-control"] == "no-store"
    assert "frame-ancestors 'none'" in page.headers["content-security-policy"]
    assert 'localStorage.setItem("prefect-password"' in page.text and served.note["auth_string"] not in page.text
    assert prefect_ui_reads("prefect-password")
    assert httpx.get(f"http://127.0.0.1:{served.port}/ui-settings", timeout=PATIENCE).json()["auth"] == "BASIC"


def test_requests_of_those_who_may_not_are_refused_and_have_no_effect(served):
    secret, counts = served.note["auth_string"], Counts()
    attack = attack_served.on(
        attack_served.Served(served.port, secret, attack_served.routes(attack_served.Served(served.port, secret)))
    )
    for number in range(100):
        counts.add({"number": number, **outcome(attack, number)})
    assert not counts.faults and counts.tried == 100


def prefect_ui_reads(key: str) -> bool:
    import prefect

    return any(key in path.read_text("utf-8") for path in prefect.__ui_static_path__.glob("assets/*.js"))


@pytest.mark.parametrize(
    "given", [{"command": "touch ran"}, {"env": {"LD_PRELOAD": "x"}}, {"working_dir": "/"}], ids=str
)
def test_a_request_for_a_run_brings_no_command_environment_or_folder(served, given):
    (deployment,) = served.post("/deployments/filter", {"deployments": {"name": {"any_": ["demo"]}}}).json()
    answer = served.post(f"/deployments/{deployment['id']}/create_flow_run", {"job_variables": given})
    assert answer.status_code in (409, 422), answer.text
    pool = httpx.get(
        f"{served.url}/work_pools/augment", headers=basic(served.note["auth_string"]), timeout=PATIENCE
    ).json()
    assert pool["base_job_template"]["variables"]["properties"] == {}
    assert pool["base_job_template"]["job_configuration"]["command"].endswith(" -m prefect.engine")


def test_silent_runs_are_watched_for(served):
    named = {"automations": {"name": {"any_": [serve.ZOMBIES]}}}
    (automation,) = served.post("/automations/filter", named).json()
    assert automation["trigger"]["posture"] == "Proactive" and automation["trigger"]["within"] == 900
    assert automation["actions"][0]["state"] == "CRASHED"


def test_a_second_one_names_the_port_and_the_remedy(served):
    command = [sys.executable, "-m", "flows.serve", "--port", str(served.port)]
    done = subprocess.run(command, cwd=served.root, env=served.env, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 1
    assert re.search(rf"port {served.port} is not available .*: stop .* or take another port", done.stderr)
    assert len(done.stderr.splitlines()) == 1


def test_the_configured_server_that_answers_comes_first(served, tmp_path, monkeypatch):
    note, secret = tmp_path / "prefect.toml", served.note["auth_string"]
    monkeypatch.setattr(events, "CHECKOUT", tmp_path)
    note.write_text('[api]\nurl = "http://127.0.0.1:1/api"\n')
    with temporary_settings({PREFECT_API_URL: served.url, PREFECT_API_AUTH_STRING: secret}):
        assert events.live_api_url() == served.url
        monkeypatch.setattr(events, "_configured", lambda: "http://127.0.0.1:1/api")
        note.write_text(f'[api]\nurl = "{served.url}"\nauth_string = "{secret}"\n')
        assert events.live_api_url() == served.url
        events.notify("of a test")


def test_sigterm_leaves_no_process_and_no_note(served):
    groups = children_of(served.process.pid)
    assert len(groups) == 2 or not Path("/proc").is_dir()
    served.process.send_signal(signal.SIGTERM)
    assert served.process.wait(PATIENCE) == 0, served.output()
    assert not [group for group in groups if alive(group)]
    assert not (served.root / "prefect.toml").exists()
    assert "Traceback" not in served.output()
    listen(served.port).close()


def write_loco(made: MadeSet, folder: Path) -> None:
    """The made set as LOCO's CSV, annotations.csv beside the pictures."""
    shutil.copytree(made.images, folder)
    names = {image["id"]: image for image in made.coco["images"]}
    with (folder / "annotations.csv").open("w", newline="") as file:
        out = csv.writer(file)
        out.writerow(["id", "image_id", "category_id", "bbox", "area", "iscrowd", "file_name", "width", "height"])
        for note in made.coco["annotations"]:
            image = names[note["image_id"]]
            row = [note["id"], image["id"], 5, note["bbox"], note["area"], False]
            out.writerow([*row, image["file_name"], image["width"], image["height"]])


# Parts of it, without a server


class Client:
    """Two runs: one of this process, one of a process that has ended, and one that no worker has taken."""

    def __init__(self):
        ended = subprocess.Popen([sys.executable, "-c", ""])
        ended.wait(PATIENCE)
        pids = {"alive": str(os.getpid()), "ended": str(ended.pid), "waiting": None}
        self.runs = [SimpleNamespace(id=name, infrastructure_pid=pid) for name, pid in pids.items()]
        self.crashed = []

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass

    def set_flow_run_state(self, run, state, force):
        self.crashed.append((run, state.type.value))


def test_a_run_is_dead_when_its_process_is_and_never_by_silence_alone(monkeypatch):
    client, gone = Client(), frozenset()
    monkeypatch.setattr("prefect.client.orchestration.get_client", lambda sync_client: client)
    monkeypatch.setattr(serve, "unfinished_runs", lambda client: client.runs)
    gone = serve.crash_gone_runs(gone)
    assert client.crashed == []  # its last word may be on its way
    gone = serve.crash_gone_runs(gone)
    assert client.crashed == [("ended", "CRASHED")] and gone == frozenset()


def test_a_server_that_is_too_busy_to_answer_is_asked_again(monkeypatch):
    def busy(sync_client):
        raise httpx.ReadTimeout("busy")

    monkeypatch.setattr("prefect.client.orchestration.get_client", busy)
    assert serve.crash_gone_runs(frozenset(["x"])) == frozenset(["x"])


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    for module in (serve, events):
        monkeypatch.setattr(module, "CHECKOUT", tmp_path)
    return tmp_path


def test_a_note_that_a_killed_one_left_is_overwritten(checkout):
    note = checkout / "prefect.toml"
    note.write_text(f'{NOTE}[api]\nurl = "http://127.0.0.1:1/api"\n')
    with serve.note_access("http://127.0.0.1:2/api", "augment:x") as noted:
        assert noted and "127.0.0.1:2" in note.read_text()
    assert not note.exists()


def test_a_persons_own_note_is_left_alone(checkout):
    note = checkout / "prefect.toml"
    note.write_text("[logging]\nlevel = 'DEBUG'\n")
    with serve.note_access("http://127.0.0.1:2/api", "augment:x") as noted:
        assert not noted
    assert note.read_text() == "[logging]\nlevel = 'DEBUG'\n"
    output = serve.summary("http://127.0.0.1:2/api", "augment:x", noted, 1.0)
    assert "export PREFECT_API_URL=http://127.0.0.1:2/api" in output
    assert "export PREFECT_API_AUTH_STRING=augment:x" in output


def test_a_note_of_a_later_one_is_not_removed(checkout):
    with serve.note_access("http://127.0.0.1:2/api", "augment:x"):
        (checkout / "prefect.toml").write_text(f'{NOTE}[api]\nurl = "http://127.0.0.1:3/api"\n')
    assert "127.0.0.1:3" in (checkout / "prefect.toml").read_text()


def test_a_note_of_another_machine_that_shares_the_disk_is_left_alone(checkout, monkeypatch):
    text = note_text("http://127.0.0.1:1/api", "augment:x")
    note = checkout / "prefect.toml"
    note.write_text(text.replace(f'"{children.socket.gethostname()}"', '"elsewhere"'))
    left = note.read_text()
    assert left != text
    monkeypatch.setattr(events, "_answers", lambda server: pytest.fail("the secret went to a stranger"))
    monkeypatch.setattr(events, "_configured", lambda: None)
    assert events.live_api_url() is None
    events._forget_served()
    with serve.note_access("http://127.0.0.1:2/api", "augment:x") as noted:
        assert not noted
    assert note.read_text() == left


def test_a_note_whose_serve_was_killed_is_not_believed_and_removed(checkout, monkeypatch):
    note = checkout / "prefect.toml"
    note.write_text(note_text("http://127.0.0.1:1/api", "augment:x").replace(f": {os.getpid()}, ", ": 999999999, "))
    monkeypatch.setattr(events, "_answers", lambda server: pytest.fail("whoever has the port now is not ours"))
    monkeypatch.setattr(events, "_configured", lambda: None)
    assert events.live_api_url() is None
    events._forget_served()
    assert not note.exists()


def test_a_persons_own_note_is_not_removed_when_its_server_is_down(checkout):
    note = checkout / "prefect.toml"
    note.write_text('[api]\nurl = "http://127.0.0.1:1/api"\n')
    events._forget_served()
    assert note.exists()


def test_where_a_disk_keeps_no_file_modes_the_secret_is_not_written(checkout, monkeypatch):
    def open_to_all(prefix, dir):
        path = dir / f"{prefix}x"
        path.touch()
        path.chmod(0o644)
        return os.open(path, os.O_WRONLY), str(path)

    monkeypatch.setattr("lib.core.files.tempfile.mkstemp", open_to_all)
    with serve.note_access("http://127.0.0.1:2/api", "augment:x") as noted:
        assert not noted
    assert list(checkout.iterdir()) == []


def test_a_part_that_ends_by_itself_is_named_with_its_last_words(tmp_path):
    log = tmp_path / "worker.log"
    with log.open("wb") as out:
        process = subprocess.Popen([sys.executable, "-c", "print('no more'); exit(3)"], stdout=out, process_group=0)
    process.wait()
    with pytest.raises(AugmentError, match=r"the worker ended by itself, exit code 3; its log .* ends: no more"):
        children.wait_for("anything", [children.Child("worker", process, log)], lambda: False)


def test_a_part_that_will_not_stop_is_killed_with_its_own_children(tmp_path, monkeypatch):
    monkeypatch.setattr(children, "GRACE", 0.5)
    deaf = "import signal, subprocess, sys; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(1, flush=True);"
    deaf += "subprocess.run([sys.executable, '-c', 'import time; time.sleep(60)'])"
    process = subprocess.Popen([sys.executable, "-c", deaf], stdout=subprocess.PIPE, process_group=0)
    assert process.stdout and process.stdout.readline()
    children.Child("deaf", process, tmp_path / "log").stop()
    process.stdout.close()
    assert process.returncode == -signal.SIGKILL
    wait_until(lambda: not alive(process.pid))


@pytest.mark.parametrize("left", [None, "nonsense", 'api = "x"', '[api]\nurl = "http://127.0.0.1:1/api"\n'])
def test_no_server_is_one_sentence_whatever_was_left_behind(checkout, monkeypatch, left):
    monkeypatch.setattr(events, "_configured", lambda: None)
    if left:
        (checkout / "prefect.toml").write_text(left)
    assert events.live_api_url() is None
    with pytest.raises(AugmentError, match=r"no Prefect server answers.*start one with make serve"):
        events.notify("loco")
