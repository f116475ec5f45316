"""metalr: a meta-learned learning-rate controller for PyTorch.

Read the package in this order; a module imports only what stands above it.

1. `metalr.config`      one typed, validated experiment: recipe file, overrides, identity
2. `metalr.tasks`       the inner problem: images, networks, splits
3. `metalr.control`     who sets the learning rate: schedules, probe, features, `MetaLR`
4. `metalr.training`    one run: the only training loop, its records and checkpoints
5. `metalr.harvest`     many runs, forked to find out which next learning rate was best
6. `metalr.learning`    meta-dataset -> controller: learners, fitting, the shipped controller
7. `metalr.comparison`  who is better: paired statistics, tables, figures, report
8. `metalr.stages`      the pipeline; `metalr.single_runs` and `metalr.ablations`, the verbs about one network
                        and about two recipes; `metalr.cli`, the command over them

The public names below are imported at first use, so that `import metalr` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from metalr.config import ConfigError, ExperimentConfig, load_config
    from metalr.control.finder import find_lr
    from metalr.control.scheduler import MetaLR
    from metalr.learning.controller import load_controller

__version__ = "0.1.0"

__all__ = [
    "ConfigError",
    "ExperimentConfig",
    "MetaLR",
    "__version__",
    "find_lr",
    "load_config",
    "load_controller",
]

_HOMES = {
    "ConfigError": "metalr.config",
    "ExperimentConfig": "metalr.config",
    "MetaLR": "metalr.control.scheduler",
    "find_lr": "metalr.control.finder",
    "load_config": "metalr.config",
    "load_controller": "metalr.learning.controller",
}
"""Where each public name lives; `tests/test_import_order.py` reads this table."""


def __getattr__(name: str) -> Any:
    """The public name, imported from its home at first use. Raises AttributeError for any other."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
