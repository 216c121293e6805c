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
        self, module: str, name: str, works: list[tuple[int, int]], seconds: float
    ) -> dict[str, Any]:
        """The time of a call without added work, and the share that each amount of work adds.

        Calls with each amount alternate in this process.

        Args:
            module: the module of the kernel.
            name: its global variable with the amount of work.
            works: numbers of operations and of elements.
            seconds: time of all calls.
        """
        calls = max(1, math.ceil(BLOCK / min(self.time(1)["ns"] for _ in range(5))))
        levels = [NO_WORK, *works]
        count = len(levels)
        rows: list[list[float]] = []
        spent = 0.0
        while len(rows) < FEWEST or spent < seconds * 1e9:
            row = [0.0] * count
            for turn in range(count * count):
                level = (turn + turn // count) % count  # no level has two turns in a row
                setattr(sys.modules[module], name, levels[level])
                row[level] += self.time(calls)["ns"]
            rows.append(row)
            spent += sum(row)
        setattr(sys.modules[module], name, NO_WORK)
        times = np.array(rows)
        shares = [middle_mean(times[:, i] / times[:, 0]) - 1 for i in range(1, count)]
        return {"ns": float(np.median(times[:, 0])) / (count * calls), "shares": shares}


if __name__ == "__main__":
    serve(SlowedWorker())
