"""What deciding by a controller costs on forks, and by the rules that learn nothing but a constant.

Legend: E examples.
"""

from __future__ import annotations

import numpy as np

from metalr.control import Controller, best_offset
from metalr.learning.controller import LearnedController
from metalr.learning.examples import Examples, regret_at
from metalr.learning.views import unprobed

__all__ = ["decided_log_peaks", "regrets_by_rule"]


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
