"""A layout-to-image model's figures for its card, measured on boards of groups that no training has used.

    augment measure defects --data data/raw/deep_pcb/PCBData          # data/models/pcb; 300 boxes
    augment measure defects --data PCBData --models data/runs/stay/models --tune-steps 0
    augment fidelity WORKSPACE/stay/final --real WORKSPACE/real --model data/models/pcb/classifier --json F

The painter `stay` paints the boxes of defective boards into their clean partners, by the journey; beside it stand the
free baseline, copy-paste among the defective boards themselves, and real boxes against other real ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from flows.augment import augment
from lib.core.checkpoints import resolve
from lib.core.errors import AugmentError
from lib.core.images import load_rgb
from lib.datasets.formats.deep_pcb import DEFECTIVE, TEST_GROUPS
from lib.evaluation.evaluate import evaluate, score_sets
from lib.evaluation.features import extractor_of
from lib.evaluation.fidelity import fidelity
from lib.evaluation.metrics.fidelity import Fidelity
from lib.evaluation.metrics.perceptual import NETWORKS, diversity
from lib.evaluation.results import Evaluation
from lib.figures.defects import (
    CLOSE,
    Boards,
    ClassifierFeatures,
    Crops,
    by_figure,
    contact_sheet,
    crops_of,
    nearest,
    neighbour_panel,
    read_boards,
    samples,
)
from lib.judges.classifier import CropClassifier
from lib.judges.clip import RegionSettings
from lib.painting.painters import PAINTERS, Painter
from lib.records.manifest import read_manifest
from lib.records.requests import Pass, Request
from lib.records.rows import OK, PlanRow
from lib.records.settings import DatasetSettings
from lib.records.store import Store
from lib.runs.sheet import write_sheet
from lib.training import TRAINERS
from lib.training.card import write_card
from lib.training.data import training_pictures
from lib.training.train import finished_model, read_facts, train_model

TUNED = "77000"  # of the test groups: the one that the model is fine-tuned on
TUNED_BOARDS = 50  # of it, at most half: the others are painted before and after
TUNED_RATE = 0.5  # times the rate that it was trained with
ALONE = 150  # windows of it that are made of their layouts alone, before and after
LAYOUTS, SAMPLES = 2, 10  # of a category; paints of each
WHOLE, PERCEPTUAL = ("inception", "pixels"), ("alex", "mini")  # the first whose weights are available
NEAREST = f"grey values of boxes at {CLOSE} × {CLOSE} pixels, to the nearest of the training groups"
HOW = "`augment measure defects`, on boards of groups that no training has seen"

Report = Callable[[str], object]
Figures = dict[str, dict[str, Any]]  # {set: {figure: value}}


def measure_defects(
    data: Path, models: Path, boxes: int, tune_steps: int, workspace: Path, report: Report = lambda text: None
) -> dict[str, Any]:
    """Measure models/stay, as models/classifier judges it, with about `boxes` painted boxes; both cards are written.

    data: PCBData; tune_steps: of the fine-tuning, 0: none. What the workspace holds is not painted or trained again.
    Returns {"figures": {set: {figure: value}}, "details": whole results by name, "panels": {name: path}}. Raises
    AugmentError where models or boards are missing, or a run failed.
    """
    missing = [name for name in ("stay", "classifier") if "trainer" not in read_facts(models / name)]
    if missing:
        raise AugmentError(f"{models} lacks {', '.join(missing)} as `augment train` leaves them: name another folder")
    trial = _Trial(data, models, workspace, boxes)
    chosen = trial.clean.only(trial.clean.some(boxes))
    partners = trial.test.only(trial.test.stems.isin(chosen.stems))
    report(f"stay: painting {len(chosen.objects)} boxes of {len(chosen.images)} boards")
    finals = {"stay": trial.paint("stay", chosen, models)}
    report("copy-paste: painting as many")
    finals["copy-paste"] = trial.paint("copy-paste", partners)
    report("fidelity, distances, neighbours")
    found, details, panels = _compared(trial, chosen, partners, finals)
    report(f"diversity: {SAMPLES} samples of {LAYOUTS} layouts a category")
    found["by"]["diversity"], varied = trial.diversity("stay", chosen)
    found["stay"] |= varied
    if tune_steps:
        details["group"], details["group_alone"] = trial.tuned(tune_steps, report)
        _enter(found, f"group_{TUNED}", details["group"])
        _enter(found, f"group_{TUNED}_alone", details["group_alone"])
    write_card(models / "stay", by_figure(found), HOW)
    write_card(models / "classifier", _recognised(details["fidelity"]["stay"]), HOW)
    documents = {what: {name: result.document() for name, result in some.items()} for what, some in details.items()}
    return {"figures": found, "details": documents, "panels": panels}


def _compared(
    trial: _Trial, chosen: Boards, partners: Boards, finals: Mapping[str, Path]
) -> tuple[Figures, dict[str, Any], dict[str, str]]:
    """Figures, whole results and panels of what was painted, beside real boxes."""
    crops = {name: _painted(final) for name, final in finals.items()} | {"train": crops_of(trial.train)}
    real = crops_of(trial.test)
    details = {
        "fidelity": {name: fidelity(final, trial.judge, trial.workspace / "real") for name, final in finals.items()},
        "crop": trial.distances(real, crops),
        "picture": _of_pictures(finals, trial.test, Store(trial.workspace / "store")),
    }
    compared = {**{name: crops[name] for name in finals}, "real": crops_of(partners)}
    near = {name: nearest(of.close, crops["train"].close) for name, of in compared.items()}
    found: Figures = {"by": {"nearest": NEAREST}, "stay": {}, "copy-paste": {}, "real": {}, "train": {}}
    for name, result in details["fidelity"].items():
        found[name] |= _of_fidelity(result)
    for what in ("crop", "picture"):
        _enter(found, what, details[what])
    for name, neighbours in near.items():
        apart = neighbours.distance
        found[name]["nearest"] = {"median": float(np.median(apart)), "least": float(apart.min())}
    panels = {
        "sheet": contact_sheet(crops_of(chosen), crops["stay"], real),
        "neighbours": neighbour_panel(crops["stay"], crops["train"], near["stay"]),
    }
    for name, panel in panels.items():
        write_sheet(panel, trial.workspace / f"{name}.png")
    return found, details, {name: str(trial.workspace / f"{name}.png") for name in panels}


@dataclass(frozen=True)
class _Trial:
    """The boards of the test groups, and what is done with them in one workspace."""

    data: Path
    models: Path
    workspace: Path
    boxes: int  # to paint, about

    @cached_property
    def clean(self) -> Boards:
        """Clean boards of the test groups with the boxes of their partners."""
        return self._of("deep-pcb-layout", "test")

    @cached_property
    def test(self) -> Boards:
        """Defective boards of the test groups; also written to the workspace, as real boxes to compare with."""
        boards = self._of("deep-pcb", "test")
        boards.write(self.workspace / "real")
        return boards

    @cached_property
    def train(self) -> Boards:
        """Defective boards of the other groups."""
        return self._of("deep-pcb", "train")

    @cached_property
    def judge(self) -> CropClassifier:
        return CropClassifier(RegionSettings(), resolve(str(self.models / "classifier"), {}))

    def _of(self, format: str, split: str) -> Boards:
        boards = read_boards(DatasetSettings(images=self.data, format=format, group="group"))
        chosen = boards.images.split == split
        chosen = boards.only(chosen & (boards.images.path.str.endswith(DEFECTIVE) | (format == "deep-pcb-layout")))
        if chosen.objects.empty:
            wanted = f"the groups {', '.join(TEST_GROUPS)}" if split == "test" else "other groups than the test groups"
            raise AugmentError(f"{self.data} has no labelled boards of {wanted}: expected PCBData as a whole")
        return chosen

    def paint(self, name: str, boards: Boards, models: Path | None = None) -> Path:
        """The final folder of the journey over these boards: by models/stay; by copy-paste where models is None.

        Raises AugmentError where it does not complete.
        """
        folder = self.workspace / name
        boards.write(folder / "given")
        state = augment(
            dataset={"images": boards.root, "annotations": folder / "given" / "annotations.json", "split": "train"},
            evaluate={"extractor": None},
            finalise={"originals": "none"},
            workspace=folder,
            return_state=True,
            **(_copy_paste() if models is None else _stay(models)),
        )
        if not state.is_completed():
            raise AugmentError(f"{name}: {state.message or state.name}")
        return folder / "final"

    def distances(self, real: Crops, crops: Mapping[str, Crops]) -> dict[str, Any]:
        """FID, KID and more of windows against real ones, by the judge's features; all at the same number."""
        alike = min(len(of.keys) for of in crops.values())
        return self.apart(real.windows, {name: of.draw(alike).windows for name, of in crops.items()})

    def apart(self, real: np.ndarray, made: Mapping[str, np.ndarray]) -> dict[str, Any]:
        """The same of uint8 windows (N, H, W, 3), by name."""
        extractor = ClassifierFeatures(self.judge)
        known = extractor.extract(real)
        return {name: score_sets(known, extractor.extract(windows), extractor) for name, windows in made.items()}

    def diversity(self, name: str, boards: Boards) -> tuple[str, dict[str, float]]:
        """The network, and mean LPIPS over all pairs of samples of a window that was painted: in its place, with the
        board kept around it, and of the layout alone."""
        network, painter = _first(lambda name: NETWORKS[name](), PERCEPTUAL), _painter_of(self.models)
        passes: dict[str, list[tuple[Any, Any]]] = {}
        for picture, step in self.passes(name, boards):
            passes.setdefault(step.phrases[0], []).append((picture, step))
        figures: dict[str, list[float]] = {"diversity_in_place": [], "diversity_of_layout": []}
        for picture, step in (pair for pairs in passes.values() for pair in pairs[:LAYOUTS]):
            for whole, values in enumerate(figures.values()):
                values.append(diversity(network, samples(painter, picture, step, SAMPLES, bool(whole))))
        return f"LPIPS, {network.name}", {name: float(np.mean(values)) for name, values in figures.items()}

    def passes(self, name: str, boards: Boards) -> Iterator[tuple[Any, Pass]]:
        """The requests of the run of that name: the picture of each pass, and the pass."""
        plan = read_manifest(self.workspace / name / "manifests" / "plan.parquet", PlanRow)
        rows = boards.images.set_index("key")
        for row in plan[plan.status == OK].itertuples():
            picture = load_rgb(boards.root / rows.path[row.image_key], rows.frame[row.image_key])
            for step in Request.model_validate_json(row.request).passes:
                yield picture, step

    def tuned(self, steps: int, report: Report) -> tuple[dict[str, Any], dict[str, Any]]:
        """The distances in one group, whose other boards the model is fine-tuned on, before and after: of windows whose
        box was painted, and of windows made of their layouts alone, in which no board is kept."""
        group = self.test.only(self.test.images.group == TUNED)
        order = np.random.default_rng(0).permutation(len(group.images))
        learned = group.images.key.isin(group.images.key.iloc[order[: min(TUNED_BOARDS, len(order) // 2)]])
        rest = group.only(~learned)
        facts, boards = read_facts(self.models / "stay"), group.only(learned)
        given = {"steps": steps, "rate": TUNED_RATE * facts["settings"]["rate"]}
        settings, size = TRAINERS.settings("stay", facts["settings"] | given), facts["size"]
        folder = self.workspace / f"tuned-{facts['revision'].removeprefix('sha256:')[:8]}-{steps}"
        data = f"DeepPCB, {len(boards.images)} boards of group {TUNED}"
        if not finished_model("stay", settings, size, folder / "models", self.models, data):
            report(f"fine-tuning on {len(boards.images)} boards of group {TUNED}")
            images = boards.images.assign(split="train")
            pictures, _ = training_pictures(images, boards.objects, boards.root, size, detail=0)
            train_model(
                "stay",
                settings,
                pictures,
                size,
                folder / "models",
                folder / "work",
                start=self.models,
                data=data,
                watch=lambda progress: report(f"  step {progress.step} of {progress.steps} {progress.note}"),
            )
        layouts = self.clean.only(self.clean.stems.isin(rest.stems))
        layouts = layouts.only(layouts.some(self.boxes))
        report(f"before and after: painting {len(layouts.objects)} boxes of its other boards")
        painted = {
            "stay": _painted(self.paint("before", layouts, self.models)),
            "tuned": _painted(self.paint("after", layouts, folder / "models")),
        }
        real = crops_of(rest)
        report("before and after: windows of their layouts alone")
        passes = list(islice(self.passes("before", layouts), ALONE))
        alone = {
            name: np.concatenate([samples(painter, picture, step, 1, True) for picture, step in passes])
            for name, painter in (("stay", _painter_of(self.models)), ("tuned", _painter_of(folder / "models")))
        }
        return self.distances(real, painted), self.apart(real.windows, alone)


def _copy_paste() -> dict[str, Any]:
    return {"preset": "copy-paste", "select": {"require_objects": True}}


def _stay(models: Path) -> dict[str, Any]:
    """Parameters of the journey: each defect gets a window of the model's size, at the boards' own resolution."""
    painter = _painter(models)
    return {
        "preset": "stay-defects",
        "select": {"max_objects": None, "require_objects": True},
        "edit": {"name": "replace", "context": 1, "min_window": painter["size"]},
        "painter": painter,
    }


def _painter(models: Path) -> dict[str, Any]:
    return {"name": "stay", "model": str(models / "stay"), "size": read_facts(models / "stay")["size"]}


def _painter_of(models: Path) -> Painter:
    """The painter itself, for windows."""
    values = {key: value for key, value in _painter(models).items() if key != "name"}
    made: Painter = PAINTERS.build(PAINTERS.member("stay", values, resolve(str(models / "stay"), {})))
    return made


def _painted(final: Path) -> Crops:
    dataset = DatasetSettings(images=final / "images", annotations=final / "annotations.json")
    return crops_of(read_boards(dataset, painted=True))


# --- figures -----------------------------------------------------------------------------------------------------


def _of_fidelity(result: Fidelity) -> dict[str, Any]:
    """Its figures, and the share of hits among painted boxes by category and size."""
    figures = {"boxes": result.n_generated, "layout_fidelity": result.fidelity}
    figures |= {name: getattr(result, name) for name in ("interval", "generated", "real", "shuffled")}
    return figures | _shares(result, "generated")


def _recognised(result: Fidelity) -> dict[str, Any]:
    """The judge's hits among real boxes."""
    return {"boxes": result.n_real, "hits": result.real, **_shares(result, "real")}


def _shares(result: Fidelity, side: str) -> dict[str, float]:
    """Hits of a side by category and size, where it has any boxes."""
    groups = (result.by_category | result.by_size).items()
    return {f"hits, {name}": share for name, of in groups if (share := of.share(side)) is not None}


def _of_pictures(finals: Mapping[str, Path], test: Boards, cache: Store) -> dict[str, Evaluation]:
    """FID and KID of whole pictures."""
    extractor, real = _first(extractor_of, WHOLE), [test.root / path for path in test.images.path]
    return {
        name: evaluate(real, final / "images", extractor, metrics=["fid", "kid"], cache=cache)
        for name, final in finals.items()
    }


def _first(make: Callable[[str], Any], names: Sequence[str]) -> Any:
    """The first one whose weights are available; the last one's error where none is."""
    for name in names[:-1]:
        try:
            made = make(name)
            if hasattr(made, "check"):
                made.check()
            return made
        except AugmentError:
            continue
    return make(names[-1])


def _enter(found: Figures, what: str, results: Mapping[str, Evaluation]) -> None:
    """FID and KID of each set into its figures, at the number of pictures that real ones have in the floor."""
    for name, result in results.items():
        floor = result.floor
        assert result.features is not None
        found["by"][what] = f"{result.features.extractor}, {floor.m if floor else result.n_generated} a side"
        for metric in ("fid", "kid"):
            at_m = floor.beside(metric) if floor else None
            found.setdefault(name, {})[f"{what}_{metric}"] = at_m[0] if at_m else result.numbers[metric]
            if at_m:
                found["real"][f"{what}_{metric}"] = at_m[1].model_dump()
