"""One training of a proof, in a process of its own: it draws from torch's global random numbers, and may be ended.

    python -m lib.proof.job JOB.json        # a line of JSON on standard output for every report of the training

What it leaves in its folder, under the job's key: KEY.npz, the detections in the test pictures, and KEY.json, written
last: seconds, curves, whether it diverged. Killed and run again, it goes on from its newest checkpoint.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import threading
import time
import traceback
from itertools import pairwise
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from lib.core.errors import AugmentError
from lib.core.files import atomic_path
from lib.core.keys import key_of
from lib.core.registry import Member, MemberSettings
from lib.evaluation.detectors import Detections
from lib.proof.arms import shifted_boxes
from lib.proof.augmentation import Augmentation
from lib.proof.detectors import TRAINABLE
from lib.proof.detectors.weights import FILES, save_weights, settings_key
from lib.proof.pictures import Pool, joined, read_arrays
from lib.records import kept
from lib.records.settings import Settings
from lib.training.loop import LOGGED, Progress

VERSION = 2  # 2: augmented pictures lie under their boxes to a fraction of a pixel
ENDED = "ended"  # field of the last line of a log: the exit code


# By whether there are weights already: on 24 pictures of steel Faster R-CNN with ImageNet's backbone reached 15.7 AP at
# .0007, and 5.7 at .002.
RATES = {False: 2e-3, True: 5e-4}


class Schedule(MemberSettings):
    """How long every arm trains, and how fast: equal for all."""

    steps: int = Field(400, ge=1, description="optimiser steps of every arm")
    batch: int = Field(8, ge=1, description="pictures a step")
    rate: float | None = Field(
        None,
        gt=0,
        description="learning rate of AdamW after the warm-up; none: .002, or .0005 where detector or backbone start "
        "from weights",
    )
    warmup: int = Field(30, ge=0, description="steps over which the rate rises")
    cooldown: float = Field(0.6, ge=0, le=1, description="last share of the steps, over which the rate falls to 0")
    weight_decay: float = Field(0.05, ge=0, description="of AdamW")
    max_norm: float = Field(5.0, gt=0, description="largest norm of the gradients")

    def of(self, detector: Member) -> Schedule:
        """With the rate of a detector, where none is given."""
        started = any(detector.settings.get(name) for name in FILES)
        return self if self.rate else self.model_copy(update={"rate": RATES[started]})


class PartFile(Settings):
    """Pictures of a pool's file."""

    path: str
    digest: str
    rows: list[int]
    start: list[float]
    end: list[float]
    shifted: bool = False


_NOT_IDENTITY = ("arm", "ratio", "folder", "threads", "checkpoint_minutes")


class TrainingJob(Settings):
    """All that one training depends on, and where its results go."""

    arm: str
    ratio: float
    seed: int
    names: list[str]
    detector: str
    version: int
    settings: dict[str, Any]
    schedule: Schedule
    augmentation: Augmentation
    parts: list[PartFile]
    hold: float = 0.0
    test: PartFile
    folder: str
    threads: int = 1
    checkpoint_minutes: float = 2  # between two, for a training that is killed

    @property
    def key(self) -> str:
        """Of equal jobs: what a training depends on, and neither paths nor the arm's name."""
        parts = [part.model_dump(exclude={"path"}) for part in [*self.parts, self.test]]
        named = self.model_dump(mode="json", exclude={*_NOT_IDENTITY, "parts", "test"})
        named["settings"] = settings_key(self.settings)
        return key_of("proof", VERSION, named, parts)

    @property
    def place(self) -> Path:
        """Of the results, without a suffix."""
        return Path(self.folder) / self.key[:32]


class Trained(Settings):
    """What a training left beside its detections."""

    key: str
    steps: int
    seconds: float  # of one process, CPU time
    device: str
    history: list[dict[str, float]]
    diverged: str = ""  # why, where it did


def trained(job: TrainingJob) -> Trained | None:
    """What a job left earlier; None where it has not ended, or its files are damaged."""
    try:
        found = kept.read(job.place.with_suffix(".json"), dict[str, Any])
        result = Trained.model_validate(found) if found else None
    except (AugmentError, ValueError):
        return None
    whole = result is not None and result.key == job.key and (result.diverged or read_detections(job) is not None)
    return result if whole else None


def read_detections(job: TrainingJob) -> list[Detections] | None:
    """In the order of the test pictures; None where the file is missing or damaged."""
    try:
        found = read_arrays(job.place.with_suffix(".npz"), ("boxes", "scores", "labels", "first"))
    except AugmentError:
        return None
    boxes, scores, labels, first = found.values()
    return [Detections(boxes[low:high], scores[low:high], labels[low:high]) for low, high in pairwise(first)]


def _write_detections(job: TrainingJob, found: list[Detections]) -> None:
    first = np.concatenate([[0], np.cumsum([len(one.scores) for one in found])]).astype(np.int64)
    with atomic_path(job.place.with_suffix(".npz")) as path, path.open("wb") as file:
        np.savez_compressed(
            file,
            boxes=np.concatenate([one.boxes for one in found]).astype(np.float32),
            scores=np.concatenate([one.scores for one in found]).astype(np.float32),
            labels=np.concatenate([one.labels for one in found]),
            first=first,
        )


def run(job: TrainingJob) -> Trained:
    """Train, find, leave the results."""
    import torch

    from lib.proof.training import DetectorObjective, Sampler, detections
    from lib.training.loop import LoopSettings, NotFinite, train

    torch.set_num_threads(job.threads)
    torch.set_deterministic_debug_mode("warn")  # as use_deterministic_algorithms, which imports a compiler, 6 s
    pool, start, end = _pool(job)
    torch.manual_seed(job.seed)
    network: Any = TRAINABLE.build(TRAINABLE.member(job.detector, job.settings)).build(len(job.names))
    network = network.to(memory_format=torch.channels_last)
    schedule = job.schedule
    for note in network.notes:
        _tell(Progress(0, schedule.steps, {}, 0.0, note))
    sampler = Sampler(start, end, schedule.steps, job.seed, job.hold)
    objective = DetectorObjective(network, pool, sampler, job.augmentation)
    settings = LoopSettings(
        decay=0, checkpoint_minutes=job.checkpoint_minutes, precision="no", seed=job.seed, **schedule.model_dump()
    )
    work, clock = job.place, _Clock()
    try:
        done = train(objective, work, settings, job.key, clock.watch)
    except NotFinite as error:
        result = Trained(key=job.key, steps=0, seconds=clock.seconds(), device="", history=[])
        result = result.model_copy(update={"diverged": str(error)})
    else:
        test = _taken(job.test)
        _write_detections(job, detections(network, test))
        result = Trained(
            key=job.key, steps=done.steps, seconds=clock.seconds(), device=done.device, history=done.history
        )
        save_weights(network, job.detector, job.place.with_suffix(".safetensors"))
    kept.write(job.place.with_suffix(".json"), result.model_dump(mode="json"))
    shutil.rmtree(work, ignore_errors=True)
    return result


def _taken(part: PartFile) -> Pool:
    pool = Pool.load(Path(part.path))
    return pool.take(part.rows)


def _pool(job: TrainingJob) -> tuple[Pool, NDArray[np.float64], NDArray[np.float64]]:
    """All pictures of a training, and how often an epoch shows each at the first and at the last step."""
    pools = []
    for part in job.parts:
        pool = _taken(part)
        pools.append(_shifted(pool, job.seed) if part.shifted else pool)
    start, end = (np.concatenate([getattr(part, name) for part in job.parts]) for name in ("start", "end"))
    return joined(pools), start, end


def _shifted(pool: Pool, seed: int) -> Pool:
    boxes = pool.boxes.copy()
    for i in range(len(pool)):
        rng = np.random.default_rng([seed, 5, i])
        boxes[pool.of(i)] = shifted_boxes(boxes[pool.of(i)], (int(pool.sizes[i, 0]), int(pool.sizes[i, 1])), rng)
    return Pool(**{**vars(pool), "boxes": boxes})


def _tell(progress: Progress) -> None:
    report = {"step": progress.step, "steps": progress.steps, "note": progress.note, **progress.values}
    print(json.dumps(report), flush=True)


class _Clock:
    """CPU seconds of a training; a step before a resume is taken to have cost as much as one after it."""

    def __init__(self) -> None:
        self._began, self._first, self._last = time.process_time(), 0, 0

    def watch(self, progress: Progress) -> None:
        """Take a report of the loop; the first one says where it began."""
        if not self._last:
            self._first = max(0, progress.step - LOGGED) if not progress.note else progress.step
        self._last = progress.step
        _tell(progress)

    def seconds(self) -> float:
        """Of all steps."""
        own = time.process_time() - self._began
        return round(own * self._last / max(1, self._last - self._first), 1)


def main() -> int:
    """Of one training, with its job's file as argument: 0, or 2 with a sentence on standard error.

    Without one: trainings one after another, whose files come as lines of standard input, each with a log beside its
    file that ends in {"ended": exit code}. The process ends with its input, and so with the process that started it.
    """
    if len(sys.argv) > 1:
        return _one(Path(sys.argv[1]))
    files: SimpleQueue[str] = SimpleQueue()
    threading.Thread(target=_receive, args=(files,), daemon=True).start()
    while True:
        file = Path(files.get())
        log = os.open(file.with_suffix("").with_suffix(".log"), os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        for output in (1, 2):
            os.dup2(log, output)
        os.close(log)
        print(json.dumps({ENDED: _one(file)}), flush=True)


def _receive(files: SimpleQueue[str]) -> None:
    for line in sys.stdin:
        files.put(line.rstrip("\n"))
    os.kill(os.getpid(), signal.SIGTERM)


def _one(file: Path) -> int:
    try:
        run(TrainingJob.model_validate_json(file.read_bytes()))
    except AugmentError as error:
        print(error, file=sys.stderr, flush=True)
        return 2
    except Exception:
        traceback.print_exc()
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
