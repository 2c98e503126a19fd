"""A full disk, or one that may not be written: one sentence with workspace and remedy, and nothing is lost."""

from __future__ import annotations

import errno
import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import MadeSet
from filelock import FileLock
from pycocotools.coco import COCO
from safetensors import SafetensorError
from safetensors.numpy import save_file

from flows import cli
from flows.augment import augment
from lib.core import files
from lib.core.errors import AugmentError
from lib.core.storage import explained, explanation, lasting
from lib.records import kept
from lib.records.store import Store
from lib.runs.account import held, read_account, write_account, write_failure

ROOT = Path("/data/ws")
FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
LASTING = {
    "no space": FULL,
    "quota": OSError(errno.EDQUOT, os.strerror(errno.EDQUOT)),
    "read-only": OSError(errno.EROFS, os.strerror(errno.EROFS), "/data/ws/status.json"),
    "no right": PermissionError(errno.EACCES, os.strerror(errno.EACCES), "/data/ws/store"),
    "safetensors": SafetensorError('Error while serializing: IoError(Os { code: 28, kind: StorageFull, message: "No '),
    "tokenizers": Exception("No space left on device (os error 28)"),
    "sqlite": RuntimeError("database or disk is full"),
}


@pytest.mark.parametrize("error", LASTING.values(), ids=LASTING)
def test_a_lasting_fault_is_a_sentence_with_workspace_and_remedy(error: Exception) -> None:
    text = explanation(error, ROOT)
    assert lasting(error) and text is not None and "\n" not in text
    assert text.startswith("workspace /data/ws cannot be written (") and "set `workspace` to" in text


@pytest.mark.parametrize("error", LASTING.values(), ids=LASTING)
def test_it_is_found_behind_other_errors(error: Exception) -> None:
    try:
        try:
            raise error
        except Exception:
            raise KeyError("x")  # noqa: B904
    except KeyError as outer:
        assert lasting(outer) and lasting(ExceptionGroup("several", [ValueError(), outer]))


@pytest.mark.parametrize("error", [OSError("x"), OSError(errno.EIO, "x"), FileNotFoundError(2, "x"), ValueError("x")])
def test_what_may_pass_or_is_another_fault_goes_up_as_it_is(error: Exception) -> None:
    assert not lasting(error) and explanation(error, ROOT) is None
    with pytest.raises(type(error)) as caught, explained(ROOT):
        raise error
    assert caught.value is error


def test_an_error_of_ours_stays_what_it_says() -> None:
    with pytest.raises(AugmentError, match="as it was"), explained(ROOT):
        raise AugmentError("as it was") from FULL


def test_a_file_elsewhere_is_named() -> None:
    text = explanation(PermissionError(errno.EACCES, "no", "/elsewhere/a.png"), ROOT)
    assert (
        text
        == "/elsewhere/a.png cannot be opened (Permission denied): give this user the right to, or name another place"
    )
    file = Path(tempfile.gettempdir()) / "x"
    assert "TMPDIR" in str(explanation(OSError(errno.ENOSPC, "no", str(file)), ROOT))


def test_a_command_without_a_workspace_says_it_too(capsys: Any, monkeypatch: Any) -> None:
    def full(options: Any) -> int:
        raise OSError(errno.ENOSPC, "no", "scores.json")

    monkeypatch.setattr("flows.commands.presets.Presets.run", full)
    assert cli.main(["presets"]) == 1
    error = capsys.readouterr().err
    assert (
        error.startswith("augment: scores.json cannot be written (No space left on device)") and error.count("\n") == 1
    )


# --- status ------------------------------------------------------------------------------------------------------

ACCOUNT: dict[str, Any] = {"run": "x", "workspace": "w", "state": "running", "stages": {}, "painted": 0}


def full_disk(monkeypatch: Any, after: int = 0, code: int = errno.ENOSPC) -> list[str]:
    """From now on no new file can be made, but for the first `after`; the list of those that were wanted."""
    name, wanted = files.unused_path, list[str]()

    def unused_path(folder: Path, suffix: str) -> Path:
        wanted.append(str(folder))
        if len(wanted) > after:
            raise OSError(code, os.strerror(code), f"{folder}/.tmp-x")
        return name(folder, suffix)

    monkeypatch.setattr(files, "unused_path", unused_path)
    return wanted


def test_on_a_full_disk_the_end_of_a_run_is_written_over_its_beginning(tmp_path: Path, monkeypatch: Any) -> None:
    write_account(tmp_path, ACCOUNT)
    full_disk(monkeypatch)
    write_failure(tmp_path, ACCOUNT | {"state": "failed", "error": "no room"})
    assert read_account(tmp_path / "status.json") == ACCOUNT | {"state": "failed", "error": "no room"}


def test_an_account_that_has_no_room_is_written_without_its_stages(tmp_path: Path, monkeypatch: Any) -> None:
    write_account(tmp_path, ACCOUNT)
    full_disk(monkeypatch)
    stage = {"rows": 1, "ok": 1, "painted": 0, "reused": 0, "rejected": {}}
    stages = {f"stage {i}": stage for i in range(1000)}
    write_failure(tmp_path, ACCOUNT | {"state": "failed", "error": "no room", "stages": stages})
    error = read_account(tmp_path / "status.json")
    assert (error["state"], error["error"], error["stages"]) == ("failed", "no room", {})


def test_a_file_is_not_begun_where_its_new_content_has_no_room(tmp_path: Path) -> None:
    kept.write(tmp_path / "x.json", {"a": 1})
    before = (tmp_path / "x.json").read_bytes()
    with pytest.raises(OSError, match="No space left"):
        kept.overwrite(tmp_path / "x.json", {"a": "x" * 100_000})
    assert (tmp_path / "x.json").read_bytes() == before


def test_a_run_that_ended_without_a_word_is_stopped_not_running(tmp_path: Path, capsys: Any) -> None:
    write_account(tmp_path, ACCOUNT)
    assert not held(tmp_path) and read_account(tmp_path / "status.json")["state"] == "stopped"
    with FileLock(tmp_path / ".lock"):
        assert held(tmp_path) and read_account(tmp_path / "status.json")["state"] == "running"
    assert cli.main(["status", str(tmp_path)]) == 0
    assert "x: stopped" in capsys.readouterr().out


def test_what_a_run_left_is_not_written_to_by_looking(tmp_path: Path) -> None:
    write_account(tmp_path, ACCOUNT)
    read_account(tmp_path / "status.json")
    assert [path.name for path in tmp_path.iterdir()] == ["status.json"]


# --- a disk that is full -----------------------------------------------------------------------------------------


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MB and few files, where this user may mount one."""
    place = tmp_path / "disk"
    place.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m,nr_inodes=500", "none", place],
        capture_output=True,
        text=True,
        check=False,
    )
    if made.returncode:
        pytest.skip(f"no file system can be mounted here: {made.stderr.strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", place], check=True)


def remount(place: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", place], check=True)


def fill(place: Path, leave: int = 0) -> None:
    with (place / "ballast").open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            file.truncate(max(file.tell() - leave, 0))


WRITERS = {
    "bytes": lambda path: files.atomic_write(path, bytes(500_000)),
    "store": lambda path: Store(path).put("paint", "0" * 64, bytes(500_000)),
    "parquet": lambda path: pq.write_table(pa.table({"x": list(os.urandom(300_000))}), path),
    "pandas": lambda path: pd.DataFrame({"x": range(200_000)}).to_parquet(path),
    "safetensors": lambda path: save_file({"x": np.zeros(200_000)}, path),
    "mkdir": lambda path: [(path / str(i)).mkdir(parents=True) for i in range(5000)],
}


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
@pytest.mark.parametrize("options", ["size=2m", "ro"])
def test_whatever_writes_to_a_disk_that_takes_nothing_is_reported_in_a_sentence(
    disk: Path, write: Any, options: str
) -> None:
    fill(disk, 4096)
    remount(disk, options)
    with pytest.raises(AugmentError, match=f"workspace {disk} cannot be written"), explained(disk):
        write(disk / "x")


def test_a_read_only_status_shows_that_nobody_runs(disk: Path) -> None:
    write_account(disk, ACCOUNT)
    (disk / ".lock").touch()
    remount(disk, "ro")
    assert read_account(disk / "status.json")["state"] == "stopped"


def test_a_full_home_of_prefect_is_reported_beside_its_result(disk: Path, monkeypatch: Any) -> None:
    import prefect.settings

    error = AugmentError("the server ended by itself")
    monkeypatch.setattr(prefect.settings.get_current_settings(), "home", disk)
    assert cli.sentence(error) == "the server ended by itself"
    fill(disk)
    assert cli.sentence(error) == (
        f"the server ended by itself; {disk} has 0 bytes left: free some space, or set PREFECT_HOME to a folder on "
        "another disk"
    )


# --- the journey -------------------------------------------------------------------------------------------------


def run(workspace: Path, dataset: Any) -> Any:
    return augment.fn(dataset=dataset, workspace=workspace)


def check_failed(state: Any, workspace: Path, code: int = errno.ENOSPC) -> None:
    assert state.is_failed() and "\n" not in state.message
    assert state.message.startswith(f"workspace {workspace} cannot be written ({os.strerror(code)}")
    account = read_account(workspace / "status.json")
    assert (account["state"], account["error"]) == ("failed", state.message)


@pytest.mark.parametrize(
    ("after", "code"),
    [
        (2, errno.ENOSPC),
        (6, errno.EDQUOT),
        (12, errno.ENOSPC),
        (25, errno.EROFS),
        (40, errno.ENOSPC),
        (70, errno.ENOSPC),
    ],
)
def test_a_run_on_a_disk_that_gets_full_ends_in_a_sentence_at_once(
    made_set: MadeSet, tmp_path: Path, monkeypatch: Any, after: int, code: int
) -> None:
    with monkeypatch.context() as patch:
        full_disk(patch, after, code)
        state = run(tmp_path / "ws", made_set.dataset)
    check_failed(state, tmp_path / "ws", code)
    assert run(tmp_path / "ws", made_set.dataset).is_completed()


def test_a_run_goes_on_where_it_was_once_there_is_room(tmp_path: Path, disk: Path) -> None:
    made = MadeSet(tmp_path / "made", 12, (480, 360))
    remount(disk, "size=1m")
    state = run(disk / "ws", made.dataset)
    check_failed(state, disk / "ws")
    remount(disk, "size=60m,nr_inodes=9999")
    assert run(disk / "ws", made.dataset).is_completed()
    assert len(COCO(str(disk / "ws" / "final" / "annotations.json")).imgs) == 24
