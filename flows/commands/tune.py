"""The command that looks for a painter's cheapest settings: tune."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from flows.commands.console import OUT, add_quiet, bars, make_table, print_places, print_result, print_table
from flows.commands.values import add_parameters, check_places, parameters_of, path

if TYPE_CHECKING:
    from lib.runs.tune import Trial, Tuning


class Tune:
    """Trials of a run's painter on boxes of its data set, without Prefect."""

    HELP = "find the cheapest settings of a run's painter whose boxes a judge accepts as often"

    @staticmethod
    def arguments(parser: argparse.ArgumentParser) -> None:
        add_parameters(parser, "preset=gligen-inpainting")
        parser.add_argument(
            "--boxes", type=_count, default=64, help="boxes that each trial paints, default %(default)s"
        )
        parser.add_argument(
            "--margin",
            type=_share,
            default=0.02,
            help="by how much less may be accepted, as a share of the boxes, default %(default)s",
        )
        parser.add_argument(
            "--judge",
            metavar="FOLDER_OR_ID",
            help="a CLIP or a classifier; default: that of screen.boxes, or mini:clip for the mini models",
        )
        parser.add_argument("--out", type=path, metavar="FILE", help="default: tuned.yaml in the workspace")
        add_quiet(parser, "the path of the YAML file, which `augment run` takes")

    @staticmethod
    def run(options: argparse.Namespace) -> int:
        from lib.core.files import atomic_write
        from lib.runs.parameters import check_parameters
        from lib.runs.tune import tune

        out = options.out and options.out.absolute()
        judge = options.judge
        if judge and os.path.isdir(judge):  # noqa: PTH112  # named from here, before relative paths start elsewhere
            judge = str(Path(judge).absolute())
        if out:
            check_places(out)
        values, name = parameters_of(options, "augment")
        parameters = check_parameters(values)
        workspace = Path(parameters.workspace or Path("data/runs") / name).absolute()
        with bars() as watch:
            tuning = tune(parameters, workspace, options.boxes, options.margin, judge, watch)
        out = out or workspace / "tuned.yaml"
        atomic_write(out, tuning.yaml().encode())
        _print_tuning(tuning)
        print_places({"parameters": out})
        print_result(out)
        return 0


def _print_tuning(tuning: Tuning) -> None:
    columns = ("settings", "seconds", "accepted", "s an accepted box")
    table = make_table(columns, f"{tuning.trials[0].boxes} boxes a trial", right=columns[1:])
    for trial in tuning.trials:
        table.add_row(*_row(trial))
    print_table(table)
    checked = make_table(columns, f"{tuning.own.boxes} boxes that no trial has seen", right=columns[1:])
    checked.add_row(*_row(tuning.own))
    if tuning.chosen is not tuning.own:
        checked.add_row(*_row(tuning.chosen))
    print_table(checked)
    OUT.print(tuning.sentence, markup=False)
    for note in tuning.notes:
        OUT.print(f"note: {note}", markup=False)


def _row(trial: Trial) -> tuple[str, str, str, str]:
    return trial.words, f"{trial.seconds:.1f}", f"{trial.share:.0%}", f"{trial.per_accepted:.2f}"


def _count(text: str) -> int:
    from lib.runs.tune import FEW

    value = int(text)
    if value < FEW:
        raise argparse.ArgumentTypeError(f"expected {FEW} at least, got {value}")
    return value


def _share(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"expected a share from 0 to 1, got {text}")
    return value
