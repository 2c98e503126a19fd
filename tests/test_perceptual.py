"""LPIPS and diversity: parity with the paper's package, closed forms, directions, and missing weights."""

from __future__ import annotations

import hashlib
import pickle
import shutil
import warnings
from dataclasses import replace
from functools import cache
from itertools import combinations
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from lib.core.checkpoints import MINI
from lib.core.errors import AugmentError
from lib.evaluation.metrics.perceptual import ALEX_LINEAR, ALEX_URL, NETWORKS, Network, alex, diversity, lpips, mini
from lib.evaluation.metrics.pixels import crop_to
from lib.scenes.warehouse import render, scene_seed

SIDE = 96


@cache
def scenes(count: int, width: int = SIDE, height: int = SIDE) -> np.ndarray:
    """(count, height, width, 3) drawn warehouses."""
    return np.stack([render(scene_seed(997, number), width, height).image for number in range(count)])


def noised(pictures: np.ndarray, spread: float, seed: int = 1) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(0, spread, pictures.shape)
    return np.clip(pictures + noise, 0, 255).astype(np.uint8)


def blurred(pictures: np.ndarray, sigma: float) -> np.ndarray:
    return np.stack([cv2.GaussianBlur(picture, (0, 0), sigma) for picture in pictures])


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def peer() -> Any:
    """The paper's own package on a random AlexNet; its linear weights are the published ones."""
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")  # it calls torchvision as one did in 2020
        torch.manual_seed(0)
        from lpips import LPIPS

        return LPIPS(net="alex", pnet_rand=True, verbose=False)


@pytest.fixture(scope="module")
def weights(peer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The peer's AlexNet as torchvision publishes one, its classifier left out."""
    state = {f"features.{name.split('.', 1)[1]}": value for name, value in peer.net.state_dict().items()}
    path = tmp_path_factory.mktemp("weights") / "alexnet.pth"
    torch.save(state, path, _use_new_zipfile_serialization=False)
    return path


@pytest.fixture(scope="module")
def random_alex(weights: Path) -> Network:
    return alex(weights, sha256(weights))


@pytest.fixture(scope="module", params=["alex", "mini"])
def network(request: pytest.FixtureRequest) -> Network:
    return mini() if request.param == "mini" else request.getfixturevalue("random_alex")


@pytest.fixture
def tokens() -> Network:
    """One layer of two channels at every 32nd pixel: red and green as they are."""

    def layers(pixels: torch.Tensor) -> list[torch.Tensor]:
        return [(pixels[:, :2, ::32, ::32] + 1) / 2]

    return Network("tokens", "tokens 1", 1, layers, None)


# Parity


def of_peer(peer: Any, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    x, y = (torch.tensor(pictures.copy()).permute(0, 3, 1, 2) / 127.5 - 1 for pictures in (a, b))
    with torch.inference_mode():
        return np.asarray(peer(x, y).flatten().double())


@pytest.mark.parametrize("width, height", [(64, 64), (96, 70), (31, 45)])
def test_the_papers_package_says_the_same(peer, random_alex, width, height):
    a = scenes(3, max(width, 32), max(height, 32))[:, :height, :width]
    for b in (noised(a, 30), blurred(a, 2), a[::-1], np.random.default_rng(3).integers(0, 256, a.shape, np.uint8)):
        np.testing.assert_allclose(lpips(random_alex, a, b), of_peer(peer, a, b), rtol=0, atol=1e-6)


def test_without_weights_it_is_the_papers_baseline(peer, random_alex):
    a, b = scenes(2), noised(scenes(2), 30)
    peer.lpips = False
    try:
        wanted = of_peer(peer, a, b)
    finally:
        peer.lpips = True
    np.testing.assert_allclose(lpips(replace(random_alex, weights=None), a, b), wanted, rtol=0, atol=1e-6)


def test_the_linear_weights_are_the_published_ones(peer):
    from safetensors.torch import load_file

    weights = load_file(ALEX_LINEAR)
    assert sorted(weights) == [f"layer{i}" for i in range(5)] and sum(map(len, weights.values())) == 1152
    for number in range(5):
        assert torch.equal(weights[f"layer{number}"], peer.lins[number].model[1].weight.flatten())
        assert (weights[f"layer{number}"] >= 0).all()
    assert "Redistributions" in ALEX_LINEAR.with_suffix(".LICENSE").read_text()


# Closed forms


def test_orthogonal_features_are_2_apart_and_brightness_is_none(tokens):
    red, green = np.zeros((2, 1, 64, 64, 3), np.uint8)
    red[..., 0], green[..., 1] = 200, 90
    assert lpips(tokens, red, green) == pytest.approx(2)
    assert lpips(tokens, red, red // 2) == pytest.approx(0)
    assert lpips(replace(tokens, weights=[torch.tensor([3.0, 0.5])]), red, green) == pytest.approx(3.5)


def test_a_mask_weighs_places_by_their_share(tokens):
    red, other = np.zeros((2, 1, 64, 64, 3), np.uint8)
    mask = np.zeros((1, 64, 64), bool)
    red[..., 0] = other[..., 0] = 200
    other[:, :32, :32] = (0, 200, 0)  # one of four places
    assert lpips(tokens, red, other) == pytest.approx(2 / 4)
    mask[:, :32] = True
    assert lpips(tokens, red, other, mask) == pytest.approx(2 / 2)
    mask[:, :, 48:] = False  # the second place's share is a half
    assert lpips(tokens, red, other, mask) == pytest.approx(2 / 1.5)


@pytest.mark.parametrize("n", [2, 3, 9])
def test_diversity_is_the_mean_over_all_pairs(network, n):
    pictures = scenes(n)
    first, second = (list(numbers) for numbers in zip(*combinations(range(n), 2), strict=True))
    assert len(first) == n * (n - 1) // 2
    wanted = lpips(network, pictures[first], pictures[second]).mean()
    assert diversity(network, pictures) == pytest.approx(wanted, rel=1e-5)


def test_equal_pictures_are_0_apart(network):
    pictures = scenes(1).repeat(10, axis=0)
    assert (lpips(network, pictures, pictures) == 0).all()
    assert diversity(network, pictures) == pytest.approx(0, abs=1e-12)


def test_black_pictures_are_no_nan(network, tokens):
    black = np.zeros((3, SIDE, SIDE, 3), np.uint8)
    for each in (network, tokens):  # for the latter all features are 0
        assert (lpips(each, black, black) == 0).all() and diversity(each, black) == 0
        assert np.isfinite(lpips(each, black, scenes(3))).all()


def test_a_batch_says_what_its_pictures_say_alone(network):
    a, b = scenes(9), noised(scenes(9), 20)
    alone = np.concatenate([lpips(network, a[i : i + 1], b[i : i + 1]) for i in range(9)])
    np.testing.assert_allclose(lpips(network, a, b), alone, rtol=0, atol=1e-6)
    np.testing.assert_allclose(lpips(network, b, a), alone, rtol=0, atol=1e-6)
    assert lpips(network, a[:0], b[:0]).shape == (0,)


def test_all_pixels_chosen_are_none_chosen(network):
    a, b = scenes(2, 96, 70), noised(scenes(2, 96, 70), 20)
    np.testing.assert_allclose(lpips(network, a, b, np.ones(a.shape[:3], bool)), lpips(network, a, b), rtol=1e-12)


# Directions


@pytest.mark.parametrize(
    "harm",
    [
        lambda pictures, much: blurred(pictures, much),
        lambda pictures, much: noised(pictures, 15 * much),
        lambda pictures, much: np.where(np.arange(SIDE)[:, None] < 24 * much, np.uint8(0), pictures),
    ],
    ids=["blurred", "noised", "blackened"],
)
def test_more_harm_is_further_away(network, harm):
    pictures = scenes(4)
    figures = [lpips(network, pictures, harm(pictures, much)).mean() for much in (1, 2, 3)]
    assert 0 < figures[0] < figures[1] < figures[2]


def test_more_varied_pictures_are_more_diverse(network):
    one = scenes(1).repeat(5, axis=0)
    slightly, more = noised(one, 5), noised(one, 20)
    assert 0 < diversity(network, slightly) < diversity(network, more)
    assert diversity(network, slightly) < diversity(network, scenes(5))


def test_what_lies_far_from_the_mask_leaves_its_figure_alone(random_alex):
    source = scenes(1, 320, 64)
    other, mask = noised(source, 20), np.zeros(source.shape[:3], bool)
    mask[:, 20:40, 20:60] = True
    worse = other.copy()
    worse[:, :, 200:] = 0
    assert lpips(random_alex, source, worse, mask) == pytest.approx(lpips(random_alex, source, other, mask), abs=1e-9)
    assert lpips(random_alex, source, worse) > lpips(random_alex, source, other)
    assert lpips(random_alex, source, worse, ~mask) > lpips(random_alex, source, other, ~mask)


def test_a_crop_leaves_the_rest_out_altogether(network):
    source = scenes(1)
    other, mask = noised(source, 20), np.zeros(source.shape[1:3], bool)
    mask[20:60, 20:60] = True
    worse = np.where(mask[..., None], other, np.uint8(0))
    crops = [np.stack(crop_to(mask, picture[0])) for picture in (source, other, worse)]
    assert lpips(network, crops[0], crops[1]) == lpips(network, crops[0], crops[2])
    assert lpips(network, source, other) < lpips(network, source, worse)


def test_a_mask_of_one_pixel_is_a_number(network):
    source, mask = scenes(1), np.zeros((1, SIDE, SIDE), bool)
    mask[0, 50, 41] = True
    assert 0 < lpips(network, source, noised(source, 30), mask)[0] < 20


# Networks


def test_figures_name_their_network(network, random_alex):
    assert network.name in NETWORKS and network.identity.startswith(f"{network.name} 1: ")
    assert "/" not in network.identity
    assert mini().identity == mini(MINI / "vae").identity == NETWORKS["mini"]().identity != random_alex.identity


def test_alexnets_weights_are_not_downloaded(tmp_path, monkeypatch):
    monkeypatch.setattr("torch.hub.get_dir", lambda: str(tmp_path))
    with pytest.raises(AugmentError, match=f"{tmp_path}.*{ALEX_URL}.*mini"):
        NETWORKS["alex"]()


def test_other_bytes_than_the_published_ones_are_refused(weights):
    with pytest.raises(AugmentError, match=f"damaged.*{sha256(weights)[:8]}.*7be5be79"):
        alex(weights)


def test_a_pickle_runs_nothing(tmp_path):
    class Harm:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "harmed",))

    path = tmp_path / "alexnet.pth"
    path.write_bytes(pickle.dumps(Harm()))
    with pytest.raises(AugmentError, match="holds no AlexNet"):
        alex(path, sha256(path))
    assert not (tmp_path / "harmed").exists()


def test_a_file_of_something_else_is_refused(tmp_path):
    path = tmp_path / "alexnet.pth"
    torch.save({"features.0.weight": torch.zeros(3)}, path)
    with pytest.raises(AugmentError, match="holds no AlexNet"):
        alex(path, sha256(path))


def test_a_folder_that_is_no_vae_is_an_error(tmp_path):
    with pytest.raises(AugmentError, match="not found"):
        mini(tmp_path / "nothing")
    shutil.copyfile(MINI / "vae" / "config.json", tmp_path / "config.json")
    with pytest.raises(AugmentError, match=r"safetensors"):
        mini(tmp_path)


def test_a_vae_that_lacks_weights_is_an_error(tmp_path):
    from safetensors.torch import load_file, save_file

    name = "diffusion_pytorch_model.safetensors"
    shutil.copyfile(MINI / "vae" / "config.json", tmp_path / "config.json")
    state = load_file(MINI / "vae" / name)
    del state["encoder.conv_in.weight"]
    save_file(state, tmp_path / name)
    with pytest.raises(AugmentError, match="lack 1 tensors"):
        mini(tmp_path)


# Faults


def test_networks_that_give_no_numbers_are_an_error(tokens):
    broken = replace(tokens, layers=lambda pixels: [pixels * torch.nan])
    for call in (lambda: lpips(broken, scenes(1), scenes(1)), lambda: diversity(broken, scenes(2))):
        with pytest.raises(AugmentError, match=r"tokens 1.*not finite"):
            call()


def test_fewer_than_two_pictures_have_no_diversity(network):
    for count in (0, 1):
        with pytest.raises(ValueError, match="at least 2"):
            diversity(network, scenes(1)[:count])


def test_pictures_that_cannot_be_compared_are_errors(network):
    a = scenes(2)
    for wrong, message in (
        (a[0], r"uint8 \(B, H, W, 3\)"),
        (a / 255, "float64"),
        (a[:1], "one shape"),
        (a[:, :50], "one shape"),
    ):
        with pytest.raises(ValueError, match=message):
            lpips(network, a, wrong)
    with pytest.raises(ValueError, match=f"at least {network.least}"):
        lpips(network, a[:, : network.least - 1], a[:, : network.least - 1])
    smallest = a[:, : network.least, : network.least]
    assert np.isfinite(lpips(network, smallest, smallest[::-1])).all()


def test_masks_that_choose_nothing_are_errors(network):
    a, mask = scenes(2), np.zeros((2, SIDE, SIDE), bool)
    mask[0] = True
    for wrong, message in (
        (mask, "no pixel is chosen of picture 1"),
        (mask[0], "bool mask of shape"),
        (mask.astype(np.uint8), "uint8"),
    ):
        with pytest.raises(ValueError, match=message):
            lpips(network, a, a, wrong)
