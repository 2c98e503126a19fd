"""What the last run of a workspace left, checked against its account before `augment tidy` relies on it.

last = read_last_run(root)
for row in last.ok("generate", "key", "picture"): ...
for key, request in last.requests(): ...
"""

from __future__ import annotations

import contextlib
import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pandas as pd
from pydantic import ValidationError

from lib.core.errors import AugmentError
from lib.evaluation.real import RealPictures
from lib.records import kept
from lib.records.manifest import read_batches
from lib.records.requests import Request, parsed, picture_keys
from lib.records.rows import OK, STAGES, ObjectRow
from lib.records.shelf import Shelf
from lib.records.store import Store
from lib.runs.account import read_account
from lib.runs.parameters import Resolved

_OF_PICTURE = ("key", "split", "digest", "frame", "width", "height")
_AGAIN = "run it again to its end, then tidy"


@dataclass
class LastRun:
    """Its settings, its account, and its manifests, which are read some rows at a time."""

    root: Path
    settings: Resolved
    account: Mapping[str, Any]

    @property
    def store(self) -> Store:
        """The workspace's store."""
        return Store(self.root / "store")

    @property
    def meanwhile(self) -> Path:
        """Folder of shelves."""
        return self.root / "manifests"

    def manifest(self, stage: str) -> Path:
        """The file with a stage's rows."""
        return _manifest(self.root, stage)

    def rows(self, stage: str, *columns: str) -> Iterator[Any]:
        """A stage's rows."""
        for rows in read_batches(self.manifest(stage), STAGES[stage], columns):
            yield from rows.itertuples(index=False)

    def ok(self, stage: str, *columns: str) -> Iterator[Any]:
        """Those that are ok."""
        return (row for row in self.rows(stage, "status", *columns) if row.status == OK)

    def by_picture(self) -> Iterator[tuple[pd.DataFrame, pd.DataFrame]]:
        """ObjectRows, and columns of the ImageRows of their pictures, some at a time; those that are ok."""
        pictures = Shelf[bytes](self.meanwhile)
        pictures.put((row.key, msgspec.json.encode(row)) for row in self.ok("ingest", *_OF_PICTURE))
        for rows in read_batches(self.manifest("objects"), ObjectRow):
            rows = rows[rows.status == OK]
            found = [text for key in rows.image_key.unique() if (text := pictures.get(key)) is not None]
            yield rows, pd.DataFrame(map(msgspec.json.decode, found), columns=["status", *_OF_PICTURE])

    def real_pictures(self) -> RealPictures:
        """Those that the report is about."""
        images, objects, selected = map(self.manifest, ("ingest", "objects", "select"))
        boxes = self.account["stages"]["objects"]["rows"]
        return RealPictures(images, objects, selected, self.settings.select.split, boxes)

    def requests(self) -> Iterator[tuple[str, Request]]:
        """(key, request) of the plan's rows that are ok; a key is the digest of its request, so an altered one does not
        pass: raises AugmentError."""
        for row in self.ok("plan", "key", "request"):
            if hashlib.sha256(b"[" + row.request + b"]").hexdigest() != row.key:
                raise AugmentError(f"{self.root / 'manifests' / 'plan.parquet'} is damaged: {_AGAIN}")
            yield row.key, parsed(Request, row.request)

    def requests_of(self, rows: Iterable[Any]) -> Iterator[tuple[Any, Request]]:
        """Rows, in the order of the plan, each with its request. Raises AugmentError for a row without one."""
        requests = self.requests()
        for row in rows:
            request = next((request for key, request in requests if key == row.key), None)
            if request is None:
                raise AugmentError(f"{self.root / 'manifests' / 'plan.parquet'} has no request {row.key}: {_AGAIN}")
            yield row, request


def read_last_run(root: Path) -> LastRun:
    """The last run of a workspace. Raises AugmentError where it did not come to its end, or its settings, manifests or
    pictures are not what it left."""
    account = read_account(root / "status.json")
    if account["state"] != "completed":
        raise AugmentError(f"the last run of workspace {root} is {account['state']}: {_AGAIN}")
    if missing := [name for name in STAGES if name not in account["stages"]]:
        raise AugmentError(f"the last run of workspace {root} had no stage {missing[0]}: tidy is for `augment run`")
    document = kept.read(root / "settings.json", dict[str, Any], _AGAIN)
    try:
        settings = Resolved.model_validate(document)
    except ValidationError:
        raise AugmentError(f"{root / 'settings.json'} is missing or of another version: {_AGAIN}") from None
    for name in STAGES:
        _check_manifest(root, name, account["stages"][name])
    last = LastRun(root, settings, account)
    _check_pictures(last)
    return last


def _manifest(root: Path, stage: str) -> Path:
    return root / "manifests" / f"{stage}.parquet"


def _check_manifest(root: Path, stage: str, counts: Mapping[str, Any]) -> None:
    """Raise AugmentError where it is not whole: all of it is read once."""
    path, found = _manifest(root, stage), Counter[str]()
    with contextlib.suppress(AugmentError):
        for rows in read_batches(path, STAGES[stage]):
            found.update(rows=len(rows), ok=int((rows.status == OK).sum()))
        if (found["rows"], found["ok"]) == (counts["rows"], counts["ok"]):
            return
    raise AugmentError(f"{path} is {'damaged' if path.exists() else 'missing'}: {_AGAIN}")


def _check_pictures(last: LastRun) -> None:
    """Are all pictures that the run made in the store, and those that its requests ask for?"""
    pictures = Shelf[str](last.meanwhile)
    pictures.put((key, picture_keys(request)[-1][1]) for key, request in last.requests())
    for row in last.ok("generate", "key", "name", "picture", "sha256", "size"):
        if pictures.get(row.key) != row.picture:
            raise AugmentError(f"{last.root / 'manifests' / 'generate.parquet'} is damaged: {_AGAIN}")
        if (
            last.store.sha256("picture", row.picture) != row.sha256
            or last.store.size("picture", row.picture) != row.size
        ):
            raise AugmentError(f"picture {row.name} is not in the store as the last run left it: {_AGAIN}")
