"""What trainings on latents of windows share: the windows, encoded once, batches of them, noise, and the error.

    windows, latents = encoded_windows(vae, pictures, 128, work)      # kept in `work`

loss = min-SNR(γ = 5)-weighted error (Hang et al. 2023, arXiv 2303.09556) of ε or v, whichever is predicted.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import nn

from lib.core.files import atomic_write
from lib.core.keys import key_of
from lib.training.loop import precision
from lib.training.vae import encode
from lib.training.windows import TrainingPicture, Window, cut

WINDOWS = 4  # of each picture, encoded once
SNR_LIMIT = 5.0
KEPT = 0.1  # weight of the error in cells that are kept: the prediction there is replaced by the known latents


class WindowsObjective(nn.Module):
    """What objectives on encoded windows share: batches, noise, and the min-SNR-weighted error of ε or v."""

    windows: list[Window]
    latents: torch.Tensor  # (N, 4, h, w) float16, scaled
    noise: Any  # a DDPMScheduler

    def batch(self, rng: np.random.Generator, size: int, step: int = 0) -> dict[str, torch.Tensor]:
        """latents (N, 4, h, w), and what `_example` gives of each window."""
        chosen = rng.integers(len(self.windows), size=size)
        rows = [self._example(self.windows[i], rng) for i in chosen]
        return {"latents": self.latents[chosen].float(), **stacked(rows)}

    def _example(self, window: Window, rng: np.random.Generator) -> dict[str, torch.Tensor]:
        """Conditions of one window."""
        raise NotImplementedError

    def _noisy(self, latents: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Latents with noise, that noise, and the N time steps of it, drawn anew."""
        noise = torch.randn_like(latents)
        times = torch.randint(0, self.noise.config.num_train_timesteps, (len(latents),), device=latents.device)
        return self.noise.add_noise(latents, noise, times), noise, times

    def _errors(
        self, out: torch.Tensor, latents: torch.Tensor, noise: torch.Tensor, times: torch.Tensor, keep: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The loss, and N errors of what the U-Net predicts, for the most part where something is painted."""
        by_v = self.noise.config.prediction_type == "v_prediction"
        target = self.noise.get_velocity(latents, noise, times) if by_v else noise
        error = (out.float() - target).square().mean(1, keepdim=True)
        wrong = painted_error(error, keep)
        kept = self.noise.alphas_cumprod.to(latents.device)[times]
        snr = kept / (1 - kept)
        return (wrong * snr.clamp(max=SNR_LIMIT) / (snr + 1 if by_v else snr)).mean(), wrong.detach()


def painted_error(error: torch.Tensor, keep: torch.Tensor) -> torch.Tensor:
    """N means of an error (N, 1, h, w), for the most part where something is painted: where keep is 0."""
    weight = 1 - (1 - KEPT) * keep
    return (error * weight).sum((1, 2, 3)) / weight.sum((1, 2, 3))


def sheet_of(windows: Sequence[Window], made: Sequence[np.ndarray]) -> np.ndarray:
    """Windows with their boxes in a row, and below what was made of them."""
    return np.concatenate([np.concatenate([boxed(w) for w in windows], 1), np.concatenate(made, 1)])


def stacked(rows: Sequence[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Examples as a batch."""
    return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}


def encoded_windows(
    vae: Any, pictures: Sequence[TrainingPicture], size: int, work: Path, count: int = WINDOWS, **how: Any
) -> tuple[list[Window], torch.Tensor]:
    """`count` windows a picture, and their (N, 4, h, w) float16 scaled latents, kept in `work`: it takes minutes.

    how: what else `windows.cut` takes.
    """
    windows = [
        cut(picture, size, np.random.default_rng([7, number, k]), **how)
        for number, picture in enumerate(pictures)
        for k in range(count)
    ]
    weights = hashlib.sha256(b"".join(p.detach().cpu().numpy().tobytes() for p in vae.parameters())).hexdigest()
    total = hashlib.sha256()
    for window in windows:
        total.update(window.pixels.tobytes())
    key = key_of("latents", size, weights, total.hexdigest(), precision())
    kept = work / "latents" / f"{key[:32]}.safetensors"
    if kept.is_file():
        with contextlib.suppress(SafetensorError, KeyError):  # half written or damaged: made again
            known = load_file(kept)["latents"]
            if len(known) == len(windows):
                return windows, known
    latents = _latents(vae, windows)
    with contextlib.suppress(OSError):  # they can be made again
        atomic_write(kept, save({"latents": latents}))
    return windows, latents


def _latents(vae: Any, windows: Sequence[Window]) -> torch.Tensor:
    """(N, 4, h, w) float16 scaled latents."""
    quick = torch.autocast(next(vae.parameters()).device.type, torch.bfloat16, enabled=precision() == "bf16")
    with torch.no_grad(), quick:
        batches = [encode(vae, [w.pixels for w in windows[i : i + 32]]).cpu() for i in range(0, len(windows), 32)]
    return torch.cat([batch.half() for batch in batches]).contiguous()


def boxed(window: Window) -> np.ndarray:
    """Its pixels with the boxes of its objects."""
    import cv2

    pixels = window.pixels.copy()
    for box in (window.things.boxes * len(pixels)).round().astype(int).tolist():
        cv2.rectangle(pixels, box[:2], [v - 1 for v in box[2:]], (255, 0, 255), 1)
    return pixels
