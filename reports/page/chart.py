"""The figures of the page without data, and BokehJS itself; the scripts fill the figures.

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


def empty_figure(x_title: str, y_title: str, **options: Any) -> Any:
    """A figure with a logarithmic y axis; chart_parts.js sets its ranges, ticks and colours.

    The scripts find these models by name: the figure `chart`, and `x_range`, `x_axis`,
    `x_axis_ticks`, `x_grid` and the same of `y`.
    """
    from bokeh.models import FixedTicker, Range1d
    from bokeh.plotting import figure

    chart = figure(
        name="chart",
        y_axis_type="log",
        x_range=Range1d(1, 10, name="x_range"),
        y_range=Range1d(0.01, 1, name="y_range"),
        x_axis_label=x_title,
        y_axis_label=y_title,
        sizing_mode="stretch_width",
        height=430,
        toolbar_location=None,
        tools="",
        output_backend="canvas",
        min_border_right=12,
        **options,
    )
    axes = (("x", chart.xaxis[0], chart.xgrid[0]), ("y", chart.yaxis[0], chart.ygrid[0]))
    for name, axis, grid in axes:
        axis.name = f"{name}_axis"
        axis.ticker = grid.ticker = FixedTicker(name=f"{name}_axis_ticks", ticks=[])
        axis.axis_label_text_font_style = "normal"
        axis.major_label_text_font_size = axis.axis_label_text_font_size = "13px"
        grid.name = f"{name}_grid"
    return chart


def add_budget_line(chart: Any) -> None:
    """Add the span `budget_line`, the limit of the error."""
    from bokeh.models import Span

    chart.add_layout(
        Span(
            name="budget_line", dimension="width", location=0.1, line_width=1.5, line_dash="dashed"
        )
    )


def add_marks(chart: Any, points: Any, tooltip: str) -> None:
    """Add the marks of the source `points`, which hover and click find, and their names."""
    from bokeh.models import HoverTool, TapTool

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
        HoverTool(renderers=[drawn], tooltips=tooltip, point_policy="snap_to_data"),
        TapTool(renderers=[drawn]),
    )
    _add_names(chart)


def _add_names(chart: Any) -> None:
    """Add the source `names` and the texts `labels`: the names of points in a figure."""
    from bokeh.models import ColumnDataSource, LabelSet

    names = ColumnDataSource({"x": [], "y": [], "text": [], "dx": [], "align": []}, name="names")
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


@cache
def frontier_chart() -> Mapping[str, Any]:
    """The frontier as JSON for `Bokeh.embed.embed_item`.

    In addition to those of `empty_figure`, the scripts find these models by name: the sources
    `points`, `frontier` and `names`, the span `budget_line`, the band `useless`.
    """
    from bokeh.embed import json_item
    from bokeh.models import BoxAnnotation, ColumnDataSource

    chart = empty_figure("time per call", "relative L2 error", x_axis_type="log")
    points = ColumnDataSource({name: [] for name in POINTS}, name="points")
    frontier = ColumnDataSource({"x": [], "y": []}, name="frontier")
    chart.add_layout(
        BoxAnnotation(
            name="useless", bottom=1, fill_color="#808890", fill_alpha=0.18, level="underlay"
        )
    )
    add_budget_line(chart)
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
    add_marks(chart, points, TOOLTIP)
    return dict(json_item(chart))
