"""Manifests of many row groups, as those of millions of pictures are, give the bytes of manifests of one."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import MadeSet, tree

from flows import augment_dataset
from lib.records import sorting
from lib.runs import dry_run, rehearsal
from lib.runs.parameters import check_parameters

ROOT = Path(__file__).resolve().parent.parent
PICTURES = 14

SMALL_GROUPS = """
import importlib.util, json, sys
spec = importlib.util.find_spec("lib.records.manifest")
source = spec.loader.get_source(spec.name)
assert source.count("GROUP = 8192 ") == 1
module = importlib.util.module_from_spec(spec)
sys.modules[spec.name] = module
exec(compile(source.replace("GROUP = 8192 ", "GROUP = 3 "), spec.origin, "exec"), module.__dict__)
import lib.records
lib.records.manifest = module
from flows import augment_dataset
from lib.records.manifest import GROUP
from lib.records.sorting import sorted_rows
assert GROUP == 3 and 3 in sorted_rows.__defaults__
print(json.dumps([augment_dataset(**given).account for given in json.loads(sys.argv[1])]))
"""


def in_small_groups(*given):
    """The accounts of runs, one after another in a process of their own."""
    command = [sys.executable, "-c", SMALL_GROUPS, json.dumps(given, default=str)]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return MadeSet(tmp_path_factory.mktemp("made"), PICTURES, size=(96, 64))


def given_for(made, workspace, **asked):
    return {"dataset": made.dataset, "workspace": workspace, **(asked or ALL)}


ALL = {"variants": 2, "limit": PICTURES - 4}


def test_a_whole_run_gives_the_same_bytes_and_the_next_paints_nothing(made, tmp_path):
    whole = augment_dataset(**given_for(made, tmp_path / "whole")).account
    final = tree(tmp_path / "whole" / "final")
    # The second goes on from manifests in one piece: what one has made, the other knows.
    first, second = in_small_groups(*(given_for(made, tmp_path / name) for name in ("groups", "whole")))
    assert first["stages"] == whole["stages"] and whole["stages"]["generate"]["painted"] == 2 * (PICTURES - 4)
    # The numbers of each picture, and in their order.
    numbers, same = ((tmp_path / name / "report" / "metrics.json").read_text() for name in ("groups", "whole"))
    assert numbers.replace(str(tmp_path / "groups"), str(tmp_path / "whole")) == same
    assert second["painted"] == augment_dataset(**given_for(made, tmp_path / "groups")).account["painted"] == 0
    assert tree(tmp_path / "groups" / "final") == tree(tmp_path / "whole" / "final") == final


LIMIT = {"limit": 5}
TARGET = {"preset": "insert", "target": {"per_category": {"forklift": 12, "pallet": 7}}}


@pytest.mark.parametrize(("asked", "painted"), [(LIMIT, 5), (TARGET, 19)], ids=["limit", "target"])
def test_a_part_of_the_pictures_is_the_same_part(made, tmp_path, asked, painted):
    whole = augment_dataset(**given_for(made, tmp_path / "whole", **asked)).account
    (groups,) = in_small_groups(given_for(made, tmp_path / "groups", **asked))
    assert groups["stages"] == whole["stages"] and whole["stages"]["generate"]["painted"] == painted
    assert tree(tmp_path / "groups" / "final") == tree(tmp_path / "whole" / "final")


@pytest.mark.parametrize("asked", [ALL, LIMIT, TARGET], ids=["all", "limit", "target"])
def test_a_dry_run_in_small_pieces_says_the_same(made, tmp_path, monkeypatch, asked):
    parameters = check_parameters(given_for(made, tmp_path / "workspace", **asked))
    whole = dry_run.dry_run(parameters, tmp_path)
    monkeypatch.setattr(rehearsal, "_PIECE", 3)
    monkeypatch.setattr(sorting, "GROUP", 4)
    monkeypatch.setattr(sorting.sorted_rows, "__defaults__", (5,))
    assert dry_run.dry_run(parameters, tmp_path) == whole and whole.pictures > 0
