"""STAY's U-Net: a small diffusion model that paints a layout, boxes with categories (arXiv 2503.12213).

    unet = load_layout_unet(resolve("data/models/stay", {}), size=64).unet
    out = unet(noisy, times, boxes, labels, style, known, keep)         # (N, C, H, W), or 2C with a learned variance

Pixels (or latents) are folded by `patch`, so that 64 × 64 pixels are 16 × 16 cells. Two things say what goes where:

- ISLA-Norm in the middle and the decoder (LostGAN-V2, Sun & Wu 2020, arXiv 2003.11571): see `IslaNorm`. Each object has
  a style, of noise and its label's embedding, that gives it a mask, a scale and a shift. Each stage of the decoder
  refines the masks: M = (1 − w) · M₀ + w · M', M₀ drawn from the style, M' predicted from the features of the stage
  before, w learned for each stage and category.
- With `class_maps` each category's boxes as an input channel: followed at once, where styles alone take far longer.

With `keeps` the input also holds [known · keep, keep]: one model inpaints, and where nothing is kept it generates.
Label 0 means no object; a layout of zeros is the unconditional half of guidance. The Edge-Aware Normalisation and the
Styled-Mask Attention of the published version are left out: we know no source that states their equations.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, cast

import torch
from diffusers import ModelMixin
from diffusers.configuration_utils import ConfigMixin, register_to_config
from torch import nn
from torch.nn import functional as F

from lib.core.checkpoints import ModelRef, load_whole, local_path, reading, renamed
from lib.core.stopping import check_stop

if TYPE_CHECKING:
    from torch import Tensor

ATTENDED = 8  # cells: the largest side at which cells attend to each other
HEADS = 4
MASK_WIDTH = 16  # channels of the small network that draws masks
NEEDED = ("unet/config.json", "unet/diffusion_pytorch_model.safetensors", "scheduler/scheduler_config.json")


def cover(low: Tensor, high: Tensor, cells: int) -> Tensor:
    """(…, cells): the share of each of `cells` equal parts of 0 .. 1 that lies between low and high, both (…)."""
    edges = torch.arange(cells, device=low.device, dtype=low.dtype) / cells
    over = torch.minimum(high[..., None], edges + 1 / cells) - torch.maximum(low[..., None], edges)
    return over.clamp(min=0) * cells


def box_maps(boxes: Tensor, height: int, width: int) -> Tensor:
    """(N, K, 4) xyxy in 0 .. 1 → (N, K, height, width): the share of each cell that a box covers."""
    x0, y0, x1, y1 = boxes.unbind(-1)
    return cover(y0, y1, height)[..., :, None] * cover(x0, x1, width)[..., None, :]


def place_masks(masks: Tensor, boxes: Tensor, height: int, width: int) -> Tensor:
    """Masks (N, K, m, m) stretched over their boxes (N, K, 4): (N, K, height, width), 0 outside.

    Bilinear between the mask's cells, and at a box's edge by the share of the cell that it covers. Two small products
    of matrices: as exact as a grid's sampling, and on any device the same at every run.
    """
    x0, y0, x1, y1 = boxes.unbind(-1)
    down = _tents(y0, y1, height, masks.shape[-2]) * cover(y0, y1, height)[..., None]
    across = _tents(x0, x1, width, masks.shape[-1]) * cover(x0, x1, width)[..., None]
    return down @ masks.to(down.dtype) @ across.transpose(-1, -2)


def _tents(low: Tensor, high: Tensor, cells: int, parts: int) -> Tensor:
    """(…, cells, parts): weights by which the middles of cells see the parts of low .. high; they add up to 1."""
    middles = (torch.arange(cells, device=low.device, dtype=low.dtype) + 0.5) / cells
    inside = (middles - low[..., None]) / (high - low).clamp(min=1e-6)[..., None]
    at = (inside * parts - 0.5).clamp(0, parts - 1)
    return (1 - (at[..., None] - torch.arange(parts, device=low.device)).abs()).clamp(min=0)


class IslaNorm(nn.Module):
    """x̂ · γ(p) + β(p), x̂ normalised by groups, with γ and β of the objects that lie over each cell p:

    γ(p) = Σ_o M_o(p) γ_o / (Σ_o M_o(p) + 1e-6) + 1, β(p) without the + 1; γ_o and β_o linear in the object's style.
    """

    def __init__(self, channels: int, style: int, groups: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(groups, channels, affine=False)
        self.modulation = nn.Linear(style, 2 * channels)

    def forward(self, x: Tensor, masks: Tensor, styles: Tensor) -> Tensor:
        """x (N, C, h, w), masks (N, K, h, w), styles (N, K, S)."""
        share = masks / (masks.sum(1, keepdim=True) + 1e-6)
        modulation = self.modulation(styles).transpose(1, 2) @ share.flatten(2).to(styles.dtype)  # (N, 2C, h · w)
        gamma, beta = modulation.unflatten(2, x.shape[2:]).chunk(2, dim=1)
        shaped: Tensor = self.norm(x) * (gamma + 1) + beta
        return shaped


class PlainNorm(nn.GroupNorm):
    """GroupNorm that is called as IslaNorm is: the encoder knows no objects but by its input."""

    def forward(self, x: Tensor, masks: Tensor | None = None, styles: Tensor | None = None) -> Tensor:
        return super().forward(x)


class Attention(nn.Module):
    """Self-attention of all cells."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(groups, channels)
        self.inward, self.outward = nn.Conv2d(channels, 3 * channels, 1), nn.Conv2d(channels, channels, 1)
        nn.init.zeros_(self.outward.weight)

    def forward(self, x: Tensor) -> Tensor:
        qkv = self.inward(self.norm(x)).flatten(2).unflatten(1, (3, HEADS, -1))  # (N, 3, heads, d, h · w)
        q, k, v = qkv.unbind(1)
        # By hand: torch's fused attention is slow in its backward pass on a CPU.
        weights = (q.transpose(-1, -2) @ k / math.sqrt(q.shape[-2])).softmax(-1)
        out: Tensor = x + self.outward((v @ weights.transpose(-1, -2)).flatten(1, 2).unflatten(2, x.shape[2:]))
        return out


class Residual(nn.Module):
    """Two convolutions beside a shortcut, and attention behind; the time scales and shifts what lies between them.

    style: length of the objects' styles, 0 in the encoder, which receives no objects.
    """

    def __init__(self, wide: int, channels: int, time: int, groups: int, style: int, attend: bool) -> None:
        super().__init__()

        def norm(width: int) -> nn.Module:
            return IslaNorm(width, style, groups) if style else PlainNorm(groups, width)

        self.before, self.between = norm(wide), norm(channels)
        self.conv1 = nn.Conv2d(wide, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.time = nn.Linear(time, 2 * channels)
        self.shortcut = nn.Conv2d(wide, channels, 1) if wide != channels else nn.Identity()
        self.attention = Attention(channels, groups) if attend else nn.Identity()
        nn.init.zeros_(self.conv2.weight)

    def forward(self, x: Tensor, time: Tensor, masks: Tensor | None = None, styles: Tensor | None = None) -> Tensor:
        h = self.conv1(F.silu(self.before(x, masks, styles)))
        scale, shift = self.time(time)[:, :, None, None].chunk(2, dim=1)
        h = self.conv2(F.silu(self.between(h, masks, styles) * (1 + scale) + shift))
        out: Tensor = self.attention(self.shortcut(x) + h)
        return out


class MaskNet(nn.Module):
    """Each object's style → its mask, (N, K, m, m) in 0 .. 1."""

    def __init__(self, style: int, size: int) -> None:
        super().__init__()
        self.first = nn.Linear(style, MASK_WIDTH * 16)
        self.convs = nn.ModuleList(
            nn.Conv2d(MASK_WIDTH, MASK_WIDTH, 3, padding=1) for _ in range((size // 4 - 1).bit_length())
        )
        self.last = nn.Conv2d(MASK_WIDTH, 1, 3, padding=1)

    def forward(self, styles: Tensor) -> Tensor:
        x = self.first(styles.flatten(0, 1)).unflatten(1, (MASK_WIDTH, 4, 4))
        for conv in self.convs:
            x = F.silu(conv(F.interpolate(x, scale_factor=2)))
        masks: Tensor = self.last(x).sigmoid()
        return masks.unflatten(0, styles.shape[:2]).squeeze(2)


class LayoutUNet(ModelMixin, ConfigMixin):
    """Noisy pictures and a layout → the noise or velocity in them. `config` has all arguments as attributes.

    sample_size: side of the square pictures (or latents); channels: 1 grey, 3 colour, 4 latents; patch: cells of
    patch × patch pixels; block_out_channels: widths at sample_size / patch cells, half of them, and so on; categories:
    label 1 and on, in this order; max_objects: most objects of one picture; style_dim: length of the styles' noise;
    label_dim: of a label's embedding; mask_size: 4, 8, 16 or 32.
    Raises ValueError for sizes that do not go together.
    """

    FORMER: ClassVar[Mapping[str, str]] = {"told": "modulation"}  # names of modules in checkpoints of former versions

    @register_to_config
    def __init__(
        self,
        *,  # what is given by its place diffusers takes for a default, and leaves out of copies
        categories: Sequence[str],
        sample_size: int = 64,
        channels: int = 1,
        patch: int = 4,
        block_out_channels: Sequence[int] = (128, 128, 160),
        layers_per_block: int = 1,
        norm_num_groups: int = 16,
        max_objects: int = 8,
        style_dim: int = 128,
        label_dim: int = 64,
        mask_size: int = 16,
        learned_variance: bool = True,
        keeps: bool = True,
        class_maps: bool = True,
    ) -> None:
        super().__init__()
        widths, stages = tuple(block_out_channels), len(block_out_channels)
        cells, left = divmod(sample_size, patch)
        if left or cells % 2 ** (stages - 1):
            raise ValueError(f"sample_size {sample_size}: a multiple of {patch * 2 ** (stages - 1)} was expected")
        if not categories or len(set(categories)) < len(categories):
            raise ValueError(f"categories {list(categories)}: one or more, each once, were expected")
        if mask_size not in (4, 8, 16, 32):
            raise ValueError(f"mask_size {mask_size}: 4, 8, 16 or 32 was expected")
        inputs = channels + (channels + 1) * keeps + len(categories) * class_maps
        style, time, groups = style_dim + label_dim, 2 * widths[0], norm_num_groups
        self.label = nn.Embedding(len(categories) + 1, label_dim)
        self.time = nn.Sequential(nn.Linear(widths[0], time), nn.SiLU(), nn.Linear(time, time), nn.SiLU())
        self.masks = MaskNet(style, mask_size)
        self.fold, self.unfold = nn.PixelUnshuffle(patch), nn.PixelShuffle(patch)
        self.inward = nn.Conv2d(inputs * patch**2, widths[0], 3, padding=1)
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        handed = [widths[0]]  # widths of what the encoder hands to the decoder

        def stage(i: int, wide: Sequence[int], style: int) -> nn.ModuleList:
            attend = cells >> i <= ATTENDED
            return nn.ModuleList(Residual(w, widths[i], time, groups, style, attend) for w in wide)

        for i, width in enumerate(widths):
            self.down.append(stage(i, [widths[max(0, i - 1)], *[width] * (layers_per_block - 1)], 0))
            handed += [width] * (layers_per_block + (i < stages - 1))
        self.middle = nn.ModuleList(
            Residual(widths[-1], widths[-1], time, groups, style, attend) for attend in (True, False)
        )
        for i in reversed(range(stages)):
            wide = [widths[min(i + 1, stages - 1)], *[widths[i]] * layers_per_block]
            self.up.append(stage(i, [w + handed.pop() for w in wide], style))
        self.smaller = nn.ModuleList(nn.Conv2d(width, width, 3, 2, 1) for width in widths[:-1])
        self.larger = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for width in reversed(widths[1:]))
        self.guess = nn.ModuleList(nn.Conv2d(width, len(categories), 1) for width in reversed(widths[1:]))
        self.trust = nn.Parameter(torch.zeros(stages - 1, len(categories)))  # w before its sigmoid
        self.last = nn.Sequential(nn.GroupNorm(groups, widths[0]), nn.SiLU())
        self.outward = nn.Conv2d(widths[0], channels * (1 + learned_variance) * patch**2, 3, padding=1)
        nn.init.zeros_(self.outward.weight)

    def forward(
        self,
        sample: Tensor,
        timestep: Tensor | int,
        boxes: Tensor,
        labels: Tensor,
        style: Tensor,
        known: Tensor | None = None,
        keep: Tensor | None = None,
    ) -> Tensor:
        """sample (N, C, H, W) noisy, timestep (N,) or one, boxes (N, K, 4) xyxy in 0 .. 1, labels (N, K) int64, 0 for
        no object, style (N, K, style_dim) noise, known (N, C, H, W) and keep (N, 1, H, W), 1 = kept; without these two
        nothing is kept. K may be 0, and differ from call to call, up to max_objects.

        Returns (N, C, H, W), or (N, 2C, H, W) with a learned variance: the prediction first.
        """
        config, present = self.config, (labels > 0)
        boxes = boxes * present[..., None]  # a box of no area covers nothing
        height, width = sample.shape[2:]
        channels = [sample]
        if config.keeps:
            keep = sample.new_zeros(len(sample), 1, height, width) if keep is None else keep
            known = torch.zeros_like(sample) if known is None else known
            channels += [known * keep, keep]
        if config.class_maps:
            which = F.one_hot(labels, len(config.categories) + 1)[..., 1:].to(boxes.dtype)
            maps = which.transpose(1, 2) @ box_maps(boxes, height, width).flatten(2)
            channels.append(maps.clamp(max=1).unflatten(2, (height, width)).to(sample.dtype))
        times = torch.as_tensor(timestep, device=sample.device).expand(len(sample))
        time = self.time(_waves(times, config.block_out_channels[0]).to(sample.dtype))
        styles = torch.cat([style, self.label(labels).to(style.dtype)], dim=-1)
        return self._painted(self.inward(self.fold(torch.cat(channels, 1))), time, boxes, labels, styles)

    def _fix_state_dict_keys_on_load(self, state_dict: Any) -> None:
        """diffusers calls it with the weights of a checkpoint: modules get the names that they have today."""
        super()._fix_state_dict_keys_on_load(state_dict)
        for name in list(state_dict):
            state_dict[renamed(name, self.FORMER)] = state_dict.pop(name)

    def _painted(self, x: Tensor, time: Tensor, boxes: Tensor, labels: Tensor, styles: Tensor) -> Tensor:
        handed = [x]
        for i, stage in enumerate(self.down):
            for block in cast(nn.ModuleList, stage):
                x = block(x, time)
                handed.append(x)
            if i < len(self.smaller):
                x = self.smaller[i](x)
                handed.append(x)
        drawn = self.masks(styles)
        masks = place_masks(drawn, boxes, *x.shape[2:])
        for block in self.middle:
            x = block(x, time, masks, styles)
        for i, stage in enumerate(self.up):
            for block in cast(nn.ModuleList, stage):
                x = block(torch.cat([x, handed.pop()], 1), time, masks, styles)
            if i < len(self.larger):
                guessed = self.guess[i](x)
                x = self.larger[i](F.interpolate(x, scale_factor=2))
                masks = self._refined(place_masks(drawn, boxes, *x.shape[2:]), guessed, self.trust[i], boxes, labels)
        return self.unfold(self.outward(self.last(x)))

    @staticmethod
    def _refined(masks: Tensor, guessed: Tensor, trust: Tensor, boxes: Tensor, labels: Tensor) -> Tensor:
        """M = (1 − w) · M₀ + w · M', M' from the guessed map (of N, categories, h / 2, w / 2) of its category."""
        category = (labels - 1).clamp(min=0)  # label 0 has no box, so any map does
        maps = F.interpolate(guessed, size=masks.shape[2:], mode="bilinear").sigmoid()
        maps = maps.gather(1, category[..., None, None].expand(-1, -1, *masks.shape[2:]))
        w = trust[category].sigmoid()[..., None, None]
        return (1 - w) * masks + w * maps * box_maps(boxes, *masks.shape[2:])


def _waves(times: Tensor, width: int) -> Tensor:
    """(N,) time steps → (N, width) sines and cosines (Vaswani et al. 2017)."""
    pace = torch.exp(-math.log(10_000) * torch.arange(width // 2, device=times.device) / (width // 2))
    angles = times[:, None].float() * pace
    return torch.cat([angles.cos(), angles.sin()], dim=1)


@dataclass(frozen=True)
class LayoutModel:
    """A checkpoint: the U-Net, its scheduler_config.json, and the autoencoder where it paints in latents."""

    unet: LayoutUNet
    scheduler: Mapping[str, Any]
    vae: Any | None

    @property
    def factor(self) -> int:
        """Pixels along the side of a latent cell; 1 where it paints pixels."""
        return 1 if self.vae is None else 2 ** (len(self.vae.config.block_out_channels) - 1)

    @property
    def size(self) -> int:
        """Side of its pictures, pixels."""
        return int(self.unet.config.sample_size) * self.factor


def load_layout_unet(ref: ModelRef, size: int | None = None) -> LayoutModel:
    """A checkpoint of the trainer `stay`, on the CPU, in float32, in evaluation mode.

    size: side of the pictures that are wanted, pixels; none: any. Raises AugmentError for a missing or damaged file, a
    model of another class and one of another size.
    """
    folder, kind = local_path(ref, NEEDED, ["vae/*"]), LayoutUNet.__name__
    with reading(ref):
        config, scheduler = (json.loads((folder / name).read_bytes()) for name in (NEEDED[0], NEEDED[2]))
        if config.get("_class_name") != kind:
            raise ValueError(f"its U-Net is a {config.get('_class_name')}: a {kind} was expected")
        unet, vae = load_whole(LayoutUNet, folder, subfolder="unet", torch_dtype=torch.float32).eval(), None
        if (folder / "vae").is_dir():
            from diffusers import AutoencoderKL

            vae = load_whole(AutoencoderKL, folder, subfolder="vae", torch_dtype=torch.float32)
            vae = vae.eval().requires_grad_(False)
        model = LayoutModel(unet, scheduler, vae)
        if size not in (None, model.size):
            raise ValueError(f"it paints {model.size} × {model.size} pixels: {size} × {size} were expected")
    return model


def paint_layout(
    unet: LayoutUNet,
    scheduler: Any,
    noise: Tensor,
    boxes: Tensor,
    labels: Tensor,
    style: Tensor,
    guidance: float = 1.5,
    known: Tensor | None = None,
    keep: Tensor | None = None,
) -> Tensor:
    """Noise (N, C, H, W) → pictures (or latents) in −1 .. 1, kept cells as they are known; guidance: 1 = none.

    scheduler: of schedulers.py, its time steps set. What else: as LayoutUNet.forward takes it. The learned
    variance is for samplers that draw noise at each step: ours draw none, so it is cut off.
    """
    halves = 2 if guidance > 1 else 1
    layout = [boxes.repeat(halves, 1, 1), torch.cat([labels * 0, labels][-halves:]), style.repeat(halves, 1, 1)]
    kept = [None if value is None else value.repeat(halves, 1, 1, 1) for value in (known, keep)]
    z, channels = noise * scheduler.init_noise_sigma, noise.shape[1]
    with torch.no_grad():
        for timestep in scheduler.timesteps:
            check_stop()
            if known is not None and keep is not None:
                z = z * (1 - keep) + scheduler.add_noise(known, noise, timestep.expand(len(z))) * keep
            sample = scheduler.scale_model_input(z, timestep).repeat(halves, 1, 1, 1)
            out = unet(sample, timestep, *layout, *kept)[:, :channels].float()
            if halves == 2:
                unconditional, conditional = out.chunk(2)
                out = unconditional + guidance * (conditional - unconditional)
            z = scheduler.step(out, timestep, z).prev_sample
    if known is not None and keep is not None:
        z = z * (1 - keep) + known * keep
    return z
