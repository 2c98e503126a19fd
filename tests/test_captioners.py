"""Captioners: sentences from labels, texts of the data set, BLIP-2 on tiny random weights as it is really loaded."""

import importlib.util
import json
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import tiny_blip2, tiny_gligen

from lib.captioning.caption import caption_pictures, make_caption_form
from lib.captioning.captioners import CAPTIONERS, blip2
from lib.captioning.captioners.blip2 import Blip2, Blip2FlanT5, _eight_bit
from lib.captioning.captioners.given import Given
from lib.captioning.captioners.template import Template, sentence_of
from lib.core.checkpoints import resolve
from lib.core.errors import AugmentError
from lib.core.keys import key_of
from lib.core.words import article, plural
from lib.records.settings import CaptionSettings
from lib.records.store import Store


@pytest.mark.parametrize("name", CAPTIONERS)
def test_every_captioner_holds_the_contract(name):
    member = CAPTIONERS[name]
    assert isinstance(member.VERSION, int)
    assert member.LICENCE
    assert isinstance(member.NEEDS_PICTURES, bool)
    assert isinstance(member.NEEDS_RECORDS, bool)
    assert CAPTIONERS.settings(name, {}) == member.Settings()
    made = member(member.Settings(), resolve("org/name", {"org/name": "0" * 40}) if member.MODEL else None)
    assert made.batch_size >= 1
    assert made.caption([], []) == made.caption([], [], []) == []


@pytest.mark.parametrize("name", [name for name in CAPTIONERS if CAPTIONERS[name].MODEL is None])
def test_every_captioner_without_a_model_says_one_thing_a_picture(name):
    member = CAPTIONERS[name]
    records = [b'{"id": 1, "caption": "a dog"}', b'{"id": 2, "caption": "a cat"}']
    captions = member(member.Settings()).caption([None, None], [["dog"], ["cat"]], records)
    assert captions == ["a dog", "a cat"]


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
    assert sentence_of(labels) == sentence
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


# --- texts of the data set ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("a dog", "a dog"),
        ("  a dog\n", "a dog"),
        ("ein gr\u00fcner Hund", "ein gr\u00fcner Hund"),
        (["a dog", "a cat"], "a dog"),
        ([" ", 7, None, "a cat"], "a cat"),
        ("", None),
        (" \n", None),
        ([], None),
        ([["a dog"]], None),
        ([{"caption": "a dog"}], None),
        (None, None),
        (7, None),
        (True, None),
        ({"en": "a dog"}, None),
    ],
)
def test_given_says_the_text_or_the_first_of_a_list(value, text):
    record = json.dumps({"id": 1, "caption": value, "other": {"caption": "no"}}).encode()
    assert Given(Given.Settings()).caption([None], [["dog"]], [record]) == [text]


def test_given_reads_the_field_of_its_settings():
    record = json.dumps({"id": 1, 'a "text"': "a dog", "caption": "a cat"}).encode()
    assert Given(Given.Settings(field='a "text"')).caption([None], [[]], [record]) == ["a dog"]
    assert Given(Given.Settings(field="none")).caption([None], [[]], [record]) == [None]
    assert Given(Given.Settings()).caption([None], [[]], [None]) == [None]


def selected(*labels):
    """SelectRows as the stage reads them, as far as it looks."""
    rows = [
        {"key": str(i), "file_name": f"{i}.jpg", "digest": f"d{i}", "frame": "upright", "width": 40, "height": 30}
        for i in range(len(labels))
    ]
    return pd.DataFrame(rows).assign(labels=list(labels))


def stage(tmp_path, rows, records=None, name="given", **values):
    """CaptionRows by key."""
    chosen = CAPTIONERS.member(name, values.pop("settings", {}))
    form = make_caption_form(CaptionSettings(captioner=name, **values), chosen)
    texts = None if records is None else {key: json.dumps(record).encode() for key, record in records.items()}
    captioned = caption_pictures(rows, form, Store(tmp_path), no_picture, CAPTIONERS.build(chosen), records=texts)
    return {row.key: row for row in captioned}


def no_picture(digest, frame):
    raise AssertionError("the captioner sees no pictures")


def test_a_picture_without_a_text_is_a_row_with_a_reason(tmp_path):
    records = {"0": {"caption": "a dog"}, "1": {"caption": " "}, "2": {"id": 2}}
    for reused in (False, True):
        rows = stage(tmp_path, selected([], ["cat"], []), records)
        assert [rows[key].reason for key in "012"] == ["", "caption_missing", "caption_missing"]
        assert [rows[key].prompt for key in "012"] == ["a dog", "", ""]
        assert "1.jpg" in rows["1"].detail and all(row.reused is reused for row in rows.values())


def test_rules_and_the_prompts_form_apply_to_given_texts(tmp_path):
    records = {"0": {"caption": "a bird on\na rock"}, "1": {"caption": "an aquarium"}}
    rows = stage(tmp_path, selected(["puffin"], ["shark"]), records, rules="s3", prompt="{caption}, {label}, {width}")
    assert (rows["0"].raw, rows["0"].prompt) == ("a bird on\na rock", "puffin on a rock, puffin, 40")
    assert (rows["1"].reason, rows["1"].detail) == ("label_missing", "an aquarium")


def test_a_changed_text_is_captioned_anew_and_others_are_not(tmp_path):
    records = {"0": {"caption": "a dog"}, "1": {"caption": "a cat"}}
    stage(tmp_path, selected([], []), records)
    rows = stage(tmp_path, selected([], []), records | {"1": {"caption": "a cow"}})
    assert [(rows[key].caption, rows[key].reused) for key in "01"] == [("a dog", True), ("a cow", False)]


def test_another_field_is_another_caption(tmp_path):
    records = {"0": {"caption": "a dog", "title": "Rex"}}
    assert stage(tmp_path, selected([]), records)["0"].caption == "a dog"
    assert stage(tmp_path, selected([]), records, settings={"field": "title"})["0"].caption == "Rex"


def test_records_are_not_part_of_the_key_where_they_are_not_read(tmp_path):
    assert not stage(tmp_path, selected(["cat"]), name="template")["0"].reused
    assert stage(tmp_path, selected(["cat"]), {"0": {"caption": "a dog"}}, name="template")["0"].reused
    key = key_of("caption", "d0", "upright", ["cat"], CAPTIONERS.member("template", {}).identity())
    assert Store(tmp_path).get("caption", key) == b'"a cat"'


# --- BLIP-2 ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
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
    assert together == blip._captions(PICTURES)  # in one batch, as on a GPU
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


def test_blip2_remembers_the_batch_that_fitted(folders, monkeypatch):
    """On a GPU: a CPU takes one at a time anyway."""
    loaded, sizes = captioner(Blip2, folders["opt"], batch_size=4), []

    def tight(pictures):
        sizes.append(len(pictures))
        if len(pictures) > 1:
            raise torch.OutOfMemoryError("full")
        return ["a cat"]

    monkeypatch.setattr(blip2, "device", lambda: torch.device("cuda"))
    monkeypatch.setattr(loaded, "_captions", tight)
    for _ in range(2):
        assert loaded.caption([np.zeros((20, 30, 3), np.uint8)] * 3, [["cat"]] * 3) == ["a cat"] * 3
    assert sizes == [4, 2, 1, 1, 1, 1, 1, 1]


def test_blip2_without_a_picture_is_a_value_error(folders):
    with pytest.raises(ValueError, match="template"):
        captioner(Blip2, folders["opt"]).caption([None], [[]])


def test_blip2_refuses_a_checkpoint_that_does_not_name_its_image_token(folders, tmp_path):
    folder = tiny_blip2(tmp_path / "old")
    config = folder / "config.json"
    config.write_text(config.read_text().replace('"image_token_index": ', '"image_token_index": null, "was": '))
    with pytest.raises(AugmentError, match="image_token_index None"):
        captioner(Blip2, folder).caption(PICTURES[:1], [[]])


@LANGUAGES
def test_blip2_refuses_weights_that_lack_a_tensor(tmp_path, kind, language):
    folder = tiny_blip2(tmp_path / "cut", language)
    (file,) = folder.glob("*.safetensors")
    tensors = load_file(file)
    tensors.pop(next(name for name in sorted(tensors) if "qformer" in name))
    save_file(tensors, file, {"format": "pt"})
    with pytest.raises(AugmentError, match=r"lack 1 tensors \(qformer"):
        captioner(kind, folder).caption([np.zeros((20, 30, 3), np.uint8)], [["cat"]])


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
