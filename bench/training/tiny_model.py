"""The tiny model: tokens in, answers out, two blocks of one attention between."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from bench.training.tasks import ANSWERS, Task
from variants import Attention, MultiHeadAttention
from variants.layer import TransformerBlock
from variants.layer.encodings import Sinusoidal

WIDTH, HEADS, DEPTH = 64, 4, 2


class TinyModel(nn.Module):
    """Embedded tokens with sinusoidal positions, two blocks whose queries and keys are turned by
    rotary ones, a norm, a read-out.

    Each token is also told its predecessor, by a product that is the same everywhere: the short
    convolution of "Zoology" (Arora et al. 2023, https://arxiv.org/abs/2312.04927). So a value
    knows its key from the start; without it models of all kinds spend most of their training on
    finding that out. Random draws of an attention are other ones in each layer.
    """

    def __init__(self, attention: Attention, task: Task, seed: int) -> None:
        super().__init__()
        self.causal = attention.info.causal_choices[-1]
        self.tokens = nn.Embedding(task.vocabulary, WIDTH)
        self.predecessor = nn.Linear(WIDTH, WIDTH)
        self.position = Sinusoidal(WIDTH)
        self.blocks = nn.ModuleList()
        for layer in range(DEPTH):
            drawn = {"seed": attention.seed + layer} if hasattr(attention, "seed") else {}
            self.blocks.append(
                TransformerBlock(
                    MultiHeadAttention(
                        WIDTH,
                        HEADS,
                        attention=dataclasses.replace(attention, **drawn),
                        position="rotary",
                        shared_qk=attention.uses_shared_qk,
                        seed=DEPTH * seed + layer,
                    )
                )
            )
        self.norm = nn.LayerNorm(WIDTH)
        self.read_out = nn.Linear(WIDTH, ANSWERS)

    def forward(self, tokens: Tensor) -> Tensor:
        """(batch, seq_len) to a score of each answer, (batch, seq_len, ANSWERS)."""
        hidden = self.tokens(tokens)
        hidden = self.position(hidden + self.predecessor(pad(hidden, (0, 0, 1, -1))))
        for block in self.blocks:
            hidden = block(hidden, causal=self.causal)
        scores: Tensor = self.read_out(self.norm(hidden))
        return scores

    @torch.no_grad()
    def sees(self, seq_len: int, passed_on: bool) -> Tensor:
        """Whether a token (row) is shown another (column), bool (seq_len, seq_len): by the patterns
        of the layers one after the other if `passed_on`, otherwise by one of them. A pattern that
        depends on content is the union over many random queries and keys."""
        device = self.read_out.weight.device
        own = torch.eye(seq_len, device=device)
        at_once = torch.zeros_like(own)
        one_by_one = own + own.roll(1, 0).tril()  # a token and its predecessor
        generator = torch.Generator().manual_seed(0)
        for layer in (
            module for module in self.modules() if isinstance(module, MultiHeadAttention)
        ):
            shape = 64, HEADS, seq_len, WIDTH // HEADS
            query, key = torch.randn(2, *shape, generator=generator).to(device)
            weights = layer.attention.weights(
                query,
                query if layer.shared_qk else key,
                causal=self.causal,
                parameters=dict(layer.attention_parameters),
            )
            shown = (weights != 0).flatten(0, 1).any(0).to(own)
            at_once += shown
            one_by_one += shown @ one_by_one
        return (one_by_one if passed_on else at_once) > 0
