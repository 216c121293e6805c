"""Chunked-state attention: a query reads a decaying matrix that sums earlier keys and values.

Differs from public code: RetNet rotates queries and keys and normalises the output of each head;
both are parts of a layer. Gated DeltaNet and fla compute decay and write strength from each token;
here each of them is one learned number for each head.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, pad

from variants.contract.attention import Attention
from variants.contract.call import Call, Parameters
from variants.contract.definitions import compute_dtype, dot_products, expand_heads, query_positions
from variants.contract.draws import lasting
from variants.contract.hyperparameter import TimesLength, hyperparameter
from variants.contract.registry import register
from variants.contract.tensor_cache import cached
from variants.contract.variant import Memory
from variants.engines.gpu.sums import delta_state, feature_sum
from variants.engines.gpu.sums.feature_sum import Rule
from variants.engines.libraries import fla
from variants.engines.recurrent.delta_rule import SHORTEST, GatedDelta
from variants.engines.recurrent.retention import Retention

ROWS = 256  # number of keys in one triangular system of the definition


@register(
    title="Retentive Network: A Successor to Transformer for Large Language Models",
    year=2023,
    url="https://arxiv.org/abs/2307.08621",
    time="n·c·d + n·d²",
    memory="n·d",
    target="other_kernel",
    supports={"causal", "key_padding_mask", "cross_attention", "backward", "step"},
    implementations=("chunks", "triton", "fla"),
    libraries={"fla"},
    grid={"rule": ("retention", "gated_delta")},
    convex=False,
    causal_only=True,
    positions="distance",
)
@dataclass(frozen=True)
class ChunkedStateAttention(Attention):
    """Each head has a state of (head_dim, head_dim) numbers; each token writes to it and each query
    reads it. There is no softmax, and rows are not normalised.

        retention:    state = decay · state + key[i]ᵀ value[i]
        gated_delta:  state = decay · state, then
                      state = state + write · key[i]ᵀ (value[i] - key[i] state)
        output[i] = scale · query[i] state

    `retention`: head h has decay = 1 - 2^(-5-h); nothing is learned. `gated_delta` (Yang et al.,
    Gated Delta Networks, 2024, https://arxiv.org/abs/2412.06464): keys have unit length; `decay`
    and `write` are learned, one number for each head. Padding writes nothing, but the state still
    decays.

    Costs: n tokens, d = head_dim, c = chunk_size. The result does not depend on `chunk_size`.

    Decoding: the state is the matrix of each head. The size of the state does not depend on the
    number of tokens.
    """

    rule: str = hyperparameter(
        "retention",
        choices=("retention", "gated_delta"),
        doc="rule by which a token changes the state, as in RetNet or in Gated DeltaNet",
    )
    chunk_size: int = hyperparameter(
        64,
        minimum=1,
        doc="number of rows that are computed at once; the result does not depend on it",
        small=8,
        train=TimesLength(1 / 4),
    )

    def attend(self, query: Tensor, key: Tensor, value: Tensor, call: Call) -> Tensor:
        # Padded keys and values are zero, so they write nothing.
        implementation = self.choose_implementation(query, key)
        if implementation == "triton" and self.rule == "retention":
            fixed = (_log_decays(query.shape[1], query.device),)
            rule = Rule("decay", True, query.shape[-1], call.scale, 1.0, fixed)
            return feature_sum.attend(query, key, value, None, rule)
        log_decay, log_write = self._logarithms(query.shape[1], query, call.parameters)
        if implementation == "triton":
            return delta_state.attend(query, key, value, log_decay, log_write, call.scale)
        if implementation == "fla":
            gates = None if self.rule == "retention" else (log_decay, log_write)
            keys = key if gates is None else _unit(key.float()).to(key.dtype)
            return fla.decayed(query, keys, value, call.scale, gates)
        size = min(self.chunk_size, key.shape[2])
        blind = max(0, query.shape[2] - key.shape[2])  # queries before the first key
        inputs = query[:, :, blind:], key, value
        out: Tensor
        if self.rule == "retention":
            out = Retention.apply(*inputs, log_decay, call.scale, size)
        else:
            out = GatedDelta.apply(*inputs, log_decay, log_write, call.scale, size)
        return pad(out, (0, 0, blind, 0)) if blind else out

    def dense_weights(self, query: Tensor, key: Tensor, rows: Tensor, call: Call) -> Tensor:
        log_decay, log_write = self._logarithms(query.shape[1], query, call.parameters)
        positions = query_positions(rows, query.shape[2], key.shape[2])
        if self.rule == "retention":
            distance = positions[:, None] - torch.arange(key.shape[2], device=key.device)
            scores = dot_products(query, key, rows, call.scale)
            return scores * _powers(log_decay, distance).to(scores.dtype)
        dtype = compute_dtype(query.dtype)
        keys = expand_heads(key, query.shape[1]).to(dtype)
        asked = query[:, :, rows].to(dtype) * call.scale
        return _delta_weights(asked, positions, _unit(keys), log_decay, log_write)

    def remember(self, heads: int, key: Tensor, value: Tensor, call: Call) -> Memory:
        # The state is the output of the definition for queries that are the unit vectors.
        dtype, channels = compute_dtype(key.dtype), key.shape[3]
        log_decay, log_write = self._logarithms(heads, key, call.parameters)
        keys, values = (expand_heads(x, heads).to(dtype) for x in (key, value))
        last = torch.full((channels,), key.shape[2] - 1, device=key.device)
        if self.rule == "retention":
            steps = torch.arange(key.shape[2], device=key.device)
            powers = _powers(log_decay, (last[0] - steps)[None]).to(dtype)
            return ((keys.mT * powers) @ values,)
        asked = torch.eye(channels, dtype=dtype, device=key.device).expand(*keys.shape[:2], -1, -1)
        weights = _delta_weights(asked, last, _unit(keys), log_decay, log_write)
        return (weights @ values,)

    def advance(
        self, memory: Memory, length: int, query: Tensor, key: Tensor, value: Tensor, call: Call
    ) -> tuple[Tensor, Memory]:
        # Padded keys and values are zero, so they write nothing.
        (state,) = memory
        assert isinstance(state, Tensor)
        heads, dtype = query.shape[1], state.dtype
        logarithms = self._logarithms(heads, key, call.parameters)
        decay, write = (x.exp().to(dtype)[:, None, None] for x in logarithms)
        keys, values = (expand_heads(x, heads).to(dtype) for x in (key, value))
        if self.rule == "gated_delta":
            keys = _unit(keys)
        asked = query.to(dtype) * call.scale
        rows = []
        for token in range(query.shape[2]):
            some = slice(token, token + 1)
            own_key, own_value = keys[:, :, some], values[:, :, some]
            state = state * decay
            if self.rule == "gated_delta":
                own_value = write * (own_value - own_key @ state)
            state = state + own_key.mT * own_value
            rows.append(asked[:, :, some] @ state)
        return torch.cat(rows, dim=2).to(query.dtype), (state,)

    def unavailable(self, implementation: str, device: torch.device) -> str | None:
        if implementation == "fla":
            return fla.unavailable(device)
        return super().unavailable(implementation, device)

    def triton_takes(self, query: Tensor) -> bool:
        return feature_sum.fits(query)

    def init_parameters(self, heads: int, head_dim: int, seed: int = 0) -> Parameters:
        """Draw `decay_logit` and `write_logit` (heads,) of the delta rule. Their sigmoids are decay
        and write, near 1 - 2^(-5-h) and 1/2."""
        if self.rule == "retention":
            return {}
        with lasting(seed) as generator:
            steps = torch.arange(heads, dtype=torch.float32) + 5
            # The logit of 1 - 2^-steps.
            logits = {
                "decay_logit": steps * math.log(2) + torch.log1p(-torch.exp2(-steps)),
                "write_logit": torch.zeros_like(steps),
            }
            for logit in logits.values():
                logit += 0.25 * torch.randn(heads, generator=generator, dtype=torch.float32)
            return logits

    def useful_flops(
        self, batch: int, heads: int, query_len: int, key_len: int, head_dim: int, *, causal: bool
    ) -> float:
        # Each key updates a head_dim × head_dim state, and each query reads it. In the delta rule,
        # each key reads it first.
        reads = key_len if self.rule == "gated_delta" else 0
        return 2.0 * batch * heads * head_dim**2 * (query_len + key_len + reads)

    def _logarithms(
        self, heads: int, like: Tensor, parameters: Parameters
    ) -> tuple[Tensor, Tensor]:
        """Return the logarithms of decay and write, each (heads,)."""
        if self.rule == "retention":
            steps = torch.arange(heads, dtype=torch.float64, device=like.device) + 5
            decay = torch.log1p(-torch.exp2(-steps))
            return decay, torch.zeros_like(decay)
        dtype = compute_dtype(like.dtype)
        decay, write = (parameters[name].to(dtype) for name in ("decay_logit", "write_logit"))
        return logsigmoid(decay), logsigmoid(write)


@cached
def _log_decays(heads: int, device: torch.device) -> Tensor:
    """Return the logarithms of the decays of retention (heads,) in float32."""
    steps = torch.arange(heads, dtype=torch.float64) + 5
    return torch.log1p(-torch.exp2(-steps)).float().to(device)


def _unit(keys: Tensor) -> Tensor:
    """Normalise keys to unit length; a key that is not longer than SHORTEST becomes 0."""
    lengths = torch.linalg.vector_norm(keys, dim=-1, keepdim=True)
    return keys / torch.where(lengths > SHORTEST, lengths, torch.inf)


def _powers(log_decay: Tensor, distance: Tensor) -> Tensor:
    """Return decay^distance (heads, rows, keys), 0 for later keys."""
    powers = (log_decay[:, None, None] * distance.clamp(min=0)).exp()
    return powers.masked_fill(distance < 0, 0)


def _delta_weights(
    asked: Tensor, positions: Tensor, keys: Tensor, log_decay: Tensor, log_write: Tensor
) -> Tensor:
    """Return the coefficients (batch, heads, rows, keys) of the values in the output of each query.

    `asked` (batch, heads, rows, head_dim) are queries that read the state at `positions` (rows,).
    `keys` have unit length. The loop goes from the last `ROWS` keys to the first. In each step, the
    coefficients are asked · keysᵀ · (1 + write · earlier keys)⁻¹ · write. The remainder of each
    query then reads the state before these keys.
    """
    write = log_write.exp()[:, None, None]
    found = []
    for first in reversed(range(0, keys.shape[2], ROWS)):
        own = keys[:, :, first : first + ROWS]
        steps = torch.arange(own.shape[2], device=keys.device)
        # Rows of later positions are already moved to the last key of this step. Rows of earlier
        # positions do not change in this step.
        at = (positions - first).clamp(-1, own.shape[2] - 1)
        system = write * (own @ own.mT) * _powers(log_decay, steps[:, None] - steps)
        to_keys = _powers(log_decay, at[:, None] - steps)
        weights = torch.linalg.solve_triangular(
            system, asked @ own.mT * to_keys, upper=False, left=False, unitriangular=True
        )
        found.append(weights * write)
        known = own * _powers(log_decay, steps[:, None] + 1)
        asked = asked * _powers(log_decay, at[:, None] + 1) - found[-1] @ known
    return torch.cat(found[::-1], dim=-1)
