"""Commands on the workspace of a run: status, open, tidy, export."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from flows.commands import CHECKOUT
from flows.commands.console import OUT, bars, make_table, print_table
from flows.commands.values import path, place
from lib.core.errors import AugmentError
from lib.core.places import is_url, url_of


class Status:
    """The account of a workspace's last run."""

    HELP = "what the last run of a workspace did"

    @staticmethod
    def arguments(parser: argparse.ArgumentParser) -> None:
        add_run(parser)
        parser.add_argument("--json", action="store_true", help="print JSON")

    @staticmethod
    def run(options: argparse.Namespace) -> int:
        from lib.runs.account import read_account

        account = read_account(status_file(options.run))
        if options.json:
            print(json.dumps(account, indent=2))
        else:
            print_outcome(account, OUT)
            print_account(account)
            print_verdict(account)
        return 0


def add_run(parser: argparse.ArgumentParser) -> None:
    """The argument RUN."""
    parser.add_argument("run", metavar="RUN", help="a name (data/runs/NAME), a workspace folder or its URL")


def status_file(run: str, whole: bool = False) -> Path:
    """The status.json of a run, by its name, its folder or its URL; raises AugmentError where there is none.

    whole: of a bucket the files of single pictures are brought here too.
    """
    places = [Path(run), Path("data/runs") / run, CHECKOUT / "data" / "runs" / run]
    if is_url(run):
        from lib.core.mirror import look

        look(root := place(run), whole)
        places = [root]
    for root in places:
        if os.path.isfile(root / "status.json"):  # noqa: PTH113
            return root / "status.json"
    raise AugmentError(f"no run {run!r}: looked for status.json in {', '.join(str(p) for p in places)}")


def folder_of(run: str, command: str) -> Path:
    """The workspace of a run, for a command that works on folders of this machine alone; raises AugmentError for a run
    in a bucket, and where there is none."""
    if is_url(run) or url_of(Path(run)):
        raise AugmentError(
            f"augment {command} works on a folder of this machine: copy {run} into one, and name that; what it changes "
            "there is to be copied back"
        )
    return status_file(run).parent


def print_outcome(account: dict[str, Any], console: Console) -> None:
    """What came of a run, in a sentence; nothing of one that has not come so far."""
    from lib.runs.outcome import known_outcome

    if text := known_outcome(account).get("text"):
        console.print(f"{account['run']}: {text}")


def print_account(account: dict[str, Any]) -> None:
    """A table of the stages of a run, and its error."""
    counts = ("rows", "ok", "painted", "reused")
    table = make_table(("stage", *counts, "set aside; more"), f"{account['run']}: {account['state']}", right=counts)
    for name, stage in account["stages"].items():
        reasons = ", ".join(f"{reason} {count}" for reason, count in stage["rejected"].items())
        known = (*counts, "rejected")
        more = ", ".join(f"{key} {_shown(key, count)}" for key, count in stage.items() if key not in known and count)
        table.add_row(name, *(str(stage[key]) for key in counts), "; ".join(filter(None, (reasons, more))))
    print_table(table)
    _print_loads(account.get("models"))
    print_target(account)
    if account.get("error"):
        OUT.print(account["error"], style="red", markup=False)


def _print_loads(models: object) -> None:
    """How often each kind of model was loaded, where processes other than the run's own did."""
    for kind, one in models.items() if isinstance(models, dict) else ():
        if isinstance(one, dict) and one.get("processes", 1) != 1:
            OUT.print(f"{kind}: loaded {one.get('loads')} times, in {one['processes']} processes", markup=False)


def print_target(account: dict[str, Any]) -> None:
    """How far the target is reached, by category; nothing of a run without one."""
    target = account.get("target")
    if not isinstance(target, dict) or not target.get("boxes"):
        return
    counts = ("wanted", "accepted", "refused", "seconds_per_box")
    title = f"target: painted boxes; {target['rounds']} rounds, {target['seconds']:.0f} s; {target['ended']}"
    table = make_table(("category", *counts, "why not more"), title, right=counts)
    for name, one in target["boxes"].items():
        table.add_row(name, *("–" if one[count] is None else str(one[count]) for count in counts), one["why"])
    print_table(table)


def _shown(key: str, count: object) -> object:
    """A KID below 0 means no more than 0."""
    return f"≈ 0 (−{-count:.2g})" if key == "kid" and isinstance(count, float) and count < 0 else count


def print_verdict(account: dict[str, Any]) -> None:
    """Boxes by category, and whether one would train on the pictures; nothing where a run had no evaluation."""
    from pydantic import ValidationError

    from lib.evaluation.verdict import Tally, Verdict

    try:
        verdict = Verdict.model_validate(account["verdict"])
    except (KeyError, ValidationError):
        return
    counts = tuple(Tally.model_fields)
    if verdict.categories:
        title = "boxes; accepted and refused: of the painted, by the judge"
        table = make_table(("category", *counts), title, right=counts)
        for name, tally in verdict.categories.items():
            table.add_row(name, *(str(getattr(tally, count)) for count in counts))
        print_table(table)
    for reason in verdict.reasons[1:]:
        OUT.print(f"  - {reason}", markup=False)
    OUT.print(f"{verdict.level.upper()}. {verdict.sentence}", style=_STYLES[verdict.level], markup=False)


_STYLES = {"red": "bold red", "yellow": "bold yellow", "green": "bold green", "unknown": "bold"}


class Open:
    """The report of a workspace's last run, in a browser."""

    HELP = "open the report of a run in a browser, or print its path"

    @staticmethod
    def arguments(parser: argparse.ArgumentParser) -> None:
        add_run(parser)

    @staticmethod
    def run(options: argparse.Namespace) -> int:
        import webbrowser

        report = status_file(options.run, whole=True).parent.absolute() / "report" / "index.html"
        if not report.is_file():
            raise AugmentError(f"{report} not found: a run writes it at its end, unless evaluate.extractor is none")
        if not has_display() or not webbrowser.open(report.as_uri()):
            print(report)
        return 0


def has_display() -> bool:
    """Without one, webbrowser would start a browser for terminals, if there is one."""
    return sys.platform != "linux" or any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER"))


class Tidy:
    """Remove what the last run of a workspace does not reach in its store, parts and results."""

    HELP = "remove what the last run of a workspace does not reach"

    @staticmethod
    def arguments(parser: argparse.ArgumentParser) -> None:
        add_run(parser)
        parser.add_argument("--dry-run", action="store_true", help="print what would be removed, and remove nothing")

    @staticmethod
    def run(options: argparse.Namespace) -> int:
        from lib.runs.tidy import Group, tidy

        root = folder_of(options.run, "tidy").absolute()
        groups = tidy(root, options.dry_run)
        total = Group("all", *(sum(getattr(group, name) for group in groups) for name in ("kept", "removed", "size")))
        numbers = ("kept", "to remove" if options.dry_run else "removed", "bytes")
        title = f"{root}{': nothing is removed' if options.dry_run else ''}"
        table = make_table(("files", *numbers), title, right=numbers)
        for group in [*groups, total]:
            table.add_row(group.name, str(group.kept), str(group.removed), f"{group.size:,}")
        print_table(table)
        return 0


class Export:
    """A run's final set in the format of the tool that trains on it."""

    HELP = "write a run's final set in the format of another tool"

    @staticmethod
    def arguments(parser: argparse.ArgumentParser) -> None:
        add_run(parser)
        parser.add_argument("--to", required=True, metavar="FORMAT", help="{exporters}")
        parser.add_argument("--out", type=path, metavar="FOLDER", help="default: export/FORMAT in the run's workspace")
        parser.add_argument("--push", metavar="USER/NAME", help="publish it on the Hugging Face hub too, with --to hf")
        parser.add_argument("--json", action="store_true", help="print JSON")

    @staticmethod
    def run(options: argparse.Namespace) -> int:
        from lib.datasets.export.hub import check_push, push
        from lib.runs.export import export_run

        root = status_file(options.run, whole=True).parent
        if url_of(root) and options.out is None:
            raise AugmentError(f"{root} is in a bucket: say with --out FOLDER where on this machine to export to")
        if options.push:
            check_push(options.push, options.to)
        with bars() as watch:
            result = export_run(root, options.to, options.out, lambda done, total: watch("export", done, total))
        document = result.document()
        if options.push:
            document["pushed"] = push(Path(result.folder), options.push)
        if options.json:
            print(json.dumps(document, indent=2, ensure_ascii=False))
            return 0
        print_export(document)
        return 0


def print_export(result: dict[str, Any]) -> None:
    """Tables of pictures and boxes by split and category, what was left out, and how the tool is started."""
    splits = result["splits"]
    table = make_table(("", *splits), result["folder"], right=tuple(splits))
    totals = {"pictures": "pictures", "synthetic": "synthetic", "boxes": "all boxes", "ignored": "ignored boxes"}
    for name, title in totals.items():
        table.add_row(title, *(str(split[name]) for split in splits.values()))
    table.add_section()
    for name in next(iter(splits.values()), {"categories": ()})["categories"]:
        table.add_row(Text(name), *(str(split["categories"][name]) for split in splits.values()))
    print_table(table)
    if result["left_out"]:
        OUT.print("left out: " + ", ".join(f"{reason} {count}" for reason, count in result["left_out"].items()))
    for note in result["notes"]:
        OUT.print(f"note: {note}")
    OUT.print(f"use: {result['use']}")
    if "pushed" in result:
        OUT.print(f"pushed: {result['pushed']}")
