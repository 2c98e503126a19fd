"""review: what persons decided, on the page of `augment review` or by picking files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from lib.records.manifest import Ref, read_batches, to_table, write_batches
from lib.records.requests import XYXY
from lib.records.rows import OK, ReviewRow, ScreenRow
from lib.records.settings import ReviewSettings
from lib.screening.decisions import NAME, DecisionLog
from lib.screening.labels import named
from lib.screening.review import Review
from tasks.artifacts import show_counts
from tasks.engine import log, step
from tasks.ingest import Ingested
from tasks.inputs import boxes_of, judged_outcomes, outcomes_in_turn
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
    decisions = DecisionLog(Path(out).parents[1] / NAME).refresh()
    if decisions.damaged:
        log().warning("%s: %d lines are no decisions, and are passed over", decisions.path, decisions.damaged)
    outcomes = outcomes_in_turn(plan)

    def labels_of(rows: pd.DataFrame, keys: Sequence[str]) -> dict[str, list[tuple[str, XYXY]]]:
        some = rows[rows.key.isin(set(keys))]
        boxes = boxes_of(ingested.objects, some.image_key)
        judged = judged_outcomes(outcomes(some.key), some, ingested.objects)
        return {key: [named(label, boxes) for label in outcome.labels] for key, outcome in judged.items()}

    pictures = (picture for rows in _passed(screened, ("status", "picture")) for picture in rows.picture)
    review = Review(settings, decisions, ingested.categories, pictures, Path(out).parent)
    reviewed = (review.rows(rows, partial(labels_of, rows)) for rows in _passed(screened))
    ref = write_batches(Path(out), (to_table(rows, ReviewRow) for rows in reviewed), ReviewRow)
    counts = review.counts()
    if counts.strange:
        log().warning("%d picked names fit no picture of this run, such as %s", len(counts.strange), counts.strange[0])
    return ref, counts.entries()


def _passed(screened: Ref, columns: Sequence[str] | None = None) -> Iterator[pd.DataFrame]:
    """The ScreenRows that are ok, some at a time."""
    for rows in read_batches(screened.file, ScreenRow, columns):
        yield rows[rows.status == OK]
