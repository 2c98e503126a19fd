"""README.md of an export: what is in it, how it was made, by which models, and under which terms.

For Hugging Face it is the dataset's card, with the front matter that the hub reads.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import yaml

from lib.datasets.export import Exporter
from lib.datasets.export.final_set import FinalSet
from lib.datasets.terms import terms_of
from lib.datasets.write_yolo import decoded
from lib.records.settings import DatasetSettings

CARD = "README.md"


@dataclass(frozen=True)
class ModelTerms:
    """A model that had a part in the synthetic pictures."""

    role: str  # painter, captioner or judge
    name: str  # hub id, mini:NAME, or "folder" with its revision
    licence: str
    terms: str  # of the data that it learned from, as its own card has them; "" where nothing is known


@dataclass(frozen=True)
class Provenance:
    """How a run made its set, as far as its workspace says."""

    run: str
    steps: Mapping[str, str]  # preset, edit, painter, composite, captioner, seed, variants
    models: Sequence[ModelTerms]
    dataset: DatasetSettings | None


def card(data: FinalSet, format: str, exporter: type[Exporter], provenance: Provenance) -> str:
    """The card as Markdown."""
    counts = data.counts
    total, new = (sum(split[name] for split in counts.values()) for name in ("pictures", "synthetic"))
    research = research_only(provenance)
    parts = [
        *([_front(data, bool(research))] if format == "hf" else []),
        f"# {_line(provenance.run)}",
        f"{total} labelled pictures: {total - new} originals and {new} synthetic ones, which are in the training split "
        "alone. Made by augment, which paints new objects where boxes say.",
        *(f"**Research only**: {_line(terms)}." for terms in research),
        f"Load: `{exporter.USE.format(folder='FOLDER')}`",
        "## Counts",
        _table(("", *counts), _count_rows(data, counts)),
        *_left_out(data, exporter),
        "## Splits",
        _split_rule(provenance.dataset),
        "## How the synthetic pictures were made",
        _table(("", ""), provenance.steps.items()),
        "## Models and their terms",
        _models(provenance.models),
        "## Terms of the source data",
        _source_terms(data.envelope, provenance.dataset),
    ]
    return "\n\n".join(parts) + "\n"


def research_only(provenance: Provenance) -> list[str]:
    """The terms that allow research and nothing else: of the source, and of models that had a part."""
    source = terms_of(provenance.dataset) if provenance.dataset else ""
    terms = [source, *(f"{model.role}: {text}" for model in provenance.models for text in (model.licence, model.terms))]
    return list(dict.fromkeys(text for text in terms if "research only" in text.lower()))


def _front(data: FinalSet, research: bool) -> str:
    files = [{"split": split, "path": f"{split}/**"} for split in data.splits]
    values = {
        "license": "other",
        **({"license_name": "research-only"} if research else {}),
        "task_categories": ["object-detection"],
        "tags": ["augment", "synthetic"],
        "configs": [{"config_name": "default", "data_files": files}],
    }
    return f"---\n{yaml.safe_dump(values, sort_keys=False)}---"


def _count_rows(data: FinalSet, counts: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, ...]]:
    totals = {"pictures": "pictures", "synthetic": "synthetic", "boxes": "all boxes"}
    rows = [(title, *(str(counts[split][name]) for split in counts)) for name, title in totals.items()]
    if any(split["ignored"] for split in counts.values()):
        rows.append(("ignored boxes", *(str(counts[split]["ignored"]) for split in counts)))
    names = dict.fromkeys(data.categories)
    return rows + [(f"`{_line(name)}`", *(str(counts[s]["categories"][name]) for s in counts)) for name in names]


def _left_out(data: FinalSet, exporter: type[Exporter]) -> list[str]:
    counts = ", ".join(f"{reason} {number}" for reason, number in sorted(data.left_out.items()))
    crowds = f"Crowds and ignored boxes: {exporter.IGNORED}."
    return [f"Left out: {counts or 'nothing'}. {crowds}", *(f"Note: {_line(note)}." for note in data.notes)]


def _split_rule(dataset: DatasetSettings | None) -> str:
    if dataset is None:
        return "Not known: the workspace has no readable settings.json."
    rule = {
        None: f"As the format {dataset.format} has it: by the data set's own lists where it has some, else all train.",
        "official": "As the data set itself says.",
    }.get(dataset.split, f"All pictures are {dataset.split}.")
    group = f" Pictures of one {_line(dataset.group)} stay on one side." if dataset.group else ""
    return f"{rule}{group} Synthetic pictures come from sources of the training split, and stay in it."


def _models(models: Sequence[ModelTerms]) -> str:
    if not models:
        return "None: new objects were cut out of the source pictures."
    rows = [(model.role, f"`{_line(model.name)}`", model.licence, model.terms or "not known") for model in models]
    return _table(("", "checkpoint", "licence", "data that it learned from"), rows)


def _source_terms(envelope: Mapping[str, msgspec.Raw], dataset: DatasetSettings | None) -> str:
    """What the parameters, and the source's own `info` and `licenses`, say."""
    info, licences = (_plain(envelope.get(name)) for name in ("info", "licenses"))
    terms = terms_of(dataset) if dataset else ""
    lines = [f"- terms of use: {_line(terms)}"] if terms else []
    if isinstance(info, dict):
        known = ("description", "contributor", "url", "version", "year", "date_created")
        lines += [f"- {name}: {_line(info[name])}" for name in known if info.get(name)]
    for licence in licences if isinstance(licences, list) else []:
        if isinstance(licence, dict):
            lines.append(f"- licence: {' '.join(_line(licence[k]) for k in ('name', 'url') if licence.get(k))}")
    return "\n".join(lines) or "The annotations name no licence: look where the pictures come from."


def _plain(value: msgspec.Raw | None) -> Any:
    return None if value is None else decoded(value, Any, None)


def _table(head: Iterable[object], rows: Iterable[Iterable[object]]) -> str:
    cells = [tuple(map(_line, row)) for row in rows]
    names = tuple(map(str, head))
    return "\n".join(f"| {' | '.join(row)} |" for row in (names, ("---",) * len(names), *cells))


def _line(value: object) -> str:
    """A text of the source as part of one line of Markdown."""
    return re.sub(r"[\s|<>]+", " ", str(value)).strip()[:500]
