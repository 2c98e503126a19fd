"""Killed with SIGKILL in any stage and run again, a run ends as if never killed, and paints nothing twice.

What is killed runs on a server; it goes on as a plain function. `attack_kills` goes on with a server too.
"""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from conftest import MadeSet, final_set
from forked import exit_code, kill_when, start_flow

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
    return MadeSet(tmp_path_factory.mktemp("killed"), 16, size=(320, 240))


@pytest.fixture(scope="module")
def whole(made, tmp_path_factory, prefect_server) -> dict[str, bytes]:
    """The final set of a run on a server that nobody killed."""
    workspace = tmp_path_factory.mktemp("whole") / "ws"
    assert exit_code(start_flow(prefect_server, "augment", given(made, workspace))) == 0
    return final_set(workspace)


def given(made: MadeSet, workspace: Path) -> dict[str, Any]:
    return {"dataset": made.dataset, "workspace": workspace, "variants": 2, "evaluate": {"extractor": None}}


def run(made: MadeSet, workspace: Path) -> None:
    """To its end, in this process, as a plain function."""
    from flows.augment import augment

    assert augment.fn(**given(made, workspace)).is_completed()


def test_a_flow_on_a_server_makes_what_it_makes_as_a_plain_function(made, whole, tmp_path):
    run(made, tmp_path / "ws")
    assert final_set(tmp_path / "ws") == whole


@pytest.mark.parametrize(("stage", "pattern", "count"), STAGES, ids=[s[0] for s in STAGES])
def test_killed_in_a_stage_and_rerun_the_final_set_is_the_same(
    made, whole, tmp_path, prefect_server, stage, pattern, count
):
    workspace = tmp_path / "ws"
    process = start_flow(prefect_server, "augment", given(made, workspace))
    kill_when(process, lambda: len(list(workspace.glob(pattern))) >= count)
    kept = {p: p.stat().st_ino for p in workspace.glob("store/picture/*/*") if not p.name.startswith(".tmp")}
    run(made, workspace)
    assert final_set(workspace) == whole
    assert all(path.stat().st_ino == inode for path, inode in kept.items()), "something was painted twice"
    account = json.loads((workspace / "status.json").read_bytes())
    assert account["painted"] + account["reused"] == account["stages"]["generate"]["rows"]
    # What was painted, but not yet a picture when the kill came, is not painted again either: one a thread at most.
    left = account["stages"]["generate"]["rows"] - len(kept)
    assert left - 2 * (os.cpu_count() or 1) <= account["painted"] <= left
