"""The pipeline's verbs: each does its stage, and whatever is missing before it.

    metadataset -> train_meta -> compare -> report

What is done already is found by content (run ids, digests), never by time stamps, and not done again.
Reading order: `shared` (folders, tracking), `harvest`, `meta_training`, `comparison`.
"""

from metalr.stages.comparison import compare, comparison_specs, controllers_of, report
from metalr.stages.harvest import harvest_settings, metadataset
from metalr.stages.meta_training import build_controllers, train_meta
from metalr.stages.shared import start_stage_tracking

__all__ = [
    "build_controllers",
    "compare",
    "comparison_specs",
    "controllers_of",
    "harvest_settings",
    "metadataset",
    "report",
    "start_stage_tracking",
    "train_meta",
]
