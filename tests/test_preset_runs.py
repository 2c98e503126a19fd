"""Every preset from end to end through the flow, on tiny random models; and the real forklifts by the mini models."""

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import MadeSet, pixels_of
from PIL import Image
from pycocotools.coco import COCO
from shared import shared
from tiny import tiny_blip2

from lib.datasets.formats import read_dataset
from lib.painting.canvas import cut_window
from lib.painting.composites import COMPOSITES
from lib.painting.painters import PAINTERS
from lib.records.manifest import read_manifest
from lib.records.requests import Request
from lib.records.rows import OK, FinalRow, PlanRow
from lib.records.settings import DatasetSettings
from lib.runs.presets import PRESETS


def run(workspace: Path, dataset, **parameters):
    """Run the flow without evaluation, which takes half of the time; the account of the run."""
    from flows.augment import augment

    state = augment.fn(**{"dataset": dataset, "workspace": workspace, "evaluate": {"extractor": None}, **parameters})
    assert state.is_completed(), state.message
    return json.loads((workspace / "status.json").read_bytes())


@pytest.fixture(scope="module")
def sets(tmp_path_factory, triples):
    """The data sets of all presets: pictures with two boxes each, those and two without objects, and triples."""
    some, bare = (MadeSet(tmp_path_factory.mktemp("sets") / name, 2) for name in ("some", "bare"))
    for number in (2, 3):
        bare.add(number, boxes=0)
    bare.write()
    return {"some": some.dataset, "bare": bare.dataset, "triples": triples}


@pytest.fixture(scope="module")
def blip2(tmp_path_factory):
    return str(tiny_blip2(tmp_path_factory.mktemp("tiny") / "blip2"))


@pytest.fixture(scope="module")
def triples(tmp_path_factory):
    return make_triples(tmp_path_factory.mktemp("triples"))


def make_triples(folder):
    """Two pictures with a mask and a text each, as the format `triples` has them; the parameter `dataset`."""
    folder.mkdir(exist_ok=True)
    for i, name in enumerate(("a bridge", "the sea, 1.2")):
        pixels = np.random.default_rng(i).integers(60, 200, (12, 16, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
        mask = np.full((96, 128), 255, np.uint8)
        mask[20:60, 30 + 20 * i : 80] = 0  # white = keep
        Image.fromarray(pixels).save(folder / f"{name}.jpg")
        Image.fromarray(mask).save(folder / f"{name}.mask.png")
        (folder / f"{name}.txt").write_text(f"a {name}\n")
    return {"images": str(folder), "format": "triples"}


def untouched(workspace: Path, dataset: DatasetSettings) -> int:
    """Holds every finished picture against its source: equal beyond the reach of its composite. How many there are."""
    plan = read_manifest(workspace / "manifests" / "plan.parquet", PlanRow)
    final = read_manifest(workspace / "manifests" / "finalise.parquet", FinalRow)
    files = dict(zip(final.key, final.file_name, strict=True))
    paths = dict(zip(*(read_dataset(dataset).images.to_pandas()[name] for name in ("key", "path")), strict=True))
    ok = [row for row in plan[plan.status == OK].itertuples() if f"synthetic:{row.key}" in files]
    for row in ok:
        request = Request.model_validate_json(row.request)
        made = pixels_of(workspace / "final" / "images" / files[f"synthetic:{row.key}"])
        source = pixels_of(dataset.images / paths[row.image_key])
        name, settings = request.composite["name"], request.composite["settings"]
        composite, reach = COMPOSITES[name](COMPOSITES.settings(name, settings)), np.zeros(made.shape[:2], bool)
        for step in request.passes:
            x0, y0, x1, y1 = view = cut_window(step.window, request.width, request.height)
            reach[y0:y1, x0:x1] |= composite.alpha(step, view) > 0
        assert made.shape == source.shape
        np.testing.assert_array_equal(made[~reach], source[~reach])
        assert (made[reach] != source[reach]).any()
    return len(ok)


EVALUATED = ("copy-paste", "stay-defects", "pipe-vanilla")  # one of each data set: no preset says how to evaluate


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_every_preset_runs_from_end_to_end(preset, checkpoints, sets, blip2, tmp_path):
    painter = PRESETS[preset]["painter"]["name"]
    values = {"evaluate": {}} if preset in EVALUATED else {}
    paints_bare = PRESETS[preset].get("select") == {"max_objects": 0}  # into pictures without objects
    dataset = sets["triples" if preset.startswith("pipe-") else "bare" if paints_bare else "some"]
    if PAINTERS[painter].MODEL:
        values["painter"] = {"model": str(checkpoints[painter]), "steps": 2, "size": 64}
    if "quantize" in PRESETS[preset]["painter"]:
        values["painter"]["quantize"] = "no"  # needs a GPU
    if PRESETS[preset]["composite"]["name"] == "reconstruct":
        values["composite"] = {"iterations": 2}
    if preset.startswith(("gligen", "coco")):
        values["caption"] = {"captioner": {"name": "blip2", "model": blip2}, "rules": None}
    if preset.startswith("coco"):
        values["select"] = {"max_categories": None}
    account = run(tmp_path / "ws", dataset, preset=preset, screen={"black": 0, "blank": 0}, **values)
    assert account["painted"] == 2 == account["stages"]["screen"]["ok"], account["stages"]
    coco = COCO(str(tmp_path / "ws" / "final" / "annotations.json"))
    made = [image for image in coco.imgs.values() if "source_image_id" in image]
    assert len(made) == 2 and all(coco.getAnnIds(image["id"]) for image in made)
    assert untouched(tmp_path / "ws", DatasetSettings(**dataset)) == 2


def test_all_forklifts_are_occluded_and_no_pixel_beyond_the_reach_changes(tmp_path):
    """With the mini weights, a step of them: what is held here does not depend on how good the paint is.

    Three pictures, in an order that begins with the one that shows two forklifts.

    What was released fails it by far: test_metrics has the decibels.
    """
    dataset = {"images": str(shared("loco_forklifts", "forklifts")), "format": "loco"}
    given = {"preset": "loco-gligen", "models": "mini", "painter": {"steps": 1}, "limit": 3, "seed": 6}
    # The second composite works on the paints of the first, but for the picture with two forklifts: its second pass
    # starts from what the composite left of the first.
    for composite, painted in (("paste", 3), ("feather", 1)):
        account = run(tmp_path / "ws", dataset, **given, composite=composite)
        assert account["painted"] == painted and account["stages"]["screen"]["ok"] == 3
        assert untouched(tmp_path / "ws", DatasetSettings(**dataset)) == 3
        coco = COCO(str(tmp_path / "ws" / "final" / "annotations.json"))
        cut = [note for note in coco.anns.values() if "visible" in note]
        assert len(cut) == 4 and all(0.4 < note["visible"] < 0.85 for note in cut)
