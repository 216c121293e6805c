"""LSH attention for `gathered_softmax`: buckets, and the sorted keys that each query sees.

The rank of a query is the number of keys before it in its segment, as in `lsh_sort`. Its keys are
those of two chunks, so they are a range of the keys that are sorted by bucket and position. All
rounds and heads are sorted together, and no size depends on the buckets.
"""

from __future__ import annotations

import torch
from torch import Tensor

from variants.contract.strides import readable
from variants.contract.tensor_cache import cached
from variants.engines.gpu.launches import launch, operation
from variants.engines.gpu.selected.gathered_softmax import Gathered
from variants.engines.gpu.tile_widths import padded_width

ITEMS = 256  # sorted queries of a program


def _bucket_shapes(rows: Tensor, rotations: Tensor, bits: int, count: int) -> Tensor:
    num_heads, rounds = rotations.shape[:2]
    shape = rows.shape[0], num_heads, rounds, rows.shape[2]
    return torch.empty(shape, dtype=torch.int32, device=rows.device)


def hashed(rows: Tensor, rotations: Tensor, bits: int, count: int) -> Tensor:
    """Bucket numbers as `lsh_hash.hashed` defines them, int32. `rotations` (heads, rounds,
    head_dim, width) are `count` rotations beside each other, which give `bits` bits."""
    with torch.no_grad():
        rows = readable(rows)
        found: Tensor = _hash_rows(rows, rotations, bits, count)
        return found


@operation(
    "hash_rows(Tensor rows, Tensor rotations, int bits, int count) -> Tensor", _bucket_shapes
)
def _hash_rows(rows: Tensor, rotations: Tensor, bits: int, count: int) -> Tensor:
    from variants.engines.gpu.selected.hashed_ranges_kernels import hash_rows_kernel

    buckets = _bucket_shapes(rows, rotations, bits, count)
    batch, num_heads, rounds, length = buckets.shape
    head_dim, width = rotations.shape[2:]
    launch(
        hash_rows_kernel,
        (-(-length // 64), batch * num_heads, rounds),
        *(rows, rotations, buckets, num_heads, num_heads // rows.shape[1], length, head_dim),
        *(rounds, width, *rows.stride()[:3]),
        BITS=bits,
        ROTATIONS=count,
        AXES=16,
        ROWS=64,
        CHANNELS=padded_width(head_dim),
    )
    return buckets


def _range_shapes(query_codes: Tensor, *arguments: object) -> tuple[Tensor, Tensor]:
    return torch.empty_like(query_codes), torch.empty_like(query_codes)


@operation(
    "hashed_ranges(Tensor query_codes, Tensor query_index, Tensor key_codes, Tensor key_index, "
    "int query_len, int key_len, int rounds, int codes, int chunk, bool causal) "
    "-> (Tensor low, Tensor high)",
    _range_shapes,
)
def _ranges(
    query_codes: Tensor,
    query_index: Tensor,
    key_codes: Tensor,
    key_index: Tensor,
    query_len: int,
    key_len: int,
    rounds: int,
    codes: int,
    chunk: int,
    causal: bool,
) -> tuple[Tensor, Tensor]:
    from variants.engines.gpu.selected.hashed_ranges_kernels import hashed_ranges_kernel

    low, high = _range_shapes(query_codes)
    total = query_codes.numel()
    launch(
        hashed_ranges_kernel,
        (-(-total // ITEMS),),
        *(query_codes, query_index, key_codes, key_index, low, high, total, query_len, key_len),
        *(rounds, codes, chunk),
        CAUSAL=causal,
        STEPS=key_len.bit_length(),
        ITEMS=ITEMS,
    )
    return low, high


@cached
def _first_codes(slab: int, rounds: int, codes: int, device: torch.device) -> Tensor:
    """The first code of each round of each head, int32 (slab, rounds, 1)."""
    first = torch.arange(slab * rounds, dtype=torch.int32, device=device) * codes
    return first.view(slab, rounds, 1)


def ranges(
    query_buckets: Tensor,
    key_buckets: Tensor,
    hidden: Tensor | None,
    *,
    buckets: int,
    chunk: int,
    causal: bool,
) -> Gathered:
    """The items of all rounds, sorted by (head, round, bucket, position).

    Args:
        query_buckets, key_buckets: int32 (batch, heads, rounds, len), below `buckets`.
        hidden: bool (batch, key_len), keys that have no rank.
        chunk: number of keys of a chunk.
    """
    batch, heads, rounds, query_len = query_buckets.shape
    key_len = key_buckets.shape[3]
    codes = buckets + 1
    first = _first_codes(batch * heads, rounds, codes, query_buckets.device)
    if hidden is not None:
        key_buckets = key_buckets.masked_fill(hidden[:, None, None], buckets)
    query_codes, query_index = (query_buckets.flatten(0, 1) + first).flatten().sort(stable=True)
    key_codes, key_index = (key_buckets.flatten(0, 1) + first).flatten().sort(stable=True)
    sizes = query_len, key_len, rounds, codes, min(chunk, key_len)
    low, high = _ranges(query_codes, query_index, key_codes, key_index, *sizes, causal)
    shape = batch * heads, rounds * query_len
    # Hidden keys are in no range.
    return Gathered(query_index, low.view(shape), high.view(shape), key_index, None, rounds)
