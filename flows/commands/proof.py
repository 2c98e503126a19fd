"""Commands that prove: prove."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from flows.commands import connection
from flows.commands.console import OUT, add_quiet, print_places, print_result
from flows.commands.values import add_parameters, parameters_of
from flows.commands.workspace import print_account


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
