"""A model of one weight under schedulers of all kinds: what LRs they set, and what they saw."""

from collections.abc import Sequence

import torch
from torch.optim import Optimizer

LOSSES = (1.0, 0.8, 0.7, 0.65, 0.6, 0.58)


def make_optimizer(lrs: Sequence[float] = (0.1,)) -> Optimizer:
    groups = [{"params": [torch.nn.Parameter(torch.ones(2))], "lr": lr} for lr in lrs]
    return torch.optim.SGD(groups, lr=1.0)


def one_step(optimizer: Optimizer) -> float:
    """Take one, and return the LR it was taken with."""
    lr = float(optimizer.param_groups[0]["lr"])
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = 0.1 * parameter.detach()
    optimizer.step()
    return lr


def reloaded(optimizer: Optimizer, lrs: Sequence[float] = (0.1,)) -> Optimizer:
    """A new optimizer with the saved state of `optimizer`."""
    other = make_optimizer(lrs)
    other.load_state_dict(optimizer.state_dict())
    return other
