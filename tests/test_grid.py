"""One picture by several presets, side by side: what is painted, the reason where it cannot be, the sheet."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import pixels_of
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from test_cli import failed
from tiny import tiny_gligen

import lib.datasets.ingest
import lib.runs.grid
from flows import cli
from lib.core.errors import AugmentError
from lib.runs.grid import Cell, Grid, close_window, paint_grid
from lib.runs.parameters import check_parameters
from lib.runs.sheet import draw_grid, sheet_format, wrapped, write_sheet
from lib.runs.workspace import locked
from lib.screening.draw import colour_of

NO_BLIP2 = {"captioner": "template"}


@pytest.fixture(scope="module")
def inpaint(tmp_path_factory):
    return str(tiny_gligen(tmp_path_factory.mktemp("tiny") / "inpaint", inpaint=True))


@pytest.fixture
def grid(made_set, tmp_path):
    """grid("copy-paste", "loco-gligen", picture="12", select={...}): the Grid."""

    def painted(*presets, picture=None, watch=lambda *progress: None, **parameters):
        values = {"dataset": made_set.dataset, "workspace": str(tmp_path / "ws"), **parameters}
        return paint_grid({name: check_parameters(values) for name in presets}, picture, watch)

    return painted


def tiny(folder):
    return {"model": folder, "steps": 2, "guidance": 1, "size": 64}


def paints(workspace):
    return {path: path.stat().st_mtime_ns for path in (workspace / "store" / "paint").rglob("*") if path.is_file()}


# What is painted


def test_a_preset_paints_its_places_and_nothing_else(grid, made_set):
    made = grid("copy-paste", picture="picture 003.png")
    (cell,) = made.cells
    assert (cell.name, cell.triple, cell.reason) == ("copy-paste", "replace × copy-paste × feather", "")
    assert made.name == "picture 003.png"
    np.testing.assert_array_equal(made.source, pixels_of(made_set.images / "picture 003.png"))
    assert cell.places == cell.painted == sum(new for _, _, new in cell.boxes) > 0
    outside = np.ones(made.source.shape[:2], bool)
    for _, xywh, new in cell.boxes:
        x, y, w, h = map(int, xywh)
        if new:  # 9 pixels around it are feather's
            outside[max(y - 9, 0) : y + h + 9, max(x - 9, 0) : x + w + 9] = False
    np.testing.assert_array_equal(cell.picture[outside], made.source[outside])
    assert (cell.picture != made.source).any()


def test_several_presets_paint_the_same_picture(grid, inpaint):
    made = grid("loco-gligen", "gligen-inpainting", painter=tiny(inpaint), caption=NO_BLIP2, picture="10")
    assert [cell.triple for cell in made.cells] == [
        "occlude × gligen-inpaint × feather",
        "replace × gligen-inpaint × feather",
    ]
    assert [cell.reason for cell in made.cells] == ["", ""]
    assert "stack of boxes" in made.cells[0].prompt
    assert all((cell.picture != made.source).any() for cell in made.cells)


def test_the_outcome_is_a_line():
    made = {"name": "a", "places": 3, "picture": plain()}
    assert Cell(**made, painted=3).outcome == "3 places, painted"
    assert Cell(**made, painted=1).outcome == "3 places, 1 of them painted now"
    left = Cell(**made, barred=["7: no_donor", "8: covers_other_object", "9: no_donor"])
    assert left.outcome == "3 places, from the store; left alone: 2 × no donor, 1 × covers other object"


def test_painting_again_takes_it_from_the_store(grid, tmp_path):
    first, before = grid("copy-paste", picture="10").cells[0], paints(tmp_path / "ws")
    again = grid("copy-paste", picture="10").cells[0]
    assert before and paints(tmp_path / "ws") == before
    assert (again.painted, again.places) == (0, first.places) and "from the store" in again.outcome
    np.testing.assert_array_equal(again.picture, first.picture)


@pytest.mark.parametrize("edit", ["replace", "insert"])
def test_a_run_after_it_reuses_its_paints(grid, made_set, tmp_path, inpaint, edit):
    from flows.augment import augment

    preset = {"replace": "copy-paste", "insert": "gligen-inpainting"}[edit]
    more = {"edit": "insert", "painter": tiny(inpaint), "caption": NO_BLIP2} if edit == "insert" else {}
    made = grid(preset, picture="11", **more)
    before = paints(tmp_path / "ws")
    off = {"extractor": None}
    state = augment.fn(dataset=made_set.dataset, preset=preset, workspace=tmp_path / "ws", evaluate=off, **more)
    account = json.loads((tmp_path / "ws" / "status.json").read_bytes())
    assert state.is_completed() and before
    assert account["painted"] == account["stages"]["plan"]["ok"] - 1 and account["reused"] == 1
    assert {path: when for path, when in paints(tmp_path / "ws").items() if path in before} == before
    after = grid(preset, picture="11", **more).cells[0]  # with what the run has pinned and read
    assert after.painted == 0
    np.testing.assert_array_equal(after.picture, made.cells[0].picture)


def test_of_the_other_pictures_none_is_decoded(made_set, grid, monkeypatch):
    decoded, glanced, inspect, glance = [], [], lib.datasets.ingest.inspect, lib.datasets.ingest.glance
    monkeypatch.setattr(
        lib.datasets.ingest, "inspect", lambda path, most: decoded.append(path.name) or inspect(path, most)
    )
    monkeypatch.setattr(
        lib.datasets.ingest, "glance", lambda path, most: glanced.append(path.name) or glance(path, most)
    )
    grid("copy-paste", picture="12")
    assert decoded == ["picture 002.png"]
    assert len(glanced) == len(made_set.coco["images"]) - 1  # donors are drawn by their files' digests


def test_without_donors_no_other_file_is_touched(grid, made_set, inpaint):
    for path in made_set.images.iterdir():
        if path.name != "picture 002.png":
            path.write_bytes(b"")
    (cell,) = grid("loco-gligen", painter=tiny(inpaint), picture="12").cells
    assert cell.reason == ""


def test_a_donor_of_another_category_is_found_in_a_picture_that_has_none_of_it(made_set, grid):
    made_set.coco["annotations"] = [a for a in made_set.coco["annotations"] if a["image_id"] != 10 or a["id"] == 1000]
    made_set.write()
    edit, painter = {"category": "pallet"}, {"max_upscale": 9, "max_stretch": 9}
    (cell,) = grid("copy-paste", edit=edit, painter=painter, picture="10").cells
    assert cell.reason == "" and [name for name, *_ in cell.boxes] == ["pallet"]


def test_pinned_revisions_are_kept(grid, tmp_path):
    (tmp_path / "ws").mkdir()
    pinned = {"masterful/gligen-1-4-inpainting-text-box@refs/pr/2": "0123456789abcdef" + "0" * 24}
    (tmp_path / "ws" / "models.lock").write_text(json.dumps(pinned))
    (cell,) = grid("loco-gligen", picture="10").cells
    assert "0123456789abcde" in cell.reason  # which is not here
    assert json.loads((tmp_path / "ws" / "models.lock").read_text()) == pinned


def test_a_workspace_in_use_is_left_alone(grid, tmp_path):
    with locked(tmp_path / "ws"), pytest.raises(AugmentError, match="in use by another run"):
        grid("copy-paste")


def test_each_preset_and_the_files_read_are_reported(grid):
    reported = []
    grid("copy-paste", "loco-sdxl", picture="10", models="mini", watch=lambda *progress: reported.append(progress))
    for name in ("copy-paste", "loco-sdxl"):
        assert (name, 0, 1) in reported and (name, 1, 1) in reported
    assert ("digests", 6, 6) in reported


# Which picture


@pytest.mark.parametrize("wanted", ["train/picture 003.png", "picture 003.png", "13", "PATH"])
def test_a_picture_is_found_by_name_path_and_key(made_set, grid, wanted, monkeypatch):
    (made_set.images / "train").mkdir()
    for record in made_set.coco["images"]:
        (made_set.images / record["file_name"]).rename(made_set.images / "train" / record["file_name"])
        record["file_name"] = f"train/{record['file_name']}"
    made_set.write()
    monkeypatch.chdir(made_set.folder)
    for here in ("images", str(made_set.images)) if wanted == "PATH" else ("",):
        made = grid("copy-paste", picture=f"{here}/train/picture 003.png" if here else wanted)
        assert made.name == "train/picture 003.png"


def test_a_key_that_is_a_text_needs_no_quotes(made_set, grid):
    made_set.coco["images"][1]["id"] = "a"
    made_set.coco["annotations"] = [
        a | ({"image_id": "a"} if a["image_id"] == 11 else {}) for a in made_set.coco["annotations"]
    ]
    made_set.write()
    assert grid("copy-paste", picture="a").name == grid("copy-paste", picture='"a"').name == "picture 001.png"


@pytest.mark.parametrize("wanted", ["picture 999.png", "", "../made", "10 "])
def test_an_unknown_picture_is_told_with_some_that_there_are(grid, wanted):
    with pytest.raises(AugmentError, match=r"no picture .* among the 6 .*picture 000.png, picture 001.png"):
        grid("copy-paste", picture=wanted)


def test_a_name_of_two_pictures_is_told_with_their_keys(made_set, grid):
    made_set.coco["images"][1]["file_name"] = "picture 000.png"
    made_set.write()
    with pytest.raises(AugmentError, match=r"2 pictures.*10 \(picture 000.png\), 11"):
        grid("copy-paste", picture="picture 000.png")
    assert grid("copy-paste", picture="11").name == "picture 000.png"


def test_a_picture_that_cannot_be_read_is_told(made_set, grid):
    (made_set.images / "picture 002.png").write_bytes(b"no picture")
    with pytest.raises(AugmentError, match=r"picture 002.png: image broken"):
        grid("copy-paste", picture="12")


def test_the_first_picture_is_one_that_the_first_preset_can_edit(made_set, grid):
    made_set.coco["annotations"] = [a for a in made_set.coco["annotations"] if a["image_id"] != 10]
    for note in made_set.coco["annotations"]:
        if note["image_id"] == 13:
            x, y, w, h = note["bbox"]
            note["segmentation"] = [[x, y, x + w, y, x + w / 2, y + h]]
    made_set.write()
    (made_set.images / "picture 001.png").write_bytes(b"no picture")
    assert grid("copy-paste").name == "picture 002.png"
    assert grid("pipe-vanilla", models="mini").name == "picture 003.png"
    assert grid("copy-paste", select={"categories": ["pallet"]}, limit=1).name == grid("copy-paste", limit=1).name


def test_a_set_without_a_box_to_edit_asks_for_a_picture(made_set, grid):
    made_set.coco["annotations"] = []
    made_set.write()
    with pytest.raises(AugmentError, match="name one with --picture"):
        grid("copy-paste")
    assert grid("copy-paste", picture="10").cells[0].reason == "plan: no boxes to edit"


# What cannot be painted


def test_a_preset_that_cannot_is_a_cell_with_its_reason_and_the_others_are_painted(made_set, grid):
    made_set.coco["annotations"] = [a for a in made_set.coco["annotations"] if a["category_id"] != 3]  # no forklifts
    made_set.write()
    made = grid("loco-sdxl", "copy-paste", "loco-gligen", "pipe-vanilla", models="mini", picture="10")
    reasons = {cell.name: cell.reason for cell in made.cells}
    assert list(reasons) == ["loco-sdxl", "copy-paste", "loco-gligen", "pipe-vanilla"]
    assert "mini has no model for 'sdxl-inpaint'" in reasons["loco-sdxl"]
    assert reasons["loco-gligen"] == "select: category not wanted (categories: ['forklift'])"
    assert reasons["pipe-vanilla"].startswith("caption: caption missing")
    assert reasons["copy-paste"] == "" and made.cells[1].picture is not None


@pytest.mark.parametrize(
    ("parameters", "reason"),
    [
        ({"painter": {"max_stretch": 1, "max_upscale": 0.01}}, "plan: no donor (2 × no donor)"),
        ({"painter": {"steps": 3}}, "painter 'copy-paste', setting 'steps'"),
        ({"composite": "reconstruct"}, "composite 'reconstruct' needs a painter with a decoder"),
        ({"edit": {"name": "replace", "category": "ghost"}}, "the data set has no category 'ghost'"),
        ({"edit": "layout"}, "does not serve edit 'layout'"),
        ({"select": {"min_picture": 500}}, "select: picture too small (min_picture: 500)"),
        ({"caption": {"rules": "nonesuch"}}, "nonesuch"),
    ],
)
def test_every_stages_reason_is_told_in_words(grid, parameters, reason):
    (cell,) = grid("copy-paste", picture="10", **parameters).cells
    assert reason in cell.reason and cell.picture is None and cell.outcome == cell.reason


def test_a_split_that_is_not_for_painting_is_told(made_set, grid):
    (cell,) = grid("copy-paste", picture="10", dataset=made_set.dataset | {"split": "val"}).cells
    assert cell.reason == "select: other split"


def test_too_little_memory_is_a_reason_and_a_fault_of_the_program_is_not(grid, monkeypatch):
    def broken(*args):
        raise errors.pop()

    errors = [ZeroDivisionError(), MemoryError("too little memory"), ConnectionError("no network")]
    monkeypatch.setattr("lib.runs.grid.generate_pictures", broken)
    assert [grid("copy-paste", picture="10").cells[0].reason for _ in "12"] == ["no network", "too little memory"]
    with pytest.raises(ZeroDivisionError):
        grid("copy-paste", picture="10")


def test_an_unknown_preset_lists_the_known_ones_before_anything_is_read(tmp_path):
    parameters = check_parameters({"dataset": {"images": str(tmp_path / "nowhere")}, "workspace": str(tmp_path / "ws")})
    with pytest.raises(AugmentError, match=r"unknown preset 'nonesuch': known are .*copy-paste.*gligen-inpainting"):
        paint_grid({"copy-paste": parameters, "nonesuch": parameters})


# The close-up


def test_a_close_up_holds_what_was_painted_in_the_pictures_aspect():
    x0, y0, x1, y1 = close_window([(1000, 500, 1060, 580), (1100, 520, 1130, 560)], 1920, 1280)
    assert x0 <= 1000 and y0 <= 500 and x1 >= 1130 and y1 >= 580
    assert (x1 - x0) / (y1 - y0) == pytest.approx(1.5, rel=0.02) and x1 - x0 <= 2 * 130


def test_a_close_up_of_most_of_the_picture_is_none():
    assert close_window([(0, 0, 300, 10)], 320, 240) is None


def test_a_close_up_stays_in_the_picture():
    x0, y0, x1, y1 = close_window([(310, 230, 330, 250)], 320, 240)
    assert min(x0, y0) >= 0 and x1 <= 320 and y1 <= 240


# The sheet

BLUE, RED = (0, 0, 200), (200, 0, 0)


def plain(width=300, height=200, colour=BLUE):
    return np.full((height, width, 3), colour, np.uint8)


def made_grid(count=1, width=300, height=200, **more):
    fields = {"triple": "a × b × c", "picture": plain(width, height, RED), "focus": (0, 0, 30, 20), "places": 1}
    cells = [Cell(name=f"preset {i}", **(fields | more)) for i in range(count)]
    return Grid("a.png", plain(width, height), [("cat", (100, 50, 90, 90), True)], cells)


def extent(sheet, colour):
    """(left, top, right, bottom) of all pixels of a colour."""
    rows, columns = np.nonzero((np.asarray(sheet) == colour).all(axis=2))
    return columns.min(), rows.min(), columns.max() + 1, rows.max() + 1


def test_a_sheet_shows_the_source_with_its_boxes_and_the_painted_picture_beside_it():
    sheet = draw_grid(made_grid(), (300, 200))
    left, right = extent(sheet, BLUE), extent(sheet, RED)
    assert left[1] == right[1] and left[2] < right[0] and right[2] - right[0] == 300
    assert (np.asarray(sheet)[:, : left[2]] == colour_of("cat")).all(axis=2).any()


@pytest.mark.parametrize("size", [(1920, 1280), (40, 400), (400, 40), (60, 60)])
def test_pictures_keep_their_aspect_and_their_place(size):
    width, height = size
    made = made_grid(picture=plain(width, height, RED), focus=None)
    x0, y0, x1, y1 = extent(draw_grid(made), RED)
    assert (x1 - x0) / (y1 - y0) == pytest.approx(width / height, rel=0.03)
    assert max((x1 - x0) / 640, (y1 - y0) / 480) == 1


def test_only_new_labels_are_drawn_on_a_painted_picture():
    boxes = [("dog", (100, 50, 90, 90), True), ("cat", (10, 10, 30, 30), False)]
    sheet = np.asarray(draw_grid(made_grid(boxes=boxes)))
    right = sheet[:, sheet.shape[1] // 2 :]
    assert (right == colour_of("dog")).all(axis=2).any() and not (right == (190, 190, 190)).all(axis=2).any()


def test_a_reason_stands_in_its_cell():
    blank = np.asarray(draw_grid(made_grid(picture=None, reason="")))
    shown = np.asarray(draw_grid(made_grid(picture=None, reason="no model " * 40)))
    assert shown.shape == blank.shape and (shown != blank).any(axis=2).sum() > 1000


@pytest.mark.parametrize("count", [1, 3, 4, 8, 18])
def test_any_number_of_presets_fits(count):
    sheet, one = draw_grid(made_grid(count), (150, 100)), draw_grid(made_grid(1), (150, 100))
    assert sheet.width <= 2 * one.width and sheet.height >= one.height


def test_all_close_ups_show_one_place_where_that_is_close():
    picture = plain(300, 200, RED)
    picture[10:20, 10:20] = (0, 200, 0)
    near = made_grid(2, picture=picture)
    near = Grid(near.name, near.source, (), [near.cells[0], Cell(name="b", picture=picture, focus=(60, 40, 90, 60))])
    sheet = np.asarray(draw_grid(near, (300, 200)))
    green = [(part == (0, 200, 0)).all(axis=2).sum() for part in np.array_split(sheet, 3, axis=1)]
    assert green[0] == 0 and green[1] == green[2] > 300


@given(st.text(st.sampled_from("ab /-\n"), max_size=60), st.integers(1, 12))
def test_wrapping_loses_nothing_and_fits(text, most):
    lines = wrapped(text, len, most)
    assert all(len(line) <= most for line in lines)
    assert "".join("".join(lines).split()) == "".join(text.split())


def test_words_are_broken_only_where_they_must_be():
    assert wrapped("one two three/four/five six", len, 8) == ["one two", "three/fo", "ur/five", "six"]


@pytest.mark.parametrize(("name", "kind"), [("a.png", "PNG"), ("b.jpg", "JPEG"), ("c.JPEG", "JPEG")])
def test_a_sheet_is_written_as_its_name_says(tmp_path, name, kind):
    sheet = draw_grid(made_grid(), (150, 100))
    write_sheet(sheet, tmp_path / name)
    with Image.open(tmp_path / name) as read:
        assert (read.format, read.size) == (kind, sheet.size)


@pytest.mark.parametrize("name", ["a.gif", "a", ".png.txt"])
def test_another_format_is_refused(name):
    with pytest.raises(AugmentError, match=r"\.png, \.jpg, \.jpeg"):
        sheet_format(Path(name))


# The command


@pytest.fixture
def mine(made_set, tmp_path, monkeypatch):
    """A file with parameters, in the folder one stands in."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cli.OUT, "width", 500)
    dataset = f"{{images: {made_set.images}, annotations: {made_set.annotations}}}"
    path = tmp_path / "mine.yaml"
    path.write_text(f"dataset: {dataset}\npreset: loco-gligen\npainter: {{steps: 3}}\nmodels: mini\n")
    return path


def test_the_command_writes_the_sheet_into_the_workspace_and_tells_of_each_preset(capsys, mine, tmp_path):
    assert cli.main(["grid", "mine.yaml", "--presets", "copy-paste, loco-sdxl"]) == 0
    out, path = capsys.readouterr().out, tmp_path / "data" / "runs" / "mine" / "grid.jpg"
    rows = {line.split("│")[1].strip(): line for line in out.splitlines() if "×" in line and "│" in line}
    assert "replace × copy-paste × feather" in rows["copy-paste"] and "painted" in rows["copy-paste"]
    assert "mini has no model for 'sdxl-inpaint'" in rows["loco-sdxl"]
    assert str(path) in out and Image.open(path).format == "JPEG"


def test_members_of_the_run_file_are_for_its_own_preset_and_those_of_set_for_all(capsys, mine, monkeypatch):
    def checked(runs, picture, watch):
        chosen = {name: parameters.painter and parameters.painter.values for name, parameters in runs.items()}
        assert chosen == {"loco-gligen": {"steps": 3, "model": "m"}, "gligen-inpainting": {"model": "m"}}
        assert all(parameters.models == "mini" and parameters.edit is None for parameters in runs.values())
        raise AugmentError("as it should")

    monkeypatch.setattr(lib.runs.grid, "paint_grid", checked)
    presets = ["--presets", "loco-gligen,gligen-inpainting"]
    assert "as it should" in failed(capsys, "grid", "mine.yaml", *presets, "--set", "painter.model=m")


def test_a_value_that_a_preset_has_no_use_for_is_the_reason_in_its_cell(capsys, mine, inpaint, tmp_path):
    options = ["--set", f"painter.model={inpaint}", "--set", "caption.captioner=template", "--out", "a.png"]
    assert cli.main(["grid", "mine.yaml", "--presets", "copy-paste,loco-gligen", "--picture", "10", *options]) == 0
    out = capsys.readouterr().out
    assert "painter 'copy-paste', setting 'model'" in out and "1 place, painted" in out
    assert Image.open(tmp_path / "a.png").format == "PNG"


def test_where_no_preset_gives_a_picture_the_sheet_still_says_why(capsys, mine, tmp_path):
    assert (
        cli.main(["grid", "mine.yaml", "--presets", "loco-sdxl,replace-sd2", "--picture", "10", "--out", "a.png"]) == 1
    )
    assert "mini has no model" in capsys.readouterr().out and (tmp_path / "a.png").is_file()


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--presets", "copy-paste,nonesuch"], "unknown preset 'nonesuch': known are"),
        (["--presets", " ,"], "expected names"),
        (["--presets", "copy-paste", "--picture", "nonesuch"], "such as picture 000.png"),
        (["--presets", "copy-paste", "--out", "a.gif"], "a sheet is a PNG or a JPEG"),
        (["--presets", "copy-paste", "--set", "seed=x"], "parameter 'seed'"),
    ],
)
def test_wrong_arguments_are_one_sentence(capsys, mine, arguments, reason):
    assert reason in failed(capsys, "grid", "mine.yaml", *arguments)


def test_a_path_from_here_is_a_picture(mine, made_set, tmp_path):
    wanted = (made_set.images / "picture 004.png").relative_to(tmp_path)
    assert cli.main(["grid", "mine.yaml", "--presets", "copy-paste", "--picture", str(wanted)]) == 0


def test_it_needs_no_prefect(mine):
    code = "import sys; from flows import cli; cli.main(sys.argv[1:]); print({'prefect', 'torch'} & set(sys.modules))"
    command = [sys.executable, "-c", code, "grid", str(mine), "--presets", "copy-paste"]
    env = {"PATH": "", "PYTHONPATH": str(cli.CHECKOUT)}
    process = subprocess.run(command, capture_output=True, text=True, check=True, env=env)
    assert process.stdout.splitlines()[-1] == "set()"
