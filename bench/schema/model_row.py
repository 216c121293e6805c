"""The schema of model.csv: `ModelCase` has the settings of a case, `ModelRow` adds the results."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from bench.schema.measurement import AttentionColumns, Status, column, identity

FILE = "model.csv"
ALL_LAYERS = "all"


@dataclass(frozen=True, kw_only=True)
class ModelCase(AttentionColumns):
    """One setting of a variant in one model at one length."""

    model: str = column("name of the model, with its quantisation if it is quantised")
    text: str = column("title or file name of the text")
    text_sha256: str = column("SHA-256 of the text's file")
    layers: str = column(
        "layers that use the variant: numbers from 0, separated by spaces, or `all`. Other layers "
        "use exact attention"
    )
    device: str = column("cpu or cuda")
    dtype: str = column("dtype of the weights: float32, bfloat16, float16 or float64")
    seq_len: int = column("tokens that the model reads in one pass, from the start of the text")

    @property
    def case_id(self) -> str:
        """Sixteen hexadecimal digits: a hash of the fields of `ModelCase`."""
        return identity({name: getattr(self, name) for name in CASE_COLUMNS})

    @property
    def label(self) -> str:
        """A short name for progress bars and messages."""
        name = f"{self.variant} {self.hyperparameters}".strip()
        if self.implementation != "auto":
            name = f"{name} implementation={self.implementation}"
        return f"{name} n={self.seq_len}"


@dataclass(frozen=True, kw_only=True)
class ModelRow(ModelCase):
    """A case and its results. It has numbers only if `status` is ok."""

    status: Status = column("how the case ended: " + ", ".join(Status))
    reason: str = column("why the case has no numbers, in one sentence", "")
    implementation_used: str = column("the implementation that ran", "")
    target: str = column(
        "the operator that the method converges to as its settings grow; `other_kernel`: an "
        "operator other than the softmax attention that the model was trained with",
        "",
    )

    perplexity: float | None = column(
        "exp of the mean log loss of the next token over all positions; nothing is retrained", None
    )
    exact_perplexity: float | None = column(
        "perplexity of the unchanged model, with its own attention by torch SDPA", None
    )
    perplexity_ratio: float | None = column("perplexity / exact_perplexity", None)
    perplexity_ratio_low: float | None = column(
        "lower end of the 95 % interval of perplexity_ratio. The interval is computed from the "
        "differences of the log loss of the same token, averaged over 16 contiguous blocks because "
        "neighbouring tokens are correlated. It is too narrow on texts of a few hundred tokens",
        None,
    )
    perplexity_ratio_high: float | None = column(
        "upper end of the 95 % interval of perplexity_ratio", None
    )
    next_token_agreement: float | None = column(
        "share of positions at which the most probable next token is the same as with exact "
        "attention",
        None,
    )

    time_per_token_ms: float | None = column(
        "time of one pass over the text divided by seq_len, ms: embedding, layers and logits, "
        "without a key/value cache; median over `passes`. CUDA events on a GPU, wall time on a CPU",
        None,
    )
    exact_time_per_token_ms: float | None = column(
        "the same for the unchanged model, from one pass for each process and length", None
    )
    attention_per_token_ms: float | None = column(
        "the part of time_per_token_ms that the attention calls of `layers` take, without "
        "projections, ms: the sum over the calls; median over `passes`",
        None,
    )
    exact_attention_per_token_ms: float | None = column(
        "the same for exact attention by torch SDPA on the same query, key and value: in the same "
        "pass, each call runs with both, one right after the other, in alternating order",
        None,
    )
    speedup_vs_exact: float | None = column(
        "exact_attention_per_token_ms / attention_per_token_ms", None
    )
    passes: int | None = column(
        "timed passes; the first attention call also runs once before, untimed", None
    )

    def __post_init__(self) -> None:
        present = [name for name in NUMBERS if getattr(self, name) is not None]
        if self.status is not Status.OK and (present or not self.reason):
            raise ValueError(
                f"a row with status {self.status} has a reason and no numbers; got the reason "
                f"{self.reason!r} and {present}"
            )
        if self.status is Status.OK and len(present) < len(NUMBERS):
            raise ValueError(f"a row with status ok has all of {NUMBERS}; got {present}")

    @classmethod
    def of(cls, case: ModelCase, status: Status, reason: str = "", **seen: Any) -> ModelRow:
        """The row of `case`."""
        return cls(**dataclasses.asdict(case), status=status, reason=reason, **seen)

    @property
    def case(self) -> ModelCase:
        """The settings of this row, without its results."""
        return ModelCase(**{name: getattr(self, name) for name in CASE_COLUMNS})


CASE_COLUMNS = tuple(f.name for f in dataclasses.fields(ModelCase))
COLUMNS = tuple(f.name for f in dataclasses.fields(ModelRow))
NUMBERS = tuple(
    name
    for name in COLUMNS
    if name not in (*CASE_COLUMNS, "status", "reason", "implementation_used", "target")
)
DESCRIPTIONS = {f.name: f.metadata["description"] for f in dataclasses.fields(ModelRow)}
