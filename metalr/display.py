"""What a stage shows while it works: announcements, one progress bar, tables.

On a terminal the bar is redrawn in place; in a pipe or a log file a plain line comes every 10 s.
"""

from __future__ import annotations

import contextlib
import io
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from rich import box
from rich.console import Console, RenderableType
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn
from rich.table import Column, Table
from rich.text import Text

__all__ = ["Display", "SilentDisplay", "Tracker", "format_duration"]

_LINE_INTERVAL_S = 10.0
_PLAIN_WIDTH = 110
"""Columns of tables where there is no terminal to ask."""


class Tracker(Protocol):
    """What `Display.track` gives: told of each piece of finished work."""

    def advance(self, n: int = 1, note: str = "") -> None:
        """Count `n` more as done; `note` says in a few words what was."""


def format_duration(seconds: float) -> str:
    """A length of time in its two largest units.

    >>> format_duration(5), format_duration(192.4), format_duration(7260)
    ('5s', '3m12s', '2h01m')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"


def estimate_remaining_s(
    elapsed_s: float, completed: float, found: float, total: float | None
) -> float | None:
    """Seconds still to go at the mean pace so far; None before anything was done in this call.

    `found` is the part of `completed` that had been done before, at no cost in `elapsed_s`.
    """
    if total is None or completed <= found:
        return None
    return elapsed_s / (completed - found) * (total - completed)


class _StateColumn(ProgressColumn):
    """`37%  12/32  elapsed 1m02s  left ~3m10s`, each at its own fixed width so that nothing jumps."""

    max_refresh = 0.5

    def __init__(self) -> None:
        super().__init__(table_column=Column(no_wrap=True))

    def render(self, task: Task) -> Text:
        """The figures of one bar."""
        done = f"{int(task.completed)}/{int(task.total or 0)}"
        width = 2 * len(str(int(task.total or 0))) + 1
        elapsed_s = task.finished_time if task.finished else task.elapsed
        left_s = estimate_remaining_s(elapsed_s or 0.0, task.completed, task.fields["found"], task.total)
        text = Text(f"{task.percentage:3.0f}%  {done:>{width}}  {format_duration(elapsed_s or 0.0):>6}")
        if not task.finished:
            text.append(f"  ~{format_duration(left_s)} left" if left_s is not None else "  ~? left", "cyan")
        return text


class _Bar(Progress):
    """A bar with its figures, and the note on a line of its own below while work goes on."""

    def get_renderables(self) -> Iterator[RenderableType]:
        """The lines to draw."""
        yield self.make_tasks_table(self.tasks)
        for task in self.tasks:
            if not task.finished and task.fields["note"]:
                yield Text(f"  {task.fields['note']}", style="dim", overflow="ellipsis", no_wrap=True)


class _BarTracker:
    def __init__(self, bar: Progress, description: str, total: int, done: int) -> None:
        self._bar = bar
        self._task = bar.add_task(description, total=total, completed=done, found=done, note="")

    def advance(self, n: int = 1, note: str = "") -> None:
        self._bar.advance(self._task, n)
        if note:
            self._bar.update(self._task, note=note)


class _LineTracker:
    """Progress as plain lines: at the start, at most every 10 s, and at the end."""

    def __init__(
        self, console: Console, clock: Callable[[], float], description: str, total: int, done: int
    ) -> None:
        self._console, self._clock, self._description = console, clock, description
        self._total, self._found, self._done = total, done, done
        self._start = self._last = clock()
        self._lock = threading.Lock()
        self._print("")

    def advance(self, n: int = 1, note: str = "") -> None:
        with self._lock:
            self._done += n
            if (n and self._done >= self._total) or self._clock() - self._last >= _LINE_INTERVAL_S:
                self._print(note)

    def _print(self, note: str) -> None:
        self._last = self._clock()
        elapsed_s = self._last - self._start
        percent = 100 * self._done // self._total if self._total else 100
        left_s = estimate_remaining_s(elapsed_s, self._done, self._found, self._total)
        parts = [f"{self._description}: {self._done}/{self._total} ({percent}%)"]
        parts += [f"{format_duration(elapsed_s)} elapsed"] if elapsed_s else []
        parts += [f"about {format_duration(left_s)} left"] if left_s else []
        self._console.print(", ".join([*parts, *([note] if note else [])]), soft_wrap=True)


class Display:
    """The terminal's display, written to standard output.

    `console` and `clock` (seconds, monotonic) are for tests.
    """

    def __init__(self, console: Console | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        if console is None:
            console = Console(highlight=False, markup=False, emoji=False)
            if not console.is_terminal:
                console.width = _PLAIN_WIDTH
        self._console = console
        self._clock = clock

    def announce(self, text: str) -> None:
        """Print one paragraph, as it is."""
        self._console.print(text, soft_wrap=True, markup=False, highlight=False, emoji=False)

    @contextlib.contextmanager
    def track(self, description: str, total: int, done: int = 0) -> Iterator[Tracker]:
        """A progress bar over `total` pieces of work, `done` of them found finished from an earlier call.

        Gives an object with ``advance(n=1, note="")``. On no terminal, plain lines instead.
        """
        if not self._console.is_terminal or self._console.is_dumb_terminal:
            yield _LineTracker(self._console, self._clock, description, total, done)
            return
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=None),
            _StateColumn(),
        )
        with _Bar(*columns, console=self._console, get_time=self._clock, expand=True) as bar:
            yield _BarTracker(bar, description, total, done)

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        """Print a table; a column whose cells all begin like numbers is aligned right."""
        table = Table(title=Text(title, "bold"), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
        for index, column in enumerate(columns):
            numeric = bool(rows) and all(_is_numeric(str(row[index])) for row in rows)
            table.add_column(Text(column), justify="right" if numeric else "left", overflow="fold")
        for row in rows:
            table.add_row(*(Text(str(cell)) for cell in row))
        self._console.print(table)


def _is_numeric(cell: str) -> bool:
    """Whether a cell holds a number, perhaps signed or with an interval after it, or a dash for none."""
    return re.match(r"[-+<~±]?\s?[.\d]|[-–—]?$", cell.strip()) is not None  # noqa: RUF001


class SilentDisplay(Display):
    """A display that shows nothing, for tests and for use as a library."""

    def __init__(self) -> None:
        super().__init__(Console(file=io.StringIO(), force_terminal=False))
