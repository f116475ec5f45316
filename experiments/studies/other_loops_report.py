"""What the study of other loops found, as plain values and as Markdown."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from statistics import fmean, median
from typing import Any

from other_loops_methods import METALR_METHODS, METHODS

from metalr.comparison.statistics import estimate_mean, judge

__all__ = ["report", "summary_of"]

Row = dict[str, Any]
VERDICTS = {
    "below": "better",
    "above": "worse",
    "not told apart": "not told apart",
    "not judged": "not judged",
}
"""A lower loss is better."""
START_NAMES = ("low", "usual", "high")


def has_failed(row: Row) -> bool:
    """Whether a training diverged, or ended no better on `test` than the untrained network."""
    loss = row["after"]["test"]["loss"]
    return not math.isfinite(loss) or loss >= row["before"]["test"]["loss"]


def outcome(row: Row, split: str, measure: str) -> Any:
    """Final loss or accuracy; a training that failed there counts as the untrained network."""
    before, after = row["before"][split], row["after"][split]
    failed = not math.isfinite(after["loss"]) or after["loss"] >= before["loss"]
    return (before if failed else after)[measure]


def summary_of(settings: dict[str, Any], rows: list[Row]) -> dict[str, Any]:
    """All that was measured, and every method against the tuned cosine."""
    results = {
        loop: {
            optimizer: _judged([row for row in rows if (row["loop"], row["optimizer"]) == (loop, optimizer)])
            for optimizer in settings["grids"]
        }
        for loop in settings["loops"]
    }
    return {
        **settings,
        "n": len(settings["seeds"]),
        "wall_time_s": round(sum(row["wall_time_s"] for row in rows), 1),
        "num_trainings": len(rows),
        "results": results,
        "overall": _overall(results),
        "warnings": dict(
            Counter(f"{row['method']}: {text}" for row in rows for text in row["warnings"]).most_common()
        ),
    }


def _of(rows: list[Row], method: str, lr: float) -> list[Row]:
    """The rows of one method at one LR, by seed."""
    found = [row for row in rows if (row["method"], row["lr"]) == (method, lr)]
    return sorted(found, key=lambda row: row["seed"])


def _judged(rows: list[Row]) -> dict[str, Any]:
    """One loop under one optimizer."""
    grid = sorted({row["lr"] for row in rows if row["method"] == "cosine"})
    starts = sorted({row["lr"] for row in rows if row["method"] == "constant"})
    valid = {lr: fmean(outcome(row, "outer_valid", "loss") for row in _of(rows, "cosine", lr)) for lr in grid}
    best = min(grid, key=valid.__getitem__)
    tuned = _of(rows, "cosine", best)
    return {
        "starts": starts,
        "tuned": {
            "lr": best,
            "at_grid_edge": len(grid) > 1 and best in (grid[0], grid[-1]),
            "outer_valid_loss": {str(lr): loss for lr, loss in valid.items()},
            **_measured(tuned),
        },
        "cells": [
            {"method": method, "start": start, **_measured(found), **_against(found, tuned)}
            for method in METHODS
            for start in starts
            if (found := _of(rows, method, start))
        ],
    }


def _measured(rows: list[Row]) -> dict[str, Any]:
    losses = [outcome(row, "test", "loss") for row in rows]
    accuracies = [outcome(row, "test", "accuracy") for row in rows]
    estimate = estimate_mean(losses)
    return {
        "test_loss": losses,
        "mean": estimate.mean,
        "sd": estimate.sd,
        "accuracy_pct": None if None in accuracies else 100.0 * fmean(accuracies),
        "num_failed": sum(map(has_failed, rows)),
        "num_not_finite": sum(not math.isfinite(row["after"]["test"]["loss"]) for row in rows),
        "num_rollbacks": sum(row["num_rollbacks"] for row in rows),
    }


def _against(rows: list[Row], tuned: list[Row]) -> dict[str, Any]:
    """Paired by seed: loss minus the tuned cosine's."""
    assert [row["seed"] for row in rows] == [row["seed"] for row in tuned]
    losses, others = ([outcome(row, "test", "loss") for row in group] for group in (rows, tuned))
    estimate = estimate_mean([loss - other for loss, other in zip(losses, others, strict=True)])
    assert estimate.mean is not None
    return {
        "difference": estimate.as_json(),
        "difference_pct": 100.0 * estimate.mean / fmean(others),
        "verdict": VERDICTS[judge(estimate)],
    }


def _overall(results: dict[str, Any]) -> list[dict[str, Any]]:
    """A row for every method and initial LR: how it did over loops and optimizers."""
    found = []
    judged = [values for optimizers in results.values() for values in optimizers.values()]
    for method in METHODS:
        for index, name in _starts(results):
            cells = [
                cell
                for values in judged
                for cell in values["cells"]
                if cell["method"] == method and cell["start"] == values["starts"][index]
            ]
            losses = [cell["difference_pct"] for cell in cells]
            found.append(
                {
                    "method": method,
                    "start": name,
                    "verdicts": {
                        word: sum(c["verdict"] == word for c in cells) for word in VERDICTS.values()
                    },
                    "median_difference_pct": median(losses),
                    "worst_difference_pct": max(losses),
                    "num_failed": sum(cell["num_failed"] for cell in cells),
                    "num_trainings": sum(len(cell["test_loss"]) for cell in cells),
                }
            )
    return found


def _starts(results: dict[str, Any]) -> list[tuple[int, str]]:
    num = len(next(iter(next(iter(results.values())).values()))["starts"])
    return list(enumerate(START_NAMES if num == len(START_NAMES) else ("usual",)))


def report(summary: dict[str, Any]) -> str:
    """The study as Markdown."""
    parts = [
        "# Loops no one tuned for",
        _facts(summary),
        "## All loops",
        "Over loops and optimizers: the final test loss against that of the tuned cosine. Better or worse: "
        "both 95 % intervals of the paired difference (bootstrap and Student's) leave out zero; each on its "
        "own, uncorrected for their number.",
        _overall_table(summary),
        *(_loop(name, summary) for name in summary["loops"]),
        "## Warnings",
        _warnings(summary["warnings"]),
    ]
    return "\n\n".join(parts) + "\n"


def _facts(summary: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in summary["versions"].items())
    starts = "; ".join(f"{name} {_list(lrs)}" for name, lrs in summary["starts"].items())
    grids = "; ".join(f"{name} {_list(lrs)}" for name, lrs in summary["grids"].items())
    longer = "; ".join(f"{name} {_list(lrs)}" for name, lrs in summary["longer_grids"].items())
    lines = [
        "Loops: a plain torch loop each, SGD of momentum 0.9 or AdamW, torch's defaults beside.",
        f"The user's LRs, from which every method starts: {starts}. The tuned cosine is the one of lowest "
        f"mean loss on `outer_valid` over the grid {grids}: seven trainings where every other method has "
        f"one, and more where the best of seven was the last ({longer}). It is stepped every optimizer step "
        "down to 0. Nothing was tuned on the results below; but that the probe takes fresh batches was "
        "chosen on loops like these (text, tables, an autoencoder), and what counts as an explosion or as a "
        "dead network was mended after a trial of them without the controller.",
        *(f"{method}: {words}." for method, words in METALR_METHODS.items()),
        "The probe's work (20 steps, and a forward pass after each, a third of a step) is taken out of the "
        "budget, rounded up to whole epochs: these trainings are shorter by that.",
        "`MetaLR` sees the training loss and that on `inner_valid`, no accuracy, and steps once an epoch. "
        "`test` is measured once, at the end; no best epoch is picked.",
        "A training that diverged, or ended no better on `test` than the untrained network, has failed and "
        "counts as the untrained network: no outcome is worse.",
        f"n: {summary['n']} paired seeds ({_list(summary['seeds'])}) of weights and order; the division of "
        "the data is the same for all, so intervals say nothing of other data.",
        f"Controller: {summary['controller']['name']}, sha256 {summary['controller']['sha256']}.",
        f"Hardware: {summary['hardware']}, one thread a training; {summary['num_trainings']:,} trainings, "
        f"{summary['wall_time_s'] / 60:.0f} minutes of them.",
        f"Versions: {versions}. Commit: {summary['commit']}.",
    ]
    return "\n".join(f"* {line}" for line in lines)


def _list(values: Sequence[Any]) -> str:
    return ", ".join(f"{value:g}" for value in values)


def _table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _overall_table(summary: dict[str, Any]) -> str:
    header = ["method", "user's LR", *VERDICTS.values(), "median", "worst", "failed trainings"]
    rows = [
        [
            entry["method"],
            entry["start"],
            *(str(number) for number in entry["verdicts"].values()),
            f"{entry['median_difference_pct']:+.1f} %",
            f"{entry['worst_difference_pct']:+.0f} %",
            f"{entry['num_failed']} of {entry['num_trainings']}",
        ]
        for entry in summary["overall"]
    ]
    return _table(header, rows)


def _loop(name: str, summary: dict[str, Any]) -> str:
    about = summary["loops"][name]
    sizes = ", ".join(f"{number} {split}" for split, number in about["examples"].items())
    first = (
        f"{about['description'][0].upper()}{about['description'][1:]}. {about['epochs']} epochs of "
        f"{about['steps_per_epoch']} steps, batch {about['batch_size']}; the probe costs "
        f"{about['probe_epochs']}. Examples: {sizes}; sha256 {about['data_sha256'][:16]}."
    )
    tables = [_optimizer_table(optimizer, values) for optimizer, values in summary["results"][name].items()]
    seed = summary["seeds"][0]
    return "\n\n".join([f"## {name}", first, f"![LR on {name}, seed {seed}]({name}.svg)", *tables])


def _optimizer_table(optimizer: str, values: dict[str, Any]) -> str:
    tuned = values["tuned"]
    edge = ", an edge of the grid" if tuned["at_grid_edge"] else ""
    first = ["tuned cosine", f"{tuned['lr']:g}{edge}", *_numbers(tuned), "-", "-", _failures(tuned)]
    rows = [
        [
            cell["method"],
            f"{cell['start']:g}",
            *_numbers(cell),
            _difference(cell),
            cell["verdict"],
            _failures(cell),
        ]
        for cell in values["cells"]
    ]
    header = [
        optimizer, "LR", "test loss, mean", "sd", "accuracy %", "minus tuned cosine [95 %]", "verdict",
        "failed",
    ]  # fmt: skip
    return _table(header, [first, *rows])


def _numbers(cell: dict[str, Any]) -> list[str]:
    accuracy, sd = cell["accuracy_pct"], cell["sd"]
    return [
        f"{cell['mean']:.4f}",
        "-" if sd is None else f"{sd:.4f}",
        "-" if accuracy is None else f"{accuracy:.1f}",
    ]


def _difference(cell: dict[str, Any]) -> str:
    found = cell["difference"]
    interval = "" if found["ci95"] is None else " [{:+.4f}, {:+.4f}]".format(*found["ci95"])
    return f"{found['mean']:+.4f}{interval}"


def _failures(cell: dict[str, Any]) -> str:
    undone = f", {cell['num_rollbacks']} backoffs" if cell["num_rollbacks"] else ""
    return f"{cell['num_failed']} of {len(cell['test_loss'])}{undone}"


def _warnings(counts: dict[str, int]) -> str:
    if not counts:
        return "None in any training."
    return "\n".join(f"* {number} trainings: {text}" for text, number in counts.items())
