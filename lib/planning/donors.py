"""Donors: which real object copy-paste puts into a box, how it is pasted, and in a free place where."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, NamedTuple

import numpy as np

from lib.core.geometry import IntBox, Polygons, clip_xyxy, outer_pixels, xywh_to_xyxy
from lib.core.keys import hash_draw
from lib.planning.donor_pool import DonorPool, sizes_of
from lib.planning.former import Former
from lib.planning.outlines import Outlines
from lib.planning.surroundings import Room, Spot, Surroundings
from lib.records.labels import polygons_of
from lib.records.requests import Donor


@dataclass(frozen=True)
class Settled:
    """What a new object is, and where."""

    number: int  # of its room
    donor: Donor
    box: IntBox  # xyxy pixels, which the donor fills


@dataclass(frozen=True)
class Donors:
    """Chooses the donor of each pass, how it is pasted, and in a free place where."""

    pool: DonorPool
    painter: Any  # a PAINTERS member that needs donors
    settings: Any  # the painter's
    former: Mapping[int, Former] = field(default_factory=dict)  # `former_donors` of an earlier plan, by a pass's seed
    outlines: Outlines | None = None  # of objects without a mask; None: these are pasted as boxes
    surroundings: Surroundings | None = None  # None: no pixels are at hand

    def choose(self, box: IntBox, category: str, seed: int, target: str) -> Donor | None:
        """The donor for a box (xyxy, pixels) of about its size and aspect; None where none fits. The donor of an
        earlier plan stays where it still fits.

        Args:
            seed: of the pass.
            target: annotation key of the object that is replaced, which is not its donor.
        """

        def fits(sizes: np.ndarray) -> np.ndarray:
            return np.asarray(self.painter.fits(self.settings, box[2] - box[0], box[3] - box[1], sizes))

        former = self.former.get(seed)
        row = None if former is None else self.pool.row(former.identity, category)
        if row is None or row.key == target or not row.alone or not fits(sizes_of(row))[0]:
            found = self.pool.candidates(fits, category, seed, target)
            row = next((row for row in found if row.alone), None)
        return None if row is None else self._donor(row, seed, None)

    def settle(self, rooms: Sequence[Room], seed: int, picture: np.ndarray | None = None) -> Settled | None:
        """A new object and its place: in the first room, in their order, for which a donor's surroundings are like
        those of a place, else in the first one where they differ least; None where no donor fits any room.

        Objects with an outline come first. One keeps its aspect, and stands on the ground of such objects. Donor and
        place of an earlier plan stay where they still fit.

        Args:
            seed: of the pass.
            picture: uint8 (H, W, 3); None: no pixels are at hand, and the places that were drawn are taken.
        """
        stays = self._stays(rooms, seed)
        if stays is not None:
            return stays
        found = self._alike(rooms, seed, picture)
        if found is not None:
            return found
        return next(filter(None, (self._drawn(number, room, seed) for number, room in enumerate(rooms))), None)

    def _drawn(self, number: int, room: Room, seed: int, only_cut: bool = False) -> Settled | None:
        """In the place that was drawn, an object with an outline before others. only_cut: none without one."""
        first, outline = None, None
        for row in self._rows(room, seed):
            outline = self._outline(row)
            first = row if outline or first is None else first
            if outline:
                break
        if first is None or (only_cut and not outline):
            return None
        return Settled(number, self._donor(first, seed, outline or None), self._shrunk(room.box, first))

    def _alike(self, rooms: Sequence[Room], seed: int, picture: np.ndarray | None) -> Settled | None:
        """By surroundings; None where no pixels are at hand, or no place was found.

        An object that is cut out brings nothing of its surroundings: the first room keeps it, in its nearest place, so
        that categories which fit few places do not go short. What is pasted with its surroundings goes where they fit.
        """
        if picture is None or self.surroundings is None:
            return None
        found: list[_Found] = []
        for number, room in enumerate(rooms):
            mine: list[_Found] = []
            alike: list[_Found] = []
            for row in islice(self._rows(room, seed), _LOOKED_AT):
                spot = self._spot(row, room, picture, self._flip(seed))
                mine += [] if spot is None else [_Found(spot, number, row)]
                alike += [] if spot is None or spot.differs > _LIKE else [mine[-1]]
                if len(alike) == _ENOUGH:
                    break
            if alike:
                return self._with_outline(alike, seed)
            if any(self._outline(one.row) for one in mine):
                return self._with_outline(mine, seed)
            cut = self._drawn(number, room, seed, only_cut=True)
            if cut is not None:
                return cut
            found = found or mine  # of the first room that has any place
        return self._with_outline(found, seed) if found else None

    def _with_outline(self, found: list[_Found], seed: int) -> Settled:
        """The nearest that has an outline, among the first few; the nearest of all where none has one."""
        found = sorted(found, key=lambda one: one.spot.differs)
        outlined = ((one, outline) for one in found[:_LOOKED_AT] if (outline := self._outline(one.row)))
        one, outline = next(outlined, (found[0], None))
        return Settled(one.number, self._donor(one.row, seed, outline, around=outline is None), one.spot.box)

    def _stays(self, rooms: Sequence[Room], seed: int) -> Settled | None:
        """The object of an earlier plan, where its donor is still there and its place free."""
        former = self.former.get(seed)
        if former is None:
            return None
        for number, room in enumerate(rooms):
            row = self.pool.row(former.identity, room.category)
            if row is not None and room.admits(former.box) and self._fills(row, former.box):
                outline = self._outline(row)
                if row.alone or outline:
                    return Settled(number, self._donor(row, seed, outline, former.around), former.box)
        return None

    def _rows(self, room: Room, seed: int) -> Iterator[Any]:
        """Donors of about the size and aspect of a free place, then those that do not become too small in it."""
        wide, high = room.box[2] - room.box[0], room.box[3] - room.box[1]

        def fits(sizes: np.ndarray) -> np.ndarray:
            return np.asarray(self.painter.fits(self.settings, wide, high, sizes))

        def fits_inside(sizes: np.ndarray) -> np.ndarray:
            return np.asarray(self.painter.within(self.settings, wide, high, sizes).min(axis=1) >= room.least)

        seen = set()
        for way in (fits, fits_inside):
            for row in islice(self.pool.candidates(way, room.category, seed, ""), _OUTLINED):
                if row.key not in seen and (row.alone or self._outline(row)):
                    yield row
                seen.add(row.key)

    def _outline(self, row: Any) -> Polygons | None:
        """The object's mask, or what the picture shows of its outline where it is alone; None for neither."""
        if not self.settings.cut:
            return None
        mask = _polygons(row)
        if mask or not row.alone or self.outlines is None:
            return mask
        return self.outlines(row.digest, row.frame, crop_of(row))

    def _spot(self, row: Any, room: Room, picture: np.ndarray, flip: bool) -> Spot | None:
        """Where a donor would stand: as large as in its own picture, else as the place that was drawn allows."""
        assert self.surroundings is not None
        view = self.surroundings.view(row.digest, row.frame, crop_of(row))
        view = view.mirrored() if view is not None and flip else view
        scale = picture.shape[0] / row.height
        scale = 1.0 if abs(scale - 1) < _SAME else min(scale, self.settings.max_upscale)
        own = [max(1, round(side * scale)) for side in sizes_of(row)[0].tolist()]
        x0, y0, x1, y1 = self._shrunk(room.box, row)
        for size in ((own[0], own[1]), (x1 - x0, y1 - y0)):
            spot = None if view is None or min(size) < room.least else self.surroundings.spot(picture, view, room, size)
            if spot is not None:
                return spot
        return None

    def _shrunk(self, box: IntBox, row: Any) -> IntBox:
        """A free place made as large as the donor becomes in it, on the same ground."""
        x0, y0, x1, y1 = box
        sizes = self.painter.within(self.settings, x1 - x0, y1 - y0, sizes_of(row))
        wide, high = (max(1, round(side)) for side in sizes[0].tolist())
        left = x0 + (x1 - x0 - wide) // 2
        return left, y1 - high, left + wide, y1

    def _flip(self, seed: int) -> bool:
        return self.settings.flip and bool(hash_draw("flip", seed) % 2)

    def _fills(self, row: Any, box: IntBox) -> bool:
        """Does a donor fill a box (xyxy) without being stretched?"""
        sides = np.array([box[2] - box[0], box[3] - box[1]])
        return bool((np.abs(self.painter.within(self.settings, *sides, sizes_of(row))[0] - sides) <= 1).all())

    def _donor(self, row: Any, seed: int, outline: Polygons | None, around: bool = False) -> Donor:
        return Donor(
            annotation=row.key,
            digest=row.digest,
            box=crop_of(row),
            frame=row.frame,
            flip=self._flip(seed),
            polygon=_polygons(row),
            outline=outline,
            around=around,
        )


class _Found(NamedTuple):
    spot: Spot
    number: int  # of the room
    row: Any  # the donor's


def crop_of(row: Any) -> IntBox:
    """The donor's box, xyxy whole pixels in its picture. row: has x, y, w, h, and its picture's width and height."""
    box = clip_xyxy(xywh_to_xyxy(np.array([row.x, row.y, row.w, row.h])), row.width, row.height)
    return outer_pixels(box.tolist())


def _polygons(row: Any) -> Polygons | None:
    return polygons_of(row.record, int(row.height), int(row.width)) if row.polygon else None


_OUTLINED = 12  # candidates whose outline is looked for
_LOOKED_AT = 8  # candidates whose surroundings are compared
_ENOUGH = 3  # of them that are like those of a place
_SAME = 0.25  # pictures whose heights differ by less are of one scale
_LIKE = 12.0  # grey levels by which surroundings that are alike differ at most
