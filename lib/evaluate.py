"""How good generated pictures are: sets against sets, each picture against its source, and each by what is said of it.

    result = evaluate(Path("data/demo"), Path("generated"), extractor="pixels")
    result = evaluate(read_side(photos, annotations=csv), outputs, metrics=["background"])
    result = evaluate(Path("final"), Path("final"), metrics=["kid", "regions"])    # its originals, what was painted
    print(summary(result))
    write_json(result, Path("metrics.json"))

A score means little by itself: real pictures score more than zero against other real pictures, the more the fewer they
are. So the floor comes with it: ten random halvings of the real set, and the score of the generated set at that size.
What is compared: lib/sides.py; the one pass over it: lib/reading.py; features: lib/features.py; metrics: lib/metrics.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray

from lib.errors import AugmentError
from lib.features import Extractor, extractor_of
from lib.kept import conforms
from lib.manifest import atomic_write
from lib.metrics import METRICS, distances
from lib.metrics.fidelity import summary as summary_of_boxes
from lib.models import resolve
from lib.reading import Reading
from lib.settings import Choice
from lib.sides import Side, read_side, sources_of
from lib.store import Store

HALVINGS = 10
SETS = ("fid", "kid", "overlap", "twins")  # what is measured where nothing else is asked for

_FLOOR_SUBSETS = 10  # subsets of one KID in the floor, above 1000 pictures: with ten halvings, the usual 100 in all

Features = NDArray[np.float64]
Advance = Callable[[int], None]
Metrics = Sequence[tuple[str, Any]]  # (name, a metric of lib/metrics)


def evaluate(
    real: Path | Sequence[Path] | Side,
    generated: Path | Sequence[Path] | Side,
    extractor: str | Extractor = "pixels",
    seed: int = 0,
    advance: Advance | None = None,
    *,
    metrics: Sequence[str | Choice] = SETS,
    cache: Store | None = None,
) -> dict[str, Any]:
    """Scores of a generated set against a real one; every picture is decoded once.

    real, generated: a path (see lib.sides.read_side; of a set that holds both, real are the originals, generated the
    synthetic ones), the pictures' paths, or a side. extractor: by name, or one that is built. seed: of the
    floor's halvings, KID's subsets and bootstraps. advance: called with the number of pictures done. metrics: members
    of METRICS, by name or with settings. cache: keeps what was computed. A generated picture without labels has those
    of its source.

    Returns `measure`'s values where sets are measured, the means of the pairs' and groups' numbers, the numbers of
    pictures' metrics with what is more to tell under their names, and
      pairs       {"count": n, "pictures": [{"picture", "source", numbers}]}, where pairs are measured
      groups      {"count": n, "sources": [{"source", "pictures": n, numbers}]}, where groups are
      pictures    [{"set", "picture", numbers}], boxes [{"picture", "size", "box", "label", "said", "share"}] of the
                  generated; size: width and height that the box was drawn in, 0: not told
      failed      [{"picture", "reason"}]: where a metric had nothing to say
      n_real, n_generated: pictures that could be read
      unreadable  {"count": n, "pictures": [{"set", "picture", "reason", "detail"}]}
      left_out    {metric: why} of those that had nothing to work on
    Raises AugmentError where nothing at all can be measured (fewer than two readable pictures on a side for metrics of
    sets, no pictures of one name for those of pairs, no labels where a metric needs them), for an unknown metric, or
    where weights are missing.
    """
    sides = {"real": _side(real, "originals"), "generated": _side(generated, "synthetic")}
    _check_apart(sides["real"], sides["generated"])
    sources = sources_of(sides["real"], sides["generated"])
    members, left_out = _fit(built(metrics), sides, sources)
    kinds = {kind: [one for one in members if kind == one[1].OF] for kind in ("sets", "pairs", "groups", "pictures")}
    chosen: Extractor | None = None
    if kinds["sets"]:
        chosen = extractor_of(extractor) if isinstance(extractor, str) else extractor
        chosen.check()
    names = sides["generated"].names or sides["real"].names
    reading = Reading(
        chosen, kinds["pairs"], kinds["groups"], kinds["pictures"], names, sources, cache=cache, advance=advance
    )
    features = reading.run(sides["real"], sides["generated"])
    result: dict[str, Any] = {}
    if chosen is not None:
        if too_few := _too_few(features, sides, reading):
            if len(kinds["sets"]) == len(members):
                raise AugmentError(too_few)
            left_out |= {name: too_few for name, _ in kinds["sets"]}
        else:
            result |= measure(features["real"], features["generated"], chosen, seed, kinds["sets"])
    if kinds["pairs"]:
        result |= _means(reading.compared, ("picture", "source"))
        result["pairs"] = {"count": len(reading.compared), "pictures": reading.compared}
    if kinds["groups"]:
        result |= _means(reading.grouped, ("source", "pictures"))
        result["groups"] = {"count": len(reading.grouped), "sources": reading.grouped}
    for name, metric in kinds["pictures"]:
        result |= metric.of_all(reading.noted(name, "real"), reading.noted(name, "generated"), names, seed)
    if kinds["pictures"]:
        result |= {"pictures": reading.seen, "boxes": reading.boxes}
    unusable = Counter(row["set"] for row in reading.unreadable)
    result |= {f"n_{name}": len(side.entries) - unusable[name] for name, side in sides.items()}
    about = {name: text for _, metric in members for name, text in metric.ABOUT.items() if name in result}
    result["left_out"] = left_out | result.get("left_out", {})
    return result | {"about": about, "failed": reading.failed, "unreadable": reading.told_unreadable()}


def built(metrics: Sequence[str | Choice]) -> Metrics:
    """Metrics with their settings checked and their checkpoints pinned. Raises AugmentError for what is unknown."""
    found: list[tuple[str, Any]] = []
    for one in metrics:
        choice = Choice(name=one) if isinstance(one, str) else one
        if choice.name in (name for name, _ in found):
            raise AugmentError(
                f"metric {choice.name!r} is named twice: its numbers have one name, so ask one at a time"
            )
        settings = METRICS.settings(choice.name, choice.values)
        model = getattr(settings, "model", None)
        member = METRICS.member(choice.name, choice.values, resolve(model, {}) if model else None)
        found.append((choice.name, METRICS.build(member)))
    return found


def _side(given: Path | Sequence[Path] | Side, part: Any) -> Side:
    if isinstance(given, Side):
        return given
    return read_side(given, part) if isinstance(given, Path) else Side.of(given)


def _check_apart(real: Side, generated: Side) -> None:
    """A labelled set beside itself scores as if it were perfect: raises AugmentError."""
    paths = ([entry.path for entry in side.entries] for side in (real, generated))
    if real.labelled and real.file == generated.file and not real.says and next(paths) == next(paths):
        raise AugmentError(
            f"no picture of {real.file} says that it is synthetic (`source_image_id`), so that both sides would be the "
            "same pictures: give two sets"
        )


_LACKING = {
    "boxes": "asks what is in boxes: give a COCO file or a run's final folder, or the real pictures' --boxes",
    "captions": "asks what captions say: give a COCO file whose pictures have a field `caption`",
}


def _fit(metrics: Metrics, sides: Mapping[str, Side], sources: Mapping[int, int]) -> tuple[Metrics, dict[str, str]]:
    """Those that have something to work on, and why the others have not; raises AugmentError where none has."""
    entries = [entry for side in sides.values() for entry in side.entries]
    there = {
        "": True,
        "boxes": any(len(entry.labels.boxes) for entry in entries),
        "captions": any(entry.labels.caption for entry in entries),
    }
    some = (side.entries[0].name if side.entries else "none" for side in (sides["generated"], sides["real"]))
    apart = "no generated picture has the name of a real one (say {} and {}), and it compares them".format(*some)
    left_out = {}
    for name, metric in metrics:
        if metric.OF in ("pairs", "groups") and not sources:
            left_out[name] = apart
        elif metric.OF == "pictures" and not there[metric.NEEDS]:
            left_out[name] = f"none of the pictures has {metric.NEEDS}, and it {_LACKING[metric.NEEDS]}"
    if metrics and len(left_out) == len(metrics):
        raise AugmentError("; ".join(f"{name}: {why}" for name, why in left_out.items()))
    return [one for one in metrics if one[0] not in left_out], left_out


def _too_few(features: Mapping[str, Features], sides: Mapping[str, Side], reading: Reading) -> str:
    """Why metrics of sets cannot be had; "" where they can."""
    for name, rows in features.items():
        if len(rows) < 2:
            first = f"; first unreadable: {reading.unreadable[0]}" if reading.unreadable else ""
            count = len(sides[name].entries)
            return f"{len(rows)} readable of {count} {name} pictures: FID and KID take at least 2{first}"
    return ""


def _means(rows: Sequence[Mapping[str, Any]], others: Sequence[str]) -> dict[str, float]:
    """The mean of each number over the rows that have it."""
    names = dict.fromkeys(name for row in rows for name in row if name not in others)
    return {name: float(np.mean([row[name] for row in rows if name in row])) for name in names}


def measure(
    real: Features, generated: Features, extractor: Extractor, seed: int = 0, metrics: Metrics | None = None
) -> dict[str, Any]:
    """Scores of features (N, D) real and (M, D) generated that `extractor` took; JSON-safe.

    The metrics' own numbers (none given: those of SETS), n_real, n_generated, extractor (name), floor (see `floor_of`)
    or None with floor_reason (where neither FID nor KID is asked, None alone), biased and note (too few pictures for
    FID), features (the extractor's identity), resize (its rule), dimensions, seed, and left_out: {metric: why} for
    those that take more pictures than there are.
    Raises AugmentError as the metrics do.
    """
    n_real, n_generated = len(real), len(generated)
    few = min(n_real, n_generated)
    m = min(n_generated, n_real // 2)
    biased = few <= extractor.dimensions
    result: dict[str, Any] = {}
    left_out = {}
    for name, metric in built(SETS) if metrics is None else metrics:
        if few < metric.LEAST:
            left_out[name] = f"{few} pictures on a side, it takes {metric.LEAST}"
        else:
            result |= metric.of_sets(real, generated, seed)
    asked = result.keys() & {"fid", "kid"}
    result |= {
        "n_real": n_real,
        "n_generated": n_generated,
        "extractor": extractor.name,
        "floor": floor_of(real, generated, seed) if m >= 2 and asked else None,
        "biased": biased,
    }
    if left_out:
        result["left_out"] = left_out
    if m < 2 and asked:
        result["floor_reason"] = f"{n_real} real pictures cannot be halved into two sets of at least 2"
    if biased and "fid" in result:
        result["note"] = (
            f"{few} pictures for {extractor.dimensions} feature dimensions: FID is biased upwards; read KID first, and "
            "either only beside its floor at the same number of pictures"
        )
    return result | {
        "features": extractor.identity,
        "resize": extractor.RESIZE,
        "dimensions": extractor.dimensions,
        "seed": seed,
    }


def floor_of(real: Features, generated: Features, seed: int = 0) -> dict[str, Any]:
    """Real against real at m = min(n_generated, n_real // 2), and generated against real at the same m.

    m; halvings (10); fid and kid: {"mean", "std"} of m real against m other real pictures, over ten random halvings
    (std with n − 1); fid_at_m and kid_at_m: mean of m real against m generated ones, over as many draws.
    """
    m = min(len(generated), len(real) // 2)
    rng = np.random.default_rng(seed)
    floor: list[tuple[float, float]] = []
    at_m: list[tuple[float, float]] = []
    for _ in range(HALVINGS):
        order = rng.permutation(len(real))
        half, other_half = real[order[:m]], real[order[m : 2 * m]]
        drawn = generated[rng.permutation(len(generated))[:m]]
        floor.append(_both(half, other_half, seed))
        at_m.append(_both(half, drawn, seed))
    (fid, kid), (fid_at_m, kid_at_m) = zip(*floor, strict=True), zip(*at_m, strict=True)
    return {
        "m": m,
        "halvings": HALVINGS,
        "fid": _spread(fid),
        "kid": _spread(kid),
        "fid_at_m": float(np.mean(fid_at_m)),
        "kid_at_m": float(np.mean(kid_at_m)),
    }


def _both(x: Features, y: Features, seed: int) -> tuple[float, float]:
    return distances.fid(x, y), distances.kid(x, y, subsets=_FLOOR_SUBSETS, seed=seed)


def _spread(values: Sequence[float]) -> dict[str, float]:
    return {"mean": float(np.mean(values)), "std": float(np.std(values, ddof=1))}


def summary(result: Mapping[str, Any]) -> str:
    """A few lines for a person: the scores, the floor beside them, and what to mind. KID first where FID is biased."""
    lines = _of_sets(result) if "extractor" in result else []
    rows = [*result.get("pairs", {}).get("pictures", []), *result.get("groups", {}).get("sources", [])]
    if "pairs" in result:
        lines.append(f"{result['pairs']['count']} pictures beside their sources")
    if "groups" in result:
        lines.append(f"{result['groups']['count']} sources with several pictures made from each")
    for name in (name for name in result.get("about", {}) if any(name in row for row in rows)):
        own = [row[name] for row in rows if name in row]
        lines.append(f"{name:<16}{result[name]:10.4g}   {min(own):.4g} to {max(own):.4g}, of {len(own)}")
    lines += _of_pictures(result)
    lines += [f"{name} left out: {why}" for name, why in result.get("left_out", {}).items()]
    if failed := result.get("failed"):
        first = f"{Path(failed[0]['picture']).name}: {failed[0]['reason']}"
        lines.append(f"{len(failed)} times nothing to say, the first {first}")
    if result.get("unreadable", {}).get("count"):
        first = result["unreadable"]["pictures"][0]
        lines.append(f"{result['unreadable']['count']} unreadable, the first {first['picture']}: {first['reason']}")
    return "\n".join(lines).encode(errors="backslashreplace").decode()  # names of files may be no Unicode


def _of_pictures(result: Mapping[str, Any]) -> list[str]:
    """What metrics of single pictures came to."""
    names = ("copies", "copies_of_real", "clip_score", "clip_score_real", "layout_ap", "layout_ap_real")
    lines = [f"{name:<16}{result[name]:10.4g}" for name in names if name in result]
    if "regions" in result:
        lines.append(summary_of_boxes(result["regions"]))
    if unknown := result.get("layout", {}).get("not_known"):
        lines.append(f"the detector does not know {', '.join(unknown)}: left out of layout_ap")
    return lines


def _of_sets(result: Mapping[str, Any]) -> list[str]:
    floor = result["floor"]
    beside = f" {'at ' + str(floor['m']):>12}   real against real at {floor['m']}" if floor else ""
    lines = [f"{result['n_real']} real, {result['n_generated']} generated pictures; features: {result['extractor']}"]
    lines += [f"          {'score':>12}{beside}"] if result.keys() & {"fid", "kid"} else []
    for name in ("kid", "fid") if result["biased"] else ("fid", "kid"):
        if name in result:
            at_m = f" {floor[name + '_at_m']:12.4g}   {_plus_minus(floor[name])}" if floor else ""
            lines.append(f"{name.upper():<10}{result[name]:12.4g}{at_m}")
    if "kid_interval" in result:
        low, high = result["kid_interval"]
        lines.append(f"{'':10}{low:12.4g} to {high:.4g}: KID, 95 %")
    others = ("precision", "recall", "density", "coverage", "twins", "leaks")
    lines += [f"{name:<10}{result[name]:12.4g}" for name in others if name in result]
    return lines + [result[key] for key in ("note", "floor_reason") if key in result]


def _plus_minus(spread: dict[str, float]) -> str:
    return f"{spread['mean']:.4g} ± {spread['std']:.2g}"


class _Unreadable(TypedDict):
    count: int
    pictures: list[dict[str, str]]


class _Result(TypedDict):
    """What every result has; numbers stand beside it under the names of `about`."""

    about: dict[str, str]
    n_real: int
    n_generated: int
    left_out: dict[str, str]
    failed: list[dict[str, str]]
    unreadable: _Unreadable


def is_result(told: dict[str, Any]) -> bool:
    """Is that what `evaluate` returned, read back from JSON?"""
    return conforms(told, _Result) and all(
        conforms(told.get(name), float | list[float] | None) for name in told["about"]
    )


def write_json(result: dict[str, Any], path: Path) -> None:
    """Write the result as JSON by rename; a number that JSON does not have (NaN, infinity) becomes null."""
    text = json.dumps(json_safe(result), indent=2, ensure_ascii=False, allow_nan=False)
    # A name that is no Unicode has halves of characters: JSON's own \udcff, which reads as the same name.
    atomic_write(path, text.encode(errors="backslashreplace") + b"\n")


def json_safe(value: Any) -> Any:
    """The same with null for numbers that JSON does not have."""
    if isinstance(value, dict):
        return {key: json_safe(item) for key, item in value.items()}
    if isinstance(value, list):
        return [json_safe(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
