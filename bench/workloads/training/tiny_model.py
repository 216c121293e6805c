"""The tiny model: an embedding, two transformer blocks with the given attention, and a read-out."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from bench.workloads.training.tasks import ANSWERS, Task
from variants import Attention, MultiHeadAttention
from variants.layer import TransformerBlock
from variants.layer.encodings import Sinusoidal

WIDTH, HEADS, DEPTH = 64, 4, 2


class TinyModel(nn.Module):
    """Token embeddings with sinusoidal positions, two blocks with rotary positions on queries and
    keys, a norm, and a linear read-out.

    A linear map of the previous token is added to each token: the short convolution of "Zoology"
    (Arora et al. 2023, https://arxiv.org/abs/2312.04927). The token of a value thus contains its
    key from the start; without this, all models spend most of their training on learning it. An
    attention with random draws has another seed in each layer.
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
        """Map tokens (batch, seq_len) to scores of the answers (batch, seq_len, ANSWERS)."""
        hidden = self.tokens(tokens)
        hidden = self.position(hidden + self.predecessor(pad(hidden, (0, 0, 1, -1))))
        for block in self.blocks:
            hidden = block(hidden, causal=self.causal)
        scores: Tensor = self.read_out(self.norm(hidden))
        return scores

    @torch.no_grad()
    def sees(self, seq_len: int, passed_on: bool) -> Tensor:
        """Whether the query of a token (row) can reach another token (column).

        With `passed_on`, it may reach it through the patterns of all layers one after the other;
        otherwise, through the pattern of one layer. If a pattern depends on content, the union over
        many random queries and keys is taken.

        Returns:
            bool (seq_len, seq_len).
        """
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
