"""vision-language: captions by any model of transformers that answers a text about a picture (image-text-to-text).

Qwen2.5-VL, SmolVLM, LLaVA and their kin are asked in their own chat form; Florence-2 and others that have none receive
the question as it is (`question: <CAPTION>`). The question may name the labels: `question: "What surrounds
{labels}? One sentence."`. Answers are greedy and one at a time, so that words do not depend on a picture's neighbours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Formatter
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field, field_validator

from lib.captioning.captioners.template import sentence_of
from lib.core.checkpoints import ModelRef, check_files, load_whole, local_path, reading, silent
from lib.core.compute import device, weights_dtype
from lib.core.quantize import Quantize, check_quantize, quantized
from lib.core.registry import MemberSettings

if TYPE_CHECKING:
    import numpy as np

NEEDED = ("config.json", "*.safetensors", "tokenizer_config.json", "*processor_config.json")
ALSO = ("*.json", "*.txt", "*.model", "*.jinja")


class VisionLanguageSettings(MemberSettings):
    model: str | None = Field(None, description="folder, or hub id with or without @revision; none: the published one")
    question: str = Field(
        "Describe this picture in one short sentence, without an introduction.",
        min_length=1,
        description="what is asked of each picture; {labels} becomes its categories: a car and a dog",
    )
    max_new_tokens: int = Field(60, ge=1, description="the longest caption, tokens")
    quantize: Quantize = Field("no", description="weights in 8 or 4 bits; needs a GPU and bitsandbytes")

    @field_validator("question")
    @classmethod
    def _check_question(cls, text: str) -> str:
        try:
            fields = {name for _, name, *_ in Formatter().parse(text) if name is not None}
        except ValueError as error:
            raise ValueError(f"{error} in {text!r}: write {{labels}}, or {{{{ for a brace") from None
        if strange := sorted(fields - {"labels"}):
            raise ValueError(f"{{{strange[0]}}} is not known in {text!r}: {{labels}} is")
        return text


@dataclass(frozen=True)
class _Loaded:
    model: Any
    processor: Any


class VisionLanguage:
    """The answer to one question, of each picture alone."""

    VERSION: ClassVar[int] = 1
    MODEL: ClassVar[str | None] = "Qwen/Qwen2.5-VL-7B-Instruct"
    LICENCE: ClassVar[str] = "Apache-2.0"
    NEEDS_PICTURES: ClassVar[bool] = True
    NEEDS_RECORDS: ClassVar[bool] = False
    READS_LABELS: ClassVar[bool] = True
    Settings: ClassVar[type[MemberSettings]] = VisionLanguageSettings
    batch_size = 1

    def __init__(self, settings: VisionLanguageSettings, model: ModelRef) -> None:
        self.settings, self.ref = settings, model
        self._loaded: _Loaded | None = None

    def check(self) -> None:
        """Raises AugmentError for a checkpoint of another kind or without its files, and where its weights cannot be
        quantized here; none are read."""
        check_quantize(self.settings.quantize)
        check_files(self.ref, NEEDED)
        with reading(self.ref):
            _class_of(local_path(self.ref, ["config.json"]))

    def caption(
        self,
        pictures: Sequence[np.ndarray | None],
        labels: Sequence[Sequence[str]],
        records: Sequence[bytes | None] = (),
    ) -> list[str]:
        """One caption each; pictures: uint8 (H, W, 3) RGB of any sizes. Records are not looked at.

        Raises ValueError for a missing picture, AugmentError where the checkpoint cannot be used.
        """
        return [self._caption(*pair) for pair in zip(pictures, labels, strict=True)]

    def _caption(self, picture: np.ndarray | None, labels: Sequence[str]) -> str:
        import torch
        from PIL import Image

        if picture is None:
            raise ValueError("vision-language describes pictures, and got none: use captioner template")
        if self._loaded is None:
            self._loaded = _load(self.ref, self.settings.quantize)
        model, processor = self._loaded.model, self._loaded.processor
        question = self.settings.question.format(labels=sentence_of(labels))
        with silent(), torch.no_grad():
            inputs = processor(text=_asked(processor, question), images=Image.fromarray(picture), return_tensors="pt")
            inputs = inputs.to(model.device, model.dtype)
            tokens = model.generate(**inputs, do_sample=False, num_beams=1, max_new_tokens=self.settings.max_new_tokens)
        if not model.config.is_encoder_decoder:  # it gives the question back before the answer
            tokens = tokens[:, inputs["input_ids"].shape[1] :]
        (text,) = processor.batch_decode(tokens, skip_special_tokens=True)
        return " ".join(text.split())


def _asked(processor: Any, question: str) -> str:
    """The question as the model was trained to hear it, with a place for the picture."""
    if not getattr(processor, "chat_template", None):
        return question
    content = [{"type": "image"}, {"type": "text", "text": question}]
    return str(processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True))


def _class_of(folder: Path) -> Any:
    """The class of a checkpoint, by its config.json. Raises ValueError for one that does not describe pictures."""
    import transformers

    config = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=False)
    known = transformers.AutoModelForImageTextToText._model_mapping
    if type(config) not in known:
        raise ValueError(f"a {config.model_type} answers no question about a picture (image-text-to-text)")
    return known[type(config)]


def _load(ref: ModelRef, quantize: Quantize) -> _Loaded:
    import torch
    import transformers

    check_quantize(quantize)
    folder, where = local_path(ref, NEEDED, ALSO), device()
    dtype = torch.bfloat16 if where.type == "cuda" else weights_dtype()
    with reading(ref):
        kind, options = _class_of(folder), quantized("transformers", quantize, dtype)
        model = load_whole(kind, folder, dtype=dtype, **options)
        processor = transformers.AutoProcessor.from_pretrained(folder, trust_remote_code=False)
    model.generation_config.update(temperature=None, top_p=None, top_k=None)  # it draws nothing
    return _Loaded(model.eval() if options else model.eval().to(where), processor)
