"""How paint returns to a picture; every registered composite is held to the contract."""

import numpy as np
import pytest

from lib.composites import COMPOSITES, compose, cut_window
from lib.errors import AugmentError
from lib.requests import Pass


def make_pass(region, window, shape):
    return Pass(
        window=window, shape=shape, region=(region,), boxes=(), phrases=(), prompt="", negative_prompt="", seed=1
    )


def noise(seed, height, width):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def reach_of(composite, spec, height=60, width=90):
    """float32 (height, width): alpha brought into the whole frame."""
    x0, y0, x1, y1 = view = cut_window(spec.window, width, height)
    alpha = np.zeros((height, width), np.float32)
    alpha[y0:y1, x0:x1] = composite.alpha(spec, view)
    return alpha


@pytest.fixture(params=sorted(COMPOSITES))
def composite(request):
    return COMPOSITES.build(COMPOSITES.member(request.param, {}))


@pytest.mark.parametrize("region", [(20, 20, 50, 40), (0, 0, 30, 30), (70, 50, 90, 60), (40, 30, 41, 31)])
def test_outside_its_reach_every_pixel_is_the_pictures_own(composite, region):
    picture = noise(0, 60, 90)
    window = (max(region[0] - 12, 0), max(region[1] - 12, 0), min(region[2] + 12, 90), min(region[3] + 12, 60))
    spec = make_pass(region, window, (32, 32))
    result = compose(picture, noise(1, 32, 32), spec, composite)
    outside = reach_of(composite, spec) == 0
    np.testing.assert_array_equal(result[outside], picture[outside])


def test_reach_goes_no_further_than_the_margin(composite):
    spec = make_pass((40, 30, 50, 40), (0, 0, 90, 60), (60, 90))
    rows, columns = np.nonzero(reach_of(composite, spec))
    if composite.margin() or type(composite).__name__ == "Paste":
        assert columns.min() >= 40 - composite.margin() and columns.max() < 50 + composite.margin()
        assert rows.min() >= 30 - composite.margin() and rows.max() < 40 + composite.margin()
    else:
        assert rows.size == 60 * 90  # none: the whole window is new


def test_the_middle_of_the_region_is_the_paint(composite):
    paint = noise(1, 60, 90)
    spec = make_pass((20, 10, 70, 50), (0, 0, 90, 60), (60, 90))
    result = compose(noise(0, 60, 90), paint, spec, composite)
    np.testing.assert_array_equal(result[28:32, 43:47], paint[28:32, 43:47])


def test_the_source_is_not_written_to(composite):
    picture = noise(0, 60, 90)
    before = picture.copy()
    compose(picture, noise(1, 60, 90), make_pass((20, 10, 70, 50), (0, 0, 90, 60), (60, 90)), composite)
    np.testing.assert_array_equal(picture, before)


def test_a_window_beyond_the_frame_is_cut(composite):
    spec = make_pass((0, 0, 90, 60), (0, -15, 90, 75), (90, 90))
    paint = noise(1, 90, 90)
    result = compose(noise(0, 60, 90), paint, spec, composite)
    np.testing.assert_array_equal(result[30, 45], paint[45, 45])


def test_feather_fades_from_the_paint_to_the_picture():
    feather = COMPOSITES.build(COMPOSITES.member("feather", {}))
    alpha = reach_of(feather, make_pass((30, 0, 60, 60), (0, 0, 90, 60), (60, 90)))
    row = alpha[30]
    assert row[45] == 1 and row[10] == 0
    assert (np.diff(row[20:40]) >= -1e-6).all() and 0 < row[27] < 1


def test_an_even_kernel_is_refused_with_the_settings_name():
    with pytest.raises(AugmentError, match="kernel"):
        COMPOSITES.member("feather", {"kernel": 4})


def test_an_unknown_composite_lists_the_known_ones():
    with pytest.raises(AugmentError, match="feather, none, paste"):
        COMPOSITES.member("blend", {})
