"""What is in a box? Crops with context, named by an image classifier that was trained on the names.

judge = make_judge(resolve("data/models/pcb/classifier", {}))         # of lib.judges; any classifier of transformers
crops = [crop_region(picture, box, judge.size) for box in boxes]      # of lib.core.vision; boxes: xyxy pixels
shares = judge.score(crops, ["open", "short", "background"])          # (N, 3), rows sum to 1

It knows only the labels of its training, and knows them better than a CLIP (lib/judges/clip.RegionScorer), which
scores any names.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from lib.core.checkpoints import load_whole, local_path, reading
from lib.core.compute import device
from lib.core.errors import AugmentError
from lib.core.vision import Pixels, batched, normalisation, prepared, processor_of, softmax
from lib.core.words import match_names, some_of
from lib.judges.clip import ModelJudge

NEEDED = ("config.json", "*.safetensors", "*processor_config.json")
ALSO = ("*.json",)
KIND = "ForImageClassification"  # how the names of such architectures end


@dataclass(frozen=True)
class Classifier:
    """An image classifier of transformers and how its processor prepares pictures."""

    model: Any
    mean: NDArray[np.float32]  # (3,) of R, G, B in 0 .. 1
    std: NDArray[np.float32]
    size: int  # side of its pictures, pixels

    @property
    def labels(self) -> dict[int, str]:
        """Names of its outputs, by number."""
        return {int(number): label for number, label in sorted(self.model.config.id2label.items())}


class CropClassifier(ModelJudge[Classifier]):
    """An image classifier of transformers that scores which of some names fits a crop best."""

    NAME: ClassVar[str] = "classifier"
    VERSION: ClassVar[int] = 1

    def _read(self) -> Classifier:
        folder = local_path(self.ref, NEEDED, ALSO)
        with reading(self.ref):
            classifier = read_classifier(folder)
            classifier.model.requires_grad_(False).to(device())
            return classifier

    def score(self, crops: Sequence[Pixels], names: Sequence[str]) -> NDArray[np.float64]:
        """(N, len(names)) shares of the names for each crop, 0 .. 1: softmax over their labels, rows sum to 1.

        Case, underscores and hyphens of names do not count; what several labels mean is added up. Raises ValueError
        for no names, AugmentError for one that the model does not know.
        """
        if not names:
            raise ValueError("no names to score crops against: give at least one")
        columns = self._columns(names)
        logits = batched(self.ref, crops, self.batch_size, self._logits, len(self.load().labels))
        scores = [np.logaddexp.reduce(logits.astype(np.float64)[:, numbers], axis=1) for numbers in columns]
        return softmax(np.stack(scores, axis=1))

    def _columns(self, names: Sequence[str]) -> list[list[int]]:
        """Numbers of the labels that each name means."""
        labels = self.load().labels
        columns = [sorted(match_names([name], labels, {})) for name in names]
        unknown = [name for name, numbers in zip(names, columns, strict=True) if not numbers]
        if unknown:
            raise AugmentError(
                f"model {self.ref} does not know {', '.join(unknown)}: it has {some_of(list(labels.values()))}; train "
                "one on all categories, take those away that `screen.boxes.others` adds, or give a CLIP, which "
                "scores any names"
            )
        return columns

    def _logits(self, crops: Sequence[Pixels]) -> Any:
        loaded = self.load()
        pixels = prepared(crops, loaded.size, loaded.mean, loaded.std)
        return loaded.model(pixel_values=pixels.to(loaded.model.device)).logits


def read_classifier(folder: Path) -> Classifier:
    """An image classifier in Hugging Face form, in float32 on the CPU, in evaluation mode.

    Raises what the libraries raise, and ValueError for another architecture; read it inside checkpoints.reading.
    """
    import torch
    import transformers

    config = json.loads((folder / "config.json").read_bytes())
    if not is_classifier(config):
        raise ValueError(f"its config.json names no architecture that ends in {KIND}: {config.get('architectures')}")
    processor = processor_of(folder)
    mean, std = normalisation(processor)
    kind = transformers.AutoModelForImageClassification
    model = load_whole(kind, folder, dtype=torch.float32, trust_remote_code=False)
    return Classifier(model.eval(), mean, std, _side(config, processor))


def is_classifier(config: Mapping[str, Any]) -> bool:
    """Is a config.json that of an image classifier of transformers?"""
    return any(str(name).endswith(KIND) for name in config.get("architectures") or ())


def _side(config: Mapping[str, Any], processor: Mapping[str, Any]) -> int:
    """Of the pictures that it was trained on, pixels: by its config, else by its processor.

    Raises ValueError where neither has it.
    """
    size = processor.get("crop_size") if processor.get("do_center_crop") else processor.get("size")
    by_name = size if isinstance(size, dict) else {"height": size}
    values = [config.get("image_size"), by_name.get("height"), by_name.get("shortest_edge")]
    sides = [side for side in values if isinstance(side, int) and side > 0]
    if not sides:
        raise ValueError("neither its config.json nor its processor says how large its pictures are")
    return sides[0]
