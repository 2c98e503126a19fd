"""ControlNets beside the pipelines of diffusers, on tiny random weights."""

import inspect
import json
import shutil

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image
from test_journey import run
from test_painters import item
from test_pipelines import FAMILIES
from tiny import tiny_control, tiny_pipeline, tiny_sd, tiny_sdxl

from lib.core.checkpoints import resolve
from lib.core.errors import AugmentError
from lib.painting.painters import PAINTERS
from lib.painting.painters.control import CONTROLLED, edges

NAME = "diffusers-inpaint"
HINTS = {"sd": "edges", "sdxl": "edges", "flux": "edges", "sd3": "surroundings", "qwen": "surroundings"}
every_family = pytest.mark.parametrize("family", HINTS)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Family → (folder of the pipeline, folder of its ControlNet)."""
    root, made = tmp_path_factory.mktemp("control"), {}

    def folder(family):
        if family not in made:
            make = {"sd": tiny_sd, "sdxl": lambda path: tiny_sdxl(path, channels=4)}.get(family)
            base = make(root / family) if make else tiny_pipeline(root / family, family)
            made[family] = base, tiny_control(root / f"{family}-control", family, base)
        return made[family]

    return folder


def member(base, control, **settings):
    given = {"steps": 2, "size": 64, "controlnet": str(control), **settings}
    return PAINTERS.member(NAME, given, resolve(str(base), {}), controlnet=resolve(str(control), {}))


def paint(base, control, **settings):
    [made] = PAINTERS.build(member(base, control, **settings)).paint([item(NAME, seed=7)])
    return made.image


@every_family
def test_a_picture_is_that_of_the_pipeline_called_by_hand(folders, family):
    base, control = folders(family)
    made, work = paint(base, control, hint=HINTS[family]), item(NAME, seed=7)
    kind = CONTROLLED[FAMILIES[family]]
    network = getattr(diffusers, kind.network).from_pretrained(control)
    more = {"safety_checker": None, "requires_safety_checker": False} if family == "sd" else {}
    if family == "sd3":
        more = dict.fromkeys(("text_encoder_3", "tokenizer_3", "image_encoder", "feature_extractor"))
    pipe = getattr(diffusers, kind.pipeline).from_pretrained(base, controlnet=network, **more)
    pipe.set_progress_bar_config(disable=True)
    picture, mask = Image.fromarray(work.canvas), Image.fromarray((work.mask * 255).astype(np.uint8))
    hint = picture if kind.inpaints else Image.fromarray(edges(work.canvas))
    values = {"image": picture, "mask_image": mask, "control_image": hint, "control_mask": mask, "strength": 1.0}
    values |= {"negative_prompt": " ", "controlnet_conditioning_scale": 1.0, "height": 64, "width": 64}
    known = inspect.signature(type(pipe).__call__).parameters
    torch.manual_seed(7)  # Qwen-Image's encodes its hint without the generator
    theirs = pipe(
        prompt="the sea",
        num_inference_steps=2,
        generator=torch.Generator("cpu").manual_seed(7),
        **{name: value for name, value in values.items() if name in known},
    ).images[0]
    np.testing.assert_array_equal(made, np.asarray(theirs))


@every_family
def test_one_seed_is_one_picture(folders, family):
    base, control = folders(family)
    torch.manual_seed(3)
    first = paint(base, control, hint=HINTS[family])
    state = torch.random.get_rng_state()
    np.testing.assert_array_equal(first, paint(base, control, hint=HINTS[family]))
    assert torch.equal(state, torch.random.get_rng_state())


@every_family
def test_it_counts_by_its_scale(folders, family):
    much, less, nothing = (
        paint(*folders(family), hint=HINTS[family], control_scale=scale) for scale in (1.0, 0.5, 0.0)
    )
    assert (much != less).any() and (less != nothing).any()


def test_what_stands_around_the_mask_is_a_hint_with_a_hole(folders, monkeypatch):
    """As diffusers' example makes it for the ControlNet that inpaints: -1 where is painted."""
    kind, seen = diffusers.StableDiffusionControlNetInpaintPipeline, []
    call = kind.__call__

    def watched(self, *args, **values):
        seen.append(values["control_image"])
        return call(self, *args, **values)

    watched.__signature__ = inspect.signature(call)
    monkeypatch.setattr(kind, "__call__", watched)
    made, work = paint(*folders("sd"), hint="surroundings"), item(NAME, seed=7)
    hint = seen[0][0].permute(1, 2, 0).numpy()
    assert (hint[work.mask] == -1).all()
    np.testing.assert_allclose(hint[~work.mask], work.canvas[~work.mask] / 255, atol=1e-6)
    assert (made != paint(*folders("sd"), hint="edges")).any()


def test_edges_are_where_the_picture_changes():
    canvas = np.zeros((32, 32, 3), np.uint8)
    canvas[:, 16:] = 255
    lines = edges(canvas)
    assert lines.shape == canvas.shape and set(np.unique(lines)) == {0, 255}
    assert lines[:, 14:18].any() and not lines[:, :13].any() and not lines[:, 19:].any()


def test_its_digest_and_settings_are_part_of_the_key_where_it_is_there_alone(folders):
    base, control = folders("sd")
    plain = PAINTERS.member(NAME, {"steps": 2, "size": 64}, resolve(str(base), {})).identity()
    assert not {"controlnet", "hint", "control_scale"} & {*plain, *plain["settings"]}
    with_it = member(base, control).identity()
    assert with_it["controlnet"]["revision"] == resolve(str(control), {}).revision
    assert with_it["settings"]["hint"] == "edges" and "controlnet" not in with_it["settings"]
    assert with_it != member(base, control, control_scale=0.5).identity()


def test_a_run_paints_with_it(folders, made_set, tmp_path):
    base, control = folders("sdxl")
    given = {"name": NAME, "model": str(base), "controlnet": str(control), "steps": 2, "size": 64}
    account = run(tmp_path / "ws", made_set.dataset, edit="replace", painter=given, composite="feather", limit=2)
    assert account["painted"] == 2 and account["stages"]["screen"]["ok"] == 2


@pytest.mark.parametrize(
    ("family", "other", "settings", "words"),
    [
        ("sd", "flux", {}, "it is a FluxControlNetModel: StableDiffusionControlNetInpaintPipeline takes a ControlNetM"),
        ("sd", "sdxl", {}, "another base: its cross_attention_dim is 48, that of the model 32"),
        ("sd3", "sd3", {"hint": "edges"}, "hint is 'edges': StableDiffusion3ControlNetInpaintingPipeline is for"),
    ],
)
def test_what_does_not_go_together_is_a_sentence(folders, family, other, settings, words):
    with pytest.raises(AugmentError, match=words):
        paint(folders(family)[0], folders(other)[1], **settings)
    with pytest.raises(AugmentError, match=words):
        checked(folders(family)[0], folders(other)[1], **settings)


def checked(base, control, **settings):
    PAINTERS.build(member(base, control, **settings)).check()


@every_family
def test_one_that_fits_is_found_to_fit_by_its_configuration_alone(folders, tmp_path, family):
    base, control = folders(family)
    empty = shutil.copytree(control, tmp_path / "empty")
    for file in empty.glob("*.safetensors"):
        file.write_bytes(b"")
    checked(base, empty, hint=HINTS[family])


@pytest.mark.parametrize(
    ("family", "change", "words"),
    [
        ("flux", {"num_mode": 2}, "its num_mode is 2, expected None for FluxControlNetInpaintPipeline"),
        ("sd3", {"extra_conditioning_channels": 0}, "its extra_conditioning_channels is 0, expected 1"),
        ("qwen", {"extra_condition_channels": 0}, "its extra_condition_channels is 0, expected 4"),
    ],
)
def test_one_that_would_fail_in_its_first_step_is_refused_by_a_check(folders, tmp_path, family, change, words):
    base, control = folders(family)
    other = shutil.copytree(control, tmp_path / "other")
    config = json.loads((other / "config.json").read_bytes())
    (other / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(AugmentError, match=words):
        checked(base, other, hint=HINTS[family])


def test_one_without_its_weights_is_refused_by_a_check(folders, tmp_path):
    base, control = folders("sd")
    (tmp_path / "config.json").write_bytes((control / "config.json").read_bytes())
    with pytest.raises(AugmentError, match=r"no diffusion_pytorch_model\*\.safetensors\* in"):
        checked(base, tmp_path)


def test_a_family_without_one_names_those_that_have_one(folders, tmp_path):
    base = tiny_pipeline(tmp_path / "chroma", "chroma")
    built = PAINTERS.build(member(base, folders("flux")[1]))
    with pytest.raises(AugmentError, match="ChromaInpaintPipeline takes none; it goes with StableDiffusionInpaint"):
        built.check()


def test_its_config_is_read_as_what_it_is(folders, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"_class_name": "UNet2DConditionModel"}))
    (tmp_path / "diffusion_pytorch_model.safetensors").write_bytes(b"")
    with pytest.raises(AugmentError, match="it is a UNet2DConditionModel"):
        paint(folders("sd")[0], tmp_path)
