"""What a person sees of a run in the UI: a table per stage, the contact sheet, the metrics."""

from __future__ import annotations

import base64

from PIL import Image
from prefect.artifacts import create_markdown_artifact, create_table_artifact

from lib.draw import sheet_jpeg
from tasks.run import Run

_COMMON = ("rows", "ok", "painted", "reused", "rejected")


def show_counts(run: Run, stage: str) -> None:
    """A table of a stage's rows: new, reused, and set aside by reason."""
    told = run.account["stages"][stage]
    rows = [{"rows": "all", "count": told["rows"]}, {"rows": "ok", "count": told["ok"]}]
    rows += [{"rows": name, "count": told[name]} for name in ("painted", "reused")]
    rows += [{"rows": f"set aside: {reason}", "count": count} for reason, count in told["rejected"].items()]
    rows += [{"rows": name, "count": told[name]} for name in told if name not in _COMMON]
    create_table_artifact(rows, key=f"rows-{stage}", description=f"{stage}: every row accounted for")


def show_sheet(run: Run) -> None:
    """The contact sheet, embedded and small: the UI blocks file links."""
    path = run.root / "contact_sheet.jpg"
    if path.is_file():
        data = base64.b64encode(sheet_jpeg(Image.open(path), most=140_000)).decode()
        text = f"Whole sheet: `{path}`\n\n![contact sheet](data:image/jpeg;base64,{data})"
        create_markdown_artifact(text, key="contact-sheet", description="source, boxes, result")


def show_text(key: str, text: str) -> None:
    """A note in markdown."""
    create_markdown_artifact(text, key=key)
