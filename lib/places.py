"""Places: where objects of each category stand in their pictures, and how large. Edit `insert` draws from them.

They are pinned in the workspace, so that a picture added to the data set leaves the other plans alone; remove the file
to have them taken anew.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path
from typing import Annotated

import msgspec
import numpy as np
import pandas as pd

from lib import kept
from lib.geometry import xywh_to_xyxy
from lib.requests import draw
from lib.schemas import OK

MOST = 512  # of each category: enough for its spread, little enough to pin

Places = dict[str, np.ndarray]  # category → (N, 3) float64: bottom, width, height in heights of the picture


def places_of(objects: pd.DataFrame, images: pd.DataFrame, split: str, known: Collection[str] = ()) -> Places:
    """Places of up to MOST objects of each category, those with the smallest hashes; of one split, no crowds.

    objects: ObjectRows that are ok; images: ImageRows; known: categories that are not asked for.
    """
    pictures = images[(images.status == OK) & (images.split == split)]
    pictures = pictures[["key", "digest", "width", "height"]].rename(columns={"key": "image_key"})
    shown = objects[~objects.crowd & ~objects.category.isin(list(known))].merge(pictures, on="image_key")
    found = {str(category): _places(group) for category, group in shown.groupby("category")}
    return {category: rows for category, rows in found.items() if len(rows)}


def _places(rows: pd.DataFrame) -> np.ndarray:
    hashes = np.array([draw("place", one + " " + two) for one, two in zip(rows.digest, rows.key, strict=True)])
    rows = rows.iloc[np.argsort(hashes, kind="stable")[:MOST]]
    frame = rows[["width", "height"]].to_numpy(dtype=np.float64)
    corners = xywh_to_xyxy(rows[["x", "y", "w", "h"]].to_numpy())
    x0, y0, x1, y1 = np.clip(corners, 0, np.tile(frame, 2)).T
    told = np.round(np.stack([y1, x1 - x0, y1 - y0], axis=1) / frame[:, 1:], 6)
    return np.asarray(told[(told > 0).all(axis=1)])


_Side = Annotated[float, msgspec.Meta(gt=0)]
_Row = tuple[_Side, _Side, _Side]


class _Pinned(msgspec.Struct, forbid_unknown_fields=True):
    split: str
    places: dict[str, Annotated[list[_Row], msgspec.Meta(min_length=1)]]


def pinned_places(path: Path, split: str, make: Callable[[Collection[str]], Places]) -> Places:
    """The places in a file, where they are of this split; those of categories that it lacks are made and added.

    make: categories that are known → places of the others: a run with nothing new must not go through all objects.
    Raises AugmentError for a damaged file.
    """
    known = read_places(path, split)
    added = {name: rows for name, rows in make(known.keys()).items() if name not in known}
    if added or (known and not kept.sealed(path)):
        told = _Pinned(split, {name: rows.tolist() for name, rows in (known | added).items()})
        kept.write(path, told, durable=True)
    return known | added


def read_places(path: Path, split: str) -> Places:
    """The places in a file; none for one of another split, or for no file. Raises AugmentError for a damaged one."""
    told = kept.read(path, _Pinned)
    if told is None or told.split != split:
        return {}
    return {name: np.array(rows, dtype=np.float64) for name, rows in told.places.items()}


def usable_categories(places: Places, known: Collection[str], wanted: Collection[str] | None) -> list[str]:
    """Categories that new objects may be of: with places, known to the data set, and wanted (none: all are)."""
    return sorted(name for name in places if name in known and (wanted is None or name in wanted))
