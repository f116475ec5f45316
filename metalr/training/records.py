"""What a run left behind (`RunRecord`), and where it lies (`RunStore`).

runs/<run_id>/spec.json       every setting that can change the result (`metalr.training.specs`)
              metrics.jsonl   one line an epoch, append-only
              lrs.jsonl       one line an epoch: the LR of every step
              forks.jsonl     one line a fork candidate (harvest only)
              ckpt-<epoch>.pt to go on after a kill
              result.json     written last and atomically: its presence means "finished"
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from metalr.training.artifacts import ArtifactError, read_json, read_json_lines, write_json
from metalr.training.specs import RunSpec

__all__ = ["RunRecord", "RunStore"]


@dataclass(frozen=True)
class RunRecord:
    """A finished run, as read back from the store.

    `result` holds `status` (`done` or `diverged`), `diverged_epoch`, `stopped_epoch` and `best_epoch` (null
    without early stopping), `final` (`split/metric` -> value;
    empty when diverged), `timing` (`train_s`, `eval_s`, `control_s`, `wall_s`), `num_samples`
    (training images seen), `versions`, `device`, `hardware` (the same in words; not in older records).
    """

    run_id: str
    spec: RunSpec
    rows: list[dict[str, Any]]
    """One per epoch in order. `epoch` counts completed epochs: row 0 is before training (`probe`,
    `observation`); the others hold `lr` (mean over the epoch's steps), `split/metric` values, `time/*_s`,
    `observation`, `decision`; a trunk's rows also `features`. A value that was not finite is null."""
    forks: list[dict[str, Any]]
    """One per candidate: `epoch`, `candidate`, `peak_lr`, `next_loss`, `final_loss` (null when diverged)."""
    result: dict[str, Any]

    @property
    def diverged(self) -> bool:
        """Whether the loss stopped being finite and stayed so."""
        return bool(self.result["status"] == "diverged")

    @property
    def epochs(self) -> list[dict[str, Any]]:
        """The rows of trained epochs, without the one before training."""
        return [row for row in self.rows if row["epoch"] > 0]


class RunStore:
    """The directory of run records: content-addressed, written by one run at a time, read by all."""

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)

    def run_dir(self, identity: str) -> Path:
        """Where the run lies."""
        return self.root / identity

    def is_finished(self, identity: str) -> bool:
        """Whether the run's commit mark is there."""
        return (self.run_dir(identity) / "result.json").is_file()

    def commit(self, identity: str, result: dict[str, Any]) -> None:
        """Mark the run finished, atomically."""
        write_json(self.run_dir(identity) / "result.json", result)

    def load(self, identity: str) -> RunRecord:
        """A finished run. Raises ArtifactError where it is unfinished, damaged, or of another version."""
        folder = self.run_dir(identity)
        result = read_json(folder / "result.json")
        try:
            spec = RunSpec.model_validate(read_json(folder / "spec.json"))
        except ValueError as error:
            raise ArtifactError(f"{folder / 'spec.json'}: {error}") from None
        rows = read_json_lines(folder / "metrics.jsonl")
        forks = read_json_lines(folder / "forks.jsonl")
        return RunRecord(identity, spec, rows, forks, result)

    def load_lrs(self, identity: str) -> list[dict[str, Any]]:
        """One `{"epoch", "lrs"}` per trained epoch: the LR of every step of the first parameter group.

        Rounded to 7 significant digits, None where not finite; empty for a run older than this log. Raises
        ArtifactError where it is damaged.
        """
        return read_json_lines(self.run_dir(identity) / "lrs.jsonl")
