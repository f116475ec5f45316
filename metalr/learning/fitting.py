"""Meta-training: fit an ensemble on the forks, and hold it against the trivial rules on held-out ones.

Legend: E examples, B batch, T observations, F features, K candidates.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from metalr.config import MetaTrainConfig
from metalr.control import FEATURE_GROUPS, Controller, best_offset
from metalr.learning.controller import LearnedController
from metalr.learning.examples import Examples, joined, regret_at
from metalr.learning.learners import Learner, make_learner
from metalr.learning.task_groups import fold_of_groups
from metalr.learning.views import unprobed

__all__ = [
    "Fit",
    "controller_of",
    "decided_log_peaks",
    "fit",
    "num_passes",
    "regrets_by_rule",
    "train_ensemble",
]

NUM_RESAMPLES = 9999
"""Of the bootstrap over task groups."""

OnMetaEpoch = Callable[[], None]


@dataclass(frozen=True)
class Fit:
    """A trained ensemble and what its kind showed on held-out task groups."""

    members: list[Learner]
    """Trained on the examples of all groups."""
    history: list[dict[str, float]]
    """One row per meta-epoch: `epoch`, `train/loss` of the members, `held_out/loss` over the folds."""
    held_out: dict[str, float]
    """Mean final regret in nats by decision rule, over all forks, each judged by an ensemble that saw no fork
    of its group; `learned_se` (standard error over groups), `gain_over_anchor` (mean over groups of the
    regret of the best fixed multiple of the probe's reference, minus the learned one) with the lower end of
    its 95 % interval, `gain_over_anchor_low`; `num_forks`, `num_groups`, `num_folds`."""
    wall_time_s: float


def fit(examples: Examples, name: str, config: MetaTrainConfig, on_epoch: OnMetaEpoch | None = None) -> Fit:
    """The learner `name` trained on all examples, and cross-validated over their task groups.

    The loss is that of the regret head, plus `config.meta_loss_weight` times that of the final-loss head.
    Same examples, same config: same bits.

    Args:
        examples: From `make_examples`.
        name: `mlp` or `lstm`.
        config: Adam's settings, ensemble, folds.
        on_epoch: Called after each of the `num_passes` passes.

    Raises:
        ArtifactError: fewer than two task groups.
        ValueError: an unknown learner.
    """
    started = time.perf_counter()
    torch.set_num_threads(1)
    tell = on_epoch or (lambda: None)
    with torch.random.fork_rng(devices=[]):
        figures, held_out_losses = _cross_validate(examples, name, config, tell)
        members, history = train_ensemble(examples, None, name, config, tell)
    for row, loss in zip(history, held_out_losses, strict=True):
        row["held_out/loss"] = loss
    return Fit(members, history, figures, time.perf_counter() - started)


def num_passes(examples: Examples, config: MetaTrainConfig) -> int:
    """How often `fit` goes through its examples: every meta-epoch of every fold and of the final ensemble."""
    num_groups = len(np.unique(examples.groups_E))
    return config.epochs * (min(config.num_folds, num_groups) + 1)


def _cross_validate(
    examples: Examples, name: str, config: MetaTrainConfig, tell: OnMetaEpoch
) -> tuple[dict[str, float], list[float]]:
    """The held-out figures over all folds, and the mean held-out loss after each meta-epoch."""
    fold_E = fold_of_groups(examples.groups_E, config.num_folds, config.seed)
    losses, groups = [], []
    regrets: dict[str, list[np.ndarray]] = {}
    for fold in range(int(fold_E.max()) + 1):
        inside, outside = examples.subset(fold_E != fold), examples.subset(fold_E == fold)
        members, history = train_ensemble(inside, outside, name, config, tell)
        losses.append([row["held_out/loss"] for row in history])
        groups.append(outside.groups_E)
        controller = controller_of(members, inside, config)
        for rule, regret_E in regrets_by_rule(controller, inside, outside).items():
            regrets.setdefault(rule, []).append(regret_E)
    figures = {rule: float(np.concatenate(parts).mean()) for rule, parts in regrets.items()}
    groups_E = np.concatenate(groups)
    by_group = _group_means(np.concatenate(regrets["learned"]), groups_E)
    gains = _group_means(np.concatenate(regrets["best_fixed_multiple"]), groups_E) - by_group
    figures |= {
        "learned_se": float(by_group.std(ddof=1) / np.sqrt(len(by_group))),
        "gain_over_anchor": float(gains.mean()),
        "gain_over_anchor_low": _lower_bound(gains, config.seed),
        "num_forks": float(len(examples)),
        "num_groups": float(len(by_group)),
        "num_folds": float(len(losses)),
    }
    return figures, np.mean(losses, axis=0).tolist()


def controller_of(members: list[Learner], examples: Examples, config: MetaTrainConfig) -> LearnedController:
    """The members as a controller that leans on the prior of the `examples` they were trained on.

    It takes every feature as it is: what is held out is judged without the bound to what was seen.
    """
    prior = examples.prior_K(config.label).tolist()
    return LearnedController(members, examples.log_offsets_K.tolist(), prior=prior, trust=config.trust)


def _lower_bound(gains: np.ndarray, seed: int) -> float:
    """The lower end of the 95 % percentile bootstrap interval of the mean, over task groups."""
    generator = np.random.default_rng(seed)
    resampled = generator.choice(gains, (NUM_RESAMPLES, len(gains))).mean(axis=1)
    return float(np.quantile(resampled, 0.025))


def _group_means(values_E: np.ndarray, groups_E: np.ndarray) -> np.ndarray:
    return np.array([values_E[groups_E == group].mean() for group in np.unique(groups_E)])


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
    present = ~np.isnan(seen_EF)
    count = np.maximum(present.sum(axis=0), 1)
    mean = np.where(present, seen_EF, 0.0).sum(axis=0) / count
    sd = np.sqrt(np.where(present, (seen_EF - mean) ** 2, 0.0).sum(axis=0) / count)
    member.mean_F.copy_(torch.as_tensor(mean))
    member.sd_F.copy_(torch.as_tensor(np.where(sd > 1e-6, sd, 1.0)))
    return member


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


def decided_log_peaks(controller: Controller, examples: Examples) -> np.ndarray:
    """The log peak LR (E,) the controller chooses at each fork, fed its trace step by step as live."""
    chosen = []
    for trace_TF, end, log_reference in zip(
        examples.traces_ETF, examples.positions_E, examples.log_reference_E, strict=True
    ):
        state = controller.initial_state()
        for features_F in trace_TF[: end + 1]:
            state, prediction = controller.step(state, features_F)
        chosen.append(log_reference + best_offset(controller.log_offsets, prediction.log_regrets))
    return np.array(chosen)


def regrets_by_rule(
    controller: LearnedController, inside: Examples, outside: Examples
) -> dict[str, np.ndarray]:
    """The final regret in nats (E,) of each decision rule on `outside`; constants are fitted on `inside`.

    `learned`; `learned_unprobed` (the same without a probe); `keep` (the LR the run had); `best_fixed_lr`
    (one peak for all); `best_fixed_multiple` (one multiple of the probe's reference for all); `greedy_label`
    (the best LR of the next epoch, followed exactly). The best candidate has regret zero by definition and is
    left out.
    """
    grid = np.log(np.geomspace(1e-4, 10.0, 51))
    fixed = min(grid, key=lambda peak: regret_at(inside, np.full(len(inside), peak)).mean())
    multiple = min(inside.log_offsets_K, key=lambda m: regret_at(inside, inside.log_reference_E + m).mean())
    greedy = outside.log_offsets_K[np.nanargmin(outside.next_regrets_EK, axis=1)]
    log_peaks = {
        "learned": decided_log_peaks(controller, outside),
        "learned_unprobed": decided_log_peaks(controller, unprobed(outside)),
        "keep": outside.log_current_E,
        "best_fixed_lr": np.full(len(outside), fixed),
        "best_fixed_multiple": outside.log_reference_E + multiple,
        "greedy_label": outside.log_reference_E + greedy,
    }
    return {rule: regret_at(outside, chosen) for rule, chosen in log_peaks.items()}
