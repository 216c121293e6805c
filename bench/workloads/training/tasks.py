"""The tasks of the tiny model: random sequences and their answers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Generator, Tensor
from torch.nn.functional import one_hot

# Number of different answers. It is small, as some methods read tokens only in sums of several
# (blocks, projections, states) and must distinguish the answers in such sums.
ANSWERS = 4
NO_ANSWER = -1  # at positions without a question


@dataclass(frozen=True)
class Batch:
    """Three int64 tensors (batch, seq_len).

    `tokens` are the inputs of the model. `answers` are the correct outputs at each position,
    NO_ANSWER at positions without a question. `sources` are the positions in `tokens` that contain
    the answers, 0 at positions without a question. The token of a question does not depend on the
    answer, so a model that is not causal gains nothing from later tokens.
    """

    tokens: Tensor
    answers: Tensor
    sources: Tensor

    @property
    def chance(self) -> float:
        """The accuracy of always guessing the most frequent answer of a sequence.

        It is above 1 / ANSWERS, as sequences are short.
        """
        counts = one_hot(self.answers + 1, ANSWERS + 1)[..., 1:].sum(1)
        return counts.amax(-1).sum().item() / counts.sum().item()


@dataclass(frozen=True)
class Task(ABC):
    """Sequences of `seq_len` tokens below `vocabulary`; answers below ANSWERS."""

    name: ClassVar[str]
    # Whether layers can pass an answer on to nearer positions without knowing which query needs it.
    passed_on: ClassVar[bool]

    seq_len: int

    @property
    @abstractmethod
    def vocabulary(self) -> int:
        """The number of different tokens."""

    @abstractmethod
    def draw(self, batch: int, generator: Generator) -> Batch:
        """Draw `batch` sequences, on the CPU."""


class Copy(Task):
    """Symbols x_1 ... x_n, then n blanks; at the i-th blank the answer is x_i.

    This tests lookup by position: the symbol n positions back, regardless of its content. A window
    may be shorter than n, as each layer can pass symbols on to the next one; the windows of all
    layers together must cover n positions. A state or a set of summaries must hold n symbols, each
    with its position.
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
    """Pairs of a key token and a value token, then the keys again in another order; the answer at
    each of these is its value. This is multi-query associative recall of "Zoology" (Arora et al.
    2023, https://arxiv.org/abs/2312.04927).

    A quarter of the tokens are keys of pairs. They are all different, drawn from twice as many
    possible keys. Each key is repeated twice as a question. This tests lookup by content: the
    position of a pair does not depend on its value. The pattern must let the query see the pair
    itself, or earlier layers must carry all pairs to nearer positions before they know which ones
    are needed. A state must hold all pairs. Methods that mix the keys of many positions before they
    compare them cannot distinguish a single key.
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
    """A random permutation of `count` numbers for each sequence, (batch, count)."""
    return torch.rand(batch, count, generator=generator).argsort(1)
