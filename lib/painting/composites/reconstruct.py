"""reconstruct: a decoder tuned to the picture, so that what was not painted comes back (Blended Latent Diffusion).

A latent painter gives back known pixels only as well as its autoencoder does. The background reconstruction of Avrahami
et al. 2023 (arXiv 2206.02779, section 3.3) fine-tunes the decoder for one picture until it decodes the very latents to
the known pixels, while the painted ones stay what the untuned decoder made of them: no seam, as nothing is pasted.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from lib.core.compute import out_of_memory
from lib.core.images import PictureError
from lib.core.registry import MemberSettings
from lib.painting.canvas import mask_of
from lib.painting.composites.plain import Whole
from lib.painting.painters import Decoder, Paint
from lib.records.requests import Pass


class Reconstruct(Whole):
    """The whole window, by the painter's decoder tuned to it and then restored, bit for bit."""

    VERSION: ClassVar[int] = 1
    NEEDS_DECODER: ClassVar[bool] = True

    class Settings(MemberSettings):
        iterations: int = Field(75, ge=1, description="steps of tuning the decoder, for every picture")
        learning_rate: float = Field(1e-4, gt=0, description="of Adam, which tunes it")
        weight: float = Field(100, gt=0, description="how much a known pixel's error counts, an unknown one's being 1")
        lite: bool = Field(False, description="tune the decoder's middle block and output convolution alone")

    def repaint(self, paint: Paint, step: Pass, canvas: np.ndarray) -> np.ndarray:
        """The latents by the tuned decoder. No random number is drawn.

        Minimises the mean over all pixels of share · (decoded − wanted)²: wanted is the picture, with `weight` for a
        share, where it is known, else what the untuned decoder says, with 1. Raises ValueError for a paint without
        latents or decoder, ArithmeticError where the pixels do not stay finite, PictureError `out_of_memory`.
        """
        import torch

        if paint.decoder is None or paint.latents is None:
            raise ValueError("composite reconstruct decodes anew: it needs a paint with its latents and their decoder")
        try:
            pixels = self._pixels(paint.decoder, paint.latents, canvas, ~mask_of(step))
        except Exception as error:
            if not out_of_memory(error):
                raise
            size = f"{step.shape[1]}×{step.shape[0]}"
            message = (
                f"the decoder could not be tuned at {size} pixels: give the painter a smaller size, or set lite: true"
            )
            raise PictureError("out_of_memory", message) from error
        if not torch.isfinite(pixels).all():
            raise ArithmeticError("the decoded pixels are not finite: broken latents, or a learning_rate far too high")
        image: np.ndarray = (pixels / 2 + 0.5).clamp(0, 1).mul(255).round().to("cpu", torch.uint8).numpy()
        return image

    def _pixels(self, decoder: Decoder, latents: Any, canvas: np.ndarray, known: np.ndarray) -> Any:
        """(H, W, 3) float32 tensor, about -1 to 1; known: bool (H, W)."""
        import torch

        tuned, settings = decoder.vae.decoder, self.settings
        parts = [tuned.mid_block, tuned.conv_out] if settings.lite else [tuned]
        with torch.inference_mode(False), torch.enable_grad(), _repeatable(), _tunable(decoder.vae, parts) as weights:
            latents = latents.clone()  # one made in inference mode would take no gradients
            wanted = decoder.pixels(latents).detach()
            picture = torch.from_numpy(np.array(canvas)).permute(2, 0, 1).to(wanted) / 127.5 - 1
            mask = torch.from_numpy(known).to(wanted.device)
            wanted, share = torch.where(mask, picture, wanted), torch.where(mask, settings.weight, 1.0)
            optimizer = torch.optim.Adam(weights, settings.learning_rate)
            for _ in range(settings.iterations):
                optimizer.zero_grad()
                ((decoder.pixels(latents) - wanted).square() * share).mean().backward()
                optimizer.step()
            with torch.no_grad():
                return decoder.pixels(latents).permute(1, 2, 0)


@contextlib.contextmanager
def _tunable(vae: Any, parts: list[Any]) -> Iterator[list[Any]]:
    """The weights of some of an autoencoder's parts, alone to be trained; afterwards all of it is as it was."""
    import torch

    weights = [weight for part in parts for weight in part.parameters()]
    values = [weight.detach().clone() for weight in weights]
    flags = [(weight, weight.requires_grad, weight.grad) for weight in vae.parameters()]
    modes = [(module, module.training) for module in vae.modules()]
    try:
        vae.eval().requires_grad_(False)
        for weight in weights:
            weight.requires_grad_(True)
            weight.grad = None
        yield weights
    finally:
        with torch.no_grad():
            for weight, value in zip(weights, values, strict=True):
                weight.copy_(value)
        for weight, wanted, gradient in flags:
            weight.requires_grad_(wanted)
            weight.grad = gradient
        for module, training in modes:
            module.training = training


@contextlib.contextmanager
def _repeatable() -> Iterator[None]:
    """Equal bits every time on a GPU too, where fast convolutions and attention add up gradients in any order."""
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel

    before = torch.backends.cudnn.deterministic
    torch.backends.cudnn.deterministic = True
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.cudnn.deterministic = before
