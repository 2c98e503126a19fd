"""What LoRAs of U-Nets and of transformers share: settings, examples, and the small matrices beside the layers.

matrices = Matrices(unet, "unet", rank=16, layers=("to_q", "to_v"))
matrices.weights                     # nn.ParameterDict: what learns
matrices.save(folder); matrices.load(folder)
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field
from safetensors.torch import load_file, save_file
from torch import nn

from lib.painting.painters.denoise import paint_cells
from lib.painting.painters.lora import WEIGHTS
from lib.training.gligen import kept_cells
from lib.training.latents import WindowsObjective
from lib.training.loop import LoopSettings
from lib.training.texts import listing
from lib.training.windows import Things, Window


class Matrices:
    """Pairs of matrices beside the layers of a frozen network whose names end so."""

    def __init__(self, network: Any, prefix: str, rank: int, layers: Sequence[str]) -> None:
        """prefix: the network's name in the file, unet or transformer."""
        from peft import LoraConfig

        self.network, self.prefix = network, prefix
        network.requires_grad_(False)
        network.add_adapter(LoraConfig(r=rank, lora_alpha=rank, target_modules=list(layers)))
        learning = {name: weight for name, weight in network.named_parameters() if weight.requires_grad}
        for weight in learning.values():
            weight.data = weight.data.float()
        self.weights = nn.ParameterDict({name.replace(".", "/"): weight for name, weight in learning.items()})

    def load(self, folder: Path) -> None:
        """Go on from those in a folder. Raises ValueError for matrices of other layers, or of another rank."""
        state = load_file(folder / WEIGHTS)
        own = {self._named(name): one for name, one in self.weights.items()}
        shapes, wanted = ({name: tuple(one.shape) for name, one in some.items()} for some in (state, own))
        if shapes != wanted:
            raise ValueError("it has matrices of other layers, or of another rank: give its base, rank and targets")
        with torch.no_grad():
            for name, weight in own.items():
                weight.copy_(state[name])

    def save(self, folder: Path) -> None:
        """In diffusers' form, float16. Equal ones are equal files, which its own function does not give: it writes two
        entries of metadata, whose order is another each time."""
        from diffusers.loaders.lora_base import LORA_ADAPTER_METADATA_KEY
        from peft import get_peft_model_state_dict

        layers = get_peft_model_state_dict(self.network, adapter_name="default")
        state = {f"{self.prefix}.{name}": weight.detach().cpu().half().contiguous() for name, weight in layers.items()}
        config = self.network.peft_config["default"].to_dict()
        facts = {f"{self.prefix}.{name}": value for name, value in config.items()}
        facts = {name: sorted(value) if isinstance(value, set) else value for name, value in facts.items()}
        save_file(state, folder / WEIGHTS, {LORA_ADAPTER_METADATA_KEY: json.dumps(facts, sort_keys=True)})

    def _named(self, name: str) -> str:
        return f"{self.prefix}.{name.replace('/', '.').replace('.default', '')}"


LEARNED = 0.7  # share of the examples with a category of `learn` in which one such object alone is painted


class LoraSettings(LoopSettings):
    base: str = Field(
        "mini:gligen-inpaint", description="the checkpoint that learns: a folder, or a hub id with or without @revision"
    )
    rank: int = Field(16, ge=1, le=256, description="width of the small matrices")
    targets: Literal["attention", "all"] = Field(
        "attention", description="layers that learn: attention, or convolutions and feed-forward layers too"
    )
    background: float = Field(
        0.15, ge=0, le=1, description="share of the examples that paint a place without an object"
    )
    windows: int = Field(
        16, ge=1, le=256, description="windows of each picture: half of them whole, the others around an object"
    )
    zoom: float = Field(
        1.0,
        ge=1,
        le=8,
        description="how many times what stands around a small object is enlarged, at most; such objects are painted "
        "best in windows as small: an edit's `min_window` is `size` divided by it",
    )
    learn: list[str] = Field(
        [],
        description="categories that are new to the base: most windows and examples are of these, the others keep what "
        "it knows; none: all alike",
    )
    words: bool = Field(
        False, description="a new word for each category, whose embedding learns too: for names that say another thing"
    )
    steps: int = Field(1500, ge=0, description="optimiser steps")
    batch: int = Field(8, ge=1, description="examples a step on each device")
    rate: float = Field(3e-4, gt=0, description="learning rate of AdamW after the warm-up")


class LoraExamples(WindowsObjective):
    """What an example shows."""

    background: float  # as LoraSettings
    learn: Sequence[str]
    inpaint: bool  # the network sees what is kept

    def _chosen(
        self, window: Window, rng: np.random.Generator, background: float | None = None
    ) -> tuple[Window, torch.Tensor | None]:
        """The window with the things that are painted, and the cells that stay where a place without one is."""
        background = self.background if background is None else background
        if not self.inpaint:
            return window, None
        empty = free_cells(window.things, self.latents.shape[-1], rng) if rng.random() < background else None
        if empty is not None:
            return Window(window.pixels, "", window.things.take([])), empty
        if rng.random() < LEARNED:
            new = [row for row, name in enumerate(window.things.categories) if name in self.learn]
            if new:
                return Window(window.pixels, window.caption, window.things.take([new[rng.integers(len(new))]])), None
        return window, None

    def _listed(self, window: Window, empty: torch.Tensor | None, rng: np.random.Generator) -> tuple[str, torch.Tensor]:
        """(text, keep (1, h, w)) of what `_chosen` gave. Without boxes the text alone says what is painted."""
        cells = self.latents.shape[-1]
        things, keep = window.things, torch.zeros(1, cells, cells)
        if self.inpaint:
            things, keep = kept_cells(things, cells, rng)
        text = window.caption if not self.inpaint and rng.random() < 0.5 else listing(things) if len(things) else ""
        return text, keep if empty is None else empty


def free_cells(things: Things, cells: int, rng: np.random.Generator, tries: int = 8) -> torch.Tensor | None:
    """(1, h, w) with 0 in a rectangle that no box touches, 1 elsewhere; None where none was found."""
    taken = paint_cells([_mask(things, cells)], 1, torch.device("cpu"))[0, 0].numpy() > 0
    for _ in range(tries):
        height, width = rng.integers(math.ceil(cells / 8), math.ceil(cells / 2) + 1, 2)
        y, x = rng.integers(0, cells - height + 1), rng.integers(0, cells - width + 1)
        if not taken[y : y + height, x : x + width].any():
            keep = torch.ones(1, cells, cells)
            keep[:, y : y + height, x : x + width] = 0
            return keep
    return None


def _mask(things: Things, cells: int) -> np.ndarray:
    mask = np.zeros((cells, cells), bool)
    for box in things.boxes:
        x0, y0 = np.floor(box[:2] * cells).astype(int).clip(0)
        x1, y1 = np.ceil(box[2:] * cells).astype(int)
        mask[y0:y1, x0:x1] = True
    return mask
