"""Times each variant beside exact attention, with its launches and waits beside those of the
simulation. A row is written as soon as it is known."""

from __future__ import annotations

import csv
import json
import os
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import torch
from torch import Tensor

from bench import clock, memory, roofline
from bench.gpu_check.planned_calls import PlannedCall, planned
from bench.launches import profiled
from bench.launches.simulation import FORWARD_BACKWARD, simulate
from bench.options import numbers
from variants import UnsupportedError
from variants.contract.registry import reference_attention

COLUMNS = (
    "variant", "seq_len", "direction", "causal", "status", "implementation", "device_ms",
    "wall_ms", "exact_ms", "exact_over_this", "tflops", "share_of_limit", "launches",
    "simulated_launches", "waits", "simulated_waits", "simulated_ms", "simulated_bytes_ratio",
    "peak_mib", "first_call_s", "finite", "wait_places", "kernels",
)  # fmt: skip
SECONDS = 0.05  # sampling time of a call
SLOW = 0.4  # seconds of a call that is timed once, and not at a longer length
MOST_LAUNCHES = 5000  # after which a simulation ends
BROKEN = ("CUDA error", "an illegal", "device-side assert", "unspecified launch failure")
Row = dict[str, Any]


@click.command()
@click.option("--device", default="cuda")
@click.option("--seq-len", "lengths", default="16384,65536")
@click.option("--heads", default=16)
@click.option("--rows", "file", type=click.Path(path_type=Path), required=True)
@click.option("--simulated", "simulated", type=click.Path(path_type=Path), required=True)
@click.option("--simulate", "only_simulate", is_flag=True, help="Write --simulated, and end.")
@click.option("--warm", help="i/n: make a part of the calls once, so that kernels are compiled.")
@click.option("--resumed", is_flag=True, help="Leave out the calls that have a row.")
def main(
    device: str,
    lengths: str,
    heads: int,
    file: Path,
    simulated: Path,
    only_simulate: bool,
    warm: str | None,
    resumed: bool,
) -> None:
    """Time all calls, or prepare for it."""
    calls = planned(numbers("--seq-len", lengths) or [], heads)
    if only_simulate:
        write_simulated(calls, simulated)
        return
    place = torch.device(device)
    if warm is not None:
        first, step = map(int, warm.split("/"))
        shortest = calls[0].shape.seq_len
        some = [call for call in calls if call.shape.seq_len == shortest]
        for call in some[first::step]:
            run_once(call, place)
        return
    if not resumed:
        with file.open("w", newline="", encoding="utf-8") as target:
            csv.DictWriter(target, COLUMNS).writeheader()
    limit = _matmul_tflops(place)
    click.echo(f"matrix products in bfloat16: {limit} TFLOP/s" if limit else "no limit measured")
    rows = read(file)
    for call in calls:
        if call.key in rows:
            continue
        begun = {"variant": call.label, "seq_len": call.shape.seq_len, "direction": call.direction}
        row = timed(call, place, rows, limit) if not _too_slow(call, rows) else {"status": "slow"}
        row = begun | {"causal": call.shape.causal} | row | _expected(call, simulated)
        rows[call.key] = {name: str(row.get(name, "")) for name in COLUMNS}
        with file.open("a", newline="", encoding="utf-8") as target:
            csv.DictWriter(target, COLUMNS).writerow(rows[call.key])
        click.echo(_line(rows[call.key]))
        if any(word in str(row["status"]) for word in BROKEN):
            # No later call of this process can use the device.
            sys.stdout.flush()
            again = [word for word in sys.argv[1:] if word != "--resumed"]
            module = "bench.gpu_check.variant_times"
            os.execv(sys.executable, [sys.executable, "-m", module, *again, "--resumed"])


def timed(
    planned_call: PlannedCall,
    device: torch.device,
    rows: dict[tuple[str, str, str], Row],
    limit: float | None,
) -> Row:
    """The measured columns of one call; a failure is a status."""
    row: Row = {}
    try:
        started = time.perf_counter()
        call = planned_call.made(device)
        out = call()
        row["finite"] = bool(out.isfinite().all())
        row["first_call_s"] = round(time.perf_counter() - started, 2)
        row["implementation"] = planned_call.attention.choose_implementation(out, out)
        row |= _times(call, device)
        row["peak_mib"] = round(memory.peak_bytes(call, device) / 2**20, 1)
        row |= _relative(planned_call, row, rows, limit)
        if device.type == "cuda":
            row |= _work(call)
        row["status"] = "ok"
    except UnsupportedError as error:
        row["status"] = f"unsupported: {error}"
    except Exception as error:
        traceback.print_exc()
        row["status"] = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
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
    return {"device_ms": samples.quartiles[1], "wall_ms": sorted(samples.wall_ms)[0]}


def _relative(
    call: PlannedCall, row: Row, rows: dict[tuple[str, str, str], Row], limit: float | None
) -> Row:
    found: Row = {}
    exact = PlannedCall(reference_attention(), call.shape, call.direction)
    exact_ms = rows.get(exact.key, {}).get("device_ms")
    if exact_ms:
        found["exact_ms"] = exact_ms
        found["exact_over_this"] = round(float(exact_ms) / row["device_ms"], 3)
    if flops := call.flops():
        found["tflops"] = round(flops / row["device_ms"] / 1e9, 2)
        if limit:
            found["share_of_limit"] = round(found["tflops"] / limit, 3)
    return found


def _work(call: Callable[[], Tensor]) -> Row:
    kernels, waits = profiled.kernels_of(call), profiled.waits_of(call)
    return {
        "launches": kernels.total(),
        "waits": waits.total(),
        "wait_places": "; ".join(f"{n} {place}" for place, n in waits.most_common(5)),
        "kernels": "; ".join(f"{n} {name[:60]}" for name, n in kernels.most_common(6)),
    }


def _matmul_tflops(device: torch.device) -> float | None:
    if device.type != "cuda":
        return None
    found: float | None = roofline.measure(device, ["bfloat16"], 0.1)["matmul_tflops"]["bfloat16"]
    return found


def run_once(call: PlannedCall, device: torch.device) -> None:
    """One call, whose failure another process will report."""
    try:
        call.made(device)()
    except Exception as error:
        click.echo(f"{call.key}: {error}")


def write_simulated(calls: list[PlannedCall], file: Path) -> None:
    """Write what the simulation expects of every call, after each of them."""
    found: dict[str, Row] = {}
    for call in calls:
        try:
            work = simulate(call.attention, call.shape, call.direction, most_launches=MOST_LAUNCHES)
        except Exception as error:  # a kernel that needs data, or a library without a simulation
            found[_name(call)] = {"simulated_launches": f"{type(error).__name__}"}
        else:
            found[_name(call)] = {
                "simulated_launches": f"> {work.launches}" if work.cut else work.launches,
                "simulated_waits": work.waits.total(),
                "simulated_ms": round(1e3 * work.seconds, 3),
                "simulated_bytes_ratio": round(work.bytes_ratio, 2),
            }
        partial = file.with_suffix(".part")
        partial.write_text(json.dumps(found, indent=0), encoding="utf-8")
        partial.replace(file)


def _name(call: PlannedCall) -> str:
    return " ".join(call.key)


def _expected(call: PlannedCall, file: Path) -> Row:
    """The simulated columns of a call, if the simulation has reached it."""
    if not file.is_file():
        return {}
    found: dict[str, Row] = json.loads(file.read_text(encoding="utf-8"))
    return found.get(_name(call), {})


def read(file: Path) -> dict[tuple[str, str, str], Row]:
    """The rows of a file, by the key of their calls."""
    with file.open(newline="", encoding="utf-8") as source:
        return {
            (row["variant"], row["seq_len"], row["direction"]): row
            for row in csv.DictReader(source)
        }


def _too_slow(call: PlannedCall, rows: dict[tuple[str, str, str], Row]) -> bool:
    """Whether a shorter call, or the forward pass alone, was slow already."""
    for (label, length, direction), row in rows.items():
        shorter = int(length) <= call.shape.seq_len
        like = direction == call.direction or call.direction == FORWARD_BACKWARD
        same = label == call.label and shorter and like and row["wall_ms"]
        if same and float(row["wall_ms"]) > 1e3 * SLOW:
            return True
    return False


def _line(row: Row) -> str:
    if row["status"] != "ok":
        return f"{row['variant']:26s} {row['seq_len']:>6s} {row['direction']:17s} {row['status']}"
    ratio, share = row["exact_over_this"] or "-", row["share_of_limit"] or "-"
    return (
        f"{row['variant']:26s} {row['seq_len']:>6s} {row['direction']:17s} "
        f"{row['implementation']:8s} {float(row['device_ms']):9.3f} ms  exact/this {ratio:>6s}  "
        f"limit {share:>6s}  launches {row['launches'] or '-'} ({row['simulated_launches']})  "
        f"waits {row['waits'] or '-'} ({row['simulated_waits']})  "
        f"simulated {row['simulated_ms']} ms  peak {row['peak_mib']} MiB"
        f"{'' if row['finite'] == 'True' else '  NOT FINITE'}"
    )


if __name__ == "__main__":
    main()
