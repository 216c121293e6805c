"""Sums over keys, weighted by the product of a query's and a key's features, by Triton kernels.

A causal sum is cut into chunks of rows. The keys of a chunk add a term to a state, and a scan gives
the state before each chunk. A row reads this state and the keys of its chunk. So a call has three
launches at every length, and its gradient six.

Katharopoulos et al., Transformers are RNNs, 2020, https://arxiv.org/abs/2006.16236
Yang et al., Gated Linear Attention, 2023, https://arxiv.org/abs/2312.06635
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import pad

from variants.contract.checks import UnsupportedError
from variants.contract.strides import readable
from variants.engines.gpu.sums.feature_grad_launches import (
    gradient_terms,
    key_gradient,
    query_gradient,
)
from variants.engines.gpu.sums.feature_launches import chunk_outputs, chunk_states, scan_states

# Most channels of a head; the tiles of wider heads do not fit a GPU's shared memory. Types other
# than bfloat16 are multiplied in float32.
WIDEST, WIDEST_FLOAT32 = 128, 64


class Rule(NamedTuple):
    """The features of queries and keys, and the positions that a row sees.

    kind: "elu" for elu(x) + 1, "relu" for max(x, 0), "decay" for x itself, with weights that are
        multiplied by exp(log decay) for each position between query and key, and no division by the
        sum of weights; "exp" for exp(w · query) and exp(w · key - |root · key|² / 2).
    scale: factor on the query, not for "exp".
    fixed: see `feature_launches`.
    """

    kind: str
    causal: bool
    num_features: int
    scale: float = 1.0
    root: float = 1.0
    fixed: tuple[Tensor, ...] = ()

    def settings(self) -> tuple[str, bool, float, float]:
        return self.kind, self.causal, self.scale, self.root


def fits(query: Tensor) -> bool:
    """Whether the kernels compute calls with this query."""
    widest = WIDEST if query.dtype is torch.bfloat16 else WIDEST_FLOAT32
    return query.dtype is not torch.float64 and query.shape[-1] <= widest


def refusal(query: Tensor) -> str:
    """The reason why the kernels do not compute a call with this query."""
    dtype = str(query.dtype).removeprefix("torch.")
    return f"implementation 'triton' has no kernel for {query.shape[-1]} channels in {dtype}"


def attend(query: Tensor, key: Tensor, value: Tensor, padding: Tensor | None, rule: Rule) -> Tensor:
    """Weighted sum of values; divided by the sum of weights, except for "decay". Shapes as in
    `Attention.__call__`. A row whose weights are all 0 is 0.

    Raises:
        UnsupportedError: float64; heads that are too wide.
    """
    if not fits(query):
        raise UnsupportedError(refusal(query))
    padding = None if padding is None else padding.contiguous()
    # Queries before the first key see no key.
    blind = max(0, query.shape[2] - key.shape[2]) if rule.causal else 0
    out: Tensor = FeatureSum.apply(query[:, :, blind:], key, value, padding, rule)
    return pad(out, (0, 0, blind, 0)) if blind else out


def _state_heads(query: Tensor, key: Tensor, rule: Rule) -> int:
    """Number of states of a sequence. Query heads with the same keys share a state, unless each
    head has its own directions or decay."""
    return query.shape[1] if rule.fixed else key.shape[1]


def states(inputs: list[Tensor], padding: Tensor | None, rule: Rule) -> list[Tensor]:
    """The states before each chunk of keys, and after all keys."""
    heads, fixed = _state_heads(inputs[0], inputs[1], rule), list(rule.fixed)
    found: list[Tensor] = chunk_states(
        inputs, fixed, padding, heads, rule.num_features, rule.kind, rule.root
    )
    scan_states(found, fixed, heads, rule.kind, rule.causal, False)
    return found


def gradients(
    inputs: list[Tensor],
    padding: Tensor | None,
    state: list[Tensor],
    rows: list[Tensor],
    grad: Tensor,
    rule: Rule,
) -> tuple[list[Tensor], list[Tensor]]:
    """Gradients of query, key and value; and of the state after each chunk."""
    heads, fixed, settings = (
        _state_heads(inputs[0], inputs[1], rule),
        list(rule.fixed),
        rule.settings(),
    )
    grad_query, delta = query_gradient(inputs, fixed, padding, state, rows, grad, heads, *settings)
    grad_state = gradient_terms(inputs, fixed, state, rows, grad, delta, *settings[:3])
    scanned = [*grad_state, state[2]]
    scan_states(scanned, fixed, inputs[0].shape[1], rule.kind, rule.causal, True)
    found = key_gradient(inputs, fixed, padding, state, grad_state, rows, grad, delta, *settings)
    return [grad_query, *found], grad_state


class FeatureSum(torch.autograd.Function):
    """Keeps inputs, output and at most three numbers for each row; states are computed again in the
    backward pass. There are not more queries than keys in a causal call."""

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, padding: Tensor | None, rule: Rule
    ) -> Tensor:
        inputs = [query, key, value]
        state = states(inputs, padding, rule)
        heads = _state_heads(query, key, rule)
        rows = chunk_outputs(inputs, list(rule.fixed), padding, state, heads, *rule.settings())
        ctx.save_for_backward(*inputs, padding, *rows)
        ctx.rule = rule
        out: Tensor = rows[0]
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Any:
        query, key, value, padding, *rows = ctx.saved_tensors
        inputs = [query, key, value]
        grad = readable(grads[0])
        state = states(inputs, padding, ctx.rule)
        found, _ = gradients(inputs, padding, state, rows, grad, ctx.rule)
        return *found, None, None
