"""LoRA beside transformers that predict a velocity: FLUX.1, FLUX Fill, Stable Diffusion 3, Z-Image.

Rectified flow (Liu et al. 2022, arXiv 2209.03003): x_t = (1 − t) x + t ε, and the transformer predicts v = ε − x. t is
drawn as the sigmoid of a normal value (Esser et al. 2024, arXiv 2403.03206, section 3.1).

loss = |v̂ − v|², mean over the cells; where the transformer sees what is kept (FLUX Fill), for the most part over those
that are painted. As with U-Nets, texts are left out 10 % of the time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn

from lib.core.checkpoints import ModelRef, reading
from lib.core.compute import device
from lib.core.errors import AugmentError
from lib.painting.painters.pipeline_checkpoint import PipelineCheckpoint, pipeline_name
from lib.painting.painters.pipelines import DiffusersInpaintSettings
from lib.training import loop
from lib.training.gligen import DROPPED
from lib.training.latents import encoded_windows, painted_error, sheet_of, stacked
from lib.training.lora_base import LoraExamples, LoraSettings, Matrices
from lib.training.vae import decode
from lib.training.windows import TrainingPicture, Window

_ATTENTION = ("to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")
TARGETS = {
    "attention": _ATTENTION,
    "all": (
        *_ATTENTION,
        *("ff.net.0.proj", "ff.net.2", "ff_context.net.0.proj", "ff_context.net.2", "proj_mlp", "proj_out"),
        *("feed_forward.w1", "feed_forward.w2", "feed_forward.w3"),
    ),
}
GUIDANCE = 1.0  # of FLUX.1 [dev], which is distilled with a guidance as an input: none, while it learns
Text = dict[str, torch.Tensor]


class Flow(Protocol):
    """A family of transformers."""

    inpaint: bool  # it sees what is kept

    def text(self, pipe: Any, text: str) -> Text:
        """Tensors of one text."""
        ...

    def velocity(
        self, pipe: Any, noisy: torch.Tensor, t: torch.Tensor, texts: Sequence[Text], kept: torch.Tensor | None
    ) -> torch.Tensor:
        """(B, C, h, w) of noisy latents of that shape at t (B,), 0 to 1; kept: as `surroundings` gives it."""
        ...

    def surroundings(self, pipe: Any, pixels: torch.Tensor, keep: torch.Tensor) -> Any:
        """What it sees of pixels (B, 3, H, W), -1 to 1, where keep (B, 1, H, W) is 1: a tensor; None: nothing."""
        ...


class _Flux:
    """Black Forest Labs' FLUX.1: latents as tokens of 2 × 2 cells."""

    def __init__(self, inpaint: bool = False) -> None:
        self.inpaint = inpaint

    def text(self, pipe: Any, text: str) -> Text:
        states, pooled, _ = pipe.encode_prompt(text, None)
        return {"states": states[0], "pooled": pooled[0]}

    def velocity(
        self, pipe: Any, noisy: torch.Tensor, t: torch.Tensor, texts: Sequence[Text], kept: torch.Tensor | None
    ) -> torch.Tensor:
        (count, channels, height, width), net = noisy.shape, pipe.transformer
        tokens = pipe._pack_latents(noisy, count, channels, height, width)
        states = torch.stack([one["states"] for one in texts])
        guidance = torch.full_like(t, GUIDANCE) if net.config.guidance_embeds else None
        out = net(
            hidden_states=tokens if kept is None else torch.cat([tokens, kept], 2),
            timestep=t,
            guidance=guidance,
            pooled_projections=torch.stack([one["pooled"] for one in texts]),
            encoder_hidden_states=states,
            txt_ids=torch.zeros(states.shape[1], 3, device=noisy.device, dtype=noisy.dtype),
            img_ids=pipe._prepare_latent_image_ids(count, height // 2, width // 2, noisy.device, noisy.dtype),
            return_dict=False,
        )[0]
        cells = out.view(count, height // 2, width // 2, channels, 2, 2).permute(0, 3, 1, 4, 2, 5)
        return cells.reshape(count, channels, height, width)

    def surroundings(self, pipe: Any, pixels: torch.Tensor, keep: torch.Tensor) -> Any:
        if not self.inpaint:
            return None
        (count, _, height, width), channels = pixels.shape, pipe.vae.config.latent_channels
        size = (height, width, pixels.dtype, pixels.device, None)
        mask, masked = pipe.prepare_mask_latents(1 - keep, pixels * keep, count, channels, 1, *size)
        return torch.cat([masked, mask], 2)


class _Sd3:
    """Stable Diffusion 3."""

    inpaint = False

    def text(self, pipe: Any, text: str) -> Text:
        states, _, pooled, _ = pipe.encode_prompt(text, None, None, do_classifier_free_guidance=False)
        return {"states": states[0], "pooled": pooled[0]}

    def velocity(
        self, pipe: Any, noisy: torch.Tensor, t: torch.Tensor, texts: Sequence[Text], kept: torch.Tensor | None
    ) -> torch.Tensor:
        found: torch.Tensor = pipe.transformer(
            hidden_states=noisy,
            timestep=t * 1000,
            encoder_hidden_states=torch.stack([one["states"] for one in texts]),
            pooled_projections=torch.stack([one["pooled"] for one in texts]),
            return_dict=False,
        )[0]
        return found

    def surroundings(self, pipe: Any, pixels: torch.Tensor, keep: torch.Tensor) -> Any:
        return None


class _ZImage:
    """Z-Image, whose time runs the other way, and whose velocity with it."""

    inpaint = False

    def text(self, pipe: Any, text: str) -> Text:
        return {"states": pipe.encode_prompt(text, do_classifier_free_guidance=False)[0][0]}

    def velocity(
        self, pipe: Any, noisy: torch.Tensor, t: torch.Tensor, texts: Sequence[Text], kept: torch.Tensor | None
    ) -> torch.Tensor:
        pictures = list(noisy.unsqueeze(2).unbind(0))
        out = pipe.transformer(pictures, 1 - t, [one["states"] for one in texts], return_dict=False)[0]
        return -torch.stack(list(out)).squeeze(2)

    def surroundings(self, pipe: Any, pixels: torch.Tensor, keep: torch.Tensor) -> Any:
        return None


# Pipeline in a checkpoint's model_index.json → how its transformer is called.
FLOWS: Mapping[str, Flow] = {
    "FluxPipeline": _Flux(),
    "FluxFillPipeline": _Flux(inpaint=True),
    "StableDiffusion3Pipeline": _Sd3(),
    "ZImagePipeline": _ZImage(),
}


def flow_of(ref: ModelRef) -> Flow | None:
    """How the transformer of a base is called; None for a checkpoint with a U-Net. Raises AugmentError for another."""
    name = pipeline_name(ref)
    if name in FLOWS or name is None or name.startswith("StableDiffusion"):
        return FLOWS.get(name or "")
    raise AugmentError(
        f"lora: no base of {name} can be trained here: give one of {', '.join(FLOWS)}, or one with a U-Net; what "
        "another program trained can be painted with (`painter.lora`)"
    )


class FlowLora(LoraExamples):
    """Predict the velocity of windows' latents by a frozen transformer with learning matrices beside its layers."""

    def __init__(
        self, pipe: Any, flow: Flow, windows: tuple[list[Window], torch.Tensor], settings: LoraSettings
    ) -> None:
        super().__init__()
        self.pipe, self.flow = [pipe], flow  # in a list, as the matrices alone are this module's
        self.windows, self.latents = windows
        self.background, self.each, self.learn = settings.background, settings.windows, settings.learn
        self.inpaint = flow.inpaint
        self.beside = Matrices(pipe.transformer, "transformer", settings.rank, TARGETS[settings.targets])
        self.matrices = self.beside.weights
        if device().type == "cuda":
            pipe.transformer.enable_gradient_checkpointing()
        self._known: dict[str, int] = {}
        self._texts: list[Text] = []

    def forward(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        latents = batch["latents"]
        noise = torch.randn_like(latents)
        t = torch.randn(len(latents), device=latents.device).sigmoid()
        share = t[:, None, None, None]
        out = self._velocity((1 - share) * latents + share * noise, t, batch)
        error = (out.float() - (noise - latents)).square().mean(1, keepdim=True)
        wrong = painted_error(error, batch["keep"])
        return {"loss": wrong.mean(), "error": wrong.detach().mean()}

    def load(self, folder: Path) -> None:
        """Go on from the matrices in a folder. Raises AugmentError for those of other layers, or of another rank."""
        with reading(ModelRef("folder", "", folder)):
            self.beside.load(folder)

    def save(self, folder: Path) -> None:
        """The matrices."""
        self.beside.save(folder)

    def sheet(self) -> np.ndarray:
        """Eight windows, then what the transformer makes of their objects' places, or of their texts."""
        rng = np.random.default_rng(1)
        rows = slice(0, 8 * self.each, self.each)
        windows = self.windows[rows]
        batch = stacked([self._example(window, rng, background=0, dropped=0) for window in windows])
        batch = {name: value.to(device()) for name, value in (batch | {"latents": self.latents[rows].float()}).items()}
        z = torch.randn(batch["latents"].shape, generator=torch.Generator().manual_seed(0)).to(device())
        with torch.no_grad():
            for step in range(loop.SAMPLED):  # Euler's
                t = torch.full((len(z),), 1 - step / loop.SAMPLED, device=z.device)
                z = z - self._velocity(z, t, batch).float() / loop.SAMPLED
            made = decode(self.pipe[0].vae, z)
        return sheet_of(windows, made)

    def _velocity(self, noisy: torch.Tensor, t: torch.Tensor, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        pipe, where = self.pipe[0], noisy.device
        dtype = pipe.transformer.dtype
        kept = None
        if self.inpaint:
            size = batch["pixels"].shape[-1]
            pixels = batch["pixels"].to(where, torch.float32) / 127.5 - 1
            keep = nn.functional.interpolate(batch["keep"].to(where), size=(size, size))
            with torch.no_grad(), torch.autocast(where.type, enabled=False):
                kept = self.flow.surroundings(pipe, pixels, keep).to(dtype)
        texts = [
            {name: value.to(where, dtype) for name, value in self._texts[int(number)].items()}
            for number in batch["text"]
        ]
        # The base is in the precision that it paints in, its matrices in float32: nothing is to be cast on the way.
        with torch.autocast(where.type, enabled=False):
            return self.flow.velocity(pipe, noisy.to(dtype), t.to(dtype), texts, kept)

    def _example(
        self, window: Window, rng: np.random.Generator, background: float | None = None, dropped: float = DROPPED
    ) -> dict[str, torch.Tensor]:
        """Conditions of one window; `text` is a number of `_texts`."""
        window, empty = self._chosen(window, rng, background)
        text, keep = self._listed(window, empty, rng)
        found = {"keep": keep, "text": torch.tensor(self._number("" if rng.random() < dropped else text))}
        if self.inpaint:
            found["pixels"] = torch.from_numpy(np.ascontiguousarray(window.pixels)).permute(2, 0, 1)
        return found

    def _number(self, text: str) -> int:
        """Each text is encoded once."""
        if text not in self._known:
            with torch.no_grad():
                encoded = self.flow.text(self.pipe[0], text or " ")
            self._texts.append({name: value.cpu() for name, value in encoded.items()})
            self._known[text] = len(self._texts) - 1
        return self._known[text]


def flow_objective(
    ref: ModelRef, flow: Flow, settings: LoraSettings, pictures: Sequence[TrainingPicture], size: int, work: Path
) -> FlowLora:
    """Fresh matrices beside a base. Raises AugmentError where it cannot be loaded, or words are to learn."""
    if settings.words:
        raise AugmentError("lora.words is for bases with a U-Net and one text encoder: leave it out")
    pipe = PipelineCheckpoint(ref, DiffusersInpaintSettings(offload="no")).load()
    pipe.vae.float()
    cells = pipe.vae_scale_factor * 2
    if size % cells:
        raise AugmentError(f"size {size}: this base takes multiples of {cells}")
    how = {"zoom": settings.zoom, "learn": settings.learn}
    windows = encoded_windows(pipe.vae, pictures, size, work, settings.windows, **how)
    with reading(ref):
        return FlowLora(pipe, flow, windows, settings)
