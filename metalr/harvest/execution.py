"""Running many jobs: in this process, or in worker processes that are supervised one by one.

Pools of the standard library lose every running job where one worker is killed; here a death costs
one job one attempt. The store says what is finished, not the executor: a killed driver and a second
invocation are the same case.
"""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from types import FrameType, TracebackType
from typing import Any, NoReturn, Protocol

from metalr.harvest.batch import Batch, Failure, JobFailed, Task, pending_tasks
from metalr.harvest.worker_process import WorkerLostError, WorkerProcess
from metalr.training.specs import Job

__all__ = ["Executor", "Failure", "InlineExecutor", "JobFailed", "WorkerExecutor"]

_GRACE_S = 3.0
"""How long workers that were asked to end may take before they are killed."""


class Executor(Protocol):
    """Whoever can run jobs."""

    def run(self, jobs: Sequence[Job], on_done: Callable[[Job], None]) -> None:
        """Finish every job; `on_done` hears of each one executed here, not of those finished before.

        Raises JobFailed where some could not be done, after all the others are.
        """
        ...


class InlineExecutor:
    """Runs jobs one after the other in this process: `execute(job)` must commit the run or raise."""

    def __init__(self, execute: Callable[[Job], None]) -> None:
        self._execute = execute

    def run(self, jobs: Sequence[Job], on_done: Callable[[Job], None]) -> None:
        """Finish every job, once each. Raises JobFailed at the end where `execute` raised."""
        failures: list[Failure] = []
        for task in pending_tasks(jobs):
            try:
                self._execute(task.job)
            except Exception as error:
                reason = f"{type(error).__name__}: {error}"
                failures.append(Failure(task.run_id, 1, reason, traceback.format_exc()))
            else:
                on_done(task.job)
        if failures:
            raise JobFailed(failures)


class WorkerExecutor:
    """Runs jobs in `num_workers` child processes, kept alive until `close` (or the end of a `with` block).

    `max_attempts` bounds how often a job is begun: a worker that dies, prints rubbish, or takes longer
    than `timeout_s` seconds (its start included) costs one attempt; an application error is final.
    `on_epochs` hears of training epochs as they are done. Callbacks are never called two at a time.
    Raises ValueError where a number is out of range.
    """

    def __init__(
        self,
        num_workers: int = 2,
        command: Sequence[str] = (sys.executable, "-m", "metalr.worker"),
        max_attempts: int = 2,
        timeout_s: float | None = None,
        on_epochs: Callable[[int], None] | None = None,
    ) -> None:
        if num_workers < 1 or max_attempts < 1 or (timeout_s is not None and not timeout_s > 0):
            raise ValueError(
                f"num_workers={num_workers} and max_attempts={max_attempts} must be at least 1, "
                f"timeout_s={timeout_s} above 0 or None"
            )
        self._num_workers = num_workers
        self._command = tuple(command)
        self._max_attempts = max_attempts
        self._timeout_s = timeout_s
        self._on_epochs = on_epochs
        self._callback_lock = threading.Lock()
        self._lock = threading.Lock()  # over the two below, and over starting a worker
        self._live: set[WorkerProcess] = set()
        self._idle: list[WorkerProcess] = []

    def __enter__(self) -> WorkerExecutor:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the workers: close their input, and kill those that are still there after 3 seconds."""
        workers = self._forget_idle()
        for worker in workers:
            worker.close_input()
        deadline = time.monotonic() + _GRACE_S
        try:
            for worker in workers:
                worker.wait(deadline - time.monotonic())
        finally:
            for worker in workers:
                worker.dispose()

    def run(self, jobs: Sequence[Job], on_done: Callable[[Job], None]) -> None:
        """Finish every job, once each, in parallel. Raises JobFailed at the end where some could not be.

        An interrupt, a SIGTERM, or an error in a callback ends all workers within 5 seconds and is raised;
        SIGTERM as SystemExit(143), where the caller has no handler of its own.
        """
        tasks = pending_tasks(jobs)
        num_threads = min(self._num_workers, len(tasks))
        batch = Batch(tasks, num_threads, self._max_attempts)
        threads = [
            threading.Thread(target=self._supervise, args=(batch, on_done), daemon=True)
            for _ in range(num_threads)
        ]
        with _sigterm_raises():
            try:
                for thread in threads:
                    thread.start()
                batch.over.wait()
                if batch.error is not None:
                    raise batch.error
            except BaseException:
                self._abort(batch, threads)
                raise
        if batch.failures:
            raise JobFailed(batch.failures)

    def _abort(self, batch: Batch, threads: Sequence[threading.Thread]) -> None:
        """Stop everything: ask all workers to end (they may write a checkpoint), then kill the rest."""
        with self._lock:
            batch.stopped = True  # no worker is started after this, see `_healthy_worker`
            workers = list(self._live)
        for worker in workers:
            worker.terminate()
        try:
            _join(threads, _GRACE_S)
        finally:  # also where a second interrupt cuts the waiting short
            for worker in workers:
                worker.kill()
        _join(threads, 1.0)  # each disposes of the worker it owns
        for worker in self._forget_idle():
            worker.dispose()

    def _supervise(self, batch: Batch, on_done: Callable[[Job], None]) -> None:
        """One thread, one worker: feed it tasks until none is left, and replace it when it is lost."""
        worker: WorkerProcess | None = None
        failed_with: BaseException | None = None
        try:
            while (task := batch.take()) is not None:
                try:
                    worker = self._healthy_worker(batch, worker)
                    line = task.job.model_dump_json()
                    event = worker.perform(line, task.run_id, self._timeout_s, self._report_epochs)
                except WorkerLostError as lost:
                    batch.attempt_failed(task, str(lost), self._discard(worker), retry=True)
                    worker = None
                    continue
                if self._succeeded(batch, task, event, worker.take_stderr()):
                    with self._callback_lock:
                        on_done(task.job)
        except BaseException as error:  # of a callback; `run` raises it
            failed_with = error
        if failed_with is None and worker is not None and not batch.stopped:
            with self._lock:
                self._idle.append(worker)
        else:
            self._discard(worker)
        batch.leave(failed_with)

    def _succeeded(self, batch: Batch, task: Task, event: dict[str, Any], stderr: str) -> bool:
        """Whether the run is committed; counts a failed attempt where not."""
        if event["event"] == "failed":
            batch.attempt_failed(task, str(event.get("error")), stderr, retry=event.get("retry") is True)
        elif not task.finished:
            reason = f"its worker said done, but the run is not committed in {task.job.store}"
            batch.attempt_failed(task, reason, stderr, retry=True)
        else:
            return True
        return False

    def _report_epochs(self, epochs: int) -> None:
        if self._on_epochs is not None:
            with self._callback_lock:
                self._on_epochs(epochs)

    def _healthy_worker(self, batch: Batch, worker: WorkerProcess | None) -> WorkerProcess:
        """`worker` where it lives, else an idle or a new one. Raises WorkerLostError where none can start."""
        while worker is None or not worker.alive:
            self._discard(worker)
            with self._lock:
                if batch.stopped:
                    raise WorkerLostError("the driver is stopping")
                if not self._idle:
                    worker = WorkerProcess(self._command)
                    self._live.add(worker)
                    return worker
                worker = self._idle.pop()
        return worker

    def _discard(self, worker: WorkerProcess | None) -> str:
        """The last words of a worker that is not to be used again; nothing of it is left running."""
        if worker is None:
            return ""
        stderr = worker.dispose()
        with self._lock:
            self._live.discard(worker)
        return stderr

    def _forget_idle(self) -> list[WorkerProcess]:
        """The workers without a job, which are the caller's to end now."""
        with self._lock:
            idle, self._idle = self._idle, []
            self._live.difference_update(idle)
        return idle


def _join(threads: Sequence[threading.Thread], timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    for thread in threads:
        if thread.ident is not None:  # an interrupt may come before all are started
            thread.join(max(0.0, deadline - time.monotonic()))


@contextlib.contextmanager
def _sigterm_raises() -> Iterator[None]:
    """SIGTERM raises SystemExit(143) in here, unless the program has a handler already."""
    main = threading.current_thread() is threading.main_thread()
    if not main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return

    def leave(number: int, frame: FrameType | None) -> NoReturn:
        raise SystemExit(128 + number)

    signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
