"""compact: a centre-point detector of a quarter of a million weights, for hundreds of trainings on a CPU.

Objects are points: a heat map a class, whose peaks are the centres of boxes, and at each place the distances to the
four sides (Zhou et al. 2019, "Objects as Points", arXiv 1904.07850), which all places of a peak learn, by GIoU (TTFNet,
Liu et al. 2019, arXiv 1909.00700). Residual blocks down to stride 32 and a feature pyramid back to stride 4 or 8.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import batched_nms, generalized_box_iou_loss

from lib.proof.detectors import MOST, Base, Found, Target, TrainableSettings
from lib.proof.detectors.weights import start_from

PRIOR = 0.01  # what every place scores before training, so that the many empty ones do not swamp the first steps
SHARE = 0.54  # of a side: the width of a peak at its foot (TTFNet, Liu et al. 2019, arXiv 1909.00700)
LEAST = 0.4  # places: standard deviation of the narrowest peak
FOOT = 0.1  # of a peak: places above it learn the box, as much as they are high, each object as much as another
OVERLAP = 0.6  # IoU of two detections of one class, above which the weaker one goes
BOX_WEIGHT = 2.0


class CompactSettings(TrainableSettings):
    stride: Literal[4, 8] = Field(4, description="pixels a place of the heat map: 4 finds smaller objects, 8 is faster")
    width: int = Field(24, ge=8, le=128, multiple_of=8, description="channels at stride 4; deeper stages have more")


class Compact(Base):
    """The member of the family."""

    VERSION: ClassVar[int] = 1
    LICENCE: ClassVar[str] = "this project's, trained from nothing"
    Settings: ClassVar[type[TrainableSettings]] = CompactSettings

    def build(self, classes: int) -> CompactNetwork:
        """As Trainable.build."""
        network = CompactNetwork(classes, self.settings.width, self.settings.stride)
        if self.settings.weights is not None:
            network.notes = start_from(network, "compact", self.settings.weights, network.CLASS_HEAD)
        return network


class _Block(nn.Module):
    """Two convolutions around a shortcut (He et al. 2016, arXiv 1603.05027)."""

    def __init__(self, inside: int, outside: int, stride: int = 1) -> None:
        super().__init__()
        self.first = _conv(inside, outside, stride)
        self.second = nn.Sequential(nn.Conv2d(outside, outside, 3, 1, 1, bias=False), nn.BatchNorm2d(outside))
        same = inside == outside and stride == 1
        self.shortcut = nn.Identity() if same else nn.Conv2d(inside, outside, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.second(self.first(x)) + self.shortcut(x))


def _conv(inside: int, outside: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inside, outside, 3, stride, 1, bias=False), nn.BatchNorm2d(outside), nn.ReLU(inplace=True)
    )


class CompactNetwork(nn.Module):
    """(B, 3, S, S) → heat (B, classes, S/stride, S/stride) as logits, and distances (B, 4, S/stride, S/stride)."""

    CLASS_HEAD = ("heat_head.1",)
    notes: tuple[str, ...] = ()

    def __init__(self, classes: int, width: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        widths = [width, width * 3 // 2, width * 2, width * 3]
        self.stem = nn.Sequential(_conv(3, width // 2, 2), _conv(width // 2, width, 2))
        self.stages = nn.ModuleList([_Block(width, width)])
        for inside, outside in pairwise(widths):
            self.stages.append(nn.Sequential(_Block(inside, outside, 2), _Block(outside, outside)))
        self.first = 0 if stride == 4 else 1  # stage of the output
        self.laterals = nn.ModuleList([nn.Conv2d(one, width * 3 // 2, 1) for one in widths[self.first :]])
        self.smooth = _conv(width * 3 // 2, width * 3 // 2)
        self.heat_head = nn.Sequential(_conv(width * 3 // 2, width), nn.Conv2d(width, classes, 1))
        self.box_head = nn.Sequential(_conv(width * 3 // 2, width), nn.Conv2d(width, 4, 1))
        _fill_bias(self.heat_head, -math.log((1 - PRIOR) / PRIOR))
        _fill_bias(self.box_head, 1.0)

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        x = self.stem((pictures - 0.5) / 0.25)
        levels = []
        for stage in self.stages:
            x = stage(x)
            levels.append(x)
        merged = self.laterals[-1](levels[-1])
        for lateral, level in zip(reversed(self.laterals[:-1]), reversed(levels[self.first : -1]), strict=True):
            merged = lateral(level) + F.interpolate(merged, scale_factor=2.0)
        merged = self.smooth(merged)
        return self.heat_head(merged), self.box_head(merged).clamp(max=6.0).exp() * self.stride

    def losses(self, pictures: Tensor, targets: list[Target]) -> dict[str, Tensor]:
        """As Network.losses."""
        heat, distances = self(pictures)
        wanted, weight, centres = self._wanted(heat, targets)
        count = max(1, sum(len(target.boxes) for target in targets))
        heat_loss = _focal(heat, wanted, weight) / count
        if not len(centres["boxes"]):
            return {"loss": heat_loss + 0 * distances.sum(), "heat": heat_loss}
        found = self._boxes(distances[centres["picture"], :, centres["row"], centres["column"]], centres)
        losses = generalized_box_iou_loss(found, centres["boxes"])
        box_loss = (losses * centres["weight"]).sum() / centres["weight"].sum()
        return {"loss": heat_loss + BOX_WEIGHT * box_loss, "heat": heat_loss, "box": box_loss}

    @torch.no_grad()
    def detect(self, pictures: Tensor) -> list[Found]:
        """As Network.detect."""
        heat, distances = self(pictures)
        scores = heat.sigmoid()
        scores = scores * (F.max_pool2d(scores, 3, 1, 1) == scores)
        return [self._found(*one) for one in zip(scores, distances, strict=True)]

    def _found(self, scores: Tensor, distances: Tensor) -> Found:
        rows, columns = scores.shape[1:]
        best, at = scores.flatten().topk(min(3 * MOST, scores.numel()))
        labels, place = at // (rows * columns), at % (rows * columns)
        row, column = place // columns, place % columns
        boxes = self._boxes(distances[:, row, column].T, {"row": row, "column": column})
        boxes = boxes.clamp(0, rows * self.stride)
        usable = (best > 0) & ((boxes[:, 2:] - boxes[:, :2]) > 0).all(1)
        boxes, best, labels = boxes[usable], best[usable], labels[usable]
        kept = batched_nms(boxes, best, labels, OVERLAP)[:MOST]
        return Found(boxes[kept], best[kept], labels[kept])

    def _boxes(self, distances: Tensor, at: dict[str, Tensor]) -> Tensor:
        """(N, 4) xyxy of left, top, right, bottom distances (N, 4) at places of the map."""
        x, y = (at["column"] + 0.5) * self.stride, (at["row"] + 0.5) * self.stride
        left, top, right, bottom = distances.unbind(1)
        return torch.stack([x - left, y - top, x + right, y + bottom], 1)

    def _wanted(self, heat: Tensor, targets: list[Target]) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """The heat map as it should be, its weight (0 where nothing counts), and the places that learn boxes."""
        wanted, weight = torch.zeros_like(heat), torch.ones_like(heat[:, :1])
        height, width = heat.shape[2:]
        rows = torch.arange(height, device=heat.device, dtype=torch.float32)[:, None]
        columns = torch.arange(width, device=heat.device, dtype=torch.float32)[None]
        places = []
        for k, target in enumerate(targets):
            for x0, y0, x1, y1 in (target.ignored / self.stride).tolist():
                weight[k, 0, int(y0) : int(y1) + 1, int(x0) : int(x1) + 1] = 0
            for box, label in zip(target.boxes, target.labels.tolist(), strict=True):
                x0, y0, x1, y1 = (box / self.stride).tolist()
                column = min(int((x0 + x1) / 2), width - 1)
                row = min(int((y0 + y1) / 2), height - 1)
                sigma = [max(SHARE * side / 6, LEAST) for side in (x1 - x0, y1 - y0)]
                peak = torch.exp(-((columns - column) ** 2 / sigma[0] ** 2 + (rows - row) ** 2 / sigma[1] ** 2) / 2)
                torch.maximum(wanted[k, label], peak, out=wanted[k, label])
                wanted[k, label, row, column] = 1
                weight[k, 0, row, column] = 1
                at = (peak > FOOT).nonzero()
                shares = peak[at[:, 0], at[:, 1]]
                picture = torch.full_like(at[:, 0], k)
                places.append((picture, at[:, 0], at[:, 1], shares / shares.sum(), box.expand(len(at), 4)))
        return wanted, weight, _joined(places, heat.device)


def _joined(places: Sequence[tuple[Tensor, ...]], device: torch.device) -> dict[str, Tensor]:
    none = torch.zeros(0, dtype=torch.int64, device=device)
    empty = (none, none, none, none.float(), torch.zeros(0, 4, device=device))
    columns = [torch.cat(column) for column in zip(empty, *places, strict=True)]
    return dict(zip(("picture", "row", "column", "weight", "boxes"), columns, strict=True))


def _fill_bias(head: nn.Sequential, value: float) -> None:
    last = head[-1]
    assert isinstance(last, nn.Conv2d) and last.bias is not None
    nn.init.constant_(last.bias, value)


def _focal(heat: Tensor, wanted: Tensor, weight: Tensor) -> Tensor:
    """Sum of the penalty-reduced focal loss (Law and Deng 2018, CornerNet, 1808.01244, eq. 1; alpha 2, beta 4)."""
    share = heat.sigmoid().clamp(1e-6, 1 - 1e-6)
    right = (1 - share) ** 2 * F.logsigmoid(heat)
    wrong = (1 - wanted) ** 4 * share**2 * F.logsigmoid(-heat)
    return -(torch.where(wanted == 1, right, wrong) * weight).sum()
