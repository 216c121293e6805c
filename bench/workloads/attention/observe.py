"""Measures one attention on given inputs: time, memory, errors and more."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from time import perf_counter

import torch
from torch import Tensor

from bench.instruments import accuracy, clock, cuda_graph, memory, more_columns
from bench.instruments.accuracy import MeasuredAccuracy
from bench.instruments.torch_defaults import torch_defaults
from bench.instruments.work import affordable_keys
from bench.schema.case import Case
from bench.workloads.attention import projections
from bench.workloads.attention.decode_steps import Decoder
from bench.workloads.attention.given_inputs import Given, Settings
from bench.workloads.attention.timed_call import (
    check_output,
    differentiable_forward,
    timed_call,
    used_implementation,
)
from variants import Attention, UnsupportedError
from variants.contract.registry import reference_attention
from variants.engines.primitives import float32_route


@dataclass(frozen=True)
class Seen:
    """The measurements of one attention on one shape."""

    samples: clock.Samples
    peak: memory.Peak
    prepare_ms: float
    accuracy: MeasuredAccuracy
    implementation: str
    float32_route: str = ""  # empty on a GPU
    state_bytes: int | None = None
    filled_bytes: int | None = None  # state_bytes without free space
    instruments: Mapping[str, float | bool | None] = field(default_factory=dict)  # more columns
    saved_bytes: int | None = None  # between a forward and a backward pass
    on_route_ms: float | None = None  # median of torch SDPA on the chosen route, CPU only

    @property
    def median_ms(self) -> float:
        """Median time of a call in ms."""
        return self.samples.quartiles[1]


def observe(attention: Attention, case: Case, given: Given, settings: Settings) -> Seen:
    """Measure torch SDPA at torch's defaults, and every other attention on the route of float32
    products that this process has chosen."""
    as_it_comes = (
        used_implementation(attention, case, given.inputs) == reference_attention().implementation
    )
    with torch_defaults() if as_it_comes else nullcontext():
        return _observe(attention, case, given, settings)


def _observe(attention: Attention, case: Case, given: Given, settings: Settings) -> Seen:
    device, inputs = torch.device(case.device), given.inputs
    query = inputs.query
    layer = None if case.projections == "none" else projections.closure(attention, case)
    shared = attention.uses_shared_qk or case.projections == "shared"
    key = query if shared else inputs.key
    if shared and (case.heads, case.seq_len) != (case.kv_heads, case.key_len):
        raise UnsupportedError(
            "shared_qk needs as many keys and key/value heads as queries and query heads"
        )
    # Code is compiled separately for calls with a backward pass, and for the mode of autograd.
    trains = case.direction == "forward_backward"
    wanted = query.detach().requires_grad_(trains)
    started = perf_counter()
    with torch.set_grad_enabled(trains):
        attention.prepare(wanted, wanted if shared else key, causal=case.causal)
    alone = timed_call(attention, inputs, key, case)
    prepare_ms = 1e3 * (perf_counter() - started)
    call, shape = alone, tuple(query.shape)
    if layer is not None:
        call, shape = layer, (case.batch, case.seq_len, case.heads * case.head_dim)
    decoder = alone if isinstance(alone, Decoder) else None
    if decoder is not None:
        shape = tuple(query[:, :, -1:].shape)
    # On the fast route, a matrix product with one row takes many times as long.
    with torch_defaults() if decoder else nullcontext():
        started = perf_counter()
        check_output(call(), shape, query.dtype)
        first_ms = 1e3 * (perf_counter() - started)
        timed = cuda_graph.recorded(call, device) if case.launch == "graph" else call
        watch = more_columns.watch(device)
        # A call of some seconds is enough warm-up. The first call on a GPU may compile a kernel.
        warm = timed is call and first_ms > (1e3 if device.type == "cpu" else 1e4)
        samples = clock.measure(timed, device, settings.seconds, warm=warm, watch=watch)
        if layer is not None:
            check_output(timed(), shape, query.dtype)
        last = timed() if layer is None else alone()
        check_output(last, shape if layer is None else tuple(query.shape), query.dtype)
        out = decoder.out if decoder else last[:, :, given.reference.sample.rows]
        quality = _accuracy(attention, case, given, out, shared)
        del last, out
        more = more_columns.columns(
            attention,
            case,
            timed,
            (query, key, inputs.value),
            samples,
            watch,
            first_ms=prepare_ms + first_ms,
            energy_seconds=settings.energy,
        )
        forward = None
        if trains and layer is None:
            _, forward = differentiable_forward(attention, inputs, key, case)
        return Seen(
            samples=samples,
            peak=memory.peak(call, device),
            saved_bytes=memory.saved_bytes(forward, device) if forward else None,
            prepare_ms=prepare_ms,
            accuracy=quality,
            implementation=used_implementation(attention, case, inputs),
            float32_route=float32_route.present() if device.type == "cpu" else "",
            state_bytes=decoder.state.nbytes if decoder else None,
            filled_bytes=decoder.state.filled_bytes if decoder else None,
            instruments=more,
        )


def _accuracy(
    attention: Attention, case: Case, given: Given, out: Tensor, shared_qk: bool
) -> MeasuredAccuracy:
    """The errors of an output, their spread over seeds, and the errors of gradients."""
    reference = given.reference
    quality = accuracy.measure(
        attention,
        reference,
        out,
        shared_qk=shared_qk,
        affordable_keys=affordable_keys(attention, case),
    )
    if case.direction != "decode":
        with torch.no_grad():
            found = accuracy.seed_errors(attention, reference, shared_qk=shared_qk)
        quality = quality.over_seeds(found)
    if case.direction == "forward_backward":
        errors = accuracy.gradient_errors(attention, reference, shared_qk=shared_qk)
        quality = quality.with_gradients(*errors)
    return quality
