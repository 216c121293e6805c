"""The calls that `make gpu-check` times, and their rows: with tiny inputs on a CPU."""

from __future__ import annotations

import csv
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

import variants
from bench.gpu_check import call_rows, planned_calls, slow_calls, variant_times
from bench.gpu_check.planned_calls import PlannedCall, baselines, planned
from bench.launches import profiled
from bench.launches.simulation import FORWARD, Shape
from variants.contract.implementations import meaning

CPU = torch.device("cpu")


def test_every_variant_is_planned_after_exact_attention() -> None:
    calls = planned([16384, 65536], 16)
    assert len({call.key for call in calls}) == len(calls)
    for name, cls in variants.REGISTRY.items():
        attention = variants.create(name)
        keys = {call.key for call in calls if call.attention == attention}
        directions = 2 if "backward" in cls.info.supports else 1
        masks = 2 if attention in baselines() else 1
        assert len(keys) == 2 * directions * masks
    exact = [call.attention.info.is_exact for call in calls]
    first = exact.index(False)
    assert {call.shape.causal for call in calls[:first]} == {False, True}
    for call in calls[first:]:
        known = {one.key for one in calls[:first]}
        assert {PlannedCall(one, call.shape, call.direction).key for one in baselines()} <= known


def test_quadratic_methods_and_libraries_are_last() -> None:
    kinds = []
    for call in planned([16384, 65536], 16):
        if not call.attention.info.is_exact:
            library = call.attention.implementation in call.attention.info.libraries
            kinds.append(2 if library else int("n²" in call.attention.info.time))
    assert kinds == sorted(kinds)
    assert set(kinds) == {0, 1, 2}


def test_what_compiles_for_each_shape_is_planned_at_the_shortest_length() -> None:
    lengths = {call.shape.seq_len for call in planned([64, 128], 2) if call.compiles}
    assert lengths == {64}
    assert not any(meaning(one.implementation).compiles for one in baselines())


def row_of(call: PlannedCall, **columns: Any) -> call_rows.Row:
    return dict.fromkeys(call_rows.COLUMNS, "") | {"status": "ok"} | columns


def test_a_call_is_compared_with_the_fastest_exact_attention_of_its_mask() -> None:
    rows = {}
    times = {("sdpa", True): 5.0, ("auto", True): 4.0, ("sdpa", False): 9.0, ("auto", False): 10.0}
    for attention in baselines():
        for causal in (False, True):
            call = PlannedCall(attention, Shape(seq_len=64, causal=causal), FORWARD)
            rows[call.key] = row_of(call, device_ms=str(times[attention.implementation, causal]))
    for causal, label, ms in ((True, "full", 4.0), (False, "full sdpa", 9.0)):
        call = PlannedCall(variants.create("linformer"), Shape(seq_len=64, causal=causal), FORWARD)
        found = call_rows.relative(call, 2.0, rows)
        assert found == {"exact": label, "exact_ms": ms, "exact_over_this": ms / 2}


def test_a_call_is_left_out_after_a_slow_or_hanging_one() -> None:
    long = planned_call(64)
    for columns in ({"wall_ms": "500.0"}, {"status": "timeout"}):
        rows = {planned_call(32).key: row_of(long, **columns)}
        assert call_rows.too_slow(long, rows)
        assert not call_rows.too_slow(planned_call(16), rows)


def planned_call(seq_len: int) -> PlannedCall:
    return PlannedCall(variants.create("linear"), Shape(seq_len=seq_len, heads=2), FORWARD)


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few attentions instead of all, one of which cannot run."""
    real = planned_calls.planned

    def planned(lengths: list[int], heads: int) -> list[PlannedCall]:
        names = ("full sdpa", "full", "sliding_window", "linear fla", "top_k", "nystrom")
        return [call for call in real(lengths, heads) if call.label in names]

    for module in (variant_times, slow_calls):
        monkeypatch.setattr(module, "planned", planned)
    monkeypatch.setattr(slow_calls, "PROFILED", 2)


@pytest.mark.usefixtures("few")
def test_times_profiles_and_simulated_numbers_of_tiny_calls(tmp_path: Path) -> None:
    rows, simulated = tmp_path / "variants.csv", tmp_path / "simulated.json"
    asked = ["--device", "cpu", "--seq-len", "32,64", "--heads", "2"]
    asked += ["--rows", str(rows), "--simulated", str(simulated)]

    def invoke(command: object, *more: str) -> str:
        done = CliRunner().invoke(command, [*asked, *more])  # type: ignore[arg-type]
        assert done.exit_code == 0, done.output
        return done.output

    invoke(variant_times.main, "--simulate")
    expected = json.loads(simulated.read_text())
    assert expected["sliding_window 32 forward causal"]["simulated_waits"] == 0
    assert "nystrom 32 forward unmasked" in expected
    assert not rows.exists()
    invoke(variant_times.main, "--warm", "0/2")
    text = invoke(variant_times.main)
    assert "unsupported: flash-linear-attention" in text
    found = call_rows.read(rows)
    window = found["sliding_window", "64", "forward_backward", "True"]
    assert window["status"] == "ok"
    assert float(window["device_ms"]) > 0
    assert float(window["exact_over_this"]) > 0
    assert window["exact"] in ("full", "full sdpa")
    assert int(window["simulated_launches"]) > 0
    assert float(found["nystrom", "64", "forward", "False"]["exact_over_this"]) > 0
    # A run that was interrupted goes on with the calls that have no row.
    kept = rows.read_text().splitlines()
    rows.write_text("\n".join(kept[:-1]) + "\n")
    assert len(invoke(variant_times.main, "--resumed").splitlines()) == 2
    assert len(rows.read_text().splitlines()) == len(kept)
    assert invoke(slow_calls.main).count("exact/this") == 2


# --- Calls that fail.


@pytest.fixture
def restarts(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The arguments of the processes that would replace this one."""
    found: list[list[str]] = []
    monkeypatch.setattr(os, "execv", lambda program, words: found.append(words))
    monkeypatch.setattr(sys, "argv", ["check", "--rows", "x", "--resumed"])
    return found


def timed_all(tmp_path: Path, calls: list[PlannedCall]) -> call_rows.Rows:
    file = tmp_path / "variants.csv"
    call_rows.begin(file)
    variant_times.time_all(calls, CPU, file, tmp_path / "simulated.json", 700.0)
    return call_rows.read(file)


@pytest.mark.parametrize("lost", [False, True])
def test_the_process_is_replaced_if_a_failure_has_broken_its_device(
    lost: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, restarts: list[list[str]]
) -> None:
    def fail(self: PlannedCall, device: torch.device) -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("CUDA error")

    monkeypatch.setattr(PlannedCall, "made", fail)
    if lost:
        monkeypatch.setattr(torch, "ones", broken)
    rows = timed_all(tmp_path, [planned_call(32)])
    assert "illegal memory access" in rows[planned_call(32).key]["status"]
    words = ["--rows", "x", "--limit", "700.0", "--resumed"]
    assert [again[3:] for again in restarts] == ([words] if lost else [])


def test_a_call_that_does_not_end_has_a_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, restarts: list[list[str]]
) -> None:
    deadline = time.monotonic() + 30

    def hang(*_: object) -> call_rows.Row:
        while not restarts and time.monotonic() < deadline:
            time.sleep(0.01)
        seen.append((tmp_path / "variants.csv").read_text())
        return {"status": "ok"}

    seen: list[str] = []
    monkeypatch.setattr(variant_times, "timed", hang)
    monkeypatch.setattr(variant_times, "LONGEST", 0.05)
    monkeypatch.setattr(call_rows, "line", str)
    timed_all(tmp_path, [planned_call(32)])
    assert len(restarts) == 1
    (row,) = csv.DictReader(seen[0].splitlines())
    assert (row["variant"], row["status"]) == ("linear", "timeout")


def test_a_fault_of_the_profiler_is_no_failure_of_the_call(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(call: object) -> None:
        raise RuntimeError("CUPTI is busy")

    monkeypatch.setattr(profiled, "kernels_of", broken)
    assert "CUPTI is busy" in variant_times.work(lambda: torch.ones(1))["kernels"]


def on_fake_cuda(monkeypatch: pytest.MonkeyPatch, ms: float) -> list[str]:
    """Calls on a CPU that are treated as calls of a GPU; returns the names of what was done."""
    done: list[str] = []
    made = PlannedCall.made
    monkeypatch.setattr(PlannedCall, "made", lambda self, device: made(self, CPU))
    monkeypatch.setattr(variant_times, "_allocated", lambda device: 1 << 20)
    monkeypatch.setattr(variant_times, "_peak", lambda device: (done.append("peak"), 3 << 20)[1])
    times = {"device_ms": ms, "wall_ms": ms}
    monkeypatch.setattr(variant_times, "_times", lambda call, device: times)
    monkeypatch.setattr(variant_times, "work", lambda call: done.append("work") or {})

    def peak_bytes(call: object, device: torch.device) -> int:
        done.append("call")
        return 5 << 20

    monkeypatch.setattr(variant_times.memory, "peak_bytes", peak_bytes)
    return done


@pytest.mark.parametrize(
    ("ms", "steps", "mib"), [(10.0, ["call", "work"], 5.0), (1500.0, ["peak"], 2.0)]
)
def test_a_long_call_is_not_repeated_for_its_memory_and_profile(
    ms: float, steps: list[str], mib: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = on_fake_cuda(monkeypatch, ms)
    row = variant_times.timed(planned_call(32), torch.device("cuda"), {}, None)
    assert (row["status"], row["peak_mib"], done) == ("ok", mib, steps)
