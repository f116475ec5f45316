"""One run: the only training loop, checkpoints, records, and the dashboard's mirror.

Reading order: `records` (what a run is and leaves), `param_groups` (who trains, at which LR), `recipe` (loss
and optimizer), `step` (a batch; `eager_step`, `graphed_step`), `evaluation`, `loop` (an epoch), `together`
and `stack` (branches of a fork at once), `early_stopping`, `probing` (batches and cost of the probe),
`live_run` (started or gone on with), `run` (to the committed result), `checkpoint` (going on after a kill),
`artifacts` (files), `tracking` (W&B).
"""

from metalr.training.artifacts import ArtifactError
from metalr.training.live_run import LiveRun
from metalr.training.loop import (
    Training,
    evaluate,
    evaluate_splits,
    make_optimizer,
    train_epoch,
    training_loss,
)
from metalr.training.param_groups import apply_freezing, parameter_groups
from metalr.training.probing import steps_per_epoch
from metalr.training.records import RunRecord, RunStore
from metalr.training.run import hardware, package_versions, train_run
from metalr.training.specs import ForkPlan, Job, RunSpec

__all__ = [
    "ArtifactError",
    "ForkPlan",
    "Job",
    "LiveRun",
    "RunRecord",
    "RunSpec",
    "RunStore",
    "Training",
    "apply_freezing",
    "evaluate",
    "evaluate_splits",
    "hardware",
    "make_optimizer",
    "package_versions",
    "parameter_groups",
    "steps_per_epoch",
    "train_epoch",
    "train_run",
    "training_loss",
]
