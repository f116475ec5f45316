"""One typed, frozen, validated experiment: models, loading from YAML with overrides, identity.

* `schedules`: the settings of every hand schedule.
* `models`: what an experiment is, field by field, with unit, meaning and default.
* `loading`: recipe file + ``key=value`` overrides -> `ExperimentConfig`, or every mistake at once.
* `identity`: the hash under which a run is known.
"""

from metalr.config.identity import canonical_json, run_id, short_hash
from metalr.config.loading import ConfigError, apply_overrides, load_config
from metalr.config.models import (
    CompareConfig,
    ControlConfig,
    DataConfig,
    DepthGroup,
    EarlyStoppingConfig,
    ExperimentConfig,
    FinderConfig,
    HarvestConfig,
    MetaTrainConfig,
    ProbeConfig,
    TaskConfig,
    TrainConfig,
    WandbConfig,
)
from metalr.config.schedules import SchedulesConfig

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
