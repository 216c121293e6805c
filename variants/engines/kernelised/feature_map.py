"""Feature maps, and what sums over all keys and over earlier keys share.

Features are computed for a portion of the rows at a time, forward and backward, and never kept.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from variants.contract.definitions import compute_dtype, safe_total
from variants.engines.primitives import head_slabs
from variants.engines.primitives.head_slabs import Slab
from variants.engines.primitives.precision import Precision, product
from variants.engines.primitives.softmax_tile import HIDDEN, Scratch

DEPTH = 1024  # keys that one product of a sum over keys adds up


class Features(ABC):
    """A feature map; rows are (slab, rows, head_dim), features (slab, rows, num_features).

    With `exponential`, `queries` and `keys` give logarithms of features: their sums are shifted
    into the dtype's range before the exponential is taken.
    """

    num_features: int
    exponential: bool = False

    @abstractmethod
    def queries(self, rows: Tensor, slab: Slab, precision: Precision, scratch: Scratch) -> Tensor:
        """Features of queries, up to any factor a row; in a buffer that may be overwritten."""

    @abstractmethod
    def keys(self, rows: Tensor, slab: Slab, precision: Precision, scratch: Scratch) -> Tensor:
        """Features of keys; likewise."""

    def exponents(self, rows: Tensor, slab: Slab, precision: Precision, scratch: Scratch) -> Tensor:
        """What `keys` gives with `exponential`, as (slab, num_features, rows)."""
        return self.keys(rows, slab, precision, scratch).mT.contiguous()

    @abstractmethod
    def query_grad(self, rows: Tensor, features: Tensor, grad: Tensor, slab: Slab) -> Tensor:
        """Gradient of `rows`, from that of `features` or, if exponential, of logarithms."""

    @abstractmethod
    def key_grad(self, rows: Tensor, features: Tensor, grad: Tensor, slab: Slab) -> Tensor:
        """Likewise."""


class Rows(NamedTuple):
    """A slab of heads: its keys, values with a channel of ones, and how features are made."""

    slab: Slab
    query: Tensor
    key: Tensor
    value: Tensor
    padding: Tensor | None
    features: Features
    precision: Precision
    scratch: Scratch

    def queries(self, part: slice) -> Tensor:
        """Features of some queries, or their logarithms."""
        return self.features.queries(self.query[:, part], self.slab, self.precision, self.scratch)

    def keys(self, part: slice) -> Tensor:
        """Features of some keys, those of padded ones 0; or their logarithms."""
        made = self.features.keys(self.key[:, part], self.slab, self.precision, self.scratch)
        if self.padding is not None:
            nothing = HIDDEN if self.features.exponential else 0
            made.masked_fill_(self.padding[:, part, None], nothing)
        return made

    def exponents(self, part: slice) -> Tensor:
        """Logarithms of the features of some keys, feature by feature."""
        made = self.features.exponents(self.key[:, part], self.slab, self.precision, self.scratch)
        if self.padding is not None:
            made.masked_fill_(self.padding[:, None, part], HIDDEN)
        return made

    def values(self, part: slice) -> Tensor:
        """Some values and a channel of ones, whose weighted sum is the normaliser."""
        value = self.value[:, part]
        shape = (*value.shape[:2], value.shape[2] + 1)
        buffer = self.scratch("values", shape, self.precision.operands)
        buffer[..., :-1] = value
        buffer[..., -1] = 1
        return buffer

    def plain_values(self, part: slice) -> Tensor:
        """Some values."""
        value = self.value[:, part]
        if value.dtype is self.precision.operands:
            return value
        return self.scratch.copy("values", value, self.precision.operands)

    def grad_sums(self, out: Tensor, grad_out: Tensor, total: Tensor) -> Tensor:
        """Gradient of the weighted sums before the division by `total` (slab, rows, 1): of the
        values, then the normaliser."""
        shape = (*out.shape[:2], out.shape[2] + 1)
        sums = self.scratch("grad sums", shape, total.dtype)
        torch.div(grad_out.to(total.dtype), total, out=sums[..., :-1])
        torch.sum(sums[..., :-1] * out, -1, out=sums[..., -1]).neg_()
        return sums.to(self.precision.operands)


def slabs(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    padding: Tensor | None,
    features: Features,
    precision: Precision,
    rows: int,
) -> Iterator[Rows]:
    """As many heads at a time as features of `rows` rows fit the budget."""
    scratch = Scratch(query.device)
    at_once = room(query, features, precision) // (rows * features.num_features)
    for slab in head_slabs.slabs(query, key, at_once):
        yield Rows(
            slab,
            slab.queries(query),
            slab.keys(key),
            slab.keys(value),
            slab.sequences(padding, query.shape[1]),
            features,
            precision,
            scratch,
        )


def divide(sums: Tensor, out: Tensor) -> Tensor:
    """Write weighted sums over their normaliser to `out`, and return the normaliser."""
    total = safe_total(sums[..., -1:])
    if out.dtype is sums.dtype:
        torch.div(sums[..., :-1], total, out=out)
    else:
        out.copy_(sums[..., :-1].div_(total))
    return total


def transposed_product(
    left: Tensor, right: Tensor, precision: Precision, scratch: Scratch
) -> Tensor:
    """left^T @ right of (slab, rows, ...), summed in float32 over pieces of the rows."""
    slab, rows, columns = left.shape
    pieces = rows // DEPTH if rows % DEPTH == 0 else 1
    shape = (slab * pieces, columns, right.shape[-1])
    parts = product(
        left.reshape(slab * pieces, -1, columns).transpose(-2, -1),
        right.reshape(slab * pieces, -1, right.shape[-1]),
        precision,
        scratch("partial sums", shape, precision.scores),
    )
    wide = compute_dtype(left.dtype)
    return parts.view(slab, pieces, columns, -1).sum(1, dtype=wide)


def room(query: Tensor, features: Features, precision: Precision) -> int:
    """Features that are held at once. Exponentials of many directions cost so much that larger
    products pay; where a feature costs little, both sides have to stay in the cache."""
    size = head_slabs.budget(query.device, precision.scores)
    return size if features.exponential else size // 2


def step(query: Tensor, features: Features, precision: Precision) -> int:
    """Rows of a portion."""
    return max(1, room(query, features, precision) // features.num_features // DEPTH) * DEPTH
