"""`make demo` as it is deployed: both journeys of the mini models, from data/demo to a merged, measured set."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from pycocotools.coco import COCO
from safetensors import safe_open

from flows.augment import augment
from flows.cli import load_parameters
from lib.core.checkpoints import MINI, folder_revision, resolve
from lib.evaluation.fidelity import fidelity
from lib.judges.clip import RegionScorer, RegionSettings
from lib.training import MINI as TRAINED
from lib.training.train import read_facts

every_model = pytest.mark.parametrize("name", sorted(TRAINED))


@pytest.fixture(scope="module", params=["demo", "demo-generation"])
def demo(request, tmp_path_factory):
    """The workspace of one run, in 3 of the 10 denoising steps that the deployment takes."""
    values, name, base = load_parameters(request.param)
    root = tmp_path_factory.mktemp(name) / name
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(base)
        state = augment.fn(**{**values, "painter": {"steps": 3}, "workspace": root})
    assert state.is_completed(), state.message
    return root


def test_every_scene_gets_a_new_picture(demo):
    stages = json.loads((demo / "status.json").read_text())["stages"]
    assert stages["generate"]["ok"] == stages["screen"]["ok"] == 24
    final = COCO(str(demo / "final" / "annotations.json"))
    made = [image for image in final.loadImgs(final.getImgIds()) if "source_image_id" in image]
    assert len(made) == 24
    for image in made:
        with Image.open(demo / "final" / "images" / image["file_name"]) as picture:
            assert picture.size == (256, 256) and np.asarray(picture).std() > 20


def test_blip2_says_what_the_prompt_is(demo):
    captions = pd.read_parquet(demo / "manifests" / "caption.parquet")
    assert captions.captioner.str.contains('"blip2"').all() and captions.prompt.str.len().min() > 10


def test_distances_stand_beside_their_floor(demo):
    metrics = json.loads((demo / "report" / "metrics.json").read_text())
    assert metrics["extractor"].startswith("mini") and metrics["fid"] > 0 and "floor" in json.dumps(metrics)


def test_the_demos_blurred_objects_get_no_green_and_the_status_says_the_same_as_the_report(demo):
    verdict = json.loads((demo / "status.json").read_text())["verdict"]
    assert verdict["level"] != "green"
    assert json.loads((demo / "report" / "metrics.json").read_text())["verdict"] == verdict
    assert verdict["sentence"] in (demo / "report" / "index.html").read_text()


def test_the_judge_finds_in_the_boxes_what_the_labels_say(demo):
    """Far under what the cards say of a hundred scenes: this one catches a broken model, not a bad day."""
    judged = fidelity(demo / "final", RegionScorer(RegionSettings(), resolve("mini:clip", {})))
    assert judged.real > 0.9 and judged.fidelity > 0.5


@every_model
def test_a_mini_model_is_half_precision_and_has_a_measured_card(name):
    weights = list((MINI / name).rglob("*.safetensors"))
    assert weights
    for path in weights:
        with safe_open(path, "np") as opened:
            kinds = {opened.get_slice(key).get_dtype() for key in opened.keys()}  # noqa: SIM118
        assert kinds <= {"F16", "I64"}, path
    card = (MINI / name / "README.md").read_text()
    assert "Apache-2.0" in card and "Not yet" not in card


@every_model
def test_a_mini_model_was_trained_with_the_others_beside_it(name):
    for need, revision in read_facts(MINI / name)["needs"].items():
        assert folder_revision(MINI / need) == revision, need


def test_all_mini_models_together_are_small():
    assert sum(path.stat().st_size for path in MINI.rglob("*") if path.is_file()) <= 40e6
