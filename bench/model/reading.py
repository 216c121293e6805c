"""What a model predicts at every position of a text, without the logits of all of them at once."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bench.model.stopwatch import Stopwatch

PASS, LOSS = "pass", "loss"  # names of spans; the loss is no part of the pass
CHUNK = 256  # positions whose logits are held at a time: 50 MB at 49152 words
BLOCKS = 16
STUDENT = 2.1314  # 97.5 % quantile of Student's distribution with BLOCKS - 1 degrees of freedom


@dataclass(frozen=True)
class Reading:
    """At each position: the log loss of the token that follows, float64, and the token held most
    probable; (tokens,), on the CPU."""

    losses: Tensor
    best: Tensor

    @property
    def perplexity(self) -> float:
        return float(self.losses.mean().exp())

    def ratio(self, exact: Reading) -> tuple[float, float, float]:
        """The perplexity in multiples of another's, and the ends of its 95 % interval.

        Differences are paired by token. Neighbouring tokens are alike, so the means of contiguous
        blocks stand in for independent observations.
        """
        differences = self.losses - exact.losses
        blocks = torch.stack([block.mean() for block in differences.tensor_split(BLOCKS)])
        mean, half = differences.mean(), STUDENT * blocks.std() / math.sqrt(BLOCKS)
        low, middle, high = (float(x.exp()) for x in (mean - half, mean, mean + half))
        return middle, low, high

    def agreement(self, exact: Reading) -> float:
        """The share of positions at which both hold the same token most probable."""
        return float((self.best == exact.best).double().mean())


def read(network: Any, tokens: Tensor, watch: Stopwatch, *, in_chunks: bool) -> Reading:
    """One pass.

    Args:
        network: a causal language model of transformers.
        tokens: (tokens + 1,); the last one is only predicted.
        in_chunks: take the logits from the last hidden states, where `can_be_chunked`.

    Raises:
        ArithmeticError: losses that are not finite.
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
    """Whether a model's logits are its output embedding of the last hidden states and nothing
    more, as they are not where they are capped or scaled; seen on a few tokens."""
    embedding, body = network.get_output_embeddings(), network.base_model
    if embedding is None or body is network:
        return False
    with torch.no_grad():
        expected = network(input_ids=tokens[None], use_cache=False).logits
        hidden = body(input_ids=tokens[None], use_cache=False).last_hidden_state
        return torch.equal(embedding(hidden).to(expected.dtype), expected)


def looks_ahead(network: Any, tokens: Tensor) -> bool:
    """Whether what a model predicts depends on later tokens."""
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
