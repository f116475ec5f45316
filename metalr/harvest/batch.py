"""The jobs of one call: which are left, how often each was begun, and which could not be done."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from metalr.training.records import RunStore
from metalr.training.specs import Job

__all__ = ["Batch", "Failure", "JobFailed", "Task", "pending_tasks"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Failure:
    """A job that could not be done: why, after how many attempts, and what was last on stderr."""

    run_id: str
    attempts: int
    reason: str
    stderr: str

    def __str__(self) -> str:
        said = "".join(f"\n    {line}" for line in self.stderr.splitlines())
        return f"run {self.run_id} failed after {self.attempts} attempt(s): {self.reason}{said}"


class JobFailed(RuntimeError):
    """Some jobs could not be done, all others are; `failures` holds one entry for each of them."""

    def __init__(self, failures: Sequence[Failure]) -> None:
        self.failures = tuple(failures)
        super().__init__("\n".join(str(failure) for failure in self.failures))


@dataclass
class Task:
    """A job, and how many attempts at it have failed."""

    job: Job
    run_id: str
    attempts: int = 0

    @property
    def finished(self) -> bool:
        """Whether the run's commit mark is in the store."""
        return RunStore(self.job.store).is_finished(self.run_id)


def pending_tasks(jobs: Sequence[Job]) -> list[Task]:
    """The jobs that are not finished in their store, in order, a job listed twice only once."""
    tasks = {(job.store, identity): Task(job, identity) for job in jobs for identity in [job.spec.run_id]}
    return [task for task in tasks.values() if not task.finished]


class Batch:
    """What the `num_threads` threads that run `tasks` share. Every method may be called from any of them."""

    def __init__(self, tasks: Sequence[Task], num_threads: int, max_attempts: int) -> None:
        self._lock = threading.Lock()
        self._queue = deque(tasks)
        self._num_threads = num_threads
        self._max_attempts = max_attempts
        self._failures: list[Failure] = []
        self.stopped = False
        """Set once to drop the tasks that are left; attempts that end later do not count."""
        self.error: BaseException | None = None
        """What ended a thread before its time."""
        self.over = threading.Event()
        """Set when every thread has left, or one with an error."""
        if num_threads == 0:
            self.over.set()

    @property
    def failures(self) -> list[Failure]:
        """The tasks that were given up, in order of run id."""
        with self._lock:
            return sorted(self._failures, key=lambda failure: failure.run_id)

    def take(self) -> Task | None:
        """The next task to begin; None where none is left."""
        with self._lock:
            return None if self.stopped or not self._queue else self._queue.popleft()

    def attempt_failed(self, task: Task, reason: str, stderr: str, retry: bool) -> None:
        """Count the attempt; the task goes to the end of the queue, or is given up.

        To the end, since what killed it (memory, most often) may have passed by then. Whoever
        failed asks for the next task afterwards, so one that was put back is never overlooked.
        """
        with self._lock:
            if self.stopped:
                return
            task.attempts += 1
            again = retry and task.attempts < self._max_attempts
            if again:
                self._queue.append(task)
            else:
                self._failures.append(Failure(task.run_id, task.attempts, reason, stderr))
        outlook = "will be tried again" if again else "is given up"
        _log.warning("run %s: attempt %d failed and it %s: %s", task.run_id, task.attempts, outlook, reason)

    def leave(self, error: BaseException | None) -> None:
        """One thread has ended, with `error` where it could not go on."""
        with self._lock:
            self._num_threads -= 1
            self.error = self.error or error
            if self._num_threads == 0 or error is not None:
                self.over.set()
