"""The trainer `stay`: what it cuts, keeps, tells and weighs, and what it refuses."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from forked import exit_code, kill_when, start_flow
from PIL import Image
from tiny import tiny_stay

from lib.core.checkpoints import resolve
from lib.core.errors import AugmentError
from lib.core.keys import key_of
from lib.painting.painters.stay_unet import load_layout_unet
from lib.training import TRAINERS
from lib.training.stay import StayObjective, StaySettings, StayTrainer, turned, variational_bound
from lib.training.train import check_training, read_facts, settings_of, train_model
from lib.training.vae import make_vae, save_half
from lib.training.windows import Things, TrainingPicture, Window
from tasks.progress import Progress
from tasks.train import open_training

SIZE = 64
QUICK: dict[str, Any] = {"steps": 2, "batch": 2, "precision": "no", "widths": [16, 16], "checkpoint_minutes": 0}
NAMES = ["open", "short"]


def boards(count: int = 3, colour: bool = False, side: int = 160) -> list[TrainingPicture]:
    """White boards with a black square for each box, which it fills."""
    made = []
    for number in range(count):
        pixels = np.full((side, side, 3), 255, np.uint8)
        pixels[..., 2] -= 90 * colour
        corners = np.array([[20 + 7 * number, 30], [90, 100 - 5 * number]])
        boxes = np.concatenate([corners, corners + 24], 1).astype(float)
        for x0, y0, x1, y1 in boxes.astype(int):
            pixels[y0:y1, x0:x1] = 0
        made.append(TrainingPicture(pixels, "", Things(boxes, tuple(NAMES), ("an open", "a short"))))
    return made


def objective(pictures: list[TrainingPicture] | None = None, start: Path | None = None, **given: Any) -> StayObjective:
    settings = StaySettings(**{**QUICK, **given})
    return StayTrainer.objective(settings, pictures or boards(), SIZE, Path(), start, Path())


def batch(made: StayObjective, count: int = 24, seed: int = 0) -> dict[str, torch.Tensor]:
    return made.batch(np.random.default_rng(seed), count)


def dark(batch: dict[str, torch.Tensor], row: int, box: torch.Tensor) -> float:
    """Share of a box that is painted black."""
    x0, y0, x1, y1 = (box * SIZE).round().int().tolist()
    return float((batch["pixels"][row, :, y0:y1, x0:x1] < 0).float().mean())


@pytest.mark.parametrize("symmetries", ["none", "mirror", "all"])
def test_boxes_go_where_the_window_shows_their_objects(symmetries):
    given = batch(objective(symmetries=symmetries, generation=1, dropped=0))
    labelled = given["labels"].nonzero().tolist()
    assert len(labelled) > 20 and min(dark(given, row, given["boxes"][row, column]) for row, column in labelled) > 0.8


def test_turning_four_times_changes_nothing():
    pixels = np.random.default_rng(0).integers(0, 255, (8, 8, 3), dtype=np.uint8)
    window = Window(pixels, "", Things(np.array([[0.1, 0.2, 0.5, 0.9]]), ("open",), ("an open",)))
    again = turned(turned(window, 3), 1)
    np.testing.assert_array_equal(again.pixels, pixels)
    np.testing.assert_allclose(again.things.boxes, window.things.boxes)


def test_small_objects_keep_their_pixels_or_nearly():
    given = batch(objective(generation=1, dropped=0, zoom=1.5), 40)
    boxes = given["boxes"][given["labels"] > 0]
    whole = boxes[((boxes > 0.01) & (boxes < 0.99)).all(1)]
    sides = (whole[:, 2:] - whole[:, :2]) * SIZE
    assert sides.min() > 24 / 1.5 - 1 and sides.max() < 24 + 1e-3


def test_what_is_a_condition_is_painted_and_what_is_kept_is_not_a_condition():
    given = batch(objective(generation=0, dropped=0), 40)
    for row in range(40):
        for box, label in zip(given["boxes"][row], given["labels"][row], strict=True):
            if label:
                x0, y0, x1, y1 = (box * SIZE).round().int().tolist()
                assert not given["keep"][row, :, y0:y1, x0:x1].any()
    assert (given["keep"].mean((1, 2, 3)) > 0.2).all()  # context


@pytest.mark.parametrize(("generation", "least", "most"), [(0.0, 0, 0), (0.25, 0.1, 0.4), (1.0, 1, 1)])
def test_a_share_of_the_examples_keeps_nothing(generation, least, most):
    given = batch(objective(generation=generation), 100)
    nothing = (given["keep"].sum((1, 2, 3)) == 0).float().mean()
    assert least <= nothing <= most


def test_labels_are_dropped_for_guidance_more_often_where_it_goes_on_from_a_model(tmp_path):
    model = tiny_stay(tmp_path / "stay", categories=NAMES)
    assert (objective().dropped, objective(start=model).dropped, objective(start=model, dropped=0.4).dropped) == (
        0.1,
        0.2,
        0.4,
    )
    given = batch(objective(dropped=1))
    assert not given["labels"].any() and given["weight"].max() > 1


def test_objects_weigh_more_than_what_is_around_them():
    given = batch(objective(generation=1, dropped=0, object_weight=5), 8)
    weight, black = given["weight"], (given["pixels"] < 0)
    assert weight.min() == 1 and weight.max() == 5
    assert weight[black].mean() > 4 and weight[~black].mean() < 2


def test_a_rare_category_is_drawn_as_often_as_others():
    rare = boards()
    rare += [TrainingPicture(p.pixels, "", p.things.take([0])) for p in boards(20)]
    given = batch(objective(rare, generation=0, dropped=0), 200)
    counts = torch.bincount(given["labels"][:, 0], minlength=3)
    assert counts[2] > 0.6 * counts[1]


def test_of_more_objects_than_it_takes_the_largest_are_conditions():
    corners = np.array([[10 * i, 10 * j] for i in range(6) for j in range(2)], float)
    boxes = np.concatenate([corners, corners + np.linspace(2, 9, 12)[:, None]], 1)
    many = [TrainingPicture(np.zeros((64, 64, 3), np.uint8), "", Things(boxes, ("open",) * 12, ("an open",) * 12))] * 2
    given = batch(objective(many, generation=1, dropped=0, max_objects=3, zoom=1), 16)
    assert given["labels"].shape[1] <= 3
    widths = given["boxes"][:, 1:, 2] - given["boxes"][:, 1:, 0]
    assert widths.min() * 64 > 6  # those beside the one that the window stands around


def test_equal_draws_give_equal_batches():
    one, other = batch(objective(), seed=5), batch(objective(), seed=5)
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(
    ("colours", "given", "channels"),
    [([0, 0, 0], "auto", 1), ([1, 1, 0], "auto", 3), ([0, 0, 0], "colour", 3), ([1, 1, 1], "grey", 1)],
)
def test_grey_pictures_give_a_grey_model(colours, given, channels):
    pictures = [boards(1, colour=bool(colour))[0] for colour in colours]
    made = objective(pictures, channels=given)
    assert made.unet.config.channels == channels == batch(made, 2)["pixels"].shape[1]


def test_a_mark_in_one_of_many_pictures_makes_no_colour_model():
    assert objective([*boards(40), *boards(1, colour=True)]).unet.config.channels == 1


@pytest.mark.parametrize(
    "given",
    [{}, {"prediction": "epsilon", "schedule": "linear"}, {"learned_variance": False}, {"class_maps": False}],
    ids=str,
)
def test_it_learns(given):
    torch.manual_seed(0)
    made = objective(**given, object_weight=1)
    optimizer, losses = torch.optim.Adam(made.parameters(), 3e-3), []
    for step in range(30):
        torch.manual_seed(step)
        output = made(batch(made, 8, step))
        optimizer.zero_grad()
        output["loss"].backward()
        optimizer.step()
        losses.append(float(output["loss"].detach()))
    assert np.mean(losses[-5:]) < 0.8 * np.mean(losses[:3])
    assert ("bound" in output) == made.unet.config.learned_variance


def test_the_bound_is_0_where_mean_and_variance_are_the_posteriors():
    noise = objective().noise
    clean, drawn, times = torch.rand(4, 1, 8, 8) * 2 - 1, torch.randn(4, 1, 8, 8), torch.tensor([1, 50, 400, 950])
    noisy, right = noise.add_noise(clean, drawn, times), noise.get_velocity(clean, drawn, times)
    low, high = -torch.ones_like(clean), torch.ones_like(clean)
    assert float(variational_bound(noise, clean, noisy, right, low, times)) == pytest.approx(0, abs=1e-4)
    assert float(variational_bound(noise, clean, noisy, right, high, times)) > 0
    assert float(variational_bound(noise, clean, noisy, right + 1, low, times)) > 0


def test_the_bound_teaches_the_variance_alone():
    made = objective()
    wrong, noise = torch.zeros(2, 1, 8, 8, requires_grad=True), torch.randn(2, 1, 8, 8)
    spread = torch.zeros(2, 1, 8, 8, requires_grad=True)
    variational_bound(made.noise, noise, noise, wrong.detach(), spread, torch.tensor([0, 9])).backward()
    assert wrong.grad is None and not spread.grad[0].any() and spread.grad[1].any()


def test_a_sheet_has_a_row_for_each_category():
    sheet = objective().eval().sheet()
    assert sheet.shape == (2 * 3 * SIZE, 3 * 3 * 3 * SIZE, 3) and sheet.dtype == np.uint8


def test_in_latents_it_takes_the_autoencoder_along(tmp_path):
    torch.manual_seed(0)
    save_half(make_vae(SIZE, (8, 8)), tmp_path / "vae")
    given = StaySettings(**QUICK, vae=tmp_path / "vae", patch=2)
    train_model("stay", given, boards(colour=True), SIZE, tmp_path / "models", tmp_path / "work")
    model = load_layout_unet(resolve(str(tmp_path / "models" / "stay"), {}), SIZE)
    assert (model.factor, model.unet.config.channels, model.unet.config.sample_size) == (2, 4, 32)
    again = StaySettings(**QUICK)
    more = train_model("stay", again, boards(), SIZE, tmp_path / "own", tmp_path / "more", start=tmp_path / "models")
    assert more.steps == 2 and (tmp_path / "own" / "stay" / "vae").is_dir()


def identity_of(folder: Path) -> str:
    return str(read_facts(folder / "stay")["identity"])


def test_its_identity_and_its_licence_depend_on_the_autoencoder_where_there_is_one(tmp_path):
    identities = []
    for seed in range(2):
        torch.manual_seed(seed)
        save_half(make_vae(SIZE, (8, 8)), tmp_path / "vae")
        given = StaySettings(**QUICK, vae=tmp_path / "vae", patch=2)
        models = tmp_path / f"models {seed}"
        train_model("stay", given, boards(colour=True), SIZE, models, tmp_path / f"work {seed}", data="d")
        assert read_facts(models / "stay")["needs"] == {"vae": resolve(str(tmp_path / "vae"), {}).revision}
        assert "As what it began from and its data allow." in (models / "stay" / "README.md").read_text()
        identities.append(identity_of(models))
    assert identities[0] != identities[1]
    with pytest.raises(AugmentError, match="other data or another architecture"):  # the latents are another's
        train_model("stay", given, boards(colour=True), SIZE, tmp_path / "m", tmp_path / "work 0", data="d")
    later, own = StaySettings(**QUICK), tmp_path / "own"
    train_model("stay", later, boards(), SIZE, own, tmp_path / "more", start=tmp_path / "models 0")
    assert read_facts(own / "stay")["needs"] == read_facts(tmp_path / "models 0" / "stay")["needs"]
    assert "No published weights" not in (own / "stay" / "README.md").read_text()


def test_in_pixels_its_identity_is_what_it_was(tmp_path):
    train_model("stay", StaySettings(**QUICK), boards(), SIZE, tmp_path / "models", tmp_path / "work", data="d")
    assert identity_of(tmp_path / "models") == key_of("training", "stay", StayTrainer.VERSION, SIZE, "d", {}, "")
    assert "No published weights went into it" in (tmp_path / "models" / "stay" / "README.md").read_text()


# What is refused


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"prediction": "epsilon"}, "prediction v_prediction instead of epsilon"),
        ({"schedule": "linear"}, "schedule cosine instead of linear"),
        ({"learned_variance": False}, "learned_variance True instead of False"),
    ],
)
@pytest.mark.parametrize("lacks", ["nothing", "model", "header"])
def test_what_the_weights_are_is_not_changed_on_resume(tmp_path, monkeypatch, given, told, lacks):
    def trained(**more: Any) -> Any:
        settings = StaySettings(**QUICK | more)
        return train_model("stay", settings, boards(), SIZE, tmp_path / "models", tmp_path / "work")

    if lacks == "header":  # as a former version wrote its checkpoints
        with monkeypatch.context() as patched:
            patched.delattr(StayTrainer, "FIXED")
            trained()
    else:
        trained()
    if lacks == "model":  # killed before it was written
        shutil.rmtree(tmp_path / "models")
    with pytest.raises(AugmentError, match=f"was trained with {told}"):
        trained(steps=3, **given)
    assert trained(steps=3, rate=1e-5, generation=0.5).steps == 3


def test_a_start_decides_what_the_weights_are_and_the_settings_do_not(tmp_path):
    train_model("stay", StaySettings(**QUICK), boards(), SIZE, tmp_path / "models", tmp_path / "work")
    for steps, prediction in ((2, "v_prediction"), (3, "epsilon")):
        given = StaySettings(**QUICK | {"steps": steps}, prediction=prediction)
        more = train_model("stay", given, boards(), SIZE, tmp_path / "own", tmp_path / "w", start=tmp_path / "models")
        assert more.steps == steps


def test_an_autoencoder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(AugmentError, match=r"settings\.stay\.vae .*nowhere not found"):
        given = StaySettings(**QUICK, vae=tmp_path / "nowhere")
        train_model("stay", given, boards(), SIZE, tmp_path / "models", tmp_path / "work")


def test_a_category_without_examples_is_named():
    with pytest.raises(AugmentError, match=r"categories \['scratch'\] have no examples in 3 pictures.*open.*short"):
        objective(categories=["open", "scratch"])


def test_no_categories_at_all_are_refused_before_anything_is_read():
    with pytest.raises(AugmentError, match=r"categories.*at least 1 item"):
        check_training(deployed() | {"settings": {"stay": {"categories": []}}})


def test_a_part_of_the_categories_may_be_learned():
    made = objective(categories=["short"], generation=1, dropped=0)
    assert list(made.unet.config.categories) == ["short"] and batch(made)["labels"].max() == 1


def test_a_start_that_does_not_know_a_category_is_refused(tmp_path):
    model = tiny_stay(tmp_path / "stay", categories=["open", "dent"])
    with pytest.raises(AugmentError, match=r"does not know the categories \['short'\]: it knows open, dent"):
        objective(start=model)
    made = objective(start=model, categories=["open"])
    assert list(made.unet.config.categories) == ["open", "dent"] and batch(made)["labels"].max() == 1


def test_a_start_of_another_size_is_refused(tmp_path):
    model = tiny_stay(tmp_path / "stay", size=96, categories=NAMES)
    with pytest.raises(AugmentError, match="paints 96 × 96 pixels: 64 × 64 were expected"):
        objective(start=model)


@pytest.mark.parametrize(
    ("given", "reason"),
    [({"patch": 5}, "sample_size 64: a multiple of 10"), ({"widths": [16, 24]}, "divisible")],
    ids=str,
)
def test_a_network_that_does_not_fit_the_windows_is_refused(given, reason):
    with pytest.raises(AugmentError, match=rf"settings of stay with windows of 64 pixels: .*{reason}"):
        objective(**given)


# The deployment


def deployed() -> dict[str, Any]:
    """Its parameters."""
    deployments = yaml.safe_load((Path(__file__).parents[1] / "prefect.yaml").read_text())["deployments"]
    return dict(next(one["parameters"] for one in deployments if one["name"] == "stay"))


def test_its_deployment_trains_it_alone_on_all_pixels():
    given = check_training(deployed())
    assert (given.models, given.size, given.detail, given.dataset.format) == (["stay"], SIZE, None, "deep-pcb")
    assert TRAINERS["stay"].DETAIL == 0
    assert settings_of(given, "stay").symmetries == "all"


def test_its_facts_hold_the_curves(tmp_path):
    train_model("stay", StaySettings(**QUICK), boards(), SIZE, tmp_path / "models", tmp_path / "work")
    history = read_facts(tmp_path / "models" / "stay")["history"]
    assert {"step", "loss", "simple", "bound"} <= history[-1].keys()
    config = json.loads((tmp_path / "models" / "stay" / "scheduler" / "scheduler_config.json").read_text())
    assert (config["beta_schedule"], config["prediction_type"]) == ("squaredcos_cap_v2", "v_prediction")


def test_as_deployed_it_trains_from_nothing_and_goes_on_after_a_kill(tmp_path, prefect_server):
    group = tmp_path / "PCBData" / "group12000"
    (group / "12000").mkdir(parents=True)
    (group / "12000_not").mkdir()
    for number, board in enumerate(boards()):
        Image.fromarray(board.pixels[..., 0]).save(group / "12000" / f"1200000{number}_test.jpg")
        Image.new("L", (160, 160), 255).save(group / "12000" / f"1200000{number}_temp.jpg")
        lines = [" ".join(map(str, [*map(int, box), 1 + row])) for row, box in enumerate(board.things.boxes)]
        (group / "12000_not" / f"1200000{number}.txt").write_text("\n".join(lines))
    given = deployed() | {
        "dataset": {"images": str(group.parent), "format": "deep-pcb"},
        "settings": {"stay": {**QUICK, "steps": 3}},
        "workspace": str(tmp_path / "ws"),
    }
    process = start_flow(prefect_server, "train", given)
    kill_when(process, lambda: list((tmp_path / "ws/checkpoints/stay").glob("00000001-*")))
    assert exit_code(start_flow(prefect_server, "train", given)) == 0
    facts = read_facts(tmp_path / "ws" / "models" / "stay")
    assert (facts["steps"], facts["pictures"]) == (3, 6)
    model = load_layout_unet(resolve(str(tmp_path / "ws" / "models" / "stay"), {}), SIZE)
    assert (model.unet.config.channels, list(model.unet.config.categories)) == (1, NAMES)


@pytest.mark.parametrize(
    ("models", "detail", "found"), [(["vae"], None, 2), (["vae", "stay"], None, 0), (["stay"], 3, 3)]
)
def test_pictures_are_shrunk_only_where_no_trainer_wants_all_pixels(models, detail, found, tmp_path):
    given = {"dataset": {"images": tmp_path}, "models": models, "workspace": tmp_path / "run", "detail": detail}
    with open_training(check_training(given), "run", Progress()) as run:
        assert run.settings.detail == found
