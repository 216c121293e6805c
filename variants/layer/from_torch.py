"""Checks and reads a torch.nn.MultiheadAttention, so that a layer can copy its weights."""

from __future__ import annotations

import warnings

from torch import Tensor, nn


def check_module(module: nn.MultiheadAttention) -> None:
    """Raise ValueError if `module` is not an nn.MultiheadAttention, or if it does more than
    project, attend and project. Warn about dropout, at the line that called `from_torch`."""
    given = type(module)
    # A subclass with another forward may compute something else, or store weights elsewhere.
    if getattr(given, "forward", None) is not nn.MultiheadAttention.forward:
        raise ValueError(
            "from_torch needs a torch.nn.MultiheadAttention, or a subclass that does not override "
            f"forward; got {given.__module__}.{given.__qualname__}"
        )
    for word, present in (
        ("add_bias_kv", module.bias_k is not None),
        ("add_zero_attn", module.add_zero_attn),
    ):
        if present:
            raise ValueError(
                f"from_torch cannot represent {word}=True: this layer attends only to the keys "
                "that are passed to it"
            )
    if module.dropout > 0:
        warnings.warn(
            f"from_torch ignores dropout={module.dropout}: this layer has no dropout of attention "
            "weights",
            stacklevel=3,
        )


def weights_of(module: nn.MultiheadAttention) -> dict[str, tuple[Tensor, bool]]:
    """Return each weight and bias, by its name in the layer, and whether it is trained."""
    names = [f"{role}_projection" for role in ("query", "key", "value")]
    found = {
        "output_projection.weight": (module.out_proj.weight, module.out_proj.weight.requires_grad)
    }
    packed = module.in_proj_weight
    if packed is None:
        for name, role in zip(names, "qkv", strict=True):
            weight = getattr(module, f"{role}_proj_weight")
            found[f"{name}.weight"] = weight, weight.requires_grad
    else:
        for name, weight in zip(names, packed.chunk(3), strict=True):
            found[f"{name}.weight"] = weight, packed.requires_grad
    if module.in_proj_bias is not None:
        for name, bias in zip(names, module.in_proj_bias.chunk(3), strict=True):
            found[f"{name}.bias"] = bias, module.in_proj_bias.requires_grad
        found["output_projection.bias"] = module.out_proj.bias, module.out_proj.bias.requires_grad
    return found
