"""The command line: `augment run | train | grid | status | tidy | presets | evaluate | fidelity | measure | …`.

Prefect is imported only by the commands that need it, after its settings are made quiet.
"""

from __future__ import annotations

import argparse
import importlib
import json
import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import chdir, contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from flows import QUIET
from lib.core.errors import AugmentError
from lib.core.storage import explanation, without_room

CHECKOUT = Path(__file__).resolve().parent.parent
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "augment"
# os.path instead of Path below: Path raises for a name that is too long for a file.

# No markup: a path or an error may hold square brackets.
OUT = Console(highlight=False, markup=False, soft_wrap=True)
ERR = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)

# The command line tells what matters itself; Prefect's own log goes to the server.
SILENT = {
    **QUIET,
    "PREFECT_LOGGING_LEVEL": "CRITICAL",
    "PREFECT_INTERNAL_LOGGING_LEVEL": "CRITICAL",
    "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code. Errors a user can mend are one sentence on stderr."""
    options = _parser().parse_args(arguments)
    warnings.simplefilter("ignore")  # what a user can mend comes as a reason or an error
    try:
        _check_texts(options)
        code: int = options.command(options)
        return code
    except KeyboardInterrupt:
        ERR.print("augment: stopped; the same command goes on where it was")
        return 130
    except Exception as error:
        told = _sentence(error)
        if told is None:  # a fault of the program
            raise
        ERR.print(f"augment: {told}", style="red", markup=False)
        return 1


def _sentence(error: Exception) -> str | None:
    """What a person can read and mend; None where it is nothing of theirs."""
    told = str(error) if isinstance(error, AugmentError) else explanation(error)
    if "prefect" not in sys.modules:
        return told
    from prefect.settings import get_current_settings

    # Prefect's server cannot start or answer without room, and says so in many ways or in none.
    full = without_room(get_current_settings().home, "PREFECT_HOME")
    return "; ".join(filter(None, (told, full))) or None


def _check_texts(options: argparse.Namespace) -> None:
    """Raises AugmentError for a text that no file and no request could hold."""
    from lib.core.values import check_text

    for name, given in vars(options).items():
        for text in given if isinstance(given, list) else [given]:
            try:
                check_text(text if isinstance(text, str) else "")
            except ValueError as error:
                raise AugmentError(f"argument {name} {text!r:.200}: {error}") from None


def _path(text: str) -> Path:
    """An argument that is a path; argparse tells of what can be none, with the argument's name."""
    from lib.core.values import check_path

    try:
        return check_path(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{error} (got {text!r:.200})") from None


_EXAMPLE = "select.max_objects=6"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="augment", description="Grow labelled detection data sets.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    run = _command(commands, "run", run_flow, "run the journey: a deployment of prefect.yaml, or a YAML file")
    train = _command(commands, "train", run_training, "train models: a deployment of prefect.yaml, or a YAML file")
    grid = _command(commands, "grid", show_grid, "one picture painted by several presets, side by side, to choose one")
    for command, example in ((run, _EXAMPLE), (train, "settings.vae.steps=8000"), (grid, _EXAMPLE)):
        command.add_argument("what", metavar="NAME_OR_FILE")
        command.add_argument(
            "--set", action="append", default=[], metavar="a.b=value", help=f"one parameter, as YAML: {example}"
        )
    run.add_argument(
        "--verify",
        action="store_true",
        help="read every source picture and every file of the store and the final set again, and compare digests",
    )
    grid.add_argument("--presets", required=True, metavar="a,b,c", help="`augment presets` lists them")
    grid.add_argument(
        "--picture", metavar="NAME_OR_KEY", help="file name, path or key; none: the first that the first preset edits"
    )
    grid.add_argument("--out", type=_path, metavar="FILE", help="a PNG or JPEG; default: grid.jpg in the workspace")
    status = _command(commands, "status", show_status, "what the last run of a workspace did")
    status.add_argument("run", metavar="RUN", help="a name (data/runs/NAME) or a workspace folder")
    status.add_argument("--json", action="store_true", help="print JSON")
    tidied = _command(commands, "tidy", tidy_workspace, "remove what the last run of a workspace does not reach")
    tidied.add_argument("run", metavar="RUN", help="a name (data/runs/NAME) or a workspace folder")
    tidied.add_argument("--dry-run", action="store_true", help="say what would be removed, and remove nothing")
    _command(commands, "presets", show_presets, "the presets: triple, checkpoints, licences")
    evaluate = _command(commands, "evaluate", evaluate_sets, "how good are generated pictures, beside real ones?")
    evaluate.add_argument("real", type=_path, metavar="REAL")
    evaluate.add_argument("generated", type=_path, metavar="GENERATED")
    evaluate.add_argument(
        "--extractor",
        default="inception",
        help="{extractors}; default %(default)s",
    )
    evaluate.add_argument(
        "--metrics",
        metavar="NAME,...",
        help="{metrics}; default {sets}",
    )
    evaluate.add_argument(
        "--boxes", type=_path, metavar="ANNOTATIONS", help="labels of the real pictures, where REAL is a folder of them"
    )
    evaluate.add_argument(
        "--format", metavar="NAME", help="of those annotations: {formats}; none: loco for a CSV, else coco"
    )
    evaluate.add_argument(
        "--set", action="append", default=[], metavar="a.b=value", help="a metric's setting: regions.model=mini:clip"
    )
    evaluate.add_argument("--seed", type=int, default=0, help="of halvings, subsets, bootstraps; default %(default)s")
    evaluate.add_argument("--margin", type=int, help="pixels around each box that are no background; default 16")
    evaluate.add_argument(
        "--cache",
        type=_path,
        metavar="FOLDER",
        default=CACHE,
        help="what was computed of a picture is kept there, by its content; default %(default)s",
    )
    evaluate.add_argument("--json", type=_path, metavar="FILE", help="write the scores there")
    evaluate.add_argument("--report", type=_path, metavar="FILE", help="write a page for a browser there, HTML")
    evaluate.add_argument(
        "--beside", type=_path, metavar="JSON", help="an earlier result, to stand beside this one in the report"
    )
    fidelity = _command(commands, "fidelity", judge_boxes, "is in each painted box what its label says?")
    fidelity.add_argument("dataset", type=_path, metavar="DATASET", help="a final folder or a COCO file")
    fidelity.add_argument(
        "--real", type=_path, metavar="DATASET", help="real boxes to compare with; none: its originals"
    )
    fidelity.add_argument(
        "--model",
        default="mini:clip",
        metavar="FOLDER_OR_ID",
        help="who judges: a CLIP, or a classifier that was trained on the categories; default %(default)s",
    )
    fidelity.add_argument("--json", type=_path, metavar="FILE", help="write the scores there")
    measured = _command(
        commands, "measure", measure_models, "how good models of this project are, on what none has seen"
    )
    measured.add_argument(
        "what",
        nargs="?",
        choices=["mini", "defects"],
        default="mini",
        help="the mini models on drawn scenes, or stay and classifier on boards of DeepPCB; default %(default)s",
    )
    measured.add_argument("--models", type=_path, metavar="FOLDER", help="default: data/models/mini, data/models/pcb")
    measured.add_argument("--scenes", type=int, default=100, metavar="N", help="mini; default %(default)s")
    measured.add_argument("--data", type=_path, metavar="FOLDER", help="defects: PCBData as a whole")
    measured.add_argument("--boxes", type=int, default=300, metavar="N", help="defects: to paint; default %(default)s")
    measured.add_argument(
        "--tune-steps", type=int, default=300, metavar="N", help="defects: fine-tuning; 0: none; default %(default)s"
    )
    measured.add_argument("--json", type=_path, metavar="FILE", help="write the figures there")
    notify = _command(commands, "notify", notify_update, "tell Prefect that a data set was updated")
    notify.add_argument("name", metavar="NAME")
    fetch = _command(commands, "fetch", fetch_dataset, "download a public data set into data/raw")
    fetch.add_argument("name", choices=["loco"])
    return parser


class _Help(argparse.HelpFormatter):
    """Fills in what the registries hold: `{metrics}` and the like, imported only where help is wanted."""

    def _get_help_string(self, action: argparse.Action) -> str:
        text = super()._get_help_string(action) or ""
        for name in ("metrics", "sets", "extractors", "formats"):
            text = text.replace(f"{{{name}}}", _listed(name)) if f"{{{name}}}" in text else text
        return text


def _listed(what: str) -> str:
    """Names for a help text."""
    from lib.datasets.formats import FORMATS
    from lib.evaluation.features import EXTRACTORS
    from lib.evaluation.metrics import listed
    from lib.records.settings import SETS

    extractors = ", ".join(f"{name} ({EXTRACTORS[name].ABOUT})" for name in EXTRACTORS)
    texts = {"metrics": listed(), "sets": ",".join(SETS), "extractors": extractors, "formats": ", ".join(FORMATS)}
    return texts[what]


def _command(commands: Any, name: str, function: Callable[[argparse.Namespace], int], text: str) -> Any:
    parser = commands.add_parser(name, help=text, description=text, formatter_class=_Help)
    parser.set_defaults(command=function)
    return parser


# run


def run_flow(options: argparse.Namespace) -> int:
    """The flow, with bars, on the configured Prefect server, or on a temporary one where none answers."""
    values, name = _given(options, "augment")
    if options.verify:
        values["verify"] = True
    from lib.runs.parameters import check_parameters

    parameters = check_parameters(values)
    _run("augment", name, values)
    _tell(Path(parameters.workspace or ".").absolute())
    return 0


def _run(flow: str, name: str, values: dict[str, Any]) -> None:
    """The flow of module flows.FLOW to its end, with bars; raises AugmentError where it does not complete."""
    _prepare_prefect()
    with ERR.status("starting …"):
        module = importlib.import_module(f"flows.{flow}")
    with _bars() as watch:
        module.WATCH.watch = watch
        state = getattr(module, flow).with_options(flow_run_name=name)(**values, return_state=True)
    if not state.is_completed():
        raise AugmentError(_why(state))


def run_training(options: argparse.Namespace) -> int:
    """The flow `train`, in the same way."""
    values, name = _given(options, "train")
    from lib.runs.workspace import read_account
    from lib.training.train import check_training

    parameters = check_training(values)
    _run("train", name, values)
    workspace = Path(parameters.workspace or ".").absolute()
    _print_account(read_account(workspace / "status.json"))
    OUT.print(f"{'models':>14}  {(parameters.output or workspace / 'models').absolute()}")
    OUT.print(f"{'sheets':>14}  {workspace / 'sheets'}")
    return 0


def _given(options: argparse.Namespace, flow: str) -> tuple[dict[str, Any], str]:
    """(parameters, name) as the arguments say, in the folder that relative paths start from."""
    values, name, base = load_parameters(options.what, flow)
    _assign(values, options.set, name)
    os.chdir(base)
    return values, name


def _assign(values: dict[str, Any], assignments: Sequence[str], name: str) -> None:
    for assignment in assignments:
        set_value(values, assignment)
    values.setdefault("workspace", str(Path("data/runs") / name))


_COMMANDS = {  # by flow
    "augment": "augment run {}",
    "train": "augment train {}",
    "evaluate": "prefect deployment run evaluate/{}",
}


def load_parameters(what: str, flow: str | None = None) -> tuple[dict[str, Any], str, Path]:
    """(parameters, name, folder that relative paths start from) of a deployment or a YAML file.

    flow: the one that it must be a deployment of.
    """
    path = Path(what)
    if path.suffix in (".yaml", ".yml") or os.path.isfile(path):  # noqa: PTH113
        return _read_yaml(path), path.stem, Path.cwd()
    named = sorted(_deployments(), key=lambda one: one["entrypoint"].rpartition(":")[2] == (flow or "augment"))
    deployments = {one["name"]: one for one in named}  # several flows may use a name: the asked one's comes last
    if what not in deployments:
        known = ", ".join(sorted(deployments))
        raise AugmentError(f"no deployment {what!r} in prefect.yaml: known are {known}; or give a YAML file")
    own = deployments[what]["entrypoint"].rpartition(":")[2]
    if flow not in (None, own):
        raise AugmentError(f"deployment {what!r} belongs to the flow {own}: {_COMMANDS[own].format(what)}")
    return dict(deployments[what]["parameters"]), what, CHECKOUT


def _deployments() -> list[dict[str, Any]]:
    file = CHECKOUT / "prefect.yaml"
    told = _read_yaml(file).get("deployments")
    kinds = {"name": str, "entrypoint": str, "parameters": dict}
    for one in told if isinstance(told, list) else [None]:
        if not isinstance(one, dict) or not all(isinstance(one.get(key), kind) for key, kind in kinds.items()):
            raise AugmentError(f"{file} is damaged: expected `deployments`, each with {', '.join(kinds)}; restore it")
    assert isinstance(told, list)
    return told


def _read_yaml(path: Path) -> dict[str, Any]:
    from lib.core.documents import read_yaml

    if not os.path.lexists(path):
        raise AugmentError(f"{path} not found: give a YAML file with parameters, or a deployment's name")
    told = read_yaml(path, "give a YAML file with parameters")
    if not isinstance(told, dict) or not all(isinstance(name, str) for name in told):
        raise AugmentError(f"{path} holds no mapping: expected parameters such as 'dataset: {{images: …}}'")
    return told


def set_value(values: dict[str, Any], assignment: str) -> None:
    """Put `a.b=value` into nested parameters; the value is YAML."""
    from lib.core.documents import decode_yaml

    place, equals, text = assignment.partition("=")
    if not equals or not place:
        raise AugmentError(f"--set {assignment!r}: expected a.b=value, such as select.max_objects=6")
    *parents, last = place.split(".")
    for parent in parents:
        inner = values.get(parent)
        if not isinstance(inner, str | dict | None):
            raise AugmentError(f"--set {assignment!r}: {parent} is {inner!r}, which holds no values of its own")
        # A bare name is a member with its defaults: setting one of its values opens it up.
        values[parent] = {"name": inner} if isinstance(inner, str) else dict(inner or {})
        values = values[parent]
    values[last] = decode_yaml(text, f"--set {assignment!r:.200}: {text!r:.200}")


def _prepare_prefect() -> None:
    """Quiet settings, and a temporary server where no other answers."""
    with _trusted_settings():
        from flows.events import connect

        connect()
    logging.getLogger("prefect").setLevel(logging.CRITICAL)


@contextmanager
def _trusted_settings() -> Iterator[None]:
    """Prefect reads its settings in here: from the environment, the user's profile and the checkout.

    It would read them from the working folder too (prefect.toml, pyproject.toml, .env), which may be a data set's: a
    setting there names a server, or a logging configuration that calls any function.
    """
    for name, value in SILENT.items():
        os.environ.setdefault(name, value)
    with chdir(CHECKOUT):
        yield


def _why(state: Any) -> str:
    """The reason of a failed run in one sentence."""
    return state.message or f"the run ended {state.name}"


@contextmanager
def _bars() -> Iterator[Callable[[str, int, int], None]]:
    """A bar per stage on a terminal, a line per finished stage elsewhere."""
    if not ERR.is_terminal:
        yield lambda stage, done, total: ERR.print(f"{stage}: {done} of {total}") if done == total else None
        return
    columns = (TextColumn("{task.description:>9}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=ERR) as progress:
        bars: dict[str, Any] = {}

        def watch(stage: str, done: int, total: int) -> None:
            if stage not in bars:
                bars[stage] = progress.add_task(stage, total=total)
            progress.update(bars[stage], completed=done, total=total)

        yield watch


def _tell(workspace: Path) -> None:
    """Where everything lies, after a run."""
    from lib.runs.workspace import read_account

    _print_account(read_account(workspace / "status.json"))
    shown = {
        "annotations": workspace / "final" / "annotations.json",
        "pictures": workspace / "final" / "images",
        "contact sheet": workspace / "contact_sheet.jpg",
        "drawn boxes": workspace / "drawn",
        "report": workspace / "report" / "index.html",
    }
    for what, path in shown.items():
        if path.exists():
            OUT.print(f"{what:>14}  {path}")


# grid


def show_grid(options: argparse.Namespace) -> int:
    """The sheet of one picture by several presets, without Prefect; 1 where none of them gave a picture."""
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
    presets = _names(options.presets, "copy-paste,gligen-inpainting")
    values, name, base = load_parameters(options.what, "augment")
    os.chdir(base)
    runs = {preset: check_parameters(_of_preset(values, preset, options.set, name)) for preset in presets}
    if out and out.exists() and lies_in(out, runs[presets[0]].dataset.images):
        raise AugmentError(f"--out {out} is there already, among the pictures of the data set: name another file")
    with _bars() as watch:
        grid = paint_grid(runs, picture, watch)
    out = out or (runs[presets[0]].workspace or Path()).absolute() / "grid.jpg"
    write_sheet(draw_grid(grid), out)
    table = Table(title=grid.name, title_justify="left")
    for column in ("preset", "edit × painter × composite", "result", "seconds"):
        table.add_column(column, overflow="fold", justify="right" if column == "seconds" else "left")
    for cell in grid.cells:
        table.add_row(cell.name, cell.triple, cell.outcome, f"{cell.seconds:.1f}")
    OUT.print(table)
    OUT.print(f"{'sheet':>14}  {out}")
    return 0 if any(cell.picture is not None for cell in grid.cells) else 1


def _of_preset(values: dict[str, Any], preset: str, assignments: Sequence[str], name: str) -> dict[str, Any]:
    """The parameters with another preset; members that they choose belong to their own one, and stay behind."""
    own = values.get("preset") == preset
    chosen = {key: value for key, value in values.items() if own or key not in ("edit", "painter", "composite")}
    _assign(chosen, assignments, name)
    return {**chosen, "preset": preset}


# status, presets


def show_status(options: argparse.Namespace) -> int:
    """The account of a workspace's last run."""
    from lib.runs.workspace import read_account

    account = read_account(_status_file(options.run))
    if options.json:
        print(json.dumps(account, indent=2))
    else:
        _print_account(account)
    return 0


def _status_file(run: str) -> Path:
    places = [Path(run), Path("data/runs") / run, CHECKOUT / "data" / "runs" / run]
    for place in places:
        if os.path.isfile(place / "status.json"):  # noqa: PTH113
            return place / "status.json"
    raise AugmentError(f"no run {run!r}: looked for status.json in {', '.join(str(p) for p in places)}")


def _print_account(account: dict[str, Any]) -> None:
    table = Table(title=f"{account['run']}: {account['state']}", title_justify="left")
    for column in ("stage", "rows", "ok", "painted", "reused", "set aside; more"):
        table.add_column(column, justify="left" if column in ("stage", "set aside; more") else "right")
    for stage, told in account["stages"].items():
        reasons = ", ".join(f"{reason} {count}" for reason, count in told["rejected"].items())
        known = ("rows", "ok", "painted", "reused", "rejected")
        more = ", ".join(f"{name} {count}" for name, count in told.items() if name not in known and count)
        counts = (str(told[name]) for name in ("rows", "ok", "painted", "reused"))
        table.add_row(stage, *counts, "; ".join(text for text in (reasons, more) if text))
    OUT.print(table)
    if account.get("error"):
        OUT.print(account["error"], style="red", markup=False)


def tidy_workspace(options: argparse.Namespace) -> int:
    """Remove what the last run of a workspace does not reach in its store, parts and results."""
    from lib.runs.tidy import Group, tidy

    root = _status_file(options.run).parent.absolute()
    groups = tidy(root, options.dry_run)
    total = Group("all", *(sum(getattr(group, name) for group in groups) for name in ("kept", "removed", "size")))
    table = Table(title=f"{root}{': nothing is removed' if options.dry_run else ''}", title_justify="left")
    for column in ("files", "kept", "to remove" if options.dry_run else "removed", "bytes"):
        table.add_column(column, justify="left" if column == "files" else "right")
    for group in [*groups, total]:
        table.add_row(group.name, str(group.kept), str(group.removed), f"{group.size:,}")
    OUT.print(table)
    return 0


def show_presets(options: argparse.Namespace) -> int:
    """Tables of the presets and of the members that they are made of."""
    from lib.runs.parameters import member_rows, preset_rows

    for rows in (preset_rows(), member_rows()):
        table = Table(show_lines=True)
        for column in rows[0]:
            table.add_column(column, overflow="fold")
        for row in rows:
            table.add_row(*row.values())
        OUT.print(table)
    return 0


# evaluate, fidelity, notify, fetch


def evaluate_sets(options: argparse.Namespace) -> int:
    """Scores of two sets."""
    from itertools import count

    from lib.evaluation.evaluate import evaluate
    from lib.evaluation.report import write_report
    from lib.evaluation.results import read_result, summary, write_json
    from lib.evaluation.sides import read_side
    from lib.records.settings import SETS, Choice
    from lib.records.store import Store

    settings: dict[str, Any] = {} if options.margin is None else {"background": {"margin": options.margin}}
    for assignment in options.set:
        set_value(settings, assignment)
    names = list(SETS) if options.metrics is None else _names(options.metrics, "fid,kid")
    if strange := settings.keys() - set(names):
        raise AugmentError(f"settings of {', '.join(sorted(strange))} are given, which --metrics does not name")
    for name, values in settings.items():
        if not isinstance(values, dict) or "name" in values:
            raise AugmentError(f"--set {name}: expected {name}.SETTING=VALUE, such as background.margin=8")
    metrics = [Choice(name=name, **settings.get(name, {})) for name in names]
    if options.seed < 0:
        raise AugmentError(f"--seed {options.seed}: expected a number from 0")
    if options.beside and not options.report:
        raise AugmentError("--beside puts a result into a report: give --report FILE as well")
    inputs = [options.real, options.generated, options.boxes, options.beside]
    _check_places(options.json, options.report, folder=options.cache, inputs=inputs)
    before = {options.beside.stem: read_result(options.beside)} if options.beside else {}
    real = read_side(options.real, "originals", options.boxes, options.format)
    generated = read_side(options.generated, "synthetic")
    total, done = len(real.entries) + len(generated.entries), count(1)
    try:
        with _bars() as watch:
            result = evaluate(
                real,
                generated,
                options.extractor,
                options.seed,
                lambda _: watch("evaluate", next(done), total),
                metrics=metrics,
                cache=Store(options.cache),
            )
    except ConnectionError as error:  # a download failed; the same command may work later
        raise AugmentError(f"{error}; try again, or give a local folder with --set METRIC.model=FOLDER") from None
    if options.json:
        write_json(result.document(), options.json)
    OUT.print(summary(result), markup=False)
    if options.report:
        name = options.generated.absolute().name
        earlier = {f"{stem} (before)" if stem == name else stem: told for stem, told in before.items()}
        write_report(earlier | {name: result}, options.report)
    return 0


def _check_places(*files: Path | None, folder: Path | None = None, inputs: Sequence[Path | None] = ()) -> None:
    """Raises AugmentError, before hours of work, where these cannot be written, or are inputs; makes their folders."""
    for file in filter(None, files):
        for path in filter(None, inputs):
            if file.is_file() and path.is_file() and file.samefile(path):
                raise AugmentError(f"{file} is what is to be read: name another file to write")
        if file.is_dir():
            raise AugmentError(f"{file} is a folder: expected the name of a file")
    for place in [*(file.parent for file in files if file), *filter(None, [folder])]:
        try:
            place.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise AugmentError(f"folder {place} cannot be made ({error.strerror})") from None


def _names(listed: str, example: str) -> list[str]:
    names = [name.strip() for name in listed.split(",") if name.strip()]
    if not names:
        raise AugmentError(f"{listed!r} names nothing: expected names, such as {example}")
    return names


def judge_boxes(options: argparse.Namespace) -> int:
    """Layout fidelity of a data set."""
    from lib.core.checkpoints import resolve
    from lib.evaluation.fidelity import fidelity, summary
    from lib.evaluation.results import write_json
    from lib.judges import make_judge

    _check_places(options.json, inputs=[options.dataset, options.real])
    try:
        judge = make_judge(resolve(options.model, {}))
        with _bars() as watch:
            result = fidelity(
                options.dataset, judge, options.real, advance=lambda done, total: watch("fidelity", done, total)
            )
    except ConnectionError as error:  # a download failed; the same command may work later
        raise AugmentError(f"{error}; try again, or give a local folder with --model") from None
    if options.json:
        write_json(result.document(), options.json)
    OUT.print(summary(result), markup=False)
    return 0


def measure_models(options: argparse.Namespace) -> int:
    """Figures of the mini models, or of those for boards, entered into their cards."""
    return _measure_mini(options) if options.what == "mini" else _measure_defects(options)


def _measure_mini(options: argparse.Namespace) -> int:
    from lib.core.checkpoints import MINI

    if options.scenes < 2:
        raise AugmentError(f"--scenes {options.scenes}: at least 2 are needed, better 100")
    _prepare_prefect()
    from flows.measure import measure

    workspace = CHECKOUT / "data" / "runs" / "measure"
    found = measure((options.models or MINI).absolute(), options.scenes, workspace, lambda text: ERR.print(text))
    _print_figures(found, f"{options.scenes} unseen scenes", found, options.json)
    return 0


def _measure_defects(options: argparse.Namespace) -> int:
    from lib.core.checkpoints import MINI

    if options.data is None:
        raise AugmentError("--data FOLDER is needed: PCBData of DeepPCB, https://github.com/tangsanli5201/DeepPCB")
    if options.boxes < 2 or options.tune_steps < 0:
        raise AugmentError(
            f"--boxes {options.boxes}, --tune-steps {options.tune_steps}: at least 2 boxes are needed, better 300, and "
            "0 steps or more"
        )
    _prepare_prefect()
    from flows.measure_defects import measure_defects

    models = (options.models or MINI.parent / "pcb").absolute()
    workspace = CHECKOUT / "data" / "runs" / "measure-defects"
    told = measure_defects(
        options.data.absolute(), models, options.boxes, options.tune_steps, workspace, lambda text: ERR.print(text)
    )
    _print_figures(told["figures"], "unseen boards", told, options.json)
    for name, path in told["panels"].items():
        OUT.print(f"{name:>14}  {path}")
    return 0


def _print_figures(figures: dict[str, dict[str, Any]], title: str, told: dict[str, Any], file: Path | None) -> None:
    """A table of figures; all that was found goes into the file."""
    from lib.evaluation.results import write_json
    from lib.training.card import shown

    table = Table(title=title, title_justify="left")
    for column in ("model", "figure", "value"):
        table.add_column(column)
    for name, own in figures.items():
        for figure, value in own.items():
            table.add_row(name, figure, shown(value))
    OUT.print(table)
    if file:
        write_json(told, file)


def notify_update(options: argparse.Namespace) -> int:
    """Emit `dataset.updated` for a deployment's data set."""
    with _trusted_settings():
        from flows.events import notify

        notify(options.name)
    OUT.print(f"dataset.updated sent for dataset.{options.name}")
    return 0


def fetch_dataset(options: argparse.Namespace) -> int:
    """Download a public data set."""
    from lib.datasets.fetch import fetch_loco

    with _bars() as watch:
        folder = fetch_loco(CHECKOUT / "data" / "raw" / "loco", lambda done, total: watch("fetch", done, total))
    OUT.print(f"LOCO lies in {folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
