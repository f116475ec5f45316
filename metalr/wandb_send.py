"""One finished training as a Weights & Biases run of its own, and the list of those already sent.

The W&B id is the run's own id, so that nothing appears twice. What has been sent where stands in
`<store>/wandb/pushed.json`, written after each whole run.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from metalr.config import ConfigError, ExperimentConfig
from metalr.config.controlled import CONTROLLED
from metalr.training import RunRecord
from metalr.training.artifacts import read_json, write_json
from metalr.training.tracking import Tracker, log_run_record, start_tracking, tracking_mode
from metalr.training.wandb_run import WandbTracker

__all__ = ["SentList", "send_run", "send_whole"]


class SentList:
    """What has been sent to the W&B project of `config`, in its mode: ids of runs and of stages."""

    def __init__(self, config: ExperimentConfig) -> None:
        self._path = Path(config.store) / "wandb" / "pushed.json"
        self.target = (
            f"{tracking_mode(config.wandb)} {config.wandb.entity or 'default'}/{config.wandb.project}"
        )

    @property
    def path(self) -> Path:
        """Where the list lies."""
        return self._path

    def __contains__(self, identity: str) -> bool:
        return identity in self._read().get(self.target, [])

    def add(self, identity: str) -> None:
        """Note that `identity` has been sent whole."""
        sent = self._read()
        sent.setdefault(self.target, []).append(identity)
        write_json(self._path, sent)

    def _read(self) -> dict[str, list[str]]:
        sent: dict[str, list[str]] = read_json(self._path) if self._path.is_file() else {}
        return sent


def send_run(record: RunRecord, config: ExperimentConfig) -> None:
    """The run's rows, summary and settings as the W&B run of its id, in the place of one half sent.

    Raises:
        ConfigError: W&B did not take the whole of it.
    """
    spec = record.spec
    kind = "controller" if spec.method in CONTROLLED else "baseline"
    send_whole(
        config,
        record.run_id,
        f"run {record.run_id}",
        lambda tracker: log_run_record(tracker, record, ""),
        name=f"{spec.method}/lr{spec.train.lr:g}/T{spec.train.epochs}/seed{spec.seed}",
        job_type="harvest-run" if spec.forks else "run",
        tags=[spec.task.dataset, spec.task.network, spec.method, "trunk" if spec.forks else kind],
        run_config=spec.model_dump(mode="json")
        | {"initial_lr": spec.train.lr, "budget_epochs": spec.train.epochs},
    )


def send_whole(
    config: ExperimentConfig, identity: str, what: str, log: Callable[[Tracker], None], **run: object
) -> None:
    """A W&B run with the id `identity`, filled by `log`; `run` is the rest of `start_tracking`'s.

    Raises:
        ConfigError: W&B did not take the whole of it; `what` names it.
    """
    root = Path(config.store)
    for half in (root / "wandb").glob(f"offline-run-*-{identity}"):
        shutil.rmtree(half)  # of a push that was killed
    tracker = start_tracking(config.wandb, group=config.name, folder=root, run_id=identity, **run)  # type: ignore[arg-type]
    log(tracker)
    whole = isinstance(tracker, WandbTracker) and tracker.is_open
    tracker.finish()
    if not whole:
        raise ConfigError([f"wandb: {what} could not be sent; push again to send the rest"])
