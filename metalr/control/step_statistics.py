"""Gradient and update statistics, gathered by hooks on the optimizer's steps.

They mean what the training loop of this package means by them (`metalr.control.Observation`), but for
clipping: a gradient is measured as the optimizer gets it. Nothing waits for the device until they are read.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from metalr.control.norms import Sample, norm_of_all, norms_of, norms_of_samples
from metalr.control.snapshot import PROGRESS_SETTINGS

__all__ = ["StepStatistics"]

NUM_SAMPLES = 8
"""At most so many gradients of an epoch are measured; of the first, whose length is not known, up to 15."""
FEW_SAMPLES = 4
"""So many are enough where an epoch is short: of every step but one in four none is measured then."""


class StepStatistics:
    """Statistics of the optimizer steps since the last `reset`, which begins an epoch.

    Every step is sampled at first; at twice `NUM_SAMPLES` samples every other one is dropped, and from then
    on half as often sampled. After a whole epoch its number of steps is known, and 4 to 8 are sampled, in a
    longer one not more than every fourth.
    A step that a `GradScaler` skips calls no hook; one that it leaves to a fused optimizer to skip leaves a
    gradient that is not finite, which is then not counted. Steps inside `torch.compile` or a CUDA graph are
    not seen.

    Args:
        optimizer: Gets a hook before and one after its step; neither is part of its state, and both fall
            silent with this object. `close` takes them away.
        model: Whose weights are measured; None: those that the optimizer holds.
    """

    def __init__(self, optimizer: Optimizer, model: nn.Module | None = None) -> None:
        self._optimizer = optimizer
        self._model = model
        self.before_next_step: Callable[[], None] | None = None
        """Called once, before the next step."""
        self._steps_of_last_epoch: int | None = None
        self._is_scaled = False
        self._samples: list[Sample] = []
        self._start: list[tuple[Tensor, Tensor]] = []
        self._begin()
        self._handles = [
            optimizer.register_step_pre_hook(_weak(self._before_step)),
            optimizer.register_step_post_hook(_weak(self._after_step)),
        ]

    @property
    def steps_per_epoch(self) -> int | None:
        """Optimizer steps of the last whole epoch; None before its end."""
        return self._steps_of_last_epoch

    def close(self) -> None:
        """Take the hooks away; what was gathered stays readable."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def read(self) -> dict[str, float]:
        """The measurements by field of `Observation`, as far as they can be had. Waits for the device."""
        found: dict[str, float] = {}
        norms = self._norms()
        if norms:
            mean = sum(norms) / len(norms)
            found["grad_norm"] = mean
        if len(norms) > 1:
            found["grad_norm_sd"] = math.sqrt(sum((norm - mean) ** 2 for norm in norms) / len(norms))
        if self._num_steps:
            found["weight_norm"] = float(norm_of_all(self._parameters()))
        moved = self.update_norm
        return found if moved is None else found | {"update_norm": moved}

    @property
    @torch.no_grad()
    def update_norm(self) -> float | None:
        """How far the weights are from where they were at the epoch's start; None where that is not known."""
        if not self._start:
            return None
        moved = torch._foreach_sub([p.detach() for p, _ in self._start], [start for _, start in self._start])
        return float(norm_of_all(list(moved)))

    @property
    def start_norm(self) -> float | None:
        """The norm of the weights at the epoch's start; None where they are not known."""
        return float(norm_of_all(start for _, start in self._start)) if self._start else None

    @property
    def can_put_back(self) -> bool:
        """Whether the weights at the epoch's start are known, and are numbers."""
        norm = self.start_norm
        return norm is not None and math.isfinite(norm)

    @torch.no_grad()
    def put_back(self) -> None:
        """Give the weights their values from the epoch's start; the optimizer forgets its own state.

        An averaging optimizer's count of steps is put back too. Buffers, such as the running figures of a
        batch norm, are not known here and stay as they are.
        """
        for parameter, start in self._start:
            parameter.copy_(start)
        for group, settings in zip(self._optimizer.param_groups, self._progress, strict=False):
            group.update(settings)
        self._optimizer.state.clear()
        self._optimizer.zero_grad(set_to_none=True)

    def reset(self, *, is_whole_epoch: bool) -> None:
        """Begin anew; `is_whole_epoch` tells whether the steps since the last time were an epoch."""
        if is_whole_epoch and self._num_steps:
            self._steps_of_last_epoch = self._num_steps
        self._begin()

    def state_dict(self) -> dict[str, Any]:
        """Plain values to go on exactly at an epoch's end.

        Within an epoch all but the weights at its start, which are as large as the model: the update norm of
        an epoch that was interrupted is missing.
        """
        return {
            "num_steps": self._num_steps,
            "stride": self._stride,
            "norms": self._norms(),
            "steps_of_last_epoch": self._steps_of_last_epoch,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict`."""
        self._begin()
        self._num_steps, self._stride = state["num_steps"], state["stride"]
        self._samples = [([torch.tensor(norm, dtype=torch.float64)], None) for norm in state["norms"]]
        self._steps_of_last_epoch = state["steps_of_last_epoch"]
        self._misses_start = self._num_steps > 0

    def _begin(self) -> None:
        self._num_steps = 0
        self._samples, self._start = [], []
        self._progress: list[dict[str, Any]] = []
        self._misses_start = False
        self._is_due_after = False
        self._watched: list[nn.Parameter] = []
        known = self._steps_of_last_epoch
        self._stride = 1
        if known:
            self._stride = max(math.ceil(known / NUM_SAMPLES), min(FEW_SAMPLES, known // FEW_SAMPLES))

    def _before_step(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if _is_recorded():
            return
        if self.before_next_step is not None:
            once, self.before_next_step = self.before_next_step, None
            once()
        if not self._start and not self._misses_start:
            self._start = [
                (p, p.detach().clone()) for p in self._parameters() if p.requires_grad and p.numel()
            ]
            self._progress = [
                {key: group[key] for key in sorted(PROGRESS_SETTINGS & set(group))}
                for group in optimizer.param_groups
            ]
        if self._num_steps % self._stride == 0:
            # With a closure the gradients come to be inside the step; args[0] is the optimizer itself.
            closure = kwargs.get("closure", args[1] if len(args) > 1 else None)
            self._is_due_after = closure is not None
            if not self._is_due_after:
                self._sample(optimizer)
        self._num_steps += 1

    def _after_step(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self._is_due_after and not _is_recorded():
            self._is_due_after = False
            self._sample(optimizer)

    @torch.no_grad()
    def _sample(self, optimizer: Optimizer) -> None:
        if not self._num_steps or not self._watched:
            self._watched = list(self._parameters())  # walking through a deep model takes as long as a norm
        gradients = [p.grad for p in self._watched if p.grad is not None]
        if not gradients:
            return
        scale = getattr(optimizer, "grad_scale", None)
        if scale is not None:  # a fused optimizer divides by it, and skips what is not finite, by itself
            scale, self._is_scaled = scale.clone(), True
        self._samples.append((norms_of(gradients), scale))
        if len(self._samples) == 2 * NUM_SAMPLES:
            self._samples = self._samples[::2]
            self._stride *= 2

    def _norms(self) -> list[float]:
        if not self._samples:
            return []
        norms = norms_of_samples(self._samples)
        return [norm for norm in norms if math.isfinite(norm)] if self._is_scaled else norms

    def _parameters(self) -> Iterable[nn.Parameter]:
        if self._model is not None:
            return list(self._model.parameters())
        return [p for group in self._optimizer.param_groups for p in group["params"]]


def _is_recorded() -> bool:
    """Whether this step is being compiled or recorded, not made."""
    if torch.compiler.is_compiling():
        return True
    return torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing()  # type: ignore[no-untyped-call]


def _weak(method: Callable[..., None]) -> Callable[..., None]:
    """`method` without holding its object: the hooks of a scheduler that is gone do nothing."""
    reference = weakref.WeakMethod(method)

    def hook(optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        alive = reference()
        if alive is not None:
            alive(optimizer, args, kwargs)

    return hook
