"""The workload of `python -m bench run`: the cases of a sweep."""

from __future__ import annotations

import dataclasses
import hashlib
import math
import time
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from bench.instruments import roofline
from bench.loop.executor import CallTimeout, WorkerCall, WorkerDied
from bench.loop.workload import Memory, Steps, Workload
from bench.plan import forecast
from bench.plan.shard import Shard
from bench.plan.sweep import SECONDS, Sweep, SweepError, parse
from bench.schema.case import Case
from bench.schema.journal_events import SweepHeader
from bench.schema.measurement import HeadRow, Measurement, Raw
from bench.schema.validation import name_of
from bench.selfcheck import same_code
from bench.workloads.attention import measure_case
from bench.workloads.attention.given_inputs import Settings
from variants import REGISTRY
from variants.contract.added import ADDED
from variants.contract.registry import default_knob

SAMPLING_SECONDS = 0.2  # of a case
TRIES = 2  # processes in which the baselines of a shape are tried
LIMITS_SECONDS = 300.0  # for measuring the limits of a machine


@dataclass(frozen=True)
class SweepWorkload(Workload[Case, Measurement]):
    """The cases of a sweep.

    Args:
        sweep: the sweep.
        on: cpu or cuda.
        files: paths of captures, by the NAME of `file:NAME` inputs.
        seconds: sampling time of a case.
        timeout: seconds after which a case is stopped.
        modules: names of modules that add implementations, which are imported already.
        shard: the part of the cases; None for all.
    """

    command = "run"
    row_type = Measurement
    header_type = SweepHeader
    detail_file = "heads.csv"
    detail_type = HeadRow

    sweep: Sweep
    on: str
    files: Mapping[str, Path]
    seconds: float
    timeout: float
    modules: Sequence[str] = ()
    shard: Shard | None = None

    @cached_property
    def _planned(self) -> Sequence[Case]:
        """The cases of all shards."""
        return self.sweep.cases(self.on, self.files)

    @cached_property
    def cases(self) -> Sequence[Case]:
        return self.shard.select(self._planned) if self.shard else self._planned

    @property
    def device(self) -> str:
        return self.on

    def header(self) -> dict[str, Any]:
        return {
            "device": self.on,
            "files": {name: str(path.resolve()) for name, path in self.files.items()},
            "seconds": self.seconds,
            **({"shard": str(self.shard)} if self.shard else {}),
        }

    @classmethod
    def of_header(cls, header: Mapping[str, Any]) -> Self:
        """The workload of a run that is resumed."""
        plan = header["environment"]["sweep"]
        asked = {key: plan[key] for key in SECONDS if key in plan}
        sweep = parse(plan["name"], {"group": plan["groups"], **asked})
        files = {name: Path(path) for name, path in header["files"].items()}
        for name, digest in plan.get("captures", {}).items():
            if files[name].is_file() and (now := _digest(files[name])) != digest:
                raise SweepError(
                    f"the capture {name_of(name)} has changed since the run was started: expected "
                    f"the SHA-256 {digest}, got {now}"
                )
        return cls(
            sweep,
            header["device"],
            files,
            header.get("seconds", SAMPLING_SECONDS),
            sweep.timeout,
            tuple(plan.get("modules", ())),
            Shard.parse(header["shard"]) if "shard" in header else None,
        )

    def facts(self) -> dict[str, Any]:
        plan: dict[str, Any] = {
            "name": self.sweep.name,
            "groups": [dict(group) for group in self.sweep.groups],
            "timeout": self.timeout,
            "knobs": {
                name: default_knob(name) for name in sorted({c.variant for c in self._planned})
            },
        }
        if math.isfinite(self.sweep.slow_call):
            plan["slow_call"] = self.sweep.slow_call
        if self.sweep.energy:
            plan["energy"] = self.sweep.energy
        if self.files:
            plan["captures"] = {name: _digest(path) for name, path in self.files.items()}
        if self.modules:
            plan["modules"] = list(self.modules)
            plan["added"] = [f"{variant}/{name}" for variant, name in ADDED]
        return {"sweep": plan}

    @property
    def check_seconds(self) -> float:
        return min(same_code.SHORT_SECONDS, 10 * self.seconds)

    def set_up(self, recorded: Mapping[str, Any] | None) -> Steps[dict[str, Any]]:
        if recorded is not None:
            return {}
        dtypes = sorted({case.dtype for case in self.cases})
        asked = (self.on, dtypes, min(roofline.SECONDS, 5 * self.seconds))
        return {"limits": (yield WorkerCall(roofline.measure_device, asked, LIMITS_SECONDS))}

    def skipped(
        self, case: Case, rows: Mapping[str, Measurement], machine: Mapping[str, Any]
    ) -> str:
        if shorter := forecast.failed_shorter(case, rows):
            return f"{shorter.status} already at seq_len {shorter.case.seq_len}"
        # Exact attention is always measured, as the baseline.
        if REGISTRY[case.variant].info.is_exact:
            return self._exact_out_of_reach(case, machine)
        slow = forecast.slower_than_exact(case, rows, self.sweep.slow_call)
        return forecast.hopeless(case, rows, self.timeout) or slow

    def measure(
        self, case: Case, machine: Mapping[str, Any], memory: Memory
    ) -> Steps[tuple[Measurement, Raw]]:
        settings = self._settings(machine)
        began = time.monotonic()
        exact = not self._exact_out_of_reach(case, machine)
        exact = exact and (yield from self._baselines(case, settings, memory))
        shared = time.monotonic() - began
        asked = (case, settings, exact)
        row, raw = yield WorkerCall(measure_case.measure, asked, self.timeout)
        return row, dataclasses.replace(raw, shared_seconds=shared)

    def _baselines(self, case: Case, settings: Settings, memory: Memory) -> Steps[bool]:
        """Measure the exact baselines of a case's shape, once in each process.

        Returns whether the worker has them. A process that ended may have ended for a reason
        outside of the baselines, so another one tries again. If that fails, the cases of this
        shape are measured without baselines.
        """
        tries = memory.worker.setdefault("tries", {})
        while memory.process.get("shape") != case.shape and tries.get(case.shape, 0) < TRIES:
            try:
                yield WorkerCall(
                    measure_case.measure_exact, (case, settings), forecast.BASELINES * self.timeout
                )
                memory.process["shape"] = case.shape
            except CallTimeout:
                tries[case.shape] = TRIES
            except WorkerDied:
                tries[case.shape] = tries.get(case.shape, 0) + 1
        return memory.process.get("shape") == case.shape

    def _exact_out_of_reach(self, case: Case, machine: Mapping[str, Any]) -> str:
        rate = machine["limits"]["matmul_tflops"].get(case.dtype)
        return forecast.exact_out_of_reach(case, rate, forecast.BASELINES * self.timeout)

    def _settings(self, machine: Mapping[str, Any]) -> Settings:
        limits = machine["limits"]
        # Runs that were begun by older versions have no read bandwidth.
        bandwidth = limits.get("read_gb_per_s")
        return Settings(
            self.files, limits["matmul_tflops"], self.seconds, bandwidth, self.sweep.energy
        )

    def group(self, case: Case) -> Hashable:
        return case.shape

    def series(self, case: Case) -> Hashable:
        return case.without_lengths()


def _digest(path: Path) -> str:
    """The SHA-256 of a capture; empty if it cannot be read, which its cases report."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return ""
