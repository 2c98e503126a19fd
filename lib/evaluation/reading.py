"""The one pass over the pictures of both sides: each is read and decoded once for all metrics.

    reading = Reading(extractor=extractor, pairs=[("background", metric)], cache=Store(Path("cache")))
    features = reading.run(real, generated)      # {"real": (N, D), "generated": (M, D)}
    reading.compared, reading.noted("regions", "real"), reading.unreadable

With a cache, results are kept by the picture's content, and a picture whose results are known is not decoded. A source
comes first, then what was made from it, so that no more than one group of pictures is in memory.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lib.core.files import digest
from lib.core.images import PictureError, load_rgb
from lib.core.keys import canonical, key_of
from lib.core.mirror import here
from lib.evaluation.features import Extractor
from lib.evaluation.metrics import AnnotatedPicture, Noted, Pair
from lib.evaluation.sides import Entry, Labels, Side
from lib.records.kept import typed
from lib.records.roll import listed
from lib.records.store import Store

Features = NDArray[np.float64]
Pixels = NDArray[np.uint8]
Advance = Callable[[int], None]
Metrics = Sequence[tuple[str, Any]]  # (name, a metric of lib/evaluation/metrics)

_KEPT_AFTER = 256  # pictures: so many features at most are lost by a kill, and whole batches of every extractor


_LEARNED = 500  # pictures beside those that are compared, at most


@dataclass
class Reading:
    """The extractor and metrics to run on the pictures, and their results."""

    extractor: Extractor | None = None
    pairs: Metrics = ()
    groups: Metrics = ()
    pictures: Metrics = ()
    names: Sequence[str] = ()  # categories, for metrics of labelled pictures
    sources: Mapping[int, int] = field(default_factory=dict)  # number of a generated picture → of its real one
    cache: Store | None = None
    advance: Advance | None = None
    unreadable: list[dict[str, str]] = field(default_factory=list)
    compared: list[dict[str, Any]] = field(default_factory=list)  # numbers of pairs
    grouped: list[dict[str, Any]] = field(default_factory=list)  # numbers of groups
    singles: list[dict[str, Any]] = field(default_factory=list)  # numbers of single pictures
    boxes: list[dict[str, Any]] = field(default_factory=list)  # of the generated pictures, as metrics judged them
    failed: list[dict[str, str]] = field(default_factory=list)
    folder: Path | None = None  # for notes, which may be more than memory should hold; none: in memory

    def run(self, real: Side, generated: Side, more: Side | None = None) -> dict[str, Features]:
        """Features (N, D) of both sides, rows of readable pictures in their order; empty without an extractor.

        more: other real pictures, for metrics that learn from real ones; they are noted as real.
        """
        self.sides = {"real": real, "generated": generated}
        of_sides = [(name, side) for name, _ in self.pictures for side in self.sides]
        self._notes = {
            key: Noted(listed(self.folder), Counter(self.sides[key[1]].skipped), listed(self.folder))
            for key in of_sides
        }
        # A row for each picture, NaN until its features are known: they are large, and so held once.
        self.rows: dict[str, Features] = {}
        if self.extractor is not None:
            wide = self.extractor.dimensions
            self.rows = {name: np.full((len(side.entries), wide), np.nan) for name, side in self.sides.items()}
        waiting: list[tuple[str, int, str]] = []  # what the extractor gets, in its order
        self._learn(more)
        missing = self._missing(waiting)
        if self.extractor is None:
            for _ in missing:
                pass
            return {}
        for first in missing:
            rows = self.extractor.extract(chain([first], islice(missing, _KEPT_AFTER - 1)))
            for (side, number, sha), row in zip(waiting, rows, strict=True):
                self._keep(side, number, sha, row)
            waiting.clear()
        return {side: self._features(side) for side in self.sides}

    def noted(self, name: str, side: str) -> Noted:
        """The notes of a metric of pictures on one side."""
        return self._notes[name, side]

    def _features(self, side: str) -> Features:
        rows = self.rows.pop(side)
        known = np.isfinite(rows).all(axis=1)
        return rows if known.all() else rows[known]

    def _keep(self, side: str, number: int, sha: str, row: Features) -> None:
        if not np.isfinite(row).all():
            entry = self.sides[side].entries[number]
            self._bad(side, entry, "features_not_finite", "the extractor gave NaN or infinity")
            return
        self.rows[side][number] = row
        if self.cache is not None:
            self.cache.put("feature", self._feature_key(sha), np.asarray(row, np.float64).tobytes())

    def _missing(self, waiting: list[tuple[str, int, str]]) -> Iterator[Pixels]:
        """Pictures whose features are not known; on the way, every metric runs."""
        # In a set with boxes a picture without any has none; in one without, the boxes of the source hold.
        bare = not any(len(entry.labels.boxes) for entry in self.sides["generated"].entries)
        count = len(self.sides["generated"].entries)
        origins = np.fromiter((self.sources.get(number, -1) for number in range(count)), np.int64, count)
        order = np.argsort(origins, kind="stable")
        bounds = np.searchsorted(origins[order], np.arange(-1, len(self.sides["real"].entries) + 1))
        for number, entry in enumerate(self.sides["real"].entries):
            source = _Picture.read(entry)
            yield from self._one("real", number, source, waiting)
            outputs = []
            for output_number in order[bounds[number + 1] : bounds[number + 2]].tolist():
                output = _Picture.read(self.sides["generated"].entries[output_number], entry.labels if bare else None)
                output.origin = entry.path.as_posix()
                self._pair(source, output)
                yield from self._one("generated", output_number, output, waiting)
                if self.groups:
                    outputs.append(output)
            self._group(source, outputs)
        for number in order[: bounds[1]].tolist():
            output = _Picture.read(self.sides["generated"].entries[number])
            output.labelled = not bare
            yield from self._one("generated", number, output, waiting)

    def _one(self, side: str, number: int, picture: _Picture, waiting: list[tuple[str, int, str]]) -> Iterator[Pixels]:
        """The picture, where its features are not known; before that, what is noted of it."""
        if self.advance:
            self.advance(1)
        try:
            if picture.fault is not None:
                raise PictureError(*picture.fault)
            known = self._known_features(picture)
            # Decoded first: a picture that does not decode is unreadable, and counts nowhere.
            pixels = picture.pixels() if self.extractor is not None and known is None else None
            self._note(side, picture)
        except PictureError:
            self._unusable(side, picture)
            return
        if known is not None:
            self.rows[side][number] = known
        elif pixels is not None:
            waiting.append((side, number, picture.sha))
            yield pixels

    def _known_features(self, picture: _Picture) -> Features | None:
        if self.extractor is None or self.cache is None:
            return None
        known = self.cache.get("feature", self._feature_key(picture.sha))
        if known is None or len(known) != 8 * self.extractor.dimensions:
            return None
        row = np.frombuffer(known, np.float64)
        return row if np.isfinite(row).all() else None

    def _learn(self, more: Side | None) -> None:
        """Note what is more than compared; what cannot be read there is of no interest."""
        learning = [(name, metric) for name, metric in self.pictures if metric.LEARNS]
        entries = more.entries if more and learning else ()
        for entry in entries[:: max(1, -(-len(entries) // _LEARNED))]:
            with contextlib.suppress(PictureError):
                picture = _Picture.read(entry)
                if picture.fault is None:
                    self._note("real", picture, learning)

    def _note(self, side: str, picture: _Picture, metrics: Metrics | None = None) -> None:
        """Keep the notes of all metrics of pictures, or of none where it does not decode. Raises PictureError."""
        notes: dict[str, dict[str, Any]] = {}
        for name, metric in self.pictures if metrics is None else metrics:
            if metric.NEEDS == "boxes" and not picture.labelled:
                reason = f"{name}: no labels: neither its set has any, nor is its source among the real pictures"
                self.failed.append({"picture": picture.entry.path.as_posix(), "reason": reason})
                continue
            labels, names = (picture.labels, tuple(self.names)) if metric.NEEDS else (Labels(), ())
            key = _key("note", name, metric, picture.sha, list(names), _json_list(labels))
            labelled = partial(picture.framed, labels, names)
            note = self._known("note", key, picture.entry, name, metric, labelled)
            if note is not None:
                notes[name] = note
        numbers: dict[str, float] = {}
        for name, note in notes.items():
            self._notes[name, side].notes.append(note)
            place = picture.entry.path.as_posix(), picture.origin, picture.labels.size
            self._notes[name, side].places.append(place)
            numbers |= note.get("numbers", {})
            if side == "generated":
                about = {"picture": picture.entry.path.as_posix(), "size": list(picture.labels.size)}
                self.boxes += [about | box for box in note.get("boxes", ())]
        if numbers:
            self.singles.append({"set": side, "picture": picture.entry.path.as_posix(), **numbers})

    def _pair(self, source: _Picture, output: _Picture) -> None:
        if source.fault is not None or output.fault is not None:
            return
        boxes = output.changed if len(output.changed) else source.labels.boxes
        numbers: dict[str, float] = {}
        for name, metric in self.pairs:
            sizes = [list(picture.labels.size) for picture in (source, output)]
            key = _key("pair", name, metric, source.sha, output.sha, boxes.tolist(), sizes)
            try:
                pair = partial(_pair, source, output, boxes)
                values = self._known("pair", key, output.entry, name, metric, pair)
            except PictureError:
                if source.fault is not None:
                    self._unusable("real", source)
                return  # the output's fault is reported when its turn comes
            numbers |= values or {}
        if numbers:
            paths = {"picture": output.entry.path.as_posix(), "source": source.entry.path.as_posix()}
            self.compared.append({**paths, **numbers})

    def _group(self, source: _Picture, outputs: Sequence[_Picture]) -> None:
        """Measure the readable pictures made from one source; a group has at least two."""
        readable = [output for output in outputs if output.fault is None]
        if len(readable) < 2:
            return
        numbers: dict[str, float] = {}
        for name, metric in self.groups:
            key = _key("group", name, metric, *(output.sha for output in readable))
            try:
                pixels = partial(_pixels_of, readable)
                values = self._known("group", key, source.entry, name, metric, pixels)
            except PictureError:
                for output in (output for output in readable if output.fault is not None):
                    self._unusable("generated", output)
                self._group(source, outputs)  # those that are left
                return
            numbers |= values or {}
        if numbers:
            self.grouped.append({"source": source.entry.path.as_posix(), "pictures": len(readable), **numbers})

    def _known(
        self, kind: str, key: str, entry: Entry, name: str, metric: Any, of: Callable[[], Any]
    ) -> dict[str, Any] | None:
        """A metric's result for `of()`, JSON-safe: from the cache, else computed and kept; None, with an entry in
        `failed`, where the metric raises ValueError. Raises PictureError."""
        method = {"note": "of_picture", "pair": "of_pair", "group": "of_group"}[kind]
        known: dict[str, Any] | None = typed(self.cache.get(kind, key), metric.NOTE) if self.cache else None
        if known is not None and (kind != "note" or metric.accepts(known, self.names)):
            return known
        try:
            result: dict[str, Any] = getattr(metric, method)(of())
        except ValueError as error:
            self.failed.append({"picture": entry.path.as_posix(), "reason": f"{name}: {error}"})
            return None
        if self.cache is not None:
            self.cache.put(kind, key, canonical(result))
        return result

    def _feature_key(self, sha: str) -> str:
        assert self.extractor is not None
        return key_of("feature", self.extractor.identity, sha)

    def _unusable(self, side: str, picture: _Picture) -> None:
        """List a picture whose fault has just been found, and count its boxes."""
        assert picture.fault is not None
        reason, detail = picture.fault
        self._bad(side, picture.entry, reason, detail)
        if lost := int((picture.labels.painted & ~picture.labels.ignore).sum()):
            for name, _ in self.pictures:
                self._notes[name, side].skipped[reason] += lost

    def _bad(self, side: str, entry: Entry, reason: str, detail: str) -> None:
        # What leads outside has no path.
        called = entry.name if entry.fault and entry.name else entry.path.as_posix()
        self.unreadable.append({"set": side, "picture": called, "reason": reason, "detail": detail})


@dataclass
class _Picture:
    """A file, read once, and decoded once where that is needed."""

    entry: Entry
    labels: Labels
    inherits: bool = False  # the labels, of its source
    labelled: bool = True  # False: no boxes means that they are not known, not that there are none
    origin: str = ""  # path of the picture that it was made from, where that is known
    sha: str = ""
    data: bytes = b""
    fault: tuple[str, str] | None = None
    decoded: dict[str, Pixels] = field(default_factory=dict)  # by frame

    @classmethod
    def read(cls, entry: Entry, source: Labels | None = None) -> _Picture:
        """source: labels of its source, used in place of the picture's; its caption, if any, stays."""
        labels = entry.labels if source is None else replace(source, caption=entry.labels.caption or source.caption)
        made = cls(entry, labels, source is not None, fault=entry.fault)
        if made.fault is not None:
            return made
        try:
            made.data = here(entry.path, mark=True, sha256=entry.sha256).read_bytes()
        except OSError as error:
            made.fault = "image_missing", f"{entry.path.name}: {error.strerror}"
            return made
        made.sha = digest(made.data)
        if not made.data:
            made.fault = "image_empty", "0 bytes"
        return made

    @property
    def changed(self) -> NDArray[np.float64]:
        """(N, 4) regions or boxes recorded as painted, xyxy pixels; N = 0 where none are recorded."""
        labels = self.entry.labels
        if self.entry.changed is not None:
            return self.entry.changed
        return labels.boxes[labels.painted] if self.entry.source is not None else np.zeros((0, 4))

    def pixels(self, frame: str = "upright") -> Pixels:
        """uint8 (H, W, 3) RGB. Raises PictureError, and keeps its reason."""
        if frame not in self.decoded:
            try:
                self.decoded[frame] = load_rgb(self.data, frame)
            except PictureError as error:
                self.fault = error.reason, error.detail
                raise
        return self.decoded[frame]

    def framed(self, labels: Labels, names: tuple[str, ...]) -> AnnotatedPicture:
        """With labels, in the frame that these are in: turned by EXIF, unless the size that they claim is that of
        the stored pixels. Raises PictureError where its labels are of another size, ValueError where those of its
        source are."""
        if misfit := self.misfit(labels.size):
            if self.inherits:
                raise ValueError(f"labels of its source, {misfit}")
            self.fault = "size_mismatch", misfit
            raise PictureError(*self.fault)
        return AnnotatedPicture(self.turned(labels.size), labels, names)

    def misfit(self, claimed: tuple[int, int]) -> str:
        """The message where labels are of another size; "" where they fit. Raises PictureError."""
        (wide, high), (width, height) = claimed, _size(self.pixels())
        fits = claimed in ((0, 0), _size(self.turned(claimed)))
        return "" if fits else f"annotated as {wide}×{high} pixels, it has {width}×{height}"

    def turned(self, claimed: tuple[int, int]) -> Pixels:
        """Upright, or as stored where these alone are of the claimed size. Raises PictureError."""
        upright = self.pixels()
        if claimed != _size(upright)[::-1] or claimed == _size(upright):
            return upright
        stored = self.pixels("stored")
        return stored if _size(stored) == claimed else upright


def in_frame(path: Path, claimed: tuple[int, int]) -> Pixels:
    """A picture's pixels in the frame that labels of the claimed size are in. Raises PictureError."""
    picture = _Picture.read(Entry(path, path.name))
    if picture.fault is not None:
        raise PictureError(*picture.fault)
    return picture.turned(claimed)


def _size(pixels: Pixels) -> tuple[int, int]:
    """Width, height."""
    return pixels.shape[1], pixels.shape[0]


def _key(kind: str, name: str, metric: Any, *of: Any) -> str:
    settings = metric.settings.model_dump(mode="json", exclude={"model"})
    return key_of(kind, name, metric.VERSION, settings, metric.identity, *of)


def _json_list(labels: Labels) -> list[Any]:
    lists = (values.tolist() for values in (labels.boxes, labels.ignore, labels.painted))
    return [*lists, list(labels.categories), labels.caption, list(labels.size)]


def _pixels_of(pictures: Sequence[_Picture]) -> list[Pixels]:
    return [picture.pixels() for picture in pictures]


def _pair(source: _Picture, output: _Picture, boxes: NDArray[np.float64]) -> Pair:
    """Each in the frame that its labels are in. Raises PictureError, ValueError."""
    for picture in (source, output):
        if not picture.inherits and (misfit := picture.misfit(picture.labels.size)):
            raise ValueError(f"{picture.entry.path.name}: {misfit}")
    before, after = (picture.turned(picture.labels.size) for picture in (source, output))
    if before.shape != after.shape:
        sizes = (f"{shape[1]}×{shape[0]}" for shape in (after.shape, before.shape))
        raise ValueError("{} pixels, its source {}: pictures of one size expected".format(*sizes))
    return Pair(before, after, boxes)
