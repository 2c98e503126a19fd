"""Select: which pictures may be used, and which of their boxes. Column operations only: a million boxes a second.

Rules apply in the order of `_rules`; a picture's reason is the first that sets it aside.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from lib.core.keys import hash_draw
from lib.records.rows import OK, REJECTED, SelectRow, arrow_schema
from lib.records.settings import SelectSettings

IMAGE_COLUMNS = ("key", "status", "file_name", "digest", "frame", "split", "group", "width", "height")
OBJECT_COLUMNS = ("key", "status", "image_key", "category", "x", "y", "w", "h", "crowd")


@dataclass(frozen=True)
class _Columns:
    """Objects as arrays; `image` is the position of their picture, -1 where it is not selectable."""

    keys: pa.ChunkedArray
    image: np.ndarray
    category: np.ndarray  # codes into names
    names: list[str]
    counted: np.ndarray  # bool: counts in max_objects and max_categories
    usable: np.ndarray  # bool: an edit may use it


def select_pictures(
    images: pa.Table, objects: pa.Table, settings: SelectSettings, seed: int, limit: int | None
) -> pa.Table:
    """A SelectRow for every readable picture.

    images: at least IMAGE_COLUMNS of ImageRow; objects: at least OBJECT_COLUMNS of ObjectRow; limit: pictures after
    selection.
    """
    images = images.filter(pc.equal(images["status"], OK))
    columns = _columns(images, objects, settings)
    reasons = np.full(len(images), "", dtype=object)
    for reason, hit in _rules(images, columns, settings):
        reasons[(reasons == "") & hit] = reason
    keys = images["key"].to_pylist() if limit is not None or settings.max_per_category else []
    if settings.max_per_category:
        _cap_categories(reasons, keys, columns, settings.max_per_category, seed)
    if limit is not None:
        open_ = np.flatnonzero(reasons == "")
        reasons[_ranked(open_, keys, "limit", seed)[limit:]] = "over_limit"
    return _table(images, columns, reasons)


def in_order_of_limit(rows: pd.DataFrame, seed: int) -> pd.DataFrame:
    """SelectRows in the order in which `limit` takes them."""
    return rows.iloc[_ranked(np.arange(len(rows)), rows.key.tolist(), "limit", seed)].reset_index(drop=True)


def _columns(images: pa.Table, objects: pa.Table, settings: SelectSettings) -> _Columns:
    position = pc.index_in(objects["image_key"], value_set=images["key"])
    image = np.asarray(pc.fill_null(position, -1))
    encoded = pc.dictionary_encode(objects["category"]).combine_chunks()
    names = [str(name) for name in encoded.dictionary.to_pylist()]
    category = np.asarray(encoded.indices)
    ok = np.asarray(pc.equal(objects["status"], OK)) & (image >= 0)
    counted = ok & ~np.isin(category, _codes(settings.exempt, names))
    wide, high = np.asarray(objects["w"]), np.asarray(objects["h"])
    frame = (np.asarray(images["width"]) * np.asarray(images["height"])).astype(np.float64)
    share = wide * high / (frame[image] if len(frame) else 1.0)
    usable = ok & ~np.asarray(objects["crowd"]) & (np.minimum(wide, high) >= settings.min_box)
    usable &= (share >= settings.min_box_area) & ((share <= settings.max_box_area) | (settings.max_box_area >= 1))
    if settings.categories is not None:
        usable &= np.isin(category, _codes(settings.categories, names))
    return _Columns(objects["key"], image, category, names, counted, usable)


def _codes(wanted: Sequence[str], names: Sequence[str]) -> list[int]:
    return [code for code, name in enumerate(names) if name in set(wanted)]


def _rules(images: pa.Table, columns: _Columns, settings: SelectSettings) -> list[tuple[str, np.ndarray]]:
    """(reason, bool per picture), in order of precedence."""
    n = len(images)
    split = np.asarray(pc.equal(images["split"], settings.split))
    rules = [("other_split", ~split), ("group_crosses_split", _crossing(images, split))]
    shorter = np.minimum(np.asarray(images["width"]), np.asarray(images["height"]))
    rules.append(("picture_too_small", shorter < settings.min_picture))
    usable = np.bincount(columns.image[columns.usable], minlength=n) > 0
    if settings.categories is not None:
        rules.append(("category_not_wanted", ~usable))
    counted = columns.image[columns.counted]
    if settings.max_objects is not None:
        rules.append(("too_many_objects", np.bincount(counted, minlength=n) > settings.max_objects))
    if settings.max_categories is not None:
        pairs = np.unique(np.stack([counted, columns.category[columns.counted]]), axis=1)
        rules.append(("too_many_categories", np.bincount(pairs[0], minlength=n) > settings.max_categories))
    if settings.require_objects:
        rules.append(("no_usable_objects", ~usable))
    return rules


def _crossing(images: pa.Table, split: np.ndarray) -> np.ndarray:
    """Pictures whose group also holds pictures of another split: painting them would leak."""
    group = np.asarray(images["group"].to_pandas().to_numpy(dtype=object))
    named = group != ""
    if not named.any():
        return named
    inside, outside = set(group[named & split]), set(group[named & ~split])
    return np.isin(group, list(inside & outside)) & named


def _cap_categories(reasons: np.ndarray, keys: list[str], columns: _Columns, cap: int, seed: int) -> None:
    """Keep at most `cap` pictures of each category: those with rare categories come first, then the smaller hash."""
    use = columns.usable & (reasons[columns.image] == "") if len(reasons) else columns.usable
    pairs = np.unique(np.stack([columns.image[use], columns.category[use]]), axis=1)
    pictures = np.bincount(pairs[1], minlength=len(columns.names))
    categories: dict[int, list[int]] = {}
    for image, category in pairs.T.tolist():
        categories.setdefault(image, []).append(category)
    ranked = _ranked(np.array(sorted(categories), dtype=np.int64), keys, "cap", seed).tolist()
    kept = np.zeros(len(columns.names), dtype=np.int64)
    for image in sorted(ranked, key=lambda i: min(pictures[categories[i]])):
        if (kept[categories[image]] < cap).all():
            kept[categories[image]] += 1
        else:
            reasons[image] = "category_capped"


def _ranked(positions: np.ndarray, keys: list[str], purpose: str, seed: int) -> np.ndarray:
    """Positions by the hash of their picture's key, so that one more picture moves no other's rank by chance."""
    ranks = np.array([hash_draw(seed, purpose, keys[p]) for p in positions], dtype=np.uint64)
    return positions[np.argsort(ranks, kind="stable")]


def _table(images: pa.Table, columns: _Columns, reasons: np.ndarray) -> pa.Table:
    n = len(images)
    reason = pa.array(reasons, pa.string())
    status = pc.if_else(pc.equal(reason, ""), OK, REJECTED)
    use = np.flatnonzero(columns.usable)
    use = use[np.argsort(columns.image[use], kind="stable")]
    offsets = np.concatenate([[0], np.cumsum(np.bincount(columns.image[use], minlength=n))]).astype(np.int32)
    return pa.table(
        {
            "key": images["key"],
            "status": status,
            "reason": reason,
            "detail": pa.array([""] * n, pa.string()),
            "file_name": images["file_name"],
            "digest": images["digest"],
            "frame": images["frame"],
            "split": images["split"],
            "width": images["width"],
            "height": images["height"],
            "objects": _lists(offsets, columns.keys, use),
            "labels": _lists(offsets, pa.chunked_array([pa.array(columns.names, pa.string())]), columns.category[use]),
        },
    ).cast(arrow_schema(SelectRow))


def _lists(offsets: np.ndarray, texts: pa.ChunkedArray, positions: np.ndarray) -> pa.ListArray:
    """One list of texts per picture: texts[positions], cut at the offsets."""
    return pa.ListArray.from_arrays(pa.array(offsets), texts.take(pa.array(positions)).combine_chunks())
