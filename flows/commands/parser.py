"""The parser of the command line: argparse, with the nearest spelling of what is not known, and shell completion."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import Any

from flows.commands import COMMANDS
from flows.commands.values import path
from lib.core.errors import unknown


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The arguments of a command, checked; `function` runs it. Exits with 2 and the usage where they are wrong."""
    parser = make_parser()
    options = parser.parse_args(arguments)
    if "function" not in options:
        parser.error("the following arguments are required: COMMAND")
    return options


def make_parser() -> Parser:
    """The parser of all commands in COMMANDS."""
    parser = Parser(prog="augment", description="Grow labelled detection data sets.")
    parser.add_argument("--version", action=_Print, nargs=0, text=_version, help="print the version")
    parser.add_argument(
        "--print-completion",
        action=_Print,
        text=_completion,
        choices=("bash", "zsh"),
        help="print a script that completes commands, flags and choices",
    )
    # Not required here: a wrong flag before it would be reported as a missing command.
    commands = parser.add_subparsers(metavar="COMMAND")
    for name, command in COMMANDS.items():
        own = commands.add_parser(name, help=command.HELP, description=command.HELP, formatter_class=_Help)
        command.arguments(own)
        own.set_defaults(function=command.run)
    return parser


class Parser(argparse.ArgumentParser):
    """Errors name the nearest spelling of a command, flag or choice that is not known."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[Any, list[str]]:
        """As argparse does, but no unknown flag is left over."""
        options, rest = super().parse_known_args(args, namespace)
        for text in rest:
            if text.startswith("-"):
                flags = [flag for action in self._actions for flag in action.option_strings]
                self.error(str(unknown("option", text.partition("=")[0], flags)))
        return options, rest

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            kind = "command" if isinstance(action, argparse._SubParsersAction) else "choice"
            flag = f"argument {action.option_strings[0]}: " if action.option_strings else ""
            self.error(f"{flag}{unknown(kind, value, list(action.choices))}")


class _Help(argparse.HelpFormatter):
    """Fills in what the registries hold: `{metrics}` and the like, imported only where help is wanted."""

    def _get_help_string(self, action: argparse.Action) -> str:
        text = super()._get_help_string(action) or ""
        for name in ("metrics", "sets", "sample", "extractors", "formats", "exporters"):
            text = text.replace(f"{{{name}}}", _listed(name)) if f"{{{name}}}" in text else text
        return text


def _listed(family: str) -> str:
    """Names for a help text."""
    from lib.datasets.export import EXPORTERS
    from lib.datasets.formats import FORMATS
    from lib.evaluation.features import EXTRACTORS
    from lib.evaluation.metrics import listed
    from lib.records.settings import MEASURED, SAMPLE

    extractors = ", ".join(f"{name} ({EXTRACTORS[name].ABOUT})" for name in EXTRACTORS)
    exporters = "; ".join(f"{name}: {EXPORTERS[name].ABOUT}" for name in EXPORTERS)
    texts = {"metrics": listed(), "sets": ",".join(MEASURED), "extractors": extractors, "formats": ", ".join(FORMATS)}
    return (texts | {"exporters": exporters, "sample": str(SAMPLE)})[family]


class _Print(argparse.Action):
    """Prints what `text` makes of the parser and the value, and ends."""

    def __init__(self, *, text: Callable[[argparse.ArgumentParser, Any], str], **rest: Any) -> None:
        super().__init__(**rest)
        self.text = text

    def __call__(self, parser: argparse.ArgumentParser, namespace: Any, values: Any, option: Any = None) -> None:
        print(self.text(parser, values))
        parser.exit()


def _version(parser: argparse.ArgumentParser, value: Any) -> str:
    from importlib.metadata import version

    return f"{parser.prog} {version('augment')}"


def _completion(parser: argparse.ArgumentParser, shell: str) -> str:
    import shtab

    (commands,) = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    for own in commands.choices.values():
        for action in own._actions:
            if action.type is path:
                action.complete = shtab.FILE
    return shtab.complete(parser, shell)
