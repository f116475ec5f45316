"""Doing one job: the entry point that every executor runs, in this process or in another.

``python -m metalr.worker`` is a kept-alive worker: one job as a line of JSON on standard input, one
event as a line of JSON on standard output, until the input closes.
"""

from __future__ import annotations

import json
import os
import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TextIO

__all__ = ["execute", "serve"]


def execute(job_json: str, on_epochs: Callable[[int], None] | None = None) -> None:
    """Do the job, a `metalr.training.Job` as JSON, to its committed result; nothing where it is committed.

    Args:
        job_json: The job.
        on_epochs: Told the number of epochs just trained.

    Raises:
        ValueError: the job, its data or its controller are not what its spec says; its device is not there.
    """
    import torch

    from metalr.config import DataConfig
    from metalr.harvest.branching import run_trunk
    from metalr.harvest.plan import check_device
    from metalr.learning.controller import load_controller
    from metalr.tasks import make_task
    from metalr.training import Job, LiveRun, train_run

    job = Job.model_validate_json(job_json)
    check_device(job.spec.train.device)
    device = torch.device(job.spec.train.device)
    task = make_task(job.spec.task, DataConfig(dir=job.data_dir, download=job.download), device)
    controller = load_controller(Path(job.controller)) if job.controller else None
    if job.spec.forks is not None:
        run_trunk(job, task, on_epochs, controller)
        return

    def on_epoch(live: LiveRun) -> None:
        if on_epochs is not None and live.training.epoch > 0:
            on_epochs(1)

    train_run(job, task, controller, on_epoch)


def serve(lines: Iterable[str], events: TextIO) -> None:
    """Do the jobs that arrive as lines until there are no more; answer each with events."""

    def tell(event: str, **values: Any) -> None:
        events.write(json.dumps({"event": event, **values}) + "\n")
        events.flush()

    for line in lines:
        run_id = ""
        try:
            from metalr.training import Job

            run_id = Job.model_validate_json(line).spec.run_id
            execute(line, lambda epochs, run_id=run_id: tell("epoch", run_id=run_id, epochs=epochs))  # type: ignore[misc]
        except (ValueError, OSError) as error:
            tell("failed", run_id=run_id, error=" ".join(str(error).split()), retry=False)
        else:
            tell("done", run_id=run_id)


def _lines_while_the_driver_lives() -> Iterator[str]:
    """The lines of standard input. When it closes the process ends at once, even in the middle of a job:
    the driver is gone, and the run goes on from its checkpoint under the next one."""
    arrived: queue.Queue[str] = queue.Queue()

    def read() -> None:
        # Not sys.stdin: a daemon thread that holds its lock aborts the interpreter at exit.
        with open(0, encoding="utf-8", closefd=False) as lines:
            for line in lines:
                arrived.put(line)
        os._exit(0)

    threading.Thread(target=read, daemon=True).start()
    while True:
        yield arrived.get()


def main() -> None:
    """Serve on standard input and output; whatever else prints goes to standard error."""
    events = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    serve(_lines_while_the_driver_lives(), events)


if __name__ == "__main__":
    main()
