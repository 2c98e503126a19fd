"""review: what a person picked."""

from __future__ import annotations

from pathlib import Path

from lib.records.manifest import Ref, read_manifest, write_manifest
from lib.records.rows import OK, ReviewRow, ScreenRow
from lib.records.settings import ReviewSettings
from lib.screening.review import review_pictures
from tasks.artifacts import show_counts
from tasks.engine import log, step
from tasks.jobs import Staged
from tasks.run import Run


def review_images(run: Run, screened: Staged) -> Ref:
    """ReviewRows of the screened pictures."""
    run.progress.start("review", screened.manifest.rows)
    ref, strange = pick_pictures(screened.manifest, run.settings.review, str(run.manifest("review")))
    run.progress.finish("review")
    rows = read_manifest(ref.file, ReviewRow)
    run.count(
        "review", rows, painted=0, reused=len(rows), **({"picked names that fit nothing": strange} if strange else {})
    )
    show_counts(run, "review")
    return ref


@step(name="review")
def pick_pictures(screened: Ref, settings: ReviewSettings, out: str) -> tuple[Ref, int]:
    """Match picked names; how many fit no picture. Not cached: what was picked is known only from the folder."""
    rows = read_manifest(screened.file, ScreenRow)
    picked, strange = review_pictures(rows[rows.status == OK], settings)
    if strange:
        log().warning("%d picked names fit no picture of this run, such as %s", len(strange), strange[0])
    return write_manifest(Path(out), picked, ReviewRow), len(strange)
