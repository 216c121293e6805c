"""The predictions of a model at every position of a text, computed in chunks where the
model allows it, as the logits of all positions take much memory."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bench.workloads.model.stopwatch import Stopwatch

PASS, LOSS = "pass", "loss"  # names of spans; the reported time of a pass excludes the loss
CHUNK = 256  # positions with logits in memory at a time: 50 MB with a vocabulary of 49152
BLOCKS = 16
STUDENT = 2.1314  # 97.5 % quantile of Student's distribution with BLOCKS - 1 degrees of freedom


@dataclass(frozen=True)
class Reading:
    """At each position: the log loss of the next token, float64, and the most probable next token;
    both (tokens,), on the CPU."""

    losses: Tensor
    best: Tensor

    @property
    def perplexity(self) -> float:
        return float(self.losses.mean().exp())

    def ratio(self, exact: Reading) -> tuple[float, float, float]:
        """The ratio of the perplexity to that of `exact`, and both ends of its 95 % interval.

        Differences are paired by token. Neighbouring tokens are correlated, so the means of 16
        contiguous blocks are used as independent observations.
        """
        differences = self.losses - exact.losses
        blocks = torch.stack([block.mean() for block in differences.tensor_split(BLOCKS)])
        mean, half = differences.mean(), STUDENT * blocks.std() / math.sqrt(BLOCKS)
        low, middle, high = (float(x.exp()) for x in (mean - half, mean, mean + half))
        return middle, low, high

    def agreement(self, exact: Reading) -> float:
        """The share of positions at which both have the same most probable next token."""
        return float((self.best == exact.best).double().mean())


def read(network: Any, tokens: Tensor, watch: Stopwatch, *, in_chunks: bool) -> Reading:
    """Run one forward pass over the tokens.

    Args:
        network: a causal language model of transformers.
        tokens: (tokens + 1,); the last token is only a target.
        in_chunks: compute the logits from the last hidden states, CHUNK positions at a time;
            allowed if `can_be_chunked`.

    Raises:
        ArithmeticError: a loss is not finite.
    """
    inputs, targets = tokens[None, :-1], tokens[1:]
    body = network.base_model if in_chunks else network
    with torch.no_grad(), watch.span(PASS):
        out = body(input_ids=inputs, use_cache=False)
        found = [
            _losses(rows, wanted, watch)
            for rows, wanted in (
                _chunked_logits(network, out.last_hidden_state[0], targets)
                if in_chunks
                else zip(out.logits[0].split(CHUNK), targets.split(CHUNK), strict=True)
            )
        ]
    losses = torch.cat([loss for loss, _ in found]).double().cpu()
    if wrong := int((~losses.isfinite()).sum()):
        raise ArithmeticError(f"the losses of {wrong} of {len(losses)} tokens are not finite")
    return Reading(losses, torch.cat([best for _, best in found]).cpu())


def can_be_chunked(network: Any, tokens: Tensor) -> bool:
    """Whether a model's logits are exactly its output embedding of the last hidden states.

    This is false for models that cap or scale their logits. It is tested on a few tokens.
    """
    embedding, body = network.get_output_embeddings(), network.base_model
    if embedding is None or body is network:
        return False
    with torch.no_grad():
        expected = network(input_ids=tokens[None], use_cache=False).logits
        hidden = body(input_ids=tokens[None], use_cache=False).last_hidden_state
        return torch.equal(embedding(hidden).to(expected.dtype), expected)


def looks_ahead(network: Any, tokens: Tensor) -> bool:
    """Whether the predictions of a model depend on later tokens."""
    later = tokens.clone()
    half = len(tokens) // 2
    later[half:] = (later[half:] + 1) % network.config.get_text_config().vocab_size
    with torch.no_grad():
        one, other = (
            network(input_ids=ids[None], use_cache=False).logits[0, :half].float()
            for ids in (tokens, later)
        )
    return not torch.allclose(one, other, rtol=1e-2, atol=1e-2 * float(one.abs().max()))


def _chunked_logits(network: Any, hidden: Tensor, targets: Tensor) -> Any:
    embedding = network.get_output_embeddings()
    for rows, wanted in zip(hidden.split(CHUNK), targets.split(CHUNK), strict=True):
        yield embedding(rows), wanted


def _losses(logits: Tensor, targets: Tensor, watch: Stopwatch) -> tuple[Tensor, Tensor]:
    with watch.span(LOSS):
        logits = logits if logits.dtype == torch.float64 else logits.float()
        chosen = logits.gather(1, targets[:, None])[:, 0]
        return logits.logsumexp(1) - chosen, logits.argmax(1)
