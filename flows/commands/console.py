"""Where commands print: results to standard output, progress and errors to standard error."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

from lib.core.places import as_urls

# No markup: a path or an error may hold square brackets.
OUT = Console(highlight=False, markup=False, soft_wrap=True)
ERR = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)

Watch = Callable[[str, int, int], None]  # stage, done, total


def add_quiet(parser: argparse.ArgumentParser, result: str) -> None:
    """The flag --quiet, which leaves errors and what `print_result` prints."""
    parser.add_argument("--quiet", action="store_true", help=f"print nothing but errors and {result}")


def print_result(result: object) -> None:
    """What a command leaves on standard output with --quiet; nothing without."""
    if OUT.quiet:
        print(as_urls(str(result)))


def print_places(places: Mapping[str, object]) -> None:
    """Paths with what lies there, one a line."""
    for name, path in places.items():
        OUT.print(f"{name:>14}  {as_urls(str(path))}")


def print_table(table: Table) -> None:
    """A table that folds its cells on a narrow terminal, and is as wide as it needs to be in a file or a pipe."""
    if not OUT.file.isatty():
        table.width = Measurement.get(OUT, OUT.options.update(max_width=_WIDEST), table).maximum
    OUT.print(table, crop=False)


_WIDEST = 100_000  # columns


def make_table(columns: Sequence[str], title: str | None = None, right: Sequence[str] = ()) -> Table:
    """An empty table. right: columns of numbers."""
    table = Table(title=title, title_justify="left")
    for column in columns:
        table.add_column(column, justify="right" if column in right else "left")
    return table


@contextmanager
def bars() -> Iterator[Watch]:
    """A bar per stage on a terminal, elsewhere a line per finished stage, and what is downloaded; not with --quiet."""
    with _told("augment.review"):  # a link that a run waits behind
        if OUT.quiet:
            yield lambda stage, done, total: None
            return
        with _told("augment.downloads"):
            yield from _bars()


@contextmanager
def _told(name: str) -> Iterator[None]:
    log, handler = logging.getLogger(name), _OnErr()
    former = log.level
    log.setLevel(logging.INFO)
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(former)


class _OnErr(logging.Handler):
    """Records as lines of standard error, above the bars."""

    def emit(self, record: logging.LogRecord) -> None:
        ERR.print(record.getMessage())


def _bars() -> Iterator[Watch]:
    if not ERR.is_terminal:
        yield lambda stage, done, total: ERR.print(f"{stage}: {done} of {total}") if done == total else None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description:>9}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=ERR) as progress:
        known: dict[str, Any] = {}

        def watch(stage: str, done: int, total: int) -> None:
            if stage not in known:
                known[stage] = progress.add_task(stage, total=total)
            progress.update(known[stage], completed=done, total=total)

        yield watch
