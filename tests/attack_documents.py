"""Documents of every registered format, damaged as documents and as bytes, read to the end and written again."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any

import pandas as pd
from attack_mutations import mutated
from attack_samples import write_sample
from attacks import Attack, Fault, check_error, fresh

from lib.core.errors import AugmentError
from lib.datasets.finalise import Made, finalise
from lib.datasets.formats import FORMATS, categories_of, read_dataset
from lib.datasets.ids import Ids
from lib.datasets.ingest import check_pictures, settle_objects
from lib.datasets.select import OBJECT_COLUMNS, select_pictures
from lib.datasets.write_coco import Sources
from lib.records.manifest import to_table
from lib.records.rows import ImageRow, ReviewRow, Row
from lib.records.settings import DatasetSettings, FinaliseSettings, SelectSettings
from lib.records.store import Store

_PICTURES = (".png", ".jpg")


@contextmanager
def attacking(folder: Path) -> Iterator[Attack]:
    """Attack n: a file of a sample damaged; the read ends with rows or an error that names the file."""
    samples: dict[tuple[str, int], dict[str, Any]] = {}

    def attack(number: int) -> str:
        random = Random(f"documents {number}")
        which = random.choice(sorted(FORMATS)), random.randrange(3)
        if which not in samples:
            samples[which] = write_sample(*which, folder / "samples" / "-".join(map(str, which)))
        original = folder / "samples" / "-".join(map(str, which))
        target = folder / "attacked"
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(original, target)
        files = sorted(p for p in target.rglob("*") if p.is_file())
        documents = [p for p in files if p.suffix not in _PICTURES]
        chosen = random.choice(files if random.random() < 0.1 else documents)
        chosen.write_bytes(mutated(chosen.name, chosen.read_bytes(), random))
        given = {name: moved(value, original, target) for name, value in samples[which].items()}
        given |= random.choice([{}, {}, {"split": "official"}, {"group": "folder"}, {"group": "video"}])
        try:
            return follow(DatasetSettings(**given), folder / "out")
        except AugmentError as error:
            check_error(error, str(target), chosen.name, f"dataset.{next(reversed(given))}")
            return "refused"

    yield attack


def moved(value: Any, old: Path, new: Path) -> Any:
    """A setting with paths below `old` put below `new`."""
    return new / value.relative_to(old) if isinstance(value, Path) else value


def follow(settings: DatasetSettings, out: Path) -> str:
    """A data set read, its pictures checked, selected, and written as a final set that can be read again."""
    parsed = read_dataset(settings)
    images = check_pictures(parsed.images.to_pandas(), settings.images, settings.max_pixels)
    objects = settle_objects(images, parsed.objects)
    categories_of(parsed.envelope)
    select_pictures(to_table(images, ImageRow), objects.select(OBJECT_COLUMNS), SelectSettings(), 0, None)
    bad = images.reason.ne("").sum() + objects.to_pandas().reason.ne("").sum()
    if unexplained := [
        row
        for rows in (images, objects.to_pandas())
        for row in rows.itertuples()
        if row.status != "ok" and not row.reason
    ]:
        raise Fault(f"set aside without a reason: {unexplained[0]}")
    sources = Sources(images, objects.to_pandas(), parsed.envelope, settings.images)
    none = to_table(list[Row](), ReviewRow).to_pandas()
    wanted = FinaliseSettings(yolo=True, s3_pair=True)
    final = fresh(out) / "final"
    list(finalise(final, sources, Made(none, {}), Ids(out / "ids.jsonl"), wanted, Store(out / "store"), None))
    again(out / "final", images)
    return "rows set aside" if bad else "all rows fine"


def again(final: Path, images: pd.DataFrame) -> None:
    """Raises Fault where the final set is no COCO file with all pictures that could be read."""
    (final / "images").mkdir(exist_ok=True)
    try:
        back = read_dataset(DatasetSettings(images=final / "images", annotations=final / "annotations.json"))
    except AugmentError as error:
        raise Fault(f"the final set cannot be read again: {error}") from None
    kept = int((images.status == "ok").sum())
    if back.images.num_rows < kept:
        raise Fault(f"{kept} pictures were fine, {back.images.num_rows} are in the final set")
