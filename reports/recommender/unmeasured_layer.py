"""The numbers of a method in a layer that was not measured, from the other layers of the model."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import combinations

from reports.recommender.method_estimate import Estimate, Widening, pooled
from reports.recommender.misses import outside, quantile


def from_others(layers: Iterable[Estimate], spread: Widening) -> Estimate:
    """The estimate of another layer: the median of these, and their intervals together, widened."""
    several = list(layers)
    time, error = math.exp(spread.time), math.exp(spread.error)
    return replace(
        pooled(several),
        time_low=min(one.time_low for one in several) / time,
        time_high=max(one.time_high for one in several) * time,
        error_low=min(one.error_low for one in several) / error,
        error_high=max(one.error_high for one in several) * error,
    )


def spread_of_layers(methods: Iterable[Sequence[Estimate]], known: int) -> Widening | None:
    """How far a layer is outside the intervals of `known` other layers; None if this is not known.

    It is the 95 % quantile. If no method has more than `known` layers, it is that for fewer others,
    which miss by more.

    Args:
        methods: the estimates of all layers of each method at each length.
        known: number of the other layers.
    """
    every = list(methods)
    known = min(known, max(map(len, every), default=0) - 1)
    if known < 1:
        return None
    several = [layers for layers in every if len(layers) > known]
    times, errors = (
        [miss for layers in several for miss in _misses(layers, name, known)]
        for name in ("time", "error")
    )
    return Widening(quantile(times), quantile(errors)) if times and errors else None


def _misses(layers: Sequence[Estimate], name: str, known: int) -> Iterator[float]:
    """Each layer against each choice of `known` others."""
    for own in layers:
        if name == "error" and own.error <= own.floor:
            continue
        for others in combinations([one for one in layers if one is not own], known):
            low = min(getattr(one, f"{name}_low") for one in others)
            high = max(getattr(one, f"{name}_high") for one in others)
            if math.isfinite(miss := outside(getattr(own, name), low, high)):
                yield miss
