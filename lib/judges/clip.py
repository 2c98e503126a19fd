"""What is in a box? Crops with context, scored against names by a CLIP (Zhong et al. 2022, arXiv 2112.09106, its idea).

scorer = make_judge(resolve("mini:clip", {}))                      # of lib.judges; any CLIP in Hugging Face form
crops = [crop_region(picture, box, scorer.size) for box in boxes]  # boxes: xyxy pixels
shares = scorer.score(crops, ["forklift", "pallet"])              # (N, 2), rows sum to 1
shares = score_boxes(scorer, picture, boxes, ["forklift", "pallet"])   # of lib.judges: the two lines above in one
scorer.similarity([picture], ["a forklift and a pallet"]).score   # (1,) CLIP score of whole pictures with their texts
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from lib.core.checkpoints import ModelRef, load_whole, local_path, reading
from lib.core.compute import device
from lib.core.registry import MemberSettings
from lib.core.vision import (
    Embeddings,
    Pixels,
    batched,
    cosines,
    normalisation,
    pooled,
    prepared,
    processor_of,
    scaled,
    softmax,
)
from lib.core.words import article, naming

if TYPE_CHECKING:
    import torch

NEEDED = ("config.json", "*.safetensors", "tokenizer_config.json", "*processor_config.json")
ALSO = ("*.json", "*.txt")


@dataclass(frozen=True)
class Similarity:
    """How well each of N texts fits the picture at its place."""

    cosine: NDArray[np.float64]  # (N,) −1 .. 1
    cut: NDArray[np.bool_]  # (N,) the text is longer than the model reads: its end was cut

    @property
    def score(self) -> NDArray[np.float64]:
        """(N,) CLIP-S, 0 .. 2.5: 2.5 · max(cosine, 0); see lib/evaluation/metrics/text.py."""
        return scaled(self.cosine)


class RegionSettings(MemberSettings):
    """Settings of every judge."""

    batch_size: int = Field(64, ge=1, description="crops or texts at once")


@dataclass(frozen=True)
class _Loaded:
    model: Any  # CLIPModel
    tokenizer: Any
    mean: NDArray[np.float32]  # (3,) of R, G, B in 0 .. 1
    std: NDArray[np.float32]
    size: int  # side of its pictures, pixels
    dimensions: int  # D


class _Sized(Protocol):
    @property
    def size(self) -> int: ...


L = TypeVar("L", bound=_Sized)


class ModelJudge(Generic[L]):
    """What the judges share: settings, and a checkpoint, loaded at its first use, in float32 on every device.

    All but `identity` and `batch_size` raises AugmentError where the checkpoint is of another kind, or is damaged, and
    ConnectionError where a download failed in a way that may pass.
    """

    NAME: ClassVar[str]  # among JUDGES
    Settings: ClassVar[type[MemberSettings]] = RegionSettings
    _loaded: L | None = None

    def __init__(self, settings: RegionSettings, model: ModelRef) -> None:
        self.settings, self.ref = settings, model

    @property
    def identity(self) -> str:
        """The checkpoint and its revision, no path: equal identities give comparable scores."""
        return f"{self.NAME} {self.ref.id} {self.ref.revision}"

    @property
    def batch_size(self) -> int:
        """Crops or texts at once."""
        return self.settings.batch_size

    @property
    def size(self) -> int:
        """Side of the pictures that the model sees, pixels: crops of this size are not resized."""
        return self.load().size

    def load(self) -> L:
        """The model and how its processor prepares pictures, read once."""
        if self._loaded is None:
            self._loaded = self._read()
        return self._loaded

    def _read(self) -> L:
        raise NotImplementedError


class RegionScorer(ModelJudge[_Loaded]):
    """A CLIP (Radford et al. 2021, arXiv 2103.00020) that scores which of some names fits a crop best."""

    NAME: ClassVar[str] = "clip"
    VERSION: ClassVar[int] = 1
    _named: tuple[tuple[str, ...], Embeddings] | None = None  # names of the last call

    @property
    def dimensions(self) -> int:
        """D, the length of an embedding."""
        return self.load().dimensions

    def _read(self) -> _Loaded:
        return _load(self.ref)

    def features(self, pictures: Sequence[Pixels]) -> Embeddings:
        """(N, D) image embeddings as the model gives them; uint8 HWC RGB of any sizes, each squeezed to its square."""
        return self._batched(pictures, self._image_features)

    def embed_pictures(self, pictures: Sequence[Pixels]) -> Embeddings:
        """(N, D) image embeddings of length 1."""
        return _normalised(self.features(pictures))

    def embed_texts(self, texts: Sequence[str]) -> Embeddings:
        """(M, D) text embeddings of length 1; what is longer than the model reads is cut."""
        return _normalised(self._batched(texts, self._text_features))

    def embed_names(self, names: Sequence[str]) -> Embeddings:
        """(M, D) of length 1: the mean over three texts of each name, "{}", "a {}" and "a photo of a {}"."""
        texts = [text for name in names for text in (name, f"{article(name)} {name}", naming(name))]
        means: Embeddings = self.embed_texts(texts).reshape(len(names), 3, -1).mean(1)
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

        A picture is squeezed to the model's square, where CLIP's usual preparation crops the longer side: an object
        at the border counts too, and figures of other programs are near and not equal. Raises ValueError for other
        numbers of pictures and texts.
        """
        if len(pictures) != len(texts):
            raise ValueError(f"{len(pictures)} pictures and {len(texts)} texts: expected a text for each picture")
        return Similarity(cosines(self.embed_pictures(pictures), self.embed_texts(texts)), self.too_long(texts))

    def too_long(self, texts: Sequence[str]) -> NDArray[np.bool_]:
        """(M,) which texts are longer than the model reads: `embed_texts` cuts them."""
        clip = self.load()
        tokens = clip.tokenizer(list(texts), verbose=False).input_ids if texts else []
        return np.array([len(one) > clip.model.config.text_config.max_position_embeddings for one in tokens], bool)

    def _batched(self, items: Sequence[Any], run: Callable[[Sequence[Any]], torch.Tensor]) -> Embeddings:
        return batched(self.ref, items, self.batch_size, run, self.load().dimensions)

    def _image_features(self, pictures: Sequence[Pixels]) -> torch.Tensor:
        clip = self.load()
        pixels = prepared(pictures, clip.size, clip.mean, clip.std)
        return pooled(clip.model.get_image_features(pixel_values=pixels.to(clip.model.device)))

    def _text_features(self, texts: Sequence[str]) -> torch.Tensor:
        clip = self.load()
        # Always the full length: a text's embedding must not depend on the texts beside it.
        longest = clip.model.config.text_config.max_position_embeddings
        tokens = clip.tokenizer(
            list(texts), padding="max_length", truncation=True, max_length=longest, return_tensors="pt"
        )
        return pooled(clip.model.get_text_features(**tokens.to(clip.model.device)))


def _load(ref: ModelRef) -> _Loaded:
    import torch
    import transformers

    folder, where = local_path(ref, NEEDED, ALSO), device()
    with reading(ref):
        kind = json.loads((folder / "config.json").read_bytes()).get("model_type")
        if kind != "clip":
            raise ValueError(f"its config.json says model_type {kind!r}; 'clip' was expected, as CLIPModel saves it")
        mean, std = normalisation(processor_of(folder))
        model = load_whole(transformers.CLIPModel, folder, dtype=torch.float32)
        tokenizer = transformers.CLIPTokenizer.from_pretrained(folder)
    config = model.config
    model = model.eval().requires_grad_(False).to(where)
    return _Loaded(model, tokenizer, mean, std, config.vision_config.image_size, config.projection_dim)


def _normalised(rows: Embeddings) -> Embeddings:
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    made: Embeddings = rows / np.maximum(lengths, np.finfo(np.float32).tiny)
    return made
