"""The protocol: what will be compared, how and on what, fixed in a small file before the test set is opened.

digest = write_protocol(folder, protocol)       # folder/protocol.json; may be written anew until
opened = open_test(folder, protocol)            # folder/opened.json notes when, and under which digest
opened.digest, opened.at                        # both stand in the report

From then on another protocol is refused in this folder: a claim that is chosen after its result was seen shows nothing.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from lib.core.documents import read_json
from lib.core.errors import AugmentError
from lib.core.files import atomic_write
from lib.core.keys import key_of
from lib.core.values import Storable
from lib.proof.statistics import Contrast, arm_of, seeds_needed

PROTOCOL, OPENED = "protocol.json", "opened.json"

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Protocol(Storable):
    """All that a value depends on, and all that will be claimed; digests stand for the pictures."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    detector: str = Field(min_length=1, description="name of a trainable detector")
    detector_version: int = Field(ge=0)
    detector_settings: dict[str, Any] = Field(default_factory=dict)
    arms: tuple[str, ...] = Field(min_length=1, description="letters, as in the contrasts")
    ratios: tuple[float, ...] = Field(
        (1.0,), min_length=1, description="synthetic per real picture; the first is meant where a contrast names none"
    )
    seeds: tuple[int, ...] = Field(min_length=1)
    steps: int = Field(gt=0, description="of the optimiser, equal in all arms")
    batch: int = Field(gt=0, description="pictures a step")
    rate: float = Field(gt=0, description="learning rate")
    schedule: dict[str, Any] = Field(default_factory=dict, description="what else the training depends on: warm-up, …")
    augmentation: dict[str, Any] = Field(default_factory=dict, description="done to the pictures of every arm")
    contrasts: tuple[str, ...] = Field((), description="tested together, by Holm; none: a table alone")
    alpha: float = Field(0.05, ge=0.001, le=0.2, description="chance of any false claim")
    metric: Literal["ap"] = Field("ap", description="mean over IoU .5 to .95 and the categories, in points 0 .. 100")
    pools: dict[str, Digest] = Field(description="SHA-256 of each pool of pictures with its labels, the test set's too")
    names: tuple[str, ...] = Field(min_length=1, description="of the categories, in the order of their numbers")
    software: str = Field(min_length=1, description="version of this software")

    @field_validator("arms", "ratios", "seeds", "contrasts", "names")
    @classmethod
    def _different(cls, values: tuple[Any, ...]) -> tuple[Any, ...]:
        if len(set(values)) < len(values):
            raise ValueError("expected different ones")
        return values

    @model_validator(mode="after")
    def _contrasts_fit(self) -> Protocol:
        for text in self.contrasts:
            try:
                names = Contrast.of(text).names
            except AugmentError as error:
                raise ValueError(str(error)) from None
            for arm, ratio in map(arm_of, names):
                if arm not in self.arms:
                    raise ValueError(f"contrast {text!r}: arm {arm!r} is not among {', '.join(self.arms)}")
                if ratio not in (None, *self.ratios):
                    raise ValueError(f"contrast {text!r}: ratio {ratio:g} is not among {_listed(self.ratios)}")
        return self

    @property
    def digest(self) -> str:
        """SHA-256 of the canonical JSON, hex."""
        return key_of(self)

    @property
    def ratio(self) -> float:
        """What a contrast means that names none."""
        return self.ratios[0]

    def contrasts_read(self) -> list[Contrast]:
        """In their order."""
        return [Contrast.of(text) for text in self.contrasts]

    @property
    def seeds_short(self) -> int:
        """How many seeds are lacking for the claims to be shown at all, however clear they are; 0 where enough."""
        roles = [one.role == "claim" for one in self.contrasts_read()]
        needed = seeds_needed(max(sum(roles), len(roles) - sum(roles)), self.alpha)
        return max(0, needed - len(self.seeds))


class Opened(BaseModel):
    """That the test set was opened."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    digest: Digest
    at: str  # UTC, as in 2026-05-01T12:00:00Z
    protocol: Protocol


def write_protocol(folder: Path, protocol: Protocol) -> str:
    """Write folder/protocol.json, durably; returns its digest.

    Raises AugmentError where the test set was opened under another protocol.
    """
    _refuse_another(folder, protocol)
    text = json.dumps(protocol.model_dump(mode="json"), indent=2, ensure_ascii=False, sort_keys=True)
    atomic_write(folder / PROTOCOL, text.encode() + b"\n", durable=True)
    return protocol.digest


def read_protocol(folder: Path) -> Protocol:
    """That of a folder; raises AugmentError for a missing or damaged one."""
    protocol: Protocol = _read(folder / PROTOCOL, Protocol, "a protocol of a proof")
    return protocol


def open_test(folder: Path, protocol: Protocol) -> Opened:
    """Note that the test set is looked at now, under this protocol; the first note stays.

    Raises AugmentError where it was opened under another protocol, or this one was not written before.
    """
    noted = _refuse_another(folder, protocol)
    if noted is not None:
        return noted
    if not (folder / PROTOCOL).is_file():
        raise AugmentError(f"{folder / PROTOCOL} is missing: write the protocol before the test set is opened")
    if changes := changed(read_protocol(folder), protocol):
        raise AugmentError(f"{folder / PROTOCOL} is another protocol ({'; '.join(changes)}): write this one first")
    noted = Opened(digest=protocol.digest, at=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"), protocol=protocol)
    atomic_write(folder / OPENED, noted.model_dump_json(indent=2).encode() + b"\n", durable=True)
    return _refuse_another(folder, protocol) or noted  # another machine's note may have come last


def opened(folder: Path) -> Opened | None:
    """When and under which protocol the test set was opened; None where it was not. Raises AugmentError if damaged."""
    path = folder / OPENED
    if not path.exists():
        return None
    try:
        noted: Opened = _read(path, Opened, "a note that a test set was opened")
    except AugmentError as error:
        raise AugmentError(
            f"{error}; where no copy is left, remove it: the test set then counts as opened today"
        ) from None
    if noted.digest != noted.protocol.digest:
        raise AugmentError(f"{path} was changed: its protocol has not the digest {noted.digest}: use another workspace")
    return noted


def _read(path: Path, model: type[BaseModel], what: str) -> Any:
    try:
        return model.model_validate(read_json(path, what))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise AugmentError(f"{path} is not {what} ({place}: {first['msg']}): restore it or use another") from None


def _refuse_another(folder: Path, protocol: Protocol) -> Opened | None:
    """The note of a folder, if any."""
    noted = opened(folder)
    if noted is None or noted.digest == protocol.digest:
        return noted
    changes = changed(noted.protocol, protocol)
    seeds = (
        "; seeds added after a look at the test set are a change too, as one could stop at a lucky one"
        if noted.protocol.seeds != protocol.seeds
        else ""
    )
    raise AugmentError(
        f"the test set of {folder} was opened at {noted.at} under another protocol: {'; '.join(changes)}{seeds}. "
        "Go on with the former values, or start anew in another workspace"
    )


def changed(former: Protocol, present: Protocol) -> list[str]:
    """What differs: "steps: 400 → 600"; of names to values each one that does."""
    before, after = former.model_dump(mode="json"), present.model_dump(mode="json")
    found = []
    for field in before:
        one, two = before[field], after[field]
        if isinstance(one, dict):
            keys = [key for key in sorted(one | two) if one.get(key) != two.get(key)]
            found += [f"{field}.{key}: {_brief(one.get(key))} → {_brief(two.get(key))}" for key in keys]
        elif one != two:
            found.append(f"{field}: {_brief(one)} → {_brief(two)}")
    return found


def _brief(value: Any) -> str:
    """A digest is shown by its start."""
    if value is None:
        return "none"
    if isinstance(value, str) and len(value) == 64:
        return value[:12]
    return _listed(value) if isinstance(value, list) else str(value)


def _listed(values: Any) -> str:
    return ", ".join(f"{one:g}" if isinstance(one, float) else str(one) for one in values)
