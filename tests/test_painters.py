"""Which model fills it; every registered painter is held to the contract, with tiny weights where it needs some."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lib.core.checkpoints import ModelRef, resolve
from lib.core.errors import AugmentError
from lib.core.registry import MemberSettings
from lib.painting.composites import COMPOSITES, compose
from lib.painting.painters import PAINTERS, PassInput
from lib.painting.painters.copy_paste import CopyPaste
from lib.planning.edits import EDITS
from lib.records.requests import Donor, Pass

TINY = {"steps": 4, "size": 64}  # settings of painters with a model: 64 × 64 pixels in a blink
NO_RANDOMNESS = {name for name in PAINTERS if PAINTERS[name].MODEL is None}  # plan drew
every_painter = pytest.mark.parametrize("name", sorted(PAINTERS))


@pytest.fixture(scope="module")
def painters(checkpoints):
    """Every painter, built as a run builds it."""
    made = {}
    for name in PAINTERS:
        ref = resolve(str(checkpoints[name]), {}) if PAINTERS[name].MODEL else None
        made[name] = PAINTERS.build(PAINTERS.member(name, TINY if ref else {}, ref))
    return made


def noise(seed, height=64, width=64):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def item(name, seed=1, box=(16, 8, 48, 40), canvas=None, donor=None, flip=False, mask=None, boxes=None):
    """A pass whose window is the canvas, at the painter's shape for it."""
    canvas = noise(9) if canvas is None else canvas
    height, width = canvas.shape[:2]
    needs = PAINTERS[name].NEEDS_DONOR
    donor = noise(3, 20, 20) if donor is None and needs else donor
    planned = None
    if needs:
        crop = (0, 0, donor.shape[1], donor.shape[0])
        planned = Donor(annotation="9", digest="d", box=crop, frame="upright", flip=flip, polygon=None)
    if mask is None:
        mask = np.zeros((height, width), bool)
        mask[box[1] : box[3], box[0] : box[2]] = True
    boxes = (box,) if boxes is None else boxes
    step = Pass(
        window=(0, 0, width, height),
        shape=(height, width),
        region=(box,),
        boxes=boxes,
        phrases=("a fish",) * len(boxes),
        prompt="the sea",
        negative_prompt="",
        seed=seed,
        donor=planned,
    )
    return PassInput(step, canvas, mask, donor)


def paint(painter, *items):
    return [made.image for made in painter.paint(list(items))]


# The contract


@every_painter
def test_a_member_declares_what_plan_and_presets_need(name):
    member = PAINTERS[name]
    assert isinstance(member.VERSION, int) and member.VERSION >= 1
    assert member.EDITS and set(member.EDITS) <= set(EDITS)
    assert member.LICENCE and isinstance(member.LICENCE, str)
    assert member.MAX_BOXES is None or member.MAX_BOXES >= 1
    assert isinstance(member.NEEDS_DONOR, bool) and (hasattr(member, "fits") or not member.NEEDS_DONOR)
    assert isinstance(member.HAS_DECODER, bool) and hasattr(member, "decoder") == member.HAS_DECODER
    assert (member.MODEL is None) == (member.LICENCE == "none needed")
    assert issubclass(member.Settings, MemberSettings)


@every_painter
def test_a_bare_name_builds_without_anything_heavy(name):
    ref = ModelRef("org/never-downloaded", "0" * 40, Path("/nowhere")) if PAINTERS[name].MODEL else None
    assert PAINTERS.build(PAINTERS.member(name, {}, ref)).batch_size >= 1


@every_painter
def test_unknown_settings_are_refused_with_the_known_ones(name):
    with pytest.raises(AugmentError) as error:
        PAINTERS.member(name, {"stepz": 3})
    assert "'stepz'" in str(error.value) and all(k in str(error.value) for k in PAINTERS[name].Settings.model_fields)


@every_painter
def test_a_chosen_member_travels_as_json(name):
    member = PAINTERS.member(name, {})
    assert type(member).model_validate(json.loads(member.model_dump_json())) == member


@every_painter
@given(width=st.integers(1, 4000), height=st.integers(1, 4000))
def test_any_window_has_a_shape_that_can_be_painted(name, width, height):
    rows, columns = PAINTERS[name].shape(PAINTERS[name].Settings(), width, height)
    assert isinstance(rows, int) and isinstance(columns, int) and rows >= 1 and columns >= 1


@every_painter
def test_the_paint_has_the_size_of_the_pass(painters, name):
    for canvas in (noise(9), noise(9, 64, 128)):
        (image,) = paint(painters[name], item(name, canvas=canvas))
        assert image.shape == canvas.shape and image.dtype == np.uint8


@every_painter
def test_the_same_pass_gives_the_same_paint(painters, name):
    np.testing.assert_array_equal(*paint(painters[name], item(name)), *paint(painters[name], item(name)))


@every_painter
def test_another_seed_gives_another_paint_where_the_painter_is_random(painters, name):
    (one,), (two,) = paint(painters[name], item(name, 1)), paint(painters[name], item(name, 2))
    assert np.array_equal(one, two) == (name in NO_RANDOMNESS)


@every_painter
def test_paints_come_in_the_order_of_their_passes(painters, name):
    canvases = [noise(20), noise(21), noise(22)]
    items = [item(name, seed, canvas=canvas) for seed, canvas in enumerate(canvases)]
    alone = [paint(painters[name], one)[0] for one in items]
    for together, single in zip(paint(painters[name], *items), alone, strict=True):
        np.testing.assert_array_equal(together, single)


@every_painter
def test_canvas_mask_and_donor_are_not_written_to(painters, name):
    work, untouched = item(name), item(name)
    paint(painters[name], work)
    for pixels in ("canvas", "mask", "donor"):
        np.testing.assert_array_equal(getattr(work, pixels), getattr(untouched, pixels))


@every_painter
def test_something_is_painted_in_the_box(painters, name):
    work = item(name)
    (image,) = paint(painters[name], work)
    assert (image != work.canvas)[work.mask].any()


@pytest.mark.parametrize("where", [(), (slice(None), slice(None)), (21, 43)], ids=["nothing", "everything", "a pixel"])
@every_painter
def test_any_mask_can_be_painted(painters, name, where):
    mask = np.zeros((64, 64), bool)
    if where:
        mask[where] = True
    (image,) = paint(painters[name], item(name, mask=mask))
    assert image.shape == (64, 64, 3) and image.dtype == np.uint8


@every_painter
def test_any_number_of_boxes_is_painted_or_refused_whole(painters, name):
    most = PAINTERS[name].MAX_BOXES
    for count in (0, 1, 2, 7, 30, 31):
        work = item(name, boxes=((16, 8, 48, 40),) * count)
        if most is None or count <= most:
            assert paint(painters[name], work)[0].shape == (64, 64, 3)
        else:
            with pytest.raises(ValueError, match=f"{count}"):
                paint(painters[name], work)


@every_painter
def test_latents_and_decoder_come_where_they_are_declared_and_give_the_paint_again(painters, name):
    (made,) = painters[name].paint([item(name, canvas=noise(9, 64, 128))])
    if not PAINTERS[name].HAS_DECODER:
        assert made.latents is None and made.decoder is None
        return
    assert made.latents.dtype == torch.float32 and made.latents.device.type == "cpu" and made.latents.ndim == 3
    again = painters[name].decoder()
    for decoder in (made.decoder, again):
        np.testing.assert_array_equal(decoder(made.latents), made.image)
        pixels = decoder.pixels(made.latents)
        assert pixels.shape == (3, 64, 128) and pixels.dtype == torch.float32
        byte = (pixels.permute(1, 2, 0) / 2 + 0.5).clamp(0, 1).mul(255).round()
        np.testing.assert_array_equal(byte.detach().numpy(), made.image)


@every_painter
def test_a_decoder_can_be_tuned_and_is_left_frozen(painters, name):
    """Composite `reconstruct` does so: gradients reach the latents, and weights that require them."""
    if not PAINTERS[name].HAS_DECODER:
        return
    decoder = painters[name].decoder()
    weights = list(decoder.vae.decoder.parameters())
    assert not any(weight.requires_grad for weight in decoder.vae.parameters())
    latents = torch.zeros(decoder.vae.config.latent_channels, 8, 8, requires_grad=True)
    weights[-1].requires_grad_(True)
    decoder.pixels(latents).square().mean().backward()
    assert latents.grad.abs().sum() > 0 and weights[-1].grad.abs().sum() > 0
    weights[-1].requires_grad_(False).grad = None


@every_painter
def test_no_global_random_number_is_drawn(painters, name):
    # Not those of Python's own `random`: a server that another test left running draws from them.
    before = torch.get_rng_state(), np.random.get_state()[1].tolist()
    paint(painters[name], item(name))
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.random.get_state()[1].tolist() == before[1]


# copy-paste


def plain(**values):
    return CopyPaste(CopyPaste.Settings(**{"tone": 0, **values}))


SIDES = st.integers(1, 40)


@given(st.integers(0, 30), st.integers(0, 30), st.integers(1, 34), st.integers(1, 34), SIDES, SIDES, st.booleans())
@settings(max_examples=60)
def test_a_donor_fills_the_box_exactly_and_nothing_else(x, y, w, h, wide, high, flip):
    canvas, red = np.zeros((64, 64, 3), np.uint8), np.full((high, wide, 3), (200, 10, 10), np.uint8)
    work = item("copy-paste", box=(x, y, x + w, y + h), canvas=canvas, donor=red, flip=flip)
    (image,) = paint(plain(), work)
    np.testing.assert_array_equal((image == (200, 10, 10)).all(axis=2), work.mask)
    np.testing.assert_array_equal(image[~work.mask], canvas[~work.mask])


def test_a_donor_of_the_boxs_size_keeps_its_pixels():
    donor = noise(4, 32, 32)
    (image,) = paint(plain(), item("copy-paste", donor=donor))
    np.testing.assert_array_equal(image[8:40, 16:48], donor)


def test_a_window_beyond_the_frame_and_off_its_origin_does_not_matter():
    work = item("copy-paste", donor=noise(4, 32, 32))
    shift = {"window": (-10, 100, 54, 164), "region": ((6, 108, 38, 140),)}
    moved = PassInput(work.step.model_copy(update=shift), work.canvas, work.mask, work.donor)
    np.testing.assert_array_equal(*paint(plain(), work), *paint(plain(), moved))


def test_a_flipped_donor_is_mirrored_left_to_right():
    donor = noise(4, 32, 32)
    (image,) = paint(plain(), item("copy-paste", donor=donor, flip=True))
    np.testing.assert_array_equal(image[8:40, 16:48], donor[:, ::-1])


def test_a_smaller_donor_grows_and_a_larger_one_shrinks_without_shifting():
    halves = np.zeros((16, 16, 3), np.uint8)
    halves[:, 8:] = 255
    for donor in (halves, halves.repeat(4, 0).repeat(4, 1)):
        (image,) = paint(plain(), item("copy-paste", donor=donor))
        assert (image[8:40, 16:30] < 40).all() and (image[8:40, 34:48] > 215).all()


@pytest.mark.parametrize(("tone", "expected"), [(0, 60), (0.5, 110), (1, 160)])
def test_tone_moves_the_donors_brightness_towards_its_new_place(tone, expected):
    canvas, donor = np.full((64, 64, 3), 160, np.uint8), np.full((20, 20, 3), 60, np.uint8)
    (image,) = paint(plain(tone=tone), item("copy-paste", canvas=canvas, donor=donor))
    assert (image[8:40, 16:48] == expected).all()


def test_tone_measures_the_place_and_not_what_lies_around_it():
    canvas = np.zeros((64, 64, 3), np.uint8)
    canvas[8:40, 16:48] = 160
    (image,) = paint(plain(tone=1), item("copy-paste", canvas=canvas, donor=np.full((20, 20, 3), 60, np.uint8)))
    assert (image[8:40, 16:48] == 160).all()


def test_tone_keeps_values_in_range():
    canvas, donor = np.full((64, 64, 3), 255, np.uint8), noise(4, 32, 32)
    (image,) = paint(plain(tone=1), item("copy-paste", canvas=canvas, donor=donor))
    assert (image[8:40, 16:48] >= donor).all()  # brighter everywhere: nothing wrapped around


@pytest.mark.parametrize("tone", [0.5, 1])
def test_tone_keeps_black_black_and_white_white(tone):
    donor = np.zeros((32, 32, 3), np.uint8)
    donor[8:20, 8:20] = 255
    canvas = np.full((64, 64, 3), 200, np.uint8)
    (image,) = paint(plain(tone=tone), item("copy-paste", canvas=canvas, donor=donor))
    np.testing.assert_array_equal(image[8:40, 16:48], donor)


def test_the_hue_of_a_donor_is_turned_by_its_pass_and_grey_stays_grey():
    donor = np.zeros((20, 20, 3), np.uint8)
    donor[:10], donor[10:] = (200, 80, 40), 128
    images = [paint(plain(hue=180), item("copy-paste", seed=seed, donor=donor))[0][8:40, 16:48] for seed in range(8)]
    assert len({tuple(image[2, 2].tolist()) for image in images}) == 8
    assert all((np.abs(image[-3:].astype(int) - 128) <= 1).all() for image in images)
    for image in images:  # as light as before, on the whole
        assert abs(image[2, 2] @ [0.2126, 0.7152, 0.0722] - np.array([200, 80, 40]) @ [0.2126, 0.7152, 0.0722]) < 30


def test_without_hue_a_result_keeps_the_key_that_it_had_before_there_was_one():
    assert "hue" not in PAINTERS.member("copy-paste", {}).settings
    assert PAINTERS.member("copy-paste", {"hue": 30}).settings["hue"] == 30


def cut_item(donor, outline=((8.0, 8.0, 24.0, 8.0, 24.0, 24.0, 8.0, 24.0),)):
    """A pass that pastes of a donor of 32 x 32 pixels what its outline encloses, into a place of the same size."""
    canvas = np.full((64, 64, 3), 40, np.uint8)
    work = item("copy-paste", canvas=canvas, donor=donor)
    planned = work.step.donor.model_copy(update={"outline": outline})
    return PassInput(work.step.model_copy(update={"donor": planned}), canvas, work.mask, donor)


def test_an_object_with_an_outline_is_cut_along_it_softly():
    (made,) = plain().paint([cut_item(noise(3, 32, 32))])
    place = made.alpha[8:40, 16:48]
    assert (place[10:22, 10:22] == 255).all() and not place[:6].any() and not place[:, 26:].any()
    assert 0 < place[8, 12] < 255  # the rim
    assert not made.alpha[:8].any() and not made.alpha[:, :16].any()


def test_a_cut_out_is_lit_as_what_surrounds_its_new_place():
    donor = np.full((32, 32, 3), 90, np.uint8)
    donor[8:24, 8:24] = 200
    (before,), (after,) = (plain(tone=tone).paint([cut_item(donor)]) for tone in (0, 1))
    assert before.image[24, 32, 0] == 200 and 150 < after.image[24, 32, 0] < 190  # the canvas is darker than the donor


@pytest.mark.parametrize("name", ["paste", "feather", "poisson"])
def test_a_cut_out_leaves_every_pixel_beside_it_as_it_was(name):
    work = cut_item(noise(3, 32, 32))
    (made,) = plain().paint([work])
    result = compose(work.canvas, made, work.step, COMPOSITES.build(COMPOSITES.member(name, {})))
    np.testing.assert_array_equal(result[made.alpha == 0], work.canvas[made.alpha == 0])
    assert (result[20:28, 28:36] != work.canvas[20:28, 28:36]).any()


def test_what_is_pasted_with_its_surroundings_is_lit_by_them_and_keeps_its_contrast():
    donor = np.full((64, 64, 3), 160, np.uint8)
    donor[16:48, 16:48] = 40
    work = item("copy-paste", canvas=np.full((64, 64, 3), 160, np.uint8), donor=donor)
    planned = work.step.donor.model_copy(update={"box": (16, 16, 48, 48)})
    for around, expected in ((True, 40), (False, 160)):
        step = work.step.model_copy(update={"donor": planned.model_copy(update={"around": around})})
        (made,) = plain(tone=1).paint([PassInput(step, work.canvas, work.mask, donor)])
        assert (made.image[8:40, 16:48] == expected).all()


def test_a_donor_in_a_free_place_keeps_its_aspect():
    sizes = CopyPaste.within(CopyPaste.Settings(), 100, 60, np.array([[50, 10], [10, 60], [20, 20]], float))
    np.testing.assert_allclose(sizes, [[100, 20], [10, 60], [40, 40]])


def test_a_pass_without_a_donor_is_refused():
    work = item("copy-paste")
    with pytest.raises(ValueError, match="without a donor"):
        plain().paint([PassInput(work.step, work.canvas, work.mask, None)])


def fits(box, donor, **values):
    (fitting,) = CopyPaste.fits(CopyPaste.Settings(**values), *box, np.array([donor], float))
    return bool(fitting)


def test_a_donor_may_grow_so_far_and_no_further():
    assert fits((200, 100), (100, 50)) and not fits((201, 100), (100, 50))
    assert fits((300, 150), (100, 50), max_upscale=3)


def test_a_donor_may_shrink_as_far_as_it_must():
    assert fits((2, 1), (2000, 1000))


def test_a_donors_aspect_may_change_so_far_and_no_further():
    assert fits((150, 100), (200, 200)) and not fits((151, 100), (200, 200))
    assert fits((100, 150), (200, 200)) and not fits((100, 151), (200, 200))
    assert not fits((150, 100), (200, 200), max_stretch=1)


@given(st.tuples(SIDES, SIDES), st.lists(st.tuples(SIDES, SIDES), min_size=1, max_size=9))
def test_donors_are_judged_each_for_itself(box, donors):
    fitting = CopyPaste.fits(CopyPaste.Settings(), *box, np.array(donors, float))
    assert fitting.tolist() == [fits(box, donor) for donor in donors]


@given(SIDES, SIDES)
def test_an_object_of_the_same_size_always_fits(width, height):
    assert fits((width, height), (width, height), max_upscale=1, max_stretch=1)
