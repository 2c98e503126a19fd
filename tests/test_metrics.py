"""How far a picture is from its source: closed forms, and the figures of released pictures."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from shared import shared

from lib.formats import read_dataset
from lib.geometry import xywh_to_xyxy
from lib.metrics import background_psnr, gdiff, psnr
from lib.settings import DatasetSettings

SIZE = (24, 32)


def flat(level, size=SIZE):
    return np.full((*size, 3), level, np.uint8)


def ramp(step, size=SIZE):
    """Grey that rises by `step` a column."""
    row = np.arange(size[1]) * step
    return np.repeat(np.broadcast_to(row, size)[..., None], 3, axis=2).astype(np.uint8)


def rectangle(x0, y0, x1, y1, size=SIZE):
    mask = np.zeros(size, bool)
    mask[y0:y1, x0:x1] = True
    return mask


# PSNR


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 255), st.integers(0, 255))
def test_psnr_of_flat_pictures(a, b):
    wanted = math.inf if a == b else 20 * math.log10(255 / abs(a - b))
    assert psnr(flat(a), flat(b)) == pytest.approx(wanted)
    assert psnr(flat(b), flat(a)) == pytest.approx(wanted)


def test_psnr_over_some_pixels():
    other, mask = flat(100), rectangle(4, 2, 8, 6)
    other[mask] = 110
    assert psnr(flat(100), other, mask) == pytest.approx(20 * math.log10(25.5))
    assert psnr(flat(100), other, ~mask) == math.inf
    share = mask.mean()
    assert psnr(flat(100), other) == pytest.approx(20 * math.log10(25.5) - 10 * math.log10(share))


def test_psnr_averages_over_the_channels():
    other = flat(100)
    other[..., 0] = 130
    assert psnr(flat(100), other) == pytest.approx(20 * math.log10(255 / 30) + 10 * math.log10(3))


def test_background_is_what_lies_a_margin_outside_every_box():
    source, output = flat(50), flat(50)
    box = np.array([[10.5, 8.0, 16.2, 12.0]])  # touches the columns 10 to 16
    near = rectangle(10 - 3, 8 - 3, 17 + 3, 12 + 3)
    output[near] = 200
    assert background_psnr(source, output, box, margin=3) == math.inf
    output[8, 20] = 40  # three pixels from the last one
    assert background_psnr(source, output, box, margin=3) < 100
    assert background_psnr(source, output, box, margin=4) == math.inf


def test_background_without_boxes_is_the_whole_picture():
    assert background_psnr(flat(100), flat(110), np.zeros((0, 4))) == psnr(flat(100), flat(110))


def test_boxes_that_leave_no_background_are_an_error():
    with pytest.raises(ValueError, match="nothing to compare"):
        background_psnr(flat(1), flat(2), np.array([[10, 10, 20, 20]]), margin=40)


# GDiff


@pytest.mark.parametrize("where", ["edge", "inner", "full"])
def test_gdiff_of_equal_pictures_is_0(where):
    noise = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
    assert gdiff(noise, noise, rectangle(8, 8, 20, 16), where=where) == 0


@pytest.mark.parametrize("where", ["edge", "inner", "full"])
def test_gdiff_of_ramps_is_how_much_steeper_one_is(where):
    mask = rectangle(8, 8, 20, 16)
    assert gdiff(ramp(2), ramp(6), mask, where=where) == pytest.approx(2)
    assert gdiff(ramp(6), ramp(2), mask, where=where) == pytest.approx(2 / 3)
    assert gdiff(ramp(2), ramp(2)[:, ::-1], mask, where=where) == pytest.approx(0, abs=1e-9)  # magnitudes


@pytest.mark.parametrize(
    "column, parts",
    [(4, ()), (6, ("edge",)), (8, ("edge", "inner")), (12, ("inner",)), (15, ("inner",)), (25, ("edge",)), (27, ())],
)
def test_the_edge_is_the_mask_dilated_less_the_mask_eroded(column, parts):
    mask, source = rectangle(8, 8, 24, 18), ramp(4)  # the edge: columns 6 to 9 and 22 to 25, two each way
    output = source.copy()
    output[12:14, column] += 40  # its gradients reach one column further
    found = {where: gdiff(source, output, mask, where=where) for where in ("edge", "inner", "full")}
    assert {where for where, value in found.items() if value > 0} == {*parts, "full"}


def test_a_wider_kernel_is_a_wider_edge():
    mask, source = rectangle(8, 8, 24, 18), ramp(4)
    output = source.copy()
    output[12:14, 15] += 40
    assert gdiff(source, output, mask, kernel=5) == 0 < gdiff(source, output, mask, kernel=11)


def test_gdiff_full_needs_no_edge():
    assert gdiff(ramp(2), ramp(4), np.zeros(SIZE, bool), where="full") == pytest.approx(1)


def test_a_flat_source():
    mask = rectangle(8, 8, 20, 16)
    assert gdiff(flat(9), flat(200), mask) == 0
    assert gdiff(flat(9), ramp(2), mask) == math.inf


def test_a_larger_seam_is_a_larger_gdiff():
    source, mask = ramp(4), rectangle(8, 8, 24, 18)
    figures = []
    for step in (5, 20, 60):
        output = source.copy()
        output[mask] += step
        figures.append(gdiff(source, output, mask))
    assert figures == sorted(figures) and figures[0] > 0


@pytest.mark.parametrize("mask", [np.zeros(SIZE, bool), np.ones(SIZE, bool)])
def test_a_mask_of_all_or_nothing_has_no_edge(mask):
    with pytest.raises(ValueError, match="nothing to compare"):
        gdiff(ramp(2), ramp(3), mask)


# Faults


def test_sizes_that_differ_are_an_error():
    small = flat(1, (12, 16))
    for call in (lambda: psnr(flat(1), small), lambda: background_psnr(flat(1), small, np.zeros((0, 4)))):
        with pytest.raises(ValueError, match=r"one size.*\(24, 32, 3\).*\(12, 16, 3\)"):
            call()
    with pytest.raises(ValueError, match="one size"):
        gdiff(flat(1), small, rectangle(2, 2, 8, 8))
    with pytest.raises(ValueError, match="mask"):
        gdiff(flat(1), flat(1), rectangle(2, 2, 8, 8, (12, 16)))
    with pytest.raises(ValueError, match="mask"):
        psnr(flat(1), flat(1), np.ones((12, 16), bool))


def test_no_pixels_are_an_error():
    with pytest.raises(ValueError, match="nothing to compare"):
        psnr(flat(1), flat(2), np.zeros(SIZE, bool))


def test_unknown_parts_and_even_kernels_are_errors():
    with pytest.raises(ValueError, match="edge, inner or full"):
        gdiff(ramp(2), ramp(3), rectangle(8, 8, 20, 16), where="rim")
    with pytest.raises(ValueError, match="kernel"):
        gdiff(ramp(2), ramp(3), rectangle(8, 8, 20, 16), kernel=4)


# Released pictures


@pytest.mark.parametrize("method, count, wanted", [("gligen", 49, 26.36), ("refined", 8, 24.88), ("sdxl", 8, 21.88)])
def test_background_psnr_of_the_released_forklifts(method, count, wanted):
    """The occlusion paper's own outputs, against their sources: mean of the pictures' decibels."""
    folder, outputs = shared("loco_forklifts", "forklifts"), shared("loco_forklifts", "reference_outputs", method)
    dataset = read_dataset(DatasetSettings(images=folder, format="loco"))
    objects, found = dataset.objects.to_pandas(), []
    for image in dataset.images.to_pandas().itertuples():
        if (outputs / image.path).exists():
            boxes = xywh_to_xyxy(objects.loc[objects.image_key == image.key, ["x", "y", "w", "h"]].to_numpy())
            source, output = (np.asarray(Image.open(root / image.path).convert("RGB")) for root in (folder, outputs))
            found.append(background_psnr(source, output, boxes))
    assert len(found) == count
    assert np.mean(found) == pytest.approx(wanted, abs=0.1)
