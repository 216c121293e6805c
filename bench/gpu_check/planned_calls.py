"""The calls that a check times, the most valuable first."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

import variants
from bench.launches.simulation import FORWARD, FORWARD_BACKWARD, Shape
from variants import Attention, UnsupportedError
from variants.contract.registry import reference_attention


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
    def key(self) -> tuple[str, str, str]:
        return self.label, str(self.shape.seq_len), self.direction

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


def planned(lengths: list[int], heads: int) -> list[PlannedCall]:
    """All calls: exact attention, then every variant as `auto`, then libraries.

    A library may compile for seconds, and methods whose work grows with the square of the length
    take long, so both are last.
    """
    own = [variants.create(name) for name in sorted(variants.REGISTRY)]
    own.sort(key=lambda attention: "n²" in attention.info.time)
    exact = reference_attention()
    libraries = [
        variants.create(name, implementation=implementation)
        for name, cls in sorted(variants.REGISTRY.items())
        for implementation in cls.info.implementations
        if implementation in cls.info.libraries
    ]
    found: list[PlannedCall] = []
    for group in ([exact], own, libraries):
        for direction in (FORWARD, FORWARD_BACKWARD):
            for length in lengths:
                for attention in group:
                    if direction == FORWARD or "backward" in attention.supports:
                        causal = attention.info.causal_choices[-1]
                        shape = Shape(seq_len=length, heads=heads, causal=causal)
                        found.append(PlannedCall(attention, shape, direction))
    unique = {call.key: call for call in found}
    return list(unique.values())
