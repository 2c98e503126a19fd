"""What one must write to add a member of a family: one file and one line in its registry. All the rest follows."""

import importlib
import json
import re
import sys
import textwrap
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
import test_edits
import test_painters
import yaml
from PIL import Image

from flows import cli
from flows.commands import CHECKOUT, COMMANDS
from lib.core.errors import AugmentError
from lib.datasets.export import EXPORTERS
from lib.datasets.formats import FORMATS, read_dataset
from lib.evaluation.evaluate import evaluate
from lib.evaluation.metrics import METRICS
from lib.evaluation.report import write_report
from lib.evaluation.results import read_result, summary, write_json
from lib.painting.painters import PAINTERS
from lib.planning.edits import EDITS
from lib.planning.recipe import check_triple
from lib.records.settings import DatasetSettings
from lib.runs.account import write_account
from lib.training import TRAINERS
from lib.training.train import check_training, finished_model, train_model
from lib.training.windows import Things, TrainingPicture


@pytest.fixture
def add(tmp_path, monkeypatch):
    """add(family, name, attribute, source): the file NAME.py, and its line in the registry of the family."""
    folder = tmp_path / "members"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)
    with ExitStack() as lines:

        def one_file_and_one_line(family, name, attribute, source):
            (folder / f"{name}.py").write_text(textwrap.dedent(source))
            lines.enter_context(family.adding(name, f"{name}:{attribute}"))
            lines.callback(sys.modules.pop, name, None)

        yield one_file_and_one_line


# A metric

GREYNESS = '''
from lib.evaluation.metrics import Base, Details, Number, Table


class GreyDetails(Details):
    pictures: int


class Greyness(Base):
    """How grey generated pictures are."""

    OF, NEEDS, NOTE, MORE = "pictures", "", dict[str, dict[str, float]], GreyDetails
    NUMBERS = {"greyness": Number("Mean grey of pictures: low is good. It cannot tell why.", "lower", "grey levels")}

    def of_picture(self, picture):
        return {"numbers": {"greyness": float(picture.pixels.mean())}}

    def of_all(self, real, generated, names, seed):
        values = [note["numbers"]["greyness"] for note in generated.notes]
        return {"greyness": sum(values) / len(values), "greyness-metric": {"pictures": len(values)}}

    @staticmethod
    def summary(details):
        return [f"{details.pictures} pictures were held against grey"]

    @staticmethod
    def tables(details):
        return [Table("greyness, by nothing", ["all", "pictures"], [["all", details.pictures]])]
'''


@pytest.fixture
def greyness(add):
    """The file, and the line."""
    add(METRICS, "greyness-metric", "Greyness", GREYNESS)


@pytest.fixture
def folders(tmp_path):
    for name in ("real", "made"):
        (tmp_path / name).mkdir()
        for i in range(3):
            Image.fromarray(np.full((8, 8, 3), 40 * i, np.uint8)).save(tmp_path / name / f"{i}.png")
    return tmp_path / "real", tmp_path / "made"


def test_a_new_metric_is_in_the_result_the_summary_the_file_and_the_report(greyness, folders, tmp_path):
    result = evaluate(*folders, metrics=["greyness-metric"])
    assert result.numbers == {"greyness": 40}
    assert "greyness                40\n3 pictures were held against grey" in summary(result)
    write_json(result.document(), tmp_path / "metrics.json")
    assert read_result(tmp_path / "metrics.json") == result
    write_report({"mine": result}, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert "<tr title='lower is better, grey levels'><td class=n>greyness</td><td class=n>40</td>" in page
    assert "<h3>mine: greyness, by nothing</h3>" in page and "<td>all</td><td>3</td>" in page
    worst, best = page.split("mine: worst")[1].split("mine: best")[0], page.split("mine: worst")[1]
    assert worst.index("2.png: 80") < worst.index("0.png: 0") and "mine: best" not in best


def test_a_new_metric_is_in_the_help_of_the_command_line_and_can_be_called(greyness, folders, tmp_path, capsys):
    with pytest.raises(SystemExit):
        cli.main(["evaluate", "--help"])
    assert "greyness-metric" in capsys.readouterr().out
    known = [str(folder) for folder in folders]
    assert cli.main(["evaluate", *known, "--metrics", "greyness-metric", "--cache", str(tmp_path / "kept")]) == 0
    assert "greyness                40" in capsys.readouterr().out


def test_help_names_every_metric_extractor_and_format(capsys):
    from lib.datasets.formats import FORMATS
    from lib.evaluation.features import EXTRACTORS

    with pytest.raises(SystemExit):
        cli.main(["evaluate", "--help"])
    printed = " ".join(capsys.readouterr().out.replace("-\n", "-").split())
    assert all(name in printed for family in (METRICS, EXTRACTORS, FORMATS) for name in family)


# A painter, an edit and a format: each by itself, then together on the command line

GREY = """
from lib.core.registry import MemberSettings
from lib.painting.painters import Paint


class Grey:
    VERSION, EDITS, MODEL, LICENCE = 1, frozenset({"replace", "middle"}), None, "none needed"
    MAX_BOXES, READS_PHRASES, HAS_DECODER, NEEDS_DONOR, batch_size = None, False, False, False, 1

    class Settings(MemberSettings):
        level: int = 128

    def __init__(self, settings):
        self.settings = settings

    shape = staticmethod(lambda settings, width, height: (height, width))

    def paint(self, batch):
        return [Paint(item.canvas * 0 + self.settings.level) for item in batch]
"""

MIDDLE = """
from lib.planning.edits import Draft, Target, WindowSettings, nothing


class Middle:
    VERSION, WHOLE = 1, False

    class Settings(WindowSettings):
        inset: int = 4

    def __init__(self, settings):
        self.settings = settings

    def draft(self, scene):
        boxes = [box for box in scene.boxes if box.editable]
        targets = tuple(self._target(box) for box in boxes)
        return Draft(targets, (), (), "" if targets else nothing(scene))

    def _target(self, box):
        x0, y0, x1, y1 = (round(v) for v in box.xyxy)
        inset = self.settings.inset
        region = (min(x0 + inset, x1 - 1), min(y0 + inset, y1 - 1), x1, y1)
        return Target((region,), (box.xyxy,), (box.category,), "grey", about=(box.key,), redraws=(box.key,))
"""

LINES = """
import json

from lib.datasets.formats.coco import read_document
from lib.datasets.formats.tables import read_text


def read(settings):
    images, boxes = {}, []
    for line in read_text(settings.annotations).splitlines():
        name, *box = line.split(",")
        image = images.setdefault(name, {"id": len(images) + 1, "file_name": name, "width": 160, "height": 120})
        boxes.append({"id": len(boxes) + 1, "image_id": image["id"], "category_id": 1, "bbox": [int(v) for v in box]})
    document = {"images": list(images.values()), "annotations": boxes, "categories": [{"id": 1, "name": "thing"}]}
    return read_document(json.dumps(document).encode(), str(settings.annotations), settings)
"""


@pytest.fixture
def three(add):
    add(PAINTERS, "grey", "Grey", GREY)
    add(EDITS, "middle", "Middle", MIDDLE)
    add(FORMATS, "lines", "read", LINES)


@pytest.fixture
def labelled(made_set):
    """The parameters of a data set in the new format."""
    boxes = [(image["file_name"], 20, 30, 40, 50) for image in made_set.coco["images"]]
    file = made_set.folder / "boxes.txt"
    file.write_text("".join(f"{','.join(map(str, box))}\n" for box in boxes))
    return {"images": str(made_set.images), "annotations": str(file), "format": "lines"}


def test_a_new_painter_keeps_the_contract_is_listed_and_refuses_unknown_settings(three, capsys):
    test_painters.test_a_member_declares_what_plan_and_presets_need("grey")
    test_painters.test_a_bare_name_builds_without_anything_heavy("grey")
    test_painters.test_unknown_settings_are_refused_with_the_known_ones("grey")
    check_triple("replace", "grey", "feather")
    (image,) = test_painters.paint(PAINTERS.build(PAINTERS.member("grey", {"level": 7})), test_painters.item("grey"))
    assert image.shape == (64, 64, 3) and (image == 7).all()
    assert cli.main(["presets", "--json"]) == 0
    members = json.loads(capsys.readouterr().out)["members"]
    assert {
        "member": "painter grey",
        "serves": "middle, replace",
        "checkpoint": "none needed",
        "licence": "",
    } in members


def test_a_new_edit_keeps_the_contract_and_names_its_targets(three):
    test_edits.test_a_member_declares_what_plan_needs("middle")
    test_edits.test_some_painter_serves_it("middle")
    test_edits.test_without_boxes_there_is_a_reason_and_no_target("middle")
    with pytest.raises(AugmentError, match=r"edit 'middle', setting 'insets' is not known .do you mean 'inset'"):
        EDITS.member("middle", {"insets": 1})
    draft = test_edits.edit("middle", inset=9).draft(test_edits.scene_of(test_edits.make_box(5, 10, 20, 30, 40)))
    assert [target.region for target in draft.targets] == [((19, 29, 40, 60),)] and test_edits.redrawn(draft) == ["5"]


def test_a_new_format_is_read_by_its_name(three, labelled):
    dataset = read_dataset(DatasetSettings(**labelled))
    assert dataset.images["status"].to_pylist() == ["ok"] * 6 and dataset.objects.num_rows == 6
    assert dataset.objects["category"].to_pylist() == ["thing"] * 6
    with pytest.raises(AugmentError, match=r"unknown format 'line' .do you mean 'lines'"):
        read_dataset(DatasetSettings(**labelled | {"format": "line"}))


def test_new_painter_edit_and_format_paint_a_picture_from_the_command_line(three, labelled, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    chosen = {"edit": {"name": "middle", "inset": 0}, "painter": {"name": "grey", "level": 9}}
    values = {"dataset": labelled, "preset": "copy-paste", **chosen, "composite": "paste"}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(values))
    painted = []
    monkeypatch.setattr("lib.runs.sheet.draw_grid", lambda grid: painted.append(grid) or Image.new("RGB", (8, 8)))
    assert cli.main(["grid", "mine.yaml", "--presets", "copy-paste", "--quiet"]) == 0
    (cell,) = painted[0].cells
    assert cell.triple == "middle × grey × paste"
    assert (cell.picture[35:75, 25:55] == 9).all() and not (cell.picture == 9).all()


# A trainer

AVERAGE = """
import numpy as np
import torch
from safetensors.torch import save_file

from lib.training.loop import LoopSettings


class Average(torch.nn.Module):
    def __init__(self, pictures, weight):
        super().__init__()
        self.pictures, self.weight = pictures, weight
        self.level = torch.nn.Parameter(torch.zeros(1))

    def batch(self, rng, size, step):
        chosen = [self.pictures[i].pixels.mean() / 255 for i in rng.integers(len(self.pictures), size=size)]
        return {"levels": torch.tensor(np.array(chosen), dtype=torch.float32)}

    def forward(self, batch):
        return {"loss": self.weight * (batch["levels"] - self.level).square().mean()}

    def save(self, folder):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text("{}")
        save_file(self.state_dict(), folder / "model.safetensors")

    def sheet(self):
        return np.zeros((8, 8, 3), np.uint8)


class AverageTrainer:
    VERSION, NEEDS, DETAIL, ABOUT = 1, (), 1, "how bright pictures are"

    class Settings(LoopSettings):
        weight: float = 1

    @staticmethod
    def objective(settings, pictures, size, models, start, work):
        return Average(pictures, settings.weight)
"""


def test_a_new_trainer_is_a_choice_of_the_flow_and_leaves_a_model_with_its_card(add, tmp_path):
    add(TRAINERS, "average", "AverageTrainer", AVERAGE)
    chosen = {"dataset": {"images": "x"}, "models": ["average"], "settings": {"average": {"weight": 2}}}
    assert check_training(chosen).models == ["average"]
    with pytest.raises(AugmentError, match=r"setting 'wight' is not known .do you mean 'weight'"):
        check_training(chosen | {"settings": {"average": {"wight": 2}}})
    things = Things(np.array([[1.0, 1, 5, 5]]), ("thing",), ("a thing",))
    pictures = [TrainingPicture(np.full((8, 8, 3), level, np.uint8), "", things) for level in (100, 155)]
    settings = TRAINERS.settings("average", {"steps": 100, "batch": 4, "rate": 0.05, "warmup": 1, "precision": "no"})
    train_model("average", settings, pictures, 8, tmp_path / "models", tmp_path / "work", data="two")
    facts = finished_model("average", settings, 8, tmp_path / "models", data="two")
    assert facts is not None and facts["history"][-1]["loss"] < facts["history"][0]["loss"]
    assert "How bright pictures are" in (tmp_path / "models" / "average" / "README.md").read_text()


# An export format

LISTING = """
class Listing:
    ABOUT, USE, IGNORED, KEEPS_IGNORED, SPACES, ROLES = "a list", "cat {folder}/list.txt", "left out", False, True, {}

    @staticmethod
    def write(data, files):
        for split, picture in data.pictures():
            files.copy(picture, picture.name)
        lines = [f"{s} {p.name} {box.inside}" for s, p in data.pictures() for box in p.boxes]
        files.write("list.txt", "".join(f"{line}\\n" for line in lines))
"""


def test_a_new_export_format_is_in_the_help_counts_has_a_card_and_refuses_what_others_refuse(add, tmp_path, capsys):
    from test_finalise import Folder, redrawn

    add(EXPORTERS, "listing", "Listing", LISTING)
    folder = Folder(tmp_path)
    folder.add(1, "a.png", [10])
    folder.paint(1, redrawn(10))
    folder.finish()
    write_account(folder.root / "ws", {"run": "mine", "state": "completed", "stages": {}})
    out = tmp_path / "out"
    assert cli.main(["export", str(folder.root / "ws"), "--to", "listing", "--out", str(out), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["splits"]["train"]["boxes"] == 2 and result["use"] == f"cat {out}/list.txt"
    assert (out / "list.txt").read_text().startswith("train a.png (4.0, 5.0, 20.0, 10.0)\n")
    assert "# mine" in (out / "README.md").read_text()
    (out / "mine.txt").touch()
    assert cli.main(["export", str(folder.root / "ws"), "--to", "listing", "--out", str(out)]) == 1
    with pytest.raises(SystemExit):
        cli.main(["export", "--help"])
    assert "listing: a list" in " ".join(capsys.readouterr().out.split())


# A command

GREET = """
class Greet:
    HELP = "greet a person"

    @staticmethod
    def arguments(parser):
        parser.add_argument("name", choices=["Ada", "Grace"])

    @staticmethod
    def run(options):
        print(f"hello {options.name}")
        return 3
"""


def test_a_new_command_is_in_the_help_parses_its_arguments_runs_and_is_completed(add, capsys):
    add(COMMANDS, "greet", "Greet", GREET)
    assert cli.main(["greet", "Ada"]) == 3 and capsys.readouterr().out == "hello Ada\n"
    for arguments, expected in (
        (["--help"], "greet a person"),
        (["greet", "--help"], "usage: augment greet"),
        (["--print-completion", "bash"], "greet"),
        (["gret"], "unknown command 'gret' (do you mean 'greet'?)"),
        (["greet", "Adda"], "unknown choice 'Adda' (do you mean 'Ada'?)"),
    ):
        with pytest.raises(SystemExit):
            cli.main(arguments)
        assert expected in "".join(capsys.readouterr())


# Where each goes


def rows():
    """(folder or file, registry, file of the registry) of the table in docs/architecture.md."""
    table = (CHECKOUT / "docs" / "architecture.md").read_text().split("| to add | file in | its line in |")[1]
    for place, registry, where in re.findall(
        r"^\| an? [^|]+\|\s*([^|]*?)\s*\| `(\w+)`(?: in|,) ([^|]+) \|$", table, re.M
    ):
        folder = place or "lib/runs/"
        beside = {"there": f"{folder}__init__.py", "`__init__.py` there": f"{folder}__init__.py"}
        file = folder if folder.endswith(".py") and where == "there" else beside.get(where, where)
        yield folder, registry, file


def test_the_table_of_the_docs_names_every_family_and_where_its_lines_stand():
    found = {registry: (folder, file) for folder, registry, file in rows()}
    expected = {"FORMATS", "CAPTIONERS", "EDITS", "PAINTERS", "COMPOSITES", "METRICS", "EXTRACTORS", "DETECTORS"}
    assert found.keys() == expected | {"EXPORTERS", "JUDGES", "TRAINABLE", "TRAINERS", "PRESETS", "COMMANDS"}
    for registry, (folder, file) in found.items():
        assert (CHECKOUT / folder).exists(), registry
        module = importlib.import_module(file.removesuffix(".py").removesuffix("/__init__").replace("/", "."))
        family = getattr(module, registry)
        for target in [] if registry == "PRESETS" else family._members.values():
            source = Path(*target.partition(":")[0].split(".")).with_suffix(".py").as_posix()
            source = source if (CHECKOUT / source).is_file() else source.replace(".py", "/__init__.py")
            assert source.startswith(folder.removesuffix(".py")), target
            assert f'": "{target}"' in (CHECKOUT / file).read_text(), target
