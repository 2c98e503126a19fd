"""What the page is told and what it tells: the runs that are reviewed, their decisions, the pictures' bytes.

    session = Session([Path("data/runs/demo")], reviewer="ann")
    session.decide(Post(run=0, id="…", by="ann", changes=[…]))       # on the disk on return

Several runs of one data set are reviewed together to compare what their presets made of a source. Safe to call from
many threads.
"""

from __future__ import annotations

import getpass
import secrets
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import msgspec
from cachetools import LRUCache
from PIL import Image

from lib.core.errors import AugmentError, PictureError
from lib.core.images import source_loader
from lib.review.catalogue import Item, ReviewedRun, load_run, stamp_of
from lib.screening.decisions import (
    Change,
    Keys,
    OfPicture,
    Reviewed,
    Shape,
    Submit,
    Targets,
    Undo,
    agreement,
    digest_of,
    new_decision,
)
from lib.screening.draw import colour_of
from lib.screening.review import rest_of
from lib.screening.thumbnails import jpeg, thumbnail

_WORDS = {"keep": "kept", "reject": "rejected", "undecided": "undecided"}
MOST = 20_000  # pictures of a run that a page holds: 30 MB of JSON, half a GB in this process
_KEPT = 64 * 2**20  # bytes of encoded source pictures that stay in memory


# Versions of the runs' logs that a page knows: it is told what was decided after those; None: only what its post did.
_Versions = Annotated[list[Annotated[int, msgspec.Meta(ge=0)]], msgspec.Meta(max_length=1000)] | None


class Post(msgspec.Struct, forbid_unknown_fields=True):
    """A decision as the page sends it; `sha256` of its changes: of what was seen, filled in here where it lacks."""

    run: Annotated[int, msgspec.Meta(ge=0, le=1000)]
    id: Annotated[str, msgspec.Meta(pattern=r"^[0-9A-Za-z_-]{8,64}\Z")]
    by: Annotated[str, msgspec.Meta(min_length=1, max_length=100)]
    changes: Annotated[list[Change], msgspec.Meta(min_length=1, max_length=5000)]
    versions: _Versions = None


class UndoPost(msgspec.Struct, forbid_unknown_fields=True):
    """The last decision of a reviewer is undone."""

    by: Annotated[str, msgspec.Meta(min_length=1, max_length=100)]
    id: Annotated[str, msgspec.Meta(pattern=r"^[0-9A-Za-z_-]{8,62}\Z")]  # "-u" is put behind it
    versions: _Versions = None


class Missing(Exception):
    """There is no such picture, with what can be done."""


def account_name() -> str:
    """Of this user: who decides, where nobody says otherwise."""
    try:
        return getpass.getuser()[:100]
    except (OSError, KeyError):
        return "reviewer"


class Session:
    """The runs under review."""

    def __init__(
        self,
        roots: Sequence[Path],
        reviewer: str,
        submitted: Callable[[str], str] = lambda by: "",
        named: bool = False,
    ) -> None:
        """submitted: called with the reviewer's name once they are done; returns a sentence for them. named: somebody
        said who reviews, which holds against a name that a browser remembers."""
        self.runs: list[ReviewedRun] = [load_run(root, most=MOST) for root in roots]
        self.reviewer, self.submitted = reviewer, submitted
        self.named = secrets.token_hex(8) if named else ""  # of this start: what is typed in the page after it holds
        self.lock = threading.RLock()
        self._sources: LRUCache[tuple[int, str], bytes] = LRUCache(_KEPT, getsizeof=len)

    # --- told

    def catalogue(self) -> bytes:
        """JSON of everything that the page shows; a run that was painted anew is read again first."""
        with self.lock:
            for place, run in enumerate(self.runs):
                if stamp_of(run.root) != run.stamp:
                    self.runs[place] = load_run(run.root, run, MOST)
            runs = [self._run(run) for run in self.runs]
            logs = [run.log for run in self.runs]
            return msgspec.json.encode(
                {
                    "runs": runs,
                    "categories": (names := sorted({name for run in self.runs for name in run.categories})),
                    "colours": {name: "#{:02x}{:02x}{:02x}".format(*colour_of(name)) for name in names},
                    "reviewer": self.reviewer,
                    "named": self.named,
                    "targets": self._targets(),
                    **self.changes([0] * len(logs)),
                }
            )

    @staticmethod
    def _run(run: ReviewedRun) -> dict[str, Any]:
        return {
            "name": run.name,
            "preset": run.preset,
            "policy": run.review.pick,
            "undecided": run.review.undecided,
            "set_aside": run.set_aside,
            "real": run.real,
            "real_of": run.real_of,
            "total": run.total,
            "items": list(run.items.values()),
        }

    def _targets(self) -> dict[str, int]:
        """As a reviewer set them, else those of the run."""
        for run in self.runs:
            if (chosen := run.log.last(Targets)) is not None:
                return chosen.boxes
        return self.runs[0].targets

    def keys(self, by: str) -> dict[str, str]:
        """The keys that a reviewer chose, by action."""
        with self.lock:
            found = self.runs[0].log.last(Keys, by)
            return found.keys if found else {}

    def changes(self, since: Sequence[int]) -> dict[str, Any]:
        """What was decided after these versions of the runs' logs, by this page or others."""
        with self.lock:
            found = []
            for place, run in enumerate(self.runs):
                log = run.log.refresh()
                states = log.pictures(since[place] if place < len(since) else 0)
                found.append(
                    {key: _state(state) for (key, sha256), state in states.items() if _shown(run, key, sha256)}
                )
            return {
                "versions": [run.log.version for run in self.runs],
                "states": found,
                "stamp": "-".join(run.stamp for run in self.runs),
                "stale": any(_stale(run) for run in self.runs),
                "reviewers": self.reviewers(),
                "rest": [rest_of(run.review, run.log) for run in self.runs],
                "damaged": sum(run.log.damaged for run in self.runs),
            }

    def reviewers(self) -> list[str]:
        """Everybody who decided on a picture."""
        return list(dict.fromkeys(name for run in self.runs for name in run.log.reviewers()))

    def agreements(self) -> list[dict[str, Any]]:
        """Each two reviewers: pictures that both decided on, of those the same, Cohen's kappa, where they differ."""
        with self.lock:
            names, found = self.reviewers(), []
            states = {of: state for run in self.runs for of, state in run.log.refresh().pictures().items()}
            shown = {key: item.name for run in self.runs for key, item in run.items.items()}
            for first, second in ((a, b) for i, a in enumerate(names) for b in names[i + 1 :]):
                one = agreement(states, first, second)
                differ = [{"picture": key, "name": shown.get(key, key)} for key, _ in one.disagreed]
                found.append({"reviewers": [first, second], "both": one.both, "same": one.same, "kappa": one.kappa,
                              "disagreed": differ})  # fmt: skip
            return found

    def told(self) -> str:
        """The decisions so far, in a sentence."""
        with self.lock:
            marks = [run.log.of(item.key, item.sha256).status for run in self.runs for item in run.items.values()]
        kept, rejected = marks.count("keep"), marks.count("reject")
        return f"{kept} kept, {rejected} rejected, {len(marks) - kept - rejected} without a decision"

    def summary(self) -> dict[str, Any]:
        """Decisions by reviewer, notes, agreement: `lines` for a person, the rest for a machine."""
        with self.lock:
            lines, runs = [self.told()], {}
            for run in self.runs:
                states = {item.name: run.log.of(key, item.sha256) for key, item in run.items.items()}
                runs[run.name] = {name: _state(state) for name, state in states.items() if state != Reviewed()}
            by = {who: [s["marks"][who] for one in runs.values() for s in one.values() if who in s["marks"]]
                  for who in self.reviewers()}  # fmt: skip
            for who, marks in by.items():
                counts = ", ".join(f"{marks.count(mark)} {word}" for mark, word in _WORDS.items())
                lines.append(f"{who}: {counts}")
            agreements = self.agreements()
            for one in agreements:
                kappa = "" if one["kappa"] is None else f", Cohen's kappa {one['kappa']:.2f}"
                first, second = one["reviewers"]
                lines.append(f"{first} and {second}: {one['same']} of {one['both']} pictures alike{kappa}")
                lines += [f"  disputed: {picture['name']}" for picture in one["disagreed"]]
            for one in runs.values():
                lines += [f"note on {name}: {state['note']}" for name, state in one.items() if state["note"]]
            return {"lines": lines, "runs": runs, "agreement": agreements}

    # --- what it tells

    def decide(self, post: Post) -> dict[str, Any]:
        """Write a decision into the log of its run. Raises Missing, with nothing written, for a picture that was never
        shown, and AugmentError where the log cannot be written."""
        with self.lock:
            run = self._of(post.run)
            before = self._known(post.versions)
            changes = [_checked(run, change) for change in post.changes]
            run.log.append(new_decision(post.by, changes, post.id))
            told = self.changes(before)
        if any(isinstance(change, Submit) for change in changes):
            told["said"] = self.submitted(post.by)
        return told

    def undo(self, post: UndoPost) -> dict[str, Any]:
        """Undo a reviewer's last decision on pictures, in all runs that it is part of. A post that comes again undoes
        no other one, and finishes what it began."""
        with self.lock:
            before, id = self._known(post.versions), f"{post.id}-u"
            logs = [run.log.refresh() for run in self.runs]
            earlier = next((undone for log in logs if (undone := log.undone_by(id))), None)
            chosen = earlier or self._last_of(post.by)
            parts = [log for log in logs if chosen and log.touched(chosen)]
            for log in parts:
                log.append(new_decision(post.by, [Undo(decision=chosen or "")], id))
            touched = [key for log in parts for key in log.touched(chosen or "")]
            return {**self.changes(before), "undone": touched}

    def _last_of(self, by: str) -> str | None:
        """The id of a reviewer's last decision on pictures, in whichever runs it is."""
        last = {id: run.log.time_of(id) for run in self.runs if (id := run.log.undoable(by))}
        return max(last, key=lambda id: last[id], default=None)

    def _known(self, versions: Sequence[int] | None) -> Sequence[int]:
        """Versions that the page has, of one that does not say those of now; no later ones: a log may begin anew."""
        now = [run.log.version for run in self.runs]
        return now if versions is None else [min(pair) for pair in zip(versions, now, strict=False)]

    # --- pictures

    def _of(self, place: int) -> ReviewedRun:
        if not 0 <= place < len(self.runs):
            raise Missing(f"there is no run {place} here: reload the page")
        return self.runs[place]

    def _item(self, place: int, key: str) -> tuple[ReviewedRun, Item]:
        run = self._of(place)
        if key not in run.items:
            raise Missing("this run shows no such picture: it may have been painted anew, reload the page")
        return run, run.items[key]

    def thumbnail(self, place: int, key: str) -> bytes:
        """A small JPEG of a picture. Raises Missing."""
        run, item = self._item(place, key)
        data = thumbnail(run.writable_store, item.key, item.sha256)
        if data is None:
            raise Missing(f"{item.name} is no longer in the store: run again, which makes it anew")
        return data

    def picture(self, place: int, key: str) -> bytes:
        """The PNG as it was painted. Raises Missing."""
        run, item = self._item(place, key)
        data = run.store.get("picture", item.key)
        if data is None or run.store.sha256("picture", item.key) != item.sha256:
            raise Missing(f"{item.name} is no longer in the store as it was screened: run again")
        return data

    def source(self, place: int, key: str) -> bytes:
        """The picture that it was made from, upright as it was annotated, JPEG. Raises Missing."""
        run, item = self._item(place, key)
        at = (place, item.source)
        with self.lock:
            if at in self._sources:
                return self._sources[at]
        source = run.sources.get(item.source)
        if source is None:
            raise Missing(f"the source of {item.name} is not known: run again")
        try:
            pixels = source_loader({source.digest: str(source.path)}, keep=0)(source.digest, source.frame)
        except (PictureError, OSError) as error:
            raise Missing(f"the source of {item.name} cannot be shown: {error}") from None
        data = jpeg(Image.fromarray(pixels), 92)
        with self.lock:
            if len(data) <= _KEPT:
                self._sources[at] = data
        return data


def _checked(run: ReviewedRun, change: Change) -> Change:
    """With the digest of the picture that it is on, and a box cut to that picture."""
    if isinstance(change, Undo):
        raise Missing("an undo has a request of its own")
    if isinstance(change, Submit):
        return msgspec.structs.replace(change, shown=digest_of((key, one.sha256) for key, one in run.items.items()))
    if not isinstance(change, OfPicture):
        return change
    if change.picture not in run.known:
        raise Missing(f"picture {change.picture[:12]}… was never shown here: reload the page; nothing was noted")
    now = run.known[change.picture]
    if change.sha256 not in ("", now):  # it waited in the page meanwhile, and would land on another picture
        painted = f"picture {change.picture[:12]}… was painted anew since this page showed it"
        raise Missing(f"{painted}: reload the page; nothing was noted")
    changed: dict[str, Any] = {"sha256": now}
    if isinstance(change, Shape):
        if change.category not in run.categories:
            raise Missing(f"{change.category!r:.100} is no category of this data set; nothing was noted")
        changed["xywh"] = cut(change.xywh, run.items.get(change.picture))
    return msgspec.structs.replace(change, **changed)


def cut(xywh: Sequence[float], item: Item | None) -> tuple[float, float, float, float]:
    """A box cut to its picture, at least a pixel wide and high."""
    x, y, w, h = xywh
    if item is None:
        return x, y, w, h
    left, top = (min(max(value, 0.0), side - 1.0) for value, side in ((x, item.width), (y, item.height)))
    right, bottom = min(max(x + w, left + 1), item.width), min(max(y + h, top + 1), item.height)
    return round(left, 3), round(top, 3), round(right - left, 3), round(bottom - top, 3)


def _state(state: Reviewed) -> dict[str, Any]:
    shapes = {box: {"category": shape.category, "xywh": shape.xywh} for box, shape in state.shapes.items()}
    return {
        "status": state.status,
        "by": state.by,
        "at": state.at,
        "marks": state.marks,
        "boxes": state.boxes,
        "shapes": shapes,
        "note": state.note,
    }


def _shown(run: ReviewedRun, key: str, sha256: str) -> bool:
    return run.known.get(key) == sha256


def _stale(run: ReviewedRun) -> bool:
    """Has the run written other rows since they were read? Also while they are gone."""
    try:
        return stamp_of(run.root) != run.stamp
    except AugmentError:
        return True
