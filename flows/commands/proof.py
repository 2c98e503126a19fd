"""Commands that train detectors: prove, advise."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

from flows.commands import connection
from flows.commands.console import ERR, OUT, add_quiet, make_table, print_places, print_result, print_table
from flows.commands.evaluation import STDOUT
from flows.commands.values import add_parameters, add_set, check_places, load_parameters, parameters_of, path, set_value
from flows.commands.workspace import print_account
from lib.core.errors import AugmentError


class Prove:
    """The flow prove, with bars."""

    HELP = "does a detector gain? a deployment of prefect.yaml, or a YAML file"

    @staticmethod
    def arguments(parser: argparse.ArgumentParser) -> None:
        add_parameters(parser, "seeds=4")
        parser.add_argument(
            "--quick",
            action="store_true",
            help="the whole path in minutes: few pictures, steps and seeds; a workspace of its own; can show nothing",
        )
        add_quiet(parser, "the path of the report")

    @staticmethod
    def run(options: argparse.Namespace) -> int:
        values, name = parameters_of(options, "prove")
        from lib.proof.settings import check_proof, quick
        from lib.runs.account import read_account

        if options.quick:
            check_proof(values)  # `quick` merges what has been checked
            values = quick(values) | {"workspace": f"{values['workspace']}-quick"}
        settings = check_proof(values)
        connection.run_flow("prove", name, values)
        workspace = Path(settings.workspace or ".").absolute()
        print_account(read_account(workspace / "status.json"))
        result = workspace / "proof.json"
        report = workspace / "report.html"
        print_places({"result": result, "report": report} if report.exists() else {"result": result})
        OUT.print(json.loads(result.read_bytes())["headline"], markup=False)
        print_result(report if report.exists() else result)
        return 0


class Advise:
    """The flow advise, with bars: 0 whatever the answer is."""

    HELP = "is painting likely to pay, of what and how much? of a folder, a YAML file or a deployment"

    @staticmethod
    def arguments(parser: argparse.ArgumentParser) -> None:
        parser.add_argument(
            "what",
            metavar="WHAT",
            help="a folder of pictures with annotations, a YAML file with `dataset`, a deployment of prove or augment",
        )
        add_set(parser, "one parameter, as YAML: folds.count=5")
        parser.add_argument("--quick", action="store_true", help="a look in minutes: two folds, few steps; a hint")
        parser.add_argument("--out", type=path, metavar="FOLDER", help="default data/runs/NAME-advice")
        parser.add_argument(
            "--json", type=path, metavar="FILE", help="write advice.json there as well; -: print it, and nothing else"
        )
        add_quiet(parser, "the path of advice.yaml, which `augment run` takes")

    @staticmethod
    def run(options: argparse.Namespace) -> int:
        file = options.json.absolute() if options.json and options.json != STDOUT else None
        OUT.quiet = OUT.quiet or options.json == STDOUT
        out = options.out.absolute() if options.out else None
        check_places(file, folder=out)
        values, name = _advice_values(options, out)
        from lib.proof.advising import check_advice

        settings = check_advice(values)
        if options.quick and not options.quiet:
            _print_quick(settings)
        connection.run_flow("advise", name, values)
        workspace = Path(settings.workspace or ".").absolute()
        data = (workspace / "advice.json").read_bytes()
        if file:
            from lib.core.files import atomic_write

            atomic_write(file, data)
        _print_advice(json.loads(data), workspace)
        if options.json == STDOUT:
            print(data.decode(), end="")
        else:
            print_result(workspace / "advice.yaml")
        return 0


def _advice_values(options: argparse.Namespace, out: Path | None) -> tuple[dict[str, Any], str]:
    """(parameters of the flow advise, name); goes to the folder that relative paths start from."""
    from lib.proof.advising import advice_values

    if os.path.isdir(options.what):  # noqa: PTH112  # Path raises for a name that is too long for a file
        from lib.datasets.find import find_dataset

        folder = Path(options.what).absolute()
        values: dict[str, Any] = {"dataset": find_dataset(folder).model_dump(mode="json")}
        name, base = folder.name, Path.cwd()
    else:
        values, name, base = load_parameters(options.what, "prove", ("augment",))
    for assignment in options.set:
        set_value(values, assignment)
    values = advice_values({key: value for key, value in values.items() if key != "workspace"})
    suffix = "-quick" if options.quick else ""
    values["workspace"] = str(out or Path("data/runs") / f"{name}-advice{suffix}")
    if options.quick:
        values["quick"] = True
    if not isinstance(values.get("dataset"), dict):
        raise AugmentError(f"{options.what} names no dataset: expected `dataset: {{images: …, annotations: …}}`")
    os.chdir(base)
    return values, name


def _print_quick(settings: Any) -> None:
    ERR.print(
        f"a quick look: {settings.folds.count} folds, {settings.folds.curve} points of the learning curve, "
        f"{settings.schedule.steps} steps a training, no copy-paste: a hint, no more"
    )


def _print_advice(document: dict[str, Any], workspace: Path) -> None:
    """The answer first, what cannot be trusted, why, how many boxes of which class, and where it all lies."""
    advice = document["advice"]
    OUT.print(document["sentence"], markup=False)
    for line in advice["cautions"]:
        OUT.print(f"  not to be trusted: {line}", markup=False)
    for one in advice["reasons"]:
        OUT.print(f"  {one['speaks']}: {one['text']}", markup=False)
    for one in advice["edits"]:
        OUT.print(f"  {'fits' if one['fits'] else 'does not fit'}: {one['text']}", markup=False)
    table = make_table(("class", "boxes", "new boxes", "why"), right=("boxes", "new boxes"))
    for one in advice["classes"]:
        table.add_row(one["name"], str(one["boxes"]), str(one["new_boxes"]), one["why"])
    print_table(table)
    OUT.print(f"based on {advice['basis']}", markup=False)
    files = {"run": "advice.yaml", "numbers": "advice.json", "page": "advice.html"}
    print_places({name: workspace / file for name, file in files.items()})
