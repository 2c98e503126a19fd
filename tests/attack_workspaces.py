"""Finished workspaces with files damaged, each kind of file that a walk finds, and run again.

What must hold: the run ends completed with the same final set, nothing is painted again but what was lost, nothing
outside is touched, and no byte of the workspace is run as code. Where only a person can restore a file, one sentence
names it and what to do, and doing that heals it.
"""

from __future__ import annotations

import base64
import contextlib
import gc
import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any
from unittest import mock

import attack_mutations as mutations
from attacks import Attack, Fault, check_error, difference, files_of, fresh
from conftest import MadeSet

# --- workspaces ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Made:
    """A finished run, and its files as they were."""

    run: Callable[..., Any]  # → the state that the flow ends in; raises what is a fault
    root: Path
    results: tuple[str, ...]  # folders in it that are the result
    pristine: Path  # a copy of root
    files: dict[str, list[str]]  # kind of file → its files
    counts: Callable[[str], bool]  # is a file of the results, by name, one that must not change?

    @classmethod
    def of(
        cls,
        run: Callable[..., Any],
        root: Path,
        results: tuple[str, ...],
        counts: Callable[[str], bool] = lambda name: True,
    ) -> Made:
        """Run it, and look at what is there."""
        state = run()
        if not state.is_completed():
            raise Fault(f"the run to attack does not even end: {state.message}")
        pristine = root.with_name(root.name + " pristine")
        shutil.copytree(root, pristine, symlinks=True)
        files: dict[str, list[str]] = {}
        for path in sorted(p for p in root.rglob("*") if p.is_file()):
            name = path.relative_to(root).as_posix()
            files.setdefault(kind_of(name), []).append(name)
        return cls(run, root, results, pristine, files, counts)

    def restore(self) -> None:
        """As it was after the run, times of the files included."""
        forget()
        shutil.rmtree(self.root)
        shutil.copytree(self.pristine, self.root, symlinks=True)

    def result(self, root: Path | None = None) -> dict[str, bytes]:
        """What must not change."""
        folder = root or self.root
        found = {f"{one}/{name}": data for one in self.results for name, data in files_of(folder / one).items()}
        return {name: data for name, data in found.items() if self.counts(name)}


def kind_of(name: str) -> str:
    """A file's name without what differs between two of a kind: keys, numbers."""
    parts = [
        "#" if re.fullmatch(r"[0-9a-f]{2,}", part) else re.sub(r"[0-9a-f]{8,}|\d+", "0", part)
        for part in name.split("/")
    ]
    return "/".join(parts)


def forget() -> None:
    """Empty what the program keeps of files in memory: every run is as if in a new process."""
    for name, module in list(sys.modules.items()):
        if name.split(".")[0] in ("lib", "tasks", "flows"):
            for value in vars(module).values():
                if isinstance(cache := getattr(value, "cache", None), dict) or hasattr(cache, "maxsize"):
                    cache.clear()
                elif callable(clear := getattr(value, "cache_clear", None)):
                    clear()
    gc.collect()


def _augment(root: Path, made: MadeSet, **values: Any) -> Callable[..., Any]:
    from flows.augment import augment

    given = {"dataset": made.dataset, "workspace": root, **values}
    return lambda **more: augment.fn(**given, **more)


def _copies(folder: Path) -> Made:
    """Everything that needs no model."""
    made = MadeSet(folder / "data" / "made", 4)
    for i, image in enumerate(made.coco["images"]):
        image["split"] = "val" if i == 3 else "train"
    made.write()
    values: dict[str, Any] = {"variants": 2, "finalise": {"yolo": True, "s3_pair": True}}
    values["dataset"] = made.dataset | {"split": "official"}
    return Made.of(_augment(folder / "ws", made, **values), folder / "ws", ("final",))


def _judged(folder: Path) -> Made:
    """New objects at places of others, captions by a model of the hub, boxes judged, JPEG."""
    from tiny import tiny_blip2, tiny_clip

    made = MadeSet(folder / "data" / "made", 4)
    snapshot = hub_cache(folder) / "models--attacked--tiny" / "snapshots" / ("a" * 40)
    tiny_blip2(snapshot)
    values: dict[str, Any] = {
        "edit": "insert",
        "caption": {"captioner": {"name": "blip2", "model": "attacked/tiny"}},
        "screen": {"black": 0, "blank": 0, "boxes": {"judge": str(tiny_clip(folder / "data" / "clip")), "least": 1}},
        "finalise": {"format": "jpeg", "originals": "selected"},
    }
    return Made.of(_augment(folder / "ws", made, **values), folder / "ws", ("final",))


def _layouts(folder: Path) -> Made:
    """Whole pictures painted by a model, for layouts that are drawn from the data."""
    from tiny import tiny_stay

    made = MadeSet(folder / "data" / "made", 3)
    model = tiny_stay(folder / "data" / "stay", categories=MadeSet.CATEGORIES)
    values: dict[str, Any] = {
        "preset": "stay-defects",
        "select": {"max_objects": None},
        "edit": {"name": "layout", "layouts": "sampled"},
        "painter": {"name": "stay", "model": str(model), "steps": 2, "size": 64},
        "composite": "none",
        "screen": {"black": 0, "blank": 0},
    }
    return Made.of(_augment(folder / "ws", made, **values), folder / "ws", ("final",))


def _trained(folder: Path) -> Made:
    """A training: its checkpoints and models."""
    from flows.train import train

    made, quick = MadeSet(folder / "data" / "made", 3), {"batch": 2, "precision": "no", "checkpoint_minutes": 0}
    given = {"models": ["vae"], "size": 64, "settings": {"vae": {"steps": 2, **quick}}, "workspace": folder / "ws"}
    return Made.of(
        lambda: train.fn(dataset=made.dataset, **given),
        folder / "ws",
        ("models",),
        lambda name: name.endswith(".safetensors"),  # cards and facts tell of time
    )


def _proven(folder: Path) -> Made:
    """A proof: its split, pools, trainings, protocol and results, and the run that painted for it."""
    from flows.prove import prove
    from lib.proof.settings import check_proof

    made = MadeSet(folder / "data" / "made", 12)
    values = {
        "dataset": made.dataset,
        "workspace": folder / "ws",
        "split": {"train": 4, "test": 4},
        "detector": {"name": "compact", "size": 64, "width": 8, "stride": 8},
        "schedule": {"steps": 2, "batch": 2, "warmup": 1},
        "arms": ["A", "D"],
        "seeds": 1,
        "workers": 1,
    }

    def run(verify: bool = False) -> Any:
        settings = check_proof(values)
        return prove.fn(**{name: getattr(settings, name) for name in values})

    return Made.of(run, folder / "ws", ("pools",))


def hub_cache(folder: Path) -> Path:
    return folder / "data" / "hub"


WORKSPACES: dict[str, Callable[[Path], Made]] = {
    "copies": _copies,
    "judged": _judged,
    "layouts": _layouts,
    "trained": _trained,
    "proven": _proven,
}

# --- damages -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ground:
    """What lies around a workspace."""

    folder: Path

    @property
    def canary(self) -> Path:
        """Comes to be where something of a workspace is run."""
        return self.folder / "canary"

    @property
    def victim(self) -> Path:
        """A stranger's file, which must stay as it is."""
        return self.folder / "victim" / "kept.txt"

    def outside(self) -> dict[str, bytes]:
        """Every file that no run may change."""
        found = {}
        for name in ("data", "victim"):
            found |= {f"{name}/{path}": data for path, data in files_of(self.folder / name).items()}
        return found | dict.fromkeys(sorted(p.name for p in self.folder.iterdir()), b"")


Damage = Callable[[Path, Ground, Random], None]


def _bytes(mutation: mutations.Mutation) -> Damage:
    def damage(path: Path, ground: Ground, random: Random) -> None:
        path.write_bytes(mutation(path.read_bytes(), random))

    return damage


def _same_size_and_time(path: Path, ground: Ground, random: Random) -> None:
    """A byte that rotted: nothing but the content tells."""
    stat = path.stat()
    path.write_bytes(mutations.flipped(path.read_bytes(), random) if stat.st_size else b"")
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def _deleted(path: Path, ground: Ground, random: Random) -> None:
    path.unlink()


def _directory(path: Path, ground: Ground, random: Random) -> None:
    path.unlink()
    path.mkdir()
    if random.random() < 0.5:
        (path / "inner.txt").write_text("inside")


def _link(path: Path, ground: Ground, random: Random) -> None:
    """To a stranger's file, to nothing, to itself, or to a copy elsewhere."""
    data, kind = path.read_bytes(), random.randrange(4)
    path.unlink()
    copy = ground.victim.with_name(f"copy of {path.name}")
    if kind == 3:
        copy.write_bytes(data)
    path.symlink_to([ground.victim, ground.folder / "nowhere", path, copy][kind])


def _hostile(path: Path, ground: Ground, random: Random) -> None:
    """A document of its kind with other values."""
    data = path.read_bytes()
    by_kind = mutations.json_mutated if data[:1] in (b"{", b"[") else None
    suffix = path.suffix if path.suffix in (".json", ".parquet", ".txt", ".html") else ".bin"
    if by_kind is None and suffix == ".bin":
        header, _, body = data.partition(b"\n")
        path.write_bytes(header + b"\n" + mutations.flipped(body, random))
    else:
        path.write_bytes(by_kind(data, random) if by_kind else mutations.mutated(f"x{suffix}", data, random))


def _code(path: Path, ground: Ground, random: Random) -> None:
    """Bytes that make the canary where a reader believes what they say of themselves."""
    bomb = mutations.pickle_bomb(ground.canary)
    text = base64.encodebytes(bomb).decode()
    call = {"__class__": "os.mkdir", "data": {"path": str(ground.canary)}}
    shell = {"__class__": "subprocess.getoutput", "data": {"cmd": f"mkdir {ground.canary}"}}
    metadata = {"storage_key": "x", "expiration": None, "prefect_version": "3.8.8", "storage_block_id": None}
    contents: list[Any] = [
        {"metadata": metadata | {"serializer": {"type": "pickle"}}, "result": text},
        {"metadata": metadata | {"serializer": {"type": "compressed/pickle"}}, "result": text},
        {"metadata": metadata | {"serializer": {"type": "json"}}, "result": json.dumps(shell)},
        {"metadata": metadata | {"serializer": {"type": "json", "object_decoder": "os.system"}}, "result": '{"a": 1}'},
        {"serializer": {"type": "pickle"}, "result": text},
        call,
        shell,
        bomb,
        f"!!python/object/apply:os.mkdir ['{ground.canary}']\n".encode(),
    ]
    chosen = random.choice(contents)
    with contextlib.suppress(ValueError, AttributeError, TypeError):
        # Where it lies in a document of the workspace's own, its other fields stay.
        if random.random() < 0.5 and isinstance(chosen, dict):
            chosen = {**json.loads(path.read_bytes()), **chosen}
    path.write_bytes(chosen if isinstance(chosen, bytes) else json.dumps(chosen).encode())


def _escape(path: Path, ground: Ground, random: Random) -> None:
    """Names in it lead to the stranger's file."""
    target = random.choice(
        [str(ground.victim), "../victim/kept.txt", "../../victim/kept.txt", "../../../victim/kept.txt"]
    )
    data = path.read_bytes()
    if path.suffix == ".parquet":
        path.write_bytes(mutations.parquet_names(data, target, random))
    else:
        path.write_bytes(
            re.sub(
                rb"[\w ./-]+\.(png|jpg|json|parquet|txt)",
                lambda m: target.encode() if random.random() < 0.7 else m[0],
                data,
            )
        )


DAMAGES: dict[str, Damage] = {  # those that tell most come first: they are the minute of `make test`
    "rot": _same_size_and_time,
    "code": _code,
    "escape": _escape,
    "directory": _directory,
    "hostile": _hostile,
    "delete": _deleted,
    "link": _link,
    "cut": _bytes(mutations.cut),
    "empty": _bytes(mutations.emptied),
    "flip": _bytes(mutations.flipped),
    "garble": _bytes(mutations.garbled),
    "zero": _bytes(mutations.zeroed),
}

# --- attacks -------------------------------------------------------------------------------------------------------


@contextmanager
def attacking(folder: Path) -> Iterator[Attack]:
    """Attack n: the first few damage a file of every kind at once, later ones mostly a single file.

    The flows run as plain functions: Prefect keeps nothing in a workspace.
    """
    from huggingface_hub import constants

    made: dict[str, Made] = {}

    def attack(number: int) -> str:
        random = Random(f"workspaces {number}")
        name = "copies" if number < len(DAMAGES) else random.choice(sorted(WORKSPACES))
        ground = Ground(folder / name)
        if name not in made:
            fresh(ground.folder)
            ground.victim.parent.mkdir()
            made[name] = WORKSPACES[name](ground.folder)
        ground.victim.write_text("a stranger's file\n")
        one = made[name]
        one.restore()
        if number < len(DAMAGES):
            damages = dict.fromkeys(one.files, list(DAMAGES)[number])
        else:
            several = 1 if random.random() < 0.8 else random.randrange(2, 6)
            kinds = random.sample(sorted(one.files), min(several, len(one.files)))
            damages = {kind: random.choice(sorted(DAMAGES)) for kind in kinds}
        damaged = {random.choice(one.files[kind]): damage for kind, damage in damages.items()}
        return damage_and_run(one, ground, damaged, random)

    hub = mock.patch.object(constants, "HF_HUB_CACHE", str(hub_cache(folder / "judged")))
    with hub:
        yield attack


def damage_and_run(made: Made, ground: Ground, damaged: dict[str, str], random: Random) -> str:
    """How it ended; raises Fault."""
    for name, damage in damaged.items():
        DAMAGES[damage](made.root / name, ground, random)
    damages = "; ".join(f"{damage} {name}" for name, damage in list(damaged.items())[:6])
    before = ground.outside()
    ended = "healed by itself"
    for _ in range(len(damaged) + 2):
        former = (made.root / "status.json").read_bytes() if (made.root / "status.json").is_file() else None
        state = made.run()
        if ground.canary.exists():
            ground.canary.rmdir()
            raise Fault(f"it ran code: {damages}")
        if changed := difference(before, ground.outside()):
            raise Fault(f"outside, {changed}: {damages}")
        lost = sum("store" in name.split("/") or name.startswith("trainings/") for name in damaged)
        check_account(made, state.is_completed(), lost, damages, former)
        if state.is_completed():
            break
        _follow(made, state.message, damaged, damages)
        ended = "healed by its remedy"
    else:
        raise Fault(f"it does not end: {damages}")
    # A file of the final set that rotted, its size and time as they were, is found by reading all (docs/workspace.md).
    rotted = [name for name, damage in damaged.items() if damage == "rot" and name.startswith("final/")]
    if rotted and difference(made.result(made.pristine), made.result()):
        made.run(verify=True)
        ended = "healed by --verify"
    if changed := difference(made.result(made.pristine), made.result()):
        raise Fault(f"the result, {changed}: {damages}")
    return ended


def check_account(made: Made, completed: bool, most: int, damages: str, former: bytes | None = None) -> None:
    """Raises Fault where status.json does not say how it ended, or where more than `most` pictures were painted.

    former: status.json before the run. Of a run that failed before the workspace was its own it is still there.
    """
    account = check_account_state(made.root, completed)
    if not completed and account and (made.root / "status.json").read_bytes() == former:
        return
    if account.get("painted", 0) > most:
        raise Fault(f"{account['painted']} painted again: {damages}")


def check_account_state(root: Path, completed: bool) -> dict[str, Any]:
    """The account of a run; raises Fault where it does not say how the run ended."""
    try:
        account: dict[str, Any] = json.loads((root / "status.json").read_bytes())
    except (OSError, ValueError) as error:
        if completed:
            raise Fault(f"status.json: {error}") from None
        return {}  # the run failed before it was its own
    if account.get("state") == "running" or (completed and account.get("state") != "completed"):
        raise Fault(f"status.json says {account.get('state')!r}, completed: {completed}")
    return account


def _follow(made: Made, message: str, damaged: dict[str, str], damages: str) -> None:
    """Do what the sentence says to the damaged file that it names."""
    check_error(Exception(message))
    named = [name for name in damaged if re.search(rf"(^|[/\s'\"]){re.escape(name)}(?![\w.])", message)]
    if not named:
        raise Fault(f"it names no damaged file: {message[:600]}: {damages}")
    if not re.search("remove|delete|move it away", message):
        raise Fault(f"it names no remedy: {message[:600]}: {damages}")
    for name in named:
        path = made.root / name
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
