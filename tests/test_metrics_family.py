"""Every registered metric: declared, sane on sets and pairs of pictures, explained in the docs."""

import math
import re
from pathlib import Path

import numpy as np
import pytest

from lib.errors import AugmentError
from lib.metrics import METRICS, Pair
from lib.registry import MemberSettings

DOCS = (Path(__file__).parents[1] / "docs" / "evaluation.md").read_text()
of_sets = pytest.mark.parametrize("name", sorted(name for name in METRICS if METRICS[name].OF == "sets"))
of_pairs = pytest.mark.parametrize("name", sorted(name for name in METRICS if METRICS[name].OF == "pairs"))
every = pytest.mark.parametrize("name", sorted(METRICS))
BOX = np.array([[20.0, 16.0, 60.0, 48.0]])


def metric(name, **values):
    return METRICS.build(METRICS.member(name, values))


def picture(seed, height=80, width=96):
    return (
        np.random.default_rng(seed).integers(40, 200, (height // 8, width // 8, 3), np.uint8).repeat(8, 0).repeat(8, 1)
    )


def painted(inside=True):
    """A picture whose box holds something else, and one whose every pixel is a little brighter."""
    source = picture(1)
    output = source.copy()
    if inside:
        output[16:48, 20:60] = picture(2)[16:48, 20:60]
    else:
        output += 3
    return Pair(source, output, BOX)


def told(pair, name, **values):
    return metric(name, **values).of_pair(pair)


@every
def test_a_member_declares_itself_and_says_what_its_numbers_mean(name):
    member = METRICS[name]
    assert isinstance(member.VERSION, int) and member.OF in ("sets", "pairs") and member.ABOUT
    assert issubclass(member.Settings, MemberSettings)
    for text in member.ABOUT.values():
        assert len(re.findall(r"[.:]( |$)", text)) >= 2 and text.endswith(".")  # what it says; what it cannot tell


@every
def test_the_docs_explain_every_number(name):
    for number, text in METRICS[name].ABOUT.items():
        assert f"| `{number}` | {text} |" in DOCS


@every
def test_unknown_settings_are_refused(name):
    with pytest.raises(AugmentError, match="'marginz'"):
        METRICS.member(name, {"marginz": 3})


@of_sets
def test_numbers_of_sets_are_those_that_it_declares_and_finite(name):
    random = np.random.default_rng(0)
    found = metric(name).of_sets(random.normal(size=(30, 8)), random.normal(size=(20, 8)), 0)
    assert set(found) <= set(METRICS[name].ABOUT) and found
    assert all(np.isfinite(value).all() for value in map(np.asarray, found.values()))


@of_sets
def test_as_few_as_it_declares_are_enough(name):
    random, least = np.random.default_rng(0), METRICS[name].LEAST
    assert metric(name).of_sets(random.normal(size=(least, 8)), random.normal(size=(least, 8)), 0)


@of_pairs
def test_numbers_of_a_pair_are_those_that_it_declares_and_finite(name):
    for inside in (True, False):
        found = told(painted(inside), name)
        assert set(found) <= set(METRICS[name].ABOUT) and found
        assert all(math.isfinite(value) for value in found.values())


@of_pairs
def test_a_pair_is_not_written_to(name):
    pair, same = painted(), painted()
    told(pair, name)
    assert np.array_equal(pair.source, same.source) and np.array_equal(pair.output, same.output)


def test_what_happens_in_the_boxes_leaves_the_background_alone_and_the_other_way_round():
    assert told(painted(), "background", margin=0) == {"untouched": 1.0}
    assert told(painted(inside=False), "background")["background_psnr"] == pytest.approx(20 * math.log10(255 / 3))
    assert told(painted(), "inside")["inside_mse"] > 100 > told(painted(inside=False), "inside")["inside_mse"]


def test_an_even_change_of_light_makes_no_seam_and_a_pasted_box_does():
    assert told(painted(inside=False), "seam")["seam_edge"] < 0.01 < told(painted(), "seam")["seam_edge"]


@pytest.mark.parametrize("name", ["inside", "seam"])
def test_without_boxes_there_is_a_sentence(name):
    bare = Pair(picture(1), picture(2), np.zeros((0, 4)))
    with pytest.raises(ValueError, match="no box in the picture: give --boxes"):
        told(bare, name)


def test_copies_are_twins_and_copies_of_real_ones_are_leaks():
    random = np.random.default_rng(0)
    real, other = random.normal(size=(20, 16)), random.normal(size=(10, 16))
    assert metric("twins").of_sets(real, other, 0) == {"twins": 0.0, "leaks": 0.0}
    assert metric("twins").of_sets(real, np.concatenate([other, other[:5]]), 0)["twins"] == pytest.approx(10 / 15)
    assert metric("twins").of_sets(real, np.concatenate([other, real[:10]]), 0)["leaks"] == pytest.approx(0.5)
