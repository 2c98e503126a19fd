"""ControlNets (Zhang et al. 2023, arXiv 2302.05543) beside the pipelines of diffusers: what is painted follows a hint.

Of edges (Canny 1986), so that a replaced object keeps its shape and pose; or of the picture around the mask, for a
ControlNet that was made to inpaint.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from pydantic import Field

from lib.core.checkpoints import ModelRef, check_files, load_whole, local_path, reading
from lib.core.errors import AugmentError
from lib.core.registry import MemberSettings

if TYPE_CHECKING:
    import numpy as np
    import torch

    from lib.painting.painters import PassInput

Hint = Literal["edges", "surroundings"]
CONFIG = "config.json"
WEIGHTS = "diffusion_pytorch_model*.safetensors*"
# Sizes that it has in common with its base.
_SIZES = (
    "block_out_channels",
    "cross_attention_dim",
    "addition_embed_type",
    "joint_attention_dim",
    "num_attention_heads",
)
_EDGES = (100, 200)  # Canny's thresholds, of 255: those of the published ControlNets' examples


class ControlChoice(MemberSettings):
    """Settings of painters that take a ControlNet. Its digest is part of a picture's key, its place is not."""

    controlnet: str | None = Field(
        None, description="a ControlNet for this checkpoint: folder, or hub id with or without @revision; none: none"
    )
    hint: Hint = Field(
        "edges",
        description="what it is shown: edges, of what stands there now, whose shape is kept; or surroundings, the "
        "picture without what is painted, for a ControlNet that inpaints",
    )
    control_scale: float = Field(1.0, ge=0, le=2, description="how much the ControlNet counts")


class Controlled(NamedTuple):
    """The pipeline that inpaints with a ControlNet."""

    pipeline: str
    network: str  # class of the ControlNet
    has: Mapping[str, Any]  # what the ControlNet's config.json must say, null where it is left out
    inpaints: bool = False  # it receives the surroundings and the mask as its hint, and nothing else of the picture


# Pipeline that inpaints → the same with a ControlNet.
CONTROLLED: Mapping[str, Controlled] = {
    "StableDiffusionInpaintPipeline": Controlled("StableDiffusionControlNetInpaintPipeline", "ControlNetModel", {}),
    "StableDiffusionXLInpaintPipeline": Controlled("StableDiffusionXLControlNetInpaintPipeline", "ControlNetModel", {}),
    "FluxInpaintPipeline": Controlled(
        "FluxControlNetInpaintPipeline",
        "FluxControlNetModel",
        {"num_mode": None},  # a union of several would have to be told which one is meant
    ),
    "StableDiffusion3InpaintPipeline": Controlled(
        "StableDiffusion3ControlNetInpaintingPipeline",
        "SD3ControlNetModel",
        {"extra_conditioning_channels": 1},  # the mask
        inpaints=True,
    ),
    "QwenImageInpaintPipeline": Controlled(
        "QwenImageControlNetInpaintPipeline",
        "QwenImageControlNetModel",
        {"extra_condition_channels": 4},  # the mask
        inpaints=True,
    ),
}


def controlled(inpaints: str, hint: Hint) -> Controlled:
    """The pipeline beside a ControlNet. Raises AugmentError where there is none, or where it cannot take this hint."""
    found = CONTROLLED.get(inpaints)
    if found is None:
        raise AugmentError(
            f"painter.controlnet: {inpaints} takes none; it goes with {', '.join(CONTROLLED)}: leave it out, or take a "
            "model of these"
        )
    if found.inpaints and hint != "surroundings":
        raise AugmentError(
            f"painter.hint is {hint!r}: {found.pipeline} is for ControlNets that inpaint: set hint to surroundings"
        )
    return found


def load_control(ref: ModelRef, kind: Controlled, base: Mapping[str, Any], dtype: torch.dtype) -> Any:
    """The ControlNet. Raises AugmentError as `check_control` does, and where it is incomplete."""
    import diffusers

    check_control(ref, kind, base)
    folder = local_path(ref, [CONFIG, WEIGHTS])
    with reading(ref):
        return load_whole(getattr(diffusers, kind.network), folder, torch_dtype=dtype)


def check_control(ref: ModelRef, kind: Controlled, base: Mapping[str, Any]) -> None:
    """Raises AugmentError for a ControlNet of another kind or for another base, or without its files; no weights are
    read. base: configuration of the U-Net or transformer that it is for."""
    from lib.core.documents import read_json

    check_files(ref, [CONFIG, WEIGHTS])
    with reading(ref):
        own = read_json(local_path(ref, [CONFIG]) / CONFIG, "a config.json of diffusers", dict)
        if (name := own.get("_class_name")) != kind.network:
            raise ValueError(f"it is a {name}: {kind.pipeline} takes a {kind.network}")
        for size in _SIZES:
            if own.get(size) != base.get(size):
                raise ValueError(
                    f"it is a ControlNet for another base: its {size} is {own.get(size)}, that of the model "
                    f"{base.get(size)}"
                )
        for name, value in kind.has.items():
            if own.get(name) != value:
                raise ValueError(f"its {name} is {own.get(name)}, expected {value} for {kind.pipeline}: choose another")


def hint_of(item: PassInput, kind: Controlled, settings: ControlChoice) -> dict[str, Any]:
    """Arguments for a pipeline: the hint of a pass, and how much it counts."""
    import numpy as np
    from PIL import Image

    found: dict[str, Any] = {"controlnet_conditioning_scale": settings.control_scale}
    if kind.inpaints:
        mask = Image.fromarray(np.where(item.mask, 255, 0).astype(np.uint8))
        return found | {"control_image": Image.fromarray(item.canvas), "control_mask": mask}
    if settings.hint == "edges":
        return found | {"control_image": Image.fromarray(edges(item.canvas))}
    return found | {"control_image": _surroundings(item)}


def edges(canvas: np.ndarray) -> np.ndarray:
    """Uint8 (H, W, 3): white lines on black."""
    import cv2
    import numpy as np

    lines = cv2.Canny(cv2.cvtColor(canvas, cv2.COLOR_RGB2GRAY), *_EDGES)
    return np.repeat(lines[..., None], 3, 2)


def _surroundings(item: PassInput) -> torch.Tensor:
    """(1, 3, H, W): 0 to 1, and -1 where is painted, as the published ControlNets that inpaint have learned it."""
    import numpy as np
    import torch

    pixels = torch.from_numpy(np.where(item.mask[..., None], -255.0, item.canvas.astype(np.float32)) / 255)
    return pixels.permute(2, 0, 1)[None].float()
