"""The one training loop: epochs of one run, under any schedule, learned or not; it cannot tell.

All randomness of epoch e comes from (seed, e), so a resumed or forked run meets the batches the
undisturbed one would have met. Nothing in an epoch waits for the device until its end.

Legend: B batch, S steps of an epoch.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from metalr.config import TrainConfig
from metalr.control import Observation, Schedule, equivalent_peak
from metalr.control.anchor import Shape
from metalr.tasks import Task
from metalr.training.param_groups import apply_freezing, parameter_groups

__all__ = [
    "EpochResult",
    "Evaluation",
    "Training",
    "epoch_generator",
    "evaluate",
    "make_optimizer",
    "seeded",
    "train_epoch",
    "training_loss",
]

EVAL_BATCH = 1000
GRADIENT_SAMPLES = 8
"""How often an epoch the gradient's norm is measured."""


@dataclass
class Training:
    """A run in progress. `epoch` counts the completed ones; everything else is what moves with it."""

    task: Task
    config: TrainConfig
    model: nn.Module
    optimizer: torch.optim.Optimizer
    schedule: Schedule
    seed: int
    steps_per_epoch: int
    anchor_shape: Shape = "linear"
    warmup_fraction: float = 0.0
    epoch: int = 0

    @property
    def device(self) -> torch.device:
        """Where the weights lie."""
        return next(self.model.parameters()).device


@dataclass(frozen=True)
class Evaluation:
    """A network on a split."""

    loss: float
    """Mean cross-entropy, nats."""
    accuracy: float
    """Fraction, 0 to 1."""


@dataclass(frozen=True)
class EpochResult:
    """What an epoch showed, and what it cost in seconds."""

    observation: Observation
    lrs: list[float]
    """The LR of each step, first parameter group."""
    train_s: float
    eval_s: float
    control_s: float
    """Time the schedule took to decide, in seconds."""


def make_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """The optimizer that `config` names, at its initial LR, over the model's `parameter_groups`.

    Raises ConfigError where the network has too few parts for `depth_groups`.
    """
    groups = parameter_groups(model, config)
    if config.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum, nesterov=config.nesterov)
    adam = torch.optim.AdamW if config.optimizer == "adamw" else torch.optim.Adam
    return adam(groups, lr=config.lr, betas=(config.momentum, config.beta2))


def epoch_generator(seed: int, epoch: int, device: torch.device, purpose: str = "train") -> torch.Generator:
    """A generator on `device` whose stream depends on (seed, epoch, purpose) alone."""
    digest = hashlib.sha256(f"{purpose}/{seed}/{epoch}".encode()).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest[:7]))


def training_loss(model: nn.Module, images_BCHW: Tensor, labels_B: Tensor, config: TrainConfig) -> Tensor:
    """The scalar training loss of a batch: cross-entropy with label smoothing, in the recipe's arithmetic."""
    if config.channels_last:
        images_BCHW = images_BCHW.contiguous(memory_format=torch.channels_last)
    with torch.autocast(images_BCHW.device.type, torch.bfloat16, enabled=config.dtype == "bfloat16"):
        logits = model(images_BCHW)
    return functional.cross_entropy(logits.float(), labels_B, label_smoothing=config.label_smoothing)


@torch.no_grad()
def evaluate(model: nn.Module, task: Task, split: str, config: TrainConfig) -> Evaluation:
    """Mean cross-entropy and accuracy on a split, in evaluation mode; every module's mode is put back."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    total = len(task.splits[split].labels_B)
    loss = torch.zeros((), dtype=torch.float64, device=task.splits[split].labels_B.device)
    correct = torch.zeros_like(loss)
    for start in range(0, total, EVAL_BATCH):
        images_BCHW, labels_B = task.eval_batch(split, start, min(start + EVAL_BATCH, total))
        if config.channels_last:
            images_BCHW = images_BCHW.contiguous(memory_format=torch.channels_last)
        with torch.autocast(images_BCHW.device.type, torch.bfloat16, enabled=config.dtype == "bfloat16"):
            logits = model(images_BCHW).float()
        loss += functional.cross_entropy(logits, labels_B, reduction="sum").double()
        correct += (logits.argmax(dim=1) == labels_B).sum()
    for module in training:
        module.training = True
    return Evaluation(float(loss) / total, float(correct) / total)


def train_epoch(training: Training, *, observe: bool = True) -> EpochResult:
    """Train the next epoch, tell the schedule, and count the epoch.

    With `observe=False` (branches of a fork) nothing but the mean loss is measured.
    """
    started = time.perf_counter()
    apply_freezing(training.model, training.config, training.epoch)
    before = [p.detach().clone() for p in training.model.parameters()] if observe else []
    losses_S, norms, lrs = _train_steps(training, observe)
    measured = _loss_measurements(losses_S)
    if observe:
        measured |= _norm_measurements(training.model, before, norms)
    trained = time.perf_counter()
    if observe:
        valid = evaluate(training.model, training.task, "inner_valid", training.config)
        measured |= {"inner_valid_loss": valid.loss, "inner_valid_accuracy": valid.accuracy}
    evaluated = time.perf_counter()
    mean_lr = sum(lrs) / len(lrs)
    measured |= {"lr": mean_lr, "peak_lr": _equivalent_peak(training, mean_lr)}
    observation = Observation.from_measurements(training.epoch + 1, measured)
    training.schedule.after_epoch(observation)
    training.epoch += 1
    decided = time.perf_counter()
    return EpochResult(observation, lrs, trained - started, evaluated - trained, decided - evaluated)


def _train_steps(training: Training, observe: bool) -> tuple[Tensor, list[Tensor], list[float]]:
    task, config, optimizer = training.task, training.config, training.optimizer
    steps = training.steps_per_epoch
    generator = epoch_generator(training.seed, training.epoch, training.device)
    order = torch.randperm(len(task.splits["train"].labels_B), generator=generator, device=training.device)
    losses_S = torch.empty(steps, device=training.device)
    sample_every = max(1, steps // GRADIENT_SAMPLES)
    norms: list[Tensor] = []
    lrs: list[float] = []
    with seeded(training.seed, training.epoch, training.device, "model"):
        for step in range(steps):
            indices_B = order[step * config.batch_size : (step + 1) * config.batch_size]
            loss = training_loss(training.model, *task.train_batch(indices_B, generator), config)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            if observe and step % sample_every == 0:
                norms.append(_norm([p.grad for p in training.model.parameters() if p.grad is not None]))
            if config.grad_clip is not None:
                nn.utils.clip_grad_norm_(training.model.parameters(), config.grad_clip)
            optimizer.step()
            losses_S[step] = loss.detach()
            lrs.append(float(optimizer.param_groups[0]["lr"]))
            if step < steps - 1:
                training.schedule.after_batch()
    return losses_S, norms, lrs


@contextmanager
def seeded(seed: int, epoch: int, device: torch.device, purpose: str) -> Iterator[None]:
    """Dropout and the like draw from torch's global stream: seed it for these steps, and put it back."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(epoch_generator(seed, epoch, torch.device("cpu"), purpose).initial_seed())
        yield


def _norm(tensors: list[Tensor]) -> Tensor:
    norm: Tensor = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(tensors)))
    return norm


def _loss_measurements(losses_S: Tensor) -> dict[str, float | None]:
    losses = losses_S.double().cpu()
    quarter = max(1, len(losses) // 4)
    return {
        "train_loss": float(losses.mean()),
        "train_loss_first": float(losses[:quarter].mean()),
        "train_loss_last": float(losses[-quarter:].mean()),
        "train_loss_sd": float(losses.std(correction=0)),
    }


@torch.no_grad()
def _norm_measurements(
    model: nn.Module, before: list[Tensor], norms: list[Tensor]
) -> dict[str, float | None]:
    parameters = [p.detach() for p in model.parameters()]
    moved = torch._foreach_sub(parameters, before)
    gradient = torch.stack(norms).double().cpu()
    return {
        "grad_norm": float(gradient.mean()),
        "grad_norm_sd": float(gradient.std(correction=0)),
        "update_norm": float(_norm(list(moved))),
        "weight_norm": float(_norm(parameters)),
    }


def _equivalent_peak(training: Training, mean_lr: float) -> float:
    return equivalent_peak(
        mean_lr,
        training.epoch,
        training.config.epochs,
        training.steps_per_epoch,
        training.anchor_shape,
        training.warmup_fraction,
    )


def branched(training: Training, schedule: Schedule, optimizer: torch.optim.Optimizer) -> Training:
    """The same run, model and epoch under another schedule and optimizer object."""
    return replace(training, schedule=schedule, optimizer=optimizer)
