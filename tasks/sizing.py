"""In how many parts pictures are planned, painted and screened: by what the first of them cost.

    ingested, selected, captions = size_parts(run, ingested, selected, captions, limits)     # the same rows

A task costs a cluster the same whatever it does, 85 ms or so, and a worker that has no part left waits for those that
have. So cheap pictures want large parts, and those that take a minute small ones. No picture depends on the number of
parts, so it may follow from a clock. But a part is known again by its rows, so that a workspace keeps its number (and
the seconds that it came of) in parts/size.json: a rerun splits the pictures as before, whatever it would measure.

Threads keep the constants of lib/records/parts.py. A task costs them 5 ms, 1 % of 64 pictures of 23 ms, and of cheaper
ones larger parts would leave cores without work; of pictures that take long one is painted at a time in any case. The
constants are kept as well for rounds of a target, which take a few draws of every part, for captions, which are made
before anything was measured, and for drawings, which cost little beside.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

from lib.core.errors import AugmentError
from lib.core.keys import key_of
from lib.records import kept
from lib.records.kept import noted_seconds
from lib.records.manifest import Ref, read_manifest, read_tables, write_manifest
from lib.records.parts import PartSize, fits, sized_count
from lib.records.rows import CaptionRow, PictureRow, SelectRow
from lib.screening.boxes import BoxRules
from tasks.engine import engine
from tasks.generate import painting
from tasks.ingest import Ingested
from tasks.parts import deal, prune_parts, split_objects, split_parts
from tasks.plan import plan_jobs, planning
from tasks.run import Run
from tasks.screen import screening
from tasks.stages import Done, Staged, run_parts

Split = tuple[Ingested, Staged, Staged]

_STAGES = 3  # tasks of a part
_FIRST = 2  # pictures of a part that are painted first: few, as no worker goes on before all of them are
_WORTH = 8  # times as many pictures as are painted first, for their size to matter


def size_parts(run: Run, ingested: Ingested, selected: Staged, captions: Staged, rules: BoxRules | None) -> Split:
    """Selected pictures and their captions in parts that suit what painting takes; and the objects, in no fewer.

    Where parts were begun they stay, unless their number is far from what it should be and some have to be made.
    """
    rows, work = sum(part.rows for part in captions.parts), _work(run)
    size = _kept_size(run, work)
    if size is None:
        if rows < _WORTH * _FIRST * engine().parts or engine().parts == 1 or _begun(run, ingested, selected, captions):
            return ingested, selected, captions
        seconds = _measure(run, ingested, selected, captions, rules)
        if seconds is None:
            return ingested, selected, captions
        size = PartSize(work, seconds, sized_count(rows, seconds, *_engine()))
    else:
        wanted = sized_count(rows, size.seconds, *_engine())
        if not fits(size.parts, wanted) and (engine().parts > 1 or wanted > size.parts):
            split = _split(run, ingested, selected, captions, size.parts)
            if all(job.out.is_file() for job in plan_jobs(run, *split, run.settings.variants)):
                return split
            size = PartSize(work, size.seconds, wanted)
    kept.write(run.root / "parts" / _SIZE, size)
    return _split(run, ingested, selected, captions, size.parts)


_SIZE = "size.json"


def _engine() -> tuple[int, float]:
    """Workers, and seconds that the tasks of a part cost."""
    return max(1, engine().parts // 2), _STAGES * engine().cost


def _work(run: Run) -> str:
    """Key of what is done with a picture: another painter, or another judge, has another cost."""
    settings = run.settings
    screen = settings.screen.model_dump(mode="json")
    return key_of("size", run.recipe.model_dump(mode="json"), settings.variants, screen)


def _kept_size(run: Run, work: str) -> PartSize | None:
    with contextlib.suppress(AugmentError):  # damaged: measured again
        size = kept.read(run.root / "parts" / _SIZE, PartSize)
        if size is not None and size.work == work and size.parts.bit_count() == 1:
            return size
    return None


def _begun(run: Run, ingested: Ingested, selected: Staged, captions: Staged) -> bool:
    """Has an earlier run parts of the number that the rows alone give?"""
    jobs = plan_jobs(run, ingested, selected, captions, run.settings.variants)
    return any(job.out.is_file() for job in jobs)


def _split(run: Run, ingested: Ingested, selected: Staged, captions: Staged, count: int) -> Split:
    """The same rows in `count` parts."""
    pictures = split_parts(run, "selected", selected.manifest, SelectRow, only_ok=True, count=count)
    prune_parts(run, "selected", pictures)
    tables = (_plain(table) for table in read_tables(captions.manifest.file, CaptionRow))
    texts = deal(run.root / "parts" / "captioned", tables, CaptionRow, captions.manifest.rows, count)
    prune_parts(run, "captioned", texts)
    run.spread, objects = count, ingested.objects
    if count > objects.parts:  # a part has the objects of its own pictures, so that another's are no matter of it
        objects = objects.model_copy(update={"parts": split_objects(run, objects, count)})
    return (
        ingested.model_copy(update={"objects": objects}),
        Staged(selected.manifest, pictures),
        Staged(captions.manifest, texts),
    )


def _plain(captions: pa.Table) -> pa.Table:
    """Without what differs from run to run: a caption that was found again is no reason to plan again."""
    place = captions.schema.get_field_index("reused")
    return captions.set_column(place, captions.schema.field(place), pa.array([True] * len(captions), pa.bool_()))


def _measure(run: Run, ingested: Ingested, selected: Staged, captions: Staged, rules: BoxRules | None) -> float | None:
    """Seconds that a worker takes to plan, paint and screen a picture in all its variants; None where none had to be.

    They are measured on the first two pictures of two parts a worker, by all workers at once; what was painted is in
    the store, and is not painted again. A model is loaded for the first of a worker's, so the fastest counts.
    """
    folder, count = run.root / "parts" / "first", engine().parts
    pairs = list(zip(selected.parts, captions.parts, strict=True))[:count]
    pictures, texts = zip(*(_head(folder, one, two) for one, two in pairs), strict=True)
    total = run.settings.variants * sum(ref.rows for ref in pictures)
    links = [
        planning(run, ingested, Staged(selected.manifest, [*pictures]), Staged(captions.manifest, [*texts])),
        painting(run, ingested, total),
        screening(run, ingested, rules, total),
    ]
    made: list[list[Done]] = []
    run_parts(run, links, len(pictures), lambda _, done, __: made.append(done))
    for path in folder.glob("*.parquet"):
        path.unlink()
    parts = zip(pictures, *made, strict=True)
    found = [_seconds(done) / ref.rows / share for ref, *done in parts if (share := _painted_share(run, done[1]))]
    return min(found, default=None)


def _head(folder: Path, selected: Ref, captions: Ref) -> tuple[Ref, Ref]:
    """The first pictures of a part, and their captions; named as the part is, whose objects they have."""
    pictures = read_manifest(selected.file, SelectRow).head(_FIRST)
    texts = read_manifest(captions.file, CaptionRow)
    return (
        write_manifest(folder / selected.file.name, pictures, SelectRow),
        write_manifest(folder / captions.file.name, texts[texts.key.isin(pictures.key)], CaptionRow),
    )


def _painted_share(run: Run, made: Done) -> float:
    """Which share of a part's pictures was painted, and not found in the store. The account needs those of this run."""
    ref, fresh = made
    rows = read_manifest(ref.file, PictureRow, ("key", "painted"))
    painted = rows.key[rows.painted > 0]
    if fresh:
        run.first.update(painted)
    return len(painted) / max(len(rows), 1)


def _seconds(made: Sequence[Done]) -> float:
    return sum(noted_seconds(ref.file) or 0.0 for ref, _ in made)
