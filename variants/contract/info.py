"""The metadata that a variant declares."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

CAPABILITIES = frozenset(
    {"causal", "key_padding_mask", "cross_attention", "backward", "distance_bias", "step"}
)
TARGETS = ("softmax", "masked_softmax", "biased_softmax", "shared_qk_softmax", "other_kernel")
POSITIONS = ("none", "distance", "absolute")


@dataclass(frozen=True)
class Info:
    """Metadata of one variant; the documentation table and the contract tests are made from it."""

    name: str
    title: str
    year: int
    url: str
    time: str
    memory: str
    target: str
    supports: frozenset[str]
    implementations: tuple[str, ...]
    exact_when: Mapping[str, Any] | None
    grid: tuple[Mapping[str, Any], ...]
    convex: bool = True
    causal_only: bool = False
    positions: str = "absolute"
    knob: tuple[str, ...] = ()
    libraries: frozenset[str] = frozenset()
    reduced_precision: frozenset[str] = frozenset()
    reference: str = ""
    summary: str = ""

    @property
    def is_exact(self) -> bool:
        """Whether the method equals softmax attention for all hyperparameters."""
        return self.exact_when is not None and not self.exact_when

    @property
    def causal_choices(self) -> tuple[bool, ...]:
        """The values of `causal` that a call may have."""
        if self.causal_only:
            return (True,)
        return (False, True) if "causal" in self.supports else (False,)
