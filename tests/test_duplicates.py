"""Near twins: what counts as a copy, what does not, and that blocks and order change nothing."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFilter
from shared import shared

from lib.core.errors import AugmentError
from lib.core.images import load_rgb
from lib.evaluation.metrics import distances
from lib.evaluation.metrics.duplicates import hash_of, near_features, near_hashes, with_near_features, with_near_hashes
from lib.evaluation.sides import read_side


def scene(seed: int, height: int = 120, width: int = 160) -> np.ndarray:
    """A smooth coloured picture with a few edges, unlike that of another seed."""
    rng = np.random.default_rng(seed)
    picture = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)).resize((width, height))
    pixels = np.asarray(picture).copy()
    for _ in range(4):
        y, x = rng.integers(0, height // 2), rng.integers(0, width // 2)
        pixels[y : y + height // 3, x : x + width // 4] = rng.integers(0, 256, 3)
    return pixels


def jpeg(picture: np.ndarray, quality: int = 75) -> np.ndarray:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file))


def scaled(picture: np.ndarray, factor: float) -> np.ndarray:
    height, width = picture.shape[:2]
    return np.asarray(Image.fromarray(picture).resize((round(width * factor), round(height * factor))))


def blurred(picture: np.ndarray) -> np.ndarray:
    return np.asarray(Image.fromarray(picture).filter(ImageFilter.GaussianBlur(1.5)))


def bits_between(a: np.uint64, b: np.uint64) -> int:
    return (int(a) ^ int(b)).bit_count()


def hashes(pictures: list[np.ndarray], mirrored: bool = False) -> np.ndarray:
    return np.array([hash_of(picture, mirrored) for picture in pictures])


COPIES = {
    "saved": jpeg,
    "blurred": blurred,
    "smaller": lambda picture: scaled(picture, 0.93),
    "half": lambda picture: scaled(picture, 0.5),
    "squeezed": lambda picture: np.asarray(Image.fromarray(picture).resize((128, 128))),
    "grey": lambda picture: np.asarray(Image.fromarray(picture).convert("L").convert("RGB")),
}


@pytest.mark.parametrize("copy", COPIES.values(), ids=COPIES)
def test_a_copy_is_near_its_original_and_near_nothing_else(copy: Any):
    originals = [scene(seed) for seed in range(30)]
    pairs, bits = near_hashes(hashes([copy(picture) for picture in originals]), hashes(originals))
    assert pairs.tolist() == [[i, i] for i in range(30)]
    assert bits.max() <= 4


def test_a_mirrored_copy_is_found_by_the_mirrored_hash_only():
    originals = [scene(seed) for seed in range(30)]
    flipped = hashes([jpeg(np.ascontiguousarray(picture[:, ::-1])) for picture in originals])
    assert len(near_hashes(flipped, hashes(originals))[0]) == 0
    assert near_hashes(flipped, hashes(originals, mirrored=True))[0].tolist() == [[i, i] for i in range(30)]


@pytest.mark.parametrize("seed", range(5))
def test_the_mirrored_hash_is_the_hash_of_the_mirrored_picture(seed: int):
    assert hash_of(scene(seed), mirrored=True) == hash_of(scene(seed)[:, ::-1])
    assert hash_of(scene(seed)[:, ::-1], mirrored=True) == hash_of(scene(seed))


def test_a_hash_is_64_bits_of_which_half_are_set():
    value = hash_of(scene(0))
    assert isinstance(value, np.uint64)
    assert int(value).bit_count() == 32


def test_the_hash_is_the_sign_of_low_frequencies_about_their_median():
    # Written out by the definition of the cosine transform, on a picture that needs no scaling.
    grey = np.random.default_rng(0).integers(0, 256, (32, 32), dtype=np.uint8)
    n = np.arange(32)
    basis = (
        np.cos(np.pi * (2 * n[None] + 1) * np.arange(8)[:, None] / 64)
        * np.where(np.arange(8) == 0, 0.5**0.5, 1)[:, None]
    )
    waves = basis @ grey.astype(float) @ basis.T
    expected = "".join("1" if wave > np.median(waves) else "0" for wave in waves.ravel())
    assert f"{int(hash_of(np.repeat(grey[..., None], 3, axis=2))):064b}" == expected


def test_pictures_of_one_colour_are_all_near():
    sizes = ((1, 1, 9), (40, 30, 200), (33, 900, 77), (50, 50, 0))
    flat = [np.full((height, width, 3), level, np.uint8) for height, width, level in sizes]
    pairs, _ = near_hashes(hashes(flat), most=1)
    assert len(pairs) == 6
    assert bits_between(hash_of(flat[0]), hash_of(scene(0))) > 20


@pytest.mark.parametrize("picture", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3)), np.zeros((0, 4, 3), np.uint8)])
def test_what_is_no_picture_has_no_hash(picture: np.ndarray):
    with pytest.raises(AugmentError, match=r"expected uint8 \(H, W, 3\)"):
        hash_of(picture)


# Pairs


def naive_hashes(first: list[int], second: list[int] | None, most: int) -> list[tuple[int, int, int]]:
    return [
        (i, j, (a ^ b).bit_count())
        for i, a in enumerate(first)
        for j, b in enumerate(first if second is None else second)
        if (second is not None or i < j) and (a ^ b).bit_count() <= most
    ]


@pytest.mark.parametrize("most", [0, 4, 26, 64])
@pytest.mark.parametrize("block", [7, 1024])
def test_near_hashes_are_the_brute_force_ones(most: int, block: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(distances, "_BLOCK", block)
    rng = np.random.default_rng(0)
    first = rng.integers(0, 2**64, 23, dtype=np.uint64)
    first[[5, 20]] = first[2], first[2] ^ np.uint64(0b1011 << 60)
    second = np.concatenate([rng.integers(0, 2**64, 16, dtype=np.uint64), first[:2]])
    for others in (None, second):
        pairs, bits = near_hashes(first, others, most)
        expected = naive_hashes(first.tolist(), None if others is None else others.tolist(), most)
        assert [(i, j, b) for (i, j), b in zip(pairs.tolist(), bits.tolist(), strict=True)] == expected


@pytest.mark.parametrize("least", [-1.0, 0.0, 0.5, 1.0])
@pytest.mark.parametrize("block", [7, 1024])
def test_near_features_are_the_brute_force_ones(least: float, block: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(distances, "_BLOCK", block)
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(23, 5)), rng.normal(size=(16, 5))
    x[9], y[3] = 3 * x[4], x[4] / 7  # copies of another length
    for others in (None, y):
        pairs, cosines = near_features(x, others, least)
        z = x if others is None else others
        table = (x @ z.T) / np.linalg.norm(x, axis=1)[:, None] / np.linalg.norm(z, axis=1)
        chosen = table >= least - 1e-9
        chosen = np.triu(chosen, 1) if others is None else chosen
        assert pairs.tolist() == np.argwhere(chosen).tolist()
        np.testing.assert_allclose(cosines, table[chosen], rtol=0, atol=1e-12)


def test_no_pictures_have_no_twins():
    for pairs, values in (near_hashes([]), near_hashes([], [1]), near_hashes([np.uint64(1)])):
        assert pairs.shape == (0, 2) and values.shape == (0,)
    pairs, cosines = near_features(np.empty((0, 3)), np.ones((2, 3)))
    assert pairs.shape == (0, 2) and cosines.shape == (0,)


def test_a_row_of_zeros_is_near_nothing():
    assert near_features(np.array([[0.0, 0], [0, 0], [1, 0]]))[0].tolist() == []


def test_features_of_a_copy_are_near():
    from lib.evaluation.features import Pixels

    originals = [scene(seed) for seed in range(30)]
    x, y = Pixels().extract(originals), Pixels().extract(jpeg(picture) for picture in originals)
    mean = x.mean(axis=0)
    pairs, cosines = near_features(x - mean, y - mean)
    assert pairs.tolist() == [[i, i] for i in range(30)]
    assert cosines.min() > 0.99


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: near_hashes([1], most=65), "most = 65"),
        (lambda: near_hashes([1], most=-1), "most = -1"),
        (lambda: near_hashes([0.5]), "hashes of type float64"),
        (lambda: near_hashes([1], [-1]), "hashes of type int64"),
        (lambda: near_hashes([2**64]), "hashes of type object"),
        (lambda: near_hashes([[1]]), r"shape \(1, 1\)"),
        (lambda: near_features(np.ones((2, 3)), least=1.5), r"least = 1\.5"),
        (lambda: near_features(np.ones((2, 3)), np.ones((2, 4))), "3 and 4 dimensions"),
        (lambda: near_features(np.ones(3)), "first set of features has shape"),
        (lambda: near_features(np.ones((2, 1)), np.array([[1], [np.nan]])), "second set of features, row 1"),
    ],
)
def test_what_cannot_be_compared_is_one_clear_error(call: Any, words: str):
    with pytest.raises(AugmentError, match=words):
        call()


# Photographs


def photographs(*parts: str) -> list[np.ndarray]:
    return [load_rgb(entry.path) for entry in read_side(shared(*parts)).entries]


def test_of_the_forklifts_one_pair_is_near_and_it_is_one_scene_a_second_apart():
    names = [entry.path.stem for entry in read_side(shared("loco_forklifts", "forklifts")).entries]
    found = hashes(photographs("loco_forklifts", "forklifts"))
    assert len(near_hashes(found)[0]) == 0
    pairs, bits = near_hashes(found, most=12)
    assert [(names[i], names[j]) for i, j in pairs] == [("1579163854605,27", "1579163855598,39")]
    assert bits.tolist() == [6]


def test_of_unlike_photographs_no_pair_is_near_and_every_copy_is():
    pictures = photographs("voc_nine_formats")
    found = hashes(pictures)
    assert len(pictures) == 100
    assert len(near_hashes(found, most=12)[0]) == 0
    copies = hashes([jpeg(scaled(picture[:, ::-1], 0.9), 60) for picture in pictures], mirrored=True)
    assert near_hashes(copies, found)[0].tolist() == [[i, i] for i in range(100)]


@pytest.mark.parametrize("block", [3, 100])
def test_which_have_any_is_what_the_pairs_say(block: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(distances, "_BLOCK", block)
    random = np.random.default_rng(0)
    x, y = random.normal(size=(9, 3)), random.normal(size=(7, 3))
    hashes, others = (random.integers(0, 64, n).astype(np.uint64) for n in (9, 7))
    for first, second, pairs_of, told_of, limit in (
        (x, y, near_features, with_near_features, 0.9),
        (hashes, others, near_hashes, with_near_hashes, 1),
    ):
        pairs, _ = pairs_of(first, None, limit)
        assert np.flatnonzero(told_of(first, None, limit)[0]).tolist() == np.unique(pairs).tolist() != []
        pairs, _ = pairs_of(first, second, limit)
        rows, columns = (np.flatnonzero(told).tolist() for told in told_of(first, second, limit))
        assert (rows, columns) == (np.unique(pairs[:, 0]).tolist(), np.unique(pairs[:, 1]).tolist())
    assert not with_near_hashes([1, 2**62], [1, 2**62], 0, apart=True)[0].any()
