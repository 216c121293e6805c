"""A sweep over implementations that raise, exit, change their process and leave processes behind:
one typed row each, and nothing reaches another row."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from bench.loop.supervisor import KEPT

ROOT = Path(__file__).parents[1]
MODULE = """
import os, sys, time
import torch
from tests import worker_faults
from variants import Call, add_implementation

def original(attention, *tensors, **call):
    return attention.attend(*tensors, Call(**call))

def after(fault, *arguments):
    def attend(attention, *tensors, **call):
        fault(*arguments)
        return original(attention, *tensors, **call)
    return attend

def private_text():
    raise OSError(f"cannot open {os.environ['USER']}; secret file.txt; /home/alice/y; ~/z")

def fast_clock():
    true = time.perf_counter
    time.perf_counter = lambda: 0.1 * true()

def leave():
    if not os.path.exists("pids"):
        with open("pids", "w") as file:
            print(*worker_faults.leave_processes(), file=file)

KERNELS = {
    "fine": after(int),
    **{
        f"raises_{kind}": after(worker_faults.raise_error, kind)
        for kind in ("wordless", "SystemExit", "KeyboardInterrupt")
    },
    "private": after(private_text),
    "exits": after(os._exit, 0),
    "exits_from_c": after(worker_faults.exit_from_c, 0),
    "overflows": after(worker_faults.overflow_the_stack),
    "one_thread": after(torch.set_num_threads, 3),
    "clock": after(fast_clock),
    "closes": after(worker_faults.close_if_open, 1),
    "leaves": after(leave),
    "prints": after(worker_faults.print_without_end),
    "last": after(int),
}
for name, attend in KERNELS.items():
    add_implementation("sliding_window", name, attend=attend)
"""
RAISED = {
    "wordless": "Wordless",
    "SystemExit": "SystemExit: 0",
    "KeyboardInterrupt": "KeyboardInterrupt",
}  # test_local_executor raises other kinds
CHANGED = "the implementation changed the process: "
EXPECTED = {
    "fine": ("ok", ""),
    **{f"raises_{kind}": ("error", reason) for kind, reason in RAISED.items()},
    "private": ("error", "OSError: cannot open (user); secret file.txt; (path)"),
    "exits": ("crashed", "the worker process ended with exit status 0"),
    "exits_from_c": ("crashed", "the worker process ended with exit status 0"),
    "overflows": ("crashed", "the worker process was ended by SIGSEGV"),
    "one_thread": ("error", f"{CHANGED}threads was 1 and is 3"),
    "clock": ("error", f"{CHANGED}function time.perf_counter was replaced"),
    "closes": ("error", f"{CHANGED}standard output was file "),
    "leaves": ("error", f"{CHANGED}the child process 'python"),
    "prints": ("timeout", "took longer than 3 s"),
    "last": ("ok", ""),
}


@dataclass(frozen=True)
class Measured:
    """A finished run, in the folder from which it was started."""

    folder: Path
    rows: list[dict[str, str]]


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Measured:
    folder = tmp_path_factory.mktemp("faulty")
    (folder / "faulty.py").write_text(MODULE)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "USER": "carol", "LOGNAME": "carol"}
    words = ["--import=faulty", "--out=run", "--device=cpu", "--seconds=0.01", "--timeout=3"]
    axes = {
        "variant": "sliding_window window_size=8",
        "implementation": ",".join(EXPECTED),
        "seq_len": "32",
        "heads": "1",
        "head_dim": "8",
        "inputs": "gaussian",
    }
    words += [f"--set={axis}={values}" for axis, values in axes.items()]
    said = subprocess.run(
        [sys.executable, "-m", "bench", "run", *words],
        cwd=folder,
        env={**environment, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert said.returncode == 0, said.stderr
    assert "Traceback" not in said.stderr
    with (folder / "run" / "results.csv").open(newline="", encoding="utf-8") as file:
        return Measured(folder, list(csv.DictReader(file)))


def test_every_kernel_has_one_row(measured: Measured) -> None:
    assert sorted(row["implementation"] for row in measured.rows) == sorted(EXPECTED)


@pytest.mark.parametrize("name", EXPECTED)
def test_the_row_says_how_the_kernel_failed(measured: Measured, name: str) -> None:
    (row,) = [row for row in measured.rows if row["implementation"] == name]
    status, reason = EXPECTED[name]
    assert row["status"] == status, row["reason"]
    assert row["reason"].startswith(reason)
    assert bool(row["time_ms_median"]) == (status == "ok")


def test_no_process_is_left(measured: Measured) -> None:
    pids = [int(word) for word in (measured.folder / "pids").read_text().split()]
    assert len(pids) == 4
    assert not [pid for pid in pids if psutil.pid_exists(pid)]


def test_the_log_is_bounded(measured: Measured) -> None:
    processes = len(EXPECTED)
    assert (measured.folder / "run" / "worker.log").stat().st_size < processes * 2 * KEPT
