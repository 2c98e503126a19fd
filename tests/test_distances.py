"""FID, KID, its interval, precision and recall: closed forms, naive loops, pytorch-fid, torchmetrics, simulations."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
from PIL import Image, ImageFilter

from lib.core.errors import AugmentError
from lib.evaluation.features import Inception, Pixels
from lib.evaluation.metrics import distances
from lib.evaluation.metrics.distances import Overlap, fid, kid, kid_interval, precision_recall


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


def naive_overlap(x: np.ndarray, y: np.ndarray, k: int) -> Overlap:
    def lengths(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.linalg.norm(a[:, None] - b, axis=2)

    real, generated = (np.sort(lengths(z, z), axis=1)[:, k] for z in (x, y))
    in_real, in_generated = lengths(x, y) <= real[:, None], lengths(x, y) <= generated
    return Overlap(
        in_real.any(axis=0).mean(), in_generated.any(axis=1).mean(), in_real.sum() / (k * len(y)),
        in_real.any(axis=1).mean(),
    )  # fmt: skip


def true_mmd2(x: tuple[np.ndarray, np.ndarray], y: tuple[np.ndarray, np.ndarray]) -> float:
    """MMD² of two Gaussians (mean, covariance) under KID's kernel: E (1 + s)³ by the moments of s = a·b / D."""

    def third(mean: np.ndarray, covariance: np.ndarray) -> np.ndarray:
        one = np.einsum("i,jk->ijk", mean, covariance)
        return np.einsum("i,j,k->ijk", mean, mean, mean) + one + one.transpose(1, 0, 2) + one.transpose(1, 2, 0)

    def kernel(a: tuple[np.ndarray, np.ndarray], b: tuple[np.ndarray, np.ndarray]) -> float:
        d = len(a[0])
        second = [covariance + np.outer(mean, mean) for mean, covariance in (a, b)]
        thirds = third(*a) * third(*b)
        return float(1 + 3 * a[0] @ b[0] / d + 3 * (second[0] * second[1]).sum() / d**2 + thirds.sum() / d**3)

    return kernel(x, x) + kernel(y, y) - 2 * kernel(x, y)


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


@pytest.fixture
def network(tmp_path: Path) -> tuple[Any, Path]:
    """pytorch-fid's own network with random weights of one seed, and a file of them."""
    import torch
    from pytorch_fid import inception
    from torchvision.models import Inception3

    torch.manual_seed(0)
    built: list[Any] = []
    with (
        mock.patch.object(inception, "load_state_dict_from_url", return_value={}),
        mock.patch.object(Inception3, "load_state_dict", lambda self, _: built.append(self)),
    ):
        model = inception.InceptionV3()
    torch.save(built[0].state_dict(), tmp_path / "random.pth")
    return model.eval(), tmp_path / "random.pth"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # scipy's, on sqrtm(disp=False)
def test_fid_of_pictures_agrees_with_pytorch_fid_on_the_same_network(network: tuple[Any, Path], tmp_path: Path):
    from pytorch_fid.fid_score import get_activations

    theirs, ours = [], []
    for side, light in enumerate((0, 60)):
        rng = np.random.default_rng(side)
        pictures = [rng.integers(light, 256, (40, 56, 3), dtype=np.uint8) for _ in range(5)]
        files = [tmp_path / f"{side}-{i}.png" for i in range(5)]
        for file, pixels in zip(files, pictures, strict=True):
            Image.fromarray(pixels).save(file)
        theirs.append(get_activations(files, network[0], batch_size=3, num_workers=0))
        ours.append(Inception(Inception.Settings(weights=network[1], device="cpu", batch_size=3)).extract(pictures))
    # 5 pictures span 4 dimensions, where their matrix root of 2048 is none: both are looked at along 3 directions.
    directions = features(0, 2048, 3) / np.abs(theirs[0]).max()
    theirs, ours = ([side @ directions for side in sides] for sides in (theirs, ours))
    assert fid(*theirs) == pytest.approx(pytorch_fid(*theirs), rel=1e-6)
    assert fid(*ours) == pytest.approx(pytorch_fid(*theirs), rel=1e-3)  # the network is float32
    # Random weights make the means differ most by far: the covariances are looked at alone as well.
    centred = [side - side.mean(axis=0) for side in theirs]
    assert fid(*centred) == pytest.approx(pytorch_fid(*centred), rel=1e-6)


@pytest.mark.filterwarnings("ignore:Metric `Kernel Inception Distance` will save:UserWarning")
@pytest.mark.parametrize(("n", "d", "shift"), [(40, 2048, 0.1), (200, 16, 0.3), (25, 48, 1.0)])
def test_kid_of_all_rows_agrees_with_torchmetrics(n: int, d: int, shift: float):
    import torch
    from torchmetrics.image.kid import KernelInceptionDistance

    x, y = features(0, n, d), features(1, n, d, shift)
    metric = KernelInceptionDistance(feature=torch.nn.Identity(), subsets=1, subset_size=n).set_dtype(torch.float64)
    metric.update(torch.from_numpy(x), real=True)
    metric.update(torch.from_numpy(y), real=False)
    assert kid(x, y) == pytest.approx(float(metric.compute()[0]), rel=1e-6)


def test_kid_estimates_the_true_distance_of_gaussians():
    scores = [kid(features(2 * i, 60, 4), features(2 * i + 1, 50, 4, 0.5, 1.2)) for i in range(200)]
    truth = true_mmd2((np.zeros(4), np.eye(4)), (np.full(4, 0.5), 1.44 * np.eye(4)))
    assert np.mean(scores) == pytest.approx(truth, abs=4 * np.std(scores) / np.sqrt(200))


# The interval


def cover(n: int, m: int, d: int, shift: float, scale: float, size: int = 1000) -> float:
    """Share of 200 intervals of 95 % that hold the true distance."""
    truth = true_mmd2((np.zeros(d), np.eye(d)), (np.full(d, shift), scale**2 * np.eye(d)))
    hits = 0
    for i in range(200):
        x, y = features(2 * i, n, d), features(2 * i + 1, m, d, shift, scale)
        low, high = kid_interval(x, y, seed=i, subset_size=size, subsets=20)
        hits += low <= truth <= high
    return hits / 200


@pytest.mark.parametrize(
    ("n", "m", "d", "shift", "scale"),
    [(50, 50, 16, 0.3, 1), (100, 40, 16, 0.2, 1), (60, 60, 8, 0.5, 1), (30, 30, 16, 0.4, 1.3), (8, 8, 48, 0.5, 1)],
)
def test_an_interval_of_95_percent_holds_the_true_distance_in_90_to_99(
    n: int, m: int, d: int, shift: float, scale: float
):
    assert 0.90 <= cover(n, m, d, shift, scale) <= 0.99


@pytest.mark.parametrize(("n", "d"), [(50, 4), (30, 48)])
def test_of_equal_distributions_the_interval_holds_zero_at_least_as_often_as_it_says(n: int, d: int):
    assert cover(n, n, d, 0, 1) >= 0.95


@pytest.mark.parametrize(("n", "m", "shift"), [(200, 200, 0.0), (120, 200, 0.3)])
def test_an_interval_over_subsets_holds_the_true_distance_too(n: int, m: int, shift: float):
    assert 0.90 <= cover(n, m, 16, shift, 1, size=40) <= 0.99


def test_the_variance_of_the_interval_is_that_of_kid():
    # Differences and pairs both count here: neither part alone would come near.
    n, m, d = 30, 20, 16
    first, second, scores = [], [], []
    for i in range(600):
        x, y = features(2 * i, n, d), features(2 * i + 1, m, d, 0.2)
        score, a, b, xx, yy, xy = distances._mmd2_parts(x, y)
        first.append(4 * a / n + 4 * b / m)
        second.append(2 * xx / (n * (n - 1)) + 2 * yy / (m * (m - 1)) + 4 * xy / (n * m))
        scores.append(score)
    assert np.mean(first) + np.mean(second) == pytest.approx(np.var(scores), rel=0.15)
    assert min(np.mean(first), np.mean(second)) > 0.2 * np.var(scores)


@pytest.mark.parametrize("size", [1000, 20])
def test_the_interval_lies_about_kid_and_widens_with_its_level(size: int):
    x, y = features(0, 60, 8), features(1, 50, 8, 0.3)
    narrow = kid_interval(x, y, seed=3, level=0.5, subset_size=size)
    wide = kid_interval(x, y, seed=3, level=0.99, subset_size=size)
    score = kid(x, y, seed=3, subset_size=size)
    assert sum(narrow) / 2 == pytest.approx(score, rel=1e-9) == sum(wide) / 2
    assert wide[0] < narrow[0] < narrow[1] < wide[1]
    assert kid_interval(x, y, seed=3, level=0.5, subset_size=size) == narrow


def test_the_interval_in_blocks_is_the_interval_at_once(monkeypatch: pytest.MonkeyPatch):
    x, y = features(10, 23, 4), features(11, 31, 4)
    whole = kid_interval(x, y)
    monkeypatch.setattr(distances, "_BLOCK", 7)
    assert kid_interval(x, y) == pytest.approx(whole, rel=1e-9)


def test_the_interval_of_constant_features_is_a_point():
    low, high = kid_interval(np.ones((5, 3)), np.full((6, 3), 2.0))
    assert low == pytest.approx(high) == pytest.approx(2**3 + 5**3 - 2 * 3**3)


@pytest.mark.parametrize(
    ("given", "words"),
    [({"level": 1}, "level 1 of"), ({"level": 0}, "level 0 of"), ({"subsets": 1}, "1 subsets"),
     ({"subset_size": 3}, "subsets of 3")],
)  # fmt: skip
def test_an_interval_that_cannot_be_is_refused(given: dict[str, Any], words: str):
    with pytest.raises(AugmentError, match=words):
        kid_interval(features(0, 9, 2), features(1, 9, 2), **given)


def test_an_interval_takes_four_pictures():
    with pytest.raises(AugmentError, match=r"second set of features has 3 row.*at least 4"):
        kid_interval(features(0, 9, 2), features(1, 3, 2))
    assert np.isfinite(kid_interval(features(0, 4, 2), features(1, 4, 2))).all()


# Precision and recall


@pytest.mark.parametrize(("n", "m", "d", "k"), [(40, 40, 6, 3), (9, 31, 2, 1), (30, 12, 48, 5), (6, 4, 1, 3)])
def test_precision_and_recall_are_the_brute_force_ones(n: int, m: int, d: int, k: int):
    for shift, scale in ((0.0, 1.0), (0.7, 1.0), (0.0, 0.5), (100.0, 1.0)):
        x, y = features(20, n, d), features(21, m, d, shift, scale)
        assert precision_recall(x, y, k) == pytest.approx(naive_overlap(x, y, k), rel=1e-12)


def test_precision_and_recall_in_blocks_are_those_at_once(monkeypatch: pytest.MonkeyPatch):
    x, y = features(22, 33, 4), features(23, 45, 4, 0.5)
    whole = precision_recall(x, y)
    monkeypatch.setattr(distances, "_BLOCK", 7)
    assert precision_recall(x, y) == whole


@pytest.mark.parametrize("offset", [0.0, 1e5])
def test_equal_sets_overlap_wholly(offset: float):
    x = features(24, 50, 8) + offset
    order = np.random.default_rng(0).permutation(50)
    # Each ball holds its own centre and, on the rim, its k-th neighbour: k + 1 of k.
    assert precision_recall(x, x[order], 3) == (1, 1, pytest.approx(4 / 3), 1)


def test_sets_far_apart_do_not_overlap():
    assert precision_recall(features(25, 20, 4), features(26, 20, 4, 50.0)) == (0, 0, 0, 0)


def test_pictures_of_one_kind_are_precise_and_recall_little():
    kinds = np.repeat(np.eye(4) * 100, 20, axis=0)
    x, y = kinds + features(27, 80, 4), kinds[:1] + features(28, 80, 4, scale=0.5)
    result = precision_recall(x, y)
    assert result.precision > 0.9 and result.density > 0.9
    assert result.recall <= 0.25 and result.coverage <= 0.25
    swapped = precision_recall(y, x)
    assert (swapped.precision, swapped.recall) == (result.recall, result.precision)


def test_equal_pictures_within_a_set_hold_each_other_though_their_balls_have_no_width():
    x = np.repeat(features(29, 5, 3), 4, axis=0)
    assert precision_recall(x, x, 3) == (1, 1, pytest.approx(4 / 3), 1)


@pytest.mark.parametrize(("n", "m", "side"), [(3, 9, "first"), (9, 3, "second")])
def test_sets_of_no_more_than_k_pictures_are_refused(n: int, m: int, side: str):
    with pytest.raises(AugmentError, match=f"{side} set of features has 3 row.*at least 4"):
        precision_recall(features(0, n, 2), features(1, m, 2), k=3)
    with pytest.raises(AugmentError, match="k = 0"):
        precision_recall(features(0, 9, 2), features(1, 9, 2), k=0)


# All of them, on pictures


def scenes(seed: int, count: int = 80) -> list[np.ndarray]:
    """Pictures of 4×4 coloured tiles."""
    tiles = np.random.default_rng(seed).integers(30, 226, (count, 4, 4, 3), dtype=np.uint8)
    return list(tiles.repeat(8, axis=1).repeat(8, axis=2))


def blurred(picture: np.ndarray) -> np.ndarray:
    return np.asarray(Image.fromarray(picture).filter(ImageFilter.GaussianBlur(8)))


def noised(picture: np.ndarray) -> np.ndarray:
    noise = np.random.default_rng(int(picture.sum())).normal(0, 200, picture.shape)
    return np.clip(picture + noise, 0, 255).astype(np.uint8)


def half_black(picture: np.ndarray) -> np.ndarray:
    return np.where(np.arange(32)[:, None, None] < 16, 0, picture).astype(np.uint8)


@pytest.mark.parametrize("damage", [blurred, noised, half_black])
def test_damaged_pictures_lie_farther_away_and_less_is_recalled(damage: Any):
    real, fresh = Pixels().extract(scenes(0)), Pixels().extract(scenes(1))
    worse = Pixels().extract(damage(picture) for picture in scenes(1))
    assert fid(real, worse) > 1.2 * fid(real, fresh)
    assert kid(real, worse) > kid(real, fresh)
    assert precision_recall(real, worse).recall < 0.5 * precision_recall(real, fresh).recall


def test_half_black_pictures_are_told_from_real_ones_by_every_measure():
    real, black = Pixels().extract(scenes(0)), Pixels().extract(half_black(picture) for picture in scenes(1))
    assert kid_interval(real, black)[0] > 0
    assert precision_recall(real, black) == (0, 0, 0, 0)


def test_pictures_greyer_than_real_ones_are_precise_but_crowd_the_middle():
    real, dull = Pixels().extract(scenes(0)), Pixels().extract(blurred(picture) for picture in scenes(1))
    result = precision_recall(real, dull)
    assert result.precision == 1 and result.recall < 0.1
    assert result.density > 5


def test_an_order_of_pictures_moves_no_distance():
    x, y = Pixels().extract(scenes(0)), Pixels().extract(scenes(1))
    order = np.random.default_rng(2).permutation(len(y))
    for distance in (fid, kid, kid_interval, precision_recall):
        assert distance(x, y[order]) == pytest.approx(distance(x, y), rel=1e-9)


@pytest.mark.parametrize("distance", [fid, kid, kid_interval, lambda x, y: precision_recall(x, y, k=1)])
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
