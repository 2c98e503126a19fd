"""The classifier: what it learns from, what it says of crops, which checkpoints are taken as judges."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from shared import shared
from tiny import tiny_clip, tiny_gligen

from lib.core.checkpoints import MINI, resolve
from lib.core.errors import AugmentError
from lib.core.images import load_rgb
from lib.core.vision import crop_region
from lib.datasets.formats.deep_pcb import CATEGORIES, TEST_GROUPS
from lib.judges import make_judge
from lib.judges.classifier import CropClassifier
from lib.judges.clip import RegionScorer, RegionSettings
from lib.training import TRAINERS
from lib.training import classifier as module
from lib.training.classifier import ClassifierObjective, ClassifierSettings
from lib.training.train import train_model
from lib.training.windows import Things, TrainingPicture

LABELS = ["Pin-Hole", "background", "open", "short_circuit"]
COLOURS = {"blue": (20, 20, 220), "green": (20, 200, 20), "red": (220, 20, 20)}


def crops(count: int, size: int = 64) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (size, size, 3), dtype=np.uint8) for _ in range(count)]


def picture(*names: str, size: int = 96, side: float = 20) -> TrainingPicture:
    """Squares in a row of at most four, coloured by their name, on grey."""
    pixels = np.full((size, size, 3), 128, np.uint8)
    boxes = np.array([[4 + 23 * i, 30, 4 + 23 * i + side, 30 + side] for i in range(len(names))], float).reshape(-1, 4)
    for name, (x0, y0, x1, y1) in zip(names, boxes.round().astype(int), strict=True):
        pixels[y0:y1, x0:x1] = COLOURS.get(name, 0)
    return TrainingPicture(pixels, "", Things(boxes, names, tuple(f"a {name}" for name in names)))


def objective(*pictures: TrainingPicture, start: Path | None = None, **given: Any) -> ClassifierObjective:
    torch.manual_seed(1)
    return TRAINERS["classifier"].objective(ClassifierSettings(**given), pictures, 64, Path(), start, Path())


def judge_of(folder: Path, **settings: int) -> CropClassifier:
    return CropClassifier(RegionSettings(**settings), resolve(str(folder), {}))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with random weights that says LABELS."""
    folder = tmp_path_factory.mktemp("tiny") / "classifier"
    objective(picture("short_circuit", "open", "Pin-Hole")).save(folder)
    return folder


@pytest.fixture(scope="module")
def judge(folder: Path) -> CropClassifier:
    return judge_of(folder)


@pytest.fixture
def copied(folder: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(folder, tmp_path / "copied"))


# What it says


def test_scores_are_the_softmax_that_transformers_gives_for_its_own_processor(folder: Path, judge: CropClassifier):
    from transformers import AutoImageProcessor, AutoModelForImageClassification

    model = AutoModelForImageClassification.from_pretrained(folder, dtype=torch.float32)
    inputs = AutoImageProcessor.from_pretrained(folder)(crops(3), return_tensors="pt")
    with torch.inference_mode():
        expected = model(**inputs).logits.softmax(1)
    np.testing.assert_allclose(judge.score(crops(3), LABELS), expected, rtol=1e-3)
    assert model.config.id2label == dict(enumerate(LABELS))


def test_only_the_requested_names_share(judge: CropClassifier):
    of_all, of_two = judge.score(crops(3), LABELS), judge.score(crops(3), ["open", "background"])
    np.testing.assert_allclose(of_two, of_all[:, [2, 1]] / of_all[:, [2, 1]].sum(1, keepdims=True), rtol=1e-6)


def test_case_underscores_and_hyphens_do_not_count(judge: CropClassifier):
    expected = judge.score(crops(2), ["Pin-Hole", "short_circuit"])
    np.testing.assert_array_equal(judge.score(crops(2), ["pin hole", "Short-Circuit"]), expected)


def test_labels_that_mean_one_name_are_added_up(copied: Path, judge: CropClassifier):
    config = json.loads((copied / "config.json").read_text())
    config["id2label"] = {"0": "hole", "1": "background", "2": "Hole", "3": "short"}
    (copied / "config.json").write_text(json.dumps(config))
    shares, of_all = judge_of(copied).score(crops(2), ["hole", "short", "background"]), judge.score(crops(2), LABELS)
    np.testing.assert_allclose(
        shares, np.stack([of_all[:, 0] + of_all[:, 2], of_all[:, 3], of_all[:, 1]], 1), rtol=1e-6
    )


def test_names_that_it_does_not_know_are_listed_with_those_that_it_has(judge: CropClassifier):
    with pytest.raises(AugmentError, match=r"does not know dog, cat: it has Pin-Hole, background, open, short_circuit"):
        judge.score(crops(1), ["dog", "open", "cat"])


def test_batches_and_sizes_of_crops_do_not_change_what_it_says(folder: Path, judge: CropClassifier):
    expected = judge.score(crops(5), LABELS)
    np.testing.assert_allclose(judge_of(folder, batch_size=2).score(crops(5), LABELS), expected, rtol=1e-5)
    plain = [np.full((side, side, 3), 90, np.uint8) for side in (judge.size, 17, 300)]
    shares = judge.score(plain, LABELS)
    np.testing.assert_allclose(shares, shares[[0, 0, 0]], rtol=1e-5)


def test_no_crops_give_no_rows_and_no_names_are_refused(judge: CropClassifier):
    assert judge.score([], LABELS).shape == (0, 4)
    with pytest.raises(ValueError, match="no names"):
        judge.score(crops(1), [])


# Which checkpoints


def test_the_checkpoint_decides_who_judges(folder: Path, tmp_path: Path):
    clip = tiny_clip(tmp_path / "clip")
    for made, kind, name in ((folder, CropClassifier, "classifier"), (clip, RegionScorer, "clip")):
        judge = make_judge(resolve(str(made), {}))
        assert isinstance(judge, kind)
        assert judge.identity.startswith(f"{name} folder sha256:") and str(made) not in judge.identity
        assert judge.size == 64


def test_what_is_neither_is_refused_with_what_it_is(tmp_path: Path):
    gligen = tiny_gligen(tmp_path / "gligen")
    is_not = r"is not a judge of boxes: .*'clip_text_model', architectures .*'CLIPTextModel"
    with pytest.raises(AugmentError, match=is_not):
        make_judge(resolve(str(gligen / "text_encoder"), {}))
    with pytest.raises(AugmentError, match=r"no config\.json"):
        make_judge(resolve(str(gligen), {}))


@pytest.mark.parametrize("text", ["{", "[1]", ""])
def test_a_config_that_cannot_be_read_is_one_clear_error(text: str, copied: Path):
    (copied / "config.json").write_text(text)
    with pytest.raises(AugmentError, match="cannot be loaded"):
        make_judge(resolve(str(copied), {}))


def test_a_vision_transformer_of_another_size_judges_too(tmp_path: Path):
    from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

    small: dict[str, Any] = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1}
    config = ViTConfig(**small, num_attention_heads=2, image_size=32, patch_size=8, id2label={0: "cat", 1: "dog"})
    ViTForImageClassification(config).save_pretrained(tmp_path)
    ViTImageProcessor(size={"height": 40, "width": 40}).save_pretrained(tmp_path)
    judge = make_judge(resolve(str(tmp_path), {}))
    assert judge.size == 32
    np.testing.assert_allclose(judge.score(crops(2), ["dog", "cat"]).sum(1), 1)


@pytest.mark.parametrize(
    ("fields", "side"),
    [
        ({"size": {"shortest_edge": 48}}, 48),
        ({"size": {"shortest_edge": 48}, "do_center_crop": True, "crop_size": {"height": 40, "width": 40}}, 40),
        ({"size": 56}, 56),
    ],
    ids=str,
)
def test_the_size_of_crops_is_read_as_processors_say_it(fields: dict[str, Any], side: int, copied: Path):
    had = json.loads((copied / "preprocessor_config.json").read_text())
    (copied / "preprocessor_config.json").write_text(json.dumps({**had, **fields}))
    assert judge_of(copied).size == side


@pytest.mark.parametrize("change", [{"size": None}, {"image_mean": [0.5]}])
def test_a_processor_that_says_too_little_is_refused(change: dict[str, Any], copied: Path):
    had = json.loads((copied / "preprocessor_config.json").read_text())
    (copied / "preprocessor_config.json").write_text(json.dumps({**had, **change}))
    with pytest.raises(AugmentError, match=r"cannot be loaded: ValueError: (neither its config|no image_mean)"):
        judge_of(copied).load()


def test_missing_tensors_are_not_filled_with_random_numbers(copied: Path):
    tensors = load_file(copied / "model.safetensors")
    del tensors["classifier.1.weight"]
    save_file(tensors, copied / "model.safetensors", {"format": "pt"})
    with pytest.raises(AugmentError, match=r"lack 1 tensors \(classifier.1.weight"):
        judge_of(copied).load()


def test_weights_that_are_not_numbers_are_reported_at_the_first_score(copied: Path):
    tensors = load_file(copied / "model.safetensors")
    tensors["classifier.1.weight"] *= float("nan")
    save_file(tensors, copied / "model.safetensors", {"format": "pt"})
    with pytest.raises(AugmentError, match="not finite"):
        judge_of(copied).score(crops(1), LABELS)


@pytest.mark.parametrize("name", ["model.safetensors", "preprocessor_config.json"])
def test_a_missing_file_is_named(name: str, copied: Path):
    (copied / name).unlink()
    with pytest.raises(AugmentError, match=name.replace("model", "").replace("pre", "")):
        judge_of(copied).load()


# What it learns


def test_a_short_training_distinguishes_colours_and_empty_places(tmp_path: Path):
    pictures = [picture("red", "green", "blue"), picture("blue", "red"), picture("green"), picture()]
    settings = ClassifierSettings(
        steps=50, batch=32, side=32, warmup=5, decay=0.9, precision="no", checkpoint_minutes=9
    )
    train_model("classifier", settings, pictures, 64, tmp_path / "models", tmp_path / "work")
    judge, names = make_judge(resolve(str(tmp_path / "models" / "classifier"), {})), [*COLOURS, "background"]
    unseen = picture("blue", "green", "red", size=128, side=16)
    boxes = [*unseen.things.boxes.tolist(), [60, 80, 90, 110]]
    shares = judge.score([crop_region(unseen.pixels, box, judge.size) for box in boxes], names)
    assert [names[i] for i in shares.argmax(1)] == ["blue", "green", "red", "background"]


def test_all_categories_are_drawn_alike_often_however_rare(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "worn", lambda pixels, rng: pixels)
    made = objective(*[picture("red", "red", "red")] * 20, picture("blue"), picture(), side=32)
    batch = made.batch(np.random.default_rng(0), 600)
    assert made.labels == ["background", "blue", "red"] and batch["pixels"].shape == (600, 3, 32, 32)
    assert (np.bincount(batch["labels"]) > 150).all()
    middles = batch["pixels"][:, :, 16, 16]  # R, G, B in −1 .. 1
    assert (middles[batch["labels"] == 1][:, 2] > 0.3).all() and (middles[batch["labels"] == 2][:, 0] > 0.3).all()
    assert (middles[batch["labels"] == 0].std(1) < 0.2).all()  # grey


@pytest.mark.parametrize(("symmetries", "count"), [("none", 1), ("mirror", 2), ("all", 8)])
def test_crops_are_turned_as_far_as_is_set(symmetries: str, count: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "worn", lambda pixels, rng: pixels)
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    one = TrainingPicture(noise, "", Things(np.array([[20.0, 20, 40, 40]]), ("red",), ("a red",)))
    made = objective(one, symmetries=symmetries, shift=0, scale=0, contrast=0, side=32, background=False)
    pixels = made.batch(np.random.default_rng(0), 100)["pixels"].numpy()
    assert len({crop.tobytes() for crop in pixels}) == count


def test_an_unmoved_crop_is_what_a_judge_is_shown():
    made = objective(picture("red"), background=False)
    expected = crop_region(made.pictures[0].pixels, made.pictures[0].things.boxes[0], 64)
    np.testing.assert_array_equal(made._crop(np.random.default_rng(0), 0, moved=False), expected)


def test_without_background_there_is_no_such_label():
    assert objective(picture("red", "blue"), background=False).labels == ["blue", "red"]


def test_a_category_of_the_data_called_background_gives_its_own_examples():
    made = objective(picture("red", "background"))
    assert made.labels == ["background", "red"]
    found, box = made._place(np.random.default_rng(0), "background")
    np.testing.assert_array_equal(box, found.things.boxes[1])


def test_a_category_all_of_whose_boxes_are_too_small_is_named():
    with pytest.raises(AugmentError, match=r"no example of blue, green to learn from: .* 2 pixels .*larger pictures"):
        objective(picture("red"), picture("green", "blue", side=1.5))


def test_pictures_full_of_objects_have_no_background():
    corners = np.mgrid[0:40:2, 0:40:2].reshape(2, -1).T.astype(float)
    tiled = Things(np.concatenate([corners, corners + 2], 1), ("red",) * 400, ("a red",) * 400)
    full = TrainingPicture(np.zeros((40, 40, 3), np.uint8), "", tiled)
    with pytest.raises(AugmentError, match=r"no example of background .* `background: false`"):
        objective(full)
    assert objective(full, background=False).labels == ["red"]


def test_a_piece_of_a_large_object_is_not_an_empty_place():
    boxes = np.array([[0, 0, 96, 80], [4, 84, 8, 88]], float)
    large = TrainingPicture(np.zeros((96, 96, 3), np.uint8), "", Things(boxes, ("red",) * 2, ("a red",) * 2))
    made = objective(large, large)
    for seed in range(20):
        _, (_, y0, _, y1) = made._place(np.random.default_rng(seed), "background")
        assert max(0, 80 - y0) <= 0.1 * (y1 - y0) + 1e-9


def test_a_start_gives_its_labels_and_wants_an_example_of_each(folder: Path):
    assert objective(picture("open", "Pin-Hole", "short_circuit"), start=folder).labels == LABELS
    with pytest.raises(AugmentError, match=r"to begin from does not know dog: it knows Pin-Hole, background"):
        objective(picture("open", "dog"), start=folder)
    with pytest.raises(AugmentError, match=r"no example of Pin-Hole, short_circuit to learn from"):
        objective(picture("open"), start=folder)


def test_the_sheet_shows_crops_and_marks_what_is_wrong():
    made = objective(picture("red", "blue"), picture("blue"), side=32)
    with torch.no_grad():  # says the same of everything
        made.model.eval().classifier[1].weight.zero_()
        made.model.classifier[1].bias.copy_(torch.tensor([1.0, 0, 0]))
    sheet = made.sheet()
    assert sheet.shape == (6 * (32 + 4 + 14), 8 * (32 + 4), 3) and sheet.dtype == np.uint8
    corners = sheet[:: 32 + 4 + 14, :: 32 + 4].reshape(-1, 3)
    assert (corners == (200, 30, 30)).all(1).sum() == 32  # of 48, all but the third that it is right about


# On boards that are not in its training set


def test_the_classifier_of_boards_recognises_real_defects_and_clean_places_on_unseen_groups():
    model = MINI.parent / "pcb" / "classifier"
    if not model.is_dir():
        pytest.skip("the classifier of circuit boards is not here: data/models/pcb/classifier is missing")
    judge, names = make_judge(resolve(str(model), {})), [*CATEGORIES.values(), "background"]
    defects: list[bool] = []
    clean: list[bool] = []
    for group in TEST_GROUPS:
        folder = shared("deep_pcb", "PCBData", f"group{group}")
        for file in sorted((folder / f"{group}_not").glob("*.txt"))[::6]:
            rows = np.loadtxt(file, int, ndmin=2)
            for kind, labels, hits in (("test", rows[:, 4] - 1, defects), ("temp", len(CATEGORIES), clean)):
                pixels = load_rgb(folder / group / f"{file.stem}_{kind}.jpg")
                shown = [crop_region(pixels, box, judge.size) for box in rows[:, :4].tolist()]
                hits += (judge.score(shown, names).argmax(1) == labels).tolist()
    assert len(defects) > 200
    assert np.mean(defects) >= 0.95 and np.mean(clean) >= 0.9
