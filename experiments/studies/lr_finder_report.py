"""The tables of the LR finder's study."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from metalr.provenance import git_commit, hardware
from metalr.training import package_versions

__all__ = ["report", "summary_of"]


def summary_of(settings: dict[str, Any], cases: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """All that was measured, with what each suggestion costs against the tuned LR; plain values."""
    facts = {"commit": git_commit(), "versions": package_versions(), "hardware": hardware("cpu")}
    judged = {name: values | _judged(values, values["grid"]) for name, values in cases.items()}
    overall = {
        group: _overall({name: values for name, values in judged.items() if values["met"] == met})
        for group, met in (("met", True), ("new", False))
    }
    return {**settings, "n": len(settings["seeds"]), **facts, "cases": judged, "overall": overall}


def _judged(values: dict[str, Any], grid: list[float]) -> dict[str, Any]:
    means = {lr: float(np.mean(values["outer_valid_accuracy"][str(lr)])) for lr in grid}
    best = max(means, key=means.__getitem__)
    costs = {
        method: [_cost(lr, means, best) for lr in suggestions]
        for method, suggestions in values["suggestions"].items()
    }
    equal = all(state["before"] == state["after"] for state in values["state"])
    return {"best_lr": best, "best_accuracy": means[best], "cost": costs, "state_restored": equal}


def _cost(lr: float | None, means: dict[float, float], best: float) -> dict[str, float] | None:
    """A suggestion's ratio to the tuned LR, and the accuracy lost at the LR of the grid nearest to it."""
    if lr is None:
        return None
    nearest = min(means, key=lambda other: abs(math.log(other / lr)))
    return {"ratio": lr / best, "nearest": nearest, "lost": means[best] - means[nearest]}


def _overall(cases: dict[str, dict[str, Any]]) -> dict[str, dict[str, float | int]]:
    methods = next(iter(cases.values()))["cost"]
    result: dict[str, dict[str, float | int]] = {}
    for method in methods:
        all_costs = [cost for values in cases.values() for cost in values["cost"][method]]
        costs = [cost for cost in all_costs if cost is not None]
        ratios = np.log([cost["ratio"] for cost in costs])
        result[method] = {
            "mean_lost": float(np.mean([cost["lost"] for cost in costs])),
            "worst_lost": max(cost["lost"] for cost in costs),
            "mean_ratio": float(np.exp(ratios.mean())),
            "mean_factor_off": float(np.exp(np.abs(ratios).mean())),
            "none": len(all_costs) - len(costs),
        }
    return result


def report(summary: dict[str, Any]) -> str:
    """The study as Markdown."""
    versions = ", ".join(f"{name} {version}" for name, version in summary["versions"].items())
    parts = [
        "# The LR finder against a tuned grid",
        _facts(summary, versions),
        "## Three networks on CIFAR-10",
        _overall_table(summary["overall"]["met"]),
        "## Three trainings that no constant of ours had met",
        _overall_table(summary["overall"]["new"]),
        *(_case(name, values, summary["finder_seeds"]) for name, values in summary["cases"].items()),
    ]
    return "\n\n".join(parts) + "\n"


def _facts(summary: dict[str, Any], versions: str) -> str:
    finder, probe = summary["finder"], summary["probe"]
    lines = [
        f"Data: {summary['data']}, and scikit-learn's digits where the name says so.",
        f"`find_lr`: {finder['num_steps']} steps from {finder['min_lr']} to {finder['max_lr']}, a fresh "
        f"batch each. `probe`: the controller's, {probe['num_steps']} steps from {probe['min_lr']} on one "
        "fixed batch. Others' rules are read off `find_lr`'s curve: the rules, not the programs or ramps.",
        f"n: {len(summary['finder_seeds'])} finder seeds a training ({_list(summary['finder_seeds'])}). The "
        "fraction in our valley rule was chosen on seeds 0 to 2 of the first three, which it so has met.",
        "Tuned: the best LR of a grid under cosine in 5 epochs, by mean accuracy on `outer_valid` over "
        f"{summary['n']} seeds ({_list(summary['seeds'])}). The accuracy lost is that at the grid's LR "
        "nearest to the suggestion.",
        f"Hardware: {summary['hardware']}, one thread; {summary['wall_time_s']:.0f} s in all.",
        f"Versions: {versions}. Commit: {summary['commit']}.",
    ]
    return "\n".join(f"* {line}" for line in lines)


def _list(values: list[Any]) -> str:
    return ", ".join(map(str, values))


def _table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _overall_table(overall: dict[str, dict[str, float | int]]) -> str:
    header = [
        "rule", "accuracy lost pp, mean", "worst", "LR / tuned, geometric mean", "off by a factor of, mean",
        "no suggestion",
    ]  # fmt: skip
    rows = [
        [
            method,
            f"{100 * values['mean_lost']:.1f}",
            f"{100 * values['worst_lost']:.1f}",
            f"{values['mean_ratio']:.2g}",
            f"{values['mean_factor_off']:.1f}",
            str(values["none"]),
        ]
        for method, values in overall.items()
    ]
    return _table(header, rows)


def _case(name: str, values: dict[str, Any], seeds: list[int]) -> str:
    rows = []
    for method, suggestions in values["suggestions"].items():
        costs = [cost for cost in values["cost"][method] if cost is not None]
        ratio = math.exp(float(np.mean(np.log([cost["ratio"] for cost in costs])))) if costs else None
        lost = 100 * float(np.mean([cost["lost"] for cost in costs])) if costs else None
        rows.append(
            [
                method,
                *("-" if lr is None else f"{lr:.3g}" for lr in suggestions),
                "-" if ratio is None else f"{ratio:.2g}",
                "-" if lost is None else f"{lost:.1f}",
            ]
        )
    header = ["rule", *(f"LR, seed {seed}" for seed in seeds), "LR / tuned", "accuracy lost pp"]
    grid = [
        [lr, f"{100 * np.mean(found):.1f}", f"{100 * np.std(found, ddof=1):.1f}"]
        for lr, found in values["outer_valid_accuracy"].items()
    ]
    equal = "equal" if values["state_restored"] else "NOT EQUAL"
    states = [
        [str(seed), state["before"][:16], state["after"][:16]]
        for seed, state in zip(seeds, values["state"], strict=True)
    ]
    return "\n\n".join(
        [
            f"## {name}: tuned LR {values['best_lr']}",
            _describe(values["task"], values["train"]),
            f"![The finder's curve on {name}, seed {seeds[0]}]({name}.svg)",
            _table(header, rows),
            _table(["LR", "accuracy % on outer_valid", "sd"], grid),
            f"SHA-256 of weights, buffers, gradients, optimizer and random state, before and after: {equal}.",
            _table(["seed", "before", "after"], states),
        ]
    )


def _describe(task: dict[str, Any], train: dict[str, Any]) -> str:
    images = f"{task['num_train']:,} images of {task['dataset']}" if task["num_train"] else task["dataset"]
    size = f" at {task['image_size']} px" if task["image_size"] else ""
    nesterov = ", Nesterov" if train["nesterov"] else ""
    return (
        f"{task['network']} of width {task['width']} on {images}{size}, augmentation "
        f"{task['augmentation']}; {train['optimizer']}{nesterov}, momentum {train['momentum']}, "
        f"weight decay {train['weight_decay']}, batch {train['batch_size']}."
    )
