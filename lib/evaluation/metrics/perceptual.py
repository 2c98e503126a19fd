"""How different do pictures look? LPIPS and the diversity made of it, over the layers of a torch network.

    network = NETWORKS["alex"](weights)            # AlexNet of torchvision and the paper's own linear weights
    network = NETWORKS["mini"]()                   # this project's VAE: no download
    lpips(network, sources, outputs)               # (B,) distances of uint8 (B, H, W, 3) RGB pictures
    diversity(network, pictures)                   # one number for n pictures of one layout

Figures of two networks cannot be compared: write `network.identity` beside every one. A new network is a function that
returns a Network, and one line in NETWORKS.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from lib.core.checkpoints import load_whole, local_path, reading, resolve
from lib.core.compute import device, run_padded
from lib.core.errors import AugmentError
from lib.core.files import digest
from lib.core.registry import Family, MemberSettings

if TYPE_CHECKING:
    import torch

Pictures = NDArray[np.uint8]  # (B, H, W, 3) RGB

NETWORKS = Family(
    "perceptual network",
    {"alex": "lib.evaluation.metrics.perceptual:alex", "mini": "lib.evaluation.metrics.perceptual:mini"},
)
ALEX_URL = "https://download.pytorch.org/models/alexnet-owt-7be5be79.pth"
ALEX_DIGEST = "7be5be79"  # its SHA-256 begins with this
MINI_VAE = "mini:vae"
ALEX_LINEAR = Path(__file__).with_name("lpips_alex.safetensors")  # layer0 … layer4; licence beside it

_BATCH = 8  # pictures a forward pass


class NetworkSettings(MemberSettings):
    """Of metrics that look through a network."""

    network: Literal["mini", "alex"] = Field("mini", description="whose features; alex needs torchvision's weights")

    def chosen(self) -> Network:
        """The network, read once a process."""
        return _network(self.network)

    def needs(self) -> dict[str, str]:
        """The model of `mini`; the weights of `alex` have to be here."""
        if self.network == "mini":
            return {"network": MINI_VAE}
        alex_weights()
        return {}


@lru_cache(2)
def _network(name: str) -> Network:
    network: Network = NETWORKS[name]()
    return network


@dataclass(frozen=True)
class Network:
    """What LPIPS looks through: layers of features, and what each channel counts."""

    name: str  # "alex", "mini"
    identity: str  # name, version and weights, no path: equal identities give comparable figures
    least: int  # pixels: the shortest side that its layers can take
    layers: Callable[[torch.Tensor], Sequence[torch.Tensor]]  # (B, 3, H, W) RGB in −1 .. 1 → (B, C, h, w) each
    weights: Sequence[torch.Tensor] | None  # (C,) for each layer, from 0; none: 1 for every channel

    def look(self, pictures: Sequence[Pictures]) -> list[torch.Tensor]:
        """Features of B uint8 (H, W, 3) pictures, (B, C, h, w) of each layer: made length 1 at every place, then times
        the root of their weights, so that squared differences are weighted ones. float32, on the chosen device.
        """
        import torch

        pixels = torch.from_numpy(np.stack(pictures)).to(device()).permute(0, 3, 1, 2).contiguous() / 127.5 - 1
        # By default a GPU's convolutions keep 10 bits of each factor: 1e-3 of a distance.
        exact = torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False)
        with torch.inference_mode(), exact:
            units = [values / (values.square().sum(1, keepdim=True).sqrt() + 1e-10) for values in self.layers(pixels)]
            if self.weights is None:
                return units
            roots = (weights.to(device()).sqrt()[:, None, None] for weights in self.weights)
            return [values * root for values, root in zip(units, roots, strict=True)]


def lpips(network: Network, a: Pictures, b: Pictures, where: np.ndarray | None = None) -> NDArray[np.float64]:
    """Learned perceptual distance of B pairs of pictures: (B,), 0 (equal) upwards, smaller is more alike.

    Σ_layers mean_places Σ_channels w_c (f_c(a) − f_c(b))², f the network's features made length 1 at each place, w the
    layer's weights (Zhang et al. 2018, arXiv 1801.03924); with "alex" that is the published metric, version 0.1.
    Without weights every channel counts 1, so that a layer gives at most 4: the paper's unweighted baseline.

    a, b: uint8 (B, H, W, 3) RGB. where: bool (B, H, W), the mean over places weighs each by the share of its pixels
    that are chosen. A feature sees its surroundings ("alex": some 80 pixels, "mini": faintly the whole picture), so
    that they touch the figure; for a region all alone take `lib.evaluation.metrics.pixels.crop_to` first.

    Raises ValueError for other types and shapes, sizes that differ, pictures smaller than `network.least` and a mask
    without pixels, AugmentError where the network gives numbers that are not finite.
    """
    _check_pictures(network, a)
    _check_pictures(network, b)
    if a.shape != b.shape:
        raise ValueError(f"batches of one shape are expected: got {a.shape} and {b.shape}")
    masks = np.ones(a.shape[:3], dtype=bool) if where is None else where
    if masks.shape != a.shape[:3] or masks.dtype != bool:
        raise ValueError(f"a bool mask of shape {a.shape[:3]} is expected: got {masks.dtype} {masks.shape}")
    if not masks.any(axis=(1, 2)).all():
        empty = int(np.flatnonzero(~masks.any(axis=(1, 2)))[0])
        raise ValueError(f"nothing to compare: no pixel is chosen of picture {empty}")
    return _finite(network, _batched(list(zip(a, b, masks, strict=True)), lambda chunk: _distances(network, chunk)))


def diversity(network: Network, pictures: Pictures) -> float:
    """How different n pictures of one layout look: the mean of `lpips` over their n(n − 1)/2 pairs, 0 (all equal)
    upwards, larger is more varied. The measure of layout-to-image work, which takes n = 10 (STAY, arXiv 2503.12213).

    pictures: uint8 (n, H, W, 3) RGB. Raises as `lpips` does, and ValueError for fewer than two pictures.
    """
    import torch

    _check_pictures(network, pictures)
    if len(pictures) < 2:
        raise ValueError(f"{len(pictures)} picture(s): diversity is a mean over pairs and takes at least 2")
    features = _batched(list(pictures), lambda chunk: list(zip(*network.look(chunk), strict=True)))  # layers of each
    # The mean of (x − y)² over all pairs is twice the unbiased variance: n steps instead of n².
    layers = [2 * torch.stack(layer).double().var(0).sum(0).mean() for layer in zip(*features, strict=True)]
    return float(_finite(network, [float(sum(layers))])[0])


def alex(weights: Path | None = None, sha256: str = ALEX_DIGEST) -> Network:
    """AlexNet's five ReLUs with the linear weights of the paper: the usual LPIPS.

    weights: torchvision's published file; none: where torch's hub keeps it. It is never downloaded here. sha256: the
    first digits of the file's digest. Raises AugmentError where the file is missing or differs.
    """
    import torch
    from safetensors.torch import load_file
    from torchvision.models import alexnet

    path, data = alex_weights(weights, sha256)
    found = digest(data)
    try:
        # The published file is a pickle: weights_only refuses to run anything in it.
        state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        with torch.device("meta"):  # no 60 million random numbers, most of them for a classifier that is not needed
            features = alexnet().features[:12]  # to the last ReLU
        layers_of = {name: value for name, value in state.items() if name.startswith("features.")}
        convolutions = {name.removeprefix("features."): value for name, value in layers_of.items()}
        features.load_state_dict(convolutions, assign=True)
    except Exception as error:  # unpickling and load_state_dict raise whatever the file's bytes make them
        raise AugmentError(f"{path} holds no AlexNet ({str(error)[:200]}); {_REMEDY}") from None
    features = features.float().eval().requires_grad_(False).to(device())
    linear = load_file(ALEX_LINEAR)
    shift, scale = (torch.tensor(values, device=device())[:, None, None] for values in (_SHIFT, _SCALE))

    def layers(pixels: torch.Tensor) -> list[torch.Tensor]:
        pixels, maps = (pixels - shift) / scale, []
        for module in features:
            pixels = module(pixels)
            if isinstance(module, torch.nn.ReLU):
                maps.append(pixels)
        return maps

    identity = f"alex 1: AlexNet of torchvision {found[:8]}, linear weights of lpips v0.1"
    return Network("alex", identity, 31, layers, [linear[f"layer{i}"] for i in range(5)])


def alex_weights(weights: Path | None = None, sha256: str = ALEX_DIGEST) -> tuple[Path, bytes]:
    """The file that `alex` reads, and its bytes. Raises AugmentError where it is missing or differs."""
    from torch.hub import get_dir

    path = weights or Path(get_dir()) / "checkpoints" / ALEX_URL.rpartition("/")[2]
    if not path.is_file():
        raise AugmentError(f"AlexNet's weights are not at {path}: put {ALEX_URL} there, or {_REMEDY}")
    data = path.read_bytes()
    if not (found := digest(data)).startswith(sha256):
        raise AugmentError(
            f"{path} is damaged: its SHA-256 begins with {found[:8]}, {sha256[:8]} was expected; fetch {ALEX_URL} "
            f"again, or {_REMEDY}"
        )
    return path, data


def mini(model: Path | None = None) -> Network:
    """The encoder of this project's own VAE, its down and mid blocks, all channels alike: no download, and not a
    substitute for the paper's network. It was trained on drawn warehouses alone.

    model: folder of a VAE as diffusers saves it; none: data/models/mini/vae. Raises AugmentError for
    anything else.
    """
    import torch
    from diffusers import AutoencoderKL

    if model is not None and not model.expanduser().is_dir():
        raise AugmentError(f"model folder {model} not found: expected a VAE as diffusers saves it")
    ref = resolve(MINI_VAE if model is None else str(model), {})
    folder = local_path(ref, ["config.json", "*.safetensors"])
    with reading(ref):
        vae = load_whole(AutoencoderKL, folder, torch_dtype=torch.float32)
    encoder = vae.encoder.eval().requires_grad_(False).to(device())

    def layers(pixels: torch.Tensor) -> list[torch.Tensor]:
        maps = [encoder.conv_in(pixels)]
        for block in [*encoder.down_blocks, encoder.mid_block]:
            maps.append(block(maps[-1]))
        return maps[1:]

    least = 2 ** len(encoder.down_blocks)
    return Network("mini", f"mini 1: VAE encoder of {ref.revision}, equal weights", least, layers, None)


_REMEDY = "take the network `mini`, which needs no download"
_SHIFT, _SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)  # of R, G, B in −1 .. 1: ImageNet's, as lpips has them


def _check_pictures(network: Network, pictures: Pictures) -> None:
    if pictures.dtype != np.uint8 or pictures.ndim != 4 or pictures.shape[3] != 3:
        raise ValueError(f"uint8 (B, H, W, 3) pictures are expected: got {pictures.dtype} {pictures.shape}")
    if min(pictures.shape[1:3]) < network.least:
        raise ValueError(
            f"pictures of {pictures.shape[1:3]} pixels: {network.name} takes at least {network.least} each way"
        )


def _batched(items: Sequence[Any], run: Callable[[Sequence[Any]], list[Any]]) -> list[Any]:
    return run_padded(items, max(1, min(_BATCH, len(items))), run)[0]


def _distances(network: Network, pairs: Sequence[tuple[Any, Any, Any]]) -> list[float]:
    """LPIPS of pairs with their masks."""
    import torch
    from torch.nn.functional import adaptive_avg_pool2d

    first, second, masks = zip(*pairs, strict=True)
    chosen = torch.from_numpy(np.stack(masks)).to(device(), torch.float64)  # (B, H, W)
    total = torch.zeros(len(pairs), dtype=torch.float64, device=device())
    for a, b in zip(network.look(first), network.look(second), strict=True):
        apart = (a - b).square().sum(1).double()  # (B, h, w)
        share = adaptive_avg_pool2d(chosen, (apart.shape[1], apart.shape[2]))
        total += (apart * share).sum((1, 2)) / share.sum((1, 2))
    return list(total.tolist())


def _finite(network: Network, figures: Sequence[float]) -> NDArray[np.float64]:
    values = np.array(figures, dtype=np.float64)
    if not np.isfinite(values).all():
        raise AugmentError(f"network {network.identity} gives numbers that are not finite: its weights are damaged")
    return values
