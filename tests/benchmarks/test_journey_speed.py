"""Figures of the journey: what orchestration costs, and what a rerun with nothing to do costs. Asserts no times.

.venv/bin/pytest -m benchmark -s tests/benchmarks/test_journey_speed.py
"""

import json
import os
import resource
import time
from pathlib import Path

import pytest
from conftest import MadeSet

from lib.core.files import atomic_write
from lib.core.images import inspect, source_loader
from lib.painting.generate import generate_pictures
from lib.painting.painters import PAINTERS
from lib.records.manifest import to_table
from lib.records.requests import Request
from lib.records.rows import PlanRow
from lib.records.settings import ScreenSettings
from lib.records.store import Store
from lib.screening.pictures import measure_pictures

pytestmark = [pytest.mark.benchmark, pytest.mark.timeout(3000)]


def run(workspace: Path, made: MadeSet, **parameters) -> float:
    """Seconds of one run of the flow on a running server."""
    from flows.augment import augment

    start = time.perf_counter()
    state = augment(
        dataset=made.dataset, workspace=workspace, evaluate={"extractor": None}, **parameters, return_state=True
    )
    assert state.is_completed(), state.message
    return time.perf_counter() - start


def bare_loop(made: MadeSet, workspace: Path, folder: Path) -> float:
    """Seconds for the same work without Prefect: check, paint, screen, draw, write, one picture after the other.

    The plan is taken from the flow's run: planning is not what is compared.
    """
    from lib.core.files import file_digest
    from lib.records.manifest import read_manifest
    from lib.records.parts import part_count
    from lib.records.rows import PictureRow
    from tasks.inputs import Boxes, boxes_of

    plan = read_manifest(workspace / "manifests" / "plan.parquet", PlanRow)
    plan = plan[plan.status == "ok"]
    objects = workspace / "manifests" / "objects.parquet"
    parts = part_count(len(made.coco["images"]))
    boxes = boxes_of(Boxes(path=str(objects), rows=0, sha256=file_digest(objects), parts=parts), plan.image_key)
    painter = PAINTERS.build(PAINTERS.member("copy-paste", {}))
    names = {str(i["id"]): i["file_name"] for i in made.coco["images"]}
    store = Store(folder / "store")
    start = time.perf_counter()
    infos = {key: inspect(made.images / name, 10**8) for key, name in names.items()}
    load = source_loader({infos[key].digest: str(made.images / name) for key, name in names.items()})
    sources = {key: (info.digest, "upright") for key, info in infos.items()}
    rows = generate_pictures(plan, painter, load, store)
    pictures = to_table(rows, PictureRow).to_pandas()
    measure_pictures(pictures, sources, ScreenSettings(), load, store)
    from lib.screening.draw import draw_pictures

    requests = {key: Request.model_validate_json(data) for key, data in zip(plan.key, plan.request, strict=True)}
    draw_pictures(pictures, requests, boxes, store, folder / "drawn")
    for row in rows:
        atomic_write(folder / "final" / row.name, store.get("picture", row.picture) or b"")
    for name in names.values():
        atomic_write(folder / "final" / name, (made.images / name).read_bytes())
    return time.perf_counter() - start


def test_orchestration_of_a_200_picture_run(tmp_path, prefect_server):
    made = MadeSet(tmp_path / "made", 200, size=(1280, 720), boxes=4)
    flow = run(tmp_path / "ws", made)
    loop = bare_loop(made, tmp_path / "ws", tmp_path / "loop")
    again = run(tmp_path / "ws", made)
    print(f"\n200 pictures of 1280x720, copy-paste: flow {flow:.1f} s, bare loop {loop:.1f} s, ratio {flow / loop:.2f}")
    print(f"rerun with nothing to do: {again:.1f} s")


def test_a_rerun_with_nothing_to_do_on_10000_pictures(tmp_path, prefect_server):
    made = MadeSet(tmp_path / "made", 10_000, size=(96, 72), boxes=2)
    first = run(tmp_path / "ws", made)
    again = run(tmp_path / "ws", made)
    account = json.loads((tmp_path / "ws" / "status.json").read_bytes())
    assert account["painted"] == 0 and account["stages"]["caption"]["painted"] == 0
    start = time.perf_counter()
    size = sum(entry.stat().st_size for entry in os.scandir(made.images))
    walk = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"\n10,000 pictures, first run {first:.1f} s; rerun {again:.1f} s = {again / 10:.3f} ms a picture, ", end="")
    print(f"a plain directory walk {walk / 10:.4f} ms a picture ({size / 2**20:.0f} MiB); peak {peak:.2f} GiB")
