"""The calls that a check times, the most valuable first."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

import variants
from bench.launches.simulation import FORWARD, FORWARD_BACKWARD, Shape
from variants import Attention, UnsupportedError
from variants.contract.implementations import meaning
from variants.contract.registry import reference_attention

Key = tuple[str, str, str, str]


@dataclass(frozen=True)
class PlannedCall:
    """One attention on one shape in one direction."""

    attention: Attention
    shape: Shape
    direction: str

    @property
    def label(self) -> str:
        name, implementation = self.attention.info.name, self.attention.implementation
        return name if implementation == "auto" else f"{name} {implementation}"

    @property
    def key(self) -> Key:
        """Variant, length, direction and mask, as in the columns of a row."""
        return self.label, str(self.shape.seq_len), self.direction, str(self.shape.causal)

    @property
    def compiles(self) -> bool:
        """Whether the first call at each shape compiles for seconds."""
        return meaning(self.attention.implementation).compiles

    def made(self, device: torch.device) -> Callable[[], Tensor]:
        """The call on random inputs, which is prepared here.

        Raises:
            UnsupportedError: the attention cannot run here.
        """
        attention, shape = self.attention, self.shape
        if reason := attention.cannot_run(device):
            raise UnsupportedError(reason)
        generator = torch.Generator(device).manual_seed(0)
        query, key, value = (
            torch.randn(x.shape, generator=generator, device=device).to(x.dtype)
            for x in shape.empty("meta")
        )
        if attention.uses_shared_qk:
            key = query
        backward = self.direction == FORWARD_BACKWARD
        leaves = tuple({id(x): x for x in (query, key, value)}.values())
        for leaf in leaves:
            leaf.requires_grad_(backward)
        grad = torch.ones_like(query)

        def call() -> Tensor:
            with torch.set_grad_enabled(backward):
                out = attention(query, key, value, causal=shape.causal)
            if backward:
                torch.autograd.grad(out, leaves, grad, allow_unused=True)
            return out.detach()

        with torch.set_grad_enabled(backward):
            attention.prepare(query, key, causal=shape.causal)
        return call

    def flops(self) -> float | None:
        """Operations that the call cannot avoid; None if the attention does not state them."""
        shape, attention = self.shape, self.attention
        length = shape.seq_len
        found = attention.useful_flops(
            shape.batch, shape.heads, length, length, shape.head_dim, causal=shape.causal
        )
        if found is None or self.direction == FORWARD:
            return found
        return found * (3.0 if attention.target == "other_kernel" else 3.5)


def baselines() -> list[Attention]:
    """The exact attentions that every call is compared with: torch's own, and the fastest here."""
    reference = reference_attention()
    return [reference, variants.create(reference.info.name)]


def planned(lengths: list[int], heads: int) -> list[PlannedCall]:
    """All calls: exact attention with each mask, then every variant as `auto`, then methods whose
    work grows with the square of the length, then libraries.

    An implementation that compiles for each shape is planned at the shortest length alone.
    """
    own = [variants.create(name) for name in sorted(variants.REGISTRY)]
    libraries = [
        variants.create(name, implementation=implementation)
        for name, cls in sorted(variants.REGISTRY.items())
        for implementation in cls.info.implementations
        if implementation in cls.info.libraries
    ]
    groups = (
        baselines(),
        [attention for attention in own if "n²" not in attention.info.time],
        [attention for attention in own if "n²" in attention.info.time],
        libraries,
    )
    found = [
        call
        for group in groups
        for direction in (FORWARD, FORWARD_BACKWARD)
        for length in lengths
        for attention in group
        if direction == FORWARD or "backward" in attention.supports
        for call in _with_masks(attention, length, heads, direction)
        if length == min(lengths) or not call.compiles
    ]
    unique: dict[Key, PlannedCall] = {}
    for call in found:
        unique.setdefault(call.key, call)
    return list(unique.values())


def _with_masks(attention: Attention, length: int, heads: int, direction: str) -> list[PlannedCall]:
    """A call with each mask for the baselines, and a causal one, if possible, for the others."""
    masks = attention.info.causal_choices
    if attention not in baselines():
        masks = masks[-1:]
    shapes = [Shape(seq_len=length, heads=heads, causal=causal) for causal in masks]
    return [PlannedCall(attention, shape, direction) for shape in shapes]
