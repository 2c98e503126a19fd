"""blip2 and blip2-flan-t5-xl: captions by BLIP-2 (Li et al. 2023, arXiv 2301.12597) without a prompt.

BLIP-2 + GLIGEN preferred OPT 6.7b to 2.7b: `captioner: {name: blip2, model: Salesforce/blip2-opt-6.7b}`. The weights
of OPT are not for commercial use, those of Flan-T5 are free. Another BLIP-2: another class of two lines.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from lib.core.checkpoints import ModelRef, check_files, load_whole, local_path, reading
from lib.core.compute import device, run_padded, weights_dtype
from lib.core.errors import AugmentError
from lib.core.registry import MemberSettings

if TYPE_CHECKING:
    import numpy as np

NEEDED = ("config.json", "*.safetensors", "tokenizer_config.json")
ALSO = ("*.json", "*.txt", "*.model")
SMALL_GPU = 16e9  # bytes: under it 8-bit weights, as in BLIP-2 + GLIGEN


class Blip2Settings(MemberSettings):
    model: str | None = Field(None, description="folder, or hub id with or without @revision; none: the published one")
    max_new_tokens: int = Field(30, ge=1, description="the longest caption, tokens")
    quantize: Literal["auto", "8bit", "no"] = Field("auto", description="auto: 8bit on GPUs under 16 GB")
    batch_size: int = Field(16, ge=1, description="pictures at once on a GPU; a CPU takes one at a time")


@dataclass(frozen=True)
class _Loaded:
    model: Any
    processor: Any


class Blip2:
    """Greedy captions, one picture's words independent of the others'."""

    VERSION: ClassVar[int] = 1
    MODEL: ClassVar[str | None] = "Salesforce/blip2-opt-2.7b"
    LICENCE: ClassVar[str] = "MIT; the OPT language model inside: OPT licence, not for commercial use"
    MINI: ClassVar[Mapping[str, Any]] = {"max_new_tokens": 56}
    NEEDS_PICTURES: ClassVar[bool] = True
    NEEDS_RECORDS: ClassVar[bool] = False
    Settings: ClassVar[type[MemberSettings]] = Blip2Settings

    def __init__(self, settings: Blip2Settings, model: ModelRef) -> None:
        self.settings, self.ref = settings, model
        self._loaded: _Loaded | None = None
        self._fitted: int | None = None  # batch size that went into the GPU's memory, where the wanted one did not

    def check(self) -> None:
        """Raises AugmentError for a checkpoint of another kind or without its files, and where 8 bits are asked for and
        not possible here; no weights are read."""
        if self.settings.quantize == "8bit":
            _eight_bit(self.settings.quantize)
        check_files(self.ref, NEEDED)
        _check_kind(self.ref)

    @property
    def batch_size(self) -> int:
        # On a CPU the bits would depend on a picture's place in the batch, see painters/denoise.py.
        return self._fitted or (self.settings.batch_size if device().type == "cuda" else 1)

    def caption(
        self,
        pictures: Sequence[np.ndarray | None],
        labels: Sequence[Sequence[str]],
        records: Sequence[bytes | None] = (),
    ) -> list[str]:
        """One caption each; pictures: uint8 (H, W, 3) RGB of any sizes. Labels and records are not looked at.

        Raises ValueError for a missing picture, AugmentError where the checkpoint cannot be used.
        """
        given = [picture for picture in pictures if picture is not None]
        if len(given) != len(pictures):
            raise ValueError("blip2 describes pictures, and got none for some: use captioner template for labels alone")
        captions, self._fitted = run_padded(given, self.batch_size, self._captions)
        return captions

    def _captions(self, pictures: Sequence[np.ndarray]) -> list[str]:
        import torch

        if self._loaded is None:
            self._loaded = _load(self.ref, _eight_bit(self.settings.quantize))
        loaded = self._loaded
        pixels = torch.cat([_pixels(loaded.processor.image_processor, picture) for picture in pictures])
        pixels = pixels.to(loaded.model.device, weights_dtype())
        tokens = loaded.model.generate(
            pixels, do_sample=False, num_beams=1, max_new_tokens=self.settings.max_new_tokens
        )
        # A decoder-only language model gives its prompt back, image placeholders included, which no tokenizer knows.
        placeholder, nothing = loaded.model.config.image_token_index, loaded.processor.tokenizer.pad_token_id
        words = tokens.masked_fill(tokens == placeholder, nothing)
        return [text.strip() for text in loaded.processor.batch_decode(words, skip_special_tokens=True)]


class Blip2FlanT5(Blip2):
    """BLIP-2 with Flan-T5 XL as its language model."""

    MODEL: ClassVar[str | None] = "Salesforce/blip2-flan-t5-xl"
    LICENCE: ClassVar[str] = "MIT; the Flan-T5 language model inside: Apache-2.0"


def _eight_bit(quantize: str) -> bool:
    """Load 8-bit weights? Raises AugmentError where that needs bitsandbytes or a GPU and it is missing."""
    import torch

    gpu = device().type == "cuda"
    wanted = quantize == "8bit" or (
        quantize == "auto" and gpu and torch.cuda.get_device_properties(0).total_memory < SMALL_GPU
    )
    if wanted and not gpu:
        raise AugmentError("blip2 with quantize: 8bit needs a GPU, and this machine has none: leave it at auto")
    if wanted and importlib.util.find_spec("bitsandbytes") is None:
        raise AugmentError(
            "blip2 on a GPU under 16 GB loads 8-bit weights, which needs bitsandbytes: "
            "pip install 'augment[quantize]', or set quantize: no"
        )
    return wanted


def _load(ref: ModelRef, eight_bit: bool) -> _Loaded:
    import transformers

    folder, where = local_path(ref, NEEDED, ALSO), device()
    options: dict[str, Any] = {"dtype": weights_dtype()}
    if eight_bit:
        options["quantization_config"] = transformers.BitsAndBytesConfig(load_in_8bit=True)
        options["device_map"] = {"": where.index or 0}
    _check_kind(ref)
    with reading(ref):
        model = load_whole(transformers.Blip2ForConditionalGeneration, folder, **options)
        processor = transformers.AutoProcessor.from_pretrained(folder, trust_remote_code=False)
    return _Loaded(model.eval() if eight_bit else model.eval().to(where), processor)


def _check_kind(ref: ModelRef) -> None:
    """Raises AugmentError where a config.json is not that of a BLIP-2."""
    with reading(ref):
        config = dict(json.loads((local_path(ref, ["config.json"]) / "config.json").read_bytes()))
        kind, token = config.get("model_type"), config.get("image_token_index")
        if kind != "blip-2" or token is None:
            raise ValueError(
                f"its config.json says model_type {kind!r} and image_token_index {token!r}; a blip-2 that names its "
                f"image token was expected"
            )


def _pixels(image_processor: Any, picture: np.ndarray) -> Any:
    """(1, 3, h, w) float32, one picture at a time: they may be of different sizes."""
    return image_processor(picture, input_data_format="channels_last", return_tensors="pt").pixel_values
