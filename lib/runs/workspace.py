"""A workspace: held by one at a time, with the checkpoints pinned that its results are made by.

with locked(root, inputs_of(settings)):
    recipe = recipe_of(settings, Pins(root / "models.lock"))
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated

import msgspec
from filelock import FileLock, Timeout

from lib.captioning.captioners import CAPTIONERS
from lib.core.checkpoints import ModelRef, resolve, weights_of
from lib.core.errors import AugmentError
from lib.core.mirror import held
from lib.core.places import url_of
from lib.core.registry import Family, Member
from lib.core.storage import explained
from lib.evaluation.detectors import DETECTORS
from lib.painting.composites import COMPOSITES
from lib.painting.painters import PAINTERS
from lib.planning.edits import EDITS
from lib.planning.recipe import Recipe
from lib.records import kept
from lib.records.outputs import check_workspace, remove_temporary
from lib.records.settings import Choice
from lib.runs.parameters import Resolved

_log = logging.getLogger("augment.bucket")
_INSTANT = 0.2  # seconds: as long as somebody may look whether the workspace is held


@contextlib.contextmanager
def locked(
    root: Path,
    inputs: Mapping[str, Path] | None = None,
    more: Iterable[Path] = (),
    readable: Collection[str] = (),
    models: Collection[str] = (),
) -> Iterator[None]:
    """A workspace for this process alone, across machines where it lies in a bucket or on a disk that they share, swept
    of what a killed run left half written.

    inputs, more, readable: as records.outputs.check_workspace, which comes before anything is written; models: names of
    the trainers that write into it.

    Raises AugmentError as that does, where another run holds the workspace, or where it cannot be written.
    """
    check_workspace(root, inputs or {}, more, readable)
    try:
        root.mkdir(parents=True, exist_ok=True)
        lock = FileLock(root / ".lock", timeout=_INSTANT).acquire()
    except Timeout:
        raise AugmentError(
            f"workspace {root} is in use by another run: wait for it, or set another workspace"
        ) from None
    except OSError as error:
        why, file = error.strerror or error, root / ".lock"
        if file.is_symlink() or file.is_dir():
            raise AugmentError(f"{file} is not a file ({why}), so no run can hold its workspace: remove it") from None
        raise AugmentError(f"workspace {root} cannot be written ({why}): set `workspace` to another folder") from None
    with lock, explained(root), held(root, _log.warning):
        if url_of(root):
            check_workspace(root, inputs or {}, more, readable)  # again: now the copy of the bucket is up to date
        _sweep(root, models)
        yield


def _sweep(root: Path, models: Collection[str]) -> None:
    """Remove what a killed run left half written; the lock is ours, so nobody is writing."""
    status = root / "status.json"
    if status.is_file() and b'"state": "completed"' in status.read_bytes():
        return  # a walk through a large store takes its time
    remove_temporary(root, models)


_Commit = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{40}\Z")]  # a branch or a pull request could change


class Pins:
    """models.lock: revisions, resolved at the first plan and kept until the file is removed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.pinned = kept.read(path, dict[str, _Commit], "remove it to pin the checkpoints anew") or {}

    def seal(self) -> None:
        """Write a file of a former version with its digest."""
        if self.pinned and not kept.sealed(self.path):
            kept.write(self.path, self.pinned)

    def resolve(self, model: str) -> ModelRef:
        """As lib.core.checkpoints.resolve; what it finds of a hub id is pinned."""
        ref = resolve(model, self.pinned)
        # A folder's revision is its files' digest: there is nothing to pin.
        if ref.path is None and self.pinned.get(ref.id) != ref.revision:
            self.pinned[ref.id] = ref.revision
            kept.write(self.path, dict(sorted(self.pinned.items())))
        return ref


def captioner_of(settings: Resolved, pins: Pins) -> Member:
    """The captioner with its checkpoint pinned; raises AugmentError for a wrong setting, or a missing checkpoint."""
    return _member(CAPTIONERS, settings.captioner, settings, pins)


def recipe_of(settings: Resolved, pins: Pins) -> Recipe:
    """Edit, painter and composite with the painter's checkpoint pinned; raises AugmentError as `captioner_of`."""
    return Recipe(
        edit=EDITS.member(settings.edit.name, settings.edit.values),
        painter=_member(PAINTERS, settings.painter, settings, pins),
        composite=COMPOSITES.member(settings.composite.name, settings.composite.values),
    )


def judge_of(settings: Resolved, pins: Pins) -> ModelRef | None:
    """The model that judges boxes, pinned; None where no judge is set."""
    return pins.resolve(settings.screen.judge) if settings.screen.judge else None


def detector_of(settings: Resolved, pins: Pins) -> Member | None:
    """The detector that looks for objects without a label, its checkpoint pinned; None where none is set."""
    choice, model = settings.screen.detector, unlabelled_model(settings)
    if choice is None or model is None:
        return None
    return DETECTORS.member(choice.name, choice.values, pins.resolve(model))


def unlabelled_model(settings: Resolved) -> str | None:
    """The checkpoint of that detector; None where none is set. Raises AugmentError for wrong settings, or no model."""
    choice = settings.screen.detector
    if choice is None:
        return None
    model = getattr(DETECTORS.settings(choice.name, choice.values), "model", None) or DETECTORS[choice.name].MODEL
    if model is None:
        raise AugmentError(
            f"screen.unlabelled.detector {choice.name!r} has no published checkpoint: give a folder with its weights, "
            f"{{name: {choice.name}, model: FOLDER}}"
        )
    return str(model)


def _member(family: Family, choice: Choice, settings: Resolved, pins: Pins) -> Member:
    """A member with its checkpoint pinned, where it needs one."""
    values = family.settings(choice.name, choice.values)
    weights = weights_of(choice.name, family[choice.name], values, settings.models)
    return family.member(choice.name, choice.values, **{name: pins.resolve(text) for name, text in weights.items()})
