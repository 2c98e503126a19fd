"""What no file and no request can hold is refused as a setting, by its name, whatever fields there are."""

from __future__ import annotations

import itertools
import json
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Union, get_args, get_origin

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from flows import cli
from flows.commands import connection, values
from lib.captioning.captioners import CAPTIONERS
from lib.core.errors import AugmentError, checked
from lib.core.values import LONGEST_NAME, LONGEST_PATH, Storable, check_value
from lib.evaluation.detectors import DETECTORS
from lib.evaluation.features import EXTRACTORS
from lib.evaluation.metrics import METRICS
from lib.painting.composites import COMPOSITES
from lib.painting.painters import PAINTERS
from lib.planning.edits import EDITS
from lib.records.settings import CompareSettings, TrainSettings
from lib.runs.parameters import Parameters, check_parameters
from lib.training import TRAINERS

FAMILIES = (EDITS, PAINTERS, COMPOSITES, CAPTIONERS, METRICS, EXTRACTORS, DETECTORS)
MEMBERS = [family[name].Settings for family in FAMILIES for name in family]
MODELS = [Parameters, TrainSettings, CompareSettings, *MEMBERS, *(TRAINERS[name].Settings for name in TRAINERS)]

TEXTS = ("a\0b", "\0", "\ud800", "a\udcff")
NUMBERS = (float("inf"), float("-inf"), float("nan"), 10**400, -(10**400))
PATHS = ("", " ", "x" * (LONGEST_NAME + 1), "é" * (LONGEST_NAME // 2 + 1), "a/" * (LONGEST_PATH // 2 + 1))


def kinds(annotation: Any) -> Iterator[Any]:
    """The types that a value may have, those in lists and of several alternatives too."""
    if get_origin(annotation) in (Union, types.UnionType):
        yield from itertools.chain.from_iterable(map(kinds, get_args(annotation)))
    else:
        yield annotation


def fields(model: type[BaseModel], before: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], list[Any]]]:
    """Every field of a model and of the models in it: its place, and the types that it takes."""
    for name, field in model.model_fields.items():
        place, types = (*before, name), list(kinds(field.annotation))
        yield place, types
        for inner in types:
            if isinstance(inner, type) and issubclass(inner, BaseModel):
                yield from fields(inner, place)


PLACES = [(model, place, types) for model in MODELS for place, types in fields(model)]
IDS = [f"{model.__qualname__}.{'.'.join(place)}" for model, place, _ in PLACES]


def bad_values(types: list[Any]) -> list[Any]:
    """What each type must not be, as itself and, where lists or mappings are taken, within."""
    found: list[Any] = [*TEXTS, *NUMBERS]
    if Path in types:
        found += PATHS
    if {int, float} & set(types):
        found += ["", "inf", "1e999"] + ([] if float in types else [10**30, "9" * 30])
    if any(get_origin(kind) in (list, tuple) for kind in types):
        found += [[value] for value in found]
    if any(get_origin(kind) is dict or (isinstance(kind, type) and issubclass(kind, BaseModel)) for kind in types):
        found += [{"x": value} for value in found] + [{"\0": 1}]
    return found


def put(place: tuple[str, ...], value: Any) -> dict[str, Any]:
    for name in reversed(place):
        value = {name: value}
    return value


@pytest.mark.parametrize(("model", "place", "types"), PLACES, ids=IDS)
def test_what_cannot_be_stored_is_refused_by_the_name_of_its_setting(
    model: type[BaseModel], place: tuple[str, ...], types: list[Any]
) -> None:
    for value in bad_values(types):
        given = put(place, value)
        if "dataset" in model.model_fields and place != ("dataset",):
            given["dataset"] = {"images": "p", **given.get("dataset", {})}
        with pytest.raises(AugmentError) as caught:
            checked(model, {"real": "a", "generated": "b", **given} if model is CompareSettings else given)
        text = str(caught.value)
        assert ".".join(place) in text and len(text) < 3000, value
        text.encode()  # it can be printed


def test_every_model_of_settings_is_held_to_it() -> None:
    missing = [model for model in MODELS if not issubclass(model, Storable)]
    assert missing == [] and len(PLACES) > 150


storable = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63) + 1, 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc"), inner, max_size=3),
)
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
)


@given(storable)
def test_what_json_can_hold_is_taken_as_it_is(value: Any) -> None:
    assert check_value(value) is value
    json.dumps(value, allow_nan=False, ensure_ascii=False).encode()


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(st.sampled_from(sorted(Parameters.model_fields)), anything, max_size=4))
def test_any_parameters_are_taken_and_can_be_written_or_are_refused_in_a_sentence(values: dict[str, Any]) -> None:
    try:
        given = check_parameters({"dataset": {"images": "p"}, **values})
    except AugmentError as error:
        str(error).encode()
        assert "\n" not in str(error)
    else:
        given.model_dump_json().encode()


def test_values_in_values_without_end_are_refused() -> None:
    value: Any = 1
    for _ in range(100_000):
        value = [value]
    with pytest.raises(AugmentError, match=r"caption\.rules"):
        check_parameters({"dataset": {"images": "p"}, "caption": {"rules": {"x": value}}})


# --- the command line --------------------------------------------------------------------------------------------

COMMANDS = (["run"], ["train"], ["grid", "--presets", "copy-paste"], ["status"], ["notify"])
ARGUMENTS = (
    ["evaluate", "@", "b"],
    ["evaluate", "a", "@"],
    *(["evaluate", "a", "b", option, "@"] for option in ("--boxes", "--cache", "--json", "--report", "--beside")),
    ["fidelity", "@"],
    *(["fidelity", "a", option, "@"] for option in ("--real", "--json")),
    ["measure", "--models", "@"],
    ["measure", "defects", "--data", "@"],
    ["grid", "demo", "--presets", "copy-paste", "--out", "@"],
)


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
@pytest.mark.parametrize("text", [*TEXTS, "x" * 5000], ids=ascii)
def test_a_command_refuses_a_name_that_no_file_can_have(
    capsys: Any, monkeypatch: Any, tmp_path: Path, command: list[str], text: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("flows.events.notify", lambda name: pytest.fail("too late"), raising=True)
    if command == ["notify"] and len(text) == 5000:
        return
    assert cli.main([*command, text]) == 1
    error = capsys.readouterr().err
    assert error.startswith("augment: ") and error.count("\n") == 1 and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("arguments", ARGUMENTS, ids=" ".join)
@pytest.mark.parametrize("text", [*TEXTS, *PATHS], ids=lambda text: ascii(text[:8]))
def test_an_argument_that_is_not_a_path_is_refused_by_its_name(
    capsys: Any, monkeypatch: Any, tmp_path: Path, arguments: list[str], text: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as end:
        cli.main([text if argument == "@" else argument for argument in arguments])
    error = capsys.readouterr().err.splitlines()[-1]
    assert end.value.code == 2 and "error: argument" in error and "expected" in error
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "assignment",
    [
        "workspace=''",
        'workspace="a\\0b"',
        "dataset.images=''",
        "select.min_box=.inf",
        "select.min_box_area=.nan",
        "seed=.inf",
        "painter.blend=.nan",
        "workspace=" + "x" * 300,
        "seed=" + "9" * 300,
        "seed=" + "[" * 50_000,
        "select.categories=[&a [*a]]",
        "a." * 5000 + "b=1",
    ],
    ids=lambda text: text[:24],
)
def test_a_value_that_cannot_be_stored_is_refused_before_anything_starts(
    capsys: Any, monkeypatch: Any, tmp_path: Path, assignment: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(connection, "prepare_prefect", lambda: pytest.fail("too late"))
    (tmp_path / "mine.yaml").write_text("dataset: {images: p}\npainter: copy-paste")
    assert cli.main(["run", "mine.yaml", "--set", assignment]) == 1
    error = capsys.readouterr().err
    assert error.startswith("augment: ") and error.count("\n") == 1 and len(error) < 1000
    assert assignment.split("=")[0].split(".")[0] in error
    assert [path.name for path in tmp_path.iterdir()] == ["mine.yaml"]


@pytest.mark.parametrize(
    "text",
    ["[" * 50_000, "dataset: &a {images: *a}", "dataset: {images: p}\nworkspace: ''", "dataset: {images: p}\n1: 2"],
    ids=lambda text: text[:24],
)
def test_a_file_of_parameters_that_is_made_to_end_a_run_is_one_sentence(
    capsys: Any, monkeypatch: Any, tmp_path: Path, text: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(connection, "prepare_prefect", lambda: pytest.fail("too late"))
    (tmp_path / "mine.yaml").write_text(text)
    assert cli.main(["run", "mine.yaml"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("augment: ") and error.count("\n") == 1


@pytest.mark.parametrize("text", ["- 1", "deployments: 5", "deployments: [5]", "deployments: [{name: x}]", "[" * 99999])
def test_a_prefect_yaml_that_is_damaged_is_one_sentence(
    capsys: Any, monkeypatch: Any, tmp_path: Path, text: str
) -> None:
    monkeypatch.setattr(values, "CHECKOUT", tmp_path)
    (tmp_path / "prefect.yaml").write_text(text)
    assert cli.main(["run", "demo"]) == 1
    error = capsys.readouterr().err
    assert "prefect.yaml" in error and error.count("\n") == 1
