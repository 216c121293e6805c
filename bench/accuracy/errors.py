"""How wrong an output is, taken on some query rows against exact attention in float64.

Rows of attention are independent, so a sample of them costs O(rows·n·d) where the whole answer
would cost O(n²·d), and the error of the whole has an interval.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from variants import Attention
from variants.contract.dense import expand_heads, softmax_weights

ROWS = 64
RESAMPLES = 200
SELECTING = ("masked_softmax", "biased_softmax", "shared_qk_softmax")  # targets that drop keys
# Largest relative error of a kernel against its own dense definition that rounding explains: four
# to ten times what the registered variants show on Gaussian and on captured inputs.
ROUNDING = {"float64": 1e-10, "float32": 1e-5, "float16": 2e-3, "bfloat16": 1e-2}
COARSE = 5e-2  # the same where scores are rounded to bfloat16, whatever the dtype of the inputs


def rounding(dtype: str, implementation: str) -> float:
    """Largest relative error against its own definition that an implementation may have."""
    coarse = implementation == "coarse" and dtype != "float64"
    return COARSE if coarse else ROUNDING[dtype]


@dataclass(frozen=True)
class Accuracy:
    """The accuracy columns of a measurement."""

    approx_error_rel_l2: float
    approx_error_low: float
    approx_error_high: float
    approx_cosine: float
    mass_recall: float | None
    impl_error_rel_l2: float | None
    oracle_rows: int


def sample_rows(query_len: int, count: int = ROWS, seed: int = 0) -> Tensor:
    """One random row from each of `count` equal stretches of the sequence; all rows if few."""
    if query_len <= count:
        return torch.arange(query_len)
    generator = torch.Generator().manual_seed(seed)
    edges = torch.linspace(0, query_len, count + 1, dtype=torch.float64)
    inside = torch.rand(count, generator=generator, dtype=torch.float64)
    return (edges[:-1] + inside * (edges[1:] - edges[:-1])).long().clamp(max=query_len - 1)


def measure(
    attention: Attention,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    out: Tensor,
    *,
    causal: bool,
    own_key: Tensor | None = None,
    rows: Tensor | None = None,
) -> Accuracy:
    """Compare `out` with exact attention and with the attention's own weights.

    Args:
        query, key, value, out: as in the call, any dtype; compared after a cast to float64.
        own_key: the key the variant was given, if not `key` (the query, for a shared one).
        rows: the rows that `out` holds, if not all; a sample is taken of all.

    Of an implementation that `differs` the attention's own weights say nothing: it has neither
    `mass_recall` nor `impl_error_rel_l2`.
    """
    if rows is None:
        rows = sample_rows(query.shape[2]).to(query.device)
        out = out[:, :, rows]
    query, key, value = (x.detach().double() for x in (query, key, value))
    shared = own_key is not None
    out = out.detach().double()
    exact_weights = softmax_weights(
        query,
        key,
        rows,
        causal=causal,
        key_padding_mask=None,
        scale=1 / math.sqrt(query.shape[-1]),
    )
    values = expand_heads(value, query.shape[1])
    exact = exact_weights @ values
    recall = own_error = None
    if not attention.differs:
        own_weights = attention.weights(query, query if shared else key, causal=causal, rows=rows)
        own = own_weights @ values
        own_error = float((out - own).norm() / own.norm().clamp(min=1e-300))
        if attention.target in SELECTING:
            recall = float(exact_weights.masked_fill(own_weights == 0, 0).sum(-1).mean())
    error, low, high = _relative_error(out, exact)
    return Accuracy(
        approx_error_rel_l2=error,
        approx_error_low=low,
        approx_error_high=high,
        approx_cosine=float(torch.cosine_similarity(out, exact, dim=-1).mean()),
        mass_recall=recall,
        impl_error_rel_l2=own_error,
        oracle_rows=len(rows),
    )


def _relative_error(out: Tensor, exact: Tensor) -> tuple[float, float, float]:
    """Relative L2 error over (batch, heads, rows, head_dim), with a 95 % bootstrap interval over
    the rows; the same rows of all heads are drawn together, as they share the token."""
    wrong = (out - exact).square().sum((0, 1, 3))
    size = exact.square().sum((0, 1, 3))
    generator = torch.Generator().manual_seed(0)
    draws = torch.randint(len(size), (RESAMPLES, len(size)), generator=generator).to(size.device)
    if not bool(size.sum() > 0):  # the exact answer is 0 on all rows
        error = 0.0 if bool(wrong.sum() == 0) else math.inf
        return error, error, error
    draws = draws[size[draws].sum(1) > 0]  # some draws may hold such rows only
    spread = (wrong[draws].sum(1) / size[draws].sum(1)).sqrt()
    low, high = spread.quantile(torch.tensor([0.025, 0.975]).to(spread)).tolist()
    error = math.sqrt(float(wrong.sum() / size.sum()))
    return error, min(low, error), max(high, error)
