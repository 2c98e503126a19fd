"""What annotations say after an edit: the box or the donor's mask, and an area that follows."""

import math

import msgspec
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from pycocotools import mask as coco_mask
from scipy.ndimage import binary_fill_holes

from lib.core.geometry import polygon_area, polygons_extent, rectangles_mask
from lib.core.keys import canonical
from lib.records.labels import VisibilitySettings, added, donor_mask, occluded, polygons_of, redrawn
from lib.records.requests import Donor, Label, Pass, Rle
from lib.records.rle import decode_rle, encode_rle

TRIANGLE = (10.0, 10.0, 70.0, 10.0, 70.0, 60.0)
SIZE = (60, 80)  # height, width of the pictures
OWN = Label(source="7", painted=False)
CUT = VisibilitySettings(min_visible=0)
FULL = VisibilitySettings(min_visible=0, labels="full")


def record(segmentation):
    return msgspec.json.encode({"id": 1, "segmentation": segmentation})


def donor(box=(10, 10, 70, 60), flip=False, polygon=(TRIANGLE,)):
    return Donor(annotation="9", digest="d", box=box, frame="upright", flip=flip, polygon=polygon)


def step(region=(100, 100, 160, 150), donor=None):
    return Pass(
        window=(0, 0, 400, 300),
        shape=(300, 400),
        region=(region,),
        boxes=(),
        phrases=(),
        prompt="",
        negative_prompt="",
        seed=1,
        donor=donor,
    )


def drawn(polygons, height, width):
    """bool (height, width): the pixels of polygons, as pycocotools fills them."""
    runs = coco_mask.frPyObjects([list(p) for p in polygons], height, width)
    return coco_mask.decode(coco_mask.merge(runs)).astype(bool)


def blob():
    """A round mask, bool (60, 80)."""
    y, x = np.mgrid[:60, :80]
    return ((x - 35) / 24) ** 2 + ((y - 28) / 18) ** 2 <= 1


def uncompressed(mask):
    flat = mask.ravel(order="F")
    edges = np.flatnonzero(np.diff(flat)) + 1
    runs = np.diff([0, *edges, flat.size]).tolist()
    return {"size": list(mask.shape), "counts": [0, *runs] if flat[0] else runs}


def compressed(mask):
    rle = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": rle["size"], "counts": rle["counts"].decode()}


def test_polygons_are_the_records_own():
    two = [list(TRIANGLE), [1, 2, 3, 4, 5, 7]]
    assert polygons_of(record(two), 100, 100) == (TRIANGLE, (1, 2, 3, 4, 5, 7))


@pytest.mark.parametrize("nothing", [[], None, [[1, 2, 3, 4]], [[]]])
def test_a_segmentation_without_an_area_is_none(nothing):
    assert polygons_of(record(nothing), 100, 100) is None


def test_a_record_without_a_segmentation_has_none():
    assert polygons_of(b'{"id": 1}', 100, 100) is None


@pytest.mark.parametrize(
    "odd",
    [
        [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12],
        [["a", "b", "c", "d", "e", "f", "g", "h"]],
        [[1, 2, 3, 4, 5, 6, None, 8]],
        [["nan", "nan", "1e999", "4", "5", "6"]],
        [[[1, 2], [3, 4], [5, 6], [7, 8], [9, 10], [11, 12]]],
        {"counts": [1, 2, 3]},
        {"size": [60, 80]},
        {"size": [60, 80], "counts": 5},
        {"size": "60x80", "counts": [10, 4790]},
        {"size": [60, 80], "counts": [10, "x"]},
        {"size": [60, 80], "counts": [10.5, 4789.5]},
        {"size": [60, 80], "counts": [0, 60 * 80 + 1]},
        {"size": [60, 80], "counts": [-5, 4805]},
        {"size": [60, 80], "counts": [10**400, -(10**400), 4800]},
        {"size": [60, 80], "counts": "garbage"},
        {"size": [60, 80], "counts": "é"},
        {"size": [60, 80], "counts": ""},
        {"size": [6, 8], "counts": [10, 38]},
        "polygon",
        7,
    ],
    ids=str,
)
def test_a_malformed_mask_counts_as_none_and_stops_nothing(odd):
    assert polygons_of(record(odd), 60, 80) is None


@pytest.mark.parametrize("number", [b"1e999", b"-1e999", b"1" + b"0" * 400], ids=["1e999", "-1e999", "10**400"])
def test_numbers_that_no_float_holds_count_as_no_mask(number):
    source = b'{"segmentation": [[' + number + b", 2, 3, 4, 5, 9]]}"
    assert polygons_of(source, 60, 80) is None
    box = (10.0, 10.0, 20.0, 20.0)
    assert occluded(OWN, box, source, SIZE, [(20, 0, 40, 60)], CUT).bbox == (10, 10, 10, 20)


def test_a_polygon_with_a_coordinate_too_many_is_left_out():
    assert polygons_of(record([[1, 2, 3, 4, 5, 6, 7], list(TRIANGLE)]), 100, 100) == (TRIANGLE,)


@pytest.mark.parametrize("kind", [uncompressed, compressed])
def test_a_run_length_mask_is_traced_along_its_outline(kind):
    mask = blob()
    polygons = polygons_of(record(kind(mask)), *mask.shape)
    traced = drawn(polygons, *mask.shape)
    assert (traced & mask).sum() / (traced | mask).sum() > 0.9


@given(st.integers(1, 12), st.integers(1, 12), st.integers(0, 2**32))
def test_both_kinds_of_run_lengths_say_the_same(height, width, seed):
    mask = np.random.default_rng(seed).random((height, width)) < 0.7
    one, two = (polygons_of(record(kind(mask)), height, width) for kind in (uncompressed, compressed))
    assert one == two


def test_a_run_length_mask_in_two_pieces_has_two_polygons():
    mask = np.zeros((60, 80), bool)
    mask[5:20, 5:20] = mask[30:50, 40:70] = True
    assert len(polygons_of(record(compressed(mask)), 60, 80)) == 2


def test_an_empty_run_length_mask_is_none():
    assert polygons_of(record(compressed(np.zeros((60, 80), bool))), 60, 80) is None


def test_without_a_donor_the_segmentation_is_the_box():
    label = redrawn("7", (10, 20, 30, 40), step())
    assert (label.source, label.painted, label.bbox) == ("7", True, (10, 20, 30, 40))
    assert label.segmentation == ((10, 20, 40, 20, 40, 60, 10, 60),) and label.area == 1200


def test_a_redrawn_object_may_be_of_another_category():
    assert redrawn("7", (10, 20, 30, 40), step()).category is None
    assert redrawn("7", (10, 20, 30, 40), step(), "pallet").category == "pallet"


def test_an_added_object_has_no_source():
    label = added((10, 20, 40, 60), "pallet")
    assert (label.source, label.painted, label.category) == (None, True, "pallet")
    assert label.bbox == (10, 20, 30, 40) and label.area == 1200
    assert label.segmentation == ((10, 20, 40, 20, 40, 60, 10, 60),)
    assert added((10, 20, 40, 60), "pallet", step()) == label


def test_an_added_object_has_its_donors_mask():
    label = added((100, 100, 160, 150), "pallet", step(donor=donor()))
    assert label.segmentation == ((100, 100, 160, 100, 160, 150),)
    assert label.bbox == (100, 100, 60, 50) and label.area == 1500


def test_a_donor_without_a_mask_fills_the_box():
    label = redrawn("7", (100, 100, 60, 50), step(donor=donor(polygon=None)))
    assert label.segmentation == ((100, 100, 160, 100, 160, 150, 100, 150),) and label.area == 3000


def test_a_donors_mask_is_the_segmentation_and_the_box_stays():
    label = redrawn("7", (100, 100, 60, 50), step(donor=donor()))
    assert label.segmentation == ((100, 100, 160, 100, 160, 150),)
    assert label.bbox == (100, 100, 60, 50) and label.area == 1500


def test_a_mirrored_donor_has_a_mirrored_mask():
    assert donor_mask(donor(flip=True), step()) == ((160, 100, 100, 100, 100, 150),)


def test_a_scaled_donor_has_a_scaled_mask():
    assert donor_mask(donor(), step(region=(0, 0, 120, 25))) == ((0, 0, 120, 0, 120, 25),)


def test_what_reaches_beyond_the_donors_crop_is_cut_off():
    wide = donor(polygon=((-50.0, 10.0, 200.0, 10.0, 200.0, 60.0, -50.0, 60.0),))
    assert donor_mask(wide, step()) == ((100, 100, 160, 100, 160, 150, 100, 150),)


BOXES = st.tuples(*[st.integers(0, 60)] * 2, *[st.integers(61, 120)] * 2)
SHARES = st.lists(st.floats(0, 1), min_size=6, max_size=12).filter(lambda v: len(v) % 2 == 0)


@given(BOXES, BOXES, SHARES, st.booleans())
def test_a_mapped_mask_lies_in_the_region_and_its_area_scales_with_it(crop, region, shares, flip):
    x0, y0, x1, y1 = crop
    polygon = tuple((x0, y0)[i % 2] + v * (x1 - x0, y1 - y0)[i % 2] for i, v in enumerate(shares))
    (mapped,) = donor_mask(donor(crop, flip, (polygon,)), step(region))
    assert all(region[i % 2] <= v <= region[2 + i % 2] for i, v in enumerate(mapped))
    scale = (region[2] - region[0]) * (region[3] - region[1]) / ((x1 - x0) * (y1 - y0))
    around = 2 * (region[2] - region[0] + region[3] - region[1])  # rounding moves each point by up to 1/200 pixel
    assert abs(polygon_area([mapped]) - scale * polygon_area([polygon])) <= 0.01 * len(shares) * around


@given(BOXES, SHARES)
def test_mirroring_twice_changes_nothing(crop, shares):
    x0, y0, x1, y1 = crop
    polygon = tuple((x0, y0)[i % 2] + v * (x1 - x0, y1 - y0)[i % 2] for i, v in enumerate(shares))
    once = donor_mask(donor(crop, True, (polygon,)), step(crop))
    twice = donor_mask(donor(crop, True, once), step(crop))
    np.testing.assert_allclose(twice, [polygon], atol=0.02)


@given(st.tuples(*[st.floats(0, 500)] * 4))
def test_the_label_of_any_box_can_be_written(values):
    x0, y0, w, h = values
    assume(w > 0 and h > 0)
    label = redrawn("7", (x0, y0, w, h), step())
    assert canonical(label) and label.area == pytest.approx(polygon_area(label.segmentation), rel=1e-6, abs=1e-6)


@given(st.integers(0, 2**32 - 1))
def test_a_traced_mask_has_the_masks_own_area(seed):
    blobs = binary_fill_holes(np.random.default_rng(seed).random((12, 16)) < 0.4)
    rle = coco_mask.encode(np.asfortranarray(blobs.astype(np.uint8)))
    source = msgspec.json.encode({"segmentation": {"size": list(blobs.shape), "counts": rle["counts"].decode()}})
    polygons = polygons_of(source, *blobs.shape) or ()
    assert polygon_area(polygons) == blobs.sum()


# Occlusion. Whole-pixel boxes that may reach beyond the frame, or be empty:
OCCLUDERS = st.lists(
    st.tuples(st.integers(-20, 70), st.integers(-20, 55), st.integers(-2, 60), st.integers(-2, 50)).map(
        lambda b: (b[0], b[1], b[0] + b[2], b[1] + b[3])
    ),
    max_size=4,
)
WHOLE_BOXES = st.tuples(st.integers(0, 70), st.integers(0, 50), st.integers(1, 80), st.integers(1, 60)).map(
    lambda b: tuple(float(v) for v in (b[0], b[1], min(b[2], 80 - b[0]), min(b[3], 60 - b[1])))
)
FLOAT_BOXES = st.tuples(st.floats(0, 70), st.floats(0, 50), st.floats(0.01, 1), st.floats(0.01, 1)).map(
    lambda b: (b[0], b[1], b[2] * (80 - b[0]), b[3] * (60 - b[1]))
)
MASKS = st.tuples(st.integers(0, 2**32 - 1), st.integers(2, 12), st.floats(0.2, 0.95)).map(lambda v: random_mask(*v))


def random_mask(seed, coarse, share):
    """bool SIZE of patches, `coarse` pixels wide, and at least one of them."""
    random = np.random.default_rng(seed)
    patches = random.random((60 // coarse + 1, 80 // coarse + 1)) < share
    patches[0, 0] = True
    return patches.repeat(coarse, axis=0).repeat(coarse, axis=1)[:60, :80]


def frame_pixels(boxes):
    return rectangles_mask(boxes, (0, 0, SIZE[1], SIZE[0]))


def corners_of(xywh):
    x, y, w, h = xywh
    return x, y, x + w, y + h


def tight_box(mask):
    """xywh of the pixels of a mask."""
    rows, columns = np.nonzero(mask)
    x, y = float(columns.min()), float(rows.min())
    return x, y, float(columns.max()) + 1 - x, float(rows.max()) + 1 - y


def seen_of(label):
    return 1.0 if label.visible is None else label.visible


def pixels_of(label):
    """bool SIZE: the label's segmentation."""
    return decode_rle(label.segmentation) if isinstance(label.segmentation, Rle) else drawn(label.segmentation, *SIZE)


@given(WHOLE_BOXES, OCCLUDERS)
def test_of_a_box_the_visible_pixels_are_counted_once(box, occluders):
    whole = frame_pixels([[int(v) for v in corners_of(box)]])
    left = whole & ~frame_pixels(occluders)
    label = occluded(OWN, box, None, SIZE, occluders, CUT)
    assert seen_of(label) == pytest.approx(left.sum() / whole.sum(), abs=5.1e-5)
    if left.all() or (left == whole).all():
        assert label is OWN
    elif left.any():
        assert label.area == left.sum() and label.bbox == tight_box(left)
        np.testing.assert_array_equal(pixels_of(label), left)
    else:
        assert label.ignored == "occluded"


@given(FLOAT_BOXES, OCCLUDERS)
def test_of_a_float_box_the_rest_is_exact(box, occluders):
    label = occluded(OWN, box, None, SIZE, occluders, CUT)
    assert 0 <= seen_of(label) <= 1
    if label is OWN or label.ignored:
        return
    assert label.area == pytest.approx(label.visible * box[2] * box[3], abs=1e-4 * box[2] * box[3])
    old, new = corners_of(box), corners_of(label.bbox)
    assert all(new[i] >= old[i] - 1e-9 and new[2 + i] <= old[2 + i] + 1e-9 for i in range(2))
    if not isinstance(label.segmentation, Rle):
        assert polygon_area(label.segmentation) == pytest.approx(label.area, abs=1e-6)
        np.testing.assert_allclose(polygons_extent(label.segmentation), new, atol=1e-9)


@given(FLOAT_BOXES, OCCLUDERS, OCCLUDERS)
def test_more_occluders_never_show_more(box, some, more):
    few, many = (occluded(OWN, box, None, SIZE, boxes, FULL) for boxes in (some, some + more))
    assert seen_of(many) <= seen_of(few) + 1e-4  # the last digit may round either way


@given(st.one_of(WHOLE_BOXES, FLOAT_BOXES), OCCLUDERS, st.randoms(), st.sampled_from([CUT, FULL, VisibilitySettings()]))
def test_the_order_of_occluders_and_telling_one_twice_change_nothing(box, occluders, random, policy):
    mixed = occluders + occluders[:1]
    random.shuffle(mixed)
    assert occluded(OWN, box, None, SIZE, occluders, policy) == occluded(OWN, box, None, SIZE, mixed, policy)


@given(MASKS, OCCLUDERS, st.sampled_from(["polygons", "compressed", "uncompressed", "own polygons", "own runs"]))
def test_of_a_mask_the_visible_pixels_are_counted(mask, occluders, kind):
    label, source, shape = OWN, None, mask
    if kind.endswith("polygons"):
        polygons = polygons_of(record(compressed(mask)), *SIZE)
        shape = drawn(polygons, *SIZE)  # hollows filled
    box = tight_box(shape)
    if kind == "polygons":
        source = record(polygons)
    elif kind in ("compressed", "uncompressed"):
        source = record(compressed(mask) if kind == "compressed" else uncompressed(mask))
    else:
        segmentation = encode_rle(mask) if kind == "own runs" else polygons
        label = Label(source="7", painted=True, bbox=box, segmentation=segmentation, area=float(shape.sum()))
    left = shape & ~frame_pixels(occluders)
    new = occluded(label, box, source, SIZE, occluders, CUT)
    if (left == shape).all():
        assert new is label
    elif not left.any():
        assert new.ignored == "occluded" and new.bbox == box
    else:
        assert new.visible == pytest.approx(left.sum() / shape.sum(), abs=5.1e-5)
        assert new.bbox == tight_box(left) and new.area == left.sum()
        np.testing.assert_array_equal(pixels_of(new), left)
        assert isinstance(new.segmentation, Rle) or kind.endswith("polygons")


@given(FLOAT_BOXES, OCCLUDERS, st.sampled_from([CUT, FULL, VisibilitySettings()]), MASKS)
def test_labels_are_equal_after_a_round_trip_through_json(box, occluders, policy, mask):
    for source in (None, record(compressed(mask)), record(polygons_of(record(compressed(mask)), *SIZE))):
        label = occluded(OWN, box, source, SIZE, occluders, policy)
        assert Label.model_validate_json(canonical(label)) == label
        assert Label.model_validate(label.model_dump()) == label


@given(st.one_of(WHOLE_BOXES, FLOAT_BOXES), st.floats(0.1, 0.4), st.floats(0.4, 0.7))
def test_a_corner_notch_never_moves_the_box(box, right, down):
    x, y, w, h = box
    notch = (math.ceil(x + w * right), math.ceil(y + h * down), math.ceil(x + w), math.ceil(y + h))
    assume(x + w - notch[0] > 0.1 and y + h - notch[1] > 0.1)
    label = occluded(OWN, box, None, SIZE, [notch], CUT)
    assert label.bbox == box
    assert label.area == pytest.approx(w * h - (x + w - notch[0]) * (y + h - notch[1]))


BOX = (10.25, 12.5, 30.1, 20.3)  # to 40.35, 32.8


@pytest.mark.parametrize(
    ("occluder", "expected"),
    [
        ((0, 0, 20, 60), (20, 12.5, 40.35 - 20, 20.3)),
        ((30, 0, 80, 60), (10.25, 12.5, 30 - 10.25, 20.3)),
        ((0, 0, 80, 20), (10.25, 20, 30.1, 32.8 - 20)),
        ((0, 25, 80, 60), (10.25, 12.5, 30.1, 25 - 12.5)),
        ((20, 0, 30, 60), BOX),  # across the middle
        ((20, 20, 30, 25), BOX),  # a hole
        ((30, 20, 80, 60), BOX),  # a corner
    ],
)
def test_an_occluder_across_a_whole_side_moves_exactly_that_side(occluder, expected):
    label = occluded(OWN, BOX, None, SIZE, [occluder], CUT)
    assert label.bbox == pytest.approx(expected, abs=1e-12)
    still = [i for i in range(4) if expected[i] == BOX[i]]
    assert [label.bbox[i] for i in still] == [BOX[i] for i in still]


def test_a_box_that_falls_apart_has_a_polygon_a_piece():
    label = occluded(OWN, BOX, None, SIZE, [(20, 0, 30, 60)], CUT)
    assert len(label.segmentation) == 2 and label.bbox == BOX


def test_a_box_with_a_hole_is_encoded_in_runs():
    label = occluded(OWN, BOX, None, SIZE, [(20, 20, 30, 25)], CUT)
    expected = frame_pixels([(10, 12, 41, 33)]) & ~frame_pixels([(20, 20, 30, 25)])
    np.testing.assert_array_equal(decode_rle(label.segmentation), expected)
    assert label.area == pytest.approx(30.1 * 20.3 - 50)


@pytest.mark.parametrize("beside", [[], [(0, 0, 10, 60)], [(41, 0, 80, 60)], [(20, 20, 20, 30)], [(30, 20, 20, 30)]])
@pytest.mark.parametrize("policy", [CUT, FULL, VisibilitySettings(min_visible=1, hidden="drop")])
def test_what_nothing_overlaps_keeps_the_very_label(beside, policy):
    assert occluded(OWN, BOX, None, SIZE, beside, policy) is OWN
    triangle = record([[10.25, 12.5, 40.35, 12.5, 10.25, 32.8]])
    assert occluded(OWN, BOX, triangle, SIZE, [(38, 30, 41, 33)], policy) is OWN  # in its box, not in its mask


def test_what_is_hidden_too_much_is_ignored_as_it_was_annotated():
    label = occluded(OWN, BOX, None, SIZE, [(16, 0, 80, 60)], VisibilitySettings())
    assert (label.source, label.painted, label.ignored) == ("7", False, "occluded")
    assert label.bbox == BOX and label.area == 30.1 * 20.3
    assert label.visible == round((16 - 10.25) / 30.1, 4)
    np.testing.assert_array_equal(decode_rle(label.segmentation), frame_pixels([(10, 12, 41, 33)]))


def test_what_is_hidden_too_much_can_be_dropped():
    policy = VisibilitySettings(hidden="drop")
    assert occluded(OWN, BOX, None, SIZE, [(16, 0, 80, 60)], policy) is None
    assert occluded(OWN, BOX, None, SIZE, [(30, 0, 80, 60)], policy) is not None


def test_the_limit_itself_is_visible_enough():
    box, occluder = (10.0, 10.0, 10.0, 10.0), [(13, 0, 80, 60)]  # 3 of 10 columns are seen
    assert occluded(OWN, box, None, SIZE, occluder, VisibilitySettings(min_visible=0.3)).ignored == ""
    assert occluded(OWN, box, None, SIZE, occluder, VisibilitySettings(min_visible=0.31)).ignored == "occluded"


def test_full_labels_only_learn_how_much_is_visible():
    label = Label(source=None, painted=True, bbox=BOX, segmentation=None, area=611.03, category="pallet")
    new = occluded(label, BOX, None, SIZE, [(30, 0, 80, 60)], FULL)
    assert new == label.model_copy(update={"visible": round((30 - 10.25) / 30.1, 4)})
    assert occluded(label, BOX, None, SIZE, [(0, 0, 80, 60)], FULL) == label.model_copy(update={"visible": 0.0})


def test_nothing_left_is_hidden_whatever_the_limit():
    assert occluded(OWN, BOX, None, SIZE, [(0, 0, 80, 60)], CUT).ignored == "occluded"


def test_a_label_of_its_own_counts_and_not_the_annotation():
    label = Label(source="7", painted=True, bbox=(0, 0, 20, 20), segmentation=None, area=400, category="pallet")
    new = occluded(label, BOX, record([list(TRIANGLE)]), SIZE, [(10, 0, 80, 60)], CUT)
    assert (new.source, new.painted, new.category) == ("7", True, "pallet")
    assert (new.bbox, new.area, new.visible) == ((0, 0, 10, 20), 200, 0.5)


@pytest.mark.parametrize("kind", [uncompressed, compressed])
def test_a_mask_that_came_in_runs_stays_in_runs(kind):
    label = occluded(OWN, tight_box(blob()), record(kind(blob())), SIZE, [(40, 0, 80, 60)], CUT)
    expected = blob() & ~frame_pixels([(40, 0, 80, 60)])
    np.testing.assert_array_equal(decode_rle(label.segmentation), expected)
    assert label.area == expected.sum() and label.bbox == tight_box(expected)


def test_a_mask_with_a_hole_cut_into_it_is_encoded_in_runs():
    polygons = polygons_of(record(compressed(blob())), *SIZE)
    label = occluded(OWN, tight_box(blob()), record(polygons), SIZE, [(30, 25, 36, 30)], CUT)
    np.testing.assert_array_equal(decode_rle(label.segmentation), blob() & ~frame_pixels([(30, 25, 36, 30)]))


@pytest.mark.parametrize(
    ("box", "occluder", "expected"),
    [
        # The mask reaches from 11, 10 to 59, 46.
        ((10.6, 9.7, 48.2, 36.5), (0, 0, 20, 60), (19.6, 9.7, 39.2, 36.5)),  # rounded outwards, and still so
        ((11.4, 9.7, 47.4, 36.5), (0, 0, 20, 60), (20, 9.7, 38.8, 36.5)),  # inwards: not beyond what is left
        ((10.6, 9.7, 48.2, 36.5), (30, 25, 80, 60), (10.6, 9.7, 48.2, 36.5)),  # a corner
        ((5.5, 10, 53.5, 36), (0, 0, 20, 60), (14.5, 10, 44.5, 36)),  # looser: moves by the mask's 9 pixels
        ((11, 10, 60, 36), (50, 0, 80, 60), (11, 10, 51, 36)),  # likewise, on the right
        ((15.5, 10, 40, 36), (0, 0, 13, 60), (15.5, 10, 40, 36)),  # tighter: what goes was not in it
        ((60, 10, 10, 36), (0, 0, 20, 60), (20, 10, 39, 36)),  # beside its mask: what is left of that
        ((0, 10, 12, 36), (0, 0, 20, 60), (20, 10, 39, 36)),
    ],
)
def test_a_side_of_an_annotated_box_moves_no_more_than_its_masks(box, occluder, expected):
    mask = frame_pixels([(11, 10, 59, 46)])
    label = occluded(OWN, box, record(compressed(mask)), SIZE, [occluder], CUT)
    assert label.bbox == pytest.approx(expected, abs=1e-9)


@given(FLOAT_BOXES, MASKS, OCCLUDERS)
def test_any_box_of_any_mask_gets_a_box_with_an_area(box, mask, occluders):
    label = occluded(OWN, box, record(uncompressed(mask)), SIZE, occluders, CUT)
    assert label is OWN or (label.bbox[2] > 0 and label.bbox[3] > 0)


@pytest.mark.parametrize(
    "outline",
    [
        [[10, 12, 40, 12, 40, 33, 10, 33]],  # rounded
        [[10.25, 12.5, 10.25, 32.8, 40.35, 32.8, 40.35, 12.5, 10.25, 12.5]],  # closed
        [[[1, 2], [3, 4]]],
        {"size": [60, 80], "counts": "garbage"},
        {"size": [60, 80], "counts": [10, 38]},
        [[20, 20, 20.01, 20, 20.01, 20.01]],  # thinner than a pixel
        [],
        None,
        "polygon",
    ],
    ids=str,
)
def test_a_mask_that_says_no_more_than_the_box_or_nothing_counts_as_none(outline):
    occluder = [(15, 15, 80, 60)]
    assert occluded(OWN, BOX, record(outline), SIZE, occluder, CUT) == occluded(OWN, BOX, None, SIZE, occluder, CUT)


def test_a_box_outline_beyond_the_frame_is_no_more_than_the_box_cut_to_it():
    over = record([[-5, -5, 30.4, -5, 30.4, 90, -5, 90]])
    box, occluder = (0.0, 0.0, 30.4, 60.0), [(15, 15, 80, 60)]
    assert occluded(OWN, box, over, SIZE, occluder, CUT) == occluded(OWN, box, None, SIZE, occluder, CUT)


def test_an_outline_far_beyond_the_picture_costs_no_memory():
    far = record([[10, 10, 1e12, 10, 1e12, 1e15, 10, 20]])
    label = occluded(OWN, (10, 10, 70, 50), far, SIZE, [(10, 10, 20, 60)], CUT)
    assert label.bbox == (20, 10, 60, 50)


@pytest.mark.parametrize(
    "box", [(10, 10, 0, 20), (10, 10, 20, 0), (10, 10, 0, 0), (0, 0, 1e-200, 1e-200), (10, 10, -5, 20)]
)
def test_an_object_without_an_area_keeps_its_label(box):
    for policy in (CUT, FULL, VisibilitySettings()):
        assert occluded(OWN, box, None, SIZE, [(0, 0, 80, 60)], policy) is OWN
