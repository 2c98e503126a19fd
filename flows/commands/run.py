"""Commands that paint or train: run, train, grid."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.commands import connection
from flows.commands.console import ERR, OUT, add_quiet, bars, make_table, print_places, print_result, print_table
from flows.commands.values import add_parameters, assign, check_places, load_parameters, names, parameters_of, path
from flows.commands.workspace import print_account, print_outcome, print_verdict
from lib.core.errors import AugmentError

if TYPE_CHECKING:
    from lib.runs.dry_run import DryRun
    from lib.runs.grid import Grid as Painted
    from lib.runs.parameters import Parameters

_EXAMPLE = "select.max_objects=6"


class Run:
    """The flow augment, with bars, on the configured Prefect server, or on a temporary one where none answers."""

    HELP = "run the journey: a deployment of prefect.yaml, or a YAML file"

    @staticmethod
    def arguments(parser: argparse.ArgumentParser) -> None:
        add_parameters(parser, _EXAMPLE)
        parser.add_argument(
            "--verify",
            action="store_true",
            help="read every source picture and every file of the store and the final set again, and compare digests",
        )
        parser.add_argument(
            "--dry-run",
            action="store_true",
            help="print what would be painted, what left alone and why, bytes and time; nothing is written",
        )
        parser.add_argument("--json", action="store_true", help="print that as JSON (with --dry-run)")
        add_quiet(parser, "the folder of the final set")

    @staticmethod
    def run(options: argparse.Namespace) -> int:
        if options.json and not options.dry_run:
            raise AugmentError("--json goes with --dry-run; of a run that has ended: augment status RUN --json")
        values, name = parameters_of(options, "augment")
        if options.verify:
            values["verify"] = True
        from lib.runs.parameters import check_parameters

        parameters = check_parameters(values)
        if options.dry_run:
            return _dry_run(parameters, name, options.json)
        connection.run_flow("augment", name, values)
        return print_run(Path(parameters.workspace or ".").absolute())


def _dry_run(parameters: Parameters, name: str, as_json: bool) -> int:
    """What a run would do; 3 where it would paint less than it is asked for."""
    from lib.runs.dry_run import dry_run
    from lib.runs.outcome import LESS_THAN_ASKED

    with bars() as watch:
        plan = dry_run(parameters, Path("data/runs") / name, watch)
    if as_json:
        print(json.dumps(plan.document(), indent=2))
    else:
        _print_dry_run(plan)
    of_boxes = parameters.target is not None and not parameters.target.limit
    asked = 1 if parameters.limit is None or of_boxes else parameters.limit * parameters.variants
    return LESS_THAN_ASKED if plan.pictures < asked else 0


def _print_dry_run(plan: DryRun) -> None:
    from lib.core.words import in_words, size_in_words

    OUT.print(f"{plan.pictures} pictures would come out, {plan.new} of them new: {plan.recipe}")
    table = make_table(("what", "of which", "count"), "nothing is written", right=("count",))
    for category, count in plan.boxes.items():
        table.add_row("boxes painted", category, str(count))
    for category, count in plan.changed.items():
        table.add_row("other boxes, then covered in part", category, str(count))
    for stage, reasons in plan.left.items():
        for reason, count in reasons.items():
            table.add_row(f"set aside by {stage}", in_words(reason), str(count))
    for reason, count in plan.left_boxes.items():
        table.add_row("boxes left alone", in_words(reason), str(count))
    print_table(table)
    source = "as in the last run" if plan.measured else "a guess"
    OUT.print(f"about {size_in_words(plan.size)} on the disk, about {plan.seconds:.0f} s of painting ({source})")
    for note in plan.notes:
        OUT.print(f"note: {note}")


def print_run(workspace: Path) -> int:
    """What came of a run, what its stages did, where everything lies, and the verdict; returns the exit code."""
    from lib.runs.account import read_account
    from lib.runs.outcome import exit_code

    account = read_account(workspace / "status.json")
    code = exit_code(account)
    print_outcome(account, ERR if code else OUT)
    print_account(account)
    places = {
        "annotations": workspace / "final" / "annotations.json",
        "pictures": workspace / "final" / "images",
        "contact sheet": workspace / "contact_sheet.jpg",
        "drawn boxes": workspace / "drawn",
        "report": workspace / "report" / "index.html",
    }
    print_places({name: place for name, place in places.items() if place.exists()})
    print_verdict(account)
    print_result(workspace / "final")
    return code


class Train:
    """The flow train, in the same way."""

    HELP = "train models: a deployment of prefect.yaml, or a YAML file"

    @staticmethod
    def arguments(parser: argparse.ArgumentParser) -> None:
        add_parameters(parser, "settings.vae.steps=8000")
        add_quiet(parser, "the folder of the models")

    @staticmethod
    def run(options: argparse.Namespace) -> int:
        values, name = parameters_of(options, "train")
        from lib.runs.account import read_account
        from lib.training.train import check_training

        parameters = check_training(values)
        connection.run_flow("train", name, values)
        workspace = Path(parameters.workspace or ".").absolute()
        models = (parameters.output or workspace / "models").absolute()
        print_account(read_account(workspace / "status.json"))
        print_places({"models": models, "sheets": workspace / "sheets"})
        print_result(models)
        return 0


class Grid:
    """The sheet of one picture by several presets, without Prefect; 1 where none of them gave a picture."""

    HELP = "one picture painted by several presets, side by side, to choose one"

    @staticmethod
    def arguments(parser: argparse.ArgumentParser) -> None:
        add_parameters(parser, _EXAMPLE)
        parser.add_argument("--presets", required=True, metavar="a,b,c", help="`augment presets` lists them")
        parser.add_argument(
            "--picture",
            metavar="NAME_OR_KEY",
            help="file name, path or key; default: the first that the first preset edits",
        )
        parser.add_argument(
            "--out", type=path, metavar="FILE", help="a PNG or JPEG; default: grid.jpg in the workspace"
        )
        add_quiet(parser, "the path of the sheet")

    @staticmethod
    def run(options: argparse.Namespace) -> int:
        from lib.records.outputs import lies_in
        from lib.runs.grid import paint_grid
        from lib.runs.parameters import check_parameters
        from lib.runs.sheet import draw_grid, sheet_format, write_sheet

        # What is named from here, before relative paths start elsewhere.
        out = options.out and options.out.absolute()
        picture = options.picture
        if picture and Path(picture).name != picture and os.path.exists(picture):  # noqa: PTH110
            picture = str(Path(picture).absolute())
        if out:
            sheet_format(out)  # now, not after minutes of painting
            check_places(out)
        presets = names(options.presets, "copy-paste,gligen-inpainting")
        values, name, base = load_parameters(options.what, "augment")
        os.chdir(base)
        runs = {preset: check_parameters(_with_preset(values, preset, options.set, name)) for preset in presets}
        if out and out.exists() and lies_in(out, runs[presets[0]].dataset.images):
            raise AugmentError(f"--out {out} is there already, among the pictures of the data set: name another file")
        with bars() as watch:
            grid = paint_grid(runs, picture, watch)
        out = out or (runs[presets[0]].workspace or Path()).absolute() / "grid.jpg"
        write_sheet(draw_grid(grid), out)
        _print_grid(grid, out)
        return 0 if any(cell.picture is not None for cell in grid.cells) else 1


def _with_preset(values: dict[str, Any], preset: str, assignments: Sequence[str], name: str) -> dict[str, Any]:
    """The parameters with another preset; members that they choose belong to their own one, and stay behind."""
    own = values.get("preset") == preset
    chosen = {key: value for key, value in values.items() if own or key not in ("edit", "painter", "composite")}
    assign(chosen, assignments, name)
    return {**chosen, "preset": preset}


def _print_grid(grid: Painted, out: Path) -> None:
    table = make_table(("preset", "edit × painter × composite", "result", "seconds"), grid.name, right=("seconds",))
    for column in table.columns:
        column.overflow = "fold"
    for cell in grid.cells:
        table.add_row(cell.name, cell.triple, cell.outcome, f"{cell.seconds:.1f}")
        if OUT.quiet and cell.picture is None:  # an error, which the table would show
            ERR.print(f"augment: {cell.name}: {cell.outcome}")
    print_table(table)
    print_places({"sheet": out})
    print_result(out)
