"""A pool of donors that lies in files is the pool of rows that are held at once."""

from functools import partial

import pytest
from test_plan import box, frame, image, plan, recipe, select

from lib.planning import donor_pool
from lib.planning.donor_pool import DonorPool, outside_of
from lib.planning.plan import plan_requests
from lib.planning.statistics import Statistics
from lib.records.rows import ImageRow, ObjectRow, SelectRow
from lib.records.sorting import sorted_rows

IMAGES = [image(str(i), width=900, split="val" if i % 7 == 0 else "train") for i in range(1, 61)]
BOXES = [
    box(str(100 * i + k), str(i), 20 + 3 * i + 120 * k, 30 + i, 40 + i, 50 + i, "abc"[(i + k) % 3], crowd=k == 4)
    for i in range(1, 61)
    for k in range(i % 6)
]


def pieces(size):
    """The same rows, some pictures at a time, with all their objects."""
    for start in range(0, len(IMAGES), size):
        some = IMAGES[start : start + size]
        keys = {row.key for row in some}
        yield frame([row for row in BOXES if row.image_key in keys], ObjectRow), frame(some, ImageRow)


@pytest.fixture
def whole():
    return DonorPool.of(frame(BOXES, ObjectRow), frame(IMAGES, ImageRow), "train")


@pytest.fixture(params=[(1, 2), (7, 20), (60, 8192)])
def filed(request, tmp_path, monkeypatch):
    pictures, rows = request.param
    monkeypatch.setattr(donor_pool, "sorted_rows", partial(sorted_rows, size=rows))
    monkeypatch.setattr(donor_pool, "GROUP", rows)
    pool = DonorPool.of_parts(pieces(pictures), "train", set(), tmp_path)
    assert not any(tmp_path.iterdir())
    return pool


def test_categories_hashes_sizes_and_rows_are_the_same(whole, filed):
    assert list(filed.categories) == list(whole.categories) == ["a", "b", "c"]
    for name, one in whole.categories.items():
        other = filed.categories[name]
        assert (one.hashes == other.hashes).all() and (one.sizes == other.sizes).all()
        assert one.rows.equals(other.rows) and one.at(3) == other.at(3)


def test_candidates_marks_and_rows_are_the_same(whole, filed):
    def large(sizes):
        return sizes[:, 0] > 60

    for seed in (0, 5, 2**62):
        one, other = ([row.key for row in pool.candidates(large, "b", seed, "")] for pool in (whole, filed))
        assert one == other and one
    requests = [row.request for row in plan(IMAGES, BOXES, chosen=IMAGES[:9]) if row.request]
    marks = whole.marks_of(requests)
    assert marks and marks == filed.marks_of(requests) and filed.has_marks(marks) and whole.has_marks([])
    assert not filed.has_marks([*marks, 1])
    row = whole.categories["a"].at(2)
    assert filed.row((row.digest, row.key), "a") == row
    assert (
        filed.row((row.digest, row.key), "b") is filed.row(("none", row.key), "a") is filed.row(("", ""), "z") is None
    )


def test_a_plan_is_the_same(filed):
    selected = frame([select(row, BOXES) for row in IMAGES[:20]], SelectRow)
    made = plan_requests(
        selected, frame(BOXES, ObjectRow), {}, recipe(), Statistics({}, donors=filed), 0, 1, None, None
    )
    assert made == plan(IMAGES, BOXES, chosen=IMAGES[:20])


def test_without_objects_the_pool_is_empty(tmp_path):
    assert DonorPool.of_parts(iter(()), "train", set(), tmp_path).categories == {}
    nothing = frame([], ObjectRow), frame(IMAGES, ImageRow)
    assert DonorPool.of_parts([nothing], "train", set(), tmp_path).categories == {}


def test_a_group_of_two_splits_is_found_wherever_its_pictures_are():
    rows = [frame([image("1")], ImageRow).assign(group="g"), frame([image("2", split="val")], ImageRow)]
    assert outside_of(rows, "train") == set()
    rows[1]["group"] = "g"
    assert outside_of(rows, "train") == {"g"}
