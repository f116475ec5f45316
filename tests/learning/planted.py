"""A meta-dataset whose right answer is known: the best offset is one feature, and time is noise."""

import numpy as np

from metalr.control import FEATURE_NAMES
from metalr.learning.examples import Examples

OFFSETS = np.log(np.geomspace(1 / 8, 8, 7))
TELLING = FEATURE_NAMES.index("log_train_loss")


def planted_examples(num_groups: int = 24, per_group: int = 8, *, blind: bool = False) -> Examples:
    """Forks whose regret is the squared distance to an optimum told by `log_train_loss`, unless `blind`."""
    generator = np.random.default_rng(0)
    count = num_groups * per_group
    best = generator.uniform(-1.5, 1.5, count)
    traces = generator.normal(size=(count, 4, len(FEATURE_NAMES)))
    positions = generator.integers(0, 4, count)
    if not blind:
        traces[np.arange(count), positions, TELLING] = best
    regrets = (OFFSETS[None, :] - best[:, None]) ** 2 * 0.2
    return Examples(
        traces_ETF=traces,
        run_ids_E=np.array([f"r{index:03d}" for index in range(count)]),
        positions_E=positions,
        groups_E=np.array([f"g{index // per_group:02d}" for index in range(count)]),
        log_offsets_K=OFFSETS,
        regrets_EK=regrets - regrets.min(axis=1, keepdims=True),
        next_regrets_EK=np.abs(OFFSETS[None, :] + 2.0) * np.ones((count, 1)),
        log_best_loss_E=best * 0.5,
        log_reference_E=generator.normal(size=count),
        log_current_E=generator.normal(size=count),
    )
