"""Figures of painted defects: crops, neighbours under symmetries, and the command that gives them all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import pixels_of
from PIL import Image

from lib.core.checkpoints import resolve
from lib.core.errors import AugmentError
from lib.core.vision import softmax
from lib.datasets.formats.deep_pcb import CATEGORIES, TEST_GROUPS
from lib.figures.defects import (
    CLOSE,
    SIDE,
    Boards,
    ClassifierFeatures,
    crops_of,
    nearest,
    neighbour_panel,
    read_boards,
    turned,
    window_of_box,
)
from lib.judges.classifier import CropClassifier
from lib.judges.clip import RegionSettings
from lib.records.settings import DatasetSettings
from lib.training import TRAINERS
from lib.training.data import training_pictures
from lib.training.train import train_model

BOXES = [(4, 6, 30, 28), (80, 70, 104, 100), (60, 10, 86, 34), (10, 90, 36, 120), (100, 20, 126, 44), (48, 60, 70, 84)]


def make_boards(root: Path, groups: tuple[str, ...] = ("12000", *TEST_GROUPS), count: int = 4) -> Path:
    """Pairs of boards of 128 × 128 pixels: tracks, and a grey square for each of the six defects."""
    for group in groups:
        pictures, labels = (root / f"group{group}" / name for name in (group, f"{group}_not"))
        pictures.mkdir(parents=True)
        labels.mkdir(parents=True)
        for number in range(count):
            stem = f"{group}{number:03}"
            pixels = np.full((128, 128), 20 + 10 * number + int(group) % 50, np.uint8)
            pixels[:, 5 + number :: 16] = 220
            Image.fromarray(pixels).save(pictures / f"{stem}_temp.jpg")
            for kind, (x0, y0, x1, y1) in enumerate(BOXES):
                pixels[y0:y1, x0:x1] = 60 + 30 * kind
            Image.fromarray(pixels).save(pictures / f"{stem}_test.jpg")
            text = "\n".join(f"{x0} {y0} {x1} {y1} {kind}" for kind, (x0, y0, x1, y1) in enumerate(BOXES, 1))
            (labels / f"{stem}.txt").write_text(text)
    return root


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_boards(tmp_path_factory.mktemp("data") / "PCBData")


@pytest.fixture(scope="module")
def models(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stay and a classifier after one step each."""
    root = tmp_path_factory.mktemp("models")
    boards = defective(data, "train")
    pictures, _ = training_pictures(boards.images, boards.objects, boards.root, SIDE, detail=0)
    small: dict[str, dict[str, Any]] = {
        "stay": {"widths": [32, 32], "label_dim": 8, "batch": 2, "warmup": 0},
        "classifier": {"batch": 8},
    }
    for name, values in small.items():
        settings = TRAINERS.settings(name, {"steps": 1, **values})
        train_model(name, settings, pictures, SIDE, root / "models", root / "work")
    return root / "models"


def defective(data: Path, split: str) -> Boards:
    boards = read_boards(DatasetSettings(images=data, format="deep-pcb", group="group"))
    return boards.only((boards.images.split == split) & boards.images.path.str.endswith("_test.jpg"))


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


# Crops


def test_a_window_shows_the_pictures_own_pixels_around_its_box() -> None:
    picture = noise(200, 200, 3)
    window, box = window_of_box(picture, np.array([90.0, 80, 110, 100]))
    np.testing.assert_array_equal(window, picture[58:122, 68:132])
    assert box.tolist() == [22, 22, 42, 42]


@pytest.mark.parametrize(("corner", "start"), [((0, 0), (0, 0)), ((190, 185), (136, 136)), ((3, 100), (0, 73))])
def test_at_a_border_the_window_moves_into_the_picture_and_the_box_stays_exact(
    corner: tuple[int, int], start: tuple[int, int]
) -> None:
    picture, (x, y), (left, top) = noise(200, 200, 3), corner, start
    window, box = window_of_box(picture, np.array([x, y, x + 10.0, y + 10.0]))
    np.testing.assert_array_equal(window, picture[top : top + SIDE, left : left + SIDE])
    assert box.tolist() == [x - left, y - top, x + 10 - left, y + 10 - top]


def test_a_box_longer_than_the_window_is_shrunk_to_it_as_a_whole() -> None:
    window, box = window_of_box(noise(200, 200, 3), np.array([20.0, 20, 148, 60]))
    assert window.shape == (SIDE, SIDE, 3) and box[[0, 2]].tolist() == [0, SIDE]


def test_crops_keep_the_order_of_boxes_and_say_where_they_are_from(data: Path) -> None:
    boards = defective(data, "test")
    crops = crops_of(boards)
    assert len(crops.keys) == len(set(crops.keys)) == 12 * 6 == len(boards.objects)
    assert crops.categories[:6].tolist() == list(CATEGORIES.values())
    assert [key[1:] for key in crops.keys[:6]] == [(x0, y0, x1 - x0, y1 - y0) for x0, y0, x1, y1 in BOXES]
    assert crops.close.shape == (72, CLOSE, CLOSE)
    for window, box, grey in zip(crops.windows[:6], crops.boxes.astype(int), range(60, 240, 30), strict=False):
        assert abs(int(window[(box[1] + box[3]) // 2, (box[0] + box[2]) // 2, 0]) - grey) < 8


def test_boards_are_drawn_until_they_have_enough_boxes(data: Path) -> None:
    boards = defective(data, "test")
    assert [boards.some(count).sum() for count in (1, 6, 7, 1000)] == [1, 1, 2, 12]
    assert boards.some(7, seed=1).tolist() != boards.some(7, seed=0).tolist()


def test_written_boards_are_a_coco_set_beside_their_pictures(data: Path, tmp_path: Path) -> None:
    boards = defective(data, "test")
    for _ in range(2):
        boards.write(tmp_path / "set")
    again = read_boards(DatasetSettings(images=tmp_path / "set/images", annotations=tmp_path / "set/annotations.json"))
    assert again.images.key.tolist() == boards.images.key.tolist()
    assert again.objects[[*"xywh", "category"]].values.tolist() == boards.objects[[*"xywh", "category"]].values.tolist()


def test_a_folder_in_the_place_of_the_link_to_the_pictures_is_left_alone(tmp_path):
    boards = read_boards(DatasetSettings(images=make_boards(tmp_path / "data"), format="deep-pcb"))
    (tmp_path / "set" / "images").mkdir(parents=True)
    (tmp_path / "set" / "images" / "mine.png").touch()
    with pytest.raises(AugmentError, match="is in the way of a link to"):
        boards.write(tmp_path / "set")
    assert (tmp_path / "set" / "images" / "mine.png").is_file() and not (tmp_path / "set/annotations.json").exists()


def test_features_are_the_classifiers_own_and_do_not_depend_on_the_batch(models: Path) -> None:
    judge = CropClassifier(RegionSettings(batch_size=2), resolve(str(models / "classifier"), {}))
    features, crops = ClassifierFeatures(judge), list(noise(5, SIDE, SIDE, 3))
    rows = features.extract(crops)
    assert rows.shape == (5, features.dimensions) and len({row.tobytes() for row in rows}) == 5
    np.testing.assert_allclose(features.extract(crops[3:4]), rows[3:4], rtol=1e-4, atol=1e-5)
    model = judge.load().model
    logits = model.classifier(torch.from_numpy(rows).float()).detach().numpy()
    np.testing.assert_allclose(softmax(logits), judge.score(crops, list(judge.load().labels.values())), atol=1e-5)
    assert str(models) not in features.identity


# Neighbours


@pytest.mark.parametrize("symmetry", range(8))
def test_a_turned_copy_is_found_at_no_distance_with_its_symmetry(symmetry: int) -> None:
    among = noise(5, 12, 12).astype(np.float32)
    found = nearest(turned(among, symmetry)[[3]], among)
    assert (found.number[0], found.symmetry[0]) == (3, symmetry) and found.distance[0] < 1e-3


def test_the_eight_symmetries_are_all_different() -> None:
    crop = noise(1, 6, 6).astype(np.float32)
    assert len({turned(crop, symmetry).tobytes() for symmetry in range(8)}) == 8


def test_a_distance_is_the_root_of_the_mean_squared_difference() -> None:
    flat = np.full((1, 8, 8), 100, np.float32)
    found = nearest(flat, np.stack([flat[0] + 30, flat[0] - 7]))
    assert found.number[0] == 1 and found.distance[0] == pytest.approx(7)


# The command


def test_all_figures_come_from_one_call(
    data: Path, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flows import measure_defects as flow

    plain = flow.augment.fn
    monkeypatch.setattr(flow, "augment", lambda return_state, **values: plain(**values))
    monkeypatch.setattr(flow, "WHOLE", ("pixels",))
    monkeypatch.setattr(flow, "SAMPLES", 2)
    monkeypatch.setattr(flow, "LAYOUTS", 1)
    painter = flow._painter
    monkeypatch.setattr(flow, "_painter", lambda models: painter(models) | {"steps": 1})
    lines: list[str] = []
    result = flow.measure_defects(data, models, 18, 1, tmp_path / "ws", lines.append)
    figures = result["figures"]
    assert figures["stay"]["boxes"] == 18 and 0 < figures["copy-paste"]["boxes"] <= 18
    for name in ("stay", "copy-paste", "real"):
        assert {"crop_fid", "picture_kid", "nearest"} <= figures[name].keys()
    assert {"diversity_in_place", "diversity_of_layout"} <= figures["stay"].keys()
    assert {"group_77000_fid", "group_77000_alone_fid"} <= figures["stay"].keys() & figures["tuned"].keys()
    assert figures["stay"]["group_77000_fid"] != figures["tuned"]["group_77000_fid"]
    assert result["details"]["crop"]["stay"]["floor"]["m"] == result["details"]["crop"]["copy-paste"]["floor"]["m"]
    for path in result["panels"].values():
        assert min(pixels_of(Path(path)).shape[:2]) > 300
    card = (models / "stay" / "README.md").read_text()
    assert "By `augment measure defects`" in card and "| crop_fid | stay " in card
    assert "hits, pin-hole" in (models / "classifier" / "README.md").read_text()
    json.dumps(result)
    again = flow.measure_defects(data, models, 18, 1, tmp_path / "ws")
    status = json.loads((tmp_path / "ws/stay/status.json").read_text())
    assert again["figures"] == figures and status["painted"] == 0 and status["reused"] == 3


def test_what_is_missing_is_named_before_anything_is_painted(
    data: Path, models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from flows import cli

    for arguments, reason in (
        ([], "--data FOLDER is needed"),
        (["--data", str(data), "--boxes", "1"], "--boxes 1, --tune-steps 300: at least 2"),
        (["--data", str(data), "--models", str(tmp_path)], "lacks stay, classifier as `augment train` leaves them"),
        (["--data", str(tmp_path), "--models", str(models)], "no pictures name_test.jpg or name_temp.jpg"),
    ):
        assert cli.main(["measure", "defects", *arguments]) == 1
        assert reason in " ".join(capsys.readouterr().err.split())


def test_boards_without_a_test_group_are_refused(models: Path, tmp_path: Path) -> None:
    from flows.measure_defects import measure_defects

    data = make_boards(tmp_path / "PCBData", ("12000",), 1)
    with pytest.raises(AugmentError, match="no labelled boards of the groups 50600, 77000, 92000"):
        measure_defects(data, models, 30, 0, tmp_path / "ws")


def test_a_panel_of_neighbours_has_a_row_for_each_category(data: Path) -> None:
    crops, among = (crops_of(defective(data, split)) for split in ("test", "train"))
    panel = neighbour_panel(crops, among, nearest(crops.close, among.close))
    assert panel.height > 6 * 4 * CLOSE and panel.width > 4 * 2 * 4 * CLOSE
