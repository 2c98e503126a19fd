"""Extractors: exact definitions, parity with pytorch-fid, and what happens without weights."""

from __future__ import annotations

import hashlib
import io
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
from PIL import Image
from tiny import tiny_clip, tiny_gligen

from lib.core.checkpoints import folder_revision
from lib.core.errors import AugmentError
from lib.evaluation import features as module
from lib.evaluation.features import EXTRACTORS, Inception, Pixels, extractor_of


def picture(seed: int, height: int, width: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights of pytorch-fid's own network, in the old pickle format of the published file."""
    import torch
    from pytorch_fid import inception
    from torchvision.models import Inception3

    torch.manual_seed(0)
    built: list[Any] = []
    with (
        mock.patch.object(inception, "load_state_dict_from_url", return_value={}),
        mock.patch.object(Inception3, "load_state_dict", lambda self, _: built.append(self)),
    ):
        inception.fid_inception_v3()
    path = tmp_path_factory.mktemp("weights") / "random.pth"
    torch.save(built[0].state_dict(), path, _use_new_zipfile_serialization=False)
    return path


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty torch hub cache, and a network that refuses."""
    monkeypatch.setattr("torch.hub.get_dir", lambda: str(tmp_path / "hub"))

    def refuse(url: str, timeout: float) -> None:
        raise urllib.error.URLError("no network in tests")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    return tmp_path / "hub" / "checkpoints" / "pt_inception-2015-12-05-6726825d.pth"


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random CLIP of the mini one's shape, as data/models/mini/clip will hold it."""
    return tiny_clip(tmp_path_factory.mktemp("mini") / "clip")


@pytest.fixture
def mini(clip: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same in the place where mini models are looked for."""
    monkeypatch.setattr("lib.core.checkpoints.MINI", clip.parent)
    return clip


@pytest.mark.parametrize("name", EXTRACTORS)
def test_every_extractor_says_what_it_is(name: str, mini: Path):
    member = extractor_of(name)
    assert name == member.name and EXTRACTORS[name].ABOUT
    assert member.identity.startswith(f"{name} {member.VERSION}: ")
    assert member.RESIZE in member.identity
    assert member.extract([]).shape == (0, member.dimensions) and member.batch_size >= 1


def test_an_unknown_extractor_lists_the_known_ones():
    with pytest.raises(AugmentError, match="known are inception, mini, pixels"):
        EXTRACTORS["vgg"]


def test_pixels_are_the_picture_at_4x4_by_box_filter_over_255():
    given = picture(0, 37, 53)
    expected = np.asarray(Image.fromarray(given).resize((4, 4), Image.Resampling.BOX), dtype=np.float64).ravel() / 255
    features = Pixels().extract([given])
    assert features.shape == (1, 48)
    assert features.dtype == np.float64
    np.testing.assert_array_equal(features[0], expected)


def test_pixels_of_a_4x4_picture_are_its_values_in_reading_order():
    given = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    np.testing.assert_array_equal(Pixels().extract([given])[0], np.arange(48) / 255)


def test_pixels_average_blocks():
    given = np.zeros((8, 8, 3), np.uint8)
    given[:2, :2] = [[[10, 0, 0], [20, 0, 0]], [[30, 0, 0], [40, 0, 0]]]
    features = Pixels().extract([given])[0]
    assert features[0] == 25 / 255
    assert features[1:].max() == 0


def test_pixels_take_pictures_of_any_sizes_from_a_generator():
    sizes = [(1, 1), (3, 900), (200, 2)]
    features = Pixels().extract(picture(i, *size) for i, size in enumerate(sizes))
    assert features.shape == (3, 48)
    assert features.min() >= 0 and features.max() <= 1


def test_inception_equals_pytorch_fid_on_the_same_weights(weights: Path, tmp_path: Path):
    import torch
    from pytorch_fid import fid_score, inception

    pictures = [picture(i, 48, 64) for i in range(3)]
    files = [tmp_path / f"{i}.png" for i in range(3)]
    for file, pixels in zip(files, pictures, strict=True):
        Image.fromarray(pixels).save(file)
    state = torch.load(weights, weights_only=True)
    with mock.patch.object(inception, "load_state_dict_from_url", return_value=state):
        network = inception.InceptionV3()
    expected = fid_score.get_activations(files, network, batch_size=3, num_workers=0)
    extractor = Inception(Inception.Settings(weights=weights, device="cpu"))
    extractor.check()
    features = extractor.extract(pictures)
    assert features.shape == (3, 2048)
    assert features.dtype == np.float64
    assert np.ptp(features, axis=0).max() > 0
    np.testing.assert_allclose(features, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())


def test_inception_takes_mixed_sizes_and_does_not_depend_on_the_batch(weights: Path):
    pictures = [picture(0, 30, 50), picture(1, 64, 20), picture(2, 300, 310)]
    three = Inception(Inception.Settings(weights=weights, batch_size=3, device="cpu")).extract(pictures)
    one = Inception(Inception.Settings(weights=weights, batch_size=1, device="cpu")).extract(iter(pictures))
    np.testing.assert_allclose(one, three, rtol=1e-4, atol=1e-5 * np.abs(three).max())


@pytest.mark.parametrize("call", [lambda e: e.check(), lambda e: e.extract([picture(0, 8, 8)])])
def test_missing_weights_name_both_places_and_the_choice_without_them(call, no_network: Path):
    with pytest.raises(AugmentError) as error:
        call(Inception())
    text = str(error.value)
    assert str(no_network) in text
    assert "https://" in text and "pt_inception-2015-12-05-6726825d.pth could not be downloaded" in text
    assert "no network in tests" in text
    assert "--extractor pixels" in text
    assert not no_network.exists()


def test_a_cached_file_whose_digest_differs_from_its_name_is_refused(no_network: Path):
    no_network.parent.mkdir(parents=True)
    no_network.write_bytes(b"half a download")
    with pytest.raises(AugmentError, match=r"is damaged: its SHA-256 begins with .* its name says 6726825d"):
        Inception().check()
    with pytest.raises(AugmentError, match="is damaged"):
        Inception().extract([picture(0, 8, 8)])


def test_a_download_is_kept_under_its_name_only_when_its_digest_fits(no_network: Path, monkeypatch: pytest.MonkeyPatch):
    right, wrong = b"weights", b"a login page"
    name = f"net-{hashlib.sha256(right).hexdigest()[:8]}.pth"
    monkeypatch.setattr("pytorch_fid.inception.FID_WEIGHTS_URL", f"https://example.test/{name}")
    kept = no_network.parent / name
    monkeypatch.setattr(urllib.request, "urlopen", lambda url, timeout: io.BytesIO(wrong))
    with pytest.raises(AugmentError, match="is damaged"):
        Inception().check()
    assert list(kept.parent.iterdir()) == []
    monkeypatch.setattr(urllib.request, "urlopen", lambda url, timeout: io.BytesIO(right))
    Inception().check()
    assert kept.read_bytes() == right


def test_a_file_that_holds_no_weights_is_one_clear_error(tmp_path: Path):
    (tmp_path / "weights.pth").write_bytes(b"not a pickle")
    extractor = Inception(Inception.Settings(weights=tmp_path / "weights.pth"))
    with pytest.raises(AugmentError, match="holds no FID Inception weights"):
        extractor.extract([picture(0, 8, 8)])


def test_given_weights_that_are_not_there_are_named(tmp_path: Path):
    with pytest.raises(AugmentError, match=r"absent\.pth not found"):
        Inception(Inception.Settings(weights=tmp_path / "absent.pth")).check()


def test_mini_gives_the_clip_s_own_embeddings_of_whole_pictures(clip: Path):
    import torch
    from transformers import AutoProcessor, CLIPModel

    pictures = [picture(i, 64, 64) for i in range(3)]  # of the model's own size: its processor does not resize them
    model = CLIPModel.from_pretrained(clip, dtype=torch.float32)
    pixels = AutoProcessor.from_pretrained(clip).image_processor(pictures, return_tensors="pt").pixel_values
    with torch.inference_mode():
        expected = model.get_image_features(pixel_values=pixels).pooler_output.numpy()
    features = extractor_of("mini", {"model": str(clip)}).extract(pictures)
    assert features.shape == (3, 128)
    assert features.dtype == np.float64
    np.testing.assert_allclose(features, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())
    assert np.abs(np.linalg.norm(features, axis=1) - 1).min() > 0.01


def test_mini_takes_mixed_sizes_from_a_generator_and_does_not_depend_on_the_batch(mini: Path):
    sizes = [(30, 50), (200, 20), (1, 1), (64, 64)]
    many, one = extractor_of("mini"), extractor_of("mini", {"batch_size": 1})
    features = many.extract(picture(i, *size) for i, size in enumerate(sizes))
    np.testing.assert_allclose(
        one.extract([picture(i, *size) for i, size in enumerate(sizes)]), features, rtol=1e-3, atol=1e-4
    )
    assert np.ptp(features, axis=0).min() > 0


def test_the_identity_of_mini_names_its_weights_and_no_path(clip: Path):
    identity = extractor_of("mini", {"model": str(clip)}).identity
    assert folder_revision(clip) in identity
    assert str(clip) not in identity


def test_missing_mini_weights_name_the_folder_and_the_choice_without_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.setattr("lib.core.checkpoints.MINI", tmp_path)
    with pytest.raises(AugmentError, match=r"data/models/mini/clip.*--extractor pixels"):
        extractor_of("mini").check()
    with pytest.raises(AugmentError, match=r"absent' is neither a folder nor a hub id.*--extractor pixels"):
        extractor_of("mini", {"model": str(tmp_path / "absent")}).check()


def test_a_folder_of_another_model_is_refused_by_mini(tmp_path: Path):
    folder = tiny_gligen(tmp_path / "gligen")
    with pytest.raises(AugmentError, match=r"clip.*was expected.*--extractor pixels"):
        extractor_of("mini", {"model": str(complete(folder / "text_encoder"))}).check()
    with pytest.raises(AugmentError, match=r"no .*--extractor pixels"):
        extractor_of("mini", {"model": str(folder / "unet")}).check()


def complete(folder: Path) -> Path:
    """With the files that a CLIP has beside its weights, so that only the model itself is wrong."""
    for name in ("tokenizer_config.json", "preprocessor_config.json"):
        (folder / name).write_text("{}")
    return folder


def test_the_weights_are_looked_for_where_torch_and_pytorch_fid_keep_them(monkeypatch, tmp_path):
    import torch.hub
    from pytorch_fid.inception import FID_WEIGHTS_URL

    assert module.WEIGHTS == FID_WEIGHTS_URL
    for name, value in (("TORCH_HOME", tmp_path / "torch"), ("XDG_CACHE_HOME", tmp_path), (None, None)):
        for other in ("TORCH_HOME", "XDG_CACHE_HOME"):
            monkeypatch.delenv(other, raising=False)
        if name:
            monkeypatch.setenv(name, str(value))
        assert module._weights_path().parents[1] == Path(torch.hub.get_dir())
