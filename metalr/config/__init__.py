"""One typed, frozen, validated experiment: models, loading from YAML with overrides, identity.

* `schedules`: the settings of every hand schedule.
* `task`, `train`, `control`, `models`: what an experiment is, field by field, with unit, meaning and default.
* `loading`: recipe file + ``key=value`` overrides -> `ExperimentConfig`, or every mistake at once.
* `identity`: the hash under which a run is known.
"""

from metalr.config.control import ControlConfig, FinderConfig, ProbeConfig
from metalr.config.identity import canonical_json, run_id, short_hash
from metalr.config.loading import ConfigError, apply_overrides, load_config
from metalr.config.models import (
    CompareConfig,
    DataConfig,
    ExperimentConfig,
    HarvestConfig,
    MetaTrainConfig,
    WandbConfig,
)
from metalr.config.schedules import SchedulesConfig
from metalr.config.task import TaskConfig
from metalr.config.train import DepthGroup, EarlyStoppingConfig, TrainConfig

__all__ = [
    "CompareConfig",
    "ConfigError",
    "ControlConfig",
    "DataConfig",
    "DepthGroup",
    "EarlyStoppingConfig",
    "ExperimentConfig",
    "FinderConfig",
    "HarvestConfig",
    "MetaTrainConfig",
    "ProbeConfig",
    "SchedulesConfig",
    "TaskConfig",
    "TrainConfig",
    "WandbConfig",
    "apply_overrides",
    "canonical_json",
    "load_config",
    "run_id",
    "short_hash",
]
