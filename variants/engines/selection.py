"""Finds the keys that a query scores highest, exactly, among all of them.

Scores are dot products of values cast to float32, summed in float64 and rounded to float32, so that
a choice is the same whatever the dtype and however the work is cut. A CPU takes sums in float32
where these cannot change a choice, which is in all rows but a few.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from variants.contract.modes import no_autocast
from variants.engines.primitives import head_slabs
from variants.engines.primitives.softmax_tile import HIDDEN, Scratch

CAUSAL_ROWS = 256  # most rows of a tile, so that later keys can be left out


def scores(query: Tensor, key: Tensor, scale: float) -> Tensor:
    """What keys are chosen by: (..., rows, head_dim) and (..., keys, head_dim) to float32
    (..., rows, keys). Of the scale only the sign matters to the order."""
    sign = (scale > 0) - (scale < 0)
    return ((query.float().double() * sign) @ key.float().double().mT).float()


class Selection(NamedTuple):
    """Keys of each query row of (batch, heads, query_len)."""

    keys: Tensor  # int32 (batch, heads, query_len, count) in order, then -1 if there are fewer
    tied: Tensor  # bool: other keys score the same as the lowest of these


@dataclass(frozen=True)
class Search:
    """What is asked of every row."""

    count: int
    causal: bool
    padding: Tensor | None  # bool (batch, key_len)
    scale: float
    query_len: int
    key_len: int

    @property
    def offset(self) -> int:
        """Position of the first query."""
        return self.key_len - self.query_len

    @property
    def may_be_empty(self) -> bool:
        """Whether there may be rows that see nothing."""
        return self.padding is not None or (self.causal and self.offset < 0)

    def stop(self, rows: slice) -> int:
        """Keys that the last of some rows may see, at least one."""
        last = rows.stop + self.offset
        return max(1, min(self.key_len, last)) if self.causal else self.key_len

    def tiles(self, room: int) -> Iterator[slice]:
        """All rows, as many at a time as `room` lets be set against all keys."""
        rows = room // self.key_len
        return self.pieces(min(rows, CAUSAL_ROWS) if self.causal else rows)

    def pieces(self, size: int) -> Iterator[slice]:
        """All rows, at most `size` at a time, but one."""
        size = max(1, size)
        for start in range(0, self.query_len, size):
            yield slice(start, min(start + size, self.query_len))


class Head(NamedTuple):
    """One head, in the dtype it came in."""

    query: Tensor  # (query_len, head_dim)
    key: Tensor  # (key_len, head_dim)
    sequence: int  # of the batch
    search: Search

    def scores(self, rows: Tensor, stop: int) -> Tensor:
        """As `scores`, (len(rows), stop) of some rows, -inf where nothing may be seen."""
        search = self.search
        found = scores(self.query[rows], self.key[:stop], search.scale)
        if search.padding is not None:
            found.masked_fill_(search.padding[self.sequence, :stop], -torch.inf)
        if search.causal:
            positions = torch.arange(stop, device=rows.device)
            found.masked_fill_(positions > (rows + search.offset)[:, None], -torch.inf)
        return found


def select(query: Tensor, key: Tensor, search: Search) -> Selection:
    """The keys of the highest scores, of (batch, heads, query_len, head_dim) and (batch, kv_heads,
    key_len, head_dim); fewer than there are keys."""
    device = query.device
    keys = torch.empty((*query.shape[:3], search.count), dtype=torch.int32, device=device)
    tied = torch.zeros(query.shape[:3], dtype=torch.bool, device=device)
    scratch = Scratch(device)
    # On a CPU each time casts all keys.
    at_once = max(256, head_slabs.budget(device, torch.float64) // search.key_len)
    with torch.no_grad():
        for slab in head_slabs.slabs(query, key, 1):
            sequence = slab.heads.start // query.shape[1]
            head = Head(slab.queries(query)[0], slab.keys(key)[0], sequence, search)
            own_keys, own_tied = slab.queries(keys)[0], slab.queries(tied)[0]
            if device.type == "cpu":
                doubtful = _find_fast(head, own_keys, scratch)
            else:
                doubtful = torch.arange(search.query_len, device=device)
            for rows in doubtful.split(at_once):
                own_keys[rows], own_tied[rows] = _find(head, rows)
    return Selection(keys, tied)


def _find(head: Head, rows: Tensor) -> tuple[Tensor, Tensor]:
    """As `Selection`, of some rows, by the definition."""
    count, key_len = head.search.count, head.search.key_len
    values, indices = head.scores(rows, key_len).topk(count + 1)
    hidden = values == -torch.inf
    tied = (values[:, -2] == values[:, -1]) & ~hidden[:, -1]
    # In order, so that sums do not depend on how they were found.
    indices = indices.masked_fill_(hidden, key_len)[:, :count].sort(dim=-1).values
    return indices.masked_fill_(indices == key_len, -1).int(), tied


def _find_fast(head: Head, keys: Tensor, scratch: Scratch) -> Tensor:
    """Fill in the keys of all rows, by products in float32; returns the rows in which rounding may
    have changed the choice."""
    search = head.search
    sign = (search.scale > 0) - (search.scale < 0)
    query = scratch.copy("query", head.query, torch.float32, sign)
    key = scratch.copy("key", head.key, torch.float32)
    error = errors(query, key)
    doubtful = torch.empty(search.query_len, dtype=torch.bool, device=query.device)
    room = head_slabs.budget(query.device, torch.float32)
    with no_autocast(query.device):
        for rows in search.tiles(room):
            stop = search.stop(rows)
            found = scratch("scores", (rows.stop - rows.start, stop), torch.float32)
            torch.mm(query[rows], key[:stop].T, out=found)
            hide(found, head, rows, -torch.inf)
            keys[rows], gap = highest(found, search.count)
            doubtful[rows] = gap <= error[rows]
    return doubtful.nonzero()[:, 0]


def errors(query: Tensor, key: Tensor) -> Tensor:
    """How far apart two scores of each row of (rows, head_dim) must be for sums in float32, in any
    order, to tell which is higher, and for the exact ones to differ after they are rounded."""
    unit = (query.shape[1] + 3) * torch.finfo(torch.float32).eps
    return unit * query.norm(dim=-1) * key.norm(dim=-1).amax()


def hide(found: Tensor, head: Head, rows: slice, bias: float) -> None:
    """Add `bias` where `rows` see nothing."""
    search = head.search
    if search.padding is not None:
        padded = search.padding[head.sequence, : found.shape[1]]
        found.add_(torch.zeros_like(found[0]).masked_fill_(padded, bias))
    if search.causal:
        own = rows.start + search.offset
        behind = found[:, max(0, own) :]
        behind.add_(torch.full_like(behind, bias).triu_(1 + min(0, own)))


def lowest_kept(found: Tensor, head: Head, rows: slice) -> tuple[Tensor, Tensor]:
    """The lowest score that each of `rows` keeps, (rows, 1), of float32 scores times the scale on a
    CPU; and a bool (rows,): where rounding may have changed the choice, and all are kept."""
    search = head.search
    lowest = found.new_full((len(found), 1), HIDDEN / 2)
    first = found.shape[1] - search.count - 1
    if first < 0:
        return lowest, torch.zeros_like(lowest[:, 0], dtype=torch.bool)
    values = torch.from_numpy(np.partition(found.numpy(), first)[:, first:])
    last, following = values[:, 1:].amin(1), values[:, 0]
    error = abs(search.scale) * errors(head.query[rows].float(), head.key.float())
    doubtful = (last - following <= error) & (following > HIDDEN / 2)
    return torch.where(doubtful[:, None], lowest, torch.maximum(last[:, None], lowest)), doubtful


def highest(found: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Where the `count` highest scores of each row stand, int32 (rows, count), in order, then -1 if
    fewer are above -inf; and how far the lowest of them is above the next one, NaN if both are
    -inf. float32, on a CPU.

    The highest scores are in the groups of the highest maxima: these are parted from the others
    first, by NumPy, which does so with vector instructions.
    """
    width = found.shape[1]
    more = count + 1
    if width < more:
        found = pad(found, (0, more - width), value=-torch.inf)
    size = math.isqrt(found.shape[1] // more)
    groups = found.shape[1] // size
    grouped = found[:, : size * groups].unflatten(1, (size, groups))
    best = _last(grouped.amax(1), more)
    candidates = grouped.gather(2, best[:, None].expand(-1, size, -1)).flatten(1)
    candidates = torch.cat([candidates, found[:, size * groups :]], dim=1)
    place = _last(candidates, more)
    values = candidates.gather(1, place)
    gap = values[:, 1:].amin(1) - values[:, 0]
    # From the place among the candidates to that in the row.
    line, group = place.div(more, rounding_mode="floor"), place % more
    inside = line * groups + best.gather(1, group)
    place = torch.where(line < size, inside, place + size * (groups - more))[:, 1:]
    place = place.masked_fill_(values[:, 1:] == -torch.inf, width).int()
    place = torch.from_numpy(np.sort(place.numpy()))
    return place.masked_fill_(place == width, -1), gap


def _last(values: Tensor, count: int) -> Tensor:
    """Indices of the `count` highest values of each row, the lowest of them first."""
    first = values.shape[1] - count
    return torch.from_numpy(np.argpartition(values.numpy(), first)[:, first:])
