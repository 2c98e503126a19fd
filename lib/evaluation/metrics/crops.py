"""What a crop looks like, without a network: shapes, colours, textures and sharpness. And classifiers on top.

    rows = np.stack([describe(crop) for crop in crops])        # (N, D); crops: uint8 (SIDE, SIDE, 3) RGB
    model = Discriminant.fit(rows, labels, count)              # labels: 0 .. count − 1
    squares, outside = model.distances(others)                 # (M, count), (M,)
    auc(scores, positive)                                      # .5: not to be told apart

Histograms of oriented gradients (Dalal and Triggs 2005) in two sizes, local binary patterns (Ojala et al. 2002), means
and spreads of colour by place, and the energy of each octave of a Laplacian pyramid, which blur takes away. The
classifier is linear discriminant analysis with a shrunken covariance (Friedman 1989): closed form, so the same
crops give the same numbers.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

VERSION = 1  # raised whenever the same crop would get another description
SIDE = 64  # of a crop, pixels
OCTAVES = 5
DIRECTIONS = 9
LENGTH = 324 + 36 + 104 + 20 + OCTAVES  # D
AXES = 48  # principal components, at most
SHRINK = 0.2  # towards equal spread in all directions

Rows = NDArray[np.floating[Any]]  # (N, D)


def describe(crop: NDArray[np.uint8]) -> NDArray[np.float32]:
    """The (D,) description of a uint8 (SIDE, SIDE, 3) RGB crop."""
    grey = cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY)
    return np.concatenate([_gradients(grey, 4), _gradients(grey, 2), _colours(crop), _patterns(grey), _octaves(grey)])


def _gradients(grey: NDArray[np.uint8], cells: int) -> NDArray[np.float32]:
    """Gradients by direction in cells × cells places, each 2 × 2 of them made length 1: 36 (cells − 1)² numbers."""
    values, side = grey.astype(np.float32), len(grey) // cells
    across, down = cv2.Sobel(values, cv2.CV_32F, 1, 0, ksize=1), cv2.Sobel(values, cv2.CV_32F, 0, 1, ksize=1)
    turn = np.arctan2(down, across) / np.pi % 1 * DIRECTIONS
    place = np.arange(len(grey)) // side
    cell = (place[:, None] * cells + place) * DIRECTIONS
    low, share, size = np.floor(turn).astype(np.int64), turn % 1, np.hypot(across, down)
    votes = [(low % DIRECTIONS, size * (1 - share)), ((low + 1) % DIRECTIONS, size * share)]
    count = cells * cells * DIRECTIONS
    found = sum(np.bincount((cell + way).ravel(), weights.ravel(), count) for way, weights in votes)
    found = np.asarray(found).reshape(cells, cells, DIRECTIONS)
    blocks = np.concatenate([found[:-1, :-1], found[:-1, 1:], found[1:, :-1], found[1:, 1:]], axis=2)
    blocks /= np.sqrt(np.square(blocks).sum(2, keepdims=True)) + 20 * side * side / 64  # flat places stay near 0
    return np.sqrt(blocks).ravel().astype(np.float32)


def _colours(crop: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Mean and spread of L, a, b in 4 × 4 places, and shares of 8 brightnesses: 104 numbers."""
    lab = cv2.cvtColor(crop, cv2.COLOR_RGB2LAB).astype(np.float32) / 255
    cells = lab.reshape(4, SIDE // 4, 4, SIDE // 4, 3)
    shares = np.histogram(lab[..., 0], 8, (0, 1))[0] / SIDE**2
    return np.concatenate([cells.mean((1, 3)).ravel(), cells.std((1, 3)).ravel(), shares]).astype(np.float32)


def _patterns(grey: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Shares of the uniform binary patterns of 8 neighbours at distances 1 and 3, by their bright ones: 20 numbers."""
    values, found = grey.astype(np.int16), []
    for far in (1, 3):
        around = [(0, 1), (1, 1), (1, 0), (1, -1), (0, -1), (-1, -1), (-1, 0), (-1, 1)]
        near = np.stack([_shifted(values, far * down, far * right, far) for down, right in around])
        bright = near >= values[far:-far, far:-far]
        changes = (bright != np.roll(bright, 1, axis=0)).sum(0)
        kinds = np.where(changes <= 2, bright.sum(0), 9)
        found.append(np.bincount(kinds.ravel(), minlength=10) / kinds.size)
    return np.concatenate(found).astype(np.float32)


def _shifted(values: NDArray[np.int16], down: int, right: int, edge: int) -> NDArray[np.int16]:
    """The inside of a square, `edge` from its border, moved."""
    side = len(values) - 2 * edge
    return values[edge + down : edge + down + side, edge + right : edge + right + side]


def _octaves(grey: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Logarithm of the energy in each octave of the Laplacian pyramid."""
    level, energies = grey.astype(np.float32), []
    for _ in range(OCTAVES):
        small = cv2.pyrDown(level)
        energies.append(np.log1p(np.square(level - cv2.pyrUp(small, dstsize=level.shape[::-1])).mean()))
        level = small
    return np.array(energies, np.float32)


@dataclass(frozen=True)
class Discriminant:
    """Linear discriminant analysis in the first principal components."""

    mean: NDArray[np.float64]  # (D,)
    scale: NDArray[np.float64]
    axes: Rows  # (P, D), orthonormal
    centres: Rows  # (C, P)
    inverse: Rows  # (P, P), of the shrunken covariance within classes
    outside: float  # mean square of what the axes leave of a training row

    @classmethod
    def fit(
        cls, rows: Rows, labels: NDArray[np.int64], count: int, some: NDArray[np.int64] | None = None
    ) -> Discriminant:
        """rows: (N, D), of any kind of float; labels: (N,), 0 .. count − 1, each there at least once; some: numbers of
        the rows to learn from, none: all."""
        some = np.arange(len(rows)) if some is None else some
        labels, total = labels[some], len(some)
        mean = sum(block.sum(0) for block in _blocks(rows, some)) / total
        spread = np.sqrt(sum(np.square(block - mean).sum(0) for block in _blocks(rows, some)) / total)
        scale = spread + 1e-3 * spread.max() + 1e-6
        alike = sum(inside.T @ inside for inside in _standard(rows, some, mean, scale))
        # The largest last.
        axes = np.linalg.eigh(alike)[1].T[::-1][: max(1, min(AXES, total // 3))]
        at, outside = _projected(_standard(rows, some, mean, scale), axes)
        centres = np.stack([at[labels == label].mean(0) for label in range(count)])
        apart = at - centres[labels]
        within = apart.T @ apart / max(1, total - count)
        middle = np.trace(within) / len(within)
        within = (1 - SHRINK) * within + (SHRINK * middle + 1e-9) * np.eye(len(within))
        return cls(mean, scale, axes, centres, np.linalg.inv(within), max(float(outside.mean()), 1e-9))

    def distances(self, rows: Rows, some: NDArray[np.int64] | None = None) -> tuple[Rows, NDArray[np.float64]]:
        """(M, C) squared Mahalanobis distances to each centre, and (M,) what the axes leave of a row, 1 in training.

        some: as for `fit`.
        """
        some = np.arange(len(rows)) if some is None else some
        at, outside = _projected(_standard(rows, some, self.mean, self.scale), self.axes)
        white = np.linalg.cholesky(self.inverse)
        rows_white, centres_white = at @ white, self.centres @ white
        squares: Rows = np.square(rows_white).sum(1)[:, None] - 2 * rows_white @ centres_white.T
        squares = np.maximum(squares + np.square(centres_white).sum(1), 0)
        return squares, outside / self.outside


_BLOCK = 4096  # rows in double precision at once: there may be hundreds of thousands


def _blocks(rows: Rows, some: NDArray[np.int64]) -> Iterator[Rows]:
    for start in range(0, len(some), _BLOCK):
        yield rows[some[start : start + _BLOCK]].astype(np.float64)


def _standard(
    rows: Rows, some: NDArray[np.int64], mean: NDArray[np.float64], scale: NDArray[np.float64]
) -> Iterator[Rows]:
    return ((block - mean) / scale for block in _blocks(rows, some))


def _projected(blocks: Iterable[Rows], axes: Rows) -> tuple[Rows, NDArray[np.float64]]:
    """(N, P) coordinates, and (N,) squared length of what the axes leave."""
    at, left = [np.zeros((0, len(axes)))], [np.zeros(0)]
    for inside in blocks:
        at.append(inside @ axes.T)
        left.append(np.square(inside - at[-1] @ axes).sum(1))
    return np.concatenate(at), np.concatenate(left)


def auc(scores: NDArray[np.float64], positive: NDArray[np.bool_]) -> float:
    """Area under the curve: how often a positive scores higher than a negative; ties count half. Needs both kinds."""
    from scipy.stats import rankdata

    ranks, count = rankdata(scores), int(positive.sum())
    above = ranks[positive].sum() - count * (count + 1) / 2
    return float(above / (count * (len(scores) - count)))
