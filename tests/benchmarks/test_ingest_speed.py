"""How long ingest takes: annotations of COCO-2017's size against pycocotools, and a rerun on unchanged pictures.

pytest -m benchmark -s tests/benchmarks/test_ingest_speed.py
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.compute as pc
import pytest
from PIL import Image

from lib.datasets.formats import read_dataset
from lib.datasets.ingest import check_pictures
from lib.datasets.select import OBJECT_COLUMNS, select_pictures
from lib.records.manifest import read_table, write_manifest
from lib.records.rows import OK, ImageRow, ObjectRow, SelectRow
from lib.records.settings import DatasetSettings, SelectSettings

pytestmark = [pytest.mark.benchmark, pytest.mark.timeout(900)]

IMAGES, OBJECTS, POINTS = 118_000, 860_000, 20
ROUNDS = 3

_IMAGE = (
    '{"license": 4,"file_name": "%012d.jpg","coco_url": "http://images.cocodataset.org/train2017/%012d.jpg",'
    '"height": 480,"width": 640,"date_captured": "2013-11-14 11:18:45",'
    '"flickr_url": "http://farm9.staticflickr.com/8186/%012d_z.jpg","id": %d}'
)
_OBJECT = (
    '{"segmentation": [[' + ",".join(["%.2f"] * 2 * POINTS) + ']],"area": %.4f,"iscrowd": 0,"image_id": %d,'
    '"bbox": [%.2f,%.2f,%.2f,%.2f],"category_id": %d,"id": %d}'
)

_END = """
print(json.dumps({"seconds": time.perf_counter() - start, "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss}))
"""
_OURS = """
import json, resource, sys, time
from pathlib import Path
from lib.datasets.formats import coco, read_dataset
from lib.records.manifest import write_manifest
from lib.records.rows import ImageRow, ObjectRow
from lib.records.settings import DatasetSettings
path = Path(sys.argv[1])
start = time.perf_counter()
dataset = read_dataset(DatasetSettings(images=path.parent, annotations=path))
write_manifest(path.parent / "images.parquet", dataset.images, ImageRow)
write_manifest(path.parent / "objects.parquet", dataset.objects, ObjectRow)
"""
_THEIRS = """
import contextlib, io, json, resource, sys, time
from pycocotools.coco import COCO
start = time.perf_counter()
with contextlib.redirect_stdout(io.StringIO()):
    COCO(sys.argv[1])
"""


def make_file(path: Path) -> None:
    """A COCO file of train2017's size, always the same: outlines of 20 points around random centres."""
    rng = np.random.default_rng(0)
    angles = np.linspace(0, 2 * np.pi, POINTS, endpoint=False)
    with path.open("w") as file:
        file.write('{"info": {"year": 2017},"licenses": [],"images": [')
        file.write(", ".join(_IMAGE % (i, i, i, i) for i in range(1, IMAGES + 1)))
        file.write('],"annotations": [')
        for start in range(0, OBJECTS, 20_000):
            rows = _objects(rng, angles, start, min(20_000, OBJECTS - start))
            file.write((", " if start else "") + ", ".join(_OBJECT % tuple(row) for row in rows))
        names = ", ".join(f'{{"supercategory": "thing","id": {i},"name": "c{i}"}}' for i in range(1, 91))
        file.write(f'],"categories": [{names}]}}')


def _objects(rng: np.random.Generator, angles: np.ndarray, start: int, n: int) -> list[list[float]]:
    centre = rng.uniform([100, 100], [540, 380], (n, 2))
    radius = rng.uniform(5, 100, (n, 1)) * rng.uniform(0.6, 1, (n, POINTS))
    turn = np.stack([np.cos(angles), np.sin(angles)], axis=-1)
    points = centre[:, None] + radius[:, :, None] * turn  # (n, points, 2) pixels
    low, size = points.min(axis=1), np.ptp(points, axis=1)
    area, image = size.prod(axis=1, keepdims=True) * 0.7, rng.integers(1, IMAGES + 1, (n, 1))
    category, id = rng.integers(1, 91, (n, 1)), np.arange(start, start + n)[:, None] + 100_000
    return np.concatenate([points.reshape(n, -1), area, image, low, size, category, id], axis=1).tolist()


def timed(code: str, path: Path) -> dict[str, float]:
    """Seconds and peak memory, kB, of code in a process of its own."""
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", code + _END, str(path)]
    done = subprocess.run(command, cwd=root, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def timed_selection(folder: Path, settings: dict[str, object]) -> tuple[float, int]:
    """Seconds to read both manifests, select and write, as the stage does, and pictures selected."""
    start = time.perf_counter()
    images = read_table(folder / "images.parquet", ImageRow)
    objects = read_table(folder / "objects.parquet", ObjectRow, OBJECT_COLUMNS)
    rows = select_pictures(images, objects, SelectSettings.model_validate(settings), seed=0, limit=None)
    write_manifest(folder / "select.parquet", rows, SelectRow)
    return time.perf_counter() - start, pc.sum(pc.equal(rows["status"], OK)).as_py()


def test_annotations_of_coco_2017_size(tmp_path: Path) -> None:
    path = tmp_path / "instances.json"
    make_file(path)
    runs = [(timed(_OURS, path), timed(_THEIRS, path)) for _ in range(ROUNDS)]
    print(f"\n{IMAGES:,} pictures, {OBJECTS:,} boxes, {path.stat().st_size / 1e6:.0f} MB of JSON")
    for ours, theirs in runs:
        print(
            f"ingest {ours['seconds']:.2f} s, {ours['peak'] / 1e6:.2f} GB; "
            f"pycocotools {theirs['seconds']:.2f} s, {theirs['peak'] / 1e6:.2f} GB; "
            f"ratio {theirs['seconds'] / ours['seconds']:.2f}"
        )
    for settings in ({}, {"max_objects": 6, "max_categories": 1, "max_per_category": 500, "min_box": 16}):
        seconds, chosen = timed_selection(tmp_path, settings)
        print(f"select {settings or 'with defaults'}: {seconds:.2f} s, {chosen:,} pictures (wanted: under 1 s)")
    ratios = [theirs["seconds"] / ours["seconds"] for ours, theirs in runs]
    print(f"median ratio {np.median(ratios):.2f} (wanted: 3 or more)")


def test_a_rerun_on_10000_unchanged_pictures(tmp_path: Path) -> None:
    n, folder = 10_000, tmp_path / "images"
    folder.mkdir()
    for i in range(n):
        Image.new("RGB", (64, 64), (i % 256, i // 256, 0)).save(folder / f"{i}.jpg")
    images = [{"id": i, "file_name": f"{i}.jpg", "width": 64, "height": 64} for i in range(n)]
    (tmp_path / "a.json").write_text(json.dumps({"images": images, "annotations": [], "categories": []}))
    rows = read_dataset(DatasetSettings(images=folder, annotations=tmp_path / "a.json")).images.to_pandas()
    first, known = _check(rows, folder, None)
    again, second = _check(rows, folder, known)
    start = time.perf_counter()
    for name in rows["path"]:
        (folder / name).stat()
    stats = time.perf_counter() - start
    pd.testing.assert_frame_equal(known, second)
    print(f"\n{n:,} pictures: first {first:.2f} s, again {again:.2f} s, their stats alone {stats:.2f} s")


def _check(rows: pd.DataFrame, folder: Path, known: pd.DataFrame | None) -> tuple[float, pd.DataFrame]:
    start = time.perf_counter()
    checked = check_pictures(rows, folder, 10_000_000, known)
    return time.perf_counter() - start, checked
