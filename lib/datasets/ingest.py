"""Ingest: after the annotations are read, the pictures themselves, each opened once in its life.

images = check_pictures(images, root, max_pixels, known)    # known: the manifest of the run before
objects = settle_objects(images, objects)
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from lib.core import bucket_sets
from lib.core.images import PictureError, PictureInfo, glance, inside, inspect
from lib.datasets.formats.tables import outside
from lib.records.requests import Request, parsed
from lib.records.rows import OK, REJECTED, ObjectRow, arrow_schema

_BLOCK = 512  # pictures handed to the threads at once: a kill or an error waits for no more than these
_TEXTS = ("status", "reason", "detail", "digest", "frame", "path")
_NUMBERS = ("width", "height", "size", "mtime_ns")

Columns = dict[str, np.ndarray]  # of one length: object for texts, int64 for numbers
Found = dict[str, PictureInfo | PictureError]  # by path


def check_pictures(
    images: pd.DataFrame,
    root: Path,
    max_pixels: int,
    known: pd.DataFrame | None = None,
    advance: Callable[[int], object] = lambda n: None,
    decode: bool = True,
    when: str = "",
) -> pd.DataFrame:
    """Image rows with digest, size, mtime_ns, frame and, where the record has none, width and height filled in.

    A picture whose path, size and mtime are those of an ok row of `known`, itself perhaps stale, is not opened again.
    Rows rejected before stay as they are. New reasons: image_missing, image_empty, image_broken, image_too_large,
    path_outside_root, size_mismatch. `advance` receives how many rows are done. Raises nothing for a bad picture, which
    without `decode` is found only where its header is bad. when: the moment, for pictures in a bucket.
    """
    rows = _columns(images)
    todo = rows["status"] == OK
    advance(int((~todo).sum()))
    _stat_all(rows, todo, root, when)
    reused = _reuse(rows, todo, known, max_pixels)
    advance(int(reused.sum()))
    fresh = todo & ~reused
    found = _inspect_all(Counter(rows["path"][fresh].tolist()), root, max_pixels, advance, decode)
    _fill(rows, np.flatnonzero(fresh), found)
    return images.assign(**{name: rows[name] for name in (*_TEXTS, *_NUMBERS) if name != "path"})


def changed_sources(
    images: pd.DataFrame, plan: pd.DataFrame, of_pictures: Iterable[str], of_requests: Iterable[str]
) -> set[str]:
    """Digests of the sources, donors too, that some pictures and requests depend on: the rows that ingest keeps of
    them are not valid where these were set aside as `image_changed`.

    images: ImageRow columns key and digest; plan: PlanRow columns key and request; of_pictures, of_requests: keys.
    """
    found = set(images.digest[images.key.isin(set(of_pictures))])
    for text in plan.request[plan.key.isin(set(of_requests))]:
        request = parsed(Request, text)
        found |= {request.source, *(step.donor.digest for step in request.passes if step.donor)}
    return found


def _columns(images: pd.DataFrame) -> Columns:
    texts = {name: images[name].to_numpy(object, copy=True) for name in _TEXTS}
    return texts | {name: images[name].to_numpy(np.int64, copy=True) for name in _NUMBERS}


def stat_pictures(root: Path, paths: Iterable[str], when: str = "") -> np.ndarray:
    """int64 (n, 2): size and mtime_ns of pictures below a folder; -1 for missing files. when: as bucket_sets.stats."""
    # Strings, not Paths: for a hundred thousand files making those takes longer than the calls.
    stats = bucket_sets.stats(root, paths, when) or (_stat(f"{root}/{path}") for path in paths)
    return np.array(list(stats), np.int64).reshape(-1, 2)


def _stat_all(rows: Columns, todo: np.ndarray, root: Path, when: str) -> None:
    rows["size"][todo], rows["mtime_ns"][todo] = stat_pictures(root, rows["path"][todo], when).T


def _stat(path: str) -> tuple[int, int]:
    try:
        info = os.stat(path)  # noqa: PTH116
    except (OSError, ValueError):
        return -1, -1
    return info.st_size, info.st_mtime_ns


def _reuse(rows: Columns, todo: np.ndarray, known: pd.DataFrame | None, max_pixels: int) -> np.ndarray:
    """Fill in the columns of unchanged pictures from `known`; the (n,) bool mask of those.

    A record that now claims another size must be compared with the picture again, so that is a change too.
    """
    if known is None or known.empty:
        return np.zeros(len(todo), bool)
    good = (known["status"] == OK) & (known["digest"] != "") & (known["width"] * known["height"] <= max_pixels)
    old = _columns(known[good].drop_duplicates("path"))
    at = pd.Index(old["path"]).get_indexer(pd.Index(rows["path"]))
    same = todo & (at >= 0)
    for name in ("size", "mtime_ns"):
        same[same] = old[name][at[same]] == rows[name][same]
    claims = [(rows[name][same], old[name][at[same]]) for name in ("width", "height")]
    agrees = np.logical_and.reduce([now == was for now, was in claims])
    unclaimed = np.logical_or.reduce([now <= 0 for now, _ in claims]) & (old["frame"][at[same]] == "upright")
    same[same] = agrees | unclaimed
    for name in ("digest", "frame", "width", "height"):
        rows[name][same] = old[name][at[same]]
    return same


def _inspect_all(
    paths: Counter[str], root: Path, max_pixels: int, advance: Callable[[int], object], decode: bool
) -> Found:
    """Every path inspected, by threads: hashing and decoding let go of the interpreter."""
    found: Found = {}
    names = list(paths)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for start in range(0, len(names), _BLOCK):
            block = names[start : start + _BLOCK]
            results = pool.map(lambda path: _inspect(root, path, max_pixels, decode), block)
            for path, result in zip(block, results, strict=True):
                found[path] = result
                advance(paths[path])
    return found


def _inspect(root: Path, relative: str, max_pixels: int, decode: bool) -> PictureInfo | PictureError:
    path = inside(root, relative)
    if path is None:
        return PictureError("path_outside_root", f"{relative} leads out of the images folder")
    try:
        return inspect(path, max_pixels) if decode else glance(path, max_pixels)
    except PictureError as error:
        return error


def _fill(rows: Columns, chosen: np.ndarray, found: Found) -> None:
    for i in chosen.tolist():
        result = found[rows["path"][i]]
        if isinstance(result, PictureError):
            _reject_row(rows, i, result.reason, result.detail)
            continue
        for name in ("size", "mtime_ns", "digest"):
            rows[name][i] = getattr(result, name)
        _settle_frame(rows, i, result)


def _settle_frame(rows: Columns, i: int, info: PictureInfo) -> None:
    """Decide in which frame a picture was annotated, by comparing the size it claims with its two real ones."""
    claimed = rows["width"][i], rows["height"][i]
    upright, stored = (info.upright_width, info.upright_height), (info.stored_width, info.stored_height)
    if claimed == upright or min(claimed) <= 0:
        rows["width"][i], rows["height"][i] = upright
        rows["frame"][i] = "upright"
    elif claimed == stored:
        rows["frame"][i] = "stored"
    else:
        detail = f"annotated as {claimed[0]}×{claimed[1]} pixels, the picture has {upright[0]}×{upright[1]}"
        _reject_row(rows, i, "size_mismatch", detail)


def _reject_row(rows: Columns, i: int, reason: str, detail: str) -> None:
    rows["status"][i], rows["reason"][i], rows["detail"][i] = REJECTED, reason, detail


def settle_objects(images: pd.DataFrame, objects: pa.Table) -> pa.Table:
    """Object rows once their pictures are known: image_rejected and box_outside join the reasons. No row is lost.

    images: ImageRow columns; objects: ObjectRow table.
    """
    return next(settled_objects(images, [objects]))


def settled_objects(images: pd.DataFrame, tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """`settle_objects` of some rows after the others. images: ImageRow columns key, status, reason, width, height."""
    keys = pa.array(images["key"].to_numpy(object), pa.string())
    # -1, no such picture, takes the row appended last.
    named = np.append(images["reason"].to_numpy(object), "")
    wide, high = (np.append(images[name].to_numpy(np.int64), 0) for name in ("width", "height"))
    bad = np.append((images["status"] != OK).to_numpy(bool), False)
    for objects in tables:
        at = pc.fill_null(pc.index_in(objects["image_key"], value_set=keys), -1).to_numpy()
        ok = pc.equal(objects["status"], OK).to_numpy()
        reasons, width, height = named[at], wide[at], high[at]
        x, y, w, h = (objects[name].to_numpy() for name in "xywh")
        lost = ok & bad[at]
        off = ok & ~lost & outside(x, y, w, h, width, height)
        details = {i: f"its picture is set aside: {reasons[i]}" for i in np.flatnonzero(lost).tolist()}
        for i in np.flatnonzero(off).tolist():
            details[i] = f"{x[i]:g}, {y[i]:g}, {w[i]:g}×{h[i]:g} lies outside {width[i]}×{height[i]} pixels"
        yield _reject(_reject(objects, lost, "image_rejected", details), off, "box_outside", details)


def _reject(objects: pa.Table, rows: np.ndarray, reason: str, details: dict[int, str]) -> pa.Table:
    if not rows.any():
        return objects
    mask = pa.array(rows)
    detail = pa.array([details.get(i, "") for i in range(len(rows))], pa.string())
    values = {"status": pa.scalar(REJECTED), "reason": pa.scalar(reason), "detail": detail}
    for name, value in values.items():
        column = pc.if_else(mask, value, objects[name])
        objects = objects.set_column(objects.schema.get_field_index(name), name, column)
    return objects.cast(arrow_schema(ObjectRow))
