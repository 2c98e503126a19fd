"""Pictures that are nearly the same, within a set or across two, such as a training and a validation set.

    hashes = np.array([hash_of(picture) for picture in pictures])
    pairs, bits = near_hashes(hashes)                      # twins within the set
    pairs, bits = near_hashes(hashes, validation_hashes)   # leaks into another
    pairs, cosines = near_features(x, y, least=0.95)       # by what an extractor of lib/evaluation/features.py sees
    twins, _ = with_near_hashes(hashes)                    # which of them have any: no list of pairs, which may be long

Pairs are (P, 2) int64, sorted: within one set i < j, across two a row of the first and one of the second. Hashes find
copies that were saved, scaled or blurred anew, mirrored ones with `mirrored`; features that know the subject find the
same scene again. A picture with a painted part is mostly near its source by hash: what leaks of it leaks of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lib.core.errors import AugmentError
from lib.evaluation.metrics.distances import blocks

Pairs = NDArray[np.int64]  # (P, 2)
Chosen = NDArray[np.bool_]

_ROUNDING = 1e-12  # so that a copy is near at a cosine of 1 as well


def hash_of(picture: np.ndarray, mirrored: bool = False) -> np.uint64:
    """Perceptual hash of uint8 (H, W, 3) RGB, 64 bits: near pictures share nearly all of them, others about half.

    The picture in grey at 32×32, its cosine transform, the 8×8 lowest frequencies; a bit is set where one lies above
    their median (the pHash of Zauner 2010, "Implementation and benchmarking of perceptual image hash functions", with
    the constant term kept). mirrored: of the picture turned left to right, for which only odd frequencies change sign.
    Pictures of one colour are all within a bit. Raises AugmentError for another shape or type.
    """
    import cv2

    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3 or picture.size == 0:
        raise AugmentError(f"picture is {picture.dtype} of shape {picture.shape}: expected uint8 (H, W, 3) RGB")
    grey = cv2.cvtColor(np.ascontiguousarray(picture), cv2.COLOR_RGB2GRAY).astype(np.float64)
    waves = cv2.dct(cv2.resize(grey, (32, 32), interpolation=cv2.INTER_AREA))[:8, :8]
    if mirrored:
        waves = waves * np.resize([1.0, -1.0], 8)
    # Scaled by weights in float32: what is zero but for their rounding must not fall to either side by chance.
    waves = np.round(waves, 2)
    bits = np.packbits(waves > np.median(waves))  # row by row, the lowest frequency first
    return np.uint64(int.from_bytes(bits.tobytes(), "big"))


def near_hashes(hashes: Any, others: Any = None, most: int = 4) -> tuple[Pairs, NDArray[np.int64]]:
    """Pairs of hashes (N,) that differ in at most `most` of their 64 bits, 0 to 64, and in how many (P,).

    others: (M,) hashes to look among; none: the hashes themselves. Among the same pictures' mirrored hashes, each pair
    is found both ways, and symmetric pictures beside themselves. Bits differ in pairs, half of 64 being set. Copies
    lie within 4, strongly compressed or brightened ones and the same scene a second later within 8; unlike photographs
    differ in 31 ± 4. Of the 5·10⁹ pairs of 100,000 pictures chance alone brings four within 8 and none within 4, and
    pictures are less unlike than chance. 20,000 among 20,000 take some two seconds.

    Raises AugmentError for anything but a list of 64-bit hashes, or `most` outside 0 .. 64.
    """
    first, second = _both_hashes(hashes, others, most)
    within = others is None
    return _near(len(first), len(second), within, _differing(first, second), lambda bits: bits <= most, np.int64)


def with_near_hashes(hashes: Any, others: Any = None, most: int = 4, apart: bool = False) -> tuple[Chosen, Chosen]:
    """Which of the hashes (N,) and of the others (M,) have one near them, see `near_hashes`; raises as that does.

    apart: the same row of both is the same picture, and is not near itself.
    """
    first, second = _both_hashes(hashes, others, most)
    differing = _differing(first, second)
    return _reached(len(first), len(second), others is None, apart, lambda *block: differing(*block) <= most)


def near_features(x: Any, y: Any = None, least: float = 0.95) -> tuple[Pairs, NDArray[np.float64]]:
    """Pairs of feature rows (N, D) whose cosine, a·b / (|a| |b|), is at least `least`, −1 to 1, and the cosines (P,).

    y: (M, D), rows to look among; none: x itself. A row of zeros has no direction and is near nothing. What a cosine
    means depends on the extractor: features that are never negative, such as the picture at 4×4, all point into one
    corner, so that unlike pictures reach 0.95. Take one mean off both sets first, and look at some pairs.

    Raises AugmentError for different D, values that are not finite, or `least` outside −1 .. 1.
    """
    first, second = _both_directions(x, y, least)
    cosines, limit = _cosines(first, second), least - _ROUNDING
    return _near(len(first), len(second), y is None, cosines, lambda values: values >= limit, np.float64)


def with_near_features(x: Any, y: Any = None, least: float = 0.95) -> tuple[Chosen, Chosen]:
    """Which rows (N,) of x and (M,) of y have one near them, see `near_features`; raises as that does."""
    first, second = _both_directions(x, y, least)
    cosines, limit = _cosines(first, second), least - _ROUNDING
    return _reached(len(first), len(second), y is None, False, lambda *block: cosines(*block) >= limit)


def _differing(first: NDArray[np.uint64], second: NDArray[np.uint64]) -> Callable[[slice, slice], np.ndarray]:
    return lambda rows, columns: np.bitwise_count(first[rows, None] ^ second[columns])


def _cosines(first: NDArray[np.float64], second: NDArray[np.float64]) -> Callable[[slice, slice], np.ndarray]:
    return lambda rows, columns: np.clip(first[rows] @ second[columns].T, -1, 1)


def _reached(
    n: int, m: int, within: bool, apart: bool, near_of: Callable[[slice, slice], np.ndarray]
) -> tuple[Chosen, Chosen]:
    """Rows and columns of an (n, m) matrix with anything near; apart, or within one set: the diagonal is not."""
    first, second = np.zeros(n, bool), np.zeros(m, bool)
    for rows, columns in blocks(n, m, within):
        near = near_of(rows, columns)
        if (within or apart) and rows == columns:
            np.fill_diagonal(near, False)
        first[rows] |= near.any(axis=1)
        second[columns] |= near.any(axis=0)
    return (first | second, first | second) if within else (first, second)


def _near(
    n: int,
    m: int,
    within: bool,
    values_of: Callable[[slice, slice], np.ndarray],
    chosen: Callable[[np.ndarray], np.ndarray],
    dtype: Any,
) -> tuple[Pairs, Any]:
    """The chosen pairs of an (n, m) matrix that is never held whole, sorted, and their values."""
    pairs, values = [np.empty((0, 2), np.int64)], [np.empty(0, dtype)]
    for rows, columns in blocks(n, m, within):
        block = values_of(rows, columns)
        near = chosen(block)
        if within and rows == columns:
            near = np.triu(near, 1)
        i, j = np.nonzero(near)
        pairs.append(np.stack([i + rows.start, j + columns.start], axis=1))
        values.append(block[i, j].astype(dtype))
    found = np.concatenate(pairs)
    order = np.lexsort((found[:, 1], found[:, 0]))
    return found[order], np.concatenate(values)[order]


def _both_hashes(hashes: Any, others: Any, most: int) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    if not 0 <= most <= 64:
        raise AugmentError(f"most = {most} bits: expected 0 to 64, such as 4")
    first = _hashes(hashes)
    return first, first if others is None else _hashes(others)


def _hashes(given: Any) -> NDArray[np.uint64]:
    hashes = np.asarray(given)
    if hashes.shape == (0,):
        return np.empty(0, np.uint64)
    if hashes.ndim != 1 or hashes.dtype.kind not in "iu" or hashes.min() < 0:
        raise AugmentError(f"hashes of type {hashes.dtype}, shape {hashes.shape}: expected a list as hash_of gives")
    return hashes.astype(np.uint64)


def _both_directions(x: Any, y: Any, least: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    if not -1 <= least <= 1:
        raise AugmentError(f"least = {least}: expected a cosine, -1 to 1, such as 0.95")
    first = _directions(x, "first")
    second = first if y is None else _directions(y, "second")
    if first.shape[1] != second.shape[1]:
        raise AugmentError(
            f"features have {first.shape[1]} and {second.shape[1]} dimensions: take both from one extractor"
        )
    return first, second


def _directions(given: Any, name: str) -> NDArray[np.float64]:
    """Rows of length 1, or 0 where they were 0."""
    rows = np.asarray(given, dtype=np.float64)
    if rows.ndim != 2:
        raise AugmentError(f"{name} set of features has shape {rows.shape}: expected (pictures, dimensions)")
    if not np.isfinite(rows).all():
        row = int(np.flatnonzero(~np.isfinite(rows).all(axis=1))[0])
        raise AugmentError(f"{name} set of features, row {row}: NaN or infinity; leave that picture out")
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    directions: NDArray[np.float64] = np.divide(rows, lengths, out=np.zeros_like(rows), where=lengths > 0)
    return directions
