"""How long a sweep takes on a GPU, before it is measured.

The time of a call is that of the simulation (`simulation.py`, constants in `estimate.py`). The
other assumptions are the constants of this file; `docs/measuring.md` explains them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from functools import cache
from pathlib import Path
from typing import Any

from rich.table import Table

from bench.launches.simulation import FORWARD, FORWARD_BACKWARD, CallWork, Shape, simulate
from bench.plan.sweep import Sweep
from bench.schema.case import Case
from variants import REGISTRY, Attention, create
from variants.contract.implementations import meaning

START_SECONDS = 40.0  # the worker starts, and measures the limits of the machine for each dtype
SHAPE_SECONDS = 0.6  # inputs and their exact rows in float64
CASE_SECONDS = 0.2  # checks, definition on sampled rows, memory, journal
GRADIENT_SECONDS = 0.3  # gradients of the definition
SAMPLING_SECONDS = 0.25  # warm-up and samples of a call that is not slow
SLOW_SECONDS = 0.04  # above this time of a call, few calls are made
FAST_CALLS, SLOW_CALLS = 20, 8  # calls besides those within SAMPLING_SECONDS
SEED_CALLS = 4  # calls with other seeds
CHECK_CALLS = 4  # calls that compare outputs: determinism, batch invariance
# FlexAttention compiles for each shape; a Triton kernel of this project for each dtype and number
# of channels, in two forms on average (variants share kernels).
COMPILE_SECONDS = {FORWARD: 8.0, FORWARD_BACKWARD: 20.0}
KERNEL_SECONDS = 4.0
REFUSED_SECONDS = 0.01
UNKNOWN_SECONDS = 0.1  # a call that cannot be simulated
COUNTED = 150  # kernels of a call after which the simulation ends, and extrapolates the time
SHORT = 1024  # shorter calls are simulated at this length: their time is that of the host


@dataclass(frozen=True)
class GroupTime:
    """The seconds of one group of a sweep, without cases that an earlier group has."""

    cases: int = 0
    refused: int = 0  # cases that the variant does not support
    calls: float = 0.0
    compiling: float = 0.0
    exact: float = 0.0  # exact baselines of new shapes
    other: float = 0.0  # inputs, definitions, checks

    @property
    def seconds(self) -> float:
        return self.calls + self.compiling + self.exact + self.other

    def __add__(self, other: GroupTime) -> GroupTime:
        return GroupTime(
            *(getattr(self, f.name) + getattr(other, f.name) for f in fields(GroupTime))
        )


def table(sweep: Sweep, files: Mapping[str, Path]) -> tuple[Table, str]:
    """A table with a row for each group of a sweep, and a sentence with the whole time."""
    times = of_sweep(sweep, files)
    shown = Table(title=f"{sweep.name} on a GPU: seconds that are expected")
    for column in ("group", "cases", "refused", "calls", "compiling", "exact", "other", "all"):
        shown.add_column(column, justify="left" if column == "group" else "right")
    for axes, time in zip(sweep.groups, times, strict=True):
        shown.add_row(_axes(axes, sweep), *_cells(time))
    whole = sum(times, GroupTime(other=START_SECONDS))
    shown.add_row("start and all groups", *_cells(whole), style="bold")
    return shown, (
        f"{sweep.name} takes about {whole.seconds / 60:.1f} minutes on an H100, from simulated "
        "calls and the assumptions of docs/measuring.md (How long a sweep takes on a GPU)"
    )


def _cells(time: GroupTime) -> list[str]:
    seconds = time.calls, time.compiling, time.exact, time.other, time.seconds
    return [str(time.cases), str(time.refused), *(f"{x:.0f}" for x in seconds)]


def _axes(axes: Mapping[str, tuple[Any, ...]], sweep: Sweep) -> str:
    """The axes of a group without those that most groups share."""
    words = []
    for axis, values in axes.items():
        alike = sum(group.get(axis) == values for group in sweep.groups)
        if axis in ("inputs", "seq_len") or 2 * alike <= len(sweep.groups):
            named = [str(x).split()[0] for x in values] if axis == "variant" else map(str, values)
            words.append(f"{axis}={','.join(dict.fromkeys(named))}")
    return " ".join(words)


def of_sweep(sweep: Sweep, files: Mapping[str, Path]) -> list[GroupTime]:
    """The time of each group on a GPU."""
    shapes: set[object] = set()
    compiled: set[object] = set()
    energy = sweep.energy  # seconds of repeated calls for each case
    found = []
    for cases in sweep.grouped("cuda", files):
        total = GroupTime()
        for case in cases:
            total += _of_case(case, shapes, compiled)
        found.append(total + GroupTime(calls=energy * (total.cases - total.refused)))
    return found


def _of_case(case: Case, shapes: set[object], compiled: set[object]) -> GroupTime:
    attention = case.attention
    if refuses(attention, case):
        return GroupTime(cases=1, refused=1, other=REFUSED_SECONDS)
    exact = other = 0.0
    if case.shape not in shapes:
        shapes.add(case.shape)
        other += SHAPE_SECONDS
        exact = sum(_timing(seconds_of_call(one, case)) for one in _exact())
    if attention.info.is_exact:
        return GroupTime(cases=1, exact=exact, other=other)  # measured as a baseline
    call = seconds_of_call(attention, case)
    extra = CHECK_CALLS + (SEED_CALLS if "seed" in vars(attention) else 0)
    other += CASE_SECONDS + (GRADIENT_SECONDS if case.direction == FORWARD_BACKWARD else 0.0)
    compiling = _compiling(attention, case, compiled)
    return GroupTime(
        cases=1, calls=_timing(call) + extra * call, compiling=compiling, exact=exact, other=other
    )


def refuses(attention: Attention, case: Case) -> bool:
    """Whether a case ends at once, because the variant does not support it."""
    backward = case.direction == FORWARD_BACKWARD and "backward" not in attention.supports
    return backward or case.causal not in attention.info.causal_choices


def seconds_of_call(attention: Attention, case: Case) -> float:
    """The estimated time of one call of the case with another attention of its shape."""
    work = _work(_simulated(attention), shape_of(case), _direction(case))
    return UNKNOWN_SECONDS if work is None else work.seconds


def shape_of(case: Case) -> Shape:
    """The shape to simulate."""
    return Shape(
        seq_len=max(SHORT, case.seq_len),
        batch=case.batch,
        heads=case.heads,
        kv_heads=case.kv_heads,
        head_dim=case.head_dim,
        dtype=case.dtype,
        causal=case.causal,
    )


def _simulated(attention: Attention) -> Attention:
    """The attention to simulate: `auto` in place of a library's kernel, which cannot be."""
    library = attention.implementation in attention.info.libraries
    return replace(attention, implementation="auto") if library else attention


@cache
def _work(attention: Attention, shape: Shape, direction: str) -> CallWork | None:
    try:
        return simulate(attention, shape, direction, most_launches=COUNTED)
    except Exception:  # a kernel that needs data
        return None


def _direction(case: Case) -> str:
    return FORWARD_BACKWARD if case.direction == FORWARD_BACKWARD else FORWARD


def _timing(call: float) -> float:
    """The seconds of warm-up, samples and checks of a call."""
    return SLOW_CALLS * call if call > SLOW_SECONDS else SAMPLING_SECONDS + FAST_CALLS * call


@cache
def _exact() -> tuple[Attention, ...]:
    """The exact implementations that are measured for each shape on a GPU."""
    return tuple(
        create(name, implementation=implementation)
        for name, cls in REGISTRY.items()
        if cls.info.is_exact
        for implementation in cls.info.implementations
        if implementation not in cls.info.reduced_precision
        and "cuda" in meaning(implementation).devices
    )


def _compiling(attention: Attention, case: Case, compiled: set[object]) -> float:
    direction = _direction(case)
    if meaning(attention.implementation).compiles:
        return COMPILE_SECONDS[direction]
    work = _work(_simulated(attention), shape_of(case), direction)
    kernels = {name for name in (work.kernels if work else ()) if "::" in name}
    new = {(name, case.dtype, case.head_dim) for name in kernels} - compiled
    compiled |= new
    return KERNEL_SECONDS * len(new)
