"""Causal linear attention by the Triton kernels of flash-linear-attention, on CUDA only.

Yang and Zhang, FLA, 2024, https://github.com/fla-org/flash-linear-attention
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from variants.contract.checks import UnsupportedError
from variants.contract.definitions import expand_heads


def unavailable(device: torch.device) -> str | None:
    """The reason why the kernels cannot run on this device; None if they can."""
    if device.type != "cuda":
        return "flash-linear-attention has Triton kernels for CUDA only"
    return _missing()


def attend(query: Tensor, key: Tensor, value: Tensor, *, causal: bool) -> Tensor:
    """Normalised causal sum of values, weighted by the product of non-negative features.

    Args:
        query: features (batch, heads, seq_len, num_features), scaled.
        key: features (batch, kv_heads, seq_len, num_features).
        value: (batch, kv_heads, seq_len, head_dim); the kernels compute in this dtype.

    Raises:
        UnsupportedError: not causal; different lengths; any dtype except bfloat16.
    """
    if not causal:
        raise UnsupportedError("implementation 'fla' is causal only")
    if query.shape[2] != key.shape[2]:
        raise UnsupportedError(
            "implementation 'fla' takes as many keys as queries only; "
            f"got {key.shape[2]} and {query.shape[2]}"
        )
    if value.dtype != torch.bfloat16:
        # The library stores sums before the division: with a few thousand tokens they leave the
        # range of float16. It multiplies float32 in TF32.
        raise UnsupportedError(
            "implementation 'fla' keeps the accuracy of bfloat16 only; "
            f"got {str(value.dtype).removeprefix('torch.')}"
        )
    from fla.ops.linear_attn import chunk_linear_attn

    heads = query.shape[1]
    # The library's tensors are (batch, seq_len, heads, channels).
    query, key, value = (
        x.to(value.dtype).transpose(1, 2).contiguous()
        for x in (query, expand_heads(key, heads), expand_heads(value, heads))
    )
    out, _ = chunk_linear_attn(query, key, value, scale=1.0, normalize=True)
    return out.transpose(1, 2)


@cache
def _missing() -> str | None:
    try:
        from fla.ops.linear_attn import chunk_linear_attn  # noqa: F401
    except Exception as error:  # the import searches for devices and compilers
        text = " ".join(str(error).split())[:300]
        return f"flash-linear-attention cannot be imported ({text})"
    return None
