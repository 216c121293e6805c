"""torch's fused kernels for CUDA, each by its name where `scaled_dot_product_attention` chooses."""

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
from torch.nn.functional import scaled_dot_product_attention

from variants.contract.call import Call
from variants.contract.checks import UnsupportedError
from variants.engines.primitives.process_setting import ProcessSetting

KERNELS: dict[str, Callable[[SDPAParams, bool], bool]] = {
    "flash": can_use_flash_attention,
    "cudnn": can_use_cudnn_attention,
    "efficient": can_use_efficient_attention,
}


_SWITCHES = {
    "flash": (torch.backends.cuda.flash_sdp_enabled, torch.backends.cuda.enable_flash_sdp),
    "cudnn": (torch.backends.cuda.cudnn_sdp_enabled, torch.backends.cuda.enable_cudnn_sdp),
    "efficient": (
        torch.backends.cuda.mem_efficient_sdp_enabled,
        torch.backends.cuda.enable_mem_efficient_sdp,
    ),
    "math": (torch.backends.cuda.math_sdp_enabled, torch.backends.cuda.enable_math_sdp),
}


def _allowed() -> str:
    """The kernels that torch may choose from, by name."""
    return " ".join(name for name, (enabled, _) in _SWITCHES.items() if enabled())


def _allow(names: str) -> None:
    for name, (_, enable) in _SWITCHES.items():
        enable(name in names.split())


_ALLOWED = ProcessSetting(_allowed, _allow)


def unavailable(name: str, device: torch.device) -> str | None:
    """Why the kernel of this name cannot be called on this device; None if it can."""
    if device.type != "cuda":
        return f"torch offers {name!r} by name on CUDA only"
    return _missing(name, device)


def attend(name: str, query: Tensor, key: Tensor, value: Tensor, call: Call) -> Tensor:
    """Full attention by one of `KERNELS`; shapes as in `Attention.__call__`.

    Raises:
        UnsupportedError: key_padding_mask; causal with unlike lengths, which torch aligns at the
            first key; whatever torch says that this kernel does not take.
    """
    if call.key_padding_mask is not None:
        raise UnsupportedError(f"implementation {name!r} takes no key_padding_mask")
    if call.causal and query.shape[2] != key.shape[2]:
        raise UnsupportedError(
            f"implementation {name!r} is causal with as many keys as queries only; "
            f"got {key.shape[2]} and {query.shape[2]}"
        )
    # Also a kernel that the program has forbidden in general.
    with _ALLOWED.held(name):
        if (reason := _refusal(name, query, key, value, call.causal)) is not None:
            raise UnsupportedError(f"torch's {name!r} kernel does not take this call: {reason}")
        return scaled_dot_product_attention(
            query,
            key,
            value,
            is_causal=call.causal,
            scale=call.scale,
            enable_gqa=query.shape[1] != key.shape[1],
        )


def fastest(query: Tensor, key: Tensor) -> str | None:
    """The kernel to take on CUDA without measuring, causal or not; None leaves it to torch.

    In the half types cuDNN from compute capability 9.0 on and with heads of up to 128 channels,
    else FlashAttention, each only if torch says it takes such tensors.
    """
    if query.device.type != "cuda" or query.dtype not in (torch.float16, torch.bfloat16):
        return None
    if query.shape[2] != key.shape[2]:
        return None
    recent = torch.cuda.get_device_capability(query.device) >= (9, 0)
    names = ("cudnn", "flash") if recent and query.shape[-1] <= 128 else ("flash",)
    return next((name for name in names if _takes(name, query, key, key, causal=True)), None)


def _takes(
    name: str, query: Tensor, key: Tensor, value: Tensor, *, causal: bool, debug: bool = False
) -> bool:
    grouped = query.shape[1] != key.shape[1]
    return KERNELS[name](SDPAParams(query, key, value, None, 0.0, causal, grouped), debug)


def _refusal(name: str, query: Tensor, key: Tensor, value: Tensor, causal: bool) -> str | None:
    """Why torch would not run the kernel on these tensors; None if it would."""
    if _takes(name, query, key, value, causal=causal):
        return None
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        _takes(name, query, key, value, causal=causal, debug=True)
    # torch ends each warning with the place in its own source.
    reasons = [str(warning.message).partition(" (Triggered internally")[0] for warning in said]
    return "; ".join(reasons)[:300] or "torch gives no reason"


@cache
def _missing(name: str, device: torch.device) -> str | None:
    probe = torch.zeros(1, 1, 64, 64, dtype=torch.float16, device=device)
    with _ALLOWED.held(name):
        reason = _refusal(name, probe, probe, probe, False)
    return None if reason is None else f"torch's {name!r} kernel does not run: {reason}"
