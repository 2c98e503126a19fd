"""CLIP score: closed forms of the arithmetic, and whole pictures with their texts through the real loading code."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from tiny import tiny_clip

from lib.core.checkpoints import resolve
from lib.core.images import load_rgb
from lib.core.vision import WEIGHT, cosines
from lib.evaluation.metrics.text import clip_score
from lib.judges.clip import RegionScorer, RegionSettings

DEMO = Path(__file__).parent.parent / "data" / "demo"
RNG = np.random.default_rng(0)
PICTURES = [RNG.integers(0, 256, (h, w, 3), dtype=np.uint8) for h, w in ((64, 64), (20, 90), (1, 1))]
TEXTS = ["a forklift", "pallet " * 100, ""]


@pytest.fixture(scope="module")
def scorer(tmp_path_factory: pytest.TempPathFactory) -> RegionScorer:
    return RegionScorer(RegionSettings(), resolve(str(tiny_clip(tmp_path_factory.mktemp("tiny") / "clip")), {}))


def test_equal_directions_score_two_and_a_half_whatever_their_lengths():
    x = RNG.normal(size=(5, 8))
    np.testing.assert_allclose(clip_score(x, 3 * x), WEIGHT)


def test_right_angles_and_opposites_score_nothing():
    assert clip_score([[1, 0], [1, 0]], [[0, 1], [-1, 0]]).tolist() == [0, 0]
    assert cosines([[1, 0], [1, 0]], [[0, 1], [-1, 0]]).tolist() == [0, -1]


def test_sixty_degrees_score_half_of_it():
    np.testing.assert_allclose(clip_score([[1, 0]], [[1, np.sqrt(3)]]), [WEIGHT / 2])


def test_scores_are_never_outside_of_0_and_the_weight():
    scores = clip_score(RNG.normal(size=(1000, 3)), RNG.normal(size=(1000, 3)))
    assert scores.min() >= 0 and scores.max() <= WEIGHT


def test_no_pairs_and_empty_embeddings_have_no_score():
    assert clip_score(np.empty((0, 4)), np.empty((0, 4))).shape == (0,)
    assert clip_score([[0, 0]], [[1, 0]]).tolist() == [0]


@pytest.mark.parametrize(("x", "y"), [([[1, 2]], [[1, 2, 3]]), ([1, 2], [1, 2]), ([[1, 2]], [[1, 2], [3, 4]])])
def test_other_shapes_are_refused(x: list, y: list):
    with pytest.raises(ValueError, match="a text for each picture"):
        clip_score(x, y)


def test_numbers_that_are_not_finite_are_refused():
    with pytest.raises(ValueError, match="not finite"):
        clip_score([[np.nan, 1]], [[1, 1]])


def test_a_score_is_that_of_the_embeddings(scorer: RegionScorer):
    result = scorer.similarity(PICTURES, TEXTS)
    expected = clip_score(scorer.embed_pictures(PICTURES), scorer.embed_texts(TEXTS))
    np.testing.assert_allclose(result.score, expected)
    assert result.cosine.shape == result.cut.shape == (3,)


def test_a_long_text_is_cut_and_counted_and_an_empty_one_is_scored(scorer: RegionScorer):
    result = scorer.similarity(PICTURES, TEXTS)
    assert result.cut.tolist() == [False, True, False]
    assert np.isfinite(result.cosine).all()
    twice = scorer.similarity(PICTURES[1:2], ["pallet " * 200])
    np.testing.assert_allclose(twice.cosine, result.cosine[1:2], atol=1e-5)


def test_a_text_that_just_fits_is_not_cut(scorer: RegionScorer):
    longest = scorer.load().model.config.text_config.max_position_embeddings - 2  # beside start and end; a letter each
    assert scorer.too_long(["a" * longest, "a" * (longest + 1)]).tolist() == [False, True]


def test_each_picture_wants_its_text(scorer: RegionScorer):
    assert scorer.similarity([], []).score.shape == (0,)
    with pytest.raises(ValueError, match="1 pictures and 2 texts"):
        scorer.similarity(PICTURES[:1], TEXTS[:2])


def test_the_mini_clip_prefers_a_picture_s_own_caption():
    mini = RegionScorer(RegionSettings(), resolve("mini:clip", {}))
    images = json.loads((DEMO / "annotations.json").read_text())["images"][:8]
    pixels = [load_rgb(DEMO / "images" / image["file_name"], "upright") for image in images]
    captions = [image["caption"] for image in images]
    matching, other = (mini.similarity(pixels, texts).score for texts in (captions, captions[1:] + captions[:1]))
    assert matching.mean() > other.mean() + 1
