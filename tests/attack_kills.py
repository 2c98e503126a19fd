"""`augment run` killed at any moment, on a temporary server or on a shared one, and run again.

What must hold: the final set is that of a run that nobody killed, nothing is painted twice, nothing half written stays,
no process is left over, and status.json tells how it ended.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import yaml
from attack_workspaces import check_account_state
from attacks import CHECKOUT, Attack, Fault, difference, end_group, files_of, prefect_server
from conftest import MadeSet

PATIENCE = 300  # seconds for a whole run, on a machine that is busy with other things
LEFT = 30  # seconds that what a killed process leaves may take to end

TOKEN = "AUGMENT_ATTACK"


@dataclass
class Killed:
    """A data set to run on, in its workspaces; `token` marks every process that comes of it."""

    folder: Path
    values: dict[str, Any]
    token: str = field(default_factory=lambda: uuid.uuid4().hex)
    whole: dict[str, bytes] = field(default_factory=dict)  # the final set of a run that nobody killed
    files: int = 0  # in its workspace

    @property
    def workspace(self) -> Path:
        return self.folder / "ws"

    def start(self, server: str | None) -> subprocess.Popen[bytes]:
        """`augment run`; server: API URL, none: a temporary one."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
        home = {"PREFECT_HOME": str(self.folder / "home"), "PREFECT_PROFILES_PATH": str(self.folder / "profiles.toml")}
        environment = kept | home | {TOKEN: self.token} | ({"PREFECT_API_URL": server} if server else {})
        file = self.folder / "run.yaml"
        file.write_text(yaml.safe_dump(self.values | {"workspace": str(self.workspace)}))
        with (self.folder / "log").open("wb") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "flows.cli", "run", str(file)],
                cwd=self.folder,
                env=environment | {"PYTHONPATH": os.pathsep.join([str(CHECKOUT), os.environ.get("PYTHONPATH", "")])},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def finish(self, server: str | None) -> None:
        """A run to its end; raises Fault where it does not complete."""
        process = self.start(server)
        try:
            code = process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            end_group(process)
            raise Fault(f"no end after {PATIENCE} s: {self.log()}") from None
        if code:
            raise Fault(f"exit code {code}: {self.log()}")

    def log(self) -> str:
        """The end of the last process's output."""
        return (self.folder / "log").read_text("utf-8", "replace")[-1500:]

    def alive(self) -> list[int]:
        """Processes that come of it (Linux; elsewhere none are known)."""
        mark, found = f"{TOKEN}={self.token}".encode(), []
        for path in Path("/proc").glob("[0-9]*/environ"):
            with contextlib.suppress(OSError):
                state = (path.parent / "stat").read_text().rpartition(")")[2].split()[0]
                if mark in path.read_bytes().split(b"\0") and state != "Z":
                    found.append(int(path.parent.name))
        return found

    def end_all(self) -> None:
        """Nothing of it goes on."""
        for pid in self.alive():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


@contextmanager
def attacking(folder: Path) -> Iterator[Attack]:
    """Attack n: one to three kills, then a run to the end."""
    made = MadeSet(folder / "made", 10, size=(320, 240))
    prepared: dict[str, Killed] = {}

    def prepare(name: str, server: str) -> Killed:
        place = folder / name
        place.mkdir()
        values: dict[str, Any] = {"dataset": made.dataset, "variants": 2, "finalise": {"yolo": True}}
        if name == "model":
            from tiny import tiny_gligen

            model = tiny_gligen(folder / "weights", inpaint=True)
            painter = {"name": "gligen-inpaint", "model": str(model), "steps": 2, "size": 64}
            values |= {"preset": "gligen-inpainting", "caption": {"captioner": "template"}, "painter": painter}
            values |= {"screen": {"black": 0, "blank": 0}, "variants": 1}
        one = Killed(place, values)
        one.finish(server)
        one.whole = files_of(one.workspace / "final")
        one.files = sum(len(names) for _, _, names in os.walk(one.workspace))
        return one

    with prefect_server() as server:

        def attack(number: int) -> str:
            random = Random(f"kills {number}")
            name, alone = random.choice(["copies", "copies", "model"]), random.random() < 0.3
            if name not in prepared:
                prepared[name] = prepare(name, server)
            one = prepared[name]
            try:
                return kill_and_finish(one, None if alone else server, random)
            finally:
                one.end_all()

        yield attack


def kill_and_finish(one: Killed, server: str | None, random: Random) -> str:
    """How it ended; raises Fault."""
    shutil.rmtree(one.workspace, ignore_errors=True)
    kept: dict[Path, int] = {}
    killed = []
    for _ in range(random.choice([1, 1, 2, 3])):
        number = random.choice([signal.SIGKILL] * 4 + [signal.SIGTERM, signal.SIGINT])
        if kill_at(one, one.start(server), number, random):
            killed.append(number.name)
        wait_for_none(one, f"after {number.name}")
        kept |= {p: p.stat().st_ino for p in one.workspace.glob("store/picture/*/*") if not p.name.startswith(".tmp")}
    one.finish(server)
    wait_for_none(one, "after the end")
    how = f"killed by {', '.join(killed) or 'nothing'}, {'a server' if server else 'no server'}"
    check_final(one, how)
    if twice := [path.name for path, inode in kept.items() if not path.exists() or path.stat().st_ino != inode]:
        raise Fault(f"{len(twice)} of {len(kept)} pictures made again: {how}")
    return f"killed, {'on a server' if server else 'on its own server'}" if killed else "ended before"


def check_final(one: Killed, how: str) -> None:
    """Raises Fault where a workspace is not as if nobody had killed its run."""
    if changed := difference(one.whole, files_of(one.workspace / "final")):
        raise Fault(f"the final set, {changed}: {how}")
    if left := [p.name for p in one.workspace.rglob(".tmp-*")]:
        raise Fault(f"half written files stay, {left[:3]}: {how}")
    account = check_account_state(one.workspace, completed=True)
    if account["painted"] + account["reused"] != account["stages"]["generate"]["rows"]:
        raise Fault(f"status.json does not add up: {json.dumps(account)[:500]}: {how}")


def kill_at(one: Killed, process: subprocess.Popen[bytes], number: int, random: Random) -> bool:
    """Signal the process when its workspace has some number of files, or after some time; False: it ended before."""
    wanted = 0 if random.random() < 0.1 else random.randrange(1, one.files)
    deadline = time.monotonic() + (random.random() * 15 if wanted == 0 else PATIENCE)
    while process.poll() is None and time.monotonic() < deadline:
        if wanted and one.workspace.is_dir() and sum(len(names) for _, _, names in os.walk(one.workspace)) >= wanted:
            break
        time.sleep(0.001)
    time.sleep(random.random() * 0.03)
    ended = process.poll() is not None
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(number)
    try:
        process.wait(LEFT)
    except subprocess.TimeoutExpired:
        end_group(process)
        raise Fault(f"signal {number} did not end it within {LEFT} s: {one.log()}") from None
    return not ended


def wait_for_none(one: Killed, when: str) -> None:
    """Raises Fault where a process is left over."""
    deadline = time.monotonic() + LEFT
    while (alive := one.alive()) and time.monotonic() < deadline:
        time.sleep(0.1)
    if alive:
        words = [Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()[:150] for pid in alive]
        one.end_all()
        raise Fault(f"{len(alive)} processes are left over {when}: {words}")
