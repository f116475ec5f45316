from __future__ import annotations

import io

import pytest
from rich.console import Console

from metalr.display import Display, SilentDisplay, estimate_remaining_s, format_duration


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def display(terminal: bool, clock: Clock, width: int = 80) -> tuple[Display, io.StringIO]:
    output = io.StringIO()
    console = Console(
        file=output, force_terminal=terminal, width=width, color_system=None, legacy_windows=False
    )
    return Display(console, clock), output


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (59.4, "59s"), (59.6, "1m00s"), (3599, "59m59s"), (3600, "1h00m"), (100_000, "27h46m")],
)
def test_durations(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


def test_the_estimate_counts_only_what_was_done_in_this_call() -> None:
    assert estimate_remaining_s(60.0, 12, 0, 36) == 120.0
    assert estimate_remaining_s(60.0, 32, 20, 44) == 60.0
    assert estimate_remaining_s(60.0, 20, 20, 44) is None


def test_without_a_terminal_a_line_comes_at_most_every_ten_seconds() -> None:
    clock = Clock()
    shown, output = display(False, clock)
    with shown.track("harvest", 41, done=1) as tracker:
        for index in range(40):
            clock.now_s += 3.0
            tracker.advance(note=f"run [{index}]")
    lines = output.getvalue().splitlines()
    assert lines[0] == "harvest: 1/41 (2%)"
    assert lines[1] == "harvest: 5/41 (12%), 12s elapsed, about 1m48s left, run [3]"
    assert lines[-1] == "harvest: 41/41 (100%), 2m00s elapsed, run [39]"
    assert len(lines) == 11


def test_on_a_terminal_the_bar_shows_figures_and_note_within_its_width() -> None:
    clock = Clock()
    shown, output = display(True, clock)
    with shown.track("harvest", 40) as tracker:
        clock.now_s = 90.0
        tracker.advance(10, note="cosine [0.1] " + "x" * 100)
        tracker._bar.refresh()  # type: ignore[attr-defined]
        picture = output.getvalue()
    assert " 25%  10/40   1m30s  ~4m30s left" in picture
    assert "cosine [0.1] xxx" in picture
    assert (
        max(len(line) for line in picture.replace("\r", "\n").splitlines())
        <= 80 + len("\x1b[?25l\x1b[1A\x1b[2K") * 2
    )


def test_long_figures_stay_on_one_line_beside_the_bar() -> None:
    clock = Clock()
    shown, output = display(True, clock)
    with shown.track("Harvest", 5020) as tracker:
        clock.now_s = 612.0
        tracker.advance(1860)
        tracker._bar.refresh()  # type: ignore[attr-defined]
        picture = output.getvalue()
    assert " 37%  1860/5020  10m12s  ~17m20s left" in picture


def test_a_failure_inside_passes_through_the_bar() -> None:
    shown, _ = display(True, Clock())
    with pytest.raises(KeyError), shown.track("harvest", 2):
        raise KeyError("inside")


def test_tables_keep_brackets_and_align_numbers() -> None:
    shown, output = display(False, Clock())
    shown.table(
        "Results [%]", ["method", "lr [0.1]"], [["metalr [mlp]", "0.1"], ["constant", "-12.55"], ["x", "-"]]
    )
    lines = [line.rstrip() for line in output.getvalue().splitlines()]
    assert lines[0] == "Results [%]"
    assert " metalr [mlp]        0.1" in lines
    assert " constant         -12.55" in lines


def test_announcements_are_printed_as_they_are() -> None:
    shown, output = display(False, Clock(), width=20)
    shown.announce("report: [bold]runs/a/very/long/path/report.html :smile:")
    assert output.getvalue() == "report: [bold]runs/a/very/long/path/report.html :smile:\n"


def test_the_silent_display_shows_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    silent = SilentDisplay()
    silent.announce("x")
    silent.table("t", ["a"], [[1]])
    with silent.track("d", 2) as tracker:
        tracker.advance(2, note="n")
    assert capfd.readouterr() == ("", "")
