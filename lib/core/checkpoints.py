"""Where weights come from: published checkpoints, mini models, or a folder. Revisions are pinned in models.lock.

    text = model_of("gligen", Gligen, settings, "full")     # what to load: a hub id, "mini:gligen" or a folder
    ref = resolve(text, lock)                               # pinned; the caller keeps lock[ref.id] = ref.revision
    folder = local_path(ref, ["unet/config.json", ...])     # on this machine, downloaded where it must be

A hub id may name a branch, pull request or commit behind an `@`: `org/name@refs/pr/2`. Only safetensors are loaded,
never pickles, whoever published them, and no code that a checkpoint brings along (`trust_remote_code` is off).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import re
import socket
import threading
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec

from lib.core.compute import out_of_memory
from lib.core.downloads import OFFLINE, Needed, absent, cache_folder, chosen, fetch, first_line, transport_error
from lib.core.errors import AugmentError
from lib.core.files import file_digest

MINI = Path(__file__).resolve().parents[2] / "data" / "models" / "mini"
NOT_PUBLISHED = "trained on your own data"  # as MODEL: no checkpoint is published, the setting `model` is needed

FACTS = ".training.json"  # what training noted of a model; hidden, as it is not part of the revision

_HUB_ID = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?(@[\w./-]+)?")
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class ModelRef:
    """A checkpoint pinned to its content. Keys are made of `id` and `revision`, so neither holds a path."""

    id: str  # hub id (with its @revision, where one was given), "mini:<member>", or "folder"
    revision: str  # commit hash of the hub, or "sha256:..." over a folder's files
    path: Path | None  # local folder; None = the hub's cache, by id and revision

    def __str__(self) -> str:
        return f"{self.path or self.id} ({self.revision[:15]})"


def model_of(name: str, member: Any, settings: Any, models: str) -> str | None:
    """What family member `name` loads: its setting `model`, else the one that `models` (full, mini) selects.

    None where the member needs no model. A mini model has the member's name, or that of its MINI_MODEL. The text is for
    `resolve`. Raises AugmentError where no model is given and none is published.
    """
    if member.MODEL is None:
        return None
    given: str | None = getattr(settings, "model", None)
    if given:
        return given
    if member.MODEL == NOT_PUBLISHED:
        raise AugmentError(
            f"{name} is {NOT_PUBLISHED}: give painter: {{name: {name}, model: FOLDER}}, or train one: augment "
            f"train {name}"
        )
    return str(member.MODEL) if models == "full" else f"mini:{getattr(member, 'MINI_MODEL', name)}"


BESIDE = ("lora", "controlnet")  # settings that name what stands beside a model


def weights_of(name: str, member: Any, settings: Any, models: str) -> dict[str, str]:
    """All that it loads, by the setting that names it: `model`, as `model_of`, and what stands beside it; without what
    is not needed."""
    found = {"model": model_of(name, member, settings, models)}
    found |= {one: getattr(settings, one, None) for one in BESIDE}
    return {setting: text for setting, text in found.items() if text}


def resolve(model: str, lock: Mapping[str, str]) -> ModelRef:
    """Pin a model: a folder, "mini:<member>", or a hub id with or without "@revision".

    lock: id → revision as pinned at the first plan. A hub id in it is not looked up again; a folder's revision is
    always that of its files now. Raises AugmentError where the folder or checkpoint does not exist, or where the hub
    cannot be reached and its cache does not hold the model.
    """
    if model.startswith("mini:"):
        return _folder(model, _mini(model.removeprefix("mini:")))
    # Not Path's methods, which raise for a name that no folder can have.
    folder = os.path.expanduser(model)  # noqa: PTH111
    if model and os.path.isdir(folder):  # noqa: PTH112
        return _folder("folder", Path(folder).resolve())
    if not _HUB_ID.fullmatch(model):
        raise AugmentError(f"model {model!r:.200} is neither a folder nor a hub id (org/name or org/name@revision)")
    return ModelRef(model, lock.get(model) or _hub_revision(model), None)


def check_at_hand(model: str, pinned: Mapping[str, str], setting: str) -> None:
    """Raise AugmentError, in seconds, where a model is neither on this machine nor to be had from the hub.

    It is taken to be to be had where the hub's name is known to this machine's network; reads no weights and asks the
    hub nothing. model: as for `resolve`; pinned: id to revision; setting: where a folder can be given.
    """
    if model.startswith("mini:"):
        _mini(model.removeprefix("mini:"))
        return
    if model and os.path.isdir(os.path.expanduser(model)):  # noqa: PTH111, PTH112
        return
    if not _HUB_ID.fullmatch(model):
        raise AugmentError(f"{setting} {model!r:.200} is neither a folder nor a hub id (org/name or org/name@revision)")
    name, _ = _split(model)
    snapshots = cache_folder(name) / "snapshots"
    if any(snapshots.glob(f"{pinned.get(model, '*')}/**/*.safetensors")):
        return
    if why := _hub_out_of_reach():
        raise AugmentError(
            f"model {model!r} is not on this machine ({snapshots.parent}), and {why}: use `models: mini`, or give a "
            f"local folder, {setting}=FOLDER"
        )


LOOK_UP = 2.0  # seconds for the name of the hub


def _hub_out_of_reach() -> str:
    """Why the hub cannot be reached; "" where it may be."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    return out_of_reach(constants.ENDPOINT)


def out_of_reach(url: str) -> str:
    """Why nothing can be fetched from an address, found within seconds; "" where it may be. It is asked nothing."""
    host = urlsplit(url).hostname or ""
    if urllib.request.getproxies().get("https"):  # the proxy looks the name up
        return ""
    found: list[Any] = []

    def look_up() -> None:
        with contextlib.suppress(OSError, UnicodeError):
            found.append(socket.getaddrinfo(host, 443))

    thread = threading.Thread(target=look_up, daemon=True)  # it cannot be given a limit of its own
    thread.start()
    thread.join(LOOK_UP)
    return "" if found else f"{host} is not known to this machine's network"


def local_path(ref: ModelRef, needed: Sequence[Needed], also: Sequence[str] = (), never: Sequence[str] = ()) -> Path:
    """The model's folder on this machine with all `needed` files, downloaded into the hub's cache where it must be.

    needed: file names or patterns like "*.safetensors", each of which must match a file; of several names in a tuple
    the first one that exists is fetched; also: those fetched where they exist, but for `never`. Raises AugmentError
    for a missing file or a folder that has changed since it was pinned, and ConnectionError where a download failed in
    a way that may pass.
    """
    if ref.path is not None:
        folder = ref.path
        if ref.revision.startswith("sha256:") and folder_revision(folder) != ref.revision:
            raise AugmentError(f"model folder {folder} is no longer {ref.revision}: its files changed; plan again")
    else:
        folder = fetch(_split(ref.id)[0], ref.revision, needed, also, never)
    missing = missing_files(folder, needed)
    if missing:
        raise AugmentError(f"model {ref}: no {', '.join(missing)} in {folder}{_why_missing(folder, missing)}")
    return folder


def check_files(ref: ModelRef, needed: Sequence[Needed]) -> None:
    """Raises AugmentError, in seconds, where a file that will be needed is neither on this machine nor on the hub.

    needed: as for `local_path`. Nothing is downloaded; where the hub does not say what it has, nothing is found.
    """
    if ref.path is not None:
        missing, where = missing_files(ref.path, needed), str(ref.path)
        why = _why_missing(ref.path, missing)
    else:
        missing, where, why = absent(_split(ref.id)[0], ref.revision, needed), "its files on the hub", ""
    if missing:
        raise AugmentError(f"model {ref}: no {', '.join(missing)} in {where}{why}")


class _Index(msgspec.Struct):
    weight_map: dict[str, str]  # tensor to file


def missing_files(folder: Path, needed: Sequence[Needed]) -> list[str]:
    """Patterns that match no file under `folder`, and missing shards that an index of weights names."""
    from lib.core.documents import read_json

    missing = [
        pattern for pattern in chosen(needed, lambda one: any(folder.glob(one))) if not any(folder.glob(pattern))
    ]
    for index in folder.glob("**/*.safetensors.index.json"):
        shards = {index.parent / name for name in read_json(index, "an index of weights", _Index).weight_map.values()}
        missing += sorted(shard.relative_to(folder).as_posix() for shard in shards if not shard.exists())
    return missing


def folder_revision(folder: Path) -> str:
    """ "sha256:..." over names and bytes of a folder's files; hidden ones and the card, README.md, do not count.

    Raises AugmentError where it holds none.
    """
    files = sorted(
        p for p in folder.rglob("*") if p.is_file() and p.name != "README.md" and not _hidden(p.relative_to(folder))
    )
    if not files:
        raise AugmentError(f"model folder {folder} holds no files: a checkpoint in Hugging Face form was expected")
    stats = [(path, path.stat()) for path in files]
    return _revision(folder, tuple((p.relative_to(folder).as_posix(), s.st_size, s.st_mtime_ns) for p, s in stats))


@contextlib.contextmanager
def reading(ref: ModelRef) -> Iterator[None]:
    """Around the loading of weights: what the libraries raise for a broken checkpoint becomes an AugmentError.

    A fault of the storage or too little memory passes as it is, so that it is tried again.
    """
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()  # weights on a disk load in a blink; downloads keep their bars
    try:
        with silent():
            yield
    except OSError as error:
        # transformers and diffusers raise a bare OSError for "this file is not what I expected"; real faults of the
        # storage carry an errno.
        if error.errno is not None or isinstance(error, ConnectionError):
            raise
        raise AugmentError(f"model {ref} cannot be loaded: {error}") from error
    except Exception as error:  # of garbage the libraries raise whatever comes, `tokenizers` a bare Exception
        if isinstance(error, AugmentError) or out_of_memory(error):
            raise
        raise AugmentError(f"model {ref} cannot be loaded: {type(error).__name__}: {error}") from error


@contextlib.contextmanager
def silent() -> Iterator[None]:
    """What the libraries say does not go between the lines of a run: while they load, of entries in a config.json that
    they do not know (SDXL's U-Net has those of its training), or a table of missing weights, which is an error here."""
    loggers = [logging.getLogger(name) for name in ("diffusers", "transformers")]
    levels = [one.level for one in loggers]
    for one in loggers:
        one.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for one, level in zip(loggers, levels, strict=True):
            one.setLevel(level)


def _folder(name: str, folder: Path) -> ModelRef:
    """A local model. One that this project trained must be as training left it."""
    revision = folder_revision(folder)
    try:
        noted = json.loads((folder / FACTS).read_bytes()).get("revision", revision)
    except (OSError, ValueError, AttributeError, RecursionError):
        noted = revision  # nothing noted: a folder from elsewhere
    if isinstance(noted, str) and noted != revision:
        raise AugmentError(
            f"model folder {folder} was altered since it was trained (it is {revision[:15]}, training noted "
            f"{noted[:15]}): restore or train it again, or remove {FACTS} from it if that was meant"
        )
    return ModelRef(name, revision, folder)


def _mini(member: str) -> Path:
    known = sorted(p.name for p in MINI.glob("*") if p.is_dir())
    if member not in known:  # a path, perhaps, that leads elsewhere
        have = ", ".join(known) or "none"
        raise AugmentError(
            f"models: mini has no model for {member!r:.200}: there is no folder data/models/mini/{member:.200} (there: "
            f"{have}); use `models: full`, a local folder (`model: FOLDER`), or `painter: copy-paste`"
        )
    return MINI / member


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


@lru_cache(maxsize=64)
def _revision(folder: Path, files: tuple[tuple[str, int, int], ...]) -> str:
    total = hashlib.sha256()
    for name, _, _ in files:
        total.update(f"{name}\0{file_digest(folder / name)}\n".encode())
    return f"sha256:{total.hexdigest()}"


def _split(model: str) -> tuple[str, str]:
    """ "org/name@revision" → ("org/name", "revision"), which is "main" where none is named."""
    name, _, revision = model.partition("@")
    return name, revision or "main"


def _hub_revision(model: str) -> str:
    """The commit that a hub id means now, by the hub, or else by its cache."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError, RevisionNotFoundError

    name, revision = _split(model)
    if _COMMIT.fullmatch(revision):
        return revision
    try:
        sha = HfApi().model_info(name, revision=revision, timeout=20).sha
    except (RepositoryNotFoundError, RevisionNotFoundError, HFValidationError) as error:
        raise AugmentError(
            f"model {model!r}: the hub has no such checkpoint, or it is gated and needs your login "
            f"(`hf auth login`): {first_line(error)}"
        ) from None
    except (OSError, transport_error()) as error:
        return _cached_revision(model, f"{type(error).__name__}: {first_line(error)}")
    assert sha is not None, f"the hub gave no commit for {model}"
    return sha


def _cached_revision(model: str, fault: str) -> str:
    """The commit in the hub's cache: of the branch, or of the only snapshot."""
    name, revision = _split(model)
    cache = cache_folder(name)
    pinned = cache / "refs" / revision
    if pinned.is_file():
        return pinned.read_text().strip()
    # A download by commit, which is how this project does it, leaves no branch name behind.
    snapshots = sorted(p.name for p in (cache / "snapshots").glob("*") if _COMMIT.fullmatch(p.name))
    if len(snapshots) == 1:
        return snapshots[0]
    several = f", which holds several commits: name one as {name}@COMMIT" if snapshots else ""
    raise AugmentError(f"model {model!r}: the hub did not answer ({fault}), nor is it in {cache}{several}; {OFFLINE}")


def _why_missing(folder: Path, missing: Sequence[str]) -> str:
    wanted = [name for name in missing if name.endswith(".safetensors")]
    pickles = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*.bin"))
    if wanted and pickles:
        return f"; {pickles[0]} is a pickle, which is never loaded: convert it with safetensors.torch.save_file"
    return "; is the download or the copy complete?"


AGAIN = "copy or download it again"


def renamed(name: str, former: Mapping[str, str]) -> str:
    """A weight's name of today, "a.new.bias" of "a.old.bias"; former: {"old": "new"}, names of modules between dots."""
    return ".".join(former.get(part, part) for part in name.split("."))


def load_whole(kind: Any, folder: Path, **options: Any) -> Any:
    """`kind.from_pretrained` of safetensors. Raises ValueError where tensors are missing in the file, which the
    libraries fill with random numbers, or leave without any.

    kind: a model's class of diffusers or transformers; options: its own.
    """
    return _whole(
        folder, options, *kind.from_pretrained(folder, use_safetensors=True, output_loading_info=True, **options)
    )


def load_rounded(kind: Any, folder: Path, weights: Path, **options: Any) -> Any:
    """As `load_whole`, a class of transformers from a file of any name, its numbers rounded to half precision first.

    So the file and its twin in half precision give equal bits, in whichever type the model then computes.
    """
    import safetensors.torch

    state = safetensors.torch.load_file(weights)
    state = {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in state.items()}
    config = kind.config_class.from_pretrained(folder)
    made = kind.from_pretrained(None, config=config, state_dict=state, output_loading_info=True, **options)
    return _whole(folder, options, *made)


def _whole(folder: Path, options: Mapping[str, Any], model: Any, report: Mapping[str, Any]) -> Any:
    missing = sorted(report["missing_keys"])
    if missing:
        place = options.get("subfolder") or folder.name
        named = f"{', '.join(missing[:3])}{', …' if len(missing) > 3 else ''}"
        raise ValueError(f"its weights lack {len(missing)} tensors ({named}) in {place}; {AGAIN}")
    return model
