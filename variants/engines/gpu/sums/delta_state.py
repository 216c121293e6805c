"""The gated delta rule by Triton kernels: written rows and states in two launches, then outputs and
gradients as decayed sums (`feature_sum`).

Yang et al., Gated Delta Networks, 2024, https://arxiv.org/abs/2412.06464
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import pad

from variants.contract.checks import UnsupportedError
from variants.contract.definitions import expand_heads
from variants.contract.strides import readable
from variants.engines.gpu.launches import launch, operation
from variants.engines.gpu.sums import feature_launches
from variants.engines.gpu.sums.feature_launches import chunk_outputs, chunks_of, strides
from variants.engines.gpu.sums.feature_sum import Rule, fits, gradients, refusal
from variants.engines.gpu.tile_widths import padded_width

COLUMNS = 16  # columns of a state that a program of the scan owns
SHORTEST = 1e-15  # norm up to which a key counts as zero


def attend(
    query: Tensor, key: Tensor, value: Tensor, log_decay: Tensor, log_write: Tensor, scale: float
) -> Tensor:
    """Causal sums of written rows; shapes as in `Attention.__call__`, logarithms (heads,).

    Raises:
        UnsupportedError: float64; heads that are too wide.
    """
    if not fits(query):
        raise UnsupportedError(refusal(query))
    # Queries before the first key see no key.
    blind = max(0, query.shape[2] - key.shape[2])
    out: Tensor = DeltaSum.apply(
        query[:, :, blind:], key, value, log_decay.float(), log_write.float(), scale
    )
    return pad(out, (0, 0, blind, 0)) if blind else out


def _precision(like: Tensor) -> str:
    """The precision of products in the recurrence. Its errors add up over the sequence, so it is
    higher than that of products in the dtype of the inputs."""
    return "tf32" if like.dtype is torch.bfloat16 else "tf32x3"


def _chunks(
    key: Tensor, value: Tensor, log_decay: Tensor, log_write: Tensor, precision: str
) -> list[Tensor]:
    shape = len(key), len(log_decay), *key.shape[2:]
    return [key.new_empty(shape, dtype=torch.float32) for _ in range(3)]


@operation(
    "delta_chunks(Tensor key, Tensor value, Tensor log_decay, Tensor log_write, str precision) "
    "-> Tensor[]",
    _chunks,
)
def delta_chunks(
    key: Tensor, value: Tensor, log_decay: Tensor, log_write: Tensor, precision: str
) -> list[Tensor]:
    """Unit keys, free rows and known rows, (batch, heads, key_len, head_dim) in float32."""
    from variants.engines.gpu.sums.delta_state_kernels import delta_chunks as kernel

    found = _chunks(key, value, log_decay, log_write, precision)
    batch, kv_heads, key_len, channels = key.shape
    heads, width = len(log_decay), padded_width(channels)
    launch(
        kernel,
        (chunks_of(key_len), batch * heads),
        *(key, value, log_decay, log_write, *found, *strides(key, value)),
        *(heads, kv_heads, key_len, channels),
        PRECISION=precision,
        ROWS=feature_launches.ROWS,
        CHANNELS=width,
        num_warps=8 if width > 64 else 4,
        num_stages=1,
    )
    return found


def _states(rows: list[Tensor], log_decay: Tensor, precision: str) -> list[Tensor]:
    batch, heads, key_len, channels = rows[0].shape
    slots = batch * heads, chunks_of(key_len) + 1
    return [torch.empty_like(rows[0]), rows[0].new_empty(*slots, channels, channels)]


@operation(
    "delta_states(Tensor[] rows, Tensor log_decay, str precision) -> Tensor[]",
    _states,
)
def delta_states(rows: list[Tensor], log_decay: Tensor, precision: str) -> list[Tensor]:
    """Written rows, from the result of `delta_chunks`; and the states before each chunk and after
    all chunks, (batch · heads, chunks + 1, head_dim, head_dim)."""
    from variants.engines.gpu.sums.delta_state_kernels import delta_states as kernel

    found = _states(rows, log_decay, precision)
    batch, heads, key_len, channels = rows[0].shape
    width = padded_width(channels)
    launch(
        kernel,
        (batch * heads, -(-channels // COLUMNS)),
        *(*rows, log_decay, *found, heads, key_len, channels, chunks_of(key_len)),
        PRECISION=precision,
        ROWS=feature_launches.ROWS,
        CHANNELS=width,
        COLUMNS=COLUMNS,
        num_stages=2 if width <= 64 else 1,
    )
    return found


def _solved(
    key: Tensor, value: Tensor, log_decay: Tensor, log_write: Tensor, precision: str
) -> tuple[Tensor, Tensor, Tensor]:
    """Unit keys and written rows of each query head, and states."""
    rows = delta_chunks(key, value, log_decay, log_write, precision)
    written, states = delta_states(rows, log_decay, precision)
    return rows[0], written, states


class DeltaSum(torch.autograd.Function):
    """Output: decayed sums of queries, unit keys and written rows. The gradient of the written rows
    is the solution of the transposed systems: the delta rule on reversed rows."""

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        log_decay: Tensor,
        log_write: Tensor,
        scale: float,
    ) -> Tensor:
        heads = query.shape[1]
        unit, written, states = _solved(key, value, log_decay, log_write, _precision(query))
        rule = Rule("decay", True, query.shape[-1], scale, 1.0, (log_decay,))
        state = [states, states.new_empty(0), states.new_empty(0)]
        inputs = [query, unit, written]
        rows = chunk_outputs(inputs, [log_decay], None, state, heads, *rule.settings())
        ctx.save_for_backward(query, key, value, log_decay, log_write)
        ctx.rule = rule
        out: Tensor = rows[0]
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Any:
        query, key, value, log_decay, log_write = ctx.saved_tensors
        grad = readable(grads[0])
        precision, nothing = _precision(query), query.new_empty(0, dtype=torch.float32)
        unit, written, states = _solved(key, value, log_decay, log_write, precision)
        state, rows = (
            [states, nothing, nothing],
            [torch.empty_like(query), nothing, nothing, nothing],
        )
        read = [query, unit, written]
        found, later = gradients(read, None, state, rows, grad, ctx.rule)
        grad_query, grad_unit, back = found
        back, unit_back = back.flip(2), unit.flip(2)
        back = _solved(unit_back, back, log_decay, log_write, precision)[1].flip(2)
        grad_decay = _decay_grad(read, found, states, later[0])
        write = log_write.exp().clamp(min=torch.finfo(log_write.dtype).tiny)
        grad_write = (written * back).sum((0, 2, 3), dtype=torch.float64) / write

        # The rows that keys read from the state: the same sums with unit keys as queries. The
        # product of a row with itself does not belong to them. It only adds a multiple of the unit
        # key, which is removed below, and cancels in the gradient of the decay.
        rule = ctx.rule._replace(scale=1.0)
        # Products are rounded as those of the inputs; gradients are float32.
        asked = [unit.to(query.dtype), unit, written]
        rows = [torch.empty_like(unit), *[nothing] * 3]
        found, later = gradients(asked, None, state, rows, back.neg(), rule)
        grad_decay += _decay_grad([unit, unit, written], found, states, later[0])
        grad_unit += found[0]
        grad_unit += found[1]
        along = (grad_unit * unit).sum(-1, keepdim=True)
        grad_unit.addcmul_(unit, along, value=-1)
        lengths = torch.linalg.vector_norm(key, dim=-1, keepdim=True, dtype=torch.float32)
        lengths = lengths.masked_fill_(lengths <= SHORTEST, torch.inf)
        grad_unit /= expand_heads(lengths, query.shape[1])
        return (
            grad_query,
            _grouped(grad_unit, key),
            _grouped(back, value),
            grad_decay.to(log_decay.dtype),
            grad_write.to(log_write.dtype),
            None,
        )


def _grouped(grad: Tensor, like: Tensor) -> Tensor:
    """Sum over the query heads that read a key head."""
    if grad.shape[1] != like.shape[1]:
        grad = grad.unflatten(1, (like.shape[1], -1)).sum(2)
    return grad.to(like.dtype)


def _decay_grad(inputs: list[Tensor], grads: list[Tensor], states: Tensor, later: Tensor) -> Tensor:
    """The gradient of the logarithm of each head's decay in decayed sums, (heads,) in float64.

    A weight has the exponent i - j for query i and key j. Rows are counted from the beginning of
    their chunk, because counts from the first row would cancel with a large rounding error. So the
    exponent is (row of i) - (row of j) + rows of a chunk for each state between i and j. The share
    of a state is its product with its gradient in `later`.
    """
    size = feature_launches.ROWS
    batch, heads, key_len = inputs[1].shape[:3]
    row = torch.arange(key_len, device=states.device, dtype=torch.float32) % size
    first = key_len - inputs[0].shape[2]
    asked = torch.linalg.vecdot(inputs[0].float(), grads[0].float()) @ row[first:]
    known = torch.linalg.vecdot(inputs[1], grads[1]) @ row
    between = (states[:, 1:] * later[:, :-1]).sum((1, 2, 3)).view(batch, heads)
    return (asked - known + between * size).sum(0, dtype=torch.float64)
