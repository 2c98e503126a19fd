"""Values that arguments give: paths, lists of names, parameters of a deployment or a YAML file, `--set a.b=value`."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flows.commands import CHECKOUT
from lib.core.errors import AugmentError, nearest
from lib.core.storage import unwritable

# os.path instead of Path for what a person typed: Path raises for a name that is too long for a file.


def path(text: str) -> Path:
    """An argument that is a path; for another, argparse prints the error with the argument's name."""
    from lib.core.values import check_path

    try:
        return check_path(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{error} (got {text!r:.200})") from None


def place(text: str) -> Path:
    """A path or a URL that a person typed, as the path of its working copy; raises AugmentError for another."""
    from lib.core.places import place_of

    try:
        return Path(str(place_of(text)))
    except ValueError as error:
        raise AugmentError(f"{text}: {error}") from None


def check_texts(options: argparse.Namespace) -> None:
    """Raises AugmentError for a text that no file and no request could hold."""
    from lib.core.values import check_text

    for name, value in vars(options).items():
        for text in value if isinstance(value, list) else [value]:
            try:
                check_text(text if isinstance(text, str) else "")
            except ValueError as error:
                raise AugmentError(f"argument {name} {text!r:.200}: {error}") from None


def check_places(*files: Path | None, folder: Path | None = None, inputs: Sequence[Path | None] = ()) -> None:
    """Raises AugmentError, before hours of work, where these cannot be written, or are inputs; makes their folders."""
    for file in filter(None, files):
        for read in filter(None, inputs):
            if file.is_file() and read.is_file() and file.samefile(read):
                raise AugmentError(f"{file} is what is to be read: name another file to write")
        if file.is_dir():
            raise AugmentError(f"{file} is a folder: expected the name of a file")
    for place in [*(file.parent for file in files if file), *filter(None, [folder])]:
        if fault := unwritable(place):
            what = "written" if place.is_dir() else "made"
            setting = " with --cache" if place == folder else ""
            raise AugmentError(f"folder {place} cannot be {what} ({fault}): name another one{setting}")


def names(listed: str, example: str) -> list[str]:
    """The names of a list with commas; raises AugmentError where there are none."""
    found = [name.strip() for name in listed.split(",") if name.strip()]
    if not found:
        raise AugmentError(f"{listed!r} names nothing: expected names, such as {example}")
    return found


# Parameters of a flow


def add_parameters(parser: argparse.ArgumentParser, example: str) -> None:
    """The arguments that `parameters_of` reads."""
    parser.add_argument("what", metavar="NAME_OR_FILE")
    add_set(parser, f"one parameter, as YAML: {example}")


def add_set(parser: argparse.ArgumentParser, text: str) -> None:
    """The option --set, which may be repeated. text: its help."""
    parser.add_argument("--set", action="append", default=[], metavar="a.b=value", help=text)


def parameters_of(options: argparse.Namespace, flow: str) -> tuple[dict[str, Any], str]:
    """(parameters, name) as the arguments give them; goes to the folder that relative paths start from."""
    values, name, base = load_parameters(options.what, flow)
    assign(values, options.set, name)
    os.chdir(base)
    return values, name


def assign(values: dict[str, Any], assignments: Sequence[str], name: str) -> None:
    """Put what --set gives into the parameters of the run NAME, and the workspace where it has none."""
    for assignment in assignments:
        set_value(values, assignment)
    values.setdefault("workspace", str(Path("data/runs") / name))


_START = {  # how a deployment starts, by its flow
    "augment": "augment run {}",
    "train": "augment train {}",
    "prove": "augment prove {}",
    "evaluate": "prefect deployment run evaluate/{}",
}


def load_parameters(what: str, flow: str | None = None, others: Sequence[str] = ()) -> tuple[dict[str, Any], str, Path]:
    """(parameters, name, folder that relative paths start from) of a deployment or a YAML file.

    flow: the one that it must be a deployment of; others: flows whose deployments will do as well.
    """
    file = Path(what)
    if file.suffix in (".yaml", ".yml") or os.path.isfile(file):  # noqa: PTH113
        return _read_yaml(file), file.stem, Path.cwd()
    # Several flows may use a name: one that will do comes after others, and that of this flow last.
    rank = {**dict.fromkeys(others, 1), flow or "augment": 2}
    ordered = sorted(_deployments(), key=lambda one: rank.get(_flow_of(one), 0))
    deployments = {f"{_flow_of(one)}/{one['name']}": one for one in ordered}
    deployments |= {one["name"]: one for one in ordered}
    if what not in deployments:
        known = ", ".join(sorted(_listed(ordered)))
        raise AugmentError(
            f"unknown deployment {what!r}{nearest(what, deployments)}: known are {known}; or give a YAML file"
        )
    chosen = deployments[what]
    own, name = _flow_of(chosen), chosen["name"]
    if flow not in (None, own) and own not in others:
        raise AugmentError(f"deployment {what!r} belongs to the flow {own}: {_START[own].format(name)}")
    return dict(chosen["parameters"]), name, CHECKOUT


def deployment_names() -> list[str]:
    """Names of the deployments in prefect.yaml, each once."""
    return list(dict.fromkeys(one["name"] for one in _deployments()))


def _flow_of(deployment: dict[str, Any]) -> str:
    return str(deployment["entrypoint"].rpartition(":")[2])


def _listed(deployments: Sequence[dict[str, Any]]) -> list[str]:
    """Their names; those that several flows use with the flow: augment/loco, evaluate/loco."""
    names = [one["name"] for one in deployments]
    return [one["name"] if names.count(one["name"]) == 1 else f"{_flow_of(one)}/{one['name']}" for one in deployments]


def _deployments() -> list[dict[str, Any]]:
    file = CHECKOUT / "prefect.yaml"
    found = _read_yaml(file).get("deployments")
    kinds = {"name": str, "entrypoint": str, "parameters": dict}
    for one in found if isinstance(found, list) else [None]:
        if not isinstance(one, dict) or not all(isinstance(one.get(key), kind) for key, kind in kinds.items()):
            raise AugmentError(f"{file} is damaged: expected `deployments`, each with {', '.join(kinds)}; restore it")
    assert isinstance(found, list)
    return found


def _read_yaml(file: Path) -> dict[str, Any]:
    from lib.core.documents import read_yaml

    if not os.path.lexists(file):
        raise AugmentError(f"{file} not found: give a YAML file with parameters, or a deployment's name")
    values = read_yaml(file, "give a YAML file with parameters")
    if not isinstance(values, dict) or not all(isinstance(name, str) for name in values):
        raise AugmentError(f"{file} holds no mapping: expected parameters such as 'dataset: {{images: …}}'")
    return values


def set_value(values: dict[str, Any], assignment: str) -> None:
    """Put `a.b=value` into nested parameters; the value is YAML."""
    from lib.core.documents import decode_yaml

    place, equals, text = assignment.partition("=")
    if not equals or not place:
        raise AugmentError(f"--set {assignment!r}: expected a.b=value, such as select.max_objects=6")
    *parents, last = place.split(".")
    for parent in parents:
        inner = values.get(parent)
        if not isinstance(inner, str | dict | None):
            raise AugmentError(f"--set {assignment!r}: {parent} is {inner!r}, which holds no values of its own")
        # A bare name is a member with its defaults: setting one of its values opens it up.
        values[parent] = {"name": inner} if isinstance(inner, str) else dict(inner or {})
        values = values[parent]
    values[last] = decode_yaml(text, f"--set {assignment!r:.200}: {text!r:.200}")
