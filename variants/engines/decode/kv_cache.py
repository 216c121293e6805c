"""Keys and values of earlier tokens, in buffers with free slots for later tokens."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

ROOM = 64  # least number of free slots in a new buffer


class Kept(NamedTuple):
    """Consecutive tokens in buffers that several states may share. A buffer is only written to
    after the last slot that any of these states has written."""

    key: Tensor  # (batch, kv_heads, slots, head_dim)
    value: Tensor
    padding: Tensor | None  # bool (batch, slots); None while no token is padding
    start: int  # first slot in use
    stop: int
    written: list[int]  # number of written slots, a list that all states with these buffers share

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
        """Copies of tokens, in buffers with free slots for at least `more` tokens. `most` limits
        the slots of a buffer, unless `more` tokens need more slots."""
        count = key.shape[2]
        slots = count + more + max(ROOM, count // 8)
        if most is not None:
            slots = max(count + more, min(slots, most))
        with torch.inference_mode(False):  # so that other modes can write too
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
    def filled_bytes(self) -> int:
        """Bytes of the tokens, without free slots."""
        parts = (self.keys, self.values, self.hidden)
        return sum(part.nbytes for part in parts if part is not None)

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
        """The last `most` tokens."""
        return self._replace(start=max(self.start, self.stop - most))

    def and_then(self, key: Tensor, value: Tensor, padding: Tensor | None) -> Kept:
        """These tokens, followed by new tokens."""
        count, kept = key.shape[2], self
        if self.written[0] != self.stop or self.stop + count > self.key.shape[2]:
            # Another state has written to these buffers, or they are full.
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
    """The first and the last tokens of a sequence."""

    first: Kept
    last: Kept
    leading: int  # most tokens of `first`
    window: int  # most tokens of `last` after `trimmed`

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
        """These tokens, followed by new tokens. No token is dropped."""
        split = min(max(0, self.leading - self.first.tokens), key.shape[2])
        first, last = self.first, self.last
        if split > 0:
            first = first.and_then(*_some(slice(0, split), key, value, padding))
        if split < key.shape[2]:
            last = last.and_then(*_some(slice(split, key.shape[2]), key, value, padding))
        return self._replace(first=first, last=last)

    def trimmed(self) -> Ends:
        """Drop the tokens that no later token can see."""
        return self._replace(last=self.last.last(self.window))

    def parts(self) -> list[tuple[Tensor, Tensor]]:
        """Keys and values of each end that has tokens."""
        return [(kept.keys, kept.values) for kept in (self.first, self.last) if kept.tokens]

    def positions(self, total: int) -> Tensor:
        """Positions of these keys in a sequence of `total` tokens."""
        device = self.first.key.device
        first = torch.arange(self.first.tokens, device=device)
        return torch.cat([first, torch.arange(total - self.last.tokens, total, device=device)])

    def hidden(self) -> Tensor | None:
        """Bool (batch, 1, 1, keys), True = padding; None if no key is padding."""
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
