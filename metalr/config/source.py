"""YAML text -> plain values, each known by its line; stricter than PyYAML and close to YAML 1.2.

PyYAML reads ``1e-4`` as text, ``010`` as 8, ``no`` as false, ``12:30`` as 750, and lets the
last of two equal keys win in silence. Here numbers and booleans follow YAML 1.2's core schema,
and duplicate keys, aliases and tags (``!!python/...``) are errors with their line.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

__all__ = ["KeyPath", "SourceError", "YamlSource", "parse_value", "read_yaml_file"]

KeyPath = tuple[str | int, ...]
"""Keys and list positions from the top of the configuration to a value."""


class SourceError(ValueError):
    """A YAML text cannot be read; the message is one line with file and line."""


@dataclass(frozen=True)
class YamlSource:
    """A YAML mapping as read: `values` nested as written, `origins` with "file:line" for every key path."""

    values: dict[str, Any]
    origins: dict[KeyPath, str] = field(default_factory=dict)


class _Loader(yaml.SafeLoader):
    """SafeLoader with YAML 1.2 scalars, and without duplicate keys, aliases and tags."""

    yaml_implicit_resolvers = {}

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        refused = "aliases (*name)" if isinstance(event, yaml.AliasEvent) else None
        if getattr(event, "tag", None) is not None:
            refused = f"tags ({event.tag})"
        if refused:
            raise yaml.MarkedYAMLError(problem=f"{refused} are not supported", problem_mark=event.start_mark)
        return super().compose_node(parent, index)


def _construct_int(loader: _Loader, node: yaml.ScalarNode) -> int:
    text = loader.construct_scalar(node).lower()
    base = {"0x": 16, "0o": 8}.get(text[:2], 10)
    return int(text, base)


def _construct_float(loader: _Loader, node: yaml.ScalarNode) -> float:
    text = loader.construct_scalar(node).lower()
    return float(text.replace(".inf", "inf").replace(".nan", "nan"))


for _tag, _pattern, _first in (
    ("bool", r"true|false", "tf"),
    ("null", r"~|null|", ["~", "n", ""]),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", "-+0123456789"),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", "-+.0123456789"),
    ("float", r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)", "-+."),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(rf"^(?:{_pattern})$"), list(_first))
_Loader.add_constructor("tag:yaml.org,2002:int", _construct_int)
_Loader.add_constructor("tag:yaml.org,2002:float", _construct_float)


def _record_lines(
    node: yaml.Node, path: KeyPath, name: str, loader: _Loader, origins: dict[KeyPath, str]
) -> None:
    """Fill `origins` below `node`. Raises SourceError on duplicate keys and on keys that are not text."""
    if isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            origins[(*path, index)] = f"{name}:{item.start_mark.line + 1}"
            _record_lines(item, (*path, index), name, loader, origins)
    if isinstance(node, yaml.MappingNode):
        for key_node, value_node in node.value:
            origin = f"{name}:{key_node.start_mark.line + 1}"
            key = loader.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                raise SourceError(f"{origin}: key {key!r} must be text")
            if (*path, key) in origins:
                raise SourceError(f"{origin}: duplicate key {key!r}, first at {origins[(*path, key)]}")
            origins[(*path, key)] = origin
            _record_lines(value_node, (*path, key), name, loader, origins)


def _explain(error: yaml.YAMLError, name: str) -> str:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        mark = error.problem_mark
        hint = "; indent with spaces, not tabs" if r"'\t'" in str(error.problem) else ""
        return f"{name}:{mark.line + 1}: not valid YAML at column {mark.column + 1}: {error.problem}{hint}"
    return f"{name}: not valid YAML: {' '.join(str(error).split())}"


def _parse(text: str, name: str) -> tuple[Any, dict[KeyPath, str]]:
    """The value in `text` and the origin of every key path. Raises SourceError."""
    origins: dict[KeyPath, str] = {}
    loader: _Loader | None = None
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return None, origins
        _record_lines(node, (), name, loader, origins)
        return loader.construct_document(node), origins
    except yaml.YAMLError as error:
        raise SourceError(_explain(error, name)) from None
    except RecursionError:
        raise SourceError(f"{name}: nested too deeply") from None
    except SourceError:
        raise
    except ValueError as error:  # an integer of thousands of digits
        raise SourceError(f"{name}: {error}") from None
    finally:
        if loader is not None:
            loader.dispose()


def parse_value(text: str, name: str) -> Any:
    """The plain value of one YAML text, such as the right side of an override; `name` goes into messages.

    Raises SourceError with one line.

    >>> parse_value("1e-4", "here"), parse_value("[0, 1]", "here"), parse_value("no", "here")
    (0.0001, [0, 1], 'no')
    """
    return _parse(text, name)[0]


def read_yaml_file(path: Path) -> YamlSource:
    """The mapping in the YAML file `path`; an empty file is an empty mapping.

    Raises SourceError with one line where it is missing, unreadable, not YAML or not a mapping.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise SourceError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        raise SourceError(f"{path}: not UTF-8 text (byte {error.start})") from None
    values, origins = _parse(text, str(path))
    if values is None:
        values = {}
    if not isinstance(values, dict):
        raise SourceError(f"{path}: must be a mapping of settings, not {values!r:.60}")
    return YamlSource(values, origins)
