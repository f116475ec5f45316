"""The smallest real run: synthetic images, an MLP, three epochs; and controllers written by hand."""

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from control.controllers import RuleController

from metalr.config import ControlConfig, DataConfig, ProbeConfig, TaskConfig, TrainConfig
from metalr.tasks import Task, make_task
from metalr.training import ForkPlan, Job, RunSpec

TASK = TaskConfig(
    dataset="synthetic",
    num_train=128,
    num_inner_valid=32,
    num_outer_valid=32,
    num_test=32,
    image_size=8,
    augmentation="standard",
    network="mlp",
    width=8,
    dropout=0.2,
)
TRAIN = TrainConfig(epochs=4, batch_size=16, lr=0.05, device="cpu")
CONTROL = ControlConfig(probe=ProbeConfig(num_steps=8))


def tiny_task(**changes: Any) -> Task:
    config = TaskConfig(**(TASK.model_dump() | changes))
    return make_task(config, DataConfig(), torch.device("cpu"))


def tiny_spec(method: str = "cosine", **changes: Any) -> RunSpec:
    task = changes.pop("task", TASK)
    settings: dict[str, Any] = {
        "task": task,
        "train": TRAIN,
        "method": method,
        "seed": 3,
        "data_digest": tiny_task(**task.model_dump()).digest,
        "evaluate_test": True,
    }
    if method.startswith("metalr"):
        settings |= {"control": CONTROL, "controller_sha256": rule_controller().sha256}
    return RunSpec(**(settings | changes))


def trunk_spec(method: str = "cosine", **changes: Any) -> RunSpec:
    forks = ForkPlan(epochs=[0, 2], peak_factors=[0.25, 1.0, 4.0])
    return tiny_spec(method, **({"control": CONTROL, "forks": forks, "evaluate_test": False} | changes))


def rule_controller() -> RuleController:
    return RuleController(lambda t, features: 2 + (t % 2))


def exact_convolutions() -> AbstractContextManager[None]:
    """cuDNN otherwise picks kernels that add up in any order, and rounds to 10 bits before it multiplies."""
    return torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False)


def job_of(spec: RunSpec, store: Path, interval_s: float = 0.0) -> Job:
    return Job(spec=spec, store=str(store), checkpoint_interval_s=interval_s)


def without_times(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{key: value for key, value in row.items() if not key.startswith("time/")} for row in rows]
