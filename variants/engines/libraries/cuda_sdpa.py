"""torch's fused kernels for CUDA, each called by its name.

`scaled_dot_product_attention` chooses one of these kernels. `torch.nn.attention.sdpa_kernel` can
select a kernel, but it changes the choice of the whole process. So this file calls the operation of
each kernel.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor
from torch.backends.cuda import (
    SDPAParams,
    can_use_cudnn_attention,
    can_use_efficient_attention,
    can_use_flash_attention,
)
from torch.nn.functional import pad

from variants.contract.call import Call
from variants.contract.checks import UnsupportedError
from variants.contract.device import on_gpu

KERNELS: dict[str, Callable[[SDPAParams, bool], bool]] = {
    "flash": can_use_flash_attention,
    "cudnn": can_use_cudnn_attention,
    "efficient": can_use_efficient_attention,
}


def unavailable(name: str, device: torch.device) -> str | None:
    """The reason why the kernel with this name cannot run on this device; None if it can."""
    if device.type != "cuda":
        return f"torch offers {name!r} by name on CUDA only"
    return _missing(name, device)


def attend(name: str, query: Tensor, key: Tensor, value: Tensor, call: Call) -> Tensor:
    """Full attention by one of `KERNELS`; shapes as in `Attention.__call__`.

    Raises:
        UnsupportedError: key_padding_mask; causal with different lengths, which torch aligns at the
            first key; a call that this kernel does not support according to torch, or any call if
            the program has disabled the kernel (`torch.backends.cuda.enable_flash_sdp(False)`).
    """
    if call.key_padding_mask is not None:
        raise UnsupportedError(f"implementation {name!r} takes no key_padding_mask")
    if call.causal and query.shape[2] != key.shape[2]:
        raise UnsupportedError(
            f"implementation {name!r} is causal with as many keys as queries only; "
            f"got {key.shape[2]} and {query.shape[2]}"
        )
    if (reason := _refusal(name, query, key, value, call.causal)) is not None:
        raise UnsupportedError(f"torch's {name!r} kernel does not take this call: {reason}")
    return _run(name, query, key, value, call.causal, call.scale)


def _run(
    name: str, query: Tensor, key: Tensor, value: Tensor, causal: bool, scale: float
) -> Tensor:
    """The operation of a kernel, called as `scaled_dot_product_attention` calls it."""
    if scale <= 0:
        # The kernels hide keys and subtract the maximum before they scale.
        query, scale = query * scale, 1.0
    aten = torch.ops.aten
    head_dim = query.shape[-1]
    if name == "flash" and head_dim % 8:
        # The kernel needs a multiple of 8 channels.
        query, key, value = (pad(x, (0, -head_dim % 8)) for x in (query, key, value))
        return _run(name, query, key, value, causal, scale)[..., :head_dim]
    if name == "flash":
        found = aten._scaled_dot_product_flash_attention(
            query, key, value, 0.0, causal, scale=scale
        )
    else:
        trains = torch.is_grad_enabled() and any(x.requires_grad for x in (query, key, value))
        operation = {
            "cudnn": aten._scaled_dot_product_cudnn_attention,
            "efficient": aten._scaled_dot_product_efficient_attention,
        }[name]
        found = operation(query, key, value, None, trains, 0.0, causal, scale=scale)
    out: Tensor = found[0]
    return out


def fastest(query: Tensor, key: Tensor) -> str | None:
    """The kernel to use on CUDA without a measurement, causal or not; None means torch's choice.

    For the half types: cuDNN if the compute capability is at least 9.0 and heads have at most 128
    channels, otherwise FlashAttention; each only if the kernel supports the tensors according to
    torch.
    """
    if not on_gpu(query.device) or query.dtype not in (torch.float16, torch.bfloat16):
        return None
    if query.shape[2] != key.shape[2]:
        return None
    recent = _capability(query.device) >= (9, 0)
    names = ("cudnn", "flash") if recent and query.shape[-1] <= 128 else ("flash",)
    return next((name for name in names if _takes(name, query, key, key, causal=True)), None)


def _capability(device: torch.device) -> tuple[int, int]:
    """The compute capability; that of an H100 for a device that is only pretended to be a GPU."""
    return torch.cuda.get_device_capability(device) if device.type == "cuda" else (9, 0)


def _takes(
    name: str, query: Tensor, key: Tensor, value: Tensor, *, causal: bool, debug: bool = False
) -> bool:
    if query.is_meta and on_gpu(query.device):
        return True  # a simulation assumes a recent GPU
    grouped = query.shape[1] != key.shape[1]
    return KERNELS[name](SDPAParams(query, key, value, None, 0.0, causal, grouped), debug)


def _refusal(name: str, query: Tensor, key: Tensor, value: Tensor, causal: bool) -> str | None:
    """The reason why torch does not run the kernel on these tensors; None if it does."""
    if _takes(name, query, key, value, causal=causal):
        return None
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        _takes(name, query, key, value, causal=causal, debug=True)
    # Each warning of torch ends with the location in torch's source.
    reasons = [str(warning.message).partition(" (Triggered internally")[0] for warning in said]
    return "; ".join(reasons)[:300] or "torch gives no reason"


@cache
def _missing(name: str, device: torch.device) -> str | None:
    probe = torch.zeros(1, 1, 64, 64, dtype=torch.float16, device=device)
    reason = _refusal(name, probe, probe, probe, False)
    return None if reason is None else f"torch's {name!r} kernel does not run: {reason}"
