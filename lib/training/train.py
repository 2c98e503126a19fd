"""One model trained: from its newest checkpoint if it has one, into its folder, with its facts beside it.

settings = TRAINERS["vae"].Settings(steps=5000)
train_model("vae", settings, pictures, 128, Path("models"), Path("work"))     # → models/vae
finished_model("vae", settings, 128, Path("models"))                          # its facts; None: work is left
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np

from lib.core.checkpoints import FACTS, folder_revision, resolve
from lib.core.errors import AugmentError, checked
from lib.core.files import atomic_write
from lib.core.keys import key_of
from lib.records.kept import conforms
from lib.records.settings import TrainSettings
from lib.training import MINI, TRAINERS
from lib.training.windows import TrainingPicture

if TYPE_CHECKING:
    from lib.training.loop import LoopSettings, Objective, Progress, Trained

_HOW_LONG = ("steps", "checkpoint_minutes", "precision")  # settings that may differ from a finished model's


def check_training(values: dict[str, Any]) -> TrainSettings:
    """Parameters of the flow `train` from plain values; raises AugmentError that names the wrong one."""
    given = checked(TrainSettings, values)
    for name in dict.fromkeys([*(given.models or MINI), *given.settings]):
        settings_of(given, name)
    return given


def settings_of(given: TrainSettings, name: str) -> Any:
    """The settings of one trainer, checked; raises AugmentError for an unknown trainer or setting."""
    return TRAINERS.settings(name, {"seed": given.seed, **given.settings.get(name, {})})


def train_model(
    name: str,
    settings: LoopSettings,
    pictures: Sequence[TrainingPicture],
    size: int,
    models: Path,
    work: Path,
    start: Path | None = None,
    data: str = "",
    watch: Callable[[Progress], object] = lambda progress: None,
    look: Callable[[np.ndarray], object] = lambda sheet: None,
    terms: str = "",
    sources: Sequence[str] = (),
) -> Trained:
    """Train one model, from its newest checkpoint in work/NAME if one exists, and put it into models/NAME.

    start: an earlier folder of models to begin from, where it holds one of this name; data: what the pictures are, a
    digest or a name, for the card and so that a checkpoint of other data is refused; look: shown a sheet, (H, W, 3)
    uint8, now and then and at the end; terms: of the pictures' use, for the card; sources: digests of the pictures'
    files, so that others can see what the model learned from.
    Raises AugmentError for too few pictures, pictures without boxes, a missing model among the trainer's NEEDS, and
    for what `lib.training.loop.train` raises.
    """
    import torch

    from lib.training.card import both_terms, rounds_of
    from lib.training.loop import train

    trainer = TRAINERS[name]
    check_pictures(pictures)
    needs, begun = _before(name, settings, models, start)
    identity = _identity(name, size, data, needs, begun)
    before = start / name if begun and start else None
    fixed = _fixed(name, settings, models, work, identity, begun)
    torch.manual_seed(settings.seed)
    objective = trainer.objective(settings, pictures, size, models, before, work)
    earlier = read_facts(before) if before else {}
    done = train(objective, work / name, settings, identity, watch, lambda: look(objective.sheet()), fixed)
    look(objective.sheet())
    facts = {
        "trainer": name,
        "identity": identity,
        "data": data,
        "terms": both_terms(earlier.get("terms", ""), terms),
        "pictures": len(pictures),
        "sources": [digest[:16] for digest in sources],
        "size": size,
        "steps": done.steps,
        "seconds": round(done.seconds),
        "device": done.device,
        "hardware": _hardware(done.device),
        "precision": done.precision,
        "settings": settings.model_dump(mode="json"),
        "needs": needs,
        "start": begun,
        "rounds": rounds_of(earlier) if before else [],
        "history": done.history,
    }
    _place(objective, models / name, facts)
    return done


def finished_model(
    name: str, settings: LoopSettings, size: int, models: Path, start: Path | None = None, data: str = ""
) -> dict[str, Any] | None:
    """Facts of the model in models/NAME where `train_model` with these arguments has nothing left to do; else None.

    A model whose files are not those that training left is written again from its checkpoint. Raises AugmentError for
    a missing model among the trainer's NEEDS, and where the model is trained far enough, but with other settings:
    training it again is for a person to ask for.
    """
    facts = read_facts(models / name)
    if not facts.keys() >= _Facts.__annotations__.keys() or facts["steps"] < settings.steps:
        return None
    if facts.get("identity") != _identity(name, size, data, *_before(name, settings, models, start)):
        return None
    try:
        if folder_revision(models / name) != facts.get("revision"):
            return None
    except AugmentError:  # no files at all
        return None
    wanted, had = settings.model_dump(mode="json"), facts["settings"]
    changed = [key for key in wanted if key in had and key not in _HOW_LONG and had[key] != wanted[key]]
    if changed:
        differences = ", ".join(f"{key} {had[key]} instead of {wanted[key]}" for key in changed)
        raise AugmentError(
            f"model {models / name} was trained with {differences}: name another workspace, or remove it and its "
            "checkpoints"
        )
    return facts


class _Facts(TypedDict, total=False):
    """The facts of `train_model` that are read again."""

    identity: str
    revision: str
    steps: int
    seconds: float
    settings: dict[str, Any]
    history: list[dict[str, float]]


def read_facts(folder: Path) -> dict[str, Any]:
    """The facts that `train_model` wrote beside a model; empty where none are readable."""
    with contextlib.suppress(OSError, ValueError, RecursionError):
        facts = json.loads((folder / FACTS).read_bytes())
        if conforms(facts, _Facts):
            return dict(facts)
    return {}


def check_order(names: Sequence[str], models: Path) -> None:
    """Raise AugmentError for an unknown or doubled name, or one whose NEEDS neither stand before it nor in `models`."""
    for place, name in enumerate(names):
        if name in names[:place]:
            raise AugmentError(f"models {list(names)}: {name!r} is listed twice, and is trained once")
        missing = [n for n in TRAINERS[name].NEEDS if n not in names[:place] and not (models / n).is_dir()]
        if missing:
            raise AugmentError(
                f"trainer {name!r} needs {', '.join(missing)}, neither named before it nor in {models}: name "
                f"{'it' if len(missing) == 1 else 'them'} first (the order of all is {', '.join(TRAINERS)})"
            )


def check_places(models: Path, work: Path, names: Sequence[str]) -> None:
    """Raise AugmentError where models/NAME, which training replaces, is a link, or comes from elsewhere.

    work: the folder of checkpoints, which show that a model with damaged facts is of this training.
    """
    for name in names:
        folder = models / name
        ours = read_facts(folder).get("trainer") == name or any((work / name).glob("*.safetensors"))
        if folder.is_symlink() or (folder.exists() and any(folder.iterdir()) and not ours):
            fault = f"is a link to {folder.resolve()}" if folder.is_symlink() else "was not made by a training"
            raise AugmentError(f"model {folder} {fault}, and would be replaced: move it away, or set another `output`")


def check_pictures(pictures: Sequence[TrainingPicture]) -> None:
    """Raise AugmentError where nothing can be learned from the pictures."""
    if len(pictures) < 2:
        raise AugmentError(f"{len(pictures)} pictures to train on: at least 2 are needed, better thousands")
    if not any(len(picture.things) for picture in pictures):
        raise AugmentError(f"none of {len(pictures)} pictures has a usable box: training needs boxes with categories")


def _before(name: str, settings: Any, models: Path, start: Path | None) -> tuple[dict[str, str], str]:
    """Revisions of the trainer's NEEDS in `models` and of what else it is made from; and of the model to begin from, ""
    without one."""
    trainer = TRAINERS[name]
    missing = [need for need in trainer.NEEDS if not (models / need).is_dir()]
    if missing:
        raise AugmentError(f"trainer {name!r} needs {', '.join(missing)}, not in {models}: train that first")
    begun = resolve(str(start / name), {}).revision if start is not None and (start / name).is_dir() else ""
    needs = {need: resolve(str(models / need), {}).revision for need in trainer.NEEDS}
    before = start / name if begun and start else None
    return needs | (trainer.made_from(settings, before) if hasattr(trainer, "made_from") else {}), begun


def _fixed(name: str, settings: LoopSettings, models: Path, work: Path, identity: str, begun: str) -> dict[str, Any]:
    """Settings that no resume may change; none where a model to begin from decides on them.

    Raises AugmentError where the model of the checkpoints was trained with others: checkpoints of former versions do
    not say it themselves.
    """
    from lib.training.loop import check_fixed

    names = () if begun else getattr(TRAINERS[name], "FIXED", ())
    fixed = {one: getattr(settings, one) for one in names}
    facts = read_facts(models / name)
    if facts.get("identity") == identity and any((work / name).glob("*.safetensors")):
        check_fixed(f"model {models / name}", facts["settings"], fixed)
    return fixed


def _identity(name: str, size: int, data: str, needs: dict[str, str], begun: str) -> str:
    """What the weights depend on, but for settings, which a person may change on the way."""
    return key_of("training", name, TRAINERS[name].VERSION, size, data, needs, begun)


def _hardware(device: str) -> str:
    """ "NVIDIA H200, 16 CPU cores"."""
    import torch

    cores = f"{os.cpu_count()} CPU cores"
    return f"{torch.cuda.get_device_name(device)}, {cores}" if device.startswith("cuda") else cores


def _place(objective: Objective, folder: Path, facts: dict[str, Any]) -> None:
    """Write the model beside its place and exchange the two: nobody ever sees half a model."""
    from safetensors import SafetensorError

    from lib.training.card import write_card

    fresh, old = folder.with_name(f".tmp-{folder.name}"), folder.with_name(f".tmp-{folder.name}-old")
    try:
        # By its name: a killed one is replaced by the next.
        for path in (fresh, old):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
        fresh.mkdir(parents=True)
        _save(objective, fresh)
        noted = facts | {"revision": folder_revision(fresh)}  # by which an altered file is found out
        atomic_write(fresh / FACTS, json.dumps(noted, indent=1).encode())
        write_card(fresh)
        for path in fresh.rglob("*"):
            if path.is_file():
                path.chmod(0o644)  # some libraries write for their user alone
        if folder.exists():
            folder.rename(old)
            fresh.rename(folder)
            shutil.rmtree(old)
        else:
            fresh.rename(folder)
    except (OSError, SafetensorError) as error:  # the latter for a full disk too
        why = getattr(error, "strerror", None) or error
        raise AugmentError(f"model {folder} cannot be written ({why}): make room and start again") from None
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _save(objective: Objective, folder: Path) -> None:
    """objective.save; a full disk, which the library tokenizers reports by a bare Exception, is an OSError."""
    try:
        objective.save(folder)
    except Exception as error:
        if "os error" not in str(error):
            raise
        raise OSError(str(error)) from None
