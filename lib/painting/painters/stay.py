"""stay: a layout-to-image model trained on your data, which paints each category inside its box.

STAY diffusion (arXiv 2503.12213), by our U-Net, stay_unet.py. It receives boxes with their categories, a style
of noise for each object, and the pixels that stay. There is no published checkpoint; `augment train stay` makes one:

    painter: {name: stay, model: FOLDER}

A pass is painted at the model's size, a square of 64 pixels say. So scale matters: of a window of 256 pixels a
64-pixel model sees every fourth. Small defects need windows of the model's size: `edit: {min_window: 64, context: 1}`,
as preset `stay-defects` has it. Edit `layout` shows the whole picture in one window: what it paints is as coarse as the
model is small, 64 pixels stretched to a board's 640.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from lib.core.checkpoints import NOT_PUBLISHED, ModelRef, local_path, reading
from lib.core.compute import device
from lib.core.errors import AugmentError, PictureError
from lib.painting.painters import INPAINTING, Paint, PassInput
from lib.painting.painters.blocks import Decoder
from lib.painting.painters.denoise import DiffusionPainter, Guidance, SchedulerName, Steps, paint_cells
from lib.painting.painters.schedulers import ChecksSteps, make_scheduler

if TYPE_CHECKING:
    import numpy as np
    import torch

    from lib.painting.painters.stay_unet import LayoutModel

CONFIG, VAE_CONFIG = "unet/config.json", "vae/config.json"
LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601


class Stay(DiffusionPainter):
    """Objects by their boxes' categories. Known pixels are an input, and put back, noised, before every step.

    A grey model paints grey, whatever the picture is. Phrases must be categories that the model knows; prompts are not
    read. Without boxes, as in edit `background`, it paints what is likely in that place.
    """

    VERSION: ClassVar[int] = 1
    EDITS: ClassVar[frozenset[str]] = INPAINTING | {"layout"}
    MODEL: ClassVar[str | None] = NOT_PUBLISHED
    LICENCE: ClassVar[str] = "your own weights"
    READS_PHRASES: ClassVar[bool] = True

    class Settings(ChecksSteps):
        """Guidance is the paper's."""

        model: str | None = Field(None, description="folder of a model that was trained as `stay`; none is published")
        steps: Steps = 25
        guidance: Guidance = 1.5
        scheduler: SchedulerName = "ddim"
        size: int = Field(64, ge=8, description="side of the pictures that the model was trained on, pixels")
        batch_size: int = Field(32, ge=1, description="passes painted at once on a GPU; a CPU paints one a core")

    def __init__(self, settings: Settings, model: ModelRef) -> None:
        super().__init__(settings, model)
        self._model: LayoutModel | None = None

    @staticmethod
    def shape(settings: Settings, width: int, height: int) -> tuple[int, int]:
        """(size, size), whatever the window: the model was trained at no other."""
        return settings.size, settings.size

    def check(self) -> None:
        """Raises AugmentError for a checkpoint of another kind or size; only its configs are read."""
        with reading(self.ref):
            folder = local_path(self.ref, [CONFIG], ["vae/*"])
            config = json.loads((folder / CONFIG).read_bytes())
            vae = json.loads((folder / VAE_CONFIG).read_bytes()) if (folder / VAE_CONFIG).is_file() else None
            kind = config.get("_class_name")
            side = config.get("sample_size", 0) * (1 if vae is None else _factor(vae))
        if kind != "LayoutUNet":
            raise AugmentError(
                f"model {self.ref} is of another kind: its U-Net is a {kind}, stay needs a LayoutUNet, which "
                f"`augment train stay` makes"
            )
        wanted = self.settings.size
        if side != wanted:
            raise AugmentError(
                f"model {self.ref} paints {side} × {side} pixels, and the painter's size is {wanted}: give "
                f"painter: {{name: stay, size: {side}}}, and the edit a min_window of {side}"
            )

    def _loaded(self) -> LayoutModel:
        from lib.painting.painters.stay_unet import load_layout_unet

        if self._model is None:
            self.check()
            model, where = load_layout_unet(self.ref), device()
            for block in (model.unet, model.vae):
                if block is not None:
                    block.to(where).requires_grad_(False)
            self._model = model
        return self._model

    def _check(self, batch: Sequence[PassInput]) -> None:
        """Also raises PictureError `category_unknown` and `too_many_boxes` for what this model does not take."""
        super()._check(batch)
        config = self._loaded().unet.config
        for item in batch:
            unknown = sorted(set(item.step.phrases) - set(config.categories))
            if unknown:
                known = ", ".join(config.categories)
                raise PictureError("category_unknown", f"{', '.join(unknown)}: the model knows {known}")
            if len(item.step.boxes) > config.max_objects:
                detail = f"{len(item.step.boxes)} boxes, {config.max_objects} at most in this model"
                raise PictureError("too_many_boxes", detail)

    def _paint(self, batch: Sequence[PassInput]) -> list[Paint]:
        import torch

        from lib.painting.painters.stay_unet import paint_layout

        model, where, settings = self._loaded(), device(), self.settings
        scheduler = make_scheduler(settings.scheduler, model.scheduler, settings.steps, where)
        known, masks = _encoded(model, batch, where), [_to_paint(item) for item in batch]
        keep = 1 - paint_cells(masks, masks[0].shape[0] // known.shape[2], where)
        columns = zip(*(_conditions(model, item) for item in batch), strict=True)
        noise, styles, boxes, labels = (torch.stack(values).to(where) for values in columns)
        painted = paint_layout(model.unet, scheduler, noise, boxes, labels, styles, settings.guidance, known, keep)
        return [Paint(_decoded(model, one, where)) for one in painted]


def _to_paint(item: PassInput) -> np.ndarray:
    """bool (H, W): what is painted; pixels beyond the frame too where the region spans the window's width or height.

    Around any other region there is something of the picture, or of what repeats it, on each side of the window.
    """
    import numpy as np

    step, (left, top, right, bottom) = item.step, item.step.window
    whole = any((x0 <= left and x1 >= right) or (y0 <= top and y1 >= bottom) for x0, y0, x1, y1 in step.region)
    return np.ones_like(item.mask) if whole and not step.holes and step.mask is None else item.mask


def _conditions(model: LayoutModel, item: PassInput) -> tuple[torch.Tensor, ...]:
    """What one pass starts from: noise (C, h, w) and styles (K, style_dim), drawn on the CPU from its seed; boxes
    (K, 4) xyxy in 0 .. 1 and labels (K,), 0 = none. K is the model's, so that a pass depends on none of its neighbours.
    """
    import torch

    config, step, random = model.unet.config, item.step, torch.Generator("cpu").manual_seed(item.step.seed)
    height, width = step.shape
    noise = torch.randn(config.channels, height // model.factor, width // model.factor, generator=random)
    styles = torch.randn(config.max_objects, config.style_dim, generator=random)
    boxes, labels = torch.zeros(config.max_objects, 4), torch.zeros(config.max_objects, dtype=torch.int64)
    for row, (box, phrase) in enumerate(zip(step.boxes, step.phrases, strict=True)):
        boxes[row] = torch.tensor(box) / torch.tensor([width, height, width, height])
        labels[row] = 1 + config.categories.index(phrase)
    return noise, styles, boxes, labels


def _encoded(model: LayoutModel, batch: Sequence[PassInput], where: torch.device) -> torch.Tensor:
    """(N, C, h, w) float32 of the canvases: pixels in -1 .. 1, grey ones by luma, or the autoencoder's mode."""
    import numpy as np
    import torch

    channels = model.unet.config.channels if model.vae is None else model.vae.config.in_channels
    pixels = [item.canvas.astype(np.float32) for item in batch]
    if channels == 1:
        pixels = [(rgb @ np.array(LUMA, np.float32))[..., None] for rgb in pixels]
    scaled = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).to(where) / 127.5 - 1
    if model.vae is None:
        return scaled
    with torch.no_grad():
        modes = [model.vae.encode(one[None]).latent_dist.mode() for one in scaled]
    latents: torch.Tensor = torch.cat(modes) * model.vae.config.scaling_factor
    return latents


def _decoded(model: LayoutModel, painted: torch.Tensor, where: torch.device) -> np.ndarray:
    """(C, h, w) → uint8 (H, W, 3) RGB, a grey one three times. Raises ArithmeticError where it is not finite."""
    import numpy as np
    import torch

    if model.vae is not None:
        return Decoder(model.vae, where)(painted)
    if not torch.isfinite(painted).all():
        raise ArithmeticError("the paint is not finite: the checkpoint is damaged, or was never trained")
    pixels = (painted / 2 + 0.5).clamp(0, 1).mul(255).round().to("cpu", torch.uint8).permute(1, 2, 0).numpy()
    return np.ascontiguousarray(np.broadcast_to(pixels, (*pixels.shape[:2], 3)))


def _factor(vae: Any) -> int:
    """Pixels per latent cell, each way."""
    return int(2 ** (len(vae["block_out_channels"]) - 1))
