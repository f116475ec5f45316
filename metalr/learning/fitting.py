"""Meta-training: fit an ensemble on the forks, and hold it against the trivial rules on held-out ones.

Legend: E examples, K candidates.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import torch

from metalr.config import MetaTrainConfig
from metalr.learning.controller import LearnedController
from metalr.learning.ensemble import OnMetaEpoch, train_ensemble
from metalr.learning.examples import Examples
from metalr.learning.learners import Learner
from metalr.learning.rules import regrets_by_rule
from metalr.learning.task_groups import fold_of_groups

__all__ = ["Fit", "controller_of", "fit", "num_passes"]

NUM_RESAMPLES = 9999
"""Of the bootstrap over task groups."""


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
