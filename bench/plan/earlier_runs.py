"""Finds the rows that this machine has measured in earlier runs of sweeps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from bench.instruments import environment, pseudonyms
from bench.loop import journal
from bench.loop.memory_limit import available_bytes
from bench.plan.prediction import Known, Predictor
from bench.schema.environment_file import Duration
from bench.schema.validation import FileError, name_of
from bench.workloads.sweep_workload import SweepWorkload

FOLDER = Path("results")
MOST_RUNS = 30  # the newest ones in FOLDER that are read
OTHER_SECONDS = 15.0  # limits of the machine and checks of noise, if no run has measured them
HARDWARE = ("processor", "cores", "threads")  # compared in addition to the host and torch


@dataclass(frozen=True)
class EarlierRuns:
    """Results of earlier runs on this machine.

    Attributes:
        known: the newest row of each case that has a time, by the id of the case.
        limits: the newest measured limits for the device.
        hardware: this machine, as the newest run describes it.
        durations: how long commands took, the newest last.
        left_out: why a run that was asked for is not used, one sentence each.
    """

    known: dict[str, Known] = field(default_factory=dict)
    limits: dict[str, Any] = field(default_factory=dict)
    hardware: dict[str, Any] = field(default_factory=dict)
    durations: list[Duration] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)

    def memory_bytes(self, device: str) -> int | None:
        """The memory that cases can use; None if it is not known."""
        on_gpu = device == "cuda"
        return self.hardware.get("gpu_memory_bytes") if on_gpu else available_bytes()

    @property
    def other_seconds(self) -> float:
        """The seconds of a run outside its cases."""
        return self.durations[-1]["other_seconds"] if self.durations else OTHER_SECONDS

    def predictor(self, workload: SweepWorkload) -> Predictor:
        """A predictor for the cases of a sweep."""
        rates: Mapping[str, float | None] = self.limits.get("matmul_tflops") or {}
        machine = {"limits": {"matmul_tflops": rates}}
        return Predictor(
            self.known,
            rates,
            workload.seconds,
            workload.timeout,
            lambda case, rows: workload.skipped(case, rows, machine),
        )


def read(folders: Sequence[Path], device: str, resumed: Path | None = None) -> EarlierRuns:
    """The results of this machine in these folders, or in those of `results` if there are none.

    Args:
        folders: folders of runs.
        device: cpu or cuda; runs on the other one are left out.
        resumed: the run that is continued, which is read too.

    Raises:
        FileError: a given folder holds no run of a sweep; of `results`, such folders are left out.
    """
    found = EarlierRuns()
    runs = []
    used = [*(folders or _newest(FOLDER)), *([resumed] if resumed else [])]
    for folder in {path.resolve(): path for path in used}.values():
        try:
            runs.append((folder, journal.read(folder, SweepWorkload)))
        except FileError:
            if folder in (*folders, resumed):
                raise
    runs.sort(key=lambda run: str(run[1].header["environment"].get("started_utc", "")))
    for folder, recorded in runs:
        hosts = {host for host, other in recorded.machines.items() if not _differences(other)}
        if not hosts:
            first = recorded.header["environment"]
            why = "; ".join(_differences(first))
            found.left_out.append(f"{name_of(folder)} is not used: {why}")
            continue
        if recorded.header["device"] != device:
            continue
        for host in hosts:
            found.hardware.update(recorded.machines[host]["hardware"])
            found.limits.update(recorded.machines[host].get("limits", {}))
        found.durations.extend(recorded.durations)
        for case_id, entry in recorded.entries.items():
            if entry.row.host in hosts and entry.seconds is not None:
                found.known[case_id] = Known(entry.row, entry.seconds, entry.shared_seconds)
    return found


def _newest(folder: Path) -> list[Path]:
    """The folders of the newest runs in a folder."""
    journals = [path for path in folder.glob(f"*/{journal.FILE}") if path.is_file()]
    journals.sort(key=lambda path: path.stat().st_mtime)
    return [path.parent for path in journals[-MOST_RUNS:]]


def _differences(recorded: Mapping[str, Any]) -> list[str]:
    """The differences between a recorded machine and this one. GPUs are not compared, as this would
    start them: the host and the device of the run stand for them."""
    present = {"host": pseudonyms.host(), "torch": str(torch.__version__), **_hardware()}
    was = {
        "host": recorded.get("host"),
        "torch": recorded["software"].get("torch"),
        **{name: recorded["hardware"].get(name) for name in HARDWARE},
    }
    return [
        f"{name} was {was[name]!r} and is {now!r}"
        for name, now in present.items()
        if was[name] != now
    ]


def _hardware() -> dict[str, Any]:
    hardware = environment.processors()
    return {name: hardware[name] for name in HARDWARE}
