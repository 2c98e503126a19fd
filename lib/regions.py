"""What is in a box? Crops with context, scored against names by a CLIP (Zhong et al. 2022, arXiv 2112.09106, its idea).

scorer = make_judge(resolve("mini:clip", {}))                      # of lib/judges.py; any CLIP in Hugging Face form
crops = [crop_region(picture, box, scorer.size) for box in boxes]  # boxes: xyxy pixels
shares = scorer.score(crops, ["forklift", "pallet"])              # (N, 2), rows sum to 1
shares = score_boxes(scorer, picture, boxes, ["forklift", "pallet"])   # of lib/judges.py: the two lines above in one
scorer.similarity([picture], ["a forklift and a pallet"]).score   # (1,) CLIP score of whole pictures with their texts
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from lib.captioners.template import article, naming
from lib.errors import AugmentError
from lib.geometry import CONTEXT, clip_xyxy
from lib.metrics.text import cosines, scaled
from lib.models import ModelRef, device, local_path, reading
from lib.registry import MemberSettings

if TYPE_CHECKING:
    import torch

Pixels = NDArray[np.uint8]  # (H, W, 3) RGB
Embeddings = NDArray[np.float32]  # (N, D)

NEEDED = ("config.json", "*.safetensors", "tokenizer_config.json", "*processor_config.json")
ALSO = ("*.json", "*.txt")


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


@dataclass(frozen=True)
class Similarity:
    """How well each of N texts fits its own picture."""

    cosine: NDArray[np.float64]  # (N,) −1 .. 1
    cut: NDArray[np.bool_]  # (N,) the text is longer than the model reads: its end was not looked at

    @property
    def score(self) -> NDArray[np.float64]:
        """(N,) CLIP-S, 0 .. 2.5: 2.5 · max(cosine, 0); see lib/metrics/text.py."""
        return scaled(self.cosine)


class RegionSettings(MemberSettings):
    batch_size: int = Field(64, ge=1, description="crops or texts at once")


@dataclass(frozen=True)
class _Loaded:
    model: Any  # CLIPModel
    tokenizer: Any
    mean: NDArray[np.float32]  # (3,) of R, G, B in 0 .. 1
    std: NDArray[np.float32]
    size: int  # side of its pictures, pixels
    dimensions: int  # D


class RegionScorer:
    """A CLIP (Radford et al. 2021, arXiv 2103.00020) that says which of some names fits a crop best.

    Loaded before its first use, in float32 on every device, so that verdicts hardly depend on the machine. All methods
    raise AugmentError where the checkpoint is none of a CLIP, or is damaged, and ConnectionError where a download
    failed in a way that may pass.
    """

    VERSION: ClassVar[int] = 1
    Settings: ClassVar[type[MemberSettings]] = RegionSettings

    def __init__(self, settings: RegionSettings, model: ModelRef) -> None:
        self.settings, self.ref = settings, model
        self._clip: _Loaded | None = None
        self._named: tuple[tuple[str, ...], Embeddings] | None = None  # the names asked for last

    @property
    def identity(self) -> str:
        """The checkpoint and its revision, no path: equal identities give comparable scores."""
        return f"clip {self.ref.id} {self.ref.revision}"

    @property
    def batch_size(self) -> int:
        """Crops or texts at once."""
        return self.settings.batch_size

    @property
    def size(self) -> int:
        """Side of the pictures that the model sees, pixels: crops of this size are not resized."""
        return self.load().size

    @property
    def dimensions(self) -> int:
        """D, the length of an embedding."""
        return self.load().dimensions

    def load(self) -> _Loaded:
        """The model, read once."""
        if self._clip is None:
            self._clip = _load(self.ref)
        return self._clip

    def features(self, pictures: Sequence[Pixels]) -> Embeddings:
        """(N, D) image embeddings as the model gives them; uint8 HWC RGB of any sizes, each squeezed to its square."""
        return self._batched(pictures, self._see)

    def embed_pictures(self, pictures: Sequence[Pixels]) -> Embeddings:
        """(N, D) image embeddings of length 1."""
        return _normalised(self.features(pictures))

    def embed_texts(self, texts: Sequence[str]) -> Embeddings:
        """(M, D) text embeddings of length 1; what is longer than the model reads is cut."""
        return _normalised(self._batched(texts, self._read))

    def embed_names(self, names: Sequence[str]) -> Embeddings:
        """(M, D) of length 1: the mean over three ways to say each name, "{}", "a {}" and "a photo of a {}"."""
        told = [text for name in names for text in (name, f"{article(name)} {name}", naming(name))]
        means: Embeddings = self.embed_texts(told).reshape(len(names), 3, -1).mean(1)
        return _normalised(means)

    def score(self, crops: Sequence[Pixels], names: Sequence[str]) -> NDArray[np.float64]:
        """(N, len(names)) shares of the names for each crop, 0 .. 1: softmax of the scaled cosines, rows sum to 1.

        Raises ValueError for no names.
        """
        if not names:
            raise ValueError("no names to score crops against: give at least one")
        if self._named is None or self._named[0] != tuple(names):
            self._named = tuple(names), self.embed_names(names)
        # The factor is learned; OpenAI's training kept it under 100, and so does this project's.
        scale = min(float(self.load().model.logit_scale.exp()), 100.0)
        logits = scale * self.embed_pictures(crops).astype(np.float64) @ self._named[1].astype(np.float64).T
        return softmax(logits)

    def similarity(self, pictures: Sequence[Pixels], texts: Sequence[str]) -> Similarity:
        """How well each of N texts, of any length, fits the picture at its place, uint8 HWC RGB of any size.

        A picture is squeezed to the model's square, where CLIP's own preparation cuts off what is longer than wide: an
        object at the border counts too, and figures of others are near and not equal. Raises ValueError for other
        numbers of pictures and texts.
        """
        if len(pictures) != len(texts):
            raise ValueError(f"{len(pictures)} pictures and {len(texts)} texts: expected a text for each picture")
        return Similarity(cosines(self.embed_pictures(pictures), self.embed_texts(texts)), self.too_long(texts))

    def too_long(self, texts: Sequence[str]) -> NDArray[np.bool_]:
        """(M,) which texts are longer than the model reads: `embed_texts` cuts them."""
        clip = self.load()
        told = clip.tokenizer(list(texts), verbose=False).input_ids if texts else []
        return np.array([len(one) > clip.model.config.text_config.max_position_embeddings for one in told], bool)

    def _batched(self, items: Sequence[Any], run: Callable[[Sequence[Any]], torch.Tensor]) -> Embeddings:
        return batched(self.ref, items, self.batch_size, run, self.load().dimensions)

    def _see(self, pictures: Sequence[Pixels]) -> torch.Tensor:
        clip = self.load()
        pixels = prepared(pictures, clip.size, clip.mean, clip.std)
        return pooled(clip.model.get_image_features(pixel_values=pixels.to(clip.model.device)))

    def _read(self, texts: Sequence[str]) -> torch.Tensor:
        clip = self.load()
        # Always the full length: a text's embedding must not depend on the texts beside it.
        longest = clip.model.config.text_config.max_position_embeddings
        told = clip.tokenizer(
            list(texts), padding="max_length", truncation=True, max_length=longest, return_tensors="pt"
        )
        return pooled(clip.model.get_text_features(**told.to(clip.model.device)))


_AGAIN = "copy or download it again"


def _load(ref: ModelRef) -> _Loaded:
    import torch
    import transformers

    folder, where = local_path(ref, NEEDED, ALSO), device()
    with reading(ref):
        kind = json.loads((folder / "config.json").read_bytes()).get("model_type")
        if kind != "clip":
            raise ValueError(f"its config.json says model_type {kind!r}; 'clip' was expected: CLIPModel's own form")
        mean, std = normalisation(processor_of(folder))
        model, report = transformers.CLIPModel.from_pretrained(
            folder, dtype=torch.float32, use_safetensors=True, output_loading_info=True
        )
        check_whole(report)
        tokenizer = transformers.CLIPTokenizer.from_pretrained(folder)
    config = model.config
    model = model.eval().requires_grad_(False).to(where)
    return _Loaded(model, tokenizer, mean, std, config.vision_config.image_size, config.projection_dim)


def check_whole(report: Mapping[str, Any]) -> None:
    """Raise ValueError where from_pretrained found tensors missing: it fills them with random numbers."""
    missing = sorted(report["missing_keys"])
    if missing:
        raise ValueError(f"its weights lack {len(missing)} tensors ({', '.join(missing[:3])}, …); {_AGAIN}")


def processor_of(folder: Path) -> dict[str, Any]:
    """What a model's image processor says: processor_config.json holds it under "image_processor" since transformers 5,
    before that it was a file of its own. Empty where neither is there."""
    whole = folder / "processor_config.json"
    told = json.loads(whole.read_bytes()).get("image_processor") if whole.is_file() else None
    if told is None and (folder / "preprocessor_config.json").is_file():
        told = json.loads((folder / "preprocessor_config.json").read_bytes())
    return dict(told or {})


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
    """(N, 3, size, size) float32 as a model takes them; uint8 HWC RGB of any sizes, each squeezed to its square."""
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
    told: NDArray[np.float32] = np.concatenate([np.empty((0, width), np.float32), *parts])
    if not np.isfinite(told).all():
        raise AugmentError(f"model {ref} gives numbers that are not finite: its weights are damaged; {_AGAIN}")
    return told


def softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of each row."""
    shares = np.exp(logits - logits.max(axis=1, keepdims=True))
    told: NDArray[np.float64] = shares / shares.sum(axis=1, keepdims=True)
    return told


def pooled(out: Any) -> torch.Tensor:
    """The features, which newer versions of transformers wrap."""
    features: torch.Tensor = getattr(out, "pooler_output", out)
    return features


def _normalised(rows: Embeddings) -> Embeddings:
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    made: Embeddings = rows / np.maximum(lengths, np.finfo(np.float32).tiny)
    return made
