"""FID and KID against closed forms, a naive loop, and pytorch-fid."""

from __future__ import annotations

import numpy as np
import pytest

from lib import distances
from lib.distances import fid, kid
from lib.errors import AugmentError


def features(seed: int, n: int, d: int, shift: float = 0.0, scale: float = 1.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, d)) * scale + shift


def whitened(seed: int, n: int, d: int) -> np.ndarray:
    """Rows whose mean is exactly 0 and whose covariance is exactly the identity."""
    x = features(seed, n, d)
    x -= x.mean(axis=0)
    return x @ np.linalg.inv(np.linalg.cholesky(np.cov(x, rowvar=False))).T


def naive_kid(x: np.ndarray, y: np.ndarray) -> float:
    def k(a: np.ndarray, b: np.ndarray) -> float:
        return float((a @ b / len(a) + 1) ** 3)

    n, m = len(x), len(y)
    within_x = sum(k(x[i], x[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    within_y = sum(k(y[i], y[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    return within_x + within_y - 2 * sum(k(a, b) for a in x for b in y) / (n * m)


def pytorch_fid(x: np.ndarray, y: np.ndarray) -> float:
    from pytorch_fid.fid_score import calculate_frechet_distance

    statistics = [s for z in (x, y) for s in (z.mean(axis=0), np.cov(z, rowvar=False))]
    return float(calculate_frechet_distance(*statistics))


def test_fid_of_equal_covariances_is_the_squared_distance_of_the_means():
    x = features(0, 60, 7)
    shift = np.arange(7) / 3
    assert fid(x, x + shift) == pytest.approx(shift @ shift, rel=1e-12)


@pytest.mark.parametrize(("n", "d"), [(2, 48), (5, 48), (60, 7), (30, 1)])
def test_fid_of_equal_sets_is_zero_up_to_rounding(n: int, d: int):
    x = features(1, n, d)
    assert fid(x, x) == pytest.approx(0, abs=1e-11)


def test_fid_of_diagonal_covariances_is_the_squared_distance_of_the_deviations():
    x, y = whitened(2, 80, 5), whitened(3, 90, 5)
    a, b = np.array([1, 2, 3, 4, 5.0]), np.array([2, 2, 0.5, 1, 9.0])
    assert fid(x * a, y * b + 1) == pytest.approx(((a - b) ** 2).sum() + 5, rel=1e-10)


def test_fid_does_not_depend_on_the_order_of_rows_or_of_sets():
    x, y = features(4, 30, 6), features(5, 20, 6, shift=0.5)
    order = np.random.default_rng(0).permutation(30)
    assert fid(x[order], y) == pytest.approx(fid(x, y), rel=1e-12)
    assert fid(y, x) == pytest.approx(fid(x, y), rel=1e-12)


@pytest.mark.parametrize(("n", "m", "d"), [(200, 300, 16), (100, 100, 48), (64, 500, 3)])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # scipy's, on sqrtm(disp=False)
def test_fid_agrees_with_pytorch_fid(n: int, m: int, d: int):
    x, y = features(6, n, d), features(7, m, d, shift=0.3, scale=1.4)
    assert fid(x, y) == pytest.approx(pytorch_fid(x, y), rel=1e-6)


def test_fid_of_fewer_pictures_than_dimensions_needs_no_matrix_root():
    # Two pictures each: rank one covariances, so the cross term is |a·b| of the two half-difference directions.
    x = np.array([[1.0, 0, 0, 0], [-1, 0, 0, 0]])
    y = np.array([[3.0, 4, 0, 0], [-3, -4, 0, 0]])
    assert fid(x, y) == pytest.approx(2 * 1 + 2 * 25 - 2 * 2 * 3, rel=1e-12)


@pytest.mark.parametrize(("n", "m", "d"), [(12, 12, 5), (7, 15, 3), (2, 2, 48), (2, 9, 1)])
def test_kid_is_the_naive_double_loop(n: int, m: int, d: int):
    x, y = features(8, n, d), features(9, m, d, shift=0.2)
    assert kid(x, y) == pytest.approx(naive_kid(x, y), rel=1e-10)


def test_kid_in_blocks_is_kid_at_once(monkeypatch: pytest.MonkeyPatch):
    x, y = features(10, 23, 4), features(11, 31, 4)
    whole = kid(x, y)
    monkeypatch.setattr(distances, "_BLOCK", 7)
    assert kid(x, y) == pytest.approx(whole, rel=1e-10)


def test_kid_of_few_pictures_depends_neither_on_order_nor_on_the_seed():
    x, y = features(12, 40, 6), features(13, 30, 6)
    order = np.random.default_rng(1).permutation(40)
    assert kid(x[order], y, seed=5) == pytest.approx(kid(x, y, seed=6), rel=1e-10)


def test_kid_of_many_pictures_is_a_seeded_mean_over_subsets():
    x, y = features(14, 60, 4), features(15, 50, 4, shift=0.4)
    rng = np.random.default_rng(3)
    rows = [(rng.choice(60, 20, replace=False), rng.choice(50, 20, replace=False)) for _ in range(6)]
    expected = np.mean([naive_kid(x[a], y[b]) for a, b in rows])
    assert kid(x, y, subset_size=20, subsets=6, seed=3) == pytest.approx(expected, rel=1e-10)
    assert kid(x, y, subset_size=20, subsets=6, seed=4) != kid(x, y, subset_size=20, subsets=6, seed=3)


def test_kid_is_unbiased_about_zero_for_one_distribution_and_may_be_negative():
    scores = [kid(features(2 * i, 20, 4), features(2 * i + 1, 20, 4)) for i in range(60)]
    assert min(scores) < 0 < max(scores)
    assert abs(np.mean(scores)) < 4 * np.std(scores) / np.sqrt(60)


@pytest.mark.parametrize("distance", [fid, kid])
@pytest.mark.parametrize(
    ("x", "y", "words"),
    [
        (np.zeros((1, 3)), np.zeros((5, 3)), "first set of features has 1 row"),
        (np.zeros((5, 3)), np.zeros((0, 3)), "second set of features has 0 row"),
        (np.zeros((5, 3)), np.zeros((5, 4)), "3 and 4 dimensions"),
        (np.zeros(5), np.zeros((5, 4)), r"shape \(5,\)"),
        (np.array([[0.0], [np.nan]]), np.zeros((5, 1)), "row 1: NaN"),
        (np.zeros((5, 1)), np.array([[np.inf], [0.0]]), "second set of features, row 0"),
    ],
)
def test_bad_features_are_one_clear_error(distance, x: np.ndarray, y: np.ndarray, words: str):
    with pytest.raises(AugmentError, match=words):
        distance(x, y)


def test_a_subset_of_one_is_refused():
    with pytest.raises(AugmentError, match="subsets of 1"):
        kid(features(0, 5, 2), features(1, 5, 2), subset_size=1)
