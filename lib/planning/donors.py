"""Donors: real objects that copy-paste may cut out of their pictures and put into others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from lib.core.geometry import most_covered, xywh_to_xyxy
from lib.core.keys import hash_draw
from lib.records.rows import OK


@dataclass(frozen=True)
class _Donors:
    """Donors of one category, in the order of their hashes."""

    sizes: np.ndarray  # (N, 2) float64 width, height, pixels
    hashes: np.ndarray  # (N,) uint64, of the annotation and its picture, ascending
    rows: pd.DataFrame


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

    def choose(
        self, painter: Any, settings: Any, category: str, wh: tuple[float, float], seed: int, target: str
    ) -> Any:
        """The fitting donor's row with the smallest hash for this seed, never that of annotation `target`; None where
        none fits.

        Of a large pool only the next _LOOK donors after the seed's place in the order of hashes are looked at, then the
        next ones, until one fits: so a choice costs the same for a million donors, and adding one moves few choices.
        """
        if category not in self.categories:
            return None
        donors = self.categories[category]
        count, start = len(donors.hashes), int(np.searchsorted(donors.hashes, _mix(np.array([seed], np.uint64))[0]))
        for first in range(0, count, _LOOK):
            places = (start + np.arange(first, min(first + _LOOK, count))) % count
            places = places[painter.fits(settings, *wh, donors.sizes[places])]
            order = np.argsort(_mix(donors.hashes[places] ^ np.uint64(seed)))
            for place in places[order[:2]]:  # the first may be the object itself
                if donors.rows.key.iat[place] != target:
                    return donors.rows.iloc[place]
        return None


_LOOK = 1024


def _donors(group: pd.DataFrame) -> _Donors:
    identities = group.digest + " " + group.key
    hashes = _mix(np.array([hash_draw("donor", identity) for identity in identities], dtype=np.uint64))
    order = np.argsort(hashes, kind="stable")
    rows = group.iloc[order].reset_index(drop=True)
    boxes = xywh_to_xyxy(rows[["x", "y", "w", "h"]].to_numpy())
    frame = rows[["width", "height"]].to_numpy(dtype=np.float64)
    sizes = np.minimum(boxes[:, 2:], frame) - np.maximum(boxes[:, :2], 0)
    return _Donors(np.maximum(sizes, 1), hashes[order], rows)


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
