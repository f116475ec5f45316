"""The comparison's arithmetic again: slow, plain loops, no NumPy, no SciPy, nothing of `metalr.comparison`.

    python tests/reference.py SUMMARY.json STORE

recomputes what a summary.json says from the run records its manifest names, and writes
reference_check.json beside it. Bootstrap intervals depend on random resamples and are not checked.
"""

from __future__ import annotations

import itertools
import json
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from metalr.config.peers import PEERS
from metalr.training.records import RunRecord, RunStore

__all__ = ["check_summary"]

TOLERANCE = 1e-9
Runs = Mapping[int, RunRecord]
Figure = tuple[str, float | None, float | None]


def mean(values: Sequence[float]) -> float | None:
    return math.fsum(values) / len(values) if values else None


def sign_flip_p(values: Sequence[float]) -> float:
    """Two-sided: the share of all sign patterns whose mean is at least as far from zero."""
    observed = abs(math.fsum(values))
    patterns = list(itertools.product((1, -1), repeat=len(values)))
    sums = [abs(math.fsum(s * v for s, v in zip(p, values, strict=True))) for p in patterns]
    return sum(s >= observed * (1 - 1e-12) - 1e-12 for s in sums) / len(sums)


def holm(values: Sequence[float]) -> list[float]:
    """Of each p: the largest of (number of p not below) x p over all p not above it."""
    order = sorted(range(len(values)), key=lambda index: values[index])
    steps = [min(1.0, (len(values) - place) * values[index]) for place, index in enumerate(order)]
    return [max(steps[: order.index(index) + 1]) for index in range(len(values))]


def interquartile_mean(values: Sequence[float]) -> float | None:
    cut = int(0.25 * len(values))
    return mean(sorted(values)[cut : len(values) - cut])


def log_sd(record: RunRecord) -> float:
    lrs = [row["lr"] for row in record.epochs if row.get("lr") is not None]
    logs = [math.log10(max(lr, 1e-6 * max(lrs))) for lr in lrs]
    center = math.fsum(logs) / len(logs)
    return math.sqrt(math.fsum((log - center) ** 2 for log in logs) / len(logs))


def path_length(record: RunRecord) -> float:
    lrs = [row["lr"] for row in record.epochs if row.get("lr") is not None]
    logs = [math.log10(max(lr, 1e-6 * max(lrs))) for lr in lrs]
    return math.fsum(abs(b - a) for a, b in itertools.pairwise(logs))


class Study:
    """The records of one task by budget, cell LR, method and seed."""

    def __init__(self, records: Iterable[RunRecord], summary: Mapping[str, Any], chance_pct: float) -> None:
        self.summary, self.chance_pct = summary, chance_pct
        self.runs: dict[tuple[int, float, str], dict[int, RunRecord]] = {}
        cell_lrs = sorted({cell["initial_lr"] for cell in summary["cells"]})
        for record in records:
            spec = record.spec
            for lr in self._places(spec.method, spec.train.lr, cell_lrs):
                self.runs.setdefault((spec.train.epochs, lr, spec.method), {})[spec.seed] = record

    def _places(self, method: str, lr: float, cell_lrs: Sequence[float]) -> Sequence[float]:
        peer = PEERS.get(method)
        if method == "find" or (peer and peer.lr_factor is None):
            return cell_lrs
        wanted = lr / (peer.lr_factor or 1.0) if peer else lr
        return [min(self.summary["tuning_grid_lr"], key=lambda known: abs(math.log(known / wanted)))]

    def accuracy(self, record: RunRecord, split: str = "test") -> float:
        return self.chance_pct if record.diverged else 100.0 * record.result["final"][f"{split}/accuracy"]

    def minus(self, ours: Runs, theirs: Runs) -> list[float]:
        return [self.accuracy(ours[s]) - self.accuracy(theirs[s]) for s in sorted(set(ours) & set(theirs))]

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
        pairs = [e for cell in self.summary["cells"] for e in cell["paired"].values() if e["p"] is not None]
        for index, value in enumerate(holm([entry["p"] for entry in pairs])):
            yield f"families/cells/{index}/p_holm", pairs[index]["p_holm"], value
        for method, entry in self.summary["overall"].items():
            yield from self._overall(method, entry)

    def _cell(self, cell: Mapping[str, Any]) -> Iterable[Figure]:
        budget, lr = cell["budget_epochs"], cell["initial_lr"]
        best = next(g["best"] for g in self.summary["tuned"] if g["budget_epochs"] == budget)
        for method, entry in cell["methods"].items():
            name, runs = f"{budget}/{lr:g}/{method}", self.runs[budget, lr, method]
            finished = [record for record in runs.values() if not record.diverged]
            yield (
                f"{name}/accuracy",
                entry["test_accuracy_pct"]["mean"],
                mean([*map(self.accuracy, runs.values())]),
            )
            yield f"{name}/diverged", entry["num_diverged"], len(runs) - len(finished)
            yield f"{name}/log_sd", entry["log_lr_sd_decades"], mean([*map(log_sd, finished)])
            yield f"{name}/path", entry["total_variation_log_lr"], mean([*map(path_length, finished)])
            if best:
                regret = mean(self.minus(self.tuned(budget, best), runs))
                yield f"{name}/regret", entry["regret_pp"]["mean"], regret
        for pair, entry in cell["paired"].items():
            one, other = (self.runs[budget, lr, name] for name in pair.split(" vs "))
            values = self.minus(one, other)
            yield f"{budget}/{lr:g}/{pair}/difference", entry["difference_pp"]["mean"], mean(values)
            if entry["p"] is not None and len(values) <= 13:
                yield f"{budget}/{lr:g}/{pair}/p", entry["p"], sign_flip_p(values)

    def _group(self, group: Mapping[str, Any]) -> Iterable[Figure]:
        budget = group["budget_epochs"]
        for method, entry in group["methods"].items():
            candidates = [
                r for (epochs, _, name), r in self.runs.items() if (epochs, name) == (budget, method)
            ]
            valid = [
                mean([self.accuracy(r, "outer_valid") for r in runs.values()]) or 0.0 for runs in candidates
            ]
            yield f"tuned/{budget}/{method}/outer_valid", entry["outer_valid_accuracy_pct"], max(valid)

    def _overall(self, method: str, entry: Mapping[str, Any]) -> Iterable[Figure]:
        cells = [cell for cell in self.summary["cells"] if method in cell["methods"]]
        runs = [self.runs[c["budget_epochs"], c["initial_lr"], method] for c in cells]
        values = [self.accuracy(record) for some in runs for record in some.values()]
        yield f"overall/{method}/iqm", entry["iqm_test_accuracy_pct"]["mean"], interquartile_mean(values)
        ranks = [self._rank(cell, method) for cell in cells]
        yield f"overall/{method}/rank", entry["mean_rank"], mean(ranks)

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
