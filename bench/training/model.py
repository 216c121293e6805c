"""The tiny model: tokens in, answers out, two blocks of one attention between."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from bench.training.tasks import ANSWERS, Task
from variants import Attention, MultiHeadAttention
from variants.layer import TransformerBlock
from variants.layer.positions import Sinusoidal

WIDTH, HEADS, DEPTH = 64, 2, 2


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
            own = attention
            if hasattr(attention, "seed"):
                own = dataclasses.replace(attention, seed=attention.seed + layer)
            self.blocks.append(
                TransformerBlock(
                    MultiHeadAttention(
                        WIDTH,
                        HEADS,
                        attention=own,
                        position="rotary",
                        shared_qk=getattr(attention, "shared_qk", False),
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
        """Which token (column) can tell which (row) anything, (seq_len, seq_len): by the patterns of
        its layers, one after the other if `passed_on`, otherwise by one of them. Patterns that
        depend on content are the union over many random queries and keys."""
        device = self.read_out.weight.device
        reach = torch.eye(seq_len, device=device)
        if passed_on:
            reach += torch.eye(seq_len, device=device).roll(1, 0).tril()
        found = torch.zeros_like(reach)
        generator = torch.Generator().manual_seed(0)
        for block in self.blocks:
            layer = block.attention
            shape = 64, HEADS, seq_len, WIDTH // HEADS
            query, key = torch.randn(2, *shape, generator=generator).to(device)
            weights = layer.attention.weights(
                query,
                query if layer.shared_qk else key,
                causal=self.causal,
                parameters=dict(layer.attention_parameters),
            )
            seen = (weights != 0).flatten(0, 1).any(0).to(reach)
            found += seen
            reach = reach + seen @ reach
        return (reach if passed_on else found) > 0
