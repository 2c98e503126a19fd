"""The commands of `augment`: one module a group, each command a class with its arguments beside what it does.

A new command is a class and its line in COMMANDS:

    class Status:
        HELP = "what the last run of a workspace did"               # its line in `augment --help`

        @staticmethod
        def arguments(parser: argparse.ArgumentParser) -> None: ... # adds them

        @staticmethod
        def run(options: argparse.Namespace) -> int: ...            # the exit code

Modules here import at their heads what starts quickly, and the rest inside of functions: parsing needs all of them.
argparse and not cyclopts, as importing cyclopts alone takes .24 s of the .4 s that a start may take, and the arguments
would need as many lines.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import ClassVar, Protocol

from lib.core.lazy import Registry

CHECKOUT = Path(__file__).resolve().parents[2]


class Command(Protocol):
    """What COMMANDS holds; all errors that a user can mend are raised as AugmentError."""

    HELP: ClassVar[str]

    @staticmethod
    def arguments(parser: argparse.ArgumentParser) -> None:
        """Add the command's arguments to its parser."""

    @staticmethod
    def run(options: argparse.Namespace) -> int:
        """Do it; returns the exit code."""


COMMANDS: Registry[type[Command]] = Registry(
    "command",
    {
        "run": "flows.commands.run:Run",
        "train": "flows.commands.run:Train",
        "grid": "flows.commands.run:Grid",
        "tune": "flows.commands.tune:Tune",
        "status": "flows.commands.workspace:Status",
        "open": "flows.commands.workspace:Open",
        "review": "flows.commands.review:Review",
        "tidy": "flows.commands.workspace:Tidy",
        "export": "flows.commands.workspace:Export",
        "presets": "flows.commands.presets:Presets",
        "prove": "flows.commands.proof:Prove",
        "advise": "flows.commands.proof:Advise",
        "evaluate": "flows.commands.evaluation:Evaluate",
        "fidelity": "flows.commands.evaluation:Fidelity",
        "measure": "flows.commands.evaluation:Measure",
        "notify": "flows.commands.datasets:Notify",
        "fetch": "flows.commands.datasets:Fetch",
    },
)
