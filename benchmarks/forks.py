"""The candidates of one fork trained as one stacked network against training them one after another."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from benchmarks.attempts import attempt, with_remarks
from benchmarks.cases import Case, StepName, cases_of, synthetic_task
from benchmarks.measurement import Goal, Measurement, Rounds, Row, measure, paired_ratio
from benchmarks.settings import Settings
from metalr.config import ControlConfig
from metalr.control import ProbeCurve
from metalr.harvest.branching import fork
from metalr.tasks import Task
from metalr.training import ForkPlan, LiveRun, RunSpec, train_epoch
from metalr.training.live_run import start_or_resume

__all__ = ["ForkedRun", "fork_rows", "forked_run", "measure_forks"]

GOAL = Goal("at least", 2.0)
EPOCHS = 3
"""The budget: one epoch before the fork, two in each branch."""
PEAK_LRS = (1e-3, 2e-2)
"""The lowest and the highest candidate: none diverges, which would end its branch early."""
CONTROL = ControlConfig(probe=None)
TOGETHER = "together"
ONE_BY_ONE: dict[str, StepName] = {
    "one after another, eager": "eager",
    "one after another, cuda_graph": "cuda_graph",
}


def measure_forks(settings: Settings) -> list[Row]:
    """Seconds of one fork both ways, the ratio, and how far apart the losses are that they find."""
    first = cases_of(settings)[0]
    case = replace(first, width=settings.fork_width, num_images=settings.fork_images)
    task = synthetic_task(case)
    steps: dict[str, StepName] = ONE_BY_ONE | {TOGETHER: "eager"}
    with tempfile.TemporaryDirectory() as folder:
        forks: dict[str, ForkedRun] = {}

        def make(label: str, step: StepName) -> ForkedRun:
            together, count = label == TOGETHER, settings.num_candidates
            forks[label] = forked_run(case, task, Path(folder) / label, count, step=step, together=together)
            return forks[label]

        found = attempt({label: partial(make, label, step) for label, step in steps.items()}, case.device)
        rounds = measure(found.subjects, settings.rounds, warmup=0)  # each has run once
    losses = {label: forks[label].losses for label in found.subjects}
    return with_remarks(fork_rows(case, rounds, losses, found.warned), found.failed)


@dataclass
class ForkedRun:
    """A run that is forked where it is at each call, always from the same state."""

    live: LiveRun
    factors: list[float]
    losses: list[float] = field(default_factory=list)
    """The final losses that the last fork found, by candidate, nats."""

    def __call__(self) -> None:
        """Train all candidates. Raises ValueError where one diverges: the work would be unequal."""
        (self.live.folder / "forks.jsonl").unlink(missing_ok=True)
        rows = fork(self.live, self.factors, CONTROL, lambda epochs: None)
        finite = [row["final_loss"] for row in rows if row["final_loss"] is not None]
        if len(finite) < len(self.factors):
            raise ValueError(f"{len(self.factors) - len(finite)} of {len(self.factors)} candidates diverged")
        self.losses = finite


def forked_run(
    case: Case, task: Task, folder: Path, num_candidates: int, *, step: StepName, together: bool
) -> ForkedRun:
    """A run of the case after its first epoch, with momentum and batch-norm statistics that have moved.

    Args:
        case: What is trained.
        task: Of `synthetic_task`.
        folder: Where the fork's records go; made here.
        num_candidates: K branches, their peaks spread evenly over the logarithm of the LR.
        step: How a batch is trained.
        together: Whether the branches train as one stacked network.
    """
    probe = ProbeCurve((1e-3, 1e-2, 1e-1), (2.3, 2.2, 2.1), 2.3, False, 3)
    factors = (np.geomspace(*PEAK_LRS, num_candidates) / probe.reference_lr).tolist()
    train = case.train_config(EPOCHS, step, channels_last=True)
    spec = RunSpec(
        task=task.config,
        train=train,
        method="cosine",
        control=CONTROL,
        forks=ForkPlan(epochs=[1], peak_factors=factors),
        forks_together=together,
        seed=0,
        data_digest=task.digest,
    )
    torch.set_num_threads(case.threads)
    folder.mkdir(parents=True)
    live, _ = start_or_resume(spec, task, None, folder)
    live.probe = probe  # its reference is all that a fork asks of it
    train_epoch(live.training)
    return ForkedRun(live, factors)


def fork_rows(case: Case, rounds: Rounds, losses: dict[str, list[float]], notes: dict[str, str]) -> list[Row]:
    """The rows of a fork.

    Args:
        case: What was trained.
        rounds: Seconds of `together`, and of training one after another in each way that works.
        losses: Label -> final losses by candidate.
        notes: Label -> remark on its row.
    """
    labels = [label for label in (*ONE_BY_ONE, TOGETHER) if label in rounds.seconds]
    group = f"A fork into {len(losses[labels[0]])} candidates: {case}"
    rows = [
        Row(group, Measurement(label, "s", rounds.seconds[label]), note=notes.get(label, ""))
        for label in labels
    ]
    if TOGETHER not in labels:
        return rows
    goal = GOAL if case.device == "cuda" else None
    for label in labels[:-1]:
        ratio = paired_ratio(f"{label} / together", rounds.seconds[label], rounds.seconds[TOGETHER])
        rows.append(Row(group, ratio, goal))
        apart = _largest_difference(losses[label], losses[TOGETHER])
        rows.append(Row(group, Measurement(f"final losses apart from {label}", "%", (100 * apart,))))
    return rows


def _largest_difference(losses: Sequence[float], others: Sequence[float]) -> float:
    return max(abs(loss - other) / loss for loss, other in zip(losses, others, strict=True))
