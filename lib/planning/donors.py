"""Donors: real objects that copy-paste may cut out of their pictures and put into others."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain, islice
from typing import Any

import msgspec
import numpy as np
import pandas as pd

from lib.core.geometry import IntBox, Polygons, clip_xyxy, most_covered, outer_pixels, xywh_to_xyxy
from lib.core.keys import hash_draw
from lib.planning.outlines import Outlines
from lib.records.labels import polygons_of
from lib.records.requests import Donor
from lib.records.rows import OK

Identity = tuple[str, str]  # digest of the donor's picture, key of its annotation
Fits = Callable[[np.ndarray], np.ndarray]  # (N, 2) float64 widths and heights, pixels → (N,) bool


@dataclass(frozen=True)
class _Donors:
    """Donors of one category, in the order of their hashes."""

    sizes: np.ndarray  # (N, 2) float64 width, height, pixels
    hashes: np.ndarray  # (N,) uint64, of the annotation and its picture, ascending
    rows: pd.DataFrame

    @cached_property
    def places(self) -> dict[Identity, int]:
        """Row number of each donor."""
        return {names: place for place, names in enumerate(zip(self.rows.digest, self.rows.key, strict=True))}


@dataclass(frozen=True)
class DonorPool:
    """Objects that copy-paste may cut out, by category."""

    categories: Mapping[str, _Donors] = field(default_factory=dict)

    @classmethod
    def of(cls, objects: pd.DataFrame, images: pd.DataFrame, split: str) -> DonorPool:
        """Usable objects of readable pictures of one split; no crowds, and none with a piece of another in its box."""
        # A group on both sides of the split would leak through its donors.
        outside = set(images.group[(images.split != split) & (images.group != "")])
        pictures = images[(images.status == OK) & (images.split == split) & ~images.group.isin(outside)]
        pictures = pictures[["key", "digest", "frame", "width", "height"]].rename(columns={"key": "image_key"})
        shown = objects[objects.status == OK]
        alone = ~shown.crowd & (_overlapped(shown) <= _MOST_OVERLAP)
        usable = shown[alone].merge(pictures, on="image_key")
        return cls({str(category): _donors(group) for category, group in usable.groupby("category")})

    def row(self, donor: Identity, category: str) -> Any:
        """The row of a donor; None where the pool does not have it."""
        donors = self.categories.get(category)
        place = None if donors is None else donors.places.get(donor)
        return None if donors is None or place is None else donors.rows.iloc[place]

    def candidates(self, fits: Fits, category: str, seed: int, target: str) -> Iterator[Any]:
        """Rows of fitting donors in the order of their hashes for this seed, never that of annotation `target`.

        Of a large pool only the next _LOOK donors after the seed's place in the order of hashes are looked at, then the
        next ones: so a choice costs the same for a million donors, and adding one moves few choices.
        """
        if category not in self.categories:
            return
        donors = self.categories[category]
        count, start = len(donors.hashes), int(np.searchsorted(donors.hashes, _mix(np.array([seed], np.uint64))[0]))
        for first in range(0, count, _LOOK):
            places = (start + np.arange(first, min(first + _LOOK, count))) % count
            places = places[fits(donors.sizes[places])]
            order = np.argsort(_mix(donors.hashes[places] ^ np.uint64(seed)))
            for place in places[order]:
                if donors.rows.key.iat[place] != target:
                    yield donors.rows.iloc[place]


@dataclass(frozen=True)
class Donors:
    """Chooses the donor of each pass, and how it is pasted."""

    pool: DonorPool
    painter: Any  # a PAINTERS member that needs donors
    settings: Any  # the painter's
    former: Mapping[int, Identity] = field(default_factory=dict)  # `former_donors` of an earlier plan, by a pass's seed
    outlines: Outlines | None = None  # of objects without a mask; None: these are pasted as boxes

    def choose(
        self, box: IntBox, category: str, seed: int, target: str, least: int | None = None
    ) -> tuple[Donor, IntBox] | None:
        """The donor for a box (xyxy, pixels), and the box that it fills; None where no donor fits.

        Best is one of about the box's size and aspect. In a free place, objects with an outline come first, and then
        any that does not become too small; the box becomes as large as the donor is there, on the same ground. The
        donor of an earlier plan stays where it still fits.

        Args:
            seed: of the pass.
            target: annotation key of the object that is replaced, which is not its donor; "" for none.
            least: of a free place, the least side of a new object, pixels; None: the box is not free.
        """
        wh = box[2] - box[0], box[3] - box[1]

        def fits(sizes: np.ndarray) -> np.ndarray:
            return np.asarray(self.painter.fits(self.settings, *wh, sizes))

        def fits_inside(sizes: np.ndarray) -> np.ndarray:
            return np.asarray(self.painter.within(self.settings, *wh, sizes).min(axis=1) >= (least or 0))

        ways: list[Fits] = [fits] if least is None else [fits, fits_inside]
        row = self._former(seed, category, target, ways)
        if row is None:
            found = [self.pool.candidates(way, category, seed, target) for way in ways]
            row = next(chain(*found), None) if least is None else self._best(found)
        if row is None:
            return None
        if least is None:
            return self._donor(row, seed, None), box
        return self._donor(row, seed, self._outline(row)), self._shrunk(box, row)

    def _former(self, seed: int, category: str, target: str, ways: Sequence[Fits]) -> Any:
        row = self.pool.row(self.former[seed], category) if seed in self.former else None
        if row is None or row.key == target:
            return None
        return row if any(fits(_sizes(row.to_frame().T))[0] for fits in ways) else None

    def _best(self, ways: Sequence[Iterator[Any]]) -> Any:
        """The first candidate with an outline among the first _OUTLINED of each way; the first of all where none has
        one, as of defects that are textures; None for no candidate."""
        rows = [row for candidates in ways for row in islice(candidates, _OUTLINED)]
        return next((row for row in rows if self._outline(row)), rows[0] if rows else None)

    def _outline(self, row: Any) -> Polygons | None:
        """The object's mask, or what the picture shows of its outline; None for neither."""
        if not self.settings.cut:
            return None
        return _polygons(row) or (self.outlines(row.digest, row.frame, crop_of(row)) if self.outlines else None)

    def _shrunk(self, box: IntBox, row: Any) -> IntBox:
        """A free place made as large as the donor becomes in it, on the same ground."""
        x0, y0, x1, y1 = box
        sizes = self.painter.within(self.settings, x1 - x0, y1 - y0, _sizes(row.to_frame().T))
        wide, high = (max(1, round(side)) for side in sizes[0].tolist())
        left = x0 + (x1 - x0 - wide) // 2
        return left, y1 - high, left + wide, y1

    def _donor(self, row: Any, seed: int, outline: Polygons | None) -> Donor:
        return Donor(
            annotation=row.key,
            digest=row.digest,
            box=crop_of(row),
            frame=row.frame,
            flip=self.settings.flip and bool(hash_draw("flip", seed) % 2),
            polygon=_polygons(row),
            outline=outline,
        )


def crop_of(row: Any) -> IntBox:
    """The donor's box, xyxy whole pixels in its picture. row: has x, y, w, h, and its picture's width and height."""
    box = clip_xyxy(xywh_to_xyxy(np.array([row.x, row.y, row.w, row.h])), row.width, row.height)
    return outer_pixels(box.tolist())


def _polygons(row: Any) -> Polygons | None:
    return polygons_of(row.record, int(row.height), int(row.width)) if row.polygon else None


def former_donors(requests: Iterable[bytes]) -> dict[int, Identity]:
    """The donor that each pass of an earlier plan took, by the pass's seed. requests: of PlanRows that are ok."""
    passes = [step for request in requests for step in _FORMER.decode(request).passes]
    return {step.seed: (step.donor.digest, step.donor.annotation) for step in passes if step.donor is not None}


class _FormerDonor(msgspec.Struct):
    digest: str
    annotation: str


class _FormerPass(msgspec.Struct):
    seed: int
    donor: _FormerDonor | None = None


class _FormerRequest(msgspec.Struct):
    passes: list[_FormerPass]


_FORMER = msgspec.json.Decoder(_FormerRequest)


_LOOK = 1024
_OUTLINED = 12  # candidates whose outline is looked for


def _donors(group: pd.DataFrame) -> _Donors:
    identities = group.digest + " " + group.key
    hashes = _mix(np.array([hash_draw("donor", identity) for identity in identities], dtype=np.uint64))
    order = np.argsort(hashes, kind="stable")
    rows = group.iloc[order].reset_index(drop=True)
    return _Donors(_sizes(rows), hashes[order], rows)


def _sizes(rows: pd.DataFrame) -> np.ndarray:
    """(N, 2) width and height, pixels, of what of the donors' boxes lies in their pictures."""
    numbers = rows[["x", "y", "w", "h", "width", "height"]].to_numpy(np.float64)
    boxes, frame = xywh_to_xyxy(numbers[:, :4]), numbers[:, 4:]
    return np.maximum(np.minimum(boxes[:, 2:], frame) - np.maximum(boxes[:, :2], 0), 1)


# A pasted piece of another object would be an object without a label.
_MOST_OVERLAP = 0.1


def _overlapped(objects: pd.DataFrame) -> np.ndarray:
    """(N,) the largest share of each object's box that another annotated box of its picture covers."""
    boxes = xywh_to_xyxy(objects[["x", "y", "w", "h"]].to_numpy())
    shares = np.zeros(len(objects))
    for places in objects.groupby("image_key", sort=False).indices.values():
        if len(places) > 1:
            shares[places] = most_covered(boxes[places])
    return shares


def _mix(values: np.ndarray) -> np.ndarray:
    """splitmix64's finaliser (Steele et al. 2014): spreads 64-bit values evenly, whole columns at once."""
    with np.errstate(over="ignore"):
        values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return values ^ (values >> np.uint64(31))
