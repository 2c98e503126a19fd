"""Fixtures shared by all tests. Small data sets are made here; real pictures come from tests/shared.py."""

from __future__ import annotations

import os

# Before numpy and torch come in, here and in the processes that tests start: tiny models gain nothing from more
# threads, and two test workers that share two cores lose a lot.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import gc
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pytest
from filelock import FileLock
from PIL import Image

from flows.cli import SILENT

# Whatever the environment says, bytecode is kept, of the tests too: to compile Prefect and torch anew in each of a
# hundred processes took half of the time of all tests.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
# Before anything imports Prefect: quiet, and no wait for a log handler that has no flow.
for name, value in SILENT.items():
    os.environ.setdefault(name, value)
os.environ.setdefault("PREFECT_LOGGING_TO_API_ENABLED", "false")
# The server of the tests sometimes complains of its own end, which cuts off its last records.
os.environ.setdefault("PREFECT_SERVER_LOGGING_LEVEL", "CRITICAL")
os.environ.setdefault("PREFECT_SERVER_REGISTER_BLOCKS_ON_START", "false")  # as in our temporary servers
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# Runs of some pictures are many small files, some of them forced to the disk: in memory a tenth of their time is saved.
MEMORY = Path("/dev/shm")
if MEMORY.is_dir() and shutil.disk_usage(MEMORY).free > 4e9:  # a run of all tests needs less than 1 GB at a time
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(MEMORY))

# What is slow on a busy machine is not wrong. Half of the usual draws, in every run of the tests.
hypothesis.settings.register_profile("untimed", deadline=None, max_examples=50)
hypothesis.settings.load_profile("untimed")

PATIENCE = 600  # seconds that a test waits for another process: long, for machines that are busy with other work

# Files that take longest, the longest first: `make test` hands whole files to its workers in this order, so that no
# worker is left alone with a long one at the end.
LONGEST = (
    "test_serve.py",
    "test_journey.py",
    "test_machines.py",
    "test_attacks.py",
    "test_prove_flow.py",
    "test_demo.py",
    "test_recipes.py",
    "test_preset_runs.py",
    "test_training.py",
    "test_server.py",
    "test_review_page.py",
    "test_kill.py",
    "test_stop.py",
    "test_train_flow.py",
    "test_hostile_workspace.py",
    "test_stay_training.py",
    "test_perceptual.py",
    "test_directions.py",
    "test_evaluate_flow.py",
    "test_cases.py",
)


def pytest_collection_finish() -> None:
    """What is imported by now stays to the end: no garbage collection has to walk through it again."""
    gc.freeze()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files first; the others, and the tests of a file, stay in their order."""
    items.sort(key=lambda item: LONGEST.index(item.path.name) if item.path.name in LONGEST else len(LONGEST))


# Files whose flows run on `prefect_server`, many of them in forked processes: on one worker, so that there is one
# server and one process to fork from.
TOGETHER = (
    "test_attacks.py",
    "test_cluster.py",
    "test_evaluate_flow.py",
    "test_hostile_workspace.py",
    "test_kill.py",
    "test_newcomer.py",
    "test_stay_training.py",
    "test_stop.py",
    "test_train_flow.py",
    "test_waiting.py",
)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Whole files to the workers, and those of TOGETHER to one."""
    from xdist.scheduler import LoadFileScheduling

    class Together(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file: str = super()._split_scope(nodeid)
            return "together" if Path(file).name in TOGETHER else file

    return Together(config, log)


@pytest.fixture(scope="session")
def prefect_database(pytestconfig: pytest.Config) -> Path:
    """An empty database of Prefect, to be copied: a hundred migrations take longer than the rest of a server's start.

    Made once for a version of Prefect, in pytest's cache.
    """
    assert pytestconfig.cache is not None
    path = pytestconfig.cache.mkdir("prefect") / f"{version('prefect')}.db"
    with FileLock(f"{path}.lock"):
        if not path.is_file():
            making = path.with_suffix(".making")
            making.unlink(missing_ok=True)
            url = {"PREFECT_SERVER_DATABASE_CONNECTION_URL": f"sqlite+aiosqlite:///{making}"}
            command = [sys.executable, "-m", "prefect", "server", "database", "upgrade", "--yes"]
            subprocess.run(command, env={**os.environ, **url}, check=True, capture_output=True)
            making.replace(path)
    return path


@pytest.fixture(scope="session")
def prefect_server(prefect_database: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """One temporary Prefect server for the session (it takes seconds to start): its API URL."""
    from prefect.settings import PREFECT_API_URL
    from prefect.testing.utilities import prefect_test_harness

    folder = tmp_path_factory.mktemp("prefect")
    shutil.copy(prefect_database, folder / "prefect-test.db")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("prefect.testing.utilities.mkdtemp", lambda: str(folder))  # where it makes that database
        with prefect_test_harness(server_startup_timeout=PATIENCE):
            yield str(PREFECT_API_URL.value())


class MadeSet:
    """A small labelled data set on disk: textured pictures with plain coloured objects in their boxes."""

    CATEGORIES = ("forklift", "pallet")

    def __init__(self, folder: Path, count: int, size: tuple[int, int] = (160, 120), boxes: int = 2) -> None:
        self.folder, self.images, self.annotations = folder, folder / "images", folder / "annotations.json"
        self.images.mkdir(parents=True)
        self.coco: dict[str, Any] = {
            "info": {"description": "made for a test", "version": 1.0},
            "licenses": [{"id": 1, "name": "Apache-2.0"}],
            "categories": [{"id": i + 3, "name": name} for i, name in enumerate(self.CATEGORIES)],
            "images": [],
            "annotations": [],
        }
        for number in range(count):
            self.add(number, size, boxes)
        self.write()

    def add(self, number: int, size: tuple[int, int] = (160, 120), boxes: int = 2) -> None:
        """One more picture, drawn from its number alone."""
        random = np.random.default_rng(number)
        pixels = random.integers(60, 200, (size[1] // 8, size[0] // 8, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
        image_id = 10 + number
        for k in range(boxes):
            w, h = (int(v) for v in random.integers(24, 44, 2))
            x = int(random.integers(0, size[0] // boxes - w)) + k * size[0] // boxes
            y = int(random.integers(0, size[1] - h))
            pixels[y : y + h, x : x + w] = random.integers(0, 256, 3)
            pixels[y + h // 3 : y + h // 2, x + 4 : x + w - 4] = random.integers(0, 256, 3)
            self.coco["annotations"].append(
                {
                    "id": 1000 + 10 * number + k,
                    "image_id": image_id,
                    "category_id": 3 + k % 2,
                    "bbox": [x, y, w, h],
                    "area": w * h,
                    "segmentation": [],
                    "iscrowd": 0,
                    "colour": "unknown field",
                }
            )
        name = f"picture {number:03d}.png"
        Image.fromarray(pixels).save(self.images / name)
        record = {"id": image_id, "file_name": name, "width": size[0], "height": size[1], "license": 1}
        self.coco["images"].append(record)

    def write(self) -> None:
        """The COCO file as it stands."""
        self.annotations.write_text(json.dumps(self.coco))

    @property
    def dataset(self) -> dict[str, str]:
        """The flow's parameter."""
        return {"images": str(self.images), "annotations": str(self.annotations)}


@pytest.fixture
def made_set(tmp_path: Path) -> MadeSet:
    """Six pictures of two boxes."""
    return MadeSet(tmp_path / "made", 6)


def tree(folder: Path) -> dict[str, bytes]:
    """Files by their names below a folder."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def final_set(workspace: Path) -> dict[str, bytes]:
    return tree(workspace / "final")


def pixels_of(path: Path) -> np.ndarray:
    """uint8 (H, W, 3)."""
    return np.asarray(Image.open(path).convert("RGB"))


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Painter name → tiny checkpoint. A new painter with a model needs a line here."""
    from tiny import tiny_gligen, tiny_pipeline, tiny_sd, tiny_sdxl, tiny_stay

    root = tmp_path_factory.mktemp("checkpoints")
    plain = tiny_sd(root / "sd", channels=4)
    return {
        "gligen": tiny_gligen(root / "gligen"),
        "gligen-inpaint": tiny_gligen(root / "gligen-inpaint", inpaint=True),
        "sd-inpaint": tiny_sd(root / "sd-inpaint", channels=9),
        "sdxl-inpaint": tiny_sdxl(root / "sdxl-inpaint"),
        "stay": tiny_stay(root / "stay"),
        "diffusers-inpaint": tiny_pipeline(root / "z-image", "z-image"),
        **dict.fromkeys(("vanilla", "blended-latent", "td-paint", "latentpaint"), plain),
    }


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> dict[str, tuple[int, int]]:
    """Stage → (jobs that ran, all jobs) of the last run."""
    from tasks import stages

    found, real = dict[str, tuple[int, int]](), stages.close_stage

    def close_stage(run: Any, stage: Any, done: Any, *more: Any, **named: Any) -> Any:
        found[stage.work.name] = sum(fresh for _, fresh in done), len(done)
        return real(run, stage, done, *more, **named)

    monkeypatch.setattr(stages, "close_stage", close_stage)
    return found
