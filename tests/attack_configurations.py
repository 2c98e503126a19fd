"""Parameters of every flow with values of every field changed, as values and as YAML, up to where a run would start."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any

import yaml
from attack_mutations import Deep, mutated, places_in, value_at, value_mutated
from attack_samples import write_sample
from attacks import Attack, check_error, fresh, inside
from pydantic import ValidationError

from flows.cli import load_parameters, set_value
from lib.captioning.captioners import CAPTIONERS
from lib.core.errors import AugmentError, checked
from lib.core.registry import Family
from lib.evaluation.metrics import METRICS
from lib.painting.composites import COMPOSITES
from lib.painting.painters import PAINTERS
from lib.planning.edits import EDITS
from lib.records.settings import BoxScreenSettings, CompareSettings
from lib.runs.parameters import Parameters, check_parameters
from lib.runs.presets import PRESETS
from lib.training import TRAINERS
from lib.training.train import check_training


@contextmanager
def attacking(folder: Path) -> Iterator[Attack]:
    """Attack n: fields changed; a sentence names the wrong parameter."""
    from tasks.progress import Progress
    from tasks.run import open_run

    given = write_sample("coco", 0, folder / "data")
    dataset = {name: str(value) for name, value in given.items()}

    def attack(number: int) -> str:
        random = Random(f"configurations {number}")
        flow = random.choice(["augment", "augment", "augment", "train", "evaluate"])
        values = {"augment": _augment, "train": _train, "evaluate": _evaluate}[flow](random, dataset)
        names = [str(part) for place in places_in(values) for part in place]
        names += [
            one for place in places_in(values) if isinstance(one := value_at(values, place), str) and len(one) > 2
        ]
        with inside(fresh(folder / "deep" / "in" / "a" / "folder")):
            try:
                values = _given(values, random)
                if flow == "augment":
                    with open_run(check_parameters(values), "attacked", Progress()):
                        pass
                elif flow == "train":
                    check_training(values)
                else:
                    checked(CompareSettings, values)
            except AugmentError as error:
                check_error(error, *names, "model", "workspace", ".yaml", "--set")
                return "refused"
        return "accepted"

    yield attack


def _given(values: dict[str, Any], random: Random) -> dict[str, Any]:
    """The values changed, by one of the ways in which a person gives them."""
    way = random.randrange(4)
    if way == 0:  # a file
        text = yaml.safe_dump(values, allow_unicode=True).encode()
        Path("given.yaml").write_bytes(mutated("given.yaml", text, random))
        return load_parameters("given.yaml")[0]
    if way == 1:  # --set
        for _ in range(3):
            place = random.choice(
                [place for place in places_in(values) if place and all(isinstance(p, str) for p in place)]
            )
            text = random.choice(
                ["1e999", ".inf", "-.nan", "[", "{a: b", "'\\0'", '"\\ud800"', "!!python/none", "2024-01-01", "*x"]
            )
            set_value(values, f"{'.'.join(place)}={text}")
        return values
    changed = value_mutated(values, random)
    return _plain(changed) if isinstance(changed, dict) else {"dataset": _plain(changed)}


def _plain(value: Any) -> Any:
    """Without nesting that only a text can have."""
    if isinstance(value, Deep):
        nested: Any = 0
        for _ in range(min(value.depth, 200)):
            nested = [nested] if value.kind == 0 else {"a": nested}
        return nested
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, list) else value


def _member(family: Family, random: Random, names: Collection[str] = ()) -> Any:
    name = random.choice(sorted(names or family))
    try:
        settings = family[name].Settings().model_dump(mode="json")
    except ValidationError:  # none without values of its own
        settings = {}
    return random.choice([name, {"name": name, **settings}])


def _augment(random: Random, dataset: dict[str, str]) -> dict[str, Any]:
    """Every field of the flow augment, with a member of each family; without changes most of them could run."""
    values = Parameters.model_validate({"dataset": dataset}).model_dump(mode="json")
    values["screen"]["boxes"] = BoxScreenSettings().model_dump(mode="json")
    values["evaluate"]["metrics"] = [_member(METRICS, random, [name]) for name in random.sample(sorted(METRICS), 2)]
    values["limit"], values["workspace"] = 3, "ws"
    if random.random() < 0.1:
        values["preset"] = random.choice(sorted(PRESETS))
    elif random.random() < 0.7:
        painter = random.choice(["copy-paste", "copy-paste", "gligen", "gligen-inpaint"])
        values["models"] = "mini"
        values["painter"] = _member(PAINTERS, random, [painter])
        values["edit"] = _member(EDITS, random, PAINTERS[painter].EDITS)
        values["composite"] = _member(COMPOSITES, random, ["none", "paste", "feather", "poisson"])
        values["caption"]["captioner"] = _member(CAPTIONERS, random, ["template", "given", "blip2"])
    else:  # members that may not go together, or have no model here
        values["painter"], values["edit"] = _member(PAINTERS, random), _member(EDITS, random)
        values["composite"] = _member(COMPOSITES, random)
    return {name: value for name, value in values.items() if value is not None}


def _train(random: Random, dataset: dict[str, str]) -> dict[str, Any]:
    names = random.sample(sorted(TRAINERS), 2)
    settings = {name: TRAINERS[name].Settings().model_dump(mode="json") for name in names}
    fields = {"size": 64, "detail": 2.0, "split": "train", "start": "models", "output": "models", "seed": 0}
    return {"dataset": dataset, "models": names, "settings": settings, "workspace": "ws", **fields}


def _evaluate(random: Random, dataset: dict[str, str]) -> dict[str, Any]:
    metrics = [_member(METRICS, random) for _ in range(2)]
    sets = {
        "real": dataset["images"],
        "generated": dataset["images"],
        "boxes": dataset["annotations"],
        "format": "coco",
    }
    return {**sets, "metrics": metrics, "extractor": "pixels", "seed": 0, "workspace": "ws"}
