"""What a run would find wrong later is found before Prefect starts; a dry run says what a run would do."""

import json
import os
import shutil
import socket
from pathlib import Path
from typing import Any

import pytest
from conftest import MadeSet

from flows import augment_dataset, cli
from flows.commands import connection
from flows.commands.parser import parse
from flows.commands.run import Run
from lib.core import checkpoints
from lib.core.errors import AugmentError
from lib.core.places import place_of
from lib.core.words import size_in_words
from lib.datasets.formats import lay_dataset, read_dataset
from lib.runs import preflight as module
from lib.runs.dry_run import DryRun, dry_run
from lib.runs.parameters import check_parameters
from lib.runs.preflight import check_data, check_run, preflight, room_needed

GLIGEN = "masterful/gligen-1-4-inpainting-text-box"


def checked(made: MadeSet, tmp_path: Path, **given: Any) -> None:
    preflight(check_parameters({"dataset": made.dataset, **given}), tmp_path / "ws")


def refused(capsys: Any, monkeypatch: Any, tmp_path: Path, values: dict[str, Any]) -> str:
    """The sentence with which `augment run` ends before Prefect and its server are started."""
    monkeypatch.setattr(connection, "prepare_prefect", lambda meanwhile: pytest.fail("too late"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text(json.dumps({"workspace": "ws", **values}))
    assert cli.main(["run", "mine.yaml"]) == 1
    error: str = capsys.readouterr().err
    assert error.startswith("augment: ") and error.count("\n") == 1 and not (tmp_path / "ws").exists()
    return error


@pytest.mark.parametrize(
    ("given", "known"),
    [
        ({"preset": "copypaste"}, "do you mean 'copy-paste'"),
        ({"painter": "gligen-inpant"}, "do you mean 'gligen-inpaint'"),
        ({"edit": "replase"}, "do you mean 'replace'"),
        ({"composite": "fether"}, "do you mean 'feather'"),
        ({"composite": {"kernal": 3}}, "do you mean 'kernel'"),
        ({"caption": {"captioner": "templat"}}, "do you mean 'template'"),
        ({"caption": {"rules": "s4"}}, "s3"),
        ({"evaluate": {"metrics": ["fidd"]}}, "do you mean 'fid'"),
        ({"evaluate": {"extractor": "pixel"}}, "do you mean 'pixels'"),
        ({"select": {"categories": ["palet"]}}, "do you mean 'pallet'"),
    ],
    ids=str,
)
def test_a_name_that_is_not_known_is_refused_before_prefect_starts(
    capsys, monkeypatch, tmp_path, made_set, given, known
):
    assert known in refused(capsys, monkeypatch, tmp_path, {"dataset": made_set.dataset, **given})


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("format", "coko", "do you mean 'coco'"),
        ("annotations", "nowhere.json", "annotations nowhere.json not found"),
        ("images", "nowhere", "images folder nowhere not found"),
    ],
)
def test_a_data_set_that_is_not_there_is_refused_before_prefect_starts(
    capsys, monkeypatch, tmp_path, made_set, field, value, words
):
    dataset = {**made_set.dataset, field: value}
    assert words in refused(capsys, monkeypatch, tmp_path, {"dataset": dataset})


def test_the_code_of_the_stages_is_loaded_while_the_server_starts(monkeypatch):
    order = []
    monkeypatch.setattr(
        "flows.events.begin_connecting", lambda: order.append("started") or (lambda: order.append("up"))
    )
    connection.prepare_prefect(lambda: order.append("loaded"))
    assert order == ["started", "loaded", "up"]


def test_a_fault_that_is_found_while_the_server_starts_is_not_kept_waiting(monkeypatch):
    monkeypatch.setattr("flows.events.begin_connecting", lambda: lambda: pytest.fail("waited for the server"))

    def fault():
        raise AugmentError("wrong")

    with pytest.raises(AugmentError, match="wrong"):
        connection.prepare_prefect(fault)


def test_inception_weights_that_are_neither_here_nor_to_be_had_are_found_before_the_run(
    made_set, tmp_path, monkeypatch
):
    def unknown(*args):
        raise socket.gaierror("no such name")

    monkeypatch.setattr("urllib.request.getproxies", dict)
    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    asked = {"evaluate": {"extractor": "inception"}}
    with pytest.raises(AugmentError, match=r"Inception weights are not at .*github\.com is not known.*pixels"):
        checked(made_set, tmp_path, **asked)
    with pytest.raises(AugmentError, match="Inception weights are not at"):
        dry_run(check_parameters({"dataset": made_set.dataset, **asked}), tmp_path / "ws")
    weights = tmp_path / "hub" / "checkpoints" / "pt_inception-2015-12-05-6726825d.pth"
    weights.parent.mkdir(parents=True)
    weights.write_bytes(b"here")
    checked(made_set, tmp_path, **asked)


@pytest.mark.parametrize(
    ("metric", "told"),
    [
        ({"name": "layout", "detector": {"name": "torchvison"}}, "do you mean 'torchvision'"),
        ({"name": "layout", "detector": {"name": "torchvision", "threshhold": 0.5}}, "do you mean 'threshold'"),
        ({"name": "layout", "detector": {"name": "torchvision", "threshold": 3}}, "less than or equal to 1"),
        ({"name": "layout", "detector": {"name": "zero-shot", "model": "no/where/at/all"}}, "neither a folder nor"),
        ({"name": "layout", "detector": {"name": "zero-shot", "model": ""}}, "`model` is empty"),
        ({"name": "regions", "model": ""}, "`model` is empty"),
        ({"name": "lpips", "network": "alex"}, "AlexNet's weights are not at"),
        ({"name": "diversity", "network": "alex"}, "AlexNet's weights are not at"),
    ],
    ids=str,
)
def test_what_a_metric_cannot_do_is_found_before_hours_of_painting(made_set, tmp_path, monkeypatch, metric, told):
    monkeypatch.setattr("torch.hub.get_dir", lambda: str(tmp_path))
    asked = {"evaluate": {"metrics": ["fid", metric]}}
    with pytest.raises(AugmentError, match=told):
        checked(made_set, tmp_path, **asked)
    with pytest.raises(AugmentError, match=told):
        dry_run(check_parameters({"dataset": made_set.dataset, **asked}), tmp_path / "ws")


def test_metrics_with_all_that_they_take_pass(made_set, tmp_path):
    detector = tmp_path / "detector"
    detector.mkdir()
    metrics = ["lpips", "diversity", {"name": "layout", "detector": {"model": str(detector), "threshold": 0.5}}]
    checked(made_set, tmp_path, evaluate={"metrics": metrics})


# nothing to do


@pytest.fixture
def done(made_set, tmp_path, monkeypatch):
    """A file of parameters whose run has ended, and a start of a server that fails the test."""
    monkeypatch.setattr("lib.runs.unchanged.GROUP", 1)  # what is compared comes in pieces
    monkeypatch.chdir(tmp_path)
    values = {"dataset": made_set.dataset, "workspace": "ws", "limit": 2, "evaluate": {"extractor": None}}
    (tmp_path / "mine.yaml").write_text(json.dumps(values))
    augment_dataset(**values)
    monkeypatch.setattr(connection, "_no_server", lambda: True)
    monkeypatch.setattr(connection, "prepare_prefect", lambda meanwhile: pytest.fail("a server"))
    return made_set


def test_a_rerun_with_nothing_to_do_starts_no_server_and_does_what_the_preflight_cannot_see(done, capsys, tmp_path):
    assert cli.main(["run", "mine.yaml"]) == 0
    assert "nothing new: 2 pictures reused" in capsys.readouterr().out
    final = sorted((tmp_path / "ws" / "final" / "images").iterdir())
    before = [path.read_bytes() for path in final]
    for path in [*(tmp_path / "ws" / "store" / "picture").glob("*/*"), *final]:
        path.write_bytes(b"damaged")
    assert cli.main(["run", "mine.yaml"]) == 0
    assert [path.read_bytes() for path in final] == before


def test_with_something_to_do_or_a_server_at_hand_a_run_is_a_flow_run(done, monkeypatch, tmp_path):
    class Started(Exception):
        pass

    def start(meanwhile):
        raise Started

    def is_a_flow_run(*more):
        with pytest.raises(Started):
            Run.run(parse(["run", "mine.yaml", *more]))

    monkeypatch.setattr(connection, "prepare_prefect", start)
    is_a_flow_run("--set", "seed=1")
    is_a_flow_run("--verify")
    with monkeypatch.context() as patch:
        patch.setattr(connection, "_no_server", lambda: False)
        is_a_flow_run()
    picture = sorted(done.images.iterdir())[0]
    state = picture.stat()
    os.utime(picture, ns=(1, 1))
    is_a_flow_run()
    os.utime(picture, ns=(state.st_atime_ns, state.st_mtime_ns))
    before = done.annotations.read_bytes()
    done.coco["annotations"][0]["bbox"][0] += 1
    done.write()
    is_a_flow_run()
    done.annotations.write_bytes(before)
    (tmp_path / "ws" / "final" / "annotations.json").unlink()
    is_a_flow_run()


# categories


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"select": {"categories": ["forklift", "palet"]}}, "select.categories: .*'palet' .do you mean 'pallet'"),
        ({"select": {"exempt": ["palet"]}}, "select.exempt: .*do you mean 'pallet'"),
        ({"edit": {"name": "insert", "category": "forklit"}}, "setting 'category'.*do you mean 'forklift'"),
    ],
    ids=str,
)
def test_a_category_that_the_data_set_lacks_is_refused_with_the_nearest_spelling(made_set, tmp_path, given, words):
    with pytest.raises(AugmentError, match=words):
        checked(made_set, tmp_path, **given)


def test_a_presets_filter_that_meets_no_category_names_those_of_the_data_set(made_set, tmp_path):
    made_set.coco["categories"][0]["name"] = "crate"
    made_set.write()
    with pytest.raises(AugmentError, match=r"of preset 'loco-gligen': .* no category 'forklift', it has crate, pallet"):
        checked(made_set, tmp_path, preset="loco-gligen", models="mini")
    checked(made_set, tmp_path, preset="loco-gligen", models="mini", select={"categories": ["crate"]})


# checkpoints


def cached(monkeypatch: Any, folder: Path, *files: str) -> None:
    """A cache of the hub with these files of the GLIGEN checkpoint."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder))
    for name in files:
        path = folder / f"models--{GLIGEN.replace('/', '--')}" / "snapshots" / ("0" * 40) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")


def test_a_checkpoint_that_is_neither_here_nor_to_be_had_names_the_ways_out(made_set, tmp_path, monkeypatch):
    cached(monkeypatch, tmp_path / "hub", "model_index.json")
    with pytest.raises(AugmentError) as error:
        checked(made_set, tmp_path, painter={"name": "gligen-inpaint", "model": GLIGEN})
    assert "`models: mini`" in str(error.value) and "painter.model=FOLDER" in str(error.value)
    assert "HF_HUB_OFFLINE is set" in str(error.value)


def test_a_checkpoint_in_the_cache_needs_no_hub(made_set, tmp_path, monkeypatch):
    cached(monkeypatch, tmp_path / "hub", "unet/diffusion_pytorch_model.safetensors")
    checked(made_set, tmp_path, painter={"name": "gligen-inpaint", "model": GLIGEN})


def test_a_lora_that_is_not_there_is_refused(made_set, tmp_path):
    painter = {"name": "gligen-inpaint", "lora": "no/such/folder"}
    with pytest.raises(AugmentError, match=r"painter\.lora 'no/such/folder' is neither a folder nor a hub id"):
        checked(made_set, tmp_path, painter=painter, models="mini")


def test_a_hub_whose_name_is_not_known_here_is_not_asked(tmp_path, monkeypatch):
    from huggingface_hub import constants

    def unknown(*args):
        raise socket.gaierror("no such name")

    cached(monkeypatch, tmp_path / "hub")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr("urllib.request.getproxies", dict)
    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(AugmentError, match=r"huggingface\.co is not known to this machine's network"):
        checkpoints.check_at_hand(GLIGEN, {}, "painter.model")
    monkeypatch.setattr("urllib.request.getproxies", lambda: {"https": "http://proxy:8080"})
    checkpoints.check_at_hand(GLIGEN, {}, "painter.model")


def test_a_folder_that_is_not_there_is_named_by_its_setting(made_set, tmp_path):
    with pytest.raises(AugmentError, match=r"painter\.model 'no/such/folder' is neither a folder nor a hub id"):
        checked(made_set, tmp_path, painter={"name": "gligen-inpaint", "model": "no/such/folder"})


# room


class Disk:
    free = 1000


def test_a_disk_without_the_room_for_what_is_planned_is_one_sentence(made_set, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: Disk)
    with pytest.raises(AugmentError, match=r"needs about .* for 12 pictures, and its disk has 1 kB left"):
        checked(made_set, tmp_path, variants=2)


def test_what_an_earlier_run_has_painted_needs_no_more_room(made_set, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: Disk)
    monkeypatch.setattr(module, "former_account", lambda root: {"painted": 2, "reused": 4})
    checked(made_set, tmp_path)


def test_room_grows_with_the_pictures_and_their_size(made_set, tmp_path):
    settings = check_run(check_parameters({"dataset": made_set.dataset}), tmp_path / "ws")
    images = [read_dataset(settings.dataset).images]
    files = [path.stat().st_size for path in made_set.images.iterdir()]
    assert room_needed(settings, images, 0, copies=True) == pytest.approx(sum(files), abs=1)
    assert room_needed(settings, images, 6, copies=False) == pytest.approx(2 * sum(files), abs=1)


@pytest.mark.parametrize(
    ("size", "words"), [(0, "0 bytes"), (1234, "1.2 kB"), (250e6, "250 MB"), (3.21e9, "3.2 GB"), (5e12, "5000.0 GB")]
)
def test_bytes_in_words(size, words):
    assert size_in_words(size) == words


def test_a_preflight_opens_no_picture_and_writes_nothing(made_set, tmp_path, monkeypatch):
    monkeypatch.setattr("lib.core.images.load_rgb", lambda *args: pytest.fail("opened"))
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    settings = check_run(check_parameters({"dataset": made_set.dataset}), tmp_path / "ws")
    check_data(settings, lay_dataset(settings.dataset))
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


# --dry-run


def rehearsed(made: MadeSet, workspace: Path, **given: Any) -> Any:
    return dry_run(check_parameters({"dataset": made.dataset, "workspace": str(workspace), **given}), workspace)


@pytest.mark.parametrize("where", ["s3://bucket/run", "/data/run"])
def test_a_dry_run_for_a_machine_names_the_workspace_as_it_was_given(where):
    plan = DryRun(workspace=Path(str(place_of(where))), recipe="", pictures=0, new=0)
    assert plan.document()["workspace"] == where


def test_a_dry_run_counts_what_would_be_painted_and_why_not_and_writes_nothing(made_set, tmp_path):
    made_set.add(6, boxes=1)
    (made_set.images / "picture 001.png").write_bytes(b"")
    made_set.coco["annotations"] = [note for note in made_set.coco["annotations"] if note["image_id"] != 12]
    made_set.write()
    plan = rehearsed(made_set, tmp_path / "ws", select={"require_objects": True})
    assert plan.left["ingest"] == {"image_empty": 1} and plan.left["select"] == {"no_usable_objects": 1}
    assert plan.pictures == plan.new == 5 - sum(plan.left.get("plan", {}).values())
    assert set(plan.boxes) <= {"forklift", "pallet"} and sum(plan.boxes.values()) >= plan.pictures
    assert plan.size > 0 and plan.seconds > 0 and not plan.measured
    assert not (tmp_path / "ws").exists()


def test_captions_that_a_model_would_make_are_replaced_and_it_is_said(made_set, tmp_path):
    plan = rehearsed(made_set, tmp_path / "ws", preset="gligen-inpainting", models="mini", limit=2)
    assert plan.pictures == 2 and any("replaced by the template's" in note for note in plan.notes)


def test_a_dry_run_at_the_command_line_is_a_table_or_json(capsys, made_set, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(connection, "prepare_prefect", lambda meanwhile: pytest.fail("no server is needed"))
    (tmp_path / "mine.yaml").write_text(json.dumps({"dataset": made_set.dataset}))
    assert cli.main(["run", "mine.yaml", "--dry-run"]) == 0
    assert "6 pictures would come out, 6 of them new: replace × copy-paste × feather" in capsys.readouterr().out
    assert cli.main(["run", "mine.yaml", "--dry-run", "--json", "--set", "limit=9"]) == 3
    printed = json.loads(capsys.readouterr().out)
    assert printed["pictures"] == 6 and printed["workspace"] == str(tmp_path / "data/runs/mine")
    assert not (tmp_path / "data").exists()
    assert cli.main(["run", "mine.yaml", "--json"]) == 1 and "augment status RUN --json" in capsys.readouterr().err
