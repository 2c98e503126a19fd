"""flows/prove.py: the whole path at tiny sizes, twice the same, its refusals, and trainings that were killed."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from conftest import PATIENCE, MadeSet

from flows.prove import prove
from lib.core.checkpoints import FACTS
from lib.core.errors import AugmentError
from lib.proof.cards import check_models
from lib.proof.job import TrainingJob, read_detections, trained
from lib.proof.protocol import Protocol, opened
from lib.proof.results import read_proof
from lib.proof.settings import check_proof, quick
from lib.proof.trainers import Trainer
from tasks.progress import Progress
from tasks.prove import open_proof, protocol_of

CHECKOUT = Path(__file__).parents[1]
ARMS = list("ADFX")
STARTER = """
import sys
from pathlib import Path
from lib.proof.job import TrainingJob
from lib.proof.trainers import Trainer
trainer = Trainer()
for name in ("3.json", "10000000.json"):
    list(trainer.train(TrainingJob.model_validate_json((Path(sys.argv[1]) / name).read_bytes())))
"""


def parameters(made: MadeSet, workspace: Path, **more: Any) -> dict[str, Any]:
    return {
        "dataset": made.dataset,
        "split": {"train": 8, "test": 6},
        "detector": {"name": "compact", "size": 64, "width": 8, "stride": 8},
        "schedule": {"steps": 3, "batch": 2, "warmup": 1},
        "arms": ARMS,
        "seeds": 2,
        "workers": 2,
        "workspace": workspace,
        **more,
    }


def prove_it(values: dict[str, Any]) -> Any:
    settings = check_proof(values)
    return prove.fn(**{name: getattr(settings, name) for name in values})


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> MadeSet:
    return MadeSet(tmp_path_factory.mktemp("prove") / "made", 26, boxes=3)


@pytest.fixture(scope="module")
def proven(made: MadeSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    workspace = tmp_path_factory.mktemp("prove") / "workspace"
    state = prove_it(parameters(made, workspace))
    assert state.is_completed(), state.message
    return workspace


@pytest.fixture(scope="module")
def trainer() -> Iterator[Trainer]:
    """Its process lives on: imports take longer than these trainings."""
    made = Trainer()
    yield made
    made.end()


def test_every_arm_is_trained_scored_and_reported(proven):
    proof = read_proof(proven / "proof.json")
    assert {one.arm for one in proof.arms} == set(ARMS)
    assert len(proof.trainings) == 2 * len(ARMS)
    assert all(one.value is not None for one in proof.trainings)
    assert {one.contrast for one in proof.comparisons} == {"F > A", "F > D", "A > X"}
    assert all(one.outcome != "shown" for one in proof.comparisons), "two seeds cannot show anything"
    assert "<html" in (proven / "report.html").read_text()
    found = opened(proven)
    assert found is not None and found.digest == proof.digest


def test_the_test_pictures_are_in_no_other_pool(proven):
    sides = json.loads((proven / "split.json").read_bytes())
    assert not set(sides["test"]) & set(sides["train"] + sides["extra"])
    assert len(sides["train"]) == 8


def test_run_again_it_trains_nothing_and_says_the_same(made, proven):
    before = read_proof(proven / "proof.json")
    times = {path: path.stat().st_mtime_ns for path in (proven / "trainings").glob("*.npz")}
    assert prove_it(parameters(made, proven)).is_completed()
    assert read_proof(proven / "proof.json") == before
    assert {path: path.stat().st_mtime_ns for path in (proven / "trainings").glob("*.npz")} == times


def test_a_training_made_again_gives_the_same_numbers(proven, trainer):
    job = jobs(proven)[0]
    before = read_detections(job)
    for suffix in (".json", ".npz", ".safetensors"):
        job.place.with_suffix(suffix).unlink()
    assert trained(job) is None
    list(trainer.train(job))
    after = read_detections(job)
    assert before is not None and after is not None
    assert all((a.boxes == b.boxes).all() and (a.scores == b.scores).all() for a, b in zip(before, after, strict=True))


def test_a_killed_training_goes_on_and_ends_as_one_never_killed(proven, trainer, tmp_path):
    job = jobs(proven)[1].model_copy(update={"folder": str(tmp_path)})
    job = job.model_copy(update={"schedule": job.schedule.model_copy(update={"steps": 40})})
    whole = job.model_copy(update={"folder": str(tmp_path / "whole")})
    list(trainer.train(whole))
    started = start_job(job.model_copy(update={"checkpoint_minutes": 0}))
    wait = time.monotonic() + PATIENCE
    while not list(job.place.glob("*.safetensors")) and started.poll() is None and time.monotonic() < wait:
        time.sleep(0.02)
    started.send_signal(signal.SIGKILL)
    started.wait()
    list(trainer.train(job))
    one, other = read_detections(whole), read_detections(job)
    assert one is not None and other is not None
    assert all((a.boxes == b.boxes).all() for a, b in zip(one, other, strict=True))


def test_a_process_trains_one_after_another_and_ends_with_its_starter(proven, tmp_path):
    """The second of two trainings is endless."""
    first = jobs(proven)[0].model_copy(update={"folder": str(tmp_path)})
    endless = first.model_copy(update={"schedule": first.schedule.model_copy(update={"steps": 10_000_000})})
    for job in (first, endless):
        (tmp_path / f"{job.schedule.steps}.json").write_text(job.model_dump_json())
    command = [sys.executable, "-c", STARTER, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, cwd=CHECKOUT) as starter:
        wait = time.monotonic() + PATIENCE
        while trained(first) is None and starter.poll() is None and time.monotonic() < wait:
            time.sleep(0.02)
        (child,) = psutil.Process(starter.pid).children()
        starter.kill()
    child.wait(PATIENCE)
    assert trained(first) is not None and trained(endless) is None


def test_a_training_that_fails_says_why_and_the_next_one_runs(proven, trainer, tmp_path):
    good = jobs(proven)[0].model_copy(update={"folder": str(tmp_path)})
    bad = good.model_copy(update={"test": good.test.model_copy(update={"path": str(tmp_path / "nowhere.npz")})})
    with pytest.raises(AugmentError, match=r"nowhere\.npz.*its log is"):
        list(trainer.train(bad))
    list(trainer.train(good))
    assert trained(good) is not None


def jobs(workspace: Path) -> list[TrainingJob]:
    files = sorted((workspace / "trainings").glob("*.job.json"))
    return [TrainingJob.model_validate_json(file.read_bytes()) for file in files]


def start_job(job: TrainingJob) -> subprocess.Popen[bytes]:
    folder = Path(job.folder)
    folder.mkdir(parents=True, exist_ok=True)
    file = job.place.with_suffix(".job.json")
    file.write_text(job.model_dump_json())
    return subprocess.Popen([sys.executable, "-m", "lib.proof.job", str(file)])


def test_a_changed_protocol_is_refused_once_the_test_was_opened(made, proven):
    state = prove_it(parameters(made, proven, seeds=3))
    assert state.is_failed()
    assert "seeds: 0, 1 → 0, 1, 2" in state.message


def test_the_protocol_holds_what_weights_are_and_not_where(made, proven, tmp_path):
    """The file that a training left is one to start from."""

    def protocol(name: str) -> Protocol:
        one = parameters(made, tmp_path / "w", detector={**parameters(made, tmp_path)["detector"], "weights": name})
        with open_proof(check_proof(one), "w", Progress()) as run:
            run.names = ["forklift"]
            return protocol_of(run)

    trained, other = (job.place.with_suffix(".safetensors") for job in jobs(proven)[:2])
    for name in ("a.safetensors", "b.safetensors"):
        shutil.copy(trained, tmp_path / name)
    first = protocol(str(tmp_path / "a.safetensors"))
    assert protocol(str(tmp_path / "b.safetensors")) == first
    shutil.copy(other, tmp_path / "a.safetensors")
    assert protocol(str(tmp_path / "a.safetensors")) != first


def test_an_arm_without_pictures_is_refused(made, tmp_path):
    state = prove_it(parameters(made, tmp_path / "w", split={"train": 20, "test": 6}, arms=["A", "Y"]))
    assert state.is_failed()
    assert "no picture of further real pictures" in state.message


def test_a_pool_for_which_nothing_could_be_painted_is_named(made, tmp_path):
    copy_paste = {"preset": "insert", "edit": {"min_side": 9999}}
    state = prove_it(parameters(made, tmp_path / "w", arms=["A", "D"], copy_paste=copy_paste))
    assert state.is_failed()
    assert "no picture for the arms with copy-paste: painted nothing" in state.message


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"arms": ["B"]}, "arm A"),
        ({"arms": ["A", "Q"]}, "'Q' is not known"),
        ({"ratios": [0]}, "above 0"),
        ({"detector": "compct"}, "compact"),
        ({"detector": {"name": "compact", "siez": 64}}, "siez"),
        ({"paint": {"presett": "insert"}}, "preset"),
        ({"paint": {"dataset": {}}}, "set by the proof itself"),
        ({"contrasts": ["F over A"]}, "is not understood"),
        ({"contrasts": ["F@3 > A"]}, "F has no ratio 3"),
        ({"schedule": {"steps": 0}}, "steps"),
    ],
)
def test_parameters_that_cannot_be_are_refused_by_name(made, tmp_path, change, why):
    with pytest.raises(AugmentError, match=why):
        check_proof(parameters(made, tmp_path) | change)


def test_quick_never_asks_for_more_than_was_asked_for(made, tmp_path):
    values = quick(parameters(made, tmp_path, models={"settings": {"classifier": {"steps": 900}}}))
    settings = check_proof(values)
    assert (settings.split.train, settings.split.test, settings.schedule.steps) == (8, 6, 3)
    assert settings.models == {"settings": {"classifier": {"steps": 100}}}
    assert settings.arms == ARMS


class TestCards:
    """A painter that saw test pictures is refused."""

    @pytest.fixture
    def split(self, tmp_path: Path) -> Path:
        sides = {"train": ["a" * 64, "b" * 64], "extra": ["d" * 64], "test": ["c" * 64]}
        (tmp_path / "split.json").write_text(json.dumps(sides))
        return tmp_path / "split.json"

    def model(self, folder: Path, sources: list[str] | None) -> Path:
        folder.mkdir()
        facts = {"trainer": "stay"} if sources is None else {"trainer": "stay", "sources": sources}
        (folder / FACTS).write_text(json.dumps(facts))
        return folder

    def test_one_that_learned_from_training_pictures_passes(self, split, tmp_path):
        assert check_models({"painter": self.model(tmp_path / "m", ["a" * 16])}, split) == []

    def test_one_that_saw_a_test_picture_is_refused(self, split, tmp_path):
        with pytest.raises(AugmentError, match="1 of the test pictures"):
            check_models({"painter": self.model(tmp_path / "m", ["a" * 16, "c" * 16])}, split)

    def test_one_that_saw_more_real_pictures_is_refused(self, split, tmp_path):
        with pytest.raises(AugmentError, match="1 pictures that the detector does not see"):
            check_models({"painter": self.model(tmp_path / "m", ["a" * 16, "d" * 16])}, split)

    def test_one_that_does_not_say_is_refused(self, split, tmp_path):
        with pytest.raises(AugmentError, match="does not say"):
            check_models({"judge": self.model(tmp_path / "m", None)}, split)

    def test_a_published_one_is_noted(self, split, tmp_path):
        (tmp_path / "hub").mkdir()
        (note,) = check_models({"painter": tmp_path / "hub"}, split)
        assert "not known" in note
