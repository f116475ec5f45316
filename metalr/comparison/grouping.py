"""Run records sorted into cells, with the tuned baselines that a method of a cell is held against."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np

from metalr.comparison.measures import Outcome, outcome_of, target_of
from metalr.comparison.pairing import Results, Runs, Tuned, differences, tune
from metalr.comparison.protocol import METHODS, Cell, cells_of, is_hand_schedule
from metalr.config import ExperimentConfig
from metalr.training.records import RunRecord

__all__ = ["NUM_CLASSES", "GroupedRuns", "group_runs", "mean_by_seed"]

NUM_CLASSES = {"cifar100": 100}


def group_runs(
    records: Sequence[RunRecord], config: ExperimentConfig, provenance: Mapping[str, Any]
) -> Results:
    """Every record's outcome, by cell and method, then seed, in the order of reports.

    Raises ValueError without records, where a run has no test accuracy, and where two different runs claim
    the same cell, method and seed.
    """
    if not records:
        raise ValueError("there are no finished runs to compare: run `metalr compare` first")
    of_all = provenance.get("num_classes") or NUM_CLASSES.get(config.task.dataset, 10)
    num_classes = len(config.task.classes) if config.task.classes else of_all
    results: dict[tuple[Cell, str], dict[int, Outcome]] = {}
    placed = [
        (cell, outcome_of(record, 100.0 / num_classes))
        for record in records
        for cell in cells_of(record.spec, config)
    ]
    for cell, outcome in placed:
        runs = results.setdefault((cell, outcome.method), {})
        other = runs.setdefault(outcome.seed, outcome)
        if other.run_id != outcome.run_id:
            raise ValueError(
                f"runs {other.run_id} and {outcome.run_id} are both {outcome.method}, seed {outcome.seed} of "
                f"{outcome.cell}, made under different settings: compare one set of settings at a time"
            )
    ordered = sorted(results, key=lambda key: (key[0], _place(key[1])))
    return {key: dict(sorted(results[key].items())) for key in ordered}


def _place(method: str) -> int:
    return [str(name) for name in METHODS].index(method)


class GroupedRuns:
    """The runs of a comparison; those at LRs that only tune are in `results` alone, not in `cells`."""

    def __init__(self, results: Results, lrs: Collection[float]) -> None:
        self.results = results
        self.cells = sorted({cell for cell, _ in results if cell.initial_lr in lrs})
        self.methods = [method for method in METHODS if any(method == name for _, name in results)]
        groups = sorted({(cell.task, cell.budget_epochs) for cell, _ in results})
        self.tuned: dict[tuple[str, int], list[Tuned]] = {group: tune(results, *group) for group in groups}

    def reference(self, cell: Cell) -> Tuned | None:
        """The best tuned hand schedule of the cell's task and budget."""
        tuned = self.tuned[cell.task, cell.budget_epochs]
        return next((choice for choice in tuned if is_hand_schedule(choice.method)), None)

    def best_of_all(self, cell: Cell) -> Tuned | None:
        """The best tuned hand schedule or peer; `explore` is a random path."""
        tuned = self.tuned[cell.task, cell.budget_epochs]
        return next((choice for choice in tuned if choice.method != "explore"), None)

    def target(self, cell: Cell) -> float | None:
        """The accuracy on `inner_valid`, in percent, that methods of the cell are to reach."""
        reference = self.reference(cell)
        return target_of(list(reference.runs.values())) if reference else None

    def methods_of(self, cell: Cell) -> list[str]:
        """The methods that have runs in the cell."""
        return [method for method in self.methods if (cell, method) in self.results]

    def in_cells(self, method: str) -> list[Runs]:
        """A method's runs, cell by cell."""
        return [self.results[cell, method] for cell in self.cells if (cell, method) in self.results]

    def regrets_by_seed(self, method: str, reference_of: Callable[[Cell], Tuned | None]) -> list[float]:
        """Accuracy in points that a method lacks to the reference of each cell; means over cells, by seed."""
        tables = []
        for cell in self.cells:
            reference = reference_of(cell)
            if reference and (cell, method) in self.results:
                tables.append(differences(reference.runs, self.results[cell, method]))
        return mean_by_seed(tables)


def mean_by_seed(tables: Sequence[Mapping[int, float]]) -> list[float]:
    """Means over the cells, of the seeds that every cell has: runs of one seed are not independent."""
    shared = set.intersection(*(set(table) for table in tables)) if tables else set()
    return [float(np.mean([table[seed] for table in tables])) for seed in sorted(shared)]
