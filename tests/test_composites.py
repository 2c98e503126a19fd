"""How paint returns to a picture; every registered composite is held to the contract."""

import gc

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lib.core.errors import AugmentError
from lib.core.geometry import rectangles_mask
from lib.core.images import PictureError
from lib.painting.canvas import canvas_of, cut_window, region_mask, resized
from lib.painting.composites import COMPOSITES, compose
from lib.painting.painters import Paint
from lib.records.requests import Pass
from lib.records.rle import encode_rle

HEIGHT, WIDTH = 60, 90
FRAME = (0, 0, WIDTH, HEIGHT)
FAST = {"reconstruct": {"iterations": 3}}  # for the contract the rest of its steps adds nothing


class TinyDecoder:
    """A random autoencoder of 2 pixels a latent cell, as a painter's decoder."""

    def __init__(self):
        from diffusers import AutoencoderKL

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.vae = AutoencoderKL(
                block_out_channels=(8, 16),
                down_block_types=("DownEncoderBlock2D",) * 2,
                up_block_types=("UpDecoderBlock2D",) * 2,
                layers_per_block=1,
                norm_num_groups=4,
                latent_channels=4,
            )
        self.vae.eval().requires_grad_(False)

    def __call__(self, latents):
        with torch.no_grad():
            pixels = self.pixels(latents).permute(1, 2, 0)
        return (pixels / 2 + 0.5).clamp(0, 1).mul(255).round().to(torch.uint8).numpy()

    def pixels(self, latents):
        return self.vae.decode(latents[None]).sample[0]


class BrokenDecoder(TinyDecoder):
    """Fails in the middle of its tuning."""

    calls = 0
    error: type[Exception] = RuntimeError

    def pixels(self, latents):
        self.calls += 1
        if self.calls > 2:
            raise self.error("broken")
        return super().pixels(latents)


@pytest.fixture(scope="module")
def decoder():
    return TinyDecoder()


def make_pass(region=((20, 10, 70, 50),), window=FRAME, shape=None, **more):
    """A pass at its window's size, unless `shape` is given."""
    shape = shape or (window[3] - window[1], window[2] - window[0])
    fields = {"boxes": (), "phrases": (), "prompt": "", "negative_prompt": "", "seed": 1}
    return Pass(window=window, shape=shape, region=region, **fields, **more)


def noise(seed, height=HEIGHT, width=WIDTH):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def smooth(seed):
    """A picture of soft blobs: noise holds no colour that a Poisson solution could keep."""
    small = np.random.default_rng(seed).integers(40, 216, (HEIGHT // 10, WIDTH // 10, 3), dtype=np.uint8)
    return resized(small, (HEIGHT, WIDTH))


def painted(decoder, shape, seed=1):
    """A paint with all that a painter can give: image, latents, decoder."""
    generator = torch.Generator().manual_seed(seed)
    latents = torch.randn((4, -(-shape[0] // 2), -(-shape[1] // 2)), generator=generator)
    return Paint(decoder(latents)[: shape[0], : shape[1]], latents, decoder)


def built(name, **values):
    return COMPOSITES.build(COMPOSITES.member(name, values))


def reach_of(composite, step):
    """float32 (height, width): alpha brought into the whole frame."""
    x0, y0, x1, y1 = view = cut_window(step.window, WIDTH, HEIGHT)
    alpha = np.zeros((HEIGHT, WIDTH), np.float32)
    alpha[y0:y1, x0:x1] = composite.alpha(step, view)
    return alpha


def ellipse():
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    return ((rows - 30) / 20) ** 2 + ((columns - 45) / 30) ** 2 < 1


CASES = {
    "rectangle": make_pass(((20, 20, 50, 40),), (8, 8, 62, 52)),
    "painted smaller": make_pass(((20, 20, 50, 40),), (8, 8, 62, 52), (32, 32)),
    "painted larger": make_pass(((20, 20, 50, 40),), (8, 8, 62, 52), (64, 96)),
    "at the corner": make_pass(((0, 0, 30, 30),), (0, 0, 42, 42), (32, 32)),
    "at the other corner": make_pass(((70, 50, 90, 60),), (58, 38, 90, 60), (32, 32)),
    "one pixel": make_pass(((40, 30, 41, 31),), (28, 18, 53, 43), (32, 32)),
    "one pixel in the corner": make_pass(((0, 0, 1, 1),), (0, 0, 12, 12)),
    "full frame": make_pass((FRAME,), FRAME, (32, 48)),
    "nothing": make_pass(()),
    "all of it holes": make_pass(((20, 10, 70, 50),), holes=((0, 0, 90, 60),)),
    "window beyond the frame": make_pass((FRAME,), (0, -15, 90, 75), (64, 64)),
    "window beyond a corner": make_pass(((0, 0, 20, 20),), (-10, -20, 40, 30)),
    "several parts": make_pass(((10, 5, 40, 25), (50, 30, 85, 55), (41, 26, 43, 27))),
    "with a hole": make_pass((FRAME,), holes=((30, 20, 60, 40),)),
    "with a mask": make_pass((FRAME,), mask=encode_rle(ellipse())),
    "with mask and hole, scaled": make_pass((FRAME,), (-10, -20, 100, 90), (32, 32), holes=((40, 20, 60, 40),))
    .model_copy(update={"mask": encode_rle(ellipse())}),
}  # fmt: skip


# The contract


@pytest.fixture(params=sorted(COMPOSITES))
def composite(request):
    return built(request.param, **FAST.get(request.param, {}))


@pytest.mark.parametrize("case", CASES)
def test_outside_its_reach_every_pixel_is_the_pictures_own(composite, decoder, case):
    picture, step = noise(0), CASES[case]
    before = picture.copy()
    result = compose(picture, painted(decoder, step.shape), step, composite)
    assert result.shape == picture.shape and result.dtype == np.uint8
    reach = reach_of(composite, step)
    assert reach.min() >= 0 and reach.max() <= 1
    np.testing.assert_array_equal(result[reach == 0], picture[reach == 0])
    np.testing.assert_array_equal(picture, before)  # the source is not written to
    assert not np.shares_memory(result, picture)


@pytest.mark.parametrize("case", ["painted smaller", "several parts", "with mask and hole, scaled"])
def test_the_same_paint_gives_the_same_picture(composite, decoder, case):
    step = CASES[case]
    paint, drawn = painted(decoder, step.shape), torch.get_rng_state()
    first, second = (compose(noise(0), paint, step, composite) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert torch.equal(torch.get_rng_state(), drawn)


def test_a_read_only_picture_will_do(composite, decoder):
    picture, step = noise(0), CASES["several parts"]
    picture.flags.writeable = False
    assert compose(picture, painted(decoder, step.shape), step, composite).flags.writeable


@pytest.mark.parametrize("case", CASES)
def test_reach_goes_no_further_than_the_margin(composite, case):
    step = CASES[case]
    reach = reach_of(composite, step) > 0
    if type(composite).__name__ in ("Whole", "Reconstruct"):
        x0, y0, x1, y1 = cut_window(step.window, WIDTH, HEIGHT)
        assert composite.margin() == 0 and reach.sum() == (x1 - x0) * (y1 - y0)  # the whole window is new
        return
    region = region_mask(step, FRAME)
    grown = np.zeros_like(region)
    for y, x in np.argwhere(region):
        far = composite.margin()
        grown[max(y - far, 0) : y + far + 1, max(x - far, 0) : x + far + 1] = True
    assert not (reach & ~grown).any()
    assert reach[region].all()


def test_a_mask_of_another_pictures_size_is_an_error(composite, decoder):
    step = make_pass((FRAME,), mask=encode_rle(np.ones((30, 45), bool)))
    with pytest.raises(ValueError, match="mask"):
        compose(noise(0), painted(decoder, step.shape), step, composite)


# none, paste, feather


@pytest.mark.parametrize("name", ["none", "paste", "feather"])
def test_the_middle_of_the_region_is_the_paint(name):
    paint = noise(1)
    result = compose(noise(0), Paint(paint), make_pass(), built(name))
    np.testing.assert_array_equal(result[28:32, 43:47], paint[28:32, 43:47])


@pytest.mark.parametrize("name", ["none", "paste", "feather"])
def test_a_window_beyond_the_frame_is_cut(name):
    paint = noise(1, 90, 90)
    result = compose(noise(0), Paint(paint), make_pass((FRAME,), (0, -15, 90, 75)), built(name))
    np.testing.assert_array_equal(result[30, 45], paint[45, 45])


def test_paste_takes_exactly_the_region():
    step = CASES["with a hole"]
    result = compose(noise(0), Paint(noise(1)), step, built("paste"))
    mask = region_mask(step, FRAME)[..., None]
    np.testing.assert_array_equal(result, np.where(mask, noise(1), noise(0)))


def test_feather_fades_from_the_paint_to_the_picture():
    alpha = reach_of(built("feather"), make_pass(((30, 0, 60, 60),)))
    row = alpha[30]
    assert row[45] == 1 and row[10] == 0
    assert (np.diff(row[20:40]) >= -1e-6).all() and 0 < row[27] < 1
    np.testing.assert_array_equal(alpha, np.broadcast_to(row, alpha.shape))  # beyond the frame the region goes on


def test_feather_fades_around_a_mask_as_around_rectangles():
    rectangles = make_pass(((20, 10, 40, 30), (30, 20, 70, 50)))
    mask = make_pass((FRAME,), mask=encode_rle(region_mask(rectangles, FRAME)))
    np.testing.assert_array_equal(reach_of(built("feather"), rectangles), reach_of(built("feather"), mask))


boxes = st.tuples(st.integers(0, 85), st.integers(0, 55), st.integers(1, 40), st.integers(1, 40)).map(
    lambda box: (box[0], box[1], min(box[0] + box[2], WIDTH), min(box[1] + box[3], HEIGHT))
)


@settings(max_examples=50)
@given(st.lists(boxes, min_size=1, max_size=3), st.sampled_from([(13, 10, 3), (1, 1, 0), (5, 2, 7)]))
def test_feather_gives_for_rectangles_what_growing_them_gave(region, values):
    import cv2

    kernel, sigma, enlarge = values
    step = make_pass(tuple(region))
    grown = [(x0 - enlarge, y0 - enlarge, x1 + enlarge, y1 + enlarge) for x0, y0, x1, y1 in region]
    mask = rectangles_mask(grown, FRAME).astype(np.float32)
    blurred = cv2.GaussianBlur(mask, (kernel, kernel), sigma, borderType=cv2.BORDER_REPLICATE)
    wanted = np.where(blurred > 1e-4, np.clip(blurred, 0, 1), 0).astype(np.float32)
    feather = built("feather", kernel=kernel, sigma=sigma, enlarge=enlarge)
    np.testing.assert_array_equal(feather.alpha(step, FRAME), wanted)


def test_an_even_kernel_is_refused_with_the_settings_name():
    with pytest.raises(AugmentError, match="kernel"):
        COMPOSITES.member("feather", {"kernel": 4})


def test_an_unknown_composite_lists_the_known_ones():
    with pytest.raises(AugmentError, match="feather, none, paste, poisson, reconstruct"):
        COMPOSITES.member("blend", {})


# poisson

modes = pytest.mark.parametrize("mode", ["normal", "mixed"])


@modes
@pytest.mark.parametrize("case", [case for case, step in CASES.items() if step.shape == (HEIGHT, WIDTH)])
def test_a_paint_equal_to_the_picture_gives_the_picture_back(mode, case):
    picture = smooth(0)
    result = compose(picture, Paint(picture), CASES[case], built("poisson", mode=mode))
    np.testing.assert_allclose(result.astype(int), picture, atol=1)


@modes
@pytest.mark.parametrize("region", [(20, 10, 70, 50), (21, 11, 70, 50), (21, 10, 69, 51), (0, 0, 70, 60), FRAME])
def test_an_edge_stays_where_it_was_painted(mode, region):
    picture, paint = np.full((2, HEIGHT, WIDTH, 3), 100, np.uint8)
    paint[20:40, 31:53] = 200
    result = compose(picture, Paint(paint), make_pass((region,)), built("poisson", mode=mode)).astype(int)[..., 0]
    # The steps, not the levels: the block sinks to the picture's colours as a whole.
    assert np.abs(np.diff(result[30])).argsort()[-2:].tolist() in ([30, 52], [52, 30])
    assert np.abs(np.diff(result[:, 42])).argsort()[-2:].tolist() in ([19, 39], [39, 19])


@modes
def test_a_paint_of_another_brightness_takes_the_pictures(mode):
    picture = smooth(0)
    brighter = np.clip(picture.astype(int) + 30, 0, 255).astype(np.uint8)
    result = compose(picture, Paint(brighter), make_pass(), built("poisson", mode=mode))
    np.testing.assert_allclose(result.astype(int), picture, atol=2)


def test_mixed_keeps_the_pictures_edges_where_the_paint_is_flat():
    picture, flat = np.full((2, HEIGHT, WIDTH, 3), 100, np.uint8)
    picture[:, 45:] = 200
    steps = {}
    for mode in ("normal", "mixed"):
        result = compose(picture, Paint(flat), make_pass(), built("poisson", mode=mode)).astype(int)
        steps[mode] = result[30, 45, 0] - result[30, 44, 0]
    assert steps["mixed"] > 90 and steps["normal"] < 20


def test_a_part_too_thin_to_have_a_middle_is_pasted_and_the_others_cloned():
    step = make_pass(((10, 10, 40, 40), (60, 10, 61, 11), (50, 20, 90, 26), (50, 30, 57, 37)))
    picture, paint = smooth(0), noise(1)
    result = compose(picture, Paint(paint), step, built("poisson"))
    np.testing.assert_array_equal(result[10, 60], paint[10, 60])
    np.testing.assert_array_equal(result[20:26, 50:90], paint[20:26, 50:90])
    for region in ((10, 10, 40, 40), (50, 30, 57, 37)):
        alone = compose(picture, Paint(paint), make_pass((region,)), built("poisson"))
        x0, y0, x1, y1 = region
        np.testing.assert_array_equal(result[y0:y1, x0:x1], alone[y0:y1, x0:x1])
        assert (alone != picture).any() and (alone != paint).any()


@modes
def test_a_binary_picture_stays_binary(mode):
    board, paint = np.full((2, HEIGHT, WIDTH, 3), 255, np.uint8)
    board[:, 45:] = 0
    paint[:, 40:] = 0
    result = compose(board, Paint(paint), make_pass(), built("poisson", mode=mode))
    np.testing.assert_array_equal(result[10:50, 20:70], paint[10:50, 20:70])


@modes
def test_a_texture_that_hides_the_seam_keeps_its_own_pixels(mode):
    result = compose(noise(0), Paint(noise(1)), make_pass(), built("poisson", mode=mode))
    np.testing.assert_array_equal(result[10:50, 20:70], noise(1)[10:50, 20:70])


def test_a_texture_of_another_brightness_or_spread_is_joined():
    dark, faint = (noise(1) // 3).astype(np.uint8), (noise(1) // 4 + 96).astype(np.uint8)
    for paint in (dark, faint):
        result = compose(noise(0), Paint(paint), make_pass(), built("poisson"))
        assert (result[10:50, 20:70] != paint[10:50, 20:70]).any()


def test_an_unknown_mode_names_the_known_ones():
    with pytest.raises(AugmentError, match="'normal' or 'mixed'"):
        COMPOSITES.member("poisson", {"mode": "monochrome"})


# reconstruct


def errors(result, picture, paint, mask):
    """Mean squared difference of the known pixels from the picture, of the unknown from the paint, grey levels²."""
    result, picture, paint = (image.astype(float) for image in (result, picture, paint))
    return np.square(result - picture)[~mask].mean(), np.square(result - paint)[mask].mean()


def test_reconstruct_brings_the_known_pixels_back_and_keeps_the_unknown(decoder):
    step = make_pass()
    mask, picture, paint = region_mask(step, FRAME), smooth(0), painted(decoder, step.shape)
    before, _ = errors(paint.image, picture, paint.image, mask)
    strong = {"iterations": 30, "learning_rate": 1e-3}
    full = errors(compose(picture, paint, step, built("reconstruct", **strong)), picture, paint.image, mask)
    lite = errors(compose(picture, paint, step, built("reconstruct", **strong, lite=True)), picture, paint.image, mask)
    assert full[0] < before / 2 and full[0] < lite[0] < before
    kept = errors(compose(picture, paint, step, built("reconstruct", **strong, weight=1)), picture, paint.image, mask)
    assert kept[1] < full[1] and kept[0] > full[0]  # what `weight` weighs


def test_reconstruct_by_hand(decoder):
    """Three steps written out: the loss, as the paper has it, and Adam's first moments."""
    import copy

    step = make_pass()
    picture, paint, mask = smooth(0), painted(decoder, step.shape), torch.from_numpy(region_mask(step, FRAME))
    copied = copy.deepcopy(decoder)
    copied.vae.decoder.requires_grad_(True)
    known, first = torch.from_numpy(picture / 127.5 - 1).permute(2, 0, 1).float(), copied.pixels(paint.latents).detach()
    optimizer = torch.optim.Adam(copied.vae.decoder.parameters(), lr=1e-2)
    mse = torch.nn.functional.mse_loss
    for _ in range(3):
        made = copied.pixels(paint.latents)
        loss = mse(made * mask, first * mask) + 100 * mse(made * ~mask, known * ~mask)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    result = compose(picture, paint, step, built("reconstruct", iterations=3, learning_rate=1e-2))
    np.testing.assert_allclose(result.astype(int), copied(paint.latents), atol=1)


def state(vae):
    values = {name: value.clone() for name, value in vae.state_dict().items()}
    flags = [(weight.requires_grad, weight.grad) for weight in vae.parameters()]
    return values, flags, [module.training for module in vae.modules()]


@pytest.mark.parametrize("lite", [False, True])
@pytest.mark.parametrize("kind", [TinyDecoder, BrokenDecoder])
def test_the_decoder_is_afterwards_as_it_was(kind, lite):
    decoder, step = kind(), make_pass()
    decoder.vae.encoder.train()
    decoder.vae.decoder.conv_in.weight.requires_grad_(True)
    paint = Paint(noise(1), painted(TinyDecoder(), step.shape).latents, decoder)
    weights = list(decoder.vae.parameters())
    before = state(decoder.vae)
    if kind is BrokenDecoder:
        with pytest.raises(RuntimeError, match="broken"):
            compose(noise(0), paint, step, built("reconstruct", iterations=3, lite=lite))
    else:
        compose(noise(0), paint, step, built("reconstruct", iterations=3, learning_rate=1, lite=lite))
    after = state(decoder.vae)
    assert all(torch.equal(before[0][name], after[0][name]) for name in before[0])
    assert before[1:] == after[1:]
    assert all(old is new for old, new in zip(weights, decoder.vae.parameters(), strict=True))


def test_too_little_memory_is_a_reason():
    paint = painted(BrokenDecoder(), (HEIGHT, WIDTH))
    paint.decoder.error = MemoryError
    with pytest.raises(PictureError, match=r"90×60.*lite: true") as raised:
        compose(noise(0), paint, make_pass(), built("reconstruct"))
    assert raised.value.reason == "out_of_memory"


def test_lite_tunes_the_middle_block_and_the_output_convolution_alone(monkeypatch):
    decoder, step, trained = TinyDecoder(), make_pass(), []
    paint = painted(decoder, step.shape)

    def pixels(latents):
        trained.append({name for name, weight in decoder.vae.named_parameters() if weight.requires_grad})
        return TinyDecoder.pixels(decoder, latents)

    monkeypatch.setattr(decoder, "pixels", pixels)
    compose(noise(0), paint, step, built("reconstruct", iterations=1, lite=True))
    assert {name.split(".")[1] for name in trained[-1]} == {"mid_block", "conv_out"}
    compose(noise(0), paint, step, built("reconstruct", iterations=1))
    assert trained[-1] == {name for name, _ in decoder.vae.named_parameters() if name.startswith("decoder.")}


@pytest.mark.parametrize("case", ["full frame", "nothing"])
def test_a_mask_of_all_or_nothing(decoder, case):
    step = CASES[case].model_copy(update={"shape": (HEIGHT, WIDTH)})
    picture, paint = smooth(0), painted(decoder, step.shape)
    result = compose(picture, paint, step, built("reconstruct", iterations=5, learning_rate=1e-3))
    if case == "full frame":  # nothing is known: the untuned decoder's picture
        np.testing.assert_allclose(result.astype(int), paint.image, atol=1)
    else:
        assert np.square(result.astype(float) - picture).mean() < np.square(paint.image.astype(float) - picture).mean()


@pytest.mark.parametrize("guard", [torch.no_grad, torch.inference_mode])
def test_it_runs_where_gradients_are_off(decoder, guard):
    step = make_pass()
    composite, paint = built("reconstruct", iterations=3), painted(decoder, step.shape)
    wanted = compose(noise(0), paint, step, composite)
    with guard():
        made = Paint(paint.image, paint.latents.clone(), decoder)
        np.testing.assert_array_equal(compose(noise(0), made, step, composite), wanted)
        assert not torch.is_grad_enabled()
    assert torch.is_grad_enabled() and not paint.latents.requires_grad


def test_it_leaves_no_graph_behind(decoder):
    step = make_pass()
    composite, paint = built("reconstruct", iterations=2), painted(decoder, step.shape)

    def tensors():
        gc.collect()
        return sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects())

    compose(noise(0), paint, step, composite)
    before = tensors()
    for _ in range(3):
        compose(noise(0), paint, step, composite)
    assert tensors() == before


def test_a_paint_without_latents_or_decoder_is_an_error(decoder):
    paint = painted(decoder, (HEIGHT, WIDTH))
    for other in (Paint(paint.image), Paint(paint.image, paint.latents), Paint(paint.image, None, decoder)):
        with pytest.raises(ValueError, match="latents and their decoder"):
            compose(noise(0), other, make_pass(), built("reconstruct"))
    assert COMPOSITES["reconstruct"].NEEDS_DECODER and not COMPOSITES["none"].NEEDS_DECODER


def test_a_decoder_that_diverges_is_an_error_and_no_black_picture(decoder):
    paint = painted(decoder, (HEIGHT, WIDTH))
    broken = Paint(paint.image, paint.latents * np.nan, decoder)
    with pytest.raises(ArithmeticError, match="learning_rate"):
        compose(noise(0), broken, make_pass(), built("reconstruct", iterations=1))
    assert all(torch.isfinite(weight).all() for weight in decoder.vae.parameters())


def test_the_canvas_is_what_the_painter_saw(decoder, monkeypatch):
    step, canvases = CASES["with mask and hole, scaled"], []
    composite = built("reconstruct", iterations=1)
    monkeypatch.setattr(
        type(composite), "repaint", lambda self, paint, step, canvas: canvases.append(canvas) or paint.image
    )
    compose(noise(0), painted(decoder, step.shape), step, composite)
    np.testing.assert_array_equal(canvases[0], canvas_of(noise(0), step))
