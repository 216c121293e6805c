"""Runs attention in rounds, and merges the rounds by their log-sum-exp.

In each round, queries that see the same keys share tiles, and a query is in at most one tile.
`RoundTiles` lists the rows of each tile.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from variants.contract.definitions import compute_dtype
from variants.contract.device import on_gpu
from variants.contract.modes import no_autocast
from variants.engines.primitives import head_slabs, softmax_tile
from variants.engines.primitives.precision import Precision
from variants.engines.primitives.softmax_tile import HIDDEN, Scratch
from variants.engines.rounds.round_tiles import RoundTiles

MERGED = 1 << 13  # rows that are merged at a time on a CPU, so that they stay in the cache
# With fewer multiplications or fewer matrices in a batched product, a CPU may use code that rounds
# differently. The number of tiles depends on later tokens, but earlier rows must not depend on it.
LEAST_PRODUCT, LEAST_TILES = 1 << 13, 2


class Round(NamedTuple):
    """One round of all heads: tiles, and the rules that hide keys of a tile from a query."""

    tiles: RoundTiles
    hides_later: bool = False
    hides_own: bool = False  # the key at the query's own position
    may_be_empty: bool = True  # a row may see none of the keys of its tile
    missing: Tensor | None = None  # the rows that are in no tile, if any


@dataclass(frozen=True, eq=False)
class Rounds(ABC):
    """Makes each round when it is needed, so that only one round is kept at a time."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __getitem__(self, turn: int) -> Round: ...

    def tensors(self) -> dict[str, Tensor]:
        """The fields that are tensors."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {name: field for name, field in fields.items() if isinstance(field, Tensor)}


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    rounds: Rounds,
    *,
    scale: float,
    coarse: bool = False,
) -> tuple[Tensor, Tensor]:
    """Softmax over all (round, key) pairs that a query sees. A key in two rounds counts twice.

    Args:
        query, key, value: as in `Attention.__call__`.
        rounds: tiles. Their rows are indices into (batch, heads, query_len), and their slots are
            indices into (batch, heads, key_len), with the query heads that read the keys.

    Returns:
        out (batch, heads, query_len, head_dim), and bool (batch, heads, query_len), True for rows
        that see no key; these rows are 0.
    """
    trains = torch.is_grad_enabled() and any(x.requires_grad for x in (query, key, value))
    settings = _Settings(scale, trains, Precision.of(query, coarse=coarse))
    out, lse = _Rounds.apply(query, key, value, rounds, settings)
    return out, lse == -torch.inf


class _Settings(NamedTuple):
    scale: float
    trains: bool  # whether a backward pass may follow
    precision: Precision

    @property
    def scales(self) -> tuple[float, float]:
        """The factors on the query and on the scores."""
        return self.precision.scales(self.scale)


class _Work(NamedTuple):
    """A round with the tensors that it reads."""

    query: Tensor  # (batch·heads·query_len, head_dim)
    key: Tensor  # (batch·kv_heads·key_len, head_dim)
    value: Tensor
    query_len: int
    key_len: int
    group: int  # query heads that read one key head
    settings: _Settings
    scratch: Scratch
    round: Round

    @property
    def tiles(self) -> RoundTiles:
        return self.round.tiles

    def portions(self) -> Iterator[slice]:
        """Parts of about the same number of tiles, with scores that fit the budget."""
        count = len(self.tiles.rows)
        dtype = self.settings.precision.scores
        room = head_slabs.budget(self.query.device, dtype, self.query.numel())
        parts = -(-count // max(1, room // self.tiles.scores))
        for part in range(parts):
            yield slice(part * count // parts, (part + 1) * count // parts)

    def slots(self, part: slice) -> Tensor:
        """Indices of key rows (tiles, keys), counted over query heads; -1 in an empty slot."""
        return self.tiles.slots[self.tiles.chunks[part]].flatten(1)

    def tensors(self, part: slice) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of some tiles, (tiles, rows or keys, head_dim)."""
        slots = self.slots(part)
        if self.group > 1:
            head = slots.div(self.key_len, rounding_mode="floor")
            slots = slots + (head.div(self.group, rounding_mode="floor") - head) * self.key_len
        query = self.take("query", self.query, self.tiles.rows[part])
        key, value = self.take("key", self.key, slots), self.take("value", self.value, slots)
        of_query, _ = self.settings.scales
        return query if of_query == 1 else query.mul_(of_query), key, value

    def take(self, name: str, tensor: Tensor, index: Tensor) -> Tensor:
        """Rows (..., head_dim) of a matrix in the dtype of the operands, in a buffer; an arbitrary
        row for -1."""
        shape = (*index.shape, tensor.shape[1])
        index = index.flatten().clamp(min=0)
        operands = self.settings.precision.operands
        buffer = self.scratch(f"{name} {tensor.dtype}", shape, tensor.dtype)
        torch.index_select(tensor, 0, index, out=buffer.view(-1, tensor.shape[1]))
        return buffer if tensor.dtype is operands else self.scratch.copy(name, buffer, operands)

    def hide(self, part: slice, scores: Tensor) -> bool:
        """Hide scores as `softmax_tile.Hide` requires."""
        tiles = self.tiles
        comparisons = (torch.gt, self.round.hides_later), (torch.eq, self.round.hides_own)
        compares = self.round.hides_later or self.round.hides_own
        ragged = tiles.partial is None or any(tiles.partial[part])
        if not (compares or ragged):
            return self.round.may_be_empty
        slots = self.slots(part)
        if compares:
            # Comparisons of floats are several times faster; float32 is exact up to 2^24.
            exact = torch.float32 if self.key_len < 1 << 24 else torch.float64
            offset = self.key_len - self.query_len
            own = (tiles.rows[part] % self.query_len + offset).to(exact)[..., None]
            keys = (slots % self.key_len).to(exact)[:, None]
            for compare, wanted in comparisons:
                if wanted:
                    found = self.scratch("found", scores.shape, scores.dtype)
                    scores.add_(compare(keys, own, out=found), alpha=HIDDEN)
        if ragged:
            hidden = slots < 0
            empty = torch.zeros(hidden.shape, dtype=scores.dtype, device=scores.device)
            scores.add_(empty.masked_fill_(hidden, HIDDEN)[:, None])
        return self.round.may_be_empty


def _works(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    rounds: Rounds,
    settings: _Settings,
    scratch: Scratch,
) -> Iterator[_Work]:
    """One `_Work` for each round."""
    head_dim = query.shape[3]
    # For transposed inputs these are copies.
    queries, keys, values = (x.flatten(0, 2) for x in (query, key, value))
    for turn in range(len(rounds)):
        now = rounds[turn]
        least = max(LEAST_TILES, -(-LEAST_PRODUCT // (now.tiles.scores * head_dim)))
        yield _Work(
            query=queries,
            key=keys,
            value=values,
            query_len=query.shape[2],
            key_len=key.shape[2],
            group=query.shape[1] // key.shape[1],
            settings=settings,
            scratch=scratch,
            round=now._replace(tiles=now.tiles.filled(least)),
        )


class _Rounds(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, rounds: Rounds, settings: _Settings
    ) -> tuple[Tensor, Tensor]:
        wide = compute_dtype(query.dtype)
        count, head_dim = query.shape[:3].numel(), query.shape[-1]
        scratch = Scratch(query.device)
        # One additional row, to which the rows of padding are written.
        shape = (count + 1, head_dim)
        total = query.new_empty(shape, dtype=query.dtype if len(rounds) == 1 else wide)
        total_lse = query.new_zeros(shape[:1], dtype=wide)
        with no_autocast(query.device):
            for turn, now in enumerate(_works(query, key, value, rounds, settings, scratch)):
                # If there is one round in which every row sees a key, only the backward pass needs
                # the log-sum-exp.
                missing = now.round.missing
                partly = now.round.may_be_empty or missing is not None
                merges = len(rounds) > 1 or partly or settings.trains
                found, found_lse = total, total_lse
                if turn > 0:
                    found = scratch("found rows", shape, wide)
                    found_lse = scratch("found lse", shape[:1], wide)
                if missing is not None:
                    found.index_fill_(0, missing, 0)
                    found_lse.index_fill_(0, missing, -torch.inf)
                for part in now.portions():
                    rows = now.tiles.rows[part]
                    lse = scratch("lse", rows.shape, wide) if merges else None
                    hide = partial(now.hide, part)
                    tensors = now.tensors(part)
                    result = softmax_tile.forward(
                        *tensors, hide, settings.precision, scratch, lse, scale=settings.scales[1]
                    )
                    place = torch.where(rows < 0, count, rows).flatten()
                    found.index_copy_(0, place, result.flatten(0, 1).to(found.dtype))
                    if lse is not None:
                        found_lse.index_copy_(0, place, lse.flatten())
                if turn > 0:
                    merged = count if on_gpu(query.device) else MERGED
                    for piece in range(0, count, merged):
                        part = slice(piece, min(piece + merged, count))
                        _merge(total[part], total_lse[part], found[part], found_lse[part])
        out = total[:count].view(query.shape).to(query.dtype)
        lse = total_lse[:count].view(query.shape[:3])
        held = rounds.tensors()
        ctx.save_for_backward(query, key, value, out, lse, *held.values())
        # torch keeps the tensors, and frees them after a backward pass.
        ctx.settings = dataclasses.replace(rounds, **dict.fromkeys(held)), tuple(held), settings
        ctx.mark_non_differentiable(lse)
        return out, lse

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Any:
        grad_out, _ = grads
        query, key, value, out, lse, *held = ctx.saved_tensors
        rounds, names, settings = ctx.settings
        rounds = dataclasses.replace(rounds, **dict(zip(names, held, strict=True)))
        precision = settings.precision
        wide = compute_dtype(query.dtype)
        batch, kv_heads, key_len, head_dim = key.shape
        count = query.shape[:3].numel()
        scratch = Scratch(query.device)
        grad_out = grad_out.flatten(0, 2)
        delta = (grad_out.to(wide) * out.flatten(0, 2)).sum(-1)
        lse = lse.flatten()
        lse = lse.masked_fill(lse == -torch.inf, torch.inf)
        grad_query = query.new_zeros(count + 1, head_dim, dtype=wide)
        grad_key, grad_value = (x.new_zeros(x.shape, dtype=wide) for x in (key, value))
        with no_autocast(query.device):
            for now in _works(query, key, value, rounds, settings, scratch):
                tiles = now.tiles
                shape = (len(tiles.slots), tiles.slots.shape[1] * head_dim)
                shares = [
                    scratch(f"{name} shares", shape, wide).zero_() for name in ("key", "value")
                ]
                for part in now.portions():
                    rows = tiles.rows[part]
                    some = rows.clamp(min=0)
                    # Rows of padding get no gradient: with this log-sum-exp their weights are 0.
                    row_lse = lse[some].masked_fill_(rows < 0, torch.inf)
                    row_grad, *pair_grads, _ = softmax_tile.backward(
                        *now.tensors(part),
                        partial(now.hide, part),
                        precision,
                        scratch,
                        now.take("grad out", grad_out, rows),
                        delta[some].to(precision.scores),
                        row_lse,
                        scale=settings.scales[1],
                    )
                    place = torch.where(rows < 0, count, rows).flatten()
                    taken = row_grad.mul_(settings.scales[0]).flatten(0, 1).to(wide)
                    grad_query.index_add_(0, place, taken)
                    chunks = tiles.chunks[part].flatten()
                    for total, share in zip(shares, pair_grads, strict=True):
                        total.index_add_(0, chunks, share.view(len(chunks), -1).to(wide))
                for grad, total in zip((grad_key, grad_value), shares, strict=True):
                    for head in range(batch * kv_heads):
                        # The gradients from all query heads that read this key head.
                        places = tiles.key_place.view(batch * kv_heads, now.group, key_len)[head]
                        for one in places:
                            grad.flatten(0, 1)[head] += total.view(-1, head_dim)[one]
        return (
            grad_query[:count].view(query.shape).to(query.dtype),
            grad_key.to(key.dtype),
            grad_value.to(value.dtype),
            None,
            None,
        )


def _merge(out: Tensor, lse: Tensor, new_out: Tensor, new_lse: Tensor) -> None:
    """Merge a second result for the same rows into the first, as one softmax over the keys of
    both."""
    both = torch.logaddexp(lse, new_lse)
    base = both.masked_fill(both == -torch.inf, 0)
    out.mul_((lse - base).exp_()[:, None])
    out.add_(new_out.mul_((new_lse - base).exp_()[:, None].to(new_out.dtype)))
    lse.copy_(both)
