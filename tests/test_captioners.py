"""Captioners: sentences from labels, and BLIP-2 on tiny random weights through the real loading code."""

import importlib.util
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tiny import tiny_blip2, tiny_gligen

from lib.captioners import CAPTIONERS, blip2
from lib.captioners.blip2 import Blip2, Blip2FlanT5, _eight_bit
from lib.captioners.template import Template, article, plural, say
from lib.errors import AugmentError
from lib.models import resolve


@pytest.mark.parametrize("name", CAPTIONERS)
def test_every_captioner_holds_the_contract(name):
    member = CAPTIONERS[name]
    assert isinstance(member.VERSION, int)
    assert member.LICENCE
    assert isinstance(member.SEES, bool)
    assert CAPTIONERS.settings(name, {}) == member.Settings()
    made = member(member.Settings(), resolve("org/name", {"org/name": "0" * 40}) if member.MODEL else None)
    assert made.batch_size >= 1
    assert made.caption([], []) == []


@pytest.mark.parametrize(
    ("labels", "sentence"),
    [
        ([], "an empty scene"),
        (["forklift"], "a forklift"),
        (["pallet", "forklift", "pallet"], "a forklift and two pallets"),
        (["person", "person", "box", "apple"], "an apple, a box and two people"),
        (["small_load_carrier"] * 3, "three small load carriers"),
        (["fish"] * 12 + ["shark"], "twelve fish and a shark"),
        (["bird"] * 13, "13 birds"),
        (["scissors", "bus", "bus"], "two buses and scissors"),
        (["pallet truck", "pallet_truck"], "two pallet trucks"),
    ],
)
def test_a_sentence_counts_the_labels_in_words(labels, sentence):
    assert say(labels) == sentence
    assert Template(Template.Settings()).caption([None], [labels[::-1]]) == [sentence]


@pytest.mark.parametrize(
    ("one", "many"),
    [
        ("wine glass", "wine glasses"),
        ("sandwich", "sandwiches"),
        ("toothbrush", "toothbrushes"),
        ("battery", "batteries"),
        ("toy", "toys"),
        ("knife", "knives"),
        ("mouse", "mice"),
        ("starfish", "starfish"),
        ("jellyfish", "jellyfish"),
        ("stingray", "stingrays"),
        ("fireman", "firemen"),
        ("human", "humans"),
        ("sheep", "sheep"),
        ("box", "boxes"),
        ("Person", "People"),
    ],
)
def test_plurals_are_english(one, many):
    assert plural(one) == many


@pytest.mark.parametrize(
    ("noun", "expected"),
    [
        ("oven", "an"),
        ("umbrella", "an"),
        ("unicycle", "a"),
        ("uninhabited hut", "an"),
        ("hourglass", "an"),
        ("bus", "a"),
    ],
)
def test_articles_follow_the_sound(noun, expected):
    assert article(noun) == expected


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("blip2")
    return {language: tiny_blip2(root / language, language) for language in ("opt", "t5")}


PICTURES = [
    np.random.default_rng(i).integers(0, 255, (20 + 7 * i, 30, 3), dtype=np.uint8) // (1 + 2 * i) for i in range(4)
]
LANGUAGES = pytest.mark.parametrize(("kind", "language"), [(Blip2, "opt"), (Blip2FlanT5, "t5")])


def captioner(kind, folder, **settings):
    return kind(kind.Settings(**{"max_new_tokens": 8, **settings}), resolve(str(folder), {}))


@LANGUAGES
def test_blip2_says_words_of_each_picture_of_any_size_whatever_its_neighbours(folders, kind, language):
    blip = captioner(kind, folders[language])
    together = blip.caption(PICTURES, [["fish"]] * 4)
    assert together == [blip.caption([picture], [[]])[0] for picture in PICTURES]
    assert together[::-1] == blip.caption(PICTURES[::-1], [[]] * 4)
    assert together == blip._say(PICTURES)  # in one batch, as on a GPU
    assert len(set(together)) > 1
    assert all(text == text.strip() and "<" not in text for text in together)
    assert all(len(text.split()) <= 8 for text in together)
    assert any(together)


@LANGUAGES
def test_blip2_draws_nothing_and_says_the_same_on_another_day(folders, kind, language):
    state = torch.get_rng_state()
    first, second = (captioner(kind, folders[language]).caption(PICTURES, [[]] * 4) for _ in range(2))
    assert first == second
    assert torch.equal(state, torch.get_rng_state())


def test_blip2_takes_a_picture_three_pixels_high(folders):
    assert len(captioner(Blip2, folders["opt"]).caption([np.zeros((3, 9, 3), dtype=np.uint8)], [[]])) == 1


def test_blip2_without_a_picture_is_a_value_error(folders):
    with pytest.raises(ValueError, match="template"):
        captioner(Blip2, folders["opt"]).caption([None], [[]])


def test_blip2_refuses_a_checkpoint_that_does_not_name_its_image_token(folders, tmp_path):
    folder = tiny_blip2(tmp_path / "old")
    config = folder / "config.json"
    config.write_text(config.read_text().replace('"image_token_index": ', '"image_token_index": null, "was": '))
    with pytest.raises(AugmentError, match="image_token_index None"):
        captioner(Blip2, folder).caption(PICTURES[:1], [[]])


def test_blip2_refuses_another_kind_of_checkpoint(tmp_path):
    with pytest.raises(AugmentError, match=r"no config\.json"):
        captioner(Blip2, tiny_gligen(tmp_path / "gligen")).caption(PICTURES[:1], [[]])


def test_eight_bit_weights_are_for_small_gpus_and_need_bitsandbytes(monkeypatch):
    assert not _eight_bit("auto")
    with pytest.raises(AugmentError, match="needs a GPU"):
        _eight_bit("8bit")
    monkeypatch.setattr(blip2, "device", lambda: torch.device("cuda"))
    memory = {"bytes": 24e9}
    monkeypatch.setattr(
        torch.cuda, "get_device_properties", lambda index: SimpleNamespace(total_memory=memory["bytes"])
    )
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert not _eight_bit("auto")
    memory["bytes"] = 12e9
    assert not _eight_bit("no")
    with pytest.raises(AugmentError, match=r"pip install 'augment\[quantize\]'"):
        _eight_bit("auto")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    assert _eight_bit("auto")
