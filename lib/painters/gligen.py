"""gligen and gligen-inpaint: Stable Diffusion 1.4 that paints what each phrase says inside its box.

GLIGEN (Li et al. 2023, arXiv 2301.07093) adds gated self-attention over grounding tokens to a frozen U-Net:
v += tanh(γ)·SelfAttn([v, h])[visual], h from each box and the pooled CLIP embedding of its phrase; at most 30 boxes.
Generation and inpainting are different checkpoints, with 4 and 9 input channels. The published `main` branches hold
pickles alone; the hub's own conversion to safetensors lies in pull request 2 of each, which is what is named below.

The loop is ours (denoise.py); tests/test_gligen.py holds it against diffusers' deprecated pipeline. It differs where
that one is at fault: every picture has its own boxes, noise and text; any shape; no box is cut; the mask covers each
latent cell that it touches; known pixels are noised with the pass's own noise and end as the encoded picture.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, field_validator

from lib.models import ModelRef, device, run_padded, weights_dtype
from lib.painters import Paint, PassInput
from lib.painters.denoise import (
    BeforeStep,
    LatentDiffusion,
    aspect_shape,
    denoise,
    known_kept,
    load_latent_diffusion,
    paint_cells,
)
from lib.painters.schedulers import make_scheduler, scheduler_name
from lib.registry import MemberSettings

if TYPE_CHECKING:
    import torch

MAX_BOXES = 30  # grounding tokens that the checkpoints were trained with


class GligenSettings(MemberSettings):
    """Defaults are the seed systems' values."""

    model: str | None = Field(None, description="folder, or hub id with or without @revision; none: the published one")
    steps: int = Field(50, ge=1, le=1000, description="denoising steps")
    guidance: float = Field(7.5, ge=1, description="classifier-free guidance; 1 = none, at half the time")
    grounding: float = Field(
        1.0,
        ge=0,
        le=1,
        description="first share of the steps that see boxes and phrases: 1 holds to the boxes best; "
        "the paper's .2 and diffusers' .3 trade that for looks",
    )
    scheduler: str = Field("pndm", description="pndm, ddim, euler, dpm++2m or unipc")
    size: int = Field(512, ge=64, description="painted at about size × size pixels, in the window's aspect")
    batch_size: int = Field(8, ge=1, description="passes painted at once on a GPU; a CPU paints one at a time")
    dtype: Literal["auto", "float32", "float16", "bfloat16"] = Field(
        "auto", description="the U-Net's precision; auto: float16 on a GPU, float32 on a CPU"
    )

    _known_scheduler = field_validator("scheduler")(scheduler_name)


class Gligen:
    """A new picture from boxes with phrases; the canvas is not looked at."""

    VERSION: ClassVar[int] = 1
    EDITS: ClassVar[frozenset[str]] = frozenset({"layout"})
    MODEL: ClassVar[str | None] = "masterful/gligen-1-4-generation-text-box@refs/pr/2"
    LICENCE: ClassVar[str] = "CreativeML Open RAIL-M"
    MINI: ClassVar[Mapping[str, Any]] = {"size": 128, "steps": 25, "guidance": 2.5, "scheduler": "ddim"}
    MAX_BOXES: ClassVar[int | None] = MAX_BOXES
    NEEDS_DONOR: ClassVar[bool] = False
    IN_CHANNELS: ClassVar[int] = 4
    Settings: ClassVar[type[MemberSettings]] = GligenSettings

    def __init__(self, settings: GligenSettings, model: ModelRef) -> None:
        self.settings, self.ref = settings, model
        self._model: LatentDiffusion | None = None
        self._fitted: int | None = None  # batch size that went into the GPU's memory, where the wanted one did not

    @staticmethod
    def shape(settings: GligenSettings, width: int, height: int) -> tuple[int, int]:
        """(height, width): the window's aspect at about size² pixels, sides multiples of 64."""
        return aspect_shape(settings.size, width, height)

    @property
    def batch_size(self) -> int:
        """1 on a CPU: threads cut a batch anywhere, so bits would depend on a picture's place in it (by 7e-6), and a
        batch is no faster there.
        """
        return (self._fitted or self.settings.batch_size) if device().type == "cuda" else 1

    def paint(self, batch: Sequence[PassInput]) -> list[Paint]:
        """Paint passes of one shape. Equal passes give equal bits on one device, at one batch size or thread count.

        Where the GPU's memory is not enough, the batch is halved, for good. Raises ValueError for passes that do not
        go together or hold what cannot be painted, AugmentError where the checkpoint cannot be used.
        """
        _check(batch)
        paints, size = run_padded(batch, self.batch_size, self._paint)
        self._fitted = size
        return paints

    def _loaded(self) -> LatentDiffusion:
        if self._model is None:
            has = {"in_channels": self.IN_CHANNELS, "attention_type": "gated"}
            self._model = load_latent_diffusion(self.ref, has, weights_dtype(self.settings.dtype))
        return self._model

    def _paint(self, batch: Sequence[PassInput]) -> list[Paint]:
        model, settings = self._loaded(), self.settings
        scheduler = make_scheduler(settings.scheduler, model.scheduler_config, settings.steps, model.device)
        noise = model.noise([item.spec.seed for item in batch], batch[0].spec.shape)
        latents = self._denoise(model, scheduler, noise, batch).cpu()
        return [Paint(model.decode(own), own, model.decode) for own in latents]

    def _denoise(
        self, model: LatentDiffusion, scheduler: Any, noise: torch.Tensor, batch: Sequence[PassInput]
    ) -> torch.Tensor:
        return self._guided(model, scheduler, noise, batch)

    def _guided(
        self,
        model: LatentDiffusion,
        scheduler: Any,
        noise: torch.Tensor,
        batch: Sequence[PassInput],
        before_step: BeforeStep | None = None,
        extra: torch.Tensor | None = None,
    ) -> torch.Tensor:
        guidance = self.settings.guidance
        texts = [item.spec.prompt for item in batch]
        if guidance > 1:
            texts = [item.spec.negative_prompt for item in batch] + texts
        attention = {"gligen": _grounding(model, batch, guidance > 1)}
        # As in diffusers; the sum keeps .29 · 100 steps from being 28.
        until = int(self.settings.grounding * len(scheduler.timesteps) + 1e-6)
        hook = _grounded_until(model.unet, until, before_step)
        return denoise(model, scheduler, noise, model.hidden(texts), guidance, hook, extra, attention)


class GligenInpaint(Gligen):
    """New content in the masked part of the canvas, by boxes with phrases; what is not masked stays.

    The U-Net sees [z, z_known · keep, keep], 1 = keep. Stable Diffusion's inpainting has it the other way round.
    """

    VERSION: ClassVar[int] = 1
    EDITS: ClassVar[frozenset[str]] = frozenset({"replace"})
    MODEL: ClassVar[str | None] = "masterful/gligen-1-4-inpainting-text-box@refs/pr/2"
    IN_CHANNELS: ClassVar[int] = 9

    def _denoise(
        self, model: LatentDiffusion, scheduler: Any, noise: torch.Tensor, batch: Sequence[PassInput]
    ) -> torch.Tensor:
        import torch

        known = model.encode([item.canvas for item in batch])
        keep = 1 - paint_cells([item.mask for item in batch], model.factor, model.device)
        extra = torch.cat([known * keep, keep], dim=1)
        hook = known_kept(scheduler, known, noise, keep)
        latents = self._guided(model, scheduler, noise, batch, hook, extra)
        return known * keep + latents * (1 - keep)


def _check(batch: Sequence[PassInput]) -> None:
    for item in batch:
        spec = item.spec
        if spec.shape != batch[0].spec.shape:
            raise ValueError(f"a batch has one shape: got {spec.shape} and {batch[0].spec.shape}")
        if item.canvas.shape[:2] != spec.shape or item.mask.shape != spec.shape:
            raise ValueError(f"canvas {item.canvas.shape} and mask {item.mask.shape} are not of shape {spec.shape}")
        if len(spec.boxes) != len(spec.phrases) or len(spec.boxes) > MAX_BOXES:
            raise ValueError(f"{len(spec.boxes)} boxes and {len(spec.phrases)} phrases: one each, {MAX_BOXES} at most")


def _grounding(model: LatentDiffusion, batch: Sequence[PassInput], guided: bool) -> dict[str, torch.Tensor]:
    """What the U-Net's position_net takes: boxes (N, 30, 4) xyxy in [0, 1], phrases (N, 30, D), masks (N, 30).

    A mask of 0 is GLIGEN's learned "no box". With guidance the unconditional half, all 0, comes first.
    """
    import torch

    count, size = len(batch), model.text_encoder.config.hidden_size
    boxes, phrases, masks = (torch.zeros(count, MAX_BOXES, *more) for more in ((4,), (size,), ()))
    for row, item in enumerate(batch):
        height, width = item.spec.shape
        for column, (box, phrase) in enumerate(zip(item.spec.boxes, item.spec.phrases, strict=True)):
            boxes[row, column] = torch.tensor(box) / torch.tensor([width, height, width, height])
            phrases[row, column] = model.encode_text(phrase)[1][0].cpu()
            masks[row, column] = 1
    if guided:
        boxes, phrases, masks = boxes.repeat(2, 1, 1), phrases.repeat(2, 1, 1), torch.cat([masks * 0, masks])
    told = {"boxes": boxes, "positive_embeddings": phrases, "masks": masks}
    return {name: value.to(model.device, model.unet.dtype) for name, value in told.items()}


def _grounded_until(unet: Any, until: int, then: BeforeStep | None) -> BeforeStep:
    """A `before_step` that turns grounding on at the first step and off at step `until`, then calls `then`."""
    from diffusers.models.attention import GatedSelfAttentionDense

    fusers = [module for module in unet.modules() if isinstance(module, GatedSelfAttentionDense)]

    def before_step(latents: torch.Tensor, step: int, timestep: torch.Tensor) -> torch.Tensor:
        for fuser in fusers:
            fuser.enabled = step < until
        return latents if then is None else then(latents, step, timestep)

    return before_step
