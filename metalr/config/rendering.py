"""The resolved configuration as YAML with the source of each value, and its JSON schema."""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel

from metalr.config.loading import Layers, load_layers
from metalr.config.models import ExperimentConfig
from metalr.config.source import KeyPath, SourceError, parse_value
from metalr.config.validation import section_of

__all__ = ["config_schema", "field_doc", "show_config"]

_WIDTH = 100


def field_doc(path: KeyPath) -> str:
    """The one-line documentation of a setting or section; empty where there is none."""
    model: type[BaseModel] | None = ExperimentConfig
    doc = ""
    for key in path:
        if model is None or str(key) not in model.model_fields:
            return ""
        info = model.model_fields[str(key)]
        model = section_of(info.annotation)
        doc = info.description or (model.__doc__ if model and model.__doc__ else "")
    return " ".join(doc.split())


def _inline(value: Any) -> str:
    """One line of YAML that reads back as `value`."""
    if isinstance(value, list):
        return f"[{', '.join(_inline(item) for item in value)}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{_inline(key)}: {_inline(item)}' for key, item in value.items())}}}"
    if isinstance(value, str) and re.fullmatch(r"[\w./~-]+", value, re.ASCII) and _is_plain(value):
        return value
    return json.dumps(value, ensure_ascii=False)


def _is_plain(text: str) -> bool:
    try:
        return bool(parse_value(text, "") == text)
    except SourceError:
        return False


def _comment(doc: str, indent: str) -> list[str]:
    return textwrap.wrap(doc, _WIDTH, initial_indent=f"{indent}# ", subsequent_indent=f"{indent}#   ")


def _render(model: BaseModel, layers: Layers, path: KeyPath = ()) -> list[str]:
    indent = "  " * len(path)
    lines: list[str] = []
    for name in type(model).model_fields:
        here = (*path, name)
        value = getattr(model, name)
        lines.extend(
            ["", *_comment(field_doc(here), indent)] if not path else _comment(field_doc(here), indent)
        )
        if isinstance(value, BaseModel):
            lines.extend([f"{indent}{name}:", *_render(value, layers, here)])
            continue
        source = layers.origins.get(here, "default")
        plain = model.model_dump(mode="json", include={name})[name]
        lines.append(f"{indent}{name}: {_inline(plain)}  # {source}")
        section = section_of(type(model).model_fields[name].annotation)
        if section is not None:
            lines.extend(_absent(section, here))
    return lines


def _absent(section: type[BaseModel], path: KeyPath) -> list[str]:
    """The settings of a section that is null, as comments with what they would be."""
    indent = "  " * len(path)
    lines: list[str] = []
    for name, info in section.model_fields.items():
        lines.extend(_comment(field_doc((*path, name)), indent))
        lines.append(f"{indent}# {name}: {_inline(info.get_default())}")
    return lines


def show_config(recipe: str | None, overrides: Sequence[str] = ()) -> str:
    """The resolved configuration as YAML: each setting under its doc line, with its source beside it.

    The text reads back as the same configuration. Sources are `default`, "file:line" and
    "override key=value". Raises ConfigError as `load_config` does.
    """
    layers = load_layers(recipe, overrides)
    config = layers.resolve()
    return "\n".join(_render(config, layers)).strip() + "\n"


def config_schema() -> str:
    """The JSON schema of a recipe file, for editors (`# yaml-language-server: $schema=...`)."""
    schema = ExperimentConfig.model_json_schema()
    schema["properties"]["extends"] = {
        "type": "string",
        "description": "One parent recipe, relative to this file, whose own settings win.",
    }
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"
