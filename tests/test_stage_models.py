"""Models of a run: each is built once, and leaves the memory when the stage that used it ends."""

import gc
import json
import sys
import weakref
from typing import ClassVar

import numpy as np
import pytest
from plain_painters import Grey
from test_captioners import selected
from test_journey import run

from lib.captioning.caption import caption_pictures, make_caption_form
from lib.captioning.captioners import CAPTIONERS
from lib.core.checkpoints import resolve
from lib.core.errors import AugmentError
from lib.core.registry import MemberSettings
from lib.painting.painters import PAINTERS, Paint
from lib.records.rows import MAY_PASS
from lib.records.settings import CaptionSettings
from lib.records.store import Store
from lib.runs.parameters import Parameters
from tasks.models import release_models, use_member
from tasks.progress import Progress
from tasks.run import open_run

ALIVE = weakref.WeakSet()  # models in memory


class Settings(MemberSettings):
    model: str | None = None


class Describes:
    """A captioner with weights."""

    VERSION, MODEL, LICENCE, NEEDS_PICTURES, NEEDS_RECORDS, batch_size = 1, "org/name", "MIT", False, False, 2

    Settings = Settings

    def __init__(self, settings, model):
        self.loaded = None

    def caption(self, pictures, labels, records=()):
        self.loaded = self.loaded or Weights("captioner")
        return ["a forklift" for _ in labels]


class Paints(Grey):
    """A painter with weights, which notes what else is in memory."""

    MODEL = "org/name"
    beside: ClassVar[set[str]] = set()

    Settings = Settings

    def __init__(self, settings, model):
        self.loaded = None

    def paint(self, batch):
        self.loaded = self.loaded or Weights("painter")
        gc.collect()
        Paints.beside |= {one.name for one in ALIVE}
        return [Paint(np.full_like(item.canvas, 99)) for item in batch]


class Weights:
    def __init__(self, name):
        self.name = name
        ALIVE.add(self)


@pytest.fixture
def members(monkeypatch, tmp_path):
    module = type(sys)("with_weights")
    module.Describes, module.Paints = Describes, Paints
    monkeypatch.setitem(sys.modules, "with_weights", module)
    folder = tmp_path / "weights"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"")
    with CAPTIONERS.adding("describes", "with_weights:Describes"), PAINTERS.adding("paints", "with_weights:Paints"):
        yield str(folder)
    release_models()


def test_a_captioner_has_left_the_memory_when_painting_begins_and_the_painter_when_it_ends(tmp_path, made_set, members):
    Paints.beside = set()
    account = run(
        tmp_path / "w",
        made_set.dataset,
        edit="replace",
        painter={"name": "paints", "model": members},
        composite="none",
        limit=3,
        caption={"captioner": {"name": "describes", "model": members}},
    )
    assert account["stages"]["generate"]["painted"] == 3
    assert Paints.beside == {"painter"}
    gc.collect()
    assert not ALIVE


def test_a_model_is_built_once_until_it_is_released(members):
    chosen = CAPTIONERS.member("describes", {"model": members}, resolve(members, {})).model_dump(mode="json")
    built = []
    for release in (False, False, True, False):
        if release:
            release_models()
        with use_member(chosen) as captioner:
            built.append(captioner)
    assert built[0] is built[1] and built[2] is built[3] and built[1] is not built[2]


@pytest.mark.parametrize("batch_size", [1, 2, 3])
def test_a_captioner_that_fails_at_one_picture_costs_that_one_and_the_next_run_tries_it_again(tmp_path, batch_size):
    class Fails(Describes):
        def caption(self, pictures, labels, records=()):
            if ["pallet"] in list(labels):
                raise RuntimeError("CUDA error: misaligned address\nCompile with TORCH_USE_CUDA_DSA")
            return ["a forklift" for _ in labels]

    captioner = Fails(Settings(), None)
    captioner.batch_size = batch_size
    form = make_caption_form(CaptionSettings(), CAPTIONERS.member("template", {}))
    rows = caption_pictures(selected(["box"], ["pallet"], ["shelf"]), form, Store(tmp_path), lambda *_: None, captioner)
    assert [row.reason for row in rows] == ["", "model_failed", ""] and "model_failed" in MAY_PASS
    assert rows[1].detail == "RuntimeError: CUDA error: misaligned address"


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (lambda folder: {"screen": {"boxes": {"judge": folder}}}, "is not a judge of boxes"),
        (
            lambda folder: {"caption": {"captioner": {"name": "blip2", "model": folder}}},
            "a blip-2 that names its image",
        ),
        (
            lambda folder: {"caption": {"captioner": {"name": "vision-language", "model": folder}}},
            "answers no question about a picture",
        ),
        (
            lambda folder: {"caption": {"captioner": {"name": "blip2", "model": folder, "quantize": "8bit"}}},
            "8bit needs a GPU",
        ),
    ],
)
def test_a_model_of_another_kind_is_refused_before_the_first_stage(tmp_path, made_set, monkeypatch, given, words):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    folder = tmp_path / "bert"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "bert"}))
    for name in ("model.safetensors", "tokenizer_config.json", "preprocessor_config.json"):
        (folder / name).write_text("{}")
    values = {"edit": "replace", "painter": "copy-paste", "limit": 3, "evaluate": {"extractor": None}}
    chosen = Parameters(dataset=made_set.dataset, workspace=tmp_path / "w", **values, **given(str(folder)))
    with pytest.raises(AugmentError, match=words), open_run(chosen, "refused", Progress()):
        pytest.fail("the run began")


def test_a_painter_without_a_check_is_taken_as_it_is(members, monkeypatch):
    monkeypatch.delattr(Grey, "check")
    PAINTERS.check(PAINTERS.member("paints", {"model": members}, resolve(members, {})))
