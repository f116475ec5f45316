"""The hash under which a run is known: same settings, same id, same result."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from pydantic import BaseModel

__all__ = ["canonical_json", "run_id", "short_hash", "with_added", "without_added"]


def canonical_json(value: Any) -> str:
    """The one JSON text of `value`: sorted keys, no white space, no NaN or infinity.

    Raises ValueError where `value` holds a non-finite number.
    """
    plain = value.model_dump(mode="json") if isinstance(value, BaseModel) else value
    return json.dumps(plain, sort_keys=True, separators=(",", ":"), allow_nan=False)


def short_hash(value: Any) -> str:
    """The first 16 hexadecimal digits of the SHA-256 of `value`'s canonical JSON."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()[:16]


def run_id(spec: BaseModel, added: Mapping[tuple[str, ...], Any] = MappingProxyType({})) -> str:
    """The identity of a run: 16 hexadecimal digits over every field of `spec`.

    A spec must hold what can change the result (data digest, seed, threads, dtype, schema
    version) and nothing that cannot (paths, names, W&B settings).

    Args:
        spec: What is run.
        added: Settings that came later, by key path, with what runs did before they existed; at that value
            a setting is left out, so that an earlier record keeps its id.
    """
    return short_hash(without_added(spec.model_dump(mode="json"), added))


def without_added(settings: dict[str, Any], added: Mapping[tuple[str, ...], Any]) -> dict[str, Any]:
    """The nested `settings` without those of `added` that have the value given there, or are not in it."""
    kept = copy.deepcopy(settings)
    for (*sections, name), value in added.items():
        section: Any = kept
        for key in sections:
            section = section.get(key) or {}
        if name in section and section[name] == value:
            del section[name]
    return kept


def with_added(settings: Mapping[str, Any], added: Mapping[tuple[str, ...], Any]) -> dict[str, Any]:
    """The nested `settings`, with those of `added` that a section lacks at the value given there.

    Only plain sections, as read from a file, are filled; the settings themselves are left as they are.
    """
    filled = dict(settings)
    for (section, *rest), value in added.items():
        inner = filled.get(section)
        if rest and isinstance(inner, Mapping):
            filled[section] = with_added(inner, {tuple(rest): value})
        elif not rest:
            filled.setdefault(section, value)
    return filled
