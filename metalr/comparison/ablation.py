"""Which single change mattered: two recipes, and the first with each change of the second by itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from metalr.comparison.measures import Outcome, mean_or_none
from metalr.comparison.pairing import adjust_family, compare_pairs
from metalr.comparison.statistics import estimate_mean
from metalr.config import ConfigError, ExperimentConfig, apply_overrides

__all__ = ["Change", "ablation_summary", "ablation_table", "ablation_verdict", "changes_between", "rows_of"]

_SECTIONS = {"task", "train", "strategy", "schedules"}


@dataclass(frozen=True)
class Change:
    """One difference between two recipes: what a reader calls it, and the settings it takes."""

    name: str
    settings: Mapping[str, Any]
    """Dotted key -> value."""


def changes_between(before: ExperimentConfig, after: ExperimentConfig) -> list[Change]:
    """What `after` does otherwise in task, training and schedule, in the order of the settings.

    A strategy comes with the schedule settings it uses; any other setting is a change of its own.
    """
    found = _differences(before.model_dump(include=_SECTIONS), after.model_dump(include=_SECTIONS), ())
    used = tuple(f"schedules.{name}." for name in (after.strategy, "warmup"))
    schedule = {key: value for key, value in found.items() if key.startswith(used)}
    changes = [
        Change(f"{key}={value}", {key: value})
        for key, value in found.items()
        if key != "strategy" and not key.startswith("schedules.")
    ]
    if "strategy" in found:
        schedule = {"strategy": after.strategy} | schedule
        changes.append(Change(f"strategy={after.strategy}", schedule))
    elif schedule:
        changes += [Change(f"{key}={value}", {key: value}) for key, value in schedule.items()]
    return changes


def _differences(
    before: Mapping[str, Any], after: Mapping[str, Any], path: tuple[str, ...]
) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in after.items():
        here = (*path, key)
        if isinstance(value, dict) and isinstance(before[key], dict):
            found |= _differences(before[key], value, here)
        elif value != before[key]:
            found[".".join(here)] = value
    return found


def rows_of(
    before: ExperimentConfig, after: ExperimentConfig, *, leave_one_out: bool = False
) -> dict[str, ExperimentConfig]:
    """The recipes to train, by row name: the first, it with each change, the second, and it without each.

    Args:
        before: The plain recipe.
        after: The improved one.
        leave_one_out: Whether `after` is also trained without each of its changes.

    Raises:
        ConfigError: the recipes do not differ, or a change cannot be made by itself.
    """
    changes = changes_between(before, after)
    if not changes:
        raise ConfigError(
            [f"{before.name} and {after.name} do not differ in task, train, strategy or schedules"]
        )
    rows = {before.name: before}
    rows |= {f"+ {change.name}": _with(before, change.settings, change.name) for change in changes}
    rows[after.name] = after
    if leave_one_out:
        for change, back in zip(changes, _reversed(before, after, changes), strict=True):
            rows[f"- {change.name}"] = _with(after, back, f"without {change.name}")
    return rows


def _reversed(
    before: ExperimentConfig, after: ExperimentConfig, changes: Sequence[Change]
) -> list[dict[str, Any]]:
    """For each change the settings of `before`, with the schedule settings its strategy uses."""
    back = {key: value for change in changes_between(after, before) for key, value in change.settings.items()}
    strategy = {key: back[key] for key in back if key == "strategy" or key.startswith("schedules.")}
    return [
        strategy if "strategy" in change.settings else {key: _value(before, key) for key in change.settings}
        for change in changes
    ]


def _value(config: ExperimentConfig, key: str) -> Any:
    value: Any = config.model_dump(mode="json")
    for part in key.split("."):
        value = value[part] if value is not None else None
    return value


def _with(config: ExperimentConfig, settings: Mapping[str, Any], name: str) -> ExperimentConfig:
    try:
        return apply_overrides(config, settings)
    except ConfigError as error:
        raise ConfigError([f"{config.name}, {name}: {line}" for line in error.problems]) from None


def ablation_summary(
    rows: Mapping[str, Mapping[int, Outcome]], confidence: float, num_resamples: int
) -> list[dict[str, Any]]:
    """One entry a row: accuracy, and its paired difference from the first row (`-`: from the second recipe).

    Args:
        rows: Row name -> seed -> outcome, the plain recipe first.
        confidence: Coverage of the intervals.
        num_resamples: Bootstrap resamples.
    """
    names = list(rows)
    improved = next(name for name in reversed(names) if not name.startswith(("+ ", "- ")))
    entries = []
    for name, runs in rows.items():
        reference = rows[improved if name.startswith("- ") else names[0]]
        accuracy = estimate_mean(
            [outcome.test_accuracy_pct for outcome in runs.values()], confidence, num_resamples
        )
        entry: dict[str, Any] = {
            "row": name,
            "test_accuracy_pct": accuracy.as_json(),
            "test_loss": mean_or_none([outcome.test_loss for outcome in runs.values()]),
            "outer_valid_accuracy_pct": mean_or_none(
                [outcome.outer_valid_accuracy_pct for outcome in runs.values()]
            ),
            "wall_time_s": mean_or_none([outcome.timing.get("wall_s") for outcome in runs.values()]),
            "num_diverged": sum(outcome.diverged for outcome in runs.values()),
        }
        if runs is not reference:
            shared = [seed for seed in sorted(runs) if seed in reference]
            pairs = [runs[seed].test_accuracy_pct - reference[seed].test_accuracy_pct for seed in shared]
            entry["paired"] = compare_pairs(pairs, confidence, num_resamples)
        entries.append(entry)
    adjust_family([entry["paired"] for entry in entries if "paired" in entry], confidence)
    return entries


def ablation_table(entries: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Column names and rows of text, for the terminal and for Markdown."""
    columns = ["recipe", "test accuracy (%)", "difference (points)", "95 % interval", "p (Holm)", "seconds"]
    return columns, [_cells(entry) for entry in entries]


def _cells(entry: Mapping[str, Any]) -> list[str]:
    accuracy, paired = entry["test_accuracy_pct"], entry.get("paired")
    spread = f" ± {accuracy['sd']:.1f}" if accuracy["sd"] is not None else ""
    cells = [entry["row"], f"{accuracy['mean']:.1f}{spread}"]
    if paired is None:
        cells += ["–", "–", "–"]  # noqa: RUF001
    else:
        found = paired["difference_pp"]
        interval = found["ci95"]
        cells += [
            f"{found['mean']:+.1f}",
            f"[{interval[0]:+.1f}, {interval[1]:+.1f}]" if interval else "–",  # noqa: RUF001
            f"{paired['p_holm']:.3f}" if paired["p_holm"] is not None else "–",  # noqa: RUF001
        ]
    seconds = entry["wall_time_s"]
    return [*cells, f"{seconds:.0f}" if seconds is not None else "–"]  # noqa: RUF001


def ablation_verdict(entries: Sequence[Mapping[str, Any]]) -> str:
    """One sentence: what the whole brought, and which single change brought most."""
    plain = entries[0]
    improved = next(entry for entry in reversed(entries) if not entry["row"].startswith(("+ ", "- ")))
    singles = [entry for entry in entries if entry["row"].startswith("+ ")]
    whole = improved["paired"]["difference_pp"]
    text = (
        f"{improved['row']} ends {abs(whole['mean']):.1f} points "
        f"{'above' if whole['mean'] >= 0 else 'below'} {plain['row']} "
        f"({improved['paired']['judgement']}, n = {whole['n']})"
    )
    if not singles:
        return text + "."
    best = max(singles, key=lambda entry: float(entry["paired"]["difference_pp"]["mean"]))
    worst = min(singles, key=lambda entry: float(entry["paired"]["difference_pp"]["mean"]))
    gain, loss = (entry["paired"]["difference_pp"]["mean"] for entry in (best, worst))
    return (
        f"{text}; by itself, {best['row'][2:]} does most ({gain:+.1f} points, {best['paired']['judgement']}) "
        f"and {worst['row'][2:]} least ({loss:+.1f}, {worst['paired']['judgement']})."
    )
