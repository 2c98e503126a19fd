"""Is the advice right? What `augment advise` says of a few pictures, beside what a proof of the same then finds.

FOLDER=DIR SEEDS=6 .venv/bin/pytest -m benchmark -s tests/benchmarks/test_advice.py

A cell is a data set, a number of real pictures and a detector. The advice sees the training pictures alone; the proof
trains on them, with copy-paste (D) and with more objects a picture, other hues and more pictures (E), three paired
seeds each, or as many as SEEDS says; ± is the standard error of a mean. Right is a yes where the better of D and E
gains 1 AP or more, a no where neither does, and D instead where D gains as much; "perhaps" is counted apart. With
FOLDER, what is done is kept, and a run that was ended goes on. An hour or two; asserts nothing of the share that is
right.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import pytest
from shared import DATA

pytestmark = [pytest.mark.benchmark, pytest.mark.timeout(4 * 3600)]

SEEDS = int(os.environ.get("SEEDS", "3"))
CLEAR = 1.0  # AP points: what two trainings differ by that differ in their seed alone
SMALL = {"name": "compact", "size": 128, "stride": 8}
FEW_STEPS = {"steps": 400, "rate": 0.003, "warmup": 30}
ANY_WAY_UP = {"upside_down": True, "quarter_turns": True}
STEEL = {"images": str(DATA / "neu_det/IMAGES"), "annotations": str(DATA / "neu_det/ANNOTATIONS"), "format": "voc"}
BOARDS = {"images": str(DATA / "deep_pcb/PCBData"), "format": "deep-pcb", "group": "folder"}


def cells(scenes: Path) -> dict[str, dict[str, Any]]:
    """Name → what is particular to it, of advice and proof alike."""
    drawn = {"images": str(scenes / "images"), "annotations": str(scenes / "annotations.json"), "format": "coco"}
    found: dict[str, dict[str, Any]] = {}
    for count in (10, 20, 40, 80):
        found[f"scenes, {count} real"] = {"dataset": drawn, "split": {"train": count, "test": 120, "seed": 7}}
    rare = {"train": 20, "test": 120, "seed": 7, "rare": {"forklift": 2}}
    found["scenes, 20 real, 2 with a forklift"] = {"dataset": drawn, "split": rare}
    for count in (24, 96):
        split = {"train": count, "test": 150, "seed": 5}
        found[f"steel, {count} real"] = {"dataset": STEEL, "split": split, "augmentation": ANY_WAY_UP}
    found["boards, 30 real"] = {
        "dataset": BOARDS,
        "split": {"train": 30, "test": 60},
        "augmentation": ANY_WAY_UP,
        "detector": {"name": "compact", "size": 256, "stride": 4},
        "schedule": {"steps": 200, "rate": 0.002},
    }
    return found


def augment(folder: Path, *words: str) -> None:
    command = [Path(sys.executable).with_name("augment"), *words, "--quiet"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


def looked_at(folder: Path, name: str, cell: dict[str, Any]) -> dict[str, Any]:
    """What was advised, and what the proof found."""
    common = {"detector": SMALL, "schedule": FEW_STEPS, "trainings": str(folder / "trainings")} | cell
    own = folder / "".join(letter if letter.isalnum() else "-" for letter in name)
    own.mkdir(parents=True, exist_ok=True)
    advice = common | {"folds": {"count": 2}}
    proof = common | {
        "arms": ["A", "D", "E"],
        "ratios": [4],
        "fade": 1,
        "seeds": SEEDS,
        "contrasts": [],
        "copy_paste": {"preset": "insert", "variants": 4},
        "paint": {"preset": "insert", "edit": {"count": 3}, "painter": {"hue": 180}, "variants": 4},
        "workspace": str(own / f"proof-{SEEDS}"),
    }
    for command, values, more in (("advise", advice, ("--out", "advice")), ("prove", proof, ())):
        (own / f"{command}.yaml").write_text(json.dumps(values))
        augment(own, command, f"{command}.yaml", *more)
    said = json.loads((own / "advice/advice.json").read_bytes())["advice"]
    trained = json.loads((own / f"proof-{SEEDS}/proof.json").read_bytes())["trainings"]
    values = {arm: {one["seed"]: one["value"] for one in trained if one["arm"] == arm} for arm in "ADE"}
    gains = {arm: [values[arm][seed] - real for seed, real in values["A"].items()] for arm in "DE"}
    found: dict[str, Any] = {"answer": said["answer"], "instead": said["instead"], "real": mean(values["A"].values())}
    for arm, some in gains.items():
        found |= {arm: mean(some), f"{arm} error": stdev(some) / len(some) ** 0.5}
    return found


def right(one: dict[str, Any]) -> bool | None:
    """None: it said "perhaps"."""
    if one["instead"] == "D":
        return bool(one["D"] >= CLEAR and one["D"] >= one["E"] - CLEAR)
    if one["answer"] == "perhaps":
        return None
    return bool((max(one["D"], one["E"]) >= CLEAR) == (one["answer"] == "yes"))


def test_advice_beside_proof(tmp_path):
    folder = Path(os.environ.get("FOLDER", tmp_path))
    scenes = folder / "scenes"
    if not (scenes / "annotations.json").exists():
        drawn = ["lib.scenes", str(scenes), "--count", "400", "--seed", "77", "--size", "256", "256"]
        subprocess.run([sys.executable, "-m", *drawn], check=True, cwd=Path(__file__).parents[2])
    print("\n| cell | A | D − A | E − A | advice | right |\n|---|---:|---:|---:|---|---|")
    judged = []
    for name, cell in cells(scenes).items():
        if not Path(cell["dataset"]["images"]).exists():
            print(f"| {name} | not here |")
            continue
        one = looked_at(folder, name, cell)
        judged.append(right(one))
        word = {None: "open", True: "right", False: "wrong"}[judged[-1]]
        said = one["answer"] + (f", {one['instead']} instead" if one["instead"] else "")
        gains = " | ".join(f"{one[arm]:+.1f} ± {one[f'{arm} error']:.1f}" for arm in "DE")
        print(f"| {name} | {one['real']:.1f} | {gains} | {said} | {word} |", flush=True)
    print(f"{judged.count(True)} right, {judged.count(False)} wrong, {judged.count(None)} left open")
