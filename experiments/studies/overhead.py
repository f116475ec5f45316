"""What `MetaLR` takes of a training: its hooks on every step, and a decision once an epoch.

    python experiments/studies/overhead.py

Writes experiments/results/overhead/. For a machine that does nothing else.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import metalr
from metalr.control.step_statistics import StepStatistics
from metalr.provenance import git_commit, hardware
from metalr.training import package_versions

FOLDER = Path(__file__).parents[1] / "results" / "overhead"
EPOCHS = 12
"""Of each training; the first two, when an epoch's length is not known yet, do not count."""
STEPS_PER_EPOCH = (8, 16, 100)
COMMIT = git_commit()


def mlp(width: int) -> nn.Module:
    """An MLP of two hidden layers on 64 inputs."""
    return nn.Sequential(
        nn.Linear(64, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 10)
    )


def cnn() -> nn.Module:
    """Three convolutions with batch norm on 3 x 16 x 16."""
    layers: list[nn.Module] = []
    for before, after in ((3, 16), (16, 32), (32, 64)):
        layers += [nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(64 * 4, 10))


def transformer() -> nn.Module:
    """Two encoder layers of width 64 over 32 places."""
    layer = nn.TransformerEncoderLayer(64, 4, 128, dropout=0.0, batch_first=True)
    encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    return nn.Sequential(encoder, nn.Flatten(), nn.Linear(64 * 32, 10))


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "MLP 64-32-10": (lambda: mlp(32), (32, 64)),
    "MLP 64-256-256-10": (lambda: mlp(256), (64, 64)),
    "CNN with batch norm, 16 px": (cnn, (64, 3, 16, 16)),
    "transformer, 2 layers": (transformer, (32, 32, 64)),
}
"""Name -> maker, shape of a batch."""


@dataclass(frozen=True)
class Row:
    """A network at a number of steps an epoch; times in ms, medians over epochs."""

    network: str
    num_weights: int
    optimizer: str
    steps_per_epoch: int
    step_ms: float
    hooks_ms: float
    """In the hooks of all steps and in reading what they measured, a step."""
    decision_ms: float
    """In `scheduler.step`, reading included, an epoch."""

    @property
    def hooks_pct(self) -> float:
        """Part of a step."""
        return 100.0 * self.hooks_ms / self.step_ms


class Stopwatch:
    """Seconds of this thread spent in the calls it wraps."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def wrap(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """`function`, timed."""

        def timed(*args: Any, **kwargs: Any) -> Any:
            started = time.perf_counter()
            result = function(*args, **kwargs)
            self.seconds += time.perf_counter() - started
            return result

        return timed

    def read(self) -> float:
        """The seconds since the last reading."""
        seconds, self.seconds = self.seconds, 0.0
        return seconds


def measure(name: str, optimizer_name: str, steps: int) -> Row:
    """One training on noise."""
    make, shape = NETWORKS[name]
    torch.manual_seed(0)
    model = make()
    optimizer: torch.optim.Optimizer = (
        torch.optim.AdamW(model.parameters(), lr=1e-3)
        if optimizer_name == "adamw"
        else torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    )
    hooks = Stopwatch()
    original = {
        part: getattr(StepStatistics, part) for part in ("_before_step", "_after_step", "read", "reset")
    }
    for part, function in original.items():
        setattr(StepStatistics, part, hooks.wrap(function))
    try:
        scheduler = metalr.MetaLR(optimizer, total_epochs=EPOCHS)
        inputs, targets = torch.randn(shape), torch.randint(10, (shape[0],))
        times = [_epoch(model, optimizer, scheduler, inputs, targets, steps, hooks) for _ in range(EPOCHS)]
    finally:
        for part, function in original.items():
            setattr(StepStatistics, part, function)
    epoch_s, hooks_s, decision_s = (statistics.median(column) for column in zip(*times[2:], strict=True))
    return Row(
        name,
        sum(p.numel() for p in model.parameters()),
        optimizer_name,
        steps,
        1e3 * (epoch_s - hooks_s) / steps,
        1e3 * hooks_s / steps,
        1e3 * decision_s,
    )


def _epoch(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    scheduler: metalr.MetaLR,
    inputs: Tensor,
    targets: Tensor,
    steps: int,
    hooks: Stopwatch,
) -> tuple[float, float, float]:
    started = time.perf_counter()
    for _ in range(steps):
        loss = nn.functional.cross_entropy(model(inputs), targets)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    trained = time.perf_counter()
    scheduler.step({"train_loss": loss.item(), "val_loss": 2.3})
    ended = time.perf_counter()
    in_hooks = hooks.read()
    return trained - started, in_hooks, ended - trained


def decision_ms(learner: str) -> float:
    """One decision of a shipped controller from features alone, median of 500, ms."""
    controller = metalr.load_controller(learner)
    state, features_F = controller.initial_state(), torch.randn(len(metalr.control.FEATURE_NAMES)).numpy()
    times = []
    for _ in range(500):
        started = time.perf_counter()
        state, _ = controller.step(state, features_F)
        times.append(time.perf_counter() - started)
    return 1e3 * statistics.median(times)


def report(summary: dict[str, Any]) -> str:
    """The tables."""
    lines = [
        "# What MetaLR takes of a training",
        "",
        f"Wall time, one thread on {summary['hardware']}, torch {summary['versions']['torch']}, commit "
        f"{summary['commit']}; medians over {EPOCHS - 2} epochs on noise. Hooks: all that happens in the "
        "optimizer's hooks of an epoch, and reading it at the epoch's end, spread over its steps. "
        "`scheduler.step`: features, decision, envelope and LR, once an epoch.",
        "",
        "| controller | decision, ms |",
        "| --- | --- |",
        *(f"| {name} | {ms:.3f} |" for name, ms in summary["decision_ms"].items()),
        "",
        "| network | weights | optimizer | steps an epoch | step, ms | hooks, ms a step | part | "
        "`scheduler.step`, ms |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in summary["rows"]:
        lines.append(
            f"| {row['network']} | {row['num_weights']:,} | {row['optimizer']} | {row['steps_per_epoch']} | "
            f"{row['step_ms']:.2f} | {row['hooks_ms']:.4f} | {row['hooks_pct']:.2f} % | "
            f"{row['decision_ms']:.2f} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure everything, and write it."""
    torch.set_num_threads(1)
    rows = [
        measure(name, optimizer, steps)
        for name in NETWORKS
        for optimizer in ("sgd", "adamw")
        for steps in STEPS_PER_EPOCH
    ]
    summary = {
        "decision_ms": {name: decision_ms(name) for name in ("mlp", "lstm")},
        "rows": [asdict(row) | {"hooks_pct": row.hooks_pct} for row in rows],
        "commit": COMMIT,
        "versions": package_versions(),
        "hardware": hardware("cpu"),
    }
    FOLDER.mkdir(parents=True, exist_ok=True)
    (FOLDER / "summary.json").write_text(json.dumps(summary, indent=1, sort_keys=True) + "\n")
    (FOLDER / "report.md").write_text(report(summary))
    print(report(summary))


if __name__ == "__main__":
    main()
