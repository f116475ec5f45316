"""One open W&B run: opening it without a question, speaking to it without a risk, closing it in time.

Nothing here stops a training: the first failure is one warning through `logging` and the end of
tracking. wandb itself is imported by the functions that need it.
"""

from __future__ import annotations

import logging
import math
import os
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import wandb

__all__ = ["WandbTracker", "open_run", "warn"]

SUMMARIES = {"accuracy": "last,max", "loss": "last,min"}
"""What W&B keeps of a metric `.../accuracy` or `.../loss` over the epochs."""
INIT_LIMIT_S = 10.0
"""How long a start may look for the server before the run goes on without W&B (wandb's own: 90 s)."""
FINISH_LIMIT_S = 60.0
"""How long the last uploads may hold up the end of the process (wandb's own: for ever)."""
GRACE_S = 5.0
"""How much longer than its own limit wandb may take, before it is left to itself."""
CALL_LIMIT_S = 20.0
"""How long one question to the server may take while training waits."""

HELD_LIMIT_S = 5.0
"""How long to wait for wandb to let go of the id of a run that was finished a moment ago."""

logger = logging.getLogger(__name__)


class WandbTracker:
    """A `Tracker` around one open `wandb.Run`; silent from its first failure on.

    `online` says whether the run has a server that can be asked about artifacts.
    """

    def __init__(self, run: Any, *, online: bool) -> None:
        self._run: Any = run
        self._online = online
        self._summarised: set[str] = set()
        self._inputs: list[str] = []

    @property
    def is_open(self) -> bool:
        """Whether nothing has failed so far, and the run is not finished."""
        return self._run is not None

    def log(self, row: Mapping[str, Any]) -> None:
        """Add one history row of what is a finite number, a truth value or a text in `row`."""
        self._attempt("log a row", lambda run: self._log_row(run, _scalars(row)))

    def _log_row(self, run: Any, values: dict[str, Any]) -> None:
        for key in values.keys() - self._summarised:
            if (kind := key.rpartition("/")[2]) in SUMMARIES:
                run.define_metric(key, step_metric="epoch", summary=SUMMARIES[kind])
                self._summarised.add(key)
        run.log(values)

    def log_table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Add a `wandb.Table`; non-finite cells are empty."""
        self._attempt(f"log the table {name}", lambda run: run.log({name: _table(columns, rows)}))

    def log_artifact(self, name: str, kind: str, files: Sequence[Path], metadata: Mapping[str, Any]) -> None:
        """Add a version of an artifact; characters that W&B refuses in its name become `-`."""
        self._attempt(
            f"log the artifact {name}",
            lambda run: run.log_artifact(_artifact(name, kind, files, metadata)),
        )

    def use_artifact(self, name: str, kind: str) -> None:
        """Write the artifact into the run's config (`used_artifacts`), and online into its lineage too.

        An artifact that the server does not know, such as a shipped controller, is no failure of
        W&B: it stays in the config, with one warning that the lineage lacks it.
        """
        base, _, version = name.partition(":")
        path = f"{_artifact_name(base)}:{version or 'latest'}"
        self._inputs.append(f"{kind}:{path}")
        values = {"used_artifacts": list(self._inputs)}
        self._attempt("note an input", lambda run: run.config.update(values, allow_val_change=True))
        if not self._online or (run := self._run) is None:
            return
        try:
            _within(CALL_LIMIT_S, lambda: run.use_artifact(path, type=kind))
        except Exception as error:
            logger.warning("W&B: %s is not in the lineage (%s)", path, _one_line(error))

    def summary(self, values: Mapping[str, Any]) -> None:
        """Set what is a finite number, a truth value or a text in `values`."""
        self._attempt("set the summary", lambda run: run.summary.update(_scalars(values)))

    def finish(self) -> None:
        """Close the run within `FINISH_LIMIT_S` + `GRACE_S`; what was not sent waits for `wandb sync`."""
        run, self._run = self._run, None
        if run is not None:
            _close(run, "finish")

    def _attempt(self, doing: str, call: Callable[[Any], object]) -> None:
        """Do `call` with the run, if there still is one; a failure is one warning and the end of tracking."""
        run = self._run
        if run is None:
            return
        try:
            call(run)
        except Exception as error:
            self._run = None
            warn(doing, error)
            _close(run, None)


def open_run(folder: Path, *, online: bool, config: Mapping[str, Any], **arguments: Any) -> WandbTracker:
    """A tracker on a new run of its own, whatever other runs this process has, with `epoch` as the x axis.

    `folder` gets the directory `wandb`; `arguments` are those of `wandb.init`. Raises whatever wandb
    raises: CommError where no server answers in `INIT_LIMIT_S`, OSError where the folder cannot be written.
    """
    _prepare_environment(folder, online)
    import wandb  # reads the environment, so not before

    wanted = {
        "finish_timeout": FINISH_LIMIT_S,
        "silent": True,
        "console": "off",
        "use_dot_wandb": False,
        **({"init_timeout": INIT_LIMIT_S} if online else {}),
    }
    known: dict[str, Any] = {key: wanted[key] for key in wanted if key in wandb.Settings.model_fields}
    run = _init_when_free(
        dir=str(folder.resolve()),
        mode="online" if online else "offline",
        config=_plain(config),
        reinit="create_new",
        settings=wandb.Settings(**known),
        **arguments,
    )
    try:
        run.define_metric("epoch")
        run.define_metric("*", step_metric="epoch")
    except Exception:
        _close(run, None)
        raise
    return WandbTracker(run, online=online)


def _init_when_free(**arguments: Any) -> Any:
    """`wandb.init`, tried again while a run of this id, finished in this process, is still held.

    wandb frees an id a moment after `finish` has returned (0.31.0).
    """
    import wandb

    last_try = time.monotonic() + HELD_LIMIT_S
    while True:
        try:
            return wandb.init(**arguments)
        except Exception as error:
            if not str(error).endswith("is in use") or time.monotonic() > last_try:
                raise
        time.sleep(0.1)


def warn(doing: str, error: Exception | str) -> None:
    """Say on one line what W&B could not do, and that nothing is lost."""
    cause = _one_line(error)
    logger.warning("W&B: could not %s (%s); going on without it, local records are complete", doing, cause)


def _prepare_environment(folder: Path, online: bool) -> None:
    """Make the folder, and set what wandb reads from the environment only; the user's own settings win.

    With error reporting on, wandb looks up a telemetry host even offline, and online behind a server
    that does not answer it holds up the end of the process for 11 s (measured, wandb 0.31.0).
    """
    home = folder.resolve() / "wandb"
    home.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    os.environ.setdefault("WANDB_SILENT", "true")
    if not online:
        os.environ.setdefault("WANDB_DATA_DIR", str(home / "data"))
        os.environ.setdefault("WANDB_CACHE_DIR", str(home / "cache"))


def _close(run: Any, doing: str | None) -> None:
    """Finish `run` within its limit, so that what it holds reaches the disk; warn of a failure as `doing`."""
    try:
        _within(FINISH_LIMIT_S + GRACE_S, run.finish)
    except Exception as error:
        if doing is not None:
            warn(doing, error)


def _within(limit_s: float, call: Callable[[], object]) -> None:
    """Do `call` in a thread of its own and wait. Raises what it raises, or TimeoutError after `limit_s`."""
    outcome: Future[None] = Future()

    def work() -> None:
        try:
            call()
        except BaseException as error:
            outcome.set_exception(error)
        else:
            outcome.set_result(None)

    threading.Thread(target=work, name="wandb-call", daemon=True).start()
    try:
        outcome.result(timeout=limit_s)
    except TimeoutError as error:
        raise TimeoutError(str(error) or f"no answer in {limit_s:g} s") from None


def _one_line(error: Exception | str) -> str:
    """An error's type and the first 200 characters of its text, on one line."""
    text = " ".join(str(error).split())[:200]
    return text if isinstance(error, str) else f"{type(error).__name__}: {text}"


def _table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> wandb.Table:
    import wandb

    cells: list[Any] = [[_plain(cell) for cell in row] for row in rows]
    return wandb.Table(columns=list(columns), data=cells, allow_mixed_types=True)


def _artifact(name: str, kind: str, files: Sequence[Path], metadata: Mapping[str, Any]) -> wandb.Artifact:
    import wandb

    artifact = wandb.Artifact(_artifact_name(name), type=kind, metadata=_plain(metadata))
    for file in files:
        artifact.add_file(str(file))
    return artifact


def _artifact_name(name: str) -> str:
    """`name` in the characters that W&B allows."""
    return re.sub(r"[^A-Za-z0-9_.-]", "-", name)


def _scalars(row: Mapping[str, Any]) -> dict[str, Any]:
    """What of `row` is a finite number, a truth value or a text."""
    values = {key: _plain(value) for key, value in row.items()}
    return {key: value for key, value in values.items() if isinstance(value, (bool, int, float, str))}


def _plain(value: Any) -> Any:
    """`value` as JSON can hold it: arrays without axes as scalars, NaN and infinity as None, else text."""
    if hasattr(value, "item") and getattr(value, "ndim", None) == 0:
        value = value.item()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, Sequence | set | frozenset):
        return [_plain(item) for item in value]
    return str(value)
