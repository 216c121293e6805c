"""The budgets of a call on a GPU, and what exceeds them.

Every registered variant is held to them. `docs/performance.md` lists the variants that are over
budget now, with reasons; a test compares the list with the registry.
"""

from __future__ import annotations

from collections.abc import Iterator

from bench.launches.simulation import CallWork, Shape, simulate
from variants import Attention

MOST_LAUNCHES = {"forward": 40, "forward_backward": 100}
# Times the bytes of query, key, value and output; with a backward pass also of their gradients.
MOST_MOVED = 3.0
MOST_MEMORY = 3.0  # the peak without inputs; n·d with room for a state in float32
GROWTH = 1.5  # of the peak, divided by the growth of the length
LENGTHS = (16384, 131072)
COUNTED = 300  # kernels after which a count ends; the rest of the call is not counted


def exceeded(work: CallWork, direction: str) -> set[str]:
    """The budgets that one call exceeds: launches, waits, devices, bytes, memory."""
    over = work.cut or work.launches > MOST_LAUNCHES[direction]
    found = {"launches"} if over else set()
    if work.waits:
        found.add("waits")
    if work.mixed:
        found.add("devices")
    if work.cut:  # the sums are not complete
        return found
    if work.bytes_ratio > MOST_MOVED:
        found.add("bytes")
    if work.memory_ratio > MOST_MEMORY:
        found.add("memory")
    return found


def grown(short: CallWork, long: CallWork) -> set[str]:
    """The budgets that are exceeded only by the growth from a shorter sequence to a longer one: as
    many launches (growth), and memory in proportion to the length (memory)."""
    found = {"growth"} if long.launches > short.launches else set()
    if short.cut or long.cut:
        return found
    lengths = long.input_bytes / short.input_bytes
    if long.peak_bytes > GROWTH * lengths * short.peak_bytes:
        found.add("memory")
    return found


def over_budget(attention: Attention) -> dict[str, str]:
    """All budgets that an attention exceeds in forward and backward passes, causal and not, each
    with a call that does: in bfloat16, with 16 heads of 64 channels, at `LENGTHS`. The text of
    `bytes` begins with the largest ratio."""
    found: dict[str, str] = {}
    most_moved = 0.0
    for causal in attention.info.causal_choices:
        for direction in _directions(attention):
            works = []
            for seq_len in LENGTHS:
                shape = Shape(seq_len=seq_len, causal=causal)
                work = simulate(attention, shape, direction, most_launches=COUNTED)
                works.append(work)
                told = f"{direction}, {'causal' if causal else 'not causal'}, {seq_len} tokens"
                for budget in exceeded(work, direction):
                    found.setdefault(budget, f"{told}: {_told(work)}")
                if "bytes" in found and not work.cut and work.bytes_ratio > most_moved:
                    most_moved = work.bytes_ratio
                    found["bytes"] = f"{most_moved:.1f} in {told}: {_told(work)}"
            for budget in grown(*works):
                found.setdefault(budget, f"{told}: {_told(works[0])}, then {_told(work)}")
    return found


def _directions(attention: Attention) -> Iterator[str]:
    yield "forward"
    if "backward" in attention.supports:
        yield "forward_backward"


def _told(work: CallWork) -> str:
    text = f"{work.launches} launches, {work.waits.total()} waits"
    if work.cut:
        return f"more than {text}"
    return f"{text}, bytes {work.bytes_ratio:.1f}, memory {work.memory_ratio:.1f}"
