"""Counts the operations that a case cannot avoid."""

from __future__ import annotations

from bench.schema.case import Case
from variants import Attention


def useful_flops(attention: Attention, case: Case) -> float | None:
    """Operations of one call, including its projections.

    None if the attention does not declare them, and for a decoding step, which is limited by memory
    bandwidth.
    """
    flops = None if case.direction == "decode" else _forward_flops(attention, case)
    if flops is None:
        return None
    projected = 2.0 * case.batch * case.seq_len * projection_weights(case)
    if case.direction == "forward_backward":
        flops *= 3.5 if attention.target != "other_kernel" else 3.0
        projected *= 3.0
    return flops + projected


def affordable_keys(attention: Attention, case: Case) -> float | None:
    """Keys per query that exact attention could read with the operations of one forward pass of
    `attention`; None if these operations are not known."""
    flops = _forward_flops(attention, case)
    if flops is None:
        return None
    return flops / (4.0 * case.head_dim * case.batch * case.heads * case.seq_len)


def projection_weights(case: Case) -> int:
    """Number of weights in the input and output projections."""
    width, kv_width = case.heads * case.head_dim, case.kv_heads * case.head_dim
    key_width = {"none": 0, "separate": kv_width, "shared": 0}[case.projections]
    return 0 if case.projections == "none" else width * (width + key_width + kv_width + width)


def _forward_flops(attention: Attention, case: Case) -> float | None:
    """Operations of a forward pass without projections; None if the implementation computes
    something else than the variant."""
    if attention.differs:
        return None
    return attention.useful_flops(
        case.batch, case.heads, case.seq_len, case.key_len, case.head_dim, causal=case.causal
    )
