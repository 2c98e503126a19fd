"""Latent diffusion by hand: our loop over diffusers' maintained blocks (blocks.py, schedulers.py).

    latents = denoise(model, scheduler, noise, text, guidance=7.5, before_step=..., extra=..., attention=...)

Pipelines seed a whole batch at once; here every picture has its own noise, text and conditions, and its bits do not
depend on its neighbours: the U-Net always sees one batch size.

A painter is a `LatentPainter` that says which checkpoints it takes (`FAMILY`) and how passes become latents
(`_latents`): mostly one call of `_guided` with what differs, `before_step` (change the latents), `extra` (more input
channels), `attention` (cross-attention arguments), `start` (begin half-way), `unet` (something around the U-Net).
inpainting.py is the shortest example.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from lib.core.checkpoints import ModelRef
from lib.core.compute import available_cores, device, out_of_memory, run_padded, side_by_side, weights_dtype
from lib.core.errors import PictureError
from lib.core.stopping import check_stop
from lib.painting.painters import Paint, PassInput
from lib.painting.painters.blocks import (
    Decoder,
    LatentDiffusion,
    check_complete,
    check_family,
    load_latent_diffusion,
    scheduler_config,
)
from lib.painting.painters.lora import LoraChoice, add_lora, check_lora
from lib.painting.painters.reuse import reusing, share_features
from lib.painting.painters.schedulers import ChecksSteps, check_scheduler, make_scheduler, scheduler_name, time_steps

if TYPE_CHECKING:
    import numpy as np
    import torch

# (latents, step from 0, time step) → latents
BeforeStep = Callable[["torch.Tensor", int, "torch.Tensor"], "torch.Tensor"]

SMALL = 256  # pixels: the largest `size` whose pictures a CPU paints side by side

Steps = Annotated[
    int,
    Field(
        ge=1,
        le=1000,
        description="denoising steps; at most 999 with pndm and ddim, 900 with dpm++2m and unipc",
    ),
]
Guidance = Annotated[float, Field(ge=1, description="classifier-free guidance; 1 = none, at half the time")]
SchedulerName = Annotated[str, AfterValidator(scheduler_name), Field(description="pndm, ddim, euler, dpm++2m or unipc")]
Size = Annotated[int, Field(ge=64, description="painted at about size × size pixels, in the window's aspect")]


Share = Annotated[float, Field(ge=0, le=1)]


class LatentSettings(ChecksSteps, LoraChoice):
    """What every latent painter has. A painter's defaults are the values of the system that it replaces."""

    LATER: ClassVar[frozenset[str]] = frozenset({"guided", "reuse"})

    model: str | None = Field(None, description="folder, or hub id with or without @revision; none: the published one")
    steps: Steps = 50
    guidance: Guidance = 7.5
    scheduler: SchedulerName = "pndm"
    size: Size = 512
    batch_size: int = Field(8, ge=1, description="passes painted at once on a GPU; a CPU paints small ones one a core")
    dtype: Literal["auto", "float32", "float16", "bfloat16"] = Field(
        "auto", description="the U-Net's precision; auto: float16 on a GPU, float32 on a CPU"
    )
    compile: bool = Field(False, description="torch.compile the U-Net: minutes at the start of a run, then faster")
    guided: tuple[Share, Share] = Field(
        (0, 1),
        description="from which to which share of the steps guidance acts: the others take half the time (arXiv "
        "2404.07724)",
    )
    reuse: int = Field(
        1,
        ge=1,
        le=100,
        description="of so many steps one computes the whole U-Net, the others reuse its deep features (DeepCache, "
        "arXiv 2312.00858); 1: all compute it",
    )

    @model_validator(mode="after")
    def _check_faster(self) -> Self:
        if self.guided[0] > self.guided[1]:
            raise ValueError(f"guided is {list(self.guided)}: expected from and to, such as [0, 0.6]")
        if self.reuse > 1 and self.compile:
            raise ValueError("reuse and compile do not go together: a compiled U-Net is computed whole")
        return self


def denoise(
    model: LatentDiffusion,
    scheduler: Any,
    noise: torch.Tensor,
    text: torch.Tensor,
    guidance: float,
    *,
    before_step: BeforeStep | None = None,
    extra: torch.Tensor | None = None,
    attention: dict[str, Any] | None = None,
    attended: int | None = None,
    added: dict[str, torch.Tensor] | None = None,
    start: int = 0,
    known: torch.Tensor | None = None,
    unet: Callable[..., Any] | None = None,
    guided: tuple[float, float] = (0, 1),
) -> torch.Tensor:
    """Noise → latents, (N, C, h, w) float32, under classifier-free guidance (Ho and Salimans, arXiv 2207.12598).

    scheduler: with its time steps set; noise: (N, C, h, w), unit variance; guidance: 1 = none. With guidance, `text`
    (2N, T, D) and all tensors in `attention` and `added` hold the unconditional half first; without it the N alone.

    before_step: what happens to the latents before each step.
    extra: (N, C', h, w) channels that the U-Net sees behind the latents at each step.
    attention: cross-attention arguments of the first `attended` steps; none: of all.
    added: conditions beside the text, see `LatentDiffusion.added`.
    start: steps to leave out; then the latents begin as `known` (N, C, h, w), noised to the first step's level.
    unet: called in the place of `model.unet`, with its arguments.
    guided: from which to which share of the steps guidance acts (Kynkäänniemi et al. 2024, arXiv 2404.07724); at the
    others the U-Net sees the conditional half alone.
    """
    import torch

    dtype, unet = model.unet.dtype, unet or model.unet
    times = time_steps(scheduler, start)
    since, until = (share * len(times) - 1e-6 for share in guided)  # so that .29 · 100 steps are 29
    both = text.to(dtype), attention, added
    alone = both if guidance <= 1 else _conditional(both)
    latents = noise * scheduler.init_noise_sigma if known is None else noised(scheduler, known, noise, times[0])
    with torch.no_grad():
        for step, timestep in enumerate(times):
            check_stop()
            if before_step is not None:
                latents = before_step(latents, step, timestep)
            sample = scheduler.scale_model_input(latents, timestep)
            if extra is not None:
                sample = torch.cat([sample, extra], dim=1)
            halves = 2 if guidance > 1 and since <= step < until else 1
            hidden, grounding, more = both if halves == 2 else alone
            prediction = unet(
                torch.cat([sample] * halves).to(dtype),
                timestep,
                encoder_hidden_states=hidden,
                cross_attention_kwargs=grounding if attended is None or step < attended else None,
                added_cond_kwargs=more,
            ).sample.float()
            if halves == 2:
                unconditional, conditional = prediction.chunk(2)
                prediction = unconditional + guidance * (conditional - unconditional)
            latents = scheduler.step(prediction, timestep, latents).prev_sample
    return latents


def _conditional(value: Any) -> Any:
    """The second half of all tensors, alone, in tuples or in dictionaries."""
    if isinstance(value, tuple):
        return tuple(_conditional(part) for part in value)
    if isinstance(value, dict):
        return {name: _conditional(part) for name, part in value.items()}
    return value if value is None else value[len(value) // 2 :]


class DiffusionPainter:
    """What all painters by diffusion share, see lib.painting.painters.Painter: batches, memory, what goes together."""

    VERSION: ClassVar[int]
    EDITS: ClassVar[frozenset[str]]
    MODEL: ClassVar[str | None]
    LICENCE: ClassVar[str]
    MAX_BOXES: ClassVar[int | None] = None
    READS_PHRASES: ClassVar[bool] = False
    HAS_DECODER: ClassVar[bool] = False
    NEEDS_DONOR: ClassVar[bool] = False
    SIDE_BY_SIDE: ClassVar[bool] = True  # several passes may run through the U-Net at once, each in a thread

    def __init__(self, settings: Any, model: ModelRef) -> None:
        self.settings, self.ref = settings, model
        self._fitted: int | None = None  # batch size that went into the GPU's memory, where the wanted one did not

    @property
    def batch_size(self) -> int:
        """On a CPU as many small passes as there are cores, each alone on a core, and large ones one at a time."""
        return self._fitted or (self.settings.batch_size if device().type == "cuda" else self._cores)

    @property
    def _cores(self) -> int:
        """How many passes a CPU paints side by side.

        Threads that share one small picture wait for each other more than they work: on two cores, two pictures at once
        take half the time of two pictures in turn. And a picture's bits depend neither on its place in a batch, as they
        would where threads cut it (by 7e-6), nor on how many cores there are.
        """
        return available_cores() if self.SIDE_BY_SIDE and self.settings.size <= SMALL else 1

    def paint(self, batch: Sequence[PassInput]) -> list[Paint]:
        """Paint passes of one shape. Equal passes give equal bits on one device, in batches of one padded size and at
        one thread count.

        Where memory is not enough, the batch is halved, for good, and an autoencoder works in tiles. Raises
        PictureError `out_of_memory` where that does not help, ValueError for passes that do not go together or hold
        what cannot be painted, ArithmeticError for numbers that overflow, AugmentError for an unusable checkpoint.
        """
        self._check(batch)
        self._loaded()
        try:
            if device().type == "cpu" and self._cores > 1:
                return side_by_side(lambda item: self._paint([item])[0], batch)
            paints, self._fitted = run_padded(batch, self.batch_size, self._paint)
        except Exception as error:
            if not out_of_memory(error):
                raise
            self._fitted = 1
            raise PictureError("out_of_memory", self._too_large(batch[0].step.shape)) from error
        return paints

    def _loaded(self) -> Any:
        """The model, loaded on first use."""
        raise NotImplementedError

    def _paint(self, batch: Sequence[PassInput]) -> list[Paint]:
        """Paint a batch that is known to go together."""
        raise NotImplementedError

    def _check(self, batch: Sequence[PassInput]) -> None:
        for item in batch:
            step = item.step
            if step.shape != batch[0].step.shape:
                raise ValueError(f"a batch has one shape: got {step.shape} and {batch[0].step.shape}")
            if item.canvas.shape[:2] != step.shape or item.mask.shape != step.shape:
                raise ValueError(f"canvas {item.canvas.shape} and mask {item.mask.shape} are not of shape {step.shape}")
            boxes, most = len(step.boxes), self.MAX_BOXES
            if boxes != len(step.phrases) or (most is not None and boxes > most):
                limit = "" if most is None else f", {most} at most"
                raise ValueError(f"{boxes} boxes and {len(step.phrases)} phrases: one each{limit}")

    def _too_large(self, shape: tuple[int, int]) -> str:
        height, width = shape
        return f"{width}×{height} pixels with model {self.ref.id} do not fit into the {device().type}'s memory"


class LatentPainter(DiffusionPainter):
    """What all latent painters share: sizes, the model on first use, texts, latents and what decodes them."""

    HAS_DECODER: ClassVar[bool] = True
    FAMILY: ClassVar[Mapping[str, Any]]  # what the U-Net's config.json must say
    Settings: ClassVar[type[LatentSettings]] = LatentSettings

    def __init__(self, settings: Any, model: ModelRef) -> None:
        super().__init__(settings, model)
        self.lora: ModelRef | None = None  # given by the family's `build`
        self._model: LatentDiffusion | None = None

    @staticmethod
    def shape(settings: Any, width: int, height: int) -> tuple[int, int]:
        """(height, width): the window's aspect at about size² pixels, sides multiples of 64."""
        return aspect_shape(settings.size, width, height)

    def check(self) -> None:
        """Raises AugmentError for a checkpoint of another family, without its files or trained on fewer steps, of which
        only configurations are read, and for a LoRA that cannot be added to it."""
        config = check_family(self.ref, self.FAMILY)
        check_complete(self.ref, config)
        check_scheduler(self.settings.scheduler, scheduler_config(self.ref), self.settings.steps)
        if self.lora is not None:
            check_lora(self.ref, config, self.lora, self.settings.lora_file)

    def decoder(self) -> Decoder:
        """What decodes the latents of its paints; loads the model where that was not done. Raises as `paint`."""
        return self._loaded().decoder

    def _latents(
        self, model: LatentDiffusion, scheduler: Any, noise: torch.Tensor, batch: Sequence[PassInput]
    ) -> torch.Tensor:
        """(N, C, h, w) noise of unit variance → (N, C, h, w) latents of the finished pictures."""
        raise NotImplementedError

    def _guided(
        self, model: LatentDiffusion, scheduler: Any, noise: torch.Tensor, batch: Sequence[PassInput], **more: Any
    ) -> torch.Tensor:
        """`denoise` by the passes' prompts and the settings' guidance; more: what else it takes."""
        prompts, negatives = ([getattr(item.step, name) for item in batch] for name in ("prompt", "negative_prompt"))
        guidance = self.settings.guidance
        text, pooled = model.encode_prompts(prompts, negatives if guidance > 1 else [])
        added = model.added(pooled, batch[0].step.shape)
        if self.settings.reuse > 1:
            more["unet"] = reusing(model.unet, self.settings.reuse)
        return denoise(model, scheduler, noise, text, guidance, added=added, guided=self.settings.guided, **more)

    def _loaded(self) -> LatentDiffusion:
        if self._model is None:
            model = load_latent_diffusion(self.ref, self.FAMILY, weights_dtype(self.settings.dtype))
            if self.lora is not None:
                model = add_lora(model, self.lora, self.settings.lora_file, self.settings.lora_scale)
            if self.settings.compile:
                model.unet.compile()
            else:
                share_features(model.unet)
            self._model = model
        return self._model

    def _paint(self, batch: Sequence[PassInput]) -> list[Paint]:
        model, settings = self._loaded(), self.settings
        scheduler = make_scheduler(settings.scheduler, model.scheduler_config, settings.steps, model.device)
        noise = model.noise([item.step.seed for item in batch], batch[0].step.shape)
        latents, decoder = self._latents(model, scheduler, noise, batch).cpu(), model.decoder
        _check_finite(latents, model.unet.dtype, settings.guidance)
        return [Paint(decoder(one), one, decoder) for one in latents]

    def _too_large(self, shape: tuple[int, int]) -> str:
        settings = self.settings
        half = ", or its dtype to float16" if device().type == "cuda" and settings.dtype == "float32" else ""
        return (
            f"{super()._too_large(shape)}, one pass at a time and decoded in tiles: set the painter's size below "
            f"{settings.size}{half}"
        )


def _check_finite(latents: torch.Tensor, dtype: torch.dtype, guidance: float) -> None:
    """Raises ArithmeticError with what may help."""
    import torch

    if torch.isfinite(latents).all():
        return
    if dtype == torch.float32:
        raise ArithmeticError(f"latents are not finite: the weights are damaged, or guidance {guidance:g} is too large")
    name = str(dtype).removeprefix("torch.")
    raise ArithmeticError(f"latents are not finite: the U-Net overflows in {name}, set the painter's dtype to float32")


def noised(scheduler: Any, known: torch.Tensor, noise: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
    """Known latents (N, C, h, w) at the noise level of a time step, with the pass's own noise: nothing is drawn."""
    result: torch.Tensor = scheduler.add_noise(known, noise, timestep.expand(len(known)))
    return result


def known_kept(known_at: Callable[[torch.Tensor], torch.Tensor], paint_at: Callable[[int], torch.Tensor]) -> BeforeStep:
    """A `before_step` that puts known latents back where they are not painted (Blended Latent Diffusion, arXiv
    2206.02779, and GLIGEN's inpainting): z = known·(1 − paint) + z·paint.

    known_at: time step → (N, C, h, w) known latents as noisy as they shall be; paint_at: step from 0 → (N, 1, h, w),
    0 = known, 1 = painted.
    """

    def before_step(latents: torch.Tensor, step: int, timestep: torch.Tensor) -> torch.Tensor:
        return blend(known_at(timestep), latents, paint_at(step))

    return before_step


def blend(known: torch.Tensor, painted: torch.Tensor, paint: torch.Tensor) -> torch.Tensor:
    """known·(1 − paint) + painted·paint, (N, C, h, w); paint: (N, 1, h, w), 0 to 1."""
    return known * (1 - paint) + painted * paint


def paint_cells(masks: Sequence[np.ndarray], factor: int, where: torch.device) -> torch.Tensor:
    """bool (H, W) masks, True = paint → (N, 1, h, w) float32: 1 for each latent cell with any pixel to paint.

    The maximum, so that a mask smaller than a cell does not vanish.
    """
    import numpy as np
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
