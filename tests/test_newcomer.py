"""From a person's own pictures to a folder that a detector trains on, by the README's own file and commands."""

import shlex
from pathlib import Path

import numpy as np
import pytest
import yaml
from conftest import MadeSet
from PIL import Image
from test_docs import block

from flows.cli import main


@pytest.fixture(scope="module")
def folder(tmp_path_factory, prefect_server) -> Path:
    """Where the README's commands ran, on pictures of its reader."""
    here = tmp_path_factory.mktemp("newcomer")
    made = MadeSet(here / "own", 8, size=(320, 240), boxes=1)
    text = block("yaml", "# mine.yaml").replace("path/to/pictures", str(made.images))
    (here / "mine.yaml").write_text(text.replace("path/to/instances.json", str(made.annotations)))
    assert yaml.safe_load((here / "mine.yaml").read_text())["dataset"]["images"] == str(made.images)
    install, *commands = block("", "make  ").splitlines()
    assert shlex.split(install, comments=True) == ["make"] and len(commands) == 2
    for command in commands:
        program, *arguments = shlex.split(command, comments=True)
        assert program == ".venv/bin/augment"
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(here)
            assert main(arguments) in (0, 3)  # 3: fewer pictures than the limit, as there are only 8
    return here


def test_three_commands_end_in_a_folder_that_a_detector_trains_on(folder):
    yolo = folder / "data" / "runs" / "mine" / "export" / "yolo"
    data = yaml.safe_load((yolo / "data.yaml").read_text())
    assert set(dict(enumerate(data["names"])) if isinstance(data["names"], list) else data["names"]) == {0, 1}
    pictures = sorted(path for path in (yolo / "images" / "train").iterdir())
    assert len(pictures) > 8 and any("insert-copy-paste" in path.name for path in pictures)
    for picture in pictures:
        labels = np.loadtxt(yolo / "labels" / "train" / f"{picture.stem}.txt", ndmin=2)
        assert labels.shape[1] == 5 and ((labels[:, 1:] >= 0) & (labels[:, 1:] <= 1)).all()
        Image.open(picture).verify()


def test_each_new_picture_has_an_object_more(folder):
    labels = folder / "data" / "runs" / "mine" / "export" / "yolo" / "labels" / "train"
    counts = {path.stem: len(path.read_text().splitlines()) for path in labels.iterdir()}
    new = {name: count for name, count in counts.items() if "insert-copy-paste" in name}
    assert new and all(count > counts[name.partition("__")[0]] for name, count in new.items())
