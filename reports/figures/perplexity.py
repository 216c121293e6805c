"""What a variant does to a pretrained model, against what its attention takes."""

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
    ceiling=100.0,  # a method that is not made to stand in for softmax may be off by thousands
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
    reading="How much the perplexity of the model rises where its attention is replaced, and its "
    "95 % interval, against the time that a token spends in attention calls. Exact attention is "
    "black, full/sdpa the one that every other was timed beside. What nothing beats in both is "
    "joined by the grey line, with bold names, up to twice the perplexity. The scale is linear "
    "below 1 %.",
)


def figures(frame: pd.DataFrame) -> Iterator[tuple[dict[str, str], list[Panel]]]:
    """What each figure's panels agree in, and the panels."""
    for key, alike in frame.groupby(list(SPLIT), sort=True):
        fixed = dict(zip(SPLIT, map(str, key), strict=True))
        yield (
            fixed,
            [
                Panel(row=layers, column=seq_len, fixed=fixed, rows=rows)
                for (layers, seq_len), rows in alike.groupby(["layers", "seq_len"], sort=True)
            ],
        )
