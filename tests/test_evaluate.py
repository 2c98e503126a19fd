"""The evaluation: inputs it takes, values it returns, what it sets aside, what it says."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lib.core.errors import AugmentError
from lib.evaluation.evaluate import evaluate, floor_of, score_sets
from lib.evaluation.features import EXTRACTORS, Inception, Pixels
from lib.evaluation.metrics import METRICS, distances
from lib.evaluation.results import summary, write_json
from lib.evaluation.sides import Entry, Labels, Side
from lib.records.settings import Choice


def folder_of(path: Path, count: int, seed: int = 0, light: int = 0) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    for i in range(count):
        blocks = rng.integers(light, 200 + light // 4, (4, 4, 3), dtype=np.uint8)
        Image.fromarray(blocks.repeat(5, axis=0).repeat(6, axis=1)).save(path / f"{i:03d}.png")
    return path


@pytest.fixture
def real(tmp_path: Path) -> Path:
    return folder_of(tmp_path / "real", 12)


@pytest.fixture
def generated(tmp_path: Path) -> Path:
    return folder_of(tmp_path / "generated", 5, seed=1, light=40)


def test_the_result_has_the_keys_that_readers_rely_on(real: Path, generated: Path):
    result = evaluate(real, generated)
    assert list(result.document()) == [
        "fid", "kid", "kid_interval", "precision", "recall", "density", "coverage", "twins", "leaks", "n_real",
        "n_generated", "extractor", "floor", "biased", "note", "features", "resize", "dimensions", "seed",
        "left_out", "about", "failed", "unreadable", "verdict",
    ]  # fmt: skip
    floor = result.document()["floor"]
    assert list(floor) == ["m", "halvings", "fid", "kid", "fid_at_m", "kid_at_m"]
    assert list(floor["fid"]) == list(floor["kid"]) == ["mean", "std"]
    assert (result.n_real, result.n_generated, result.features.extractor) == (12, 5, "pixels")
    assert (result.floor.m, result.floor.halvings) == (5, 10)
    assert result.features.features == Pixels.identity and result.features.resize == Pixels.RESIZE
    assert result.document()["unreadable"] == {"count": 0, "pictures": []}
    assert json.loads(json.dumps(result.document(), allow_nan=False)) == result.document()


def test_the_scores_are_the_distances_of_the_extractor_s_features(real: Path, generated: Path):
    x, y = (
        Pixels().extract(np.asarray(Image.open(p)) for p in sorted(folder.iterdir())) for folder in (real, generated)
    )
    result = evaluate(real, generated)
    assert result.numbers["fid"] == distances.fid(x, y)
    assert result.numbers["kid"] == distances.kid(x, y)


def test_equal_arguments_give_equal_results_and_another_seed_another_floor(real: Path, generated: Path):
    result = evaluate(real, generated, seed=3)
    assert evaluate(real, generated, seed=3) == result
    other = evaluate(real, generated, seed=4)
    assert other.numbers["fid"] == result.numbers["fid"]
    assert other.floor.fid != result.floor.fid


def test_the_floor_lies_under_the_score_of_other_pictures_at_the_same_size(real: Path, generated: Path):
    floor = evaluate(real, folder_of(generated, 6, seed=1, light=140)).floor
    assert floor.fid.mean + floor.fid.std < floor.fid_at_m
    assert floor.kid.mean + floor.kid.std < floor.kid_at_m


def test_the_floor_of_one_distribution_agrees_with_the_score_at_m():
    rng = np.random.default_rng(0)
    floor = floor_of(rng.normal(size=(80, 4)), rng.normal(size=(60, 4)))
    assert floor.m == 40
    assert floor.fid.mean == pytest.approx(floor.fid_at_m, abs=0.3)
    assert abs(floor.kid.mean - floor.kid_at_m) < 6 * floor.kid.std


@pytest.mark.parametrize(("n_real", "n_generated", "m"), [(4, 9, 2), (9, 3, 3), (100, 2, 2), (5, 2, 2)])
def test_m_is_the_generated_set_or_half_of_the_real_one(n_real: int, n_generated: int, m: int):
    rng = np.random.default_rng(0)
    result = score_sets(rng.normal(size=(n_real, 48)), rng.normal(size=(n_generated, 48)), Pixels())
    assert result.floor.m == m


@pytest.mark.parametrize("n_real", [2, 3])
def test_a_real_set_too_small_to_halve_has_no_floor_but_a_reason(n_real: int, tmp_path: Path, generated: Path):
    result = evaluate(folder_of(tmp_path / "few", n_real), generated)
    assert result.floor is None
    assert result.features.floor_reason == f"{n_real} real pictures cannot be halved into two sets of at least 2"
    assert math.isfinite(result.numbers["fid"]) and math.isfinite(result.numbers["kid"])
    assert result.features.floor_reason in summary(result)


def test_few_pictures_are_marked_as_biased_with_kid_first(real: Path, generated: Path):
    result = evaluate(real, generated)
    assert result.biased is True
    assert "5 pictures for 48 feature dimensions: FID is biased" in result.features.note
    text = summary(result)
    assert text.index("KID") < text.index("FID")
    assert "real against real at 5" in text and "12 real, 5 generated" in text


def test_many_pictures_are_not_marked_and_fid_stands_first():
    rng = np.random.default_rng(0)
    result = score_sets(rng.normal(size=(100, 48)), rng.normal(size=(49, 48)), Pixels())
    assert result.biased is False
    assert result.features.note is None
    assert summary(result).index("FID ") < summary(result).index("KID ")


def test_unreadable_pictures_are_listed_with_a_reason_and_do_not_count(real: Path, generated: Path):
    (real / "a.jpg").write_bytes(b"no picture")
    (real / "b.jpg").write_bytes(b"")
    steps: list[int] = []
    result = evaluate(real, generated, advance=steps.append)
    assert result.n_real == 12
    assert result.unreadable.count == 2
    assert [Path(row.picture).name for row in result.unreadable.pictures] == ["a.jpg", "b.jpg"]
    assert {row.set for row in result.unreadable.pictures} == {"real"}
    assert all(row.reason.startswith("image_") and row.detail for row in result.unreadable.pictures)
    assert "2 unreadable, the first" in summary(result)
    assert sum(steps) == 12 + 2 + 5


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
    assert (result.n_generated, result.unreadable.count) == (7, 0)


def test_an_unknown_extractor_lists_the_known_ones(real: Path, generated: Path):
    with pytest.raises(AugmentError, match="known are"):
        evaluate(real, generated, extractor="vgg")


def test_missing_weights_stop_before_a_picture_is_read(real: Path, tmp_path: Path):
    extractor = EXTRACTORS["inception"](Inception.Settings(weights=tmp_path / "absent.pth"))
    steps: list[int] = []
    with pytest.raises(AugmentError, match="--extractor pixels"):
        evaluate(real, real, extractor=extractor, advance=steps.append)
    assert steps == []


def test_the_json_file_is_the_result_and_strict(tmp_path: Path, real: Path, generated: Path):
    result = evaluate(real, generated)
    write_json(result.document(), tmp_path / "out" / "metrics.json")
    assert json.loads((tmp_path / "out" / "metrics.json").read_text()) == result.document()
    write_json({"a": [math.nan, {"b": math.inf}], "c": 1.5}, tmp_path / "odd.json")
    assert json.loads((tmp_path / "odd.json").read_text()) == {"a": [None, {"b": None}], "c": 1.5}


# Pairs, groups and single pictures; what is read on the way is held to by test_reading.py


def same_names(root: Path, count: int = 4, light: int = 20) -> tuple[Side, Path]:
    """Real pictures with a box each, and a folder of the same names with a brighter box."""
    sources, outputs = root / "sources", root / "outputs"
    for folder in (sources, outputs):
        folder.mkdir()
    for i in range(count):
        pixels = np.random.default_rng(i).integers(60, 180, (6, 8, 3), np.uint8).repeat(8, 0).repeat(8, 1)
        Image.fromarray(pixels).save(sources / f"{i}.png")
        pixels[16:32, 16:40] += np.uint8(light)
        Image.fromarray(pixels).save(outputs / f"{i}.png")
    return boxed(sources, [16, 16, 40, 32]), outputs


def boxed(folder: Path, box: list[float]) -> Side:
    """The folder's pictures, with one box each."""
    labels = Labels(np.array([box], float), ("thing",), np.zeros(1, bool), np.ones(1, bool))
    return Side(tuple(Entry(path, path.name, labels) for path in sorted(folder.iterdir())), folder)


def test_pairs_are_compared_by_name_and_the_sets_number_is_their_mean(tmp_path: Path):
    result = evaluate(*same_names(tmp_path), metrics=["inside", "whole"])
    assert result.numbers["inside_mse"] == 400 and result.pairs.count == 4
    single = [pair.numbers["whole_psnr"] for pair in result.pairs.pictures]
    assert result.numbers["whole_psnr"] == pytest.approx(np.mean(single)) and "fid" not in result.numbers
    inside, whole = (METRICS[name].NUMBERS for name in ("inside", "whole"))
    assert result.about == {name: number.about for name, number in (inside | whole).items()}


def test_settings_of_a_metric_count(tmp_path: Path):
    _, outputs = same_names(tmp_path)
    small = boxed(tmp_path / "sources", [20, 16, 40, 32])
    near, far = (
        evaluate(small, outputs, metrics=[Choice(name="background", margin=margin)]).numbers["untouched"]
        for margin in (0, 4)
    )
    assert (near, far) == (0, 1)


def test_pictures_of_another_size_are_told_and_those_of_no_source_left_alone(tmp_path: Path):
    sources, outputs = same_names(tmp_path)
    Image.new("RGB", (10, 10)).save(outputs / "0.png")
    Image.new("RGB", (64, 48)).save(outputs / "alone.png")
    result = evaluate(sources, outputs, metrics=["whole"])
    assert result.pairs.count == 3 and result.unreadable.count == 0
    (failed,) = result.failed
    assert "10×10 pixels, its source 64×48" in failed.reason
    assert "10×10 pixels" in summary(result)


def test_without_a_pair_there_is_one_clear_error(tmp_path: Path):
    sources, outputs = same_names(tmp_path)
    (tmp_path / "other").mkdir()
    for i, path in enumerate(outputs.iterdir()):
        path.rename(tmp_path / "other" / f"x{i}.png")
    with pytest.raises(AugmentError, match=r"background: no generated picture has the name of a real one"):
        evaluate(sources, tmp_path / "other", metrics=["background"])


@pytest.mark.parametrize(("metric", "lacks"), [("regions", "boxes"), ("captions", "captions")])
def test_a_metric_of_labels_says_what_it_lacks(metric: str, lacks: str, real: Path, generated: Path):
    with pytest.raises(AugmentError, match=f"{metric}: none of the pictures has {lacks}, and it asks what"):
        evaluate(real, generated, metrics=[metric])


def test_metrics_with_nothing_to_work_on_are_left_out_where_others_have(real: Path, generated: Path):
    result = evaluate(real, generated, metrics=["kid", "regions", "captions"])
    assert list(result.left_out) == ["regions", "captions"] and "regions" not in result.details
    assert "kid" in result.numbers and list(result.about) == ["kid", "kid_interval"]


def test_too_few_pictures_for_sets_leave_the_others(tmp_path: Path):
    sources, outputs = same_names(tmp_path, 1)
    result = evaluate(sources, outputs, metrics=["kid", "whole"])
    assert "1 readable of 1 real pictures" in result.left_out["kid"]
    assert result.pairs.count == 1 and "kid" not in result.numbers
    assert "kid left out: 1 readable" in summary(result)


def test_variants_of_one_source_are_a_group_with_a_mean(tmp_path: Path):
    sources, outputs = same_names(tmp_path, 2)
    made = Side.of([folder / f"{i}.png" for folder in (tmp_path / "sources", outputs) for i in (0, 1)])
    result = evaluate(sources, made, metrics=["diversity"])
    assert result.groups.count == 2 and "fid" not in result.numbers
    single = [row.numbers["diversity"] for row in result.groups.sources]
    assert [row.pictures for row in result.groups.sources] == [2, 2]
    assert result.numbers["diversity"] == pytest.approx(np.mean(single)) and min(single) > 0
    assert "2 sources with several pictures" in summary(result)


def test_numbers_of_pictures_stand_beside_those_of_sets(real: Path):
    result = evaluate(real, real, metrics=["kid", "copies"])
    assert (result.numbers["copies_of_real"], result.numbers["copies"], result.n_generated) == (1, 0, 12)
    assert list(result.about) == ["kid", "kid_interval", "copies", "copies_of_real"]
    assert json.loads(json.dumps(result.document(), allow_nan=False)) == result.document()


def test_a_coco_file_and_its_folder_score_the_same(tmp_path: Path, generated: Path):
    folder_of(tmp_path / "images", 6)
    records = [{"id": i, "file_name": f"{i:03d}.png"} for i in range(6)]
    (tmp_path / "annotations.json").write_text(json.dumps({"images": records}))
    assert evaluate(tmp_path / "annotations.json", generated) == evaluate(tmp_path / "images", generated)


def test_features_that_are_not_finite_are_a_reason(tmp_path: Path):
    class Odd(Pixels):
        def extract(self, pictures: Any) -> np.ndarray:
            rows = super().extract(pictures)
            rows[1] = np.nan
            return rows

    result = evaluate(*same_names(tmp_path), Odd(), metrics=["fid"])
    assert result.unreadable.count == 1
    assert result.unreadable.pictures[0].reason == "features_not_finite"


def test_a_metric_named_twice_is_refused(real: Path, generated: Path):
    twice = [Choice(name="twins", least=0.9), "twins"]
    with pytest.raises(AugmentError, match="'twins' is named twice"):
        evaluate(real, generated, metrics=twice)


def test_a_set_without_synthetic_pictures_is_not_measured_beside_itself(tmp_path: Path):
    real, _ = same_names(tmp_path)
    with pytest.raises(AugmentError, match="says that it is synthetic"):
        evaluate(real, real)


def test_pictures_on_both_sides_are_counted_whatever_is_asked(tmp_path: Path):
    real, outputs = same_names(tmp_path)
    (outputs / "3.png").write_bytes(b"broken")
    result = evaluate(real, outputs, metrics=["copies"])
    assert (result.n_real, result.n_generated) == (4, 3) and "fid" not in result.numbers


def test_no_floor_is_made_where_nothing_is_read_by_it(real: Path, generated: Path):
    result = evaluate(real, generated, metrics=["twins"])
    assert (
        result.floor is None and result.biased and (result.features.note, result.features.floor_reason) == (None, None)
    )
    assert "score" not in summary(result)


def test_names_that_are_no_unicode_are_written_as_json_has_them(tmp_path: Path):
    write_json({"picture": "a\udcff.png"}, tmp_path / "metrics.json")
    assert json.loads((tmp_path / "metrics.json").read_bytes()) == {"picture": "a\udcff.png"}
