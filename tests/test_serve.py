"""`make serve`, end to end: in a copy of the checkout, with a Prefect home and a port of its own."""

import csv
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from conftest import PATIENCE, MadeSet

from flows import events, serve
from lib.errors import AugmentError

CHECKOUT = Path(__file__).parents[1]
pytestmark = pytest.mark.timeout(3 * PATIENCE)  # the first test also waits for the start


class Served:
    """A running `python -m flows.serve`, and shells beside it that know nothing but their folder."""

    def __init__(self, root: Path) -> None:
        self.root, self.port = root / "checkout", free_port()
        for name in ("flows", "tasks", "lib"):
            shutil.copytree(CHECKOUT / name, self.root / name, ignore=shutil.ignore_patterns("__pycache__"))
        # Its painter's checkpoint would come from the hub.
        deployments = (CHECKOUT / "prefect.yaml").read_text().replace("preset: loco-gligen", "preset: copy-paste")
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
        asked = {"deployments": {"name": {"any_": [deployment]}}, "sort": "EXPECTED_START_TIME_ASC"}
        return self.post("flow_runs/filter", asked)

    def post(self, path: str, body: dict[str, Any]) -> Any:
        """The API's answer."""
        return httpx.post(f"{self.url}/{path}", json=body, timeout=PATIENCE).raise_for_status().json()

    def said(self) -> str:
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
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    one = Served(tmp_path_factory.mktemp("served"))
    try:
        wait_until(lambda: "Ready after" in one.said() or one.process.poll() is not None)
        assert one.process.poll() is None, one.said()
        yield one
    finally:
        one.process.terminate()
        one.process.wait(PATIENCE)


def test_a_run_with_a_data_set_of_its_own_ends_completed(served, tmp_path):
    made = MadeSet(tmp_path / "made", 3)
    dataset = str(made.dataset).replace("'", '"')
    told = served.shell(
        *("prefect", "deployment", "run", "augment/coco", "--watch"),
        *("--param", f"dataset={dataset}", "--param", "painter=copy-paste", "--param", "workspace=data/runs/here"),
    )
    assert "Completed" in told, told
    assert (served.root / "data/runs/here/final/annotations.json").is_file()
    keys = {artifact["key"] for artifact in served.post("artifacts/filter", {})}
    assert {"contact-sheet", "metrics", "rows-generate", "progress-generate"} <= keys


def test_the_deployment_of_the_other_flow_trains_a_model(served):
    made = MadeSet(served.root / "data/raw/few", 3)
    dataset = str(made.dataset).replace("'", '"')
    quick = '{"vae": {"steps": 1, "batch": 2}}'
    told = served.shell(
        *("prefect", "deployment", "run", "train/mini", "--watch", "--param", f"dataset={dataset}"),
        *("--param", 'models=["vae"]', "--param", "size=64", "--param", f"settings={quick}"),
    )
    assert "Completed" in told, told
    assert (served.root / "data/runs/mini/models/vae/config.json").is_file()


def test_two_notifications_start_two_runs_one_after_the_other(served):
    made = MadeSet(served.root / "data/raw/made", 2)
    write_loco(made, served.root / "data/raw/loco")
    for _ in range(2):
        assert "dataset.loco" in served.shell("flows.cli", "notify", "loco")
    wait_until(lambda: [r["state_type"] for r in served.runs("loco")] == ["COMPLETED"] * 2)
    first, second = sorted(served.runs("loco"), key=lambda run: run["start_time"])
    assert first["created_by"]["type"] == second["created_by"]["type"] == "AUTOMATION"
    assert first["end_time"] <= second["start_time"]


def test_it_says_where_and_listens_on_loopback_only(served):
    assert f"http://127.0.0.1:{served.port}" in served.said()
    assert "Traceback" not in served.said()
    assert (served.root / "prefect.toml").read_text().endswith(f'[api]\nurl = "{served.url}"\n')
    page = httpx.get(f"http://127.0.0.1:{served.port}/ui-settings", timeout=PATIENCE).json()
    assert page["api_url"] == served.url
    with socket.socket() as other, pytest.raises(OSError):
        other.connect(("127.0.0.2", served.port))


def test_other_web_sites_may_not_call_the_api(served):
    for origin, allowed in ((served.url.removesuffix("/api"), True), ("http://elsewhere.example", False)):
        answer = httpx.get(f"{served.url}/health", headers={"Origin": origin}, timeout=PATIENCE)
        assert (answer.headers.get("access-control-allow-origin") == origin) is allowed
        assert answer.headers.get("access-control-allow-origin") != "*"


def test_silent_runs_are_watched_for(served):
    wanted = {"automations": {"name": {"any_": [serve.ZOMBIES]}}}
    (automation,) = served.post("automations/filter", wanted)
    assert automation["trigger"]["posture"] == "Proactive" and automation["trigger"]["within"] == 90
    assert automation["actions"][0]["state"] == "CRASHED"


def test_a_second_one_names_the_port_and_the_remedy(served):
    command = [sys.executable, "-m", "flows.serve", "--port", str(served.port)]
    done = subprocess.run(command, cwd=served.root, env=served.env, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 1
    assert re.search(rf"port {served.port} cannot be had .*: stop .* or take another port", done.stderr)
    assert len(done.stderr.splitlines()) == 1


def test_sigterm_leaves_no_process_and_no_note(served):
    groups = children_of(served.process.pid)
    assert len(groups) == 2 or not Path("/proc").is_dir()
    served.process.send_signal(signal.SIGTERM)
    assert served.process.wait(PATIENCE) == 0, served.said()
    assert not [group for group in groups if alive(group)]
    assert not (served.root / "prefect.toml").exists()
    assert "Traceback" not in served.said()
    serve.check_port(served.port)


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


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    for module in (serve, events):
        monkeypatch.setattr(module, "CHECKOUT", tmp_path)
    return tmp_path


def test_a_note_that_a_killed_one_left_is_overwritten(checkout):
    note = checkout / "prefect.toml"
    note.write_text(f'{serve.NOTE}[api]\nurl = "http://127.0.0.1:1/api"\n')
    with serve.note_api_url("http://127.0.0.1:2/api") as noted:
        assert noted and "127.0.0.1:2" in note.read_text()
    assert not note.exists()


def test_a_persons_own_note_is_left_alone(checkout):
    note = checkout / "prefect.toml"
    note.write_text("[logging]\nlevel = 'DEBUG'\n")
    with serve.note_api_url("http://127.0.0.1:2/api") as noted:
        assert not noted
    assert note.read_text() == "[logging]\nlevel = 'DEBUG'\n"
    assert "export PREFECT_API_URL=http://127.0.0.1:2/api" in serve.summary("http://127.0.0.1:2/api", noted, 1.0)


def test_a_note_of_a_later_one_is_not_removed(checkout):
    with serve.note_api_url("http://127.0.0.1:2/api"):
        (checkout / "prefect.toml").write_text(f'{serve.NOTE}[api]\nurl = "http://127.0.0.1:3/api"\n')
    assert "127.0.0.1:3" in (checkout / "prefect.toml").read_text()


def test_a_part_that_ends_by_itself_is_named_with_its_last_words(tmp_path):
    log = tmp_path / "worker.log"
    with log.open("wb") as out:
        process = subprocess.Popen([sys.executable, "-c", "print('no more'); exit(3)"], stdout=out, process_group=0)
    process.wait()
    with pytest.raises(AugmentError, match=r"the worker ended by itself, exit code 3; its log .* ends: no more"):
        serve.wait_for("anything", [serve.Child("worker", process, log)], lambda: False)


def test_a_part_that_will_not_stop_is_killed_with_its_own_children(tmp_path, monkeypatch):
    monkeypatch.setattr(serve, "GRACE", 0.5)
    deaf = "import signal, subprocess, sys; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(1, flush=True);"
    deaf += "subprocess.run([sys.executable, '-c', 'import time; time.sleep(60)'])"
    process = subprocess.Popen([sys.executable, "-c", deaf], stdout=subprocess.PIPE, process_group=0)
    assert process.stdout and process.stdout.readline()
    serve.Child("deaf", process, tmp_path / "log").stop()
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


def test_the_configured_server_that_answers_comes_first(checkout, prefect_server, monkeypatch):
    (checkout / "prefect.toml").write_text('[api]\nurl = "http://127.0.0.1:1/api"\n')
    assert events.live_api_url() == prefect_server
    monkeypatch.setattr(events, "_configured", lambda: "http://127.0.0.1:1/api")
    (checkout / "prefect.toml").write_text(f'[api]\nurl = "{prefect_server}"\n')
    assert events.live_api_url() == prefect_server
    events.notify("of a test")
