"""A report for a person: one HTML file without a network, of one evaluation or of two side by side.

    write_report({"mine": result}, Path("report/index.html"))
    write_report({"before": old, "after": new}, Path("compared.html"))

What it shows is what lib/evaluate.py measured: every number with what is good, what is bad and what it cannot tell, the
floor beside the scores, tables by category and size, how single pictures and boxes spread, the best and the worst of
them, and a sheet of what was generated.
"""

from __future__ import annotations

import base64
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from lib.documents import read_json
from lib.errors import AugmentError
from lib.images import PictureError, load_rgb
from lib.manifest import atomic_write
from lib.reading import in_frame

SHOWN = 4  # best and worst pictures of each number
BOXES = 12  # best and worst boxes
SHEET = 24  # pictures of the contact sheet
THUMB = 360  # pixels, width of a picture in the report
BINS = 20
_COLOURS = ("#2f6fdf", "#e0662f")
# Where more is better; of all others less is.
_UP = {"precision", "recall", "density", "coverage", "background_psnr", "background_ssim", "untouched", "whole_psnr"}
_UP |= {"whole_ssim", "inside_psnr", "inside_ssim", "diversity", "clip_score", "share"}

_STYLE = """body{font:15px/1.5 system-ui,sans-serif;max-width:1120px;margin:2em auto;padding:0 1em;color:#222}
table{border-collapse:collapse;width:100%}td,th{padding:.35em .6em;text-align:left;vertical-align:top;
border-bottom:1px solid #ddd;overflow-wrap:anywhere}
td.n{white-space:nowrap;overflow-wrap:normal;font-variant-numeric:tabular-nums}small{color:#666}
figure{display:inline-block;margin:.3em .6em .3em 0}figure img{display:block;width:360px}
figcaption{font-size:12px;color:#555;max-width:740px;overflow-wrap:anywhere}h2{margin-top:1.6em}
.box img{width:140px}.box figcaption{max-width:140px}.sheet img{width:170px}.sheet figcaption{max-width:170px}"""


def read_result(path: Path) -> dict[str, Any]:
    """What lib/evaluate.write_json wrote; raises AugmentError for anything else."""
    try:
        told: dict[str, Any] = read_json(path, "an object")
    except AugmentError as error:
        raise AugmentError(f"{path} is no result of `augment evaluate --json` ({error})") from None
    if "about" not in told:
        raise AugmentError(f"{path} is no result of `augment evaluate --json`: it has no `about`")
    return told


VERSION = 1  # raised whenever the same result would give another page


def write_report(results: Mapping[str, Mapping[str, Any]], path: Path, title: str = "Evaluation") -> None:
    """`report_page` of one or more results by their names, written by rename; raises as that does."""
    atomic_write(path, report_page(results, title))


def report_page(results: Mapping[str, Mapping[str, Any]], title: str = "Evaluation") -> bytes:
    """One or more results by their names, as one HTML file; raises AugmentError for what is none."""
    try:
        text = _page(results, title)
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise AugmentError(
            f"{' or '.join(results)} cannot be shown ({type(error).__name__}: {error}): expected results as `augment "
            "evaluate --json` writes them"
        ) from error
    return text.encode(errors="backslashreplace")  # names of files may be no Unicode


def _page(results: Mapping[str, Mapping[str, Any]], title: str) -> str:
    parts = [f"<h1>{escape(title)}</h1>", _sizes(results), _numbers(results), _tables(results)]
    names = list(dict.fromkeys(name for result in results.values() for name in _spread_of(result)))
    parts += [_spread(name, results) for name in names]
    parts += [_judged(results), *(_sheet(name, result) for name, result in results.items()), _notes(results)]
    page = "<!doctype html><html lang=en><meta charset=utf-8>" + f"<title>{escape(title)}</title>"
    return f"{page}<style>{_STYLE}</style><body>{''.join(parts)}</body></html>\n"


def _sizes(results: Mapping[str, Mapping[str, Any]]) -> str:
    rows = []
    for name, told in results.items():
        sets = f"{told['n_real']} real, {told['n_generated']} generated" if "n_real" in told else ""
        pairs = f"{told['pairs']['count']} beside their sources" if "pairs" in told else ""
        groups = f"{told['groups']['count']} groups of variants" if "groups" in told else ""
        cells = (name, "; ".join(filter(None, (sets, pairs, groups))), told.get("features", ""))
        rows.append("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in cells) + "</tr>")
    return f"<table><tr><th>run<th>pictures<th>features</tr>{''.join(rows)}</table>"


def _numbers(results: Mapping[str, Mapping[str, Any]]) -> str:
    """A row for each number: what each run has, its floor, and what it says."""
    about = {name: text for told in results.values() for name, text in told["about"].items()}
    if any(told.get("biased") for told in results.values()):  # KID stands first where FID is biased
        about = {name: about[name] for name in sorted(about, key=lambda name: name == "fid")}
    heads = "".join(f"<th>{escape(name)}</th>" for name in results)
    rows = []
    for name, text in about.items():
        cells = "".join(f"<td class=n>{_told(told, name)}</td>" for told in results.values())
        rows.append(f"<tr><td class=n>{escape(name)}</td>{cells}<td><small>{escape(text)}</small></td></tr>")
    return f"<h2>Numbers</h2><table><tr><th>number</th>{heads}<th>what it says</th></tr>{''.join(rows)}</table>"


def _told(result: Mapping[str, Any], name: str) -> str:
    value, floor = result.get(name), result.get("floor") or {}
    if value is None:
        return "–"
    if isinstance(value, Sequence):
        return " to ".join(f"{part:.4g}" for part in value)
    text = f"{value:.4g}"
    if f"{name}_at_m" in floor:
        real = floor[name]
        text += f"<br><small>at {floor['m']:d}: {floor[f'{name}_at_m']:.4g}<br>real against real: {real['mean']:.4g} "
        text += f"± {real['std']:.2g}</small>"
    if name == "fid" and result.get("biased"):
        text += "<br><small>biased: few pictures</small>"
    return text


def _tables(results: Mapping[str, Mapping[str, Any]]) -> str:
    """What regions and layout tell by category and by size."""
    parts = []
    for run, result in results.items():
        for title, rows in _rows_of(result).items():
            heads = "".join(f"<th>{escape(head)}</th>" for head in rows[0])
            cells = ("".join(f"<td>{escape(_short(value))}</td>" for value in row) for row in rows[1:])
            body = "".join(f"<tr>{row}</tr>" for row in cells)
            parts.append(f"<h3>{escape(run)}: {escape(title)}</h3><table><tr>{heads}</tr>{body}</table>")
    return "<h2>By category and size</h2>" + "".join(parts) if parts else ""


def _rows_of(result: Mapping[str, Any]) -> dict[str, list[list[Any]]]:
    """Tables by their titles: a row of heads, then rows of values."""
    tables: dict[str, list[list[Any]]] = {}
    for group in ("by_category", "by_size") if "regions" in result else ():
        rows = [
            [name, *(_share(told[f"hits_{side}"], told[f"n_{side}"]) for side in ("generated", "real"))]
            for name, told in result["regions"][group].items()
        ]
        title = f"boxes recognised, {group.replace('_', ' ')}"
        tables[title] = [[group.removeprefix("by_"), "generated", "real"], *rows]
    if "layout" in result:
        sides, measures = ("generated", "real"), ("ap", "ap50", "ar")
        heads = [f"{name} {side}" for side in sides for name in measures]
        told = {side: result["layout"][side] for side in sides}
        sizes = ("small", "medium", "large")
        tables["found by the detector, by size"] = [
            ["size", *(f"{name} {side}" for side in sides for name in ("ap", "ar"))],
            *([size, *(told[s][f"{m}_{size}"] for s in sides for m in ("ap", "ar"))] for size in sizes),
        ]
        tables["found by the detector, by category"] = [
            ["category", *heads],
            *(
                [name, *(told[s]["by_category"][name][m] for s in sides for m in measures)]
                for name in told["generated"]["by_category"]
            ),
        ]
    return tables


def _share(hits: int, boxes: int) -> str:
    return f"{hits / boxes:.3f} of {boxes}" if boxes else "no boxes"


def _short(value: Any) -> str:
    return "–" if value is None else f"{value:.3f}" if isinstance(value, float) else str(value)


def _singles(result: Mapping[str, Any], name: str) -> list[Mapping[str, Any]]:
    """What has the number by itself: pictures beside their sources, generated pictures, sources of groups."""
    seen = [one for one in result.get("pictures", []) if one["set"] == "generated"]
    rows = [*result.get("pairs", {}).get("pictures", []), *seen, *result.get("groups", {}).get("sources", [])]
    return [row for row in rows if row.get(name) is not None]


def _spread_of(result: Mapping[str, Any]) -> list[str]:
    """Names of the numbers that single pictures have."""
    return [name for name in result["about"] if name != "untouched" and _singles(result, name)]


def _spread(name: str, results: Mapping[str, Mapping[str, Any]]) -> str:
    values = {run: np.array([row[name] for row in _singles(told, name)]) for run, told in results.items()}
    every = np.concatenate(list(values.values()))
    if every.min() == every.max():
        return f"<h2>{escape(name)}</h2><p>{every[0]:.4g} for all {len(every)}</p>"
    worst = [_ends(name, run, told) for run, told in results.items()]
    return f"<h2>{escape(name)}</h2>{_histogram(values, 'pictures')}{''.join(worst)}"


def _judged(results: Mapping[str, Mapping[str, Any]]) -> str:
    """How sure the judge was of painted boxes, and the boxes that it was least and most sure of."""
    values = {run: np.array([box["share"] for box in told.get("boxes", [])]) for run, told in results.items()}
    if not any(len(own) for own in values.values()):
        return ""
    parts = [_histogram(values, "painted boxes, by the judge's share for their own category")]
    for run, told in results.items():
        ranked = sorted(told.get("boxes", []), key=lambda box: box["share"])
        for which, some in (("worst", ranked[:BOXES]), ("best", ranked[BOXES:][-BOXES:][::-1])):
            if some:
                parts.append(f"<h3>{escape(run)}: {which} boxes</h3><div class=box>{''.join(map(_crop, some))}</div>")
    return f"<h2>boxes</h2>{''.join(parts)}"


def _crop(box: Mapping[str, Any]) -> str:
    said = "" if box["said"] == box["label"] else f", seen as {box['said']}"
    caption = f"{box['label']}{said}: {box['share']:.3f}; {Path(box['picture']).name}"
    return _captioned(_cut(Path(box["picture"]), box["box"], tuple(box.get("size", (0, 0)))), caption)


def _cut(path: Path, box: Sequence[float], size: tuple[int, int]) -> str:
    """The box with a frame around it, and what is near it; size: what the picture's labels were drawn in."""
    try:
        pixels = in_frame(path, size)
    except PictureError as error:
        return f"<small>{escape(path.name)}: {escape(error.reason)}</small>"
    x0, y0, x1, y1 = (round(value) for value in box)
    more = max(8, (x1 - x0) // 2, (y1 - y0) // 2)
    left, top = max(0, x0 - more), max(0, y0 - more)
    near = pixels[top : y1 + more, left : x1 + more]
    if not near.size:
        return f"<small>{escape(path.name)}: another picture now, without this box</small>"
    part = Image.fromarray(near)
    scale = 140 / max(part.size)
    part = part.resize((max(1, round(part.width * scale)), max(1, round(part.height * scale))))
    framed = [(value - start) * scale for value, start in zip((x0, y0, x1, y1), (left, top, left, top), strict=True)]
    ImageDraw.Draw(part).rectangle(framed, outline=(255, 0, 255))
    return _encoded(part)


def _sheet(run: str, result: Mapping[str, Any]) -> str:
    """Generated pictures, evenly taken from all."""
    rows = [*result.get("pairs", {}).get("pictures", []), *result.get("boxes", []), *result.get("pictures", [])]
    paths = list(dict.fromkeys(row["picture"] for row in rows if row.get("set") != "real"))
    some = paths[:: max(1, -(-len(paths) // SHEET))]
    figures = [_captioned(_image(Path(path)), Path(path).name) for path in some]
    title = f"<h2>{escape(run)}: {len(some)} of {len(paths)} generated pictures</h2>"
    return f"{title}<div class=sheet>{''.join(figures)}</div>" if some else ""


def _histogram(values: Mapping[str, np.ndarray], of: str) -> str:
    """Bars as SVG, one colour a run, over one scale; of: what is counted."""
    every = np.concatenate(list(values.values()))
    low, high = float(every.min()), float(every.max())
    edges = np.linspace(low, high if high > low else low + 1, BINS + 1)
    counts = {run: np.histogram(own, edges)[0] for run, own in values.items()}
    top, wide, high_px = max(int(count.max()) for count in counts.values()), 720, 150
    step, bars = wide / BINS, []
    for i, (run, count) in enumerate(counts.items()):
        share = step / len(counts)
        for k, n in enumerate(count.tolist()):
            h = n / top * high_px
            x, y = k * step + i * share, high_px - h
            title = f"{run}: {n} from {edges[k]:.4g} to {edges[k + 1]:.4g}"
            bars.append(
                f"<rect x='{x:.1f}' y='{y:.1f}' width='{share - 1:.1f}' height='{h:.1f}' "
                f"fill='{_COLOURS[i % len(_COLOURS)]}'><title>{escape(title)}</title></rect>"
            )
    ends = (
        f"<text x=0 y={high_px + 16}>{low:.4g}</text><text x={wide} y={high_px + 16} text-anchor=end>{high:.4g}</text>"
    )
    key = " ".join(f"<tspan fill='{_COLOURS[i % 2]}'>■ {escape(run)}</tspan>" for i, run in enumerate(values))
    legend = f"<text x={wide / 2} y={high_px + 16} text-anchor=middle>{key}: {of}</text>"
    return f"<svg width={wide} height={high_px + 22} font-size=12>{''.join(bars)}{ends}{legend}</svg>"


def _ends(name: str, run: str, result: Mapping[str, Any]) -> str:
    """The worst and the best pictures of a number beside their sources."""
    ranked = sorted(
        (row for row in _singles(result, name) if "picture" in row), key=lambda row: row[name], reverse=name not in _UP
    )
    best = ranked[::-1][: min(SHOWN, len(ranked) - SHOWN)] if len(ranked) > SHOWN else []
    shown = {"worst": ranked[:SHOWN], "best": best}
    parts = [
        f"<h3>{escape(run)}: {which}</h3>" + "".join(_figure(pair, name) for pair in some)
        for which, some in shown.items()
        if some
    ]
    return "".join(parts)


def _figure(row: Mapping[str, Any], name: str) -> str:
    beside = [which for which in ("source", "picture") if which in row]
    caption = f"{Path(row['picture']).name}: {row[name]:.4g}" + ("; left its source" if len(beside) == 2 else "")
    images = "".join(_image(Path(row[which])) for which in beside)
    return _captioned(f"<div style='display:flex;gap:4px'>{images}</div>", caption)


def _captioned(image: str, caption: str) -> str:
    return f"<figure>{image}<figcaption>{escape(caption)}</figcaption></figure>"


def _image(path: Path) -> str:
    try:
        image = Image.fromarray(load_rgb(path))
    except PictureError as error:
        return f"<small>{escape(path.name)}: {escape(error.reason)}</small>"
    image.thumbnail((THUMB, 4 * THUMB), Image.Resampling.BOX)
    return _encoded(image)


def _encoded(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=85)
    return f"<img src='data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}' alt=''>"


def _reasons(rows: Sequence[Mapping[str, str]]) -> list[str]:
    """A line for each reason: how many pictures it holds for, and the first of them."""
    first: dict[str, str] = {}
    for row in rows:
        first.setdefault(row["reason"], row["picture"] + (f" ({row['detail']})" if row.get("detail") else ""))
    counts = Counter(row["reason"] for row in rows)
    return [f"{count} × {reason}, the first: {first[reason]}" for reason, count in counts.items()]


def _lines(more: Any) -> list[str]:
    """Notes as they are; boxes that were not judged, by side and reason."""
    if isinstance(more, Sequence):
        return list(more)
    told = ((side, ", ".join(f"{reason} {n}" for reason, n in reasons.items())) for side, reasons in more.items())
    return [f"{side} boxes not judged: {text}" for side, text in told if text]


def _notes(results: Mapping[str, Mapping[str, Any]]) -> str:
    lines = []
    for run, told in results.items():
        lines += [f"{run}: {told[key]}" for key in ("note", "floor_reason") if key in told]
        lines += [f"{run}: {name} left out: {why}" for name, why in told.get("left_out", {}).items()]
        lines += [f"{run}: {text}" for text in _reasons(told.get("failed", []))]
        for name, inner in (("regions", "notes"), ("regions", "skipped")):
            more = told.get(name, {}).get(inner)
            lines += [f"{run}: {text}" for text in _lines(more)] if more else []
        lines += [f"{run}: {text}" for text in _reasons(told.get("unreadable", {}).get("pictures", []))]
    return "<h2>Notes</h2><ul>" + "".join(f"<li>{escape(line)}</li>" for line in lines) + "</ul>" if lines else ""
