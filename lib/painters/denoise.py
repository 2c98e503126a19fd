"""Latent diffusion by hand: our own loop over diffusers' maintained blocks (U-Net, autoencoder, CLIP, scheduler).

    model = load_latent_diffusion(ref, unet_has={"in_channels": 4, ...}, dtype=torch.float32)
    text, pooled = model.told(["the sea"], ["fog"])
    latents = denoise(model, scheduler, noise, text, guidance=7.5, before_step=..., extra=..., attention=...)
    picture = model.decoder(latents[0])

Pipelines seed a whole batch at once; here every picture has its own noise, text and conditions, and its bits do not
depend on its neighbours: texts and pictures are encoded one at a time, and the U-Net always sees one batch size.

A painter is a `LatentPainter` that says which checkpoints it takes (`FAMILY`) and how passes become latents
(`_latents`): mostly one call of `_guided` with what is its own, `before_step` (change the latents), `extra` (more input
channels), `attention` (cross-attention arguments), `start` (begin half-way), `ask` (something around the U-Net).
inpainting.py is the shortest example.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import AfterValidator, Field

from lib.errors import AugmentError
from lib.images import PictureError
from lib.models import ModelRef, device, local_path, out_of_memory, reading, run_padded, weights_dtype
from lib.painters import Paint, PassInput
from lib.painters.schedulers import make_scheduler, scheduler_name, time_steps
from lib.registry import MemberSettings

if TYPE_CHECKING:
    import torch

# (latents, step from 0, time step) → latents
BeforeStep = Callable[["torch.Tensor", int, "torch.Tensor"], "torch.Tensor"]

UNET_CONFIG = "unet/config.json"
TEXT = ("text_encoder/config.json", "text_encoder/model.safetensors", "tokenizer/tokenizer_config.json")
NEEDED = (
    UNET_CONFIG,
    "unet/diffusion_pytorch_model.safetensors",
    "vae/config.json",
    "vae/diffusion_pytorch_model.safetensors",
    "scheduler/scheduler_config.json",
    *TEXT,
)
SECOND_TEXT = tuple(name.replace("/", "_2/") for name in TEXT)  # SDXL
ALSO = ("tokenizer/*", "tokenizer_2/*", "model_index.json")

UNSAID = {"attention_type": "default"}  # what a U-Net's config.json means where it does not say
FAMILIES = (
    "in_channels is 4 in models that generate and 9 in those trained to inpaint, attention_type 'gated' in GLIGEN's, "
    "addition_embed_type 'text_time' in SDXL"
)

LARGE = 1024 * 1024  # pixels beyond which the autoencoder works in tiles
LARGE_TILE, SMALL_TILE = 512, 256  # their sides, pixels: of large pictures, and where memory ran out

Steps = Annotated[int, Field(ge=1, le=1000, description="denoising steps")]
Guidance = Annotated[float, Field(ge=1, description="classifier-free guidance; 1 = none, at half the time")]
SchedulerName = Annotated[str, AfterValidator(scheduler_name), Field(description="pndm, ddim, euler, dpm++2m or unipc")]
Size = Annotated[int, Field(ge=64, description="painted at about size × size pixels, in the window's aspect")]


class LatentSettings(MemberSettings):
    """What every latent painter can be told. Painters give their seed systems' values as defaults."""

    model: str | None = Field(None, description="folder, or hub id with or without @revision; none: the published one")
    steps: Steps = 50
    guidance: Guidance = 7.5
    scheduler: SchedulerName = "pndm"
    size: Size = 512
    batch_size: int = Field(8, ge=1, description="passes painted at once on a GPU; a CPU paints one at a time")
    dtype: Literal["auto", "float32", "float16", "bfloat16"] = Field(
        "auto", description="the U-Net's precision; auto: float16 on a GPU, float32 on a CPU"
    )
    compile: bool = Field(False, description="torch.compile the U-Net: minutes at the start of a run, then faster")


class Decoder:
    """Latents → pixels. Large pictures, and those for which memory runs out, are decoded in overlapping tiles."""

    def __init__(self, vae: Any, where: torch.device) -> None:
        self.vae, self._where = vae, where

    def __call__(self, latents: torch.Tensor) -> np.ndarray:
        """(C, h, w) scaled latents → uint8 (H, W, 3) RGB. Raises ArithmeticError for latents that are not finite."""
        import torch

        if not torch.isfinite(latents).all():
            raise ArithmeticError("latents are not finite: the checkpoint overflows in this precision (dtype: float32)")
        with torch.no_grad():
            pixels = self.pixels(latents).permute(1, 2, 0)
        return (pixels / 2 + 0.5).clamp(0, 1).mul(255).round().to("cpu", torch.uint8).numpy()

    def pixels(self, latents: torch.Tensor) -> torch.Tensor:
        """(C, h, w) scaled latents → (3, H, W) float32, about -1 to 1, not clipped, with gradients where asked."""
        scaled = latents[None].to(self._where, self.vae.dtype) / self.vae.config.scaling_factor
        size = scaled.shape[-2] * scaled.shape[-1] * _factor(self.vae) ** 2
        decoded: torch.Tensor = _in_tiles(self.vae, size, lambda: self.vae.decode(scaled).sample[0])
        return decoded.float()


@dataclass(frozen=True)
class LatentDiffusion:
    """The blocks of one checkpoint on one device. Only the U-Net runs in half precision: the rest costs little, and
    SDXL's autoencoder would overflow."""

    unet: Any
    vae: Any
    text_encoder: Any
    tokenizer: Any
    scheduler_config: Mapping[str, Any]
    device: torch.device
    encode_text: Callable[[str], tuple[torch.Tensor, torch.Tensor]]  # text → (1, T, D), (1, P) float32, kept
    blank_is_zero: bool = False  # an empty negative prompt is told as zeros

    @property
    def factor(self) -> int:
        """Pixels per latent cell, each way."""
        return _factor(self.vae)

    @property
    def decoder(self) -> Decoder:
        """What makes pictures of its latents."""
        return Decoder(self.vae, self.device)

    def told(self, prompts: Sequence[str], negatives: Sequence[str] = ()) -> tuple[torch.Tensor, torch.Tensor]:
        """What the U-Net attends to, (N, T, D), and pooled texts, (N, P), float32: first negatives, then prompts."""
        import torch

        unwanted = [self.encode_text(text) for text in negatives]
        if self.blank_is_zero:
            zeros = [(hidden * 0, pooled * 0) for hidden, pooled in unwanted]
            unwanted = [told if text else zero for text, told, zero in zip(negatives, unwanted, zeros, strict=True)]
        hidden, pooled = zip(*unwanted, *(self.encode_text(text) for text in prompts), strict=True)
        return torch.cat(hidden), torch.cat(pooled)

    def added(self, pooled: torch.Tensor, shape: tuple[int, int]) -> dict[str, torch.Tensor] | None:
        """What SDXL's U-Net is told beside the text (arXiv 2307.01952, section 2.2), None for others: the pooled text
        (N, P), and as time_ids (N, 6) original (height, width), the crop's top and left, and painted (height, width).
        """
        import torch

        if self.unet.config.get("addition_embed_type") != "text_time":
            return None
        ids = torch.tensor([[*shape, 0, 0, *shape]], dtype=torch.float32, device=self.device)
        return {"text_embeds": pooled.to(self.unet.dtype), "time_ids": ids.repeat(len(pooled), 1)}

    def noise(self, seeds: Sequence[int], shape: tuple[int, int]) -> torch.Tensor:
        """(N, C, h, w) float32 normal noise for pictures of (height, width) pixels, drawn on the CPU, one per seed."""
        import torch

        size = (self.vae.config.latent_channels, shape[0] // self.factor, shape[1] // self.factor)
        drawn = [torch.randn(size, generator=torch.Generator("cpu").manual_seed(seed)) for seed in seeds]
        return torch.stack(drawn).to(self.device)

    def encode(self, pictures: Sequence[np.ndarray], without: Sequence[np.ndarray] | None = None) -> torch.Tensor:
        """uint8 (H, W, 3) RGB pictures of one shape → (N, C, h, w) float32 scaled latents: the mode, no draw.

        without: bool (H, W) masks of pixels that are hidden, mid-grey (0 of -1 to 1).
        """
        import torch

        nothing: list[np.ndarray | None] = [None] * len(pictures)
        with torch.no_grad():
            return torch.cat([self._encode(*pair) for pair in zip(pictures, without or nothing, strict=True)])

    def _encode(self, picture: np.ndarray, hidden: np.ndarray | None) -> torch.Tensor:
        import torch

        pixels = torch.from_numpy(np.ascontiguousarray(picture)).permute(2, 0, 1)[None]
        pixels = pixels.to(self.device, self.vae.dtype) / 127.5 - 1
        if hidden is not None:
            pixels = pixels.masked_fill(torch.from_numpy(hidden).to(self.device), 0)
        size = picture.shape[0] * picture.shape[1]
        mode: torch.Tensor = _in_tiles(self.vae, size, lambda: self.vae.encode(pixels).latent_dist.mode())
        return mode * self.vae.config.scaling_factor


def load_latent_diffusion(ref: ModelRef, unet_has: Mapping[str, Any], dtype: torch.dtype) -> LatentDiffusion:
    """Load a checkpoint in diffusers' folder form, Stable Diffusion or SDXL; dtype is that of the U-Net.

    unet_has: what unet/config.json must say ("in_channels": 4, ...). Raises AugmentError for a checkpoint of another
    family, an incomplete or a broken one; ConnectionError where a download may work the next time.
    """
    import diffusers
    import torch
    import transformers

    folder, where = local_path(ref, [UNET_CONFIG], ALSO), device()
    with reading(ref):
        config = json.loads((folder / UNET_CONFIG).read_bytes())
    _check_family(ref, config, unet_has)
    twice = config.get("addition_embed_type") == "text_time"
    folder = local_path(ref, [*NEEDED, *(SECOND_TEXT if twice else ())], ALSO)
    with reading(ref):
        texts = [_text_model(folder / "text_encoder", transformers.CLIPTextModel)]
        if twice:
            texts += [_text_model(folder / "text_encoder_2", transformers.CLIPTextModelWithProjection)]
        _check_texts(ref, config, texts)
        unet = diffusers.UNet2DConditionModel.from_pretrained(
            folder, subfolder="unet", torch_dtype=dtype, use_safetensors=True
        )
        vae = diffusers.AutoencoderKL.from_pretrained(
            folder, subfolder="vae", torch_dtype=torch.float32, use_safetensors=True
        )
        names = ["tokenizer", "tokenizer_2"][: len(texts)]
        tokenizers = [transformers.CLIPTokenizer.from_pretrained(folder / name) for name in names]
        schedule = json.loads((folder / "scheduler" / "scheduler_config.json").read_bytes())
        index = folder / "model_index.json"
        pipeline = json.loads(index.read_bytes()) if index.is_file() else {}
    for block in (unet, vae, *texts):
        block.to(where).eval().requires_grad_(False)
    if where.type == "cuda":
        unet.to(memory_format=torch.channels_last)  # convolutions' own layout there
    encode = text_encoding(texts[0], tokenizers[0], where)
    if twice:
        encode = _paired(*(text_encoding(*pair, where, states=-2) for pair in zip(texts, tokenizers, strict=True)))
    zero = twice and bool(pipeline.get("force_zeros_for_empty_prompt", True))
    return LatentDiffusion(unet, vae, texts[0], tokenizers[0], schedule, where, encode, zero)


def denoise(
    model: LatentDiffusion,
    scheduler: Any,
    noise: torch.Tensor,
    text: torch.Tensor,
    guidance: float,
    *,
    before_step: BeforeStep | None = None,
    extra: torch.Tensor | None = None,
    attention: dict[str, Any] | None = None,
    attended: int | None = None,
    added: dict[str, torch.Tensor] | None = None,
    start: int = 0,
    known: torch.Tensor | None = None,
    ask: Callable[..., Any] | None = None,
) -> torch.Tensor:
    """Noise → latents, (N, C, h, w) float32, under classifier-free guidance (Ho and Salimans, arXiv 2207.12598).

    scheduler: with its time steps set; noise: (N, C, h, w), unit variance; guidance: 1 = none. With guidance, `text`
    (2N, T, D) and all tensors in `attention` and `added` hold the unconditional half first; without it the N alone.

    before_step: what happens to the latents before each step.
    extra: (N, C', h, w) channels that the U-Net sees behind the latents at each step.
    attention: cross-attention arguments of the first `attended` steps; none: of all.
    added: conditions beside the text, see `LatentDiffusion.added`.
    start: steps to leave out; then the latents begin as `known` (N, C, h, w), noised to the first step's level.
    ask: called in the U-Net's place, as the U-Net is.
    """
    import torch

    halves, dtype = (2 if guidance > 1 else 1), model.unet.dtype
    ask = ask or model.unet
    times = time_steps(scheduler, start)
    latents = noise * scheduler.init_noise_sigma if known is None else noised(scheduler, known, noise, times[0])
    text = text.to(dtype)
    with torch.no_grad():
        for step, timestep in enumerate(times):
            if before_step is not None:
                latents = before_step(latents, step, timestep)
            seen = scheduler.scale_model_input(latents, timestep)
            if extra is not None:
                seen = torch.cat([seen, extra], dim=1)
            seen = torch.cat([seen] * halves).to(dtype)
            told = attention if attended is None or step < attended else None
            said = ask(seen, timestep, encoder_hidden_states=text, cross_attention_kwargs=told, added_cond_kwargs=added)
            epsilon = said.sample.float()
            if halves == 2:
                blank, asked = epsilon.chunk(2)
                epsilon = blank + guidance * (asked - blank)
            latents = scheduler.step(epsilon, timestep, latents).prev_sample
    return latents


class LatentPainter:
    """What all latent painters share, see lib.painters.Painter: sizes, batches, memory, the model on first use."""

    VERSION: ClassVar[int] = 1
    EDITS: ClassVar[frozenset[str]]
    MODEL: ClassVar[str | None]
    LICENCE: ClassVar[str]
    MAX_BOXES: ClassVar[int | None] = None
    HAS_DECODER: ClassVar[bool] = True
    NEEDS_DONOR: ClassVar[bool] = False
    FAMILY: ClassVar[Mapping[str, Any]]  # what the U-Net's config.json must say
    Settings: ClassVar[type[LatentSettings]] = LatentSettings

    def __init__(self, settings: Any, model: ModelRef) -> None:
        self.settings, self.ref = settings, model
        self._model: LatentDiffusion | None = None
        self._fitted: int | None = None  # batch size that went into the GPU's memory, where the wanted one did not

    @staticmethod
    def shape(settings: Any, width: int, height: int) -> tuple[int, int]:
        """(height, width): the window's aspect at about size² pixels, sides multiples of 64."""
        return aspect_shape(settings.size, width, height)

    @property
    def batch_size(self) -> int:
        """1 on a CPU: threads cut a batch anywhere, so bits would depend on a picture's place in it (by 7e-6), and a
        batch is no faster there.
        """
        return (self._fitted or self.settings.batch_size) if device().type == "cuda" else 1

    def paint(self, batch: Sequence[PassInput]) -> list[Paint]:
        """Paint passes of one shape. Equal passes give equal bits on one device, at one batch size or thread count.

        Where memory is not enough, the batch is halved, for good, and the autoencoder works in tiles. Raises
        PictureError `out_of_memory` where that does not help, ValueError for passes that do not go together or hold
        what cannot be painted, ArithmeticError for numbers that overflow, AugmentError for a checkpoint of no use.
        """
        self._check(batch)
        self._loaded()
        try:
            paints, self._fitted = run_padded(batch, self.batch_size, self._paint)
        except Exception as error:
            if not out_of_memory(error):
                raise
            self._fitted = 1
            raise PictureError("out_of_memory", self._too_large(batch[0].spec.shape)) from error
        return paints

    def decoder(self) -> Decoder:
        """What decodes the latents of its paints; loads the model where that was not done. Raises as `paint`."""
        return self._loaded().decoder

    def _latents(
        self, model: LatentDiffusion, scheduler: Any, noise: torch.Tensor, batch: Sequence[PassInput]
    ) -> torch.Tensor:
        """(N, C, h, w) noise of unit variance → (N, C, h, w) latents of the finished pictures."""
        raise NotImplementedError

    def _guided(
        self, model: LatentDiffusion, scheduler: Any, noise: torch.Tensor, batch: Sequence[PassInput], **more: Any
    ) -> torch.Tensor:
        """`denoise` by the passes' prompts and the settings' guidance; more: what else it takes."""
        prompts, negatives = ([getattr(item.spec, name) for item in batch] for name in ("prompt", "negative_prompt"))
        guidance = self.settings.guidance
        text, pooled = model.told(prompts, negatives if guidance > 1 else [])
        added = model.added(pooled, batch[0].spec.shape)
        return denoise(model, scheduler, noise, text, guidance, added=added, **more)

    def _loaded(self) -> LatentDiffusion:
        if self._model is None:
            model = load_latent_diffusion(self.ref, self.FAMILY, weights_dtype(self.settings.dtype))
            if self.settings.compile:
                model.unet.compile()
            self._model = model
        return self._model

    def _paint(self, batch: Sequence[PassInput]) -> list[Paint]:
        model, settings = self._loaded(), self.settings
        scheduler = make_scheduler(settings.scheduler, model.scheduler_config, settings.steps, model.device)
        noise = model.noise([item.spec.seed for item in batch], batch[0].spec.shape)
        latents, decoder = self._latents(model, scheduler, noise, batch).cpu(), model.decoder
        return [Paint(decoder(own), own, decoder) for own in latents]

    def _check(self, batch: Sequence[PassInput]) -> None:
        for item in batch:
            spec = item.spec
            if spec.shape != batch[0].spec.shape:
                raise ValueError(f"a batch has one shape: got {spec.shape} and {batch[0].spec.shape}")
            if item.canvas.shape[:2] != spec.shape or item.mask.shape != spec.shape:
                raise ValueError(f"canvas {item.canvas.shape} and mask {item.mask.shape} are not of shape {spec.shape}")
            boxes, most = len(spec.boxes), self.MAX_BOXES
            if boxes != len(spec.phrases) or (most is not None and boxes > most):
                limit = "" if most is None else f", {most} at most"
                raise ValueError(f"{boxes} boxes and {len(spec.phrases)} phrases: one each{limit}")

    def _too_large(self, shape: tuple[int, int]) -> str:
        height, width = shape
        return (
            f"{width}×{height} pixels with {self.ref.id} did not fit into the memory of the {device().type}, one at a "
            f"time and decoded in tiles: set the painter's size below {self.settings.size}, or dtype: float16 on a GPU"
        )


def noised(scheduler: Any, known: torch.Tensor, noise: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
    """Known latents (N, C, h, w) at the noise level of a time step, with the pass's own noise: nothing is drawn."""
    told: torch.Tensor = scheduler.add_noise(known, noise, timestep.expand(len(known)))
    return told


def known_kept(known_at: Callable[[torch.Tensor], torch.Tensor], paint_at: Callable[[int], torch.Tensor]) -> BeforeStep:
    """A `before_step` that puts known latents back where they are not painted (Blended Latent Diffusion, arXiv
    2206.02779, and GLIGEN's inpainting): z = known·(1 − paint) + z·paint.

    known_at: time step → (N, C, h, w) known latents as noisy as they shall be; paint_at: step from 0 → (N, 1, h, w),
    0 = known, 1 = painted.
    """

    def before_step(latents: torch.Tensor, step: int, timestep: torch.Tensor) -> torch.Tensor:
        return blend(known_at(timestep), latents, paint_at(step))

    return before_step


def blend(known: torch.Tensor, painted: torch.Tensor, paint: torch.Tensor) -> torch.Tensor:
    """known·(1 − paint) + painted·paint, (N, C, h, w); paint: (N, 1, h, w), 0 to 1."""
    return known * (1 - paint) + painted * paint


def paint_cells(masks: Sequence[np.ndarray], factor: int, where: torch.device) -> torch.Tensor:
    """bool (H, W) masks, True = paint → (N, 1, h, w) float32: 1 for each latent cell with any pixel to paint.

    The maximum, so that a mask smaller than a cell does not vanish.
    """
    import torch

    stacked = torch.from_numpy(np.stack(masks)).to(where, torch.float32)[:, None]
    return torch.nn.functional.max_pool2d(stacked, factor)


def aspect_shape(size: int, width: int, height: int, multiple: int = 64) -> tuple[int, int]:
    """(height, width) of a window's aspect with about size² pixels, both sides multiples of `multiple`.

    64 = 8 pixels per latent cell × 8 for the three halvings inside Stable Diffusion's U-Net.
    """
    ratio = math.sqrt(width / height)
    high, wide = (max(1, round(side / multiple)) * multiple for side in (size / ratio, size * ratio))
    return high, wide


def text_encoding(
    encoder: Any, tokenizer: Any, where: torch.device, kept: int | None = 512, states: int | None = None
) -> Callable[[str], tuple[torch.Tensor, torch.Tensor]]:
    """A function text → (1, T, D) hidden states and (1, P) pooled state, each text encoded once, alone.

    kept: how many texts' states stay in memory; none: all. states: which layer's; none: the last one's, normalised.
    """
    import torch

    @lru_cache(maxsize=kept)
    def encode(text: str) -> tuple[torch.Tensor, torch.Tensor]:
        length = min(tokenizer.model_max_length, encoder.config.max_position_embeddings)
        tokens = tokenizer(text, padding="max_length", max_length=length, truncation=True, return_tensors="pt")
        with torch.no_grad():
            out = encoder(tokens.input_ids.to(where), output_hidden_states=states is not None)
        hidden = out.last_hidden_state if states is None else out.hidden_states[states]
        return hidden, out.text_embeds if "text_embeds" in out else out.pooler_output

    return encode


def _paired(
    first: Callable[[str], Any], second: Callable[[str], Any]
) -> Callable[[str], tuple[torch.Tensor, torch.Tensor]]:
    """SDXL's two text encoders as one: hidden states side by side, the pooled state of the second."""
    import torch

    def encode(text: str) -> tuple[torch.Tensor, torch.Tensor]:
        hidden, pooled = second(text)
        return torch.cat([first(text)[0], hidden], dim=-1), pooled

    return encode


def _text_model(folder: Any, kind: Any) -> Any:
    import torch

    return kind.from_pretrained(folder, use_safetensors=True, dtype=torch.float32)


def _check_family(ref: ModelRef, config: Mapping[str, Any], unet_has: Mapping[str, Any]) -> None:
    found = {key: config.get(key, UNSAID.get(key)) for key in unet_has}
    wrong = [f"{key} {found[key]!r}, expected {value!r}" for key, value in unet_has.items() if found[key] != value]
    if wrong:
        raise AugmentError(f"model {ref} is of another family: its U-Net has {'; '.join(wrong)} ({FAMILIES})")


def _check_texts(ref: ModelRef, config: Mapping[str, Any], texts: Sequence[Any]) -> None:
    """Texts must be as wide as what the U-Net attends to; torch would only speak of matrices."""
    expected = config.get("encoder_hid_dim") or config.get("cross_attention_dim", 1280)
    width = sum(encoder.config.hidden_size for encoder in texts)
    if width not in (expected if isinstance(expected, list) else [expected]):
        raise AugmentError(
            f"model {ref}: its text encoder gives states {width} wide, its U-Net attends to {expected}: they are "
            f"not of one checkpoint"
        )


def _factor(vae: Any) -> int:
    return int(2 ** (len(vae.config.block_out_channels) - 1))


def _in_tiles(vae: Any, pixels: int, call: Callable[[], Any]) -> Any:
    """`call` of the autoencoder: at once, or in tiles where the picture is large; in small ones where memory ran out.

    Tiles differ a little from the whole, so that what decides is the picture's size, and memory only where it must.
    """
    import torch

    try:
        with _tiles(vae, LARGE_TILE if pixels > LARGE else None):
            return call()
    except Exception as error:
        if not out_of_memory(error):
            raise
    torch.cuda.empty_cache()  # outside of `except`, whose traceback would keep the tensors alive
    with _tiles(vae, SMALL_TILE):
        return call()


@contextlib.contextmanager
def _tiles(vae: Any, side: int | None) -> Iterator[None]:
    """The autoencoder in overlapping tiles of side × side pixels inside; none: in one piece."""
    if side is not None:
        vae.tile_sample_min_size, vae.tile_latent_min_size = side, side // _factor(vae)
    vae.use_tiling = side is not None
    try:
        yield
    finally:
        vae.use_tiling = False
