"""The chart of a number against length, heads or layers, as a Bokeh figure without data."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from reports.page.chart import add_budget_line, add_marks, empty_figure

LINES = ("xs", "ys", "color", "width", "alpha")
POINTS = (
    *("x", "y", "bottom", "top"),  # the point, and the ends of its interval
    *("color", "marker", "size", "alpha"),
    *("name", "place", "value", "time", "error", "memory", "note"),
)
TOOLTIP = """
<div style="max-width:22rem; font:13px/1.4 system-ui, sans-serif; color:#1c2126">
<b>@name</b><br>@place<br><b>@value</b><br>time @time<br>error @error<br>@memory<br>@note</div>
"""


@cache
def lines_chart() -> Mapping[str, Any]:
    """The chart as JSON for `Bokeh.embed.embed_item`.

    In addition to those of `empty_figure`, the scripts find these models by name: the sources
    `lines`, `points` and `names`, and the span `budget_line`.
    """
    from bokeh.embed import json_item
    from bokeh.models import ColumnDataSource

    chart = empty_figure("length", "time per call")
    lines = ColumnDataSource({name: [] for name in LINES}, name="lines")
    points = ColumnDataSource({name: [] for name in POINTS}, name="points")
    add_budget_line(chart)
    chart.multi_line(
        "xs", "ys", line_color="color", line_width="width", line_alpha="alpha", source=lines
    )
    chart.segment("x", "bottom", "x", "top", line_color="color", line_alpha="alpha", source=points)
    add_marks(chart, points, TOOLTIP)
    return dict(json_item(chart))
