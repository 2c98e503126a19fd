"""Downloads from a hub on this machine: what is fetched, what is said before, and what goes on after a fault."""

import hashlib
import json
import logging
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file
from tiny import tiny_gligen, tiny_sdxl

from flows.commands.console import ERR, OUT, bars
from lib.core import downloads
from lib.core.checkpoints import ModelRef, local_path, resolve
from lib.core.errors import AugmentError
from lib.painting.painters.blocks import TEXT_HALF, UNET, UNET_HALF, load_latent_diffusion
from lib.painting.painters.gligen import Gligen
from lib.painting.painters.inpainting import SdxlInpaint

SHA = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub with one repository, `files` of name to bytes, and the requests that it got; `cut` ends answers early."""
    known = SimpleNamespace(files={}, requests=[], cut={})

    class Hub(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args):
            pass

        def do_HEAD(self):
            self.answer(head=True)

        def do_GET(self):
            self.answer()

        def answer(self, head=False):
            path = self.path.partition("?")[0]
            if path.startswith(f"/api/models/org/name/tree/{SHA}"):
                entries = [
                    {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
                    for name, data in known.files.items()
                ]
                self.send(200, json.dumps(entries).encode(), {"Content-Type": "application/json"})
                return
            name = path.removeprefix(f"/org/name/resolve/{SHA}/")
            if name not in known.files:
                self.send(404, b"", {"X-Error-Code": "EntryNotFound"})
                return
            data, begin = known.files[name], 0
            if found := re.fullmatch(r"bytes=(\d+)-\d*", self.headers.get("Range", "")):
                begin = int(found[1])
            if not head:
                known.requests.append((name, begin))
            headers = {"X-Repo-Commit": SHA, "ETag": f'"{hashlib.sha1(data).hexdigest()}"'}
            headers["X-Linked-Size"] = str(len(data))
            self.send(
                206 if begin else 200, data[begin:], headers, head, known.cut.pop(name, None) if not head else None
            )

        def send(self, status, data, headers, head=False, cut=None):
            self.send_response(status)
            for key, value in headers.items():
                self.send_header(key, value)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if not head:
                self.wfile.write(data[:cut])
            if cut is not None:
                self.close_connection = True

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    address = f"http://127.0.0.1:{server.server_address[1]}"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}")
    yield known
    server.shutdown()
    server.server_close()
    thread.join()


REF = ModelRef("org/name", SHA, None)
NEEDED = [("a.fp16.safetensors", "a.safetensors"), "config.json"]
WHOLE = {"config.json": b"{}", "a.safetensors": b"whole numbers", "a.bin": b"a pickle"}


def names(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_of_twins_the_first_one_is_fetched_and_nothing_that_is_not_needed(hub):
    hub.files = WHOLE | {"a.fp16.safetensors": b"half", "also.txt": b"words"}
    assert names(local_path(REF, NEEDED, ["*.txt"])) == ["a.fp16.safetensors", "also.txt", "config.json"]


def test_without_a_twin_the_other_one_is_fetched(hub):
    hub.files = WHOLE
    assert names(local_path(REF, NEEDED)) == ["a.safetensors", "config.json"]


def test_what_is_here_is_not_fetched_again_as_its_twin(hub):
    hub.files = WHOLE | {"a.fp16.safetensors": b"half"}
    local_path(REF, ["a.safetensors", "config.json"])
    hub.requests.clear()
    assert names(local_path(REF, NEEDED)) == ["a.safetensors", "config.json"] and hub.requests == []


@pytest.mark.parametrize("first", ["a.safetensors", "a.fp16.safetensors"])
def test_offline_either_twin_will_do(hub, monkeypatch, first):
    hub.files = WHOLE | {"a.fp16.safetensors": b"half"}
    local_path(REF, [first, "config.json"])
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert names(local_path(REF, NEEDED)) == sorted([first, "config.json"])


def test_size_files_and_place_are_said_before_a_download_and_only_then(hub, caplog):
    hub.files = WHOLE | {"a.safetensors": bytes(1_234_567)}
    caplog.set_level(logging.INFO, "augment.downloads")
    for _ in range(2):
        folder = local_path(REF, NEEDED)
    assert caplog.messages == [f"downloading 1.2 MB of model org/name (2 files) to {folder.parents[1]}"]


def test_the_command_line_shows_it_and_quiet_does_not(capsys, monkeypatch):
    monkeypatch.setattr(ERR, "_file", None)
    for quiet in (True, False):
        monkeypatch.setattr(OUT, "quiet", quiet)
        with bars():
            downloads.LOG.info("downloading %s", "2.1 GB")
    assert capsys.readouterr().err == "downloading 2.1 GB\n"


def test_a_disk_that_is_too_small_is_refused_before_the_download(hub, monkeypatch):
    hub.files = WHOLE
    monkeypatch.setattr(downloads, "free_space", lambda folder: 10)
    with pytest.raises(AugmentError, match=r"15 bytes are to be downloaded, and the disk of .* has 10 bytes left"):
        local_path(REF, NEEDED)
    assert hub.requests == []


def test_a_download_that_breaks_off_goes_on_where_it_was(hub):
    data = bytes(range(256)) * 80_000
    hub.files, hub.cut = WHOLE | {"a.safetensors": data}, {"a.safetensors": 15_000_000}
    try:
        local_path(REF, NEEDED)
    except ConnectionError:  # where the hub's client does not try again by itself
        local_path(REF, NEEDED)
    begun = [begin for name, begin in hub.requests if name == "a.safetensors"]
    assert begun[0] == 0 and len(begun) == 2 and 0 < begun[1] <= 15_000_000
    assert (Path(local_path(REF, NEEDED)) / "a.safetensors").read_bytes() == data


def halves(folder, text):
    """The twins of a tiny checkpoint in half precision beside its files, the texts' by name `text`."""
    pairs = [(folder / UNET, folder / UNET_HALF)]
    pairs += [(one / "model.safetensors", one / text) for one in folder.glob("text_encoder*")]
    for whole, half in pairs:
        save_file({name: one.half() for name, one in load_file(whole).items()}, half, {"format": "pt"})
    return [whole for whole, _ in pairs]


@pytest.mark.parametrize("text", TEXT_HALF)
@pytest.mark.parametrize(("make", "family"), [(tiny_gligen, Gligen), (tiny_sdxl, SdxlInpaint)])
def test_half_precision_needs_the_twins_alone_and_computes_the_same(tmp_path, make, family, text):
    folder = make(tmp_path / "model")
    loaded = load_latent_diffusion(resolve(str(folder), {}), family.FAMILY, torch.float16)
    for whole in halves(folder, text):
        whole.unlink()
    half = load_latent_diffusion(resolve(str(folder), {}), family.FAMILY, torch.float16)
    for name in ("unet", "vae", "text_encoder"):
        pairs = zip(getattr(loaded, name).state_dict().items(), getattr(half, name).state_dict().items(), strict=True)
        assert all(a == b and x.dtype == y.dtype and torch.equal(x, y) for (a, x), (b, y) in pairs)
    assert (half.unet.dtype, half.vae.dtype, half.text_encoder.dtype) == (torch.float16, torch.float32, torch.float32)
    for one, other in zip(loaded.encode_text("a forklift"), half.encode_text("a forklift"), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_full_precision_takes_the_whole_files(tmp_path):
    folder = tiny_gligen(tmp_path / "model")
    halves(folder, TEXT_HALF[0])
    loaded = load_latent_diffusion(resolve(str(folder), {}), Gligen.FAMILY, torch.float32)
    torch.testing.assert_close(
        loaded.unet.state_dict()["conv_in.weight"], load_file(folder / UNET)["conv_in.weight"], rtol=0, atol=0
    )


def test_a_twin_that_lacks_a_tensor_is_refused(tmp_path):
    folder = tiny_gligen(tmp_path / "model")
    halves(folder, TEXT_HALF[1])
    file = folder / "text_encoder" / TEXT_HALF[1]
    state = load_file(file)
    lost = sorted(state)[0]
    save_file({name: one for name, one in state.items() if name != lost}, file, {"format": "pt"})
    with pytest.raises(AugmentError, match=f"its weights lack 1 tensors .{re.escape(lost)}. in text_encoder"):
        load_latent_diffusion(resolve(str(folder), {}), Gligen.FAMILY, torch.float16)
