"""Damage to bytes and documents, drawn from a Random: what attacks are made of."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

Mutation = Callable[[bytes, Random], bytes]

# --- bytes -------------------------------------------------------------------------------------------------------


def flipped(data: bytes, random: Random) -> bytes:
    """One bit changed."""
    if not data:
        return b"\0"
    at = random.randrange(len(data))
    return data[:at] + bytes([data[at] ^ 1 << random.randrange(8)]) + data[at + 1 :]


def cut(data: bytes, random: Random) -> bytes:
    """The end missing."""
    return data[: random.randrange(len(data))] if data else data


def emptied(data: bytes, random: Random) -> bytes:
    return b""


def garbled(data: bytes, random: Random) -> bytes:
    """Other bytes of the same length: a block that rotted."""
    return random.randbytes(len(data) or 64)


def zeroed(data: bytes, random: Random) -> bytes:
    """Zeros of the same length: what a power cut leaves."""
    return bytes(len(data) or 64)


def doubled(data: bytes, random: Random) -> bytes:
    """A stretch twice."""
    at, end = sorted(random.randrange(len(data) + 1) for _ in range(2))
    return data[:end] + data[at:end] + data[end:]


def stuffed(data: bytes, random: Random) -> bytes:
    """Something that readers trip over, somewhere."""
    at = random.randrange(len(data) + 1)
    return data[:at] + random.choice(_STUFF) + data[at:]


_STUFF = [
    *(
        b"\0",
        b"\xff\xfe",
        b"\xef\xbb\xbf",
        b"\xed\xa0\x80",
        b"\r",
        b"\n\n",
        b"\x1a",
        b"\x85",
        b"\xe2\x80\xa8",
        b"\x1b[2J",
    ),
    *(
        b"NaN",
        b"-Infinity",
        b"1e999",
        b"9" * 400,
        b"-0",
        b"0x1F",
        b"1_000",
        b"null",
        b"true",
        b'"',
        b"'",
        b"\\",
        b"\\ud800",
    ),
    *(b"[" * 5000, b"{" * 5000, b'{"a":' * 2000, b"<a>" * 2000, b"&lol;", b"&#0;", b"<!--", b"]]>", b"<![CDATA["),
    *(
        b"*a",
        b"&a [",
        b"!!python/object/apply:os.mkdir [canary]",
        b": - ",
        b"? ",
        b"=cmd|' /C calc'!A0",
        b",,,",
        b"../",
    ),
]


def reencoded(data: bytes, random: Random) -> bytes:
    """The same text in another encoding."""
    text = data.decode("utf-8", "replace")
    return text.encode(random.choice(["utf-16", "utf-16-le", "utf-32", "latin-1", "cp1252", "utf-8-sig"]), "replace")


# --- values ------------------------------------------------------------------------------------------------------

HOSTILE_TEXTS = [
    "",
    " ",
    ".",
    "..",
    "../../victim/kept.txt",
    "../../../../../../etc/passwd",
    "/etc/passwd",
    "C:\\Windows\\system32",
    "\\\\host\\share\\x",
    "a/../../b.png",
    "a\nb",
    "a\r\nb\tc",
    "nul\0l",
    "esc\x1b[31m",
    "del\x7f\x85\u2028",
    "\ud800",
    "\u202egnp.exe",
    "CON",
    "NUL.png",
    "aux.txt ",
    "a" * 300,
    "b" * 5000,
    "P0.PNG",
    "é" + "e\u0301",
    "<script>alert('attack')</script>",
    "\"><img src=x onerror=alert('attack')>",
    "</script><script>alert('attack')//",
    "javascript:alert('attack')",
    "{caption} {0.__class__} %s %n ${HOME} $(touch canary) `touch canary`",
    "'; DROP TABLE flow_run; --",
    "[red]x[/red] [link=file:///etc]y[/link] **b** | c",
    "file:///etc/passwd",
    "http://127.0.0.1:1/x",
    "-rf",
    "~root",
    "🦊" * 20,
    "mini:../../..",
    ".hidden",
    "trailing.",
    "images",
    "annotations.json",
]

HOSTILE_VALUES: list[Any] = [
    None,
    True,
    False,
    0,
    -1,
    1,
    -0.0,
    0.5,
    1e-320,
    1e308,
    -1e308,
    float("nan"),
    float("inf"),
    float("-inf"),
    2**31,
    2**53 + 1,
    2**63,
    2**64,
    -(2**70),
    10**400,
    10**9,
    [],
    {},
    [[]],
    [None],
    {"": ""},
    {"name": {}},
    [0] * 4,
    ["a"] * 4,
    {"__class__": "os.mkdir", "data": {"path": "canary"}},
    {"serializer": {"type": "pickle"}},
]


def hostile_value(random: Random) -> Any:
    """A value that no reader expects."""
    return random.choice(HOSTILE_TEXTS) if random.random() < 0.4 else random.choice(HOSTILE_VALUES)


Place = tuple[Any, ...]  # keys and positions from the top


def places_in(value: Any, at: Place = ()) -> list[Place]:
    """Every place in nested dicts and lists, the top too."""
    found = [at]
    if isinstance(value, dict):
        found += [place for key in value for place in places_in(value[key], (*at, key))]
    elif isinstance(value, list):
        found += [place for i, inner in enumerate(value) for place in places_in(inner, (*at, i))]
    return found


def replaced(value: Any, place: Place, change: Callable[[Any], Any]) -> Any:
    """A copy of nested values with what lies at `place` changed."""
    if not place:
        return change(value)
    inner = replaced(value[place[0]], place[1:], change)
    if isinstance(value, dict):
        return {**value, place[0]: inner}
    return [inner if i == place[0] else one for i, one in enumerate(value)]


def without(value: Any, place: Place) -> Any:
    """A copy of nested values with `place`, not the top, left out."""

    def drop(parent: Any) -> Any:
        if isinstance(parent, dict):
            return {key: inner for key, inner in parent.items() if key != place[-1]}
        return [inner for i, inner in enumerate(parent) if i != place[-1]]

    return replaced(value, place[:-1], drop)


def value_mutated(value: Any, random: Random) -> Any:
    """Nested values with one to three places changed: another value, gone, wrapped, doubled, borrowed."""
    for _ in range(random.choice([1, 1, 1, 2, 3])):
        places = places_in(value)
        place = random.choice(places)
        kind = random.randrange(7)
        if kind <= 2 or not place:
            value = replaced(value, place, lambda old: hostile_value(random))
        elif kind == 3:
            value = without(value, place)
        elif kind == 4:
            value = replaced(
                value, place, lambda old: random.choice([[old], {"": old}, [old, old], str(old), [old] * 40])
            )
        elif kind == 5:
            borrowed = value_at(value, random.choice(places))
            value = replaced(value, place, lambda old, new=borrowed: new)
        else:
            value = replaced(value, place, lambda old: _deep(random))
    return value


def value_at(value: Any, place: Place) -> Any:
    """What lies at a place."""
    for key in place:
        value = value[key]
    return value


class Deep:
    """Nesting that Python itself could not write."""

    def __init__(self, depth: int, kind: int) -> None:
        self.depth, self.kind = depth, kind

    def text(self) -> str:
        opening, closing = [("[", "]"), ('{"a":', "}"), ('[{"":', "}]")][self.kind]
        return opening * self.depth + "0" + closing * self.depth


def _deep(random: Random) -> Deep:
    return Deep(random.choice([30, 200, 1100, 20_000, 100_000]), random.randrange(3))


def json_text(value: Any, random: Random | None = None) -> bytes:
    """JSON with what json.dumps refuses: nesting without limit, and, where a Random is given, odd numbers and doubled
    keys."""
    deep: list[str] = []

    def plain(inner: Any) -> Any:
        if isinstance(inner, Deep):
            deep.append(inner.text())
            return f"deep \uffff{len(deep) - 1}\uffff"
        if isinstance(inner, dict):
            return {str(key): plain(one) for key, one in inner.items()}
        return [plain(one) for one in inner] if isinstance(inner, list) else inner

    text = json.dumps(plain(value), ensure_ascii=random is None or random.random() < 0.7)
    text = re.sub(r'"deep (?:\\uffff|\uffff)(\d+)(?:\\uffff|\uffff)"', lambda match: deep[int(match[1])], text)
    if random is not None:
        text = random.choice([_same, _same, _odd_number, _double_key])(text, random)
    return text.encode("utf-8", "surrogatepass")


def _same(text: str, random: Random) -> str:
    return text


def _odd_number(text: str, random: Random) -> str:
    numbers = list(re.finditer(r"(?<=[ \[:,])-?\d+(\.\d+)?(?=[,\]}])", text))
    if not numbers:
        return text
    chosen = random.choice(numbers)
    odd = random.choice(
        ["1e999", "-1e999", "NaN", "Infinity", "1e-999", "00", "1.", "0x1", "-", "9" * 5000, "1E+2", "5e-1"]
    )
    return text[: chosen.start()] + odd + text[chosen.end() :]


def _double_key(text: str, random: Random) -> str:
    keys = list(re.finditer(r'"[^"\\]{1,20}": ', text))
    if not keys:
        return text
    chosen = random.choice(keys)
    value = random.choice(['"../x"', "null", "-1", "[]", "{}", "1e999"])
    return f"{text[: chosen.start()]}{chosen.group()}{value}, {text[chosen.start() :]}"


def json_mutated(data: bytes, random: Random) -> bytes:
    """A JSON document with places changed; as `stuffed` where it is none."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return stuffed(data, random)
    return json_text(value_mutated(value, random), random)


def text_mutated(data: bytes, random: Random) -> bytes:
    """A text (CSV, YAML, XML, lines) with a word or a line changed, lost, doubled or moved."""
    text = data.decode("utf-8", "surrogateescape")
    unit = random.choice([r"[^\s,;:=<>\"\[\]{}]+", r"[^\n]+\n?", r"<[^<>]*>", r"-?\d+(?:\.\d+)?", r'"[^"]*"'])
    found = list(re.finditer(unit, text))
    if not found:
        return stuffed(data, random)
    one, other = random.choice(found), random.choice(found)
    new = random.choice(
        [
            "",
            one.group() * 2,
            other.group(),
            one.group() * 300,
            str(random.choice(HOSTILE_VALUES)),
            random.choice(HOSTILE_TEXTS),
            random.choice(HOSTILE_TEXTS),
        ]
    )
    return (text[: one.start()] + new + text[one.end() :]).encode(
        "utf-8", "surrogatepass" if "\ud800" in new else "surrogateescape"
    )


def parquet_mutated(data: bytes, random: Random) -> bytes:
    """A Parquet table with a value, a column or its rows changed; garbled where it is none."""
    try:
        table = pq.read_table(io.BytesIO(data))
    except (pa.ArrowException, OSError):
        return garbled(data, random)
    if table.num_columns == 0:
        return stuffed(data, random)
    kind, position = random.randrange(6), random.randrange(table.num_columns)
    name, column = table.column_names[position], table.column(position)
    if kind == 0:
        table = table.drop_columns([name])
    elif kind == 1:
        table = pa.concat_tables([table, table])
    elif kind == 2:
        table = table.slice(0, table.num_rows // 2)
    elif kind == 3:
        table = table.set_column(position, name, pa.array([None] * table.num_rows, column.type))
    elif table.num_rows:
        values = column.to_pylist()
        row = random.randrange(len(values))
        with contextlib.suppress(pa.ArrowException, TypeError, OverflowError, UnicodeEncodeError):
            values[row] = _other(values[row], random)
            table = table.set_column(
                position,
                pa.field(name, column.type, nullable=table.schema.field(position).nullable),
                pa.array(values, column.type),
            )
    out = io.BytesIO()
    pq.write_table(table, out, compression="zstd", compression_level=1)
    return out.getvalue()


def parquet_names(data: bytes, target: str, random: Random) -> bytes:
    """A Parquet table in which what looks like a file's name or path is `target`, in some rows."""
    try:
        table = pq.read_table(io.BytesIO(data))
    except (pa.ArrowException, OSError):
        return garbled(data, random)
    for at in range(table.num_columns):
        if pa.types.is_string(table.column(at).type):
            values = [
                target if re.search(r"\.\w{3,4}$", v or "") and random.random() < 0.7 else v
                for v in table.column(at).to_pylist()
            ]
            table = table.set_column(at, table.schema.field(at), pa.array(values, pa.string()))
    out = io.BytesIO()
    pq.write_table(table, out, compression="zstd", compression_level=1)
    return out.getvalue()


def _other(value: Any, random: Random) -> Any:
    if isinstance(value, str):
        return random.choice(HOSTILE_TEXTS)
    if isinstance(value, bytes):
        return random.choice([json_mutated, flipped, cut, emptied])(value, random)
    if isinstance(value, list):
        return random.choice([[], value * 2, [random.choice(HOSTILE_TEXTS)]])
    return random.choice([-1, 0, 1, 2**31, 2**62, -(2**62), 0.5])


class _Bomb:
    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.canary),)


def pickle_bomb(canary: Path) -> bytes:
    """A pickle that makes the folder `canary` when it is loaded."""
    return pickle.dumps(_Bomb(canary))


BYTES: list[Mutation] = [flipped, cut, emptied, garbled, zeroed, doubled, stuffed, reencoded]


def mutated(name: str, data: bytes, random: Random) -> bytes:
    """A document damaged as its suffix allows, or as bytes."""
    by_suffix: dict[str, Mutation] = {".json": json_mutated, ".lock": json_mutated, ".parquet": parquet_mutated}
    by_kind = by_suffix.get(Path(name).suffix.lower(), text_mutated)
    for _ in range(random.choice([1, 1, 1, 2])):
        data = by_kind(data, random) if random.random() < 0.75 else random.choice(BYTES)(data, random)
    return data
