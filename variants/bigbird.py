"""BigBird attention: blocks of queries see neighbouring, global and randomly drawn key blocks.

Differs from public code: at some lengths, the authors' code draws random blocks only from the first
1024 tokens. It has no causal form. transformers (5.23) uses full attention for short sequences; in
evaluation, all its random blocks are block 0, which then counts several times. Here draws are
uniform over all blocks, and each key counts once.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from variants.contract.draws import lasting
from variants.contract.hyperparameter import TimesLength, hyperparameter
from variants.contract.pattern import Pattern
from variants.contract.registry import register
from variants.masked.masked_attention import MaskedAttention


@register(
    title="Big Bird: Transformers for Longer Sequences",
    year=2020,
    url="https://arxiv.org/abs/2007.14062",
    time="n·b·(g + r + 3)·d",
    memory="n·d",
    target="masked_softmax",
    supports={"causal", "key_padding_mask", "cross_attention", "backward", "distance_bias"},
    implementations=("blocks", "coarse", "triton", "flex"),
    reduced_precision={"coarse"},
    libraries={"flex"},
    exact_when={"block_size": 1 << 40},
    grid={"block_size": (32, 64, 128, 256), "num_random_blocks": (3,)},
)
@dataclass(frozen=True)
class BigBirdAttention(MaskedAttention):
    """Softmax attention over whole blocks of `block_size` keys.

        weights[i] = softmax over j of scale · query[i] · key[j],  where a = i // block_size and
                     b = j // block_size satisfy |a - b| <= 1, or a or b is a global block,
                     or b is one of the random blocks of (head, a)

    i is the position of the query, j the position of the key. A causal call also needs j <= i, so
    early queries see fewer random blocks. Half of the global blocks, rounded up, are at the start
    and the others are at the end: two global blocks are the first and the last block, as in the
    authors' code.

    The random blocks of each head and block of queries are drawn without replacement, uniformly
    from the blocks that are neither neighbours nor global.

    Costs: n tokens, d = head_dim, b = block_size, g = num_global_blocks, r = num_random_blocks.
    """

    block_size: int = hyperparameter(
        64, minimum=1, doc="number of tokens in a block", small=8, train=TimesLength(1 / 16)
    )
    num_random_blocks: int = hyperparameter(
        3,
        minimum=0,
        doc="number of random blocks of keys that each block of queries sees",
        small=2,
        train=4,
    )
    num_global_blocks: int = hyperparameter(
        2,
        minimum=0,
        doc="number of blocks at the ends; they see every token, and every token sees them",
        train=1,
    )
    seed: int = hyperparameter(0, doc="seed of the choice of random blocks")

    @property
    def prefix_stable(self) -> bool:
        return self.num_random_blocks == 0  # random blocks depend on the number of blocks

    def pattern(self, heads: int, query_len: int, key_len: int, causal: bool) -> Pattern:
        blocks = -(-key_len // self.block_size)
        front = min(-(-self.num_global_blocks // 2), blocks)
        back = min(self.num_global_blocks // 2, blocks - front)
        return Pattern(
            query_len,
            key_len,
            causal,
            window=1,
            block_size=self.block_size,
            leading=min(front * self.block_size, key_len),
            trailing=max(0, key_len - (blocks - back) * self.block_size) if back else 0,
            random_blocks=draw_blocks(
                heads, blocks, front, back, self.num_random_blocks, self.seed
            ),
        )


def draw_blocks(
    heads: int, blocks: int, front: int, back: int, draws: int, seed: int
) -> Tensor | None:
    """Draw random key blocks for each block of queries, (heads, blocks, draws); -1 if none is left.

    Every subset of the candidates is equally likely (R. W. Floyd's sampling, in "A sample of
    brilliance", Communications of the ACM 30:9, 1987). This needs no blocks × blocks table.
    """
    if draws == 0 or blocks <= front + back + 1:
        return None
    with lasting(seed) as generator:
        own = torch.arange(blocks)
        # `low` to `high` are the neighbouring blocks that are not global. A query sees them anyway.
        low = (own - 1).clamp(min=front)
        high = (own + 1).clamp(max=blocks - back - 1)
        near = (high - low + 1).clamp(min=0)
        candidates = (blocks - front - back - near).expand(heads, -1)
        uniform = torch.rand(heads, blocks, draws, generator=generator, dtype=torch.float64)
        chosen = torch.full((heads, blocks, draws), -1)
        for draw in range(draws):
            # With fewer candidates than draws, the first draws select no block.
            last = candidates - draws + draw
            pick = (uniform[..., draw] * (last + 1).clamp(min=0)).long().clamp(max=last)
            taken = (chosen[..., :draw] == pick[..., None]).any(-1)
            chosen[..., draw] = torch.where(last < 0, -1, torch.where(taken, last, pick))
        # Candidate k as a block number: skip the global blocks at the start and the neighbours.
        numbers = chosen + front
        numbers = numbers + torch.where(numbers >= low[:, None], near[:, None], 0)
        return torch.where(chosen < 0, -1, numbers)
