"""The advice for a person and for a machine: advice.html, advice.json and advice.yaml of a folder.

write_advice(folder, "steel", advice, findings, parameters)
advice_markdown("steel", advice, findings)           # the same tables for the Prefect UI
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lib.core.files import atomic_write
from lib.proof.advice import FLAT, Advice
from lib.proof.advising import run_yaml
from lib.proof.errors import CROWDING, KINDS, RIGHT, SIZES
from lib.proof.findings import FEW, Estimate, Findings
from lib.proof.plots import (
    DARK,
    GREY,
    PALETTE,
    WIDTH,
    Dot,
    Line,
    Plot,
    Row,
    Text,
    number,
    rows_plot,
    ticks_of,
)
from lib.proof.plots import Path as Stroke
from lib.proof.report import NONE, Table, page_of, piped

LEVELS = {"yes": "green", "perhaps": "yellow", "no": "red"}
WORDS = {"for": "for it", "against": "against", "neither": "to know"}


def write_advice(
    folder: Path, title: str, advice: Advice, found: Findings, parameters: Mapping[str, Any]
) -> dict[str, Any]:
    """advice.json, advice.yaml and advice.html, each by rename; returns the document of the first.

    parameters: of the advised run.
    """
    document = {
        "answer": advice.answer,
        "sentence": advice.sentence,
        "target": advice.target,
        "ratio": advice.ratio,
        "advice": advice.model_dump(mode="json"),
        "run": dict(parameters),
        "findings": found.model_dump(mode="json"),
    }
    text = run_yaml(advice, parameters)
    atomic_write(folder / "advice.json", json.dumps(document, indent=1, ensure_ascii=False).encode() + b"\n")
    atomic_write(folder / "advice.yaml", text.encode())
    atomic_write(folder / "advice.html", advice_page(title, advice, found, text))
    return document


def advice_page(title: str, advice: Advice, found: Findings, run_text: str) -> bytes:
    """One HTML file; equal results give equal bytes."""
    return page_of(
        "advice.html.jinja",
        title=f"Advice: {title}",
        level=LEVELS[advice.answer],
        advice=advice,
        words=WORDS,
        plots=[curve_plot(found), kinds_plot(found), classes_plot(found)],
        tables=tables_of(advice, found),
        run_file="advice.yaml",
        run_text=run_text,
    )


def advice_markdown(title: str, advice: Advice, found: Findings, heading: str = "##") -> str:
    """The same in Markdown. heading: of the title's level."""
    parts = [f"{heading} Advice: {title}", f"**{advice.sentence}**", f"Based on: {advice.basis}."]
    parts += ["\n".join(f"- Not to be trusted: {line}" for line in advice.cautions)]
    parts += ["\n".join(f"- {_upper(WORDS[one.speaks])}: {one.text}" for one in advice.reasons)]
    for table in tables_of(advice, found):
        parts += [f"{heading}# {table.title}", piped(table)] + ([table.note] if table.note else [])
    return "\n\n".join(parts) + "\n"


def _upper(text: str) -> str:
    return text[0].upper() + text[1:]


# --- plots ------------------------------------------------------------------------------------------------------------


def curve_plot(found: Findings) -> Plot:
    """AP by pictures learned from, on a scale of doublings; what is free at the right end."""
    plot = Plot("Learning curve: AP in pictures not seen by pictures learned from, equal steps; bars are 95 %", 320)
    ends = {"C": "repeat-factor sampling", "D": "copy-paste"}
    last = found.curve[-1]
    free = {arm: last.ap.value + gain.value for arm, gain in found.free.items()}
    values = [one.ap.value for one in found.curve] + [*free.values()]
    values += [limit for one in found.curve for limit in (one.ap.low, one.ap.high) if limit is not None]
    ticks = ticks_of(min(values), max(values), 7)
    low, high = ticks[0], ticks[-1]
    left, right, top, bottom = 70, WIDTH - 260, 14, 280
    first, most = math.log2(found.curve[0].pictures), math.log2(last.pictures)

    def across(pictures: float) -> float:
        return left + 20 + (right - left - 40) * (math.log2(pictures) - first) / max(most - first, 1e-9)

    def down(ap: float) -> float:
        return bottom - (bottom - top) * (ap - low) / (high - low)

    for tick in ticks:
        plot.lines.append(Line(left, down(tick), right, down(tick), "#e2e2e2"))
        plot.texts.append(Text(left - 8, down(tick) + 4, f"{tick:g}", "end", GREY, small=True))
    for one in found.curve:
        x, y = across(one.pictures), down(one.ap.value)
        if one.ap.low is not None and one.ap.high is not None:
            plot.lines.append(Line(x, down(one.ap.low), x, down(one.ap.high), PALETTE[1], 9, opacity=0.25))
        plot.dots.append(Dot(x, y, PALETTE[1], f"{one.ap.value:.1f} AP with {one.pictures:.0f} pictures"))
        plot.texts.append(Text(x, bottom + 18, f"{one.pictures:.0f}", "middle", GREY, small=True))
    points = " ".join(f"{across(one.pictures):.1f},{down(one.ap.value):.1f}" for one in found.curve)
    plot.paths.append(Stroke(points, PALETTE[1], "real pictures"))
    labels = [(last.ap.value, f"real pictures {last.ap.value:.1f}", PALETTE[1])]
    labels += [(value, f"{ends[arm]} {value:.1f}", PALETTE[2 + k]) for k, (arm, value) in enumerate(free.items())]
    height = -math.inf
    for value, text, colour in sorted(labels, reverse=True):
        height = max(down(value), height + 16)
        plot.dots.append(Dot(across(last.pictures), down(value), colour, text))
        plot.texts.append(Text(right + 10, height + 4, text, colour=colour))
    return plot


def kinds_plot(found: Findings) -> Plot:
    """What mending each kind of error alone would gain."""
    errors = found.errors
    rows = []
    for kind, gain in sorted(errors.gains.items(), key=lambda item: -item[1].ap):
        value = max(0.0, gain.ap)
        about = f"{errors.counts[kind]} of them at the score with the best F1"
        text = f"+{number(value)} AP"
        rows.append(Row(kind.replace("_", " "), about, [], value, (0.0, value), PALETTE[2], text))
    return rows_plot("Errors by kind: AP points that would be won if none of a kind were made", rows, zero=True)


def classes_plot(found: Findings) -> Plot:
    """AP of each class, the weakest first."""
    rows = []
    for one in sorted(found.classes, key=lambda one: one.ap):
        interval = None if one.low is None or one.high is None else (one.low, one.high)
        about = f"{one.boxes} boxes, {one.missed} missed, {sum(one.taken_for.values())} taken for another class"
        colour = GREY if one.boxes < FEW else DARK
        gain = one.doubling
        more = "" if gain is None else f"last doubling {number(gain.value, sign=True)}"
        rows.append(Row(one.name, about, [], one.ap, interval, colour, f"{one.ap:.1f} AP", more))
    return rows_plot("AP of each class in pictures not seen; grey: too few boxes to be measured", rows, zero=False)


# --- tables -----------------------------------------------------------------------------------------------------------


def tables_of(advice: Advice, found: Findings) -> list[Table]:
    """In the order of the page."""
    return [_targets(advice), _edits(advice), _classes(found), _places(found), _confusions(found), _curve(found)]


def _targets(advice: Advice) -> Table:
    rows = [[one.name, one.why, str(one.boxes), str(one.new_boxes)] for one in advice.classes]
    note = (
        "In all as many as would take a quarter of the weak classes' error away by their learning curves, if a new box "
        f"were worth a real one, and at most {advice.ratio:g} per real one. Each where it gains most by those curves: "
        "in rare and weak classes first, and at most 4 per real one of a class."
    )
    title = "Which classes, how many boxes" + (", if it is done all the same" if advice.answer == "no" else "")
    return Table(title, ["class", "why", "boxes", "new boxes"], rows, note, words=2)


def _edits(advice: Advice) -> Table:
    rows = [["yes" if one.fits else "no", one.text] for one in advice.edits]
    return Table("Which edit", ["fits", "edit and what it is for"], rows, words=2)


def _classes(found: Findings) -> Table:
    most = max(one.boxes for one in found.classes)
    rows = [
        [
            one.name,
            *(str(count) for count in (one.boxes, one.pictures)),
            f"{most / one.boxes:.1f}" if one.boxes else NONE,
            f"{number(one.ap)}{Estimate(value=0, low=one.low, high=one.high).between}",
            NONE if one.doubling is None else str(one.doubling),
            f"{one.slope:.2f}",
        ]
        for one in sorted(found.classes, key=lambda one: one.ap)
    ]
    heads = ["class", "boxes", "pictures", "imbalance", "AP", "last doubling", "slope"]
    note = (
        "Imbalance: boxes of the most frequent class per box of this one. Slope b: the class's error falls as "
        f"boxes^−b, drawn towards that of all classes ({found.slope:.2f}) the fewer boxes it has. A doubling that "
        f"gives less than {FLAT:g} AP is no more than another seed."
    )
    return Table("Classes", heads, rows, note)


def _places(found: Findings) -> Table:
    errors = found.errors
    rows = [["all", *_counts(errors.counts)]]
    rows += [[name, *_counts(errors.by_category[name])] for name in errors.by_category]
    rows += [[size, *_counts(errors.by_size[size])] for size in SIZES]
    rows += [[where, *_counts(errors.by_crowding[where])] for where in CROWDING]
    heads = ["where", *(kind.replace("_", " ") for kind in (RIGHT, *KINDS))]
    note = (
        f"Of {errors.boxes} boxes; detections with a score from {errors.threshold:.3g} on. Kinds after TIDE (arXiv "
        "2008.08115); sizes are COCO's, in pixels of the files; near others: the box, twice as long, meets another one."
    )
    return Table("Errors by kind, class, size and crowding", heads, rows, note, fold=True)


def _counts(counts: Mapping[str, int]) -> list[str]:
    return [str(counts[kind]) for kind in (RIGHT, *KINDS)]


def _confusions(found: Findings) -> Table:
    rows: Sequence[Sequence[str]] = [[one.category, one.found_as, str(one.count)] for one in found.errors.confusions]
    return Table("Confusions", ["class", "taken for", "times"], rows or [[NONE, NONE, "0"]], fold=True, words=2)


def _curve(found: Findings) -> Table:
    rows = [
        [f"{one.share:g} of the real pictures", f"{one.pictures:.0f}", f"{number(one.ap.value)}{one.ap.between}"]
        for one in found.curve
    ]
    last = found.curve[-1]
    rows += [
        [{"C": "all, repeat-factor sampling", "D": "all, with copy-paste"}[arm], f"{last.pictures:.0f}", str(gain)]
        for arm, gain in found.free.items()
    ]
    note = "Means over the folds. What is free: AP points over the real pictures alone."
    return Table("Trainings", ["learned from", "pictures", "AP"], rows, note, fold=True)
