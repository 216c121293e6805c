"""A process that times a call with and without added work: `python -m` runs this file."""

from __future__ import annotations

import math
import sys
from typing import Any

import numpy as np

from bench.time_gate.alternation import middle_mean
from bench.time_gate.gate_worker import GateWorker, serve

BLOCK = 5e5  # nanoseconds that follow each other with the same work
FEWEST = 8  # rows
NO_WORK = (0, 0)


class SlowedWorker(GateWorker):
    """Also measures how much slower added work makes a call."""

    def slowdown(
        self, module: str, name: str, work: tuple[int, int], seconds: float
    ) -> dict[str, Any]:
        """The time of a call without added work, and the share that the work adds.

        Calls without and with the work alternate in this process, in the order ABBA. More amounts
        in one row would disturb each other: a call after one with more work may be slower.

        Args:
            module: the module of the kernel.
            name: its global variable with the amount of work.
            work: numbers of operations and of elements.
            seconds: time of all calls.
        """
        calls = max(1, math.ceil(BLOCK / min(self.time(1)["ns"] for _ in range(5))))
        amounts = (NO_WORK, tuple(work))
        rows: list[list[float]] = []
        spent = 0.0
        while len(rows) < FEWEST or spent < seconds * 1e9:
            row = [0.0, 0.0]
            for turn in (0, 1, 1, 0):
                setattr(sys.modules[module], name, amounts[turn])
                row[turn] += self.time(calls)["ns"]
            rows.append(row)
            spent += sum(row)
        setattr(sys.modules[module], name, NO_WORK)
        times = np.array(rows)
        share = middle_mean(times[:, 1] / times[:, 0]) - 1
        return {"ns": float(np.median(times[:, 0])) / (2 * calls), "share": share}


if __name__ == "__main__":
    serve(SlowedWorker())
