"""Measures the errors of gradients, for a loss on the sampled rows only.

The exact gradient of all keys depends on all queries, O(n²·d). With a loss on the sampled rows it
depends only on these, O(rows·n·d), and all visible keys still have a gradient.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from bench.instruments.accuracy import oracle
from bench.instruments.accuracy.reference import Reference
from variants import Attention
from variants.contract.definitions import expand_heads

NOTHING = 1e-14  # relative size of an exact gradient that counts as zero


@dataclass(frozen=True)
class Gradients:
    """Exact gradients of query, key and value in float64; of the query, only the sampled rows."""

    query: Tensor
    key: Tensor
    value: Tensor


def cotangent(reference: Reference) -> Tensor:
    """Random weights of the loss on the outputs of the sampled rows, in the dtype of the inputs.

    They are scaled by the square root of the row's weight in the sample.
    """
    shape = reference.exact.out.shape
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    sized = noise.to(reference.query.device) * reference.sample.weights.sqrt()[:, None]
    return sized.to(reference.query.dtype)


def exact_gradients(reference: Reference, weights: Tensor) -> Gradients:
    """Gradients of exact attention, computed over blocks of keys.

    Args:
        reference: the inputs and exact attention.
        weights: weights of the loss, (batch, heads, rows, head_dim).
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
            # Sum over the query heads that share one key/value head.
            total[:, :, block.keys] = part.unflatten(1, (kv_heads, -1)).sum(2)
    return Gradients(grad_query, grad_key, grad_value)


def gradient_errors(
    attention: Attention, reference: Reference, *, shared_qk: bool = False
) -> tuple[float | None, float | None, float | None]:
    """Relative L2 errors of the gradients of query, key and value.

    With `shared_qk`, query and key have one common gradient, and both errors are None. An error is
    also None if the exact gradient is zero.
    """
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
    # A method may not use an input: a mean of all values does not depend on the query.
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
    # Rounding error of a float64 gradient that is exactly zero, for example if rows see one key.
    nothing = NOTHING * float(loss.double().norm()) * float(reference.value.double().norm())
    return (
        _relative(grad_query, everywhere, nothing * float(reference.key.abs().max())),
        _relative(grad_key, exact.key, nothing * float(reference.query.abs().max())),
        value_error,
    )


def _relative(found: Tensor, exact: Tensor, nothing: float) -> float | None:
    """The relative L2 error; None if the norm of the exact gradient is at most `nothing`."""
    size = float(exact.norm())
    return float((found.double() - exact).norm()) / size if size > nothing else None
