"""Times each variant beside exact attention, with its launches and waits beside those of the
simulation.

A call that does not end, or that breaks the device for its process, has a row too. Then the process
is replaced by a new one, which goes on with the calls that have no row.
"""

from __future__ import annotations

import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import click
import torch
from torch import Tensor

from bench.cli.options import numbers
from bench.gpu_check import call_rows
from bench.gpu_check.call_rows import SLOW, Row
from bench.gpu_check.planned_calls import PlannedCall, planned
from bench.gpu_check.simulated_calls import expected, write_simulated
from bench.instruments import clock, memory, roofline
from bench.launches import profiled
from variants import UnsupportedError

SECONDS = 0.05  # sampling time of a call
# Above this time, a call is neither profiled nor repeated for its memory.
LONG_MS = 1000.0
# Seconds after which a call is given up. One that compiles is given more.
LONGEST, LONGEST_COMPILING = 25.0, 60.0
# Share of the memory of each process that compiles kernels beside the tests.
WARM_SHARE = 0.12


@click.command()
@click.option("--device", default="cuda")
@click.option("--seq-len", "lengths", default="16384,65536")
@click.option("--heads", default=16)
@click.option("--rows", "file", type=click.Path(path_type=Path), required=True)
@click.option("--simulated", "simulated", type=click.Path(path_type=Path), required=True)
@click.option("--simulate", "only_simulate", is_flag=True, help="Write --simulated, and end.")
@click.option("--warm", help="i/n: make a part of the calls once, so that kernels are compiled.")
@click.option("--resumed", is_flag=True, help="Leave out the calls that have a row.")
@click.option("--limit", type=float, help="TFLOP/s of matrix products; measured if not given.")
def main(
    device: str,
    lengths: str,
    heads: int,
    file: Path,
    simulated: Path,
    only_simulate: bool,
    warm: str | None,
    resumed: bool,
    limit: float | None,
) -> None:
    """Time all calls, or prepare for it."""
    calls = planned(numbers("--seq-len", lengths) or [], heads)
    place = torch.device(device)
    if only_simulate:
        write_simulated(calls, simulated)
    elif warm is not None:
        warm_up(calls, place, *map(int, warm.split("/")))
    else:
        if not resumed:
            call_rows.begin(file)
        if limit is None:
            limit = _matmul_tflops(place)
        click.echo(f"matrix products in bfloat16: {limit} TFLOP/s" if limit else "no limit")
        time_all(calls, place, file, simulated, limit)


def warm_up(calls: list[PlannedCall], device: torch.device, first: int, step: int) -> None:
    """Make every `step`-th of the shortest calls once. Failures are reported by another process."""
    if device.type == "cuda":
        torch.cuda.set_per_process_memory_fraction(WARM_SHARE)
    shortest = calls[0].shape.seq_len
    for call in [call for call in calls if call.shape.seq_len == shortest][first::step]:
        try:
            call.made(device)()
        except Exception as error:
            click.echo(f"{call.key}: {error}")


def time_all(
    calls: list[PlannedCall],
    device: torch.device,
    file: Path,
    simulated: Path,
    limit: float | None,
) -> None:
    """Time the calls that have no row yet, and write their rows."""
    rows = call_rows.read(file)
    for call in calls:
        if call.key in rows:
            continue
        if call_rows.too_slow(call, rows):
            row: Row = {"status": "slow"}
        else:
            with _given_up(call, file, limit):
                row = timed(call, device, rows, limit)
        rows[call.key] = call_rows.append(file, call, row | expected(call, simulated))
        click.echo(call_rows.line(rows[call.key]))
        if _failed(row) and device_is_lost(device):
            restart(limit)


@contextmanager
def _given_up(call: PlannedCall, file: Path, limit: float | None) -> Iterator[None]:
    """After some time, write a row for a call that has not ended, and replace this process."""

    def give_up() -> None:
        click.echo(call_rows.line(call_rows.append(file, call, {"status": "timeout"})))
        restart(limit)

    timer = threading.Timer(LONGEST_COMPILING if call.compiles else LONGEST, give_up)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def restart(limit: float | None) -> NoReturn:
    """Replace this process by one that goes on with the calls that have no row."""
    sys.stdout.flush()
    arguments = [word for word in sys.argv[1:] if word != "--resumed"]
    more = [] if limit is None or "--limit" in arguments else ["--limit", str(limit)]
    module = "bench.gpu_check.variant_times"
    os.execv(sys.executable, [sys.executable, "-m", module, *arguments, *more, "--resumed"])


def _failed(row: Row) -> bool:
    """Whether an unexpected error happened, which the device may not survive."""
    status = str(row["status"])
    return not status.startswith(("ok", "unsupported", "slow")) or "no_work" in row


def device_is_lost(device: torch.device) -> bool:
    """Whether no later call of this process can use the device."""
    try:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        torch.ones(1, device=device).item()
    except Exception:
        return True
    return False


def timed(
    planned_call: PlannedCall,
    device: torch.device,
    rows: call_rows.Rows,
    limit: float | None,
) -> Row:
    """The measured columns of one call; a failure is a status."""
    row: Row = {}
    try:
        started = time.perf_counter()
        call = planned_call.made(device)
        before = _allocated(device)
        out = call()
        row["finite"] = bool(out.isfinite().all())
        row["first_call_s"] = round(time.perf_counter() - started, 2)
        row["implementation"] = planned_call.attention.choose_implementation(out, out)
        del out
        row |= _times(call, device)
        long = row["device_ms"] > LONG_MS and device.type == "cuda"
        peak = _peak(device) - before if long else memory.peak_bytes(call, device)
        row["peak_mib"] = round(peak / 2**20, 1)
        row |= call_rows.relative(planned_call, row["device_ms"], rows)
        row |= _rates(planned_call, row["device_ms"], limit)
        row["status"] = "ok"
    except UnsupportedError as error:
        return row | {"status": f"unsupported: {error}"}
    except Exception as error:
        traceback.print_exc()
        return row | {"status": _sentence(error)}
    if device.type == "cuda" and not long:
        row |= work(call)
    return row


def _times(call: Callable[[], Tensor], device: torch.device) -> Row:
    started = time.perf_counter()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize()
    once = time.perf_counter() - started
    if once > SLOW:
        return {"device_ms": 1e3 * once, "wall_ms": 1e3 * once}
    samples = clock.measure(call, device, SECONDS)
    ahead = samples.runs_ahead
    return {
        "device_ms": samples.quartiles[1],
        "wall_ms": sorted(samples.wall_ms)[0],
        "host_in_time": "" if ahead is None else not ahead,
    }


def _allocated(device: torch.device) -> int:
    """Bytes that are allocated on a GPU; the peak is counted anew from here."""
    if device.type != "cuda":
        return 0
    torch.cuda.reset_peak_memory_stats(device)
    return torch.cuda.memory_allocated(device)


def _peak(device: torch.device) -> int:
    return torch.cuda.max_memory_allocated(device)


def _rates(call: PlannedCall, device_ms: float, limit: float | None) -> Row:
    if not (flops := call.flops()):
        return {}
    tflops = flops / device_ms / 1e9
    return {
        "tflops": round(tflops, 2),
        "share_of_limit": round(tflops / limit, 3) if limit else "",
    }


def work(call: Callable[[], Tensor]) -> Row:
    """Kernels and waits of a call. A fault of the profiler does not change the status of a row."""
    try:
        kernels, waits = profiled.kernels_of(call), profiled.waits_of(call)
    except Exception as error:
        traceback.print_exc()
        return {"kernels": f"not profiled: {_sentence(error)}", "no_work": True}
    return {
        "launches": kernels.total(),
        "waits": waits.total(),
        "wait_places": "; ".join(f"{n} {place}" for place, n in waits.most_common(5)),
        "kernels": "; ".join(f"{n} {name[:60]}" for name, n in kernels.most_common(6)),
    }


def _sentence(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def _matmul_tflops(device: torch.device) -> float | None:
    if device.type != "cuda":
        return None
    found: float | None = roofline.measure(device, ["bfloat16"], 0.1)["matmul_tflops"]["bfloat16"]
    return found


if __name__ == "__main__":
    main()
