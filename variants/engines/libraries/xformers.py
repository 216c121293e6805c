"""xFormers' memory-efficient attention: exact, or within a window; on CUDA only."""

from __future__ import annotations

import warnings
from functools import cache
from typing import Any

import torch
from torch import Tensor

from variants.contract.call import Call
from variants.contract.checks import UnsupportedError
from variants.contract.definitions import expand_heads
from variants.contract.pattern import Pattern


def unavailable(device: torch.device) -> str | None:
    """The reason why xFormers' kernels cannot run on this device; None if they can."""
    return _missing() if device.type == "cuda" else "xFormers has no operators for a CPU"


def attend(query: Tensor, key: Tensor, value: Tensor, call: Call) -> Tensor:
    """Full attention; shapes as in `Attention.__call__`.

    Raises:
        UnsupportedError: key_padding_mask; fewer keys than queries if causal; a dtype or head_dim
            for which xFormers has no operator.
    """
    if call.causal:
        _need_keys(query, key)
        from xformers.ops import fmha

        bias = fmha.attn_bias.LowerTriangularFromBottomRightMask()
        return _attend(query, key, value, bias, call.key_padding_mask, call.scale)
    return _attend(query, key, value, None, call.key_padding_mask, call.scale)


def attend_window(
    query: Tensor, key: Tensor, value: Tensor, pattern: Pattern, call: Call
) -> Tensor:
    """Attention within the window of a pattern that has only a window.

    Raises:
        UnsupportedError: as in `attend`; fewer keys than queries; global tokens or blocks.
    """
    _need_keys(query, key)
    return _attend(query, key, value, window_bias(pattern), call.key_padding_mask, call.scale)


def window_bias(pattern: Pattern) -> Any:
    """xFormers' bias for the window of the pattern. Both windows have a radius without the token
    itself, around the position of the query; the last query has the position of the last key."""
    blocks = pattern.block_size > 1 or pattern.random_blocks is not None
    if blocks or pattern.leading or pattern.trailing:
        raise UnsupportedError("xFormers has windows of tokens only, no global tokens or blocks")
    from xformers.ops import fmha

    radius = min(pattern.window, pattern.key_len)  # larger numbers exceed the kernel's 32 bits
    return fmha.attn_bias.LocalAttentionFromBottomRightMask(
        window_left=radius, window_right=0 if pattern.causal else radius
    )


def _need_keys(query: Tensor, key: Tensor) -> None:
    if query.shape[2] > key.shape[2]:
        raise UnsupportedError(
            "implementation 'xformers' needs key_len of at least query_len, as its kernels do not "
            f"define rows that see no key; got {key.shape[2]} and {query.shape[2]}"
        )


def _attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bias: Any,
    key_padding_mask: Tensor | None,
    scale: float,
) -> Tensor:
    if key_padding_mask is not None:
        raise UnsupportedError("implementation 'xformers' takes no key_padding_mask")
    from xformers.ops import fmha

    heads = query.shape[1]
    query, key, value = (
        x.transpose(1, 2) for x in (query, expand_heads(key, heads), expand_heads(value, heads))
    )
    try:
        out = fmha.memory_efficient_attention(query, key, value, attn_bias=bias, scale=scale)
    except NotImplementedError as error:
        raise UnsupportedError(
            f"xFormers finds no operator for {query.dtype} and head_dim {query.shape[-1]}"
            f": {_sentence(error)}"
        ) from error
    return out.transpose(1, 2)


@cache
def _missing() -> str | None:
    """The reason why the kernels cannot run; it replaces the warning of xFormers' import."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from xformers.ops import fmha
    except Exception as error:  # the import also loads compiled libraries and calls the driver
        return f"xFormers cannot be imported ({_sentence(error)})"
    try:
        probe = torch.empty(1, 1, 1, 64, device="cuda", dtype=torch.float16)
        fmha.memory_efficient_attention_forward(probe, probe, probe)
    except Exception as error:  # operators of another CUDA version fail in many ways
        return f"xFormers finds no operator: {type(error).__name__}: {_sentence(error)}"
    return None


def _sentence(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
