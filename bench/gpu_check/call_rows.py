"""The rows of a check of variants: one for each planned call, written as soon as it is known."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from bench.gpu_check.planned_calls import Key, PlannedCall, baselines
from bench.launches.simulation import FORWARD_BACKWARD

COLUMNS = (
    "variant", "seq_len", "direction", "causal", "status", "implementation", "device_ms",
    "wall_ms", "host_in_time", "exact", "exact_ms", "exact_over_this", "tflops", "share_of_limit",
    "launches", "simulated_launches", "waits", "simulated_waits", "simulated_ms",
    "simulated_bytes_ratio", "peak_mib", "first_call_s", "finite", "wait_places", "kernels",
)  # fmt: skip
SLOW = 0.4  # seconds of a call that is timed once, and not at a longer length
Row = dict[str, Any]
Rows = dict[Key, Row]


def begin(file: Path) -> None:
    """Write a file without rows."""
    with file.open("w", newline="", encoding="utf-8") as target:
        csv.DictWriter(target, COLUMNS).writeheader()


def append(file: Path, call: PlannedCall, row: Row) -> Row:
    """Write the row of a call, and return it as it is read again."""
    label, seq_len, direction, causal = call.key
    named = {"variant": label, "seq_len": seq_len, "direction": direction, "causal": causal}
    text = {name: str((named | row).get(name, "")) for name in COLUMNS}
    with file.open("a", newline="", encoding="utf-8") as target:
        csv.DictWriter(target, COLUMNS).writerow(text)
    return text


def read(file: Path) -> Rows:
    """The rows of a file, by the key of their calls."""
    with file.open(newline="", encoding="utf-8") as source:
        return {
            (row["variant"], row["seq_len"], row["direction"], row["causal"]): row
            for row in csv.DictReader(source)
        }


def relative(call: PlannedCall, device_ms: float, rows: Rows) -> Row:
    """The time of a call beside the fastest exact attention on the same shape and mask."""
    exact = (PlannedCall(attention, call.shape, call.direction) for attention in baselines())
    times = {
        one.label: float(row["device_ms"])
        for one in exact
        if (row := rows.get(one.key)) and row["device_ms"]
    }
    if not times:
        return {}
    fastest = min(times, key=lambda label: times[label])
    ratio = round(times[fastest] / device_ms, 3)
    return {"exact": fastest, "exact_ms": times[fastest], "exact_over_this": ratio}


def too_slow(call: PlannedCall, rows: Rows) -> bool:
    """Whether a shorter call, or the forward pass alone, was slow or did not end."""
    asked_label, asked_length, asked_direction, asked_causal = call.key
    for (label, length, direction, causal), row in rows.items():
        like = direction in (asked_direction, *_within(asked_direction))
        same = (label, causal) == (asked_label, asked_causal) and like
        slow = row["status"] == "timeout" or float(row["wall_ms"] or 0) > 1e3 * SLOW
        if same and slow and int(length) <= int(asked_length):
            return True
    return False


def _within(direction: str) -> tuple[str, ...]:
    return ("forward",) if direction == FORWARD_BACKWARD else ()


def line(row: Row) -> str:
    """A row for people."""
    mask = "" if row["causal"] == "True" else " not causal"
    name = f"{row['variant']:26s} {row['seq_len']:>6s} {row['direction']:17s}"
    if row["status"] != "ok":
        return f"{name} {row['status']}{mask}"
    ratio, share = row["exact_over_this"] or "-", row["share_of_limit"] or "-"
    return (
        f"{name} {row['implementation']:8s} {float(row['device_ms']):9.3f} ms  "
        f"exact/this {ratio:>6s}  limit {share:>6s}  "
        f"launches {row['launches'] or '-'} ({row['simulated_launches']})  "
        f"waits {row['waits'] or '-'} ({row['simulated_waits']})  "
        f"simulated {row['simulated_ms']} ms  peak {row['peak_mib']} MiB"
        f"{mask}{'' if row['finite'] == 'True' else '  NOT FINITE'}"
        f"{'  host in time' if row['host_in_time'] == 'True' else ''}"
    )
