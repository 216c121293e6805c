"""Finds the rows that no other row beats in both of two metrics."""

from __future__ import annotations

import pandas as pd

from reports.baselines import useless
from reports.declared import exact_variant
from reports.metrics import ERROR, Metric


def frontier(rows: pd.DataFrame, x: Metric, y: Metric, floor: float = 0.0) -> pd.DataFrame:
    """The rows that are worth their `x`, the best `x` first.

    A row is on the frontier if it is better in `y` than every row on the frontier with a better
    `x`. It is better only beyond the intervals: the interval of neither row holds the value of the
    other. Values of `y` below `floor` count as equal to it. Rows that are no better than a baseline
    of the same budget are on no frontier.
    """
    points = rows.dropna(subset=[x.column, y.column])
    if y.useless is not None:
        points = points[points[y.column] < y.useless]
    if y.column == ERROR.column:
        points = points[~useless(points)]
    xs = _lower_is_better(points, x)
    places = _intervals(points, y).clip(lower=floor).assign(x=xs)
    kept: list[object] = []
    least, low = float("inf"), float("inf")  # the value of the last kept row, and its lower end
    for index, each in places.sort_values(["x", "value"]).iterrows():
        if each["value"] < low and each["high"] < least:
            kept.append(index)
            least, low = each["value"], each["low"]
    return points.loc[kept]


def rounding(rows: pd.DataFrame, y: Metric) -> float:
    """The largest error that counts as rounding: twice the smallest error of exact attention.

    It is 0 without rows of exact attention. Because of this limit, a slower exact implementation
    with other last bits is not on the frontier.
    """
    exact = rows.loc[rows["variant"] == exact_variant(), y.column].dropna()
    return 2 * float(exact.min()) if len(exact) else 0.0


def _intervals(rows: pd.DataFrame, y: Metric) -> pd.DataFrame:
    """The values of a metric with their intervals, so that lower is better."""
    values = _lower_is_better(rows, y)
    ends = [rows[name].astype("float64") for name in (y.low, y.high) if name and name in rows]
    if len(ends) < 2:
        return pd.DataFrame({"value": values, "low": values, "high": values})
    low, high = ends if y.better == "lower" else (-ends[1], -ends[0])
    return pd.DataFrame({"value": values, "low": low.fillna(values), "high": high.fillna(values)})


def _lower_is_better(rows: pd.DataFrame, metric: Metric) -> pd.Series[float]:
    values = rows[metric.column].astype("float64")
    return values if metric.better == "lower" else -values
