"""The columns that say what a row measures."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Annotated, Any

from bench.schema.column_types import Count, Device, Dtype, Index, Length, Name, Seed, one_of
from bench.schema.columns import ATTENTION, AskedAttention, column

DIRECTIONS = ("forward", "forward_backward", "decode")
PROJECTIONS = ("none", "separate", "shared")
LAUNCHES = ("eager", "graph")
Direction = Annotated[str, one_of(DIRECTIONS)]
Projections = Annotated[str, one_of(PROJECTIONS)]
Launch = Annotated[str, one_of(LAUNCHES)]


@dataclass(frozen=True, kw_only=True)
class Case(AskedAttention):
    """One point of a sweep."""

    inputs: Name = column("source of query, key and value: a synthetic family or a capture")
    layer: Index | None = column(
        "layer of the model, for captured inputs; -1: the inputs are synthetic and have no layer",
        None,
        empty="-1",
    )
    device: Device = column("cpu or cuda")
    dtype: Dtype = column("float32, bfloat16, float16 or float64")
    batch: Count = column("sequences in the batch")
    heads: Count = column("query heads")
    kv_heads: Count = column("key/value heads")
    seq_len: Length = column("queries per sequence")
    key_len: Length = column("keys per sequence")
    head_dim: Count = column("channels per head")
    causal: bool = column("whether a query sees only keys up to its own position")
    direction: Direction = column(
        "forward; forward_backward: one forward and one backward pass; decode: one decoding step "
        "after a context of seq_len tokens"
    )
    seed: Seed = column("random seed of the inputs")
    projections: Projections = column(
        "none: the timed call is only the attention; separate or shared: it is a layer with "
        "projections on random hidden states, where query and key have separate projections or "
        "share one",
        "none",
        came_later=True,
    )
    launch: Launch = column(
        "eager: the host launches each kernel of the timed call; graph: the call was recorded once "
        "as a CUDA graph and is replayed, which needs one launch; peak_memory_bytes is that of the "
        "call without a graph",
        "eager",
        came_later=True,
    )

    @property
    def shape(self) -> tuple[Any, ...]:
        """The columns that baselines depend on: all except those of the attention."""
        return tuple(value for name, value in self.values.items() if name not in ATTENTION)

    @property
    def label(self) -> str:
        """A short name for progress bars and messages."""
        name = (
            self.variant
            if self.attention.implementation == "auto"
            else f"{self.variant}/{self.attention.implementation}"
        )
        shape = f"n={self.seq_len} h={self.heads} {self.dtype} {self.direction}"
        layer = "" if self.projections == "none" else f" {self.projections} projections"
        graph = " in a graph" if self.launch == "graph" else ""
        return f"{name} {shape}{layer}{graph}"

    def without_lengths(self) -> Case:
        """A copy with its lengths set to 0, to compare cases that differ only in length."""
        return dataclasses.replace(self, seq_len=0, key_len=0)
