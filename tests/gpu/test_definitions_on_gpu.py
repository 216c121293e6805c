"""The dense definitions on a GPU: some use kernels of a GPU to select keys."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

import variants
from variants import REGISTRY
from variants.contract.device import pretended_gpu


@pytest.mark.interpreted
@pytest.mark.parametrize("name", sorted(REGISTRY))
def test_the_definition_is_that_of_a_cpu(name: str) -> None:
    attention = variants.create(name)
    generator = torch.Generator().manual_seed(0)
    query, key = (
        torch.randn(1, heads, 150, 16, generator=generator, dtype=torch.float64) for heads in (4, 2)
    )
    causal = attention.info.causal_choices[-1]
    expected = attention.weights(query, key, causal=causal)
    with pretended_gpu("cpu"):
        assert_close(attention.weights(query, key, causal=causal), expected)
