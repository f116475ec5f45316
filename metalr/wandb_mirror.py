"""Trainings sent to Weights & Biases while the next ones train, in a thread of the driver."""

from __future__ import annotations

import logging
import queue
import threading

from metalr.config import ConfigError, ExperimentConfig
from metalr.display import Display
from metalr.training import ArtifactError, RunStore
from metalr.training.tracking import tracking_mode
from metalr.wandb_send import SentList, send_run

__all__ = ["TrainingMirror"]

CLOSE_LIMIT_S = 60.0
"""How long the end of a stage may wait for what is still to be sent."""

logger = logging.getLogger(__name__)


class TrainingMirror:
    """A W&B run per finished training, made as they finish, where the recipe wants that.

    Opening a W&B run takes from 0.1 s offline to over a second online, and a comparison has thousands of
    short trainings: so by default (`wandb.trainings: auto`) they are sent online only, one after another in
    one thread, and what is left at the end of the stage is left to `metalr wandb push`. A failure ends the
    mirror, not the stage.
    """

    def __init__(self, config: ExperimentConfig) -> None:
        mode = tracking_mode(config.wandb)
        wanted = config.wandb.trainings
        self.is_on = mode != "disabled" and (mode == "online" if wanted == "auto" else wanted)
        self._config = config
        self._sent = SentList(config)
        self._waiting: queue.Queue[str | None] = queue.Queue()
        self._num_added = self._num_sent = 0
        self._thread = threading.Thread(target=self._work, name="wandb-mirror", daemon=True)
        if self.is_on:
            self._thread.start()

    def add(self, run_id: str) -> None:
        """Send this finished run when its turn comes; returns at once."""
        self._num_added += 1
        if self.is_on:
            self._waiting.put(run_id)

    def close(self, display: Display, limit_s: float = CLOSE_LIMIT_S) -> None:
        """Wait for the rest, at most `limit_s` seconds, and say how the others can be sent."""
        if self.is_on:
            self._waiting.put(None)
            self._thread.join(limit_s)
        left = self._num_added - self._num_sent
        if left and tracking_mode(self._config.wandb) != "disabled":
            display.announce(
                f"W&B: {left} of {self._num_added} trainings are not there; `metalr wandb push` sends them"
            )

    def _work(self) -> None:
        store = RunStore(self._config.store)
        while (run_id := self._waiting.get()) is not None:
            try:
                if run_id not in self._sent:
                    send_run(store.load(run_id), self._config)
                    self._sent.add(run_id)
                self._num_sent += 1
            except (ConfigError, ArtifactError, OSError) as error:
                logger.warning("W&B: trainings are no longer sent (%s)", error)
                return
