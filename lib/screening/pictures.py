"""Screen: sets aside useless pictures: black, blank, of the wrong size, or duplicates."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypedDict

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from lib.core.files import digest
from lib.core.images import Load, PictureError, load_rgb
from lib.core.keys import canonical, key_of
from lib.records.kept import typed
from lib.records.rows import MAY_PASS, OK, REJECTED, ScreenRow
from lib.records.settings import ScreenSettings
from lib.records.store import Store

VERSION = 1
COMPARED = ("status", "pixels")  # columns by which pictures are
Advance = Callable[[int], None]


class _Numbers(TypedDict):
    mean: float
    std: float
    pixels: str


class Verdict(_Numbers):
    """Result of one picture, as the store has it; `reason` is "" where it passes."""

    reason: str
    detail: str


def measure_pictures(
    pictures: pd.DataFrame,
    sources: dict[str, tuple[str, str]],
    settings: ScreenSettings,
    load: Load,
    store: Store,
    advance: Advance = lambda n: None,
) -> list[ScreenRow]:
    """A ScreenRow per PictureRow that is ok, each judged alone; `equal_before` then compares them.

    sources: image key → (digest, frame) of the source. Verdicts are kept in the store per picture and settings; single
    boxes are boxes.py's, objects without a label unlabelled.py's.
    """
    rows = []
    for row in pictures.itertuples(index=False):
        key = verdict_key(row, settings)
        known = typed(store.get("verdict", key), Verdict)
        verdict = known or _verdict(row, sources[row.image_key], settings, load, store)
        if known is None and verdict["reason"] not in MAY_PASS:
            store.put("verdict", key, canonical(verdict))
        rows.append(_row(row, verdict))
        advance(1)
    return rows


def verdict_key(row: Any, settings: ScreenSettings) -> str:
    """The key in the store of the verdict on a PictureRow."""
    return key_of(
        "screen", VERSION, row.picture, row.sha256, settings.model_dump(mode="json", exclude={"boxes", "unlabelled"})
    )


def _verdict(row: Any, source: tuple[str, str], settings: ScreenSettings, load: Load, store: Store) -> Verdict:
    data = store.get("picture", row.picture)
    if data is None:
        return {"reason": "picture_lost", "detail": f"{row.name} is no longer in the store", **_numbers(None)}
    numbers = _numbers(None)
    try:
        pixels = load_rgb(data, "stored")
        numbers = _numbers(pixels)
        reason, detail = _judge(pixels, numbers, row, source, settings, load)
        return {"reason": reason, "detail": detail, **numbers}
    except PictureError as error:
        return {"reason": error.reason, "detail": error.detail, **numbers}


def _judge(
    pixels: np.ndarray, numbers: _Numbers, row: Any, source: tuple[str, str], settings: ScreenSettings, load: Load
) -> tuple[str, str]:
    """(reason, detail), both "" for a picture that passes."""
    if pixels.shape[:2] != (row.height, row.width):
        return "wrong_size", f"{pixels.shape[1]}x{pixels.shape[0]}, not {row.width}x{row.height}"
    if numbers["mean"] <= settings.black:
        return "black", f"mean grey {numbers['mean']:.1f}"
    if numbers["std"] <= settings.blank:
        return "blank", f"grey deviation {numbers['std']:.1f}"
    if settings.duplicates and np.array_equal(pixels, load(*source)):
        return "duplicate", "equal to its source"
    return "", ""


def _numbers(pixels: np.ndarray | None) -> _Numbers:
    """Mean and deviation of grey (0 to 255) and the digest of the pixels with their shape."""
    if pixels is None:
        return {"mean": 0.0, "std": 0.0, "pixels": ""}
    import cv2

    mean, std = cv2.meanStdDev(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY))
    shape = str(pixels.shape).encode()
    return {
        "mean": round(float(mean[0, 0]), 4),
        "std": round(float(std[0, 0]), 4),
        "pixels": digest(shape + pixels.tobytes()),
    }


def _row(row: Any, verdict: Verdict) -> ScreenRow:
    return ScreenRow(
        key=row.key,
        status=REJECTED if verdict["reason"] else OK,
        reason=verdict["reason"],
        detail=verdict["detail"],
        image_key=row.image_key,
        picture=row.picture,
        sha256=row.sha256,
        name=row.name,
        mean=verdict["mean"],
        std=verdict["std"],
        pixels=verdict["pixels"],
    )


def pixel_marks(rows: pa.Table) -> NDArray[np.uint64]:
    """(N, 2) of ScreenRow columns COMPARED: half of the digest of each picture's pixels; 0 for rows that are not ok or
    whose pixels are not known."""
    ok = pc.and_(pc.equal(rows["status"], OK), pc.not_equal(rows["pixels"], ""))
    halves = pc.utf8_slice_codeunits(rows["pixels"].filter(ok), 0, 32).to_pylist()  # hex digits: 128 bits
    marks = np.zeros((len(rows), 2), np.uint64)
    marks[np.asarray(ok)] = np.frombuffer(bytes.fromhex("".join(halves)), np.uint64).reshape(-1, 2)
    return marks


def equal_before(marks: NDArray[np.uint64]) -> NDArray[np.int64]:
    """(N,) the number of the first row whose picture is equal, of `pixel_marks` in the order that counts; -1 for the
    first itself, and for marks of 0."""
    order = np.lexsort((marks[:, 1], marks[:, 0]))  # equal ones in their order
    placed = marks[order]
    same = np.concatenate([[False], (placed[1:] == placed[:-1]).all(axis=1)])[: len(marks)] & placed.any(axis=1)
    first = np.maximum.accumulate(np.where(same, 0, np.arange(len(marks))))
    found = np.full(len(marks), -1)
    found[order[same]] = order[first[same]]
    return found


def set_aside_equal(rows: pd.DataFrame, names: Sequence[str | None]) -> pd.DataFrame:
    """ScreenRows with those set aside that equal another: the picture of this name; None for those that stay."""
    repeated = np.array([name is not None for name in names], bool)
    if not repeated.any():
        return rows
    marked = rows.copy()
    marked.loc[repeated, ["status", "reason"]] = [REJECTED, "duplicate"]
    marked.loc[repeated, "detail"] = [f"equal to {name}" for name in names if name is not None]
    return marked
