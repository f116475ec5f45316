"""Nested values -> `ExperimentConfig`, or every mistake at once, one line each."""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from metalr.config.models import ExperimentConfig
from metalr.config.source import KeyPath

__all__ = ["ConfigError", "OriginOf", "allowed_keys", "set_key", "settings", "validate"]

OriginOf = Callable[[KeyPath], str | None]
"""Where the value at a key path was written ("file:line", "override k=v"), or None."""

RENAMED = {"method": "strategy", "train.method": "strategy", "schedule": "strategy"}
"""What users may still call a setting -> what it is called."""
MIXTURE: KeyPath = ("harvest", "mixture")
VARIABLE_SECTIONS = ("task", "train")
VARIABLE_KEYS = ("harvest.initial_lrs", "harvest.budgets", "harvest.schedules", "harvest.seeds")
"""What else may differ between the tasks of a harvest: LRs mean something else to each optimizer."""


class ConfigError(ValueError):
    """The configuration is wrong; `problems` holds every mistake, one line each."""

    def __init__(self, problems: Sequence[str] | str) -> None:
        self.problems = problems.splitlines() if isinstance(problems, str) else list(problems)
        super().__init__("\n".join(self.problems))


def section_of(annotation: Any) -> type[BaseModel] | None:
    """The model behind a field's annotation (also of `Model | None`), or None for a plain value."""
    for option in (annotation, *get_args(annotation)):
        if isinstance(option, type) and issubclass(option, BaseModel):
            return option
    return None


def settings(model: type[BaseModel] = ExperimentConfig, prefix: KeyPath = ()) -> list[KeyPath]:
    """The key paths of all settings in order; a section stands before its own settings."""
    paths: list[KeyPath] = []
    for name, info in model.model_fields.items():
        paths.append((*prefix, name))
        section = section_of(info.annotation)
        if section is not None:
            paths.extend(settings(section, (*prefix, name)))
    return paths


def dotted(path: KeyPath) -> str:
    """The key path as text, `train.epochs`."""
    return ".".join(str(key) for key in path)


def allowed_keys(path: KeyPath) -> list[str]:
    """The valid keys directly below a section, or below an entry of a list of sections."""
    model: type[BaseModel] | None = ExperimentConfig
    for key in path:
        if isinstance(key, str):  # a list position leads from the list to its entries, which share a model
            info = model.model_fields.get(key) if model else None
            model = _entry_section_of(info.annotation) if info else None
    return list(model.model_fields) if model else []


def _entry_section_of(annotation: Any) -> type[BaseModel] | None:
    """As `section_of`, but also the model of the entries of a list, however deep in the annotation."""
    found = section_of(annotation)
    options = iter(get_args(annotation))
    while found is None and (option := next(options, None)) is not None:
        found = _entry_section_of(option)
    return found


def nearest_setting(path: KeyPath) -> str | None:
    """The valid dotted key most like an unknown one: a sibling, the same word elsewhere, a similar text."""
    word = str(path[-1]).rsplit(".", 1)[-1]
    siblings = difflib.get_close_matches(word, allowed_keys(path[:-1]), n=1)
    if siblings:
        return dotted((*path[:-1], siblings[0]))
    if any(isinstance(key, int) for key in path):
        return None  # the few keys of an entry are all named; a likeness from elsewhere would mislead
    every = [dotted(known) for known in settings()]
    elsewhere = [key for key in every if key.rsplit(".", 1)[-1] == word]
    return next(iter(elsewhere + difflib.get_close_matches(dotted(path), every, n=1, cutoff=0.5)), None)


def set_key(tree: dict[str, Any], path: KeyPath, value: Any) -> None:
    """Put `value` into the nested `tree`; a missing section, or one that is null, is made on the way."""
    *sections, last = path
    for key in sections:
        if not isinstance(tree.get(str(key)), dict):
            tree[str(key)] = {}
        tree = tree[str(key)]
    tree[str(last)] = value


def _shorten(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _describe_unknown(path: KeyPath) -> str:
    allowed = allowed_keys(path[:-1])
    key, colon, value = str(path[-1]).partition(":")
    if colon:
        return f"unknown key; a space is missing after the colon: {key}: {value}"
    nearest = RENAMED.get(dotted(path)) or nearest_setting(path)
    hint = f"; did you mean {nearest}?" if nearest else ""
    if "." in str(path[-1]):
        return f"unknown key{hint} (in a file, dots become nested sections)"
    return f"unknown key{hint} (allowed: {', '.join(allowed)})"


def _describe(error: Mapping[str, Any], path: KeyPath) -> str:
    """What is wrong and what is allowed, without the path."""
    kind, value, hint = error["type"], error["input"], ""
    if kind == "extra_forbidden":
        return _describe_unknown(path)
    message = str(error["msg"]).replace("Input should be", "must be").replace("Value error, ", "")
    if kind == "value_error":
        return message
    if kind in ("model_type", "model_attributes_type", "dict_type"):
        message = "must be a mapping of settings"
        entry = isinstance(path[-1], int) and allowed_keys(path)
        hint = f" (allowed: {', '.join(entry)})" if entry else ""
    if kind == "literal_error" and isinstance(value, str):
        options = error["ctx"]["expected"].replace("'", "").replace(" or ", ", ").split(", ")
        nearest = difflib.get_close_matches(value, options, n=1)
        hint = f"; did you mean {nearest[0]}?" if nearest else ""
    if kind == "string_type":
        message += ", in quotes where it looks like a number"
    if kind == "too_short":
        message = f"must have at least {error['ctx']['min_length']} entry"
    if kind == "string_pattern_mismatch":
        message = f"must match {error['ctx']['pattern']}"
    message = message.replace("greater than or equal to", "at least").replace(
        "less than or equal to", "at most"
    )
    return f"{message[:1].lower()}{message[1:]}, not {_shorten(value)}{hint}"


def _located(error: Mapping[str, Any]) -> tuple[KeyPath, str]:
    """Where the error is and what is wrong; a rule that begins with `key: ` is about that key."""
    path, description = error["loc"], _describe(error, error["loc"])
    key, colon, rule = description.partition(": ")
    keys = tuple(int(part) if part.isdecimal() else part for part in key.split("."))
    if error["type"] != "value_error" or not colon or keys[0] not in allowed_keys(path):
        return path, description
    value = error["input"]
    for part in keys:
        value = value.get(part) if isinstance(value, dict) else value[part]
    return (*path, *keys), f"{rule}, not {_shorten(value)}"


def _raw_errors(tree: Mapping[str, Any]) -> list[dict[str, Any]]:
    """pydantic's errors on `tree`. Strict, and through JSON, where lists may stand for tuples."""
    try:
        ExperimentConfig.model_validate_json(json.dumps(tree, default=str), strict=True)
    except ValidationError as error:
        return [dict(item) for item in error.errors(include_url=False)]
    return []


def _line(path: KeyPath, description: str, origin_of: OriginOf) -> str:
    origin = origin_of(path)
    return f"{dotted(path)}: {description}" + (f" ({origin})" if origin else "")


def _entry_path(entry: Mapping[str, Any], loc: KeyPath) -> KeyPath:
    """The key of a mixture entry that an error at `loc` comes from, as one path item, and what follows it."""
    for key in entry:
        keys = tuple(key.split("."))
        if loc[: len(keys)] == keys:
            return (key, *loc[len(keys) :])
    return (dotted(loc),)


def _entry_problems(
    tree: Mapping[str, Any],
    entry: Mapping[str, Any],
    path: KeyPath,
    known: Iterable[str],
    origin_of: OriginOf,
) -> list[str]:
    """What is wrong with one mixture entry applied to the recipe, beyond what the recipe itself has wrong."""
    problems = []
    varied = json.loads(json.dumps(tree, default=str))
    varied.get("harvest", {}).pop("mixture", None)
    for key, value in entry.items():
        if key not in VARIABLE_KEYS and (key.split(".")[0] not in VARIABLE_SECTIONS or "." not in key):
            nearest = nearest_setting((*VARIABLE_SECTIONS[:1], key))
            hint = f"; did you mean {nearest}?" if nearest and nearest.startswith(("task.", "train.")) else ""
            allowed = (
                f"only task.*, train.*, {', '.join(VARIABLE_KEYS)} may differ between the tasks of a harvest"
            )
            problems.append(_line((*path, key), f"unknown key{hint} ({allowed})", origin_of))
        else:
            set_key(varied, tuple(key.split(".")), value)
    for error in _raw_errors(varied):
        if repr(error) not in known:
            loc, description = _located(error)
            problems.append(_line((*path, *_entry_path(entry, loc)), description, origin_of))
    return problems


def _mixture_problems(
    tree: Mapping[str, Any], errors: list[dict[str, Any]], origin_of: OriginOf
) -> list[str]:
    harvest = tree.get("harvest")
    mixture = harvest.get("mixture") if isinstance(harvest, dict) else None
    known = {repr(error) for error in errors}
    problems: list[str] = []
    for index, entry in enumerate(mixture if isinstance(mixture, list) else []):
        if isinstance(entry, dict):
            problems.extend(_entry_problems(tree, entry, (*MIXTURE, index), known, origin_of))
    return problems


def validate(tree: Mapping[str, Any], origin_of: OriginOf = lambda path: None) -> ExperimentConfig:
    """The typed configuration of nested plain values; a missing setting takes its default.

    Raises ConfigError with every mistake: wrong keys, types and values, also inside the entries
    of harvest.mixture, each with its dotted path, the value, what is allowed, and its origin.
    """
    errors = _raw_errors(tree)
    problems = [_line(*_located(error), origin_of) for error in errors]
    problems.extend(_mixture_problems(tree, errors, origin_of))
    if problems:
        raise ConfigError(problems)
    return ExperimentConfig.model_validate_json(json.dumps(tree, default=str), strict=True)
