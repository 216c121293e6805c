"""Accuracy columns do not depend on the device of the tensors."""

from __future__ import annotations

import pytest
import torch

import variants
from bench.instruments import accuracy
from bench.instruments.accuracy import Reference, sample_rows

DEVICES = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.gpu),
]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("name", ["sliding_window", "lsh", "linear"])
def test_columns_do_not_depend_on_the_device(name: str, causal: bool, device: str) -> None:
    generator = torch.Generator().manual_seed(0)
    query, key, value = (
        torch.randn(2, heads, 300, 16, generator=generator, dtype=torch.float64)
        for heads in (4, 2, 2)
    )
    attention = variants.create(name)
    found = []
    for where in ("cpu", device):
        tensors = [x.to(where) for x in (query, key, value)]
        sample = sample_rows(300, 300, causal=causal)
        reference = Reference.of(*tensors, sample, causal=causal)
        out = attention(*tensors, causal=causal)[:, :, reference.sample.rows]
        seen = accuracy.measure(attention, reference, out, affordable_keys=20.0)
        facts = accuracy.input_facts(reference, "")
        columns = seen.values | facts.values
        for exact in ("impl_error_rel_l2", "dtype_floor_rel_l2"):
            assert columns.pop(exact) < 1e-12
        gradients = accuracy.gradient_errors(attention, reference)
        columns |= {f"gradient {i}": error for i, error in enumerate(gradients)}
        found.append({k: v for k, v in columns.items() if isinstance(v, float | int)})
        assert len(seen.heads) == 8
    assert found[1] == pytest.approx(found[0], rel=1e-8, abs=1e-12)
