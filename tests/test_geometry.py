"""Boxes, windows and masks."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib.core import geometry as g

coordinate = st.floats(-500, 2500, allow_nan=False, width=32)
length = st.floats(0, 2000, allow_nan=False, width=32)
xywh = st.tuples(coordinate, coordinate, length, length)


@given(st.lists(xywh, max_size=5))
def test_xywh_to_xyxy_and_back_is_the_identity(boxes):
    boxes = np.array(boxes, dtype=np.float64).reshape(-1, 4)
    np.testing.assert_allclose(g.xyxy_to_xywh(g.xywh_to_xyxy(boxes)), boxes, atol=1e-9)


@given(xywh, st.integers(1, 2000), st.integers(1, 2000))
def test_a_clipped_box_lies_in_the_frame(box, width, height):
    x0, y0, x1, y1 = g.clip_xyxy(g.xywh_to_xyxy(np.array(box)), width, height)
    assert 0 <= x0 <= x1 <= width and 0 <= y0 <= y1 <= height


@st.composite
def framed_box(draw):
    width, height = draw(st.integers(8, 2000)), draw(st.integers(8, 2000))
    x0, y0 = draw(st.integers(0, width - 1)), draw(st.integers(0, height - 1))
    x1, y1 = draw(st.integers(x0 + 1, width)), draw(st.integers(y0 + 1, height))
    return (x0, y0, x1, y1), width, height


@given(framed_box(), st.floats(1, 4), st.integers(1, 512))
def test_a_window_holds_its_box_and_is_square(framed, context, least):
    box, width, height = framed
    x0, y0, x1, y1 = g.window_around(box, width, height, (1, 1), context, least)
    assert x0 <= box[0] and y0 <= box[1] and box[2] <= x1 and box[3] <= y1
    assert abs((x1 - x0) - (y1 - y0)) <= 1


@given(framed_box(), st.floats(1, 4))
def test_a_window_stays_in_a_frame_that_can_hold_it(framed, context):
    box, width, height = framed
    x0, y0, x1, y1 = g.window_around(box, width, height, (1, 1), context, 1)
    if x1 - x0 <= width:
        assert x0 >= 0 and x1 <= width
    if y1 - y0 <= height:
        assert y0 >= 0 and y1 <= height


@given(framed_box(), st.sampled_from([(512, 512), (384, 704), (64, 128)]))
def test_boxes_map_into_a_window_and_back(framed, shape):
    box, width, height = framed
    window = g.window_around(box, width, height, shape, 1.5, 64)
    mapped = g.to_window(np.array(box), window, shape)
    np.testing.assert_allclose(g.from_window(mapped, window, shape), box, atol=1e-6)
    assert (mapped >= -1e-6).all() and (mapped <= np.array([shape[1], shape[0]] * 2) + 1e-6).all()


def test_the_window_of_a_whole_frame_is_never_squashed():
    x0, y0, x1, y1 = g.window_around((0, 0, 1920, 1080), 1920, 1080, (384, 704), 1, 1)
    assert (x1 - x0) / (y1 - y0) == pytest.approx(704 / 384, abs=0.002)
    assert x0 <= 0 and y0 <= 0 and x1 >= 1920 and y1 >= 1080


def test_a_crop_beyond_the_frame_repeats_the_edge():
    picture = np.arange(12, dtype=np.uint8).reshape(3, 4)
    crop = g.crop_window(picture, (-1, -1, 2, 2))
    np.testing.assert_array_equal(crop, [[0, 0, 1], [0, 0, 1], [4, 4, 5]])


def test_covered_share_of_other_boxes():
    shares = g.covered_xyxy((0, 0, 10, 10), np.array([[5, 0, 15, 10], [20, 20, 30, 30], [1, 1, 2, 2], [3, 3, 3, 9]]))
    np.testing.assert_allclose(shares, [0.5, 0, 1, 0])


def test_a_rectangle_polygon_has_the_area_of_its_box():
    assert g.polygon_area([g.box_polygon((2, 3, 5, 4))]) == 20


def test_a_mask_is_true_inside_its_rectangles_and_cut_to_the_view():
    mask = g.rectangles_mask([(5, 5, 12, 11), (13, 12, 99, 99)], (10, 10, 15, 14))
    assert mask.tolist() == [
        [True, True, False, False, False],
        [False] * 5,
        [False] * 3 + [True] * 2,
        [False] * 3 + [True] * 2,
    ]


def test_polygons_are_carried_from_box_to_box():
    (polygon,) = g.map_polygons([(0, 0, 10, 0, 10, 20)], (0, 0, 10, 20), (100, 100, 120, 110))
    assert polygon == (100, 100, 120, 100, 120, 110)


def test_the_extent_of_polygons_is_the_box_around_them_all():
    assert g.polygons_extent([(1, 2, 3, 4, 5, 0), (9, 9.5, 8, 8, 7, 7)]) == (1, 0, 9, 9.5)


def test_a_polygon_of_a_box_rounded_to_pixels_fills_it():
    assert g.fills_box((10, 20, 41, 20, 41, 61, 10, 61), (10.4, 20.2, 40.5, 60.3))


def test_a_triangle_and_a_notched_box_do_not_fill_it():
    assert not g.fills_box((10, 20, 40, 20, 40, 60), (10, 20, 40, 60))
    assert not g.fills_box((10, 20, 40, 20, 40, 60, 20, 60, 20, 50, 10, 50), (10, 20, 40, 60))


masks = st.tuples(st.integers(1, 9), st.integers(1, 9), st.floats(0.1, 0.9), st.integers(0, 2**32 - 1)).map(
    lambda v: np.random.default_rng(v[3]).random(v[:2]) < v[2]
)
cut_boxes = st.lists(st.tuples(*[st.integers(-3, 12)] * 4), max_size=4)


@given(masks)
def test_outlines_enclose_the_masks_area_and_what_is_hollow_in_it(mask):
    pieces = g.outlines(mask)
    enclosed = g.polygon_area([piece.ravel().tolist() for piece in pieces])
    around = np.pad(~mask, 1, constant_values=True)  # what a walk over pixels' sides reaches from outside
    count, parts = 0, np.full(around.shape, -1)
    for start in zip(*np.nonzero(around), strict=True):
        if parts[start] < 0:
            todo, count = [start], count + 1
            while todo:
                y, x = todo.pop()
                if 0 <= y < parts.shape[0] and 0 <= x < parts.shape[1] and around[y, x] and parts[y, x] < 0:
                    parts[y, x] = count
                    todo += [(y + 1, x), (y - 1, x), (y, x + 1), (y, x - 1)]
    assert enclosed == mask.sum() + (parts > 1).sum()


@given(masks, cut_boxes)
def test_cells_of_a_mask_are_its_pixels(mask, cuts):
    left = g.Cells.of_mask(mask).without(cuts)
    expected = mask & ~g.rectangles_mask(cuts, (0, 0, mask.shape[1], mask.shape[0]))
    np.testing.assert_array_equal(left.pixels(mask.shape), expected)
    assert left.area == expected.sum()
    if expected.any():
        rows, columns = np.nonzero(expected)
        assert left.extent == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)


@given(st.tuples(*[st.integers(0, 9)] * 4), cut_boxes)
def test_cells_of_a_whole_pixel_box_are_its_pixels(box, cuts):
    x, y, w, h = box
    left = g.Cells.of_box(box, cuts).without(cuts)
    expected = g.rectangles_mask([(x, y, x + w, y + h)], (0, 0, 20, 20)) & ~g.rectangles_mask(cuts, (0, 0, 20, 20))
    np.testing.assert_array_equal(left.pixels((20, 20)), expected)
    assert left.area == expected.sum()


def test_cells_keep_a_boxs_own_corners():
    left = g.Cells.of_box((1.5, 2.25, 10, 10), [(5, 0, 30, 30)]).without([(5, 0, 30, 30)])
    assert left.extent == (1.5, 2.25, 5, 12.25) and left.area == 35
    assert {tuple(point) for point in np.reshape(left.polygons(), (-1, 2)).tolist()} == {
        (1.5, 2.25),
        (1.5, 12.25),
        (5, 2.25),
        (5, 12.25),
    }


def test_a_hollow_shape_has_no_polygons():
    assert g.Cells.of_box((0, 0, 9, 9), [(3, 3, 6, 6)]).without([(3, 3, 6, 6)]).polygons() is None


@given(masks)
def test_polygons_of_cells_enclose_their_area_or_there_are_none(mask):
    polygons = g.Cells.of_mask(mask).polygons()
    assert polygons is None or g.polygon_area(polygons) == mask.sum()


def test_cells_touch_the_pixels_of_a_float_box_and_none_beyond_the_frame():
    mask = g.Cells.of_box((-2.5, 1.5, 5, 9)).pixels((4, 6))
    np.testing.assert_array_equal(mask, g.rectangles_mask([(0, 1, 3, 4)], (0, 0, 6, 4)))


def test_cells_of_nothing_have_no_area():
    assert g.Cells.of_box((3, 3, 0, 5), [(0, 0, 9, 9)]).without([(0, 0, 9, 9)]).area == 0
    assert g.Cells.of_mask(np.zeros((3, 3), bool)).without([(0, 0, 9, 9)]).area == 0
