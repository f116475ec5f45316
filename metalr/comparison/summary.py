"""Run records -> the whole comparison as plain JSON: cells, tuned baselines, overall."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import stats

from metalr.comparison.grouping import GroupedRuns, group_runs, mean_by_seed
from metalr.comparison.measures import group_measures, mean_or_none, time_to_target
from metalr.comparison.pairing import Runs, Tuned, adjust_family, compare_pairs, differences
from metalr.comparison.protocol import Cell, is_controlled, is_hand_schedule, report_lrs
from metalr.comparison.provenance import context, plain_values
from metalr.comparison.statistics import estimate_mean, interquartile_mean, judge
from metalr.config import ExperimentConfig
from metalr.training.records import RunRecord

__all__ = ["summarise"]


def summarise(
    records: Sequence[RunRecord], config: ExperimentConfig, provenance: Mapping[str, Any]
) -> dict[str, Any]:
    """The comparison as summary.json: plain JSON without NaN, the same for the same records in any order.

    `provenance` may hold commit, versions, device, hardware, dataset_label, num_classes, harvest,
    meta_training and command. Raises ValueError without records, where a run has no test accuracy, and
    where two different runs claim the same cell, method and seed.
    """
    results = group_runs(records, config, provenance)
    sampling = (config.compare.confidence, config.compare.num_resamples)
    summary = _Summary(GroupedRuns(results, report_lrs(config)), sampling)
    values = context(results, config, provenance) | summary.as_json()
    return {key: plain_values(value) for key, value in values.items()}


class _Summary:
    """The arithmetic over one set of grouped results."""

    def __init__(self, runs: GroupedRuns, sampling: tuple[float, int]) -> None:
        self.runs, self.results, self.sampling = runs, runs.results, sampling

    def as_json(self) -> dict[str, Any]:
        cells = [self._cell(cell) for cell in self.runs.cells]
        overall_paired = self._overall_paired()
        tuned = [self._tuned(*group) for group in self.runs.tuned]
        entries = [entry["against_reference"] for group in tuned for entry in group["methods"].values()]
        against = [entry for entry in entries if entry is not None]
        confidence = self.sampling[0]
        return {
            "tuning_grid_lr": sorted({cell.initial_lr for cell, _ in self.results}),
            "cells": cells,
            "tuned": tuned,
            "overall": {method: self._overall(method, cells) for method in self.runs.methods},
            "overall_paired": overall_paired,
            "families": {
                "cells": adjust_family([e for cell in cells for e in cell["paired"].values()], confidence),
                "overall": adjust_family(list(overall_paired.values()), confidence),
                "tuned": adjust_family(against, confidence),
            },
        }

    def _cell(self, cell: Cell) -> dict[str, Any]:
        methods = self.runs.methods_of(cell)
        return {
            "task": cell.task,
            "budget_epochs": cell.budget_epochs,
            "initial_lr": cell.initial_lr,
            "target_inner_valid_accuracy_pct": self.runs.target(cell),
            "methods": {method: self._method(cell, method) for method in methods},
            "paired": self._paired(cell, methods),
        }

    def _method(self, cell: Cell, method: str) -> dict[str, Any]:
        runs = self.results[cell, method]
        outcomes = list(runs.values())
        losses = [outcome.test_loss for outcome in outcomes if outcome.test_loss is not None]
        measures = group_measures(outcomes)
        return {
            "test_accuracy_pct": estimate_mean(
                [outcome.test_accuracy_pct for outcome in outcomes], *self.sampling
            ).as_json(),
            "test_loss": estimate_mean(losses, *self.sampling).as_json(),
            "outer_valid_accuracy_pct": mean_or_none([o.outer_valid_accuracy_pct for o in outcomes]),
            **measures,
            **time_to_target(outcomes, self.runs.target(cell)),
            "schedule_efficiency": self._efficiency(cell, runs, measures["log_lr_sd_decades"]),
            "regret_pp": self._regret(self.runs.reference(cell), runs),
            "regret_to_best_pp": self._regret(self.runs.best_of_all(cell), runs),
        }

    def _efficiency(self, cell: Cell, runs: Runs, log_sd_decades: float | None) -> float | None:
        gains = list(differences(runs, self.results.get((cell, "constant"), {})).values())
        if not gains or log_sd_decades is None or log_sd_decades < 1e-9:
            return None
        return float(np.mean(gains)) / log_sd_decades

    def _regret(self, reference: Tuned | None, runs: Runs) -> dict[str, Any]:
        regrets = differences(reference.runs, runs).values() if reference else []
        estimate = estimate_mean(list(regrets), *self.sampling)
        return estimate.as_json() | {"judgement": judge(estimate)}

    def _paired(self, cell: Cell, methods: Sequence[str]) -> dict[str, Any]:
        baselines = [method for method in methods if not is_controlled(method)]
        valid = {
            method: mean_or_none([o.outer_valid_accuracy_pct for o in self.results[cell, method].values()])
            for method in baselines
        }
        hand = filter(is_hand_schedule, baselines)
        best = max(hand, key=lambda method: valid[method] or 0.0, default=None)
        return {
            f"{method} vs {baseline}": compare_pairs(
                differences(self.results[cell, method], self.results[cell, baseline]).values(), *self.sampling
            )
            | {"best_at_this_lr": baseline == best}
            for method in methods
            for baseline in baselines
            if is_controlled(method)
        }

    def _tuned(self, task: str, budget_epochs: int) -> dict[str, Any]:
        somewhere = Cell(task, budget_epochs, 0.0)
        reference, best = self.runs.reference(somewhere), self.runs.best_of_all(somewhere)
        return {
            "task": task,
            "budget_epochs": budget_epochs,
            "best": reference.method if reference else None,
            "best_of_all": best.method if best else None,
            "methods": {
                choice.method: {
                    "lr": choice.lr,
                    "outer_valid_accuracy_pct": choice.outer_valid_accuracy_pct,
                    "test_accuracy_pct": estimate_mean(
                        [outcome.test_accuracy_pct for outcome in choice.runs.values()], *self.sampling
                    ).as_json(),
                    "at_grid_edge": choice.at_grid_edge,
                    "against_reference": self._against(reference, choice),
                }
                for choice in self.runs.tuned[task, budget_epochs]
            },
        }

    def _against(self, reference: Tuned | None, choice: Tuned) -> dict[str, Any] | None:
        """The tuned method minus the reference, paired by seed; None for the reference itself."""
        if reference is None or choice.method == reference.method:
            return None
        return compare_pairs(differences(choice.runs, reference.runs).values(), *self.sampling)

    def _overall(self, method: str, cells: Sequence[dict[str, Any]]) -> dict[str, Any]:
        mine = [cell["methods"][method] for cell in cells if method in cell["methods"]]
        regret = estimate_mean(self.runs.regrets_by_seed(method, self.runs.reference), *self.sampling)
        to_best = estimate_mean(self.runs.regrets_by_seed(method, self.runs.best_of_all), *self.sampling)
        regrets = [entry["regret_pp"]["mean"] for entry in mine]
        cell_regrets = [value for value in regrets if value is not None]
        # A run that stands in several cells is timed and counted once.
        outcomes = list({o.run_id: o for runs in self.runs.in_cells(method) for o in runs.values()}.values())
        finished = [outcome for outcome in outcomes if not outcome.diverged]
        wall_s = sum(outcome.timing.get("wall_s", 0.0) for outcome in finished)
        control_s = sum(outcome.timing.get("control_s", 0.0) for outcome in finished)
        return {
            "mean_test_accuracy_pct": mean_or_none([entry["test_accuracy_pct"]["mean"] for entry in mine]),
            "mean_outer_valid_accuracy_pct": mean_or_none([e["outer_valid_accuracy_pct"] for e in mine]),
            "mean_regret_pp": mean_or_none(cell_regrets) if regret.mean is None else regret.mean,
            "ci95": regret.as_json()["ci95"],
            "t_ci95": regret.as_json()["t_ci95"],
            "regret_to_best_pp": to_best.as_json() | {"judgement": judge(to_best)},
            "num_seeds": regret.n,
            **self._interquartile(method),
            "share_reached_target": self._share_reached(mine),
            "judgement": judge(regret),
            "note": regret.note,
            "worst_cell_regret_pp": max(cell_regrets, default=None),
            "sensitivity_pp": self._sensitivity(method),
            "mean_rank": mean_or_none([_rank(cell, method) for cell in cells if method in cell["methods"]]),
            "overhead_pct": 100.0 * control_s / wall_s if wall_s > 0.0 else None,
            "num_cells": len(mine),
            "num_runs": len(outcomes),
            "num_diverged": len(outcomes) - len(finished),
        }

    def _interquartile(self, method: str) -> dict[str, Any]:
        cells = [cell for cell in self.runs.cells if (cell, method) in self.results]
        accuracies = [[o.test_accuracy_pct for o in self.results[c, method].values()] for c in cells]
        references = [(c, self.runs.reference(c)) for c in cells]
        regrets = [
            list(differences(best.runs, self.results[c, method]).values()) for c, best in references if best
        ]
        return {
            "iqm_test_accuracy_pct": interquartile_mean(accuracies, *self.sampling),
            "iqm_regret_pp": interquartile_mean(regrets, *self.sampling),
        }

    def _share_reached(self, entries: Sequence[Mapping[str, Any]]) -> float | None:
        num_runs = sum(entry["test_accuracy_pct"]["n"] for entry in entries)
        return sum(entry["num_reached"] for entry in entries) / num_runs if num_runs else None

    def _overall_paired(self) -> dict[str, Any]:
        pairs = {}
        for method in filter(is_controlled, self.runs.methods):
            for baseline in (name for name in self.runs.methods if not is_controlled(name)):
                shared = [c for c in self.runs.cells if {(c, method), (c, baseline)} <= set(self.results)]
                tables = [differences(self.results[c, method], self.results[c, baseline]) for c in shared]
                pairs[f"{method} vs {baseline}"] = compare_pairs(mean_by_seed(tables), *self.sampling)
        return pairs

    def _sensitivity(self, method: str) -> float | None:
        deviations = []
        for group in self.runs.tuned:
            means = [
                float(np.mean([outcome.test_accuracy_pct for outcome in runs.values()]))
                for (cell, name), runs in self.results.items()
                if name == method and cell in self.runs.cells and (cell.task, cell.budget_epochs) == group
            ]
            deviations.append(float(np.std(means)) if len(means) > 1 else None)
        return mean_or_none(deviations)


def _rank(cell: Mapping[str, Any], method: str) -> float:
    names = list(cell["methods"])
    accuracies = [cell["methods"][name]["test_accuracy_pct"]["mean"] for name in names]
    return float(stats.rankdata([-accuracy for accuracy in accuracies])[names.index(method)])
