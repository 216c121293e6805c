"""The estimates of all rows by scene, method, length and layer."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import pandas as pd

from reports.recommender.method_estimate import Estimate, Widening, pooled
from reports.recommender.misses import Misses, quantile
from reports.recommender.observations import Layer, Method, Traits, observations
from reports.recommender.scene import Scene
from reports.recommender.slopes import (
    LINEAR,
    QUADRATIC,
    Slopes,
    miss_of,
    pooled_slopes,
    slopes_of,
    widened,
)
from reports.recommender.unmeasured_layer import spread_of_layers

Layers = Mapping[Layer, Estimate]
Curve = Mapping[int, Layers]  # by length
Axis = Literal["seq_len", "aligned", "heads"]  # lengths, only aligned lengths, numbers of heads

# Kernels compute blocks of keys. A length that is not a multiple of their size can take longer than
# the aligned lengths around it.
ALIGNED = 64  # tokens

# Of extrapolations; there are few, and one disturbed time would decide a larger share.
SHARE = 0.9


class CurveIndex:
    """The curves of each scene and method, and what was learned from all of them."""

    def __init__(self, frame: pd.DataFrame) -> None:
        self.traits: dict[Method, Traits] = {}
        self.rows: Counter[Scene] = Counter()
        seeds: dict[Scene, dict[Method, dict[int, dict[Layer, list[Estimate]]]]] = {}
        for one in observations(frame):
            self.traits[one.method] = one.traits
            self.rows[one.scene] += 1
            lengths = seeds.setdefault(one.scene, {}).setdefault(one.method, {})
            lengths.setdefault(one.seq_len, {}).setdefault(one.layer, []).append(one.estimate)
        self.curves: Mapping[Scene, Mapping[Method, Curve]] = {
            scene: {
                method: {
                    seq_len: {layer: pooled(several) for layer, several in layers.items()}
                    for seq_len, layers in lengths.items()
                }
                for method, lengths in methods.items()
            }
            for scene, methods in seeds.items()
        }
        self._alike: dict[Scene, list[Scene]] = defaultdict(list)
        self._of_shape: dict[Scene, list[Scene]] = defaultdict(list)
        self._pooled: dict[Any, Slopes | None] = {}
        for scene in self.curves:
            self._alike[_without_heads(scene)].append(scene)
            for shape in _shapes(scene):
                self._of_shape[shape].append(scene)
        self._misses: dict[tuple[str, str, Axis], Misses] = {}
        self._layers: dict[Scene, set[Layer]] = {}
        self._spreads: dict[tuple[str, str, int], Widening | None] = {}
        self._overshoots: dict[tuple[str, str, bool, bool], float] = {}
        self._hardware = dict(zip(frame["machine"], frame["hardware"], strict=True))

    def siblings(self, scene: Scene) -> Sequence[Scene]:
        """The scenes that differ from this one at most in the number of heads."""
        return self._alike.get(_without_heads(scene), ())

    def misses(self, scene: Scene, axis: Axis) -> Misses:
        """How far interpolation along an axis misses on the machine and in the direction."""
        key = (scene.machine, scene.direction, axis)
        if key not in self._misses:
            alike = [one for one in self.curves if (one.machine, one.direction) == key[:2]]
            if axis == "heads":
                lines = self._along_heads(alike)
            else:
                lines = self._along_lengths(alike, only_aligned=axis == "aligned")
            self._misses[key] = Misses(lines, union=axis == "heads")
        return self._misses[key]

    def layers(self, scene: Scene) -> set[Layer]:
        """The layers that any method of a scene has at any length; {None} for synthetic inputs."""
        if scene not in self._layers:
            curves = self.curves[scene].values()
            found = {layer for curve in curves for layers in curve.values() for layer in layers}
            self._layers[scene] = found
        return self._layers[scene]

    def spread_of_layers(self, scene: Scene, known: int) -> Widening | None:
        """How far a layer of these inputs on this machine is outside `known` others."""
        key = (scene.machine, scene.inputs, known)
        if key not in self._spreads:
            methods = [
                list(layers.values())
                for one, curves in self.curves.items()
                if (one.machine, one.inputs) == key[:2]
                for curve in curves.values()
                for layers in curve.values()
            ]
            self._spreads[key] = spread_of_layers(methods, known)
        return self._spreads[key]

    def slopes(self, scene: Scene, method: Method, curve: Curve, layer: Layer, end: bool) -> Slopes:
        """The slopes at the end or the start of the curve of one layer.

        A curve of one length takes the slopes of the same method on other inputs of the same
        hardware; if there are none, causal or not; then those of its other implementations; else
        bounds that all methods keep. The interval of the slopes is widened by how far such an
        extrapolation misses on this machine in this direction, of exact methods or of others.
        """
        found = self._measured_slopes(scene, method, curve, layer, end)
        if found is None:
            return LINEAR if scene.direction == "decode" else QUADRATIC
        return widened(found, self._overshoot(scene, self.traits[method].is_exact, end))

    def _measured_slopes(
        self, scene: Scene, method: Method, curve: Curve, layer: Layer, end: bool
    ) -> Slopes | None:
        own = {place: layers[layer] for place, layers in curve.items() if layer in layers}
        if found := slopes_of(own, at_end=end):
            return found
        hardware = self._hardware.get(scene.machine)
        for name in (method, method._replace(implementation="")):
            for shape in _shapes(scene):
                key = (shape, hardware, name, end)
                if key not in self._pooled:
                    lines = self._lines(shape, hardware, name)
                    self._pooled[key] = pooled_slopes(lines, at_end=end)
                if found := self._pooled[key]:
                    return found
        return None

    def _overshoot(self, scene: Scene, is_exact: bool, end: bool) -> float:
        """The 90 % quantile of the misses of extrapolations, of exact methods or of the others.

        0 if no such curve has three points.
        """
        key = (scene.machine, scene.direction, is_exact, end)
        if key not in self._overshoots:
            found = [
                miss
                for one, curves in self.curves.items()
                if (one.machine, one.direction) == key[:2]
                for method, curve in curves.items()
                if self.traits[method].is_exact == is_exact
                for line in by_layer(curve)
                if math.isfinite(miss := miss_of(line, at_end=end))
            ]
            self._overshoots[key] = quantile(found, SHARE) if found else 0.0
        return self._overshoots[key]

    def _lines(
        self, shape: Scene, hardware: str | None, wanted: Method
    ) -> Iterator[Mapping[int, Estimate]]:
        """The curves of a method, or of all its implementations if it names none."""
        for scene in self._of_shape[shape]:
            if self._hardware[scene.machine] != hardware:
                continue
            curves = self.curves[scene]
            alike = [wanted] if wanted.implementation else curves
            for method in alike:
                if method in curves and wanted in (method, method._replace(implementation="")):
                    yield from by_layer(curves[method])

    def _along_lengths(
        self, scenes: Sequence[Scene], *, only_aligned: bool
    ) -> Iterator[Mapping[int, Estimate]]:
        for scene in scenes:
            for curve in self.curves[scene].values():
                yield from by_layer(aligned(curve) if only_aligned else curve)

    def _along_heads(self, scenes: Sequence[Scene]) -> Iterator[Mapping[int, Estimate]]:
        lines: dict[Any, dict[int, Estimate]] = defaultdict(dict)
        for scene in scenes:
            others = _without_heads(scene)
            for method, curve in self.curves[scene].items():
                for seq_len, layers in curve.items():
                    for layer, estimate in layers.items():
                        lines[others, method, seq_len, layer][scene.heads] = estimate
        yield from lines.values()


def aligned(curve: Curve) -> Curve:
    """The part of a curve with lengths that are multiples of `ALIGNED`."""
    return {seq_len: layers for seq_len, layers in curve.items() if seq_len % ALIGNED == 0}


def by_layer(curve: Curve) -> Iterator[Mapping[int, Estimate]]:
    """The estimates of each layer by length."""
    for layer in dict.fromkeys(layer for layers in curve.values() for layer in layers):
        yield {place: layers[layer] for place, layers in curve.items() if layer in layers}


def _without_heads(scene: Scene) -> Scene:
    """The scene with one key/value head and as many query heads for it as before."""
    return replace(scene, heads=scene.heads // scene.kv_heads, kv_heads=1)


def _shapes(scene: Scene) -> tuple[Scene, Scene]:
    """The scene on any machine and inputs, and the same both for causal attention and not."""
    shape = replace(scene, machine="", inputs="")
    return shape, replace(shape, causal=False, inputs="causal or not")
