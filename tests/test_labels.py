"""What annotations say after an edit: the box or the donor's mask, and an area that follows."""

import msgspec
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from pycocotools import mask as coco_mask
from scipy.ndimage import binary_fill_holes

from lib.geometry import polygon_area
from lib.labels import donor_mask, polygons_of, redrawn
from lib.requests import Donor, Pass, canonical

TRIANGLE = (10.0, 10.0, 70.0, 10.0, 70.0, 60.0)


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
        [[[1, 2], [3, 4], [5, 6], [7, 8], [9, 10], [11, 12]]],
        {"counts": [1, 2, 3]},
        {"size": [60, 80]},
        {"size": [60, 80], "counts": 5},
        {"size": "60x80", "counts": [10, 4790]},
        {"size": [60, 80], "counts": [10, "x"]},
        {"size": [60, 80], "counts": [0, 60 * 80 + 1]},
        {"size": [60, 80], "counts": [-5, 4805]},
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
    assert (label.source, label.edited, label.bbox) == ("7", True, (10, 20, 30, 40))
    assert label.segmentation == ((10, 20, 40, 20, 40, 60, 10, 60),) and label.area == 1200


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
def test_mirroring_twice_is_no_mirroring(crop, shares):
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
    told = msgspec.json.encode({"segmentation": {"size": list(blobs.shape), "counts": rle["counts"].decode()}})
    polygons = polygons_of(told, *blobs.shape) or ()
    assert polygon_area(polygons) == blobs.sum()
