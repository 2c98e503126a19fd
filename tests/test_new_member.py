"""What one must write to add a metric: one file and one line in the registry. All the rest follows."""

import sys
import textwrap

import numpy as np
import pytest
from PIL import Image

from flows import cli
from lib.evaluation.evaluate import evaluate
from lib.evaluation.metrics import METRICS
from lib.evaluation.report import write_report
from lib.evaluation.results import read_result, summary, write_json

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
def greyness(tmp_path, monkeypatch):
    """The file, and the line."""
    (tmp_path / "greyness.py").write_text(textwrap.dedent(GREYNESS))
    monkeypatch.syspath_prepend(tmp_path)
    with METRICS.adding("greyness-metric", "greyness:Greyness"):
        yield
    sys.modules.pop("greyness", None)


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
    text = " ".join(capsys.readouterr().out.replace("-\n", "-").split())
    assert all(name in text for family in (METRICS, EXTRACTORS, FORMATS) for name in family)
