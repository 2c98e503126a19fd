"""A report for a person: one HTML file without a network, of one evaluation or of two side by side.

    write_report({"mine": result}, Path("report/index.html"))
    write_report({"before": old, "after": new}, Path("compared.html"))

What it shows is what lib/evaluate.py measured: every number with what is good, what is bad and what it cannot tell, the
floor beside the scores, how single pictures spread, and the best and the worst of them beside their sources.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from lib.errors import AugmentError
from lib.images import PictureError, load_rgb
from lib.manifest import atomic_write

SHOWN = 4  # best and worst pictures of each number
THUMB = 360  # pixels, width of a picture in the report
BINS = 20
_COLOURS = ("#2f6fdf", "#e0662f")
# Where more is better; of all others less is.
_UP = {"precision", "recall", "density", "coverage", "background_psnr", "untouched", "whole_psnr", "whole_ssim"}

_STYLE = """body{font:15px/1.5 system-ui,sans-serif;max-width:1120px;margin:2em auto;padding:0 1em;color:#222}
table{border-collapse:collapse;width:100%}td,th{padding:.35em .6em;text-align:left;vertical-align:top;
border-bottom:1px solid #ddd}td.n{white-space:nowrap;font-variant-numeric:tabular-nums}small{color:#666}
figure{display:inline-block;margin:.3em .6em .3em 0}figure img{display:block;width:360px}
figcaption{font-size:12px;color:#555;max-width:740px;overflow-wrap:anywhere}h2{margin-top:1.6em}"""


def read_result(path: Path) -> dict[str, Any]:
    """What lib/evaluate.write_json wrote; raises AugmentError for anything else."""
    try:
        told = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise AugmentError(f"{path} is no result of `augment evaluate --json` ({error})") from None
    if not isinstance(told, dict) or "about" not in told:
        raise AugmentError(f"{path} is no result of `augment evaluate --json`: it has no `about`")
    return told


def write_report(results: Mapping[str, Mapping[str, Any]], path: Path, title: str = "Evaluation") -> None:
    """One or more results by their names, as one HTML file, written by rename."""
    parts = [f"<h1>{escape(title)}</h1>", _sizes(results), _numbers(results)]
    names = list(dict.fromkeys(name for result in results.values() for name in _spread_of(result)))
    parts += [_spread(name, results) for name in names]
    parts += [_notes(results)]
    page = "<!doctype html><html lang=en><meta charset=utf-8>" + f"<title>{escape(title)}</title>"
    atomic_write(path, f"{page}<style>{_STYLE}</style><body>{''.join(parts)}</body></html>\n".encode())


def _sizes(results: Mapping[str, Mapping[str, Any]]) -> str:
    rows = []
    for name, told in results.items():
        sets = f"{told['n_real']} real, {told['n_generated']} generated" if "n_real" in told else ""
        pairs = f"{told['pairs']['count']} beside their sources" if "pairs" in told else ""
        how = f"{told['features']}; resized: {told['resize']}" if "features" in told else ""
        cells = (name, "; ".join(filter(None, (sets, pairs))), how)
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
        rows.append(f"<tr><td>{escape(name)}</td>{cells}<td><small>{escape(text)}</small></td></tr>")
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
        text += f"<br><small>at {floor['m']}: {floor[f'{name}_at_m']:.4g}<br>real against real: {real['mean']:.4g} "
        text += f"± {real['std']:.2g}</small>"
    if name == "fid" and result.get("biased"):
        text += "<br><small>biased: few pictures</small>"
    return text


def _spread_of(result: Mapping[str, Any]) -> list[str]:
    """Names of the numbers that single pictures have."""
    pairs = result.get("pairs", {}).get("pictures", [])
    return [name for name in result["about"] if any(name in pair for pair in pairs) and name != "untouched"]


def _spread(name: str, results: Mapping[str, Mapping[str, Any]]) -> str:
    values = {
        run: np.array([pair[name] for pair in told.get("pairs", {}).get("pictures", []) if name in pair])
        for run, told in results.items()
    }
    worst = [_ends(name, run, told) for run, told in results.items()]
    return f"<h2>{escape(name)}</h2>{_histogram(values)}{''.join(worst)}"


def _histogram(values: Mapping[str, np.ndarray]) -> str:
    """Bars as SVG, one colour a run, over one scale."""
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
    legend = f"<text x={wide / 2} y={high_px + 16} text-anchor=middle>{key}: pictures</text>"
    return f"<svg width={wide} height={high_px + 22} font-size=12>{''.join(bars)}{ends}{legend}</svg>"


def _ends(name: str, run: str, result: Mapping[str, Any]) -> str:
    """The worst and the best pictures of a number beside their sources."""
    pairs = [pair for pair in result.get("pairs", {}).get("pictures", []) if name in pair]
    ranked = sorted(pairs, key=lambda pair: pair[name], reverse=name not in _UP)
    best = ranked[::-1][: min(SHOWN, len(ranked) - SHOWN)] if len(ranked) > SHOWN else []
    shown = {"worst": ranked[:SHOWN], "best": best}
    parts = [
        f"<h3>{escape(run)}: {which}</h3>" + "".join(_figure(pair, name) for pair in some)
        for which, some in shown.items()
        if some
    ]
    return "".join(parts)


def _figure(pair: Mapping[str, Any], name: str) -> str:
    caption = f"{Path(pair['picture']).name}: {pair[name]:.4g}; left its source"
    images = "".join(_image(Path(pair[which])) for which in ("source", "picture"))
    return (
        f"<figure><div style='display:flex;gap:4px'>{images}</div><figcaption>{escape(caption)}</figcaption></figure>"
    )


def _image(path: Path) -> str:
    try:
        image = Image.fromarray(load_rgb(path))
    except PictureError as error:
        return f"<small>{escape(path.name)}: {escape(error.reason)}</small>"
    image.thumbnail((THUMB, 4 * THUMB), Image.Resampling.BOX)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=85)
    return f"<img src='data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}' alt=''>"


def _notes(results: Mapping[str, Mapping[str, Any]]) -> str:
    lines = []
    for run, told in results.items():
        lines += [f"{run}: {told[key]}" for key in ("note", "floor_reason") if key in told]
        lines += [f"{run}: {name} left out: {why}" for name, why in told.get("left_out", {}).items()]
        lines += [f"{run}: {one['picture']}: {one['reason']}" for one in told.get("pairs", {}).get("failed", [])]
        unreadable = told.get("unreadable", {}).get("pictures", [])
        lines += [f"{run}: {one['picture']}: {one['reason']} ({one['detail']})" for one in unreadable]
    return "<h2>Notes</h2><ul>" + "".join(f"<li>{escape(line)}</li>" for line in lines) + "</ul>" if lines else ""
