"""Commands that measure: evaluate, fidelity, measure."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.commands import CHECKOUT, connection
from flows.commands.console import ERR, OUT, add_quiet, bars, make_table, print_places, print_result, print_table
from flows.commands.values import add_set, check_places, names, path, set_value
from lib.core.errors import AugmentError
from lib.core.storage import unwritable

if TYPE_CHECKING:
    from lib.records.settings import Choice

STDOUT = Path("-")
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")) / "augment"  # noqa: PTH111  # no home


def _add_json(parser: argparse.ArgumentParser, what: str) -> None:
    parser.add_argument("--json", type=path, metavar="FILE", help=f"write the {what} there")


class Evaluate:
    """Scores of two sets."""

    HELP = "how good are generated pictures, beside real ones?"

    @staticmethod
    def arguments(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("real", type=path, metavar="REAL")
        parser.add_argument("generated", type=path, metavar="GENERATED")
        parser.add_argument("--extractor", default="inception", help="{extractors}; default %(default)s")
        parser.add_argument("--metrics", metavar="NAME,...", help="{metrics}; default {sets}")
        parser.add_argument(
            "--boxes",
            type=path,
            metavar="ANNOTATIONS",
            help="labels of the real pictures, where REAL is a folder of them",
        )
        parser.add_argument(
            "--format",
            metavar="NAME",
            help="of those annotations: {formats}; default: loco for a CSV, otherwise coco",
        )
        add_set(parser, "a metric's setting: regions.model=mini:clip")
        parser.add_argument("--seed", type=int, default=0, help="of halvings, subsets, bootstraps; default %(default)s")
        parser.add_argument(
            "--limit",
            type=int,
            metavar="N",
            help="pictures of a side that are measured, at most: of more a random sample; default {sample}",
        )
        parser.add_argument(
            "--margin", type=int, help="pixels around each box that do not count as background; default 16"
        )
        parser.add_argument(
            "--cache",
            type=path,
            metavar="FOLDER",
            help=f"what was computed of a picture is kept there, by its content; default {CACHE}",
        )
        parser.add_argument(
            "--json", type=path, metavar="FILE", help="write the scores there; -: print them, and nothing else"
        )
        parser.add_argument("--report", type=path, metavar="FILE", help="write a page for a browser there, HTML")
        parser.add_argument(
            "--beside", type=path, metavar="JSON", help="an earlier result, to stand beside this one in the report"
        )
        add_quiet(parser, "the scores as JSON, or the path of their file with --json")

    @staticmethod
    def run(options: argparse.Namespace) -> int:
        from lib.evaluation.evaluate import evaluate
        from lib.evaluation.report import write_report
        from lib.evaluation.results import read_result, summary, write_json
        from lib.evaluation.sides import read_side
        from lib.records.settings import SAMPLE
        from lib.records.store import Store

        metrics, file = _metrics(options), options.json
        if file == STDOUT:
            file, OUT.quiet = None, True
        if options.seed < 0:
            raise AugmentError(f"--seed {options.seed}: expected a number from 0")
        if options.limit is not None and options.limit < 2:
            raise AugmentError(f"--limit {options.limit}: expected a number from 2")
        if options.beside and not options.report:
            raise AugmentError("--beside puts a result into a report: give --report FILE as well")
        inputs = [options.real, options.generated, options.boxes, options.beside]
        check_places(file, options.report, folder=options.cache, inputs=inputs)
        cache = options.cache or _usual_cache()
        before = {options.beside.stem: read_result(options.beside)} if options.beside else {}
        real = read_side(options.real, "originals", options.boxes, options.format)
        generated = read_side(options.generated, "synthetic")
        limit, done = options.limit or SAMPLE, count(1)
        total = sum(min(len(side.entries), limit) for side in (real, generated))
        try:
            with bars() as watch:
                result = evaluate(
                    real,
                    generated,
                    options.extractor,
                    options.seed,
                    lambda _: watch("evaluate", next(done), total),
                    metrics=metrics,
                    cache=None if cache is None else Store(cache),
                    limit=limit,
                )
        except ConnectionError as error:  # a download failed; the same command may work later
            raise AugmentError(f"{error}; try again, or give a local folder with --set METRIC.model=FOLDER") from None
        OUT.print(summary(result), markup=False)  # first: the files may fail
        if file:
            write_json(result.document(), file)
        if options.report:
            name = options.generated.absolute().name
            earlier = {f"{stem} (before)" if stem == name else stem: old for stem, old in before.items()}
            write_report(earlier | {name: result}, options.report)
        print_result(file or json.dumps(result.document(), indent=2))
        return 0


def _usual_cache() -> Path | None:
    """CACHE, or none where it cannot be written: it only saves time."""
    fault = unwritable(CACHE)
    if fault:
        ERR.print(
            f"augment: {CACHE} cannot be written ({fault}), so nothing is kept there: --cache names another folder"
        )
    return None if fault else CACHE


def _metrics(options: argparse.Namespace) -> list[Choice]:
    """What to measure, with the settings of --set and --margin."""
    from lib.records.settings import MEASURED, Choice

    settings: dict[str, Any] = {} if options.margin is None else {"background": {"margin": options.margin}}
    for assignment in options.set:
        set_value(settings, assignment)
    chosen = list(MEASURED) if options.metrics is None else names(options.metrics, "fid,kid")
    if strange := settings.keys() - set(chosen):
        raise AugmentError(f"settings of {', '.join(sorted(strange))} are given, which --metrics does not name")
    for name, values in settings.items():
        if not isinstance(values, dict) or "name" in values:
            raise AugmentError(f"--set {name}: expected {name}.SETTING=VALUE, such as background.margin=8")
    return [Choice(name=name, **settings.get(name, {})) for name in chosen]


class Fidelity:
    """Layout fidelity of a data set."""

    HELP = "is in each painted box what its label says?"

    @staticmethod
    def arguments(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("dataset", type=path, metavar="DATASET", help="a final folder or a COCO file")
        parser.add_argument(
            "--real", type=path, metavar="DATASET", help="real boxes to compare with; default: its originals"
        )
        parser.add_argument(
            "--model",
            default="mini:clip",
            metavar="FOLDER_OR_ID",
            help="the judge: a CLIP, or a classifier that was trained on the categories; default %(default)s",
        )
        _add_json(parser, "scores")

    @staticmethod
    def run(options: argparse.Namespace) -> int:
        from lib.core.checkpoints import resolve
        from lib.evaluation.fidelity import fidelity, summary
        from lib.evaluation.results import write_json
        from lib.judges import make_judge

        check_places(options.json, inputs=[options.dataset, options.real])
        try:
            judge = make_judge(resolve(options.model, {}))
            with bars() as watch:
                result = fidelity(
                    options.dataset, judge, options.real, advance=lambda done, total: watch("fidelity", done, total)
                )
        except ConnectionError as error:  # a download failed; the same command may work later
            raise AugmentError(f"{error}; try again, or give a local folder with --model") from None
        if options.json:
            write_json(result.document(), options.json)
        OUT.print(summary(result), markup=False)
        return 0


class Measure:
    """Figures of the mini models, or of those for boards, entered into their cards."""

    HELP = "how good models of this project are, on pictures that they have not seen"

    @staticmethod
    def arguments(parser: argparse.ArgumentParser) -> None:
        parser.add_argument(
            "what",
            nargs="?",
            choices=list(_MEASURES),
            default="mini",
            help="the mini models on drawn scenes, or stay and classifier on boards of DeepPCB; default %(default)s",
        )
        parser.add_argument("--models", type=path, metavar="FOLDER", help="default: data/models/mini, data/models/pcb")
        parser.add_argument("--scenes", type=int, default=100, metavar="N", help="mini; default %(default)s")
        parser.add_argument("--data", type=path, metavar="FOLDER", help="defects: PCBData as a whole")
        parser.add_argument(
            "--boxes", type=int, default=300, metavar="N", help="defects: to paint; default %(default)s"
        )
        parser.add_argument(
            "--tune-steps",
            type=int,
            default=300,
            metavar="N",
            help="defects: fine-tuning; 0: none; default %(default)s",
        )
        _add_json(parser, "figures")

    @staticmethod
    def run(options: argparse.Namespace) -> int:
        return _MEASURES[options.what](options)


def _measure_mini(options: argparse.Namespace) -> int:
    from lib.core.checkpoints import MINI

    check_places(options.json)
    if options.scenes < 2:
        raise AugmentError(f"--scenes {options.scenes}: at least 2 are needed, better 100")
    connection.prepare_prefect()
    from flows.measure import measure

    workspace = CHECKOUT / "data" / "runs" / "measure"
    figures = measure((options.models or MINI).absolute(), options.scenes, workspace, lambda text: ERR.print(text))
    _print_figures(figures, f"{options.scenes} unseen scenes", figures, options.json)
    return 0


def _measure_defects(options: argparse.Namespace) -> int:
    from lib.core.checkpoints import MINI

    check_places(options.json)
    if options.data is None:
        raise AugmentError("--data FOLDER is needed: PCBData of DeepPCB, https://github.com/tangsanli5201/DeepPCB")
    if options.boxes < 2 or options.tune_steps < 0:
        raise AugmentError(
            f"--boxes {options.boxes}, --tune-steps {options.tune_steps}: at least 2 boxes are needed, better 300, and "
            "0 steps or more"
        )
    connection.prepare_prefect()
    from flows.measure_defects import measure_defects

    models = (options.models or MINI.parent / "pcb").absolute()
    workspace = CHECKOUT / "data" / "runs" / "measure-defects"
    result = measure_defects(
        options.data.absolute(), models, options.boxes, options.tune_steps, workspace, lambda text: ERR.print(text)
    )
    _print_figures(result["figures"], "unseen boards", result, options.json)
    print_places(result["panels"])
    return 0


_MEASURES: dict[str, Callable[[argparse.Namespace], int]] = {"mini": _measure_mini, "defects": _measure_defects}


def _print_figures(figures: dict[str, dict[str, Any]], title: str, result: dict[str, Any], file: Path | None) -> None:
    """A table of figures; the whole result goes into the file."""
    from lib.evaluation.results import write_json
    from lib.training.card import shown

    table = make_table(("model", "figure", "value"), title)
    for name, own in figures.items():
        for figure, value in own.items():
            table.add_row(name, figure, shown(value))
    print_table(table)
    if file:
        write_json(result, file)
