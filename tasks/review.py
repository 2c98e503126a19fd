"""review: what persons decided, on the page of `augment review` or by picking files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lib.records.manifest import Ref, read_manifest, write_manifest
from lib.records.requests import XYXY
from lib.records.rows import OK, ReviewRow, ScreenRow
from lib.records.settings import ReviewSettings
from lib.screening.decisions import NAME, DecisionLog
from lib.screening.labels import named
from lib.screening.review import review_pictures
from tasks.artifacts import show_counts
from tasks.engine import log, step
from tasks.ingest import Ingested
from tasks.inputs import boxes_of, judged_outcomes, outcomes_of
from tasks.run import Run
from tasks.stages import Staged


def review_images(run: Run, ingested: Ingested, plan: Staged, screened: Staged) -> Ref:
    """ReviewRows of the screened pictures."""
    run.progress.start("review", screened.manifest.rows)
    out = str(run.manifest("review"))
    ref, entries = pick_pictures(screened.manifest, plan.manifest, ingested, run.settings.review, out)
    run.progress.finish("review")
    run.count("review", ref, painted=0, reused=ref.rows, **entries)
    show_counts(run, "review")
    return ref


@step(name="review")
def pick_pictures(
    screened: Ref, plan: Ref, ingested: Ingested, settings: ReviewSettings, out: str
) -> tuple[Ref, dict[str, Any]]:
    """ReviewRows, and what the account says of them. Not cached: what was decided is known only from the log."""
    rows = read_manifest(screened.file, ScreenRow)
    rows = rows[rows.status == OK]
    decisions = DecisionLog(Path(out).parents[1] / NAME).refresh()
    if decisions.damaged:
        log().warning("%s: %d lines are no decisions, and are passed over", decisions.path, decisions.damaged)

    def labels_of(keys: Sequence[str]) -> dict[str, list[tuple[str, XYXY]]]:
        some = rows[rows.key.isin(set(keys))]
        boxes, planned = boxes_of(ingested.objects, some.image_key), dict(outcomes_of(plan, some.key))
        outcomes = judged_outcomes(planned, some, ingested.objects)
        return {key: [named(label, boxes) for label in outcome.labels] for key, outcome in outcomes.items()}

    reviewed, counts = review_pictures(rows, settings, decisions, labels_of, ingested.categories)
    if counts.strange:
        log().warning("%d picked names fit no picture of this run, such as %s", len(counts.strange), counts.strange[0])
    return write_manifest(Path(out), reviewed, ReviewRow), counts.entries()
