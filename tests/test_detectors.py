"""Detectors: one contract for all, names of two vocabularies, broken checkpoints; random weights, the real loading."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import LABELS, tiny_clip, tiny_detector, tiny_owl, tiny_torchvision

from lib.core.checkpoints import resolve
from lib.core.errors import AugmentError
from lib.core.words import match_names
from lib.evaluation.detectors import DETECTORS, Detections, detector_of
from lib.evaluation.detectors.shared import numbered, tidy

NAMES = ["small_load_carrier", "forklift", "pallet", "air duct"]  # all but pallet are among LABELS, spelled otherwise
SMALL = {"min_size": 64, "max_size": 64}
RETINANET = "retinanet_resnet50_fpn"
# kind → (member, settings, what makes its folder)
MADE: dict[str, tuple[str, dict[str, Any], Callable[[Path], Path]]] = {
    "yolos": ("transformers", {}, tiny_detector),
    "detr": ("transformers", {}, lambda folder: tiny_detector(folder, "detr")),
    "rt_detr": ("transformers", {}, lambda folder: tiny_detector(folder, "rt_detr")),
    "owl": ("zero-shot", {}, tiny_owl),
    "faster": ("torchvision", SMALL, tiny_torchvision),
    "retinanet": ("torchvision", {**SMALL, "architecture": RETINANET}, lambda f: tiny_torchvision(f, RETINANET)),
}
every_detector = pytest.mark.parametrize("kind", MADE)


def pictures() -> list[np.ndarray]:
    """Blocks of random colours, 80 × 48 and 40 × 64 pixels."""
    rng = np.random.default_rng(0)
    shapes = ((6, 10, 3), (8, 5, 3))
    return [rng.integers(0, 256, shape, dtype=np.uint8).repeat(8, 0).repeat(8, 1) for shape in shapes]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tiny")


@pytest.fixture(scope="module")
def detector(folders: Path) -> Callable[..., Any]:
    """A detector by its kind and settings; without settings always the same one, loaded once."""
    kept: dict[str, Any] = {}

    def made(kind: str, **settings: Any) -> Any:
        member, values, make = MADE[kind]
        values = {"model": str(make(folders / kind)), "threshold": 0, **values, **settings}
        if settings:
            return detector_of(member, values)
        return kept.setdefault(kind, detector_of(member, values))

    return made


@pytest.fixture
def copied(folders: Path, tmp_path: Path) -> Callable[[str], Path]:
    """A copy that a test may damage."""
    return lambda kind: Path(shutil.copytree(MADE[kind][2](folders / kind), tmp_path / kind))


def same(one: Detections, other: Detections) -> bool:
    return all(np.array_equal(getattr(one, name), getattr(other, name)) for name in ("boxes", "scores", "labels"))


# The contract


def test_every_member_is_tested_here():
    assert {member for member, _, _ in MADE.values()} == set(DETECTORS)


@every_detector
def test_boxes_lie_in_their_picture_and_the_surest_comes_first(kind: str, detector: Callable[..., Any]):
    found = detector(kind).detect(pictures(), NAMES)
    assert len(found) == 2 and all(len(one.scores) for one in found)
    for picture, one in zip(pictures(), found, strict=True):
        height, width = picture.shape[:2]
        n = len(one.scores)
        assert one.boxes.shape == (n, 4) and one.labels.shape == (n,) and n <= 100
        assert one.boxes.dtype == one.scores.dtype == np.float64 and one.labels.dtype == np.int64
        assert (one.boxes >= 0).all() and (one.boxes <= [width, height, width, height]).all()
        assert (one.boxes[:, 2:] > one.boxes[:, :2]).all()
        assert (np.diff(one.scores) <= 0).all() and one.scores.max() <= 1 and one.scores.min() > 0
        known = [i for i, can_find in enumerate(detector(kind).knows(NAMES)) if can_find]
        assert set(one.labels) <= set(known)


@every_detector
def test_what_is_found_does_not_depend_on_the_pictures_beside_it(kind: str, detector: Callable[..., Any]):
    first, second = pictures()
    together = detector(kind).detect([first, second], NAMES)
    assert same(together[1], detector(kind).detect([second], NAMES)[0])
    assert not same(*together)
    assert detector(kind).detect([], NAMES) == []


@every_detector
def test_names_in_another_order_are_found_at_the_same_places(kind: str, detector: Callable[..., Any]):
    one = detector(kind).detect(pictures()[:1], NAMES)[0]
    other = detector(kind).detect(pictures()[:1], NAMES[::-1])[0]
    np.testing.assert_allclose(one.boxes, other.boxes, atol=1e-3)
    assert [NAMES[i] for i in one.labels] == [NAMES[::-1][i] for i in other.labels]


@every_detector
def test_threshold_and_most_leave_the_surest(kind: str, detector: Callable[..., Any]):
    whole = detector(kind).detect(pictures()[:1], NAMES)[0]
    limit = float(whole.scores[0])
    assert len(detector(kind, threshold=limit).detect(pictures()[:1], NAMES)[0].scores) == 0
    two = detector(kind, most=2).detect(pictures()[:1], NAMES)[0]
    assert same(two, Detections(whole.boxes[:2], whole.scores[:2], whole.labels[:2]))


@every_detector
def test_nothing_is_read_before_the_first_use_and_a_folder_that_is_gone_is_told(kind: str, copied: Callable[..., Path]):
    member, values, _ = MADE[kind]
    folder = copied(kind)
    made = detector_of(member, {"model": str(folder), **values})
    shutil.rmtree(folder)
    with pytest.raises(AugmentError):
        made.detect(pictures(), NAMES)


@every_detector
def test_truncated_weights_are_one_clear_error(kind: str, copied: Callable[..., Path]):
    member, values, _ = MADE[kind]
    weights = copied(kind) / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:20_000])
    with pytest.raises(AugmentError, match="cannot be loaded"):
        detector_of(member, {"model": str(weights.parent), **values}).detect(pictures(), NAMES)


@every_detector
def test_missing_tensors_are_not_filled_with_random_numbers(kind: str, copied: Callable[..., Path]):
    member, values, _ = MADE[kind]
    folder = copied(kind)
    damage(folder, lambda tensors: tensors.pop(sorted(tensors)[0]))
    with pytest.raises(AugmentError, match=r"lack 1 tensors|Missing key"):
        detector_of(member, {"model": str(folder), **values}).detect(pictures(), NAMES)


@every_detector
def test_weights_that_are_no_numbers_are_not_a_picture_with_nothing_in_it(kind: str, copied: Callable[..., Path]):
    member, values, _ = MADE[kind]
    folder = copied(kind)
    damage(folder, lambda tensors: [t.fill_(float("nan")) for n, t in tensors.items() if "class" in n or "cls" in n])
    with pytest.raises(AugmentError, match="not finite"):
        detector_of(member, {"model": str(folder), **values}).detect(pictures(), NAMES)


def damage(folder: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", {"format": "pt", "names": json.dumps(LABELS)})


# Names


def test_case_underscores_and_hyphens_do_not_count():
    known = {0: "Small-Load_Carrier", 3: "FORKLIFT", 5: "dog"}
    assert match_names(["small load carrier", "forklift", "cat"], known, {}) == {0: 0, 3: 1}


def test_a_name_may_be_called_otherwise_and_stand_for_several_labels():
    known = {0: "truck", 1: "Truck", 2: "forklift"}
    assert match_names(["forklift"], known, {"forklift": "truck"}) == {0: 0, 1: 0}


def test_a_label_that_the_model_does_not_have_is_told_with_those_it_has():
    with pytest.raises(AugmentError, match="no label lorry: it has dog, truck"):
        match_names(["forklift"], {0: "truck", 1: "dog"}, {"forklift": "lorry"})


@pytest.mark.parametrize("kind", ["yolos", "faster"])
def test_only_what_was_asked_for_is_told(kind: str, detector: Callable[..., Any]):
    every, one = (detector(kind).detect(pictures()[:1], names)[0] for names in (NAMES, ["forklift"]))
    assert (one.labels == 0).all()
    assert len(one.scores) == (every.labels == NAMES.index("forklift")).sum()


@pytest.mark.parametrize("kind", ["yolos", "faster"])
def test_a_detector_that_knows_none_of_the_names_says_what_it_knows(kind: str, detector: Callable[..., Any]):
    with pytest.raises(AugmentError, match=r"knows none of pallet: it has Forklift, N/A, Small Load Carrier, air-duct"):
        detector(kind).detect(pictures(), ["pallet"])
    assert detector(kind).knows(NAMES) == [True, True, False, True]
    assert detector(kind, called={"pallet": "N/A"}).knows(NAMES) == [True] * 4


def test_zero_shot_asks_for_a_photo_of_each_name_and_needs_one(detector: Callable[..., Any]):
    owl = detector("owl", prompts={"stillage": "a steel cage"})
    assert owl.prompts(["air_duct", "stillage"]) == ["a photo of an air duct", "a steel cage"]
    with pytest.raises(AugmentError, match="no names"):
        owl.detect(pictures(), [])


def test_a_prompt_longer_than_the_model_reads_is_cut(detector: Callable[..., Any]):
    assert len(detector("owl").detect(pictures()[:1], ["pallet " * 50])[0].scores)


# Which boxes are kept


def test_boxes_are_cut_to_the_frame_and_empty_ones_left_out():
    boxes = torch.tensor([[-5.0, 2, 8, 30], [12, 0, 15, 5], [1, 1, 2, 2]])
    settings = DETECTORS.settings("torchvision", {"threshold": 0.125})
    found = tidy(np.zeros((20, 10, 3), np.uint8), boxes, torch.tensor([0.25, 0.9, 0.125]), torch.zeros(3), settings)
    np.testing.assert_array_equal(found.boxes, [[0, 2, 8, 20]])
    np.testing.assert_allclose(found.scores, [0.25])


def test_labels_that_match_no_name_have_no_number():
    assert numbered(torch.tensor([4, 1, 4]), {4: 0}).tolist() == [0, -1, 0]
    assert numbered(torch.tensor([], dtype=torch.int64), {}).tolist() == []


# Checkpoints


def test_naming_the_detectors_imports_none_of_them():
    code = "import sys, lib.evaluation.detectors as d; list(d.DETECTORS)\n"
    code += "print([m for m in ('torch', 'torchvision', 'transformers') if m in sys.modules])"
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert process.stdout.strip() == "[]"


@pytest.mark.parametrize("member", DETECTORS)
def test_every_setting_has_a_default_and_says_what_it_means(member: str):
    settings = DETECTORS[member].Settings
    settings()
    assert all(field.description for field in settings.model_fields.values())
    with pytest.raises(AugmentError, match=r"'no_such_setting'.*known are: "):
        DETECTORS.settings(member, {"no_such_setting": 1})


def test_a_detector_without_a_published_checkpoint_asks_for_a_folder():
    with pytest.raises(AugmentError, match="give a folder"):
        detector_of("torchvision", {})


def test_the_published_checkpoint_is_taken_where_none_is_named():
    for member in ("transformers", "zero-shot"):
        published = DETECTORS[member].MODEL
        assert detector_of(member, {}, {published: "1" * 40}).ref.id == published


def test_another_kind_of_model_is_refused_by_name(folders: Path):
    yolos, clip = tiny_detector(folders / "yolos"), tiny_clip(folders / "clip")
    with pytest.raises(AugmentError, match=r"model_type 'yolos'; one of owlvit, owlv2 was expected"):
        detector_of("zero-shot", {"model": str(yolos)}).detect(pictures(), NAMES)
    with pytest.raises(AugmentError, match="cannot be loaded"):
        detector_of("transformers", {"model": str(clip)}).detect(pictures(), NAMES)
    with pytest.raises(AugmentError, match=r"have no roi_heads.*set `architecture`"):
        detector_of("torchvision", {"model": str(yolos)}).detect(pictures(), NAMES)


def test_a_package_that_is_not_there_is_told(copied: Callable[..., Path], monkeypatch: pytest.MonkeyPatch):
    import transformers

    def needs(*args: Any, **kwargs: Any) -> None:
        raise ImportError("TimmBackbone requires the timm library")

    monkeypatch.setattr(transformers.AutoModelForObjectDetection, "from_pretrained", needs)
    with pytest.raises(AugmentError, match="needs another package: TimmBackbone requires the timm"):
        detector_of("transformers", {"model": str(copied("yolos"))}).load()


def test_torchvision_counts_its_classes_by_the_weights_and_wants_a_name_for_each(copied: Callable[..., Path]):
    folder = copied("faster")
    with pytest.raises(AugmentError, match=r"4 classes beside the background, and 1 names were given \(forklift\)"):
        detector_of("torchvision", {"model": str(folder), "names": ["forklift"]}).load()
    named = detector_of("torchvision", {"model": str(folder), "names": ["a", "b", "c", "d"], **SMALL})
    assert named.load().labels == {1: "a", 2: "b", 3: "c", 4: "d"}
    save_file(load_file(folder / "model.safetensors"), folder / "model.safetensors")
    with pytest.raises(AugmentError, match=r"0 names were given \(none\): set `names`"):
        detector_of("torchvision", {"model": str(folder)}).load()
    shutil.copy(folder / "model.safetensors", folder / "other.safetensors")
    with pytest.raises(AugmentError, match=r"one \.safetensors file was expected"):
        detector_of("torchvision", {"model": str(folder)}).load()


def test_weights_of_frozen_batch_norms_load_as_well(copied: Callable[..., Path], detector: Callable[..., Any]):
    folder = copied("faster")
    damage(folder, lambda tensors: [tensors.pop(name) for name in [*tensors] if name.endswith("num_batches_tracked")])
    frozen = detector_of("torchvision", {"model": str(folder), "threshold": 0, **SMALL}).detect(pictures(), NAMES)
    assert same(frozen[0], detector("faster").detect(pictures(), NAMES)[0])


@pytest.mark.gpu
@every_detector
def test_a_gpu_finds_what_a_cpu_finds(kind: str, folders: Path, monkeypatch: pytest.MonkeyPatch):
    member, values, make = MADE[kind]
    ref = resolve(str(make(folders / kind)), {})
    settings = DETECTORS.settings(member, {**values, "threshold": 0})
    gpu = DETECTORS[member](settings, ref).detect(pictures(), NAMES)[0]
    for module in ("hugging", "torch_vision"):
        monkeypatch.setattr(f"lib.evaluation.detectors.{module}.device", lambda: torch.device("cpu"))
    cpu = DETECTORS[member](settings, ref).detect(pictures(), NAMES)[0]
    np.testing.assert_allclose(gpu.scores[:3], cpu.scores[:3], atol=1e-3)
