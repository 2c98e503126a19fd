"""What there is to review: the screened pictures of a run, with their sources, labels, verdicts in words and scores.

    run = load_run(Path("data/runs/demo"))       # AugmentError where there is nothing to review
    run.items[key].boxes[0].said                 # "recognised, score 0.93"

It is read from the manifests of the run as they are at that moment, and says (`stamp`) when they have changed since.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import pandas as pd

from lib.core.errors import AugmentError
from lib.core.files import digest
from lib.core.images import plain_path
from lib.core.words import in_words
from lib.records.manifest import read_batches
from lib.records.requests import XYXY
from lib.records.rows import OK, ImageRow, ObjectRow, PlanRow, Row, ScreenRow
from lib.records.settings import ReviewSettings, TargetSettings
from lib.records.store import ReadOnlyStore, Store
from lib.runs.export import base_of, settings_of
from lib.runs.parameters import Resolved
from lib.screening.decisions import NAME, DecisionLog
from lib.screening.labels import BoxVerdict, Proposal, box_id, split_entries
from lib.screening.review import sampled


class Box(msgspec.Struct, frozen=True):
    """A label of a picture, as screening left it."""

    id: str
    category: str
    xywh: XYXY  # left, top, width, height, pixels
    painted: bool  # painted anew, or cut by what was painted
    fate: str  # "keep" | "ignore" | "drop": whether a detector will learn it
    said: str  # the verdict in words; "" = nothing to say
    score: float | None  # 0 .. 1, of the judge or the detector


class Item(msgspec.Struct, frozen=True):
    """A picture to review."""

    key: str  # of the picture in the store
    sha256: str
    request: str
    name: str
    source: str  # digest of the source picture
    source_name: str
    variant: int
    width: int  # pixels
    height: int
    edit: str
    painter: str
    split: str
    boxes: tuple[Box, ...]
    doubt: float  # 0 .. 2: 1 and more where screening ignored or dropped a box
    sampled: bool  # part of the random sample that review.sample asks for


class _Label(msgspec.Struct):
    """Of lib.records.requests.Label, what is shown: ten thousand requests are read in a moment."""

    source: str | None = None
    painted: bool = False
    bbox: XYXY | None = None
    category: str | None = None
    ignored: str = ""


class _Named(msgspec.Struct):
    name: str


class _Request(msgspec.Struct):
    source: str
    frame: str
    width: int
    height: int
    split: str
    variant: int
    edit: str
    painter: _Named
    labels: list[_Label]


@dataclass(frozen=True)
class Source:
    """A source picture on the disk."""

    path: Path
    digest: str
    frame: str


@dataclass
class ReviewedRun:
    """A run with what was decided about it."""

    name: str
    root: Path
    preset: str
    review: ReviewSettings
    items: dict[str, Item]  # by picture key, in the order of the run
    total: int  # pictures that there are to review, `items` and others
    sources: dict[str, Source]  # by digest
    categories: tuple[str, ...]
    real: dict[str, int]  # boxes of the originals that join the final set, by category
    real_of: dict[str, dict[str, int]]  # the same by source, where only those of used sources join
    targets: dict[str, int]  # boxes that the run's own target makes of it, by category
    set_aside: dict[str, int]  # pictures that screening set aside, by reason
    stamp: str
    log: DecisionLog
    known: dict[str, str] = field(default_factory=dict)  # picture → sha256 of all that was shown since the start

    @property
    def store(self) -> Store:
        """The store of the run."""
        return ReadOnlyStore(self.root / "store")

    @property
    def writable_store(self) -> Store:
        """The same, for thumbnails."""
        return Store(self.root / "store")


def load_run(root: Path, former: ReviewedRun | None = None, most: int | None = None) -> ReviewedRun:
    """The run in a workspace. former: the same run as it was read before; what it showed stays known. most: of more
    pictures so many random ones, of the same pictures the same ones; None: all of them.

    Raises AugmentError where the workspace has no screened picture, or its manifests cannot be read.
    """
    root = root.absolute()
    settings = settings_of(root)
    stamp = stamp_of(root)
    aside = Counter[str]()
    for rows in read_batches(root / "manifests" / "screen.parquet", ScreenRow, ("status", "reason")):
        aside.update(rows.reason.where(rows.status != OK, OK))
    total = aside.pop(OK, 0)
    if not total:
        why = ", ".join(f"{in_words(reason)} {count}" for reason, count in sorted(aside.items())) or "none was painted"
        raise AugmentError(f"{root} has no picture to review ({why}): `augment status {root.name}` says what happened")
    screened = _screened(root, most if most is not None and most < total else None)
    plan = _rows_of(root, "plan", PlanRow, ("key", "request"), "key", screened.key)
    requests = dict(zip(plan.key, plan.request, strict=True))
    columns: tuple[str, ...] = ("key", "status", "path", "digest", "frame", "file_name")
    images = _rows_of(root, "ingest", ImageRow, columns, "key", screened.image_key)
    columns = ("key", "status", "image_key", "category", *"xywh", "crowd")
    objects = _rows_of(root, "objects", ObjectRow, columns, "image_key", screened.image_key)
    usable = objects[objects.status == OK]
    named = _categories(root)
    places = zip(usable.x, usable.y, usable.w, usable.h, strict=True)
    boxes = dict(zip(usable.key, zip(usable.category, places, strict=True), strict=True))
    names = dict(zip(images.key, images.file_name, strict=True))
    review = settings.review if settings else ReviewSettings()
    chosen = sampled(screened.picture, review.sample) if review.pick == "sample" else set()
    items: dict[str, Item] = {}
    decoder = msgspec.json.Decoder(_Request)
    for row in screened.itertuples(index=False):
        request = _decoded(decoder, requests.get(row.key), root)
        shown = tuple(_boxes(request.labels, row.boxes, boxes))
        items[row.picture] = Item(
            row.picture, row.sha256, row.key, row.name, request.source, names.get(row.image_key, ""), request.variant,
            request.width, request.height, request.edit, request.painter.name, request.split, shown, _doubt(shown),
            row.picture in chosen,
        )  # fmt: skip
    real, real_of = _real(named, usable, images, settings, items)
    found = ReviewedRun(
        name=root.name,
        root=root,
        preset=settings.preset if settings else "",
        review=review,
        items=items,
        total=total,
        sources=_sources(images, settings, root),
        categories=tuple(sorted({*named, *(box.category for one in items.values() for box in one.boxes)})),
        real=real,
        real_of=real_of,
        targets=_targets(settings.target if settings else None, real),
        set_aside=dict(sorted(aside.items())),
        stamp=stamp,
        log=former.log if former else DecisionLog(root / NAME).refresh(),
    )
    found.known = {**(former.known if former else {}), **{key: item.sha256 for key, item in items.items()}}
    return found


def _screened(root: Path, some: int | None) -> pd.DataFrame:
    """ScreenRows that are ok: so many random ones; None: all."""
    path = root / "manifests" / "screen.parquet"
    found = (rows[rows.status == OK] for rows in read_batches(path, ScreenRow))
    if some is not None:
        named = read_batches(path, ScreenRow, ("status", "picture"))
        wanted = sampled((picture for rows in named for picture in rows.picture[rows.status == OK]), some)
        found = (rows[rows.picture.isin(wanted)] for rows in found)
    return pd.concat(list(found), ignore_index=True)


def _rows_of(
    root: Path, stage: str, row_type: type[Row], columns: Sequence[str], name: str, wanted: Iterable[str]
) -> pd.DataFrame:
    """Rows of a stage whose column `name` has one of the wanted values."""
    among = set(wanted)
    batches = read_batches(root / "manifests" / f"{stage}.parquet", row_type, columns)
    return pd.concat([rows[rows[name].isin(among)] for rows in batches], ignore_index=True)


def _categories(root: Path) -> Counter[str]:
    """Boxes of all originals by category, crowds not counted."""
    found = Counter[str]()
    for rows in read_batches(root / "manifests" / "objects.parquet", ObjectRow, ("status", "category", "crowd")):
        usable = rows[rows.status == OK]
        found.update(dict.fromkeys(usable.category, 0))
        found.update(usable.category[~usable.crowd])
    return found


def stamp_of(root: Path) -> str:
    """Changes whenever a run writes new screened rows or another plan."""
    parts = []
    for name in ("screen", "plan"):
        path = root / "manifests" / f"{name}.parquet"
        try:
            info = path.stat()
        except OSError:
            raise AugmentError(
                f"{path} not found: nothing was painted here yet, so there is nothing to review; run it first"
            ) from None
        parts.append(f"{info.st_mtime_ns}-{info.st_size}")
    return digest("|".join(parts).encode())[:16]


def _decoded(decoder: msgspec.json.Decoder[_Request], text: bytes | None, root: Path) -> _Request:
    try:
        return decoder.decode(text or b"")
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise AugmentError(f"{root}: a screened picture has no request in the plan ({error}): run again") from None


def _boxes(labels: Sequence[_Label], entries: Sequence[str], objects: Mapping[str, tuple[str, XYXY]]) -> Iterator[Box]:
    """Labels that are in no known place are left out of what is shown; their position stays theirs."""
    judged, proposed, _ = split_entries(entries)
    verdicts = {verdict.position: verdict for verdict in judged}
    for position, label in enumerate(labels):
        category, bbox = objects.get(label.source or "", ("", None))
        category, place = label.category or category, label.bbox or bbox
        if place is None:
            continue
        fate, said, score = _verdict(label, verdicts.get(position))
        painted = label.painted or label.bbox is not None
        yield Box(box_id(position, category, place), category, place, painted, fate, said, score)
    yield from _proposals(len(labels), proposed)


def _proposals(first: int, proposed: Sequence[Proposal]) -> Iterator[Box]:
    for position, one in enumerate(proposed, first):
        said = f"found by the detector, no label of the run, score {one.score:.2f}"
        yield Box(box_id(position, one.category, one.xywh), one.category, one.xywh, False, "ignore", said, one.score)


_FATES = {"keep": "", "ignore": "ignored: ", "drop": "left out: "}


def _verdict(label: _Label, verdict: BoxVerdict | None) -> tuple[str, str, float | None]:
    """(fate, words, score)"""
    if verdict is None:
        return ("ignore", f"ignored: {in_words(label.ignored)}", None) if label.ignored else ("keep", "", None)
    score = "" if verdict.score is None else f", score {verdict.score:.2f}"
    return verdict.action, f"{_FATES[verdict.action]}{in_words(verdict.reason)}{score}", verdict.score


def _doubt(boxes: Sequence[Box]) -> float:
    scores = [box.score for box in boxes if box.score is not None]
    lowest = 1 - min(scores) if scores else 0.0
    return round((1 if any(box.fate != "keep" for box in boxes) else 0) + lowest, 4)


def _sources(images: Any, settings: Resolved | None, root: Path) -> dict[str, Source]:
    """Where source pictures lie; without the run's settings it is not known, and they are not shown."""
    if settings is None:
        return {}
    folder = (base_of(root, settings.workspace) / settings.dataset.images).absolute()
    found = {}
    for path, sha256, frame in zip(images.path, images.digest, images.frame, strict=True):
        if sha256 and path and plain_path(path, keep_backslash=True) == path:  # a manifest may be a stranger's
            found[sha256] = Source(folder / path, sha256, frame)
    return found


def _real(
    named: Counter[str], usable: Any, images: Any, settings: Resolved | None, items: Mapping[str, Item]
) -> tuple[dict[str, int], dict[str, dict[str, int]]]:
    """Boxes of originals by category; and by source where only the originals that were painted from join."""
    originals = settings.finalise.originals if settings else "all"
    if originals == "none":
        return {}, {}
    if originals == "all":
        return {name: count for name, count in named.most_common() if count}, {}
    plain = usable[~usable.crowd]
    digests = dict(zip(images.key, images.digest, strict=True))
    used = {item.source for item in items.values()}
    found: dict[str, Counter[str]] = {source: Counter() for source in used}
    for image, category in zip(plain.image_key, plain.category, strict=True):
        if (source := digests.get(image)) in found:
            found[source][category] += 1
    return {}, {source: dict(counts) for source, counts in found.items()}


def _targets(target: TargetSettings | None, real: Mapping[str, int]) -> dict[str, int]:
    """What the run's own target makes of the final set, beside the real boxes."""
    if target is None:
        return {}
    if target.per_category:
        return {name: real.get(name, 0) + count for name, count in target.per_category.items()}
    if target.balance and real:
        most = max(real.values())
        return {name: max(count, round(most * target.balance)) for name, count in real.items()}
    return {}
