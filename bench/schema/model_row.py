"""The rows of model.csv."""

from __future__ import annotations

from dataclasses import dataclass

from bench.schema.column_types import (
    Count,
    Device,
    Dtype,
    Length,
    Milliseconds,
    Name,
    Perplexity,
    Positive,
    Share,
)
from bench.schema.columns import AskedAttention, Record, column
from bench.schema.row import Row

ALL_LAYERS = "all"


@dataclass(frozen=True, kw_only=True)
class ModelCase(AskedAttention):
    """One setting of a variant in one model at one length."""

    model: Name = column("name of the model, with its quantisation if it is quantised")
    text: Name = column("title or file name of the text")
    text_sha256: Name = column("SHA-256 of the text's file")
    layers: Name = column(
        "layers that use the variant: numbers from 0, separated by spaces, or `all`. Other layers "
        "use exact attention"
    )
    device: Device = column("cpu or cuda")
    dtype: Dtype = column("dtype of the weights: float32, bfloat16, float16 or float64")
    seq_len: Length = column("tokens that the model reads in one pass, from the start of the text")

    @property
    def label(self) -> str:
        """A short name for progress bars and messages."""
        name = f"{self.variant} {self.attention.hyperparameters}".strip()
        if self.attention.implementation != "auto":
            name = f"{name} implementation={self.attention.implementation}"
        return f"{name} n={self.seq_len}"


@dataclass(frozen=True, kw_only=True)
class ModelResults(Record):
    """The predictions and times of a model with the attention of a case."""

    perplexity: Perplexity | None = column(
        "exp of the mean log loss of the next token over all positions; nothing is retrained", None
    )
    exact_perplexity: Perplexity | None = column(
        "perplexity of the unchanged model, with its own attention by torch SDPA", None
    )
    perplexity_ratio: Perplexity | None = column("perplexity / exact_perplexity", None)
    perplexity_ratio_low: Perplexity | None = column(
        "lower end of the 95 % interval of perplexity_ratio. The interval is computed from the "
        "differences of the log loss of the same token, averaged over 16 contiguous blocks because "
        "neighbouring tokens are correlated. It is too narrow on texts of a few hundred tokens",
        None,
    )
    perplexity_ratio_high: Perplexity | None = column(
        "upper end of the 95 % interval of perplexity_ratio", None
    )
    next_token_agreement: Share | None = column(
        "share of positions at which the most probable next token is the same as with exact "
        "attention",
        None,
    )

    time_per_token_ms: Milliseconds | None = column(
        "time of one pass over the text divided by seq_len, ms: embedding, layers and logits, "
        "without a key/value cache; median over `passes`. CUDA events on a GPU, wall time on a CPU",
        None,
    )
    exact_time_per_token_ms: Milliseconds | None = column(
        "the same for the unchanged model, from one pass for each process and length", None
    )
    attention_per_token_ms: Milliseconds | None = column(
        "the part of time_per_token_ms that the attention calls of `layers` take, without "
        "projections, ms: the sum over the calls; median over `passes`",
        None,
    )
    exact_attention_per_token_ms: Milliseconds | None = column(
        "the same for exact attention by torch SDPA on the same query, key and value: in the same "
        "pass, each call runs with both, one right after the other, in alternating order",
        None,
    )
    speedup_vs_exact: Positive | None = column(
        "exact_attention_per_token_ms / attention_per_token_ms", None
    )
    passes: Count | None = column(
        "timed passes; the first attention call also runs once before, untimed", None
    )


@dataclass(frozen=True, kw_only=True)
class ModelRow(Row[ModelCase], ModelResults):
    """A row of model.csv."""

    case_type = ModelCase
    records = (ModelResults,)
    file = "model.csv"
    needed = "perplexity"
