"""The blocks of a latent diffusion checkpoint, as diffusers and transformers load them: U-Net, autoencoder, texts.

    model = load_latent_diffusion(ref, unet_has={"in_channels": 4, ...}, dtype=torch.float32)
    text, pooled = model.encode_prompts(["the sea"], ["fog"])
    picture = model.decoder(model.encode([picture])[0])

Texts and pictures are encoded one at a time, so that no bit depends on what else is in a batch; the autoencoder gives
its mode, so that nothing is drawn.
"""

from __future__ import annotations

import copy
import json
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lib.core.checkpoints import ModelRef, check_files, load_rounded, load_whole, local_path, reading
from lib.core.compute import device, out_of_memory
from lib.core.downloads import Needed
from lib.core.errors import AugmentError

if TYPE_CHECKING:
    import numpy as np
    import torch

UNET_CONFIG = "unet/config.json"
SCHEDULER_CONFIG = "scheduler/scheduler_config.json"
NEEDED = (
    UNET_CONFIG,
    "vae/config.json",
    "vae/diffusion_pytorch_model.safetensors",
    SCHEDULER_CONFIG,
)
UNET = "unet/diffusion_pytorch_model.safetensors"
UNET_HALF = "unet/diffusion_pytorch_model.fp16.safetensors"  # its twin in half precision, half the download
TEXT = "model.safetensors"  # of text_encoder and SDXL's text_encoder_2
TEXT_HALF = ("model.fp16.safetensors", "pytorch_model.fp16.safetensors")  # the second one as the hub converts pickles
ALSO = ("tokenizer/*", "tokenizer_2/*", "model_index.json")

DEFAULTS = {"attention_type": "default"}  # of fields that a U-Net's config.json may lack
FAMILIES = (
    "in_channels is 4 in models that generate and 9 in those trained to inpaint, attention_type 'gated' in GLIGEN's, "
    "addition_embed_type 'text_time' in SDXL"
)

LARGE = 1024 * 1024  # pixels beyond which the autoencoder works in tiles
LARGE_TILE, SMALL_TILE = 512, 256  # their sides, pixels: of large pictures, and where memory ran out


class Decoder:
    """Latents → pixels. Large pictures, and those for which memory runs out, are decoded in overlapping tiles."""

    def __init__(self, vae: Any, where: torch.device) -> None:
        self.vae, self._where = vae, where

    def __call__(self, latents: torch.Tensor) -> np.ndarray:
        """(C, h, w) scaled latents → uint8 (H, W, 3) RGB. Raises ArithmeticError for latents that are not finite."""
        import torch

        if not torch.isfinite(latents).all():
            raise ArithmeticError("latents are not finite")
        with torch.no_grad():
            pixels = self.pixels(latents).permute(1, 2, 0)
        return (pixels / 2 + 0.5).clamp(0, 1).mul(255).round().to("cpu", torch.uint8).numpy()

    def pixels(self, latents: torch.Tensor) -> torch.Tensor:
        """(C, h, w) scaled latents → (3, H, W) float32, about -1 to 1, not clipped, gradients as enabled."""
        scaled = latents[None].to(self._where, self.vae.dtype) / self.vae.config.scaling_factor
        size = scaled.shape[-2] * scaled.shape[-1] * _factor(self.vae) ** 2
        decoded: torch.Tensor = _fitting(self.vae, size, lambda vae: vae.decode(scaled).sample[0])
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
    blank_is_zero: bool = False  # an empty negative prompt is encoded as zeros

    @property
    def factor(self) -> int:
        """Pixels per latent cell, each way."""
        return _factor(self.vae)

    @property
    def decoder(self) -> Decoder:
        """What makes pictures of its latents."""
        return Decoder(self.vae, self.device)

    def encode_prompts(
        self, prompts: Sequence[str], negatives: Sequence[str] = ()
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """What the U-Net attends to, (N, T, D), and pooled texts, (N, P), float32: first negatives, then prompts."""
        import torch

        unwanted = [self.encode_text(text) for text in negatives]
        if self.blank_is_zero:
            zeros = [(hidden * 0, pooled * 0) for hidden, pooled in unwanted]
            unwanted = [one if text else zero for text, one, zero in zip(negatives, unwanted, zeros, strict=True)]
        hidden, pooled = zip(*unwanted, *(self.encode_text(text) for text in prompts), strict=True)
        return torch.cat(hidden), torch.cat(pooled)

    def added(self, pooled: torch.Tensor, shape: tuple[int, int]) -> dict[str, torch.Tensor] | None:
        """What SDXL's U-Net receives beside the text (arXiv 2307.01952, section 2.2), None for others: the pooled text
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

    def encode(self, pictures: Sequence[np.ndarray], hidden: Sequence[np.ndarray] | None = None) -> torch.Tensor:
        """uint8 (H, W, 3) RGB pictures of one shape → (N, C, h, w) float32 scaled latents: the mode, no draw.

        hidden: bool (H, W) masks of pixels that are painted mid-grey first (0 of -1 to 1).
        """
        import torch

        nothing: list[np.ndarray | None] = [None] * len(pictures)
        with torch.no_grad():
            return torch.cat([self._encode(*pair) for pair in zip(pictures, hidden or nothing, strict=True)])

    def _encode(self, picture: np.ndarray, hidden: np.ndarray | None) -> torch.Tensor:
        import numpy as np
        import torch

        pixels = torch.from_numpy(np.ascontiguousarray(picture)).permute(2, 0, 1)[None]
        pixels = pixels.to(self.device, self.vae.dtype) / 127.5 - 1
        if hidden is not None:
            pixels = pixels.masked_fill(torch.from_numpy(hidden).to(self.device), 0)
        size = picture.shape[0] * picture.shape[1]
        mode: torch.Tensor = _fitting(self.vae, size, lambda vae: vae.encode(pixels).latent_dist.mode())
        return mode * self.vae.config.scaling_factor


def load_latent_diffusion(ref: ModelRef, unet_has: Mapping[str, Any], dtype: torch.dtype) -> LatentDiffusion:
    """Load a checkpoint in diffusers' folder form, Stable Diffusion or SDXL; dtype is that of the U-Net.

    In half precision U-Net and texts come from the files' twins in half precision, where there are some. Texts and
    autoencoder compute in float32 all the same.

    unet_has: what unet/config.json must say ("in_channels": 4, ...). Raises AugmentError for a checkpoint of another
    family, an incomplete or a broken one; ConnectionError where a download may work the next time.
    """
    import diffusers
    import torch
    import transformers

    config, where = check_family(ref, unet_has), device()
    twice, half = config.get("addition_embed_type") == "text_time", dtype == torch.float16
    parts = ["", "_2"] if twice else [""]
    folder = local_path(ref, [*NEEDED, *_weights(parts, half)], ALSO)
    with reading(ref):
        texts = [_text_encoder(transformers.CLIPTextModel, folder / "text_encoder", half)]
        if twice:
            texts.append(_text_encoder(transformers.CLIPTextModelWithProjection, folder / "text_encoder_2", half))
        _check_texts(ref, config, texts)
        variant = "fp16" if half and (folder / UNET_HALF).exists() else None
        unet = load_whole(diffusers.UNet2DConditionModel, folder, subfolder="unet", torch_dtype=dtype, variant=variant)
        vae = load_whole(diffusers.AutoencoderKL, folder, subfolder="vae", torch_dtype=torch.float32)
        tokenizers = [transformers.CLIPTokenizer.from_pretrained(folder / f"tokenizer{part}") for part in parts]
        schedule = json.loads((folder / SCHEDULER_CONFIG).read_bytes())
        index = folder / "model_index.json"
        pipeline = json.loads(index.read_bytes()) if index.is_file() else {}
    for block in (unet, vae, *texts):
        block.to(where).eval().requires_grad_(False)
    if where.type == "cuda":
        unet.to(memory_format=torch.channels_last)  # the fastest layout of convolutions on a GPU
    encode = text_encoding(texts[0], tokenizers[0], where)
    if twice:
        encode = _paired(*(text_encoding(*pair, where, states=-2) for pair in zip(texts, tokenizers, strict=True)))
    zero = twice and bool(pipeline.get("force_zeros_for_empty_prompt", True))
    return LatentDiffusion(unet, vae, texts[0], tokenizers[0], schedule, where, encode, zero)


def scheduler_config(ref: ModelRef) -> dict[str, Any]:
    """A checkpoint's scheduler/scheduler_config.json."""
    with reading(ref):
        return dict(json.loads((local_path(ref, [SCHEDULER_CONFIG]) / SCHEDULER_CONFIG).read_bytes()))


def check_complete(ref: ModelRef, config: Mapping[str, Any]) -> None:
    """Raises AugmentError where a checkpoint lacks weights, in either precision; nothing is downloaded.

    config: its unet/config.json.
    """
    parts = ["", "_2"] if config.get("addition_embed_type") == "text_time" else [""]
    check_files(ref, [*NEEDED, *_weights(parts, half=True)])


def _weights(parts: Sequence[str], half: bool) -> list[Needed]:
    """The files of U-Net and texts; parts: what the folders' names of the texts end in."""
    needed: list[Needed] = [(UNET_HALF, UNET) if half else UNET]
    for part in parts:
        text = f"text_encoder{part}"
        needed += [f"{text}/config.json", f"tokenizer{part}/tokenizer_config.json"]
        needed.append(tuple(f"{text}/{name}" for name in ((*TEXT_HALF, TEXT) if half else (TEXT,))))
    return needed


def _text_encoder(kind: Any, folder: Path, half: bool) -> Any:
    import torch

    if not half:
        return load_whole(kind, folder, dtype=torch.float32)
    name = next(name for name in (*TEXT_HALF, TEXT) if (folder / name).exists())
    return load_rounded(kind, folder, folder / name, dtype=torch.float32)


def text_encoding(
    encoder: Any, tokenizer: Any, where: torch.device, kept: int | None = 512, states: int | None = None
) -> Callable[[str], tuple[torch.Tensor, torch.Tensor]]:
    """A function text → (1, T, D) hidden states and (1, P) pooled state, each text encoded once, alone.

    Threads may share it. kept: how many texts' states stay in memory; none: all. states: which layer's; none: the last
    one's, normalised.
    """
    import torch

    @lru_cache(maxsize=kept)
    def encode(text: str) -> tuple[torch.Tensor, torch.Tensor]:
        with torch.no_grad():
            out = encoder(tokens_of(encoder, tokenizer, text).to(where), output_hidden_states=states is not None)
        hidden = out.last_hidden_state if states is None else out.hidden_states[states]
        return hidden, out.text_embeds if "text_embeds" in out else out.pooler_output

    lock = threading.Lock()  # a fast tokenizer fails, "already borrowed", where two threads call it

    def one_by_one(text: str) -> tuple[torch.Tensor, torch.Tensor]:
        with lock:
            return encode(text)

    return one_by_one


def tokens_of(encoder: Any, tokenizer: Any, text: str) -> torch.Tensor:
    """(1, T) tokens of a text, cut or filled up to what the encoder takes."""
    length = min(tokenizer.model_max_length, encoder.config.max_position_embeddings)
    found = tokenizer(text, padding="max_length", max_length=length, truncation=True, return_tensors="pt")
    ids: torch.Tensor = found.input_ids
    return ids


def _paired(
    first: Callable[[str], Any], second: Callable[[str], Any]
) -> Callable[[str], tuple[torch.Tensor, torch.Tensor]]:
    """SDXL's two text encoders as one: hidden states side by side, the pooled state of the second."""
    import torch

    def encode(text: str) -> tuple[torch.Tensor, torch.Tensor]:
        hidden, pooled = second(text)
        return torch.cat([first(text)[0], hidden], dim=-1), pooled

    return encode


def check_family(ref: ModelRef, unet_has: Mapping[str, Any]) -> dict[str, Any]:
    """A checkpoint's unet/config.json. Raises as `load_latent_diffusion` does where it says otherwise."""
    with reading(ref):
        config: dict[str, Any] = dict(json.loads((local_path(ref, [UNET_CONFIG], ALSO) / UNET_CONFIG).read_bytes()))
    found = {key: config.get(key, DEFAULTS.get(key)) for key in unet_has}
    wrong = [f"{key} {found[key]!r}, expected {value!r}" for key, value in unet_has.items() if found[key] != value]
    if wrong:
        raise AugmentError(f"model {ref} is of another family: its U-Net has {'; '.join(wrong)} ({FAMILIES})")
    return config


def bare_unet(config: Mapping[str, Any]) -> Any:
    """The U-Net of a unet/config.json without weights: its layers, with their names and sizes, in no memory."""
    import diffusers
    import torch

    with torch.device("meta"):
        return diffusers.UNet2DConditionModel.from_config(dict(config))


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


def _fitting(vae: Any, pixels: int, call: Callable[[Any], Any]) -> Any:
    """`call` with the autoencoder: in tiles where the picture is large, and in small ones where memory ran out.

    Tiles differ a little from the whole, so that what decides is the picture's size, and memory only where it must.
    """
    import torch

    try:
        return call(_in_tiles(vae, LARGE_TILE) if pixels > LARGE else vae)
    except Exception as error:
        if not out_of_memory(error):
            raise
    torch.cuda.empty_cache()  # outside of `except`, whose traceback would keep the tensors alive
    return call(_in_tiles(vae, SMALL_TILE))


def _in_tiles(vae: Any, side: int) -> Any:
    """The same autoencoder, weights shared, that works in overlapping tiles of side × side pixels.

    A copy, since other threads may be using this one.
    """
    tiled = copy.copy(vae)
    tiled.use_tiling, tiled.tile_sample_min_size, tiled.tile_latent_min_size = True, side, side // _factor(vae)
    return tiled
