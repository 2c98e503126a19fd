"""Fetching LOCO: from a small server on loopback that can break, lie and leave ranges out. No real host is needed."""

import io
import json
import re
import socket
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from lib.core.errors import AugmentError
from lib.datasets import fetch
from lib.datasets.fetch import Source, fetch_loco

NOTES = json.dumps({"images": [{"id": 1}], "annotations": [], "categories": []}).encode()


def zipped(members: dict[str, bytes]) -> bytes:
    """A zip's bytes; a key may name a path that a good zip would not."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as file:
        for name, data in members.items():
            file.writestr(zipfile.ZipInfo(name), data)
    return out.getvalue()


PICTURES = zipped({"dataset/subset-1/a,b.jpg": b"first", "dataset/subset-2/deep/x.y.jpg": b"second" * 50_000})


class Web(ThreadingHTTPServer):
    """Serves `files` with ranges; `cut` bytes after which a connection breaks, once per entry."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.files: dict[str, bytes] = {"/notes.json": NOTES, "/pictures.zip": PICTURES}
        self.types: dict[str, str] = {}
        self.cut: list[int] = []
        self.ranges = True
        self.requests: list[tuple[str, str | None]] = []  # (path, Range header)

    def source(self, path: str, size: int | None = None) -> Source:
        return Source(path.strip("/"), f"http://127.0.0.1:{self.server_port}{path}", "the data set's page", size)

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that went away is no news."""


class _Answer(BaseHTTPRequestHandler):
    server: Web

    def do_GET(self) -> None:
        range_header = self.headers.get("Range")
        self.server.requests.append((self.path, range_header))
        if self.path == "/moved":
            self.send_response(302)
            self.send_header("Location", "/pictures.zip")
            self.end_headers()
            return
        data = self.server.files.get(self.path)
        if data is None:
            self.send_error(404)
            return
        start = int(re.fullmatch(r"bytes=(\d+)-", range_header)[1]) if range_header and self.server.ranges else 0
        if start >= len(data):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Type", self.server.types.get(self.path, "application/octet-stream"))
        self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        end = start + self.server.cut.pop(0) if self.server.cut and self.path != "/notes.json" else len(data)
        self.wfile.write(data[start:end])
        self.close_connection = True

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def web() -> Iterator[Web]:
    with Web() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def get(web: Web, root: Path, path: str = "/pictures.zip", size: int | None = -1, progress=lambda done, total: None):
    size = len(web.files.get(path, PICTURES)) if size == -1 else size
    return fetch_loco(root, progress, web.source("/notes.json"), web.source(path, size))


def test_annotations_and_pictures_end_in_one_folder_without_the_zip(web, tmp_path):
    root = get(web, tmp_path / "loco")
    assert (root / "loco-all-v1.json").read_bytes() == NOTES
    files = sorted(p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file())
    assert files == ["loco-all-v1.json", "subset-1/a,b.jpg", "subset-2/deep/x.y.jpg"]
    assert (root / "subset-2/deep/x.y.jpg").read_bytes() == b"second" * 50_000


def test_what_is_there_is_not_fetched_again(web, tmp_path):
    get(web, tmp_path)
    web.requests.clear()
    get(web, tmp_path)
    assert web.requests == []


def test_redirects_are_followed(web, tmp_path):
    get(web, tmp_path, "/moved", len(PICTURES))
    assert (tmp_path / "subset-1/a,b.jpg").is_file()


def test_a_connection_that_breaks_is_taken_up_where_it_broke(web, tmp_path):
    web.cut = [1000, 2000, 100]
    get(web, tmp_path)
    ranges = [range_header for path, range_header in web.requests if path == "/pictures.zip"]
    assert ranges == [None, "bytes=1000-", "bytes=3000-", "bytes=3100-"]
    assert (tmp_path / "subset-2/deep/x.y.jpg").read_bytes() == b"second" * 50_000


def test_an_interrupted_download_goes_on_in_the_next_run(web, tmp_path):
    (tmp_path / "dataset.zip.part").write_bytes(PICTURES[:1234])
    get(web, tmp_path)
    assert ("/pictures.zip", "bytes=1234-") in web.requests
    assert (tmp_path / "subset-1/a,b.jpg").read_bytes() == b"first"


def test_an_interrupt_keeps_what_came(web, tmp_path):
    def stop(done: int, total: int) -> None:
        if done > 100_000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        get(web, tmp_path, progress=stop)
    kept = (tmp_path / "dataset.zip.part").read_bytes()
    assert 90_000 < len(kept) < len(PICTURES) and PICTURES.startswith(kept)


def test_a_server_without_ranges_sends_everything_again(web, tmp_path):
    web.ranges = False
    (tmp_path / "dataset.zip.part").write_bytes(b"x" * 1234)
    get(web, tmp_path)
    assert (tmp_path / "subset-1/a,b.jpg").read_bytes() == b"first"


def test_a_part_that_is_longer_than_the_file_is_fetched_anew(web, tmp_path):
    (tmp_path / "dataset.zip.part").write_bytes(b"x" * (len(PICTURES) + 7))
    get(web, tmp_path)
    assert (tmp_path / "subset-1/a,b.jpg").read_bytes() == b"first"


def test_progress_counts_both_files_and_ends_at_the_total(web, tmp_path):
    reports: list[tuple[int, int]] = []
    get(web, tmp_path, progress=lambda done, total: reports.append((done, total)))
    assert reports[-1] == (len(NOTES) + len(PICTURES),) * 2
    assert [done for done, _ in reports] == sorted(done for done, _ in reports)
    assert all(done < total for done, total in reports[:-1])


def test_a_wrong_size_is_refused_before_it_is_downloaded(web, tmp_path):
    with pytest.raises(
        AugmentError, match=rf"offers {len(PICTURES):,} bytes, expected 5,000,000.*dataset\.zip"
    ) as caught:
        get(web, tmp_path, size=5_000_000)
    assert "the data set's page" in str(caught.value) and not (tmp_path / "dataset.zip").exists()


def test_a_web_page_instead_of_the_file_is_refused(web, tmp_path):
    web.files["/pictures.zip"] = b"<html>log in</html>"
    web.types["/pictures.zip"] = "text/html; charset=utf-8"
    with pytest.raises(AugmentError, match=r"a web page came from 127\.0\.0\.1"):
        get(web, tmp_path)


def test_a_missing_file_says_what_to_put_where(web, tmp_path):
    with pytest.raises(AugmentError, match=r"404.*get them from the data set's page.*put the file at .*dataset\.zip"):
        get(web, tmp_path, "/gone.zip")


def test_offline_says_what_to_put_where(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        nobody = Source("annotations", f"http://127.0.0.1:{free.getsockname()[1]}/x", "the data set's page")
        with pytest.raises(AugmentError, match=r"ConnectError.*put the file at .*loco-all-v1\.json.*same command"):
            fetch_loco(tmp_path, lambda done, total: None, nobody, nobody)


def test_files_put_there_by_hand_are_unpacked_without_a_network(web, tmp_path):
    (tmp_path / "loco-all-v1.json").write_bytes(NOTES)
    (tmp_path / "dataset.zip").write_bytes(PICTURES)
    get(web, tmp_path)
    assert web.requests == [] and (tmp_path / "subset-1/a,b.jpg").is_file()


def test_a_half_zip_put_there_by_hand_is_refused(web, tmp_path):
    (tmp_path / "dataset.zip").write_bytes(PICTURES[:-100])
    with pytest.raises(AugmentError, match=rf"dataset\.zip has {len(PICTURES) - 100:,} bytes, expected"):
        get(web, tmp_path)


@pytest.mark.parametrize("data", [NOTES[:-5], b"[]", b"\xff\xfe", b'{"images": {}}'])
def test_annotations_that_are_not_whole_are_set_aside(web, tmp_path, data):
    web.files["/notes.json"] = data
    with pytest.raises(AugmentError, match=r"not a whole COCO file and is now loco-all-v1\.json\.bad"):
        get(web, tmp_path)
    web.files["/notes.json"] = NOTES
    get(web, tmp_path)


@pytest.mark.parametrize("name", ["../out.jpg", "/out.jpg", "dataset/../../out.jpg", "a\\..\\out.jpg", "C:/out.jpg"])
def test_a_zip_that_would_leave_its_folder_writes_nothing(web, tmp_path, name):
    web.files["/pictures.zip"] = zipped({"dataset/subset-1/good.jpg": b"good", name: b"bad"})
    with pytest.raises(AugmentError, match="would leave its folder: nothing was unpacked"):
        get(web, tmp_path / "loco")
    assert {p.name for p in tmp_path.rglob("*")} == {"loco", "dataset.zip", "loco-all-v1.json"}


def test_a_link_in_the_zip_is_refused(web, tmp_path):
    link = zipfile.ZipInfo("dataset/link")
    link.external_attr = 0o120777 << 16
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as file:
        file.writestr(link, "/etc")
    web.files["/pictures.zip"] = out.getvalue()
    with pytest.raises(AugmentError, match="would leave its folder"):
        get(web, tmp_path)


def test_a_link_in_the_folder_is_not_followed_out(web, tmp_path):
    (tmp_path / "outside").mkdir()
    (tmp_path / "loco").mkdir()
    (tmp_path / "dataset.zip").write_bytes(PICTURES)
    (tmp_path / "loco" / "subset-1").symlink_to(tmp_path / "outside")
    (tmp_path / "loco" / "dataset.zip").write_bytes(PICTURES)
    with pytest.raises(AugmentError, match="leads out of"):
        get(web, tmp_path / "loco")
    assert list((tmp_path / "outside").iterdir()) == []


def test_a_zip_bomb_is_refused(web, tmp_path, monkeypatch):
    monkeypatch.setattr(fetch, "MOST_BYTES", 10_000)
    with pytest.raises(AugmentError, match="expected at most"):
        get(web, tmp_path)
    assert not list(tmp_path.glob("subset-*"))


def test_a_damaged_zip_is_refused(web, tmp_path):
    damaged = bytearray(PICTURES)
    damaged[PICTURES.index(b"first")] ^= 1
    web.files["/pictures.zip"] = bytes(damaged)
    with pytest.raises(AugmentError, match=r"dataset\.zip is damaged.*CRC"):
        get(web, tmp_path)


def test_a_file_in_the_way_is_one_sentence(web, tmp_path):
    (tmp_path / "loco").write_text("not a folder")
    with pytest.raises(AugmentError, match="LOCO cannot be written to"):
        get(web, tmp_path / "loco")
