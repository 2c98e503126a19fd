"""What came of a run: zero is not success, and less than asked is told first."""

import json
import logging
from collections import Counter
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from conftest import MadeSet

from flows import cli
from flows.commands import connection
from lib.planning.enough import enough
from lib.records.manifest import read_manifest
from lib.records.rows import OK, SelectRow
from lib.runs.account import write_account
from lib.runs.dry_run import dry_run
from lib.runs.outcome import exit_code, outcome_of
from lib.runs.parameters import check_parameters


def stages(painted: int = 0, **counts: Any) -> dict[str, dict[str, Any]]:
    """Stages of four pictures each; counts: (ok, reasons) of those that set something aside."""
    found: dict[str, dict[str, Any]] = {}
    for name in ("ingest", "select", "caption", "plan", "generate", "screen"):
        ok, rejected = counts.get(name, (4, {}))
        found[name] = {"rows": ok + sum(rejected.values()), "ok": ok, "painted": 0, "rejected": rejected}
    found["generate"]["painted"] = painted
    return found


@pytest.mark.parametrize(
    ("counts", "asked", "state", "text"),
    [
        (stages(4), None, "painted", "4 pictures: 4 painted, 0 reused"),
        (stages(1), 4, "painted", "4 pictures: 1 painted, 3 reused"),
        (stages(0), None, "reused", "nothing new: 4 pictures reused"),
        (
            stages(0, plan=(0, {"no_donor": 3, "no_boxes_to_edit": 1}), generate=(0, {}), screen=(0, {})),
            None,
            "nothing",
            "painted nothing: plan set aside all 4 pictures, most as no donor (3 of 4)",
        ),
        (
            stages(4, screen=(0, {"black": 4})),
            None,
            "nothing",
            "painted nothing: screen set aside all 4 pictures, as black (4)",
        ),
        (
            stages(0, **{name: (0, {}) for name in ("ingest", "select", "caption", "plan", "generate", "screen")}),
            None,
            "nothing",
            "painted nothing: the data set has no pictures",
        ),
        (
            stages(2, plan=(2, {"no_donor": 2}), generate=(2, {}), screen=(2, {})),
            4,
            "less",
            "2 of 4 pictures: the others were set aside, as no donor (2)",
        ),
        (stages(4), 9, "less", "4 of 9 pictures: the data set has no more"),
        (
            stages(3, generate=(3, {"out_of_memory": 1}), screen=(3, {})),
            None,
            "less",
            "3 of 4 pictures: the others were set aside, as out of memory (1)",
        ),
        (stages(4, screen=(3, {"duplicate": 1})), None, "painted", "3 pictures: 4 painted, 0 reused"),
    ],
)
def test_the_outcome_says_how_many_and_the_main_reason(counts, asked, state, text):
    outcome = outcome_of(counts, asked)
    assert (outcome["state"], outcome["text"]) == (state, text)
    assert exit_code({"outcome": outcome}) == (3 if state in ("less", "nothing") else 0)


def test_an_account_of_a_former_version_is_no_fault():
    assert exit_code({"run": "mine", "stages": {}}) == 0
    assert exit_code({"outcome": "none"}) == exit_code({"outcome": {"state": ["less"]}}) == 0


# limit


@pytest.mark.parametrize(
    ("good", "limit", "taken"),
    [("abcdef", 3, 3), ("bdf", 2, 4), ("f", 1, 6), ("ab", 3, 6), ("", 2, 6), ("abcdef", 6, 6)],
)
def test_a_limit_takes_as_many_candidates_as_it_needs(good, limit, taken):
    candidates = pd.DataFrame({"key": list("abcdef")})
    assert enough(candidates, limit, lambda some: set(some.key) & set(good)) == taken


def test_no_more_candidates_are_looked_at_than_a_limit_needs():
    seen: list[str] = []

    def come_out(some):
        seen.extend(some.key)
        return set(some.key)

    enough(pd.DataFrame({"key": [str(i) for i in range(1000)]}), 5, come_out)
    assert len(seen) == 5


def test_of_a_large_limit_some_candidates_are_looked_at_together():
    sizes: list[int] = []

    def come_out(some):
        sizes.append(len(some))
        return {key for key in some.key if int(key) % 3}

    assert enough(pd.DataFrame({"key": [str(i) for i in range(9000)]}), 4000, come_out) == 6000
    assert max(sizes) == 512 and sum(sizes) < 6100


# the command line


@pytest.mark.parametrize("quiet", [(), ("--quiet",)])
def test_a_run_that_painted_less_says_so_first_and_returns_3(capsys, tmp_path, monkeypatch, quiet):
    outcome = {"state": "less", "made": 2, "asked": 4, "text": "2 of 4 pictures: the data set has no more"}

    def flow(name, run, values):
        (tmp_path / "ws").mkdir()
        account = {"run": "mine", "workspace": "ws", "state": "completed", "stages": {}, "outcome": outcome}
        write_account(tmp_path / "ws", account)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(connection, "run_flow", flow)
    (tmp_path / "mine.yaml").write_text("dataset: {images: .}\nworkspace: ws\n")
    assert cli.main(["run", "mine.yaml", *quiet]) == 3
    assert capsys.readouterr().err == "mine: 2 of 4 pictures: the data set has no more\n"
    assert cli.main(["status", "ws"]) == 0
    assert capsys.readouterr().out.startswith("mine: 2 of 4 pictures: the data set has no more\n")


# whole runs


def ended(workspace: Path, dataset: dict[str, str], **parameters: Any) -> tuple[Any, dict[str, Any]]:
    """The final state of the flow, and its account."""
    from flows.augment import augment

    state = augment.fn(dataset=dataset, workspace=workspace, evaluate={"extractor": None}, **parameters)
    return state, json.loads((workspace / "status.json").read_bytes())


def test_a_limit_is_topped_up_and_a_dry_run_and_a_rerun_say_the_same(tmp_path, monkeypatch):
    """Of pictures without boxes none counts; the log tells the story of the run."""
    made = MadeSet(tmp_path / "made", 12)
    bare = {10 + number for number in range(0, 12, 2)}
    made.coco["annotations"] = [note for note in made.coco["annotations"] if note["image_id"] not in bare]
    made.write()
    told: list[str] = []
    log = logging.Logger("told")
    log.addFilter(lambda record: told.append(record.getMessage()))  # type: ignore[func-returns-value]
    monkeypatch.setattr("tasks.run.log", lambda: log)
    planned = dry_run(check_parameters({"dataset": made.dataset, "limit": 5}), tmp_path / "ws")
    state, account = ended(tmp_path / "ws", made.dataset, limit=5)
    assert state.name == "Completed" and account["outcome"]["text"] == "5 pictures: 5 painted, 0 reused"
    rows = read_manifest(tmp_path / "ws" / "manifests" / "select.parquet", SelectRow)
    assert 5 < (rows.status == OK).sum() < 12 and account["stages"]["plan"]["ok"] == 5
    assert (planned.pictures, planned.new) == (5, 5)
    assert planned.left["plan"] == account["stages"]["plan"]["rejected"]
    assert any(line.startswith("plan: 5 of ") and "set aside: no boxes to edit" in line for line in told)
    assert told[-1] == account["outcome"]["text"]
    again = dry_run(check_parameters({"dataset": made.dataset, "limit": 5}), tmp_path / "ws")
    assert (again.pictures, again.new, again.measured) == (5, 0, True)
    state, account = ended(tmp_path / "ws", made.dataset, limit=5)
    assert state.name == "Completed" and account["outcome"]["text"] == "nothing new: 5 pictures reused"
    assert all(stage["painted"] == 0 for stage in account["stages"].values())
    assert told[-1] == "nothing new: 5 pictures reused"


def test_a_dry_run_counts_painted_boxes_apart_from_those_that_are_covered_in_part(tmp_path):
    made = MadeSet(tmp_path / "made", 6)
    painter = {"name": "gligen-inpaint", "steps": 1, "guidance": 1, "size": 64}
    edit = {"name": "occlude", "occluder_category": "pallet"}
    given = {"edit": edit, "painter": painter, "models": "mini", "limit": 2, "composite": "paste"}
    planned = dry_run(check_parameters({"dataset": made.dataset, **given}), tmp_path / "ws")
    ended(tmp_path / "ws", made.dataset, **given)
    final = json.loads((tmp_path / "ws" / "final" / "annotations.json").read_bytes())["annotations"]
    painted = [note for note in final if note.get("painted")]
    names = {3: "forklift", 4: "pallet"}
    assert planned.boxes == Counter(names[note["category_id"]] for note in painted)
    sources = {note["id"]: note["area"] for note in made.coco["annotations"]}
    copies = [note for note in final if note.get("source_annotation_id") in sources and not note.get("painted")]
    assert sum(planned.changed.values()) > 0
    assert sum(planned.changed.values()) == sum(
        note["area"] != sources[note["source_annotation_id"]] for note in copies
    )


def test_the_state_of_a_run_says_that_it_painted_less_or_nothing(tmp_path):
    made = MadeSet(tmp_path / "made", 3)
    state, account = ended(tmp_path / "less", made.dataset, limit=5)
    assert state.is_completed() and state.name == "Painted less"
    assert state.message.startswith("3 of 5 pictures: the data set has no more; 6 pictures in ")
    state, account = ended(tmp_path / "nothing", made.dataset, select={"min_picture": 1000})
    assert state.is_completed() and state.name == "Painted nothing" and exit_code(account) == 3
    assert account["outcome"]["text"] == "painted nothing: select set aside all 3 pictures, as picture too small (3)"


def test_a_deployment_is_checked_before_its_workspace_is_touched(tmp_path, monkeypatch):
    from flows.augment import augment

    made = MadeSet(tmp_path / "made", 2)
    monkeypatch.setenv("PREFECT__RUNTIME__DEPLOYMENT__NAME", "mine")
    given = {"dataset": made.dataset, "workspace": tmp_path / "ws", "select": {"categories": ["palet"]}}
    state = augment.fn(**given)
    assert state.is_failed() and "do you mean 'pallet'" in state.message and not (tmp_path / "ws").exists()
