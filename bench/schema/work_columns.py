"""The columns of operations."""

from __future__ import annotations

from dataclasses import dataclass

from bench.schema.column_types import Amount
from bench.schema.columns import Record, column


@dataclass(frozen=True, kw_only=True)
class Work(Record):
    """Operations, and the share of the limit of the machine."""

    useful_flops: Amount | None = column(
        "operations that the method cannot avoid; with a backward pass 3.5 times those of the "
        "forward pass, 3 times for kernels other than softmax and for projections",
        None,
    )
    tflops: Amount | None = column("useful_flops per second of time_ms_median, in 1e12", None)
    roofline_fraction: Amount | None = column(
        "tflops / this machine's measured matmul rate in the dtype; for decode: bytes of the state "
        "that hold tokens, per second of time_ms_median, / this machine's measured read bandwidth: "
        "above 1 if a step reads a part of its state only, or reads it from a cache",
        None,
    )
