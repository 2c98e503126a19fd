"""LoRA files for the U-Nets of the painters: read, held against the base, and added to its weights, with the words that
were learned beside them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from lib.core.checkpoints import ModelRef, local_path, reading
from lib.core.errors import AugmentError
from lib.core.registry import MemberSettings
from lib.painting.painters.blocks import ALSO, LatentDiffusion, bare_unet
from lib.painting.painters.words import FOLDER, Words

if TYPE_CHECKING:
    import torch

WEIGHTS = "pytorch_lora_weights.safetensors"  # as diffusers saves it


_ENDS = ((".lora_A.weight", ".lora_B.weight"), (".lora.down.weight", ".lora.up.weight"))  # of today and of yesterday


class LoraChoice(MemberSettings):
    """Settings of painters that take a LoRA. Its digest is part of a picture's key, its place is not."""

    lora: str | None = Field(
        None, description="a LoRA for this checkpoint: folder, or hub id with or without @revision; none: no LoRA"
    )
    lora_file: str | None = Field(None, description="which file of it, where there are several")
    lora_scale: float = Field(1.0, ge=-4, le=4, description="how much of it is added")


def add_lora(model: LatentDiffusion, ref: ModelRef, file: str | None, scale: float) -> LatentDiffusion:
    """The model with a LoRA added to its U-Net's weights, for good: painting is as fast as without; and with its words.

    file: its name, where the folder holds several. Raises AugmentError for one of another base, one that changes the
    text encoder too, or one without weights for a U-Net.
    """
    path, unet = lora_file(ref, file), model.unet
    with reading(ref):
        _load(path, unet)
        unet.fuse_lora(lora_scale=scale)
        unet.unload_lora()
        words = Words.read(path.parent / FOLDER)
        return words.taught(model) if words else model


def check_lora(base: ModelRef, config: Mapping[str, Any], ref: ModelRef, file: str | None) -> None:
    """Raises what `add_lora` would, in seconds: of the base its tokenizer and configurations are read, no weights.

    config: the base's unet/config.json.
    """
    path = lora_file(ref, file)
    with reading(ref):
        _load(path, bare_unet(config))
        words = Words.read(path.parent / FOLDER)
        if words:
            words.check(config, *_texts(base))


def lora_file(ref: ModelRef, file: str | None) -> Path:
    """The file of a LoRA on this machine. Raises AugmentError where there is none, or one has to be chosen."""
    folder = local_path(ref, [file or "*.safetensors"], [f"{FOLDER}/*.safetensors"])
    names = sorted(path.name for path in folder.glob("*.safetensors"))
    if file is None and len(names) > 1 and WEIGHTS not in names:
        raise AugmentError(f"LoRA {ref} holds several files, {', '.join(names)}: choose one with lora_file")
    return folder / (file or (WEIGHTS if WEIGHTS in names else names[0]))


def _load(path: Path, unet: Any) -> None:
    """A LoRA into a U-Net, beside its weights, or into a bare one."""
    state, alphas, facts = _read(path)
    _check_base(unet, state)
    bare = unet.device.type == "meta"  # nothing can be copied there
    unet.load_lora_adapter(state, prefix="unet", network_alphas=alphas, metadata=facts, low_cpu_mem_usage=bare)


def _texts(base: ModelRef) -> tuple[int, Any]:
    """How wide a base's text encoder is, and its tokenizer."""
    import transformers

    config = "text_encoder/config.json"
    folder = local_path(base, [config, "tokenizer/tokenizer_config.json"], ALSO)
    with reading(base):
        width = json.loads((folder / config).read_bytes())["hidden_size"]
        return width, transformers.CLIPTokenizer.from_pretrained(folder / "tokenizer")


def _read(path: Path) -> tuple[dict[str, torch.Tensor], Any, Any]:
    """Weights by diffusers' names, whichever program wrote them, the scales of some formats, and facts of others."""
    from diffusers import StableDiffusionPipeline

    given = {"weight_name": path.name, "use_safetensors": True, "local_files_only": True, "return_lora_metadata": True}
    state, alphas, facts = StableDiffusionPipeline.lora_state_dict(str(path.parent), **given)
    if any(name.startswith("text_encoder") for name in state):
        raise ValueError(f"{path.name} changes the text encoder too, which is not supported: give one for the U-Net")
    if not any(name.startswith("unet.") for name in state):
        raise ValueError(f"{path.name} holds no weights for a U-Net: is it a LoRA?")
    return state, alphas, facts


def _check_base(unet: Any, state: dict[str, torch.Tensor]) -> None:
    """Raises ValueError where the layers that a LoRA names are not there, or are of another size."""
    layers = dict(unet.named_modules())
    for name, down in state.items():
        ends = next((ends for ends in _ENDS if name.endswith(ends[0])), None)
        if ends is None:
            continue
        layer = name.removeprefix("unet.").removesuffix(ends[0])
        found = layers.get(layer)
        if found is None:
            raise ValueError(f"it is a LoRA of another base: {layer} is not in this U-Net")
        up = state.get(f"unet.{layer}{ends[1]}")
        if up is None:
            raise ValueError(f"it is damaged: of {layer} it holds one matrix of two")
        size, wanted = tuple(found.weight.shape[:2]), (up.shape[0], down.shape[1])
        if size != wanted:
            sizes = f"{size[0]} × {size[1]} in this U-Net, {wanted[0]} × {wanted[1]} in its own"
            raise ValueError(f"it is a LoRA of another base: {layer} is {sizes}")
