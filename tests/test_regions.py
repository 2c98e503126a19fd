"""Regions: what a crop shows, and what a CLIP says of it; random weights, the real loading code."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import tiny_clip, tiny_gligen

from lib.core.checkpoints import resolve
from lib.core.errors import AugmentError
from lib.core.vision import crop_region, to_square
from lib.judges.clip import RegionScorer, RegionSettings

NAMES = ["forklift", "pallet", "air duct"]


def crops(count: int, size: int = 64) -> list[np.ndarray]:
    """Blocks of random colours."""
    rng = np.random.default_rng(0)
    return [
        rng.integers(0, 256, (4, 4, 3), dtype=np.uint8).repeat(size // 4, 0).repeat(size // 4, 1) for _ in range(count)
    ]


def scorer_of(folder: Path, **settings: int) -> RegionScorer:
    return RegionScorer(RegionSettings(**settings), resolve(str(folder), {}))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_clip(tmp_path_factory.mktemp("tiny") / "clip")


@pytest.fixture(scope="module")
def scorer(folder: Path) -> RegionScorer:
    return scorer_of(folder)


@pytest.fixture
def copied(folder: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(folder, tmp_path / "clip"))


# Crops


def test_a_square_box_without_context_at_its_own_size_is_the_picture_inside_it():
    picture = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    np.testing.assert_array_equal(crop_region(picture, (10, 5, 30, 25), 20, 0), picture[5:25, 10:30])


def test_context_widens_the_crop_on_all_sides_by_a_share_of_the_longer_side():
    picture = np.random.default_rng(0).integers(0, 256, (60, 60, 3), dtype=np.uint8)
    np.testing.assert_array_equal(crop_region(picture, (20, 25, 40, 35), 30, 0.25), picture[15:45, 15:45])


def test_what_lies_outside_of_the_picture_repeats_its_border():
    picture = np.zeros((20, 20, 3), np.uint8)
    picture[0], picture[-1] = 50, 200
    crop = crop_region(picture, (0, 0, 20, 20), 40, 0.5)
    assert (crop[:10] == 50).all() and (crop[-10:] == 200).all()


def test_a_large_box_is_shrunk_by_areas_and_not_by_skipping_pixels():
    checks = (np.indices((512, 512)).sum(0) % 2 * 255).astype(np.uint8)[:, :, None].repeat(3, 2)
    crop = crop_region(checks, (0, 0, 512, 512), 32, 0)
    assert crop.shape == (32, 32, 3)
    assert np.abs(crop.astype(int) - 127).max() < 30


@pytest.mark.parametrize("shape", [(64, 64), (1, 1), (200, 20), (10, 500), (129, 64)])
def test_a_picture_of_any_shape_is_squeezed_to_the_square(shape: tuple[int, int]):
    picture = np.full((*shape, 3), (10, 20, 30), np.uint8)
    square = to_square(picture, 64)
    assert square.shape == (64, 64, 3)
    assert (square == (10, 20, 30)).all()


def test_a_side_that_shrinks_is_averaged_even_where_the_other_grows():
    stripes = np.zeros((4, 640, 3), np.uint8)
    stripes[:, ::2] = 255
    assert np.abs(to_square(stripes, 64).astype(int) - 127).max() <= 1


# Embeddings and scores


def test_embeddings_have_length_one_and_differ(scorer: RegionScorer):
    for rows, count in ((scorer.embed_pictures(crops(5)), 5), (scorer.embed_texts(NAMES), 3)):
        assert rows.shape == (count, scorer.dimensions) == (count, 128)
        assert rows.dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, rtol=1e-5)
        assert (rows @ rows.T)[~np.eye(count, dtype=bool)].max() < 0.999


def test_scores_are_the_softmax_that_transformers_gives_for_averaged_texts(scorer: RegionScorer):
    texts = [
        [name, f"{an} {name}", f"a photo of {an} {name}"] for name, an in zip(NAMES, ("a", "a", "an"), strict=True)
    ]
    means = np.stack([scorer.embed_texts(ways).mean(0) for ways in texts])
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    scale = float(scorer.load().model.logit_scale.exp())
    expected = torch.softmax(torch.tensor(scale * scorer.embed_pictures(crops(4)) @ means.T), 1)
    shares = scorer.score(crops(4), NAMES)
    assert shares.dtype == np.float64
    np.testing.assert_allclose(shares, expected, rtol=1e-4)
    np.testing.assert_allclose(shares.sum(1), 1)


def test_names_in_another_order_get_the_same_scores(scorer: RegionScorer):
    one, other = scorer.score(crops(3), NAMES), scorer.score(crops(3), NAMES[::-1])
    np.testing.assert_allclose(one, other[:, ::-1], rtol=1e-5)


def test_a_text_does_not_depend_on_the_texts_beside_it(scorer: RegionScorer):
    alone = scorer.embed_texts(["pallet"])[0]
    np.testing.assert_allclose(scorer.embed_texts(["a much longer text", "pallet"])[1], alone, atol=1e-5)


def test_batches_do_not_change_the_scores(folder: Path, scorer: RegionScorer):
    expected = scorer.score(crops(5), NAMES)
    np.testing.assert_allclose(scorer_of(folder, batch_size=2).score(crops(5), NAMES), expected, rtol=1e-3)


def test_no_crops_give_no_rows_and_no_names_are_refused(scorer: RegionScorer):
    assert scorer.score([], NAMES).shape == (0, 3)
    assert scorer.embed_pictures([]).shape == (0, 128)
    with pytest.raises(ValueError, match="no names"):
        scorer.score(crops(1), [])


def test_a_text_longer_than_the_model_reads_is_cut(scorer: RegionScorer):
    assert np.isfinite(scorer.embed_texts(["pallet " * 100])).all()


def test_the_identity_holds_the_revision_and_no_path(folder: Path, scorer: RegionScorer):
    assert scorer.ref.revision in scorer.identity
    assert str(folder) not in scorer.identity


# Checkpoints


def test_the_normalisation_is_read_from_either_of_the_processor_s_files(copied: Path, scorer: RegionScorer):
    processor = json.loads((copied / "processor_config.json").read_text())["image_processor"]
    (copied / "processor_config.json").unlink()
    (copied / "preprocessor_config.json").write_text(json.dumps(processor))
    np.testing.assert_array_equal(scorer_of(copied).features(crops(2)), scorer.features(crops(2)))
    (copied / "preprocessor_config.json").write_text(json.dumps({**processor, "image_mean": [0, 0, 0]}))
    assert np.abs(scorer_of(copied).features(crops(2)) - scorer.features(crops(2))).max() > 1e-3


def test_nothing_is_read_before_the_first_use(copied: Path):
    scorer = scorer_of(copied)
    shutil.rmtree(copied)
    with pytest.raises(AugmentError):
        scorer.load()


def test_truncated_weights_are_one_clear_error(copied: Path):
    weights = copied / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100_000])
    with pytest.raises(AugmentError, match="cannot be loaded"):
        scorer_of(copied).load()


def test_weights_that_changed_after_they_were_pinned_are_refused(copied: Path):
    scorer = scorer_of(copied)
    data = bytearray((copied / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (copied / "model.safetensors").write_bytes(data)
    with pytest.raises(AugmentError, match="its files changed"):
        scorer.load()


def test_missing_tensors_are_not_filled_with_random_numbers(copied: Path):
    tensors = load_file(copied / "model.safetensors")
    del tensors["visual_projection.weight"]
    save_file(tensors, copied / "model.safetensors", {"format": "pt"})
    with pytest.raises(AugmentError, match=r"lack 1 tensors \(visual_projection.weight"):
        scorer_of(copied).load()


def test_weights_that_are_no_numbers_are_told_at_the_first_score(copied: Path):
    tensors = load_file(copied / "model.safetensors")
    tensors["visual_projection.weight"] *= float("nan")
    save_file(tensors, copied / "model.safetensors", {"format": "pt"})
    with pytest.raises(AugmentError, match="not finite"):
        scorer_of(copied).score(crops(1), NAMES)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer_config.json", "processor_config.json"])
def test_a_missing_file_is_named(name: str, copied: Path):
    (copied / name).unlink()
    with pytest.raises(AugmentError, match=name.replace("model", "").replace("processor", "")):
        scorer_of(copied).load()


@pytest.mark.parametrize("text", ["{", "{}", '{"image_processor": {"image_mean": [1, 2]}}'])
def test_a_processor_without_means_and_deviations_is_refused(text: str, copied: Path):
    (copied / "processor_config.json").write_text(text)
    with pytest.raises(AugmentError, match="cannot be loaded"):
        scorer_of(copied).load()


def test_another_architecture_is_refused_by_name(copied: Path, tmp_path: Path):
    gligen = tiny_gligen(tmp_path / "gligen")
    with pytest.raises(AugmentError, match=r"no config\.json"):
        scorer_of(gligen).load()
    with pytest.raises(AugmentError, match=r"no .*tokenizer_config\.json"):
        scorer_of(gligen / "unet").load()
    for part, kind in (("unet", "None"), ("text_encoder", "'clip_text_model'")):
        shutil.copy(gligen / part / "config.json", copied / "config.json")
        with pytest.raises(AugmentError, match=rf"model_type {kind}; 'clip' was expected"):
            scorer_of(copied).load()


@pytest.mark.gpu
def test_a_gpu_says_what_a_cpu_says(folder: Path, monkeypatch: pytest.MonkeyPatch):
    gpu = scorer_of(folder).score(crops(5), NAMES)
    monkeypatch.setattr("lib.judges.clip.device", lambda: torch.device("cpu"))
    np.testing.assert_allclose(gpu, scorer_of(folder).score(crops(5), NAMES), atol=1e-3)
