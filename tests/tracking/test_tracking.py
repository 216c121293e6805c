"""Times every variant at its default settings, for `make track`; not part of `make test`."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import variants
from bench.instruments import accuracy, memory
from tests.tracking.conftest import DEVICE

LENGTHS = (1024, 4096)


@pytest.mark.parametrize("seq_len", LENGTHS)
@pytest.mark.parametrize("direction", ["forward", "forward_backward"])
@pytest.mark.parametrize("name", sorted(variants.REGISTRY))
def test_time_of_a_call(benchmark: Any, name: str, direction: str, seq_len: int) -> None:
    attention = variants.create(name)
    causal = attention.info.causal_only
    generator = torch.Generator().manual_seed(0)
    backward = direction == "forward_backward"
    if backward and "backward" not in attention.info.supports:
        pytest.skip(f"{name} has no backward pass")
    query, key, value = (
        torch.randn(1, 4, seq_len, 64, generator=generator).to(DEVICE).requires_grad_(backward)
        for _ in range(3)
    )

    def call() -> torch.Tensor:
        out = attention(query, key, value, causal=causal)
        if backward:
            torch.autograd.grad(out.sum(), (query, key, value), allow_unused=True)
        if DEVICE.type == "cuda":
            torch.cuda.synchronize()
        return out

    benchmark.group = f"{direction} n={seq_len}"
    out = benchmark.pedantic(call, rounds=7, warmup_rounds=2, iterations=1)
    sample = accuracy.sample_rows(seq_len, seq_len, causal=causal)
    reference = accuracy.Reference.of(query, key, value, sample, causal=causal)
    seen = accuracy.measure(attention, reference, out[:, :, reference.sample.rows])
    # Added to the stored file after the measurement; these numbers are exact.
    benchmark.extra_info["peak_memory_bytes"] = memory.peak_bytes(call, DEVICE)
    benchmark.extra_info["approx_error_rel_l2"] = seen.approx_error_rel_l2
    assert seen.impl_error_rel_l2 <= accuracy.ROUNDING["float32"]
