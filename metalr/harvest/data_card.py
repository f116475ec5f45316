"""The card of a meta-dataset: its facts for programs (`card.json`), and the same for people (`README.md`)."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from typing import Any

import pandas as pd

from metalr.config import canonical_json
from metalr.harvest.rules import DIVERGENCE_PENALTY, LOST_LOSS
from metalr.harvest.tables import FORK_COLUMNS, Column

__all__ = ["SCHEMA_VERSION", "count", "digest_of", "make_card", "render_card"]

SCHEMA_VERSION = 1
"""Raised whenever a column is added, dropped, or comes to mean something else."""

_BREAKDOWNS = ("dataset", "network", "schedule", "budget_epochs")


def make_card(
    transitions: pd.DataFrame,
    forks: pd.DataFrame,
    columns: Sequence[Column],
    files: Mapping[str, Mapping[str, Any]],
    run_versions: Iterable[Mapping[str, str]],
    objectives: Mapping[str, int],
    settings: Mapping[str, Any],
) -> dict[str, Any]:
    """Everything known of a meta-dataset, as plain JSON values, with its own `digest`.

    Args:
        transitions: The table, one row per trunk and epoch.
        forks: The table, one row per candidate.
        columns: Those of `transitions`.
        files: `file`, `sha256` and `bytes` of each table.
        run_versions: Of each run, the versions of what made it.
        objectives: Runs by `task.objective`; kept in the card where not all classify.
        settings: Of the harvest; `name` names the meta-dataset.

    Raises:
        ValueError: `settings` holds something that JSON does not.
    """
    prefix = "feature/"
    names = [column.name.removeprefix(prefix) for column in columns if column.name.startswith(prefix)]
    run_ids = sorted(transitions["run_id"].unique())
    card = {
        "schema_version": SCHEMA_VERSION,
        "name": str(settings.get("name", "meta-dataset")),
        "counts": count(transitions, forks),
        "breakdown": {key: _break_down(transitions, forks, key) for key in _BREAKDOWNS},
        "tables": {name: dict(facts) for name, facts in files.items()},
        "run_ids_sha256": hashlib.sha256("\n".join(run_ids).encode()).hexdigest(),
        "feature_names": names,
        "regret_rule": {"lost_loss": LOST_LOSS, "divergence_penalty": DIVERGENCE_PENALTY},
        "settings": dict(settings),
        "versions": {"runs": _merged(run_versions), "tables": _own_versions()},
        "columns": {"transitions": _describe(columns), "forks": _describe(FORK_COLUMNS)},
    }
    if set(objectives) - {"classify"}:
        card["objectives"] = {name: objectives[name] for name in sorted(objectives)}
    return card | {"digest": digest_of(card)}


def digest_of(card: Mapping[str, Any]) -> str:
    """SHA-256 over all of the card but its digest, and so over the tables, whose SHA-256 it holds."""
    content = {key: value for key, value in card.items() if key != "digest"}
    return hashlib.sha256(canonical_json(content).encode()).hexdigest()


def count(transitions: pd.DataFrame, forks: pd.DataFrame) -> dict[str, int]:
    """How many there are of what; in `forks_best_at_edge` the smallest or largest candidate was best."""
    runs = transitions.drop_duplicates("run_id")
    each = forks.groupby(["run_id", "epoch"], sort=False)
    best = forks[(forks["regret"] == 0.0) & ~forks["diverged"]]
    at_edge = (best["factor"] == each["factor"].transform("min")[best.index]) | (
        best["factor"] == each["factor"].transform("max")[best.index]
    )
    return {
        "runs": len(runs),
        "diverged_runs": int(runs["diverged"].sum()),
        "groups": int(runs["group"].nunique()),
        "transitions": len(transitions),
        "forks": int(each.ngroups),
        "forks_best_at_edge": len(best[at_edge].drop_duplicates(["run_id", "epoch"])),
        "candidates": len(forks),
        "diverged_candidates": int(forks["diverged"].sum()),
    }


def _break_down(transitions: pd.DataFrame, forks: pd.DataFrame, key: str) -> dict[str, dict[str, int]]:
    runs = transitions.drop_duplicates("run_id").set_index("run_id")
    starts = forks.drop_duplicates(["run_id", "epoch"])
    per_fork = starts["run_id"].map(runs[key])
    return {
        str(value): {
            "runs": len(part),
            "diverged_runs": int(part["diverged"].sum()),
            "groups": int(part["group"].nunique()),
            "forks": int((per_fork == value).sum()),
        }
        for value, part in runs.groupby(key)
    }


def _merged(versions: Iterable[Mapping[str, str]]) -> dict[str, list[str]]:
    """Each name with every version that occurs, sorted."""
    merged: dict[str, set[str]] = {}
    for one in versions:
        for name, number in one.items():
            merged.setdefault(name, set()).add(number)
    return {name: sorted(numbers) for name, numbers in sorted(merged.items())}


def _own_versions() -> dict[str, str]:
    return {name: version(name) for name in ("pandas", "pyarrow")} | {"python": platform.python_version()}


def _describe(columns: Sequence[Column]) -> list[dict[str, str]]:
    return [{"name": c.name, "type": c.kind, "unit": c.unit, "how": c.how} for c in columns]


_TEXT = """# Meta-dataset `{name}`

For each of {forks} training states of {runs} runs: which next learning rate (LR) really was best.
Made by `metalr metadataset`; read by `metalr train-meta`. This page is generated from `card.json`.

## What it is

* `{transitions_file}`: {transitions} rows, one per run and epoch (epoch 0 is before training): the
  setting of the run, its LR and losses, and the features a controller would see at that moment.
* `{forks_file}`: {candidates} rows, one per fork and candidate LR: the losses the same state went on to
  reach under that LR, and their regrets. `run_id` and `epoch` lead to the state's row in `transitions`.
* `card.json`: every fact on this page, checksums, settings and versions; the loader verifies them.

## How it was made

Each run (a trunk) trained under a hand-written schedule. At chosen epochs its whole state (weights,
momentum, batch-norm statistics, data order) was continued under each candidate LR, followed by the anchor
(warm-up, then decay to zero) to the end of the budget; all candidates of a fork met the same batches.
Candidates are multiples of a reference LR, which a range test on the untrained network gives.

    regret = loss - smallest loss of the fork
    regret = largest such regret of the fork (none: 0) + {divergence_penalty:.4f}

The second line is for candidates that diverged or ended above {lost_loss:g} nats.

The labels are losses on `outer_valid`. The controller's features use `train` and `inner_valid` alone, and
no image of `test` was read.{objectives}

## What is in it

Runs that start alike (same task, training settings, budget and seed; other LR or schedule) share a `group`:
split by group, never by row. Diverged: {diverged_runs} of {runs} runs, {diverged_candidates} of {candidates}
candidates.
{breakdown}
## Columns

{columns}
## Known limits

* One continuation per candidate and one seed per state: a label carries the noise of that run.
* The best of a few candidates: in {forks_best_at_edge} of {forks} forks the smallest or the largest one won,
  so the optimum may lie outside.
* Rows of one run, and runs of one group, are not independent of each other.
* It covers the datasets, networks and budgets above and says nothing certain of others.{left_out}

## Licence

The tables hold measurements, not images, and come under the licence of the code that made them. The images
were used under the terms of their own datasets: {datasets}.

## Hashes

{hashes}"""


def render_card(card: Mapping[str, Any]) -> str:
    """The data card in Markdown, for people."""
    counts, files = card["counts"], card["tables"]
    hashes = [[f"`{facts['file']}`", f"`{facts['sha256']}`"] for facts in files.values()]
    hashes += [["all run ids, sorted", f"`{card['run_ids_sha256']}`"], ["card", f"`{card['digest']}`"]]
    versions = "; ".join(f"{k} {', '.join(v)}" for k, v in card["versions"]["runs"].items())
    return _TEXT.format(
        **counts,
        **card["regret_rule"],
        name=card["name"],
        transitions_file=files["transitions"]["file"],
        forks_file=files["forks"]["file"],
        breakdown="".join(_breakdown_table(key, parts) for key, parts in card["breakdown"].items()),
        columns="\n".join(_columns_table(name, described) for name, described in card["columns"].items()),
        datasets=", ".join(card["breakdown"]["dataset"]),
        objectives=_objectives(card.get("objectives", {})),
        left_out=_left_out(card["settings"].get("unfinished", [])),
        hashes=_table(["of", "SHA-256"], hashes)
        + f"\nThe runs were made with {versions or 'unknown versions'}.\n",
    )


def _objectives(counts: Mapping[str, int]) -> str:
    if not counts:
        return ""
    listed = ", ".join(f"{number} `{name}`" for name, number in counts.items())
    return (
        f" Of the runs, by `task.objective`, {listed}:\nwhere numbers or images are learned, "
        "the losses of forks are squared errors in units of guessing, times log 10,\n"
        "those of transitions squared errors as they are."
    )


def _left_out(run_ids: Sequence[str]) -> str:
    if not run_ids:
        return ""
    return (
        f"\n* {len(run_ids)} planned runs were not finished when it was written, the dearest ones among them."
    )


def _breakdown_table(key: str, parts: Mapping[str, Mapping[str, int]]) -> str:
    rows = [[value, *map(str, counts.values())] for value, counts in parts.items()]
    return "\n" + _table([key, "runs", "of them diverged", "groups", "forks"], rows)


def _columns_table(name: str, described: Sequence[Mapping[str, str]]) -> str:
    rows = [[f"`{column['name']}`", column["type"], column["unit"], column["how"]] for column in described]
    return f"### `{name}`\n\n" + _table(["column", "type", "unit", "how it was made"], rows)


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)
