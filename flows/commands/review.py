"""The command on a person's decisions: review."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

from flows.commands.connection import trusted_settings
from flows.commands.console import OUT
from flows.commands.values import path
from flows.commands.workspace import folder_of, has_display
from lib.core.errors import AugmentError
from lib.runs.account import former_account

if TYPE_CHECKING:
    from lib.review.session import Session


class Review:
    """The page on which a person reviews the pictures of a run."""

    HELP = "review the pictures of a run in a browser, by keyboard"

    @staticmethod
    def arguments(parser: argparse.ArgumentParser) -> None:
        parser.add_argument(
            "runs", metavar="RUN", nargs="+", help="a name (data/runs/NAME) or a workspace folder; several: compared"
        )
        parser.add_argument("--reviewer", metavar="NAME", help="who decides; default: the name of this account")
        parser.add_argument("--port", type=int, default=0, help="of 127.0.0.1; default: as last time, or a free one")
        parser.add_argument("--no-open", action="store_true", help="print the link, and open no browser")
        instead = parser.add_mutually_exclusive_group()
        instead.add_argument("--summary", action="store_true", help="print the decisions and how reviewers agree")
        instead.add_argument("--to", choices=("label-studio", "cvat"), help="write all for a label tool")
        instead.add_argument(
            "--from", dest="file", type=path, metavar="FILE", help="take in what a label tool exported"
        )
        parser.add_argument(
            "--out", type=path, metavar="FOLDER", help="with --to; default: export/review-TOOL in the run"
        )
        parser.add_argument("--json", action="store_true", help="with --summary, --to, --from: print JSON")

    @staticmethod
    def run(options: argparse.Namespace) -> int:
        from lib.review.session import Session, account_name

        _check(options)
        roots = [folder_of(run, "review").absolute() for run in options.runs]
        if len({root.resolve() for root in roots}) < len(roots):
            raise AugmentError("a run is named twice: name each once")
        reviewer, named = options.reviewer or account_name(), bool(options.reviewer)
        session = Session(roots, reviewer, lambda by: _submitted(by, roots), named)
        if options.to or options.file:
            return _exchange(session, roots[0], options)
        if options.summary:
            return _tell(session.summary(), options.json)
        return _serve(session, roots, options)


def _check(options: argparse.Namespace) -> None:
    """Raises AugmentError for an option that would do nothing."""
    if options.out and not options.to:
        raise AugmentError(f"--out {options.out} is where --to writes: give --to cvat or --to label-studio as well")
    if options.json and not (options.summary or options.to or options.file):
        raise AugmentError("--json prints what --summary, --to or --from have to say: give one of them as well")


def _submitted(by: str, roots: list[Path]) -> str:
    """What a reviewer is told; a deployment's run that waits goes on."""
    waiting = [root for root in roots if former_account(root).get("waiting")]
    for root in waiting:
        try:
            with trusted_settings():
                from tasks.waiting import resume

                if resume(root):
                    return f"{by}, thank you: the run that waited for it goes on."
        except Exception as error:  # of Prefect's client, and of many kinds
            why = " ".join(str(error).split())[:200]
            return f"Noted, but Prefect's server does not answer ({why}): choose Run now in its UI. {_next(roots)}"
    return f"{by}, thank you. {_next(roots)}"


def _next(roots: list[Path]) -> str:
    runs = ", ".join(f"`augment run {root.name}`" for root in roots)
    return f"{runs} writes the final set by the decisions; nothing is painted anew."


def _exchange(session: Session, root: Path, options: argparse.Namespace) -> int:
    """Out to a label tool, or back in."""
    from lib.review.label_tools import read_review, write_review
    from lib.runs.export import check_place, settings_of

    if options.to:
        out = (options.out or root / "export" / f"review-{options.to}").absolute()
        check_place(out, root, settings_of(root))
        made = write_review(session, options.to, out)
        lines = [f"{made['pictures']} pictures with their boxes and decisions: {made['folder']}", f"use: {made['use']}"]
        lines += [f"{made['lost']} pictures are no longer in the store: run again"] if made["lost"] else []
        return _tell({"lines": lines, **made}, options.json)
    taken = read_review(session, options.file, session.reviewer)
    lines = [f"{taken.pictures} pictures with other decisions than before, {taken.same} with the same"]
    if taken.strange:
        lines.append(f"{len(taken.strange)} pictures that this run does not have, such as {taken.strange[0]}")
    if taken.unknown:
        named = ", ".join(f"{name:.100} ({count})" for name, count in taken.unknown.most_common(10))
        more = ", …" if len(taken.unknown) > 10 else ""
        lines.append(f"{taken.unknown.total()} boxes not taken in, the data set has no such category: {named}{more}")
    lines += [session.told(), _next([root])]
    counts = {"pictures": taken.pictures, "same": taken.same, "strange": taken.strange, "unknown": taken.unknown}
    return _tell({"lines": lines, **counts}, options.json)


def _serve(session: Session, roots: list[Path], options: argparse.Namespace) -> int:
    from lib.review.serve import serve_until_stopped

    def show(link: str) -> None:
        pictures = sum(len(run.items) for run in session.runs)
        OUT.print(f"{pictures} pictures to review; this link opens the page, and is a password to it:", markup=False)
        print(link, flush=True)
        OUT.print("Ctrl-C ends it; no decision is lost.")
        if not options.no_open and has_display():
            _open(link)

    serve_until_stopped(session, roots[0], options.port, show)
    OUT.print(session.told(), markup=False)
    OUT.print(_next(roots), markup=False)
    return 0


def _open(link: str) -> None:
    """By a file that this user alone can read: the process list would show the link to everybody."""
    import atexit
    import tempfile
    import webbrowser
    from html import escape

    handle, name = tempfile.mkstemp(prefix="augment-review-", suffix=".html")  # mode 0600
    atexit.register(lambda: Path(name).unlink(missing_ok=True))
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(f'<!doctype html><meta http-equiv="refresh" content="0; url={escape(link, quote=True)}">')
    webbrowser.open(Path(name).as_uri())


def _tell(summary: dict[str, object], as_json: bool) -> int:
    if as_json:
        print(json.dumps(summary, indent=2, ensure_ascii=False))
        return 0
    for line in summary["lines"]:  # type: ignore[attr-defined]
        OUT.print(line, markup=False)
    return 0
