"""Where weights come from: pinned, found offline, and a clear sentence where they are missing."""

import json
import os
import shutil
from types import SimpleNamespace

import huggingface_hub
import pytest
import torch
from huggingface_hub import constants
from huggingface_hub.errors import RepositoryNotFoundError
from tiny import tiny_gligen

from lib.captioning.captioners.template import Template
from lib.core import checkpoints, compute
from lib.core.checkpoints import (
    FACTS,
    ModelRef,
    check_files,
    folder_revision,
    local_path,
    missing_files,
    model_of,
    reading,
    resolve,
)
from lib.core.compute import side_by_side
from lib.core.errors import AugmentError
from lib.painting.painters.gligen import Gligen

SHA = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "model" / "unet").mkdir(parents=True)
    (tmp_path / "model" / "unet" / "config.json").write_text("{}")
    (tmp_path / "model" / "weights.safetensors").write_bytes(b"weights")
    return tmp_path / "model"


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty hub cache, and a hub that does not answer."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


@pytest.fixture
def hub(monkeypatch):
    """A hub that answers what the test puts into `says`: a commit, or an exception to raise."""
    requests, says = [], {"sha": SHA}

    def model_info(self, name, revision=None, timeout=None):
        requests.append((name, revision))
        if isinstance(says["sha"], Exception):
            raise says["sha"]
        return SimpleNamespace(sha=says["sha"])

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", model_info)
    return SimpleNamespace(requests=requests, says=says)


def refused(status):
    response = SimpleNamespace(headers={}, request=None, status_code=status)
    return RepositoryNotFoundError("404: no such repository\nmore", response=response)


def test_a_folder_is_pinned_by_its_files_and_its_place_does_not_count(folder, tmp_path):
    ref = resolve(str(folder), {})
    shutil.copytree(folder, tmp_path / "elsewhere")
    moved = resolve(str(tmp_path / "elsewhere"), {})
    assert (ref.id, ref.revision) == (moved.id, moved.revision)
    assert ref.revision.startswith("sha256:")
    assert ref.path == folder


def test_another_byte_or_another_name_is_another_revision_and_hidden_files_do_not_count(folder):
    before = folder_revision(folder)
    (folder / ".cache").mkdir()
    (folder / ".cache" / "x").write_text("x")
    assert folder_revision(folder) == before
    (folder / "weights.safetensors").write_bytes(b"Weights")
    os.utime(folder / "weights.safetensors", (1, 1))
    changed = folder_revision(folder)
    (folder / "weights.safetensors").rename(folder / "others.safetensors")
    assert len({before, changed, folder_revision(folder)}) == 3


def test_a_folder_that_changed_after_it_was_pinned_is_refused(folder):
    ref = resolve(str(folder), {})
    (folder / "weights.safetensors").write_bytes(b"longer weights")
    with pytest.raises(AugmentError, match="no longer sha256"):
        local_path(ref, ["unet/config.json"])


def test_a_folder_is_hashed_once_while_its_files_stay_as_they_are(folder, monkeypatch):
    folder_revision(folder)
    monkeypatch.setattr(checkpoints, "file_digest", lambda path: pytest.fail("hashed again"))
    assert folder_revision(folder) == folder_revision(folder)


@pytest.mark.parametrize("text", ["/no/such/folder", "./nowhere", "a/b/c"])
def test_what_is_neither_a_folder_nor_a_hub_id_is_refused(text):
    with pytest.raises(AugmentError, match="is neither a folder nor a hub id"):
        resolve(text, {})


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(AugmentError, match="holds no files"):
        resolve(str(tmp_path), {})


def test_a_hub_id_in_the_lock_is_not_looked_up_again(hub):
    assert resolve("org/name", {"org/name": SHA}) == ModelRef("org/name", SHA, None)
    assert hub.requests == []


def test_a_hub_id_outside_the_lock_is_requested_with_its_branch(hub):
    assert resolve("org/name", {}).revision == SHA
    assert resolve("org/name@refs/pr/2", {}).id == "org/name@refs/pr/2"
    assert hub.requests == [("org/name", "main"), ("org/name", "refs/pr/2")]


def test_a_commit_behind_the_id_needs_no_hub(hub):
    assert resolve(f"org/name@{SHA}", {}).revision == SHA
    assert hub.requests == []


def test_an_unknown_or_gated_id_is_reported_as_such(hub):
    hub.says["sha"] = refused(404)
    with pytest.raises(AugmentError, match=r"'org/name': the hub has no such checkpoint.*no such repository$"):
        resolve("org/name", {})


def test_without_a_network_the_caches_branch_or_only_snapshot_counts(hub, cache):
    hub.says["sha"] = ConnectionError("no route")
    place = cache / "models--org--name"
    (place / "snapshots" / SHA).mkdir(parents=True)
    assert resolve("org/name", {}).revision == SHA
    (place / "snapshots" / ("f" * 40)).mkdir()
    with pytest.raises(AugmentError, match="several commits: name one as org/name@COMMIT"):
        resolve("org/name", {})
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text("f" * 40)
    assert resolve("org/name", {}).revision == "f" * 40


def test_without_a_network_and_a_cache_the_error_names_id_places_and_choices(hub, cache):
    hub.says["sha"] = ConnectionError("no route")
    with pytest.raises(AugmentError) as caught:
        resolve("org/name", {})
    for part in ("org/name", "no route", str(cache), "model: FOLDER", "models: mini", "painter: copy-paste"):
        assert part in str(caught.value)


def test_a_cached_snapshot_is_used_offline_and_an_incomplete_one_names_the_file(cache):
    snapshot = cache / "models--org--name" / "snapshots" / SHA
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    ref = ModelRef("org/name@refs/pr/2", SHA, None)
    assert local_path(ref, ["config.json"]) == snapshot
    with pytest.raises(AugmentError, match=r"no x\.safetensors in .*is the download or the copy complete"):
        local_path(ref, ["config.json", "x.safetensors"])


def test_offline_without_a_snapshot_is_final_but_a_fault_of_the_network_is_tried_again(cache, monkeypatch):
    ref = ModelRef("org/name", SHA, None)
    with pytest.raises(AugmentError, match="HF_HUB_OFFLINE is set"):
        local_path(ref, ["config.json"])

    def unreachable(*args, **kwargs):
        raise huggingface_hub.errors.LocalEntryNotFoundError("an error happened on the way")

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", unreachable)
    monkeypatch.setattr(huggingface_hub.HfApi, "list_repo_tree", unreachable)
    with pytest.raises(ConnectionError, match="org/name"):
        local_path(ref, ["config.json"])


def test_a_gated_download_is_final(monkeypatch):
    def gated(*args, **kwargs):
        raise refused(403)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", gated)
    with pytest.raises(AugmentError, match="gated"):
        local_path(ModelRef("org/name", SHA, None), ["config.json"])


def test_a_checkpoint_of_pickles_says_that_they_are_never_loaded(folder):
    (folder / "weights.safetensors").rename(folder / "weights.bin")
    with pytest.raises(AugmentError, match=r"weights\.bin is a pickle, which is never loaded"):
        local_path(resolve(str(folder), {}), ["*.safetensors"])


def test_shards_that_the_index_names_must_be_there(folder):
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    (folder / "unet" / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "unet" / "model-1.safetensors").write_bytes(b"")
    assert missing_files(folder, ["*.safetensors"]) == ["unet/model-2.safetensors"]


def test_the_dial_chooses_between_published_and_mini_and_a_setting_goes_first(folder):
    assert model_of("gligen", Gligen, Gligen.Settings(), "full") == Gligen.MODEL
    assert model_of("gligen", Gligen, Gligen.Settings(), "mini") == "mini:gligen"
    assert model_of("gligen", Gligen, Gligen.Settings(model=str(folder)), "mini") == str(folder)
    assert model_of("template", Template, Template.Settings(), "full") is None


def test_a_mini_model_is_a_folder_of_the_checkout_and_a_missing_one_says_what_to_do(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoints, "MINI", tmp_path)
    assert resolve("mini:model", {}) == ModelRef("mini:model", folder_revision(folder), folder)
    with pytest.raises(AugmentError, match=r"no folder data/models/mini/gligen \(there: model\)") as caught:
        resolve("mini:gligen", {})
    assert "models: full" in str(caught.value)


def test_a_broken_checkpoint_is_reported_as_such_and_faults_of_storage_and_memory_pass():
    ref = ModelRef("org/name", SHA, None)
    for error in (OSError("no such key"), ValueError("bad"), RuntimeError("size mismatch")):
        with pytest.raises(AugmentError, match=r"org/name .* cannot be loaded"), reading(ref):
            raise error
    for error in (OSError(5, "input/output error"), ConnectionError("gone"), torch.OutOfMemoryError("full")):
        with pytest.raises(type(error)), reading(ref):
            raise error


def test_weights_that_are_cut_short_are_reported_as_such(tmp_path):
    folder = tiny_gligen(tmp_path / "gligen")
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    painter = Gligen(Gligen.Settings(), resolve(str(folder), {}))
    with pytest.raises(AugmentError, match="cannot be loaded"):
        painter._loaded()


def test_precision_is_float32_on_a_cpu_and_half_on_a_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert compute.weights_dtype() == torch.float32
    assert compute.weights_dtype("bfloat16") == torch.bfloat16
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert compute.weights_dtype() == torch.float16


def test_a_trained_model_that_was_altered_since_is_refused(folder):
    """One flipped bit gives weights that load and lie."""
    (folder / FACTS).write_text(json.dumps({"trainer": "vae", "revision": folder_revision(folder)}))
    assert resolve(str(folder), {}).revision == folder_revision(folder)
    weights = next(folder.rglob("*.safetensors"))
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with pytest.raises(AugmentError, match=rf"was altered since it was trained .* remove {FACTS}"):
        resolve(str(folder), {})


@pytest.mark.parametrize("noted", ["{", "[]", "{}", '{"trainer": "vae"}', '{"revision": null}'])
def test_a_folder_whose_training_noted_no_revision_is_taken_as_it_is(folder, noted):
    (folder / FACTS).write_text(noted)
    assert resolve(str(folder), {}).revision == folder_revision(folder)


@pytest.mark.parametrize("index", ["{", "[]", "{}", '{"weight_map": []}', "[" * 100_000])
def test_an_index_of_weights_that_is_none_is_named(folder, index):
    (folder / "model.safetensors.index.json").write_text(index)
    with pytest.raises(AugmentError, match=r"index\.json.*expected an index of weights"):
        missing_files(folder, [])


@pytest.fixture
def two_threads():
    """torch on two threads, as outside of tests, and nothing begun side by side yet."""
    before = torch.get_num_threads()
    compute._single_threads.cache.clear()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_items_run_side_by_side_in_order_each_on_one_torch_thread_and_the_rest_is_left_alone(two_threads):
    found = side_by_side(lambda item: (item, torch.get_num_threads()), range(40))
    assert found == [(item, 1) for item in range(40)]
    assert torch.get_num_threads() == 2


def test_what_one_item_raises_is_raised():
    with pytest.raises(ZeroDivisionError):
        side_by_side(lambda item: 1 // item, [2, 1, 0])


@pytest.mark.parametrize("name", ["..", "../pcb/stay", "vae/../vae", "", "."])
def test_a_mini_model_is_named_by_its_folder_and_by_no_path(name):
    with pytest.raises(AugmentError, match="models: mini has no model"):
        resolve(f"mini:{name}", {})


def test_files_that_the_hub_lacks_are_found_without_a_download(cache, monkeypatch):
    listed = {"config.json": 1, "model.fp16.safetensors": 9, "unet/pytorch_model.bin": 9}
    monkeypatch.setattr("lib.core.downloads._listed", lambda name, revision: listed)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *args, **more: pytest.fail("a download began"))
    ref = ModelRef("org/name", SHA, None)
    check_files(ref, ["config.json", ("model.safetensors", "model.fp16.safetensors")])
    with pytest.raises(AugmentError, match=r"org/name .*: no unet/\*\.safetensors in its files on the hub"):
        check_files(ref, ["config.json", "unet/*.safetensors"])
    listed.clear()  # it does not say
    check_files(ref, ["unet/*.safetensors"])
