"""reformer-pytorch's LSHAttention for `lsh` with one tensor for queries and keys.

It draws its rotations in every call, which is part of the timed call; the seed is that of the
variant.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from torch import Tensor

from bench.peers.packages import drawing, needs, require_multiple, rescaled
from variants import UnsupportedError, add_implementation
from variants.contract.definitions import expand_heads
from variants.lsh import LshAttention


def attend(
    attention: LshAttention,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    causal: bool,
    scale: float,
    **call: Any,
) -> Tensor:
    if not attention.shared_qk:
        raise UnsupportedError(
            "reformer-pytorch uses one tensor as query and key: set shared_qk=True"
        )
    batch, heads, seq_len = query.shape[:3]
    require_multiple("reformer-pytorch", seq_len, 2 * attention.bucket_size)
    module = _module(attention.bucket_size, attention.num_hashes, causal)
    with drawing(attention.seed, query.device):
        out = module(
            rescaled(query, scale).flatten(0, 1), expand_heads(value, heads).flatten(0, 1)
        )[0]
    return out.unflatten(0, (batch, heads))


@lru_cache(maxsize=8)
def _module(bucket_size: int, num_hashes: int, causal: bool) -> Any:
    from reformer_pytorch import LSHAttention

    return LSHAttention(bucket_size=bucket_size, n_hashes=num_hashes, causal=causal).eval()


add_implementation(
    "lsh",
    "reformer_pytorch",
    attend=attend,
    unavailable=needs("reformer_pytorch"),
    supports={"causal", "backward"},
    differs="draws its own rotations; chunks may cross bucket borders, and the first chunk also "
    "sees the last one",
)
