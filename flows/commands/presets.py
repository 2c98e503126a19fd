"""The command presets."""

from __future__ import annotations

import argparse
import json
import textwrap
from collections.abc import Mapping, Sequence

from rich.table import Table
from rich.text import Text

from flows.commands.console import OUT, print_table


class Presets:
    """The presets, and tables of the members and models that they are made of."""

    HELP = "the presets: triple, checkpoints, licences"

    @staticmethod
    def arguments(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--json", action="store_true", help="print JSON")

    @staticmethod
    def run(options: argparse.Namespace) -> int:
        from lib.runs.listing import member_rows, model_rows, preset_rows

        presets, members, models = preset_rows(), member_rows(), model_rows()
        if options.json:
            print(json.dumps({"presets": presets, "members": members, "models": models}, indent=2, ensure_ascii=False))
            return 0
        if OUT.file.isatty():
            _print_blocks(presets)
        else:  # a line a preset, whatever its length
            _print_rows(presets)
        _print_rows(members)
        _print_rows(models)
        return 0


def _print_blocks(presets: Sequence[Mapping[str, str]]) -> None:
    """A few lines a preset: seven columns leave too little room for words on a terminal."""
    for row in presets:
        triple = " × ".join(row[name] for name in ("edit", "painter", "composite"))
        OUT.print(Text.assemble((row["preset"], "bold"), f"  {triple}"))
        for text in (row["about"], f"{_HEADERS['replaces']}: {row['replaces']}", f"checkpoints: {row['checkpoints']}"):
            OUT.print(textwrap.fill(text, OUT.width, initial_indent="    ", subsequent_indent="    "), markup=False)
        OUT.print()


def _print_rows(rows: Sequence[Mapping[str, str]]) -> None:
    table = Table(show_lines=True)
    for place, column in enumerate(rows[0]):
        table.add_column(_HEADERS.get(column, column), overflow="fold", no_wrap=place == 0)
    for row in rows:
        table.add_row(*row.values())
    print_table(table)


_HEADERS = {"replaces": "system it follows"}
