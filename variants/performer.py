"""Performer attention: a query reads sums over all keys; random features estimate softmax.

Differs from public code: the package performer-pytorch (1.1.4) adds 0.0001 to every feature, draws
one set of directions for all heads, and subtracts a maximum over all keys, so that in a causal call
later keys change earlier rows. Here nothing is added, each head has its own directions, and a
causal call takes the maximum over earlier keys.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from variants.contract.attention import Attention
from variants.contract.call import Call
from variants.contract.definitions import compute_dtype, expand_heads, normalised, visible
from variants.contract.draws import lasting
from variants.contract.hyperparameter import TimesLength, hyperparameter
from variants.contract.registry import register
from variants.contract.tensor_cache import cached
from variants.contract.variant import Memory
from variants.engines.gpu.sums import feature_sum
from variants.engines.gpu.sums.feature_sum import Rule
from variants.engines.kernelised import sum_all
from variants.engines.kernelised.feature_map import Features
from variants.engines.primitives.head_slabs import Slab
from variants.engines.primitives.precision import Precision, product
from variants.engines.primitives.softmax_tile import HIDDEN, Scratch


@register(
    title="Rethinking Attention with Performers",
    year=2020,
    url="https://arxiv.org/abs/2009.14794",
    time="n·m·d",
    memory="n·m",
    target="softmax",
    supports={"causal", "key_padding_mask", "cross_attention", "backward", "step"},
    implementations=("chunks", "coarse", "triton"),
    reduced_precision={"coarse"},
    grid={"num_features": (64, 128, 256, 512)},
    positions="none",
)
@dataclass(frozen=True)
class PerformerAttention(Attention):
    """FAVOR+: the weights are products of random features, normalised in each row.

        f(x) = exp(w · x - |x|² / 2)  for num_features random directions w
        weights[i, j] = f(q[i]) · f(k[j]) / sum over l of f(q[i]) · f(k[l]),
                        q = query / head_dim^(1/4), k = key / head_dim^(1/4)

    The product of features estimates exp(scale · query · key) without bias; a scale other than 1 /
    sqrt(head_dim) multiplies q. Directions are orthogonal in blocks of head_dim, have the lengths
    of Gaussian vectors, and are drawn for each query head.

    A maximum is subtracted from the exponents; it cancels in the weights. A causal call takes the
    maximum over earlier keys, so that a row does not depend on later keys. A causal row is 0 if the
    maximum of its features and the maximum of the features of all earlier keys are too far apart
    for the dtype. This happens only if queries and keys have a norm of at least 20 at head_dim
    2, 30 at 8, 100 at 64. Decoding loses fewer rows in this way.

    Costs: n tokens, d = head_dim, m = num_features.

    Decoding: the state holds a normaliser and a mean value for each feature. The size of the state
    does not depend on the number of tokens.
    """

    num_features: int = hyperparameter(
        256,
        minimum=1,
        doc="number of random features of each query and key",
        small=16,
        train=TimesLength(2),
    )
    seed: int = hyperparameter(0, doc="seed of the random directions")

    def attend(self, query: Tensor, key: Tensor, value: Tensor, call: Call) -> Tensor:
        implementation = self.choose_implementation(query, key)
        if implementation == "triton":
            rule = self._rule(query, call.causal, call.scale)
            return feature_sum.attend(query, key, value, call.key_padding_mask, rule)
        return sum_all.attend(
            query,
            key,
            value,
            self._features(query, call.scale),
            call,
            coarse=implementation == "coarse",
        )

    def dense_weights(self, query: Tensor, key: Tensor, rows: Tensor, call: Call) -> Tensor:
        allowed = visible(rows, query.shape[2], key.shape[2], call)
        projected, exponents = self._exponents(query[:, :, rows], key, call.scale)
        # As in the kernel, maxima are subtracted: the maximum of each key, then the maximum over
        # the keys that the row sees.
        highest = exponents.detach().amax(-1, keepdim=True)
        queries = (projected - projected.detach().amax(-1, keepdim=True)).exp()
        kernel = queries @ (exponents - highest).exp().transpose(-2, -1)
        shift = highest.transpose(-2, -1).masked_fill(~allowed, -torch.inf)
        return normalised(kernel * (shift - finite(shift.amax(-1, keepdim=True))).exp())

    def remember(self, heads: int, key: Tensor, value: Tensor, call: Call) -> Memory:
        # Each query head has its own directions, so the state has an entry for each query head.
        like = key[:, :1].expand(-1, heads, -1, -1)
        features = self._features(like, 1.0)
        states = sum_all.states(like, key, value, features, call.key_padding_mask)
        states = states.unflatten(0, like.shape[:2])
        return states[..., :-1].contiguous(), states[..., -1:].contiguous()

    def advance(
        self, memory: Memory, length: int, query: Tensor, key: Tensor, value: Tensor, call: Call
    ) -> tuple[Tensor, Memory]:
        mean, log_total = memory  # each feature's mean value and log normaliser
        assert isinstance(mean, Tensor)
        assert isinstance(log_total, Tensor)
        projected, exponents = self._exponents(query, key, call.scale)
        if call.key_padding_mask is not None:
            exponents = exponents.masked_fill(call.key_padding_mask[:, None, :, None], HIDDEN)
        values = expand_heads(value, query.shape[1]).to(mean.dtype)
        rows = []
        for token in range(query.shape[2]):
            exponent = exponents[:, :, token, :, None]
            both = torch.logaddexp(log_total, exponent)
            share = (exponent - both).exp() * values[:, :, token, None]
            mean = torch.addcmul(share, mean, (log_total - both).exp())
            log_total = both
            weights = torch.softmax(projected[:, :, token] + both[..., 0], dim=-1)
            rows.append(weights[:, :, None] @ mean)
        return torch.cat(rows, dim=2).to(query.dtype), (mean, log_total)

    def triton_takes(self, query: Tensor) -> bool:
        return feature_sum.fits(query)

    def build(self, query: Tensor, key: Tensor, call: Call) -> None:
        scale = self.default_scale(query.shape[-1])
        if self.choose_implementation(query, key) == "triton":
            self._rule(query, call.causal, scale)
        else:
            self._features(query, scale)

    def useful_flops(
        self, batch: int, heads: int, query_len: int, key_len: int, head_dim: int, *, causal: bool
    ) -> float:
        # The projection to features, and the products that build or read the state.
        return 4.0 * batch * heads * head_dim * self.num_features * (query_len + key_len)

    def _exponents(self, query: Tensor, key: Tensor, scale: float) -> tuple[Tensor, Tensor]:
        """Return w·q and w·k - |k|²/2, each (batch, heads, len, num_features). The term |q|²/2 is
        the same for all weights of a row, so it cancels."""
        dtype, (heads, head_dim) = compute_dtype(query.dtype), query.shape[1::2]
        directions = self._placed_directions(query, dtype).transpose(-2, -1)
        # The features estimate exp(q·k / sqrt(head_dim)); another scale multiplies the query.
        root = head_dim**-0.25
        queries = query.to(dtype) * (scale * math.sqrt(head_dim) * root)
        keys = expand_heads(key, heads).to(dtype) * root
        return queries @ directions, keys @ directions - keys.square().sum(-1, keepdim=True) / 2

    def _features(self, query: Tensor, scale: float) -> _RandomFeatures:
        drawn = query.shape[1], self.num_features, query.shape[3], self.seed, query.device
        wide = compute_dtype(query.dtype)
        return _RandomFeatures(_for_keys(*drawn, wide), _for_queries(*drawn, wide, scale))

    def _rule(self, query: Tensor, causal: bool, scale: float) -> Rule:
        heads, head_dim = query.shape[1::2]
        drawn = heads, self.num_features, head_dim, self.seed, query.device, query.dtype
        return Rule(
            "exp", causal, self.num_features, 1.0, head_dim**-0.25, _in_two_parts(*drawn, scale)
        )

    def _placed_directions(self, query: Tensor, dtype: torch.dtype = torch.float64) -> Tensor:
        return _directions(
            query.shape[1], self.num_features, query.shape[3], self.seed, query.device, dtype
        )


class _RandomFeatures(Features):
    """The logarithms of features, w·q and w·k - |k|²/2. The term |q|²/2 is the same for all weights
    of a row, so it cancels."""

    exponential = True

    def __init__(self, for_keys: Tensor, for_queries: Tensor) -> None:
        _, head_dim, self.num_features = for_keys.shape
        self.root = head_dim**-0.25
        self.for_keys, self.for_queries = for_keys, for_queries

    def queries(self, rows: Tensor, slab: Slab, precision: Precision, scratch: Scratch) -> Tensor:
        return self._project(rows, self.for_queries, "query", slab, precision, scratch)

    def keys(self, rows: Tensor, slab: Slab, precision: Precision, scratch: Scratch) -> Tensor:
        made = self._project(rows, self.for_keys, "key", slab, precision, scratch)
        return made.sub_(self._half_square(rows).to(made.dtype)[..., None])

    def exponents(self, rows: Tensor, slab: Slab, precision: Precision, scratch: Scratch) -> Tensor:
        half_square = self._half_square(rows)
        if rows.dtype is not precision.operands:
            rows = scratch.copy("key", rows, precision.operands)
        shape = (len(rows), self.num_features, rows.shape[1])
        made = scratch("key features", shape, precision.scores)
        own = self._own(self.for_keys, slab).mT.to(precision.operands)
        product(own, rows.mT, precision, made)
        return made.sub_(half_square.to(made.dtype)[:, None])

    def query_grad(self, rows: Tensor, features: Tensor, grad: Tensor, slab: Slab) -> Tensor:
        return grad.to(self.for_queries.dtype) @ self._own(self.for_queries, slab).mT

    def key_grad(self, rows: Tensor, features: Tensor, grad: Tensor, slab: Slab) -> Tensor:
        grad = grad.to(self.for_keys.dtype)
        squares = rows.to(grad.dtype) * grad.sum(-1, keepdim=True).mul_(self.root**2)
        return grad @ self._own(self.for_keys, slab).mT - squares

    def _half_square(self, rows: Tensor) -> Tensor:
        return rows.to(self.for_keys.dtype).square().sum(-1).mul_(self.root**2 / 2)

    def _own(self, directions: Tensor, slab: Slab) -> Tensor:
        """Return the directions of the slab's heads (slab, head_dim, num_features)."""
        if slab.heads.stop <= len(directions):
            return directions[slab.heads]
        which = torch.arange(slab.heads.start, slab.heads.stop, device=directions.device)
        return directions[which % len(directions)]

    def _project(
        self,
        rows: Tensor,
        directions: Tensor,
        name: str,
        slab: Slab,
        precision: Precision,
        scratch: Scratch,
    ) -> Tensor:
        if rows.dtype is not precision.operands:
            rows = scratch.copy(name, rows, precision.operands)
        own = self._own(directions, slab).to(precision.operands)
        made = scratch(f"{name} features", (*rows.shape[:2], self.num_features), precision.scores)
        return product(rows, own, precision, made)


def finite(maximum: Tensor) -> Tensor:
    """Make a maximum finite, so that it can be subtracted. The maximum over no key is -inf; any
    finite number can replace it."""
    return maximum.clamp(min=torch.finfo(maximum.dtype).min / 4)


@cached
def _directions(
    heads: int,
    num_features: int,
    head_dim: int,
    seed: int,
    device: torch.device,
    dtype: torch.dtype,
) -> Tensor:
    """Draw random directions (heads, num_features, head_dim), cached between calls."""
    with lasting(seed) as generator:
        shape = (heads, -(-num_features // head_dim), head_dim, head_dim)
        gaussian = torch.randn(shape, generator=generator, dtype=torch.float64)
        # The signs make the orthogonal matrices uniformly distributed.
        orthogonal, triangle = torch.linalg.qr(gaussian)
        orthogonal = orthogonal * triangle.diagonal(dim1=-2, dim2=-1).sign()[..., None, :]
        lengths = torch.randn(shape, generator=generator, dtype=torch.float64).norm(dim=-1)
        rows = (orthogonal.transpose(-2, -1) * lengths[..., None]).flatten(1, 2)
        return rows[:, :num_features].to(device, dtype)


@cached
def _for_keys(
    heads: int,
    num_features: int,
    head_dim: int,
    seed: int,
    device: torch.device,
    dtype: torch.dtype,
) -> Tensor:
    """Return the matrices (heads, head_dim, num_features) by which keys are multiplied. They are
    contiguous, because the products read them row by row."""
    directions = _directions(heads, num_features, head_dim, seed, device, torch.float64)
    return directions.to(dtype).transpose(-2, -1).contiguous() * head_dim**-0.25


@cached
def _for_queries(
    heads: int,
    num_features: int,
    head_dim: int,
    seed: int,
    device: torch.device,
    dtype: torch.dtype,
    scale: float,
) -> Tensor:
    """Return the matrices for queries. The features estimate exp(q·k / sqrt(head_dim)); another
    scale multiplies these matrices."""
    keys = _for_keys(heads, num_features, head_dim, seed, device, dtype)
    return keys * (scale * math.sqrt(head_dim))


@cached
def _in_two_parts(
    heads: int,
    num_features: int,
    head_dim: int,
    seed: int,
    device: torch.device,
    dtype: torch.dtype,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return `_for_queries` and `_for_keys`, each rounded to `dtype`, and the rest in `dtype`."""
    drawn = heads, num_features, head_dim, seed, device, compute_dtype(dtype)
    wide = _for_queries(*drawn, scale), _for_keys(*drawn)
    queries, keys = (x.to(dtype) for x in wide)
    rest = [(x - high).to(dtype) for x, high in zip(wide, (queries, keys), strict=True)]
    return queries, rest[0], keys, rest[1]
