"""STAY's U-Net: layouts as maps and masks, ISLA-Norm, and checkpoints."""

import json
import shutil
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from tiny import THINGS, tiny_stay

from lib.core.checkpoints import resolve
from lib.core.errors import AugmentError
from lib.painting.painters.schedulers import SCHEDULERS, make_scheduler
from lib.painting.painters.stay_unet import IslaNorm, LayoutUNet, box_maps, load_layout_unet, paint_layout, place_masks

SMALL: dict[str, Any] = {
    "sample_size": 32,
    "block_out_channels": [8, 12, 16],
    "norm_num_groups": 4,
    "style_dim": 6,
    "label_dim": 5,
    "mask_size": 8,
}


def awake(**given: Any) -> LayoutUNet:
    """A small one whose weights are all drawn: fresh ones begin with zeros at their ends."""
    torch.manual_seed(3)
    unet = LayoutUNet(**{"categories": ["open", "short", "spur"], **SMALL, **given})
    with torch.no_grad():
        for weight in unet.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
    return unet


def inputs_of(unet: LayoutUNet, count: int = 2) -> dict[str, Any]:
    """Inputs: two objects in each picture but the last, which has one."""
    torch.manual_seed(4)
    config = unet.config
    shape = (count, config.channels, config.sample_size, config.sample_size)
    boxes = torch.tensor([[0.1, 0.2, 0.6, 0.7], [0.5, 0.4, 0.95, 0.8]]).repeat(count, 1, 1)
    labels = torch.tensor([[1, 3]]).repeat(count, 1)
    labels[-1, 1] = 0
    return {
        "sample": torch.randn(shape),
        "timestep": torch.randint(0, 1000, (count,)),
        "boxes": boxes,
        "labels": labels,
        "style": torch.randn(count, 2, config.style_dim),
        "known": torch.randn(shape),
        "keep": (torch.rand(count, 1, *shape[2:]) < 0.5).float(),
    }


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"channels": 3, "learned_variance": False},
        {"channels": 4, "patch": 1, "sample_size": 16},
        {"keeps": False, "class_maps": False},
        {"layers_per_block": 2, "block_out_channels": [8, 16]},
        {"sample_size": 64, "patch": 8, "mask_size": 16},
    ],
    ids=str,
)
def test_what_it_says_has_the_shape_of_its_input_or_twice_the_channels(given):
    unet = awake(**given)
    output = unet(**inputs_of(unet))
    channels, side = unet.config.channels, unet.config.sample_size
    assert output.shape == (2, channels * (1 + unet.config.learned_variance), side, side)
    assert torch.isfinite(output).all()


def test_every_weight_learns():
    unet = awake()
    unet(**inputs_of(unet)).square().mean().backward()
    idle = [name for name, weight in unet.named_parameters() if weight.grad is None or not weight.grad.any()]
    assert idle == []


def test_label_0_is_not_an_object_wherever_its_box_and_whatever_its_style():
    unet, given = awake().eval(), inputs_of(awake())
    nothing = given | {"labels": given["labels"] * 0}
    empty = given | {"boxes": given["boxes"][:, :0], "labels": given["labels"][:, :0], "style": given["style"][:, :0]}
    with torch.no_grad():
        blank = unet(**nothing)
        torch.testing.assert_close(unet(**nothing | {"boxes": given["boxes"] * 0.5, "style": -given["style"]}), blank)
        torch.testing.assert_close(unet(**empty), blank)
        assert not torch.allclose(unet(**given), blank, atol=1e-3)


def test_objects_may_stand_in_any_order_and_among_empty_rows():
    unet, given = awake().eval(), inputs_of(awake())
    swapped = {name: given[name].flip(1) for name in ("boxes", "labels", "style")}
    padded = {name: torch.cat([given[name], given[name][:, :1] * 0], 1) for name in ("boxes", "labels", "style")}
    with torch.no_grad():
        output = unet(**given)
        for other in (swapped, padded):
            torch.testing.assert_close(unet(**given | other), output, rtol=1e-4, atol=1e-4)


def test_nothing_kept_is_the_same_as_no_condition():
    unet, given = awake().eval(), inputs_of(awake())
    with torch.no_grad():
        output = unet(**given | {"keep": given["keep"] * 0})
        torch.testing.assert_close(unet(**given | {"known": None, "keep": None}), output)


@pytest.mark.parametrize("given", [{"class_maps": False}, {"class_maps": True}], ids=str)
def test_a_label_and_a_style_change_what_it_says(given):
    unet = awake(**given).eval()
    inputs = inputs_of(unet)
    with torch.no_grad():
        output = unet(**inputs)
        for other in ({"labels": inputs["labels"].clamp(max=2)}, {"style": -inputs["style"]}):
            assert not torch.allclose(unet(**inputs | other), output, atol=1e-3)


def test_isla_norm_is_its_equation_cell_by_cell():
    torch.manual_seed(0)
    norm, x = IslaNorm(8, 6, 4), torch.randn(2, 8, 3, 5)
    masks, styles = torch.rand(2, 3, 3, 5) * (torch.rand(2, 3, 3, 5) < 0.6), torch.randn(2, 3, 6)
    found, plain = norm(x, masks, styles), norm.norm(x)
    gammas, betas = norm.modulation(styles).chunk(2, dim=-1)
    for n in range(2):
        for row in range(3):
            for column in range(5):
                gamma, beta, total = torch.zeros(8), torch.zeros(8), 1e-6
                for o in range(3):
                    weight = masks[n, o, row, column]
                    gamma, beta, total = gamma + weight * gammas[n, o], beta + weight * betas[n, o], total + weight
                expected = (gamma / total + 1) * plain[n, :, row, column] + beta / total
                torch.testing.assert_close(found[n, :, row, column], expected, rtol=1e-4, atol=1e-5)


sides = st.tuples(st.floats(0, 1), st.floats(0, 1)).map(sorted)


@given(across=sides, down=sides, height=st.integers(1, 9), width=st.integers(1, 9))
def test_a_boxs_map_holds_its_area_and_a_mask_lies_inside_its_box(across, down, height, width):
    (x0, x1), (y0, y1) = across, down
    boxes = torch.tensor([[[x0, y0, x1, y1]]], dtype=torch.float64)
    maps = box_maps(boxes, height, width)
    assert float(maps.mean()) == pytest.approx((x1 - x0) * (y1 - y0), abs=1e-9)
    masks = torch.rand(1, 1, 8, 8, dtype=torch.float64)
    placed = place_masks(masks, boxes, height, width)
    assert (placed <= maps + 1e-9).all() and (placed >= 0).all()
    torch.testing.assert_close(place_masks(masks * 0 + 1, boxes, height, width), maps)


def test_a_mask_that_fills_the_picture_is_resized_as_bilinear_resizing_does():
    masks = torch.rand(2, 3, 16, 16)
    whole = torch.tensor([0.0, 0, 1, 1]).expand(2, 3, 4)
    expected = torch.nn.functional.interpolate(masks, size=(8, 20), mode="bilinear")
    torch.testing.assert_close(place_masks(masks, whole, 8, 20), expected)


def test_a_mask_keeps_its_sides():
    mask = torch.tensor([[1.0, 0], [1, 0]])[None, None]  # its left half
    placed = place_masks(mask, torch.tensor([[[0.5, 0, 1, 0.5]]]), 8, 8)[0, 0]
    assert placed[:4, 4].min() == 1 and placed[:4, 7].max() == 0 and placed[:, :4].max() == 0 == placed[4:].max()


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"sample_size": 40}, "sample_size 40: a multiple of 16"),
        ({"categories": []}, "categories .*one or more"),
        ({"categories": ["a", "a"]}, "each once"),
        ({"mask_size": 12}, "mask_size 12: 4, 8, 16 or 32"),
    ],
    ids=str,
)
def test_sizes_that_do_not_go_together_are_refused(given, reason):
    with pytest.raises(ValueError, match=reason):
        LayoutUNet(**{"categories": ["open"], **SMALL, **given})


# Checkpoints


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_stay(tmp_path_factory.mktemp("tiny") / "stay")


def test_a_saved_one_predicts_the_same(tmp_path):
    unet = awake().eval()
    unet.save_pretrained(tmp_path)
    again = LayoutUNet.from_pretrained(tmp_path)
    assert list(again.config.categories) == ["open", "short", "spur"]
    with torch.no_grad():
        assert torch.equal(unet(**inputs_of(unet)), again.eval()(**inputs_of(unet)))


def test_a_checkpoint_is_read_with_its_size_and_schedule(folder, tmp_path):
    model = load_layout_unet(resolve(str(folder), {}), 64)
    assert (model.size, model.factor, model.vae) == (64, 1, None)
    assert tuple(model.unet.config.categories) == THINGS and not model.unet.training
    assert model.scheduler["prediction_type"] == "v_prediction"
    latent = load_layout_unet(resolve(str(tiny_stay(tmp_path / "latent", vae=True)), {}), 64)
    assert (latent.size, latent.factor) == (64, 8) and latent.vae is not None


def test_another_size_is_refused(folder):
    with pytest.raises(AugmentError, match=r"cannot be loaded.*paints 64 × 64 pixels: 128 × 128 were expected"):
        load_layout_unet(resolve(str(folder), {}), 128)


def test_one_that_lacks_a_tensor_is_refused(folder, tmp_path):
    """It would be filled with random numbers."""
    shutil.copytree(folder, tmp_path / "less")
    weights = tmp_path / "less" / "unet" / "diffusion_pytorch_model.safetensors"
    save_file({name: weight for name, weight in load_file(weights).items() if name != "trust"}, weights)
    with pytest.raises(AugmentError, match=r"cannot be loaded.*lack 1 tensors \(trust"):
        load_layout_unet(resolve(str(tmp_path / "less"), {}))


def test_weights_of_a_former_version_are_loaded_by_their_former_names(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "former")
    path = tmp_path / "former" / "unet" / "diffusion_pytorch_model.safetensors"
    weights = load_file(path)
    former = {name.replace(".modulation.", ".told."): value for name, value in weights.items()}
    assert former.keys() != weights.keys()
    save_file(former, path)
    loaded = load_layout_unet(resolve(str(tmp_path / "former"), {})).unet.state_dict()
    assert loaded.keys() == weights.keys() and all(torch.equal(loaded[n], weights[n].float()) for n in weights)


def test_another_class_is_refused(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "other")
    config = tmp_path / "other" / "unet" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"_class_name": "UNet2DModel"}))
    with pytest.raises(AugmentError, match="its U-Net is a UNet2DModel: a LayoutUNet was expected"):
        load_layout_unet(resolve(str(tmp_path / "other"), {}))


def test_missing_and_damaged_files_are_reported(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "broken")
    weights = tmp_path / "broken" / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-50])
    with pytest.raises(AugmentError, match="cannot be loaded"):
        load_layout_unet(resolve(str(tmp_path / "broken"), {}))
    weights.unlink()
    with pytest.raises(AugmentError, match=r"no unet/diffusion_pytorch_model.safetensors"):
        load_layout_unet(resolve(str(tmp_path / "broken"), {}))


# Painting


@pytest.mark.parametrize("name", SCHEDULERS)
def test_what_is_kept_stays_and_the_rest_is_painted(folder, name):
    model = load_layout_unet(resolve(str(folder), {}))
    given = inputs_of(model.unet, 1)
    scheduler = make_scheduler(name, model.scheduler, 3, torch.device("cpu"))
    layout = given["boxes"], given["labels"], given["style"]
    made = paint_layout(model.unet, scheduler, given["sample"], *layout, 1.5, given["known"], given["keep"])
    kept = given["keep"].bool()
    assert torch.equal(made[kept], given["known"][kept]) and torch.isfinite(made).all()
    assert not torch.isclose(made[~kept], given["known"][~kept]).all()


def test_a_picture_does_not_depend_on_its_neighbours_layout(folder):
    model = load_layout_unet(resolve(str(folder), {}))
    given = inputs_of(model.unet, 2)

    def painted(labels: torch.Tensor) -> torch.Tensor:
        scheduler = make_scheduler("ddim", model.scheduler, 3, torch.device("cpu"))
        return paint_layout(model.unet, scheduler, given["sample"], given["boxes"], labels, given["style"])

    other = given["labels"].clone()
    other[1] = 2
    one, two = painted(given["labels"]), painted(other)
    assert torch.equal(one[0], two[0]) and not torch.equal(one[1], two[1])
