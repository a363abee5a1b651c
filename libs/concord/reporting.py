"""What a job tells people and schedulers while it runs.

On a terminal: a bar per stage. Otherwise: one line every few seconds. With `json_logs`: one JSON
object a line on stderr. In every case the last line on stdout is a one-line JSON summary.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

LINE_EVERY_SECONDS = 3.0


class Reporter:
    """Progress and messages of one job. Safe to use from several threads."""

    def __init__(self, *, json_logs: bool = False, quiet: bool = False) -> None:
        self._json = json_logs
        self._quiet = quiet
        self._lock = threading.Lock()
        self._console = Console(stderr=True, highlight=False)
        self._progress: Progress | None = None
        self._last_line = 0.0

    def say(self, message: str, **facts: Any) -> None:
        """A message a person should see, with facts for machines. Never an identifying value."""
        self._write("info", message, facts)

    def warn(self, message: str, **facts: Any) -> None:
        self._write("warning", message, facts)

    def error(self, message: str, **facts: Any) -> None:
        self._write("error", message, facts)

    @contextmanager
    def stage(self, name: str, total: int) -> Iterator[Stage]:
        """A stage of `total` steps, shown as a bar or as lines."""
        if self._console.is_terminal and not self._json and not self._quiet:
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
            )
            with Progress(*columns, console=self._console, transient=True) as progress:
                task = progress.add_task(name, total=total)
                self._progress = progress
                try:
                    yield Stage(
                        self, name, total, lambda done: progress.update(task, completed=done)
                    )
                finally:
                    self._progress = None
        else:
            yield Stage(self, name, total, None)

    def summary(self, values: dict[str, Any]) -> None:
        """The last line on stdout."""
        print(json.dumps(values, sort_keys=True, default=str), flush=True)

    def _write(self, level: str, message: str, facts: dict[str, Any]) -> None:
        with self._lock:
            if self._json:
                now = datetime.now(UTC).isoformat(timespec="milliseconds")
                entry = {"at": now, "level": level, "message": message, **facts}
                print(json.dumps(entry, default=str), file=sys.stderr, flush=True)
            elif not self._quiet or level != "info":
                mark = {"warning": "[yellow]warning[/] ", "error": "[red]error[/] "}.get(level, "")
                self._console.print(mark, end="")
                self._console.print(message, markup=False, soft_wrap=True)


class Stage:
    """One stage's counter."""

    def __init__(self, reporter: Reporter, name: str, total: int, bar: Any) -> None:
        self._reporter, self._name, self._total, self._bar = reporter, name, total, bar
        self._done = 0
        self._spoke = time.monotonic()
        self._lock = threading.Lock()

    def step(self, what: str = "") -> None:
        """One more of the stage's steps is done."""
        with self._lock:
            self._done += 1
            if self._bar:
                self._bar(self._done)
            elif time.monotonic() - self._spoke >= LINE_EVERY_SECONDS:
                self._spoke = time.monotonic()
                self._reporter.say(
                    f"{self._name}: {self._done} of {self._total} {what}".rstrip(),
                    stage=self._name,
                    done=self._done,
                    total=self._total,
                )
