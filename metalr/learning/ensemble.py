"""An ensemble of learners trained on forks.

Legend: E examples, B batch, T observations, F features, K candidates.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from metalr.config import MetaTrainConfig
from metalr.control import FEATURE_GROUPS
from metalr.learning.examples import Examples, joined
from metalr.learning.learners import Learner, make_learner
from metalr.learning.views import unprobed

__all__ = ["OnMetaEpoch", "train_ensemble"]

OnMetaEpoch = Callable[[], None]


def train_ensemble(
    inside: Examples, outside: Examples | None, name: str, config: MetaTrainConfig, tell: OnMetaEpoch
) -> tuple[list[Learner], list[dict[str, float]]]:
    """The members trained on `inside`, and a row per meta-epoch with their loss there and on `outside`."""
    if config.unprobed:
        inside = joined(joined(inside, unprobed(inside)), unprobed(inside, knows_model=True))
    members = [_new_member(inside, name, config, index) for index in range(config.ensemble)]
    return members, _train_members(members, inside, outside, config, tell)


def _new_member(examples: Examples, name: str, config: MetaTrainConfig, index: int) -> Learner:
    torch.manual_seed(config.seed * 1000 + index)
    num_features, num_candidates = examples.traces_ETF.shape[2], len(examples.log_offsets_K)
    member = make_learner(name, num_features, num_candidates, config.hidden, config.window)
    seen_EF = np.concatenate(
        [trace[: end + 1] for trace, end in zip(examples.traces_ETF, examples.positions_E, strict=True)]
    )
    mean, sd = _mean_and_sd(seen_EF, config.scale_tail)
    member.mean_F.copy_(torch.as_tensor(mean))
    member.sd_F.copy_(torch.as_tensor(np.where(sd > 1e-6, sd, 1.0)))
    return member


def _mean_and_sd(values_EF: np.ndarray, tail: float) -> tuple[np.ndarray, np.ndarray]:
    """Of each feature where it is present, its rarest values counted as no farther out than `tail` of all."""
    ordered_EF = np.sort(values_EF, axis=0)  # missing ones last
    last_F = np.maximum((~np.isnan(values_EF)).sum(axis=0) - 1, 0)
    columns = np.arange(values_EF.shape[1])
    lowest_F, highest_F = (
        ordered_EF[np.rint(share * last_F).astype(int), columns] for share in (tail, 1.0 - tail)
    )
    present = ~np.isnan(values_EF)
    within_EF = np.where(present, np.clip(values_EF, lowest_F, highest_F), 0.0)
    count = np.maximum(present.sum(axis=0), 1)
    mean = within_EF.sum(axis=0) / count
    sd = np.sqrt(np.where(present, (within_EF - mean) ** 2, 0.0).sum(axis=0) / count)
    return mean, sd


def _train_members(
    members: list[Learner],
    inside: Examples,
    outside: Examples | None,
    config: MetaTrainConfig,
    tell: OnMetaEpoch,
) -> list[dict[str, float]]:
    history: list[dict[str, float]] = []
    optimizers = [
        torch.optim.AdamW(member.parameters(), lr=config.lr, weight_decay=config.weight_decay)
        for member in members
    ]
    generator = torch.Generator().manual_seed(config.seed)
    for epoch in range(1, config.epochs + 1):
        losses = [
            _train_epoch(member, optimizer, inside, config, generator)
            for member, optimizer in zip(members, optimizers, strict=True)
        ]
        row = {"epoch": float(epoch), "train/loss": float(np.mean(losses))}
        if outside is not None:
            with torch.no_grad():
                outer = [float(_loss(member, *_tensors(outside, config), config)) for member in members]
            row["held_out/loss"] = float(np.mean(outer))
        history.append(row)
        tell()
    return history


def _train_epoch(
    member: Learner,
    optimizer: torch.optim.Optimizer,
    examples: Examples,
    config: MetaTrainConfig,
    generator: torch.Generator,
) -> float:
    losses = []
    order_E = torch.randperm(len(examples), generator=generator)
    for indices_B in torch.split(order_E, config.batch_size):
        traces, positions, targets, finals = _tensors(examples.subset(indices_B.numpy()), config)
        traces = _with_groups_hidden(traces, config.mask_rate, generator)
        loss = _loss(member, traces, positions, targets, finals, config)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(float(loss.detach()) * len(indices_B))
    return sum(losses) / len(examples)


def _tensors(examples: Examples, config: MetaTrainConfig) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    length = int(examples.positions_E.max()) + 1
    return (
        torch.as_tensor(examples.traces_ETF[:, :length], dtype=torch.float32),
        torch.as_tensor(examples.positions_E),
        torch.as_tensor(examples.log_targets_EK(config.label), dtype=torch.float32),
        torch.as_tensor(examples.log_best_loss_E, dtype=torch.float32),
    )


def _with_groups_hidden(traces_BTF: Tensor, rate: float, generator: torch.Generator) -> Tensor:
    """The traces with whole feature groups missing at random, alike along a trace."""
    hidden_BF = torch.zeros(traces_BTF.shape[0], traces_BTF.shape[2], dtype=torch.bool)
    for positions in FEATURE_GROUPS.values():
        drawn_B = torch.rand(traces_BTF.shape[0], generator=generator) < rate
        hidden_BF[:, list(positions)] = drawn_B[:, None]
    return traces_BTF.masked_fill(hidden_BF[:, None, :], float("nan"))


def _loss(
    member: Learner,
    traces_BTF: Tensor,
    positions_B: Tensor,
    targets_BK: Tensor,
    finals_B: Tensor,
    config: MetaTrainConfig,
) -> Tensor:
    heads_BTK = member(traces_BTF)
    heads_BK = heads_BTK[torch.arange(len(positions_B)), positions_B]
    known_BK = ~targets_BK.isnan()
    decision = functional.smooth_l1_loss(heads_BK[:, :-1][known_BK], targets_BK[known_BK])
    auxiliary = functional.smooth_l1_loss(heads_BK[:, -1], finals_B)
    return decision + config.meta_loss_weight * auxiliary
