"""diffusers-inpaint: pipelines of many families, as they are loaded and called, on tiny random weights."""

import inspect
import json
import re
import shutil

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from test_journey import run
from test_painters import item
from tiny import tiny_pipeline, tiny_sd, tiny_sdxl

from lib.core import stopping
from lib.core.checkpoints import resolve
from lib.core.errors import AugmentError, PictureError
from lib.painting.painters import PAINTERS
from lib.painting.painters.pipeline_checkpoint import PIPELINES
from lib.runs.presets import PRESETS

NAME = "diffusers-inpaint"
FAMILIES = {
    "sd": "StableDiffusionInpaintPipeline",
    "sd-inpaint": "StableDiffusionInpaintPipeline",
    "sdxl": "StableDiffusionXLInpaintPipeline",
    "sd3": "StableDiffusion3InpaintPipeline",
    "flux": "FluxInpaintPipeline",
    "flux-fill": "FluxFillPipeline",
    "kontext": "FluxKontextInpaintPipeline",
    "chroma": "ChromaInpaintPipeline",
    "qwen": "QwenImageInpaintPipeline",
    "z-image": "ZImageInpaintPipeline",
}
every_family = pytest.mark.parametrize("family", FAMILIES)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root, made = tmp_path_factory.mktemp("pipelines"), {}

    def folder(family):
        if family not in made:
            makers = {"sd": tiny_sd, "sd-inpaint": lambda path: tiny_sd(path, channels=9), "sdxl": tiny_sdxl}
            make = makers.get(family, lambda path: tiny_pipeline(path, family))
            made[family] = make(root / family)
        return made[family]

    return folder


def painter(folder, **settings):
    settings = {"steps": 2, "size": 64, **settings}
    return PAINTERS.build(PAINTERS.member(NAME, settings, resolve(str(folder), {})))


@pytest.fixture
def copy(folders, tmp_path):
    """A family's folder with changes of its model_index.json."""

    def make(family, **changes):
        folder = shutil.copytree(folders(family), tmp_path / family, dirs_exist_ok=True)
        index = json.loads((folder / "model_index.json").read_bytes()) | changes
        (folder / "model_index.json").write_text(json.dumps({k: v for k, v in index.items() if v != "remove"}))
        return folder

    return make


@every_family
def test_a_picture_is_that_of_the_pipeline_called_by_hand(folders, family):
    work = item(NAME, seed=7)
    [made] = painter(folders(family)).paint([work])
    kind = getattr(diffusers, FAMILIES[family])
    more = (
        {"safety_checker": None, "requires_safety_checker": False} if family.startswith("sd-") or family == "sd" else {}
    )
    if family == "sd3":
        more = {"text_encoder_3": None, "tokenizer_3": None}
    pipe = kind.from_pretrained(folders(family), **more)
    if family == "chroma":
        pipe.transformer.register_to_config(guidance_embeds=False)
    pipe.set_progress_bar_config(disable=True)
    values = {"negative_prompt": " ", "strength": 1.0, "_auto_resize": False}
    known = inspect.signature(kind.__call__).parameters
    theirs = pipe(
        prompt="the sea",
        image=Image.fromarray(work.canvas),
        mask_image=Image.fromarray((work.mask * 255).astype(np.uint8)),
        height=64,
        width=64,
        num_inference_steps=2,
        generator=torch.Generator("cpu").manual_seed(7),
        **{name: value for name, value in values.items() if name in known},
    ).images[0]
    np.testing.assert_array_equal(made.image, np.asarray(theirs))


@every_family
def test_equal_passes_give_equal_bits_alone_or_among_others_and_seed_and_prompt_count(folders, family):
    made = painter(folders(family))
    alone = made.paint([item(NAME, seed=1)])[0].image
    other, again = (one.image for one in made.paint([item(NAME, seed=2), item(NAME, seed=1)]))
    np.testing.assert_array_equal(alone, again)
    assert (alone != other).any()


@pytest.mark.parametrize("family", ["sdxl", "sd3", "flux-fill", "chroma", "qwen", "z-image"])
def test_a_run_paints_with_it(folders, made_set, tmp_path, family):
    given = {"name": NAME, "model": str(folders(family)), "steps": 2, "size": 64}
    account = run(tmp_path / "ws", made_set.dataset, edit="replace", painter=given, composite="feather", limit=2)
    assert account["painted"] == 2 and account["stages"]["screen"]["ok"] == 2


def test_the_old_object_is_not_begun_from_unless_that_is_wanted(folders, monkeypatch):
    """Stable Diffusion 3's default is .6, with which it stays."""
    made, seen = painter(folders("sd3")), []
    call = diffusers.StableDiffusion3InpaintPipeline.__call__

    def watched(self, *args, **values):
        seen.append(values)
        return call(self, *args, **values)

    watched.__signature__ = inspect.signature(call)
    monkeypatch.setattr(diffusers.StableDiffusion3InpaintPipeline, "__call__", watched)
    made.paint([item(NAME)])
    painter(folders("sd3"), strength=0.5, guidance=2, steps=4).paint([item(NAME)])
    assert [one["strength"] for one in seen] == [1.0, 0.5]
    assert "guidance_scale" not in seen[0] and (seen[1]["guidance_scale"], seen[1]["num_inference_steps"]) == (2, 4)


def test_qwen_is_guided_by_its_true_scale(folders):
    """At 1 there is no guidance, and the negative prompt counts for nothing."""
    plain, more = (painter(folders("qwen"), guidance=scale).paint([item(NAME)])[0].image for scale in (1, 3))
    assert (plain != more).any()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"_class_name": "StableDiffusionUpscalePipeline"}, "cannot inpaint: unknown pipeline"),
        ({"_class_name": "ZImagePipelin"}, "do you mean 'ZImagePipeline'"),
        (
            {"transformer": ["os", "system"]},
            r"transformer is a os\.system: code that a checkpoint brings",
        ),
        ({"transformer": ["my_code", "Net"]}, "code that a checkpoint brings along is never run"),
        (
            {"transformer": ["diffusers", "DiffusionPipeline"]},
            "a model, scheduler, tokenizer or processor was",
        ),
        ({"transformer": ["diffusers", "NotThereYet"]}, r"diffusers \d.* has no NotThereYet: install a newer one"),
        ({"transformer": "remove"}, r"model_index\.json lacks transformer, which ZImageInpaintPipeline needs"),
    ],
)
def test_what_cannot_be_used_is_refused_in_a_sentence(copy, changes, words):
    with pytest.raises(AugmentError, match=words):
        painter(copy("z-image", **changes)).paint([item(NAME)])
    with pytest.raises(AugmentError, match=words):
        painter(copy("z-image", **changes)).check()


def test_another_pipeline_is_refused_before_anything_is_loaded(copy):
    made = painter(copy("flux", _class_name="AudioLDMPipeline"))
    with pytest.raises(AugmentError, match="cannot inpaint"):
        made.check()
    painter(copy("flux", _class_name="FluxInpaintPipeline")).check()


def test_a_tensor_that_is_missing_is_named(copy):
    folder = copy("flux")
    (file,) = (folder / "transformer").glob("*.safetensors")
    state = load_file(file)
    lost = sorted(state)[0]
    save_file({name: one for name, one in state.items() if name != lost}, file, {"format": "pt"})
    with pytest.raises(AugmentError, match=rf"lack 1 tensors \({re.escape(lost)}\) in transformer"):
        painter(folder).paint([item(NAME)])


def test_a_part_without_weights_is_refused_by_a_check(copy):
    folder = copy("flux")
    (file,) = (folder / "text_encoder_2").glob("*.safetensors")
    file.unlink()
    with pytest.raises(AugmentError, match=r"no text_encoder_2/\*\.safetensors in"):
        painter(folder).check()


@pytest.mark.parametrize("quantize", ["4bit", "8bit"])
def test_quantized_weights_need_a_gpu(folders, monkeypatch, quantize):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(AugmentError, match=f"quantize: {quantize} needs a GPU"):
        painter(folders("flux"), quantize=quantize).check()


def test_another_version_of_diffusers_is_refused_and_the_installed_one_is_part_of_the_key():
    assert PAINTERS.member(NAME, {}).identity()["settings"]["diffusers"] == diffusers.__version__
    with pytest.raises(AugmentError, match=rf"diffusers {re.escape(diffusers.__version__)} is installed"):
        PAINTERS.member(NAME, {"diffusers": "0.1"})


def test_it_ends_between_two_steps_where_the_run_is_to_end(folders):
    made = painter(folders("flux"))
    made.paint([item(NAME)])
    stopping.ask_to_stop()
    try:
        with pytest.raises(stopping.Stopped):
            made.paint([item(NAME)])
    finally:
        with stopping.stoppable():
            pass


def test_too_little_memory_says_what_helps(folders, monkeypatch):
    made = painter(folders("flux"))

    def full(*args, **values):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(made, "_painted", full)
    with pytest.raises(PictureError, match="quantize to 4bit, its offload to sequential, or its size lower"):
        made.paint([item(NAME)])


def test_the_classes_that_inpaint_are_diffusers_own_and_presets_name_what_they_take():
    assert all(hasattr(diffusers, name) for pair in PIPELINES.items() for name in pair)
    named = {preset["painter"].get("model") for preset in PRESETS.values() if preset["painter"]["name"] == NAME}
    assert named == {None, "black-forest-labs/FLUX.1-Fill-dev", "Qwen/Qwen-Image-Edit"}


@pytest.fixture(scope="module")
def loras(folders, tmp_path_factory):
    """Family → folder with a LoRA, as diffusers saves it."""
    from peft import LoraConfig, get_peft_model_state_dict

    root, made = tmp_path_factory.mktemp("loras"), {}
    for family, name, part in (("flux", "FluxPipeline", "transformer"), ("sdxl", "StableDiffusionXLPipeline", "unet")):
        kind = getattr(diffusers, name)
        model = getattr(getattr(diffusers, FAMILIES[family]).from_pretrained(folders(family)), part)
        model.add_adapter(LoraConfig(r=2, target_modules=["to_q", "to_k"], init_lora_weights=False))
        kind.save_lora_weights(root / family, **{f"{part}_lora_layers": get_peft_model_state_dict(model)})
        made[family] = root / family
    return made


def with_lora(folder, lora, **settings):
    given = {"steps": 2, "size": 64, "lora": str(lora), **settings}
    return PAINTERS.build(PAINTERS.member(NAME, given, resolve(str(folder), {}), lora=resolve(str(lora), {})))


@pytest.mark.parametrize("family", ["flux", "sdxl"])
def test_a_lora_is_added_by_its_scale(folders, loras, family):
    plain = painter(folders(family)).paint([item(NAME)])[0].image
    much, less, nothing = (
        with_lora(folders(family), loras[family], lora_scale=scale).paint([item(NAME)])[0].image
        for scale in (1, 0.5, 0)
    )
    assert (plain != much).any() and (much != less).any()
    assert np.abs(plain.astype(int) - nothing).max() <= 1


@pytest.mark.parametrize(("family", "other"), [("flux", "sdxl"), ("sdxl", "flux")])
def test_a_lora_of_another_base_is_refused(folders, loras, family, other):
    with pytest.raises(AugmentError, match="cannot be loaded"):
        with_lora(folders(family), loras[other]).paint([item(NAME)])
    with pytest.raises(AugmentError, match="cannot be loaded"):
        with_lora(folders(family), loras[other]).check()


def empty(folder, place):
    """A checkpoint whose weights are no weights."""
    shutil.copytree(folder, place)
    for file in place.rglob("*.safetensors"):
        file.write_bytes(b"")
    return place


@every_family
def test_a_lora_is_held_against_its_base_without_weights(folders, tmp_path, family):
    base = folders(family)
    part = "unet" if (base / "unet").is_dir() else "transformer"
    config = json.loads((base / part / "config.json").read_bytes())
    bare = getattr(diffusers, config["_class_name"]).from_config(config)
    layer = next(name for name, _ in bare.named_modules() if name.endswith("to_q"))
    out, into = bare.get_submodule(layer).weight.shape
    bare_base = empty(base, tmp_path / "base")

    def lora(name, **layers):
        state = {f"{part}.{layer}.lora_{end}.weight": torch.zeros(shape) for end, shape in layers.items()}
        (tmp_path / name).mkdir()
        save_file(state, tmp_path / name / "pytorch_lora_weights.safetensors", {"format": "pt"})
        return tmp_path / name

    with_lora(bare_base, lora("fits", A=(2, into), B=(out, 2))).check()
    with pytest.raises(AugmentError, match="size mismatch"):
        with_lora(bare_base, lora("other", A=(2, into), B=(out + 1, 2))).check()


def test_a_lora_with_words_or_without_its_file_is_refused_by_a_check(folders, loras, tmp_path):
    lora = shutil.copytree(loras["sdxl"], tmp_path / "lora")
    (lora / "words").mkdir()
    with pytest.raises(AugmentError, match="it has words for categories, which this painter does not read"):
        with_lora(folders("sdxl"), lora).check()
    with pytest.raises(AugmentError, match=r"no x\.safetensors in"):
        with_lora(folders("sdxl"), lora, lora_file="x.safetensors").check()
