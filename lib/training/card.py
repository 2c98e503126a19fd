"""What a person sees of a training: the model's card, and the curve of its loss.

write_card(Path("models/vae"))                                    # README.md, from the facts that training left
write_card(Path("models/vae"), {"scenes": 100, "psnr": 31.2})     # with what was measured afterwards
picture = draw_curve(history)                                     # PIL, 640 × 240 pixels
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from lib.core.checkpoints import FACTS
from lib.core.errors import AugmentError
from lib.core.files import atomic_write
from lib.training import TRAINERS
from lib.training.train import read_facts

_INK, _GRID, _PAPER, _LINE = (60, 60, 66), (226, 226, 230), (255, 255, 255), (20, 90, 200)


def write_card(
    folder: Path,
    measured: Mapping[str, Any] | None = None,
    how: str = "`augment measure`, on scenes that no training has seen",
) -> None:
    """README.md of a finished model in Hugging Face form; a former one is replaced.

    measured: figures by name, a number, a text, a list of numbers or a mapping of these each; how: by which command, on
    what. Raises AugmentError where the folder holds no facts of a training.
    """
    facts = read_facts(folder)
    if "trainer" not in facts:
        raise AugmentError(f"{folder} holds no {FACTS}: only a model that this project trained has a card")
    atomic_write(folder / "README.md", _card(facts, measured or {}, how, _library(folder)).encode())


def _library(folder: Path) -> str:
    """The library whose class loads it; diffusers writes its version into every config, or an index of parts."""
    config = folder / "config.json"
    text = config.read_text("utf-8") if config.is_file() else "_diffusers_version"
    return "diffusers" if "_diffusers_version" in text else "transformers"


def _card(facts: Mapping[str, Any], measured: Mapping[str, Any], how: str, library: str) -> str:
    name = str(facts["trainer"])
    terms = str(facts.get("terms", ""))
    licence = ["license: apache-2.0"] if _of_our_own(facts) else []
    if research_only(terms):
        licence = ["license: other", "license_name: research-only"]
    front = [*licence, f"library_name: {library}", "tags:", "- augment", f"- {name}"]
    about = TRAINERS[name].ABOUT
    trained = {
        "data": facts["data"] or "not given",
        **({"terms of the data": terms} if terms else {}),
        "pictures": facts["pictures"],
        **({} if name in ("clip", "blip2", "classifier") else {"windows": f"{facts['size']} × {facts['size']} pixels"}),
        "steps": facts["steps"],
        "time": _duration(facts["seconds"]),
        "hardware": facts["hardware"],
        "precision": {"no": "float32"}.get(facts["precision"], facts["precision"]),
        "started from": facts["start"] or "nothing: random weights",
        **{
            f"round {number} before": f"{one['steps']} steps, {one['pictures']} pictures, windows of {one['size']} × "
            f"{one['size']} pixels, {_duration(one['seconds'])}"
            for number, one in enumerate(facts.get("rounds") or [], 1)
        },
        **{f"with `{need}`": revision for need, revision in facts["needs"].items()},
    }
    last = facts["history"][-1] if facts["history"] else {}
    parts = [
        "\n".join(["---", *front, "---"]),
        f"# {name}",
        f"{about[:1].upper()}{about[1:]}. Small, trained from labelled pictures alone by "
        "`augment train`; the weights are float16 safetensors.",
        "## Training",
        _table(trained),
        "Settings:",
        _table(facts["settings"]),
    ]
    if last:
        parts += ["At the end, means over the last steps:", _table({k: v for k, v in last.items() if k != "step"})]
    parts += ["## Measured", *([f"By {how}:", _table(measured)] if measured else ["Not yet."])]
    parts += ["## Licence", licence_of(facts)]
    return "\n\n".join(parts) + "\n"


def rounds_of(facts: Mapping[str, Any]) -> list[dict[str, Any]] | None:
    """The trainings behind a model that others begin from: those that it began from, and its own; None where one of
    them is not known, as of weights from elsewhere. facts: of that model."""
    before = facts.get("rounds", None if facts.get("start", "?") else [])
    if before is None:
        return None
    own = {name: facts[name] for name in ("size", "pictures", "steps", "seconds")}
    return [*before, own] if own["steps"] else before


def both_terms(earlier: str, terms: str) -> str:
    """Terms of the pictures of two trainings, the narrower first."""
    both = sorted(dict.fromkeys(filter(None, (earlier, terms))), key=lambda text: not research_only(text))
    return "; ".join(both)


def research_only(terms: str) -> bool:
    """Do terms of a data set allow research and nothing else?"""
    return terms.lower().startswith("research only")


def licence_of(facts: Mapping[str, Any]) -> str:
    """In a sentence or two, under which terms a trained model may be used."""
    terms = str(facts.get("terms", ""))
    if research_only(terms):
        return f"**Research only**, as the pictures that it learned from: {terms}."
    bound = f" Terms of the pictures that it learned from: {terms}." if terms else ""
    free = "Apache-2.0. No published weights went into it."
    return (free if _of_our_own(facts) else "As what it began from and its data allow.") + bound


_ON_BASES = ("lora", "stay")  # trainers whose models are made from others that a person names


def _of_our_own(facts: Mapping[str, Any]) -> bool:
    """Did all of its training begin from random weights, and what it was trained beside?"""
    bases = facts["needs"] if facts["trainer"] in _ON_BASES else ()
    if facts["trainer"] == "stay" and facts["settings"].get("vae") and not facts["start"]:
        return False  # also of a model from before its autoencoder stood among its needs
    return (not facts["start"] or facts.get("rounds") is not None) and all(base.startswith("mini:") for base in bases)


def _table(rows: Mapping[str, Any]) -> str:
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {shown(value)} |" for name, value in rows.items())])


def shown(value: Any) -> str:
    """A figure as a person writes it."""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {shown(inner)}" for key, inner in value.items())
    if isinstance(value, list | tuple):
        return " – ".join(map(shown, value))
    return str(value).replace("|", "/")


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    return (
        f"{seconds:.0f} s"
        if minutes < 2
        else f"{minutes // 60} h {minutes % 60:02d} min"
        if minutes > 59
        else f"{minutes} min"
    )


def draw_curve(history: Sequence[Mapping[str, float]], size: tuple[int, int] = (640, 240)) -> Image.Image:
    """The loss over the steps, logarithmic where it is positive and spans more than a factor of four.

    history: points with "step" and "loss"; size: (width, height), pixels.
    """
    points = [(p["step"], p["loss"]) for p in history if math.isfinite(p.get("loss", math.nan))]
    image = Image.new("RGB", size, _PAPER)
    pen, font = ImageDraw.Draw(image), ImageFont.load_default(size=11)
    if not points:
        pen.text((10, 10), "no steps yet", fill=_INK, font=font)
        return image
    losses = [loss for _, loss in points]
    low, high, last = min(losses), max(losses), points[-1][0]
    steep = low > 0 and high > 4 * low
    scale = math.log if steep else float
    left, top, right, bottom = 58, 12, size[0] - 12, size[1] - 26
    span = scale(high) - scale(low)

    def place(step: float, loss: float) -> tuple[float, float]:
        up = (scale(loss) - scale(low)) / span if span else 0.5
        return left + (right - left) * step / last, bottom - (bottom - top) * up

    for k in range(5):
        up = scale(low) + span * k / 4
        value = math.exp(up) if steep else up
        x, y = left + (right - left) * k / 4, bottom - (bottom - top) * k / 4
        pen.line((left, y, right, y), fill=_GRID)
        pen.text((left - 6, y), f"{value:.3g}", fill=_INK, font=font, anchor="rm")
        pen.text((x, bottom + 6), f"{last * k / 4:.0f}", fill=_INK, font=font, anchor="mt" if k < 4 else "rt")
    pen.line([place(*point) for point in points], fill=_LINE, width=2)
    x, y = place(*points[-1])
    pen.ellipse((x - 3, y - 3, x + 3, y + 3), fill=_LINE)
    return image
