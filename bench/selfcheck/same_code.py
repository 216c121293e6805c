"""Measures a selfcheck in one process: the same calls, timed again and again."""

from __future__ import annotations

import math
import statistics
import time
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import variants
from bench.instruments import clock
from bench.instruments.disturbance import Disturbance, threads_for
from bench.instruments.gpu_sensors import Watch, sensors_of
from bench.selfcheck.resolution import QUANTILE, Block, interleaved, resolution
from variants.contract.registry import reference_attention

__all__ = ["CaseResolution", "Selfcheck", "SelfcheckCase", "all_cases", "measure", "short"]

SCHEMA = 1
CASES = Path(__file__).parent / "cases.toml"
BLOCKS = 4  # of a comparison
COMPARISONS = 20  # of a case, where the time allows: the fewest with a resolution, and one more
SHORT_SECONDS = 2.0
SHORT_LIMIT = 4.0  # times the sampling time
LENGTHS = {"cpu": (128, 512, 1024), "cuda": (1024, 4096, 16384)}
HEADS = {"cpu": 8, "cuda": 16}
HEAD_DIM = 64


@dataclass(frozen=True)
class SelfcheckCase:
    """A call that is timed against itself: float32, forward, not causal."""

    variant: str  # empty: exact attention by torch's scaled_dot_product_attention
    seq_len: int

    def text(self, device: str) -> str:
        """The name of the case in files and messages."""
        name = self.variant or "full sdpa"
        return f"{name} n={self.seq_len} heads={HEADS[device]} head_dim={HEAD_DIM} float32"

    def call(self, device: str) -> Callable[[], Tensor]:
        """The call on fixed random inputs. It has been called once."""
        generator = torch.Generator().manual_seed(0)
        shape = (3, 1, HEADS[device], self.seq_len, HEAD_DIM)
        query, key, value = torch.randn(shape, generator=generator).to(device).unbind()
        attention = variants.create(self.variant) if self.variant else reference_attention()

        def call() -> Tensor:
            with torch.inference_mode():
                return attention(query, key, value)

        call()
        return call


@dataclass(frozen=True)
class CaseResolution:
    """A case of a selfcheck. `resolution` is None if there are fewer than 19 comparisons."""

    case: str
    median_ms: float
    comparisons: int
    resolution: float | None


@dataclass(frozen=True)
class Selfcheck:
    """The result of a selfcheck, and the content of selfcheck.json.

    `resolution` is that of two measurements next to each other in one process, over all cases;
    `resolution_between_processes` is that of measurements in different processes. Both are relative
    differences, and `resolution.resolution` says how they are computed. `block_seconds` is the
    sampling time of one measurement, in seconds. `disturbed` says what disturbed the times.
    """

    device: str
    resolution: float | None
    comparisons: int
    block_seconds: float
    disturbed: str
    cases: Sequence[CaseResolution] = ()
    resolution_between_processes: float | None = None
    processes: int = 1
    quantile: float = QUANTILE
    started_utc: str = field(
        default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds")
    )
    schema: int = SCHEMA

    @property
    def values(self) -> dict[str, Any]:
        """The fields as an object of JSON."""
        return asdict(self)


@dataclass
class Measured:
    """Differences of the comparisons of one case, and medians of their blocks in ms."""

    differences: list[float] = field(default_factory=list)
    medians: list[float] = field(default_factory=list)


def all_cases(device: str) -> list[SelfcheckCase]:
    """The cases of `python -m bench selfcheck`."""
    return [
        SelfcheckCase(variant, seq_len)
        for variant in ("", *_variants())
        for seq_len in LENGTHS[device]
    ]


def _variants() -> list[str]:
    return list(tomllib.loads(CASES.read_text(encoding="utf-8"))["variants"])


def short_cases(device: str) -> list[SelfcheckCase]:
    """The cases of the check at the start and the end of a run.

    Those on a GPU need no kernel that is compiled first.
    """
    if device == "cuda":
        return [SelfcheckCase("", seq_len) for seq_len in LENGTHS[device]]
    return [SelfcheckCase(variant, LENGTHS[device][1]) for variant in ("", _variants()[0])]


def measure(
    device: str,
    cases: Sequence[SelfcheckCase],
    seconds: float,
    comparisons: int,
    limit: float = math.inf,
) -> tuple[dict[SelfcheckCase, Measured], str]:
    """Compare each case with itself `comparisons` times, one case after the other in each round.

    Args:
        device: cpu or cuda.
        cases: the cases.
        seconds: sampling time of all comparisons. A call that is long takes more, since each block
            has at least `clock.MINIMUM_SAMPLES` calls.
        comparisons: number of comparisons of each case.
        limit: seconds after which no new round begins.

    Returns:
        What was measured, and what disturbed it.
    """
    place = torch.device(device)
    block = block_seconds(seconds, len(cases), comparisons)
    calls = {case: case.call(device) for case in cases}
    found = {case: Measured() for case in cases}
    sensors = Watch(sensors_of(place))
    for call in calls.values():
        clock.measure(call, place, 0.0)  # warm-up
    disturbance = Disturbance(threads_for(place))
    disturbance.begin()
    started = time.perf_counter()
    for _ in range(comparisons):
        for case, call in calls.items():

            def timed(call: Callable[[], Tensor] = call) -> Block:
                return clock.measure(call, place, block, warm=True, watch=sensors).device_ms

            apart, blocks = interleaved(timed)
            found[case].differences.append(apart)
            found[case].medians.extend(map(statistics.median, blocks))
        if time.perf_counter() - started > limit:
            break
    reasons = [disturbance.end()]
    if sensors.columns["throttled"]:
        reasons.append("the driver lowered the clock of the GPU")
    return found, "; ".join(filter(None, reasons))


def block_seconds(seconds: float, cases: int, comparisons: int) -> float:
    """The sampling time of one block."""
    return seconds / (cases * comparisons * BLOCKS)


def summary(found: dict[SelfcheckCase, Measured], device: str) -> list[CaseResolution]:
    """A line for each case."""
    return [
        CaseResolution(
            case.text(device),
            statistics.median(one.medians),
            len(one.differences),
            resolution(one.differences),
        )
        for case, one in found.items()
    ]


def short(device: str, seconds: float = SHORT_SECONDS) -> dict[str, Any]:
    """The selfcheck at the start and the end of a run, in the process that measures cases.

    Args:
        device: cpu or cuda.
        seconds: sampling time.

    Returns:
        The values of a `Selfcheck`.
    """
    cases = short_cases(device)
    comparisons = -(-COMPARISONS // len(cases))
    found, disturbed = measure(device, cases, seconds, comparisons, SHORT_LIMIT * seconds)
    together = [value for one in found.values() for value in one.differences]
    return Selfcheck(
        device=device,
        resolution=resolution(together),
        comparisons=len(together),
        block_seconds=block_seconds(seconds, len(cases), comparisons),
        disturbed=disturbed,
        cases=summary(found, device),
    ).values
