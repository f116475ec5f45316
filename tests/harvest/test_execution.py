"""Supervised workers, tried with workers in plain Python that behave as their job's seed says."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

import pytest

from metalr.config import TaskConfig, TrainConfig
from metalr.harvest.execution import InlineExecutor, JobFailed, WorkerExecutor
from metalr.training.records import RunStore
from metalr.training.specs import Job, RunSpec

WORKER = """
import hashlib, json, os, signal, sys, threading, time

SCRIPT = json.loads(sys.argv[1])
jobs = []
ready = threading.Semaphore(0)

def read():
    with open(0, "rb", closefd=False) as lines:
        for line in lines:
            jobs.append(line)
            ready.release()
    if not SCRIPT.get("stays"):
        os._exit(0)

def say(**event):
    sys.stdout.write(json.dumps(event) + "\\n")
    sys.stdout.flush()

def write(text):
    sys.stdout.buffer.write(text)
    sys.stdout.buffer.flush()

if SCRIPT.get("deaf"):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
threading.Thread(target=read, daemon=True).start()
while True:
    ready.acquire()
    job = json.loads(jobs.pop(0))
    settings = dict(job["spec"])
    for key in ("schedules", "forks_together"):  # at the value that is no part of the identity, as are these
        del settings[key]
    settings["task"] = {
        key: value for key, value in settings["task"].items() if key not in ("classes", "objective")
    }
    settings["train"] = {
        key: value for key, value in settings["train"].items()
        if key not in ("optimizer", "beta2", "decay_norms_and_biases", "depth_groups", "early_stopping",
                       "step", "evaluate_every")
    }
    spec = json.dumps(settings, sort_keys=True, separators=(",", ":"))
    run_id = hashlib.sha256(spec.encode()).hexdigest()[:16]
    seed = job["spec"]["seed"]
    log = os.path.join(job["store"], "attempts.log")
    with open(log, "a") as handle:
        threads = os.environ["OMP_NUM_THREADS"] + " " + os.environ["MKL_NUM_THREADS"]
        handle.write(f"{seed} {os.getpid()} {threads}\\n")
    attempt = sum(line.split()[0] == str(seed) for line in open(log))
    actions = SCRIPT.get(str(seed), ["done"])
    action = actions[min(attempt, len(actions)) - 1]
    print(f"seed {seed} attempt {attempt}: {action}", file=sys.stderr, flush=True)
    if action == "done":
        for _ in range(2):
            say(event="epoch", run_id=run_id, epochs=3)
        os.makedirs(os.path.join(job["store"], run_id))
        with open(os.path.join(job["store"], run_id, "result.json"), "w") as handle:
            handle.write("{}")
        say(event="done", run_id=run_id)
    elif action == "lie":
        say(event="done", run_id=run_id)
    elif action == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    elif action == "exit":
        os._exit(3)
    elif action == "hang":
        say(event="epoch", run_id=run_id, epochs=7)
        time.sleep(600)
    elif action.startswith("failed"):
        say(event="failed", run_id=run_id, error="ValueError: wrong", retry=action == "failed-retry")
    else:
        write({
            "text": b"Downloading...\\n",
            "binary": b"\\xff\\xfe\\x00\\n",
            "endless": b"x" * 200_000,
            "number": b"5\\n",
            "nested": b"[" * 50_000 + b"\\n",
            "other-run": json.dumps({"event": "done", "run_id": "0" * 16}).encode() + b"\\n",
            "other-event": json.dumps({"event": "rest", "run_id": run_id}).encode() + b"\\n",
            "negative": json.dumps({"event": "epoch", "run_id": run_id, "epochs": -1}).encode() + b"\\n",
            "uncounted": json.dumps({"event": "epoch", "run_id": run_id}).encode() + b"\\n",
        }[action])
        time.sleep(600)
"""


@pytest.fixture
def command(tmp_path: Path) -> Callable[[dict[str, object]], tuple[str, ...]]:
    """Makes the command of a worker that does what its script says, per seed and attempt."""
    path = tmp_path / "worker.py"
    path.write_text(WORKER)
    return lambda script: (sys.executable, str(path), json.dumps(script))


@pytest.fixture(autouse=True)
def _no_orphans(tmp_path: Path) -> Iterator[None]:
    yield
    assert not _running(tmp_path), "workers were left running"


def _job(store: Path, seed: int) -> Job:
    spec = RunSpec(task=TaskConfig(), train=TrainConfig(), method="constant", seed=seed, data_digest="0")
    return Job(spec=spec, store=str(store))


def _jobs(store: Path, count: int) -> list[Job]:
    store.mkdir(exist_ok=True)
    return [_job(store, seed) for seed in range(count)]


def _attempts(store: Path) -> dict[int, list[int]]:
    """Seed -> process ids of its attempts."""
    found: dict[int, list[int]] = {}
    for line in (store / "attempts.log").read_text().splitlines():
        seed, pid, *_ = map(int, line.split())
        found.setdefault(seed, []).append(pid)
    return found


def _running(folder: Path) -> list[int]:
    """Process ids of workers whose command line names `folder` (zombies have none)."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            arguments = entry.read_bytes().split(b"\0")
        except OSError:
            continue
        if str(folder / "worker.py").encode() in arguments:
            found.append(int(entry.parent.name))
    return found


def _wait_until(condition: Callable[[], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.02)
    return condition()


def _ignore(job: Job) -> None:
    pass


def test_every_job_is_done_once_by_workers_that_live_on(tmp_path, command) -> None:
    store, done, epochs = tmp_path / "store", [], []
    jobs = _jobs(store, 12)
    with WorkerExecutor(2, command({}), on_epochs=epochs.append) as executor:
        executor.run(jobs[:6] + jobs[:3], lambda job: done.append(job.spec.seed))
        executor.run(jobs, lambda job: done.append(job.spec.seed))
    assert sorted(done) == list(range(12))
    assert Counter(epochs) == {3: 24}
    attempts = _attempts(store)
    assert {len(pids) for pids in attempts.values()} == {1}
    assert len({pids[0] for pids in attempts.values()}) == 2, "one process per worker, kept between calls"
    assert {line.split(" ", 2)[2] for line in (store / "attempts.log").read_text().splitlines()} == {"1 1"}


def test_finished_runs_start_no_worker(tmp_path) -> None:
    jobs, done = _jobs(tmp_path / "store", 3), []
    for job in jobs:
        RunStore(job.store).commit(job.spec.run_id, {})
    executor = WorkerExecutor(2, ("/no/such/program",))
    executor.run(jobs, done.append)
    executor.run([], done.append)
    assert done == []
    with pytest.raises(JobFailed, match=r"cannot start /no/such/program.*No such file"):  # negative control
        executor.run(_jobs(tmp_path / "other", 2), done.append)


def test_a_worker_killed_from_outside_costs_its_own_job_one_attempt(tmp_path, command) -> None:
    store, done = tmp_path / "store", []
    jobs = _jobs(store, 9)

    def on_epochs(epochs: int) -> None:
        if epochs == 7:
            os.kill(_attempts(store)[4][0], signal.SIGKILL)

    with WorkerExecutor(2, command({"4": ["hang", "done"]}), on_epochs=on_epochs) as executor:
        executor.run(jobs, lambda job: done.append(job.spec.seed))
    assert sorted(done) == list(range(9))
    attempts = _attempts(store)
    assert {seed: len(pids) for seed, pids in attempts.items()} == {**dict.fromkeys(range(9), 1), 4: 2}
    others = {pid for pids in attempts.values() for pid in pids} - {attempts[4][0]}
    assert len(others) <= 2, "the sibling kept its process, the lost one had at most one successor"


def test_a_worker_that_always_dies_fails_its_job_alone(tmp_path, command, caplog) -> None:
    store, done = tmp_path / "store", []
    jobs = _jobs(store, 6)
    with (
        WorkerExecutor(2, command({"0": ["killed"], "3": ["exit"]}), max_attempts=3) as executor,
        pytest.raises(JobFailed) as caught,
    ):
        executor.run(jobs, lambda job: done.append(job.spec.seed))
    assert sorted(done) == [1, 2, 4, 5]
    failures = {failure.run_id: failure for failure in caught.value.failures}
    killed, exited = failures[jobs[0].spec.run_id], failures[jobs[3].spec.run_id]
    assert (killed.attempts, killed.reason) == (3, "killed by SIGKILL")
    assert (exited.attempts, exited.reason) == (3, "exited with code 3 before its job was done")
    assert killed.stderr == "seed 0 attempt 3: killed"
    for part in (killed.run_id, "3 attempt(s)", "seed 0 attempt 3: killed", exited.run_id):
        assert part in str(caught.value)
    assert sum("attempt 1 failed and it will be tried again" in text for text in caplog.messages) == 2
    assert {seed: len(pids) for seed, pids in _attempts(store).items()} == {
        0: 3,
        1: 1,
        2: 1,
        3: 3,
        4: 1,
        5: 1,
    }


def test_application_errors_are_final_and_leave_the_worker_alive(tmp_path, command) -> None:
    store, done = tmp_path / "store", []
    script = {"0": ["failed"], "1": ["failed-retry"], "2": ["failed-retry", "done"]}
    with WorkerExecutor(1, command(script)) as executor, pytest.raises(JobFailed) as caught:
        executor.run(_jobs(store, 4), lambda job: done.append(job.spec.seed))
    assert sorted(done) == [2, 3]
    assert sorted(failure.attempts for failure in caught.value.failures) == [1, 2]
    assert {failure.reason for failure in caught.value.failures} == {"ValueError: wrong"}
    attempts = _attempts(store)
    assert {seed: len(pids) for seed, pids in attempts.items()} == {0: 1, 1: 2, 2: 2, 3: 1}
    assert len({pid for pids in attempts.values() for pid in pids}) == 1


def test_a_hung_job_is_killed_at_its_limit_and_the_others_proceed(tmp_path, command) -> None:
    store, done = tmp_path / "store", []
    script = {"0": ["hang"], "1": ["hang", "done"]}
    with (
        WorkerExecutor(2, command(script), timeout_s=1.0) as executor,
        pytest.raises(JobFailed, match=r"2 attempt\(s\): killed after its time limit of 1 s"),
    ):
        executor.run(_jobs(store, 6), lambda job: done.append(job.spec.seed))
    assert sorted(done) == [1, 2, 3, 4, 5]
    assert len(_attempts(store)[0]) == len(_attempts(store)[1]) == 2


RUBBISH = (
    "text",
    "binary",
    "endless",
    "number",
    "nested",
    "other-run",
    "other-event",
    "negative",
    "uncounted",
)


def test_rubbish_on_stdout_is_a_failed_attempt(tmp_path, command) -> None:
    store, done = tmp_path / "store", []
    script = {str(seed): [kind, "done"] for seed, kind in enumerate(RUBBISH)} | {"9": ["text"]}
    with WorkerExecutor(2, command(script)) as executor, pytest.raises(JobFailed) as caught:
        executor.run(_jobs(store, 10), lambda job: done.append(job.spec.seed))
    assert sorted(done) == list(range(9))
    assert {len(pids) for pids in _attempts(store).values()} == {2}
    (failure,) = caught.value.failures
    assert "not an event of run" in failure.reason and "Downloading..." in failure.reason


def test_done_without_the_commit_mark_is_a_failed_attempt(tmp_path, command) -> None:
    script = {"0": ["lie"], "1": ["lie", "done"]}
    with (
        WorkerExecutor(1, command(script)) as executor,
        pytest.raises(JobFailed, match="run is not committed") as caught,
    ):
        executor.run(_jobs(tmp_path / "store", 2), _ignore)
    assert [failure.attempts for failure in caught.value.failures] == [2]


def test_callbacks_never_overlap_and_their_errors_end_the_run(tmp_path, command) -> None:
    store, inside, overlaps, seen = tmp_path / "store", threading.Lock(), [], []

    def exclusive(value: object) -> None:
        if not inside.acquire(blocking=False):
            overlaps.append(value)
            return
        time.sleep(0.01)
        seen.append(value)
        inside.release()

    with WorkerExecutor(4, command({}), on_epochs=exclusive) as executor:
        executor.run(_jobs(store, 8), exclusive)
    assert not overlaps and len(seen) == 8 * 3

    def broken(job: Job) -> NoReturn:
        raise KeyError("from the callback")

    with WorkerExecutor(2, command({"1": ["hang"]})) as executor:
        with pytest.raises(KeyError, match="from the callback"):
            executor.run(_jobs(tmp_path / "other", 2), broken)
        assert not _running(tmp_path), "the sibling was in the middle of its job"


def test_inline_does_the_others_first_and_interrupts_at_once(tmp_path) -> None:
    jobs, executed, done = _jobs(tmp_path / "store", 4), [], []
    RunStore(jobs[3].store).commit(jobs[3].spec.run_id, {})

    def execute(job: Job) -> None:
        executed.append(job.spec.seed)
        if job.spec.seed == 1:
            raise ValueError("wrong width")

    with pytest.raises(JobFailed, match=f"run {jobs[1].spec.run_id} .* ValueError: wrong width") as caught:
        InlineExecutor(execute).run([*jobs, jobs[0]], lambda job: done.append(job.spec.seed))
    assert (executed, done) == ([0, 1, 2], [0, 2])
    assert "in execute" in caught.value.failures[0].stderr

    def interrupted(job: Job) -> NoReturn:
        executed.append(job.spec.seed)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        InlineExecutor(interrupted).run(jobs, _ignore)
    assert executed == [0, 1, 2, 0]


@pytest.mark.parametrize("wrong", [{"num_workers": 0}, {"max_attempts": 0}, {"timeout_s": 0.0}])
def test_numbers_out_of_range_are_refused(wrong) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        WorkerExecutor(**wrong)


DRIVER = """
import signal
import sys
from pathlib import Path
signal.signal(signal.SIGINT, signal.default_int_handler)  # a background shell hands it on ignored
store, tests = map(Path, sys.argv[1:])
sys.path.insert(0, str(tests.parent))
from test_execution import _ignore, _jobs
from metalr.harvest.execution import WorkerExecutor
stays = "false" if store.name == "killed" else "true"
script = '{"deaf": true, "stays": %s, "0": ["hang"], "1": ["hang"]}' % stays
with WorkerExecutor(2, (sys.executable, str(store.parent / "worker.py"), script)) as executor:
    executor.run(_jobs(store, 4), _ignore)
"""


def test_workers_never_outlive_their_driver(tmp_path, command) -> None:
    """Deaf to SIGTERM, and to the end of their input where the driver can still kill them."""
    command({})  # writes the worker
    expected = {
        "terminated": (signal.SIGTERM, 143),
        "interrupted": (signal.SIGINT, -signal.SIGINT),
        "killed": (signal.SIGKILL, -signal.SIGKILL),
    }
    drivers: dict[str, subprocess.Popen[bytes]] = {}
    try:
        for name in expected:
            (tmp_path / name).mkdir()
            arguments = [sys.executable, "-c", DRIVER, str(tmp_path / name), __file__]
            drivers[name] = subprocess.Popen(arguments, stderr=subprocess.DEVNULL)
        assert _wait_until(lambda: all(_num_begun(tmp_path / name) == 2 for name in expected), 60.0)
        assert len(_running(tmp_path)) == 6
        for name, (number, _) in expected.items():
            drivers[name].send_signal(number)
        for name, (_, returncode) in expected.items():
            assert drivers[name].wait(timeout=30.0) == returncode, name
        assert _wait_until(lambda: not _running(tmp_path), 5.0)
    finally:
        for driver in drivers.values():
            driver.kill()
            driver.wait()


def _num_begun(store: Path) -> int:
    return len(_attempts(store)) if (store / "attempts.log").exists() else 0
