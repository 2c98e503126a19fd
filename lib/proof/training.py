"""Training a detector on an arm's pictures: the usual augmentation, equal steps, checkpoints that survive a kill.

objective = DetectorObjective(network, pool, shares, steps, augmentation)
train(objective, folder, LoopSettings(...))              # lib/training/loop.py
found = detections(objective.network, test)
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lib.core.errors import AugmentError
from lib.core.geometry import area_xyxy, clip_xyxy
from lib.evaluation.detectors import Detections
from lib.proof.augmentation import Augmentation, augmented
from lib.proof.detectors import Found, Target
from lib.proof.pictures import Pool

_VISIBLE = 0.4  # with a smaller share of its box in the square an object is ignored
_BATCH = 8  # pictures that are looked at at once


class DetectorObjective(nn.Module):
    """A network with the pictures of its arm, as lib/training/loop.py trains it."""

    def __init__(self, network: Any, pool: Pool, sampler: Sampler, augmentation: Augmentation) -> None:
        super().__init__()
        self.network = network
        self._pool, self._sampler, self._augmentation = pool, sampler, augmentation

    def batch(self, rng: np.random.Generator, size: int, step: int = 0) -> dict[str, Tensor]:
        """`size` pictures, augmented: uint8 (B, 3, S, S), boxes (B, M, 4), labels (B, M): −1 nothing, −2 ignored."""
        drawn = [self._augmented(i, rng) for i in self._sampler.rows(step, size)]
        most = max(1, *(len(boxes) for _, boxes, _ in drawn))
        boxes, labels = np.zeros((size, most, 4), np.float32), np.full((size, most), -1, np.int64)
        for k, (_, some, numbers) in enumerate(drawn):
            boxes[k, : len(some)], labels[k, : len(some)] = some, numbers
        pixels = np.stack([picture for picture, _, _ in drawn]).transpose(0, 3, 1, 2)
        return {
            "pictures": torch.from_numpy(np.ascontiguousarray(pixels)),
            "boxes": torch.from_numpy(boxes),
            "labels": torch.from_numpy(labels),
        }

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """The losses of a batch."""
        pictures = (batch["pictures"].float() / 255).contiguous(memory_format=torch.channels_last)
        targets = [
            Target(boxes[labels >= 0], labels[labels >= 0], boxes[labels == -2])
            for boxes, labels in zip(batch["boxes"], batch["labels"], strict=True)
        ]
        found: dict[str, Tensor] = self.network.losses(pictures, targets)
        return found

    def _augmented(
        self, i: int, rng: np.random.Generator
    ) -> tuple[NDArray[np.uint8], NDArray[np.float64], NDArray[np.int64]]:
        pool, at = self._pool, self._pool.of(i)
        labels = np.where(pool.ignored[at], -2, pool.labels[at])
        pixels, boxes, visible = augmented(pool.pixels[i], pool.sizes[i], pool.boxes[at], self._augmentation, rng)
        kept = visible > 0
        labels = np.where(visible < _VISIBLE, -2, labels)
        return pixels, boxes[kept], labels[kept]


class Sampler:
    """Which pictures a step sees: epochs in random order, each picture in them as often as its share says.

    start, end: (N,) how often a picture comes in an epoch, at the first and at the last step; in between it changes
    evenly. A share of 1.3 is one time and, in three of ten epochs, a second (repeat factors as in Gupta et al. 2019,
    LVIS, arXiv 1908.03195, appendix). hold: share of the steps before the change begins.
    """

    def __init__(
        self, start: NDArray[np.float64], end: NDArray[np.float64], steps: int, seed: int, hold: float = 0.0
    ) -> None:
        self._start, self._end, self._steps, self._seed, self._hold = start, end, steps, seed, hold
        self._rows = np.zeros(0, np.int64)
        self._epochs = 0

    def rows(self, step: int, size: int) -> list[int]:
        """Numbers of the pictures of a step; equal for equal arguments, in whatever order they are asked."""
        while len(self._rows) < (step + 1) * size:
            progress = len(self._rows) / max(1, self._steps * size)
            changed = max(0.0, progress - self._hold) / max(1e-9, 1 - self._hold)
            self._rows = np.concatenate([self._rows, self._epoch(min(1.0, changed))])
            self._epochs += 1
        return [int(row) for row in self._rows[step * size : (step + 1) * size]]

    def _epoch(self, progress: float) -> NDArray[np.int64]:
        rng = np.random.default_rng([self._seed, self._epochs])
        shares = (1 - progress) * self._start + progress * self._end
        times = np.floor(shares + rng.random(len(shares))).astype(np.int64)
        if not shares.any():
            raise AugmentError("no picture to learn from: every share is 0")
        return rng.permutation(np.repeat(np.arange(len(shares)), times))  # may be empty where all shares are small


def detections(network: Any, pool: Pool) -> list[Detections]:
    """What a network finds in each picture of a pool; boxes in pixels of the pictures' files."""
    network.eval()
    found: list[Detections] = []
    for start in range(0, len(pool), _BATCH):
        pixels = torch.from_numpy(pool.pixels[start : start + _BATCH]).permute(0, 3, 1, 2).float() / 255
        device = next(network.parameters()).device
        with torch.inference_mode():
            for k, one in enumerate(network.detect(pixels.to(device).contiguous(memory_format=torch.channels_last))):
                found.append(_in_file(one, pool, start + k))
    return found


def _in_file(found: Found, pool: Pool, i: int) -> Detections:
    boxes = clip_xyxy(found.boxes.double().cpu().numpy(), *pool.sizes[i].tolist())
    usable = area_xyxy(boxes) > 0
    return Detections(
        boxes[usable] / pool.scales[i],
        found.scores.double().cpu().numpy()[usable],
        found.labels.cpu().numpy().astype(np.int64)[usable],
    )
