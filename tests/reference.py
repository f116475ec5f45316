"""The comparison's arithmetic again: slow, plain loops, no SciPy, nothing of `metalr.comparison`.

    python tests/reference.py SUMMARY.json STORE

recomputes what a summary.json says from the run records its manifest names, and writes
reference_check.json beside it.
"""

from __future__ import annotations

import itertools
import json
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from slow_statistics import (
    bca_interval,
    holm,
    interquartile_interval,
    interquartile_mean,
    mean,
    sign_flip_p,
)

from metalr.config.peers import PEERS
from metalr.training.records import RunRecord, RunStore

__all__ = ["check_summary"]

TOLERANCE = 1e-8
NO_HAND_SCHEDULES = {"greedy", "explore", "find", *PEERS}
Runs = Mapping[int, RunRecord]
Figure = tuple[str, float | None, float | None]


def log_lrs(record: RunRecord) -> list[float]:
    """log10 of the epochs' LRs; one below a millionth of the largest counts as that."""
    lrs = [row["lr"] for row in record.epochs if row.get("lr") is not None]
    return [math.log10(max(lr, 1e-6 * max(lrs))) for lr in lrs]


def variance(values: Sequence[float]) -> float:
    center = math.fsum(values) / len(values)
    return math.fsum((value - center) ** 2 for value in values) / len(values)


def log_sd(record: RunRecord) -> float:
    return math.sqrt(variance(log_lrs(record)))


def lr_variance(record: RunRecord) -> float:
    return variance([row["lr"] for row in record.epochs if row.get("lr") is not None])


def path_length(record: RunRecord) -> float:
    return math.fsum(abs(b - a) for a, b in itertools.pairwise(log_lrs(record)))


def readings(record: RunRecord) -> list[tuple[int, float, float]]:
    """Epoch, inner_valid accuracy in percent and seconds so far, of every epoch that was read."""
    found, seconds = [], 0.0
    for row in record.rows:
        seconds += sum(row.get(f"time/{part}_s") or 0.0 for part in ("train", "eval", "control"))
        if row["epoch"] > 0 and row.get("inner_valid/accuracy") is not None:
            found.append((row["epoch"], 100.0 * row["inner_valid/accuracy"], seconds))
    return found


def upper_median(values: Sequence[float]) -> float | None:
    middle = sorted(values)[len(values) // 2]
    return middle if math.isfinite(middle) else None


class Study:
    """The records of one task by budget, cell LR, method and seed."""

    def __init__(self, records: Iterable[RunRecord], summary: Mapping[str, Any], chance_pct: float) -> None:
        self.summary, self.chance_pct = summary, chance_pct
        self.sampling = (summary["confidence"], summary["num_resamples"])
        self.runs: dict[tuple[int, float, str], dict[int, RunRecord]] = {}
        cell_lrs = sorted({cell["initial_lr"] for cell in summary["cells"]})
        for record in records:
            spec = record.spec
            for lr in self._places(spec.method, spec.train.lr, cell_lrs):
                self.runs.setdefault((spec.train.epochs, lr, spec.method), {})[spec.seed] = record
        self.runs = {place: dict(sorted(runs.items())) for place, runs in self.runs.items()}

    def _places(self, method: str, lr: float, cell_lrs: Sequence[float]) -> Sequence[float]:
        peer = PEERS.get(method)
        if method == "find" or (peer and peer.lr_factor is None):
            return cell_lrs
        wanted = lr / (peer.lr_factor or 1.0) if peer else lr
        return [min(self.summary["tuning_grid_lr"], key=lambda known: abs(math.log(known / wanted)))]

    def accuracy(self, record: RunRecord, split: str = "test") -> float:
        return self.chance_pct if record.diverged else 100.0 * record.result["final"][f"{split}/accuracy"]

    def minus(self, ours: Runs, theirs: Runs) -> list[float]:
        return list(self.minus_by_seed(ours, theirs).values())

    def minus_by_seed(self, ours: Runs, theirs: Runs) -> dict[int, float]:
        shared = sorted(set(ours) & set(theirs))
        return {seed: self.accuracy(ours[seed]) - self.accuracy(theirs[seed]) for seed in shared}

    def tuned(self, budget: int, method: str) -> Runs:
        """The runs of the LR that the summary says was chosen."""
        (group,) = (g for g in self.summary["tuned"] if g["budget_epochs"] == budget)
        lr = group["methods"][method]["lr"]
        return next(
            runs
            for (epochs, _, name), runs in self.runs.items()
            if (epochs, name) == (budget, method) and next(iter(runs.values())).spec.train.lr == lr
        )

    def figures(self) -> Iterable[Figure]:
        for cell in self.summary["cells"]:
            yield from self._cell(cell)
        for group in self.summary["tuned"]:
            yield from self._group(group)
        tuned = [e["against_reference"] for g in self.summary["tuned"] for e in g["methods"].values()]
        families = {
            "cells": [entry for cell in self.summary["cells"] for entry in cell["paired"].values()],
            "overall": list(self.summary["overall_paired"].values()),
            "tuned": [entry for entry in tuned if entry],
        }
        for family, entries in families.items():
            tested = [entry for entry in entries if entry["p"] is not None]
            for index, value in enumerate(holm([entry["p"] for entry in tested])):
                yield f"families/{family}/{index}/p_holm", tested[index]["p_holm"], value
        for method, entry in self.summary["overall"].items():
            yield from self._overall(method, entry)
        for pair, entry in self.summary["overall_paired"].items():
            one, other = pair.split(" vs ")
            tables = [
                self.minus_by_seed(self.runs[place, lr, one], self.runs[place, lr, other])
                for place, lr in self._places_of(one)
                if (place, lr, other) in self.runs
            ]
            yield from self._pair(f"overall/{pair}", entry, self.by_seed(tables))

    def _estimate(self, name: str, entry: Mapping[str, Any], values: Sequence[float]) -> Iterable[Figure]:
        """The mean and both ends of its interval."""
        yield name, entry["mean"], mean(values)
        yield from self._interval(name, entry["ci95"], bca_interval(values, *self.sampling))

    def _interval(self, name: str, theirs: Any, ours: Any) -> Iterable[Figure]:
        for end, (one, other) in enumerate(zip(theirs or (None, None), ours or (None, None), strict=True)):
            yield f"{name}/{('low', 'high')[end]}", one, other

    def _pair(self, name: str, entry: Mapping[str, Any], values: Sequence[float]) -> Iterable[Figure]:
        yield from self._estimate(f"{name}/difference", entry["difference_pp"], values)
        if entry["p"] is not None and len(values) <= 13:
            yield f"{name}/p", entry["p"], sign_flip_p(values)

    def _best(self, budget: int, which: str = "best") -> Runs | None:
        best = next(g[which] for g in self.summary["tuned"] if g["budget_epochs"] == budget)
        return self.tuned(budget, best) if best else None

    def target(self, budget: int) -> float | None:
        best = self._best(budget)
        last = [readings(record)[-1][1] for record in (best or {}).values() if readings(record)]
        return mean(last)

    def hits(self, budget: int, runs: Runs) -> list[tuple[float, float] | None]:
        """Epochs and seconds to the target of each run, or None."""
        target, found = self.target(budget), []
        for record in runs.values():
            reached = [
                (epoch, seconds)
                for epoch, accuracy, seconds in readings(record)
                if target is not None and accuracy >= target and not record.diverged
            ]
            found.append(reached[0] if reached else None)
        return found

    def _cell(self, cell: Mapping[str, Any]) -> Iterable[Figure]:
        budget, lr = cell["budget_epochs"], cell["initial_lr"]
        yield f"{budget}/target", cell["target_inner_valid_accuracy_pct"], self.target(budget)
        for method, entry in cell["methods"].items():
            name, runs = f"{budget}/{lr:g}/{method}", self.runs[budget, lr, method]
            yield from self._outcomes(name, entry, runs)
            yield from self._movement(name, entry, runs, self.runs.get((budget, lr, "constant"), {}))
            for key, best in (
                ("regret", self._best(budget)),
                ("regret_to_best", self._best(budget, "best_of_all")),
            ):
                values = self.minus(best, runs) if best else []
                yield from self._estimate(f"{name}/{key}", entry[f"{key}_pp"], values)
            hits = self.hits(budget, runs)
            for position, unit in enumerate(("epochs", "seconds")):
                times = [hit[position] if hit else math.inf for hit in hits]
                yield f"{name}/{unit}_to_target", entry[f"{unit}_to_target"], upper_median(times)
            yield f"{name}/num_reached", entry["num_reached"], sum(hit is not None for hit in hits)
        for pair, entry in cell["paired"].items():
            one, other = (self.runs[budget, lr, name] for name in pair.split(" vs "))
            yield from self._pair(f"{budget}/{lr:g}/{pair}", entry, self.minus(one, other))

    def _outcomes(self, name: str, entry: Mapping[str, Any], runs: Runs) -> Iterable[Figure]:
        finished = [record for record in runs.values() if not record.diverged]
        losses = [record.result["final"].get("test/loss") for record in finished]
        accuracies = [*map(self.accuracy, runs.values())]
        yield from self._estimate(f"{name}/accuracy", entry["test_accuracy_pct"], accuracies)
        known = [loss for loss in losses if loss is not None]
        yield from self._estimate(f"{name}/loss", entry["test_loss"], known)
        yield f"{name}/diverged", entry["num_diverged"], len(runs) - len(finished)
        walls = [record.result["timing"]["wall_s"] for record in finished]
        yield f"{name}/wall_time", entry["wall_time_s"], mean(walls)

    def _movement(self, name: str, entry: Mapping[str, Any], runs: Runs, constant: Runs) -> Iterable[Figure]:
        finished = [record for record in runs.values() if not record.diverged]
        sd = mean([*map(log_sd, finished)])
        gain = mean(self.minus(runs, constant))
        moved = sd is not None and sd >= 1e-9
        efficiency = gain / sd if moved and gain is not None and sd else None
        yield f"{name}/efficiency", entry["schedule_efficiency"], efficiency
        yield f"{name}/log_sd", entry["log_lr_sd_decades"], sd
        yield f"{name}/lr_variance", entry["lr_variance"], mean([*map(lr_variance, finished)])
        yield f"{name}/path", entry["total_variation_log_lr"], mean([*map(path_length, finished)])

    def _group(self, group: Mapping[str, Any]) -> Iterable[Figure]:
        budget, best = group["budget_epochs"], self._best(group["budget_epochs"])
        valid = {}
        for method, entry in group["methods"].items():
            candidates = [
                r for (epochs, _, name), r in self.runs.items() if (epochs, name) == (budget, method)
            ]
            means = [
                mean([self.accuracy(r, "outer_valid") for r in runs.values()]) or 0.0 for runs in candidates
            ]
            valid[method], name = max(means), f"tuned/{budget}/{method}"
            yield f"{name}/outer_valid", entry["outer_valid_accuracy_pct"], max(means)
            runs = self.tuned(budget, method)
            accuracies = [*map(self.accuracy, runs.values())]
            yield from self._estimate(f"{name}/accuracy", entry["test_accuracy_pct"], accuracies)
            if best and entry["against_reference"]:
                yield from self._pair(name, entry["against_reference"], self.minus(runs, best))
        hand = [value for method, value in valid.items() if method not in NO_HAND_SCHEDULES]
        if group["best"]:
            yield f"tuned/{budget}/best", valid[group["best"]], max(hand)

    def _places_of(self, method: str) -> list[tuple[int, float]]:
        """Budget and initial LR of the cells in which the method stands."""
        cells = [cell for cell in self.summary["cells"] if method in cell["methods"]]
        return [(cell["budget_epochs"], cell["initial_lr"]) for cell in cells]

    def by_seed(self, tables: Sequence[Mapping[int, float]]) -> list[float]:
        """Means over the cells, of the seeds that all of them have."""
        shared = sorted(seed for seed in (tables[0] if tables else ()) if all(seed in t for t in tables))
        return [math.fsum(table[seed] for table in tables) / len(tables) for seed in shared]

    def _overall(self, method: str, entry: Mapping[str, Any]) -> Iterable[Figure]:
        places = self._places_of(method)
        runs = [self.runs[budget, lr, method] for budget, lr in places]
        columns = [[self.accuracy(record) for record in some.values()] for some in runs]
        yield from self._middle(f"overall/{method}/iqm", entry["iqm_test_accuracy_pct"], columns)
        against = [(self._best(budget), some) for (budget, _), some in zip(places, runs, strict=True)]
        regrets = [self.minus_by_seed(best, some) for best, some in against if best]
        columns = [list(table.values()) for table in regrets]
        yield from self._middle(f"overall/{method}/iqm_regret", entry["iqm_regret_pp"], columns)
        if self.by_seed(regrets):
            estimate = {"mean": entry["mean_regret_pp"], "ci95": entry["ci95"]}
            yield from self._estimate(f"overall/{method}/regret", estimate, self.by_seed(regrets))
        known = [value for column in columns if (value := mean(column)) is not None]
        yield f"overall/{method}/worst", entry["worst_cell_regret_pp"], max(known, default=None)
        yield f"overall/{method}/sensitivity", entry["sensitivity_pp"], self.sensitivity(method)
        yield f"overall/{method}/overhead", entry["overhead_pct"], self.overhead(runs)
        cells = [cell for cell in self.summary["cells"] if method in cell["methods"]]
        yield f"overall/{method}/rank", entry["mean_rank"], mean([self._rank(c, method) for c in cells])
        reached = [
            hit is not None
            for (budget, _), some in zip(places, runs, strict=True)
            for hit in self.hits(budget, some)
        ]
        yield f"overall/{method}/reached", entry["share_reached_target"], mean(reached)

    def _middle(
        self, name: str, entry: Mapping[str, Any], columns: Sequence[Sequence[float]]
    ) -> Iterable[Figure]:
        values = list(itertools.chain.from_iterable(columns))
        yield name, entry["mean"], interquartile_mean(values)
        ours = interquartile_interval(columns, *self.sampling) if values else None
        yield from self._interval(name, entry["ci95"], ours)

    def sensitivity(self, method: str) -> float | None:
        """Over initial LRs, in each budget; then the mean of those."""
        spreads = []
        for budget in sorted({budget for budget, _ in self._places_of(method)}):
            lrs = [lr for epochs, lr in self._places_of(method) if epochs == budget]
            runs = [self.runs[budget, lr, method] for lr in lrs]
            means = [mean([*map(self.accuracy, some.values())]) or 0.0 for some in runs]
            if len(means) > 1:
                spreads.append(math.sqrt(variance(means)))
        return mean(spreads)

    def overhead(self, runs: Sequence[Runs]) -> float | None:
        once = {record.run_id: record for some in runs for record in some.values() if not record.diverged}
        times = [record.result["timing"] for record in once.values()]
        wall_s = math.fsum(time["wall_s"] for time in times)
        return 100.0 * math.fsum(time["control_s"] for time in times) / wall_s if wall_s > 0.0 else None

    def _rank(self, cell: Mapping[str, Any], method: str) -> float:
        means = {name: value["test_accuracy_pct"]["mean"] for name, value in cell["methods"].items()}
        above = sum(value > means[method] for value in means.values())
        return above + (sum(value == means[method] for value in means.values()) + 1) / 2


def check_summary(
    summary: Mapping[str, Any], records: Iterable[RunRecord], chance_pct: float = 10.0
) -> dict[str, Any]:
    """How far `summary` (of one task) is from the same figures computed again from `records`."""
    compared = list(Study(records, summary, chance_pct).figures())
    differences = {
        name: [ours, theirs]
        for name, ours, theirs in compared
        if (ours is None) != (theirs is None) or abs((ours or 0.0) - (theirs or 0.0)) > TOLERANCE
    }
    known = [abs(ours - theirs) for _, ours, theirs in compared if ours is not None and theirs is not None]
    return {
        "num_compared": len(compared),
        "max_abs_difference": max(known, default=0.0),
        "tolerance": TOLERANCE,
        "differences": differences,
    }


def main(summary_path: Path, store: RunStore) -> int:
    manifest = json.loads(summary_path.with_name("manifest.json").read_text())
    records = [store.load(identity) for identity in manifest["run_ids"]]
    found = check_summary(json.loads(summary_path.read_text()), records)
    summary_path.with_name("reference_check.json").write_text(json.dumps(found, indent=2) + "\n")
    print(f"{found['num_compared']} figures compared, {len(found['differences'])} differ")
    return 1 if found["differences"] else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), RunStore(sys.argv[2])))
