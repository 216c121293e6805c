"""Chunked attention with a recurrent state, against the recurrences of the papers in plain loops.

Sun et al., Retentive Network, 2023, https://arxiv.org/abs/2307.08621

Yang et al., Gated Delta Networks, 2024, https://arxiv.org/abs/2412.06464
"""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

import variants

RULES = ("retention", "gated_delta")
LENGTH = 83  # a prime: no multiple of a chunk size
CHUNK_SIZES = (1, 16, 64, LENGTH, 1000)


def numbers(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def inputs(
    query_len: int = LENGTH, key_len: int = LENGTH, heads: int = 4, kv_heads: int = 2
) -> tuple[Tensor, Tensor, Tensor]:
    return (
        numbers(2, heads, query_len, 6, seed=1),
        numbers(2, kv_heads, key_len, 6, seed=2),
        numbers(2, kv_heads, key_len, 6, seed=3),
    )


def learned(rule: str = "gated_delta", heads: int = 4) -> dict[str, Tensor]:
    """Logits of decay and write, far from their initial values."""
    if rule == "retention":
        return {}
    return {"decay_logit": numbers(heads, seed=4) + 1, "write_logit": numbers(heads, seed=5)}


def token_by_token(
    rule: str,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    parameters: dict[str, Tensor],
    padding: Tensor | None = None,
    scale: float | None = None,
) -> Tensor:
    """The recurrence by loops: update the state at each key, then read it by the query of this
    position."""
    batch, heads, query_len, head_dim = query.shape
    kv_heads, key_len = key.shape[1:3]
    scale = 1 / math.sqrt(head_dim) if scale is None else scale
    out = torch.zeros_like(query)
    results = []
    for sequence in range(batch):
        for head in range(heads):
            state = query.new_zeros(head_dim, head_dim)
            rows = [out[0, 0, 0]] * max(0, query_len - key_len)
            for position in range(key_len):
                k = key[sequence, head * kv_heads // heads, position]
                v = value[sequence, head * kv_heads // heads, position]
                padded = padding is not None and bool(padding[sequence, position])
                if rule == "retention":
                    state = state * (1 - 2.0 ** (-5 - head))
                    if not padded:
                        state = state + torch.outer(k, v)
                else:
                    state = state * torch.sigmoid(parameters["decay_logit"][head])
                    if not padded:
                        if bool(k.any()):
                            k = k / k.square().sum().sqrt()
                        beta = torch.sigmoid(parameters["write_logit"][head])
                        state = state + beta * torch.outer(k, v - k @ state)
                row = position - (key_len - query_len)
                if row >= 0:
                    rows.append(scale * query[sequence, head, row] @ state)
            results.append(torch.stack(rows))
    return torch.stack(results).view(out.shape)


def gradients(
    function: Callable[..., Tensor], *tensors: Tensor, parameters: dict[str, Tensor]
) -> list[Tensor]:
    """The output, and gradients of the tensors and parameters."""
    leaves = [x.detach().clone().requires_grad_() for x in (*tensors, *parameters.values())]
    placed = dict(zip(parameters, leaves[len(tensors) :], strict=True))
    out = function(*leaves[: len(tensors)], parameters=placed)
    grads = torch.autograd.grad(
        out, leaves, numbers(*out.shape, seed=6), allow_unused=True, materialize_grads=True
    )
    return [out.detach(), *grads]


@pytest.mark.parametrize("chunk_size", CHUNK_SIZES)
@pytest.mark.parametrize("rule", RULES)
def test_chunks_equal_the_recurrence_token_by_token(rule: str, chunk_size: int) -> None:
    """Output and all gradients, including those of the learned parameters."""
    attention = variants.create("chunked_state", rule=rule, chunk_size=chunk_size)
    found = gradients(
        lambda *x, parameters: attention(*x, causal=True, parameters=parameters),
        *inputs(),
        parameters=learned(rule),
    )
    expected = gradients(
        lambda *x, parameters: token_by_token(rule, *x, parameters),
        *inputs(),
        parameters=learned(rule),
    )
    for mine, right in zip(found, expected, strict=True):
        assert_close(mine, right)


@pytest.mark.parametrize("lengths", [(30, 83), (83, 30), (1, 83), (83, 1)], ids=str)
@pytest.mark.parametrize("padded", [False, True], ids=["", "padded"])
@pytest.mark.parametrize("rule", RULES)
def test_earlier_keys_padding_and_a_scale(
    rule: str, padded: bool, lengths: tuple[int, int]
) -> None:
    """A padded key writes nothing, and the state still decays at its position."""
    padding = numbers(2, lengths[1], seed=7) > 0.3 if padded else None
    attention = variants.create("chunked_state", rule=rule, chunk_size=16)
    call = {"causal": True, "key_padding_mask": padding, "scale": -0.4}
    found = gradients(
        lambda *x, parameters: attention(*x, parameters=parameters, **call),
        *inputs(*lengths),
        parameters=learned(rule),
    )
    expected = gradients(
        lambda *x, parameters: token_by_token(rule, *x, parameters, padding, -0.4),
        *inputs(*lengths),
        parameters=learned(rule),
    )
    for mine, right in zip(found, expected, strict=True):
        assert_close(mine, right)


@pytest.mark.parametrize("rule", RULES)
def test_weights_times_value_equal_the_recurrence(
    rule: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if the definition is computed in blocks of keys, and for some rows only."""
    monkeypatch.setattr("variants.chunked_state.ROWS", 20)
    attention = variants.create("chunked_state", rule=rule)
    query, key, value = inputs(query_len=50)
    rows = torch.tensor([49, 0, 17, 17])
    expected = token_by_token(rule, query, key, value, learned(rule))
    weights = attention.weights(query, key, causal=True, parameters=learned(rule), rows=rows)
    assert_close(weights @ value.repeat_interleave(2, dim=1), expected[:, :, rows])


def test_retention_decays_at_the_rate_of_each_head() -> None:
    """One key at the first position: 31/32 a step in head 0, 63/64 in head 1."""
    attention = variants.create("chunked_state", chunk_size=8)
    ones = torch.ones(1, 2, 40, 4, dtype=torch.float64)
    first = torch.zeros_like(ones)
    first[:, :, 0] = 1
    out = attention(ones, first, first, causal=True, scale=1.0)[0, :, :, 0]
    for head, decay in enumerate((31 / 32, 63 / 64)):
        assert_close(out[head], 4 * decay ** torch.arange(40, dtype=torch.float64))


def test_a_written_value_is_read_back_and_overwritten() -> None:
    """With decay and write close to 1, the state returns the last value written for a key."""
    attention = variants.create("chunked_state", rule="gated_delta", chunk_size=4)
    certain = {name: torch.full((1,), 40.0).double() for name in learned()}
    key = torch.eye(6, dtype=torch.float64).repeat(2, 1)[None, None] * 3  # each key occurs twice
    value = numbers(1, 1, 12, 6)
    query = torch.eye(6, dtype=torch.float64)[[0] * 11 + [2]][None, None]
    out = attention(query, key, value, causal=True, scale=1.0, parameters=certain)[0, 0]
    assert_close(out[5], value[0, 0, 0])  # unchanged after five other keys
    assert_close(out[6], value[0, 0, 6])  # replaced by the new value
    assert_close(out[11], value[0, 0, 8])


def test_the_length_of_a_key_does_not_matter_to_the_delta_rule() -> None:
    attention = variants.create("chunked_state", rule="gated_delta")
    query, key, value = inputs()
    expected = attention(query, key, value, causal=True)
    assert_close(attention(query, key * 1e5, value, causal=True), expected)
    assert_close(attention(query, key * 1e-5, value, causal=True), expected)


def test_a_key_of_zeros_writes_nothing_and_has_no_gradient() -> None:
    attention = variants.create("chunked_state", rule="gated_delta")
    query, key, value = inputs()
    key[:, :, 7] = 0
    out, _, grad_key, *_ = gradients(
        lambda *x, parameters: attention(*x, causal=True, parameters=parameters),
        query,
        key,
        value,
        parameters=learned(),
    )
    value[:, :, 7] = 1e6
    assert_close(attention(query, key, value, causal=True, parameters=learned()), out)
    assert not grad_key[:, :, 7].any()


@pytest.mark.parametrize("rule", RULES)
def test_long_sequences_stay_in_range(rule: str) -> None:
    """Powers of the decay over thousands of steps underflow, and their inverses would overflow.

    The gradient of a decay is a sum of shares that nearly cancel, so its error is larger.
    """
    attention = variants.create("chunked_state", rule=rule)
    query, key, value = (numbers(1, 1, 8192, 8, seed=seed) for seed in range(3))
    # The state halves at each step.
    quick = {name: torch.zeros(1) for name in learned(rule)}
    call = {"causal": True, "parameters": {name: x.double() for name, x in quick.items()}}
    exact = gradients(
        lambda *x, parameters: attention(*x, causal=True, parameters=parameters),
        query,
        key,
        value,
        parameters=call["parameters"],
    )
    found = gradients(
        lambda *x, parameters: attention(*x, causal=True, parameters=parameters).double(),
        query.float(),
        key.float(),
        value.float(),
        parameters=quick,
    )
    last = attention(query[:, :, -200:], key[:, :, -2000:], value[:, :, -2000:], **call)
    if rule == "gated_delta":
        assert_close(exact[0][:, :, -200:], last)
    names = ["output", "query", "key", "value", *quick]
    for name, mine, right in zip(names, found, exact, strict=True):
        bound = 2e-4 if name == "decay_logit" else 1e-6
        assert float((mine - right).norm()) <= bound * float(right.norm()), name


def test_repeated_keys_do_not_reduce_precision() -> None:
    """All keys are equal and every write is complete. The inverse of a chunk's system is then well
    conditioned, but the powers of its matrix are not."""
    attention = variants.create("chunked_state", rule="gated_delta", chunk_size=64)
    query, _, value = (numbers(1, 2, 256, 8, seed=seed) for seed in range(3))
    key = torch.ones_like(query)
    logits = {"decay_logit": torch.full((2,), 9.0), "write_logit": torch.full((2,), 9.0)}
    exact = token_by_token(
        "gated_delta", query, key, value, {name: x.double() for name, x in logits.items()}
    )
    found = attention(
        query.float(), key.float(), value.float(), causal=True, parameters=logits
    ).double()
    assert float((found - exact).norm()) <= 2e-6 * float(exact.norm())


def test_learned_parameters_differ_between_heads() -> None:
    attention = variants.create("chunked_state", rule="gated_delta")
    fresh = attention.init_parameters(8, 64)
    decay, write = (torch.sigmoid(fresh[name].double()) for name in ("decay_logit", "write_logit"))
    lasts = (1 - decay) * 2.0 ** torch.arange(5, 13)
    assert bool(((lasts > 0.4) & (lasts < 2.5)).all())
    assert bool(((write > 0.25) & (write < 0.75)).all())
    assert len(set(write.tolist())) > 4
    other = attention.init_parameters(8, 64, seed=1)
    assert not torch.equal(other["write_logit"], fresh["write_logit"])
    for logit in fresh.values():
        assert logit.dtype == torch.float32
    assert not variants.create("chunked_state").init_parameters(8, 64)
