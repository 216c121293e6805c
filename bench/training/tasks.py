"""What a tiny model is trained to do: sequences drawn from a generator, and their answers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Generator, Tensor
from torch.nn.functional import one_hot

# Symbols among which a model must choose: few, as what knows tokens only in sums of several
# (blocks, projections, states) must tell these apart.
ANSWERS = 4
NO_ANSWER = -1  # at positions at which nothing is asked


@dataclass(frozen=True)
class Batch:
    """Three int64 tensors (batch, seq_len).

    `tokens` is what the model reads. `answers` is what it must say at each position, NO_ANSWER
    where nothing is asked. `sources` is the position at which that answer stands in the tokens, 0
    where nothing is asked. A token at which something is asked does not tell the answer, so that a
    model that is not causal learns nothing from looking ahead.
    """

    tokens: Tensor
    answers: Tensor
    sources: Tensor

    @property
    def chance(self) -> float:
        """The accuracy of the most frequent answer of each sequence, which takes no look at where
        it stands: above one in ANSWERS, as sequences are short."""
        counts = one_hot(self.answers + 1, ANSWERS + 1)[..., 1:].sum(1)
        return counts.amax(-1).sum().item() / counts.sum().item()


@dataclass(frozen=True)
class Task(ABC):
    """Sequences of `seq_len` tokens below `vocabulary`; answers below ANSWERS."""

    name: ClassVar[str]
    # Whether the answer can be passed on from layer to layer without knowing who will ask for it.
    passed_on: ClassVar[bool]

    seq_len: int

    @property
    @abstractmethod
    def vocabulary(self) -> int:
        """How many different tokens there are."""

    @abstractmethod
    def draw(self, batch: int, generator: Generator) -> Batch:
        """`batch` sequences, on the CPU."""


class Copy(Task):
    """Symbols x_1 ... x_n, then n blanks; at the i-th blank the answer is x_i.

    Asks an attention to look up a position: the symbol n back, whatever it is. A window need not
    reach that far in one layer, as a layer may pass on what another has fetched; over all layers it
    must. A state or a set of summaries must hold n symbols, each with its place.
    """

    name = "copy"
    passed_on = True

    @property
    def vocabulary(self) -> int:
        return ANSWERS + 1

    def draw(self, batch: int, generator: Generator) -> Batch:
        asked = self.seq_len // 2
        symbols = torch.randint(ANSWERS, (batch, asked), generator=generator)
        tokens = torch.full((batch, self.seq_len), ANSWERS)
        answers = torch.full_like(tokens, NO_ANSWER)
        sources = torch.zeros_like(tokens)
        tokens[:, :asked] = symbols
        answers[:, -asked:] = symbols
        sources[:, -asked:] = torch.arange(asked)
        return Batch(tokens, answers, sources)


class Recall(Task):
    """Pairs of a key and a value, two tokens each, then keys in another order; at each of those the
    answer is its value ("Zoology", Arora et al. 2023, https://arxiv.org/abs/2312.04927, where it is
    called multi-query associative recall).

    A quarter of the tokens are pairs' keys, all different, out of twice as many; every key is asked
    for twice. Asks an attention to look up by content: the place of a pair says nothing about its
    value. A pattern must show the asking token the pair itself, or layers must have carried all
    pairs nearer before they know which will be asked for. A state must hold all pairs; where keys
    of many positions are mixed before they are compared, none stands out.
    """

    name = "recall"
    passed_on = False

    @property
    def pairs(self) -> int:
        return self.seq_len // 4

    @property
    def vocabulary(self) -> int:
        return 2 * self.pairs + ANSWERS

    def draw(self, batch: int, generator: Generator) -> Batch:
        known, asked = self.pairs, self.seq_len - 2 * self.pairs
        keys = _shuffled(batch, 2 * known, generator)[:, :known]
        values = torch.randint(ANSWERS, (batch, known), generator=generator)
        rounds = [_shuffled(batch, known, generator) for _ in range(-(-asked // known))]
        which = torch.cat(rounds, dim=1)[:, :asked]
        shown = torch.stack([keys, 2 * known + values], dim=2).flatten(1)
        tokens = torch.cat([shown, keys.gather(1, which)], dim=1)
        answers = torch.full_like(tokens, NO_ANSWER)
        sources = torch.zeros_like(tokens)
        answers[:, -asked:] = values.gather(1, which)
        sources[:, -asked:] = 2 * which + 1
        return Batch(tokens, answers, sources)


TASKS: dict[str, type[Task]] = {task.name: task for task in (Copy, Recall)}


def _shuffled(batch: int, count: int, generator: Generator) -> Tensor:
    """A permutation of `count` numbers for each sequence."""
    return torch.rand(batch, count, generator=generator).argsort(1)
