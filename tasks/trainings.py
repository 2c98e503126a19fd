"""What trains detectors: real pictures and painted ones as pools, and trainings as tasks, a process each.

    @dataclass(kw_only=True)
    class Proof(Trainings): ...
    run.add("real", pool)
    train_arms(run, jobs)                       # results lie in run.trainings, by content key

So a run that was ended goes on, and runs that share a folder of trainings repeat none.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from lib.core.errors import AugmentError
from lib.core.files import atomic_path
from lib.core.images import PictureError, inside, load_rgb
from lib.core.stopping import Stopped, check_stop
from lib.datasets.write_coco import Sources, write_originals
from lib.evaluation.metrics.duplicates import hash_of
from lib.evaluation.sides import read_side
from lib.proof.arms import Mix
from lib.proof.job import PartFile, TrainingJob, trained
from lib.proof.pictures import Pool, pool_of
from lib.proof.trainers import Trainers, trainers
from lib.records import kept
from lib.records.outputs import inputs_of
from lib.records.rows import OK, REJECTED
from lib.records.settings import DatasetSettings
from lib.runs.workspace import locked
from tasks.artifacts import show_counts
from tasks.engine import log, step, wait_for
from tasks.ingest import Ingested
from tasks.jobs import may_pass
from tasks.progress import Progress, advance
from tasks.run import Work, accounted


@dataclass(kw_only=True)
class Trainings(Work):
    """A workspace in which detectors are trained."""

    settings: Any  # of the flow; a kind of run says which
    size: int  # side of the square that detectors see, pixels
    trainings: Path  # folder of finished trainings
    workers: int | None = None  # trainings at once; None: one a core
    names: list[str] = field(default_factory=list)  # of the categories
    pools: dict[str, Pool] = field(default_factory=dict)
    files: dict[str, tuple[Path, str]] = field(default_factory=dict)  # of pools: place and digest
    seconds: dict[str, float] = field(default_factory=dict)  # of painting, by pool
    notes: list[str] = field(default_factory=list)  # what should be known of the result

    def add(self, name: str, pool: Pool) -> None:
        """Keep a pool in memory and as a file."""
        path = self.root / "pools" / f"{name}.npz"
        pool.save(path)
        self.pools[name], self.files[name] = pool, (path, pool.digest)


T = TypeVar("T", bound=Trainings)


@contextlib.contextmanager
def open_trainings(kind: type[T], settings: Any, root: Path, name: str, progress: Progress) -> Iterator[T]:
    """Lock the workspace, save what was resolved: settings with `dataset`, `member`, `trainings` and `workers`.

    Raises AugmentError as `locked` does.
    """
    with locked(root, inputs_of(settings)):
        run = kind(
            name=name,
            dataset=settings.dataset,
            root=root,
            progress=progress,
            size=settings.member.settings["size"],
            trainings=(settings.trainings or root / "trainings").absolute(),
            workers=settings.workers,
            settings=settings,
        )
        with accounted(run, settings):
            yield run


def hashes_of(run: Trainings, images: pd.DataFrame) -> dict[str, np.uint64]:
    """Perceptual hashes by image key; a picture that cannot be read has none."""
    found = {}
    run.progress.start("split", len(images))
    for row in images.itertuples(index=False):
        check_stop()
        path = inside(run.sources, row.path)
        with contextlib.suppress(PictureError):
            if path is not None:
                found[str(row.key)] = hash_of(load_rgb(path, row.frame))
        run.progress.advance("split", 1)
    run.progress.finish("split")
    return found


def write_real(
    run: Trainings,
    ingested: Ingested,
    images: pd.DataFrame,
    objects: pd.DataFrame,
    keys: Sequence[str],
    name: str = "real",
) -> DatasetSettings:
    """Real training pictures as a COCO file NAME.json, the pictures where they are."""
    sources = Sources(images, objects, ingested.envelope.file.read_bytes(), run.sources)
    some, file = images[images.key.isin(keys)], run.root / f"{name}.json"
    with atomic_path(file) as new:
        write_originals(new, sources, dict(zip(some.key, some.path, strict=True)))
    return DatasetSettings(
        images=run.sources.absolute(),
        annotations=file,
        split="train",
        max_pixels=run.dataset.max_pixels,
        terms=run.dataset.terms,
    )


def add_final_set(run: Trainings, name: str, workspace: Path, seconds: float | None) -> None:
    """What a run painted, as a pool. seconds: that it took; None where all was painted before."""
    side = read_side(workspace / "final", "synthetic")
    made = side.entries if side.has_synthetic else ()
    pool, left = pool_of(type(side)(tuple(made), side.file, side.names), run.names, run.size)
    run.add(name, pool)
    kept_seconds = run.root / "painting.json"
    run.seconds = kept.read(kept_seconds, dict[str, float]) or {}
    if seconds is not None or name not in run.seconds:
        run.seconds[name] = round(seconds or 0.0, 1)
        kept.write(kept_seconds, run.seconds)
    reasons = [""] * len(pool) + list(left.values())
    rows = pd.DataFrame({"status": [REJECTED if reason else OK for reason in reasons], "reason": reasons})
    run.count(f"pool {name}", rows, painted=len(pool), reused=0)


def parts_of(run: Trainings, mix: Mix) -> list[PartFile]:
    """The parts of a mix as a training reads them."""
    return [
        PartFile(
            path=str(run.files[part.pool][0]),
            digest=run.files[part.pool][1],
            rows=part.rows.tolist(),
            start=_rounded(part.start),
            end=_rounded(part.end),
            shifted=part.shifted,
        )
        for part in mix.parts
    ]


def _rounded(shares: NDArray[np.float64]) -> list[float]:
    return [round(float(one), 6) for one in shares]


def whole_pool(run: Trainings, pool: str) -> PartFile:
    """All pictures of a pool, each as often as another."""
    path, digest = run.files[pool]
    ones = [1.0] * len(run.pools[pool])
    return PartFile(path=str(path), digest=digest, rows=list(range(len(ones))), start=ones, end=ones)


def train_arms(run: Trainings, jobs: Sequence[TrainingJob]) -> None:
    """Train what has not been trained before, `workers` at once; seed by seed, so that all arms advance together."""
    ordered = sorted(jobs, key=lambda job: job.seed)
    different = list({job.key: job for job in ordered}.values())
    known = {job.key for job in different if trained(job) is not None}
    open_ = [job for job in different if job.key not in known]
    run.progress.start("train", sum(job.schedule.steps for job in different))
    run.progress.advance("train", sum(job.schedule.steps for job in different if job.key in known))
    with _trainers(run):
        futures = [train_detector.submit(job.model_dump_json(), str(run.root)) for job in open_]
        wait_for(futures)
        for future in futures:
            future.result()
    run.progress.finish("train")
    results = [trained(job) for job in different]
    reasons = ["diverged" if one and one.diverged else "" for one in results]
    rows = pd.DataFrame({"status": [REJECTED if reason else OK for reason in reasons], "reason": reasons})
    minutes = round(sum(one.seconds for one in results if one) / 60, 1)
    run.count("train", rows, painted=len(open_), reused=len(known), minutes=minutes)
    show_counts(run, "train")


_TRAINERS: dict[str, Trainers] = {}  # by workspace, of runs that train


@contextlib.contextmanager
def _trainers(run: Trainings) -> Iterator[None]:
    with trainers(run.workers or os.cpu_count() or 1) as some:
        _TRAINERS[str(run.root)] = some
        try:
            yield
        finally:
            del _TRAINERS[str(run.root)]


@step(name="train detector", retries=1, retry_delay_seconds=5, retry_condition_fn=may_pass)
def train_detector(text: str, workspace: str) -> None:
    """One training. Raises AugmentError with what its process said of its end."""
    job = TrainingJob.model_validate_json(text)
    with contextlib.ExitStack() as stack:
        some = _TRAINERS.get(workspace) or stack.enter_context(trainers(1))
        trainer = stack.enter_context(some.one())
        check_stop()
        done = 0
        steps = stack.enter_context(contextlib.closing(trainer.train(job)))
        try:
            for number in steps:
                check_stop()
                advance(workspace, "train", number - done)
                done = number
        except Stopped:
            raise
        except AugmentError as error:
            raise AugmentError(f"the training of arm {job.arm}, seed {job.seed}, ended: {error}") from None
    result = trained(job)
    seconds = result.seconds if result else 0.0
    log().info("arm %s, ratio %g, seed %d: trained in %.0f s", job.arm, job.ratio, job.seed, seconds)
