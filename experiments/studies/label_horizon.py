"""How far a label must look ahead: the best LR after 1, 2, 5 or 10 epochs, judged at the end of the budget.

    python experiments/studies/label_horizon.py --data DIR [--runs runs/label-horizon]

Eight small tasks (CIFAR-10 and digits, SGD and AdamW, with and without normalisation), budgets of 20 epochs.
Each run is forked before training and after 5 and 10 epochs; every branch is read on `outer_valid` after
every horizon. DIR holds the images in the Hub's parquet layout. Finished forks are kept under --runs. About
ten minutes on one core. Writes experiments/results/label-horizon/.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from metalr.comparison.statistics import estimate_mean
from metalr.config import ControlConfig, DataConfig, ProbeConfig, TaskConfig, TrainConfig
from metalr.control import Snapshot
from metalr.harvest.branching import branch_losses
from metalr.provenance import git_commit, hardware
from metalr.tasks import make_task
from metalr.training import ForkPlan, Job, LiveRun, RunSpec, package_versions, train_run
from metalr.training.artifacts import write_json

FOLDER = Path(__file__).parents[1] / "results" / "label-horizon"
EPOCHS = 20
FORKS = [0, 5, 10]
HORIZONS = (1, 2, 5, 10)
FACTORS = [float(factor) for factor in np.geomspace(1 / 16, 16.0, 9)]
SEEDS = (6000,)
CIFAR = {
    "dataset": "cifar10", "num_train": 2000, "num_inner_valid": 500, "num_outer_valid": 2000,
    "image_size": 8, "augmentation": "standard",
}  # fmt: skip
DIGITS = {"dataset": "digits", "num_inner_valid": 150, "num_outer_valid": 300, "augmentation": "standard"}
ADAMW = {"optimizer": "adamw", "lr": 0.005}
TASKS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "ResNet-10, 8 px": (CIFAR | {"network": "resnet10", "width": 8}, {}),
    "CNN with batch norm, 8 px": (CIFAR | {"network": "cnn_bn", "width": 16}, {}),
    "CNN, 8 px": (CIFAR | {"network": "cnn", "width": 16}, {}),
    "MLP with layer norm, 8 px": (CIFAR | {"network": "mlp_ln", "width": 128}, {}),
    "CNN with batch norm, 8 px, AdamW": (CIFAR | {"network": "cnn_bn", "width": 16}, ADAMW),
    "CNN with batch norm, digits": (DIGITS | {"network": "cnn_bn", "width": 16}, {}),
    "MLP, digits": (DIGITS | {"network": "mlp", "width": 64}, {}),
    "MLP, digits, AdamW": (DIGITS | {"network": "mlp", "width": 64}, ADAMW),
}
"""Name -> task, what of the training differs from SGD at 0.1 under `wsd`."""

Fork = dict[str, Any]
"""`task`, `seed`, `epoch`, and `losses`: of each candidate by horizon, the end last; None: diverged."""


def spec_of(task_name: str, seed: int, data: DataConfig) -> RunSpec:
    """The run that is forked."""
    settings, changes = TASKS[task_name]
    config = TaskConfig(**settings)
    return RunSpec(
        task=config,
        train=TrainConfig.model_validate(
            {"epochs": EPOCHS, "batch_size": 64, "lr": 0.1, "device": "cpu"} | changes
        ),
        method="wsd",
        control=ControlConfig(probe=ProbeConfig(paid="every_epoch")),
        forks=ForkPlan(epochs=FORKS, peak_factors=FACTORS),
        seed=seed,
        data_digest=make_task(config, data, torch.device("cpu")).digest,
    )


def forks_of(task_name: str, spec: RunSpec, data: DataConfig) -> list[Fork]:
    """Train one run, and all branches of its forks; begun anew where it was killed."""
    task = make_task(spec.task, data, torch.device("cpu"))
    found: list[Fork] = []

    def fork(live: LiveRun) -> None:
        training = live.training
        if training.epoch not in FORKS:
            return
        assert live.probe is not None and spec.control is not None
        snapshot = Snapshot.take(training.model, training.optimizer)
        peaks = [factor * live.probe.reference_lr for factor in FACTORS]
        losses = [branch_losses(training, snapshot, peak, spec.control, HORIZONS) for peak in peaks]
        snapshot.restore(training.model, training.optimizer)
        found.append({"task": task_name, "seed": spec.seed, "epoch": training.epoch, "losses": losses})

    with TemporaryDirectory() as store:
        train_run(Job(spec=spec, store=store), task, None, fork)
    return found


def regrets_of(fork: Fork) -> dict[str, tuple[float, float]]:
    """By horizon: the final regret of the LR that is best after it, nats, and its log over the best LR."""
    losses_KH = np.array(
        [[np.inf if loss is None else loss for loss in candidate] for candidate in fork["losses"]]
    )
    final_K = losses_KH[:, -1]
    best = int(np.argmin(final_K))
    # As in meta-training, an error counts up to the loss of guessing.
    cap = max(float(np.log(10.0) - final_K[best]), 0.1)
    horizons = [horizon for horizon in HORIZONS if horizon < EPOCHS - fork["epoch"]]
    found = {}
    for column, horizon in enumerate(horizons):
        chosen = int(np.argmin(losses_KH[:, column]))
        regret = min(float(final_K[chosen] - final_K[best]), cap)
        found[str(horizon)] = regret, float(np.log(FACTORS[chosen] / FACTORS[best]))
    return found


def summary_of(forks: list[Fork]) -> dict[str, Any]:
    """The mean regret and log LR over the best by horizon; intervals over the means of the tasks' runs."""
    rows = []
    for horizon in map(str, HORIZONS):
        by_run: dict[tuple[str, int], list[tuple[float, float]]] = {}
        for fork in forks:
            if horizon in (found := regrets_of(fork)):
                by_run.setdefault((fork["task"], fork["seed"]), []).append(found[horizon])
        means = np.array([np.mean(values, axis=0) for values in by_run.values()])
        row: dict[str, Any] = {"horizon": int(horizon), "num_forks": sum(map(len, by_run.values()))}
        for column, name in enumerate(("regret_nats", "log_lr_over_best")):
            row[name] = estimate_mean(means[:, column].tolist()).as_json()
        rows.append(row)
    return {"rows": rows, "num_runs": len({(fork["task"], fork["seed"]) for fork in forks})}


def report_of(summary: dict[str, Any]) -> str:
    """The table as a page."""
    lines = [
        "# How far a label must look ahead",
        "",
        f"{summary['num_runs']} runs of {len(TASKS)} tasks, {EPOCHS} epochs, forked before training and "
        f"after 5 and 10 epochs, {len(FACTORS)} candidates each, read on `outer_valid`. The LR with the "
        "lowest loss after so many epochs, followed to the end of the budget: final regret, nats, and its "
        "log over the best LR; mean over runs with the 95 % bootstrap interval over runs. The label of the "
        f"end has none of either, by definition. {summary['hardware']}; commit {summary['commit']}.",
        "",
        "| best LR after | forks | final regret (nats) | 95 % | log LR over the best | 95 % |",
        "|---|---|---|---|---|---|",
    ]
    for row in summary["rows"]:
        regret, log = row["regret_nats"], row["log_lr_over_best"]
        epochs = f"{row['horizon']} epoch{'s' if row['horizon'] > 1 else ''}"
        lines.append(
            f"| {epochs} | {row['num_forks']} | {regret['mean']:.3f} | "
            f"[{regret['ci95'][0]:.3f}, {regret['ci95'][1]:.3f}] | {log['mean']:+.2f} | "
            f"[{log['ci95'][0]:+.2f}, {log['ci95'][1]:+.2f}] |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Train what is missing and write the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", required=True, help="directory of the images, in the Hub's parquet layout")
    parser.add_argument("--runs", type=Path, default=Path("runs/label-horizon"), help="where forks are kept")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    data = DataConfig(dir=arguments.data)
    arguments.runs.mkdir(parents=True, exist_ok=True)
    forks: list[Fork] = []
    for seed in SEEDS:
        for name in TASKS:
            spec = spec_of(name, seed, data)
            path = arguments.runs / f"{spec.run_id}.json"
            if not path.is_file():
                write_json(path, forks_of(name, spec, data))
            forks += json.loads(path.read_text())
    facts = {"commit": git_commit(), "versions": package_versions(), "hardware": hardware("cpu")}
    summary = summary_of(forks) | facts | {"seeds": SEEDS, "factors": FACTORS, "forks": forks}
    FOLDER.mkdir(parents=True, exist_ok=True)
    (FOLDER / "summary.json").write_text(json.dumps(summary) + "\n")
    (FOLDER / "report.md").write_text(report_of(summary))
    print(report_of(summary))


if __name__ == "__main__":
    main()
