"""transformers: any detection model in Hugging Face form. zero-shot: OWL-ViT and OWLv2, which take names as text.

A model of the first kind knows the labels that it was trained on, which are matched to the data set's names; the second
kind (Minderer et al. 2023, arXiv 2306.09683) takes a text such as "a photo of a forklift" and knows what CLIP knows.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from pydantic import Field

from lib.core.checkpoints import ModelRef, load_whole, local_path, reading
from lib.core.compute import device
from lib.core.errors import AugmentError
from lib.core.words import match_names, naming, spoken
from lib.evaluation.detectors import Base, Detections, DetectorSettings, Pixels
from lib.evaluation.detectors.shared import check_finite, none_known, numbered, tidy

NEEDED = ("config.json", "*.safetensors", "*processor_config.json")
ALSO = ("*.json", "*.txt")
OWLS = ("owlvit", "owlv2")


class TransformersSettings(DetectorSettings):
    called: dict[str, str] = Field({}, description="category → the model's own label, where they differ")


class ZeroShotSettings(DetectorSettings):
    prompts: dict[str, str] = Field({}, description='category → text prompt; others: "a photo of a {category}"')


@dataclass(frozen=True)
class _Loaded:
    model: Any
    processor: Any


class Transformers(Base):
    """A detection model of transformers (DETR, RT-DETR, YOLOS, ...), by its own post-processing."""

    VERSION: ClassVar[int] = 1
    MODEL: ClassVar[str | None] = "PekingU/rtdetr_r50vd"
    LICENCE: ClassVar[str] = "Apache-2.0"
    Settings: ClassVar[type[DetectorSettings]] = TransformersSettings

    def load(self) -> _Loaded:
        """Model and processor, read once."""
        if self._loaded is None:
            self._loaded = _load(self.ref, "AutoModelForObjectDetection", "AutoImageProcessor")
        return self._loaded

    @property
    def labels(self) -> dict[int, str]:
        """The model's own labels by number."""
        return {int(number): label for number, label in self.load().model.config.id2label.items()}

    def knows(self, names: Sequence[str]) -> list[bool]:
        """By name; case, underscores and hyphens do not count."""
        known = set(match_names(names, self.labels, self.settings.called).values())
        return [i in known for i in range(len(names))]

    def detect(self, pictures: Sequence[Pixels], names: Sequence[str]) -> list[Detections]:
        """As Detector.detect."""
        matched = match_names(names, self.labels, self.settings.called)
        if not matched:
            raise none_known(self.ref, names, list(self.labels.values()))
        return [self._detect(picture, matched) for picture in pictures]

    def _detect(self, picture: Pixels, matched: dict[int, int]) -> Detections:
        import torch

        loaded = self.load()
        inputs = loaded.processor(images=[picture], input_data_format="channels_last", return_tensors="pt")
        with torch.inference_mode():
            out = loaded.model(**inputs.to(loaded.model.device))
        check_finite(self.ref, out.logits)
        found = loaded.processor.post_process_object_detection(
            out, threshold=self.settings.threshold, target_sizes=[picture.shape[:2]]
        )[0]
        labels = numbered(found["labels"], matched)
        matching = labels >= 0
        return tidy(
            picture, found["boxes"].cpu()[matching], found["scores"].cpu()[matching], labels[matching], self.settings
        )


class ZeroShot(Base):
    """An OWL: one score for each box and name, the best name is the box's."""

    VERSION: ClassVar[int] = 1
    MODEL: ClassVar[str | None] = "google/owlv2-base-patch16-ensemble"
    LICENCE: ClassVar[str] = "Apache-2.0"
    Settings: ClassVar[type[DetectorSettings]] = ZeroShotSettings

    def load(self) -> _Loaded:
        """Model and processor, read once."""
        if self._loaded is None:
            self._loaded = _load(self.ref, "AutoModelForZeroShotObjectDetection", "AutoProcessor", OWLS)
        return self._loaded

    def knows(self, names: Sequence[str]) -> list[bool]:
        """True for every name: it takes any text."""
        return [True for _ in names]

    def prompts(self, names: Sequence[str]) -> list[str]:
        """The text prompt of each name."""
        return [self.settings.prompts.get(name) or naming(spoken(name)) for name in names]

    def detect(self, pictures: Sequence[Pixels], names: Sequence[str]) -> list[Detections]:
        """As Detector.detect; a prompt longer than the model reads is cut. Raises AugmentError for no names."""
        if not names:
            raise AugmentError("detector zero-shot got no names: give at least one")
        return [self._detect(picture, self.prompts(names)) for picture in pictures]

    def _detect(self, picture: Pixels, prompts: Sequence[str]) -> Detections:
        import torch

        loaded = self.load()
        inputs = loaded.processor(
            text=[list(prompts)],
            images=[picture],
            input_data_format="channels_last",
            truncation=True,
            max_length=loaded.model.config.text_config.max_position_embeddings,
            return_tensors="pt",
        )
        with torch.inference_mode():
            out = loaded.model(**inputs.to(loaded.model.device))
        check_finite(self.ref, out.logits)
        found = loaded.processor.post_process_grounded_object_detection(
            out, threshold=self.settings.threshold, target_sizes=[picture.shape[:2]]
        )[0]
        return tidy(picture, found["boxes"], found["scores"], found["labels"], self.settings)


def _load(ref: ModelRef, model_class: str, processor_class: str, kinds: Sequence[str] = ()) -> _Loaded:
    """kinds: model types that it may be; none = any of the class."""
    import torch
    import transformers

    folder, where = local_path(ref, NEEDED, ALSO), device()
    with reading(ref):
        kind = json.loads((folder / "config.json").read_bytes()).get("model_type")
        if kinds and kind not in kinds:
            raise ValueError(f"its config.json says model_type {kind!r}; one of {', '.join(kinds)} was expected")
        try:
            made = getattr(transformers, model_class)
            model = load_whole(made, folder, dtype=torch.float32, trust_remote_code=False)
            processor = getattr(transformers, processor_class).from_pretrained(folder, trust_remote_code=False)
        except ImportError as error:  # some backbones are of timm, which this project does not install
            raise ValueError(f"it needs another package: {str(error).strip()}") from error
    return _Loaded(model.eval().requires_grad_(False).to(where), processor)
