"""Measures exact attention on a shape: the baselines of all cases of this shape."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import replace

import torch

import variants
from bench.instruments import clock, cuda_graph
from bench.schema.case import Case
from bench.workloads.attention import projections
from bench.workloads.attention.given_inputs import Given, Settings
from bench.workloads.attention.observe import Seen, observe
from bench.workloads.attention.timed_call import timed_call, used_implementation
from bench.workloads.failure import failure
from variants import Attention
from variants.contract.registry import reference_attention
from variants.engines.primitives import float32_route

Baselines = Mapping[str, Seen]  # by implementation


def measure_baselines(case: Case, given: Given, settings: Settings) -> dict[str, Seen]:
    """Measure every exact implementation that runs here on this shape."""
    found: dict[str, Seen] = {}
    for name, cls in variants.REGISTRY.items():
        if not cls.info.is_exact:
            continue
        for implementation in cls.info.implementations:
            if implementation in cls.info.reduced_precision:
                continue  # less accurate than exact attention
            attention = variants.create(name, implementation=implementation)
            try:
                if attention.unavailable(implementation, torch.device(case.device)):
                    continue
                if case.direction == "decode":
                    # Other implementations have the decoding step of `auto`.
                    if implementation != cls.info.reference:
                        attention = variants.create(name)
                    implementation = used_implementation(attention, case, given.inputs)
                    if implementation in found:
                        continue
                found[implementation] = seen = observe(attention, case, given, settings)
                if attention == reference_attention() and case.device == "cpu":
                    median = _on_route_ms(attention, case, given, settings, seen)
                    found[implementation] = replace(seen, on_route_ms=median)
            except Exception as error:  # a baseline that fails must not fail the other rows
                reason = failure(error, settings.files)[1]
                print(f"no exact baseline by {implementation}: {reason}", file=sys.stderr)
                if cuda_graph.spoiled():
                    return found  # this process must not measure more
    return found


def of_sdpa(exact: Baselines) -> Seen | None:
    """The baseline by torch SDPA, if there is one."""
    return exact.get(reference_attention().implementation)


def fastest(exact: Baselines) -> Seen | None:
    """The fastest exact implementation with at most twice the error of torch SDPA."""
    return min(_accurate(exact), key=lambda seen: seen.median_ms, default=None)


def smallest_peak(exact: Baselines) -> int | None:
    """The smallest peak memory, in bytes, of these implementations.

    It is not that of the fastest one: the fastest one may change with the noise of the times.
    """
    return min((seen.peak.bytes for seen in _accurate(exact)), default=None)


def _accurate(exact: Baselines) -> list[Seen]:
    sdpa = of_sdpa(exact)
    return [seen for seen in exact.values() if sdpa is None or _error(seen) <= 2 * _error(sdpa)]


def _error(seen: Seen) -> float:
    error = seen.accuracy.approx_error_rel_l2
    assert error is not None
    return error


def _on_route_ms(
    attention: Attention, case: Case, given: Given, settings: Settings, seen: Seen
) -> float:
    """Median time on the chosen route of an attention that was measured at torch's defaults."""
    in_float32 = case.dtype in ("float32", "float16")  # a CPU computes float16 in float32
    same = float32_route.present() == "default" or case.direction == "decode" or not in_float32
    if same:
        return seen.median_ms
    key = given.inputs.query if case.projections == "shared" else given.inputs.key
    call = timed_call(attention, given.inputs, key, case)
    if case.projections != "none":
        call = projections.closure(attention, case)
    return clock.measure(call, torch.device(case.device), settings.seconds).quartiles[1]
