"""Labelled pictures as a detector sees them: fitted to its size, in memory, in one file that any machine can read.

pool = pool_of(read_side(Path("final"), "synthetic"), names, size=320)
pool.save(path); Pool.load(path)
pool.take(rows)                       # those of `rows`, in that order
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from lib.core.errors import AugmentError
from lib.core.files import atomic_write
from lib.core.geometry import clip_xyxy
from lib.core.images import PictureError, load_rgb
from lib.evaluation.metrics.layout import Truth
from lib.evaluation.sides import Entry, Side

FILL = 114  # grey beside a picture that is not square
_SMALL = 1.0  # pixels: boxes with a shorter side, after fitting, are ignored


@dataclass(frozen=True)
class Pool:
    """N pictures with B boxes in all; `first[i] : first[i + 1]` are the boxes of picture i."""

    pixels: NDArray[np.uint8]  # (N, S, S, 3) RGB, the picture in the upper left corner, FILL beside it
    sizes: NDArray[np.int64]  # (N, 2) width and height of the picture in it
    scales: NDArray[np.float64]  # (N,) pixels here per pixel of the picture's file
    names: NDArray[np.str_]  # (N,) file names
    sources: NDArray[np.str_]  # (N,) file name of the picture that it was made from; its own name for a real one
    first: NDArray[np.int64]  # (N + 1,)
    boxes: NDArray[np.float64]  # (B, 4) xyxy, pixels of the square
    labels: NDArray[np.int64]  # (B,) number of the category's name
    ignored: NDArray[np.bool_]  # (B,) crowds and boxes marked `ignore`
    painted: NDArray[np.bool_]  # (B,) new in a synthetic picture

    def __len__(self) -> int:
        return len(self.names)

    def of(self, i: int) -> slice:
        """Where the boxes of picture i lie."""
        return slice(int(self.first[i]), int(self.first[i + 1]))

    def take(self, rows: Sequence[int] | NDArray[np.int64]) -> Pool:
        """Those of `rows`, in that order."""
        rows = np.asarray(rows, np.int64)
        counts = np.diff(self.first)[rows]
        at = np.concatenate([np.arange(self.first[i], self.first[i + 1]) for i in rows] or [np.zeros(0, np.int64)])
        values = {name: getattr(self, name)[rows] for name in ("pixels", "sizes", "scales", "names", "sources")}
        values |= {name: getattr(self, name)[at] for name in ("boxes", "labels", "ignored", "painted")}
        return Pool(first=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64), **values)

    def counts(self, classes: int) -> NDArray[np.int64]:
        """(N, classes): boxes of each class in each picture, ignored ones left out."""
        table = np.zeros((len(self), classes), np.int64)
        picture = np.repeat(np.arange(len(self)), np.diff(self.first))
        np.add.at(table, (picture[~self.ignored], self.labels[~self.ignored]), 1)
        return table

    @property
    def digest(self) -> str:
        """SHA-256 over pixels and labels."""
        total = hashlib.sha256()
        for field in fields(self):
            values = getattr(self, field.name)
            total.update(f"{field.name} {values.shape}".encode())
            total.update("\0".join(values.tolist()).encode() if values.dtype.kind == "U" else values.tobytes())
        return total.hexdigest()

    def save(self, path: Path) -> None:
        """As a NumPy archive."""
        data = io.BytesIO()
        np.savez_compressed(data, **{field.name: getattr(self, field.name) for field in fields(self)})
        atomic_write(path, data.getvalue())

    @classmethod
    def load(cls, path: Path) -> Pool:
        """Raises AugmentError for a file that `save` did not write."""
        try:
            return cls(**read_arrays(path, [field.name for field in fields(cls)]))
        except AugmentError as error:
            raise AugmentError(f"{path} holds no pictures of a proof ({error}): remove it and start again") from None


def read_arrays(path: Path, names: Sequence[str]) -> dict[str, NDArray[Any]]:
    """Arrays of a NumPy archive, by name; raises AugmentError for whatever is wrong with the file."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as found:
            return {name: found[name] for name in names}
    except Exception as error:  # zipfile, zlib and NumPy raise a dozen kinds for a damaged archive
        raise AugmentError(str(error) or type(error).__name__) from None


def truth_of(pool: Pool) -> list[Truth]:
    """The boxes of each picture, in pixels of the pictures' files, as scores take them."""
    return [
        Truth(pool.boxes[pool.of(i)] / pool.scales[i], pool.labels[pool.of(i)], pool.ignored[pool.of(i)])
        for i in range(len(pool))
    ]


def joined(pools: Sequence[Pool]) -> Pool:
    """Several pools as one, in their order."""
    boxes = np.cumsum([0] + [len(pool.boxes) for pool in pools])
    first = [pool.first[:-1] + start for pool, start in zip(pools, boxes, strict=False)] + [boxes[-1:]]
    values = {
        field.name: np.concatenate([getattr(pool, field.name) for pool in pools])
        for field in fields(Pool)
        if field.name != "first"
    }
    return Pool(first=np.concatenate(first).astype(np.int64), **values)


def pool_of(side: Side, names: Sequence[str], size: int) -> tuple[Pool, dict[str, str]]:
    """The pictures of a side, fitted to size × size, and why others were left out, by name.

    Boxes of categories that are not among `names`, and those that become smaller than a pixel, are ignored: a detector
    is neither taught nor blamed there.
    """
    numbers = {name: i for i, name in enumerate(names)}
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        read = list(threads.map(lambda entry: _fitted(entry, size), side.entries))
    left = {entry.name: str(one) for entry, one in zip(side.entries, read, strict=True) if isinstance(one, str)}
    kept = [(entry, one) for entry, one in zip(side.entries, read, strict=True) if not isinstance(one, str)]
    boxes, labels, ignored = [np.zeros((0, 4))], [], [np.zeros(0, bool)]
    for entry, (_, width, height, scale) in kept:
        fitted = clip_xyxy(entry.labels.boxes * scale, width, height)
        known = np.array([name in numbers for name in entry.labels.categories], bool)
        small = (fitted[:, 2:] - fitted[:, :2]).min(1, initial=np.inf) < _SMALL
        boxes.append(fitted)
        labels += [numbers.get(name, 0) for name in entry.labels.categories]
        ignored.append(entry.labels.ignore | ~known | small)
    counts = [len(entry.labels.boxes) for entry, _ in kept]
    pool = Pool(
        pixels=np.stack([one[0] for _, one in kept]) if kept else np.zeros((0, size, size, 3), np.uint8),
        sizes=np.array([one[1:3] for _, one in kept], np.int64).reshape(-1, 2),
        scales=np.array([one[3] for _, one in kept], np.float64),
        names=np.array([entry.name for entry, _ in kept], np.str_),
        sources=np.array([entry.source[1] if entry.source else entry.name for entry, _ in kept], np.str_),
        first=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        boxes=np.concatenate(boxes),
        labels=np.array(labels, np.int64),
        ignored=np.concatenate(ignored),
        painted=np.concatenate([np.zeros(0, bool), *(entry.labels.painted for entry, _ in kept)]),
    )
    return pool, left


def _fitted(entry: Entry, size: int) -> tuple[NDArray[np.uint8], int, int, float] | str:
    """(square, width and height of the picture in it, scale), or why it cannot be used."""
    if entry.fault is not None:
        return entry.fault[0]
    try:
        picture = load_rgb(entry.path, "upright")
    except PictureError as error:
        return error.reason
    height, width = picture.shape[:2]
    if entry.labels.size not in ((0, 0), (width, height)):
        return "size_mismatch"
    scale = size / max(width, height)
    within = (max(1, round(width * scale)), max(1, round(height * scale)))
    square = np.full((size, size, 3), FILL, np.uint8)
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    square[: within[1], : within[0]] = cv2.resize(picture, within, interpolation=method)
    return square, *within, scale
