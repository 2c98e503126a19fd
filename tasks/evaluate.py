"""evaluate: how good are the generated pictures? In a run of its own, or at the end of one that painted them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
from prefect import task

from lib.evaluate import boxes_by_picture, evaluate, pictures_of, summary, write_json
from lib.features import EXTRACTORS
from lib.manifest import Ref, read_manifest
from lib.report import write_report
from lib.requests import canonical, key_of
from lib.schemas import OK, FinalRow, ImageRow, SelectRow
from lib.settings import CompareSettings
from lib.store import Store
from tasks.artifacts import show_text
from tasks.ingest import Ingested
from tasks.jobs import Staged, may_pass
from tasks.progress import Progress, advance, watch_workspace
from tasks.run import Run

VERSION = 2


def evaluate_pictures(run: Run, ingested: Ingested, selected: Staged, final: Ref) -> None:
    """report/metrics.json: selected sources against synthetic pictures; nothing where one side has under two."""
    extractor = run.settings.evaluate.extractor
    if extractor is None:
        return
    real, made = _sides(ingested.images, selected.manifest, final)
    run.progress.start("evaluate", len(real) + len(made))
    scores: dict[str, float] = {}
    if min(len(real), len(made)) < 2:
        show_text("metrics", f"Not measured: {len(real)} real and {len(made)} synthetic pictures, 2 of each needed.")
    else:
        key = key_of(VERSION, EXTRACTORS[extractor]().IDENTITY, sorted(real.digest), sorted(made.sha256))
        inputs = {"images": ingested.images, "selected": selected.manifest, "final": final}
        result = measure(str(run.root), str(run.sources), inputs, extractor, key)
        write_json(result, run.root / "report" / "metrics.json")
        show_text("metrics", "```\n" + summary(result) + "\n```")
        scores = {"kid": round(result["kid"], 6), "fid": round(result["fid"], 6)}
    run.progress.finish("evaluate")
    run.count("evaluate", made, painted=0, reused=len(made), **scores)


def _sides(images: Ref, selected: Ref, final: Ref) -> tuple[pd.DataFrame, pd.DataFrame]:
    """ImageRows of the selected sources and FinalRows of the synthetic pictures."""
    chosen = read_manifest(selected.file, SelectRow, ("key", "status"))
    sources, rows = read_manifest(images.file, ImageRow), read_manifest(final.file, FinalRow)
    real = sources[sources.key.isin(chosen.key[chosen.status == OK])]
    return real, rows[(rows.status == OK) & rows.key.str.startswith("synthetic:")]


@task(name="evaluate", persist_result=False)
def measure(workspace: str, sources: str, inputs: dict[str, Ref], extractor: str, key: str) -> dict[str, Any]:
    """Scores by key in the store; features are computed only where they are not there."""
    store = Store(Path(workspace) / "store")
    known = store.get("metrics", key)
    if known is not None:
        told: dict[str, Any] = json.loads(known)
        return told
    real, made = _sides(inputs["images"], inputs["selected"], inputs["final"])
    result = evaluate(
        [Path(sources) / path for path in real.path],
        [Path(workspace) / "final" / "images" / name for name in made.file_name],
        extractor,
        advance=lambda count: advance(workspace, "evaluate", count),
        cache=store,
    )
    store.put("metrics", key, canonical(result))
    return result


def compare_sets(settings: CompareSettings, root: Path, progress: Progress) -> dict[str, Any]:
    """Scores of two sets: report/metrics.json and report/index.html in the workspace, and in the UI.

    Raises AugmentError as lib/evaluate does.
    """
    total = len(pictures_of(settings.real)) + len(pictures_of(settings.generated))
    progress.start("evaluate", total)
    watch_workspace(str(root), progress)
    result = compare(str(root), settings)
    progress.finish("evaluate")
    write_json(result, root / "report" / "metrics.json")
    write_report({settings.generated.name: result}, root / "report" / "index.html")
    show_text("metrics", f"Report: `{root / 'report' / 'index.html'}`\n\n```\n{summary(result)}\n```")
    return result


@task(name="compare", persist_result=False, retries=2, retry_delay_seconds=5, retry_condition_fn=may_pass)
def compare(workspace: str, settings: CompareSettings) -> dict[str, Any]:
    """Not cached as a whole: it looks at every file, and computes what the store does not have of its content."""
    boxes = None
    if settings.boxes is not None:
        boxes = boxes_by_picture(settings.real, settings.boxes, settings.format)
    return evaluate(
        settings.real,
        settings.generated,
        settings.extractor,
        settings.seed,
        lambda count: advance(workspace, "evaluate", count),
        metrics=settings.metrics,
        boxes=boxes,
        cache=Store(Path(workspace) / "store"),
    )
