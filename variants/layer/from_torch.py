"""What of a torch.nn.MultiheadAttention a layer can take over."""

from __future__ import annotations

import warnings

from torch import Tensor, nn


def check_module(module: nn.MultiheadAttention) -> None:
    """ValueError for what is none or does more than project, attend and project; a warning for
    dropout, at the caller of the caller."""
    given = type(module)
    # A subclass with another forward computes something else, or keeps its weights elsewhere.
    if getattr(given, "forward", None) is not nn.MultiheadAttention.forward:
        raise ValueError(
            "from_torch takes over a torch.nn.MultiheadAttention, or a subclass that leaves "
            f"forward alone; got {given.__module__}.{given.__qualname__}"
        )
    for word, present in (
        ("add_bias_kv", module.bias_k is not None),
        ("add_zero_attn", module.add_zero_attn),
    ):
        if present:
            raise ValueError(
                f"from_torch cannot represent {word}=True: this layer attends to no key but those "
                "it is given"
            )
    if module.dropout > 0:
        warnings.warn(
            f"from_torch does not take over dropout={module.dropout}: no attention weight is "
            "dropped here",
            stacklevel=3,
        )


def weights_of(module: nn.MultiheadAttention) -> dict[str, tuple[Tensor, bool]]:
    """A tensor and whether it is trained for each weight and bias, named as in the layer."""
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
