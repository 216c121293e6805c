"""A user's script for `mypy --strict`: code that must have a type, and code that must be an error.

If an expected error does not occur, its `type: ignore` is unused, which is an error too.
"""

from collections.abc import Callable
from typing import Any, assert_type

import torch
from torch import Tensor

import variants
from variants.full import FullAttention
from variants.linear import LinearAttention
from variants.lsh import LshAttention

lsh = variants.create("lsh", num_hashes=4)
assert_type(lsh, LshAttention)
assert_type(lsh.num_hashes, int)
assert_type(lsh.shared_qk, bool)
assert_type(variants.create("full", implementation="sdpa"), FullAttention)
assert_type(variants.create("linear", feature_map="relu"), LinearAttention)

# Errors.
variants.create("lsh", num_hashs=4)  # type: ignore[call-overload]
variants.create("lsh", num_hashes="4")  # type: ignore[call-overload]
variants.create("lsh", 4)  # type: ignore[call-overload]
variants.create("full", window_size=4)  # type: ignore[call-overload]
variants.create("linear", feature_map="sin")  # type: ignore[call-overload]
variants.create(name=4)  # type: ignore[call-overload]
lsh.num_hashs  # type: ignore[attr-defined]  # noqa: B018
lsh.num_hashes = 8  # type: ignore[misc]

# Names that are unknown when types are checked.
name = input()
settings: dict[str, Any] = {"num_hashes": 4}
assert_type(variants.create(name), variants.Attention)
assert_type(variants.create(name, implementation="auto"), variants.Attention)
assert_type(variants.create(name, **settings), variants.Attention)
assert_type(variants.create("a_variant_of_my_own"), variants.Attention)
assert_type(variants.parse("lsh num_hashes=4"), variants.Attention)
assert_type(variants.grid(name), list[variants.Attention])

# Calls.
query = torch.randn(1, 2, 16, 8)
mask = torch.zeros(1, 16, dtype=torch.bool)
assert_type(lsh(query, query, query, causal=True, key_padding_mask=mask), Tensor)
lsh(query, query, query, causal=mask)  # type: ignore[arg-type]
lsh(query, query, query, is_causal=True)  # type: ignore[call-arg]
assert_type(lsh.weights(query, query, rows=torch.arange(4)), Tensor)
out, state = variants.create("sliding_window").prefill(query, query, query)
assert_type(out, Tensor)
assert_type(state, variants.State)

# In place of torch's function; the argument types are known.
attend: Callable[[Tensor, Tensor, Tensor], Tensor] = (
    torch.nn.functional.scaled_dot_product_attention
)
attend = lsh.scaled_dot_product_attention
lsh.scaled_dot_product_attention(query, query, query, mask, 0.0, True, scale=1.0, enable_gqa=True)
lsh.scaled_dot_product_attention(query, query, query, causal=True)  # type: ignore[call-arg]

layer = variants.MultiHeadAttention(64, 8, attention="lsh num_hashes=4")
assert_type(layer(query), Any)  # like every torch.nn.Module
