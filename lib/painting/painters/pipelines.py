"""diffusers-inpaint: any inpainting pipeline of diffusers, by hub id or folder.

Window, mask, composite, keys and labels are this project's; how the mask is filled is the pipeline's, and so are the
settings that are left out. Which class inpaints with which weights: pipeline_checkpoint.py.

Passes are painted one at a time, from a generator each, so that a picture's bits do not depend on its neighbours. The
version of diffusers is part of a picture's key.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from functools import cached_property
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, field_validator

from lib.core.checkpoints import ModelRef, silent
from lib.core.quantize import Quantize
from lib.core.registry import MemberSettings
from lib.core.stopping import check_stop
from lib.painting.painters import INPAINTING, Paint, PassInput
from lib.painting.painters.control import ControlChoice, hint_of
from lib.painting.painters.denoise import DiffusionPainter, Size, aspect_shape
from lib.painting.painters.lora import LoraChoice
from lib.painting.painters.pipeline_checkpoint import PipelineCheckpoint

if TYPE_CHECKING:
    pass

# Licences of the checkpoints that presets name; those of others stand on their cards.
LICENCES: Mapping[str, str] = {
    "Tongyi-MAI/Z-Image-Turbo": "Apache-2.0",
    "black-forest-labs/FLUX.1-Fill-dev": "FLUX.1 [dev] Non-Commercial; to be accepted on the hub (`hf auth login`)",
    "Qwen/Qwen-Image-Edit": "Apache-2.0",
}


class DiffusersInpaintSettings(LoraChoice, ControlChoice):
    """Where `steps` or `guidance` are none, they are the pipeline's own."""

    model: str | None = Field(None, description="folder, or hub id with or without @revision; none: the published one")
    steps: int | None = Field(None, ge=1, le=1000, description="denoising steps; none: the pipeline's own")
    guidance: float | None = Field(
        None, ge=0, description="guidance scale (Qwen-Image: true_cfg_scale); none: the pipeline's own"
    )
    strength: float = Field(
        1.0, gt=0, le=1, description="1 paints anew; less begins from the old object, which then shows"
    )
    size: Size = 1024
    dtype: Literal["auto", "float32", "float16", "bfloat16"] = Field(
        "auto", description="precision of the weights; auto: bfloat16 on a GPU, float32 on a CPU"
    )
    quantize: Quantize = Field(
        "no", description="weights of transformer and texts in 8 or 4 bits; needs a GPU and bitsandbytes"
    )
    offload: Literal["auto", "no", "model", "sequential"] = Field(
        "auto",
        description="on a GPU: parts wait in the CPU's memory (model), layer by layer (sequential, slow); auto: model "
        "where they do not fit together",
    )
    diffusers: str = Field(
        default_factory=lambda: version("diffusers"),
        description="version that paints; it is part of the key, and must be the installed one",
    )

    @field_validator("diffusers")
    @classmethod
    def _check_version(cls, given: str) -> str:
        if given != version("diffusers"):
            raise ValueError(f"diffusers {version('diffusers')} is installed: leave it out, or install {given}")
        return given


class DiffusersInpaint(DiffusionPainter):
    """A pipeline of diffusers behind the contract of painters."""

    VERSION: ClassVar[int] = 1
    EDITS: ClassVar[frozenset[str]] = INPAINTING
    MODEL: ClassVar[str | None] = "Tongyi-MAI/Z-Image-Turbo"
    LICENCE: ClassVar[str] = LICENCES["Tongyi-MAI/Z-Image-Turbo"]
    LICENCES: ClassVar[Mapping[str, str]] = LICENCES
    SIDE_BY_SIDE: ClassVar[bool] = False
    Settings: ClassVar[type[MemberSettings]] = DiffusersInpaintSettings

    def __init__(self, settings: Any, model: ModelRef) -> None:
        super().__init__(settings, model)
        self.lora: ModelRef | None = None  # given by the family's `build`
        self.controlnet: ModelRef | None = None  # likewise
        self._pipeline: Any = None

    @staticmethod
    def shape(settings: Any, width: int, height: int) -> tuple[int, int]:
        """(height, width): the window's aspect at about size² pixels, sides multiples of 32."""
        return aspect_shape(settings.size, width, height, multiple=32)

    @property
    def batch_size(self) -> int:
        """One: a pipeline's bits would depend on the neighbours."""
        return 1

    def check(self) -> None:
        """As PipelineCheckpoint.check."""
        self._checkpoint.check()

    @cached_property
    def _checkpoint(self) -> PipelineCheckpoint:
        return PipelineCheckpoint(self.ref, self.settings, self.lora, self.controlnet)

    def _loaded(self) -> Any:
        if self._pipeline is None:
            self._pipeline = self._checkpoint.load()
        return self._pipeline

    def _paint(self, batch: Sequence[PassInput]) -> list[Paint]:
        return [Paint(self._painted(item)) for item in batch]

    def _painted(self, item: PassInput) -> Any:
        import numpy as np
        import torch
        from PIL import Image

        pipeline, (height, width) = self._loaded(), item.step.shape
        values = {
            "prompt": item.step.prompt,
            "negative_prompt": item.step.negative_prompt or " ",
            "image": Image.fromarray(item.canvas),
            "mask_image": Image.fromarray(np.where(item.mask, 255, 0).astype(np.uint8)),
            "height": height,
            "width": width,
            "strength": self.settings.strength,
            "generator": torch.Generator("cpu").manual_seed(item.step.seed),
            "output_type": "pil",
            "callback_on_step_end": _stopping,
            "_auto_resize": False,  # Kontext would paint at a size of its own
        }
        values |= _chosen(type(pipeline), self.settings)
        if self._checkpoint.control is not None:
            values |= hint_of(item, self._checkpoint.control, self.settings)
        known = inspect.signature(type(pipeline).__call__).parameters
        with torch.no_grad(), silent(), torch.random.fork_rng():
            torch.manual_seed(item.step.seed)  # Qwen-Image's with a ControlNet encodes without the generator
            image = pipeline(**{name: value for name, value in values.items() if name in known}).images[0]
        painted = np.asarray(image.convert("RGB"))
        if painted.shape[:2] != (height, width):
            raise ValueError(f"{type(pipeline).__name__} painted {painted.shape[:2]}, {(height, width)} was expected")
        return np.array(painted)

    def _too_large(self, shape: tuple[int, int]) -> str:
        help_ = "set the painter's quantize to 4bit, its offload to sequential, or its size lower"
        return f"{super()._too_large(shape)}: {help_}"


def _stopping(pipeline: Any, step: int, timestep: Any, values: dict[str, Any]) -> dict[str, Any]:
    """Between two steps: end where the run is to end."""
    check_stop()
    return values


def _chosen(kind: type, settings: DiffusersInpaintSettings) -> dict[str, Any]:
    """Arguments of the settings that are given."""
    # Qwen's pipelines have a guidance_scale too, for models that are distilled with one.
    guidance = "true_cfg_scale" if kind.__name__.startswith("Qwen") else "guidance_scale"
    given = {"num_inference_steps": settings.steps, guidance: settings.guidance}
    return {name: value for name, value in given.items() if value is not None}
