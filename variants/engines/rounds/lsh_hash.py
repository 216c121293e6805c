"""Bucket numbers of queries and keys, by random rotations."""

from __future__ import annotations

import torch
from torch import Tensor

from variants.contract.modes import no_autocast
from variants.engines.primitives import head_slabs
from variants.engines.primitives.softmax_tile import Scratch


def hashed(tensor: Tensor, rotations: tuple[Tensor, ...], num_heads: int, rounds: int) -> Tensor:
    """Bucket numbers (batch, num_heads, rounds, len) of the rows of `tensor` (batch, kv_heads, len,
    head_dim), computed in float32.

    Each of the `rotations` (heads, rounds, head_dim, width) rotates a row. Each of the `width` axes
    has two directions; the index of the direction nearest to the rotated row, one of 2·width, is
    one digit of the bucket number.
    """
    batch, _, length, _ = tensor.shape
    found = torch.zeros(batch, num_heads, rounds, length, dtype=torch.int64, device=tensor.device)
    if not rotations:
        return found
    scratch = Scratch(tensor.device)
    together = torch.cat(rotations, dim=-1).mT.flatten(1, 2)
    size = length * together.shape[1]
    with torch.no_grad(), no_autocast(tensor.device):
        room = head_slabs.budget(tensor.device, torch.float32, tensor.numel())
        for slab in head_slabs.slabs(found, tensor, room // size):
            rows = slab.working(tensor, "rows", torch.float32, scratch)
            which = torch.arange(slab.heads.start, slab.heads.stop, device=tensor.device)
            turned = scratch("turned", (len(rows), together.shape[1], length), torch.float32)
            torch.bmm(together[which % num_heads], rows.mT, out=turned)
            codes = slab.queries(found)
            for digits in turned.unflatten(1, (rounds, -1)).split(
                [rotation.shape[-1] for rotation in rotations], dim=2
            ):
                codes.mul_(2 * digits.shape[2]).add_(_nearest_axis(digits))
    return found


def _nearest_axis(turned: Tensor) -> Tensor:
    """Index of the largest of x and -x, (..., width, len) to (..., len). Maxima and comparisons are
    used, because an index search over this dimension is ten times slower."""
    width = turned.shape[-2]
    highest, lowest = turned.amax(-2, keepdim=True), turned.amin(-2, keepdim=True)
    positive = highest >= -lowest
    numbers = torch.arange(1, width + 1, dtype=turned.dtype, device=turned.device)[:, None]
    at_extreme = torch.eq(turned, torch.where(positive, highest, lowest)).to(turned.dtype)
    index = at_extreme.mul_(numbers).amax(-2) - 1
    # A row of NaN has no nearest axis, but must have a bucket.
    index.clamp_(min=0).add_((~positive[..., 0, :]).to(turned.dtype), alpha=width)
    return index.long()
