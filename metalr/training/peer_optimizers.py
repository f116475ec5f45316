"""The peers' optimizers, from their authors' packages, and what a run needs beside: whole state, real LR.

Each is made as its authors advise. `effective_lr` is what multiplies the step's direction, as SGD's LR does.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import math
from collections.abc import Callable
from functools import cache
from typing import Any

import torch

from metalr.config import ConfigError, TrainConfig
from metalr.config.peers import PEERS
from metalr.training.hypergradient import HypergradientSGD

__all__ = ["PEER_OPTIMIZERS", "effective_lr", "make_peer_optimizer"]

PEER_OPTIMIZERS = frozenset(peer.optimizer for peer in PEERS.values())
"""The values of `train.optimizer` that are made here."""

WARMUP_FRACTION = 0.05
"""Schedule-Free's own warm-up ("recommended", its README), as a part of the budget."""
BATCH_NORM_DISTANCE = 1e-4
"""DoG's `reps_rel` for networks with batch norm (its README); 1e-6 without."""
AVERAGING_POWER = 8.0
"""DoG's polynomial-decay average (its README: gamma = 8)."""


def make_peer_optimizer(
    groups: list[dict[str, Any]], config: TrainConfig, budget_steps: int, has_batch_norm: bool
) -> torch.optim.Optimizer:
    """The optimizer `config` names, which is one of `PEER_OPTIMIZERS`.

    Args:
        groups: Parameter groups.
        config: Optimizer, LR, momentum, weight decay.
        budget_steps: Steps of the whole budget, for Schedule-Free's warm-up; 0 for none.
        has_batch_norm: Whether the network normalises by batch.

    Raises:
        ConfigError: its package is not installed, or it cannot keep the parameter groups' LRs.
    """
    if len({group["lr"] for group in groups if "lr" in group}) > 1:
        problem = f"{config.optimizer} finds one LR for all parameters: leave train.depth_groups out"
        raise ConfigError([f"train.optimizer: {problem}"])
    beta, decay, lr = config.momentum, config.weight_decay, config.lr
    warmup = math.ceil(WARMUP_FRACTION * budget_steps)
    distance = BATCH_NORM_DISTANCE if has_batch_norm else 1e-6
    makers: dict[str, Callable[[], Any]] = {
        "schedule_free_sgd": lambda: _schedule_free("SGD")(
            groups, lr=lr, momentum=beta, weight_decay=decay, warmup_steps=warmup
        ),
        "schedule_free_adamw": lambda: _schedule_free("AdamW")(
            groups, lr=lr, betas=(beta, config.beta2), weight_decay=decay, warmup_steps=warmup
        ),
        # Its README's plain form. Bias correction and the safeguard, advised for diffusion models, hold the
        # estimate back: with them 12 epochs ended at 27 % on CIFAR-10, and 6 at chance.
        "prodigy": lambda: _prodigy()(groups, lr=lr, betas=(beta, config.beta2), weight_decay=decay),
        "dadapt_sgd": lambda: _dadapt_sgd()(groups, lr=lr, momentum=beta, weight_decay=decay),
        "dog": lambda: _averaged_dog()(groups, lr=lr, reps_rel=distance, weight_decay=decay),
        "mechanic_sgd": lambda: _mechanic_sgd()(groups, lr=lr, momentum=beta, weight_decay=decay),
        "hypergradient_sgd": lambda: HypergradientSGD(groups, lr=lr, momentum=beta, weight_decay=decay),
    }  # fmt: skip
    with contextlib.redirect_stdout(io.StringIO()):  # Prodigy prints what it was asked for
        made: torch.optim.Optimizer = makers[config.optimizer]()
    return made


def effective_lr(optimizer: torch.optim.Optimizer) -> Any:
    """What multiplied the direction of the last step in the first parameter group: a number, or its tensor.

    The group's LR for torch's own optimizers; for Schedule-Free with its warm-up, for Prodigy, D-Adaptation
    and Mechanic times their estimate, for DoG the estimate, for the hypergradient where it has moved it.
    """
    own = getattr(optimizer, "effective_lr", None)
    return optimizer.param_groups[0]["lr"] if own is None else own


def _package(method_module: str) -> Any:
    try:
        return importlib.import_module(method_module)
    except ImportError:
        name = next(peer.package for peer in PEERS.values() if peer.module == method_module)
        problem = f"it needs the package {name}, which is not installed: pip install 'metalr[peers]'"
        raise ConfigError([f"train.optimizer: {problem}"]) from None


@cache
def _schedule_free(base: str) -> Any:
    package = _package("schedulefree")

    class ScheduleFree(getattr(package, f"{base}ScheduleFree")):  # type: ignore[misc]
        """In training mode from the start."""

        def __init__(self, *arguments: Any, **settings: Any) -> None:
            super().__init__(*arguments, **settings)
            self.train()

        @property
        def effective_lr(self) -> float:
            group = self.param_groups[0]
            return float(group.get("scheduled_lr", 0.0) or group["lr"])

        @torch.no_grad()
        def put_average(self) -> None:
            """Turn the weights into the average that is used; the caller keeps a copy of what they were."""
            self.eval()
            for group in self.param_groups:
                group["train_mode"] = True

    return ScheduleFree


@cache
def _prodigy() -> Any:
    class Prodigy(_package("prodigyopt").Prodigy):  # type: ignore[misc]
        """With the LR in effect."""

        @property
        def effective_lr(self) -> float:
            group = self.param_groups[0]
            return float(group["d"]) * float(group["lr"])

    return Prodigy


@cache
def _dadapt_sgd() -> Any:
    class DAdaptSGD(_package("dadaptation").DAdaptSGD):  # type: ignore[misc]
        """With the LR in effect."""

        @property
        def effective_lr(self) -> float:
            group = self.param_groups[0]
            return float(group["d"]) * float(group["lr"]) / float(group.get("g0_norm", 1.0))

    return DAdaptSGD


@cache
def _averaged_dog() -> Any:
    class AveragedDoG(_package("dog").DoG):  # type: ignore[misc]
        """DoG with the polynomial-decay average of its iterates (Shamir and Zhang 2013) in its state."""

        @torch.no_grad()
        def step(self, closure: Any = None) -> Any:
            """One step, then the average."""
            loss = super().step(closure)
            for group in self.param_groups:
                count = group["num_averaged"] = group.get("num_averaged", 0) + 1
                weight = (AVERAGING_POWER + 1.0) / (AVERAGING_POWER + count)
                for p in group["params"]:
                    average = self.state[p].setdefault("average", p.detach().clone())
                    average.lerp_(p, weight)
            return loss

        @property
        def effective_lr(self) -> Any:
            group = self.param_groups[0]
            return group["eta"][0] if "eta" in group else group["lr"]

        @torch.no_grad()
        def put_average(self) -> None:
            """Turn the weights into the average that is used; the caller keeps a copy of what they were."""
            for group in self.param_groups:
                for p in group["params"]:
                    if "average" in self.state[p]:
                        p.copy_(self.state[p]["average"])

    return AveragedDoG


@cache
def _mechanic_sgd() -> Any:
    class MechanicSGD(_package("mechanic_pytorch").mechanize(torch.optim.SGD)):  # type: ignore[misc]
        """With a state dict: the package keys its own state by parameter, which no file can hold."""

        @property
        def effective_lr(self) -> float:
            scale = self.state["_mechanic"]["s"].sum() if "_mechanic" in self.state else 0.0
            return float(scale) * float(self.param_groups[0]["lr"])

        def _parameters(self) -> list[Any]:
            return [p for group in self.param_groups for p in group["params"]]

        def state_dict(self) -> dict[str, Any]:
            """torch's layout; `mechanic` holds the package's own, by the parameters' places."""
            own = self.state.pop("_mechanic", None)
            found: dict[str, Any] = super().state_dict()
            if own is not None:
                self.state["_mechanic"] = own
                places = {id(p): place for place, p in enumerate(self._parameters())}
                by_place = _with_keys(own, lambda key: places.get(id(key), key))
                found = found | {"mechanic": by_place}
            return found

        def load_state_dict(self, state_dict: dict[str, Any]) -> None:
            """The state of `state_dict`."""
            state = dict(state_dict)
            own = state.pop("mechanic", None)
            super().load_state_dict(state)
            self.state.pop("_mechanic", None)
            if own is not None:
                parameters = self._parameters()
                self.state["_mechanic"] = _with_keys(
                    own, lambda key: parameters[key] if isinstance(key, int) else key
                )

    return MechanicSGD


def _with_keys(values: dict[Any, Any], name: Callable[[Any], Any]) -> dict[Any, Any]:
    """A copy of a nested dictionary with its keys renamed; its tensors are not shared."""
    return {
        name(key): _with_keys(value, name)
        if isinstance(value, dict)
        else value.clone()
        if isinstance(value, torch.Tensor)
        else value
        for key, value in values.items()
    }
