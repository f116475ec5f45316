"""Who sets the learning rate: hand schedules, the probe, the features, the envelope, `MetaLR`.

Reading order: `anchor` (the shape), `observation` and `features` (what is seen), `ramp` and `undo` (trial
steps on a rising LR, and how they are taken back), `probe` (both of them, before the first epoch), `finder`
and `finder_rules` (the same for anyone's model), `decision` (from a prediction to a peak), `envelope` (the
bounds), `law` (one decision, pure), `metrics` and `step_statistics` (what a loop shows), `autopilot` and
`scheduler` (all of it as a torch scheduler), `schedules` (the hand schedules by name; it lists the modules
behind it).
"""

from metalr.control.anchor import (
    Anchor,
    anchor_for,
    averages_iterates,
    scales_gradients,
    usual_rise,
    warmup_fraction,
)
from metalr.control.attention import num_attention_layers
from metalr.control.decision import Controller, Decision, Prediction, best_offset
from metalr.control.depth import num_plain_layers
from metalr.control.features import (
    FEATURE_GROUPS,
    FEATURE_NAMES,
    before_training,
    feature_row,
    feature_rows,
    reference_lr,
)
from metalr.control.finder import LRFinderResult, find_lr
from metalr.control.finder_rules import FinderCurve, Suggestion, suggest, suggested_lr, suggestions_of
from metalr.control.greedy import GreedyLR
from metalr.control.normalisation import has_plain_head, normalises
from metalr.control.observation import Observation, Setting
from metalr.control.probe import lr_range_test
from metalr.control.probe_curve import ProbeCurve, usual_lr
from metalr.control.schedule_fit import schedule_notes, schedule_problems
from metalr.control.schedule_preview import pretend_validation_loss, schedule_preview
from metalr.control.scheduler import MetaLR
from metalr.control.schedules import SCHEDULE_NAMES, Schedule, anchored_schedule, make_schedule
from metalr.control.snapshot import Snapshot, weights_are_finite
from metalr.control.undo import undone
from metalr.control.warmup import WarmupLR

__all__ = [
    "FEATURE_GROUPS",
    "FEATURE_NAMES",
    "SCHEDULE_NAMES",
    "Anchor",
    "Controller",
    "Decision",
    "FinderCurve",
    "GreedyLR",
    "LRFinderResult",
    "MetaLR",
    "Observation",
    "Prediction",
    "ProbeCurve",
    "Schedule",
    "Setting",
    "Snapshot",
    "Suggestion",
    "WarmupLR",
    "anchor_for",
    "anchored_schedule",
    "averages_iterates",
    "before_training",
    "best_offset",
    "feature_row",
    "feature_rows",
    "find_lr",
    "has_plain_head",
    "lr_range_test",
    "make_schedule",
    "normalises",
    "num_attention_layers",
    "num_plain_layers",
    "pretend_validation_loss",
    "reference_lr",
    "scales_gradients",
    "schedule_notes",
    "schedule_preview",
    "schedule_problems",
    "suggest",
    "suggested_lr",
    "suggestions_of",
    "undone",
    "usual_lr",
    "usual_rise",
    "warmup_fraction",
    "weights_are_finite",
]
