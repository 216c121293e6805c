"""Predicts the time and the memory of cases from rows that the machine has measured before.

The time of a case is its own time and, for the first case of a shape, that of the exact baselines
of the shape. Each is that of the same case (`measured`), else it follows from the same attention at
other lengths (`scaled`), else from operation counts and the matmul rate of the machine (`counted`).
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache

import torch

from bench.instruments import clock
from bench.plan import forecast
from bench.plan.forecast import operations_of
from bench.schema.case import Case
from bench.schema.measurement import Measurement
from bench.schema.outcome import Status
from variants import Attention
from variants.contract.registry import reference_attention

# Assumptions where nothing is measured.
MATMUL_TFLOPS = {"cpu": 0.05, "cuda": 50.0}
EFFICIENCY = 0.2  # share of the matmul rate that a call reaches
CALL_SECONDS = {"cpu": 5e-4, "cuda": 2e-4}  # of a call without operations
CASE_SECONDS = 0.4  # inputs, warm-up, definitions, checks
BASELINES = 2  # exact implementations that are measured for each shape
# The true time is expected between these multiples of a predicted one.
RANGES = {"measured": (0.8, 1.3), "scaled": (0.6, 1.8), "counted": (0.3, 3.0)}


@dataclass(frozen=True)
class Known:
    """A row of an earlier run, with its times in seconds."""

    row: Measurement
    seconds: float  # from the start of the case to its row
    shared_seconds: float  # the part that measured the baselines of the shape

    @property
    def own_seconds(self) -> float:
        """The part of the case alone."""
        return max(0.0, self.seconds - self.shared_seconds)


@dataclass(frozen=True)
class Prediction:
    """The time and the memory that a case is expected to need.

    Attributes:
        seconds: time of the case, with the baselines if it is the first case of its shape.
        source: where the time comes from: measured, scaled or counted.
        peak_bytes: peak memory of a call beyond its inputs, as column `peak_memory_bytes`.
        needed_bytes: peak memory of the process with the inputs of the case.
        least: whether `needed_bytes` has only the inputs and the output.
        failed: whether the case, or a shorter one, was out of memory before.
    """

    case: Case
    seconds: float
    source: str
    peak_bytes: int
    needed_bytes: int
    least: bool
    failed: bool = False


@dataclass(frozen=True)
class Predictor:
    """Predicts cases from known rows.

    Args:
        known: rows of earlier runs on this machine, by the id of their cases.
        matmul_tflops: measured matmul rates of the machine by dtype.
        seconds: sampling time of a case.
        timeout: seconds after which a case is stopped.
        skipped: says why a case is not measured, from the rows of others; empty if it is.
    """

    known: Mapping[str, Known]
    matmul_tflops: Mapping[str, float | None]
    seconds: float
    timeout: float
    skipped: Callable[[Case, Mapping[str, Measurement]], str]
    _alike: dict[Hashable, list[Known]] = field(default_factory=lambda: defaultdict(list))

    def __post_init__(self) -> None:
        for known in self.known.values():
            self._alike[forecast.family(known.row.case)].append(known)
            self._alike[_shape(known.row.case)].append(known)

    def predict(self, cases: Sequence[Case]) -> list[Prediction]:
        """The predictions of cases in the order in which they are measured."""
        shapes: set[Hashable] = set()
        found = []
        for case in cases:
            first = case.shape not in shapes
            shapes.add(case.shape)
            found.append(self._of(case, first=first))
        return found

    def _of(self, case: Case, *, first: bool) -> Prediction:
        same = self.known.get(case.case_id)
        alike = self._alike.get(forecast.family(case), [])
        series = case.without_lengths()
        in_series = [x for x in alike if x.row.case.without_lengths() == series]
        usable = [x for x in in_series if x.row.status is Status.OK]
        usable = usable or [x for x in alike if x.row.status is Status.OK]
        peak = _grown(case, usable, _peak_bytes)
        taken = _grown(case, usable, _process_bytes)
        needed = input_bytes(case) + max(peak or output_bytes(case), taken or 0.0)
        rows = {x.row.case.case_id: x.row for x in alike}
        failed = same.row.status is Status.OUT_OF_MEMORY if same else False
        if same and same.row.status is Status.OK:
            own, source = same.own_seconds, "measured"
            peak, needed = _peak_bytes(same), input_bytes(case) + _most_bytes(same)
        elif same:
            own, source = same.own_seconds, "measured"
        elif refused(case) or (alike and self.skipped(case, rows)):
            own, source = 0.0, "scaled" if alike else "counted"
            first = False
        else:
            scaled = self._scaled_seconds(case, usable)
            own = self._calls(case, case.attention) if scaled is None else scaled
            source = "counted" if scaled is None else "scaled"
        seconds = min(own, self.timeout) + (self._shared(case) if first else 0.0)
        out = output_bytes(case)
        least = not peak
        return Prediction(case, seconds, source, round(peak or out), round(needed), least, failed)

    def _scaled_seconds(self, case: Case, usable: Sequence[Known]) -> float | None:
        scaled = _scaled(case, usable, lambda x: x.own_seconds, _operations, fixed=CASE_SECONDS)
        if scaled is None:
            return None
        call = _scaled(case, usable, _call_seconds, _operations, fixed=0.0) or 0.0
        exact = case.attention.info.is_exact  # its row repeats the baseline
        return scaled if exact else max(scaled, forecast.least_calls(case) * call)

    def _shared(self, case: Case) -> float:
        """The seconds of the exact baselines of a shape."""
        rate = self.matmul_tflops.get(case.dtype)
        limit = forecast.BASELINES * self.timeout
        if forecast.exact_out_of_reach(case, rate, limit):
            return 0.0
        measured = [x for x in self._alike.get(_shape(case), []) if x.shared_seconds > 0.01]
        same = [x.shared_seconds for x in measured if x.row.case.shape == case.shape]
        scaled = _scaled(
            case, measured, lambda x: x.shared_seconds, _exact_operations, fixed=CASE_SECONDS
        )
        counted = BASELINES * self._calls(case, reference_attention())
        return min(limit, max(same) if same else counted if scaled is None else scaled)

    def _calls(self, case: Case, attention: Attention) -> float:
        """The seconds of the calls of a case with an attention, from operation counts."""
        if case.attention is attention and attention.info.is_exact:
            return CASE_SECONDS  # the row repeats the baseline
        rate = self.matmul_tflops.get(case.dtype) or MATMUL_TFLOPS[case.device]
        flops = _flops(attention, _plain(case)) or _exact_operations(case)
        call = CALL_SECONDS[case.device] + flops / (1e12 * EFFICIENCY * rate)
        others = forecast.least_calls(case) - clock.MINIMUM_SAMPLES
        sampling = max(self.seconds, clock.MINIMUM_SAMPLES * call)
        return CASE_SECONDS + sampling + others * call


def refused(case: Case) -> bool:
    """Whether a case ends at once, because the variant does not support it here."""
    attention = case.attention
    if case.direction == "forward_backward" and "backward" not in attention.supports:
        return True
    if case.causal not in attention.info.causal_choices:
        return True
    # Elsewhere the answer could start the device.
    return case.device == "cpu" and bool(attention.cannot_run(torch.device("cpu")))


def input_bytes(case: Case) -> int:
    """Bytes of query, key and value."""
    channels = case.heads * case.seq_len + 2 * case.kv_heads * case.key_len
    return case.batch * case.head_dim * channels * _item_bytes(case)


def output_bytes(case: Case) -> int:
    """Bytes of the output, and of the gradients of the inputs."""
    output = case.batch * case.head_dim * case.heads * case.seq_len * _item_bytes(case)
    return output + (input_bytes(case) if case.direction == "forward_backward" else 0)


def _item_bytes(case: Case) -> int:
    return int(getattr(torch, case.dtype).itemsize)


def _shape(case: Case) -> Hashable:
    """The columns that the time of the baselines depends on, except lengths."""
    other = replace(case.without_lengths(), inputs="", layer=None, seed=0)
    return ("shape", other.shape)


@cache
def _flops(attention: Attention, case: Case) -> float | None:
    return operations_of(attention, case)  # counting the pairs of a pattern takes some ms


def _plain(case: Case) -> Case:
    """The case without what its operations do not depend on."""
    return replace(case, inputs="", layer=None, seed=0, dtype="")


def _operations(case: Case) -> float:
    """Operations of a case, or tokens if the operations are not known: only ratios count."""
    return _flops(case.attention, _plain(case)) or float(_tokens(case))


def _exact_operations(case: Case) -> float:
    flops = _flops(reference_attention(), _plain(case))
    return flops or 4.0 * case.batch * case.heads * case.key_len * case.head_dim


def _peak_bytes(known: Known) -> float:
    return float(known.row.peak_memory_bytes or 0)


def _process_bytes(known: Known) -> float:
    return float(known.row.process_peak_bytes or 0)


def _most_bytes(known: Known) -> float:
    return max(_peak_bytes(known), _process_bytes(known))


def _call_seconds(known: Known) -> float:
    return (known.row.time_ms_median or 0.0) / 1e3


def _scaled(
    case: Case,
    known: Sequence[Known],
    amount: Callable[[Known], float],
    size: Callable[[Case], float],
    fixed: float,
) -> float | None:
    """An amount at the lengths of a case: a fixed part, and a part in proportion to a size.

    Both parts follow from the known amounts at the two nearest sizes; with one, the fixed part is
    at most `fixed`. None without known amounts.
    """
    asked = size(case)
    points: dict[float, float] = {}
    for x in known:
        points[size(x.row.case)] = amount(x)
    nearest = sorted(points, key=lambda at: abs(math.log(at / asked)))
    if not nearest:
        return None
    near = points[nearest[0]]
    if len(nearest) == 1:
        constant = min(near, fixed)
    else:
        other = points[nearest[1]]
        slope = (other - near) / (nearest[1] - nearest[0])
        constant = min(near, max(0.0, near - max(0.0, slope) * nearest[0]))
    return constant + (near - constant) * asked / nearest[0]


def _grown(case: Case, known: Sequence[Known], amount: Callable[[Known], float]) -> float | None:
    """An amount at the length of a case: it grows with the length by the power that the two nearest
    lengths show, and in proportion to it with one length. None without known amounts."""
    asked = _tokens(case)
    points = {_tokens(x.row.case): amount(x) for x in known if amount(x) > 0}
    nearest = sorted(points, key=lambda at: abs(math.log(at / asked)))[:2]
    if not nearest:
        return None
    power = 1.0
    if len(nearest) == 2:
        grown = points[nearest[1]] / points[nearest[0]]
        power = min(2.0, max(0.0, math.log(grown) / math.log(nearest[1] / nearest[0])))
    return points[nearest[0]] * (asked / nearest[0]) ** power


def _tokens(case: Case) -> int:
    return case.batch * case.heads * case.key_len
