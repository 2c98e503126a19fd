"""The autoencoder of a start taught to draw sharply, while its latents, and so the U-Nets of the start, stay valid.

A decoder that learned from pixel differences alone draws the mean of what its latents may show: blurred. Here

loss = |x − x̂| + |∇x − ∇x̂| / 2 + e · |log E − log Ê| + features + λ · a · adversarial

E is the energy of gradients and of a Laplacian octave in each 8 × 8 pixels: a blurred edge has less of it, wherever it
is. A discriminator of patches learns beside the decoder, by the hinge loss (Esser et al. 2021, arXiv 2012.09841). The
differences of its features count (Wang et al. 2018, arXiv 1711.11585), and how far the decoder fools it: λ makes that
gradient a times as strong as that of all others, as there, times how far it can tell the two apart at all, at most 1.

What a painter makes is smoother than what an encoder makes: a share of the latents are therefore those of the start's
own `gligen-inpaint`, which denoises the window's latents in one step from a random level of noise.

`sharpen: 2` adds a level at the pixels' end: a cell of latents then stands for twice as many pixels a side. The grown
encoder halves the picture first (nearly so: its first convolutions are three pixels wide), then is the start's. It
learns nothing: latents stay.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional

from lib.core.checkpoints import resolve
from lib.core.compute import device
from lib.core.errors import AugmentError
from lib.painting.painters.blocks import LatentDiffusion, load_latent_diffusion
from lib.painting.painters.gligen import GligenInpaint
from lib.training.gligen import SCHEDULE, conditions
from lib.training.vae import CROP, VaeObjective, load_vae, psnr, save_half, to_tensor
from lib.training.windows import TrainingPicture, Window, cut, one_of

PAINTER = "gligen-inpaint"
LEVELS = (50, 600)  # time steps that painted latents are denoised from, of 1000
GENERATION = 0.4  # share of the painted latents in which nothing is kept, as `gligen-inpaint` learned
LARGEST = 1e4  # λ
FLAT = 1e-4  # energy, on a scale of 2, under which a place counts as flat


class Discriminator(nn.Module):
    """Patches of about 26 pixels: real, over 0, or decoded. Its maps come with it."""

    def __init__(self, widths: Sequence[int] = (32, 64, 64)) -> None:
        super().__init__()
        first, *others = widths
        layers = [nn.Conv2d(3, first, 4, 2, 1), nn.Conv2d(first, others[0], 4, 2, 1)]
        layers += [nn.Conv2d(a, b, 3, 1, 1) for a, b in pairwise(others)]
        self.layers, self.last = nn.ModuleList(layers), nn.Conv2d(widths[-1], 1, 3, 1, 1)

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """(N, 3, H, W) in −1 .. 1 → (N, 1, h, w) scores, and the maps before them."""
        maps = []
        for layer in self.layers:
            pixels = functional.leaky_relu(layer(pixels), 0.2)
            maps.append(pixels)
        return self.last(pixels), maps


class SharpObjective(VaeObjective):
    """Decode latents of the start, of windows as they are and as its painter makes them.

    start: folder of the former autoencoder, beside it that of PAINTER where `painted` is over 0; twice: add a level;
    adversarial: a, above; energy: e; painted: share of the latents that are painted ones.
    Raises AugmentError for a start that does not go together with the size, or lacks the painter.
    """

    def __init__(
        self,
        start: Path,
        pictures: Sequence[TrainingPicture],
        size: int,
        twice: bool,
        adversarial: float,
        painted: float,
        energy: float = 0.1,
    ) -> None:
        former = load_vae(start).eval().requires_grad_(False).to(device())
        super().__init__(grown(former) if twice else load_vae(start), pictures, size)
        self.shrink, self.adversarial, self.painted, self.energy = 1 + twice, adversarial, painted, energy
        self.cell = 2 ** (len(self.vae.config.block_out_channels) - 1)
        self.discriminator = Discriminator()
        for part in (self.vae.encoder, self.vae.quant_conv):
            part.requires_grad_(False)
        self.painter = _painter(start.parent / PAINTER, size // self.cell) if painted else None
        self._former = [former]  # in a list: no module of this one's

    def batch(self, rng: np.random.Generator, size: int, step: int = 0) -> dict[str, torch.Tensor]:
        """pixels (N, 3, S, S) in −1 .. 1 of whole windows; conditions of the first ones, to be painted."""
        windows = [cut(one_of(self.pictures, rng), self.size, rng) for _ in range(size)]
        return {"pixels": to_tensor([window.pixels for window in windows]), **self._conditions(windows, rng)}

    def forward(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        pixels = batch["pixels"]
        with torch.no_grad():
            known = self._former[0].encode(functional.avg_pool2d(pixels, self.shrink)).latent_dist.mode().float()
            latents = self._painted(known, batch) if "keep" in batch else known
        latents, real = self._cropped(latents, pixels)
        made = self.vae.decode(latents).sample.float()
        wrong = made - real
        edges = (wrong.diff(dim=2).abs().mean() + wrong.diff(dim=3).abs().mean()) / 2
        energy = (_energies(made) - _energies(real)).abs().mean()
        judged, maps = self.discriminator(torch.cat([real, made.detach()]))
        of_real, of_made = judged.float().chunk(2)
        learned = (functional.relu(1 - of_real) + functional.relu(1 + of_made)).mean() / 2
        apart = (of_real.mean() - of_made.mean()).detach()
        frozen = {name: weight.detach() for name, weight in self.discriminator.named_parameters()}
        score, seen = functional_call(self.discriminator, frozen, (made,))
        features, fooled = _features(maps, seen), -score.float().mean()
        others = wrong.abs().mean() + 0.5 * edges + self.energy * energy + features
        share = self.adversarial * apart.clamp(0, 1) * _share(others, fooled, made)
        loss = others + share * fooled + learned
        found = {"psnr": psnr(wrong), "apart": apart, "features": features, "energy": energy}
        return {"loss": loss, **{name: value.detach() for name, value in found.items()}}

    def save(self, folder: Path) -> None:
        """Write the autoencoder; its latents stay those of the start."""
        save_half(self.vae, folder)

    def _cropped(self, latents: torch.Tensor, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """One crop of each window: 2 · CROP pixels a side where the window has them."""
        cells = min(2 * CROP, self.size) // self.cell
        corners = torch.randint(0, self.size // self.cell - cells + 1, (len(latents), 2)).tolist()
        some = [z[:, y : y + cells, x : x + cells] for z, (y, x) in zip(latents, corners, strict=True)]
        side = self.cell
        real = [
            p[:, side * y : side * (y + cells), side * x : side * (x + cells)]
            for p, (y, x) in zip(pixels, corners, strict=True)
        ]
        return torch.stack(some), torch.stack(real)

    def _conditions(self, windows: Sequence[Window], rng: np.random.Generator) -> dict[str, torch.Tensor]:
        """Of the windows to be painted, as the painter learned them."""
        count = round(self.painted * len(windows))
        if self.painter is None or not count:
            return {}
        cells = self.size // self.cell
        rows = [conditions(self.painter, w, cells, rng, GENERATION) for w in windows[:count]]
        return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}

    def _painted(self, known: torch.Tensor, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """Latents of which the first were noised, and denoised by the painter in one step."""
        from diffusers import DDPMScheduler

        assert self.painter is not None
        keep = batch["keep"]
        some, levels = known[: len(keep)], DDPMScheduler(**SCHEDULE).alphas_cumprod.to(known.device)
        times = torch.randint(*LEVELS, (len(some),), device=known.device)
        signal, noise = (part[:, None, None, None] for part in (levels[times].sqrt(), (1 - levels[times]).sqrt()))
        noisy = signal * some + noise * torch.randn_like(some)
        grounding = {"boxes": batch["boxes"], "masks": batch["masks"], "positive_embeddings": batch["phrases"]}
        inputs = torch.cat([noisy, some * keep, keep], 1)
        speed = self.painter.unet(inputs, times, batch["text"], cross_attention_kwargs={"gligen": grounding}).sample
        clean = signal * noisy - noise * speed.float()
        return torch.cat([clean * (1 - keep) + some * keep, known[len(keep) :]])


def _share(others: torch.Tensor, fooled: torch.Tensor, made: torch.Tensor) -> torch.Tensor:
    """λ: how much stronger the gradient of the others is, at the pixels; 0 where no gradients are wanted."""
    if not made.requires_grad:
        return made.new_zeros(())
    strong, weak = (torch.autograd.grad(part, made, retain_graph=True)[0].norm() for part in (others, fooled))
    return (strong / (weak + 1e-9)).clamp(max=LARGEST)


def _energies(pixels: torch.Tensor) -> torch.Tensor:
    """(N, 2 · 3, H / 8, W / 8) logarithms of the energy of gradients, and of what a halved picture lacks."""
    across = functional.pad(pixels.diff(dim=3).square(), (0, 1))
    down = functional.pad(pixels.diff(dim=2).square(), (0, 0, 0, 1))
    coarse = functional.interpolate(functional.avg_pool2d(pixels, 4), scale_factor=4.0, mode="bilinear")
    both = torch.cat([across + down, (pixels - coarse).square()], 1)
    return (functional.avg_pool2d(both, 8) + FLAT).log()


def _features(real: Sequence[torch.Tensor], made: Sequence[torch.Tensor]) -> torch.Tensor:
    """Mean difference of the discriminator's maps, each as a share of their size; real: of 2N, the first N count."""
    parts = []
    for of_both, of_made in zip(real, made, strict=True):
        of_real = of_both[: len(of_made)].detach().float()
        parts.append((of_made.float() - of_real).abs().mean() / (of_real.abs().mean() + 1e-6))
    return torch.stack(parts).mean()


def _painter(folder: Path, cells: int) -> LatentDiffusion:
    """The start's painter, frozen."""
    if not folder.is_dir():
        raise AugmentError(
            f"no {folder}, whose latents the decoder is to learn from: name a start that has one, or set "
            "`settings.vae.painted` to 0"
        )
    model = load_latent_diffusion(resolve(str(folder), {}), GligenInpaint.FAMILY, torch.float32)
    if model.unet.config.sample_size != cells:
        raise AugmentError(
            f"{folder} paints latents of {model.unet.config.sample_size} cells a side, and windows of this `size` have "
            f"{cells}: set `size` to what makes them equal"
        )
    return model


# --- one level more --------------------------------------------------------------------------------------------------


def grown(vae: Any) -> Any:
    """An AutoencoderKL with one more level at the pixels' end, of as many channels as its first, which starts as this
    one between a halved and a doubled picture. Raises AugmentError for fewer than 12 channels there.
    """
    from diffusers import AutoencoderKL

    widths = tuple(vae.config.block_out_channels)
    if widths[0] < 12:
        raise AugmentError(f"an autoencoder with {widths[0]} channels at its pixels cannot be grown: 12 are needed")
    more = {name: [*vae.config[name], vae.config[name][0]] for name in ("down_block_types", "up_block_types")}
    kept = {name: value for name, value in vae.config.items() if name != "_name_or_path"}
    fresh = AutoencoderKL.from_config(
        {**kept, **more, "block_out_channels": (widths[0], *widths), "sample_size": 2 * vae.config.sample_size}
    )
    weights = {_moved(name): value for name, value in vae.state_dict().items() if "encoder.conv_in" not in name}
    fresh.load_state_dict({**fresh.state_dict(), **weights})
    with torch.no_grad():
        first, last = fresh.encoder.down_blocks[0], fresh.decoder.up_blocks[-1]
        for block in (*first.resnets, *last.resnets):  # they add nothing yet
            block.conv2.weight.zero_()
            block.conv2.bias.zero_()
        doubled = fresh.decoder.up_blocks[-2].upsamplers[0].conv
        nn.init.dirac_(doubled.weight)
        doubled.bias.zero_()
        _halve(fresh.encoder.conv_in, first.downsamplers[0].conv, vae.encoder.conv_in)
    return fresh


def _moved(name: str) -> str:
    """Where a weight of the former autoencoder stands in the grown one: the encoder's levels one further."""
    head, found, rest = name.partition("encoder.down_blocks.")
    if not found:
        return name
    number, dot, inner = rest.partition(".")
    return f"{head}{found}{int(number) + 1}{dot}{inner}"


def _halve(inward: nn.Conv2d, down: nn.Conv2d, former: nn.Conv2d) -> None:
    """Make `inward`, then `down` with its stride of 2, what `former` is after a picture was halved.

    A pixel of the halved picture is the mean of two by two. Of the pair on the left and of that above only the nearer
    pixel is in reach, and stands for both.
    """
    assert inward.bias is not None and down.bias is not None and former.bias is not None
    for values in (inward.weight, inward.bias, down.weight, down.bias):
        values.zero_()
    taps = {-1: (1, 0), 0: (0, 0), 1: (0, 2)}  # of the halved picture → (0: a pair, 1: the pixel before, tap of `down`)
    spans = {0: slice(1, 3), 1: slice(0, 1)}
    for color in range(3):
        for y, tall in spans.items():
            for x, wide in spans.items():
                part = inward.weight[3 * (2 * y + x) + color, color, tall, wide]
                part.fill_(1 / part.numel())
    for a, (y, row) in taps.items():
        for b, (x, column) in taps.items():
            channels = slice(3 * (2 * y + x), 3 * (2 * y + x) + 3)
            down.weight[:, channels, row, column] += former.weight[:, :, a + 1, b + 1]
    down.bias.copy_(former.bias)
