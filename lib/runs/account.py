"""A workspace's status.json: what its last run did, or does.

    write_account(root, account)
    read_account(root / "status.json")      # {"run": "demo", "state": "completed", "stages": {...}, ...}

It stands beside workspace.py so that `augment status` starts without the families that a run needs.
"""

from __future__ import annotations

import contextlib
import errno
from pathlib import Path
from typing import Any, TypedDict

from filelock import FileLock, Timeout

from lib.core.bucket import Bucket
from lib.core.errors import AugmentError
from lib.core.lease import alive
from lib.core.places import url_of
from lib.records import kept


class _Stage(TypedDict):
    rows: int
    ok: int
    painted: int
    reused: int
    rejected: dict[str, int]


class _Account(TypedDict):
    """The fields that every status.json has."""

    run: str
    state: str
    stages: dict[str, _Stage]


def write_account(root: Path, account: dict[str, Any]) -> None:
    """status.json of a workspace: what its last run did, or does."""
    kept.write(root / "status.json", account)


def write_failure(root: Path, account: dict[str, Any]) -> None:
    """The account of a run that ended with an error, on a full disk too: over the former one, in the room that it has.

    Where even that cannot be written the former account stays; `read_account` finds from the lock that the run ended.
    """
    short = {name: account[name] for name in _Account.__annotations__ if name != "stages"} | {"stages": {}}
    errors = {"error": account.get("error", "")}
    for version in (account, short | errors, short):
        with contextlib.suppress(OSError):
            kept.write(root / "status.json", version)
            return
        with contextlib.suppress(OSError):
            kept.overwrite(root / "status.json", version)
            return


def read_account(path: Path) -> dict[str, Any]:
    """What `write_account` wrote into a file; that of a run that was killed has the state "stopped".

    Raises AugmentError where it is missing or damaged: nothing needs it.
    """
    account = kept.read(path, dict[str, Any], "run again, which writes it anew")
    if account is None:
        raise AugmentError(f"{path} not found: a run writes it")
    if not kept.conforms(account, _Account):
        raise AugmentError(f"{path} is damaged (it is not an account of a run): run again, which writes it anew")
    if account["state"] == "running" and not held(path.parent):
        return account | {"state": "stopped", "error": "it was ended from outside; run again, it goes on where it was"}
    return account


def former_account(root: Path) -> dict[str, Any]:
    """The account of a workspace's last run; empty where there is none that can be read."""
    try:
        return read_account(root / "status.json")
    except (AugmentError, OSError):
        return {}


def held(root: Path) -> bool:
    """Does a run hold the workspace now? A killed one does not, whatever its status says.

    Of a workspace in a bucket, which another machine may hold, it takes some seconds to find out.
    """
    return _held_here(root) or ((url := url_of(root)) is not None and alive(Bucket(url, hurry=True)))


def _held_here(root: Path) -> bool:
    if not (root / ".lock").exists():
        return False
    try:
        with FileLock(root / ".lock", timeout=0):
            return False
    except Timeout:
        return True
    except OSError as error:
        return error.errno != errno.EROFS  # where nothing can be written nobody runs; else it is not known
