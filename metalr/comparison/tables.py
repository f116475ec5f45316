"""The report's tables as rows of text, shared by its Markdown and its HTML."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from metalr.comparison.definitions import LOSS_NAMES
from metalr.comparison.protocol import is_controlled
from metalr.comparison.wording import DASH, interval_text, number, percent, signed, tally

__all__ = [
    "Table",
    "main_table",
    "overall_table",
    "paired_table",
    "tuned_table",
    "wins_table",
]

Summary = Mapping[str, Any]


@dataclass(frozen=True)
class Table:
    """A titled grid of text; `methods` names the method of each row, where it has one."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    methods: Sequence[str]

    def as_markdown(self) -> str:
        """The table in GitHub's Markdown."""
        lines = [self.header, ["---"] * len(self.header), *self.rows]
        return "\n".join(
            "| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines
        )


def _estimate(entry: Mapping[str, Any], digits: int = 2) -> str:
    interval = f" [{interval_text(entry['ci95'], digits)}]" if entry["ci95"] else ""
    return number(entry["mean"], digits) + interval


def main_table(summary: Summary, cell: Mapping[str, Any]) -> Table:
    """One cell: every method's accuracy, loss, time, LR movement and regret."""
    header = (
        "Method",
        f"Test accuracy % [{percent(summary)}]",
        LOSS_NAMES[summary.get("objective", "classify")].capitalize(),
        f"Regret pp [{percent(summary)}]",
        "Seeds (diverged)",
        "Epochs to target (reached)",
        "Wall s",
        "Training + evaluation + control s",
        "Samples/s",
        "LR variance",
        "log LR sd (decades)",
        "log LR path (decades)",
        "Efficiency (pp per decade)",
    )
    rows = [
        (
            method,
            _estimate(entry["test_accuracy_pct"]),
            number(entry["test_loss"]["mean"], 3),
            _estimate(entry["regret_pp"]),
            f"{entry['test_accuracy_pct']['n']} ({entry['num_diverged']})",
            f"{_epochs(entry['epochs_to_target'])} ({entry['num_reached']})",
            number(entry["wall_time_s"]),
            " + ".join(_seconds(entry[f"{part}_time_s"]) for part in ("train", "eval", "control")),
            number(entry["samples_per_s"], 0),
            DASH if entry["lr_variance"] is None else f"{entry['lr_variance']:.2g}",
            number(entry["log_lr_sd_decades"]),
            number(entry["total_variation_log_lr"]),
            number(entry["schedule_efficiency"]),
        )
        for method, entry in cell["methods"].items()
    ]
    title = f"{cell['task']}, {cell['budget_epochs']} epochs, initial LR {cell['initial_lr']:g}"
    return Table(title, header, rows, list(cell["methods"]))


def _epochs(value: float | None) -> str:
    return "never" if value is None else f"{value:g}"


def _seconds(value: float | None) -> str:
    return DASH if value is None else f"{value:.2f}"


def overall_table(summary: Summary) -> Table:
    """Every method over all cells, that of the least regret first."""
    header = (
        "Method",
        "Mean test accuracy %",
        f"Interquartile mean of accuracy % [{percent(summary)}]",
        f"Mean regret pp [{percent(summary)}]",
        "Worst cell's regret pp",
        "Regret to the best of all pp",
        "Sensitivity to initial LR pp",
        "Mean rank",
        "Reached the target, % of runs",
        "Control, % of wall time",
        "Diverged",
        "Cells",
    )
    ordered = sorted(summary["overall"].items(), key=lambda item: _or_last(item[1]["mean_regret_pp"]))
    rows = [
        (
            method,
            number(entry["mean_test_accuracy_pct"]),
            _estimate(entry["iqm_test_accuracy_pct"]),
            _estimate({"mean": entry["mean_regret_pp"], "ci95": entry["ci95"]}),
            number(entry["worst_cell_regret_pp"]),
            number(entry["regret_to_best_pp"]["mean"]),
            number(entry["sensitivity_pp"]),
            number(entry["mean_rank"]),
            number(_percentage(entry["share_reached_target"]), 0),
            number(entry["overhead_pct"]),
            f"{entry['num_diverged']} of {entry['num_runs']}",
            str(entry["num_cells"]),
        )
        for method, entry in ordered
    ]
    return Table("Over all cells", header, rows, [method for method, _ in ordered])


def _percentage(share: float | None) -> float | None:
    return None if share is None else 100.0 * share


def _or_last(value: float | None) -> float:
    return float("inf") if value is None else value


def tuned_table(summary: Summary) -> Table:
    """Every hand schedule and peer at the LR outer_valid chose, per task and budget; one is the reference."""
    rows, methods = [], []
    several = len({group["task"] for group in summary["tuned"]}) > 1
    for group in summary["tuned"]:
        for method, entry in group["methods"].items():
            methods.append(method)
            rows.append(
                (
                    method + (" (reference)" if method == group["best"] else ""),
                    *([group["task"]] if several else []),
                    str(group["budget_epochs"]),
                    f"{entry['lr']:g}" + (" (edge of the grid)" if entry["at_grid_edge"] else ""),
                    number(entry["outer_valid_accuracy_pct"]),
                    _estimate(entry["test_accuracy_pct"]),
                    DASH
                    if entry["against_reference"] is None
                    else _estimate(entry["against_reference"]["difference_pp"]),
                )
            )
    accuracy = f"Test accuracy % [{percent(summary)}]"
    gain = f"Against the reference pp [{percent(summary)}]"
    place = ("Task", "Epochs") if several else ("Epochs",)
    header = ("Method", *place, "Tuned LR", "outer_valid accuracy %", accuracy, gain)
    return Table("Hand schedules and peers, tuned", header, rows, methods)


def wins_table(summary: Summary) -> Table:
    """Every method against each controller at the same initial LR, counted over the cells."""
    controllers = [method for method in summary["overall"] if is_controlled(method)]
    methods = [method for method in summary["overall"] if not is_controlled(method)]
    rows = [(method, *(_wins(summary, one, method) for one in controllers)) for method in methods]
    shown = [(m, row) for m, row in zip(methods, rows, strict=True) if any(cell != DASH for cell in row[1:])]
    title = "Cells in which the controller is better or worse, and by how much (pp)"
    return Table(title, ("Against", *controllers), [row for _, row in shown], [method for method, _ in shown])


def _wins(summary: Summary, controller: str, method: str) -> str:
    """Counts, and the range of the differences; significant ones too."""
    found = [cell["paired"].get(f"{controller} vs {method}") for cell in summary["cells"]]
    entries = [entry for entry in found if entry and entry["difference_pp"]["mean"] is not None]
    if not entries:
        return DASH
    means = [entry["difference_pp"]["mean"] for entry in entries]
    counts = tally([entry["judgement"] for entry in entries], better="above").replace(" in ", " ")
    significant = sum(entry["significant"] for entry in entries)
    holm = f"; {significant} significant after Holm" if significant else ""
    return f"{counts} ({signed(min(means))} to {signed(max(means))}){holm}"


def paired_table(summary: Summary) -> Table:
    """Every controller against every baseline: overall, then at the same initial LR in each cell."""
    places: list[tuple[str, Mapping[str, Any]]] = [("all cells", summary["overall_paired"])]
    for cell in summary["cells"]:
        places.append((f"{cell['budget_epochs']} epochs, LR {cell['initial_lr']:g}", cell["paired"]))
    rows, methods = [], []
    for place, entries in places:
        for name, entry in entries.items():
            methods.append(name.split(" vs ")[0])
            rows.append(
                (
                    name + (" (best here)" if entry.get("best_at_this_lr") else ""),
                    place,
                    _estimate(entry["difference_pp"]),
                    f"[{interval_text(entry['difference_pp']['t_ci95'])}]",
                    str(entry["num_pairs"]),
                    number(entry["p"], 3),
                    number(entry["p_holm"], 3),
                    entry["judgement"] if entry["note"] is None else "not judged (too few pairs)",
                )
            )
    header = (
        "Comparison",
        "Where",
        f"Difference pp [{percent(summary)}]",
        "Student's interval",
        "Pairs",
        "p",
        "p (Holm)",
        "Judgement",
    )
    return Table("Controllers against baselines, paired by seed", header, rows, methods)
