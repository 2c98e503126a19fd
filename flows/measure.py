"""The mini models' figures, on scenes that are in no training set, for their cards.

augment measure                                   # data/models/mini; 100 scenes
augment measure --models data/runs/mini/models
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from flows.augment import augment
from lib.core.checkpoints import resolve
from lib.core.errors import AugmentError
from lib.datasets.formats import read_dataset
from lib.datasets.ingest import check_pictures
from lib.evaluation.fidelity import fidelity
from lib.figures.mini import captions, reconstruction
from lib.judges import make_judge
from lib.records.settings import DatasetSettings
from lib.scenes.warehouse import write_dataset
from lib.training import MINI
from lib.training.card import write_card
from lib.training.data import training_pictures
from lib.training.train import read_facts

SEED = 999  # data/demo is drawn from 7, the training scenes from 101 and 102
SIDE = 256  # pixels of a scene

Report = Callable[[str], object]


def measure(models: Path, count: int, workspace: Path, report: Report = lambda text: None) -> dict[str, Any]:
    """Draw `count` scenes, measure every model in `models` on them, write the figures into the models' cards.

    Returns {model: {figure: value}}. Raises AugmentError where a model is missing or a run failed.
    """
    missing = [name for name in MINI if "trainer" not in read_facts(models / name)]
    if missing:
        raise AugmentError(f"{models} lacks {', '.join(missing)} as `augment train` leaves them: name another folder")
    scenes = workspace / "scenes"
    report(f"drawing {count} scenes")
    write_dataset(scenes, count, SEED, (SIDE, SIDE))
    dataset = DatasetSettings(images=scenes / "images", annotations=scenes / "annotations.json")
    read = read_dataset(dataset)
    images = check_pictures(read.images.to_pandas(), dataset.images, dataset.max_pixels)
    pictures, _ = training_pictures(images, read.objects.to_pandas(), dataset.images, SIDE // 2)
    scorer = make_judge(resolve(str(models / "clip"), {}))
    report("autoencoder, captions")
    found: dict[str, dict[str, Any]] = {
        "vae": reconstruction(models / "vae", pictures, read_facts(models / "vae")["size"]),
        "blip2": captions(models / "blip2", pictures),
    }
    for painter, preset, edit in (
        ("gligen-inpaint", "gligen-inpainting", {"min_window": read_facts(models / "gligen-inpaint")["size"]}),
        ("gligen", "gligen-generation", {}),
    ):
        report(f"{painter}: painting {count} pictures")
        run = workspace / painter
        state = augment(
            dataset=dataset.model_dump(mode="json"),
            preset=preset,
            models="mini",
            edit=edit or None,
            painter={"model": str(models / painter), "size": read_facts(models / painter)["size"]},
            caption={"captioner": {"name": "blip2", "model": str(models / "blip2")}},
            evaluate={"extractor": None},
            workspace=run,
            return_state=True,
        )
        if not state.is_completed():
            raise AugmentError(f"{painter}: {state.message or state.name}")
        judged = fidelity(run / "final", scorer)
        found[painter] = {
            "layout_fidelity": judged.fidelity,
            "interval": judged.interval,
            **{side: getattr(judged, side) for side in ("real", "generated", "shuffled")},
        }
    found["clip"] = {"boxes_recognised": judged.real}  # of the generation run
    for name, figures in found.items():
        write_card(models / name, {"scenes": count, "seed": SEED, **figures})
    return found
