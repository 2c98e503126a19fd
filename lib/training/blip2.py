"""The captioner: BLIP-2 (Li et al. 2023, arXiv 2301.12597) with all three parts tiny and trained together.

loss = cross-entropy of the caption's words + patches

Published BLIP-2 starts from a vision tower that was trained on millions of pictures. This one starts from random
weights, so each of its patches also learns which categories stand on it (binary cross-entropy by the boxes; that layer
is not saved). A patch knows its place, and the Q-Former finds words for what the patches show.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import nn

from lib.captioning.captioners.blip2 import Blip2
from lib.core.checkpoints import ModelRef, load_whole, reading
from lib.core.vision import to_square
from lib.training.clip import worn
from lib.training.loop import LoopSettings
from lib.training.texts import corpus, gpt2_tokenizer
from lib.training.vae import save_half
from lib.training.windows import Pixels, Things, TrainingPicture, Window, mirrored, one_of, squeezed

SIZE = 128  # pixels
PATCH = 16
QUERIES = 16
LONGEST = Blip2.MINI["max_new_tokens"]  # tokens of a caption at most


def make_blip2(tokenizer: Any) -> Any:
    """A fresh Blip2ForConditionalGeneration for 128 × 128 pixels: 2 M parameters."""
    from transformers import Blip2Config, Blip2ForConditionalGeneration

    small = {"hidden_size": 128, "intermediate_size": 256, "num_attention_heads": 4}
    words = {
        "vocab_size": len(tokenizer),
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    text = {
        "model_type": "opt",
        **words,
        "hidden_size": 128,
        "word_embed_proj_dim": 128,
        "ffn_dim": 256,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": QUERIES + LONGEST + 8,
        "dropout": 0.0,
    }
    config = Blip2Config(
        vision_config={**small, "num_hidden_layers": 5, "image_size": SIZE, "patch_size": PATCH},
        qformer_config={
            **small,
            "encoder_hidden_size": 128,
            "num_hidden_layers": 2,
            "cross_attention_frequency": 1,
            "vocab_size": len(tokenizer),
            "hidden_dropout_prob": 0.0,
            "attention_probs_dropout_prob": 0.0,
        },
        text_config=text,
        num_query_tokens=QUERIES,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
    )
    model = Blip2ForConditionalGeneration(config)
    with torch.no_grad():
        model.query_tokens.normal_(std=0.5)  # 0 by default: all queries would stay equal
    return model


class Blip2Objective(nn.Module):
    """Caption a whole picture."""

    def __init__(self, blip2: Any, tokenizer: Any, pictures: Sequence[TrainingPicture]) -> None:
        super().__init__()
        self.blip2, self.tokenizer, self.pictures = blip2, tokenizer, pictures
        self.names = sorted({name for picture in pictures for name in picture.things.categories})
        self.patches = nn.Linear(blip2.config.vision_config.hidden_size, len(self.names))
        self._states: torch.Tensor | None = None
        blip2.vision_model.register_forward_hook(self._look)

    def batch(self, rng: np.random.Generator, size: int, step: int = 0) -> dict[str, torch.Tensor]:
        """pixels (N, 3, H, W), tokens and labels (N, T), patches (N, P, K): 1 where category k stands."""
        chosen = [one_of(self.pictures, rng) for _ in range(size)]
        views = [_view(picture, rng) for picture in chosen]
        pixels = torch.cat([self._normal(view[0]) for view in views])
        model = self.blip2.config
        marks = [model.image_token_index] * QUERIES + [self.tokenizer.bos_token_id]
        captions = [self.tokenizer(picture.caption).input_ids[:LONGEST] for picture in chosen]
        rows = [[*marks, *words, self.tokenizer.eos_token_id] for words in captions]
        longest = max(map(len, rows))
        tokens = torch.full((size, longest), self.tokenizer.pad_token_id)
        labels = torch.full((size, longest), -100)
        for i, row in enumerate(rows):
            tokens[i, : len(row)] = torch.tensor(row)
            labels[i, len(marks) : len(row)] = torch.tensor(row[len(marks) :])
        patches = torch.stack([self._standing(view[1]) for view in views])
        return {"pixels": pixels, "tokens": tokens, "labels": labels, "patches": patches}

    def forward(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        tokens = batch["tokens"]
        mask = (tokens != self.tokenizer.pad_token_id).long()
        out = self.blip2(pixel_values=batch["pixels"], input_ids=tokens, attention_mask=mask)
        logits, labels = out.logits[:, :-1].float(), batch["labels"][:, 1:]
        words = nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten())
        assert self._states is not None
        standing = self.patches(self._states[:, 1:]).float()
        patches = nn.functional.binary_cross_entropy_with_logits(standing, batch["patches"])
        return {"loss": words + patches, "words": words.detach(), "patches": patches.detach()}

    def save(self, folder: Path) -> None:
        """Model, tokenizer and processor in one folder."""
        from transformers import Blip2Processor

        Blip2Processor(self._processor(), self.tokenizer, num_query_tokens=QUERIES).save_pretrained(folder)
        save_half(self.blip2, folder)

    def sheet(self) -> np.ndarray:
        """Eight pictures, each with the model's caption and the true one: (1024, 760, 3) uint8."""
        from PIL import Image, ImageDraw

        windows = [squeezed(picture, SIZE) for picture in self.pictures[:8]]
        sheet = Image.new("RGB", (760, 8 * SIZE), "white")
        draw = ImageDraw.Draw(sheet)
        for i, window in enumerate(windows):
            sheet.paste(Image.fromarray(window.pixels), (0, i * SIZE))
            draw.text((SIZE + 8, i * SIZE + 20), f"model: {self.caption_of(window.pixels)}", fill="black")
            draw.text((SIZE + 8, i * SIZE + 50), f"truth: {window.caption}", fill="gray")
        return np.asarray(sheet)

    def caption_of(self, pixels: Pixels) -> str:
        """The caption of one square picture."""
        device = next(self.blip2.parameters()).device
        with torch.no_grad():
            tokens = self.blip2.generate(self._normal(pixels).to(device), do_sample=False, max_new_tokens=LONGEST)
        return str(self.tokenizer.decode(tokens[0], skip_special_tokens=True)).strip()

    def _look(self, tower: Any, inputs: Any, out: Any) -> None:
        self._states = out.last_hidden_state

    @staticmethod
    def _processor() -> Any:
        from transformers import BlipImageProcessor

        return BlipImageProcessor(size={"height": SIZE, "width": SIZE})

    def _normal(self, pixels: Pixels) -> torch.Tensor:
        tensor: torch.Tensor = self._processor()(pixels, input_data_format="channels_last", return_tensors="pt")[
            "pixel_values"
        ]
        return tensor

    def _standing(self, things: Things) -> torch.Tensor:
        side = SIZE // PATCH
        grid = torch.zeros(len(self.names), side, side)
        for box, name in zip(things.boxes * side, things.categories, strict=True):
            x0, y0 = np.floor(box[:2] + 0.3).astype(int)
            x1, y1 = np.maximum(np.ceil(box[2:] - 0.3).astype(int), [x0 + 1, y0 + 1])
            grid[self.names.index(name), y0:y1, x0:x1] = 1
        return grid.flatten(1).T


def _view(picture: TrainingPicture, rng: np.random.Generator) -> tuple[Pixels, Things]:
    """The picture a little closer, with everything that its caption names still in it."""
    side = min(picture.pixels.shape[:2])
    window = squeezed(picture, side)
    if len(window.things):
        boxes = window.things.boxes * side
        low, high = boxes[:, :2].min(0), boxes[:, 2:].max(0)
        part = min(side, int(rng.uniform(max(0.75 * side, (high - low).max()), side)) + 1)
        first, last = np.maximum(0, high - part), np.minimum(low, side - part)
        x, y = (first + rng.random(2) * np.maximum(0, last - first)).astype(int)
        inside = np.clip((boxes - [x, y, x, y]) / part, 0, 1)
        things = Things(inside, window.things.categories, window.things.phrases)
        window = Window(window.pixels[y : y + part, x : x + part], window.caption, things)
    if rng.random() < 0.5:
        window = mirrored(window)
    return worn(to_square(window.pixels, SIZE), rng), window.things


class Blip2Trainer:
    """The trainer of the captioner; it needs no other model."""

    VERSION: ClassVar[int] = 1
    NEEDS: ClassVar[tuple[str, ...]] = ()
    DETAIL: ClassVar[float] = 2
    ABOUT: ClassVar[str] = "a BLIP-2 captioner: vision tower, Q-Former and an OPT language model"

    class Settings(LoopSettings):
        steps: int = Field(4000, ge=0, description="optimiser steps")
        warmup: int = Field(200, ge=0, description="steps over which the rate rises")
        weight_decay: float = Field(0.05, ge=0, description="of AdamW")

    @staticmethod
    def objective(
        settings: Settings, pictures: Sequence[TrainingPicture], size: int, models: Path, start: Path | None, work: Path
    ) -> Blip2Objective:
        """A fresh captioner with a tokenizer made of the captions, or those of `start`."""
        if start is None:
            tokenizer = gpt2_tokenizer(corpus(pictures))
            return Blip2Objective(make_blip2(tokenizer), tokenizer, pictures)
        from transformers import AutoTokenizer, Blip2ForConditionalGeneration

        with reading(ModelRef("folder", "", start)):
            model = load_whole(Blip2ForConditionalGeneration, start, dtype=torch.float32)
            return Blip2Objective(model, AutoTokenizer.from_pretrained(start, trust_remote_code=False), pictures)
