"""One worker process, spoken to directly, so that its own times and its memory can be read."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType

from metalr.training import Job

__all__ = ["Worker", "resident_mib"]

PAGE_MIB = (os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4096) / 2**20


class Worker:
    """`python -m metalr.worker`, kept alive until the end of a `with` block."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "metalr.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"},
            text=True,
        )

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()  # at which a worker ends
        self._process.wait()
        self._process.stdout.close()

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def perform(self, job: Job) -> float:
        """Seconds from handing over the job to hearing that it is committed.

        Raises RuntimeError with the worker's reason where it is not.
        """
        assert self._process.stdin is not None and self._process.stdout is not None
        started = time.perf_counter()
        self._process.stdin.write(job.model_dump_json() + "\n")
        self._process.stdin.flush()
        for line in self._process.stdout:
            event = json.loads(line)
            if event["event"] == "done":
                return time.perf_counter() - started
            if event["event"] == "failed":
                raise RuntimeError(f"run {job.spec.run_id} failed in its worker: {event['error']}")
        raise RuntimeError(f"the worker ended before run {job.spec.run_id} was done")


def resident_mib(pid: int) -> float | None:
    """Resident memory of a process in MiB; None where the system has no /proc."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE_MIB
    except OSError:
        return None
