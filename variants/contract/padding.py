"""Computes padded sequences one by one, without the padding before and after each sequence.

Some methods count positions from the first token (blocks, segments, sinks) or depend on the length
of the sequence (landmarks, numbers of buckets). In one call, they would count padding. Padding
between two tokens of a sequence keeps its position and stays hidden.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import groupby
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from variants.contract.call import Call
from variants.contract.definitions import compute_dtype

Attend = Callable[[Tensor, Tensor, Tensor, Call], Tensor]
"""Computes output from query, key, value and call, or weights from query, key, rows and call."""


class Span(NamedTuple):
    """The keys of a sequence from its first token to its last token: slice(first, last)."""

    first: int
    last: int
    holes: bool  # whether some of these keys are padding


class Part(NamedTuple):
    """Consecutive sequences with the same padding, and some of their queries and keys."""

    sequences: slice
    rows: slice  # of the queries
    keys: slice
    holes: bool  # whether some of these keys are padding

    def bias(self, distance_bias: Tensor | None, query_len: int) -> Tensor | None:
        """The entries of `distance_bias` for these queries and keys."""
        if distance_bias is None:
            return None
        # Entry j - i + query_len - 1 is for row i and key j: the first entry is for the last row.
        begin = self.keys.start - self.rows.stop + query_len
        length = self.rows.stop - self.rows.start + self.keys.stop - self.keys.start - 1
        return distance_bias[:, begin : begin + length]


def spans(key_padding_mask: Tensor) -> list[Span]:
    """The span of each sequence of a mask (batch, key_len), True = padding; an empty span if the
    sequence is only padding. The function waits for a GPU."""
    real = (~key_padding_mask).int()
    key_len = real.shape[1]
    first, last = real.argmax(1), key_len - real.flip(1).argmax(1)
    found = torch.stack([first, last, real.sum(1)], dim=1).tolist()
    return [
        Span(start, stop, stop - start > count) if count else Span(0, 0, False)
        for start, stop, count in found
    ]


def parts(
    key_padding_mask: Tensor, query_len: int, *, causal: bool, crosses: bool
) -> Iterator[list[Part]]:
    """The calls that each group of consecutive sequences with the same padding needs.

    If the call is causal, or has as many queries as keys, query i and key i + key_len - query_len
    belong to the same token. The queries of tokens are then computed with the keys of tokens only.
    Queries at padding see no key if the call is causal. Otherwise these queries may belong to
    another sequence: if the method supports cross-attention (`crosses`), they are computed with the
    same keys in separate calls. If the call is not causal and the numbers of queries and keys
    differ, all queries belong to another sequence.
    """
    offset = key_padding_mask.shape[1] - query_len
    begin = 0
    for span, group in groupby(spans(key_padding_mask)):
        sequences = slice(begin, begin + len(list(group)))
        begin = sequences.stop
        rows = [slice(0, query_len)]
        if causal or offset == 0:
            # If there are more queries than keys, the part keeps the queries before the first key.
            first, last = max(0, span.first - max(0, offset)), max(0, span.last - offset)
            rows = [slice(first, last)]
            if crosses and not causal:
                rows = [slice(0, first), *rows, slice(last, query_len)]
        if span.first == span.last:
            rows = []
        yield [
            Part(sequences, some, slice(span.first, span.last), span.holes)
            for some in rows
            if some.start < some.stop
        ] or [Part(sequences, slice(0, 0), slice(0, 0), False)]


def attend(
    kernel: Attend, query: Tensor, key: Tensor, value: Tensor, call: Call, *, crosses: bool
) -> Tensor:
    """The output of all sequences; rows that belong to no part are 0."""
    query_len, padding = query.shape[2], call.key_padding_mask
    assert padding is not None
    found = list(parts(padding, query_len, causal=call.causal, crosses=crosses))
    # Split once: the gradient of each slice would be as large as the whole batch.
    sizes = [own[0].sequences.stop - own[0].sequences.start for own in found]
    batches = zip(*(x.split(sizes) for x in (query, key, value, padding)), strict=True)
    outs = []
    for own, (queries, keys, values, mask) in zip(found, batches, strict=True):
        pieces, done = [], 0
        for part in own:
            if part.rows.start == part.rows.stop:
                continue
            pieces.append(_nothing(queries[:, :, done : part.rows.start]))
            done = part.rows.stop
            pieces.append(
                kernel(
                    queries[:, :, part.rows],
                    keys[:, :, part.keys],
                    values[:, :, part.keys],
                    call.masked(
                        mask[:, part.keys] if part.holes else None,
                        part.bias(call.distance_bias, query_len),
                    ),
                )
            )
        pieces.append(_nothing(queries[:, :, done:]))
        pieces = [piece for piece in pieces if piece.shape[2]]
        outs.append(pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim=2))
    return outs[0] if len(outs) == 1 else torch.cat(outs)


def _nothing(queries: Tensor) -> Tensor:
    """Rows of 0, with a gradient of 0."""
    return queries.masked_fill(torch.ones((), dtype=torch.bool, device=queries.device), 0)


def weights(
    define: Attend, query: Tensor, key: Tensor, rows: Tensor, call: Call, *, crosses: bool
) -> Tensor:
    """The weights of the query rows `rows`. `define` computes the weights of one part from query,
    key, rows and call; rows that belong to no part are 0."""
    padding = call.key_padding_mask
    assert padding is not None
    _, heads, query_len, _ = query.shape
    key_len = key.shape[2]
    outs = []
    for own in parts(padding, query_len, causal=call.causal, crosses=crosses):
        sequences = own[0].sequences
        shape = (sequences.stop - sequences.start, heads, len(rows), key_len)
        out = query.new_zeros(shape, dtype=compute_dtype(query.dtype))
        for part in own:
            inside = ((rows >= part.rows.start) & (rows < part.rows.stop)).nonzero()[:, 0]
            if len(inside):
                made = define(
                    query[sequences, :, part.rows],
                    key[sequences, :, part.keys],
                    rows[inside] - part.rows.start,
                    call.masked(
                        padding[sequences, part.keys] if part.holes else None,
                        part.bias(call.distance_bias, query_len),
                    ),
                )
                made = pad(made, (part.keys.start, key_len - part.keys.stop))
                out = out.to(made.dtype).index_copy(2, inside, made)
        outs.append(out)
    return torch.cat(outs)
