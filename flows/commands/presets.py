"""The command presets."""

from __future__ import annotations

import argparse
import json

from rich.table import Table

from flows.commands.console import print_table


class Presets:
    """Tables of the presets and of the members that they are made of."""

    HELP = "the presets: triple, checkpoints, licences"

    @staticmethod
    def arguments(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--json", action="store_true", help="print JSON")

    @staticmethod
    def run(options: argparse.Namespace) -> int:
        from lib.runs.listing import member_rows, model_rows, preset_rows

        if options.json:
            lists = {"presets": preset_rows(), "members": member_rows(), "models": model_rows()}
            print(json.dumps(lists, indent=2, ensure_ascii=False))
            return 0
        for rows in (preset_rows(), member_rows(), model_rows()):
            table = Table(show_lines=True)
            for place, column in enumerate(rows[0]):
                table.add_column(_HEADERS.get(column, column), overflow="fold", no_wrap=place == 0)
            for row in rows:
                table.add_row(*row.values())
            print_table(table)
        return 0


_HEADERS = {"replaces": "system it follows"}
