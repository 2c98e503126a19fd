"""How good generated pictures are: sets against sets, and each picture against its source, in one pass.

    result = evaluate(Path("data/demo"), Path("generated"), extractor="pixels")
    result = evaluate(sources, outputs, metrics=["background"], boxes=boxes_by_picture(sources, annotations))
    print(summary(result))
    write_json(result, Path("metrics.json"))

A score means little by itself: real pictures score more than zero against other real pictures, the more the fewer they
are. So the floor comes with it: ten random halvings of the real set, and the score of the generated set at that size.
Every picture is read and decoded once, and with a cache what was computed of it is kept by its content: features by
extractor, numbers of pairs by metric. Features come from lib/features.py, metrics from lib/metrics.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lib.errors import AugmentError
from lib.features import EXTRACTORS, Extractor
from lib.geometry import xywh_to_xyxy
from lib.images import PictureError, load_rgb
from lib.manifest import atomic_write, digest
from lib.metrics import METRICS, Pair, distances
from lib.registry import Member
from lib.requests import canonical, key_of
from lib.schemas import OK
from lib.settings import Choice, DatasetSettings
from lib.store import Store

HALVINGS = 10
SETS = ("fid", "kid", "overlap", "twins")  # what is measured where nothing else is asked for
# What lib/images.py opens, by the names that such files bear.
SUFFIXES = frozenset(
    {".avif", ".bmp", ".dib", ".gif", ".jp2", ".jpeg", ".jpg", ".mpo", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
)

_FLOOR_SUBSETS = 10  # subsets of one KID in the floor, above 1000 pictures: with ten halvings, the usual 100 in all

Features = NDArray[np.float64]
Boxes = Mapping[Path, np.ndarray]  # picture → (N, 4) float64 xyxy pixels
Advance = Callable[[int], None]


def evaluate(
    real: Path | Sequence[Path],
    generated: Path | Sequence[Path],
    extractor: str | Extractor = "pixels",
    seed: int = 0,
    advance: Advance | None = None,
    *,
    metrics: Sequence[str | Choice] = SETS,
    sources: Mapping[Path, Path] | None = None,
    boxes: Boxes | None = None,
    cache: Store | None = None,
) -> dict[str, Any]:
    """Scores of a generated set against a real one; every picture is decoded once.

    real, generated: a folder, a COCO file (see `pictures_of`), or the pictures' paths. extractor: a name of EXTRACTORS,
    or an extractor. seed: of the floor's halvings and KID's subsets. advance: called with the number of pictures done.
    metrics: members of METRICS, by name or with settings. sources: for metrics of pairs, generated picture → the real
    one that it was made from; none: of the same name in the real folder. boxes: by real picture. cache: keeps what was
    computed.

    Returns `measure`'s values where sets are measured, the means of the pairs' numbers where pairs are, and
      pairs       {"count": n, "pictures": [{"picture", "source", numbers}], "failed": [{"picture", "reason"}]}
      unreadable  {"count": n, "pictures": [{"set", "picture", "reason", "detail"}]}
    Raises AugmentError for fewer than two readable pictures on a side where sets are measured, no pair where pairs are,
    an unknown metric, or where the extractor's weights are missing.
    """
    members = [_member(chosen) for chosen in metrics]
    of_sets = [member for member in members if METRICS[member.name].OF == "sets"]
    of_pairs = [member for member in members if METRICS[member.name].OF == "pairs"]
    chosen: Extractor | None = None
    if of_sets:
        chosen = EXTRACTORS[extractor]() if isinstance(extractor, str) else extractor
        chosen.check()
    sets = {
        name: pictures_of(given) if isinstance(given, Path) else list(given)
        for name, given in (("real", real), ("generated", generated))
    }
    made_from = sources
    if made_from is None:
        made_from = _same_names(real, generated, sets) if of_pairs else {}
    if of_pairs and not made_from:
        raise AugmentError(
            f"no generated picture has the name of a real one (say {_some(sets['generated'])} and "
            f"{_some(sets['real'])}): {', '.join(m.name for m in of_pairs)} compare each with its source"
        )
    reading = _Reading(chosen, of_pairs, made_from, boxes or {}, cache, advance)
    features = reading.run(sets["real"], sets["generated"])
    result: dict[str, Any] = {}
    if chosen is not None:
        for name, rows in features.items():
            if len(rows) < 2:
                first = f"; first unreadable: {reading.unreadable[0]}" if reading.unreadable else ""
                raise AugmentError(
                    f"{len(rows)} readable of {len(sets[name])} {name} pictures: FID and KID take at least 2{first}"
                )
        result |= measure(features["real"], features["generated"], chosen, seed, of_sets)
    if of_pairs:
        result |= _means(reading.pairs) | {
            "pairs": {"count": len(reading.pairs), "pictures": reading.pairs, "failed": reading.failed}
        }
    about = {name: text for member in members for name, text in METRICS[member.name].ABOUT.items() if name in result}
    return result | {
        "about": about,
        "unreadable": {"count": len(reading.unreadable), "pictures": reading.unreadable},
    }


def _member(chosen: str | Choice) -> Member:
    choice = Choice(name=chosen) if isinstance(chosen, str) else chosen
    return METRICS.member(choice.name, choice.values)


def _some(paths: Sequence[Path]) -> str:
    return paths[0].name if paths else "none"


def _same_names(real: Any, generated: Any, sets: Mapping[str, Sequence[Path]]) -> dict[Path, Path]:
    """Generated picture → the real one of its name: its path under the folder, else its name alone without suffix."""
    if isinstance(real, Path) and isinstance(generated, Path) and real.is_dir() and generated.is_dir():
        by_path = {path.relative_to(real): path for path in sets["real"]}
        found = {path: by_path.get(path.relative_to(generated)) for path in sets["generated"]}
    else:
        found = dict.fromkeys(sets["generated"])
    by_stem = {path.stem: path for path in sets["real"]}
    named = {path: source or by_stem.get(path.stem) for path, source in found.items()}
    return {path: source for path, source in named.items() if source is not None}


def boxes_by_picture(pictures: Path, annotations: Path, format: str | None = None) -> dict[Path, np.ndarray]:
    """Boxes of each picture of a folder, as an annotation file of any format tells them, xyxy pixels.

    format: one of FORMATS; none: loco for a CSV, else coco. Raises AugmentError for what cannot be read.
    """
    from lib.formats import read_dataset

    name = format or ("loco" if annotations.suffix.lower() == ".csv" else "coco")
    told = read_dataset(DatasetSettings(images=pictures, annotations=annotations, format=name))
    images, objects = told.images.to_pandas(), told.objects.to_pandas()
    usable = objects[objects.status == OK].groupby("image_key")
    found = {}
    for row in images.itertuples():
        own = usable.get_group(row.key)[list("xywh")].to_numpy() if row.key in usable.groups else np.zeros((0, 4))
        found[pictures / row.path] = xywh_to_xyxy(own)
    return found


@dataclass
class _Reading:
    """The one pass over the pictures: features of all, numbers of pairs, from the cache where it has them."""

    extractor: Extractor | None
    metrics: Sequence[Member]  # of pairs
    sources: Mapping[Path, Path]
    boxes: Boxes
    cache: Store | None
    advance: Advance | None
    unreadable: list[dict[str, str]] = field(default_factory=list)
    pairs: list[dict[str, Any]] = field(default_factory=list)
    failed: list[dict[str, str]] = field(default_factory=list)

    def run(self, real: Sequence[Path], generated: Sequence[Path]) -> dict[str, Features]:
        """Features (N, D) of both sides, rows of readable pictures in their order; empty without an extractor."""
        self.built = [(member, METRICS.build(member)) for member in self.metrics]
        self.rows: dict[tuple[str, Path], Features | None] = {}
        self.waiting: list[tuple[str, Path, str]] = []  # what the extractor gets, in its order
        missing = self._missing(real, generated)
        if self.extractor is None:
            for _ in missing:
                pass
            return {}
        told = self.extractor.extract(missing)
        for (side, path, sha), row in zip(self.waiting, told, strict=True):
            self._note(side, path, sha, row)
        width = self.extractor.DIMENSIONS
        sides = {"real": real, "generated": generated}
        found = {side: [self.rows.get((side, path)) for path in paths] for side, paths in sides.items()}
        kept = {side: [row for row in rows if row is not None] for side, rows in found.items()}
        return {side: np.stack(rows) if rows else np.zeros((0, width)) for side, rows in kept.items()}

    def _note(self, side: str, path: Path, sha: str, row: Features) -> None:
        if not np.isfinite(row).all():
            self._bad(side, path, "features_not_finite", "the extractor gave NaN or infinity")
            return
        self.rows[side, path] = row
        if self.cache is not None:
            self.cache.put("feature", self._feature_key(sha), np.asarray(row, np.float64).tobytes())

    def _missing(self, real: Sequence[Path], generated: Sequence[Path]) -> Iterator[NDArray[np.uint8]]:
        """Pictures that the extractor has to see; on the way, the numbers of pairs."""
        made: dict[Path, list[Path]] = {}
        for path in generated:
            made.setdefault(self.sources.get(path, Path()), []).append(path)
        for path in real:
            source = _Picture.read(path, self)
            yield from self._seen("real", source)
            for output in made.get(path, ()):
                yield from self._output(output, source)
        for output in (p for source, paths in made.items() if source not in set(real) for p in paths):
            yield from self._output(output, None)

    def _output(self, path: Path, source: _Picture | None) -> Iterator[NDArray[np.uint8]]:
        output = _Picture.read(path, self)
        if source is not None:
            self._compare(source, output)
        yield from self._seen("generated", output)

    def _seen(self, side: str, picture: _Picture) -> Iterator[NDArray[np.uint8]]:
        """The picture, where its features are not known."""
        if self.advance:
            self.advance(1)
        if picture.fault is not None:
            self._bad(side, picture.path, *picture.fault)
            return
        if self.extractor is None:
            return
        known = self.cache.get("feature", self._feature_key(picture.sha)) if self.cache else None
        if known is not None:
            self.rows[side, picture.path] = np.frombuffer(known, np.float64)
            return
        try:
            pixels = picture.pixels()
        except PictureError as error:
            self._bad(side, picture.path, error.reason, str(error.detail))
            return
        self.waiting.append((side, picture.path, picture.sha))
        yield pixels

    def _compare(self, source: _Picture, output: _Picture) -> None:
        if source.fault is not None or output.fault is not None or not self.built:
            return
        boxes = np.asarray(self.boxes.get(source.path, np.zeros((0, 4))), dtype=np.float64).reshape(-1, 4)
        numbers: dict[str, float] = {}
        for member, metric in self.built:
            key = key_of("pair", member.identity(), source.sha, output.sha, boxes.tolist())
            known = self.cache.get("pair", key) if self.cache else None
            if known is not None:
                numbers |= json.loads(known)
                continue
            try:
                told = metric.of_pair(_pair(source, output, boxes))
            except (ValueError, PictureError) as error:
                self.failed.append({"picture": output.path.as_posix(), "reason": f"{member.name}: {error}"})
                continue
            numbers |= told
            if self.cache is not None:
                self.cache.put("pair", key, canonical(told))
        if numbers:
            self.pairs.append({"picture": output.path.as_posix(), "source": source.path.as_posix(), **numbers})

    def _feature_key(self, sha: str) -> str:
        assert self.extractor is not None
        return key_of("feature", self.extractor.IDENTITY, sha)

    def _bad(self, side: str, path: Path, reason: str, detail: str) -> None:
        self.unreadable.append({"set": side, "picture": path.as_posix(), "reason": reason, "detail": detail})


@dataclass
class _Picture:
    """A file, read once, and decoded once where that is needed."""

    path: Path
    sha: str
    data: bytes
    fault: tuple[str, str] | None = None
    decoded: NDArray[np.uint8] | None = None

    @classmethod
    def read(cls, path: Path, reading: _Reading) -> _Picture:
        try:
            data = path.read_bytes()
        except OSError as error:
            return cls(path, "", b"", ("image_missing", f"{path.name}: {error.strerror}"))
        return cls(path, digest(data), data) if data else cls(path, "", b"", ("image_empty", "0 bytes"))

    def pixels(self) -> NDArray[np.uint8]:
        """uint8 (H, W, 3) RGB, upright. Raises PictureError."""
        if self.decoded is None:
            self.decoded = load_rgb(self.data, "upright")
            self.data = b""
        return self.decoded


def _pair(source: _Picture, output: _Picture, boxes: np.ndarray) -> Pair:
    before, after = source.pixels(), output.pixels()
    if before.shape != after.shape:
        sizes = (f"{shape[1]}×{shape[0]}" for shape in (after.shape, before.shape))
        raise ValueError("{} pixels, its source {}: pictures of one size expected".format(*sizes))
    return Pair(before, after, boxes)


def _means(pairs: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The mean of each number over the pictures that have it."""
    names = dict.fromkeys(name for pair in pairs for name in pair if name not in ("picture", "source"))
    return {name: float(np.mean([pair[name] for pair in pairs if name in pair])) for name in names}


def measure(
    real: Features, generated: Features, extractor: Extractor, seed: int = 0, metrics: Sequence[Member] | None = None
) -> dict[str, Any]:
    """Scores of features (N, D) real and (M, D) generated that `extractor` took; JSON-safe.

    The metrics' own numbers (none given: those of SETS), n_real, n_generated, extractor (name), floor (see `floor_of`)
    or None with floor_reason, biased and note (too few pictures for FID), features (the extractor's identity), resize
    (its rule), dimensions, seed, and left_out: {metric: why} for those that take more pictures than there are.
    Raises AugmentError as the metrics do.
    """
    n_real, n_generated = len(real), len(generated)
    few = min(n_real, n_generated)
    m = min(n_generated, n_real // 2)
    biased = few <= extractor.DIMENSIONS
    result: dict[str, Any] = {}
    left_out = {}
    for member in [_member(name) for name in SETS] if metrics is None else metrics:
        metric = METRICS.build(member)
        if few < metric.LEAST:
            left_out[member.name] = f"{few} pictures on a side, it takes {metric.LEAST}"
        else:
            result |= metric.of_sets(real, generated, seed)
    result |= {
        "n_real": n_real,
        "n_generated": n_generated,
        "extractor": extractor.NAME,
        "floor": floor_of(real, generated, seed) if m >= 2 else None,
        "biased": biased,
    }
    if left_out:
        result["left_out"] = left_out
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


def summary(result: Mapping[str, Any]) -> str:
    """A few lines for a person: the scores, the floor beside them, and what to mind. KID first where FID is biased."""
    lines = _of_sets(result) if "n_real" in result else []
    if "pairs" in result:
        count, failed = result["pairs"]["count"], result["pairs"]["failed"]
        lines.append(f"{count} pictures beside their sources" + (f", {len(failed)} not compared" if failed else ""))
        pairs = result["pairs"]["pictures"]
        for name in (name for name in result["about"] if any(name in pair for pair in pairs)):
            own = [pair[name] for pair in pairs if name in pair]
            lines.append(f"{name:<16}{result[name]:10.4g}   {min(own):.4g} to {max(own):.4g}, of {len(own)}")
        lines += [f"not compared: {Path(one['picture']).name}: {one['reason']}" for one in failed[:1]]
    if result.get("unreadable", {}).get("count"):
        first = result["unreadable"]["pictures"][0]
        lines.append(f"{result['unreadable']['count']} unreadable, the first {first['picture']}: {first['reason']}")
    return "\n".join(lines)


def _of_sets(result: Mapping[str, Any]) -> list[str]:
    floor = result["floor"]
    beside = f" {'at ' + str(floor['m']):>12}   real against real at {floor['m']}" if floor else ""
    lines = [
        f"{result['n_real']} real, {result['n_generated']} generated pictures; features: {result['extractor']}",
        f"          {'score':>12}{beside}",
    ]
    for name in ("kid", "fid") if result["biased"] else ("fid", "kid"):
        if name in result:
            at_m = f" {floor[name + '_at_m']:12.4g}   {_plus_minus(floor[name])}" if floor else ""
            lines.append(f"{name.upper():<10}{result[name]:12.4g}{at_m}")
    if "kid_interval" in result:
        low, high = result["kid_interval"]
        lines.append(f"{'':10}{low:12.4g} to {high:.4g}: KID, 95 %")
    others = ("precision", "recall", "density", "coverage", "twins", "leaks")
    lines += [f"{name:<10}{result[name]:12.4g}" for name in others if name in result]
    lines += [f"{name} left out: {why}" for name, why in result.get("left_out", {}).items()]
    return lines + [result[key] for key in ("note", "floor_reason") if key in result]


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
