"""Commands on source data sets: notify, fetch."""

from __future__ import annotations

import argparse

from flows.commands import CHECKOUT, connection
from flows.commands.console import OUT, bars
from flows.commands.values import deployment_names
from lib.core.errors import unknown


class Notify:
    """Emit `dataset.updated` for a deployment's data set."""

    HELP = "tell Prefect that a data set was updated"

    @staticmethod
    def arguments(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("name", metavar="NAME")

    @staticmethod
    def run(options: argparse.Namespace) -> int:
        if options.name not in (known := deployment_names()):
            raise unknown("deployment", options.name, known)
        with connection.trusted_settings():
            from flows.events import notify

            notify(options.name)
        OUT.print(f"dataset.updated sent for dataset.{options.name}")
        return 0


class Fetch:
    """Download a public data set."""

    HELP = "download a public data set into data/raw"

    @staticmethod
    def arguments(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("name", choices=["loco"])

    @staticmethod
    def run(options: argparse.Namespace) -> int:
        from lib.datasets.fetch import fetch_loco

        with bars() as watch:
            folder = fetch_loco(CHECKOUT / "data" / "raw" / "loco", lambda done, total: watch("fetch", done, total))
        OUT.print(f"LOCO lies in {folder}")
        return 0
