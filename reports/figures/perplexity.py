"""The figure of a pretrained model: rise of the perplexity against attention time."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from reports.figures.kinds import Kind
from reports.metrics import Metric, show_ms, show_percent
from reports.slices import Panel

# One figure for each combination of these; a panel for each length and choice of layers.
SPLIT = ("machine", "model", "text", "dtype")

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
    label="attention time per token, over the replaced layers",
    short="attention",
    unit="ms",
    better="lower",
    log=True,
    show=show_ms,
)
KIND = Kind(
    name="model",
    title="A pretrained model, not retrained: perplexity against attention time",
    x=ATTENTION_TIME,
    y=CHANGE,
    row="layers",
    column="seq_len",
    reading="The rise of the model's perplexity when its attention is replaced, with its 95 % "
    "interval, against the time of the attention calls for each token. Exact attention is black; "
    "full/sdpa is timed beside every other method. The grey line joins the methods that no other "
    "method beats in both, up to twice the perplexity; their names are bold. The scale is linear "
    "below 1 %.",
)


def figures(frame: pd.DataFrame) -> Iterator[tuple[dict[str, str], list[Panel]]]:
    """For each figure, the values that its panels share, and the panels."""
    for key, alike in frame.groupby(list(SPLIT), sort=True):
        fixed = dict(zip(SPLIT, map(str, key), strict=True))
        yield (
            fixed,
            [
                Panel(row=layers, column=seq_len, fixed=fixed, rows=rows)
                for (layers, seq_len), rows in alike.groupby(["layers", "seq_len"], sort=True)
            ],
        )
