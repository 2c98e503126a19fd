"""Days for a million pictures: what each preset has to compute for a pass, and at which speed published runs compute.

.venv/bin/pytest -m benchmark -s tests/benchmarks/test_flops.py

Counted on tensors without content, in seconds and without weights: the U-Net or transformer of the published
checkpoint at the preset's own steps, size and guidance, and the autoencoder. The speed is that of SDXL on an H100 as
others published it (1024 × 1024, 30 steps with guidance, .40 pictures a second in PyTorch without compilation), so the
days are computed and not measured. Text encoders, screening and what the CPU does are left out.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import pytest
import torch
from standins import GLIGEN, SD2, SDXL, VAE
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from lib.painting.painters import PAINTERS
from lib.runs.presets import PRESETS

pytestmark = [pytest.mark.benchmark, pytest.mark.timeout(1800)]

H100_SDXL = 0.40  # pictures a second
WORDS = 77, 512  # tokens of a prompt: CLIP's; those of large text encoders, at most
OBJECTS = 30  # GLIGEN's places for boxes

Call = Callable[[], Any]


def unet(side: int, config: dict[str, Any], channels: int) -> Call:
    """One step of a U-Net for a picture of side² pixels, of one text."""
    from diffusers import UNet2DConditionModel

    model = UNet2DConditionModel(**{**config, "in_channels": channels})
    given: dict[str, Any] = {"encoder_hidden_states": torch.empty(1, WORDS[0], config.get("cross_attention_dim", 768))}
    if "addition_embed_type" in config:
        given["added_cond_kwargs"] = {"text_embeds": torch.empty(1, 1280), "time_ids": torch.empty(1, 6)}
    if config is GLIGEN:
        boxes = {"boxes": (OBJECTS, 4), "positive_embeddings": (OBJECTS, 768), "masks": (OBJECTS,)}
        given["cross_attention_kwargs"] = {"gligen": {name: torch.empty(1, *shape) for name, shape in boxes.items()}}
    return lambda: model(torch.empty(1, channels, side // 8, side // 8), torch.tensor(1), **given)


def flux_fill(side: int) -> Call:
    from diffusers import FluxTransformer2DModel

    model, tokens = FluxTransformer2DModel(in_channels=384, out_channels=64, guidance_embeds=True), (side // 16) ** 2
    return lambda: model(
        torch.empty(1, tokens, 384),
        encoder_hidden_states=torch.empty(1, WORDS[1], 4096),
        pooled_projections=torch.empty(1, 768),
        timestep=torch.empty(1),
        guidance=torch.empty(1),
        img_ids=torch.empty(tokens, 3),
        txt_ids=torch.empty(WORDS[1], 3),
    )


def qwen_edit(side: int) -> Call:
    """The picture that is edited stands beside the one that is painted."""
    from diffusers import QwenImageTransformer2DModel

    model, tokens = QwenImageTransformer2DModel(), (side // 16) ** 2
    return lambda: model(
        torch.empty(1, 2 * tokens, 64),
        encoder_hidden_states=torch.empty(1, WORDS[1], 3584),
        encoder_hidden_states_mask=None,
        timestep=torch.empty(1),
        img_shapes=[[(1, side // 16, side // 16)] * 2],
    )


def z_image(side: int) -> Call:
    from diffusers import ZImageTransformer2DModel

    model = ZImageTransformer2DModel()
    return lambda: model([torch.empty(16, 1, side // 8, side // 8)], torch.empty(1), [torch.empty(WORDS[1], 2560)])


def autoencoder(side: int) -> Call:
    """A picture encoded and decoded."""
    from diffusers import AutoencoderKL

    model = AutoencoderKL(**VAE)
    pixels, latents = torch.empty(1, 3, side, side), torch.empty(1, 4, side // 8, side // 8)
    return lambda: (model.encode(pixels), model.decode(latents))


# Painter, and of pipelines the model → one step at a size.
STEPS: dict[str, Callable[[int], Call]] = {
    "gligen": partial(unet, config=GLIGEN, channels=4),
    "gligen-inpaint": partial(unet, config=GLIGEN, channels=9),
    "sd-inpaint": partial(unet, config=SD2, channels=9),
    "sdxl-inpaint": partial(unet, config=SDXL, channels=9),
    **dict.fromkeys(("vanilla", "blended-latent", "td-paint", "latentpaint"), partial(unet, config=SD2, channels=4)),
    "Tongyi-MAI/Z-Image-Turbo": z_image,
    "black-forest-labs/FLUX.1-Fill-dev": flux_fill,
    "Qwen/Qwen-Image-Edit": qwen_edit,
}
# Steps of a pipeline that a preset leaves to it; what guidance computes a step twice for.
OWN_STEPS = {"Qwen/Qwen-Image-Edit": 50}
ONCE = {"black-forest-labs/FLUX.1-Fill-dev", "Tongyi-MAI/Z-Image-Turbo"}


@cache
def tera(make: Callable[[int], Call], side: int) -> float:
    """10¹² operations of a call, a product and its sum being two."""
    with FakeTensorMode(), torch.no_grad(), FlopCounterMode(display=False) as counter:
        call = make(side)
        call()
    return counter.get_total_flops() / 1e12


def counted(preset: str) -> tuple[float, int, int, int] | None:
    """(10¹² operations of a pass, side, steps, networks' calls); None for what has no published checkpoint."""
    given = {name: value for name, value in PRESETS[preset]["painter"].items() if name != "name"}
    name = PRESETS[preset]["painter"]["name"]
    settings = PAINTERS.settings(name, given)
    model = name if name in STEPS else str(getattr(settings, "model", None) or PAINTERS[name].MODEL).partition("@")[0]
    if model not in STEPS:
        return None
    side, steps = settings.size, settings.steps or OWN_STEPS[model]
    guidance = settings.guidance or 0
    low, high = getattr(settings, "guided", (0.0, 1.0))
    calls = round(steps * (1 + (high - low if guidance > 1 and model not in ONCE else 0)))
    return calls * tera(STEPS[model], side) + tera(autoencoder, side), side, steps, calls


def test_days_a_million() -> None:
    warnings.simplefilter("ignore")
    found = {preset: one for preset in PRESETS if (one := counted(preset)) is not None}
    speed = H100_SDXL * found["loco-sdxl"][0]
    print(f"\nSDXL at {H100_SDXL} pictures a second: {speed:.0f} × 10¹² operations a second")
    print("| preset | pixels | steps | calls of the network | 10¹² operations | days a million, one H100 |")
    print("|---|---|---|---|---|---|")
    for preset, (operations, side, steps, calls) in found.items():
        days = operations / speed * 1e6 / 86400
        print(f"| `{preset}` | {side}² | {steps} | {calls} | {operations:.0f} | {days:.1f} |")
    assert len(found) >= 18
