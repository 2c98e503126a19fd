"""prove: a labelled data set in, trained detectors and what they show out; a task a training.

    with open_proof(check_proof(values), name, progress) as run:
        pools = draw_pools(run, ingest_dataset(run))
        add_final_set(run, pools, "all", workspace)
        train_arms(run, pools, protocol)

A training's results are kept by its content key: pictures, shares, detector, schedule, seed. So a proof that was ended
goes on, and proofs that share a folder of trainings repeat none.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from lib.core.errors import AugmentError
from lib.core.files import atomic_write
from lib.core.images import PictureError, inside, load_rgb
from lib.core.stopping import check_stop
from lib.datasets.formats import categories_of
from lib.datasets.ids import Ids
from lib.datasets.write_coco import CocoWriter, Sources, final_objects
from lib.evaluation.metrics.duplicates import hash_of
from lib.evaluation.metrics.layout import Truth
from lib.evaluation.sides import read_side, side_of
from lib.proof.arms import ARMS, Mix, mix_of
from lib.proof.cards import check_models
from lib.proof.job import PartFile, TrainingJob, read_detections, trained
from lib.proof.pictures import Pool, pool_of, truth_of
from lib.proof.protocol import Opened, Protocol
from lib.proof.report import report_markdown, write_proof
from lib.proof.results import ArmAccount, Training, proven, training_of
from lib.proof.settings import ProveSettings
from lib.proof.split import Split, split_pictures
from lib.records import kept
from lib.records.manifest import read_manifest
from lib.records.outputs import inputs_of
from lib.records.rows import OK, REJECTED, ImageRow, ObjectRow
from lib.records.settings import DatasetSettings
from lib.runs.workspace import locked
from tasks.artifacts import show_counts, show_text
from tasks.engine import log, step, wait_for
from tasks.ingest import Ingested
from tasks.jobs import may_pass
from tasks.progress import Progress, advance
from tasks.run import Run, Work, accounted

_PAUSE = 0.3  # seconds between two looks at a training


@dataclass(kw_only=True)
class Proof(Work):
    """What the stages of one proof share."""

    settings: ProveSettings
    names: list[str] = field(default_factory=list)  # of the categories
    pools: dict[str, Pool] = field(default_factory=dict)
    files: dict[str, tuple[Path, str]] = field(default_factory=dict)  # of pools: place and digest
    seconds: dict[str, float] = field(default_factory=dict)  # of painting, by pool
    refused: dict[str, int] = field(default_factory=dict)  # pictures that screening set aside, by reason
    notes: list[str] = field(default_factory=list)  # what should be known of the result

    @property
    def trainings(self) -> Path:
        """Folder of finished trainings."""
        return (self.settings.trainings or self.root / "trainings").absolute()

    def add(self, name: str, pool: Pool) -> None:
        """Keep a pool in memory and as a file."""
        path = self.root / "pools" / f"{name}.npz"
        pool.save(path)
        self.pools[name], self.files[name] = pool, (path, pool.digest)


@contextlib.contextmanager
def open_proof(settings: ProveSettings, name: str, progress: Progress) -> Iterator[Proof]:
    """Lock the workspace, save what was resolved. Raises AugmentError as `locked` does."""
    root = (settings.workspace or Path("data/runs") / name).absolute()
    with locked(root, inputs_of(settings)):
        run = Proof(name=name, dataset=settings.dataset, root=root, progress=progress, settings=settings)
        with accounted(run, settings):
            yield run


def draw_pools(run: Proof, ingested: Ingested) -> DatasetSettings:
    """Divide the pictures; the real pools in memory, and the real training pictures as a data set to paint from."""
    images = read_manifest(ingested.images.file, ImageRow)
    objects = read_manifest(ingested.objects.file, ObjectRow)
    usable = images[images.status == OK]
    run.progress.start("split", len(usable))
    hashes = _hashes(run, usable)
    run.progress.finish("split")
    split = split_pictures(images, objects, hashes, run.settings.split)
    reasons = [split.left.get(key, "") for key in images.key]
    rows = pd.DataFrame({"status": [REJECTED if one else OK for one in reasons], "reason": reasons})
    run.count("split", rows, painted=0, reused=0, train=len(split.train), test=len(split.test), extra=len(split.extra))
    show_counts(run, "split")
    categories = list(categories_of(ingested.envelope.file.read_bytes()))
    used = set(objects.category[objects.image_key.isin(split.train) & (objects.status == OK)])
    run.names = [name for name in categories if name in used]
    size = run.settings.member.settings["size"]
    for name, keys in (("real", split.train), ("extra", _extra(run, split)), ("test", split.test)):
        chosen = images[images.key.isin(keys)]
        boxes = objects[objects.image_key.isin(keys)]
        pool, _ = pool_of(side_of(chosen, boxes, run.sources), run.names, size)
        run.add(name, pool)
    _write_split(run, images, split)
    return _write_real(run, ingested, images, objects, split.train)


def _extra(run: Proof, split: Split) -> list[str]:
    """Real pictures for the arms that need more of them, no more than those need."""
    most = max(run.settings.ratios) if "Y" in run.settings.arms else 0.0
    most = max(most, 1.0) if "H" in run.settings.arms else most
    return split.extra[: round(most * len(split.train))]


def _hashes(run: Proof, images: pd.DataFrame) -> dict[str, np.uint64]:
    """Perceptual hashes by image key; a picture that cannot be read has none."""
    found = {}
    for row in images.itertuples(index=False):
        check_stop()
        path = inside(run.sources, row.path)
        with contextlib.suppress(PictureError):
            if path is not None:
                found[str(row.key)] = hash_of(load_rgb(path, row.frame))
        run.progress.advance("split", 1)
    return found


def _write_split(run: Proof, images: pd.DataFrame, split: Split) -> None:
    """split.json: digests of the files on each side, which a painter's card is held against."""
    digests = dict(zip(images.key, images.digest, strict=True))
    sides = {name: sorted(digests[key] for key in getattr(split, name)) for name in ("train", "extra", "test")}
    atomic_write(run.root / "split.json", json.dumps(sides).encode())


def _write_real(
    run: Proof, ingested: Ingested, images: pd.DataFrame, objects: pd.DataFrame, keys: Sequence[str]
) -> DatasetSettings:
    """The real training pictures as a COCO file, the pictures where they are."""
    sources = Sources(images, objects, ingested.envelope.file.read_bytes(), run.sources)
    boxes = final_objects(images, objects)
    names = dict(zip(images.key, images.path, strict=True))
    writer = CocoWriter(sources, boxes, names, Ids({}, {}), several=False)
    file = run.root / "real.json"
    atomic_write(file, writer.encode(images[images.key.isin(keys)], []))
    return DatasetSettings(
        images=run.sources.absolute(),
        annotations=file,
        split="train",
        max_pixels=run.dataset.max_pixels,
        terms=run.dataset.terms,
    )


def add_final_set(run: Proof, name: str, workspace: Path, seconds: float | None) -> None:
    """What a run painted, as a pool. seconds: that it took; None where all was painted before."""
    side = read_side(workspace / "final", "synthetic")
    made = side.entries if side.has_synthetic else ()
    pool, left = pool_of(
        type(side)(tuple(made), side.file, side.names), run.names, run.settings.member.settings["size"]
    )
    run.add(name, pool)
    kept_seconds = run.root / "painting.json"
    run.seconds = kept.read(kept_seconds, dict[str, float]) or {}
    if seconds is not None or name not in run.seconds:
        run.seconds[name] = round(seconds or 0.0, 1)
        kept.write(kept_seconds, run.seconds)
    reasons = [""] * len(pool) + list(left.values())
    rows = pd.DataFrame({"status": [REJECTED if reason else OK for reason in reasons], "reason": reasons})
    run.count(f"pool {name}", rows, painted=len(pool), reused=0)


def jobs_of(run: Proof) -> list[TrainingJob]:
    """Every arm × ratio × seed. Raises AugmentError for an arm without pictures."""
    member, settings = run.settings.member, run.settings
    found = []
    for arm, ratio in settings.cells():
        for seed in range(settings.seeds):
            mix = mix_of(arm, run.pools, ratio, len(run.names), seed)
            found.append(
                TrainingJob(
                    arm=arm,
                    ratio=ratio,
                    seed=seed,
                    names=run.names,
                    detector=member.name,
                    version=member.version,
                    settings=member.settings,
                    schedule=settings.schedule,
                    augmentation=settings.augmentation,
                    parts=_parts(run, mix),
                    hold=mix.hold,
                    test=_whole(run, "test"),
                    folder=str(run.trainings),
                )
            )
    return found


def _parts(run: Proof, mix: Mix) -> list[PartFile]:
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


def _whole(run: Proof, pool: str) -> PartFile:
    path, digest = run.files[pool]
    ones = [1.0] * len(run.pools[pool])
    return PartFile(path=str(path), digest=digest, rows=list(range(len(ones))), start=ones, end=ones)


def train_arms(run: Proof, jobs: Sequence[TrainingJob]) -> None:
    """Train what has not been trained before, `workers` at once; seed by seed, so that all arms advance together."""
    ordered = sorted(jobs, key=lambda job: job.seed)
    different = list({job.key: job for job in ordered}.values())
    known = [job for job in different if trained(job) is not None]
    open_ = [job for job in different if trained(job) is None]
    steps = run.settings.schedule.steps
    run.progress.start("train", steps * len(different))
    run.progress.advance("train", steps * len(known))
    workers = threading.BoundedSemaphore(run.settings.workers or os.cpu_count() or 1)
    with _workers(run, workers):
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


_WORKERS: dict[str, threading.BoundedSemaphore] = {}  # by workspace


@contextlib.contextmanager
def _workers(run: Proof, workers: threading.BoundedSemaphore) -> Iterator[None]:
    _WORKERS[str(run.root)] = workers
    try:
        yield
    finally:
        del _WORKERS[str(run.root)]


@step(name="train detector", retries=1, retry_delay_seconds=5, retry_condition_fn=may_pass)
def train_detector(text: str, workspace: str) -> None:
    """One training, in a process of its own. Raises AugmentError with what that process said of its end."""
    job = TrainingJob.model_validate_json(text)
    with _WORKERS.get(workspace, contextlib.nullcontext()):
        check_stop()
        folder = Path(job.folder)
        folder.mkdir(parents=True, exist_ok=True)
        file, output = (job.place.with_suffix(suffix) for suffix in (".job.json", ".log"))
        atomic_write(file, job.model_dump_json(indent=1).encode())
        environment = os.environ | {"OMP_NUM_THREADS": str(job.threads)}
        command = [sys.executable, "-m", "lib.proof.job", str(file)]
        with output.open("wb") as log_file, output.open("rb") as reader:
            child = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log_file,
                stderr=subprocess.STDOUT,
                env=environment,
                cwd=Path(__file__).resolve().parents[1],
            )
            try:
                _follow(child, reader, workspace)
            finally:
                if child.poll() is None:
                    child.terminate()
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        child.wait(10)
                    child.kill()
        if child.returncode:
            last = output.read_bytes().decode(errors="replace").strip().splitlines()[-1:]
            why = last[0][:500] if last else f"exit code {child.returncode}"
            raise AugmentError(f"the training of arm {job.arm}, seed {job.seed}, ended: {why}; its log is {output}")
        output.unlink(missing_ok=True)
        result = trained(job)
        seconds = result.seconds if result else 0.0
        log().info("arm %s, ratio %g, seed %d: trained in %.0f s", job.arm, job.ratio, job.seed, seconds)


def _follow(child: subprocess.Popen[bytes], reader: Any, workspace: str) -> None:
    """Until the child ends, its steps as progress. Raises Stopped where the run is to end."""
    done, rest = 0, b""
    while True:
        ended = child.poll() is not None
        *lines, rest = (rest + reader.read()).split(b"\n")
        for line in lines:
            with contextlib.suppress(ValueError, TypeError, KeyError):
                report = json.loads(line)
                advance(workspace, "train", int(report["step"]) - done)
                done = int(report["step"])
        if ended:
            return
        check_stop()
        time.sleep(_PAUSE)


def check_painters(run: Proof, painting: Run) -> None:
    """As lib.proof.cards.check_models, of the models of a run that paints."""
    models = {"painter": painting.recipe.painter.model, "judge": painting.judge}
    folders = {what: Path(model.path) for what, model in models.items() if model is not None and model.path}
    for note in check_models(folders, run.root / "split.json"):
        log().warning(note)
        run.notes.append(note)


def protocol_of(run: Proof) -> Protocol:
    """What will be compared, before anything is seen of the test pictures."""
    settings, member = run.settings, run.settings.member
    return Protocol(
        detector=member.name,
        detector_version=member.version,
        detector_settings=member.settings,
        arms=tuple(settings.arms),
        ratios=tuple(settings.ratios),
        seeds=tuple(range(settings.seeds)),
        steps=settings.schedule.steps,
        batch=settings.schedule.batch,
        rate=settings.schedule.rate,
        schedule=settings.schedule.model_dump(mode="json", exclude={"steps", "batch", "rate"}),
        augmentation=settings.augmentation.model_dump(mode="json"),
        contrasts=tuple(map(str, settings.claims())),
        pools={name: digest for name, (_, digest) in run.files.items()},
        names=tuple(run.names),
        software=version("augment"),
    )


def write_results(run: Proof, jobs: Sequence[TrainingJob], protocol: Protocol, opened: Opened) -> str:
    """Score every training on the test pictures, write proof.json and report.html; returns what was shown."""
    truth = truth_of(run.pools["test"])
    run.progress.start("score", len(jobs))
    trainings = []
    for job in jobs:
        check_stop()
        trainings.append(_scored(job, truth, run.names))
        run.progress.advance("score", 1)
    counts = {name: len(pool) for name, pool in run.pools.items()}
    left = run.account["stages"]["split"]["rejected"]
    proof = proven(run.name, protocol, opened, trainings, _arms(run, jobs), counts, left, run.notes)
    write_proof(run.root, proof)
    show_text("proof", report_markdown(proof))
    return proof.headline


def _scored(job: TrainingJob, truth: list[Truth], names: list[str]) -> Training:
    result, found = trained(job), read_detections(job)
    of_job: dict[str, Any] = {"arm": job.arm, "ratio": job.ratio, "seed": job.seed, "key": job.key}
    if result is None or found is None:
        why = result.diverged if result else "not finished"
        return Training(**of_job, why=why, diverged=bool(result and result.diverged))
    of_job |= {"history": result.history, "seconds": result.seconds, "gains": job.seed == 0}
    return training_of(truth=truth, found=found, names=names, **of_job)


def _arms(run: Proof, jobs: Sequence[TrainingJob]) -> list[ArmAccount]:
    """What each arm learned from, and what it cost."""
    found: dict[tuple[str, float], ArmAccount] = {}
    for job in jobs:
        arm = ARMS[job.arm]
        real, *more = job.parts
        found[job.arm, job.ratio] = ArmAccount(
            arm=job.arm,
            ratio=job.ratio,
            title=arm.title,
            real=len(real.rows),
            synthetic=sum(len(part.rows) for part in more),
            refused=run.refused if "screened" in arm.needs and job.arm != "G" else {},
            painting=round(max([run.seconds.get(pool, 0.0) for pool in arm.needs], default=0.0), 1),
        )
    return list(found.values())
