"""A dress rehearsal: every preset of a published checkpoint on a full-size stand-in with random weights, offline.

.venv/bin/pytest -m benchmark -s tests/benchmarks/test_rehearsal.py [-k 'loco-gligen or replace-sd2']

Two steps a preset, in a process of its own: one picture, its captioner too. What does not fit into the memory that is
free now is left out, and named. Needs 8 GB of disk at a time; with REHEARSAL=FOLDER the stand-ins stay there (28 GB).
"""

import json
import os
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import MadeSet
from standins import STANDINS, add_apart, parameters

from lib.captioning.captioners import CAPTIONERS
from lib.core.words import size_in_words
from lib.painting.painters import PAINTERS
from lib.runs.presets import PRESETS

pytestmark = [pytest.mark.benchmark, pytest.mark.timeout(3000)]

MODELS = {name: PAINTERS[preset["painter"]["name"]].MODEL for name, preset in PRESETS.items()}
NAMES = [name for name, model in MODELS.items() if model and model.partition("@")[0] in STANDINS]
NAMES.sort(key=lambda name: str(MODELS[name]))  # those of one model in a row
ROW = "{:<24} {:>7} {:>9} {:>8} {:>8} {:>9} {:>10}"


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """A hub cache with the stand-ins of the last preset."""
    kept = os.environ.get("REHEARSAL")
    print("\n" + ROW.format("preset", "M", "weights", "load s", "s a step", "whole s", "peak"))
    yield Path(kept) if kept else tmp_path_factory.mktemp("hub")


@pytest.mark.parametrize("preset", NAMES)
def test_the_published_layout_paints_offline(preset, cache, tmp_path):
    painter, captioner = models_of(preset)
    if "REHEARSAL" not in os.environ:
        remove_others(cache, painter, captioner)
    folders = [add_apart(cache, model) for model in (painter, captioner) if model]
    sizes = [parameters(folder) for folder in folders]
    needed, free = size_in_words(4.4 * max(sizes)), size_in_words(available())
    if 4.4 * max(sizes) > available():
        pytest.skip(f"{preset} needs about {needed} of memory in float32, {free} are free")
    command = [sys.executable, __file__, preset, str(tmp_path)]
    environment = os.environ | {"HF_HUB_CACHE": str(cache), "HF_HUB_OFFLINE": "1"}
    environment["PYTHONPATH"] = os.pathsep.join(str(path) for path in Path(__file__).parents[1:3])
    environment["OMP_NUM_THREADS"] = str(os.cpu_count())
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    seen = json.loads(done.stdout.splitlines()[-1])
    weights = sum(file.stat().st_size for folder in folders for file in folder.rglob("*.safetensors"))
    print(
        ROW.format(
            preset,
            f"{sizes[0] / 1e6:.0f}",
            size_in_words(weights),
            f"{seen['load']:.1f}",
            f"{seen['step']:.2f}",
            f"{seen['whole']:.0f}",
            size_in_words(seen["peak"]),
        ),
        flush=True,
    )
    left_out = getattr(PAINTERS[PRESETS[preset]["painter"]["name"]], "START", 0)  # SDXL begins one step later
    assert seen["painted"] == 1 and seen["calls"] >= 2 - left_out


def remove_others(cache: Path, *models: str | None) -> None:
    """Stand-ins that this preset does not use."""
    names = {f"models--{model.partition('@')[0].replace('/', '--')}" for model in models if model}
    for folder in cache.glob("models--*"):
        if folder.name not in names:
            shutil.rmtree(folder)


def models_of(preset: str) -> tuple[str, str | None]:
    """Hub ids of the painter and the captioner."""
    values = PRESETS[preset]
    captioner = values.get("caption", {}).get("captioner", {"name": "template"})["name"]
    return str(PAINTERS[values["painter"]["name"]].MODEL), CAPTIONERS[captioner].MODEL


def available() -> int:
    """Bytes of memory that are free, or can be made free."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable")) * 1024


def data_set(preset: str, folder: Path) -> dict[str, object]:
    """What the preset works on."""
    from test_preset_runs import make_triples

    if preset.startswith("pipe-"):
        return make_triples(folder)
    return MadeSet(folder, 1, size=(640, 480)).dataset


def rehearse(preset: str, folder: Path) -> None:
    """Run a preset for two steps, and print what it took as JSON."""
    import lib.captioning.captioners.blip2 as blip2
    import lib.painting.painters.denoise as denoise
    from flows.cli import main

    took = {"load": 0.0, "unet": 0.0, "calls": 0}

    def timed(function, name):
        def call(*args, **options):
            begun = time.perf_counter()
            result = function(*args, **options)
            took[name] += time.perf_counter() - begun
            return result

        return call

    load = timed(denoise.load_latent_diffusion, "load")

    def loaded(*args):
        model = load(*args)
        forward = timed(model.unet.forward, "unet")

        def step(*args, **options):
            took["calls"] += 1
            return forward(*args, **options)

        model.unet.forward = step
        return model

    denoise.load_latent_diffusion, blip2._load = loaded, timed(blip2._load, "load")
    values = {"preset": preset, "dataset": data_set(preset, folder / "set"), "workspace": str(folder / "ws")}
    values |= {"painter": {"steps": 2}, "limit": 1, "screen": {"black": 0, "blank": 0}}
    if PRESETS[preset]["composite"]["name"] == "reconstruct":
        values["composite"] = {"iterations": 2}
    if models_of(preset)[1]:
        values["caption"] = {"captioner": {"max_new_tokens": 4}, "rules": None}
    if preset.startswith("coco"):
        values["select"] = {"max_categories": None}
    (folder / "run.yaml").write_text(json.dumps(values))
    begun = time.perf_counter()
    code = main(["run", str(folder / "run.yaml")])
    account = json.loads((folder / "ws" / "status.json").read_bytes())
    seen = {"painted": account["painted"], "load": took["load"], "calls": took["calls"]}
    seen |= {"step": took["unet"] / max(1, took["calls"]), "whole": time.perf_counter() - begun}
    print(json.dumps(seen | {"peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}))
    sys.exit(code)


if __name__ == "__main__":
    rehearse(sys.argv[1], Path(sys.argv[2]))
