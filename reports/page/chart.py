"""The frontier as a Bokeh figure without data, and BokehJS itself; the scripts fill the figure.

Bokeh is imported when a page is built, because its import takes a second.
"""

from __future__ import annotations

import base64
import gzip
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

POINTS = (
    *("x", "y", "left", "right", "bottom", "top"),  # the point, and the ends of its intervals
    *("color", "marker", "size", "alpha", "ring"),
    *("name", "time", "error", "memory", "speedup", "note"),
)
TOOLTIP = """
<div style="max-width:22rem; font:13px/1.4 system-ui, sans-serif; color:#1c2126">
<b>@name</b><br>time @time<br>error @error<br>@speedup · @memory<br>@note</div>
"""
# Markers of Bokeh for those of the static figures.
MARKERS = {
    "o": "circle",
    "s": "square",
    "^": "triangle",
    "h": "hex",
    "D": "diamond",
    "v": "inverted_triangle",
    "8": "circle_dot",
    "P": "plus",
    "<": "star",
    "p": "square_pin",
    "d": "diamond_dot",
    "H": "hex_dot",
    ">": "triangle_pin",
}


def library() -> str:
    """BokehJS from the installed package, as base64 of gzip."""
    return _compressed(_javascript() / "bokeh.min.js")


@cache
def _compressed(path: Path) -> str:
    return base64.b64encode(gzip.compress(path.read_bytes(), 9, mtime=0)).decode("ascii")


def _javascript() -> Path:
    import bokeh.util.paths

    return bokeh.util.paths.bokehjs_path() / "js"


@cache
def frontier_chart() -> Mapping[str, Any]:
    """The frontier as JSON for `Bokeh.embed.embed_item`.

    The scripts find these models by name: the sources `points`, `frontier` and `names`; the spans
    `budget_line`, the band `useless`, the axes `time_axis` and `error_axis`.
    """
    from bokeh.embed import json_item
    from bokeh.models import (
        BoxAnnotation,
        ColumnDataSource,
        FixedTicker,
        HoverTool,
        LabelSet,
        Range1d,
        Span,
        TapTool,
    )
    from bokeh.plotting import figure

    chart = figure(
        name="chart",
        x_axis_type="log",
        y_axis_type="log",
        x_range=Range1d(1, 10, name="time_range"),
        y_range=Range1d(0.01, 1, name="error_range"),
        x_axis_label="time per call",
        y_axis_label="relative L2 error",
        sizing_mode="stretch_width",
        height=430,
        toolbar_location=None,
        tools="",
        output_backend="canvas",
        min_border_right=12,
    )
    for axis, name in ((chart.xaxis[0], "time_axis"), (chart.yaxis[0], "error_axis")):
        axis.name = name
        axis.ticker = FixedTicker(name=f"{name}_ticks", ticks=[])
        axis.axis_label_text_font_style = "normal"
        axis.major_label_text_font_size = axis.axis_label_text_font_size = "13px"
    for grid, name in ((chart.xgrid[0], "time_grid"), (chart.ygrid[0], "error_grid")):
        grid.name = name
        grid.ticker = chart.xaxis[0].ticker if name == "time_grid" else chart.yaxis[0].ticker
    points = ColumnDataSource({name: [] for name in POINTS}, name="points")
    frontier = ColumnDataSource({"x": [], "y": []}, name="frontier")
    names = ColumnDataSource({"x": [], "y": [], "text": [], "dx": [], "align": []}, name="names")
    chart.add_layout(
        BoxAnnotation(
            name="useless", bottom=1, fill_color="#808890", fill_alpha=0.18, level="underlay"
        )
    )
    chart.add_layout(
        Span(
            name="budget_line", dimension="width", location=0.1, line_width=1.5, line_dash="dashed"
        )
    )
    chart.step(
        "x", "y", source=frontier, mode="after", line_width=1.5, color="#808890", name="steps"
    )
    intervals: dict[str, Any] = {
        "line_color": "color",
        "line_alpha": "alpha",
        "line_width": 1.2,
        "source": points,
    }
    chart.segment("left", "y", "right", "y", **intervals)
    chart.segment("x", "bottom", "x", "top", **intervals)
    chart.scatter("x", "y", size="ring", source=points, fill_alpha=0, line_width=2, name="rings")
    drawn = chart.scatter(
        "x",
        "y",
        size="size",
        marker="marker",
        fill_color="color",
        line_color="color",
        alpha="alpha",
        nonselection_alpha="alpha",
        source=points,
        name="marks",
    )
    chart.add_tools(
        HoverTool(renderers=[drawn], tooltips=TOOLTIP, point_policy="snap_to_data"),
        TapTool(renderers=[drawn]),
    )
    chart.add_layout(
        LabelSet(
            x="x",
            y="y",
            text="text",
            x_offset="dx",
            y_offset=4,
            text_align="align",
            text_font_size="12px",
            source=names,
            name="labels",
        )
    )
    return dict(json_item(chart))
