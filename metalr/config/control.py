"""Who sets the learned LR and how: range tests, and the control law."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from metalr.config.section import LR, Fraction, PositiveInt, Section

__all__ = ["ControlConfig", "FinderConfig", "ProbeConfig", "RampConfig"]


class RampConfig(Section):
    """A learning-rate range test: training steps on a rising LR."""

    num_steps: Annotated[int, Field(ge=8, le=1000)] = 20
    """Optimizer steps of the ramp."""
    min_lr: LR | None = None
    """LR at the start of the exponential ramp; null: 0.001, for optimizers that scale the gradient 3e-5."""
    max_lr: LR | None = None
    """LR at its end, where the loss has not exploded before; null: 10, for optimizers that scale the gradient 0.3."""
    explode_factor: Annotated[float, Field(gt=1.0)] = 4.0
    """The ramp stops where the loss exceeds this multiple of the initial loss, or is not finite."""

    @model_validator(mode="after")
    def _ramp_rises(self) -> RampConfig:
        for scales_gradients in (False, True):
            min_lr, max_lr = self.lrs(scales_gradients=scales_gradients)
            if max_lr < 10 * min_lr:
                raise ValueError(f"max_lr={max_lr} must be at least 10 x min_lr={min_lr}")
        return self

    def lrs(self, *, scales_gradients: bool) -> tuple[float, float]:
        """First and last LR of the ramp for an optimizer that does, or does not, scale gradients as Adam does."""
        first, last = (3e-5, 0.3) if scales_gradients else (1e-3, 10.0)
        return self.min_lr or first, self.max_lr or last


class ProbeConfig(RampConfig):
    """The learning-rate range test before the first epoch, paid for out of the run's budget."""

    batch_size: PositiveInt | None = 32
    """Images of each of its steps, which the budget pays for, at most `train.batch_size`; null: that."""
    fresh_batches: bool = True
    """Whether every step trains on a batch of its own while the loss of one fixed batch is measured, for a third of a
    step more; else all steps train on one batch, which a network that fits it soon has no edge on."""
    paid: Literal["first_epoch", "every_epoch"] = "first_epoch"
    """What gives way to its steps: the end of the first epoch, or as many steps of every epoch as they come to, rounded up,
    which is the way of a harvest's trunks, and of any run where they would fill half of the first epoch."""


class FinderConfig(RampConfig):
    """The LR finder of `metalr lr-find`: the probe with a longer ramp, on fresh batches."""

    num_steps: Annotated[int, Field(ge=8, le=10_000)] = 100
    """Optimizer steps of the ramp."""
    min_lr: LR = 1e-5
    """LR at the start of the ramp."""
    max_lr: LR = 10.0
    """LR at its end."""
    spacing: Literal["exponential", "linear"] = "exponential"
    """How the LR rises from step to step."""
    rule: Literal["steepest", "valley", "minimum"] = "valley"
    """Which suggestion is the answer; `minimum` is a tenth of the LR of lowest loss."""


class ControlConfig(Section):
    """The control law: probe, anchor, correct, envelope."""

    probe: ProbeConfig | None = ProbeConfig()
    """LR range test; null starts from the initial LR instead."""
    anchor: Literal["auto", "hold", "linear", "cosine", "constant"] = "auto"
    """Shape that every decision is anchored to: `hold` stays up, then falls to zero; `auto`: `constant` for optimizers
    that average their iterates, else `hold`."""
    decay_fraction: Annotated[float, Field(gt=0.0, le=1.0)] = 0.2
    """`hold`: part of the budget in which it falls."""
    warmup_fraction: Fraction | Literal["auto"] = "auto"
    """Part of the budget over which the LR rises linearly from zero; `auto`: none under SGD where the network
    normalises, else 0.05."""
    rise: Annotated[float, Field(ge=1.0, le=100.0)] | Literal["auto"] = "auto"
    """Largest height of the anchor over that at its start, a warm-up apart; the decision before training is for the LR to
    start with, and its peak so many times that. `auto`, where the network normalises: under optimizers that average 2, under
    SGD 1 at up to 8 epochs, 2 from 16 on; else 1."""
    rise_fraction: Annotated[float, Field(gt=0.0, le=1.0)] = 0.2
    """Part of the budget in which it rises so."""
    correction_bound: Annotated[float, Field(ge=1.0, le=1e3)] = 10.0
    """Largest factor, up or down, between a later decision and the first one."""
    least_gain: Annotated[float, Field(ge=0.0)] = 0.01
    """Nats of final loss that another equivalent peak must be predicted to gain; else the one in force is kept."""
    min_lr: LR = 1e-6
    """Smallest equivalent peak; the anchor itself still goes to zero."""
    max_lr: LR = 10.0
    """Largest LR ever set."""
    max_rise: Annotated[float, Field(gt=1.0)] = 3.0
    """Largest factor between the equivalent peaks of two successive decisions, upwards."""
    explode_factor: Annotated[float, Field(gt=1.0)] = 2.0
    """An epoch whose loss exceeds this multiple of the best so far (and of the initial loss, the mean over the probe's first
    batches) is rolled back."""
    stall_factor: Annotated[float, Field(gt=0.0, le=1.0)] | None = 0.99
    """After a probe, an epoch that ends at a training loss above this multiple of the one before training is rolled back
    too where its batches' losses were thrown about (where these are not known: its weights), as at the death of all ReLUs.
    At most three times a run; null: never. Unless it is null, no peak rises above the probe's reference LR after an epoch
    whose mean loss is above the one before training."""
    backoff: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.5
    """Factor on all later LRs after a rollback; twice where nothing was learned."""
