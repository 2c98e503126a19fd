"""Distances between two sets of features: FID and KID, pure functions of arrays.

    fid(real, generated), kid(real, generated)      # (N, D) and (M, D), from an extractor of lib/features.py

Both are estimates of a squared distance, so that values near zero may be slightly negative: FID by rounding, KID
because it is unbiased. FID on few pictures is biased upwards; lib/evaluate.py says when, and gives the floor to read
it by. A new distance is one more function of two arrays.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from lib.errors import AugmentError

Features = NDArray[np.float64]  # (N, D), one row a picture

_BLOCK = 2048  # rows of a kernel matrix held at once: 32 MiB a block


def fid(x: Any, y: Any) -> float:
    """Fréchet distance of two Gaussians fitted to features x (N, D) and y (M, D), N and M >= 2.

    |μx − μy|² + Tr(Σx + Σy − 2 (Σx Σy)^½), covariances with N − 1 and M − 1 (Heusel et al. 2017, arXiv 1706.08500).
    0 for equal sets up to rounding, which may leave it below zero by some 1e-15 of the traces.

    Raises AugmentError for fewer than two rows, different D, or values that are not finite.
    """
    x, y = _checked(x, y)
    shift = x.mean(axis=0) - y.mean(axis=0)
    root_x, root_y = _covariance_root(x), _covariance_root(y)
    # With Σx = AᵀA and Σy = BᵀB, the eigenvalues of ΣxΣy that are not zero are the squared singular values of ABᵀ. So
    # no matrix root is taken, which is what fails or turns complex where N <= D makes the covariances singular.
    overlap = np.linalg.svd(root_x @ root_y.T, compute_uv=False).sum()
    return float(shift @ shift + np.sum(root_x**2) + np.sum(root_y**2) - 2 * overlap)


def kid(x: Any, y: Any, subset_size: int = 1000, subsets: int = 100, seed: int = 0) -> float:
    """Kernel distance of features x (N, D) and y (M, D), N and M >= 2: unbiased MMD² under k(a, b) = (a·b / D + 1)³.

    Bińkowski et al. 2018, arXiv 1801.01401. Where min(N, M) <= `subset_size`, all rows of both are used once, and the
    order of rows does not matter; above that it is the mean over `subsets` subsets of `subset_size` rows drawn from
    each without replacement, by `seed`. Often negative for equal distributions.

    Raises AugmentError for fewer than two rows, different D, values that are not finite, or a subset of fewer than two.
    """
    x, y = _checked(x, y)
    if subset_size < 2 or subsets < 1:
        raise AugmentError(f"KID over {subsets} subsets of {subset_size}: it takes at least 1 subset of at least 2")
    if min(len(x), len(y)) <= subset_size:
        return _mmd2(x, y)
    rng = np.random.default_rng(seed)
    scores = []
    for _ in range(subsets):
        rows_x = rng.choice(len(x), subset_size, replace=False)
        rows_y = rng.choice(len(y), subset_size, replace=False)
        scores.append(_mmd2(x[rows_x], y[rows_y]))
    return float(np.mean(scores))


def _checked(x: Any, y: Any) -> tuple[Features, Features]:
    arrays = []
    for name, values in (("first", x), ("second", y)):
        array = np.asarray(values, dtype=np.float64)
        if array.ndim != 2 or array.shape[1] < 1:
            raise AugmentError(f"{name} set of features has shape {array.shape}: expected (pictures, dimensions)")
        if len(array) < 2:
            raise AugmentError(f"{name} set of features has {len(array)} row(s): FID and KID take at least 2 pictures")
        if not np.isfinite(array).all():
            row = int(np.flatnonzero(~np.isfinite(array).all(axis=1))[0])
            raise AugmentError(f"{name} set of features, row {row}: NaN or infinity; leave that picture out")
        arrays.append(array)
    if arrays[0].shape[1] != arrays[1].shape[1]:
        raise AugmentError(
            f"features have {arrays[0].shape[1]} and {arrays[1].shape[1]} dimensions: take both from one extractor"
        )
    return arrays[0], arrays[1]


def _covariance_root(x: Features) -> Features:
    """R of shape (min(N, D), D) with RᵀR = the covariance of x."""
    centred = (x - x.mean(axis=0)) / np.sqrt(len(x) - 1)
    # QR keeps RᵀR and cuts many rows down to D, so that the singular values are those of a small matrix.
    root: Features = np.asarray(np.linalg.qr(centred, mode="r")) if len(x) > x.shape[1] else centred
    return root


def _mmd2(x: Features, y: Features) -> float:
    # The diagonal (a picture against itself) is left out: that is what makes the estimate unbiased.
    within_x = (_kernel_sum(x, x) - _kernel_diagonal(x)) / (len(x) * (len(x) - 1))
    within_y = (_kernel_sum(y, y) - _kernel_diagonal(y)) / (len(y) * (len(y) - 1))
    return float(within_x + within_y - 2 * _kernel_sum(x, y) / (len(x) * len(y)))


def _kernel_sum(x: Features, y: Features) -> float:
    """Sum of k over all pairs, in blocks: 50,000 rows against themselves would take 20 GB at once."""
    total = 0.0
    for i in range(0, len(x), _BLOCK):
        for j in range(0, len(y), _BLOCK):
            dots = x[i : i + _BLOCK] @ y[j : j + _BLOCK].T
            total += float(((dots / x.shape[1] + 1) ** 3).sum())
    return total


def _kernel_diagonal(x: Features) -> float:
    return float(((np.einsum("nd,nd->n", x, x) / x.shape[1] + 1) ** 3).sum())
