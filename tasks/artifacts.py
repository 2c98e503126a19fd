"""What a person sees of a run in the UI: a table per stage, the contact sheet, the metrics.

No stage depends on it, so no fault here ends a run: what fails is left out, with a line in the log.
"""

from __future__ import annotations

import base64
import contextlib
import io
from collections.abc import Iterator, Mapping, Sequence

from PIL import Image
from prefect.artifacts import create_markdown_artifact, create_table_artifact

from lib.core.images import load_rgb
from lib.core.places import shown
from lib.evaluation.verdict import Tally, Verdict
from lib.screening.draw import sheet_jpeg
from lib.training.card import draw_curve
from tasks.engine import in_flow, log
from tasks.run import COMMON, Work


@contextlib.contextmanager
def only_shown(what: str) -> Iterator[None]:
    """Around what only a person looks at: a fault becomes a line in the log."""
    try:
        yield
    except Exception as error:  # of drawing, of the disk, of the server
        text = " ".join(str(error).split())[:200]
        log().warning("%s is left out: %s: %s", what, type(error).__name__, text)


def show_counts(run: Work, stage: str) -> None:
    """A table of a stage's rows: new, reused, and set aside by reason."""
    if not in_flow():
        return
    counts = run.account["stages"][stage]
    rows = [{"rows": "all", "count": counts["rows"]}, {"rows": "ok", "count": counts["ok"]}]
    rows += [{"rows": name, "count": counts[name]} for name in ("painted", "reused")]
    rows += [{"rows": f"set aside: {reason}", "count": count} for reason, count in counts["rejected"].items()]
    rows += [{"rows": name, "count": counts[name]} for name in counts if name not in COMMON]
    with only_shown(f"the table of {stage} in the UI"):
        create_table_artifact(rows, key=f"rows-{stage}", description=f"{stage}: every row accounted for")


def show_target(run: Work) -> None:
    """A table of a target's categories: wanted, accepted, refused, and seconds an accepted box."""
    target = run.account.get("target")
    if not in_flow() or not target:
        return
    rows = [
        {"category": name} | {key: value for key, value in one.items() if key != "reasons"}
        for name, one in target["boxes"].items()
    ]
    rows = rows or [{"category": "(pictures)", **target["pictures"]}]
    with only_shown("the table of the target in the UI"):
        text = f"{target['ended']}: {target['rounds']} rounds, {target['seconds']:.0f} s"
        create_table_artifact(rows, key="target", description=text)


def show_sheet(run: Work) -> None:
    """The contact sheet, embedded and small: the UI blocks file links."""
    path = run.root / "contact_sheet.jpg"
    if in_flow() and path.is_file():
        with only_shown("the contact sheet in the UI"):
            sheet = Image.fromarray(load_rgb(path, "stored"))
            data = base64.b64encode(sheet_jpeg(sheet, most=140_000)).decode()
            text = f"Whole sheet: `{shown(path)}`\n\n![contact sheet](data:image/jpeg;base64,{data})"
            create_markdown_artifact(text, key="contact-sheet", description="source, boxes, result")


def show_training(
    name: str, history: Sequence[Mapping[str, float]], sheet: Image.Image, facts: Mapping[str, str]
) -> None:
    """A training as it stands: its figures, the curve of its loss, what the model makes."""
    if not in_flow():
        return
    with only_shown(f"the training of {name} in the UI"):
        curve = io.BytesIO()
        draw_curve(history).convert("P").save(curve, "PNG", optimize=True)
        drawn = base64.b64encode(curve.getvalue()).decode()
        made = base64.b64encode(sheet_jpeg(sheet, most=140_000)).decode()
        parts = [
            "\n".join(["| | |", "|---|---|", *(f"| {key} | {value} |" for key, value in facts.items())]),
            f"![loss over steps](data:image/png;base64,{drawn})",
            f"![sheet](data:image/jpeg;base64,{made})",
        ]
        create_markdown_artifact("\n\n".join(parts), key=f"training-{name}", description=f"{name}: loss and sheet")


def show_text(key: str, text: str) -> None:
    """A note in markdown."""
    if not in_flow():
        return
    with only_shown(f"{key} in the UI"):
        create_markdown_artifact(text, key=key)


def verdict_markdown(verdict: Verdict) -> str:
    """The verdict, the further reasons, and the boxes of each category."""
    lines = [f"**{verdict.level.upper()}. {verdict.sentence}**", "", *(f"- {text}" for text in verdict.reasons[1:])]
    if verdict.categories:
        heads = list(Tally.model_fields)
        lines += ["", f"| category | {' | '.join(heads)} |", f"|---{'|---' * len(heads)}|"]
        for name, tally in verdict.categories.items():
            cells = " | ".join(str(getattr(tally, head)) for head in heads)
            lines.append(f"| {name.replace('|', chr(92) + '|')} | {cells} |")
    return "\n".join(lines)
