"""How good generated pictures are: sets against sets, each picture against its source and its labels.

    result = evaluate(Path("data/demo"), Path("generated"), extractor="pixels")
    result = evaluate(read_side(photos, annotations=csv), outputs, metrics=["background"])
    result = evaluate(Path("final"), Path("final"), metrics=["kid", "regions"])    # its originals, what was painted
    print(summary(result))                                      # of results.py
    write_json(result.document(), Path("metrics.json"))

A score means little by itself: real pictures score more than zero against other real pictures, the more the fewer they
are. So the floor comes with it: ten random halvings of the real set, and the score of the generated set at that size.
What is compared: sides.py; the one pass over it: reading.py; features: features.py; metrics: lib/evaluation/metrics.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lib.core.errors import AugmentError
from lib.evaluation.boxes import box_figures
from lib.evaluation.features import Extractor, extractor_of
from lib.evaluation.matching import sources_of
from lib.evaluation.metrics import KINDS, METRICS, numbers_of
from lib.evaluation.metrics.sets import floor_of
from lib.evaluation.reading import Reading
from lib.evaluation.results import Evaluation, FeatureSets, GroupRow, PairRow, Row, UnreadablePictures
from lib.evaluation.sample import sampled
from lib.evaluation.sides import Side, read_side
from lib.records.settings import SETS, Choice
from lib.records.store import Store

Features = NDArray[np.float64]
Advance = Callable[[int], None]
Metrics = Sequence[tuple[str, Any]]  # (name, a metric of lib/evaluation/metrics)


def evaluate(
    real: Path | Sequence[Path] | Side,
    generated: Path | Sequence[Path] | Side,
    extractor: str | Extractor = "pixels",
    seed: int = 0,
    advance: Advance | None = None,
    *,
    metrics: Sequence[str | Choice] = SETS,
    cache: Store | None = None,
    more: Side | None = None,
    limit: int | None = None,
    folder: Path | None = None,
) -> Evaluation:
    """Scores of a generated set against a real one; every picture is decoded once.

    real, generated: a path (see lib.evaluation.sides.read_side; of a set that holds both, real are the originals,
    generated the synthetic), the pictures' paths, or a side. extractor: by name, or one that is built. seed: of the
    floor's halvings, KID's subsets and bootstraps. advance: called with the number of pictures done. metrics: members
    of METRICS, by name or with settings. cache: keeps what was computed. more: other real pictures, to learn from.
    limit: of each side so many pictures at most are measured, see sample.py; none: all. folder: for what is noted of
    pictures meanwhile, which may be more than memory should hold; none: in memory. A generated picture without labels
    has those of its source.

    Its `numbers` are the metrics' own of sets and of all pictures, and the means of those of pairs and groups.
    Raises AugmentError where nothing at all can be measured (fewer than two readable pictures on a side for metrics of
    sets, no pictures of one name for those of pairs, no labels where a metric needs them), for an unknown metric, or
    where weights are missing.
    """
    whole = {"real": _side(real, "originals"), "generated": _side(generated, "synthetic")}
    _check_apart(whole["real"], whole["generated"])
    some = sampled(whole["real"], whole["generated"], limit, folder) if limit else tuple(whole.values())
    sides = dict(zip(whole, some, strict=True))
    sources = sources_of(sides["real"], sides["generated"])
    members, left_out = _fit(built(metrics), sides, sources)
    kinds = {kind: [one for one in members if kind == one[1].OF] for kind in KINDS}
    chosen: Extractor | None = None
    if kinds["sets"]:
        chosen = extractor_of(extractor) if isinstance(extractor, str) else extractor
        chosen.check()
    names = sides["generated"].names or sides["real"].names
    reading = Reading(
        chosen,
        kinds["pairs"],
        kinds["groups"],
        kinds["pictures"],
        names,
        sources,
        cache=cache,
        advance=advance,
        folder=folder,
    )
    features = reading.run(sides["real"], sides["generated"], more)
    found: dict[str, Any] = {}
    scores: Evaluation | None = None
    if chosen is not None:
        if too_few := _too_few(features, sides, reading):
            if len(kinds["sets"]) == len(members):
                raise AugmentError(too_few)
            left_out |= {name: too_few for name, _ in kinds["sets"]}
        else:
            scores = score_sets(features["real"], features["generated"], chosen, seed, kinds["sets"])
            left_out |= scores.left_out
            found |= scores.numbers
    found |= _means(reading.compared, PairRow) | _means(reading.grouped, GroupRow)
    for name, metric in kinds["pictures"]:
        found |= metric.of_all(reading.noted(name, "real"), reading.noted(name, "generated"), names, seed)
    parts = {
        "features": scores.features if scores else None,
        "pairs": {"count": len(reading.compared), "pictures": reading.compared} if kinds["pairs"] else None,
        "groups": {"count": len(reading.grouped), "sources": reading.grouped} if kinds["groups"] else None,
        "pictures": reading.singles if kinds["pictures"] else None,
        "boxes": reading.boxes if kinds["pictures"] else None,
        "labels": box_figures([whole["real"], *([more] if more else [])], whole["generated"]),
        "sampled_from": {name: len(side.entries) for name, side in whole.items()}
        if sides["real"] is not whole["real"]
        else None,
        "failed": reading.failed,
        "unreadable": UnreadablePictures.of(reading.unreadable),
    }
    unusable = Counter(row["set"] for row in reading.unreadable)
    counts = {f"n_{name}": len(side.entries) - unusable[name] for name, side in sides.items()}
    return _result(found, members, parts | counts | {"left_out": left_out})


def _result(found: Mapping[str, Any], members: Metrics, parts: Mapping[str, Any]) -> Evaluation:
    """The result of what metrics found: numbers by name, and details by metric."""
    known = numbers_of([name for name, _ in members])
    detailed = [(name, metric.MORE) for name, metric in members if metric.MORE is not None and name in found]
    details = {name: more.model_validate(found[name]) for name, more in detailed}
    numbers = {name: found[name] for name in known if name in found}
    about = {name: known[name][1].about for name in numbers}
    return Evaluation.model_validate({"numbers": numbers, "about": about, "details": details, **parts})


def look_up_results(
    real: Side,
    generated: Side,
    extractor: str,
    metrics: Sequence[str | Choice],
    cache: Store,
    more: Side | None = None,
    limit: int | None = None,
) -> None:
    """Look up in a cache all that `evaluate` would look up of pictures, and compute nothing that it does not have.

    Raises AugmentError for an unknown metric or extractor, and where a model is not available.
    """
    real, generated = sampled(real, generated, limit) if limit else (real, generated)
    sides, sources = {"real": real, "generated": generated}, sources_of(real, generated)
    members, _ = _fit(built(metrics), sides, sources)
    kinds = {kind: [(name, _Idle(one)) for name, one in members if kind == one.OF] for kind in KINDS}
    chosen: Any = _Idle(extractor_of(extractor)) if kinds["sets"] else None
    names = generated.names or real.names
    Reading(chosen, kinds["pairs"], kinds["groups"], kinds["pictures"], names, sources, cache=cache).run(
        real, generated, more
    )


class _Idle:
    """A metric or an extractor that computes nothing."""

    def __init__(self, member: Any) -> None:
        self._member = member

    def __getattr__(self, name: str) -> Any:
        return getattr(self._member, name)

    def extract(self, pictures: Iterable[Any]) -> Features:
        return np.zeros((sum(1 for _ in pictures), self._member.dimensions))

    def of_picture(self, picture: Any) -> dict[str, Any]:
        raise ValueError("nothing is computed")

    of_pair = of_group = of_picture


def built(metrics: Sequence[str | Choice]) -> Metrics:
    """Metrics with their settings checked and their checkpoints pinned. Raises AugmentError for an unknown one."""
    found: list[tuple[str, Any]] = []
    for one in metrics:
        choice = Choice(name=one) if isinstance(one, str) else one
        if choice.name in (name for name, _ in found):
            raise AugmentError(
                f"metric {choice.name!r} is named twice: its numbers have one name, so ask one at a time"
            )
        found.append((choice.name, METRICS.build(METRICS.choose(choice.name, choice.values))))
    return found


def _side(given: Path | Sequence[Path] | Side, part: Any) -> Side:
    if isinstance(given, Side):
        return given
    return read_side(given, part) if isinstance(given, Path) else Side.of(given)


def _check_apart(real: Side, generated: Side) -> None:
    """A labelled set beside itself scores as if it were perfect: raises AugmentError."""
    paths = ([entry.path for entry in side.entries] for side in (real, generated))
    if real.labelled and real.file == generated.file and not real.has_synthetic and next(paths) == next(paths):
        raise AugmentError(
            f"no picture of {real.file} says that it is synthetic (`source_image_id`), so that both sides would be the "
            "same pictures: give two sets"
        )


_LACKING = {
    "boxes": "asks what is in boxes: give a COCO file or a run's final folder, or the real pictures' --boxes",
    "captions": "asks what captions say: give a COCO file whose pictures have a field `caption`",
}


def _fit(metrics: Metrics, sides: Mapping[str, Side], sources: Mapping[int, int]) -> tuple[Metrics, dict[str, str]]:
    """Metrics whose input the sides have, and why the others are left out; raises AugmentError where all are."""
    some = (side.entries[0].name if side.entries else "none" for side in (sides["generated"], sides["real"]))
    apart = "no generated picture has the name of a real one (say {} and {}), and it compares them".format(*some)
    left_out = {}
    for name, metric in metrics:
        if metric.OF in ("pairs", "groups") and not sources:
            left_out[name] = apart
        elif metric.OF == "pictures" and not any(_has(side, metric.NEEDS) for side in sides.values()):
            left_out[name] = f"none of the pictures has {metric.NEEDS}, and it {_LACKING[metric.NEEDS]}"
    if metrics and len(left_out) == len(metrics):
        raise AugmentError("; ".join(f"{name}: {why}" for name, why in left_out.items()))
    return [one for one in metrics if one[0] not in left_out], left_out


def _has(side: Side, needs: str) -> bool:
    """Has any of its pictures what a metric needs?"""
    if needs == "boxes":
        return any(len(entry.labels.boxes) for entry in side.entries)
    return not needs or any(entry.labels.caption for entry in side.entries)


def _too_few(features: Mapping[str, Features], sides: Mapping[str, Side], reading: Reading) -> str:
    """Why metrics of sets cannot be computed; "" where they can."""
    for name, rows in features.items():
        if len(rows) < 2:
            first = f"; first unreadable: {reading.unreadable[0]}" if reading.unreadable else ""
            count = len(sides[name].entries)
            return f"{len(rows)} readable of {count} {name} pictures: FID and KID take at least 2{first}"
    return ""


def _means(rows: Sequence[Mapping[str, Any]], kind: type[Row]) -> dict[str, float]:
    """The mean of each number over the rows that have it."""
    names = dict.fromkeys(name for row in rows for name in row if name not in kind.model_fields)
    return {name: float(np.mean([row[name] for row in rows if name in row])) for name in names}


def score_sets(
    real: Features, generated: Features, extractor: Extractor, seed: int = 0, metrics: Metrics | None = None
) -> Evaluation:
    """Metrics of sets (none given: those of SETS) of features (N, D) real and (M, D) generated that `extractor` took.

    With the floor, where a metric that has one is among them; metrics that take more pictures are left out.
    Raises AugmentError as the metrics do.
    """
    few, m = min(len(real), len(generated)), min(len(generated), len(real) // 2)
    found: dict[str, Any] = {}
    left_out, warnings = {}, []
    chosen = built(SETS) if metrics is None else metrics
    biased = few <= extractor.dimensions
    for name, metric in chosen:
        if few < metric.least:
            left_out[name] = f"{few} pictures on a side, it takes {metric.least}"
            continue
        found |= metric.of_sets(real, generated, seed)
        warnings += [metric.warning(few, extractor.dimensions)] if biased else []
    has_floor = any(number.floor and name in found for name, (_, number) in numbers_of([n for n, _ in chosen]).items())
    features = FeatureSets(
        extractor=extractor.name,
        floor=floor_of(real, generated, seed) if m >= 2 and has_floor else None,
        biased=biased,
        floor_reason=f"{len(real)} real pictures cannot be halved into two sets of at least 2"
        if m < 2 and has_floor
        else None,
        note="; ".join(filter(None, warnings)) or None,
        features=extractor.identity,
        resize=extractor.RESIZE,
        dimensions=extractor.dimensions,
        seed=seed,
    )
    counts = {"n_real": len(real), "n_generated": len(generated)}
    return _result(found, chosen, {**counts, "features": features, "left_out": left_out})
