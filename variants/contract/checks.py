"""Checks of the arguments of a call. Error messages state the expected and the given values."""

from __future__ import annotations

import torch
from torch import Tensor

from variants.contract.call import Keywords, Parameters
from variants.contract.device import triton_unavailable
from variants.contract.modes import pretended, tracing
from variants.contract.variant import Variant

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


class UnsupportedError(ValueError):
    """The arguments are valid, but this variant or this machine does not support them."""


def require(attention: Variant, capability: str) -> None:
    """Raise UnsupportedError unless the attention, with its implementation, has a capability."""
    if capability not in attention.supports:
        name = attention.info.name
        if attention.supports is not attention.info.supports:
            name += f"/{attention.implementation}"
        raise UnsupportedError(
            f"{name} does not support {capability!r}; it supports: "
            f"{', '.join(sorted(attention.supports)) or 'none'}"
        )


def check_call(
    attention: Variant,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    given: Keywords,
) -> None:
    """Check the arguments of `Attention.__call__`."""
    causal, key_padding_mask, distance_bias = given[:3]
    name = attention.info.name
    if not all(isinstance(x, Tensor) for x in (query, key, value)):
        kinds = ", ".join(type(x).__name__ for x in (query, key, value))
        raise ValueError(f"{name}: query, key and value must be tensors; got {kinds}")
    shapes = f"got query {tuple(query.shape)}, key {tuple(key.shape)}, value {tuple(value.shape)}"
    if not query.ndim == key.ndim == value.ndim == 4:
        raise ValueError(
            f"{name}: query, key and value must be (batch, heads, seq_len, head_dim); {shapes}"
        )
    if key.shape != value.shape:
        raise ValueError(f"{name}: key and value must have the same shape; {shapes}")
    batch, heads, query_len, head_dim = query.shape
    key_batch, kv_heads, key_len, key_dim = key.shape
    if (batch, head_dim) != (key_batch, key_dim):
        raise ValueError(f"{name}: query and key must agree in batch and head_dim; {shapes}")
    if 0 in query.shape or 0 in key.shape:
        raise ValueError(f"{name}: every dimension must be at least 1; {shapes}")
    if heads % kv_heads:
        raise ValueError(
            f"{name}: the number of key/value heads must divide the number of query heads; "
            f"got heads={heads}, kv_heads={kv_heads}"
        )
    if not query.dtype == key.dtype == value.dtype or query.dtype not in DTYPES:
        raise ValueError(
            f"{name}: query, key and value must share one dtype of "
            f"{', '.join(str(d).removeprefix('torch.') for d in DTYPES)}; "
            f"got {query.dtype}, {key.dtype}, {value.dtype}"
        )
    if not query.device == key.device == value.device:
        raise ValueError(
            f"{name}: query, key and value must be on one device; "
            f"got {query.device}, {key.device}, {value.device}"
        )
    if not isinstance(causal, bool | torch.SymBool):
        raise ValueError(f"{name}: causal must be True or False; got {causal!r}")
    scales = int | float | torch.SymInt | torch.SymFloat | None
    if not isinstance(given.scale, scales):
        raise ValueError(f"{name}: scale must be a number or None; got {given.scale!r}")
    for word, tensor in (("key_padding_mask", key_padding_mask), ("distance_bias", distance_bias)):
        if tensor is not None and not isinstance(tensor, Tensor):
            raise ValueError(f"{name}: {word} must be a tensor; got {type(tensor).__name__}")
    if causal:
        require(attention, "causal")
    elif attention.info.causal_only:
        raise UnsupportedError(f"{name} is causal only: it needs causal=True; got causal=False")
    if query_len != key_len:
        require(attention, "cross_attention")
    if torch.is_grad_enabled() and any(
        x is not None and x.requires_grad for x in (query, key, value, distance_bias)
    ):
        require(attention, "backward")
    if key_padding_mask is not None:
        require(attention, "key_padding_mask")
        _check_mask(name, key_padding_mask, (batch, key_len), query.device)
    if distance_bias is not None:
        require(attention, "distance_bias")
        check_bias(name, distance_bias, query, key_len)


def check_triton(attention: Variant, query: Tensor) -> None:
    """Raise UnsupportedError if the chosen implementation is a Triton kernel that cannot run."""
    if attention.implementation != "triton":
        return
    reason = triton_unavailable(query.device)
    if reason is None and not attention.triton_takes(query):
        dtype = str(query.dtype).removeprefix("torch.")
        reason = f"it has no kernel for {query.shape[-1]} channels in {dtype} with these settings"
    if reason is not None:
        name = attention.info.name
        raise UnsupportedError(f"{name}: implementation 'triton' cannot run: {reason}")


def require_real(name: str, method: str, *tensors: Tensor) -> None:
    """Raise UnsupportedError while a program is traced, which cannot contain this `method`."""
    if tracing() or any(pretended(x) for x in tensors):
        raise UnsupportedError(
            f"{name}: {method} takes tensors that hold numbers, outside of a traced program "
            "(torch.export, make_fx, fake or meta tensors, transforms of torch.func); only the "
            "call itself can be part of such a program"
        )


def check_parameters(
    attention: Variant, parameters: Parameters, seeded: Parameters, device: torch.device
) -> None:
    """Check that given learned tensors have the names and shapes of the seeded tensors."""
    expected = {name: tuple(tensor.shape) for name, tensor in seeded.items()}
    if found := _unfit(parameters, expected, device):
        raise ValueError(
            f"{attention.info.name}: parameters must be {_spelled(expected)}, of floating point "
            f"and on {device}; got {found}"
        )
    if torch.is_grad_enabled() and any(x.requires_grad for x in parameters.values()):
        require(attention, "backward")


def _check_mask(name: str, mask: Tensor, shape: tuple[int, int], device: torch.device) -> None:
    if mask.dtype != torch.bool or mask.shape != shape:
        raise ValueError(
            f"{name}: key_padding_mask must be bool of shape {shape}, True = padding; "
            f"got {mask.dtype} of shape {tuple(mask.shape)}"
        )
    if mask.device != device:
        raise ValueError(f"{name}: key_padding_mask must be on {device}; got {mask.device}")


def check_bias(name: str, bias: Tensor, query: Tensor, key_len: int) -> None:
    """Check the `distance_bias` of `Attention.__call__` for `key_len` keys."""
    shape, device = (query.shape[1], query.shape[2] + key_len - 1), query.device
    if not bias.is_floating_point() or bias.shape != shape or bias.device != device:
        raise ValueError(
            f"{name}: distance_bias must be of floating point, of shape (heads, query_len + "
            f"key_len - 1) = {shape} and on {device}; got {bias.dtype} of shape "
            f"{tuple(bias.shape)} on {bias.device}"
        )


def _spelled(shapes: dict[str, tuple[int, ...]]) -> str:
    return ", ".join(f"{name} {shape}" for name, shape in sorted(shapes.items())) or "none"


def _unfit(
    parameters: Parameters, expected: dict[str, tuple[int, ...]], device: torch.device
) -> str:
    """The first error in the given learned tensors, in words; empty if they are valid."""
    if not isinstance(parameters, dict):
        return type(parameters).__name__
    for name, tensor in parameters.items():
        if not isinstance(tensor, Tensor):
            return f"{name} of type {type(tensor).__name__}"
        if not tensor.is_floating_point():
            return f"{name} of {tensor.dtype}"
        if tensor.device != device:
            return f"{name} on {tensor.device}"
    found = {name: tuple(tensor.shape) for name, tensor in parameters.items()}
    return "" if found == expected else _spelled(found)
