"""Local records sent to Weights & Biases whenever one likes: `metalr wandb push`.

Every finished training becomes a W&B run of its own, and the recipe's meta-dataset, controllers and
comparison become artifacts with their lineage. After a kill a second push sends the rest.
"""

from __future__ import annotations

from pathlib import Path

from metalr.config import ConfigError, ExperimentConfig, short_hash
from metalr.display import Display
from metalr.training import ArtifactError, RunStore
from metalr.training.artifacts import sha256_of_file
from metalr.training.tracking import tracking_mode
from metalr.wandb_send import SentList, send_run, send_whole
from metalr.wandb_stages import stage_files

__all__ = ["push"]


def push(config: ExperimentConfig, display: Display) -> Path:
    """Send what is finished and has not been sent: trainings of the recipe's store, then its stages'
    artifacts.

    Returns the list of what has been sent. Raises ConfigError where W&B is disabled or cannot be opened;
    what was sent until then stays sent.
    """
    mode = tracking_mode(config.wandb)
    if mode == "disabled":
        raise ConfigError(["wandb.mode: disabled sends nothing; choose online or offline"])
    sent = SentList(config)
    _push_runs(config, sent, display)
    _push_stages(config, sent, display)
    if mode == "offline":
        folder = sent.path.parent
        display.announce(f"To send them on: wandb sync --include-offline {folder}/offline-run-*")
    return sent.path


def _push_runs(config: ExperimentConfig, sent: SentList, display: Display) -> None:
    store = RunStore(config.store)
    finished = sorted(path.parent.name for path in store.root.glob("*/result.json"))
    unfinished = sum(not (path.parent / "result.json").is_file() for path in store.root.glob("*/spec.json"))
    todo = [run for run in finished if run not in sent]
    num_sent = 0
    with display.track("Push", total=len(todo)) as progress:
        for run in todo:
            try:
                record = store.load(run)
            except ArtifactError as error:
                display.announce(f"Push: left out, {error}")
                continue
            send_run(record, config)
            sent.add(run)
            num_sent += 1
            progress.advance(1)
    left_out = f", {unfinished} unfinished ones left out" if unfinished else ""
    display.announce(f"Push: {num_sent} of {len(finished)} finished runs sent ({sent.target}){left_out}")


def _push_stages(config: ExperimentConfig, sent: SentList, display: Display) -> None:
    """The artifacts of each stage in a W&B run that has its content's hash as id: once for every content."""
    for stage in stage_files(config):
        identity = short_hash([stage.job_type, config.name, *map(sha256_of_file, stage.files)])
        if identity in sent:
            continue
        send_whole(
            config,
            identity,
            f"the {stage.job_type} artifacts",
            stage.log,
            name=f"{config.name}/{stage.job_type}",
            job_type=stage.job_type,
            tags=[config.task.dataset, config.task.network, stage.job_type],
            run_config=config.model_dump(mode="json", exclude={"data", "wandb", "store"}),
        )
        sent.add(identity)
        display.announce(f"Push: {stage.job_type}: {', '.join(path.name for path in stage.files)}")
