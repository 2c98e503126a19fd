"""The flow `train` on a local server: what it makes, what a rerun makes again, what a kill leaves."""

import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from forked import exit_code, kill_when, start_flow
from PIL import Image

from lib.core.checkpoints import FACTS
from lib.scenes.warehouse import write_dataset

QUICK = {"batch": 2, "precision": "no", "checkpoint_minutes": 0}
SETTINGS = {"vae": {"steps": 3, **QUICK}, "clip": {"steps": 3, **QUICK}}


def end_while_writing() -> None:
    """A model is written within milliseconds: who looks from outside may miss it. So the process ends itself there."""
    from lib.training import card

    card.write_card = lambda *given: os.kill(os.getpid(), signal.SIGKILL)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory) -> Path:
    """Five scenes of 96 × 96 pixels."""
    folder = tmp_path_factory.mktemp("scenes")
    write_dataset(folder, 5, 3, (96, 96))
    return folder


def given(scenes: Path, workspace: Path, **more: Any) -> dict[str, Any]:
    dataset = {"images": str(scenes / "images"), "annotations": str(scenes / "annotations.json")}
    values = {"dataset": dataset, "models": ["vae", "clip"], "size": 64, "settings": SETTINGS}
    return {**values, "workspace": workspace, **more}


def run(scenes: Path, workspace: Path, **more: Any) -> Any:
    """As a plain function, in this process."""
    from flows.train import train

    return train.fn(**given(scenes, workspace, **more))


def completed(scenes: Path, workspace: Path, **more: Any) -> dict[str, Any]:
    """The account of a run that went well."""
    state = run(scenes, workspace, **more)
    account = json.loads((workspace / "status.json").read_bytes())
    assert state.is_completed() and account["state"] == "completed", state.message
    return account


def failed(scenes: Path, workspace: Path, **more: Any) -> str:
    state = run(scenes, workspace, **more)
    assert state.is_failed()
    return state.message


def weights(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*.safetensors"))}


@pytest.fixture(scope="module")
def whole(scenes, tmp_path_factory, prefect_server) -> Path:
    """The workspace of a run on a server that nobody killed."""
    workspace = tmp_path_factory.mktemp("whole") / "ws"
    assert exit_code(start_flow(prefect_server, "train", given(scenes, workspace))) == 0
    return workspace


def test_models_sheets_and_the_account_of_every_picture(whole):
    assert sorted(p.name for p in (whole / "models").iterdir()) == ["clip", "vae"]
    for name in ("clip", "vae"):
        assert np.asarray(Image.open(whole / "sheets" / f"{name}.png")).ndim == 3
        assert (whole / "models" / name / "README.md").is_file()
    account = json.loads((whole / "status.json").read_bytes())
    assert list(account["stages"]) == ["ingest", "objects", "pictures", "train-vae", "train-clip"]
    assert account["stages"]["pictures"]["ok"] == 5
    counts = account["stages"]["train-vae"]
    assert (counts["painted"], counts["reused"], counts["steps"]) == (1, 0, 3) and counts["minutes"] >= 0
    resolved = json.loads((whole / "settings.json").read_bytes())
    assert resolved["settings"]["clip"]["steps"] == 3 and resolved["models"] == ["vae", "clip"]


def test_the_ui_shows_progress_curve_and_sheet(whole, prefect_server):
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey

    wanted = ["progress-train-vae", "rows-train-vae", "rows-pictures", "training-vae", "training-clip"]
    with get_client(sync_client=True) as client:
        found = client.read_artifacts(artifact_filter=ArtifactFilter(key=ArtifactFilterKey(any_=wanted)), limit=200)
    artifacts = {artifact.key: artifact for artifact in found}
    assert set(artifacts) == set(wanted)
    text = str(artifacts["training-vae"].data)
    assert text.count("data:image/") == 2 and "steps/s" in text and len(text) < 250_000


def test_a_rerun_reuses_and_changes_nothing(scenes, whole, tmp_path, prefect_server):
    shutil.copytree(whole, tmp_path / "ws")
    assert exit_code(start_flow(prefect_server, "train", given(scenes, tmp_path / "ws"))) == 0
    account = json.loads((tmp_path / "ws" / "status.json").read_bytes())
    assert [account["stages"][f"train-{n}"]["reused"] for n in ("vae", "clip")] == [1, 1]
    assert weights(tmp_path / "ws" / "models") == weights(whole / "models")


def test_more_steps_go_on_where_the_last_run_ended(scenes, whole, tmp_path):
    shutil.copytree(whole, tmp_path / "ws")
    account = completed(scenes, tmp_path / "ws", settings={**SETTINGS, "vae": {**SETTINGS["vae"], "steps": 4}})
    assert [account["stages"][f"train-{n}"]["painted"] for n in ("vae", "clip")] == [1, 0]
    facts = json.loads((tmp_path / "ws/models/vae" / FACTS).read_bytes())
    assert facts["steps"] == 4 and [point["step"] for point in facts["history"]] == [3, 4]


@pytest.mark.parametrize(
    "pattern",
    [
        "checkpoints/vae/00000001-*.safetensors",
        "checkpoints/clip/00000002-*.safetensors",
        "models/.tmp-vae",
    ],
)
def test_killed_and_rerun_the_weights_are_those_of_a_run_never_killed(scenes, whole, tmp_path, prefect_server, pattern):
    workspace = tmp_path / "ws"
    before = end_while_writing if ".tmp" in pattern else None
    process = start_flow(prefect_server, "train", given(scenes, workspace), before)
    kill_when(process, lambda: list(workspace.glob(pattern)))
    completed(scenes, workspace)
    assert weights(workspace / "models") == weights(whole / "models")
    assert not list(workspace.rglob(".tmp-*"))
    account = json.loads((workspace / "status.json").read_bytes())
    assert account["stages"]["train-vae"]["reused"] == (1 if "clip" in pattern else 0)


def test_models_go_where_the_output_says_and_begin_from_earlier_ones(scenes, whole, tmp_path):
    account = completed(
        scenes, tmp_path / "ws", models=["vae"], output=str(tmp_path / "out"), start=str(whole / "models")
    )
    assert account["stages"]["train-vae"]["painted"] == 1 and not (tmp_path / "ws" / "models").exists()
    assert json.loads((tmp_path / "out/vae" / FACTS).read_bytes())["start"].startswith("sha256:")


def test_a_picture_that_cannot_be_read_is_left_out_with_its_reason(scenes, tmp_path):
    shutil.copytree(scenes, tmp_path / "broken")
    (tmp_path / "broken/images/scene_0002.jpg").write_bytes(b"no picture")
    account = completed(tmp_path / "broken", tmp_path / "ws", models=["vae"])
    assert account["rejected"]["image_broken"] == 1
    assert (account["stages"]["pictures"]["rows"], account["stages"]["pictures"]["ok"]) == (4, 4)


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"models": ["gligen-inpaint"]}, "needs vae, clip, neither named before it nor in"),
        ({"models": ["nonesuch"]}, "unknown trainer 'nonesuch': known are"),
        ({"models": []}, "models: [] names nothing to train"),
        ({"settings": {"vae": {"stepz": 3}}}, "setting 'stepz'"),
        ({"start": "nowhere"}, "start nowhere holds none of vae, clip"),
        ({"split": "other"}, "0 pictures to train on: at least 2"),
    ],
    ids=str,
)
def test_what_cannot_work_is_reported_in_a_sentence(scenes, tmp_path, more, reason):
    assert reason in failed(scenes, tmp_path / "ws", **more)


def test_start_and_output_in_one_folder_are_refused(scenes, whole):
    assert "are one folder" in failed(scenes, whole, start=str(whole / "models"))


def test_a_full_disk_does_not_hide_why_a_run_failed(tmp_path, monkeypatch):
    from lib.core.errors import AugmentError
    from lib.records.settings import DatasetSettings
    from tasks import run as tasks
    from tasks.progress import Progress

    dataset = DatasetSettings(images=tmp_path)
    work = tasks.Work(name="a", dataset=dataset, root=tmp_path, progress=Progress())

    def full(*arguments: Any) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(AugmentError, match="the reason"), tasks.accounted(work, dataset):
        for write in ("write", "overwrite"):
            monkeypatch.setattr(tasks.kept, write, full)
        raise AugmentError("the reason")


def test_an_output_that_cannot_be_written_is_reported_before_any_training(scenes, tmp_path):
    message = failed(scenes, tmp_path / "ws", output=str(scenes / "annotations.json" / "models"))
    assert "cannot be written (Not a directory): set `output` to another folder" in message


def test_other_data_in_the_same_workspace_is_refused_and_nothing_is_lost(scenes, whole, tmp_path):
    shutil.copytree(whole, tmp_path / "ws")
    write_dataset(tmp_path / "more", 6, 3, (96, 96))
    assert "trained with other data" in failed(tmp_path / "more", tmp_path / "ws")
    assert weights(tmp_path / "ws" / "models") == weights(whole / "models")


def test_a_workspace_in_use_is_refused(scenes, tmp_path):
    from filelock import FileLock

    (tmp_path / "ws").mkdir()
    with FileLock(tmp_path / "ws" / ".lock"):
        assert "is in use by another run" in failed(scenes, tmp_path / "ws")


@pytest.mark.parametrize("on_server", [True, False])
def test_what_may_pass_is_tried_again(scenes, tmp_path, monkeypatch, prefect_server, on_server):
    from flows.train import train
    from tasks import train as tasks

    calls, real = [], tasks.train_model

    def shaky(*arguments: Any, **more: Any) -> Any:
        calls.append(arguments[0])
        if len(calls) == 1:
            raise OSError(5, "Input/output error")
        return real(*arguments, **more)

    monkeypatch.setattr(tasks, "train_model", shaky)
    monkeypatch.setattr(tasks, "train_job", tasks.train_job.with_options(retry_delay_seconds=0))
    values = given(scenes, tmp_path / "ws", models=["vae"])
    state = train(**values, return_state=True) if on_server else train.fn(**values)
    assert state.is_completed() and calls == ["vae", "vae"]


# The command line


def test_a_deployment_of_the_other_flow_is_reported_with_its_command(capsys):
    from flows import cli

    for command, name, hint in (("run", "mini", "augment train mini"), ("train", "demo", "augment run demo")):
        assert cli.main([command, name]) == 1
        assert capsys.readouterr().err.strip().endswith(hint)


def test_augment_train_says_what_it_made_and_where(scenes, tmp_path, monkeypatch, capsys, prefect_server):
    from flows import cli

    monkeypatch.chdir(tmp_path)
    values = given(scenes, tmp_path / "ws", models=["vae"])
    (tmp_path / "mine.yaml").write_text(json.dumps(values, default=str))
    assert cli.main(["train", "mine.yaml", "--set", "settings.vae.steps=1"]) == 0
    out = capsys.readouterr().out
    assert "ws: completed" in out
    assert "steps 1" in out and str(tmp_path / "ws" / "models") in out


def test_augment_measure_says_what_is_missing_before_anything_is_drawn(tmp_path, capsys):
    from flows import cli

    for arguments, reason in (
        (["--scenes", "1"], "--scenes 1: at least 2"),
        (["--models", str(tmp_path)], "lacks clip, vae, blip2, gligen-inpaint, gligen as `augment train` leaves them"),
    ):
        assert cli.main(["measure", *arguments]) == 1
        assert reason in capsys.readouterr().err


def test_augment_train_names_a_wrong_parameter_before_anything_starts(tmp_path, monkeypatch, capsys):
    from flows import cli
    from flows.commands import connection

    monkeypatch.setattr(connection, "prepare_prefect", lambda: pytest.fail("too late"))
    (tmp_path / "mine.yaml").write_text("dataset: {images: x}\nsize: 100\n")
    assert cli.main(["train", str(tmp_path / "mine.yaml")]) == 1
    assert "parameter 'size'" in capsys.readouterr().err
