"""What must hold in the tables of a meta-dataset, and how a regret follows from losses."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from metalr.harvest.tables import FORK_COLUMNS, RUN_COLUMNS, Column
from metalr.training.artifacts import ArtifactError

__all__ = ["DIVERGENCE_PENALTY", "LOST_LOSS", "check_tables", "regret_of"]

LOST_LOSS = 10.0
"""Nats above which a network has lost all it knew: guessing among 22,000 classes costs no more."""
DIVERGENCE_PENALTY = 2.302585092994046
"""Nats between the regrets of a lost candidate and of the worst one that is not: log 10."""


def regret_of(forks: pd.DataFrame, loss: str) -> pd.Series[float]:
    """Regret of each row of `forks` in nats, from the column `loss`: finite, from 0 to 10 + log 10.

        regret = loss - min over the fork                            where the loss is at most 10 nats
        regret = largest such regret of the fork (none: 0) + log 10   where it is more, or not finite

    The second line keeps an explosion that stopped short of infinity (10^20 nats, say) from being
    thousands of times worse than one that did not.
    """
    keys = [forks["run_id"], forks["epoch"]]
    kept = forks[loss].where(forks[loss] <= LOST_LOSS)
    regret = kept - kept.groupby(keys).transform("min")
    worst = regret.groupby(keys).transform("max").fillna(0.0)
    return regret.fillna(worst + DIVERGENCE_PENALTY)


def check_tables(
    transitions: pd.DataFrame, forks: pd.DataFrame, columns: Sequence[Column], source: str
) -> None:
    """Raise ArtifactError, naming `source`, table, column and row, unless every rule below holds.

    Args:
        transitions: Sorted by run id and epoch.
        forks: Sorted by run id, epoch and candidate.
        columns: Those of `transitions`.
        source: What the tables come from, for the message.
    """
    if transitions.empty or forks.empty:
        raise ArtifactError(f"{source}: no forks to learn from; harvest trunks with a fork plan")
    for name, table, described in (("transitions", transitions, columns), ("forks", forks, FORK_COLUMNS)):
        for column in described:
            _check_column(table, column, f"{source}: {name}")
    for rule, broken in _transition_rules(transitions).items():
        _refuse_rows(transitions, broken, f"{source}: transitions: {rule}")
    for rule, broken in _fork_rules(transitions, forks).items():
        _refuse_rows(forks, broken, f"{source}: forks: {rule}")


def _check_column(table: pd.DataFrame, column: Column, source: str) -> None:
    values = table[column.name]
    if not column.nullable:
        _refuse_rows(table, values.isna(), f"{source}: {column.name} is missing")
    if column.kind == "float64":
        _refuse_rows(table, np.isinf(values), f"{source}: {column.name} is not finite")
    if column.above is not None:
        _refuse_rows(table, values <= column.above, f"{source}: {column.name} must be above {column.above}")
    if column.at_least is not None:
        rule = f"{column.name} must be {column.at_least} or more"
        _refuse_rows(table, values < column.at_least, f"{source}: {rule}")


def _transition_rules(table: pd.DataFrame) -> dict[str, pd.Series[bool]]:
    """Rule -> rows that break it. A comparison with a null is False, so nulls break no rule by themselves."""
    runs = table.groupby("run_id", sort=False)
    started = table["epoch"] > 0
    complete = runs["epoch"].transform("max") == table["budget_epochs"]
    settings = [column.name for column in RUN_COLUMNS if column.name != "run_id"]
    varying = [runs[name].transform("nunique", dropna=False) != 1 for name in settings]
    return {
        "epochs must run from 0 without a gap": table["epoch"] != runs.cumcount(),
        "epoch lies beyond budget_epochs": table["epoch"] > table["budget_epochs"],
        "a trunk that did not diverge must reach its budget": ~complete & ~table["diverged"],
        "lr must be null at epoch 0 and nowhere else": table["lr"].isna() == started,
        "peak_lr must be null at epoch 0 and nowhere else": table["peak_lr"].isna() == started,
        "outer_valid_loss must be null at epoch 0": table["outer_valid_loss"].notna() & ~started,
        "diverged must say whether the final loss is null": (
            table["diverged"] != table["final_outer_valid_loss"].isna()
        ),
        "a setting of the run changes between its epochs": np.logical_or.reduce(varying),
    }


def _fork_rules(transitions: pd.DataFrame, table: pd.DataFrame) -> dict[str, pd.Series[bool]]:
    forks = table.groupby(["run_id", "epoch"], sort=False)
    trunk = table[["run_id", "epoch"]].merge(
        transitions[["run_id", "epoch", "group", "budget_epochs", "peak_lr", "initial_lr"]], how="left"
    )
    trunk.index = table.index
    num_candidates = forks["candidate"].transform("size")
    most = num_candidates.groupby(table["run_id"]).transform("max")
    used = trunk["peak_lr"].where(table["epoch"] > 0, trunk["initial_lr"])
    return {
        "candidates must be numbered from 0 without a gap": table["candidate"] != forks.cumcount(),
        "the fork has fewer candidates than another one of its trunk": num_candidates != most,
        "two candidates of a fork are the same": table.duplicated(["run_id", "epoch", "factor"]),
        "the fork has no row in transitions": trunk["group"].isna(),
        "group is not that of its trunk": table["group"] != trunk["group"],
        "the fork must come before the end of the budget": table["epoch"] >= trunk["budget_epochs"],
        "current_peak_lr is not what the trunk used": table["current_peak_lr"] != used,
        "diverged must say whether final_loss is null": table["diverged"] != table["final_loss"].isna(),
        "next_regret does not follow from next_loss": table["next_regret"] != regret_of(table, "next_loss"),
        "regret does not follow from final_loss": table["regret"] != regret_of(table, "final_loss"),
    }


def _refuse_rows(table: pd.DataFrame, broken: pd.Series[bool], problem: str) -> None:
    if broken.any():
        row = table[broken].iloc[0]
        raise ArtifactError(
            f"{problem} (run {row['run_id']}, epoch {row['epoch']}, {broken.sum()} row(s)); "
            "delete that run's records and harvest again"
        )
