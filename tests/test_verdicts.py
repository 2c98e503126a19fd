"""Verdicts on boxes: limits learned from made distributions, properties, and the mini CLIP on the demo set."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib.core.checkpoints import resolve
from lib.core.images import load_rgb
from lib.core.vision import visible_sides
from lib.judges import score_boxes
from lib.judges.clip import RegionScorer, RegionSettings
from lib.screening.verdicts import Thresholds, Verdict, standing, thresholds, verdicts

DEMO = Path(__file__).parent.parent / "data" / "demo"
ORDER = {"drop": 0, "ignore": 1, "keep": 2}


def shares_of(share: np.ndarray, labels: np.ndarray, categories: int) -> np.ndarray:
    """(N, C): the given share for each box's category, the rest in equal parts."""
    shares = np.repeat((1 - share)[:, None] / (categories - 1), categories, axis=1)
    shares[np.arange(len(share)), labels] = share
    return shares


def made(n: int = 2000, categories: int = 4, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Real boxes that a judge is mostly right about, another way for each category."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(categories, size=n)
    return shares_of(rng.beta(2 + 3 * labels, 2), labels, categories), labels


def limits(keep: list[float], drop: list[float]) -> Thresholds:
    count = np.full(len(keep), 100)
    return Thresholds(np.array(keep), np.array(drop), count, count < 20, (5.0, 1.0), True)


def one(shares: list[float], label: int, learned: Thresholds, side: float = 50) -> Verdict:
    return verdicts([shares], [label], learned, [side])[0]


# Standing


def test_own_share_rank_and_margin():
    ranked = standing([[0.7, 0.2, 0.1], [0.7, 0.2, 0.1], [0.4, 0.4, 0.2]], [0, 1, 1])
    np.testing.assert_allclose(ranked.share, [0.7, 0.2, 0.4])
    assert ranked.rank.tolist() == [1, 2, 1]  # equals share the better rank
    np.testing.assert_allclose(ranked.margin, [0.5, -0.5, 0], atol=1e-12)


def test_a_single_name_and_no_boxes_have_a_standing_as_well():
    alone = standing([[1.0]], [0])
    assert (alone.share[0], alone.rank[0], alone.margin[0]) == (1, 1, 1)
    assert standing(np.empty((0, 3)), []).rank.shape == (0,)


@pytest.mark.parametrize(
    ("shares", "labels", "why"),
    [([0.1], [0], "expected"), ([[0.1]], [0, 0], "expected"), ([[0.5, 0.5]], [2], "by the names"), ([[1]], [-1], "by")],
)
def test_what_does_not_fit_together_is_refused(shares: list, labels: list, why: str):
    with pytest.raises(ValueError, match=why):
        standing(shares, labels)


# Limits


def test_limits_are_percentiles_of_real_scores_by_category():
    shares, labels = made()
    learned = thresholds(shares, labels)
    share = shares[np.arange(len(labels)), labels]
    for number in range(4):
        assert np.mean(share[labels == number] < learned.keep[number]) == pytest.approx(0.05, abs=0.003)
        assert np.mean(share[labels == number] < learned.drop[number]) == pytest.approx(0.01, abs=0.003)
        assert learned.boxes[number] == (labels == number).sum()
    assert not learned.pooled.any() and learned.known and learned.percentiles == (5, 1)
    assert np.ptp(learned.keep) > 0.2  # categories differ, so do their limits


def test_a_rare_category_takes_the_pool_s_limit_or_its_own_where_that_is_lower():
    shares, labels = made()
    for share, expected in ((0.95, "the pool's"), (0.01, "its own")):
        rare = shares_of(np.array([share]), np.array([4]), 5)
        learned = thresholds(np.vstack([np.pad(shares, ((0, 0), (0, 1))), rare]), [*labels, 4])
        assert learned.pooled.tolist() == [False] * 4 + [True]
        pool = np.percentile([*shares[np.arange(len(labels)), labels], share], 5, method="lower")
        assert learned.keep[4] == pytest.approx(pool if expected == "the pool's" else share)


def test_a_category_without_real_boxes_takes_the_pool_s_limit():
    shares, labels = made()
    learned = thresholds(np.pad(shares, ((0, 0), (0, 1))), labels)
    assert learned.boxes[4] == 0 and learned.pooled[4]
    assert learned.keep[:4].min() < learned.keep[4] < learned.keep[:4].max()


def test_too_few_real_boxes_in_all_hold_nothing_back():
    shares, labels = made(19)
    learned = thresholds(shares, labels)
    assert not learned.known and (learned.keep == 0).all() and (learned.drop == 0).all()
    worst = verdicts([[0, 1, 0, 0]], [0], learned)[0]
    assert (worst.action, worst.reason) == ("keep", "too_few_real_boxes")
    assert not thresholds(np.empty((0, 3)), []).known


def test_real_boxes_that_are_too_small_are_not_learned_from():
    shares, labels = made()
    bad = shares_of(np.zeros(500), np.zeros(500, int), 4)
    sides = np.r_[np.full(len(labels), 20), np.full(500, 7.9)]
    learned = thresholds(np.vstack([shares, bad]), [*labels, *np.zeros(500, int)], sides=sides)
    np.testing.assert_array_equal(learned.keep, thresholds(shares, labels).keep)


def test_no_limit_is_above_the_highest_allowed():
    learned = thresholds(*made(), most=0.3)
    assert learned.keep.max() == 0.3 and (learned.drop <= learned.keep).all()


@pytest.mark.parametrize(("keep", "drop"), [(1, 5), (101, 1), (5, -1)])
def test_percentiles_out_of_order_are_refused(keep: float, drop: float):
    with pytest.raises(ValueError, match="0 <= drop <= keep <= 100"):
        thresholds(*made(50), keep=keep, drop=drop)


def test_limits_are_reported_by_name():
    learned = thresholds(*made()).by_name(["a", "b", "c", "d"])
    assert json.loads(json.dumps(learned))["b"].keys() == {"keep", "drop", "boxes", "pooled"}


# Verdicts


def test_each_verdict_has_its_reason_and_the_numbers():
    learned = limits([0.5, 0.5], [0.2, 0.2])
    assert one([0.5, 0.5], 0, learned) == Verdict("keep", "recognised", 0.5, 1, 0.0, 0.5, 0.2)
    assert one([0.3, 0.7], 0, learned).reason == "doubtful"
    dropped = one([0.1, 0.9], 0, learned)
    assert (dropped.action, dropped.reason, dropped.rank) == ("drop", "not_recognised", 2)
    assert dropped.margin == pytest.approx(-0.8)


def test_what_is_ranked_first_is_never_dropped():
    assert one([0.15] + [0.85 / 9] * 9, 0, limits([0.5] * 10, [0.2] * 10)).action == "ignore"


def test_what_is_too_small_or_out_of_the_frame_is_kept_and_says_so():
    learned = limits([0.5, 0.5], [0.2, 0.2])
    for verdict in (one([0, 1], 0, learned, side=7.9), one([np.nan, np.nan], 0, learned)):
        assert verdict == Verdict("keep", "too_small_to_judge", None, 0, None, 0.5, 0.2)
    assert one([0, 1], 0, learned, side=8).action == "drop"
    with pytest.raises(ValueError, match="one a box"):
        verdicts([[0, 1]], [0], learned, [9, 9])


def test_a_verdict_is_of_its_own_box_alone():
    shares, labels = made(200)
    learned, order = thresholds(*made()), np.random.default_rng(1).permutation(200)
    together = verdicts(shares, labels, learned)
    assert [together[i] for i in order] == verdicts(shares[order], labels[order], learned)


def test_limits_of_other_categories_are_refused():
    with pytest.raises(ValueError, match="expected the same"):
        verdicts([[0.5, 0.5]], [0], limits([0.1] * 3, [0] * 3))


def test_real_boxes_of_the_same_kind_are_kept_and_exchanged_labels_are_not():
    learned = thresholds(*made())
    shares, labels = made(seed=1)
    kept = np.mean([verdict.action == "keep" for verdict in verdicts(shares, labels, learned)])
    assert kept == pytest.approx(0.95, abs=0.02)
    exchanged = verdicts(shares, (labels + 1) % 4, learned)
    assert np.mean([verdict.action == "keep" for verdict in exchanged]) < 0.2


@given(seed=st.integers(0, 1000), keep=st.floats(0, 100), share=st.floats(0, 1))
def test_real_boxes_are_kept_at_least_as_promised(seed: int, keep: float, share: float):
    shares, labels = made(300, 3, seed)
    learned = thresholds(shares, labels, keep=keep, drop=share * keep)
    assert (learned.drop <= learned.keep).all()
    kept = [verdict.action == "keep" for verdict in verdicts(shares, labels, learned)]
    for number in range(3):
        assert np.mean(np.array(kept)[labels == number]) >= 1 - keep / 100 - 1e-9


@given(st.integers(0, 1000))
def test_percentiles_of_nothing_keep_everything(seed: int):
    learned = thresholds(*made(), keep=0, drop=0)
    shares = np.random.default_rng(seed).dirichlet([0.2] * 4, 50)
    assert {verdict.action for verdict in verdicts(shares, np.arange(50) % 4, learned)} == {"keep"}


@given(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1), st.floats(0, 1), st.lists(st.floats(0.01, 1), min_size=3))
def test_a_higher_own_share_never_makes_a_verdict_worse(a: float, b: float, c: float, d: float, rest: list[float]):
    low, high = sorted((a, b))
    drop_at, keep_at = sorted((c, d))
    others = np.array(rest) / sum(rest)
    learned = limits([keep_at] * (len(rest) + 1), [drop_at] * (len(rest) + 1))
    less, more = (one([share, *(others * (1 - share))], 0, learned) for share in (low, high))
    assert ORDER[less.action] <= ORDER[more.action]


@given(st.integers(0, 1000), st.floats(0, 100))
def test_a_higher_percentile_never_keeps_more(seed: int, keep: float):
    real, (shares, labels) = made(), made(100, seed=seed)
    loose, strict = (
        sum(v.action == "keep" for v in verdicts(shares, labels, thresholds(*real, keep=at, drop=0)))
        for at in (keep / 2, keep)
    )
    assert strict <= loose


# Boxes of pictures


class Judged:
    """Every box of the demo set, as the mini CLIP sees it."""

    def __init__(self) -> None:
        coco = json.loads((DEMO / "annotations.json").read_text())
        self.names = [category["name"] for category in coco["categories"]]
        ids = [category["id"] for category in coco["categories"]]
        scorer = RegionScorer(RegionSettings(), resolve("mini:clip", {}))
        shares, sides, labels, pictures = [], [], [], []
        for image in coco["images"]:
            notes = [note for note in coco["annotations"] if note["image_id"] == image["id"]]
            boxes = np.array([note["bbox"] for note in notes], float)
            boxes[:, 2:] += boxes[:, :2]
            picture = load_rgb(DEMO / "images" / image["file_name"], "upright")
            shares.append(score_boxes(scorer, picture, boxes, self.names))
            sides.append(visible_sides(boxes, image["width"], image["height"]))
            labels += [ids.index(note["category_id"]) for note in notes]
            pictures += [image["id"]] * len(notes)
        self.shares, self.sides = np.concatenate(shares), np.concatenate(sides)
        self.labels, self.pictures = np.array(labels), np.array(pictures)

    def count(self, rows: np.ndarray, shift: int, learned: Thresholds) -> Counter[str]:
        labels = (self.labels[rows] + shift) % len(self.names)
        return Counter(v.action for v in verdicts(self.shares[rows], labels, learned, self.sides[rows]))


@pytest.fixture(scope="module")
def demo() -> Judged:
    return Judged()


def test_real_boxes_of_the_demo_are_kept_and_exchanged_labels_dropped(demo: Judged):
    learned, every = thresholds(demo.shares, demo.labels, sides=demo.sides), np.full(len(demo.labels), True)
    assert demo.count(every, 0, learned)["keep"] >= 0.95 * len(demo.labels)
    for shift in (1, 2, 3):
        assert demo.count(every, shift, learned)["drop"] >= 0.9 * len(demo.labels)


def test_limits_of_half_of_the_pictures_hold_for_the_other_half(demo: Judged):
    half = np.isin(demo.pictures, np.unique(demo.pictures)[::2])
    learned = thresholds(demo.shares[half], demo.labels[half], sides=demo.sides[half])
    assert demo.count(~half, 0, learned)["keep"] >= 0.85 * (~half).sum()
    assert demo.count(~half, 1, learned)["drop"] >= 0.9 * (~half).sum()


def test_a_box_outside_of_its_picture_has_no_shares():
    scorer = RegionScorer(RegionSettings(), resolve("mini:clip", {}))
    picture = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    boxes = [(5, 5, 30, 30), (70, 5, 90, 30), (50, 10, 90, 60)]
    shares = score_boxes(scorer, picture, boxes, ["forklift", "pallet"])
    assert np.isfinite(shares).all(axis=1).tolist() == [True, False, True]
    inside = score_boxes(scorer, picture, [(50, 10, 60, 40)], ["forklift", "pallet"])
    np.testing.assert_allclose(shares[2], inside[0], rtol=1e-4)  # a box is what the frame shows of it
    assert score_boxes(scorer, picture, [], ["forklift"]).shape == (0, 1)
    assert visible_sides(boxes, 60, 40).tolist() == [25, 0, 10]
