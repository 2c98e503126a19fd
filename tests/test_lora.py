"""LoRA: trained beside a frozen base, saved as other programs save it, and added to a painter's weights."""

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from test_painters import item
from tiny import tiny_gligen, tiny_sd, tiny_sdxl

from lib.core.checkpoints import folder_revision, resolve
from lib.core.errors import AugmentError
from lib.painting.painters import PAINTERS
from lib.painting.painters.denoise import LatentPainter
from lib.painting.painters.lora import WEIGHTS
from lib.painting.painters.words import FOLDER, Words
from lib.runs.dry_run import dry_run
from lib.runs.parameters import Parameters
from lib.training import TRAINERS
from lib.training.lora import LoraObjective
from lib.training.train import finished_model, read_facts, train_model
from lib.training.windows import Things, TrainingPicture

# Painter → (its tiny base, what its U-Net takes)
BASES = {
    "gligen-inpaint": lambda path: tiny_gligen(path, inpaint=True),
    "gligen": tiny_gligen,
    "sd-inpaint": lambda path: tiny_sd(path, channels=9),
    "vanilla": tiny_sd,
    "sdxl-inpaint": tiny_sdxl,
}
every_base = pytest.mark.parametrize("painter", BASES)


def pictures(count=4):
    rng = np.random.default_rng(0)
    things = Things(np.array([[20.0, 20, 60, 70]]), ("fish",), ("a red fish",))
    return [TrainingPicture(rng.integers(0, 255, (96, 96, 3), dtype=np.uint8), "a fish", things) for _ in range(count)]


def trained(folder, base, **given):
    settings = TRAINERS["lora"].Settings(
        **{"base": str(base), "steps": 2, "batch": 2, "rank": 4, "rate": 0.01, **given}
    )
    train_model("lora", settings, pictures(), 64, folder / "models", folder / "work")
    return folder / "models" / "lora"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A base and a LoRA of it for a painter."""
    root, known = tmp_path_factory.mktemp("lora"), {}

    def make(painter):
        if painter not in known:
            base = BASES[painter](root / painter / "base")
            known[painter] = base, trained(root / painter, base, targets="all")
        return known[painter]

    return make


def painter_of(name, base, lora=None, **settings):
    given = {"steps": 2, "size": 64, **settings} | ({"lora": str(lora)} if lora else {})
    return PAINTERS.build(
        PAINTERS.member(name, given, resolve(str(base), {}), lora=resolve(str(lora), {}) if lora else None)
    )


@every_base
def test_it_changes_what_is_painted_by_its_scale_and_nothing_at_none(made, painter):
    base, lora = made(painter)
    plain, much, less, nothing = (
        painter_of(painter, base, *given, **more).paint([item(painter)])[0].image.astype(int)
        for given, more in (((), {}), ((lora,), {}), ((lora,), {"lora_scale": 0.5}), ((lora,), {"lora_scale": 0}))
    )
    assert (plain != much).any() and (plain != less).any() and (much != less).any()
    np.testing.assert_array_equal(plain, nothing)


@every_base
def test_the_base_stays_as_it_is_and_the_matrices_alone_are_saved(made, painter):
    base, lora = made(painter)
    before = folder_revision(base)
    state = load_file(lora / WEIGHTS)
    assert all(name.startswith("unet.") and ".lora_" in name for name in state)
    assert {one.dtype for one in state.values()} == {torch.float16}
    assert {path.name for path in lora.iterdir()} == {WEIGHTS, "README.md", ".training.json"}
    assert folder_revision(base) == before == read_facts(lora)["needs"]["folder"]


def test_diffusers_own_pipeline_takes_the_file(made):
    from diffusers import StableDiffusionInpaintPipeline

    base, lora = made("sd-inpaint")
    pipe = StableDiffusionInpaintPipeline.from_pretrained(
        base, safety_checker=None, feature_extractor=None, requires_safety_checker=False
    )
    pipe.load_lora_weights(lora)
    pipe.fuse_lora()
    pipe.unload_lora_weights()
    ours = painter_of("sd-inpaint", base, lora)._loaded().unet.state_dict()
    theirs = pipe.unet.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.allclose(ours[name], theirs[name], atol=1e-6) for name in ours)


def test_equal_seeds_give_equal_files_and_a_finished_one_is_not_trained_again(made, tmp_path):
    base, lora = made("gligen-inpaint")
    again = trained(tmp_path, base, targets="all")
    assert folder_revision(again) == folder_revision(lora)
    settings = TRAINERS["lora"].Settings(base=str(base), steps=2, batch=2, rank=4, rate=0.01, targets="all")
    assert finished_model("lora", settings, 64, tmp_path / "models") is not None


def test_another_base_is_another_training(made, tmp_path):
    base, _ = made("gligen-inpaint")
    trained(tmp_path, base)
    (base / "note.json").write_text("{}")  # another revision
    try:
        settings = TRAINERS["lora"].Settings(base=str(base), steps=2, batch=2, rank=4, rate=0.01)
        assert finished_model("lora", settings, 64, tmp_path / "models") is None
    finally:
        (base / "note.json").unlink()


def test_its_digest_and_scale_are_part_of_the_key_and_its_place_is_not(made, tmp_path):
    _, lora = made("gligen-inpaint")
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    (moved / WEIGHTS).write_bytes((lora / WEIGHTS).read_bytes())
    identity = lambda **given: PAINTERS.member(  # noqa: E731
        "gligen-inpaint", {key: value for key, value in given.items() if key != "ref"}, lora=given.get("ref")
    ).identity()
    plain = identity()
    assert not {"lora", "lora_file", "lora_scale"} & plain["settings"].keys()
    here, there = (identity(lora=str(path), ref=resolve(str(path), {})) for path in (lora, moved))
    assert here == there != plain and here["lora"]["revision"].startswith("sha256:")
    assert identity(lora=str(lora), ref=resolve(str(lora), {}), lora_scale=0.5) != here


def changed(lora, folder, change):
    folder.mkdir()
    save_file(change(load_file(lora / WEIGHTS)), folder / WEIGHTS, {"format": "pt"})
    return folder


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda state: {f"unet.other.{n[5:]}": v for n, v in state.items()}, "LoRA of another base: other.* is not in"),
        (
            lambda state: {n: v[:, :-1].contiguous() if "lora_A" in n else v for n, v in state.items()},
            r"LoRA of another base: .* × .* in this U-Net",
        ),
        (lambda state: {"weight": torch.zeros(1)}, "holds no weights for a U-Net"),
        (
            lambda state: state | {"text_encoder.q_proj.lora_A.weight": torch.zeros(1, 1)},
            "changes the text encoder too",
        ),
        (
            lambda state: {n: v for n, v in state.items() if n != sorted(state)[1]},
            "it is damaged: of .* it holds one matrix of two",
        ),
    ],
)
def test_one_that_does_not_fit_is_refused_in_a_sentence_before_any_weights_of_the_base_are_read(
    made, tmp_path, monkeypatch, change, words
):
    base, lora = made("sd-inpaint")
    folder = changed(lora, tmp_path / "bad", change)
    with pytest.raises(AugmentError, match=words):
        painter_of("sd-inpaint", base, folder).paint([item("sd-inpaint")])
    monkeypatch.setattr(LatentPainter, "_loaded", lambda self: pytest.fail("the base was loaded"))
    with pytest.raises(AugmentError, match=words):
        painter_of("sd-inpaint", base, folder).check()


@every_base
def test_one_that_fits_is_found_to_fit_without_the_weights_of_its_base(made, tmp_path, painter):
    base, lora = made(painter)
    bare = shutil.copytree(base, tmp_path / "bare")
    for file in bare.rglob("*.safetensors"):
        file.write_bytes(b"")
    painter_of(painter, bare, lora).check()


def test_a_file_that_is_cut_short_is_refused_by_a_check(made, tmp_path):
    base, lora = made("sd-inpaint")
    (tmp_path / WEIGHTS).write_bytes((lora / WEIGHTS).read_bytes()[:-100])
    with pytest.raises(AugmentError, match="cannot be loaded"):
        painter_of("sd-inpaint", base, tmp_path).check()


def test_of_several_files_one_has_to_be_chosen(made, tmp_path):
    base, lora = made("sd-inpaint")
    for name in ("a.safetensors", "b.safetensors"):
        (tmp_path / name).write_bytes((lora / WEIGHTS).read_bytes())
    with pytest.raises(AugmentError, match=r"several files, a\.safetensors, b\.safetensors: choose one with lora_file"):
        painter_of("sd-inpaint", base, tmp_path).paint([item("sd-inpaint")])
    with pytest.raises(AugmentError, match=r"several files"):
        painter_of("sd-inpaint", base, tmp_path).check()
    with pytest.raises(AugmentError, match=r"no c\.safetensors in"):
        painter_of("sd-inpaint", base, tmp_path, lora_file="c.safetensors").check()
    chosen = painter_of("sd-inpaint", base, tmp_path, lora_file="b.safetensors")
    chosen.check()
    chosen.paint([item("sd-inpaint")])


def test_some_examples_paint_a_free_place_by_an_empty_text(made, monkeypatch):
    base, _ = made("gligen-inpaint")
    objective = TRAINERS["lora"].objective(
        TRAINERS["lora"].Settings(base=str(base), background=1.0, rank=1), pictures(), 64, base, None, base.parent
    )
    assert isinstance(objective, LoraObjective)
    rows = [objective._example(window, np.random.default_rng(k)) for k in range(9) for window in objective.windows[:2]]
    free = [row for row in rows if not row["masks"].any() and 0 < row["keep"].mean() < 1]
    assert len(free) > 9 and all(torch.equal(row["text"], free[0]["text"]) for row in free)


def test_a_run_paints_with_it_and_another_lora_paints_anew(made, made_set, tmp_path):
    from test_journey import run

    base, lora = made("gligen-inpaint")
    painter = {"name": "gligen-inpaint", "model": str(base), "steps": 2, "size": 64}
    given = {"dataset": made_set.dataset, "edit": "replace", "composite": "feather", "limit": 2}
    painted = [
        run(tmp_path / "ws", painter=painter | more, **given)["painted"]
        for more in ({}, {"lora": str(lora)}, {"lora": str(lora)}, {"lora": str(lora), "lora_scale": 0.5})
    ]
    assert painted == [2, 2, 0, 2]
    with_lora = Parameters(painter=painter | {"lora": str(lora)}, **given)
    assert dry_run(with_lora, tmp_path / "ws").new == 0  # nor does a dry run count what is there as new
    assert json.loads((tmp_path / "ws" / "status.json").read_bytes())["state"] == "completed"


# Words


def with_words(folder, base, **given):
    return trained(folder, base, words=True, rate=0.05, **given)


@pytest.mark.parametrize("painter", ["gligen-inpaint", "sd-inpaint"])
def test_words_of_categories_learn_and_are_read_by_the_painter(made, tmp_path, painter):
    base, _ = made(painter)
    lora = with_words(tmp_path, base)
    words, begun = Words.read(lora / FOLDER), Words.of(painter_of(painter, base)._loaded(), ["fish"])
    assert words.categories == ("fish",) and words.names == ("<fish>",)
    assert not torch.equal(words.vectors, begun.vectors)

    plain, taught = painter_of(painter, base)._loaded(), painter_of(painter, base, lora)._loaded()
    for text, same in (("a red bird", True), ("a red fish", False), ("Fishes", True), ("two FISH", False)):
        before, after = plain.encode_text(text), taught.encode_text(text)
        assert all(torch.equal(*pair) for pair in zip(before, after, strict=True)) == same, text


def test_training_goes_on_from_words_and_those_of_other_categories_are_refused(made, tmp_path):
    base, _ = made("gligen-inpaint")
    lora = with_words(tmp_path / "one", base)
    same = TRAINERS["lora"].Settings(base=str(base), steps=0, rank=4, rate=0.01, words=True)
    again = TRAINERS["lora"].objective(same, pictures(), 64, tmp_path, lora, tmp_path)
    assert torch.equal(again.vectors.detach(), Words.read(lora / FOLDER).vectors)
    with pytest.raises(AugmentError, match="it has words for other categories"):
        TRAINERS["lora"].objective(same.model_copy(update={"words": False}), pictures(), 64, tmp_path, lora, tmp_path)


def test_diffusers_own_pipeline_takes_a_word(made, tmp_path):
    from diffusers import StableDiffusionInpaintPipeline

    base, _ = made("sd-inpaint")
    lora = with_words(tmp_path, base)
    pipe = StableDiffusionInpaintPipeline.from_pretrained(
        base, safety_checker=None, feature_extractor=None, requires_safety_checker=False
    )
    pipe.load_textual_inversion(lora / FOLDER / "fish.safetensors")
    table = pipe.text_encoder.get_input_embeddings().weight
    assert torch.equal(table[pipe.tokenizer.convert_tokens_to_ids("<fish>")], Words.read(lora / FOLDER).vectors[0])


def test_a_text_is_spelled_by_whole_names_the_longest_first():
    words = Words(("pallet", "pallet truck", "C++ box"), torch.zeros(3, 4))
    assert (
        words.spelled("Pallet trucks, a pallet and palletised goods")
        == "<pallet-truck>, a <pallet> and palletised goods"
    )
    assert words.spelled("a c++ box") == "a <c-box>"
    assert Words(("a b", "a-b", "?"), torch.zeros(3, 4)).names == ("<a-b-0>", "<a-b-1>", "<object>")


def test_words_are_refused_where_they_do_not_fit(made, tmp_path):
    model = painter_of("gligen-inpaint", made("gligen-inpaint")[0])._loaded()
    wide = Words(("fish",), torch.zeros(1, 3))
    with pytest.raises(ValueError, match="LoRA of another base: its words are 3 wide"):
        wide.taught(model)
    (tmp_path / "x.safetensors").write_bytes(b"")
    save_file({"<fish>": torch.zeros(1, 4)}, tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match=r"words/x.safetensors is not a word of a category"):
        Words.read(tmp_path)
    with pytest.raises(AugmentError, match="not for SDXL"):
        with_words(tmp_path / "xl", made("sdxl-inpaint")[0])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda file: file.write_bytes(file.read_bytes()[:-10]),
            r"words/fish\.safetensors is damaged .*: copy it again",
        ),
        (lambda file: save_file({"<fish>": torch.zeros(1, 3)}, file, {"category": "fish"}), "its words are 3 wide"),
        (lambda file: save_file({"<fish>": torch.zeros(1, 4)}, file), "is not a word of a category"),
        (lambda file: (file.parents[2] / "known").touch(), "its words <fish> are known already"),
    ],
)
def test_words_that_cannot_be_learned_are_refused_by_a_check(made, tmp_path, change, words):
    from transformers import CLIPTokenizer

    hidden = shutil.ignore_patterns(".*")  # what training noted of it: that nothing was altered
    base, _ = made("sd-inpaint")
    lora = shutil.copytree(with_words(tmp_path, base), tmp_path / "copy" / "lora", ignore=hidden)
    painter_of("sd-inpaint", base, lora).check()
    change(lora / FOLDER / "fish.safetensors")
    if (tmp_path / "copy" / "known").exists():
        base = shutil.copytree(base, tmp_path / "taught")
        tokenizer = CLIPTokenizer.from_pretrained(base / "tokenizer")
        tokenizer.add_tokens(["<fish>"])
        tokenizer.save_pretrained(base / "tokenizer")
    for call in (lambda made: made.check(), lambda made: made.paint([item("sd-inpaint")])):
        with pytest.raises(AugmentError, match=words):
            call(painter_of("sd-inpaint", base, lora))


def test_a_category_that_no_picture_has_cannot_be_learned(made, tmp_path):
    with pytest.raises(AugmentError, match="unknown category 'fsh'"):
        trained(tmp_path, made("gligen-inpaint")[0], learn=["fsh"])
