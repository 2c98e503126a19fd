"""evaluate: do the synthetic pictures look like the real ones? FID and KID with their floor."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
from prefect import task

from lib.evaluate import evaluate, summary, write_json
from lib.features import EXTRACTORS
from lib.manifest import Ref, read_manifest
from lib.requests import canonical, key_of
from lib.schemas import OK, FinalRow, ImageRow, SelectRow
from lib.store import Store
from tasks.artifacts import show_text
from tasks.ingest import Ingested
from tasks.jobs import Staged
from tasks.progress import advance
from tasks.run import Run

VERSION = 1


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
    )
    store.put("metrics", key, canonical(result))
    return result
