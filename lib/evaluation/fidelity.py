"""Layout fidelity: does each box show what its label says? Judged beside real boxes.

    judge = make_judge(resolve("mini:clip", {}))      # of lib/judges: a CLIP, or a classifier of real boxes
    result = fidelity(Path("data/runs/mine/final"), judge)
    print(summary(result))
    write_json(result.document(), Path("fidelity.json"))     # of results.py

A final set holds both sides: the originals' boxes, and those of the synthetic pictures that are marked `painted`. How a
box is judged: lib/evaluation/metrics/regions.py; the arithmetic: lib/evaluation/metrics/fidelity.py.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

from lib.core.errors import AugmentError
from lib.core.geometry import CONTEXT, MIN_SIDE
from lib.evaluation.metrics.regions import RegionDetails, Regions
from lib.evaluation.reading import Reading
from lib.evaluation.results import UnreadablePictures
from lib.evaluation.sides import Side, read_side
from lib.judges import Judge

Advance = Callable[[int, int], None]  # (pictures done, of how many)


class DataSetFidelity(RegionDetails):
    unreadable: UnreadablePictures

    def document(self) -> dict[str, Any]:
        """As `augment fidelity --json` writes it."""
        return self.model_dump()


def fidelity(
    data: Path,
    scorer: Judge,
    real: Path | None = None,
    seed: int = 0,
    min_side: float = MIN_SIDE,
    context: float = CONTEXT,
    advance: Advance | None = None,
) -> DataSetFidelity:
    """Judge the boxes of a COCO data set; every picture is decoded once, its boxes are one batch.

    data: a COCO file, or a folder with annotations.json; its pictures beside it or in `images` beside it. Where it has
    no synthetic pictures (those with `source_image_id`) it is the generated side as a whole if `real` is given, else
    the real one. real: another set whose originals are the real side, in place of those of `data`; categories are
    matched by name. seed: of the bootstrap. min_side: pixels; context: share of a box's longer side.

    `skipped` of the result counts what is too small, crowds, what was kept as it was (`not_painted`), pictures that
    cannot be read, and what the reader of COCO sets aside. Raises AugmentError for no COCO data set, fewer than two
    categories, no box to judge, or where the judge cannot be loaded.
    """
    made, originals = _read(data, "synthetic"), _read(real or data, "originals")
    if len(made.names) < 2:
        raise AugmentError(
            f"{data} has {len(made.names)} categories ({', '.join(made.names) or 'none'}): expected at least 2 for the "
            "judge to choose from"
        )
    notes = []
    if not made.has_synthetic:
        wanted = "all of the set are judged as generated" if real else "all are judged as real; give --real to compare"
        notes.append(f"no picture says that it is synthetic: {wanted}")
        made = made if real else Side((), made.file, made.names)
    metric = Regions(Regions.Settings(min_side=min_side, context=context), scorer)
    total, done = len(originals.entries) + len(made.entries), count(1)
    reading = Reading(
        pictures=[("regions", metric)],
        names=made.names,
        advance=(lambda _: advance(next(done), total)) if advance else None,
    )
    reading.run(originals, made)
    details = metric.details(reading.noted("regions", "real"), reading.noted("regions", "generated"), made.names, seed)
    if not details.n_real + details.n_generated:
        why = ", ".join(f"{reason} {n}" for reasons in details.skipped.values() for reason, n in reasons.items())
        raise AugmentError(f"{data} has no box to judge (set aside: {why or 'none'}): expected labelled pictures")
    return DataSetFidelity(
        **dict(details) | {"notes": notes + details.notes},
        unreadable=UnreadablePictures.of(reading.unreadable),
    )


def _read(path: Path, part: Any) -> Side:
    file = path / "annotations.json" if path.is_dir() else path
    if not file.is_file():
        raise AugmentError(f"{file} not found: expected a COCO file, or a folder with annotations.json and pictures")
    return read_side(file, part).boxed()


def summary(result: DataSetFidelity) -> str:
    """A table for a person: the shares of hits, fidelity with its interval, categories and sizes, and the notes."""
    return "\n".join([*Regions.summary(result), *result.unreadable.summary()])
