"""The columns of times."""

from __future__ import annotations

from dataclasses import dataclass

from bench.schema.column_types import Amount, Count, Milliseconds, MillisecondsOrZero, Positive
from bench.schema.columns import Record, column


@dataclass(frozen=True, kw_only=True)
class Timing(Record):
    """Times of a call, of exact attention on the same inputs, and sensors during the calls."""

    time_ms_median: Milliseconds | None = column(
        "median device time of a call, ms: CUDA events with a cold L2 cache; wall time on a CPU",
        None,
    )
    time_ms_q1: Milliseconds | None = column("first quartile of the device time, ms", None)
    time_ms_q3: Milliseconds | None = column("third quartile of the device time, ms", None)
    time_ms_min: Milliseconds | None = column("minimum of the device time, ms", None)
    repeats: Count | None = column("number of timed calls", None)
    wall_ms_median: Milliseconds | None = column(
        "median wall time of a call, including synchronisation with the device, ms", None
    )
    launch_bound: bool | None = column(
        "on a GPU: whether wall_ms_median is more than 1.2 times time_ms_median, so that the host "
        "takes longer to launch the call than the device to run it; empty if host_in_time",
        None,
        came_later=True,
    )
    host_in_time: bool | None = column(
        "on a GPU: whether time_ms_median contains time of the host, because the host cannot run "
        "ahead of the device: the call waits for the device, or has more launches than the queue "
        "of the device holds (about a thousand)",
        None,
        came_later=True,
    )
    sm_clock_mhz: Amount | None = column(
        "on a GPU: median clock of its processors during the timed calls, MHz; empty without "
        "NVIDIA's driver library NVML",
        None,
        came_later=True,
    )
    power_w: Amount | None = column(
        "on a GPU: median power of the board during the timed calls, W", None, came_later=True
    )
    throttled: bool | None = column(
        "on a GPU: whether the driver lowered the clock during a timed call, because of the power "
        "limit or the temperature",
        None,
        came_later=True,
    )
    energy_mj: Amount | None = column(
        "on a GPU: energy of the board for one call, mJ, by the counter of the driver over calls "
        "that follow each other for the seconds of `energy` in the sweep; empty if the counter "
        "advances too rarely in this time, or differs from the power sensor by more than a fifth",
        None,
        came_later=True,
    )
    prepare_ms: MillisecondsOrZero | None = column(
        "time to build the objects that later calls of this shape reuse (drawn patterns, "
        "projections), and for decode the context, ms",
        None,
    )
    exact_ms_median: Milliseconds | None = column(
        "median time of the fastest exact implementation with at most twice the error of torch "
        "SDPA, on the same inputs in the same process, ms",
        None,
    )
    exact_implementation: str = column("the implementation of exact_ms_median", "")
    sdpa_ms_median: Milliseconds | None = column(
        "median time of torch SDPA at torch's default settings on the same inputs, ms", None
    )
    sdpa_route_ms_median: Milliseconds | None = column(
        "median time of torch SDPA on the route of float32 products that the run has chosen, ms; "
        "equal to sdpa_ms_median if the route makes no difference; empty on a GPU",
        None,
        came_later=True,
    )
    float32_route: str = column(
        "route of float32 products in the timed call on a CPU: default, or fast "
        "(variants.choose_float32_route); torch SDPA and decoding are timed at torch's defaults",
        "",
        came_later=True,
    )
    speedup_vs_exact: Positive | None = column("exact_ms_median / time_ms_median", None)
