"""LoRA beside transformers: the velocity is the one that the pipelines paint by, and what was trained paints."""

import json
from functools import partial

import diffusers
import numpy as np
import pytest
import torch
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from PIL import Image
from safetensors.torch import load_file
from test_lora import pictures, trained
from test_painters import item
from tiny import tiny_pipeline

from lib.core.checkpoints import folder_revision, resolve, silent
from lib.core.errors import AugmentError
from lib.painting.painters import PAINTERS
from lib.painting.painters.lora import WEIGHTS
from lib.painting.painters.pipelines import DiffusersInpaintSettings
from lib.training.lora_base import LoraSettings
from lib.training.lora_flow import FLOWS, flow_objective

NAME = "diffusers-inpaint"
FAMILIES = {
    "flux": "FluxPipeline",
    "flux-fill": "FluxFillPipeline",
    "sd3": "StableDiffusion3Pipeline",
    "z-image": "ZImagePipeline",
}
every_family = pytest.mark.parametrize("family", FAMILIES)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Family → (base, its LoRA)."""
    root, known = tmp_path_factory.mktemp("flows"), {}

    def make(family):
        if family not in known:
            base = tiny_pipeline(root / family / "base", family)
            known[family] = base, trained(root / family, base, targets="all")
        return known[family]

    return make


def painted(base, lora=None, **settings):
    given = {"steps": 2, "size": 64, **settings} | ({"lora": str(lora)} if lora else {})
    beside = {"lora": resolve(str(lora), {})} if lora else {}
    built = PAINTERS.build(PAINTERS.member(NAME, given, resolve(str(base), {}), **beside))
    return built.paint([item(NAME)])[0].image.astype(int)


class Caught(Exception):
    pass


@every_family
def test_the_velocity_is_that_by_which_the_pipeline_paints(made, family, monkeypatch):
    base, _ = made(family)
    more = {"text_encoder_3": None, "tokenizer_3": None} if family == "sd3" else {}
    pipe = getattr(diffusers, FAMILIES[family]).from_pretrained(base, **more)
    pipe.set_progress_bar_config(disable=True)
    flow = FLOWS[FAMILIES[family]]
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 255, (64, 64, 3), dtype=np.uint8)
    mask = np.zeros((64, 64), np.uint8)
    mask[16:48, 16:48] = 255

    def caught(output, t, latents, **_):
        raise Caught(output, t, latents)

    monkeypatch.setattr(pipe.scheduler, "step", caught)
    # FLUX Fill draws the latents of what is kept: here the mean is taken, on both sides.
    monkeypatch.setattr(DiagonalGaussianDistribution, "sample", lambda self, generator=None: self.mean)
    given = {"image": Image.fromarray(pixels), "mask_image": Image.fromarray(mask)} if flow.inpaint else {}
    given["guidance_scale"] = 1.0 if family != "z-image" else 0.0  # none, of each
    with torch.no_grad(), silent(), pytest.raises(Caught) as error:
        pipe("a fish", height=64, width=64, num_inference_steps=3, **given)
    theirs, t, latents = error.value.args
    if latents.ndim == 3:  # tokens of 2 × 2 cells
        theirs, latents = (pipe._unpack_latents(one, 64, 64, pipe.vae_scale_factor) for one in (theirs, latents))
    around = torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 127.5 - 1
    with torch.no_grad(), silent():
        kept = flow.surroundings(pipe, around, torch.from_numpy(mask == 0)[None, None].float())
        ours = flow.velocity(pipe, latents, (t / 1000).expand(1), [flow.text(pipe, "a fish")], kept)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@every_family
def test_it_changes_what_is_painted_by_its_scale(made, family):
    base, lora = made(family)
    plain, much, less, nothing = (
        painted(base),
        painted(base, lora),
        painted(base, lora, lora_scale=0.5),
        painted(base, lora, lora_scale=0),
    )
    assert (plain != much).any() and (much != less).any()
    assert np.abs(plain - nothing).max() <= 1


@every_family
def test_the_base_stays_as_it_is_and_equal_seeds_give_equal_files(made, family, tmp_path):
    base, lora = made(family)
    before = folder_revision(base)
    again = trained(tmp_path, base, targets="all")
    assert folder_revision(again) == folder_revision(lora) and folder_revision(base) == before
    state = load_file(lora / WEIGHTS)
    assert all(name.startswith("transformer.") and ".lora_" in name for name in state)


def objective(base, work, **settings):
    settings = LoraSettings(base=str(base), rank=4, windows=2, **settings)
    ref = resolve(str(base), {})
    torch.manual_seed(0)
    name = json.loads((base / "model_index.json").read_bytes())["_class_name"]
    return flow_objective(ref, FLOWS[name], settings, pictures(), 64, work)


@every_family
def test_the_loss_falls(made, family, tmp_path):
    """Of the same noise, before and after steps on it."""
    found = objective(made(family)[0], tmp_path, targets="all", background=0)
    batch = found.batch(np.random.default_rng(0), 4)
    optimiser = torch.optim.Adam(found.matrices.parameters(), 0.04)
    losses = []
    for _ in range(12):
        torch.manual_seed(1)
        loss = found(batch)["loss"]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.9 * losses[0]


@every_family
def test_a_base_in_half_precision_learns_in_whole_one(made, family, tmp_path, monkeypatch):
    """As on a GPU."""
    half = partial(DiffusersInpaintSettings, dtype="bfloat16")
    monkeypatch.setattr("lib.training.lora_flow.DiffusersInpaintSettings", half)
    found = objective(made(family)[0], tmp_path)
    assert {one.dtype for one in found.matrices.values()} == {torch.float32}
    found(found.batch(np.random.default_rng(0), 2))["loss"].backward()
    assert all(torch.isfinite(one.grad).all() for one in found.matrices.values())
    assert found.sheet().dtype == np.uint8


def test_it_goes_on_from_its_matrices_and_from_no_others(made, tmp_path):
    base, lora = made("flux")
    again = objective(base, tmp_path, targets="all")
    again.load(lora)
    again.save(tmp_path)
    assert (tmp_path / WEIGHTS).read_bytes() == (lora / WEIGHTS).read_bytes()
    with pytest.raises(AugmentError, match="of other layers, or of another rank"):
        objective(base, tmp_path).load(lora)


def test_a_sheet_shows_windows_and_what_is_made_of_them(made, tmp_path):
    found = objective(made("flux-fill")[0], tmp_path)
    sheet = found.sheet()
    assert sheet.shape == (128, 4 * 64, 3) and sheet.dtype == np.uint8  # four pictures


def test_other_transformers_and_words_are_refused_in_a_sentence(made, tmp_path):
    base = tiny_pipeline(tmp_path / "chroma", "chroma")
    with pytest.raises(AugmentError, match="no base of ChromaPipeline can be trained here: give one of FluxPipeline"):
        trained(tmp_path, base)
    with pytest.raises(AugmentError, match="words is for bases with a U-Net"):
        trained(tmp_path, made("sd3")[0], words=True)
