"""Keys and values of earlier tokens, kept in buffers that have room for later ones."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

ROOM = 64  # least number of tokens that there is room for beyond those a buffer is made with


class Kept(NamedTuple):
    """Consecutive tokens in buffers that several states may share: a buffer is only written to
    behind the last token that any of them has put there."""

    key: Tensor  # (batch, kv_heads, slots, head_dim)
    value: Tensor
    padding: Tensor | None  # bool (batch, slots); None while no token is padding
    start: int  # first slot in use
    stop: int
    written: list[int]  # slots that are written: one number for all who share the buffers

    @classmethod
    def of(
        cls,
        key: Tensor,
        value: Tensor,
        padding: Tensor | None,
        *,
        more: int = 0,
        most: int | None = None,
    ) -> Kept:
        """Copies of tokens, in buffers with room for `more` tokens and some, or for `most`."""
        count = key.shape[2]
        slots = count + more + max(ROOM, count // 8)
        if most is not None:
            slots = max(count + more, min(slots, most))
        with torch.inference_mode(False):  # or they could only be written to in that mode
            buffers = [x.new_empty(*x.shape[:2], slots, x.shape[3]) for x in (key, value)]
            hidden = None if padding is None else padding.new_zeros(len(padding), slots)
        for buffer, tensor in zip(buffers, (key, value), strict=True):
            buffer[:, :, :count] = tensor
        if padding is not None and hidden is not None:
            hidden[:, :count] = padding
        return cls(buffers[0], buffers[1], hidden, 0, count, [count])

    @property
    def tokens(self) -> int:
        return self.stop - self.start

    @property
    def keys(self) -> Tensor:
        return self.key[:, :, self.start : self.stop]

    @property
    def values(self) -> Tensor:
        return self.value[:, :, self.start : self.stop]

    @property
    def hidden(self) -> Tensor | None:
        return None if self.padding is None else self.padding[:, self.start : self.stop]

    def last(self, most: int) -> Kept:
        """Without all but the last `most` tokens."""
        return self._replace(start=max(self.start, self.stop - most))

    def and_then(self, key: Tensor, value: Tensor, padding: Tensor | None) -> Kept:
        """With further tokens behind."""
        count, kept = key.shape[2], self
        if self.written[0] != self.stop or self.stop + count > self.key.shape[2]:
            # Another state has gone on in these buffers, or they are full.
            kept = Kept.of(self.keys, self.values, self.hidden, more=count)
        new = slice(kept.stop, kept.stop + count)
        kept.key[:, :, new] = key
        kept.value[:, :, new] = value
        hidden = kept.padding
        if padding is not None and hidden is None:
            with torch.inference_mode(False):
                hidden = padding.new_zeros(len(padding), kept.key.shape[2])
        if hidden is not None:
            hidden[:, new] = False if padding is None else padding
        kept.written[0] = new.stop
        return kept._replace(padding=hidden, stop=new.stop)


class Ends(NamedTuple):
    """The first tokens of a sequence and its last ones."""

    first: Kept
    last: Kept
    leading: int  # most tokens of the first
    window: int  # most tokens of the last, once nobody asks for earlier ones

    @classmethod
    def of(
        cls, key: Tensor, value: Tensor, padding: Tensor | None, leading: int, window: int
    ) -> Ends:
        count = key.shape[2]
        split = min(leading, count)
        last = slice(max(split, count - window), count)
        return cls(
            Kept.of(*_some(slice(0, split), key, value, padding), most=leading),
            Kept.of(*_some(last, key, value, padding)),
            leading,
            window,
        )

    def and_then(self, key: Tensor, value: Tensor, padding: Tensor | None) -> Ends:
        """With further tokens behind, and none left out yet."""
        split = min(max(0, self.leading - self.first.tokens), key.shape[2])
        first, last = self.first, self.last
        if split > 0:
            first = first.and_then(*_some(slice(0, split), key, value, padding))
        if split < key.shape[2]:
            last = last.and_then(*_some(slice(split, key.shape[2]), key, value, padding))
        return self._replace(first=first, last=last)

    def trimmed(self) -> Ends:
        """Without what only tokens before the last could see."""
        return self._replace(last=self.last.last(self.window))

    def parts(self) -> list[tuple[Tensor, Tensor]]:
        """Keys and values of both ends, or of the one that has any."""
        return [(kept.keys, kept.values) for kept in (self.first, self.last) if kept.tokens]

    def positions(self, total: int) -> Tensor:
        """Where these keys stand, in a sequence of so many tokens."""
        device = self.first.key.device
        first = torch.arange(self.first.tokens, device=device)
        return torch.cat([first, torch.arange(total - self.last.tokens, total, device=device)])

    def hidden(self) -> Tensor | None:
        """Bool (batch, 1, 1, keys): which of them are padding; None if none is."""
        ends = (self.first, self.last)
        if all(kept.padding is None for kept in ends):
            return None
        masks = [
            kept.key.new_zeros(len(kept.key), kept.tokens, dtype=torch.bool)
            if kept.hidden is None
            else kept.hidden
            for kept in ends
        ]
        return torch.cat(masks, dim=1)[:, None, None]


def _some(
    part: slice, key: Tensor, value: Tensor, padding: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    return key[:, :, part], value[:, :, part], None if padding is None else padding[:, part]
