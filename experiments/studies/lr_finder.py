"""The LR finder on six trainings: its suggestions, and those of others' rules, against a tuned grid.

    python experiments/studies/lr_finder.py --data DIRECTORY --out experiments/results/lr-finder

Three networks on real CIFAR-10 (4,000 training images at 16 px, SGD of momentum 0.9, batch 128), on whose
curves one constant of ours was chosen; and three trainings it had not met: other images, sizes, batches,
AdamW. The grid: cosine, 5 epochs, judged on `outer_valid`. One thread; about 7 minutes. DIRECTORY holds the
images in the Hub's parquet layout.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lr_finder_report import report, summary_of
from other_finders import OTHER_RULES
from torch import Tensor, nn
from torch.nn import functional

from metalr.config import DataConfig, FinderConfig, ProbeConfig, TaskConfig, TrainConfig
from metalr.control import lr_range_test, make_schedule
from metalr.control.finder import LRFinderResult, find_lr
from metalr.control.finder_rules import suggestions_of
from metalr.tasks import Task, make_task
from metalr.training.loop import (
    Training,
    epoch_generator,
    evaluate,
    make_optimizer,
    train_epoch,
    training_loss,
)  # fmt: skip

GRID = (0.003, 0.008, 0.02, 0.05, 0.15, 0.4, 1.0)
SEEDS = (0, 1, 2)
"""Of each LR of the grid."""
FINDER_SEEDS = (10, 11, 12)
"""Of the finder; 0, 1 and 2 are those on whose curves the valley's floor was chosen."""
SMALL = {
    "dataset": "cifar10", "num_train": 4000, "num_inner_valid": 500, "num_outer_valid": 2000,
    "image_size": 16, "augmentation": "standard",
}  # fmt: skip


@dataclass(frozen=True)
class Case:
    """A training whose LR is looked for."""

    task: TaskConfig
    train: TrainConfig
    grid: tuple[float, ...] = GRID
    met: bool = False
    """Whether our valley rule's constant was chosen with this network among others."""


def _train(**changes: Any) -> TrainConfig:
    return TrainConfig.model_validate({"epochs": 5, "batch_size": 128, "lr": 0.1, "device": "cpu"} | changes)


CASES = {
    "resnet18": Case(
        TaskConfig.model_validate(SMALL | {"network": "resnet18", "width": 8}), _train(), met=True
    ),
    "cnn": Case(TaskConfig.model_validate(SMALL | {"network": "cnn", "width": 16}), _train(), met=True),
    "mlp": Case(TaskConfig.model_validate(SMALL | {"network": "mlp", "width": 128}), _train(), met=True),
    "digits-mlp": Case(TaskConfig(network="mlp", width=32), _train(batch_size=32), (*GRID, 2.5)),
    "digits-resnet18": Case(
        TaskConfig(network="resnet18", width=8), _train(batch_size=64, nesterov=True), (*GRID, 2.5)
    ),
    "adamw-cnn-32px": Case(
        TaskConfig.model_validate(
            SMALL | {"image_size": 32, "network": "cnn", "width": 16, "num_train": 3000}
        ),
        _train(optimizer="adamw", weight_decay=0.01, batch_size=64),
        (0.0003, 0.001, 0.003, 0.008, 0.02, 0.05, 0.15),
    ),
}
DATA_LABEL = "CIFAR-10 (JPEG re-encoding)"
CPU = torch.device("cpu")


def main() -> None:
    """Run the study and write its results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="directory of the images, in the Hub's parquet layout")
    parser.add_argument("--out", required=True, type=Path, help="directory of the results")
    parser.add_argument("--label", default=DATA_LABEL, help="what the report calls the data")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    started = time.perf_counter()
    arguments.out.mkdir(parents=True, exist_ok=True)
    data = DataConfig(dir=arguments.data)
    cases = {
        name: _study(name, case, make_task(case.task, data, CPU), arguments.out)
        for name, case in CASES.items()
    }
    settings = {
        "data": arguments.label,
        "seeds": list(SEEDS),
        "finder_seeds": list(FINDER_SEEDS),
        "finder": FinderConfig().model_dump(),
        "probe": ProbeConfig().model_dump(),
        "wall_time_s": round(time.perf_counter() - started, 1),
    }
    summary = summary_of(settings, cases)
    (arguments.out / "summary.json").write_text(json.dumps(summary, indent=1) + "\n")
    (arguments.out / "report.md").write_text(report(summary))
    print(report(summary))


def _study(name: str, case: Case, task: Task, out: Path) -> dict[str, Any]:
    found = [_find(case, task, seed) for seed in FINDER_SEEDS]
    found[0]["result"].plot(out / f"{name}.svg")
    accuracies = {str(lr): [_accuracy(case, task, lr, seed) for seed in SEEDS] for lr in case.grid}
    print(name, accuracies, flush=True)
    return {
        "task": case.task.model_dump(mode="json"),
        "train": case.train.model_dump(mode="json"),
        "grid": list(case.grid),
        "met": case.met,
        "data_digest": task.digest,
        "seconds_per_find": [one["seconds"] for one in found],
        "state": [{"before": one["before"], "after": one["after"]} for one in found],
        "suggestions": {
            method: [one["suggestions"][method] for one in found] for method in found[0]["suggestions"]
        },
        "reasons": [one["reasons"] for one in found],
        "curves": [one["curve"] for one in found],
        "outer_valid_accuracy": accuracies,
    }


def _find(case: Case, task: Task, seed: int) -> dict[str, Any]:
    """What every rule suggests for a fresh network of `seed`, and its state before and after the tests."""
    size, train = case.train.batch_size, case.train
    model = task.make_model(seed)
    optimizer = make_optimizer(model, train)
    _warm(task, model, optimizer, seed, train)
    before = _sha256_of_state(model, optimizer)
    started = time.perf_counter()
    result = find_lr(model, optimizer, functional.cross_entropy, _batches(task, seed, size, "finder"))
    seconds = time.perf_counter() - started
    batch = next(_batches(task, seed, size, "probe"))
    probe = lr_range_test(model, optimizer, lambda step: training_loss(model, *batch, train))
    after = _sha256_of_state(model, optimizer)
    ours = {f"find_lr {rule}": suggestion.lr for rule, suggestion in result.suggestions.items()}
    ours |= {f"probe {rule}": suggestion.lr for rule, suggestion in suggestions_of(probe).items()}
    return {
        "result": result,
        "suggestions": ours | {"probe reference": probe.reference_lr} | _others(result),
        "reasons": {rule: suggestion.reason for rule, suggestion in result.suggestions.items()},
        "curve": result.curve.to_dict(),
        "seconds": round(seconds, 2),
        "before": before,
        "after": after,
    }


def _warm(
    task: Task, model: nn.Module, optimizer: torch.optim.Optimizer, seed: int, train: TrainConfig
) -> None:
    """One step at LR 0: it moves no weight, but there are momenta and gradients to be put back."""
    lr, optimizer.param_groups[0]["lr"] = optimizer.param_groups[0]["lr"], 0.0
    training_loss(model, *next(_batches(task, seed, train.batch_size, "warm")), train).backward()
    optimizer.step()
    optimizer.param_groups[0]["lr"] = lr


def _others(result: LRFinderResult) -> dict[str, float | None]:
    """The suggestions of others on the same curve; to them a loss belongs to the update that follows it."""
    curve = result.curve
    losses = np.asarray((curve.initial_loss, *curve.losses))[: len(curve.lrs)]
    return {name: rule(np.asarray(curve.lrs), losses) for name, rule in OTHER_RULES.items()}


def _batches(task: Task, seed: int, batch_size: int, purpose: str) -> Iterator[tuple[Tensor, Tensor]]:
    """Augmented training batches without end."""
    generator = epoch_generator(seed, 0, CPU, purpose)
    size = len(task.splits["train"].labels_B)
    while True:
        order = torch.randperm(size, generator=generator)
        for start in range(0, size - batch_size + 1, batch_size):
            yield task.train_batch(order[start : start + batch_size], generator)


def _accuracy(case: Case, task: Task, lr: float, seed: int) -> float:
    """Accuracy on `outer_valid` after the whole budget under cosine from `lr`; chance where it diverged."""
    model = task.make_model(seed)
    config = case.train.model_copy(update={"lr": lr})
    optimizer = make_optimizer(model, config)
    steps = len(task.splits["train"].labels_B) // config.batch_size
    schedule = make_schedule("cosine", optimizer, config.epochs, steps)
    training = Training(task, config, model, optimizer, schedule, seed, steps)
    for _ in range(config.epochs):
        train_epoch(training, observe=False)
    result = evaluate(model, task, "outer_valid", config)
    return result.accuracy if np.isfinite(result.loss) else 1 / task.num_classes


def _sha256_of_state(model: nn.Module, optimizer: torch.optim.Optimizer) -> str:
    """Over weights, buffers, gradients, optimizer state and settings, and torch's random state."""
    state = optimizer.state_dict()
    momenta = [value for held in state["state"].values() for value in held.values()]
    gradients = [p.grad for p in model.parameters()]
    digest = hashlib.sha256(json.dumps(state["param_groups"]).encode())
    for value in (*model.state_dict().values(), *gradients, *momenta, torch.get_rng_state()):
        digest.update(value.numpy().tobytes() if isinstance(value, Tensor) else repr(value).encode())
    return digest.hexdigest()


if __name__ == "__main__":
    main()
