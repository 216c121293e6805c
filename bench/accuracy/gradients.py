"""How wrong gradients are, of a loss that looks at the sampled rows alone.

The gradient of a key takes every query that sees it, O(n²·d) for one alone; but of a loss on some
rows only these matter, for the exact answer as well, and all keys have a gradient.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from bench.accuracy import oracle
from bench.accuracy.reference import Reference
from variants import Attention
from variants.contract.definitions import expand_heads

NOTHING = 1e-14


@dataclass(frozen=True)
class Gradients:
    """Of query, key and value; for `exact` in float64, that of the query on the rows alone."""

    query: Tensor
    key: Tensor
    value: Tensor


def cotangent(reference: Reference) -> Tensor:
    """Random weights of the loss on the sampled rows' outputs, of the dtype of the inputs; a row
    that stands for many has larger ones."""
    shape = reference.exact.out.shape
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    sized = noise.to(reference.query.device) * reference.sample.weights.sqrt()[:, None]
    return sized.to(reference.query.dtype)


def exact_gradients(reference: Reference, weights: Tensor) -> Gradients:
    """Of exact attention, streamed over keys.

    Args:
        weights: of the loss, (batch, heads, rows, head_dim).
    """
    query, key, value = reference.query, reference.key, reference.value
    heads, head_dim = query.shape[1], query.shape[3]
    kv_heads, rows = key.shape[1], reference.sample.rows
    scale = 1 / math.sqrt(head_dim)
    asked, loss = query[:, :, rows].double(), weights.double()
    along = (loss * reference.exact.out).sum(-1, keepdim=True)
    grad_query = torch.zeros_like(asked)
    grad_key, grad_value = (torch.zeros_like(x, dtype=torch.float64) for x in (key, value))
    for block in oracle.score_blocks(query, key, rows, causal=reference.causal):
        exact = reference.exact.weights(block)
        keys, values = (expand_heads(x[:, :, block.keys].double(), heads) for x in (key, value))
        grad_scores = exact * (loss @ values.transpose(-2, -1) - along) * scale
        grad_query += grad_scores @ keys
        for total, part in (
            (grad_key, grad_scores.transpose(-2, -1) @ asked),
            (grad_value, exact.transpose(-2, -1) @ loss),
        ):
            # Query heads that read one key/value head add up.
            total[:, :, block.keys] = part.unflatten(1, (kv_heads, -1)).sum(2)
    return Gradients(grad_query, grad_key, grad_value)


def gradient_errors(
    attention: Attention, reference: Reference, *, shared_qk: bool = False
) -> tuple[float | None, float | None, float | None]:
    """Relative L2 errors of the gradients of query, key and value; for a shared query and key,
    which have one together, of the value alone, and None for one that is exactly zero."""
    loss = cotangent(reference)
    exact = reference.once("gradients", lambda: exact_gradients(reference, loss))
    query = reference.query.clone().requires_grad_()
    key = query if shared_qk else reference.key.clone().requires_grad_()
    value = reference.value.clone().requires_grad_()
    out = attention(query, key, value, causal=reference.causal)
    whole = torch.zeros_like(out)
    whole[:, :, reference.sample.rows] = loss
    leaves = (query, value) if shared_qk else (query, key, value)
    found = torch.autograd.grad(out, leaves, whole, allow_unused=True)
    # A method may leave an input out, as a mean of all values does the query.
    *others, grad_value = (
        torch.zeros_like(leaf) if one is None else one
        for leaf, one in zip(leaves, found, strict=True)
    )
    value_error = _relative(grad_value, exact.value, 0.0)
    if shared_qk:
        return None, None, value_error
    grad_query, grad_key = others
    everywhere = torch.zeros_like(grad_query, dtype=torch.float64)
    everywhere[:, :, reference.sample.rows] = exact.query
    # What rounding in float64 leaves of a gradient that is zero, as where a row sees one key.
    nothing = NOTHING * float(loss.double().norm()) * float(reference.value.double().norm())
    return (
        _relative(grad_query, everywhere, nothing * float(reference.key.abs().max())),
        _relative(grad_key, exact.key, nothing * float(reference.query.abs().max())),
        value_error,
    )


def _relative(found: Tensor, exact: Tensor, nothing: float) -> float | None:
    """None where the exact gradient is no larger than `nothing`, so that no error is relative to
    it."""
    size = float(exact.norm())
    return float((found.double() - exact).norm()) / size if size > nothing else None
