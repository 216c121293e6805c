"""The schema of model.csv: `ModelCase` is what was asked, `ModelRow` adds what was seen."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from bench.measurement import AttentionColumns, Status, column, identity

FILE = "model.csv"
ALL_LAYERS = "all"


@dataclass(frozen=True, kw_only=True)
class ModelCase(AttentionColumns):
    """One setting of a variant in one model at one length."""

    model: str = column("name of the model, and its quantisation if it has one")
    text: str = column("title or file name of the text")
    text_sha256: str = column("SHA-256 of the text's file")
    layers: str = column(
        "layers with the variant, counted from 0, with a space between; `all`. Other layers attend "
        "exactly"
    )
    device: str = column("cpu or cuda")
    dtype: str = column("of the weights: float32, bfloat16, float16 or float64")
    seq_len: int = column("tokens that the model reads, the first of the text, in one pass")

    @property
    def case_id(self) -> str:
        """Sixteen hexadecimal digits that stand for these fields and nothing else."""
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
    """A case and its outcome: numbers only if `status` is ok."""

    status: Status = column("how the case ended: " + ", ".join(Status))
    reason: str = column("one sentence, if the case did not end well", "")
    implementation_used: str = column("the implementation that ran", "")
    target: str = column(
        "what the method converges to as its settings grow; `other_kernel` is another operator "
        "than the softmax attention that the model was trained with",
        "",
    )

    perplexity: float | None = column(
        "exp of the mean log loss of the next token, at every position; nothing is retrained", None
    )
    exact_perplexity: float | None = column(
        "the same of the model as it is, with its own attention by torch SDPA", None
    )
    perplexity_ratio: float | None = column("perplexity / exact_perplexity", None)
    perplexity_ratio_low: float | None = column(
        "lower end of its 95 % interval: of the mean difference of the log loss, token by token on "
        "the same text, from the means of 16 contiguous blocks, as neighbouring tokens are "
        "alike; too narrow on texts of a few hundred tokens",
        None,
    )
    perplexity_ratio_high: float | None = column("upper end of that interval", None)
    next_token_agreement: float | None = column(
        "share of positions at which the most probable next token is that of exact attention", None
    )

    time_per_token_ms: float | None = column(
        "a pass over the text, divided by its tokens, ms: embedding, layers and logits, nothing "
        "kept for later tokens; median of `passes`. CUDA events; wall time on a CPU",
        None,
    )
    exact_time_per_token_ms: float | None = column(
        "the same of the model as it is, in one pass once in each process and length", None
    )
    attention_per_token_ms: float | None = column(
        "the part of it in the attention calls of `layers`, without projections, ms: the sum of "
        "the calls; median of `passes`",
        None,
    )
    exact_attention_per_token_ms: float | None = column(
        "likewise of exact attention by torch SDPA on the same query, key and value: every call is "
        "made by both, one right after the other and in turns the first, in the same pass",
        None,
    )
    speedup_vs_exact: float | None = column(
        "exact_attention_per_token_ms / attention_per_token_ms", None
    )
    passes: int | None = column(
        "timed passes; before the first, the first attention call is made once untimed", None
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
        """What was asked."""
        return ModelCase(**{name: getattr(self, name) for name in CASE_COLUMNS})


CASE_COLUMNS = tuple(f.name for f in dataclasses.fields(ModelCase))
COLUMNS = tuple(f.name for f in dataclasses.fields(ModelRow))
NUMBERS = tuple(
    name
    for name in COLUMNS
    if name not in (*CASE_COLUMNS, "status", "reason", "implementation_used", "target")
)
DESCRIPTIONS = {f.name: f.metadata["description"] for f in dataclasses.fields(ModelRow)}
