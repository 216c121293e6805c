"""A small picture of a series, for a row of the table of what moved last."""

from __future__ import annotations

import math
import statistics

from markupsafe import Markup

from reports.history.moved_table import Move

WIDTH, HEIGHT, MARGIN = 132, 28, 4  # pixels


def sparkline(move: Move) -> Markup:
    """The medians of the commits as a line, and the step as a vertical line, as SVG."""
    by_commit: dict[int, list[float]] = {}
    for point in move.series.points:
        if not point.is_dirty and point.reading.value > 0:
            by_commit.setdefault(point.commit, []).append(point.reading.value)
    if not by_commit:
        return Markup("")
    last = max(len(move.machine.commits) - 1, 1)
    logs = {at: math.log(statistics.median(values)) for at, values in by_commit.items()}
    low, high = min(logs.values()), max(logs.values())
    span = max(high - low, 0.02)  # noise below 2 % does not fill the picture

    def x(at: float) -> float:
        return MARGIN + (WIDTH - 2 * MARGIN) * at / last

    def y(value: float) -> float:
        return HEIGHT - MARGIN - (HEIGHT - 2 * MARGIN) * (value - (low + high - span) / 2) / span

    line = " ".join(f"{x(at):.1f},{y(value):.1f}" for at, value in logs.items())
    place = x(move.step.at - 0.5)
    return Markup(
        f'<svg class="spark" width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}" '
        'aria-hidden="true">'
        f'<line class="{move.direction}" x1="{place:.1f}" x2="{place:.1f}" y1="0" y2="{HEIGHT}"/>'
        f'<polyline points="{line}"/></svg>'
    )
