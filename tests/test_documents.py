"""Documents from elsewhere: values, or one sentence with the file, in a time that their length explains."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lib.core.documents import (
    MAX_DEPTH,
    decode_json,
    decode_xml,
    decode_yaml,
    depth_of,
    read_file,
    read_json,
    read_yaml,
    shallow,
)
from lib.core.errors import AugmentError

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=20,
)


def levels(value: Any) -> int:
    if not isinstance(value, list | dict):
        return 0
    return 1 + max(map(levels, value.values() if isinstance(value, dict) else value), default=0)


def cut(value: Any, most: int) -> Any:
    if not isinstance(value, list | dict):
        return value
    if most == 0:
        return []
    if isinstance(value, dict):
        return {name: cut(inner, most - 1) for name, inner in value.items()}
    return [cut(inner, most - 1) for inner in value]


def refused(read: Any, *arguments: Any) -> str:
    with pytest.raises(AugmentError) as caught:
        read(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- JSON --------------------------------------------------------------------------------------------------------


@given(values, st.booleans())
def test_depth_is_that_of_the_decoded_value_whatever_strings_hold(value: Any, ascii_only: bool) -> None:
    data = json.dumps(value, ensure_ascii=ascii_only).encode(errors="replace")
    assert depth_of(data) == levels(value)


@given(values, st.integers(0, 4))
def test_what_is_too_deep_becomes_an_empty_array_and_the_rest_stays(value: Any, most: int) -> None:
    data = shallow(json.dumps(value).encode(), most)
    assert json.loads(data) == cut(value, most)
    assert depth_of(data) == min(levels(value), most + 1)


@pytest.mark.parametrize("opening", [b"[", b'{"a":', b'["' + b'\\"' * 50_000, b'[[],"]",'])
def test_a_million_brackets_are_counted_and_cut(opening: bytes) -> None:
    data = opening * (1_000_000 // len(opening))
    assert depth_of(data) >= data.count(b"[") // 100_000
    assert len(shallow(data, 3)) <= len(data)


@pytest.mark.parametrize("levels", [MAX_DEPTH + 1, 900, 100_000])
def test_json_that_nests_too_deep_is_refused_with_its_file(tmp_path: Path, levels: int) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(b'{"a": ' + b"[" * levels + b"]" * levels + b"}")
    assert refused(read_json, path, "a thing") == f"{path} is nested more than 64 levels deep: expected a thing"


@pytest.mark.parametrize("data", [b"", b"[1]", b"{", b'{"a": 1e999}', b'{"a": NaN}', b'{"a": "\xff"}', b"\xff\xfe"])
def test_what_is_not_a_json_object_is_refused_with_its_file(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(data)
    text = refused(read_json, path, "a thing")
    assert text.startswith(f"{path}: ") and text.endswith("expected a thing")


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=60) | st.text('[]{}",:\\ae1.-', max_size=60).map(str.encode))
def test_any_bytes_are_json_or_a_sentence(data: bytes) -> None:
    try:
        assert isinstance(decode_json(data, "x.json", "a thing"), dict)
    except AugmentError as error:
        assert str(error).startswith("x.json")


# --- YAML --------------------------------------------------------------------------------------------------------

LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "\n".join(
    f"{chr(98 + i)}: &{chr(98 + i)} [" + ", ".join([f"*{chr(97 + i)}"] * 9) + "]" for i in range(9)
)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("[" * 50_000, "nested more than 64 levels deep"),
        ("[" * 50_000 + "]" * 50_000, "nested more than 64 levels deep"),
        ("{a: " * 50_000, "nested more than 64 levels deep"),
        ("- " * 50_000, "nested more than 64 levels deep"),
        ("? " * 50_000, "nested more than 64 levels deep"),
        ("\n".join(" " * i + "a:" for i in range(1000)), "nested more than 64 levels deep"),
        (LAUGHS, "holds more than 100,000 values"),
        ("[" + "1," * 300_000 + "]", "holds more than 100,000 values"),
        ("a: &a [*a]", "*a refers to itself"),
        ("a: *a", "is not valid YAML"),
        ("a: " + "1:" * 100_000 + "1", "a number of 200,001 characters"),
        ("a: " + "9" * 5000, "a number of 5,000 characters"),
        ("x" * 1_000_001, "has 1,000,001 characters"),
        ("a: 2001-99-99", "is not valid YAML: month must be in 1..12"),
        ("a: !!int x", "is not valid YAML"),
        ("a: !!bool x", "is not valid YAML"),
        ("a: !!timestamp x", "is not valid YAML"),
        ("a: !!python/object/apply:os.system [ls]", "is not valid YAML"),
        ("a: \0", "is not valid YAML"),
        ("a: \udc80", "is not valid YAML"),
        ('"\\ud800"', "is not valid YAML"),
    ],
    ids=lambda text: text[:12].encode(errors="replace").decode(),
)
def test_yaml_that_would_grow_or_is_none_is_refused(text: str, fault: str) -> None:
    message = refused(decode_yaml, text, "x.yaml")
    assert message.startswith("x.yaml") and fault in message


@given(values.filter(lambda value: levels(value) > 0))
def test_yaml_reads_what_json_writes(value: Any) -> None:
    text = json.dumps(value)
    try:
        expected = json.loads(text)
        assert decode_yaml(text, "x.yaml") == expected
    except AugmentError as error:  # a lone surrogate, or the escape of one of a pair
        assert "not valid YAML" in str(error)


def test_yaml_may_refer_to_what_it_says_elsewhere() -> None:
    assert decode_yaml("a: &a {x: 1}\nb: {<<: *a, y: 2}\nc: [*a, *a]", "x") == {
        "a": {"x": 1},
        "b": {"x": 1, "y": 2},
        "c": [{"x": 1}, {"x": 1}],
    }


@settings(max_examples=300, deadline=None)
@given(st.text("[]{}&*!|>?:-,'\"#%@ \nab1.~<=", max_size=60) | st.text(max_size=40))
def test_any_text_is_yaml_or_a_sentence(text: str) -> None:
    try:
        decode_yaml(text, "x.yaml")
    except AugmentError as error:
        assert str(error).startswith("x.yaml") and "\n" not in str(error)


def test_yaml_of_other_bytes_is_refused_with_its_file(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_bytes(b"a: \xff")
    assert f"{tmp_path / 'x.yaml'} is not valid YAML: byte 3" in refused(read_yaml, tmp_path / "x.yaml")


def test_a_large_file_is_refused_before_it_is_read(tmp_path: Path) -> None:
    with (tmp_path / "x.yaml").open("wb") as file:
        file.truncate(10**12)
    assert "has 1,000,000,000,000 bytes: expected 1,000,000 at most" in refused(read_yaml, tmp_path / "x.yaml")


@pytest.mark.parametrize("name", ["missing", ".", "x" * 300, "a\0b"])
def test_a_path_that_is_not_a_file_is_one_sentence(tmp_path: Path, name: str) -> None:
    assert "cannot be read" in refused(read_file, tmp_path / name)


# --- XML ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "fault"),
    [
        (b"<a>" * 65 + b"</a>" * 65, "nested more than 64 levels deep"),
        (b"<a>" * 3000 + b"</a>" * 3000, "nested more than 64 levels deep"),
        (b"<a>" * 300_000 + b"</a>" * 300_000, "nested more than 64 levels deep"),
        (b'<!DOCTYPE a [<!ENTITY b "bbb">]><a>&b;</a>', "entities are refused"),
        ('<!DOCTYPE a [<!ENTITY b "bbb">]><a>&b;</a>'.encode("utf-16"), "entities are refused"),
        (b'<?xml version="1.0" encoding="nonesuch"?><a/>', "encoding"),
        (b"<a>" + b" " * 4_000_000 + b"</a>", "4,000,007 bytes"),
        (b"", "no element found"),
        (b"<a>", "no element found"),
        (b"\0", "token"),
    ],
    ids=lambda value: str(value[:20]),
)
def test_xml_that_would_grow_or_is_none_is_refused(data: bytes, fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        decode_xml(data)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_xml_is_read_in_its_own_encoding(encoding: str) -> None:
    tree = decode_xml(f"<?xml version='1.0' encoding='{encoding}'?><a>é</a>".encode(encoding))
    assert (tree.tag, tree.text) == ("a", "é")
