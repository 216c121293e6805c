"""The numbers of a method in a layer that was not measured, from the other layers of the model."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import chain

from reports.recommender.curve_index import CurveIndex, Layers
from reports.recommender.method_estimate import Estimate, Widening, pooled
from reports.recommender.misses import outside, quantile
from reports.recommender.scene import Scene


def is_unmeasured(index: CurveIndex, scene: Scene, layer: int) -> bool:
    """Whether the scene has rows of layers, but none of this one."""
    curves = index.curves[scene].values()
    known = {one for curve in curves for layers in curve.values() for one in layers}
    return layer not in known and known != {None}


def from_others(layers: Layers, spread: Widening) -> Estimate:
    """The estimate of another layer: the median of these, and their intervals together, widened."""
    several = list(layers.values())
    time, error = math.exp(spread.time), math.exp(spread.error)
    return replace(
        pooled(several),
        time_low=min(one.time_low for one in several) / time,
        time_high=max(one.time_high for one in several) * time,
        error_low=min(one.error_low for one in several) / error,
        error_high=max(one.error_high for one in several) * error,
    )


def spread_of_layers(index: CurveIndex, scene: Scene) -> Widening | None:
    """How far one layer is outside the intervals of the others; None with fewer than two layers.

    It is the 95 % quantile over all methods, lengths and layers with these inputs on this machine.
    """
    several = [
        list(layers.values())
        for one, curves in index.curves.items()
        if (one.machine, one.inputs) == (scene.machine, scene.inputs)
        for curve in curves.values()
        for layers in curve.values()
    ]
    times = list(chain.from_iterable(_misses(it, "time") for it in several))
    errors = list(chain.from_iterable(_misses(it, "error") for it in several))
    return Widening(quantile(times), quantile(errors)) if times and errors else None


def _misses(layers: Sequence[Estimate], name: str) -> Iterator[float]:
    """Each layer against all others, if there are others."""
    for number, own in enumerate(layers):
        others = [*layers[:number], *layers[number + 1 :]]
        if not others or (name == "error" and own.error <= own.floor):
            continue
        low = min(getattr(one, f"{name}_low") for one in others)
        high = max(getattr(one, f"{name}_high") for one in others)
        if math.isfinite(miss := outside(getattr(own, name), low, high)):
            yield miss
