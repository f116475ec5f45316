"""Weights & Biases as a mirror of the local records: it may be off, offline or broken, and training goes on.

The mode is the first that is said of: `wandb.mode` of the recipe (other than `auto`), the variable
WANDB_MODE, `online` where there is an API key, `offline`. Nothing ever asks for a key. Whatever W&B
does wrong becomes one warning through `logging`, and from then on the tracker says nothing.

Offline, the files lie under ``<folder>/wandb`` until ``wandb sync`` sends them, and no connection is opened.
NaN, infinity, None and whatever is no scalar are left out of rows and summaries: no chart can show them.
"""

from __future__ import annotations

import netrc
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol
from urllib.parse import urlsplit

from metalr.config import ConfigError, WandbConfig
from metalr.training.records import RunRecord
from metalr.training.wandb_run import open_run, warn

__all__ = ["SilentTracker", "Tracker", "TrackingMode", "log_run_record", "start_tracking", "tracking_mode"]

TrackingMode = Literal["online", "offline", "disabled"]

MODES: tuple[TrackingMode, ...] = ("online", "offline", "disabled")
HOSTS = ("api.forge.coreweave.com", "api.wandb.ai")
"""Where keys of the public service are filed in a netrc file; wandb 0.31 looks for both, in this order."""


class Tracker(Protocol):
    """What a stage may say to a dashboard; the local records stay the truth, so nothing returns or raises."""

    def log(self, row: Mapping[str, Any]) -> None:
        """Add one row of scalars, once per (meta-)epoch; it contains `epoch`."""

    def log_table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Add a table; every row has one value per column, of any mixture of types."""

    def log_artifact(self, name: str, kind: str, files: Sequence[Path], metadata: Mapping[str, Any]) -> None:
        """Add a version of the artifact `name`, copies of `files`; `kind` is dataset, model or report."""

    def use_artifact(self, name: str, kind: str) -> None:
        """Say that this run builds on an artifact: a name, or `name:version` (else the latest)."""

    def summary(self, values: Mapping[str, Any]) -> None:
        """Set figures of the run as a whole."""

    def finish(self) -> None:
        """Say that the run is over, and send what is left, within a limit. A second call does nothing."""


class SilentTracker:
    """The `Tracker` of a run without W&B: it does nothing."""

    def log(self, row: Mapping[str, Any]) -> None:
        """Do nothing."""

    def log_table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Do nothing."""

    def log_artifact(self, name: str, kind: str, files: Sequence[Path], metadata: Mapping[str, Any]) -> None:
        """Do nothing."""

    def use_artifact(self, name: str, kind: str) -> None:
        """Do nothing."""

    def summary(self, values: Mapping[str, Any]) -> None:
        """Do nothing."""

    def finish(self) -> None:
        """Do nothing."""


def tracking_mode(config: WandbConfig, environment: Mapping[str, str] | None = None) -> TrackingMode:
    """The mode by precedence: `config.mode` unless `auto`, WANDB_MODE, online with a key, offline.

    Looks at `environment` (None: the process's own) and the netrc file; opens no connection and does
    not import wandb. Raises ConfigError where WANDB_MODE decides and is not a mode.
    """
    environment = os.environ if environment is None else environment
    if config.mode != "auto":
        return config.mode
    named = environment.get("WANDB_MODE")
    if not named:
        return "online" if _has_key(environment) else "offline"
    for mode in MODES:
        if named == mode:
            return mode
    raise ConfigError(
        f"WANDB_MODE={named!r} is not one of {', '.join(MODES)}: change or unset it, or set wandb.mode"
    )


def start_tracking(
    config: WandbConfig,
    *,
    name: str,
    job_type: str,
    group: str,
    tags: Sequence[str],
    run_config: Mapping[str, Any],
    folder: Path,
    run_id: str | None = None,
) -> Tracker:
    """The tracker of a stage: W&B in the mode that `tracking_mode` finds; silence where it is off or fails.

    `job_type` is one of `metadataset`, `train-meta`, `compare`, `train`; `tags` come after those of
    `config`; `run_config` is what the dashboard shows beside the run (put versions and commit there);
    W&B's files go to ``folder/wandb``. With `run_id` a run sent twice replaces itself instead of
    appearing twice; inside a W&B sweep the agent's id goes before it. Raises ConfigError where
    WANDB_MODE is not a mode.
    """
    mode = tracking_mode(config)
    if mode == "disabled":
        return SilentTracker()
    if mode == "online" and not _has_key(os.environ):
        warn("start", "no API key: run `wandb login`, set WANDB_API_KEY, or choose wandb.mode=offline")
        return SilentTracker()
    try:
        return open_run(
            folder,
            online=mode == "online",
            config=run_config,
            project=config.project,
            entity=config.entity,
            name=name,
            id=run_id,
            job_type=job_type,
            group=group,
            tags=_tags([*config.tags, *tags]),
        )
    except Exception as error:
        warn("start", error)
        return SilentTracker()


def log_run_record(tracker: Tracker, record: RunRecord, prefix: str) -> None:
    """Replay a finished run: one row an epoch under ``prefix/``, then its final figures in the summary.

    The keys are `epoch` (unprefixed, the x axis), ``prefix/lr``, ``prefix/split/metric`` and
    ``prefix/time/*_s``; the summary gets ``prefix/run_id``, ``prefix/status``,
    ``prefix/final/split/metric`` and ``prefix/timing/*_s``. Observations and decisions stay in the local
    record. An empty `prefix` adds nothing to the keys.
    """
    start = f"{prefix}/" if prefix else ""
    for row in record.epochs:
        values = {f"{start}{key}": value for key, value in row.items() if key != "epoch"}
        tracker.log({"epoch": row["epoch"], **values})
    final = {f"{start}final/{key}": value for key, value in record.result.get("final", {}).items()}
    timing = record.result.get("timing", {})
    final |= {f"{start}timing/{key}": value for key, value in timing.items()}
    identity = {f"{start}run_id": record.run_id, f"{start}status": record.result["status"]}
    tracker.summary({**identity, **final})


def _has_key(environment: Mapping[str, str]) -> bool:
    """Whether wandb would find credentials: in the environment, or under the server's name in netrc."""
    if environment.get("WANDB_API_KEY") or environment.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    server = urlsplit(environment.get("WANDB_BASE_URL", "")).netloc
    hosts = HOSTS if server in ("", *HOSTS) else (server,)
    named = environment.get("NETRC")
    places = [named] if named else ["~/.netrc", "~/_netrc"]
    path = next((file for place in places if (file := Path(place).expanduser()).exists()), None)
    if path is None:
        return False
    try:
        entries = netrc.netrc(path).hosts
    except (OSError, ValueError, netrc.NetrcParseError):
        return False
    return any(host in entries and entries[host][2] for host in hosts)


def _tags(tags: Sequence[str]) -> list[str]:
    """The tags once each, in order, cut to the 64 characters that W&B allows."""
    return list(dict.fromkeys(tag[:64] for tag in tags if tag))
