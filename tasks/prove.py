"""prove: a labelled data set in, trained detectors and what they show out; a task a training.

with open_proof(check_proof(values), name, progress) as run:
    real = draw_pools(run, ingest_dataset(run))
    add_final_set(run, "all", workspace, seconds)
    train_arms(run, jobs_of(run))
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd

from lib.core.files import atomic_write
from lib.core.stopping import check_stop
from lib.datasets.formats import categories_of
from lib.evaluation.metrics.layout import Truth
from lib.evaluation.sides import side_of
from lib.proof.arms import ARMS, mix_of
from lib.proof.cards import check_models
from lib.proof.detectors.weights import settings_key
from lib.proof.job import VERSION, TrainingJob, read_detections, trained
from lib.proof.pictures import pool_of, truth_of
from lib.proof.protocol import Opened, Protocol
from lib.proof.report import report_markdown, write_proof
from lib.proof.results import ArmAccount, Training, proven, training_of
from lib.proof.settings import ProveSettings
from lib.proof.split import Split, split_pictures
from lib.records.manifest import read_manifest
from lib.records.rows import OK, REJECTED, ImageRow, ObjectRow
from lib.records.settings import DatasetSettings
from tasks.artifacts import show_counts, show_text
from tasks.engine import log
from tasks.ingest import Ingested
from tasks.progress import Progress
from tasks.run import Run
from tasks.trainings import Trainings, hashes_of, open_trainings, parts_of, whole_pool, write_real


@dataclass(kw_only=True)
class Proof(Trainings):
    """What the stages of one proof share."""

    settings: ProveSettings
    refused: dict[str, dict[str, int]] = field(default_factory=dict)  # by pool: pictures screened out, by reason


@contextlib.contextmanager
def open_proof(settings: ProveSettings, name: str, progress: Progress) -> Iterator[Proof]:
    """Lock the workspace, save what was resolved. Raises AugmentError as `open_trainings` does."""
    root = (settings.workspace or Path("data/runs") / name).absolute()
    with open_trainings(Proof, settings, root, name, progress) as run:
        yield run


def draw_pools(run: Proof, ingested: Ingested) -> DatasetSettings:
    """Divide the pictures; the real pools in memory, and the real training pictures as a data set to paint from."""
    images = read_manifest(ingested.images.file, ImageRow)
    objects = read_manifest(ingested.objects.file, ObjectRow)
    usable = images[images.status == OK]
    hashes = hashes_of(run, usable)
    split = split_pictures(images, objects, hashes, run.settings.split)
    reasons = [split.left.get(key, "") for key in images.key]
    rows = pd.DataFrame({"status": [REJECTED if one else OK for one in reasons], "reason": reasons})
    run.count("split", rows, painted=0, reused=0, train=len(split.train), test=len(split.test), extra=len(split.extra))
    show_counts(run, "split")
    categories = list(categories_of(ingested.envelope.file.read_bytes()))
    used = set(objects.category[objects.image_key.isin(split.train) & (objects.status == OK)])
    run.names = [name for name in categories if name in used]
    for name, keys in (("real", split.train), ("extra", _extra(run, split)), ("test", split.test)):
        chosen = images[images.key.isin(keys)]
        boxes = objects[objects.image_key.isin(keys)]
        pool, _ = pool_of(side_of(chosen, boxes, run.sources), run.names, run.size)
        run.add(name, pool)
    _write_split(run, images, split)
    return write_real(run, ingested, images, objects, split.train)


def _extra(run: Proof, split: Split) -> list[str]:
    """Real pictures for the arms that need more of them, no more than those need."""
    most = max(run.settings.ratios) if "Y" in run.settings.arms else 0.0
    most = max(most, 1.0) if "H" in run.settings.arms else most
    return split.extra[: round(most * len(split.train))]


def _write_split(run: Proof, images: pd.DataFrame, split: Split) -> None:
    """split.json: digests of the files on each side, which a painter's card is held against."""
    digests = dict(zip(images.key, images.digest, strict=True))
    sides = {name: sorted(digests[key] for key in getattr(split, name)) for name in ("train", "extra", "test")}
    atomic_write(run.root / "split.json", json.dumps(sides).encode())


def jobs_of(run: Proof) -> list[TrainingJob]:
    """Every arm × ratio × seed. Raises AugmentError for an arm without pictures."""
    member, settings = run.settings.member, run.settings
    found = []
    for arm, ratio in settings.cells():
        for seed in range(settings.seeds):
            mix = mix_of(arm, run.pools, ratio, len(run.names), seed, settings.fade)
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
                    parts=parts_of(run, mix),
                    hold=mix.hold,
                    test=whole_pool(run, "test"),
                    folder=str(run.trainings),
                )
            )
    return found


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
    more = {"fade": settings.fade} if settings.fade else {}
    # Protocols of the version that named none stay as they are.
    more |= {"version": VERSION} if VERSION > 2 else {}
    return Protocol(
        detector=member.name,
        detector_version=member.version,
        detector_settings=settings_key(member.settings),
        arms=tuple(settings.arms),
        ratios=tuple(settings.ratios),
        seeds=tuple(range(settings.seeds)),
        steps=settings.schedule.steps,
        batch=settings.schedule.batch,
        rate=settings.schedule.rate,
        schedule=settings.schedule.model_dump(mode="json", exclude={"steps", "batch", "rate"}) | more,
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
            refused=run.refused.get(Path(job.parts[-1].path).stem, {}),
            painting=round(max([run.seconds.get(pool, 0.0) for pool in arm.needs], default=0.0), 1),
        )
    return list(found.values())
