"""The table and the sentences that `python -m bench model` prints at the end."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from bench.schema.model_row import ModelRow
from bench.schema.outcome import Status


def table(rows: Sequence[ModelRow]) -> Table:
    """A line for each case, sorted by length, then by perplexity; narrow enough for a terminal."""
    rows = sorted(rows, key=lambda row: (row.case.seq_len, row.perplexity_ratio or float("inf")))
    shown = Table(
        caption="perplexity, and speedup of the attention: relative to exact attention; agreement: "
        "positions at which the most probable next token is the same as with exact attention"
    )
    shown.add_column("variant", overflow="fold", min_width=20)
    for column in ("length", "perplexity", "agreement", "ms/token", "speedup"):
        shown.add_column(column, justify="right", no_wrap=True)
    for row in rows:
        name = row.case.label.rpartition(" n=")[0]
        if row.status is not Status.OK:
            shown.add_row(name, str(row.case.seq_len), row.status)
            continue
        shown.add_row(
            name,
            str(row.case.seq_len),
            f"{row.perplexity_ratio:.4g}×",
            f"{row.next_token_agreement:.1%}",
            f"{row.time_per_token_ms:.3g}",
            f"{row.speedup_vs_exact:.3g}×",
        )
    return shown


def sentences(rows: Sequence[ModelRow]) -> list[str]:
    """The perplexity of exact attention at each length, and the cases that have no numbers."""
    exact = {row.case.seq_len: row.exact_perplexity for row in rows if row.status is Status.OK}
    found = [
        f"exact attention at {seq_len} tokens: perplexity {perplexity:.4g}"
        for seq_len, perplexity in sorted(exact.items())
    ]
    return found + [
        f"{row.status}: {row.case.label}: {row.reason}"
        for row in rows
        if row.status is not Status.OK
    ]
