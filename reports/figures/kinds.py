"""The kinds of figures, as records."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from reports.curves import one_setting
from reports.metrics import ERROR, MEMORY, STATE, TIME, TOKEN_TIME, Metric
from reports.rows import finished
from reports.slices import Panel, Sort

MOST_LINES = 10  # in one set of axes; a figure with more labels is a ranking
COUNTS = {"seq_len": "sequence length", "heads": "query heads"}


@dataclass(frozen=True)
class Kind:
    """A kind of figure: y against x, with a panel for each pair of values of `row` and `column`.

    It is drawn for slices of that `sort`.
    """

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
        """The text of the x axis."""
        if isinstance(self.x, Metric):
            return self.x.label
        return "tokens so far" if self.sort == "decode" else COUNTS[self.x]

    def missing(self, rows: pd.DataFrame) -> str:
        """The reason why these rows have no figure; empty if they have one."""
        done = finished(rows).dropna(subset=[self.x_column, self.y.column])
        if done.empty:
            return "no case finished with these numbers"
        if self.x == "heads" and done["heads"].nunique() < 2:
            return f"only one number of heads was measured, {done['heads'].iloc[0]}"
        return ""

    def shown(self, rows: pd.DataFrame) -> pd.DataFrame:
        """The rows to draw: one setting of each curve if all are too many for lines."""
        if isinstance(self.x, Metric) or rows["label"].nunique() <= MOST_LINES:
            return rows
        return one_setting(rows)

    def is_ranking(self, drawn: Sequence[Panel]) -> bool:
        """Whether there are too many labels to distinguish their lines."""
        labels = {label for panel in drawn for label in panel.rows["label"]}
        return isinstance(self.x, str) and len(labels) > MOST_LINES

    def worth_drawing(self, drawn: Sequence[Panel]) -> list[Panel]:
        """Leave out panels with one x value, if other panels have several.

        A ranking keeps a panel with one length if no other panel has its dtype and direction.
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


_TIMES = "The median time of a call, with the middle half of the calls as an interval."
_MEMORY = "The most bytes allocated at one time beyond the inputs, including the output."
_LEVELS = (
    "Lines, if measured: dashed is the floor, the error of exact attention in that dtype; "
    "dash-dotted is the mean of V, the error of the mean of all visible values."
)
_WIDTH = "The total width is fixed: with twice as many heads, each head is half as wide."

KINDS = (
    Kind(
        name="time_vs_length",
        title="Time against sequence length",
        x="seq_len",
        y=TIME,
        row="passage",
        column="dtype",
        reading=f"{_TIMES} A method below the black lines is faster than exact attention. Dots "
        "left of the vertical line of their colour beat exact attention at that length.",
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
        reading="The distance of the output from exact attention on the same inputs, with its "
        "95 % interval over query rows. Below 0.01 the axis is linear, so that it shows rounding "
        f"and zero; errors above {ERROR.ceiling:g} are drawn at {ERROR.ceiling:g}. {_LEVELS}",
    ),
    Kind(
        name="error_vs_time",
        title="Error against time: the methods worth choosing",
        x=TIME,
        y=ERROR,
        row="inputs",
        column="dtype",
        reading="Down and left is better. No method is both faster and, beyond the intervals, more "
        "accurate than a point on the grey line; the names of these points are bold. Every other "
        "point is beaten by one of them, or is no better than zeros, the mean of V or random keys. "
        "A thin line joins the settings of a method in the order of its knob; larger marks are "
        "larger values of the knob. Errors within the rounding of exact attention count as equal. "
        f"The grey line leaves out methods of another operator than softmax attention. {_LEVELS}",
    ),
    Kind(
        name="time_vs_heads",
        title="Time against number of heads",
        x="heads",
        y=TIME,
        row="direction",
        column="dtype",
        reading=f"{_TIMES} All heads have the same width, so more heads are more work.",
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
        reading="The distance of the output from exact attention with the same number of heads on "
        "the same inputs, with its 95 % interval over query rows. Separate projections do not "
        "change it, because it is measured after them. If query and key share a projection, the "
        "key is the query, and the error of exact attention is the cost of sharing. For other "
        "numbers of heads than the captured one, captured heads are joined or split, so exact "
        "attention differs as well.",
        sort="width",
    ),
    Kind(
        name="time_per_token",
        title="Decoding: time per token against context length",
        x="seq_len",
        y=TOKEN_TIME,
        row="source",
        column="dtype",
        reading="The median time of a step of one token, with the middle half of the steps as an "
        "interval. A flat line, or dots in one place, mean the same cost at every length.",
        sort="decode",
    ),
    Kind(
        name="state_vs_context",
        title="Decoding: bytes held between two steps",
        x="seq_len",
        y=STATE,
        row="source",
        column="dtype",
        reading="The bytes of the state after that many tokens, including space for later "
        "tokens. A flat line, or dots in one place, mean the same size at every length.",
        sort="decode",
    ),
)
