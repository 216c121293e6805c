"""Feature maps, and the code that `sum_all` and `sum_causal` share.

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

DEPTH = 1024  # keys that one product sums up


class Features(ABC):
    """A feature map; rows are (slab, rows, head_dim), features (slab, rows, num_features).

    If `exponential`, `queries` and `keys` return logarithms of features. The engine shifts them
    into the range of the dtype before it takes the exponential.
    """

    num_features: int
    exponential: bool = False

    @abstractmethod
    def queries(self, rows: Tensor, slab: Slab, precision: Precision, scratch: Scratch) -> Tensor:
        """Features of queries, up to a factor for each row; in a buffer that may be overwritten."""

    @abstractmethod
    def keys(self, rows: Tensor, slab: Slab, precision: Precision, scratch: Scratch) -> Tensor:
        """Features of keys, in a buffer that may be overwritten."""

    def exponents(self, rows: Tensor, slab: Slab, precision: Precision, scratch: Scratch) -> Tensor:
        """The result of `keys` if `exponential`, as (slab, num_features, rows)."""
        return self.keys(rows, slab, precision, scratch).mT.contiguous()

    @abstractmethod
    def query_grad(self, rows: Tensor, features: Tensor, grad: Tensor, slab: Slab) -> Tensor:
        """Gradient of queries `rows`, from the gradient of `features`, or of their logarithms if
        exponential."""

    @abstractmethod
    def key_grad(self, rows: Tensor, features: Tensor, grad: Tensor, slab: Slab) -> Tensor:
        """Gradient of keys `rows`, as in `query_grad`."""


class Rows(NamedTuple):
    """A slab of heads: its queries, keys and values, and its feature map."""

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
        """Features of some keys, 0 for padded keys; or their logarithms."""
        made = self.features.keys(self.key[:, part], self.slab, self.precision, self.scratch)
        if self.padding is not None:
            nothing = HIDDEN if self.features.exponential else 0
            made.masked_fill_(self.padding[:, part, None], nothing)
        return made

    def exponents(self, part: slice) -> Tensor:
        """Logarithms of the features of some keys, (slab, num_features, keys)."""
        made = self.features.exponents(self.key[:, part], self.slab, self.precision, self.scratch)
        if self.padding is not None:
            made.masked_fill_(self.padding[:, None, part], HIDDEN)
        return made

    def values(self, part: slice) -> Tensor:
        """Some values and a channel of ones. The weighted sum of the ones is the normaliser."""
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
        """Gradient of the weighted sums before the division by `total` (slab, rows, 1). The last
        channel is the gradient of the normaliser."""
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
    """Slabs of heads. The features of `rows` rows of a slab fit the budget."""
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
    """Write weighted sums, divided by their normaliser, to `out`, and return the normaliser."""
    total = safe_total(sums[..., -1:])
    if out.dtype is sums.dtype:
        torch.div(sums[..., :-1], total, out=out)
    else:
        out.copy_(sums[..., :-1].div_(total))
    return total


def transposed_product(
    left: Tensor, right: Tensor, precision: Precision, scratch: Scratch
) -> Tensor:
    """left^T @ right of (slab, rows, ...). Pieces of the rows are summed in float32."""
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
    """Number of features that are held at a time. Exponential features are expensive, so larger
    products are faster. If features are cheap, both operands should fit the cache."""
    size = head_slabs.budget(query.device, precision.scores, query.numel())
    return size if features.exponential else size // 2


def step(query: Tensor, features: Features, precision: Precision) -> int:
    """Number of rows of a portion."""
    return max(1, room(query, features, precision) // features.num_features // DEPTH) * DEPTH
