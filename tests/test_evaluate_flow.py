"""The flow `evaluate`: two real folders in, numbers and a report out; again, without computing anything."""

import json

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def folders(tmp_path):
    for name in ("real", "made"):
        (tmp_path / name).mkdir()
    for i in range(8):
        pixels = np.random.default_rng(i).integers(60, 180, (6, 8, 3), np.uint8).repeat(8, 0).repeat(8, 1)
        Image.fromarray(pixels).save(tmp_path / "real" / f"{i}.png")
        Image.fromarray(255 - pixels).save(tmp_path / "made" / f"{i}.png")
    return {"real": tmp_path / "real", "generated": tmp_path / "made", "workspace": tmp_path / "ws"}


def run(**parameters):
    from flows.evaluate import evaluate

    return evaluate.fn(**parameters)


def labelled(count: int, width: int, height: int) -> dict[str, object]:
    """COCO of the fixture's pictures, a box in a corner of each."""
    images = [{"id": i, "file_name": f"{i}.png", "width": width, "height": height} for i in range(count)]
    boxes = [{"id": i, "image_id": i, "category_id": 1, "bbox": [4, 4, 9, 9]} for i in range(count)]
    return {"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "thing"}]}


def test_it_ends_with_numbers_and_a_report(folders, tmp_path, prefect_server):
    from flows.evaluate import evaluate

    boxes = tmp_path / "boxes.json"
    boxes.write_text(json.dumps(labelled(8, 64, 48)))
    given = {**folders, "boxes": boxes, "return_state": True}
    state = evaluate(**given, extractor="pixels", metrics=["fid", "kid", {"name": "background", "margin": 0}])
    assert state.is_completed(), state.message
    metrics = json.loads((tmp_path / "ws" / "report" / "metrics.json").read_bytes())
    assert metrics["fid"] > 0 and metrics["n_real"] == 8 and metrics["background_psnr"] < 20
    assert "<h2>Numbers</h2>" in (tmp_path / "ws" / "report" / "index.html").read_text()


def test_again_nothing_is_decoded_and_the_numbers_are_the_same(folders, tmp_path, monkeypatch):
    import lib.evaluation.reading

    assert run(**folders, extractor="pixels").is_completed()
    before = (tmp_path / "ws" / "report" / "metrics.json").read_bytes()
    monkeypatch.setattr(lib.evaluation.reading, "load_rgb", None)
    assert run(**folders, extractor="pixels").is_completed()
    assert (tmp_path / "ws" / "report" / "metrics.json").read_bytes() == before


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"metrics": ["fidd"]}, "unknown metric 'fidd'"),
        ({"extractor": "vgg"}, "vgg"),
        ({"real": "nowhere"}, "nowhere not found"),
        ({"seed": -1}, "'seed'"),
        ({"format": "voc"}, "give --boxes ANNOTATIONS"),
        ({"metrics": [{"name": "background", "marginz": 3}]}, "marginz"),
    ],
)
def test_what_is_wrong_is_one_sentence(folders, wrong, message):
    state = run(**{**folders, "extractor": "pixels", **wrong})
    assert state.is_failed() and message in state.message and "Traceback" not in state.message


def test_a_page_whose_numbers_stand_is_not_drawn_again_and_a_lost_one_is(folders, tmp_path):
    report = tmp_path / "ws" / "report"
    pages = []
    for lost in (False, False, True):
        if lost:
            (report / "index.html").unlink()
        assert run(**folders, extractor="pixels").is_completed()
        pages.append(((report / "index.html").stat().st_mtime_ns, (report / "index.html").read_bytes()))
    assert pages[0] == pages[1] != pages[2] and pages[1][1] == pages[2][1]


@pytest.mark.parametrize("kept", [b"", b"[]", b"{}", b'{"about": {"kid": "Good."}}', b"\xff", b"[" * 100_000])
def test_kept_scores_that_are_no_result_count_as_absent(kept, tmp_path):
    from lib.evaluation.results import Evaluation
    from lib.records.store import Store
    from tasks.evaluate import kept_scores

    store, result = Store(tmp_path / "store"), Evaluation(numbers={"kid": 1.0}, about={}, n_real=2, n_generated=2)
    store.put("metrics", "a" * 64, kept)
    assert kept_scores(store, "a" * 64) is None and kept_scores(store, "b" * 64) is None
    whole = result.model_copy(update={"about": {"kid": "Good."}})
    store.put("metrics", "c" * 64, json.dumps(whole.document()).encode())
    assert kept_scores(store, "c" * 64) == whole
