"""Shows the progress of a run: the current case, finished cases, elapsed time and time left."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Hashable, Sequence
from typing import Protocol

from rich.progress import BarColumn, MofNCompleteColumn, TaskProgressColumn, TextColumn
from rich.progress import Progress as Bar

from bench.schema.entry_point import console
from bench.schema.outcome import Status

LINE_SECONDS = 15.0  # between lines if the output is not a terminal


class Named(Hashable, Protocol):
    """A case or a training."""

    @property
    def label(self) -> str: ...


class Progress:
    """A progress bar on a terminal, and a line from time to time elsewhere.

    Args:
        weights: the cases, each with its expected time in any unit.
    """

    def __init__(self, weights: Sequence[tuple[Named, float]]) -> None:
        self._weights = dict(weights)
        self._total = sum(self._weights.values())
        self._done = self._resumed = 0.0
        self._count = 0
        self._statuses: Counter[str] = Counter()
        self._started: float | None = None
        self._line = float("-inf")
        self._console = console(stderr=True)
        self._bar = Bar(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            TaskProgressColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[times]}"),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._task = self._bar.add_task("", total=len(self._weights), times="")
        self._bar.start()

    def tell(self, text: str) -> None:
        """Print a sentence that stays."""
        self._console.print(text, highlight=False)

    def say(self, text: str) -> None:
        """Show a text about work outside the cases."""
        self._show(text)

    def begin(self, case: Named) -> None:
        """A case starts. The first call starts the clock."""
        if self._started is None:
            self._started, self._resumed = time.monotonic(), self._done
        self._show(case.label)

    def advance(self, case: Named, status: Status) -> None:
        """A case is finished."""
        self._done += self._weights[case]
        self._count += 1
        self._statuses[status] += 1
        self._bar.update(self._task, completed=self._count)

    def close(self, said: str = "") -> None:
        """Stop the bar, and print how the cases ended, and a sentence."""
        self._bar.stop()
        if self._count:
            ended = ", ".join(f"{n} {status}" for status, n in self._statuses.most_common())
            self._console.print(
                f"{self._count} of {len(self._weights)} cases in {self._elapsed()}: {ended}",
                highlight=False,
            )
        if said:
            self.tell(said)

    def _elapsed(self) -> str:
        return in_words(0.0 if self._started is None else time.monotonic() - self._started)

    def _show(self, text: str) -> None:
        times = f"elapsed {self._elapsed()}"
        if self._started is not None and self._done > self._resumed:
            spent = time.monotonic() - self._started
            left = spent * (self._total - self._done) / (self._done - self._resumed)
            times += f", left {in_words(left)}"
        self._bar.update(self._task, description=text, times=times)
        if not self._console.is_terminal and time.monotonic() - self._line >= LINE_SECONDS:
            self._line = time.monotonic()
            count = f"{self._count}/{len(self._weights)}"
            self._console.print(f"{count} {times}: {text}", highlight=False)


def in_words(seconds: float) -> str:
    """A time such as `0.5 s`, `40 s`, `16 min` or `4 h 17 min`."""
    if seconds < 99.5:
        return f"{seconds:.0f} s" if seconds >= 9.95 else f"{seconds:.2g} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return " ".join([f"{hours} h"] * (hours > 0) + [f"{minutes} min"] * (minutes > 0))
