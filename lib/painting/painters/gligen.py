"""gligen and gligen-inpaint: Stable Diffusion 1.4 that paints what each phrase says inside its box.

GLIGEN (Li et al. 2023, arXiv 2301.07093) adds gated self-attention over grounding tokens to a frozen U-Net:
v += tanh(γ)·SelfAttn([v, h])[visual], h from each box and the pooled CLIP embedding of its phrase; at most 30 boxes.
Generation and inpainting are different checkpoints, with 4 and 9 input channels. The published `main` branches hold
pickles alone; the hub's own conversion to safetensors lies in pull request 2 of each, which is what is named below.

The loop is ours (denoise.py); tests/test_gligen.py holds it against diffusers' deprecated pipeline. It differs where
that one is at fault: every picture has separate boxes, noise and text; any shape; no box is cut; the mask covers each
latent cell that it touches; known pixels are noised with the pass's own noise and end as the encoded picture.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field

from lib.painting.painters import INPAINTING, PassInput
from lib.painting.painters.blocks import LatentDiffusion
from lib.painting.painters.denoise import LatentPainter, LatentSettings, blend, known_kept, noised, paint_cells

if TYPE_CHECKING:
    import torch

MAX_BOXES = 30  # grounding tokens that the checkpoints were trained with


Grounding = Annotated[
    float,
    Field(
        ge=0,
        le=1,
        description="first share of the steps that see boxes and phrases: 1 holds to the boxes best, the authors' .3 "
        "looks best",
    ),
]


class GligenSettings(LatentSettings):
    """Of BLIP-2 + GLIGEN, but for the grounding, which is the authors' alpha_type [.3, 0, .7]: all in the first .3 of
    the steps, none in the last .7."""

    grounding: Grounding = 0.3


class GligenInpaintSettings(LatentSettings):
    """The values of LOCO occlusion inpainting and of BLIP-2 + GLIGEN."""

    grounding: Grounding = 1.0


class Gligen(LatentPainter):
    """A new picture from boxes with phrases; the canvas is not looked at."""

    VERSION: ClassVar[int] = 1
    EDITS: ClassVar[frozenset[str]] = frozenset({"layout"})
    MODEL: ClassVar[str | None] = "masterful/gligen-1-4-generation-text-box@refs/pr/2"
    LICENCE: ClassVar[str] = "CreativeML Open RAIL-M"
    MINI: ClassVar[Mapping[str, Any]] = {
        "size": 256,
        "steps": 10,
        "guidance": 4,
        "scheduler": "dpm++2m",
        "grounding": 1.0,  # at all steps, as it was trained
    }
    MAX_BOXES: ClassVar[int | None] = MAX_BOXES
    READS_PHRASES: ClassVar[bool] = True
    FAMILY: ClassVar[Mapping[str, Any]] = {"in_channels": 4, "attention_type": "gated"}
    Settings: ClassVar[type[LatentSettings]] = GligenSettings

    def _latents(
        self, model: LatentDiffusion, scheduler: Any, noise: torch.Tensor, batch: Sequence[PassInput]
    ) -> torch.Tensor:
        return self._guided(model, scheduler, noise, batch)

    def _guided(
        self, model: LatentDiffusion, scheduler: Any, noise: torch.Tensor, batch: Sequence[PassInput], **more: Any
    ) -> torch.Tensor:
        attention = {"gligen": _grounding(model, batch, self.settings.guidance > 1)}
        # As in diffusers; the sum keeps .29 · 100 steps from being 28.
        until = int(self.settings.grounding * len(scheduler.timesteps) + 1e-6)
        return super()._guided(model, scheduler, noise, batch, attention=attention, attended=until, **more)


class GligenInpaint(Gligen):
    """New content in the masked part of the canvas, by boxes with phrases; what is not masked stays.

    The U-Net sees [z, z_known · keep, keep], 1 = keep. Stable Diffusion's inpainting has it the other way round.
    """

    VERSION: ClassVar[int] = 1
    EDITS: ClassVar[frozenset[str]] = INPAINTING
    MODEL: ClassVar[str | None] = "masterful/gligen-1-4-inpainting-text-box@refs/pr/2"
    FAMILY: ClassVar[Mapping[str, Any]] = {"in_channels": 9, "attention_type": "gated"}
    Settings: ClassVar[type[LatentSettings]] = GligenInpaintSettings

    def _latents(
        self, model: LatentDiffusion, scheduler: Any, noise: torch.Tensor, batch: Sequence[PassInput]
    ) -> torch.Tensor:
        import torch

        known = model.encode([item.canvas for item in batch])
        paint = paint_cells([item.mask for item in batch], model.factor, model.device)
        hook = known_kept(lambda timestep: noised(scheduler, known, noise, timestep), lambda step: paint)
        extra = torch.cat([known * (1 - paint), 1 - paint], dim=1)
        latents = self._guided(model, scheduler, noise, batch, before_step=hook, extra=extra)
        return blend(known, latents, paint)


def _grounding(model: LatentDiffusion, batch: Sequence[PassInput], guided: bool) -> dict[str, torch.Tensor]:
    """What the U-Net's position_net takes: boxes (N, 30, 4) xyxy in [0, 1], phrases (N, 30, D), masks (N, 30).

    A mask of 0 is GLIGEN's learned "no box". With guidance the unconditional half, all 0, comes first.
    """
    import torch

    count, size = len(batch), model.text_encoder.config.hidden_size
    boxes, phrases, masks = (torch.zeros(count, MAX_BOXES, *more) for more in ((4,), (size,), ()))
    for row, item in enumerate(batch):
        height, width = item.step.shape
        for column, (box, phrase) in enumerate(zip(item.step.boxes, item.step.phrases, strict=True)):
            boxes[row, column] = torch.tensor(box) / torch.tensor([width, height, width, height])
            phrases[row, column] = model.encode_text(phrase)[1][0].cpu()
            masks[row, column] = 1
    if guided:
        boxes, phrases, masks = boxes.repeat(2, 1, 1), phrases.repeat(2, 1, 1), torch.cat([masks * 0, masks])
    grounding = {"boxes": boxes, "positive_embeddings": phrases, "masks": masks}
    return {name: value.to(model.device, model.unet.dtype) for name, value in grounding.items()}
