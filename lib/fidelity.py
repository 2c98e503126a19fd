"""Layout fidelity: is in each box what its label says? As a judge sees it, beside what it says of real boxes.

    judge = make_judge(resolve("mini:clip", {}))      # of lib/regions.py: a CLIP, or a classifier trained on real boxes
    result = fidelity(Path("data/runs/mine/final"), judge)
    print(summary(result))
    write_json(result, Path("fidelity.json"))        # of lib/evaluate.py

A final set holds both sides: the originals' boxes, and those of the synthetic pictures that are marked `painted`. Each
box is cropped with some context and scored against all categories of the set; it is a hit where its own comes first.

    real       share of hits over real boxes: the most that this judge can say
    generated  share of hits over painted boxes
    shuffled   the same, had the painted boxes exchanged their labels: what chance and frequent categories give
    fidelity   (generated − shuffled) / (real − shuffled): 0 = no better than exchanged labels, 1 = as good as real
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from typing import Any, Protocol

import msgspec
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from lib.errors import AugmentError
from lib.formats.coco import read
from lib.geometry import area_xyxy, clip_xyxy, xywh_to_xyxy
from lib.images import PictureError, load_rgb
from lib.regions import CONTEXT, Pixels, crop_region
from lib.schemas import OK
from lib.settings import DatasetSettings

RESAMPLES = 1000
MIN_SIDE = 8.0  # pixels: of a smaller box there is nothing to recognise
SIZES = {"small": 32.0**2, "medium": 96.0**2, "large": np.inf}  # up to, pixels² of the box; COCO's limits

_CELLS = 10_000_000  # of one resampling step: about 80 MB

Advance = Callable[[int, int], None]  # (pictures done, of how many)


class Judge(Protocol):
    """What is asked of a model, see lib/regions.make_judge."""

    @property
    def size(self) -> int:
        """Side of the crops, pixels."""

    @property
    def identity(self) -> str:
        """Which model, for the record."""

    def score(self, crops: Sequence[Pixels], names: Sequence[str]) -> NDArray[np.float64]:
        """(N, len(names)) for uint8 (size, size, 3) RGB crops: the higher, the better a name fits."""
        ...


@dataclass(frozen=True)
class Judged:
    """The judged boxes of one side, N of them in P pictures."""

    picture: NDArray[np.int64]  # (N,) 0 .. P − 1, every number used
    label: NDArray[np.int64]  # (N,) number of its category
    said: NDArray[np.int64]  # (N,) number of the category that the judge put first
    area: NDArray[np.float64]  # (N,) of the box, pixels²

    @property
    def hits(self) -> NDArray[np.bool_]:
        """(N,)"""
        told: NDArray[np.bool_] = self.label == self.said
        return told

    @property
    def pictures(self) -> int:
        return int(self.picture.max()) + 1 if len(self.picture) else 0


def fidelity(
    data: Path,
    scorer: Judge,
    real: Path | None = None,
    seed: int = 0,
    min_side: float = MIN_SIDE,
    context: float = CONTEXT,
    advance: Advance | None = None,
) -> dict[str, Any]:
    """Judge the boxes of a COCO data set; every picture is decoded once, its boxes are one batch.

    data: a COCO file, or a folder with annotations.json; its pictures beside it or in `images` beside it. Where it has
    no synthetic pictures (those with `source_image_id`) it is the generated side as a whole if `real` is given, else
    the real one. real: another set whose originals are the real side, in place of those of `data`; categories are
    matched by name. seed: of the bootstrap. min_side: pixels; context: share of a box's longer side.

    Returns `measure`'s values, and
      skipped     {"real": {reason: boxes}, "generated": {...}}: too small, crowds, kept as they were (`not_painted`),
                  pictures that cannot be read, and what the reader of COCO sets aside
      unreadable  {"count": n, "pictures": [{"set", "picture", "reason", "detail"}]}
      judge, context, min_side, seed
    Raises AugmentError for no COCO data set, fewer than two categories, no box to judge, or where the judge cannot be
    loaded.
    """
    told, account = _read_set(data), _Account()
    if len(told.names) < 2:
        raise AugmentError(
            f"{data} has {len(told.names)} categories ({', '.join(told.names) or 'none'}): expected at least 2 for the "
            "judge to choose from"
        )
    sides = _sides(told, None if real is None else _read_set(real), account)
    run = _Run(scorer, told.names, min_side, context, account, _progress(sides, advance))
    judged = {name: run.judge(name, side) for name, side in sides.items()}
    skipped = {name: dict(sorted(account.skipped[name].items())) for name in sides}
    if not any(len(side.label) for side in judged.values()):
        why = ", ".join(f"{reason} {n}" for reasons in skipped.values() for reason, n in reasons.items())
        raise AugmentError(f"{data} has no box to judge (set aside: {why or 'none'}): expected labelled pictures")
    result = measure(judged["real"], judged["generated"], told.names, seed)
    return result | {
        "notes": account.notes + result["notes"],
        "skipped": skipped,
        "unreadable": {"count": len(account.unreadable), "pictures": account.unreadable},
        "judge": scorer.identity,
        "context": context,
        "min_side": min_side,
        "seed": seed,
    }


def _progress(sides: Mapping[str, _Set], advance: Advance | None) -> Callable[[], None]:
    """Called once a picture."""
    total, numbers = sum(side.objects.image_key.nunique() for side in sides.values()), count(1)

    def step() -> None:
        if advance:
            advance(next(numbers), total)

    return step


# --- the arithmetic ----------------------------------------------------------------------------------------------


def measure(real: Judged, generated: Judged, names: Sequence[str], seed: int = 0) -> dict[str, Any]:
    """Scores of judged boxes; JSON-safe.

    fidelity (None, with a note, where real ≤ shuffled or a side is empty), interval ([low, high], 95 %, see
    `interval_of`, or None), real, generated, shuffled (shares of hits, None for an empty side), n_real, n_generated
    (boxes), pictures_real, pictures_generated, by_category and by_size ({name: {"n_generated", "hits_generated",
    "n_real", "hits_real"}}), resamples, notes.
    """
    shares = {"real": _share(real), "generated": _share(generated), "shuffled": shuffled(generated, len(names))}
    score = _ratio(shares["real"], shares["generated"], shares["shuffled"])
    sides = {"generated": generated, "real": real}
    sizes = {name: np.digitize(side.area, list(SIZES.values())[:-1]) for name, side in sides.items()}
    interval = interval_of(real, generated, len(names), seed) if np.isfinite(score) else None
    return {
        "fidelity": _number(score),
        "interval": interval,
        **{name: _number(share) for name, share in shares.items()},
        "n_real": len(real.label),
        "n_generated": len(generated.label),
        "pictures_real": real.pictures,
        "pictures_generated": generated.pictures,
        "by_category": _by(names, sides, {name: side.label for name, side in sides.items()}),
        "by_size": _by(list(SIZES), sides, sizes),
        "resamples": RESAMPLES,
        "notes": _notes(real, generated, shares, interval),
    }


def shuffled(judged: Judged, categories: int) -> float:
    """Share of hits to expect where the boxes' labels are dealt out anew at random among them: exact, over all
    permutations, Σ over categories of p(label) · p(said). NaN for no boxes."""
    n = len(judged.label)
    if n == 0:
        return float("nan")
    labels, said = (np.bincount(values, minlength=categories) for values in (judged.label, judged.said))
    return float(labels @ said) / n**2


def interval_of(real: Judged, generated: Judged, categories: int, seed: int = 0) -> list[float] | None:
    """[low, high] that holds 95 % of fidelity over 1000 resamplings of the pictures of each side with replacement
    (Efron 1979: boxes of one picture are no independent draws, pictures are).

    Resamplings in which real ≤ shuffled have no fidelity and are left out. None where a side has fewer than two
    pictures, or where more than a tenth is left out.
    """
    if min(real.pictures, generated.pictures) < 2:
        return None
    rng = np.random.default_rng(seed)
    (top, _), (hits, chance) = (_resampled(side, categories, rng) for side in (real, generated))
    scores = _ratio(top, hits, chance)
    defined = scores[np.isfinite(scores)]
    if len(defined) < 0.9 * RESAMPLES:
        return None
    return [float(value) for value in np.percentile(defined, [2.5, 97.5])]


def _resampled(judged: Judged, categories: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """(hits, shuffled), (1000,) shares each, over resampled pictures."""
    pictures = judged.pictures
    # Everything is a sum over pictures of these counts: hits, then boxes by label, then boxes by what was said.
    hits = np.bincount(judged.picture, judged.hits, pictures)[:, None]
    labels, said = (
        np.bincount(judged.picture * categories + values, minlength=pictures * categories).reshape(pictures, -1)
        for values in (judged.label, judged.said)
    )
    counts = np.concatenate([hits, labels, said], axis=1)  # (P, 1 + 2 C) float64
    step = max(1, _CELLS // pictures)
    sums = np.concatenate([_draw(counts, min(step, RESAMPLES - i), rng) for i in range(0, RESAMPLES, step)])
    n = sums[:, 1 : 1 + categories].sum(axis=1)
    chance = (sums[:, 1 : 1 + categories] * sums[:, 1 + categories :]).sum(axis=1) / n**2
    return sums[:, 0] / n, chance


def _draw(counts: np.ndarray, times: int, rng: np.random.Generator) -> np.ndarray:
    """(times, K) sums of the (P, K) rows, P of them drawn with replacement each time."""
    rows = len(counts)
    drawn = rng.integers(rows, size=(times, rows)) + np.arange(times)[:, None] * rows
    weights = np.bincount(drawn.ravel(), minlength=times * rows).reshape(times, rows)
    sums: np.ndarray = weights.astype(np.float64) @ counts
    return sums


def _share(judged: Judged) -> float:
    return float(judged.hits.mean()) if len(judged.label) else float("nan")


def _ratio(real: Any, generated: Any, chance: Any) -> Any:
    """Fidelity, NaN where real ≤ shuffled; of numbers or of arrays."""
    room = np.asarray(real - chance)
    made = np.divide(generated - chance, room, out=np.full(room.shape, np.nan), where=room > 0)
    return made if made.ndim else float(made)


def _number(value: float) -> float | None:
    return value if np.isfinite(value) else None


def _by(
    groups: Sequence[str], sides: Mapping[str, Judged], members: Mapping[str, np.ndarray]
) -> dict[str, dict[str, int]]:
    """Boxes and hits of both sides per group; members: (N,) number of each box's group, per side."""
    table: dict[str, dict[str, int]] = {group: {} for group in groups}
    for name, side in sides.items():
        boxes = np.bincount(members[name], minlength=len(groups))
        hits = np.bincount(members[name][side.hits], minlength=len(groups))
        for i, group in enumerate(groups):
            table[group] |= {f"n_{name}": int(boxes[i]), f"hits_{name}": int(hits[i])}
    return table


def _notes(real: Judged, generated: Judged, shares: Mapping[str, float], interval: list[float] | None) -> list[str]:
    empty = [name for name, side in (("real", real), ("generated", generated)) if not len(side.label)]
    if empty:
        return [f"no {empty[0]} boxes were judged, so there is no fidelity: read the precision of what is there"]
    if shares["real"] <= shares["shuffled"]:
        return [
            f"the judge is right about {shares['real']:.3f} of the real boxes, and exchanged labels give "
            f"{shares['shuffled']:.3f}: it cannot tell these categories apart, so there is no fidelity; give another"
        ]
    if min(real.pictures, generated.pictures) < 2:
        return ["fewer than two pictures on a side: no interval"]
    return [] if interval else ["real is hardly above shuffled: no interval, and the fidelity means little"]


# --- the boxes ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Set:
    """A COCO data set, or a part of it."""

    file: Path
    images: pd.DataFrame  # ImageRow, and `made`: bool, is it synthetic
    objects: pd.DataFrame  # ObjectRow
    names: list[str]  # of the categories

    def only(self, synthetic: bool) -> _Set:
        """Its synthetic pictures or its originals; a box without a known picture goes to the originals."""
        images = self.images[self.images.made == synthetic]
        return replace(self, images=images, objects=self.objects[self.made == synthetic])

    @property
    def made(self) -> pd.Series:
        """bool per box: is its picture synthetic."""
        return self.objects.image_key.isin(self.images.key[self.images.made])


@dataclass
class _Account:
    """What is told beside the scores."""

    notes: list[str] = field(default_factory=list)
    skipped: dict[str, Counter[str]] = field(default_factory=lambda: {"real": Counter(), "generated": Counter()})
    unreadable: list[dict[str, str]] = field(default_factory=list)


def _read_set(path: Path) -> _Set:
    file = path / "annotations.json" if path.is_dir() else path
    if not file.is_file():
        raise AugmentError(f"{file} not found: expected a COCO file, or a folder with annotations.json and pictures")
    dataset = read(DatasetSettings(images=file.parent, annotations=file))
    images, objects = dataset.images.to_pandas(), dataset.objects.to_pandas()
    images["made"] = np.array([_field(record, "source_image_id") is not None for record in images.record], bool)
    names = [category["name"] for category in msgspec.json.decode(dataset.envelope)["categories"]]
    return _Set(file, images, objects, list(dict.fromkeys(names)))


def _field(record: bytes, name: str) -> Any:
    """A field of a JSON object, None where it has none."""
    if f'"{name}"'.encode() not in record:  # most have not: no need to decode them
        return None
    told = msgspec.json.decode(record)
    return told.get(name) if isinstance(told, dict) else None


def _sides(data: _Set, real: _Set | None, account: _Account) -> dict[str, _Set]:
    """The pictures of either side with the boxes to judge."""
    originals, made = (real or data).only(synthetic=False), data.only(synthetic=True)
    if made.images.empty:
        wanted = "all of the set are judged as generated" if real else "all are judged as real; give --real to compare"
        account.notes.append(f"no picture says that it is synthetic: {wanted}")
        made = data if real else made
    sides = {"real": originals, "generated": made}
    for name, side in sides.items():
        reasons = _unusable(side, data.names)
        account.skipped[name].update(reasons[reasons != ""].tolist())
        sides[name] = replace(side, objects=side.objects[reasons == ""])
    return sides


def _unusable(side: _Set, names: Sequence[str]) -> pd.Series:
    """Why a box is not judged, as far as its annotation tells; "" where it is."""
    objects = side.objects
    reasons = objects.reason.where(objects.status != OK, "").astype(object)
    reasons[(reasons == "") & objects.crowd] = "crowd"
    reasons[(reasons == "") & ~objects.category.isin(names)] = "category_unknown"
    left = objects.record[(reasons == "") & side.made]
    reasons[[i for i, record in left.items() if _field(record, "painted") is not True]] = "not_painted"
    return reasons


# --- judging -----------------------------------------------------------------------------------------------------


class _Run:
    """Crops and judges the boxes of both sides."""

    def __init__(
        self,
        scorer: Judge,
        names: Sequence[str],
        min_side: float,
        context: float,
        account: _Account,
        advance: Callable[[], None],
    ) -> None:
        self.scorer, self.names, self.min_side, self.context = scorer, names, min_side, context
        self.account, self.advance = account, advance

    def judge(self, name: str, side: _Set) -> Judged:
        """Every box of one side, picture by picture in the order of the file."""
        boxes = side.objects.groupby("image_key", sort=False)
        parts: list[pd.DataFrame] = []
        for picture in side.images[side.images.key.isin(boxes.groups.keys())].itertuples(index=False):
            part = self._picture(name, side.file, picture, boxes.get_group(picture.key))
            if len(part):
                parts.append(part.assign(picture=len(parts)))
            self.advance()
        told = pd.concat(parts) if parts else pd.DataFrame({"picture": [], "label": [], "said": [], "area": []})
        picture, label, said = (told[column].to_numpy(np.int64) for column in ("picture", "label", "said"))
        return Judged(picture, label, said, told.area.to_numpy(np.float64))

    def _picture(self, name: str, file: Path, picture: Any, boxes: pd.DataFrame) -> pd.DataFrame:
        """label, said and area of its boxes that can be judged."""
        skipped = self.account.skipped[name]
        try:
            if picture.status != OK:
                raise PictureError(picture.reason, picture.detail)
            pixels = _load(file, picture)
        except PictureError as error:
            skipped[error.reason] += len(boxes)
            told = {"set": name, "picture": picture.file_name, "reason": error.reason, "detail": error.detail}
            self.account.unreadable.append(told)
            return boxes.iloc[:0]
        xyxy = clip_xyxy(xywh_to_xyxy(boxes[list("xywh")].to_numpy()), pixels.shape[1], pixels.shape[0])
        enough = (xyxy[:, 2:] - xyxy[:, :2]).min(axis=1) >= self.min_side
        if few := int((~enough).sum()):
            skipped["box_too_small"] += few
        if not enough.any():
            return boxes.iloc[:0]
        crops = [crop_region(pixels, box, self.scorer.size, self.context) for box in xyxy[enough].tolist()]
        said = self.scorer.score(crops, self.names).argmax(axis=1)
        label = [self.names.index(category) for category in boxes.category[enough]]
        return pd.DataFrame({"label": label, "said": said, "area": area_xyxy(xyxy[enough])})


def _load(file: Path, picture: Any) -> Pixels:
    """The picture in the frame that its boxes are in: turned by EXIF, unless the size it claims is that of the stored
    pixels. Raises PictureError, size_mismatch included."""
    places = [base / picture.path for base in (file.parent, file.parent / "images")]
    path = next((place for place in places if place.is_file()), places[1])
    claimed = picture.width, picture.height
    for frame in ("upright", "stored"):
        pixels: Pixels = load_rgb(path, frame)
        size = pixels.shape[1], pixels.shape[0]
        if min(claimed) <= 0 or claimed == size:
            return pixels
        if claimed != size[::-1]:
            break
    raise PictureError("size_mismatch", f"annotated as {claimed[0]}×{claimed[1]} pixels, it has {size[0]}×{size[1]}")


# --- for a person ------------------------------------------------------------------------------------------------


def summary(result: Mapping[str, Any]) -> str:
    """A table for a person: the shares of hits, fidelity with its interval, categories and sizes, and what to mind."""
    made, real = result["n_generated"], result["n_real"]
    between = result["interval"]
    beside = f"   {between[0]:.3f} to {between[1]:.3f} (95 %)" if between else ""
    lines = [
        f"{real} real boxes in {result['pictures_real']} pictures, {made} generated in {result['pictures_generated']}; "
        f"judge: {result['judge']}",
        *(f"{name:<10}{_told(result[name])}" for name in ("real", "generated", "shuffled")),
        f"{'fidelity':<10}{_told(result['fidelity'])}{beside}",
        "",
        *_table("category", result["by_category"]),
        "",
        *_table("size", result["by_size"]),
    ]
    lines += [f"note: {note}" for note in result["notes"]]
    for side, reasons in result["skipped"].items():
        if reasons:
            lines.append(f"{side} boxes not judged: " + ", ".join(f"{reason} {n}" for reason, n in reasons.items()))
    if result["unreadable"]["count"]:
        first = result["unreadable"]["pictures"][0]
        lines.append(f"{result['unreadable']['count']} unreadable, the first {first['picture']}: {first['reason']}")
    return "\n".join(lines)


def _table(title: str, rows: Mapping[str, Mapping[str, int]]) -> list[str]:
    width = max(len(title), *(len(name) for name in rows))
    lines = [f"{title:<{width}}  {'generated':>9} {'boxes':>7}  {'real':>9} {'boxes':>7}"]
    for name, row in rows.items():
        told = (
            f"{_told(row[f'hits_{side}'] / row[f'n_{side}'] if row[f'n_{side}'] else None)} {row[f'n_{side}']:>7}"
            for side in ("generated", "real")
        )
        lines.append(f"{name:<{width}}  {'  '.join(told)}")
    return lines


def _told(share: float | None) -> str:
    return f"{'–':>9}" if share is None else f"{share:9.3f}"
