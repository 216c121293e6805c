"""The simulated counts of planned calls, written by a process beside the measurements."""

from __future__ import annotations

import json
from pathlib import Path

from bench.gpu_check.call_rows import Row
from bench.gpu_check.planned_calls import PlannedCall
from bench.launches.simulation import simulate

MOST_LAUNCHES = 5000  # after which a simulation ends


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


def expected(call: PlannedCall, file: Path) -> Row:
    """The simulated columns of a call, if the simulation has reached it."""
    if not file.is_file():
        return {}
    found: dict[str, Row] = json.loads(file.read_text(encoding="utf-8"))
    return found.get(_name(call), {})


def _name(call: PlannedCall) -> str:
    *words, causal = call.key
    return " ".join([*words, "causal" if causal == "True" else "unmasked"])
