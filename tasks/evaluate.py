"""evaluate: how good are the generated pictures? In a separate run, or at the end of one that painted them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from lib.core.files import digest, file_digest
from lib.core.keys import key_of_texts
from lib.core.places import url_of
from lib.evaluation import report
from lib.evaluation.evaluate import built, evaluate
from lib.evaluation.features import extractor_of
from lib.evaluation.real import RealPictures
from lib.evaluation.results import Evaluation, summary, write_json
from lib.evaluation.sides import read_side
from lib.evaluation.verdict import too_few_pictures
from lib.records.manifest import Ref, read_batches
from lib.records.rows import OK, FinalRow
from lib.records.settings import CompareSettings, EvaluateSettings
from lib.records.store import Store
from lib.records.verified import keep_shown
from tasks.artifacts import only_shown, show_text, verdict_markdown
from tasks.engine import step
from tasks.ingest import Ingested
from tasks.jobs import may_pass
from tasks.progress import Progress, advance, begin, watch_workspace
from tasks.run import Run
from tasks.stages import Staged

VERSION = 4


def evaluate_pictures(run: Run, ingested: Ingested, selected: Staged, final: Ref) -> None:
    """report/: selected sources against synthetic pictures; nothing where one side has under two."""
    settings = run.settings.evaluate
    if settings.extractor is None:
        return
    split = run.settings.select.split
    inputs = {"images": ingested.images, "objects": ingested.objects, "selected": selected.manifest, "final": final}
    real, made, more = _digests(inputs, split)
    run.progress.start("evaluate", sum(min(len(some), settings.limit) for some in (real, made)))
    scores: dict[str, float] = {}
    if min(len(real), len(made)) < 2:
        verdict = too_few_pictures(len(real), len(made))
        show_text("metrics", f"Not measured: {verdict.sentence}")
    else:
        metrics = [[name, metric.VERSION, metric.settings, metric.identity] for name, metric in built(settings.metrics)]
        labels = [ingested.objects.sha256, file_digest(run.root / "final" / "annotations.json")]
        sample = [settings.limit] if max(len(real), len(made)) > settings.limit else []
        about = (VERSION, extractor_of(settings.extractor).identity, metrics, labels, *sample)
        key = key_of_texts(*about, texts=map(_texts, (real, made, more)))
        # Of a bucket the final set lies on this machine alone, and the report names files of it.
        work = evaluate_final.with_options(model=False) if url_of(run.root) or url_of(run.sources) else evaluate_final
        result = work(str(run.root), str(run.sources), inputs, settings, split, key)
        _report(result, run.root, run.name, run.account.get("target"))
        scores, verdict = _account(result), result.verdict
    run.save(verdict=verdict.model_dump())
    run.progress.finish("evaluate")
    run.count("evaluate", _made(final), painted=0, reused=len(made), **scores)


def _account(result: Evaluation) -> dict[str, float]:
    """The numbers that stand in a run's account; those that mislead with few pictures come last."""
    kept = {
        name: value for name, (number, value) in result.known.items() if number.account and isinstance(value, float)
    }
    return {name: round(kept[name], 6) for name in sorted(kept, key=lambda name: result.known[name][0].biased)}


def _real(inputs: dict[str, Ref], split: str) -> RealPictures:
    images, objects, selected = (inputs[name] for name in ("images", "objects", "selected"))
    return RealPictures(images.file, objects.file, selected.file, split, objects.rows)


def _made(final: Ref) -> Iterator[pd.DataFrame]:
    """Columns status, reason and sha256 of the FinalRows of the synthetic pictures, some at a time."""
    for rows in read_batches(final.file, FinalRow, ("key", "status", "reason", "sha256")):
        yield rows[(rows.status == OK) & rows.key.str.startswith("synthetic:")]


def _digests(inputs: dict[str, Ref], split: str) -> tuple[NDArray[np.bytes_], ...]:
    """Of the files of the selected sources, of the synthetic pictures, and of what else the split has; sorted."""
    none = np.zeros(0, np.bytes_)
    real, made, more = [none], [none], [none]
    for pair in _real(inputs, split).tables(("digest",)):
        for found, rows in zip((real, more), pair, strict=True):
            found.append(rows["digest"].to_numpy().astype(np.bytes_))
    made += [rows.sha256.to_numpy(object).astype(np.bytes_) for rows in _made(inputs["final"])]
    return tuple(np.sort(np.concatenate(some)) for some in (real, made, more))


def _texts(digests: NDArray[np.bytes_]) -> Iterator[str]:
    return (one.decode() for one in digests)


@step(name="evaluate", model=True)
def evaluate_final(
    workspace: str, sources: str, inputs: dict[str, Ref], settings: EvaluateSettings, split: str, key: str
) -> Evaluation:
    """Scores by key in the store; of a picture only what the store lacks is computed."""
    store = Store(Path(workspace) / "store")
    known = kept_scores(store, key)
    if known is not None:
        return known
    folder, root, real = Path(workspace) / "parts", Path(sources), _real(inputs, split)
    result = evaluate(
        real.side(root, folder),
        read_side(Path(workspace) / "final", "synthetic", folder=folder),
        settings.extractor or "pixels",
        advance=lambda count: advance(workspace, "evaluate", count),
        metrics=settings.metrics,
        cache=store,
        more=real.side(root, folder, others=True),
        limit=settings.limit,
        folder=folder,
    )
    store.put("metrics", key, json.dumps(result.document(), separators=(",", ":")).encode())  # in its order
    return result


def kept_scores(store: Store, key: str) -> Evaluation | None:
    """The stored result; None where there is none, or it is of another version."""
    try:
        return Evaluation.parse(json.loads(store.get("metrics", key) or b"null"))
    except (ValueError, RecursionError):
        return None


def _report(result: Evaluation, root: Path, name: str, target: Mapping[str, Any] | None = None) -> None:
    """report/metrics.json and report/index.html in the workspace, and in the UI.

    The page, for which pictures are decoded, is drawn again where the numbers are others, or where it was damaged.
    """
    page, numbers = root / "report" / "index.html", root / "report" / "metrics.json"
    if not _holds(numbers, result):
        write_json(result.document(), numbers)
    shown = ["page", report.VERSION, name, result.document(), *([target] if target else [])]
    key = digest(json.dumps(shown, sort_keys=True).encode())
    targets = {name: target} if target else {}
    with only_shown(f"{page}"):
        keep_shown(page, Store(root / "store"), key, lambda: report.report_page({name: result}, targets=targets))
    with only_shown("metrics in the UI"):
        show_text("metrics", f"{verdict_markdown(result.verdict)}\n\nReport: `{page}`\n\n```\n{summary(result)}\n```")


def _holds(numbers: Path, result: Evaluation) -> bool:
    try:
        kept: Any = json.loads(numbers.read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    return bool(kept == result.document())


def compare_sets(settings: CompareSettings, root: Path, progress: Progress) -> Evaluation:
    """Scores of two sets: report/metrics.json and report/index.html in the workspace, and in the UI.

    Raises AugmentError as lib/evaluation/evaluate does.
    """
    watch_workspace(str(root), progress)
    result = compare(str(root), settings)
    progress.finish("evaluate")
    _report(result, root, settings.generated.name)
    return result


@step(name="compare", retries=2, retry_delay_seconds=5, retry_condition_fn=may_pass)
def compare(workspace: str, settings: CompareSettings) -> Evaluation:
    """Not cached as a whole: it looks at every file, and computes what the store does not have of its content."""
    real = read_side(settings.real, "originals", settings.boxes, settings.format)
    generated = read_side(settings.generated, "synthetic")
    begin(workspace, "evaluate", sum(min(len(side.entries), settings.limit) for side in (real, generated)))
    return evaluate(
        real,
        generated,
        settings.extractor,
        settings.seed,
        lambda count: advance(workspace, "evaluate", count),
        metrics=settings.metrics,
        cache=Store(Path(workspace) / "store"),
        limit=settings.limit,
    )
