"""A training step replayed from two CUDA graphs: forward and backward, then clipping and update.

A graph holds addresses and constants, so all that may change from step to step is copied to where it
reads: the batch, and the LR of each parameter group, which stays a plain number in the optimizer. A
schedule therefore sets the same LRs as anywhere, and no LR records anew or waits for the device.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from metalr.config import TrainConfig
from metalr.control.undo import undone
from metalr.training.eager_step import EagerStep, OnGradients
from metalr.training.recipe import make_optimizer, training_loss

__all__ = ["GraphedStep", "Recorder", "record_cuda_graph"]

WARM_UPS = 3
"""Runs on a side stream before a recording, in which libraries choose their kernels and allocate."""
CONSTANTS = ("momentum", "dampening", "weight_decay", "nesterov", "betas", "eps", "amsgrad", "maximize")
"""Settings of a parameter group that a recorded update holds as they were."""

Recorder = Callable[[Callable[[], list[Tensor]]], tuple[list[Tensor], Callable[[], None]]]
"""Maps work on the device to the tensors it returns and a replay, which does it again and fills these."""


def record_cuda_graph(work: Callable[[], list[Tensor]]) -> tuple[list[Tensor], Callable[[], None]]:
    """The results of `work`, not yet filled, and the replay that fills them. Does `work` three times before.

    Raises RuntimeError where it cannot be recorded: it waits for the device, or does something on the host.
    """
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(WARM_UPS):
            work()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    # Other threads (a dashboard's) may call the device meanwhile without spoiling the recording.
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        results = work()
    return results, graph.replay


class GraphedStep:
    """`EagerStep` from recordings, made at the first batch and anew where another part of the network trains.

    Dropout draws from the device's global generator, whose state every replay reads and moves on, so what an
    epoch draws depends on the seed set at its start and not on when the recording was made: on one device, a
    resumed run has the bits of a straight one where `torch.backends.cudnn.deterministic` is set (by itself
    cuDNN adds up in any order). Against an eager run, equality is that of rounding.

    Where no recording can be made, every step is eager, after one warning.

    Args:
        model: What is trained; its tensors must stay where they are.
        optimizer: Over parameters of `model`, as `make_optimizer` groups them.
        config: Loss, clipping, optimizer.
        record: Makes the recordings.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        config: TrainConfig,
        record: Recorder = record_cuda_graph,
    ) -> None:
        self._model, self._config, self._record = model, config, record
        self._eager = EagerStep(model, optimizer, config)
        self._optimizer = optimizer
        self._recording: _Recording | None = None
        self._failed = False

    def begin_epoch(self, optimizer: torch.optim.Optimizer) -> None:
        """Step `optimizer` from now on; a recording in which other parts of the network train is dropped."""
        self._optimizer = optimizer
        self._eager.begin_epoch(optimizer)
        if self._recording is not None and self._recording.trains != _trains(self._model):
            self._recording.release()
            self._recording = None

    def __call__(
        self, images_BCHW: Tensor, labels_B: Tensor, on_gradients: OnGradients | None = None
    ) -> Tensor:
        """The batch's loss before the update; the next call overwrites it.

        Raises ValueError where the batch has another shape than the recorded one.
        """
        if self._recording is None and not self._failed:
            self._try_to_record(images_BCHW, labels_B)
        if self._recording is None:
            return self._eager(images_BCHW, labels_B, on_gradients)
        return self._recording.replay(self._optimizer, images_BCHW, labels_B, on_gradients)

    def _try_to_record(self, images_BCHW: Tensor, labels_B: Tensor) -> None:
        try:
            with undone(self._model, self._optimizer):
                self._recording = _Recording(self._model, self._config, images_BCHW, labels_B, self._record)
        except RuntimeError as error:
            self._failed = True
            reason = str(error).strip().split("\n")[0]
            warnings.warn(f"train.step=cuda_graph: not recorded, steps are eager ({reason})", stacklevel=4)


def _trains(model: nn.Module) -> list[bool]:
    """What decides which operations a step consists of."""
    return [p.requires_grad for p in model.parameters()] + [module.training for module in model.modules()]


def _constants(optimizer: torch.optim.Optimizer) -> list[tuple[Any, ...]]:
    return [tuple(group.get(name) for name in CONSTANTS) for group in optimizer.param_groups]


class _Recording:
    """Both graphs with the tensors they read and write; changes model and random state while it is made.

    The update is that of an optimizer of its own under the recipe's settings. Its state tensors are lent to
    the optimizer that is stepped, so that checkpoints and snapshots see them there.
    """

    def __init__(
        self, model: nn.Module, config: TrainConfig, images_BCHW: Tensor, labels_B: Tensor, record: Recorder
    ) -> None:
        self._model, self._config = model, config
        layout = torch.channels_last if config.channels_last is True else torch.preserve_format
        self._images_BCHW = images_BCHW.clone(memory_format=layout)
        self._labels_B = labels_B.clone()
        self._own = make_optimizer(model, config)
        for group in self._own.param_groups:
            group["lr"] = torch.tensor(float(group["lr"]), device=labels_B.device)
            if "capturable" in group:
                group["capturable"] = labels_B.device.type == "cuda"
        self._constants = _constants(self._own)
        self.trains = _trains(model)
        self._borrower: Any = None
        (self._loss, *self._gradients), self._replay_gradients = record(self._compute_gradients)
        _, self._replay_update = record(self._update)
        for held in self._own.state.values():
            for value in held.values():
                value.zero_()

    def _compute_gradients(self) -> list[Tensor]:
        for parameter in self._model.parameters():
            parameter.grad = None
        loss = training_loss(self._model, self._images_BCHW, self._labels_B, self._config)
        loss.backward()  # type: ignore[no-untyped-call]
        self._trained = [p for p in self._model.parameters() if p.grad is not None]
        return [loss.detach(), *(p.grad for p in self._trained if p.grad is not None)]

    def _update(self) -> list[Tensor]:
        self._show_gradients()
        self._clip()
        self._own.step()
        return []

    def _clip(self) -> None:
        if self._config.grad_clip is not None:
            nn.utils.clip_grad_norm_(self._model.parameters(), self._config.grad_clip)

    def _show_gradients(self) -> None:
        for parameter, gradient in zip(self._trained, self._gradients, strict=True):
            parameter.grad = gradient

    def replay(
        self,
        optimizer: torch.optim.Optimizer,
        images_BCHW: Tensor,
        labels_B: Tensor,
        on_gradients: OnGradients | None,
    ) -> Tensor:
        """One step of `optimizer` on a batch; returns the loss before it."""
        if images_BCHW.shape != self._images_BCHW.shape:
            recorded, given = tuple(self._images_BCHW.shape), tuple(images_BCHW.shape)
            raise ValueError(f"images of shape {given}, but the step was recorded for {recorded}")
        if optimizer.state is not self._borrower:
            self._lend(optimizer)
        self._images_BCHW.copy_(images_BCHW)
        self._labels_B.copy_(labels_B)
        self._replay_gradients()
        if on_gradients is not None:
            self._show_gradients()
            on_gradients()
        if _constants(optimizer) == self._constants:
            for own, group in zip(self._own.param_groups, optimizer.param_groups, strict=True):
                own["lr"].fill_(group["lr"])
            self._replay_update()
        else:  # a schedule that moves the momentum, which a recorded update holds as a constant
            self._show_gradients()
            self._clip()
            optimizer.step()
        return self._loss

    def _lend(self, optimizer: torch.optim.Optimizer) -> None:
        """Bring the state of `optimizer` to where the graph works, and let the optimizer hold it there.

        A fresh optimizer's state is zeros, which torch's SGD and Adam treat as they do an absent one.
        """
        self.release()
        for parameter, own in self._own.state.items():
            held = optimizer.state[parameter]
            for name, tensor in own.items():
                if held.get(name) is None:
                    tensor.zero_()
                else:
                    tensor.copy_(held[name])
                held[name] = tensor
        self._borrower = optimizer.state
        # torch warns where a scheduler moves before `optimizer.step`, which a replay does not call.
        optimizer._opt_called = True  # type: ignore[attr-defined]

    def release(self) -> None:
        """Give the optimizer that was stepped last a state of its own again."""
        for parameter, own in self._own.state.items() if self._borrower is not None else ():
            held = self._borrower.get(parameter, {})
            for name, tensor in own.items():
                if held.get(name) is tensor:
                    held[name] = tensor.clone()
        self._borrower = None
