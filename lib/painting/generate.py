"""Generate: paints requests, pass by pass, and keeps every paint and picture in the store by its key."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import pandas as pd

from lib.core.compute import model_faults
from lib.core.images import Load, PictureError, encode_png, kept_rgb
from lib.core.stopping import check_stop
from lib.painting.canvas import canvas_of, mask_of
from lib.painting.composites import COMPOSITES, Composite, compose
from lib.painting.painters import Paint, PassInput
from lib.records.requests import Pass, Request, parsed, picture_keys
from lib.records.rows import OK, REJECTED, PictureRow
from lib.records.store import Store

T = TypeVar("T")
Advance = Callable[[int], None]


@dataclass
class _Work:
    """One request on its way: the picture so far, and what has been done."""

    key: str
    request: Request
    keys: list[tuple[str, str]]
    name: str
    composite: Composite
    picture: np.ndarray | None = None
    painted: int = 0
    reused: int = 0
    reason: str = ""
    detail: str = ""


def generate_pictures(
    plan: pd.DataFrame,
    painter: Any,
    load: Load,
    store: Store,
    advance: Advance = lambda n: None,
) -> list[PictureRow]:
    """A PictureRow per PlanRow that is ok; what the store holds is not painted again.

    painter: a PAINTERS member, which paints only what is not in the store.
    """
    rows: list[PictureRow] = []
    # Several batches' worth of pictures at once: their passes differ in number and shape, and batches should be full.
    chunk = 8 * painter.batch_size
    works = [_work(row) for row in plan.itertuples(index=False)]
    for start in range(0, len(works), chunk):
        group = works[start : start + chunk]
        _paint_all([w for w in group if not _found(w, store)], painter, load, store)
        rows += [_row(w, store) for w in group]
        advance(len(group))
    return rows


def _work(row: Any) -> _Work:
    request = parsed(Request, row.request)
    name, settings = request.composite["name"], request.composite["settings"]
    composite = COMPOSITES[name](COMPOSITES.settings(name, settings))
    return _Work(row.key, request, picture_keys(request), row.name, composite)


def _found(work: _Work, store: Store) -> bool:
    """Is the finished picture in the store, undamaged?"""
    if store.get("picture", work.keys[-1][1]) is None:
        return False
    work.reused = len(work.request.passes)
    return True


def _paint_all(works: list[_Work], painter: Any, load: Load, store: Store) -> None:
    for work in works:
        check_stop()
        _attempt(work, _open, work, load)
    for number in range(max((len(w.request.passes) for w in works), default=0)):
        now = [w for w in works if not w.reason and number < len(w.request.passes)]
        for work, paint in _paints(now, number, painter, load, store):
            _attempt(work, _finish, work, number, paint, store)


def _attempt(work: _Work, action: Callable[..., T], *args: Any) -> T | None:
    """Run one item's action; a fault of the item becomes its reason. What may pass (storage, memory) goes up."""
    try:
        return action(*args)
    except PictureError as error:
        work.reason, work.detail = error.reason, error.detail
    except (ValueError, ArithmeticError) as error:
        work.reason, work.detail = "painting_failed", f"{type(error).__name__}: {error}"
    return None


def _open(work: _Work, load: Load) -> None:
    picture = load(work.request.source, work.request.frame)
    expected = (work.request.height, work.request.width)
    if picture.shape[:2] != expected:
        raise PictureError("size_mismatch", f"{work.name}: source is {picture.shape[:2]}, planned for {expected}")
    work.picture = picture


def _paints(works: list[_Work], number: int, painter: Any, load: Load, store: Store) -> Iterator[tuple[_Work, Paint]]:
    """The paint of pass `number` of each work: from the store, or painted now in batches of one shape."""
    missing: dict[tuple[int, int], list[_Work]] = {}
    for work in works:
        paint = _kept(work, number, painter, store)
        if paint is not None:
            work.reused += 1
            yield work, paint
        else:
            missing.setdefault(work.request.passes[number].shape, []).append(work)
    for group in missing.values():
        for batch in (group[i : i + painter.batch_size] for i in range(0, len(group), painter.batch_size)):
            check_stop()
            for work, paint in _paint_batch(batch, number, painter, load):
                _keep(work, number, paint, store)
                work.painted += 1
                yield work, paint


def _kept(work: _Work, number: int, painter: Any, store: Store) -> Paint | None:
    """A paint from the store; None where it lacks what the composite needs."""
    key, step = work.keys[number][0], work.request.passes[number]
    image = kept_rgb(store.get("paint", key), step.shape)
    if image is None:
        return None
    alpha = None
    if step.donor is not None and step.donor.outline is not None:
        shares = kept_rgb(store.get("alpha", key), step.shape)
        if shares is None:
            return None
        alpha = shares[..., 0]
    if not work.composite.NEEDS_DECODER:
        return Paint(image, alpha=alpha)
    latents = _tensor(store.get("latents", key))
    return None if latents is None else Paint(image, latents, painter.decoder(), alpha)


def _keep(work: _Work, number: int, paint: Paint, store: Store) -> None:
    key = work.keys[number][0]
    if work.composite.NEEDS_DECODER:
        import safetensors.torch

        store.put("latents", key, safetensors.torch.save({"latents": paint.latents.contiguous()}))
    if paint.alpha is not None:
        store.put("alpha", key, encode_png(paint.alpha))
    store.put("paint", key, encode_png(paint.image))


def _tensor(data: bytes | None) -> Any:
    """(C, h, w) float latents; None for anything else."""
    import safetensors.torch

    if data is None:
        return None
    try:
        latents = safetensors.torch.load(data).get("latents")
    except (safetensors.SafetensorError, ValueError, KeyError):
        return None
    return latents if latents is not None and latents.ndim == 3 and latents.is_floating_point() else None


def _paint_batch(batch: Sequence[_Work], number: int, painter: Any, load: Load) -> list[tuple[_Work, Paint]]:
    """Paint one batch; where an item makes it fail, each alone, so that one cannot take the others down."""
    inputs = [(work, _attempt(work, _input, work, number, load)) for work in batch]
    ready = [(work, item) for work, item in inputs if item is not None]
    if not ready:
        return []
    try:
        paints = _painted(painter, [item for _, item in ready])
    except (ValueError, ArithmeticError, PictureError):
        alone = [(work, _attempt(work, _painted, painter, [item])) for work, item in ready]
        return [(work, paint[0]) for work, paint in alone if paint]
    return [(work, paint) for (work, _), paint in zip(ready, paints, strict=True)]


def _painted(painter: Any, items: list[PassInput]) -> list[Paint]:
    with model_faults():
        paints: list[Paint] = painter.paint(items)
    return paints


def _input(work: _Work, number: int, load: Load) -> PassInput:
    step = work.request.passes[number]
    assert work.picture is not None
    return PassInput(step, canvas_of(work.picture, step), mask_of(step), _donor(step, load))


def _donor(step: Pass, load: Load) -> np.ndarray | None:
    if step.donor is None:
        return None
    return load(step.donor.digest, step.donor.frame)


def _finish(work: _Work, number: int, paint: Paint, store: Store) -> None:
    """Composite a pass's paint; the picture goes into the store and is what the next pass starts from."""
    assert work.picture is not None
    work.picture = compose(work.picture, paint, work.request.passes[number], work.composite)
    if number == len(work.request.passes) - 1:
        store.put("picture", work.keys[number][1], encode_png(work.picture))


def _row(work: _Work, store: Store) -> PictureRow:
    """The row of a finished or failed work."""
    work.picture = None
    key = work.keys[-1][1]
    sha256 = "" if work.reason else store.sha256("picture", key) or ""
    return PictureRow(
        key=work.key,
        status=REJECTED if work.reason else OK,
        reason=work.reason,
        detail=work.detail,
        image_key=work.request.image_key,
        picture=key,
        sha256=sha256,
        size=store.size("picture", key),
        name=work.name,
        width=work.request.width,
        height=work.request.height,
        painted=work.painted,
        reused=work.reused,
    )
