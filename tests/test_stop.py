"""SIGINT and SIGTERM end a run between two pictures; the next run goes on where it was."""

import json
import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import PATIENCE, MadeSet
from forked import exit_code, start_command

from lib.core.stopping import STOPPED, Stopped, ask_to_stop, check_stop, stoppable
from tasks.engine import wait_for


def paint_slowly() -> None:
    """A painter that needs a moment for each picture: all of them would take minutes."""
    from lib.painting.painters.copy_paste import CopyPaste

    paint = CopyPaste.paint

    def slowly(self: CopyPaste, batch: Any) -> Any:
        time.sleep(0.4 * len(batch))
        return paint(self, batch)

    CopyPaste.paint = slowly  # type: ignore[method-assign]


@pytest.fixture(autouse=True)
def asked_by_nobody():
    """Whatever a test asked for is over with it; SIGINT as usual, without which a shell may have started the tests."""
    former = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, former)
    with stoppable():
        pass


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["SIGINT", "SIGTERM"])
def test_a_signal_ends_a_run_between_two_pictures(tmp_path, prefect_server, number, code):
    made, workspace = MadeSet(tmp_path / "made", 20), tmp_path / "ws"
    given = {"dataset": made.dataset, "workspace": str(workspace), "variants": 5, "evaluate": {"extractor": None}}
    (tmp_path / "run.yaml").write_text(json.dumps(given))
    process = start_command(prefect_server, tmp_path, "run", "run.yaml", before=paint_slowly)
    deadline = time.monotonic() + PATIENCE
    while process.is_alive() and len(pictures(workspace)) < 2 and time.monotonic() < deadline:
        time.sleep(0.1)
    assert process.pid is not None
    os.kill(process.pid, number)
    ended, error = exit_code(process), (tmp_path / "errors").read_text("utf-8", "replace")
    assert ended == code, error
    assert "Traceback" not in error and "augment: stopped; the same command goes on where it was" in error
    account = json.loads((workspace / "status.json").read_bytes())
    assert account["state"] == "stopped" and account["error"] == STOPPED
    assert 2 <= len(pictures(workspace)) < 50  # of 100


def pictures(workspace: Path) -> list[Path]:
    return [path for path in workspace.glob("store/picture/*/*") if not path.name.startswith(".tmp")]


def test_in_the_block_a_signal_is_noticed_by_all_threads_and_raises_as_before():
    with pytest.raises(KeyboardInterrupt), stoppable():
        check_stop()
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(PATIENCE)
    with pytest.raises(Stopped):
        check_stop()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    with stoppable():
        check_stop()  # a new run


def test_an_error_of_a_run_asks_nobody_else_to_stop():
    with pytest.raises(ZeroDivisionError), stoppable():
        raise ZeroDivisionError
    check_stop()


def test_a_signal_that_is_ignored_stays_ignored():
    former = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with stoppable():
            os.kill(os.getpid(), signal.SIGINT)
            check_stop()
    finally:
        signal.signal(signal.SIGINT, former)


def test_what_runs_ends_at_its_next_picture_and_what_waits_never_begins():
    begun, ended = [], []

    def work(number):
        begun.append(number)
        try:
            while True:
                check_stop()
                time.sleep(0.01)
        finally:
            ended.append(number)

    with ThreadPoolExecutor(2) as pool, pytest.raises(KeyboardInterrupt), stoppable():
        futures = [pool.submit(work, number) for number in range(9)]
        main = threading.main_thread().ident
        threading.Timer(0.5, signal.pthread_kill, (main, signal.SIGINT)).start()
        wait_for(futures)
    assert sorted(begun) == sorted(ended) == [0, 1]
    assert all(future.done() for future in futures)


def test_a_painter_looks_before_each_of_its_steps():
    from lib.painting.painters.denoise import denoise
    from lib.painting.painters.schedulers import make_scheduler

    class Model:
        class unet:
            dtype = torch.float32

    scheduler = make_scheduler("ddim", {"num_train_timesteps": 1000}, 500, torch.device("cpu"))
    calls = []

    def once(*args, **kwargs):
        calls.append(1)
        ask_to_stop()
        return type("Out", (), {"sample": args[0]})

    with pytest.raises(Stopped):
        denoise(Model, scheduler, torch.zeros(1, 1, 2, 2), torch.zeros(1, 1, 1), 1, unet=once)
    assert calls == [1]
