"""Feature extractors: pictures in, (N, D) float64 out. Distances between features: metrics/distances.py.

    extractor = extractor_of("pixels")
    extractor.check()                        # fails early where weights are not available
    features = extractor.extract(pictures)   # uint8 HWC RGB, any sizes

To add one: a class like `Pixels`, and a line in EXTRACTORS.
"""

from __future__ import annotations

import io
import os
import re
import shutil
import urllib.request
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar, Protocol
from unittest import mock

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field

from lib.core.checkpoints import ModelRef, out_of_reach
from lib.core.errors import AugmentError
from lib.core.files import atomic_path, digest, file_digest
from lib.core.registry import Family, MemberSettings

Picture = NDArray[np.uint8]  # (H, W, 3) RGB
Features = NDArray[np.float64]  # (N, D)

EXTRACTORS = Family(
    "extractor",
    {
        "pixels": "lib.evaluation.features:Pixels",
        "mini": "lib.evaluation.features:MiniClip",
        "inception": "lib.evaluation.features:Inception",
    },
)


class Extractor(Protocol):
    """The contract; tests/test_features.py holds every registered member to it.

    A registered member also has `MODEL`, and `Settings`, and is built as lib/core/registry.py says.
    """

    VERSION: ClassVar[int]  # raised whenever the same picture would get other features
    RESIZE: ClassVar[str]  # the resize rule, for a person

    @property
    def name(self) -> str:
        """Its name in a report; of a registered one that in the family."""

    @property
    def dimensions(self) -> int:
        """D; of a trained model it depends on the weights."""

    @property
    def identity(self) -> str:
        """Name, version, resize rule, and the weights' revision where it can differ: equal identities give comparable
        features. Raises AugmentError where the weights are missing."""

    @property
    def batch_size(self) -> int:
        """Pictures a forward pass."""

    def check_at_hand(self) -> None:
        """Raise AugmentError, within seconds, where its weights are neither here nor to be had; fetches nothing."""

    def check(self) -> None:
        """Raise AugmentError now if `extract` could not work: called before hours of painting."""

    def extract(self, pictures: Iterable[Picture]) -> Features:
        """Features of uint8 HWC RGB pictures of any sizes, (N, dimensions), one row a picture, in their order."""
        ...


def extractor_of(name: str, values: Mapping[str, Any] | None = None) -> Extractor:
    """An extractor with its settings checked and its checkpoint pinned.

    Raises AugmentError for an unknown name or setting, and where its model is not available.
    """
    try:
        made: Extractor = EXTRACTORS.build(EXTRACTORS.choose(name, values or {}))
    except AugmentError as error:
        if name in EXTRACTORS and EXTRACTORS[name].MODEL is not None:
            raise AugmentError(f"{error}; or {_REMEDY}") from None
        raise
    return made


class Pixels:
    """The picture itself at 4×4 pixels: 48 values in 0 .. 1. Needs no weights; sees light, colour and layout only."""

    VERSION: ClassVar[int] = 1
    MODEL: ClassVar[str | None] = None
    ABOUT: ClassVar[str] = "the picture at 4×4 pixels"
    RESIZE: ClassVar[str] = "4x4, box filter (Pillow)"

    name = "pixels"
    dimensions = 48
    identity = f"{name} {VERSION}: RGB, {RESIZE}, divided by 255"
    batch_size = 1

    class Settings(MemberSettings):
        pass

    def __init__(self, settings: Settings | None = None) -> None:  # none: the defaults
        self.settings = settings or self.Settings()

    def check_at_hand(self) -> None:
        """Nothing to fetch."""

    def check(self) -> None:
        """Nothing to fetch."""

    def extract(self, pictures: Iterable[Picture]) -> Features:
        """(N, 48) float64: rows of 4×4×3, raveled top to bottom, left to right, R G B."""
        rows = [self._row(picture) for picture in pictures]
        return np.stack(rows) if rows else np.empty((0, self.dimensions))

    @staticmethod
    def _row(picture: Picture) -> Features:
        small = Image.fromarray(picture).resize((4, 4), Image.Resampling.BOX)
        return np.asarray(small, dtype=np.float64).ravel() / 255


class MiniClip:
    """Image embeddings of this project's own CLIP (lib/training/clip.py), or of another CLIP in Hugging Face form.

    Its weights lie in the repository, so it needs no network; it knows the objects of warehouses and little else.
    """

    VERSION: ClassVar[int] = 1
    MODEL: ClassVar[str | None] = "mini:clip"
    ABOUT: ClassVar[str] = "this project's own CLIP"
    RESIZE: ClassVar[str] = "squeezed to the model's own square, by areas where a side shrinks, else bilinear (OpenCV)"

    name = "mini"

    class Settings(MemberSettings):
        model: str | None = Field(None, description="folder of a CLIP, or a hub id; none: data/models/mini/clip")
        batch_size: int = Field(64, ge=1, description="pictures a forward pass")

    def __init__(self, settings: Settings, model: ModelRef) -> None:
        from lib.judges.clip import RegionScorer, RegionSettings

        self.settings = settings
        self._scorer = RegionScorer(RegionSettings(batch_size=settings.batch_size), model)

    @property
    def batch_size(self) -> int:
        return self.settings.batch_size

    @property
    def dimensions(self) -> int:
        """The CLIP's projection size: 128 of the mini one."""
        return self._scorer.dimensions

    @property
    def identity(self) -> str:
        """With the SHA-256 over the model's files, which no path is part of."""
        return f"{self.name} {self.VERSION}: CLIP image embeddings of {self._scorer.ref.revision}, RGB, {self.RESIZE}"

    def check_at_hand(self) -> None:
        """Its checkpoint was looked for when it was chosen."""

    def check(self) -> None:
        """Read the weights. Raises AugmentError that names the folder and the choice that needs no weights."""
        try:
            self._scorer.load()
        except AugmentError as error:
            raise AugmentError(f"{error}; or {_REMEDY}") from None

    def extract(self, pictures: Iterable[Picture]) -> Features:
        """(N, 128) float64, not normalised, of whole pictures; raises as `check`."""
        self.check()
        parts = _batched(pictures, self.batch_size)
        batches = [self._scorer.features(batch).astype(np.float64) for batch in parts]
        return np.concatenate(batches) if batches else np.empty((0, self.dimensions))


class Inception:
    """Pool features of the FID Inception network, as pytorch-fid computes them (github.com/mseitzer/pytorch-fid).

    Weights are read from pytorch-fid's usual place, the torch hub cache, and downloaded to it when missing.
    """

    VERSION: ClassVar[int] = 1
    MODEL: ClassVar[str | None] = None  # a file of weights, which it fetches itself
    ABOUT: ClassVar[str] = "pytorch-fid's network"
    RESIZE: ClassVar[str] = "299x299, bilinear without antialiasing (torch), inside the network"

    name = "inception"
    dimensions = 2048
    identity = f"{name} {VERSION}: pytorch-fid pt_inception-2015-12-05-6726825d, RGB in 0..1, {RESIZE}"

    class Settings(MemberSettings):
        weights: Path | None = Field(None, description="weights file; none: the torch hub cache, or the download")
        batch_size: int = Field(32, ge=1, description="pictures a forward pass")
        device: str | None = Field(None, description="torch device; none: cuda where there is one, else cpu")

    def __init__(self, settings: Settings | None = None) -> None:  # none: the defaults
        self.settings = settings or self.Settings()
        self._network: Any = None

    @property
    def batch_size(self) -> int:
        return self.settings.batch_size

    def check_at_hand(self) -> None:
        """Raises AugmentError as `check`, where the weights are missing and their address is not known here."""
        if self.settings.weights is not None:
            if not self.settings.weights.is_file():
                raise AugmentError(f"Inception weights {self.settings.weights} not found; {_REMEDY}")
            return
        path = _weights_path()
        if not path.is_file() and (why := out_of_reach(WEIGHTS)):
            raise AugmentError(
                f"Inception weights are not at {path}, and {why}: put {WEIGHTS} at that path, or {_REMEDY}"
            )

    def check(self) -> None:
        """Find or fetch the weights and compare their digest.

        Raises AugmentError that names the cache path, the URL and the choice that needs no weights.
        """
        path = self._weights()
        _compare_digest(path, file_digest(path))

    def extract(self, pictures: Iterable[Picture]) -> Features:
        """(N, 2048) float64. Each picture is resized on its own, so that sizes may differ; raises as `check`."""
        batches = [self._forward(batch) for batch in _batched(pictures, self.batch_size)]
        return np.concatenate(batches) if batches else np.empty((0, self.dimensions))

    def _forward(self, pictures: list[Picture]) -> Features:
        import torch

        if self._network is None:
            self._network = _load_network(self._weights())
            self._network.to(self.settings.device or ("cuda" if torch.cuda.is_available() else "cpu"))
        device = next(self._network.parameters()).device
        with torch.inference_mode():
            pixels = torch.cat([_to_299(picture, device) for picture in pictures])  # (B, 3, 299, 299) in 0..1
            pooled = self._network(pixels)[0]  # (B, 2048, 1, 1)
        features: Features = pooled.flatten(1).cpu().numpy().astype(np.float64)
        return features

    def _weights(self) -> Path:
        """The weights file, downloaded where it is missing from the cache."""
        import torch.hub
        from pytorch_fid.inception import FID_WEIGHTS_URL

        if self.settings.weights is not None:
            if not self.settings.weights.is_file():
                raise AugmentError(f"Inception weights {self.settings.weights} not found; {_REMEDY}")
            return self.settings.weights
        path = Path(torch.hub.get_dir()) / "checkpoints" / FID_WEIGHTS_URL.rpartition("/")[2]
        if not path.is_file():
            try:
                _download(FID_WEIGHTS_URL, path)
            except OSError as error:  # urllib's errors are OSErrors
                raise AugmentError(
                    f"Inception weights are not at {path} and {FID_WEIGHTS_URL} could not be downloaded ({error}): "
                    f"put that file at that path, or {_REMEDY}"
                ) from None
        return path


# pytorch_fid.inception.FID_WEIGHTS_URL; its import takes seconds.
WEIGHTS = "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/pt_inception-2015-12-05-6726825d.pth"


def _weights_path() -> Path:
    """Where torch hub keeps them: torch.hub.get_dir(), whose import takes seconds."""
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    home = os.environ.get("TORCH_HOME") or f"{cache}/torch"
    return Path(os.path.expanduser(home)) / "hub" / "checkpoints" / WEIGHTS.rpartition("/")[2]  # noqa: PTH111  # no home


_REMEDY = "evaluate with --extractor pixels, which needs no weights"


def _to_299(picture: Picture, device: Any) -> Any:
    """(1, 3, 299, 299) float32 in 0..1: the network's own resize, done per picture so that sizes may differ in a batch.
    The network's second resize from 299 to 299 changes no value."""
    import torch
    from torch.nn.functional import interpolate

    pixels = torch.tensor(picture, device=device).permute(2, 0, 1)[None].contiguous() / 255
    return interpolate(pixels, size=(299, 299), mode="bilinear", align_corners=False)


def _load_network(path: Path) -> Any:
    """pytorch-fid's network in eval mode with the weights of a file.

    Raises AugmentError where the file is not what its name says or does not fit the network.
    """
    import torch
    from pytorch_fid import inception

    data = path.read_bytes()
    _compare_digest(path, digest(data))
    try:
        # The published file is a pickle: weights_only refuses to run anything in it.
        state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        # pytorch-fid can only build its network from a download that it does not check: hand it the checked weights.
        with mock.patch.object(inception, "load_state_dict_from_url", lambda *_, **__: state):
            return inception.InceptionV3([inception.InceptionV3.DEFAULT_BLOCK_INDEX]).eval()
    except Exception as error:  # unpickling and load_state_dict raise whatever the file's bytes make them
        raise AugmentError(f"{path} holds no FID Inception weights ({str(error)[:200]}); {_REMEDY}") from None


def _compare_digest(path: Path, sha256: str) -> None:
    """Torch hub's convention: `name-<first hex digits of the SHA-256>.pth`. A name without digits is not checked."""
    named = re.search(r"-([0-9a-f]{8,})\.", path.name)
    if named and not sha256.startswith(named[1]):
        raise AugmentError(
            f"{path} is damaged: its SHA-256 begins with {sha256[:8]}, its name says {named[1]}; delete it and run "
            f"again, or {_REMEDY}"
        )


def _download(url: str, path: Path) -> None:
    """Fetch to a temporary name, compare the digest, rename. Raises OSError, or AugmentError for other bytes."""
    with atomic_path(path) as temporary:
        # A time limit, which torch's own download lacks: behind a closed firewall it would wait for minutes.
        with urllib.request.urlopen(url, timeout=30) as response, temporary.open("wb") as file:
            shutil.copyfileobj(response, file)
        _compare_digest(path, file_digest(temporary))


def _batched(pictures: Iterable[Picture], size: int) -> Iterator[list[Picture]]:
    iterator = iter(pictures)
    while batch := list(islice(iterator, size)):
        yield batch
