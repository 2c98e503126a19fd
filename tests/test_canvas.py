"""How a pass sees its picture, and which pixels it may paint."""

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from lib.painting.canvas import canvas_of, cut_window, mask_of, region_mask, resized
from lib.records.requests import Pass
from lib.records.rle import decode_rle, encode_rle

HEIGHT, WIDTH = 40, 60

quick = settings(max_examples=100)
boxes = st.tuples(st.integers(-10, 60), st.integers(-10, 45), st.integers(1, 50), st.integers(1, 40)).map(
    lambda box: (box[0], box[1], box[0] + box[2], box[1] + box[3])
)
some = st.lists(boxes, max_size=3).map(tuple)
shapes = st.tuples(st.integers(1, 100), st.integers(1, 100))
masks = st.builds(
    lambda seed, share: np.random.default_rng(seed).random((HEIGHT, WIDTH)) < share,
    st.integers(0, 99),
    st.sampled_from([0, 0.01, 0.5, 1]),
)
# Windows that meet the frame.
windows = st.tuples(st.integers(-30, 59), st.integers(-30, 39), st.integers(31, 100), st.integers(31, 100)).map(
    lambda box: (box[0], box[1], box[0] + box[2], box[1] + box[3])
)


def make_pass(region=(), window=(0, 0, WIDTH, HEIGHT), shape=None, mask=None, holes=()):
    shape = shape or (window[3] - window[1], window[2] - window[0])
    fields = {"boxes": (), "phrases": (), "prompt": "", "negative_prompt": "", "seed": 1}
    rle = None if mask is None else encode_rle(mask)
    return Pass(window=window, shape=shape, region=region, holes=holes, mask=rle, **fields)


def by_pixel(step, mask, view):
    """region_mask, pixel by pixel."""
    x0, y0, x1, y1 = view

    def within(boxes, x, y):
        return any(left <= x < right and top <= y < bottom for left, top, right, bottom in boxes)

    def wanted(x, y):
        allowed = mask is None or (0 <= x < WIDTH and 0 <= y < HEIGHT and mask[y, x])
        return within(step.region, x, y) and not within(step.holes, x, y) and allowed

    return np.array([[wanted(x, y) for x in range(x0, x1)] for y in range(y0, y1)], dtype=bool)


@quick
@given(region=some, holes=some, mask=st.none() | masks, view=boxes)
@example(region=((0, 0, 60, 40),), holes=(), mask=np.ones((HEIGHT, WIDTH), bool), view=(-9, 5, -3, 9))
@example(region=((0, 0, 60, 40),), holes=(), mask=np.ones((HEIGHT, WIDTH), bool), view=(70, 50, 75, 60))
def test_the_region_is_rectangles_less_holes_where_the_mask_is(region, holes, mask, view):
    step = make_pass(region, mask=mask, holes=holes)
    np.testing.assert_array_equal(region_mask(step, view), by_pixel(step, mask, view))


@quick
@given(region=some, holes=some, mask=st.none() | masks, view=boxes)
def test_a_view_is_a_part_of_the_whole(region, holes, mask, view):
    step = make_pass(region, mask=mask, holes=holes)
    x0, y0, x1, y1 = view
    whole = region_mask(step, (-10, -10, 120, 90))
    np.testing.assert_array_equal(region_mask(step, view), whole[y0 + 10 : y1 + 10, x0 + 10 : x1 + 10])


@quick
@given(masks)
def test_run_lengths_and_back(mask):
    rle = encode_rle(mask)
    assert rle.size == mask.shape
    back = decode_rle(rle)
    assert back.dtype == bool
    np.testing.assert_array_equal(back, mask)


def test_run_lengths_are_cocos():
    from pycocotools import mask as coco

    mask = np.zeros((5, 7), bool)
    mask[1:3, 2:6] = True
    rle = {"size": [5, 7], "counts": encode_rle(mask).counts}
    assert coco.area(rle) == 8 and coco.toBbox(rle).tolist() == [2, 1, 4, 2]


@quick
@given(region=some, mask=st.none() | masks, window=windows, shape=shapes)
@example(region=((30, 20, 31, 21),), mask=None, window=(0, 0, 60, 40), shape=(2, 3))
@example(region=((3, 20, 4, 21),), mask=None, window=(0, 0, 60, 40), shape=(4, 200))  # one side shrinks, one grows
@example(region=((3, 20, 4, 21),), mask=None, window=(0, 0, 60, 40), shape=(300, 5))
def test_no_masked_pixel_is_lost_and_none_made_far_away(region, mask, window, shape):
    step = make_pass(region, window, shape, mask)
    scaled, inside = mask_of(step), region_mask(step, window)
    assert scaled.shape == shape and scaled.dtype == bool
    scale = np.array(shape) / inside.shape
    marked = np.argwhere(inside)
    for y, x in np.floor((marked + 0.5) * scale).astype(int):
        assert scaled[y, x]
    for y, x in np.argwhere(scaled):  # a pixel's own share of the window, and one pixel of the window around it
        (top, left), (bottom, right) = np.floor([y, x] / scale) - 1, np.ceil([y + 1, x + 1] / scale) + 1
        assert inside[max(int(top), 0) : int(bottom), max(int(left), 0) : int(right)].any()


def test_one_pixel_of_a_large_window_is_painted():
    step = make_pass(((1001, 777, 1002, 778),), (0, 0, 4096, 4096), (64, 64))
    assert np.argwhere(mask_of(step)).tolist() == [[777 // 64, 1001 // 64]]


@quick
@given(windows, shapes)
def test_the_canvas_is_the_window_at_the_painters_shape(window, shape):
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    picture = np.stack([rows, columns, rows + columns], axis=-1).astype(np.uint8)
    x0, y0, x1, y1 = window
    assume(cut_window(window, WIDTH, HEIGHT) != (0, 0, 0, 0))
    canvas = canvas_of(picture, make_pass(window=window))
    rows, columns = np.clip(np.arange(y0, y1), 0, HEIGHT - 1), np.clip(np.arange(x0, x1), 0, WIDTH - 1)
    np.testing.assert_array_equal(canvas, picture[rows][:, columns])  # the edge is repeated beyond the frame
    scaled = canvas_of(picture, make_pass(window=window, shape=shape))
    assert scaled.shape == (*shape, 3) and scaled.dtype == np.uint8


def test_a_canvas_is_a_copy_of_its_own():
    picture = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    picture.flags.writeable = False
    canvas = canvas_of(picture, make_pass())
    assert canvas.flags.writeable and not np.shares_memory(canvas, picture)


def test_a_mask_of_another_pictures_size_is_an_error():
    step = make_pass(mask=np.ones((HEIGHT, WIDTH), bool))
    with pytest.raises(ValueError, match=r"\(40, 60\).*\(60, 40\)"):
        canvas_of(np.zeros((WIDTH, HEIGHT, 3), np.uint8), step)


@quick
@given(boxes)
def test_a_cut_window_is_what_both_hold(window):
    x0, y0, x1, y1 = cut_window(window, WIDTH, HEIGHT)
    assert 0 <= x0 <= x1 <= WIDTH and 0 <= y0 <= y1 <= HEIGHT
    shared = max(min(window[2], WIDTH) - max(window[0], 0), 0) * max(min(window[3], HEIGHT) - max(window[1], 0), 0)
    assert (x1 - x0) * (y1 - y0) == shared


def test_area_averages_when_it_shrinks():
    pixels = np.arange(16, dtype=np.float32).reshape(4, 4)
    np.testing.assert_array_equal(resized(pixels, (2, 2)), pixels.reshape(2, 2, 2, 2).mean(axis=(1, 3)))
