"""Which way every metric moves, and which stay, as one thing at a time is spoiled in the demo's scenes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFilter

from lib.evaluation.evaluate import evaluate
from lib.evaluation.sides import read_side
from lib.records.store import Store

DEMO = Path(__file__).parents[1] / "data" / "demo"
METRICS = ["fid", "kid", "overlap", "background", "inside", "whole", "copies", "captions", "regions"]
OF_PICTURES = (
    "fid",
    "kid",
    "coverage",
    "background_mse",
    "untouched",
    "inside_mse",
    "whole_mse",
    "whole_ssim",
    "lpips",
)
OF_PICTURES += ("copies", "copies_of_real")
FEW = 3  # scenes for LPIPS, the slowest

Coco = dict[str, Any]
Results = dict[str, dict[str, Any]]


def blurred(pixels: np.ndarray) -> np.ndarray:
    return np.asarray(Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(2)))


def noised(pixels: np.ndarray) -> np.ndarray:
    noise = np.random.default_rng(0).normal(0, 40, pixels.shape)
    return np.clip(pixels + noise, 0, 255).astype(np.uint8)


def half_black(pixels: np.ndarray) -> np.ndarray:
    half = pixels.copy()
    half[:, pixels.shape[1] // 2 :] = 0
    return half


def shuffle_labels(coco: Coco) -> None:
    """The same categories as often, each at another box."""
    boxes = coco["annotations"]
    dealt = np.random.default_rng(0).permutation([box["category_id"] for box in boxes])
    for box, category in zip(boxes, dealt.tolist(), strict=True):
        box["category_id"] = category


def exchange_captions(coco: Coco) -> None:
    """Each picture gets the caption of the fifth before it."""
    told = [image["caption"] for image in coco["images"]]
    for image, caption in zip(coco["images"], told[-5:] + told[:-5], strict=True):
        image["caption"] = caption


PIXELS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "blurred": blurred,
    "noised": noised,
    "half black": half_black,
}
WORDS: dict[str, Callable[[Coco], None]] = {"labels": shuffle_labels, "captions": exchange_captions}


def written(folder: Path, name: str) -> Path:
    """The demo as a generated set, spoiled in one way."""
    (folder / "images").mkdir(parents=True)
    coco = json.loads((DEMO / "annotations.json").read_text())
    if name in WORDS:
        WORDS[name](coco)
    for image in coco["images"]:
        source = DEMO / "images" / image["file_name"]
        if name in PIXELS:
            image["file_name"] = f"{source.stem}.png"
            Image.fromarray(PIXELS[name](np.asarray(Image.open(source)))).save(folder / "images" / image["file_name"])
        else:
            shutil.copy(source, folder / "images")
    (folder / "annotations.json").write_text(json.dumps(coco))
    return folder


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """Of the demo against itself, and against each spoiled one."""
    root = tmp_path_factory.mktemp("directions")
    cache, found = Store(root / "kept"), Results()
    for name in ("same", *PIXELS, *WORDS):
        made = read_side(written(root / name, name))
        found[name] = evaluate(DEMO, made, "mini", metrics=METRICS, cache=cache).document()
        few = replace(made, entries=made.entries[:FEW])
        found[name]["lpips"] = evaluate(DEMO, few, metrics=["lpips"], cache=cache).numbers["lpips"]
    return found


def only(result: dict[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    return {name: result[name] for name in names}


# The set against itself


def test_nothing_fails_and_every_picture_is_read(results: Results):
    for result in results.values():
        assert (result["n_real"], result["n_generated"]) == (24, 24)
        assert result["failed"] == [] and result["unreadable"]["count"] == 0


def test_a_set_is_no_distance_from_itself(results: Results):
    same = results["same"]
    assert same["fid"] == pytest.approx(0, abs=1e-6)
    assert same["kid"] < same["floor"]["kid"]["mean"] + same["floor"]["kid"]["std"]
    assert same["coverage"] == same["precision"] == same["recall"] == 1


def test_a_set_is_its_own_source_pixel_for_pixel(results: Results):
    names = ("background_mse", "inside_mse", "whole_mse", "lpips", "untouched", "whole_ssim", "copies_of_real")
    assert list(only(results["same"], names).values()) == [0, 0, 0, 0, 1, 1, 1]
    assert not {"background_psnr", "inside_psnr", "whole_psnr"} & set(results["same"])


def test_a_set_shows_what_its_labels_and_captions_say_as_well_as_itself(results: Results):
    same = results["same"]
    assert same["fidelity"] == 1 and same["regions_generated"] == same["regions_real"] > 0.9
    assert same["clip_score"] == same["clip_score_real"]


def test_drawn_scenes_are_no_copies_of_each_other(results: Results):
    assert results["same"]["copies"] == 0


# Words spoiled


@pytest.mark.parametrize("name", WORDS)
def test_words_change_no_metric_of_pictures(name: str, results: Results):
    assert only(results[name], OF_PICTURES) == only(results["same"], OF_PICTURES)


def test_shuffled_labels_leave_about_no_fidelity(results: Results):
    told = results["labels"]
    assert abs(told["fidelity"]) < 0.25 and told["fidelity_interval"][0] < 0 < told["fidelity_interval"][1]
    assert told["regions_generated"] == pytest.approx(told["regions_shuffled"], abs=0.15)
    assert told["regions_real"] == results["same"]["regions_real"]


def test_shuffled_labels_do_not_touch_captions(results: Results):
    assert results["labels"]["clip_score"] == results["same"]["clip_score"]


def test_exchanged_captions_score_far_lower_than_real_ones(results: Results):
    told = results["captions"]
    assert told["clip_score"] < 0.5 * told["clip_score_real"]
    assert told["clip_score_real"] == results["same"]["clip_score_real"]


def test_exchanged_captions_do_not_touch_boxes(results: Results):
    names = ("fidelity", "regions_generated", "regions_shuffled", "regions")
    assert only(results["captions"], names) == only(results["same"], names)


# Pictures spoiled


@pytest.mark.parametrize("name", PIXELS)
def test_spoiled_pictures_lie_further_from_their_sources(name: str, results: Results):
    told = results[name]
    assert told["fid"] > 0.1 and told["kid"] > results["same"]["kid"] - 0.05
    assert told["background_mse"] > 100 and told["inside_mse"] > 100 and told["whole_mse"] > 100
    assert told["untouched"] == 0 and told["whole_ssim"] < 0.9 and told["lpips"] > 0.1


@pytest.mark.parametrize("name", PIXELS)
def test_the_mean_of_all_pixels_lies_between_inside_and_outside(name: str, results: Results):
    """Nothing is lost between the two: a whole picture is its boxes, their margin and the background."""
    told = results[name]
    assert told["whole_psnr"] > min(told["inside_psnr"], told["background_psnr"]) - 1
    assert told["whole_psnr"] < max(told["inside_psnr"], told["background_psnr"]) + 1


@pytest.mark.parametrize("name", PIXELS)
def test_spoiled_pictures_change_nothing_of_the_real_side(name: str, results: Results):
    names = ("regions_real", "clip_score_real", "n_real")
    assert only(results[name], names) == only(results["same"], names)
    assert results[name]["regions"]["n_generated"] == results["same"]["regions"]["n_generated"]


@pytest.mark.parametrize("name", ["blurred", "noised"])
def test_a_blurred_or_noised_copy_is_still_one_and_still_shows_its_objects(name: str, results: Results):
    told = results[name]
    assert told["copies_of_real"] > 0.9 and told["copies"] == 0
    assert told["fidelity"] > 0.8 and told["clip_score"] > 0.8 * told["clip_score_real"]


@pytest.mark.parametrize(
    ("name", "least"), [("fid", 10), ("lpips", 2), ("background_mse", 3), ("inside_mse", 3), ("whole_mse", 3)]
)
def test_half_a_picture_missing_is_far_worse_than_a_blur(name: str, least: float, results: Results):
    assert results["half black"][name] > least * results["blurred"][name]


def test_half_a_picture_missing_is_beyond_what_halves_of_the_real_set_differ_by(results: Results):
    told, floor = results["half black"], results["half black"]["floor"]
    assert floor["kid_at_m"] > floor["kid"]["mean"] + 2 * floor["kid"]["std"]
    assert told["kid_interval"][0] > results["same"]["kid_interval"][1]
    assert told["coverage"] < 0.8 and told["recall"] < 0.5


def test_objects_in_the_black_are_missed_and_the_others_found(results: Results):
    told = results["half black"]
    assert 0.1 < told["fidelity"] < 0.8 and told["regions_generated"] < 0.9 * told["regions_real"]
    seen: dict[str, list[bool]] = {"left": [], "black": []}
    for box in told["boxes"]:
        x0, _, x1, _ = box["box"]
        if x1 <= 128 or x0 >= 128:
            seen["left" if x1 <= 128 else "black"].append(box["label"] == box["said"])
    assert np.mean(seen["left"]) > 0.9 and np.mean(seen["black"]) < 0.7


def test_half_a_picture_is_no_copy_of_the_whole(results: Results):
    assert results["half black"]["copies_of_real"] < 0.1


def test_captions_fit_half_a_picture_less(results: Results):
    assert results["half black"]["clip_score"] < 0.7 * results["half black"]["clip_score_real"]
