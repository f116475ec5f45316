"""The verb `ablate`: a plain recipe, an improved one, and which single change between them mattered."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from metalr.comparison.ablation import ablation_summary, ablation_table, ablation_verdict, rows_of
from metalr.comparison.grouping import NUM_CLASSES
from metalr.comparison.measures import Outcome, outcome_of
from metalr.config import ConfigError, ExperimentConfig
from metalr.config.controlled import CONTROLLED
from metalr.display import Display
from metalr.figures import draw_ablation
from metalr.provenance import facts_of
from metalr.runs import finish_runs
from metalr.single_runs import compared_alone, method_of
from metalr.stages import comparison_specs, controllers_of
from metalr.training import RunSpec, RunStore
from metalr.training.artifacts import write_atomically, write_json

__all__ = ["ablate"]


def ablate(
    before: ExperimentConfig, after: ExperimentConfig, display: Display, *, leave_one_out: bool = False
) -> Path:
    """Train every row on the improved recipe's comparison seeds and write the table; returns its path.

    Raises ConfigError where the recipes have the same name or do not differ.
    """
    if before.name == after.name:
        raise ConfigError([f"name: both recipes are called {after.name}; rows are known by their names"])
    rows = rows_of(before, after, leave_one_out=leave_one_out)
    specs = {name: _specs(recipe, after, display) for name, recipe in rows.items()}
    every = list({spec.run_id: spec for row in specs.values() for spec in row}.values())
    finish_runs(after, every, _controllers(rows, after, display), display, "Ablate", lambda job: None)
    store = RunStore(after.store)
    chance_pct = 100.0 / NUM_CLASSES.get(after.task.dataset, 10)
    outcomes: dict[str, dict[int, Outcome]] = {
        name: {spec.seed: outcome_of(store.load(spec.run_id), chance_pct) for spec in row}
        for name, row in specs.items()
    }
    entries = ablation_summary(outcomes, after.compare.confidence, after.compare.num_resamples)
    summary = {
        "before": before.name,
        "after": after.name,
        "seeds": list(after.compare.seeds),
        **facts_of(after, every[0]),
        "command": f"metalr ablate {before.name} {after.name}" + " --leave-one-out" * leave_one_out,
        "verdict": ablation_verdict(entries),
        "rows": entries,
    }
    columns, cells = ablation_table(entries)
    display.table("", columns, cells)
    display.announce(ablation_verdict(entries))
    folder = Path("experiments") / "results" / f"{after.name}-against-{before.name}"
    files = {
        "figures/differences.svg": draw_ablation(entries),
        "report.md": _markdown(summary, columns, cells),
        "summary.json": json.dumps(summary, indent=2, allow_nan=False) + "\n",
    }
    for name, text in files.items():
        write_atomically(folder / name, text.encode())
    manifest = {key: summary[key] for key in ("before", "after", "commit", "versions", "device", "hardware")}
    hashes = {name: hashlib.sha256(text.encode()).hexdigest() for name, text in files.items()}
    run_ids = sorted(spec.run_id for spec in every)
    write_json(folder / "manifest.json", manifest | {"run_ids": run_ids, "files": hashes})
    return folder / "report.md"


def _specs(recipe: ExperimentConfig, after: ExperimentConfig, display: Display) -> list[RunSpec]:
    return comparison_specs(_compared(recipe, after), _controllers({"": recipe}, after, display))


def _compared(recipe: ExperimentConfig, after: ExperimentConfig) -> ExperimentConfig:
    """`recipe` as a comparison of its one strategy at its own LR and budget, over the seeds of `after`."""
    only = compared_alone(after.compare, method_of(recipe), after.compare.seeds)
    shared = {"data": after.data, "store": after.store, "workers": after.workers}
    return recipe.model_copy(update={"compare": only, **shared})


def _controllers(
    rows: Mapping[str, ExperimentConfig], after: ExperimentConfig, display: Display
) -> dict[str, Path]:
    made: dict[str, Path] = {}
    for recipe in rows.values():
        if method_of(recipe) in CONTROLLED:
            made |= controllers_of(_compared(recipe, after), display)
    return made


def _markdown(summary: Mapping[str, Any], columns: list[str], cells: list[list[str]]) -> str:
    lines = [
        f"# {summary['after']} against {summary['before']}",
        f"**{summary['verdict']}**",
        "![differences](figures/differences.svg)",
        f"Final test accuracy, mean ± standard deviation over {len(summary['seeds'])} paired seeds. A row "
        f"`+` is {summary['before']} with that change alone, compared with {summary['before']}; a row `-` is "
        f"{summary['after']} without it, compared with {summary['after']}. Intervals: paired bootstrap; p: "
        "paired permutation test, Holm over the rows.",
        "\n".join(
            f"* {name}: {summary[name]}"
            for name in ("dataset_label", "hardware", "device", "commit", "command")
        ),
        "\n".join("| " + " | ".join(row) + " |" for row in [columns, ["---"] * len(columns), *cells]),
    ]
    return "\n\n".join(lines) + "\n"
