"""What a run may write: nothing that holds what it reads, and nothing that another made."""

import json
import os
from pathlib import Path

import pytest
from conftest import MadeSet

from lib.core.checkpoints import FACTS
from lib.core.errors import AugmentError
from lib.core.files import unused_path
from lib.records.outputs import (
    FILES,
    FOLDERS,
    Outputs,
    check_sources,
    check_workspace,
    inputs_of,
    lies_in,
    noted_files,
    remove_temporary,
)
from lib.runs.parameters import check_parameters
from lib.runs.workspace import locked
from lib.training.train import check_training


def everything(folder: Path) -> dict[str, bytes | None]:
    """Every file with its bytes, every folder and link with None."""
    found = sorted(folder.rglob("*"))
    return {
        p.relative_to(folder).as_posix(): p.read_bytes() if p.is_file() and not p.is_symlink() else None for p in found
    }


# Inputs in outputs


@pytest.mark.parametrize("name", [*FOLDERS, *FILES])
def test_an_input_in_what_a_run_writes_is_refused_by_its_name_and_nothing_is_written(tmp_path, name):
    root = tmp_path / "ws"
    path = root / name if name in FILES else root / name / "images"
    path.parent.mkdir(parents=True)
    path.write_text("mine")
    before = everything(tmp_path)
    with (
        pytest.raises(AugmentError, match=rf"dataset\.images {path} lies in {root / name}, which.*set `workspace`"),
        locked(root, {"dataset.images": path}),
    ):
        pass
    assert everything(tmp_path) == before


@pytest.mark.parametrize("spelling", ["{ws}/../ws/final/images", "{ws}/final", "{link}", "{link}/sub", "{other}/final"])
def test_no_spelling_of_the_path_deceives(tmp_path, spelling):
    root = tmp_path / "ws"
    (root / "final" / "images" / "sub").mkdir(parents=True)
    (tmp_path / "link").symlink_to(root / "final" / "images")
    (tmp_path / "other").symlink_to(root)
    path = Path(spelling.format(ws=root, link=tmp_path / "link", other=tmp_path / "other"))
    with pytest.raises(AugmentError, match="lies in"):
        check_workspace(root, {"dataset.images": path})
    with pytest.raises(AugmentError, match="lies in"):
        check_workspace(tmp_path / "other", {"dataset.images": path})


def test_a_relative_path_is_seen_through(tmp_path, monkeypatch):
    (tmp_path / "ws" / "final" / "images").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "ws" / "final")
    with pytest.raises(AugmentError, match="lies in"):
        check_workspace(tmp_path / "ws", {"dataset.images": Path("images")})


def test_one_folder_under_two_names_is_one_as_on_a_disk_that_ignores_case(tmp_path, monkeypatch):
    """Two names of one inode, as a case-insensitive disk has them: stood in for by what `stat` says."""
    for name in ("final", "FINAL"):
        (tmp_path / "ws" / name / "images").mkdir(parents=True)
    assert not lies_in(tmp_path / "ws" / "FINAL" / "images", tmp_path / "ws" / "final")
    real = Path.stat
    lower = lambda path, **more: real(Path(str(path).replace("FINAL", "final")), **more)  # noqa: E731
    monkeypatch.setattr(Path, "stat", lower)
    assert lies_in(tmp_path / "ws" / "FINAL" / "images", tmp_path / "ws" / "final")


def test_an_output_that_is_a_link_to_the_input_is_refused(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "ws" / "final").mkdir(parents=True)
    (tmp_path / "ws" / "final" / "images").symlink_to(tmp_path / "mine")
    with pytest.raises(AugmentError, match="is a link to"):
        check_workspace(tmp_path / "ws", {"dataset.images": tmp_path / "mine"})


@pytest.mark.parametrize("name", [*FOLDERS, "final/images", "final/labels", ".lock"])
def test_an_output_that_leads_out_of_the_workspace_is_refused(tmp_path, name):
    link, target = tmp_path / "ws" / name, tmp_path / "elsewhere"
    link.parent.mkdir(parents=True)
    target.write_text("mine") if name == ".lock" else target.mkdir()
    link.symlink_to(target)
    with pytest.raises(AugmentError, match=rf"{link} is a link to {target}.*remove the link"), locked(tmp_path / "ws"):
        pass
    assert name != ".lock" or target.read_text() == "mine"


def test_what_lies_elsewhere_or_beside_the_outputs_may_be_read(tmp_path):
    for name in ("other/final/images", "ws/given", "ws/models/gligen", "ws/finally"):
        (tmp_path / name).mkdir(parents=True)
    inputs = {name: tmp_path / name for name in ("other/final/images", "ws/given", "ws/models/gligen", "ws/finally")}
    check_workspace(tmp_path / "ws", inputs)


def test_a_workspace_that_is_itself_a_link_is_fine(tmp_path):
    (tmp_path / "large disk").mkdir()
    (tmp_path / "ws").symlink_to(tmp_path / "large disk")
    with locked(tmp_path / "ws"):
        (tmp_path / "ws" / "final" / "images").mkdir(parents=True)
    with locked(tmp_path / "ws"):
        pass


def test_what_only_this_kind_of_run_reads_is_allowed(tmp_path):
    (tmp_path / "ws" / "final").mkdir(parents=True)
    check_workspace(tmp_path / "ws", {"generated": tmp_path / "ws" / "final"}, readable=("final",))


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"review": "X"}, "review.path"),
        ({"painter": {"name": "gligen", "model": "X"}}, "painter.model"),
        ({"caption": {"captioner": {"name": "blip2", "model": "X"}}}, "caption.captioner.model"),
        ({"screen": {"boxes": {"judge": "X"}}}, "screen.boxes.judge"),
        ({"evaluate": {"metrics": [{"name": "regions", "model": "X"}]}}, "evaluate.metrics[0].model"),
        ({"dataset": {"images": "I", "annotations": "X"}}, "dataset.annotations"),
    ],
)
def test_every_setting_that_names_something_to_read_is_an_input(tmp_path, values, named):
    def filled(value):
        if isinstance(value, dict):
            return {k: filled(v) for k, v in value.items()}
        if isinstance(value, list):
            return [filled(v) for v in value]
        return {"X": str(tmp_path / "x"), "I": str(tmp_path)}.get(value, value)

    (tmp_path / "x").mkdir()
    inputs = inputs_of(check_parameters({"dataset": {"images": str(tmp_path)}, **filled(values)}))
    assert inputs == {"dataset.images": tmp_path, named: tmp_path / "x"}


def test_hub_ids_and_what_is_not_there_are_not_inputs(tmp_path):
    values = {"dataset": {"images": tmp_path / "nowhere"}, "painter": {"name": "gligen", "model": "masterful/gligen"}}
    assert inputs_of(check_parameters(values)) == {}
    assert inputs_of(check_training({"dataset": {"images": tmp_path}, "start": tmp_path})).keys() == {
        "dataset.images",
        "start",
    }


# A folder that was no workspace


@pytest.mark.parametrize("name", ["final/annotations.json", "status.json", "settings.json", "contact_sheet.jpg"])
def test_a_folder_with_files_of_our_names_is_not_a_workspace(tmp_path, name):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("mine")
    for _ in range(2):
        with pytest.raises(AugmentError, match=rf"{tmp_path / name} exists, and no run has used"), locked(tmp_path):
            pass
    assert everything(tmp_path).keys() == {name, *(str(Path(name).parent),)} - {"."}


def test_a_workspace_of_ours_is_taken_again(tmp_path):
    with locked(tmp_path / "ws"):
        (tmp_path / "ws" / "status.json").write_text("{}")
    with locked(tmp_path / "ws"):
        pass


# Pictures that the data set names


def test_a_data_set_may_hold_its_workspace_but_not_what_that_holds(tmp_path):
    root = tmp_path / "data" / "runs" / "ws"
    (root / "final" / "images").mkdir(parents=True)
    (tmp_path / "data" / "link").symlink_to(root / "final" / "images")
    check_sources(root, tmp_path / "data", ["a.png", "sub/b.png", "", "runs/other/final/images/a.png"])
    for path in (
        "runs/ws/final/images/a.png",
        "link/a.png",
        "runs/ws/contact_sheet.jpg",
        "runs/../runs/ws/drawn/a.jpg",
    ):
        with pytest.raises(AugmentError, match=r"picture .* lies in what runs of workspace .* set `workspace`"):
            check_sources(root, tmp_path / "data", ["a.png", path])


def test_a_data_set_elsewhere_is_not_looked_through(tmp_path):
    check_sources(tmp_path / "ws", tmp_path / "data", iter(["final/images/a.png"]))


# What is ours


def test_names_are_noted_before_files_are_written_and_only_those_are_removed(tmp_path):
    (tmp_path / "drawn").mkdir()
    (tmp_path / "drawn" / "mine.jpg").write_text("mine")
    ours = Outputs(tmp_path / "drawn")
    ours.claim(["a.jpg", "b.jpg", "mine.jpg"])
    assert [*noted_files(tmp_path / "drawn")] == ["a.jpg", "b.jpg"]
    for name in ("a.jpg", "b.jpg"):
        (tmp_path / "drawn" / name).touch()
    Outputs(tmp_path / "drawn").sweep(["b.jpg"])
    assert sorted(p.name for p in (tmp_path / "drawn").iterdir()) == ["b.jpg", "mine.jpg"]
    assert [*noted_files(tmp_path / "drawn")] == ["b.jpg"]


def test_one_file_under_two_spellings_is_not_removed(tmp_path):
    """As on a disk that ignores case: stood in for by a hard link."""
    (tmp_path / "final").mkdir()
    (tmp_path / "final" / "A.png").touch()
    os.link(tmp_path / "final" / "A.png", tmp_path / "final" / "a.png")
    ours = Outputs(tmp_path / "final", ["A.png"])
    ours.sweep(["a.png"])
    assert (tmp_path / "final" / "a.png").exists() and (tmp_path / "final" / "A.png").exists()


def test_half_written_files_are_removed_by_their_own_names_alone(tmp_path):
    ours = [
        f"store/paint/ab/{unused_path(Path(), '.png')}",
        "store/paint/ab/.tmp-ab12_xyz",
        "final/images/.tmp-abcdefgh.png",
        ".tmp-abcdefgh.json",
        "models/.tmp-vae/x",
    ]
    strange = [".tmp-mine/notes", "given/.tmp-abcdefgh.png", "final/.tmp-of-mine.txt", "models/.tmp-mine/x", "a.tmp"]
    for name in ours + strange:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / ".tmp-abcdefgh").touch()
    (tmp_path / "final" / "link").symlink_to(tmp_path / "elsewhere")
    remove_temporary(tmp_path, ["vae"])
    left = {p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file()}
    assert left == {*strange, "elsewhere/.tmp-abcdefgh"}


# Whole runs


def failed(flow, **values) -> str:
    state = flow.fn(**values)
    assert state.is_failed() and "Traceback" not in state.message
    return str(state.message)


@pytest.mark.parametrize("originals", ["all", "selected", "none"])
def test_a_result_fed_back_into_its_own_workspace_is_refused_and_left_as_it_is(tmp_path, originals):
    from flows.augment import augment

    made = MadeSet(tmp_path / "made", 3)
    root = tmp_path / "ws"
    assert augment.fn(dataset=made.dataset, workspace=root).is_completed()
    before = everything(tmp_path)
    dataset = {"images": str(root / "final" / "images"), "annotations": str(root / "final" / "annotations.json")}
    message = failed(augment, dataset=dataset, workspace=root, finalise={"originals": originals})
    assert "dataset.images" in message and "lies in" in message
    assert everything(tmp_path) == before


@pytest.mark.parametrize("originals", ["all", "selected", "none"])
def test_a_data_set_in_the_final_folder_of_a_workspace_to_be_is_left_as_it_is(tmp_path, originals):
    from flows.augment import augment

    made = MadeSet(tmp_path / "D" / "final", 3)
    (tmp_path / "D" / "final" / "images" / "notes.txt").write_text("mine")
    before = everything(tmp_path)
    given = {"workspace": tmp_path / "D", "finalise": {"originals": originals}}
    assert "lies in" in failed(augment, dataset=made.dataset, **given)
    (tmp_path / "link").symlink_to(tmp_path / "D" / "final" / "images")
    dataset = made.dataset | {"images": str(tmp_path / "link")}
    assert "lies in" in failed(augment, dataset=dataset, **given)
    dataset = {"images": str(tmp_path / "D"), "annotations": str(made.annotations)}
    assert "lies in" in failed(augment, dataset=dataset, **given)
    assert {k: v for k, v in everything(tmp_path).items() if k != "link"} == before


def test_pictures_named_through_a_folder_that_holds_the_workspace_are_refused_and_stay(tmp_path):
    from flows.augment import augment

    made = MadeSet(tmp_path / "D" / "final", 3)
    (tmp_path / "D" / "final" / "annotations.json").rename(tmp_path / "annotations.json")
    for record in made.coco["images"]:
        record["file_name"] = f"D/final/images/{record['file_name']}"
    (tmp_path / "annotations.json").write_text(json.dumps(made.coco))
    before = everything(tmp_path / "D" / "final")
    dataset = {"images": str(tmp_path), "annotations": str(tmp_path / "annotations.json")}
    for _ in range(2):
        message = failed(augment, dataset=dataset, workspace=tmp_path / "D", finalise={"originals": "none"})
        assert "of the data set lies in what runs of workspace" in message
    assert everything(tmp_path / "D" / "final") == before


def test_drawings_of_a_stranger_stay_and_old_ones_of_ours_go(tmp_path):
    from flows.augment import augment

    made = MadeSet(tmp_path / "made", 3)
    root = tmp_path / "ws"
    (root / "drawn").mkdir(parents=True)
    (root / "drawn" / "mine.jpg").write_bytes(b"mine")
    for seed in (0, 1):
        assert augment.fn(dataset=made.dataset, workspace=root, seed=seed).is_completed()
    names = {p.name for p in (root / "drawn").iterdir()}
    assert len(names) == 4 and (root / "drawn" / "mine.jpg").read_bytes() == b"mine"


def test_evaluation_may_read_a_final_folder_but_not_what_it_writes(tmp_path):
    from flows.evaluate import evaluate

    made = MadeSet(tmp_path / "ws" / "report", 3)
    message = failed(evaluate, real=made.images, generated=made.images, workspace=tmp_path / "ws", extractor="pixels")
    assert "real" in message and "lies in" in message
    made = MadeSet(tmp_path / "ws" / "final", 3)
    (tmp_path / "ws" / "final" / "annotations.json").unlink()
    state = evaluate.fn(real=made.images, generated=made.images, workspace=tmp_path / "new", extractor="pixels")
    assert state.is_completed()


def test_a_training_reads_nothing_that_it_writes_and_replaces_no_model_of_another_origin(tmp_path):
    from flows.train import train

    made = MadeSet(tmp_path / "ws" / "models" / "vae", 3)
    facts = tmp_path / "ws" / "models" / "vae" / FACTS
    facts.write_text('{"trainer": "vae"}')
    assert "lies in" in failed(train, dataset=made.dataset, models=["vae"], workspace=tmp_path / "ws")
    facts.unlink()
    made = MadeSet(tmp_path / "made", 3)
    before = everything(tmp_path)
    message = failed(train, dataset=made.dataset, models=["vae"], workspace=tmp_path / "ws")
    assert "model" in message and "was not made by a training" in message and everything(tmp_path) == before


@pytest.mark.parametrize("name", ["final", "status.json", "ids.json"])
def test_a_circle_of_links_in_the_workspace_is_a_sentence_with_the_remedy(tmp_path, name):
    link = tmp_path / "ws" / name
    link.parent.mkdir()
    link.symlink_to(link)
    inputs = {"dataset.images": tmp_path / "images"}
    with (
        pytest.raises(AugmentError, match=rf"{link} leads in a circle of links: remove it"),
        locked(link.parent, inputs),
    ):
        pass


@pytest.mark.parametrize("kind", ["folder", "link"])
def test_a_lock_that_is_not_a_file_is_named_with_the_remedy(tmp_path, kind):
    lock = tmp_path / "ws" / ".lock"
    lock.parent.mkdir()
    lock.mkdir() if kind == "folder" else lock.symlink_to(lock.parent / "other")
    with pytest.raises(AugmentError, match=rf"{lock} is not a file .*: remove it"), locked(lock.parent):
        pass
