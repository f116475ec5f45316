"""One child process that does jobs, seen from its driver.

A worker reads one `Job` per line of JSON on its standard input and answers one event per line:

    {"event": "epoch", "run_id": ..., "epochs": n}                    n epochs of training just done
    {"event": "done", "run_id": ...}                                  the run is committed in the store
    {"event": "failed", "run_id": ..., "error": ..., "retry": false}  an application error

Nothing else may reach its standard output. When its input ends it exits at once, in the middle of a
job too: that is how workers follow a driver that was killed.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import tempfile
import threading
from collections.abc import Callable, Sequence
from typing import Any

__all__ = ["WorkerLostError", "WorkerProcess"]

_MAX_EVENT_BYTES = 1 << 16
_TAIL_BYTES = 2000
_ENVIRONMENT = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
"""Every run sets its own number of torch threads; the libraries' pools must not multiply them."""


class WorkerLostError(Exception):
    """The worker died, is late, or broke the protocol: it must go, its job may be tried again."""


class WorkerProcess:
    """A worker, alive between jobs. Owned by one thread; only `terminate` and `kill` may come from another.

    Raises WorkerLostError where `command` cannot be started.
    """

    def __init__(self, command: Sequence[str]) -> None:
        self._lock = threading.Lock()  # a process that was waited for has given its id back: never signal it
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 (closed by `dispose`)
        self._stderr_read = 0
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._stderr,
                env={**os.environ, **_ENVIRONMENT},
                start_new_session=True,  # Ctrl-C is for the driver, which ends its workers in order
            )
        except OSError as error:
            self._stderr.close()
            raise WorkerLostError(f"cannot start {' '.join(command)}: {error}") from None

    @property
    def alive(self) -> bool:
        """Whether the process is still running."""
        with self._lock:
            return self._process.poll() is None

    def perform(
        self, job_line: str, run_id: str, timeout_s: float | None, on_epochs: Callable[[int], None]
    ) -> dict[str, Any]:
        """The event, `done` or `failed`, that ends the job `job_line`; blocks until then.

        Raises WorkerLostError where the process dies, says anything else, or needs over `timeout_s` seconds.
        """
        overdue = threading.Event()

        def kill_overdue() -> None:
            overdue.set()
            self.kill()

        timer = None if timeout_s is None else threading.Timer(timeout_s, kill_overdue)
        if timer is not None:
            timer.daemon = True
            timer.start()
        try:
            return self._converse(job_line, run_id, on_epochs)
        except WorkerLostError:
            if overdue.is_set():
                raise WorkerLostError(f"killed after its time limit of {timeout_s:g} s") from None
            raise
        finally:
            if timer is not None:
                timer.cancel()
                timer.join()

    def _converse(self, job_line: str, run_id: str, on_epochs: Callable[[int], None]) -> dict[str, Any]:
        assert self._process.stdin is not None and self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):  # its death shows as the end of its output, below
            self._process.stdin.write(job_line.encode() + b"\n")
            self._process.stdin.flush()
        while line := self._process.stdout.readline(_MAX_EVENT_BYTES):
            event = _parse_event(line, run_id)
            if event["event"] != "epoch":
                return event
            on_epochs(event["epochs"])
        self.wait(1.0)  # for its own exit code, before it is replaced by ours
        self.kill()
        raise WorkerLostError(_describe_exit(self._process.returncode))

    def take_stderr(self) -> str:
        """The last lines written to stderr since the last call."""
        if self._stderr.closed:
            return ""
        descriptor = self._stderr.fileno()
        size = os.fstat(descriptor).st_size
        start = max(self._stderr_read, size - _TAIL_BYTES)
        self._stderr_read = size
        # pread leaves the file offset alone, which the child shares
        return os.pread(descriptor, size - start, start).decode(errors="replace").strip()

    def close_input(self) -> None:
        """Tell the worker that no job will come."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()

    def wait(self, timeout_s: float) -> None:
        """Return when the process has ended, or after `timeout_s` seconds."""
        with self._lock, contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(max(0.0, timeout_s))

    def terminate(self) -> None:
        """Ask the process to write what it must and end (SIGTERM)."""
        with self._lock:
            self._process.terminate()

    def kill(self) -> None:
        """Kill the process and whatever it started, and wait until it is gone."""
        with self._lock:
            if self._process.returncode is None:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(self._process.pid, signal.SIGKILL)
                self._process.wait()

    def dispose(self) -> str:
        """Kill the process and close its files; returns the last lines of its stderr."""
        self.kill()
        stderr = self.take_stderr()
        self.close_input()
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._stderr.close()
        return stderr


def _parse_event(line: bytes, run_id: str) -> dict[str, Any]:
    """One event about `run_id`. Raises WorkerLostError where `line` is none."""
    try:
        event = json.loads(line)
        kind = event["event"]
        about_this_run = event["run_id"] == run_id
    except (ValueError, KeyError, TypeError, RecursionError):
        about_this_run, kind = False, None
    counted = kind != "epoch" or (type(event.get("epochs")) is int and event["epochs"] >= 0)
    if not about_this_run or not counted or kind not in ("epoch", "done", "failed"):
        raise WorkerLostError(f"not an event of run {run_id} on its standard output: {line[:200]!r}")
    return dict(event)


def _describe_exit(returncode: int) -> str:
    if returncode >= 0:
        return f"exited with code {returncode} before its job was done"
    try:
        return f"killed by {signal.Signals(-returncode).name}"
    except ValueError:
        return f"killed by signal {-returncode}"
