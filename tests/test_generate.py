"""Requests become pictures: nothing is painted twice, one that fails takes no other down, and no row is lost."""

import hashlib
from typing import ClassVar

import numpy as np
import pytest
import torch

from lib.core.images import PictureError, encode_png, load_rgb, source_loader
from lib.core.keys import canonical, key_of
from lib.painting.composites import COMPOSITES
from lib.painting.generate import generate_pictures
from lib.painting.painters import Paint
from lib.planning.plan import picture_name
from lib.records.manifest import to_table
from lib.records.requests import Donor, Pass, Request, picture_keys
from lib.records.rows import MAY_PASS, OK, REJECTED, PlanRow
from lib.records.store import Store

HEIGHT, WIDTH = 24, 32
SOURCES = {f"d{i}": np.random.default_rng(i).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8) for i in range(9)}


class Fake:
    """Paints the canvas plus the pass's seed, and remembers its batches."""

    def __init__(self, batch_size=1, fails=(), error=ValueError):
        self.batch_size, self.fails, self.error = batch_size, set(fails), error
        self.seeds, self.batches, self.canvases, self.donors = [], [], [], []

    def paint(self, batch):
        seeds = [item.step.seed for item in batch]
        self.batches.append(seeds)
        if self.fails & set(seeds):
            raise self.error("cannot paint this")
        self.seeds += seeds
        self.canvases += [item.canvas for item in batch]
        self.donors += [item.donor for item in batch]
        return [Paint(item.canvas + np.uint8(item.step.seed)) for item in batch]


class FakeLatent(Fake):
    """One whose paints have latents and a decoder that records its calls."""

    HAS_DECODER = True

    def paint(self, batch):
        paints = super().paint(batch)
        return [
            Paint(paint.image, torch.full((4, 2, 2), float(paint.image.mean())), self.decoder()) for paint in paints
        ]

    def decoder(self):
        return "decoder"


class Redrawn(COMPOSITES["none"]):
    """A composite that needs a decoder, and remembers what it got."""

    NEEDS_DECODER = True
    got: ClassVar[list] = []

    def repaint(self, paint, step, canvas):
        self.got.append((paint.latents, paint.decoder))
        return paint.image


def load(digest, frame):
    if digest not in SOURCES:
        raise PictureError("image_missing", f"{digest} is gone")
    return SOURCES[digest]


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path)


def step(seed, region=(4, 4, 12, 12), shape=(HEIGHT, WIDTH), window=(0, 0, WIDTH, HEIGHT), donor=None):
    return Pass(
        window=window,
        shape=shape,
        region=(region,),
        boxes=(),
        phrases=(),
        prompt="",
        negative_prompt="",
        seed=seed,
        donor=donor,
    )


def make_request(number=0, *passes, source=None, composite="paste", **changes):
    values = {
        "image_key": str(number),
        "source": source or f"d{number}",
        "frame": "upright",
        "width": WIDTH,
        "height": HEIGHT,
        "split": "train",
        "variant": 0,
        "edit": "replace",
        "painter": {"name": "fake", "version": 1, "settings": {}},
        "composite": COMPOSITES.member(composite, {}).identity(),
        "passes": passes or (step(10 + number),),
        "labels": (),
    }
    return Request(**(values | changes))


def plan_row(request):
    key = key_of(request)
    name = picture_name(f"photo {request.image_key}.jpg", key, request.edit, "fake")
    return PlanRow(key, OK, "", "", request.image_key, request.variant, name, canonical(request), [], 1.0)


def generate(store, requests, painter, load=load, advance=lambda n: None):
    rows = [plan_row(r) for r in requests]
    made = generate_pictures(to_table(rows, PlanRow).to_pandas(), painter, load, store, advance)
    assert [row.key for row in made] == [row.key for row in rows]  # rows out are rows in, in their order
    return made


def pixels(store, row):
    return load_rgb(store.get("picture", row.picture), "stored")


def test_a_picture_is_its_source_with_the_paint_in_the_region(store):
    (row,) = generate(store, [make_request()], Fake())
    expected = SOURCES["d0"].copy()
    expected[4:12, 4:12] += np.uint8(10)
    np.testing.assert_array_equal(pixels(store, row), expected)


def test_a_row_has_key_digest_name_and_size(store):
    request = make_request()
    (row,) = generate(store, [request], Fake())
    assert row.picture == picture_keys(request)[-1][1]
    assert row.sha256 == hashlib.sha256(store.get("picture", row.picture)).hexdigest()
    assert row.name == f"photo 0__replace-fake-{row.key[:12]}.png" and (row.width, row.height) == (WIDTH, HEIGHT)
    assert (row.status, row.painted, row.reused) == (OK, 1, 0)


def test_nothing_is_painted_twice(store):
    requests = [make_request(i, step(10 + i), step(20 + i)) for i in range(3)]
    first, again = generate(store, requests, Fake()), Fake()
    second = generate(store, requests, again)
    assert again.batches == []
    assert [(row.painted, row.reused) for row in second] == [(0, 2)] * 3
    assert [row.sha256 for row in second] == [row.sha256 for row in first]


def test_what_is_finished_asks_for_no_source(store):
    generate(store, [make_request()], Fake())
    assert generate(store, [make_request(source="d0")], Fake(), load=None)[0].status == OK


def test_a_lost_picture_comes_again_from_its_paint(store):
    (row,) = generate(store, [make_request()], Fake())
    before = pixels(store, row)
    store.path("picture", row.picture).unlink()
    again = Fake()
    (second,) = generate(store, [make_request()], again)
    assert again.batches == [] and (second.painted, second.reused) == (0, 1)
    np.testing.assert_array_equal(pixels(store, second), before)


def test_a_lost_picture_whose_paint_is_lost_too_is_painted_again(store):
    (row,) = generate(store, [make_request()], Fake())
    store.path("picture", row.picture).unlink()
    store.path("paint", picture_keys(make_request())[0][0]).unlink()
    (second,) = generate(store, [make_request()], Fake())
    assert second.painted == 1 and second.sha256 == row.sha256


@pytest.mark.parametrize("damage", [lambda data: data[:-9], lambda data: data[:-1] + b"X", lambda data: b""])
def test_damaged_paint_and_picture_are_made_again(store, damage):
    (row,) = generate(store, [make_request()], Fake())
    for path in (store.path("picture", row.picture), store.path("paint", picture_keys(make_request())[0][0])):
        path.write_bytes(damage(path.read_bytes()))
    (second,) = generate(store, [make_request()], Fake())
    assert second.painted == 1 and second.sha256 == row.sha256


def test_another_composite_uses_the_same_paint(store):
    generate(store, [make_request()], Fake())
    again = Fake()
    (row,) = generate(store, [make_request(composite="none")], again)
    assert again.batches == [] and (row.painted, row.reused) == (0, 1)
    np.testing.assert_array_equal(pixels(store, row), SOURCES["d0"] + np.uint8(10))


def test_a_later_pass_starts_from_the_picture_of_the_one_before(store):
    fake = Fake()
    (row,) = generate(store, [make_request(0, step(10), step(20, (10, 10, 20, 20)))], fake)
    expected = SOURCES["d0"].copy()
    expected[4:12, 4:12] += np.uint8(10)
    np.testing.assert_array_equal(fake.canvases[1], expected)
    expected[10:20, 10:20] += np.uint8(20)
    np.testing.assert_array_equal(pixels(store, row), expected)
    assert row.painted == 2


def test_a_run_killed_between_two_passes_paints_only_the_second(store):
    request = make_request(0, step(10), step(20))
    (whole,) = generate(store, [request], Fake())
    (_, _), (paint, picture) = picture_keys(request)
    store.path("paint", paint).unlink()
    store.path("picture", picture).unlink()
    again = Fake()
    (row,) = generate(store, [request], again)
    assert again.seeds == [20] and (row.painted, row.reused) == (1, 1) and row.sha256 == whole.sha256


@pytest.mark.parametrize("error", [ValueError, ZeroDivisionError, FloatingPointError])
@pytest.mark.parametrize("batch_size", [1, 2, 4])
def test_one_that_cannot_be_painted_is_a_reason_and_its_batch_mates_survive(store, batch_size, error):
    rows = generate(store, [make_request(i) for i in range(4)], Fake(batch_size, fails=[12], error=error))
    assert [row.status for row in rows] == [OK, OK, REJECTED, OK]
    bad = rows[2]
    assert (bad.reason, bad.sha256, bad.painted) == ("painting_failed", "", 0)
    assert error.__name__ in bad.detail and "cannot paint this" in bad.detail
    for i in (0, 1, 3):
        assert (pixels(store, rows[i])[4, 4] == SOURCES[f"d{i}"][4, 4] + np.uint8(10 + i)).all()


def test_a_second_pass_that_fails_leaves_no_half_painted_picture(store):
    request = make_request(0, step(10), step(20))
    (row,) = generate(store, [request], Fake(fails=[20]))
    assert (row.reason, row.sha256) == ("painting_failed", "")
    assert not any(store.has("picture", picture) for _, picture in picture_keys(request))


def test_what_failed_is_tried_again(store):
    generate(store, [make_request()], Fake(fails=[10]))
    (row,) = generate(store, [make_request()], Fake())
    assert (row.status, row.painted) == (OK, 1)


@pytest.mark.parametrize("batch_size", [1, 4])
def test_a_model_that_fails_at_one_picture_costs_that_one_and_the_next_run_tries_it_again(store, batch_size):
    rows = generate(store, [make_request(i) for i in range(4)], Fake(batch_size, fails=[12], error=RuntimeError))
    assert [row.reason for row in rows] == ["", "", "model_failed", ""] and "model_failed" in MAY_PASS
    assert rows[2].detail == "RuntimeError: cannot paint this"


@pytest.mark.parametrize("error", [MemoryError, OSError, RuntimeError])
def test_a_fault_that_is_not_the_items_goes_up(store, error):
    with pytest.raises(error):
        generate(store, [make_request()], Fake(fails=[10], error=lambda _: error("CUDA error: out of memory")))


def test_what_was_painted_before_a_fault_is_kept(store):
    requests = [make_request(i) for i in range(3)]
    with pytest.raises(MemoryError):
        generate(store, requests, Fake(fails=[12], error=MemoryError))
    again = Fake()
    generate(store, requests, again)
    assert again.seeds == [12]


def test_a_source_that_cannot_be_read_is_a_reason_and_its_batch_mates_survive(store):
    rows = generate(store, [make_request(0), make_request(1, source="gone"), make_request(2)], Fake(3))
    assert [row.reason for row in rows] == ["", "image_missing", ""]


def test_a_source_of_another_size_than_planned_is_a_reason(store):
    (row,) = generate(store, [make_request(0, width=WIDTH + 1)], Fake())
    assert (row.status, row.reason) == (REJECTED, "size_mismatch")


def test_a_donor_that_cannot_be_read_is_a_reason_and_its_batch_mates_survive(store):
    donor = Donor(annotation="1", digest="gone", box=(0, 0, 4, 4), frame="upright", flip=False, polygon=None)
    rows = generate(store, [make_request(0, step(10, donor=donor)), make_request(1)], Fake(2))
    assert [row.reason for row in rows] == ["image_missing", ""]


OUTLINE = ((4.0, 3.0, 8.0, 3.0, 8.0, 6.0),)


class Cutting(Fake):
    """Gives each paint a share that falls from left to right."""

    def paint(self, batch):
        shares = np.linspace(255, 0, 32).astype(np.uint8)[None].repeat(24, 0)
        return [Paint(paint.image, alpha=shares) for paint in super().paint(batch)]


def test_the_shares_of_a_cut_out_are_kept_with_its_paint(store):
    donor = Donor(
        annotation="1", digest="d5", box=(3, 2, 9, 7), frame="upright", flip=True, polygon=None, outline=OUTLINE
    )
    first, second = Cutting(), Cutting()
    request = make_request(0, step(10, donor=donor))
    (row,) = generate(store, [request], first)
    picture = store.get("picture", row.picture)
    store.path("picture", row.picture).unlink()
    (again,) = generate(store, [request], second)
    assert store.get("picture", again.picture) == picture and again.reused == 1 and again.painted == 0


def test_a_cut_out_whose_shares_are_lost_is_painted_again(store):
    donor = Donor(
        annotation="1", digest="d5", box=(3, 2, 9, 7), frame="upright", flip=True, polygon=None, outline=OUTLINE
    )
    request = make_request(0, step(10, donor=donor))
    (row,) = generate(store, [request], Cutting())
    store.path("picture", row.picture).unlink()
    (shares,) = [store.path(kind, key) for kind, key in store.items() if kind == "alpha"]
    shares.unlink()
    (again,) = generate(store, [request], Cutting())
    assert again.painted == 1


def test_a_donor_comes_with_its_picture(store):
    donor = Donor(annotation="1", digest="d5", box=(3, 2, 9, 7), frame="upright", flip=True, polygon=None)
    fake = Fake()
    generate(store, [make_request(0, step(10, donor=donor))], fake)
    np.testing.assert_array_equal(fake.donors[0], SOURCES["d5"])


def test_only_passes_of_one_shape_are_painted_together(store):
    small = {"shape": (8, 8), "window": (4, 4, 12, 12)}
    requests = [make_request(i, step(10 + i, **(small if i % 2 else {}))) for i in range(4)]
    fake = Fake(4)
    generate(store, requests, fake)
    assert sorted(fake.batches) == [[10, 12], [11, 13]]


def test_batches_are_as_large_as_the_painter_takes_them(store):
    fake = Fake(3)
    generate(store, [make_request(i) for i in range(7)], fake)
    assert fake.batches == [[10, 11, 12], [13, 14, 15], [16]]


def test_a_canvas_has_the_passs_shape_whatever_its_window(store):
    fake = Fake()
    generate(store, [make_request(0, step(10, shape=(16, 16), window=(-4, -4, 36, 36)))], fake)
    assert fake.canvases[0].shape == (16, 16, 3)


def test_the_loaded_source_is_not_written_to(store):
    before = SOURCES["d0"].copy()

    class Scribbler(Fake):
        def paint(self, batch):
            for item in batch:
                item.canvas[:] = 0
            return super().paint(batch)

    generate(store, [make_request(0, step(1), step(2))], Scribbler())
    np.testing.assert_array_equal(SOURCES["d0"], before)


def test_progress_is_reported_for_every_row_failed_ones_too(store):
    steps = []
    requests = [make_request(i, source="gone" if i == 1 else None) for i in range(5)]
    generate(store, requests, Fake(2), advance=steps.append)
    assert sum(steps) == 5


def test_no_requests_give_no_rows(store):
    assert generate(store, [], Fake()) == []


# Names


@pytest.mark.parametrize(
    ("source", "stem"),
    [
        ("a.jpg", "a"),
        ("deep/er/a.b.jpg", "a.b"),
        ("C:\\photos\\a.jpg", "a"),
        ("../../etc/passwd.png", "passwd"),
        ("комната 7, links.jpeg", "комната 7, links"),
        ("a:b*c?.jpg", "a_b_c_"),
        ("...jpg", "picture"),
        (".jpg", "picture"),
        ("no suffix", "no suffix"),
    ],
)
def test_a_synthetic_name_starts_with_its_sources_stem(source, stem):
    assert picture_name(source, "0123456789abcdef", "replace", "p") == f"{stem}__replace-p-0123456789ab.png"


@pytest.mark.parametrize("letter", ["a", "é", "猫", "😀"])
def test_the_longest_name_still_fits_a_file_system(letter):
    source = letter * (251 // len(letter.encode())) + ".jpg"
    name = picture_name(source, "0" * 64, "background", "gligen-inpaint")
    assert len(name.encode()) <= 255 and name.endswith("__background-gligen-inpaint-000000000000.png")


# Loading


def written(folder, name, value=7):
    path = folder / name
    data = encode_png(np.full((4, 5, 3), value, np.uint8))
    path.write_bytes(data)
    return hashlib.sha256(data).hexdigest(), path


def test_a_source_is_loaded_by_its_digest(tmp_path):
    digest, path = written(tmp_path, "a.png")
    assert (source_loader({digest: str(path)})(digest, "upright") == 7).all()


def test_a_loaded_source_cannot_be_written_to(tmp_path):
    digest, path = written(tmp_path, "a.png")
    with pytest.raises(ValueError, match="read-only"):
        source_loader({digest: str(path)})(digest, "upright")[0, 0] = 1


def test_a_source_that_changed_since_ingest_is_a_reason(tmp_path):
    digest, path = written(tmp_path, "a.png")
    written(tmp_path, "a.png", 8)
    with pytest.raises(PictureError, match="image_changed"):
        source_loader({digest: str(path)})(digest, "upright")


def test_a_source_that_is_gone_is_a_reason(tmp_path):
    with pytest.raises(PictureError, match="image_missing"):
        source_loader({"d": str(tmp_path / "a.png")})("d", "upright")


def test_a_source_that_was_gone_is_loaded_once_it_is_back(tmp_path):
    digest, path = written(tmp_path, "a.png")
    data = path.read_bytes()
    load = source_loader({digest: str(path)})
    path.unlink()
    with pytest.raises(PictureError):
        load(digest, "upright")
    path.write_bytes(data)
    assert load(digest, "upright").shape == (4, 5, 3)


# Latents, for composites that need them


@pytest.fixture
def redrawn():
    Redrawn.got.clear()
    with COMPOSITES.adding("redrawn", f"{__name__}:Redrawn"):
        yield Redrawn.got


def test_a_composite_that_needs_a_decoder_gets_it_and_the_latents_painted_now_or_before(store, redrawn):
    request = make_request(0, step(10), composite="redrawn")
    generate(store, [request], FakeLatent())
    store.path("picture", picture_keys(request)[-1][1]).unlink()
    again = FakeLatent()
    (row,) = generate(store, [request], again)
    (one, first), (two, second) = redrawn
    assert torch.equal(one, two) and first == second == "decoder" and again.batches == [] and row.reused == 1


def test_a_paint_that_was_kept_without_its_latents_is_painted_again_for_them(store, redrawn):
    generate(store, [make_request(0, step(10), composite="none")], FakeLatent())
    again = FakeLatent()
    generate(store, [make_request(0, step(10), composite="redrawn")], again)
    assert again.batches == [[10]] and len(redrawn) == 1


def test_without_enough_memory_for_one_pass_there_is_a_reason(store):
    def out_of_memory(text):
        return PictureError("out_of_memory", text)

    rows = generate(store, [make_request(i) for i in range(2)], Fake(2, fails=[10], error=out_of_memory))
    assert [(row.status, row.reason) for row in rows] == [(REJECTED, "out_of_memory"), (OK, "")]
