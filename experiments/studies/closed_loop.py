"""What each part of the control law is worth in whole trainings: one part changed at a time, paired seeds.

    python experiments/studies/closed_loop.py --data DIR [--store runs] [--workers-share 0/2]

Four small tasks (CIFAR-10 and digits, with and without normalisation) at 8 epochs under SGD, the package's
MLP controller. DIR holds the images in the Hub's parquet layout. Finished runs are not repeated; a share,
such as 0/2, trains every second run and writes no report. Writes experiments/results/closed-loop/.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from metalr.comparison.statistics import estimate_mean
from metalr.config import ControlConfig, DataConfig, TaskConfig, TrainConfig
from metalr.control import Controller, Prediction
from metalr.learning.controller import PRETRAINED, LearnedController, load_controller
from metalr.provenance import git_commit, hardware
from metalr.tasks import make_task
from metalr.training import Job, RunRecord, RunSpec, RunStore, package_versions, train_run

FOLDER = Path(__file__).parents[1] / "results" / "closed-loop"
SEEDS = range(6)
EPOCHS = 8
NO_ENVELOPE = {"explode_factor": 1e9, "stall_factor": None, "max_rise": 1e9, "correction_bound": 1e3}
"""Bounds so wide that nothing meets them; only a loss that is no number is still noticed."""


class PriorAlone:
    """A controller that predicts the mean of all forks whatever it sees: probe and anchor alone."""

    def __init__(self, controller: LearnedController, prior: list[float]) -> None:
        self.sha256 = hashlib.sha256(f"prior of {controller.sha256}".encode()).hexdigest()
        self.log_offsets = controller.log_offsets
        self._prediction = Prediction(tuple(prior), 0.0)

    def initial_state(self) -> list[float]:
        """Nothing to remember."""
        return []

    def step(self, state: list[float], features_F: np.ndarray) -> tuple[list[float], Prediction]:
        """The same whatever is seen."""
        return state, self._prediction


@dataclass(frozen=True)
class Arm:
    """One change of the control law."""

    name: str
    control: dict[str, Any] = field(default_factory=dict)
    """Settings of `control` that differ."""
    lr: float = 0.1
    """The initial LR, which counts only without a probe."""
    is_learned: bool = True


ARMS = (
    Arm("full"),
    Arm("a warm-up of 5 % for every network", {"warmup_fraction": 0.05}),
    Arm("no warm-up for any network", {"warmup_fraction": 0.0}),
    Arm("an anchor that falls in a straight line", {"anchor": "linear"}),
    Arm("the first decision held", {"correction_bound": 1.0}),
    Arm("predictions not counted (probe and anchor alone)", is_learned=False),
    Arm("every prediction followed", {"least_gain": 0.0}),
    Arm("envelope off", NO_ENVELOPE),
    Arm("probe off, from LR 0.01", {"probe": None}, lr=0.01),
    Arm("probe off, from LR 0.1", {"probe": None}, lr=0.1),
    Arm("probe off, from LR 1", {"probe": None}, lr=1.0),
    Arm("probe and envelope off, from LR 1", {"probe": None, **NO_ENVELOPE}, lr=1.0),
)
CIFAR = {
    "dataset": "cifar10", "num_train": 4000, "num_inner_valid": 500, "num_outer_valid": 5000,
    "augmentation": "standard",
}  # fmt: skip
DIGITS = {
    "dataset": "digits", "num_inner_valid": 150, "num_outer_valid": 300, "augmentation": "standard",
}  # fmt: skip
TASKS: dict[str, tuple[dict[str, Any], int]] = {
    "CNN with batch norm, 16 px": (CIFAR | {"image_size": 16, "network": "cnn_bn", "width": 16}, 128),
    "CNN, 16 px": (CIFAR | {"image_size": 16, "network": "cnn", "width": 16}, 128),
    "MLP with layer norm, 8 px": (CIFAR | {"image_size": 8, "network": "mlp_ln", "width": 128}, 64),
    "CNN, digits": (DIGITS | {"network": "cnn", "width": 16}, 32),
}
"""Name -> task, batch size. They are read on `outer_valid`, 5,000 images on CIFAR-10, 300 on digits."""


def spec_of(arm: Arm, task_name: str, seed: int, sha256: str, data: DataConfig) -> RunSpec:
    """The run of one arm."""
    settings, batch_size = TASKS[task_name]
    config = TaskConfig(**settings)
    train = TrainConfig(epochs=EPOCHS, batch_size=batch_size, lr=arm.lr, device="cpu")
    return RunSpec(
        task=config,
        train=train,
        method="metalr-mlp",
        control=ControlConfig.model_validate(arm.control),
        controller_sha256=sha256,
        seed=seed,
        data_digest=make_task(config, data, torch.device("cpu")).digest,
    )


def accuracy_of(record: RunRecord) -> float:
    """Final accuracy on `outer_valid`, %; guessing where the run diverged."""
    accuracy = record.result["final"].get("outer_valid/accuracy")
    return 10.0 if accuracy is None else 100.0 * accuracy


def summary_of(found: dict[str, dict[str, list[RunRecord]]]) -> list[dict[str, Any]]:
    """A row per arm and task: accuracy, and the paired difference to the full law, points."""
    rows = []
    for task, arms in found.items():
        full = [accuracy_of(record) for record in arms["full"]]
        for arm, records in arms.items():
            values = [accuracy_of(record) for record in records]
            difference = estimate_mean([a - b for a, b in zip(values, full, strict=True)])
            rows.append(
                {
                    "task": task,
                    "arm": arm,
                    "accuracy_pct": estimate_mean(values).as_json(),
                    "difference_pp": difference.as_json(),
                    "num_rollbacks": sum(record.result["num_rollbacks"] for record in records),
                    "num_diverged": sum(record.diverged for record in records),
                }
            )
    return rows


def report_of(summary: dict[str, Any]) -> str:
    """The tables as a page."""
    lines = [
        "# What each part of the control law is worth",
        "",
        f"Final accuracy on `outer_valid`, %, mean ± standard deviation over n = {len(SEEDS)} paired seeds; "
        "difference to the full law in points, with the 95 % bootstrap interval; epochs undone over all "
        f"seeds. {EPOCHS} epochs, SGD with momentum 0.9, the package's MLP controller "
        f"({summary['controller_sha256'][:12]}). {summary['hardware']}; commit {summary['commit']}.",
    ]
    for task in TASKS:
        lines += [
            "",
            f"## {task}",
            "",
            "| arm | accuracy (%) | difference | 95 % | epochs undone | diverged |",
            "|---|---|---|---|---|---|",
        ]
        for row in summary["rows"]:
            if row["task"] != task:
                continue
            found, difference = row["accuracy_pct"], row["difference_pp"]
            interval = "-" if not difference["ci95"] else "[{:+.1f}, {:+.1f}]".format(*difference["ci95"])
            lines.append(
                f"| {row['arm']} | {found['mean']:.1f} ± {found['sd']:.1f} | {difference['mean']:+.1f} "
                f"| {interval} | {row['num_rollbacks']} | {row['num_diverged']} |"
            )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Train every arm and write the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", required=True, help="directory of the images, in the Hub's parquet layout")
    parser.add_argument("--store", default="runs", help="directory of the run records")
    parser.add_argument("--workers-share", help="i/n: every n-th run alone, from the i-th, and no report")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    data, store = DataConfig(dir=arguments.data), RunStore(arguments.store)
    learned = load_controller("mlp")
    card = json.loads((PRETRAINED / "mlp.json").read_text())
    prior = PriorAlone(learned, card["architecture"]["prior"])

    def controller_of(arm: Arm) -> Controller:
        return learned if arm.is_learned else prior

    plan: list[tuple[str, Arm, RunSpec]] = [
        (task, arm, spec_of(arm, task, seed, controller_of(arm).sha256, data))
        for seed in SEEDS
        for task in TASKS
        for arm in ARMS
    ]
    share = tuple(map(int, arguments.workers_share.split("/"))) if arguments.workers_share else (0, 1)
    for _, arm, spec in plan[share[0] :: share[1]]:
        task = make_task(spec.task, data, torch.device("cpu"))
        train_run(Job(spec=spec, store=str(store.root)), task, controller_of(arm))
    if share[1] > 1:
        return
    found: dict[str, dict[str, list[RunRecord]]] = {}
    for task_name, arm, spec in plan:
        found.setdefault(task_name, {}).setdefault(arm.name, []).append(store.load(spec.run_id))
    made = store.load(plan[0][2].run_id).result
    summary = {
        "rows": summary_of(found),
        "seeds": list(SEEDS),
        "epochs": EPOCHS,
        "controller_sha256": learned.sha256,
        "run_ids": sorted({spec.run_id for _, _, spec in plan}),
        "commit": git_commit(),
        "versions": package_versions() | made.get("versions", {}),
        "hardware": made.get("hardware") or hardware("cpu"),
    }
    FOLDER.mkdir(parents=True, exist_ok=True)
    (FOLDER / "summary.json").write_text(json.dumps(summary, indent=1) + "\n")
    (FOLDER / "report.md").write_text(report_of(summary))
    print(report_of(summary))


if __name__ == "__main__":
    main()
