"""What a person sees while a run works: a live bar on a terminal, plain lines otherwise."""

import sys
import time
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Column

LINE_SECONDS = 5.0

console = Console(highlight=False, width=None if sys.stdout.isatty() else 200)
BAR_COLUMNS = 130  # a narrower terminal has no room for a bar beside what it would show


class Quiet:
    """Shows nothing: for ranks other than the first."""

    def update(self, done: float, total: float, unit: str, note: str = "") -> None:
        pass


class StageProgress:
    """Shows one stage: how much is done, the rate and the time left."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.started = time.monotonic()
        self._last_line = self.started
        self._first: tuple[float, float] | None = None
        self._bar: Progress | None = None
        self._task: TaskID | None = None

    def __enter__(self) -> "StageProgress":
        if console.is_terminal:
            whole = Column(no_wrap=True)
            columns: list[Any] = [
                SpinnerColumn(),
                TextColumn("[bold]{task.description}", table_column=whole),
                *([BarColumn(bar_width=24)] if console.width >= BAR_COLUMNS else []),
                TextColumn("{task.fields[text]}", table_column=Column(no_wrap=True, overflow="ellipsis")),
                TimeElapsedColumn(table_column=whole),
            ]
            self._bar = Progress(*columns, console=console, transient=True)
            self._bar.start()
            self._task = self._bar.add_task(self.name, total=None, text="")
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def update(self, done: float, total: float, unit: str, note: str = "") -> None:
        now = time.monotonic()
        if self._first is None:
            self._first = (now, done)
        text = self._text(now, done, total, unit, note)
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=done, total=total or None, text=text)
        elif now - self._last_line >= LINE_SECONDS:
            self._last_line = now
            print(f"  {self.name}: {text}", flush=True, file=sys.stdout)

    def _text(self, now: float, done: float, total: float, unit: str, note: str) -> str:
        parts = [f"{100 * done / total:.0f} % of {total:,.0f} {unit}" if total else unit]
        begin, first = self._first or (now, done)
        if now - begin > 1 and done > first:
            rate = (done - first) / (now - begin)
            parts.append(f"{rate:,.0f}/s" if rate >= 10 else f"{rate:,.1f}/s")
            parts.append(f"{clock((total - done) / rate)} left")
        return " · ".join([*([note] if note else []), *parts])


def clock(seconds: float) -> str:
    """Seconds for a person: 8 s, 3 min 05 s, 2 h 10 min."""
    seconds = max(0, round(seconds))
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60:02d} s"
    return f"{seconds // 3600} h {seconds % 3600 // 60:02d} min"


def size(count: float) -> str:
    """Bytes for a person, in powers of 1024."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:,.0f} {unit}" if unit == "B" else f"{count:,.1f} {unit}"
        count /= 1024
    return f"{count:,.1f} TiB"
