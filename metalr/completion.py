"""What the shell offers on TAB: recipe names, override keys, and values where they are few."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import typer

from metalr.config.loading import recipe_names
from metalr.config.models import ExperimentConfig
from metalr.config.rendering import field_doc
from metalr.config.source import KeyPath
from metalr.config.validation import dotted, section_of, settings

__all__ = ["complete_argument"]


def _annotation(path: KeyPath) -> Any:
    model: Any = ExperimentConfig
    for key in path:
        annotation = model.model_fields[key].annotation
        model = section_of(annotation)
    return annotation


def _options(annotation: Any) -> Iterator[str]:
    """The values of a choice, a switch, or what may be null; nothing for numbers and text."""
    if get_origin(annotation) is Literal:
        yield from (str(value) for value in get_args(annotation))
    elif annotation is bool:
        yield from ("true", "false")
    elif get_origin(annotation) not in (list, dict, tuple):
        for part in get_args(annotation):
            yield from ("null",) if part is type(None) else _options(part)


def _keys() -> dict[str, KeyPath]:
    return {dotted(path): path for path in settings()}


def _key_before(words: list[str]) -> str | None:
    """The key whose value is being typed, where the shell (bash) made `key`, `=`, `value` three words."""
    if words and words[-1] == "=":
        words = words[:-1]
    return words[-1] if words and words[-1] in _keys() else None


def complete_argument(context: typer.Context, incomplete: str) -> list[tuple[str, str]]:
    """Candidates for a positional argument: pairs of text and help."""
    words = [str(word) for word in context.params.get("arguments") or []]
    keys = _keys()
    key, equals, value = incomplete.partition("=")
    if equals:
        options = _options(_annotation(keys[key])) if key in keys else ()
        return [(f"{key}={option}", "") for option in options if option.startswith(value)]
    before = _key_before(words)
    if before is not None:
        return [
            (option, "") for option in _options(_annotation(keys[before])) if option.startswith(incomplete)
        ]
    found = [
        (f"{name}=", field_doc(path))
        for name, path in keys.items()
        if name.startswith(incomplete)
        and (section_of(_annotation(path)) is None or "null" in _options(_annotation(path)))
    ]
    if not words:
        names = [*recipe_names(), *(str(path) for path in sorted(Path().glob(f"{incomplete}*.yaml")))]
        found = [(name, "recipe") for name in names if name.startswith(incomplete)] + found
    return found
