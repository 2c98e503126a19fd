"""Weights in 8 or 4 bits, by bitsandbytes: the same for diffusers and transformers."""

from __future__ import annotations

import importlib
import importlib.util
from typing import TYPE_CHECKING, Any, Literal

from lib.core.compute import device
from lib.core.errors import AugmentError

if TYPE_CHECKING:
    import torch

Quantize = Literal["no", "8bit", "4bit"]


def check_quantize(quantize: Quantize) -> None:
    """Raises AugmentError where such weights cannot be used on this machine."""
    if quantize == "no":
        return
    if device().type != "cuda":
        raise AugmentError(f"quantize: {quantize} needs a GPU, and this machine has none: leave it at no")
    if importlib.util.find_spec("bitsandbytes") is None:
        raise AugmentError(f"quantize: {quantize} needs bitsandbytes: pip install 'augment[quantize]', or set it to no")


def quantized(library: str, quantize: Quantize, dtype: torch.dtype) -> dict[str, Any]:
    """Options of `from_pretrained`; none for "no". library: diffusers or transformers; dtype: what is computed in."""
    if quantize == "no":
        return {}
    config = importlib.import_module(library).BitsAndBytesConfig
    eight = quantize == "8bit"
    return {"quantization_config": config(load_in_8bit=eight, load_in_4bit=not eight, bnb_4bit_compute_dtype=dtype)}
