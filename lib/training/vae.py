"""The autoencoder: AutoencoderKL (Rombach et al. 2022, arXiv 2112.10752), 4 pixels a latent cell, 4 channels.

Published ones have 8; for pictures of 128 × 128 pixels that left 24 dB after 1,600 steps, and small things unclear.

loss = |x − x̂| + |∇x − ∇x̂| / 2 + 1e-4 KL(q(z|x) ‖ N(0, 1)), means over all elements. No perceptual and no adversarial
term: sharp edges come from the gradient term, as far as they do. It learns on crops, since full resolution is what
costs. sharpen.py makes the decoder of a finished one sharp.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import nn

from lib.core.checkpoints import ModelRef, load_whole, reading
from lib.core.errors import AugmentError
from lib.training.loop import LoopSettings
from lib.training.windows import TrainingPicture, Window, cut, one_of, whole

CROP = 64  # pixels; the network is convolutional
KL = 1e-4


def make_vae(size: int, channels: Sequence[int] = (16, 32, 64)) -> Any:
    """A fresh AutoencoderKL for pictures of about size × size pixels."""
    from diffusers import AutoencoderKL

    blocks = len(channels)
    return AutoencoderKL(
        block_out_channels=tuple(channels),
        down_block_types=("DownEncoderBlock2D",) * blocks,
        up_block_types=("UpDecoderBlock2D",) * blocks,
        layers_per_block=1,
        norm_num_groups=8,
        latent_channels=4,
        sample_size=size,
        mid_block_add_attention=False,
    )


class VaeObjective(nn.Module):
    """Reconstruct crops of windows."""

    def __init__(self, vae: Any, pictures: Sequence[TrainingPicture], size: int) -> None:
        super().__init__()
        self.vae, self.pictures, self.size = vae, pictures, size

    def batch(self, rng: np.random.Generator, size: int, step: int = 0) -> dict[str, torch.Tensor]:
        """pixels (N, 3, 64, 64) in −1 .. 1."""
        return {"pixels": to_tensor([self._crop(rng) for _ in range(size)])}

    def forward(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        pixels = batch["pixels"]
        posterior = self.vae.encode(pixels).latent_dist
        made = self.vae.decode(posterior.sample()).sample.float()
        mean, spread = posterior.mean.float(), posterior.logvar.float()
        kl = 0.5 * (mean.square() + spread.exp() - 1 - spread).mean()
        wrong = made - pixels
        edges = (wrong.diff(dim=2).abs().mean() + wrong.diff(dim=3).abs().mean()) / 2
        loss = wrong.abs().mean() + 0.5 * edges + KL * kl
        return {"loss": loss, "psnr": psnr(wrong.detach()), "kl": kl.detach()}

    def save(self, folder: Path) -> None:
        """Write the autoencoder, its latents standardised."""
        windows = [whole(picture, self.size) for picture in self.pictures[:64]]
        with torch.no_grad():
            standardise(self.vae, torch.cat([encode(self.vae, [window.pixels], scaled=False) for window in windows]))
        save_half(self.vae, folder)

    def sheet(self) -> np.ndarray:
        """Eight pictures above what became of them."""
        windows = [whole(picture, self.size) for picture in self.pictures[:8]]
        with torch.no_grad():
            made = [decode(self.vae, encode(self.vae, [window.pixels]))[0] for window in windows]
        return np.concatenate([np.concatenate([w.pixels for w in windows], 1), np.concatenate(made, 1)])

    def _crop(self, rng: np.random.Generator) -> np.ndarray:
        window: Window = cut(one_of(self.pictures, rng), self.size, rng)
        side = min(CROP, self.size)
        x, y = rng.integers(self.size - side + 1, size=2)
        return window.pixels[y : y + side, x : x + side]


def standardise(vae: Any, latents: torch.Tensor) -> None:
    """Give each channel of the latents mean 0 and deviation 1, in place; reconstructions stay as they are.

    latents: (N, C, h, w) unscaled, of this autoencoder. Its 1×1 convolutions on both sides of the latents take up the
    change, z' = (z − m) / s, so that a scaling factor of 1 serves all channels.
    """
    mean, spread = latents.mean((0, 2, 3)), latents.std((0, 2, 3))
    count = len(mean)
    inward, outward = vae.quant_conv, vae.post_quant_conv
    with torch.no_grad():
        inward.weight[:count] /= spread[:, None, None, None]
        inward.bias[:count] = (inward.bias[:count] - mean) / spread
        inward.bias[count:] -= 2 * spread.log()
        outward.bias += outward.weight[:, :, 0, 0] @ mean
        outward.weight *= spread[None, :, None, None]
    vae.register_to_config(scaling_factor=1.0)


def to_tensor(pictures: Sequence[np.ndarray]) -> torch.Tensor:
    """uint8 (H, W, 3) pictures of one size → float32 (N, 3, H, W) in −1 .. 1."""
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float().contiguous() / 127.5 - 1


def to_pictures(pixels: torch.Tensor) -> list[np.ndarray]:
    """(N, 3, H, W) in −1 .. 1 → uint8 (H, W, 3)."""
    cast = (pixels.float() / 2 + 0.5).clamp(0, 1).mul(255).round().to("cpu", torch.uint8)
    return list(cast.permute(0, 2, 3, 1).numpy())


def encode(vae: Any, pictures: Sequence[np.ndarray], scaled: bool = True) -> torch.Tensor:
    """(N, C, h, w) latents, shifted and scaled as the denoiser takes them: the mode, no draw."""
    device = next(vae.parameters()).device
    latents: torch.Tensor = vae.encode(to_tensor(pictures).to(device)).latent_dist.mode()
    return (latents - (vae.config.shift_factor or 0)) * vae.config.scaling_factor if scaled else latents


def decode(vae: Any, latents: torch.Tensor) -> list[np.ndarray]:
    """Scaled latents → uint8 (H, W, 3) pictures."""
    where = next(vae.parameters()).device
    return to_pictures(
        vae.decode(latents.to(where) / vae.config.scaling_factor + (vae.config.shift_factor or 0)).sample
    )


def psnr(wrong: torch.Tensor) -> torch.Tensor:
    """Decibels, mean of the pictures', for differences (N, C, H, W) on a scale of 2 (−1 .. 1)."""
    return (10 * (4 / wrong.square().flatten(1).mean(1).clamp(min=1e-10)).log10()).mean()


def save_half(model: Any, folder: Path) -> None:
    """save_pretrained in float16; the model itself stays as it is.

    No deep copy: that takes along what hooks hold, such as an objective with its pictures and the last step's graph.
    """
    if hasattr(model, "from_config"):  # diffusers, which notes the folder that a model was loaded from
        fresh = type(model).from_config({k: v for k, v in model.config.items() if k != "_name_or_path"})
    else:
        fresh = type(model)(model.config)
    fresh.load_state_dict(model.state_dict())
    fresh.half().save_pretrained(folder, safe_serialization=True)


class VaeTrainer:
    """The trainer of the autoencoder; it needs no other model."""

    VERSION: ClassVar[int] = 1
    NEEDS: ClassVar[tuple[str, ...]] = ()
    DETAIL: ClassVar[float] = 2
    ABOUT: ClassVar[str] = "the autoencoder of the painters: pictures to latents and back"

    class Settings(LoopSettings):
        steps: int = Field(5000, ge=0, description="optimiser steps")
        batch: int = Field(16, ge=1, description="crops a step")
        rate: float = Field(1.5e-3, gt=0, description="learning rate")
        sharpen: Literal[0, 1, 2] = Field(
            0,
            description="with `start`: its latents stay, and its decoder learns from a discriminator to draw sharply, "
            "as many pixels as before (1) or twice as many a side (2)",
        )
        adversarial: float = Field(
            0.8, ge=0, description="strength of the discriminator beside the pixels, where `sharpen`"
        )
        energy: float = Field(
            0.1, ge=0, description="weight of what edges and textures lack in strength, where `sharpen`"
        )
        painted: float = Field(
            0.5, ge=0, le=1, description="share of latents that the start's gligen-inpaint makes, where `sharpen`"
        )

    @staticmethod
    def objective(
        settings: Settings, pictures: Sequence[TrainingPicture], size: int, models: Path, start: Path | None, work: Path
    ) -> VaeObjective:
        """A fresh autoencoder, that of `start`, or that of `start` sharpened."""
        if not settings.sharpen:
            return VaeObjective(load_vae(start) if start else make_vae(size), pictures, size)
        if start is None:
            raise AugmentError(
                f"`settings.vae.sharpen` is {settings.sharpen}, and there is no autoencoder to begin from: set `start` "
                "to a folder of models that has a `vae`"
            )
        from lib.training.sharpen import SharpObjective

        twice = settings.sharpen == 2
        return SharpObjective(start, pictures, size, twice, settings.adversarial, settings.painted, settings.energy)


def load_vae(folder: Path) -> Any:
    """An autoencoder in float32; raises AugmentError where the folder holds none."""
    from diffusers import AutoencoderKL

    with reading(ModelRef("folder", "", folder)):
        return load_whole(AutoencoderKL, folder, torch_dtype=torch.float32)
