"""torch's FlashAttention kernel with a window, on CUDA.

Dao, FlashAttention-2, 2023, https://arxiv.org/abs/2307.08691
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from variants.contract.call import Call
from variants.contract.checks import UnsupportedError
from variants.contract.device import on_gpu
from variants.contract.pattern import Pattern

DTYPES = (torch.float16, torch.bfloat16)
WIDEST = 256  # channels of a head


def unavailable(device: torch.device) -> str | None:
    """The reason why the kernel cannot run on this device; None if it can."""
    if not on_gpu(device):
        return "torch has a FlashAttention kernel with a window on CUDA only"
    return None if device.type == "meta" else _missing(device)


def takes(query: Tensor, key: Tensor) -> bool:
    """Whether the kernel takes such tensors: a half type, at least as many keys as queries."""
    head_dim, fewer = query.shape[-1], query.shape[2] > key.shape[2]
    return query.dtype in DTYPES and head_dim % 8 == 0 and head_dim <= WIDEST and not fewer


def attend(query: Tensor, key: Tensor, value: Tensor, pattern: Pattern, call: Call) -> Tensor:
    """Attention within the window of a pattern that has only a window of tokens.

    Raises:
        UnsupportedError: key_padding_mask; float32; a head_dim that is no multiple of 8 or larger
            than 256; more queries than keys; global tokens or blocks.
    """
    if call.key_padding_mask is not None:
        raise UnsupportedError("implementation 'flash' takes no key_padding_mask")
    if pattern.block_size > 1 or pattern.leading or pattern.trailing:
        raise UnsupportedError("FlashAttention has windows of tokens only, no global tokens")
    if not takes(query, key):
        raise UnsupportedError(
            "implementation 'flash' takes float16 and bfloat16, a head_dim that is a multiple of 8 "
            f"up to {WIDEST}, and at least as many keys as queries; got "
            f"{str(query.dtype).removeprefix('torch.')}, {query.shape[-1]}, {key.shape[2]} keys "
            f"and {query.shape[2]} queries"
        )
    return _windowed(query, key, value, pattern.window, pattern.causal, call.scale)


def _windowed(
    query: Tensor, key: Tensor, value: Tensor, window: int, causal: bool, scale: float
) -> Tensor:
    """The operation of the kernel; its tensors are (batch, seq_len, heads, head_dim)."""
    if scale <= 0:
        # The kernel hides keys and subtracts the maximum before it scales.
        query, scale = query * scale, 1.0
    radius = min(window, key.shape[2])  # the kernel has 32-bit numbers
    out: Tensor = torch.ops.aten._flash_attention_forward(
        *(x.transpose(1, 2) for x in (query, key, value)),
        *(None, None, query.shape[2], key.shape[2], 0.0, causal, False),
        scale=scale,
        window_size_left=radius,
        window_size_right=0 if causal else radius,
    )[0]
    return out.transpose(1, 2)


@cache
def _missing(device: torch.device) -> str | None:
    """The reason why the kernel does not compute a window; its operation is not documented."""
    query = torch.zeros(1, 1, 64, 64, dtype=torch.float16, device=device)
    value = torch.ones_like(query)
    value[:, :, 0] = 65.0  # the first row is seen by the rows 0 to 8
    try:
        with torch.no_grad():
            out = _windowed(query, query, value, 8, True, 1.0)[0, 0, :, 0].tolist()
    except torch.OutOfMemoryError:
        raise  # the result would be kept
    except Exception as error:
        text = " ".join(str(error).split())[:300]
        return f"torch's FlashAttention kernel does not run with a window: {text}"
    right = [1 + 64 / (row + 1) if row <= 8 else 1.0 for row in range(64)]
    if max(abs(a - b) for a, b in zip(out, right, strict=True)) > 0.1:
        return "torch's FlashAttention kernel computes another window"
    return None
