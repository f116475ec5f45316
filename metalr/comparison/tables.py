"""The report's tables as rows of text, shared by its Markdown and its HTML."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from metalr.comparison.wording import DASH, interval_text, number, percent

__all__ = ["Table", "controller_cost_table", "main_table", "overall_table", "paired_table", "tuned_table"]

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
        "Cross-entropy",
        f"Regret pp [{percent(summary)}]",
        "Seeds (diverged)",
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
            number(entry["wall_time_s"]),
            " + ".join(number(entry[f"{part}_time_s"]) for part in ("train", "eval", "control")),
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


def overall_table(summary: Summary) -> Table:
    """Every method over all cells."""
    header = (
        "Method",
        "Mean test accuracy %",
        f"Mean regret pp [{percent(summary)}]",
        "Worst cell's regret pp",
        "Regret to the best of all pp",
        "Sensitivity to initial LR pp",
        "Mean rank",
        "Control, % of wall time",
        "Diverged",
        "Cells",
    )
    rows = [
        (
            method,
            number(entry["mean_test_accuracy_pct"]),
            _estimate({"mean": entry["mean_regret_pp"], "ci95": entry["ci95"]}),
            number(entry["worst_cell_regret_pp"]),
            number(entry["regret_to_best_pp"]["mean"]),
            number(entry["sensitivity_pp"]),
            number(entry["mean_rank"]),
            number(entry["overhead_pct"]),
            f"{entry['num_diverged']} of {entry['num_runs']}",
            str(entry["num_cells"]),
        )
        for method, entry in summary["overall"].items()
    ]
    return Table("Over all cells", header, rows, list(summary["overall"]))


def tuned_table(summary: Summary) -> Table:
    """Every hand schedule and peer at the LR outer_valid chose, per task and budget; one is the reference."""
    rows, methods = [], []
    for group in summary["tuned"]:
        for method, entry in group["methods"].items():
            methods.append(method)
            rows.append(
                (
                    method + (" (reference)" if method == group["best"] else ""),
                    group["task"],
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
    header = ("Method", "Task", "Epochs", "Tuned LR", "outer_valid accuracy %", accuracy, gain)
    return Table("Hand schedules and peers, tuned", header, rows, methods)


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


def controller_cost_table(summary: Summary) -> Table:
    """What it cost to make the controllers, as far as it is known."""
    harvest = summary["harvest"] or {}
    names = {
        "num_runs": "harvest runs",
        "num_forks": "forks",
        "num_epochs": "epochs trained",
        "wall_s": "wall s",
    }
    rows = [
        ("harvest", text, _plain_text(harvest[key]))
        for key, text in names.items()
        if harvest.get(key) is not None
    ]
    for name, entry in summary["meta_training"].items():
        facts = dict(entry or {})
        rows += [(f"meta-training {name}", f"held-out {key}", _plain_text(value))
                 for key, value in (facts.get("held_out") or {}).items()]  # fmt: skip
        rows.append((f"meta-training {name}", "wall s", _plain_text(facts.get("wall_s"))))
    return Table("What the controller cost to make", ("Stage", "Figure", "Value"), rows, [""] * len(rows))


def _plain_text(value: Any) -> str:
    if value is None:
        return DASH
    return f"{value:.4g}" if isinstance(value, float) else str(value)
