"""Many pictures: memory and time of each stage, of a whole run, of one picture added, and of nothing changed.

    MILLION=10000,100000 .venv/bin/pytest -m benchmark -s tests/benchmarks/test_million.py
    MILLION=100000 MILLION_ENGINE=dask .venv/bin/pytest -m benchmark -s tests/benchmarks/test_million.py

Tiny pictures with seven boxes each, in one COCO file; a painter that fills a colour. Every run is a process of its own,
whose resident memory, and that of its largest worker, a thread looks at five times a second. Planning, painting and
screening go on beside each other, so on threads their seconds are those of their work, of all threads together; the
seconds until a stage was counted stand beside, and those of the processors. The wish: at most 1.5 GB beyond the
interpreter with its libraries, 15 % more from 100,000 to 1,000,000, and the same time for 10,000 rows within 20 %.
Asserts no figures.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image

pytestmark = [pytest.mark.benchmark, pytest.mark.timeout(100_000)]

SIZES = [int(size) for size in os.environ.get("MILLION", "10000,30000").split(",")]
WIDTH, HEIGHT, BOXES, FOLDER = 56, 40, 7, 1000  # pixels; boxes of a picture; pictures of a folder
SLICE = 10_000


def make_pictures(folder: Path, numbers: range) -> None:
    """PNGs that are all different: a few squares in colours made of the number."""
    for number in numbers:
        path = folder / name_of(number)
        if number % FOLDER == 0 or number == numbers.start:
            path.parent.mkdir(parents=True, exist_ok=True)
        random = np.random.default_rng(number)
        pixels = random.integers(0, 256, (HEIGHT // 8, WIDTH // 8, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
        Image.fromarray(pixels).save(path, compress_level=1)


def name_of(number: int) -> str:
    return f"{number // FOLDER:04d}/{number:07d}.png"


def make_annotations(path: Path, count: int) -> None:
    """A COCO file of `count` pictures, written record by record."""

    def notes() -> Iterator[str]:
        for number in range(count):
            for k in range(BOXES):
                box = [8 * k, 8 * ((number + k) % 5), 7, 7]
                yield json.dumps(
                    {
                        "id": number * BOXES + k + 1,
                        "image_id": number + 1,
                        "category_id": 1 + (number + k) % 20,
                        "bbox": box,
                        "area": 49,
                        "segmentation": [],
                        "iscrowd": 0,
                    }
                )

    with path.open("w") as file:
        file.write('{"info": {"year": 2026}, "licenses": [], "images": [')
        for number in range(count):
            record = {"id": number + 1, "file_name": name_of(number), "width": WIDTH, "height": HEIGHT}
            file.write(("" if number == 0 else ", ") + json.dumps(record))
        file.write('], "annotations": [')
        for position, text in enumerate(notes()):
            file.write(("" if position == 0 else ", ") + text)
        names = [{"id": i + 1, "name": f"c{i}"} for i in range(20)]
        file.write(f'], "categories": {json.dumps(names)}}}')


class Watch:
    """Resident memory of this process and of its largest worker, the most of each stage; and processors' seconds."""

    def __init__(self) -> None:
        self.stages, self.began = list[dict[str, float]](), time.perf_counter()
        self.process, self.used = psutil.Process(), dict[int, float]()
        self.peak, self.worker, self.before = 0, 0, 0.0
        threading.Thread(target=self._look, daemon=True).start()

    def _look(self) -> None:
        for look in itertools.count():
            if look % 25 == 0:  # to ask for all processes of a machine takes long
                children = self.process.children(recursive=True)
            for process in (self.process, *children):
                try:
                    memory, times = process.memory_info().rss, process.cpu_times()
                except psutil.NoSuchProcess:
                    continue
                self.used[process.pid] = times.user + times.system
                if process is self.process:
                    self.peak = max(self.peak, memory)
                else:
                    self.worker = max(self.worker, memory)
            time.sleep(0.2)

    def stage(self, name: str) -> None:
        """A stage has ended."""
        now, used = time.perf_counter(), sum(self.used.values())
        about = {"seconds": now - self.began, "processors": used - self.before}
        self.stages.append({"stage": name, **about, "peak": self.peak / 1e9, "worker": self.worker / 1e9})
        self.began, self.before, self.peak, self.worker = now, used, self.process.memory_info().rss, 0


PAINTER = contextlib.ExitStack()


def dask_setup(worker: object) -> None:
    """A worker knows the painter too: Dask calls this where the file is a worker's preload."""
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from lib.painting.painters import PAINTERS

    PAINTER.enter_context(PAINTERS.adding("plain", "plain_painters:Shades"))


def child(folder: Path, annotations: Path, workspace: Path) -> None:
    """One run; prints what was seen as a line of JSON."""
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from flows.augment import augment
    from lib.painting.painters import PAINTERS
    from tasks import jobs, stages
    from tasks.run import Work

    with PAINTERS.adding("plain", "plain_painters:Shades"):

        def run(annotations: Path, workspace: Path) -> None:
            state = augment(
                dataset={"images": folder / "images", "annotations": annotations},
                workspace=workspace,
                edit={"name": "replace", "max_boxes": 1},
                painter="plain",
                composite="paste",
                evaluate={"extractor": None},
                screen={"blank": 0, "black": 0},
                engine=os.environ.get("MILLION_ENGINE", "threads"),
                return_state=True,
            )
            assert state.is_completed(), state.message

        run(folder / "few.json", workspace.with_name(f"{workspace.name}-few"))  # libraries come in
        watch = Watch()
        base = watch.process.memory_info().rss
        parts: dict[str, int] = {}
        work: dict[str, float] = {}
        before_count, before_close = Work.count, stages.close_stage
        before_note = jobs.note_ref

        def note(ref, seconds):
            before_note(ref, seconds)
            work[ref.place.parent.name] = work.get(ref.place.parent.name, 0.0) + seconds

        def count(self, stage, *args, **more):
            before_count(self, stage, *args, **more)
            watch.stage(stage)

        def close_stage(run, stage, done, *more, **named):
            name = stage.work.name
            parts[name] = parts.get(name, 0) + sum(fresh for _, fresh in done)
            return before_close(run, stage, done, *more, **named)

        Work.count, stages.close_stage, jobs.note_ref = count, close_stage, note
        start = time.perf_counter()
        run(annotations, workspace)
        watch.stage("end")
        seconds = time.perf_counter() - start
    account = json.loads((workspace / "status.json").read_bytes())
    seen = {
        "base": base / 1e9,
        "seconds": seconds,
        "stages": [stage | {"work": work.get(str(stage["stage"]), 0.0)} for stage in watch.stages],
        "parts": parts,
        "painted": account["painted"],
        "final": account["stages"]["finalise"]["ok"],
    }
    print("SEEN " + json.dumps(seen), flush=True)


def seen(folder: Path, annotations: Path, workspace: Path, server: str) -> dict:
    """`child` in a process of its own."""
    command = [sys.executable, __file__, str(folder), str(annotations), str(workspace)]
    environment = {**os.environ, "PREFECT_API_URL": server, "PYTHONPATH": str(Path(__file__).parents[2])}
    environment["DASK_DISTRIBUTED__WORKER__PRELOAD"] = json.dumps([__file__])
    done = subprocess.run(command, cwd=Path(__file__).parents[2], env=environment, capture_output=True, text=True)
    lines = [line for line in done.stdout.splitlines() if line.startswith("SEEN ")]
    assert lines, done.stdout[-3000:] + done.stderr[-3000:]
    return json.loads(lines[0][5:])


def table(rows: int, found: dict) -> None:
    """What was seen, a line a stage."""
    base = found["base"]
    peak, worker = (max(stage[name] for stage in found["stages"]) - base for name in ("peak", "worker"))
    print(
        f"\n{rows:,} pictures: {found['seconds']:.1f} s, libraries {base:.2f} GB, peak beyond them {peak:.3f} GB",
        end="",
    )
    print(f", of a worker {worker:.3f} GB" if worker > 0 else "")
    for stage in found["stages"]:
        a_slice = {name: stage[name] / rows * SLICE for name in ("seconds", "processors", "work")}
        print(
            f"  {stage['stage']:9s} {stage['seconds']:8.2f} s; for {SLICE:,} rows {a_slice['seconds']:7.2f} s, "
            f"of processors {a_slice['processors']:7.2f} s, of work {a_slice['work']:7.2f} s; "
            f"peak {stage['peak'] - base:6.3f} GB" + (f", {stage['worker'] - base:6.3f} GB" if worker > 0 else "")
        )
    print(f"  parts that ran: {found['parts']}; painted {found['painted']:,}; final {found['final']:,}", flush=True)


def test_memory_and_time_by_stage(tmp_path: Path, prefect_server: str) -> None:
    folder = Path(os.environ.get("MILLION_FOLDER", tmp_path))
    make_annotations(folder / "few.json", 20)
    made = 0
    for rows in SIZES:
        most = rows + 1
        if not (folder / "images" / name_of(most - 1)).exists():
            make_pictures(folder / "images", range(made, most))
        made = most
        workspace, first, more = folder / f"ws-{rows}", folder / f"{rows}.json", folder / f"{rows}-and-one.json"
        make_annotations(first, rows)
        make_annotations(more, rows + 1)
        found = seen(folder, first, workspace, prefect_server)
        table(rows, found)
        again = seen(folder, first, workspace, prefect_server)
        print("nothing changed:", end="")
        table(rows, again)
        print(f"  {again['seconds'] / rows * 1000:.3f} ms a picture")
        added = seen(folder, more, workspace, prefect_server)
        print("one picture added:", end="")
        table(rows, added)
        assert added["painted"] == 1, "only the new picture is painted"


if __name__ == "__main__":
    child(*map(Path, sys.argv[1:4]))
