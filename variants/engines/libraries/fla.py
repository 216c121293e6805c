"""Linear attention and decaying states by flash-linear-attention: causal, on CUDA only.

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
    _check(query, key, value)
    from fla.ops.linear_attn import chunk_linear_attn

    out, _ = chunk_linear_attn(*_placed(query, key, value), scale=1.0, normalize=True)
    return out.transpose(1, 2)


def decayed(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    scale: float,
    gates: tuple[Tensor, Tensor] | None,
) -> Tensor:
    """Causal reads of a decaying state, shapes as in `attend`: retention, or the gated delta rule
    if there are `gates`, the logarithms of each head's decay and write (heads,). The delta rule
    needs keys of unit length.

    Raises:
        UnsupportedError: different lengths; any dtype except bfloat16.
    """
    _check(query, key, value)
    placed = _placed(query, key, value)
    if gates is None:
        from fla.ops.retention import chunk_retention

        out, _ = chunk_retention(*placed, scale=scale)
        return out.transpose(1, 2)
    from fla.ops.gated_delta_rule import chunk_gated_delta_rule

    shape = placed[0].shape[:3]
    decay, write = gates[0].float().expand(shape), gates[1].exp().expand(shape)
    out, _ = chunk_gated_delta_rule(
        *placed, decay.contiguous(), write.to(value.dtype).contiguous(), scale=scale
    )
    return out.transpose(1, 2)


def _placed(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, ...]:
    """Tensors as the library reads them, (batch, seq_len, heads, channels) in one dtype."""
    heads = query.shape[1]
    return tuple(
        x.to(value.dtype).transpose(1, 2).contiguous()
        for x in (query, expand_heads(key, heads), expand_heads(value, heads))
    )


def _check(query: Tensor, key: Tensor, value: Tensor) -> None:
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


@cache
def _missing() -> str | None:
    try:
        from fla.ops.linear_attn import chunk_linear_attn  # noqa: F401
    except Exception as error:  # the import searches for devices and compilers
        text = " ".join(str(error).split())[:300]
        return f"flash-linear-attention cannot be imported ({text})"
    return None
