"""Which figures there are, as records."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from reports.curves import one_setting
from reports.metrics import ERROR, MEMORY, STATE, TIME, TOKEN_TIME, Metric
from reports.rows import finished
from reports.slices import Panel, Sort

MOST_LINES = 10  # in one set of axes; more are ranked, each in a row of its own
COUNTS = {"seq_len": "sequence length", "heads": "query heads"}


@dataclass(frozen=True)
class Kind:
    """One sort of figure: y against x, and a panel for each value of `row` and `column`; drawn of
    slices of that `sort`."""

    name: str
    title: str
    x: str | Metric
    y: Metric
    row: str
    column: str
    reading: str
    sort: Sort = "head_dim"

    @property
    def x_column(self) -> str:
        """The column on the x axis."""
        return self.x.column if isinstance(self.x, Metric) else self.x

    @property
    def x_label(self) -> str:
        """What stands along that axis."""
        if isinstance(self.x, Metric):
            return self.x.label
        return "tokens so far" if self.sort == "decode" else COUNTS[self.x]

    def missing(self, rows: pd.DataFrame) -> str:
        """Why there is nothing to see in these rows; empty if there is."""
        done = finished(rows).dropna(subset=[self.x_column, self.y.column])
        if done.empty:
            return "no case finished with these numbers"
        if self.x == "heads" and done["heads"].nunique() < 2:
            return f"only one number of heads was measured, {done['heads'].iloc[0]}"
        return ""

    def shown(self, rows: pd.DataFrame) -> pd.DataFrame:
        """One setting of each curve, where all are too many and are not what is drawn."""
        if isinstance(self.x, Metric) or rows["label"].nunique() <= MOST_LINES:
            return rows
        return one_setting(rows)

    def is_ranking(self, drawn: Sequence[Panel]) -> bool:
        """Whether there are too many labels to tell their lines apart."""
        labels = {label for panel in drawn for label in panel.rows["label"]}
        return isinstance(self.x, str) and len(labels) > MOST_LINES

    def worth_drawing(self, drawn: Sequence[Panel]) -> list[Panel]:
        """Without the panels that show one place on the x axis only, if others show several.

        Rows of dots may show a single length, if its dtype and direction stand nowhere else.
        """
        if isinstance(self.x, Metric):
            return list(drawn)
        x = self.x
        several = [panel for panel in drawn if finished(panel.rows)[x].nunique() > 1]
        if x == "seq_len" and self.is_ranking(drawn):
            shown = {_way(panel) for panel in several}
            several = [p for p in drawn if any(p is s for s in several) or _way(p) not in shown]
        return several or list(drawn)


def _way(panel: Panel) -> tuple[str, str]:
    first = panel.rows.iloc[0]
    return first["dtype"], first["direction"]


_TIMES = "Median time of a call, and the middle half of the calls."
_MEMORY = "The most bytes allocated at once beyond the inputs, the output included."
_LEVELS = (
    "Dashed, where it was measured: the floor, which is the error of exact attention in that "
    "dtype; with dots: the mean of V, the error of the mean of all visible values."
)
_WIDTH = "The heads share one width: twice as many are half as wide."

KINDS = (
    Kind(
        name="time_vs_length",
        title="Time against sequence length",
        x="seq_len",
        y=TIME,
        row="passage",
        column="dtype",
        reading=f"{_TIMES} What lies under the black lines, or left of the upright one in its "
        "colour, is faster than exact attention.",
    ),
    Kind(
        name="memory_vs_length",
        title="Peak memory against sequence length",
        x="seq_len",
        y=MEMORY,
        row="passage",
        column="dtype",
        reading=_MEMORY,
    ),
    Kind(
        name="error_vs_length",
        title="Error against sequence length",
        x="seq_len",
        y=ERROR,
        row="inputs",
        column="dtype",
        reading="Distance of the output from exact attention on the same inputs, and its 95 % "
        "interval over query rows. Below 0.01 the axis is linear, so that rounding and zero "
        f"have a place on it; what is above {ERROR.ceiling:g} is drawn there. {_LEVELS}",
    ),
    Kind(
        name="error_vs_time",
        title="Error against time: what is worth its time",
        x=TIME,
        y=ERROR,
        row="inputs",
        column="dtype",
        reading="Down and left is better. Nothing is both faster and more accurate than the "
        "points on the grey line, whose names are bold; each of the others is beaten by one of "
        f"them, or has an error of {ERROR.useless:g} or more, no better than zeros. A thin line "
        "joins the settings of a method in the order of its knob, which grows with the marks. "
        "Errors within the rounding of exact attention count as equal; another operator than "
        f"softmax attention does not count. {_LEVELS}",
    ),
    Kind(
        name="time_vs_heads",
        title="Time against number of heads",
        x="heads",
        y=TIME,
        row="direction",
        column="dtype",
        reading=f"{_TIMES} All heads are equally wide, so that more of them are more work.",
    ),
    Kind(
        name="time_at_equal_width",
        title="Heads at equal width: time",
        x="heads",
        y=TIME,
        row="passage",
        column="call",
        reading=f"{_TIMES} {_WIDTH}",
        sort="width",
    ),
    Kind(
        name="memory_at_equal_width",
        title="Heads at equal width: peak memory",
        x="heads",
        y=MEMORY,
        row="passage",
        column="call",
        reading=f"{_MEMORY} {_WIDTH}",
        sort="width",
    ),
    Kind(
        name="error_at_equal_width",
        title="Heads at equal width: error",
        x="heads",
        y=ERROR,
        row="source",
        column="keys",
        reading="Distance of the output from exact attention with as many heads on the same "
        "inputs, and its 95 % interval over query rows. Separate projections leave it as it is, as "
        "it is taken behind them; where query and key share theirs, the key is the query, and the "
        "error of exact attention is what sharing costs. Heads that are fewer or more than the "
        "captured ones are these joined or split, so that exact attention is another, too.",
        sort="width",
    ),
    Kind(
        name="time_per_token",
        title="Decoding: time per token against context length",
        x="seq_len",
        y=TOKEN_TIME,
        row="source",
        column="dtype",
        reading="Median time of a step of one token, and the middle half of the steps. A flat "
        "line, or dots in one place, cost as much at any length.",
        sort="decode",
    ),
    Kind(
        name="state_vs_context",
        title="Decoding: what is held between two steps",
        x="seq_len",
        y=STATE,
        row="source",
        column="dtype",
        reading="Bytes of the state after so many tokens, room for later ones included. A flat "
        "line, or dots in one place, hold as much at any length.",
        sort="decode",
    ),
)
