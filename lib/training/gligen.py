"""The painters: one gated U-Net (Li et al. 2023, arXiv 2301.07093) for inpainting, another for whole pictures.

Inpainting sees [z_t, z · keep, keep]. With nothing kept the last five channels are 0: then it generates. So one U-Net
learns both tasks first, and generation starts from it with those channels cut off, which changes nothing (`as_plain`).

loss = min-SNR(γ = 5)-weighted error of v (Hang et al. 2023, arXiv 2303.09556; Salimans & Ho 2022, arXiv 2202.00512)
       + λ · layout

The layout term (layout_loss.py) teaches which token belongs where. Captions and boxes are each left
out 10 % of the time, for guidance.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from pydantic import Field

from lib.core.checkpoints import ModelRef, load_whole, reading
from lib.core.compute import device
from lib.core.words import article
from lib.painting.painters.blocks import LatentDiffusion, text_encoding
from lib.painting.painters.denoise import denoise
from lib.painting.painters.gligen import MAX_BOXES
from lib.painting.painters.schedulers import make_scheduler
from lib.training import loop
from lib.training.clip import text_tower
from lib.training.latents import WINDOWS, WindowsObjective, encoded_windows, sheet_of, stacked
from lib.training.layout_loss import LayoutLoss
from lib.training.loop import LoopSettings
from lib.training.texts import listing
from lib.training.vae import decode, load_vae, save_half
from lib.training.windows import Things, TrainingPicture, Window

DROPPED = 0.1
LAYOUT = 0.1  # λ

SCHEDULE = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
    "prediction_type": "v_prediction",
}


def make_unet(size: int, text_width: int, channels: Sequence[int] = (32, 64, 112, 128), inpaint: bool = True) -> Any:
    """A fresh U-Net for latents of size × size cells. Attention costs most, so it is at a quarter of that alone."""
    from diffusers import UNet2DConditionModel

    unet = UNet2DConditionModel(
        sample_size=size,
        in_channels=9 if inpaint else 4,
        out_channels=4,
        block_out_channels=tuple(channels),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "DownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
        cross_attention_dim=text_width,
        attention_head_dim=(2, 2, 4, 4),  # diffusers: the number of heads
        norm_num_groups=16,
        attention_type="gated",
    )
    with torch.no_grad():
        for name, weight in unet.named_parameters():
            if name.endswith(("alpha_attn", "alpha_dense")):
                weight.fill_(0.5)  # 0 is for adding grounding to a trained U-Net; this one learns both at once
    return unet


def as_plain(unet: Any) -> Any:
    """The 4-channel U-Net that an inpainting one is when nothing is kept."""
    from diffusers import UNet2DConditionModel

    plain = UNet2DConditionModel.from_config({**unet.config, "in_channels": 4})
    weights = dict(unet.state_dict())
    weights["conv_in.weight"] = weights["conv_in.weight"][:, :4].clone()
    plain.load_state_dict(weights)
    return plain


class GligenObjective(WindowsObjective):
    """Denoise latents of windows, given a caption, boxes with phrases, and for inpainting what is kept.

    generation: share of the examples of an inpainting U-Net in which nothing is kept.
    """

    def __init__(self, model: LatentDiffusion, windows: tuple[list[Window], torch.Tensor], generation: float) -> None:
        super().__init__()
        from diffusers import DDPMScheduler
        from diffusers.models.attention_processor import AttnProcessor

        self.model = model  # a dataclass: of its networks the U-Net alone is this module's
        self.unet, self.generation = model.unet, generation
        if device().type == "cpu":
            # torch's fused attention spends a quarter of a step in its backward pass on a CPU.
            self.unet.set_attn_processor(AttnProcessor())
        self.inpaint = self.unet.config.in_channels == 9
        self.noise = DDPMScheduler(**SCHEDULE)
        self.windows, self.latents = windows
        self.attention = LayoutLoss(self.unet, MAX_BOXES)

    def forward(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        latents, keep = batch["latents"], batch["keep"]
        noisy, noise, times = self._noisy(latents)
        inputs = torch.cat([noisy, latents * keep, keep], 1) if self.inpaint else noisy
        grounding = {"boxes": batch["boxes"], "masks": batch["masks"], "positive_embeddings": batch["phrases"]}
        self.attention.start(batch["boxes"], batch["masks"])
        out = self.unet(inputs, times, batch["text"], cross_attention_kwargs={"gligen": grounding}).sample
        layout = self.attention.loss()
        denoised, wrong = self._errors(out, latents, noise, times, keep)
        return {"loss": denoised + LAYOUT * layout, "v": wrong.mean(), "layout": layout.detach()}

    def save(self, folder: Path) -> None:
        """A whole checkpoint in diffusers' form."""
        import json

        from diffusers import PNDMScheduler

        save_half(self.unet, folder / "unet")
        save_half(self.model.vae, folder / "vae")
        save_half(self.model.text_encoder, folder / "text_encoder")
        self.model.tokenizer.save_pretrained(folder / "tokenizer")
        PNDMScheduler(**SCHEDULE, skip_prk_steps=True, steps_offset=1).save_pretrained(folder / "scheduler")
        parts = {
            "scheduler": ["diffusers", "PNDMScheduler"],
            "text_encoder": ["transformers", "CLIPTextModel"],
            "tokenizer": ["transformers", "CLIPTokenizer"],
            "unet": ["diffusers", "UNet2DConditionModel"],
            "vae": ["diffusers", "AutoencoderKL"],
        }
        index = {"_class_name": "StableDiffusionGLIGENPipeline", **parts}
        (folder / "model_index.json").write_text(json.dumps(index, indent=2))

    def sheet(self) -> np.ndarray:
        """Eight windows, then what the U-Net makes of their boxes: each has other noise."""
        windows = self.windows[: 8 * WINDOWS : WINDOWS]
        rng = np.random.default_rng(1)
        rows = [self._example(window, rng, generation=self.generation, dropped=0) for window in windows]
        batch = stacked(rows)
        batch["latents"] = self.latents[: 8 * WINDOWS : WINDOWS].float()
        made = decode(self.model.vae, self._sampled(batch))
        return sheet_of(windows, made)

    def _sampled(self, batch: dict[str, torch.Tensor], guidance: float = 2.5) -> torch.Tensor:
        model, where = self.model, next(self.unet.parameters()).device
        batch = {name: value.to(where) for name, value in batch.items()}
        known, keep = batch["latents"], batch["keep"]
        noise = torch.randn(known.shape, generator=torch.Generator().manual_seed(0)).to(where)
        grounding = {
            "boxes": batch["boxes"].repeat(2, 1, 1),
            "masks": torch.cat([batch["masks"] * 0, batch["masks"]]),
            "positive_embeddings": batch["phrases"].repeat(2, 1, 1),
        }
        text = torch.cat([model.encode_prompts([""] * len(known))[0].to(where), batch["text"]])
        extra = torch.cat([known * keep, keep], 1) if self.inpaint else None
        self.attention.stop()
        scheduler = make_scheduler("ddim", SCHEDULE, loop.SAMPLED, where)
        z = denoise(model, scheduler, noise, text, guidance, extra=extra, attention={"gligen": grounding})
        return z * (1 - keep) + known * keep if self.inpaint else z

    def _example(
        self, window: Window, rng: np.random.Generator, generation: float | None = None, dropped: float = DROPPED
    ) -> dict[str, torch.Tensor]:
        """Conditions of one window."""
        generation = self.generation if generation is None else generation
        return conditions(
            self.model, window, self.latents.shape[-1], rng, generation if self.inpaint else None, dropped
        )


def conditions(
    model: LatentDiffusion,
    window: Window,
    cells: int,
    rng: np.random.Generator,
    generation: float | None,
    dropped: float = DROPPED,
) -> dict[str, torch.Tensor]:
    """What a U-Net sees beside the latents of one window of cells × cells: keep (1, h, w), text (T, D), boxes (30, 4),
    masks (30,), phrases (30, D).

    generation: how often nothing is kept; none: always. dropped: how often the text is left out, and the boxes are.
    """
    things, keep = window.things, torch.zeros(1, cells, cells)
    if generation is not None and rng.random() >= generation:
        things, keep = kept_cells(things, cells, rng)
    text = window.caption if rng.random() < 0.7 else listing(things)
    text = "" if rng.random() < dropped else text
    nothing = model.encode_text("")[1][0]
    boxes, masks, phrases = (
        torch.zeros(MAX_BOXES, 4),
        torch.zeros(MAX_BOXES),
        nothing.new_zeros(MAX_BOXES, *nothing.shape),
    )
    if rng.random() >= dropped:
        for row in range(min(len(things), MAX_BOXES)):
            boxes[row] = torch.from_numpy(things.boxes[row]).float()
            phrases[row] = model.encode_text(_phrase(things, row, rng))[1][0]
            masks[row] = 1
    return {"keep": keep, "text": model.encode_text(text)[0][0], "boxes": boxes, "masks": masks, "phrases": phrases}


def kept_cells(things: Things, cells: int, rng: np.random.Generator) -> tuple[Things, torch.Tensor]:
    """What is painted (one object, or several) and the cells that stay: all that no painted box touches."""
    keep = torch.ones(1, cells, cells)
    if not len(things):
        return things, keep * 0
    count = 1 if rng.random() < 0.7 else int(rng.integers(1, len(things) + 1))
    count = min(count, MAX_BOXES)  # all that is painted is a condition
    things = things.take(sorted(rng.permutation(len(things))[:count].tolist()))
    for box in things.boxes:
        x0, y0 = np.floor(box[:2] * cells).astype(int)
        x1, y1 = np.ceil(box[2:] * cells).astype(int)
        more = int(rng.integers(0, 3))  # an edit's margin
        keep[:, max(0, y0 - more) : y1 + more, max(0, x0 - more) : x1 + more] = 0
    return things, keep


def _phrase(things: Things, row: int, rng: np.random.Generator) -> str:
    """A box's phrase: its category as edits give it, or the phrase of the data."""
    name = things.categories[row]
    return [name, f"{article(name)} {name}", things.phrases[row]][rng.choice(3, p=[0.4, 0.1, 0.5])]


class GligenInpaintTrainer:
    """The trainer of the inpainting U-Net, which learns generation as well."""

    VERSION: ClassVar[int] = 1
    NEEDS: ClassVar[tuple[str, ...]] = ("vae", "clip")
    DETAIL: ClassVar[float] = 2
    ABOUT: ClassVar[str] = "GLIGEN inpainting: new content in masked places, by boxes with phrases"

    class Settings(LoopSettings):
        steps: int = Field(6000, ge=0, description="optimiser steps")
        generation: float = Field(0.4, ge=0, le=1, description="share of the examples in which nothing is kept")
        cooldown: float = Field(0.3, ge=0, le=1, description="last share of the steps, over which the rate falls to 0")
        warmup: int = Field(200, ge=0, description="steps over which the rate rises")

    @staticmethod
    def objective(
        settings: Settings, pictures: Sequence[TrainingPicture], size: int, models: Path, start: Path | None, work: Path
    ) -> GligenObjective:
        """A fresh U-Net, or that of `start`."""

        def unet(cells: int, width: int) -> Any:
            return load_unet(start, 9) if start else make_unet(cells, width)

        return _objective(unet, models, _needed(pictures, settings), size, work, settings.generation)


class GligenTrainer:
    """The trainer of the U-Net for whole pictures, which starts from the one that learned both tasks."""

    VERSION: ClassVar[int] = 1
    NEEDS: ClassVar[tuple[str, ...]] = ("vae", "clip", "gligen-inpaint")
    DETAIL: ClassVar[float] = 2
    ABOUT: ClassVar[str] = (
        "GLIGEN generation: a new picture by boxes with phrases; without them a plain 4-channel model"
    )

    class Settings(LoopSettings):
        steps: int = Field(2000, ge=0, description="optimiser steps")
        rate: float = Field(5e-4, gt=0, description="learning rate")

    @staticmethod
    def objective(
        settings: Settings, pictures: Sequence[TrainingPicture], size: int, models: Path, start: Path | None, work: Path
    ) -> GligenObjective:
        """The inpainting U-Net without its last five channels, or the U-Net of `start`."""

        def unet(cells: int, width: int) -> Any:
            return load_unet(start, 4) if start else as_plain(load_unet(models / "gligen-inpaint", 9))

        return _objective(unet, models, _needed(pictures, settings), size, work, 1.0)


def _needed(pictures: Sequence[TrainingPicture], settings: LoopSettings) -> Sequence[TrainingPicture]:
    """Those that are worth encoding: without a step to learn in, the sheet's alone."""
    return pictures if settings.steps else pictures[:8]


def _objective(
    make: Callable[[int, int], Any],
    models: Path,
    pictures: Sequence[TrainingPicture],
    size: int,
    work: Path,
    generation: float,
) -> GligenObjective:
    """With the frozen autoencoder and text tower of `models`; make: (side in cells, width of texts) → U-Net."""
    vae = load_vae(models / "vae").eval().requires_grad_(False).to(device())
    tower, tokenizer = text_tower(models / "clip")
    windows = encoded_windows(vae, pictures, size, work)
    unet = make(size // 2 ** (len(vae.config.block_out_channels) - 1), tower.config.hidden_size)
    # Thousands of captions come again and again, and examples are made on the CPU.
    encode_text = text_encoding(tower, tokenizer, torch.device("cpu"), kept=None)
    model = LatentDiffusion(unet, vae, tower, tokenizer, SCHEDULE, device(), encode_text)
    return GligenObjective(model, windows, generation)


def load_unet(folder: Path, channels: int) -> Any:
    """The gated U-Net of a checkpoint in float32; raises AugmentError for other input channels."""
    from diffusers import UNet2DConditionModel

    with reading(ModelRef("folder", "", folder)):
        unet = load_whole(UNet2DConditionModel, folder, subfolder="unet", torch_dtype=torch.float32)
        found = unet.config.in_channels, unet.config.attention_type
        if found != (channels, "gated"):
            raise ValueError(f"its U-Net has input channels and attention {found}: {(channels, 'gated')} was expected")
        return unet
