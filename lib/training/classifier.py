"""The classifier: a small ResNet (He et al. 2016, arXiv 1512.03385) that says which category a crop of a box shows.

Trained on the data set's labelled boxes alone, it judges what painters put into boxes: `augment fidelity DATASET
--model FOLDER`, or `screen.boxes.judge`. Its crops are those of any judge (lib/core/vision.crop_region), of all
categories equally often, and empty places as `background`, or an empty box would count as the likeliest category.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from pydantic import Field
from torch import nn

from lib.core.checkpoints import ModelRef, reading
from lib.core.errors import AugmentError
from lib.core.geometry import CONTEXT, most_shared
from lib.core.vision import Pixels, crop_region, prepared
from lib.judges.classifier import Classifier, read_classifier
from lib.training.clip import BACKGROUND, worn
from lib.training.loop import LoopSettings
from lib.training.vae import save_half
from lib.training.windows import TrainingPicture, one_of

LEAST = 2.0  # pixels: a box with a shorter side teaches nothing

_WIDTHS = (32, 64, 128, 192)
_MEAN, _STD = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
_TRIES = 100  # to find a place without objects
_COLUMNS, _ROWS, _STRIP = 8, 6, 14  # of the sheet; pixels under a crop for the predicted category
_RIGHT, _WRONG = (40, 120, 60), (200, 30, 30)


class ClassifierSettings(LoopSettings):
    """Settings of the trainer `classifier`."""

    steps: int = Field(3000, ge=0, description="optimiser steps")
    batch: int = Field(64, ge=2, description="crops a step")
    weight_decay: float = Field(0.05, ge=0, description="of AdamW")
    side: int = Field(64, ge=32, le=256, description="of the crops that a fresh model sees, pixels")
    background: bool = Field(True, description="learn places without objects as a further category, `background`")
    symmetries: Literal["none", "mirror", "all"] = Field(
        "mirror", description="left and right exchanged, or all eight of the square: boards seen from above"
    )
    shift: float = Field(3, ge=0, description="crops lie up to this beside their box, pixels of the crop")
    scale: float = Field(0.15, ge=0, lt=1, description="crops are up to this share larger or smaller")
    contrast: float = Field(0.2, ge=0, lt=1, description="contrast changes by up to this share")
    smoothing: float = Field(0.05, ge=0, lt=1, description="of the labels: share given to all of them alike")


def make_classifier(labels: Sequence[str], side: int) -> Classifier:
    """A fresh ResNet of 0.9 M weights for crops of side × side pixels."""
    from transformers import ResNetConfig, ResNetForImageClassification

    config = ResNetConfig(
        embedding_size=_WIDTHS[0],
        hidden_sizes=list(_WIDTHS),
        depths=[1] * len(_WIDTHS),
        layer_type="basic",
        id2label=dict(enumerate(labels)),
        label2id={label: number for number, label in enumerate(labels)},
    )
    mean, std = (np.array(values, np.float32) for values in (_MEAN, _STD))
    return Classifier(ResNetForImageClassification(config), mean, std, side)


class ClassifierObjective(nn.Module):
    """Name the crops of boxes, every category as often as any other."""

    def __init__(
        self, classifier: Classifier, pictures: Sequence[TrainingPicture], settings: ClassifierSettings
    ) -> None:
        super().__init__()
        self.model, self.classifier, self.settings = classifier.model, classifier, settings
        self.pictures, self.labels = pictures, list(classifier.labels.values())
        self.examples = _examples(pictures)
        boxes = [pictures[number].things.boxes[row] for found in self.examples.values() for number, row in found]
        self.sizes = [box[2:] - box[:2] for box in boxes]  # width and height
        self._check()

    def batch(self, rng: np.random.Generator, size: int, step: int = 0) -> dict[str, torch.Tensor]:
        """Keys "pixels" (N, 3, side, side), normalised, and "labels" (N,)."""
        labels = rng.integers(len(self.labels), size=size)
        crops = [self._worn(self._crop(rng, label, moved=True), rng) for label in labels.tolist()]
        return {"pixels": self._prepared(crops), "labels": torch.from_numpy(labels)}

    def forward(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        logits = self.model(pixel_values=batch["pixels"]).logits.float()
        loss = nn.functional.cross_entropy(logits, batch["labels"], label_smoothing=self.settings.smoothing)
        right = (logits.detach().argmax(1) == batch["labels"]).float().mean()
        return {"loss": loss, "right": right}

    def save(self, folder: Path) -> None:
        """ResNetForImageClassification (or what it began from) and its processor in one folder."""
        from transformers import ViTImageProcessor

        form = self.classifier
        shape = {"height": form.size, "width": form.size}  # squeezed, nothing cut off
        processor = ViTImageProcessor(size=shape, image_mean=form.mean.tolist(), image_std=form.std.tolist())
        processor.save_pretrained(folder)
        save_half(self.model, folder)

    def sheet(self) -> np.ndarray:
        """Crops of all categories with the predicted one; wrong ones are framed and have the true one beside it."""
        rng, where = np.random.default_rng(0), next(self.model.parameters()).device
        labels = [i % len(self.labels) for i in range(_COLUMNS * _ROWS)]
        crops = [self._crop(rng, label, moved=False) for label in labels]
        with torch.inference_mode():
            predicted = self.model(pixel_values=self._prepared(crops).to(where)).logits.argmax(1).tolist()
        tiles = [self._tile(*of_crop) for of_crop in zip(crops, labels, predicted, strict=True)]
        rows = [np.concatenate(tiles[i : i + _COLUMNS], 1) for i in range(0, len(tiles), _COLUMNS)]
        return np.concatenate(rows)

    def _check(self) -> None:
        """Raise AugmentError for a category without examples, and for examples of one that the model does not know."""
        strange = sorted(set(self.examples) - set(self.labels))
        if strange:
            raise AugmentError(
                f"the model to begin from does not know {', '.join(strange)}: it knows {', '.join(self.labels)}; train "
                "a fresh one, without `start`"
            )
        empty = [name for name in self.labels if not self.examples.get(name) and name != BACKGROUND]
        if empty:
            raise AugmentError(
                f"no example of {', '.join(empty)} to learn from: a box with sides of {LEAST:g} pixels or more was "
                "expected; raise `detail`, give larger pictures, or take the category out of the data"
            )
        drawn = BACKGROUND in self.labels and not self.examples.get(BACKGROUND)
        if drawn and self._empty_place(np.random.default_rng(0)) is None:
            raise AugmentError(
                f"no example of {BACKGROUND} to learn from: objects leave no free place in the pictures; add pictures "
                "without objects, or set `background: false`"
            )

    def _crop(self, rng: np.random.Generator, label: int, moved: bool) -> Pixels:
        """Of a box of that category, or of an empty place; moved: a little beside it, and larger or smaller."""
        picture, box = self._place(rng, self.labels[label])
        side, settings = self.classifier.size, self.settings
        if moved:
            middle, half = (box[:2] + box[2:]) / 2, (box[2:] - box[:2]) / 2
            span = 2 * half.max() * (1 + 2 * CONTEXT)  # of the crop, pixels of the picture
            middle = middle + rng.uniform(-1, 1, 2) * settings.shift * span / side
            half = half * (1 + rng.uniform(-1, 1) * settings.scale)
            box = np.concatenate([middle - half, middle + half])
        return crop_region(picture.pixels, box.tolist(), side)

    def _place(self, rng: np.random.Generator, name: str) -> tuple[TrainingPicture, NDArray[np.float64]]:
        """A picture and a box (xyxy pixels) in it."""
        examples = self.examples.get(name)
        if examples:
            number, row = examples[int(rng.integers(len(examples)))]
            return self.pictures[number], self.pictures[number].things.boxes[row]
        while (found := self._empty_place(rng)) is None:
            pass  # one exists: see _check
        return found

    def _empty_place(self, rng: np.random.Generator) -> tuple[TrainingPicture, NDArray[np.float64]] | None:
        """A picture and a box, as large as some object's, with no tenth in any object, nor of any in it; None for none.

        Try by try the boxes grow smaller, so that crowded pictures give some too.
        """
        for tried in range(_TRIES):
            picture = one_of(self.pictures, rng)
            frame = np.array(picture.pixels.shape[1::-1], np.float64)
            size = self.sizes[int(rng.integers(len(self.sizes)))] * 0.97**tried
            size = np.minimum(size.clip(LEAST), frame)
            corner = rng.uniform(0, 1, 2) * (frame - size)
            box = np.concatenate([corner, corner + size])
            if most_shared(box[None], picture.things.boxes)[0] <= 0.1:
                return picture, box
        return None

    def _worn(self, pixels: Pixels, rng: np.random.Generator) -> Pixels:
        """Turned or mirrored, in other contrast, and through lib.training.clip.worn."""
        turns = {"none": 1, "mirror": 2, "all": 8}[self.settings.symmetries]
        turn = int(rng.integers(turns))
        pixels = np.rot90(pixels[:, ::-1] if turn % 2 else pixels, turn // 2)
        contrast = 1 + rng.uniform(-1, 1) * self.settings.contrast
        changed = (pixels - pixels.mean()) * contrast + pixels.mean()
        return worn(np.clip(changed, 0, 255).astype(np.uint8), rng)

    def _prepared(self, crops: Sequence[Pixels]) -> torch.Tensor:
        return prepared(crops, self.classifier.size, self.classifier.mean, self.classifier.std)

    def _tile(self, crop: Pixels, label: int, predicted: int) -> Pixels:
        side, colour = self.classifier.size, _RIGHT if predicted == label else _WRONG
        image = Image.new("RGB", (side + 4, side + 4 + _STRIP), (255, 255, 255))
        image.paste(Image.fromarray(crop), (2, 2))
        pen, font = ImageDraw.Draw(image), ImageFont.load_default(size=10)
        if predicted != label:
            pen.rectangle((0, 0, side + 3, side + 3), outline=colour, width=2)
        text = self.labels[predicted] if predicted == label else f"{self.labels[predicted]} ≠ {self.labels[label]}"
        pen.text((2, side + 3), text, fill=colour, font=font)
        return np.asarray(image)


def _examples(pictures: Sequence[TrainingPicture]) -> dict[str, list[tuple[int, int]]]:
    """{category: [(number of a picture, row of its box)]}; none for a category all of whose boxes are too small."""
    found: dict[str, list[tuple[int, int]]] = {}
    for number, picture in enumerate(pictures):
        sides = (picture.things.boxes[:, 2:] - picture.things.boxes[:, :2]).min(axis=1)
        for row, category in enumerate(picture.things.categories):
            found.setdefault(category, [])
            if sides[row] >= LEAST:
                found[category].append((number, row))
    return found


class ClassifierTrainer:
    """The trainer of the judge of boxes; it needs no other model."""

    VERSION: ClassVar[int] = 1
    NEEDS: ClassVar[tuple[str, ...]] = ()
    DETAIL: ClassVar[float] = 0
    ABOUT: ClassVar[str] = "a ResNet that names what a box shows, learned from real boxes: a judge of painted ones"
    Settings: ClassVar[type[ClassifierSettings]] = ClassifierSettings

    @staticmethod
    def objective(
        settings: ClassifierSettings,
        pictures: Sequence[TrainingPicture],
        size: int,
        models: Path,
        start: Path | None,
        work: Path,
    ) -> ClassifierObjective:
        """A fresh one for the pictures' categories, or that of `start` with its labels."""
        if start is not None:
            with reading(ModelRef("folder", "", start)):
                classifier = read_classifier(start)
            return ClassifierObjective(classifier, pictures, settings)
        names = {name for picture in pictures for name in picture.things.categories}
        labels = sorted(names | {BACKGROUND} if settings.background else names)
        return ClassifierObjective(make_classifier(labels, settings.side), pictures, settings)
