"""The journey from Python: the notebook's cells run, and no server is asked for anything."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lib.core.errors import AugmentError
from tasks.engine import step, wait_for

ROOT = Path(__file__).resolve().parent.parent

CHECKS = """
made = result.counts.loc["generate", "ok"]
assert len(result.counts) >= 9 and made == result.counts.loc["plan", "ok"] > 0
assert result.sheet.width > 500
assert result.verdict is None  # nothing was evaluated
assert [len(one.boxes) for one in pictures] and all(one.pixels.shape[2] == 3 for one in pictures)
assert any(one.boxes.painted.any() for one in pictures)
again = augment_dataset(**parameters)
assert again.account["painted"] == 0 and again.account["reused"] == made
"""


def test_the_notebook_runs_and_no_server_is_needed(tmp_path):
    cells = json.loads((ROOT / "docs" / "notebook.ipynb").read_bytes())["cells"]
    source = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    source = source.replace("augment_dataset(\n", "augment_dataset(**(parameters := dict(\n", 1)
    source = source.replace("\n)\n", "\n)))\n", 1)
    (tmp_path / "docs").mkdir()
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "demo").symlink_to(ROOT / "data" / "demo")
    nobody = {"PREFECT_API_URL": "http://127.0.0.1:9/api", "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "false"}
    done = subprocess.run(
        [sys.executable, "-c", source + CHECKS],
        cwd=tmp_path / "docs",
        env={**os.environ, **nobody, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert not (tmp_path / "docs" / "data").exists()


def test_a_result_has_the_verdict_of_its_account():
    from flows.python import Result
    from lib.evaluation.verdict import too_few_pictures

    verdict = too_few_pictures(3, 1)
    assert Result(ROOT, {"verdict": verdict.model_dump()}).verdict == verdict


def test_parameters_that_cannot_be_are_a_sentence():
    from flows import augment_dataset

    with pytest.raises(AugmentError, match="preset"):
        augment_dataset(dataset={"images": "."}, preset="insrt")


def passes(task, run, state):
    return isinstance(state.data, OSError)


def test_outside_of_a_flow_a_step_is_tried_again_where_that_can_help():
    tries = []

    @step(name="flaky", retries=2, retry_delay_seconds=0, retry_condition_fn=passes)
    def flaky(error):
        tries.append(error)
        if len(tries) < 3:
            raise error
        return "made"

    assert flaky(OSError("busy")) == "made" and len(tries) == 3


def test_outside_of_a_flow_a_step_is_not_tried_again_where_that_cannot_help():
    tries = []

    @step(name="wrong", retries=2, retry_delay_seconds=0, retry_condition_fn=passes)
    def wrong():
        tries.append(1)
        raise ValueError("bad input")

    future = wrong.submit()
    wait_for([future])
    with pytest.raises(ValueError, match="bad input"):
        future.result()
    assert len(tries) == 1
