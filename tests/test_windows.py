"""What training sees: windows with exact boxes, texts, and the small arithmetic of the models."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lib.core.words import naming
from lib.figures.mini import named
from lib.scenes.warehouse import render
from lib.training.gligen import as_plain, kept_cells, make_unet
from lib.training.layout_loss import cell_owners
from lib.training.texts import clip_tokenizer, corpus, gpt2_tokenizer, listing
from lib.training.vae import decode, encode, make_vae, standardise, to_pictures
from lib.training.windows import Things, TrainingPicture, cut, mirrored, shrunk, squeezed, whole

torch.set_num_threads(1)


def marked(width: int, height: int, box: tuple[int, int, int, int]) -> TrainingPicture:
    """A black picture with one white box, whose label says where it is."""
    pixels = np.zeros((height, width, 3), np.uint8)
    x0, y0, x1, y1 = box
    pixels[y0:y1, x0:x1] = 255
    return TrainingPicture(pixels, "a box", Things(np.array([box], float), ("box",), ("a white box",)))


def white_box(pixels: np.ndarray) -> np.ndarray:
    """xyxy of what is white, pixels."""
    rows, columns = np.nonzero(pixels[..., 0] > 127)
    return np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])


@settings(max_examples=60)
@given(
    seed=st.integers(0, 10**6),
    width=st.integers(40, 200),
    height=st.integers(40, 200),
    data=st.data(),
)
def test_a_windows_box_lies_where_its_object_is_visible(seed, width, height, data):
    x0, y0 = data.draw(st.integers(0, width - 20)), data.draw(st.integers(0, height - 20))
    x1, y1 = data.draw(st.integers(x0 + 15, width)), data.draw(st.integers(y0 + 15, height))
    window = cut(marked(width, height, (x0, y0, x1, y1)), 64, np.random.default_rng(seed))
    assert window.pixels.shape == (64, 64, 3)
    visible = white_box(window.pixels) if window.pixels.any() else None
    if visible is not None and visible.min() > 0 and visible.max() < 64:
        assert len(window.things) == 1, "wholly inside"
    if len(window.things):
        scale = 64 / 40  # a picture of 40 pixels is enlarged so much at most
        assert np.abs(window.things.boxes[0] * 64 - white_box(window.pixels)).max() <= 1 + scale


def test_an_object_that_is_mostly_outside_is_not_listed():
    picture = marked(100, 40, (0, 0, 20, 40))
    assert len(whole(picture, 32).things) == 0  # the middle 40 × 40 pixels begin at x = 30
    assert len(whole(marked(100, 40, (40, 0, 60, 40)), 32).things) == 1


def test_a_squeezed_picture_shows_all_of_it():
    window = squeezed(marked(200, 100, (0, 20, 40, 60)), 50)
    assert np.allclose(window.things.boxes, [[0, 0.2, 0.2, 0.6]])
    assert np.array_equal(white_box(window.pixels), [0, 10, 10, 30])


@pytest.mark.parametrize("size", [32, 64, 100])
def test_a_square_picture_is_squeezed_to_what_its_middle_is(size):
    picture = marked(64, 64, (5, 10, 30, 50))
    one, other = whole(picture, size), squeezed(picture, size)
    assert np.array_equal(one.pixels, other.pixels) and np.array_equal(one.things.boxes, other.things.boxes)


def test_the_captioner_learns_from_the_full_frame():
    from lib.training.blip2 import SIZE, _view

    picture = marked(200, 100, (0, 0, 200, 100))
    for seed in range(10):
        pixels, things = _view(picture, np.random.default_rng(seed))
        assert pixels.shape == (SIZE, SIZE, 3) and np.allclose(things.boxes, [[0, 0, 1, 1]])
    aside = marked(200, 100, (0, 30, 30, 60))  # outside of the middle square
    assert all(len(_view(aside, np.random.default_rng(seed))[1]) == 1 for seed in range(10))


def test_no_more_is_painted_than_boxes_can_tell():
    many = Things(np.tile([0.0, 0, 0.5, 0.5], (50, 1)), ("box",) * 50, ("a box",) * 50)
    counts = [len(kept_cells(many, 8, np.random.default_rng(seed))[0]) for seed in range(40)]
    assert max(counts) == 30


def test_a_mirrored_window_mirrored_again_is_itself():
    window = whole(marked(64, 64, (5, 10, 30, 50)), 64)
    again = mirrored(mirrored(window))
    assert np.array_equal(again.pixels, window.pixels) and np.allclose(again.things.boxes, window.things.boxes)
    assert np.array_equal(white_box(mirrored(window).pixels), mirrored(window).things.boxes[0] * 64)


def test_a_large_picture_iskept_cells_small_with_its_boxes():
    pixels, boxes = shrunk(np.zeros((400, 600, 3), np.uint8), np.array([[60.0, 40, 120, 80]]), 100)
    assert pixels.shape == (100, 150, 3) and np.allclose(boxes, [[15, 10, 30, 20]])


def test_equal_draws_give_equal_windows():
    picture = marked(90, 80, (5, 10, 50, 60))
    a, b = (cut(picture, 64, np.random.default_rng(3)) for _ in range(2))
    assert np.array_equal(a.pixels, b.pixels) and np.array_equal(a.things.boxes, b.things.boxes)


@pytest.fixture(scope="module")
def texts():
    scenes = [render(seed, 64, 64) for seed in range(20)]
    things = [
        Things(np.zeros((len(s.objects), 4)), tuple(o.category for o in s.objects), tuple(o.phrase for o in s.objects))
        for s in scenes
    ]
    return corpus(TrainingPicture(s.image, s.caption, t) for s, t in zip(scenes, things, strict=True))


def test_common_words_are_single_tokens(texts):
    tokenizer = clip_tokenizer(texts)
    assert tokenizer.tokenize("a yellow forklift") == ["a</w>", "yellow</w>", "forklift</w>"]


@settings(max_examples=50)
@given(text=st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs")), max_size=12))
def test_any_text_can_be_spelled(text, spelling):
    clip, gpt2 = spelling
    assert clip.unk_token_id not in clip(text, add_special_tokens=False).input_ids
    assert gpt2.decode(gpt2(text).input_ids) == text


@pytest.fixture(scope="module")
def spelling(texts):
    return clip_tokenizer(texts), gpt2_tokenizer(texts)


def test_words_about_things():
    things = Things(np.zeros((3, 4)), ("a", "a", "b"), ("a red a", "a red a", "a b"))
    assert listing(things) == "a red a, a b"
    assert naming("orange") == "a photo of an orange" and naming("pallet truck") == "a photo of a pallet truck"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("two pallet trucks and a stack of boxes", {"pallet truck", "boxes"}),
        ("A pallet wrapped in film", {"pallet"}),
        ("a pallet truck and two pallets", {"pallet truck", "pallet"}),
        ("forkliftish palletry", set()),
    ],
)
def test_which_categories_a_caption_names(text, expected):
    assert named(text, ["forklift", "pallet", "boxes", "pallet truck"]) == expected


def test_standard_latents_leave_reconstructions_alone():
    torch.manual_seed(0)
    vae = make_vae(64).eval()
    pictures = [render(seed, 64, 64).image for seed in range(4)]
    with torch.no_grad():
        latents = torch.cat([encode(vae, [p], scaled=False) for p in pictures])
        before = vae.decode(latents).sample
        standardise(vae, latents)
        after = torch.cat([encode(vae, [p]) for p in pictures])
        again = vae.decode(after).sample
    assert torch.allclose(after.mean((0, 2, 3)), torch.zeros(4), atol=1e-5)
    assert torch.allclose(after.std((0, 2, 3)), torch.ones(4), atol=1e-4)
    assert torch.allclose(before, again, atol=1e-4)
    for made, expected in zip(decode(vae, after), to_pictures(before), strict=True):
        assert np.abs(made.astype(int) - expected).max() <= 1


def test_generation_is_inpainting_where_nothing_iskept_cells():
    torch.manual_seed(0)
    unet = make_unet(8, 16, channels=(32, 32, 32, 32)).eval()
    plain = as_plain(unet).eval()
    noise, text = torch.randn(2, 4, 8, 8), torch.randn(2, 5, 16)
    grounding = {
        "boxes": torch.rand(2, 30, 4),
        "masks": torch.ones(2, 30),
        "positive_embeddings": torch.randn(2, 30, 16),
    }
    nothing = torch.zeros(2, 5, 8, 8)
    with torch.no_grad():
        both = [
            net(inputs, 500, text, cross_attention_kwargs={"gligen": dict(grounding)}).sample
            for net, inputs in ((unet, torch.cat([noise, nothing], 1)), (plain, noise))
        ]
    assert torch.allclose(*both, atol=1e-5)


def test_each_cell_belongs_to_the_smallest_box_over_it_or_to_no_box():
    boxes = torch.tensor([[[0, 0, 1, 1], [0, 0, 0.5, 0.5], [0, 0, 1, 1]]])
    owners = cell_owners(boxes, torch.tensor([[1.0, 1.0, 0.0]]), 2)[0]
    assert owners.tolist() == [[False, True, False], *[[True, False, False]] * 3]
    nobody = cell_owners(boxes, torch.zeros(1, 3), 2)[0]
    assert nobody.all(), "without boxes all tokens stand for no box"
