"""The models of this process: painters, captioners, detectors and judges, each built once and shared by parts."""

from __future__ import annotations

import contextlib
import json
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from cachetools import LRUCache, cached
from numpy.typing import NDArray

from lib.captioning.captioners import CAPTIONERS
from lib.core.checkpoints import ModelRef
from lib.core.compute import free_memory
from lib.core.registry import Member
from lib.core.vision import Pixels
from lib.evaluation.detectors import DETECTORS
from lib.judges import make_judge
from lib.painting.painters import PAINTERS

# What is in memory, judges and members; those that need one meanwhile wait for it.
_models: LRUCache[Any, Any] = LRUCache(6)
_changed = threading.Condition()
_loads: Counter[str] = Counter()  # by kind, since they were last released


class SharedJudge:
    """A judge that many threads share: each crops alone, and one at a time uses the model."""

    def __init__(self, ref: ModelRef) -> None:
        self._judge, self._lock = make_judge(ref), threading.Lock()

    @property
    def size(self) -> int:
        with self._lock:
            return self._judge.size

    @property
    def identity(self) -> str:
        return self._judge.identity

    def score(self, crops: Sequence[Pixels], names: Sequence[str]) -> NDArray[np.float64]:
        with self._lock:
            return self._judge.score(crops, names)


@cached(_models, condition=_changed)
def judge_for(ref: ModelRef) -> SharedJudge:
    """The judge of boxes, built once per process; its weights are read at the first use."""
    _loads["judge"] += 1
    return SharedJudge(ref)


def _build(member: str) -> Any:
    parsed = Member.model_validate_json(member)
    return {"painter": PAINTERS, "captioner": CAPTIONERS, "detector": DETECTORS}[parsed.kind].build(parsed)


@cached(_models, condition=_changed)
def _built(member: str) -> tuple[Any, threading.Lock]:
    built = _build(member)
    _loads[json.loads(member)["kind"]] += 1
    return built, threading.Lock()


@contextlib.contextmanager
def use_member(member: dict[str, Any]) -> Iterator[Any]:
    """A painter, captioner or detector. One with weights is built once per process and serves one part at a time."""
    text = json.dumps(member, sort_keys=True)
    if member["model"] is None:
        yield _build(text)
        return
    built, lock = _built(text)
    with lock:
        yield built


def release_models() -> dict[str, int]:
    """Forget the models of this process, at the end of a stage: a captioner needs its memory no more when painting
    begins. What still runs keeps what it holds; whoever needs a model again loads it again.

    Returns how many were loaded since the last time, by kind: captioner, painter, detector, judge.
    """
    with _changed:
        held, loads = len(_models), dict(_loads)
        _models.clear()
        _loads.clear()
    if held:
        free_memory()
    return loads
