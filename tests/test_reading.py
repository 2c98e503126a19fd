"""The one pass: what is decoded, what comes from the cache, broken pictures, groups and frames."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import lib.evaluation.reading
from lib.core.keys import canonical
from lib.evaluation.features import Pixels
from lib.evaluation.matching import sources_of
from lib.evaluation.metrics import METRICS, AnnotatedPicture
from lib.evaluation.metrics.regions import Regions
from lib.evaluation.reading import Reading
from lib.evaluation.sides import Entry, Labels, Side, read_side
from lib.records.store import Store

NAMES = ("dark", "light")
BOX = [8.0, 8, 40, 40]


class Eyes:
    """A judge: is the middle of a crop dark or light?"""

    size = 16

    def __init__(self, identity: str = "eyes") -> None:
        self.identity, self.crops = identity, 0

    def score(self, crops: Any, names: Any) -> np.ndarray:
        self.crops += len(crops)
        light = np.array([crop[4:12, 4:12].mean() for crop in crops]) / 255
        return np.stack([1 - light, light], axis=1)


def labels_of(*boxes: list[float], category: str = "light", size: tuple[int, int] = (64, 48), **more: Any) -> Labels:
    n = len(boxes)
    flags = {"ignore": np.zeros(n, bool), "painted": np.ones(n, bool), **more}
    return Labels(np.array(boxes, float).reshape(-1, 4), (category,) * n, size=size, **flags)


def pixels_of(seed: int, light: int = 0) -> np.ndarray:
    """uint8 (48, 64, 3): random tiles, lighter in BOX."""
    pixels = np.random.default_rng(seed).integers(60, 180, (6, 8, 3), np.uint8).repeat(8, 0).repeat(8, 1)
    pixels[8:40, 8:40] += np.uint8(light)
    return pixels


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three sources 0 … 2, a picture made from each, and a second of the first."""
    for i in range(3):
        Image.fromarray(pixels_of(i)).save(tmp_path / f"{i}.png")
        Image.fromarray(pixels_of(i, 60)).save(tmp_path / f"{i}_a.png")
    Image.fromarray(pixels_of(0, 30)).save(tmp_path / "0_b.png")
    return tmp_path


def sides_of(folder: Path, labels: Labels | None = None) -> tuple[Side, Side]:
    """The sources, labelled, and what was made from them, without labels."""
    labels = labels or labels_of(BOX)
    real = Side(tuple(Entry(folder / f"{i}.png", f"{i}.png", labels) for i in range(3)), folder)
    made = (folder / f"{name}.png" for name in ("0_a", "1_a", "2_a", "0_b"))
    return real, Side(tuple(Entry(path, path.name, source=None) for path in made))


SOURCES = {0: 0, 1: 1, 2: 2, 3: 0}


def metric(name: str, **values: Any) -> tuple[str, Any]:
    return name, METRICS.build(METRICS.member(name, values))


def regions(judge: Eyes | None = None) -> tuple[str, Any]:
    return "regions", Regions(Regions.Settings(), judge or Eyes())


def everything(judge: Eyes | None = None, **more: Any) -> Reading:
    """Metrics of all kinds at once."""
    fields = {"names": NAMES, "sources": SOURCES, "extractor": Pixels(), **more}
    pairs, groups = [metric("inside"), metric("background")], [metric("diversity")]
    return Reading(pairs=pairs, groups=groups, pictures=[regions(judge), metric("copies")], **fields)


def results_of(reading: Reading, features: dict[str, np.ndarray]) -> list[Any]:
    """All results of a reading."""
    notes = [reading.noted(name, side) for name in ("regions", "copies") for side in ("real", "generated")]
    rows = [reading.compared, reading.grouped, reading.singles, reading.boxes, reading.failed, reading.unreadable]
    return [notes, rows, {side: values.tolist() for side, values in features.items()}]


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """A list that gets the frame of every picture as it is decoded."""
    frames, load = list[str](), lib.evaluation.reading.load_rgb
    monkeypatch.setattr(
        lib.evaluation.reading, "load_rgb", lambda data, frame: frames.append(frame) or load(data, frame)
    )
    yield frames


# Once


def test_every_picture_is_decoded_once_for_all_kinds_together(folder: Path, decoded: list[str]):
    reading = everything()
    features = reading.run(*sides_of(folder))
    assert decoded == ["upright"] * 7
    assert {side: rows.shape for side, rows in features.items()} == {"real": (3, 48), "generated": (4, 48)}
    assert (len(reading.compared), len(reading.grouped), len(reading.boxes)) == (4, 1, 4)


def test_nothing_is_decoded_where_nothing_asks(folder: Path, decoded: list[str]):
    assert Reading().run(*sides_of(folder)) == {} and decoded == []


def test_rows_of_features_are_in_the_order_of_their_side(folder: Path):
    real, made = sides_of(folder)
    features = everything().run(real, made)
    for side, rows in zip((real, made), features.values(), strict=True):
        pictures = [np.asarray(Image.open(entry.path)) for entry in side.entries]
        np.testing.assert_array_equal(rows, Pixels().extract(pictures))


def test_progress_counts_every_picture(folder: Path):
    steps: list[int] = []
    everything(advance=steps.append).run(*sides_of(folder))
    assert steps == [1] * 7


# The cache


def test_what_is_kept_is_given_again_without_decoding_or_judging(folder: Path, tmp_path: Path, decoded: list[str]):
    cache, judge = Store(tmp_path / "kept"), Eyes()
    first = everything(judge, cache=cache)
    before = results_of(first, first.run(*sides_of(folder)))
    decoded.clear()
    again, crops = everything(judge, cache=cache), judge.crops
    assert results_of(again, again.run(*sides_of(folder))) == before
    assert decoded == [] and judge.crops == crops


def test_what_is_kept_does_not_depend_on_names(folder: Path, tmp_path: Path, decoded: list[str]):
    cache = Store(tmp_path / "kept")
    everything(cache=cache).run(*sides_of(folder))
    decoded.clear()
    moved = tmp_path / "moved"
    moved.mkdir()
    for path in folder.glob("*.png"):
        path.rename(moved / path.name)
    everything(cache=cache).run(*sides_of(moved))
    assert decoded == []


def test_other_labels_are_judged_anew_but_not_by_metrics_that_need_none(folder: Path, tmp_path: Path):
    cache, judge = Store(tmp_path / "kept"), Eyes()
    everything(judge, cache=cache).run(*sides_of(folder))
    assert judge.crops == 7
    copies = metric("copies")
    copies[1].of_picture = None  # would raise, were it called
    other = sides_of(folder, labels_of([0, 0, 30, 30]))
    Reading(pictures=[regions(judge), copies], names=NAMES, sources=SOURCES, cache=cache).run(*other)
    assert judge.crops == 14


def test_other_boxes_of_a_pair_are_compared_anew(folder: Path, tmp_path: Path):
    cache, errors = Store(tmp_path / "kept"), []
    for box in (BOX, [0.0, 0, 64, 48]):
        reading = Reading(pairs=[metric("inside")], sources=SOURCES, cache=cache)
        reading.run(*sides_of(folder, labels_of(box)))
        errors.append(reading.compared[0]["inside_mse"])
    assert errors[0] == 3600 > errors[1]


@pytest.mark.parametrize("changed", ["judge", "settings", "names", "version"])
def test_results_of_another_judge_or_version_are_not_taken(changed: str, folder: Path, tmp_path: Path):
    cache, judge = Store(tmp_path / "kept"), Eyes()
    Reading(pictures=[regions(judge)], names=NAMES, cache=cache).run(*sides_of(folder))
    crops, other = judge.crops, Eyes("others" if changed == "judge" else "eyes")
    name, made = regions(other)
    if changed == "settings":
        made = Regions(Regions.Settings(context=0.5), other)
    if changed == "version":
        made.VERSION = 99
    names = (*NAMES, "red") if changed == "names" else NAMES
    Reading(pictures=[(name, made)], names=names, cache=cache).run(*sides_of(folder))
    assert other.crops == crops


@pytest.mark.parametrize("field", ["label", "said"])
def test_a_kept_note_of_a_category_that_is_none_is_made_again(folder: Path, tmp_path: Path, field: str):
    cache, judge = Store(tmp_path / "kept"), Eyes()
    first = everything(judge, cache=cache)
    before = results_of(first, first.run(*sides_of(folder)))
    forged = 0
    for kind, key in list(cache.items()):
        note = json.loads(cache.get(kind, key) or b"{}") if kind == "note" else {}
        for box in note.get("boxes", ()):
            box[field], forged = "no such category", forged + 1
        if note:
            cache.put(kind, key, canonical(note))
    again = everything(judge, cache=cache)
    assert forged and results_of(again, again.run(*sides_of(folder))) == before
    details = regions(judge)[1].of_all(again.noted("regions", "real"), again.noted("regions", "generated"), NAMES, 0)
    assert details["regions"]["n_generated"] == 4


# Broken pictures


def test_a_broken_picture_is_listed_once_and_its_boxes_counted(folder: Path):
    (folder / "0.png").write_bytes(b"no picture")
    (folder / "1_a.png").write_bytes((folder / "1_a.png").read_bytes()[:100])
    reading = everything()
    features = reading.run(*sides_of(folder))
    rows = [(row["set"], Path(row["picture"]).name, row["reason"]) for row in reading.unreadable]
    assert rows == [("real", "0.png", "image_broken"), ("generated", "1_a.png", "image_broken")]
    assert [len(rows) for rows in features.values()] == [2, 3] and reading.failed == []
    for side in ("real", "generated"):
        assert reading.noted("regions", side).skipped == {"image_broken": 1}
    assert [Path(row["picture"]).name for row in reading.compared] == ["2_a.png"]


@pytest.mark.parametrize("metrics", [{"pairs": [metric("whole")]}, {"groups": [metric("diversity")]}])
def test_a_broken_picture_is_listed_whatever_reads_it(metrics: dict[str, Any], folder: Path):
    (folder / "0_a.png").write_bytes(b"no picture")
    reading = Reading(sources=SOURCES, **metrics)
    reading.run(*sides_of(folder))
    assert [Path(row["picture"]).name for row in reading.unreadable] == ["0_a.png"]
    assert reading.failed == []


def test_a_broken_source_of_several_is_told_once_where_pairs_alone_are_asked(folder: Path):
    (folder / "0.png").write_bytes(b"no picture")
    reading = Reading(pairs=[metric("whole")], sources=SOURCES)
    reading.run(*sides_of(folder))
    assert [(row["set"], Path(row["picture"]).name) for row in reading.unreadable] == [("real", "0.png")]
    assert len(reading.compared) == 2


def test_missing_and_empty_pictures_have_their_own_reasons(folder: Path):
    (folder / "0.png").unlink()
    (folder / "1.png").write_bytes(b"")
    reading = everything()
    reading.run(*sides_of(folder))
    assert [row["reason"] for row in reading.unreadable] == ["image_missing", "image_empty"]
    assert reading.noted("regions", "real").skipped == {"image_missing": 1, "image_empty": 1}


def test_boxes_that_would_not_have_counted_anyway_are_not_counted_as_lost(folder: Path):
    (folder / "0.png").write_bytes(b"no picture")
    labels = labels_of(BOX, BOX, BOX, ignore=np.array([True, False, False]), painted=np.array([True, True, False]))
    reading = everything()
    reading.run(*sides_of(folder, labels))
    assert reading.noted("regions", "real").skipped == {"image_broken": 1}


def test_a_picture_of_another_size_than_annotated_counts_for_no_metric(folder: Path):
    real, made = sides_of(folder)
    entries = (Entry(real.entries[0].path, "0.png", labels_of(BOX, size=(640, 480))), *real.entries[1:])
    reading = Reading(pictures=[metric("copies"), regions()], names=NAMES, sources=SOURCES)
    reading.run(Side(entries), made)
    assert [row["reason"] for row in reading.unreadable] == ["size_mismatch"]
    assert [len(reading.noted(name, "real").notes) for name in ("copies", "regions")] == [2, 2]


def test_a_metric_with_nothing_to_say_of_a_picture_is_a_row_with_a_reason(folder: Path):
    reading = Reading(pairs=[metric("inside")], sources=SOURCES)
    reading.run(*sides_of(folder, Labels()))
    assert len(reading.failed) == 4 and all("inside: no box" in row["reason"] for row in reading.failed)
    assert reading.unreadable == []


# Labels of the source


def test_a_picture_of_a_set_without_labels_has_those_of_its_source(folder: Path):
    reading = Reading(pictures=[regions()], names=NAMES, sources=SOURCES)
    reading.run(*sides_of(folder))
    assert [box["label"] for box in reading.boxes] == ["light"] * 4


def test_in_a_labelled_set_a_picture_without_boxes_has_none(folder: Path):
    real, made = sides_of(folder)
    first = Entry(made.entries[0].path, "0_a.png", labels_of(BOX))
    reading = Reading(pictures=[regions()], names=NAMES, sources=SOURCES)
    reading.run(real, Side((first, *made.entries[1:]), folder))
    assert [Path(box["picture"]).name for box in reading.boxes] == ["0_a.png"]


def test_a_picture_of_another_size_than_its_source_keeps_its_features_and_copies(folder: Path):
    Image.new("RGB", (32, 24)).save(folder / "1_a.png")
    reading = everything()
    features = reading.run(*sides_of(folder))
    assert len(features["generated"]) == 4 and reading.unreadable == []
    assert len(reading.noted("copies", "generated").notes) == 4
    assert any("regions: labels of its source, annotated as 64×48 pixels" in row["reason"] for row in reading.failed)


def test_its_own_caption_goes_before_that_of_its_source(folder: Path):
    real = Side((Entry(folder / "0.png", "0.png", Labels(caption="of the source")),))
    made = [
        Entry(folder / f"0_{i}.png", f"0_{i}.png", Labels(caption=text)) for i, text in (("a", "its own"), ("b", ""))
    ]
    captions_read: list[str] = []
    captions = metric("copies")

    def read(picture: AnnotatedPicture) -> dict[str, Any]:
        captions_read.append(picture.labels.caption)
        return {}

    captions[1].NEEDS, captions[1].of_picture = "captions", read
    Reading(pictures=[captions], sources={0: 0, 1: 0}).run(real, Side(tuple(made)))
    assert captions_read == ["of the source", "its own", "of the source"]


def test_new_boxes_alone_are_what_changed_in_a_picture_that_says_so(folder: Path):
    labels = labels_of([0, 0, 8, 8], BOX, painted=np.array([False, True]))
    made = Side((Entry(folder / "0_a.png", "0_a.png", labels, source=("0", "0.png")),), folder)
    reading = Reading(pairs=[metric("inside")], sources={0: 0})
    reading.run(sides_of(folder, labels_of([0, 0, 64, 48]))[0], made)
    assert reading.compared[0]["inside_mse"] == 3600


# Groups


def test_a_group_is_what_was_made_from_one_source(folder: Path):
    reading = everything()
    reading.run(*sides_of(folder))
    (group,) = reading.grouped
    assert (Path(group["source"]).name, group["pictures"]) == ("0.png", 2) and group["diversity"] > 0


def test_a_group_is_told_of_its_readable_pictures(folder: Path):
    Image.fromarray(pixels_of(0, 70)).save(folder / "0_c.png")
    (folder / "0_a.png").write_bytes(b"no picture")
    made = Side.of([folder / f"0_{i}.png" for i in "abc"])
    reading = Reading(groups=[metric("diversity")], sources=dict.fromkeys(range(3), 0))
    reading.run(sides_of(folder)[0], made)
    assert [row["pictures"] for row in reading.grouped] == [2]
    assert [Path(row["picture"]).name for row in reading.unreadable] == ["0_a.png"]


def test_a_group_of_several_sizes_is_a_row_with_a_reason(folder: Path):
    Image.new("RGB", (32, 24)).save(folder / "0_b.png")
    reading = Reading(groups=[metric("diversity")], sources=SOURCES)
    reading.run(*sides_of(folder))
    assert reading.grouped == [] and "pictures of one size expected" in reading.failed[0]["reason"]


# Frames


def turned(path: Path, pixels: np.ndarray) -> Path:
    """Stored as given, shown turned."""
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).save(path, exif=exif)
    return path


@pytest.mark.parametrize(("size", "label"), [((64, 48), "light"), ((48, 64), "dark"), ((0, 0), "dark")])
def test_boxes_are_cut_in_the_frame_of_the_claimed_size(size: tuple[int, int], label: str, tmp_path: Path):
    pixels = np.zeros((48, 64, 3), np.uint8)
    pixels[:16, :16] = 255  # turned, it is the corner at the upper right
    path = turned(tmp_path / "a.png", pixels)
    side = Side((Entry(path, "a.png", labels_of([0, 0, 16, 16], category="dark", size=size)),), tmp_path)
    reading = Reading(pictures=[("regions", Regions(Regions.Settings(context=0), Eyes()))], names=NAMES)
    reading.run(Side(()), side)
    assert [box["said"] for box in reading.boxes] == [label]


def test_a_picture_made_from_a_stored_frame_is_compared_in_it(tmp_path: Path, decoded: list[str]):
    path = turned(tmp_path / "a.png", pixels_of(0))
    (tmp_path / "made").mkdir()
    Image.fromarray(pixels_of(0, 60)).save(tmp_path / "made" / "a.png")
    real, made = Side((Entry(path, "a.png", labels_of(BOX)),), tmp_path), read_side(tmp_path / "made")
    reading = Reading(pairs=[metric("inside"), metric("background", margin=0)], sources=sources_of(real, made))
    reading.run(real, made)
    assert reading.compared[0]["inside_mse"] == 3600 and reading.compared[0]["untouched"] == 1
    assert decoded == ["upright", "stored", "upright"]


def test_the_same_box_in_another_frame_is_compared_anew(tmp_path: Path):
    pixels, errors = pixels_of(0), []
    turned(tmp_path / "a.png", pixels)
    pixels[:16, :16] += np.uint8(60)
    made = Side.of([turned(tmp_path / "a_1.png", pixels)])
    for size in ((64, 48), (48, 64)):
        real = Side((Entry(tmp_path / "a.png", "a.png", labels_of([0, 0, 16, 16], size=size)),), tmp_path)
        reading = Reading(pairs=[metric("inside")], sources={0: 0}, cache=Store(tmp_path / "kept"))
        reading.run(real, made)
        errors.append(reading.compared[0]["inside_mse"])
    assert errors == [3600, 0]


def test_boxes_of_another_size_than_their_picture_compare_with_nothing(folder: Path):
    reading = Reading(pairs=[metric("inside")], sources=SOURCES)
    reading.run(*sides_of(folder, labels_of(BOX, size=(640, 480))))
    assert reading.compared == [] and "0.png: annotated as 640×480 pixels, it has 64×48" in reading.failed[0]["reason"]


def test_features_are_kept_before_all_are_there(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    class Dies(Pixels):
        def extract(self, pictures: Any) -> np.ndarray:
            rows = super().extract(pictures)
            self.calls = getattr(self, "calls", 0) + 1
            if self.calls == 3:
                raise KeyboardInterrupt
            return rows

    monkeypatch.setattr(lib.evaluation.reading, "_KEPT_AFTER", 2)
    with pytest.raises(KeyboardInterrupt):
        Reading(Dies(), cache=Store(tmp_path / "cache")).run(*sides_of(folder))
    assert len([path for path in (tmp_path / "cache").rglob("*") if path.is_file()]) == 4
    rows = Reading(Pixels(), cache=Store(tmp_path / "cache")).run(*sides_of(folder))
    np.testing.assert_array_equal(rows["real"], Reading(Pixels()).run(*sides_of(folder))["real"])


def test_where_nothing_is_known_of_its_boxes_no_box_is_missed(folder: Path):
    reading = Reading(pictures=[regions()], names=NAMES, sources={0: 0, 1: 1, 3: 0})
    reading.run(*sides_of(folder))
    assert len(reading.noted("regions", "generated").notes) == 3
    assert [Path(row["picture"]).name for row in reading.failed] == ["2_a.png"]
    assert "no labels" in reading.failed[0]["reason"]


def test_a_box_tells_the_size_that_it_was_drawn_in(folder: Path):
    reading = Reading(pictures=[regions()], names=NAMES, sources=SOURCES)
    reading.run(*sides_of(folder))
    assert [box["size"] for box in reading.boxes] == [[64, 48]] * 4
