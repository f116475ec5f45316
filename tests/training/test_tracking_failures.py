"""What decides the mode, and that nothing that W&B does reaches the training."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import wandb
from wandb_offline import clean_environment, of_kind, records_of, rows_of, start

from metalr.config import ConfigError, WandbConfig
from metalr.training import wandb_run
from metalr.training.tracking import SilentTracker, Tracker, tracking_mode

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No W&B variable, no netrc file, and everything set in a test undone after it."""
    with clean_environment(tmp_path):
        yield


NETRC = "machine {host} login user password {key}\n"


@pytest.mark.parametrize(
    ("mode", "variables", "netrc", "expected"),
    [
        ("auto", {}, "", "offline"),
        ("auto", {"WANDB_API_KEY": "k"}, "", "online"),
        ("auto", {"WANDB_API_KEY": ""}, "", "offline"),
        ("auto", {"WANDB_IDENTITY_TOKEN_FILE": "token"}, "", "online"),
        ("auto", {}, NETRC.format(host="api.wandb.ai", key="k"), "online"),
        ("auto", {}, NETRC.format(host="api.forge.coreweave.com", key="k"), "online"),
        ("auto", {}, NETRC.format(host="example.org", key="k"), "offline"),
        ("auto", {}, "default login anonymous password me@example.org\n", "offline"),
        ("auto", {}, "machine api.wandb.ai nonsense", "offline"),
        ("auto", {}, "machine api.wandb.ai login user\n", "offline"),
        (
            "auto",
            {"WANDB_BASE_URL": "https://w.lab:8080"},
            NETRC.format(host="api.wandb.ai", key="k"),
            "offline",
        ),
        (
            "auto",
            {"WANDB_BASE_URL": "https://w.lab:8080"},
            NETRC.format(host="w.lab:8080", key="k"),
            "online",
        ),
        ("auto", {"WANDB_MODE": "disabled", "WANDB_API_KEY": "k"}, "", "disabled"),
        ("auto", {"WANDB_MODE": "offline", "WANDB_API_KEY": "k"}, "", "offline"),
        ("auto", {"WANDB_MODE": "online"}, "", "online"),
        ("auto", {"WANDB_MODE": ""}, "", "offline"),
        ("online", {"WANDB_MODE": "disabled"}, "", "online"),
        ("offline", {"WANDB_MODE": "online", "WANDB_API_KEY": "k"}, "", "offline"),
        ("disabled", {"WANDB_MODE": "online", "WANDB_API_KEY": "k"}, "", "disabled"),
        ("offline", {"WANDB_MODE": "nonsense"}, "", "offline"),
    ],
)
def test_mode_precedence(
    tmp_path: Path, mode: Any, variables: dict[str, str], netrc: str, expected: str
) -> None:
    file = tmp_path / "netrc"
    file.write_text(netrc)
    assert tracking_mode(WandbConfig(mode=mode), {"NETRC": str(file), **variables}) == expected


@pytest.mark.parametrize("value", ["dryrun", "run", "shared", "Offline", "true"])
def test_unknown_mode_in_the_environment_is_one_clear_error(value: str, tmp_path: Path) -> None:
    os.environ["WANDB_MODE"] = value
    with pytest.raises(ConfigError) as caught:
        start(tmp_path, config=WandbConfig())
    assert str(caught.value).startswith(f"WANDB_MODE={value!r} is not one of online, offline, disabled")
    assert "\n" not in str(caught.value)


def warnings_in(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def say_everything(tracker: Tracker, file: Path) -> None:
    file.write_bytes(b"x")
    tracker.log({"epoch": 1, "test/accuracy": 0.5})
    tracker.log_table("table", ["a"], [[1]])
    tracker.log_artifact("a", "report", [file], {})
    tracker.use_artifact("a", "report")
    tracker.summary({"a": 1})
    tracker.finish()


def test_broken_start_is_one_warning_and_silence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(**_: object) -> None:
        raise RuntimeError("first line\nsecond line " + "y" * 500)

    monkeypatch.setattr("wandb.init", refuse)
    tracker = start(tmp_path)
    say_everything(tracker, tmp_path / "file")
    assert isinstance(tracker, SilentTracker)
    (message,) = warnings_in(caplog)
    assert message.startswith("W&B: could not start (RuntimeError: first line second line y")
    assert "\n" not in message and len(message) < 350


@pytest.mark.parametrize(("limit", "is_open"), [(5.0, True), (0.0, False)])
def test_an_id_that_is_held_for_a_moment_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: float, is_open: bool
) -> None:
    init, held = wandb.init, ["run ID 1 is in use"] * 2

    def init_once_free(**arguments: Any) -> Any:
        if held:
            raise RuntimeError(held.pop())
        return init(**arguments)

    monkeypatch.setattr("wandb.init", init_once_free)
    monkeypatch.setattr(wandb_run, "HELD_LIMIT_S", limit)
    tracker = start(tmp_path)
    assert isinstance(tracker, wandb_run.WandbTracker) == is_open
    tracker.finish()


def test_missing_wandb_and_unwritable_folder_are_one_warning_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("in the way")
    assert isinstance(start(tmp_path / "file"), SilentTracker)
    monkeypatch.setitem(sys.modules, "wandb", None)
    assert isinstance(start(tmp_path), SilentTracker)
    in_the_way, missing = warnings_in(caplog)
    assert "could not start (NotADirectoryError" in in_the_way
    assert "could not start (ModuleNotFoundError" in missing


def test_online_without_a_key_never_reaches_wandb(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    assert isinstance(start(tmp_path, config=WandbConfig(mode="online")), SilentTracker)
    (message,) = warnings_in(caplog)
    assert "no API key: run `wandb login`, set WANDB_API_KEY, or choose wandb.mode=offline" in message


class FakeRun:
    """A run whose method `broken` raises; it counts what it is asked."""

    def __init__(self, broken: str = "") -> None:
        self.broken = broken
        self.calls: list[str] = []
        self.config = self.summary = self

    def __getattr__(self, name: str) -> Any:
        def call(*_: object, **__: object) -> None:
            self.calls.append(name)
            if name == self.broken:
                raise ConnectionError(f"no {name}")

        return call


@pytest.mark.parametrize("broken", ["log", "log_artifact", "update", "define_metric"])
def test_first_failure_is_one_warning_and_closes_the_run(
    broken: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = FakeRun(broken)
    say_everything(wandb_run.WandbTracker(run, online=False), tmp_path / "file")
    (message,) = warnings_in(caplog)
    assert f"(ConnectionError: no {broken})" in message
    assert run.calls[-2:] == [broken, "finish"]
    assert run.calls.count("finish") == 1


def test_fake_run_that_works_gets_everything(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = FakeRun()
    say_everything(wandb_run.WandbTracker(run, online=True), tmp_path / "file")
    expected = ["define_metric", "log", "log", "log_artifact", "update", "use_artifact", "update", "finish"]
    assert run.calls == expected
    assert warnings_in(caplog) == []


def test_unknown_artifact_is_a_warning_and_tracking_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = FakeRun("use_artifact")
    say_everything(wandb_run.WandbTracker(run, online=True), tmp_path / "file")
    assert run.calls[-3:] == ["use_artifact", "update", "finish"]
    assert warnings_in(caplog) == ["W&B: a:latest is not in the lineage (ConnectionError: no use_artifact)"]


def test_hanging_finish_and_lineage_are_left_to_themselves(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    released = threading.Event()
    run = FakeRun()
    run.finish = run.use_artifact = lambda *_, **__: released.wait()  # type: ignore[attr-defined]
    for name, limit in (("FINISH_LIMIT_S", 0.01), ("GRACE_S", 0.01), ("CALL_LIMIT_S", 0.03)):
        monkeypatch.setattr(wandb_run, name, limit)
    tracker = wandb_run.WandbTracker(run, online=True)
    tracker.use_artifact("a", "model")
    tracker.finish()
    released.set()
    lineage, finish = warnings_in(caplog)
    assert lineage == "W&B: a:latest is not in the lineage (TimeoutError: no answer in 0.03 s)"
    assert "could not finish (TimeoutError: no answer in 0.02 s)" in finish


def in_a_process(
    script: str, folder: Path, *before: str, **variables: str
) -> subprocess.CompletedProcess[str]:
    """A fresh interpreter with nothing of W&B in its environment but `variables`."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    command = [*before, sys.executable, "-c", textwrap.dedent(script), str(folder)]
    environment = {**kept, "HOME": str(folder / "home"), **variables}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)


WATCH = """
import socket, sys

def watch(event, arguments):
    if event in ("socket.connect", "socket.sendto"):
        host = arguments[1][0] if isinstance(arguments[1], tuple) else "localhost"
    else:
        host = arguments[0] if event == "socket.getaddrinfo" else "localhost"
    if host not in ("127.0.0.1", "::1", "localhost"):
        print("REACHED", event, host, flush=True)

sys.addaudithook(watch)
"""
OFFLINE = """
import logging
from pathlib import Path
from metalr.config import WandbConfig
from metalr.training.tracking import SilentTracker, start_tracking

logging.basicConfig(level=logging.WARNING)
folder = Path(sys.argv[1])
common = dict(name="n", job_type="train", group="g", tags=[], run_config={}, folder=folder)
assert isinstance(start_tracking(WandbConfig(mode="disabled"), **common), SilentTracker)
assert "wandb" not in sys.modules, "disabled must not import wandb"
tracker = start_tracking(WandbConfig(), **common)
assert "wandb" in sys.modules and not isinstance(tracker, SilentTracker)
print("drawn by us")
tracker.log({"epoch": 1, "train/loss": 0.5})
tracker.log_artifact("script", "report", [Path("ruff.toml")], {})
tracker.finish()
"""
CONTROL = """
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
    probe.connect(("192.0.2.1", 9))  # TEST-NET-1; binds a datagram socket and sends nothing
"""


def test_offline_is_quiet_stays_under_its_folder_and_opens_no_connection(tmp_path: Path) -> None:
    """Watched from inside by an audit hook and, where strace works, from outside (wandb has a helper)."""
    trace = tmp_path / "trace"
    (tmp_path / "home").mkdir()
    strace = ["strace", "--seccomp-bpf", "-f", "-qq", "-e", "trace=connect", "-o", str(trace)]
    usable = shutil.which("strace") and subprocess.run([*strace, "true"], capture_output=True).returncode == 0
    ran = in_a_process(WATCH + OFFLINE, tmp_path, *(strace if usable else []))
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "drawn by us\n", "")
    records = records_of(tmp_path)
    assert rows_of(records) == [{"epoch": 1, "train/loss": 0.5}]
    assert of_kind(records, "output") + of_kind(records, "output_raw") == [], "the console stays the caller's"
    assert list((tmp_path / "home").rglob("*")) == []
    if usable:
        outside = [line for line in trace.read_text().splitlines() if "AF_INET" in line]
        assert [line for line in outside if "127.0.0.1" not in line and '"::1"' not in line] == []


def test_control_the_watch_sees_a_connection(tmp_path: Path) -> None:
    ran = in_a_process(WATCH + CONTROL, tmp_path)
    assert (ran.returncode, ran.stdout) == (0, "REACHED socket.connect 192.0.2.1\n")


UNREACHABLE = """
import logging, sys
from pathlib import Path
from metalr.config import WandbConfig
from metalr.training import wandb_run
from metalr.training.tracking import SilentTracker, start_tracking

wandb_run.INIT_LIMIT_S = 1.0
logging.basicConfig(level=logging.WARNING, format="%(message)s")
common = dict(name="n", job_type="train", group="g", tags=[], run_config={}, folder=Path(sys.argv[1]))
tracker = start_tracking(WandbConfig(), **common)
assert isinstance(tracker, SilentTracker)
tracker.log({"epoch": 1})
tracker.finish()
print("trained")
"""


def test_online_without_a_network_is_one_warning_and_a_clean_end(tmp_path: Path) -> None:
    ran = in_a_process(UNREACHABLE, tmp_path, WANDB_API_KEY="0" * 40, WANDB_BASE_URL="http://127.0.0.1:9")
    assert (ran.returncode, ran.stdout) == (0, "trained\n")
    (line,) = ran.stderr.splitlines()
    assert line.startswith("W&B: could not start (CommError: ")
    assert "with 1.0 second timeout" in (tmp_path / "wandb" / "debug.log").read_text()


def test_what_the_user_set_in_the_environment_wins(tmp_path: Path) -> None:
    os.environ["WANDB_ERROR_REPORTING"] = "true"
    wandb_run._prepare_environment(tmp_path, online=False)
    assert os.environ["WANDB_ERROR_REPORTING"] == "true"
    del os.environ["WANDB_ERROR_REPORTING"]
    wandb_run._prepare_environment(tmp_path, online=False)
    assert os.environ["WANDB_ERROR_REPORTING"] == "false"
