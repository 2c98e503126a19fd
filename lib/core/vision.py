"""Inputs and outputs of vision networks: crops with context, squares, normalisation; cosines, shares."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from numpy.typing import NDArray

from lib.core.checkpoints import AGAIN, ModelRef
from lib.core.errors import AugmentError
from lib.core.geometry import CONTEXT, clip_xyxy

if TYPE_CHECKING:
    import torch

WEIGHT = 2.5  # of the paper, which stretches the usual cosines of about 0 .. 0.4 to about 0 .. 1


def scaled(cosine: NDArray[np.float64]) -> NDArray[np.float64]:
    """CLIP-S of cosines."""
    return WEIGHT * np.maximum(cosine, 0)


def cosines(x: Any, y: Any) -> NDArray[np.float64]:
    """(N,) cosine of each row of x (N, D) with the same row of y (N, D), −1 .. 1; 0 where one is all zeros.

    Raises ValueError as `clip_score`.
    """
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if x.ndim != 2 or x.shape != y.shape:
        raise ValueError(
            f"embeddings of shapes {x.shape} and {y.shape}: expected (N, D) twice, a text for each picture"
        )
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise ValueError("embeddings hold numbers that are not finite: the model's weights are damaged")
    lengths = np.linalg.norm(x, axis=1) * np.linalg.norm(y, axis=1)
    values = np.divide((x * y).sum(axis=1), lengths, out=np.zeros(len(x)), where=lengths > 0)
    return np.clip(values, -1, 1)  # rounding leaves parallel rows a little outside


Pixels = NDArray[np.uint8]  # (H, W, 3) RGB
Embeddings = NDArray[np.float32]  # (N, D)


def crop_region(picture: Pixels, box: Sequence[float], size: int, context: float = CONTEXT) -> Pixels:
    """A box (xyxy pixels) with `context` of its longer side around it, as a square of size × size pixels.

    The aspect is kept; what lies outside of the picture repeats its border.
    """
    x0, y0, x1, y1 = box
    half = max(x1 - x0, y1 - y0) * (0.5 + context)
    scale = size / (2 * half)
    middle = (x0 + x1) / 2, (y0 + y1) / 2
    if scale < 0.5:  # bilinear sampling would skip pixels: shrink by areas first
        factor = 1.5 * scale
        shape = max(1, round(picture.shape[1] * factor)), max(1, round(picture.shape[0] * factor))
        ratio = np.array(shape) / [picture.shape[1], picture.shape[0]]
        shrunken: Pixels = cv2.resize(picture, shape, interpolation=cv2.INTER_AREA).astype(np.uint8)
        return crop_region(shrunken, (np.array(box) * np.tile(ratio, 2)).tolist(), size, context)
    matrix = np.array([[scale, 0, size / 2 - middle[0] * scale], [0, scale, size / 2 - middle[1] * scale]])
    matrix[:, 2] += 0.5 * (scale - 1)  # OpenCV counts from pixel centres
    return cv2.warpAffine(
        picture, matrix, (size, size), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    ).astype(np.uint8)


def to_square(picture: Pixels, size: int) -> Pixels:
    """A whole picture squeezed to size × size pixels: by areas where a side shrinks, bilinear where it grows."""
    height, width = picture.shape[:2]
    small = min(width, size), min(height, size)
    if small != (width, height):
        picture = cv2.resize(picture, small, interpolation=cv2.INTER_AREA).astype(np.uint8)
    if small != (size, size):
        picture = cv2.resize(picture, (size, size), interpolation=cv2.INTER_LINEAR).astype(np.uint8)
    return picture


def visible_sides(boxes: Any, width: float, height: float) -> NDArray[np.float64]:
    """(N,) shorter side of what a frame shows of (N, 4) boxes (xyxy), pixels; 0 outside of it."""
    shown = clip_xyxy(np.asarray(boxes, np.float64).reshape(-1, 4), width, height)
    sides: NDArray[np.float64] = np.clip(shown[:, 2:] - shown[:, :2], 0, None).min(axis=1)
    return sides


def processor_of(folder: Path) -> dict[str, Any]:
    """The configuration of a model's image processor: since transformers 5 "image_processor" in processor_config.json,
    before that the whole preprocessor_config.json. Empty where neither file exists."""
    whole = folder / "processor_config.json"
    config = json.loads(whole.read_bytes()).get("image_processor") if whole.is_file() else None
    if config is None and (folder / "preprocessor_config.json").is_file():
        config = json.loads((folder / "preprocessor_config.json").read_bytes())
    return dict(config or {})


def normalisation(processor: Mapping[str, Any]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """(mean, std) of a model's processor. Raises ValueError where it does not give three numbers each."""
    values = [np.array(processor.get(name), np.float32) for name in ("image_mean", "image_std")]
    if any(value.shape != (3,) for value in values) or not (values[1] > 0).all():
        raise ValueError(
            "no image_mean and image_std of three numbers in its processor_config.json or preprocessor_config.json"
        )
    return values[0], values[1]


def prepared(
    pictures: Sequence[Pixels], size: int, mean: NDArray[np.float32], std: NDArray[np.float32]
) -> torch.Tensor:
    """(N, 3, size, size) float32, normalised; from uint8 HWC RGB of any sizes, each squeezed to its square."""
    import torch

    squares = np.stack([to_square(picture, size) for picture in pictures]).astype(np.float32)
    return torch.from_numpy((squares / 255 - mean) / std).permute(0, 3, 1, 2).contiguous()


def batched(
    ref: ModelRef, items: Sequence[Any], size: int, run: Callable[[Sequence[Any]], torch.Tensor], width: int
) -> NDArray[np.float32]:
    """(N, width) of what `run` gives for items, `size` at once. Raises AugmentError for numbers that are not finite."""
    import torch

    with torch.inference_mode():
        parts = [run(items[i : i + size]).float().cpu().numpy() for i in range(0, len(items), size)]
    rows: NDArray[np.float32] = np.concatenate([np.empty((0, width), np.float32), *parts])
    if not np.isfinite(rows).all():
        raise AugmentError(f"model {ref} gives numbers that are not finite: its weights are damaged; {AGAIN}")
    return rows


def softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """(N, C) logits → (N, C) shares, 0 to 1, that sum to 1 in each row."""
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    shares: NDArray[np.float64] = powers / powers.sum(axis=1, keepdims=True)
    return shares


def pooled(out: Any) -> torch.Tensor:
    """(N, D) features of a model's output, which newer versions of transformers wrap in an object."""
    features: torch.Tensor = getattr(out, "pooler_output", out)
    return features
