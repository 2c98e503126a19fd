"""Export of a run: its final set, with what its workspace says of how it was made.

result = export_run(Path("data/runs/mine"), "yolo", Path("mine-yolo"))
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import msgspec

from lib.captioning.captioners import CAPTIONERS
from lib.core.checkpoints import FACTS, MINI, NOT_PUBLISHED, model_of
from lib.core.errors import AugmentError
from lib.core.registry import Family, licence_of
from lib.datasets.coco_file import CocoFile
from lib.datasets.export import EXPORTERS
from lib.datasets.export.card import ModelTerms, Provenance
from lib.datasets.export.export import Exported, export
from lib.datasets.export.final_set import read_final_set
from lib.datasets.export.folder import room_beside
from lib.datasets.names import BESIDE
from lib.painting.painters import PAINTERS
from lib.records import kept
from lib.records.manifest import read_batches
from lib.records.outputs import FILES, FOLDERS, lies_in, noted_files
from lib.records.rows import OK, FinalRow
from lib.records.settings import Choice
from lib.records.shelf import Shelf
from lib.runs.account import held
from lib.runs.parameters import Resolved

Advance = Callable[[int], object]


def export_run(
    root: Path, format: str, out: Path | None = None, advance: Callable[[int, int], object] = lambda done, total: None
) -> Exported:
    """Write the final set of the workspace `root` in a format, into `out` or ROOT/export/FORMAT.

    advance: receives (pictures done, of all). Raises AugmentError for an unknown format, for a workspace without a
    final set or in use, and for an `out` where an export may not write.
    """
    EXPORTERS[format]  # an unknown one, before anything is read
    out = (out or root / "export" / format).absolute()
    if held(root):
        raise AugmentError(f"workspace {root} is in use by a run: wait for its end, then export")
    settings = settings_of(root)
    check_place(out, root, settings)
    training = settings.select.split if settings else "train"
    otherwise, meanwhile = _only_split(root, settings), room_beside(out)
    digests, splits = _digests(root, meanwhile), _splits(root / "final", meanwhile)
    data = read_final_set(root / "final", digests, training, splits, otherwise, meanwhile)
    total, done = sum(map(len, data.splits.values())), 0

    def step(count: int) -> None:
        nonlocal done
        done += count
        advance(done, total)

    return export(data, format, out, _provenance(root, settings), step)


def settings_of(root: Path) -> Resolved | None:
    """The parameters of the workspace's last run; None where they cannot be read, which costs a part of the card."""
    with contextlib.suppress(AugmentError, ValueError):
        values = kept.read(root / "settings.json", dict[str, Any])
        return None if values is None else Resolved.model_validate(values)
    return None


def check_place(out: Path, root: Path, settings: Resolved | None) -> None:
    """Raise AugmentError where an export would lie among a run's outputs or in its data set.

    settings: of `settings_of`.
    """
    for name in (*FOLDERS, *FILES):
        if lies_in(out, root / name):
            raise AugmentError(f"{out} lies in {root / name}, which runs write: give another folder as --out")
    if lies_in(root, out):
        raise AugmentError(f"{out} holds the workspace {root}: give another folder as --out")
    base = base_of(root, settings.workspace) if settings else Path()
    sources = [settings.dataset.images, settings.dataset.annotations] if settings else []
    for source in (base / path for path in sources if path):
        if lies_in(out, source):
            raise AugmentError(f"{out} lies in the data set {source}: give another folder as --out")
        if lies_in(source, out):
            raise AugmentError(f"{out} holds the data set {source}: give another folder as --out")


def base_of(root: Path, workspace: Path) -> Path:
    """The folder that the run's relative paths started from, where its workspace shows it; else the current one."""
    parts = workspace.parts
    if not workspace.is_absolute() and root.absolute().parts[-len(parts) :] == parts:
        return root.absolute().parents[len(parts) - 1]
    return Path()


# --- the final set's files ---------------------------------------------------------------------------------------


def _digests(root: Path, meanwhile: Path) -> Shelf[str]:
    """SHA-256 of the pictures as the run wrote them, by file name; none where its manifest is gone."""
    found = Shelf[str](meanwhile)
    try:
        for rows in read_batches(root / "manifests" / "finalise.parquet", FinalRow, ("status", "file_name", "sha256")):
            rows = rows[rows.status == OK]
            found.put(zip(rows.file_name, rows.sha256, strict=True))
    except AugmentError:
        return Shelf[str](meanwhile)
    return found


class _Image(msgspec.Struct):
    id: msgspec.Raw
    split: Any = None


def _splits(final: Path, meanwhile: Path) -> Shelf[str]:
    """A picture's split by the JSON text of its id: final/annotations-SPLIT.json lists them where there are several."""
    found = Shelf[str](meanwhile)
    with contextlib.suppress(AugmentError):
        for name in noted_files(final):
            match = re.fullmatch(r"annotations-(.+)\.json", name, re.DOTALL)
            if match and name not in BESIDE:
                own = Shelf[str](meanwhile)  # all of a file or, where it is damaged, none
                own.put((bytes(image.id).decode(), unquote(match[1])) for image in _images(final / name))
                found.put(own.items())
    return found


def _images(file: Path) -> Iterator[_Image]:
    try:
        yield from CocoFile(file).records("images", _Image)
    except FileNotFoundError:
        raise AugmentError(f"{file} not found: run to the end first, which writes it") from None


def _only_split(root: Path, settings: Resolved | None) -> str:
    """The split of a set that has no more than one."""
    given = settings.dataset.split if settings else None
    if given not in (None, "official"):
        return str(given)
    named = {image.split for image in _images(root / "final" / "annotations.json")}
    (only,) = named if len(named) == 1 else (None,)
    return only if isinstance(only, str) and only else "train"


# --- how it was made ---------------------------------------------------------------------------------------------


def _provenance(root: Path, settings: Resolved | None) -> Provenance:
    name = _run_name(root)
    if settings is None:
        return Provenance(name, {}, (), None)
    steps = {
        "preset": settings.preset,
        **{kind: _shown(getattr(settings, kind)) for kind in ("edit", "painter", "composite", "captioner")},
        "seed": str(settings.seed),
        "variants": "as many as its target took" if settings.target else str(settings.variants),
    }
    lock: Mapping[str, str] = {}
    with contextlib.suppress(AugmentError):
        lock = kept.read(root / "models.lock", dict[str, str]) or {}
    models = [
        _member_terms(kind, family, getattr(settings, kind), settings.models, lock)
        for kind, family in (("painter", PAINTERS), ("captioner", CAPTIONERS))
    ]
    judge = settings.screen.judge
    judged = [_terms("judge", judge, "not known", lock)] if judge else []
    return Provenance(name, steps, [model for model in (*models, *judged) if model], settings.dataset)


def _run_name(root: Path) -> str:
    with contextlib.suppress(AugmentError):
        account = kept.read(root / "status.json", dict[str, Any])
        if account and isinstance(account.get("run"), str):
            return str(account["run"])
    return root.name


def _shown(choice: Choice) -> str:
    values = ", ".join(f"{name} {value}" for name, value in choice.values.items() if name != "model")
    return f"{choice.name} ({values})" if values else choice.name


def _member_terms(kind: str, family: Family, choice: Choice, models: str, lock: Mapping[str, str]) -> ModelTerms | None:
    """Of the member's checkpoint; None where it has none."""
    try:
        member = family[choice.name]
        text = model_of(choice.name, member, family.settings(choice.name, choice.values), models)
    except AugmentError:
        return ModelTerms(kind, choice.name, "not known", "")
    if text is None:
        return None
    licence = "not known" if member.MODEL == NOT_PUBLISHED else licence_of(member, text)
    return _terms(kind, text, licence, lock)


def _terms(kind: str, text: str, licence: str, lock: Mapping[str, str]) -> ModelTerms:
    """licence: of a checkpoint of the hub; the card in a folder says more. Nothing is hashed: a folder may be any."""
    mini = re.fullmatch(r"mini:([\w-]+)", text)
    folder = MINI / mini[1] if mini else Path(os.path.expanduser(text))  # noqa: PTH111
    if not mini and not os.path.isdir(folder):  # noqa: PTH112
        return ModelTerms(kind, f"{text} {lock.get(text, '')[:15]}".strip(), licence, "")
    found, terms = _read_card(_head(folder / "README.md"))
    name = f"{text if mini else folder.name} {_noted_revision(_head(folder / FACTS))[:15]}"
    return ModelTerms(kind, name.strip(), found or licence, terms)


def _head(file: Path) -> bytes:
    """The beginning of a file; empty where it is none."""
    if not os.path.isfile(file):  # noqa: PTH113
        return b""
    with contextlib.suppress(OSError), file.open("rb") as opened:
        return opened.read(_HEAD)
    return b""


_HEAD = 1_000_000  # bytes; cards and facts have a few thousand


class _Facts(msgspec.Struct):
    revision: str = ""


def _noted_revision(facts: bytes) -> str:
    with contextlib.suppress(msgspec.MsgspecError, ValueError):
        return msgspec.json.decode(facts, type=_Facts).revision
    return ""


def _read_card(card: bytes) -> tuple[str, str]:
    """(licence, terms of its data) as a model's own card has them; "" where it says nothing."""
    text = card.decode("utf-8", errors="replace")
    section = re.search(r"^## Licen[cs]e\s*\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    front = re.match(r"---\n.*?^license:\s*(\S+)", text, re.MULTILINE | re.DOTALL)
    rows = re.findall(r"^\| (?:data|terms of the data) \|(.*)\|\s*$", text, re.MULTILINE)
    told = " ".join((section[1] if section else front[1] if front else "").split())
    return told.replace("*", ""), "; ".join(row.strip() for row in rows)
