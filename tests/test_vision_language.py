"""vision-language: models that answer a text about a picture, as they are loaded and asked, on tiny random weights."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from test_captioners import selected
from test_journey import run
from tiny import tiny_blip2, tiny_clip, tiny_vision_language

from lib.captioning.caption import caption_key, caption_pictures, make_caption_form
from lib.captioning.captioners import CAPTIONERS
from lib.captioning.captioners.vision_language import _asked
from lib.core.checkpoints import resolve
from lib.core.errors import AugmentError
from lib.records.settings import CaptionSettings
from lib.records.store import Store

NAME = "vision-language"
PICTURES = [np.random.default_rng(i).integers(0, 255, (20 + 7 * i, 30, 3), dtype=np.uint8) for i in range(3)]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A model with a chat form, and one that receives the question as it is."""
    root = tmp_path_factory.mktemp("vision")
    return {"chat": tiny_vision_language(root / "chat"), "plain": tiny_blip2(root / "plain", "t5")}


def captioner(folder, **settings):
    return CAPTIONERS.build(CAPTIONERS.member(NAME, {"max_new_tokens": 8, **settings}, resolve(str(folder), {})))


@pytest.mark.parametrize("kind", ["chat", "plain"])
def test_each_picture_has_its_own_words_whatever_its_neighbours(folders, kind):
    made = captioner(folders[kind], question="the boat")
    together = made.caption(PICTURES, [["fish"]] * 3)
    assert together == [made.caption([picture], [["fish"]])[0] for picture in PICTURES]
    assert len(set(together)) > 1 and all(text == " ".join(text.split()) for text in together)
    assert not any("Describe" in text or "user" in text for text in together)


def test_it_draws_nothing_and_says_the_same_on_another_day(folders):
    state = torch.get_rng_state()
    first, second = (captioner(folders["chat"]).caption(PICTURES, [[]] * 3) for _ in range(2))
    assert first == second and torch.equal(state, torch.get_rng_state())


def test_the_labels_are_part_of_the_question_and_of_the_captions_key(folders):
    made = captioner(folders["chat"], question="What surrounds {labels}?")
    assert made.caption(PICTURES[:1], [["car"]]) != made.caption(PICTURES[:1], [["dog"]])

    def keys(question):
        identity = {"name": "vision-language", "version": 1, "settings": {"question": question}}
        rows = [SimpleNamespace(digest="d", frame="upright", labels=[name]) for name in ("car", "dog")]
        return [caption_key(row, made, identity, None) for row in rows]

    car, dog = keys("What surrounds {labels}?")
    assert car != dog
    car, dog = keys("Describe the picture.")
    assert car == dog, "labels that are not in the question change nothing of the answer"


def test_the_question_stands_in_the_models_own_chat_form_or_as_it_is(folders):
    loaded = captioner(folders["chat"])
    loaded.caption(PICTURES[:1], [[]])
    asked = _asked(loaded._loaded.processor, "What?")
    assert asked == "<|im_start|>user <|vision_start|><|image_pad|><|vision_end|>What?<|im_end|>"
    assert _asked(SimpleNamespace(chat_template=None), "<CAPTION>") == "<CAPTION>"


@pytest.mark.parametrize(
    ("question", "words"),
    [("", "at least 1 character"), ("{label}?", r"\{label\} is not known"), ("{labels", r"write \{labels\}")],
)
def test_a_question_that_cannot_be_asked_is_refused(question, words):
    with pytest.raises(AugmentError, match=words):
        CAPTIONERS.member(NAME, {"question": question})


def test_a_model_that_answers_no_questions_is_refused(tmp_path):
    with pytest.raises(AugmentError, match="a clip answers no question about a picture"):
        captioner(tiny_clip(tmp_path / "clip")).caption(PICTURES[:1], [[]])


def test_weights_that_lack_a_tensor_are_refused(tmp_path):
    folder = tiny_vision_language(tmp_path / "cut")
    (file,) = folder.glob("*.safetensors")
    state = load_file(file)
    lost = next(name for name in sorted(state) if "visual" in name)
    save_file({name: one for name, one in state.items() if name != lost}, file, {"format": "pt"})
    with pytest.raises(AugmentError, match=r"lack 1 tensors"):
        captioner(folder).caption(PICTURES[:1], [[]])


def test_a_missing_picture_is_a_value_error(folders):
    with pytest.raises(ValueError, match="template"):
        captioner(folders["chat"]).caption([None], [[]])


def test_a_run_is_captioned_by_it_once(folders, made_set, tmp_path):
    given = {"name": NAME, "model": str(folders["chat"]), "max_new_tokens": 4}
    for painted in (2, 0):
        account = run(tmp_path / "ws", made_set.dataset, painter="copy-paste", limit=2, caption={"captioner": given})
        assert account["stages"]["caption"]["painted"] == painted


def test_a_caption_that_is_kept_asks_nothing(folders, tmp_path):
    member = CAPTIONERS.member(NAME, {"max_new_tokens": 4}, resolve(str(folders["chat"]), {}))
    form, rows = make_caption_form(CaptionSettings(), member), selected(["car"])
    load = lambda digest, frame: PICTURES[0]  # noqa: E731
    (first,) = caption_pictures(rows, form, Store(tmp_path), load, CAPTIONERS.build(member))
    (again,) = caption_pictures(rows, form, Store(tmp_path), None, CAPTIONERS.build(member))
    assert again.raw == first.raw and again.reused and json.dumps(first.raw)
