"""Every hand schedule's LRs worked out by hand, and the loop that drives one over 4 epochs of 3 steps."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from metalr.config import SchedulesConfig
from metalr.control import Observation, Schedule, make_schedule

EPOCHS, STEPS = 4, 3
PEAK = 0.8
RATIOS = (1.0, 0.1, 1e-8)
"""Of the three groups' LRs; the last one is so low that any absolute number in a schedule would show."""
LOSSES = (1.0, 1.0, 0.9, 0.95)
"""Inner validation loss of each epoch: no gain, a gain, a loss."""


def per_epoch(*heights: float) -> list[float]:
    return [height for height in heights for _ in range(STEPS)]


def half_cosine(part: float) -> float:
    return (1 + math.cos(math.pi * part)) / 2


ONE_CYCLE = {"start_divisor": 10.0, "end_divisor": 10.0, "shape": "linear"}
TRIANGLE = [0, 1 / 3, 2 / 3, 1, 2 / 3, 1 / 3, 0, 1 / 3, 2 / 3, 1, 2 / 3, 1 / 3]
# cycles of 3, 6 and 12 steps: cosines of multiples of 60, 30 and 15 degrees
RESTARTS = [1, 0.75, 0.25, 1, 0.9330127018922193, 0.75, 0.5, 0.25, 0.0669872981077807]
RESTARTS += [1, 0.9829629131445341, 0.9330127018922193]

CASES: dict[str, tuple[str, dict[str, Any], list[float]]] = {
    "constant": ("constant", {}, [1.0] * 12),
    "step": ("step", {}, [1.0] * 6 + [0.1] * 3 + [0.01] * 3),
    "step every": ("step", {"every": 1, "factor": 0.75}, per_epoch(1, 0.75, 0.5625, 0.421875)),
    # 0.4 of 12 steps is 4.8: step 5
    "step per step": (
        "step",
        {"interval": "step", "milestones": [0.25, 0.4]},
        [1.0] * 3 + [0.1] * 2 + [0.01] * 7,
    ),
    "exponential": ("exponential", {}, per_epoch(1, 0.31622776601683794, 0.1, 0.031622776601683794)),
    "exponential rate": ("exponential", {"rate": math.log(2)}, per_epoch(1, 0.5, 0.25, 0.125)),
    "exponential per step": (
        "exponential",
        {"interval": "step", "rate": math.log(2)},
        [0.5 ** (k / 3) for k in range(12)],
    ),
    "inverse_time": ("inverse_time", {}, per_epoch(1, 4 / 13, 4 / 22, 4 / 31)),
    "inverse_time rate": ("inverse_time", {"rate": 1.0}, per_epoch(1, 1 / 2, 1 / 3, 1 / 4)),
    "inverse_time per step": (
        "inverse_time",
        {"interval": "step", "rate": 1.0},
        [3 / (3 + k) for k in range(12)],
    ),
    "polynomial": ("polynomial", {}, [(12 - k) ** 2 / 144 for k in range(12)]),
    "polynomial per epoch": ("polynomial", {"interval": "epoch"}, per_epoch(1, 9 / 16, 4 / 16, 1 / 16)),
    "linear": ("linear", {}, [(12 - k) / 12 for k in range(12)]),
    "linear per epoch": ("linear", {"interval": "epoch"}, per_epoch(1, 0.75, 0.5, 0.25)),
    "cosine": ("cosine", {}, [half_cosine(k / 12) for k in range(12)]),
    "cosine per epoch": (
        "cosine",
        {"interval": "epoch"},
        per_epoch(1, 0.8535533905932737, 0.5, 0.1464466094067262),
    ),
    "cosine to a tenth": (
        "cosine",
        {"interval": "epoch", "min_lr": 0.08},
        per_epoch(1, 0.1 + 0.9 * 0.8535533905932737, 0.55, 0.1 + 0.9 * 0.1464466094067262),
    ),
    "restarts": (
        "restarts",
        {"first_cycle": 1, "cycle_factor": 2, "min_lr": 0.08},
        [0.1 + 0.9 * height for height in RESTARTS],
    ),
    "restarts per epoch": (
        "restarts",
        {"interval": "epoch", "first_cycle": 2, "cycle_factor": 1, "min_lr": 0.0},
        per_epoch(1, 0.5, 1, 0.5),
    ),
    "cyclical": (
        "cyclical",
        {"half_cycle": 1.0},
        [0.1, 0.4, 0.7, 1.0, 0.7, 0.4, 0.1, 0.25, 0.4, 0.55, 0.4, 0.25],
    ),
    "cyclical alike": (
        "cyclical",
        {"half_cycle": 1.0, "mode": "triangular"},
        [0.1, 0.4, 0.7, 1.0, 0.7, 0.4] * 2,
    ),
    "cyclical falling": (
        "cyclical",
        {"half_cycle": 1.0, "mode": "exp_range", "decay": 0.5, "low_factor": 0.2},
        [0.2 + 0.8 * TRIANGLE[k] * 0.5 ** (k / 3) for k in range(12)],
    ),
    "cyclical per epoch": (
        "cyclical",
        {"half_cycle": 1.0, "interval": "epoch"},
        per_epoch(0.1, 1.0, 0.1, 0.55),
    ),
    "one_cycle": (
        "one_cycle",
        {"rise_fraction": 0.5, **ONE_CYCLE},
        [0.1, 0.28, 0.46, 0.64, 0.82, 1.0, 0.835, 0.67, 0.505, 0.34, 0.175, 0.01],
    ),
    # torch's convention: the rise ends at 0.3 * 12 - 1 = 2.6, the fall at 11
    "one_cycle default": (
        "one_cycle",
        {},
        [1 - 0.96 * half_cosine(k / 2.6) for k in range(3)]
        + [4e-6 + (1 - 4e-6) * half_cosine((k - 2.6) / 8.4) for k in range(3, 12)],
    ),
    "one_cycle per epoch": (
        "one_cycle",
        {"interval": "epoch", "rise_fraction": 0.5, **ONE_CYCLE},
        per_epoch(0.1, 1.0, 0.505, 0.01),
    ),
    "one_cycle without a rise": (
        "one_cycle",
        {"interval": "epoch", "rise_fraction": 0.25, **ONE_CYCLE},
        per_epoch(1.0, 0.67, 0.34, 0.01),
    ),
    "plateau": ("plateau", {"patience": 0}, per_epoch(1, 1, 0.5, 0.5)),
    "plateau to half": (
        "plateau",
        {"patience": 0, "factor": 0.1, "min_lr": 0.4},
        per_epoch(1, 1, 0.5, 0.5),
    ),
    "wsd": ("wsd", {}, [1.0] * 10 + [1 - math.sqrt(0.4 / 2.4), 1 - math.sqrt(1.4 / 2.4)]),
    "wsd linear": (
        "wsd",
        {"shape": "linear", "decay_fraction": 0.5},
        [1.0] * 7 + [5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6],
    ),
    "wsd per epoch": (
        "wsd",
        {"interval": "epoch", "shape": "linear", "decay_fraction": 0.5},
        per_epoch(1, 1, 1, 0.5),
    ),
    "rex": ("rex", {}, [2 * (12 - k) / (24 - k) for k in range(12)]),
    "rex per epoch": ("rex", {"interval": "epoch"}, per_epoch(1, 6 / 7, 4 / 6, 2 / 5)),
    "greedy": ("greedy", {"factor": 0.5, "patience": 0}, per_epoch(1, 1, 0.5, 1)),
}
"""Name of the case -> schedule, its settings, and the LR of each step as a multiple of the peak."""


def settings_of(name: str, values: dict[str, Any], **warmup: Any) -> SchedulesConfig:
    sections = {"warmup": warmup} if warmup else {}
    return SchedulesConfig.model_validate({**sections, **({name: values} if values else {})})


def optimizer_with_groups(
    kind: type[torch.optim.Optimizer] = torch.optim.SGD, peak: float = PEAK, **settings: Any
) -> torch.optim.Optimizer:
    groups = [{"params": [nn.Parameter(torch.ones(1))], "lr": peak * ratio} for ratio in RATIOS]
    if kind is torch.optim.SGD:
        settings = {"momentum": 0.9, **settings}
    return kind(groups, lr=1.0, **settings)  # type: ignore[call-arg]


def momentum_of(optimizer: torch.optim.Optimizer) -> float:
    group = optimizer.param_groups[-1]
    return float(group["betas"][0] if "betas" in group else group["momentum"])


def drive(
    schedule: Schedule,
    optimizer: torch.optim.Optimizer,
    losses: Sequence[float | None] = LOSSES,
    first_epoch: int = 0,
) -> list[tuple[float, ...]]:
    """LRs of all groups and the momentum of every step of the epochs that have a loss, as the loop would."""
    rows = []
    for epoch, loss in enumerate(losses, start=first_epoch + 1):
        for step in range(STEPS):
            rows.append((*(float(group["lr"]) for group in optimizer.param_groups), momentum_of(optimizer)))
            optimizer.step()
            if step < STEPS - 1:
                schedule.after_batch()
        schedule.after_epoch(Observation(epoch=epoch, inner_valid_loss=loss))
    return rows


def resumed(
    name: str, settings: SchedulesConfig, losses: Sequence[float | None], at: int, seed: int = 0
) -> list[tuple[float, ...]]:
    """As `drive` on a fresh run, but put on disk after epoch `at`, and gone on with in fresh objects."""
    optimizer = optimizer_with_groups()
    schedule = make_schedule(name, optimizer, len(losses), STEPS, settings, seed=seed)
    rows = drive(schedule, optimizer, losses[:at])
    file = io.BytesIO()
    torch.save({"optimizer": optimizer.state_dict(), "schedule": schedule.scheduler.state_dict()}, file)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    optimizer = optimizer_with_groups()
    schedule = make_schedule(name, optimizer, len(losses), STEPS, settings, seed=seed)
    optimizer.load_state_dict(state["optimizer"])
    schedule.scheduler.load_state_dict(state["schedule"])
    return rows + drive(schedule, optimizer, losses[at:], first_epoch=at)
