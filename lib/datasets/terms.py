"""Terms of use of a data set's pictures, which bind the models that learn from them."""

from __future__ import annotations

from lib.records.settings import DatasetSettings

# Formats that one public data set alone has. "research only" is what cards and lists mark.
_DEEP_PCB = "research only by the README of DeepPCB; its licence file says MIT"
_KNOWN = {
    "deep-pcb": _DEEP_PCB,
    "deep-pcb-layout": _DEEP_PCB,
    "loco": "LOCO: pictures CC0, annotations MIT",
}


def terms_of(dataset: DatasetSettings) -> str:
    """As the parameters say, else as the format's one data set has them; "" where neither is known."""
    return dataset.terms or _KNOWN.get(dataset.format, "")
