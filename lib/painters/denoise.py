"""Latent diffusion by hand: our own loop over diffusers' maintained blocks (U-Net, autoencoder, CLIP, scheduler).

    model = load_latent_diffusion(ref, unet_has={"in_channels": 4, ...}, dtype=torch.float32)
    latents = denoise(model, scheduler, noise, text, guidance=7.5, before_step=..., extra=..., attention=...)
    picture = model.decode(latents[0])

Pipelines seed a whole batch at once; here every picture has its own noise, text and conditions, and its bits do not
depend on its neighbours: texts and pictures are encoded one at a time, and the U-Net always sees one batch size. A
painter adds what is its own through `before_step` (change the latents), `extra` (more input channels) and `attention`
(cross-attention arguments); gligen.py is the example.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lib.errors import AugmentError
from lib.models import ModelRef, device, local_path, reading

if TYPE_CHECKING:
    import torch

# (latents, step from 0, time step) → latents
BeforeStep = Callable[["torch.Tensor", int, "torch.Tensor"], "torch.Tensor"]

UNET_CONFIG = "unet/config.json"
NEEDED = (
    UNET_CONFIG,
    "unet/diffusion_pytorch_model.safetensors",
    "vae/config.json",
    "vae/diffusion_pytorch_model.safetensors",
    "text_encoder/config.json",
    "text_encoder/model.safetensors",
    "tokenizer/tokenizer_config.json",
    "scheduler/scheduler_config.json",
)
ALSO = ("tokenizer/*",)


@dataclass(frozen=True)
class LatentDiffusion:
    """The blocks of one checkpoint on one device. Only the U-Net runs in half precision: the rest costs little."""

    unet: Any
    vae: Any
    text_encoder: Any
    tokenizer: Any
    scheduler_config: Mapping[str, Any]
    device: torch.device
    encode_text: Callable[[str], tuple[torch.Tensor, torch.Tensor]]  # text → (1, T, D), (1, D) float32, kept

    @property
    def factor(self) -> int:
        """Pixels per latent cell, each way."""
        return int(2 ** (len(self.vae.config.block_out_channels) - 1))

    def hidden(self, texts: Sequence[str]) -> torch.Tensor:
        """(N, T, D) float32: what the U-Net attends to for each text."""
        import torch

        return torch.cat([self.encode_text(text)[0] for text in texts])

    def noise(self, seeds: Sequence[int], shape: tuple[int, int]) -> torch.Tensor:
        """(N, C, h, w) float32 normal noise for pictures of (height, width) pixels, drawn on the CPU, one per seed."""
        import torch

        size = (self.vae.config.latent_channels, shape[0] // self.factor, shape[1] // self.factor)
        drawn = [torch.randn(size, generator=torch.Generator("cpu").manual_seed(seed)) for seed in seeds]
        return torch.stack(drawn).to(self.device)

    def encode(self, pictures: Sequence[np.ndarray]) -> torch.Tensor:
        """uint8 (H, W, 3) RGB pictures of one shape → (N, C, h, w) float32 scaled latents: the mode, no draw."""
        import torch

        with torch.no_grad():
            return torch.cat([self._encode(picture) for picture in pictures])

    def decode(self, latents: torch.Tensor) -> np.ndarray:
        """(C, h, w) scaled latents → uint8 (H, W, 3) RGB. Raises ArithmeticError for latents that are not finite."""
        import torch

        if not torch.isfinite(latents).all():
            raise ArithmeticError("latents are not finite: the checkpoint overflows in this precision (dtype: float32)")
        with torch.no_grad():
            scaled = latents[None].to(self.device, self.vae.dtype) / self.vae.config.scaling_factor
            pixels = self.vae.decode(scaled).sample[0].permute(1, 2, 0)
        return (pixels / 2 + 0.5).clamp(0, 1).mul(255).round().to("cpu", torch.uint8).numpy()

    def _encode(self, picture: np.ndarray) -> torch.Tensor:
        import torch

        pixels = torch.from_numpy(np.ascontiguousarray(picture)).permute(2, 0, 1)[None]
        pixels = pixels.to(self.device, self.vae.dtype) / 127.5 - 1
        return self.vae.encode(pixels).latent_dist.mode() * self.vae.config.scaling_factor


def load_latent_diffusion(ref: ModelRef, unet_has: Mapping[str, Any], dtype: torch.dtype) -> LatentDiffusion:
    """Load a checkpoint in diffusers' folder form; dtype is that of the U-Net.

    unet_has: what unet/config.json must say ("in_channels": 4, ...). Raises AugmentError for a checkpoint of another
    family, an incomplete or a broken one; ConnectionError where a download may work the next time.
    """
    import diffusers
    import torch
    import transformers

    folder, where = local_path(ref, NEEDED, ALSO), device()
    _check_family(ref, folder, unet_has)
    with reading(ref):
        unet = diffusers.UNet2DConditionModel.from_pretrained(
            folder, subfolder="unet", torch_dtype=dtype, use_safetensors=True
        )
        vae = diffusers.AutoencoderKL.from_pretrained(
            folder, subfolder="vae", torch_dtype=torch.float32, use_safetensors=True
        )
        text_encoder = transformers.CLIPTextModel.from_pretrained(
            folder / "text_encoder", use_safetensors=True, dtype=torch.float32
        )
        tokenizer = transformers.CLIPTokenizer.from_pretrained(folder / "tokenizer")
    for block in (unet, vae, text_encoder):
        block.to(where).eval().requires_grad_(False)
    config = json.loads((folder / "scheduler" / "scheduler_config.json").read_bytes())
    encode = text_encoding(text_encoder, tokenizer, where)
    return LatentDiffusion(unet, vae, text_encoder, tokenizer, config, where, encode)


def denoise(
    model: LatentDiffusion,
    scheduler: Any,
    noise: torch.Tensor,
    text: torch.Tensor,
    guidance: float,
    before_step: BeforeStep | None = None,
    extra: torch.Tensor | None = None,
    attention: dict[str, Any] | None = None,
) -> torch.Tensor:
    """Noise → latents, (N, C, h, w) float32, under classifier-free guidance (Ho and Salimans, arXiv 2207.12598).

    scheduler: with its time steps set; noise: (N, C, h, w), unit variance; guidance: 1 = none. With guidance, `text`
    (2N, T, D) and all tensors in `attention` hold the unconditional half first; without it only the conditional N.
    extra: (N, C', h, w) channels that the U-Net sees behind the latents at each step.
    """
    import torch

    halves, dtype = (2 if guidance > 1 else 1), model.unet.dtype
    latents = noise * scheduler.init_noise_sigma
    text = text.to(dtype)
    with torch.no_grad():
        for step, timestep in enumerate(scheduler.timesteps):
            if before_step is not None:
                latents = before_step(latents, step, timestep)
            seen = scheduler.scale_model_input(latents, timestep)
            if extra is not None:
                seen = torch.cat([seen, extra], dim=1)
            seen = torch.cat([seen] * halves).to(dtype)
            said = model.unet(seen, timestep, encoder_hidden_states=text, cross_attention_kwargs=attention)
            epsilon = said.sample.float()
            if halves == 2:
                blank, asked = epsilon.chunk(2)
                epsilon = blank + guidance * (asked - blank)
            latents = scheduler.step(epsilon, timestep, latents).prev_sample
    return latents


def known_kept(scheduler: Any, known: torch.Tensor, noise: torch.Tensor, keep: torch.Tensor) -> BeforeStep:
    """A `before_step` that puts the known latents back, noised to each step's level, where keep is 1.

    known, noise: (N, C, h, w); keep: (N, 1, h, w), 1 = keep. The pass's own noise, so that nothing is drawn (Blended
    Latent Diffusion, arXiv 2206.02779, and GLIGEN's inpainting).
    """

    def before_step(latents: torch.Tensor, step: int, timestep: torch.Tensor) -> torch.Tensor:
        noised = scheduler.add_noise(known, noise, timestep.expand(len(known)))
        return noised * keep + latents * (1 - keep)

    return before_step


def paint_cells(masks: Sequence[np.ndarray], factor: int, where: torch.device) -> torch.Tensor:
    """bool (H, W) masks, True = paint → (N, 1, h, w) float32: 1 for each latent cell with any pixel to paint.

    The maximum, so that a mask smaller than a cell does not vanish.
    """
    import torch

    stacked = torch.from_numpy(np.stack(masks)).to(where, torch.float32)[:, None]
    return torch.nn.functional.max_pool2d(stacked, factor)


def aspect_shape(size: int, width: int, height: int, multiple: int = 64) -> tuple[int, int]:
    """(height, width) of a window's aspect with about size² pixels, both sides multiples of `multiple`.

    64 = 8 pixels per latent cell × 8 for the three halvings inside Stable Diffusion's U-Net.
    """
    ratio = math.sqrt(width / height)
    high, wide = (max(1, round(side / multiple)) * multiple for side in (size / ratio, size * ratio))
    return high, wide


def _check_family(ref: ModelRef, folder: Path, unet_has: Mapping[str, Any]) -> None:
    found = json.loads((folder / UNET_CONFIG).read_bytes())
    other = [(key, value) for key, value in unet_has.items() if found.get(key) != value]
    if other:
        wrong = [f"{key} {found.get(key)!r}, expected {value!r}" for key, value in other]
        raise AugmentError(f"model {ref} is of another family: its U-Net has {'; '.join(wrong)}")


def text_encoding(encoder: Any, tokenizer: Any, where: torch.device, kept: int | None = 512) -> Callable[[str], Any]:
    """A function text → (1, T, D) hidden states and (1, D) pooled state, each text encoded once, alone.

    kept: how many texts' states stay in memory; none: all.
    """
    import torch

    @lru_cache(maxsize=kept)
    def encode(text: str) -> tuple[torch.Tensor, torch.Tensor]:
        length = min(tokenizer.model_max_length, encoder.config.max_position_embeddings)
        tokens = tokenizer(text, padding="max_length", max_length=length, truncation=True, return_tensors="pt")
        with torch.no_grad():
            out = encoder(tokens.input_ids.to(where))
        return out.last_hidden_state, out.pooler_output

    return encode
