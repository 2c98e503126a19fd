"""The evaluation: inputs it takes, values it returns, what it sets aside, what it says."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lib.errors import AugmentError
from lib.evaluate import evaluate, floor_of, measure, pictures_of, summary, write_json
from lib.features import EXTRACTORS, Inception, Pixels
from lib.metrics import distances
from lib.settings import Choice
from lib.store import Store


def folder_of(path: Path, count: int, seed: int = 0, light: int = 0) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    for i in range(count):
        blocks = rng.integers(light, 200 + light // 4, (4, 4, 3), dtype=np.uint8)
        Image.fromarray(blocks.repeat(5, axis=0).repeat(6, axis=1)).save(path / f"{i:03d}.png")
    return path


def coco_of(path: Path, names: list[Any]) -> Path:
    path.write_text(json.dumps({"images": [{"id": i, "file_name": n} for i, n in enumerate(names)]}))
    return path


@pytest.fixture
def real(tmp_path: Path) -> Path:
    return folder_of(tmp_path / "real", 12)


@pytest.fixture
def generated(tmp_path: Path) -> Path:
    return folder_of(tmp_path / "generated", 5, seed=1, light=40)


def test_the_result_has_the_keys_that_readers_rely_on(real: Path, generated: Path):
    result = evaluate(real, generated)
    assert list(result) == [
        "fid", "kid", "kid_interval", "precision", "recall", "density", "coverage", "twins", "leaks", "n_real",
        "n_generated", "extractor", "floor", "biased", "note", "features", "resize", "dimensions", "seed", "about",
        "unreadable",
    ]  # fmt: skip
    assert list(result["floor"]) == ["m", "halvings", "fid", "kid", "fid_at_m", "kid_at_m"]
    assert list(result["floor"]["fid"]) == list(result["floor"]["kid"]) == ["mean", "std"]
    assert (result["n_real"], result["n_generated"], result["extractor"]) == (12, 5, "pixels")
    assert (result["floor"]["m"], result["floor"]["halvings"]) == (5, 10)
    assert result["features"] == Pixels.IDENTITY and result["resize"] == Pixels.RESIZE
    assert result["unreadable"] == {"count": 0, "pictures": []}
    assert json.loads(json.dumps(result, allow_nan=False)) == result


def test_the_scores_are_the_distances_of_the_extractor_s_features(real: Path, generated: Path):
    x, y = (
        Pixels().extract(np.asarray(Image.open(p)) for p in sorted(folder.iterdir())) for folder in (real, generated)
    )
    result = evaluate(real, generated)
    assert result["fid"] == distances.fid(x, y)
    assert result["kid"] == distances.kid(x, y)


def test_equal_arguments_give_equal_results_and_another_seed_another_floor(real: Path, generated: Path):
    result = evaluate(real, generated, seed=3)
    assert evaluate(real, generated, seed=3) == result
    other = evaluate(real, generated, seed=4)
    assert other["fid"] == result["fid"]
    assert other["floor"]["fid"] != result["floor"]["fid"]


def test_the_floor_lies_under_the_score_of_other_pictures_at_the_same_size(real: Path, generated: Path):
    floor = evaluate(real, folder_of(generated, 6, seed=1, light=140))["floor"]
    assert floor["fid"]["mean"] + floor["fid"]["std"] < floor["fid_at_m"]
    assert floor["kid"]["mean"] + floor["kid"]["std"] < floor["kid_at_m"]


def test_the_floor_of_one_distribution_agrees_with_the_score_at_m():
    rng = np.random.default_rng(0)
    floor = floor_of(rng.normal(size=(80, 4)), rng.normal(size=(60, 4)))
    assert floor["m"] == 40
    assert floor["fid"]["mean"] == pytest.approx(floor["fid_at_m"], abs=0.3)
    assert abs(floor["kid"]["mean"] - floor["kid_at_m"]) < 6 * floor["kid"]["std"]


@pytest.mark.parametrize(("n_real", "n_generated", "m"), [(4, 9, 2), (9, 3, 3), (100, 2, 2), (5, 2, 2)])
def test_m_is_the_generated_set_or_half_of_the_real_one(n_real: int, n_generated: int, m: int):
    rng = np.random.default_rng(0)
    result = measure(rng.normal(size=(n_real, 48)), rng.normal(size=(n_generated, 48)), Pixels())
    assert result["floor"]["m"] == m


@pytest.mark.parametrize("n_real", [2, 3])
def test_a_real_set_too_small_to_halve_has_no_floor_but_a_reason(n_real: int, tmp_path: Path, generated: Path):
    result = evaluate(folder_of(tmp_path / "few", n_real), generated)
    assert result["floor"] is None
    assert result["floor_reason"] == f"{n_real} real pictures cannot be halved into two sets of at least 2"
    assert math.isfinite(result["fid"]) and math.isfinite(result["kid"])
    assert result["floor_reason"] in summary(result)


def test_few_pictures_are_marked_as_biased_with_kid_first(real: Path, generated: Path):
    result = evaluate(real, generated)
    assert result["biased"] is True
    assert "5 pictures for 48 feature dimensions: FID is biased" in result["note"]
    text = summary(result)
    assert text.index("KID") < text.index("FID")
    assert "real against real at 5" in text and "12 real, 5 generated" in text


def test_many_pictures_are_not_marked_and_fid_stands_first():
    rng = np.random.default_rng(0)
    result = measure(rng.normal(size=(100, 48)), rng.normal(size=(49, 48)), Pixels())
    assert result["biased"] is False
    assert "note" not in result
    assert summary(result).index("FID ") < summary(result).index("KID ")


def test_unreadable_pictures_are_listed_with_a_reason_and_do_not_count(real: Path, generated: Path):
    (real / "a.jpg").write_bytes(b"no picture")
    (real / "b.jpg").write_bytes(b"")
    seen: list[int] = []
    result = evaluate(real, generated, advance=seen.append)
    assert result["n_real"] == 12
    assert result["unreadable"]["count"] == 2
    assert [Path(row["picture"]).name for row in result["unreadable"]["pictures"]] == ["a.jpg", "b.jpg"]
    assert {row["set"] for row in result["unreadable"]["pictures"]} == {"real"}
    assert all(row["reason"].startswith("image_") and row["detail"] for row in result["unreadable"]["pictures"])
    assert "2 unreadable, the first" in summary(result)
    assert sum(seen) == 12 + 2 + 5


@pytest.mark.parametrize("side", ["real", "generated"])
def test_fewer_than_two_readable_pictures_on_a_side_are_one_error(side: str, tmp_path: Path, real: Path):
    few = folder_of(tmp_path / "few", 1)
    (few / "broken.png").write_bytes(b"\x89PNG")
    sides = {"real": real, "generated": real} | {side: few}
    with pytest.raises(AugmentError, match=rf"1 readable of 2 {side} pictures.*broken\.png"):
        evaluate(**sides)


def test_grey_transparent_palette_and_tiny_pictures_are_all_read(tmp_path: Path, real: Path):
    odd = tmp_path / "odd"
    odd.mkdir()
    for mode in ("L", "RGBA", "P", "1", "I;16", "CMYK"):
        image = Image.new("L" if mode == "I;16" else mode, (9, 7), 1)
        image.convert(mode).save(odd / f"{mode.replace(';', '')}.tif")
    Image.new("RGB", (1, 1), (1, 2, 3)).save(odd / "one.png")
    result = evaluate(real, odd)
    assert (result["n_generated"], result["unreadable"]["count"]) == (7, 0)


def test_an_unknown_extractor_lists_the_known_ones(real: Path, generated: Path):
    with pytest.raises(AugmentError, match="known are"):
        evaluate(real, generated, extractor="vgg")


def test_missing_weights_stop_before_a_picture_is_read(real: Path, tmp_path: Path):
    extractor = EXTRACTORS["inception"](Inception.Settings(weights=tmp_path / "absent.pth"))
    seen: list[int] = []
    with pytest.raises(AugmentError, match="--extractor pixels"):
        evaluate(real, real, extractor=extractor, advance=seen.append)
    assert seen == []


def test_a_folder_gives_its_pictures_sorted_with_subfolders_and_without_hidden_ones(tmp_path: Path):
    for name in ("b/2.JPG", "b/10.jpg", "a.png", ".hidden.png", ".cache/x.png", "notes.txt", "b/._2.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert [p.relative_to(tmp_path).as_posix() for p in pictures_of(tmp_path)] == ["a.png", "b/10.jpg", "b/2.JPG"]


def test_a_coco_file_gives_its_pictures_beside_it_or_in_images_in_its_order(tmp_path: Path):
    folder_of(tmp_path / "images", 2)
    folder_of(tmp_path / "sub", 1)
    coco = coco_of(tmp_path / "annotations.json", ["001.png", "sub/000.png", "000.png"])
    assert [p.relative_to(tmp_path).as_posix() for p in pictures_of(coco)] == [
        "images/001.png",
        "sub/000.png",
        "images/000.png",
    ]


def test_a_coco_file_and_its_folder_score_the_same(tmp_path: Path, generated: Path):
    folder_of(tmp_path / "images", 6)
    coco = coco_of(tmp_path / "annotations.json", [f"{i:03d}.png" for i in range(6)])
    assert evaluate(coco, generated) == evaluate(tmp_path / "images", generated)


@pytest.mark.parametrize("name", ["../secret.png", "a/../../secret.png", "/etc/secret.png", "", "a\0b"])
def test_a_coco_name_that_leads_outside_is_refused(name: str, tmp_path: Path):
    (tmp_path / "secret.png").touch()
    (tmp_path / "set").mkdir()
    with pytest.raises(AugmentError, match="expected a name inside"):
        pictures_of(coco_of(tmp_path / "set" / "coco.json", [name]))


def test_the_first_missing_picture_of_a_coco_file_is_named(tmp_path: Path):
    folder_of(tmp_path, 1)
    with pytest.raises(AugmentError, match=r"gone\.png of .*coco\.json found neither"):
        pictures_of(coco_of(tmp_path / "coco.json", ["000.png", "gone.png", "other.png"]))


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"images": 3}', '{"images": [{}]}', '{"images": ["a.png"]}'])
def test_a_file_that_is_not_coco_is_one_clear_error(text: str, tmp_path: Path):
    (tmp_path / "coco.json").write_text(text)
    with pytest.raises(AugmentError, match=r"coco\.json is no COCO file"):
        pictures_of(tmp_path / "coco.json")


def test_a_coco_name_that_is_no_text_is_refused(tmp_path: Path):
    with pytest.raises(AugmentError, match="names a picture 7: expected text"):
        pictures_of(coco_of(tmp_path / "coco.json", [7]))


def test_nothing_to_score_is_said_plainly(tmp_path: Path):
    with pytest.raises(AugmentError, match="no pictures in"):
        pictures_of(tmp_path)
    with pytest.raises(AugmentError, match="not found: expected a folder of pictures or a COCO file"):
        pictures_of(tmp_path / "absent")


def test_the_json_file_is_the_result_and_strict(tmp_path: Path, real: Path, generated: Path):
    result = evaluate(real, generated)
    write_json(result, tmp_path / "out" / "metrics.json")
    assert json.loads((tmp_path / "out" / "metrics.json").read_text()) == result
    write_json({"a": [math.nan, {"b": math.inf}], "c": 1.5}, tmp_path / "odd.json")
    assert json.loads((tmp_path / "odd.json").read_text()) == {"a": [None, {"b": None}], "c": 1.5}


# Pairs, and what is kept


def same_names(root, count=4, light=20):
    """Two folders of the same names: real pictures, and the same with a brighter box."""
    sources, outputs = root / "sources", root / "outputs"
    for folder in (sources, outputs):
        folder.mkdir()
    for i in range(count):
        pixels = np.random.default_rng(i).integers(60, 180, (6, 8, 3), np.uint8).repeat(8, 0).repeat(8, 1)
        Image.fromarray(pixels).save(sources / f"{i}.png")
        pixels[16:32, 16:40] += np.uint8(light)
        Image.fromarray(pixels).save(outputs / f"{i}.png")
    return sources, outputs, {path: np.array([[16.0, 16, 40, 32]]) for path in sources.iterdir()}


def test_pairs_are_compared_by_name_and_the_sets_number_is_their_mean(tmp_path):
    sources, outputs, boxes = same_names(tmp_path)
    result = evaluate(sources, outputs, metrics=["inside", "whole"], boxes=boxes)
    assert result["inside_mse"] == 400 and result["pairs"]["count"] == 4
    own = [pair["whole_psnr"] for pair in result["pairs"]["pictures"]]
    assert result["whole_psnr"] == pytest.approx(np.mean(own)) and "fid" not in result
    assert set(result["about"]) == {"inside_mse", "inside_ssim", "whole_psnr", "whole_ssim"}


def test_settings_of_a_metric_count(tmp_path):
    sources, outputs, boxes = same_names(tmp_path)
    near, far = (
        evaluate(sources, outputs, metrics=[Choice(name="background", margin=margin)], boxes=boxes)["untouched"]
        for margin in (0, 4)
    )
    assert near == far == 1.0


def test_pictures_of_another_size_and_of_no_source_are_told(tmp_path):
    sources, outputs, boxes = same_names(tmp_path)
    Image.new("RGB", (10, 10)).save(outputs / "0.png")
    Image.new("RGB", (64, 48)).save(outputs / "alone.png")
    result = evaluate(sources, outputs, metrics=["whole"], boxes=boxes)
    assert result["pairs"]["count"] == 3
    (failed,) = result["pairs"]["failed"]
    assert "10×10 pixels, its source 64×48" in failed["reason"]


def test_without_a_pair_there_is_one_clear_error(tmp_path, real):
    _, outputs, _ = same_names(tmp_path)
    (tmp_path / "other").mkdir()
    for i, path in enumerate(outputs.iterdir()):
        path.rename(tmp_path / "other" / f"x{i}.png")
    with pytest.raises(AugmentError, match=r"no generated picture has the name of a real one.*background compare"):
        evaluate(tmp_path / "sources", tmp_path / "other", metrics=["background"])


def test_every_picture_is_decoded_once_for_all_that_is_asked(tmp_path, monkeypatch):
    import lib.evaluate

    sources, outputs, boxes = same_names(tmp_path)
    seen, load = [], lib.evaluate.load_rgb
    monkeypatch.setattr(lib.evaluate, "load_rgb", lambda *told: seen.append(told) or load(*told))
    evaluate(sources, outputs, metrics=["fid", "kid", "overlap", "inside", "seam", "whole"], boxes=boxes)
    assert len(seen) == 8


def test_what_is_kept_is_not_computed_again_whatever_the_files_are_called(tmp_path, monkeypatch):
    import lib.evaluate

    sources, outputs, boxes = same_names(tmp_path)
    asked = {"metrics": ["fid", "inside", "whole"], "boxes": boxes, "cache": Store(tmp_path / "kept")}
    before = evaluate(sources, outputs, **asked)
    monkeypatch.setattr(lib.evaluate, "load_rgb", None)
    assert evaluate(sources, outputs, **asked) == before
    moved = sources.rename(tmp_path / "moved")
    asked["boxes"] = {moved / path.name: box for path, box in boxes.items()}
    again = evaluate(moved, outputs, **asked)
    assert {name: again[name] for name in ("fid", "inside_mse", "whole_psnr")} == {
        name: before[name] for name in ("fid", "inside_mse", "whole_psnr")
    }


def test_other_boxes_and_settings_are_not_taken_from_what_is_kept(tmp_path):
    sources, outputs, boxes = same_names(tmp_path)
    cache = Store(tmp_path / "kept")
    wide = {path: np.array([[0.0, 0, 64, 48]]) for path in boxes}
    one, two = (evaluate(sources, outputs, metrics=["inside"], boxes=b, cache=cache) for b in (boxes, wide))
    assert one["inside_mse"] == 400 > two["inside_mse"]


def test_features_that_are_not_finite_are_a_reason(tmp_path):
    class Odd(Pixels):
        def extract(self, pictures):
            told = super().extract(pictures)
            told[1] = np.nan
            return told

    sources, outputs, _ = same_names(tmp_path)
    result = evaluate(sources, outputs, Odd(), metrics=["fid"])
    assert result["unreadable"]["count"] == 1
    assert result["unreadable"]["pictures"][0]["reason"] == "features_not_finite"
