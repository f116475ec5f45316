"""Who sets the learning rate: hand schedules, the probe, the features, the envelope, `MetaLR`.

Reading order: `anchor` (the shape), `observation` and `features` (what is seen), `probe` (before the
first epoch), `decision` (from a prediction to a peak), `envelope` (the bounds), `scheduler` (all of it
as a torch scheduler), `schedules` (torch's own, by name).
"""

from metalr.control.anchor import anchor, equivalent_peak, mean_anchor
from metalr.control.decision import Controller, Decision, Prediction, best_offset
from metalr.control.features import FEATURE_GROUPS, FEATURE_NAMES, feature_row, feature_rows
from metalr.control.observation import Observation, Setting
from metalr.control.probe import ProbeCurve, lr_range_test
from metalr.control.scheduler import MetaLR
from metalr.control.schedules import SCHEDULE_NAMES, Schedule, anchored_schedule, make_schedule
from metalr.control.snapshot import Snapshot, weights_are_finite

__all__ = [
    "FEATURE_GROUPS",
    "FEATURE_NAMES",
    "SCHEDULE_NAMES",
    "Controller",
    "Decision",
    "MetaLR",
    "Observation",
    "Prediction",
    "ProbeCurve",
    "Schedule",
    "Setting",
    "Snapshot",
    "anchor",
    "anchored_schedule",
    "best_offset",
    "equivalent_peak",
    "feature_row",
    "feature_rows",
    "lr_range_test",
    "make_schedule",
    "mean_anchor",
    "weights_are_finite",
]
