"""lib/proof/pictures.py, training.py, split.py, arms.py: what a detector sees, and which pictures each arm takes."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from lib.core.errors import AugmentError
from lib.evaluation.sides import Entry, Labels, Side
from lib.proof.arms import ARMS, mix_of, repeat_factors, shifted_boxes
from lib.proof.augmentation import Augmentation, augmented
from lib.proof.pictures import FILL, Pool, joined, pool_of
from lib.proof.split import SplitSettings, split_pictures
from lib.proof.training import Sampler

NAMES = ("forklift", "pallet")


def entry(folder: Path, name: str, size: tuple[int, int], boxes: list[list[float]], categories: list[str]) -> Entry:
    """A picture whose boxes are white on black."""
    pixels = np.zeros((size[1], size[0], 3), np.uint8)
    for x0, y0, x1, y1 in np.array(boxes, int).reshape(-1, 4):
        pixels[y0:y1, x0:x1] = 255
    Image.fromarray(pixels).save(folder / name)
    none = np.zeros(len(boxes), bool)
    return Entry(folder / name, name, Labels(np.array(boxes, float).reshape(-1, 4), tuple(categories), none, none))


def made_pool(count: int, prefix: str = "p", labels: list[list[int]] | None = None, size: int = 8) -> Pool:
    """Pictures with one box a label, whose content nobody looks at."""
    labels = labels or [[i % 2] for i in range(count)]
    total = sum(map(len, labels))
    return Pool(
        pixels=np.zeros((count, size, size, 3), np.uint8),
        sizes=np.full((count, 2), size, np.int64),
        scales=np.ones(count),
        names=np.array([f"{prefix}{i}" for i in range(count)], np.str_),
        sources=np.array([f"p{i % 4}" for i in range(count)], np.str_),
        first=np.concatenate([[0], np.cumsum([len(one) for one in labels])]).astype(np.int64),
        boxes=np.tile([1.0, 1.0, 5.0, 6.0], (total, 1)),
        labels=np.array([one for some in labels for one in some], np.int64),
        ignored=np.zeros(total, bool),
        painted=np.zeros(total, bool),
    )


def test_a_picture_is_fitted_into_its_square_with_its_boxes(tmp_path):
    side = Side((entry(tmp_path, "a.png", (200, 100), [[20, 10, 60, 50]], ["pallet"]),))
    pool, left = pool_of(side, NAMES, 64)
    assert left == {}
    assert pool.pixels.shape == (1, 64, 64, 3)
    assert pool.sizes.tolist() == [[64, 32]]
    assert np.allclose(pool.boxes, np.array([[20, 10, 60, 50]]) * 0.32)
    assert (pool.pixels[0, 32:] == FILL).all()
    assert pool.pixels[0, 6:14, 8:18].min() == 255
    assert pool.labels.tolist() == [1]


def test_strange_and_tiny_boxes_are_ignored_and_unreadable_pictures_are_named(tmp_path):
    good = entry(tmp_path, "a.png", (640, 640), [[0, 0, 4, 300], [9, 9, 99, 99]], ["pallet", "dog"])
    (tmp_path / "b.png").write_bytes(b"no picture")
    pool, left = pool_of(Side((good, Entry(tmp_path / "b.png", "b.png"))), NAMES, 64)
    assert pool.ignored.tolist() == [True, True]
    assert list(left) == ["b.png"]


def test_a_pool_comes_back_from_its_file_and_says_where_it_cannot(tmp_path):
    pool = joined([made_pool(3), made_pool(2, "q", [[0, 1], []])])
    pool.save(tmp_path / "pool.npz")
    found = Pool.load(tmp_path / "pool.npz")
    assert found.digest == pool.digest
    assert found.take([4, 3]).labels.tolist() == [0, 1]
    (tmp_path / "pool.npz").write_bytes(b"PK")
    with pytest.raises(AugmentError, match="holds no pictures"):
        Pool.load(tmp_path / "pool.npz")


def test_every_epoch_shows_each_picture_as_often_as_its_share():
    shares = np.array([1.0, 2.0, 0.5, 0.0])
    sampler = Sampler(shares, shares, steps=1000, seed=3)
    counts = Counter(row for step in range(1000) for row in sampler.rows(step, 7))
    assert counts[3] == 0
    assert counts[1] / counts[0] == pytest.approx(2, rel=0.02)
    assert counts[2] / counts[0] == pytest.approx(0.5, rel=0.1)


def test_a_step_sees_the_same_pictures_whenever_it_is_asked():
    shares = np.array([1.0, 1.5, 0.7])
    forward = Sampler(shares, shares[::-1], 50, seed=1)
    seen = [forward.rows(step, 4) for step in range(50)]
    assert Sampler(shares, shares[::-1], 50, seed=1).rows(37, 4) == seen[37]
    assert Sampler(shares, shares[::-1], 50, seed=2).rows(37, 4) != seen[37] or forward.rows(3, 4) == seen[3]


def test_a_curriculum_holds_its_start_and_ends_where_it_says():
    sampler = Sampler(np.array([1.0, 0.0]), np.array([0.0, 1.0]), steps=400, seed=0, hold=0.5)
    rows = [sampler.rows(step, 4) for step in range(400)]
    assert {row for some in rows[:200] for row in some} == {0}
    assert np.mean([row for some in rows[380:] for row in some]) > 0.8


@given(st.integers(0, 10_000))
def test_an_augmented_box_lies_on_its_object_to_a_tenth_of_a_pixel(seed):
    """Its centre and sides, measured by the light in it."""
    pixels, box = np.full((96, 96, 3), FILL, np.uint8), np.array([[20.0, 30.0, 50.0, 44.0]])
    pixels[30:44, 20:50] = 255
    settings = Augmentation(upside_down=True, quarter_turns=True, scale=(0.8, 1.2), brightness=0, contrast=0)
    found, boxes, visible = augmented(pixels, np.array([96, 64]), box, settings, np.random.default_rng(seed))
    if visible[0] > 0.999 and boxes.min() > 1 and boxes.max() < 95:
        light = found[..., 0] - float(FILL)
        for axis in (0, 1):
            row = light.sum(axis)
            centre = (row * (np.arange(96) + 0.5)).sum() / row.sum()
            assert abs(centre - (boxes[0, axis] + boxes[0, axis + 2]) / 2) < 0.1
            assert abs(row.sum() / row.max() - (boxes[0, axis + 2] - boxes[0, axis])) < 0.6


@given(st.integers(0, 10_000))
def test_augmented_boxes_stay_on_their_objects(seed):
    pixels = np.zeros((96, 96, 3), np.uint8)
    box = np.array([[20.0, 30.0, 50.0, 44.0]])
    pixels[30:44, 20:50] = 255
    settings = Augmentation(upside_down=True, quarter_turns=True, scale=(0.8, 1.2), brightness=0, contrast=0)
    found, boxes, visible = augmented(pixels, np.array([96, 64]), box, settings, np.random.default_rng(seed))
    if visible[0] > 0.99:
        x0, y0, x1, y1 = boxes[0]
        grown, shrunk = (
            (slice(round(y0 - by), round(y1 + by)), slice(round(x0 - by), round(x1 + by))) for by in (1.5, -1.5)
        )
        assert found[shrunk].min() > 200
        found[grown] = 0
        assert (found <= FILL).all()


def rows_of(count: int, group: str = "", split: str = "train") -> pd.DataFrame:
    return pd.DataFrame(
        {
            "key": [str(i) for i in range(count)],
            "status": "ok",
            "reason": "",
            "split": split,
            "group": [f"{group}{i // 10}" if group else "" for i in range(count)],
        }
    )


def boxes_of(images: pd.DataFrame, categories: tuple[str, ...] = NAMES) -> pd.DataFrame:
    rows = [(key, "ok", name, False) for key in images.key for name in categories]
    return pd.DataFrame(rows, columns=["image_key", "status", "category", "crowd"])


def hashes_of(images: pd.DataFrame) -> dict[str, np.uint64]:
    rng = np.random.default_rng(0)
    return {key: np.uint64(rng.integers(2**63)) for key in images.key}


def test_a_group_lies_on_one_side():
    images = rows_of(100, "g")
    split = split_pictures(images, boxes_of(images), hashes_of(images), SplitSettings(train=40, test=20))
    groups = dict(zip(images.key, images.group, strict=True))
    assert len(split.train) == 40 and len(split.test) == 20
    assert not {groups[key] for key in split.train + split.extra} & {groups[key] for key in split.test}
    assert len(split.train + split.extra + split.test) + len(split.left) == 100


def test_near_duplicates_of_test_pictures_do_not_train():
    images = rows_of(60)
    hashes = hashes_of(images)
    settings = SplitSettings(train=20, test=20)
    before = split_pictures(images, boxes_of(images), hashes, settings)
    twin = before.train[0]
    hashes[twin] = np.uint64(int(hashes[before.test[0]]) ^ 0b101)
    after = split_pictures(images, boxes_of(images), hashes, settings)
    assert after.left[twin] == "near_test_picture"
    assert twin not in after.train + after.extra


def test_a_split_that_cannot_be_says_why():
    images = rows_of(30)
    with pytest.raises(AugmentError, match=r"split\.train"):
        split_pictures(images, boxes_of(images), hashes_of(images), SplitSettings(train=40, test=20))
    boxes = boxes_of(images)
    drawn = split_pictures(images, boxes, hashes_of(images), SplitSettings(train=10, test=10))
    rare = boxes[(boxes.category == "forklift") | (boxes.image_key == drawn.train[0])]
    with pytest.raises(AugmentError, match="the test pictures hold no pallet"):
        split_pictures(images, rare, hashes_of(images), SplitSettings(train=10, test=10))
    with pytest.raises(AugmentError, match="official"):
        split_pictures(images, boxes, hashes_of(images), SplitSettings(train=10, test=10, by="official"))


def test_a_rare_category_is_held_by_as_many_training_pictures_as_it_may():
    images = rows_of(100)
    boxes = boxes_of(images)
    boxes = boxes[(boxes.category == "forklift") | boxes.image_key.astype(int).mod(2).eq(0)]
    settings = SplitSettings(train=20, test=20, rare={"pallet": 3})
    split = split_pictures(images, boxes, hashes_of(images), settings)
    held = set(boxes.image_key[boxes.category == "pallet"])
    assert len(held & set(split.train)) == 3
    assert len(held & set(split.extra[:20])) <= 3
    assert "rare_category_is_full" in split.left.values()
    with pytest.raises(AugmentError, match=r"no category 'palet' \(do you mean 'pallet'"):
        split_pictures(images, boxes, hashes_of(images), SplitSettings(train=20, test=20, rare={"palet": 3}))


def test_rare_categories_are_repeated_by_the_root_of_their_rarity():
    counts = np.array([[1, 0]] * 9 + [[1, 3]])
    assert repeat_factors(counts).tolist() == pytest.approx([1.0] * 9 + [10**0.5])


@pytest.fixture
def pools() -> dict[str, Pool]:
    real, every = made_pool(4), made_pool(16, "s")
    return {
        "real": real,
        "copy": made_pool(16, "c"),
        "all": every,
        "screened": every.take([i for i in range(16) if i % 3]),
        "targeted": made_pool(20, "t"),
        "extra": made_pool(8, "x"),
    }


@pytest.mark.parametrize("arm", ARMS)
@pytest.mark.parametrize("ratio", [0.5, 1.0, 2.0])
def test_every_arm_takes_rows_that_exist_and_repeats_itself(arm, ratio, pools):
    mix, again = (mix_of(arm, pools, ratio, classes=2, seed=1) for _ in range(2))
    for part, same in zip(mix.parts, again.parts, strict=True):
        assert len(part.rows) == len(part.start) == len(part.end)
        assert (part.rows < len(pools[part.pool])).all()
        assert part.rows.tolist() == same.rows.tolist()
    assert any(part.start.sum() for part in mix.parts)


@pytest.mark.parametrize("arm", ARMS)
def test_what_is_painted_fades_out_and_what_is_real_stays(arm, pools):
    plain, faded = (mix_of(arm, pools, 1.0, 2, 0, fade) for fade in (0.0, 1.0))
    assert [part.start.tolist() for part in plain.parts] == [part.start.tolist() for part in faded.parts]
    for before, after in zip(plain.parts, faded.parts, strict=True):
        stays = before.pool in ("real", "extra") or arm == "S"
        assert after.end.tolist() == (before.end if stays else 0 * before.end).tolist()


def test_thinned_and_targeted_arms_have_the_screened_ones_number(pools):
    counts = {arm: mix_of(arm, pools, 2.0, 2, 0).synthetic for arm in "EFGT"}
    assert counts["E"] == 8
    assert 0 < counts["F"] < 8
    assert counts["F"] == counts["G"] == counts["T"]


def test_a_smaller_ratio_takes_some_of_the_larger_ones_pictures(pools):
    small, large = (set(mix_of("E", pools, ratio, 2, 0).parts[1].rows) for ratio in (0.5, 2.0))
    assert small < large


def test_an_arm_without_pictures_says_so(pools):
    with pytest.raises(AugmentError, match=r"arm Y .* has no picture of further real pictures"):
        mix_of("Y", {**pools, "extra": pools["extra"].take([])}, 1.0, 2, 0)


def test_shifted_boxes_keep_their_size_and_leave_their_object():
    rng = np.random.default_rng(0)
    boxes = np.array([[40.0, 40.0, 60.0, 70.0]] * 50)
    moved = shifted_boxes(boxes, (200, 200), rng)
    assert np.allclose(moved[:, 2:] - moved[:, :2], [20, 30])
    overlap = np.clip(np.minimum(boxes[:, 2:], moved[:, 2:]) - np.maximum(boxes[:, :2], moved[:, :2]), 0, None)
    assert (overlap.prod(1) / 600 < 0.2).all()


def test_a_pool_with_any_byte_changed_is_read_as_it_was_or_refused_by_name(tmp_path):
    made_pool(6, "a").save(tmp_path / "pool.npz")
    data, digest = (tmp_path / "pool.npz").read_bytes(), Pool.load(tmp_path / "pool.npz").digest
    refused = 0
    for at in range(0, len(data), max(1, len(data) // 200)):
        (tmp_path / "pool.npz").write_bytes(data[:at] + bytes([data[at] ^ 0x10]) + data[at + 1 :])
        try:
            assert Pool.load(tmp_path / "pool.npz").digest == digest
        except AugmentError as error:
            assert "pool.npz holds no pictures of a proof" in str(error)
            refused += 1
    assert refused > 100
