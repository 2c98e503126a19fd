"""The training loop: accelerate, EMA, checkpoints that survive a kill, one schedule for all models.

    result = train(objective, Path("work/vae"), LoopSettings(steps=8000), watch=print_progress)
    objective.save(Path("models/vae"))      # now holds the averaged weights

Every step draws from its own seed, so a run that was killed and resumed draws the same batches as one that was not.
A checkpoint is one safetensors file (weights, averaged weights, optimiser, history) whose name ends in its digest; a
damaged one is removed, the one before it is used, and `watch` receives a note.
"""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypedDict, cast

import numpy as np
from pydantic import Field

from lib.core.checkpoints import renamed
from lib.core.errors import AugmentError
from lib.core.files import atomic_write, digest
from lib.core.registry import MemberSettings
from lib.core.stopping import check_stop
from lib.records.kept import conforms

if TYPE_CHECKING:
    import torch

KEPT = 2  # checkpoints: the newest and the one before it
LOGGED = 50  # steps that one point of the curves is the mean of
_OURS = re.compile(r"\d{8,}-[0-9a-f]{16}\.safetensors")  # step and digest
SHOWN = 10.0  # minutes between two looks at what the model makes: a painter's sheet takes seconds
SAMPLED = 20  # denoising steps of what a painter's sheet shows


class LoopSettings(MemberSettings):
    """How long and how fast. Equal settings and data give equal batches."""

    steps: int = Field(1000, ge=0, description="optimiser steps, those before a resume included")
    batch: int = Field(32, ge=1, description="examples a step on each device")
    rate: float = Field(1e-3, gt=0, description="learning rate of AdamW after the warm-up")
    warmup: int = Field(100, ge=0, description="steps over which the rate rises")
    cooldown: float = Field(0.25, ge=0, le=1, description="last share of the steps, over which the rate falls to 0")
    decay: float = Field(0.999, ge=0, lt=1, description="of the averaged weights (EMA), which are what is saved")
    weight_decay: float = Field(0.01, ge=0, description="of AdamW")
    max_norm: float = Field(1.0, gt=0, description="largest norm of the gradients")
    checkpoint_minutes: float = Field(3, ge=0, description="minutes between two checkpoints; 0 = after every step")
    precision: Literal["auto", "no", "bf16"] = Field("auto", description="auto: bf16 where the device has it")
    seed: int = Field(0, ge=0, description="of batches, noise and dropout")


class NotFinite(AugmentError):
    """A loss or its gradient became infinite, or no number."""


class Objective(Protocol):
    """A torch module that knows its data and its loss. `forward(batch)` gives {"loss": ..., what else is plotted}.

    FORMER: Mapping[str, str], where modules were renamed: names in checkpoints of former versions → today's.
    """

    def batch(self, rng: np.random.Generator, size: int, step: int = 0) -> dict[str, torch.Tensor]:
        """`size` examples of a step, drawn by `rng`, on the CPU."""
        ...

    def save(self, folder: Path) -> None:
        """Write the model as diffusers or transformers would, half precision."""
        ...

    def sheet(self) -> np.ndarray:
        """(H, W, 3) uint8: what the model makes now, for a person."""
        ...


@dataclass(frozen=True)
class Progress:
    """A report of the loop, which `watch` receives."""

    step: int
    steps: int
    values: dict[str, float]  # means since the last report; none in a report that has a note
    seconds: float  # of training, those before a resume included
    note: str = ""  # what a person should know, such as a damaged checkpoint


@dataclass(frozen=True)
class Trained:
    """The result of a training."""

    steps: int
    seconds: float
    history: list[dict[str, float]]  # points of the curves: step, loss, ...
    device: str
    precision: str


def train(
    objective: Any,
    folder: Path,
    settings: LoopSettings,
    identity: str = "",
    watch: Callable[[Progress], object] = lambda progress: None,
    look: Callable[[], object] | None = None,
    fixed: Mapping[str, Any] | None = None,
) -> Trained:
    """Train to settings.steps, from the newest good checkpoint in `folder`; leaves the averaged weights in `objective`.

    identity: text of what the weights depend on (data, architecture); a checkpoint of another one is refused. look:
    called after a checkpoint, every SHOWN minutes at most, while the objective holds the weights as they are, not
    averaged, in evaluation mode; it may draw random numbers. fixed: settings of which a checkpoint must have the same.
    Raises AugmentError for a checkpoint that is refused, for a loss that is not finite, and where the disk or the
    device's memory is full (the last checkpoint stays).
    """
    import torch
    from accelerate.utils import set_seed

    chosen = precision(settings.precision)
    accelerator = _accelerator(chosen)
    trainable = [p for p in objective.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trainable, settings.rate, weight_decay=settings.weight_decay, betas=(0.9, 0.99))
    model, optimizer = accelerator.prepare(objective, optimizer)
    objective = accelerator.unwrap_model(model)
    ema = _averages(trainable, settings.decay)
    state = _State(objective, ema, optimizer, identity, fixed or {})
    for note in state.resume(folder):
        watch(Progress(state.step, settings.steps, {}, state.seconds, note))
    started = time.monotonic() - state.seconds
    saved = shown = time.monotonic()
    rank = accelerator.process_index

    def drawn(step: int) -> dict[str, torch.Tensor]:
        rng = np.random.default_rng([settings.seed, step, rank])
        return dict(objective.batch(rng, settings.batch, step))

    model.train()
    with ThreadPoolExecutor(1) as pool:
        ahead = pool.submit(drawn, state.step)
        for step in range(state.step, settings.steps):
            check_stop()
            batch = {name: value.to(accelerator.device) for name, value in ahead.result().items()}
            ahead = pool.submit(drawn, step + 1)
            set_seed((settings.seed * 1_000_003 + step * 97 + rank) % 2**32)
            for group in optimizer.param_groups:
                group["lr"] = settings.rate * _shape(step, settings)
            try:
                losses = model(batch)
                accelerator.backward(losses["loss"])
                norm = accelerator.clip_grad_norm_(trainable, settings.max_norm)
                _check_finite(float(losses["loss"].detach()), float(norm), step + 1, settings)
                optimizer.step()
            except torch.OutOfMemoryError:
                raise AugmentError(
                    f"the device's memory does not hold a step of {settings.batch} examples: lower "
                    f"`settings.{folder.name}.batch` and start again, from the last checkpoint"
                ) from None
            optimizer.zero_grad()
            if ema is not None:
                ema.step(trainable)
            state.add(losses)
            state.step, state.seconds = step + 1, time.monotonic() - started
            last = state.step == settings.steps
            if state.step % LOGGED == 0 or last:
                watch(Progress(state.step, settings.steps, state.point(), state.seconds))
            if accelerator.is_main_process and (last or _over(saved, settings.checkpoint_minutes)):
                state.save(folder)
                saved = time.monotonic()
                if look is not None and not last and _over(shown, SHOWN):
                    objective.eval()
                    look()
                    model.train()
                    shown = time.monotonic()
    if ema is not None:
        ema.copy_to(trainable)
    objective.eval()
    return Trained(state.step, state.seconds, state.history, str(accelerator.device), chosen)


def _accelerator(chosen: Literal["no", "bf16"]) -> Any:
    """A fresh one. accelerate keeps one state a process and refuses a second precision; the part of the state that
    belongs to the process and knows of other GPUs stays.
    """
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state()
    return Accelerator(mixed_precision=chosen)


def _averages(trainable: list[Any], decay: float) -> Any:
    """diffusers' EMA of the weights; none for a decay of 0, where they are the weights: its import takes seconds."""
    if not decay:
        return None
    from diffusers.training_utils import EMAModel

    ema = EMAModel(trainable, decay=decay, use_ema_warmup=True, power=0.75, foreach=True)
    ema.to(trainable[0].device)
    return ema


def _over(since: float, minutes: float) -> bool:
    return time.monotonic() - since >= 60 * minutes


def _check_finite(loss: float, norm: float, step: int, settings: LoopSettings) -> None:
    """Before the weights are touched, so that no checkpoint ever holds what is not finite."""
    if not (math.isfinite(loss) and math.isfinite(norm)):
        raise NotFinite(
            f"the loss is {loss} and its gradient's norm {norm} at step {step}: lower `rate` (now {settings.rate:g}) "
            f"and start again, from the last checkpoint"
        )


def _shape(step: int, settings: LoopSettings) -> float:
    """Share of the rate at a step: a rise, a plain, a fall."""
    rise = (step + 1) / max(1, settings.warmup)
    fall = (settings.steps - step) / max(1.0, settings.cooldown * settings.steps)
    return min(1.0, rise, fall)


def precision(wanted: str = "auto") -> Literal["no", "bf16"]:
    """bf16 is what AVX-512 BF16, AMX and every GPU since 2020 multiply natively; elsewhere it is slower."""
    import torch

    if wanted != "auto":
        return "bf16" if wanted == "bf16" else "no"
    if torch.cuda.is_available():
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "no"
    return "bf16" if torch.cpu.get_capabilities().get("avx512_bf16") else "no"


class _State:
    """All that a resume needs, in one file."""

    def __init__(self, objective: Any, ema: Any, optimizer: Any, identity: str, fixed: Mapping[str, Any]) -> None:
        self.objective, self.ema, self.optimizer, self.identity = objective, ema, optimizer, identity
        self.fixed = fixed
        self.step, self.seconds = 0, 0.0
        self.history: list[dict[str, float]] = []
        self.sums: dict[str, float] = {}  # since the last point of the history
        self.counted = 0

    def add(self, losses: dict[str, torch.Tensor]) -> None:
        """Add one step's values, scalars, to the sums."""
        self.counted += 1
        for name, value in losses.items():
            self.sums[name] = self.sums.get(name, 0.0) + float(value.detach())

    def point(self) -> dict[str, float]:
        """Means since the last point, entered into the history."""
        values = {name: value / self.counted for name, value in self.sums.items()}
        self.sums, self.counted = {}, 0
        self.history.append({"step": float(self.step), **{name: round(value, 6) for name, value in values.items()}})
        return values

    def save(self, folder: Path) -> None:
        """Write a checkpoint, then remove all but the newest ones."""
        from safetensors.torch import save

        header: _Header = {
            "step": self.step,
            "seconds": self.seconds,
            "history": self.history,
            "sums": self.sums,
            "counted": self.counted,
            "identity": self.identity,
            "averaged": self.ema.optimization_step if self.ema else 0,
            "fixed": dict(self.fixed),
        }
        data = save(self._tensors(), {"training": json.dumps(header)})
        path = folder / f"{self.step:08d}-{digest(data)[:16]}.safetensors"
        try:
            atomic_write(path, data, durable=True)
        except OSError as error:
            kept = next(iter(_checkpoints(folder)), None)
            raise AugmentError(
                f"checkpoint {path} cannot be written ({error.strerror or error}): make room and start again; "
                f"{f'{kept.name} is kept' if kept else 'no earlier one exists'}"
            ) from None
        for old in _checkpoints(folder)[KEPT:]:
            old.unlink()

    def resume(self, folder: Path) -> list[str]:
        """Continue from the newest checkpoint that is whole; start at step 0 without one.

        Damaged ones are removed, or they would count among the newest. Returns what a person should know.
        """
        notes: list[str] = []
        for path in _checkpoints(folder):
            data = path.read_bytes()
            header = _header(data) if digest(data)[:16] == path.stem.rpartition("-")[2] else None
            if header is not None:
                self._load(path, data, header)
                return [f"{note}: training goes on from step {self.step}" for note in notes]
            path.unlink(missing_ok=True)
            notes.append(f"checkpoint {path} was damaged and is removed")
        return [f"{note}: training starts anew" for note in notes]

    def _load(self, path: Path, data: bytes, header: _Header) -> None:
        """Continue from a checkpoint; raises AugmentError for one of another identity or of other weights."""
        from safetensors.torch import load

        remedy = f"remove {path.parent}, or name another workspace"
        if header["identity"] != self.identity:
            raise AugmentError(f"checkpoint {path} was trained with other data or another architecture: {remedy}")
        check_fixed(f"checkpoint {path}", header.get("fixed", {}), self.fixed)
        former = getattr(self.objective, "FORMER", {})
        tensors = {renamed(name, former): value for name, value in load(data).items()}
        stored = {name for name in tensors if not name.startswith("adam.")}
        if {name: t.shape for name, t in self._weights().items()} != {name: tensors[name].shape for name in stored}:
            raise AugmentError(f"checkpoint {path} holds other weights than this version of the model has: {remedy}")
        self._restore(tensors, header["averaged"])
        self.step, self.seconds, self.history = header["step"], header["seconds"], header["history"]
        self.sums, self.counted = header["sums"], header["counted"]

    def _weights(self) -> dict[str, torch.Tensor]:
        """Weights, buffers, averaged weights: all but the optimiser's."""
        tensors = {f"model.{name}": p.detach() for name, p in self.objective.named_parameters() if p.requires_grad}
        tensors |= {f"buffer.{name}": b for name, b in self._buffers()}
        return tensors | {f"ema.{i}": p for i, p in enumerate(self.ema.shadow_params if self.ema else [])}

    def _tensors(self) -> dict[str, torch.Tensor]:
        tensors = self._weights()
        for i, kept in self.optimizer.state_dict()["state"].items():
            tensors |= {f"adam.{i}.{name}": value for name, value in kept.items()}
        return {name: value.contiguous().cpu() for name, value in tensors.items()}

    def _buffers(self) -> list[tuple[str, torch.Tensor]]:
        kept = self.objective.state_dict().keys()
        return [(name, buffer) for name, buffer in self.objective.named_buffers() if name in kept]

    def _restore(self, tensors: dict[str, torch.Tensor], averaged: int) -> None:
        named = dict(self.objective.named_parameters()) | dict(self._buffers())
        for name, value in tensors.items():
            kind, _, rest = name.partition(".")
            if kind in ("model", "buffer"):
                named[rest].data.copy_(value)
            elif kind == "ema" and self.ema:
                self.ema.shadow_params[int(rest)].data.copy_(value)
        kept: dict[int, dict[str, torch.Tensor]] = {}
        for name, value in tensors.items():
            if name.startswith("adam."):
                _, number, field = name.split(".")
                kept.setdefault(int(number), {})[field] = value
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": kept, "param_groups": groups})
        if self.ema:
            self.ema.optimization_step = averaged


def check_fixed(what: str, had: Mapping[str, Any], fixed: Mapping[str, Any]) -> None:
    """Raise AugmentError where something was trained with other settings than a resume may change."""
    changed = [name for name in fixed if name in had and had[name] != fixed[name]]
    if changed:
        differences = ", ".join(f"{name} {had[name]} instead of {fixed[name]}" for name in changed)
        raise AugmentError(
            f"{what} was trained with {differences}, which no further step can change: set that as it was, or name "
            "another workspace"
        )


class _Former(TypedDict):
    """What a checkpoint stores beside its tensors, as JSON in the metadata of the safetensors file."""

    step: int
    seconds: float
    history: list[dict[str, float]]
    sums: dict[str, float]  # since the last point of the history
    counted: int
    identity: str
    averaged: int  # steps of the averaged weights


class _Header(_Former, total=False):
    """The same, with what checkpoints of former versions lack."""

    fixed: dict[str, Any]  # settings that no resume may change


def _header(data: bytes) -> _Header | None:
    """The header of a checkpoint's bytes; None where they are not a checkpoint."""
    length = int.from_bytes(data[:8], "little")
    try:
        header = json.loads(json.loads(data[8 : 8 + length])["__metadata__"]["training"])
    except (ValueError, LookupError, TypeError, RecursionError):
        return None
    return cast("_Header", header) if conforms(header, _Header) else None


def _checkpoints(folder: Path) -> list[Path]:
    """Newest first; files of other names are not ours."""
    found = (path for path in folder.glob("*.safetensors") if _OURS.fullmatch(path.name) and path.is_file())
    return sorted(found, reverse=True)
