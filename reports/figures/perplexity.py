"""The figure of a pretrained model: rise of the perplexity against attention time."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd
from matplotlib.figure import Figure

from reports.declared import exact_variant
from reports.figures.frontier import FrontierPanel, draw
from reports.figures.style import Styles
from reports.metrics import Metric, show_ms, show_percent
from reports.names import OTHER_OPERATOR
from reports.rows import finished
from reports.slices import describe

# One figure for each combination of these; a panel for each length and choice of layers.
SPLIT = ("machine", "model", "text", "dtype")
PANEL = ("seq_len", "layers")
MOST_PANELS = 9

CHANGE = Metric(
    column="perplexity_change",
    label="rise of the perplexity over exact attention",
    short="perplexity",
    unit="",
    better="lower",
    log=True,
    show=show_percent,
    low="perplexity_change_low",
    high="perplexity_change_high",
    linear_below=0.01,
    useless=1.0,  # twice the perplexity
    ceiling=100.0,  # methods that do not approximate softmax can rise by thousands
)
ATTENTION_TIME = Metric(
    column="attention_per_token_ms",
    label="attention time per token",
    short="attention",
    unit="ms",
    better="lower",
    log=True,
    show=show_ms,
)
TITLE = "A pretrained model, not retrained: perplexity against attention time"
READING = (
    "The rise of the model's perplexity when its attention is replaced, with its 95 % interval, "
    "against the time of the attention calls for each token. Exact attention is black; full/sdpa "
    "is timed beside every other method. The scale is linear near zero."
)
TWICE = "twice the perplexity or more"


def draw_model(rows: pd.DataFrame, styles: Styles) -> Figure | None:
    """Draw the rows of one model, text and machine: a panel for each length and choice of layers.

    The shortest length is first; of too many panels, the longest ones are drawn. None if no row
    finished.
    """
    shared = {name: str(rows[name].iloc[0]) for name in SPLIT}
    panels = []
    whole = finished(rows).dropna(subset=[CHANGE.column, ATTENTION_TIME.column])
    if whole.empty:
        return None
    varying = [name for name in PANEL if rows[name].nunique() > 1]
    groups = [(tuple(key), own) for key, own in whole.groupby(list(PANEL), sort=True)]
    for key, own in groups[-MOST_PANELS:]:
        values = dict(zip(PANEL, key, strict=True))
        panels.append(_panel(own, describe({name: values[name] for name in varying})))
    conditions = describe(
        {**shared, **{name: rows[name].iloc[0] for name in PANEL if name not in varying}}
    )
    left_out = len(groups) - len(panels)
    notes = [READING, f"{left_out} panels of shorter lengths are not drawn." if left_out else ""]
    return draw(TITLE, conditions, panels, ATTENTION_TIME, CHANGE, styles, notes)


def _panel(rows: pd.DataFrame, title: str) -> FrontierPanel:
    assert CHANGE.useless is not None
    useless = rows[CHANGE.column] >= CHANGE.useless
    points = rows.assign(
        excluded=useless.map({True: TWICE, False: ""}).mask(rows["other_operator"], OTHER_OPERATOR),
        is_exact=rows["variant"] == exact_variant(),
    )
    bad = points[useless & ~points["other_operator"]]
    others = sorted(points.loc[points["other_operator"], "variant"].unique())
    words = [
        f"{TWICE}: {', '.join(sorted(bad['label'].unique()))}" if len(bad) else "",
        f"{OTHER_OPERATOR}: {', '.join(others)}" if others else "",
    ]
    return FrontierPanel(title, points, CHANGE.useless, words)


def of_models(frame: pd.DataFrame) -> Iterator[tuple[dict[str, str], pd.DataFrame]]:
    """For each figure, the values that its rows share, and the rows."""
    for key, rows in frame.groupby(list(SPLIT), sort=True):
        yield dict(zip(SPLIT, map(str, key), strict=True)), rows
