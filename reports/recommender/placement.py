"""The estimates of a method at one length and head count: as measured, interpolated or
extrapolated."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from reports.recommender.candidate import NOT_MEASURED, Kind
from reports.recommender.curve_index import ALIGNED, Axis, Curve, CurveIndex, Layers, aligned
from reports.recommender.layer_policy import Policy
from reports.recommender.method_estimate import between
from reports.recommender.misses import NOTHING, weight_of
from reports.recommender.observations import Layer, Method
from reports.recommender.scene import Scene
from reports.recommender.slopes import PROPORTIONAL, extrapolated
from reports.recommender.unmeasured_layer import from_others

MOST_APART = 4  # neighbours whose places differ by a larger factor are not interpolated


@dataclass(frozen=True)
class PlacedMethod:
    """Estimates by layer; `refused` says why an extrapolated approximation is not chosen."""

    kind: Kind
    layers: Layers
    refused: str = ""


def placed(
    index: CurveIndex, scene: Scene, seq_len: int, policy: Policy
) -> dict[Method, PlacedMethod]:
    """All methods of a scene at a length; those of the neighbours if it has no rows."""
    if scene in index.curves:
        return _at_length(index, scene, seq_len, policy)
    siblings = {one.heads: one for one in index.siblings(scene)}
    if not siblings:
        return {}
    below, above = _neighbours(siblings, scene.heads)
    if below and above and above <= MOST_APART * below:
        first = _at_length(index, siblings[below], seq_len, policy)
        second = _at_length(index, siblings[above], seq_len, policy)
        weight = weight_of(scene.heads, below, above)
        widening = index.misses(scene, "heads").widening(above / below)
        result = {}
        for method in [method for method in first if method in second]:
            one, other = first[method], second[method]
            layers = {
                layer: between(one.layers[layer], other.layers[layer], weight, widening, union=True)
                for layer in one.layers
                if layer in other.layers
            }
            thin = "extrapolated" in (one.kind, other.kind)
            kind: Kind = "extrapolated" if thin else "interpolated"
            if layers:
                result[method] = PlacedMethod(kind, layers, one.refused or other.refused)
        return result
    nearest = _nearest(scene.heads, below, above)
    refused = f"{NOT_MEASURED} with numbers of heads near {scene.heads}"
    return {
        method: PlacedMethod(
            "extrapolated",
            {
                layer: extrapolated(estimate, scene.heads / nearest, PROPORTIONAL)
                for layer, estimate in one.layers.items()
            },
            refused,
        )
        for method, one in _at_length(index, siblings[nearest], seq_len, policy).items()
    }


def _at_length(
    index: CurveIndex, scene: Scene, seq_len: int, policy: Policy
) -> dict[Method, PlacedMethod]:
    if not isinstance(policy, int):
        return _of_layers(index, scene, seq_len, set())
    known = index.layers(scene)
    if policy not in known and known != {None}:
        return _of_layers(index, scene, seq_len, {policy})
    result = {}
    for method, curve in index.curves[scene].items():
        own: Curve = {
            place: {policy: layers[policy]} for place, layers in curve.items() if policy in layers
        }
        if own:
            result[method] = _on_curve(index, scene, method, own, seq_len)
    return result


def _of_layers(
    index: CurveIndex, scene: Scene, seq_len: int, wanted: set[Layer]
) -> dict[Method, PlacedMethod]:
    """All methods in the wanted layers; without any, in all layers that one of them has here.

    A layer that a method lacks is estimated from its other layers. Otherwise the worst layer of one
    method would be compared with another layer of another method. Exact attention has an error of
    rounding in every layer, so its layers are not completed.
    """
    found = {
        method: _on_curve(index, scene, method, curve, seq_len)
        for method, curve in index.curves[scene].items()
    }
    every = wanted or {layer for one in found.values() for layer in one.layers}
    result = {}
    for method, one in found.items():
        missing = every - set(one.layers)
        if not missing or (not wanted and index.traits[method].is_exact):
            result[method] = one
            continue
        spread = index.spread_of_layers(scene, len(one.layers))
        estimate = from_others(one.layers.values(), spread or NOTHING)
        layers = {**({} if wanted else one.layers), **dict.fromkeys(missing, estimate)}
        kind: Kind = "interpolated" if one.kind == "measured" else one.kind
        refused = one.refused
        if spread is None:
            names = ", ".join(map(str, sorted(layer for layer in missing if layer is not None)))
            kind, refused = "extrapolated", refused or f"{NOT_MEASURED} in layer {names}"
        result[method] = PlacedMethod(kind, layers, refused)
    return result


def _on_curve(
    index: CurveIndex, scene: Scene, method: Method, curve: Curve, seq_len: int
) -> PlacedMethod:
    if seq_len in curve:
        return PlacedMethod("measured", curve[seq_len])
    below, above, axis = _around(curve, seq_len)
    if below and above and above <= MOST_APART * below:
        weight = weight_of(seq_len, below, above)
        widening = index.misses(scene, axis).widening(above / below)
        layers = {
            layer: between(estimate, curve[above][layer], weight, widening)
            for layer, estimate in curve[below].items()
            if layer in curve[above]
        }
        if layers:
            return PlacedMethod("interpolated", layers)
    if below and above:
        refused = f"{NOT_MEASURED} between {below} and {above} tokens"
    else:
        refused = f"{NOT_MEASURED} {'above' if below else 'below'} {below or above} tokens"
    nearest = _nearest(seq_len, below, above)
    layers = {
        layer: extrapolated(
            estimate,
            seq_len / nearest,
            index.slopes(scene, method, curve, layer, nearest == below),
        )
        for layer, estimate in curve[nearest].items()
    }
    return PlacedMethod("extrapolated", layers, refused)


def _around(curve: Curve, seq_len: int) -> tuple[int | None, int | None, Axis]:
    """The next lengths; of an aligned length, the next aligned ones if they are near enough."""
    if seq_len % ALIGNED == 0:
        below, above = _neighbours(aligned(curve), seq_len)
        if below and above and above <= MOST_APART * below:
            return below, above, "aligned"
    return *_neighbours(curve, seq_len), "seq_len"


def _neighbours(places: Iterable[int], place: int) -> tuple[int | None, int | None]:
    """The next smaller and the next larger place."""
    known = sorted(places)
    below = [one for one in known if one < place]
    above = [one for one in known if one > place]
    return (below[-1] if below else None), (above[0] if above else None)


def _nearest(place: int, below: int | None, above: int | None) -> int:
    """The neighbour at the smaller factor."""
    if below is None or above is None:
        nearest = below or above
        assert nearest is not None  # a curve has at least one place
        return nearest
    return below if place / below <= above / place else above
