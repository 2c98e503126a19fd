"""Detectors that are trained here. To add one: a file here with a class like `Compact`, and a line below.

    detector = TRAINABLE.build(TRAINABLE.choose("compact", {"size": 320}))
    network = detector.build(classes=6)                 # a torch module
    losses = network.losses(pictures, targets)          # {"loss": ..., what else is plotted}
    found = network.eval().detect(pictures)             # one Found a picture

All see square pictures of `Settings.size` pixels, into which lib/proof/training.py fits them. Those of
lib/evaluation/detectors judge pictures and are not trained.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from pydantic import Field

from lib.core.registry import Family, MemberSettings

if TYPE_CHECKING:
    import torch

TRAINABLE = Family(
    "detector to train",
    {
        "compact": "lib.proof.detectors.compact:Compact",
        "fcos": "lib.proof.detectors.torch_vision:Fcos",
        "retinanet": "lib.proof.detectors.torch_vision:RetinaNet",
        "faster-rcnn": "lib.proof.detectors.torch_vision:FasterRcnn",
        "rt-detr": "lib.proof.detectors.hugging:RtDetr",
        "d-fine": "lib.proof.detectors.hugging:DFine",
    },
)

MOST = 100  # detections a picture, COCO's limit


class TrainableSettings(MemberSettings):
    size: int = Field(320, ge=64, le=2048, multiple_of=32, description="side of the square that a picture is fitted to")
    weights: str | None = Field(
        None,
        description="of the whole detector, to go on from: a .safetensors file, folder or hub id; none: random ones",
    )


@dataclass(frozen=True)
class Target:
    """The N labelled boxes of a picture."""

    boxes: torch.Tensor  # (N, 4) xyxy, pixels of the square, float32
    labels: torch.Tensor  # (N,) int64: 0 .. classes - 1
    ignored: torch.Tensor  # (M, 4) xyxy: places where finding something is neither right nor wrong


@dataclass(frozen=True)
class Found:
    """The N detections in a picture, at most MOST, the surest first."""

    boxes: torch.Tensor  # (N, 4) xyxy, pixels of the square, float32
    scores: torch.Tensor  # (N,) 0 .. 1
    labels: torch.Tensor  # (N,) int64


class Network(Protocol):
    """A torch module; tests/test_proof_detectors.py holds every registered member to it."""

    notes: tuple[str, ...]  # what a person should know of the weights that it starts from

    def losses(self, pictures: torch.Tensor, targets: list[Target]) -> dict[str, torch.Tensor]:
        """In training mode. pictures: (B, 3, S, S) float32, 0 .. 1 RGB. The entry "loss" is what is minimised; all are
        scalars."""
        ...

    def detect(self, pictures: torch.Tensor) -> list[Found]:
        """In evaluation mode; what is found in a picture does not depend on those beside it."""
        ...


class Trainable(Protocol):
    """The contract."""

    VERSION: ClassVar[int]  # raised whenever equal settings and data would give other weights or detections
    LICENCE: ClassVar[str]  # of the code, and of weights that it starts from
    Settings: ClassVar[type[TrainableSettings]]

    def __init__(self, settings: Any) -> None:
        """Nothing heavy happens here."""
        ...

    def build(self, classes: int) -> Network:
        """A network with fresh weights from torch's global random numbers, or with the weights of its settings.

        Raises AugmentError for weights that are missing, damaged or of another kind.
        """
        ...

    @property
    def identity(self) -> str:
        """Class, version, settings and content of the weights it starts from, no path: equal ones train the same."""
        ...


class Base:
    """What members share."""

    VERSION: ClassVar[int]

    def __init__(self, settings: Any) -> None:
        self.settings = settings

    @property
    def identity(self) -> str:
        """As Trainable.identity. Raises AugmentError for weights that are not there."""
        from lib.proof.detectors.weights import settings_key

        return f"{type(self).__name__} {self.VERSION} {settings_key(self.settings.model_dump(mode='json'))}"
