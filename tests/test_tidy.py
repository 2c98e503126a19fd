"""What the last run does not reach is removed, and nothing that a rerun would need to avoid painting."""

import json
import re
import shutil
from pathlib import Path

import pytest
from conftest import MadeSet
from filelock import FileLock

from flows import cli
from lib.core.errors import AugmentError
from lib.runs.tidy import KINDS, tidy

RUN = ("store", "parts", "results")  # what grows
NAMED = {"select": {"require_objects": True}, "evaluate": {"metrics": ["fid", "background", "diversity", "copies"]}}


def run(workspace: Path, made: MadeSet, **parameters):
    from flows.augment import augment

    given = {"dataset": made.dataset, "workspace": workspace, "variants": 2, **NAMED, **parameters}
    state = augment.fn(**given)
    assert state.is_completed(), state.message
    return json.loads((workspace / "status.json").read_bytes())


def files(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def grown(workspace: Path) -> list[str]:
    """Names of what grows; those of results and of pages cover ids, which a former run may have given to others."""
    names = [name for name in files(workspace) if name.split("/")[0] in RUN]
    return sorted(re.sub("^store/(metrics|shown)/.*", r"store/\1", name) for name in names)


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> MadeSet:
    return MadeSet(tmp_path_factory.mktemp("tidy"), 4)


@pytest.fixture(scope="module")
def once(made, tmp_path_factory) -> Path:
    """A workspace after one run."""
    workspace = tmp_path_factory.mktemp("once") / "ws"
    run(workspace, made, seed=2)
    return workspace


@pytest.fixture(scope="module")
def thrice(made, tmp_path_factory) -> Path:
    """A workspace after three runs of other seeds, the last that of `once`."""
    workspace = tmp_path_factory.mktemp("thrice") / "ws"
    for seed in (0, 1, 2):
        run(workspace, made, seed=seed)
    return workspace


@pytest.fixture
def workspace(thrice, tmp_path) -> Path:
    shutil.copytree(thrice, tmp_path / "ws")
    return tmp_path / "ws"


def test_after_three_seeds_it_holds_again_what_one_run_makes(workspace, once):
    assert len(grown(workspace)) > len(grown(once))
    tidy(workspace)
    assert grown(workspace) == grown(once)


def test_a_rerun_paints_nothing_and_the_final_set_is_the_same_to_the_byte(workspace, made):
    before = files(workspace / "final")
    tidy(workspace)
    account = run(workspace, made, seed=2)
    assert account["painted"] == 0 and all(stage["painted"] == 0 for stage in account["stages"].values())
    assert files(workspace / "final") == before


def test_another_composite_still_paints_nothing(workspace, made):
    tidy(workspace)
    paints = {name for name in files(workspace) if name.startswith("store/paint/")}
    run(workspace, made, seed=2, composite="paste", edit={"name": "replace", "max_boxes": 1})
    first = {name for name in files(workspace) if name.startswith("store/paint/")}
    run(workspace, made, seed=2, composite="none", edit={"name": "replace", "max_boxes": 1})
    assert paints and {name for name in files(workspace) if name.startswith("store/paint/")} == first


def test_a_second_time_nothing_is_removed(workspace):
    tidy(workspace)
    assert not any(group.removed for group in tidy(workspace))


def test_a_dry_run_says_the_same_and_removes_nothing(workspace):
    before = files(workspace)
    groups = tidy(workspace, dry_run=True)
    assert files(workspace) == before
    size = sum(len(data) for data in before.values())
    assert tidy(workspace) == groups
    assert size - sum(map(len, files(workspace).values())) == sum(group.size for group in groups) > 0


def test_every_kind_that_a_run_keeps_is_known(once):
    assert {path.name for path in (once / "store").iterdir()} <= set(KINDS)


def test_files_that_no_run_wrote_stay(workspace):
    strange = [
        "store/mine.txt",
        "store/paint/ab/mine",
        "store/mine/ab/" + "ab" * 32,
        "parts/plan/mine.parquet",
        "parts/x",
    ]
    for name in strange:
        (workspace / name).parent.mkdir(parents=True, exist_ok=True)
        (workspace / name).write_bytes(b"mine")
    tidy(workspace)
    assert all((workspace / name).read_bytes() == b"mine" for name in strange)


def test_records_of_a_former_version_are_removed(workspace):
    record = workspace / "results" / "plan" / ("ab" * 32)
    record.parent.mkdir(parents=True)
    record.write_text("{}")
    (group,) = [group for group in tidy(workspace) if group.name == "results"]
    assert (group.kept, group.removed, group.size) == (0, 1, 2) and not (workspace / "results").exists()


def test_what_a_judge_said_of_boxes_stays_where_it_is_reached(made, tmp_path):
    screen = {"boxes": {"judge": "mini:clip", "others": ["a wall"]}}
    for seed in (0, 1):
        run(tmp_path / "ws", made, seed=seed, screen=screen)
    run(tmp_path / "fresh", made, seed=1, screen=screen)
    tidy(tmp_path / "ws")
    assert grown(tmp_path / "ws") == grown(tmp_path / "fresh")
    assert {name.split("/")[1] for name in grown(tmp_path / "ws")} >= {"shares", "limits", "verdict"}


def untouched(workspace: Path, reason: str) -> None:
    before = files(workspace)
    with pytest.raises(AugmentError, match=reason):
        tidy(workspace)
    assert files(workspace) == before


@pytest.mark.parametrize("stage", ["ingest", "objects", "caption", "plan", "generate", "finalise"])
@pytest.mark.parametrize("damage", ["missing", "cut", "another"])
def test_with_a_manifest_that_is_not_whole_nothing_is_removed(workspace, stage, damage):
    path = workspace / "manifests" / f"{stage}.parquet"
    data = path.read_bytes()
    path.unlink()
    if damage == "cut":
        path.write_bytes(data[: len(data) // 2])
    if damage == "another":
        path.write_bytes((workspace / "manifests" / "review.parquet").read_bytes())
    untouched(workspace, rf"{stage}\.parquet is (damaged|missing).*run it again to its end")


@pytest.mark.parametrize("state", ["running", "failed"])
def test_of_a_run_that_did_not_end_nothing_is_removed(workspace, state):
    account = json.loads((workspace / "status.json").read_bytes())
    account.pop("sha256", None)
    (workspace / "status.json").write_text(json.dumps(account | {"state": state}))
    untouched(workspace, f"is {state}: run it again to its end")


def test_where_a_picture_is_gone_nothing_is_removed(workspace):
    tidy(workspace)
    next(path for path in (workspace / "store" / "picture").rglob("*") if path.is_file()).unlink()
    untouched(workspace, "is not in the store as the last run left it")


def test_another_runs_workspace_is_left_alone(workspace):
    account = json.loads((workspace / "status.json").read_bytes())
    account.pop("sha256", None)
    del account["stages"]["plan"]
    (workspace / "status.json").write_text(json.dumps(account))
    untouched(workspace, "had no stage plan: tidy is for `augment run`")


def test_while_a_run_holds_the_workspace_nothing_is_removed(workspace):
    with FileLock(workspace / ".lock"):
        untouched(workspace, "in use by another run")


def test_the_command_prints_counts_and_bytes_by_kind(workspace, capsys, monkeypatch):
    monkeypatch.setattr(cli.OUT, "width", 500)
    before = files(workspace)
    assert cli.main(["tidy", str(workspace), "--dry-run"]) == 0 and files(workspace) == before
    printed = capsys.readouterr().out
    assert "nothing is removed" in printed and "store/paint" in printed and "parts" in printed and "bytes" in printed
    assert cli.main(["tidy", str(workspace)]) == 0 and len(files(workspace)) < len(before)
    assert cli.main(["tidy", str(workspace / "nowhere")]) == 1
    assert "no run" in capsys.readouterr().err
