"""How fast the review page is with 10,000 pictures, in a real browser. Prints figures, asserts no times.

.venv/bin/pytest -m benchmark -s tests/benchmarks/test_review_speed.py
"""

from __future__ import annotations

import io
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from browser import Reviewer, browser, small_run
from PIL import Image

from lib.core.files import digest
from lib.core.keys import key_of
from lib.records.manifest import read_manifest, write_manifest
from lib.records.rows import PlanRow, ScreenRow
from lib.records.store import Store
from lib.review.serve import served
from lib.review.session import Session

pytestmark = pytest.mark.benchmark

PICTURES, KEYS = 10_000, 2_000


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small run's workspace whose screened rows are repeated, each with a picture of its own in the store."""
    root = small_run(tmp_path_factory.mktemp("large"), pictures=10, variants=1)
    screened = read_manifest(root / "manifests" / "screen.parquet", ScreenRow)
    plan = read_manifest(root / "manifests" / "plan.parquet", PlanRow)
    store, random = Store(root / "store"), np.random.default_rng(0)
    rows, requests = [], []
    for number in range(PICTURES):
        row = screened.iloc[number % len(screened)].to_dict()
        pixels = np.kron(random.integers(40, 220, (9, 12, 3), np.uint8), np.ones((60, 60, 1), np.uint8))
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "PNG", compress_level=1)
        key, picture = key_of("request", number), key_of("picture", number)
        store.put("picture", picture, buffer.getvalue())
        rows.append(
            row | {"key": key, "picture": picture, "sha256": digest(buffer.getvalue()), "name": f"{number}.png"}
        )
        requests.append(plan[plan.key == row["key"]].iloc[0].to_dict() | {"key": key})
    write_manifest(root / "manifests" / "screen.parquet", pd.DataFrame(rows), ScreenRow)
    write_manifest(root / "manifests" / "plan.parquet", pd.DataFrame(requests), PlanRow)
    return root


@pytest.fixture(scope="module")
def page(large: Path) -> Iterator[Reviewer]:
    began = time.perf_counter()
    session = Session([large], "ann")
    print(f"\n{PICTURES} pictures of 720 × 540: read by the server in {time.perf_counter() - began:.2f} s")
    with browser() as one, served(session, large) as link:
        context = one.new_context(viewport={"width": 1280, "height": 800})
        began = time.perf_counter()
        reviewer = Reviewer(context.new_page(), link)
        shown = time.perf_counter() - began
        reviewer.until("[...document.querySelectorAll('.cell img')].slice(0, 20).every(one => one.complete)")
        print(f"first page: {shown:.2f} s, with its thumbnails, made now, {time.perf_counter() - began:.2f} s")
        began = time.perf_counter()
        reviewer.open()
        reviewer.until("[...document.querySelectorAll('.cell img')].slice(0, 20).every(one => one.complete)")
        print(f"opened again: {time.perf_counter() - began:.2f} s")
        yield reviewer
        context.close()


NEXT = """async count => {
  const times = [];
  const frame = () => new Promise(resolve => requestAnimationFrame(resolve));
  for (let i = 0; i < count; i++) {
    const image = document.querySelector('#single .stage img');
    const began = performance.now();
    document.body.dispatchEvent(new KeyboardEvent('keydown', {key: i % 7 ? 'p' : 'x', bubbles: true}));
    let next = document.querySelector('#single .stage img');
    while (next === image || !next.complete) { await frame(); next = document.querySelector('#single .stage img'); }
    await frame();
    times.push(performance.now() - began);
    await new Promise(resolve => setTimeout(resolve, 60));
  }
  return times;
}"""


def heap(page: Any) -> float:
    """MB of the page's JavaScript after a collection, and its elements."""
    client = page.context.new_cdp_session(page)
    client.send("HeapProfiler.collectGarbage")
    used = float(client.send("Runtime.getHeapUsage")["usedSize"]) / 1e6
    client.detach()
    return used


def test_from_a_key_to_the_next_picture(page: Reviewer):
    page.press("Home", "Enter")
    page.page.wait_for_timeout(500)
    times: list[float] = []
    memory = [heap(page.page)]
    nodes = "document.querySelectorAll('*').length"
    elements = [page.page.evaluate(nodes)]
    for _ in range(4):
        times += page.page.evaluate(NEXT, KEYS // 4)
        memory.append(heap(page.page))
        elements.append(page.page.evaluate(nodes))
    middle, high = np.percentile(times, [50, 95])
    print(f"key to next picture, {len(times)} times: median {middle:.0f}, p95 {high:.0f}, most {max(times):.0f} ms")
    told = ", ".join(f"{one:.1f}" for one in memory)
    print(f"memory of the page after each {KEYS // 4}: {told} MB; elements {elements}")
    page.saved()
    assert f"{PICTURES - KEYS} without a decision" in page.progress()


def test_the_grid_scrolls(page: Reviewer):
    page.press("Escape")
    times = page.page.evaluate(
        """async () => { const box = document.getElementById('grid'), times = [];
        for (let i = 0; i < 200; i++) { const began = performance.now(); box.scrollTop += 900;
          await new Promise(resolve => requestAnimationFrame(() => requestAnimationFrame(resolve)));
          times.push(performance.now() - began); } return times; }"""
    )
    cells = page.page.locator(".cell").count()
    print(f"scrolling by a window: median {np.median(times):.0f} ms of two frames, {cells} cells of {PICTURES} exist")
    assert cells < 200


def test_a_reviewer_at_human_pace_loses_no_key(page: Reviewer, large: Path):
    """Looks 0.6 s at a picture, flips some, rejects a box of some, keeps or rejects, by real keys."""
    log = Session([large], "ann").runs[0].log
    before = log.version
    page.press("End", "Home", "j", "Enter")
    began, count = time.perf_counter(), 60
    for number in range(count):
        page.page.wait_for_timeout(600)
        if number % 10 == 3:
            page.press("f", "f")
        if number % 10 == 7:
            page.press("1", "r")
        page.press("x" if number % 4 == 0 else "p")
    took = time.perf_counter() - began
    page.saved()
    lines = [json.loads(line) for line in (large / "decisions.jsonl").read_text().splitlines()][before:]
    marks = [one for one in lines if one["changes"][0]["do"] == "picture"]
    boxes = [one for one in lines if one["changes"][0]["do"] == "box"]
    pace = 60 * count / took
    print(f"human pace: {pace:.0f} pictures a minute; {len(marks)} of {count} decisions kept, {len(boxes)} boxes")
    assert len(marks) == count and len(boxes) == 6
    assert len({one["changes"][0]["picture"] for one in marks}) == count
