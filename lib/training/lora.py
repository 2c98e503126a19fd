"""LoRA (Hu et al. 2021, arXiv 2106.09685): a published painter learns the look of one's own objects from some pictures.

The base keeps its weights; beside the layers of its U-Net stand pairs of small matrices that learn: W + B·A. Any
checkpoint does that the painters of this project load: GLIGEN, whose gated layers learn too, by boxes with phrases;
Stable Diffusion and SDXL inpainting, by the listing of what is painted. What is saved is one file of a few MB in
diffusers' form, which other programs read as well.

loss = min-SNR(γ = 5)-weighted error (Hang et al. 2023, arXiv 2303.09556) of what the base predicts, ε or v. As in
gligen.py, captions and boxes are left out 10 % of the time. Some examples paint a place without an object, by an empty
text: what lies around objects is learned apart from them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import nn

from lib.core.checkpoints import ModelRef, reading, resolve
from lib.core.compute import device
from lib.core.errors import unknown
from lib.painting.painters.blocks import LatentDiffusion, load_latent_diffusion, tokens_of
from lib.painting.painters.denoise import denoise
from lib.painting.painters.schedulers import make_scheduler
from lib.painting.painters.words import FOLDER, Words, encoded
from lib.training import loop
from lib.training.gligen import DROPPED, conditions
from lib.training.latents import encoded_windows, sheet_of, stacked
from lib.training.loop import LoopSettings
from lib.training.lora_base import LoraExamples, LoraSettings, Matrices
from lib.training.lora_flow import FlowLora, flow_objective, flow_of
from lib.training.vae import decode
from lib.training.windows import TrainingPicture, Window

# Layers by the end of their names: attention (of the gates too), and all that has weights of any size.
TARGETS = {
    "attention": ("to_q", "to_k", "to_v", "to_out.0", "fuser.linear"),
    "all": (
        *("to_q", "to_k", "to_v", "to_out.0", "fuser.linear", "ff.net.0.proj", "ff.net.2", "proj_in", "proj_out"),
        *("conv1", "conv2", "conv_shortcut", "conv"),
    ),
}


class LoraObjective(LoraExamples):
    """Denoise latents of windows by a frozen U-Net with learning matrices beside its layers."""

    def __init__(
        self, model: LatentDiffusion, windows: tuple[list[Window], torch.Tensor], settings: LoraSettings
    ) -> None:
        super().__init__()
        from diffusers import DDPMScheduler
        from diffusers.models.attention_processor import AttnProcessor

        self.words = None
        if settings.words:
            names = sorted({name for window in windows[0] for name in window.things.categories})
            begun = Words.of(model, names)
            self.vectors = nn.Parameter(begun.vectors)
            self.words = replace(begun, vectors=self.vectors)
            model = self.words.taught(model)
        self.reader = self._reader(model)
        self.model = model  # a dataclass: of its networks the matrices and words alone are this module's
        self.windows, self.latents = windows
        self.background, self.each, self.learn = settings.background, settings.windows, settings.learn
        unet = model.unet
        if device().type == "cpu":
            unet.set_attn_processor(AttnProcessor())  # see gligen.py
        self.beside = Matrices(unet, "unet", settings.rank, TARGETS[settings.targets])
        self.matrices = self.beside.weights
        self.gated = unet.config.get("attention_type") == "gated"
        self.inpaint = unet.config.in_channels == 9
        self.noise = DDPMScheduler.from_config(dict(model.scheduler_config))

    def forward(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        batch = self._encoded(batch)
        latents, keep = batch["latents"], batch["keep"]
        noisy, noise, times = self._noisy(latents)
        inputs = torch.cat([noisy, *self._extra(batch)], 1)
        out = self.model.unet(
            inputs,
            times,
            batch["text"],
            cross_attention_kwargs=self._grounding(batch),
            added_cond_kwargs=self._added(batch),
        ).sample
        loss, wrong = self._errors(out, latents, noise, times, keep)
        return {"loss": loss, "error": wrong.mean()}

    def load(self, folder: Path) -> None:
        """Go on from the matrices in a folder. Raises AugmentError for those of other layers, or of another rank."""
        with reading(ModelRef("folder", "", folder)):
            self.beside.load(folder)
            known = Words.read(folder / FOLDER)
            if (known and known.categories) != (self.words and self.words.categories):
                raise ValueError("it has words for other categories: give its pictures, and `words` as it was")
            if known:
                with torch.no_grad():
                    self.vectors.copy_(known.vectors)

    def save(self, folder: Path) -> None:
        """The matrices, and the words."""
        self.beside.save(folder)
        if self.words:
            self.words.save(folder / FOLDER)

    def sheet(self) -> np.ndarray:
        """Eight windows, then what the U-Net makes of their objects' places."""
        rng = np.random.default_rng(1)
        windows = self.windows[: 8 * self.each : self.each]
        rows = [self._example(window, rng, background=0, dropped=0) for window in windows]
        batch = stacked(rows)
        batch["latents"] = self.latents[: 8 * self.each : self.each].float()
        with torch.no_grad():
            made = decode(self.model.vae, self._sampled(self._encoded(batch)))
        return sheet_of(windows, made)

    def _sampled(self, batch: dict[str, torch.Tensor], guidance: float = 2.5) -> torch.Tensor:
        model, where = self.model, self.model.device
        batch = {name: value.to(where) for name, value in batch.items()}
        known, keep = batch["latents"], batch["keep"]
        noise = torch.randn(known.shape, generator=torch.Generator().manual_seed(0)).to(where)
        nothing, pooled = model.encode_prompts([""] * len(known))
        text = torch.cat([nothing.to(where), batch["text"]])
        grounding = self._grounding(batch)
        if grounding is not None:
            twice = {name: value.repeat(2, *[1] * (value.ndim - 1)) for name, value in grounding["gligen"].items()}
            twice["masks"][: len(known)] = 0
            grounding = {"gligen": twice}
        added = self._added(batch)
        if added is not None:
            added = {
                "text_embeds": torch.cat([pooled.to(where), added["text_embeds"]]),
                "time_ids": added["time_ids"].repeat(2, 1),
            }
        extra = torch.cat(self._extra(batch), 1) if self.inpaint else None
        scheduler = make_scheduler("ddim", model.scheduler_config, loop.SAMPLED, where)
        z = denoise(model, scheduler, noise, text, guidance, extra=extra, attention=grounding, added=added)
        return z * (1 - keep) + known * keep if self.inpaint else z

    def _encoded(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The batch with its texts encoded; with words that learn they are tokens before."""
        if not self.words:
            return batch
        batch = {name: value.to(self.model.device) for name, value in batch.items()}
        text = {"text": encoded(self.model, batch["text"])[0]}
        if self.gated:
            there = batch["masks"] > 0
            phrases = torch.zeros(*there.shape, self.vectors.shape[1], device=there.device)
            if there.any():
                phrases = phrases.index_put((there,), encoded(self.model, batch["phrases"][there])[1])
            text["phrases"] = phrases
        return batch | text

    def _reader(self, model: LatentDiffusion) -> LatentDiffusion:
        """What gives the texts of examples: states, or, where words learn, tokens."""
        words = self.words
        if words is None:
            return model

        def read(text: str) -> tuple[torch.Tensor, torch.Tensor]:
            row = tokens_of(model.text_encoder, model.tokenizer, words.spelled(text))
            return row, row

        return replace(model, encode_text=read)

    def _extra(self, batch: dict[str, torch.Tensor]) -> list[torch.Tensor]:
        """What an inpainting U-Net sees behind the latents: see painters/gligen.py and painters/inpainting.py."""
        latents, keep = batch["latents"], batch["keep"]
        if not self.inpaint:
            return []
        if self.gated:
            return [latents * keep, keep]
        hidden = nn.functional.interpolate(keep, scale_factor=self.model.factor) < 0.5
        pixels = (batch["pixels"].to(latents.device, torch.float32) / 127.5 - 1).masked_fill(hidden, 0)
        with torch.no_grad():
            around = self.model.vae.encode(pixels).latent_dist.mode() * self.model.vae.config.scaling_factor
        return [1 - keep, around]

    def _grounding(self, batch: dict[str, torch.Tensor]) -> dict[str, Any] | None:
        if not self.gated:
            return None
        given = {"boxes": batch["boxes"], "masks": batch["masks"], "positive_embeddings": batch["phrases"]}
        return {"gligen": given}

    def _added(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor] | None:
        size = batch["latents"].shape[-1] * self.model.factor
        return self.model.added(batch["pooled"], (size, size)) if "pooled" in batch else None

    def _example(
        self, window: Window, rng: np.random.Generator, background: float | None = None, dropped: float = DROPPED
    ) -> dict[str, torch.Tensor]:
        """Conditions of one window."""
        window, empty = self._chosen(window, rng, background)
        if self.gated:
            row = conditions(self.reader, window, self.latents.shape[-1], rng, 0.0 if self.inpaint else None, dropped)
            return row if empty is None else row | {"keep": empty}
        text, keep = self._listed(window, empty, rng)
        hidden, pooled = self.reader.encode_text("" if rng.random() < dropped else text)
        plain = {"keep": keep, "text": hidden[0].cpu()}
        if self.inpaint:
            plain["pixels"] = torch.from_numpy(np.ascontiguousarray(window.pixels)).permute(2, 0, 1)
        if self.model.unet.config.get("addition_embed_type") == "text_time":
            plain["pooled"] = pooled[0].cpu()
        return plain


def _check_learned(learn: Sequence[str], pictures: Sequence[TrainingPicture]) -> None:
    """Raises AugmentError for a category of `learn` that no picture has."""
    known = {name for picture in pictures for name in picture.things.categories}
    for name in learn:
        if name not in known:
            raise unknown("category", name, known)


class LoraTrainer:
    """The trainer of a LoRA for one of the painters."""

    VERSION: ClassVar[int] = 1
    NEEDS: ClassVar[tuple[str, ...]] = ()
    DETAIL: ClassVar[float] = 2
    ABOUT: ClassVar[str] = "LoRA of a painter: small matrices beside its layers, which know these objects"
    Settings: ClassVar[type[LoopSettings]] = LoraSettings

    @staticmethod
    def made_from(settings: LoraSettings, start: Path | None = None) -> dict[str, str]:
        """The base and its revision."""
        ref = resolve(settings.base, {})
        return {ref.id: ref.revision}

    @staticmethod
    def objective(
        settings: LoraSettings,
        pictures: Sequence[TrainingPicture],
        size: int,
        models: Path,
        start: Path | None,
        work: Path,
    ) -> LoraObjective | FlowLora:
        """Matrices beside the base, fresh or those of `start`. Raises AugmentError where one cannot be loaded."""
        ref = resolve(settings.base, {})
        needed = pictures if settings.steps else pictures[:8]
        torch.manual_seed(settings.seed)
        _check_learned(settings.learn, pictures)
        if (flow := flow_of(ref)) is not None:
            transformer = flow_objective(ref, flow, settings, needed, size, work)
            if start is not None:
                transformer.load(start)
            return transformer
        model = load_latent_diffusion(ref, {}, torch.float32)
        how = {"zoom": settings.zoom, "learn": settings.learn}
        windows = encoded_windows(model.vae, needed, size, work, settings.windows, **how)
        with reading(ref):  # its text encoder may not take words
            made = LoraObjective(model, windows, settings)
        if start is not None:
            made.load(start)
        return made
