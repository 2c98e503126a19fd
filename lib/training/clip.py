"""The CLIP (Radford et al. 2021, arXiv 2103.00020): text tower of the painters, feature extractor, judge of regions.

It learns from crops of objects with their phrases, crops of background, and whole windows with their captions. A text
may belong to several crops of a batch (all forklifts are "a forklift"), so the contrast is between a crop's texts and
all others: −mean over a row's positives of log softmax, rows of pictures and of texts alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import cv2
import numpy as np
import torch
from pydantic import Field
from torch import nn

from lib.core.checkpoints import ModelRef, load_whole, reading
from lib.core.geometry import covered_xyxy
from lib.core.vision import crop_region, pooled, to_square
from lib.core.words import article, naming
from lib.training.loop import LoopSettings
from lib.training.texts import TOKENS, clip_tokenizer, corpus
from lib.training.vae import save_half
from lib.training.windows import Pixels, TrainingPicture, mirrored, one_of, squeezed

SIZE = 64  # pixels of a crop
BACKGROUND = "background"  # the text of a crop without an object

_WIDTH = 128
# Means and deviations of R, G, B in 0 .. 1, as published with CLIP.
_MEAN, _STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def make_clip(tokenizer: Any) -> Any:
    """A fresh CLIPModel for 64 × 64 pixels and the tokenizer's words: 1.3 M parameters."""
    from transformers import CLIPConfig, CLIPModel

    small = {"hidden_size": _WIDTH, "intermediate_size": 2 * _WIDTH, "num_attention_heads": 4}
    text = {
        **small,
        "num_hidden_layers": 3,
        "vocab_size": len(tokenizer),
        "max_position_embeddings": TOKENS,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    vision = {**small, "num_hidden_layers": 4, "image_size": SIZE, "patch_size": 8}
    return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=_WIDTH))


class ClipObjective(nn.Module):
    """Match crops with phrases and windows with captions."""

    def __init__(self, clip: Any, tokenizer: Any, pictures: Sequence[TrainingPicture], size: int) -> None:
        super().__init__()
        self.clip, self.tokenizer, self.size = clip, tokenizer, size
        self.pictures = [picture for picture in pictures if len(picture.things)]

    def batch(self, rng: np.random.Generator, size: int, step: int = 0) -> dict[str, torch.Tensor]:
        """`size` crops, an eighth of them background, and a quarter as many windows.

        Keys "crops" and "wholes" (N, 3, 64, 64), normalised, with "*_texts" (M, T) tokens and "*_match" (N, M) bool.
        """
        crops, texts = zip(*(self._crop(rng, i % 8 == 0) for i in range(size)), strict=True)
        chosen = [one_of(self.pictures, rng) for _ in range(max(2, size // 4))]
        wholes, captions = [], []
        for picture in chosen:
            window = squeezed(picture, self.size)  # the caption is of the whole picture
            pixels = mirrored(window).pixels if rng.random() < 0.5 else window.pixels
            wholes.append(worn(to_square(pixels, SIZE), rng))
            captions.append((picture.caption,))
        return {
            **self._matched("crops", crops, texts, rng),
            **self._matched("wholes", wholes, captions, rng),
        }

    def forward(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        regions, right = self._contrast(batch, "crops")
        scenes, _ = self._contrast(batch, "wholes")
        return {"loss": regions + 0.5 * scenes, "regions": regions.detach(), "scenes": scenes.detach(), "right": right}

    def save(self, folder: Path) -> None:
        """CLIPModel, tokenizer and processor in one folder."""
        from transformers import CLIPImageProcessor, CLIPProcessor

        shape = {"height": SIZE, "width": SIZE}
        processor = CLIPImageProcessor(size=shape, do_center_crop=False, image_mean=list(_MEAN), image_std=list(_STD))
        CLIPProcessor(processor, self.tokenizer).save_pretrained(folder)
        save_half(self.clip, folder)

    def sheet(self) -> np.ndarray:
        """Crops as the model sees them, 16 a row."""
        rng = np.random.default_rng(0)
        crops = [self._crop(rng, i % 8 == 0)[0] for i in range(64)]
        return np.concatenate([np.concatenate(crops[i : i + 16], 1) for i in range(0, 64, 16)])

    def _contrast(self, batch: dict[str, torch.Tensor], name: str) -> tuple[torch.Tensor, torch.Tensor]:
        match = batch[f"{name}_match"]
        pictures = self.clip.get_image_features(pixel_values=batch[name])
        texts = self.clip.get_text_features(input_ids=batch[f"{name}_texts"])
        with torch.autocast(match.device.type, enabled=False):
            pictures, texts = (nn.functional.normalize(pooled(v).float(), dim=-1) for v in (pictures, texts))
            logits = self.clip.logit_scale.exp().clamp(max=100) * pictures @ texts.T
            loss = (_among(logits, match) + _among(logits.T, match.T)) / 2
        right = match.gather(1, logits.argmax(1, keepdim=True)).float().mean()
        return loss, right

    def _crop(self, rng: np.random.Generator, background: bool) -> tuple[Pixels, tuple[str, ...]]:
        """A crop and all texts that are true of it."""
        picture = one_of(self.pictures, rng)
        things = picture.things
        number = rng.integers(len(things))
        box = things.boxes[number]
        if background:
            free = _free_box(picture, rng)
            if free is None:
                background = False
            else:
                box = free
        side = (box[2:] - box[:2]).max()
        pixels = crop_region(picture.pixels, box + rng.uniform(-0.06, 0.06, 4) * side, SIZE, rng.uniform(0, 0.3))
        if rng.random() < 0.5:
            pixels = np.ascontiguousarray(pixels[:, ::-1])
        if background:
            return worn(pixels, rng), (BACKGROUND,)
        name, phrase = things.categories[number], things.phrases[number]
        return worn(pixels, rng), (name, f"{article(name)} {name}", naming(name), phrase)

    def _matched(
        self, name: str, pictures: Sequence[Pixels], true_texts: Sequence[Sequence[str]], rng: np.random.Generator
    ) -> dict[str, torch.Tensor]:
        texts = list(dict.fromkeys(true[int(rng.integers(len(true)))] for true in true_texts))
        match = torch.tensor([[text in true for text in texts] for true in true_texts])
        tokens = self.tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt").input_ids
        pixels = torch.from_numpy((np.stack(pictures) / 255 - _MEAN) / _STD).permute(0, 3, 1, 2).float().contiguous()
        return {name: pixels, f"{name}_texts": tokens, f"{name}_match": match}


def _among(logits: torch.Tensor, match: torch.Tensor) -> torch.Tensor:
    chosen = torch.where(match, logits.log_softmax(1), 0).sum(1) / match.sum(1).clamp(min=1)
    return -chosen.sum() / match.any(1).sum().clamp(min=1)


def _free_box(picture: TrainingPicture, rng: np.random.Generator) -> np.ndarray | None:
    """A square that no object reaches into by more than a tenth; None where a few draws found none."""
    height, width = picture.pixels.shape[:2]
    for _ in range(10):
        side = rng.uniform(0.1, 0.4) * min(height, width)
        x, y = rng.uniform(0, width - side), rng.uniform(0, height - side)
        box = np.array([x, y, x + side, y + side])
        if all(covered_xyxy(thing, box[None])[0] <= 0.1 for thing in picture.things.boxes):
            return box
    return None


def worn(pixels: Pixels, rng: np.random.Generator) -> Pixels:
    """As a small painter or camera may give it: softer, in another light, noisy. Judges must not look at sharpness."""
    if rng.random() < 0.6:
        least = int(pixels.shape[0] / rng.uniform(1, 3))
        small = cv2.resize(pixels, (least, least), interpolation=cv2.INTER_AREA)
        pixels = to_square(small, pixels.shape[0])
    light = rng.uniform(0.85, 1.15) * rng.uniform(0.95, 1.05, 3)
    noisy = pixels * light + rng.normal(0, rng.uniform(0, 5), pixels.shape)
    return np.clip(np.round(noisy), 0, 255).astype(np.uint8)


class ClipTrainer:
    """The trainer of CLIP; it needs no other model."""

    VERSION: ClassVar[int] = 1
    NEEDS: ClassVar[tuple[str, ...]] = ()
    DETAIL: ClassVar[float] = 2
    ABOUT: ClassVar[str] = "a CLIP: the painters' text tower, the feature extractor `mini`, and the judge of regions"

    class Settings(LoopSettings):
        steps: int = Field(2500, ge=0, description="optimiser steps")
        batch: int = Field(64, ge=1, description="crops a step")
        warmup: int = Field(200, ge=0, description="steps over which the rate rises")
        weight_decay: float = Field(0.05, ge=0, description="of AdamW")

    @staticmethod
    def objective(
        settings: Settings, pictures: Sequence[TrainingPicture], size: int, models: Path, start: Path | None, work: Path
    ) -> ClipObjective:
        """A fresh CLIP with a tokenizer made of the captions, or those of `start`."""
        if start is None:
            tokenizer = clip_tokenizer(corpus(pictures))
            return ClipObjective(make_clip(tokenizer), tokenizer, pictures, size)
        return ClipObjective(*load_clip(start), pictures, size)


def load_clip(folder: Path) -> tuple[Any, Any]:
    """(CLIPModel in float32, its tokenizer); raises AugmentError where the folder holds none."""
    from transformers import CLIPModel, CLIPTokenizer

    with reading(ModelRef("folder", "", folder)):
        model = load_whole(CLIPModel, folder, dtype=torch.float32)
        return model, CLIPTokenizer.from_pretrained(folder)


def text_tower(folder: Path) -> tuple[Any, Any]:
    """(CLIPTextModel in float32, frozen, and its tokenizer) of a CLIP."""
    from transformers import CLIPTextModel

    clip, tokenizer = load_clip(folder)
    tower = CLIPTextModel(clip.config.text_config)
    # Newer versions of transformers leave the prefix out of a bare text model.
    bare = {name.removeprefix("text_model."): value for name, value in clip.text_model.state_dict().items()}
    tower.load_state_dict({name: bare[name.removeprefix("text_model.")] for name in tower.state_dict()})
    return tower.eval().requires_grad_(False), tokenizer
