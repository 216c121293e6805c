"""Which figures there are, as records."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from reports.metrics import ERROR, MEMORY, TIME, Metric
from reports.rows import finished
from reports.slices import Panel


@dataclass(frozen=True)
class Kind:
    """One sort of figure: y against x, and a panel for each value of `row` and `column`."""

    name: str
    title: str
    x: str | Metric
    y: Metric
    row: str
    column: str
    reading: str

    @property
    def x_column(self) -> str:
        """The column on the x axis."""
        return self.x.column if isinstance(self.x, Metric) else self.x

    def missing(self, rows: pd.DataFrame) -> str:
        """Why there is nothing to see in these rows; empty if there is."""
        done = finished(rows).dropna(subset=[self.x_column, self.y.column])
        if done.empty:
            return "no case finished with these numbers"
        if self.x == "heads" and done["heads"].nunique() < 2:
            return f"only one number of heads was measured, {done['heads'].iloc[0]}"
        return ""

    def worth_drawing(self, drawn: Sequence[Panel]) -> list[Panel]:
        """Without the panels that show one place on the x axis only, if others show several."""
        if isinstance(self.x, Metric):
            return list(drawn)
        x = self.x
        several = [panel for panel in drawn if finished(panel.rows)[x].nunique() > 1]
        return several or list(drawn)


_BAND_OF_TIMES = "Median time of a call; the band is the middle half of the calls."

KINDS = (
    Kind(
        name="time_vs_length",
        title="Time against sequence length",
        x="seq_len",
        y=TIME,
        row="passage",
        column="dtype",
        reading=f"{_BAND_OF_TIMES} A line under the black ones is faster than exact attention.",
    ),
    Kind(
        name="memory_vs_length",
        title="Peak memory against sequence length",
        x="seq_len",
        y=MEMORY,
        row="passage",
        column="dtype",
        reading="The most bytes allocated at once beyond the inputs, the output included.",
    ),
    Kind(
        name="error_vs_length",
        title="Error against sequence length",
        x="seq_len",
        y=ERROR,
        row="inputs",
        column="dtype",
        reading="Distance of the output from exact attention on the same inputs; the band is the "
        "95 % interval over query rows. Below 0.01 the axis is linear, so that rounding and zero "
        "have a place on it.",
    ),
    Kind(
        name="error_vs_time",
        title="Error against time: what is worth its time",
        x=TIME,
        y=ERROR,
        row="inputs",
        column="dtype",
        reading="Down and left is better. The points on the grey line are named: nothing is both "
        "faster and more accurate than they are, and each of the other points is beaten by one of "
        "them. Errors within the rounding of exact attention count as equal.",
    ),
    Kind(
        name="time_vs_heads",
        title="Time against number of heads",
        x="heads",
        y=TIME,
        row="direction",
        column="dtype",
        reading=_BAND_OF_TIMES,
    ),
)
