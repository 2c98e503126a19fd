"""The report of a proof for a person: one HTML file without a network; and the same tables for a document.

    write_proof(folder, proof)                 # folder/proof.json, folder/report.html
    report_markdown(proof)                     # for docs/proof.md

First a sentence of what was shown and what was not, then the warnings; the plot of per-seed differences, learning
curves, tables, and the account. plots.py draws; the page itself is report.html.jinja beside this.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, StrictUndefined, Template

from lib.core.files import atomic_write
from lib.proof.errors import KINDS, RIGHT
from lib.proof.plots import curves, differences, levels
from lib.proof.results import REAL, Proof, Training
from lib.proof.statistics import Comparison, arm_of, failed_checks

_PARTS = "parts.html.jinja"
NONE = "–"
SECONDS_PER_HOUR = 3600


@dataclass(frozen=True)
class Table:
    """Cells are texts; columns after the first `words` are numbers."""

    title: str
    heads: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""
    fold: bool = False  # shown when a person opens it
    words: int = 1


def write_proof(folder: Path, proof: Proof) -> None:
    """proof.json and report.html, each by rename."""
    atomic_write(folder / "proof.json", proof.model_dump_json(indent=1).encode() + b"\n")
    atomic_write(folder / "report.html", proof_page(proof))


def proof_page(proof: Proof) -> bytes:
    """One HTML file; equal results give equal bytes."""
    return page_of(
        "report.html.jinja",
        title=f"Proof: {proof.title}",
        level=level_of(proof),
        proof=proof,
        legend=legend(proof),
        differences=differences(proof),
        levels=levels(proof),
        curves=curves(proof),
        tables=tables_of(proof),
        facts=facts(proof),
    )


def page_of(template: str, **values: Any) -> bytes:
    """A template beside this file, filled in, with the parts that pages have in common."""
    return (_template(template).render(**values) + "\n").encode(errors="backslashreplace")


@cache
def _template(name: str) -> Template:
    files = [Path(__file__).with_name(one) for one in (_PARTS, name)]
    source = "".join(line.strip() for file in files for line in file.read_text("utf-8").splitlines())
    return Environment(autoescape=True, undefined=StrictUndefined).from_string(source)


def report_markdown(proof: Proof, heading: str = "##") -> str:
    """The same in Markdown: headline, warnings, sentences, tables, protocol. heading: of the title's level."""
    parts = [f"{heading} {proof.title}", f"**{proof.headline}**"]
    parts += ["\n".join(f"- Warning: {line}" for line in proof.warnings)] if proof.warnings else []
    parts += ["\n".join(f"- {one.sentence}" for one in proof.comparisons)] if proof.comparisons else []
    for table in tables_of(proof):
        parts += [f"{heading}# {table.title}", piped(table)] + ([table.note] if table.note else [])
    parts += [f"{heading}# Protocol", "\n".join(f"- {name}: {value}" for name, value in facts(proof))]
    return "\n\n".join(parts) + "\n"


def piped(table: Table) -> str:
    rules = ["---" if i < table.words else "---:" for i in range(len(table.heads))]
    rows = [table.heads, rules, *table.rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in row)} |" for row in rows)


def level_of(proof: Proof) -> str:
    """Colour of the headline: red where a check failed or harm was shown, green where a claim was, else yellow."""
    claims = [one.outcome for one in proof.comparisons if one.role == "claim"]
    if failed_checks(proof.comparisons) or "harm shown" in claims:
        return "red"
    return "green" if "shown" in claims else "yellow"


def legend(proof: Proof) -> list[tuple[str, str]]:
    """(letter, what it learns from) of the arms that contrasts name."""
    named = {arm_of(name)[0] for one in proof.protocol.contrasts_read() for name in one.names}
    titles = {one.arm: one.title for one in proof.arms}
    return [(arm, title) for arm, title in titles.items() if arm in named]


def facts(proof: Proof) -> list[tuple[str, str]]:
    """The protocol in words."""
    one = proof.protocol
    settings = ", ".join(f"{name} {value}" for name, value in one.detector_settings.items())
    schedule = "".join(f", {name} {value}" for name, value in one.schedule.items())
    return [
        ("digest", proof.digest),
        ("test set opened", proof.opened),
        ("contrasts", "; ".join(one.contrasts) or "none"),
        ("seeds, ratios, alpha", f"{_listed(one.seeds)}; {_listed(one.ratios)}; {one.alpha:g}"),
        ("detector", f"{one.detector}, version {one.detector_version}{f' ({settings})' if settings else ''}"),
        ("training", f"{one.steps} steps of {one.batch} pictures, rate {one.rate:g}{schedule}, in every arm"),
        ("augmentation", ", ".join(f"{name} {value}" for name, value in one.augmentation.items()) or "none"),
        ("metric", "AP, mean over IoU .5 to .95 and the categories, in points 0 to 100, by pycocotools"),
        ("categories", ", ".join(one.names)),
        ("detections count from", f"score {proof.threshold.score:.3g}, which {proof.threshold.rule}"),
        ("pools", "; ".join(f"{name} {digest[:12]}" for name, digest in one.pools.items())),
        ("software", one.software),
    ]


def _listed(values: Sequence[float]) -> str:
    return ", ".join(f"{value:g}" for value in values)


# --- tables -----------------------------------------------------------------------------------------------------------


def tables_of(proof: Proof) -> list[Table]:
    """In the order of the report; those without a row are left out."""
    made = (_contrasts, _values, _raw, _categories, _rates, _kinds, _gains, _cost, _account, _left_out)
    return [table for table in (make(proof) for make in made) if table.rows]


def _contrasts(proof: Proof) -> Table:
    heads = ["contrast", "outcome", "AP points", "95 % interval", "p", "p after Holm", "seeds", "per seed"]
    return Table("Contrasts", heads, [_contrast(one) for one in proof.comparisons], words=2)


def _contrast(one: Comparison) -> list[str]:
    interval = NONE if one.low is None or one.high is None else f"{_number(one.low)} to {_number(one.high)}"
    role = "" if one.role == "claim" else " (check)"
    seeds = ", ".join(map(_signed, one.differences))
    return [
        one.contrast + role,
        one.outcome,
        _signed(one.mean),
        interval,
        f"{one.p:.4f}",
        f"{one.p_holm:.4f}",
        str(len(one.seeds)),
        seeds or NONE,
    ]


def _values(proof: Proof) -> Table:
    heads = ["arm", "learns from", "AP ± deviation", "AP50", "trainings", "over A"]
    rows = []
    for arm in proof.arms:
        some = proof.of(arm)
        values = [one.value for one in some]
        ap50 = [one.scores.get("ap50") for one in some]
        gain = NONE if arm.arm == REAL else _signed(proof.gain(arm))
        rows.append([proof.name(arm), arm.title, _spread(values), _mean(ap50), str(len(some)), gain])
    return Table("AP by arm and ratio", heads, rows, "Over A: mean over the seeds that both have.", words=2)


def _raw(proof: Proof) -> Table:
    seeds = list(proof.protocol.seeds)
    rows = []
    for arm in proof.arms:
        found = {one.seed: one for one in proof.trainings if one.cell == (arm.arm, arm.ratio)}
        rows.append([proof.name(arm), *(_cell(found.get(seed)) for seed in seeds)])
    return Table("Raw values: AP by seed", ["arm", *(f"seed {seed}" for seed in seeds)], rows, fold=True)


def _cell(one: Training | None) -> str:
    if one is None or one.value is None:
        return "diverged" if one is not None and one.diverged else "not finished"
    return f"{one.value:.2f}"


def _categories(proof: Proof) -> Table:
    """AP of arm A, and what the others differ by."""
    others = [arm for arm in proof.arms if arm.arm != REAL]
    base = {one.seed: one for one in proof.trainings if one.arm == REAL and one.value is not None}
    rows = []
    for name in proof.protocol.names:
        cells = [_mean([one.by_category.get(name) for one in base.values()])]
        for arm in others:
            pairs = [
                (one.by_category.get(name), base[one.seed].by_category.get(name))
                for one in proof.of(arm)
                if one.seed in base
            ]
            gains = [value - former for value, former in pairs if value is not None and former is not None]
            cells.append(_signed(float(np.mean(gains)) if gains else None))
        rows.append([name, *cells])
    note = f"AP of A, and the mean difference to it of the other arms. {NONE}: no test box, or no training."
    heads = ["category", "A", *map(proof.name, others)]
    return Table("AP by category", heads, rows if base else [], note)


def _rates(proof: Proof) -> Table:
    rows, sizes = [], set()
    for arm in proof.arms:
        some = [one.rates for one in proof.of(arm) if one.rates is not None]
        sizes |= {(one.with_objects, one.without) for one in some}
        if some:
            rows.append(
                [
                    proof.name(arm),
                    *(_mean([_percent(getattr(one, name)) for one in some]) for name in ("escapes", "false_rejects")),
                ]
            )
    counts = "; ".join(f"{one} pictures with an object, {other} without" for one, other in sorted(sizes))
    note = (
        "Escapes: of the pictures with an object those in which nothing was found. False rejects: of those without one "
        f"those in which something was found. Score from {proof.threshold.score:.3g} on, which {proof.threshold.rule}. "
        f"{counts}."
    )
    return Table("Whole pictures", ["arm", "escapes, %", "false rejects, %"], rows, note)


def _percent(share: float | None) -> float | None:
    return None if share is None else 100 * share


def _kinds(proof: Proof) -> Table:
    rows, boxes = [], set()
    for arm in proof.arms:
        some = [one.errors for one in proof.of(arm) if one.errors is not None]
        boxes |= {one.boxes for one in some}
        if some:
            rows.append([proof.name(arm), *(_mean([one.counts[kind] for one in some]) for kind in (RIGHT, *KINDS))])
    note = (
        f"Mean number a training, of {_listed(sorted(boxes))} labelled boxes, after TIDE (arXiv 2008.08115). "
        f"Detections with a score from {proof.threshold.score:.3g} on."
    )
    heads = ["arm", *(kind.replace("_", " ") for kind in (RIGHT, *KINDS))]
    return Table("Errors by kind", heads, rows, note)


def _gains(proof: Proof) -> Table:
    rows = []
    for arm in proof.arms:
        some = [one.errors.gains for one in proof.of(arm) if one.errors is not None and one.errors.gains]
        if some:
            rows.append([proof.name(arm), *(_mean([one[kind].ap50 for one in some]) for kind in KINDS), str(len(some))])
    heads = ["arm", *(kind.replace("_", " ") for kind in KINDS), "trainings"]
    return Table("AP50 points that mending a kind of error would win", heads, rows)


def _cost(proof: Proof) -> Table:
    rows = []
    for arm in proof.arms:
        some, gain = [one.seconds for one in proof.of(arm)], proof.gain(arm)
        total = arm.painting + (float(np.mean(some)) if some else 0.0)
        rate = gain / (total / SECONDS_PER_HOUR) if gain is not None and total and arm.arm != REAL else None
        rows.append([proof.name(arm), _mean(some), f"{arm.painting:.0f}" if arm.painting else NONE, _signed(rate)])
    heads = ["arm", "seconds a training", "seconds of painting", "AP points over A per hour"]
    return Table("Cost", heads, rows, "Per hour: of painting, refused pictures included, and one training.")


def _account(proof: Proof) -> Table:
    rows = []
    for arm in proof.arms:
        diverged = [str(one.seed) for one in proof.trainings if one.cell == (arm.arm, arm.ratio) and one.diverged]
        refused = ", ".join(f"{count} {reason}" for reason, count in arm.refused.items())
        rows.append([proof.name(arm), refused or NONE, ", ".join(diverged) or NONE, str(arm.real), str(arm.synthetic)])
    heads = ["arm", "screened out", "diverged seeds", "real pictures", "synthetic pictures"]
    return Table("What each arm learned from", heads, rows, words=3)


def _left_out(proof: Proof) -> Table:
    rows = [[f"in the pool {name!r}", str(count)] for name, count in proof.pictures.items()]
    rows += [[f"left out: {reason}", str(count)] for reason, count in proof.left_out.items()]
    return Table("Pictures of the data set", ["where", "pictures"], rows)


def _values_of(values: Sequence[float | None]) -> list[float]:
    return [value for value in values if value is not None]


def _mean(values: Sequence[float | None]) -> str:
    known = _values_of(values)
    return _number(float(np.mean(known))) if known else NONE


def _spread(values: Sequence[float | None]) -> str:
    """Mean and standard deviation over the seeds (n − 1)."""
    known = _values_of(values)
    if len(known) < 2:
        return _mean(known)
    return f"{_number(float(np.mean(known)))} ± {np.std(known, ddof=1):.1f}"


def _signed(value: float | None) -> str:
    return NONE if value is None else f"{value:+z.1f}".replace("-", "−")


def _number(value: float) -> str:
    return f"{value:z.1f}".replace("-", "−")
