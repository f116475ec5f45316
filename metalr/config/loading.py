"""Recipe file + ``key=value`` overrides -> `ExperimentConfig`; defaults < parent < file < overrides."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from metalr.config.models import ExperimentConfig
from metalr.config.source import KeyPath, SourceError, YamlSource, parse_value, read_yaml_file
from metalr.config.validation import ConfigError, set_key, validate

__all__ = ["ConfigError", "Layers", "apply_overrides", "load_config", "load_layers", "recipe_names"]

RECIPES = Path("experiments")
"""Where a bare recipe name is looked up, in the working directory."""
NO_RECIPES = {"wandb_sweep"}
"""Files beside the recipes that are for others to read."""
EMBEDDED = "digits"
"""The recipe that the defaults are."""


@dataclass(frozen=True)
class Layers:
    """What the user wrote, merged: `values` nested, `origins` with the source of every key path in it."""

    values: dict[str, Any]
    origins: dict[KeyPath, str]
    problems: list[str] = field(default_factory=list)
    """Overrides and files that could not be read, one line each."""

    def resolve(self) -> ExperimentConfig:
        """The typed configuration. Raises ConfigError with every mistake, in reading and in values."""
        try:
            config = validate(self.values, self.origin_of)
        except ConfigError as error:
            raise ConfigError([*self.problems, *error.problems]) from None
        if self.problems:
            raise ConfigError(self.problems)
        return config

    def origin_of(self, path: KeyPath) -> str | None:
        """Where the value at `path`, or else the section around it, was written; None for a default."""
        for length in range(len(path), 0, -1):
            if path[:length] in self.origins:
                return self.origins[path[:length]]
        return None


def recipe_names() -> list[str]:
    """The bare names that `load_config` knows in this working directory, sorted."""
    return sorted({EMBEDDED, *(path.stem for path in RECIPES.glob("*.yaml"))} - NO_RECIPES)


def _recipe_path(recipe: str) -> Path | None:
    """The file of a path or bare name; None for the embedded defaults. Raises ConfigError."""
    path = Path(recipe)
    named = RECIPES / f"{recipe}.yaml"
    if path.suffix in (".yaml", ".yml") or len(path.parts) > 1 or path.is_file():
        return path
    if named.is_file():
        return named
    if recipe == EMBEDDED:
        return None
    names = recipe_names()
    nearest = difflib.get_close_matches(recipe, names, n=1)
    hint = f"; did you mean {nearest[0]}?" if nearest else ""
    raise ConfigError(
        [f"recipe {recipe!r}: no {named} here{hint} (known: {', '.join(names)}; or a path to a .yaml file)"]
    )


def _merge(layers: Layers, values: Mapping[str, Any], origins: Mapping[KeyPath, str]) -> None:
    """Lay `values` over `layers`, in place: sections key by key, all else whole."""
    _merge_section(layers.values, values)
    for path in origins:  # what was written before, at or below a replaced value, no longer counts
        for known in [known for known in layers.origins if known[: len(path)] == path]:
            if not isinstance(_at(values, path), dict):
                del layers.origins[known]
    layers.origins.update(origins)


def _merge_section(tree: dict[str, Any], values: Mapping[str, Any]) -> None:
    for key, value in values.items():
        if isinstance(value, dict):
            if not isinstance(tree.get(key), dict):
                tree[key] = {}
            _merge_section(tree[key], value)
        else:
            tree[key] = value


def _at(values: Any, path: KeyPath) -> Any:
    for key in path:
        values = values[key]
    return values


def _read_chain(path: Path, children: tuple[Path, ...] = ()) -> list[YamlSource]:
    """The file and its ancestors, eldest first. Raises ConfigError, SourceError."""
    if path.resolve() in children:
        raise ConfigError([f"{children[-1]}: extends: {path} extends this file in turn"])
    source = read_yaml_file(path)
    parent = source.values.pop("extends", None)
    origin = source.origins.pop(("extends",), str(path))
    if parent is None:
        return [source]
    if not isinstance(parent, str):
        raise ConfigError([f"extends: must be the name of one .yaml file, not {parent!r} ({origin})"])
    parent_path = path.parent / parent
    if not parent_path.is_file():
        raise ConfigError(
            [f"extends: {parent_path} does not exist; the path is relative to this file ({origin})"]
        )
    return [*_read_chain(parent_path, (*children, path.resolve())), source]


def _origin(override: str) -> str:
    """The name of an override in messages: one line of at most 80 characters."""
    text = " ".join(f"override {override}".split())
    return text if len(text) <= 80 else f"{text[:77]}..."


def _parse_override(text: str) -> tuple[KeyPath, Any]:
    """Key path and value of `key=value`. Raises SourceError."""
    key, equals, raw = text.partition("=")
    keys = tuple(key.strip().split("."))
    if not equals or not all(keys):
        raise SourceError(f"override {text!r}: must look like train.epochs=5")
    return keys, parse_value(raw, _origin(text))


def _override(layers: Layers, keys: KeyPath, value: Any, origin: str) -> None:
    """Lay one value over `layers`, in place."""
    nested: dict[str, Any] = {}
    set_key(nested, keys, value)
    _merge(layers, nested, {keys[:length]: origin for length in range(1, len(keys) + 1)})


def load_layers(recipe: str | None, overrides: Sequence[str] = ()) -> Layers:
    """What recipe, its parents and the overrides set, with the source of each value, not yet validated.

    Raises ConfigError where there is no such recipe or a parent is wrong.
    """
    layers = Layers({}, {})
    path = None if recipe is None else _recipe_path(recipe)
    try:
        for source in [] if path is None else _read_chain(path):
            _merge(layers, source.values, source.origins)
    except SourceError as error:
        layers.problems.append(str(error))
    for text in overrides:
        try:
            keys, value = _parse_override(text)
        except SourceError as error:
            layers.problems.append(str(error))
            continue
        _override(layers, keys, value, _origin(text))
    return layers


def load_config(recipe: str | None = None, overrides: Sequence[str] = ()) -> ExperimentConfig:
    """The experiment of a recipe file with overrides; None for the embedded defaults.

    `recipe` is a path, or a bare name for ``experiments/<name>.yaml``; an override is
    ``section.key=value`` with the value in YAML. Raises ConfigError with every mistake at once.

    >>> load_config(None, ["train.epochs=5", "compare.seeds=[0, 1]"]).train.epochs
    5
    """
    return load_layers(recipe, overrides).resolve()


def apply_overrides(config: ExperimentConfig, overrides: Mapping[str, Any]) -> ExperimentConfig:
    """`config` with the values at some dotted keys replaced, validated again.

    Raises ConfigError with every mistake at once.

    >>> apply_overrides(ExperimentConfig(), {"task.network": "cnn"}).task.network
    'cnn'
    """
    layers = Layers(config.model_dump(mode="json"), {})
    for key, value in overrides.items():
        _override(layers, tuple(key.split(".")), value, "override")
    return layers.resolve()
