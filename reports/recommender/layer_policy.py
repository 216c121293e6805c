"""A candidate from the estimates of several layers of a model."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping
from math import isnan
from typing import Literal

from reports.metrics import show_error
from reports.recommender.candidate import Bounded, Candidate, Kind, selected
from reports.recommender.method_estimate import Estimate
from reports.recommender.observations import Layer, Method, Traits

Policy = Literal["worst", "median"] | int


def candidate_of(
    method: Method,
    traits: Traits,
    kind: Kind,
    layers: Mapping[Layer, Estimate],
    policy: Policy,
    *,
    refused: str,
    perplexity: tuple[int, Bounded] | None,
) -> Candidate:
    """The candidate of a method with estimates of these layers.

    `refused` says why it is not chosen unless it is exact attention, `perplexity` is the length
    and the ratio of perplexity in a model.
    """
    captured = {layer: one.error_high for layer, one in layers.items() if layer is not None}
    chosen = selected(captured, str(policy)) if captured else None
    seen = list(layers) if policy == "worst" else [chosen]
    own = layers[chosen]
    length, ratio = perplexity or (None, None)
    return Candidate(
        label=traits.label,
        variant=method.variant,
        hyperparameters=method.hyperparameters,
        implementation=method.implementation,
        is_exact=traits.is_exact,
        evidence=kind,
        time_ms=_over(layers, lambda one: one.time),
        time_low=_over(layers, lambda one: one.time_low),
        time_high=_over(layers, lambda one: one.time_high),
        noise_low=_over(layers, lambda one: one.noise_low),
        noise_high=_over(layers, lambda one: one.noise_high),
        error=own.error,
        error_low=own.error_low,
        error_high=own.error_high,
        layer=chosen,
        layer_errors={
            layer: (one.error, one.error_low, one.error_high)
            for layer, one in sorted(layers.items(), key=lambda item: item[0] or 0)
            if layer is not None
        },
        memory_bytes=max(one.memory for one in layers.values()),
        perplexity_ratio=ratio,
        perplexity_seq_len=length,
        excluded=""
        if traits.is_exact
        else traits.never or _useless({layer: layers[layer] for layer in seen}) or refused,
        exact_ms=_over(layers, lambda one: one.exact_ms),
        sdpa_ms=_over(layers, lambda one: one.sdpa_ms),
        gradient_error=max(one.gradient_error for one in layers.values()),
        rows=tuple(dict.fromkeys(row for one in layers.values() for row in one.rows)),
    )


def _useless(layers: Mapping[Layer, Estimate]) -> str:
    """The baseline of the same budget that the method does not beat for sure; empty if none."""
    for layer, one in layers.items():
        if one.error_high >= one.baseline:
            where = "" if layer is None else f" in layer {layer}"
            return (
                f"error up to {show_error(one.error_high)}{where}, no better than "
                f"{one.baseline_name} ({show_error(one.baseline)})"
            )
    return ""


def _over(layers: Mapping[Layer, Estimate], number: Callable[[Estimate], float]) -> float:
    """The median over the layers, of the numbers that are known."""
    return _median(number(one) for one in layers.values())


def _median(values: Iterable[float]) -> float:
    known = [value for value in values if not isnan(value)]
    return statistics.median(known) if known else float("nan")
