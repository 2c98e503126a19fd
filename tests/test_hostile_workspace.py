"""A workspace that somebody else wrote, or that was damaged: nothing of it is executed, and the next run makes it good.

Each test changes files of a finished run and runs again; on a server where Prefect has a part in it.
"""

import hashlib
import json
import logging
import pickle
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import MadeSet, tree
from test_journey import run

from lib.core.errors import AugmentError
from lib.core.files import file_digest
from lib.datasets.ids import Ids
from lib.records.kept import write_lines
from lib.records.manifest import read_manifest, write_manifest
from lib.records.rows import ScreenRow
from tasks.parts import prune_parts


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run that nobody touched: (data set, workspace)."""
    root = tmp_path_factory.mktemp("finished")
    made = MadeSet(root / "made", 4)
    run(root / "ws", made.dataset, evaluate={"extractor": "pixels"})
    return made, root / "ws"


@pytest.fixture
def again(finished, tmp_path):
    """Its copy: (workspace, the next run's account, in one call)."""
    made, whole = finished
    shutil.copytree(whole, tmp_path / "ws")
    return tmp_path / "ws", lambda **more: run(tmp_path / "ws", made.dataset, evaluate={"extractor": "pixels"}, **more)


def on_server(workspace: Path, made: MadeSet) -> None:
    """The same run as a flow."""
    from flows.augment import augment

    given = {"dataset": made.dataset, "workspace": workspace, "evaluate": {"extractor": "pixels"}}
    assert augment(**given, return_state=True).is_completed()


def flip(path: Path) -> None:
    """One bit in the middle, at equal size; time moves on as it does on any write."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def stored(workspace: Path, kind: str) -> dict[str, bytes]:
    """What the store holds, by key, but for headers and the folder that the workspace happens to lie in."""
    found = {}
    for path in (workspace / "store" / kind).rglob("*"):
        if path.is_file():
            header, _, data = path.read_bytes().partition(b"\n")
            assert header == hashlib.sha256(data).hexdigest().encode()
            found[path.name] = re.sub(rb'[^"]*/ws/', b"", data)
    return found


class Bomb:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


def hostile_records(mark: Path) -> dict[str, bytes]:
    """What Prefect would execute, were it to read it: each makes the file `mark`."""
    import base64

    pickled = base64.encodebytes(pickle.dumps(Bomb(mark))).decode()
    storage = {"storage_key": "x", "prefect_version": "3.8.8", "expiration": None, "storage_block_id": None}
    called = json.dumps({"__class__": "subprocess.getoutput", "data": {"cmd": f"touch {mark}"}})
    return {
        "pickle": json.dumps(
            {"metadata": storage | {"serializer": {"type": "pickle", "picklelib": "cloudpickle"}}, "result": pickled}
        ).encode(),
        "class": json.dumps({"metadata": storage | {"serializer": {"type": "json"}}, "result": called}).encode(),
        "bare": called.encode(),
    }


@pytest.mark.parametrize("kind", ["pickle", "class", "bare"])
def test_nothing_in_the_place_of_a_result_is_executed(again, finished, tmp_path, kind):
    workspace, rerun = again
    mark, before = tmp_path / "executed", tree(workspace / "final")
    record = hostile_records(mark)[kind]
    parts = list((workspace / "parts").rglob("*.parquet"))
    records = list((workspace / "parts").rglob("*.json"))
    assert len({path.parent.name for path in records}) == 6  # every stage with jobs
    for path in records:
        path.write_bytes(record)
    for path in parts:  # where former versions had Prefect keep its results: results/<stage>/<key>
        old = workspace / "results" / path.parent.name / (path.stem * 2)
        old.parent.mkdir(parents=True, exist_ok=True)
        old.write_bytes(record)
    account = rerun()
    assert not mark.exists()
    assert account["painted"] == 0 and account["reused"] == account["stages"]["generate"]["rows"]
    assert tree(workspace / "final") == before
    left = {path: json.loads(path.read_bytes()).keys() for path in records if path.exists()}
    assert all(names == {"rows", "sha256", "seconds"} or path.name == "donors.json" for path, names in left.items())


def test_the_hostile_records_of_these_tests_do_execute_where_they_are_believed(tmp_path):
    from prefect.results import ResultRecord

    record = hostile_records(tmp_path / "mark")["pickle"]
    assert ResultRecord.deserialize(record) and (tmp_path / "mark").exists()


def test_prefect_keeps_no_results_whatever_its_settings_say(finished, tmp_path, prefect_server):
    from prefect.settings import (
        PREFECT_LOCAL_STORAGE_PATH,
        PREFECT_RESULTS_PERSIST_BY_DEFAULT,
        PREFECT_TASKS_DEFAULT_PERSIST_RESULT,
        temporary_settings,
    )

    made, whole = finished
    given = {
        PREFECT_RESULTS_PERSIST_BY_DEFAULT: True,
        PREFECT_TASKS_DEFAULT_PERSIST_RESULT: True,
        PREFECT_LOCAL_STORAGE_PATH: tmp_path / "prefect",
    }
    with temporary_settings(given):
        on_server(tmp_path / "ws", made)
    assert [path for path in (tmp_path / "prefect").rglob("*") if path.is_file()] == []
    assert not (tmp_path / "ws" / "results").exists() and not (whole / "results").exists()


def test_a_job_of_an_earlier_run_is_called_cached_and_gives_its_output(again, finished, monkeypatch, prefect_server):
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import TaskRunFilter
    from prefect.client.schemas.sorting import TaskRunSort

    from tasks import stages

    workspace, _ = again
    futures, real = [], stages._submit

    def submit(*args):
        futures.append(real(*args))
        return futures[-1]

    monkeypatch.setattr(stages, "_submit", submit)
    on_server(workspace, finished[0])
    names = [(future.state.name, future.task_run_id, future.result().rows) for future in futures]
    # The pictures' files are looked at in every run, in one part here.
    assert Counter(name for name, *_ in names) == {"Cached": len(names) - 1, "Completed": 1} and len(names) >= 7
    with get_client(sync_client=True) as client:
        shown = client.read_task_runs(
            task_run_filter=TaskRunFilter(id={"any_": [key for _, key, _ in names]}), sort=TaskRunSort.NAME_ASC
        )
    assert {one.state.name for one in shown} <= {"Cached", "Completed"}  # as far as the server has heard of them


def test_a_workspace_of_a_former_version_paints_nothing_twice(again):
    """Without records, digests and memory of what is whole."""
    workspace, rerun = again
    before = tree(workspace / "final")
    for path in (workspace / "parts").rglob("*.json"):
        path.unlink()
    (workspace / "manifests" / "seen.parquet").unlink()
    shutil.rmtree(workspace / "store" / "shown")
    for name in ("status.json", "settings.json"):
        content = json.loads((workspace / name).read_bytes())
        assert content.pop("sha256")
        (workspace / name).write_text(json.dumps(content))
    ids = {one.key: one for one in Ids.read(workspace / "ids.jsonl").records()}
    notes = {f"{key}:{position}": id for key, one in ids.items() for position, id in enumerate(one.annotations)}
    (workspace / "ids.json").write_text(
        json.dumps({"images": {key: one.image for key, one in ids.items()}, "annotations": notes})
    )
    (workspace / "ids.jsonl").unlink()
    account = rerun()
    assert account["painted"] == 0 and account["reused"] == account["stages"]["generate"]["rows"]
    assert tree(workspace / "final") == before
    assert {one.key: one for one in Ids.read(workspace / "ids.jsonl").records()} == ids


def test_a_moved_workspace_is_not_made_again(again, finished):
    workspace, _ = again
    moved = workspace.rename(workspace.with_name("moved"))
    account = run(moved, finished[0].dataset, evaluate={"extractor": "pixels"})
    assert {name: stage["painted"] for name, stage in account["stages"].items() if stage["painted"]} == {}


def test_a_manifest_that_names_files_elsewhere_reaches_none(again, tmp_path):
    """Its digest and its record fit: anybody can write those."""
    workspace, rerun = again
    secret = tmp_path / "secret.txt"
    secret.write_text("mine")
    outside = f"../../../../{secret.relative_to(tmp_path)}"
    (part,) = (workspace / "parts" / "screen").glob("*.parquet")
    rows = read_manifest(part, ScreenRow)
    rows["name"], rows["picture"] = "../../../stolen.png", outside
    ref = write_manifest(part, rows, ScreenRow)
    part.with_suffix(".json").write_text(json.dumps({"rows": ref.rows, "sha256": ref.sha256}))
    with pytest.raises(AssertionError, match="is not a key of"):
        rerun()
    assert secret.read_text() == "mine" and not list(tmp_path.rglob("stolen.png"))


# Files that are kept


def failed(again, name: str) -> str:
    workspace, rerun = again
    with pytest.raises(AssertionError) as caught:
        rerun()
    content = str(caught.value)
    assert str(workspace / name) in content and "Error" not in content.partition("\n")[0], content
    return content


@pytest.mark.parametrize(
    "damage", ["flipped", "cut", "doubled", "garbage", "empty", "negative", "text", "list", "former, doubled"]
)
def test_damaged_ids_end_the_run_with_file_and_remedy_before_anything_is_written(again, damage):
    workspace, _ = again
    name = "ids.json" if damage.startswith("former") else "ids.jsonl"
    path, before = workspace / name, tree(workspace / "final")
    lines = (workspace / "ids.jsonl").read_text().splitlines()
    first, second, *_ = (json.loads(line) for line in lines)
    if damage == "flipped":
        lines[0] = lines[0].replace(f",{first[1]},", f",{first[1] ^ 1},", 1)
        path.write_text("\n".join(lines) + "\n")
    elif damage == "cut":
        path.write_text("\n".join(lines[:-2]) + "\n")
    elif damage in ("garbage", "empty", "list"):
        path.write_bytes({"garbage": b"\x00garbage", "empty": b"", "list": b"[1, 2]"}[damage])
    elif damage == "former, doubled":
        (workspace / "ids.jsonl").unlink()
        path.write_text(json.dumps({"images": {first[0]: second[1], second[0]: second[1]}, "annotations": {}}))
    else:
        first[1] = {"negative": -5, "text": "7"}.get(damage, second[1])
        write_lines(path, [first, *map(json.loads, lines[1:-1])])
    assert "restore it, or remove it: all synthetic pictures and boxes then get new ids" in failed(again, name)
    assert tree(workspace / "final") == before


def test_without_its_ids_file_a_run_gives_new_ids_and_every_picture_has_its_own(again):
    workspace, rerun = again
    (workspace / "ids.jsonl").unlink()
    rerun()
    content = json.loads((workspace / "final" / "annotations.json").read_bytes())
    assert len({image["id"] for image in content["images"]}) == len(content["images"])
    assert [*Ids.read(workspace / "ids.jsonl").records()]


@pytest.mark.parametrize("data", [b"", b"garbage", b"[]", b"\xff\xff", b"[" * 100_000, b'{"stages": 7}'])
def test_a_damaged_status_ends_nothing_and_is_reported_in_a_sentence(again, data, capsys):
    from flows.cli import main

    workspace, rerun = again
    (workspace / "status.json").write_bytes(data)
    assert main(["status", str(workspace)]) == 1
    assert "status.json is damaged" in " ".join(capsys.readouterr().err.split())
    assert rerun()["state"] == "completed"
    assert main(["status", str(workspace)]) == 0


@pytest.mark.parametrize("data", [b"garbage", b"[]", b'{"org/name": 7}', b'{"org/name": "refs/pr/9"}'])
def test_a_damaged_lock_of_models_is_reported_with_its_remedy(again, data):
    workspace, _ = again
    (workspace / "models.lock").write_bytes(data)
    assert "remove it to pin the checkpoints anew" in failed(again, "models.lock")


# What only shows, and what rots


@pytest.mark.parametrize("damage", ["garbage", "flipped", "gone", "empty"])
def test_a_damaged_contact_sheet_is_drawn_again(again, damage):
    workspace, rerun = again
    path = workspace / "contact_sheet.jpg"
    before = path.read_bytes()
    if damage == "gone":
        path.unlink()
    elif damage == "flipped":
        flip(path)
    else:
        path.write_bytes(b"no picture" if damage == "garbage" else b"")
    rerun()
    assert path.read_bytes() == before


def test_a_sheet_that_cannot_be_drawn_is_left_out(again, monkeypatch, caplog):
    from tasks import artifacts, draw

    workspace, rerun = again
    monkeypatch.setattr(artifacts, "log", lambda: logging.getLogger("shown"))

    def fails(*_):
        raise OSError("cannot draw")

    (workspace / "contact_sheet.jpg").write_bytes(b"no picture")
    monkeypatch.setattr(draw, "contact_sheet", fails)
    assert rerun()["state"] == "completed"
    assert sum("contact_sheet.jpg is left out: OSError: cannot draw" in line for line in caplog.messages) == 1


def test_artifacts_that_the_server_refuses_end_no_run(again, finished, monkeypatch, prefect_server):
    from tasks import artifacts, progress

    workspace, refused = again[0], []

    def refuses(*_, **__):
        refused.append(1)
        raise RuntimeError("422")

    for module, names in (
        (artifacts, ("create_markdown_artifact", "create_table_artifact")),
        (progress, ("create_progress_artifact", "update_progress_artifact")),
    ):
        for name in names:
            monkeypatch.setattr(module, name, refuses)
    on_server(workspace, finished[0])
    assert refused and json.loads((workspace / "status.json").read_bytes())["state"] == "completed"


@pytest.mark.parametrize("name", ["index.html", "metrics.json"])
def test_a_damaged_report_is_written_again(again, name):
    workspace, rerun = again
    path = workspace / "report" / name
    before = path.read_bytes()
    flip(path)
    rerun()
    assert path.read_bytes() == before


def test_a_damaged_drawing_is_drawn_again(again):
    workspace, rerun = again
    before = tree(workspace / "drawn")
    flip(min((workspace / "drawn").iterdir()))
    rerun()
    assert tree(workspace / "drawn") == before


@pytest.mark.parametrize("kind", ["picture", "verdict", "caption", "metrics"])
def test_a_file_in_the_store_damaged_at_equal_size_is_made_again(again, kind):
    workspace, rerun = again
    before, final = stored(workspace, kind), tree(workspace / "final")
    flip(next(path for path in sorted((workspace / "store" / kind).rglob("*")) if path.is_file()))
    if kind in ("verdict", "caption"):  # which nobody reads while its stage's rows are there
        shutil.rmtree(workspace / "parts" / {"verdict": "screen", "caption": "caption"}[kind])
    account = rerun()
    assert account["painted"] == 0  # the paint itself is there
    assert stored(workspace, kind) == before and tree(workspace / "final") == final


@pytest.mark.parametrize("data", [b"7", b'{"about": 1}', b"[" * 100_000], ids=["a number", "an object", "too deep"])
def test_what_the_store_holds_of_another_type_is_made_again(again, data):
    """Its digest fits: anybody can write that."""
    kinds, (workspace, rerun) = ("verdict", "caption", "metrics"), again
    before, final = {kind: stored(workspace, kind) for kind in kinds}, tree(workspace / "final")
    for kind in kinds:
        for path in (path for path in (workspace / "store" / kind).rglob("*") if path.is_file()):
            path.write_bytes(hashlib.sha256(data).hexdigest().encode() + b"\n" + data)
    for stage in ("screen", "caption"):
        shutil.rmtree(workspace / "parts" / stage)
    rerun()
    assert {kind: stored(workspace, kind) for kind in kinds} == before and tree(workspace / "final") == final


def test_a_whole_file_is_not_read_again(again, monkeypatch):
    """A rerun with nothing to do costs a look at each file."""
    from lib.records.store import Store
    from tasks import draw

    workspace, rerun = again
    rerun()  # a copy has times of its own: read once, and remembered
    read, real = [], Store.get
    monkeypatch.setattr(Store, "get", lambda self, kind, key: read.append(kind) or real(self, kind, key))
    monkeypatch.setattr(draw, "brought", lambda path, sha256: read.append("drawn"))
    rerun()
    assert "picture" not in read and "drawn" not in read
    assert file_digest(workspace / "contact_sheet.jpg")


# Model folders


def test_code_that_a_model_folder_brings_along_is_not_executed(tmp_path):
    from lib.core.checkpoints import reading, resolve
    from lib.judges.classifier import read_classifier

    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "evil.py").write_text(f"import pathlib\npathlib.Path({str(tmp_path / 'executed')!r}).touch()\n")
    auto = {"AutoConfig": "evil.Config", "AutoModelForImageClassification": "evil.Model"}
    config = {"model_type": "evil", "architectures": ["EvilForImageClassification"], "auto_map": auto}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "preprocessor_config.json").write_text('{"image_mean": [0, 0, 0], "image_std": [1, 1, 1]}')
    (folder / "model.safetensors").write_bytes(b"\x02\0\0\0\0\0\0\0{}")
    with pytest.raises(AugmentError, match="cannot be loaded"), reading(resolve(str(folder), {})):
        read_classifier(folder)
    assert not (tmp_path / "executed").exists()


def test_a_hostile_status_is_one_sentence_on_the_command_line(again):
    """Through the command line, as a person meets it."""
    workspace, _ = again
    (workspace / "status.json").write_bytes(b"[" * 100_000)
    content = subprocess.run(
        [sys.executable, "-m", "flows.cli", "status", str(workspace)],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[1],
        check=False,
    )
    assert content.returncode == 1 and "damaged" in content.stderr and "Traceback" not in content.stderr


def test_a_folder_by_the_name_of_an_unused_part_ends_no_run(tmp_path):
    place = tmp_path / "parts" / "plan"
    (place / f"{'0' * 32}.parquet").mkdir(parents=True)
    (place / f"{'0' * 32}.json").touch()
    (place / f"{'1' * 32}.parquet").symlink_to(tmp_path)
    prune_parts(SimpleNamespace(root=tmp_path), "plan", [])
    assert [path.name for path in place.iterdir()] == [f"{'0' * 32}.parquet"] and tmp_path.is_dir()
