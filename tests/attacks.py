"""Attacks on the whole program, drawn from numbers: kills, damaged workspaces, hostile data sets, documents, requests.

make attack MINUTES=60                                   # or: python tests/attacks.py --minutes 60
python tests/attacks.py --kind documents --first 1234    # one attack again

Attack `number` of a kind is the same every time. It ends as it should, with a word for how, or it is a fault, which is
listed with the command that repeats it. Kinds run one after another in separate processes, so that one that hangs,
crashes or eats memory is a fault too and the others go on. A new kind is a module with `attacking` and a line in KINDS.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import importlib
import json
import os
import queue
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

TESTS = Path(__file__).resolve().parent
CHECKOUT = TESTS.parent

Attack = Callable[[int], str]  # a number → how it ended; raises Fault, or whatever else is a fault


class Fault(Exception):
    """An attack that did not end as it should."""


@dataclass(frozen=True)
class Kind:
    """module: has `attacking(folder)`, a context manager that gives an Attack."""

    module: str
    share: float  # of the time
    limit: float  # seconds that one attack may take, and the preparation twice as long

    def open(self, folder: Path) -> AbstractContextManager[Attack]:
        made: AbstractContextManager[Attack] = importlib.import_module(self.module).attacking(folder)
        return made


KINDS = {
    "documents": Kind("attack_documents", share=4, limit=30),
    "sets": Kind("attack_sets", share=5, limit=240),
    "kills": Kind("attack_kills", share=5, limit=1500),
    "workspaces": Kind("attack_workspaces", share=8, limit=240),
    "served": Kind("attack_served", share=1, limit=150),
    "served-kills": Kind("attack_served_kills", share=2, limit=1500),
    "configurations": Kind("attack_configurations", share=2, limit=60),
}


# --- one process: attacks of one kind ------------------------------------------------------------------------------


def run_kind(name: str, first: int, count: int, seconds: float, send: Callable[[dict[str, Any]], None]) -> None:
    """Attacks first, first + 1, ... until so many are done or the time is up; each is reported when it begins and ends.

    There is one at least: where the preparation takes all the time, a kind would else never be tried.
    """
    deadline = time.monotonic() + seconds
    with tempfile.TemporaryDirectory(prefix=f"attack-{name}-") as folder, KINDS[name].open(Path(folder)) as attack:
        for number in range(first, first + count):
            if number > first and time.monotonic() > deadline:
                break
            send({"begun": number})
            send({"number": number, **outcome(attack, number)})


def outcome(attack: Attack, number: int) -> dict[str, str]:
    """{"ended": word}, or {"fault": what, "where": for telling faults apart}."""
    try:
        return {"ended": attack(number)}
    except Fault as fault:
        return {"fault": f"{fault}", "where": alike(f"{fault}")}
    except Exception as error:
        text = "".join(traceback.format_exception(error))
        return {"fault": text[-3000:], "where": f"{type(error).__name__} {_frame(error)}"}


def _frame(error: BaseException) -> str:
    """The innermost line of the project that an error went through."""
    frames = traceback.extract_tb(error.__traceback__)
    of_kind = [f for f in frames if Path(f.filename).parent != TESTS and Path(f.filename).is_relative_to(CHECKOUT)]
    last = (of_kind or frames)[-1]
    return f"{Path(last.filename).name}:{last.lineno} {last.name}"


def alike(text: str) -> str:
    """A fault's text without what differs between two of one kind."""
    return re.sub(r"/tmp/\S+|'[^']*'|\"[^\"]*\"|[0-9a-f]{8,}|\d+", "…", text)[:200]


# --- the whole -----------------------------------------------------------------------------------------------------


@dataclass
class Counts:
    """What came of the attacks of one kind."""

    ended: collections.Counter[str] = field(default_factory=collections.Counter)
    faults: dict[str, list[tuple[int, str]]] = field(default_factory=dict)  # where → (number, text)
    next: int = 0  # number of the next attack

    @property
    def faulty(self) -> int:
        return sum(map(len, self.faults.values()))

    @property
    def tried(self) -> int:
        return self.ended.total() + self.faulty

    def add(self, report: dict[str, Any]) -> None:
        self.next = report["number"] + 1
        if "ended" in report:
            self.ended[report["ended"]] += 1
        else:
            self.faults.setdefault(report["where"], []).append((report["number"], report["fault"]))

    def summary(self, name: str) -> str:
        words = ", ".join(f"{word} {n}" for word, n in sorted(self.ended.items()))
        return (
            f"{name:>15}: {self.tried} tried, {self.ended.total()} ended as they should, {self.faulty} faults ({words})"
        )


def attack_all(counts: dict[str, Counts], minutes: float) -> None:
    """Kinds in turn, each as long as its share, in rounds of about twenty minutes."""
    rounds, shares = max(1, round(minutes / 20)), sum(KINDS[name].share for name in counts)
    for _ in range(rounds):
        for name, of_kind in counts.items():
            attack_in_process(name, minutes * 60 / rounds * KINDS[name].share / shares, of_kind)
            print(of_kind.summary(name), flush=True)


def attack_in_process(name: str, seconds: float, counts: Counts) -> None:
    """Attacks of one kind in a process that is watched; one that ends badly is a fault, and the next goes on."""
    deadline = time.monotonic() + seconds
    while (left := deadline - time.monotonic()) > 0:
        before = counts.next
        command = [sys.executable, __file__, "--kind", name, "--first", str(before), "--seconds", str(left), "--lines"]
        with tempfile.TemporaryDirectory(prefix="attacks-") as folder:
            watch(command, KINDS[name].limit, counts, Path(folder))
        if counts.next == before:  # its preparation fails: it would for ever
            return


def watch(command: list[str], limit: float, counts: Counts, folder: Path) -> None:
    """Count what a process reports; one that ends badly, or is silent for too long, is a fault of the attack begun.

    limit: seconds for an attack, and half as many for the preparation; folder: for all that it writes.
    """
    with (folder / "errors").open("wb") as errors:
        process = subprocess.Popen(
            command,
            cwd=CHECKOUT,
            env={**os.environ, "TMPDIR": str(folder)},
            stdout=subprocess.PIPE,
            stderr=errors,
            start_new_session=True,  # its children end with it
        )
    lines: queue.Queue[bytes] = queue.Queue()
    threading.Thread(target=_pump, args=(process, lines), daemon=True).start()
    begun, patience, wrong = None, 2 * limit, ""
    try:
        while line := lines.get(timeout=patience):
            report = json.loads(line)
            begun, patience = report.get("begun"), limit
            if begun is None:
                counts.add(report)
        code = process.wait(limit)
        wrong = f"the process ended with code {code}" if code or begun is not None else ""
    except (queue.Empty, subprocess.TimeoutExpired):
        wrong = f"no end after {patience:g} s"
    finally:
        end_group(process)
    if wrong:
        words = (folder / "errors").read_text("utf-8", "replace")[-1500:]
        counts.add(
            {"number": counts.next if begun is None else begun, "fault": f"{wrong}: {words}", "where": alike(wrong)}
        )


def _pump(process: subprocess.Popen[bytes], lines: queue.Queue[bytes]) -> None:
    assert process.stdout is not None
    with process.stdout as output:
        for line in output:
            lines.put(line)
    lines.put(b"")


def end_group(process: subprocess.Popen[bytes]) -> None:
    """A process and its children killed."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def show_attack(report: dict[str, Any], name: str, counts: Counts) -> None:
    """Count an attack, and say how it ended."""
    if "begun" not in report:
        counts.add(report)
        print(f"{name} {report['number']}: {report.get('ended') or 'FAULT ' + report['where']}", flush=True)


def show(counts: dict[str, Counts]) -> None:
    """Faults with how to repeat them, then the counts."""
    for name, of_kind in counts.items():
        for where, faults in of_kind.faults.items():
            number, text = faults[0]
            print(f"\nFAULT {name}, {len(faults)} times: {where}\n{text.rstrip()}")
            numbers = ", ".join(str(n) for n, _ in faults[:8])
            print(f"again: python tests/attacks.py --kind {name} --first {number}   (numbers: {numbers})")
    print()
    for name, of_kind in counts.items():
        print(of_kind.summary(name))


def main() -> int:
    """1 where there was a fault."""
    parser = argparse.ArgumentParser(description="Attack the program; counts, and each fault with how to repeat it.")
    parser.add_argument("--minutes", type=float, default=60, help="default %(default)s")
    parser.add_argument("--kind", action="append", choices=KINDS, help="these kinds alone; may be repeated")
    parser.add_argument("--first", type=int, help="number of the first attack; alone: this attack and no other")
    parser.add_argument("--count", type=int, default=1, help="with --first: so many")
    parser.add_argument("--seconds", type=float, help=argparse.SUPPRESS)
    parser.add_argument("--lines", action="store_true", help=argparse.SUPPRESS)  # how the processes report
    options = parser.parse_args()
    names = options.kind or list(KINDS)
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(143))  # what is open is closed and swept
    if options.lines:
        out = os.dup(1)  # what the program itself prints is not ours
        os.dup2(2, 1)
        with os.fdopen(out, "w") as lines:
            send: Any = lambda report: print(json.dumps(report), file=lines, flush=True)  # noqa: E731
            run_kind(names[0], options.first, 10**9, options.seconds, send)
        return 0
    alone = options.first is not None
    counts = {name: Counts(next=options.first if alone else 1_000_000) for name in names}  # not those of `make test`
    try:
        if not alone:
            attack_all(counts, options.minutes)
        for name, of_kind in counts.items() if alone else ():
            run_kind(
                name,
                options.first,
                options.count,
                10**9,
                lambda report, of_kind=of_kind, name=name: show_attack(report, name, of_kind),
            )
    finally:  # stopped early, too
        show(counts)
    return 1 if any(of_kind.faults for of_kind in counts.values()) else 0


# --- what several kinds use ------------------------------------------------------------------------------------------

SERVER: str | None = None  # API URL of a Prefect server that is there already


@contextlib.contextmanager
def prefect_server() -> Iterator[str]:
    """A Prefect server for flows in this process: its API URL."""
    if SERVER:
        yield SERVER
        return
    from prefect.settings import PREFECT_API_URL
    from prefect.testing.utilities import prefect_test_harness

    with prefect_test_harness(server_startup_timeout=300):
        yield str(PREFECT_API_URL.value())


def check_error(error: BaseException, *names: str) -> None:
    """Raises Fault unless an error's text is a sentence for a person that has one of the names in it."""
    text = f"{error}"
    if "Traceback" in text or len(text) > 3000:
        raise Fault(f"no sentence for a person: {text[:500]!r}")
    if bad := [c for c in text if not c.isprintable() and c not in "\n\u3000"]:
        raise Fault(f"the error would print {bad[0]!r}: {text[:300]!r}")
    if names and not any(name in text for name in names):
        raise Fault(f"the error names none of {', '.join(names[:5])} …: {text[:500]!r}")


def files_of(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, and every link as its target; folders have an entry too."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        found[name] = (
            b"-> " + os.fsencode(path.readlink()) if path.is_symlink() else b"/" if path.is_dir() else path.read_bytes()
        )
    return found


def difference(before: dict[str, bytes], after: dict[str, bytes]) -> str:
    """What changed, in a line; "" where nothing did."""
    lost, new = sorted(before.keys() - after.keys()), sorted(after.keys() - before.keys())
    other = [name for name in before.keys() & after.keys() if before[name] != after[name]]
    parts = [("missing", lost), ("new", new), ("changed", sorted(other))]
    return "; ".join(f"{word} {', '.join(map(repr, names[:4]))}" for word, names in parts if names)


@contextlib.contextmanager
def inside(folder: Path) -> Iterator[None]:
    """The working folder for a while."""
    before = Path.cwd()
    folder.mkdir(parents=True, exist_ok=True)
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def fresh(folder: Path) -> Path:
    """An empty folder where there may have been another."""
    if folder.is_dir():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    return folder


if __name__ == "__main__":
    sys.modules["attacks"] = sys.modules[__name__]  # what the kinds import is this module
    sys.exit(main())
