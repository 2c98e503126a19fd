"""Tidy: what the last run of a workspace does not reach any more, in its store, its parts and its results, is removed.

    for group in tidy(root, dry_run=True): print(group.name, group.kept, group.removed, group.size)

Reached is what a rerun with the same parameters reads, and the paints that another composite would read. The keys are
made as the stages make them; those of the evaluation by a rerun on a store that records them. What is reached, by kind:

    caption                     by the selected pictures and the captioner that the captions name
    paint latents picture jpeg  by the requests of the plan, each of their passes, and the painted pictures
    outline view                by the usable boxes of the data set, which may be donors
    verdict shares limits       by the painted pictures, their painted boxes and the real boxes, the screen's settings
    thumbnail                   by the painted pictures
    found                       by the painted pictures and the detector of objects without a label
    round                       by the account of the rounds towards a target
    feature note pair group     by the selected sources and the synthetic pictures of the final set, its metrics
    metrics shown               by what the files say that they belong to: report/metrics.json, contact_sheet.jpg
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import msgspec
import pandas as pd

from lib.captioning.caption import caption_key
from lib.captioning.captioners import CAPTIONERS
from lib.core.errors import AugmentError
from lib.core.files import digest, file_digest
from lib.datasets.finalise import jpeg_key
from lib.evaluation.evaluate import look_up_results
from lib.evaluation.sides import read_side
from lib.planning.donors import crop_of
from lib.planning.edits import EDITS
from lib.planning.outlines import outline_key
from lib.planning.recipe import new_categories
from lib.planning.surroundings import view_key
from lib.records import kept
from lib.records.manifest import former_manifest
from lib.records.requests import picture_keys
from lib.records.rows import STAGES
from lib.records.shelf import Shelf
from lib.records.store import Store
from lib.runs.last_run import LastRun, read_last_run
from lib.runs.workspace import locked
from lib.screening.boxes import painted_keys, real_boxes, rule_keys
from lib.screening.pictures import Verdict, verdict_key
from lib.screening.thumbnails import thumbnail_key
from lib.screening.unlabelled import found_key

EVALUATED = ("feature", "note", "pair", "group")
KINDS = (
    "caption",
    "outline",
    "view",
    "paint",
    "alpha",
    "latents",
    "picture",
    "jpeg",
    "verdict",
    "shares",
    "limits",
    "found",
    "round",
    *EVALUATED,
    "metrics",
    "shown",
    "thumbnail",
)

_PARTS = {name: name for name in ("ingest", "select", "caption", "plan", "generate", "screen", "draw")} | {
    "annotated": "ingest",
    "selected": "select",
    "captioned": "caption",
    "screened": "screen",
}  # folder of parts → the stage whose rows they have
_PART = re.compile(r"([0-9a-f]{32}|\d{4,}-of-\d{4,})\.parquet")
_RESULT = re.compile(r"[0-9a-f]{64}")

Item = tuple[str, str]  # kind and key in the store


@dataclass
class Group:
    """Files of one kind."""

    name: str  # "store/paint", "parts", "results"
    kept: int = 0
    removed: int = 0
    size: int = 0  # bytes of those that are removed


def tidy(root: Path, dry_run: bool = False) -> list[Group]:
    """Remove what the last run does not reach; with `dry_run` say what that would be, and remove nothing.

    Raises AugmentError, before anything is removed, where the last run did not come to its end, or its manifests,
    settings or pictures are not what it left: a rerun mends that. Also where a run holds the workspace.
    """
    with locked(root):
        last = read_last_run(root)
        groups: dict[str, Group] = {}
        left: list[Path] = []
        for name, path, reached in chain(_store_files(last), _part_files(last), _result_files(root)):
            group = groups.setdefault(name, Group(name))
            if reached:
                group.kept += 1
                continue
            group.removed += 1
            group.size += path.lstat().st_size
            left.append(path)
        if not dry_run:
            _remove(root, left)
        return list(groups.values())


def _remove(root: Path, paths: Iterable[Path]) -> None:
    for path in paths:
        path.unlink(missing_ok=True)
        folder = path.parent
        while folder != root and not any(folder.iterdir()):
            folder.rmdir()
            folder = folder.parent


# --- what is reached ---------------------------------------------------------------------------------------------

Found = tuple[str, Path, bool]  # group, file, whether it is reached


def _store_files(last: LastRun) -> Iterator[Found]:
    reached = Shelf[None](last.meanwhile)
    for items in (_of_captions, _of_donors, _of_requests, _of_screen, _of_detector, _of_rounds):
        reached.put((f"{kind}/{key}", None) for kind, key in items(last))
    evaluated = _of_evaluation(last)
    shown = {file_digest(path).encode() for path in _shown(last.root)}
    numbers = _numbers(last.root)
    for kind, key in last.store.items():
        if kind not in KINDS:
            continue  # of another version: not ours to judge
        if kind in EVALUATED:
            keep = evaluated is None or f"{kind}/{key}" in evaluated
        elif kind == "shown":
            keep = _read(last.store, kind, key) in shown
        elif kind == "metrics":
            keep = numbers is not None and _measured(_read(last.store, kind, key)) == numbers
        else:
            keep = f"{kind}/{key}" in reached
        yield f"store/{kind}", last.store.path(kind, key), keep


class _Source(msgspec.Struct, array_like=True):
    """Of a selected picture, what the key of its caption is made of."""

    digest: str
    frame: str
    labels: Sequence[str]


_decode_source = msgspec.json.Decoder(_Source).decode


def _of_captions(last: LastRun) -> Iterator[Item]:
    selected, records = Shelf[bytes](last.meanwhile), Shelf[bytes](last.meanwhile)
    selected.put(
        (row.key, msgspec.json.encode(_Source(row.digest, row.frame, list(row.labels))))
        for row in last.ok("select", "key", "digest", "frame", "labels")
    )
    records.put((row.key, row.record) for row in last.rows("ingest", "key", "record"))
    for row in last.rows("caption", "key", "captioner"):
        if (source := selected.get(row.key)) is not None:
            identity = json.loads(row.captioner)
            captioner = CAPTIONERS[identity["name"]]
            yield "caption", caption_key(_decode_source(source), captioner, identity, records.get(row.key))


def _of_donors(last: LastRun) -> Iterator[Item]:
    for objects, pictures in last.by_picture():
        beside = pictures[["key", "digest", "frame", "width", "height"]].rename(columns={"key": "image_key"})
        for row in objects[["image_key", *"xywh"]].merge(beside, on="image_key").itertuples(index=False):
            box = crop_of(row)
            yield "outline", outline_key(row.digest, row.frame, box)
            yield "view", view_key(row.digest, row.frame, box)


def _of_requests(last: LastRun) -> Iterator[Item]:
    for _, request in last.requests():
        for paint, picture in picture_keys(request):
            yield from (("paint", paint), ("alpha", paint), ("latents", paint), ("picture", picture))
        yield "jpeg", jpeg_key(picture_keys(request)[-1][1], request.source)


def _of_screen(last: LastRun) -> Iterator[Item]:
    """Verdicts and thumbnails of pictures, and with a judge its shares and the limits."""
    settings = last.settings.screen
    for row in last.ok("generate", "picture", "sha256"):
        yield "thumbnail", thumbnail_key(row.sha256)
        yield "verdict", verdict_key(row, settings)
    if settings.boxes is None or settings.judge is None or "judge" not in last.account:
        return
    edit, judge = EDITS.member(last.settings.edit.name, last.settings.edit.values), last.account["judge"]
    boxes, labelled = Shelf[bytes](last.meanwhile), set[str]()

    def noted() -> Iterator[tuple[pd.DataFrame, pd.DataFrame]]:
        for objects, pictures in last.by_picture():
            labelled.update(objects.category.unique())
            found = zip(objects.category, zip(objects.x, objects.y, objects.w, objects.h, strict=True), strict=True)
            boxes.put(zip(objects.key, map(msgspec.json.encode, found), strict=True))
            yield objects, pictures

    real = real_boxes(noted(), last.settings.select.split, settings.boxes.min_side)
    names = sorted(labelled | {name for _, name in new_categories(edit)})
    limits, shares = rule_keys(real, names, settings.boxes, judge)
    yield "limits", limits
    yield from (("shares", key) for key in shares)
    for row, request in last.requests_of(_passed(last)):
        sources = {label.source for label in request.labels if label.source is not None}
        own = {key: _decode_box(boxes[key]) for key in sources}
        painted = painted_keys(row, request, own, names, settings.boxes, judge)
        yield from (("shares", key) for key in painted)


_decode_box = msgspec.json.Decoder(tuple[str, tuple[float, float, float, float]]).decode


def _passed(last: LastRun) -> Iterator[Any]:
    """The painted pictures that a judge may have looked at: those with a reason against them go no further."""
    for row in last.ok("generate", "key", "picture", "sha256"):
        key = verdict_key(row, last.settings.screen)
        verdict = kept.typed(_read_if_kept(last.store, "verdict", key), Verdict)
        if verdict is None or not verdict["reason"]:
            yield row


def _of_detector(last: LastRun) -> Iterator[Item]:
    """What a detector found in the painted pictures."""
    noted = last.account.get("detector")
    if last.settings.screen.unlabelled is not None and isinstance(noted, dict):
        for row in last.ok("generate", "picture", "sha256"):
            yield "found", found_key(row, noted.get("names", ()), str(noted.get("identity")))


def _of_rounds(last: LastRun) -> Iterator[Item]:
    """What the rounds towards a target took, which a budget of seconds counts."""
    target = last.account.get("target")
    keys = target.get("keys") if isinstance(target, dict) else None
    yield from (("round", str(key)) for key in keys or ())


def _of_evaluation(last: LastRun) -> Shelf[None] | None:
    """What is kept of single pictures for the report; None where it cannot be found here, so that all of it stays."""
    settings, root = last.settings.evaluate, last.settings.dataset.images
    recorder = _Recorder(last.root / "store", Shelf[None](last.meanwhile))
    if settings.extractor is None:
        return recorder.items_read
    real = last.real_pictures()
    paths = (path for rows, _ in real.tables(("path",)) for path in rows["path"].to_pylist())
    if not all((root / path).is_file() for path in paths):  # a relative path, perhaps, that starts elsewhere
        return None
    try:
        sources, more = (real.side(root, last.meanwhile, others) for others in (False, True))
        synthetic = read_side(last.root / "final", "synthetic", folder=last.meanwhile)
        look_up_results(sources, synthetic, settings.extractor, settings.metrics, recorder, more, settings.limit)
    except (AugmentError, ConnectionError):  # no pictures, or a model is not available now
        return None
    return recorder.items_read


def _shown(root: Path) -> list[Path]:
    """Files for a person, which are drawn again where they are not those that the store remembers."""
    paths = [root / "contact_sheet.jpg", root / "grid.jpg", *(root / "report").glob("*.html")]
    return [path for path in paths if path.is_file()]


def _numbers(root: Path) -> Any:
    """The content of report/metrics.json; None where it is missing or not JSON."""
    try:
        return _measured((root / "report" / "metrics.json").read_bytes())
    except OSError:
        return None


def _measured(data: bytes | None) -> Any:
    """A result without its verdict, which follows from the rest by the rules of the version that wrote it."""
    result = _json(data)
    return {name: part for name, part in result.items() if name != "verdict"} if isinstance(result, dict) else result


def _json(data: bytes | None) -> Any:
    try:
        return None if data is None else json.loads(data)
    except ValueError:
        return None


def _read(store: Store, kind: str, key: str) -> bytes | None:
    """The data of an item, None where it is damaged: `Store.get` would remove it."""
    header, _, data = store.path(kind, key).read_bytes().partition(b"\n")
    return data if header.decode("ascii", "replace") == digest(data) else None


def _read_if_kept(store: Store, kind: str, key: str) -> bytes | None:
    return _read(store, kind, key) if store.has(kind, key) else None


class _Recorder(Store):
    """A store that records which items are read, keeps nothing, and removes nothing."""

    def __init__(self, root: Path, items_read: Shelf[None]) -> None:
        super().__init__(root)
        self.items_read = items_read

    def get(self, kind: str, key: str) -> bytes | None:
        self.items_read.put([(f"{kind}/{key}", None)])
        return _read_if_kept(self, kind, key)

    def put(self, kind: str, key: str, data: bytes) -> str:
        return digest(data)


# --- parts and results -------------------------------------------------------------------------------------------


def _part_files(last: LastRun) -> Iterator[Found]:
    """Parts whose rows the stage's manifest does not have; with each its record."""
    for folder, stage in _PARTS.items():
        known = Shelf[None](last.meanwhile)
        known.put((row.key, None) for row in last.rows(stage, "key"))
        for path in sorted((last.root / "parts" / folder).glob("*.parquet")):
            if _PART.fullmatch(path.name):
                rows = former_manifest(path, STAGES[stage], ["key"])
                reached = rows is not None and all(key in known for key in rows.key)
                yield from (("parts", file, reached) for file in (path, path.with_suffix(".json")) if file.is_file())


def _result_files(root: Path) -> Iterator[Found]:
    """Records of Prefect: former versions kept some, and nothing reads them."""
    for path in sorted((root / "results").glob("*/*")):
        if _RESULT.fullmatch(path.name) and path.is_file():
            yield "results", path, False
