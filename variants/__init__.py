"""Attention variants with one interface. Each other file of this folder defines one variant.

>>> import torch, variants
>>> attention = variants.create("sliding_window", window_size=256)
>>> query = key = value = torch.randn(1, 8, 1024, 64)
>>> attention(query, key, value, causal=True).shape
torch.Size([1, 8, 1024, 64])
"""

from importlib import import_module
from pkgutil import iter_modules

from variants.contract.attention import Attention
from variants.contract.call import Call
from variants.contract.checks import UnsupportedError
from variants.contract.decoding import State
from variants.contract.hyperparameter import Hyperparameter
from variants.contract.info import CAPABILITIES
from variants.contract.parsing import parse
from variants.contract.registry import (
    REGISTRY,
    add_implementation,
    grid,
    hyperparameters,
    register,
)
from variants.contract.typed_create import create
from variants.engines.primitives.float32_route import Float32Route, choose_float32_route
from variants.layer.multi_head import MultiHeadAttention
from variants.pretrained.replace import attn_implementation, replace_attention

# Registers the torch operation that traced programs call.
import_module("variants.contract.operation")
for _module in iter_modules(__path__):
    if not _module.ispkg:
        import_module(f"{__name__}.{_module.name}")

__all__ = [
    "CAPABILITIES",
    "REGISTRY",
    "Attention",
    "Call",
    "Float32Route",
    "Hyperparameter",
    "MultiHeadAttention",
    "State",
    "UnsupportedError",
    "add_implementation",
    "attn_implementation",
    "choose_float32_route",
    "create",
    "grid",
    "hyperparameters",
    "parse",
    "register",
    "replace_attention",
]
