"""What the command measures by default, what it refuses, and what it keeps where something fails."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from benchmarks import __main__ as command
from benchmarks import attempts
from benchmarks.attempts import attempt, with_remarks
from benchmarks.measurement import Goal, Measurement, Row
from benchmarks.report import format_goals
from benchmarks.settings import GPU, QUICK, Settings


def test_what_fails_is_told_and_the_rest_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    runs: list[str] = []

    def warning() -> None:
        runs.append("warning")
        warnings.warn("mind\n this", stacklevel=1)

    def not_recorded() -> None:
        warnings.warn("train.step=cuda_graph: not recorded, steps eager (x)", stacklevel=1)

    def no_maker() -> Callable[[], None]:
        raise OSError("no\n compiler")

    makers = {"bad": no_maker, "eager": lambda: not_recorded, "good": lambda: warning}
    found = attempt(makers, "cpu")
    assert list(found.subjects) == ["good"] and runs == ["warning"]
    assert found.warned == {"good": "mind this"}
    assert found.failed == {
        "bad": "does not work here (OSError: no compiler)",
        "eager": "does not work here (RuntimeError: train.step=cuda_graph: not recorded, steps eager (x))",
    }
    assert capsys.readouterr().err.startswith("bad: does not work here (OSError: no compiler)\neager: ")
    noted = with_remarks([Row("g", Measurement("x", "s", (1.0,)), note="a")], found.failed)[0].note
    assert noted.startswith("a; bad: does not work here (OSError: no compiler); eager: does")


def test_what_goes_wrong_on_the_device_shows_while_it_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    def lost(device: str) -> None:
        raise RuntimeError(f"{device} is lost")

    monkeypatch.setattr(attempts, "synchronise", lost)
    assert attempt({"one": lambda: lambda: None}, "cuda", needed=False).failed == {
        "one": "does not work here (RuntimeError: cuda is lost)"
    }


def test_where_nothing_works_that_is_said() -> None:
    def broken() -> Callable[[], None]:
        raise OSError("no driver")

    with pytest.raises(RuntimeError, match=r"one: does not work here \(OSError: no driver\)"):
        attempt({"one": broken}, "cpu")
    assert attempt({"one": broken}, "cpu", needed=False).subjects == {}


def test_a_group_that_fails_does_not_lose_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(settings: Settings) -> list[Row]:
        raise RuntimeError("the device is gone")

    def row(settings: Settings) -> list[Row]:
        return [Row("g", Measurement("x", "s", (2.0,)), Goal("at most", 1))]

    monkeypatch.setattr(command, "GROUPS", {"floor": row, "steps": fails, "flops": row})
    path = tmp_path / "bench.json"
    assert command.main(["floor", "steps", "flops", "--output", str(path)]) == 1
    report = json.loads(path.read_text())
    assert len(report["rows"]) == 2
    assert report["failed"] == {"steps": "RuntimeError: the device is gone"}
    printed = capsys.readouterr().out
    assert "steps failed: RuntimeError: the device is gone" in printed
    assert printed.count("MISSED   g: x: 2 s, at most 1") == 2
    assert command.main(["floor"]) == 0


def test_goals_are_listed_the_missed_ones_first() -> None:
    rows = [
        Row("g", Measurement("a", "s", (1.0,)), Goal("at most", 1.2)),
        Row("g", Measurement("b", "s", (1.0,))),
        Row("g", Measurement("c", "s", (1.3,)), Goal("at most", 1.2)),
    ]
    assert format_goals(rows).splitlines() == [
        "3 rows, 1 below their goal",
        "  MISSED   g: c: 1.3 s, at most 1.2",
        "  reached  g: a: 1 s, at most 1.2",
    ]


def measured(monkeypatch: pytest.MonkeyPatch, arguments: list[str]) -> dict[str, Settings]:
    """Group -> settings, of all groups the command would measure."""
    found: dict[str, Settings] = {}

    def stand_in(name: str) -> Callable[[Settings], list[Row]]:
        def measure(settings: Settings) -> list[Row]:
            found[name] = settings
            return [Row(name, Measurement("x", "s", (1.0,)))]

        return measure

    monkeypatch.setattr(command, "GROUPS", {name: stand_in(name) for name in command.GROUPS})
    assert command.main(arguments) == 0
    return found


def test_groups_and_sizes_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    on_cpu = measured(monkeypatch, [])
    assert list(on_cpu) == ["floor", "epoch", "workers", "control", "start", "memory", "harvest"]
    assert set(on_cpu.values()) == {Settings()}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a GPU")
    monkeypatch.setattr("benchmarks.report.hardware", lambda device: {})
    on_gpu = measured(monkeypatch, ["--device", "cuda", "--rounds", "2"])
    assert list(on_gpu) == ["steps", "flops", "forks", "packing"]
    assert set(on_gpu.values()) == {Settings(**GPU | {"device": "cuda", "rounds": 2})}
    quick = measured(monkeypatch, ["steps", "--device", "cuda", "--quick", "--matrix-sizes", "64", "128"])
    assert quick["steps"] == Settings(**GPU | QUICK | {"device": "cuda", "matrix_sizes": (64, 128)})


def test_what_runs_on_the_cpu_alone_is_refused_on_a_gpu(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        command.main(["steps", "memory", "control", "--device", "cuda"])
    assert left.value.code == 2
    assert "memory, control: measured on the CPU; name it without --device cuda" in capsys.readouterr().err


def test_too_few_images_for_a_batch_are_refused() -> None:
    with pytest.raises(ValueError, match="people_images=100 must be at least one batch of 128"):
        Settings(people_images=100)
    with pytest.raises(ValueError, match="fork_images=64 must be"):
        Settings(fork_images=64)
