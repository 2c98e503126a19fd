"""Caption stage: a sentence per selected picture, made once, frozen for its picture, model and rules."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pandas as pd
from pydantic import BaseModel, ConfigDict

from lib.captioning.rules import Rules, apply_rules, fill_prompt, load_rules
from lib.core.compute import model_faults
from lib.core.files import digest
from lib.core.images import Load, PictureError
from lib.core.keys import canonical, key_of
from lib.core.registry import Member
from lib.records.kept import typed
from lib.records.rows import OK, REJECTED, CaptionRow
from lib.records.settings import CaptionSettings
from lib.records.store import Store

Advance = Callable[[int], None]


class CaptionForm(BaseModel):
    """What a caption depends on beside its picture: the captioner's identity, the rules, the prompt's form."""

    model_config = ConfigDict(frozen=True)
    identity: dict[str, Any]
    rules: Rules
    prompt: str


def make_caption_form(settings: CaptionSettings, captioner: Member) -> CaptionForm:
    """Check rules and prompt; raises AugmentError that lists what is known."""
    fill_prompt(settings.prompt, "", "", 1, 1)
    return CaptionForm(identity=captioner.identity(), rules=load_rules(settings.rules), prompt=settings.prompt)


def caption_pictures(
    selected: pd.DataFrame,
    form: CaptionForm,
    store: Store,
    load: Load,
    captioner: Any,
    advance: Advance = lambda n: None,
    records: Mapping[str, bytes] | None = None,
) -> list[CaptionRow]:
    """A CaptionRow per SelectRow.

    load: (digest, frame) → uint8 (H, W, 3) RGB; captioner: a CAPTIONERS member, called only for pictures whose
    caption is not in the store; records: image key → source record, with NEEDS_RECORDS. A picture that
    cannot be read any more, or for which the captioner has no text, becomes a row with its reason.
    """
    rows = list(selected.itertuples(index=False))
    records = records or {}
    keys = {row.key: caption_key(row, captioner, form.identity, records.get(row.key)) for row in rows}
    known = {image: found for image, key in keys.items() if (found := _known(store, key)) is not None}
    advance(len(known))
    raw = dict(known)  # image key → JSON of the captioner's text
    failed: dict[str, PictureError] = {}
    missing = [row for row in rows if row.key not in known]
    for start in range(0, len(missing), captioner.batch_size):
        batch = missing[start : start + captioner.batch_size]
        pictures, faults = _load_all(batch, captioner.NEEDS_PICTURES, load)
        failed |= faults
        readable = [row for row in batch if row.key not in faults]
        about = [_About(row, picture, records.get(row.key)) for row, picture in zip(readable, pictures, strict=True)]
        for row, text in _texts(about, captioner, failed):
            raw[row.key] = canonical(text)
            store.put("caption", keys[row.key], raw[row.key])
        advance(len(batch))
    return [_row(row, raw.get(row.key), failed.get(row.key), row.key in known, form) for row in rows]


class _About(NamedTuple):
    row: Any  # SelectRow
    picture: np.ndarray | None
    record: bytes | None


def _texts(
    batch: Sequence[_About], captioner: Any, failed: dict[str, PictureError]
) -> Iterator[tuple[Any, str | None]]:
    """The rows with the captioner's texts; where a batch makes its model fail, each alone. Faults go to `failed`."""
    if not batch:
        return
    try:
        with model_faults():
            labels = [one.row.labels for one in batch]
            texts = captioner.caption([one.picture for one in batch], labels, [one.record for one in batch])
    except PictureError as error:
        if len(batch) == 1:
            failed[batch[0].row.key] = error
            return
        for one in batch:
            yield from _texts([one], captioner, failed)
        return
    yield from zip([one.row for one in batch], texts, strict=True)


def _known(store: Store, key: str) -> bytes | None:
    """JSON of the captioner's text, or null for none; None where the store has no answer."""
    data = store.get("caption", key)
    return data if data == b"null" or typed(data, str) is not None else None


def _load_all(
    batch: Sequence[Any], needs_pictures: bool, load: Load
) -> tuple[list[np.ndarray | None], dict[str, PictureError]]:
    """Pictures of the rows that can be read, None each without needs_pictures; image key → fault of the others."""
    pictures: list[np.ndarray | None] = []
    faults: dict[str, PictureError] = {}
    for row in batch:
        try:
            pictures.append(np.array(load(row.digest, row.frame)) if needs_pictures else None)
        except PictureError as error:
            faults[row.key] = error
    return pictures, faults


def caption_key(row: Any, captioner: Any, identity: dict[str, Any], record: bytes | None) -> str:
    """Key in the store of the raw caption: rules and prompt are pure, and applied to it at every run.

    row: SelectRow; captioner: a CAPTIONERS member, or its class; record: the source's, with NEEDS_RECORDS.
    """
    reads = not captioner.NEEDS_PICTURES
    if getattr(captioner, "READS_LABELS", False):
        reads = "{labels}" in identity["settings"]["question"]
    labels = sorted(row.labels) if reads else []
    read = [digest(record or b"")] if captioner.NEEDS_RECORDS else []
    return key_of("caption", row.digest, row.frame, labels, identity, *read)


def _row(row: Any, data: bytes | None, fault: PictureError | None, reused: bool, form: CaptionForm) -> CaptionRow:
    name = canonical(form.identity).decode()
    if data is None:
        reason, detail = (fault.reason, fault.detail) if fault else ("caption_lost", "")
        return CaptionRow(row.key, REJECTED, reason, detail, "", "", "", name, False)
    raw, labels = msgspec.json.decode(data, type=str | None), sorted(set(row.labels))
    if raw is None:
        detail = f"the captioner has no text for {row.file_name}"
        return CaptionRow(row.key, REJECTED, "caption_missing", detail, "", "", "", name, reused)
    caption, reason = apply_rules(form.rules, raw, labels)
    prompt = fill_prompt(form.prompt, caption, " and ".join(labels), row.width, row.height)
    status, detail = (REJECTED, raw) if reason else (OK, "")
    return CaptionRow(row.key, status, reason, detail, raw, caption, prompt, name, reused)
