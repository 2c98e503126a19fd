"""fcos, retinanet, faster-rcnn: torchvision's detectors over a small backbone, at the size of the square.

FCOS (Tian et al. 2019, arXiv 1904.01355), RetinaNet (Lin et al. 2017, arXiv 1708.02002) and Faster R-CNN (Ren et al.
2015, arXiv 1506.01497), losses and matching as the library has them. Narrower than published: `width` channels where
they have 256, since hundreds of trainings are to run on CPUs. Pictures are normalised as the backbone's, not resized.

Ignored places: a place, anchor or proposal of which more than half lies in one, and which matches no labelled box, is
not taught to be background. FCOS has no such notion, so there its logits are taken out of the sum.
"""

from __future__ import annotations

from functools import partial
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, field_validator
from torch import Tensor, nn
from torchvision.models.detection import fcos, retinanet
from torchvision.models.detection._utils import Matcher
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.ops import MultiScaleRoIAlign, box_area, box_iou

from lib.core.errors import AugmentError
from lib.proof.detectors import MOST, Base, Found, Target, TrainableSettings
from lib.proof.detectors.backbones import Body, Pyramid, body_of, check_name
from lib.proof.detectors.weights import start_from

FLOOR = 0.001  # detections up to this score are left out: average precision hardly sees them
CANDIDATES = 3 * MOST  # a level, before overlaps are removed
COVERED = 0.5  # share of a place in an ignored one, above which it teaches nothing
_LIMITS: dict[str, Any] = {"score_thresh": FLOOR, "detections_per_img": MOST, "topk_candidates": CANDIDATES}
PROPOSALS = 300  # a picture, of Faster R-CNN; 128 of them are learned from, a quarter with an object
NOTHING = -20.0  # logit of a score of 2e-9, whose focal loss as background is 0


class TorchvisionSettings(TrainableSettings):
    backbone: str = Field(
        "mobilenet-v3-large",
        description="resnet18, mobilenet-v3-small, mobilenet-v3-large, efficientnet-lite0, or timm:NAME",
    )
    backbone_weights: str | None = Field(
        None,
        description="none: random ones; imagenet: the published ones (for efficientnet-lite0 in the extra proof); or a "
        ".safetensors file, a folder or a hub id",
    )
    norms: Literal["auto", "trained", "frozen"] = Field(
        "auto", description="batch norms of the backbone; auto: frozen where it starts from weights"
    )
    width: int = Field(64, ge=64, le=256, multiple_of=32, description="channels of pyramid and heads")
    stride: Literal[4, 8] = Field(
        8, description="pixels a place of the finest map: 4 finds smaller objects, 8 is faster"
    )

    @field_validator("backbone")
    @classmethod
    def _known(cls, value: str) -> str:
        try:
            return check_name(value)
        except AugmentError as error:
            raise ValueError(str(error)) from None


class AnchorSettings(TorchvisionSettings):
    anchor: float = Field(4.0, gt=0, le=16, description="side of an anchor, in strides of its map")


class TorchvisionNetwork(nn.Module):
    """A model of torchvision's behind the contract."""

    CLASS_HEAD = ("classification_head.cls_logits", "box_predictor")

    def __init__(self, model: Any, classes: int, first: int) -> None:
        """first: number of the first class in the model, 1 where 0 is its background."""
        super().__init__()
        self.model, self.classes, self._first = model, classes, first
        self.notes: tuple[str, ...] = ()

    def losses(self, pictures: Tensor, targets: list[Target]) -> dict[str, Tensor]:
        """As Network.losses."""
        losses = self.model(list(pictures), [self._given(target) for target in targets])
        return {"loss": torch.stack(list(losses.values())).sum(), **losses}

    @torch.no_grad()
    def detect(self, pictures: Tensor) -> list[Found]:
        """As Network.detect."""
        return [self._found(one) for one in self.model(list(pictures))]

    def _given(self, target: Target) -> dict[str, Tensor]:
        usable = ((target.boxes[:, 2:] - target.boxes[:, :2]) > 0).all(1)  # the library raises for others
        return {
            "boxes": target.boxes[usable],
            "labels": target.labels[usable] + self._first,
            "ignored": target.ignored,
        }

    def _found(self, one: dict[str, Tensor]) -> Found:
        usable = ((one["boxes"][:, 2:] - one["boxes"][:, :2]) > 0).all(1)
        boxes, scores, labels = one["boxes"][usable], one["scores"][usable], one["labels"][usable]
        return Found(boxes[:MOST], scores[:MOST], labels[:MOST] - self._first)


class Torchvision(Base):
    """What the three share."""

    VERSION: ClassVar[int] = 1
    LICENCE: ClassVar[str] = (
        "BSD-3-Clause (torchvision), Apache-2.0 (timm, EfficientNet-Lite0); published weights were trained on "
        "ImageNet, whose pictures are for research"
    )
    Settings: ClassVar[type[TorchvisionSettings]] = TorchvisionSettings
    NAME: ClassVar[str]

    def build(self, classes: int) -> TorchvisionNetwork:
        """As Trainable.build."""
        settings = self.settings
        body = body_of(settings.backbone, settings.backbone_weights)
        started = settings.weights is not None or settings.backbone_weights is not None
        frozen = settings.norms == "frozen" or (settings.norms == "auto" and started)
        network = self._network(Pyramid(body, settings.width, settings.stride, frozen), classes)
        _model(network).transform = _Transform(body)
        if settings.weights is not None:
            network.notes = start_from(network, self.NAME, settings.weights, network.CLASS_HEAD)
        return network

    def _network(self, pyramid: Pyramid, classes: int) -> TorchvisionNetwork:
        raise NotImplementedError

    def _anchors(self, pyramid: Pyramid, sizes: tuple[float, ...], ratios: tuple[float, ...]) -> Any:
        """Anchors of these sizes, in strides, and height by width, at every place of every map."""
        return AnchorGenerator(
            tuple(tuple(stride * size for size in sizes) for stride in pyramid.strides),
            (ratios,) * len(pyramid.strides),
        )


class Fcos(Torchvision):
    """Each place tells the distances to its object's sides."""

    NAME: ClassVar[str] = "fcos"

    def _network(self, pyramid: Pyramid, classes: int) -> TorchvisionNetwork:
        model = fcos.FCOS(
            pyramid,
            classes,
            anchor_generator=self._anchors(pyramid, (1.0,), (1.0,)),
            head=_FcosHead(self.settings.width, 1, classes),
            **_LIMITS,
        )
        return TorchvisionNetwork(model, classes, 0)


class RetinaNet(Torchvision):
    """Nine anchors a place, focal loss; group norms in its heads, which learn from nothing without."""

    NAME: ClassVar[str] = "retinanet"
    Settings: ClassVar[type[TorchvisionSettings]] = AnchorSettings

    def _network(self, pyramid: Pyramid, classes: int) -> TorchvisionNetwork:
        sizes = tuple(self.settings.anchor * 2 ** (k / 3) for k in range(3))
        model = retinanet.RetinaNet(
            pyramid,
            classes,
            anchor_generator=self._anchors(pyramid, sizes, (0.5, 1.0, 2.0)),
            head=_RetinaHead(self.settings.width, 9, classes, norm_layer=partial(nn.GroupNorm, 32)),
            **_LIMITS,
        )
        return TorchvisionNetwork(model, classes, 0)


class FasterRcnn(Torchvision):
    """Proposals, and a second look at each."""

    NAME: ClassVar[str] = "faster-rcnn"
    Settings: ClassVar[type[TorchvisionSettings]] = AnchorSettings

    def _network(self, pyramid: Pyramid, classes: int) -> TorchvisionNetwork:
        width, maps = self.settings.width, [str(i) for i in range(len(pyramid.strides) - 1)]
        numbers = {"training": PROPOSALS, "testing": PROPOSALS}
        rpn = _Rpn(
            self._anchors(pyramid, (self.settings.anchor,), (0.5, 1.0, 2.0)),
            RPNHead(width, 3),
            fg_iou_thresh=0.7,
            bg_iou_thresh=0.3,
            batch_size_per_image=256,
            positive_fraction=0.5,
            pre_nms_top_n=numbers,
            post_nms_top_n=numbers,
            nms_thresh=0.7,
        )
        heads = _RoiHeads(
            MultiScaleRoIAlign(maps, output_size=7, sampling_ratio=2),
            TwoMLPHead(width * 7**2, 4 * width),
            FastRCNNPredictor(4 * width, classes + 1),
            fg_iou_thresh=0.5,
            bg_iou_thresh=0.5,
            batch_size_per_image=128,
            positive_fraction=0.25,
            bbox_reg_weights=None,
            score_thresh=FLOOR,
            nms_thresh=0.5,
            detections_per_img=MOST,
        )
        return TorchvisionNetwork(GeneralizedRCNN(pyramid, rpn, heads, nn.Identity()), classes, 1)


class _Transform(GeneralizedRCNNTransform):
    """Normalises; the squares have their size already."""

    def __init__(self, body: Body) -> None:
        super().__init__(0, 0, list(body.mean), list(body.std), size_divisible=1)

    def resize(self, image: Tensor, target: Any = None) -> tuple[Tensor, Any]:
        return image, target


class _FcosHead(fcos.FCOSHead):
    def compute_loss(self, targets: Any, head_outputs: Any, anchors: Any, matched_idxs: Any) -> Any:
        silent = torch.stack(_silent(anchors, targets, matched_idxs))
        logits = torch.where(silent[..., None], NOTHING, head_outputs["cls_logits"])
        return super().compute_loss(targets, {**head_outputs, "cls_logits": logits}, anchors, matched_idxs)


class _RetinaHead(retinanet.RetinaNetHead):
    def compute_loss(self, targets: Any, head_outputs: Any, anchors: Any, matched_idxs: Any) -> Any:
        silent = _silent(anchors, targets, matched_idxs)
        between = Matcher.BETWEEN_THRESHOLDS  # neither an object nor background
        matched = [torch.where(one, between, found) for one, found in zip(silent, matched_idxs, strict=True)]
        return super().compute_loss(targets, head_outputs, anchors, matched)


class _Rpn(RegionProposalNetwork):
    def assign_targets_to_anchors(self, anchors: Any, targets: Any) -> Any:
        labels, boxes = super().assign_targets_to_anchors(anchors, targets)
        silent = _silent(anchors, targets, [label - 1 for label in labels])
        return [torch.where(one, -1.0, label) for one, label in zip(silent, labels, strict=True)], boxes


class _RoiHeads(RoIHeads):
    def select_training_samples(self, proposals: Any, targets: Any) -> Any:
        kept = [self._teaching(places, target) for places, target in zip(proposals, targets, strict=True)]
        if not any(len(places) for places in kept):  # the library's mean over none is not a number
            kept[0] = proposals[0][:1]
        return super().select_training_samples(kept, targets)

    def _teaching(self, places: Tensor, target: dict[str, Tensor]) -> Tensor:
        """The proposals that are not ignored."""
        silent = covered(places, target["ignored"])
        if len(target["boxes"]):
            silent &= box_iou(places, target["boxes"]).amax(1) < self.proposal_matcher.high_threshold
        return places[~silent]


def _silent(anchors: list[Tensor], targets: list[dict[str, Tensor]], matched: list[Tensor]) -> list[Tensor]:
    """(N,) of each picture: which of its anchors match no labelled box and lie in an ignored place.

    matched: (N,) a picture, below 0 where no labelled box matches.
    """
    return [
        (found < 0) & covered(places, target["ignored"])
        for places, target, found in zip(anchors, targets, matched, strict=True)
    ]


def covered(boxes: Tensor, ignored: Tensor) -> Tensor:
    """(N,): does more than COVERED of a box (N, 4) lie in one of the ignored places (M, 4)? xyxy."""
    if not len(ignored):
        return torch.zeros(len(boxes), dtype=torch.bool, device=boxes.device)
    corner = torch.minimum(boxes[:, None, 2:], ignored[None, :, 2:])
    sides = (corner - torch.maximum(boxes[:, None, :2], ignored[None, :, :2])).clamp(min=0)
    shares = sides.prod(2) / box_area(boxes)[:, None].clamp(min=1e-6)
    return shares.amax(1) > COVERED


def _model(network: TorchvisionNetwork) -> Any:
    return network.model
