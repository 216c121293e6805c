"""The chart of a metric over commits, as a Bokeh figure without data."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from reports.page.chart import add_budget_line, add_marks, empty_figure

POINTS = (
    *("x", "y", "bottom", "top"),  # the point, and its quartiles
    *("color", "marker", "size", "alpha"),
    *("commit", "date", "value", "run", "note"),
)
TOOLTIP = """
<div style="max-width:22rem; font:13px/1.4 system-ui, sans-serif; color:#1c2126">
<b>@value</b><br>commit @commit of @date<br>run of @run<br>@note</div>
"""


@cache
def history_chart() -> Mapping[str, Any]:
    """The chart as JSON for `Bokeh.embed.embed_item`.

    In addition to those of `empty_figure`, the scripts find these models by name: the sources
    `levels` (lines at the level between two steps), `steps`, `points` and `names`.
    """
    from bokeh.embed import json_item
    from bokeh.models import ColumnDataSource

    chart = empty_figure("commit, the oldest on the left", "time per call")
    chart.min_border_right = 40  # half of the newest commit id
    levels = ColumnDataSource({"xs": [], "ys": []}, name="levels")
    steps = ColumnDataSource({"x": [], "bottom": [], "top": [], "color": []}, name="steps")
    points = ColumnDataSource({name: [] for name in POINTS}, name="points")
    add_budget_line(chart)  # hidden here; the scripts that charts share colour it
    chart.select_one({"name": "budget_line"}).visible = False
    chart.segment(
        "x",
        "bottom",
        "x",
        "top",
        source=steps,
        line_color="color",
        line_width=2,
        line_dash="dashed",
    )
    chart.multi_line("xs", "ys", source=levels, line_width=2, line_alpha=0.7, name="level_lines")
    chart.segment("x", "bottom", "x", "top", line_color="color", line_alpha="alpha", source=points)
    add_marks(chart, points, TOOLTIP)
    return dict(json_item(chart))
