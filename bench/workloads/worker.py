"""Measures one case. Runs in a worker process, which may die without ending the sweep."""

from __future__ import annotations

import os
import re
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import variants
from bench import inputs
from bench.inputs import CaptureError, Inputs, InputsError
from bench.instruments import accuracy, clock, cuda_graph, environment, memory, roofline
from bench.instruments import more_columns as instruments
from bench.instruments.accuracy import Accuracy, Reference
from bench.instruments.torch_defaults import torch_defaults
from bench.instruments.work import affordable_keys, useful_flops
from bench.schema.measurement import DIFFERS, Case, Measurement, Raw, Status
from bench.workloads import decode_steps, projections
from bench.workloads.decode_steps import Decoder
from variants import Attention, UnsupportedError
from variants.contract.checks import require
from variants.contract.registry import reference_attention
from variants.engines.primitives import float32_route

# The folders of an absolute path, but not those of a URL.
FOLDERS = re.compile(r"(?<![\w.:/])/(?:[^\s/:'\"]+/)+")
# Share of the free memory that a CPU worker may use. Above it, allocations raise an error; without
# this limit, the system would kill the worker.
MEMORY_SHARE = 0.9


@dataclass(frozen=True)
class Settings:
    """The settings that all cases of a run share."""

    files: Mapping[str, Path]
    matmul_tflops: Mapping[str, float | None]
    seconds: float  # sampling time of a case
    read_gb_per_s: float | None = None
    energy: float = 0.0  # seconds in which calls are repeated to measure their energy


@dataclass(frozen=True)
class _Seen:
    """The measurements of one attention on one shape."""

    samples: clock.Samples
    peak_bytes: int
    prepare_ms: float
    accuracy: Accuracy
    implementation: str
    float32_route: str = ""  # empty on a GPU
    state_bytes: int | None = None
    filled_bytes: int | None = None  # state_bytes without free space
    instruments: Mapping[str, float | bool | None] = field(default_factory=dict)  # more columns
    on_route_ms: float | None = None  # median of torch SDPA on the chosen route, CPU only


def start(log: str, on_gpu: bool, modules: Sequence[str] = ()) -> None:
    """Set up a new worker process.

    Redirects its output to a log, imports the modules that add implementations, and on a CPU
    chooses the route of float32 products and limits the memory of the process.
    """
    target = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    sys.stdout.flush()
    sys.stderr.flush()
    os.dup2(target, 1)
    os.dup2(target, 2)
    os.close(target)
    for module in modules:
        import_module(module)
    if not on_gpu:
        variants.choose_float32_route()
    free = environment.memory_bytes("MemAvailable")
    if on_gpu or free is None:
        return  # CUDA reserves much more address space than it uses
    import resource

    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    limit = used + int(MEMORY_SHARE * free)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def measure_limits(device: str, dtypes: list[str], seconds: float) -> dict[str, object]:
    """The limits of the machine, for cases that are sampled for `seconds`. Runs in the worker, as
    the parent process does not use devices."""
    return roofline.measure(torch.device(device), dtypes, min(roofline.SECONDS, 5 * seconds))


def describe(device: str) -> dict[str, Any]:
    """The environment of the worker process."""
    return environment.describe(torch.device(device))


def measure_exact(case: Case, settings: Settings) -> None:
    """Measure the exact baselines of a case's shape, for all following cases of this shape.

    This is a separate call with its own timeout, so that other cases are measured even if exact
    attention is too slow.
    """
    try:
        _enter(case, settings, exact=True)
    except Exception as error:  # the cases raise it too, and report it in their rows
        print(f"no exact baseline: {error}", file=sys.stderr)


def measure(case: Case, settings: Settings, exact: bool = True) -> tuple[Measurement, Raw]:
    """Measure a case. Returns its row and the raw data; every exception becomes a row.

    With `exact`, the baselines of its shape are measured first, unless they are there already.
    Without `exact`, the row has no numbers relative to exact attention.
    """
    try:
        return _measure(case, settings, exact)
    except Exception as error:
        row = Measurement.of(case, *failure(error, settings.files))
        return row, Raw(spoiled=cuda_graph.spoiled())


def failure(error: Exception, files: Mapping[str, Path]) -> tuple[Status, str]:
    """The status and the reason of a case that raised `error`.

    The reason contains the names of `files` instead of their paths.
    """
    text = _sentence(error, files)
    if isinstance(error, UnsupportedError | InputsError | CaptureError):
        return Status.UNSUPPORTED, text
    # If the CPU allocator fails, torch raises a plain RuntimeError.
    refused = isinstance(error, RuntimeError) and "can't allocate memory" in text
    if refused or isinstance(error, MemoryError | torch.OutOfMemoryError):
        return Status.OUT_OF_MEMORY, text
    return Status.ERROR, f"{type(error).__name__}: {text}"


def _sentence(error: Exception, files: Mapping[str, Path]) -> str:
    """The message on one line, with at most 300 characters and without local folders."""
    text = " ".join(str(error).split()) or type(error).__name__
    for name, path in files.items():
        text = text.replace(str(path), f"file:{name}")
    text = FOLDERS.sub("", text)
    return text if len(text) <= 300 else text[:297] + "..."


class _Shape:
    """The inputs and exact baselines of the current shape."""

    key: tuple[Any, ...] | None = None
    inputs_key: tuple[Any, ...] | None = None
    inputs: Inputs
    reference: Reference
    described: Mapping[str, float | None]  # columns that all methods share
    exact: dict[str, _Seen]


def _enter(case: Case, settings: Settings, *, exact: bool) -> None:
    """Make the shape of a case the current one: load its inputs and measure its baselines."""
    cuda_graph.refuse(case)
    if _Shape.key != case.shape:
        same_inputs = _Shape.key is not None and _Shape.inputs_key == _inputs_key(case)
        _Shape.key = None
        if not same_inputs:
            _Shape.inputs = given = inputs.load(case, settings.files)
            _Shape.reference = Reference.of(
                given.query, given.key, given.value, _sample(case), causal=case.causal
            )
            _Shape.described = accuracy.input_columns(_Shape.reference)
        _Shape.exact = _exact_baselines(case, _Shape.inputs, settings) if exact else {}
        _Shape.key, _Shape.inputs_key = case.shape, _inputs_key(case)


def _inputs_key(case: Case) -> tuple[Any, ...]:
    """The fields that inputs and exact outputs depend on; they depend neither on a backward pass
    nor on the launch."""
    same = replace(case, launch="eager")
    if case.direction == "forward_backward":
        same = replace(same, direction="forward")
    return same.shape


def _sample(case: Case) -> accuracy.Sample:
    """The rows on which errors are measured; for decode, tokens that are decoded one by one."""
    if case.direction == "decode":
        return accuracy.last_rows(decode_steps.checked_rows(case.key_len))
    heads = case.batch * case.heads
    return accuracy.sample_rows(case.seq_len, case.key_len, causal=case.causal, heads=heads)


def _measure(case: Case, settings: Settings, exact: bool) -> tuple[Measurement, Raw]:
    attention = case.attention
    if reason := attention.cannot_run(torch.device(case.device)):
        raise UnsupportedError(reason)
    if case.direction == "forward_backward":
        require(attention, "backward")
    if case.direction == "decode":
        require(attention, "step")
        decode_steps.check(attention, case)
    _enter(case, settings, exact=exact)
    implementation = _used(attention, case, _Shape.inputs)
    is_baseline = attention.info.is_exact and implementation in _Shape.exact
    if is_baseline:
        seen = _Shape.exact[implementation]
    else:
        seen = _see(attention, case, _Shape.inputs, settings)
    row = _row(attention, case, seen, settings)
    heads = seen.accuracy.heads if row.status is Status.OK else ()
    return row, Raw(seen.samples.device_ms, heads, spoiled=cuda_graph.spoiled())


def _exact_baselines(case: Case, given: Inputs, settings: Settings) -> dict[str, _Seen]:
    """Measure every exact implementation that runs here on this shape."""
    found = {}
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
                    implementation = _used(attention, case, given)
                    if implementation in found:
                        continue
                found[implementation] = seen = _see(attention, case, given, settings)
                if attention == reference_attention() and case.device == "cpu":
                    median = _on_route_ms(attention, case, given, settings, seen)
                    found[implementation] = replace(seen, on_route_ms=median)
            except Exception as error:  # a baseline that fails must not fail the other rows
                print(f"no exact baseline by {implementation}: {error}", file=sys.stderr)
                if cuda_graph.spoiled():
                    return found  # this process must not measure more
    return found


def _see(attention: Attention, case: Case, given: Inputs, settings: Settings) -> _Seen:
    """Measure torch SDPA at torch's defaults, and every other attention on the route of float32
    products that this process has chosen."""
    as_it_comes = _used(attention, case, given) == reference_attention().implementation
    with torch_defaults() if as_it_comes else nullcontext():
        return _see_here(attention, case, given, settings)


def _on_route_ms(
    attention: Attention, case: Case, given: Inputs, settings: Settings, seen: _Seen
) -> float:
    """Median time on the chosen route of an attention that was measured at torch's defaults."""
    in_float32 = case.dtype in ("float32", "float16")  # a CPU computes float16 in float32
    same = float32_route.present() == "default" or case.direction == "decode" or not in_float32
    if same:
        return seen.samples.quartiles[1]
    key = given.query if case.projections == "shared" else given.key
    call = _closure(attention, given, key, case)
    if case.projections != "none":
        call = projections.closure(attention, case)
    return clock.measure(call, torch.device(case.device), settings.seconds).quartiles[1]


def _see_here(attention: Attention, case: Case, given: Inputs, settings: Settings) -> _Seen:
    device = torch.device(case.device)
    query = given.query
    layer = None if case.projections == "none" else projections.closure(attention, case)
    shared = attention.uses_shared_qk or case.projections == "shared"
    key = query if shared else given.key
    if shared and (case.heads, case.seq_len) != (case.kv_heads, case.key_len):
        raise UnsupportedError(
            "shared_qk needs as many keys and key/value heads as queries and query heads"
        )
    # Code is compiled separately for calls with a backward pass, and for the mode of autograd.
    trains = case.direction == "forward_backward"
    wanted = query.detach().requires_grad_(trains)
    started = time.perf_counter()
    with torch.set_grad_enabled(trains):
        attention.prepare(wanted, wanted if shared else key, causal=case.causal)
    alone = _closure(attention, given, key, case)
    prepare_ms = 1e3 * (time.perf_counter() - started)
    call, shape = alone, tuple(query.shape)
    if layer is not None:
        call, shape = layer, (case.batch, case.seq_len, case.heads * case.head_dim)
    decoder = alone if isinstance(alone, Decoder) else None
    if decoder is not None:
        shape = tuple(query[:, :, -1:].shape)
    # On the fast route, a matrix product with one row takes many times as long.
    with torch_defaults() if decoder else nullcontext():
        started = time.perf_counter()
        _check_output(call(), shape, query.dtype)
        first_ms = 1e3 * (time.perf_counter() - started)
        timed = cuda_graph.recorded(call, device) if case.launch == "graph" else call
        watch = instruments.watch(device)
        # A call of some seconds is enough warm-up. The first call on a GPU may compile a kernel.
        warm = timed is call and first_ms > (1e3 if device.type == "cpu" else 1e4)
        samples = clock.measure(timed, device, settings.seconds, warm=warm, watch=watch)
        if layer is not None:
            _check_output(timed(), shape, query.dtype)
        last = timed() if layer is None else alone()
        _check_output(last, shape if layer is None else tuple(query.shape), query.dtype)
        out = decoder.out if decoder else last[:, :, _Shape.reference.sample.rows]
        quality = _accuracy(attention, case, out, shared)
        del last, out
        more = instruments.columns(
            attention,
            case,
            timed,
            (query, key, given.value),
            samples,
            watch,
            first_ms=prepare_ms + first_ms,
            energy_seconds=settings.energy,
        )
        return _Seen(
            samples=samples,
            peak_bytes=memory.peak_bytes(call, device),
            prepare_ms=prepare_ms,
            accuracy=quality,
            implementation=_used(attention, case, given),
            float32_route=float32_route.present() if device.type == "cpu" else "",
            state_bytes=decoder.state.nbytes if decoder else None,
            filled_bytes=decoder.state.filled_bytes if decoder else None,
            instruments=more,
        )


def _accuracy(attention: Attention, case: Case, out: Tensor, shared_qk: bool) -> Accuracy:
    """The errors of an output, their spread over seeds, and the errors of gradients."""
    reference = _Shape.reference
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


def _used(attention: Attention, case: Case, given: Inputs) -> str:
    """The name of the implementation that runs."""
    if case.direction == "decode":
        return "step" if attention.implementation == "auto" else attention.implementation
    return attention.choose_implementation(given.query, given.key)


def _closure(attention: Attention, given: Inputs, key: Tensor, case: Case) -> Callable[[], Tensor]:
    """The timed call. It returns the output, also with a backward pass."""
    query, value = given.query, given.value
    if case.direction == "decode":
        return Decoder(attention, given, key)
    if case.direction == "forward":

        def forward() -> Tensor:
            with torch.no_grad():
                return attention(query, key, value, causal=case.causal)

        return forward
    shared = key is query
    query = query.detach().requires_grad_()
    key = query if shared else key.detach().requires_grad_()
    value = value.detach().requires_grad_()
    leaves = (query, value) if shared else (query, key, value)
    grad = torch.ones_like(query)

    def forward_backward() -> Tensor:
        out = attention(query, key, value, causal=case.causal)
        # A method may not use an input: a mean of all values does not depend on the query.
        torch.autograd.grad(out, leaves, grad, allow_unused=True)
        return out.detach()

    return forward_backward


def _check_output(out: object, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    if not isinstance(out, Tensor) or out.shape != shape or out.dtype != dtype:
        raise RuntimeError(
            f"the output must be a tensor {shape} of {dtype}; got "
            f"{tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__}"
        )


def _row(attention: Attention, case: Case, seen: _Seen, settings: Settings) -> Measurement:
    bound = accuracy.rounding(
        case.dtype,
        reduced_precision=seen.implementation in attention.info.reduced_precision,
    )
    errors = seen.accuracy
    # Written so that NaN is also incorrect.
    if errors.impl_error_rel_l2 is not None and not errors.impl_error_rel_l2 <= bound:
        return Measurement.of(
            case,
            Status.INCORRECT,
            f"the output differs from its own dense definition by {errors.impl_error_rel_l2:.2g}; "
            f"rounding in {case.dtype} explains at most {bound:.2g}",
        )
    if reason := accuracy.contradiction(attention, errors):
        return Measurement.of(case, Status.INCORRECT, reason)
    first, median, third = seen.samples.quartiles
    tflops = fraction = None
    flops = useful_flops(attention, case)
    if flops is not None:
        tflops = flops / median / 1e9
        limit = settings.matmul_tflops.get(case.dtype)
        if limit and tflops > roofline.SUSPICIOUS * limit:
            # The limit may have been measured while the machine was busy: measure it again. An
            # implementation of reduced precision multiplies in bfloat16, whatever its inputs are.
            reduced = seen.implementation in attention.info.reduced_precision
            dtypes = [case.dtype, *(["bfloat16"] if reduced else [])]
            again = roofline.measure(torch.device(case.device), dtypes)
            limit = max(limit, *(rate or 0.0 for rate in again["matmul_tflops"].values()))
        fraction = tflops / limit if limit else None
    if fraction is not None and fraction > roofline.SUSPICIOUS:
        return Measurement.of(
            case,
            Status.INCORRECT,
            f"{tflops:.3g} TFLOP/s is {fraction:.0%} of the measured matmul rate of this machine",
        )
    if seen.filled_bytes is not None and settings.read_gb_per_s:
        fraction = seen.filled_bytes / median / 1e6 / settings.read_gb_per_s
    sdpa = _Shape.exact.get(reference_attention().implementation)
    exact = _fastest_exact(sdpa)
    exact_ms = exact.samples.quartiles[1] if exact else None
    return Measurement.of(
        case,
        Status.OK,
        f"{DIFFERS}{attention.differs}" if attention.differs else "",
        implementation_used=seen.implementation,
        inputs_detail=_Shape.inputs.detail,
        time_ms_median=median,
        time_ms_q1=first,
        time_ms_q3=third,
        time_ms_min=min(seen.samples.device_ms),
        repeats=len(seen.samples.device_ms),
        wall_ms_median=statistics.median(seen.samples.wall_ms),
        prepare_ms=seen.prepare_ms,
        exact_ms_median=exact_ms,
        exact_implementation=exact.implementation if exact else "",
        sdpa_ms_median=sdpa.samples.quartiles[1] if sdpa else None,
        sdpa_route_ms_median=sdpa.on_route_ms if sdpa else None,
        float32_route=seen.float32_route,
        speedup_vs_exact=exact_ms / median if exact_ms else None,
        peak_memory_bytes=seen.peak_bytes,
        state_bytes=seen.state_bytes,
        exact_peak_memory_bytes=exact.peak_bytes if exact else None,
        memory_vs_exact=seen.peak_bytes / exact.peak_bytes if exact else None,
        target=attention.target,
        **seen.instruments,
        **errors.columns,
        **_Shape.described,
        useful_flops=flops,
        tflops=tflops,
        roofline_fraction=fraction,
    )


def _fastest_exact(sdpa: _Seen | None) -> _Seen | None:
    """The fastest exact implementation with at most twice the error of torch SDPA."""
    good = [
        seen
        for seen in _Shape.exact.values()
        if sdpa is None
        or seen.accuracy.approx_error_rel_l2 <= 2 * sdpa.accuracy.approx_error_rel_l2
    ]
    return min(good, key=lambda seen: seen.samples.quartiles[1], default=None)
