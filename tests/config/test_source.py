from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from metalr.config.source import SourceError, parse_value, read_yaml_file


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4), ("1E5", 1e5), (".5", 0.5), ("5.", 5.0), ("-1.5e+3", -1500.0), ("+2", 2),
        ("010", 10), ("0x1F", 31), ("0o17", 15), ("-7", -7),
        ("true", True), ("false", False), ("True", "True"),
        ("yes", "yes"), ("no", "no"), ("on", "on"), ("off", "off"),
        ("null", None), ("~", None), ("", None), ("nullable", "nullable"),
        ("12:30", "12:30"), ("1_000", "1_000"),
        ("2026-01-02", "2026-01-02"), ("1.2.3", "1.2.3"), ("e5", "e5"),
        ("[0, 1e-3]", [0, 1e-3]), ("{a: no}", {"a": "no"}), ("'1e-4'", "1e-4"), (".inf", math.inf),
        ("-.INF", -math.inf), ("+", "+"), (".", "."), ("<<", "<<"),
    ],
)  # fmt: skip
def test_scalars_follow_yaml_1_2(text: str, value: Any) -> None:
    parsed = parse_value(text, "here")
    assert parsed == value
    assert type(parsed) is type(value)


def test_plain_pyyaml_would_have_read_otherwise() -> None:
    assert yaml.safe_load("[1e-4, no, 010, 12:30]") == ["1e-4", False, 8, 750]


@given(st.floats(allow_nan=False))
def test_floats_read_back_exactly(value: float) -> None:
    text = repr(value).replace("inf", ".inf")
    assert parse_value(text, "here") == value


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: 1\nb: 2\na: 3\n", ":3: duplicate key 'a', first at"),
        ("s:\n  x: 1\n  x: 2\n", ":3: duplicate key 'x'"),
        ("s: [{x: 1, x: 2}]\n", ":1: duplicate key 'x'"),
        ("a: &x [1]\nb: *x\n", ":2: not valid YAML at column 4: aliases (*name) are not supported"),
        ("a: !!python/object/apply:os.system ['touch canary']\n", ":1: not valid YAML at column 4: tags ("),
        ("a: !!python/tuple [1]\n", "tags ("),
        ("a: !custom 1\n", "tags (!custom)"),
        ("!!map {a: 1}\n", "tags ("),
        ("1: a\n", ":1: key 1 must be text"),
        ("true: a\n", ":1: key True must be text"),
        ("[a]: 1\n", "must be text"),
        ("? {a: 1}\n: 2\n", ":1: "),
        ("- a\n", "must be a mapping of settings, not ['a']"),
        ("just text\n", "must be a mapping of settings"),
        ("a: 1\n\tb: 2\n", ":2: not valid YAML"),
        ("a: [1, 2\n", "not valid YAML"),
        ("a: 1\n--- \nb: 2\n", "not valid YAML"),
        ("a: \x00\n", "not valid YAML"),
        ("a: " + "[" * 5000, "nested too deeply"),
    ],
)
def test_a_wrong_file_is_one_line_with_its_place(tmp_path: Path, text: str, expected: str) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    with pytest.raises(SourceError) as caught:
        read_yaml_file(path)
    message = str(caught.value)
    assert expected in message
    assert message.startswith(str(path))
    assert "\n" not in message
    assert not Path("canary").exists()


def test_an_empty_file_is_an_empty_mapping(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_bytes(b"\xef\xbb\xbf# only a comment\n")
    assert read_yaml_file(path).values == {}


def test_text_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_bytes(b"name: \xff\xfe\n")
    with pytest.raises(SourceError, match=r"not UTF-8 text \(byte 6\)"):
        read_yaml_file(path)


def test_every_key_and_item_has_its_line(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text("a:\n  b:\n  - 1\n  - c: 2\n\nd: 3\n")
    lines = {key: int(origin.rsplit(":", 1)[1]) for key, origin in read_yaml_file(path).origins.items()}
    assert lines == {
        ("a",): 1,
        ("a", "b"): 2,
        ("a", "b", 0): 3,
        ("a", "b", 1): 4,
        ("a", "b", 1, "c"): 4,
        ("d",): 6,
    }
