"""Training: the loop's promises with a model of three numbers, and the contract of every trainer."""

import json
import shutil
import struct
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save
from tiny import WORDS  # noqa: F401  (one thread for torch)
from torch import nn

from lib.core.checkpoints import FACTS, MINI, folder_revision, resolve
from lib.core.errors import AugmentError
from lib.core.files import digest
from lib.datasets.terms import terms_of
from lib.judges.classifier import read_classifier
from lib.painting.painters.denoise import load_latent_diffusion
from lib.painting.painters.lora import add_lora
from lib.painting.painters.stay_unet import load_layout_unet
from lib.records.settings import DatasetSettings, TrainSettings
from lib.scenes.warehouse import render
from lib.training import TRAINERS, latents, loop
from lib.training.card import both_terms, draw_curve, rounds_of, write_card
from lib.training.clip import load_clip
from lib.training.loop import LoopSettings, train
from lib.training.train import check_order, check_training, finished_model, read_facts, settings_of, train_model
from lib.training.vae import load_vae
from lib.training.windows import Things, TrainingPicture, cut

SIZE = 64
every_trainer = pytest.mark.parametrize("name", list(TRAINERS))


# The loop


class Line(nn.Module):
    """Fits y = 3x − 1 under noise, with a buffer and a frozen weight beside."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.layer = nn.Linear(1, 1)
        self.frozen = nn.Parameter(torch.ones(2), requires_grad=False)
        self.register_buffer("count", torch.zeros(1))
        self.bad_at, self.modes, self.quick = -1, [], []
        self.calls = 0

    def batch(self, rng: np.random.Generator, size: int, step: int = 0) -> dict[str, torch.Tensor]:
        return {"x": torch.from_numpy(rng.normal(size=(size, 1))).float()}

    def forward(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        self.calls += 1
        self.modes.append(self.training)
        self.quick.append(torch.is_autocast_enabled("cpu"))
        x = batch["x"]
        self.count += len(x)
        noise = torch.randn_like(x) * 0.1
        loss = (self.layer(x) - (3 * x - 1 + noise)).square().mean()
        return {"loss": loss * (torch.nan if self.calls == self.bad_at else 1), "noise": noise.detach().mean()}


def settings(**given: Any) -> LoopSettings:
    return LoopSettings(**{"steps": 12, "batch": 4, "warmup": 2, "checkpoint_minutes": 0, "precision": "no", **given})


def state_of(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def assert_equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    for name in one:
        assert torch.equal(one[name], other[name]), name


class Killed(BaseException):
    pass


def killed_at(step: int):
    """A watcher of the loop's own saving: ends the training after the checkpoint of `step`."""
    real = loop._State.save

    def save(self, folder):
        real(self, folder)
        if self.step == step:
            raise Killed

    return save


def kill(monkeypatch, folder, step, model=None, **given):
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(loop._State, "save", killed_at(step))
        train(model or Line(), folder, settings(**given))


def checkpoints(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.safetensors"))


@pytest.mark.parametrize("step", [1, 5, 11])
def test_killed_and_resumed_it_ends_as_if_never_killed(tmp_path, monkeypatch, step):
    monkeypatch.setattr(loop, "LOGGED", 4)
    whole, again = Line(), Line()
    trained = train(whole, tmp_path / "whole", settings())
    kill(monkeypatch, tmp_path / "killed", step)
    resumed = train(again, tmp_path / "killed", settings())
    assert_equal(state_of(whole), state_of(again))
    assert again.calls == 12 - step
    assert resumed.history == trained.history and [p["step"] for p in trained.history] == [4, 8, 12]


def test_a_finished_one_trains_no_more_and_a_longer_one_goes_on(tmp_path):
    first, again, longer = Line(), Line(), Line()
    train(first, tmp_path, settings())
    assert train(again, tmp_path, settings()).steps == 12
    assert again.calls == 0
    assert_equal(state_of(first), state_of(again))
    assert train(longer, tmp_path, settings(steps=15)).steps == 15 and longer.calls == 3


def test_what_is_left_in_the_model_are_the_averaged_weights(tmp_path):
    from diffusers.training_utils import EMAModel

    model, steps = Line(), []

    def step(self, parameters):
        real(self, parameters)
        steps.append([p.detach().clone() for p in parameters])

    real, EMAModel.step = EMAModel.step, step
    try:
        train(model, tmp_path, settings(decay=0.9))
    finally:
        EMAModel.step = real
    shadow = [torch.zeros_like(p) for p in steps[0]]
    for number, weights in enumerate(steps):
        kept = min(0.9, 1 - (1 + number) ** -0.75) if number else 0.0
        shadow = [s - (1 - kept) * (s - w) for s, w in zip(shadow, weights, strict=True)]
    for found, expected, last in zip(model.layer.parameters(), shadow, steps[-1], strict=True):
        torch.testing.assert_close(found.data, expected)
        assert not torch.equal(found.data, last)
    assert not model.training


def test_a_damaged_newest_checkpoint_gives_way_to_the_one_before(tmp_path, monkeypatch):
    whole, again, notes = Line(), Line(), []
    train(whole, tmp_path / "whole", settings())
    kill(monkeypatch, tmp_path / "killed", 6)
    newest = checkpoints(tmp_path / "killed")[-1]
    newest.write_bytes(newest.read_bytes()[:-7])
    train(again, tmp_path / "killed", settings(), watch=lambda p: notes.append(p.note))
    assert again.calls == 12 - 5
    assert f"{newest} was damaged" in notes[0] and "goes on from step 5" in notes[0] and not any(notes[1:])
    assert_equal(state_of(whole), state_of(again))


def test_a_folder_in_the_place_of_a_checkpoint_gives_way_to_the_one_before_and_stays(tmp_path, monkeypatch):
    kill(monkeypatch, tmp_path, 6)
    newest, again = checkpoints(tmp_path)[-1], Line()
    newest.unlink()
    (newest / "mine").mkdir(parents=True)
    train(again, tmp_path, settings())
    assert again.calls == 12 - 5 and (newest / "mine").is_dir()


def test_a_file_of_another_name_is_not_a_checkpoint_and_stays(tmp_path):
    mine = [tmp_path / name for name in ("2024-mine.safetensors", "99999999-mine.safetensors", "mine.safetensors")]
    for path in mine:
        path.write_bytes(b"mine")
    train(Line(), tmp_path, settings(checkpoint_minutes=0))
    assert all(path.read_bytes() == b"mine" for path in mine)


@pytest.mark.parametrize("header", ["{", "[]", '{"step": "6"}', '{"__class__": "os.system"}'])
def test_a_checkpoint_with_another_header_counts_as_damaged(tmp_path, monkeypatch, header):
    """Its name's digest fits: anybody can write that."""
    from safetensors.torch import load, save

    whole, again, notes = Line(), Line(), []
    train(whole, tmp_path / "whole", settings())
    kill(monkeypatch, tmp_path / "killed", 6)
    newest = checkpoints(tmp_path / "killed")[-1]
    data = save(load(newest.read_bytes()), {"training": header})
    newest.unlink()
    newest.with_name(f"{newest.name[:8]}-{digest(data)[:16]}.safetensors").write_bytes(data)
    train(again, tmp_path / "killed", settings(), watch=lambda p: notes.append(p.note))
    assert again.calls == 12 - 5 and "was damaged" in notes[0]
    assert_equal(state_of(whole), state_of(again))


def test_where_all_are_damaged_it_starts_anew_and_says_so(tmp_path, monkeypatch):
    whole, again, notes = Line(), Line(), []
    train(whole, tmp_path / "whole", settings())
    kill(monkeypatch, tmp_path / "killed", 6)
    for path in checkpoints(tmp_path / "killed"):
        path.write_bytes(b"nothing")
    kill(monkeypatch, tmp_path / "killed", 2)
    assert [p.name[:8] for p in checkpoints(tmp_path / "killed")] == ["00000001", "00000002"]
    for path in checkpoints(tmp_path / "killed"):
        path.write_bytes(b"")
    train(again, tmp_path / "killed", settings(), watch=lambda p: notes.append(p.note))
    assert again.calls == 12 and all("starts anew" in note for note in notes[:2])
    assert_equal(state_of(whole), state_of(again))


def test_a_full_disk_is_reported_and_the_last_checkpoint_stays_good(tmp_path, monkeypatch):
    def full(path, data, durable=False):
        if path.name.startswith("00000007"):
            raise OSError(28, "No space left on device")
        real(path, data, durable)

    real, again, whole = loop.atomic_write, Line(), Line()
    with monkeypatch.context() as patch:
        patch.setattr(loop, "atomic_write", full)
        with pytest.raises(AugmentError, match=r"No space left.*make room.*00000006-.* is kept"):
            train(Line(), tmp_path / "full", settings())
    train(again, tmp_path / "full", settings())
    assert again.calls == 6
    train(whole, tmp_path / "whole", settings())
    assert_equal(state_of(whole), state_of(again))


def test_a_checkpoint_of_other_data_is_refused(tmp_path):
    train(Line(), tmp_path, settings(), identity="one")
    before = [p.read_bytes() for p in checkpoints(tmp_path)]
    with pytest.raises(AugmentError, match=r"trained with other data .* remove .*, or name another workspace"):
        train(Line(), tmp_path, settings(), identity="other")
    assert [p.read_bytes() for p in checkpoints(tmp_path)] == before


def test_a_checkpoint_of_another_architecture_is_refused_though_its_identity_is_the_same(tmp_path):
    class Wider(Line):
        def __init__(self) -> None:
            super().__init__()
            self.more = nn.Linear(1, 1)

    train(Line(), tmp_path, settings())
    with pytest.raises(AugmentError, match="other weights than this version"):
        train(Wider(), tmp_path, settings())


@pytest.mark.parametrize("minutes", [0, 100])
def test_a_loss_that_is_not_finite_ends_it_before_any_checkpoint_holds_it(tmp_path, minutes):
    bad, again = Line(), Line()
    bad.bad_at = 7
    with pytest.raises(AugmentError, match=r"the loss is nan .* at step 7: lower `rate` \(now 0.001\)"):
        train(bad, tmp_path, settings(checkpoint_minutes=minutes))
    for path in checkpoints(tmp_path):
        assert all(torch.isfinite(value).all() for value in load_file(path).values())
    assert len(checkpoints(tmp_path)) == (2 if minutes == 0 else 0)
    assert train(again, tmp_path, settings()).steps == 12


def test_a_full_device_is_reported_with_the_setting_to_lower(tmp_path, monkeypatch):
    def full(batch):
        raise torch.OutOfMemoryError

    model = Line()
    model.forward = full
    with pytest.raises(AugmentError, match=r"a step of 4 examples: lower `settings\.vae\.batch`"):
        train(model, tmp_path / "vae", settings())


def test_a_file_that_is_not_a_checkpoint_is_left_alone(tmp_path):
    other = tmp_path / "my-own.safetensors"
    other.write_bytes(b"mine")
    train(Line(), tmp_path, settings())
    assert other.read_bytes() == b"mine" and len(checkpoints(tmp_path)) == 3


def test_two_trainings_of_one_process_may_differ_in_precision(tmp_path):
    quick: list[set[bool]] = []
    for precision in ("no", "bf16", "no"):
        model = Line()
        trained = train(model, tmp_path / str(len(quick)), settings(precision=precision))
        assert trained.precision == precision
        quick.append(set(model.quick))
    assert quick == [{False}, {True}, {False}]


def test_a_look_on_the_way_changes_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "SHOWN", 0)
    plain, looked, looks = Line(), Line(), []

    def look():
        looks.append((looked.training, looked.layer.weight.item()))
        torch.rand(3), np.random.random(2)

    train(plain, tmp_path / "plain", settings())
    train(looked, tmp_path / "looked", settings(), look=look)
    assert_equal(state_of(plain), state_of(looked))
    assert len(looks) == 11 and not any(training for training, _ in looks)
    assert all(looked.modes) and len({weight for _, weight in looks}) > 1


def test_any_seed_serves_and_another_one_gives_other_weights(tmp_path):
    models = {seed: Line() for seed in (0, 123_456_789)}
    for seed, model in models.items():
        train(model, tmp_path / str(seed), settings(seed=seed))
    one, other = (model.layer.weight for model in models.values())
    assert not torch.equal(one, other)


def test_no_steps_leave_the_weights_as_they_were(tmp_path):
    model = Line()
    before = state_of(model)
    assert train(model, tmp_path, settings(steps=0)).steps == 0
    assert_equal(before, state_of(model))


# Every trainer


def scenes(count: int = 4) -> list[TrainingPicture]:
    return list(_drawn(count))


@cache
def _drawn(count: int) -> tuple[TrainingPicture, ...]:
    made = []
    for seed in range(count):
        scene = render(seed, SIZE, SIZE)
        boxes = np.array([o.bbox_xywh for o in scene.objects], float).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        things = Things(boxes, tuple(o.category for o in scene.objects), tuple(o.phrase for o in scene.objects))
        made.append(TrainingPicture(scene.image, scene.caption, things))
    return tuple(made)


SMALLER: dict[str, dict[str, Any]] = {"stay": {"widths": [16, 32]}, "lora": {"rank": 2}}


def few(name: str, **given: Any) -> Any:
    return TRAINERS.settings(name, {"steps": 2, "batch": 2, "precision": "no", **SMALLER.get(name, {}), **given})


def train_all(folder: Path) -> Path:
    """All of TRAINERS in their order into FOLDER/models."""
    for name in TRAINERS:
        train_model(name, few(name), scenes(), SIZE, folder / "models", folder / "work", data="scenes")
    return folder / "models"


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    return train_all(tmp_path_factory.mktemp("trained"))


@pytest.fixture(scope="module")
def models_again(tmp_path_factory) -> Path:
    return train_all(tmp_path_factory.mktemp("again"))


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    files = sorted(folder.rglob("*.safetensors"))
    assert files and not list(folder.rglob("*.bin"))
    return {f"{p.relative_to(folder)}:{key}": value for p in files for key, value in load_file(p).items()}


@every_trainer
def test_weights_are_finite_float16_safetensors(name, models):
    weights = weights_of(models / name)
    floats = {value.dtype for value in weights.values() if value.is_floating_point()}
    assert floats == {torch.float16} and all(torch.isfinite(value).all() for value in weights.values())


@every_trainer
def test_equal_seeds_give_equal_weights(name, models, models_again):
    assert_equal(weights_of(models / name), weights_of(models_again / name))
    assert folder_revision(models / name) == folder_revision(models_again / name)


def load(name: str, folder: Path) -> Any:
    """By the code that uses it."""
    ref = resolve(str(folder), {})
    if name == "vae":
        return load_vae(folder)
    if name == "clip":
        from lib.judges.clip import RegionScorer, RegionSettings

        shares = RegionScorer(RegionSettings(), ref).score([scenes(1)[0].pixels], ["forklift", "pallet"])
        assert shares.shape == (1, 2) and np.allclose(shares.sum(1), 1)
        return load_clip(folder)
    if name == "blip2":
        from lib.captioning.captioners import CAPTIONERS

        captioner = CAPTIONERS["blip2"]
        return captioner(captioner.Settings(max_new_tokens=4), ref).caption([scenes(1)[0].pixels], [()])
    if name == "classifier":
        from lib.judges import make_judge

        shares = make_judge(ref).score([scenes(1)[0].pixels], ["forklift", "background"])
        assert shares.shape == (1, 2) and np.allclose(shares.sum(1), 1)
        return read_classifier(folder)
    if name == "stay":
        return load_layout_unet(ref, SIZE)
    if name == "lora":
        base = load_latent_diffusion(resolve("mini:gligen-inpaint", {}), {"in_channels": 9}, torch.float32)
        add_lora(base, ref, None, 1.0)
        return base
    has = {"in_channels": 9 if name == "gligen-inpaint" else 4, "attention_type": "gated"}
    return load_latent_diffusion(ref, has, torch.float32)


@every_trainer
def test_what_it_saves_is_read_by_the_projects_own_loaders(name, models):
    assert load(name, models / name) is not None


@every_trainer
def test_its_facts_and_its_card_say_how_it_was_made(name, models):
    facts, card = read_facts(models / name), (models / name / "README.md").read_text()
    assert (facts["trainer"], facts["steps"], facts["pictures"], facts["size"]) == (name, 2, 4, SIZE)
    made_from = TRAINERS[name].made_from(few(name)) if hasattr(TRAINERS[name], "made_from") else {}
    assert set(facts["needs"]) == {*TRAINERS[name].NEEDS, *made_from}
    assert all(path.stat().st_mode & 0o777 == 0o644 for path in (models / name).rglob("*") if path.is_file())
    whole = ("clip", "blip2", "classifier")  # transformers' own, which see no windows
    assert ("| windows |" in card) == (name not in whole)
    library = "transformers" if name in whole else "diffusers"
    assert card.startswith(f"---\nlicense: apache-2.0\nlibrary_name: {library}\ntags:\n")
    for part in ("scenes", "Apache-2.0", "CPU cores", "| steps | 2 |", "| batch | 2 |", "Not yet."):
        assert part in card
    assert str(models) not in card


@every_trainer
def test_a_card_with_figures_leaves_the_revision_alone(name, models, tmp_path):
    shutil.copytree(models / name, tmp_path / name)
    write_card(tmp_path / name, {"scenes": 100, "psnr": 31.257891, "interval": [0.5, 0.75]})
    card = (tmp_path / name / "README.md").read_text()
    assert "| psnr | 31.26 |" in card and "| interval | 0.5 – 0.75 |" in card and "Not yet" not in card
    assert folder_revision(tmp_path / name) == folder_revision(models / name)


@every_trainer
def test_what_has_nothing_left_to_do_is_known(name, models):
    def found(data: str = "scenes", size: int = SIZE, **given: Any) -> Any:
        return finished_model(name, few(name, **given), size, models, data=data)

    assert found()["steps"] == 2 and found(steps=1)["steps"] == 2 and found(checkpoint_minutes=9)["steps"] == 2
    assert found(steps=3) is None and found(data="others") is None and found(size=96) is None
    with pytest.raises(AugmentError, match=r"trained with seed 0 instead of 4: name another workspace, or remove it"):
        found(seed=4)


@every_trainer
def test_a_model_whose_files_were_damaged_or_removed_is_not_finished(name, models, tmp_path):
    for folder in (*TRAINERS[name].NEEDS, name):
        shutil.copytree(models / folder, tmp_path / folder)
    assert finished_model(name, few(name), SIZE, tmp_path, data="scenes")
    victim = next((tmp_path / name).rglob("*.safetensors"))
    victim.write_bytes(victim.read_bytes()[:-100])
    assert finished_model(name, few(name), SIZE, tmp_path, data="scenes") is None
    for path in (tmp_path / name).rglob("*"):
        if path.is_file() and path.name != FACTS:
            path.unlink()
    assert finished_model(name, few(name), SIZE, tmp_path, data="scenes") is None


@pytest.mark.parametrize("name", [name for name in TRAINERS if TRAINERS[name].NEEDS])
def test_a_model_that_it_needs_must_be_there(name, models, tmp_path):
    for need in TRAINERS[name].NEEDS:
        folder = tmp_path / need
        folder.mkdir()
        for other in TRAINERS[name].NEEDS:
            if other != need:
                (folder / other).symlink_to(models / other)
        with pytest.raises(AugmentError, match=rf"trainer '{name}' needs {need}, not in .*: train that first"):
            train_model(name, few(name), scenes(), SIZE, folder, tmp_path / "work")


@every_trainer
def test_one_picture_or_none_with_boxes_is_too_little(name, models, tmp_path):
    bare = [TrainingPicture(p.pixels, "", Things(np.empty((0, 4)), (), ())) for p in scenes()]
    for pictures, reason in ((scenes(1), "1 pictures .* at least 2"), (bare, "none of 4 pictures has a usable box")):
        with pytest.raises(AugmentError, match=reason):
            train_model(name, few(name), pictures, SIZE, models, tmp_path / "work")


OTHER = {
    "clip": "vae",
    "vae": "clip",
    "blip2": "clip",
    "gligen-inpaint": "gligen",
    "gligen": "gligen-inpaint",
    "stay": "gligen",
    "classifier": "clip",
    "lora": "clip",
}


def begin_from(name: str, models: Path, source: Path, tmp_path: Path) -> None:
    """Train it from a copy of `source`, beside copies of what it needs."""
    models_dir = tmp_path / "own"
    models_dir.mkdir()
    for need in TRAINERS[name].NEEDS:
        (models_dir / need).symlink_to(models / need)
    train_model(name, few(name), scenes(), SIZE, models_dir, tmp_path / "work", start=source.parent)


@every_trainer
def test_it_begins_from_an_earlier_model_of_its_name(name, models, tmp_path):
    begin_from(name, models, models / name, tmp_path)
    facts = read_facts(tmp_path / "own" / name)
    assert facts["start"] == folder_revision(models / name)
    assert facts["identity"] != read_facts(models / name)["identity"]
    card = (tmp_path / "own" / name / "README.md").read_text()
    assert f"started from | {facts['start']}" in card and "round 1 before" in card
    assert "No published weights went into it" in card  # nor into what it began from


@every_trainer
def test_a_start_of_another_architecture_is_refused(name, models, tmp_path):
    shutil.copytree(models / OTHER[name], tmp_path / "start" / name)
    with pytest.raises(AugmentError, match="cannot be loaded"):
        begin_from(name, models, tmp_path / "start" / name, tmp_path)
    assert not (tmp_path / "own" / name).exists()


@every_trainer
def test_a_start_with_truncated_weights_is_refused(name, models, tmp_path):
    shutil.copytree(models / name, tmp_path / "start" / name)
    victim = max((tmp_path / "start" / name).rglob("*.safetensors"), key=lambda p: ("unet" in str(p), p.stat().st_size))
    victim.write_bytes(victim.read_bytes()[:-100])
    with pytest.raises(AugmentError, match="was altered since it was trained"):
        resolve(str(tmp_path / "start" / name), {})
    (tmp_path / "start" / name / FACTS).unlink()  # a model from elsewhere
    with pytest.raises(AugmentError, match="cannot be loaded"):
        begin_from(name, models, tmp_path / "start" / name, tmp_path)


def train_in(folder: Path, name: str) -> dict[str, torch.Tensor]:
    given = few(name, steps=3, checkpoint_minutes=0)
    train_model(name, given, scenes(), SIZE, folder / "models", folder / "work")
    return weights_of(folder / "models" / name)


def kill_in(folder: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(loop._State, "save", killed_at(1))
        train_in(folder, name)


@pytest.mark.parametrize("name", ["vae", "lora"])
def test_a_real_model_killed_and_resumed_is_bit_equal(name, tmp_path, monkeypatch):
    whole = train_in(tmp_path / "whole", name)
    kill_in(tmp_path / "killed", name, monkeypatch)
    assert_equal(whole, train_in(tmp_path / "killed", name))


def test_stay_killed_is_bit_equal_resumed_from_its_checkpoint_and_from_that_of_a_former_version(tmp_path, monkeypatch):
    """Whose modules had other names: "told" is "modulation" now."""
    whole = train_in(tmp_path / "whole", "stay")
    kill_in(tmp_path / "killed", "stay", monkeypatch)
    shutil.copytree(tmp_path / "killed", tmp_path / "former")
    assert_equal(whole, train_in(tmp_path / "killed", "stay"))
    (path,) = checkpoints(tmp_path / "former" / "work" / "stay")
    weights = {name.replace(".modulation.", ".told."): value for name, value in load_file(path).items()}
    with safe_open(path, "pt") as file:
        data = save(weights, file.metadata())
    assert b".told." in data and b".modulation." not in data
    path.unlink()
    (path.parent / f"00000001-{digest(data)[:16]}.safetensors").write_bytes(data)
    assert_equal(whole, train_in(tmp_path / "former", "stay"))


FULL = [OSError(28, "No space left on device"), Exception("No space left on device (os error 28)")]  # tokenizers' own


@pytest.mark.parametrize("error", FULL, ids=repr)
def test_a_full_disk_at_the_end_leaves_the_former_model(models, tmp_path, monkeypatch, error):
    shutil.copytree(models / "vae", tmp_path / "vae")
    before = folder_revision(tmp_path / "vae")

    def full(model, folder):
        (folder / "half").write_bytes(b"x")
        raise error

    monkeypatch.setattr("lib.training.vae.save_half", full)
    with pytest.raises(AugmentError, match=r"model .*vae cannot be written \(No space left on device.*\): make room"):
        train_model("vae", few("vae", seed=3), scenes(), SIZE, tmp_path, tmp_path / "work")
    assert folder_revision(tmp_path / "vae") == before and not list(tmp_path.glob(".tmp-*"))


def test_windows_around_objects_are_enlarged_by_zoom_and_no_further():
    things = Things(np.array([[100.0, 100, 108, 110]]), ("cat",), ("a cat",))
    picture = TrainingPicture(np.zeros((256, 256, 3), np.uint8), "a cat", things)

    def largest(zoom):
        windows = [cut(picture, 64, np.random.default_rng(seed), zoom=zoom) for seed in range(200)]
        return max(float(np.ptp(window.things.boxes[0, ::2]) * 64) for window in windows if len(window.things))

    assert 7 < largest(1) <= 8.1 and 25 < largest(4) <= 32.1  # of 8 pixels


def test_windows_stand_around_objects_that_are_to_be_learned():
    boxes = np.array([[10.0, 10, 30, 30], [220, 220, 240, 240]])
    picture = TrainingPicture(np.zeros((256, 256, 3), np.uint8), "", Things(boxes, ("cat", "dog"), ("a cat", "a dog")))

    def alone(learn):
        windows = [cut(picture, 64, np.random.default_rng(seed), learn=learn) for seed in range(60)]
        return {window.things.categories[0] for window in windows if len(window.things) == 1}

    assert alone(()) == {"cat", "dog"} == alone(("ox",)) and alone(("dog",)) == {"dog"}


def test_latents_that_cannot_be_kept_are_only_made_again(models, tmp_path, monkeypatch):
    def full(path, data):
        raise OSError(28, "No space left on device")

    vae, kept = load_vae(models / "vae").eval(), tmp_path / "latents"
    with monkeypatch.context() as patch:
        patch.setattr(latents, "atomic_write", full)
        _, made = latents.encoded_windows(vae, scenes(), SIZE, tmp_path)
    assert not kept.exists()
    for windows, files in ((latents.WINDOWS, 1), (latents.WINDOWS, 1), (2, 2)):
        some, found = latents.encoded_windows(vae, scenes(), SIZE, tmp_path, windows)
        assert len(some) == len(found) == 4 * windows and len(list(kept.iterdir())) == files
        assert windows == 2 or torch.equal(found, made)


def test_facts_that_cannot_be_read_are_none(tmp_path):
    assert read_facts(tmp_path) == {}
    (tmp_path / FACTS).write_text("[1, 2")
    assert read_facts(tmp_path) == {}
    with pytest.raises(AugmentError, match=rf"holds no {FACTS}"):
        write_card(tmp_path)


# What was asked for


def test_an_order_in_which_each_finds_what_it_needs_is_taken(tmp_path):
    check_order(list(TRAINERS), tmp_path)
    (tmp_path / "clip").mkdir()
    check_order(["vae", "gligen-inpaint"], tmp_path)


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        (["gligen-inpaint"], "needs vae, clip, neither named before it nor in"),
        (["clip", "gligen-inpaint", "vae"], "needs vae, neither"),
        (["vae", "vae"], "'vae' is listed twice"),
        (["nonesuch"], "unknown trainer 'nonesuch': known are blip2, classifier, clip"),
    ],
)
def test_another_order_is_refused(tmp_path, names, reason):
    with pytest.raises(AugmentError, match=reason):
        check_order(names, tmp_path)


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"models": ["nonesuch"]}, "unknown trainer 'nonesuch': known are"),
        ({"settings": {"nonesuch": {}}}, "unknown trainer 'nonesuch': known are"),
        (
            {"settings": {"vae": {"stepz": 1}}},
            "trainer 'vae', setting 'stepz'.*'steps'.*known are: steps",
        ),
        ({"settings": {"vae": {"steps": -1}}}, "trainer 'vae', setting 'steps'"),
        ({"size": 100}, "parameter 'size'.*100"),
        ({"size": 32}, "parameter 'size'.*32"),
        ({"split": "val"}, "parameter 'split'.*training split only"),
        ({"seed": -1}, "parameter 'seed'"),
        ({"modelz": []}, "parameter 'modelz'.*known are: dataset, models"),
    ],
    ids=str,
)
def test_wrong_parameters_are_named(given, reason):
    with pytest.raises(AugmentError, match=reason):
        check_training({"dataset": {"images": "x"}, **given})


def test_the_runs_seed_is_each_trainers_unless_it_has_its_own():
    given = check_training({"dataset": {"images": "x"}, "seed": 5, "settings": {"vae": {"seed": 6, "steps": 9}}})
    assert isinstance(given, TrainSettings)
    assert (settings_of(given, "clip").seed, settings_of(given, "vae").seed) == (5, 6)
    assert settings_of(given, "vae").steps == 9


@pytest.mark.parametrize(
    "losses", [[], [1.0], [2.0, 2.0], [9.0, 3.0, 1.0, 0.5], [1.0, float("nan"), 0.5], [-1.0, 0.0, 4.0]], ids=str
)
def test_a_curve_is_drawn_of_any_history(losses):
    picture = draw_curve([{"step": 50.0 * (i + 1), "loss": loss} for i, loss in enumerate(losses)])
    assert picture.size == (640, 240) and len(set(picture.get_flattened_data())) > 1


def test_checkpoints_say_what_they_are_in_their_header(tmp_path):
    train(Line(), tmp_path, settings(), identity="me")
    data = checkpoints(tmp_path)[-1].read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(json.loads(data[8 : 8 + length])["__metadata__"]["training"])
    assert header["identity"] == "me" and header["step"] == 12


@every_trainer
def test_nothing_in_it_names_the_machine_that_trained_it(name, models):
    texts = [p for p in (models / name).rglob("*") if p.suffix in (".json", ".md", ".txt")]
    assert texts and not [p for p in texts if str(models.parent) in p.read_text()]


FACTS_OF_A_CARD = {
    "trainer": "vae",
    "data": "boards",
    "start": "",
    "history": [],
    "pictures": 1,
    "size": 64,
    "steps": 1,
}
FACTS_OF_A_CARD |= {"seconds": 1, "hardware": "a CPU", "precision": "no", "needs": {}, "settings": {}}
FACTS_OF_A_CARD |= {"identity": "i", "revision": "r"}


@pytest.mark.parametrize(
    ("changes", "free"),
    [
        ({}, True),
        ({"start": "sha256:1"}, False),
        ({"start": "sha256:1", "rounds": None}, False),
        ({"start": "sha256:1", "rounds": [{"size": 64, "pictures": 9, "steps": 7, "seconds": 600}]}, True),
        ({"trainer": "lora", "needs": {"mini:gligen": "sha256:1"}}, True),
        ({"trainer": "lora", "needs": {"some/model": "a" * 40}}, False),
        ({"trainer": "stay", "needs": {"vae": "sha256:1"}}, False),
        ({"trainer": "stay"}, True),
        ({"trainer": "stay", "settings": {"vae": "folder"}}, False),
    ],
)
def test_a_card_says_apache_where_all_of_the_training_was_here(tmp_path, changes, free):
    (tmp_path / FACTS).write_text(json.dumps(FACTS_OF_A_CARD | changes))
    write_card(tmp_path)
    text = (tmp_path / "README.md").read_text()
    assert ("license: apache-2.0" in text) == ("No published weights went into it" in text) == free
    assert ("7 steps, 9 pictures, windows of 64 × 64 pixels, 10 min" in text) == bool(changes.get("rounds"))


def test_a_model_knows_the_rounds_and_the_terms_of_what_it_began_from():
    first = {"start": "", "size": 64, "pictures": 9, "steps": 7, "seconds": 5}
    nothing, second = first | {"steps": 0, "start": "sha256:1", "rounds": rounds_of(first)}, {"start": "sha256:2"}
    assert rounds_of(first) == [{"size": 64, "pictures": 9, "steps": 7, "seconds": 5}] == rounds_of(nothing)
    assert (
        rounds_of(second) is None is rounds_of({}) and rounds_of(first | {"start": "sha256:1", "rounds": None}) is None
    )
    assert both_terms("", "") == "" and both_terms("mine", "mine") == "mine"
    assert both_terms("CC BY", "research only") == "research only; CC BY" == both_terms("research only", "CC BY")


@pytest.mark.parametrize(
    ("terms", "front", "sentence"),
    [
        ("", "license: apache-2.0", "Apache-2.0. No published weights went into it."),
        ("CC BY 4.0", "license: apache-2.0", "Terms of the pictures that it learned from: CC BY 4.0."),
        ("Research only, cite us", "license: other\nlicense_name: research-only", "**Research only**"),
    ],
)
def test_a_card_has_the_terms_of_the_pictures_that_a_model_learned_from(tmp_path, terms, front, sentence):
    (tmp_path / FACTS).write_text(json.dumps(FACTS_OF_A_CARD | {"terms": terms}))
    write_card(tmp_path)
    card = (tmp_path / "README.md").read_text()
    assert card.startswith(f"---\n{front}\n") and sentence in card
    assert ("license: apache-2.0" in card) == (front == "license: apache-2.0")


def test_the_committed_models_of_research_pictures_say_so():
    for folder in (MINI.parent / "pcb").iterdir():
        assert "research only" in read_facts(folder)["terms"]
        assert "**Research only**" in (folder / "README.md").read_text()


def test_the_terms_of_a_formats_data_set_are_known_and_a_parameter_overrides_them(tmp_path):
    assert "research only" in terms_of(DatasetSettings(images=tmp_path, format="deep-pcb"))
    assert terms_of(DatasetSettings(images=tmp_path, format="deep-pcb", terms="mine")) == "mine"
    assert terms_of(DatasetSettings(images=tmp_path)) == ""
