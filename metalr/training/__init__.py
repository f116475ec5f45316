"""One run: the only training loop, checkpoints, records, and the dashboard's mirror.

Reading order: `records` (what a run is and leaves), `loop` (an epoch), `live_run` (started or gone
on with), `run` (to the committed result), `checkpoint` (going on after a kill), `artifacts` (files),
`tracking` (W&B).
"""

from metalr.training.artifacts import ArtifactError
from metalr.training.live_run import LiveRun, steps_per_epoch
from metalr.training.loop import Training, evaluate, make_optimizer, train_epoch
from metalr.training.records import ForkPlan, Job, RunRecord, RunSpec, RunStore
from metalr.training.run import package_versions, train_run

__all__ = [
    "ArtifactError",
    "ForkPlan",
    "Job",
    "LiveRun",
    "RunRecord",
    "RunSpec",
    "RunStore",
    "Training",
    "evaluate",
    "make_optimizer",
    "package_versions",
    "steps_per_epoch",
    "train_epoch",
    "train_run",
]
