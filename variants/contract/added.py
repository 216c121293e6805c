"""Implementations that come from outside: of the same variants, kept apart from their own."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

import torch
from torch import Tensor

from variants.contract.registry import CAPABILITIES, REGISTRY


@dataclass(frozen=True)
class Added:
    """An implementation of a variant that stands outside the variant's file."""

    attend: Callable[..., Tensor]
    unavailable: Callable[[torch.device], str | None] | None
    supports: frozenset[str]
    differs: str


ADDED: dict[tuple[str, str], Added] = {}


def add_implementation(
    variant: str,
    name: str,
    *,
    attend: Callable[..., Tensor],
    unavailable: Callable[[torch.device], str | None] | None = None,
    supports: Collection[str] | None = None,
    differs: str = "",
) -> None:
    """Make `name` a valid `implementation` of a registered variant.

    Args:
        attend: called as the variant's own `attend` is, the variant first: `attend(attention,
            query, key, value, causal=..., key_padding_mask=..., scale=..., parameters=...)`.
            Raises UnsupportedError for what it cannot serve.
        unavailable: why it cannot run on a device; None if it can.
        supports: the part of the variant's capabilities it has; if not given all of them but
            `distance_bias`, which `attend` then takes as one more keyword, and `step`, which it
            cannot have.
        differs: how it departs from the variant's definition, as words after "computes something
            else:". Such an implementation is not checked against that definition.

    Raises:
        ValueError: an unknown variant or capability, a name that is taken or is no plain word.
    """
    if variant not in REGISTRY:
        raise ValueError(
            f"unknown variant {variant!r}; known variants: {', '.join(sorted(REGISTRY))}"
        )
    info = REGISTRY[variant].info
    if name in ("auto", *info.implementations) or (variant, name) in ADDED:
        raise ValueError(f"{variant} has an implementation {name!r} already")
    if not name.isidentifier():
        raise ValueError(
            f"{variant}: the name of an implementation must be letters, digits and underscores; "
            f"got {name!r}"
        )
    if unknown := set(supports or ()) - CAPABILITIES:
        raise ValueError(
            f"{variant}/{name}: supports {sorted(unknown)} is not in {sorted(CAPABILITIES)}"
        )
    own = info.supports - {"distance_bias"} if supports is None else info.supports & set(supports)
    ADDED[variant, name] = Added(attend, unavailable, own - {"step"}, differs)


def added_names(variant: str) -> tuple[str, ...]:
    """The implementations that were added to a variant."""
    return tuple(name for owner, name in ADDED if owner == variant)
