"""The one training loop: epochs of one run, under any schedule, learned or not; it cannot tell.

All randomness of epoch e comes from (seed, e), so a resumed or forked run meets the batches the
undisturbed one would have met. Nothing in an epoch waits for the device until its end.

Legend: B batch, S steps of an epoch.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from metalr.config import TrainConfig
from metalr.control import Anchor, Observation, Schedule
from metalr.tasks import Task
from metalr.training.averaging import is_averaged, used_weights
from metalr.training.evaluation import Evaluation, evaluate, last_evaluated
from metalr.training.param_groups import apply_freezing
from metalr.training.peer_optimizers import effective_lr
from metalr.training.recipe import make_optimizer, training_loss
from metalr.training.step import Step, make_step

__all__ = [
    "EpochResult",
    "Evaluation",
    "Training",
    "epoch_batches",
    "epoch_generator",
    "evaluate",
    "evaluate_splits",
    "last_evaluated",
    "make_optimizer",
    "seeded",
    "train_epoch",
    "training_loss",
]

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
    anchor: Anchor = field(default_factory=lambda: Anchor("linear"))
    """Gives the equivalent peak of an epoch's LR."""
    epoch: int = 0
    spent_steps: int = 0
    """Steps of the first epoch that the probe has had: it ends so much earlier."""
    train_step: Step | None = field(default=None, repr=False, compare=False)
    """How a batch is trained; made at the first epoch."""

    @property
    def num_steps(self) -> int:
        """Steps that the next epoch trains."""
        return self.steps_per_epoch - (self.spent_steps if self.epoch == 0 else 0)

    @property
    def device(self) -> torch.device:
        """Where the weights lie."""
        return next(self.model.parameters()).device


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


def epoch_generator(seed: int, epoch: int, device: torch.device, purpose: str = "train") -> torch.Generator:
    """A generator on `device` whose stream depends on (seed, epoch, purpose) alone."""
    digest = hashlib.sha256(f"{purpose}/{seed}/{epoch}".encode()).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest[:7]))


def train_epoch(training: Training, *, observe: bool = True) -> EpochResult:
    """Train the next epoch, tell the schedule, and count the epoch.

    With `observe=False` (branches of a fork) nothing but the mean loss is measured. The inner validation
    split is read every `train.evaluate_every` epochs and after the last; in between, a schedule that decides
    on what it observes holds its decision.
    """
    started = time.perf_counter()
    apply_freezing(training.model, training.config, training.epoch)
    before = [p.detach().clone() for p in training.model.parameters()] if observe else []
    losses_S, norms, lrs = _train_steps(training, observe)
    measured = _loss_measurements(losses_S)
    if observe:
        measured |= _norm_measurements(training.model, before, norms)
    trained = time.perf_counter()
    is_evaluated = observe and last_evaluated(training.config, training.epoch + 1) == training.epoch + 1
    if is_evaluated:
        (valid,) = evaluate_splits(training, ["inner_valid"])
        measured |= {"inner_valid_loss": valid.loss, "inner_valid_accuracy": valid.accuracy}
    evaluated = time.perf_counter()
    mean_lr = sum(lrs) / len(lrs)
    measured |= {"lr": mean_lr, "peak_lr": _equivalent_peak(training, mean_lr)}
    observation = Observation.from_measurements(training.epoch + 1, measured)
    training.schedule.after_epoch(observation, is_fresh=is_evaluated or not observe)
    training.epoch += 1
    decided = time.perf_counter()
    return EpochResult(observation, lrs, trained - started, evaluated - trained, decided - evaluated)


def evaluate_splits(training: Training, splits: Sequence[str]) -> list[Evaluation]:
    """The run's network, at the weights one would use now, on each of `splits`.

    Where the optimizer averages, these are the averages, with batch norm recalibrated on training batches
    that depend on (seed, epoch) alone; the training state is left as it was, bit for bit.
    """
    task, config = training.task, training.config
    if not is_averaged(training.optimizer):
        return [evaluate(training.model, task, split, config) for split in splits]
    seed, epoch, device = training.seed, training.epoch, training.device
    batches = epoch_batches(training, "recalibration")
    with (
        seeded(seed, epoch, device, "recalibration model"),
        used_weights(training.model, training.optimizer, batches, config),
    ):
        return [evaluate(training.model, task, split, config) for split in splits]


def step_of(training: Training) -> Step:
    """The step of a run, made once: forks of the run share it, and what was recorded for it."""
    if training.train_step is None:
        training.train_step = make_step(training.model, training.optimizer, training.config)
    return training.train_step


def epoch_batches(training: Training, purpose: str = "train") -> Iterator[tuple[Tensor, Tensor]]:
    """The batches of the next epoch, images and labels, the same whenever and by whomever they are drawn."""
    size = training.config.batch_size
    generator = epoch_generator(training.seed, training.epoch, training.device, purpose)
    num_train = len(training.task.splits["train"].labels_B)
    order = torch.randperm(num_train, generator=generator, device=training.device)
    for step in range(training.num_steps):
        yield training.task.train_batch(order[step * size : (step + 1) * size], generator)


def _train_steps(training: Training, observe: bool) -> tuple[Tensor, list[Tensor], list[float]]:
    optimizer, steps = training.optimizer, training.num_steps
    losses_S = torch.empty(steps, device=training.device)
    sample_every = max(1, steps // GRADIENT_SAMPLES)
    norms: list[Tensor] = []
    lrs: list[float | Tensor] = []

    def measure() -> None:
        norms.append(_norm([p.grad for p in training.model.parameters() if p.grad is not None]))

    train_step = step_of(training)
    train_step.begin_epoch(optimizer)
    with seeded(training.seed, training.epoch, training.device, "model"):
        for step, (images_BCHW, labels_B) in enumerate(epoch_batches(training)):
            sampled = observe and step % sample_every == 0
            losses_S[step] = train_step(images_BCHW, labels_B, measure if sampled else None)
            lr = effective_lr(optimizer)
            # A tensor is filled in place by the schedule, and reading it would wait for the device.
            lrs.append(lr.clone() if isinstance(lr, Tensor) else float(lr))
            if step < steps - 1:
                training.schedule.after_batch()
        for _ in range(training.steps_per_epoch - steps):
            training.schedule.after_batch()
    return losses_S, norms, _as_numbers(lrs)


def _as_numbers(lrs: list[float | Tensor]) -> list[float]:
    """The LRs of an epoch's steps, read from their device at once."""
    tensors = [lr.reshape(()) for lr in lrs if isinstance(lr, Tensor)]
    read = iter(torch.stack(tensors).tolist() if tensors else ())
    return [next(read) if isinstance(lr, Tensor) else lr for lr in lrs]


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
    epoch, epochs = training.epoch, training.config.epochs
    steps = training.steps_per_epoch
    return training.anchor.equivalent_peak(mean_lr, epoch, epochs, steps, training.num_steps)


def branched(training: Training, schedule: Schedule, optimizer: torch.optim.Optimizer) -> Training:
    """The same run, model, step and epoch under another schedule and optimizer object."""
    step_of(training)
    return replace(training, schedule=schedule, optimizer=optimizer)
