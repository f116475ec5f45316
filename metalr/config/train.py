"""One run: its budget, its optimizer, its parts of the network's depth."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from metalr.config.peers import AVERAGING_OPTIMIZERS, RECORDED_OPTIMIZERS, OptimizerName
from metalr.config.section import LR, Count, Fraction, PositiveInt, Section

__all__ = ["DepthGroup", "EarlyStoppingConfig", "TrainConfig"]


class DepthGroup(Section):
    """A part of the network's depth, as one parameter group."""

    lr_ratio: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    """Its LR as a fraction of the recipe's; the last group, the head, has 1."""
    unfreeze_epoch: Count | None = 0
    """Epoch from which it trains, from 0; null: it never does."""


class EarlyStoppingConfig(Section):
    """The run ends where the inner validation accuracy has not risen for a while."""

    patience: PositiveInt = 15
    """Epochs without a new best accuracy that are borne."""
    restore_best: bool = True
    """Whether the run ends with the weights of its best epoch, or with the last ones."""


class TrainConfig(Section):
    """One run: budget and optimizer."""

    epochs: Annotated[int, Field(ge=1, le=10_000)] = 12
    """Budget T in epochs."""
    batch_size: PositiveInt = 32
    """Images per optimizer step; a last partial batch is dropped."""
    lr: LR = 0.01
    """Initial learning rate, where `compare` and `harvest` name none of their own."""
    optimizer: OptimizerName = "sgd"
    """`adamw` decays weights apart from the gradient (arXiv 1711.05101), `adam` adds the decay to it; the others are the peers'."""
    momentum: Fraction = 0.9
    """SGD's momentum; Adam's beta1."""
    beta2: Fraction = 0.999
    """Adam's decay of the squared gradient."""
    nesterov: bool = False
    """Nesterov's momentum instead of heavy ball."""
    weight_decay: Annotated[float, Field(ge=0.0, le=1.0)] = 5e-4
    """The optimizer's own: L2 coefficient (sgd, adam), or decoupled decay (adamw)."""
    decay_norms_and_biases: bool = True
    """Whether weight decay also acts on normalisation weights and on biases."""
    depth_groups: Annotated[list[DepthGroup], Field(min_length=1)] | None = None
    """Parameter groups from the first layer to the head, with their own LRs; null: one group for all."""
    early_stopping: EarlyStoppingConfig | None = None
    """null trains the whole budget."""
    label_smoothing: Fraction = 0.0
    """Mass spread over all classes in the training loss."""
    grad_clip: Annotated[float, Field(gt=0.0)] | None = None
    """Largest allowed gradient norm; null does not clip."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Arithmetic of forward and backward; `bfloat16` is autocast, weights stay float32."""
    channels_last: bool | Literal["auto"] = "auto"
    """Memory layout of images and convolution weights; `auto`: what measurement favours for network, device and threads."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where runs train; `auto` takes the GPU where there is one."""
    step: Literal["auto", "eager", "compile", "cuda_graph"] = "auto"
    """How a batch is trained; `cuda_graph` records it once and replays it (GPU: sgd, adamw, adam); `auto`: that where it can be,
    else `eager`."""
    evaluate_every: PositiveInt = 1
    """Epochs from one reading of the inner validation split to the next; the last epoch is always read."""
    threads: PositiveInt = 1
    """CPU threads of one run; part of a run's identity, since it can change the last bits."""

    @model_validator(mode="after")
    def _nesterov_needs_momentum(self) -> TrainConfig:
        if self.nesterov and self.momentum == 0.0:
            raise ValueError("nesterov=true needs momentum above 0")
        if self.nesterov and self.optimizer != "sgd":
            raise ValueError(f"nesterov=true is for optimizer=sgd, not {self.optimizer}")
        return self

    @model_validator(mode="after")
    def _peers_stand_alone(self) -> TrainConfig:
        if self.optimizer in RECORDED_OPTIMIZERS:
            return self
        if self.depth_groups:
            raise ValueError(f"depth_groups is for sgd, adamw and adam, not for optimizer={self.optimizer}")
        averaged = self.optimizer in AVERAGING_OPTIMIZERS
        if averaged and self.early_stopping and self.early_stopping.restore_best:
            problem = (
                f"optimizer={self.optimizer} is used at an average, which has no best epoch to go back to"
            )
            raise ValueError(f"{problem}: set early_stopping.restore_best=false")
        if self.step == "cuda_graph":
            raise ValueError(
                f"step=cuda_graph is for sgd, adamw and adam, not for optimizer={self.optimizer}"
            )
        if self.optimizer == "schedule_free_sgd" and not 0.0 < self.momentum < 1.0:
            raise ValueError(
                f"optimizer=schedule_free_sgd needs momentum between 0 and 1, not {self.momentum}"
            )
        return self

    @model_validator(mode="after")
    def _the_head_sets_the_lr(self) -> TrainConfig:
        head = self.depth_groups[-1] if self.depth_groups else DepthGroup()
        if head.lr_ratio != 1.0 or head.unfreeze_epoch != 0:
            last = len(self.depth_groups or []) - 1
            problem = "the last group is the head: its lr_ratio is 1, its unfreeze_epoch 0"
            raise ValueError(f"depth_groups.{last}: {problem}")
        return self
