"""The selfcheck in several processes, one after the other."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from bench.loop import worker_start
from bench.loop.executor import CallTimeout, WorkerCall, WorkerDied
from bench.loop.local_executor import LocalExecutor
from bench.schema.validation import UserError
from bench.selfcheck.resolution import between, resolution
from bench.selfcheck.same_code import (
    COMPARISONS,
    Measured,
    Selfcheck,
    SelfcheckCase,
    all_cases,
    block_seconds,
    measure,
    summary,
)

__all__ = ["PROCESSES", "SelfcheckError", "selfcheck"]

PROCESSES = 6
SLOWEST = 10.0  # times the sampling time, after which a process is stopped
START_SECONDS = 300.0  # for imports, and for compiling kernels on a GPU

Found = dict[SelfcheckCase, Measured]


class SelfcheckError(UserError):
    """A selfcheck cannot be measured. The message is one sentence."""


def selfcheck(
    device: str, seconds: float, log: Path, done: Callable[[int], None] = lambda _: None
) -> Selfcheck:
    """Measure `all_cases` in `PROCESSES` processes that are set up like those of a run.

    Args:
        device: cpu or cuda.
        seconds: sampling time of all processes together.
        log: file for the output of the processes.
        done: is called with the number of processes that have finished.

    Raises:
        SelfcheckError: a process ended or took too long.
    """
    cases = all_cases(device)
    each, comparisons = seconds / PROCESSES, -(-COMPARISONS // PROCESSES)
    call = WorkerCall(
        measure, (device, cases, each, comparisons), timeout=START_SECONDS + SLOWEST * each
    )
    executor = LocalExecutor(WorkerCall(worker_start.start, (device == "cuda",)), log=log)
    (worker,) = executor.workers()
    results: list[tuple[Found, str]] = []
    try:
        for number in range(PROCESSES):
            results.append(worker.submit(call).result())
            worker.replace()
            done(number + 1)
    except CallTimeout:
        raise SelfcheckError(f"a process took longer than {call.timeout:.0f} s") from None
    except WorkerDied as error:
        raise SelfcheckError(f"{error}; see {log}") from error
    finally:
        executor.close()
    together = {case: _joined([found[case] for found, _ in results]) for case in cases}
    pairs = (between(found[case].medians for found, _ in results) for case in cases)
    compared = [apart for measured in together.values() for apart in measured.differences]
    reasons = dict.fromkeys(reason for _, reason in results if reason)
    return Selfcheck(
        device=device,
        resolution=resolution(compared),
        resolution_between_processes=resolution([apart for case in pairs for apart in case]),
        comparisons=len(compared),
        block_seconds=block_seconds(each, len(cases), comparisons),
        processes=PROCESSES,
        disturbed="; ".join(reasons),
        cases=summary(together, device),
    )


def _joined(parts: list[Measured]) -> Measured:
    return Measured(
        [value for part in parts for value in part.differences],
        [value for part in parts for value in part.medians],
    )
