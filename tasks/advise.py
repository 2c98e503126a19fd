"""advise: a labelled data set in, detectors cross-validated on it, and what their errors advise out.

with open_advice(check_advice(values), name, progress) as run:
    draw_folds(run, ingest_dataset(run))
    train_arms(run, jobs_of(run))
    write_results(run)
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd

from lib.core.errors import AugmentError
from lib.core.stopping import check_stop
from lib.evaluation.detectors import Detections
from lib.evaluation.metrics.layout import Truth
from lib.evaluation.sides import side_of
from lib.proof.advice import Advice, advise
from lib.proof.advice_page import advice_markdown, write_advice
from lib.proof.advising import AdviseSettings, run_parameters
from lib.proof.arms import Mix, Part, mix_of
from lib.proof.findings import Basis, Cell, Free, findings_of
from lib.proof.folds import Fold, candidates, check_enough, divide, groups_of, judged_categories, part_of
from lib.proof.job import PartFile, TrainingJob, read_detections, trained
from lib.proof.pictures import Pool, pool_of, truth_of
from lib.proof.split import split_pictures
from lib.records.manifest import read_manifest
from lib.records.rows import OK, REJECTED, ImageRow, ObjectRow
from lib.records.settings import DatasetSettings
from tasks.artifacts import show_counts, show_text
from tasks.ingest import Ingested
from tasks.progress import Progress
from tasks.trainings import Trainings, hashes_of, open_trainings, parts_of, write_real

Key = tuple[str, float, int]  # arm, share of a fold's training pictures, fold


@dataclass(kw_only=True)
class Advising(Trainings):
    """What the stages share."""

    settings: AdviseSettings
    folds: list[Fold] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)  # of the pictures that take part, in the order of the pool
    groups: list[str] = field(default_factory=list)  # theirs
    grouped: bool = False  # the data set says which belong together
    unjudged: list[str] = field(default_factory=list)  # categories
    real: DatasetSettings | None = None  # what the advised run paints from
    jobs: dict[Key, TrainingJob] = field(default_factory=dict)


@contextlib.contextmanager
def open_advice(settings: AdviseSettings, name: str, progress: Progress) -> Iterator[Advising]:
    """Lock the workspace, save what was resolved. Raises AugmentError as `open_trainings` does."""
    root = (settings.workspace or Path("data/runs") / f"{name}-advice").absolute()
    with open_trainings(Advising, settings, root, name, progress) as run:
        yield run


def draw_folds(run: Advising, ingested: Ingested) -> None:
    """The pictures that take part as a pool, divided by groups."""
    images = read_manifest(ingested.images.file, ImageRow)
    objects = read_manifest(ingested.objects.file, ObjectRow)
    chosen, hashes = _chosen(run, images, objects)
    settings = run.settings.folds
    boxes = objects[objects.image_key.isin(chosen.key)]
    run.names, run.unjudged = judged_categories(boxes, chosen)
    pool, chosen = _pool(run, chosen, boxes)
    run.keys, run.groups = chosen.key.tolist(), groups_of(chosen)
    run.grouped = bool((chosen.group != "").any())
    counts = pool.counts(len(run.names))
    run.folds = divide(run.groups, counts, [hashes[key] for key in run.keys], settings)
    run.add("real", pool)
    part = images.key.isin(run.keys)
    reasons = images.reason.where(images.reason != "", part.map({True: "", False: "takes_no_part"}))
    rows = pd.DataFrame({"status": [REJECTED if one else OK for one in reasons], "reason": reasons})
    run.count("split", rows, painted=0, reused=0, folds=len(run.folds), groups=len(set(run.groups)))
    show_counts(run, "split")
    whole = run.settings.split is None
    run.real = run.dataset if whole else write_real(run, ingested, images, objects, run.keys)
    if run.settings.copy_paste:
        for k, fold in enumerate(run.folds):
            write_real(run, ingested, images, objects, [run.keys[i] for i in fold.train], name=f"fold-{k}")


def _chosen(run: Advising, images: pd.DataFrame, objects: pd.DataFrame) -> tuple[pd.DataFrame, dict[str, np.uint64]]:
    """The readable pictures that take part, and their perceptual hashes by key."""
    settings, split = run.settings.folds, run.settings.split
    if split is None:
        chosen = candidates(images, objects, settings)
        hashes = hashes_of(run, chosen)
    else:  # a proof draws its training pictures by the hashes of all
        hashes = hashes_of(run, images[images.status == OK])
        chosen = candidates(images, objects, settings, split_pictures(images, objects, hashes, split).train)
    chosen = chosen[chosen.key.isin(list(hashes))]
    check_enough(len(chosen), len(images), settings)
    return chosen, hashes


def _pool(run: Advising, chosen: pd.DataFrame, boxes: pd.DataFrame) -> tuple[Pool, pd.DataFrame]:
    """The pictures with the boxes of categories that can be judged, and their rows; leaves those in run.names."""
    side = side_of(chosen, boxes, run.sources)
    for _ in range(2):  # again, where all boxes of a category turned out to be ignored ones
        pool, left = pool_of(side, run.names, run.size)
        seen = pool.counts(len(run.names)).sum(0) > 0
        run.unjudged += [name for name, some in zip(run.names, seen, strict=True) if not some]
        run.names = [name for name, some in zip(run.names, seen, strict=True) if some]
        if seen.all():
            break
    if not run.names:
        raise AugmentError(
            "no category lies in two groups of pictures, so none can be learned from some and tested in others: add "
            "labelled pictures"
        )
    kept = chosen[~chosen.file_name.isin(list(left))]
    if len(kept) != len(pool):
        raise AugmentError("two pictures of the data set have the same name, one of them broken: remove that one")
    return pool, kept


def copy_dataset(run: Advising, fold: int) -> DatasetSettings:
    """A fold's training pictures, to paint copies from: the held ones give no donors."""
    return DatasetSettings(
        images=run.sources.absolute(),
        annotations=run.root / f"fold-{fold}.json",
        split="train",
        max_pixels=run.dataset.max_pixels,
    )


def jobs_of(run: Advising) -> list[TrainingJob]:
    """For each fold: the points of the learning curve, repeat-factor sampling, and copy-paste where its pool is."""
    shares = [0.5**k for k in range(run.settings.folds.curve)]
    for k, fold in enumerate(run.folds):
        for share in shares:
            run.jobs["A", share, k] = _job(run, k, "A", share, part_of(fold, share))
        run.jobs["C", 1.0, k] = _job(run, k, "C", 1.0, fold.train)
        if f"copy-{k}" in run.pools:
            run.jobs["D", 1.0, k] = _job(run, k, "D", 1.0, fold.train)
    return list(run.jobs.values())


def _job(run: Advising, k: int, arm: str, share: float, rows: np.ndarray) -> TrainingJob:
    """Tested on the fold's own pictures, and where all others are learned from, on some of those as well."""
    member, settings, fold = run.settings.member, run.settings, run.folds[k]
    pools = {"real": run.pools["real"].take(rows)}
    pools |= {"copy": run.pools[f"copy-{k}"]} if arm == "D" else {}
    mix = mix_of(arm, pools, 1.0, len(run.names), k)
    tested = [*fold.held, *(_fitted(run, fold) if share == 1.0 else [])]
    path, digest = run.files["real"]
    ones = [1.0] * len(tested)
    return TrainingJob(
        arm=arm,
        ratio=share,
        seed=k,
        names=run.names,
        detector=member.name,
        version=member.version,
        settings=member.settings,
        schedule=settings.schedule,
        augmentation=settings.augmentation,
        parts=parts_of(run, _placed(mix, rows, k)),
        hold=mix.hold,
        test=PartFile(path=str(path), digest=digest, rows=[int(row) for row in tested], start=ones, end=ones),
        folder=str(run.trainings),
    )


def _placed(mix: Mix, rows: np.ndarray, k: int) -> Mix:
    """With the numbers of the whole pool, and the fold's own pool of copies."""
    parts: list[Part] = []
    for part in mix.parts:
        real = part.pool == "real"
        parts.append(replace(part, pool="real" if real else f"copy-{k}", rows=rows[part.rows] if real else part.rows))
    return Mix(tuple(parts), mix.hold)


def _fitted(run: Advising, fold: Fold) -> np.ndarray:
    return fold.train[: run.settings.folds.fitted]


def write_results(run: Advising) -> Advice:
    """What the trainings found, the advice, and its files advice.json, advice.yaml and advice.html."""
    truth = truth_of(run.pools["real"])
    run.progress.start("score", 1)
    shares = sorted({share for arm, share, _ in run.jobs if arm == "A"})
    cells = {share: cell for share in shares if (cell := _cell(run, truth, "A", share)) is not None}
    if not {0.5, 1.0} <= set(cells):  # of fewer pictures than half the curve does without
        raise AugmentError(
            f"trainings diverged ({'; '.join(run.notes)}), and without them there is no learning curve: lower "
            "schedule.rate"
        )
    arms = [arm for arm in ("C", "D") if (arm, 1.0, 0) in run.jobs]
    free = {cast("Free", arm): cell for arm in arms if (cell := _cell(run, truth, arm, 1.0)) is not None}
    check_stop()
    found = findings_of(_basis(run), truth, list(cells.values()), free, _learned(run, truth))
    advice = advise(found)
    assert run.real is not None
    workspace = run.root / "run"
    parameters = run_parameters(advice, run.settings, run.real, len(run.keys), workspace)
    write_advice(run.root, run.name, advice, found, parameters)
    run.progress.finish("score")
    show_text("advice", advice_markdown(run.name, advice, found))
    return advice


def _cell(run: Advising, truth: Sequence[Truth], arm: str, share: float) -> Cell | None:
    """The detections of all folds, each picture's from the fold that holds it; None where a training diverged."""
    found: dict[int, Detections] = {}
    pictures, boxes = [], []
    for k, fold in enumerate(run.folds):
        job = run.jobs[arm, share, k]
        some, result = read_detections(job), trained(job)
        if some is None or result is None or result.diverged:
            why = result.diverged if result else "not finished"
            run.notes.append(f"arm {arm} at {share:g} of the pictures, fold {k + 1}, is left out: {why}")
            return None
        found |= dict(zip(fold.held.tolist(), some[: len(fold.held)], strict=True))
        rows = part_of(fold, share)
        pictures.append(len(rows))
        boxes.append(run.pools["real"].take(rows).counts(len(run.names)).sum(0))
    return Cell(share, float(np.mean(pictures)), np.mean(boxes, 0), [found[i] for i in range(len(truth))])


def _learned(run: Advising, truth: Sequence[Truth]) -> tuple[list[Truth], list[Detections]]:
    """Boxes and detections of pictures that a fold's detector learned from."""
    pictures: list[Truth] = []
    found: list[Detections] = []
    for k, fold in enumerate(run.folds):
        some = read_detections(run.jobs["A", 1.0, k]) or []
        pictures += [truth[i] for i in _fitted(run, fold)]
        found += some[len(fold.held) :]
    return pictures, found


def _basis(run: Advising) -> Basis:
    fold_of = np.zeros(len(run.keys), np.int64)
    for k, fold in enumerate(run.folds):
        fold_of[fold.held] = k
    results: list[Any] = [trained(job) for job in {job.key: job for job in run.jobs.values()}.values()]
    return Basis(
        names=run.names,
        detector=run.settings.member.name,
        steps=run.settings.schedule.steps,
        folds=fold_of.tolist(),
        groups=run.groups,
        grouped=run.grouped,
        seconds=sum(one.seconds for one in results if one),
        unjudged=run.unjudged,
        near=sum(fold.near for fold in run.folds),
        quick=run.settings.quick,
        notes=run.notes,
    )
