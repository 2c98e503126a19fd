"""Pictures that cannot be any good are set aside with a reason."""

import hashlib

import numpy as np
import pandas as pd
import pytest

from lib.core.images import PictureError, encode_png
from lib.records.manifest import to_table
from lib.records.rows import OK, REJECTED, PictureRow, ScreenRow
from lib.records.settings import ScreenSettings
from lib.records.store import Store
from lib.screening.pictures import COMPARED, equal_before, measure_pictures, pixel_marks, set_aside_equal

NOISE = np.random.default_rng(1).integers(0, 256, (12, 16, 3), dtype=np.uint8)
SOURCE = np.random.default_rng(2).integers(0, 256, (12, 16, 3), dtype=np.uint8)


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path)


def row(store, pixels, name="a", width=16, height=12):
    data = encode_png(pixels)
    key = hashlib.sha256(name.encode()).hexdigest()
    sha256 = store.put("picture", key, data)
    return PictureRow(f"r-{name}", OK, "", "", "1", key, sha256, len(data), name, width, height, 1, 0)


def load(digest, frame):
    assert (digest, frame) == ("source", "upright")
    return SOURCE


def screen(store, *rows, load=load, **values):
    table = to_table(list(rows), PictureRow).to_pandas()
    return measure_pictures(table, {"1": ("source", "upright")}, ScreenSettings(**values), load, store)


def verdict(store, pixels, **options):
    (found,) = screen(store, row(store, pixels), **options)
    return found.status, found.reason


def test_a_good_picture_passes(store):
    assert verdict(store, NOISE) == (OK, "")


@pytest.mark.parametrize(("grey", "reason"), [(0, "black"), (8, "black"), (9, "blank"), (255, "blank")])
def test_a_picture_of_one_grey_is_black_or_blank(store, grey, reason):
    assert verdict(store, np.full((12, 16, 3), grey, np.uint8)) == (REJECTED, reason)


def test_a_dark_picture_is_black_only_up_to_the_limit(store):
    dark = NOISE // 16  # about 7.5
    assert verdict(store, dark) == (REJECTED, "black")
    assert verdict(store, dark, black=1, blank=0) == (OK, "")


def test_a_flat_colour_is_blank(store):
    assert verdict(store, np.full((12, 16, 3), (200, 30, 90), np.uint8)) == (REJECTED, "blank")


@pytest.mark.parametrize(("spread", "expected"), [(8, (REJECTED, "blank")), (10, (OK, ""))])
def test_a_picture_is_blank_up_to_the_limits_deviation_and_no_further(store, spread, expected):
    halves = np.full((12, 16, 3), 100, np.uint8)
    halves[:, 8:] += np.uint8(spread)  # a deviation of half of it; the limit is 4
    assert verdict(store, halves) == expected


def test_another_size_than_planned_is_a_reason_with_both(store):
    (found,) = screen(store, row(store, NOISE, width=15))
    assert found.reason == "wrong_size" and "16x12" in found.detail and "15x12" in found.detail


def test_a_picture_equal_to_its_source_is_a_duplicate(store):
    assert verdict(store, SOURCE) == (REJECTED, "duplicate")


def test_one_changed_value_is_not_a_duplicate(store):
    changed = SOURCE.copy()
    changed[3, 4, 0] ^= 1
    assert verdict(store, changed) == (OK, "")


def test_duplicates_are_kept_where_they_are_wanted(store):
    assert verdict(store, SOURCE, duplicates=False) == (OK, "")


def test_the_numbers_are_mean_and_deviation_of_grey(store):
    halves = np.zeros((12, 16, 3), np.uint8)
    halves[:, 8:] = 200
    (found,) = screen(store, row(store, halves))
    assert (found.mean, found.std) == (100, 100)


def test_equal_pixels_have_one_digest_whatever_their_file_and_others_another(store):
    found = screen(store, row(store, NOISE, "a"), row(store, NOISE, "b"), row(store, NOISE.reshape(16, 12, 3), "c"))
    assert found[0].pixels == found[1].pixels != found[2].pixels


def test_bytes_that_are_not_a_picture_have_the_decoders_reason(store):
    broken = row(store, NOISE)
    store.put("picture", broken.picture, b"no picture")
    (found,) = screen(store, broken)
    assert (found.status, found.reason) == (REJECTED, "image_broken")


def test_a_picture_that_left_the_store_is_a_reason(store):
    lost = row(store, NOISE)
    store.path("picture", lost.picture).unlink()
    (found,) = screen(store, lost)
    assert (found.status, found.reason) == (REJECTED, "picture_lost")


def test_a_picture_that_was_lost_and_painted_again_passes(store):
    lost = row(store, NOISE)
    store.path("picture", lost.picture).unlink()
    screen(store, lost)
    assert verdict(store, NOISE) == (OK, "")


def test_a_source_that_cannot_be_read_is_a_reason_and_its_mates_survive(store):
    def gone(digest, frame):
        raise PictureError("image_missing", "moved away")

    found = screen(store, row(store, NOISE, "a"), row(store, np.zeros_like(NOISE), "b"), load=gone)
    assert [(r.status, r.reason) for r in found] == [(REJECTED, "image_missing"), (REJECTED, "black")]


def test_a_source_that_is_back_is_compared_again(store):
    def gone(digest, frame):
        raise PictureError("image_missing", "moved away")

    screen(store, row(store, NOISE), load=gone)
    assert verdict(store, NOISE) == (OK, "")


def test_a_verdict_is_kept_and_the_picture_not_read_again(store):
    kept = row(store, NOISE)
    before = screen(store, kept)
    store.path("picture", kept.picture).unlink()
    assert screen(store, kept) == before


def test_other_settings_are_judged_anew(store):
    dark = NOISE // 16
    assert verdict(store, dark) == (REJECTED, "black")
    assert verdict(store, dark, black=0, blank=0) == (OK, "")


def test_rows_out_are_rows_in_in_their_order(store):
    rows = [row(store, NOISE + np.uint8(i), f"n{i}") for i in range(5)]
    assert [found.key for found in screen(store, *rows)] == [r.key for r in rows]


def test_progress_is_reported_for_every_row(store):
    table = to_table([row(store, NOISE, "a"), row(store, SOURCE, "b")], PictureRow).to_pandas()
    steps = []
    measure_pictures(table, {"1": ("source", "upright")}, ScreenSettings(), load, store, steps.append)
    assert sum(steps) == 2


def marked(*rows) -> pd.DataFrame:
    table = to_table(list(rows), ScreenRow)
    equal = equal_before(pixel_marks(table.select(COMPARED))).tolist()
    return set_aside_equal(table.to_pandas(), [None if place < 0 else rows[place].name for place in equal])


def screened(name, pixels, status=OK, reason=""):
    pixels = pixels and hashlib.sha256(pixels.encode()).hexdigest()
    return ScreenRow(f"r-{name}", status, reason, "", "1", f"p-{name}", "s", name, 9, 9, pixels)


def test_the_first_of_equal_pictures_stays_and_the_others_name_it():
    found = marked(screened("a", "x"), screened("b", "y"), screened("c", "x"), screened("d", "x"))
    assert list(found.reason) == ["", "", "duplicate", "duplicate"]
    assert list(found.status) == [OK, OK, REJECTED, REJECTED] and found.detail[2] == "equal to a"


def test_a_picture_set_aside_makes_no_duplicate_of_another():
    found = marked(screened("a", "x", REJECTED, "black"), screened("b", "x"))
    assert list(found.reason) == ["black", ""]


def test_pictures_that_were_never_read_are_not_duplicates():
    found = marked(*(screened(name, "", REJECTED, "picture_lost") for name in "ab"))
    assert list(found.reason) == ["picture_lost"] * 2


def test_marking_no_rows_gives_no_rows():
    assert to_table(marked(), ScreenRow).num_rows == 0
