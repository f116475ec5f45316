"""The comparison in words, made from summary.json and from nothing else: verdict, wins, losses, caveats."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from metalr.comparison.protocol import is_controlled, is_hand_schedule

__all__ = [
    "DASH",
    "caveats",
    "interval_text",
    "lead_controller",
    "number",
    "percent",
    "plural",
    "signed",
    "strengths_and_weaknesses",
    "tally",
    "verdict",
]

DASH = "–"  # noqa: RUF001 - an en dash stands for "not defined" in every table
Summary = Mapping[str, Any]

_VERDICTS = {
    "below": "ends above",
    "above": "ends below",
    "not told apart": "cannot be told apart from",
    "not judged": "is not judged against",
}
"""Judgement of the regret -> the words of the verdict."""


def number(value: float | None, digits: int = 2) -> str:
    """`value` with `digits` decimals, scientific where those would all be zero; a dash for none."""
    if value is None or not math.isfinite(value):
        return DASH
    if value != 0.0 and abs(value) < 0.5 * 10**-digits:
        return f"{value:.1e}"
    return f"{value + 0.0:.{digits}f}"  # no minus before a zero


def signed(value: float) -> str:
    """`value` with its sign and two decimals; no minus before a zero."""
    return f"{round(value, 2) + 0.0:+.2f}"


def percent(summary: Summary) -> str:
    """The intervals' coverage as text, such as `95 %`, with a space that does not break."""
    return f"{100.0 * summary['confidence']:g}\N{NO-BREAK SPACE}%"


def interval_text(interval: Sequence[float] | None, digits: int = 2) -> str:
    """`low to high`, or a dash."""
    return f"{interval[0]:.{digits}f} to {interval[1]:.{digits}f}" if interval else DASH


def plural(count: int, noun: str) -> str:
    """`1 seed`, `2 seeds`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def lead_controller(summary: Summary) -> str | None:
    """The controller of the verdict: the best by outer_valid accuracy, so that test does not choose it."""
    controllers = [method for method in summary["overall"] if is_controlled(method)]
    return max(
        controllers,
        key=lambda method: summary["overall"][method]["mean_outer_valid_accuracy_pct"] or 0.0,
        default=None,
    )


def verdict(summary: Summary) -> str:
    """One sentence: the controller's mean regret against the best tuned baseline, with interval and n."""
    method = lead_controller(summary)
    reference = _reference_text(summary)
    if method is None and reference is None:
        return "Neither a learned controller nor a hand schedule took part, so nothing can be compared."
    if method is None:
        return f"No learned controller took part; the best tuned baseline is {reference}."
    if reference is None:
        accuracy = number(summary["overall"][method]["mean_test_accuracy_pct"])
        return f"No baseline took part, so nothing can be compared; {method} reaches {accuracy} % on average."
    overall = summary["overall"][method]
    if overall["mean_regret_pp"] is None:
        return (
            f"{method} shares no seed with the best tuned baseline ({reference}), so nothing can be compared."
        )
    where = f"Averaged over {_grid_text(summary)}, {method} without tuning"
    words = f"{where} {_VERDICTS[overall['judgement']]} the best tuned baseline ({reference})"
    return f"{words}: {_evidence(summary, overall)}."


def _evidence(summary: Summary, overall: Mapping[str, Any]) -> str:
    gain = -overall["mean_regret_pp"]
    text = f"{gain:+.2f} pp of final test accuracy"
    seeds = plural(overall["num_seeds"], "seed")
    if overall["ci95"] is None:
        return f"{text} ({overall['note'] or 'no interval'}; {seeds})"
    low, high = (-limit for limit in reversed(overall["ci95"]))
    few = "; too few to claim anything" if overall["judgement"] == "not judged" else ""
    return f"{text} ({percent(summary)} interval {low:+.2f} to {high:+.2f}; {seeds}{few})"


def _grid_text(summary: Summary) -> str:
    lrs = plural(len({cell["initial_lr"] for cell in summary["cells"]}), "initial LR")
    budgets = plural(len({cell["budget_epochs"] for cell in summary["cells"]}), "budget")
    return f"{lrs} and {budgets}"


def _reference_text(summary: Summary) -> str | None:
    """Which baseline is the reference, per budget where there are several."""
    parts = []
    for group in summary["tuned"]:
        if group["best"] is None:
            continue
        lr = group["methods"][group["best"]]["lr"]
        where = f" for {group['budget_epochs']} epochs" if len(summary["tuned"]) > 1 else ""
        parts.append(f"{group['best']} at {lr:g}{where}")
    return ", ".join(parts) if parts else None


def strengths_and_weaknesses(summary: Summary) -> list[str]:
    """Sentences on where each controller wins, loses, and what it costs to run."""
    sentences = []
    for method in (name for name in summary["overall"] if is_controlled(name)):
        sentences.append(_untuned(summary, method))
        sentences.append(_against_tuned(summary, method))
        sentences.append(_against_each(summary, method))
        sentences.append(_robustness(summary, method))
    return [sentence for sentence in sentences if sentence]


def _against_tuned(summary: Summary, method: str) -> str:
    entries = [(cell, cell["methods"][method]["regret_pp"]) for cell in _cells_with(summary, method)]
    entries = [(cell, regret) for cell, regret in entries if regret["mean"] is not None]
    if not entries:
        return ""
    counts = tally([regret["judgement"] for _, regret in entries], better="below")
    cell, worst = max(entries, key=lambda entry: entry[1]["mean"])
    kind = "largest loss" if worst["mean"] > 0.0 else "smallest gain"
    return (
        f"{method} against the best tuned baseline: {counts} of {plural(len(entries), 'cell')}; {kind} "
        f"{abs(worst['mean']):.2f} pp, at initial LR {cell['initial_lr']:g} and "
        f"{plural(cell['budget_epochs'], 'epoch')}."
    )


def _against_each(summary: Summary, method: str) -> str:
    """Over all cells and baselines; `tables.wins_table` has them one by one."""
    pairs = [
        (name.split(" vs ")[1], cell["paired"][name])
        for cell in summary["cells"]
        for name in cell["paired"]
        if name.split(" vs ")[0] == method
    ]
    pairs = [(baseline, entry) for baseline, entry in pairs if entry["difference_pp"]["mean"] is not None]
    if not pairs:
        return ""
    counts = tally([entry["judgement"] for _, entry in pairs], better="above")
    baseline, worst = min(pairs, key=lambda pair: pair[1]["difference_pp"]["mean"])
    others = plural(len({name for name, _ in pairs}), "other")
    return (
        f"{method} at the same initial LR, untuned, against {others}: "
        f"{counts} of {plural(len(pairs), 'comparison')}; least {signed(worst['difference_pp']['mean'])} pp, "
        f"against {baseline}."
    )


def _untuned(summary: Summary, method: str) -> str:
    """What it is worth not to tune, and what a tuned hand schedule is still ahead by."""
    hand = {
        name: entry["mean_regret_pp"]
        for name, entry in summary["overall"].items()
        if is_hand_schedule(name) and entry["mean_regret_pp"] is not None
    }
    mine = summary["overall"][method]["mean_regret_pp"]
    if mine is None or not hand:
        return ""
    least, most = min(hand, key=lambda name: hand[name]), max(hand, key=lambda name: hand[name])
    return (
        f"From an initial LR that nobody tuned, {method} ends {signed(-mine)} pp from the best tuned hand "
        f"schedule on average; the hand schedules themselves, untuned, {signed(-hand[least])} ({least}) to "
        f"{signed(-hand[most])} ({most}) pp."
    )


def tally(judgements: Sequence[str], better: str) -> str:
    """How many were better, worse, and neither; `better` is the judgement that is."""
    worse = "below" if better == "above" else "above"
    names = {"better in": better, "worse in": worse}
    names |= {f"{neither} in": neither for neither in ("not told apart", "not judged")}
    counts = {name: judgements.count(judgement) for name, judgement in names.items()}
    return ", ".join(
        f"{name} {count}" for name, count in counts.items() if count or name in ("better in", "worse in")
    )


def _robustness(summary: Summary, method: str) -> str:
    mine = summary["overall"][method]
    others = {
        name: entry["sensitivity_pp"]
        for name, entry in summary["overall"].items()
        if is_hand_schedule(name) and entry["sensitivity_pp"] is not None
    }
    parts = [f"{method} spends {number(mine['overhead_pct'])} % of its wall time on control"]
    parts.append(f"{mine['num_diverged']} of its {plural(mine['num_runs'], 'run')} diverged")
    if mine["sensitivity_pp"] is not None and others:
        steadiest = min(others, key=lambda name: others[name])
        parts.append(
            f"its accuracy varies by {mine['sensitivity_pp']:.2f} pp (sd) over initial LRs, that of the "
            f"steadiest hand schedule ({steadiest}) by {others[steadiest]:.2f} pp"
        )
    return "; ".join(parts) + "."


def _cells_with(summary: Summary, method: str) -> list[Mapping[str, Any]]:
    return [cell for cell in summary["cells"] if method in cell["methods"]]


def caveats(summary: Summary) -> list[str]:
    """Sentences on what the numbers cannot carry."""
    sentences = []
    if summary["dataset"] in ("digits", "synthetic"):
        sentences.append(
            f"{summary['dataset']} is a smoke data set: it shows that the pipeline works, "
            "not which method is better."
        )
    sentences += [f"{name} is left out: {reason}." for name, reason in summary["skipped"].items()]
    sentences += [_edge(group) for group in summary["tuned"] if _edge(group)]
    if summary["num_diverged"]:
        sentences.append(
            f"{plural(summary['num_diverged'], 'run')} of {summary['num_runs']} diverged: counted as chance "
            "accuracy, left out of losses, times and LR figures."
        )
    family = summary["families"]["cells"]
    if family["num_tests"] and not family["can_reach_significance"]:
        sentences.append(
            f"With these seeds the {family['num_tests']} paired tests of the cells cannot reach "
            f"p < {family['alpha']:g} after Holm (least possible {family['smallest_reachable_p_holm']:.2g}): "
            "read the intervals, and run more seeds."
        )
    if any(is_controlled(m) for m in summary["overall"]) and summary["tuned"] and not family["num_tests"]:
        sentences.append("Fewer than 6 paired seeds: no significance is claimed.")
    return sentences


def _edge(group: Mapping[str, Any]) -> str:
    best = group["methods"].get(group["best"])
    if best is None or not best["at_grid_edge"]:
        return ""
    where = f"{group['best']} at {best['lr']:g}, {plural(group['budget_epochs'], 'epoch')}"
    return f"The reference ({where}) lies at the edge of the tuning grid: a wider grid might raise it."
