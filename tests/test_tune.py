"""tune: the search over settings, what it says, and a whole one on the demo set by a tiny model."""

from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from conftest import MadeSet
from tiny import tiny_gligen

from flows.cli import main
from lib.core.errors import AugmentError
from lib.painting.painters import PAINTERS
from lib.runs.parameters import Parameters, check_parameters
from lib.runs.tune import GUIDED, REUSE, Trial, Tuning, _Bench, _Search, tune
from lib.runs.workspace import locked

TEMPLATE = {"captioner": "template"}
CHOICES = {"guided": GUIDED, "reuse": REUSE}
OWN = {"scheduler": "pndm", "steps": 50, "guided": (0.0, 1.0), "reuse": 1}


@pytest.fixture(scope="module")
def inpaint(tmp_path_factory):
    return str(tiny_gligen(tmp_path_factory.mktemp("tiny") / "inpaint", inpaint=True))


def world(need):
    """An attempt of which `need(values)` of 100 boxes are accepted; its seconds are the U-Net's computations."""
    tried = []

    def attempt(values):
        tried.append(values)
        low, high = values["guided"]
        seconds = values["steps"] * (1 + high - low) / values["reuse"]
        return Trial(dict(values), seconds, {("a", i): i < need(values) for i in range(100)})

    return attempt, tried


def test_it_takes_the_fewest_steps_of_any_scheduler_that_hold():
    fewest = {"pndm": 30, "dpm++2m": 10, "unipc": 20, "ddim": 20}
    attempt, tried = world(lambda v: 90 if v["steps"] >= fewest[v["scheduler"]] and v["guided"] == (0, 1) else 50)
    best = _Search(attempt, attempt(OWN), 0.02, CHOICES).best()[0]
    assert (best.values["scheduler"], best.values["steps"], best.values["reuse"]) == ("dpm++2m", 10, 4)
    assert len(tried) < 25


def test_what_lies_within_the_margin_holds_and_what_lies_beyond_does_not():
    attempt, _ = world(lambda v: 90 - 2 * (v["steps"] < 50) - 2 * (v["guided"] != (0, 1)) - 2 * (v["reuse"] > 1))
    best = _Search(attempt, attempt(OWN), 0.02, CHOICES).best()[0]
    assert best.values == {**OWN, "steps": 5}
    assert _Search(attempt, attempt(OWN), 0.01, CHOICES).best()[0].values == OWN


def test_guidance_and_reuse_are_tried_with_the_best_steps():
    attempt, _ = world(lambda v: 90 if v["guided"][1] - v["guided"][0] >= 0.5 and v["reuse"] <= 2 else 10)
    best = _Search(attempt, attempt(OWN), 0.0, CHOICES).best()[0]
    assert best.values == {"scheduler": "pndm", "steps": 5, "guided": (0.0, 0.5), "reuse": 2}


def test_without_guidance_no_part_of_the_steps_is_guided():
    attempt, tried = world(lambda v: 90)
    _Search(attempt, attempt(OWN), 0.02, {"guided": (), "reuse": REUSE}).best()
    assert {v["guided"] for v in tried} == {(0.0, 1.0)}


def test_steps_of_a_scheduler_that_cannot_take_as_many_are_not_tried():
    attempt, tried = world(lambda v: 90)
    _Search(attempt, attempt({**OWN, "steps": 1000, "scheduler": "euler"}), 0.02, CHOICES).best()
    assert all(v["steps"] <= 900 for v in tried if v["scheduler"] == "unipc")


def tuning(own=90, chosen=88, **values):
    flags = [("a", i) for i in range(100)]
    first = Trial(dict(OWN), 40.0, {box: i < own for i, box in enumerate(flags)})
    second = Trial({**OWN, **values}, 10.0, {box: i < chosen for i, box in enumerate(flags)})
    given = check_parameters(
        {"dataset": {"images": "a", "annotations": "b"}, "painter": {"name": "gligen", "size": 64}}
    )
    return Tuning(given, "gligen", 0.02, [first, second], first, second if values else first, ["a note"])


def test_the_file_keeps_the_runs_parameters_and_adds_what_was_chosen():
    made = tuning(steps=10, guided=(0.0, 0.5))
    text = made.yaml()
    read = yaml.safe_load(text)
    assert read["painter"] == {"name": "gligen", "size": 64, "steps": 10, "guided": [0.0, 0.5]}
    assert read["dataset"]["images"] == "a"
    assert text.startswith("# 4.0 times as fast: pndm, 10 steps, guided from 0 to 0.5;")
    assert "# a note" in text
    assert isinstance(check_parameters(read), Parameters)


def test_the_difference_is_paired_and_has_an_interval():
    gain, low, high = tuning(steps=10).difference
    assert gain == pytest.approx(-0.02)
    assert low < gain < high <= 0


def test_it_says_where_nothing_is_cheaper():
    assert tuning().sentence == ("nothing cheaper is accepted as often, by a margin of 0.02: pndm, 50 steps stays")


def test_no_accepted_box_costs_no_number():
    assert Trial(dict(OWN), 3.0, {("a", 0): False}).per_accepted == np.inf


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"preset": "copy-paste"}, "painter 'copy-paste' has nothing to tune: expected one of gligen"),
        ({"painter": {"name": "gligen-inpaint", "model": "MODEL"}, "preset": "gligen-inpainting"}, "give --judge"),
        ({"preset": "gligen-inpainting", "models": "mini"}, "48 boxes would be painted: expected 64 at least"),
    ],
)
def test_what_cannot_be_tuned_is_refused(made_set, tmp_path, inpaint, values, said):
    if "painter" in values:
        values["painter"]["model"] = inpaint
    parameters = {"dataset": made_set.dataset, "screen": {"boxes": {"least": 1}}, "caption": TEMPLATE, **values}
    with pytest.raises(AugmentError, match=said):
        tune(check_parameters(parameters), tmp_path / "ws")


@pytest.mark.parametrize(
    ("name", "values", "reuses"),
    [("latentpaint", {}, []), ("vanilla", {"compile": True}, []), ("vanilla", {}, [4, 3, 2])],
)
def test_what_a_painter_does_not_take_is_not_tried(name, values, reuses):
    bench = object.__new__(_Bench)
    bench.member = PAINTERS.member(name, values)
    bench.painter = SimpleNamespace(settings=PAINTERS.settings(name, values))
    assert bench._possible("reuse", REUSE) == reuses
    assert bench._possible("guided", GUIDED) == list(GUIDED)


def test_a_workspace_that_a_run_holds_is_left_alone(made_set, tmp_path):
    given = check_parameters({"dataset": made_set.dataset, "preset": "gligen-inpainting", "models": "mini"})
    with locked(tmp_path, []), pytest.raises(AugmentError, match="in use"):
        tune(given, tmp_path)


def test_the_command_writes_what_augment_run_takes(tmp_path, inpaint, capsys, monkeypatch):
    """A tiny model without any training: the judge must be made to accept what it paints."""
    monkeypatch.setattr("lib.runs.tune.SCHEDULERS", ("dpm++2m",))
    monkeypatch.setattr("lib.runs.tune.REUSE", (2,))
    monkeypatch.setattr("lib.runs.tune.FEW", few := 8)
    made = MadeSet(tmp_path / "made", 10)
    file, workspace = tmp_path / "mine.yaml", tmp_path / "ws"
    painter = {"name": "gligen-inpaint", "model": inpaint, "size": 64, "steps": 6, "guidance": 1}
    values = {
        "dataset": made.dataset,
        "preset": "gligen-inpainting",
        "caption": TEMPLATE,
        "painter": painter,
        "workspace": str(workspace),
        "screen": {"boxes": {"judge": "mini:clip", "keep": 0, "drop": 0}},
    }
    file.write_text(yaml.safe_dump(values))
    assert main(["tune", str(file), "--boxes", str(few)]) == 0
    said = " ".join(capsys.readouterr().out.split())
    read = yaml.safe_load((workspace / "tuned.yaml").read_text())
    assert read["painter"].items() >= {**painter, "steps": 4}.items()
    assert {key: value for key, value in read.items() if key != "painter"} == {
        key: value for key, value in values.items() if key != "painter"
    }
    assert "times as fast: " in said
    assert f"{few} boxes a trial" in said
    assert [path.name for path in workspace.iterdir() if path.is_dir()] == []  # no trial's pictures are left
