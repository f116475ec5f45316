"""K copies of one network, stacked and trained on the same batches, each at its own LR.

Every weight, batch-norm buffer and momentum has a leading axis of copies; forward and backward run under
`torch.func.vmap`, and the update is torch's SGD written out on the stacked tensors.

Legend: K copies, G parameter groups, S steps of an epoch.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.func import functional_call, vmap

from metalr.control.schedules import Schedule
from metalr.control.undo import undone
from metalr.training.graphed_step import Recorder, record_cuda_graph
from metalr.training.loop import Training, epoch_batches, evaluate, seeded
from metalr.training.param_groups import apply_freezing
from metalr.training.recipe import training_loss

__all__ = ["Stack"]


class Stack:
    """K copies of a network in training; `candidates[k]` says which branch copy k is."""

    def __init__(self, branch: Training, peak_lrs: Sequence[float], record: Recorder | None = None) -> None:
        on_gpu = branch.device.type == "cuda"
        self._branch, self._record = branch, record or (record_cuda_graph if on_gpu else None)
        self.candidates = list(range(len(peak_lrs)))
        self._peak_lrs_K = torch.tensor(list(peak_lrs), dtype=torch.float64, device=branch.device)
        state = branch.optimizer.state
        self._tensors: dict[str, dict[str, Tensor]] = {"parameter": {}, "buffer": {}, "momentum": {}}
        for name, parameter in branch.model.named_parameters():
            self._tensors["parameter"][name] = self._copies(parameter)
            momentum = state.get(parameter, {}).get("momentum_buffer")
            # torch begins with the first gradient, which is what zeros lead to.
            momentum = torch.zeros_like(parameter) if momentum is None else momentum
            self._tensors["momentum"][name] = self._copies(momentum)
        for name, buffer in branch.model.named_buffers():
            self._tensors["buffer"][name] = self._copies(buffer)
        self._begin()

    def _copies(self, tensor: Tensor) -> Tensor:
        return tensor.detach().expand(len(self.candidates), *tensor.shape).clone()

    def _begin(self) -> None:
        """Take note of who trains, and of how many copies; what was recorded before is of no use."""
        self._trained_by_group = self._trained()
        trained = {name for names in self._trained_by_group for name in names}
        for name, stacked in self._tensors["parameter"].items():
            stacked.requires_grad_(name in trained)
        num_groups = len(self._trained_by_group)
        self._lrs_GK = torch.zeros(num_groups, len(self.candidates), device=self._branch.device)
        self._losses_K: Tensor | None = None

    def _trained(self) -> list[list[str]]:
        """The names of the parameters that train now, by parameter group."""
        named = self._branch.model.named_parameters()
        names = {parameter: name for name, parameter in named if parameter.requires_grad}
        groups = self._branch.optimizer.param_groups
        return [[names[p] for p in group["params"] if p in names] for group in groups]

    def keep(self, positions: list[int]) -> None:
        """Go on with the copies at these positions alone."""
        if len(positions) == len(self.candidates):
            return
        self.candidates = [self.candidates[position] for position in positions]
        chosen = torch.tensor(positions, dtype=torch.int64, device=self._branch.device)
        self._peak_lrs_K = self._peak_lrs_K[chosen]
        for tensors in self._tensors.values():
            for name, stacked in tensors.items():
                tensors[name] = stacked.detach()[chosen]
        self._begin()

    def train_epoch(self, schedule: Schedule) -> list[bool]:
        """Train the branch's epoch; returns for each copy whether its losses were finite."""
        branch, steps = self._branch, self._branch.num_steps
        apply_freezing(branch.model, branch.config, branch.epoch)
        if self._trained_by_group != self._trained():
            self._begin()
        losses_SK = torch.empty(steps, len(self.candidates), device=branch.device)
        with seeded(branch.seed, branch.epoch, branch.device, "model"):
            for step, (images_BCHW, labels_B) in enumerate(epoch_batches(branch)):
                for lrs_K, group in zip(self._lrs_GK, schedule.scheduler.optimizer.param_groups, strict=True):
                    lrs_K.copy_(self._peak_lrs_K * group["lr"])
                losses_SK[step] = self._train_batch(images_BCHW, labels_B)
                schedule.scheduler.step()
        finite: list[bool] = losses_SK.isfinite().all(dim=0).tolist()
        return finite

    def outer_loss(self, position: int) -> float | None:
        """The `outer_valid` loss of a copy, by `Task.in_nats`; None: not finite. Puts it into the model."""
        branch = self._branch
        with torch.no_grad():
            for name, parameter in branch.model.named_parameters():
                parameter.copy_(self._tensors["parameter"][name][position])
            for name, buffer in branch.model.named_buffers():
                buffer.copy_(self._tensors["buffer"][name][position])
        loss = evaluate(branch.model, branch.task, "outer_valid", branch.config).loss
        return branch.task.in_nats(loss) if loss < float("inf") else None

    def _train_batch(self, images_BCHW: Tensor, labels_B: Tensor) -> Tensor:
        if self._record is None:
            return self._step(images_BCHW, labels_B)
        if self._losses_K is None:
            self._images_BCHW, self._labels_B = images_BCHW.clone(), labels_B.clone()
            self._losses_K = self._recorded(self._record)
        if self._losses_K is None:
            return self._step(images_BCHW, labels_B)
        self._images_BCHW.copy_(images_BCHW)
        self._labels_B.copy_(labels_B)
        self._replay()
        return self._losses_K

    def _recorded(self, record: Recorder) -> Tensor | None:
        """Record a step on the static batch, and put back what its rehearsals moved; None where it fails."""
        held = [stacked.detach() for tensors in self._tensors.values() for stacked in tensors.values()]
        before = [tensor.clone() for tensor in held]
        try:
            with undone(self._branch.model, self._branch.optimizer):
                (losses_K,), self._replay = record(lambda: [self._step(self._images_BCHW, self._labels_B)])
        except RuntimeError as error:
            self._record = None
            reason = str(error).strip().split("\n")[0]
            warnings.warn(f"branches train together without a CUDA graph ({reason})", stacklevel=2)
            return None
        finally:
            for tensor, bits in zip(held, before, strict=True):
                tensor.copy_(bits)
        return losses_K

    def _step(self, images_BCHW: Tensor, labels_B: Tensor) -> Tensor:
        """The losses of the copies on a batch, shape (K,), before their update."""
        model, config = self._branch.model, self._branch.config

        def loss_of(parameters: dict[str, Tensor], buffers: dict[str, Tensor]) -> Tensor:
            def forward(images_BCHW: Tensor) -> Tensor:
                logits: Tensor = functional_call(model, (parameters, buffers), (images_BCHW,))
                return logits

            return training_loss(forward, images_BCHW, labels_B, config)

        parameters = self._tensors["parameter"]
        losses_K = vmap(loss_of, randomness="same")(parameters, self._tensors["buffer"])
        trained = [name for names in self._trained_by_group for name in names]
        # A copy's loss depends on its own weights alone, so the sum's gradient is each copy's own.
        found = torch.autograd.grad(losses_K.sum(), [parameters[name] for name in trained])
        self._update(dict(zip(trained, found, strict=True)))
        return losses_K.detach()

    @torch.no_grad()
    def _update(self, gradients: dict[str, Tensor]) -> None:
        """SGD with momentum, each copy at its own LR and clipped by its own gradient's norm."""
        clip = self._branch.config.grad_clip
        scale_K = _clip_factors(gradients, clip) if clip is not None else None
        for names, lrs_K, group in zip(
            self._trained_by_group, self._lrs_GK, self._branch.optimizer.param_groups, strict=True
        ):
            for name in names:
                parameter, gradient = self._tensors["parameter"][name], gradients[name]
                if scale_K is not None:
                    gradient = gradient * _per_copy(scale_K, gradient)
                if group["weight_decay"] != 0.0:
                    gradient = gradient.add(parameter, alpha=group["weight_decay"])
                if group["momentum"] != 0.0:
                    momentum = self._tensors["momentum"][name].mul_(group["momentum"]).add_(gradient)
                    gradient = (
                        gradient.add(momentum, alpha=group["momentum"]) if group["nesterov"] else momentum
                    )
                parameter.sub_(_per_copy(lrs_K, gradient) * gradient)


def _per_copy(values_K: Tensor, like: Tensor) -> Tensor:
    """`values_K`, one for each copy in the leading axis of `like`."""
    return values_K.view(-1, *[1] * (like.ndim - 1))


def _clip_factors(gradients: dict[str, Tensor], clip: float) -> Tensor:
    """What each copy's gradient is multiplied by, shape (K,), as torch's `clip_grad_norm_` does it."""
    norms = torch.stack([torch.linalg.vector_norm(g.flatten(1), dim=1) for g in gradients.values()])
    factors_K: Tensor = clip / (torch.linalg.vector_norm(norms, dim=0) + 1e-6)
    return factors_K.clamp(max=1.0)
