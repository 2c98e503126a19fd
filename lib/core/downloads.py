"""Files of the hub: which of them a model needs, how large they are, and where they lie on this machine.

    folder = fetch("org/name", commit, [("x.fp16.safetensors", "x.safetensors"), "config.json"], ["*.txt"])

Before a download begins, its size and place are logged, and a disk that is too small is refused. What a kill or a fault
of the network leaves of a file is gone on with by the next try (the hub's client does that).
"""

from __future__ import annotations

import fnmatch
import logging
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from lib.core.errors import AugmentError
from lib.core.storage import free_space
from lib.core.words import size_in_words

OFFLINE = "without a network, give a local folder (`model: FOLDER`), use `models: mini`, or a painter that needs no \
model (`painter: copy-paste`)"

Needed = str | tuple[str, ...]  # a file or pattern; or several names, of which the first one that exists is meant

LOG = logging.getLogger("augment.downloads")


def chosen(needed: Sequence[Needed], *exists: Callable[[str], bool]) -> list[str]:
    """One pattern for each choice: the first that exists, else its last. Of several places the first one counts."""
    tuples = [(one,) if isinstance(one, str) else one for one in needed]
    return [next((name for there in exists for name in names if there(name)), names[-1]) for names in tuples]


def fetch(
    name: str, revision: str, needed: Sequence[Needed], also: Sequence[str] = (), never: Sequence[str] = ()
) -> Path:
    """The folder of a pinned commit in the hub's cache, downloaded where files are missing; they never change.

    name: "org/name"; revision: a commit; needed, also, never: as for lib.core.checkpoints.local_path. Raises
    AugmentError where the hub refuses or the disk is too small, ConnectionError where the next try may work.
    """
    place = cache_folder(name)
    snapshot = place / "snapshots" / revision
    files = _listed(name, revision)
    names = chosen(needed, lambda one: any(snapshot.glob(one)), lambda one: bool(fnmatch.filter(files, one)))
    patterns = [*names, *also]
    wanted = {file for one in patterns for file in fnmatch.filter(files, one)}
    wanted -= {file for one in never for file in fnmatch.filter(files, one)}
    _announce(name, {file: files[file] for file in wanted if not (snapshot / file).exists()}, place)
    return _downloaded(name, revision, patterns, never, place)


def absent(name: str, revision: str, needed: Sequence[Needed]) -> list[str]:
    """Patterns that match no file of a pinned commit, neither on the hub nor in its cache; none where the hub does not
    say. Nothing is downloaded; name, revision, needed: as for `fetch`."""
    snapshot, files = cache_folder(name) / "snapshots" / revision, _listed(name, revision)
    if not files:
        return []

    def exists(one: str) -> bool:
        return bool(fnmatch.filter(files, one)) or any(snapshot.glob(one))

    return [one for one in chosen(needed, exists) if not exists(one)]


def cache_folder(name: str) -> Path:
    """Where the hub's client keeps the files of "org/name"."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE) / f"models--{name.replace('/', '--')}"


def _listed(name: str, revision: str) -> dict[str, int]:
    """The commit's files with their sizes, bytes, as noted by the hub's client, else by the hub; none where neither
    says: then the download will say why."""
    from huggingface_hub import HfApi, RepoFile, constants, get_cached_repo_tree
    from huggingface_hub.errors import CachedRepoTreeNotFoundError

    if constants.HF_HUB_OFFLINE:
        return {}
    try:
        try:
            tree: Iterable[Any] = get_cached_repo_tree(name, revision=revision)
        except CachedRepoTreeNotFoundError:
            tree = HfApi().list_repo_tree(name, recursive=True, revision=revision)
        return {one.path: one.size or 0 for one in tree if isinstance(one, RepoFile)}
    except (OSError, ValueError, transport_error()):
        return {}


def _announce(name: str, files: dict[str, int], place: Path) -> None:
    """Say what is about to be downloaded. Raises AugmentError where the disk has no room for it."""
    total, free = sum(files.values()), free_space(place)
    if total > free:
        raise AugmentError(
            f"model {name}: {size_in_words(total)} are to be downloaded, and the disk of {place} has "
            f"{size_in_words(free)} left: make room, or set HF_HOME to a folder on another disk"
        )
    if files:
        LOG.info("downloading %s of model %s (%d files) to %s", size_in_words(total), name, len(files), place)


def _downloaded(name: str, revision: str, patterns: list[str], never: Sequence[str], place: Path) -> Path:
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

    model = f"{name} ({revision[:15]})"
    try:
        left_out = list(never)
        return Path(
            snapshot_download(name, revision=revision, allow_patterns=patterns, ignore_patterns=left_out or None)
        )
    except RepositoryNotFoundError as error:
        what = f"model {model} cannot be downloaded: {first_line(error)}"
        raise AugmentError(f"{what}; is it gated? `hf auth login`") from None
    except LocalEntryNotFoundError as error:
        if constants.HF_HUB_OFFLINE:
            raise AugmentError(
                f"model {model} is not complete in {place}, and HF_HUB_OFFLINE is set; {OFFLINE}"
            ) from None
        raise ConnectionError(
            f"model {model} is not complete in {place}, and the hub did not answer: {error}"
        ) from error
    except HfHubHTTPError as error:
        if error.response.status_code in (401, 403, 404):
            raise AugmentError(f"model {model} cannot be downloaded: {first_line(error)}") from None
        raise ConnectionError(f"model {model}: {first_line(error)}") from error
    except transport_error() as error:
        raise ConnectionError(f"model {model}: {type(error).__name__}: {first_line(error)}") from error


def transport_error() -> type[Exception]:
    """HTTPError of the httpx that the hub's client uses: unlike the hub's errors, it is not an OSError."""
    from huggingface_hub.errors import HfHubHTTPError

    base = HfHubHTTPError.__bases__[0]
    assert issubclass(base, Exception), base
    return base


def first_line(error: Exception) -> str:
    """Of what an error says."""
    return str(error).strip().partition("\n")[0]
