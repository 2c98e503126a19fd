"""Figures of the engines: what kills cost, and what each engine costs beside a bare loop. Asserts no times.

.venv/bin/pytest -m benchmark -s tests/benchmarks/test_engines.py
"""

import json
import os
import random
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import psutil
import pytest
from conftest import MadeSet, final_set
from test_journey_speed import bare_loop, run

from lib.painting.painters import PAINTERS
from lib.records.engine_settings import EngineSettings
from tasks.engine import Engine, step, working_on
from tasks.progress import Progress

pytestmark = [pytest.mark.benchmark, pytest.mark.timeout(7200)]

TESTS = Path(__file__).resolve().parents[1]
KILLS = 20
PICTURES = 120
DASK = {"name": "dask", "workers": 2}
MINI = {"preset": "gligen-inpainting", "models": "mini", "edit": {"min_window": 64}}

PROGRAM = """
import json, sys
import counting
from flows import augment_dataset
augment_dataset(**json.loads(sys.argv[1]))
"""


class Killed:
    """Runs that are killed, in one workspace after the other, until there were enough kills."""

    def __init__(self, made: MadeSet, folder: Path, engine: object) -> None:
        self.made, self.folder, self.engine = made, folder, engine
        self.counted, self.number = folder / "counted", 0
        self.random = random.Random(7)

    @property
    def workspace(self) -> Path:
        return self.folder / f"ws{self.number}"

    def start(self) -> subprocess.Popen[bytes]:
        given = {"dataset": self.made.dataset, "evaluate": {"extractor": None}}
        values = json.dumps(given | {"engine": self.engine, "workspace": str(self.workspace)})
        more = {
            "PYTHONPATH": os.pathsep.join([str(TESTS.parent), str(TESTS)]),
            "AUGMENT_COUNTED": str(self.counted),
            "DASK_DISTRIBUTED__WORKER__PRELOAD": "['counting']",
        }
        command = [sys.executable, "-c", PROGRAM, values]
        return subprocess.Popen(command, env={**os.environ, **more}, stderr=subprocess.DEVNULL, cwd=self.folder)

    def lines(self) -> list[list[str]]:
        return [line.split() for line in self.counted.read_text().splitlines()] if self.counted.exists() else []

    def kill(self, process: subprocess.Popen[bytes]) -> bool:
        """One kill at a random moment while pictures are painted; False where the run ended before it."""
        before, moment = len(self.lines()), self.random.uniform(0, 3)
        while process.poll() is None and len(self.lines()) == before:
            time.sleep(0.01)
        end = time.monotonic() + moment
        while process.poll() is None and time.monotonic() < end:
            time.sleep(0.01)
        if process.poll() is not None:
            return False
        workers = [
            one
            for one in psutil.Process(process.pid).children(recursive=True)
            if "spawn_main" in " ".join(one.cmdline())
        ]
        if workers and self.random.random() < 0.7:
            self.random.choice(workers).kill()
        else:
            process.kill()
            process.wait()
            psutil.wait_procs(workers, timeout=60)
        return True

    def all(self, whole: dict[str, bytes]) -> tuple[int, int, int]:
        """(workspaces, pictures painted twice, pictures in flight at the kills)."""
        kills, process = 0, self.start()
        while kills < KILLS:
            if process.poll() is not None:
                if process.returncode == 0:
                    assert final_set(self.workspace) == whole
                    self.number += 1
                process = self.start()
            kills += self.kill(process)
        while process.wait() != 0:
            process = self.start()
        assert final_set(self.workspace) == whole
        begun, done = Counter[str](), Counter[str]()
        for pid, what, *_ in self.lines():
            (begun if what == "begun" else done)[pid] += 1
        finished = Counter(key for _, what, *rest in self.lines() if what == "done" for key in rest)
        in_flight = sum(begun[pid] - done[pid] for pid in begun)
        return self.number + 1, begun.total() - len(finished) * (self.number + 1), in_flight


@pytest.mark.parametrize("engine", ["threads", DASK], ids=["threads", "dask"])
def test_twenty_kills(tmp_path, engine):
    made = MadeSet(tmp_path / "made", PICTURES, size=(320, 240))
    run_once = Killed(made, tmp_path, "threads")
    run_once.number = 1000
    assert run_once.start().wait() == 0
    whole = final_set(run_once.workspace)
    run_once.counted.unlink()
    sets, twice, in_flight = Killed(made, tmp_path, engine).all(whole)
    assert twice <= in_flight
    print(
        f"\n{engine}: {KILLS} SIGKILLs in {sets} runs of {PICTURES} pictures: final sets equal byte for byte; painted "
        f"twice {twice}, in flight at the kills {in_flight}"
    )


@step(name="nothing")
def nothing(number: int) -> int:
    return number


def test_what_a_part_costs(tmp_path, prefect_server):
    from prefect import flow

    from tasks.cluster import dask_engine

    @flow(name="cluster")
    def on_a_cluster() -> tuple[float, float, float]:
        start = time.perf_counter()
        with dask_engine(EngineSettings.model_validate(DASK), tmp_path, tmp_path, Progress()) as engine:
            ready = time.perf_counter() - start
            part, start = _parts(engine), time.perf_counter()
        return ready, part, time.perf_counter() - start

    @flow(name="threads")
    def on_threads() -> float:
        return _parts(Engine())

    def _parts(engine: Engine, parts: int = 40) -> float:
        with working_on(engine):
            nothing.submit(0).result()
            start = time.perf_counter()
            futures = [nothing.submit(number) for number in range(parts)]
            engine.wait(futures)
            assert [one.result() for one in futures] == list(range(parts))
        return (time.perf_counter() - start) / parts

    part = on_threads()
    ready, dask_part, end = on_a_cluster()
    print(f"\na part that does nothing: threads {1000 * part:.0f} ms, dask {1000 * dask_part:.0f} ms", end="; ")
    print(f"two workers are ready after {ready:.1f} s, gone {end:.1f} s after the end")


@pytest.mark.parametrize(("name", "count", "more"), [("copy-paste", 200, {}), ("mini", 40, MINI)])
def test_engines_beside_a_bare_loop(tmp_path, prefect_server, name, count, more):
    made = MadeSet(tmp_path / "made", count, size=(1280, 720) if name == "copy-paste" else (256, 192), boxes=4)
    threads = run(tmp_path / "threads", made, **more)
    dask = run(tmp_path / "dask", made, engine=DASK, **more)
    assert final_set(tmp_path / "dask") == final_set(tmp_path / "threads")
    painter = None
    if more:
        from lib.core.registry import Member
        from lib.runs.parameters import check_parameters, resolve_parameters
        from lib.runs.workspace import Pins, recipe_of

        given = check_parameters({"dataset": made.dataset, **more})
        recipe = recipe_of(resolve_parameters(given, tmp_path / "threads"), Pins(tmp_path / "threads" / "models.lock"))
        assert isinstance(recipe.painter, Member)
        painter = PAINTERS.build(recipe.painter)
    loop = bare_loop(made, tmp_path / "threads", tmp_path / "loop", painter)
    print(
        f"\n{count} pictures, {name}: threads {threads:.1f} s, dask with two workers {dask:.1f} s, bare loop "
        f"{loop:.1f} s; ratios {threads / loop:.2f} and {dask / loop:.2f}; load {os.getloadavg()[0]:.0f} on "
        f"{os.cpu_count()} cores"
    )
