"""Boxes and labels on pictures for a person to judge, and the contact sheet."""

import hashlib
import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from lib.core.images import encode_png
from lib.records.manifest import to_table
from lib.records.requests import Label, Request
from lib.records.rows import OK, REJECTED, ScreenRow
from lib.records.store import Store
from lib.screening.draw import colour_of, contact_sheet, draw_boxes, draw_pictures, drawn_boxes, sheet_jpeg, spread

OBJECTS = {"1": ("cat", (10.0, 20.0, 30.0, 40.0)), "2": ("dog", (60.0, 5.0, 20.0, 20.0))}


def grey(width=120, height=100):
    return np.full((height, width, 3), 128, np.uint8)


def make_request(*labels, width=120, height=100):
    return Request(
        image_key="7",
        source="d",
        frame="upright",
        width=width,
        height=height,
        split="train",
        variant=0,
        edit="replace",
        painter={"name": "p"},
        composite={"name": "c"},
        passes=(),
        labels=labels,
    )


def kept(source):
    return Label(source=source, painted=False)


def edited(source, bbox):
    return Label(source=source, painted=True, bbox=bbox)


def test_kept_boxes_are_drawn_where_the_source_has_them_and_edited_ones_where_they_are_now():
    request = make_request(kept("1"), edited("2", (61, 6, 18, 18)))
    assert drawn_boxes(request, OBJECTS) == [("cat", (10, 20, 30, 40), False), ("dog", (61, 6, 18, 18), True)]


def test_new_objects_and_new_categories_are_drawn_and_hidden_ones_say_so():
    labels = (
        Label(source=None, painted=True, bbox=(1, 2, 3, 4), category="box"),
        Label(source="1", painted=True, category="box"),
        Label(source="2", painted=False, bbox=(60, 5, 20, 20), ignored="occluded"),
    )
    assert drawn_boxes(make_request(*labels), OBJECTS) == [
        ("box", (1, 2, 3, 4), True),
        ("box", (10, 20, 30, 40), True),
        ("dog (occluded: ignored)", (60, 5, 20, 20), True),
    ]


def test_what_a_judge_did_not_recognise_says_so():
    dropped = Label(source="1", painted=True, dropped="not_recognised")
    assert drawn_boxes(make_request(dropped), OBJECTS) == [("cat (not_recognised: dropped)", (10, 20, 30, 40), True)]


def test_annotations_that_did_not_come_along_are_not_drawn():
    assert drawn_boxes(make_request(kept("2")), OBJECTS) == [("dog", (60, 5, 20, 20), False)]


def test_the_outline_runs_along_the_inside_of_the_box():
    image = draw_boxes(grey(), [("cat", (40, 50, 30, 40), True)])
    changed = (image != 128).any(axis=2)
    rows, columns = np.nonzero(changed[50:])
    assert (columns.min(), columns.max(), rows.max() + 50) == (40, 69, 89)
    assert not changed[60:80, 45:65].any()


def test_an_edited_box_has_its_categorys_colour_and_a_kept_one_is_grey():
    image = draw_boxes(grey(), [("cat", (10, 50, 30, 40), True), ("cat", (70, 50, 30, 40), False)])
    assert tuple(image[70, 10]) == colour_of("cat") and tuple(image[70, 70]) == (190, 190, 190)


def test_an_edited_box_is_drawn_bolder():
    image = draw_boxes(grey(), [("cat", (10, 50, 30, 40), True), ("cat", (70, 50, 30, 40), False)])
    changed = (image != 128).any(axis=2)[75]
    assert changed[:50].sum() > changed[60:].sum() > 0


def test_an_edited_box_lies_over_a_kept_one():
    boxes = [("cat", (10, 50, 30, 40), True), ("dog", (10, 50, 30, 40), False)]
    assert tuple(draw_boxes(grey(), boxes)[70, 10]) == colour_of("cat")


def test_the_picture_itself_is_not_written_to():
    picture = grey()
    draw_boxes(picture, [("cat", (10, 10, 30, 40), True)])
    assert (picture == 128).all()


def test_no_boxes_leave_the_picture_as_it_is():
    assert (draw_boxes(grey(), []) == 128).all()


NUMBERS = st.floats(-100, 300)


@given(
    st.integers(1, 200),
    st.integers(1, 200),
    st.lists(st.tuples(st.text(max_size=30), st.tuples(*[NUMBERS] * 4), st.booleans()), max_size=3),
)
@settings(max_examples=50)
def test_any_box_can_be_drawn_on_any_picture(width, height, boxes):
    image = draw_boxes(grey(width, height), boxes)
    assert image.shape == (height, width, 3) and image.dtype == np.uint8


@pytest.mark.parametrize("corner", [(0, 0), (-50, -50), (119, 99), (500, 500)])
def test_a_label_is_always_inside_the_picture(corner):
    image = draw_boxes(grey(), [("cat", (*corner, 0, 0), True)])
    assert ((image == colour_of("cat")).all(axis=2)).sum() > 50


def test_a_category_always_has_the_same_bright_colour_and_others_another():
    colours = {colour_of(f"category {i}") for i in range(50)}
    assert len(colours) > 45 and all(max(colour) == 255 for colour in colours)
    assert colour_of("category 1") == colour_of("category 1")


# Files


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")


def screened(store, count=1, width=120, height=100):
    rows = []
    for i in range(count):
        key = hashlib.sha256(str(i).encode()).hexdigest()
        sha256 = store.put("picture", key, encode_png(grey(width, height) + np.uint8(i)))
        rows.append(ScreenRow(f"r{i}", OK, "", "", "7", key, sha256, f"a.b {i}.png", 9, 9, ""))
    return to_table(rows, ScreenRow).to_pandas()


def requests_for(rows, **size):
    return {key: make_request(kept("1"), edited("2", (60, 5, 20, 20)), **size) for key in rows.key}


def test_every_picture_is_drawn_as_a_jpeg_of_its_name(store, tmp_path):
    rows = screened(store, 2)
    made = draw_pictures(rows, requests_for(rows), OBJECTS, store, tmp_path / "drawn")
    assert [row.name for row in made] == ["a.b 0.jpg", "a.b 1.jpg"]
    for row in made:
        data = (tmp_path / "drawn" / row.name).read_bytes()
        assert row.sha256 == hashlib.sha256(data).hexdigest() and Image.open(io.BytesIO(data)).size == (120, 100)


def test_a_picture_that_left_the_store_is_a_reason_and_the_others_are_drawn(store, tmp_path):
    rows = screened(store, 3)
    store.path("picture", rows.picture[1]).unlink()
    made = draw_pictures(rows, requests_for(rows), OBJECTS, store, tmp_path / "drawn")
    assert [(row.status, row.reason) for row in made] == [(OK, ""), (REJECTED, "picture_lost"), (OK, "")]
    assert len(list((tmp_path / "drawn").iterdir())) == 2


def test_drawing_again_gives_the_same_bytes(store, tmp_path):
    rows = screened(store, 2)
    once, twice = (
        draw_pictures(rows, requests_for(rows), OBJECTS, store, tmp_path / folder) for folder in ("one", "two")
    )
    assert once == twice


def test_a_drawing_that_is_there_already_is_left_alone(store, tmp_path):
    rows = screened(store)
    (row,) = draw_pictures(rows, requests_for(rows), OBJECTS, store, tmp_path)
    before = (tmp_path / row.name).stat()
    draw_pictures(rows, requests_for(rows), OBJECTS, store, tmp_path)
    after = (tmp_path / row.name).stat()
    assert (after.st_mtime_ns, after.st_ino) == (before.st_mtime_ns, before.st_ino)


def test_progress_is_reported_for_every_picture(store, tmp_path):
    rows, steps = screened(store, 3), []
    draw_pictures(rows, requests_for(rows), OBJECTS, store, tmp_path, steps.append)
    assert sum(steps) == 3


# The contact sheet


def sheet(store, count, most=12, thumb=60, **size):
    rows = screened(store, count, **size)

    def load(digest, frame):
        return grey(**size) // 2

    return contact_sheet(spread(rows, most), requests_for(rows, **size), OBJECTS, load, store, thumb)


def test_a_sheet_shows_source_boxes_and_result_side_by_side(store):
    pixels = np.asarray(sheet(store, 1, thumb=120))
    row = pixels[34 + 90]  # below the heads, near the bottom of the strip and of no box
    assert (row[8 + 60] == 64).all() and (row[8 + 126 + 60] == 64).all() and (row[8 + 252 + 60] == 128).all()
    boxes = pixels[34:134, 8 + 126 : 8 + 246]
    assert (boxes == colour_of("dog")).all(axis=2).any()
    assert (pixels[34:134, 8:128] == 64).all() and (pixels[34:134, 8 + 252 : 8 + 372] == 128).all()


def test_a_sheet_holds_at_most_so_many_pictures(store):
    assert sheet(store, 12, most=4).size == sheet(store, 4, most=4).size
    assert sheet(store, 12, most=8).height > sheet(store, 4, most=8).height


def test_the_pictures_of_a_sheet_are_spread_over_the_run(store):
    pixels = np.asarray(sheet(store, 50, most=2, thumb=120))
    results = {int(v) for v in pixels[:, 8 + 252 + 60].ravel()}
    assert {128, 128 + 49} <= results


@pytest.mark.parametrize("size", [{"width": 400, "height": 40}, {"width": 40, "height": 400}])
def test_a_sheet_takes_pictures_of_any_aspect(store, size):
    assert sheet(store, 5, **size).width == sheet(store, 5).width


def test_a_sheet_shows_a_lost_picture_as_black(store):
    rows = screened(store, 1)
    store.path("picture", rows.picture[0]).unlink()
    made = contact_sheet(rows, requests_for(rows), OBJECTS, lambda d, f: grey(), store, thumb=120)
    assert (np.asarray(made)[34:134, 8 + 252 : 8 + 372] == 0).all()


def test_a_sheet_shrinks_until_it_is_small_enough(store):
    made = sheet(store, 6)
    whole, small = sheet_jpeg(made), sheet_jpeg(made, most=2000)
    assert len(whole) > 2000 >= len(small)
    assert Image.open(io.BytesIO(whole)).size == made.size > Image.open(io.BytesIO(small)).size
