"""Killed with SIGKILL in any stage and run again, a run ends as if never killed, and paints nothing twice."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import PATIENCE, MadeSet

PROGRAM = """
import json, sys
from flows.augment import augment
given = json.loads(sys.argv[1])
sys.exit(0 if augment(**given, return_state=True).is_completed() else 3)
"""

# (stage, what to count, how many there must be before the kill)
STAGES = [
    ("ingest", "parts/ingest/*.parquet", 1),
    ("caption", "store/caption/*/*", 5),
    ("plan", "parts/plan/*.parquet", 1),
    ("generate", "store/picture/*/*", 7),
    ("screen", "store/verdict/*/*", 4),
    ("draw", "drawn/*.jpg", 5),
    ("finalise", "final/images/*.png", 9),
]


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> MadeSet:
    return MadeSet(tmp_path_factory.mktemp("killed"), 24, size=(640, 480))


@pytest.fixture(scope="module")
def whole(made, tmp_path_factory, prefect_server) -> dict[str, bytes]:
    """The final set of a run that nobody killed."""
    workspace = tmp_path_factory.mktemp("whole") / "ws"
    run(made, workspace)
    return final_set(workspace)


def given(made: MadeSet, workspace: Path) -> dict[str, Any]:
    return {"dataset": made.dataset, "workspace": str(workspace), "variants": 2}


def run(made: MadeSet, workspace: Path) -> None:
    """To its end, in this process."""
    from flows.augment import augment

    assert augment(**given(made, workspace), return_state=True).is_completed()


def test_a_flow_on_a_server_makes_what_it_makes_as_a_plain_function(made, whole, tmp_path):
    from flows.augment import augment

    assert augment.fn(**given(made, tmp_path) | {"workspace": tmp_path / "ws"}).is_completed()
    assert final_set(tmp_path / "ws") == whole


def start(made: MadeSet, workspace: Path, server: str) -> subprocess.Popen[bytes]:
    """A process that can be killed."""
    command = [sys.executable, "-c", PROGRAM, json.dumps(given(made, workspace))]
    environment = {**os.environ, "PREFECT_API_URL": server}
    return subprocess.Popen(command, env=environment, cwd=Path(__file__).parents[1])


def final_set(workspace: Path) -> dict[str, bytes]:
    folder = workspace / "final"
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def kill_when(process: subprocess.Popen[bytes], workspace: Path, pattern: str, count: int) -> None:
    """SIGKILL as soon as so many items exist."""
    deadline = time.monotonic() + PATIENCE
    while process.poll() is None and time.monotonic() < deadline:
        if len(list(workspace.glob(pattern))) >= count:
            process.send_signal(signal.SIGKILL)
            break
        time.sleep(0.0005)
    assert process.wait(PATIENCE) == -signal.SIGKILL, "it ended before it could be killed"


@pytest.mark.parametrize(("stage", "pattern", "count"), STAGES, ids=[s[0] for s in STAGES])
def test_killed_in_a_stage_and_rerun_the_final_set_is_the_same(
    made, whole, tmp_path, prefect_server, stage, pattern, count
):
    workspace = tmp_path / "ws"
    kill_when(start(made, workspace, prefect_server), workspace, pattern, count)
    kept = {p: p.stat().st_ino for p in workspace.glob("store/picture/*/*") if not p.name.startswith(".tmp")}
    run(made, workspace)
    assert final_set(workspace) == whole
    assert all(path.stat().st_ino == inode for path, inode in kept.items()), "something was painted twice"
    account = json.loads((workspace / "status.json").read_bytes())
    assert account["painted"] + account["reused"] == account["stages"]["generate"]["rows"]
    # What was painted, but not yet a picture when the kill came, is not painted again either: one a thread at most.
    left = account["stages"]["generate"]["rows"] - len(kept)
    assert left - 2 * (os.cpu_count() or 1) <= account["painted"] <= left
