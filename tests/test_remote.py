"""Data sets and workspaces in a bucket: the same bytes as in a folder, after kills and faults; held by one alone."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import fsspec
import pytest
from buckets import NAME, BucketServer, forget_clients, objects, use_bucket
from conftest import tree

from flows.cli import main
from flows.python import augment_dataset
from lib.core import lease, mirror
from lib.core.bucket import Bucket
from lib.core.errors import AugmentError
from lib.core.places import as_urls, place_of, url_of
from lib.datasets.formats import read_dataset
from lib.datasets.ingest import check_pictures
from lib.records.settings import DatasetSettings
from lib.records.store import Store
from lib.runs.parameters import check_parameters
from lib.runs.preflight import preflight
from tasks.jobs import Job, stage_task

DEMO = Path(__file__).resolve().parent.parent / "data" / "demo"
PICTURES = 4
WORKSPACE = f"s3://{NAME}/runs/one"
CHOICES = {
    "preset": "copy-paste",
    "limit": PICTURES,
    "evaluate": {"extractor": None},
    "finalise": {"originals": "selected"},
}


@pytest.fixture(scope="session")
def server():
    server = BucketServer()
    yield server
    server.close()


@pytest.fixture
def files(server, monkeypatch, tmp_path):
    """The file system of an empty bucket."""
    use_bucket(monkeypatch, server.url, tmp_path / "cache")
    with server.empty() as files:
        yield files


@pytest.fixture
def quick(monkeypatch):
    """Leases that are given up soon."""
    monkeypatch.setattr(lease, "BEAT", 0.2)
    monkeypatch.setattr(lease, "SILENCE", 1.0)


def upload(files, folder: Path, prefix: str) -> None:
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            files.put_file(str(path), f"{NAME}/{prefix}/{path.relative_to(folder)}")


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """Some pictures of the demo set."""
    folder = tmp_path_factory.mktemp("small")
    document = json.loads((DEMO / "annotations.json").read_text())
    document["images"] = document["images"][:6]
    ids = {one["id"] for one in document["images"]}
    document["annotations"] = [one for one in document["annotations"] if one["image_id"] in ids]
    (folder / "images").mkdir()
    (folder / "annotations.json").write_text(json.dumps(document))
    for one in document["images"]:
        shutil.copy(DEMO / "images" / one["file_name"], folder / "images")
    return folder


@pytest.fixture
def demo(files, small):
    """They are in the bucket: dataset settings."""
    upload(files, small, "demo")
    return {"images": f"s3://{NAME}/demo/images", "annotations": f"s3://{NAME}/demo/annotations.json"}


@pytest.fixture(scope="module")
def final(tmp_path_factory, small):
    """The final set of the journey in a folder, by names."""
    root = tmp_path_factory.mktemp("folder")
    dataset = {"images": str(small / "images"), "annotations": str(small / "annotations.json")}
    augment_dataset(dataset=dataset, workspace=str(root / "run"), **CHOICES)
    return tree(root / "run" / "final")


def journey(dataset, workspace=WORKSPACE):
    return augment_dataset(dataset=dataset, workspace=workspace, **CHOICES)


# --- the journey -------------------------------------------------------------------------------------------------


def test_a_bucket_gets_the_bytes_of_a_folder_and_a_machine_without_a_copy_paints_nothing_again(
    files, demo, final, tmp_path, capsys
):
    first = journey(demo)
    assert objects(files, "runs/one/final") == final
    assert first.account["painted"] == PICTURES
    check_no_secrets(objects(files, "runs/one"), str(tmp_path).encode())
    shutil.rmtree(tmp_path / "cache")

    second = journey(demo)

    assert (second.account["painted"], second.account["reused"]) == (0, PICTURES)
    assert objects(files, "runs/one/final") == final
    shutil.rmtree(tmp_path / "cache")
    check_commands(capsys, tmp_path)


def check_no_secrets(written, here):
    """Neither credentials nor paths of this machine are in a bucket's objects."""
    for name, data in written.items():
        assert b"hush-hush" not in data and b"AKIATEST" not in data, name
        assert not name.endswith(".json") or here not in data, name
    settings = json.loads(written["settings.json"])
    assert settings["workspace"] == WORKSPACE and settings["dataset"]["images"] == f"s3://{NAME}/demo/images"


def test_requests_that_fail_or_are_slow_change_nothing(files, demo, final, server):
    server.failing(one_in=20)
    before = sum(server.requests.values())
    journey(demo)
    assert sum(server.requests.values()) - before > 100  # so that five were cut, refused or slow
    server.mood = lambda request, number: ""
    assert objects(files, "runs/one/final") == final


KILLED = """
import sys, time
from flows.python import augment_dataset
from lib.core import lease, mirror
from lib.records.store import Store
lease.BEAT = 0.2
put, pictures = Store.put, []
def slowly(self, kind, key, data):
    sha256 = put(self, kind, key, data)
    pictures.extend([key] * (kind == "picture"))
    if len(pictures) == 2:
        mirror._copy_with(self.root).drain()
        print("two", flush=True)
        time.sleep(600)
    return sha256
Store.put = slowly
augment_dataset(dataset={dataset!r}, workspace={workspace!r}, **{choices!r})
"""


def test_killed_and_run_again_on_a_machine_without_a_copy_it_paints_what_was_in_flight_alone(
    files, demo, final, tmp_path, monkeypatch, quick
):
    code = KILLED.format(dataset=demo, workspace=WORKSPACE, choices=CHOICES)
    with monkeypatch.context() as patch:
        patch.setenv("AUGMENT_CACHE", str(tmp_path / "other machine"))
        process = subprocess.Popen([sys.executable, "-c", code], cwd=DEMO.parent.parent, stdout=subprocess.PIPE)
    assert process.stdout is not None
    with process.stdout:
        assert process.stdout.readline() == b"two\n"
        with pytest.raises(AugmentError, match="in use by another run"):
            journey(demo)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert len(files.find(f"{NAME}/runs/one/store/picture")) == 2

    result = journey(demo)  # nothing is heard of the other one: it is over

    assert result.account["painted"] == PICTURES - 2
    assert objects(files, "runs/one/final") == final


def test_a_bucket_that_vanishes_in_the_middle_is_a_sentence_and_gets_at_the_next_run_what_it_lacks(
    files, demo, final, server, monkeypatch
):
    put = Store.put

    def vanishing(self, kind, key, data):
        if kind == "picture":
            server.mood = lambda request, number: "gone"
        return put(self, kind, key, data)

    with monkeypatch.context() as patch, pytest.raises(AugmentError, match=rf"there is no bucket s3://{NAME}"):
        patch.setattr(Store, "put", vanishing)
        journey(demo)
    server.mood = lambda request, number: ""

    result = journey(demo)

    assert result.account["painted"] < PICTURES
    assert objects(files, "runs/one/final") == final
    kept = files.find(f"{NAME}/runs/one/store/picture")
    assert len(kept) == PICTURES


# --- one holder --------------------------------------------------------------------------------------------------


@pytest.fixture(params=["s3", "file", "memory"])
def place(request, tmp_path):
    """What may be held: in a bucket, on a disk that machines share, and in the memory of this process."""
    if request.param == "s3":
        request.getfixturevalue("files")
        return Bucket(f"s3://{NAME}/held")
    if request.param == "memory":
        fsspec.filesystem("memory").rm("/", recursive=True) if fsspec.filesystem("memory").find("/") else None
        return Bucket("memory://bucket/held")
    return Bucket(f"file://{tmp_path}")


def silent(bucket, copy=""):
    """A holder that was killed: its beats have ended."""
    held = lease._acquired(bucket, copy, lambda text: None)
    held._end.set()
    held._thread.join()
    return held


def test_a_second_holder_is_refused_while_the_first_beats(place, quick):
    with (
        lease.leased(place),
        pytest.raises(AugmentError, match="in use by another run on "),
        lease.leased(place, report=lambda text: None),
    ):
        pass
    assert not lease.alive(place)


def test_each_holder_has_a_higher_number_than_all_before(place, quick):
    numbers = []
    for _ in range(3):
        with lease.leased(place) as held:
            numbers.append(held.number)
    assert numbers == [1, 2, 3]


def test_a_killed_holder_is_followed_after_its_silence_and_cannot_write_any_more(place, quick):
    slow = silent(place)
    slow.check()
    told = []
    with lease.leased(place, report=told.append) as held:
        assert held.number == slow.number + 1 and len(told) == 1
        slow._seen -= 10  # it was stopped, and goes on
        with pytest.raises(AugmentError, match="taken over by another run"):
            slow.check()
        held.check()


def test_a_killed_holder_with_the_same_working_copy_is_followed_at_once(place, monkeypatch):
    monkeypatch.setattr(lease, "SILENCE", 10_000)  # nobody waits for that
    silent(place, copy="this")
    with lease.leased(place, copy="this") as held:
        assert held.number == 2


def test_of_many_who_want_to_follow_one_alone_does(place, quick):
    silent(place)
    held, refused = [], []

    def follow():
        try:
            held.append(lease._acquired(place, "", lambda text: None))
        except AugmentError:
            refused.append(1)

    threads = [threading.Thread(target=follow) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for one in held:
        one.release()
    assert (len(held), len(refused)) == (1, 3)


def test_clocks_that_differ_do_not_matter(place, quick, monkeypatch):
    with lease.leased(place):
        monkeypatch.setattr(time, "time", lambda: 0.0)  # this machine is in another year than the holder
        with pytest.raises(AugmentError, match="in use"), lease.leased(place, report=lambda text: None):
            pass
    with lease.leased(place) as held:
        held.check()


def test_a_run_that_was_taken_over_writes_nothing_more(files, quick, tmp_path):
    root = place_of(WORKSPACE)
    with pytest.raises(AugmentError, match="taken over"), mirror.held(root, lambda text: None):
        held = mirror._leases[root]
        held._end.set()
        held._thread.join()
        with lease.leased(Bucket(WORKSPACE), report=lambda text: None):
            held._seen -= 10
            (root / "ids.jsonl").write_text("{}")
            mirror.push(root)
    assert not files.exists(f"{NAME}/runs/one/ids.jsonl")


def test_a_disk_that_machines_share_has_a_lease_too(monkeypatch, tmp_path, quick):
    from lib.runs.workspace import locked

    monkeypatch.setattr(mirror, "on_shared_disk", lambda folder: True)
    with locked(tmp_path / "run"):
        assert lease.alive(Bucket(f"file://{tmp_path / 'run'}"))
    assert not lease.alive(Bucket(f"file://{tmp_path / 'run'}"))


# --- a working copy ----------------------------------------------------------------------------------------------


def test_what_another_machine_changed_or_removed_is_so_here_too(files, tmp_path, monkeypatch):
    root = place_of(WORKSPACE)
    with mirror.held(root, print):
        for name in ("ids.jsonl", "models.lock", "final/images/a.png"):
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text("here")
    with monkeypatch.context() as patch:
        patch.setenv("AUGMENT_CACHE", str(tmp_path / "other"))
        other = place_of(WORKSPACE)
        with mirror.held(other, print):
            assert (other / "final/images/a.png").read_text() == "here"
            (other / "ids.jsonl").write_text("there")
            mirror.remove(other / "final/images/a.png")
    with mirror.held(root, print):
        assert (root / "ids.jsonl").read_text() == "there"
        assert (root / "models.lock").read_text() == "here"
        assert not (root / "final/images/a.png").exists()


def test_a_worker_on_another_machine_reads_and_sends_what_its_job_names(files, tmp_path, monkeypatch):
    from lib.records.kept import noted_ref
    from lib.records.manifest import write_manifest
    from lib.records.rows import SelectRow

    @stage_task("plan")
    def plan(job):
        job.store.put("picture", "cd" * 32, b"pixels")
        return job.write(job.read("selected", SelectRow), SelectRow)

    root = place_of(WORKSPACE)
    with mirror.held(root, print):
        ref = write_manifest(root / "manifests" / "select.parquet", [], SelectRow)
        mirror.push(root)
        work = {"stage": "plan", "key": "ab" * 32, "label": "ab", "workspace": WORKSPACE, "sources": "."}
        job = Job(**work, settings={}, inputs={"selected": ref})
        with monkeypatch.context() as patch:  # as in another process
            patch.setattr(mirror, "_leases", {})
            patch.setattr(mirror, "_copies", {})
            patch.setenv("AUGMENT_CACHE", str(tmp_path / "other"))
            ref.place.parent.mkdir(parents=True)
            ref.place.write_bytes(b"of an earlier run")
            mirror.attach(job.root)
            made = plan(job)
            mirror.detach(job.root)
        assert not made.place.exists() and made.intact()  # it is brought
        mirror.fetch(made.place.with_suffix(".json"))
        assert noted_ref(made.place) == made
    names = objects(files, "runs/one")
    assert {f"parts/plan/{'ab' * 16}.parquet", f"parts/plan/{'ab' * 16}.json", f"store/picture/cd/{'cd' * 32}"} <= set(
        names
    )


def test_a_file_of_a_bucket_that_has_other_bytes_than_its_ref_is_a_sentence(files):
    from lib.records.manifest import write_manifest
    from lib.records.rows import SelectRow

    root = place_of(WORKSPACE)
    with mirror.held(root, print):
        ref = write_manifest(root / "manifests" / "select.parquet", [], SelectRow)
        mirror.push(root)
    ref.place.write_bytes(b"rotten")
    assert ref.file.read_bytes() != b"rotten"
    files.pipe_file(f"{NAME}/runs/one/manifests/select.parquet", b"of another run")
    ref.place.unlink()
    with pytest.raises(AugmentError, match=r"s3://.*select.parquet is not there, or has other bytes"):
        _ = ref.file
    assert not ref.place.exists()


def test_an_item_of_an_earlier_run_on_a_workers_machine_is_in_the_bucket_once_it_is_used(files):
    root, key = place_of(WORKSPACE), "ab" * 32
    mirror.attach(root)
    store = Store(root / "store")
    store.put("picture", key, b"pixels")
    mirror.detach(root)
    files.rm(f"{NAME}/runs/one", recursive=True)

    mirror.attach(root)
    assert store.get("picture", key) == b"pixels"
    mirror.drain(store.root)
    assert files.exists(f"{NAME}/runs/one/store/picture/ab/{key}")

    whole = store.path("picture", key).read_bytes()
    store.path("picture", key).write_bytes(whole + b" of another device")
    assert store.get("picture", key) == b"pixels"
    mirror.detach(root)


def test_an_item_that_is_damaged_here_comes_from_the_bucket_again(files):
    root = place_of(WORKSPACE)
    with mirror.held(root, print):
        store = Store(root / "store")
        store.put("picture", "ab" * 32, b"pixels")
    store.path("picture", "ab" * 32).write_bytes(b"rotten")
    assert store.get("picture", "ab" * 32) == b"pixels"
    assert store.get("picture", "cd" * 32) is None and not store.has("picture", "cd" * 32)


def test_formats_that_look_which_files_there_are_get_them_all(files, small):
    coco = read_dataset(DatasetSettings(images=small / "images", annotations=small / "annotations.json"))
    width, height = coco.images["width"][0].as_py(), coco.images["height"][0].as_py()
    for name, data in {
        "data.yaml": b"path: .\ntrain: images\nnames: [forklift]\n",
        "labels/scene_0001.txt": b"0 0.5 0.5 0.25 0.25\n",
    }.items():
        files.pipe_file(f"{NAME}/yolo/{name}", data)
    upload(files, small / "images", "yolo/images")
    read = read_dataset(
        DatasetSettings(images=f"s3://{NAME}/yolo", annotations=f"s3://{NAME}/yolo/data.yaml", format="yolo")
    )
    assert len(read.images) == 6 and read.objects["w"].to_pylist() == [width / 4]
    assert (width, height) == (read.images["width"][1].as_py(), read.images["height"][1].as_py())


@pytest.fixture
def memory(tmp_path, monkeypatch):
    """A bucket in memory, and an empty cache."""
    monkeypatch.setenv("AUGMENT_CACHE", str(tmp_path / "cache"))
    forget_clients()
    files = fsspec.filesystem("memory")
    yield files
    files.store.clear()


XML = b"""<annotation><object><name>fork</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax></bndbox>
</object></annotation>"""
SPLITS = {
    "yolo": {
        "images/train/scene_0001.jpg": b"",
        "images/val/scene_0002.jpg": b"",
        "labels/train/scene_0001.txt": b"0 .5 .5 .2 .2",
        "labels/val/scene_0002.txt": b"0 .5 .5 .2 .2",
        "data.yaml": b"train: train.txt\nval: images/val\nnames: [fork]",
        "train.txt": b"images/train/scene_0001.jpg",
    },
    "voc": {
        "images/scene_0001.jpg": b"",
        "images/scene_0002.jpg": b"",
        "Annotations/scene_0001.xml": XML,
        "Annotations/scene_0002.xml": XML,
        "ImageSets/Main/train.txt": b"scene_0001",
        "ImageSets/Main/val.txt": b"scene_0002",
    },
}


@pytest.mark.parametrize(
    ("format", "annotations"), [("yolo", "data.yaml"), ("yolo", None), ("voc", "Annotations"), ("voc", None)]
)
def test_what_lies_beside_pictures_and_annotations_comes_from_the_bucket_too(memory, format, annotations):
    for name, data in SPLITS[format].items():
        memory.pipe_file(f"/y/set/{name}", data or (DEMO / "images" / Path(name).name).read_bytes())
    place = f"memory://y/set/{annotations}" if annotations else None
    settings = DatasetSettings(images="memory://y/set/images", annotations=place, format=format)
    data = read_dataset(settings)
    assert data.images["split"].to_pylist() == ["train", "val"] and len(data.objects) == 2
    memory.rm([f"/y/set/{name}" for name in SPLITS[format] if name.startswith(("labels/val", "ImageSets"))])
    data = read_dataset(settings)  # no copy stays of what was removed there
    assert len(data.objects) == (1 if format == "yolo" else 2)
    assert data.images["split"].to_pylist() == (["train", "val"] if format == "yolo" else ["train", "train"])


@pytest.mark.parametrize("folder", ["images", "annotations"])
def test_the_one_coco_file_beside_the_pictures_of_a_bucket_is_found_and_pictures_stay_there(memory, small, folder):
    memory.pipe_file(f"/y/set/{folder}/old.json", b"{}")
    for path in (small / "images").iterdir():
        memory.pipe_file(f"/y/set/images/{path.name}", path.read_bytes())
    settings = DatasetSettings(images="memory://y/set/images")
    with pytest.raises(AugmentError, match=r"old\.json"):
        read_dataset(settings)
    document = (small / "annotations.json").read_bytes()
    memory.pipe_file(f"/y/set/{folder}/new.json", document)
    with pytest.raises(AugmentError, match=r"2 JSON files in .*: set dataset\.annotations"):
        read_dataset(settings)
    memory.rm(f"/y/set/{folder}/old.json")
    assert len(read_dataset(settings).images) == 6
    assert [path.suffix for path in settings.images.iterdir()] == [".json"] * (folder == "images")


def test_a_bucket_without_a_coco_file_says_where_it_was_looked_for(memory):
    memory.pipe_file("/y/set/images/a.jpg", b"")
    with pytest.raises(AugmentError, match=r"no \*\.json in .*y/set/annotations: set dataset\.annotations"):
        read_dataset(DatasetSettings(images="memory://y/set/images"))


def test_a_data_set_that_is_a_whole_bucket_reads_no_other_one(memory):
    memory.pipe_file("/y/0.xml", XML)
    memory.pipe_file("/ImageSets/Main/val.txt", b"0")
    settings = DatasetSettings(images="memory://y", annotations="memory://y", format="voc")
    assert read_dataset(settings).images["split"].to_pylist() == ["train"]


def test_a_picture_of_the_bucket_that_changed_is_read_again_and_others_are_not(files, demo, server):
    settings, opened = DatasetSettings(**demo), []
    rows = read_dataset(settings).images.to_pandas()
    known = check_pictures(rows, settings.images, 10**8, when="first")
    files.put_file(str(DEMO / "images" / "scene_0009.jpg"), f"{NAME}/demo/images/scene_0002.jpg")
    before = server.requests["GET"]

    now = check_pictures(rows, settings.images, 10**8, known, opened.append, when="then")

    changed = now.path[now.digest != known.digest].tolist()
    assert changed == ["scene_0002.jpg"] and opened[1] == 5
    assert server.requests["GET"] - before == 2  # one list, one picture


# --- bad input ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("s3://AKIA:hush@bucket/run", "without a login"),
        ("gs://hush@bucket/run", "without a login"),
        ("az://box/run?sig=hush", "without \\? and #"),
        ("s3://bucket/../other", "each part with a name"),
        ("s3://", "each part with a name"),
        ("ftp://bucket/run", "begins with s3://"),
        ("file://host/run", "file:///folder"),
    ],
)
def test_a_url_that_cannot_be_is_refused_and_no_secret_of_it_is_shown(url, sentence):
    with pytest.raises(AugmentError, match=sentence) as caught:
        check_parameters({"dataset": {"images": str(DEMO / "images")}, "workspace": url})
    assert "hush" not in str(caught.value)


def test_a_path_and_its_url_stand_for_each_other(monkeypatch, tmp_path):
    monkeypatch.setenv("AUGMENT_CACHE", str(tmp_path))
    path = place_of("s3://bucket/a/b c.jpg")
    assert path == tmp_path / "s3" / "bucket" / "a" / "b c.jpg" and url_of(path) == "s3://bucket/a/b c.jpg"
    assert place_of(Path("s3://bucket/a")) == tmp_path / "s3" / "bucket" / "a"  # as Prefect hands it on
    assert as_urls(f"no {path}: look") == "no s3://bucket/a/b c.jpg: look"
    assert place_of("file:///data/run") == Path("/data/run")
    assert url_of(tmp_path / "else" / "x") is None and url_of(Path("/data/run")) is None


def test_a_package_that_is_not_installed_names_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(AugmentError, match=r"gs:// needs the package gcsfs, .* pip install 'augment\[gs\]'"):
        Bucket("gs://bucket/run")


def checked(dataset, workspace=WORKSPACE):
    preflight(check_parameters({"dataset": dataset, "workspace": workspace, **CHOICES}), Path("run"))


def test_a_bucket_that_is_not_there_is_found_before_the_run(files, demo):
    with pytest.raises(AugmentError, match="there is no bucket s3://nobody"):
        checked(demo, "s3://nobody/run")
    with pytest.raises(AugmentError, match=r"s3://pictures/demo/pictures not found"):
        checked(demo | {"images": f"s3://{NAME}/demo/pictures"})


def test_a_bucket_that_refuses_is_found_before_the_run(files, demo, server):
    server.mood = lambda request, number: "refused"
    with pytest.raises(AugmentError, match=r"the store refuses it .* set credentials in the environment"):
        checked(demo)


def test_a_bucket_that_may_not_be_written_is_a_sentence(files, demo, server):
    server.mood = lambda request, number: "refused" if request["REQUEST_METHOD"] == "PUT" else ""
    with pytest.raises(AugmentError, match=r"the store refuses it .* for a workspace, write there"):
        journey(demo)


def test_an_endpoint_that_nobody_serves_is_found_within_seconds(files, demo, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    forget_clients()
    with pytest.raises(AugmentError, match="cannot be reached"):
        checked(demo)


def test_pictures_and_workspace_lie_apart(files, demo):
    with pytest.raises(AugmentError, match="lie one in the other"):
        checked(demo, f"s3://{NAME}/demo/images/run")


@pytest.mark.parametrize(
    ("dataset", "workspace"),
    [
        ({"annotations": "memory://y/set/xmls"}, "memory://y/set/xmls/run"),
        ({"annotations": "memory://y/set/xmls"}, "memory://y/set"),
        ({"annotations": "memory://y/set/xmls"}, "memory://y/set/ImageSets"),
        ({"images": "memory://y/set/images", "format": "yolo"}, "memory://y/set/labels/run"),
    ],
)
def test_a_workspace_in_or_around_what_a_data_set_reads_is_refused_before_anything_is_brought(
    memory, dataset, workspace
):
    memory.pipe_file("/y/set/xmls/a.xml", XML)
    memory.pipe_file("/p/images/a.jpg", (DEMO / "images" / "scene_0001.jpg").read_bytes())
    mine = place_of(workspace) / "store.txt"
    mine.parent.mkdir(parents=True)
    mine.write_text("not sent yet")
    with pytest.raises(AugmentError, match="lie one in the other"):
        checked({"images": "memory://p/images", "format": "voc", **dataset}, workspace)
    assert mine.read_text() == "not sent yet" and [path.name for path in mine.parent.iterdir()] == ["store.txt"]


def test_a_workspace_beside_a_data_sets_folders_is_not_refused(memory):
    for name, data in SPLITS["yolo"].items():
        memory.pipe_file(f"/y/set/{name}", data or (DEMO / "images" / Path(name).name).read_bytes())
    checked({"images": "memory://y/set/images", "format": "yolo"}, "memory://y/set/run")


def test_a_name_that_leads_out_of_its_folder_is_no_picture_of_a_bucket(files, small):
    document = json.loads((small / "annotations.json").read_text())
    document["images"][0]["file_name"] = "../secret.jpg"
    files.put_file(str(DEMO / "images" / "scene_0001.jpg"), f"{NAME}/demo/secret.jpg")
    upload(files, small / "images", "demo/images")
    files.pipe_file(f"{NAME}/demo/a.json", json.dumps(document).encode())
    settings = DatasetSettings(images=f"s3://{NAME}/demo/images", annotations=f"s3://{NAME}/demo/a.json")
    rows = check_pictures(read_dataset(settings).images.to_pandas(), settings.images, 10**8, when="now")
    assert rows.reason[rows.reason != ""].tolist() == ["path_outside_root"]
    assert not (settings.images.parent / "secret.jpg").exists()


# --- the command line --------------------------------------------------------------------------------------------


def check_commands(capsys, tmp_path):
    """Commands on a workspace in a bucket: some read it, others say that they do not."""
    assert main(["status", WORKSPACE, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["workspace"] == WORKSPACE
    assert main(["export", WORKSPACE, "--to", "voc", "--out", str(tmp_path / "voc")]) == 0
    assert len(list((tmp_path / "voc").rglob("*.xml"))) == 2 * PICTURES
    capsys.readouterr()
    for command in (["tidy", WORKSPACE], ["review", WORKSPACE], ["export", WORKSPACE, "--to", "voc"]):
        assert main(command) == 1
        assert WORKSPACE in capsys.readouterr().err


def test_a_path_that_may_be_no_url_says_so():
    with pytest.raises(AugmentError, match="URLs are for dataset"):
        check_parameters({"dataset": {"images": "x"}, "review": {"pick": "list", "path": "s3://bucket/list.txt"}})


def test_settings_show_the_url_and_hold_the_path():
    settings = DatasetSettings.model_validate({"images": "s3://bucket/images"})
    assert settings.model_dump(mode="json")["images"] == "s3://bucket/images"
    assert url_of(settings.images) == "s3://bucket/images"
    assert DatasetSettings.model_validate(settings.model_dump(mode="json")) == settings
