"""How far generated pictures lie from real ones: KID and FID, with the floor to read them by.

    result = evaluate(Path("data/demo"), Path("generated"), extractor="pixels")
    print(summary(result))
    write_json(result, Path("metrics.json"))

A score means little by itself: real pictures score more than zero against other real pictures, the more the fewer they
are. So the floor comes with it: ten random halvings of the real set, and the score of the generated set at that size.
Features come from lib/features.py, distances from lib/distances.py.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lib import distances
from lib.errors import AugmentError
from lib.features import EXTRACTORS, Extractor
from lib.manifest import atomic_write

HALVINGS = 10
# What lib/images.py opens, by the names that such files bear.
SUFFIXES = frozenset(
    {".avif", ".bmp", ".dib", ".gif", ".jp2", ".jpeg", ".jpg", ".mpo", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
)

_FLOOR_SUBSETS = 10  # subsets of one KID in the floor, above 1000 pictures: with ten halvings, the usual 100 in all

Features = NDArray[np.float64]


def evaluate(
    real: Path | Sequence[Path],
    generated: Path | Sequence[Path],
    extractor: str | Extractor = "pixels",
    seed: int = 0,
    advance: Callable[[int], None] | None = None,
) -> dict[str, Any]:
    """Scores of a generated set against a real one; every picture is decoded once.

    real, generated: a folder, a COCO file (see `pictures_of`), or the pictures' paths. extractor: a name of EXTRACTORS,
    or an extractor. seed: of the floor's halvings and KID's subsets. advance: called with the number of pictures done.

    Returns `measure`'s values and `unreadable`: {"count": n, "pictures": [{"set", "picture", "reason", "detail"}]}.
    Raises AugmentError for fewer than two readable pictures on a side, or where the extractor's weights are missing.
    """
    chosen: Extractor = EXTRACTORS[extractor]() if isinstance(extractor, str) else extractor
    chosen.check()
    sets = {
        name: pictures_of(given) if isinstance(given, Path) else list(given)
        for name, given in (("real", real), ("generated", generated))
    }
    unreadable: list[dict[str, str]] = []
    features = {}
    for name, paths in sets.items():
        features[name] = chosen.extract(_read(name, paths, unreadable, advance))
        if len(features[name]) < 2:
            first = f"; first unreadable: {unreadable[0]}" if unreadable else ""
            raise AugmentError(
                f"{len(features[name])} readable of {len(paths)} {name} pictures: FID and KID take at least 2{first}"
            )
    scores = measure(features["real"], features["generated"], chosen, seed)
    return scores | {"unreadable": {"count": len(unreadable), "pictures": unreadable}}


def measure(real: Features, generated: Features, extractor: Extractor, seed: int = 0) -> dict[str, Any]:
    """Scores of features (N, D) real and (M, D) generated that `extractor` took; JSON-safe.

    fid, kid, n_real, n_generated, extractor (name), floor (see `floor_of`) or None with floor_reason, biased and note
    (too few pictures for FID), features (the extractor's identity), resize (its rule), dimensions, seed.
    Raises AugmentError as `fid` and `kid` do.
    """
    n_real, n_generated = len(real), len(generated)
    few = min(n_real, n_generated)
    m = min(n_generated, n_real // 2)
    biased = few <= extractor.DIMENSIONS
    result: dict[str, Any] = {
        "fid": distances.fid(real, generated),
        "kid": distances.kid(real, generated, seed=seed),
        "n_real": n_real,
        "n_generated": n_generated,
        "extractor": extractor.NAME,
        "floor": floor_of(real, generated, seed) if m >= 2 else None,
        "biased": biased,
    }
    if m < 2:
        result["floor_reason"] = f"{n_real} real pictures cannot be halved into two sets of at least 2"
    if biased:
        result["note"] = (
            f"{few} pictures for {extractor.DIMENSIONS} feature dimensions: FID is biased upwards; read KID first, and "
            "either only beside its floor at the same number of pictures"
        )
    return result | {
        "features": extractor.IDENTITY,
        "resize": extractor.RESIZE,
        "dimensions": extractor.DIMENSIONS,
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


def _read(
    name: str, paths: Sequence[Path], unreadable: list[dict[str, str]], advance: Callable[[int], None] | None
) -> Iterator[NDArray[np.uint8]]:
    """The pictures one by one; those that cannot be read are noted instead."""
    from lib.images import PictureError, load_rgb

    for path in paths:
        try:
            yield load_rgb(path, "upright")
        except PictureError as error:
            unreadable.append(
                {"set": name, "picture": path.as_posix(), "reason": error.reason, "detail": str(error.detail)}
            )
        if advance:
            advance(1)


def pictures_of(path: Path) -> list[Path]:
    """The pictures of a folder (with its subfolders, sorted) or of a COCO file (in its order).

    A COCO file's names are looked for beside it, then in `images` beside it. Hidden files are no pictures.
    Raises AugmentError for a path that is neither, a folder without pictures, a file without `images`, a name that
    leads out of the folder, and the first picture that is missing.
    """
    if path.is_dir():
        inside = [p for p in path.rglob("*") if not any(part.startswith(".") for part in p.relative_to(path).parts)]
        found = sorted(p for p in inside if p.suffix.lower() in SUFFIXES and p.is_file())
        if not found:
            raise AugmentError(f"no pictures in {path}: expected files ending in {', '.join(sorted(SUFFIXES))}")
        return found
    if path.is_file():
        return [_beside(path, name) for name in _coco_names(path)]
    raise AugmentError(f"{path} not found: expected a folder of pictures or a COCO file")


def _coco_names(path: Path) -> list[str]:
    try:
        images = json.loads(path.read_bytes())["images"]
        names = [image["file_name"] for image in images]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise AugmentError(
            f"{path} is no COCO file ({type(error).__name__}: {error}): expected an object with `images`, each with "
            "`file_name`; or give a folder of pictures"
        ) from None
    wrong = next((name for name in names if not isinstance(name, str)), None)
    if wrong is not None:
        raise AugmentError(f"{path} names a picture {wrong!r}: expected text")
    return names


def _beside(coco: Path, name: str) -> Path:
    parts = PurePosixPath(name).parts
    # By its parts and not by the resolved path: a link that the user laid to another disk is his own to follow.
    if not parts or parts[0] == "/" or ".." in parts or "\0" in name:
        raise AugmentError(f"{coco} names a picture {name!r}: expected a name inside {coco.parent}")
    for base in (coco.parent, coco.parent / "images"):
        if (base / name).is_file():
            return base / name
    raise AugmentError(f"{name} of {coco} found neither in {coco.parent} nor in its folder images: bring it there")


def summary(result: dict[str, Any]) -> str:
    """A few lines for a person: the scores, the floor beside them, and what to mind. KID first where FID is biased."""
    floor = result["floor"]
    beside = f" {'at ' + str(floor['m']):>12}   real against real at {floor['m']}" if floor else ""
    lines = [
        f"{result['n_real']} real, {result['n_generated']} generated pictures; features: {result['extractor']}",
        f"    {'score':>12}{beside}",
    ]
    for name in ("kid", "fid") if result["biased"] else ("fid", "kid"):
        at_m = f" {floor[name + '_at_m']:12.4g}   {_plus_minus(floor[name])}" if floor else ""
        lines.append(f"{name.upper():<4}{result[name]:12.4g}{at_m}")
    lines += [result[key] for key in ("note", "floor_reason") if key in result]
    if result.get("unreadable", {}).get("count"):
        first = result["unreadable"]["pictures"][0]
        lines.append(f"{result['unreadable']['count']} unreadable, the first {first['picture']}: {first['reason']}")
    return "\n".join(lines)


def _plus_minus(spread: dict[str, float]) -> str:
    return f"{spread['mean']:.4g} ± {spread['std']:.2g}"


def write_json(result: dict[str, Any], path: Path) -> None:
    """Write the result as JSON by rename; a number that JSON does not have (NaN, infinity) becomes null."""
    text = json.dumps(_json_safe(result), indent=2, ensure_ascii=False, allow_nan=False)
    atomic_write(path, text.encode() + b"\n")


def _json_safe(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _json_safe(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_json_safe(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
