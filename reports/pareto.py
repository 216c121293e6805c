"""Finds the rows that no other row beats in both of two metrics."""

from __future__ import annotations

import pandas as pd

from reports.declared import exact_variant
from reports.metrics import Metric


def frontier(rows: pd.DataFrame, x: Metric, y: Metric, floor: float = 0.0) -> pd.DataFrame:
    """The rows for which no other row is at least as good in both `x` and `y`, the best `x` first.

    Values of `y` below `floor` count as equal to it.
    """
    points = rows.dropna(subset=[x.column, y.column])
    if y.useless is not None:
        points = points[points[y.column] < y.useless]
    xs = _lower_is_better(points, x)
    ys = _lower_is_better(points, y).clip(lower=floor)
    order = pd.DataFrame({"x": xs, "y": ys}).sort_values(["x", "y"])
    best_before = order["y"].cummin().shift(fill_value=float("inf"))
    return points.loc[order.index[order["y"] < best_before]]


def rounding(rows: pd.DataFrame, y: Metric) -> float:
    """The largest error that counts as rounding: twice the smallest error of exact attention.

    It is 0 without rows of exact attention. Because of this limit, a slower exact implementation
    with other last bits is not on the frontier.
    """
    exact = rows.loc[rows["variant"] == exact_variant(), y.column].dropna()
    return 2 * float(exact.min()) if len(exact) else 0.0


def _lower_is_better(rows: pd.DataFrame, metric: Metric) -> pd.Series[float]:
    values = rows[metric.column].astype("float64")
    return values if metric.better == "lower" else -values
