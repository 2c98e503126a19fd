"""Detectors: where a picture shows what. To add one: a file here with a class like `Torchvision`, and a line below.

    detector = detector_of("zero-shot", {"threshold": 0.1})
    for found in detector.detect(pictures, ["forklift", "pallet"]):
        found.boxes, found.scores, found.labels

They judge and are not trained here. All compute in float32 and take one picture at a time, so that the result hardly
depends on the machine, and not at all on the pictures beside it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from lib.core.checkpoints import ModelRef
from lib.core.errors import AugmentError
from lib.core.registry import Family, MemberSettings

Pixels = NDArray[np.uint8]  # (H, W, 3) RGB

DETECTORS = Family(
    "detector",
    {
        "transformers": "lib.evaluation.detectors.hugging:Transformers",
        "zero-shot": "lib.evaluation.detectors.hugging:ZeroShot",
        "torchvision": "lib.evaluation.detectors.torch_vision:Torchvision",
    },
)


@dataclass(frozen=True)
class Detections:
    """What was found in one picture, N boxes, the surest first."""

    boxes: NDArray[np.float64]  # (N, 4) xyxy pixels, inside the picture and not empty
    scores: NDArray[np.float64]  # (N,) 0 .. 1
    labels: NDArray[np.int64]  # (N,) number of the name in the list of names


class DetectorSettings(MemberSettings):
    model: str | None = Field(None, description="folder, or hub id with or without @revision; none: the published one")
    threshold: float = Field(
        0.01, ge=0, le=1, description="boxes up to this score are left out; keep it low for average precision"
    )
    most: int = Field(100, ge=1, description="detections a picture, the surest; COCO's limit")


class Detector(Protocol):
    """The contract; tests/test_detectors.py holds every registered member to it."""

    VERSION: ClassVar[int]  # raised whenever the same picture would get other boxes
    MODEL: ClassVar[str | None]  # published checkpoint id; None: `model` has to be a folder
    LICENCE: ClassVar[str]  # of that checkpoint
    Settings: ClassVar[type[DetectorSettings]]

    def __init__(self, settings: Any, model: Any) -> None:
        """`model`: a lib.core.checkpoints.ModelRef. Nothing heavy happens here."""
        ...

    def knows(self, names: Sequence[str]) -> list[bool]:
        """Which of the names it can find at all: average precision leaves the others out."""
        ...

    def detect(self, pictures: Sequence[Pixels], names: Sequence[str]) -> list[Detections]:
        """What is found of `names` in uint8 (H, W, 3) RGB pictures of any sizes, order kept; other things it knows are
        left out.

        Raises AugmentError where it knows none of the names, or where its checkpoint is damaged or of another kind;
        ConnectionError where a download failed in a way that may pass.
        """
        ...

    @property
    def identity(self) -> str:
        """Class, version, settings and checkpoint, no path: equal identities find the same."""
        ...

    @property
    def batch_size(self) -> int:
        """Pictures at once."""
        ...


class Base:
    """What members share."""

    VERSION: ClassVar[int]

    batch_size = 1  # detections must not depend on the other pictures of a batch

    def __init__(self, settings: Any, model: ModelRef) -> None:
        self.settings, self.ref = settings, model
        self._loaded: Any = None

    @property
    def identity(self) -> str:
        settings = self.settings.model_dump(mode="json", exclude={"model"})
        return f"{type(self).__name__} {self.VERSION} {settings} {self.ref.id} {self.ref.revision}"


def detector_of(name: str, values: Mapping[str, Any], lock: Mapping[str, str] | None = None) -> Any:
    """A Detector with its settings checked and its checkpoint pinned (`lock`: as in lib.core.checkpoints.resolve).

    Raises AugmentError for an unknown name or setting, a missing checkpoint, or no `model` where none is published.
    """
    checkpoint_of(name, values)
    return DETECTORS.build(DETECTORS.choose(name, values, lock))


def checkpoint_of(name: str, values: Mapping[str, Any]) -> str:
    """The checkpoint of a detector, its settings checked; nothing is loaded. Raises AugmentError as `detector_of`."""
    model = DETECTORS.model_of(name, values)
    if model is None:
        raise AugmentError(f"detector {name!r} has no published checkpoint: give a folder with its weights as `model`")
    return model
