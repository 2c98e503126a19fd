"""sd-inpaint and sdxl-inpaint: U-Nets that were trained to inpaint, and see mask and picture in additional channels.

The 9 channels are [z, mask, latent of the masked picture], mask 1 = paint: the other way round from GLIGEN's. In the
masked picture what is to be painted is mid-grey. Painting starts from pure noise (strength 1 in diffusers), SDXL's from
the noised picture (.9999), and nothing is put back: what surrounds the mask comes near to the picture by itself, and
composites take care of the rest.

The loop is ours (denoise.py); tests/test_stable_diffusion.py holds it against diffusers' pipelines. It differs in that
the mask covers each latent cell that it touches, that the autoencoder's mode is taken, not a draw, and that every
picture has separate noise and text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from lib.painting.painters import INPAINTING, PassInput
from lib.painting.painters.blocks import LatentDiffusion
from lib.painting.painters.denoise import (
    Guidance,
    LatentPainter,
    LatentSettings,
    SchedulerName,
    Size,
    Steps,
    paint_cells,
)

if TYPE_CHECKING:
    import torch


class SdInpaintSettings(LatentSettings):
    guidance: Guidance = 8


class SdxlInpaintSettings(LatentSettings):
    steps: Steps = 30
    guidance: Guidance = 5
    scheduler: SchedulerName = "euler"
    size: Size = 1024


class SdInpaint(LatentPainter):
    """Stable Diffusion 1.5 or 2 inpainting (arXiv 2112.10752)."""

    VERSION: ClassVar[int] = 1
    EDITS: ClassVar[frozenset[str]] = INPAINTING
    MODEL: ClassVar[str | None] = "sd2-community/stable-diffusion-2-inpainting"
    LICENCE: ClassVar[str] = "CreativeML Open RAIL++-M"
    FAMILY: ClassVar[Mapping[str, Any]] = {
        "in_channels": 9,
        "attention_type": "default",
        "addition_embed_type": None,
    }
    Settings: ClassVar[type[LatentSettings]] = SdInpaintSettings
    START: ClassVar[int] = 0  # steps that are left out; then painting begins with the noised picture

    def _latents(
        self, model: LatentDiffusion, scheduler: Any, noise: torch.Tensor, batch: Sequence[PassInput]
    ) -> torch.Tensor:
        import torch

        masks = [item.mask for item in batch]
        around = model.encode([item.canvas for item in batch], hidden=masks)
        extra = torch.cat([paint_cells(masks, model.factor, model.device), around], dim=1)
        start = min(self.START, self.settings.steps - 1)
        known = model.encode([item.canvas for item in batch]) if start else None
        return self._guided(model, scheduler, noise, batch, extra=extra, start=start, known=known)


class SdxlInpaint(SdInpaint):
    """SDXL inpainting (arXiv 2307.01952): two text encoders, and the U-Net receives the picture's size.

    Its card says that from pure noise (strength 1) its pictures are poor; diffusers' pipeline begins at .9999, with the
    picture as noisy as at the second of its steps, and so does this.
    """

    VERSION: ClassVar[int] = 2  # 2: begins with the noised picture
    MODEL: ClassVar[str | None] = "diffusers/stable-diffusion-xl-1.0-inpainting-0.1"
    FAMILY: ClassVar[Mapping[str, Any]] = {"in_channels": 9, "addition_embed_type": "text_time"}
    Settings: ClassVar[type[LatentSettings]] = SdxlInpaintSettings
    START: ClassVar[int] = 1
