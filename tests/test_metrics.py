"""How far a picture is from its source: closed forms, peers, directions, and the figures of released pictures."""

import math

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from shared import shared

from lib.core.geometry import xywh_to_xyxy
from lib.datasets.formats import read_dataset
from lib.evaluation.metrics.pixels import background_psnr, crop_to, gdiff, mse, psnr, ssim
from lib.records.settings import DatasetSettings
from lib.scenes.warehouse import render, scene_seed

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


@pytest.fixture(scope="module")
def scene():
    """A drawn warehouse, 96 × 128."""
    return render(scene_seed(999, 0), 128, 96).image


def noised(picture, spread):
    noise = np.random.default_rng(1).normal(0, spread, picture.shape)
    return np.clip(picture + noise, 0, 255).astype(np.uint8)


# MSE and PSNR


@settings(max_examples=20)
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


@pytest.mark.parametrize("where", [None, rectangle(3, 5, 20, 9)])
def test_psnr_is_the_decibels_of_mse(where):
    other = flat(100)
    other[6:8, 5:15, 1] = 140
    assert psnr(flat(100), other, where) == pytest.approx(10 * math.log10(255**2 / mse(flat(100), other, where)))
    pixels = SIZE[0] * SIZE[1] if where is None else where.sum()
    assert mse(flat(100), other, where) == pytest.approx(40**2 * 20 / 3 / pixels)


# SSIM


@settings(max_examples=20)
@given(st.integers(0, 255), st.integers(0, 255))
def test_ssim_of_flat_pictures_is_that_of_their_light(a, b):
    constant = 2.55**2
    assert ssim(flat(a), flat(b)) == pytest.approx((2 * a * b + constant) / (a * a + b * b + constant))


def test_ssim_of_a_picture_with_itself_is_exactly_1(scene):
    assert ssim(scene, scene) == 1
    assert ssim(scene, scene, rectangle(40, 40, 41, 41, scene.shape[:2])) == 1


def test_ssim_of_a_negative_is_below_0():
    noise = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
    assert ssim(noise, 255 - noise) < -0.5


def test_ssim_leaves_out_what_has_no_whole_window(scene):
    """So that all pixels chosen are the same as none chosen, and only windows count, not their mirror images."""
    other, everything = noised(scene, 20), np.ones(scene.shape[:2], bool)
    inner = rectangle(5, 5, 123, 91, scene.shape[:2])
    assert ssim(scene, other, everything) == ssim(scene, other) == ssim(scene, other, inner)
    with pytest.raises(ValueError, match="within 5 of the frame"):
        ssim(scene, other, ~inner)


def test_ssim_over_parts_makes_up_the_whole(scene):
    other, left = noised(scene, 20), rectangle(0, 0, 64, 96, scene.shape[:2])
    shares = 59 / 118, 59 / 118  # of the columns that have windows
    parts = ssim(scene, other, left), ssim(scene, other, ~left)
    assert np.dot(shares, parts) == pytest.approx(ssim(scene, other))


def test_ssim_of_a_small_picture_is_an_error_and_of_11_pixels_is_one_window():
    with pytest.raises(ValueError, match=r"\(10, 40\).*at least 11"):
        ssim(flat(1, (10, 40)), flat(2, (10, 40)))
    assert ssim(flat(100, (11, 11)), flat(100, (11, 11))) == 1


# Peers


@pytest.fixture(scope="module", params=["random", "noised", "blurred", "equal but for a pixel"])
def pair(request, scene):
    """Two pictures, 40 × 53 or 96 × 128."""
    one_pixel = scene.copy()
    one_pixel[50, 60] ^= 128
    return {
        "random": np.random.default_rng(7).integers(0, 256, (2, 40, 53, 3), dtype=np.uint8),
        "noised": (scene, noised(scene, 8)),
        "blurred": (scene, cv2.GaussianBlur(scene, (0, 0), 2)),
        "equal but for a pixel": (scene, one_pixel),
    }[request.param]


def test_scikit_image_says_the_same(pair):
    from skimage import metrics

    a, b = pair
    assert mse(a, b) == pytest.approx(metrics.mean_squared_error(a, b), rel=1e-12)
    assert psnr(a, b) == pytest.approx(metrics.peak_signal_noise_ratio(a, b), rel=1e-12)
    mean, values = metrics.structural_similarity(
        a, b, channel_axis=2, gaussian_weights=True, use_sample_covariance=False, full=True
    )
    assert ssim(a, b) == pytest.approx(mean, abs=1e-10)
    where = rectangle(9, 12, 30, 27, a.shape[:2])
    assert ssim(a, b, where) == pytest.approx(values[where].mean(), abs=1e-10)


def test_torchmetrics_says_the_same(pair):
    import torch
    from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure
    from torchmetrics.functional.regression import mean_squared_error

    a, b = pair
    x, y = (torch.tensor(picture, dtype=torch.float64).permute(2, 0, 1)[None].contiguous() for picture in (a, b))
    assert mse(a, b) == pytest.approx(float(mean_squared_error(x.flatten(), y.flatten())), rel=1e-12)
    assert psnr(a, b) == pytest.approx(float(peak_signal_noise_ratio(x, y, data_range=255.0)), rel=1e-6)
    _, values = structural_similarity_index_measure(x, y, data_range=255.0, return_full_image=True)
    whole = values[..., 5:-5, 5:-5]  # its mean takes in the frame, where its windows see the picture in a mirror
    assert ssim(a, b) == pytest.approx(float(whole.mean()), abs=1e-10)


# Crops


def test_a_crop_is_the_masks_rectangle(scene):
    mask = rectangle(30, 20, 50, 44, scene.shape[:2])
    mask[22:40, 35:45] = False
    crop, of_mask = crop_to(mask, scene, mask)
    assert (crop == scene[20:44, 30:50]).all() and of_mask.shape == (24, 20) and of_mask.sum() == mask.sum()
    (wide,) = crop_to(mask, scene, margin=7)
    assert (wide == scene[13:51, 23:57]).all()
    (all_of_it,) = crop_to(mask, scene, margin=1000)
    assert all_of_it.shape == scene.shape


def test_a_crop_to_one_pixel_is_a_pixel_and_too_small_for_ssim(scene):
    mask = rectangle(30, 20, 31, 21, scene.shape[:2])
    crops = crop_to(mask, scene, noised(scene, 50))
    assert crops[0].shape == (1, 1, 3) and psnr(*crops) == psnr(scene, noised(scene, 50), mask)
    with pytest.raises(ValueError, match="at least 11"):
        ssim(*crops)


def test_a_crop_scores_as_the_region_in_the_whole_picture(scene):
    other, mask = noised(scene, 20), rectangle(30, 20, 70, 64, scene.shape[:2])
    assert psnr(*crop_to(mask, scene, other)) == pytest.approx(psnr(scene, other, mask))
    assert ssim(*crop_to(mask, scene, other, margin=5)) == pytest.approx(ssim(scene, other, mask))


def test_blackening_the_rest_flatters_and_cropping_does_not(scene):
    """The fault of the study that these metrics come from."""
    other, mask = noised(scene, 20), rectangle(30, 20, 70, 64, scene.shape[:2])
    black = [np.where(mask[..., None], picture, np.uint8(0)) for picture in (scene, other)]
    assert ssim(*black) > ssim(scene, other, mask) + 0.2
    assert psnr(*black) > psnr(scene, other, mask) + 5


@pytest.mark.parametrize(
    "mask, margin, message",
    [
        (np.zeros(SIZE, bool), 0, "no pixel"),
        (np.ones((3, 3), bool), 0, "mask's size"),
        (np.ones(SIZE, bool), -1, "margin=-1"),
        (np.full(SIZE, 255, np.uint8), 0, "bool mask"),
    ],
)
def test_crops_that_cannot_be_are_errors(mask, margin, message):
    with pytest.raises(ValueError, match=message):
        crop_to(mask, flat(1), margin=margin)


# Directions


@pytest.mark.parametrize(
    "harm",
    [
        lambda picture, much: cv2.GaussianBlur(picture, (0, 0), much),
        lambda picture, much: noised(picture, 10 * much),
        lambda picture, much: np.where(np.arange(picture.shape[1])[:, None] < 30 * much, np.uint8(0), picture),
    ],
    ids=["blurred", "noised", "blackened"],
)
def test_more_harm_is_a_worse_score(scene, harm):
    harmed = [harm(scene, much) for much in (1, 2, 3)]
    everything = np.ones(scene.shape[:2], bool)
    for metric, sign in ((mse, 1), (psnr, -1), (ssim, -1)):
        figures = [sign * metric(scene, picture) for picture in (scene, *harmed)]
        assert figures == sorted(set(figures)), metric
    figures = [gdiff(scene, picture, everything, where="full") for picture in (scene, *harmed)]
    assert figures == sorted(set(figures))


def test_what_lies_outside_the_mask_leaves_its_figures_alone(scene):
    mask = rectangle(40, 30, 80, 60, scene.shape[:2])
    near = rectangle(40 - 5, 30 - 5, 80 + 5, 60 + 5, scene.shape[:2])  # as far as SSIM's windows see
    other = noised(scene, 10)
    worse = np.where(near[..., None], other, np.uint8(0))
    for metric in (mse, psnr, ssim):
        assert metric(scene, worse, mask) == metric(scene, other, mask)
        assert metric(scene, worse) != metric(scene, other) and metric(scene, worse, ~mask) != metric(scene, other)
    assert gdiff(scene, worse, mask) == gdiff(scene, other, mask)


def test_what_lies_inside_the_mask_leaves_the_background_alone(scene):
    mask = rectangle(40, 30, 80, 60, scene.shape[:2])
    other = np.where(mask[..., None], np.uint8(0), scene)
    assert background_psnr(scene, other, np.array([[40, 30, 80, 60]]), margin=0) == math.inf
    assert psnr(scene, other, ~mask) == math.inf and mse(scene, other, ~mask) == 0
    assert ssim(scene, other, rectangle(0, 0, 34, 96, scene.shape[:2])) == 1


def test_only_a_seam_moves_the_edge():
    """A step at the mask's rim; as much light, added smoothly, and a change deep inside do not."""
    source, mask = ramp(2, (64, 64)), rectangle(16, 16, 48, 48, (64, 64))
    seam, deep = source.copy(), source.copy()
    seam[mask] += 40
    deep[28:36, 28:36] += 40
    lighter = source + np.uint8(40)
    for where in ("edge", "inner", "outer"):
        assert gdiff(source, seam, mask, where=where) > 1
        assert gdiff(source, deep, mask, where=where) == gdiff(source, lighter, mask, where=where) == 0
    assert gdiff(source, deep, mask, where="full") > 0


# GDiff


@pytest.mark.parametrize("where", ["edge", "inner", "outer", "full"])
def test_gdiff_of_equal_pictures_is_0(where):
    noise = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
    assert gdiff(noise, noise, rectangle(8, 8, 20, 16), where=where) == 0


@pytest.mark.parametrize("where", ["edge", "inner", "outer", "full"])
def test_gdiff_of_ramps_is_how_much_steeper_one_is(where):
    mask = rectangle(8, 8, 20, 16)
    assert gdiff(ramp(2), ramp(6), mask, where=where) == pytest.approx(2)
    assert gdiff(ramp(6), ramp(2), mask, where=where) == pytest.approx(2 / 3)
    assert gdiff(ramp(2), ramp(2)[:, ::-1], mask, where=where) == pytest.approx(0, abs=1e-9)  # magnitudes


@pytest.mark.parametrize(
    "column, parts",
    [
        (4, ()),
        (5, ("edge", "outer")),
        (6, ("edge", "outer")),
        (7, ("edge", "inner", "outer")),
        (9, ("edge", "inner")),
        (10, ("edge", "inner")),
        (12, ()),
        (15, ()),
        (22, ("edge", "inner")),
        (25, ("edge", "outer")),
        (27, ()),
    ],
)
def test_the_edge_is_the_mask_dilated_less_the_mask_eroded(column, parts):
    mask, source = rectangle(8, 8, 24, 18), ramp(4)  # the edge: columns 6 to 9 and 22 to 25, two each way
    output = source.copy()
    output[12:14, column] += 40  # its gradients reach one column further
    found = {where: gdiff(source, output, mask, where=where) for where in ("edge", "inner", "outer", "full")}
    assert {where for where, value in found.items() if value > 0} == {*parts, "full"}


def test_a_mask_of_one_pixel_has_an_edge_of_one_kernel():
    mask = rectangle(12, 9, 13, 10)
    for column, parts in ((9, {"edge", "outer"}), (12, {"edge", "outer"}), (8, set())):
        source, output = ramp(4), ramp(4)
        output[9, column] += 40
        changed = {where for where in ("edge", "outer") if gdiff(source, output, mask, where=where) > 0}
        assert changed == parts
    assert gdiff(ramp(2), ramp(6), mask, where="inner") == pytest.approx(2)


def test_the_frame_is_no_edge():
    left, output = rectangle(0, 0, 16, SIZE[0]), ramp(4)
    output[:4, :4] += 40
    assert gdiff(ramp(4), output, left) == 0 < gdiff(ramp(4), output, left, where="full")


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
    with pytest.raises(ValueError, match="edge, inner, outer or full"):
        gdiff(ramp(2), ramp(3), rectangle(8, 8, 20, 16), where="rim")
    with pytest.raises(ValueError, match="kernel"):
        gdiff(ramp(2), ramp(3), rectangle(8, 8, 20, 16), kernel=4)


@pytest.mark.parametrize(
    "picture", [flat(1).astype(np.float64), flat(1)[..., 0], flat(1)[..., [0, 1, 2, 0]]], ids=["float", "grey", "RGBA"]
)
def test_other_pictures_than_rgb_bytes_are_errors(picture):
    for call in (mse, psnr, ssim, lambda a, b: gdiff(a, b, rectangle(8, 8, 20, 16))):
        with pytest.raises(ValueError, match=r"uint8 \(H, W, 3\)"):
            call(picture, picture)


def test_a_mask_of_numbers_is_an_error():
    mask = rectangle(8, 8, 20, 16).astype(np.uint8) * 255
    for call in (lambda: psnr(flat(1), flat(2), mask), lambda: gdiff(flat(1), flat(2), mask)):
        with pytest.raises(ValueError, match="bool mask"):
            call()


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
    assert len(found) == count and max(found) < 40
    assert np.mean(found) == pytest.approx(wanted, abs=0.1)
