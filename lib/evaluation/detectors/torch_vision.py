"""torchvision: a detector of torchvision's with your state dict.

A folder with one .safetensors file, made by

    safetensors.torch.save_file(model.state_dict(), "folder/model.safetensors", {"names": json.dumps(names)})

names: of the classes 1, 2, ...; 0 is the background, as torchvision counts. The weights decide how many.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field

from lib.core.checkpoints import ModelRef, local_path, reading
from lib.core.compute import device
from lib.core.words import match_names
from lib.evaluation.detectors import Base, Detections, DetectorSettings, Pixels
from lib.evaluation.detectors.shared import check_finite, none_known, numbered, tidy

# Where each keeps its classes: a tensor with a row a class, or a row a class and anchor.
FASTER_RCNN = ("roi_heads.box_predictor.cls_score.weight", 1)
RETINANET = ("head.classification_head.cls_logits.weight", 9)
CLASSES = {
    "fasterrcnn_mobilenet_v3_large_fpn": FASTER_RCNN,
    "fasterrcnn_mobilenet_v3_large_320_fpn": FASTER_RCNN,
    "fasterrcnn_resnet50_fpn": FASTER_RCNN,
    "retinanet_resnet50_fpn": RETINANET,
}
# Of batch norms that were trained, and not of frozen ones; nothing that is computed here depends on it.
_COUNTER = "num_batches_tracked"
_ENOUGH = 1000  # boxes to choose from: the surest hundred may be of other classes


class TorchvisionSettings(DetectorSettings):
    model: str | None = Field(None, description="folder with one .safetensors file, the model's state dict")
    architecture: Literal[
        "fasterrcnn_mobilenet_v3_large_fpn",
        "fasterrcnn_mobilenet_v3_large_320_fpn",
        "fasterrcnn_resnet50_fpn",
        "retinanet_resnet50_fpn",
    ] = Field("fasterrcnn_mobilenet_v3_large_fpn", description="function of torchvision.models.detection")
    names: tuple[str, ...] = Field((), description="of the classes 1, 2, ...; none: those in the file's metadata")
    called: dict[str, str] = Field({}, description="category → the model's own name, where they differ")
    min_size: int | None = Field(None, ge=1, description="shorter side that pictures are scaled to; none: its own")
    max_size: int | None = Field(None, ge=1, description="limit of the longer side, pixels; none: its own")


@dataclass(frozen=True)
class _Loaded:
    model: Any
    labels: dict[int, str]  # by number, from 1


class Torchvision(Base):
    """Faster R-CNN (Ren et al. 2015, arXiv 1506.01497) or RetinaNet (Lin et al. 2017, arXiv 1708.02002)."""

    VERSION: ClassVar[int] = 1
    MODEL: ClassVar[str | None] = None
    LICENCE: ClassVar[str] = "your own weights; the code is torchvision's, BSD-3-Clause"
    Settings: ClassVar[type[DetectorSettings]] = TorchvisionSettings

    def load(self) -> _Loaded:
        """The model, read once."""
        if self._loaded is None:
            self._loaded = _load(self.ref, self.settings)
        return self._loaded

    def knows(self, names: Sequence[str]) -> list[bool]:
        """By name; case, underscores and hyphens do not count."""
        known = set(match_names(names, self.load().labels, self.settings.called).values())
        return [i in known for i in range(len(names))]

    def detect(self, pictures: Sequence[Pixels], names: Sequence[str]) -> list[Detections]:
        """As Detector.detect."""
        labels = self.load().labels
        matched = match_names(names, labels, self.settings.called)
        if not matched:
            raise none_known(self.ref, names, list(labels.values()))
        return [self._detect(picture, matched) for picture in pictures]

    def _detect(self, picture: Pixels, matched: dict[int, int]) -> Detections:
        import torch

        where = next(self.load().model.parameters()).device
        pixels = torch.from_numpy(picture.copy()).to(where).permute(2, 0, 1).float() / 255
        with torch.inference_mode():
            found = self.load().model([pixels])[0]
        labels = numbered(found["labels"], matched)
        matching = labels >= 0
        return tidy(
            picture, found["boxes"].cpu()[matching], found["scores"].cpu()[matching], labels[matching], self.settings
        )


def _load(ref: ModelRef, settings: TorchvisionSettings) -> _Loaded:
    from torchvision.models import detection

    folder, where = local_path(ref, ["*.safetensors"]), device()
    with reading(ref):
        state, noted = _read(folder)
        for values in state.values():
            check_finite(ref, values)
        classes = _classes(state, settings.architecture)
        names = settings.names or noted
        if len(names) != classes - 1:
            raise ValueError(
                f"its weights have {classes - 1} classes beside the background, and "
                f"{len(names)} names were given ({', '.join(names) or 'none'}): set `names`, or note them in its file"
            )
        sizes = {name: getattr(settings, name) for name in ("min_size", "max_size") if getattr(settings, name)}
        model = getattr(detection, settings.architecture)(
            weights=None, weights_backbone=None, num_classes=classes, **sizes, **_limits(settings)
        )
        fresh = {name: values for name, values in model.state_dict().items() if name.endswith(_COUNTER)}
        model.load_state_dict(fresh | state)
    return _Loaded(model.eval().requires_grad_(False).to(where), dict(enumerate(names, start=1)))


def _read(folder: Path) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The state dict, and the names in the file's metadata. Raises ValueError for several files."""
    from safetensors import safe_open

    files = sorted(folder.glob("*.safetensors"))
    if len(files) != 1:
        raise ValueError(f"it has {', '.join(file.name for file in files)}: one .safetensors file was expected")
    with safe_open(files[0], "pt") as file:
        noted = json.loads((file.metadata() or {}).get("names", "[]"))
        return {name: file.get_tensor(name) for name in file.keys()}, tuple(str(name) for name in noted)  # noqa: SIM118


def _classes(state: dict[str, Any], architecture: str) -> int:
    """How many classes, the background included."""
    name, anchors = CLASSES[architecture]
    if name not in state:
        raise ValueError(f"its weights have no {name}: they are not of {architecture}; set `architecture`")
    return int(state[name].shape[0]) // anchors


def _limits(settings: TorchvisionSettings) -> dict[str, Any]:
    """Threshold and number of boxes in the words of the architecture; it suppresses overlaps by itself."""
    if settings.architecture.startswith("retinanet"):
        return {"score_thresh": settings.threshold, "detections_per_img": max(_ENOUGH, settings.most)}
    return {"box_score_thresh": settings.threshold, "box_detections_per_img": max(_ENOUGH, settings.most)}
