"""The autoencoder sharpened: what stays, what it learns, and what is refused."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from test_training import SIZE, Killed, assert_equal, few, killed_at, scenes, weights_of
from torch.nn import functional

from lib.core.checkpoints import MINI, resolve
from lib.core.errors import AugmentError
from lib.painting.painters import PAINTERS
from lib.training import loop
from lib.training.loop import train
from lib.training.sharpen import Discriminator, SharpObjective, grown
from lib.training.train import read_facts, train_model
from lib.training.vae import decode, encode, load_vae, make_vae, to_tensor
from lib.training.windows import Things, TrainingPicture

FIRST = ("clip", "vae", "gligen-inpaint")


def sharp(**given: Any) -> Any:
    return few("vae", **{"sharpen": 2, **given})


def large(count: int = 4) -> list[TrainingPicture]:
    """Scenes at twice SIZE."""
    made = []
    for one in scenes(count):
        pixels = np.asarray(cv2.resize(one.pixels, (2 * SIZE, 2 * SIZE)))
        things = Things(one.things.boxes * 2, one.things.categories, one.things.phrases)
        made.append(TrainingPicture(pixels, one.caption, things))
    return made


@pytest.fixture(scope="module")
def start(tmp_path_factory) -> Path:
    """An autoencoder for SIZE pixels, and a painter of its latents."""
    folder = tmp_path_factory.mktemp("first")
    for name in FIRST:
        train_model(name, few(name), scenes(), SIZE, folder / "models", folder / "work")
    return folder / "models"


@pytest.fixture(scope="module")
def sharpened(start, tmp_path_factory) -> Path:
    """The same, sharpened for windows twice as large."""
    folder = tmp_path_factory.mktemp("second")
    train_model("vae", sharp(), large(), 2 * SIZE, folder / "models", folder / "work", start=start)
    (folder / "models" / "clip").symlink_to(start / "clip")
    given = few("gligen-inpaint", steps=0)
    train_model("gligen-inpaint", given, large(), 2 * SIZE, folder / "models", folder / "work", start=start)
    return folder / "models"


def objective(start: Path, **given: Any) -> SharpObjective:
    made = {"size": 2 * SIZE, "twice": True, "adversarial": 0.8, "painted": 0.5} | given
    torch.manual_seed(1)
    return SharpObjective(start / "vae", large(), **made)


# A level more


def test_a_grown_autoencoder_starts_with_the_latents_of_the_halved_picture():
    torch.manual_seed(0)
    former = make_vae(SIZE).eval()
    picture = cv2.GaussianBlur(large(1)[0].pixels, (0, 0), 2)
    with torch.no_grad():
        halved = functional.avg_pool2d(to_tensor([picture]), 2)
        wanted = former.encode(halved).latent_dist.mode()
        found = encode(grown(former).eval(), [picture], scaled=False)
    assert found.shape == wanted.shape == (1, 4, SIZE // 4, SIZE // 4)
    assert (found - wanted).abs().mean() < 0.1 * wanted.std()


def test_a_grown_autoencoder_starts_by_doubling_what_the_former_one_draws():
    torch.manual_seed(0)
    former = load_vae(MINI / "vae").eval()
    with torch.no_grad():
        latents = encode(former, [cv2.GaussianBlur(scenes(1)[0].pixels, (0, 0), 1)])
        small, doubled = (decode(vae, latents)[0].astype(float) for vae in (former, grown(former).eval()))
    assert doubled.shape == (2 * SIZE, 2 * SIZE, 3)
    assert np.abs(doubled.reshape(SIZE, 2, SIZE, 2, 3).mean((1, 3)) - small).mean() < 6


def _levels(folder: Path) -> int:
    return len(load_vae(folder).config.block_out_channels)


def test_too_few_channels_cannot_be_grown():
    with pytest.raises(AugmentError, match="8 channels at its pixels cannot be grown: 12 are needed"):
        grown(make_vae(SIZE, (8, 8)))


# What it learns


@pytest.mark.parametrize("twice", [False, True])
def test_the_decoder_and_the_discriminator_learn_and_the_encoder_stays(start, tmp_path, twice):
    model = objective(start, twice=twice, size=SIZE * (1 + twice))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    train(model, tmp_path, sharp(steps=2))
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed and {name.split(".")[0] for name in changed} == {"vae", "discriminator"}
    assert not {name for name in changed if "encoder." in name or name.startswith("vae.quant_conv")}
    assert {name for name in changed if name.startswith("vae.decoder")}


def test_what_the_decoder_learns_by_leaves_the_discriminator_alone(start):
    model = objective(start, twice=False, size=SIZE, adversarial=100.0, painted=0.0)
    weights = list(model.discriminator.parameters())
    batch = model.batch(np.random.default_rng(0), 2)
    torch.manual_seed(3)
    model(batch)["loss"].backward()
    strong = [weight.grad.clone() for weight in weights]
    model.zero_grad()
    model.adversarial = 0.0
    torch.manual_seed(3)
    model(batch)["loss"].backward()
    assert all(torch.allclose(weight.grad, other, atol=1e-6) for weight, other in zip(weights, strong, strict=True))
    assert any(other.abs().max() > 0 for other in strong)


def test_what_edges_lack_in_strength_counts_by_its_weight(start):
    model = objective(start, painted=0.0)
    batch = model.batch(np.random.default_rng(0), 2)
    losses = []
    for model.energy in (0.0, 2.0):
        torch.manual_seed(3)
        model.adversarial = 0.0
        found = model(batch)
        losses.append(float(found["loss"].detach()))
    assert losses[1] - losses[0] == pytest.approx(2 * float(found["energy"]), rel=1e-4)
    assert found["energy"] > 0


def test_a_discriminator_that_tells_the_two_apart_pulls_the_decoder(start):
    model = objective(start, painted=0.0)
    batch = model.batch(np.random.default_rng(0), 2)

    def pulled(adversarial: float) -> torch.Tensor:
        model.adversarial = adversarial
        model.zero_grad()
        torch.manual_seed(3)
        model(batch)["loss"].backward()
        return model.vae.decoder.conv_out.weight.grad.clone()

    def apart() -> float:
        torch.manual_seed(3)
        return float(model(batch)["apart"])

    with torch.no_grad():  # so that real ones score higher
        if apart() < 0:
            model.discriminator.last.weight.neg_()
            model.discriminator.last.bias.neg_()
        assert apart() > 0
    assert not torch.equal(pulled(0.0), pulled(50.0))
    with torch.no_grad():  # now they score lower: what it says is worth nothing
        model.discriminator.last.weight.neg_()
        model.discriminator.last.bias.neg_()
    assert torch.equal(pulled(0.0), pulled(50.0))


def test_painted_latents_are_painted_where_nothing_is_kept_and_known_elsewhere(start):
    model = objective(start)
    batch = model.batch(np.random.default_rng(2), 4)
    assert batch["pixels"].shape == (4, 3, 2 * SIZE, 2 * SIZE) and len(batch["keep"]) == 2
    known = torch.randn(4, 4, SIZE // 4, SIZE // 4)
    with torch.no_grad():
        made = model._painted(known, batch)
    keep = batch["keep"].bool().expand(-1, 4, -1, -1)
    assert torch.equal(made[:2][keep], known[:2][keep]) and torch.equal(made[2:], known[2:])
    assert torch.isclose(made[:2], known[:2])[~keep].float().mean() < 0.01


def test_crops_of_latents_and_of_pixels_show_the_same_place(start):
    model = objective(start, painted=0.0)
    model.cell, model.size = 8, 256
    cells = torch.arange(2 * 32 * 32.0).reshape(2, 1, 32, 32)
    latents, real = model._cropped(cells, cells.repeat_interleave(8, 2).repeat_interleave(8, 3))
    assert latents.shape == (2, 1, 16, 16) and real.shape == (2, 1, 128, 128)
    assert torch.equal(real[:, :, ::8, ::8], latents)


def test_a_score_is_of_a_patch_alone():
    torch.manual_seed(0)
    judge, pixels = Discriminator(), torch.zeros(1, 3, 64, 64)
    other = pixels.clone()
    other[..., 40:, 40:] = 1
    with torch.no_grad():
        changed = judge(pixels)[0] != judge(other)[0]
    assert changed[..., 15, 15] and not changed[..., :5, :5].any()


# As a model


def test_the_painter_of_the_start_paints_with_it_at_twice_the_size(start, sharpened):
    assert _levels(sharpened / "vae") == _levels(start / "vae") + 1
    assert read_facts(sharpened / "vae")["settings"]["sharpen"] == 2
    kind = PAINTERS["gligen-inpaint"]
    painter = kind(kind.Settings(size=2 * SIZE, steps=2), resolve(str(sharpened / "gligen-inpaint"), {}))
    model = painter._loaded()
    assert model.factor == 8 and model.unet.config.sample_size == SIZE // 4
    assert_equal(
        model.unet.state_dict(),
        kind(kind.Settings(), resolve(str(start / "gligen-inpaint"), {}))._loaded().unet.state_dict(),
    )


def test_killed_and_resumed_it_ends_as_if_never_killed(start, tmp_path, monkeypatch):
    def made(folder: str) -> None:
        given = sharp(steps=3, checkpoint_minutes=0)
        train_model("vae", given, large(), 2 * SIZE, tmp_path / folder / "models", tmp_path / folder, start=start)

    made("whole")
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(loop._State, "save", killed_at(1))
        made("killed")
    made("killed")
    assert_equal(*(weights_of(tmp_path / folder / "models" / "vae") for folder in ("whole", "killed")))


def test_without_a_start_there_is_nothing_to_sharpen(tmp_path):
    with pytest.raises(AugmentError, match=r"`settings.vae.sharpen` is 2.* set `start`"):
        train_model("vae", sharp(), large(), 2 * SIZE, tmp_path / "models", tmp_path / "work")


def test_a_start_without_its_painter_is_refused_unless_nothing_is_painted(start, tmp_path):
    (tmp_path / "start").mkdir()
    (tmp_path / "start" / "vae").symlink_to(start / "vae")
    with pytest.raises(AugmentError, match=r"no .*gligen-inpaint.* set `settings.vae.painted` to 0"):
        objective(tmp_path / "start")
    assert "keep" not in objective(tmp_path / "start", painted=0.0).batch(np.random.default_rng(0), 2)


def test_a_size_at_which_the_painter_does_not_paint_is_refused(start):
    with pytest.raises(AugmentError, match=r"paints latents of 16 cells a side, and windows of this `size` have 8"):
        objective(start, size=SIZE)
