"""Statistics: what a plan draws from, taken from the data set's objects.

    survey = Survey(workspace, "train", categories, rows)
    statistics = survey.statistics(recipe)        # places and mixes, pinned in the workspace
    donors = survey.donors(["cat"])               # real objects for copy-paste

Places say where objects of each category stand in their pictures, and how large; mixes say of which categories the
objects of one picture are, so that a drawn layout has as many objects as pictures have, and of categories that come
together. Both are pinned, so that a picture added to the data set leaves the other plans alone; remove places.json or
mixes.json to have them taken anew.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec
import numpy as np
import pandas as pd

from lib.core.files import digest
from lib.core.geometry import xywh_to_xyxy
from lib.core.keys import hash_draw
from lib.planning.donor_pool import DonorPool
from lib.planning.recipe import Recipe
from lib.records import kept
from lib.records.manifest import to_table
from lib.records.rows import OK, ImageRow, ObjectRow

MOST = 512  # places of each category, and mixes: enough for their spread, little enough to pin

Places = dict[str, np.ndarray]  # category → (N, 3) float64: bottom, width, height in heights of the picture
Mix = tuple[str, ...]  # the categories of one picture's objects

# Categories → ObjectRows that are ok, and ImageRows: with the digests of all pictures that hold one of the categories.
Rows = Callable[[Collection[str]], tuple[pd.DataFrame, pd.DataFrame]]


@dataclass(frozen=True)
class Statistics:
    """Each is empty where the recipe draws nothing from it."""

    places: Places = field(default_factory=dict)  # of categories that new objects may be of
    mixes: Sequence[Mix] = ()
    donors: DonorPool = field(default_factory=DonorPool)


@dataclass(frozen=True)
class Survey:
    """A data set's statistics: those that a workspace has pinned, the others counted from its rows."""

    root: Path  # the workspace
    split: str
    categories: Collection[str]  # names of the data set's categories
    rows: Rows  # not called for what is pinned
    pins: bool = True  # False: nothing is written

    def statistics(self, recipe: Recipe, wanted: Collection[str] | None = None) -> Statistics:
        """Places and mixes, where the recipe's edit draws from them; donors are left to `donors`.

        wanted: categories that new objects may be of; None: all. Raises AugmentError for a damaged file.
        """
        return Statistics(
            self.places(wanted) if recipe.needs_places else {}, self.mixes() if recipe.needs_mixes else ()
        )

    def identity(self, recipe: Recipe, wanted: Collection[str] | None = None) -> dict[str, Any]:
        """What a plan depends on of the places and mixes, as a part of its key; they are pinned by then."""
        statistics, parts = self.statistics(recipe, wanted), dict[str, Any]()
        if recipe.needs_places:
            parts |= {"categories": list(statistics.places), "places": _digest(self._places_file)}
        if recipe.needs_mixes:
            parts["mixes"] = _digest(self._mixes_file)
        return parts

    def places(self, wanted: Collection[str] | None = None) -> Places:
        """Places of the categories that new objects may be of, sorted; a new category is counted, and pinned."""
        pinned = _read(self._places_file, _PinnedPlaces, self.split)
        known = {name: np.array(rows, np.float64) for name, rows in pinned.places.items()} if pinned else {}
        added: Places = {}
        if not set(self.categories) <= known.keys():
            objects, images = self.rows(self.categories)
            added = places_of(objects, images, self.split, known)
        if known := known | added:
            pinned = _PinnedPlaces(self.split, {name: rows.tolist() for name, rows in known.items()})
            self._pin(self._places_file, pinned, new=bool(added))
        usable = sorted(name for name in known if name in self.categories and (wanted is None or name in wanted))
        return {name: known[name] for name in usable}

    def mixes(self) -> list[Mix]:
        """The mixes of up to MOST pictures."""
        pinned = _read(self._mixes_file, _PinnedMixes, self.split)
        mixes = pinned.mixes if pinned else []
        if not mixes:
            objects, images = self.rows(self.categories)
            mixes = mixes_of(objects, images, self.split)
        if mixes:
            self._pin(self._mixes_file, _PinnedMixes(self.split, mixes), new=pinned is None)
        return mixes

    def donors(self, categories: Collection[str]) -> DonorPool:
        """Objects of at least these categories that may be cut out and pasted. They are not pinned."""
        objects, images = self.rows(categories)
        return DonorPool.of(objects, images, self.split)

    def _pin(self, path: Path, pinned: _PinnedPlaces | _PinnedMixes, new: bool) -> None:
        """What is new, and a file of a former version, which has no digest."""
        if self.pins and (new or not kept.sealed(path)):
            kept.write(path, pinned, durable=True)

    @property
    def _places_file(self) -> Path:
        return self.root / "places.json"

    @property
    def _mixes_file(self) -> Path:
        return self.root / "mixes.json"


def places_of(objects: pd.DataFrame, images: pd.DataFrame, split: str, known: Collection[str] = ()) -> Places:
    """Places of up to MOST objects of each category, those with the smallest hashes; of one split, no crowds.

    objects: ObjectRows that are ok; images: ImageRows; known: categories that are left out.
    """
    pictures = images[(images.status == OK) & (images.split == split)]
    pictures = pictures[["key", "digest", "width", "height"]].rename(columns={"key": "image_key"})
    shown = objects[~objects.crowd & ~objects.category.isin(list(known))].merge(pictures, on="image_key")
    found = {str(category): _places(group) for category, group in shown.groupby("category")}
    return {category: rows for category, rows in found.items() if len(rows)}


def rows_drawn_from(
    parts: Iterable[tuple[pd.DataFrame, pd.DataFrame]], split: str
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Of more objects and pictures than memory should hold those of which `places_of` and `mixes_of` find what they
    find of all: objects that are ok, and their pictures.

    parts: ObjectRows and ImageRows, of each some pictures with all their objects.
    """
    held: list[pd.DataFrame] = []
    for objects, images in parts:
        pictures = images[(images.status == OK) & (images.split == split)]
        pictures = pictures[["key", "digest", "width", "height"]].rename(columns={"key": "image_key"})
        shown = objects.loc[(objects.status == OK) & ~objects.crowd, ["key", "image_key", "category", "crowd", *"xywh"]]
        shown = shown.merge(pictures, on="image_key")
        if len(shown):
            mixes = {name: hash_draw("mix", name) for name in _named(shown).unique()}
            held.append(shown.assign(place=_place_hashes(shown), mix=_named(shown).map(mixes)))
        if sum(map(len, held[1:])) > max(_HELD, len(held[0]) if held else 0):
            held = [_drawn_from(pd.concat(held, ignore_index=True))]
    if not held:
        return to_table([], ObjectRow).to_pandas(), to_table([], ImageRow).to_pandas()
    rows = _drawn_from(pd.concat(held, ignore_index=True)).drop(columns=["place", "mix"])
    pictures = rows[["image_key", "digest", "width", "height"]].drop_duplicates("image_key")
    pictures = pictures.rename(columns={"image_key": "key"}).assign(status=OK, split=split)
    return rows.drop(columns=["digest", "width", "height"]), pictures.reset_index(drop=True)


_HELD = 1 << 16  # objects that wait to be compared with those of the smallest hashes


def _drawn_from(rows: pd.DataFrame) -> pd.DataFrame:
    places = rows.groupby("category").place.rank(method="first") <= MOST
    return rows[places | rows.mix.isin(np.unique(rows.mix)[:MOST])]


def _place_hashes(rows: pd.DataFrame) -> np.ndarray:
    return np.array([hash_draw("place", one + " " + two) for one, two in zip(rows.digest, rows.key, strict=True)])


def _named(rows: pd.DataFrame) -> pd.Series:
    """Of each object its picture, which may be listed twice."""
    return rows.digest + " " + rows.image_key


def _places(rows: pd.DataFrame) -> np.ndarray:
    rows = rows.iloc[np.argsort(_place_hashes(rows), kind="stable")[:MOST]]
    frame = rows[["width", "height"]].to_numpy(dtype=np.float64)
    corners = xywh_to_xyxy(rows[["x", "y", "w", "h"]].to_numpy())
    x0, y0, x1, y1 = np.clip(corners, 0, np.tile(frame, 2)).T
    places = np.round(np.stack([y1, x1 - x0, y1 - y0], axis=1) / frame[:, 1:], 6)
    return np.asarray(places[(places > 0).all(axis=1)])


def mixes_of(objects: pd.DataFrame, images: pd.DataFrame, split: str) -> list[Mix]:
    """Mixes of up to MOST pictures with objects, those with the smallest hashes; of one split, no crowds.

    A picture that is listed twice has a mix for each time.

    objects: ObjectRows that are ok; images: ImageRows.
    """
    pictures = images[(images.status == OK) & (images.split == split)][["key", "digest"]]
    shown = objects[~objects.crowd].merge(pictures.rename(columns={"key": "image_key"}), on="image_key")
    named = _named(shown)
    chosen = sorted(named.unique(), key=lambda name: hash_draw("mix", name))[:MOST]
    groups = shown[named.isin(chosen)].groupby(named).category
    found = {name: tuple(sorted(group)) for name, group in groups}
    return [found[name] for name in chosen]


_Side = Annotated[float, msgspec.Meta(gt=0)]
_Row = tuple[_Side, _Side, _Side]


class _PinnedPlaces(msgspec.Struct, forbid_unknown_fields=True):
    split: str
    places: dict[str, Annotated[list[_Row], msgspec.Meta(min_length=1)]]


class _PinnedMixes(msgspec.Struct, forbid_unknown_fields=True):
    split: str
    mixes: list[Annotated[Mix, msgspec.Meta(min_length=1)]]


_Pinned = TypeVar("_Pinned", _PinnedPlaces, _PinnedMixes)


def _read(path: Path, kind: type[_Pinned], split: str) -> _Pinned | None:
    """What a file pins for a split; None where it is missing, or of another split."""
    pinned = kept.read(path, kind)
    return pinned if pinned is not None and pinned.split == split else None


def _digest(path: Path) -> str:
    return digest(path.read_bytes()) if path.is_file() else ""
