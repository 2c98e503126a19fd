"""Decisions of persons on painted pictures: `<workspace>/decisions.jsonl`, one a line, only ever appended to.

    log = DecisionLog(root / "decisions.jsonl")
    log.append(new_decision("ann", [Mark(picture=key, sha256=sha256, status="keep")]))     # on the disk on return
    log.refresh().of(key, sha256).status                                                   # also what others appended

A decision belongs to a picture by its key and the digest of its bytes, so it stays with the picture it was made on,
whatever becomes of the run. The last decision on a picture counts, whoever made it; each reviewer's own last one is
kept for agreement. A line that a power cut tore is passed over, and the next one starts anew.
"""

from __future__ import annotations

import os
import secrets
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import msgspec
from filelock import FileLock, Timeout

from lib.core.errors import AugmentError
from lib.core.files import to_disk
from lib.core.keys import key_of
from lib.records.kept import FAULTS

NAME = "decisions.jsonl"
Status = Literal["keep", "reject", "undecided"]

_Key = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{8,64}\Z")]
_Digest = Annotated[str, msgspec.Meta(pattern=r"^([0-9a-f]{64})?\Z")]
_BoxId = Annotated[str, msgspec.Meta(pattern=r"^(new-)?[0-9a-f]{8,32}\Z")]
_Id = Annotated[str, msgspec.Meta(pattern=r"^[0-9A-Za-z_-]{8,64}\Z")]
_Who = Annotated[str, msgspec.Meta(min_length=1, max_length=100)]
_Pixels = Annotated[float, msgspec.Meta(ge=-1e6, le=1e6)]
_Length = Annotated[float, msgspec.Meta(gt=0, le=1e6)]


class _Change(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="do", kw_only=True):
    pass


class OfPicture(_Change, frozen=True, kw_only=True):
    """What all changes of a picture have."""

    picture: _Key
    sha256: _Digest = ""


class Mark(OfPicture, frozen=True, tag="picture", kw_only=True):
    """A picture is kept, rejected, or left undecided."""

    status: Status


class BoxMark(OfPicture, frozen=True, tag="box", kw_only=True):
    """A label is left out, or accepted although screening did not, or is again as screening left it ("")."""

    box: _BoxId  # lib.screening.labels.box_id
    status: Literal["keep", "reject", ""]


class Shape(OfPicture, frozen=True, tag="shape", kw_only=True):
    """A label was moved, resized or named anew; one whose id begins with "new-" is an object that no label names."""

    box: _BoxId
    category: Annotated[str, msgspec.Meta(max_length=1000)]
    xywh: tuple[_Pixels, _Pixels, _Length, _Length]  # left, top, width, height, pixels


class Note(OfPicture, frozen=True, tag="note", kw_only=True):
    text: Annotated[str, msgspec.Meta(max_length=2000)]


class Targets(_Change, frozen=True, tag="targets", kw_only=True):
    """Boxes that the final set is to have, by category; shown to reviewers, and of no other effect."""

    boxes: dict[str, Annotated[int, msgspec.Meta(ge=0, le=1_000_000_000)]]


class Keys(_Change, frozen=True, tag="keys", kw_only=True):
    """Keys of a reviewer: action → key."""

    keys: Annotated[dict[Annotated[str, msgspec.Meta(max_length=40)], Annotated[str, msgspec.Meta(max_length=40)]],
                    msgspec.Meta(max_length=60)]  # fmt: skip


class Submit(_Change, frozen=True, tag="submit", kw_only=True):
    """A reviewer is done: a run that waits goes on."""

    undecided: Literal["keep", "reject"]  # what becomes of pictures without a decision
    shown: _Digest = ""  # digest_of the pictures that the run had then


class Undo(_Change, frozen=True, tag="undo", kw_only=True):
    """An earlier decision does not count."""

    decision: _Id


Change = Mark | BoxMark | Shape | Note | Targets | Keys | Submit | Undo


class Decision(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A line of the log: changes that were made at once, and are undone at once."""

    id: _Id
    at: Annotated[str, msgspec.Meta(max_length=40)]  # ISO 8601, UTC
    by: _Who
    changes: Annotated[tuple[Change, ...], msgspec.Meta(min_length=1, max_length=5000)]


def new_decision(by: str, changes: Sequence[Change], id: str | None = None) -> Decision:
    """A decision of now. id: given by who might send it twice."""
    now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return Decision(id or secrets.token_hex(12), now, by, tuple(changes))


@dataclass
class Reviewed:
    """What persons decided on one picture."""

    status: Status | None = None  # of the last decision; None: nobody decided
    by: str = ""  # whose it is
    at: str = ""
    marks: dict[str, Status] = field(default_factory=dict)  # reviewer → own last decision
    boxes: dict[str, str] = field(default_factory=dict)  # box id → "keep" | "reject"
    shapes: dict[str, Shape] = field(default_factory=dict)  # box id → where it was put
    note: str = ""

    @property
    def disputed(self) -> bool:
        """Do two reviewers' own last decisions contradict?"""
        return len({status for status in self.marks.values() if status != "undecided"}) > 1


_Of = tuple[str, str]  # picture key, sha256
T = TypeVar("T", bound=_Change)


class DecisionLog:
    """The log of a workspace, read as far as it goes. Several processes may append to one file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.damaged = 0  # lines that are no decisions
        self._offset, self._seen = 0, dict[str, Decision]()
        self._undone: set[str] = set()
        self._of: dict[_Of, list[tuple[Decision, OfPicture]]] = defaultdict(list)
        self._state: dict[_Of, Reviewed] = {}
        self._order: list[set[_Of]] = []  # pictures that each line touched

    # --- writing

    def append(self, decision: Decision) -> bool:
        """Write a decision, and wait until it is on the disk; False where one of this id is there already."""
        line = msgspec.json.encode(decision) + b"\n"
        self._check()
        try:
            with FileLock(self.path.with_name(f".{self.path.stem}.lock"), timeout=10):
                self.refresh()
                if decision.id in self._seen:
                    return False
                with self.path.open("ab") as file:
                    file.write(b"\n" + line if self._torn() else line)
                    to_disk(file)
        except Timeout:
            raise AugmentError(f"{self.path} is held by another program for 10 s: end it, and decide again") from None
        except OSError as error:
            raise AugmentError(
                f"{self.path} cannot be written ({error.strerror or error}): nothing was noted"
            ) from None
        self.refresh()
        return True

    def _check(self) -> None:
        """Raise AugmentError where something else has the file's name: a link would lead out of the workspace."""
        if self.path.is_symlink() or (self.path.exists() and not self.path.is_file()):
            raise AugmentError(f"{self.path} is not a file of its own: move it away")

    def _torn(self) -> bool:
        """Does the last line lack its end?"""
        with self.path.open("rb") as file:
            if file.seek(0, os.SEEK_END) == 0:
                return False
            file.seek(-1, os.SEEK_END)
            return file.read(1) != b"\n"

    # --- reading

    def refresh(self) -> DecisionLog:
        """Take in what was appended since; returns itself. Raises AugmentError where the file cannot be read."""
        self._check()
        try:
            with self.path.open("rb") as file:
                if os.fstat(file.fileno()).st_size < self._offset:  # replaced by another
                    self.__init__(self.path)  # type: ignore[misc]
                file.seek(self._offset)
                data = file.read()
        except FileNotFoundError:
            return self
        except OSError as error:
            raise AugmentError(f"{self.path} cannot be read ({error.strerror or error}): move it away") from None
        whole = data[: data.rfind(b"\n") + 1]
        self._offset += len(whole)
        for line in whole.splitlines():
            self._take(line)
        return self

    def _take(self, line: bytes) -> None:
        if not line.strip():
            return
        try:
            decision = msgspec.json.decode(line, type=Decision)
        except FAULTS:
            self.damaged += 1
            return
        if decision.id in self._seen:
            return
        self._seen[decision.id] = decision
        touched: set[_Of] = set()
        for change in decision.changes:
            if isinstance(change, OfPicture):
                of = (change.picture, change.sha256)
                self._of[of].append((decision, change))
                touched.add(of)
            elif isinstance(change, Undo):
                touched |= self._undo(change.decision)
        for of in touched:
            self._state[of] = _folded(self._of[of], self._undone)
        self._order.append(touched)

    def _undo(self, id: str) -> set[_Of]:
        """Pictures that the decision `id` was on."""
        self._undone.add(id)
        former = self._seen.get(id)
        changes = former.changes if former else ()
        return {(change.picture, change.sha256) for change in changes if isinstance(change, OfPicture)}

    @property
    def version(self) -> int:
        """Number of decisions so far."""
        return len(self._order)

    def of(self, picture: str, sha256: str) -> Reviewed:
        """What was decided on a picture."""
        return self._state.get((picture, sha256)) or Reviewed()

    def pictures(self, since: int = 0) -> dict[_Of, Reviewed]:
        """All pictures with decisions, or those that decisions after version `since` were on."""
        if since <= 0:
            return dict(self._state)
        touched = set().union(*self._order[since:]) if since < len(self._order) else set()
        return {of: self._state[of] for of in touched}

    def last(self, kind: type[T], by: str | None = None) -> T | None:
        """The last change of a kind that was not undone, of one reviewer or of any."""
        for decision in reversed(self._seen.values()):
            if decision.id not in self._undone and by in (None, decision.by):
                for change in reversed(decision.changes):
                    if isinstance(change, kind):
                        return change
        return None

    def every(self, kind: type[T]) -> Iterator[T]:
        """All changes of a kind that were not undone."""
        for decision in self._seen.values():
            if decision.id not in self._undone:
                yield from (change for change in decision.changes if isinstance(change, kind))

    def undoable(self, by: str) -> str | None:
        """The id of a reviewer's last decision on pictures that still counts."""
        for decision in reversed(self._seen.values()):
            ours = decision.by == by and decision.id not in self._undone
            if ours and any(isinstance(change, OfPicture) for change in decision.changes):
                return decision.id
        return None

    def undone_by(self, id: str) -> str | None:
        """The id of what the decision `id` undid; None where there is none, or it undid nothing."""
        changes = self._seen[id].changes if id in self._seen else ()
        return next((change.decision for change in changes if isinstance(change, Undo)), None)

    def time_of(self, id: str) -> str:
        """When a decision was made; "" where there is none."""
        return self._seen[id].at if id in self._seen else ""

    def touched(self, id: str) -> list[str]:
        """Keys of the pictures that a decision was on."""
        changes = self._seen[id].changes if id in self._seen else ()
        return list(dict.fromkeys(change.picture for change in changes if isinstance(change, OfPicture)))

    def reviewers(self) -> list[str]:
        """Who decided on a picture, in the order of their first decision."""
        deciders = (d.by for d in self._seen.values() if any(isinstance(c, Mark) for c in d.changes))
        return list(dict.fromkeys(deciders))


def _folded(changes: Iterable[tuple[Decision, OfPicture]], undone: set[str]) -> Reviewed:
    state = Reviewed()
    for decision, change in changes:
        if decision.id in undone:
            continue
        if isinstance(change, Mark):
            state.status, state.by, state.at = change.status, decision.by, decision.at
            state.marks[decision.by] = change.status
        elif isinstance(change, BoxMark):
            if change.status:
                state.boxes[change.box] = change.status
            else:
                state.boxes.pop(change.box, None)
                state.shapes.pop(change.box, None)
        elif isinstance(change, Shape):
            state.shapes[change.box] = change
            state.boxes.pop(change.box, None)
        elif isinstance(change, Note):
            state.note = change.text
    return state


def digest_of(pictures: Iterable[_Of]) -> str:
    """Of the pictures of a run, whatever their order: (picture key, sha256) each."""
    return key_of("pictures", sorted(map(list, pictures)))


def submitted(log: DecisionLog, shown: str) -> bool:
    """Has a reviewer submitted the review of the pictures with this digest?"""
    return any(change.shown == shown for change in log.every(Submit))


@dataclass(frozen=True)
class Agreement:
    """How far two reviewers agree, on the pictures that both kept or rejected."""

    first: str
    second: str
    both: int  # pictures
    same: int
    kappa: float | None  # Cohen's kappa, −1 .. 1: agreement beyond chance; None where it is not defined
    disagreed: tuple[_Of, ...]


def agreement(states: dict[_Of, Reviewed], first: str, second: str) -> Agreement:
    """Cohen (1960), A coefficient of agreement for nominal scales; undecided pictures take no part."""
    pairs = {
        of: (state.marks[first], state.marks[second])
        for of, state in states.items()
        if {state.marks.get(first), state.marks.get(second)} <= {"keep", "reject"}
    }
    both, same = len(pairs), sum(one == two for one, two in pairs.values())
    kappa = None
    if both:
        kept = [sum(pair[i] == "keep" for pair in pairs.values()) / both for i in (0, 1)]
        chance = kept[0] * kept[1] + (1 - kept[0]) * (1 - kept[1])
        kappa = None if chance == 1 else (same / both - chance) / (1 - chance)
    return Agreement(first, second, both, same, kappa, tuple(of for of, (one, two) in pairs.items() if one != two))


def share_interval(accepted: int, checked: int, z: float = 1.96) -> tuple[float, float]:
    """95 % interval of a share (Wilson, 1927), 0 .. 1; the whole range where nothing was checked."""
    if checked == 0:
        return 0.0, 1.0
    share, n = accepted / checked, checked
    middle = share + z * z / (2 * n)
    width = z * (share * (1 - share) / n + z * z / (4 * n * n)) ** 0.5
    low, high = ((middle + sign * width) / (1 + z * z / n) for sign in (-1, 1))
    return max(0.0, low), min(1.0, high)
