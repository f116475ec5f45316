"""Local run records sent to Weights & Biases, one W&B run each, whenever one likes: `metalr wandb push`.

The W&B id is the run's own id, so that nothing appears twice. What has been sent stands in
`<store>/wandb/pushed.json`, written after each whole run: after a kill a second push sends the rest.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from metalr.config import ConfigError, ExperimentConfig
from metalr.display import Display
from metalr.training import ArtifactError, RunRecord, RunStore
from metalr.training.artifacts import read_json, write_json
from metalr.training.tracking import log_run_record, start_tracking, tracking_mode
from metalr.training.wandb_run import WandbTracker

__all__ = ["push"]


def push(config: ExperimentConfig, display: Display) -> Path:
    """Send every finished run of the recipe's store that has not been sent; returns the list of what has.

    Raises ConfigError where W&B is disabled or cannot be opened; what was sent until then stays sent.
    """
    mode = tracking_mode(config.wandb)
    if mode == "disabled":
        raise ConfigError(["wandb.mode: disabled sends nothing; choose online or offline"])
    store = RunStore(config.store)
    ledger = store.root / "wandb" / "pushed.json"
    target = f"{mode} {config.wandb.entity or 'default'}/{config.wandb.project}"
    sent: dict[str, list[str]] = read_json(ledger) if ledger.is_file() else {}
    finished = sorted(path.parent.name for path in store.root.glob("*/result.json"))
    todo = [run for run in finished if run not in sent.get(target, [])]
    with display.track("Push", total=len(todo)) as progress:
        for run in todo:
            try:
                record = store.load(run)
            except ArtifactError as error:
                display.announce(f"Push: left out, {error}")
                continue
            _send(record, config, store.root)
            sent.setdefault(target, []).append(run)
            write_json(ledger, sent)
            progress.advance(1)
    display.announce(f"Push: {len(todo)} of {len(finished)} finished runs sent ({target})")
    if mode == "offline":
        display.announce(
            f"To send them on: wandb sync --include-offline {store.root / 'wandb'}/offline-run-*"
        )
    return ledger


def _send(record: RunRecord, config: ExperimentConfig, root: Path) -> None:
    spec = record.spec
    for half in (root / "wandb").glob(f"offline-run-*-{record.run_id}"):
        shutil.rmtree(half)  # of a push that was killed
    tracker = start_tracking(
        config.wandb,
        name=f"{spec.method}/lr{spec.train.lr:g}/T{spec.train.epochs}/seed{spec.seed}",
        job_type="harvest-run" if spec.forks else "run",
        group=config.name,
        tags=[spec.task.dataset, spec.task.network, spec.method],
        run_config=spec.model_dump(mode="json"),
        folder=root,
        run_id=record.run_id,
    )
    log_run_record(tracker, record, "")
    whole = isinstance(tracker, WandbTracker) and tracker.is_open
    tracker.finish()
    if not whole:
        raise ConfigError([f"wandb: run {record.run_id} could not be sent; push again to send the rest"])
